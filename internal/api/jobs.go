package api

import (
	"context"
	"net/http"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// Jobs is what the operations on jobs and events ask for.
type Jobs interface {
	ListJobs(ctx context.Context, o ListOptions) (Page[orrery.Job], error)
	Job(ctx context.Context, id string) (*orrery.Job, error)
	CancelJob(ctx context.Context, m Mutation, id string) (*orrery.Job, error)
	RetryJob(ctx context.Context, m Mutation, id string) (*orrery.Job, error)
	ListEvents(ctx context.Context, o ListOptions) (Page[orrery.Event], error)
}

func (a *API) jobEndpoints() []*endpoint {
	get, post := http.MethodGet, http.MethodPost
	eventFilter := []queryParam{{"severity", "Only info, warning or error."}, {"reason", "Only this reason."}}
	return []*endpoint{
		{id: "list-jobs", method: get, path: "/v1/jobs", tag: "jobs", summary: "List jobs, newest first, or watch them",
			permission: iam.JobsRead, result: listBody[orrery.Job]{}, watch: true, handle: a.listJobs,
			query: params(listParams, []queryParam{{"object", "Only those of the object with this ID."}, {"state", "Only those in this state."},
				{"kind", "Only those of this kind."}, {"project", "Only those of the project with this ID."}}, watchParams)},
		{id: "get-job", method: get, path: "/v1/jobs/{job}", tag: "jobs", summary: "Get a job, or watch it",
			permission: iam.JobsRead, result: orrery.Job{}, watch: true, query: watchParams, handle: a.getJob},
		{id: "cancel-job", method: post, path: "/v1/jobs/{job}/actions/cancel", tag: "jobs", summary: "Stop a job and undo what it did",
			permission: iam.JobsUpdate, result: orrery.Job{}, handle: a.cancelJob},
		{id: "retry-job", method: post, path: "/v1/jobs/{job}/actions/retry", tag: "jobs", summary: "Let a stuck job try again",
			permission: iam.JobsUpdate, result: orrery.Job{}, handle: a.retryJob},
		{id: "list-events", method: get, path: "/v1/events", tag: "events", summary: "List what happened, newest first, or watch it",
			permission: iam.EventsRead, result: listBody[orrery.Event]{}, watch: true, handle: a.listEvents,
			query: params(listParams, []queryParam{{"object", "Only what happened to the object with this ID."}}, eventFilter, watchParams)},
		{id: "list-datastore-events", method: get, path: datastorePath + "/events", tag: "events", summary: "List what happened to a datastore, newest first, or watch it",
			permission: iam.EventsRead, result: listBody[orrery.Event]{}, watch: true, handle: a.listDatastoreEvents,
			query: params(listParams, eventFilter, watchParams)},
	}
}

func (a *API) listJobs(c *call) error {
	if ok, err := c.wantsWatch("object", "project", "kind"); ok || err != nil {
		if err != nil {
			return err
		}
		topic := Topic{Collection: "jobs"}
		filter := map[string]string{}
		for _, index := range []string{"project", "object"} {
			if v := c.param(index); v != "" {
				topic.Index, topic.Key, filter[index] = index, v, v
			}
		}
		match := func(j *orrery.Job) bool {
			return (c.param("project") == "" || j.Project == c.param("project")) && (c.param("kind") == "" || j.Kind == c.param("kind"))
		}
		return watch(c, watchSpec[orrery.Job]{topic: topic, match: match, list: matching(match, all(func(o ListOptions) (Page[orrery.Job], error) {
			o.Filter = filter
			return a.Backend.ListJobs(c.ctx(), o)
		}))})
	}
	o, err := listOptions(c.values, "-created_at", []string{"object", "state", "kind", "project"})
	if err != nil {
		return err
	}
	page, err := a.Backend.ListJobs(c.ctx(), o)
	if err != nil {
		return err
	}
	return sendPage(c, o, page)
}

// matching leaves out what does not match.
func matching[T any](match func(*T) bool, list func() ([]*T, error)) func() ([]*T, error) {
	return func() ([]*T, error) {
		items, err := list()
		var out []*T
		for _, item := range items {
			if match(item) {
				out = append(out, item)
			}
		}
		return out, err
	}
}

func (a *API) getJob(c *call) error {
	j, err := a.Backend.Job(c.ctx(), c.path("job"))
	if err != nil {
		return err
	}
	if ok, err := c.wantsWatch(); ok || err != nil {
		if err != nil {
			return err
		}
		return watch(c, watchSpec[orrery.Job]{topic: Topic{Collection: "jobs", Key: j.ID},
			list: one(func() (*orrery.Job, error) { return a.Backend.Job(c.ctx(), j.ID) })})
	}
	return sendObject(c, j)
}

func (a *API) cancelJob(c *call) error {
	return a.actOnJob(c, a.Backend.CancelJob)
}

func (a *API) retryJob(c *call) error {
	return a.actOnJob(c, a.Backend.RetryJob)
}

func (a *API) actOnJob(c *call, act func(context.Context, Mutation, string) (*orrery.Job, error)) error {
	m, _, err := c.read()
	if err != nil {
		return err
	}
	j, err := act(c.ctx(), m, c.path("job"))
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, j)
}

func (a *API) listEvents(c *call) error { return a.events(c, "") }

func (a *API) listDatastoreEvents(c *call) error {
	ds, err := a.Backend.Datastore(c.ctx(), c.project(), c.datastore())
	if err != nil {
		return err
	}
	return a.events(c, ds.ID)
}

// events lists or watches events, those of one object where it is given.
func (a *API) events(c *call, object string) error {
	if object == "" {
		object = c.param("object")
	}
	narrow := func(o ListOptions) ListOptions {
		if object != "" {
			if o.Filter == nil {
				o.Filter = map[string]string{}
			}
			o.Filter["object"] = object
		}
		return o
	}
	if ok, err := c.wantsWatch("object", "severity", "reason"); ok || err != nil {
		if err != nil {
			return err
		}
		topic := Topic{Collection: "events"}
		if object != "" {
			topic.Index, topic.Key = "object", object
		}
		match := func(e *orrery.Event) bool {
			return (c.param("severity") == "" || string(e.Severity) == c.param("severity")) && (c.param("reason") == "" || e.Reason == c.param("reason"))
		}
		return watch(c, watchSpec[orrery.Event]{topic: topic, match: match, list: matching(match, all(func(o ListOptions) (Page[orrery.Event], error) {
			return a.Backend.ListEvents(c.ctx(), narrow(o))
		}))})
	}
	o, err := listOptions(c.values, "-created_at", []string{"severity", "reason"})
	if err != nil {
		return err
	}
	page, err := a.Backend.ListEvents(c.ctx(), narrow(o))
	if err != nil {
		return err
	}
	return sendPage(c, o, page)
}
