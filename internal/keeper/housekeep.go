package keeper

import (
	"fmt"
	"runtime/debug"
	"syscall"

	"github.com/orrery-db/orrery/internal/session"
)

// housekeep sends numbers, watches the disk and keeps the log small.
func (l *loop) housekeep() {
	l.checkDisk()
	if err := rotate(l.k.path.log("database.log")); err != nil {
		l.log.Warn("the database's log cannot be rotated", "error", err)
	}
	if !l.lean && l.ready {
		// What starting took is not needed again. There is one keeper for each database: its memory counts.
		l.lean = true
		debug.FreeOSMemory()
	}
	if o := l.seen.observation; o != nil && l.proc != nil {
		l.session.Stats(session.KeeperStats{LagBytes: o.LagBytes, Position: o.Position, DataBytes: o.DataBytes})
	}
}

// checkDisk looks at the volume, and at the size that was promised where the place does not enforce it.
func (l *loop) checkDisk() {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(l.k.cfg.Dir, &fs); err != nil {
		l.log.Warn("the volume cannot be looked at", "error", err)
		return
	}
	unit := uint64(fs.Bsize)
	var promised, used uint64
	if l.wish != nil {
		promised = uint64(max(l.wish.Desired.StorageGiB, 0)) << 30
	}
	if o := l.seen.observation; o != nil && o.DataBytes > 0 {
		used = uint64(o.DataBytes)
	}
	l.seen.disk = diskProblem(fs.Blocks*unit, fs.Bavail*unit, promised, used)
}

// diskProblem tells of a volume that is nearly full, or data that is nearly as large as it may be. Sizes are bytes; 0
// promised is no limit.
func diskProblem(total, free, promised, used uint64) problem {
	const mib = 1 << 20
	switch {
	case free < min(total/100, 64*mib):
		return problem{"disk_full", fmt.Sprintf("The volume is full: %d MiB of %d MiB are free.", free/mib, total/mib)}
	case promised > 0 && used >= promised:
		return problem{"disk_full", fmt.Sprintf("The data has outgrown its storage: %d MiB of %d MiB.", used/mib, promised/mib)}
	case free < min(total/20, 1024*mib):
		return problem{"disk_low", fmt.Sprintf("The volume is nearly full: %d MiB of %d MiB are free.", free/mib, total/mib)}
	case promised > 0 && used >= promised/10*9:
		return problem{"disk_low", fmt.Sprintf("The data has nearly filled its storage: %d MiB of %d MiB.", used/mib, promised/mib)}
	}
	return problem{}
}
