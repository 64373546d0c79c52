package client

import (
	"context"
	"fmt"
	"iter"
	"net/url"

	"github.com/orrery-db/orrery"
)

// Jobs lists jobs. Filters: "object" (an ID), "state".
func (c *Client) Jobs(ctx context.Context, o ListOptions) iter.Seq2[*orrery.Job, error] {
	return list[orrery.Job](ctx, c, path("jobs"), o)
}

// Job reads one job.
func (c *Client) Job(ctx context.Context, id string) (*orrery.Job, error) {
	return get[orrery.Job](ctx, c, path("jobs", id), nil)
}

// CancelJob asks a job to stop and undo what it did.
func (c *Client) CancelJob(ctx context.Context, id string) (*orrery.Job, error) {
	return c.actOnJob(ctx, id, "cancel")
}

// RetryJob lets a stuck job try again.
func (c *Client) RetryJob(ctx context.Context, id string) (*orrery.Job, error) {
	return c.actOnJob(ctx, id, "retry")
}

func (c *Client) actOnJob(ctx context.Context, id, action string) (*orrery.Job, error) {
	return post[orrery.Job](ctx, c, path("jobs", id, "actions", action), nil)
}

// WatchJob follows one job.
func (c *Client) WatchJob(ctx context.Context, id string) iter.Seq2[Change[orrery.Job], error] {
	return watch[orrery.Job](ctx, c, path("jobs", id), nil)
}

// WatchJobs follows the jobs of an object, or all where object is empty.
func (c *Client) WatchJobs(ctx context.Context, object string) iter.Seq2[Change[orrery.Job], error] {
	q := url.Values{}
	if object != "" {
		q.Set("object", object)
	}
	return watch[orrery.Job](ctx, c, path("jobs"), q)
}

// JobFailed is the error of a job that did not succeed, and will not by itself.
type JobFailed struct{ Job *orrery.Job }

func (e *JobFailed) Error() string {
	what := fmt.Sprintf("job %s (%s of %s)", e.Job.ID, e.Job.Kind, e.Job.ObjectName)
	switch {
	case e.Job.State == orrery.JobCancelled:
		return what + " was cancelled"
	case e.Job.Error != nil:
		return fmt.Sprintf("%s %s: %s", what, e.Job.State, e.Job.Error.Message)
	case e.Job.State == orrery.JobStuck:
		return fmt.Sprintf("%s is stuck: %s", what, e.Job.Alarm)
	}
	return fmt.Sprintf("%s %s", what, e.Job.State)
}

// WaitJob follows a job until it succeeds, and gives it as it ended. A job that ends otherwise, or is stuck until a
// person acts, is *JobFailed beside the job. Progress is told each state of the job that comes by; it may be nil.
func (c *Client) WaitJob(ctx context.Context, id string, progress func(*orrery.Job)) (*orrery.Job, error) {
	var last *orrery.Job
	for ch, err := range c.WatchJob(ctx, id) {
		switch {
		case err != nil:
			return last, err
		case ch.Type == ChangeDelete:
			return last, orrery.NotFound("job", id)
		case ch.Type != ChangePut:
			continue
		}
		last = ch.Object
		if progress != nil {
			progress(last)
		}
		if last.State == orrery.JobSucceeded {
			return last, nil
		}
		if last.State.Final() || last.State == orrery.JobStuck {
			return last, &JobFailed{Job: last}
		}
	}
	return last, context.Cause(ctx)
}
