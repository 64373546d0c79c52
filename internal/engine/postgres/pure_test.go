package postgres

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run go test with -update and look at the change. Got:\n%s", path, got)
	}
}

func TestTune(t *testing.T) {
	for _, z := range []size{{250, 256, 1}, {1000, 1024, 10}, {2000, 4096, 50}, {16000, 65536, 1000}, {64000, 524288, 10000}, {0, 0, 0}} {
		var b strings.Builder
		for _, x := range tune(z, 15) {
			fmt.Fprintf(&b, "%s = %s\n", x.name, x.value)
		}
		golden(t, fmt.Sprintf("tune-%dm-%dmib-%dgib.conf", z.cpuMilli, z.memoryMiB, z.storageGiB), b.String())
	}
}

func TestTunedSettingsAreNotManaged(t *testing.T) {
	own := map[string]bool{"max_slot_wal_keep_size": true}
	for _, x := range tune(size{1000, 1024, 10}, 18) {
		if managed(x.name) != "" && !own[x.name] {
			t.Errorf("%s is tuned and managed: a user's value could not win", x.name)
		}
	}
	s := &server{dir: "/d", logDir: "/l", major: 17, driver: New(Config{})}
	for name := range s.ownSettings(engine.Desired{Role: orrery.RoleReplica, Instance: "in-1", Primary: &engine.Peer{Instance: "in-2"}}) {
		if managed(name) == "" && name != "timezone" {
			t.Errorf("%s is Orrery's own and not managed: a user's value would be ignored in silence", name)
		}
	}
}

func TestHBA(t *testing.T) {
	golden(t, "pg_hba.conf", hbaConf(engine.Desired{
		Datastore: "ds-1", TrustedSources: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.7/32")},
	}))
	golden(t, "pg_ident.conf", identConf(engine.Desired{Datastore: "ds-1"}, `we"ird user`))
}

