package session

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session/sessionpb"
)

// rawStream is a stream of a client that has joined, for a test to misuse.
func rawStream(t *testing.T, p *testPlane, s *testServer, who Identity) downStream {
	t.Helper()
	c, err := NewClient(ClientConfig{Servers: []string{s.address}, Log: logger(t)})
	check(t, err)
	check(t, c.Join(t.Context(), p.token(who, time.Hour), ""))
	l, err := dial(t.Context(), s.address, provenTLS(pki.ServerName, c.current))
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := sessionpb.NewSessionClient(l).Connect(ctx, grpc.MaxCallSendMsgSize(4*MaxMessage))
	check(t, err)
	return stream
}

func helloUp() *sessionpb.Up {
	return &sessionpb.Up{Message: &sessionpb.Up_Hello{Hello: &sessionpb.Hello{Version: "v1"}}}
}

func reportUp(seq uint64, body []byte) *sessionpb.Up {
	return &sessionpb.Up{Message: &sessionpb.Up_Report{Report: &sessionpb.Report{Sequence: seq, Body: body}}}
}

func resultUp(id, body string) *sessionpb.Up {
	return &sessionpb.Up{Message: &sessionpb.Up_ActionResult{ActionResult: &sessionpb.ActionResult{Id: id, Body: []byte(body)}}}
}

func TestBadMessagesEndTheStreamWithTheReason(t *testing.T) {
	noLeaks(t)
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	host := Identity{Kind: KindHost, ID: "ho-0123456789abcdef"}
	for name, tc := range map[string]struct {
		who  Identity
		send []*sessionpb.Up
		code string
	}{
		"no hello":                {newKeeperID(), []*sessionpb.Up{reportUp(1, []byte(`{}`))}, "message_malformed"},
		"empty first message":     {newKeeperID(), []*sessionpb.Up{{}}, "message_malformed"},
		"two hellos":              {newKeeperID(), []*sessionpb.Up{helloUp(), helloUp()}, "message_malformed"},
		"report is no JSON":       {newKeeperID(), []*sessionpb.Up{helloUp(), reportUp(1, []byte(`{`))}, "message_malformed"},
		"report of another shape": {newKeeperID(), []*sessionpb.Up{helloUp(), reportUp(1, []byte(`[1]`))}, "message_malformed"},
		"empty report":            {host, []*sessionpb.Up{helloUp(), reportUp(1, nil)}, "message_malformed"},
		"result is no JSON":       {newKeeperID(), []*sessionpb.Up{helloUp(), resultUp("a", `x`)}, "message_malformed"},
		"result of a path":        {newKeeperID(), []*sessionpb.Up{helloUp(), resultUp("../a", `{}`)}, "message_malformed"},
		"result from a host":      {host, []*sessionpb.Up{helloUp(), resultUp("a", `{}`)}, "message_malformed"},
		"too large":               {newKeeperID(), []*sessionpb.Up{helloUp(), reportUp(1, bytes.Repeat([]byte(" "), MaxMessage+1))}, "message_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := rawStream(t, p, s, tc.who)
			for _, up := range tc.send {
				_ = stream.Send(up) // the stream may have ended; the reason comes below
			}
			for {
				if _, err := stream.Recv(); err != nil {
					wantCode(t, fromStatus(err), tc.code)
					return
				}
			}
		})
	}
}

func TestUnknownMessagesAreForANewerProtocol(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	stream := rawStream(t, p, s, newKeeperID())
	for _, up := range []*sessionpb.Up{helloUp(), {}, reportUp(1, []byte(`{"generation":1,"of_a_newer_version":true}`)), reportUp(1, []byte(`{"generation":9}`)), reportUp(2, []byte(`{"generation":2}`))} {
		check(t, stream.Send(up))
	}
	for want := uint64(1); want <= 2; want++ {
		if r := receive(t, p.reports, "a report"); r.generation != want {
			t.Errorf("got report %d, want %d: a repeated sequence is said already", r.generation, want)
		}
	}
}

