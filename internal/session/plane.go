package session

import (
	"context"
	"crypto"
	"encoding/json"

	"github.com/orrery-db/orrery/internal/pki"
)

// Identity is who is at the other end of a session, proved by its certificate.
type Identity = pki.Identity

// The kinds of identity.
const (
	KindHost     = pki.KindHost
	KindInstance = pki.KindInstance
)

// Purpose is what a certificate is asked for.
type Purpose int

// The purposes.
const (
	PurposeSession  Purpose = iota // the asker's own session certificate, anew
	PurposeDatabase                // the certificate of the asker's database
)

// Hello is what an agent or keeper says of itself when its stream begins.
type Hello struct {
	Version string // of the orrery binary
	BootID  string // changes with each start of the process
	// Generation of the newest wish that this process holds; 0 where it holds none.
	Generation uint64
}

// Wish is a whole desired state: the JSON of an AgentWish or a KeeperWish.
type Wish struct {
	Generation uint64
	Body       json.RawMessage
}

// Action is a one-off, done at most once. Its ID is made of letters, digits, "-" and "_", at most 64.
type Action struct {
	ID   string
	Kind string
	Args json.RawMessage
}

// Plane is what the server end of sessions asks of the control plane. All methods are called from many goroutines at
// once. Errors that are *orrery.Error reach the peer, but for their cause; KindUnauthorized, KindForbidden and
// KindNotFound are permanent to it: it stops trying. Everything else is told as "unavailable" and tried again.
type Plane interface {
	// Join uses a one-time token up and issues a session certificate for pub. name is what a host wants to be called.
	// It is the only call whose caller is unknown. The same token with the same key may come again, after a lost answer.
	Join(ctx context.Context, token, name string, pub crypto.PublicKey) (id string, chain, ca []byte, err error)
	// Sign issues a certificate for pub. What it contains follows from who alone. It is where an identity that is gone, or
	// was revoked, is refused for its next certificate. An identity whose session certificate has lapsed may ask too.
	Sign(ctx context.Context, who Identity, purpose Purpose, pub crypto.PublicKey) (chain, ca []byte, err error)
	// AgentConnected is called when a host's agent begins its stream. ctx ends with the stream. It refuses whom it does
	// not know. Of one identity there is one session at a time: an older one was closed before.
	AgentConnected(ctx context.Context, who Identity, hello Hello) (AgentSession, error)
	// KeeperConnected is AgentConnected for an instance's keeper.
	KeeperConnected(ctx context.Context, who Identity, hello Hello) (KeeperSession, error)
}

// AgentSession is the plane's side of one agent's stream. Report is called for one report at a time and never after
// Close. Where it fails with anything but KindInvalid, KindForbidden or KindNotFound it is called again with back-off.
type AgentSession interface {
	// Wishes gives what to send, newest last; whoever fills it keeps only the newest (a buffer of one). Closing the channel ends the
	// stream; the peer connects again and is refused then, where it is no longer known.
	Wishes() <-chan Wish
	Report(ctx context.Context, r AgentReport) error
	Close()
}

// KeeperSession is the plane's side of one keeper's stream; see AgentSession.
type KeeperSession interface {
	Wishes() <-chan Wish
	// Actions gives one-offs to send; nil where there are none. After a reconnect an action whose result has not come
	// may be sent again: it is done at most once.
	Actions() <-chan Action
	Report(ctx context.Context, r KeeperReport) error
	// Stats must not block.
	Stats(s KeeperStats)
	// ActionResult may be called more than once with one result. It is acknowledged to the keeper when nil is returned.
	ActionResult(ctx context.Context, id string, r ActionResult) error
	Close()
}
