package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// server is one PostgreSQL server on one folder.
type server struct {
	driver  *Driver
	version orrery.EngineVersion
	major   int
	dir     string
	logDir  string
	log     *slog.Logger

	// The kept connection of Observe, which may run beside any other method.
	kept    keptConn
	pending pendingCache
	heldMu  sync.Mutex
	held    []string // settings of a standby that are kept above what is wanted until its primary has come down
	// syncMu guards the change of synchronous_standby_names, which Apply and Observe both drive.
	syncMu sync.Mutex
	wanted *engine.Desired // of the last Apply

	tidyMu sync.Mutex
	tidied time.Time
}

// maxSocketPath is the size of sun_path less its end (unix(7)).
const maxSocketPath = 107

// Open gives the handle of the server on cfg.Dir.
func (d *Driver) Open(cfg engine.Config) (engine.Server, error) {
	if !d.Supports(cfg.Version.Version) || cfg.Version.Dir == "" {
		return nil, orrery.Errorf(orrery.KindInvalid, "PostgreSQL %s is not one that can be run", cfg.Version.Version).WithCode("version_missing").
			WithHint("Versions %d to %d can be run where they are installed.", oldest, newest)
	}
	if !filepath.IsAbs(cfg.Dir) || !filepath.IsAbs(cfg.LogDir) || cfg.Log == nil {
		return nil, fmt.Errorf("open PostgreSQL: absolute folders and a logger are needed, got %q and %q", cfg.Dir, cfg.LogDir)
	}
	s := &server{
		driver: d, version: cfg.Version, major: major(cfg.Version.Version), dir: filepath.Clean(cfg.Dir), logDir: filepath.Clean(cfg.LogDir), log: cfg.Log,
	}
	if socket := s.path("run", ".s.PGSQL.65535"); len(socket) > maxSocketPath {
		return nil, orrery.Errorf(orrery.KindInvalid, "the folder's path is too long for a unix socket: %s", socket).WithCode("path_too_long").
			WithHint("Use a shorter root folder: at most %d bytes for the socket's path.", maxSocketPath)
	}
	return s, nil
}

func (s *server) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}
func (s *server) data(parts ...string) string {
	return filepath.Join(append([]string{s.dir, "data"}, parts...)...)
}
func (s *server) conf(name string) string    { return s.path("conf", name) }
func (s *server) program(name string) string { return filepath.Join(s.version.Dir, name) }

// Prepared looks for the files that come last: datasets are made aside and renamed into place.
func (s *server) Prepared() (bool, error) {
	b, err := os.ReadFile(s.data("PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the dataset's version: %w", err)
	}
	if v := strings.TrimSpace(string(b)); v != s.version.Version {
		return true, orrery.Errorf(orrery.KindConflict, "the dataset is of PostgreSQL %s, not %s", v, s.version.Version).WithCode("data_incompatible").
			WithHint("Run it with PostgreSQL %s, or upgrade it.", v)
	}
	if _, err := os.Stat(s.data("global", "pg_control")); err != nil {
		return false, fmt.Errorf("look for pg_control: %w", err)
	}
	return true, nil
}

// Discard removes the dataset. It is renamed first, so that a half-removed one is not taken for whole.
func (s *server) Discard(context.Context) error {
	if pid, err := s.FindProcess(); err != nil || pid != 0 {
		return errors.Join(err, orrery.Errorf(orrery.KindConflict, "the dataset is in use by process %d", pid).WithCode("in_use"))
	}
	s.kept.close()
	return s.discard()
}

func (s *server) discard() error {
	aside, err := os.MkdirTemp(s.dir, "gone-")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("discard the dataset: %w", err)
	}
	if err := os.Rename(s.data(), filepath.Join(aside, "data")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard the dataset: %w", err)
	}
	return s.removeAsides()
}

// removeAsides removes what earlier calls, which may have died, left aside.
func (s *server) removeAsides() error {
	var errs []error
	for _, pattern := range []string{"new-*", "gone-*"} {
		found, _ := filepath.Glob(s.path(pattern)) // the pattern is well-formed
		for _, dir := range found {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// takePlace makes a finished dataset durable and gives it its place.
func (s *server) takePlace(made string) error {
	if err := syncFilesystem(made); err != nil {
		return err
	}
	if err := s.moveOld(made); err != nil {
		return err
	}
	if err := os.Rename(made, s.data()); err != nil {
		return fmt.Errorf("put the dataset in place: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	return s.removeAsides()
}

// moveOld moves an existing dataset away, into the folder that the new one comes from.
func (s *server) moveOld(made string) error {
	err := os.Rename(s.data(), filepath.Join(filepath.Dir(made), "replaced"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put the old dataset aside: %w", err)
	}
	return nil
}

// syncFilesystem writes everything below dir to disk: one syncfs(2) is several times as fast as syncing a thousand
// files one by one, which is what initdb and pg_basebackup do.
func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return diskError(fmt.Errorf("sync the dataset to disk: %w", err))
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync the folder %s: %w", dir, err)
	}
	return nil
}

// systemID reads the lineage of the dataset: pg_control starts with it (ControlFileData in pg_control.h).
func (s *server) systemID() (string, error) {
	f, err := os.Open(s.data("global", "pg_control"))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	var b [8]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return "", fmt.Errorf("read pg_control: %w", err)
	}
	return strconv.FormatUint(binary.NativeEndian.Uint64(b[:]), 10), nil
}

// Close lets go of the kept connection.
func (s *server) Close() error {
	s.kept.close()
	return nil
}
