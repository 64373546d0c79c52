package session

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/pki"
)

// patience bounds every wait for a signal.
const patience = 30 * time.Second

// testPlane is a small plane: it knows tokens, identities and what to wish, and remembers what it was told.
type testPlane struct {
	ca, data *pki.CA

	mu        sync.Mutex
	tokens    map[string]testToken // by token ID
	gone      map[Identity]bool
	wishes    map[string]Wish     // by ID of the identity
	actions   map[string][]Action // sent with each stream
	reportErr error               // what Report fails with
	live      map[Identity]*testSession

	begun    chan *testSession
	reports  chan testReport
	results  chan string
	resulted map[string][]ActionResult
}

type testToken struct {
	secret  string
	who     Identity
	expires time.Time
	key     string // that used it
}

type testReport struct {
	who        Identity
	generation uint64
	agent      AgentReport
	keeper     KeeperReport
}

func newTestPlane(t testing.TB) *testPlane {
	t.Helper()
	ca, err := pki.NewCA("test plane")
	check(t, err)
	data, err := pki.NewCA("test data")
	check(t, err)
	return &testPlane{
		ca: ca, data: data, tokens: map[string]testToken{}, gone: map[Identity]bool{}, wishes: map[string]Wish{},
		actions: map[string][]Action{}, live: map[Identity]*testSession{}, resulted: map[string][]ActionResult{},
		begun: make(chan *testSession, 4096), reports: make(chan testReport, 4096), results: make(chan string, 4096),
	}
}

func newKeeperID() Identity {
	return Identity{Kind: KindInstance, ID: orrery.NewID(orrery.PrefixInstance)}
}

// token makes a one-time token for an identity.
func (p *testPlane) token(who Identity, life time.Duration) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret := orrery.NewID(orrery.PrefixToken), pki.NewSecret()
	p.tokens[id] = testToken{secret: secret, who: who, expires: time.Now().Add(life)}
	return pki.MakeJoinToken(id, secret, p.ca.Fingerprint())
}

func (p *testPlane) Join(_ context.Context, token, _ string, pub crypto.PublicKey) (string, []byte, []byte, error) {
	jt, err := pki.ParseJoinToken(token)
	if err != nil {
		return "", nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", nil, nil, err
	}
	key := hex.EncodeToString(der)
	p.mu.Lock()
	defer p.mu.Unlock()
	tok, ok := p.tokens[jt.ID]
	refuse := func(why string) (string, []byte, []byte, error) {
		return "", nil, nil, orrery.Errorf(orrery.KindUnauthorized, "cannot join: %s", why).WithCode("join_refused").WithHint("Make a new one.")
	}
	switch {
	case !ok || tok.secret != jt.Secret:
		return refuse("the token is unknown")
	case tok.key != "" && tok.key != key:
		return refuse("the token has been used")
	case time.Now().After(tok.expires):
		return refuse("the token has expired")
	}
	tok.key = key
	p.tokens[jt.ID] = tok
	chain, err := p.ca.IssueSession(tok.who.Kind, tok.who.ID, pub)
	return tok.who.ID, chain, p.ca.CertPEM(), err
}

func (p *testPlane) Sign(_ context.Context, who Identity, purpose Purpose, pub crypto.PublicKey) (chain, ca []byte, err error) {
	if err := p.known(who); err != nil {
		return nil, nil, err
	}
	if purpose == PurposeDatabase {
		chain, err = p.data.IssueDatabase("ds-of-"+who.ID, []string{"localhost"}, nil, pub)
		return chain, p.data.CertPEM(), err
	}
	chain, err = p.ca.IssueSession(who.Kind, who.ID, pub)
	return chain, p.ca.CertPEM(), err
}

func (p *testPlane) known(who Identity) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone[who] {
		return orrery.Errorf(orrery.KindForbidden, "%s is no longer known", who.ID).WithCode("identity_gone")
	}
	return nil
}

func (p *testPlane) AgentConnected(_ context.Context, who Identity, hello Hello) (AgentSession, error) {
	s, err := p.connected(who, hello)
	if err != nil {
		return nil, err
	}
	return testAgent{s}, nil
}

func (p *testPlane) KeeperConnected(_ context.Context, who Identity, hello Hello) (KeeperSession, error) {
	s, err := p.connected(who, hello)
	if err != nil {
		return nil, err
	}
	return testKeeper{s}, nil
}

func (p *testPlane) connected(who Identity, hello Hello) (*testSession, error) {
	if err := p.known(who); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live[who] != nil {
		return nil, errors.New("two sessions of one identity at once")
	}
	s := &testSession{p: p, who: who, hello: hello, wishes: make(chan Wish, 1), actions: make(chan Action, 16), closed: make(chan struct{})}
	p.live[who] = s
	if w, ok := p.wishes[who.ID]; ok {
		s.wishes <- w
	}
	for _, a := range p.actions[who.ID] {
		s.actions <- a
	}
	p.begun <- s
	return s, nil
}

func (p *testPlane) wish(who Identity, w Wish) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wishes[who.ID] = w
	if s := p.live[who]; s != nil {
		select {
		case <-s.wishes:
		default:
		}
		s.wishes <- w
	}
}

type testSession struct {
	p       *testPlane
	who     Identity
	hello   Hello
	wishes  chan Wish
	actions chan Action
	closed  chan struct{}
}

