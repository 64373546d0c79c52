package iam

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

// bearerPrefix makes tokens easy to find for scanners of leaked secrets.
const bearerPrefix = "orr_"

// NewToken makes a token and the bearer text that proves it: "orr_<id without its prefix>_<secret>". The secret has
// 256 random bits, so that its plain SHA-256 is enough at rest: there is nothing to guess. The text is not kept.
func NewToken(name string, role Role, expires *time.Time) (token *orrery.Token, bearer string) {
	token, secret := newToken(name, role, expires)
	return token, bearerPrefix + strings.TrimPrefix(token.ID, orrery.PrefixToken+"-") + "_" + secret
}

// NewJoinToken makes a host's one-time token: "<id>.<secret>.<fingerprint>", where fingerprint is the hex SHA-256 of the
// plane CA's certificate, against which the host checks the server before it says anything.
func NewJoinToken(name, fingerprint string, expires time.Time) (token *orrery.Token, text string) {
	token, secret := newToken(name, RoleHostJoin, &expires)
	return token, token.ID + "." + secret + "." + fingerprint
}

func newToken(name string, role Role, expires *time.Time) (*orrery.Token, string) {
	secret := strings.ToLower(rand.Text() + rand.Text())
	return &orrery.Token{
		Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixToken), Name: name},
		Hash: hash(secret), Role: string(role), ExpiresAt: expires,
	}, secret
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Lookup finds a stored token.
type Lookup func(id string) (*orrery.Token, bool)

// Authenticate finds out who sends the Authorization header. It costs one lookup and one hash.
func Authenticate(header string, lookup Lookup, now time.Time) (Principal, error) {
	if header == "" {
		return Principal{}, unauthorized("this needs a token", "token_missing")
	}
	scheme, bearer, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, unauthorized("the Authorization header is not a bearer token", "token_malformed")
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(bearer), bearerPrefix)
	id, secret, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || !orrery.IsID(orrery.PrefixToken+"-"+id, orrery.PrefixToken) {
		return Principal{}, unauthorized("the token does not have the form of one", "token_malformed")
	}
	token, err := check(orrery.PrefixToken+"-"+id, secret, lookup, now)
	if err != nil {
		return Principal{}, err
	}
	if Role(token.Role) == RoleHostJoin {
		return Principal{}, unknown()
	}
	return Principal{ID: token.ID, Name: token.Name, Role: Role(token.Role), ExpiresAt: token.ExpiresAt}, nil
}

// Alive tells whether a principal that was let in before still would be.
func Alive(p Principal, lookup Lookup, now time.Time) error {
	token, ok := lookup(p.ID)
	if !ok {
		return unknown()
	}
	return usable(token, now)
}

// CheckJoinToken finds the stored token of a host's join text. The fingerprint at its end may be missing.
func CheckJoinToken(text string, lookup Lookup, now time.Time) (*orrery.Token, error) {
	id, rest, ok := strings.Cut(strings.TrimSpace(text), ".")
	secret, _, _ := strings.Cut(rest, ".")
	if !ok || !orrery.IsID(id, orrery.PrefixToken) {
		return nil, unauthorized("the join token does not have the form of one", "token_malformed")
	}
	token, err := check(id, secret, lookup, now)
	if err != nil {
		return nil, err
	}
	if Role(token.Role) != RoleHostJoin {
		return nil, unknown()
	}
	return token, nil
}

// check proves the secret before it says anything else of the token, so that only its owner learns that it is revoked.
func check(id, secret string, lookup Lookup, now time.Time) (*orrery.Token, error) {
	stored := ""
	token, ok := lookup(id)
	if ok {
		stored = token.Hash
	}
	if subtle.ConstantTimeCompare([]byte(hash(secret)), []byte(stored)) != 1 {
		return nil, unknown()
	}
	return token, usable(token, now)
}

func usable(token *orrery.Token, now time.Time) error {
	if token.RevokedAt != nil {
		return unauthorized("the token has been revoked", "token_revoked")
	}
	if token.ExpiresAt != nil && !now.Before(*token.ExpiresAt) {
		return unauthorized("the token has expired", "token_expired")
	}
	return nil
}

func unknown() error { return unauthorized("nobody knows this token", "token_unknown") }

func unauthorized(message, code string) error {
	return orrery.Errorf(orrery.KindUnauthorized, "%s", message).WithCode(code).
		WithHint("Send the header \"Authorization: Bearer <token>\" with a token that is valid.")
}
