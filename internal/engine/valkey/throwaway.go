package valkey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// throwAway runs a server without data, network or persistence for as long as fn needs it. With parameters it starts
// only if the server takes them, and so is the judge of them.
func (s *server) throwAway(ctx context.Context, parameters map[string]string, fn func(c *redis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := os.MkdirAll(s.path("run"), 0o700); err != nil {
		return err
	}
	socket := s.path("run", "probe.sock")
	settings := map[string]string{
		"port": "0", "unixsocket": socket, "unixsocketperm": "700", "save": "", "appendonly": "no", "dir": s.path("run"),
		"always-show-logo": "no", "logfile": "",
	}
	for name, value := range parameters {
		if _, ours := settings[name]; !ours { // save: a snapshot is only taken after changes, and there are none
			settings[name] = value
		}
	}
	if v, ok := parameters["save"]; ok {
		settings["save"] = v
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, s.program, "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir = bytes.NewReader(confFile(settings)), &output, &output, s.path("run")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	// The kernel sends the death signal when the starting thread ends, so that thread waits (prctl(2)).
	started, ended := make(chan error, 1), make(chan struct{})
	var how error // valid when ended
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			how = cmd.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start a throw-away server: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = os.Remove(socket)
	}()
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket); err == nil {
			_ = conn.Close()
			break
		}
		select {
		case <-ended:
			return startRefused(output.String(), how)
		case <-ctx.Done():
			return fmt.Errorf("wait for a throw-away server: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	c := newClient(socket, "", "")
	return errors.Join(fn(c), c.Close())
}

// startRefused reads from the server's last words which setting it refused. It says, on lines of their own:
// *** FATAL CONFIG FILE ERROR …; Reading the configuration file, at line 7; >>> 'name "value"'; why.
func startRefused(output string, err error) error {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i, line := range lines {
		if setting, ok := strings.CutPrefix(line, ">>> '"); ok && i+1 < len(lines) {
			name, _, _ := strings.Cut(setting, " ")
			return rejected(name, strings.TrimSpace(lines[i+1]))
		}
	}
	return fmt.Errorf("start a throw-away server: %w: %s", err, lines[len(lines)-1])
}

// checkParameters lets the server judge the parameters where they are not those it has already.
func (s *server) checkParameters(ctx context.Context, parameters, had map[string]string) error {
	same := true
	for name, value := range parameters {
		if old, ok := had[name]; !ok || old != value {
			same = false
		}
	}
	if same {
		return nil
	}
	return s.throwAway(ctx, parameters, func(c *redis.Client) error { return c.Ping(ctx).Err() })
}

// defaultOf gives the server's default of a setting.
func (s *server) defaultOf(ctx context.Context, name string) (string, error) {
	s.mu.Lock()
	defaults := s.defaults
	s.mu.Unlock()
	if defaults == nil {
		if err := s.throwAway(ctx, nil, func(c *redis.Client) error {
			var err error
			defaults, err = c.ConfigGet(ctx, "*").Result()
			return err
		}); err != nil {
			return "", err
		}
		defaults = maps.Clone(defaults)
		defaults["save"] = "3600 1 300 100 60 10000" // the throw-away server takes no snapshots
		s.mu.Lock()
		s.defaults = defaults
		s.mu.Unlock()
	}
	return defaults[name], nil
}
