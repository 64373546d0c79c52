package enginetest

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

func (s *suite) definition(t *testing.T) {
	e := s.Driver.Engine()
	if e.Name == "" || e.Title == "" || len(e.Replication) == 0 || e.Databases != (s.Driver.DefaultDatabase() != "") {
		t.Errorf("Engine() = %+v, default database %q", e, s.Driver.DefaultDatabase())
	}
	if !s.Driver.Supports(s.version.Version) || s.Driver.Supports("0") || s.Driver.Supports("") {
		t.Errorf("Supports is wrong about %q, \"0\" or \"\"", s.version.Version)
	}
	if s.version.Engine != e.Name || !strings.HasPrefix(s.version.Full, s.version.Version) {
		t.Errorf("Discover gives %+v", s.version)
	}
	if _, err := s.Driver.SecretForm(""); orrery.KindOf(err) != orrery.KindInvalid {
		t.Errorf("SecretForm(\"\") = %v", err)
	}
	spec := orrery.DatastoreSpec{Engine: e.Name, Users: []orrery.User{{Name: s.Driver.DefaultUser(), Access: orrery.AccessAdmin}}}
	if db := s.Driver.DefaultDatabase(); db != "" {
		spec.Databases = []orrery.Database{{Name: db}}
	}
	if err := s.Driver.CheckSpec(spec); err != nil {
		t.Errorf("CheckSpec refuses the engine's own defaults: %v", err)
	}
	for _, name := range []string{"", "a\x00b", "a\nb", "\xff", strings.Repeat("x", 300)} {
		bad := spec
		bad.Users = append(slices.Clone(spec.Users), orrery.User{Name: name, Access: orrery.AccessReadOnly})
		err := s.Driver.CheckSpec(bad)
		if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Kind != orrery.KindInvalid || e.Field != "users[1].name" {
			t.Errorf("CheckSpec with a user named %.20q = %#v", name, err)
		}
	}
	endpoints := []orrery.Endpoint{
		{Instance: "in-1", Role: orrery.EndpointPrimary, Address: "192.0.2.1", Port: 17001},
		{Instance: "in-2", Role: orrery.EndpointReplica, Address: "192.0.2.2", Port: 17002},
	}
	names := map[string]bool{}
	for _, c := range s.Driver.Connection(spec, endpoints, s.Driver.DefaultUser(), s.Driver.DefaultDatabase()) {
		names[c.Name] = true
		if c.Text == "" || c.Doc == "" {
			t.Errorf("connection string %+v", c)
		}
	}
	if !names["primary"] || !names["read_only"] || !names["cli"] {
		t.Errorf("connection strings: %v", names)
	}
}

