package valkey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// server is one Valkey on one folder.
type server struct {
	cfg     engine.Config
	program string

	mu      sync.Mutex
	conn    *redis.Client
	members *members // read from conf/members.json at need
	pending pendingCache
	looked  time.Time // for who has the port
	// defaults of settings, as a throw-away server told them.
	defaults map[string]string
}

// Open gives the handle of the server on cfg.Dir.
func (*Driver) Open(cfg engine.Config) (engine.Server, error) {
	path, err := program(cfg.Version)
	if err != nil {
		return nil, err
	}
	if sock := filepath.Join(cfg.Dir, "run", socketName); len(sock) > 107 {
		return nil, orrery.Errorf(orrery.KindInvalid, "the folder %s is too deep for a unix socket", cfg.Dir).WithCode("path_too_long")
	}
	return &server{cfg: cfg, program: path}, nil
}

func (s *server) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

// marker makes a dataset: an empty Valkey has no files of its own by which a whole one could be told.
const marker = "orrery-dataset.json"

// Prepared tells whether there is a dataset.
func (s *server) Prepared() (bool, error) {
	_, err := os.Stat(s.path("data", marker))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Prepare makes an empty dataset.
func (s *server) Prepare(ctx context.Context) error {
	if ok, err := s.Prepared(); ok || err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("make a dataset: %w", err)
	}
	tmp := s.path("data.new")
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("remove a half-made dataset: %w", err)
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return fmt.Errorf("make a dataset: %w", err)
	}
	if err := emptyLog(filepath.Join(tmp, "appendonlydir")); err != nil {
		return fmt.Errorf("make a dataset: %w", err)
	}
	mark, err := json.Marshal(map[string]string{"version": s.cfg.Version.Full})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(tmp, marker), mark); err != nil {
		return fmt.Errorf("make a dataset: %w", err)
	}
	if err := syncDir(tmp); err != nil {
		return fmt.Errorf("make a dataset: %w", err)
	}
	// A folder without the marker is what is left of a Discard that died.
	if err := os.RemoveAll(s.path("data")); err != nil {
		return fmt.Errorf("remove a discarded dataset: %w", err)
	}
	if err := os.Rename(tmp, s.path("data")); err != nil {
		return fmt.Errorf("make a dataset: %w", err)
	}
	return syncDir(s.cfg.Dir)
}

// emptyLog makes the append-only file of an empty dataset: a manifest that names one file, with nothing in it. The
// server would make it at its first start, and wait for the disk six times over it.
func emptyLog(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "appendonly.aof.1.incr.aof"), nil); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "appendonly.aof.manifest"), []byte("file appendonly.aof.1.incr.aof seq 1 type i\n"))
}

// Clone makes an empty dataset: a replica fetches its primary's by itself.
func (s *server) Clone(ctx context.Context, _ engine.Desired, _ func(done, total int64)) error {
	return s.Prepare(ctx)
}

// Discard removes the dataset, its marker first.
func (s *server) Discard(context.Context) error {
	if err := os.Remove(s.path("data", marker)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard the dataset: %w", err)
	}
	if err := errors.Join(os.RemoveAll(s.path("data")), os.RemoveAll(s.path("data.new"))); err != nil {
		return fmt.Errorf("discard the dataset: %w", err)
	}
	return nil
}

// Close lets go of the connection.
func (s *server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

// writeFile replaces a file whole, or leaves it as it was. It does not wait for the disk: before each start all of them
// are written anew.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// syncDir waits until a folder's entries are on the disk.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
