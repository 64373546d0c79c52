package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// do is a step's half as tests write it.
type do = func(context.Context, *job.Context) error

func nothing(context.Context, *job.Context) error { return nil }

// kind is a kind with these steps, one after the other.
func kind(name string, steps ...string) job.Kind {
	return job.Kind{Name: name, Plan: func(context.Context, *orrery.Job) ([]orrery.JobStep, error) {
		var out []orrery.JobStep
		for _, s := range steps {
			out = append(out, orrery.JobStep{Name: s, Title: s})
		}
		return out, nil
	}}
}

func defs(steps map[string]do) map[string]job.Def {
	out := map[string]job.Def{}
	for name, d := range steps {
		out[name] = job.Def{Do: d, Undo: job.NothingToUndo}
	}
	return out
}

func config(s *store.Store, server string, steps map[string]job.Def, kinds ...job.Kind) job.Config {
	return job.Config{Store: s, Kinds: kinds, Steps: steps, Server: server, Log: slog.New(slog.DiscardHandler)}
}

// serve runs a runner; stop ends it and waits. It is stopped when the test ends.
func serve(t testing.TB, cfg job.Config) (stop func()) {
	t.Helper()
	r, err := job.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var once sync.Once
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("runner %s: %v", cfg.Server, err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func enqueue(t testing.TB, s *store.Store, kind, object string, change ...func(*orrery.Job)) string {
	t.Helper()
	j := &orrery.Job{Kind: kind, Object: object}
	for _, c := range change {
		c(j)
	}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return job.Enqueue(tx, s, j) }); err != nil {
		t.Fatal(err)
	}
	return j.ID
}

// wait returns the job when cond holds.
func wait(t testing.TB, s *store.Store, id string, cond func(*orrery.Job) bool) *orrery.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var j *orrery.Job
	err := s.WaitFor(ctx, nil, func() (bool, error) {
		var ok bool
		j, ok = s.Jobs.Get(id)
		return ok && cond(j), nil
	}, s.Jobs.Topic(id))
	if err != nil {
		t.Fatalf("%v; the job is %+v", err, j)
	}
	return j
}

func waitState(t testing.TB, s *store.Store, id string, state orrery.JobState) *orrery.Job {
	t.Helper()
	j := wait(t, s, id, func(j *orrery.Job) bool { return j.State == state || j.State.Final() })
	if j.State != state {
		t.Fatalf("the job is %s (%+v), want %s", j.State, j.Error, state)
	}
	return j
}

func noLeftovers(t testing.TB, s *store.Store) {
	t.Helper()
	if c, l := s.Claims.Len(), s.Locks.Len(); c+l != 0 {
		t.Errorf("%d claims and %d locks are left", c, l)
	}
}

func TestJobRunsToItsEnd(t *testing.T) {
	s := storetest.New(t)
	k := kind("k", "one", "two")
	k.Finished = func(tx *store.Tx, j *orrery.Job) error {
		return s.Projects.Insert(tx, &orrery.Project{Meta: orrery.Meta{ID: "pr-1", Name: "made"}})
	}
	serve(t, config(s, "a", defs(map[string]do{
		"one": func(_ context.Context, c *job.Context) error {
			c.Logf("says %d", 1)
			c.SetResult(map[string]int{"n": 7})
			return nil
		},
		"two": func(_ context.Context, c *job.Context) error {
			var got map[string]int
			if ok, err := c.StepResult("one", &got); !ok || err != nil || got["n"] != 7 {
				return job.Retry(fmt.Errorf("got %v, %v: %w", got, ok, err), job.Permanent)
			}
			c.OnDone(func(tx *store.Tx) error {
				return s.Projects.Insert(tx, &orrery.Project{Meta: orrery.Meta{ID: "pr-2", Name: "with-the-checkpoint"}})
			})
			return nil
		}}), k))
	j := waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobSucceeded)
	if j.Progress != 100 || j.EndedAt == nil || j.StartedAt == nil || j.Owner != "" || j.Error != nil {
		t.Errorf("the ended job is %+v", j)
	}
	if log := j.Steps[0].Log; len(log) != 1 || log[0].Message != "says 1" {
		t.Errorf("the log is %v", log)
	}
	for i, st := range j.Steps {
		if st.State != orrery.StepDone || st.Attempts != 1 || st.StartedAt == nil || st.EndedAt == nil {
			t.Errorf("step %d is %+v", i, st)
		}
	}
	if s.Projects.Len() != 2 {
		t.Error("what should be written with the checkpoint and the end is not")
	}
	noLeftovers(t, s)
}

