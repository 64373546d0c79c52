package control

import (
	"context"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/job"
)

// ListJobs lists jobs.
func (c *Control) ListJobs(_ context.Context, o api.ListOptions) (api.Page[orrery.Job], error) {
	revision := c.store.Revision()
	var items []*orrery.Job
	switch {
	case o.Filter["object"] != "":
		items = c.store.Jobs.By("object", o.Filter["object"])
	case o.Filter["state"] != "":
		items = c.store.Jobs.By("state", o.Filter["state"])
	case o.Filter["project"] != "":
		items = c.store.Jobs.By("project", o.Filter["project"])
	default:
		items = c.store.Jobs.List()
	}
	return selected(items, o, revision, func(j *orrery.Job) bool {
		return is(o, "state", string(j.State)) && is(o, "kind", j.Kind) && is(o, "project", j.Project)
	}), nil
}

// Job gives one job.
func (c *Control) Job(_ context.Context, id string) (*orrery.Job, error) {
	if j, ok := c.store.Jobs.Get(id); ok {
		return j, nil
	}
	return nil, orrery.NotFound("job", id)
}

// CancelJob asks for the end of a job. Asked again, it answers with the job.
func (c *Control) CancelJob(ctx context.Context, _ api.Mutation, id string) (*orrery.Job, error) {
	j, err := c.Job(ctx, id)
	if err != nil || j.CancelRequested {
		return j, err
	}
	return job.Cancel(ctx, c.store, id)
}

// RetryJob lets a stuck job try again.
func (c *Control) RetryJob(ctx context.Context, _ api.Mutation, id string) (*orrery.Job, error) {
	return job.RetryStuck(ctx, c.store, id)
}

// ListEvents lists events.
func (c *Control) ListEvents(_ context.Context, o api.ListOptions) (api.Page[orrery.Event], error) {
	revision := c.store.Revision()
	var items []*orrery.Event
	if o.Filter["object"] != "" {
		items = c.store.Events.By("object", o.Filter["object"])
	} else {
		items = c.store.Events.List()
	}
	return selected(items, o, revision, func(e *orrery.Event) bool {
		return is(o, "severity", string(e.Severity)) && is(o, "reason", e.Reason)
	}), nil
}
