package jobtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/store"
)

const none = -1

// trial is one thing done to a job.
type trial struct {
	name  string
	twice bool
	// kill the server at the killAt-th point. killAll asks for a trial for each point of the undo.
	kill, killAll bool
	killAt        int
	// failStep fails for good, before or after it was done; failUndo likewise, instead of being undone.
	failStep, failUndo int
	failAfter          bool
	// cancelStep: cancelled right before or after this step.
	cancelStep                int
	cancelAfter, cancelQueued bool
}

// record is what was seen of a job.
type record struct {
	points   []job.Point
	steps    int
	undoable int // steps from the start that come before the point of no return
}

type play struct {
	Scenario
	trial
	w      *World
	id     string
	mended atomic.Bool // faults are lifted

	mu        sync.Mutex
	record    record
	cancelled bool // a request to cancel was accepted
	refused   bool
	errs      []error
}

var (
	errKill  = errors.New("killed by the trial")
	errFault = job.Retry(errors.New("fails for good by the trial"), job.Permanent)
)

func (p *play) run(ctx context.Context) error {
	var err error
	if p.id, err = p.w.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := p.checkInput(); err != nil {
		return err
	}
	if p.cancelQueued {
		p.cancel()
	}
	first, err := p.serve(ctx, "first", p.w.Steps, p.hooks(ctx))
	if err != nil {
		return err
	}
	defer func() { first.stop() }()
	if p.kill {
		if err := p.second(ctx, first); err != nil {
			return err
		}
	}
	j, err := p.wait(ctx)
	if err != nil {
		return err
	}
	if j.State == orrery.JobStuck {
		if j.Alarm == "" {
			p.fault("the job is stuck without an alarm")
		}
		if p.failStep == none && p.failUndo == none {
			return fmt.Errorf("the job is stuck: %s", j.Alarm)
		}
		p.mended.Store(true)
		if _, err := job.RetryStuck(ctx, p.w.Store, p.id); err != nil {
			return fmt.Errorf("retry the stuck job: %w", err)
		}
		if j, err = p.wait(ctx); err != nil {
			return err
		}
	}
	p.judge(j)
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.errs...)
}

// judge looks at the end.
func (p *play) judge(j *orrery.Job) {
	p.mu.Lock()
	p.record.steps = len(j.Steps)
	cancelled := p.cancelled
	p.mu.Unlock()
	want := orrery.JobSucceeded
	switch {
	case cancelled:
		want = orrery.JobCancelled
	case p.failStep != none && !j.ForwardOnly:
		want = orrery.JobFailed
	}
	if j.State != want {
		p.fault("the job is %s and should be %s (%s)", j.State, want, problem(j))
	}
	if j.EndedAt == nil || j.Owner != "" || j.Alarm != "" {
		p.fault("the job is over and still has an owner %q, an alarm %q or no end", j.Owner, j.Alarm)
	}
	for i, s := range j.Steps {
		if j.State == orrery.JobSucceeded && s.State != orrery.StepDone {
			p.fault("the job succeeded and its step %d is %s", i, s.State)
		}
		if j.State != orrery.JobSucceeded && s.State != orrery.StepUndone && s.State != orrery.StepPending {
			p.fault("the job is undone and its step %d is %s", i, s.State)
		}
	}
	for _, c := range p.w.Store.Claims.List() {
		p.fault("claim %s of %s is left", c.ID, c.Owner)
	}
	for _, l := range p.w.Store.Locks.List() {
		p.fault("the lock on %s is left", l.ID)
	}
	if err := p.w.Check(j); err != nil {
		p.fault("after the job was %s: %w", j.State, err)
	}
}

func problem(j *orrery.Job) string {
	if j.Error == nil {
		return "no error"
	}
	return j.Error.Step + ": " + j.Error.Message
}

