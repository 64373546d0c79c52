package enginetest

import (
	"testing"
	"time"

	"github.com/orrery-db/orrery"
)

// Measurement is how long one thing took.
type Measurement struct {
	Name string
	Took time.Duration
}

// Measure times what the birth of a primary and a replica is made of.
func Measure(t testing.TB, target Target) []Measurement {
	t.Helper()
	versions, err := target.Driver.Discover(t.Context())
	if err != nil || len(versions) == 0 {
		t.Fatalf("Discover found %v, %v: the suite needs the real database", versions, err)
	}
	s := &suite{Target: target, version: versions[len(versions)-1], ca: newAuthority(t)}
	var out []Measurement
	timed := func(name string, f func()) {
		start := time.Now()
		f()
		out = append(out, Measurement{name, time.Since(start)})
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	a := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	b := s.newMember(t, "in-2000000000000000", orrery.RoleReplica)
	introduce([]*member{a, b})
	timed("prepare", func() { must(a.Prepare(t.Context())) })
	timed("parameters", func() { _, err := a.Parameters(t.Context()); must(err) })
	timed("configure", func() { a.mustConfigure(t) })
	timed("start", func() { a.start(t); a.awaitReady(t) })
	timed("apply", func() { a.apply(t) })
	timed("apply-again", func() { a.apply(t) })
	timed("connect", func() { a.connect(t, nil) })
	timed("observe-first", func() { a.observe(t) })
	timed("observe", func() { a.observe(t) })
	must(b.Prepare(t.Context())) // as a warm place has
	timed("clone", func() { must(b.Clone(t.Context(), b.d, nil)) })
	timed("replica-start", func() { b.start(t); b.awaitReady(t) })
	timed("replica-streams", func() { b.awaitStreaming(t, a) })
	timed("stop", func() { b.stop(t) })
	return out
}
