package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// cases are run on each sort of etcd; see backends_test.go. Each gets an empty state.
var cases = map[string]func(t *testing.T, cfg store.Config){
	"own writes show at once":       ownWritesShowAtOnce,
	"failed transactions leave all": failedTransactionsLeaveAll,
	"a transaction sees itself":     transactionSeesItself,
	"conflicts are retried":         conflictsAreRetried,
	"names are unique":              namesAreUnique,
	"unchanged is not written":      unchangedIsNotWritten,
	"secrets":                       secrets,
	"leased objects vanish":         leasedObjectsVanish,
	"a lost lease is told":          lostLeaseIsTold,
	"three stores agree":            threeStoresAgree,
	"watch replays":                 watchReplays,
	"compaction is survived":        compactionIsSurvived,
	"snapshot and restore":          snapshotAndRestore,
}

func datastore(project, name string) *orrery.Datastore {
	return &orrery.Datastore{
		Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixDatastore), Name: name, Project: project},
		Spec: orrery.DatastoreSpec{Engine: "postgres", Version: "15", Instances: 1, Parameters: map[string]string{"a": "b"}},
	}
}

func update(t testing.TB, s *store.Store, fn func(tx *store.Tx) error) int64 {
	t.Helper()
	rev, err := s.Update(context.Background(), fn)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func insert(t testing.TB, s *store.Store, ds *orrery.Datastore) int64 {
	t.Helper()
	return update(t, s, func(tx *store.Tx) error { return s.Datastores.Insert(tx, ds) })
}

// change is a fn for Update that changes one datastore.
func change(s *store.Store, id string, how func(ds *orrery.Datastore)) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		ds, err := s.Datastores.TxGet(tx, id)
		if err != nil {
			return err
		}
		how(ds)
		return s.Datastores.Put(tx, ds)
	}
}

// eventually waits until cond is true in a store that learns of it from another.
func eventually(t testing.TB, s *store.Store, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.WaitFor(ctx, nil, func() (bool, error) { return cond(), nil }); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, kind orrery.ErrorKind, code string) {
	t.Helper()
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok || e.Kind != kind || e.Code != code {
		t.Fatalf("error is %v, want kind %s and code %s", err, kind, code)
	}
}

func ownWritesShowAtOnce(t *testing.T, cfg store.Config) {
	s := storetest.Open(t, cfg)
	for i := range 50 {
		ds := datastore("pr-1", fmt.Sprintf("db%02d", i))
		rev := insert(t, s, ds)
		got, ok := s.Datastores.Get(ds.ID)
		if !ok || got.Name != ds.Name || got.Revision != rev || ds.Revision != rev || got.Generation != 1 || got.CreatedAt.IsZero() {
			t.Fatalf("after insert at %d: %+v", rev, got)
		}
		if by := s.Datastores.By("name", "pr-1/"+ds.Name); len(by) != 1 || by[0] != got {
			t.Fatalf("by name: %v", by)
		}
		if s.Revision() < rev {
			t.Fatalf("the store shows %d after a write at %d", s.Revision(), rev)
		}
	}
	if n := s.Datastores.CountBy("project", "pr-1"); n != 50 || s.Datastores.Len() != 50 {
		t.Fatalf("%d in the project, %d in all", n, s.Datastores.Len())
	}
	list := s.Datastores.List()
	i := 0
	for ds := range s.Datastores.After("") {
		if ds != list[i] || i > 0 && list[i-1].ID >= ds.ID {
			t.Fatal("the list is not in the order of IDs")
		}
		i++
	}
	var names []string
	for _, ds := range s.Datastores.Prefix("name", "pr-1/", "pr-1/db46") {
		names = append(names, ds.Name)
	}
	if i != 50 || fmt.Sprint(names) != "[db47 db48 db49]" {
		t.Fatalf("%d iterated, behind db46: %v", i, names)
	}
}

func failedTransactionsLeaveAll(t *testing.T, cfg store.Config) {
	s := storetest.Open(t, cfg)
	ds := datastore("pr-1", "demo")
	insert(t, s, ds)
	before, _ := s.Datastores.Get(ds.ID)
	boom := errors.New("boom")
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.Parameters["a"] = "changed" })(tx), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if after, _ := s.Datastores.Get(ds.ID); after != before || after.Spec.Parameters["a"] != "b" {
		t.Fatalf("a failed transaction shows: %+v", after.Spec)
	}
	_, err = s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Put(tx, ds) })
	wantCode(t, err, orrery.KindInternal, "internal") // was not read
	_, err = s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Delete(tx, "ds-none") })
	wantCode(t, err, orrery.KindNotFound, "datastore_not_found")
}

