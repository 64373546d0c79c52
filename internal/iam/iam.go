// Package iam owns who may do what: bearer tokens and join tokens (their form, their hashes, how one is checked),
// principals, and the table of roles and permissions. It keeps nothing itself: where tokens are stored, and when they
// are made, is the caller's.
//
// Organizations, members and roles of people come later. Their place is kept: every check goes through Authorize, which
// is told the object that it is about.
package iam

import (
	"context"
	"time"

	"github.com/orrery-db/orrery"
)

// Principal is who asks. The zero value is nobody, and may do nothing.
type Principal struct {
	// ID is that of the token that let it in.
	ID   string
	Name string
	Role Role
	// ExpiresAt is when it stops being let in; nil is never.
	ExpiresAt *time.Time
}

// String is what stands for the principal in a job's RequestedBy and in logs.
func (p Principal) String() string {
	if p.Name == "" {
		return p.ID
	}
	return p.Name
}

type principalKey struct{}

// WithPrincipal puts the principal into a request's context.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom takes it out again. It gives nobody where none was put in.
func PrincipalFrom(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// Object is what a permission is asked for. Roles do not look at it yet; those that are bound to a project will.
type Object struct {
	// Project is a project's name or ID, empty for what belongs to the plane itself.
	Project string
}

// Authorize refuses p what its role does not allow. Nobody is refused with KindUnauthorized, all others with KindForbidden.
func Authorize(p Principal, permission Permission, _ Object) error {
	if p.ID == "" {
		return unauthorized("this needs a token", "token_missing")
	}
	if p.Role.Allows(permission) {
		return nil
	}
	return orrery.Errorf(orrery.KindForbidden, "the role %q does not allow %s", p.Role, permission).
		WithCode("role_insufficient").WithHint("Ask an administrator to do it, or for a token of a role that may.")
}
