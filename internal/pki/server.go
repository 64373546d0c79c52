package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"
)

// ServerCertificate is the certificate of the plane's own listeners. It lives in memory only: it is issued when it is
// first asked for and anew after two thirds of its life, or when the clock has left it.
type ServerCertificate struct {
	ca    *CA
	names []string

	mu   sync.Mutex
	cert *tls.Certificate
}

// NewServerCertificate certifies names (DNS names or IP addresses) and ServerName.
func NewServerCertificate(ca *CA, names []string) *ServerCertificate {
	return &ServerCertificate{ca: ca, names: names}
}

// Get has the form of tls.Config.GetCertificate.
func (s *ServerCertificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil && current(s.cert.Leaf, s.ca.now()) {
		return s.cert, nil
	}
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the key of a server certificate: %w", err)
	}
	chain, err := s.ca.IssueServer(s.names, key.Public())
	if err != nil {
		return nil, err
	}
	certs, err := ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, c := range certs {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	s.cert = cert
	return cert, nil
}

func current(leaf *x509.Certificate, now time.Time) bool {
	return !now.Before(leaf.NotBefore) && now.Before(RenewAt(leaf))
}
