package session

import (
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	// gateWidth is how many handshakes are under way at once. After a restart thousands of peers come together: were all
	// served at once, all would be finished late, most of them after their peer gave up, and the work done in vain.
	gateWidth = 64
	// gateHold is how long a slow peer may keep others out.
	gateHold = time.Second
	// gateWait is how long a peer waits at most. It is well below what peers are patient for: whoever would be served too
	// late is sent away at once, to come again after its back-off, and those who are served are done in time.
	gateWait = 15 * time.Second
)

// gate lets TLS handshakes through a few at a time, in the order in which peers first spoke.
type gate struct {
	credentials.TransportCredentials
	slots chan struct{}
}

func newGate(creds credentials.TransportCredentials) *gate {
	return &gate{TransportCredentials: creds, slots: make(chan struct{}, gateWidth)}
}

// ServerHandshake waits for the first bytes outside the gate: a peer that says nothing keeps nobody out. gRPC has set the
// connection's deadline.
func (g *gate) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	first := make([]byte, 512)
	n, err := raw.Read(first)
	if err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	select {
	case g.slots <- struct{}{}:
	default:
		wait := time.NewTimer(gateWait)
		defer wait.Stop()
		select {
		case g.slots <- struct{}{}:
		case <-wait.C:
			_ = raw.Close()
			return nil, nil, errCrowded
		}
	}
	leave := sync.OnceFunc(func() { <-g.slots })
	late := time.AfterFunc(gateHold, leave)
	defer leave()
	defer late.Stop()
	return g.TransportCredentials.ServerHandshake(&begunConn{Conn: raw, first: first[:n]})
}

var errCrowded = errors.New("too many handshakes at once")

// Clone keeps the gate common to all copies.
func (g *gate) Clone() credentials.TransportCredentials {
	return &gate{TransportCredentials: g.TransportCredentials.Clone(), slots: g.slots}
}

// begunConn is a connection of which the first bytes were read already.
type begunConn struct {
	net.Conn
	first []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}
