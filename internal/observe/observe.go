// Package observe says what the states of a datastore's instances add up to. It is pure; whoever learns of a change
// (the hub from a report, a job at its end) calls it and stores what it gives.
package observe

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/orrery-db/orrery"
)

// Serves tells whether an instance does its part: its database runs in the role it should have and, as a replica,
// streams.
func Serves(in *orrery.Instance) bool {
	db := in.Status.Database
	if in.Spec.Absent || db.State != orrery.DatabaseRunning || db.Role != in.Spec.Role {
		return false
	}
	return in.Spec.Role == orrery.RolePrimary || db.Streaming
}

// Datastore derives a datastore's status. now stamps AvailableSince where the state becomes available.
func Datastore(ds *orrery.Datastore, instances []*orrery.Instance, now time.Time) orrery.DatastoreStatus {
	members := slices.DeleteFunc(slices.Clone(instances), func(in *orrery.Instance) bool { return in.Spec.Absent })
	slices.SortFunc(members, func(a, b *orrery.Instance) int {
		return cmp.Or(cmp.Compare(roleRank(a), roleRank(b)), cmp.Compare(a.Spec.Ordinal, b.Spec.Ordinal))
	})
	st := orrery.DatastoreStatus{Term: ds.Status.Term, AvailableSince: ds.Status.AvailableSince}
	stopped := 0
	for i, in := range members {
		db := in.Status.Database
		if i == 0 || db.AppliedGeneration < st.ObservedGeneration {
			st.ObservedGeneration = db.AppliedGeneration
		}
		if db.State == orrery.DatabaseStopped {
			stopped++
		}
		if Serves(in) {
			st.ReadyInstances++
			if in.Spec.Role == orrery.RolePrimary {
				st.Primary = in.ID
			}
		}
		if in.Status.Place.Port != 0 {
			role := orrery.EndpointReplica
			if in.Spec.Role == orrery.RolePrimary {
				role = orrery.EndpointPrimary
			}
			st.Endpoints = append(st.Endpoints, orrery.Endpoint{Instance: in.ID, Role: role,
				Address: in.Status.Place.Address, Port: in.Status.Place.Port})
		}
	}
	st.State, st.Message = state(ds, st, members, stopped)
	if st.State != orrery.DatastoreAvailable {
		st.AvailableSince = nil
	} else if st.AvailableSince == nil {
		st.AvailableSince = &now
	}
	return st
}

func state(ds *orrery.Datastore, st orrery.DatastoreStatus, members []*orrery.Instance, stopped int) (orrery.DatastoreState, string) {
	switch {
	case ds.DeletingAt != nil:
		return orrery.DatastoreDeleting, ""
	case ds.Applied == nil:
		return orrery.DatastoreCreating, trouble(members)
	case ds.AppliedGeneration < ds.Generation:
		return orrery.DatastoreUpdating, trouble(members)
	case ds.Spec.Paused && stopped == len(members):
		return orrery.DatastorePaused, ""
	case st.Primary == "":
		return orrery.DatastoreDown, cmp.Or(trouble(members), "no primary accepts writes")
	case st.ReadyInstances < ds.Spec.Instances:
		return orrery.DatastoreDegraded, cmp.Or(trouble(members), fmt.Sprintf("%d of %d instances serve", st.ReadyInstances, ds.Spec.Instances))
	}
	return orrery.DatastoreAvailable, ""
}

// trouble gives what the first instance in trouble says.
func trouble(members []*orrery.Instance) string {
	for _, in := range members {
		if !Serves(in) {
			if m := cmp.Or(in.Status.Database.Message, in.Status.Place.Message); m != "" {
				return in.Name + ": " + m
			}
		}
	}
	return ""
}

func roleRank(in *orrery.Instance) int {
	if in.Spec.Role == orrery.RolePrimary {
		return 0
	}
	return 1
}

// Equal tells whether two statuses say the same.
func Equal(a, b orrery.DatastoreStatus) bool {
	return a.State == b.State && a.Message == b.Message && a.Primary == b.Primary && a.Term == b.Term &&
		a.ReadyInstances == b.ReadyInstances && a.ObservedGeneration == b.ObservedGeneration &&
		slices.Equal(a.Endpoints, b.Endpoints) && (a.AvailableSince == nil) == (b.AvailableSince == nil)
}
