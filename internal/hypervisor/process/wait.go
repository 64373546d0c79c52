package process

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watched is a process that is not a child, and whose death is waited for.
type watched struct {
	file *os.File // its pidfd; nil where the kernel has none (before 5.3)
	id   procID
}

// watchProcess gives a handle on the process id, or an error where it is dead. The handle cannot come to mean another process.
func watchProcess(id procID) (*watched, error) {
	w := &watched{id: id}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	switch {
	case err == nil:
		w.file = os.NewFile(uintptr(fd), "pidfd")
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
	default:
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	// Only now is it sure that the handle, if it is the right one, stays so.
	if !id.alive() {
		w.close()
		return nil, os.ErrProcessDone
	}
	return w, nil
}

// wait returns when the process has ended, or after close.
func (w *watched) wait(stop <-chan struct{}) {
	if w.file == nil {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for w.id.alive() {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
		return
	}
	conn, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
}

func (w *watched) close() {
	if w.file != nil {
		_ = w.file.Close()
	}
}

// alive tells whether it is still this very process that has the number, and not as a zombie.
func (id procID) alive() bool {
	s, err := readStat(id.PID)
	return err == nil && !s.zombie && s.ticks == id.Ticks
}