func (s *testSession) Wishes() <-chan Wish { return s.wishes }

func (s *testSession) Close() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	delete(s.p.live, s.who)
	close(s.closed)
}

func (s *testSession) failing() error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	return s.p.reportErr
}

type testAgent struct{ *testSession }

func (s testAgent) Report(_ context.Context, r AgentReport) error {
	if err := s.failing(); err != nil {
		return err
	}
	s.p.reports <- testReport{who: s.who, generation: r.Generation, agent: r}
	return nil
}

type testKeeper struct{ *testSession }

func (s testKeeper) Actions() <-chan Action { return s.actions }
func (s testKeeper) Stats(KeeperStats)      {}

func (s testKeeper) Report(_ context.Context, r KeeperReport) error {
	if err := s.failing(); err != nil {
		return err
	}
	s.p.reports <- testReport{who: s.who, generation: r.Generation, keeper: r}
	return nil
}

func (s testKeeper) ActionResult(_ context.Context, id string, r ActionResult) error {
	s.p.mu.Lock()
	s.p.resulted[id] = append(s.p.resulted[id], r)
	s.p.mu.Unlock()
	s.p.results <- id
	return nil
}

// testServer is a server that can be killed and come back at its address.
type testServer struct {
	t       testing.TB
	plane   *testPlane
	cfg     ServerConfig
	address string // "host:port" or "unix:path"
	server  *Server
	stop    context.CancelFunc
	ended   chan error
}

func startServer(t testing.TB, plane *testPlane, address string, change func(*ServerConfig)) *testServer {
	t.Helper()
	s := &testServer{t: t, plane: plane, address: address, cfg: ServerConfig{
		Plane: plane, CA: plane.ca.CertPEM(), Log: logger(t), Heartbeat: time.Second,
		GetCertificate: pki.NewServerCertificate(plane.ca, []string{"127.0.0.1"}).Get,
	}}
	if change != nil {
		change(&s.cfg)
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *testServer) start() {
	s.t.Helper()
	network, addr := "tcp", s.address
	if path, ok := strings.CutPrefix(s.address, "unix:"); ok {
		network, addr = "unix", path
	}
	ln, err := (&net.ListenConfig{}).Listen(s.t.Context(), network, addr)
	check(s.t, err)
	if network == "tcp" {
		s.address = ln.Addr().String()
	}
	s.server, err = NewServer(s.cfg)
	check(s.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	s.stop, s.ended = cancel, make(chan error, 1)
	go func() { s.ended <- s.server.Serve(ctx, ln) }()
}

func (s *testServer) kill() {
	if s.stop == nil {
		return
	}
	s.stop()
	s.stop = nil
	if err := <-s.ended; !errors.Is(err, context.Canceled) {
		s.t.Errorf("the server ended with %v", err)
	}
}

// testClient is a client whose Run goes on beside the test.
type testClient struct {
	*Client
	wishes chan Wish
	states chan bool
	ended  chan error
	stop   context.CancelFunc
}

func startClient(t testing.TB, cfg ClientConfig) *testClient {
	t.Helper()
	tc := &testClient{wishes: make(chan Wish, 256), states: make(chan bool, 4096), ended: make(chan error, 1)}
	if cfg.Log == nil {
		cfg.Log = logger(t)
	}
	if cfg.OnWish == nil {
		cfg.OnWish = func(g uint64, body json.RawMessage) { tc.wishes <- Wish{Generation: g, Body: body} }
	}
	if cfg.OnConnected == nil {
		cfg.OnConnected = func(up bool, _ error) { tc.states <- up }
	}
	if cfg.BackoffMax == 0 {
		cfg.BackoffFirst, cfg.BackoffMax = 10*time.Millisecond, 200*time.Millisecond
	}
	c, err := NewClient(cfg)
	check(t, err)
	tc.Client = c
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	tc.stop = cancel
	done := make(chan struct{})
	go func() { defer close(done); tc.ended <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return tc
}

// kill ends the client's Run, as the death of its process would.
func (c *testClient) kill(t testing.TB) {
	t.Helper()
	c.stop()
	if err := receive(t, c.ended, "the end of Run"); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run ended with %v", err)
	}
	c.ended <- context.Canceled
}

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func logger(t testing.TB) *slog.Logger {
	if _, bench := t.(*testing.B); bench || !testing.Verbose() {
		return discard()
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v in vain for %s", patience, what)
		panic("unreachable")
	}
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	if !hasCode(err, code) {
		t.Fatalf("got error %v, want one with code %s", err, code)
	}
}

// noLeaks fails a test after which goroutines of this module are left. Call it first, so that its check runs last.
func noLeaks(t *testing.T) {
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for {
			buf := make([]byte, 4<<20)
			var left []string
			for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				if (strings.Contains(g, "orrery/internal/session.") || strings.Contains(g, "google.golang.org/grpc")) && !strings.Contains(g, "testing.tRunner(") {
					left = append(left, g)
				}
			}
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
			}
			runtime.Gosched() // there is no signal for the end of a goroutine
		}
	})
}

func identityPath(dir string) string { return filepath.Join(dir, identityFile) }

func mustKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := pki.NewKey()
	check(t, err)
	return key
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
