package session

import (
	"testing"
	"time"

	"github.com/orrery-db/orrery/internal/pki"
)

func TestCertificateRenewsItselfWithoutDroppingTheStream(t *testing.T) {
	t.Parallel()
	p := newTestPlane(t)
	p.ca.SessionLife = 3 * time.Second
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir := shortDir(t)
	c := startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}, Token: p.token(newKeeperID(), time.Hour)})
	sess := receive(t, p.begun, "the session")
	first := c.current().cert.Leaf
	waitFor(t, "two renewals", func() bool { return c.current().cert.Leaf.NotAfter.After(first.NotAfter.Add(3 * time.Second)) })
	select {
	case <-sess.closed:
		t.Error("the stream was dropped")
	default:
	}
	kept, err := loadIdentity(dir)
	check(t, err)
	if !kept.cert.Leaf.NotAfter.After(first.NotAfter) {
		t.Error("the new certificate was not kept")
	}
	s.kill()
	s.start()
	receive(t, p.begun, "a session with the renewed certificate")
}

// A machine that slept past its certificate's end, or a clock that jumped either way, must not lose its identity.
func TestLapsedCertificateIsRenewed(t *testing.T) {
	for name, jump := range map[string]time.Duration{"asleep for a month": 30 * 24 * time.Hour, "the clock went back": -3 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			p := newTestPlane(t)
			now := func() time.Time { return time.Now().Add(jump) }
			s := startServer(t, p, "127.0.0.1:0", nil)
			dir, who := shortDir(t), newKeeperID()
			c, err := NewClient(ClientConfig{Dir: dir, Servers: []string{s.address}, Log: logger(t)})
			check(t, err)
			check(t, c.Join(t.Context(), p.token(who, time.Hour), ""))
			s.kill()
			// The server's clock jumps; its own certificate stays good for the client, whose clock did not.
			p.ca.Now, s.cfg.Now = now, now
			s.start()
			again := startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}})
			if sess := receive(t, p.begun, "the session"); sess.who != who {
				t.Errorf("it is %v", sess.who)
			}
			if leaf := again.current().cert.Leaf; now().After(leaf.NotAfter) || now().Before(leaf.NotBefore) {
				t.Errorf("the certificate is valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
			}
		})
	}
}

func TestLapsedCertificateRenewsAndNothingElse(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	c, err := NewClient(ClientConfig{Servers: []string{s.address}, Log: logger(t)})
	check(t, err)
	check(t, c.Join(t.Context(), p.token(newKeeperID(), time.Hour), ""))
	s.kill()
	s.cfg.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	s.start()
	_, _, err = c.Sign(t.Context(), PurposeDatabase, mustKey(t))
	wantCode(t, err, CodeExpired)
	_, _, err = c.Sign(t.Context(), PurposeSession, mustKey(t))
	check(t, err)
	l, err := dial(t.Context(), s.address, provenTLS(pki.ServerName, c.current))
	check(t, err)
	defer l.Close()
	_, err = c.greet(t.Context(), l)
	wantCode(t, err, CodeExpired)
	s.kill()
	s.cfg.Now = func() time.Time { return time.Now().Add(3 * 365 * 24 * time.Hour) } // past the grace
	s.start()
	_, _, err = c.Sign(t.Context(), PurposeSession, mustKey(t))
	wantCode(t, err, "certificate_lapsed")
	if !Permanent(err) {
		t.Errorf("%v is not permanent", err)
	}
}
