package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/test/plane"
)

// TestFullDisk fills the disk of the control plane's state while the plane runs: new work is refused before etcd can no
// longer write, what runs goes on, and once there is room again work is taken on again, all without a restart.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("nothing is tested: only root can mount a small disk to be filled")
		return
	}
	ctx := testContext(t, 2*time.Minute)
	w := newWorldOf(t, plane.Options{})
	state := filepath.Join(w.Dir, "server")
	smallDisk(t, w, state)
	w.start(ctx)
	ds, cr := w.create(ctx, pg("before", 1))

	ballast := filepath.Join(state, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(state, &st); err != nil {
		t.Fatal(err)
	}
	// 256 MiB stay: below what the watchdog wants free, above what etcd needs to go on.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-256<<20); err != nil {
		t.Fatalf("fill the disk: %v", err)
	}
	change := func() error {
		_, err := w.c.UpdateDatastore(ctx, "default", "before", 0, client.DatastorePatch{Labels: map[string]*string{"at": str(time.Now().Format("150405"))}})
		return err
	}
	eventually(ctx, t, func() bool {
		e, ok := errors.AsType[*orrery.Error](change())
		return ok && e.Kind == orrery.KindUnavailable && e.Code == "disk_low" && e.Hint != ""
	})
	if _, err := w.c.CreateDatastore(ctx, "default", pg("meanwhile", 1)); orrery.KindOf(err) != orrery.KindUnavailable {
		t.Errorf("a create on a full disk: %v", err)
	}
	w.get(ctx, ds.ID) // reading goes on
	exec(ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password), "create table t (n int)")

	if err := errors.Join(f.Close(), os.Remove(ballast)); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, func() bool { return change() == nil })
	after, _ := w.create(ctx, pg("after", 1))
	if !available(after) {
		t.Errorf("created after there was room again: %+v", after.Status)
	}
	w.remove(ctx, "before")
	w.remove(ctx, "after")
}

// smallDisk mounts a disk of 1 GiB on the folder until the plane is gone.
func smallDisk(t *testing.T, w *world, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1g,mode=700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := w.Kill(); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
}
