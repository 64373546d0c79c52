package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"

	"github.com/orrery-db/orrery"
)

// Credentials are a database user's name and password. The server gives a password once, and keeps none.
type Credentials struct {
	Username string `json:"username"`
	// Password is missing where a repeated request met what the first one had done; Hint says what to do then.
	Password string `json:"password,omitempty"`
	Hint     string `json:"hint,omitempty"`
}

// Changed is the answer to a change: the object as it will be, and the job that makes it so. Job is nil where there
// was nothing to do.
type Changed struct {
	Datastore   *orrery.Datastore `json:"datastore,omitempty"`
	Job         *orrery.Job       `json:"job,omitempty"`
	Credentials *Credentials      `json:"credentials,omitempty"`
}

// NewDatastore is what to create. What the spec leaves empty, the server chooses.
type NewDatastore struct {
	Name   string
	Labels map[string]string
	Spec   orrery.DatastoreSpec
	// Password of the first user; made by the server where empty.
	Password string
}

// MarshalJSON leaves out what is empty: to the server, an empty enum is a wrong one and a missing one its default.
func (n NewDatastore) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(n.Spec)
	if err != nil {
		return nil, fmt.Errorf("encode the spec: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("encode the spec: %w", err)
	}
	dropEmpty(spec)
	body := map[string]any{"name": n.Name, "spec": spec}
	if len(n.Labels) > 0 {
		body["labels"] = n.Labels
	}
	if n.Password != "" {
		body["password"] = n.Password
	}
	return json.Marshal(body)
}

// dropEmpty removes empty strings, zeros and falses at every depth. The server's own fields among them go too.
func dropEmpty(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case string:
			if v == "" {
				delete(m, k)
			}
		case float64:
			if v == 0 {
				delete(m, k)
			}
		case map[string]any:
			if k != "parameters" { // "" is a value that a parameter may have
				dropEmpty(v)
			}
		case []any:
			for _, item := range v {
				if item, ok := item.(map[string]any); ok {
					dropEmpty(item)
				}
			}
		}
	}
}

// DatastorePatch changes a datastore: what is nil stays.
type DatastorePatch struct {
	Labels map[string]*string `json:"labels,omitempty"` // nil removes a label
	Spec   *SpecPatch         `json:"spec,omitempty"`
}

// SpecPatch changes a spec: what is nil stays.
type SpecPatch struct {
	Version            *string                 `json:"version,omitempty"`
	Plan               *string                 `json:"plan,omitempty"`
	StorageGiB         *int                    `json:"storage_gib,omitempty"`
	Instances          *int                    `json:"instances,omitempty"`
	Replication        *orrery.ReplicationMode `json:"replication,omitempty"`
	DeletionProtection *bool                   `json:"deletion_protection,omitempty"`
}

// Datastores lists a project's datastores.
func (c *Client) Datastores(ctx context.Context, project string, o ListOptions) iter.Seq2[*orrery.Datastore, error] {
	return list[orrery.Datastore](ctx, c, path("projects", project, "datastores"), o)
}

// Datastore reads one, by name or ID.
func (c *Client) Datastore(ctx context.Context, project, datastore string) (*orrery.Datastore, error) {
	return get[orrery.Datastore](ctx, c, path("projects", project, "datastores", datastore), nil)
}

// CreateDatastore asks for a datastore. The answer's credentials are those of its first user, and are given only now.
func (c *Client) CreateDatastore(ctx context.Context, project string, n NewDatastore) (*Changed, error) {
	return post[Changed](ctx, c, path("projects", project, "datastores"), n)
}

// UpdateDatastore changes a datastore, if its generation is still the given one; 0 changes whatever is there.
func (c *Client) UpdateDatastore(ctx context.Context, project, datastore string, generation int64, p DatastorePatch) (*Changed, error) {
	return patch[Changed](ctx, c, path("projects", project, "datastores", datastore), generation, p)
}

// DeleteDatastore deletes a datastore with all its data.
func (c *Client) DeleteDatastore(ctx context.Context, project, datastore string) (*Changed, error) {
	return remove[Changed](ctx, c, path("projects", project, "datastores", datastore), nil)
}

// ActOnDatastore does what is not a state: "restart", "pause", "resume".
func (c *Client) ActOnDatastore(ctx context.Context, project, datastore, action string) (*Changed, error) {
	return post[Changed](ctx, c, path("projects", project, "datastores", datastore, "actions", action), nil)
}

// WatchDatastores follows a project's datastores.
func (c *Client) WatchDatastores(ctx context.Context, project string) iter.Seq2[Change[orrery.Datastore], error] {
	return watch[orrery.Datastore](ctx, c, path("projects", project, "datastores"), nil)
}

// WatchDatastore follows one datastore.
func (c *Client) WatchDatastore(ctx context.Context, project, datastore string) iter.Seq2[Change[orrery.Datastore], error] {
	return watch[orrery.Datastore](ctx, c, path("projects", project, "datastores", datastore), nil)
}

// Instances lists a datastore's members.
func (c *Client) Instances(ctx context.Context, project, datastore string, o ListOptions) iter.Seq2[*orrery.Instance, error] {
	return list[orrery.Instance](ctx, c, path("projects", project, "datastores", datastore, "instances"), o)
}

// Instance reads one member, by name or ID.
func (c *Client) Instance(ctx context.Context, project, datastore, instance string) (*orrery.Instance, error) {
	return get[orrery.Instance](ctx, c, path("projects", project, "datastores", datastore, "instances", instance), nil)
}

// Endpoints lists a datastore's addresses, the primary's first.
func (c *Client) Endpoints(ctx context.Context, project, datastore string) iter.Seq2[*orrery.Endpoint, error] {
	return list[orrery.Endpoint](ctx, c, path("projects", project, "datastores", datastore, "endpoints"), ListOptions{})
}

// Connection tells how to connect as a user to a database; the server chooses both where they are empty.
func (c *Client) Connection(ctx context.Context, project, datastore, user, database string) (*orrery.ConnectionInfo, error) {
	q := url.Values{}
	if user != "" {
		q.Set("user", user)
	}
	if database != "" {
		q.Set("database", database)
	}
	return get[orrery.ConnectionInfo](ctx, c, path("projects", project, "datastores", datastore, "connection"), q)
}

// DatastoreEvents lists what happened to a datastore.
func (c *Client) DatastoreEvents(ctx context.Context, project, datastore string, o ListOptions) iter.Seq2[*orrery.Event, error] {
	return list[orrery.Event](ctx, c, path("projects", project, "datastores", datastore, "events"), o)
}
