package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
)

func testCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("test")
	check(t, err)
	return ca
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func publicKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	key, err := NewKey()
	check(t, err)
	return key.Public()
}

func parse(t *testing.T, chain []byte) []*x509.Certificate {
	t.Helper()
	certs, err := ParseCertificates(chain)
	check(t, err)
	return certs
}

func TestCAIsKeptAsPEM(t *testing.T) {
	ca := testCA(t)
	keyPEM, err := ca.KeyPEM()
	check(t, err)
	again, err := LoadCA(ca.CertPEM(), keyPEM)
	check(t, err)
	if again.Fingerprint() != ca.Fingerprint() || len(ca.Fingerprint()) != 64 {
		t.Fatalf("fingerprints %s and %s", again.Fingerprint(), ca.Fingerprint())
	}
	chain, err := again.IssueSession(KindHost, orrery.NewID(orrery.PrefixHost), publicKey(t))
	check(t, err)
	if _, err := VerifySession(ca.Pool(), parse(t, chain), time.Now()); err != nil {
		t.Fatal(err)
	}

	other, err := testCA(t).KeyPEM()
	check(t, err)
	if _, err := LoadCA(ca.CertPEM(), other); err == nil {
		t.Error("a CA was loaded with another's key")
	}
	if _, err := LoadCA(chain, keyPEM); err == nil {
		t.Error("a leaf was loaded as a CA")
	}
	for _, bad := range []string{"", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", string(keyPEM)} {
		if _, err := LoadCA([]byte(bad), keyPEM); err == nil {
			t.Errorf("a CA was loaded from %q", bad)
		}
	}
}

func TestVerifySession(t *testing.T) {
	ca, now := testCA(t), time.Now()
	who := Identity{Kind: KindInstance, ID: orrery.NewID(orrery.PrefixInstance)}
	chain, err := ca.IssueSession(who.Kind, who.ID, publicKey(t))
	check(t, err)
	certs := parse(t, chain)
	if uri := certs[0].URIs[0].String(); uri != "orrery://instance/"+who.ID {
		t.Errorf("the URI is %s", uri)
	}
	for at, wantErr := range map[time.Duration]error{
		0: nil, -Backdate / 2: nil, 23 * time.Hour: nil, 25 * time.Hour: ErrExpired, -2 * Backdate: ErrExpired, 100 * 365 * 24 * time.Hour: ErrExpired,
	} {
		got, err := VerifySession(ca.Pool(), certs, now.Add(at))
		if got != who || !errors.Is(err, wantErr) || (wantErr == nil) != (err == nil) {
			t.Errorf("at %v: %v, %v; want %v, %v", at, got, err, who, wantErr)
		}
	}
	if _, err := VerifySession(testCA(t).Pool(), certs, now); err == nil || errors.Is(err, ErrExpired) {
		t.Errorf("of another CA: %v", err)
	}
	if _, err := VerifySession(ca.Pool(), nil, now); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("none: %v", err)
	}
	server, err := ca.IssueServer([]string{"127.0.0.1", "db.example"}, publicKey(t))
	check(t, err)
	if _, err := VerifySession(ca.Pool(), parse(t, server), now); err == nil {
		t.Error("a server's certificate passed for a session's")
	}
	database, err := ca.IssueDatabase(who.ID, []string{"localhost"}, nil, publicKey(t))
	check(t, err)
	if _, err := VerifySession(ca.Pool(), parse(t, database), now); err == nil {
		t.Error("a database's certificate passed for a session's")
	}
}

func TestOnlyRealIdentitiesAreCertified(t *testing.T) {
	ca, host := testCA(t), orrery.NewID(orrery.PrefixHost)
	for _, who := range []Identity{
		{KindInstance, host}, {KindHost, ""}, {"admin", host}, {KindHost, host + "/x"}, {KindHost, "ho-../../../etc/pass"}, {KindHost, strings.ToUpper(host)},
	} {
		if _, err := ca.IssueSession(who.Kind, who.ID, publicKey(t)); err == nil {
			t.Errorf("%v was certified", who)
		}
	}
}

