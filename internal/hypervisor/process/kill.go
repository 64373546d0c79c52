package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// killAll ends every process of the place: SIGTERM first, SIGKILL after the grace, again and again until none is left.
func (d *Driver) killAll(ctx context.Context, r *record) error {
	pids, err := d.members(r)
	if err != nil {
		return err
	}
	if len(pids) > 0 && d.cfg.StopGrace > 0 {
		if err := d.signalAndWait(ctx, r, pids, unix.SIGTERM, d.cfg.StopGrace); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if pids, err = d.members(r); err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of place %s do not die, the first is %d", len(pids), r.Spec.ID, pids[0])
		}
		d.groups.kill(r.Spec.ID)
		if err := d.signalAndWait(ctx, r, pids, unix.SIGKILL, time.Second); err != nil {
			return err
		}
	}
}

// signalAndWait signals the processes, where they are still the place's, and waits until they have ended, limit at most.
func (d *Driver) signalAndWait(ctx context.Context, r *record, pids []int, sig unix.Signal, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			if !errors.Is(err, unix.ESRCH) {
				_ = unix.Kill(pid, sig)
			}
			continue
		}
		// The handle may be of a newcomer with an old number; look once more before hitting it.
		file := os.NewFile(uintptr(fd), "pidfd")
		defer func() { _ = file.Close() }()
		if d.isMember(r, pid) {
			_ = unix.PidfdSendSignal(fd, sig, nil, 0)
		}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		left := false
		for _, pid := range pids {
			if s, err := readStat(pid); err == nil && !s.zombie && d.isMember(r, pid) {
				left = true
				break
			}
		}
		if !left {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil
			}
			return ctx.Err()
		}
	}
}

// isMember tells whether a process that members gave is still the place's.
func (d *Driver) isMember(r *record, pid int) bool {
	if r.User != "" {
		return r.UID > 0 && hasUID(pid, r.UID) || d.groups.has(r.Spec.ID, pid)
	}
	// Without a user of its own a process belongs by its kin; being the driver's user's is what can be checked here.
	return hasUID(pid, r.UID)
}

// members gives the processes of the place: those in its control group and those of its user. Where places have no
// users of their own, those that were started with the place's mark or work in its folder, and all their descendants
// and sessions (PostgreSQL overwrites its environment, but works in its folder).
func (d *Driver) members(r *record) ([]int, error) {
	all, err := allStats()
	if err != nil {
		return nil, fmt.Errorf("look for processes of place %s: %w", r.Spec.ID, err)
	}
	in := map[int]bool{}
	for _, pid := range d.groups.pids(r.Spec.ID) {
		in[pid] = true
	}
	switch {
	case r.User != "" && r.UID > 0:
		for _, s := range all {
			if hasUID(s.pid, r.UID) {
				in[s.pid] = true
			}
		}
	case r.User == "":
		d.addKin(r, all, in)
	}
	delete(in, os.Getpid())
	var pids []int
	for _, s := range all {
		if in[s.pid] {
			pids = append(pids, s.pid)
		}
	}
	return pids, nil
}

func (d *Driver) addKin(r *record, all []stat, in map[int]bool) {
	self, dir, mark := os.Getpid(), d.dir(r.Spec.ID), markOf(r.Spec.ID)
	sessions := map[int]bool{}
	for _, s := range all {
		if s.pid == self {
			continue
		}
		main := r.Process != nil && r.Process.Boot == d.boot && r.Process.PID == s.pid && r.Process.Ticks == s.ticks
		if main || hasUID(s.pid, r.UID) && (hasEnv(s.pid, mark) || worksIn(s.pid, dir)) {
			in[s.pid] = true
		}
		if in[s.pid] && s.session == s.pid {
			sessions[s.session] = true
		}
	}
	if r.Process != nil && r.Process.Boot == d.boot {
		// The session outlives its leader. A later process with the leader's number cannot be, while the session is.
		if s, err := readStat(r.Process.PID); err != nil || s.ticks == r.Process.Ticks {
			sessions[r.Process.PID] = true
		}
	}
	for more := true; more; {
		more = false
		for _, s := range all {
			if s.pid != self && !in[s.pid] && (in[s.ppid] || sessions[s.session]) && hasUID(s.pid, r.UID) {
				in[s.pid], more = true, true
				if s.session == s.pid {
					sessions[s.session] = true
				}
			}
		}
	}
}

func markOf(id string) string { return "ORRERY_PLACE=" + id }
