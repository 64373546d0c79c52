package e2e

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

// TestValkeyLife walks a datastore of the second engine from birth to deletion: what it shows of the plane must be as
// with the first.
func TestValkeyLife(t *testing.T) {
	ctx := testContext(t, 2*time.Minute)
	w := newWorld(t, 0)
	ds, cr := w.create(ctx, client.NewDatastore{Name: "cache", Spec: orrery.DatastoreSpec{Engine: "valkey", Plan: "nano", Instances: 2}})
	if !available(ds) || ds.Status.ReadyInstances != 2 || len(ds.Status.Endpoints) != 2 {
		t.Fatalf("created, but: %+v", ds.Status)
	}
	admin := func(t *testing.T, role orrery.EndpointRole) *redis.Client {
		t.Helper()
		return w.in(t).valkey(ds, role, cr.Username, cr.Password)
	}
	primary := admin(t, orrery.EndpointPrimary)
	if err := primary.Set(ctx, "k", "one", 0).Err(); err != nil {
		t.Fatalf("write over TLS: %v", err)
	}
	if got := primary.Get(ctx, "k").Val(); got != "one" {
		t.Fatalf("read over TLS: %q", got)
	}
	if n := memoryLimit(ctx, t, primary); n <= 0 || n >= 256<<20 {
		t.Errorf("the memory limit is %d bytes with a plan of 256 MiB", n)
	}

	t.Run("the replica has what was written and refuses writes", func(t *testing.T) {
		rep := admin(t, orrery.EndpointReplica)
		eventually(ctx, t, func() bool { return rep.Get(ctx, "k").Val() == "one" })
		if err := rep.Set(ctx, "k", "two", 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "READONLY") {
			t.Errorf("a write to the replica: %v, want READONLY", err)
		}
	})
	t.Run("a wrong password, plaintext and another's certificate are refused", func(t *testing.T) {
		w := w.in(t)
		if err := w.valkey(ds, orrery.EndpointPrimary, cr.Username, "wrong").Ping(ctx).Err(); err == nil || !strings.HasPrefix(err.Error(), "WRONGPASS") {
			t.Errorf("a wrong password: %v, want WRONGPASS", err)
		}
		if err := w.valkeyTLS(ds, orrery.EndpointPrimary, cr.Username, cr.Password, nil).Ping(ctx).Err(); err == nil {
			t.Error("plaintext got in")
		}
		strangers := &tls.Config{MinVersion: tls.VersionTLS12} // trusts this machine's CAs only
		if err := w.valkeyTLS(ds, orrery.EndpointPrimary, cr.Username, cr.Password, strangers).Ping(ctx).Err(); err == nil {
			t.Error("the certificate was taken without the datastore's CA")
		}
	})
	t.Run("users", func(t *testing.T) {
		w := w.in(t)
		made, err := w.c.CreateUser(ctx, "default", "cache", client.NewUser{Name: "reader", Access: orrery.AccessReadOnly})
		ds = w.done(ctx, made, err)
		reader := w.valkey(ds, orrery.EndpointPrimary, "reader", made.Credentials.Password)
		if got, err := reader.Get(ctx, "k").Result(); got != "one" {
			t.Errorf("the reader reads %q, %v", got, err)
		}
		if err := reader.Set(ctx, "k", "mine", 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
			t.Errorf("the reader writes: %v, want NOPERM", err)
		}
		if err := admin(t, orrery.EndpointPrimary).ConfigSet(ctx, "maxmemory", "0").Err(); err == nil {
			t.Error("a datastore's administrator lifted the memory limit")
		}
		again, err := w.c.ResetPassword(ctx, "default", "cache", "reader", "")
		ds = w.done(ctx, again, err)
		if err := w.valkey(ds, orrery.EndpointPrimary, "reader", made.Credentials.Password).Ping(ctx).Err(); err == nil {
			t.Error("the old password still gets in")
		}
		for _, role := range []orrery.EndpointRole{orrery.EndpointPrimary, orrery.EndpointReplica} {
			if err := w.valkey(ds, role, "reader", again.Credentials.Password).Ping(ctx).Err(); err != nil {
				t.Errorf("the new password on the %s: %v", role, err)
			}
		}
		out, err := w.c.DeleteUser(ctx, "default", "cache", "reader")
		ds = w.done(ctx, out, err)
		if err := w.valkey(ds, orrery.EndpointPrimary, "reader", again.Credentials.Password).Ping(ctx).Err(); err == nil {
			t.Error("a deleted user still gets in")
		}
	})
	t.Run("parameters without and with a restart", func(t *testing.T) {
		w := w.in(t)
		w.knows(ctx, "valkey")
		before, _ := w.Postmasters()
		ch, err := w.c.SetParameters(ctx, "default", "cache", map[string]*string{"maxmemory-policy": str("allkeys-lru")})
		ds = w.done(ctx, ch, err)
		if got := info(ctx, t, admin(t, orrery.EndpointPrimary), "memory", "maxmemory_policy"); got != "allkeys-lru" {
			t.Errorf("maxmemory-policy is %s", got)
		}
		after, _ := w.Postmasters()
		if n := len(restarted(before, after)); n != 0 || len(before) != 2 {
			t.Errorf("%d of %d databases were restarted for a parameter that needs none", n, len(before))
		}
		ch, err = w.c.SetParameters(ctx, "default", "cache", map[string]*string{"databases": str("40")})
		ds = w.done(ctx, ch, err)
		for _, role := range []orrery.EndpointRole{orrery.EndpointPrimary, orrery.EndpointReplica} {
			if err := admin(t, role).Do(ctx, "select", "39").Err(); err != nil {
				t.Errorf("the %s has no 40 databases: %v", role, err)
			}
		}
		for _, bad := range []map[string]*string{{"maxmemory-polic": str("allkeys-lru")}, {"maxmemory-policy": str("all")}, {"databases": str("0")}, {"requirepass": str("x")}} {
			if _, err := w.c.SetParameters(ctx, "default", "cache", bad); orrery.KindOf(err) != orrery.KindInvalid {
				t.Errorf("%v: %v, want it refused as invalid", bad, err)
			}
		}
	})
	t.Run("scale out and in", func(t *testing.T) {
		w := w.in(t)
		ch, err := w.c.UpdateDatastore(ctx, "default", "cache", 0, scale(3))
		ds = w.done(ctx, ch, err)
		if ds.Status.ReadyInstances != 3 || !available(ds) {
			t.Errorf("after scaling out: %+v", ds.Status)
		}
		for _, e := range ds.Status.Endpoints {
			c := w.valkeyAt(e, cr.Username, cr.Password, &tls.Config{RootCAs: w.ca, ServerName: e.Address, MinVersion: tls.VersionTLS12})
			eventually(ctx, t, func() bool { return c.Get(ctx, "k").Val() == "one" })
		}
		ch, err = w.c.UpdateDatastore(ctx, "default", "cache", 0, scale(2))
		ds = w.done(ctx, ch, err)
		if n := len(w.instances(ctx, ds.ID)); n != 2 || !available(ds) {
			t.Errorf("after scaling in: %d instances, %+v", n, ds.Status)
		}
	})
	t.Run("plan", func(t *testing.T) {
		w := w.in(t)
		was, plan := memoryLimit(ctx, t, admin(t, orrery.EndpointPrimary)), "small"
		ch, err := w.c.UpdateDatastore(ctx, "default", "cache", 0, client.DatastorePatch{Spec: &client.SpecPatch{Plan: &plan}})
		ds = w.done(ctx, ch, err)
		if now := memoryLimit(ctx, t, admin(t, orrery.EndpointPrimary)); now <= was {
			t.Errorf("the memory limit went from %d to %d with a bigger plan", was, now)
		}
	})
	t.Run("restart, pause and resume", func(t *testing.T) {
		w := w.in(t)
		before, _ := w.Postmasters()
		ch, err := w.c.ActOnDatastore(ctx, "default", "cache", "restart")
		ds = w.done(ctx, ch, err)
		after, _ := w.Postmasters()
		if n := len(restarted(before, after)); n != 2 {
			t.Errorf("%d of 2 databases were restarted", n)
		}
		ch, err = w.c.ActOnDatastore(ctx, "default", "cache", "pause")
		ds = w.done(ctx, ch, err)
		if running, _ := w.Postmasters(); len(running) != 0 || ds.Status.State != orrery.DatastorePaused {
			t.Errorf("paused, but %d databases run and the state is %s", len(running), ds.Status.State)
		}
		ch, err = w.c.ActOnDatastore(ctx, "default", "cache", "resume")
		ds = w.done(ctx, ch, err)
		if got, err := admin(t, orrery.EndpointPrimary).Get(ctx, "k").Result(); got != "one" {
			t.Errorf("after the pause: %q, %v", got, err)
		}
	})
	t.Run("killed databases come back with what they had", func(t *testing.T) {
		w := w.in(t)
		c := admin(t, orrery.EndpointPrimary)
		if err := c.Set(ctx, "late", "two", 0).Err(); err != nil {
			t.Fatal(err)
		}
		// The log is synced once a second; a process that dies takes nothing with it that was written to its file.
		before, _ := w.Postmasters()
		for _, p := range before {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		eventually(ctx, t, func() bool {
			after, _ := w.Postmasters()
			return len(restarted(before, after)) == 2
		})
		ds = w.until(ctx, ds.ID, "it is whole again", func(d *orrery.Datastore) bool { return available(d) && d.Status.ReadyInstances == 2 })
		eventually(ctx, t, func() bool { return admin(t, orrery.EndpointPrimary).Get(ctx, "late").Val() == "two" })
		eventually(ctx, t, func() bool { return admin(t, orrery.EndpointReplica).Get(ctx, "late").Val() == "two" })
	})
	t.Run("deletion leaves nothing", func(t *testing.T) {
		w := w.in(t)
		list := w.instances(ctx, ds.ID)
		ch, err := w.c.DeleteDatastore(ctx, "default", "cache")
		w.done(ctx, ch, err)
		w.nothingLeft(list)
	})
}

// valkey opens a verified TLS connection to one endpoint.
func (w *world) valkey(ds *orrery.Datastore, role orrery.EndpointRole, user, password string) *redis.Client {
	w.t.Helper()
	return w.valkeyTLS(ds, role, user, password, &tls.Config{RootCAs: w.ca, MinVersion: tls.VersionTLS12})
}

// valkeyTLS is valkey with TLS as it is given; nil is without.
func (w *world) valkeyTLS(ds *orrery.Datastore, role orrery.EndpointRole, user, password string, conf *tls.Config) *redis.Client {
	w.t.Helper()
	for _, e := range ds.Status.Endpoints {
		if e.Role == role {
			if conf != nil {
				conf.ServerName = e.Address
			}
			return w.valkeyAt(e, user, password, conf)
		}
	}
	w.t.Fatalf("%s has no %s endpoint: %+v", ds.Name, role, ds.Status.Endpoints)
	return nil
}

func (w *world) valkeyAt(e orrery.Endpoint, user, password string, conf *tls.Config) *redis.Client {
	w.t.Helper()
	c := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(e.Address, strconv.Itoa(e.Port)), Username: user, Password: password, TLSConfig: conf,
		Protocol: 2, MaxRetries: -1, PoolSize: 1, ContextTimeoutEnabled: true, DialTimeout: 5 * time.Second,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

// knows waits until the parameters of an engine are known: a prepared place finds them out, at low priority.
func (w *world) knows(ctx context.Context, engine string) {
	w.t.Helper()
	eventually(ctx, w.t, func() bool {
		for e, err := range w.c.Engines(ctx) {
			if err != nil || e.Name != engine {
				continue
			}
			if _, err := client.Collect(w.c.Catalogue(ctx, engine, e.Default)); err == nil {
				return true
			}
		}
		return false
	})
}

// info gives one field of INFO.
func info(ctx context.Context, t *testing.T, c *redis.Client, section, field string) string {
	t.Helper()
	text, err := c.Info(ctx, section).Result()
	if err != nil {
		t.Fatalf("INFO %s: %v", section, err)
	}
	for line := range strings.SplitSeq(text, "\r\n") {
		if name, v, ok := strings.Cut(line, ":"); ok && name == field {
			return v
		}
	}
	t.Fatalf("INFO %s has no %s", section, field)
	return ""
}

func memoryLimit(ctx context.Context, t *testing.T, c *redis.Client) int64 {
	t.Helper()
	n, err := strconv.ParseInt(info(ctx, t, c, "memory", "maxmemory"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
