package api

import (
	"context"
	"net/http"
	"net/url"
	"reflect"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// Settings is what the operations on users, databases, trusted sources and parameters ask for. All are parts of a
// datastore's spec; each change of them is a change of the datastore.
type Settings interface {
	CreateUser(ctx context.Context, m Mutation, project, datastore string, u NewUser) (Changed, error)
	UpdateUser(ctx context.Context, m Mutation, project, datastore, user string, change func(orrery.User) (orrery.User, error)) (Changed, error)
	DeleteUser(ctx context.Context, m Mutation, project, datastore, user string) (Changed, error)
	// ResetPassword gives the user a new password: the given one, or one that is made where it is empty.
	ResetPassword(ctx context.Context, m Mutation, project, datastore, user, password string) (Changed, error)
	CreateDatabase(ctx context.Context, m Mutation, project, datastore string, d orrery.Database) (Changed, error)
	DeleteDatabase(ctx context.Context, m Mutation, project, datastore, database string) (Changed, error)
	AddTrustedSource(ctx context.Context, m Mutation, project, datastore string, t orrery.TrustedSource) (Changed, error)
	RemoveTrustedSource(ctx context.Context, m Mutation, project, datastore, cidr string) (Changed, error)
	Parameters(ctx context.Context, project, datastore string) ([]*ParameterValue, error)
	// SetParameters sets values, and takes those away that are nil.
	SetParameters(ctx context.Context, m Mutation, project, datastore string, values map[string]*string) (Changed, error)
}

// NewUser is a user to create.
type NewUser struct {
	Name      string        `json:"name"`
	Access    orrery.Access `json:"access,omitempty" enum:"admin,readwrite,readonly" doc:"readwrite where empty."`
	Databases []string      `json:"databases,omitempty" doc:"Limits the access to these; all where empty."`
	Password  string        `json:"password,omitempty" writeOnly:"true" doc:"Made by the server where empty."`
}

// userPatch is the JSON merge patch that a user takes.
type userPatch struct {
	Access    orrery.Access `json:"access,omitempty" enum:"admin,readwrite,readonly"`
	Databases []string      `json:"databases,omitempty"`
}

type newPassword struct {
	Password string `json:"password,omitempty" writeOnly:"true" doc:"Made by the server where empty."`
}

// ParameterValue is a parameter of a datastore's engine with the value that was set, if one was.
type ParameterValue struct {
	orrery.Parameter
	Value *string `json:"value,omitempty"`
}

func (a *API) settingEndpoints() []*endpoint {
	get, post, patch, del := http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	read, update := iam.DatastoresRead, iam.DatastoresUpdate
	const accepted = http.StatusAccepted
	return []*endpoint{
		{id: "list-users", method: get, path: datastorePath + "/users", tag: "users", summary: "List a datastore's users",
			permission: read, result: listBody[orrery.User]{}, query: listParams, handle: a.listUsers},
		{id: "create-user", method: post, path: datastorePath + "/users", tag: "users", summary: "Create a user",
			permission: update, body: NewUser{}, status: accepted, result: Changed{}, handle: a.createUser},
		{id: "get-user", method: get, path: datastorePath + "/users/{user}", tag: "users", summary: "Get a user",
			permission: read, result: orrery.User{}, handle: a.getUser},
		{id: "update-user", method: patch, path: datastorePath + "/users/{user}", tag: "users", summary: "Change what a user may do",
			permission: update, body: userPatch{}, status: accepted, result: Changed{}, handle: a.updateUser},
		{id: "delete-user", method: del, path: datastorePath + "/users/{user}", tag: "users", summary: "Delete a user",
			permission: update, status: accepted, result: Changed{}, handle: a.deleteUser},
		{id: "reset-password", method: post, path: datastorePath + "/users/{user}/actions/reset-password", tag: "users", summary: "Give a user a new password",
			permission: update, body: newPassword{}, bodyOptional: true, status: accepted, result: Changed{}, handle: a.resetPassword},

		{id: "list-databases", method: get, path: datastorePath + "/databases", tag: "databases", summary: "List a datastore's databases",
			permission: read, result: listBody[orrery.Database]{}, query: listParams, handle: a.listDatabases},
		{id: "create-database", method: post, path: datastorePath + "/databases", tag: "databases", summary: "Create a database",
			permission: update, body: orrery.Database{}, status: accepted, result: Changed{}, handle: a.createDatabase},
		{id: "get-database", method: get, path: datastorePath + "/databases/{database}", tag: "databases", summary: "Get a database",
			permission: read, result: orrery.Database{}, handle: a.getDatabase},
		{id: "delete-database", method: del, path: datastorePath + "/databases/{database}", tag: "databases", summary: "Drop a database with its data",
			permission: update, status: accepted, result: Changed{}, handle: a.deleteDatabase},

		{id: "list-trusted-sources", method: get, path: datastorePath + "/trusted-sources", tag: "trusted sources", summary: "List the networks that may connect",
			permission: read, result: listBody[orrery.TrustedSource]{}, query: listParams, handle: a.listTrustedSources},
		{id: "add-trusted-source", method: post, path: datastorePath + "/trusted-sources", tag: "trusted sources", summary: "Let a network connect",
			permission: update, body: orrery.TrustedSource{}, status: accepted, result: Changed{}, handle: a.addTrustedSource},
		{id: "remove-trusted-source", method: del, path: datastorePath + "/trusted-sources/{cidr}", tag: "trusted sources", summary: "Let a network connect no longer",
			permission: update, status: accepted, result: Changed{}, handle: a.removeTrustedSource},

		{id: "list-parameters", method: get, path: datastorePath + "/parameters", tag: "parameters", summary: "List all parameters, with the values that were set",
			permission: read, result: listBody[ParameterValue]{}, query: listParams, handle: a.listParameters},
		{id: "set-parameters", method: patch, path: datastorePath + "/parameters", tag: "parameters", summary: "Set parameters",
			doc:        "A JSON merge patch: names with their values as strings; null takes one back to what the plan gives it.",
			permission: update, body: map[string]*string{}, status: accepted, result: Changed{}, handle: a.setParameters},
	}
}

// part lists a part of a datastore's spec.
func part[T any](c *call, list func(*orrery.DatastoreSpec) []T, name func(*T) string) error {
	ds, err := c.a.Backend.Datastore(c.ctx(), c.project(), c.datastore())
	if err != nil {
		return err
	}
	return sendList(c, pointers(list(&ds.Spec)), ds.Revision, name)
}

// single finds one member of a part of a datastore's spec.
func single[T any](c *call, noun, wanted string, list func(*orrery.DatastoreSpec) []T, name func(*T) string) error {
	ds, err := c.a.Backend.Datastore(c.ctx(), c.project(), c.datastore())
	if err != nil {
		return err
	}
	for _, item := range pointers(list(&ds.Spec)) {
		if name(item) == wanted {
			c.w.Header().Set("ETag", etag(&ds.Meta))
			return c.send(http.StatusOK, item)
		}
	}
	return orrery.NotFound(noun, wanted)
}

func users(s *orrery.DatastoreSpec) []orrery.User                   { return s.Users }
func userName(u *orrery.User) string                                { return u.Name }
func databases(s *orrery.DatastoreSpec) []orrery.Database           { return s.Databases }
func databaseName(d *orrery.Database) string                        { return d.Name }
func trustedSources(s *orrery.DatastoreSpec) []orrery.TrustedSource { return s.TrustedSources }
func sourceCIDR(t *orrery.TrustedSource) string                     { return t.CIDR }
func (a *API) listUsers(c *call) error                              { return part(c, users, userName) }
func (a *API) getUser(c *call) error                                { return single(c, "user", c.path("user"), users, userName) }
func (a *API) listDatabases(c *call) error                          { return part(c, databases, databaseName) }
func (a *API) listTrustedSources(c *call) error                     { return part(c, trustedSources, sourceCIDR) }
func (a *API) getDatabase(c *call) error {
	return single(c, "database", c.path("database"), databases, databaseName)
}

func (a *API) createUser(c *call) error {
	var u NewUser
	m, err := c.readInto(&u)
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.CreateUser(c.ctx(), m, c.project(), c.datastore(), u))
}

