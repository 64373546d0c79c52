package keeper

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

func TestDiskProblem(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		total, free, promised, used uint64
		code                        string
	}{
		{100 * gib, 50 * gib, 0, 0, ""},
		{100 * gib, 50 * gib, 10 * gib, 5 * gib, ""},
		{100 * gib, 900 << 20, 0, 0, "disk_low"},
		{100 * gib, 10 << 20, 0, 0, "disk_full"},
		{1 * gib, 40 << 20, 0, 0, "disk_low"},
		{1 * gib, 9 << 20, 0, 0, "disk_full"},
		{100 * gib, 50 * gib, 10 * gib, 95 * gib / 10, "disk_low"},
		{100 * gib, 50 * gib, 10 * gib, 10 * gib, "disk_full"},
	} {
		if got := diskProblem(tt.total, tt.free, tt.promised, tt.used); got.code != tt.code || (got.message == "") != (got.code == "") {
			t.Errorf("%+v: %+v", tt, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, limit: 30 * time.Second}
	for i := range 100 {
		d, most := b.next(), min(100*time.Millisecond<<min(i, 20), 30*time.Second)
		if d < most/2 || d > most+1 {
			t.Fatalf("wait %d is %v, at most %v", i, d, most)
		}
	}
	b.reset()
	if d := b.next(); d > 101*time.Millisecond {
		t.Errorf("after reset %v", d)
	}
}

func TestMailboxCutsWhatHasBecomePointless(t *testing.T) {
	m := newMailbox()
	d := engine.Desired{Role: orrery.RoleReplica, Primary: &engine.Peer{Address: "a", Port: 1}}
	m.put(&wish{Generation: 5, Desired: d})
	ctx, done := m.during(t.Context(), d)
	defer done()
	d.Parameters = map[string]string{"x": "y"}
	m.put(&wish{Generation: 6, Desired: d})
	if ctx.Err() != nil {
		t.Fatal("cut off by a parameter")
	}
	stopped := d
	stopped.Stopped = true
	m.put(&wish{Generation: 4, Desired: stopped})
	if ctx.Err() != nil || m.get().Generation != 6 {
		t.Fatal("an older wish was taken")
	}
	m.put(&wish{Generation: 7, Desired: stopped})
	if ctx.Err() == nil {
		t.Fatal("not cut off by a stop")
	}
	if again, done := m.during(t.Context(), d); again.Err() == nil {
		t.Error("begun for a wish that is no longer the newest")
	} else {
		done()
	}
}

func TestLogIsRotatedAndQuoted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range logKept + 2 {
		if _, err := f.WriteString(strings.Repeat("x", logLimit) + "\nnumber " + string(rune('0'+i)) + "\n"); err != nil {
			t.Fatal(err)
		}
		if err := rotate(path); err != nil {
			t.Fatal(err)
		}
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != logKept+1 {
		t.Errorf("%v", files)
	}
	if words := lastWords(path+".1", 0); !strings.HasSuffix(words, "number 4") {
		t.Errorf("%.80q", words)
	}
	if _, err := f.WriteString("a\nb\nFATAL: c\n"); err != nil {
		t.Fatal(err)
	}
	if words := lastWords(path, 2); words != "b | FATAL: c" {
		t.Errorf("%q", words)
	}
}
