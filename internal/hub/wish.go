package hub

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/session"
)

// facts is what a keeper's wish is made from.
type facts struct {
	datastore *orrery.Datastore
	instance  *orrery.Instance
	members   []*orrery.Instance // all of the datastore's, with instance
	plan      *orrery.Plan
	secrets   map[string]string // secret form by user name
	member    string            // the secret that members share
	address   string            // of the instance's host
}

// keeperWish is pure: the same facts give the same wish.
func keeperWish(f facts) session.KeeperWish {
	spec, in := f.datastore.Spec, f.instance
	d := engine.Desired{
		Generation: f.datastore.Generation, InstanceGeneration: in.Generation, Datastore: f.datastore.ID, Instance: in.ID,
		Role: in.Spec.Role, Stopped: in.Spec.Stopped, RestartSeq: in.Spec.RestartSeq,
		Replication: spec.Replication, Address: f.address, // the port is the place's: the keeper knows it before we do
		CPUMilli: f.plan.CPUMilli, MemoryMiB: f.plan.MemoryMiB, StorageGiB: int64(in.Spec.StorageGiB),
		Parameters: spec.Parameters, Databases: databases(spec), MemberSecret: f.member,
	}
	for _, u := range spec.Users {
		if secret, ok := f.secrets[u.Name]; ok {
			d.Users = append(d.Users, engine.DesiredUser{User: u, Secret: secret})
		}
	}
	for _, t := range spec.TrustedSources {
		if p, err := netip.ParsePrefix(t.CIDR); err == nil { // checked when it was stored
			d.TrustedSources = append(d.TrustedSources, p)
		}
	}
	members := slices.SortedFunc(slices.Values(f.members), func(a, b *orrery.Instance) int { return cmp.Compare(a.Spec.Ordinal, b.Spec.Ordinal) })
	for _, m := range members {
		if m.ID == in.ID || m.Spec.Absent {
			continue
		}
		peer := engine.Peer{Instance: m.ID, Role: m.Spec.Role, Address: m.Status.Place.Address, Port: m.Status.Place.Port}
		d.Peers = append(d.Peers, peer)
		if m.Spec.Role != orrery.RolePrimary {
			continue
		}
		d.SystemID = m.Status.Database.SystemID
		// A replica is told of its primary once that has served, so that it need not try in vain.
		if in.Spec.Role == orrery.RoleReplica && peer.Port != 0 && d.SystemID != "" {
			d.Primary = &peer
		}
	}
	return session.KeeperWish{Desired: d}
}

// databases gives each database its owner: the first user with admin access where none is named.
func databases(spec orrery.DatastoreSpec) []orrery.Database {
	out := slices.Clone(spec.Databases)
	admin := slices.IndexFunc(spec.Users, func(u orrery.User) bool { return u.Access == orrery.AccessAdmin })
	for i := range out {
		if out[i].Owner == "" && admin >= 0 {
			out[i].Owner = spec.Users[admin].Name
		}
	}
	return out
}

// placeWish is the place of one instance. While a change is under way the place has the larger of what the instance had
// and will have: a database that still runs with its old settings must not meet a smaller limit.
func placeWish(ds *orrery.Datastore, in *orrery.Instance, now, was *orrery.Plan, token string) session.PlaceWish {
	w := session.PlaceWish{
		Instance: in.ID, Datastore: in.Spec.Datastore, Absent: in.Spec.Absent, JoinToken: token,
		CPUMilli: now.CPUMilli, MemoryMiB: now.MemoryMiB, StorageGiB: int64(in.Spec.StorageGiB),
	}
	if in.Status.Database.SystemID == "" {
		w.CPUMilli = 0 // until it has served once: making it is the plane's work and shall not crawl
	}
	if ds != nil {
		w.Engine, w.Version = ds.Spec.Engine, ds.Spec.Version
		if ds.Applied != nil && ds.AppliedGeneration < ds.Generation && was != nil {
			w.MemoryMiB = max(w.MemoryMiB, was.MemoryMiB)
		}
	}
	return w
}
