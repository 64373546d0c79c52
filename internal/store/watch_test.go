package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func receive(t testing.TB, ch <-chan store.Change) store.Change {
	t.Helper()
	select {
	case c, ok := <-ch:
		if !ok {
			t.Fatal("the watch ended")
		}
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("no change came")
	}
	panic("unreachable")
}

func watch(t testing.TB, s *store.Store, filter func(store.Change) bool, from int64, topics ...store.Topic) <-chan store.Change {
	t.Helper()
	ch, err := s.Watch(t.Context(), filter, from, topics...)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func watchReplays(t *testing.T, cfg store.Config) {
	s := storetest.Open(t, cfg)
	one, two := datastore("pr-1", "one"), datastore("pr-2", "two")
	start := s.Revision()
	first := insert(t, s, one)
	insert(t, s, two)
	last := update(t, s, change(s, one.ID, func(ds *orrery.Datastore) { ds.Spec.Instances = 3 }))
	update(t, s, func(tx *store.Tx) error { return s.Datastores.Delete(tx, one.ID) })

	all := watch(t, s, nil, start)
	if c := receive(t, all); c.Revision != first || c.Collection != "datastores" || c.ID != one.ID || c.Old != nil ||
		c.New.(*orrery.Datastore).Name != "one" {
		t.Fatalf("first change: %+v", c)
	}
	narrow := watch(t, s, nil, first, s.Datastores.Topic(one.ID), s.Datastores.TopicBy("project", "pr-1"))
	if c := receive(t, narrow); c.Revision != last || c.Old.(*orrery.Datastore).Spec.Instances != 1 ||
		c.New.(*orrery.Datastore).Spec.Instances != 3 {
		t.Fatalf("change of one: %+v", c)
	}
	if c := receive(t, narrow); c.New != nil {
		t.Fatalf("deletion of one: %+v", c)
	}
	// Another server's watcher comes back here, with a revision that this server has not seen yet.
	other := storetest.Second(t, s)
	insert(t, other, datastore("pr-1", "three"))
	three := watch(t, s, nil, other.Revision(), s.Datastores.TopicAll())
	insert(t, other, datastore("pr-1", "four"))
	if c := receive(t, three); c.New.(*orrery.Datastore).Name != "four" {
		t.Fatalf("after resuming: %+v", c)
	}
	if c := receive(t, narrow); c.New.(*orrery.Datastore).Name != "three" { // each once, though two topics match
		t.Fatalf("%+v", c)
	}
	_, err := s.Watch(t.Context(), nil, s.Revision()+1_000_000)
	wantCode(t, err, orrery.KindInvalid, "revision_compacted")
	_, err = s.Watch(t.Context(), nil, 1)
	wantCode(t, err, orrery.KindInvalid, "revision_compacted")
}

func TestSlowWatchersAreCutOff(t *testing.T) {
	s := storetest.New(t)
	ds := datastore("pr-1", "demo")
	insert(t, s, ds)
	slow := watch(t, s, nil, 0, s.Datastores.Topic(ds.ID))
	elsewhere := watch(t, s, nil, 0, s.Datastores.TopicBy("project", "pr-2"))
	seen := s.Revision()
	for range 300 {
		update(t, s, change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ }))
	}
	n := 0
	for c := range slow { // closed: ends
		n++
		seen = c.Revision
	}
	if n == 0 || n >= 300 {
		t.Fatalf("got %d changes before the end", n)
	}
	resumed := watch(t, s, nil, seen, s.Datastores.Topic(ds.ID))
	for ; n < 300; n++ {
		if c := receive(t, resumed); c.New.(*orrery.Datastore).Spec.RestartSeq != int64(n+1) {
			t.Fatalf("change %d is %+v", n+1, c.New.(*orrery.Datastore).Spec)
		}
	}
	select {
	case c := <-elsewhere:
		t.Fatalf("a change of another topic came: %+v", c)
	default:
	}
}

func TestWatchEnds(t *testing.T) {
	s := storetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	byContext, err := s.Watch(ctx, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	byClose := watch(t, s, nil, 0, s.Jobs.TopicAll())
	cancel()
	for range byContext {
	}
	waiting := make(chan error)
	go func() {
		waiting <- s.WaitFor(context.Background(), nil, func() (bool, error) { return false, nil })
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range byClose {
	}
	wantCode(t, <-waiting, orrery.KindUnavailable, "server_stopping")
	_, err = s.Watch(t.Context(), nil, 0)
	wantCode(t, err, orrery.KindUnavailable, "server_stopping")
	_, err = s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Insert(tx, datastore("p", "n")) })
	wantCode(t, err, orrery.KindUnavailable, "server_stopping")
}

func TestWaitFor(t *testing.T) {
	s := storetest.New(t)
	ds := datastore("pr-1", "demo")
	insert(t, s, ds)
	asked := make(chan struct{}, 100)
	done := make(chan error)
	go func() {
		done <- s.WaitFor(t.Context(), nil, func() (bool, error) {
			asked <- struct{}{}
			got, ok := s.Datastores.Get(ds.ID)
			return ok && got.Spec.Instances == 3, nil
		}, s.Datastores.Topic(ds.ID))
	}()
	<-asked
	for i := range 20 {
		insert(t, s, datastore("pr-1", fmt.Sprintf("other%d", i))) // of no concern
	}
	update(t, s, change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.Instances = 3 }))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(asked) != 1 {
		t.Fatalf("the condition was asked %d times after the first", len(asked))
	}
	boom := errors.New("boom")
	if err := s.WaitFor(t.Context(), nil, func() (bool, error) { return false, boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.WaitFor(ctx, nil, func() (bool, error) { return false, nil }); ctx.Err() == nil || err == nil {
		t.Fatal(err)
	}
}
