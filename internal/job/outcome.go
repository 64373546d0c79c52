package job

import (
	"errors"
	"fmt"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

// stepDone writes down that the current step is done and that the next one is running, or that the job is over.
func (n *run) stepDone(c *Context) (mine bool, err error) {
	now := time.Now().UTC()
	last := n.job.Cursor == len(n.job.Steps)-1
	letGo := last || n.r.isStopping()
	couldUndo := canUndo(n.job)
	err = n.write(change{letGo: letGo, free: last,
		set: func(j *orrery.Job) {
			c.pending().apply(j)
			end(&j.Steps[j.Cursor], orrery.StepDone, now)
			j.Alarm, j.Error = "", nil
			if last {
				j.State, j.Progress, j.EndedAt = orrery.JobSucceeded, 100, &now
				return
			}
			j.Cursor++
			n.begin(j, now)
			j.Progress = max(j.Progress, progress(j, 0))
		},
		with: func(tx *store.Tx, j *orrery.Job) error {
			if j.CancelRequested && couldUndo {
				return errCancelled
			}
			if err := c.commits(tx); err != nil || !last || n.kind.Finished == nil {
				return err
			}
			return n.kind.Finished(tx, j)
		}})
	if err != nil {
		return false, err
	}
	n.soonSince = time.Time{}
	return !letGo, nil
}

// begin marks the step at the cursor as running.
func (n *run) begin(j *orrery.Job, now time.Time) {
	s := &j.Steps[j.Cursor]
	s.State, s.StartedAt, s.Attempts = orrery.StepRunning, &now, 0
	if n.kind.ForwardOnly || n.r.steps[s.Name].ForwardOnly {
		j.ForwardOnly = true
	}
}

func end(s *orrery.JobStep, state orrery.StepState, now time.Time) {
	s.State, s.EndedAt = state, &now
	if drop := len(s.Log) - keptLogLines; drop > 0 {
		s.Log = s.Log[drop:]
	}
}

// turnBack begins the undo, or makes the job stuck where it cannot be undone. Without an attempt c is nil.
func (n *run) turnBack(c *Context, cause error) (mine bool, err error) {
	if !canUndo(n.job) {
		return false, n.stuck(c, cause)
	}
	now := time.Now().UTC()
	n.log.Warn("a job failed and is undone", "kind", n.job.Kind, "object", n.job.Object, "step", n.job.Cursor, "error", cause)
	turn := change{letGo: n.r.isStopping(), set: func(j *orrery.Job) {
		c.pending().apply(j)
		end(&j.Steps[j.Cursor], orrery.StepFailed, now)
		j.State, j.Error = orrery.JobUndoing, jobError(cause, j.Steps[j.Cursor].Name)
		j.Deadline = now.Add(n.kind.deadline())
		n.skipFormalities(j, now)
	}}
	if errors.Is(cause, errDeadline) {
		set := turn.set
		turn.set = func(j *orrery.Job) { set(j); j.Alarm = "The job passed its deadline and is being undone." }
		turn.event = func(j *orrery.Job) *orrery.Event {
			return newEvent(j, orrery.SeverityError, "JobDeadline", "%s: %s", j.Kind, j.Alarm)
		}
	}
	if n.formalities(n.job, n.job.Cursor) {
		err := n.writeEnd(func(j *orrery.Job) { turn.set(j); ended(j, now) }, nil)
		if !fromHook(err) {
			return false, err
		}
		// What the hook wants is retried by its class, from the undo.
	}
	if err := n.write(turn); err != nil {
		return false, err
	}
	n.soonSince = time.Time{}
	return !turn.letGo, nil
}

// formalities tells whether none of the steps from the first to i has something to undo.
func (n *run) formalities(j *orrery.Job, i int) bool {
	for ; i >= 0; i-- {
		if !n.r.nothingToUndo(j.Steps[i].Name) {
			return false
		}
	}
	return true
}

// skipFormalities moves the cursor back to the first step that has something to undo, or to 0, and marks those that it
// passes as undone.
func (n *run) skipFormalities(j *orrery.Job, now time.Time) {
	for ; j.Cursor > 0 && n.r.nothingToUndo(j.Steps[j.Cursor].Name); j.Cursor-- {
		end(&j.Steps[j.Cursor], orrery.StepUndone, now)
	}
	j.Steps[j.Cursor].Attempts = 0
}

// stepUndone writes down that the current step is undone, or that all are and the job is over.
func (n *run) stepUndone(c *Context) (mine bool, err error) {
	now := time.Now().UTC()
	set := func(j *orrery.Job) {
		c.pending().apply(j)
		end(&j.Steps[j.Cursor], orrery.StepUndone, now)
		if j.Cursor > 0 {
			j.Cursor--
			n.skipFormalities(j, now)
		}
	}
	if n.formalities(n.job, n.job.Cursor-1) {
		return false, n.writeEnd(func(j *orrery.Job) { set(j); ended(j, now) }, c)
	}
	letGo := n.r.isStopping()
	err = n.write(change{set: set, letGo: letGo, with: func(tx *store.Tx, _ *orrery.Job) error { return c.commits(tx) }})
	if err != nil {
		return false, err
	}
	n.soonSince = time.Time{}
	return !letGo, nil
}

// ended gives an undone job its final state.
func ended(j *orrery.Job, now time.Time) {
	if len(j.Steps) > 0 {
		end(&j.Steps[0], orrery.StepUndone, now)
	}
	j.State, j.EndedAt, j.Alarm, j.NotBefore = orrery.JobFailed, &now, "", nil
	if j.Error != nil && j.Error.Code == errCancelled.Code {
		j.State = orrery.JobCancelled
	}
}

// writeEnd writes the end of an undone job.
func (n *run) writeEnd(set func(*orrery.Job), c *Context) error {
	return n.write(change{set: set, letGo: true, free: true, event: endEvent,
		with: func(tx *store.Tx, j *orrery.Job) error {
			if err := c.commits(tx); err != nil || n.kind.Undone == nil {
				return err
			}
			return n.kind.Undone(tx, j)
		}})
}

// commits runs what the step gave to OnDone.
func (c *Context) commits(tx *store.Tx) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	fns := c.commit
	c.mu.Unlock()
	for _, fn := range fns {
		if err := fn(tx); err != nil {
			return err
		}
	}
	return nil
}

