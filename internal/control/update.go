package control

import (
	"context"
	"strconv"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/store"
)

func itoa(i int) string { return strconv.Itoa(i) }

// UpdateDatastore changes labels and spec.
func (c *Control) UpdateDatastore(ctx context.Context, m api.Mutation, project, datastore string, p api.DatastorePatch) (api.Changed, error) {
	return c.change(ctx, m, project, datastore, edit{labels: p.Labels, spec: func(s *orrery.DatastoreSpec, ds *orrery.Datastore) error {
		if p.Name != nil && *p.Name != ds.Name {
			return orrery.Invalid("name", "a datastore cannot be renamed").WithCode("field_immutable").
				WithHint("Create one with the other name, and move the data there.")
		}
		if p.Spec == nil {
			return nil
		}
		next, err := p.Spec(*s)
		if err != nil {
			return err
		}
		if next.Paused != s.Paused {
			return orrery.Invalid("spec.paused", "pausing is an action").WithCode("use_action").
				WithHint("POST …/actions/pause or …/actions/resume.")
		}
		if next.RestartSeq != s.RestartSeq {
			return orrery.Invalid("spec.restart_seq", "this field is set by the server").WithCode("field_read_only").
				WithHint("POST …/actions/restart.")
		}
		*s = next
		return nil
	}})
}

// ActOnDatastore restarts, pauses or resumes a datastore.
func (c *Control) ActOnDatastore(ctx context.Context, m api.Mutation, project, datastore, action string) (api.Changed, error) {
	switch action {
	case "restart":
		return c.change(ctx, m, project, datastore, edit{kind: jobRestart, spec: func(s *orrery.DatastoreSpec, ds *orrery.Datastore) error {
			if ds.Applied == nil {
				return orrery.Errorf(orrery.KindConflict, "datastore %q is still being created", ds.Name).WithCode("creating").WithHint("Wait until it is available.")
			}
			s.RestartSeq++
			return nil
		}})
	case "pause", "resume":
		kind, paused := jobPause, true
		if action == "resume" {
			kind, paused = jobResume, false
		}
		ds, err := c.datastore(project, datastore)
		if err != nil {
			return api.Changed{}, err
		}
		if ds.Spec.Paused == paused {
			kind = "" // it is so already, or is becoming so: there is nothing to do
		}
		return c.change(ctx, m, project, datastore, edit{kind: kind, whilePaused: true, spec: func(s *orrery.DatastoreSpec, ds *orrery.Datastore) error {
			if ds.Applied == nil {
				return orrery.Errorf(orrery.KindConflict, "datastore %q is still being created", ds.Name).WithCode("creating").WithHint("Wait until it is available.")
			}
			s.Paused = paused
			return nil
		}})
	}
	return api.Changed{}, orrery.NotFound("action", action)
}

// DeleteDatastore cancels what is under way on a datastore and asks for its end. Asked again, it answers with the same job.
func (c *Control) DeleteDatastore(ctx context.Context, m api.Mutation, project, datastore string) (api.Changed, error) {
	found, err := c.datastore(project, datastore)
	if err != nil {
		return api.Changed{}, err
	}
	ch, replayed, err := mutate(ctx, c, m, same, func(tx *store.Tx) (api.Changed, error) {
		ds, err := c.store.Datastores.TxGet(tx, found.ID)
		if err != nil {
			return api.Changed{}, err
		}
		if ds.DeletingAt != nil {
			if j := c.deletion(ds.ID); j != nil {
				return api.Changed{Datastore: ds, Job: j}, nil
			}
		}
		if err := checkMatch(m, &ds.Meta); err != nil {
			return api.Changed{}, err
		}
		if ds.Spec.DeletionProtection {
			return api.Changed{}, orrery.Errorf(orrery.KindConflict, "datastore %q is protected against deletion", ds.Name).
				WithCode("deletion_protected").
				WithHint("Set spec.deletion_protection to false first, if you are sure.")
		}
		if err := c.cancelAll(tx, ds.ID); err != nil {
			return api.Changed{}, err
		}
		now := c.now().UTC()
		ds.DeletingAt = &now
		ds.Generation++
		if err := c.put(tx, ds); err != nil {
			return api.Changed{}, err
		}
		j, err := c.enqueue(tx, jobDelete, ds, m.Principal)
		return api.Changed{Datastore: ds, Job: j}, err
	})
	return c.finish(ch, replayed, err)
}

// deletion finds the job that deletes a datastore.
func (c *Control) deletion(id string) *orrery.Job {
	var found *orrery.Job
	for _, j := range c.store.Jobs.By("object", id) {
		if j.Kind == jobDelete && (found == nil || j.CreatedAt.After(found.CreatedAt)) {
			found = j
		}
	}
	if found != nil && (found.State == orrery.JobFailed || found.State == orrery.JobCancelled) {
		return nil // it will not delete anything any more
	}
	return found
}

// cancelAll asks for the end of every job of an object that can still be cancelled, so that a deletion need not wait
// for what it makes worthless.
func (c *Control) cancelAll(tx *store.Tx, object string) error {
	for _, shared := range c.store.Jobs.By("object", object) {
		if shared.State != orrery.JobQueued && shared.State != orrery.JobRunning || shared.ReadOnly {
			continue
		}
		j, err := c.store.Jobs.TxGet(tx, shared.ID)
		if err != nil {
			return err
		}
		if j.ForwardOnly || j.CancelRequested || (j.State != orrery.JobQueued && j.State != orrery.JobRunning) {
			continue
		}
		j.CancelRequested = true
		if err := c.store.Jobs.Put(tx, j); err != nil {
			return err
		}
	}
	return nil
}
