package observe_test

import (
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/observe"
)

func instance(ordinal int, role orrery.Role, state orrery.DatabaseState) *orrery.Instance {
	return &orrery.Instance{Meta: orrery.Meta{ID: "in-" + string(rune('0'+ordinal)), Name: "d"},
		Spec: orrery.InstanceSpec{Ordinal: ordinal, Role: role},
		Status: orrery.InstanceStatus{
			Place:    orrery.PlaceStatus{State: orrery.PlaceRunning, Address: "127.0.0.1", Port: 17000 + ordinal},
			Database: orrery.DatabaseStatus{State: state, Role: role, Streaming: role == orrery.RoleReplica, AppliedGeneration: 2}}}
}

func TestDatastore(t *testing.T) {
	run, stop := orrery.DatabaseRunning, orrery.DatabaseStopped
	spec := orrery.DatastoreSpec{Instances: 2}
	now := time.Now()
	for _, c := range []struct {
		name    string
		change  func(*orrery.Datastore)
		members []*orrery.Instance
		want    orrery.DatastoreState
		primary string
		ready   int
	}{
		{"available", nil, []*orrery.Instance{instance(2, orrery.RoleReplica, run), instance(1, orrery.RolePrimary, run)}, orrery.DatastoreAvailable, "in-1", 2},
		{"degraded", nil, []*orrery.Instance{instance(1, orrery.RolePrimary, run), instance(2, orrery.RoleReplica, stop)}, orrery.DatastoreDegraded, "in-1", 1},
		{"down", nil, []*orrery.Instance{instance(1, orrery.RolePrimary, orrery.DatabaseFailing), instance(2, orrery.RoleReplica, run)}, orrery.DatastoreDown, "", 1},
		{"creating", func(d *orrery.Datastore) { d.Applied = nil }, nil, orrery.DatastoreCreating, "", 0},
		{"updating", func(d *orrery.Datastore) { d.Generation = 3 }, []*orrery.Instance{instance(1, orrery.RolePrimary, run)}, orrery.DatastoreUpdating, "in-1", 1},
		{"deleting", func(d *orrery.Datastore) { d.DeletingAt = &now }, nil, orrery.DatastoreDeleting, "", 0},
		{"paused", func(d *orrery.Datastore) { d.Spec.Paused = true }, []*orrery.Instance{instance(1, orrery.RolePrimary, stop), instance(2, orrery.RoleReplica, stop)}, orrery.DatastorePaused, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			ds := &orrery.Datastore{Meta: orrery.Meta{Generation: 2}, Spec: spec, Applied: &spec, AppliedGeneration: 2}
			if c.change != nil {
				c.change(ds)
			}
			st := observe.Datastore(ds, c.members, now)
			if st.State != c.want || st.Primary != c.primary || st.ReadyInstances != c.ready {
				t.Errorf("got %+v, want state %s, primary %q, %d ready", st, c.want, c.primary, c.ready)
			}
			if (st.AvailableSince != nil) != (c.want == orrery.DatastoreAvailable) {
				t.Errorf("available since %v in state %s", st.AvailableSince, st.State)
			}
			if len(st.Endpoints) > 0 && st.Endpoints[0].Role != orrery.EndpointPrimary {
				t.Errorf("the primary is not first: %+v", st.Endpoints)
			}
		})
	}
}
