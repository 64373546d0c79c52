package placement_test

import (
	"strings"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/placement"
)

var pool = &orrery.Pool{Spec: orrery.PoolSpec{Region: "re-1", CPUOvercommitPercent: 200}}

func host(id, zone string, memory int64, change ...func(*placement.Host)) placement.Host {
	h := placement.Host{Pool: pool, Host: &orrery.Host{Meta: orrery.Meta{ID: id}, Spec: orrery.HostSpec{Zone: zone},
		Status: orrery.HostStatus{Connected: true, Capacity: orrery.Capacity{CPUMilli: 2000, MemoryMiB: memory, StorageGiB: 100},
			Engines: []orrery.EngineVersion{{Engine: "postgres", Version: "15"}}}}}
	for _, c := range change {
		c(&h)
	}
	return h
}

func TestChoose(t *testing.T) {
	need := placement.Need{Engine: "postgres", Version: "15", Region: "re-1", Size: orrery.Capacity{CPUMilli: 1000, MemoryMiB: 1024, StorageGiB: 10}}
	for _, c := range []struct {
		name  string
		hosts []placement.Host
		n     int
		want  string // host IDs, or what the error's hint says
	}{
		{"spread over hosts", []placement.Host{host("a", "", 4096), host("b", "", 4096)}, 2, "a b"},
		{"spread over zones first", []placement.Host{host("a", "z1", 8192), host("b", "z1", 8192), host("c", "z2", 4096)}, 2, "a c"},
		{"one host takes all", []placement.Host{host("a", "", 4096)}, 3, "a a a"},
		{"memory is never promised twice", []placement.Host{host("a", "", 2048)}, 3, "smaller plan"},
		{"cpu overcommit has its limit", []placement.Host{host("a", "", 65536)}, 5, "smaller plan"},
		{"fewest members first", []placement.Host{host("a", "", 4096, func(h *placement.Host) { h.Members = 1 }), host("b", "", 4096)}, 1, "b"},
		{"emptier host first", []placement.Host{host("a", "", 4096, func(h *placement.Host) { h.Allocated.MemoryMiB = 2048 }), host("b", "", 4096)}, 1, "b"},
		{"cordoned", []placement.Host{host("a", "", 4096, func(h *placement.Host) { h.Spec.Cordoned = true })}, 1, "1 of 1 hosts: cordoned"},
		{"away", []placement.Host{host("a", "", 4096, func(h *placement.Host) { h.Status.Connected = false })}, 1, "not connected"},
		{"no engine", []placement.Host{host("a", "", 4096, func(h *placement.Host) { h.Status.Engines = nil })}, 1, "without postgres 15"},
		{"other region", []placement.Host{host("a", "", 4096, func(h *placement.Host) { h.Pool = &orrery.Pool{} })}, 1, "another region"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := placement.Choose(c.hosts, need, c.n)
			if err != nil {
				if orrery.KindOf(err) != orrery.KindExhausted || !strings.Contains(err.(*orrery.Error).Hint, c.want) {
					t.Fatalf("error %v, hint %q; want %q", err, err.(*orrery.Error).Hint, c.want)
				}
				return
			}
			var ids []string
			for _, h := range got {
				ids = append(ids, h.ID)
			}
			if s := strings.Join(ids, " "); s != c.want {
				t.Errorf("chose %s, want %s", s, c.want)
			}
			if c.hosts[0].Allocated.MemoryMiB > 2048 {
				t.Error("Choose changed its input")
			}
		})
	}
}
