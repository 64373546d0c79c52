package hub

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/store"
)

// instanceToken makes the one-time token of an instance's keeper. It is derived, so that it need not be stored and every
// server makes the same; that it was used is remembered by the key that used it (InstanceStatus.KeeperKey).
func (h *Hub) instanceToken(instance string) string {
	return pki.MakeJoinToken(instance, h.instanceSecret(instance), h.Plane.Fingerprint())
}

func (h *Hub) instanceSecret(instance string) string {
	m := hmac.New(sha256.New, h.JoinKey)
	m.Write([]byte("keeper of " + instance))
	return hex.EncodeToString(m.Sum(nil)[:20])
}

// Join gives a newcomer its identity: an instance's keeper by its derived token, a host by a token that an
// administrator made. A keeper that lost its answer may ask again with the same key.
func (h *Hub) Join(ctx context.Context, token, name string, pub crypto.PublicKey) (id string, chain, ca []byte, err error) {
	t, err := pki.ParseJoinToken(token)
	if err != nil {
		return "", nil, nil, refused("the token is malformed")
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", nil, nil, orrery.Invalid("csr", "the public key cannot be used").WithCause(err)
	}
	sum := sha256.Sum256(der)
	key := hex.EncodeToString(sum[:])
	var who session.Identity
	if orrery.IsID(t.ID, orrery.PrefixInstance) {
		who = session.Identity{Kind: session.KindInstance, ID: t.ID}
		err = h.joinInstance(ctx, t, key)
	} else {
		who = session.Identity{Kind: session.KindHost}
		who.ID, err = h.joinHost(ctx, token, name, key)
	}
	if err != nil {
		return "", nil, nil, err
	}
	chain, err = h.Plane.IssueSession(who.Kind, who.ID, pub)
	if err != nil {
		return "", nil, nil, fmt.Errorf("issue the certificate of %s: %w", who.ID, err)
	}
	return who.ID, chain, h.Plane.CertPEM(), nil
}

func (h *Hub) joinInstance(ctx context.Context, t pki.JoinToken, key string) error {
	if !hmac.Equal([]byte(t.Secret), []byte(h.instanceSecret(t.ID))) {
		return refused("the token is not of this plane")
	}
	if in, ok := h.Store.Instances.Get(t.ID); ok && in.Status.KeeperKey == key {
		return nil
	}
	_, err := h.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		in, err := h.Store.Instances.TxGet(tx, t.ID)
		if err != nil || in.Spec.Absent {
			return refused("the instance is gone")
		}
		if in.Status.KeeperKey != "" && in.Status.KeeperKey != key {
			return refused("the token has been used")
		}
		in.Status.KeeperKey = key
		return h.Store.Instances.Put(tx, in)
	})
	return err
}

// joinHost uses a host token up and makes the host, in one transaction.
func (h *Hub) joinHost(ctx context.Context, token, name, key string) (string, error) {
	if err := orrery.CheckName("name", name); err != nil {
		return "", err
	}
	if same := h.Store.Hosts.By("name", name); len(same) > 0 && same[0].AgentKey == key {
		return same[0].ID, nil // it joined before, and did not hear the answer
	}
	id := orrery.NewID(orrery.PrefixHost)
	_, err := h.Store.Update(ctx, func(tx *store.Tx) error {
		now := h.Now().UTC()
		tok, err := iam.CheckJoinToken(token, func(id string) (*orrery.Token, bool) {
			t, err := h.Store.Tokens.TxGet(tx, id)
			return t, err == nil
		}, now)
		if err != nil {
			return err
		}
		tok.RevokedAt = &now
		if err := h.Store.Tokens.Put(tx, tok); err != nil {
			return err
		}
		return h.Store.Hosts.Insert(tx, &orrery.Host{
			Meta: orrery.Meta{ID: id, Name: name, Generation: 1}, Spec: orrery.HostSpec{Pool: h.DefaultPool},
			AgentKey: key, Status: orrery.HostStatus{JoinedAt: now},
		})
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// Sign renews a session certificate, or issues the certificate of an instance's database. What is in it follows from the
// identity alone.
func (h *Hub) Sign(_ context.Context, who session.Identity, purpose session.Purpose, pub crypto.PublicKey) (chain, ca []byte, err error) {
	if err := h.known(who); err != nil {
		return nil, nil, err
	}
	if purpose == session.PurposeSession {
		chain, err = h.Plane.IssueSession(who.Kind, who.ID, pub)
		return chain, h.Plane.CertPEM(), err
	}
	if who.Kind != session.KindInstance {
		return nil, nil, orrery.Errorf(orrery.KindForbidden, "only instances have database certificates")
	}
	in, _ := h.Store.Instances.Get(who.ID)
	names := []string{"localhost", in.ID, in.Name, in.Spec.Datastore}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if host, ok := h.Store.Hosts.Get(in.Spec.Host); ok {
		if ip := net.ParseIP(host.Status.Address); ip != nil {
			ips = append(ips, ip)
		} else if host.Status.Address != "" {
			names = append(names, host.Status.Address)
		}
		names = append(names, host.Name)
	}
	chain, err = h.Data.IssueDatabase(in.Spec.Datastore, names, ips, pub)
	return chain, h.Data.CertPEM(), err
}

// known refuses identities whose host or instance is gone, however good their certificate.
func (h *Hub) known(who session.Identity) error {
	gone := orrery.Errorf(orrery.KindForbidden, "%s is no longer known", who.ID).WithCode("identity_gone")
	switch who.Kind {
	case session.KindHost:
		if _, ok := h.Store.Hosts.Get(who.ID); ok {
			return nil
		}
	case session.KindInstance:
		if _, ok := h.Store.Instances.Get(who.ID); ok {
			return nil
		}
	}
	return gone
}

func refused(why string) error {
	return orrery.Errorf(orrery.KindUnauthorized, "cannot join: %s", why).WithCode("join_refused").
		WithHint("Make a new token: orrery host join-token.")
}
