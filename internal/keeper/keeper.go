// Package keeper is the daemon that lives with one instance: it supervises the database process, makes it be what its
// desired state says, and reports what it sees. It owns the place's keeper folder and the database's life; what the
// database is, it leaves to an engine driver. It knows no clouds, and outlives server and agent. See DESIGN.md.
package keeper

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/session"
)

// Config of a keeper.
type Config struct {
	// Dir is the place's folder. The keeper owns Dir/keeper and Dir/log, the driver Dir/data, Dir/conf and Dir/run, the
	// agent Dir/agent.
	Dir string
	// Port is the place's own, for the database to listen on.
	Port   int
	Driver engine.Driver
	// Version is the engine's major version.
	Version string
	// Release is the orrery binary's version.
	Release string
	// NewSession makes the session with the server, once there is an assignment; session.NewClient where nil.
	NewSession func(session.ClientConfig) (Session, error)
	Log        *slog.Logger
	// ProbeEvery is the time between two looks at a database that has settled; 2 s.
	ProbeEvery time.Duration
	// StatsEvery is the time between two reports of numbers, and two looks at the disk; 10 s.
	StatsEvery time.Duration
}

// Session is what a keeper needs of its session with the server: *session.Client.
type Session interface {
	// Run joins where there is no identity yet, and keeps the stream up until ctx ends.
	Run(ctx context.Context) error
	// Report makes v, a session.KeeperReport, the newest that is sent, now and on each new stream. It does not block.
	Report(v any)
	// Stats sends v, a session.KeeperStats, or drops it. It does not block.
	Stats(v any)
	Sign(ctx context.Context, purpose session.Purpose, key crypto.Signer) (chain, ca []byte, err error)
}

// Assignment is what the agent writes to Dir/agent/assignment.json when the place is given to an instance.
type Assignment struct {
	Instance   string `json:"instance"`
	Datastore  string `json:"datastore"`
	JoinToken  string `json:"join_token"`
	ServerName string `json:"server_name"`
}

func (c *Config) validate() error {
	for _, f := range []struct {
		field   string
		missing bool
	}{
		{"dir", !filepath.IsAbs(c.Dir)}, {"port", c.Port <= 0 || c.Port > 65535}, {"driver", c.Driver == nil},
		{"version", c.Version == ""}, {"log", c.Log == nil},
	} {
		if f.missing {
			return orrery.Invalid(f.field, "a keeper needs it")
		}
	}
	return nil
}

// Keeper keeps one instance.
type Keeper struct {
	cfg  Config
	log  *slog.Logger
	tls  *certificates
	box  *mailbox
	path paths
}

// New makes a keeper; Run brings it to life.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.ProbeEvery == 0 {
		cfg.ProbeEvery = 2 * time.Second
	}
	if cfg.NewSession == nil {
		cfg.NewSession = func(c session.ClientConfig) (Session, error) { return session.NewClient(c) }
	}
	if cfg.StatsEvery == 0 {
		cfg.StatsEvery = 10 * time.Second
	}
	p := paths(cfg.Dir)
	return &Keeper{cfg: cfg, log: cfg.Log, box: newMailbox(), path: p, tls: newCertificates(p, cfg.Log)}, nil
}

// Run keeps the instance until ctx ends. It leaves a running database running.
//
// What was wished before is taken up at once, with or without a server. A keeper whose dataset belongs to nobody yet
// prepares one, tells so in keeper/prepared.json, and waits for its assignment.
func (k *Keeper) Run(ctx context.Context) error {
	for _, dir := range []string{k.path.keeper(), k.path.tls(), k.path.log()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the keeper's folders: %w", err)
		}
	}
	lock, err := lockFile(k.path.keeper("lock"))
	if err != nil {
		return fmt.Errorf("lock %s: another keeper may be at work: %w", k.cfg.Dir, err)
	}
	defer func() { _ = lock.Close() }()

	version, err := k.version(ctx)
	if err != nil {
		return err
	}
	srv, err := k.cfg.Driver.Open(engine.Config{Version: version, Dir: k.cfg.Dir, Log: k.log, LogDir: k.path.log()})
	if err != nil {
		return fmt.Errorf("open the %s server of %s: %w", version.Engine, k.cfg.Dir, err)
	}
	defer func() { _ = srv.Close() }()

	mem, err := loadMemory(k.path)
	if err != nil {
		return err
	}
	warm := newWarmer(k, srv, version)
	if !mem.Live && !mem.Copying {
		warm.start(ctx)
		defer warm.stop()
	}
	assignment, err := k.awaitAssignment(ctx)
	if err != nil {
		return err
	}
	warm.assigned()
	log := k.log.With("instance", assignment.Instance)
	s, err := k.newSession(assignment)
	if err != nil {
		return fmt.Errorf("make the session of %s: %w", assignment.Instance, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{}, 2)
	defer func() {
		cancel()
		<-ended
		<-ended
	}()
	go func() {
		defer func() { ended <- struct{}{} }()
		// Refused for good, the database stays as it was last wished. It is not the keeper's to give up: a plane that was
		// set back may know the instance again.
		for ctx.Err() == nil {
			err := s.Run(ctx)
			if ctx.Err() != nil {
				return
			}
			log.Error("the server refuses this keeper", "error", err)
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
			}
		}
	}()
	go func() {
		defer func() { ended <- struct{}{} }()
		k.tls.keep(ctx, s)
	}()
	l := &loop{k: k, log: log, srv: srv, version: version, session: s, warm: warm, mem: mem}
	return l.run(ctx)
}

// newSession makes the session through the agent's socket. It keeps the newest wish, and begins with it when this
// keeper has been started again and no server can be reached.
func (k *Keeper) newSession(a *Assignment) (Session, error) {
	return k.cfg.NewSession(session.ClientConfig{
		Dir: k.path.keeper("session"), Servers: []string{"unix:" + k.path.proxy()}, ServerName: a.ServerName, Token: a.JoinToken,
		Version: k.cfg.Release, KeepWish: true, Log: k.log,
		OnWish: func(generation uint64, body json.RawMessage) {
			var w session.KeeperWish
			if err := json.Unmarshal(body, &w); err != nil {
				k.log.Error("a wish cannot be read", "generation", generation, "error", err)
				return
			}
			k.box.put(&wish{Generation: generation, Desired: w.Desired})
		},
		OnConnected: func(connected bool, _ error) {
			if connected {
				k.tls.hurry()
			}
		},
		BackoffFirst: 25 * time.Millisecond,
	})
}

// version finds the installed release of the major version.
func (k *Keeper) version(ctx context.Context) (orrery.EngineVersion, error) {
	versions, err := k.cfg.Driver.Discover(ctx)
	if err != nil {
		return orrery.EngineVersion{}, fmt.Errorf("find the installed versions: %w", err)
	}
	for _, v := range versions {
		if v.Version == k.cfg.Version {
			return v, nil
		}
	}
	name := k.cfg.Driver.Engine().Title
	return orrery.EngineVersion{}, orrery.Errorf(orrery.KindNotFound, "%s %s is not installed on this host", name, k.cfg.Version).
		WithCode("engine_missing").WithHint("Install it on the host; the keeper is started again by itself.")
}

// lockFile takes a lock that ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
