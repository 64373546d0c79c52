package etcd_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store/etcd"
)

func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// shouts collects what is logged as a warning or worse.
type shouts struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (s *shouts) Enabled(context.Context, slog.Level) bool { return true }
func (s *shouts) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *shouts) Handle(_ context.Context, r slog.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Level >= slog.LevelWarn {
		s.lines = append(s.lines, r.Message)
	}
	return nil
}

func TestStartsFastKeepsAndIsQuiet(t *testing.T) {
	dir := newDir(t)
	loud := &shouts{}
	for round := range 3 {
		began := time.Now()
		s, err := etcd.Start(t.Context(), etcd.Config{Dir: dir, Log: slog.New(loud)})
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Client().Get(t.Context(), "k")
		if err != nil || len(got.Kvs) != min(round, 1) {
			t.Fatalf("round %d: %v, %v", round, got, err)
		}
		if _, err := s.Client().Put(t.Context(), "k", "v"); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: answered after %s", round, time.Since(began))
		if took := time.Since(began); took > 10*time.Second { // 0.1 to 0.5 s; the bound is for busy machines
			t.Errorf("took %s", took)
		}
		info, err := os.Stat(filepath.Join(dir, etcd.SocketName))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the socket: %v, %v", info, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range loud.lines {
		if !strings.Contains(line, "took too long") { // a busy machine
			t.Errorf("etcd told of %q though nothing was wrong", line)
		}
	}
}

func TestOneProcessAFolder(t *testing.T) {
	dir := newDir(t)
	cfg := etcd.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), ForTests: true}
	s, err := etcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	_, err = etcd.Start(t.Context(), cfg)
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok || e.Code != "state_in_use" || !strings.Contains(e.Message, dir) {
		t.Fatalf("error is %v", err)
	}
	if _, err := s.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Fatalf("the first was disturbed: %v", err)
	}
	// Its socket serves others on the machine.
	client, err := etcd.Dial(t.Context(), etcd.DialConfig{Endpoints: []string{s.Endpoint()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if got, err := client.Get(t.Context(), "k"); err != nil || len(got.Kvs) != 1 {
		t.Fatal(err)
	}
}

func TestBadConfigs(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]etcd.Config{
		"no folder":         {Log: log},
		"no log":            {Dir: "/tmp/orr-none"},
		"too long a path":   {Dir: filepath.Join(newDir(t), strings.Repeat("x", 120)), Log: log},
		"not a member":      {Dir: newDir(t), Log: log, Member: &etcd.Member{Name: "a", PeerURL: "https://127.0.0.1:1"}},
		"TLS without files": {Dir: newDir(t), Log: log, ClientURL: "https://127.0.0.1:0"},
	} {
		if s, err := etcd.Start(t.Context(), cfg); err == nil {
			_ = s.Close()
			t.Errorf("started with %s", name)
		} else if strings.Contains(err.Error(), "panic") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := etcd.Dial(t.Context(), etcd.DialConfig{Log: log}); err == nil {
		t.Error("dialled nobody")
	}
	_, err := etcd.Dial(t.Context(), etcd.DialConfig{Log: log, Endpoints: []string{"https://127.0.0.1:1"},
		TLS: &etcd.TLSFiles{CA: "/none/ca", Cert: "/none/cert", Key: "/none/key"}})
	if err == nil || !strings.Contains(err.Error(), "/none/cert") {
		t.Errorf("missing TLS files: %v", err)
	}
}
