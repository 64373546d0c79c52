package api

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// Datastores is what the operations on datastores ask for. Projects and datastores are given by name or ID.
type Datastores interface {
	ListDatastores(ctx context.Context, project string, o ListOptions) (Page[orrery.Datastore], error)
	Datastore(ctx context.Context, project, datastore string) (*orrery.Datastore, error)
	CreateDatastore(ctx context.Context, m Mutation, project string, n NewDatastore) (Changed, error)
	UpdateDatastore(ctx context.Context, m Mutation, project, datastore string, p DatastorePatch) (Changed, error)
	DeleteDatastore(ctx context.Context, m Mutation, project, datastore string) (Changed, error)
	// ActOnDatastore does "restart", "pause" or "resume".
	ActOnDatastore(ctx context.Context, m Mutation, project, datastore, action string) (Changed, error)
	Connection(ctx context.Context, project, datastore, user, database string) (orrery.ConnectionInfo, error)
	// ProjectID resolves a project's name or ID.
	ProjectID(ctx context.Context, project string) (string, error)
}

// Changed is the answer to a change of a datastore: the object as it will be, and the job that makes it so.
type Changed struct {
	Datastore *orrery.Datastore `json:"datastore,omitempty"`
	// Job is missing where there was nothing to do.
	Job         *orrery.Job  `json:"job,omitempty"`
	Credentials *Credentials `json:"credentials,omitempty"`
	// Replayed tells that an Idempotency-Key repeated an earlier request, and nothing was done.
	Replayed bool `json:"-"`
}

// Credentials are a database user's name and password. A password is given once and not kept.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password,omitempty"`
	// Hint says where the password is, where it is missing.
	Hint string `json:"hint,omitempty"`
}

// NewDatastore is what to create.
type NewDatastore struct {
	Name   string            `json:"name" doc:"A DNS label: lower-case letters, digits and hyphens, at most 40 characters."`
	Labels map[string]string `json:"labels,omitempty"`
	Spec   NewSpec           `json:"spec"`
	// Password of the first user; made by the server where empty.
	Password string `json:"password,omitempty" writeOnly:"true" doc:"Of the first user; made by the server where empty."`
}

// NewSpec is a spec of which all but the engine may be left out.
type NewSpec struct{ orrery.DatastoreSpec }

// TransformSchema takes the demand for fields out that have defaults.
func (NewSpec) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Required = []string{"engine"}
	return s
}

// SpecPatch documents the spec of a patch: every field may be left out.
type SpecPatch struct{ orrery.DatastoreSpec }

// TransformSchema takes the demand for fields out.
func (SpecPatch) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Required = nil
	return s
}

// DatastorePatch is a change of a datastore.
type DatastorePatch struct {
	// Name cannot change; it is here to be refused with a reason.
	Name *string
	// Labels to set, and, where nil, to remove.
	Labels map[string]*string
	// Spec gives the spec that is wanted, from the one that is. It is nil where the spec is left alone, and may be
	// called more than once.
	Spec func(orrery.DatastoreSpec) (orrery.DatastoreSpec, error)
}

// datastorePatchBody is the JSON merge patch (RFC 7396) that a datastore takes.
type datastorePatchBody struct {
	Name   *string            `json:"name,omitempty"`
	Labels map[string]*string `json:"labels,omitempty"`
	Spec   *SpecPatch         `json:"spec,omitempty"`
}

const (
	datastoresPath = "/v1/projects/{project}/datastores"
	datastorePath  = datastoresPath + "/{datastore}"
)

var listParams = []queryParam{
	{"limit", "At most so many items, 1 to 1000; 100 where missing."},
	{"cursor", "next_cursor of the page before."},
	{"sort", "name or created_at; with a hyphen before it the other way round."},
}