func transactionSeesItself(t *testing.T, cfg store.Config) {
	s := storetest.Open(t, cfg)
	old, fresh := datastore("pr-1", "old"), datastore("pr-1", "fresh")
	insert(t, s, old)
	names := func(tx *store.Tx) string {
		all, err := s.Datastores.TxBy(tx, "project", "pr-1")
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, ds := range all {
			out[ds.Name] = true
		}
		return fmt.Sprint(out)
	}
	update(t, s, func(tx *store.Tx) error {
		if err := s.Datastores.Insert(tx, fresh); err != nil {
			return err
		}
		if got := names(tx); got != "map[fresh:true old:true]" {
			t.Errorf("after insert: %s", got)
		}
		if err := s.Datastores.Delete(tx, old.ID); err != nil {
			return err
		}
		if got := names(tx); got != "map[fresh:true]" {
			t.Errorf("after delete: %s", got)
		}
		_, err := s.Datastores.TxGet(tx, old.ID)
		wantCode(t, err, orrery.KindNotFound, "datastore_not_found")
		again := datastore("pr-1", "old") // takes the name that the same transaction frees
		if err := s.Datastores.Insert(tx, again); err != nil {
			return err
		}
		wantCode(t, s.Datastores.Insert(tx, datastore("pr-1", "fresh")), orrery.KindConflict, "name_taken")
		return nil
	})
	if _, ok := s.Datastores.Get(old.ID); ok || s.Datastores.Len() != 2 {
		t.Fatalf("%d datastores", s.Datastores.Len())
	}
	_, err := s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Insert(tx, datastore("pr-1", "old")) })
	wantCode(t, err, orrery.KindConflict, "name_taken")
}

func conflictsAreRetried(t *testing.T, cfg store.Config) {
	a := storetest.Open(t, cfg)
	b := storetest.Second(t, a)
	ds := datastore("pr-1", "demo")
	insert(t, a, ds)
	eventually(t, b, func() bool { _, ok := b.Datastores.Get(ds.ID); return ok })
	var wg sync.WaitGroup
	for _, s := range []*store.Store{a, b} {
		for range 20 {
			wg.Go(func() {
				_, err := s.Update(t.Context(), change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ }))
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	eventually(t, b, func() bool { got, _ := b.Datastores.Get(ds.ID); return got.Spec.RestartSeq == 40 })
}

func namesAreUnique(t *testing.T, cfg store.Config) {
	a := storetest.Open(t, cfg)
	b := storetest.Second(t, a)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for _, s := range []*store.Store{a, b, a, b} {
		wg.Go(func() {
			_, err := s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Insert(tx, datastore("pr-1", "demo")) })
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != "name_taken" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Fatalf("%d datastores got the name", won)
	}
	other := datastore("pr-2", "demo") // another project
	insert(t, a, other)
	update(t, a, change(a, other.ID, func(ds *orrery.Datastore) { ds.Name = "renamed" }))
	again := datastore("pr-2", "demo") // renaming frees the name
	insert(t, a, again)
	update(t, a, func(tx *store.Tx) error { return a.Datastores.Delete(tx, again.ID) })
	insert(t, a, datastore("pr-2", "demo")) // deleting as well
	_, err := a.Update(t.Context(), change(a, other.ID, func(ds *orrery.Datastore) { ds.Name = "demo" }))
	wantCode(t, err, orrery.KindConflict, "name_taken")
}

func unchangedIsNotWritten(t *testing.T, cfg store.Config) {
	s := storetest.Open(t, cfg)
	ds := datastore("pr-1", "demo")
	rev := insert(t, s, ds)
	if again := update(t, s, change(s, ds.ID, func(*orrery.Datastore) {})); again != rev {
		t.Fatalf("an unchanged object was written at %d after %d", again, rev)
	}
	if got, _ := s.Datastores.Get(ds.ID); got.Revision != rev || !got.UpdatedAt.Equal(got.CreatedAt) {
		t.Fatalf("%+v", got.Meta)
	}
}

func secrets(t *testing.T, cfg store.Config) {
	s := storetest.Open(t, cfg)
	put := func(id, v string) { update(t, s, func(tx *store.Tx) error { return s.PutSecret(tx, id, []byte(v)) }) }
	put("ds-1/user/app", "one")
	put("ds-1/user/app", "two")
	put("ds-2/user/app", "three")
	if got, err := s.Secret(t.Context(), "ds-1/user/app"); err != nil || string(got) != "two" {
		t.Fatalf("%q, %v", got, err)
	}
	if got := s.Secrets.By("owner", "ds-1"); len(got) != 1 {
		t.Fatalf("%d secrets of ds-1", len(got))
	}
	_, err := s.Secret(t.Context(), "ds-3/user/app")
	wantCode(t, err, orrery.KindNotFound, "secret_not_found")

	// A sealed value that somebody moves to another object in etcd does not open there.
	update(t, s, func(tx *store.Tx) error {
		from, err := s.Secrets.TxGet(tx, "ds-1/user/app")
		if err != nil {
			return err
		}
		to, err := s.Secrets.TxGet(tx, "ds-2/user/app")
		if err != nil {
			return err
		}
		to.Sealed = from.Sealed
		return s.Secrets.Put(tx, to)
	})
	_, err = s.Secret(t.Context(), "ds-2/user/app")
	wantCode(t, err, orrery.KindInternal, "secret_damaged")
}

func threeStoresAgree(t *testing.T, cfg store.Config) {
	a := storetest.Open(t, cfg)
	all := []*store.Store{a, storetest.Second(t, a), storetest.Second(t, a)}
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() {
			for n := range 20 {
				ds := datastore("pr-1", fmt.Sprintf("db-%d-%d", i, n))
				if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Insert(tx, ds) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range all {
		eventually(t, s, func() bool { return s.Datastores.Len() == 60 && s.Datastores.CountBy("project", "pr-1") == 60 })
		if s.Epoch() != a.Epoch() || s.Generation(7)>>40 != s.Epoch() || s.Generation(7)&(1<<40-1) != 7 {
			t.Fatalf("epoch %d, generation %x", s.Epoch(), s.Generation(7))
		}
	}
}
