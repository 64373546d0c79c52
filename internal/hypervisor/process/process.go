// Package process is the hypervisor driver whose places are plain folders and whose commands are plain processes of
// the host. It owns the folder of each place, its unprivileged user, its port, its control group, the process that
// runs in it, and a record on disk of all that. See DESIGN.md.
package process

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// Config of a driver. Only Root and Log must be given.
type Config struct {
	// Root holds all that the driver keeps: places/, records/ and trash/. One driver at a time works on it. Where the
	// driver is root, the users of places must be able to pass through the folders above it.
	Root string
	Log  *slog.Logger
	// FirstPort to LastPort are the ports given to places; 17000 to 17999.
	FirstPort, LastPort int
	// StopGrace is the time between SIGTERM and SIGKILL when a place is destroyed; 1 s.
	StopGrace time.Duration
	// A command that ended is started again after BackoffFirst (100 ms), then after twice as long each time, to
	// BackoffMax (30 s); after it ran for BackoffReset (1 min) the count starts anew.
	BackoffFirst, BackoffMax, BackoffReset time.Duration
	// MinFreeMiB must be free on Root's file system to make a place; 256.
	MinFreeMiB int64
	// LogMaxBytes is the size at which a command's log is rotated; one old file is kept; 10 MiB.
	LogMaxBytes int64
	// CheckEvery is the time between looks at log sizes and ports; 10 s.
	CheckEvery time.Duration
	// Stage, where set, is called at each stage of making and unmaking a place, before its work. Tests kill the process in it.
	Stage func(name string)
}

func (c *Config) setDefaults() {
	setDefault(&c.FirstPort, 17000)
	setDefault(&c.LastPort, max(17999, c.FirstPort))
	setDefault(&c.StopGrace, time.Second)
	setDefault(&c.BackoffFirst, 100*time.Millisecond)
	setDefault(&c.BackoffMax, 30*time.Second)
	setDefault(&c.BackoffReset, time.Minute)
	setDefault(&c.MinFreeMiB, 256)
	setDefault(&c.LogMaxBytes, 10<<20)
	setDefault(&c.CheckEvery, 10*time.Second)
	if c.Stage == nil {
		c.Stage = func(string) {}
	}
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c *Config) validate() error {
	switch {
	case c.Root == "" || !filepath.IsAbs(c.Root):
		return orrery.Invalid("root", "the root folder %q must be an absolute path", c.Root)
	case c.Log == nil:
		return orrery.Invalid("log", "a logger is needed")
	case c.FirstPort < 1024 || c.LastPort > 65535 || c.FirstPort > c.LastPort:
		return orrery.Invalid("ports", "%d to %d is no range of unprivileged ports", c.FirstPort, c.LastPort)
	}
	return nil
}

// Driver implements hypervisor.Driver.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	root    bool // runs as root: places have users of their own
	boot    string
	lock    *os.File
	users   *users
	ports   *ports
	groups  groups
	changes *changes

	mu     sync.Mutex
	places map[string]*place

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once // Close
}

var _ hypervisor.Driver = (*Driver)(nil)

// New opens the driver on its root and finds again what lives there: commands that run are adopted, commands that
// died meanwhile are started, destructions that were cut off are finished.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Root = filepath.Clean(cfg.Root)
	d := &Driver{cfg: cfg, log: cfg.Log, root: os.Geteuid() == 0, places: map[string]*place{}}
	if err := d.openRoot(ctx); err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		_ = d.lock.Close()
		return nil, fmt.Errorf("read the machine's boot ID: %w", err)
	}
	d.boot = strings.TrimSpace(string(boot))
	sum := sha256.Sum256([]byte(cfg.Root))
	hash := hex.EncodeToString(sum[:4])
	// Nothing that another part of this process left inheritable may reach a place.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	d.users = newUsers(d.root, hash)
	d.ports = newPorts(cfg.FirstPort, cfg.LastPort)
	d.groups = openGroups("orrery-"+hash, d.root)
	d.changes = newChanges()
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := d.load(); err != nil { //nolint:contextcheck // what it takes up goes on after this call
		_ = d.Close()
		return nil, err
	}
	d.wg.Go(d.watch)
	return d, nil
}

