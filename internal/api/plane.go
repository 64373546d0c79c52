package api

import (
	"context"
	"net/http"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// Plane is what the operations on the plane itself ask for.
type Plane interface {
	Engines(ctx context.Context) ([]*orrery.Engine, error)
	Catalogue(ctx context.Context, engine, version string) (*orrery.ParameterCatalogue, error)
	Plans(ctx context.Context) ([]*orrery.Plan, error)
	Regions(ctx context.Context) ([]*orrery.Region, error)
	Pools(ctx context.Context) ([]*orrery.Pool, error)
	Pool(ctx context.Context, pool string) (*orrery.Pool, error)
	ListHosts(ctx context.Context, o ListOptions) (Page[orrery.Host], error)
	Host(ctx context.Context, host string) (*orrery.Host, error)
	UpdateHost(ctx context.Context, m Mutation, host string, p HostPatch) (*orrery.Host, error)
	// CreateJoinToken makes a one-time token with which one host may join.
	CreateJoinToken(ctx context.Context, m Mutation, validFor time.Duration) (JoinToken, error)
	// CA is the certificate (PEM) of the CA that signs databases' certificates.
	CA(ctx context.Context) ([]byte, error)
	Status(ctx context.Context) (Status, error)
	// Ready returns nil while this server can answer requests.
	Ready(ctx context.Context) error
}

// HostPatch is a change of a host.
type HostPatch struct {
	Labels map[string]*string                             // to set, and, where nil, to remove
	Spec   func(orrery.HostSpec) (orrery.HostSpec, error) // nil where the spec is left alone
}

// hostPatchBody is the JSON merge patch that a host takes.
type hostPatchBody struct {
	Labels map[string]*string `json:"labels,omitempty"`
	Spec   *hostSpecPatch     `json:"spec,omitempty"`
}

type hostSpecPatch struct {
	Pool     string `json:"pool,omitempty"`
	Cordoned bool   `json:"cordoned,omitempty" doc:"A cordoned host gets no new instances."`
	Zone     string `json:"zone,omitempty"`
}

type newJoinToken struct {
	ValidForSeconds int64 `json:"valid_for_seconds,omitempty" minimum:"60" maximum:"604800" doc:"An hour where missing."`
}

// JoinToken lets one host join the plane, once.
type JoinToken struct {
	Token     string    `json:"token" doc:"<id>.<secret>.<SHA-256 of the plane CA's certificate>; given only now."`
	ExpiresAt time.Time `json:"expires_at"`
}

// Status is what the plane says of itself.
type Status struct {
	Version   string    `json:"version"`
	Server    string    `json:"server" doc:"Name of the server that answers."`
	StartedAt time.Time `json:"started_at" doc:"When that server started."`
	Revision  int64     `json:"revision"`
	// Writable is false while the watchdog of the disk refuses changes; Message says why.
	Writable bool           `json:"writable"`
	Message  string         `json:"message,omitempty"`
	Hint     string         `json:"hint,omitempty"`
	Counts   map[string]int `json:"counts" doc:"How many objects there are, by collection."`
	Watches  int            `json:"watches" doc:"Open on that server."`
}

type health struct {
	Status string `json:"status"`
}

func (a *API) planeEndpoints() []*endpoint {
	get := http.MethodGet
	return []*endpoint{
		{id: "list-engines", method: get, path: "/v1/engines", tag: "engines", summary: "List engines, with the versions that hosts offer",
			permission: iam.PlaneRead, result: listBody[orrery.Engine]{}, query: listParams, handle: listOf(a.Backend.Engines, func(e *orrery.Engine) string { return e.Name })},
		{id: "list-engine-parameters", method: get, path: "/v1/engines/{engine}/versions/{version}/parameters", tag: "engines", summary: "List the parameters of a version",
			permission: iam.PlaneRead, result: listBody[orrery.Parameter]{}, query: listParams, handle: a.listCatalogue},
		{id: "list-plans", method: get, path: "/v1/plans", tag: "plans", summary: "List plans, smallest first",
			permission: iam.PlaneRead, result: listBody[orrery.Plan]{}, query: listParams, handle: listOf(a.Backend.Plans, nil)},
		{id: "list-regions", method: get, path: "/v1/regions", tag: "hosts", summary: "List regions",
			permission: iam.PlaneRead, result: listBody[orrery.Region]{}, query: listParams, handle: listOf(a.Backend.Regions, func(r *orrery.Region) string { return r.Name })},
		{id: "list-pools", method: get, path: "/v1/pools", tag: "hosts", summary: "List pools",
			permission: iam.PlaneRead, result: listBody[orrery.Pool]{}, query: listParams, handle: listOf(a.Backend.Pools, func(p *orrery.Pool) string { return p.Name })},
		{id: "get-pool", method: get, path: "/v1/pools/{pool}", tag: "hosts", summary: "Get a pool",
			permission: iam.PlaneRead, result: orrery.Pool{}, handle: a.getPool},
		{id: "list-hosts", method: get, path: "/v1/hosts", tag: "hosts", summary: "List hosts",
			permission: iam.HostsRead, result: listBody[orrery.Host]{}, handle: a.listHosts, query: params(listParams, []queryParam{{"pool", "Only those of this pool."}})},
		{id: "get-host", method: get, path: "/v1/hosts/{host}", tag: "hosts", summary: "Get a host",
			permission: iam.HostsRead, result: orrery.Host{}, handle: a.getHost},
		{id: "update-host", method: http.MethodPatch, path: "/v1/hosts/{host}", tag: "hosts", summary: "Change a host, as to cordon it",
			permission: iam.HostsUpdate, body: hostPatchBody{}, result: orrery.Host{}, handle: a.updateHost},
		{id: "create-join-token", method: http.MethodPost, path: "/v1/hosts/join-tokens", tag: "hosts", summary: "Make a one-time token with which one host may join",
			permission: iam.HostsJoin, body: newJoinToken{}, bodyOptional: true, status: http.StatusCreated, result: JoinToken{}, handle: a.createJoinToken},
		{id: "get-ca", method: get, path: "/v1/ca", tag: "plane", summary: "Get the CA that signs databases' certificates (PEM)",
			permission: iam.PlaneRead, text: "application/x-pem-file", handle: a.getCA},
		{id: "get-status", method: get, path: "/v1/status", tag: "plane", summary: "What the plane says of itself",
			permission: iam.PlaneRead, result: Status{}, handle: a.getStatus},
		{id: "get-health", method: get, path: "/healthz", tag: "plane", summary: "Whether this server runs",
			result: health{}, handle: func(c *call) error { return c.send(http.StatusOK, health{"ok"}) }},
		{id: "get-readiness", method: get, path: "/readyz", tag: "plane", summary: "Whether this server can answer requests",
			result: health{}, handle: a.getReadiness},
	}
}

// listOf lists what is small enough to be listed whole. Without a name for each item they stay in the given order.
func listOf[T any](list func(context.Context) ([]*T, error), name func(*T) string) func(*call) error {
	if name == nil {
		name = func(*T) string { return "" }
	}
	return func(c *call) error {
		items, err := list(c.ctx())
		if err != nil {
			return err
		}
		return sendList(c, items, 0, name)
	}
}

func (a *API) listCatalogue(c *call) error {
	cat, err := a.Backend.Catalogue(c.ctx(), c.path("engine"), c.path("version"))
	if err != nil {
		return err
	}
	return sendList(c, pointers(cat.Parameters), 0, func(p *orrery.Parameter) string { return p.Name })
}

func (a *API) getPool(c *call) error {
	p, err := a.Backend.Pool(c.ctx(), c.path("pool"))
	if err != nil {
		return err
	}
	return sendObject(c, p)
}

func (a *API) listHosts(c *call) error {
	o, err := listOptions(c.values, "name", []string{"pool"})
	if err != nil {
		return err
	}
	page, err := a.Backend.ListHosts(c.ctx(), o)
	if err != nil {
		return err
	}
	return sendPage(c, o, page)
}

func (a *API) getHost(c *call) error {
	h, err := a.Backend.Host(c.ctx(), c.path("host"))
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, h)
}

