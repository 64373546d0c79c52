package session

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestActionIsDoneAtMostOnce(t *testing.T) {
	noLeaks(t)
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	var done atomic.Int32
	cfg := ClientConfig{
		Dir: dir, Servers: []string{s.address}, Token: p.token(who, time.Hour),
		OnAction: func(_ context.Context, a Action) ActionResult {
			done.Add(1)
			return ActionResult{OK: true, Message: a.Kind + string(a.Args)}
		},
	}
	c := startClient(t, cfg)
	sess := receive(t, p.begun, "the session")
	a := Action{ID: "jo-1-backup", Kind: "backup", Args: json.RawMessage(`{"n":1}`)}
	for range 3 { // each time it is sent its result comes
		sess.actions <- a
		if id := receive(t, p.results, "the result"); id != a.ID {
			t.Fatalf("got the result of %s", id)
		}
	}
	waitFor(t, "the result to be acknowledged", func() bool { return len(c.ledger.unacked()) == 0 })

	s.kill()
	p.actions[who.ID] = []Action{a} // the next server sends it again
	s.start()
	receive(t, p.results, "the result on the next stream")
	c.kill(t)
	startClient(t, cfg)
	receive(t, p.results, "the result from the next process")
	if n := done.Load(); n != 1 {
		t.Errorf("the action was done %d times", n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.resulted[a.ID] {
		if !r.OK || r.Message != `backup{"n":1}` {
			t.Errorf("a result is %+v", r)
		}
	}
}

// A result that no server has acknowledged is sent with each stream, from each process, until one has.
func TestResultIsSentUntilAcknowledged(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	begun, finish := make(chan struct{}), make(chan struct{})
	cfg := ClientConfig{
		Dir: dir, Servers: []string{s.address}, Token: p.token(who, time.Hour),
		OnAction: func(context.Context, Action) ActionResult {
			close(begun)
			<-finish
			return ActionResult{OK: true}
		},
	}
	c := startClient(t, cfg)
	receive(t, p.begun, "the session").actions <- Action{ID: "a1", Kind: "x"}
	receive(t, begun, "the action to begin")
	s.kill()
	close(finish)
	waitFor(t, "the result to be written down", func() bool { return len(c.ledger.unacked()) == 1 })
	c.kill(t)
	startClient(t, cfg)
	s.start()
	if id := receive(t, p.results, "the result"); id != "a1" || !p.resulted["a1"][0].OK {
		t.Errorf("got the result of %s: %+v", id, p.resulted["a1"])
	}
}

// A process that dies in the middle of an action must not do it again, and says that it does not know.
func TestInterruptedActionIsNotDoneAgain(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	check(t, os.MkdirAll(filepath.Join(dir, actionsDir), 0o700))
	l, err := openLedger(filepath.Join(dir, actionsDir), time.Now())
	check(t, err)
	if fresh, err := l.begin("a1", time.Now()); err != nil || !fresh { // and then it dies
		t.Fatal(fresh, err)
	}
	p.actions[who.ID] = []Action{{ID: "a1", Kind: "x"}}
	startClient(t, ClientConfig{
		Dir: dir, Servers: []string{s.address}, Token: p.token(who, time.Hour),
		OnAction: func(context.Context, Action) ActionResult {
			t.Error("it was done again")
			return ActionResult{OK: true}
		},
	})
	receive(t, p.results, "the result")
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.resulted["a1"][0]; r.OK || !strings.HasPrefix(r.Message, "interrupted") {
		t.Errorf("the result is %+v", r)
	}
}

func TestActionThatCannotBeWrittenDownIsNotBegun(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir := shortDir(t)
	c := startClient(t, ClientConfig{
		Dir: dir, Servers: []string{s.address}, Token: p.token(newKeeperID(), time.Hour),
		OnAction: func(context.Context, Action) ActionResult { return ActionResult{OK: true} },
	})
	sess := receive(t, p.begun, "the session")
	// Root may write anywhere; a folder that is no longer there stops root as well.
	check(t, os.RemoveAll(filepath.Join(dir, actionsDir)))
	sess.actions <- Action{ID: "a1", Kind: "x"}
	sess.actions <- Action{ID: "a2", Kind: "x"}
	waitFor(t, "both actions to be looked at", func() bool { return len(c.actions) == 0 && len(sess.actions) == 0 })
	check(t, os.MkdirAll(filepath.Join(dir, actionsDir), 0o700))
	sess.actions <- Action{ID: "a3", Kind: "x"}
	if id := receive(t, p.results, "the result"); id != "a3" {
		t.Errorf("%s was done", id)
	}
	sess.actions <- Action{ID: "a1", Kind: "x"} // sent again, it is done
	if id := receive(t, p.results, "the result"); id != "a1" {
		t.Errorf("got the result of %s", id)
	}
}

func TestLedgerForgets(t *testing.T) {
	dir := shortDir(t)
	old := time.Now().Add(-ledgerLife - time.Hour)
	l, err := openLedger(dir, old)
	check(t, err)
	for _, id := range []string{"old-acked", "old-unacked"} {
		_, err := l.begin(id, old)
		check(t, err)
		check(t, l.finish(id, ActionResult{OK: true}))
	}
	check(t, l.acked("old-acked"))
	check(t, os.WriteFile(filepath.Join(dir, ".x.json-1"), nil, 0o600))         // a write that died
	check(t, os.WriteFile(filepath.Join(dir, "torn.json"), []byte("{"), 0o600)) // a begin that a crash tore
	l, err = openLedger(dir, time.Now())
	check(t, err)
	if _, ok := l.entries["old-acked"]; ok || len(l.entries) != 2 {
		t.Errorf("it remembers %v", l.entries)
	}
	if fresh, err := l.begin("torn", time.Now()); err != nil || fresh {
		t.Errorf("an action whose entry is torn may begin: %v", err)
	}
	files, err := os.ReadDir(dir)
	check(t, err)
	if len(files) != 2 {
		t.Errorf("%d files are left", len(files))
	}
}
