package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/testkit/unpriv"
)

// TestUnprivileged runs a short life of a plane as an ordinary user. Where the tests run as root they run this one once
// more, as the tests' own user.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() == 0 {
		rerun(t)
		return
	}
	ctx := testContext(t, 2*time.Minute)
	w := newWorld(t, 0)
	ds, cr := w.create(ctx, pg("mine", 2))
	conn := w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password)
	exec(ctx, t, conn, "create table t as select 1 as n")
	list := w.instances(ctx, ds.ID)
	for _, in := range list {
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(in.Status.Database.PID), "status"))
		if uid := strconv.Itoa(os.Getuid()); err != nil || !bytes.Contains(status, []byte("\nUid:\t"+uid+"\t"+uid+"\t")) {
			t.Errorf("the database of %s does not run as user %s: %v", in.ID, uid, err)
		}
		if in.Status.Place.Limits == "" {
			t.Errorf("%s does not say whether it is limited", in.ID)
		}
	}
	if err := w.Kill(); err != nil {
		t.Fatal(err)
	}
	w.start(ctx)
	w.until(ctx, ds.ID, "it is whole", func(d *orrery.Datastore) bool { return available(d) && d.Status.ReadyInstances == 2 })
	w.remove(ctx, "mine")
}

// rerun runs this test once more as the tests' own user, with a copy of the program that it may read.
func rerun(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "orrery")
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ORRERY_BINARY", program)
	args := os.Args
	os.Args = []string{args[0], "-test.run=^TestUnprivileged$", "-test.count=1", "-test.timeout=3m"}
	defer func() {
		os.Args = args
		// The orphans of later tests are not to come to this process, which does not wait for them.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	if code := unpriv.Rerun(); code != 0 {
		t.Errorf("the run as %s ended with code %d; its words are above", unpriv.User, code)
	}
}
