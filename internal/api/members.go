package api

import (
	"context"
	"net/http"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// Members is what the operations on a datastore's instances ask for.
type Members interface {
	Instances(ctx context.Context, project, datastore string, o ListOptions) (Page[orrery.Instance], error)
	Instance(ctx context.Context, project, datastore, instance string) (*orrery.Instance, error)
}

func (a *API) memberEndpoints() []*endpoint {
	const tag = "instances"
	return []*endpoint{
		{id: "list-instances", method: http.MethodGet, path: datastorePath + "/instances", tag: tag, summary: "List a datastore's instances, or watch them",
			permission: iam.DatastoresRead, result: listBody[orrery.Instance]{}, watch: true, query: params(listParams, watchParams), handle: a.listInstances},
		{id: "get-instance", method: http.MethodGet, path: datastorePath + "/instances/{instance}", tag: tag, summary: "Get an instance, or watch it",
			permission: iam.DatastoresRead, result: orrery.Instance{}, watch: true, query: watchParams, handle: a.getInstance},
	}
}

func (a *API) listInstances(c *call) error {
	if ok, err := c.wantsWatch(); ok || err != nil {
		if err != nil {
			return err
		}
		ds, err := a.Backend.Datastore(c.ctx(), c.project(), c.datastore())
		if err != nil {
			return err
		}
		return watch(c, watchSpec[orrery.Instance]{topic: Topic{"instances", "datastore", ds.ID},
			list: all(func(o ListOptions) (Page[orrery.Instance], error) {
				return a.Backend.Instances(c.ctx(), c.project(), ds.ID, o)
			})})
	}
	o, err := listOptions(c.values, "name", nil)
	if err != nil {
		return err
	}
	page, err := a.Backend.Instances(c.ctx(), c.project(), c.datastore(), o)
	if err != nil {
		return err
	}
	return sendPage(c, o, page)
}

func (a *API) getInstance(c *call) error {
	in, err := a.Backend.Instance(c.ctx(), c.project(), c.datastore(), c.path("instance"))
	if err != nil {
		return err
	}
	if ok, err := c.wantsWatch(); ok || err != nil {
		if err != nil {
			return err
		}
		return watch(c, watchSpec[orrery.Instance]{topic: Topic{Collection: "instances", Key: in.ID},
			list: one(func() (*orrery.Instance, error) {
				return a.Backend.Instance(c.ctx(), c.project(), c.datastore(), in.ID)
			})})
	}
	return sendObject(c, in)
}
