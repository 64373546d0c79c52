package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/orrery-db/orrery"
)

// JoinToken lets a newcomer in, once. Its text is "<id>.<secret>.<fingerprint>".
type JoinToken struct {
	ID     string // of a stored token, or of the instance that it is for
	Secret string
	// Fingerprint of the plane CA: the newcomer checks the server by it before it sends anything.
	Fingerprint string
}

var joinTokenRE = regexp.MustCompile(`^([a-z]{2}-[0-9a-z]{16})\.([0-9A-Za-z_-]{16,128})\.([0-9a-f]{64})$`)

// NewSecret makes the secret of a join token: 128 random bits, as text.
func NewSecret() string { return rand.Text() }

// MakeJoinToken gives the text of a join token.
func MakeJoinToken(id, secret, fingerprint string) string {
	return id + "." + secret + "." + fingerprint
}

// ParseJoinToken reads the text of a join token; white space around it does not matter.
func ParseJoinToken(text string) (JoinToken, error) {
	m := joinTokenRE.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return JoinToken{}, orrery.Invalid("token", "the join token is malformed").WithCode("join_token_invalid").
			WithHint("Copy it whole: three parts, with a dot between each.")
	}
	return JoinToken{ID: m[1], Secret: m[2], Fingerprint: m[3]}, nil
}

// Hash is how the secret may be stored: SHA-256, hex.
func (t JoinToken) Hash() string {
	sum := sha256.Sum256([]byte(t.Secret))
	return hex.EncodeToString(sum[:])
}
