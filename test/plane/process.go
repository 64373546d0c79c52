package plane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one process of the plane, which may be started again.
type process struct {
	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan error
}

// start starts the program and waits until it says that it is ready.
func (p *process) start(ctx context.Context, binary string, output io.Writer, args []string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(binary, args...) //nolint:noctx // outlives ctx; end ends it
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), "ORRERY_READY_FD=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if output != nil {
		cmd.Stdout, cmd.Stderr = output, output
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", binary, err)
	}
	w.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	b, err := io.ReadAll(r)
	switch line := strings.TrimSpace(string(b)); {
	case line == "ready":
		return nil
	case line != "":
		return fmt.Errorf("%s did not start: %s", args[0], line)
	case err != nil:
		return fmt.Errorf("wait for %s: %w", args[0], errors.Join(ctx.Err(), err))
	}
	return fmt.Errorf("%s ended before it was ready: %s", args[0], tail(said.String()))
}

// end sends the signal and waits until the process is gone. A process that does not run is no error.
func (p *process) end(sig os.Signal) error {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.cmd = nil
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", cmd.Process.Pid, err)
	}
	select {
	case <-done:
		return nil
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		return fmt.Errorf("process %d did not end within 30 s of being asked to", cmd.Process.Pid)
	}
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}
