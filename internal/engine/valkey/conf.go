package valkey

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

const socketName = "valkey.sock"

// managed names the settings that Orrery owns, with why. Users' values for them are refused.
var managed = map[string]string{
	"bind": "follows from the instance's address and the trusted sources", "bind-source-addr": "follows from the instance's address",
	"port": "TLS only", "tls-port": "given by the instance's place", "protected-mode": "the default user is off",
	"unixsocket": "the keeper's way in", "unixsocketperm": "the keeper's way in",
	"dir": "the instance's volume", "dbfilename": "the instance's volume", "appenddirname": "the instance's volume",
	"appendfilename": "the instance's volume", "appendonly": "persistence is always on", "aclfile": "users are part of the datastore's spec",
	"requirepass": "users are part of the datastore's spec", "acl-pubsub-default": "users are part of the datastore's spec",
	"daemonize": "the keeper is its parent", "supervised": "the keeper is its parent", "pidfile": "the keeper is its parent",
	"logfile": "the keeper keeps its log", "syslog-enabled": "the keeper keeps its log", "syslog-ident": "the keeper keeps its log",
	"syslog-facility": "the keeper keeps its log", "shutdown-on-sigterm": "the keeper stops it", "shutdown-on-sigint": "the keeper stops it",
	"masteruser": "members prove themselves to each other", "masterauth": "members prove themselves to each other",
	"primaryuser": "members prove themselves to each other", "primaryauth": "members prove themselves to each other",
	"replicaof": "follows from the instance's role", "replica-announce-ip": "follows from the instance's address",
	"replica-announce-port": "follows from the instance's address", "replica-announced": "follows from the instance's role",
	"replica-read-only": "a replica that is written to is no copy", "min-replicas-to-write": "follows from the replication mode",
	"min-replicas-max-lag": "follows from the replication mode", "enable-debug-command": "unsafe", "enable-module-command": "unsafe",
	"enable-protected-configs": "unsafe", "ignore-warnings": "unsafe", "set-proc-title": "", "proc-title-template": "",
	"always-show-logo": "", "socket-mark-id": "unsafe", "oom-score-adj": "the place limits memory", "oom-score-adj-values": "the place limits memory",
}

// managedPrefixes are whole families of settings that Orrery owns.
var managedPrefixes = map[string]string{"tls-": "TLS is Orrery's to set", "cluster-": "cluster mode is not offered", "rdma-": "TLS only"}

// restartOnly are the settings that a user may set and that the server takes on only at its start.
var restartOnly = []string{"databases", "disable-thp", "io-threads", "io-threads-do-reads", "rdbchecksum", "tcp-backlog"}

// severalArguments are settings whose value is a list of words in the configuration file.
var severalArguments = []string{"save", "client-output-buffer-limit", "bind", "replicaof", "latency-tracking-info-percentiles", "shutdown-on-sigterm"}

