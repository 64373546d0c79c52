package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
)

func findUser(s *orrery.DatastoreSpec, name string) (int, error) {
	at := slices.IndexFunc(s.Users, func(u orrery.User) bool { return u.Name == name })
	if at < 0 {
		return at, orrery.NotFound("user", name)
	}
	return at, nil
}

// userPart is the place of a user in a spec.
func userPart(name string) func(*orrery.DatastoreSpec) string {
	return func(s *orrery.DatastoreSpec) string {
		at, err := findUser(s, name)
		if err != nil {
			return "spec.users"
		}
		return fmt.Sprintf("spec.users[%d]", at)
	}
}

// CreateUser adds a user, with a password of its own.
func (c *Control) CreateUser(ctx context.Context, m api.Mutation, project, datastore string, u api.NewUser) (api.Changed, error) {
	password, err := passwordOr(u.Password, "password")
	if err != nil {
		return api.Changed{}, err
	}
	if u.Name == "" {
		return api.Changed{}, orrery.Invalid("name", "a name is wanted")
	}
	return c.change(ctx, m, project, datastore, edit{login: &login{user: u.Name, password: password}, part: userPart(u.Name),
		spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
			if _, err := findUser(s, u.Name); err == nil {
				return orrery.Errorf(orrery.KindConflict, "there is a user %q already", orrery.Shorten(u.Name, 60)).WithCode("user_exists").
					WithHint("Choose another name, or reset the user's password.")
			}
			s.Users = append(s.Users, orrery.User{Name: u.Name, Access: u.Access, Databases: u.Databases})
			return nil
		}})
}

// UpdateUser changes what a user may do.
func (c *Control) UpdateUser(ctx context.Context, m api.Mutation, project, datastore, user string, change func(orrery.User) (orrery.User, error)) (api.Changed, error) {
	return c.change(ctx, m, project, datastore, edit{part: userPart(user), spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
		at, err := findUser(s, user)
		if err != nil {
			return err
		}
		next, err := change(s.Users[at])
		if err != nil {
			return err
		}
		for _, d := range s.Databases {
			if d.Owner == user && next.Access != orrery.AccessAdmin {
				return ownsDatabase(user, d.Name)
			}
		}
		s.Users[at] = next
		return nil
	}})
}

func ownsDatabase(user, database string) error {
	return orrery.Errorf(orrery.KindConflict, "user %q owns database %q", user, database).WithCode("user_owns_database").
		WithHint("Drop the database first, or give it another owner with spec.databases.")
}

// DeleteUser removes a user.
func (c *Control) DeleteUser(ctx context.Context, m api.Mutation, project, datastore, user string) (api.Changed, error) {
	return c.change(ctx, m, project, datastore, edit{spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
		at, err := findUser(s, user)
		if err != nil {
			return err
		}
		for _, d := range s.Databases {
			if d.Owner == user {
				return ownsDatabase(user, d.Name)
			}
		}
		s.Users = slices.Delete(s.Users, at, at+1)
		if !slices.ContainsFunc(s.Users, func(u orrery.User) bool { return u.Access == orrery.AccessAdmin }) {
			return orrery.Errorf(orrery.KindConflict, "user %q is the last one with admin access", user).WithCode("admin_wanted").
				WithHint("Give another user admin access first.")
		}
		return nil
	}})
}

// ResetPassword gives a user a new password.
func (c *Control) ResetPassword(ctx context.Context, m api.Mutation, project, datastore, user, given string) (api.Changed, error) {
	password, err := passwordOr(given, "password")
	if err != nil {
		return api.Changed{}, err
	}
	return c.change(ctx, m, project, datastore, edit{login: &login{user: user, password: password},
		spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
			_, err := findUser(s, user)
			return err
		}})
}

// CreateDatabase adds a logical database.
func (c *Control) CreateDatabase(ctx context.Context, m api.Mutation, project, datastore string, d orrery.Database) (api.Changed, error) {
	part := func(s *orrery.DatastoreSpec) string { return fmt.Sprintf("spec.databases[%d]", len(s.Databases)-1) }
	return c.change(ctx, m, project, datastore, edit{part: part, spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
		if d.Name == "" {
			return orrery.Invalid("name", "a name is wanted")
		}
		if hasDatabase(s, d.Name) {
			return orrery.Errorf(orrery.KindConflict, "there is a database %q already", orrery.Shorten(d.Name, 60)).WithCode("database_exists")
		}
		s.Databases = append(s.Databases, d)
		return nil
	}})
}

// DeleteDatabase drops a logical database with its data.
func (c *Control) DeleteDatabase(ctx context.Context, m api.Mutation, project, datastore, database string) (api.Changed, error) {
	return c.change(ctx, m, project, datastore, edit{spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
		at := slices.IndexFunc(s.Databases, func(d orrery.Database) bool { return d.Name == database })
		if at < 0 {
			return orrery.NotFound("database", database)
		}
		for _, u := range s.Users {
			// Taking it out of the list might leave an empty one, which means all databases.
			if slices.Contains(u.Databases, database) {
				return orrery.Errorf(orrery.KindConflict, "user %q is limited to database %q", u.Name, database).WithCode("database_in_use").
					WithHint("Change the user's databases, or delete the user, first.")
			}
		}
		s.Databases = slices.Delete(s.Databases, at, at+1)
		return nil
	}})
}