func TestRetriesSoonInPlace(t *testing.T) {
	s := storetest.New(t)
	var calls atomic.Int32
	serve(t, config(s, "a", defs(map[string]do{"one": func(context.Context, *job.Context) error {
		if calls.Add(1) < 3 {
			return errors.New("not yet")
		}
		return nil
	}}), kind("k", "one")))
	j := waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobSucceeded)
	if j.Steps[0].Attempts != 3 || len(j.Steps[0].Log) != 2 {
		t.Errorf("the step is %+v, want 3 attempts and a line for each that failed", j.Steps[0])
	}
}

func TestLaterFreesTheWorker(t *testing.T) {
	s := storetest.New(t)
	var calls atomic.Int32
	cfg := config(s, "a", defs(map[string]do{"later": func(context.Context, *job.Context) error {
		calls.Add(1)
		return job.Retry(errors.New("the host is away"), job.Later)
	}, "quick": nothing}), kind("slow", "later"), kind("quick", "quick"))
	cfg.Workers = 1
	serve(t, cfg)
	id := enqueue(t, s, "slow", "ds-1")
	j := wait(t, s, id, func(j *orrery.Job) bool { return j.NotBefore != nil })
	if j.State != orrery.JobRunning || j.Owner != "" || !j.NotBefore.After(time.Now()) || len(j.Steps[0].Log) != 1 {
		t.Errorf("the waiting job is %+v", j)
	}
	if s.Claims.Len() != 0 || s.Locks.Len() != 1 {
		t.Errorf("%d claims and %d locks, want none and one", s.Claims.Len(), s.Locks.Len())
	}
	waitState(t, s, enqueue(t, s, "quick", "ds-2"), orrery.JobSucceeded)
	if _, err := job.RetryStuck(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	wait(t, s, id, func(j *orrery.Job) bool { return j.Steps[0].Attempts == 2 && j.NotBefore != nil })
	// A cancellation does not wait for the next attempt either.
	if _, err := job.Cancel(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	waitState(t, s, id, orrery.JobCancelled)
	if calls.Load() != 2 {
		t.Errorf("%d attempts, want 2", calls.Load())
	}
	noLeftovers(t, s)
}

func TestLaterComesAgain(t *testing.T) {
	s := storetest.New(t)
	at := time.Now().Add(300 * time.Millisecond)
	serve(t, config(s, "a", defs(map[string]do{"one": nothing}), kind("k", "one")))
	j := waitState(t, s, enqueue(t, s, "k", "ds-1", func(j *orrery.Job) { j.NotBefore = &at }), orrery.JobSucceeded)
	if j.StartedAt.Before(at) {
		t.Errorf("it began %s too early", at.Sub(*j.StartedAt))
	}
}

// TestHooksOfAKind has Finished and Undone fail for good.
func TestHooksOfAKind(t *testing.T) {
	s := storetest.New(t)
	var mended atomic.Bool
	broken := func(*store.Tx, *orrery.Job) error {
		if mended.Load() {
			return nil
		}
		return orrery.Errorf(orrery.KindConflict, "the object has changed")
	}
	fails := kind("fails", "one")
	fails.Finished = broken
	both := kind("both", "one")
	both.Finished, both.Undone = broken, broken
	serve(t, config(s, "a", defs(map[string]do{"one": nothing}), fails, both))
	if j := waitState(t, s, enqueue(t, s, "fails", "ds-1"), orrery.JobFailed); j.Error.Message != "the object has changed" {
		t.Errorf("error %+v", j.Error)
	}
	id := enqueue(t, s, "both", "ds-1")
	waitState(t, s, id, orrery.JobStuck)
	mended.Store(true)
	if _, err := job.RetryStuck(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	waitState(t, s, id, orrery.JobFailed)
	noLeftovers(t, s)
}

// TestEndOfUnbegunJobCanFail has the end of a job that was cancelled while queued be refused by its kind.
func TestEndOfUnbegunJobCanFail(t *testing.T) {
	s := storetest.New(t)
	var mended atomic.Bool
	k := kind("k", "one")
	k.Undone = func(*store.Tx, *orrery.Job) error {
		if mended.Load() {
			return nil
		}
		return orrery.Errorf(orrery.KindConflict, "not now")
	}
	id := enqueue(t, s, "k", "ds-1")
	if _, err := job.Cancel(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	serve(t, config(s, "a", defs(map[string]do{"one": nothing}), k))
	waitState(t, s, id, orrery.JobStuck)
	mended.Store(true)
	if _, err := job.RetryStuck(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	waitState(t, s, id, orrery.JobCancelled)
}

func TestLogIsBounded(t *testing.T) {
	s := storetest.New(t)
	serve(t, config(s, "a", defs(map[string]do{"one": func(_ context.Context, c *job.Context) error {
		for i := range 200 {
			c.Logf("%d %s", i, strings.Repeat("é", 400))
		}
		return nil
	}}), kind("k", "one")))
	log := waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobSucceeded).Steps[0].Log
	if len(log) != 20 || !strings.HasPrefix(log[19].Message, "199 ") || len(log[19].Message) > 310 || !utf8.ValidString(log[19].Message) {
		t.Errorf("%d lines, the last is %q", len(log), log[len(log)-1].Message)
	}
}

func TestPanicFailsTheJob(t *testing.T) {
	s := storetest.New(t)
	var undone atomic.Bool
	serve(t, config(s, "a", map[string]job.Def{"one": {
		Do:   func(context.Context, *job.Context) error { panic("oh") },
		Undo: func(context.Context, *job.Context) error { undone.Store(true); return nil },
	}}, kind("k", "one")))
	j := waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobFailed)
	if j.Error.Code != "panic" || j.Error.Step != "one" || !undone.Load() {
		t.Errorf("error %+v, undone %v", j.Error, undone.Load())
	}
	events := s.Events.By("object", "ds-1")
	if len(events) != 1 || events[0].Reason != "JobFailed" || events[0].Job != j.ID {
		t.Errorf("events %+v", events)
	}
	noLeftovers(t, s)
}

func TestPanicInPlanFailsTheJob(t *testing.T) {
	s := storetest.New(t)
	var undone atomic.Bool
	k := kind("k")
	k.Plan = func(context.Context, *orrery.Job) ([]orrery.JobStep, error) { panic("oh") }
	k.Undone = func(*store.Tx, *orrery.Job) error { undone.Store(true); return nil }
	unknown := kind("unknown", "nobody-knows")
	serve(t, config(s, "a", nil, k, unknown, kind("empty")))
	if j := waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobFailed); j.Error.Code != "panic" || !undone.Load() {
		t.Errorf("error %+v, undone %v", j.Error, undone.Load())
	}
	waitState(t, s, enqueue(t, s, "unknown", "ds-1"), orrery.JobFailed)
	waitState(t, s, enqueue(t, s, "empty", "ds-1"), orrery.JobSucceeded)
	noLeftovers(t, s)
}

func TestStepTimeoutIsRetried(t *testing.T) {
	s := storetest.New(t)
	var calls atomic.Int32
	serve(t, config(s, "a", map[string]job.Def{"one": {Timeout: 20 * time.Millisecond, Undo: job.NothingToUndo,
		Do: func(ctx context.Context, _ *job.Context) error {
			if calls.Add(1) == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}}, kind("k", "one")))
	waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobSucceeded)
}

func TestDeadlineFailsAndUndoes(t *testing.T) {
	s := storetest.New(t)
	k := kind("k", "one")
	k.Deadline = 50 * time.Millisecond
	serve(t, config(s, "a", defs(map[string]do{"one": func(ctx context.Context, _ *job.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}), k))
	j := waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobFailed)
	if j.Error.Code != "deadline" {
		t.Errorf("error %+v", j.Error)
	}
	noLeftovers(t, s)
}

func TestDeadlineOfForwardOnlyAlarmsAndGoesOn(t *testing.T) {
	s := storetest.New(t)
	k := kind("k", "one")
	k.Deadline, k.ForwardOnly = 50*time.Millisecond, true
	free := make(chan struct{})
	serve(t, config(s, "a", defs(map[string]do{"one": func(ctx context.Context, _ *job.Context) error {
		select {
		case <-free:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}), k))
	id := enqueue(t, s, "k", "ds-1")
	j := wait(t, s, id, func(j *orrery.Job) bool { return j.Alarm != "" })
	if j.State != orrery.JobRunning {
		t.Errorf("the job is %s", j.State)
	}
	if e := s.Events.By("object", "ds-1"); len(e) != 1 || e[0].Reason != "JobDeadline" {
		t.Errorf("events %+v", e)
	}
	close(free)
	if j := waitState(t, s, id, orrery.JobSucceeded); j.Alarm != "" {
		t.Errorf("the alarm stays: %s", j.Alarm)
	}
}

func TestCancel(t *testing.T) {
	s := storetest.New(t)
	entered := make(chan struct{}, 1)
	forward := kind("forward", "block")
	forward.ForwardOnly = true
	var undone atomic.Int32
	serve(t, config(s, "a", map[string]job.Def{"block": {
		Do: func(ctx context.Context, _ *job.Context) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		},
		Undo: func(context.Context, *job.Context) error { undone.Add(1); return nil },
	}}, kind("k", "block"), forward))
	first := enqueue(t, s, "k", "ds-1")
	<-entered
	second := enqueue(t, s, "k", "ds-1")
	if _, err := job.Cancel(t.Context(), s, second); err != nil {
		t.Fatal(err)
	}
	j := waitState(t, s, second, orrery.JobCancelled) // although the first holds the object
	if j.StartedAt != nil {
		t.Error("a job that was cancelled while queued has begun")
	}
	if _, err := job.Cancel(t.Context(), s, first); err != nil {
		t.Fatal(err)
	}
	waitState(t, s, first, orrery.JobCancelled)
	if undone.Load() != 1 {
		t.Errorf("%d undos, want 1", undone.Load())
	}
	if _, err := job.Cancel(t.Context(), s, first); orrery.KindOf(err) != orrery.KindConflict {
		t.Errorf("cancelling what is over: %v", err)
	}
	if _, err := job.Cancel(t.Context(), s, "jo-none"); orrery.KindOf(err) != orrery.KindNotFound {
		t.Errorf("cancelling what is not: %v", err)
	}
	third := enqueue(t, s, "forward", "ds-1")
	<-entered
	_, err := job.Cancel(t.Context(), s, third)
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != "job_forward_only" {
		t.Errorf("cancelling what can only go forward: %v", err)
	}
}

func TestStuckAndRetried(t *testing.T) {
	s := storetest.New(t)
	var mended atomic.Bool
	broken := func(context.Context, *job.Context) error {
		if mended.Load() {
			return nil
		}
		return job.Retry(errors.New("no way"), job.Permanent)
	}
	del := kind("delete", "one")
	del.TakesOver = true
	serve(t, config(s, "a", map[string]job.Def{"broken": {Do: broken, Undo: broken}, "one": {Do: nothing, Undo: job.NothingToUndo}},
		kind("k", "broken"), kind("other", "one"), del))
	id := enqueue(t, s, "k", "ds-1")
	j := waitState(t, s, id, orrery.JobStuck)
	if j.Alarm == "" || j.Owner != "" || s.Locks.Len() != 1 || s.Claims.Len() != 0 {
		t.Errorf("the stuck job is %+v", j)
	}
	waiting := enqueue(t, s, "other", "ds-1")
	if _, err := job.RetryStuck(t.Context(), s, waiting); orrery.KindOf(err) != orrery.KindConflict {
		t.Errorf("retrying what is not stuck: %v", err)
	}
	mended.Store(true)
	if _, err := job.RetryStuck(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	if j := waitState(t, s, id, orrery.JobFailed); j.Alarm != "" || j.Error.Message != "no way" {
		t.Errorf("the retried job is %+v", j)
	}
	waitState(t, s, waiting, orrery.JobSucceeded)

	// A deletion takes the object over from a stuck job.
	mended.Store(false)
	id = enqueue(t, s, "k", "ds-1")
	waitState(t, s, id, orrery.JobStuck)
	waitState(t, s, enqueue(t, s, "delete", "ds-1"), orrery.JobSucceeded)
	waitState(t, s, id, orrery.JobFailed)
	noLeftovers(t, s)
}

func TestStoppingHandsOver(t *testing.T) {
	s := storetest.New(t)
	entered := make(chan string, 2)
	steps := func(server string) map[string]job.Def {
		return defs(map[string]do{"quick": nothing, "block": func(ctx context.Context, c *job.Context) error {
			entered <- server
			if server == "b" {
				return nil
			}
			c.Logf("was here")
			<-ctx.Done()
			return ctx.Err()
		}})
	}
	stop := serve(t, config(s, "a", steps("a"), kind("k", "quick", "block")))
	id := enqueue(t, s, "k", "ds-1")
	<-entered
	stop()
	j, _ := s.Jobs.Get(id)
	if j.State != orrery.JobRunning || j.Cursor != 1 || j.Owner != "" || s.Claims.Len() != 0 || len(j.Steps[1].Log) != 1 {
		t.Fatalf("after stopping the job is %+v", j)
	}
	serve(t, config(s, "b", steps("b"), kind("k", "quick", "block")))
	waitState(t, s, id, orrery.JobSucceeded)
	if by := <-entered; by != "b" {
		t.Errorf("%s went on", by)
	}
}

func TestLongStepIsStoredMeanwhile(t *testing.T) {
	s := storetest.New(t)
	free := make(chan struct{})
	serve(t, config(s, "a", defs(map[string]do{"long": func(_ context.Context, c *job.Context) error {
		c.Logf("half")
		c.Progress(50)
		<-free
		return nil
	}}), kind("k", "long", "long")))
	id := enqueue(t, s, "k", "ds-1")
	j := wait(t, s, id, func(j *orrery.Job) bool { return j.Progress > 0 })
	if j.Progress != 25 || len(j.Steps[0].Log) != 1 || j.Cursor != 0 {
		t.Errorf("meanwhile the job is %+v", j)
	}
	close(free)
	waitState(t, s, id, orrery.JobSucceeded)
}

func TestPrune(t *testing.T) {
	s := storetest.New(t)
	var undone atomic.Int32
	serve(t, config(s, "a", defs(map[string]do{"bad": func(context.Context, *job.Context) error {
		undone.Add(1)
		return job.Retry(errors.New("no"), job.Permanent)
	}}), kind("k", "bad")))
	var last string
	for range 5 {
		last = enqueue(t, s, "k", "ds-1")
	}
	waitState(t, s, last, orrery.JobFailed)
	waiting := enqueue(t, s, "nobody-knows", "ds-1")
	jobs, events, err := job.Prune(t.Context(), s, job.Keep{Jobs: 2, Events: 1})
	if err != nil || jobs != 3 || events != 4 {
		t.Fatalf("pruned %d jobs and %d events (%v), want 3 and 4", jobs, events, err)
	}
	if _, ok := s.Jobs.Get(last); !ok {
		t.Error("the newest is gone")
	}
	if jobs, events, err = job.Prune(t.Context(), s, job.Keep{JobsFor: time.Nanosecond, EventsFor: time.Nanosecond}); err != nil || jobs != 2 || events != 1 {
		t.Fatalf("pruned %d jobs and %d events by age (%v), want 2 and 1", jobs, events, err)
	}
	if _, ok := s.Jobs.Get(waiting); !ok {
		t.Error("a job that is not over is gone")
	}
}

func TestQueueOfAnObjectIsBounded(t *testing.T) {
	s := storetest.New(t)
	var err error
	for range 101 {
		_, err = s.Update(t.Context(), func(tx *store.Tx) error {
			return job.Enqueue(tx, s, &orrery.Job{Kind: "k", Object: "ds-1"})
		})
	}
	if orrery.KindOf(err) != orrery.KindRateLimited {
		t.Errorf("the 101st job: %v", err)
	}
}
