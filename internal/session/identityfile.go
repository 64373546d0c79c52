package session

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/orrery-db/orrery/internal/pki"
)

// The files of a session folder. All are 0600, the folder 0700; each is replaced whole by renaming.
const (
	identityFile = "identity.json" // who we are: key, certificate, CA
	joinKeyFile  = "join-key.pem"  // the key we join with, until we have
	wishFile     = "wish.json"     // the newest wish's generation, and its body where that is kept
	actionsDir   = "actions"       // one file for each action that was begun
)

// identity is who we are, with all that proves it.
type identity struct {
	who  Identity
	cert tls.Certificate
	ca   []byte
	pool *x509.CertPool
}

// storedIdentity is one file, so that key, certificate and CA change together.
type storedIdentity struct {
	Kind         pki.Kind `json:"kind"`
	ID           string   `json:"id"`
	Key          string   `json:"key"`
	Certificates string   `json:"certificates"`
	CA           string   `json:"ca"`
}

// newIdentity checks what a server gave against our key and the CA.
func newIdentity(key crypto.Signer, chain, ca []byte) (*identity, error) {
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	if pub, ok := certs[0].PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("the certificate is for another key")
	}
	cas, err := pki.ParseCertificates(ca)
	if err != nil {
		return nil, err
	}
	id := &identity{ca: ca, pool: x509.NewCertPool(), cert: tls.Certificate{PrivateKey: key, Leaf: certs[0]}}
	for _, c := range cas {
		id.pool.AddCert(c)
	}
	for _, c := range certs {
		id.cert.Certificate = append(id.cert.Certificate, c.Raw)
	}
	// The time is the server's to judge: our clock may be off, and a lapsed certificate can be renewed.
	if id.who, err = pki.VerifySession(id.pool, certs, certs[0].NotAfter); err != nil {
		return nil, err
	}
	return id, nil
}

// loadIdentity gives nil where dir holds none.
func loadIdentity(dir string) (*identity, error) {
	path := filepath.Join(dir, identityFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the session's identity: %w", err)
	}
	var s storedIdentity
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read the session's identity from %s: %w", path, err)
	}
	key, err := pki.ParseKey([]byte(s.Key))
	if err != nil {
		return nil, fmt.Errorf("read the session's identity from %s: %w", path, err)
	}
	id, err := newIdentity(key, []byte(s.Certificates), []byte(s.CA))
	if err != nil {
		return nil, fmt.Errorf("read the session's identity from %s: %w", path, err)
	}
	return id, nil
}

func saveIdentity(dir string, id *identity, key crypto.Signer, chain []byte) error {
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(storedIdentity{
		Kind: id.who.Kind, ID: id.who.ID, Key: string(keyPEM), Certificates: string(chain), CA: string(id.ca),
	})
	if err != nil {
		return fmt.Errorf("encode the session's identity: %w", err)
	}
	if err := writeFile(filepath.Join(dir, identityFile), raw); err != nil {
		return fmt.Errorf("keep the session's identity: %w", err)
	}
	return nil
}

// joinKey gives the key to join with. It is kept before it is used, so that a joiner that loses the answer, or dies, asks
// again with the same key and is given the same identity.
func joinKey(dir string) (crypto.Signer, error) {
	path := filepath.Join(dir, joinKeyFile)
	if raw, err := os.ReadFile(path); err == nil {
		if key, err := pki.ParseKey(raw); err == nil {
			return key, nil
		}
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the session's key: %w", err)
	}
	raw, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeFile(path, raw); err != nil {
		return nil, fmt.Errorf("keep the session's key: %w", err)
	}
	return key, nil
}

// writeFile replaces a file whole; when it returns, the file outlasts a crash of the machine.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// HasIdentity tells whether a session folder holds an identity: whoever has one needs no token.
func HasIdentity(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, identityFile))
	return err == nil
}