// settings gives the whole configuration for d but for conf/users.acl.
func (s *server) settings(d engine.Desired) (map[string]string, error) {
	bind, err := listenOn(d)
	if err != nil {
		return nil, err
	}
	m := map[string]string{
		"bind": bind, "port": "0", "tls-port": strconv.Itoa(d.Port), "protected-mode": "no",
		"unixsocket": s.path("run", socketName), "unixsocketperm": "700",
		"dir": s.path("data"), "aclfile": s.path("conf", "users.acl"), "daemonize": "no", "supervised": "no", "logfile": "",
		"always-show-logo": "no",
		"tls-cert-file":    d.TLS.Cert, "tls-key-file": d.TLS.Key, "tls-ca-cert-file": d.TLS.CA,
		"tls-auth-clients": "optional", "tls-replication": "yes", "tls-protocols": "TLSv1.2 TLSv1.3",
		// The append-only file is what is loaded at a start; snapshots are kept beside it for backups. It is synced at a
		// stop, so that no snapshot has to be waited for then.
		"appendonly": "yes", "appendfsync": "everysec", "save": "3600 1 300 100 60 10000", "shutdown-on-sigterm": "nosave",
		"maxmemory-policy": "noeviction",
		// A replica is in sync within milliseconds instead of 5 s; several that come at once still share a transfer.
		"repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0",
		"replica-announce-ip": d.Address, "replica-announce-port": strconv.Itoa(d.Port),
		"replica-serve-stale-data": "yes", "replica-read-only": "yes",
		"sanitize-dump-payload": "clients",
		"min-replicas-to-write": "0", "min-replicas-max-lag": "3",
	}
	maps.Copy(m, memorySettings(d.MemoryMiB))
	if d.MemberSecret != "" {
		m["masteruser"], m["masterauth"] = memberUser, d.MemberSecret
	}
	// Writes are refused while too few replicas have acknowledged lately (they do so each second). A client that wants
	// to know of one write that it is on a replica adds WAIT to it: the server itself answers before that.
	if d.Replication == orrery.ReplicationSync {
		m["min-replicas-to-write"] = strconv.Itoa((len(d.Peers) + 1) / 2)
	}
	if d.Role == orrery.RoleReplica {
		// Without an address it would start as a primary. Nothing answers on port 1.
		m["replicaof"] = "127.0.0.1 1"
		// While it writes its first append-only file, which follows each whole copy, it would refuse to stop. It loses
		// nothing that its primary does not have.
		m["shutdown-on-sigterm"] = "nosave force"
		if d.Primary != nil {
			m["replicaof"] = d.Primary.Address + " " + strconv.Itoa(d.Primary.Port)
		}
	}
	for name, value := range d.Parameters {
		if why, is := managedBy(name); is {
			return nil, orrery.Invalid(engine.ParameterField(name), "the parameter %s is set by Orrery: %s", name, why).WithCode("parameter_managed")
		}
		m[name] = value
	}
	return m, nil
}

// memorySettings leaves room beside the data for the copy that a fork makes of what is written meanwhile, and for
// clients' and replicas' buffers.
func memorySettings(memoryMiB int64) map[string]string {
	if memoryMiB <= 0 {
		return nil
	}
	const mib = 1 << 20
	limit := max((memoryMiB-48)*3/4, memoryMiB/3, 8) * mib
	buffer := max(limit/4, 32*mib)
	return map[string]string{
		"maxmemory":                  strconv.FormatInt(limit, 10),
		"repl-backlog-size":          strconv.FormatInt(min(max(limit/16, 1*mib), 128*mib), 10),
		"client-output-buffer-limit": fmt.Sprintf("normal 0 0 0 replica %d %d 60 pubsub 33554432 8388608 60", buffer, buffer/2),
	}
}

// listenOn enforces the trusted sources, as far as CheckSpec lets them be.
func listenOn(d engine.Desired) (string, error) {
	const local = "127.0.0.1 -::1"
	addr, err := netip.ParseAddr(d.Address)
	if err != nil {
		return "", orrery.Invalid("address", "the instance's address %q is no IP address", d.Address).WithCode("address_rejected")
	}
	if addr.IsLoopback() {
		if addr == netip.MustParseAddr("127.0.0.1") || addr == netip.IPv6Loopback() {
			return local, nil
		}
		return local + " " + addr.String(), nil
	}
	open := slices.ContainsFunc(d.TrustedSources, func(p netip.Prefix) bool {
		return p.Bits() == 0 && (addr.IsUnspecified() || p.Addr().Is4() == addr.Unmap().Is4())
	})
	if open {
		return local + " " + addr.String(), nil
	}
	if len(d.Peers) > 0 {
		return "", orrery.Errorf(orrery.KindInvalid, "members on several hosts cannot be closed to all clients but the host's own").
			WithCode("trusted_source_not_enforceable").
			WithHint("Valkey does not filter client addresses: trust 0.0.0.0/0 (or ::/0), or have one instance only.")
	}
	return local, nil
}

// members tells what the server itself does not know of those it replicates with.
type members struct {
	Datastore string            `json:"datastore"`
	Instances map[string]string `json:"instances"` // address:port → instance ID
}

func managedBy(name string) (why string, is bool) {
	if why, is = managed[name]; is {
		return cmp.Or(why, "it has one right value here"), true
	}
	for prefix, why := range managedPrefixes {
		if strings.HasPrefix(name, prefix) {
			return why, true
		}
	}
	return "", false
}

