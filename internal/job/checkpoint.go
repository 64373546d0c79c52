package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

const writeTimeout = 10 * time.Second

// errApplied ends a transaction whose like has been committed already: etcd took it, and its answer was lost.
var errApplied = errors.New("already written")

// hookError is an error of what was given to be done within a checkpoint.
type hookError struct{ err error }

func (h *hookError) Error() string { return h.err.Error() }
func (h *hookError) Unwrap() error { return h.err }

func fromHook(err error) bool {
	_, ok := errors.AsType[*hookError](err)
	return ok
}

// retryable tells whether a failed write may be tried again: the store was not there.
func retryable(err error) bool {
	return !errors.Is(err, errLost) && !errors.Is(err, errKilled) && !fromHook(err)
}

// owned fails a transaction unless this runner has the job's claim; the comparison is part of the commit.
func (n *run) owned(tx *store.Tx) error {
	if n.r.isDead() {
		return errKilled
	}
	claim, err := n.r.store.Claims.TxGet(tx, n.id)
	if orrery.KindOf(err) == orrery.KindNotFound {
		return errLost
	}
	if err != nil {
		return err
	}
	if claim.Note != n.r.mark {
		return errLost
	}
	return nil
}

// change is one checkpoint: what becomes of the job, and what else is written with it.
type change struct {
	// set changes a clone of the job. It is called anew when the transaction is.
	set func(j *orrery.Job)
	// with runs in the transaction after the job was read and set; its error is the attempt's.
	with func(tx *store.Tx, j *orrery.Job) error
	// letGo deletes the claim, free the lock.
	letGo, free bool
	event       func(j *orrery.Job) *orrery.Event
}

// write makes one checkpoint and keeps at it while the store is away, until the claim is lost or the server stops.
func (n *run) write(ch change) error {
	if err := n.r.at(n.id, BeforeCheckpoint, n.cursor()); err != nil {
		return err
	}
	var stopping <-chan struct{} = n.r.stop
	for failures := 1; ; failures++ {
		err := n.writeOnce(ch)
		if err == nil {
			return n.r.at(n.id, AfterCheckpoint, n.cursor())
		}
		if !retryable(err) {
			return err
		}
		if n.r.isStopping() {
			return fmt.Errorf("%w, and the store does not answer: %w", errLost, err)
		}
		n.log.Warn("cannot store a checkpoint; trying again", "failures", failures, "error", err)
		timer := time.NewTimer(backoff(soonFirst, soonMost, failures))
		select {
		case <-timer.C:
		case <-n.lost:
			return errLost
		case <-n.r.dead:
			return errKilled
		case <-stopping: // one last try
			stopping = nil
		}
		timer.Stop()
	}
}

func (n *run) writeOnce(ch change) error {
	ctx, cancel := context.WithTimeout(n.base, writeTimeout)
	defer cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.r.store
	var next *orrery.Job
	revision, err := s.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		stored, err := s.Jobs.TxGet(tx, n.id)
		if err != nil {
			return err
		}
		next = clone(n.job)
		next.Meta, next.CancelRequested = stored.Meta, stored.CancelRequested
		ch.set(next)
		if stored.Revision != n.job.Revision && same(stored, next) && !same(stored, n.job) {
			return errApplied
		}
		if err := n.owned(tx); err != nil {
			return err
		}
		return n.fill(tx, ch, next)
	})
	if errors.Is(err, errApplied) {
		err = nil
	}
	switch {
	case err == nil:
	case orrery.KindOf(err) == orrery.KindTooLarge && ch.with != nil:
		return &hookError{Retry(err, Permanent)}
	case orrery.KindOf(err) == orrery.KindNotFound && !fromHook(err):
		return fmt.Errorf("%w: %w", errLost, err)
	default:
		return err
	}
	if revision > 0 {
		next.Revision = revision
	}
	n.job, n.lastWrite = next, time.Now()
	return nil
}

// fill puts into the transaction all that belongs to the checkpoint.
func (n *run) fill(tx *store.Tx, ch change, j *orrery.Job) error {
	s := n.r.store
	if ch.with != nil {
		if err := ch.with(tx, j); err != nil {
			return &hookError{err}
		}
	}
	if ch.letGo {
		j.Owner = ""
		if err := s.Claims.Delete(tx, n.id); err != nil {
			return err
		}
	}
	if ch.free && !j.ReadOnly {
		if err := freeLock(tx, s, j); err != nil {
			return err
		}
	}
	if ch.event != nil {
		if err := s.Events.Insert(tx, ch.event(j)); err != nil {
			return err
		}
	}
	return s.Jobs.Put(tx, j)
}

func freeLock(tx *store.Tx, s *store.Store, j *orrery.Job) error {
	lock, err := s.Locks.TxGet(tx, j.Object)
	if orrery.KindOf(err) == orrery.KindNotFound {
		return nil
	}
	if err != nil || lock.Owner != j.ID {
		return err
	}
	return s.Locks.Delete(tx, j.Object)
}

// same tells whether two versions of a job have come equally far. It recognises a write of our own whose answer was lost.
func same(a, b *orrery.Job) bool {
	if a.State != b.State || a.Cursor != b.Cursor || len(a.Steps) != len(b.Steps) || (a.NotBefore == nil) != (b.NotBefore == nil) {
		return false
	}
	return a.Cursor >= len(a.Steps) || a.Steps[a.Cursor].State == b.Steps[b.Cursor].State
}

// flush stores what a step says, and nothing else.
func (n *run) flush(ctx context.Context, c *Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	said := c.pending()
	s := n.r.store
	var next *orrery.Job
	revision, err := s.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		stored, err := s.Jobs.TxGet(tx, n.id)
		if err != nil {
			return err
		}
		if err := n.owned(tx); err != nil {
			return err
		}
		next = clone(n.job)
		next.Meta, next.CancelRequested = stored.Meta, stored.CancelRequested
		said.apply(next)
		return s.Jobs.Put(tx, next)
	})
	if err != nil {
		return fmt.Errorf("store what step %s says: %w", c.Step.Name, err)
	}
	next.Revision = revision
	n.job, n.lastWrite = next, time.Now()
	return nil
}
