package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// converge does what is missing, as far as it goes without waiting for somebody else.
func (l *loop) converge(ctx context.Context) error {
	d := l.wish.Desired
	if l.proc != nil {
		select {
		case <-l.proc.ended:
			l.died(ctx)
		default:
		}
	}
	switch {
	case d.Stopped:
		return l.beStopped(ctx, d)
	case l.proc != nil && d.RestartSeq > l.mem.RestartSeq:
		l.log.Info("the database is restarted", "restart_seq", d.RestartSeq)
		if err := l.stop(ctx, d); err != nil {
			return err
		}
	}
	for restarted := false; ; restarted = true {
		if l.proc == nil {
			if err := l.start(ctx, d); err != nil {
				return err
			}
		}
		if err := l.becomeReady(ctx, d); err != nil {
			return err
		}
		again, err := l.takeRole(ctx, d)
		if err != nil {
			return err
		}
		if !again {
			return l.update(ctx, d)
		}
		if restarted {
			return errors.New("the database was started as a replica and is a primary")
		}
		if err := l.stop(ctx, d); err != nil {
			return err
		}
	}
}

// beStopped stops the database. Its configuration is written all the same, so that a start later takes nothing more.
func (l *loop) beStopped(ctx context.Context, d engine.Desired) error {
	if l.proc != nil {
		if err := l.stop(ctx, d); err != nil {
			return err
		}
	}
	l.seen.state, l.restart = orrery.DatabaseStopped, time.Time{}
	l.deaths.reset()
	// A restart that was asked for is done: the next process is another one.
	if err := l.remember(func(m *memory) { m.RestartSeq = max(m.RestartSeq, d.RestartSeq) }); err != nil {
		return err
	}
	if l.k.tls.leaf() == nil {
		return errWait{"the database's certificate"}
	}
	if l.mem.Live && l.configured != l.key {
		if _, err := l.srv.Configure(ctx, d); err != nil {
			return fmt.Errorf("configure the database: %w", err)
		}
		l.configured = l.key
	}
	l.seen.appliedGeneration, l.seen.appliedSpec = d.Generation, d.InstanceGeneration
	return nil
}

// stop stops the running database.
func (l *loop) stop(ctx context.Context, d engine.Desired) error {
	c, err := l.srv.Command(d)
	if err != nil {
		return fmt.Errorf("stop the database: %w", err)
	}
	l.seen.state, l.ready = orrery.DatabaseStopping, false
	l.publish()
	if err := l.proc.stop(ctx, c.Stop); err != nil {
		return fmt.Errorf("stop the database: %w", err)
	}
	l.proc = nil
	l.deaths.reset()
	l.restart = time.Time{}
	l.seen.forget()
	return nil
}

// start starts the database: on its dataset where it has one, on a new or copied one where it has none yet.
func (l *loop) start(ctx context.Context, d engine.Desired) error {
	if time.Now().Before(l.restart) {
		return errWait{"its next start"}
	}
	l.restart = time.Time{}
	select { // what comes after this is read by the new process
	case <-l.k.tls.renewed:
	default:
	}
	if l.k.tls.leaf() == nil {
		l.seen.state = orrery.DatabasePreparing
		return errWait{"the database's certificate"}
	}
	if err := l.haveDataset(ctx, d); err != nil {
		return err
	}
	if _, err := l.srv.Configure(ctx, d); err != nil {
		l.seen.state = orrery.DatabaseFailing
		return fmt.Errorf("configure the database: %w", err)
	}
	c, err := l.srv.Command(d)
	if err != nil {
		l.seen.state = orrery.DatabaseFailing
		return fmt.Errorf("start the database: %w", err)
	}
	// While nothing runs: whatever runs from here on was started for this restart.
	if err := l.remember(func(m *memory) { m.Live, m.RestartSeq = true, max(m.RestartSeq, d.RestartSeq) }); err != nil {
		return err
	}
	log := l.k.path.log("database.log")
	if fi, err := os.Stat(log); err == nil {
		l.logOffset = fi.Size()
	}
	l.log.Debug("the database is started", "role", d.Role)
	if l.proc, err = spawn(c, log); err != nil {
		l.seen.state = orrery.DatabaseFailing
		return err
	}
	l.configured, l.applied, l.owesReload, l.ready = l.key, "", false, false
	l.seen.state = orrery.DatabaseStarting
	return nil
}

