package client

import (
	"context"
	"iter"
	"net/url"
	"time"

	"github.com/orrery-db/orrery"
)

// Status is what the plane says of itself.
type Status struct {
	Version   string    `json:"version"`
	Server    string    `json:"server"`     // name of the one that answered
	StartedAt time.Time `json:"started_at"` // of that server
	Revision  int64     `json:"revision"`
	// Writable is false while changes are refused, as when the disk is nearly full; Message says why.
	Writable bool           `json:"writable"`
	Message  string         `json:"message,omitempty"`
	Hint     string         `json:"hint,omitempty"`
	Counts   map[string]int `json:"counts"` // objects, by collection
	Watches  int            `json:"watches"`
}

// Status reads what the plane says of itself.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return get[Status](ctx, c, path("status"), nil)
}

// Ready returns nil when the server takes requests. It needs no token.
func (c *Client) Ready(ctx context.Context) error {
	_, err := get[string](ctx, c, "/readyz", nil)
	return err
}

// CA reads the PEM certificate of the CA that signs databases' certificates.
func (c *Client) CA(ctx context.Context) (string, error) {
	s, err := get[string](ctx, c, path("ca"), nil)
	if err != nil {
		return "", err
	}
	return *s, nil
}

// Engines lists what databases are on offer.
func (c *Client) Engines(ctx context.Context) iter.Seq2[*orrery.Engine, error] {
	return list[orrery.Engine](ctx, c, path("engines"), ListOptions{})
}

// Catalogue lists the parameters of a version of an engine, as that version itself tells them.
func (c *Client) Catalogue(ctx context.Context, engine, version string) iter.Seq2[*orrery.Parameter, error] {
	return list[orrery.Parameter](ctx, c, path("engines", engine, "versions", version, "parameters"), ListOptions{PageSize: 1000})
}

// Plans lists the sizes on offer.
func (c *Client) Plans(ctx context.Context) iter.Seq2[*orrery.Plan, error] {
	return list[orrery.Plan](ctx, c, path("plans"), ListOptions{})
}

// Regions lists where pools live.
func (c *Client) Regions(ctx context.Context) iter.Seq2[*orrery.Region, error] {
	return list[orrery.Region](ctx, c, path("regions"), ListOptions{})
}

// Pools lists the sets of like hosts.
func (c *Client) Pools(ctx context.Context) iter.Seq2[*orrery.Pool, error] {
	return list[orrery.Pool](ctx, c, path("pools"), ListOptions{})
}

// Hosts lists the machines.
func (c *Client) Hosts(ctx context.Context, o ListOptions) iter.Seq2[*orrery.Host, error] {
	return list[orrery.Host](ctx, c, path("hosts"), o)
}

// Host reads one machine, by name or ID.
func (c *Client) Host(ctx context.Context, host string) (*orrery.Host, error) {
	return get[orrery.Host](ctx, c, path("hosts", host), nil)
}

// CordonHost keeps new instances away from a host, or lets them come again.
func (c *Client) CordonHost(ctx context.Context, host string, cordoned bool) (*orrery.Host, error) {
	return patch[orrery.Host](ctx, c, path("hosts", host), 0, map[string]any{"spec": map[string]any{"cordoned": cordoned}})
}

// CreateJoinToken makes a one-time token with which a host may join within the hour. It is given only now.
func (c *Client) CreateJoinToken(ctx context.Context) (string, error) {
	t, err := post[struct {
		Token string `json:"token"`
	}](ctx, c, path("hosts", "join-tokens"), nil)
	if err != nil {
		return "", err
	}
	return t.Token, nil
}

// Projects lists the projects.
func (c *Client) Projects(ctx context.Context, o ListOptions) iter.Seq2[*orrery.Project, error] {
	return list[orrery.Project](ctx, c, path("projects"), o)
}

// Project reads one, by name or ID.
func (c *Client) Project(ctx context.Context, project string) (*orrery.Project, error) {
	return get[orrery.Project](ctx, c, path("projects", project), nil)
}

// CreateProject makes a project.
func (c *Client) CreateProject(ctx context.Context, name, description string) (*orrery.Project, error) {
	body := map[string]string{"name": name}
	if description != "" {
		body["description"] = description
	}
	return post[orrery.Project](ctx, c, path("projects"), body)
}

// DeleteProject removes an empty project.
func (c *Client) DeleteProject(ctx context.Context, project string) error {
	_, err := remove[struct{}](ctx, c, path("projects", project), nil)
	return err
}

// Events lists what happened, on the whole plane. Filters: "object" (an ID), "severity".
func (c *Client) Events(ctx context.Context, o ListOptions) iter.Seq2[*orrery.Event, error] {
	return list[orrery.Event](ctx, c, path("events"), o)
}

// WatchEvents follows what happens to an object, or on the whole plane where object is empty.
func (c *Client) WatchEvents(ctx context.Context, object string) iter.Seq2[Change[orrery.Event], error] {
	q := url.Values{}
	if object != "" {
		q.Set("object", object)
	}
	return watch[orrery.Event](ctx, c, path("events"), q)
}

// Tokens lists the tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) iter.Seq2[*orrery.Token, error] {
	return list[orrery.Token](ctx, c, path("tokens"), ListOptions{})
}

// NewToken is a token to make.
type NewToken struct {
	Name      string     `json:"name"`
	Role      string     `json:"role,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// MadeToken is a new token with its secret, which is given only now.
type MadeToken struct {
	Token  *orrery.Token `json:"token"`
	Secret string        `json:"secret,omitempty"`
	Hint   string        `json:"hint,omitempty"` // where the secret is missing
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, t NewToken) (*MadeToken, error) {
	return post[MadeToken](ctx, c, path("tokens"), t)
}

// RevokeToken makes a token good for nothing.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := remove[struct{}](ctx, c, path("tokens", id), nil)
	return err
}
