package control

import (
	"context"
	"fmt"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/store"
)

// Names of what a new plane has.
const (
	DefaultProject = "default"
	DefaultRegion  = "local"
	DefaultPool    = "local"
	DefaultPlan    = "small"
	bootstrapToken = "bootstrap"
)

// defaultPlans of a new plane. They are data: a plane's own plans are those in its store.
func defaultPlans() []orrery.Plan {
	plan := func(name string, cpu, memory, storage int64) orrery.Plan {
		return orrery.Plan{Meta: orrery.Meta{Name: name}, CPUMilli: cpu, MemoryMiB: memory, StorageGiB: storage}
	}
	return []orrery.Plan{
		plan("nano", 250, 256, 5), plan("small", 1000, 1024, 10), plan("medium", 2000, 4096, 50),
		plan("large", 4000, 16384, 200), plan("xlarge", 8000, 32768, 500), plan("2xlarge", 16000, 65536, 1000),
	}
}

// Defaults are the IDs of what a plane has to begin with.
type Defaults struct{ Project, Region, Pool string }

// EnsureDefaults makes what a plane needs to begin with, where it is missing: a project, a region, a pool, plans. Servers
// that start at once may all call it. A plan that was removed on purpose comes back only when no plan is left.
func (c *Control) EnsureDefaults(ctx context.Context, hypervisor string) (Defaults, error) {
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		err := ensure(tx, c.store.Projects, &orrery.Project{Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixProject), Name: DefaultProject},
			Description: "Made with the plane."})
		if err != nil {
			return err
		}
		if err := ensure(tx, c.store.Regions, &orrery.Region{Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixRegion), Name: DefaultRegion}}); err != nil {
			return err
		}
		if err := ensure(tx, c.store.Pools, &orrery.Pool{Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixPool), Name: DefaultPool},
			Spec: orrery.PoolSpec{Region: DefaultRegion, Hypervisor: hypervisor, CPUOvercommitPercent: 400, StorageOvercommitPercent: 400}}); err != nil {
			return err
		}
		if c.store.Plans.Len() > 0 {
			return nil
		}
		for _, p := range defaultPlans() {
			p.ID = orrery.NewID("plan")
			if err := ensure(tx, c.store.Plans, &p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Defaults{}, fmt.Errorf("make what a new plane has: %w", err)
	}
	var d Defaults
	for _, p := range c.store.Projects.By("name", DefaultProject) {
		d.Project = p.ID
	}
	for _, r := range c.store.Regions.By("name", DefaultRegion) {
		d.Region = r.ID
	}
	for _, p := range c.store.Pools.By("name", DefaultPool) {
		d.Pool = p.ID
	}
	return d, nil
}

// ensure inserts obj unless its name is there. A server that is faster makes the transaction run again, which then
// finds the name.
func ensure[T any, P store.Object[T]](tx *store.Tx, c *store.Collection[T, P], obj *T) error {
	if there, err := c.TxBy(tx, "name", P(obj).GetMeta().Name); err != nil || len(there) > 0 {
		return err
	}
	return c.Insert(tx, obj)
}

// EnsureBootstrapToken makes the first administrator's token at the first start of a plane, and gives its bearer text,
// for the caller to write into a file that only the owner can read. It gives "" where it was made before, even if it
// was revoked since.
func (c *Control) EnsureBootstrapToken(ctx context.Context) (string, error) {
	bearer := ""
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		bearer = ""
		there, err := c.store.Tokens.TxBy(tx, "name", bootstrapToken)
		if err != nil || len(there) > 0 {
			return err
		}
		token, text := iam.NewToken(bootstrapToken, iam.RoleAdmin, nil)
		bearer = text
		return c.store.Tokens.Insert(tx, token)
	})
	if err != nil {
		return "", fmt.Errorf("make the bootstrap token: %w", err)
	}
	return bearer, nil
}

// ReplaceBootstrapToken makes a new one for whoever has the plane's folder and lost the first one's text. The old one
// is good for nothing from then on.
func (c *Control) ReplaceBootstrapToken(ctx context.Context) (string, error) {
	bearer := ""
	_, err := c.store.Update(ctx, func(tx *store.Tx) error {
		there, err := c.store.Tokens.TxBy(tx, "name", bootstrapToken)
		if err != nil {
			return err
		}
		for _, t := range there {
			if err := c.store.Tokens.Delete(tx, t.ID); err != nil {
				return err
			}
		}
		token, text := iam.NewToken(bootstrapToken, iam.RoleAdmin, nil)
		bearer = text
		return c.store.Tokens.Insert(tx, token)
	})
	if err != nil {
		return "", fmt.Errorf("replace the bootstrap token: %w", err)
	}
	return bearer, nil
}

// sweepEvery is how often leftovers are looked for.
const sweepEvery = 10 * time.Minute

// Run removes what has outlived its time (kept answers, used and expired tokens) until ctx ends. Every server may run it.
func (c *Control) Run(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if n, err := c.sweep(ctx); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "leftovers could not be removed", "removed", n, "error", err)
			}
		}
	}
}

// tokensKept is how long a revoked or expired token stays listed.
const tokensKept = 30 * 24 * time.Hour

func (c *Control) sweep(ctx context.Context) (int, error) {
	now := c.now()
	removed := 0
	for r := range c.store.Requests.After("") {
		if now.Before(r.ExpiresAt) {
			continue
		}
		if err := remove(ctx, c.store, c.store.Requests, r.ID); err != nil {
			return removed, err
		}
		removed++
	}
	for _, t := range c.store.Tokens.List() {
		old := func(at *time.Time) bool { return at != nil && now.After(at.Add(tokensKept)) }
		if t.Name == bootstrapToken || !old(t.RevokedAt) && !old(t.ExpiresAt) {
			continue
		}
		if err := remove(ctx, c.store, c.store.Tokens, t.ID); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// remove deletes an object that another server may have deleted first.
func remove[T any, P store.Object[T]](ctx context.Context, s *store.Store, c *store.Collection[T, P], id string) error {
	_, err := s.Update(ctx, func(tx *store.Tx) error { return c.Delete(tx, id) })
	if err != nil && orrery.KindOf(err) == orrery.KindNotFound {
		return nil
	}
	return err
}