func (a *API) updateUser(c *call) error {
	m, body, err := c.read()
	if err != nil {
		return err
	}
	t, err := parse(body)
	if err != nil {
		return err
	}
	if err := check(reflect.TypeFor[userPatch](), t, "", refuseReadOnly); err != nil {
		return err
	}
	change, err := merger[orrery.User](t, "")
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.UpdateUser(c.ctx(), m, c.project(), c.datastore(), c.path("user"), change))
}

func (a *API) deleteUser(c *call) error {
	m, _, err := c.read()
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.DeleteUser(c.ctx(), m, c.project(), c.datastore(), c.path("user")))
}

func (a *API) resetPassword(c *call) error {
	var p newPassword
	m, err := c.readInto(&p)
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.ResetPassword(c.ctx(), m, c.project(), c.datastore(), c.path("user"), p.Password))
}

func (a *API) createDatabase(c *call) error {
	var d orrery.Database
	m, err := c.readInto(&d)
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.CreateDatabase(c.ctx(), m, c.project(), c.datastore(), d))
}

func (a *API) deleteDatabase(c *call) error {
	m, _, err := c.read()
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.DeleteDatabase(c.ctx(), m, c.project(), c.datastore(), c.path("database")))
}

func (a *API) addTrustedSource(c *call) error {
	var t orrery.TrustedSource
	m, err := c.readInto(&t)
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.AddTrustedSource(c.ctx(), m, c.project(), c.datastore(), t))
}

func (a *API) removeTrustedSource(c *call) error {
	m, _, err := c.read()
	if err != nil {
		return err
	}
	cidr := c.path("cidr")
	if twice, err := url.PathUnescape(cidr); err == nil {
		cidr = twice // some clients and proxies escape an escape
	}
	return c.sendChanged(a.Backend.RemoveTrustedSource(c.ctx(), m, c.project(), c.datastore(), cidr))
}

func (a *API) listParameters(c *call) error {
	list, err := a.Backend.Parameters(c.ctx(), c.project(), c.datastore())
	if err != nil {
		return err
	}
	return sendList(c, list, 0, func(p *ParameterValue) string { return p.Name })
}

func (a *API) setParameters(c *call) error {
	values := map[string]*string{}
	m, err := c.readInto(&values)
	if err != nil {
		return err
	}
	return c.sendChanged(a.Backend.SetParameters(c.ctx(), m, c.project(), c.datastore(), values))
}
