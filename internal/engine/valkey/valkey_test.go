package valkey_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/engine/valkey"
)

func TestPrimaryAndReplica(t *testing.T) {
	ca := newAuthority(t)
	primary, replica := newMember(t, ca, "in-0000000000000001"), newMember(t, ca, "in-0000000000000002")
	primary.d.Peers = []engine.Peer{{Instance: replica.d.Instance, Role: orrery.RoleReplica, Address: replica.d.Address, Port: replica.d.Port}}
	primary.d.Replication = orrery.ReplicationSync
	if err := primary.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	primary.start(t)
	admin := primary.login(t, "admin", "hunter2")
	if err := admin.Set(t.Context(), "k", "v", 0).Err(); err == nil || !strings.Contains(err.Error(), "NOREPLICAS") {
		t.Fatalf("in sync mode a write without a replica says %v", err)
	}

	replica.d.Role = orrery.RoleReplica
	p := primary.peer()
	replica.d.Primary, replica.d.Peers = &p, []engine.Peer{p}
	if err := replica.Clone(t.Context(), replica.d, nil); err != nil {
		t.Fatal(err)
	}
	replica.start(t)
	eventually(t, func() error {
		obs, err := primary.Observe(t.Context())
		if err == nil && !slices.Equal(obs.Sync, []string{replica.d.Instance}) {
			err = fmt.Errorf("sync is %v of %v", obs.Sync, obs.Replicas)
		}
		return err
	})
	eventually(t, func() error { return admin.Set(t.Context(), "k", "v", 0).Err() })
	reader := replica.login(t, "admin", "hunter2")
	eventually(t, func() error {
		if v, err := reader.Get(t.Context(), "k").Result(); err != nil || v != "v" {
			return fmt.Errorf("%q, %w", v, err)
		}
		return nil
	})
	if err := reader.Set(t.Context(), "k", "w", 0).Err(); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Fatalf("a write on the replica says %v", err)
	}
	obs, err := replica.Observe(t.Context())
	if err != nil || !obs.Streaming || obs.Role != orrery.RoleReplica || obs.Upstream != primary.d.Instance {
		t.Fatalf("the replica says %+v, %v", obs, err)
	}

	primary.kill()
	if err := replica.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := reader.Set(t.Context(), "k", "w", 0).Err(); err != nil {
		t.Fatalf("a write after the promotion: %v", err)
	}
	// Reloading the configuration of a primary must not make it follow.
	if err := replica.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if obs, err := replica.Observe(t.Context()); err != nil || obs.Role != orrery.RolePrimary {
		t.Fatalf("after reload: %+v, %v", obs, err)
	}
}

