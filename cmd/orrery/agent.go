package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/agent"
	"github.com/orrery-db/orrery/internal/hypervisor/process"
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
	err = agent.Serve(ctx, agent.Config{
		Driver: driver, Keeper: keeper, Address: cfg.address, Version: version, Discover: discover, Log: cfg.log.With("part", "agent"),
	}, session.ClientConfig{
		Dir: filepath.Join(cfg.paths.agent(), "session"), Servers: cfg.servers, Token: cfg.token, Name: cfg.name,
		OnConnected: func(connected bool, err error) {
			if connected {
				ready()
				return
			}
			cfg.log.Warn("not connected to the server", "err", err)
		},
	})
	return ignoreCancelled(ctx, err)
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
