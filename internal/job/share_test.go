package job_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

// crashable runs a runner whose store may be crashed under it; that Run fails then is right.
func crashable(t testing.TB, cfg job.Config) (stop func()) {
	t.Helper()
	r, err := job.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// TestServersShareTheWorkAndAnyMayDie has jobs count what they do in the store: each step once for each job, whoever
// died in between, and never two jobs on one object.
func TestServersShareTheWorkAndAnyMayDie(t *testing.T) {
	const jobs, objects, count = 60, 12, 5
	watcher := storetest.New(t)
	var ran sync.Map // server → true
	steps := func(s *store.Store, server string) map[string]job.Def {
		return defs(map[string]do{"count": func(ctx context.Context, c *job.Context) error {
			ran.Store(server, true)
			_, err := c.Update(ctx, func(tx *store.Tx) error {
				o, err := s.Projects.TxGet(tx, c.Job.Object)
				if err != nil {
					return err
				}
				if at := o.Labels["at-work"]; at != "" && at != c.Job.ID {
					return orrery.Errorf(orrery.KindConflict, "job %s is at work beside %s", at, c.Job.ID)
				}
				if o.Labels == nil {
					o.Labels = map[string]string{}
				}
				o.Labels["at-work"] = c.Job.ID
				return s.Projects.Put(tx, o)
			})
			c.OnDone(func(tx *store.Tx) error {
				o, err := s.Projects.TxGet(tx, c.Job.Object)
				if err != nil {
					return err
				}
				n, _ := strconv.Atoi(o.Labels[c.Job.ID])
				o.Labels[c.Job.ID] = strconv.Itoa(n + 1)
				return s.Projects.Put(tx, o)
			})
			return err
		}})
	}
	start := func(name string) (*store.Store, func()) {
		s := storetest.Second(t, watcher)
		k := kind("k", "count", "count", "count", "count", "count")
		k.Finished = func(tx *store.Tx, j *orrery.Job) error {
			o, err := s.Projects.TxGet(tx, j.Object)
			if err != nil {
				return err
			}
			delete(o.Labels, "at-work")
			return s.Projects.Put(tx, o)
		}
		cfg := config(s, name, steps(s, name), k)
		cfg.Workers, cfg.ProjectWorkers = 4, 4
		return s, crashable(t, cfg)
	}
	for i := range objects {
		_, err := watcher.Update(t.Context(), func(tx *store.Tx) error {
			return watcher.Projects.Insert(tx, &orrery.Project{Meta: orrery.Meta{ID: object(i), Name: object(i)}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	a, stopA := start("a")
	b, stopB := start("b")
	_, stopC := start("c")
	var ids []string
	more := func(n int) {
		for range n {
			ids = append(ids, enqueue(t, watcher, "k", object(len(ids)%objects)))
		}
	}
	more(jobs - 20)
	waitState(t, watcher, ids[10], orrery.JobSucceeded)
	storetest.Crash(t, a)
	waitState(t, watcher, ids[25], orrery.JobSucceeded)
	storetest.Crash(t, b)
	start("d")
	stopC()
	more(20)
	for _, id := range ids {
		waitState(t, watcher, id, orrery.JobSucceeded)
	}
	stopA()
	stopB()
	for i := range objects {
		o, _ := watcher.Projects.Get(object(i))
		for j := i; j < jobs; j += objects {
			if got := o.Labels[ids[j]]; got != strconv.Itoa(count) {
				t.Errorf("job %d counted %s steps, want %d", j, got, count)
			}
		}
	}
	for _, server := range []string{"a", "b", "c", "d"} {
		if _, ok := ran.Load(server); !ok {
			t.Errorf("server %s ran nothing", server)
		}
	}
	noLeftovers(t, watcher)
}

func object(i int) string { return fmt.Sprintf("pr-%d", i) }

// TestZombieCannotWrite has a server lose its claim in a step, and go on when another server is in the same step.
func TestZombieCannotWrite(t *testing.T) {
	s := storetest.New(t)
	entered, inherited, free, wrote := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan error, 1)
	k := kind("k", "one")
	stop := serve(t, config(s, "zombie", defs(map[string]do{"one": func(ctx context.Context, c *job.Context) error {
		close(entered)
		<-ctx.Done() // it is told
		<-inherited
		_, err := c.Update(context.Background(), func(tx *store.Tx) error {
			return s.Projects.Insert(tx, &orrery.Project{Meta: orrery.Meta{ID: "pr-1", Name: "harm"}})
		})
		wrote <- err
		c.SetResult("of the zombie")
		return nil // and it is not stored
	}}), k))
	id := enqueue(t, s, "k", "ds-1")
	<-entered
	second := storetest.Second(t, s)
	serve(t, config(second, "heir", defs(map[string]do{"one": func(_ context.Context, c *job.Context) error {
		close(inherited)
		<-free
		c.SetResult("of the heir")
		return nil
	}}), k))
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return s.Claims.Delete(tx, id) }); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err == nil {
		t.Error("a server without the claim could write")
	}
	stop() // returns when the zombie's run is over
	if j, _ := s.Jobs.Get(id); j.State != orrery.JobRunning || j.Owner != "heir" || j.Steps[0].Result != nil {
		t.Errorf("after the zombie was through the job is %+v", j)
	}
	close(free)
	if j := waitState(t, s, id, orrery.JobSucceeded); string(j.Steps[0].Result) != `"of the heir"` {
		t.Errorf("the result is %s", j.Steps[0].Result)
	}
}

// older queues a job that is older than those there are, as one that came by a server whose clock is behind.
func older(j *orrery.Job) func(*store.Tx, *store.Store) error {
	return func(tx *store.Tx, s *store.Store) error {
		if err := job.Enqueue(tx, s, j); err != nil {
			return err
		}
		j.CreatedAt = j.CreatedAt.Add(-time.Hour)
		return s.Jobs.Put(tx, j)
	}
}

// TestPlanIsMadeOnWhatIs has another job change the object between plan and claim: first while it still has the object,
// then when it is through.
func TestPlanIsMadeOnWhatIs(t *testing.T) {
	s := storetest.New(t)
	planning, planned, entered, free := make(chan struct{}, 3), make(chan struct{}, 3), make(chan struct{}), make(chan struct{})
	var plans atomic.Int32
	late := kind("late", "quick")
	plan := late.Plan
	late.Plan = func(ctx context.Context, j *orrery.Job) ([]orrery.JobStep, error) {
		plans.Add(1)
		planning <- struct{}{}
		<-planned
		return plan(ctx, j)
	}
	cfg := config(s, "a", defs(map[string]do{"quick": nothing}), late, kind("probe", "quick"))
	cfg.Workers = 1
	serve(t, cfg)
	serve(t, config(s, "b", defs(map[string]do{"block": func(context.Context, *job.Context) error {
		entered <- struct{}{}
		<-free
		return nil
	}}), kind("early", "block")))
	id := enqueue(t, s, "late", "ds-1")
	early := func() string {
		j := &orrery.Job{Kind: "early", Object: "ds-1"}
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return older(j)(tx, s) }); err != nil {
			t.Fatal(err)
		}
		return j.ID
	}
	<-planning
	first := early()
	<-entered
	planned <- struct{}{} // the claim meets the lock
	waitState(t, s, enqueue(t, s, "probe", "ds-2"), orrery.JobSucceeded)
	if j, _ := s.Jobs.Get(id); j.State != orrery.JobQueued {
		t.Fatalf("the job is %s while another has its object", j.State)
	}
	free <- struct{}{}
	waitState(t, s, first, orrery.JobSucceeded)
	<-planning
	second := early()
	<-entered
	free <- struct{}{}
	waitState(t, s, second, orrery.JobSucceeded)
	planned <- struct{}{} // the object is free, and not as it was
	<-planning
	planned <- struct{}{}
	waitState(t, s, id, orrery.JobSucceeded)
	if plans.Load() != 3 {
		t.Errorf("it was planned %d times, want 3", plans.Load())
	}
	noLeftovers(t, s)
}

// TestForerunnersClaimsAreDropped has a server come back while the lease of its dead process still stands.
func TestForerunnersClaimsAreDropped(t *testing.T) {
	s := storetest.New(t)
	died := errors.New("died")
	cfg := config(s, "a", defs(map[string]do{"one": nothing}), kind("k", "one"))
	cfg.Hooks.At = func(p job.Point) error {
		if p.Where == job.BeforeDo {
			return died
		}
		return nil
	}
	r, err := job.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	id := enqueue(t, s, "k", "ds-1")
	if err := r.Run(t.Context()); !errors.Is(err, died) {
		t.Fatal(err)
	}
	if s.Claims.Len() != 1 {
		t.Fatal("the dead server left no claim")
	}
	cfg.Hooks.At = nil
	serve(t, cfg)
	waitState(t, s, id, orrery.JobSucceeded)
}

func TestParallelismIsBounded(t *testing.T) {
	s := storetest.New(t)
	var active, most atomic.Int32
	entered, free := make(chan struct{}, 20), make(chan struct{})
	cfg := config(s, "a", defs(map[string]do{"one": func(context.Context, *job.Context) error {
		n := active.Add(1)
		defer active.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		entered <- struct{}{}
		<-free
		return nil
	}}), kind("k", "one"))
	cfg.Workers, cfg.ProjectWorkers = 3, 3
	var ids []string
	for i := range 12 {
		ids = append(ids, enqueue(t, s, "k", object(i)))
	}
	serve(t, cfg)
	for range 3 {
		<-entered
	}
	close(free)
	for _, id := range ids {
		waitState(t, s, id, orrery.JobSucceeded)
	}
	if most.Load() != 3 {
		t.Errorf("%d jobs ran at once, want 3", most.Load())
	}
}

// TestOneProjectDoesNotStarveAnother has one worker, a project with many jobs and one with a single, younger one.
func TestOneProjectDoesNotStarveAnother(t *testing.T) {
	s := storetest.New(t)
	var mu sync.Mutex
	var order []string
	cfg := config(s, "a", defs(map[string]do{"one": func(_ context.Context, c *job.Context) error {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, c.Job.Project)
		return nil
	}}), kind("k", "one"))
	cfg.Workers = 1
	for i := range 30 {
		enqueue(t, s, "k", object(i), func(j *orrery.Job) { j.Project = "big" })
	}
	id := enqueue(t, s, "k", "ds-1", func(j *orrery.Job) { j.Project = "small" })
	serve(t, cfg)
	waitState(t, s, id, orrery.JobSucceeded)
	mu.Lock()
	defer mu.Unlock()
	if len(order) > 4 {
		t.Errorf("the small project's only job came after %d of the big one's", len(order)-1)
	}
}

// TestReadOnlyRunsBeside has a backup run while a mutating job holds the object, and a second mutating one wait.
func TestReadOnlyRunsBeside(t *testing.T) {
	s := storetest.New(t)
	entered, free := make(chan struct{}), make(chan struct{})
	reads := kind("read", "quick")
	reads.ReadOnly = true
	serve(t, config(s, "a", defs(map[string]do{"quick": nothing, "block": func(context.Context, *job.Context) error {
		close(entered)
		<-free
		return nil
	}}), kind("k", "block"), kind("next", "quick"), reads))
	first := enqueue(t, s, "k", "ds-1")
	<-entered
	second := enqueue(t, s, "next", "ds-1")
	waitState(t, s, enqueue(t, s, "read", "ds-1", func(j *orrery.Job) { j.ReadOnly = true }), orrery.JobSucceeded)
	if j, _ := s.Jobs.Get(second); j.State != orrery.JobQueued {
		t.Errorf("a second mutating job is %s beside the first", j.State)
	}
	close(free)
	a, b := waitState(t, s, first, orrery.JobSucceeded), waitState(t, s, second, orrery.JobSucceeded)
	if b.StartedAt.Before(*a.EndedAt) {
		t.Error("the second began before the first had ended")
	}
}