// stuck gives the job into a person's hands. It keeps its lock: the object is half changed.
func (n *run) stuck(c *Context, cause error) error {
	now := time.Now().UTC()
	n.log.Error("a job is stuck", "kind", n.job.Kind, "object", n.job.Object, "step", n.job.Cursor, "error", cause)
	return n.write(change{letGo: true,
		set: func(j *orrery.Job) {
			c.pending().apply(j)
			end(&j.Steps[j.Cursor], orrery.StepFailed, now)
			what := "cannot go on"
			if j.State == orrery.JobUndoing {
				what = "cannot be undone"
			} else {
				j.Error = jobError(cause, j.Steps[j.Cursor].Name)
			}
			j.State, j.NotBefore = orrery.JobStuck, nil
			j.Alarm = fmt.Sprintf("The job %s by itself: %s. Mend the cause and retry the job.", what, explain(cause))
		},
		event: func(j *orrery.Job) *orrery.Event {
			return newEvent(j, orrery.SeverityError, "JobStuck", "%s: %s", j.Kind, j.Alarm)
		}})
}

// park lets go of the worker and of the claim until later. The lock is kept.
func (n *run) park(c *Context, cause error) error {
	step := n.job.Steps[n.job.Cursor]
	at := time.Now().Add(backoff(laterFirst, laterMost, step.Attempts))
	if d := n.job.Deadline; time.Now().Before(d) && at.After(d) {
		at = d // somebody has to be there then
	}
	at = at.UTC()
	c.note("attempt %d failed: %s; trying again at %s", step.Attempts, explain(cause), at.Format(time.TimeOnly))
	n.log.Warn("a step failed and is tried again later", "step", step.Name, "attempt", step.Attempts, "at", at, "error", cause)
	return n.write(change{letGo: true, set: func(j *orrery.Job) {
		c.pending().apply(j)
		j.NotBefore = &at
	}})
}

// release hands the job to another server as it is.
func (n *run) release(c *Context) error {
	if err := n.write(change{letGo: true, set: func(j *orrery.Job) { c.pending().apply(j) }}); err != nil {
		return err
	}
	return errStopping
}

// alarm says that a job which can only go forward has passed its deadline.
func (n *run) alarm(c *Context) {
	err := n.write(change{
		set: func(j *orrery.Job) {
			c.pending().apply(j)
			j.Alarm = "The job passed its deadline. It cannot be undone and is tried on."
		},
		event: func(j *orrery.Job) *orrery.Event {
			return newEvent(j, orrery.SeverityError, "JobDeadline", "%s: %s", j.Kind, j.Alarm)
		}})
	if err != nil {
		n.log.Error("cannot store the alarm of a job past its deadline", "error", err)
	}
}

// jobError is err as people see it.
func jobError(err error, step string) *orrery.JobError {
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok {
		return &orrery.JobError{Code: string(orrery.KindInternal), Message: explain(err), Step: step}
	}
	return &orrery.JobError{Code: e.Code, Message: e.Message, Field: e.Field, Hint: e.Hint, Step: step}
}

// explain gives err's text for people: the sentence of an *orrery.Error without its inner cause, else the error's own.
func explain(err error) string {
	if e, ok := errors.AsType[*orrery.Error](err); ok {
		return e.Message
	}
	return clip(err.Error(), maxLogBytes)
}

func endEvent(j *orrery.Job) *orrery.Event {
	if j.State == orrery.JobCancelled {
		return newEvent(j, orrery.SeverityInfo, "JobCancelled", "%s was cancelled and left nothing behind", j.Kind)
	}
	message := "for an unknown reason"
	if j.Error != nil {
		message = j.Error.Message
	}
	return newEvent(j, orrery.SeverityError, "JobFailed", "%s failed and left nothing behind: %s", j.Kind, message)
}

func newEvent(j *orrery.Job, severity orrery.EventSeverity, reason, format string, args ...any) *orrery.Event {
	return &orrery.Event{Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixEvent), Project: j.Project},
		Object: j.Object, ObjectName: j.ObjectName, Time: time.Now().UTC(), Severity: severity, Reason: reason,
		Message: fmt.Sprintf(format, args...), Job: j.ID}
}
