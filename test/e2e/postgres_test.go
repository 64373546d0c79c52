package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

func str(s string) *string { return &s }

// TestPostgresLife walks a datastore from birth to deletion through the API and looks at each turn through SQL.
func TestPostgresLife(t *testing.T) {
	ctx := testContext(t, 5*time.Minute)
	w := newWorld(t, 2)
	ds, cr := w.create(ctx, client.NewDatastore{Name: "shop", Spec: orrery.DatastoreSpec{Engine: "postgres", Plan: "nano",
		Instances: 2, Replication: orrery.ReplicationSync, Parameters: map[string]string{"work_mem": "5MB"}}})
	if !available(ds) || ds.Status.ReadyInstances != 2 || len(ds.Status.Endpoints) != 2 {
		t.Fatalf("created, but: %+v", ds.Status)
	}
	conn := w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password)
	exec(ctx, t, conn, "create table t (n int primary key, s text)")
	exec(ctx, t, conn, "insert into t values (1, 'one')")
	for sql, want := range map[string]string{
		"show work_mem":            "5MB",
		"show data_checksums":      "on",
		"show password_encryption": "scram-sha-256",
		"select ssl::text from pg_stat_ssl where pid=pg_backend_pid()":   "true",
		"select rolsuper::text from pg_roles where rolname=current_user": "false",
	} {
		if got := value[string](ctx, t, conn, sql); got != want {
			t.Errorf("%s gives %q, want %q", sql, got, want)
		}
	}
	if sync := value[string](ctx, t, conn, "show synchronous_standby_names"); !strings.Contains(sync, "ANY") {
		t.Errorf("synchronous_standby_names is %q", sync)
	}

	t.Run("the replica has what was committed and refuses writes", func(t *testing.T) {
		w := w.in(t)
		rep := w.must(ctx, ds, orrery.EndpointReplica, cr.Username, cr.Password)
		eventually(ctx, t, func() bool {
			var s string
			return rep.QueryRow(ctx, "select s from t where n=1").Scan(&s) == nil && s == "one"
		})
		if _, err := rep.Exec(ctx, "insert into t values (2)"); err == nil {
			t.Error("the replica took a write")
		}
	})
	t.Run("a wrong password and plaintext are refused", func(t *testing.T) {
		w := w.in(t)
		if _, err := w.connect(ctx, ds, orrery.EndpointPrimary, cr.Username, "wrong"); err == nil {
			t.Error("a wrong password got in")
		}
		if err := plaintext(ctx, ds, cr); err == nil {
			t.Error("plaintext got in")
		}
	})
	t.Run("users and databases", func(t *testing.T) {
		w := w.in(t)
		made, err := w.c.CreateUser(ctx, "default", "shop", client.NewUser{Name: "reader", Access: orrery.AccessReadOnly})
		ds = w.done(ctx, made, err)
		reader := w.must(ctx, ds, orrery.EndpointPrimary, "reader", made.Credentials.Password)
		if got := value[string](ctx, t, reader, "select s from t"); got != "one" {
			t.Errorf("the reader reads %q", got)
		}
		if _, err := reader.Exec(ctx, "insert into t values (3)"); err == nil {
			t.Error("the reader wrote")
		}
		again, err := w.c.ResetPassword(ctx, "default", "shop", "reader", "")
		ds = w.done(ctx, again, err)
		if _, err := w.connect(ctx, ds, orrery.EndpointPrimary, "reader", made.Credentials.Password); err == nil {
			t.Error("the old password still gets in")
		}
		w.must(ctx, ds, orrery.EndpointPrimary, "reader", again.Credentials.Password)
		db, err := w.c.CreateDatabase(ctx, "default", "shop", orrery.Database{Name: "second"})
		ds = w.done(ctx, db, err)
		second, err := w.dial(ctx, ds.Status.Endpoints[0], cr.Username, cr.Password, "second")
		if err != nil {
			t.Fatalf("connect to the second database: %v", err)
		}
		exec(ctx, t, second, "create table u (n int)")
		second.Close(ctx)
		gone, err := w.c.DeleteDatabase(ctx, "default", "shop", "second")
		ds = w.done(ctx, gone, err)
		out, err := w.c.DeleteUser(ctx, "default", "shop", "reader")
		ds = w.done(ctx, out, err)
		if _, err := w.connect(ctx, ds, orrery.EndpointPrimary, "reader", again.Credentials.Password); err == nil {
			t.Error("a deleted user still gets in")
		}
	})
	t.Run("parameters by reload and by rolling restart", func(t *testing.T) {
		w := w.in(t)
		before, err := w.Postmasters()
		if err != nil {
			t.Fatal(err)
		}
		ch, err := w.c.SetParameters(ctx, "default", "shop", map[string]*string{"work_mem": str("6MB")})
		ds = w.done(ctx, ch, err)
		if got := value[string](ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password), "show work_mem"); got != "6MB" {
			t.Errorf("work_mem is %s", got)
		}
		after, _ := w.Postmasters()
		for dir, p := range before {
			if after[dir].PID != p.PID {
				t.Error("a reload restarted a database")
			}
		}
		ch, err = w.c.SetParameters(ctx, "default", "shop", map[string]*string{"max_connections": str("77")})
		ds = w.done(ctx, ch, err)
		for _, role := range []orrery.EndpointRole{orrery.EndpointPrimary, orrery.EndpointReplica} {
			if got := value[string](ctx, t, w.must(ctx, ds, role, cr.Username, cr.Password), "show max_connections"); got != "77" {
				t.Errorf("max_connections of the %s is %s", role, got)
			}
		}
		// Down again: a standby must not start below its primary.
		ch, err = w.c.SetParameters(ctx, "default", "shop", map[string]*string{"max_connections": str("33")})
		ds = w.done(ctx, ch, err)
		for _, role := range []orrery.EndpointRole{orrery.EndpointPrimary, orrery.EndpointReplica} {
			if got := value[string](ctx, t, w.must(ctx, ds, role, cr.Username, cr.Password), "show max_connections"); got != "33" {
				t.Errorf("max_connections of the %s is %s", role, got)
			}
		}
		for _, bad := range []map[string]*string{{"work_memm": str("1MB")}, {"work_mem": str("-5")}, {"max_connections": str("lots")}, {"listen_addresses": str("*")}} {
			if _, err := w.c.SetParameters(ctx, "default", "shop", bad); orrery.KindOf(err) != orrery.KindInvalid {
				t.Errorf("%v: %v, want it refused as invalid", bad, err)
			}
		}
	})
	t.Run("scale out and in", func(t *testing.T) {
		w := w.in(t)
		ch, err := w.c.UpdateDatastore(ctx, "default", "shop", 0, scale(3))
		ds = w.done(ctx, ch, err)
		if ds.Status.ReadyInstances != 3 || !available(ds) {
			t.Errorf("after scaling out: %+v", ds.Status)
		}
		ch, err = w.c.UpdateDatastore(ctx, "default", "shop", 0, scale(2))
		ds = w.done(ctx, ch, err)
		if n := len(w.instances(ctx, ds.ID)); n != 2 || !available(ds) {
			t.Errorf("after scaling in: %d instances, %+v", n, ds.Status)
		}
		conn := w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password)
		if n := value[int](ctx, t, conn, "select count(*)::int from pg_replication_slots"); n != 1 {
			t.Errorf("%d replication slots with one replica", n)
		}
	})
	t.Run("plan", func(t *testing.T) {
		w := w.in(t)
		plan := "small"
		ch, err := w.c.UpdateDatastore(ctx, "default", "shop", 0, client.DatastorePatch{Spec: &client.SpecPatch{Plan: &plan}})
		was := value[string](ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password), "show shared_buffers")
		ds = w.done(ctx, ch, err)
		if got := value[string](ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password), "show shared_buffers"); got == was {
			t.Errorf("shared_buffers is still %s", got)
		}
	})
	t.Run("restart, pause and resume", func(t *testing.T) {
		w := w.in(t)
		before, _ := w.Postmasters()
		ch, err := w.c.ActOnDatastore(ctx, "default", "shop", "restart")
		ds = w.done(ctx, ch, err)
		after, _ := w.Postmasters()
		for dir, p := range before {
			if after[dir].PID == p.PID {
				t.Errorf("the database of %s was not restarted", dir)
			}
		}
		ch, err = w.c.ActOnDatastore(ctx, "default", "shop", "pause")
		ds = w.done(ctx, ch, err)
		if running, _ := w.Postmasters(); len(running) != 0 || ds.Status.State != orrery.DatastorePaused {
			t.Errorf("paused, but %d databases run and the state is %s", len(running), ds.Status.State)
		}
		ch, err = w.c.ActOnDatastore(ctx, "default", "shop", "resume")
		ds = w.done(ctx, ch, err)
		if got := value[string](ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password), "select s from t where n=1"); got != "one" {
			t.Errorf("after the pause: %q", got)
		}
	})
	t.Run("the plane is killed and comes back: same processes", func(t *testing.T) {
		w := w.in(t)
		keepers, _ := w.Keepers()
		postmasters, _ := w.Postmasters()
		if err := w.Kill(); err != nil {
			t.Fatal(err)
		}
		exec(ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password), "insert into t values (4, 'no plane')")
		w.start(ctx)
		ch, err := w.c.SetParameters(ctx, "default", "shop", map[string]*string{"work_mem": str("7MB")})
		ds = w.done(ctx, ch, err)
		keepersNow, _ := w.Keepers()
		postmastersNow, _ := w.Postmasters()
		for dir, p := range postmasters {
			if postmastersNow[dir].PID != p.PID || keepersNow[dir].PID != keepers[dir].PID {
				t.Errorf("%s: database %d → %d, keeper %d → %d", dir, p.PID, postmastersNow[dir].PID, keepers[dir].PID, keepersNow[dir].PID)
			}
		}
	})
	t.Run("a killed keeper and a killed database come back", func(t *testing.T) {
		w := w.in(t)
		postmasters, _ := w.Postmasters()
		keepers, _ := w.Keepers()
		for dir := range postmasters {
			if err := syscall.Kill(keepers[dir].PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		eventually(ctx, t, func() bool {
			now, _ := w.Keepers()
			for dir := range postmasters {
				if p, ok := now[dir]; !ok || p.PID == keepers[dir].PID {
					return false
				}
			}
			return true
		})
		for _, p := range postmasters {
			if err := syscall.Kill(p.PID, 0); err != nil {
				t.Errorf("database %d died with its keeper: %v", p.PID, err)
			}
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		eventually(ctx, t, func() bool {
			now, _ := w.Postmasters()
			return len(now) == len(postmasters) && now != nil && !samePIDs(now, postmasters)
		})
		ds = w.until(ctx, ds.ID, "it is whole again", func(d *orrery.Datastore) bool { return available(d) && d.Status.ReadyInstances == 2 })
		eventually(ctx, t, func() bool {
			c, err := w.connect(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password)
			if err != nil {
				return false
			}
			defer c.Close(ctx)
			var n int
			return c.QueryRow(ctx, "select count(*) from t").Scan(&n) == nil && n == 2
		})
	})
	t.Run("deletion protection, then deletion", func(t *testing.T) {
		w := w.in(t)
		yes, no := true, false
		ch, err := w.c.UpdateDatastore(ctx, "default", "shop", 0, client.DatastorePatch{Spec: &client.SpecPatch{DeletionProtection: &yes}})
		w.done(ctx, ch, err)
		if _, err := w.c.DeleteDatastore(ctx, "default", "shop"); orrery.KindOf(err) != orrery.KindConflict {
			t.Fatalf("a protected datastore: %v, want a conflict", err)
		}
		ch, err = w.c.UpdateDatastore(ctx, "default", "shop", 0, client.DatastorePatch{Spec: &client.SpecPatch{DeletionProtection: &no}})
		w.done(ctx, ch, err)
		ch, err = w.c.DeleteDatastore(ctx, "default", "shop")
		w.done(ctx, ch, err)
		if _, err := w.c.Datastore(ctx, "default", "shop"); orrery.KindOf(err) != orrery.KindNotFound {
			t.Errorf("after deletion: %v", err)
		}
		if left, _ := w.Postmasters(); len(left) != 0 {
			t.Errorf("databases are left: %v", left)
		}
	})
}

func scale(n int) client.DatastorePatch {
	return client.DatastorePatch{Spec: &client.SpecPatch{Instances: &n}}
}
