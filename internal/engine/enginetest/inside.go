package enginetest

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

func (s *suite) users(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := m.d.Users[0]
	m.d.Users = []engine.DesiredUser{first, s.user(t, "writer", orrery.AccessReadWrite, "w", 1), s.user(t, "reader", orrery.AccessReadOnly, "r", 1)}
	m.up(t)
	as := func(name, pw string) func(*Login) { return func(l *Login) { l.User, l.Password = name, pw } }
	admin, writer, reader := m.connect(t, nil), m.connect(t, as("writer", "w")), m.connect(t, as("reader", "r"))
	ctx := t.Context()
	if err := admin.Write(ctx, "k", "by admin"); err != nil { // comes first: what an admin makes, the others may use
		t.Fatal(err)
	}
	if err := writer.Write(ctx, "k", "by writer"); err != nil {
		t.Errorf("readwrite cannot write: %v", err)
	}
	if v, err := reader.Read(ctx, "k"); v != "by writer" || err != nil {
		t.Errorf("readonly reads %q, %v", v, err)
	}
	if err := reader.Write(ctx, "k", "by reader"); err == nil {
		t.Error("readonly can write")
	}

	// A change of access, of a password, and one user less.
	m.d.Users = []engine.DesiredUser{first, s.user(t, "reader", orrery.AccessReadWrite, "new", 2)}
	for range 2 {
		m.converge(t)
	}
	m.mustRefuse(t, "an old password", as("reader", "r"))
	m.mustRefuse(t, "a user that was removed", as("writer", "w"))
	if err := writer.Write(ctx, "k", "from the grave"); err == nil {
		t.Error("a connection of a removed user still writes")
	}
	reader = m.connect(t, as("reader", "new"))
	if err := reader.Write(ctx, "k", "by reader"); err != nil {
		t.Errorf("readonly made readwrite cannot write: %v", err)
	}
	m.d.Users[1] = s.user(t, "reader", orrery.AccessReadOnly, "new", 2)
	m.converge(t)
	reader = m.connect(t, as("reader", "new"))
	if err := reader.Write(ctx, "k", "again"); err == nil {
		t.Error("readwrite made readonly can write")
	}
	if v, err := reader.Read(ctx, "k"); v != "by reader" || err != nil {
		t.Errorf("readwrite made readonly reads %q, %v", v, err)
	}
	// The removed name comes back as somebody new.
	m.d.Users = append(m.d.Users, s.user(t, "writer", orrery.AccessReadWrite, "w2", 1))
	m.converge(t)
	if err := m.connect(t, as("writer", "w2")).Write(ctx, "k", "by the new writer"); err != nil {
		t.Errorf("a name made anew cannot write: %v", err)
	}
	m.mustRefuse(t, "the password of a user of the same name before", as("writer", "w"))
	// A second admin owns things and goes: what it made stays.
	m.d.Users = append(m.d.Users, s.user(t, "second", orrery.AccessAdmin, "s", 1))
	m.converge(t)
	if err := m.connect(t, as("second", "s")).Write(ctx, "k", "by the second admin"); err != nil {
		t.Errorf("a second admin cannot write: %v", err)
	}
	m.d.Users = m.d.Users[:len(m.d.Users)-1]
	m.converge(t)
	if v, err := admin.Read(ctx, "k"); v != "by the second admin" || err != nil {
		t.Errorf("what a removed user made: %q, %v", v, err)
	}
	if err := admin.Write(ctx, "k", "by admin"); err != nil {
		t.Errorf("the first admin was cut off: %v", err)
	}
}

