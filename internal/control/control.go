// Package control owns the use-cases behind the API: it checks a request against the state, and writes the object that
// is wanted together with the job that makes it so, in one transaction. It implements the interfaces that package api
// declares. It runs no job, calls no agent and waits for neither; what it answers it reads from memory.
//
// Its rules in short: a field at fault is named; secrets are sealed before they are stored and shown once; a repeated
// Idempotency-Key gives the first answer again; what is being deleted changes no more.
package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/store"
)

// Config of a Control.
type Config struct {
	Store *store.Store
	// Engines on offer, by name.
	Engines map[string]engine.Definition
	// DataCA is the certificate (PEM) of the CA that signs databases' certificates.
	DataCA []byte
	// PlaneFingerprint is the hex SHA-256 of the plane CA's certificate, for join tokens.
	PlaneFingerprint string
	// ServerName is what GET /v1/status says of this server.
	ServerName string
	Log        *slog.Logger
	// Now is the clock; time.Now where nil.
	Now func() time.Time
}

// Control does what the API is asked for. It is safe for concurrent use.
type Control struct {
	store       *store.Store
	engines     map[string]engine.Definition
	dataCA      []byte
	fingerprint string
	server      string
	log         *slog.Logger
	now         func() time.Time
	started     time.Time
}

var _ api.Backend = (*Control)(nil)

// New makes a Control.
func New(cfg Config) (*Control, error) {
	if cfg.Store == nil || cfg.Log == nil {
		return nil, errors.New("make the control: a store and a logger are wanted")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Control{store: cfg.Store, engines: cfg.Engines, dataCA: cfg.DataCA, fingerprint: cfg.PlaneFingerprint,
		server: cfg.ServerName, log: cfg.Log, now: cfg.Now, started: cfg.Now().UTC()}, nil
}

// Authenticate finds out who sends an Authorization header.
func (c *Control) Authenticate(header string) (iam.Principal, error) {
	return iam.Authenticate(header, c.store.Tokens.Get, c.now())
}

// StillAlive tells whether a principal would still be let in.
func (c *Control) StillAlive(p iam.Principal) error {
	return iam.Alive(p, c.store.Tokens.Get, c.now())
}

// keptRequests is how long an Idempotency-Key is remembered.
const keptRequests = 24 * time.Hour

// mutate runs a change, once for each Idempotency-Key: a repeated request gets the first one's answer, without its
// secrets and without doing anything. What fn returns is stored, as shown gives it, in the transaction that fn writes in.
//
// fn may run several times, and when etcd's answer was lost it is an earlier run that was done: IDs and passwords are
// made outside of fn, and what was kept tells which run it was.
func mutate[T any](ctx context.Context, c *Control, m api.Mutation, shown func(T) T, fn func(tx *store.Tx) (T, error)) (answer T, replayed bool, err error) {
	if err := c.store.CheckWritable(); err != nil {
		return answer, false, err
	}
	id := requestID(m)
	if id == "" {
		_, err = c.store.Update(ctx, func(tx *store.Tx) error {
			got, err := fn(tx)
			if err == nil {
				answer = got
			}
			return err
		})
		return answer, false, err
	}
	runs := map[string]T{} // by what is kept of them
	_, err = c.store.Update(ctx, func(tx *store.Tx) error {
		if there, err := c.keptRequest(tx, id, m.Hash); there || err != nil {
			return err
		}
		got, err := fn(tx)
		if err != nil {
			return err
		}
		data, err := json.Marshal(shown(got))
		if err != nil {
			return fmt.Errorf("encode the answer to keep: %w", err)
		}
		runs[string(data)] = got
		return c.store.Requests.Insert(tx, &store.Request{Meta: orrery.Meta{ID: id}, Hash: m.Hash, Answer: data,
			ExpiresAt: c.now().UTC().Add(keptRequests)})
	})
	if err != nil {
		return answer, false, err
	}
	kept, ok := c.store.Requests.Get(id)
	if !ok {
		return answer, false, orrery.Errorf(orrery.KindUnavailable, "the answer to this request is no longer kept")
	}
	if got, ok := runs[string(kept.Answer)]; ok {
		return got, false, nil
	}
	if err := json.Unmarshal(kept.Answer, &answer); err != nil {
		return answer, false, fmt.Errorf("read the kept answer %s: %w", id, err)
	}
	return answer, true, nil
}

// requestID is where the answer to a request is kept. The key itself is not stored: it may be a secret of its sender.
func requestID(m api.Mutation) string {
	if m.Key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(m.Principal.ID + "\x00" + m.Key))
	return "rq-" + hex.EncodeToString(sum[:16])
}

// keptRequest tells whether a request was done before.
func (c *Control) keptRequest(tx *store.Tx, id, hash string) (bool, error) {
	kept, err := c.store.Requests.TxGet(tx, id)
	switch {
	case err != nil && orrery.KindOf(err) == orrery.KindNotFound:
		return false, nil
	case err != nil:
		return false, err
	case c.now().After(kept.ExpiresAt):
		return false, c.store.Requests.Delete(tx, id)
	case kept.Hash != hash:
		return false, orrery.Errorf(orrery.KindConflict, "the Idempotency-Key was used before, for another request").
			WithCode("idempotency_key_reused").WithHint("Make a new key for each new request.")
	}
	return true, nil
}

func same[T any](v T) T { return v }

// find gives the object of a collection that has the ID, or else the name, within scope (a project's ID, or empty).
func find[T any, P store.Object[T]](c *store.Collection[T, P], noun, prefix, scope, nameOrID string) (*T, error) {
	if orrery.IsID(nameOrID, prefix) {
		if obj, ok := c.Get(nameOrID); ok && (scope == "" || P(obj).GetMeta().Project == scope) {
			return obj, nil
		}
	}
	key := nameOrID
	if scope != "" {
		key = scope + "/" + nameOrID
	}
	if found := c.By("name", key); len(found) > 0 {
		return found[0], nil
	}
	return nil, orrery.NotFound(noun, nameOrID)
}

func (c *Control) project(nameOrID string) (*orrery.Project, error) {
	return find(c.store.Projects, "project", orrery.PrefixProject, "", nameOrID)
}

func (c *Control) datastore(project, datastore string) (*orrery.Datastore, error) {
	p, err := c.project(project)
	if err != nil {
		return nil, err
	}
	return find(c.store.Datastores, "datastore", orrery.PrefixDatastore, p.ID, datastore)
}

// checkMatch honours If-Match.
func checkMatch(m api.Mutation, meta *orrery.Meta) error {
	if m.IfMatch == 0 || m.IfMatch == meta.Generation {
		return nil
	}
	return orrery.Errorf(orrery.KindPrecondition, "somebody has changed this meanwhile: it is at generation %d, not %d", meta.Generation, m.IfMatch).
		WithCode("generation_mismatch").WithHint("Read it again, and decide whether your change still makes sense.")
}

// blame puts the place of a part before the field that an error names.
func blame(err error, prefix string) error {
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok {
		return err
	}
	out := *e
	switch {
	case out.Field == "":
		out.Field = prefix
	case prefix != "" && out.Field[0] == '[':
		out.Field = prefix + out.Field
	case prefix != "":
		out.Field = prefix + "." + out.Field
	}
	return &out
}