// The example of RFC 7677, section 3: the server key of the verifier has to make the signature that it shows, and the
// stored key has to be the one that the client's proof there leads to.
func TestVerifier(t *testing.T) {
	const auth = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," +
		"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	b64 := base64.StdEncoding
	salt, _ := b64.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	proof, _ := b64.DecodeString("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	got, err := verifier("pencil", salt)
	if err != nil || !verifierRE.MatchString(got) || !strings.HasPrefix(got, "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$") {
		t.Fatalf("verifier = %q, %v", got, err)
	}
	keys := strings.Split(got[strings.LastIndex(got, "$")+1:], ":")
	sign := func(key []byte) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(auth))
		return h.Sum(nil)
	}
	serverKey, _ := b64.DecodeString(keys[1])
	if s := b64.EncodeToString(sign(serverKey)); s != "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("server signature = %s", s)
	}
	storedKey, _ := b64.DecodeString(keys[0])
	for i, x := range sign(storedKey) {
		proof[i] ^= x
	}
	if sum := sha256.Sum256(proof); !bytes.Equal(sum[:], storedKey) {
		t.Error("the client's proof does not lead to the stored key")
	}
	a, _ := (&Driver{}).SecretForm("same")
	b, _ := (&Driver{}).SecretForm("same")
	if a == b {
		t.Error("two verifiers of one password have the same salt")
	}
	for in, want := range map[string]string{
		"plain":         "plain",
		"I\u00adX":      "IX", // RFC 4013, section 3
		"\u00aa":        "a",
		"\u2168":        "IX",
		"a\u00a0b":      "a b",
		"\u0007":        "\u0007", // prohibited: as it is
		"\xff":          "\xff",
		"\u00ad":        "\u00ad", // nothing would be left
		"pässword €uro": "pässword €uro",
	} {
		if got := saslPrep(in); got != want {
			t.Errorf("saslPrep(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCheckSpec(t *testing.T) {
	admin := orrery.User{Name: "admin", Access: orrery.AccessAdmin}
	for _, c := range []struct {
		field, code string
		spec        orrery.DatastoreSpec
	}{
		{"", "", orrery.DatastoreSpec{Users: []orrery.User{admin, {Name: `O'Brien "ünï" 🚀`, Access: orrery.AccessReadOnly}}, Databases: []orrery.Database{{Name: `a"b;--`, Owner: "admin"}}}},
		{"users[1].name", "name_taken", orrery.DatastoreSpec{Users: []orrery.User{admin, admin}}},
		{"users[0].name", "user_name_reserved", orrery.DatastoreSpec{Users: []orrery.User{{Name: "pg_x", Access: orrery.AccessAdmin}}}},
		{"users[0].name", "user_name_reserved", orrery.DatastoreSpec{Users: []orrery.User{{Name: "orrery_admin", Access: orrery.AccessAdmin}}}},
		{"users[0].name", "user_name_reserved", orrery.DatastoreSpec{Users: []orrery.User{{Name: "public", Access: orrery.AccessAdmin}}}},
		{"users[0].name", "invalid", orrery.DatastoreSpec{Users: []orrery.User{{Name: strings.Repeat("ü", 32), Access: orrery.AccessAdmin}}}},
		{"users[0].name", "invalid", orrery.DatastoreSpec{Users: []orrery.User{{Name: "a\u200bb", Access: orrery.AccessAdmin}}}},
		{"users[0].name", "invalid", orrery.DatastoreSpec{Users: []orrery.User{{Name: " a", Access: orrery.AccessAdmin}}}},
		{"users[0].access", "invalid", orrery.DatastoreSpec{Users: []orrery.User{{Name: "a", Access: "root"}}}},
		{"users[0].databases[0]", "database_not_found", orrery.DatastoreSpec{Users: []orrery.User{{Name: "a", Access: "admin", Databases: []string{"x"}}}}},
		{"databases[0].name", "database_name_reserved", orrery.DatastoreSpec{Databases: []orrery.Database{{Name: "template1"}}}},
		{"databases[0].name", "database_name_reserved", orrery.DatastoreSpec{Databases: []orrery.Database{{Name: spare}}}},
		{"databases[1].name", "name_taken", orrery.DatastoreSpec{Databases: []orrery.Database{{Name: "x"}, {Name: "x"}}}},
		{"databases[0].owner", "invalid", orrery.DatastoreSpec{Databases: []orrery.Database{{Name: "x", Owner: "nobody"}}}},
		{"trusted_sources[0].cidr", "invalid", orrery.DatastoreSpec{TrustedSources: []orrery.TrustedSource{{CIDR: "10.0.0.0/33"}}}},
		{"trusted_sources[0].cidr", "invalid", orrery.DatastoreSpec{TrustedSources: []orrery.TrustedSource{{CIDR: "fe80::1%eth0"}}}},
		{"", "", orrery.DatastoreSpec{TrustedSources: []orrery.TrustedSource{{CIDR: "10.0.0.1"}, {CIDR: "::/0"}}}},
	} {
		err := (&Driver{}).CheckSpec(c.spec)
		if c.field == "" {
			if err != nil {
				t.Errorf("%+v: %v", c.spec, err)
			}
			continue
		}
		if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Kind != orrery.KindInvalid || e.Field != c.field || e.Code != c.code {
			t.Errorf("%+v: %#v, want %s of %s", c.spec, err, c.code, c.field)
		}
	}
}

func TestCheckParameter(t *testing.T) {
	buffers := orrery.Parameter{Name: "shared_buffers", Type: orrery.ParameterInt, Unit: "8kB"}
	plan := orrery.Plan{MemoryMiB: 1024}
	for value, ok := range map[string]bool{"512MB": true, "768MB": true, "900MB": false, "1GB": false, "65536": true, "131072": false, "512mb": false, "5 min": true} {
		if err := (&Driver{}).CheckParameter(buffers, value, orrery.DatastoreSpec{}, plan); (err == nil) != ok {
			t.Errorf("shared_buffers = %s: %v", value, err)
		}
	}
	if err := (&Driver{}).CheckParameter(orrery.Parameter{Name: "wal_level"}, "Minimal", orrery.DatastoreSpec{}, plan); err == nil {
		t.Error("wal_level = minimal is taken")
	}
}

func TestConnection(t *testing.T) {
	const user, database = `we ird/"ü@x`, "d b?&"
	endpoints := []orrery.Endpoint{
		{Role: orrery.EndpointPrimary, Address: "192.0.2.1", Port: 17001},
		{Role: orrery.EndpointReplica, Address: "2001:db8::2", Port: 17002},
	}
	var b strings.Builder
	for _, c := range (&Driver{}).Connection(orrery.DatastoreSpec{}, endpoints, user, database) {
		fmt.Fprintf(&b, "%s: %s\n", c.Name, c.Text)
		if c.Name == "jdbc" || c.Name == "cli" {
			continue
		}
		text := strings.NewReplacer("{password}", url.QueryEscape("p@/?"), "&sslrootcert={ca}", "", "verify-full", "require").Replace(c.Text)
		cfg, err := pgx.ParseConfig(text)
		if err != nil || cfg.User != user || cfg.Database != database || cfg.Password != "p@/?" {
			t.Errorf("%s parses to %+v, %v", text, cfg, err)
		}
	}
	golden(t, "connection.txt", b.String())
	if got := (&Driver{}).Connection(orrery.DatastoreSpec{}, nil, "u", "d"); got != nil {
		t.Errorf("without endpoints: %v", got)
	}
}

func TestExplain(t *testing.T) {
	for text, code := range map[string]string{
		`2026-01-01 00:00:00.000 UTC [7] FATAL:  could not write to file "pg_wal/xlogtemp.7": No space left on device`:              "disk_full",
		`2026-01-01 00:00:00.000 UTC [7] LOG:  could not bind IPv4 address "127.0.0.1": Address already in use`:                     "port_taken",
		`2026-01-01 00:00:00.000 UTC [7] LOG:  invalid value for parameter "work_mem": "banana"`:                                    "parameter_rejected",
		`2026-01-01 00:00:00.000 UTC [7] LOG:  5 is outside the valid range for parameter "work_mem" (64 .. 2147483647)`:            "parameter_rejected",
		`2026-01-01 00:00:00.000 UTC [7] FATAL:  could not map anonymous shared memory: Cannot allocate memory`:                     "memory_exhausted",
		`2026-01-01 00:00:00.000 UTC [7] FATAL:  database files are incompatible with server`:                                       "data_incompatible",
		`2026-01-01 00:00:00.000 UTC [7] PANIC:  could not locate a valid checkpoint record`:                                        "data_damaged",
		`2026-01-01 00:00:00.000 UTC [7] FATAL:  could not load server certificate file "x": No such file or directory`:             "certificate_rejected",
		"2026-01-01 00:00:00.000 UTC [7] PANIC:  could not write\n2026-01-01 00:00:00.000 UTC [8] LOG:  starting PostgreSQL 15.1\n": "",
		`2026-01-01 00:00:00.000 UTC [7] app@db 192.0.2.1 FATAL:  could not do what parameter "x" says`:                             "",
	} {
		words := telling(text)
		if code == "" {
			if words != "" {
				t.Errorf("%q tells %q", text, words)
			}
			continue
		}
		if e, ok := errors.AsType[*orrery.Error](explain(words)); !ok || e.Code != code || e.Hint == "" {
			t.Errorf("%q is explained as %#v, want %s", text, e, code)
		}
	}
}

func TestQuorum(t *testing.T) {
	for members, want := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 7: 3} {
		if got := quorum(members); got != want {
			t.Errorf("quorum(%d) = %d, want %d", members, got, want)
		}
	}
	names := syncNames(1, []engine.Peer{{Instance: "in-b"}, {Instance: "in-a"}})
	if names != `ANY 1 ("in-a", "in-b")` || quorumIn(names) != 1 || quorumIn("") != 0 {
		t.Errorf("syncNames = %s", names)
	}
}

func TestDiscoverWithoutAny(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	found, err := New(Config{Dirs: []string{t.TempDir()}}).Discover(context.Background())
	if err != nil || len(found) != 0 {
		t.Errorf("Discover = %v, %v", found, err)
	}
}