func (s *suite) prepare(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if ok, err := m.Prepared(); ok || err != nil {
		t.Fatalf("Prepared on an empty folder = %v, %v", ok, err)
	}
	if pid, err := m.FindProcess(); pid != 0 || err != nil {
		t.Errorf("FindProcess on an empty folder = %v, %v", pid, err)
	}
	if err := m.Ready(t.Context()); err == nil {
		t.Error("Ready on an empty folder")
	}
	if _, err := m.Observe(t.Context()); err == nil {
		t.Error("Observe on an empty folder")
	}
	for range 2 {
		if err := m.Prepare(t.Context()); err != nil {
			t.Fatalf("Prepare: %v", err)
		}
		if ok, err := m.Prepared(); !ok || err != nil {
			t.Fatalf("Prepared after Prepare = %v, %v", ok, err)
		}
	}
	for range 2 {
		if err := m.Discard(t.Context()); err != nil {
			t.Fatalf("Discard: %v", err)
		}
		if ok, err := m.Prepared(); ok || err != nil {
			t.Fatalf("Prepared after Discard = %v, %v", ok, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Prepare(ctx); err == nil {
		t.Error("Prepare with an ended context")
	}
	if ok, err := m.Prepared(); ok || err != nil {
		t.Errorf("Prepared after a Prepare that was cut off = %v, %v", ok, err)
	}
}

func (s *suite) prepareDies(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	for _, after := range []time.Duration{0, 40 * time.Millisecond, 160 * time.Millisecond} {
		done := m.dieIn(t, "prepare", after)
		if ok, err := m.Prepared(); err != nil || done && !ok {
			t.Fatalf("Prepared after Prepare died at %v = %v, %v", after, ok, err)
		}
		if done {
			break
		}
	}
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatalf("Prepare after some that died: %v", err)
	}
	m.up(t)
	if err := m.connect(t, nil).Write(t.Context(), "k", "v"); err != nil {
		t.Error(err)
	}
}

func (s *suite) parameters(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := m.Parameters(t.Context())
	if err != nil {
		t.Fatalf("Parameters: %v", err)
	}
	managed := 0
	byName := map[string]orrery.Parameter{}
	for _, p := range list {
		if _, twice := byName[p.Name]; p.Name == "" || p.Type == "" || twice || (p.Type == orrery.ParameterEnum && p.Managed == "" && len(p.Values) == 0) {
			t.Errorf("parameter %+v", p)
		}
		if p.Managed != "" {
			managed++
		}
		byName[p.Name] = p
	}
	if len(list) < 50 || managed == 0 || managed == len(list) {
		t.Errorf("%d parameters, %d of them managed", len(list), managed)
	}
	values := map[string]string{s.Reloadable.Name: s.Reloadable.Value}
	if s.Restart.Name != "" {
		values[s.Restart.Name] = s.Restart.Value
	}
	check := func(p orrery.Parameter, value string) error {
		return s.Driver.CheckParameter(p, value, orrery.DatastoreSpec{}, orrery.Plan{MemoryMiB: 512, CPUMilli: 1000, StorageGiB: 4})
	}
	restart, err := engine.CheckParameters(list, values, check)
	if err != nil || slices.Contains(restart, s.Reloadable.Name) || (s.Restart.Name != "") != slices.Contains(restart, s.Restart.Name) {
		t.Errorf("CheckParameters(%v) = restart %v, %v", values, restart, err)
	}
	// The dataset is as it was: it starts.
	m.up(t)
}

func (s *suite) primary(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.up(t)
	m.apply(t) // twice
	if err := m.Promote(t.Context()); err != nil {
		t.Errorf("Promote of a primary: %v", err)
	}
	o := m.observe(t)
	if o.Role != orrery.RolePrimary || o.Version != s.version.Full || o.SystemID == "" || o.StartedAt.IsZero() || time.Since(o.StartedAt).Abs() > time.Minute ||
		o.Streaming || len(o.Replicas) != 0 || len(o.PendingRestart) != 0 {
		t.Errorf("Observe = %+v", o)
	}
	c := m.connect(t, nil)
	if err := c.Write(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if after := m.observe(t); after.Position < o.Position {
		t.Errorf("the position went back: %d, then %d", o.Position, after.Position)
	}
	pid, err := m.FindProcess()
	if err != nil || pid != m.cmd.Process.Pid {
		t.Errorf("FindProcess = %d, %v; it is %d", pid, err, m.cmd.Process.Pid)
	}
	m.stop(t)
	if pid, err := m.FindProcess(); pid != 0 || err != nil {
		t.Errorf("FindProcess after the stop = %d, %v", pid, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := m.Ready(ctx); err == nil {
		t.Error("Ready after the stop")
	}
	if _, err := m.Observe(ctx); err == nil {
		t.Error("Observe after the stop")
	}
	m.up(t)
	if v, err := m.connect(t, nil).Read(t.Context(), "k"); v != "v" || err != nil {
		t.Errorf("after a restart: %q, %v", v, err)
	}
}

func (s *suite) access(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.up(t)
	m.connect(t, nil)
	m.mustRefuse(t, "a client in the clear", func(l *Login) { l.TLS = nil })
	m.mustRefuse(t, "a wrong password", func(l *Login) { l.Password = "guess" })
	m.mustRefuse(t, "no password", func(l *Login) { l.Password = "" })
	m.mustRefuse(t, "an unknown user", func(l *Login) { l.User = "nobody_knows" })
	m.mustRefuse(t, "a server that another CA has signed", func(l *Login) { l.TLS = newAuthority(t).client() })
	for version, want := range map[uint16]bool{tls.VersionTLS13: true, tls.VersionTLS11: false} {
		_, err := m.try(t, func(l *Login) { l.TLS.MinVersion, l.TLS.MaxVersion = version, version })
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

func (s *suite) trustedSources(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.d.TrustedSources = prefixes("127.0.0.2/32")
	m.up(t)
	from := func(source string) func(*Login) { return func(l *Login) { l.Source = source } }
	m.connect(t, from("127.0.0.2"))
	if !s.FiltersSources {
		return
	}
	m.mustRefuse(t, "an address that is not trusted", from("127.0.0.1"))
	m.d.TrustedSources = prefixes("127.0.0.0/24", "2001:db8::/32")
	if effect := m.converge(t); effect != engine.EffectReload {
		t.Errorf("Configure with other trusted sources = %v", effect)
	}
	m.connect(t, from("127.0.0.1"))
	m.d.TrustedSources = nil
	m.converge(t)
	m.mustRefuse(t, "a client where nobody is trusted", from("127.0.0.1"))
}

func (s *suite) durability(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		m.up(t)
		c := m.connect(t, nil)
		for k := range i {
			if v, err := c.Read(t.Context(), "k"+strconv.Itoa(k)); v != "v" || err != nil {
				t.Fatalf("a kill lost what was acknowledged: %q, %v", v, err)
			}
		}
		if err := c.Write(t.Context(), "k"+strconv.Itoa(i), "v"); err != nil {
			t.Fatal(err)
		}
		_ = m.cmd.Process.Kill()
		<-m.ended
		m.cmd = nil
		if pid, err := m.FindProcess(); pid != 0 || err != nil {
			t.Errorf("FindProcess after a kill = %d, %v", pid, err)
		}
	}
}

func (s *suite) adoption(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.up(t)
	c := m.connect(t, nil)
	m.open(t) // a new keeper comes
	if pid, err := m.FindProcess(); pid != m.cmd.Process.Pid || err != nil {
		t.Errorf("FindProcess of a new handle = %d, %v", pid, err)
	}
	if ok, err := m.Prepared(); !ok || err != nil {
		t.Errorf("Prepared while running = %v, %v", ok, err)
	}
	if err := m.Ready(t.Context()); err != nil {
		t.Errorf("Ready of a new handle: %v", err)
	}
	if o := m.observe(t); o.Role != orrery.RolePrimary {
		t.Errorf("Observe of a new handle = %+v", o)
	}
	if effect := m.mustConfigure(t); effect != engine.EffectNone {
		t.Errorf("Configure with what is = %v", effect)
	}
	m.d.Parameters = map[string]string{s.Reloadable.Name: s.Reloadable.Value}
	m.converge(t)
	if err := c.Write(t.Context(), "k", "v"); err != nil {
		t.Errorf("adoption cut a client off: %v", err)
	}
	m.open(t)
	if effect := m.mustConfigure(t); effect != engine.EffectNone {
		t.Errorf("Configure with what is, by a third handle = %v", effect)
	}
	m.stop(t)
}

// portTaken: the server must fail and say why, not run where nobody reaches it.
func (s *suite) portTaken(t *testing.T) {
	m := s.newMember(t, "in-1000000000000000", orrery.RolePrimary)
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(m.d.Address, strconv.Itoa(m.d.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	m.start(t)
	eventually(t, "the taken port is told", func() error {
		err := m.Ready(t.Context())
		if err == nil {
			t.Fatal("Ready with the port taken")
		}
		if e, ok := errors.AsType[*orrery.Error](err); ok && e.Code == "port_taken" && e.Hint != "" {
			return nil
		}
		return err
	})
	m.kill()
	_ = l.Close()
	if err := os.Truncate(m.dir+"/output.log", 0); err != nil {
		t.Fatal(err)
	}
	m.up(t)
}