func TestBadWishEndsTheStream(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	who := newKeeperID()
	reasons := make(chan error, 1)
	p.wish(who, Wish{Generation: 1, Body: json.RawMessage(`{`)})
	c := startClient(t, ClientConfig{
		Dir: shortDir(t), Servers: []string{s.address}, Token: p.token(who, time.Hour),
		OnConnected: func(up bool, err error) {
			if !up {
				select {
				case reasons <- err:
				default:
				}
			}
		},
	})
	wantCode(t, receive(t, reasons, "the reason"), "message_malformed")
	p.wish(who, Wish{Generation: 1, Body: json.RawMessage(`{}`)})
	if w := receive(t, c.wishes, "the good wish"); w.Generation != 1 {
		t.Errorf("got %d", w.Generation)
	}
}

func FuzzTakeFromPeer(f *testing.F) {
	f.Add(true, uint64(1), []byte(`{}`), "a")
	f.Add(false, uint64(0), []byte(`{"places":{"a":null},"host":[]}`), "../x")
	f.Fuzz(func(t *testing.T, host bool, seq uint64, body []byte, id string) {
		p := newTestPlane(t)
		p.reports, p.results = make(chan testReport, 8), make(chan string, 8)
		srv, err := NewServer(ServerConfig{Plane: p, CA: p.ca.CertPEM(), GetCertificate: pki.NewServerCertificate(p.ca, nil).Get, Log: logger(t)})
		check(t, err)
		ctx, cancel := context.WithCancelCause(t.Context())
		st := &serverStream{s: srv, who: newKeeperID(), ctx: ctx, cancel: cancel, acks: make(chan string, 8)}
		sess := &testSession{p: p, who: st.who}
		st.keeper = testKeeper{sess}
		if host {
			st.who.Kind, st.keeper, st.agent = KindHost, nil, testAgent{sess}
		}
		for _, up := range []*sessionpb.Up{
			reportUp(seq, body), resultUp(id, string(body)), {}, helloUp(), {Message: &sessionpb.Up_Report{}}, {Message: &sessionpb.Up_ActionResult{}},
			{Message: &sessionpb.Up_Stats{Stats: &sessionpb.Stats{Body: body}}}, {Message: &sessionpb.Up_Stats{}},
		} {
			_ = st.take(up) // must not panic
		}
	})
}

// blackHole is a proxy that can stop passing bytes without closing anything, as a network that is cut does.
type blackHole struct {
	address string
	mu      sync.Mutex
	cut     chan struct{}
}

func newBlackHole(t *testing.T, to string) *blackHole {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	b := &blackHole{address: ln.Addr().String(), cut: make(chan struct{})}
	var conns sync.WaitGroup
	var open []net.Conn // of the accepting goroutine, until that has ended
	accepting := make(chan struct{})
	t.Cleanup(func() {
		ln.Close()
		<-accepting
		for _, c := range open {
			c.Close()
		}
		conns.Wait()
	})
	pass := func(dst, src net.Conn, cut <-chan struct{}) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			if err != nil {
				return
			}
			select {
			case <-cut:
				continue // swallowed
			default:
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		defer close(accepting)
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			open = append(open, in, out)
			b.mu.Lock()
			cut := b.cut
			b.mu.Unlock()
			conns.Go(func() { pass(out, in, cut); out.Close() })
			conns.Go(func() { pass(in, out, cut); in.Close() })
		}
	}()
	return b
}

// cutNow swallows all of the connections that are there; new ones work.
func (b *blackHole) cutNow() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.cut)
	b.cut = make(chan struct{})
}

func TestDeadPeerIsNoticedByBothEnds(t *testing.T) {
	t.Parallel()
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil) // heartbeat: 1 s
	b := newBlackHole(t, s.address)
	c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{b.address}, Token: p.token(newKeeperID(), time.Hour)})
	first := receive(t, p.begun, "the session")
	receive(t, c.states, "the client to know")
	b.cutNow()
	cut := time.Now()
	receive(t, first.closed, "the server to notice")
	server := time.Since(cut)
	receive(t, p.begun, "the client to notice and come back")
	if client := time.Since(cut); server > 4*time.Second || client > 5*time.Second {
		t.Errorf("the server took %v, the client %v", server, client)
	}
}

// To a server from which the peer hears nothing but what it sends itself gRPC sends no probes.
func TestBusyPeerHearsOfTheServer(t *testing.T) {
	t.Parallel()
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Token: p.token(newKeeperID(), time.Hour)})
	sess := receive(t, p.begun, "the session")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 50 { // five heartbeats; three of silence would end the stream
		<-tick.C
		c.Stats(KeeperStats{Position: 1})
	}
	select {
	case <-sess.closed:
		t.Error("the stream was dropped")
	default:
	}
}
