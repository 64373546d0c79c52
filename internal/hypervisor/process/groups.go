package process

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-db/orrery/internal/hypervisor"
)

// groups are the control groups of places.
type groups interface {
	// describe gives the text of orrery.PlaceStatus.Limits.
	describe() string
	// set makes the place's group where missing, and sets its limits.
	set(id string, l hypervisor.Limits) error
	// spawn calls start so that the process which it starts is born in the group: no instant of its life, and none of
	// its children, is outside.
	spawn(id string, attr *syscall.SysProcAttr, start func() error) error
	pids(id string) []int
	has(id string, pid int) bool
	kill(id string)
	// remove removes an empty group; a missing one is no error.
	remove(ctx context.Context, id string) error
	list() []string
	// close removes what all groups share, where no group is left.
	close()
	// memoryMiB is the memory that all groups together may have; 0 where nothing says so.
	memoryMiB() int64
}

// mount is a mounted control group hierarchy.
type mount struct {
	dir     string
	v2      bool
	options []string
}

func cgroupMounts(path string) ([]mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var mounts []mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || (fields[2] != "cgroup" && fields[2] != "cgroup2") {
			continue
		}
		mounts = append(mounts, mount{dir: fields[1], v2: fields[2] == "cgroup2", options: strings.Split(fields[3], ",")})
	}
	return mounts, lines.Err()
}

// openGroups finds the hierarchy that can limit both CPU and memory.
func openGroups(name string, root bool) groups {
	mounts, err := cgroupMounts("/proc/self/mounts")
	if err != nil || len(mounts) == 0 {
		return noGroups{why: "this machine has no control groups"}
	}
	var why []string
	for _, m := range mounts {
		if !m.v2 {
			continue
		}
		g, err := openGroups2(m.dir, name, root)
		if err == nil {
			return g
		}
		why = append(why, "cgroup v2: "+err.Error())
	}
	g, err := openGroups1(mounts, name)
	if err == nil {
		return g
	}
	if !errors.Is(err, errNoControllers) {
		why = append(why, "cgroup v1: "+err.Error())
	}
	return noGroups{why: strings.Join(why, "; ")}
}

var errNoControllers = errors.New("the CPU and memory controllers are not there")

// noGroups is for machines where nothing can be limited.
type noGroups struct{ why string }

func (g noGroups) describe() string                                               { return "not limited: " + g.why }
func (noGroups) set(string, hypervisor.Limits) error                              { return nil }
func (noGroups) pids(string) []int                                                { return nil }
func (noGroups) has(string, int) bool                                             { return false }
func (noGroups) kill(string)                                                      {}
func (noGroups) remove(context.Context, string) error                             { return nil }
func (noGroups) list() []string                                                   { return nil }
func (noGroups) close()                                                           {}
func (noGroups) memoryMiB() int64                                                 { return 0 }
func (noGroups) spawn(_ string, _ *syscall.SysProcAttr, start func() error) error { return start() }

// The CPU of a place is limited by a quota in each period. What a place leaves of its quota it may use later, up to
// one whole quota, on top: starting a database, or a query after a rest, is a burst.
const (
	cpuPeriod = 100 * time.Millisecond
	minQuota  = int64(1000) // microseconds; the kernel's minimum
)

// cpuQuota gives the quota in microseconds for each period; 0 is no limit.
func cpuQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(minQuota, milli*cpuPeriod.Microseconds()/1000)
}

// cpuShares gives the weight of cgroup v1, where 1024 is usual: a place counts by its size.
func cpuShares(l hypervisor.Limits) int64 {
	switch {
	case l.Background:
		return 2
	case l.CPUMilli == 0:
		return 1024
	}
	return min(max(2, l.CPUMilli*1024/1000), 262144)
}

// cpuWeight gives the weight of cgroup v2, where 100 is usual.
func cpuWeight(l hypervisor.Limits) int64 {
	switch {
	case l.Background:
		return 1
	case l.CPUMilli == 0:
		return 100
	}
	return min(max(1, l.CPUMilli*100/1000), 10000)
}

func writeValue(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0)
}

// writeOptional writes a file that not every kernel has.
func writeOptional(dir, file, value string) error {
	err := writeValue(dir, file, value)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EACCES) {
		return nil // creating a missing file in a cgroup folder is EACCES for root as well
	}
	return err
}

func readPids(dir string) []int {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, s := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(s); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeGroup removes an empty group folder. The kernel needs a moment after the last process.
func removeGroup(ctx context.Context, dir string) error {
	var err error
	for wait := time.Millisecond; wait < 4*time.Second; wait *= 2 {
		// A command may have made groups below its own, where it was allowed to.
		for _, sub := range subGroups(dir) {
			_ = removeGroup(ctx, filepath.Join(dir, sub))
		}
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || !pause(ctx, wait) {
			break
		}
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}

func subGroups(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() })
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// smallestMiB reads a limit of bytes in dir and in the folders above it up to top, and gives the smallest in MiB.
func smallestMiB(dir, top, file string) int64 {
	var smallest int64
	for ; strings.HasPrefix(dir, top); dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && n < 1<<60 && (smallest == 0 || n>>20 < smallest) {
			smallest = n >> 20
		}
	}
	return smallest
}
