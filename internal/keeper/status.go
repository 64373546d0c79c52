package keeper

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/session"
)

// seen is what the keeper sees of its database, and of its own work.
type seen struct {
	state             orrery.DatabaseState
	note              string // what is being done
	err               error  // of the last turn
	death             *death // why it does not run, or has not run well yet
	disk              problem
	appliedGeneration int64
	appliedSpec       int64 // of the instance
	observation       *engine.Observation
	roleOf            string // the wish for which observation was made
	mute              int    // probes in a row without an answer
	nextProbe         time.Time
	interval          time.Duration
}

// death is the end of a database that nobody wished.
type death struct {
	how, words string
	cause      *orrery.Error // where the driver knows it
	times      int
}

// problem is something to be told of a database that may run all the same.
type problem struct{ code, message string }

// forget drops what was seen of a process that is no more.
func (s *seen) forget() { s.observation, s.roleOf, s.mute, s.note = nil, "", 0, "" }

// hurry has the next probes follow quickly: something changes.
func (s *seen) hurry() {
	s.interval, s.nextProbe = 20*time.Millisecond, time.Now().Add(20*time.Millisecond)
}

// observe asks the database.
func (l *loop) observe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	obs, err := l.srv.Observe(ctx)
	if err != nil {
		return err
	}
	// Probes that tell the same may follow each other more slowly.
	if l.seen.observation == nil || !sameState(*l.seen.observation, obs) {
		l.seen.interval = 20 * time.Millisecond
	} else {
		l.seen.interval = min(l.seen.interval*3/2, l.k.cfg.ProbeEvery)
	}
	l.seen.observation, l.seen.mute = &obs, 0
	l.seen.nextProbe = time.Now().Add(max(l.seen.interval, 20*time.Millisecond))
	if l.seen.death != nil && time.Since(l.readySince) > 10*time.Second {
		l.seen.death = nil
	}
	return l.remember(func(m *memory) {
		if obs.SystemID != "" {
			m.SystemID = obs.SystemID
		}
	})
}

// sameState compares but for what changes all the time.
func sameState(a, b engine.Observation) bool {
	a.Position, a.LagBytes, a.DataBytes = b.Position, b.LagBytes, b.DataBytes
	return reflect.DeepEqual(a, b)
}

// probe looks at a running database.
func (l *loop) probe(ctx context.Context) {
	if time.Now().Before(l.seen.nextProbe) {
		return
	}
	if err := l.observe(ctx); err != nil {
		l.seen.mute++
		l.seen.interval = l.k.cfg.ProbeEvery
		l.seen.nextProbe = time.Now().Add(l.seen.interval)
		l.log.Warn("the database does not answer", "error", err, "probes", l.seen.mute)
		return
	}
	if o := l.seen.observation; l.wish != nil && o.Role != l.wish.Desired.Role {
		l.seen.roleOf = "" // somebody else changed it: take the role again
	}
}

// status puts into words what is seen.
func (l *loop) status() orrery.DatabaseStatus {
	s := &l.seen
	st := orrery.DatabaseStatus{
		State: s.state, Version: l.version.Full, AppliedGeneration: s.appliedGeneration, AppliedSpec: s.appliedSpec, AppliedRestartSeq: l.mem.RestartSeq,
		SystemID: l.mem.SystemID, Message: s.note,
	}
	if l.proc != nil {
		st.PID = l.proc.pid
	}
	if o := s.observation; o != nil && l.proc != nil && l.ready {
		st.Role, st.Streaming, st.Upstream, st.Sync, st.PendingRestart = o.Role, o.Streaming, o.Upstream, o.Sync, o.PendingRestart
		if o.Version != "" {
			st.Version = o.Version
		}
		if !o.StartedAt.IsZero() {
			st.StartedAt = &o.StartedAt
		}
	}
	var wait errWait
	switch {
	case s.err != nil && !errors.As(s.err, &wait):
		st.ErrorCode, st.Message = describe(s.err)
	case s.mute >= 3:
		st.ErrorCode, st.Message = "not_answering", "The database runs and does not answer."
	case s.death != nil && s.state != orrery.DatabaseStopped:
		st.ErrorCode, st.Message = s.death.describe(s.state == orrery.DatabaseRunning)
	case s.disk.code != "":
		st.ErrorCode, st.Message = s.disk.code, s.disk.message
	case s.err != nil:
		st.Message = "It " + s.err.Error() + "."
	}
	return st
}

func describe(err error) (code, message string) {
	if e, ok := errors.AsType[*orrery.Error](err); ok {
		return e.Code, sentence(e)
	}
	code = "retrying"
	if c := systemCode(err.Error()); c != "" {
		code = c
	}
	return code, orrery.Shorten(err.Error(), 400)
}

func sentence(e *orrery.Error) string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + ". " + e.Hint
}

// systemCode knows the texts of strerror(3), which databases print and which do not depend on the engine.
func systemCode(text string) string {
	switch {
	case strings.Contains(text, "Address already in use"):
		return "port_taken"
	case strings.Contains(text, "No space left on device"), strings.Contains(text, "no space left on device"):
		return "disk_full"
	}
	return ""
}

func (d *death) describe(running bool) (code, message string) {
	code = "database_died"
	if c := systemCode(d.words); c != "" {
		code = c
	}
	if d.cause != nil {
		code = d.cause.Code
	}
	what := "The database died"
	if running {
		what = "The database died and was started again"
	}
	message = fmt.Sprintf("%s (%s; %d in a row).", what, d.how, d.times)
	if d.cause != nil {
		return code, message + " " + sentence(d.cause)
	}
	if d.words != "" {
		message += " Its last words: " + orrery.Shorten(d.words, 300)
	}
	return code, message
}

// outbox remembers what was told, so that only news is sent.
type outbox struct {
	told       bool
	generation uint64
	status     orrery.DatabaseStatus
}

// publish tells the server what changed.
func (l *loop) publish() {
	if l.wish == nil {
		return
	}
	st := l.status()
	if l.out.told && l.out.generation == l.wish.Generation && reflect.DeepEqual(l.out.status, st) {
		return
	}
	l.out = outbox{told: true, generation: l.wish.Generation, status: st}
	l.session.Report(session.KeeperReport{Generation: l.wish.Generation, Database: st})
}
