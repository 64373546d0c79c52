package api

import (
	"context"
	"net/http"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
)

// Tokens is what the operations on tokens ask for.
type Tokens interface {
	// ListTokens leaves hashes out.
	ListTokens(ctx context.Context) ([]*orrery.Token, error)
	CreateToken(ctx context.Context, m Mutation, n NewToken) (MadeToken, error)
	// RevokeToken makes a token good for nothing, at once and for ever.
	RevokeToken(ctx context.Context, m Mutation, token string) error
}

// NewToken is a token to make.
type NewToken struct {
	Name      string     `json:"name"`
	Role      string     `json:"role,omitempty" enum:"admin,viewer" doc:"viewer where missing."`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"Never where missing."`
}

// MadeToken is a new token with its secret, which is given once and not kept.
type MadeToken struct {
	Token  *orrery.Token `json:"token"`
	Secret string        `json:"secret,omitempty" doc:"What to send as bearer token."`
	Hint   string        `json:"hint,omitempty"`
}

func (a *API) tokenEndpoints() []*endpoint {
	const tag = "tokens"
	return []*endpoint{
		{id: "list-tokens", method: http.MethodGet, path: "/v1/tokens", tag: tag, summary: "List tokens, without their secrets",
			permission: iam.TokensRead, result: listBody[orrery.Token]{}, query: listParams, handle: a.listTokens},
		{id: "create-token", method: http.MethodPost, path: "/v1/tokens", tag: tag, summary: "Make a token",
			permission: iam.TokensCreate, body: NewToken{}, status: http.StatusCreated, result: MadeToken{}, handle: a.createToken},
		{id: "revoke-token", method: http.MethodDelete, path: "/v1/tokens/{token}", tag: tag, summary: "Revoke a token, at once",
			permission: iam.TokensRevoke, status: http.StatusNoContent, handle: a.revokeToken},
	}
}

func (a *API) listTokens(c *call) error {
	tokens, err := a.Backend.ListTokens(c.ctx())
	if err != nil {
		return err
	}
	return sendList(c, tokens, 0, func(t *orrery.Token) string { return t.Name })
}

func (a *API) createToken(c *call) error {
	var n NewToken
	m, err := c.readInto(&n)
	if err != nil {
		return err
	}
	t, err := a.Backend.CreateToken(c.ctx(), m, n)
	if err != nil {
		return err
	}
	return c.send(http.StatusCreated, t)
}

func (a *API) revokeToken(c *call) error {
	m, _, err := c.read()
	if err != nil {
		return err
	}
	if err := a.Backend.RevokeToken(c.ctx(), m, c.path("token")); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
