package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// loop makes the database be what is wished. One goroutine, run's, owns all of it. Each turn compares what is wished
// with what is, and does what is missing; it is woken by a wish, the database's end, a new certificate and its timers.
type loop struct {
	k       *Keeper
	log     *slog.Logger
	srv     engine.Server
	version orrery.EngineVersion
	session Session
	warm    *warmer

	taken *wish  // from the mailbox
	wish  *wish  // the same, with what the keeper knows
	key   string // of the whole wish: peers, secrets and all
	mem   memory
	proc  *process

	// What the running database has taken on, each the key of a whole wish; empty for nothing known.
	configured, applied string
	owesReload          bool // configuration was written that it may not have read
	ready               bool
	readySince          time.Time
	logOffset           int64 // of the log, at its last start

	deaths   backoff   // of the database
	restart  time.Time // not started again before
	failures backoff   // of turns
	retry    time.Time

	seen seen
	out  outbox
	lean bool // has given back the memory of its start
}

// errWait is told by a turn that has to wait for something which will wake the loop.
type errWait struct{ what string }

func (e errWait) Error() string { return "waits for " + e.what }

func (l *loop) run(ctx context.Context) error {
	var err error
	l.deaths = backoff{first: 100 * time.Millisecond, limit: 30 * time.Second}
	l.failures = backoff{first: 50 * time.Millisecond, limit: 10 * time.Second}
	if l.proc, err = adopt(l.srv); err != nil {
		return fmt.Errorf("look for a running database: %w", err)
	}
	if l.proc != nil {
		l.log.Info("a running database is adopted", "pid", l.proc.pid)
		l.owesReload = true // who knows what the last keeper had told it
	}
	slow := time.NewTicker(l.k.cfg.StatsEvery)
	defer slow.Stop()
	l.checkDisk()
	for {
		l.turn(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.publish()
		l.await(ctx, slow.C)
	}
}

// turn takes up the newest wish, converges, and notes how that went.
func (l *loop) turn(ctx context.Context) {
	now := time.Now()
	fresh := l.takeWish()
	if l.wish == nil || (!fresh && now.Before(l.retry)) {
		return
	}
	err := l.converge(ctx)
	var wait errWait
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		l.failures.reset()
		l.retry = time.Time{}
	case errors.Is(err, context.Canceled): // cut off by another wish
		err = nil
		l.retry = time.Time{}
	case errors.As(err, &wait):
		l.retry = time.Time{}
	default:
		pause := l.failures.next()
		if permanent(err) {
			pause = 30 * time.Second // only another wish mends it
		}
		l.retry = now.Add(pause)
		l.log.Warn("the database is not as wished", "error", err, "retry_in", pause)
	}
	l.seen.err = err
}

// takeWish makes the newest wish the current one.
func (l *loop) takeWish() (fresh bool) {
	w := l.k.box.get()
	if w == nil || w == l.taken {
		return false
	}
	l.taken = w
	first := l.wish == nil
	w = &wish{Generation: w.Generation, Desired: w.Desired} // the mailbox's own is shared
	d := &w.Desired
	d.Port, d.TLS = l.k.cfg.Port, l.k.tls.files()
	l.wish = w
	l.key = wishKey(*d)
	if first {
		l.log.Info("the first wish", "generation", w.Generation, "role", d.Role)
	}
	return true
}

// await waits until there may be something to do.
func (l *loop) await(ctx context.Context, slow <-chan time.Time) {
	var ended <-chan struct{}
	if l.proc != nil {
		ended = l.proc.ended
	}
	timer := time.NewTimer(l.nextTimer())
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-l.k.box.changed:
	case <-l.k.tls.renewed:
		l.owesReload, l.retry = true, time.Time{}
	case <-ended:
		l.died(ctx)
	case <-timer.C:
		if l.ready && l.proc != nil {
			l.probe(ctx)
		}
	case <-slow:
		l.housekeep()
	}
}

func (l *loop) nextTimer() time.Duration {
	next := time.Now().Add(time.Minute)
	if l.ready && l.proc != nil {
		next = l.seen.nextProbe
	}
	for _, t := range []time.Time{l.retry, l.restart} {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	return max(0, time.Until(next))
}

// remember writes the memory where it changed.
func (l *loop) remember(change func(m *memory)) error {
	m := l.mem
	change(&m)
	if m == l.mem {
		return nil
	}
	if err := writeJSON(l.k.path.keeper("state.json"), m); err != nil {
		return err
	}
	l.mem = m
	return nil
}

// wishKey stands for a whole wish: peers, secrets and all.
func wishKey(d engine.Desired) string {
	b, err := json.Marshal(d)
	if err != nil {
		return "" // it came as JSON
	}
	return string(b)
}