func TestIssueDatabase(t *testing.T) {
	ca := testCA(t)
	ca.DatabaseLife = 48 * time.Hour
	chain, err := ca.IssueDatabase("ds-1", []string{"localhost", "in-1"}, []net.IP{net.IPv4(127, 0, 0, 1)}, publicKey(t))
	check(t, err)
	leaf := parse(t, chain)[0]
	if leaf.Subject.CommonName != "ds-1" {
		t.Errorf("the common name is %q", leaf.Subject.CommonName)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		for _, name := range []string{"localhost", "in-1", "127.0.0.1"} {
			opts := x509.VerifyOptions{Roots: ca.Pool(), DNSName: name, KeyUsages: []x509.ExtKeyUsage{use}}
			if _, err := leaf.Verify(opts); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if d := time.Until(leaf.NotAfter); d > 48*time.Hour || d < 47*time.Hour {
		t.Errorf("it lives %v", d)
	}
	if d := time.Until(RenewAt(leaf)); d > 32*time.Hour || d < 31*time.Hour {
		t.Errorf("it is renewed after %v of 48 hours", d)
	}
}

func TestCSRGivesOnlyItsKey(t *testing.T) {
	key, err := NewKey()
	check(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"evil.example"},
	}, key)
	check(t, err)
	pub, err := ParseCSR(csr)
	check(t, err)
	chain, err := testCA(t).IssueSession(KindHost, orrery.NewID(orrery.PrefixHost), pub)
	check(t, err)
	if leaf := parse(t, chain)[0]; leaf.Subject.CommonName == "admin" || len(leaf.DNSNames) != 0 || !key.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("the certificate has %v, %v", leaf.Subject, leaf.DNSNames)
	}

	broken := slices.Clone(csr)
	broken[len(broken)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	weakCSR, err := NewCSR(weak)
	check(t, err)
	for name, der := range map[string][]byte{"empty": nil, "garbage": []byte("x"), "signature": broken, "RSA": weakCSR} {
		if _, err := ParseCSR(der); orrery.KindOf(err) != orrery.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJoinToken(t *testing.T) {
	id, secret, fp := orrery.NewID(orrery.PrefixToken), NewSecret(), testCA(t).Fingerprint()
	got, err := ParseJoinToken("  " + MakeJoinToken(id, secret, fp) + "\n")
	check(t, err)
	if got != (JoinToken{ID: id, Secret: secret, Fingerprint: fp}) {
		t.Errorf("got %+v", got)
	}
	if h := got.Hash(); len(h) != 64 || strings.Contains(h, secret) {
		t.Errorf("the hash is %s", h)
	}
	for _, bad := range []string{"", "a.b.c", id + "." + secret, MakeJoinToken(id, "short", fp), MakeJoinToken(id, secret, fp[1:]), MakeJoinToken(id, secret, fp) + ".x"} {
		if _, err := ParseJoinToken(bad); orrery.KindOf(err) != orrery.KindInvalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestVerifyPinned(t *testing.T) {
	ca, other := testCA(t), testCA(t)
	chain, err := ca.IssueServer([]string{"10.0.0.1"}, publicKey(t))
	check(t, err)
	certs := parse(t, chain)
	for _, name := range []string{ServerName, "10.0.0.1"} {
		if got, err := VerifyPinned(certs, ca.Fingerprint(), name); err != nil || Fingerprint(got) != ca.Fingerprint() {
			t.Errorf("%s: %v", name, err)
		}
	}
	theirs, err := other.IssueServer(nil, publicKey(t))
	check(t, err)
	session, err := ca.IssueSession(KindHost, orrery.NewID(orrery.PrefixHost), publicKey(t))
	check(t, err)
	for what, presented := range map[string][]*x509.Certificate{
		"another plane's":             parse(t, theirs),
		"another's leaf, with our CA": {parse(t, theirs)[0], certs[1]},
		"a session certificate":       {parse(t, session)[0], certs[1]},
		"a leaf without its CA":       certs[:1],
		"none":                        nil,
		"our CA alone":                certs[1:],
	} {
		if _, err := VerifyPinned(presented, ca.Fingerprint(), ServerName); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if _, err := VerifyPinned(certs, ca.Fingerprint(), "10.0.0.2"); err == nil {
		t.Error("another name was taken")
	}
}

func TestServerCertificateIsIssuedAnew(t *testing.T) {
	ca := testCA(t)
	now := time.Now()
	ca.Now = func() time.Time { return now }
	s := NewServerCertificate(ca, []string{"localhost"})
	serial := func() string {
		cert, err := s.Get(nil)
		check(t, err)
		if len(cert.Certificate) != 2 {
			t.Fatalf("the chain has %d certificates", len(cert.Certificate))
		}
		return cert.Leaf.SerialNumber.String()
	}
	first := serial()
	now = now.Add(ServerLife / 2)
	if serial() != first {
		t.Error("issued anew after half its life")
	}
	now = now.Add(ServerLife / 3)
	second := serial()
	if second == first {
		t.Error("not issued anew near its end")
	}
	now = now.Add(-ServerLife) // the clock jumps
	if serial() == second {
		t.Error("not issued anew though it is not valid yet")
	}
}
