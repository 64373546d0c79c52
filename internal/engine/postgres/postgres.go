// Package postgres is the PostgreSQL engine driver: it makes datasets, writes configuration, clones replicas over the
// replication protocol, and converges roles, databases and slots through the server's unix socket. See DESIGN.md.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// The major versions that the driver knows.
const (
	oldest = 14
	newest = 18
)

// Config of the driver.
type Config struct {
	// Dirs are patterns of folders to look for the programs in, before those of $PATH. Debian's and PGDG's where nil.
	Dirs []string
}

// Driver is the PostgreSQL engine.
type Driver struct {
	dirs []string

	mu         sync.Mutex
	catalogues map[string][]orrery.Parameter // by full version and programs' folder
}

var _ engine.Driver = (*Driver)(nil)

// New makes the driver.
func New(cfg Config) *Driver {
	if cfg.Dirs == nil {
		cfg.Dirs = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin"}
	}
	return &Driver{dirs: cfg.Dirs, catalogues: map[string][]orrery.Parameter{}}
}

// Engine describes PostgreSQL.
func (*Driver) Engine() orrery.Engine {
	return orrery.Engine{
		Name: "postgres", Title: "PostgreSQL", Databases: true,
		Replication: []orrery.ReplicationMode{orrery.ReplicationAsync, orrery.ReplicationSync},
	}
}

// Supports tells whether the driver knows a major version.
func (*Driver) Supports(version string) bool {
	n, err := strconv.Atoi(version)
	return err == nil && n >= oldest && n <= newest && strconv.Itoa(n) == version
}

var versionRE = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)\.\d+)`)

// Discover finds the installed servers: of each major version the newest minor release, in the first folder that has it.
func (d *Driver) Discover(ctx context.Context) ([]orrery.EngineVersion, error) {
	var dirs []string
	for _, pattern := range d.dirs {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("look for PostgreSQL in %s: %w", pattern, err)
		}
		dirs = append(dirs, found...)
	}
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	best := map[string]orrery.EngineVersion{}
	seen := map[string]bool{}
	for _, dir := range dirs {
		server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
		if err != nil || seen[server] {
			continue // /usr/bin has links to some programs only; the folder that counts is the server's own
		}
		seen[server] = true
		dir = filepath.Dir(server)
		if _, err := os.Stat(filepath.Join(dir, "initdb")); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		out, err := exec.CommandContext(ctx, server, "--version").Output()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m := versionRE.FindSubmatch(out)
		if err != nil || m == nil || !d.Supports(string(m[2])) {
			continue
		}
		v := orrery.EngineVersion{Engine: "postgres", Version: string(m[2]), Full: string(m[1]), Dir: dir}
		if old, ok := best[v.Version]; !ok || minor(v.Full) > minor(old.Full) {
			best[v.Version] = v
		}
	}
	versions := make([]orrery.EngineVersion, 0, len(best))
	for _, v := range best {
		versions = append(versions, v)
	}
	slices.SortFunc(versions, func(a, b orrery.EngineVersion) int { return cmp.Compare(major(a.Version), major(b.Version)) })
	return versions, nil
}

func major(version string) int {
	n, _ := strconv.Atoi(version)
	return n
}

func minor(full string) int {
	_, m, _ := strings.Cut(full, ".")
	return major(m)
}
