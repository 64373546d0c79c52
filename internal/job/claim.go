package job

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

// errNotNow ends a claim that another server won, or that is no longer due. The manager looks again when something changes.
var errNotNow = errors.New("not to be claimed now")

// claim takes the job for this server: it makes the plan where there is none, and writes claim, lock and plan in one
// transaction. Jobs that have nothing to do are ended here. It tells whether there is something to go on with.
func (n *run) claim() (mine bool, err error) {
	if err := n.r.at(n.id, BeforeClaim, -1); err != nil {
		return false, err
	}
	j, ok := n.r.store.Jobs.Get(n.id)
	if !ok {
		return false, nil
	}
	n.job, n.kind = j, n.r.kinds[j.Kind]
	n.log = n.log.With("kind", j.Kind, "object", j.Object)
	for failures := 1; ; failures++ {
		mine, err = n.tryClaim()
		if err == nil || errors.Is(err, errKilled) {
			return mine, err
		}
		if errors.Is(err, errNotNow) {
			return false, nil
		}
		// The store does not answer, or the plan or a hook wants another attempt.
		n.log.Warn("cannot begin a job; trying again", "failures", failures, "error", err)
		if failures == 5 {
			return false, n.postpone(err)
		}
		timer := time.NewTimer(backoff(soonFirst, soonMost, failures))
		select {
		case <-timer.C:
		case <-n.r.stop:
			timer.Stop()
			return false, errStopping
		case <-n.r.dead:
			return false, errKilled
		}
	}
}

func (n *run) tryClaim() (mine bool, err error) {
	j, ok := n.r.store.Jobs.Get(n.id)
	if !ok {
		return false, errNotNow
	}
	var steps []orrery.JobStep
	seen := n.r.store.Revision()
	if j.State == orrery.JobQueued {
		if j.CancelRequested {
			return false, n.endUnbegun(errCancelled)
		}
		if steps, err = n.plan(j); err != nil {
			if ClassOf(err) != Permanent && time.Now().Before(j.Deadline) {
				return false, err
			}
			return false, n.endUnbegun(err)
		}
		if len(steps) == 0 {
			return false, n.endUnbegun(nil)
		}
	}
	ctx, cancel := context.WithTimeout(n.base, writeTimeout)
	defer cancel()
	var next *orrery.Job
	revision, err := n.r.store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		j, err := n.claimable(tx)
		if err != nil {
			return err
		}
		if j.State == orrery.JobQueued {
			if steps == nil || j.CancelRequested || n.overtaken(j, seen) {
				return errNotNow
			}
			if err := n.lock(tx, j); err != nil {
				return err
			}
			now := time.Now().UTC()
			j.Steps, j.Cursor, j.State, j.StartedAt = slices.Clone(steps), 0, orrery.JobRunning, &now
			j.Deadline = now.Add(n.kind.deadline())
			n.begin(j, now)
		}
		// Asked for with each try: the loss of a former lease, while we waited for a new one, does not touch this claim, and
		// who let go because of it would leave behind a claim that no one ever takes up.
		if n.leaseLost = n.r.store.Lost(); closed(n.leaseLost) {
			return errors.New("this server has no lease at the moment")
		}
		j.Owner, j.NotBefore, next = n.r.cfg.Server, nil, j
		claim := &store.Claim{Meta: orrery.Meta{ID: n.id}, Owner: n.r.cfg.Server, Note: n.r.mark}
		if err := n.r.store.Claims.InsertLeased(tx, claim); err != nil {
			return err
		}
		return n.r.store.Jobs.Put(tx, j)
	})
	if err != nil {
		return false, err
	}
	n.mu.Lock()
	next.Revision = revision
	n.job, n.lastWrite = next, time.Now()
	n.mu.Unlock()
	n.claimed.Store(true)
	return true, n.r.at(n.id, AfterClaim, next.Cursor)
}

// claimable reads the job, within a transaction, if it may be claimed now.
func (n *run) claimable(tx *store.Tx) (*orrery.Job, error) {
	if n.r.isDead() {
		return nil, errKilled
	}
	if n.r.isStopping() {
		return nil, errNotNow
	}
	j, err := n.r.store.Jobs.TxGet(tx, n.id)
	if orrery.KindOf(err) == orrery.KindNotFound {
		return nil, errNotNow
	}
	if err != nil {
		return nil, err
	}
	if j.State.Final() || j.State == orrery.JobStuck || !due(j, time.Now()) {
		return nil, errNotNow
	}
	_, err = n.r.store.Claims.TxGet(tx, n.id)
	switch {
	case err == nil:
		return nil, errNotNow
	case orrery.KindOf(err) != orrery.KindNotFound:
		return nil, err
	}
	return j, nil
}

// overtaken tells whether another job has changed the object since the plan was made, from what was seen then.
func (n *run) overtaken(j *orrery.Job, seen int64) bool {
	for _, other := range n.r.store.Jobs.By("object", j.Object) {
		if other.ID != j.ID && !other.ReadOnly && other.StartedAt != nil && other.Revision > seen {
			return true
		}
	}
	return false
}

// lock takes the object for a mutating job that begins.
func (n *run) lock(tx *store.Tx, j *orrery.Job) error {
	if j.ReadOnly {
		return nil
	}
	held, err := n.clear(tx, j)
	if err != nil {
		return err
	}
	if held == nil {
		return n.r.store.Locks.Insert(tx, &store.Claim{Meta: orrery.Meta{ID: j.Object, Project: j.Project}, Owner: j.ID})
	}
	held.Owner = j.ID
	return n.r.store.Locks.Put(tx, held)
}

