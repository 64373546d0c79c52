package session

import (
	"encoding/json"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
)

func TestServerComesBack(t *testing.T) {
	noLeaks(t)
	const n = 30
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	clients := map[string]*testClient{}
	for range n {
		who := newKeeperID()
		p.wish(who, Wish{Generation: 1, Body: json.RawMessage(`{}`)})
		c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Token: p.token(who, time.Hour)})
		c.Report(KeeperReport{Generation: 1})
		clients[who.ID] = c
	}
	for _, c := range clients {
		if w := receive(t, c.wishes, "the first wish"); w.Generation != 1 {
			t.Fatalf("got generation %d", w.Generation)
		}
		receive(t, p.reports, "the first report")
	}
	s.kill()
	if len(p.live) != 0 {
		t.Errorf("%d sessions are left open", len(p.live))
	}
	for id, c := range clients { // what changes while no server is there
		p.wish(Identity{Kind: KindInstance, ID: id}, Wish{Generation: 2, Body: json.RawMessage(`{}`)})
		p.wish(Identity{Kind: KindInstance, ID: id}, Wish{Generation: 3, Body: json.RawMessage(`{}`)})
		c.Report(KeeperReport{Generation: 2})
		c.Report(KeeperReport{Generation: 3})
	}
	s.start()
	for _, c := range clients {
		if w := receive(t, c.wishes, "the newest wish"); w.Generation != 3 {
			t.Errorf("got generation %d, want only the newest", w.Generation)
		}
		if r := receive(t, p.reports, "the newest report"); r.generation != 3 {
			t.Errorf("got report %d, want only the newest", r.generation)
		}
	}
}

func TestOlderWishIsRefused(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	c := startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}, Token: p.token(who, time.Hour)})
	sess := receive(t, p.begun, "the session")
	give := func(s *testSession, g uint64) { s.wishes <- Wish{Generation: g, Body: json.RawMessage(`{}`)} }
	give(sess, 5)
	if w := receive(t, c.wishes, "wish 5"); w.Generation != 5 {
		t.Fatalf("got %d", w.Generation)
	}
	for _, g := range []uint64{4, 5, 1, 6} { // older, a duplicate, older
		give(sess, g)
	}
	if w := receive(t, c.wishes, "wish 6"); w.Generation != 6 {
		t.Fatalf("got %d, want 6 and nothing before", w.Generation)
	}

	// A new process remembers what an earlier one saw: a server that lags cannot send it back.
	c.kill(t)
	c = startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}})
	sess = receive(t, p.begun, "the session of the new process")
	if sess.hello.Generation != 0 {
		t.Errorf("the new process says that it holds %d", sess.hello.Generation)
	}
	give(sess, 5)
	give(sess, 6)
	if w := receive(t, c.wishes, "wish 6 again"); w.Generation != 6 {
		t.Fatalf("got %d, want 6 and nothing before", w.Generation)
	}
}

func TestKeptWishIsThereWithoutAServer(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	p.wish(who, Wish{Generation: 9, Body: json.RawMessage(`{"desired":{"role":"replica"}}`)})
	c := startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}, Token: p.token(who, time.Hour), KeepWish: true})
	receive(t, c.wishes, "the wish")
	c.kill(t)
	s.kill()
	c = startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}, KeepWish: true})
	if w := receive(t, c.wishes, "the kept wish"); w.Generation != 9 || string(w.Body) != `{"desired":{"role":"replica"}}` {
		t.Fatalf("got %d %s", w.Generation, w.Body)
	}
}

// Two processes with one identity: the newest stream wins, and the plane never sees two at once (testPlane checks that).
func TestNewestStreamWins(t *testing.T) {
	noLeaks(t)
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	slow := ClientConfig{Dir: dir, Servers: []string{s.address}, Token: p.token(who, time.Hour), BackoffFirst: time.Hour, BackoffMax: time.Hour}
	reasons := make(chan error, 1)
	slow.OnConnected = func(up bool, err error) {
		if !up {
			reasons <- err
		}
	}
	startClient(t, slow)
	first := receive(t, p.begun, "the first session")
	startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}})
	receive(t, p.begun, "the second session")
	receive(t, first.closed, "the end of the first")
	wantCode(t, receive(t, reasons, "the reason"), CodeReplaced)
	if n := s.server.Streams(); n != 1 {
		t.Errorf("%d streams are held", n)
	}
}

func TestManyStreamsOfOneIdentity(t *testing.T) {
	noLeaks(t)
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	c, err := NewClient(ClientConfig{Dir: dir, Servers: []string{s.address}, Log: logger(t)})
	check(t, err)
	check(t, c.Join(t.Context(), p.token(who, time.Hour), ""))
	var all sync.WaitGroup
	for range 20 {
		one, err := NewClient(ClientConfig{Dir: dir, Servers: []string{s.address}, Log: logger(t)})
		check(t, err)
		all.Go(func() {
			for range 5 {
				l, err := dial(t.Context(), s.address, provenTLS(one.cfg.ServerName, one.current))
				if err == nil {
					_, _ = one.greet(t.Context(), l)
					_ = l.Close()
				}
			}
		})
	}
	all.Wait()
	waitFor(t, "all sessions to be closed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.live) == 0 && s.server.Streams() == 0
	})
}

func TestReportsWaitForThePlane(t *testing.T) {
	p := newTestPlane(t)
	p.reportErr = errors.New("the state store is away")
	s := startServer(t, p, "127.0.0.1:0", nil)
	c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Token: p.token(newKeeperID(), time.Hour)})
	c.Report(KeeperReport{Generation: 1})
	sess := receive(t, p.begun, "the session")
	p.mu.Lock()
	p.reportErr = nil
	p.mu.Unlock()
	if r := receive(t, p.reports, "the report"); r.generation != 1 {
		t.Errorf("got report %d", r.generation)
	}
	select {
	case <-sess.closed:
		t.Error("the stream was dropped")
	default:
	}
}

func TestFirstReportOfAStream(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Token: p.token(newKeeperID(), time.Hour)})
	report := func(g uint64) {
		c.ReportFunc(func(first bool) any {
			r := KeeperReport{Generation: g}
			if first {
				r.Catalogue = &orrery.ParameterCatalogue{Engine: "e"}
			}
			return r
		})
	}
	report(1)
	if r := receive(t, p.reports, "the first report"); r.keeper.Catalogue == nil {
		t.Error("the first report lacks its catalogue")
	}
	report(2)
	if r := receive(t, p.reports, "the second report"); r.keeper.Catalogue != nil || r.generation != 2 {
		t.Errorf("the second report is %+v", r.keeper)
	}
	s.kill()
	s.start()
	if r := receive(t, p.reports, "the first report of the next stream"); r.keeper.Catalogue == nil || r.generation != 2 {
		t.Errorf("the first report of the next stream is %+v", r.keeper)
	}
}

func TestNextServerIsTried(t *testing.T) {
	dead, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	address := dead.Addr().String()
	dead.Close()
	p := newTestPlane(t)
	a := startServer(t, p, "127.0.0.1:0", nil)
	b := startServer(t, p, "127.0.0.1:0", nil)
	c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{"unix:/nowhere", address, a.address, b.address}, Token: p.token(newKeeperID(), time.Hour)})
	receive(t, p.begun, "a session")
	if a.server.Streams() == 1 {
		a.kill()
	} else {
		b.kill()
	}
	receive(t, p.begun, "a session with the other server")
	if !c.Connected() {
		waitFor(t, "the client to know", c.Connected)
	}
}

// waitFor polls where there is no signal to wait for.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}