// openRoot makes the folders and takes the root for this process alone.
func (d *Driver) openRoot(ctx context.Context) error {
	for _, dir := range []string{d.cfg.Root, d.placesDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make the driver's folder: %w", diskError(err))
		}
		if d.root {
			// Users of places pass through, and see nothing. The umask may have taken that away.
			if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // see above
				return fmt.Errorf("open the driver's folder to places: %w", err)
			}
		}
	}
	for _, dir := range []string{d.recordsDir(), d.trashDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the driver's folder: %w", diskError(err))
		}
	}
	if d.root {
		if err := checkPassable(d.cfg.Root); err != nil {
			return err
		}
	}
	lock, err := os.OpenFile(filepath.Join(d.cfg.Root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of %s: %w", d.cfg.Root, diskError(err))
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	// A command that a driver was just starting when it was killed has the lock until its program runs.
	for wait := time.Millisecond; err != nil && wait < time.Second && pause(ctx, wait); wait *= 2 {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		_ = lock.Close()
		return orrery.Errorf(orrery.KindConflict, "another agent works in %s", d.cfg.Root).WithCode("root_in_use").
			WithHint("Stop the other agent, or give this one a folder of its own.").WithCause(err)
	}
	d.lock = lock
	return nil
}

// checkPassable tells whether everybody may pass through the folders that lead to dir.
func checkPassable(dir string) error {
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		fi, err := os.Stat(p)
		if err != nil {
			return err
		}
		if fi.Mode().Perm()&0o001 == 0 {
			return orrery.Invalid("root", "the users of places cannot pass through %s, which has mode %#o", p, fi.Mode().Perm()).
				WithCode("root_not_passable").WithHint("Run chmod o+x %s, or choose another folder.", p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func (d *Driver) placesDir() string           { return filepath.Join(d.cfg.Root, "places") }
func (d *Driver) recordsDir() string          { return filepath.Join(d.cfg.Root, "records") }
func (d *Driver) trashDir() string            { return filepath.Join(d.cfg.Root, "trash") }
func (d *Driver) dir(id string) string        { return filepath.Join(d.placesDir(), id) }
func (d *Driver) recordPath(id string) string { return filepath.Join(d.recordsDir(), id+".json") }

// Name implements hypervisor.Driver.
func (d *Driver) Name() string { return "process" }

// Changes implements hypervisor.Driver.
func (d *Driver) Changes() <-chan string { return d.changes.out }

// List implements hypervisor.Driver. It reads memory only.
func (d *Driver) List(context.Context) ([]hypervisor.Place, error) {
	d.mu.Lock()
	all := make([]*place, 0, len(d.places))
	for _, p := range d.places {
		all = append(all, p)
	}
	d.mu.Unlock()
	list := make([]hypervisor.Place, 0, len(all))
	for _, p := range all {
		list = append(list, p.view())
	}
	slices.SortFunc(list, func(a, b hypervisor.Place) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// Close implements hypervisor.Driver.
func (d *Driver) Close() error {
	var err error
	d.once.Do(func() {
		d.cancel()
		d.wg.Wait()
		d.changes.close()
		d.groups.close()
		d.ports.close()
		err = d.lock.Close()
	})
	return err
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, wait time.Duration) bool {
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

// closed tells callers that come too late.
func (d *Driver) closed() error {
	if d.ctx.Err() != nil {
		return errors.New("the driver is closed")
	}
	return nil
}

// diskError makes a full disk known as what it is.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return diskFull().WithCause(err)
	}
	return err
}

func diskFull() *orrery.Error {
	return orrery.Errorf(orrery.KindExhausted, "the host's disk has no room for another place").WithCode("disk_full").
		WithHint("Free disk space on the host, or use another host.")
}
