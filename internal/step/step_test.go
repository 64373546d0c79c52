package step_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/job/jobtest"
	"github.com/orrery-db/orrery/internal/plan"
	"github.com/orrery-db/orrery/internal/step"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// world is a store with two hosts, a fleet played by a robot, and one datastore at the start of a job.
type world struct {
	store  *store.Store
	robot  *robot
	before *orrery.Datastore // nil where the job creates it
	id     string
}

func newWorld(t testing.TB) *world {
	st := storetest.New(t)
	w := &world{store: st, id: orrery.NewID(orrery.PrefixDatastore)}
	update(t, st, func(tx *store.Tx) error {
		pool := &orrery.Pool{Meta: orrery.Meta{ID: "po-0000000000000000", Name: "local"}, Spec: orrery.PoolSpec{Region: "re-0000000000000000", CPUOvercommitPercent: 1000}}
		if err := st.Pools.Insert(tx, pool); err != nil {
			return err
		}
		for _, p := range []orrery.Plan{{Meta: orrery.Meta{ID: "plan-small", Name: "small"}, CPUMilli: 1000, MemoryMiB: 1024, StorageGiB: 10},
			{Meta: orrery.Meta{ID: "plan-large", Name: "large"}, CPUMilli: 2000, MemoryMiB: 4096, StorageGiB: 10}} {
			if err := st.Plans.Insert(tx, &p); err != nil {
				return err
			}
		}
		for i := range 2 {
			h := &orrery.Host{Meta: orrery.Meta{ID: fmt.Sprintf("ho-000000000000000%d", i), Name: fmt.Sprintf("h%d", i)}, Spec: orrery.HostSpec{Pool: pool.ID},
				Status: orrery.HostStatus{Address: "127.0.0.1", Capacity: orrery.Capacity{CPUMilli: 8000, MemoryMiB: 65536, StorageGiB: 1000},
					Engines: []orrery.EngineVersion{{Engine: "postgres", Version: "15"}}}}
			if err := st.Hosts.Insert(tx, h); err != nil {
				return err
			}
			if err := st.Presences.InsertLeased(tx, &store.Claim{Meta: orrery.Meta{ID: h.ID}}); err != nil {
				return err
			}
		}
		return nil
	})
	w.robot = startRobot(t, st)
	return w
}

