// Package store keeps the plane's state: typed collections of objects in etcd, with transactions, a cache in memory
// that follows etcd and answers every read, watches, leases and sealed secrets.
//
// It owns the form of what is in etcd and everything that talks to it. DESIGN.md, beside this file, tells how it works
// and what it promises.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/seal"
)

// Defaults of Config.
const (
	DefaultPrefix   = "/orrery"
	DefaultLeaseTTL = 10 * time.Second
)

// Config says what a Store works on.
type Config struct {
	// Client talks to etcd. It stays the caller's to close, after the Store.
	Client *clientv3.Client
	// Prefix stands before every key; DefaultPrefix where empty.
	Prefix string
	Sealer *seal.Sealer
	Log    *slog.Logger
	// ServerName names this server as the owner of what it leases.
	ServerName string
	// LeaseTTL is how long leased objects outlive a server that died; DefaultLeaseTTL where 0. Whole seconds.
	LeaseTTL time.Duration
	// Watchdog guards the disk and etcd's quota.
	Watchdog WatchdogConfig
}

func (c Config) withDefaults() (Config, error) {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	c.Prefix = strings.TrimSuffix(c.Prefix, "/")
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	if c.LeaseTTL < time.Second {
		return c, fmt.Errorf("lease TTL %s is below etcd's smallest, 1s", c.LeaseTTL)
	}
	if c.Client == nil || c.Sealer == nil || c.Log == nil || c.ServerName == "" {
		return c, errors.New("its Client, Sealer, Log and ServerName are wanted")
	}
	c.Watchdog = c.Watchdog.withDefaults()
	return c, nil
}

// Store is the plane's state. It is safe for concurrent use.
type Store struct {
	Projects   *Collection[orrery.Project, *orrery.Project]
	Datastores *Collection[orrery.Datastore, *orrery.Datastore]
	Instances  *Collection[orrery.Instance, *orrery.Instance]
	Hosts      *Collection[orrery.Host, *orrery.Host]
	Pools      *Collection[orrery.Pool, *orrery.Pool]
	Regions    *Collection[orrery.Region, *orrery.Region]
	Plans      *Collection[orrery.Plan, *orrery.Plan]
	Jobs       *Collection[orrery.Job, *orrery.Job]
	Events     *Collection[orrery.Event, *orrery.Event]
	Tokens     *Collection[orrery.Token, *orrery.Token]
	Catalogues *Collection[orrery.ParameterCatalogue, *orrery.ParameterCatalogue]
	Secrets    *Collection[Secret, *Secret]
	Requests   *Collection[Request, *Request]
	Claims     *Collection[Claim, *Claim]
	Locks      *Collection[Claim, *Claim]
	Presences  *Collection[Claim, *Claim]

	cfg    Config
	client *clientv3.Client
	log    *slog.Logger
	tables map[string]table

	mu       sync.RWMutex // guards what the tables hold, and the two below it
	revision int64        // of the last change that the cache shows
	waiters  revisionWaiters

	subs     subscriptions
	lease    lease
	dog      watchdog
	epoch    atomic.Uint64
	retrying [64]chan struct{} // one retrier at a time for each of these shares of keys
	relist   chan struct{}     // asks the follower to list anew

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup
}

// Secret is a sealed value. Its ID says whose it is: "<owner's ID>/<path>".
type Secret struct {
	orrery.Meta
	Sealed []byte `json:"sealed"`
}

// Request is the answer to a request that carried an Idempotency-Key, kept without its secrets for as long as the
// request may be repeated.
type Request struct {
	orrery.Meta
	Hash      string          `json:"hash"` // of the request, to tell another one with the same key
	Answer    json.RawMessage `json:"answer"`
	ExpiresAt time.Time       `json:"expires_at"`
}

// Claim is a leased mark of a server: that it runs a job, holds a lock, serves a session. Owner is the server's name;
// InsertLeased fills it in where it is empty. Note is the owner's to use.
type Claim struct {
	orrery.Meta
	Owner string `json:"owner"`
	Note  string `json:"note,omitempty"`
}

// Open reads the whole state into memory and starts to follow it. ctx bounds only the opening.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	s := newStore(cfg)
	if err := s.open(ctx); err != nil {
		s.stop()
		s.running.Wait()
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return s, nil
}

func newStore(cfg Config) *Store {
	s := &Store{cfg: cfg, client: cfg.Client, log: cfg.Log, tables: map[string]table{}, relist: make(chan struct{}, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.subs.init()
	s.lease.init()
	s.dog.init()
	for i := range s.retrying {
		s.retrying[i] = make(chan struct{}, 1)
	}
	s.defineCollections()
	return s
}

func (s *Store) open(ctx context.Context) error {
	if err := s.ensureEpoch(ctx); err != nil {
		return err
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	if err := s.grantLease(ctx); err != nil {
		return err
	}
	s.lookAtSpace(ctx)
	s.running.Go(s.follow)
	s.running.Go(s.keepLease)
	s.running.Go(s.watchSpace)
	return nil
}

// Close stops following, ends every watch and gives the lease back, so that other servers take over at once.
func (s *Store) Close() error {
	s.stop()
	s.running.Wait()
	s.subs.close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.revokeLease(ctx); err != nil {
		return fmt.Errorf("close the store: give the lease back: %w", err)
	}
	return nil
}

// Abandon stops as a crash would: the lease is left to run out. Tests use it.
func (s *Store) Abandon() {
	s.stop()
	s.running.Wait()
	s.subs.close()
}

// Revision is that of the last change which reads show.
func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// errClosed is what those get that wait on a Store which is closed under them.
func errClosed() error {
	return orrery.Errorf(orrery.KindUnavailable, "this server is stopping").WithCode("server_stopping").
		WithHint("Try again; another server or the restarted one will answer.")
}
