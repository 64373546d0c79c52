package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-db/orrery/internal/session"
)

// Serve runs an agent and its session with the server until ctx ends or one of them fails. It sets what ties the two:
// cfg.Report, client.OnWish, cfg.Dial where that is nil (to the servers of the session), and what is in both. The host
// joins with client.Token where client.Dir holds no identity yet.
func Serve(ctx context.Context, cfg Config, client session.ClientConfig) error {
	if cfg.Dial == nil {
		cfg.Dial = dialAny(client.Servers)
	}
	if cfg.ServerName == "" {
		cfg.ServerName = client.ServerName
	}
	if client.Log == nil {
		client.Log = cfg.Log
	}
	if client.Version == "" {
		client.Version = cfg.Version
	}
	var a *Agent // set before the client runs
	client.OnWish = func(generation uint64, body json.RawMessage) { a.OnWish(generation, body) }
	c, err := session.NewClient(client)
	if err != nil {
		return fmt.Errorf("make the agent's session: %w", err)
	}
	cfg.Report = c.ReportFunc
	if a, err = New(cfg); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error {
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("hold the agent's session: %w", err)
		}
		return nil
	})
	return g.Wait()
}

// dialAny connects to the first of the servers that can be reached, from a random one on.
func dialAny(servers []string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		var errs []error
		first := rand.IntN(max(1, len(servers)))
		for i := range servers {
			network, address := "tcp", servers[(first+i)%len(servers)]
			if path, ok := strings.CutPrefix(address, "unix:"); ok {
				network, address = "unix", path
			}
			conn, err := dialer.DialContext(ctx, network, address)
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
}
