package hypervisortest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

const patience = 20 * time.Second

// find gives the place as listed.
func find(t *testing.T, d hypervisor.Driver, id string) (hypervisor.Place, bool) {
	t.Helper()
	list, err := d.List(context.Background())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, p := range list {
		if p.ID == id {
			return p, true
		}
	}
	return hypervisor.Place{}, false
}

// waitPlace waits until the place is as cond wants it, woken by the driver's Changes alone: a change that is not told
// makes the test fail.
func waitPlace(t *testing.T, d hypervisor.Driver, id, what string, cond func(hypervisor.Place) bool) hypervisor.Place {
	t.Helper()
	timeout := time.After(patience)
	for {
		p, ok := find(t, d, id)
		if ok && cond(p) {
			return p
		}
		select {
		case <-d.Changes():
		case <-timeout:
			t.Fatalf("place %s: %s did not come; it is %+v", id, what, p)
		}
	}
}

func running(p hypervisor.Place) bool { return p.State == orrery.PlaceRunning && p.PID > 0 }

// waitFile waits for a file that a command writes; there is no signal for that.
func waitFile(t *testing.T, p hypervisor.Place, name string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		b, err := os.ReadFile(filepath.Join(p.Dir, name))
		if err == nil && strings.HasSuffix(string(b), "\n") {
			return strings.TrimSpace(string(b))
		}
		if time.Now().After(deadline) {
			t.Fatalf("place %s has no %s: %v", p.ID, name, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// starts counts the starts of a sleeper after it has written down at least one.
func starts(t *testing.T, p hypervisor.Place) int {
	t.Helper()
	return len(strings.Fields(waitFile(t, p, "starts")))
}

// alive tells whether a process lives. A zombie does not; its parent may take its time.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z")
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}
