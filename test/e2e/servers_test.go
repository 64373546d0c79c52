package e2e

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/store/etcd"
	"github.com/orrery-db/orrery/test/plane"
)

// TestServersShare runs two servers on an etcd of their owner, over TLS, and one agent that knows both. Either server
// shows what the other did, and a create that is under way when its server is killed is finished by the other.
func TestServersShare(t *testing.T) {
	ctx := testContext(t, 2*time.Minute)
	flags := outsideEtcd(ctx, t)
	w := newWorldOf(t, plane.Options{Split: true, Flags: append(flags, "--name", "one")})
	other := w.addServer(ctx, append(flags, "--name", "two"))
	w.Servers = []string{other.Session}
	w.start(ctx)
	second := w.clientOf(other)

	made, err := second.CreateDatastore(ctx, "default", client.NewDatastore{Name: "both", Spec: orrery.DatastoreSpec{Engine: "postgres", Plan: "nano", Instances: 1}})
	if err != nil {
		t.Fatalf("create through the second server: %v", err)
	}
	ds := w.done(ctx, made, nil) // waits on the first
	w.must(ctx, ds, orrery.EndpointPrimary, made.Credentials.Username, made.Credentials.Password)

	// Which of the two takes a job is chance: the one that has this one is killed while it works on it.
	next, err := second.CreateDatastore(ctx, "default", client.NewDatastore{Name: "heir", Spec: orrery.DatastoreSpec{Engine: "postgres", Plan: "nano", Instances: 2}})
	if err != nil {
		t.Fatal(err)
	}
	victim, heir := w.Plane, second
	for ch, err := range second.WatchJob(ctx, next.Job.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if ch.Object == nil || ch.Object.Owner == "" || ch.Object.Cursor == 0 {
			continue
		}
		if ch.Object.State.Final() {
			t.Fatal("the create ended before its server could be killed")
		}
		if ch.Object.Owner == "two" {
			victim, heir = other, w.c
		}
		break
	}
	if err := victim.KillServer(); err != nil {
		t.Fatal(err)
	}
	j, err := heir.WaitJob(ctx, next.Job.ID, nil)
	if err != nil {
		t.Fatalf("the create whose server was killed: %v\n%s", err, steps(j))
	}
	ds, err = heir.Datastore(ctx, "default", "heir")
	if err != nil || !available(ds) || ds.Status.ReadyInstances != 2 {
		t.Fatalf("the create whose server was killed: %+v, %v", ds, err)
	}
	conn := w.must(ctx, ds, orrery.EndpointPrimary, next.Credentials.Username, next.Credentials.Password)
	exec(ctx, t, conn, "create table t (n int)")

	// The killed one comes back and works on.
	if err := victim.StartServer(ctx); err != nil {
		t.Fatal(err)
	}
	back := w.clientOf(victim)
	for _, name := range []string{"both", "heir"} {
		ch, err := back.DeleteDatastore(ctx, "default", name)
		if err != nil {
			t.Fatal(err)
		}
		if j, err := back.WaitJob(ctx, ch.Job.ID, nil); err != nil {
			t.Fatalf("delete %s: %v\n%s", name, err, steps(j))
		}
	}
	if running, _ := w.Postmasters(); len(running) != 0 {
		t.Errorf("databases are left: %v", running)
	}
}

// outsideEtcd runs an etcd that wants client certificates, and gives the flags with which a server finds it.
func outsideEtcd(ctx context.Context, t *testing.T) []string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr") // its socket wants a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	files := certificate(t, dir)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := "https://" + l.Addr().String()
	l.Close()
	s, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), Log: slog.New(slog.DiscardHandler), ClientURL: u, ClientTLS: files, ForTests: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return []string{"--etcd-endpoints", u, "--etcd-ca", files.CA, "--etcd-cert", files.Cert, "--etcd-key", files.Key}
}

// certificate makes a CA and one certificate, good for both sides of a connection on this machine.
func certificate(t *testing.T, dir string) *etcd.TLSFiles {
	t.Helper()
	ca, err := pki.NewCA("etcd's owner")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueDatabase("etcd", []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := &etcd.TLSFiles{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for name, b := range map[string][]byte{files.CA: ca.CertPEM(), files.Cert: cert, files.Key: keyPEM} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// addServer starts the first server, and a second one in a folder of its own with the same root key.
func (w *world) addServer(ctx context.Context, flags []string) *plane.Plane {
	w.t.Helper()
	if err := w.StartServer(ctx); err != nil {
		w.t.Fatal(err)
	}
	p, err := plane.New(plane.Options{Binary: w.Binary, Split: true, Flags: flags, Output: w.Output})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			w.t.Error(err)
		}
		os.RemoveAll(p.Dir)
	})
	key, err := os.ReadFile(filepath.Join(w.Dir, "server", "root.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(p.Dir, "server"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Dir, "server", "root.key"), key, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := p.StartServer(ctx); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// clientOf talks to one of several servers with the one administrator's token.
func (w *world) clientOf(p *plane.Plane) *client.Client {
	w.t.Helper()
	have, err := w.Context()
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := client.New(client.Config{Server: "https://" + p.API, Token: have.Token, CA: []byte(have.CAPEM)})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}
