package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/orrery-db/orrery/internal/pki"
)

// connectTimeout bounds dialing, the handshake and the first answer. It is generous: after the restart of a server with
// many peers, handshakes queue, and giving up would only make them begin anew.
const connectTimeout = 20 * time.Second

// link is one connection to a server.
type link struct {
	*grpc.ClientConn
	address string
	// silence is how long the server may say nothing before it counts as dead; 0 is for ever. Set when the server has
	// told its heartbeat.
	silence *atomic.Int64
}

// dial makes a link to one address. Nothing is sent before the first call.
func dial(address string, tlsConfig *tls.Config) (*link, error) {
	l := &link{address: address, silence: new(atomic.Int64)}
	l.silence.Store(int64(connectTimeout))
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := grpc.NewClient("passthrough:///session",
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			network, addr := "tcp", address
			if path, ok := strings.CutPrefix(address, "unix:"); ok {
				network, addr = "unix", path
			}
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &watchedConn{Conn: c, silence: l.silence}, nil
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10),
		grpc.WithReadBufferSize(1<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTimeout}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	l.ClientConn = conn
	return l, nil
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
		// The chain is verified below, against the CA that has the fingerprint.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := pki.VerifyPinned(state.PeerCertificates, fingerprint, serverName)
			return err
		},
	}
}
