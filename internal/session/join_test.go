package session

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session/sessionpb"
)

func TestJoinIsRefused(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	used := p.token(newKeeperID(), time.Hour)
	startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Token: used})
	receive(t, p.begun, "the session of the first user of the token")
	unknown := pki.MakeJoinToken(orrery.NewID(orrery.PrefixToken), pki.NewSecret(), p.ca.Fingerprint())

	for name, tc := range map[string]struct{ token, says string }{
		"used":    {used, "has been used"},
		"expired": {p.token(newKeeperID(), -time.Second), "has expired"},
		"unknown": {unknown, "is unknown"},
		"garbage": {"no-token", "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks := len(p.begun)
			dir := shortDir(t)
			c := startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}, Token: tc.token})
			err := receive(t, c.ended, "the refusal")
			c.ended <- err
			if err == nil || !strings.Contains(err.Error(), tc.says) || len(p.begun) != noLeaks {
				t.Fatalf("Run ended with %v, want one that says %q", err, tc.says)
			}
			if _, err := os.Stat(identityPath(dir)); err == nil {
				t.Error("an identity was kept")
			}
		})
	}
}

// A server of another plane must not see the token.
func TestJoinTellsTheTokenToItsOwnPlaneOnly(t *testing.T) {
	ours, theirs := newTestPlane(t), newTestPlane(t)
	who := newKeeperID()
	token := ours.token(who, time.Hour)
	theirs.tokens = ours.tokens // it would take it
	s := startServer(t, theirs, "127.0.0.1:0", nil)
	c, err := NewClient(ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Log: logger(t)})
	check(t, err)
	err = c.Join(t.Context(), token, "")
	if err == nil || Permanent(err) || !strings.Contains(err.Error(), "not of the CA that the join token names") {
		t.Fatalf("the join ended with %v", err)
	}
	for _, tok := range theirs.tokens {
		if tok.key != "" {
			t.Error("the token was sent")
		}
	}
}

// The answer to a join may be lost: the same key may ask again, in a new process too.
func TestJoinAgainWithTheSameKey(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	dir, who := shortDir(t), newKeeperID()
	token := p.token(who, time.Hour)
	key, err := joinKey(dir)
	check(t, err)
	if _, _, _, err := p.Join(t.Context(), token, "", key.Public()); err != nil { // the answer gets lost
		t.Fatal(err)
	}
	c, err := NewClient(ClientConfig{Dir: dir, Servers: []string{s.address}, Log: logger(t)})
	check(t, err)
	check(t, c.Join(t.Context(), token, ""))
	if got, ok := c.Identity(); !ok || got != who {
		t.Errorf("joined as %v", got)
	}
}

func TestNothingButJoinWithoutACertificate(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	l, err := dial(t.Context(), s.address, pinnedTLS(pki.ServerName, p.ca.Fingerprint()))
	check(t, err)
	defer l.Close()
	api := sessionpb.NewSessionClient(l)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = api.Sign(ctx, &sessionpb.SignRequest{})
	wantCode(t, fromStatus(err), "certificate_missing")
	stream, err := api.Connect(ctx)
	check(t, err)
	_, err = stream.Recv()
	wantCode(t, fromStatus(err), "certificate_missing")
	for _, m := range sessionpb.Session_ServiceDesc.Methods { // what is added later is covered as well
		if m.MethodName == "Join" {
			continue
		}
		err := l.Invoke(ctx, "/"+sessionpb.Session_ServiceDesc.ServiceName+"/"+m.MethodName, &sessionpb.SignRequest{}, &sessionpb.SignResponse{})
		wantCode(t, fromStatus(err), "certificate_missing")
	}
}

func TestCertificateOfAnotherPlane(t *testing.T) {
	p, other := newTestPlane(t), newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	key, err := pki.NewKey()
	check(t, err)
	who := newKeeperID()
	chain, err := other.ca.IssueSession(who.Kind, who.ID, key.Public())
	check(t, err)
	forged, err := newIdentity(key, chain, other.ca.CertPEM())
	check(t, err)
	forged.pool = p.ca.Pool() // it trusts the server; the server must not trust it
	c := startClient(t, ClientConfig{Servers: []string{s.address}, Log: logger(t)})
	c.mu.Lock()
	c.id = forged
	close(c.joined)
	c.mu.Unlock()
	err = receive(t, c.ended, "the refusal")
	c.ended <- err
	wantCode(t, err, "certificate_unknown")
	if len(p.begun) != 0 {
		t.Error("the plane was told")
	}
}

func TestGoneIdentityIsRefusedForGood(t *testing.T) {
	noLeaks(t)
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	who := newKeeperID()
	c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Token: p.token(who, time.Hour)})
	sess := receive(t, p.begun, "the session")
	p.mu.Lock()
	p.gone[who] = true
	p.mu.Unlock()
	close(sess.wishes) // as the hub does when the instance is deleted
	err := receive(t, c.ended, "the refusal")
	c.ended <- err
	wantCode(t, err, "identity_gone")
	if !Permanent(err) {
		t.Errorf("%v is not permanent", err)
	}
	_, _, err = c.Sign(t.Context(), PurposeSession, mustKey(t))
	wantCode(t, err, "identity_gone")
}

func TestDatabaseCertificate(t *testing.T) {
	p := newTestPlane(t)
	s := startServer(t, p, "127.0.0.1:0", nil)
	who := newKeeperID()
	c := startClient(t, ClientConfig{Dir: shortDir(t), Servers: []string{s.address}, Token: p.token(who, time.Hour)})
	receive(t, p.begun, "the session")
	chain, ca, err := c.Sign(t.Context(), PurposeDatabase, mustKey(t))
	check(t, err)
	certs, err := pki.ParseCertificates(chain)
	check(t, err)
	if certs[0].Subject.CommonName != "ds-of-"+who.ID || string(ca) != string(p.data.CertPEM()) {
		t.Errorf("got a certificate of %s", certs[0].Subject.CommonName)
	}
}
