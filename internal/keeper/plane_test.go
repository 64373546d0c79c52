package keeper_test

import (
	"context"
	"crypto"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
)

// plane is a small control plane: the real session server, and wishes that a test sets.
type plane struct {
	t         *testing.T
	ca, data  *pki.CA
	socket    string
	stop      func()
	datastore string

	mu       sync.Mutex
	wishes   map[string]session.Wish
	live     map[string]chan session.Wish
	reports  map[string]session.KeeperReport // newest, by instance
	states   map[string][]orrery.DatabaseStatus
	stats    map[string]session.KeeperStats
	news     chan struct{} // closed and made anew with each report
	signs    int
	sequence uint64
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	ca, err := pki.NewCA("test plane")
	check(t, err)
	data, err := pki.NewCA("test data")
	check(t, err)
	p := &plane{
		t: t, ca: ca, data: data, socket: filepath.Join(tempDir(t), "s"), datastore: orrery.NewID(orrery.PrefixDatastore), wishes: map[string]session.Wish{}, live: map[string]chan session.Wish{},
		reports: map[string]session.KeeperReport{}, states: map[string][]orrery.DatabaseStatus{}, stats: map[string]session.KeeperStats{}, news: make(chan struct{}),
	}
	p.serve()
	t.Cleanup(func() { p.stop() })
	return p
}

// serve begins, or begins again after stop.
func (p *plane) serve() {
	p.t.Helper()
	_ = os.Remove(p.socket)
	ln, err := net.Listen("unix", p.socket)
	check(p.t, err)
	s, err := session.NewServer(session.ServerConfig{
		Plane: p, CA: p.ca.CertPEM(), GetCertificate: pki.NewServerCertificate(p.ca, nil).Get, Log: slog.New(slog.DiscardHandler),
	})
	check(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(ctx, ln)
	}()
	p.stop = sync.OnceFunc(func() { cancel(); <-ended })
}

func (p *plane) Join(_ context.Context, token, _ string, pub crypto.PublicKey) (string, []byte, []byte, error) {
	t, err := pki.ParseJoinToken(token)
	if err != nil {
		return "", nil, nil, err
	}
	chain, err := p.ca.IssueSession(session.KindInstance, t.ID, pub)
	return t.ID, chain, p.ca.CertPEM(), err
}

func (p *plane) Sign(_ context.Context, who session.Identity, purpose session.Purpose, pub crypto.PublicKey) ([]byte, []byte, error) {
	if purpose == session.PurposeSession {
		chain, err := p.ca.IssueSession(who.Kind, who.ID, pub)
		return chain, p.ca.CertPEM(), err
	}
	p.mu.Lock()
	p.signs++
	p.mu.Unlock()
	chain, err := p.data.IssueDatabase(p.datastore, []string{"localhost", who.ID}, []net.IP{net.IPv4(127, 0, 0, 1)}, pub)
	return chain, p.data.CertPEM(), err
}

func (p *plane) AgentConnected(context.Context, session.Identity, session.Hello) (session.AgentSession, error) {
	return nil, orrery.Errorf(orrery.KindForbidden, "no agents here")
}

func (p *plane) KeeperConnected(_ context.Context, who session.Identity, _ session.Hello) (session.KeeperSession, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := make(chan session.Wish, 1)
	if w, ok := p.wishes[who.ID]; ok {
		ch <- w
	}
	p.live[who.ID] = ch
	return &keeperSession{p: p, id: who.ID, wishes: ch}, nil
}

type keeperSession struct {
	p      *plane
	id     string
	wishes chan session.Wish
}

func (s *keeperSession) Wishes() <-chan session.Wish    { return s.wishes }
func (s *keeperSession) Actions() <-chan session.Action { return nil }
func (s *keeperSession) Close()                         {}
func (s *keeperSession) ActionResult(context.Context, string, session.ActionResult) error {
	return nil
}

func (s *keeperSession) Stats(st session.KeeperStats) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.stats[s.id] = st
	s.p.told()
}

func (s *keeperSession) Report(_ context.Context, r session.KeeperReport) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.reports[s.id] = r
	s.p.states[s.id] = append(s.p.states[s.id], r.Database)
	s.p.told()
	return nil
}

func (p *plane) told() {
	close(p.news)
	p.news = make(chan struct{})
}

// wish sends an instance a desired state.
func (p *plane) wish(d engine.Desired) {
	p.t.Helper()
	body, err := json.Marshal(session.KeeperWish{Desired: d})
	check(p.t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sequence++
	w := session.Wish{Generation: p.sequence, Body: body}
	p.wishes[d.Instance] = w
	if ch := p.live[d.Instance]; ch != nil {
		select {
		case <-ch:
		default:
		}
		ch <- w
	}
}

// await waits until an instance's newest report is as cond wants it.
func (p *plane) await(instance, what string, cond func(st orrery.DatabaseStatus) bool) orrery.DatabaseStatus {
	p.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		p.mu.Lock()
		r, news := p.reports[instance], p.news
		p.mu.Unlock()
		if cond(r.Database) {
			return r.Database
		}
		select {
		case <-news:
		case <-deadline:
			p.t.Fatalf("%s: still not %s: %+v", instance, what, r.Database)
		}
	}
}

func (p *plane) running(instance string, generation int64) orrery.DatabaseStatus {
	p.t.Helper()
	return p.await(instance, "running", func(st orrery.DatabaseStatus) bool {
		return st.State == orrery.DatabaseRunning && st.AppliedGeneration == generation
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
