package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/orrery-db/orrery/internal/hypervisor"
)

// TestGroups2Values looks at what is written where a v2 hierarchy has all its files.
func TestGroups2Values(t *testing.T) {
	top := t.TempDir()
	for file, text := range map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "", "cgroup.procs": ""} {
		if err := os.WriteFile(filepath.Join(top, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(top, "orrery-x")
	place := filepath.Join(dir, "pl-1")
	if err := os.MkdirAll(place, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"cpu.max", "cpu.max.burst", "cpu.weight", "memory.max", "memory.swap.max"} {
		if err := os.WriteFile(filepath.Join(place, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := openGroups2(top, "orrery-x", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		limits hypervisor.Limits
		want   map[string]string
	}{
		{
			hypervisor.Limits{CPUMilli: 1500, MemoryMiB: 1024},
			map[string]string{"cpu.max": "150000 100000", "cpu.max.burst": "150000", "cpu.weight": "150", "memory.max": "1073741824", "memory.swap.max": "0"},
		},
		{
			hypervisor.Limits{Background: true},
			map[string]string{"cpu.max": "max", "cpu.max.burst": "0", "cpu.weight": "1", "memory.max": "max", "memory.swap.max": "max"},
		},
	} {
		if err := g.set("pl-1", c.limits); err != nil {
			t.Fatal(err)
		}
		for file, want := range c.want {
			if got, err := os.ReadFile(filepath.Join(place, file)); err != nil || string(got) != want {
				t.Errorf("%+v: %s is %q, should be %q (%v)", c.limits, file, got, want, err)
			}
		}
	}
}

// TestGroups2Kernel uses a real v2 hierarchy, which needs no controllers to hold and to kill processes.
func TestGroups2Kernel(t *testing.T) {
	mounts, err := cgroupMounts("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var top string
	for _, m := range mounts {
		if m.v2 {
			top = m.dir
		}
	}
	if top == "" || os.Getuid() != 0 {
		return // nothing of the kind, or not allowed
	}
	base, err := os.MkdirTemp(top, "orrery-test-")
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	g := &groups2{top: top, base: base}
	defer func() { _ = removeGroup(t.Context(), base) }()
	if err := os.Mkdir(g.dir("pl-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The child and its own child are both born inside.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "sleep 3600 & echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if err := g.spawn("pl-1", cmd.SysProcAttr, cmd.Start); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if pids := g.pids("pl-1"); len(pids) != 2 || !g.has("pl-1", cmd.Process.Pid) {
		t.Errorf("in the group: %v", pids)
	}
	g.kill("pl-1")
	_ = cmd.Wait()
	if err := g.remove(t.Context(), "pl-1"); err != nil {
		t.Error(err)
	}
	if err := g.remove(t.Context(), "pl-1"); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	if left := g.list(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDelegatedGroup(t *testing.T) {
	if os.Getuid() == 0 {
		return // may write everywhere
	}
	top := t.TempDir()
	path := filepath.Join(top, "user.slice", "user@1.service", "app.slice", "x.service")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	for dir := path; dir != filepath.Join(top, "user.slice"); dir = filepath.Dir(dir) {
		for _, file := range []string{"cgroup.procs", "cgroup.subtree_control"} {
			if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	own := "4:memory:/elsewhere\n0::" + strings.TrimPrefix(path, top) + "\n"
	if got, err := delegated(top, own); err != nil || got != filepath.Join(top, "user.slice", "user@1.service") {
		t.Errorf("got %s, %v", got, err)
	}
	if got, err := delegated(top, "0::/user.slice\n"); err == nil {
		t.Errorf("got %s where nothing is delegated", got)
	}
}
