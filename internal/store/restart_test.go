package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

// TestEtcdRestarts takes etcd away from a running store and gives it back.
func TestEtcdRestarts(t *testing.T) {
	dir := shortDir(t)
	server := startEtcd(t, etcd.Config{Dir: dir})
	cfg := storetest.Config(t)
	cfg.Client = dial(t, etcd.DialConfig{Endpoints: []string{server.Endpoint()}})
	cfg.LeaseTTL = 2 * time.Second
	s := storetest.Open(t, cfg)
	ds := datastore("pr-1", "demo")
	insert(t, s, ds)
	update(t, s, claim(s, "jo-1"))
	lost := s.Lost()
	down := time.Now()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	// Reads go on; writes wait and say so; the lease counts as lost before etcd could give it to others.
	if got, ok := s.Datastores.Get(ds.ID); !ok || got.Name != "demo" {
		t.Fatal("reads stopped with etcd")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.Update(ctx, func(tx *store.Tx) error { return s.Datastores.Insert(tx, datastore("pr-1", "refused")) })
	wantCode(t, err, orrery.KindUnavailable, "state_unavailable")
	closed(t, lost, "the loss of the lease")
	if took := time.Since(down); took > cfg.LeaseTTL {
		t.Fatalf("the loss was told after %s, the lease lives for %s", took, cfg.LeaseTTL)
	}
	waiting := make(chan error)
	go func() {
		_, err := s.Update(t.Context(), change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ }))
		waiting <- err
	}()
	startEtcd(t, etcd.Config{Dir: dir})
	if err := <-waiting; err != nil { // was sent while etcd was away
		t.Fatal(err)
	}
	if got, _ := s.Datastores.Get(ds.ID); got.Spec.RestartSeq != 1 {
		t.Fatalf("written %d times", got.Spec.RestartSeq)
	}
	// What the lost lease held goes with it, though etcd would have let it live on after its restart.
	eventually(t, s, func() bool { _, ok := s.Claims.Get("jo-1"); return !ok })
	update(t, s, claim(s, "jo-1"))
	insert(t, s, datastore("pr-1", "after"))
	if err := s.Close(); err != nil { // before etcd goes
		t.Fatal(err)
	}
}
