package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session/sessionpb"
)

// MaxMessage is the size of the largest message, in bytes, either way.
const MaxMessage = 4 << 20

// DefaultHeartbeat is how long a stream is idle before the server probes its peer. Either end counts the other as dead
// when it was silent for three: a machine that is merely short of CPU answers within that.
const DefaultHeartbeat = 4 * time.Second

// heartbeatHeader tells a peer the server's heartbeat, in milliseconds.
const heartbeatHeader = "orrery-heartbeat-ms"

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Plane Plane
	// CA is the PEM of the plane CA: session certificates are checked against it, and joiners find it by its fingerprint.
	CA []byte
	// GetCertificate gives the listener's certificate, its chain ending with the CA; see pki.ServerCertificate.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Log            *slog.Logger
	// Heartbeat is DefaultHeartbeat where 0, and never less than a second.
	Heartbeat time.Duration
	// Grace is how long after its end a session certificate may still be renewed: machines sleep, and clocks jump. It is a
	// year where 0. Nothing but renewal is granted to such a certificate.
	Grace time.Duration
	// Now is the clock that certificates are checked by; time.Now where nil.
	Now func() time.Time
}

// Server is the server end of all sessions.
type Server struct {
	sessionpb.UnimplementedSessionServer
	cfg   ServerConfig
	roots *x509.CertPool

	mu      sync.Mutex
	streams map[Identity]*serverStream
	stopped bool
}

// NewServer makes a server; Serve runs it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Plane == nil || cfg.GetCertificate == nil || cfg.Log == nil {
		return nil, errors.New("make the session server: a plane, a certificate and a logger are needed")
	}
	cas, err := pki.ParseCertificates(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("make the session server: %w", err)
	}
	roots := x509.NewCertPool()
	for _, ca := range cas {
		roots.AddCert(ca)
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	cfg.Heartbeat = max(cfg.Heartbeat, time.Second)
	if cfg.Grace == 0 {
		cfg.Grace = 365 * 24 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg, roots: roots, streams: map[Identity]*serverStream{}}, nil
}

// Streams tells how many streams are held.
func (s *Server) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// Serve takes sessions on ln, which it closes, until ctx ends; it may be called once. Peers are told that the server
// goes away, and find another or wait for it to come back.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	tlsConfig := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.cfg.GetCertificate,
		// The certificate is asked for here and checked in authenticate, for every call but Join: so that a peer is told
		// what is wrong with it, where a failed handshake would tell it nothing.
		ClientAuth: tls.RequestClientCert,
		// A resumed session would carry the certificate of the first one past its renewal.
		SessionTicketsDisabled: true,
	}
	g := grpc.NewServer(
		grpc.Creds(newGate(credentials.NewTLS(tlsConfig))),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(4), grpc.MaxHeaderListSize(16<<10), grpc.ConnectionTimeout(connectTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: s.cfg.Heartbeat, Timeout: 2 * s.cfg.Heartbeat, MaxConnectionIdle: time.Minute,
		}),
		// Memory of ten thousand connections: windows that do not grow, and small buffers.
		grpc.StaticStreamWindowSize(64<<10), grpc.StaticConnWindowSize(64<<10),
		grpc.ReadBufferSize(1<<10), grpc.WriteBufferSize(4<<10),
		grpc.WaitForHandlers(true),
	)
	sessionpb.RegisterSessionServer(g, s)
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve sessions on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.stopped = true
	for _, st := range s.streams {
		st.cancel(errGoingAway)
	}
	s.mu.Unlock()
	// Streams end at once; what is left is calls, which are short, and connections that do not read.
	hard := time.AfterFunc(2*time.Second, g.Stop)
	g.GracefulStop()
	hard.Stop()
	g.Stop()
	if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve sessions on %s: %w", ln.Addr(), err)
	}
	return ctx.Err()
}

// caller is who calls, as its certificate proves.
type caller struct {
	Identity
	lapsed bool // the certificate is out of its time, within the grace
}

type callerKey struct{}

