package hub

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/observe"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/store"
)

// reportAgent writes what an agent sees, where it differs from what is stored: one transaction for all of it.
func (h *Hub) reportAgent(ctx context.Context, host string, r session.AgentReport) error {
	if err := h.catalogues(ctx, r.Catalogues); err != nil {
		return err
	}
	stored, ok := h.Store.Hosts.Get(host)
	if !ok {
		return orrery.NotFound("host", host)
	}
	hostChanged := !sameHost(stored.Status, r.Host)
	var changed []string
	for id, place := range r.Places {
		in, ok := h.Store.Instances.Get(id)
		if ok && in.Spec.Host == host && in.Status.Place != withAddress(place, r.Host.Address) {
			changed = append(changed, id)
		}
	}
	if !hostChanged && len(changed) == 0 {
		return nil
	}
	slices.Sort(changed)
	_, err := h.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		if hostChanged {
			hst, err := h.Store.Hosts.TxGet(tx, host)
			if err != nil {
				return err
			}
			joined := hst.Status.JoinedAt
			hst.Status = r.Host
			hst.Status.JoinedAt, hst.Status.Connected = joined, false
			if err := h.Store.Hosts.Put(tx, hst); err != nil {
				return err
			}
		}
		return h.putInstances(tx, changed, func(in *orrery.Instance) bool {
			place := withAddress(r.Places[in.ID], r.Host.Address)
			if in.Spec.Host != host || in.Status.Place == place {
				return false
			}
			in.Status.Place = place
			return true
		})
	})
	if err != nil {
		return fmt.Errorf("write the report of host %s: %w", host, err)
	}
	return nil
}

// reportKeeper writes what a keeper sees, where it differs from what is stored.
func (h *Hub) reportKeeper(ctx context.Context, instance string, r session.KeeperReport) error {
	if r.Catalogue != nil {
		if err := h.catalogues(ctx, []orrery.ParameterCatalogue{*r.Catalogue}); err != nil {
			return err
		}
	}
	if in, ok := h.Store.Instances.Get(instance); ok && sameDatabase(in.Status.Database, r.Database) {
		return nil
	}
	_, err := h.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		return h.putInstances(tx, []string{instance}, func(in *orrery.Instance) bool {
			if sameDatabase(in.Status.Database, r.Database) {
				return false
			}
			in.Status.Database = r.Database
			return true
		})
	})
	if err != nil {
		return fmt.Errorf("write the report of instance %s: %w", instance, err)
	}
	return nil
}

// putInstances changes instances and, in the same transaction, what their datastores' statuses say.
func (h *Hub) putInstances(tx *store.Tx, ids []string, change func(*orrery.Instance) bool) error {
	touched := map[string][]*orrery.Instance{}
	for _, id := range ids {
		in, err := h.Store.Instances.TxGet(tx, id)
		if orrery.KindOf(err) == orrery.KindNotFound && err != nil {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		if !change(in) {
			continue
		}
		if err := h.Store.Instances.Put(tx, in); err != nil {
			return err
		}
		touched[in.Spec.Datastore] = append(touched[in.Spec.Datastore], in)
	}
	for _, id := range slices.Sorted(maps.Keys(touched)) {
		ds, err := h.Store.Datastores.TxGet(tx, id)
		if err != nil {
			if orrery.KindOf(err) == orrery.KindNotFound {
				continue
			}
			return err
		}
		members, err := h.Store.Instances.TxBy(tx, "datastore", id)
		if err != nil {
			return err
		}
		status := observe.Datastore(ds, members, h.Now())
		if observe.Equal(ds.Status, status) {
			continue
		}
		ds.Status = status
		if err := h.Store.Datastores.Put(tx, ds); err != nil {
			return err
		}
	}
	return nil
}

// catalogues keeps what a version says of its parameters, once for each full version.
func (h *Hub) catalogues(ctx context.Context, list []orrery.ParameterCatalogue) error {
	for _, c := range list {
		name := c.Engine + "-" + c.Version
		if have := h.Store.Catalogues.By("name", name); len(have) > 0 && have[0].Full == c.Full {
			continue
		}
		_, err := h.Store.Update(ctx, func(tx *store.Tx) error {
			if old, err := h.Store.Catalogues.TxGet(tx, name); err == nil {
				old.Full, old.Parameters = c.Full, c.Parameters
				return h.Store.Catalogues.Put(tx, old)
			}
			fresh := c
			fresh.Meta = orrery.Meta{ID: name, Name: name, Generation: 1}
			return h.Store.Catalogues.Insert(tx, &fresh)
		})
		if err != nil && orrery.KindOf(err) != orrery.KindConflict { // another server was first
			return fmt.Errorf("keep the parameter catalogue of %s: %w", name, err)
		}
	}
	return nil
}

func withAddress(p orrery.PlaceStatus, address string) orrery.PlaceStatus {
	p.Address = cmp.Or(p.Address, address)
	if p.State == orrery.PlaceAbsent {
		p.Address = ""
	}
	return p
}

func sameHost(a, b orrery.HostStatus) bool {
	a.JoinedAt, a.Connected = b.JoinedAt, b.Connected
	return reflect.DeepEqual(a, b)
}

func sameDatabase(a, b orrery.DatabaseStatus) bool {
	if a.StartedAt != nil && b.StartedAt != nil && a.StartedAt.Equal(*b.StartedAt) {
		a.StartedAt = b.StartedAt
	}
	return reflect.DeepEqual(a, b)
}