// params joins lists of query parameters.
func params(lists ...[]queryParam) []queryParam {
	var all []queryParam
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func (a *API) datastoreEndpoints() []*endpoint {
	const tag = "datastores"
	get, post := http.MethodGet, http.MethodPost
	list := []*endpoint{
		{id: "list-datastores", method: get, path: datastoresPath, tag: tag, summary: "List datastores, or watch them",
			permission: iam.DatastoresRead, result: listBody[orrery.Datastore]{}, watch: true, handle: a.listDatastores,
			query: params(listParams, []queryParam{{"name", "Only this name."}, {"engine", "Only this engine."},
				{"state", "Only those in this state."}, {"plan", "Only this plan."}}, watchParams)},
		{id: "create-datastore", method: post, path: datastoresPath, tag: tag, summary: "Create a datastore",
			doc:        "All of the spec but engine has defaults: the newest version on offer, plan small, one instance, the plan's storage, a first user with admin access and, where the engine has them, a first database. Without trusted_sources only the database's own host may connect (127.0.0.1/32 and ::1/128). The answer holds the first user's password, which is not kept.",
			permission: iam.DatastoresCreate, body: NewDatastore{}, status: http.StatusAccepted, result: Changed{}, handle: a.createDatastore},
		{id: "get-datastore", method: get, path: datastorePath, tag: tag, summary: "Get a datastore, or watch it",
			permission: iam.DatastoresRead, result: orrery.Datastore{}, watch: true, query: watchParams, handle: a.getDatastore},
		{id: "update-datastore", method: http.MethodPatch, path: datastorePath, tag: tag, summary: "Change a datastore",
			doc:        "A JSON merge patch: null takes a key out of labels or parameters; lists are replaced whole. Engine, version, name and region cannot change, storage cannot shrink.",
			permission: iam.DatastoresUpdate, body: datastorePatchBody{}, status: http.StatusAccepted, result: Changed{}, handle: a.updateDatastore},
		{id: "delete-datastore", method: http.MethodDelete, path: datastorePath, tag: tag, summary: "Delete a datastore with all its data",
			doc:        "Refused while deletion_protection is set. What else is under way on it is cancelled. Asked again, it answers with the same job.",
			permission: iam.DatastoresDelete, status: http.StatusAccepted, result: Changed{}, handle: a.deleteDatastore},
		{id: "get-connection", method: get, path: datastorePath + "/connection", tag: tag, summary: "How to connect",
			permission: iam.DatastoresRead, result: orrery.ConnectionInfo{}, handle: a.getConnection,
			query: []queryParam{{"user", "The first user where missing."}, {"database", "The first that the user may enter, where missing."}}},
		{id: "list-endpoints", method: get, path: datastorePath + "/endpoints", tag: tag, summary: "List addresses, the primary's first",
			permission: iam.DatastoresRead, result: listBody[orrery.Endpoint]{}, handle: a.listEndpoints, query: listParams},
	}
	for _, act := range []struct{ name, summary string }{
		{"restart", "Restart the databases, replicas first"},
		{"pause", "Stop the databases and keep their data"},
		{"resume", "Start paused databases again"},
	} {
		list = append(list, &endpoint{id: act.name + "-datastore", method: post, path: datastorePath + "/actions/" + act.name,
			tag: tag, summary: act.summary, permission: iam.DatastoresAct, status: http.StatusAccepted, result: Changed{},
			handle: func(c *call) error {
				m, _, err := c.read()
				if err != nil {
					return err
				}
				return c.sendChanged(a.Backend.ActOnDatastore(c.ctx(), m, c.project(), c.datastore(), act.name))
			}})
	}
	return list
}

func (a *API) listDatastores(c *call) error {
	if ok, err := c.wantsWatch(); ok || err != nil {
		if err != nil {
			return err
		}
		project, err := a.Backend.ProjectID(c.ctx(), c.project())
		if err != nil {
			return err
		}
		return watch(c, watchSpec[orrery.Datastore]{topic: Topic{"datastores", "project", project},
			list: all(func(o ListOptions) (Page[orrery.Datastore], error) {
				return a.Backend.ListDatastores(c.ctx(), project, o)
			})})
	}
	o, err := listOptions(c.values, "name", []string{"name", "engine", "state", "plan"})
	if err != nil {
		return err
	}
	page, err := a.Backend.ListDatastores(c.ctx(), c.project(), o)
	if err != nil {
		return err
	}
	return sendPage(c, o, page)
}

// all gathers every page of a list.
func all[T any, P object[T]](list func(ListOptions) (Page[T], error)) func() ([]*T, error) {
	return func() ([]*T, error) {
		o := ListOptions{Limit: maxLimit, Sort: "created_at"}
		var items []*T
		for {
			page, err := list(o)
			if err != nil {
				return nil, err
			}
			items = append(items, page.Items...)
			if !page.More || len(page.Items) == 0 {
				return items, nil
			}
			m := P(page.Items[len(page.Items)-1]).GetMeta()
			o.After = &Position{Key: SortKey(m, o.Sort), ID: m.ID}
		}
	}
}

func (a *API) getDatastore(c *call) error {
	ds, err := a.Backend.Datastore(c.ctx(), c.project(), c.datastore())
	if err != nil {
		return err
	}
	if ok, err := c.wantsWatch(); ok || err != nil {
		if err != nil {
			return err
		}
		return watch(c, watchSpec[orrery.Datastore]{topic: Topic{Collection: "datastores", Key: ds.ID},
			list: one(func() (*orrery.Datastore, error) { return a.Backend.Datastore(c.ctx(), c.project(), ds.ID) })})
	}
	return sendObject(c, ds)
}

// one is the list of a watch on one object. An object that has gone meanwhile is told as no object.
func one[T any](get func() (*T, error)) func() ([]*T, error) {
	return func() ([]*T, error) {
		obj, err := get()
		if orrery.KindOf(err) == orrery.KindNotFound && err != nil {
			return nil, nil
		}
		return []*T{obj}, err
	}
}

func (a *API) createDatastore(c *call) error {
	var n NewDatastore
	m, err := c.readInto(&n)
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.CreateDatastore(c.ctx(), m, c.project(), n))
}

