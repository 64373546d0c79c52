package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/store"
)

// authority is what proves a plane to its agents, keepers and clients: made by the first server, sealed in the store,
// the same on every server.
type authority struct {
	plane, data *pki.CA
	joinKey     []byte
}

// The secrets that hold it.
const (
	secretPlaneCA = "plane/ca"
	secretDataCA  = "plane/data-ca"
	secretJoinKey = "plane/join-key"
)

type sealedCA struct {
	Cert, Key []byte
}

func loadAuthority(ctx context.Context, st *store.Store) (*authority, error) {
	var a authority
	var err error
	if a.plane, err = loadCA(ctx, st, secretPlaneCA, "Orrery plane CA"); err != nil {
		return nil, err
	}
	if a.data, err = loadCA(ctx, st, secretDataCA, "Orrery data CA"); err != nil {
		return nil, err
	}
	a.joinKey, err = loadSecret(ctx, st, secretJoinKey, func() ([]byte, error) {
		key := make([]byte, 32)
		_, err := rand.Read(key)
		return key, err
	})
	return &a, err
}

func loadCA(ctx context.Context, st *store.Store, id, name string) (*pki.CA, error) {
	b, err := loadSecret(ctx, st, id, func() ([]byte, error) {
		ca, err := pki.NewCA(name)
		if err != nil {
			return nil, err
		}
		key, err := ca.KeyPEM()
		if err != nil {
			return nil, err
		}
		return json.Marshal(sealedCA{Cert: ca.CertPEM(), Key: key})
	})
	if err != nil {
		return nil, err
	}
	var s sealedCA
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", id, err)
	}
	ca, err := pki.LoadCA(s.Cert, s.Key)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", id, err)
	}
	return ca, nil
}

// loadSecret reads a secret, or makes it where it is not there. Of two servers that make it at once, one's is taken by both.
func loadSecret(ctx context.Context, st *store.Store, id string, make func() ([]byte, error)) ([]byte, error) {
	b, err := st.Secret(ctx, id)
	if err == nil || orrery.KindOf(err) != orrery.KindNotFound {
		return b, err
	}
	fresh, err := make()
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", id, err)
	}
	_, err = st.Update(ctx, func(tx *store.Tx) error {
		if _, err := st.Secrets.TxGet(tx, id); err == nil {
			return errTaken
		}
		return st.PutSecret(tx, id, fresh)
	})
	if err != nil && !errors.Is(err, errTaken) {
		return nil, fmt.Errorf("keep %s: %w", id, err)
	}
	return st.Secret(ctx, id)
}

var errTaken = errors.New("another server was first")

// hostToken gives a join token for the agent in this very process, where it has not joined yet.
func (s *server) hostToken(ctx context.Context) (string, error) {
	if session.HasIdentity(filepath.Join(s.paths.agent(), "session")) {
		return "", nil
	}
	token, text := iam.NewJoinToken("join-"+s.flags.name, s.authority.plane.Fingerprint(), time.Now().Add(time.Hour))
	token.Name = token.ID
	_, err := s.store.Update(ctx, func(tx *store.Tx) error { return s.store.Tokens.Insert(tx, token) })
	if err != nil {
		return "", fmt.Errorf("make a join token for this machine: %w", err)
	}
	return text, nil
}
