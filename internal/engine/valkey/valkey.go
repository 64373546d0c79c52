// Package valkey is the engine driver for Valkey, and for Redis 7 where that is what a host has. It owns a member's
// data, conf and run folders; the access lists and settings written there; and how the running server is told of
// changes, by CONFIG SET and ACL SETUSER over a unix socket that only its own user can open.
//
// What the engine cannot do is refused, never pretended: it has no named databases, and no filter for client
// addresses beyond the addresses it listens on (see CheckSpec).
package valkey

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// Config of the driver.
type Config struct {
	// Dirs are searched for the engine's programs, the first wins; PATH and the usual folders where empty.
	Dirs []string
}

// Driver runs Valkey.
type Driver struct{ dirs []string }

var _ engine.Driver = (*Driver)(nil)

// New makes the driver.
func New(cfg Config) *Driver {
	if len(cfg.Dirs) == 0 {
		cfg.Dirs = append([]string{"/usr/lib/valkey/bin", "/opt/valkey/bin", "/usr/local/bin", "/usr/bin"},
			filepath.SplitList(os.Getenv("PATH"))...)
	}
	return &Driver{dirs: cfg.Dirs}
}

// Engine describes the engine.
func (*Driver) Engine() orrery.Engine {
	return orrery.Engine{
		Name: "valkey", Title: "Valkey",
		Replication: []orrery.ReplicationMode{orrery.ReplicationAsync, orrery.ReplicationSync},
	}
}

// Supports knows Valkey 7 to 9, and Redis 7, whose files and protocol Valkey 7 took over.
func (*Driver) Supports(version string) bool {
	return slices.Contains([]string{"7", "8", "9"}, version)
}

// programs in order of preference.
var programs = []string{"valkey-server", "redis-server"}

// Discover finds the newest release of each major version. Where Valkey and Redis of one major version are installed,
// Valkey is taken.
func (d *Driver) Discover(ctx context.Context) ([]orrery.EngineVersion, error) {
	found := map[string]orrery.EngineVersion{}
	for _, program := range programs {
		inThisProgram := map[string]orrery.EngineVersion{}
		for _, dir := range d.dirs {
			full, err := programVersion(ctx, filepath.Join(dir, program))
			if err != nil {
				continue // not there, or not a program that runs here
			}
			major, _, _ := strings.Cut(full, ".")
			if !d.Supports(major) || (program == "redis-server" && major != "7") {
				continue // Redis 8 has gone its own way, in its files too
			}
			if old, ok := inThisProgram[major]; !ok || compareVersions(full, old.Full) > 0 {
				inThisProgram[major] = orrery.EngineVersion{Engine: "valkey", Version: major, Full: full, Dir: dir}
			}
		}
		for major, v := range inThisProgram {
			if _, ok := found[major]; !ok {
				found[major] = v
			}
		}
	}
	versions := make([]orrery.EngineVersion, 0, len(found))
	for _, v := range found {
		versions = append(versions, v)
	}
	slices.SortFunc(versions, func(a, b orrery.EngineVersion) int { return compareVersions(a.Full, b.Full) })
	return versions, ctx.Err()
}

var versionRE = regexp.MustCompile(`\bv=(\d+\.\d+\.\d+)`)

// programVersion asks the program itself.
func programVersion(ctx context.Context, path string) (string, error) {
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	m := versionRE.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("ask %s for its version: cannot read %q", path, orrery.Shorten(string(out), 80))
	}
	return string(m[1]), nil
}

func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, _ := strconv.Atoi(as[i])
		y, _ := strconv.Atoi(bs[i])
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(as), len(bs))
}

// program finds the server program of a version in its folder: where both are there, the one that says it is it.
func program(v orrery.EngineVersion) (string, error) {
	var there []string
	for _, name := range programs {
		path := filepath.Join(v.Dir, name)
		if _, err := os.Stat(path); err == nil {
			there = append(there, path)
		}
	}
	switch len(there) {
	case 0:
		return "", orrery.Errorf(orrery.KindNotFound, "Valkey %s is no longer installed in %s", v.Full, v.Dir).
			WithCode("engine_missing").WithHint("Install its package again.")
	case 1:
		return there[0], nil
	}
	for _, path := range there {
		if full, err := programVersion(context.Background(), path); err == nil && full == v.Full {
			return path, nil
		}
	}
	return there[0], nil
}
