package agent_test

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/agent"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
)

// onePlane is a plane with one host and one wish.
type onePlane struct {
	ca      *pki.CA
	host    string
	wish    session.AgentWish
	reports chan session.AgentReport
}

func (p *onePlane) Join(_ context.Context, _, _ string, pub crypto.PublicKey) (string, []byte, []byte, error) {
	chain, err := p.ca.IssueSession(session.KindHost, p.host, pub)
	return p.host, chain, p.ca.CertPEM(), err
}

func (p *onePlane) Sign(_ context.Context, who session.Identity, _ session.Purpose, pub crypto.PublicKey) ([]byte, []byte, error) {
	chain, err := p.ca.IssueSession(who.Kind, who.ID, pub)
	return chain, p.ca.CertPEM(), err
}

func (p *onePlane) AgentConnected(context.Context, session.Identity, session.Hello) (session.AgentSession, error) {
	body, err := json.Marshal(p.wish)
	s := oneSession{plane: p, wishes: make(chan session.Wish, 1)}
	s.wishes <- session.Wish{Generation: 5, Body: body}
	return s, err
}

func (p *onePlane) KeeperConnected(context.Context, session.Identity, session.Hello) (session.KeeperSession, error) {
	return nil, errors.New("no keeper was to come")
}

type oneSession struct {
	plane  *onePlane
	wishes chan session.Wish
}

func (s oneSession) Wishes() <-chan session.Wish { return s.wishes }
func (s oneSession) Close()                      {}
func (s oneSession) Report(ctx context.Context, r session.AgentReport) error {
	select {
	case s.plane.reports <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestServeOnRealSession joins a host by a token, over TLS, and has a place made.
func TestServeOnRealSession(t *testing.T) {
	h := newHarness(t)
	ca, err := pki.NewCA("plane")
	if err != nil {
		t.Fatal(err)
	}
	w := placeWish()
	plane := &onePlane{ca: ca, host: orrery.NewID(orrery.PrefixHost), reports: make(chan session.AgentReport, 64)}
	plane.wish = session.AgentWish{Places: []session.PlaceWish{w}, Warm: []session.WarmWish{{Engine: "fake", Version: "1", Count: 1}}}
	log := slog.New(slog.DiscardHandler)
	server, err := session.NewServer(session.ServerConfig{
		Plane: plane, CA: ca.CertPEM(), Log: log, GetCertificate: pki.NewServerCertificate(ca, []string{"127.0.0.1"}).Get,
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	driver := h.openDriver()
	done, served := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	go func() {
		done <- agent.Serve(ctx, agent.Config{
			Driver: driver, Keeper: h.keeper, Address: "127.0.0.1", Version: "1", Log: log, RefillDelay: time.Millisecond,
			Discover: func(context.Context) ([]orrery.EngineVersion, error) { return h.engines, nil },
		}, session.ClientConfig{
			Dir: filepath.Join(filepath.Dir(h.root), "session"), Servers: []string{ln.Addr().String()}, Name: "host-1",
			Token: pki.MakeJoinToken(orrery.NewID(orrery.PrefixToken), pki.NewSecret(), ca.Fingerprint()),
		})
	}()
	catalogues := 0
	timeout := time.After(patience)
	for ready := false; !ready || catalogues == 0; {
		select {
		case r := <-plane.reports:
			catalogues += len(r.Catalogues)
			ready = ready || settled(r, w.Instance) && r.Generation == 5
		case err := <-done:
			t.Fatalf("it ended: %v", err)
		case <-timeout:
			t.Fatal("the place was not reported")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-served
	if err := driver.Close(); err != nil {
		t.Error(err)
	}
}