func (p *play) fault(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

// server is one runner.
type server struct {
	stop func()
	done chan error
}

func (p *play) serve(ctx context.Context, name string, steps map[string]job.Def, hooks job.Hooks) (*server, error) {
	r, err := job.New(job.Config{Store: p.w.Store, Kinds: p.w.Kinds, Steps: p.faulty(steps), Server: name, Log: p.Log, Hooks: hooks})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{done: make(chan error, 1)}
	ended := make(chan struct{})
	s.stop = func() { cancel(); <-ended }
	go func() {
		s.done <- r.Run(ctx)
		close(ended)
	}()
	return s, nil
}

// second lets another server take over when the first was killed, or nothing when the job ended before that.
func (p *play) second(ctx context.Context, first *server) error {
	ended := make(chan struct{})
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if _, err := p.wait(waiting); err == nil {
			close(ended)
		}
	}()
	select {
	case <-ended:
		// The last points come after the job's end, and the kill with them.
		return nil
	case err := <-first.done:
		if !errors.Is(err, errKill) {
			return fmt.Errorf("the first server ended: %w", err)
		}
	}
	// What etcd does when the lease of the dead server runs out.
	_, err := p.w.Store.Update(ctx, func(tx *store.Tx) error {
		for _, c := range p.w.Store.Claims.By("owner", "first") {
			if err := p.w.Store.Claims.Delete(tx, c.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("let the claims of the dead server run out: %w", err)
	}
	steps := p.w.Steps
	if p.w.Restart != nil {
		steps = p.w.Restart()
	}
	next, err := p.serve(ctx, "second", steps, job.Hooks{})
	if err != nil {
		return err
	}
	firstStop := first.stop
	first.stop = func() { next.stop(); firstStop() }
	return nil
}

// wait returns the job when it is over or stuck.
func (p *play) wait(ctx context.Context) (*orrery.Job, error) {
	var j *orrery.Job
	err := p.w.Store.WaitFor(ctx, nil, func() (bool, error) {
		var ok bool
		if j, ok = p.w.Store.Jobs.Get(p.id); !ok {
			return false, fmt.Errorf("job %s is gone", p.id)
		}
		return j.State.Final() || j.State == orrery.JobStuck, nil
	}, p.w.Store.Jobs.Topic(p.id))
	if err != nil {
		state, _ := json.Marshal(j)
		return nil, fmt.Errorf("the job does not end: %w; it is %s", err, state)
	}
	return j, nil
}

// hooks strike at the trial's point, and record all points.
func (p *play) hooks(context.Context) job.Hooks {
	return job.Hooks{Twice: p.twice, At: func(at job.Point) error {
		if at.Job != p.id {
			return nil
		}
		p.mu.Lock()
		n := len(p.record.points)
		p.record.points = append(p.record.points, at)
		if j, ok := p.w.Store.Jobs.Get(p.id); ok && at.Where == job.BeforeDo && !j.ForwardOnly {
			p.record.undoable = max(p.record.undoable, at.Step+1)
		}
		p.mu.Unlock()
		if p.kill && n == p.killAt {
			return errKill
		}
		if at.Step == p.cancelStep && (at.Where == job.BeforeDo && !p.cancelAfter || at.Where == job.AfterDo && p.cancelAfter) {
			p.cancel()
		}
		return nil
	}}
}

// cancel asks for the end, as a person would. It may be refused.
func (p *play) cancel() {
	_, err := job.Cancel(context.Background(), p.w.Store, p.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.cancelled = true
	case orrery.KindOf(err) == orrery.KindConflict:
		p.refused = true
	default:
		p.errs = append(p.errs, fmt.Errorf("cancel: %w", err))
	}
}

// faulty wraps the steps with the trial's faults. Nothing is undone by name: a step that has nothing to undo keeps
// NothingToUndo, which the runner knows.
func (p *play) faulty(steps map[string]job.Def) map[string]job.Def {
	if p.failStep == none && p.failUndo == none {
		return steps
	}
	steps = maps.Clone(steps)
	for name, d := range steps {
		do, undo := d.Do, d.Undo
		d.Do = func(ctx context.Context, c *job.Context) error {
			fails := c.Job.Cursor == p.failStep && !p.mended.Load()
			if fails && !p.failAfter {
				return errFault
			}
			if err := do(ctx, c); err != nil || !fails {
				return err
			}
			return errFault
		}
		if p.failUndo != none && undo != nil {
			d.Undo = func(ctx context.Context, c *job.Context) error {
				if c.Job.Cursor == p.failUndo && !p.mended.Load() {
					return errFault
				}
				return undo(ctx, c)
			}
		}
		steps[name] = d
	}
	return steps
}

// checkInput refuses a kind whose input can hold a secret.
func (p *play) checkInput() error {
	j, ok := p.w.Store.Jobs.Get(p.id)
	if !ok {
		return fmt.Errorf("job %s was not stored", p.id)
	}
	for _, k := range p.w.Kinds {
		if k.Name != j.Kind {
			continue
		}
		if k.Input == nil && len(j.Input) > 0 {
			return fmt.Errorf("kind %s has an input and no prototype of it; see job.Kind.Input", k.Name)
		}
		return job.CheckInput(k.Input)
	}
	return fmt.Errorf("the world has no kind %s", j.Kind)
}
