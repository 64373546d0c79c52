// Package e2e tests the whole plane from outside: the binary as a person starts it, its API through the client, and real
// databases through real drivers.
package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/test/plane"
)

// world is a plane under test with what tests ask of it.
type world struct {
	*plane.Plane
	t  *testing.T
	c  *client.Client
	ca *x509.CertPool
}

func binary(t *testing.T) string {
	t.Helper()
	b := os.Getenv("ORRERY_BINARY")
	if b == "" {
		b = filepath.Join("..", "..", "bin", "orrery")
	}
	b, err := filepath.Abs(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b); err != nil {
		t.Fatalf("build the program first (make build): %v", err)
	}
	return b
}

// testContext bounds a test, so that a plane that hangs is shown and its processes are removed.
func testContext(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// newWorld starts a plane and removes it, with all its databases, at the end: what is left then fails the test.
func newWorld(t *testing.T, warm int, flags ...string) *world {
	t.Helper()
	w := newWorldOf(t, plane.Options{Warm: warm, Flags: flags})
	w.start(testContext(t, 30*time.Second))
	return w
}

// newWorldOf prepares a plane without starting it.
func newWorldOf(t *testing.T, o plane.Options) *world {
	t.Helper()
	o.Binary, o.Output = binary(t), logFile(t)
	p, err := plane.New(o)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Plane: p, t: t}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Destroy(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

func logFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp("", "orrery-e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(f.Name())
			t.Logf("the plane said:\n%s", tail(b, 8000))
		}
		f.Close()
		os.Remove(f.Name())
	})
	return f
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func (w *world) start(ctx context.Context) {
	w.t.Helper()
	if err := w.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	c, err := w.Client()
	if err != nil {
		w.t.Fatal(err)
	}
	w.c = c
	pem, err := c.CA(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.ca = x509.NewCertPool()
	if !w.ca.AppendCertsFromPEM([]byte(pem)) {
		w.t.Fatalf("the CA is no PEM certificate: %q", pem)
	}
}

// create makes a datastore and waits until it is whole.
func (w *world) create(ctx context.Context, n client.NewDatastore) (*orrery.Datastore, *client.Credentials) {
	w.t.Helper()
	made, err := w.c.CreateDatastore(ctx, "default", n)
	if err != nil {
		w.t.Fatalf("create %s: %v", n.Name, err)
	}
	w.done(ctx, made, nil)
	return w.get(ctx, made.Datastore.ID), made.Credentials
}

// done waits for a change's job to succeed and gives the datastore as it then is.
func (w *world) done(ctx context.Context, ch *client.Changed, err error) *orrery.Datastore {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	if ch.Job == nil {
		return ch.Datastore
	}
	j, err := w.c.WaitJob(ctx, ch.Job.ID, nil)
	if err != nil {
		w.t.Fatalf("job %s of %s: %v\n%s", ch.Job.Kind, ch.Job.ObjectName, err, steps(j))
	}
	if ch.Job.Kind == "datastore.delete" {
		return nil
	}
	return w.get(ctx, ch.Datastore.ID)
}

func steps(j *orrery.Job) (s string) {
	if j == nil {
		return ""
	}
	for _, st := range j.Steps {
		s += fmt.Sprintf("  %-8s %s\n", st.State, st.Title)
		for _, l := range st.Log {
			s += "           " + l.Message + "\n"
		}
	}
	return s
}

func (w *world) get(ctx context.Context, id string) *orrery.Datastore {
	w.t.Helper()
	ds, err := w.c.Datastore(ctx, "default", id)
	if err != nil {
		w.t.Fatal(err)
	}
	return ds
}

func (w *world) instances(ctx context.Context, id string) []*orrery.Instance {
	w.t.Helper()
	list, err := client.Collect(w.c.Instances(ctx, "default", id, client.ListOptions{}))
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// until waits until the datastore is as cond wants it, following its changes.
func (w *world) until(ctx context.Context, id string, what string, cond func(*orrery.Datastore) bool) *orrery.Datastore {
	w.t.Helper()
	for ch, err := range w.c.WatchDatastore(ctx, "default", id) {
		if err != nil {
			w.t.Fatalf("wait until %s: %v", what, err)
		}
		if ch.Object != nil && cond(ch.Object) {
			return ch.Object
		}
	}
	w.t.Fatalf("wait until %s: the watch ended; now %+v", what, w.get(context.WithoutCancel(ctx), id).Status)
	return nil
}

func available(d *orrery.Datastore) bool { return d.Status.State == orrery.DatastoreAvailable }

// connect opens a verified TLS connection to one endpoint of a PostgreSQL datastore.
func (w *world) connect(ctx context.Context, ds *orrery.Datastore, role orrery.EndpointRole, user, password string) (*pgx.Conn, error) {
	w.t.Helper()
	for _, e := range ds.Status.Endpoints {
		if e.Role == role {
			return w.dial(ctx, e, user, password, ds.Spec.Databases[0].Name)
		}
	}
	return nil, fmt.Errorf("%s has no %s endpoint: %+v", ds.Name, role, ds.Status.Endpoints)
}

func (w *world) dial(ctx context.Context, e orrery.Endpoint, user, password, database string) (*pgx.Conn, error) {
	u := url.URL{Scheme: "postgresql", User: url.UserPassword(user, password),
		Host: net.JoinHostPort(e.Address, strconv.Itoa(e.Port)), Path: "/" + database, RawQuery: "sslmode=require"}
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, err
	}
	cfg.TLSConfig = &tls.Config{RootCAs: w.ca, ServerName: e.Address, MinVersion: tls.VersionTLS13}
	return pgx.ConnectConfig(ctx, cfg)
}

// must is connect where it has to work.
func (w *world) must(ctx context.Context, ds *orrery.Datastore, role orrery.EndpointRole, user, password string) *pgx.Conn {
	w.t.Helper()
	conn, err := w.connect(ctx, ds, role, user, password)
	if err != nil {
		w.t.Fatalf("connect to the %s of %s as %s: %v", role, ds.Name, user, err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func value[T any](ctx context.Context, t *testing.T, c *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := c.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func exec(ctx context.Context, t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// in is the same world for a subtest.
func (w *world) in(t *testing.T) *world {
	t.Helper()
	sub := *w
	sub.t = t
	return &sub
}

// eventually waits for what gives no signal of its own.
func eventually(ctx context.Context, t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it did not come to pass in time")
		}
	}
}

// plaintext tries to connect without TLS.
func plaintext(ctx context.Context, ds *orrery.Datastore, cr *client.Credentials) error {
	e := ds.Status.Endpoints[0]
	u := url.URL{Scheme: "postgresql", User: url.UserPassword(cr.Username, cr.Password),
		Host: net.JoinHostPort(e.Address, strconv.Itoa(e.Port)), Path: "/" + ds.Spec.Databases[0].Name, RawQuery: "sslmode=disable"}
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func samePIDs(a, b map[string]plane.Process) bool {
	for dir, p := range b {
		if a[dir].PID == p.PID {
			return true
		}
	}
	return false
}