func TestUsersCannotAdministerTheServer(t *testing.T) {
	m := newMember(t, newAuthority(t), "in-0000000000000001")
	driver, _ := discover(t)
	m.d.Users = append(m.d.Users,
		engine.DesiredUser{User: orrery.User{Name: "rw", Access: orrery.AccessReadWrite}, Secret: secret(t, driver, "rw")},
		engine.DesiredUser{User: orrery.User{Name: "ro", Access: orrery.AccessReadOnly}, Secret: secret(t, driver, "ro")})
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	for _, tt := range []struct {
		user, password string
		allowed        []string
		denied         []string
	}{
		{"admin", "hunter2", []string{"set a 1", "flushall", "info", "keys *", "client list", "function list", "eval return(1) 0"},
			[]string{"config get masterauth", "config set save x", "acl list", "acl setuser x", "shutdown", "replicaof no one", "module list", "bgsave", "psync ? -1", "monitor", "failover", "migrate h 1 k 0 1"}},
		{"rw", "rw", []string{"set a 1", "get a", "multi", "exec", "publish c m"}, []string{"flushall", "config get *", "acl users", "client kill id 1"}},
		{"ro", "ro", []string{"get a", "keys *", "select 1", "select 0", "ping"}, []string{"set a 2", "del a", "publish c m", "eval return(1) 0", "config get *"}},
	} {
		conn := m.login(t, tt.user, tt.password).Conn()
		do := func(line string) error {
			var args []any
			for _, w := range strings.Fields(line) {
				args = append(args, w)
			}
			return conn.Do(t.Context(), args...).Err()
		}
		for _, line := range tt.allowed {
			if err := do(line); err != nil {
				t.Errorf("%s: %s: %v", tt.user, line, err)
			}
		}
		for _, line := range tt.denied {
			if err := do(line); err == nil || !strings.Contains(err.Error(), "NOPERM") {
				t.Errorf("%s: %s was not denied: %v", tt.user, line, err)
			}
		}
		_ = conn.Close()
	}
	if err := m.login(t, "", "").Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without a user: %v", err)
	}
	if err := m.login(t, "admin", "wrong").Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("with a wrong password: %v", err)
	}

	// A new password and a removed user, without cutting other connections.
	kept := m.login(t, "rw", "rw").Conn()
	gone := m.login(t, "ro", "ro").Conn()
	id := kept.ClientID(t.Context()).Val()
	if err := gone.Ping(t.Context()).Err(); err != nil || id == 0 {
		t.Fatal(err, id)
	}
	m.d.Users = m.d.Users[:2]
	m.d.Users[0].Secret = secret(t, driver, "new")
	if effect := m.configure(t); effect != engine.EffectReload {
		t.Fatalf("effect %v", effect)
	}
	if err := errors.Join(m.Reload(t.Context()), m.Apply(t.Context(), m.d)); err != nil {
		t.Fatal(err)
	}
	if again := kept.ClientID(t.Context()).Val(); again != id {
		t.Errorf("connection %d became %d", id, again)
	}
	if err := m.login(t, "ro", "ro").Ping(t.Context()).Err(); err == nil {
		t.Error("a removed user still logs in")
	}
	if err := m.login(t, "admin", "hunter2").Ping(t.Context()).Err(); err == nil {
		t.Error("the old password still works")
	}
	if err := m.login(t, "admin", "new").Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestParameters(t *testing.T) {
	m := newMember(t, newAuthority(t), "in-0000000000000001")
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	params, err := m.Parameters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]orrery.Parameter{}
	for _, p := range params {
		by[p.Name] = p
	}
	if p := by["maxmemory-policy"]; p.Type != orrery.ParameterEnum || !slices.Contains(p.Values, "allkeys-lru") || p.Default != "noeviction" {
		t.Errorf("%+v", p)
	}
	if p := by["maxmemory-samples"]; p.Type != orrery.ParameterInt || p.Min != "1" || p.Restart {
		t.Errorf("%+v", p)
	}
	if p := by["databases"]; !p.Restart || p.Default != "16" {
		t.Errorf("%+v", p)
	}
	if p := by["activedefrag"]; p.Type != orrery.ParameterBool || p.Managed != "" {
		t.Errorf("%+v", p)
	}
	for _, name := range []string{"requirepass", "tls-port", "dir", "cluster-enabled", "replicaof", "min-slaves-to-write"} {
		if by[name].Managed == "" {
			t.Errorf("%s is not managed", name)
		}
	}

	m.start(t)
	admin := func(name string) string {
		out, err := os.ReadFile(m.dir + "/conf/keeper.secret")
		if err != nil {
			t.Fatal(err)
		}
		c := m.login(t, "orrery-keeper", string(out))
		return c.ConfigGet(t.Context(), name).Val()[name]
	}
	before := admin("slowlog-max-len")
	m.d.Parameters = map[string]string{"slowlog-max-len": "77", "databases": "4", "save": ""}
	if effect := m.configure(t); effect != engine.EffectRestart {
		t.Errorf("effect %v", effect)
	}
	if err := m.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := admin("slowlog-max-len"); got != "77" {
		t.Errorf("slowlog-max-len is %s", got)
	}
	if obs, err := m.Observe(t.Context()); err != nil || !slices.Equal(obs.PendingRestart, []string{"databases"}) {
		t.Errorf("%+v, %v", obs, err)
	}
	m.kill()
	m.start(t)
	if obs, err := m.Observe(t.Context()); err != nil || len(obs.PendingRestart) != 0 || admin("databases") != "4" || admin("save") != "" {
		t.Errorf("%+v, %v", obs, err)
	}
	m.d.Parameters = nil
	m.configure(t)
	if err := m.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := admin("slowlog-max-len"); got != before {
		t.Errorf("taken back, slowlog-max-len is %s", got)
	}
	if effect := m.configure(t); effect != engine.EffectRestart {
		t.Errorf("the server still has the other number of databases: effect %v", effect)
	}
	m.kill()
	m.start(t)
	if effect := m.configure(t); effect != engine.EffectNone {
		t.Errorf("nothing changed: effect %v", effect)
	}

	for name, value := range map[string]string{
		"maxmemory-policy": "sometimes", "maxclients": "-1", "no-such-thing": "1", "requirepass": "x", "hz": "1\"\nport 1",
	} {
		d := m.d
		d.Parameters = map[string]string{name: value}
		_, err := m.Configure(t.Context(), d)
		var oe *orrery.Error
		if !errors.As(err, &oe) || oe.Kind != orrery.KindInvalid || oe.Field != engine.ParameterField(name) {
			t.Errorf("%s=%q: %v", name, value, err)
		}
	}
	if effect := m.configure(t); effect != engine.EffectNone {
		t.Errorf("a refused parameter left effect %v", effect)
	}
}

