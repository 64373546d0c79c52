package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// warmer prepares a dataset that belongs to nobody yet, so that an instance can be had at once. A place that is assigned
// before it is done goes on with what it has: a primary waits for the dataset, a replica drops it.
type warmer struct {
	k       *Keeper
	srv     engine.Server
	version orrery.EngineVersion
	cancel  context.CancelFunc
	done    chan struct{} // nil where there is nothing to wait for
	err     error         // valid when done
	taken   atomic.Bool
}

func newWarmer(k *Keeper, srv engine.Server, version orrery.EngineVersion) *warmer {
	return &warmer{k: k, srv: srv, version: version}
}

func (w *warmer) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	w.done = make(chan struct{})
	go func() {
		defer close(w.done)
		for b := (backoff{first: time.Second, limit: 30 * time.Second}); ; {
			if w.err = w.prepare(ctx); w.err == nil || ctx.Err() != nil || w.taken.Load() {
				return
			}
			w.k.log.Error("the dataset cannot be prepared", "error", w.err)
			select {
			case <-time.After(b.next()):
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (w *warmer) prepare(ctx context.Context) error {
	began := time.Now()
	if err := w.k.tls.makeKey(); err != nil {
		return err
	}
	if err := w.srv.Prepare(ctx); err != nil {
		return fmt.Errorf("prepare a dataset: %w", err)
	}
	if w.taken.Load() {
		return nil // somebody waits for the dataset, and nobody for the catalogue
	}
	parameters, err := w.srv.Parameters(ctx)
	if err != nil {
		return fmt.Errorf("list the parameters: %w", err)
	}
	w.k.log.Info("a dataset is prepared", "took", time.Since(began))
	err = writeJSON(w.k.path.keeper("prepared.json"), prepared{Catalogue: catalogue(w.version, parameters)})
	debug.FreeOSMemory() // a warm place may lie for days
	return err
}

func catalogue(v orrery.EngineVersion, parameters []orrery.Parameter) *orrery.ParameterCatalogue {
	return &orrery.ParameterCatalogue{
		Meta: orrery.Meta{Name: v.Engine + "-" + v.Version}, Engine: v.Engine, Version: v.Version, Full: v.Full, Parameters: parameters,
	}
}

// assigned says that an instance waits for the place.
func (w *warmer) assigned() { w.taken.Store(true) }

// finish waits for the dataset that is being made. An error is not told: whoever needs the dataset prepares it again.
func (w *warmer) finish(ctx context.Context) {
	if w.done == nil {
		return
	}
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}

// stop ends the work and waits for its end.
func (w *warmer) stop() {
	if w.done != nil {
		w.cancel()
		<-w.done
		w.done = nil
	}
}

// awaitAssignment waits for the agent's file. The agent renames it into its folder.
func (k *Keeper) awaitAssignment(ctx context.Context) (*Assignment, error) {
	if a, err := k.assignment(); a != nil || err != nil {
		return a, err
	}
	if err := os.MkdirAll(filepath.Dir(k.path.assignment()), 0o700); err != nil {
		return nil, fmt.Errorf("wait for an assignment: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("wait for an assignment: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	if err := watcher.Add(filepath.Dir(k.path.assignment())); err != nil {
		return nil, fmt.Errorf("wait for an assignment: %w", err)
	}
	again := time.NewTicker(30 * time.Second) // a watch can be lost with its folder
	defer again.Stop()
	for {
		if a, err := k.assignment(); a != nil || err != nil {
			k.log.Debug("the place is assigned")
			return a, err
		}
		select {
		case <-watcher.Events:
		case err := <-watcher.Errors:
			k.log.Warn("the watch for an assignment failed", "error", err)
		case <-again.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (k *Keeper) assignment() (*Assignment, error) {
	a := &Assignment{}
	if ok, err := readJSON(k.path.assignment(), a); err != nil || !ok {
		return nil, err
	}
	return a, nil
}
