package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

// Kind is what an identity stands for.
type Kind string

// The kinds of identity.
const (
	KindHost     Kind = "host"     // a host's agent
	KindInstance Kind = "instance" // an instance's keeper
)

// Identity is who a session certificate says its holder is.
type Identity struct {
	Kind Kind
	ID   string // of a host or an instance
}

// String gives the identity for people and logs, as in "host/ho-…".
func (i Identity) String() string { return string(i.Kind) + "/" + i.ID }

func (i Identity) uri() *url.URL {
	return &url.URL{Scheme: "orrery", Host: string(i.Kind), Path: "/" + i.ID}
}

func (i Identity) check() error {
	prefix, ok := map[Kind]string{KindHost: orrery.PrefixHost, KindInstance: orrery.PrefixInstance}[i.Kind]
	if !ok {
		return fmt.Errorf("%q is no kind of identity", i.Kind)
	}
	if !orrery.IsID(i.ID, prefix) {
		return fmt.Errorf("%q is not the ID of one %s", orrery.Shorten(i.ID, 60), i.Kind)
	}
	return nil
}

// ParseIdentity reads the identity of a session certificate. Only of one that was verified does it mean anything.
func ParseIdentity(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("the certificate of %q carries no identity", orrery.Shorten(cert.Subject.CommonName, 60))
	}
	u := cert.URIs[0]
	who := Identity{Kind: Kind(u.Host), ID: strings.TrimPrefix(u.Path, "/")}
	if err := who.check(); err != nil {
		return Identity{}, err
	}
	if who.ID != cert.Subject.CommonName || *u != *who.uri() {
		return Identity{}, fmt.Errorf("the certificate of %q carries another identity, %s", orrery.Shorten(cert.Subject.CommonName, 60), who)
	}
	return who, nil
}

// ErrExpired is in the chain of errors of certificates that are good at another time; ErrNoCertificate where there is none.
var (
	ErrExpired       = errors.New("the certificate is not valid at this time")
	ErrNoCertificate = errors.New("no certificate was presented")
)

// VerifySession checks the certificates that a peer presented in a TLS handshake (which has proved that it holds the
// key) against the plane CA, and reads its identity. For a certificate that is right in all but its time (it has expired,
// or the clock jumped back) it gives the identity and an error that is ErrExpired: whether such an identity may renew is
// the caller's to decide.
func VerifySession(roots *x509.CertPool, presented []*x509.Certificate, now time.Time) (Identity, error) {
	if len(presented) == 0 {
		return Identity{}, ErrNoCertificate
	}
	leaf := presented[0]
	opts := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	expired := now.After(leaf.NotAfter) || now.Before(leaf.NotBefore)
	if expired {
		opts.CurrentTime = leaf.NotAfter
	}
	if _, err := leaf.Verify(opts); err != nil {
		return Identity{}, fmt.Errorf("verify the certificate of %q: %w", orrery.Shorten(leaf.Subject.CommonName, 60), err)
	}
	who, err := ParseIdentity(leaf)
	if err != nil {
		return Identity{}, err
	}
	if expired {
		return who, fmt.Errorf("verify the certificate of %s: %w (%s to %s)", who, ErrExpired,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return who, nil
}

// VerifyPinned checks the certificates that a server presented where nothing but the fingerprint of its CA is known,
// and gives the CA, which the server has to present too.
func VerifyPinned(presented []*x509.Certificate, fingerprint, serverName string) (*x509.Certificate, error) {
	for _, ca := range presented {
		if Fingerprint(ca) != fingerprint {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := presented[0].Verify(x509.VerifyOptions{
			Roots: roots, DNSName: serverName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		if err != nil {
			return nil, fmt.Errorf("verify the server's certificate: %w", err)
		}
		if !ca.IsCA {
			return nil, errors.New("verify the server's certificate: the pinned certificate is not a CA's")
		}
		return ca, nil
	}
	return nil, errors.New("verify the server's certificate: it is not of the CA that the join token names")
}
