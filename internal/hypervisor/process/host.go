package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// Host implements hypervisor.Driver: the CPUs that this process may use, the memory of the machine or of the group
// that all places are in, and the size of the file system that holds the root.
func (d *Driver) Host(context.Context) (hypervisor.Host, error) {
	memory, err := totalMemoryMiB()
	if err != nil {
		return hypervisor.Host{}, fmt.Errorf("look at the host's memory: %w", err)
	}
	if limit := d.groups.memoryMiB(); limit > 0 {
		memory = min(memory, limit)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(d.cfg.Root, &fs); err != nil {
		return hypervisor.Host{}, fmt.Errorf("look at the disk of %s: %w", d.cfg.Root, err)
	}
	return hypervisor.Host{
		Capacity: orrery.Capacity{
			CPUMilli:   int64(runtime.NumCPU()) * 1000,
			MemoryMiB:  memory,
			StorageGiB: int64(fs.Blocks) * fs.Bsize >> 30,
		},
		Limits: d.groups.describe(),
	}, nil
}

func totalMemoryMiB() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			var kib int64
			_, err := fmt.Sscanf(rest, "%d kB", &kib)
			return kib >> 10, err
		}
	}
	return 0, errors.Join(errors.New("/proc/meminfo has no MemTotal"), lines.Err())
}
