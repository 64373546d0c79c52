package store

import (
	"context"

	"github.com/orrery-db/orrery"
)

// PutSecret seals plaintext and stores it, in the place of what the ID had before.
func (s *Store) PutSecret(tx *Tx, id string, plaintext []byte) error {
	sealed, err := s.cfg.Sealer.Seal(sealedFor(id), plaintext)
	if err != nil {
		return err
	}
	obj, err := s.Secrets.TxGet(tx, id)
	if orrery.KindOf(err) == orrery.KindNotFound && err != nil {
		return s.Secrets.Insert(tx, &Secret{Meta: orrery.Meta{ID: id}, Sealed: sealed})
	}
	if err != nil {
		return err
	}
	obj.Generation++
	obj.Sealed = sealed
	return s.Secrets.Put(tx, obj)
}

// Secret gives the plaintext that was last stored under the ID.
func (s *Store) Secret(_ context.Context, id string) ([]byte, error) {
	obj, ok := s.Secrets.Get(id)
	if !ok {
		return nil, orrery.NotFound("secret", id)
	}
	return s.cfg.Sealer.Open(sealedFor(id), obj.Sealed)
}

// RewrapSecrets brings all secrets to the newest root key and tells how many it moved. Afterwards older keys may be
// taken out of the key file.
func (s *Store) RewrapSecrets(ctx context.Context) (int, error) {
	moved := 0
	for obj := range s.Secrets.After("") {
		if s.cfg.Sealer.Current(obj.Sealed) {
			continue
		}
		_, err := s.Update(ctx, func(tx *Tx) error {
			secret, err := s.Secrets.TxGet(tx, obj.ID)
			if err != nil {
				return err
			}
			if secret.Sealed, err = s.cfg.Sealer.Rewrap(sealedFor(obj.ID), secret.Sealed); err != nil {
				return err
			}
			return s.Secrets.Put(tx, secret)
		})
		if err != nil && orrery.KindOf(err) != orrery.KindNotFound {
			return moved, err
		}
		moved++
	}
	return moved, nil
}

// sealedFor is what a secret is bound to.
func sealedFor(id string) string { return "secrets/" + id }