// clear makes sure that no other job holds the object. It gives the lock that is still there if the job's kind may take
// over from a stuck job and has done so, which thereby is ended.
func (n *run) clear(tx *store.Tx, j *orrery.Job) (*store.Claim, error) {
	s := n.r.store
	held, err := s.Locks.TxGet(tx, j.Object)
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	holder, err := s.Jobs.TxGet(tx, held.Owner)
	if err != nil {
		return held, ignoreNotFound(err) // a holder that is no more will not free it
	}
	if holder.State != orrery.JobStuck || !n.kind.TakesOver {
		return nil, errNotNow
	}
	now := time.Now().UTC()
	holder.State, holder.EndedAt, holder.Alarm = orrery.JobFailed, &now, ""
	if err := s.Jobs.Put(tx, holder); err != nil {
		return nil, err
	}
	return held, s.Events.Insert(tx, newEvent(holder, orrery.SeverityWarning, "JobTakenOver",
		"%s was stuck; %s goes on in its place", holder.Kind, j.Kind))
}

func ignoreNotFound(err error) error {
	if orrery.KindOf(err) == orrery.KindNotFound {
		return nil
	}
	return err
}

// plan asks the kind for its steps.
func (n *run) plan(j *orrery.Job) (steps []orrery.JobStep, err error) {
	defer func() {
		if p := recover(); p != nil {
			n.log.Error("a plan panicked", "panic", p, "stack", string(debug.Stack()))
			err = Retry(orrery.Errorf(orrery.KindInternal, "%s could not be planned by a fault of Orrery's own", j.Kind).
				WithCode("panic").WithHint("The server's log has the details; please report them."), Permanent)
		}
	}()
	ctx, cancel := context.WithTimeout(n.base, planTimeout)
	defer cancel()
	if steps, err = n.kind.Plan(ctx, clone(j)); err != nil {
		return nil, fmt.Errorf("plan %s: %w", j.Kind, err)
	}
	for i := range steps {
		if _, ok := n.r.steps[steps[i].Name]; !ok {
			return nil, Retry(fmt.Errorf("plan %s: there is no step %q", j.Kind, steps[i].Name), Permanent)
		}
		steps[i].State = orrery.StepPending
	}
	return steps, nil
}

// endUnbegun ends a job that has not begun: it was cancelled, its plan failed, or there is nothing to do (cause nil).
// It needs no claim: the transaction compares that nobody has one.
func (n *run) endUnbegun(cause error) error {
	ctx, cancel := context.WithTimeout(n.base, writeTimeout)
	defer cancel()
	if err := n.r.at(n.id, BeforeCheckpoint, -1); err != nil {
		return err
	}
	_, err := n.r.store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		j, err := n.claimable(tx)
		if err != nil {
			return err
		}
		cancelled := errors.Is(cause, errCancelled)
		if j.State != orrery.JobQueued || j.CancelRequested != cancelled {
			return errNotNow
		}
		if !cancelled && !j.ReadOnly {
			held, err := n.clear(tx, j)
			if err != nil {
				return err
			}
			if held != nil {
				if err := n.r.store.Locks.Delete(tx, held.ID); err != nil {
					return err
				}
			}
		}
		now := time.Now().UTC()
		hook := n.kind.Finished
		j.State, j.EndedAt, j.Progress = orrery.JobSucceeded, &now, 100
		if cause != nil {
			hook = n.kind.Undone
			j.Progress, j.Error = 0, jobError(cause, "")
			ended(j, now)
			if err := n.r.store.Events.Insert(tx, endEvent(j)); err != nil {
				return err
			}
		}
		if hook != nil {
			if err := hook(tx, j); err != nil {
				return &hookError{err}
			}
		}
		return n.r.store.Jobs.Put(tx, j)
	})
	if fromHook(err) && ClassOf(err) == Permanent {
		return n.stuckUnbegun(err)
	}
	if err != nil {
		return err
	}
	return n.r.at(n.id, AfterCheckpoint, -1)
}

// stuckUnbegun gives a job that cannot even be ended into a person's hands. A retry queues it again.
func (n *run) stuckUnbegun(cause error) error {
	return n.touch(func(tx *store.Tx, j *orrery.Job) error {
		j.State, j.Error = orrery.JobStuck, jobError(cause, "")
		j.Alarm = fmt.Sprintf("The job cannot be ended: %s. Mend the cause and retry the job.", explain(cause))
		return n.r.store.Events.Insert(tx, newEvent(j, orrery.SeverityError, "JobStuck", "%s: %s", j.Kind, j.Alarm))
	})
}

// postpone lets go of the worker for a while.
func (n *run) postpone(cause error) error {
	at := time.Now().UTC().Add(backoff(laterFirst, laterMost, 1))
	if err := n.touch(func(_ *store.Tx, j *orrery.Job) error { j.NotBefore = &at; return nil }); err != nil {
		return fmt.Errorf("%w, and postponing it failed: %w", cause, err)
	}
	return nil
}

// touch changes a job that nobody has claimed.
func (n *run) touch(change func(tx *store.Tx, j *orrery.Job) error) error {
	ctx, cancel := context.WithTimeout(n.base, writeTimeout)
	defer cancel()
	_, err := n.r.store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		j, err := n.claimable(tx)
		if err != nil {
			return err
		}
		if err := change(tx, j); err != nil {
			return err
		}
		return n.r.store.Jobs.Put(tx, j)
	})
	if errors.Is(err, errNotNow) {
		return nil
	}
	return err
}
