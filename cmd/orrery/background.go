package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readyFD is the file descriptor over which a background plane tells who started it how the start ended: "ready", or
// one line that says what went wrong.
const readyFD = 3

// spawn starts this program again in the background, in a session of its own, with its output in logFile, and waits until
// it says that it is ready.
func spawn(ctx context.Context, logFile string, args ...string) error {
	if err := os.MkdirAll(filepath.Dir(logFile), 0o750); err != nil {
		return fmt.Errorf("make the log folder: %w", err)
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer r.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, args...) //nolint:noctx // the plane outlives the command that starts it
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.Env = append(os.Environ(), "ORRERY_READY_FD="+strconv.Itoa(readyFD))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the plane: %w", err)
	}
	w.Close()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	line, err := bufio.NewReader(r).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case line == "ready":
		return cmd.Process.Release()
	case line != "":
		return errors.New(line)
	case ctx.Err() != nil:
		return fmt.Errorf("wait for the plane to be ready: %w", ctx.Err())
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the plane ended before it was ready; see %s", logFile)
	}
	return fmt.Errorf("wait for the plane to be ready: %w", err)
}

// tellReady tells the starter how the start ended: nil is ready. It does nothing where nobody waits.
func tellReady(err error) {
	fd, convErr := strconv.Atoi(os.Getenv("ORRERY_READY_FD"))
	if convErr != nil {
		return
	}
	_ = os.Unsetenv("ORRERY_READY_FD")
	f := os.NewFile(uintptr(fd), "ready")
	if f == nil {
		return
	}
	defer f.Close()
	line := "ready"
	if err != nil {
		line = strings.ReplaceAll(err.Error(), "\n", " ")
	}
	fmt.Fprintln(f, line)
}

// lock is held by a running plane; the file holds its process ID.
type lock struct{ f *os.File }

// takeLock takes the plane's lock, or tells who holds it.
func takeLock(file string) (*lock, int, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, 0, fmt.Errorf("make the data folder: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, 0, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, 0, fmt.Errorf("take the lock %s: %w", file, err)
		}
		b, _ := io.ReadAll(f)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return nil, pid, nil
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			return nil, 0, fmt.Errorf("write the lock %s: %w", file, err)
		}
	}
	return &lock{f}, 0, nil
}

func (l *lock) release() { l.f.Close() }

// stopPlane asks the plane that holds the lock to end and waits until it has; it is killed after grace.
func stopPlane(ctx context.Context, file string, grace time.Duration) (stopped bool, err error) {
	l, pid, err := takeLock(file)
	if err != nil {
		return false, err
	}
	if l != nil {
		l.release()
		return false, nil
	}
	if pid <= 1 {
		return false, fmt.Errorf("the plane's lock %s does not say which process holds it", file)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return false, fmt.Errorf("stop the plane (process %d): %w", pid, err)
	}
	killed := time.AfterFunc(grace, func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	defer killed.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l, _, err := takeLock(file)
		if err != nil {
			return false, err
		}
		if l != nil {
			l.release()
			return true, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, fmt.Errorf("wait for the plane (process %d) to end: %w", pid, ctx.Err())
		}
	}
}