func update(t testing.TB, st *store.Store, fn func(tx *store.Tx) error) {
	t.Helper()
	if _, err := st.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func spec(n int) orrery.DatastoreSpec {
	return orrery.DatastoreSpec{Engine: "postgres", Version: "15", Plan: "small", StorageGiB: 10, Instances: n, Replication: orrery.ReplicationAsync}
}

func (w *world) steps() *step.Steps { return step.New(step.Config{Store: w.store}) }

// insert writes the datastore as the API does, with a secret of its own.
func (w *world) insert(tx *store.Tx, n int) error {
	if err := w.store.PutSecret(tx, w.id+"/member", []byte("s")); err != nil {
		return err
	}
	return w.store.Datastores.Insert(tx, &orrery.Datastore{Meta: orrery.Meta{ID: w.id, Name: "demo", Project: "pr-1", Generation: 1}, Spec: spec(n)})
}

// built gives a world in which a datastore of n instances is there and whole.
func built(t testing.TB, n int) *world {
	w := newWorld(t)
	var id string
	update(t, w.store, func(tx *store.Tx) (err error) {
		if err := w.insert(tx, n); err != nil {
			return err
		}
		id, err = w.enqueue(tx, step.KindCreate, 1)
		return err
	})
	steps := w.steps()
	r, err := job.New(job.Config{Store: w.store, Kinds: steps.Kinds(), Steps: steps.Defs(), Server: "builder", Log: storetest.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Run(ctx) }()
	err = w.store.WaitFor(ctx, nil, func() (bool, error) {
		j, ok := w.store.Jobs.Get(id)
		return ok && j.State.Final(), nil
	})
	cancel()
	<-ended
	ds, ok := w.store.Datastores.Get(w.id)
	if err != nil || !ok || ds.Status.State != orrery.DatastoreAvailable {
		t.Fatalf("build a datastore: %v, %+v", err, ds)
	}
	w.before = ds
	return w
}

// enqueue writes a job of a kind.
func (w *world) enqueue(tx *store.Tx, kind string, generation int64) (string, error) {
	in, err := json.Marshal(plan.GenerationArgs{Generation: generation})
	if err != nil {
		return "", err
	}
	j := &orrery.Job{Kind: kind, Object: w.id, ObjectName: "demo", Input: in, Meta: orrery.Meta{Project: "pr-1"}}
	err = job.Enqueue(tx, w.store, j)
	return j.ID, err
}

// nothing checks that no trace of the datastore is left.
func (w *world) nothing() error {
	if _, ok := w.store.Datastores.Get(w.id); ok {
		return errors.New("the datastore is still there")
	}
	if n := len(w.store.Secrets.By("owner", w.id)); n > 0 {
		return fmt.Errorf("%d secrets are left", n)
	}
	return w.exactly(0)
}

// exactly checks that there are n instances with a place each, and that just they are booked.
func (w *world) exactly(n int) error {
	members := w.store.Instances.By("datastore", w.id)
	if len(members) != n {
		return fmt.Errorf("%d instances, want %d", len(members), n)
	}
	if left := w.robot.left(); len(left) != n {
		return fmt.Errorf("%d places, want %d", len(left), n)
	}
	var want, got int64
	for _, in := range members {
		p := w.store.Plans.By("name", in.Spec.Plan)[0]
		want += p.MemoryMiB
		if in.Spec.Absent || in.Spec.Stopped != w.paused() {
			return fmt.Errorf("%s is left with absent %t, stopped %t", in.Name, in.Spec.Absent, in.Spec.Stopped)
		}
	}
	for _, h := range w.store.Hosts.List() {
		got += h.Allocated.MemoryMiB
	}
	if got != want {
		return fmt.Errorf("%d MiB are booked, want %d", got, want)
	}
	return nil
}

func (w *world) paused() bool {
	ds, ok := w.store.Datastores.Get(w.id)
	return ok && ds.Spec.Paused
}

// applied checks that the datastore is settled with the spec that a job of this outcome must leave.
func (w *world) applied(j *orrery.Job, after orrery.DatastoreSpec) error {
	want := after
	if j.State != orrery.JobSucceeded {
		want = w.before.Spec
	}
	ds, ok := w.store.Datastores.Get(w.id)
	if !ok {
		return errors.New("the datastore is gone")
	}
	if !equal(ds.Spec, want) || ds.Applied == nil || !equal(*ds.Applied, want) || ds.AppliedGeneration != ds.Generation {
		return fmt.Errorf("after %s the spec is %+v, applied %+v at %d of %d; want %+v", j.State, ds.Spec, ds.Applied, ds.AppliedGeneration, ds.Generation, want)
	}
	for _, in := range w.store.Instances.By("datastore", w.id) {
		if in.Spec.Plan != want.Plan {
			return fmt.Errorf("%s has the plan %s, want %s", in.Name, in.Spec.Plan, want.Plan)
		}
	}
	return w.exactly(want.Instances)
}

func equal(a, b orrery.DatastoreSpec) bool {
	return a.Instances == b.Instances && a.Plan == b.Plan && a.Paused == b.Paused && maps.Equal(a.Parameters, b.Parameters)
}

// change gives the scenario of a job that changes a whole datastore of n instances.
func change(kind string, n int, edit func(*orrery.DatastoreSpec)) jobtest.Scenario {
	return jobtest.Scenario{World: func(t testing.TB) *jobtest.World {
		w := built(t, n)
		after := w.before.Spec
		edit(&after)
		return w.jobtest(func(tx *store.Tx) (string, error) {
			ds, err := w.store.Datastores.TxGet(tx, w.id)
			if err != nil {
				return "", err
			}
			ds.Spec = after
			ds.Generation++
			if err := w.store.Datastores.Put(tx, ds); err != nil {
				return "", err
			}
			return w.enqueue(tx, kind, ds.Generation)
		}, func(j *orrery.Job) error { return w.applied(j, after) })
	}}
}

func (w *world) jobtest(start func(tx *store.Tx) (string, error), check func(*orrery.Job) error) *jobtest.World {
	steps := w.steps()
	return &jobtest.World{Store: w.store, Kinds: steps.Kinds(), Steps: steps.Defs(), Check: check,
		Start: func(ctx context.Context) (id string, err error) {
			_, err = w.store.Update(ctx, func(tx *store.Tx) (err error) { id, err = start(tx); return err })
			return id, err
		},
		Restart: func() map[string]job.Def { return w.steps().Defs() },
	}
}

// A deletion whose datastore went with the creation that it cancelled succeeds.
func TestDeleteOfWhatIsGoneSucceeds(t *testing.T) {
	w := newWorld(t)
	for _, kind := range w.steps().Kinds() {
		if kind.Name != step.KindDelete {
			continue
		}
		if steps, err := kind.Plan(t.Context(), &orrery.Job{Object: "ds-gone"}); err != nil || len(steps) == 0 {
			t.Errorf("the plan is %v, %v", steps, err)
		}
	}
}

func TestEveryKindIsWholeOrNothing(t *testing.T) {
	t.Run("create", func(t *testing.T) {
		jobtest.Torture(t, jobtest.Scenario{World: func(t testing.TB) *jobtest.World {
			w := newWorld(t)
			return w.jobtest(func(tx *store.Tx) (string, error) {
				if err := w.insert(tx, 3); err != nil {
					return "", err
				}
				return w.enqueue(tx, step.KindCreate, 1)
			}, func(j *orrery.Job) error {
				if j.State != orrery.JobSucceeded {
					return w.nothing()
				}
				w.before, _ = w.store.Datastores.Get(w.id)
				return w.applied(j, spec(3))
			})
		}})
	})
	t.Run("delete", func(t *testing.T) {
		jobtest.Torture(t, jobtest.Scenario{World: func(t testing.TB) *jobtest.World {
			w := built(t, 2)
			return w.jobtest(func(tx *store.Tx) (string, error) { return w.enqueue(tx, step.KindDelete, 1) },
				func(j *orrery.Job) error {
					if j.State == orrery.JobCancelled {
						return w.exactly(2)
					}
					return w.nothing()
				})
		}})
	})
	for name, sc := range map[string]jobtest.Scenario{
		"scale out": change(step.KindUpdate, 1, func(s *orrery.DatastoreSpec) { s.Instances = 3 }),
		"scale in":  change(step.KindUpdate, 3, func(s *orrery.DatastoreSpec) { s.Instances = 1 }),
		"plan and parameters": change(step.KindUpdate, 2, func(s *orrery.DatastoreSpec) {
			s.Plan, s.Parameters = "large", map[string]string{"max_connections": "50"}
		}),
		"restart": change(step.KindRestart, 2, func(s *orrery.DatastoreSpec) { s.RestartSeq++ }),
		"pause":   change(step.KindPause, 2, func(s *orrery.DatastoreSpec) { s.Paused = true }),
	} {
		t.Run(name, func(t *testing.T) { jobtest.Torture(t, sc) })
	}
}

// TestDeletionOfWhatIsGone: a deletion that waited behind a creation which failed finds nothing, and has what it wanted.
func TestDeletionOfWhatIsGone(t *testing.T) {
	w := newWorld(t)
	var id string
	update(t, w.store, func(tx *store.Tx) (err error) {
		id, err = w.enqueue(tx, step.KindDelete, 2)
		return err
	})
	steps := w.steps()
	r, err := job.New(job.Config{Store: w.store, Kinds: steps.Kinds(), Steps: steps.Defs(), Server: "remover", Log: storetest.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	err = w.store.WaitFor(ctx, nil, func() (bool, error) {
		j, ok := w.store.Jobs.Get(id)
		return ok && j.State.Final(), nil
	})
	if j, _ := w.store.Jobs.Get(id); err != nil || j.State != orrery.JobSucceeded {
		t.Fatalf("the deletion is %s: %v, %+v", j.State, err, j.Error)
	}
}

// TestPlacementWaitsForAHostThatIsAway creates while the only hosts are not connected, as right after a server's restart.
func TestPlacementWaitsForAHostThatIsAway(t *testing.T) {
	w := newWorld(t)
	present := func(here bool) {
		update(t, w.store, func(tx *store.Tx) error {
			for _, h := range w.store.Hosts.List() {
				if !here {
					if err := w.store.Presences.Delete(tx, h.ID); err != nil {
						return err
					}
					continue
				}
				if err := w.store.Presences.InsertLeased(tx, &store.Claim{Meta: orrery.Meta{ID: h.ID}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	present(false)
	var id string
	update(t, w.store, func(tx *store.Tx) (err error) {
		if err := w.insert(tx, 1); err != nil {
			return err
		}
		id, err = w.enqueue(tx, step.KindCreate, 1)
		return err
	})
	steps := w.steps()
	r, err := job.New(job.Config{Store: w.store, Kinds: steps.Kinds(), Steps: steps.Defs(), Server: "s", Log: storetest.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	is := func(what string, cond func(*orrery.Job) bool) {
		t.Helper()
		err := w.store.WaitFor(ctx, nil, func() (bool, error) {
			j, ok := w.store.Jobs.Get(id)
			return ok && cond(j), nil
		})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	is("waiting", func(j *orrery.Job) bool { return len(j.Steps) > 0 && len(j.Steps[0].Log) > 0 })
	present(true)
	is("over", func(j *orrery.Job) bool { return j.State.Final() })
	if j, _ := w.store.Jobs.Get(id); j.State != orrery.JobSucceeded {
		t.Errorf("the creation ended as %s: %+v", j.State, j.Error)
	}
}
