package enginetest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// member is one server with all that a keeper does for it.
type member struct {
	engine.Server
	s   *suite
	dir string
	d   engine.Desired
	cmd *exec.Cmd
	// ended is closed when cmd has ended.
	ended chan struct{}
}

// newMember gives a member with an empty folder.
func (s *suite) newMember(t testing.TB, instance string, role orrery.Role) *member {
	t.Helper()
	// Short, as the path of a unix socket has to be.
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	m := &member{s: s, dir: dir}
	t.Cleanup(func() {
		m.kill()
		if m.Server != nil {
			_ = m.Close()
		}
		if t.Failed() {
			m.showLogs(t)
		}
		_ = os.RemoveAll(dir)
	})
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.d = engine.Desired{
		Generation: 1, Datastore: datastore, Instance: instance, Role: role, Replication: orrery.ReplicationAsync,
		Address: "127.0.0.1", Port: freePort(t), CPUMilli: 1000, MemoryMiB: 512, StorageGiB: 4,
		MemberSecret: "known to members only", TLS: s.ca.issue(t, dir, datastore, instance),
		TrustedSources: prefixes("127.0.0.0/8"),
		Users:          []engine.DesiredUser{s.user(t, s.Driver.DefaultUser(), orrery.AccessAdmin, password, 1)},
	}
	if db := s.Driver.DefaultDatabase(); db != "" {
		m.d.Databases = []orrery.Database{{Name: db}}
	}
	m.open(t)
	return m
}

// open makes a new handle, as a restarted keeper does.
func (m *member) open(t testing.TB) {
	t.Helper()
	if m.Server != nil {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	srv, err := m.s.Driver.Open(engine.Config{
		Version: m.s.version, Dir: m.dir, LogDir: filepath.Join(m.dir, "log"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	m.Server = srv
}

func (s *suite) user(t testing.TB, name string, access orrery.Access, pw string, version int64) engine.DesiredUser {
	t.Helper()
	secret, err := s.Driver.SecretForm(pw)
	if err != nil {
		t.Fatalf("SecretForm: %v", err)
	}
	if len(pw) > 8 && strings.Contains(secret, pw) {
		t.Fatalf("SecretForm gives the password away")
	}
	return engine.DesiredUser{User: orrery.User{Name: name, Access: access, SecretVersion: version}, Secret: secret}
}

func (m *member) peer() engine.Peer {
	return engine.Peer{Instance: m.d.Instance, Role: m.d.Role, Address: m.d.Address, Port: m.d.Port}
}

// mustConfigure writes the configuration and gives the effect.
func (m *member) mustConfigure(t testing.TB) engine.Effect {
	t.Helper()
	effect, err := m.Configure(t.Context(), m.d)
	if err != nil {
		t.Fatalf("Configure: %v", err)
	}
	return effect
}

// start configures and starts the server without waiting for it.
func (m *member) start(t testing.TB) {
	t.Helper()
	m.mustConfigure(t)
	c, err := m.Command(m.d)
	if err != nil {
		t.Fatalf("Command: %v", err)
	}
	log, err := os.OpenFile(filepath.Join(m.dir, "output.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, c.Env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the server: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	m.cmd, m.ended = cmd, ended
}

// up starts the server and brings it into its state.
func (m *member) up(t testing.TB) {
	t.Helper()
	m.start(t)
	m.awaitReady(t)
	m.apply(t)
}

func (m *member) awaitReady(t testing.TB) {
	t.Helper()
	eventually(t, "the server is ready", func() error {
		select {
		case <-m.ended:
			t.Fatalf("the server ended: %v", m.Ready(t.Context()))
		default:
		}
		return m.Ready(t.Context())
	})
}

func (m *member) apply(t testing.TB) {
	t.Helper()
	if err := m.Apply(t.Context(), m.d); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

// converge takes on m.d without a restart.
func (m *member) converge(t testing.TB) engine.Effect {
	t.Helper()
	effect := m.mustConfigure(t)
	if effect != engine.EffectNone {
		if err := m.Reload(t.Context()); err != nil {
			t.Fatalf("Reload: %v", err)
		}
	}
	m.apply(t)
	return effect
}

// stop stops the server as Command says, and wants it to go at the first signal.
func (m *member) stop(t testing.TB) {
	t.Helper()
	c, err := m.Command(m.d)
	if err != nil || len(c.Stop) == 0 {
		t.Fatalf("Command: %v, %v", c, err)
	}
	if err := m.cmd.Process.Signal(c.Stop[0].Signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.ended:
	case <-time.After(c.Stop[0].Wait):
		t.Fatalf("the server did not stop within %v of %v", c.Stop[0].Wait, c.Stop[0].Signal)
	}
	if m.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Errorf("the server did not end by itself: %v", m.cmd.ProcessState)
	}
	m.cmd = nil
}

// kill ends the server, and all that it started, without mercy.
func (m *member) kill() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	<-m.ended
	_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
	m.cmd = nil
}

// login gives the first user's login from the loopback address.
func (m *member) login() Login {
	return Login{
		Address: m.d.Address, Port: m.d.Port, User: m.s.Driver.DefaultUser(), Password: password,
		Database: m.s.Driver.DefaultDatabase(), TLS: m.s.ca.client(),
	}
}

// try logs in; the client is closed with the test.
func (m *member) try(t testing.TB, change func(*Login)) (Client, error) {
	t.Helper()
	l := m.login()
	if change != nil {
		change(&l)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := m.s.Connect(ctx, l)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (m *member) connect(t testing.TB, change func(*Login)) Client {
	t.Helper()
	c, err := m.try(t, change)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	return c
}

func (m *member) mustRefuse(t testing.TB, why string, change func(*Login)) {
	t.Helper()
	if _, err := m.try(t, change); err == nil {
		t.Errorf("%s was let in", why)
	} else if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s was not refused but left waiting: %v", why, err)
	}
}

func (m *member) observe(t testing.TB) engine.Observation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	o, err := m.Observe(ctx)
	if err != nil {
		t.Fatalf("Observe: %v", err)
	}
	return o
}

func (m *member) showLogs(t testing.TB) {
	files, _ := filepath.Glob(filepath.Join(m.dir, "log", "*"))
	for _, f := range append(files, filepath.Join(m.dir, "output.log")) {
		if b, err := os.ReadFile(f); err == nil {
			t.Logf("%s of %s:\n%s", filepath.Base(f), m.d.Instance, b[max(0, len(b)-6000):])
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
