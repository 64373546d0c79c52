package control

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/observe"
	"github.com/orrery-db/orrery/internal/store"
)

// edit is a change of a datastore.
type edit struct {
	// kind of the job; datastore.update where empty.
	kind string
	// labels to set and to remove.
	labels map[string]*string
	// spec changes the spec in place. It may be called more than once.
	spec func(s *orrery.DatastoreSpec, ds *orrery.Datastore) error
	// part gives the place of what is added or changed, as in "spec.users[3]": a request about that part alone has its
	// errors relative to it.
	part func(s *orrery.DatastoreSpec) string
	// login gets a new password.
	login *login
	// whilePaused: the change may be made to a paused datastore.
	whilePaused bool
}

// login is a user with a new password.
type login struct{ user, password, form string }

// change does an edit: checks what comes out of it, and stores it with the job that makes it so.
func (c *Control) change(ctx context.Context, m api.Mutation, project, datastore string, e edit) (api.Changed, error) {
	found, err := c.datastore(project, datastore)
	if err != nil {
		return api.Changed{}, err
	}
	if e.login != nil {
		def, err := c.definition(found.Spec.Engine)
		if err != nil {
			return api.Changed{}, err
		}
		if e.login.form, err = def.SecretForm(e.login.password); err != nil {
			return api.Changed{}, err
		}
	}
	ch, replayed, err := mutate(ctx, c, m, withoutPassword, func(tx *store.Tx) (api.Changed, error) {
		ds, err := c.store.Datastores.TxGet(tx, found.ID)
		if err != nil {
			return api.Changed{}, err
		}
		if err := checkMatch(m, &ds.Meta); err != nil {
			return api.Changed{}, err
		}
		if ds.DeletingAt != nil {
			return api.Changed{}, orrery.Errorf(orrery.KindConflict, "datastore %q is being deleted", ds.Name).WithCode("deleting")
		}
		return c.edit(tx, m, ds, e)
	})
	return c.finish(ch, replayed, err)
}

func (c *Control) edit(tx *store.Tx, m api.Mutation, ds *orrery.Datastore, e edit) (api.Changed, error) {
	was := cloneSpec(ds.Spec)
	labels, err := checkLabels(ds.Labels, e.labels)
	if err != nil {
		return api.Changed{}, err
	}
	relabelled := !maps.Equal(labels, ds.Labels)
	ds.Labels = labels
	if e.spec != nil {
		if err := e.spec(&ds.Spec, ds); err != nil {
			return api.Changed{}, err
		}
	}
	if err := restoreManaged(&ds.Spec, &was, e.login); err != nil {
		return api.Changed{}, err
	}
	if e.login == nil && e.kind == "" && sameSpec(was, ds.Spec) {
		ds.Spec = was
		if relabelled {
			err = c.store.Datastores.Put(tx, ds)
		}
		return api.Changed{Datastore: ds}, err
	}
	if was.Paused && !e.whilePaused && !onlyProtection(was, ds.Spec) {
		return api.Changed{}, orrery.Errorf(orrery.KindConflict, "datastore %q is paused", ds.Name).WithCode("datastore_paused").WithHint("Resume it first.")
	}
	if err := checkImmutable(ds.Spec, was); err != nil {
		return api.Changed{}, err
	}
	if err := c.checkSpec(&ds.Spec, &was); err != nil {
		return api.Changed{}, relative(err, &ds.Spec, e.part)
	}
	if e.login == nil && sameSpec(was, ds.Spec) && e.kind == "" { // alike once defaults are filled in
		return api.Changed{Datastore: ds}, nil
	}
	return c.commit(tx, m, ds, &was, e)
}

// commit stores an edited datastore, with a job where one is needed.
func (c *Control) commit(tx *store.Tx, m api.Mutation, ds *orrery.Datastore, was *orrery.DatastoreSpec, e edit) (api.Changed, error) {
	ch := api.Changed{Datastore: ds}
	settled := ds.AppliedGeneration == ds.Generation && ds.Applied != nil
	ds.Generation++
	if e.login != nil {
		for i := range ds.Spec.Users {
			if u := &ds.Spec.Users[i]; u.Name == e.login.user {
				u.SecretVersion = ds.Generation // grows even when a user comes back that was deleted
			}
		}
		if err := c.sealForm(tx, ds.ID, e.login.user, e.login.form); err != nil {
			return ch, err
		}
		ch.Credentials = &api.Credentials{Username: e.login.user, Password: e.login.password}
	}
	// Deletion protection concerns nobody but this package, and a datastore that is paused has nobody to tell.
	if settled && onlyProtection(*was, ds.Spec) {
		applied := cloneSpec(ds.Spec)
		ds.Applied, ds.AppliedGeneration = &applied, ds.Generation
		return ch, c.put(tx, ds)
	}
	if err := c.put(tx, ds); err != nil {
		return ch, err
	}
	kind := e.kind
	if kind == "" {
		kind = jobUpdate
	}
	var err error
	ch.Job, err = c.enqueue(tx, kind, ds, m.Principal)
	return ch, err
}

