package client

import (
	"context"
	"iter"

	"github.com/orrery-db/orrery"
)

// Users lists a datastore's users.
func (c *Client) Users(ctx context.Context, project, datastore string) iter.Seq2[*orrery.User, error] {
	return list[orrery.User](ctx, c, path("projects", project, "datastores", datastore, "users"), ListOptions{})
}

// User reads one user.
func (c *Client) User(ctx context.Context, project, datastore, name string) (*orrery.User, error) {
	return get[orrery.User](ctx, c, path("projects", project, "datastores", datastore, "users", name), nil)
}

// NewUser is a user to create.
type NewUser struct {
	Name      string        `json:"name"`
	Access    orrery.Access `json:"access,omitempty"`
	Databases []string      `json:"databases,omitempty"`
	Password  string        `json:"password,omitempty"` // made by the server where empty
}

// CreateUser makes a user. The answer's credentials are given only now.
func (c *Client) CreateUser(ctx context.Context, project, datastore string, u NewUser) (*Changed, error) {
	return post[Changed](ctx, c, path("projects", project, "datastores", datastore, "users"), u)
}

// UserPatch changes a user: what is nil stays.
type UserPatch struct {
	Access    *orrery.Access `json:"access,omitempty"`
	Databases *[]string      `json:"databases,omitempty"`
}

// UpdateUser changes what a user may do.
func (c *Client) UpdateUser(ctx context.Context, project, datastore, name string, p UserPatch) (*Changed, error) {
	return patch[Changed](ctx, c, path("projects", project, "datastores", datastore, "users", name), 0, p)
}

// DeleteUser removes a user.
func (c *Client) DeleteUser(ctx context.Context, project, datastore, name string) (*Changed, error) {
	return remove[Changed](ctx, c, path("projects", project, "datastores", datastore, "users", name), nil)
}

// ResetPassword gives a user a new password: the given one, or one that the server makes.
func (c *Client) ResetPassword(ctx context.Context, project, datastore, name, password string) (*Changed, error) {
	body := map[string]string{}
	if password != "" {
		body["password"] = password
	}
	return post[Changed](ctx, c, path("projects", project, "datastores", datastore, "users", name, "actions", "reset-password"), body)
}

// Databases lists a datastore's logical databases.
func (c *Client) Databases(ctx context.Context, project, datastore string) iter.Seq2[*orrery.Database, error] {
	return list[orrery.Database](ctx, c, path("projects", project, "datastores", datastore, "databases"), ListOptions{})
}

// CreateDatabase makes a logical database.
func (c *Client) CreateDatabase(ctx context.Context, project, datastore string, d orrery.Database) (*Changed, error) {
	return post[Changed](ctx, c, path("projects", project, "datastores", datastore, "databases"), d)
}

// DeleteDatabase drops a logical database with its data.
func (c *Client) DeleteDatabase(ctx context.Context, project, datastore, name string) (*Changed, error) {
	return remove[Changed](ctx, c, path("projects", project, "datastores", datastore, "databases", name), nil)
}

// TrustedSources lists the networks from which clients may connect.
func (c *Client) TrustedSources(ctx context.Context, project, datastore string) iter.Seq2[*orrery.TrustedSource, error] {
	return list[orrery.TrustedSource](ctx, c, path("projects", project, "datastores", datastore, "trusted-sources"), ListOptions{})
}

// AddTrustedSource lets a network in.
func (c *Client) AddTrustedSource(ctx context.Context, project, datastore string, s orrery.TrustedSource) (*Changed, error) {
	return post[Changed](ctx, c, path("projects", project, "datastores", datastore, "trusted-sources"), s)
}

// RemoveTrustedSource lets a network in no longer.
func (c *Client) RemoveTrustedSource(ctx context.Context, project, datastore, cidr string) (*Changed, error) {
	return remove[Changed](ctx, c, path("projects", project, "datastores", datastore, "trusted-sources", cidr), nil)
}

// ParameterValue is a parameter of a datastore's engine with the value that was set, if one was.
type ParameterValue struct {
	orrery.Parameter
	Value *string `json:"value,omitempty"`
}

// Parameters lists all that the datastore's engine knows, with the values that were set.
func (c *Client) Parameters(ctx context.Context, project, datastore string) iter.Seq2[*ParameterValue, error] {
	return list[ParameterValue](ctx, c, path("projects", project, "datastores", datastore, "parameters"), ListOptions{PageSize: 1000})
}

// SetParameters sets parameters; nil takes one back to what the plan gives it.
func (c *Client) SetParameters(ctx context.Context, project, datastore string, values map[string]*string) (*Changed, error) {
	return patch[Changed](ctx, c, path("projects", project, "datastores", datastore, "parameters"), 0, values)
}
