// Package seal encrypts secrets before they are stored.
//
// It owns the root key and the form of a sealed value. Each value is encrypted with a data key of its own (AES-256-GCM),
// and that key with the root key (AES-256-GCM): envelope encryption, so that a new root key rewraps 60 bytes a value
// and a key management service can take the root key's part without ever seeing a secret.
//
// A sealed value names the root key that it was sealed with, and is bound to the object that it belongs to: it does not
// open under another object's ID.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/orrery-db/orrery"
)

// The form of a sealed value, version 1; GCM puts a 12-byte nonce in front and a 16-byte tag behind:
//
//	byte    version (1)
//	[8]     ID of the root key
//	[60]    data key, sealed with the root key, bound to the object
//	[...]   secret, sealed with the data key, bound to the object
const (
	formVersion = 1
	keySize     = 32
	overhead    = 12 + 16
	wrappedSize = keySize + overhead
	headSize    = 1 + keyIDSize
	minSize     = headSize + wrappedSize + overhead
)

// Sealer seals and opens. It is safe for concurrent use.
type Sealer struct {
	current *rootKey
	keys    map[keyID]*rootKey
}

// Seal encrypts plaintext for the object with the given ID.
func (s *Sealer) Seal(object string, plaintext []byte) ([]byte, error) {
	dataKey := make([]byte, keySize)
	_, _ = rand.Read(dataKey) // never fails (Go 1.24 release notes)
	defer clear(dataKey)
	aead, err := newAEAD(dataKey)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", object, err)
	}
	out := make([]byte, 0, minSize+len(plaintext))
	out = append(out, formVersion)
	out = append(out, s.current.id[:]...)
	out = s.current.aead.Seal(out, nil, dataKey, bound("key", object))
	return aead.Seal(out, nil, plaintext, bound("value", object)), nil
}

// Open decrypts what Seal made for the same object.
func (s *Sealer) Open(object string, sealed []byte) ([]byte, error) {
	root, err := s.rootOf(object, sealed)
	if err != nil {
		return nil, err
	}
	dataKey, err := root.aead.Open(nil, nil, sealed[headSize:headSize+wrappedSize], bound("key", object))
	if err != nil {
		return nil, notItsOwn(object, err)
	}
	defer clear(dataKey)
	aead, err := newAEAD(dataKey)
	if err != nil {
		return nil, fmt.Errorf("open the secret of %s: %w", object, err)
	}
	plaintext, err := aead.Open(nil, nil, sealed[headSize+wrappedSize:], bound("value", object))
	if err != nil {
		return nil, notItsOwn(object, err)
	}
	return plaintext, nil
}

// Current tells whether sealed was sealed with the newest root key. Where not, Rewrap brings it up to date.
func (s *Sealer) Current(sealed []byte) bool {
	return len(sealed) >= minSize && keyID(sealed[1:headSize]) == s.current.id
}

// Rewrap seals the data key of a sealed value with the newest root key. The secret itself stays as it is.
func (s *Sealer) Rewrap(object string, sealed []byte) ([]byte, error) {
	root, err := s.rootOf(object, sealed)
	if err != nil {
		return nil, err
	}
	dataKey, err := root.aead.Open(nil, nil, sealed[headSize:headSize+wrappedSize], bound("key", object))
	if err != nil {
		return nil, notItsOwn(object, err)
	}
	defer clear(dataKey)
	out := make([]byte, 0, len(sealed))
	out = append(out, formVersion)
	out = append(out, s.current.id[:]...)
	out = s.current.aead.Seal(out, nil, dataKey, bound("key", object))
	return append(out, sealed[headSize+wrappedSize:]...), nil
}

func (s *Sealer) rootOf(object string, sealed []byte) (*rootKey, error) {
	if len(sealed) < minSize || sealed[0] != formVersion {
		return nil, orrery.Errorf(orrery.KindInternal, "the secret of %s is damaged, or sealed by a newer version", object).
			WithCode("secret_damaged")
	}
	id := keyID(sealed[1:headSize])
	root, ok := s.keys[id]
	if !ok {
		return nil, orrery.Errorf(orrery.KindInternal, "the secret of %s was sealed with root key %s, which is not here", object, id).
			WithCode("root_key_missing").
			WithHint("Put the root key file that belongs to this state back; the one in use holds %s.", s.ids())
	}
	return root, nil
}

func notItsOwn(object string, err error) error {
	return orrery.Errorf(orrery.KindInternal, "the secret of %s does not open", object).WithCode("secret_damaged").WithCause(err).
		WithHint("The value was changed, or belongs to another object.")
}

// bound is the additional data that ties a ciphertext to its place.
func bound(part, object string) []byte { return []byte("orrery/" + part + "/" + object) }

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	if aead.Overhead() != overhead {
		return nil, errors.New("unexpected GCM overhead")
	}
	return aead, nil
}
