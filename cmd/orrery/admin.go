package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/cli"
	"github.com/orrery-db/orrery/internal/control"
	"github.com/orrery-db/orrery/internal/hypervisor/process"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
)

func adminCommand(system cli.Config) *cobra.Command {
	cmd := &cobra.Command{Use: "admin", Short: "Look after a plane from the machine it runs on", GroupID: cli.GroupHost}
	cmd.AddCommand(resetTokenCommand(system), destroyCommand())
	return cmd
}

// stateFlags say where the state is.
type stateFlags struct {
	common commonFlags
	server serverFlags
}

func (f *stateFlags) add(cmd *cobra.Command) {
	f.common.add(cmd.Flags())
	f.server.add(cmd.Flags())
	for _, hide := range []string{"api-listen", "session-listen", "tls-name", "warm"} {
		_ = cmd.Flags().MarkHidden(hide)
	}
}

// open opens the state beside a running server, or by itself where none runs.
func (f *stateFlags) open(ctx context.Context, log *slog.Logger) (*store.Store, func(), error) {
	p := f.common.paths()
	var client *clientv3.Client
	var closers []func() error
	done := func() {
		for i := len(closers) - 1; i >= 0; i-- {
			_ = closers[i]()
		}
	}
	endpoints := f.server.dialConfig(log)
	lock, _, err := takeLock(p.lock())
	switch {
	case err != nil:
		return nil, nil, err
	case len(endpoints.Endpoints) == 0 && lock != nil: // nobody runs it: run it ourselves
		closers = append(closers, func() error { lock.release(); return nil })
		embedded, err := etcd.Start(ctx, etcd.Config{Dir: p.etcd(), Log: log})
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("start etcd: %w", err)
		}
		closers = append(closers, embedded.Close)
		client = embedded.Client()
	default:
		if lock != nil {
			lock.release()
		}
		if len(endpoints.Endpoints) == 0 {
			endpoints.Endpoints = []string{"unix://" + filepath.Join(p.etcd(), etcd.SocketName)}
		}
		if client, err = etcd.Dial(ctx, endpoints); err != nil {
			return nil, nil, fmt.Errorf("connect to etcd: %w", err)
		}
		closers = append(closers, client.Close)
	}
	f.server.name += "-admin"
	st, err := openStore(ctx, client, f.server, p, log)
	if err != nil {
		done()
		return nil, nil, err
	}
	closers = append(closers, st.Close)
	return st, done, nil
}

func resetTokenCommand(system cli.Config) *cobra.Command {
	var f stateFlags
	cmd := &cobra.Command{
		Use: "reset-token", Short: "Make a new administrator's token in place of a lost one", Args: cobra.NoArgs,
		Long:    "Replace the first administrator's token. Whoever can read the plane's folder may do this; the old token is good for nothing from then on.",
		Example: "  orrery admin reset-token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.DiscardHandler)
			st, done, err := f.open(cmd.Context(), log)
			if err != nil {
				return err
			}
			defer done()
			c, err := control.New(control.Config{Store: st, Engines: definitions(), Log: log})
			if err != nil {
				return err
			}
			token, err := c.ReplaceBootstrapToken(cmd.Context())
			if err != nil {
				return err
			}
			p := f.common.paths()
			if err := os.WriteFile(p.adminToken(), []byte(token), 0o600); err != nil {
				return fmt.Errorf("write the token: %w", err)
			}
			for _, dir := range []string{p.server(), system.ConfigDir} {
				have, err := cli.LoadContext(dir)
				if err != nil || have.Server == "" {
					continue
				}
				have.Token = token
				if err := cli.SaveContext(dir, have); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The new token is in %s.\n", p.adminToken())
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

func destroyCommand() *cobra.Command {
	var common commonFlags
	var yes bool
	cmd := &cobra.Command{
		Use: "destroy", Short: "Remove the plane of this machine with all databases and all data", Args: cobra.NoArgs,
		Long:    "Stop the plane, remove every place on this machine with the databases in it, and remove the data folder. There is no way back.",
		Example: "  orrery admin destroy --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := common.paths()
			if !yes {
				return orrery.Invalid("--yes", "everything in %s would be removed for good", p.root).WithHint("Say so with --yes.")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
			defer cancel()
			return destroy(ctx, p, cmd.OutOrStdout())
		},
	}
	common.add(cmd.Flags())
	cmd.Flags().BoolVar(&yes, "yes", false, "really")
	return cmd
}

func destroy(ctx context.Context, p paths, out io.Writer) error {
	if _, err := os.Stat(p.root); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(out, "There is nothing in %s.\n", p.root)
		return nil
	}
	if _, err := stopPlane(ctx, p.lock(), 10*time.Second); err != nil {
		return err
	}
	places := 0
	if _, err := os.Stat(p.agent()); err == nil {
		d, err := process.New(ctx, process.Config{Root: p.agent(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return fmt.Errorf("open the places of this machine: %w", err)
		}
		defer d.Close()
		list, err := d.List(ctx)
		if err != nil {
			return fmt.Errorf("list the places of this machine: %w", err)
		}
		for _, place := range list {
			if err := d.Destroy(ctx, place.ID); err != nil {
				return fmt.Errorf("remove the place %s: %w", place.ID, err)
			}
			places++
		}
	}
	if err := os.RemoveAll(p.root); err != nil {
		return fmt.Errorf("remove %s: %w", p.root, err)
	}
	fmt.Fprintf(out, "Removed %d databases and %s.\n", places, p.root)
	return nil
}
