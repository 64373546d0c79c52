package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery/internal/hypervisor"
)

// groups1 is cgroup v1: one hierarchy for CPU, one for memory (kernel documentation, admin-guide/cgroup-v1).
type groups1 struct {
	cpu, memory string // this driver's folders in them
	memoryTop   string
}

func openGroups1(mounts []mount, name string) (*groups1, error) {
	g := &groups1{}
	for _, m := range mounts {
		if m.v2 {
			continue
		}
		if slices.Contains(m.options, "cpu") {
			g.cpu = filepath.Join(m.dir, name)
		}
		if slices.Contains(m.options, "memory") {
			g.memory, g.memoryTop = filepath.Join(m.dir, name), m.dir
		}
	}
	if g.cpu == "" || g.memory == "" {
		return nil, errNoControllers
	}
	for _, dir := range g.dirs("") {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if err := unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK); err != nil {
			return nil, fmt.Errorf("%s cannot be written: %w", dir, err)
		}
	}
	return g, nil
}

func (g *groups1) dirs(id string) []string {
	dirs := []string{filepath.Join(g.cpu, id)}
	if g.memory != g.cpu {
		dirs = append(dirs, filepath.Join(g.memory, id))
	}
	return dirs
}

func (g *groups1) describe() string { return "cgroup v1" }

func (g *groups1) set(id string, l hypervisor.Limits) error {
	for _, dir := range g.dirs(id) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	if err := g.setCPU(filepath.Join(g.cpu, id), l); err != nil {
		return fmt.Errorf("limit CPU: %w", err)
	}
	if err := g.setMemory(filepath.Join(g.memory, id), l.MemoryMiB); err != nil {
		return fmt.Errorf("limit memory: %w", err)
	}
	return nil
}

func (g *groups1) setCPU(dir string, l hypervisor.Limits) error {
	if err := writeValue(dir, "cpu.shares", strconv.FormatInt(cpuShares(l), 10)); err != nil {
		return err
	}
	quota := cpuQuota(l.CPUMilli)
	// The burst may never be more than the quota, at no instant of the change.
	if err := writeOptional(dir, "cpu.cfs_burst_us", "0"); err != nil {
		return err
	}
	if quota == 0 {
		return writeValue(dir, "cpu.cfs_quota_us", "-1")
	}
	if err := writeValue(dir, "cpu.cfs_period_us", strconv.FormatInt(cpuPeriod.Microseconds(), 10)); err != nil {
		return err
	}
	text := strconv.FormatInt(quota, 10)
	if err := writeValue(dir, "cpu.cfs_quota_us", text); err != nil {
		return err
	}
	return writeOptional(dir, "cpu.cfs_burst_us", text)
}

// setMemory limits memory, and memory with swap where the kernel counts swap, to the same: a database that swaps is
// worse than one that is refused memory.
func (g *groups1) setMemory(dir string, mib int64) error {
	text := "-1"
	if mib > 0 {
		text = strconv.FormatInt(mib<<20, 10)
	}
	// memsw may never be below limit: lift it first when growing, lower it last when shrinking.
	first, second := "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"
	if err := writeOptional(dir, first, text); err != nil {
		first, second = second, first
		if err := writeValue(dir, first, text); err != nil {
			return err
		}
	}
	return writeOptional(dir, second, text)
}

// spawn puts this thread into the groups, forks, and takes it out again: a child is born where the thread is that
// forks. The thread is locked to this goroutine, and Go makes no other thread from a locked one, so nothing else gets in.
func (g *groups1) spawn(id string, _ *syscall.SysProcAttr, start func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := threadGroups(g)
		if err == nil {
			err = g.enter(g.dirs(id))
		}
		if err == nil {
			err = start()
		}
		if back := g.enter(home); back == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine
		result <- err
	}()
	return <-result
}

func (g *groups1) enter(dirs []string) error {
	tid := strconv.Itoa(unix.Gettid())
	for _, dir := range dirs {
		if err := writeValue(dir, "tasks", tid); err != nil {
			return fmt.Errorf("enter control group: %w", err)
		}
	}
	return nil
}

// threadGroups gives the folders that this thread is in now, in the order of dirs.
func threadGroups(g *groups1) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/cgroup", unix.Gettid()))
	if err != nil {
		return nil, err
	}
	var home []string
	for _, dir := range g.dirs("") {
		top := filepath.Dir(dir)
		controller := "cpu"
		if dir == g.memory {
			controller = "memory"
		}
		for line := range strings.Lines(string(b)) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(f) == 3 && slices.Contains(strings.Split(f[1], ","), controller) {
				home = append(home, filepath.Join(top, f[2]))
			}
		}
	}
	if len(home) != len(g.dirs("")) {
		return nil, errors.New("the thread's control groups are not known")
	}
	return home, nil
}

func (g *groups1) pids(id string) []int {
	var pids []int
	for _, dir := range g.dirs(id) {
		pids = append(pids, readPids(dir)...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func (g *groups1) has(id string, pid int) bool { return slices.Contains(g.pids(id), pid) }

func (g *groups1) kill(id string) {
	for _, pid := range g.pids(id) {
		// A thread of the driver may be inside for an instant.
		if pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func (g *groups1) remove(ctx context.Context, id string) error {
	var errs []error
	for _, dir := range g.dirs(id) {
		errs = append(errs, removeGroup(ctx, dir))
	}
	return errors.Join(errs...)
}

func (g *groups1) close() {
	for _, dir := range g.dirs("") {
		_ = syscall.Rmdir(dir)
	}
}

func (g *groups1) list() []string {
	var ids []string
	for _, dir := range g.dirs("") {
		ids = append(ids, subGroups(dir)...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (g *groups1) memoryMiB() int64 {
	return smallestMiB(g.memory, g.memoryTop, "memory.limit_in_bytes")
}
