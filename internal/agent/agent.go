// Package agent is the daemon of one host. It makes the places that the server wishes for instances, by a hypervisor
// driver, and nothing else: it holds prepared places ready, hands them out, leads their keepers to the server, and
// reports what it sees. It knows no SQL and no engine; what lives in a place is a keeper. See DESIGN.md.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
	"github.com/orrery-db/orrery/internal/session"
)

// Config of an agent.
type Config struct {
	Driver hypervisor.Driver
	// Keeper is the program that is run in places, as "<Keeper> keeper --dir … --port … --engine … --version …"; see
	// KeeperBinary.
	Keeper string
	// Address is where the instances of this host are reached.
	Address string
	// Version of this binary. Warm places of another version are not handed out.
	Version string
	// Discover finds the engines installed on this host. It is called at the start, every DiscoverEvery (1 min), and
	// on Rediscover.
	Discover      func(ctx context.Context) ([]orrery.EngineVersion, error)
	DiscoverEvery time.Duration
	// Dial connects to the server's session address. Keepers get there, and nowhere else, by their place's proxy.sock.
	Dial func(ctx context.Context) (net.Conn, error)
	// ServerName is the name that keepers shall find in the server's certificate.
	ServerName string
	// Report is told, whenever what the agent sees has changed, where to get the newest report: session.Client's
	// ReportFunc. It must not block.
	Report func(newest func(first bool) any)
	// NoWarm holds no prepared places ready, whatever the server wishes.
	NoWarm bool
	// RefillDelay is how long nothing must have been created or handed out before the next warm place is made; 2 s.
	RefillDelay time.Duration
	Log         *slog.Logger
}

func (c *Config) validate() error {
	for _, f := range []struct {
		field   string
		missing bool
	}{
		{"driver", c.Driver == nil}, {"keeper", c.Keeper == ""}, {"discover", c.Discover == nil}, {"dial", c.Dial == nil},
		{"report", c.Report == nil}, {"log", c.Log == nil},
	} {
		if f.missing {
			return orrery.Invalid(f.field, "an agent needs it")
		}
	}
	return nil
}

// Agent is a host's agent. One goroutine, Run's, owns all its state; operations on places run beside it and hand their
// results back to it.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	inbox  chan func() // work for Run's goroutine
	rescan chan struct{}
	ended  chan struct{} // closed when Run has ended
	tasks  sync.WaitGroup
	bootID string

	// All below belongs to Run's goroutine.
	ctx        context.Context
	generation uint64
	wished     bool // a wish has come
	claims     map[string]*claim
	warmWish   map[engineKey]int
	places     map[string]*placeInfo
	engines    map[engineKey]orrery.EngineVersion
	engineList []orrery.EngineVersion
	host       hypervisor.Host
	hostError  string
	lastUse    time.Time // a create or hand-out last ran
	nextWake   time.Time
	reporter   reporter
}

// engineKey is an engine and its major version.
type engineKey struct{ engine, version string }

func (k engineKey) String() string { return k.engine + "-" + k.version }

// New makes an agent; Run brings it to life.
func New(cfg Config) (*Agent, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.DiscoverEvery == 0 {
		cfg.DiscoverEvery = time.Minute
	}
	if cfg.RefillDelay == 0 {
		cfg.RefillDelay = 2 * time.Second
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the host's boot ID: %w", err)
	}
	return &Agent{
		cfg: cfg, log: cfg.Log, bootID: strings.TrimSpace(string(boot)),
		inbox: make(chan func(), 64), rescan: make(chan struct{}, 1), ended: make(chan struct{}),
		claims: map[string]*claim{}, places: map[string]*placeInfo{}, engines: map[engineKey]orrery.EngineVersion{},
	}, nil
}

// Run adopts the places that are there and converges to wishes until ctx ends. Places and keepers live on after it.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.ctx = ctx
	defer close(a.ended)
	defer a.tasks.Wait()
	defer a.closeProxies()
	defer cancel()
	host, err := a.cfg.Driver.Host(ctx)
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	a.host = host
	if err := a.refresh(); err != nil {
		return err
	}
	// Before the first report: a host without engines would be taken for one that can hold nothing.
	engines, err := a.cfg.Discover(ctx)
	a.setEngines(engines, err)
	a.tasks.Go(a.discoverLoop)

	changes := a.cfg.Driver.Changes()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case work := <-a.inbox:
			work()
		case _, ok := <-changes:
			if !ok {
				return errors.New("the hypervisor driver was closed under the agent")
			}
			if err := a.refresh(); err != nil {
				a.log.Error("places cannot be listed", "error", err)
			}
		case <-timer.C:
		}
		a.nextWake = time.Time{}
		a.reconcile()
		a.publish()
		if a.nextWake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Millisecond, time.Until(a.nextWake)))
		}
	}
}

// Wish takes the whole wish of the server. Older generations are the session's to refuse.
func (a *Agent) Wish(generation uint64, wish session.AgentWish) {
	a.do(func() { a.takeWish(generation, wish) })
}

// OnWish is Wish for session.ClientConfig.
func (a *Agent) OnWish(generation uint64, body json.RawMessage) {
	var wish session.AgentWish
	if err := json.Unmarshal(body, &wish); err != nil {
		a.log.Error("a wish cannot be read", "generation", generation, "error", err)
		return
	}
	a.Wish(generation, wish)
}

// Rediscover looks for installed engines now.
func (a *Agent) Rediscover() {
	select {
	case a.rescan <- struct{}{}:
	default:
	}
}

// do has Run's goroutine do work. Before Run, and while it is busy, work queues up.
func (a *Agent) do(work func()) {
	select {
	case a.inbox <- work:
	case <-a.ended:
	}
}

// post is do for tasks, which Run waits for when it ends.
func (a *Agent) post(work func()) {
	select {
	case a.inbox <- work:
	case <-a.ctx.Done():
	}
}

// wakeAt asks for a reconcile at t at the latest.
func (a *Agent) wakeAt(t time.Time) {
	if a.nextWake.IsZero() || t.Before(a.nextWake) {
		a.nextWake = t
	}
}

func (a *Agent) discoverLoop() {
	tick := time.NewTicker(a.cfg.DiscoverEvery)
	defer tick.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		case <-a.rescan:
		}
		engines, err := a.cfg.Discover(a.ctx)
		a.post(func() { a.setEngines(engines, err) })
	}
}

// setEngines keeps what was known where discovery failed.
func (a *Agent) setEngines(engines []orrery.EngineVersion, err error) {
	if err != nil {
		a.log.Error("installed engines cannot be found", "error", err)
		a.hostError = "installed engines cannot be found: " + text(err)
		return
	}
	a.hostError = ""
	a.engineList = engines
	clear(a.engines)
	for _, e := range engines {
		a.engines[engineKey{e.Engine, e.Version}] = e
	}
	for _, c := range a.claims {
		if e, ok := errors.AsType[*orrery.Error](c.err); ok && e.Code == codeEngineMissing {
			c.err = nil // look again
		}
	}
}
