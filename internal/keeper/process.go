package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery/internal/engine"
)

// process is a running database. It lives on when the keeper dies.
type process struct {
	pid    int
	handle *os.Process
	since  time.Time
	ended  chan struct{} // closed when it has ended, and was reaped where it is a child
	how    string        // valid after ended; empty where nobody could see how
}

// spawn starts a database in a session of its own, so that no signal of the keeper's terminal or group reaches it, with
// its output in a file, so that the keeper's death costs it nothing. It has the keeper's environment: by that the place
// knows what runs in it.
func spawn(c engine.Command, logPath string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the database's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, append(os.Environ(), c.Env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p := &process{pid: cmd.Process.Pid, handle: cmd.Process, since: time.Now(), ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		p.how = cmd.ProcessState.String()
		close(p.ended)
	}()
	return p, nil
}

// adopt takes on a database that an earlier keeper left running; nil where none does.
func adopt(srv engine.Server) (*process, error) {
	pid, err := srv.FindProcess()
	if err != nil || pid == 0 {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	watch := os.NewFile(uintptr(fd), "pidfd")
	handle, err := os.FindProcess(pid)
	if err != nil {
		return nil, errors.Join(err, watch.Close())
	}
	// Now that both handles are bound to one process, it must still be the one.
	if again, err := srv.FindProcess(); err != nil || again != pid {
		return nil, errors.Join(err, watch.Close())
	}
	p := &process{pid: pid, handle: handle, since: time.Now(), ended: make(chan struct{})}
	raw, err := watch.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, watch.Close())
	}
	go func() {
		defer close(p.ended)
		defer func() { _ = watch.Close() }()
		// The runtime's poller waits: a pidfd becomes readable when its process ends (pidfd_open(2)).
		_ = raw.Read(func(fd uintptr) bool {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
		})
	}()
	return p, nil
}

// stop sends each signal in turn, until the process has ended. Where ctx ends first the process may go on.
func (p *process) stop(ctx context.Context, stages []engine.StopStage) error {
	for _, s := range stages {
		if err := p.handle.Signal(s.Signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("send %s to process %d: %w", s.Signal, p.pid, err)
		}
		timeout := time.NewTimer(s.Wait)
		select {
		case <-p.ended:
			timeout.Stop()
			return nil
		case <-ctx.Done():
			timeout.Stop()
			return ctx.Err()
		case <-timeout.C:
		}
	}
	return fmt.Errorf("process %d does not end", p.pid)
}

const (
	logLimit = 16 << 20
	logKept  = 3
)

// rotate keeps the database's log small. The database holds the file open and appends, so it is copied and cut; what
// it writes between the two is lost.
func rotate(path string) error {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() < logLimit {
		return nil //nolint:nilerr // there is no log before the first start
	}
	for i := logKept - 1; i > 0; i-- {
		if err := os.Rename(fmt.Sprintf("%s.%d", path, i), fmt.Sprintf("%s.%d", path, i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(to, from); err != nil {
		return errors.Join(err, to.Close())
	}
	return errors.Join(to.Close(), os.Truncate(path, 0))
}

// lastWords are the last lines of the database's log that were written after offset, for a person who asks why it died.
func lastWords(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(end-2048, min(offset, end)), io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, 2048))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
