// Package storetest gives tests a real store on a real etcd, quickly: the stores of one test binary share an embedded
// etcd, each test under a prefix of its own.
//
// The etcd runs while a test uses it. A package with many tests saves the 50 ms that each start takes with
//
//	func TestMain(m *testing.M) { storetest.Main(m) }
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery/internal/seal"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
)

var (
	shared  sharedEtcd
	configs sync.Map // *store.Store → store.Config
	serial  atomic.Int64
)

// New opens a store on an empty state. It is closed when the test ends.
func New(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, Config(t))
}

// Config is that of an empty state, for tests that want to change something before they Open it.
func Config(t testing.TB) store.Config {
	t.Helper()
	server, err := shared.acquire()
	if err != nil {
		t.Fatalf("start etcd for the test: %v", err)
	}
	t.Cleanup(func() {
		if err := shared.release(); err != nil {
			t.Errorf("stop the test's etcd: %v", err)
		}
	})
	sealer, err := seal.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	n := serial.Add(1)
	return store.Config{
		Client:     server.Client(),
		Prefix:     fmt.Sprintf("/test/%d", n),
		Sealer:     sealer,
		Log:        Log(t),
		ServerName: fmt.Sprintf("server-%d", n),
	}
}

// Open opens a store that is closed when the test ends.
func Open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := store.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	configs.Store(s, cfg)
	t.Cleanup(func() {
		configs.Delete(s)
		if err := s.Close(); err != nil {
			t.Errorf("close the test's store: %v", err)
		}
	})
	return s
}

// Second opens another store on the state of the first, as another server would.
func Second(t testing.TB, first *store.Store) *store.Store {
	t.Helper()
	cfg := ConfigOf(t, first)
	cfg.ServerName = fmt.Sprintf("server-%d", serial.Add(1))
	return Open(t, cfg)
}

// Crash ends a store as a crash of its server would, but that its lease runs out at once. What it had leased is gone
// from etcd when Crash returns.
func Crash(t testing.TB, s *store.Store) {
	t.Helper()
	id := s.LeaseID()
	s.Abandon()
	if _, err := ConfigOf(t, s).Client.Revoke(context.Background(), clientv3.LeaseID(id)); err != nil {
		t.Fatalf("end the lease of the crashed store: %v", err)
	}
}

// ConfigOf gives the configuration that a store was opened with: its client to etcd, its prefix.
func ConfigOf(t testing.TB, s *store.Store) store.Config {
	t.Helper()
	cfg, ok := configs.Load(s)
	if !ok {
		t.Fatal("the store is not one of this package, or its test is over")
	}
	return cfg.(store.Config)
}

// Log writes warnings and errors into the test's output.
func Log(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// Main runs a package's tests with one etcd for all. The testing package ends the process with their result.
func Main(m *testing.M) {
	if _, err := shared.acquire(); err != nil {
		fmt.Fprintln(os.Stderr, "start etcd for the tests:", err) // each test will say so as well
	} else {
		defer func() { _ = shared.release() }()
	}
	m.Run()
}

// sharedEtcd runs while somebody uses it.
type sharedEtcd struct {
	mu     sync.Mutex
	users  int
	dir    string
	server *etcd.Server
}

func (e *sharedEtcd) acquire() (*etcd.Server, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users > 0 {
		e.users++
		return e.server, nil
	}
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	server, err := etcd.Start(ctx, etcd.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), ForTests: true})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	e.users, e.dir, e.server = 1, dir, server
	return server, nil
}

func (e *sharedEtcd) release() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users--; e.users > 0 {
		return nil
	}
	err := e.server.Close()
	if rmErr := os.RemoveAll(e.dir); err == nil {
		err = rmErr
	}
	return err
}
