// Package jobtest is the test that every kind of job has to pass: its steps done twice, its server killed at every
// point, each of its steps and undos failing for good, cancelled at every step; and in every case the end is either the
// whole or nothing.
package jobtest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/store"
)

// Scenario is one kind of job in one starting position.
type Scenario struct {
	// World makes a fresh world, and has it cleared away by t.Cleanup. It is called some dozens of times, one after the
	// other; worlds may share an etcd, each with its own prefix.
	World func(t testing.TB) *World
	// Timeout for each job to end; 30 s where 0.
	Timeout time.Duration
	// Log gets the runners' log; none where nil.
	Log *slog.Logger
}

// World is what a job is run in.
type World struct {
	Store *store.Store
	Kinds []job.Kind
	Steps map[string]job.Def
	// Start writes the objects and the job, as the API does, and gives the job's ID.
	Start func(ctx context.Context) (string, error)
	// Check looks at all that the job touches, when it is over: after JobSucceeded all of it must be there, after
	// JobFailed and JobCancelled none of it, and in no case anything else: no process, folder, lease or object.
	// Claims and locks are looked at already.
	Check func(j *orrery.Job) error
	// Restart, where given, is called when the server was killed. It gives the steps as a server that has just started
	// has them: without memory of what was before.
	Restart func() map[string]job.Def
}

// Fault is what Find has found.
type Fault struct {
	Trial string
	Err   error
}

// Torture runs all trials as subtests of t.
func Torture(t *testing.T, sc Scenario) {
	t.Helper()
	for _, f := range Find(t, sc) {
		t.Errorf("%s: %v", f.Trial, f.Err)
	}
}

// Find runs all trials as subtests of t and gives what is wrong, without failing t.
func Find(t *testing.T, sc Scenario) []Fault {
	t.Helper()
	if sc.Timeout == 0 {
		sc.Timeout = 30 * time.Second
	}
	if sc.Log == nil {
		sc.Log = slog.New(slog.DiscardHandler)
	}
	var faults []Fault
	try := func(tr trial) record {
		var rec record
		t.Run(tr.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), sc.Timeout)
			defer cancel()
			p := &play{Scenario: sc, trial: tr, w: sc.World(t)}
			err := p.run(ctx)
			if err != nil {
				faults = append(faults, Fault{Trial: tr.name, Err: err})
				t.Logf("fault: %v", err)
			}
			rec = p.record
		})
		return rec
	}

	plain := try(trial{name: "plain", cancelStep: none, failStep: none, failUndo: none})
	if len(faults) > 0 {
		return faults // the rest would only repeat it
	}
	for _, tr := range trials(plain) {
		rec := try(tr)
		for _, tr := range tr.follow(rec) {
			try(tr)
		}
	}
	return faults
}

// trials lists what is to be tried, from what a plain run showed.
func trials(plain record) []trial {
	base := trial{cancelStep: none, failStep: none, failUndo: none}
	var out []trial
	add := func(name string, change func(tr *trial)) {
		tr := base
		tr.name = name
		change(&tr)
		out = append(out, tr)
	}
	add("each step twice", func(tr *trial) { tr.twice = true })
	add("cancelled while queued", func(tr *trial) { tr.cancelQueued = true })
	for i, at := range plain.points {
		add(fmt.Sprintf("killed at %d (%s)", i, at), func(tr *trial) { tr.kill, tr.killAt = true, i })
	}
	for i := range plain.steps {
		add(fmt.Sprintf("step %d fails", i), func(tr *trial) { tr.failStep = i })
		add(fmt.Sprintf("step %d fails after it was done", i), func(tr *trial) { tr.failStep, tr.failAfter = i, true })
		add(fmt.Sprintf("cancelled before step %d", i), func(tr *trial) { tr.cancelStep = i })
		add(fmt.Sprintf("cancelled after step %d", i), func(tr *trial) { tr.cancelStep, tr.cancelAfter = i, true })
	}
	if plain.undoable > 0 {
		last := plain.undoable - 1
		add("each undo twice", func(tr *trial) { tr.failStep, tr.failAfter, tr.twice = last, true, true })
		add("whole undo", func(tr *trial) { tr.failStep, tr.failAfter, tr.killAll = last, true, true })
		for i := range plain.undoable {
			add(fmt.Sprintf("undo of step %d fails", i), func(tr *trial) {
				tr.failStep, tr.failAfter, tr.failUndo = last, true, i
			})
		}
	}
	return out
}

// follow gives the trials that only the record of this one can name: the points of an undo at which to kill.
func (tr trial) follow(rec record) []trial {
	if !tr.killAll {
		return nil
	}
	var out []trial
	undoing := false
	for i, at := range rec.points {
		undoing = undoing || at.Where == job.AfterDo && at.Step == tr.failStep
		if !undoing {
			continue
		}
		next := tr
		next.killAll, next.kill, next.killAt = false, true, i
		next.name = fmt.Sprintf("step %d fails, then killed at %d (%s)", tr.failStep, i, at)
		out = append(out, next)
	}
	return out
}
