package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Lives of certificates, where a CA's fields do not say otherwise.
const (
	caLife       = 20 * 365 * 24 * time.Hour
	ServerLife   = 90 * 24 * time.Hour
	SessionLife  = 24 * time.Hour
	DatabaseLife = 90 * 24 * time.Hour
)

// Backdate is how long before its issue a certificate is valid, so that a peer whose clock is late takes it.
const Backdate = time.Hour

// CA is a certificate authority: a self-signed ECDSA P-256 root that issues leaves and nothing else. Its methods are
// safe for concurrent use; its fields are set before the first.
type CA struct {
	// Lives of what it issues; the constants of the same names where 0.
	ServerLife, SessionLife, DatabaseLife time.Duration
	// Now is the clock; time.Now where nil.
	Now func() time.Time

	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
	pool *x509.CertPool
}

// NewCA makes a CA with a fresh key. It is valid for 20 years: replacing it means that every host joins anew.
func NewCA(commonName string) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the key of CA %s: %w", commonName, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName, Organization: []string{"Orrery"}},
		// It is trusted because it is handed over, not from a time on: a clock that jumps back must not end that.
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of CA %s: %w", commonName, err)
	}
	return newCA(der, key)
}

// LoadCA takes a CA from what CertPEM and KeyPEM gave.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	certs, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load the CA's certificate: %w", err)
	}
	if !certs[0].IsCA {
		return nil, fmt.Errorf("load a CA: the certificate of %q is not a CA's", certs[0].Subject.CommonName)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load the CA's key: %w", err)
	}
	if pub, ok := certs[0].PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("load CA %q: the key is another certificate's", certs[0].Subject.CommonName)
	}
	return newCA(certs[0].Raw, key)
}

func newCA(der []byte, key crypto.Signer) (*CA, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse a CA's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &CA{cert: cert, key: key, pem: encodeCertificate(der), pool: pool}, nil
}

// CertPEM is the CA's certificate, to be handed to whoever checks what it issued.
func (c *CA) CertPEM() []byte { return c.pem }

// KeyPEM is the CA's private key, PKCS #8. Keep it sealed.
func (c *CA) KeyPEM() ([]byte, error) { return EncodeKey(c.key) }

// Fingerprint is the SHA-256 of the CA's certificate, hex; join tokens carry it.
func (c *CA) Fingerprint() string { return Fingerprint(c.cert) }

// Pool holds the CA alone.
func (c *CA) Pool() *x509.CertPool { return c.pool }

func (c *CA) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// Fingerprint is the SHA-256 of a certificate, hex.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// NewKey makes an ECDSA P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// EncodeKey gives a private key as PEM, PKCS #8.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads what EncodeKey gave.
func ParseKey(keyPEM []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("parse a private key: no PEM block of type PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse a private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("parse a private key: it cannot sign")
	}
	return signer, nil
}

// ParseCertificates reads one or more certificates from PEM.
func ParseCertificates(certPEM []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, certPEM = pem.Decode(certPEM); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("parse certificates: unexpected PEM block %q", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificates: %w", err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, errors.New("parse certificates: no PEM block of type CERTIFICATE")
	}
	return out, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// newSerial is 127 random bits: positive, and within the 20 octets of RFC 5280, 4.1.2.2.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n, nil
}
