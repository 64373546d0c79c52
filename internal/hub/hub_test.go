package hub

import (
	"context"
	"crypto"
	"encoding/json"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	dsID   = "ds-0000000000000000"
	first  = "in-0000000000000001"
	second = "in-0000000000000002"
	hostID = "ho-0000000000000000"
)

// newHub is a hub over a store with one host and a datastore of two instances.
func newHub(t *testing.T) *Hub {
	t.Helper()
	st := storetest.New(t)
	_, err := st.Update(t.Context(), func(tx *store.Tx) error {
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(st.Plans.Insert(tx, &orrery.Plan{Meta: orrery.Meta{ID: "plan-1", Name: "small"}, CPUMilli: 1000, MemoryMiB: 1024, StorageGiB: 10}))
		must(st.Hosts.Insert(tx, &orrery.Host{Meta: orrery.Meta{ID: hostID, Name: "h"}, Status: orrery.HostStatus{Address: "127.0.0.1"}}))
		must(st.Datastores.Insert(tx, &orrery.Datastore{Meta: orrery.Meta{ID: dsID, Name: "demo", Generation: 3}, Spec: orrery.DatastoreSpec{
			Engine: "postgres", Version: "15", Plan: "small", Instances: 2, Users: []orrery.User{{Name: "admin", Access: orrery.AccessAdmin}},
			Databases: []orrery.Database{{Name: "app"}}, TrustedSources: []orrery.TrustedSource{{CIDR: "10.0.0.0/8"}}}}))
		must(st.PutSecret(tx, dsID+"/member", []byte("shared")))
		must(st.PutSecret(tx, dsID+"/user/admin", []byte("verifier")))
		for i, id := range []string{first, second} {
			role := orrery.RoleReplica
			if i == 0 {
				role = orrery.RolePrimary
			}
			must(st.Instances.Insert(tx, &orrery.Instance{Meta: orrery.Meta{ID: id, Name: "demo-" + id[len(id)-1:], Generation: 1},
				Spec: orrery.InstanceSpec{Datastore: dsID, Host: hostID, Ordinal: i + 1, Role: role, Plan: "small", StorageGiB: 10}}))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	plane, err := pki.NewCA("plane")
	if err != nil {
		t.Fatal(err)
	}
	data, err := pki.NewCA("data")
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Store: st, Plane: plane, Data: data, JoinKey: make([]byte, 32), Warm: 2, Server: "s", Log: storetest.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = h.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return h
}

func key(t *testing.T) crypto.PublicKey {
	t.Helper()
	k, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

func TestAnInstanceJoinsOnce(t *testing.T) {
	h := newHub(t)
	mine, other := key(t), key(t)
	token := h.instanceToken(first)
	for range 2 { // the second time its answer was lost
		id, chain, _, err := h.Join(t.Context(), token, "", mine)
		if err != nil || id != first || len(chain) == 0 {
			t.Fatalf("join: %q, %v", id, err)
		}
	}
	for name, c := range map[string]struct {
		token string
		key   crypto.PublicKey
	}{
		"another key":         {token, other},
		"another's token":     {pki.MakeJoinToken(second, h.instanceSecret(first), h.Plane.Fingerprint()), other},
		"no token":            {"nonsense", other},
		"an instance not had": {h.instanceToken("in-zzzzzzzzzzzzzzzz"), other},
	} {
		if _, _, _, err := h.Join(t.Context(), c.token, "", c.key); orrery.KindOf(err) != orrery.KindUnauthorized {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}

func TestAHostJoinsOnce(t *testing.T) {
	h := newHub(t)
	token, text := iam.NewJoinToken("t", h.Plane.Fingerprint(), time.Now().Add(time.Hour))
	if _, err := h.Store.Update(t.Context(), func(tx *store.Tx) error { return h.Store.Tokens.Insert(tx, token) }); err != nil {
		t.Fatal(err)
	}
	mine := key(t)
	id, _, _, err := h.Join(t.Context(), text, "rack-1", mine)
	if err != nil {
		t.Fatal(err)
	}
	if again, _, _, err := h.Join(t.Context(), text, "rack-1", mine); err != nil || again != id {
		t.Errorf("the same machine asks again: %q, %v; want %q", again, err, id)
	}
	if _, _, _, err := h.Join(t.Context(), text, "rack-2", key(t)); orrery.KindOf(err) != orrery.KindUnauthorized {
		t.Errorf("another machine with the used token: %v", err)
	}
	if _, _, _, err := h.Join(t.Context(), text, "Rack 2", key(t)); orrery.KindOf(err) != orrery.KindInvalid {
		t.Errorf("a bad name: %v", err)
	}
}

func TestCertificatesFollowIdentity(t *testing.T) {
	h := newHub(t)
	instance := session.Identity{Kind: session.KindInstance, ID: first}
	chain, ca, err := h.Sign(t.Context(), instance, session.PurposeDatabase, key(t))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCertificates(chain)
	if err != nil || certs[0].Subject.CommonName != dsID || string(ca) != string(h.Data.CertPEM()) {
		t.Errorf("the database's certificate is %v, %v", certs[0].Subject, err)
	}
	if err := certs[0].VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	if _, _, err := h.Sign(t.Context(), session.Identity{Kind: session.KindHost, ID: hostID}, session.PurposeDatabase, key(t)); orrery.KindOf(err) != orrery.KindForbidden {
		t.Errorf("a host asks for a database certificate: %v", err)
	}
	if _, _, err := h.Sign(t.Context(), session.Identity{Kind: session.KindInstance, ID: "in-gone"}, session.PurposeSession, key(t)); orrery.KindOf(err) != orrery.KindForbidden {
		t.Errorf("an instance that is gone: %v", err)
	}
}

func wishOf[T any](t *testing.T, wishes <-chan session.Wish) (uint64, T) {
	t.Helper()
	var v T
	select {
	case w := <-wishes:
		if err := json.Unmarshal(w.Body, &v); err != nil {
			t.Fatal(err)
		}
		return w.Generation, v
	case <-time.After(10 * time.Second):
		t.Fatal("no wish came")
	}
	return 0, v
}

func TestWishesAndReports(t *testing.T) {
	h := newHub(t)
	ctx := t.Context()
	agent, err := h.AgentConnected(ctx, session.Identity{Kind: session.KindHost, ID: hostID}, session.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	_, places := wishOf[session.AgentWish](t, agent.Wishes())
	if len(places.Places) != 2 || places.Places[0].JoinToken == "" || places.Places[0].CPUMilli != 0 || places.Places[0].MemoryMiB != 1024 {
		t.Fatalf("the agent's wish: %+v", places)
	}
	replica, err := h.KeeperConnected(ctx, session.Identity{Kind: session.KindInstance, ID: second}, session.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	older, wish := wishOf[session.KeeperWish](t, replica.Wishes())
	d := wish.Desired
	if d.Role != orrery.RoleReplica || d.Primary != nil || len(d.Users) != 1 || d.Users[0].Secret != "verifier" || d.MemberSecret != "shared" ||
		d.Databases[0].Owner != "admin" || len(d.TrustedSources) != 1 || d.Generation != 3 {
		t.Fatalf("the replica's wish: %+v", d)
	}

	// The primary serves: its replica is told where it is, and the datastore's status says so.
	report := session.AgentReport{Host: orrery.HostStatus{Address: "127.0.0.1", AgentVersion: "v"},
		Places: map[string]session.PlaceState{first: {State: orrery.PlaceRunning, ID: "pl-1", Port: 17001}}}
	if err := agent.Report(ctx, report); err != nil {
		t.Fatal(err)
	}
	primary, err := h.KeeperConnected(ctx, session.Identity{Kind: session.KindInstance, ID: first}, session.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Close()
	seen := session.KeeperReport{Database: orrery.DatabaseStatus{State: orrery.DatabaseRunning, Role: orrery.RolePrimary, SystemID: "7", AppliedGeneration: 3}}
	if err := primary.Report(ctx, seen); err != nil {
		t.Fatal(err)
	}
	for d.Primary == nil {
		var generation uint64
		if generation, wish = wishOf[session.KeeperWish](t, replica.Wishes()); generation <= older {
			t.Fatalf("generation %d after %d", generation, older)
		}
		d = wish.Desired
	}
	if d.Primary.Port != 17001 || d.SystemID != "7" {
		t.Errorf("the replica is told of %+v, lineage %q", d.Primary, d.SystemID)
	}
	ds, _ := h.Store.Datastores.Get(dsID)
	if ds.Status.Primary != first || len(ds.Status.Endpoints) != 1 {
		t.Errorf("the datastore's status: %+v", ds.Status)
	}

	// What is reported again is not written again.
	revision := h.Store.Revision()
	if err := primary.Report(ctx, seen); err != nil {
		t.Fatal(err)
	}
	if err := agent.Report(ctx, report); err != nil {
		t.Fatal(err)
	}
	if now := h.Store.Revision(); now != revision {
		t.Errorf("the same reports moved the revision from %d to %d", revision, now)
	}
	if _, err := h.KeeperConnected(ctx, session.Identity{Kind: session.KindInstance, ID: "in-gone"}, session.Hello{}); orrery.KindOf(err) != orrery.KindForbidden {
		t.Errorf("a keeper whose instance is gone: %v", err)
	}
}

func TestPresenceFollowsTheSession(t *testing.T) {
	h := newHub(t)
	here := func(want bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := h.Store.WaitFor(ctx, nil, func() (bool, error) {
			_, ok := h.Store.Presences.Get(hostID)
			return ok == want, nil
		})
		if err != nil {
			t.Fatalf("wait until present is %t: %v", want, err)
		}
	}
	who := session.Identity{Kind: session.KindHost, ID: hostID}
	a, err := h.AgentConnected(t.Context(), who, session.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	here(true)
	// A newer session of the same host takes over: the end of the old one changes nothing.
	b, err := h.AgentConnected(t.Context(), who, session.Hello{})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	here(true)
	b.Close()
	here(false)
}
