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
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/engine/valkey"
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
		Dir: dir, Port: port, Driver: driverOf(os.Getenv("KEEPER_ENGINE")), Version: os.Getenv("KEEPER_VERSION"), Log: log,
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

func driverOf(name string) engine.Driver {
	return valkey.New(valkey.Config{})
}

// place is what an agent would make: a folder, a port, and a keeper that runs in them.
type place struct {
	t    *testing.T
	p    *plane
	dir  string
	d    engine.Desired
	env  []string
	cmd  *exec.Cmd
	done chan struct{}
}

func newPlace(t *testing.T, p *plane) *place {
	t.Helper()
	dir := tempDir(t)
	check(t, os.MkdirAll(filepath.Join(dir, "agent"), 0o700))
	check(t, os.Symlink(p.socket, filepath.Join(dir, "agent", "proxy.sock")))
	pl := &place{t: t, p: p, dir: dir}
	driver := valkey.New(valkey.Config{})
	versions, err := driver.Discover(t.Context())
	if err != nil || len(versions) == 0 {
		t.Fatalf("no engine: %v", err)
	}
	secret, err := driver.SecretForm("hunter2")
	check(t, err)
	pl.d = engine.Desired{
		Generation: 1, Datastore: p.datastore, Instance: orrery.NewID(orrery.PrefixInstance), Role: orrery.RolePrimary,
		Replication: orrery.ReplicationAsync, Address: "127.0.0.1", Port: freePort(t), CPUMilli: 1000, MemoryMiB: 256, StorageGiB: 1, MemberSecret: "members",
		Users: []engine.DesiredUser{{User: orrery.User{Name: "admin", Access: orrery.AccessAdmin}, Secret: secret}},
	}
	pl.env = append(os.Environ(), "KEEPER_DIR="+dir, "KEEPER_PORT="+strconv.Itoa(pl.d.Port), "KEEPER_VERSION="+versions[len(versions)-1].Version)
	t.Cleanup(func() {
		if pl.cmd != nil {
			pl.killKeeper()
		}
		pl.killDatabase()
		if t.Failed() || os.Getenv("SHOW") != "" {
			for _, name := range []string{"keeper.log", "log/database.log"} {
				b, _ := os.ReadFile(filepath.Join(dir, name))
				t.Logf("%s of %s:\n%s", name, pl.d.Instance, b)
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
	driver := valkey.New(valkey.Config{})
	versions, err := driver.Discover(context.Background())
	check(pl.t, err)
	s, err := driver.Open(engine.Config{Version: versions[len(versions)-1], Dir: pl.dir, Log: slog.New(slog.DiscardHandler)})
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

// login connects as a client does.
func (pl *place) login() *redis.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pl.p.data.CertPEM())
	c := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(pl.d.Port)), Username: "admin", Password: "hunter2", MaxRetries: -1, DialerRetries: 1,
		DisableIdentity: true, TLSConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"},
	})
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