// haveDataset sees to it that a whole dataset of the right lineage lies there. It never makes one in place of one that
// has lived, and never removes one whose instance is the primary.
func (l *loop) haveDataset(ctx context.Context, d engine.Desired) error {
	if d.Role == orrery.RoleReplica {
		l.warm.stop() // its dataset is of no use here
	} else {
		l.warm.finish(ctx)
	}
	whole, err := l.srv.Prepared()
	if err != nil {
		return fmt.Errorf("look at the dataset: %w", err)
	}
	if d.Role != orrery.RoleReplica {
		if l.mem.Live && !whole || l.mem.Copying || !l.mem.Live && d.SystemID != "" {
			l.seen.state = orrery.DatabaseFailing
			return orrery.Errorf(orrery.KindConflict, "the primary's dataset is missing").WithCode("dataset_missing").
				WithHint("Nothing is made in its place. Find the volume, promote a replica, or restore a backup.")
		}
		if whole {
			return nil
		}
		l.seen.state = orrery.DatabasePreparing
		l.publish()
		if err := l.srv.Prepare(ctx); err != nil {
			return fmt.Errorf("prepare a dataset: %w", err)
		}
		return nil
	}
	foreign := l.mem.SystemID != "" && d.SystemID != "" && l.mem.SystemID != d.SystemID
	if whole && l.mem.Live && !foreign {
		return nil
	}
	l.seen.state = orrery.DatabasePreparing
	if d.Primary == nil {
		return errWait{"its primary"}
	}
	l.publish()
	ctx, done := l.k.box.during(ctx, d)
	defer done()
	// Until the copy is whole there is none, so that a keeper that follows this one copies again.
	if err := l.remember(func(m *memory) { m.Live, m.Copying, m.SystemID = false, true, "" }); err != nil {
		return err
	}
	if err := l.srv.Clone(ctx, d, l.progress); err != nil {
		return cut(ctx, fmt.Errorf("copy the primary's data: %w", err))
	}
	return l.remember(func(m *memory) { m.Live, m.Copying, m.SystemID = true, false, d.SystemID })
}

// progress tells how far a copy has come, in steps that are worth a message to the server.
func (l *loop) progress(done, total int64) {
	if total <= 0 {
		return
	}
	if text := fmt.Sprintf("copies the primary's data: %d %%", done*100/total/5*5); text != l.seen.note {
		l.seen.note = text
		l.publish()
	}
}

