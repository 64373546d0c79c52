package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/keeper"
)

// keeperMemory bounds what Go's heap of one keeper grows to before it is collected harder: there is one keeper for each
// database, and what it needs is small.
const keeperMemory = 16 << 20

// keeperCommand is started by agents, never by people: it is hidden.
func keeperCommand() *cobra.Command {
	var dir, engineName, major string
	var port int
	cmd := &cobra.Command{
		Use: "keeper", Hidden: true, Args: cobra.NoArgs,
		Short: "Keep one database (started by the agent)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, ok := driver(engineName)
			if !ok {
				return orrery.Invalid("--engine", "there is no engine %q", engineName)
			}
			debug.SetMemoryLimit(keeperMemory)
			debug.SetGCPercent(50)
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("place", filepath.Base(dir))
			k, err := keeper.New(keeper.Config{Dir: dir, Port: port, Driver: d, Version: major, Release: version, Log: log})
			if err != nil {
				return err
			}
			ctx, stop := signals(cmd.Context())
			defer stop()
			return ignoreCancelled(ctx, k.Run(ctx))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the place's folder")
	cmd.Flags().IntVar(&port, "port", 0, "the place's port")
	cmd.Flags().StringVar(&engineName, "engine", "", "the engine")
	cmd.Flags().StringVar(&major, "version", "", "the engine's major version")
	return cmd
}

// ignoreCancelled takes the end that was asked for as no error.
func ignoreCancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
