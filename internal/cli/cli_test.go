package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/spf13/cobra"
)

// plane is a server with canned answers that remembers what it was asked.
type plane struct {
	*httptest.Server
	answers map[string]string // by "METHOD path"; a number and a space before the body is its status
	asked   []string
	bodies  []string
}

func newPlane(t *testing.T, answers map[string]string) *plane {
	p := &plane{answers: answers}
	p.Server = httptest.NewTLSServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	key := r.Method + " " + strings.TrimPrefix(r.URL.EscapedPath(), "/v1")
	p.asked = append(p.asked, key)
	p.bodies = append(p.bodies, string(data))
	if r.Header.Get("Authorization") != "Bearer orr_admin_secret" {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"kind":"unauthorized","code":"token_unknown","detail":"the token is not known"}`)
		return
	}
	if r.URL.Query().Has("watch") {
		key = "WATCH " + strings.TrimPrefix(r.URL.EscapedPath(), "/v1")
		w.Header().Set("Content-Type", "text/event-stream")
	}
	body, ok := p.answers[key]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		what := "thing"
		if strings.Contains(key, "/datastores/") {
			what = "datastore"
		}
		fmt.Fprintf(w, `{"kind":"not_found","code":"%s_not_found","detail":"there is no %s here"}`, what, what)
		return
	}
	status, rest, numbered := strings.Cut(body, " ")
	if numbered && len(status) == 3 && status[0] >= '1' && status[0] <= '5' {
		var code int
		_, _ = fmt.Sscan(status, &code)
		w.WriteHeader(code)
		body = rest
	}
	fmt.Fprint(w, body)
	_ = http.NewResponseController(w).Flush()
	if strings.HasPrefix(key, "WATCH") {
		<-r.Context().Done()
	}
}

// home is a person's machine.
type home struct {
	t       *testing.T
	dir     string
	env     map[string]string
	in      string
	started []Program
	exit    error // of started programs
}

func newHome(t *testing.T, p *plane) *home {
	h := &home{t: t, dir: t.TempDir(), env: map[string]string{}}
	if p != nil {
		ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
		if err := SaveContext(h.dir, Context{Server: p.URL, Token: "orr_admin_secret", CA: ca}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *home) root(out, errs io.Writer) *cobra.Command {
	return New(Config{Version: "v1", In: strings.NewReader(h.in), Out: out, Err: errs, ConfigDir: h.dir,
		Getenv: func(k string) string { return h.env[k] }, Now: func() time.Time { return *at(7200) },
		Start: func(_ context.Context, p Program) error {
			h.started = append(h.started, p)
			return h.exit
		}})
}

// run runs one command line.
func (h *home) run(args ...string) (code int, out, errs string) {
	h.t.Helper()
	var o, e bytes.Buffer
	code = Execute(h.t.Context(), h.root(&o, &e), args)
	return code, o.String(), e.String()
}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func watched(states ...*orrery.Job) string {
	s := ""
	for i, j := range states {
		s += fmt.Sprintf("event: put\nid: %d\ndata: %s\n\n", i+1, text(j))
		if i == 0 {
			s += "event: synced\nid: 1\ndata: {}\n\n"
		}
	}
	return s
}

// answers of a plane with the datastore demo.
func answers() map[string]string {
	d, members := demo()
	d.Spec.DeletionProtection = false
	accepted := func(credentials string) string {
		return fmt.Sprintf(`202 {"datastore":%s,"job":%s%s}`, text(d), text(creating()), credentials)
	}
	const store = "/projects/default/datastores/demo"
	const byID = "/projects/default/datastores/ds-0123456789abcdef"
	credentials := `,"credentials":{"username":"app","password":"s3cret"}`
	connection := text(orrery.ConnectionInfo{User: "app", Database: "app", CA: "PEM", Strings: []orrery.ConnectionString{
		{Name: "primary", Text: "postgresql://app:{password}@127.0.0.1:17000/app?sslmode=verify-full&sslrootcert={ca}"}}})
	return map[string]string{
		"GET /status":                       `{"version":"v2","writable":true}`,
		"GET /projects/default/datastores":  `{"items":[` + text(d) + `]}`,
		"POST /projects/default/datastores": accepted(credentials),
		"GET " + store:                      text(d), "GET " + byID: text(d),
		"PATCH " + store: accepted(""), "DELETE " + byID: accepted(""),
		"POST " + store + "/actions/restart": accepted(""),
		"GET " + byID + "/instances":         `{"items":[` + text(members[0]) + `,` + text(members[1]) + `]}`,
		"GET " + byID + "/connection":        connection,
		"POST " + store + "/users":           accepted(`,"credentials":{"username":"report","password":"r3port"}`),
		"DELETE " + store + "/users/report":  accepted(""),
		"GET " + store + "/users":            `{"items":[{"name":"app","access":"admin"}]}`,
		"PATCH " + store + "/parameters":     accepted(""),
		"GET " + store + "/parameters": `{"items":[{"name":"work_mem","type":"integer","unit":"kB","min":"64","max":"2147483647","default":"4096","value":"16MB"},
			{"name":"wal_level","type":"enum","values":["minimal","replica"],"restart":true}]}`,
		"DELETE " + store + "/trusted-sources/10.0.0.0%2F8": accepted(""),
		"GET /jobs":                        `{"items":[` + text(succeeded()) + `]}`,
		"GET /jobs/jo-0123456789abcdef":    text(creating()),
		"WATCH /jobs/jo-0123456789abcdef":  watched(creating(), succeeded()),
		"POST /jobs/jo-2/actions/cancel":   text(creating()),
		"GET /hosts":                       `{"items":[{"name":"rack1","status":{"connected":true,"capacity":{"cpu_milli":2000,"memory_mib":4096,"storage_gib":100}}}]}`,
		"GET /tokens":                      `{"items":[]}`,
		"POST /tokens":                     `201 {"token":{"id":"to-1"},"secret":"orr_x_y"}`,
		"PATCH /hosts/rack1":               `{"name":"rack1","spec":{"cordoned":true},"status":{"connected":true}}`,
		"DELETE /projects/shop":            `409 {"kind":"conflict","code":"project_not_empty","detail":"the project still has datastores"}`,
		"GET /engines":                     `{"items":[{"name":"postgres","title":"PostgreSQL","versions":["15"],"default":"15","replication":["async","sync"]}]}`,
		"GET /projects/gone/datastores/xy": `404 {"kind":"not_found","code":"project_not_found","detail":"there is no project \"gone\""}`,
		"GET /projects":                    `{"items":[{"name":"gene"}]}`,
	}
}

func TestCreate(t *testing.T) {
	p := newPlane(t, answers())
	h := newHome(t, p)
	code, out, errs := h.run("datastore", "create", "demo", "--instances", "2", "--user", "app", "--parameter", "work_mem=16MB")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	const want = `{"name":"demo","spec":{"engine":"postgres","instances":2,"parameters":{"work_mem":"16MB"},"users":[{"access":"admin","name":"app"}]}}`
	if p.bodies[0] != want {
		t.Errorf("sent %s, want %s", p.bodies[0], want)
	}
	for _, want := range []string{"created demo (3.2s)", "s3cret", "postgresql://app:s3cret@127.0.0.1:17000", "orrery datastore connect demo"} {
		if !strings.Contains(out, want) {
			t.Errorf("out has no %q:\n%s", want, out)
		}
	}
	if !strings.Contains(errs, "[4/4] Start the replicas: done in 1.2s") {
		t.Errorf("progress:\n%s", errs)
	}
	file := filepath.Join(h.dir, "credentials", "ds-0123456789abcdef.json")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credentials: %v, %v", info, err)
	}
	code, _, errs = h.run("datastore", "connect", "demo", "-c", "select 1")
	if code != 0 || len(h.started) != 1 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	prog := h.started[0]
	ca := filepath.Join(h.dir, "ca", "ds-0123456789abcdef.pem")
	wantArgs := []string{"postgresql://app@127.0.0.1:17000/app?sslmode=verify-full&sslrootcert=" + ca,
		"--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--command", "select 1"}
	if !slices.Equal(prog.Args, wantArgs) || !slices.Equal(prog.Env, []string{"PGPASSWORD=s3cret"}) {
		t.Errorf("started %q %q", prog.Args, prog.Env)
	}
	h.exit = &programExit{code: 3}
	if code, _, errs = h.run("datastore", "connect", "demo", "--", "--csv"); code != 3 || errs != "" || h.started[1].Args[1] != "--csv" {
		t.Errorf("exit %d: %s; %q", code, errs, h.started[1].Args)
	}
	code, _, errs = h.run("datastore", "delete", "demo", "--yes")
	if _, err := os.Stat(file); code != 0 || !os.IsNotExist(err) {
		t.Errorf("exit %d: %s; the password is still there: %v", code, errs, err)
	}
}

func TestCreateForPrograms(t *testing.T) {
	p := newPlane(t, answers())
	h := newHome(t, p)
	code, out, errs := h.run("datastore", "create", "demo", "-o", "json", "--no-save-password")
	var got struct {
		Job         orrery.Job
		Credentials struct{ Password string }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || got.Job.State != orrery.JobSucceeded || got.Credentials.Password != "s3cret" {
		t.Fatalf("exit %d, %v: %s%s", code, err, out, errs)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "credentials")); !os.IsNotExist(err) {
		t.Errorf("the password was kept: %v", err)
	}
	if code, _, errs := h.run("datastore", "connect", "demo", "-c", "x"); code != ExitFailed || !strings.Contains(errs, "reset-password demo app") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if code, out, _ := h.run("datastore", "create", "demo", "--if-missing"); code != 0 || !strings.Contains(out, "exists already") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestCreateThatFails(t *testing.T) {
	a := answers()
	a["WATCH /jobs/jo-0123456789abcdef"] = watched(creating(), failed())
	h := newHome(t, newPlane(t, a))
	code, out, errs := h.run("datastore", "create", "demo")
	if code != ExitJobFailed || !strings.Contains(errs, "no port is free") || !strings.Contains(errs, "Stop what holds the ports.") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "credentials", "ds-0123456789abcdef.json")); !os.IsNotExist(err) {
		t.Errorf("the password of what is gone was kept: %v", err)
	}
}

func TestDetaching(t *testing.T) {
	a := answers()
	a["WATCH /jobs/jo-0123456789abcdef"] = watched(creating())
	h := newHome(t, newPlane(t, a))
	code, _, errs := h.run("datastore", "restart", "demo", "--timeout", "200ms")
	if code != ExitFailed || !strings.Contains(errs, "orrery job watch jo-0123456789abcdef") {
		t.Errorf("timeout: exit %d: %s", code, errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var out, e bytes.Buffer
	seen := writer(func(b []byte) {
		e.Write(b)
		if bytes.Contains(b, []byte("[3/4]")) {
			cancel()
		}
	})
	code = Execute(ctx, h.root(&out, seen), []string{"datastore", "create", "demo"})
	if code != ExitDetached || !strings.Contains(e.String(), "Detached.") || !strings.Contains(out.String(), "s3cret") {
		t.Errorf("Ctrl-C: exit %d: %s%s", code, out.String(), e.String())
	}
	code, o, _ := h.run("datastore", "restart", "demo", "--no-wait")
	if code != 0 || !strings.Contains(o, "orrery job watch jo-0123456789abcdef") {
		t.Errorf("no wait: exit %d: %s", code, o)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestExitCodesAndHints(t *testing.T) {
	h := newHome(t, newPlane(t, answers()))
	for _, tc := range []struct {
		args string
		code int
		says string // on either output
	}{
		{"datastore list", 0, "demo  degraded  postgres 15  small  1/2    127.0.0.1:17000  2h"},
		{"datastore show demo", 0, "demo-2    replica"},
		{"datastore show dmeo", ExitNotFound, `Did you mean "demo"?`},
		{"datastore show demo extra", ExitUsage, `"extra" is one argument too many`},
		{"datastore show xy --project gone", ExitNotFound, `Did you mean "gene"?`},
		{"datastore scale demo", ExitUsage, "--instances is missing"},
		{"datastore scale demo -n 3", 0, "scaled demo to 3 instances"},
		{"datastore update demo", ExitUsage, "nothing to change"},
		{"datastore update demo --plan large --deletion-protection=false", 0, "updated demo"},
		{"datastore update demo --plann large", ExitUsage, "unknown flag"},
		{"datastore delete demo", ExitUsage, "Say --yes"},
		{"datastore restart demo -o json", 0, `"state": "succeeded"`},
		{"datastore list -o yaml", ExitUsage, "table, wide or json"},
		{"ds ls -o wide", 0, "ds-0123456789abcdef"},
		{"user list demo", 0, "app   admin   all"},
		{"user create demo report", 0, "r3port"},
		{"user delete demo report --yes", 0, "removed user report of demo"},
		{"parameter list demo", 0, "work_mem  16MB   4096     kB    64 to 2147483647  no"},
		{"parameter list demo --all", 0, "wal_level  -      -        -     minimal, replica  yes"},
		{"parameter show demo wal_leve", ExitNotFound, `Did you mean "wal_level"?`},
		{"parameter set demo work_mem", ExitUsage, "name=value"},
		{"parameter set demo work_mem=8MB", 0, "set work_mem=8MB of demo"},
		{"parameter unset demo work_mem", 0, "unset work_mem of demo"},
		{"trusted-source remove demo 10.0.0.0/8 -y", 0, "removed trusted source"},
		{"job list", 0, "jo-0123456789abcdef  datastore.create  demo    succeeded"},
		{"job show jo-0123456789abcdef", 0, "3 Start the primary"},
		{"job watch jo-0123456789abcdef", 0, "succeeded after 3.2s"},
		{"job cancel jo-2", 0, "asked job jo-2 to cancel"},
		{"job retry jo-9", ExitNotFound, "there is no"},
		{"host list", 0, "rack1  connected  -        2    4 GiB   100 GiB"},
		{"host cordon rack1", 0, "cordoned"},
		{"engine list", 0, "PostgreSQL"},
		{"token create ci", 0, "orr_x_y"},
		{"project delete shop --yes", ExitConflict, "still has datastores"},
		{"status", 0, "1 degraded"},
		{"version", 0, "v2"},
		{"datastor list", ExitUsage, `Did you mean "datastore"?`},
		{"datastore destroy", ExitUsage, "there is no command"},
		{"--token wrong_token status", ExitForbidden, "not known"},
		{"--server https://127.0.0.1:1 status", ExitUnavailable, "cannot be reached"},
		{"--server nonsense status", ExitFailed, "https://host:port"},
	} {
		code, out, errs := h.run(strings.Fields(tc.args)...)
		if code != tc.code || !strings.Contains(out+errs, tc.says) {
			t.Errorf("orrery %s: exit %d, want %d and %q; got\n%s%s", tc.args, code, tc.code, tc.says, out, errs)
		}
	}
}

func TestLists(t *testing.T) {
	h := newHome(t, newPlane(t, answers()))
	for _, args := range []string{"datastore list", "user list demo", "job list", "host list", "engine list", "token list"} {
		code, out, errs := h.run(append(strings.Fields(args), "-o", "json")...)
		var items []map[string]any
		if err := json.Unmarshal([]byte(out), &items); err != nil || code != 0 {
			t.Errorf("%s: exit %d, %v: %s%s", args, code, err, out, errs)
		}
	}
}

func TestContexts(t *testing.T) {
	p := newPlane(t, answers())
	h := newHome(t, nil)
	if code, _, errs := h.run("datastore", "list"); code != ExitUnavailable || !strings.Contains(errs, "orrery up") {
		t.Errorf("without a context: exit %d: %s", code, errs)
	}
	ca := filepath.Join(h.dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	h.in = "orr_admin_secret\n"
	if code, _, errs := h.run("login", "--server", p.URL); code != ExitUnavailable || !strings.Contains(errs, "--ca") {
		t.Errorf("without CA: exit %d: %s", code, errs)
	}
	if code, _, errs := h.run("login", "--server", p.URL, "--ca", ca); code != 0 {
		t.Fatalf("login: exit %d: %s", code, errs)
	}
	if info, err := os.Stat(ContextFile(h.dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("context file: %v, %v", info, err)
	}
	if code, out, errs := h.run("datastore", "list"); code != 0 || !strings.Contains(out, "demo") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if _, out, _ := h.run("context"); !strings.Contains(out, "orr_admin_…") || strings.Contains(out, "secret") {
		t.Errorf("context: %s", out)
	}
	// A context's token is never shown to another server.
	h.env["ORRERY_SERVER"], h.env["ORRERY_CA"] = p.URL+"/", ca
	if code, _, _ := h.run("datastore", "list"); code != ExitForbidden {
		t.Errorf("the token went to another address: exit %d", code)
	}
	h.env["ORRERY_TOKEN"] = "orr_admin_secret"
	if code, _, errs := h.run("datastore", "list"); code != 0 {
		t.Errorf("by environment: exit %d: %s", code, errs)
	}
}

func TestValkeyProgram(t *testing.T) {
	p, err := programFor("rediss://app:{password}@10.0.0.1:17001/0?ca={ca}", "/ca.pem", "pw", "set a 'b c'")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"-h", "10.0.0.1", "-p", "17001", "--user", "app", "--tls", "--cacert", "/ca.pem", "-e"}; !slices.Equal(p.Args, want) {
		t.Errorf("args %q", p.Args)
	}
	if in, _ := io.ReadAll(p.Stdin); string(in) != "set a 'b c'\n" || p.Env[0] != "REDISCLI_AUTH=pw" {
		t.Errorf("stdin %q, env %q", in, p.Env)
	}
	if p, _ := programFor("postgresql://a@h/", "/ca", "", ""); len(p.Env) != 0 {
		t.Errorf("env %q", p.Env)
	}
	if _, err := programFor("mongodb://h", "/ca", "", ""); err == nil {
		t.Error("no error")
	}
}

func TestStartProgram(t *testing.T) {
	var out bytes.Buffer
	p := Program{Names: []string{"no-such-program-here", "sh"}, Args: []string{"-c", "echo $GREETING; cat; exit 7"}, Env: []string{"GREETING=hello"},
		Stdin: strings.NewReader("you"), Out: &out, Err: &out}
	if err := startProgram(t.Context(), p); exitCode(err) != 7 || out.String() != "hello\nyou" {
		t.Errorf("%v: %q", err, out.String())
	}
	p.Names = p.Names[:1]
	if err := startProgram(t.Context(), p); exitCode(err) != ExitUnavailable {
		t.Errorf("%v", err)
	}
}

func TestCompletion(t *testing.T) {
	h := newHome(t, newPlane(t, answers()))
	for args, want := range map[string]string{
		"datastore show ":                "demo",
		"datastore connect demo --user ": "app",
		"user delete demo ":              "app",
		"parameter unset demo ":          "work_mem",
		"job watch ":                     "jo-0123456789abcdef",
		"host cordon ":                   "rack1",
		"datastore create x --engine ":   "postgres",
		"datastore list --state ":        "degraded",
		"status -o ":                     "wide",
	} {
		_, out, _ := h.run(append([]string{"__complete"}, strings.Split(args, " ")...)...)
		if !strings.Contains("\n"+out, "\n"+want) {
			t.Errorf("%q: %s", args, out)
		}
	}
	if _, out, _ := newHome(t, nil).run("__complete", "datastore", "show", ""); !strings.HasPrefix(out, ":") {
		t.Errorf("without a plane: %q", out)
	}
}

// Every command has help with examples and completes its arguments to something other than files.
func TestEveryCommandIsHelpful(t *testing.T) {
	root := newHome(t, nil).root(io.Discard, io.Discard)
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		switch {
		case c.Short == "":
			t.Errorf("%s: no line of help", c.CommandPath())
		case c.HasSubCommands():
		case c.Example == "":
			t.Errorf("%s: no example", c.CommandPath())
		case c.ValidArgsFunction == nil && c.Name() != "login":
			t.Errorf("%s: completes to files", c.CommandPath())
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(root)
}

func TestPasswordFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(file, []byte("hunter2\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{file: "hunter2", "-": "from stdin", "": ""} {
		if got, err := readPassword(name, strings.NewReader("from stdin\n")); got != want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := readPassword("-", strings.NewReader("\n")); orrery.KindOf(err) != orrery.KindInvalid {
		t.Errorf("empty: %v", err)
	}
}
