package postgres_test

import (
	"fmt"
	"testing"

	"github.com/orrery-db/orrery/internal/engine/enginetest"
	"github.com/orrery-db/orrery/internal/engine/postgres"
)

// BenchmarkLife measures what an instance's birth is made of; see DESIGN.md.
func BenchmarkLife(b *testing.B) {
	for b.Loop() {
		for _, m := range enginetest.Measure(b, enginetest.Target{Driver: postgres.New(postgres.Config{}), Connect: connect}) {
			b.ReportMetric(float64(m.Took.Microseconds())/1000/float64(1), fmt.Sprintf("%s-ms", m.Name))
		}
	}
}
