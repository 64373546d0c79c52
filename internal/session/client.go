package session

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session/sessionpb"
)

// ClientConfig is what a Client needs.
type ClientConfig struct {
	// Dir is the folder, made 0700, that keeps identity, newest wish and actions; nothing else may be in it. Where it is
	// empty everything is kept in memory only, which is for simulations.
	Dir string
	// Servers are tried in turn, from a random one on: "host:port", or "unix:" and the path of a socket.
	Servers []string
	// ServerName is checked against the server's certificate; pki.ServerName where empty.
	ServerName string
	// Token is used by Run to join where Dir holds no identity yet; Name is what a host wants to be called.
	Token, Name string
	// Version is the orrery binary's.
	Version string
	// OnWish is given each new wish, from one goroutine; while it works only the newest of those that come is kept. The
	// body is JSON of an AgentWish or a KeeperWish. Nil where wishes do not matter.
	OnWish func(generation uint64, body json.RawMessage)
	// KeepWish makes a new process's Run begin with the newest wish that an earlier one was given, before any server
	// is reached. Not for agents: what they were to make may have been removed since.
	KeepWish bool
	// OnAction does an action, from one goroutine, at most once for each ID. ctx is Run's. Nil refuses all.
	OnAction func(ctx context.Context, a Action) ActionResult
	// OnConnected is told when a stream begins and, with the reason, when it ends or cannot begin. It must not block.
	OnConnected func(connected bool, err error)
	Log         *slog.Logger
	// Reconnects wait for a random part of a bound that doubles from BackoffFirst (250 ms where 0) to BackoffMax (5 s).
	BackoffFirst, BackoffMax time.Duration
}

// Client is the end of a session that agents and keepers hold. It lasts as long as they do; Run keeps one stream going.
type Client struct {
	cfg    ClientConfig
	bootID string
	ledger *ledger

	mu     sync.Mutex
	id     *identity
	link   *link         // of the stream that is up; nil while none is
	joined chan struct{} // closed when id is first set
	server int           // index into cfg.Servers

	renew   chan struct{} // asks for a renewal at once
	renewed chan struct{} // a renewal has just been tried

	wish    *wishBox
	reports *outbox
	stats   *outbox
	results chan struct{} // there are results of actions to send
	actions chan Action
}

// NewClient opens the folder. It connects to nothing.
func NewClient(cfg ClientConfig) (*Client, error) {
	if len(cfg.Servers) == 0 || cfg.Log == nil {
		return nil, errors.New("make a session client: a server's address and a logger are needed")
	}
	if cfg.ServerName == "" {
		cfg.ServerName = pki.ServerName
	}
	if cfg.BackoffFirst <= 0 {
		cfg.BackoffFirst = 250 * time.Millisecond
	}
	if cfg.BackoffMax <= 0 {
		cfg.BackoffMax = 5 * time.Second
	}
	c := &Client{
		cfg: cfg, bootID: orrery.NewID("bo"), joined: make(chan struct{}), server: rand.IntN(len(cfg.Servers)),
		renew: make(chan struct{}, 1), renewed: make(chan struct{}, 1),
		wish: newWishBox(), reports: newOutbox(), stats: newOutbox(),
		results: make(chan struct{}, 1), actions: make(chan Action, 64),
	}
	actions := ""
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the session's folder: %w", err)
		}
		id, err := loadIdentity(cfg.Dir)
		if err != nil {
			return nil, err
		}
		if id != nil {
			c.id = id
			close(c.joined)
		}
		c.wish.load(filepath.Join(cfg.Dir, wishFile), cfg.KeepWish)
		actions = filepath.Join(cfg.Dir, actionsDir)
	}
	var err error
	c.ledger, err = openLedger(actions, time.Now())
	return c, err
}

// Identity tells who the client is; false before it has joined.
func (c *Client) Identity() (Identity, bool) {
	if id := c.current(); id != nil {
		return id.who, true
	}
	return Identity{}, false
}

// Connected tells whether a stream is up.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil
}

func (c *Client) current() *identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// Report makes v the newest report. It is sent soon, or when a server is reached again; what is set meanwhile takes its
// place, and what equals the last one sent is not sent again. v must not be changed after.
func (c *Client) Report(v any) { c.ReportFunc(func(bool) any { return v }) }

