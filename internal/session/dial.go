package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/pki"
)

const (
	// connectTimeout bounds dialing, the handshake and the first answer. It is generous: at a restarted server with many
	// peers handshakes queue, and giving up would only make them begin anew; see gateWait.
	connectTimeout = 30 * time.Second
	// dialTimeout bounds dialing alone.
	dialTimeout = 5 * time.Second
)

// link is one connection to a server.
type link struct {
	*grpc.ClientConn
	address string
	// silence is how long the server may say nothing before it counts as dead; 0 is for ever. Set when the server has
	// told its heartbeat.
	silence *atomic.Int64
	secure  *tls.Conn
}

// dial connects to one address and shakes hands. gRPC is given the finished connection: what goes wrong before keeps its
// own words, and a try that fails, of which there are many while a server is away, costs little.
func dial(ctx context.Context, address string, tlsConfig *tls.Config) (*link, error) {
	network, addr := "tcp", address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, addr = "unix", path
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	raw, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, unreachable(err)
	}
	l := &link{address: address, silence: new(atomic.Int64)}
	l.silence.Store(int64(connectTimeout))
	secure := tls.Client(&watchedConn{Conn: raw, silence: l.silence}, tlsConfig)
	shaking, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := secure.HandshakeContext(shaking); err != nil {
		_ = raw.Close()
		return nil, unreachable(fmt.Errorf("handshake: %w", err))
	}
	var given atomic.Bool
	l.ClientConn, err = grpc.NewClient("passthrough:///session",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the connection is secure already
		grpc.WithAuthority(tlsConfig.ServerName),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if given.Swap(true) {
				return nil, errLost
			}
			return secure, nil
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10),
		grpc.WithReadBufferSize(1<<10), grpc.WithWriteBufferSize(4<<10),
	)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("speak gRPC with %s: %w", address, err)
	}
	l.secure = secure
	return l, nil
}

// Close closes the connection, also where gRPC has not taken it.
func (l *link) Close() error {
	return errors.Join(l.ClientConn.Close(), ignoreClosed(l.secure.NetConn().Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

var errLost = errors.New("the connection was lost")

func unreachable(err error) error {
	return orrery.Errorf(orrery.KindUnavailable, "the server cannot be reached").WithCode("server_unreachable").WithCause(err)
}

// watchedConn fails a read that the server leaves without an answer for too long. The server probes idle streams, so
// that it is the only one that needs to: gRPC's own probes of a client cannot be more frequent than every ten seconds.
type watchedConn struct {
	net.Conn
	silence *atomic.Int64
}

func (c *watchedConn) Read(b []byte) (int, error) {
	if d := time.Duration(c.silence.Load()); d > 0 {
		if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// provenTLS is for a client that has an identity, asked for at each handshake.
func provenTLS(serverName string, current func() *identity) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		NextProtos: []string{"h2"},
		RootCAs:    current().pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &current().cert, nil
		},
	}
}

// pinnedTLS is for a client that knows no more of the server than its CA's fingerprint.
func pinnedTLS(serverName, fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		NextProtos: []string{"h2"},
		// The chain is verified below, against the CA that has the fingerprint.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := pki.VerifyPinned(state.PeerCertificates, fingerprint, serverName)
			return err
		},
	}
}
