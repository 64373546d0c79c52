package postgres_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/engine/enginetest"
)

var extra = []enginetest.Extra{
	{Name: "ForeignObjects", Test: foreignObjects},
	{Name: "WeirdNames", Test: weirdNames},
	{Name: "Privileges", Test: privileges},
	{Name: "MembersOnly", Test: membersOnly},
	{Name: "RejectedAtStart", Test: rejectedAtStart},
	{Name: "RejectedAtReload", Test: rejectedAtReload},
	{Name: "Lineage", Test: lineage},
	{Name: "Leftovers", Test: leftovers},
	{Name: "Slots", Test: slots},
	{Name: "SyncWaits", Test: syncWaits},
}

func login(t *testing.T, in *enginetest.Instance, change func(*enginetest.Login)) *pgx.Conn {
	t.Helper()
	l := in.Login()
	if change != nil {
		change(&l)
	}
	c, err := connect(t.Context(), l)
	if err != nil {
		t.Fatalf("log in as %s: %v", l.User, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(client).c
}

// local is the superuser's way in.
func local(t *testing.T, in *enginetest.Instance) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), "host="+filepath.Join(in.Folder(), "run")+" port="+strconv.Itoa(in.Desired().Port)+" user=orrery dbname=postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func mustExec(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func ask[T any](t *testing.T, c *pgx.Conn, sql string) T {
	t.Helper()
	var v T
	if err := c.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

func prepared(t *testing.T, in *enginetest.Instance) {
	t.Helper()
	if err := in.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What people made by SQL is never changed or dropped, and stands in the way of the same name.
func foreignObjects(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	in.Up(t)
	c := local(t, in)
	mustExec(t, c, "CREATE ROLE handmade LOGIN PASSWORD 'x'")
	mustExec(t, c, "CREATE DATABASE handmade OWNER handmade")
	mustExec(t, c, `CREATE DATABASE "renamed soon"`)
	in.Converge(t)
	d := in.Desired()
	d.Users = append(d.Users, in.User(t, engine.DesiredUser{User: orrery.User{Name: "handmade", Access: orrery.AccessReadOnly}}, "y"),
		in.User(t, engine.DesiredUser{User: orrery.User{Name: "other", Access: orrery.AccessReadOnly}}, "y"))
	d.Databases = append(d.Databases, orrery.Database{Name: "handmade"}, orrery.Database{Name: "ours"})
	if _, err := in.Configure(t.Context(), *d); err != nil {
		t.Fatal(err)
	}
	wantCode(t, in.Apply(t.Context(), *d), "name_taken")
	if n := ask[int](t, c, `SELECT count(*) FROM pg_roles WHERE rolname = 'other'`); n != 1 {
		t.Error("one name that is taken keeps the other users from being made")
	}
	mustExec(t, c, "ALTER DATABASE ours RENAME TO theirs")
	d.Users, d.Databases = d.Users[:1], d.Databases[:1]
	in.Converge(t)
	if n := ask[int](t, c, `SELECT count(*) FROM pg_database WHERE datname IN ('handmade', 'theirs', 'renamed soon')`); n != 3 {
		t.Errorf("%d of 3 databases that are people's are left", n)
	}
	if n := ask[int](t, c, `SELECT count(*) FROM pg_roles WHERE rolname IN ('handmade', 'other')`); n != 1 {
		t.Errorf("%d roles, want the handmade one", n)
	}
}

func weirdNames(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	names := []string{`a"b`, `c'd`, `e\f`, "g h;--", "üñï 🚀", "$1", "%s", "{password}", "Admin", "select"}
	d := in.Desired()
	for _, name := range names {
		d.Users = append(d.Users, in.User(t, engine.DesiredUser{User: orrery.User{Name: name, Access: orrery.AccessAdmin}}, "pw "+name))
		d.Databases = append(d.Databases, orrery.Database{Name: name, Owner: name})
	}
	spec := orrery.DatastoreSpec{Databases: d.Databases}
	for _, u := range d.Users {
		spec.Users = append(spec.Users, u.User)
	}
	in.Up(t)
	in.Converge(t)
	for _, name := range names {
		c := login(t, in, func(l *enginetest.Login) { l.User, l.Password, l.Database = name, "pw "+name, name })
		mustExec(t, c, "CREATE TABLE t (i int)")
	}
	d.Users, d.Databases = d.Users[:1], d.Databases[:1]
	in.Converge(t)
	if n := ask[int](t, local(t, in), `SELECT (SELECT count(*) FROM pg_database) + (SELECT count(*) FROM pg_roles WHERE rolname !~ '^pg_')`); n != 4+6 {
		t.Errorf("%d databases and roles are left", n)
	}
}

// An admin is no superuser, and may reach neither files nor programs of the host.
func privileges(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	in.Up(t)
	c := login(t, in, nil)
	for _, sql := range []string{
		"COPY (SELECT 1) TO PROGRAM 'true'", "SELECT pg_read_file('postgresql.auto.conf')", "ALTER SYSTEM SET work_mem = '1MB'",
		"CREATE ROLE x SUPERUSER", "GRANT pg_execute_server_program TO admin", "SET ROLE orrery", "ALTER ROLE orrery PASSWORD 'x'", "ALTER ROLE admin REPLICATION",
		"SELECT * FROM orrery.object", "SELECT rolpassword FROM pg_authid", "LOAD 'auto_explain'", "DROP ROLE orrery_replication", "GRANT orrery TO admin",
	} {
		if _, err := c.Exec(t.Context(), sql); err == nil {
			t.Errorf("an admin may: %s", sql)
		}
	}
	for _, sql := range []string{
		"CREATE DATABASE mine", "CREATE EXTENSION pgcrypto", "CREATE SCHEMA s", "CREATE TABLE s.t (id serial, v text)",
		"SELECT count(*) FROM pg_stat_statements", "SELECT count(*) FROM pg_stat_activity",
	} {
		mustExec(t, c, sql)
	}
	for _, database := range []string{"postgres", "template1"} {
		l := in.Login()
		l.Database = database
		if _, err := connect(t.Context(), l); err == nil {
			t.Errorf("an admin may connect to %s", database)
		}
	}
	// New schemas and tables are open to the others at once.
	d := in.Desired()
	d.Users = append(d.Users, in.User(t, engine.DesiredUser{User: orrery.User{Name: "rw", Access: orrery.AccessReadWrite}}, "p"),
		in.User(t, engine.DesiredUser{User: orrery.User{Name: "ro", Access: orrery.AccessReadOnly}}, "p"))
	in.Converge(t)
	rw := login(t, in, func(l *enginetest.Login) { l.User, l.Password = "rw", "p" })
	ro := login(t, in, func(l *enginetest.Login) { l.User, l.Password = "ro", "p" })
	mustExec(t, rw, "INSERT INTO s.t (v) VALUES ('x')") // the sequence as well
	if n := ask[int](t, ro, "SELECT count(*) FROM s.t"); n != 1 {
		t.Errorf("readonly sees %d rows", n)
	}
	for _, sql := range []string{"DELETE FROM s.t", "CREATE TABLE public.x ()", "CREATE TABLE s.x ()", "SELECT nextval('s.t_id_seq')", "DROP TABLE s.t"} {
		if _, err := ro.Exec(t.Context(), sql); err == nil {
			t.Errorf("readonly may: %s", sql)
		}
	}
	if _, err := rw.Exec(t.Context(), "CREATE TABLE public.x ()"); err == nil {
		t.Error("readwrite may make tables")
	}
}

// The replication role takes a certificate with the datastore's own name, and nothing else.
func membersOnly(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	in.Up(t)
	d := in.Desired()
	attempt := func(files *engine.TLSFiles, user, replication string) error {
		cfg, err := pgx.ParseConfig("sslmode=disable host=127.0.0.1 user=x password=x port=" + strconv.Itoa(d.Port))
		if err != nil {
			return err
		}
		cfg.User, cfg.Database = user, d.Databases[0].Name
		if replication != "" {
			cfg.RuntimeParams["replication"] = replication
		}
		pem, err := os.ReadFile(d.TLS.CA)
		if err != nil {
			return err
		}
		cfg.TLSConfig = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
		cfg.TLSConfig.RootCAs.AppendCertsFromPEM(pem)
		if files != nil {
			cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
			if err != nil {
				return err
			}
			cfg.TLSConfig.Certificates = []tls.Certificate{cert}
		}
		c, err := pgx.ConnectConfig(t.Context(), cfg)
		if err == nil {
			_ = c.Close(context.Background())
		}
		return err
	}
	member := in.OtherCA(t, d.Datastore, false)
	if err := attempt(&member, "orrery_replication", "true"); err != nil {
		t.Errorf("a member is refused: %v", err)
	}
	other, foreign := in.OtherCA(t, "ds-1111111111111111", false), in.OtherCA(t, d.Datastore, true)
	for what, err := range map[string]error{
		"another datastore's member": attempt(&other, "orrery_replication", "true"), "a member of another CA": attempt(&foreign, "orrery_replication", "true"),
		"nobody": attempt(nil, "orrery_replication", "true"), "a member in a database": attempt(&member, "orrery_replication", ""),
		"a member for logical replication": attempt(&member, "orrery_replication", "database"),
		"a member as the superuser":        attempt(&member, "orrery", ""), "a member as a user": attempt(&member, "admin", ""),
		"the superuser by replication": attempt(&member, "orrery", "true"),
	} {
		if err == nil {
			t.Errorf("%s was let in", what)
		}
	}
}

func rejectedAtStart(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	d := in.Desired()
	for name, value := range map[string]string{"shared_buffers": "1000000GB", "work_mem": "banana", "no_such_thing": "1", "max_connections": "-5"} {
		d.Parameters = map[string]string{name: value}
		in.Start(t)
		enginetest.Eventually(t, "the refusal is told", func() error {
			err := in.Ready(t.Context())
			if e, ok := errors.AsType[*orrery.Error](err); ok && e.Code == "parameter_rejected" && strings.Contains(e.Message, name) {
				return nil
			}
			return err
		})
		in.Kill()
	}
	d.Parameters = nil
	in.Up(t)
}

func rejectedAtReload(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	in.Up(t)
	d := in.Desired()
	d.Parameters = map[string]string{"work_mem": "banana"}
	if _, err := in.Configure(t.Context(), *d); err != nil {
		t.Fatal(err)
	}
	err := in.Reload(t.Context())
	wantCode(t, err, "parameter_rejected")
	if e, ok := errors.AsType[*orrery.Error](err); ok && e.Field != "spec.parameters.work_mem" {
		t.Errorf("the refusal blames %q", e.Field)
	}
	d.Parameters = map[string]string{"port": "1"}
	_, err = in.Configure(t.Context(), *d)
	wantCode(t, err, "parameter_managed")
	d.Parameters = nil
	in.Converge(t)
}

func lineage(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	d := *in.Desired()
	d.Role, d.SystemID = orrery.RoleReplica, "7000000000000000000"
	_, err := in.Configure(t.Context(), d)
	wantCode(t, err, "data_incompatible")
	if err := os.WriteFile(filepath.Join(in.Folder(), "data", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = in.Prepared()
	wantCode(t, err, "data_incompatible")
}

// A child that hangs outlives its postmaster and keeps the shared memory; a new server starts all the same.
func leftovers(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	in.Up(t)
	c := local(t, in)
	checkpointer := ask[int](t, c, `SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'`)
	if err := syscall.Kill(checkpointer, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(in.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	enginetest.Eventually(t, "the postmaster is gone", func() error {
		if pid, err := in.FindProcess(); pid != 0 || err != nil {
			return errors.New("found")
		}
		return nil
	})
	in.Up(t)
	if err := syscall.Kill(checkpointer, 0); err == nil {
		state, _ := os.ReadFile("/proc/" + strconv.Itoa(checkpointer) + "/stat")
		if !strings.Contains(string(state), ") Z ") {
			t.Errorf("the leftover still lives: %s", state)
		}
	}
	// A pid file that names somebody else's process.
	in.Kill()
	pidFile := filepath.Join(in.Folder(), "data", "postmaster.pid")
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getppid())+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid, err := in.FindProcess(); pid != 0 || err != nil {
		t.Errorf("FindProcess believes a stale file: %d, %v", pid, err)
	}
}

func slots(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	d := in.Desired()
	d.Peers = []engine.Peer{{Instance: "in-2000000000000000", Role: orrery.RoleReplica, Address: "127.0.0.1", Port: 1}, {Instance: "in-3000000000000000", Role: orrery.RoleReplica, Address: "127.0.0.1", Port: 1}}
	in.Up(t)
	c := local(t, in)
	mustExec(t, c, "SELECT pg_create_physical_replication_slot('somebodys_own')")
	list := func() string {
		return ask[string](t, c, `SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots`)
	}
	if got := list(); got != "in_2000000000000000 in_3000000000000000 somebodys_own" {
		t.Errorf("slots: %s", got)
	}
	d.Peers = d.Peers[1:]
	in.Converge(t)
	in.Converge(t)
	if got := list(); got != "in_3000000000000000 somebodys_own" {
		t.Errorf("slots after a member has gone: %s", got)
	}
}

// A primary that was told to be synchronous does not wait before its replicas are there; see DESIGN.md. Once its quorum
// is on, it stays on.
func syncWaits(t *testing.T, in *enginetest.Instance) {
	prepared(t, in)
	d := in.Desired()
	d.Replication = orrery.ReplicationSync
	d.Peers = []engine.Peer{{Instance: "in-2000000000000000", Role: orrery.RoleReplica, Address: "127.0.0.1", Port: 1}}
	in.Up(t)
	names := func() string {
		v, err := client{login(t, in, nil)}.Setting(t.Context(), "synchronous_standby_names")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if got := names(); got != "" {
		t.Errorf("before a replica streams: %s", got)
	}
	replica := *d
	replica.Role, replica.Primary = orrery.RoleReplica, &d.Peers[0]
	if _, err := in.Configure(t.Context(), replica); err != nil { // what a replica has at hand for its promotion
		t.Fatal(err)
	}
	in.Converge(t)
	if got := names(); got != `ANY 1 ("in-2000000000000000")` {
		t.Errorf("of a promoted replica: %s", got)
	}
	d.Replication = orrery.ReplicationAsync
	in.Converge(t)
	if got := names(); got != "" {
		t.Errorf("in asynchronous mode: %s", got)
	}
}
