package step

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/observe"
	"github.com/orrery-db/orrery/internal/plan"
	"github.com/orrery-db/orrery/internal/store"
)

// wait blocks until cond is true for every instance of the job's datastore that which picks. cond also says, for people,
// what an instance waits for; each new saying goes into the step's log.
func (s *Steps) wait(ctx context.Context, c *job.Context, which func(*orrery.Instance) bool,
	cond func(*orrery.Instance) (done bool, what string, err error)) error {
	said := map[string]string{}
	err := s.store.WaitFor(ctx, nil, func() (bool, error) {
		all := true
		for _, in := range s.store.Instances.By("datastore", c.Job.Object) {
			if !which(in) {
				continue
			}
			done, what, err := cond(in)
			if err != nil {
				return false, err
			}
			if done {
				continue
			}
			all = false
			if what != "" && said[in.ID] != what {
				said[in.ID] = what
				c.Logf("%s %s", in.Name, what)
			}
		}
		return all, nil
	}, s.store.Instances.TopicBy("datastore", c.Job.Object))
	if err != nil && ctx.Err() != nil && len(said) > 0 {
		var open []string
		for _, in := range s.store.Instances.By("datastore", c.Job.Object) {
			if w := said[in.ID]; w != "" {
				open = append(open, in.Name+" "+w)
			}
		}
		slices.Sort(open)
		return fmt.Errorf("%w (%s)", err, strings.Join(open, "; "))
	}
	return err
}

// hopeless are the error codes of a keeper that no waiting mends.
var hopeless = []string{"parameter_rejected", "version_missing", "data_incompatible"}

// serving is the condition that an instance does its part at a generation.
func serving(generation int64) func(*orrery.Instance) (bool, string, error) {
	return func(in *orrery.Instance) (bool, string, error) {
		place, db := in.Status.Place, in.Status.Database
		switch {
		case place.State == orrery.PlaceFailed:
			return false, "", orrery.Errorf(orrery.KindConflict, "%s: %s", in.Name, place.Message).WithCode("place_failed")
		case slices.Contains(hopeless, db.ErrorCode):
			return false, "", orrery.Errorf(orrery.KindConflict, "%s: %s", in.Name, db.Message).WithCode(db.ErrorCode)
		case observe.Serves(in) && db.AppliedGeneration >= generation && db.AppliedSpec >= in.Generation:
			return true, "", nil
		case db.Message != "":
			return false, "says: " + db.Message, nil
		case db.State != orrery.DatabaseUnknown:
			return false, "is " + string(db.State), nil
		case place.State != "":
			return false, "has a place that is " + string(place.State), nil
		}
		return false, "waits for its host", nil
	}
}

func among(ordinals []int) func(*orrery.Instance) bool {
	return func(in *orrery.Instance) bool { return slices.Contains(ordinals, in.Spec.Ordinal) }
}

// ready waits until instances serve in their role at the generation that is wanted now.
func (s *Steps) ready(ctx context.Context, c *job.Context) error {
	var args plan.MembersArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	ds, ok := s.store.Datastores.Get(c.Job.Object)
	if !ok {
		return orrery.NotFound("datastore", c.Job.Object)
	}
	return s.wait(ctx, c, among(args.Ordinals), serving(ds.Generation))
}

// settle waits until every instance has taken on the generation, running or stopped.
func (s *Steps) settle(ctx context.Context, c *job.Context) error {
	var args plan.GenerationArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	ds, ok := s.store.Datastores.Get(c.Job.Object)
	if !ok {
		return orrery.NotFound("datastore", c.Job.Object)
	}
	serve := serving(args.Generation)
	return s.wait(ctx, c, func(in *orrery.Instance) bool { return !in.Spec.Absent }, func(in *orrery.Instance) (bool, string, error) {
		db := in.Status.Database
		if done, what, err := serve(in); done && ds.Spec.Replication == orrery.ReplicationSync && ds.Spec.Instances > 1 &&
			in.Spec.Role == orrery.RolePrimary && len(db.Sync) == 0 {
			return false, "waits for its synchronous replicas", nil
		} else if done {
			return done, what, err
		}
		if in.Spec.Stopped && db.State == orrery.DatabaseStopped && db.AppliedGeneration >= args.Generation {
			return true, "", nil
		}
		return serve(in)
	})
}

// restart has one database restarted, once however often the step runs, and waits until it serves again.
func (s *Steps) restart(ctx context.Context, c *job.Context) error {
	var args plan.RestartArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	if args.IfPending { // what waits for a restart is known of a member that serves
		if err := s.wait(ctx, c, among([]int{args.Ordinal}), serving(0)); err != nil {
			return err
		}
	}
	asked := false
	_, err := c.Update(ctx, func(tx *store.Tx) error {
		asked = false
		in, err := s.member(tx, c.Job.Object, args.Ordinal)
		if err != nil || in == nil {
			return err
		}
		if in.Spec.RestartSeq >= args.Target {
			asked = true
			return nil
		}
		if args.IfPending && len(in.Status.Database.PendingRestart) == 0 {
			return nil
		}
		if args.IfPending {
			c.Logf("%s waits for a restart: %s", in.Name, strings.Join(in.Status.Database.PendingRestart, ", "))
		}
		asked, in.Spec.RestartSeq = true, args.Target
		return s.store.Instances.Put(tx, in)
	})
	if err != nil || !asked {
		return err
	}
	ds, ok := s.store.Datastores.Get(c.Job.Object)
	if !ok {
		return orrery.NotFound("datastore", c.Job.Object)
	}
	serve := serving(ds.Generation)
	return s.wait(ctx, c, among([]int{args.Ordinal}), func(in *orrery.Instance) (bool, string, error) {
		if in.Status.Database.AppliedRestartSeq < args.Target {
			return false, "restarts", nil
		}
		return serve(in)
	})
}

func (s *Steps) stop(ctx context.Context, c *job.Context) error { return s.setStopped(ctx, c, true) }
func (s *Steps) startAgain(ctx context.Context, c *job.Context) error {
	return s.setStopped(ctx, c, false)
}
func (s *Steps) start(ctx context.Context, c *job.Context) error { return s.setStopped(ctx, c, false) }
func (s *Steps) stopAgain(ctx context.Context, c *job.Context) error {
	return s.setStopped(ctx, c, true)
}

// setStopped stops or starts databases and waits until they have.
func (s *Steps) setStopped(ctx context.Context, c *job.Context, stopped bool) error {
	var args plan.MembersArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	which := among(args.Ordinals)
	_, err := c.Update(ctx, func(tx *store.Tx) error {
		members, err := s.store.Instances.TxBy(tx, "datastore", c.Job.Object)
		if err != nil {
			return err
		}
		for _, in := range members {
			if which(in) && in.Spec.Stopped != stopped {
				in.Spec.Stopped = stopped
				if err := s.store.Instances.Put(tx, in); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !stopped {
		return s.wait(ctx, c, which, serving(0))
	}
	return s.wait(ctx, c, which, func(in *orrery.Instance) (bool, string, error) {
		return in.Status.Database.State == orrery.DatabaseStopped, "stops", nil
	})
}
