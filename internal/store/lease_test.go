package store_test

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func claim(s *store.Store, id string) func(tx *store.Tx) error {
	return func(tx *store.Tx) error {
		return s.Claims.InsertLeased(tx, &store.Claim{Meta: orrery.Meta{ID: id}})
	}
}

// closed waits for a channel to be closed.
func closed(t testing.TB, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s was not told", what)
	}
}

func leasedObjectsVanish(t *testing.T, cfg store.Config) {
	a := storetest.Open(t, cfg)
	b := storetest.Second(t, a)
	update(t, b, claim(b, "jo-1"))
	owner := storetest.ConfigOf(t, b).ServerName
	eventually(t, a, func() bool { c, ok := a.Claims.Get("jo-1"); return ok && c.Owner == owner })
	_, err := a.Update(t.Context(), claim(a, "jo-1"))
	wantCode(t, err, orrery.KindConflict, "already_exists")

	// A change of a leased object leaves it leased, whoever makes it.
	update(t, a, func(tx *store.Tx) error {
		c, err := a.Claims.TxGet(tx, "jo-1")
		if err != nil {
			return err
		}
		c.Note = "noted"
		return a.Claims.Put(tx, c)
	})
	storetest.Crash(t, b)
	eventually(t, a, func() bool { _, ok := a.Claims.Get("jo-1"); return !ok })
	update(t, a, claim(a, "jo-1"))

	c := storetest.Second(t, a)
	update(t, c, claim(c, "jo-2"))
	eventually(t, a, func() bool { _, ok := a.Claims.Get("jo-2"); return ok })
	if err := c.Close(); err != nil { // gives up its lease at once
		t.Fatal(err)
	}
	eventually(t, a, func() bool { _, ok := a.Claims.Get("jo-2"); return !ok })
}

func lostLeaseIsTold(t *testing.T, cfg store.Config) {
	cfg.LeaseTTL = 3 * time.Second
	s := storetest.Open(t, cfg)
	lost := s.Lost()
	update(t, s, claim(s, "jo-1"))
	if _, err := cfg.Client.Revoke(t.Context(), clientv3.LeaseID(s.LeaseID())); err != nil {
		t.Fatal(err)
	}
	// Leasing goes on under a new lease: the missing one is found by the first who wants to use it.
	update(t, s, claim(s, "jo-2"))
	closed(t, lost, "the loss of the lease")
	if _, ok := s.Claims.Get("jo-1"); ok {
		t.Fatal("what was leased is still there")
	}
	select {
	case <-s.Lost():
		t.Fatal("the new lease is lost as well")
	default:
	}
}
