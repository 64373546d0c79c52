package control

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

// newSecret gives n random bytes as text that needs no escaping in a URL or a shell.
func newSecret(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never fails (Go 1.24 release notes)
	return base64.RawURLEncoding.EncodeToString(b)
}

// passwordOr checks a password that a person chose, or makes one of 192 bits.
func passwordOr(given, field string) (string, error) {
	if given == "" {
		for {
			// A hyphen in front would be taken for a flag on a command line.
			if p := newSecret(24); p[0] != '-' && p[0] != '_' {
				return p, nil
			}
		}
	}
	n := utf8.RuneCountInString(given)
	if n < 8 || len(given) > 256 {
		return "", orrery.Invalid(field, "a password has at least 8 characters and at most 256 bytes").WithCode("password_unusable").
			WithHint("Leave it out, and a strong one is made.")
	}
	for _, r := range given {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return "", orrery.Invalid(field, "a password cannot have control characters").WithCode("password_unusable")
		}
	}
	return given, nil
}

// UserSecretID and MemberSecretID are where the secret form of a user's password, and the secret that a datastore's
// members share, are sealed.
func UserSecretID(datastore, user string) string { return datastore + "/user/" + user }

// MemberSecretID is the ID of the secret that a datastore's members share.
func MemberSecretID(datastore string) string { return datastore + "/member" }

// sealForm seals the form of a password that keepers need. The form is made outside of transactions, which may run
// several times: it costs thousands of rounds of hashing.
func (c *Control) sealForm(tx *store.Tx, datastore, user, form string) error {
	if err := c.store.PutSecret(tx, UserSecretID(datastore, user), []byte(form)); err != nil {
		return fmt.Errorf("seal the password of user %s: %w", user, err)
	}
	return nil
}
