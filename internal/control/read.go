package control

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/store"
)

// ProjectID resolves a project's name or ID.
func (c *Control) ProjectID(_ context.Context, project string) (string, error) {
	p, err := c.project(project)
	if err != nil {
		return "", err
	}
	return p.ID, nil
}

// ListDatastores lists a project's datastores. A page by name costs what the page holds, however many there are.
func (c *Control) ListDatastores(_ context.Context, project string, o api.ListOptions) (api.Page[orrery.Datastore], error) {
	p, err := c.project(project)
	if err != nil {
		return api.Page[orrery.Datastore]{}, err
	}
	match := func(ds *orrery.Datastore) bool {
		return is(o, "name", ds.Name) && is(o, "engine", ds.Spec.Engine) && is(o, "state", string(ds.Status.State)) && is(o, "plan", ds.Spec.Plan)
	}
	if o.Sort == "name" && !o.Desc {
		return byName(c, c.store.Datastores, p.ID+"/", o, match), nil
	}
	revision := c.store.Revision()
	return selected(c.store.Datastores.By("project", p.ID), o, revision, match), nil
}

// is tells whether a filter takes a value.
func is(o api.ListOptions, field, value string) bool {
	want, ok := o.Filter[field]
	return !ok || want == value
}

// byName fills a page from the index of names, which are unique.
func byName[T any, P store.Object[T]](c *Control, list *store.Collection[T, P], prefix string, o api.ListOptions, match func(*T) bool) api.Page[T] {
	page := api.Page[T]{Revision: c.store.Revision(), Items: make([]*T, 0, o.Limit)}
	after := ""
	if o.After != nil {
		after = prefix + o.After.Key
	}
	for _, obj := range list.Prefix("name", prefix, after) {
		if !match(obj) {
			continue
		}
		if len(page.Items) == o.Limit {
			page.More = true
			break
		}
		page.Items = append(page.Items, obj)
	}
	return page
}

func selected[T any, P store.Object[T]](items []*T, o api.ListOptions, revision int64, match func(*T) bool) api.Page[T] {
	items = slices.DeleteFunc(items, func(obj *T) bool { return !match(obj) })
	return api.Select(items, o, revision, func(obj *T) *orrery.Meta { return P(obj).GetMeta() })
}

// Datastore gives one datastore.
func (c *Control) Datastore(_ context.Context, project, datastore string) (*orrery.Datastore, error) {
	return c.datastore(project, datastore)
}

// Connection tells how to connect as a user to a database.
func (c *Control) Connection(_ context.Context, project, datastore, user, database string) (orrery.ConnectionInfo, error) {
	var none orrery.ConnectionInfo
	ds, err := c.datastore(project, datastore)
	if err != nil {
		return none, err
	}
	def, err := c.definition(ds.Spec.Engine)
	if err != nil {
		return none, err
	}
	if len(ds.Status.Endpoints) == 0 {
		return none, orrery.Errorf(orrery.KindConflict, "datastore %q has no address yet", ds.Name).WithCode("no_endpoints").
			WithHint("Wait until it is available.")
	}
	if user == "" {
		user = ds.Spec.Users[0].Name
	}
	at, err := findUser(&ds.Spec, user)
	if err != nil {
		return none, err
	}
	if def.Engine().Databases {
		if database, err = databaseFor(&ds.Spec, ds.Spec.Users[at], database); err != nil {
			return none, err
		}
	} else if database != "" {
		return none, orrery.Invalid("database", "%s has no named databases", def.Engine().Title)
	}
	endpoints := slices.Clone(ds.Status.Endpoints)
	slices.SortStableFunc(endpoints, func(a, b orrery.Endpoint) int { return cmp.Compare(a.Role, b.Role) }) // the primary first
	return orrery.ConnectionInfo{User: user, Database: database, CA: string(c.dataCA),
		Strings: def.Connection(ds.Spec, endpoints, user, database)}, nil
}

// databaseFor checks that a user may enter a database, and chooses the first that it may where none is named.
func databaseFor(spec *orrery.DatastoreSpec, u orrery.User, database string) (string, error) {
	if database == "" {
		for _, d := range spec.Databases {
			if len(u.Databases) == 0 || slices.Contains(u.Databases, d.Name) {
				return d.Name, nil
			}
		}
		return "", nil
	}
	if !hasDatabase(spec, database) {
		return "", orrery.NotFound("database", database)
	}
	if len(u.Databases) > 0 && !slices.Contains(u.Databases, database) {
		return "", orrery.Invalid("database", "user %q may not enter database %q", u.Name, database).WithCode("database_not_allowed").
			WithHint("It may enter: %s.", strings.Join(u.Databases, ", "))
	}
	return database, nil
}

// Instances lists a datastore's instances.
func (c *Control) Instances(_ context.Context, project, datastore string, o api.ListOptions) (api.Page[orrery.Instance], error) {
	ds, err := c.datastore(project, datastore)
	if err != nil {
		return api.Page[orrery.Instance]{}, err
	}
	revision := c.store.Revision()
	return selected(c.store.Instances.By("datastore", ds.ID), o, revision, func(*orrery.Instance) bool { return true }), nil
}

// Instance gives one instance.
func (c *Control) Instance(_ context.Context, project, datastore, instance string) (*orrery.Instance, error) {
	ds, err := c.datastore(project, datastore)
	if err != nil {
		return nil, err
	}
	for _, in := range c.store.Instances.By("datastore", ds.ID) {
		if in.ID == instance || in.Name == instance {
			return in, nil
		}
	}
	return nil, orrery.NotFound("instance", instance)
}