func (a *API) updateHost(c *call) error {
	m, body, err := c.read()
	if err != nil {
		return err
	}
	var p hostPatchBody
	if err := decode(body, &p, refuseReadOnly); err != nil {
		return err
	}
	patch := HostPatch{Labels: p.Labels}
	if p.Spec != nil {
		t, err := parse(body)
		if err != nil {
			return err
		}
		fields, _ := t.(map[string]any)
		if patch.Spec, err = merger[orrery.HostSpec](fields["spec"], "spec"); err != nil {
			return err
		}
	}
	h, err := a.Backend.UpdateHost(c.ctx(), m, c.path("host"), patch)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, h)
}

func (a *API) createJoinToken(c *call) error {
	var n newJoinToken
	m, err := c.readInto(&n)
	if err != nil {
		return err
	}
	if n.ValidForSeconds == 0 {
		n.ValidForSeconds = 3600
	}
	if n.ValidForSeconds < 60 || n.ValidForSeconds > 7*24*3600 {
		return orrery.Invalid("valid_for_seconds", "a join token is valid for a minute to a week, not for %d seconds", n.ValidForSeconds)
	}
	t, err := a.Backend.CreateJoinToken(c.ctx(), m, time.Duration(n.ValidForSeconds)*time.Second)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, t)
}

func (a *API) getCA(c *call) error {
	pem, err := a.Backend.CA(c.ctx())
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = c.w.Write(pem) // the client went away
	return nil
}

func (a *API) getStatus(c *call) error {
	s, err := a.Backend.Status(c.ctx())
	if err != nil {
		return err
	}
	s.Version = a.Version
	a.watchMu.Lock()
	s.Watches = a.open
	a.watchMu.Unlock()
	return c.send(http.StatusOK, s)
}

func (a *API) getReadiness(c *call) error {
	if a.stopping.Err() != nil {
		return orrery.Errorf(orrery.KindUnavailable, "the server is stopping")
	}
	if err := a.Backend.Ready(c.ctx()); err != nil {
		return err
	}
	return c.send(http.StatusOK, health{"ready"})
}