// put stores a datastore with its status brought up to date, so that who asks next sees that it is changing.
func (c *Control) put(tx *store.Tx, ds *orrery.Datastore) error {
	ds.Status = observe.Datastore(ds, c.store.Instances.By("datastore", ds.ID), c.now().UTC())
	return c.store.Datastores.Put(tx, ds)
}

// restoreManaged puts back what only the server sets, and refuses another value.
func restoreManaged(spec, was *orrery.DatastoreSpec, l *login) error {
	readOnly := func(field string) error {
		return orrery.Invalid(field, "this field is set by the server").WithCode("field_read_only").WithHint("Leave it out, or as it is.")
	}
	if spec.RestartSeq != was.RestartSeq && spec.RestartSeq != was.RestartSeq+1 {
		return readOnly("spec.restart_seq")
	}
	for i := range spec.Users {
		u := &spec.Users[i]
		at := slices.IndexFunc(was.Users, func(o orrery.User) bool { return o.Name == u.Name })
		field := "spec.users[" + itoa(i) + "]"
		switch {
		case at >= 0 && (u.SecretVersion == 0 || u.SecretVersion == was.Users[at].SecretVersion):
			u.SecretVersion = was.Users[at].SecretVersion
		case at >= 0 || u.SecretVersion != 0:
			return readOnly(field + ".secret_version")
		case l == nil || l.user != u.Name:
			return orrery.Invalid(field+".name", "the user %q is not there yet", orrery.Shorten(u.Name, 60)).WithCode("user_not_found").
				WithHint("Create users with POST …/users, which gives their passwords.")
		}
	}
	return nil
}

// checkImmutable refuses what cannot change in place.
func checkImmutable(spec, was orrery.DatastoreSpec) error {
	fixed := func(field, hint string) error {
		return orrery.Invalid(field, "this cannot change after creation").WithCode("field_immutable").WithHint("%s", hint)
	}
	switch {
	case spec.Engine != was.Engine:
		return fixed("spec.engine", "Create a datastore of the other engine, and move the data there.")
	case spec.Version != was.Version:
		return fixed("spec.version", "Create a datastore of the other version, and move the data there with a dump or by logical replication.")
	case spec.Region != was.Region:
		return fixed("spec.region", "Create a datastore in the other region, and move the data there.")
	}
	return nil
}

func onlyProtection(a, b orrery.DatastoreSpec) bool {
	a.DeletionProtection = b.DeletionProtection
	return sameSpec(a, b)
}

// sameSpec compares specs; empty and missing are the same.
func sameSpec(a, b orrery.DatastoreSpec) bool {
	return reflect.DeepEqual(trimmed(a), trimmed(b))
}

func trimmed(s orrery.DatastoreSpec) orrery.DatastoreSpec {
	s = cloneSpec(s)
	if len(s.Parameters) == 0 {
		s.Parameters = nil
	}
	if len(s.Databases) == 0 {
		s.Databases = nil
	}
	if len(s.TrustedSources) == 0 {
		s.TrustedSources = nil
	}
	for i := range s.Users {
		if len(s.Users[i].Databases) == 0 {
			s.Users[i].Databases = nil
		}
	}
	return s
}

func cloneSpec(s orrery.DatastoreSpec) orrery.DatastoreSpec {
	s.Parameters = maps.Clone(s.Parameters)
	s.Users = slices.Clone(s.Users)
	for i := range s.Users {
		s.Users[i].Databases = slices.Clone(s.Users[i].Databases)
	}
	s.Databases = slices.Clone(s.Databases)
	s.TrustedSources = slices.Clone(s.TrustedSources)
	return s
}

// relative takes the place of the part that a request is about out of the field that an error names.
func relative(err error, spec *orrery.DatastoreSpec, part func(*orrery.DatastoreSpec) string) error {
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok || part == nil {
		return err
	}
	if rest, ok := strings.CutPrefix(e.Field, part(spec)); ok {
		out := *e
		out.Field = strings.TrimPrefix(rest, ".")
		return &out
	}
	return err
}