func (a *API) updateDatastore(c *call) error {
	m, body, err := c.read()
	if err != nil {
		return err
	}
	t, err := parse(body)
	if err != nil {
		return err
	}
	if err := check(reflect.TypeFor[datastorePatchBody](), t, "", passReadOnly); err != nil {
		return err
	}
	fields, _ := t.(map[string]any)
	spec, hasSpec := fields["spec"]
	delete(fields, "spec")
	var rest datastorePatchBody
	if err := fill(fields, &rest, passReadOnly); err != nil {
		return err
	}
	p := DatastorePatch{Name: rest.Name, Labels: rest.Labels}
	if hasSpec {
		if spec == nil {
			return orrery.Invalid("spec", "the spec cannot be taken away")
		}
		if p.Spec, err = merger[orrery.DatastoreSpec](spec, "spec"); err != nil {
			return err
		}
	}
	return c.sendChanged(a.Backend.UpdateDatastore(c.ctx(), m, c.project(), c.datastore(), p))
}

func (a *API) deleteDatastore(c *call) error {
	m, _, err := c.read()
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.DeleteDatastore(c.ctx(), m, c.project(), c.datastore()))
}

// sendChanged answers a change: 202 where a job has yet to make it so, 200 where nothing is left to do.
func (c *call) sendChanged(ch Changed, err error) error {
	if err != nil {
		return err
	}
	if ch.Replayed {
		c.w.Header().Set("Idempotency-Replayed", "true")
	}
	if ch.Datastore != nil {
		c.w.Header().Set("ETag", etag(&ch.Datastore.Meta))
	}
	if ch.Job == nil {
		return c.send(http.StatusOK, ch)
	}
	c.w.Header().Set("Location", "/v1/jobs/"+ch.Job.ID)
	return c.send(http.StatusAccepted, ch)
}

func (a *API) getConnection(c *call) error {
	info, err := a.Backend.Connection(c.ctx(), c.project(), c.datastore(), c.param("user"), c.param("database"))
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, info)
}

func (a *API) listEndpoints(c *call) error {
	ds, err := a.Backend.Datastore(c.ctx(), c.project(), c.datastore())
	if err != nil {
		return err
	}
	// By role first: "primary" stands before "replica" in the alphabet too.
	return sendList(c, pointers(ds.Status.Endpoints), ds.Revision, func(e *orrery.Endpoint) string { return string(e.Role) })
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}
