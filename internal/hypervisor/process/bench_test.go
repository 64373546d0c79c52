package process_test

import (
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// BenchmarkPlace measures the life of a place: made, given other limits, unmade.
func BenchmarkPlace(b *testing.B) {
	s := newSite(b)
	d := s.Open(b)
	b.Cleanup(func() { _ = d.Close() })
	var p hypervisor.Place
	spec := func() hypervisor.Spec {
		return hypervisor.Spec{ID: orrery.NewID(orrery.PrefixPlace), Command: []string{"/bin/sleep", "3600"}}
	}
	step := func(name string, before, work, after func() error) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				err := before()
				b.StartTimer()
				if err == nil {
					err = work()
				}
				b.StopTimer()
				if err == nil {
					err = after()
				}
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	nothing := func() error { return nil }
	create := func() (err error) { p, err = d.Create(b.Context(), spec()); return err }
	destroy := func() error { return d.Destroy(b.Context(), p.ID) }
	var size int64
	update := func() error {
		size++
		_, err := d.Update(b.Context(), p.ID, hypervisor.Limits{CPUMilli: 1000 + size, MemoryMiB: 1024}, map[string]string{"a": "b"})
		return err
	}
	step("Create", nothing, create, destroy)
	step("Update", create, update, destroy)
	step("Destroy", create, destroy, nothing)
}
