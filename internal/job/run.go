package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/orrery-db/orrery"
)

// What can interrupt an attempt. They are causes of the step's context, seen with context.Cause.
var (
	errKilled    = errors.New("killed by a test")
	errLost      = errors.New("another server has the job now")
	errStopping  = errors.New("the server is stopping")
	errCancelled = orrery.Errorf(orrery.KindConflict, "the job was cancelled on request").WithCode("cancelled")
	errDeadline  = orrery.Errorf(orrery.KindConflict, "the job did not come to its end before its deadline").
			WithCode("deadline").WithHint("See the job's steps for what it was waiting for.")
)

const (
	flushEvery = time.Second      // how often a long step's words are stored
	stopGrace  = 10 * time.Second // how long a stopping server waits for a step that ignores its context
)

// run is one job in the hands of this server, from claim to end. All but the marked fields belong to its goroutine.
type run struct {
	r    *Runner
	id   string
	base context.Context // of the whole runner; not ended by stopping
	log  *slog.Logger
	kind Kind

	claimed    atomic.Bool
	cancelOnce sync.Once
	leaseLost  <-chan struct{} // closed when the lease that holds the claim is lost
	loseOnce   sync.Once
	cancelled  chan struct{} // closed when cancellation was requested
	lost       chan struct{} // closed when the claim is gone

	mu        sync.Mutex  // one write at a time; guards what follows
	job       *orrery.Job // as last stored, with what is not yet stored of attempts
	lastWrite time.Time

	soonSince time.Time // first of the failures in a row of the current step
}

func newRun(base context.Context, r *Runner, id string) *run {
	return &run{r: r, id: id, base: base, log: r.log.With("job", id),
		cancelled: make(chan struct{}), lost: make(chan struct{})}
}

// cancel and lose are called by the manager's goroutine.
func (n *run) cancel() { n.cancelOnce.Do(func() { close(n.cancelled) }) }
func (n *run) lose()   { n.loseOnce.Do(func() { close(n.lost) }) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// do claims the job and goes on with it until it ends, has to wait for long, or is no longer ours.
func (n *run) do() {
	over := make(chan struct{})
	defer close(over)
	mine, err := n.claim()
	if err != nil || !mine {
		n.logEnd(err)
		return
	}
	go func() {
		select {
		case <-n.leaseLost:
			n.lose()
		case <-over:
		}
	}()
	for mine && err == nil {
		switch n.job.State {
		case orrery.JobRunning:
			mine, err = n.forward()
		case orrery.JobUndoing:
			mine, err = n.backward()
		default:
			return
		}
	}
	n.logEnd(err)
}

func (n *run) logEnd(err error) {
	switch {
	case err == nil || errors.Is(err, errKilled):
	case errors.Is(err, errLost), errors.Is(err, errStopping):
		n.log.Info("left the job to another server", "reason", err)
	default:
		n.log.Error("cannot go on with the job", "error", err)
	}
}

// canUndo tells whether the job may still be undone.
func canUndo(j *orrery.Job) bool { return !j.ForwardOnly }

// forward does the current step. It tells whether the job is still ours.
func (n *run) forward() (mine bool, err error) {
	j := n.job
	switch {
	case (j.CancelRequested || closed(n.cancelled)) && canUndo(j):
		return n.turnBack(nil, errCancelled)
	case n.pastDeadline() && canUndo(j):
		return n.turnBack(nil, errDeadline)
	}
	step := j.Steps[j.Cursor].Name
	if err := n.r.at(n.id, BeforeDo, j.Cursor); err != nil {
		return false, err
	}
	c, err := n.attempt(n.r.steps[step], false)
	if dead := n.r.at(n.id, AfterDo, j.Cursor); dead != nil {
		return false, dead
	}
	if err == nil {
		if mine, err = n.stepDone(c); err == nil || !fromHook(err) {
			return mine, err
		}
	}
	switch {
	case errors.Is(err, errLost), errors.Is(err, errKilled):
		return false, err
	case errors.Is(err, errCancelled), errors.Is(err, errDeadline):
		return n.turnBack(c, err)
	case errors.Is(err, errStopping):
		return false, n.release(c)
	}
	switch n.classOf(err) {
	case Permanent:
		return n.turnBack(c, err)
	case Later:
		return false, n.park(c, err)
	default:
		return n.waitSoon(c, err)
	}
}

// backward undoes the current step. It tells whether the job is still ours.
func (n *run) backward() (mine bool, err error) {
	j := n.job
	if n.pastDeadline() {
		return false, n.stuck(nil, errDeadline)
	}
	if err := n.r.at(n.id, BeforeUndo, j.Cursor); err != nil {
		return false, err
	}
	c, err := n.attempt(n.r.steps[j.Steps[j.Cursor].Name], true)
	if dead := n.r.at(n.id, AfterUndo, j.Cursor); dead != nil {
		return false, dead
	}
	if err == nil {
		if mine, err = n.stepUndone(c); err == nil || !fromHook(err) {
			return mine, err
		}
	}
	switch {
	case errors.Is(err, errLost), errors.Is(err, errKilled):
		return false, err
	case errors.Is(err, errDeadline):
		return false, n.stuck(c, err)
	case errors.Is(err, errStopping):
		return false, n.release(c)
	}
	switch n.classOf(err) {
	case Permanent:
		return false, n.stuck(c, err)
	case Later:
		return false, n.park(c, err)
	default:
		return n.waitSoon(c, err)
	}
}

func (n *run) pastDeadline() bool { return !time.Now().Before(n.job.Deadline) }

// classOf is ClassOf, but for what has been tried soon for long enough, or past the deadline.
func (n *run) classOf(err error) Class {
	class := ClassOf(err)
	if class != Soon {
		n.soonSince = time.Time{}
		return class
	}
	if n.soonSince.IsZero() {
		n.soonSince = time.Now()
	}
	if n.pastDeadline() || time.Since(n.soonSince) > soonFor {
		return Later
	}
	return Soon
}

// attempt does or undoes the current step once, with its timeout, and stores what a long one says meanwhile. The error
// is one of the interruptions where one was the cause.
func (n *run) attempt(d Def, undo bool) (*Context, error) {
	fn := d.Do
	if undo {
		fn = d.Undo
	}
	n.mu.Lock()
	j := clone(n.job)
	j.Steps[j.Cursor].Attempts++
	n.job = j
	n.mu.Unlock()
	ctx, cancel := context.WithCancelCause(n.base)
	defer cancel(nil)
	ctx, cancelTimeout := context.WithTimeout(ctx, d.timeout())
	defer cancelTimeout()
	c := n.newContext(undo)
	done := make(chan error, 1)
	go func() {
		err := n.call(ctx, fn, c)
		if err == nil && n.r.cfg.Hooks.Twice {
			c.reset()
			err = n.call(ctx, fn, c)
		}
		done <- err
	}()
	err := n.attend(done, c, j, cancel)
	c.close()
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return c, cause
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("not done within %s: %w", d.timeout(), err)
	}
	return c, err
}

