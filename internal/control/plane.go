package control

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/store"
)

// Engines lists engines with the versions that hosts offer.
func (c *Control) Engines(context.Context) ([]*orrery.Engine, error) {
	out := make([]*orrery.Engine, 0, len(c.engines))
	for _, name := range slices.Sorted(maps.Keys(c.engines)) {
		def := c.engines[name]
		e := def.Engine()
		e.Versions = c.offered(def)
		if e.Versions == nil {
			e.Versions = []string{}
		}
		if n := len(e.Versions); n > 0 {
			e.Default = e.Versions[n-1]
		}
		out = append(out, &e)
	}
	return out, nil
}

func (c *Control) plans() []*orrery.Plan {
	list := c.store.Plans.List()
	slices.SortFunc(list, func(a, b *orrery.Plan) int {
		return cmp.Or(cmp.Compare(a.MemoryMiB, b.MemoryMiB), cmp.Compare(a.CPUMilli, b.CPUMilli), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// Plans lists plans, smallest first.
func (c *Control) Plans(context.Context) ([]*orrery.Plan, error) { return c.plans(), nil }

// Regions lists regions.
func (c *Control) Regions(context.Context) ([]*orrery.Region, error) {
	return c.store.Regions.List(), nil
}

// Pools lists pools.
func (c *Control) Pools(context.Context) ([]*orrery.Pool, error) { return c.store.Pools.List(), nil }

// Pool gives one pool.
func (c *Control) Pool(_ context.Context, pool string) (*orrery.Pool, error) {
	return find(c.store.Pools, "pool", orrery.PrefixPool, "", pool)
}

// ListHosts lists hosts.
func (c *Control) ListHosts(_ context.Context, o api.ListOptions) (api.Page[orrery.Host], error) {
	revision := c.store.Revision()
	items := c.store.Hosts.List()
	if pool, ok := o.Filter["pool"]; ok {
		p, err := find(c.store.Pools, "pool", orrery.PrefixPool, "", pool)
		if err != nil {
			return api.Page[orrery.Host]{}, err
		}
		items = c.store.Hosts.By("pool", p.ID)
	}
	page := selected(items, o, revision, func(*orrery.Host) bool { return true })
	for i, h := range page.Items {
		page.Items[i] = c.seen(h)
	}
	return page, nil
}

// Host gives one host.
func (c *Control) Host(_ context.Context, host string) (*orrery.Host, error) {
	h, err := find(c.store.Hosts, "host", orrery.PrefixHost, "", host)
	if err != nil {
		return nil, err
	}
	return c.seen(h), nil
}

// seen gives a host as users see it: with whether a server holds its session, and without what proves its agent.
func (c *Control) seen(h *orrery.Host) *orrery.Host {
	out := *h
	_, out.Status.Connected = c.store.Presences.Get(h.ID)
	out.AgentKey = ""
	return &out
}

// UpdateHost changes a host's labels and spec.
func (c *Control) UpdateHost(ctx context.Context, m api.Mutation, host string, p api.HostPatch) (*orrery.Host, error) {
	found, err := find(c.store.Hosts, "host", orrery.PrefixHost, "", host)
	if err != nil {
		return nil, err
	}
	h, _, err := mutate(ctx, c, m, same, func(tx *store.Tx) (*orrery.Host, error) {
		h, err := c.store.Hosts.TxGet(tx, found.ID)
		if err != nil {
			return nil, err
		}
		if err := checkMatch(m, &h.Meta); err != nil {
			return nil, err
		}
		if h.Labels, err = checkLabels(h.Labels, p.Labels); err != nil {
			return nil, err
		}
		if p.Spec != nil {
			next, err := p.Spec(h.Spec)
			if err != nil {
				return nil, err
			}
			pool, err := find(c.store.Pools, "pool", orrery.PrefixPool, "", next.Pool)
			if err != nil {
				return nil, orrery.Invalid("spec.pool", "there is no pool %q", orrery.Shorten(next.Pool, 60)).WithCode("pool_unknown")
			}
			next.Pool = pool.ID
			if next.Pool != h.Spec.Pool && len(c.store.Instances.By("host", h.ID)) > 0 {
				return nil, orrery.Errorf(orrery.KindConflict, "host %q has instances, and cannot go to another pool", h.Name).WithCode("host_in_use")
			}
			if next != h.Spec {
				h.Spec = next
				h.Generation++
			}
		}
		return h, c.store.Hosts.Put(tx, h)
	})
	if err != nil {
		return nil, err
	}
	return c.seen(h), nil
}

// CreateJoinToken makes a one-time token with which one host may join. Whoever lets the host in uses it up; see
// iam.CheckJoinToken.
func (c *Control) CreateJoinToken(ctx context.Context, m api.Mutation, validFor time.Duration) (api.JoinToken, error) {
	expires := c.now().UTC().Add(validFor).Truncate(time.Second)
	m.Key = "" // a token that cannot be shown again is of no use: a repeated request gets another, and the first runs out
	token, text := iam.NewJoinToken("", c.fingerprint, expires)
	token.Name = "join-" + token.ID[len(orrery.PrefixToken)+1:]
	made, _, err := mutate(ctx, c, m, same, func(tx *store.Tx) (api.JoinToken, error) {
		obj := *token
		return api.JoinToken{Token: text, ExpiresAt: expires}, c.store.Tokens.Insert(tx, &obj)
	})
	return made, err
}

// CA is the certificate of the CA that signs databases' certificates.
func (c *Control) CA(context.Context) ([]byte, error) { return c.dataCA, nil }

// Status is what this server says of the plane.
func (c *Control) Status(context.Context) (api.Status, error) {
	s := api.Status{Server: c.server, StartedAt: c.started, Revision: c.store.Revision(), Writable: true, Counts: map[string]int{
		"projects": c.store.Projects.Len(), "datastores": c.store.Datastores.Len(), "instances": c.store.Instances.Len(),
		"hosts": c.store.Hosts.Len(), "jobs": c.store.Jobs.Len(), "events": c.store.Events.Len()}}
	if err := c.store.CheckWritable(); err != nil {
		s.Writable = false
		s.Message = err.Error()
		if e, ok := errors.AsType[*orrery.Error](err); ok {
			s.Message, s.Hint = e.Message, e.Hint
		}
	}
	return s, nil
}

// Ready returns nil: a server has its state in memory before it listens, and answers reads without etcd.
func (c *Control) Ready(context.Context) error { return nil }

// ListTokens lists tokens of the API without their hashes.
func (c *Control) ListTokens(context.Context) ([]*orrery.Token, error) {
	var out []*orrery.Token
	for _, t := range c.store.Tokens.List() {
		if iam.Role(t.Role) != iam.RoleHostJoin {
			out = append(out, shownToken(t))
		}
	}
	return out, nil
}

func shownToken(t *orrery.Token) *orrery.Token {
	out := *t
	out.Hash = ""
	return &out
}

// CreateToken makes a token.
func (c *Control) CreateToken(ctx context.Context, m api.Mutation, n api.NewToken) (api.MadeToken, error) {
	var none api.MadeToken
	if err := orrery.CheckName("name", n.Name); err != nil {
		return none, err
	}
	if n.Role == "" {
		n.Role = string(iam.RoleViewer)
	}
	if err := iam.CheckRole("role", n.Role); err != nil {
		return none, err
	}
	if n.ExpiresAt != nil && !n.ExpiresAt.After(c.now()) {
		return none, orrery.Invalid("expires_at", "this is in the past")
	}
	if strings.HasPrefix(n.Name, "join-") || n.Name == bootstrapToken {
		return none, orrery.Invalid("name", "the name %q is Orrery's own", n.Name).WithCode("name_reserved").WithHint("Choose another name.")
	}
	token, bearer := iam.NewToken(n.Name, iam.Role(n.Role), n.ExpiresAt)
	shown := func(t api.MadeToken) api.MadeToken {
		return api.MadeToken{Token: t.Token, Hint: "The secret was shown once, with the first answer to this request, and is not kept. Revoke the token and make another if it was lost."}
	}
	made, _, err := mutate(ctx, c, m, shown, func(tx *store.Tx) (api.MadeToken, error) {
		obj := *token
		if err := c.store.Tokens.Insert(tx, &obj); err != nil {
			return none, nameTaken(err)
		}
		return api.MadeToken{Token: shownToken(&obj), Secret: bearer}, nil
	})
	return made, err
}

// RevokeToken makes a token good for nothing, at once. Its name is free again.
func (c *Control) RevokeToken(ctx context.Context, m api.Mutation, nameOrID string) error {
	found, err := find(c.store.Tokens, "token", orrery.PrefixToken, "", nameOrID)
	if err != nil {
		return err
	}
	_, _, err = mutate(ctx, c, m, same, func(tx *store.Tx) (struct{}, error) {
		t, err := c.store.Tokens.TxGet(tx, found.ID)
		if err != nil || t.RevokedAt != nil {
			return struct{}{}, err
		}
		now := c.now().UTC()
		t.RevokedAt = &now
		if t.Name != bootstrapToken { // whose name tells that it was made
			t.Name += "-revoked-" + t.ID[len(t.ID)-6:]
		}
		return struct{}{}, c.store.Tokens.Put(tx, t)
	})
	return err
}