// becomeReady waits until the database takes commands, for as long as it lives: recovery may take its time.
func (l *loop) becomeReady(ctx context.Context, d engine.Desired) error {
	if l.ready {
		return nil
	}
	l.seen.state, l.seen.note = orrery.DatabaseStarting, ""
	parent := ctx
	ctx, done := l.k.box.during(ctx, d)
	defer done()
	wait, began, never := 2*time.Millisecond, time.Now(), time.Time{}
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := l.srv.Ready(try)
		cancel()
		if err == nil {
			l.ready, l.readySince = true, time.Now()
			l.log.Info("the database runs", "pid", l.proc.pid, "ready_after", time.Since(l.proc.since))
			return nil
		}
		// It lives, and says that it will never be ready. For a moment that may be the last one's words.
		if !permanent(err) {
			never = time.Time{}
		} else if never.IsZero() {
			never = time.Now()
		} else if time.Since(never) > 3*time.Second {
			l.seen.state = orrery.DatabaseFailing
			return errors.Join(err, l.stop(parent, d))
		}
		if time.Since(began) > 200*time.Millisecond {
			wait = min(wait*5/4, 250*time.Millisecond)
			l.publish()
		}
		select {
		case <-l.proc.ended:
			l.died(ctx)
			return errWait{"its next start"}
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// takeRole makes a running database be the primary or a replica. The leadership term that the wish stems from has to
// be proved newest here, before the promotion, once there are terms.
// again is told of a primary that has to be started again, as a replica.
func (l *loop) takeRole(ctx context.Context, d engine.Desired) (again bool, err error) {
	if l.seen.observation == nil || l.seen.roleOf != l.key {
		if err := l.observe(ctx); err != nil {
			return false, l.unlessDead(ctx, fmt.Errorf("ask the database for its role: %w", err))
		}
		l.seen.roleOf = l.key
	}
	is := l.seen.observation.Role
	switch {
	case is == d.Role:
		return false, nil
	case d.Role == orrery.RolePrimary:
		l.log.Info("the database is promoted")
		if err := l.srv.Promote(ctx); err != nil {
			return false, l.unlessDead(ctx, fmt.Errorf("promote the database: %w", err))
		}
		return false, l.observe(ctx)
	case d.Primary == nil:
		return false, errWait{"its primary"}
	}
	l.log.Info("the database becomes a replica")
	return true, nil
}

// update makes a running, ready database take on the whole wish, as far as that disturbs nobody. What waits for a
// restart is told by Observe.
func (l *loop) update(ctx context.Context, d engine.Desired) error {
	l.seen.state, l.seen.note = orrery.DatabaseRunning, ""
	if l.configured != l.key {
		effect, err := l.srv.Configure(ctx, d)
		if err != nil {
			return fmt.Errorf("configure the database: %w", err)
		}
		l.configured = l.key
		l.owesReload = l.owesReload || effect > engine.EffectNone
	}
	changed := l.owesReload || l.applied != l.key
	if l.owesReload {
		if err := l.srv.Reload(ctx); err != nil {
			return l.unlessDead(ctx, fmt.Errorf("reload the database's configuration: %w", err))
		}
		l.owesReload = false
	}
	if l.applied != l.key {
		if err := l.srv.Apply(ctx, d); err != nil {
			return l.unlessDead(ctx, fmt.Errorf("apply users and databases: %w", err))
		}
		l.applied = l.key
		l.seen.appliedGeneration, l.seen.appliedSpec = d.Generation, d.InstanceGeneration
		l.log.Debug("the wish is taken on", "wish", l.wish.Generation, "generation", d.Generation)
	}
	if changed {
		l.seen.hurry()
		return l.unlessDead(ctx, l.observe(ctx))
	}
	return nil
}

// unlessDead drops an error of a database that has just ended: that is told as such.
func (l *loop) unlessDead(ctx context.Context, err error) error {
	select {
	case <-l.proc.ended:
		l.died(ctx)
		return errWait{"its next start"}
	default:
		return err
	}
}

// died notes that the database ended by itself, and when it is started again: at once after it ran well.
func (l *loop) died(ctx context.Context) {
	if l.ready && time.Since(l.readySince) > 30*time.Second {
		l.deaths.reset()
	}
	pause := time.Duration(0)
	if l.deaths.tries > 0 {
		pause = l.deaths.next()
	} else {
		l.deaths.tries++
	}
	d := &death{how: l.proc.how, times: l.deaths.tries, words: lastWords(l.k.path.log("database.log"), l.logOffset)}
	if d.how == "" {
		d.how = "unknown: it was not this keeper's child"
	}
	// The driver may know why, from logs of the database's own.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := l.srv.Ready(ctx); err != nil {
		if e, ok := errors.AsType[*orrery.Error](err); ok {
			d.cause = e
		} else if d.words == "" {
			d.words = err.Error()
		}
	}
	l.log.Warn("the database died", "pid", l.proc.pid, "how", d.how, "last_words", d.words, "cause", d.cause, "restart_in", pause)
	l.seen.forget()
	l.seen.state, l.seen.death = orrery.DatabaseFailing, d
	l.proc, l.ready = nil, false
	l.restart, l.retry = time.Now().Add(pause), time.Time{}
}

// permanent tells of errors that no retry mends; see engine.Server.
func permanent(err error) bool {
	e, ok := errors.AsType[*orrery.Error](err)
	return ok && (e.Kind == orrery.KindInvalid || e.Kind == orrery.KindConflict)
}

// cut gives the context's error where that is why something failed.
func cut(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return err
}
