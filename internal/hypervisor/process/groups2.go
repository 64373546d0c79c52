package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery/internal/hypervisor"
)

// groups2 is cgroup v2 (kernel documentation, admin-guide/cgroup-v2).
type groups2 struct{ top, base string }

// openGroups2 makes this driver's folder: at the top of the hierarchy for root; else in the highest group above its
// own that has been delegated to its user, which is as far up as it may move processes from.
func openGroups2(top, name string, root bool) (*groups2, error) {
	parent := top
	if !root {
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return nil, err
		}
		if parent, err = delegated(top, string(own)); err != nil {
			return nil, err
		}
	}
	have, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	for _, c := range []string{"cpu", "memory"} {
		if !slices.Contains(strings.Fields(string(have)), c) {
			return nil, errNoControllers
		}
	}
	g := &groups2{top: top, base: filepath.Join(parent, name)}
	if err := writeValue(parent, "cgroup.subtree_control", "+cpu +memory"); err != nil {
		return nil, fmt.Errorf("pass controllers on: %w", err)
	}
	if err := os.Mkdir(g.base, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if err := writeValue(g.base, "cgroup.subtree_control", "+cpu +memory"); err != nil {
		return nil, fmt.Errorf("pass controllers on: %w", err)
	}
	return g, nil
}

// delegated gives the highest group at or above the process's own whose processes the process may move. own is the
// text of /proc/self/cgroup.
func delegated(top, own string) (string, error) {
	_, path, ok := strings.Cut("\n"+own, "\n0::")
	if !ok {
		return "", errNoControllers
	}
	path, _, _ = strings.Cut(path, "\n")
	found := ""
	for dir := filepath.Join(top, path); strings.HasPrefix(dir, top); dir = filepath.Dir(dir) {
		if unix.Access(dir, unix.W_OK) != nil || unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) != nil ||
			unix.Access(filepath.Join(dir, "cgroup.subtree_control"), unix.W_OK) != nil {
			break
		}
		found = dir
	}
	if found == "" {
		return "", errors.New("no control group has been delegated to this user")
	}
	return found, nil
}

func (g *groups2) dir(id string) string { return filepath.Join(g.base, id) }

func (g *groups2) describe() string { return "cgroup v2" }

func (g *groups2) set(id string, l hypervisor.Limits) error {
	dir := g.dir(id)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make control group: %w", err)
	}
	values := [][2]string{{"cpu.max.burst", "0"}, {"cpu.weight", strconv.FormatInt(cpuWeight(l), 10)}}
	if quota := cpuQuota(l.CPUMilli); quota == 0 {
		values = append(values, [2]string{"cpu.max", "max"})
	} else {
		// The burst may never be more than the quota, at no instant of the change.
		values = append(values, [2]string{"cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod.Microseconds())},
			[2]string{"cpu.max.burst", strconv.FormatInt(quota, 10)})
	}
	// No swap for places with a limit: a database that swaps is worse than one that is refused memory.
	memory, swap := "max", "max"
	if l.MemoryMiB > 0 {
		memory, swap = strconv.FormatInt(l.MemoryMiB<<20, 10), "0"
	}
	values = append(values, [2]string{"memory.max", memory}, [2]string{"memory.swap.max", swap})
	for _, v := range values {
		write := writeValue
		if v[0] == "cpu.max.burst" || v[0] == "memory.swap.max" {
			write = writeOptional
		}
		if err := write(dir, v[0], v[1]); err != nil {
			return fmt.Errorf("limit by %s: %w", v[0], err)
		}
	}
	return nil
}

// spawn has the kernel make the process inside the group (CLONE_INTO_CGROUP, Linux 5.7).
func (g *groups2) spawn(id string, attr *syscall.SysProcAttr, start func() error) error {
	dir, err := os.Open(g.dir(id))
	if err != nil {
		return fmt.Errorf("enter control group: %w", err)
	}
	defer func() { _ = dir.Close() }()
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	return start()
}

func (g *groups2) pids(id string) []int {
	pids := readPids(g.dir(id))
	for _, sub := range subGroups(g.dir(id)) {
		pids = append(pids, g.pids(filepath.Join(id, sub))...)
	}
	return pids
}

func (g *groups2) has(id string, pid int) bool { return slices.Contains(g.pids(id), pid) }

// kill uses cgroup.kill (Linux 5.14), which spares nobody that forks meanwhile.
func (g *groups2) kill(id string) { _ = writeOptional(g.dir(id), "cgroup.kill", "1") }

func (g *groups2) remove(ctx context.Context, id string) error { return removeGroup(ctx, g.dir(id)) }

func (g *groups2) close() { _ = syscall.Rmdir(g.base) }

func (g *groups2) list() []string { return subGroups(g.base) }

func (g *groups2) memoryMiB() int64 { return smallestMiB(g.base, g.top, "memory.max") }
