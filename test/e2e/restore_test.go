package e2e

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

// TestSnapshotRestore loses the control plane's whole state, while the databases run on, and brings it back from a
// snapshot and the root key: the plane finds its hosts, keepers and databases again and goes on as if nothing had been.
func TestSnapshotRestore(t *testing.T) {
	ctx := testContext(t, 2*time.Minute)
	w := newWorld(t, 0)
	ds, cr := w.create(ctx, client.NewDatastore{Name: "kept", Spec: orrery.DatastoreSpec{Engine: "postgres", Plan: "nano", Instances: 2}})
	exec(ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password), "create table t as select 42 as n")
	w.knows(ctx, "postgres")
	keepers, _ := w.Keepers()
	postmasters, _ := w.Postmasters()

	safe := t.TempDir()
	snap, key := filepath.Join(safe, "plane.snap"), filepath.Join(safe, "root.key")
	admin := func(args ...string) (string, error) {
		cmd := osexec.CommandContext(ctx, w.Binary, append(append([]string{"admin"}, args...), "--data-dir", w.Dir)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := admin("snapshot", snap); err != nil {
		t.Fatalf("take a snapshot of a running plane: %v: %s", err, out)
	}
	server := filepath.Join(w.Dir, "server")
	b, err := os.ReadFile(filepath.Join(server, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := admin("restore", snap, "--force"); err == nil {
		t.Errorf("a running plane was restored over: %s", out)
	}
	// What comes after the snapshot is lost with the state, and must not disturb what comes back.
	lost, err := w.c.CreateProject(ctx, "lost", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(server); err != nil {
		t.Fatal(err)
	}
	if out, err := admin("restore", snap); err == nil {
		t.Errorf("the state was restored without the key that its secrets are sealed under: %s", out)
	}
	if out, err := admin("restore", snap, "--root-key", key); err != nil {
		t.Fatalf("restore: %v: %s", err, out)
	}
	// The administrator's token is kept as a hash only: its text is lost with the folder.
	if out, err := admin("reset-token"); err != nil {
		t.Fatalf("make a new administrator's token: %v: %s", err, out)
	}
	w.start(ctx)
	if _, err := w.c.Project(ctx, lost.ID); orrery.KindOf(err) != orrery.KindNotFound {
		t.Errorf("a project from after the snapshot: %v", err)
	}
	back := w.until(ctx, ds.ID, "it is whole", func(d *orrery.Datastore) bool { return available(d) && d.Status.ReadyInstances == 2 })
	if back.CreatedAt != ds.CreatedAt || back.Generation != ds.Generation {
		t.Errorf("it came back as another: %+v, was %+v", back.Meta, ds.Meta)
	}
	ch, err := w.c.SetParameters(ctx, "default", "kept", map[string]*string{"work_mem": str("9MB")})
	back = w.done(ctx, ch, err)
	conn := w.must(ctx, back, orrery.EndpointPrimary, cr.Username, cr.Password)
	if got := value[string](ctx, t, conn, "show work_mem"); got != "9MB" {
		t.Errorf("a change after the restore: work_mem is %s", got)
	}
	if n := value[int](ctx, t, conn, "select n from t"); n != 42 {
		t.Errorf("the data: %d", n)
	}
	keepersNow, _ := w.Keepers()
	postmastersNow, _ := w.Postmasters()
	for dir, p := range postmasters {
		if postmastersNow[dir].PID != p.PID || keepersNow[dir].PID != keepers[dir].PID {
			t.Errorf("%s: database %d → %d, keeper %d → %d", dir, p.PID, postmastersNow[dir].PID, keepers[dir].PID, keepersNow[dir].PID)
		}
	}
	if len(postmasters) != 2 {
		t.Errorf("%d databases ran", len(postmasters))
	}
	list := w.instances(ctx, back.ID)
	gone, err := w.c.DeleteDatastore(ctx, "default", "kept")
	w.done(ctx, gone, err)
	w.nothingLeft(list)
}
