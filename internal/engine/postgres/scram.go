package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/orrery-db/orrery"
)

// iterations and saltLen are PostgreSQL's own defaults (scram-common.h).
const (
	iterations = 4096
	saltLen    = 16
)

// SecretForm is the SCRAM-SHA-256 verifier that PostgreSQL keeps (RFC 5803 in its own writing:
// SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>). The server never learns the password.
func (*Driver) SecretForm(password string) (string, error) {
	if password == "" || len(password) > 1000 || strings.ContainsRune(password, 0) {
		return "", orrery.Invalid("password", "the password is empty, too long, or has a NUL").WithHint("Use 1 to 1000 bytes.")
	}
	var salt [saltLen]byte
	_, _ = rand.Read(salt[:]) // never fails (Go 1.24 release notes)
	return verifier(password, salt[:])
}

func verifier(password string, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, saslPrep(password), salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive the password's key: %w", err)
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

// saslPrep normalises as RFC 4013 says: other spaces become spaces, some characters go, then NFKC. What it prohibits is
// taken as it is, as PostgreSQL and libpq do.
func saslPrep(password string) string {
	if !utf8.ValidString(password) {
		return password
	}
	ascii := true
	for _, r := range password {
		if r == 0x7f || r < ' ' {
			return password // prohibited
		}
		ascii = ascii && r < utf8.RuneSelf
	}
	if ascii {
		return password
	}
	mapped := strings.Map(func(r rune) rune {
		switch {
		case r == 0xA0, r == 0x1680, r >= 0x2000 && r <= 0x200B, r == 0x202F, r == 0x205F, r == 0x3000: // RFC 3454, C.1.2
			return ' '
		case r == 0xAD, r == 0x34F, r == 0x1806, r >= 0x180B && r <= 0x180D, r == 0x200C, r == 0x200D, r == 0x2060,
			r >= 0xFE00 && r <= 0xFE0F, r == 0xFEFF: // RFC 3454, B.1
			return -1
		}
		return r
	}, password)
	prepared := norm.NFKC.String(mapped)
	if prepared == "" {
		return password
	}
	return prepared
}