// Configure writes conf/valkey.conf, conf/users.acl and conf/members.json.
func (s *server) Configure(ctx context.Context, d engine.Desired) (engine.Effect, error) {
	if err := checkUsers(d); err != nil {
		return 0, err
	}
	wanted, err := s.settings(d)
	if err != nil {
		return 0, err
	}
	secret, err := s.keeperSecret()
	if err != nil {
		return 0, fmt.Errorf("keep the keeper's secret: %w", err)
	}
	if err := os.MkdirAll(s.path("run"), 0o700); err != nil {
		return 0, err
	}
	had, err := s.readConf()
	if err != nil {
		return 0, err
	}
	if err := s.checkParameters(ctx, d.Parameters, had); err != nil {
		return 0, err
	}
	// A setting that was taken back keeps its value in the running server until it is told the default.
	for name := range had {
		if _, ok := wanted[name]; !ok && name != "replicaof" {
			value, err := s.defaultOf(ctx, name)
			if err != nil {
				return 0, err
			}
			wanted[name] = value
		}
	}
	known := members{Datastore: d.Datastore, Instances: map[string]string{}}
	for _, p := range d.Peers {
		known.Instances[net.JoinHostPort(p.Address, strconv.Itoa(p.Port))] = p.Instance
	}
	if d.Primary != nil {
		known.Instances[net.JoinHostPort(d.Primary.Address, strconv.Itoa(d.Primary.Port))] = d.Primary.Instance
	}
	membersFile, err := json.Marshal(known)
	if err != nil {
		return 0, err
	}
	changed := false
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"members.json", membersFile}, {"users.acl", aclFile(users(d, secret))}, {"valkey.conf", confFile(wanted)},
	} {
		old, err := os.ReadFile(s.path("conf", f.name))
		if err == nil && bytes.Equal(old, f.data) {
			continue
		}
		if err := writeFile(s.path("conf", f.name), f.data); err != nil {
			return 0, fmt.Errorf("write %s: %w", f.name, err)
		}
		changed = true
	}
	s.mu.Lock()
	s.members = &known
	s.mu.Unlock()
	return s.effect(ctx, changed)
}

// effect is told by the running server where there is one: what it lacks may have been written long ago.
func (s *server) effect(ctx context.Context, changed bool) (engine.Effect, error) {
	var pending []string
	if pid, err := listener(s.path("run", socketName)); err == nil && pid != 0 {
		err := s.call(ctx, func(c *redis.Client) (err error) {
			pending, err = s.lacks(ctx, c)
			return err
		})
		if err != nil {
			s.cfg.Log.Debug("the running server does not tell what it lacks", "error", err) // Observe asks it again
		}
	}
	switch {
	case len(pending) > 0:
		return engine.EffectRestart, nil
	case changed:
		return engine.EffectReload, nil
	}
	return engine.EffectNone, nil
}

// confFile writes settings in the server's own form, sorted, each word quoted so that no value can become a line.
func confFile(settings map[string]string) []byte {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		b.WriteString(name)
		value := settings[name]
		words := []string{value}
		if slices.Contains(severalArguments, name) && value != "" {
			words = strings.Fields(value)
		}
		for _, w := range words {
			b.WriteString(" " + quote(w))
		}
		b.WriteString("\n")
	}
	return []byte(b.String())
}

// quote writes a word as the server and strconv.Unquote both read it: other bytes than printable ASCII as \xHH.
func quote(word string) string {
	b := []byte{'"'}
	for i := range len(word) {
		switch c := word[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = fmt.Appendf(b, "\\x%02x", c)
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

// readConf reads what confFile wrote; nothing where nothing was written yet.
func (s *server) readConf() (map[string]string, error) {
	data, err := os.ReadFile(s.path("conf", "valkey.conf"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		var words []string
		for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, fmt.Errorf("read the configuration: %s: %w", name, err)
			}
			word, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, fmt.Errorf("read the configuration: %s: %w", name, err)
			}
			words, rest = append(words, word), rest[len(quoted):]
		}
		m[name] = strings.Join(words, " ")
	}
	return m, nil
}
