// Package step holds the do and the undo of every step that plans are made of, and ties the job kinds to their plans.
// A step never talks to an agent or a keeper: it writes what is wanted into the store and waits there for what is seen.
package step

import (
	"context"
	"log/slog"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/observe"
	"github.com/orrery-db/orrery/internal/plan"
	"github.com/orrery-db/orrery/internal/store"
)

// The job kinds.
const (
	KindCreate  = "datastore.create"
	KindUpdate  = "datastore.update"
	KindRestart = "datastore.restart"
	KindPause   = "datastore.pause"
	KindResume  = "datastore.resume"
	KindDelete  = "datastore.delete"
)

// Config is what steps need.
type Config struct {
	Store *store.Store
	Log   *slog.Logger
	// Now is the clock that stamps statuses; time.Now where nil.
	Now func() time.Time
}

// Steps does and undoes.
type Steps struct {
	store *store.Store
	log   *slog.Logger
	now   func() time.Time
}

// New makes the steps.
func New(cfg Config) *Steps {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Steps{store: cfg.Store, log: cfg.Log, now: cfg.Now}
}

// Defs gives the registry of steps.
func (s *Steps) Defs() map[string]job.Def {
	const quick, slow = 2 * time.Minute, 30 * time.Minute
	return map[string]job.Def{
		plan.TakeSpec:      {Do: s.takeSpec, Undo: job.NothingToUndo, Timeout: quick},
		plan.PlaceMembers:  {Do: s.place, Undo: s.unplace, Timeout: quick},
		plan.ReadyMembers:  {Do: s.ready, Undo: job.NothingToUndo, Timeout: slow},
		plan.RemoveMembers: {Do: s.remove, ForwardOnly: true, Timeout: slow},
		plan.ResizeMember:  {Do: s.resize, Undo: s.resizeBack, Timeout: quick},
		plan.RestartMember: {Do: s.restart, Undo: job.NothingToUndo, Timeout: slow},
		plan.StopMembers:   {Do: s.stop, Undo: s.startAgain, Timeout: slow},
		plan.StartMembers:  {Do: s.start, Undo: s.stopAgain, Timeout: slow},
		plan.Settle:        {Do: s.settle, Undo: job.NothingToUndo, Timeout: quick},
	}
}

// Kinds gives the job kinds.
func (s *Steps) Kinds() []job.Kind {
	kind := func(name string, make func(plan.Observed) []orrery.JobStep) job.Kind {
		return job.Kind{
			Name: name, Deadline: time.Hour,
			Plan: func(_ context.Context, j *orrery.Job) ([]orrery.JobStep, error) {
				o, err := s.observed(j.Object)
				if err != nil {
					return nil, err
				}
				return make(o), nil
			},
			Input:    plan.GenerationArgs{},
			Finished: s.commit,
			Undone:   s.revert,
		}
	}
	create := kind(KindCreate, plan.Create)
	create.Undone = s.forget
	remove := kind(KindDelete, plan.Delete)
	remove.ForwardOnly, remove.TakesOver, remove.Finished, remove.Undone = true, true, s.forget, nil
	// A creation that a deletion took over, or that failed before it, has taken the datastore along: that is what was asked for.
	remove.Plan = func(context.Context, *orrery.Job) ([]orrery.JobStep, error) { return plan.Delete(plan.Observed{}), nil }
	return []job.Kind{create, kind(KindUpdate, plan.Update), kind(KindRestart, plan.Restart),
		kind(KindPause, plan.Pause), kind(KindResume, plan.Resume), remove}
}

// observed gives what plans are made from.
func (s *Steps) observed(datastore string) (plan.Observed, error) {
	ds, ok := s.store.Datastores.Get(datastore)
	if !ok {
		return plan.Observed{}, orrery.NotFound("datastore", datastore)
	}
	return plan.Observed{Datastore: ds, Instances: s.store.Instances.By("datastore", datastore)}, nil
}

// snapshot is what a job took on: the result of its first step, which becomes the applied spec at its end.
type snapshot struct {
	Generation int64                `json:"generation"`
	Spec       orrery.DatastoreSpec `json:"spec"`
}

// takeSpec remembers the generation that the job rolls out. A newer one may come while the job runs; it has its own.
func (s *Steps) takeSpec(_ context.Context, c *job.Context) error {
	var args plan.GenerationArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	ds, ok := s.store.Datastores.Get(c.Job.Object)
	if !ok {
		return orrery.NotFound("datastore", c.Job.Object)
	}
	c.SetResult(snapshot{Generation: max(args.Generation, ds.Generation), Spec: ds.Spec})
	return nil
}

// revert runs in the last transaction of a change that was undone: back to the applied spec, unless somebody has asked
// for something newer since, which has its own job.
func (s *Steps) revert(tx *store.Tx, j *orrery.Job) error {
	ds, err := s.store.Datastores.TxGet(tx, j.Object)
	if err != nil {
		return ignoreNotFound(err)
	}
	var mine plan.GenerationArgs
	if err := decode(j.Input, &mine); err != nil {
		return err
	}
	var taken snapshot
	if len(j.Steps) > 0 {
		if err := decode(j.Steps[0].Result, &taken); err != nil {
			return err
		}
	}
	if ds.Applied == nil || ds.Generation > max(mine.Generation, taken.Generation) {
		return nil
	}
	ds.Spec = *ds.Applied
	ds.Generation++
	ds.AppliedGeneration = ds.Generation
	return s.put(tx, ds)
}

// commit runs in a job's last transaction: what was taken on is now applied.
func (s *Steps) commit(tx *store.Tx, j *orrery.Job) error {
	ds, err := s.store.Datastores.TxGet(tx, j.Object)
	if err != nil {
		return ignoreNotFound(err)
	}
	taken := snapshot{Generation: ds.Generation, Spec: ds.Spec}
	if len(j.Steps) > 0 {
		if err := decode(j.Steps[0].Result, &taken); err != nil {
			return err
		}
	}
	if taken.Generation >= ds.AppliedGeneration {
		ds.Applied, ds.AppliedGeneration = &taken.Spec, taken.Generation
	}
	if ds.Status.Term == 0 {
		ds.Status.Term = 1
	}
	return s.put(tx, ds)
}

// forget runs in the last transaction of a deletion and of a creation that was undone: the datastore goes with its secrets.
func (s *Steps) forget(tx *store.Tx, j *orrery.Job) error {
	ds, err := s.store.Datastores.TxGet(tx, j.Object)
	if err != nil {
		return ignoreNotFound(err)
	}
	for _, secret := range s.store.Secrets.By("owner", ds.ID) {
		if err := s.store.Secrets.Delete(tx, secret.ID); err != nil {
			return err
		}
	}
	return s.store.Datastores.Delete(tx, ds.ID)
}

// put writes a datastore with its status brought up to date.
func (s *Steps) put(tx *store.Tx, ds *orrery.Datastore) error {
	members, err := s.store.Instances.TxBy(tx, "datastore", ds.ID)
	if err != nil {
		return err
	}
	ds.Status = observe.Datastore(ds, members, s.now())
	return s.store.Datastores.Put(tx, ds)
}

func ignoreNotFound(err error) error {
	if err != nil && orrery.KindOf(err) == orrery.KindNotFound {
		return nil
	}
	return err
}