func TestFindProcess(t *testing.T) {
	m := newMember(t, newAuthority(t), "in-0000000000000001")
	if pid, err := m.FindProcess(); pid != 0 || err != nil {
		t.Fatalf("nothing runs: %d, %v", pid, err)
	}
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	if pid, err := m.FindProcess(); pid != m.cmd.Process.Pid || err != nil {
		t.Fatalf("FindProcess: %d, %v, want %d", pid, err, m.cmd.Process.Pid)
	}
	// By its folder, where it does not listen (yet).
	if err := os.Rename(m.dir+"/run/valkey.sock", m.dir+"/run/away"); err != nil {
		t.Fatal(err)
	}
	if pid, err := m.FindProcess(); pid != m.cmd.Process.Pid || err != nil {
		t.Fatalf("FindProcess: %d, %v, want %d", pid, err, m.cmd.Process.Pid)
	}
	_ = os.Rename(m.dir+"/run/away", m.dir+"/run/valkey.sock")
	m.kill()
	if pid, err := m.FindProcess(); pid != 0 || err != nil {
		t.Fatalf("it is dead: %d, %v", pid, err)
	}
}

func TestCertificateIsReplacedWithoutRestart(t *testing.T) {
	ca := newAuthority(t)
	m := newMember(t, ca, "in-0000000000000001")
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	serial := func() string {
		c, err := tls.Dial("tcp", net.JoinHostPort(m.d.Address, strconv.Itoa(m.d.Port)), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	old := serial()
	ca.issue(t, m.dir)
	if err := m.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if serial() == old {
		t.Error("still the old certificate")
	}
}

func TestDataSurvivesItsStopAndItsDeath(t *testing.T) {
	m := newMember(t, newAuthority(t), "in-0000000000000001")
	if err := m.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	c := m.login(t, "admin", "hunter2")
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = m.cmd.Wait()
	m.cmd = nil
	m.start(t)
	c = m.login(t, "admin", "hunter2")
	if v, err := c.Get(t.Context(), "k").Result(); v != "v" {
		t.Fatalf("%q, %v", v, err)
	}
	if err := m.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Prepared(); ok || err != nil {
		t.Errorf("after Discard: %v, %v", ok, err)
	}
}

func TestTrustedSources(t *testing.T) {
	driver := valkey.New(valkey.Config{})
	for cidr, ok := range map[string]bool{
		"127.0.0.0/8": true, "127.0.0.1": true, "::1/128": true, "0.0.0.0/0": true, "::/0": true,
		"10.0.0.0/8": false, "192.168.1.1": false, "fe80::/10": false, "127.0.0.0/7": false, "nonsense": false,
	} {
		err := driver.CheckSpec(orrery.DatastoreSpec{TrustedSources: []orrery.TrustedSource{{CIDR: cidr}}})
		if (err == nil) != ok {
			t.Errorf("%s: %v", cidr, err)
		}
	}
	m := newMember(t, newAuthority(t), "in-0000000000000001")
	m.d.Address = "192.0.2.1"
	bind := func() string {
		m.configure(t)
		conf, err := os.ReadFile(m.dir + "/conf/valkey.conf")
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(conf[strings.Index(string(conf), "bind "):]), "\n")
		return line
	}
	if got := bind(); got != `bind "127.0.0.1" "-::1"` {
		t.Errorf("nobody trusted: %s", got)
	}
	m.d.TrustedSources = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if got := bind(); got != `bind "127.0.0.1" "-::1" "192.0.2.1"` {
		t.Errorf("all trusted: %s", got)
	}
	m.d.TrustedSources = nil
	m.d.Peers = []engine.Peer{{Instance: "in-0000000000000002", Address: "192.0.2.2", Port: 1}}
	var oe *orrery.Error
	if _, err := m.Configure(t.Context(), m.d); !errors.As(err, &oe) || oe.Code != "trusted_source_not_enforceable" {
		t.Errorf("closed, with a peer on another host: %v", err)
	}
}

func TestCheckSpec(t *testing.T) {
	driver := valkey.New(valkey.Config{})
	for field, spec := range map[string]orrery.DatastoreSpec{
		"databases[0]":       {Databases: []orrery.Database{{Name: "x"}}},
		"users[0].name":      {Users: []orrery.User{{Name: "default"}}},
		"users[1].name":      {Users: []orrery.User{{Name: "a"}, {Name: "orrery-keeper"}}},
		"users[2].name":      {Users: []orrery.User{{Name: "a"}, {Name: "b"}, {Name: "on ~* +@all"}}},
		"users[0].databases": {Users: []orrery.User{{Name: "a", Databases: []string{"x"}}}},
	} {
		var oe *orrery.Error
		if err := driver.CheckSpec(spec); !errors.As(err, &oe) || oe.Field != field || oe.Hint == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := driver.CheckSpec(orrery.DatastoreSpec{Users: []orrery.User{{Name: driver.DefaultUser()}}}); err != nil {
		t.Error(err)
	}
	plan := orrery.Plan{MemoryMiB: 1000}
	for value, ok := range map[string]bool{"900mb": true, "901mb": false, "0": false, "x": false, "1g": false, "99999999999999g": false} {
		if err := driver.CheckParameter(orrery.Parameter{Name: "maxmemory"}, value, orrery.DatastoreSpec{}, plan); (err == nil) != ok {
			t.Errorf("maxmemory %s: %v", value, err)
		}
	}
}
