package pki

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/orrery-db/orrery"
)

// ServerName is a name that every server certificate of the plane has. Agents and keepers check it where they are told
// no other: the plane CA is the plane's own, so that the address by which a server is reached need not be certified.
const ServerName = "plane.orrery.internal"

// IssueServer issues a certificate for one of the plane's own listeners: ServerAuth, for names (DNS names or IP
// addresses) and ServerName. The PEM chain ends with the CA, by which a joiner that knows only its fingerprint finds it.
func (c *CA) IssueServer(names []string, pub crypto.PublicKey) ([]byte, error) {
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: ServerName},
		DNSNames:    []string{ServerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else if name != "" && name != ServerName {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	chain, err := c.issue(tmpl, cmp.Or(c.ServerLife, ServerLife), pub)
	if err != nil {
		return nil, fmt.Errorf("issue a server certificate: %w", err)
	}
	return append(chain, c.pem...), nil
}

// IssueSession issues the certificate by which a host's agent or an instance's keeper proves itself: ClientAuth, the ID
// as common name, the identity as URI.
func (c *CA) IssueSession(kind Kind, id string, pub crypto.PublicKey) ([]byte, error) {
	who := Identity{Kind: kind, ID: id}
	if err := who.check(); err != nil {
		return nil, fmt.Errorf("issue a session certificate: %w", err)
	}
	chain, err := c.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: id},
		URIs:        []*url.URL{who.uri()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, cmp.Or(c.SessionLife, SessionLife), pub)
	if err != nil {
		return nil, fmt.Errorf("issue the session certificate of %s: %w", who, err)
	}
	return chain, nil
}

// IssueDatabase issues the certificate of one of a datastore's instances: to clients it is a server's, for names and
// ips; to the other members it is a client's, with the datastore's ID as common name.
func (c *CA) IssueDatabase(datastore string, names []string, ips []net.IP, pub crypto.PublicKey) ([]byte, error) {
	chain, err := c.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: datastore},
		DNSNames:    names,
		IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, cmp.Or(c.DatabaseLife, DatabaseLife), pub)
	if err != nil {
		return nil, fmt.Errorf("issue a database certificate of %s: %w", datastore, err)
	}
	return chain, nil
}

func (c *CA) issue(tmpl *x509.Certificate, life time.Duration, pub crypto.PublicKey) ([]byte, error) {
	if err := checkPublicKey(pub); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := c.now()
	tmpl.SerialNumber = serial
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-Backdate), now.Add(life)
	if tmpl.NotAfter.After(c.cert.NotAfter) {
		tmpl.NotAfter = c.cert.NotAfter
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, pub, c.key)
	if err != nil {
		return nil, err
	}
	return encodeCertificate(der), nil
}

// RenewAt is when a certificate of this package is to be renewed: after two thirds of its life.
func RenewAt(cert *x509.Certificate) time.Time {
	issued := cert.NotBefore.Add(Backdate)
	return issued.Add(cert.NotAfter.Sub(issued) * 2 / 3)
}

// NewCSR makes a certificate request that carries a public key and the proof that its private key is held, and nothing
// else: what goes into the certificate is not the asker's to say.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return der, nil
}

// ParseCSR takes the public key, and only that, from a certificate request (DER) whose signature is right. What is
// wrong with the request is an *orrery.Error of KindInvalid.
func ParseCSR(der []byte) (crypto.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, orrery.Invalid("csr", "the certificate request is malformed").WithCode("csr_invalid").WithCause(err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, orrery.Invalid("csr", "the certificate request's signature is wrong").WithCode("csr_invalid").WithCause(err)
	}
	return csr.PublicKey, checkPublicKey(csr.PublicKey)
}

func checkPublicKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return orrery.Invalid("csr", "keys of this kind are not certified").WithCode("csr_invalid").
		WithHint("Use ECDSA P-256, ECDSA P-384 or Ed25519.")
}
