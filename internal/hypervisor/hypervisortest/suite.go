// Package hypervisortest is the conformance suite of hypervisor drivers. A driver is done when Run passes on the real
// thing. It owns no driver; each driver brings a Site that tells the suite how to look at the machine from outside.
package hypervisortest

import (
	"context"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// Site is one place of work of a driver: what New of the driver is given, and the machine below it.
type Site interface {
	// Open gives a new driver on the site. Before it, the last one has been closed or killed.
	Open(t testing.TB) hypervisor.Driver
	// Traces names everything on the machine that is left of a place: processes, folders, groups, users, records.
	Traces(t testing.TB, id string) []string
	// Interrupt does one operation by a driver in a process of its own, which is killed (SIGKILL) when it comes to the
	// given stage of its work, counted from 0, or after its work. It tells whether the stage was come to.
	Interrupt(t testing.TB, op Op, spec hypervisor.Spec, stage int) (reached bool)
	// Damage cuts short whatever the driver has written down of the place.
	Damage(t testing.TB, id string)
}

// FullSite is a site whose disk can be filled to the last byte.
type FullSite interface {
	Site
	Fill(t testing.TB)
}

// Op is an operation that is cut off.
type Op string

// The operations.
const (
	OpCreate  Op = "create"
	OpDestroy Op = "destroy"
)

// Factory makes sites. All that lies on them is removed when the test ends. Full is nil where no disk can be filled.
type Factory struct {
	New  func(t testing.TB) Site
	Full func(t testing.TB) FullSite
}

// Run runs the suite. Places of the driver must offer a POSIX shell and the usual small tools.
func Run(t *testing.T, f Factory) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, f Factory)
	}{
		{"CreateListDestroy", testCreateListDestroy},
		{"Refusals", testRefusals},
		{"Update", testUpdate},
		{"Adoption", testAdoption},
		{"DriverKilled", testDriverKilled},
		{"Restart", testRestart},
		{"RestartAfterAdoption", testRestartAfterAdoption},
		{"BackOff", testBackOff},
		{"MemoryLimit", testMemoryLimit},
		{"Environment", testEnvironment},
		{"Parallel", testParallel},
		{"Stubborn", testStubborn},
		{"CreateCutOff", testCreateCutOff},
		{"DestroyCutOff", testDestroyCutOff},
		{"DamagedRecord", testDamagedRecord},
		{"FullDisk", testFullDisk},
	} {
		if c.name == "FullDisk" && f.Full == nil {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.test(t, f) })
	}
}

// sleeper is a command that writes down each of its starts, in {dir}/starts, and then does nothing for long.
func sleeper() []string { return script(`echo $$ >> starts; exec sleep 3600`) }

func script(text string) []string { return []string{"/bin/sh", "-c", "cd {dir} && " + text} }

func newSpec(command []string) hypervisor.Spec {
	return hypervisor.Spec{
		ID:      orrery.NewID(orrery.PrefixPlace),
		Labels:  map[string]string{"instance": "in-0000000000000000"},
		Command: command,
	}
}

func open(t *testing.T, s Site) hypervisor.Driver {
	t.Helper()
	d := s.Open(t)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func reopen(t *testing.T, s Site, d hypervisor.Driver) hypervisor.Driver {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatalf("close the driver: %v", err)
	}
	return open(t, s)
}

// create makes a place and sees to its end.
func create(t *testing.T, d hypervisor.Driver, spec hypervisor.Spec) hypervisor.Place {
	t.Helper()
	p, err := d.Create(context.Background(), spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return p
}

// destroy destroys and checks that nothing is left.
func destroy(t *testing.T, s Site, d hypervisor.Driver, id string) {
	t.Helper()
	if err := d.Destroy(context.Background(), id); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	checkGone(t, s, d, id)
}

func checkGone(t *testing.T, s Site, d hypervisor.Driver, id string) {
	t.Helper()
	if _, ok := find(t, d, id); ok {
		t.Errorf("place %s is still listed", id)
	}
	if left := s.Traces(t, id); len(left) > 0 {
		t.Errorf("left of place %s: %v", id, left)
	}
}
