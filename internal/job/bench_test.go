package job_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

// BenchmarkJob runs no-op jobs of five steps, each on its own object, many at once, and tells how many transactions
// etcd does for each, creation included.
func BenchmarkJob(b *testing.B) {
	for _, workers := range []int{1, 64} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			s := storetest.New(b)
			client := storetest.ConfigOf(b, s).Client
			revision := func() int64 {
				resp, err := client.Get(b.Context(), "none")
				if err != nil {
					b.Fatal(err)
				}
				return resp.Header.Revision
			}
			cfg := config(s, "a", defs(map[string]do{"noop": nothing}), kind("k", "noop", "noop", "noop", "noop", "noop"))
			cfg.Workers, cfg.ProjectWorkers = workers, workers
			serve(b, cfg)
			before := revision()
			b.ResetTimer()
			ids := make(chan string, b.N)
			var next atomic.Int64
			for range 16 {
				go func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						ids <- enqueue(b, s, "k", fmt.Sprintf("ds-%d", i))
					}
				}()
			}
			for range b.N {
				waitState(b, s, <-ids, orrery.JobSucceeded)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			b.ReportMetric(float64(revision()-before)/float64(b.N), "etcd-writes/job")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// TestFiveStepsCostSevenWrites keeps the price of a job: its creation, its claim with plan and lock, one for each
// boundary between steps, and its end.
func TestFiveStepsCostSevenWrites(t *testing.T) {
	s := storetest.New(t)
	client := storetest.ConfigOf(t, s).Client
	serve(t, config(s, "a", defs(map[string]do{"noop": nothing}), kind("k", "noop", "noop", "noop", "noop", "noop")))
	before, err := client.Get(t.Context(), "none")
	if err != nil {
		t.Fatal(err)
	}
	waitState(t, s, enqueue(t, s, "k", "ds-1"), orrery.JobSucceeded)
	after, err := client.Get(t.Context(), "none")
	if err != nil {
		t.Fatal(err)
	}
	if n := after.Header.Revision - before.Header.Revision; n != 7 {
		t.Errorf("the job cost %d writes, want 7", n)
	}
}
