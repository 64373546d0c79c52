package session

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/orrery-db/orrery/internal/pki"
)

// Run joins where that is still to do, and keeps a stream to one of the servers until ctx ends or a server refuses for
// good: the identity is gone or unknown, or the token is no good (see Permanent). Then it returns the server's error;
// what to do is the caller's to decide, and Run may be called again. It is not to be called twice at once.
func (c *Client) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	helpers.Go(func() { c.passWishes(ctx) })
	helpers.Go(func() { c.doActions(ctx) })
	if err := c.joinUntilDone(ctx); err != nil {
		return err
	}
	helpers.Go(func() { c.keepRenewed(ctx) })

	b := backoff{first: c.cfg.BackoffFirst, limit: c.cfg.BackoffMax}
	said := ""
	for {
		began := time.Now()
		connected, err := c.runStream(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.cfg.OnConnected != nil {
			c.cfg.OnConnected(false, err)
		}
		if connected && time.Since(began) > c.cfg.BackoffMax { // not one that a server takes and drops at once
			b.reset()
		}
		switch {
		case hasCode(err, CodeExpired):
			if err := c.renewNow(ctx); Permanent(err) {
				return err
			}
		case Permanent(err):
			return err
		case hasCode(err, CodeReplaced):
			b.tries = max(b.tries, 4) // two processes with one identity must not chase each other
		}
		if !connected {
			c.nextServer()
		}
		wait := b.next()
		if text := err.Error(); text != said || connected {
			said = text
			c.cfg.Log.Warn("no session with the server; trying again", "err", err)
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

func (c *Client) joinUntilDone(ctx context.Context) error {
	b := backoff{first: c.cfg.BackoffFirst, limit: c.cfg.BackoffMax}
	for {
		if _, ok := c.Identity(); ok {
			return nil
		}
		if c.cfg.Token == "" {
			select {
			case <-c.joined:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := c.Join(ctx, c.cfg.Token, c.cfg.Name)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if Permanent(err) || isInvalid(err) {
			return err
		}
		c.cfg.Log.Warn("cannot join yet; trying again", "err", err)
		if !pause(ctx, b.next()) {
			return ctx.Err()
		}
	}
}

// passWishes hands over the newest wish, one at a time.
func (c *Client) passWishes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wish.signal:
		}
		if w, ok := c.wish.take(); ok && c.cfg.OnWish != nil {
			c.cfg.OnWish(w.Generation, w.Body)
		}
	}
}

// doActions does one action after the other.
func (c *Client) doActions(ctx context.Context) {
	for {
		var a Action
		select {
		case <-ctx.Done():
			return
		case a = <-c.actions:
		}
		fresh, err := c.ledger.begin(a.ID, time.Now())
		if err != nil {
			// Not begun, so the server may send it again: with the next stream.
			c.cfg.Log.Error("an action was not begun", "action", a.ID, "kind", a.Kind, "err", err)
			continue
		}
		if fresh {
			r := ActionResult{Message: "actions of this kind are not known here"}
			if c.cfg.OnAction != nil {
				r = c.cfg.OnAction(ctx, a)
			}
			if err := c.ledger.finish(a.ID, r); err != nil {
				c.cfg.Log.Error("the result of an action was not written down", "action", a.ID, "err", err)
			}
		} else {
			c.ledger.again(a.ID)
		}
		ring(c.results)
	}
}

// keepRenewed renews the session certificate at about two thirds of its life. Streams go on; the next handshake uses the
// new one. Waiting is done on the monotonic clock: a jump of the wall clock neither hastens nor delays it, and one that
// makes the certificate lapse is noticed by the server's refusal.
func (c *Client) keepRenewed(ctx context.Context) {
	leaf := c.current().cert.Leaf
	due := min(time.Until(pki.RenewAt(leaf)), life(leaf)*2/3)
	b := backoff{first: time.Second, limit: max(time.Second, life(leaf)/40)}
	for {
		wait := max(due-rand.N(life(leaf)/12+1), 0)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.renewed: // by renewNow
			timer.Stop()
			leaf = c.current().cert.Leaf
			due = life(leaf) * 2 / 3
			continue
		case <-timer.C:
		}
		err := c.renewOnce(ctx)
		for err != nil && ctx.Err() == nil && !Permanent(err) {
			c.cfg.Log.Warn("the session certificate could not be renewed; trying again", "err", err)
			if !pause(ctx, b.next()) {
				return
			}
			err = c.renewOnce(ctx)
		}
		if err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("the session certificate cannot be renewed", "err", err) // the stream's next begin says so to our caller
		}
		b.reset()
		leaf = c.current().cert.Leaf
		due = life(leaf) * 2 / 3
	}
}

func life(leaf *x509.Certificate) time.Duration {
	return max(leaf.NotAfter.Sub(leaf.NotBefore.Add(pki.Backdate)), time.Second)
}

// renewNow renews a certificate that the server says has lapsed.
func (c *Client) renewNow(ctx context.Context) error {
	err := c.renewOnce(ctx)
	if err == nil {
		ring(c.renewed)
	}
	return err
}

// renewOnce gets a new certificate for a new key.
func (c *Client) renewOnce(ctx context.Context) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	chain, ca, err := c.Sign(ctx, PurposeSession, key)
	if err != nil {
		return err
	}
	id, err := newIdentity(key, chain, ca)
	if err != nil {
		return err
	}
	if was := c.current().who; id.who != was {
		return fmt.Errorf("renew the certificate of %s: the server gave one of %s", was, id.who)
	}
	if err := c.adopt(id, key, chain); err != nil {
		return err
	}
	c.cfg.Log.Debug("session certificate renewed", "until", id.cert.Leaf.NotAfter)
	return nil
}
