package api_test

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery/internal/cli"
)

// The command line against the real API: each verb sends what the API takes, and understands what it answers.
func TestCommandLine(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	p.addCatalogue()
	dir := t.TempDir()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.srv.Certificate().Raw}))
	if err := cli.SaveContext(dir, cli.Context{Server: p.srv.URL, Token: p.token, CA: ca}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args string
		code int
		says string
	}{
		{"status", 0, "Datastores  none"},
		{"version", 0, "test"},
		{"datastore create demo --version 15 --user app --trusted-source 10.0.0.0/8 --no-wait", 0, "password"},
		{"datastore create demo", cli.ExitConflict, "demo"},
		{"datastore create demo --if-missing", 0, "exists already"},
		{"datastore create Bad_Name", cli.ExitFailed, "lower-case"},
		{"datastore create other --engine nosuch", cli.ExitFailed, "engine"},
		{"datastore list", 0, "postgres 15"},
		{"datastore list --state creating --sort -created_at -o wide", 0, "demo"},
		{"datastore show demo", 0, "app (admin)"},
		{"datastore show dmeo", cli.ExitNotFound, `Did you mean "demo"?`},
		{"datastore list --project nosuch", cli.ExitNotFound, "orrery project list"},
		{"user create demo report --access readonly --no-wait", 0, "report"},
		{"user update demo report --access readwrite --no-wait", 0, "asked for"},
		{"user reset-password demo report --no-wait", 0, "password"},
		{"user list demo", 0, "readwrite"},
		{"user delete demo report --yes --no-wait", 0, "asked for"},
		{"database create demo shop --owner app --no-wait", 0, "asked for"},
		{"database list demo", 0, "shop"},
		{"database delete demo shop --yes --no-wait", 0, "asked for"},
		{"trusted-source add demo 192.0.2.0/24 --description office --no-wait", 0, "asked for"},
		{"trusted-source list demo", 0, "office"},
		{"trusted-source remove demo 192.0.2.0/24 --yes --no-wait", 0, "asked for"},
		{"trusted-source add demo banana --no-wait", cli.ExitFailed, "banana"},
		{"parameter set demo work_mem=128 --no-wait", 0, "asked for"},
		{"parameter set demo wrk_mem=128 --no-wait", cli.ExitFailed, "wrk_mem"},
		{"parameter list demo", 0, "work_mem  128"},
		{"parameter show demo max_connections", 0, "1 to 262143"},
		{"parameter unset demo work_mem --no-wait", 0, "asked for"},
		{"datastore scale demo -n 2 --no-wait", 0, "asked for"},
		{"datastore update demo --replication sync --deletion-protection --no-wait", 0, "asked for"},
		{"datastore delete demo --yes", cli.ExitConflict, "protect"},
		{"instance list demo", 0, ""},
		{"job list", 0, "datastore.create"},
		{"job list demo --limit 1 -o json", 0, `"kind"`},
		{"job show jo-0000000000000000", cli.ExitNotFound, "job"},
		{"event list", 0, ""},
		{"event list demo", 0, ""},
		{"host list", 0, "h1"},
		{"host show h1", 0, "postgres 15"},
		{"host cordon h1", 0, "cordoned"},
		{"host uncordon h1", 0, "h1 is"},
		{"host show h2", cli.ExitNotFound, `Did you mean "h1"?`},
		{"engine list", 0, "postgres"},
		{"plan list", 0, "small"},
		{"project create shop --description ours", 0, "created project shop"},
		{"project list", 0, "ours"},
		{"project delete shp --yes", cli.ExitNotFound, `Did you mean "shop"?`},
		{"project delete default --yes", cli.ExitConflict, ""},
		{"project delete shop --yes", 0, "deleted"},
		{"token create ci --role viewer --expires 1h", 0, "orr_"},
		{"token list", 0, "viewer"},
		{"--token orr_wrong status", cli.ExitForbidden, ""},
		{"datastore update demo --deletion-protection=false --no-wait", 0, "asked for"},
		{"datastore delete demo --yes --no-wait", 0, "asked for"},
	} {
		var out bytes.Buffer
		root := cli.New(cli.Config{Version: "test", In: strings.NewReader(""), Out: &out, Err: &out, ConfigDir: dir,
			Getenv: func(string) string { return "" }, Now: time.Now})
		code := cli.Execute(t.Context(), root, strings.Fields(tc.args))
		if code != tc.code || !strings.Contains(out.String(), tc.says) {
			t.Errorf("orrery %s: exit %d, want %d and %q; got\n%s", tc.args, code, tc.code, tc.says, &out)
		}
	}
}
