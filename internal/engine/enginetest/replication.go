package enginetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// cluster makes a primary that runs, and replicas with prepared datasets of their own lineage, as warm places give.
func (s *suite) cluster(t *testing.T, n int, mode orrery.ReplicationMode) []*member {
	t.Helper()
	members := make([]*member, n)
	for i := range members {
		role := orrery.RoleReplica
		if i == 0 {
			role = orrery.RolePrimary
		}
		members[i] = s.newMember(t, fmt.Sprintf("in-%d000000000000000", i+1), role)
		members[i].d.Replication = mode
		if err := members[i].Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	introduce(members)
	members[0].up(t)
	return members
}

// introduce tells all members of each other.
func introduce(members []*member) {
	var primary *engine.Peer
	for _, m := range members {
		if m.d.Role == orrery.RolePrimary {
			p := m.peer()
			primary = &p
		}
	}
	for _, m := range members {
		m.d.Peers, m.d.Primary = nil, nil
		for _, o := range members {
			if o != m {
				m.d.Peers = append(m.d.Peers, o.peer())
			}
		}
		if m.d.Role == orrery.RoleReplica {
			m.d.Primary = primary
		}
	}
}

// join makes a prepared member a copy that follows.
func (m *member) join(t *testing.T) {
	t.Helper()
	var done, total int64
	if err := m.Clone(t.Context(), m.d, func(d, all int64) { done, total = d, all }); err != nil {
		t.Fatalf("Clone: %v", err)
	}
	if total != 0 && done > total {
		t.Errorf("Clone's progress ended with %d of %d", done, total)
	}
	if ok, err := m.Prepared(); !ok || err != nil {
		t.Fatalf("Prepared after Clone = %v, %v", ok, err)
	}
	m.up(t)
}

func (m *member) awaitStreaming(t testing.TB, from *member) {
	t.Helper()
	eventually(t, m.d.Instance+" streams from "+from.d.Instance, func() error {
		r, p := m.observe(t), from.observe(t)
		if r.Role != orrery.RoleReplica || !r.Streaming || !slices.Contains(p.Replicas, m.d.Instance) {
			return fmt.Errorf("replica: %+v, primary: %+v", r, p)
		}
		if r.Upstream != "" && r.Upstream != from.d.Instance {
			t.Fatalf("Upstream = %q, it is %q", r.Upstream, from.d.Instance)
		}
		return nil
	})
}

func (m *member) awaitValue(t *testing.T, key, want string) {
	t.Helper()
	c := m.connect(t, nil)
	eventually(t, m.d.Instance+" has what was written", func() error {
		v, err := c.Read(t.Context(), key)
		if err == nil && v != want {
			err = fmt.Errorf("reads %q", v)
		}
		return err
	})
}

// write writes to a primary. Engines may refuse, rather than hold back, what has too few replicas yet.
func (m *member) write(t *testing.T, key, value string) {
	t.Helper()
	c := m.connect(t, nil)
	eventually(t, m.d.Instance+" takes a write", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience/2)
		defer cancel()
		return c.Write(ctx, key, value)
	})
}

func (s *suite) replication(t *testing.T) {
	for _, mode := range s.Driver.Engine().Replication {
		t.Run(string(mode), func(t *testing.T) { s.replicationIn(t, mode) })
	}
}

func (s *suite) replicationIn(t *testing.T, mode orrery.ReplicationMode) {
	members := s.cluster(t, 3, mode)
	a, b, c := members[0], members[1], members[2]
	ctx := t.Context()
	if mode == orrery.ReplicationAsync {
		// In synchronous mode it may wait for a replica.
		if err := a.connect(t, nil).Write(ctx, "k0", "before the replicas"); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range members[1:] {
		m.join(t)
		m.awaitStreaming(t, a)
		m.apply(t) // twice, on a replica
	}
	a.write(t, "k1", "v1")
	for _, m := range members[1:] {
		m.awaitValue(t, "k1", "v1")
		if mode == orrery.ReplicationAsync {
			m.awaitValue(t, "k0", "before the replicas")
		}
		if err := m.connect(t, nil).Write(ctx, "k1", "on a replica"); err == nil {
			t.Errorf("%s is a replica and takes writes", m.d.Instance)
		}
		if p, r := a.observe(t), m.observe(t); p.SystemID != r.SystemID {
			t.Errorf("primary and replica are of different lineages: %s, %s", p.SystemID, r.SystemID)
		}
	}
	if mode == orrery.ReplicationSync {
		eventually(t, "the primary counts its replicas", func() error {
			if o := a.observe(t); len(o.Sync) != 2 {
				return fmt.Errorf("it counts %v", o.Sync)
			}
			return nil
		})
	}
	// Users and passwords reach replicas by replication.
	a.d.Users = append(a.d.Users, s.user(t, "late", orrery.AccessReadOnly, "l", 1))
	b.d.Users, c.d.Users = a.d.Users, a.d.Users
	for _, m := range members {
		m.converge(t)
	}
	eventually(t, "a new user can log in at the replica", func() error {
		_, err := b.try(t, func(l *Login) { l.User, l.Password = "late", "l" })
		return err
	})

	// A replica stops and comes back by itself.
	c.stop(t)
	a.write(t, "k2", "while one was away")
	c.up(t)
	c.awaitStreaming(t, a)
	c.awaitValue(t, "k2", "while one was away")

	// The primary dies; b takes over, c follows it, a comes back as a replica.
	a.kill()
	b.d.Role, a.d.Role = orrery.RolePrimary, orrery.RoleReplica
	introduce(members)
	if effect := b.mustConfigure(t); effect == engine.EffectRestart {
		t.Errorf("promotion wants a restart")
	}
	for range 2 {
		if err := b.Promote(ctx); err != nil {
			t.Fatalf("Promote: %v", err)
		}
	}
	b.converge(t)
	if effect := c.converge(t); effect == engine.EffectRestart {
		t.Errorf("following another primary wants a restart")
	}
	if o := b.observe(t); o.Role != orrery.RolePrimary {
		t.Errorf("Observe after Promote = %+v", o)
	}
	c.awaitStreaming(t, b)
	b.write(t, "k3", "of the new primary")
	c.awaitValue(t, "k3", "of the new primary")
	a.join(t)
	a.awaitStreaming(t, b)
	a.awaitValue(t, "k3", "of the new primary")

	// One member less.
	c.stop(t)
	introduce(members[:2])
	for _, m := range members[:2] {
		m.converge(t)
	}
	b.write(t, "k4", "of two")
	a.awaitValue(t, "k4", "of two")
}

func (s *suite) cloneDies(t *testing.T) {
	members := s.cluster(t, 2, orrery.ReplicationAsync)
	a, b := members[0], members[1]
	if err := a.connect(t, nil).Write(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 80 * time.Millisecond} {
		done := b.dieIn(t, "clone", after)
		if ok, err := b.Prepared(); err != nil || done && !ok {
			t.Fatalf("Prepared after Clone died at %v = %v, %v", after, ok, err)
		}
		if done {
			break
		}
	}
	b.join(t)
	b.awaitStreaming(t, a)
	b.awaitValue(t, "k", "v")

	// Nobody there: an error, not a hang; and what was is whole or gone.
	b.stop(t)
	a.kill()
	if s.Driver.Engine().Databases { // engines whose replicas copy by themselves have nothing to fail with
		if err := b.Clone(t.Context(), b.d, nil); err == nil {
			t.Error("Clone of a dead primary")
		}
	}
}
