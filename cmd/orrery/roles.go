package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/cli"
)

// startTime bounds the start of a server: opening etcd, reading the whole state.
const startTime = 2 * time.Minute

// reportTime bounds how long a start waits for what this machine's engines say of themselves.
const reportTime = 15 * time.Second

func serverCommand() *cobra.Command {
	var common commonFlags
	var f serverFlags
	cmd := &cobra.Command{
		Use: "server", Short: "Run a server of the plane, without an agent", Args: cobra.NoArgs, GroupID: cli.GroupHost,
		Long: `Run a server of the plane in the foreground: the API, the jobs, and the address that agents and keepers dial.
Several servers share the work when they share an etcd (--etcd-endpoints) and the root key.`,
		Example: `  orrery server --api-listen :7600 --session-listen :7601 --tls-name plane.example.net
  orrery server --name b --etcd-endpoints https://10.0.0.1:2379,https://10.0.0.2:2379 \
      --etcd-ca ca.pem --etcd-cert client.pem --etcd-key client.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := common.logger(logTo())
			if err != nil {
				return err
			}
			ctx, stop := signals(cmd.Context())
			defer stop()
			return announced(func(ready func()) error {
				s, err := startServer(ctx, f, common.paths(), log)
				if err != nil {
					return err
				}
				err = s.run(ctx, func() error { ready(); return nil })
				return firstError(err, s.close())
			})
		},
	}
	common.add(cmd.Flags())
	f.add(cmd.Flags())
	return cmd
}

func agentCommand() *cobra.Command {
	var common commonFlags
	cfg := agentConfig{}
	cmd := &cobra.Command{
		Use: "agent", Short: "Make this machine a host of a plane", Args: cobra.NoArgs, GroupID: cli.GroupHost,
		Long: `Run the agent in the foreground: it makes and unmakes places for databases on this machine, as a server says.
The first time it wants a token from "orrery host join-token"; from then on it is known.
Databases go on when it ends, and it finds them again.`,
		Example: `  orrery agent --server 10.0.0.5:7601 --join-token to-…  --advertise-address 10.0.0.7`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(cfg.servers) == 0 {
				return orrery.Invalid("--server", "it is not said which server to dial").WithHint("Give it as host:7601.")
			}
			log, err := common.logger(logTo())
			if err != nil {
				return err
			}
			cfg.log, cfg.paths = log, common.paths()
			ctx, stop := signals(cmd.Context())
			defer stop()
			return announced(func(ready func()) error { return ignoreCancelled(ctx, runAgent(ctx, cfg, ready)) })
		},
	}
	common.add(cmd.Flags())
	cfg.add(cmd.Flags())
	cmd.Flags().StringSliceVar(&cfg.servers, "server", nil, "session address of a server; several are tried in turn")
	cmd.Flags().StringVar(&cfg.token, "join-token", "", "one-time token for a machine that is new to the plane")
	cmd.Flags().StringVar(&cfg.name, "name", hostName(), "name of this host")
	return cmd
}

// runPlane is server and agent in one process, until ctx ends.
func runPlane(ctx context.Context, f serverFlags, a agentFlags, p paths, common commonFlags) error {
	log, err := common.logger(logTo())
	if err != nil {
		return err
	}
	if err := a.check(ctx); err != nil {
		return err
	}
	if err := makeFolder(p.root); err != nil {
		return err
	}
	lock, holder, err := takeLock(p.lock())
	if err != nil {
		return err
	}
	if lock == nil {
		return orrery.Errorf(orrery.KindConflict, "a plane runs already on %s (process %d)", p.root, holder).WithCode("running").
			WithHint("Stop it with: orrery down.")
	}
	defer lock.release()
	return announced(func(ready func()) error {
		s, err := startServer(ctx, f, p, log)
		if err != nil {
			return err
		}
		token, err := s.hostToken(ctx)
		if err != nil {
			return firstError(err, s.close())
		}
		g, ctx := errgroup.WithContext(ctx)
		both := newBoth(ready)
		g.Go(func() error { return s.run(ctx, func() error { both(0); return nil }) })
		g.Go(func() error {
			return runAgent(ctx, agentConfig{agentFlags: a, name: f.name, servers: []string{s.listeners.session.Addr().String()},
				token: token, paths: p, log: log}, func() { go s.whenHostReports(ctx, func() { both(1) }) })
		})
		return firstError(ignoreCancelled(ctx, g.Wait()), s.close())
	})
}

// whenHostReports calls done when this machine has said what it can run, and what the parameters of that are: before
// that little can be asked of it. A machine that says nothing for a while keeps nobody waiting.
func (s *server) whenHostReports(ctx context.Context, done func()) {
	wait, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	err := s.store.WaitFor(wait, nil, func() (bool, error) {
		for _, h := range s.store.Hosts.By("name", s.flags.name) {
			_, present := s.store.Presences.Get(h.ID)
			return present && h.Status.AgentVersion == version && !slices.ContainsFunc(h.Status.Engines, func(e orrery.EngineVersion) bool {
				return len(s.store.Catalogues.By("name", e.Engine+"-"+e.Version)) == 0
			}), nil
		}
		return false, nil
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("this machine has not said yet what its engines can do", "waited", reportTime)
	}
	done()
}

// startServer is newServer within its time.
func startServer(ctx context.Context, f serverFlags, p paths, log *slog.Logger) (*server, error) {
	start, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	s, err := newServer(start, f, p, log)
	if err != nil && start.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("the server did not start within %s: %w", startTime, err)
	}
	return s, err
}

// newBoth calls ready once each of two parts has said that it is.
func newBoth(ready func()) func(part int) {
	var mu sync.Mutex
	var said [2]bool
	return func(part int) {
		mu.Lock()
		defer mu.Unlock()
		was := said[0] && said[1]
		said[part] = true
		if !was && said[0] && said[1] {
			ready()
		}
	}
}

// announced runs a role and tells whoever started it in the background when it is ready, or why it did not come to that.
func announced(run func(ready func()) error) error {
	var once sync.Once
	err := run(func() { once.Do(func() { tellReady(nil) }) })
	if err != nil {
		once.Do(func() { tellReady(err) })
	}
	return err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
