package step_test

import (
	"context"
	"sync"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/observe"
	"github.com/orrery-db/orrery/internal/store"
)

// robot plays the agents and keepers of a whole fleet at the only place where steps meet them: it reads what instances
// should be from the store, and writes what they then are.
type robot struct {
	store *store.Store
	t     testing.TB

	mu     sync.Mutex
	places map[string]bool // instances whose place exists: what would be processes and folders
	port   int
	reject string // parameter that databases refuse
}

func startRobot(t testing.TB, st *store.Store) *robot {
	r := &robot{store: st, t: t, places: map[string]bool{}, port: 17000}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = st.WaitFor(ctx, func(ch store.Change) bool { return ch.Collection == "instances" || ch.Collection == "datastores" }, func() (bool, error) {
			for _, in := range st.Instances.List() {
				r.converge(ctx, in.ID)
			}
			return false, nil
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

// converge brings one instance to what it should be, in one write.
func (r *robot) converge(ctx context.Context, id string) {
	_, err := r.store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		in, err := r.store.Instances.TxGet(tx, id)
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		ds, err := r.store.Datastores.TxGet(tx, in.Spec.Datastore)
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		status := in.Status
		if in.Spec.Absent {
			status = orrery.InstanceStatus{Place: orrery.PlaceStatus{State: orrery.PlaceAbsent}}
			r.set(id, false)
		} else {
			r.set(id, true)
			if status.Place.Port == 0 {
				status.Place = orrery.PlaceStatus{State: orrery.PlaceRunning, ID: "pl-" + id, Address: "127.0.0.1", Port: r.nextPort()}
			}
			status.Database = r.database(ds, in)
		}
		if status.Place == in.Status.Place && same(status.Database, in.Status.Database) {
			return nil
		}
		in.Status = status
		if err := r.store.Instances.Put(tx, in); err != nil {
			return err
		}
		members, err := r.store.Instances.TxBy(tx, "datastore", ds.ID)
		if err != nil {
			return err
		}
		ds.Status = observe.Datastore(ds, members, tx.Now())
		return r.store.Datastores.Put(tx, ds)
	})
	if err != nil && ctx.Err() == nil {
		r.t.Logf("robot: %v", err)
	}
}

func (r *robot) database(ds *orrery.Datastore, in *orrery.Instance) orrery.DatabaseStatus {
	db := orrery.DatabaseStatus{State: orrery.DatabaseRunning, Role: in.Spec.Role, Version: "15.1", SystemID: ds.ID,
		Streaming: in.Spec.Role == orrery.RoleReplica, AppliedGeneration: ds.Generation, AppliedSpec: in.Generation, AppliedRestartSeq: in.Spec.RestartSeq}
	if in.Spec.Stopped {
		db.State, db.Streaming = orrery.DatabaseStopped, false
	}
	if ds.Spec.Parameters["max_connections"] != "" && in.Spec.RestartSeq == 0 {
		db.PendingRestart = []string{"max_connections"}
	}
	if v, set := ds.Spec.Parameters[r.reject]; set && r.reject != "" {
		db.ErrorCode, db.Message = "parameter_rejected", "it says no to "+r.reject+" = "+v
		db.AppliedGeneration = in.Status.Database.AppliedGeneration
	}
	return db
}

func (r *robot) set(id string, there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if there {
		r.places[id] = true
	} else {
		delete(r.places, id)
	}
}

func (r *robot) left() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.places {
		ids = append(ids, id)
	}
	return ids
}

func (r *robot) nextPort() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.port++
	return r.port
}

func same(a, b orrery.DatabaseStatus) bool {
	return a.State == b.State && a.Role == b.Role && a.Streaming == b.Streaming && a.AppliedGeneration == b.AppliedGeneration && a.AppliedSpec == b.AppliedSpec &&
		a.AppliedRestartSeq == b.AppliedRestartSeq && len(a.PendingRestart) == len(b.PendingRestart) && a.ErrorCode == b.ErrorCode
}
