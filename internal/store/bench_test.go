package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

// filled opens a store with n datastores in n/100 projects, on an etcd that syncs to disk as in earnest.
func filled(b *testing.B, n int) (*store.Store, []string) {
	b.Helper()
	server, err := etcd.Start(b.Context(), etcd.Config{Dir: shortDir(b), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Close() })
	cfg := storetest.Config(b)
	cfg.Client, cfg.Log = server.Client(), slog.New(slog.DiscardHandler)
	s := storetest.Open(b, cfg)
	var ids []string
	for len(ids) < n {
		update(b, s, func(tx *store.Tx) error {
			for range min(500, n-len(ids)) {
				ds := datastore(fmt.Sprintf("pr-%d", len(ids)/100), fmt.Sprintf("db%d", len(ids)))
				if err := s.Datastores.Insert(tx, ds); err != nil {
					return err
				}
				ids = append(ids, ds.ID)
			}
			return nil
		})
	}
	return s, ids
}

func BenchmarkGet(b *testing.B) {
	s, ids := filled(b, 10_000)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(ids)); pb.Next(); i = (i + 1) % len(ids) {
			if _, ok := s.Datastores.Get(ids[i]); !ok {
				b.Error("not found")
			}
		}
	})
}

func BenchmarkBy100(b *testing.B) {
	s, _ := filled(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if n := len(s.Datastores.By("project", "pr-7")); n != 100 {
			b.Fatal(n)
		}
	}
}

func BenchmarkList10000(b *testing.B) {
	s, _ := filled(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if n := len(s.Datastores.List()); n != 10_000 {
			b.Fatal(n)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, ids := filled(b, 1000)
			var next atomic.Int64
			b.SetParallelism(max(writers/2, 1)) // times GOMAXPROCS, which is 2 where this was measured
			b.ReportAllocs()
			b.ResetTimer()
			if writers == 1 {
				for i := range b.N {
					update(b, s, change(s, ids[i%1000], func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ }))
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					id := ids[next.Add(1)%1000]
					if _, err := s.Update(context.Background(), change(s, id, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ })); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkBarePut is what Update is measured against: the same bytes, put without a store.
func BenchmarkBarePut(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, ids := filled(b, 1)
			client := storetest.ConfigOf(b, s).Client
			value := string(make([]byte, len(fmt.Sprintf("%+v", s.Datastores.List()[0]))+len(ids)))
			b.SetParallelism(max(writers/2, 1))
			b.ResetTimer()
			if writers == 1 {
				for range b.N {
					if _, err := client.Put(b.Context(), "/bare", value); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := client.Put(context.Background(), "/bare", value); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkChangeAmongWatchers is one change while 10,000 wait for other objects.
func BenchmarkChangeAmongWatchers(b *testing.B) {
	for _, waiters := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			s, ids := filled(b, 1000)
			for i := range waiters {
				if _, err := s.Watch(b.Context(), nil, 0, s.Datastores.Topic(ids[1+i%999])); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for range b.N {
				update(b, s, change(s, ids[0], func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ }))
			}
		})
	}
}

func BenchmarkOpen10000(b *testing.B) {
	first, _ := filled(b, 10_000)
	for b.Loop() {
		s, err := store.Open(b.Context(), storetest.ConfigOf(b, first))
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
