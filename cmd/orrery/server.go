package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/cli"
	"github.com/orrery-db/orrery/internal/control"
	"github.com/orrery-db/orrery/internal/hub"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/seal"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/step"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
)

// server is one server of the plane, put together.
type server struct {
	flags     serverFlags
	paths     paths
	log       *slog.Logger
	store     *store.Store
	authority *authority
	tls       *pki.ServerCertificate
	hub       *hub.Hub
	runner    *job.Runner
	session   *session.Server
	api       *apiServer
	control   *control.Control
	listeners struct{ api, session net.Listener }
	closers   []func() error
}

// newServer opens the state and puts the server together; run makes it answer.
func newServer(ctx context.Context, f serverFlags, p paths, log *slog.Logger) (s *server, err error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	s = &server{flags: f, paths: p, log: log}
	half := s // s itself is nil where this function returns nil
	defer func() {
		if err != nil {
			err = errors.Join(err, half.close())
		}
	}()
	if err := os.MkdirAll(p.server(), 0o700); err != nil {
		return nil, fmt.Errorf("make the server's folder: %w", err)
	}
	// Listening comes first: a port that is taken is said before anything is touched.
	for _, l := range []struct {
		flag, addr string
		to         *net.Listener
	}{{"--api-listen", f.apiListen, &s.listeners.api}, {"--session-listen", f.sessionListen, &s.listeners.session}} {
		if *l.to, err = (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr); err != nil {
			return nil, orrery.Errorf(orrery.KindConflict, "cannot listen on %s", l.addr).WithCode("port_taken").WithCause(err).
				WithHint("Another program may hold it; choose another address with %s.", l.flag)
		}
		s.closers = append(s.closers, (*l.to).Close)
	}
	client, err := s.openEtcd(ctx)
	if err != nil {
		return nil, err
	}
	if s.store, err = openStore(ctx, client, f, p, log); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.store.Close)
	if s.authority, err = loadAuthority(ctx, s.store); err != nil {
		return nil, fmt.Errorf("load the plane's keys: %w", err)
	}
	s.tls = pki.NewServerCertificate(s.authority.plane, f.certNames())
	return s, s.assemble(ctx)
}

// assemble makes the parts that work on the store.
func (s *server) assemble(ctx context.Context) (err error) {
	defaults, err := s.newControl(ctx)
	if err != nil {
		return err
	}
	s.hub, err = hub.New(hub.Config{Store: s.store, Plane: s.authority.plane, Data: s.authority.data, JoinKey: s.authority.joinKey,
		Warm: s.flags.warm, DefaultPool: defaults.Pool, Server: s.flags.name, Log: s.log.With("part", "hub")})
	if err != nil {
		return err
	}
	steps := step.New(step.Config{Store: s.store, Log: s.log.With("part", "step")})
	s.runner, err = job.New(job.Config{Store: s.store, Kinds: steps.Kinds(), Steps: steps.Defs(), Server: s.flags.name, Log: s.log.With("part", "job")})
	if err != nil {
		return err
	}
	s.session, err = session.NewServer(session.ServerConfig{Plane: s.hub, CA: s.authority.plane.CertPEM(),
		GetCertificate: s.tls.Get, Log: s.log.With("part", "session")})
	return err
}

// run serves until ctx ends; ready is called when all that a client needs answers.
func (s *server) run(ctx context.Context, ready func() error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.hub.Run(ctx) })
	g.Go(func() error { return s.runner.Run(ctx) })
	g.Go(func() error { return s.session.Serve(ctx, s.listeners.session) })
	g.Go(func() error { return s.api.serve(ctx, s.listeners.api) })
	g.Go(func() error { return s.control.Run(ctx) })
	g.Go(func() error { return s.keepHouse(ctx) })
	g.Go(func() error {
		if err := s.writeContext(); err != nil {
			return err
		}
		return ready()
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// keepHouse removes finished jobs and old events from time to time.
func (s *server) keepHouse(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		jobs, events, err := job.Prune(ctx, s.store, job.Keep{})
		if err != nil {
			s.log.Warn("remove old jobs and events", "err", err)
			continue
		}
		if jobs+events > 0 {
			s.log.Info("removed old jobs and events", "jobs", jobs, "events", events)
		}
	}
}

// close lets go of everything, in the opposite order.
func (s *server) close() (err error) {
	for i := len(s.closers) - 1; i >= 0; i-- {
		if e := s.closers[i](); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	s.closers = nil
	return err
}

// openEtcd starts the embedded etcd, or dials the one that the flags name.
func (s *server) openEtcd(ctx context.Context) (*clientv3.Client, error) {
	if len(s.flags.etcdEndpoints) > 0 {
		client, err := etcd.Dial(ctx, s.flags.dialConfig(s.log))
		if err != nil {
			return nil, fmt.Errorf("connect to etcd: %w", err)
		}
		s.closers = append(s.closers, client.Close)
		return client, nil
	}
	embedded, err := etcd.Start(ctx, etcd.Config{Dir: s.paths.etcd(), Log: s.log.With("part", "etcd")})
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	s.closers = append(s.closers, embedded.Close)
	return embedded.Client(), nil
}

// openStore opens the state with the root key beside it. The key is made with the first state and never after: a new key
// for old secrets would only hide that the right one is missing.
func openStore(ctx context.Context, client *clientv3.Client, f serverFlags, p paths, log *slog.Logger) (*store.Store, error) {
	fresh, err := client.Get(ctx, f.etcdPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return nil, fmt.Errorf("look into etcd: %w", err)
	}
	sealer, err := seal.OpenKeyFile(p.rootKey(), fresh.Count == 0)
	if err != nil {
		return nil, fmt.Errorf("open the root key: %w", err)
	}
	cfg := store.Config{Client: client, Prefix: f.etcdPrefix, Sealer: sealer, Log: log.With("part", "store"), ServerName: f.name}
	if len(f.etcdEndpoints) == 0 {
		cfg.Watchdog.Dir = p.etcd()
	}
	st, err := store.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the state: %w", err)
	}
	return st, nil
}

// writeContext writes what the command line needs to find this plane as its administrator.
func (s *server) writeContext() error {
	token, err := os.ReadFile(s.paths.adminToken())
	if errors.Is(err, os.ErrNotExist) {
		return nil // another server made the token, and keeps it
	}
	if err != nil {
		return fmt.Errorf("read the administrator's token: %w", err)
	}
	host, port, err := net.SplitHostPort(s.listeners.api.Addr().String())
	if err != nil {
		return fmt.Errorf("read the API's address: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return cli.SaveContext(s.paths.server(), cli.Context{Server: "https://" + net.JoinHostPort(host, port),
		Token: string(token), CA: string(s.authority.plane.CertPEM())})
}

// makeFolder makes a folder that others may pass through, whatever the umask.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", filepath.Base(dir), err)
	}
	return nil
}
