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
	"github.com/orrery-db/orrery/internal/seal"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
)

func adminCommand(system cli.Config) *cobra.Command {
	cmd := &cobra.Command{Use: "admin", Short: "Look after a plane from the machine it runs on", GroupID: cli.GroupHost}
	cmd.AddCommand(snapshotCommand(), restoreCommand(), resetTokenCommand(system), destroyCommand(system))
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

// openEtcd reaches the etcd of a running server, or starts the embedded one where none runs.
func (f *stateFlags) openEtcd(ctx context.Context, log *slog.Logger) (*clientv3.Client, func(), error) {
	p := f.common.paths()
	endpoints := f.server.dialConfig(log)
	if len(endpoints.Endpoints) > 0 {
		client, err := etcd.Dial(ctx, endpoints)
		if err != nil {
			return nil, nil, fmt.Errorf("connect to etcd: %w", err)
		}
		return client, func() { _ = client.Close() }, nil
	}
	lock, _, err := takeLock(p.lock())
	if err != nil {
		return nil, nil, err
	}
	if lock == nil { // a plane runs: its etcd answers on its socket
		endpoints.Endpoints = []string{"unix://" + filepath.Join(p.etcd(), etcd.SocketName)}
		client, err := etcd.Dial(ctx, endpoints)
		if err != nil {
			return nil, nil, fmt.Errorf("connect to the plane's etcd: %w", err)
		}
		return client, func() { _ = client.Close() }, nil
	}
	embedded, err := etcd.Start(ctx, etcd.Config{Dir: p.etcd(), Log: log})
	if err != nil {
		lock.release()
		return nil, nil, fmt.Errorf("start etcd: %w", err)
	}
	return embedded.Client(), func() { _ = embedded.Close(); lock.release() }, nil
}

// open opens the state itself.
func (f *stateFlags) open(ctx context.Context, log *slog.Logger) (*store.Store, func(), error) {
	client, done, err := f.openEtcd(ctx, log)
	if err != nil {
		return nil, nil, err
	}
	f.server.name += "-admin"
	st, err := openStore(ctx, client, f.server, f.common.paths(), log)
	if err != nil {
		done()
		return nil, nil, err
	}
	return st, func() { _ = st.Close(); done() }, nil
}

func snapshotCommand() *cobra.Command {
	var f stateFlags
	cmd := &cobra.Command{
		Use: "snapshot FILE", Short: "Write the whole state of the plane into a file", Args: cobra.ExactArgs(1),
		Long: `Write everything that the plane knows into one file, at one moment, while it runs or while it is down.
Secrets stay sealed in it: keep the root key (server/root.key in the data folder) too, apart from the file.
The databases' own data is not in it.`,
		Example: "  orrery admin snapshot /backup/plane-$(date +%F).snap",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, done, err := f.openEtcd(cmd.Context(), slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer done()
			tmp, err := os.CreateTemp(filepath.Dir(args[0]), ".orrery-snapshot-*")
			if err != nil {
				return fmt.Errorf("make the file: %w", err)
			}
			defer os.Remove(tmp.Name())
			info, err := store.WriteSnapshot(cmd.Context(), client, f.server.etcdPrefix, tmp)
			if err == nil {
				err = tmp.Sync()
			}
			if err := errors.Join(err, tmp.Close()); err != nil {
				return fmt.Errorf("write the snapshot: %w", err)
			}
			if err := os.Rename(tmp.Name(), args[0]); err != nil {
				return fmt.Errorf("write the snapshot: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d objects at revision %d.\nKeep the root key as well: %s\n", args[0], info.Keys, info.Revision, f.common.paths().rootKey())
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

func restoreCommand() *cobra.Command {
	var f stateFlags
	var force bool
	var key string
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Make the state of the plane what a snapshot says", Args: cobra.ExactArgs(1),
		Long: `Restore a snapshot into an empty state. The plane must be down. On a new machine give the root key as well.
Hosts and databases that are in the snapshot are found again when the plane starts.`,
		Example: "  orrery admin restore /backup/plane.snap --root-key /backup/root.key\n  orrery up",
		RunE: func(cmd *cobra.Command, args []string) error {
			p := f.common.paths()
			lock, holder, err := takeLock(p.lock())
			if err != nil {
				return err
			}
			if lock == nil {
				return orrery.Errorf(orrery.KindConflict, "the plane runs (process %d)", holder).WithCode("running").WithHint("Stop it first: orrery down.")
			}
			lock.release()
			in, err := os.Open(args[0])
			if err != nil {
				return orrery.Invalid("FILE", "the snapshot cannot be read").WithCause(err)
			}
			defer in.Close()
			if key != "" {
				if err := placeKey(key, p); err != nil {
					return err
				}
			}
			client, done, err := f.openEtcd(cmd.Context(), slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			defer done()
			sealer, err := seal.OpenKeyFile(p.rootKey(), false)
			if err != nil {
				return fmt.Errorf("open the root key: %w", err)
			}
			info, err := store.Restore(cmd.Context(), store.RestoreConfig{Client: client, Prefix: f.server.etcdPrefix, Sealer: sealer, Force: force}, in)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Restored %d objects of revision %d. Start the plane with: orrery up\n", info.Keys, info.Revision)
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "replace a state that is not empty")
	cmd.Flags().StringVar(&key, "root-key", "", "file with the root key that the snapshot's secrets are sealed under")
	return cmd
}

// placeKey puts a root key where the server looks for it; one that is there and differs is not overwritten.
func placeKey(file string, p paths) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return orrery.Invalid("--root-key", "the key cannot be read").WithCause(err)
	}
	have, err := os.ReadFile(p.rootKey())
	if err == nil && string(have) != string(b) {
		return orrery.Errorf(orrery.KindConflict, "%s holds another key", p.rootKey()).WithHint("Move it away first; what it sealed cannot be read without it.")
	}
	if err := os.MkdirAll(p.server(), 0o700); err != nil {
		return fmt.Errorf("make the server's folder: %w", err)
	}
	if err := os.WriteFile(p.rootKey(), b, 0o600); err != nil {
		return fmt.Errorf("put the root key in place: %w", err)
	}
	return nil
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

func destroyCommand(system cli.Config) *cobra.Command {
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
			return destroy(ctx, p, system, cmd.OutOrStdout())
		},
	}
	common.add(cmd.Flags())
	cmd.Flags().BoolVar(&yes, "yes", false, "really")
	return cmd
}

func destroy(ctx context.Context, p paths, system cli.Config, out io.Writer) error {
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
	// What this user's command line keeps of the plane is good for nothing from now on.
	mine, err := cli.LoadContext(system.ConfigDir)
	its, err2 := cli.LoadContext(p.server())
	if err == nil && err2 == nil && mine.CA != "" && mine.CA == its.CA {
		if err := os.RemoveAll(system.ConfigDir); err != nil {
			return fmt.Errorf("remove %s: %w", system.ConfigDir, err)
		}
	}
	if err := os.RemoveAll(p.root); err != nil {
		return fmt.Errorf("remove %s: %w", p.root, err)
	}
	fmt.Fprintf(out, "Removed %d databases and %s.\n", places, p.root)
	return nil
}
