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

func datastore(project, name string) *orrery.Datastore {
	return &orrery.Datastore{
		Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixDatastore), Name: name, Project: project},
		Spec: orrery.DatastoreSpec{Engine: "postgres", Version: "15", Instances: 1, Parameters: map[string]string{"a": "b"}},
	}
}

func insert(t testing.TB, s *store.Store, ds *orrery.Datastore) int64 {
	t.Helper()
	rev, err := s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Insert(tx, ds) })
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// eventually waits until cond is true in a store that is told by another.
func eventually(t testing.TB, s *store.Store, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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

func TestOwnWritesShowAtOnce(t *testing.T) {
	s := storetest.New(t)
	for i := range 50 {
		ds := datastore("pr-1", fmt.Sprintf("db%d", i))
		rev := insert(t, s, ds)
		got, ok := s.Datastores.Get(ds.ID)
		if !ok || got.Name != ds.Name || got.Revision != rev || ds.Revision != rev || got.Generation != 1 || got.CreatedAt.IsZero() {
			t.Fatalf("after insert at %d: %+v", rev, got)
		}
		if by := s.Datastores.By("name", "pr-1/"+ds.Name); len(by) != 1 || by[0] != got {
			t.Fatalf("by name: %v", by)
		}
	}
	if n := len(s.Datastores.By("project", "pr-1")); n != 50 || s.Datastores.Len() != 50 {
		t.Fatalf("%d in the project, %d in all", n, s.Datastores.Len())
	}
	list := s.Datastores.List()
	for i := 1; i < len(list); i++ {
		if list[i-1].ID >= list[i].ID {
			t.Fatal("the list is not in the order of IDs")
		}
	}
}

func TestPutKeepsThePrivateCopyPrivate(t *testing.T) {
	s := storetest.New(t)
	ds := datastore("pr-1", "demo")
	insert(t, s, ds)
	before, _ := s.Datastores.Get(ds.ID)
	boom := errors.New("boom")
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		mine, err := s.Datastores.TxGet(tx, ds.ID)
		if err != nil {
			return err
		}
		mine.Spec.Parameters["a"] = "changed"
		return errors.Join(s.Datastores.Put(tx, mine), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if after, _ := s.Datastores.Get(ds.ID); after != before || after.Spec.Parameters["a"] != "b" {
		t.Fatalf("a failed transaction shows: %+v", after.Spec)
	}
}

func TestConflictsAreRetried(t *testing.T) {
	a := storetest.New(t)
	b := storetest.Second(t, a)
	ds := datastore("pr-1", "demo")
	insert(t, a, ds)
	eventually(t, b, func() bool { _, ok := b.Datastores.Get(ds.ID); return ok })
	var wg sync.WaitGroup
	for _, s := range []*store.Store{a, b} {
		for range 20 {
			wg.Go(func() {
				_, err := s.Update(t.Context(), func(tx *store.Tx) error {
					mine, err := s.Datastores.TxGet(tx, ds.ID)
					if err != nil {
						return err
					}
					mine.Spec.RestartSeq++
					return s.Datastores.Put(tx, mine)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	eventually(t, b, func() bool { got, _ := b.Datastores.Get(ds.ID); return got.Spec.RestartSeq == 40 })
}

func TestNamesAreUnique(t *testing.T) {
	a := storetest.New(t)
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
				return
			}
			wantCode(t, err, orrery.KindConflict, "name_taken")
		})
	}
	wg.Wait()
	if won != 1 {
		t.Fatalf("%d datastores got the name", won)
	}
	insert(t, a, datastore("pr-2", "demo")) // another project

	// Renaming frees the name, deleting as well.
	mine := a.Datastores.By("name", "pr-2/demo")[0]
	if _, err := a.Update(t.Context(), func(tx *store.Tx) error {
		ds, err := a.Datastores.TxGet(tx, mine.ID)
		if err != nil {
			return err
		}
		ds.Name = "other"
		return a.Datastores.Put(tx, ds)
	}); err != nil {
		t.Fatal(err)
	}
	again := datastore("pr-2", "demo")
	insert(t, a, again)
	if _, err := a.Update(t.Context(), func(tx *store.Tx) error { return a.Datastores.Delete(tx, again.ID) }); err != nil {
		t.Fatal(err)
	}
	insert(t, a, datastore("pr-2", "demo"))
}

func TestSecrets(t *testing.T) {
	s := storetest.New(t)
	put := func(id, v string) {
		t.Helper()
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { return s.PutSecret(tx, id, []byte(v)) }); err != nil {
			t.Fatal(err)
		}
	}
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
}

func TestLeasedObjectsVanishWithTheirServer(t *testing.T) {
	a := storetest.New(t)
	b := storetest.Second(t, a)
	lost := b.Lost()
	claim := &store.Claim{Meta: orrery.Meta{ID: "jo-1"}}
	if _, err := b.Update(t.Context(), func(tx *store.Tx) error { return b.Claims.InsertLeased(tx, claim) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, a, func() bool { c, ok := a.Claims.Get("jo-1"); return ok && c.Owner == claim.Owner })
	_, err := a.Update(t.Context(), func(tx *store.Tx) error {
		return a.Claims.InsertLeased(tx, &store.Claim{Meta: orrery.Meta{ID: "jo-1"}})
	})
	wantCode(t, err, orrery.KindConflict, "already_exists")
	storetest.Crash(t, b)
	eventually(t, a, func() bool { _, ok := a.Claims.Get("jo-1"); return !ok })
	_ = lost
}
