package control

import (
	"fmt"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// Bounds that keep a datastore within what one transaction and one configuration file hold well.
const (
	maxInstances   = 15
	maxUsers       = 200
	maxDatabases   = 200
	maxSources     = 200
	maxLabels      = 64
	maxStorageGiB  = 1 << 20
	maxDescription = 500
)

// checkSpec checks a spec whole and brings it into its stored form. Errors name the field, from "spec" on. was is the
// spec before a change, nil at creation: what has not changed is not judged again by what hosts offer today.
func (c *Control) checkSpec(spec, was *orrery.DatastoreSpec) error {
	def, err := c.definition(spec.Engine)
	if err != nil {
		return err
	}
	if was == nil {
		if err := c.checkOffer(def, spec); err != nil {
			return err
		}
	}
	plan, err := find(c.store.Plans, "plan", "plan", "", spec.Plan)
	if err != nil {
		return orrery.Invalid("spec.plan", "there is no plan %q", orrery.Shorten(spec.Plan, 60)).WithCode("plan_unknown").
			WithHint("The plans are: %s.", strings.Join(c.planNames(), ", "))
	}
	spec.Plan = plan.Name
	if spec.StorageGiB == 0 {
		spec.StorageGiB = int(plan.StorageGiB)
	}
	for _, check := range []func() error{
		func() error { return checkSize(def, spec, was) },
		func() error { return checkUsers(def, spec) },
		func() error { return checkDatabases(spec) },
		func() error { return checkSources(spec) },
		func() error { return blame(def.CheckSpec(*spec), "spec") },
		func() error { return c.checkParameters(def, spec, was, *plan) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	if was == nil || was.Plan != spec.Plan || was.StorageGiB != spec.StorageGiB {
		if err := c.checkRoom(spec, plan); err != nil {
			return err
		}
	}
	return nil
}

func (c *Control) planNames() []string {
	var names []string
	for _, p := range c.plans() {
		names = append(names, p.Name)
	}
	return names
}

func checkSize(def engine.Definition, spec, was *orrery.DatastoreSpec) error {
	if spec.Instances < 1 || spec.Instances > maxInstances {
		return orrery.Invalid("spec.instances", "a datastore has 1 to %d instances, not %d", maxInstances, spec.Instances).WithCode("instances_out_of_range")
	}
	modes := def.Engine().Replication
	if !slices.Contains(modes, spec.Replication) {
		return orrery.Invalid("spec.replication", "%s knows no replication mode %q", def.Engine().Title, orrery.Shorten(string(spec.Replication), 40)).
			WithHint("Its modes are: %s.", joinWords(modes))
	}
	if spec.Replication == orrery.ReplicationSync && spec.Instances < 2 {
		return orrery.Invalid("spec.replication", "synchronous replication needs at least 2 instances").
			WithHint("Ask for 2 or more instances, or for async.")
	}
	if spec.StorageGiB < 1 || spec.StorageGiB > maxStorageGiB {
		return orrery.Invalid("spec.storage_gib", "storage is 1 to %d GiB, not %d", maxStorageGiB, spec.StorageGiB).WithCode("storage_out_of_range")
	}
	if was != nil && spec.StorageGiB < was.StorageGiB {
		return orrery.Invalid("spec.storage_gib", "storage cannot shrink: it is %d GiB", was.StorageGiB).WithCode("storage_cannot_shrink").
			WithHint("Create a smaller datastore and move the data there.")
	}
	return nil
}

func joinWords[T ~string](words []T) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return strings.Join(out, ", ")
}

func checkUsers(def engine.Definition, spec *orrery.DatastoreSpec) error {
	if len(spec.Users) > maxUsers {
		return orrery.Invalid("spec.users", "a datastore has at most %d users", maxUsers)
	}
	admin := false
	for i := range spec.Users {
		u := &spec.Users[i]
		field := fmt.Sprintf("spec.users[%d]", i)
		if slices.ContainsFunc(spec.Users[:i], func(o orrery.User) bool { return o.Name == u.Name }) {
			return orrery.Invalid(field+".name", "the user %q is there twice", orrery.Shorten(u.Name, 60)).WithCode("user_twice")
		}
		if u.Access == "" {
			u.Access = orrery.AccessReadWrite
		}
		if u.Access != orrery.AccessAdmin && u.Access != orrery.AccessReadWrite && u.Access != orrery.AccessReadOnly {
			return orrery.Invalid(field+".access", "there is no access %q", orrery.Shorten(string(u.Access), 40)).
				WithHint("Use admin, readwrite or readonly.")
		}
		admin = admin || u.Access == orrery.AccessAdmin
		for j, name := range u.Databases {
			if def.Engine().Databases && !hasDatabase(spec, name) {
				return orrery.Invalid(fmt.Sprintf("%s.databases[%d]", field, j), "there is no database %q", orrery.Shorten(name, 60)).WithCode("database_not_found").
					WithHint("Name a database of this datastore, or create it first.")
			}
		}
		slices.Sort(u.Databases)
		u.Databases = slices.Compact(u.Databases)
	}
	if !admin {
		return orrery.Invalid("spec.users", "one user at least must have admin access").WithCode("admin_wanted").
			WithHint("Give a user the access admin, or leave users out at creation.")
	}
	return nil
}

func hasDatabase(spec *orrery.DatastoreSpec, name string) bool {
	return slices.ContainsFunc(spec.Databases, func(d orrery.Database) bool { return d.Name == name })
}

func checkDatabases(spec *orrery.DatastoreSpec) error {
	if len(spec.Databases) > maxDatabases {
		return orrery.Invalid("spec.databases", "a datastore has at most %d databases", maxDatabases)
	}
	for i := range spec.Databases {
		d := &spec.Databases[i]
		field := fmt.Sprintf("spec.databases[%d]", i)
		if slices.ContainsFunc(spec.Databases[:i], func(o orrery.Database) bool { return o.Name == d.Name }) {
			return orrery.Invalid(field+".name", "the database %q is there twice", orrery.Shorten(d.Name, 60)).WithCode("database_twice")
		}
		isAdmin := func(u orrery.User) bool {
			return u.Access == orrery.AccessAdmin && (d.Owner == "" || u.Name == d.Owner)
		}
		at := slices.IndexFunc(spec.Users, isAdmin)
		if at < 0 {
			return orrery.Invalid(field+".owner", "the owner %q is no user with admin access", orrery.Shorten(d.Owner, 60)).WithCode("owner_not_admin").
				WithHint("Name a user of this datastore whose access is admin.")
		}
		d.Owner = spec.Users[at].Name // written out, so that it does not move when users do
	}
	return nil
}

// checkLabels merges labels: nil takes one away.
func checkLabels(labels map[string]string, patch map[string]*string) (map[string]string, error) {
	out := map[string]string{}
	for k, v := range labels {
		out[k] = v
	}
	for k, v := range patch {
		if v == nil {
			delete(out, k)
			continue
		}
		if k == "" || len(k) > 63 || len(*v) > 256 || strings.ContainsFunc(k+*v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, orrery.Invalid("labels."+orrery.Shorten(k, 60), "this label cannot be used").
				WithHint("A label's name has 1 to 63 bytes, its value at most 256, and neither has control characters.")
		}
		out[k] = *v
	}
	if len(out) > maxLabels {
		return nil, orrery.Invalid("labels", "an object has at most %d labels", maxLabels)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func toPatch(labels map[string]string) map[string]*string {
	patch := map[string]*string{}
	for k, v := range labels {
		patch[k] = &v
	}
	return patch
}