// attend waits for the attempt at job j, watches for what interrupts it and stores what it says.
func (n *run) attend(done <-chan error, c *Context, j *orrery.Job, cancel context.CancelCauseFunc) error {
	var flush, grace, deadline <-chan time.Time
	stop, dead, lost, cancelled, dirty := n.r.stop, n.r.dead, n.lost, n.cancelled, c.dirty
	if c.Undoing || !canUndo(j) {
		cancelled = nil
	}
	if c.Undoing || canUndo(j) || j.Alarm == "" {
		timer := time.NewTimer(time.Until(j.Deadline))
		defer timer.Stop()
		deadline = timer.C
	}
	for {
		select {
		case err := <-done:
			return err
		case <-dead:
			dead = nil
			cancel(errKilled)
		case <-lost:
			lost = nil
			cancel(errLost)
		case <-stop:
			stop = nil
			cancel(errStopping)
			grace = time.After(stopGrace)
		case <-grace:
			// The step goes on whatever we say. Its claim is not freed, so that nobody does the same beside it; it ends
			// with this process.
			n.log.Error("a step ignores that the server stops", "step", c.Step.Name)
			return errLost
		case <-cancelled:
			cancelled = nil
			cancel(errCancelled)
		case <-deadline:
			if c.Undoing || canUndo(j) {
				cancel(errDeadline)
			} else {
				n.alarm(c)
			}
		case <-dirty:
			dirty = nil
			flush = time.After(flushEvery - n.sinceWrite())
		case <-flush:
			flush, dirty = nil, c.dirty
			if err := n.flush(n.base, c); err != nil {
				n.log.Warn("cannot store what a step says; it will be stored with the next checkpoint", "error", err)
			}
		}
	}
}

// call makes a panic an error that no retry mends.
func (n *run) call(ctx context.Context, fn func(context.Context, *Context) error, c *Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			n.log.Error("a step panicked", "step", c.Step.Name, "panic", p, "stack", string(debug.Stack()))
			err = Retry(orrery.Errorf(orrery.KindInternal, "step %s failed by a fault of Orrery's own", c.Step.Name).
				WithCode("panic").WithHint("The server's log has the details; please report them."), Permanent)
		}
	}()
	if err := fn(ctx, c); err != nil {
		return err
	}
	return c.failed()
}

// waitSoon waits for the next attempt in place.
func (n *run) waitSoon(c *Context, cause error) (bool, error) {
	step := n.job.Steps[n.job.Cursor]
	wait := backoff(soonFirst, soonMost, step.Attempts)
	c.note("attempt %d failed: %s; trying again", step.Attempts, explain(cause))
	n.log.Info("a step failed and is tried again", "step", step.Name, "attempt", step.Attempts, "wait", wait, "error", cause)
	n.keep(c)
	if n.sinceWrite() >= flushEvery {
		if err := n.flush(n.base, c); err != nil && !retryable(err) {
			return false, err
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	cancelled := n.cancelled
	if n.job.State == orrery.JobUndoing || !canUndo(n.job) {
		cancelled = nil
	}
	select {
	case <-timer.C:
	case <-cancelled:
	case <-n.r.stop:
		return false, n.release(c)
	case <-n.r.dead:
		return false, errKilled
	case <-n.lost:
		return false, errLost
	}
	return true, nil
}

func (n *run) sinceWrite() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Since(n.lastWrite)
}

func (n *run) cursor() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.job.Cursor
}

// keep takes what an attempt said over into the job, so that the next attempt goes on from there.
func (n *run) keep(c *Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.job = clone(n.job)
	c.pending().apply(n.job)
}

// clone copies a job so that fields and steps can be set; what hangs below the steps is never changed in place.
func clone(j *orrery.Job) *orrery.Job {
	c := *j
	c.Steps = slices.Clone(j.Steps)
	return &c
}
