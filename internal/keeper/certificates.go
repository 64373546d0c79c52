package keeper

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
)

// certificates owns the database's key, certificate and CA in keeper/tls. The key is made once, so that a new
// certificate fits the key that a running database has.
type certificates struct {
	path    paths
	log     *slog.Logger
	renewed chan struct{} // holds one token after new files were put in place
	kick    chan struct{} // holds one token after a server was reached

	mu  sync.Mutex
	key crypto.Signer
}

func newCertificates(p paths, log *slog.Logger) *certificates {
	return &certificates{path: p, log: log, renewed: make(chan struct{}, 1), kick: make(chan struct{}, 1)}
}

func (c *certificates) files() engine.TLSFiles {
	return engine.TLSFiles{Cert: c.path.tls("server.pem"), Key: c.path.tls("server.key"), CA: c.path.tls("ca.pem")}
}

// makeKey reads the key, and makes it at the first time.
func (c *certificates) makeKey() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key != nil {
		return nil
	}
	text, err := os.ReadFile(c.files().Key)
	if err == nil {
		c.key, err = pki.ParseKey(text)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("the database's key cannot be read, and is made anew", "error", err)
	}
	key, err := pki.NewKey()
	if err != nil {
		return fmt.Errorf("make the database's key: %w", err)
	}
	text, err = pki.EncodeKey(key)
	if err != nil {
		return fmt.Errorf("make the database's key: %w", err)
	}
	// A certificate for a key that is no more would keep the database from starting.
	if err := os.Remove(c.files().Cert); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make the database's key: %w", err)
	}
	if err := writeFile(c.files().Key, text); err != nil {
		return fmt.Errorf("make the database's key: %w", err)
	}
	c.key = key
	return nil
}

// leaf gives the certificate in place, nil where there is none that can be used.
func (c *certificates) leaf() *x509.Certificate {
	text, err := os.ReadFile(c.files().Cert)
	if err != nil {
		return nil
	}
	if _, err := os.Stat(c.files().CA); err != nil {
		return nil
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert
}

// keep gets the first certificate once a server is reached, and a new one at two thirds of its life, until ctx ends.
func (c *certificates) keep(ctx context.Context, s Session) {
	b := backoff{first: time.Second, limit: time.Minute}
	spread := rand.Float64() / 8 // of what is left then, so that what was made at once is not renewed at once
	if c.leaf() == nil {
		select {
		case <-c.kick:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		wait := time.Duration(0)
		if leaf := c.leaf(); leaf != nil {
			due := pki.RenewAt(leaf)
			wait = time.Until(due) + time.Duration(spread*float64(leaf.NotAfter.Sub(due)))
		}
		if wait <= 0 {
			err := c.renew(ctx, s)
			if err == nil {
				b.reset()
				continue
			}
			if ctx.Err() != nil {
				return
			}
			wait = b.next()
			c.log.Debug("the database's certificate cannot be had", "error", err, "retry_in", wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		case <-time.After(min(wait, time.Hour)): // not in one go: a timer stands still while a machine sleeps
		}
	}
}

// hurry says that a server can be reached.
func (c *certificates) hurry() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

func (c *certificates) renew(ctx context.Context, s Session) error {
	if err := c.makeKey(); err != nil {
		return err
	}
	chain, ca, err := s.Sign(ctx, session.PurposeDatabase, c.key)
	if err != nil {
		return fmt.Errorf("ask for the database's certificate: %w", err)
	}
	f := c.files()
	if had, err := os.ReadFile(f.CA); err != nil || !bytes.Equal(had, ca) {
		if err := writeFile(f.CA, ca); err != nil {
			return err
		}
	}
	if err := writeFile(f.Cert, chain); err != nil {
		return err
	}
	c.log.Debug("the database's certificate is in place")
	select {
	case c.renewed <- struct{}{}:
	default:
	}
	return nil
}
