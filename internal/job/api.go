package job

import (
	"context"
	"fmt"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

// maxUnfinished is how many unfinished jobs one object may have.
const maxUnfinished = 100

// Enqueue adds a job to the caller's transaction, beside the change that it carries out. Kind, Object, ObjectName,
// Project, Input, ReadOnly and RequestedBy are the caller's; the rest is filled in. The kind is checked only by the
// servers that could run it: a job of a kind that none knows stays queued. The deadline is counted anew from the moment
// the job is first claimed.
func Enqueue(tx *store.Tx, s *store.Store, j *orrery.Job) error {
	if j.Kind == "" || j.Object == "" {
		return orrery.Errorf(orrery.KindInternal, "a job without kind or object cannot be queued")
	}
	open := 0
	for _, other := range s.Jobs.By("object", j.Object) {
		if !other.State.Final() {
			open++
		}
	}
	if open >= maxUnfinished {
		return orrery.Errorf(orrery.KindRateLimited, "%d jobs are waiting for %s already", open, j.Object).
			WithCode("too_many_jobs").WithHint("Wait for some of them to end, or cancel them.")
	}
	now := time.Now().UTC()
	j.ID, j.Name = orrery.NewID(orrery.PrefixJob), ""
	j.State, j.Cursor, j.Progress, j.Owner = orrery.JobQueued, 0, 0, ""
	j.Steps = []orrery.JobStep{}
	j.CreatedAt, j.Deadline = now, now.Add(defaultDeadline)
	if err := s.Jobs.Insert(tx, j); err != nil {
		return fmt.Errorf("queue %s of %s: %w", j.Kind, j.Object, err)
	}
	return nil
}

// Cancel asks for the end of a job. A queued one is ended at once by whichever server sees it first; a running one has
// its step cancelled and is undone; a stuck one is undone. It returns the job with the request in it. Jobs that are
// over, being undone or past their point of no return are refused with KindConflict.
func Cancel(ctx context.Context, s *store.Store, id string) (*orrery.Job, error) {
	return update(ctx, s, id, func(j *orrery.Job) error {
		switch {
		case j.State.Final():
			return orrery.Errorf(orrery.KindConflict, "the job has %s already", past(j.State)).WithCode("job_over")
		case j.State == orrery.JobUndoing:
			return orrery.Errorf(orrery.KindConflict, "the job is being undone already").WithCode("job_undoing")
		case j.ForwardOnly:
			return orrery.Errorf(orrery.KindConflict, "the job can no longer be cancelled: what it does cannot be undone").
				WithCode("job_forward_only").WithHint("Wait for its end; if it is stuck, mend the cause and retry it.")
		}
		j.CancelRequested = true
		if j.State == orrery.JobStuck {
			resume(j)
		}
		return nil
	})
}

// RetryStuck lets a stuck job go on from where it was stuck: forward where it cannot be undone, else with its undo. A
// job that waits for its next attempt makes it now.
func RetryStuck(ctx context.Context, s *store.Store, id string) (*orrery.Job, error) {
	return update(ctx, s, id, func(j *orrery.Job) error {
		if j.NotBefore != nil && !j.State.Final() {
			j.NotBefore = nil
			return nil
		}
		if j.State != orrery.JobStuck {
			return orrery.Errorf(orrery.KindConflict, "the job is %s, and only stuck jobs can be retried", j.State).
				WithCode("job_not_stuck")
		}
		resume(j)
		return nil
	})
}

// resume puts a stuck job back to work.
func resume(j *orrery.Job) {
	j.Alarm, j.NotBefore, j.Deadline = "", nil, time.Now().UTC().Add(defaultDeadline)
	switch {
	case j.StartedAt == nil:
		j.State, j.Error = orrery.JobQueued, nil
		return
	case j.ForwardOnly:
		j.State, j.Error = orrery.JobRunning, nil
		j.Steps[j.Cursor].State = orrery.StepRunning
	default:
		j.State = orrery.JobUndoing
	}
	j.Steps[j.Cursor].Attempts = 0
}

func past(s orrery.JobState) string {
	if s == orrery.JobCancelled {
		return "been cancelled"
	}
	return string(s)
}

func update(ctx context.Context, s *store.Store, id string, change func(*orrery.Job) error) (*orrery.Job, error) {
	var j *orrery.Job
	revision, err := s.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		var err error
		if j, err = s.Jobs.TxGet(tx, id); err != nil {
			return err
		}
		if err := change(j); err != nil {
			return err
		}
		return s.Jobs.Put(tx, j)
	})
	if err != nil {
		return nil, err
	}
	j.Revision = revision
	return j, nil
}
