package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/agent"
	"github.com/orrery-db/orrery/internal/hypervisor/process"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
)

// agentConfig is what an agent is started with, alone or beside a server.
type agentConfig struct {
	agentFlags
	name    string
	servers []string // session addresses, tried in turn
	token   string   // one-time, for a host that has not joined yet
	paths   paths
	log     *slog.Logger
}

// runAgent makes this machine a host of the plane until ctx ends; ready is called when the agent's session is up. What
// lives in its places goes on when it ends.
func runAgent(ctx context.Context, cfg agentConfig, ready func()) error {
	if err := cfg.check(ctx); err != nil {
		return err
	}
	first, last, _ := cfg.portRange()
	// Databases run as users of their own and must be able to pass through the folders above theirs.
	for _, dir := range []string{cfg.paths.root, cfg.paths.agent()} {
		if err := makeFolder(dir); err != nil {
			return err
		}
	}
	driver, err := process.New(ctx, process.Config{Root: cfg.paths.agent(), FirstPort: first, LastPort: last, Log: cfg.log.With("part", "process")})
	if err != nil {
		return fmt.Errorf("open the places of this machine: %w", err)
	}
	defer driver.Close()
	keeper, err := agent.KeeperBinary(cfg.paths.agent())
	if err != nil {
		return err
	}
	var a *agent.Agent
	dialer := &net.Dialer{}
	client, err := session.NewClient(session.ClientConfig{
		Dir: filepath.Join(cfg.paths.agent(), "session"), Servers: cfg.servers, Token: cfg.token, Name: cfg.name, Version: version,
		OnWish: func(generation uint64, body json.RawMessage) {
			var w session.AgentWish
			if err := json.Unmarshal(body, &w); err != nil {
				cfg.log.Error("read a wish", "err", err)
				return
			}
			a.Wish(generation, w)
		},
		OnConnected: func(connected bool, err error) {
			if connected {
				a.Connected()
				ready()
				return
			}
			cfg.log.Warn("not connected to the server", "err", err)
		},
		Log: cfg.log.With("part", "session"),
	})
	if err != nil {
		return err
	}
	a, err = agent.New(agent.Config{
		Driver: driver, Keeper: keeper, Address: cfg.address, Version: version, ServerName: pki.ServerName,
		Discover: discover,
		Dial: func(ctx context.Context) (net.Conn, error) {
			var err error
			for _, s := range cfg.servers {
				var conn net.Conn
				if conn, err = dialer.DialContext(ctx, "tcp", s); err == nil {
					return conn, nil
				}
			}
			return nil, fmt.Errorf("reach a server: %w", err)
		},
		Report: func(r session.AgentReport) { client.Report(r) },
		Log:    cfg.log.With("part", "agent"),
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return client.Run(ctx) })
	g.Go(func() error { rediscoverOnHangup(ctx, a); return nil })
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// rediscoverOnHangup looks for newly installed engines on SIGHUP.
func rediscoverOnHangup(ctx context.Context, a *agent.Agent) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			a.Rediscover()
		case <-ctx.Done():
			return
		}
	}
}

// discover finds the engine versions that this machine can run.
func discover(ctx context.Context) ([]orrery.EngineVersion, error) {
	var all []orrery.EngineVersion
	for _, d := range drivers() {
		found, err := d.Discover(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for %s: %w", d.Engine().Title, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// signals makes a context that ends when the process is asked to.
func signals(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
}

// logTo is where a role writes its log.
func logTo() io.Writer { return os.Stderr }