// ReportFunc makes what f gives the newest report. f is called when it is about to be sent, once more for each new
// stream; first is true for the first report of a stream, where once-per-stream things go. f must not block, and may
// return nil for nothing.
func (c *Client) ReportFunc(f func(first bool) any) { c.reports.put(f) }

// Stats makes v the newest stats. They are dropped where no stream is up.
func (c *Client) Stats(v any) {
	if c.Connected() {
		c.stats.put(func(bool) any { return v })
	}
}

// Join proves the client by a one-time token and keeps the identity that it is given. The server is checked by the
// fingerprint in the token before the token is sent. Each server is tried once. Permanent tells of the error whether
// another try is in vain.
func (c *Client) Join(ctx context.Context, token, name string) error {
	t, err := pki.ParseJoinToken(token)
	if err != nil {
		return err
	}
	key, err := c.joinKey()
	if err != nil {
		return err
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return err
	}
	req := &sessionpb.JoinRequest{Token: token, Csr: csr, Name: name}
	var resp *sessionpb.JoinResponse
	for range c.cfg.Servers {
		address := c.address()
		if resp, err = c.joinAt(ctx, address, t.Fingerprint, req); err == nil {
			break
		}
		c.nextServer()
		if err = fmt.Errorf("join at %s: %w", address, err); Permanent(err) || ctx.Err() != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	id, err := newIdentity(key, resp.GetCertificates(), resp.GetCa())
	if err != nil {
		return fmt.Errorf("join: what the server gave cannot be used: %w", err)
	}
	if cas, err := pki.ParseCertificates(id.ca); err != nil || pki.Fingerprint(cas[0]) != t.Fingerprint {
		return errors.New("join: the server gave another CA than the token names")
	}
	return c.adopt(id, key, resp.GetCertificates())
}

func (c *Client) joinAt(ctx context.Context, address, fingerprint string, req *sessionpb.JoinRequest) (*sessionpb.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	l, err := dial(ctx, address, pinnedTLS(c.cfg.ServerName, fingerprint))
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	resp, err := sessionpb.NewSessionClient(l).Join(ctx, req)
	return resp, fromStatus(err)
}

func (c *Client) joinKey() (crypto.Signer, error) {
	if c.cfg.Dir == "" {
		return pki.NewKey()
	}
	return joinKey(c.cfg.Dir)
}

// adopt keeps an identity and uses it from now on.
func (c *Client) adopt(id *identity, key crypto.Signer, chain []byte) error {
	if c.cfg.Dir != "" {
		if err := saveIdentity(c.cfg.Dir, id, key, chain); err != nil {
			return err
		}
		_ = os.Remove(filepath.Join(c.cfg.Dir, joinKeyFile)) // its work is done; it is harmless where it stays
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.id == nil
	c.id = id
	if first {
		close(c.joined)
	}
	return nil
}

// Sign asks for a certificate for key's public part, over the stream's connection or one of its own.
func (c *Client) Sign(ctx context.Context, purpose Purpose, key crypto.Signer) (chain, ca []byte, err error) {
	csr, err := pki.NewCSR(key)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	id, l, address := c.id, c.link, c.cfg.Servers[c.server]
	c.mu.Unlock()
	if id == nil {
		return nil, nil, orrery.Errorf(orrery.KindUnavailable, "no certificate can be asked for before joining")
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if l == nil {
		if l, err = dial(ctx, address, provenTLS(c.cfg.ServerName, c.current)); err != nil {
			return nil, nil, fmt.Errorf("connect to %s: %w", address, err)
		}
		defer func() { _ = l.Close() }()
	}
	req := &sessionpb.SignRequest{Purpose: sessionpb.SignRequest_SESSION, Csr: csr}
	if purpose == PurposeDatabase {
		req.Purpose = sessionpb.SignRequest_DATABASE
	}
	resp, err := sessionpb.NewSessionClient(l).Sign(ctx, req)
	if err != nil {
		return nil, nil, fmt.Errorf("ask %s for a certificate: %w", l.address, fromStatus(err))
	}
	return resp.GetCertificates(), resp.GetCa(), nil
}

func (c *Client) address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Servers[c.server]
}

func (c *Client) nextServer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = (c.server + 1) % len(c.cfg.Servers)
}