func (s *suite) databases(t *testing.T) {
	if !s.Driver.Engine().Databases {
		return
	}
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	owner := s.user(t, "owner", orrery.AccessAdmin, "o", 1)
	limited := s.user(t, "limited", orrery.AccessReadWrite, "l", 1)
	limited.Databases = []string{"second"}
	m.d.Users = append(m.d.Users, owner, limited)
	m.d.Databases = append(m.d.Databases, orrery.Database{Name: "second", Owner: "owner"})
	m.up(t)
	ctx := t.Context()
	in := func(user, pw, db string) func(*Login) {
		return func(l *Login) { l.User, l.Password, l.Database = user, pw, db }
	}
	if err := m.connect(t, in("owner", "o", "second")).Write(ctx, "k", "second"); err != nil {
		t.Fatal(err)
	}
	if err := m.connect(t, nil).Write(ctx, "k", "first"); err != nil {
		t.Fatal(err)
	}
	if v, err := m.connect(t, in("limited", "l", "second")).Read(ctx, "k"); v != "second" || err != nil {
		t.Errorf("a limited user in its database reads %q, %v", v, err)
	}
	m.mustRefuse(t, "a limited user", in("limited", "l", m.s.Driver.DefaultDatabase()))
	// The owner goes, and the limit is lifted: the database stays and changes hands.
	limited.Databases = nil
	m.d.Users = []engine.DesiredUser{m.d.Users[0], limited}
	m.d.Databases[1].Owner = ""
	m.converge(t)
	m.connect(t, in("limited", "l", m.s.Driver.DefaultDatabase()))
	if v, err := m.connect(t, func(l *Login) { l.Database = "second" }).Read(ctx, "k"); v != "second" || err != nil {
		t.Errorf("after its owner has gone: %q, %v", v, err)
	}
	m.d.Databases = m.d.Databases[:1]
	for range 2 {
		m.converge(t) // drops it although clients are connected
	}
	m.mustRefuse(t, "a client of a dropped database", func(l *Login) { l.Database = "second" })
	m.d.Databases = append(m.d.Databases, orrery.Database{Name: "second"})
	m.converge(t)
	if v, err := m.connect(t, func(l *Login) { l.Database = "second" }).Read(ctx, "k"); v != "" || err != nil {
		t.Errorf("a database of the same name made anew has %q, %v", v, err)
	}
}

func (s *suite) configure(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.up(t)
	c := m.connect(t, nil)
	value := func(name string) string {
		v, err := c.Setting(t.Context(), name)
		if err != nil {
			t.Fatalf("setting %s: %v", name, err)
		}
		return v
	}
	set := func(settings ...Setting) engine.Effect {
		m.d.Parameters = map[string]string{}
		for _, x := range settings {
			m.d.Parameters[x.Name] = x.Value
		}
		m.d.Generation++
		return m.converge(t)
	}
	if effect := set(); effect != engine.EffectNone {
		t.Errorf("Configure with no change = %v", effect)
	}
	before := value(s.Reloadable.Name)
	if effect := set(s.Reloadable); effect == engine.EffectRestart {
		t.Errorf("Configure with %s = %v", s.Reloadable.Name, effect)
	}
	eventually(t, "the new value shows", differs(func() string { return value(s.Reloadable.Name) }, before))
	if effect := set(); effect == engine.EffectRestart {
		t.Errorf("Configure without %s = %v", s.Reloadable.Name, effect)
	}
	eventually(t, "the value is what it was", equals(func() string { return value(s.Reloadable.Name) }, before))

	if s.Restart.Name == "" {
		return
	}
	before = value(s.Restart.Name)
	if effect := set(s.Restart); effect != engine.EffectRestart {
		t.Errorf("Configure with %s = %v", s.Restart.Name, effect)
	}
	if effect := m.mustConfigure(t); effect != engine.EffectRestart {
		t.Errorf("Configure with %s once more = %v: the server still lacks it", s.Restart.Name, effect)
	}
	if v := value(s.Restart.Name); v != before {
		t.Errorf("%s is %q before the restart", s.Restart.Name, v)
	}
	if o := m.observe(t); !slices.Contains(o.PendingRestart, s.Restart.Name) {
		t.Errorf("PendingRestart = %v", o.PendingRestart)
	}
	// Taken back before the restart: nothing is pending.
	if effect := set(); effect == engine.EffectRestart {
		t.Errorf("Configure with %s taken back = %v", s.Restart.Name, effect)
	}
	if o := m.observe(t); len(o.PendingRestart) != 0 {
		t.Errorf("PendingRestart after it was taken back = %v", o.PendingRestart)
	}
	set(s.Restart)
	m.stop(t)
	m.up(t)
	c = m.connect(t, nil)
	if v := value(s.Restart.Name); v == before {
		t.Errorf("%s is still %q after the restart", s.Restart.Name, v)
	}
	if o := m.observe(t); len(o.PendingRestart) != 0 {
		t.Errorf("PendingRestart after the restart = %v", o.PendingRestart)
	}
	// Taking it away wants a restart as well.
	wanted := maps.Clone(m.d.Parameters)
	if effect := set(); effect != engine.EffectRestart {
		t.Errorf("Configure without %s, which the server has = %v", s.Restart.Name, effect)
	}
	m.d.Parameters = wanted
	if effect := m.converge(t); effect == engine.EffectRestart {
		t.Errorf("Configure with what the server has = %v", effect)
	}
}

func differs(get func() string, from string) func() error {
	return func() error {
		if get() == from {
			return errors.New("still " + from)
		}
		return nil
	}
}

func equals(get func() string, want string) func() error {
	return func() error {
		if v := get(); v != want {
			return errors.New("is " + v)
		}
		return nil
	}
}