// authenticate finds who calls. mayLapse lets a certificate through that is out of its time within the grace.
func (s *Server) authenticate(ctx context.Context, mayLapse bool) (caller, error) {
	var presented []*x509.Certificate
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			presented = info.State.PeerCertificates
		}
	}
	now := s.cfg.Now()
	who, err := pki.VerifySession(s.roots, presented, now)
	switch {
	case err == nil:
		return caller{Identity: who}, nil
	case errors.Is(err, pki.ErrNoCertificate):
		return caller{}, orrery.Errorf(orrery.KindUnauthorized, "no certificate was presented").WithCode("certificate_missing").
			WithHint("Join first, with a token.")
	case errors.Is(err, pki.ErrExpired):
		if mayLapse && now.Before(presented[0].NotAfter.Add(s.cfg.Grace)) {
			return caller{Identity: who, lapsed: true}, nil
		}
		e := orrery.Errorf(orrery.KindUnauthorized, "the certificate is not valid at this time").WithCode(CodeExpired).WithCause(err).
			WithHint("Renew it; where that fails, join anew with a token, and check the clocks of both machines.")
		if mayLapse { // this was the try to renew: there is no other way but to join
			e = e.WithCode("certificate_lapsed")
		}
		return caller{}, e
	}
	return caller{}, orrery.Errorf(orrery.KindUnauthorized, "the certificate is not of this plane").WithCode("certificate_unknown").WithCause(err).
		WithHint("Join this plane with a token; check that the address is the right plane's, and the clocks of both machines.")
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if info.FullMethod != sessionpb.Session_Join_FullMethodName {
		who, err := s.authenticate(ctx, info.FullMethod == sessionpb.Session_Sign_FullMethodName)
		if err != nil {
			s.refused(ctx, info.FullMethod, err)
			return nil, toStatus(err)
		}
		ctx = context.WithValue(ctx, callerKey{}, who)
	}
	resp, err := next(ctx, req)
	if err != nil {
		s.refused(ctx, info.FullMethod, err)
		return nil, toStatus(err)
	}
	return resp, nil
}

func (s *Server) stream(_ any, ss grpc.ServerStream, info *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
	who, err := s.authenticate(ss.Context(), false)
	if err == nil {
		err = s.run(who.Identity, &grpc.GenericServerStream[sessionpb.Up, sessionpb.Down]{ServerStream: ss})
	}
	if err != nil {
		s.refused(ss.Context(), info.FullMethod, err)
	}
	return toStatus(err)
}

func (s *Server) refused(ctx context.Context, method string, err error) {
	from, level := "", slog.LevelWarn
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errGoingAway) {
		level = slog.LevelDebug // the peer went, or we do
	}
	s.cfg.Log.Log(ctx, level, "session call ended", "method", method, "from", from, "err", err)
}

// Join is the one call that needs no certificate.
func (s *Server) Join(ctx context.Context, req *sessionpb.JoinRequest) (*sessionpb.JoinResponse, error) {
	if len(req.GetToken()) > 512 || len(req.GetName()) > 256 || len(req.GetCsr()) > 16<<10 {
		return nil, orrery.Errorf(orrery.KindTooLarge, "the request to join is too large")
	}
	pub, err := pki.ParseCSR(req.GetCsr())
	if err != nil {
		return nil, err
	}
	id, chain, ca, err := s.cfg.Plane.Join(ctx, req.GetToken(), req.GetName(), pub)
	if err != nil {
		return nil, err
	}
	s.cfg.Log.Info("joined", "id", id, "name", req.GetName())
	return &sessionpb.JoinResponse{Id: id, Certificates: chain, Ca: ca}, nil
}

// Sign issues what the caller's identity is due.
func (s *Server) Sign(ctx context.Context, req *sessionpb.SignRequest) (*sessionpb.SignResponse, error) {
	who, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return nil, orrery.Errorf(orrery.KindUnauthorized, "nobody knows who asks")
	}
	if len(req.GetCsr()) > 16<<10 {
		return nil, orrery.Errorf(orrery.KindTooLarge, "the certificate request is too large")
	}
	pub, err := pki.ParseCSR(req.GetCsr())
	if err != nil {
		return nil, err
	}
	var purpose Purpose
	switch req.GetPurpose() {
	case sessionpb.SignRequest_SESSION:
		purpose = PurposeSession
	case sessionpb.SignRequest_DATABASE:
		purpose = PurposeDatabase
	default:
		return nil, orrery.Invalid("purpose", "there is no such purpose of a certificate")
	}
	if who.lapsed && purpose != PurposeSession {
		return nil, orrery.Errorf(orrery.KindUnauthorized, "the certificate is not valid at this time").WithCode(CodeExpired)
	}
	chain, ca, err := s.cfg.Plane.Sign(ctx, who.Identity, purpose, pub)
	if err != nil {
		return nil, err
	}
	return &sessionpb.SignResponse{Certificates: chain, Ca: ca}, nil
}
