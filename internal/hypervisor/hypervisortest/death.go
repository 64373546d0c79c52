package hypervisortest

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/orrery-db/orrery"
)

// testStubborn has commands that do not want to go: they ignore SIGTERM and leave daemons in other sessions.
func testStubborn(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	p := create(t, d, newSpec(script(`
		trap '' TERM HUP INT
		setsid sh -c 'trap "" TERM; echo $$ >> pids; while :; do sleep 1; done' &
		(setsid sh -c 'trap "" TERM; P=$PWD; cd /; sleep 3600 & echo $! >> "$P/pids"; wait' &) &
		echo $$ >> pids
		echo done > ready
		while :; do sleep 1; done`)))
	waitFile(t, p, "ready")
	var pids []string
	for len(pids) < 2 {
		pids = strings.Fields(waitFile(t, p, "pids"))
	}
	destroy(t, s, d, p.ID)
	for _, text := range pids {
		if pid, err := strconv.Atoi(text); err != nil || alive(pid) {
			t.Errorf("process %s lives on (%v)", text, err)
		}
	}
}

// testCreateCutOff kills the driver at every stage of making a place. The place is then finished, or destroyed.
func testCreateCutOff(t *testing.T, f Factory) {
	stages := 0
	for stage := 0; ; stage++ {
		for _, finish := range []bool{true, false} {
			s := f.New(t)
			spec := newSpec(sleeper())
			reached := s.Interrupt(t, OpCreate, spec, stage)
			d := open(t, s)
			if _, ok := find(t, d, spec.ID); !ok {
				if left := s.Traces(t, spec.ID); len(left) > 0 {
					t.Errorf("stage %d: the place is not listed, and there is %v", stage, left)
				}
			}
			if finish {
				create(t, d, spec)
				p := waitPlace(t, d, spec.ID, "running", running)
				if n := starts(t, p); n != 1 {
					t.Errorf("stage %d: the command was started %d times", stage, n)
				}
			}
			destroy(t, s, d, spec.ID)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if !reached {
				if stages = stage; stages < 3 {
					t.Errorf("the driver tells %d stages only", stages)
				}
				return
			}
		}
	}
}

// testDestroyCutOff kills the driver at every stage of unmaking.
func testDestroyCutOff(t *testing.T, f Factory) {
	for stage := 0; ; stage++ {
		s := f.New(t)
		spec := newSpec(sleeper())
		d := open(t, s)
		p := create(t, d, spec)
		starts(t, p)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		reached := s.Interrupt(t, OpDestroy, spec, stage)
		d = open(t, s)
		if stage > 0 && alive(p.PID) {
			// Whatever was begun may be finished in the background; Destroy waits for it.
			t.Logf("stage %d: process %d is still there", stage, p.PID)
		}
		destroy(t, s, d, spec.ID)
		if alive(p.PID) {
			t.Errorf("stage %d: process %d lives on", stage, p.PID)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if !reached {
			if stage < 3 {
				t.Errorf("the driver tells %d stages only", stage)
			}
			return
		}
	}
}

// testDamagedRecord has lost what was written down of a place that runs. The driver still tells of the place, does not
// take its data away by making it anew, and can destroy it.
func testDamagedRecord(t *testing.T, f Factory) {
	s := f.New(t)
	d := open(t, s)
	spec := newSpec(sleeper())
	p := create(t, d, spec)
	starts(t, p)
	other := create(t, d, newSpec(sleeper()))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s.Damage(t, spec.ID)
	d = open(t, s)
	q, ok := find(t, d, spec.ID)
	if !ok || q.State != orrery.PlaceFailed || q.Message == "" {
		t.Errorf("listed: %v, %+v", ok, q)
	}
	if _, err := d.Create(t.Context(), spec); orrery.KindOf(err) != orrery.KindConflict {
		t.Errorf("made anew over files: %v", err)
	}
	if n := starts(t, p); n != 1 {
		t.Errorf("the command was started %d times", n)
	}
	if o, _ := find(t, d, other.ID); o.PID != other.PID {
		t.Errorf("another place suffered: %+v", o)
	}
	destroy(t, s, d, spec.ID)
	if alive(p.PID) {
		t.Errorf("process %d lives on", p.PID)
	}
	destroy(t, s, d, other.ID)
}

// testFullDisk fills the disk: the error says so, nothing is left half-made, and what lives can be destroyed.
func testFullDisk(t *testing.T, f Factory) {
	s := f.Full(t)
	d := open(t, s)
	before := create(t, d, newSpec(sleeper()))
	starts(t, before)
	s.Fill(t)
	spec := newSpec(sleeper())
	_, err := d.Create(t.Context(), spec)
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Kind != orrery.KindExhausted || e.Code != "disk_full" || e.Hint == "" {
		t.Errorf("got error %#v", err)
	}
	checkGone(t, s, d, spec.ID)
	if p, _ := find(t, d, before.ID); p.PID != before.PID {
		t.Errorf("another place suffered: %+v", p)
	}
	destroy(t, s, d, before.ID)
}
