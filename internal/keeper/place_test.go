package keeper_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/keeper"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/testkit/unpriv"
)

// TestMain runs a keeper where a test asks for one, else the tests.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KEEPER_DIR"); dir != "" {
		os.Exit(keeperMain(dir))
	}
	unpriv.Main(m)
}

func keeperMain(dir string) int {
	debug.SetMemoryLimit(16 << 20) // as cmd/orrery does
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	port, _ := strconv.Atoi(os.Getenv("KEEPER_PORT"))
	k, err := keeper.New(keeper.Config{
		Dir: dir, Port: port, Driver: engineNamed(os.Getenv("KEEPER_ENGINE")).driver, Version: os.Getenv("KEEPER_VERSION"), Log: log,
		ProbeEvery: 200 * time.Millisecond, StatsEvery: 300 * time.Millisecond,
	})
	if err == nil {
		err = k.Run(ctx)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Error("the keeper failed", "error", err)
		return 1
	}
	return 0
}

// place is what an agent would make: a folder, a port, and a keeper that runs in them.
type place struct {
	t    *testing.T
	p    *plane
	e    subject
	dir  string
	d    engine.Desired
	env  []string
	cmd  *exec.Cmd
	done chan struct{}
}

func newPlace(t *testing.T, p *plane, e subject) *place {
	t.Helper()
	dir := tempDir(t)
	check(t, os.MkdirAll(filepath.Join(dir, "agent"), 0o700))
	check(t, os.Symlink(p.socket, filepath.Join(dir, "agent", "proxy.sock")))
	pl := &place{t: t, p: p, e: e, dir: dir}
	version := e.version(t.Context())
	secret, err := e.driver.SecretForm("hunter2")
	check(t, err)
	pl.d = engine.Desired{
		Generation: 1, Datastore: p.datastore, Instance: orrery.NewID(orrery.PrefixInstance), Role: orrery.RolePrimary,
		Replication: orrery.ReplicationAsync, Address: "127.0.0.1", Port: freePort(t), CPUMilli: 1000, MemoryMiB: 256, StorageGiB: 1, MemberSecret: "members",
		Users:          []engine.DesiredUser{{User: orrery.User{Name: "admin", Access: orrery.AccessAdmin}, Secret: secret}},
		TrustedSources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	if db := e.driver.DefaultDatabase(); db != "" {
		pl.d.Databases = []orrery.Database{{Name: db, Owner: "admin"}}
	}
	pl.env = append(os.Environ(), "KEEPER_DIR="+dir, "KEEPER_PORT="+strconv.Itoa(pl.d.Port), "KEEPER_VERSION="+version.Version, "KEEPER_ENGINE="+e.name)
	t.Cleanup(func() {
		if pl.cmd != nil {
			pl.killKeeper()
		}
		pl.killDatabase()
		if t.Failed() || os.Getenv("SHOW") != "" {
			logs, _ := filepath.Glob(filepath.Join(dir, "log", "*"))
			for _, name := range append(logs, filepath.Join(dir, "keeper.log")) {
				b, _ := os.ReadFile(name)
				t.Logf("%s of %s:\n%s", filepath.Base(name), pl.d.Instance, b)
			}
		}
	})
	return pl
}

func (pl *place) startKeeper() {
	pl.t.Helper()
	log, err := os.OpenFile(filepath.Join(pl.dir, "keeper.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	check(pl.t, err)
	defer log.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stdout, cmd.Stderr = pl.env, log, log
	check(pl.t, cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	pl.cmd, pl.done = cmd, done
}

func (pl *place) signalKeeper(s os.Signal) {
	check(pl.t, pl.cmd.Process.Signal(s))
	<-pl.done
	pl.cmd = nil
}

func (pl *place) killKeeper() { pl.signalKeeper(syscall.SIGKILL) }

// killDatabase ends what the keeper left running, as an agent does that unmakes the place.
func (pl *place) killDatabase() {
	if pid := pl.database(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (pl *place) database() int {
	s := pl.server()
	defer s.Close()
	pid, err := s.FindProcess()
	check(pl.t, err)
	return pid
}

func (pl *place) server() engine.Server {
	s, err := pl.e.driver.Open(engine.Config{
		Version: pl.e.version(context.Background()), Dir: pl.dir, LogDir: filepath.Join(pl.dir, "log"), Log: slog.New(slog.DiscardHandler),
	})
	check(pl.t, err)
	return s
}

// assign gives the place to its instance.
func (pl *place) assign() {
	pl.t.Helper()
	b, err := json.Marshal(keeper.Assignment{
		Instance: pl.d.Instance, Datastore: pl.d.Datastore, ServerName: pki.ServerName,
		JoinToken: pki.MakeJoinToken(pl.d.Instance, pki.NewSecret(), pl.p.ca.Fingerprint()),
	})
	check(pl.t, err)
	path := filepath.Join(pl.dir, "agent", "assignment.json")
	check(pl.t, os.WriteFile(path+".tmp", b, 0o600))
	check(pl.t, os.Rename(path+".tmp", path))
}

// up brings the place to a running database.
func (pl *place) up() orrery.DatabaseStatus {
	pl.t.Helper()
	pl.p.wish(pl.d)
	pl.assign()
	pl.startKeeper()
	return pl.p.running(pl.d.Instance, pl.d.Generation)
}

// awaitFile waits for a file that a rename brings.
func awaitFile(t *testing.T, path string) []byte {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if b, err := os.ReadFile(path); err == nil {
			return b
		}
		select {
		case <-deadline:
			t.Fatalf("there is no %s", path)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (pl *place) peer() engine.Peer {
	return engine.Peer{Instance: pl.d.Instance, Role: pl.d.Role, Address: pl.d.Address, Port: pl.d.Port}
}

// login connects as a client does: TLS, verified, with a password.
func (pl *place) login() client {
	pl.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pl.p.data.CertPEM())
	c, err := pl.e.connect(pl.t.Context(), pl.d.Port, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	check(pl.t, err)
	pl.t.Cleanup(func() { _ = c.Close() })
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startTime of a process, which with its ID tells it from all others.
func startTime(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(t, err)
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return string(bytes.Fields(rest)[19])
}
