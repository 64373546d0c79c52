package valkey

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// startOnly are settings of ours that the server takes at its start only; they never change in a place.
var startOnly = []string{
	"unixsocket", "unixsocketperm", "dir", "aclfile", "daemonize", "supervised", "logfile", "always-show-logo", "replicaof",
}

// client gives the kept connection. It dials by itself first: go-redis counts failed dials and then waits a second.
func (s *server) client(ctx context.Context) (*redis.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		return s.conn, nil
	}
	socket := s.path("run", socketName)
	probe, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	_ = probe.Close()
	secret, err := os.ReadFile(s.path("conf", "keeper.secret"))
	if err != nil {
		return nil, err
	}
	s.conn = newClient(socket, keeperUser, string(secret))
	return s.conn, nil
}

func newClient(socket, user, password string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Network: "unix", Addr: socket, Username: user, Password: password,
		Protocol: 2, DisableIdentity: true, MaxRetries: -1, PoolSize: 2, DialerRetries: 1, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// call runs fn on the kept connection, and drops the connection where fn failed for another reason than the server's
// own word.
func (s *server) call(ctx context.Context, fn func(c *redis.Client) error) error {
	c, err := s.client(ctx)
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	err = fn(c)
	var said redis.Error
	if err != nil && !errors.As(err, &said) {
		_ = s.Close()
	}
	return err
}

// Ready pings. A server that loads its dataset says so, and is not ready.
func (s *server) Ready(ctx context.Context) error {
	err := s.call(ctx, func(c *redis.Client) error { return c.Ping(ctx).Err() })
	if err == nil {
		return nil
	}
	s.mu.Lock()
	looked := s.looked
	s.mu.Unlock()
	if time.Since(looked) < 50*time.Millisecond { // who waits asks often
		return err
	}
	s.mu.Lock()
	s.looked = time.Now()
	s.mu.Unlock()
	if taken := s.portTaken(); taken != nil {
		return taken
	}
	return err
}

// portTaken tells of another's process that listens on this server's port, where this server does not run.
func (s *server) portTaken() error {
	conf, err := s.readConf()
	if err != nil || conf["tls-port"] == "" || !listening(conf["tls-port"]) {
		return nil //nolint:nilerr // another question
	}
	if pid, err := s.FindProcess(); err != nil || pid != 0 {
		return nil //nolint:nilerr // it is this server that listens
	}
	return orrery.Errorf(orrery.KindConflict, "another process listens on port %s", conf["tls-port"]).WithCode("port_taken").
		WithHint("Stop that process; the database is started again by itself.")
}

// Reload tells the running server its configuration file: all settings in one command, which takes on all or none,
// and reads the TLS files anew; then the users; then whom to follow.
func (s *server) Reload(ctx context.Context) error {
	conf, err := s.readConf()
	if err != nil {
		return err
	}
	acl, err := os.ReadFile(s.path("conf", "users.acl"))
	if err != nil {
		return fmt.Errorf("read the access list: %w", err)
	}
	return s.call(ctx, func(c *redis.Client) error {
		running, err := c.ConfigGet(ctx, "*").Result()
		if err != nil {
			return fmt.Errorf("ask for the settings: %w", err)
		}
		set := []any{"config", "set"}
		for _, name := range slices.Sorted(maps.Keys(conf)) {
			if !slices.Contains(startOnly, name) && !slices.Contains(restartOnly, name) && !has(running, name, conf[name]) {
				set = append(set, name, conf[name])
			}
		}
		if err := c.Do(ctx, set...).Err(); err != nil {
			return settingRejected(err)
		}
		if err := setUsers(ctx, c, parseACLFile(acl)); err != nil {
			return err
		}
		if conf["replicaof"] == "" {
			return nil
		}
		info, err := replication(ctx, c)
		if err != nil || info["role"] != "slave" || info["master_host"]+" "+info["master_port"] == conf["replicaof"] {
			return err // a primary does not become a replica by reloading
		}
		host, port, _ := strings.Cut(conf["replicaof"], " ")
		return c.Do(ctx, "replicaof", host, port).Err()
	})
}

// has tells whether a setting need not be set. What is equal must not be: bind closes and opens the port again, whatever
// its value was, and whoever connects just then is cut off. Files are read anew by being set.
func has(running map[string]string, name, want string) bool {
	if strings.HasPrefix(name, "tls-") && strings.HasSuffix(name, "-file") {
		return false
	}
	is, ok := running[name]
	if !ok || is == want {
		return ok
	}
	a, okA := parseMemory(is)
	b, okB := parseMemory(want)
	return okA && okB && a == b
}

// settingRejected turns the server's refusal of a setting into one that names it. The server says
// "ERR CONFIG SET failed (possibly related to argument 'x') - why".
func settingRejected(err error) error {
	var said redis.Error
	if !errors.As(err, &said) {
		return fmt.Errorf("set the configuration: %w", err)
	}
	_, rest, ok := strings.Cut(said.Error(), "argument '")
	name, why, ok2 := strings.Cut(rest, "') - ")
	if !ok || !ok2 {
		return fmt.Errorf("set the configuration: %w", err)
	}
	return rejected(name, why).WithCause(err)
}

func rejected(name, why string) *orrery.Error {
	return orrery.Invalid(engine.ParameterField(name), "the server refuses this value of %s: %s", name, why).WithCode("parameter_rejected")
}

// setUsers makes the server's users be the list, without ACL LOAD, which would cut every connection.
func setUsers(ctx context.Context, c *redis.Client, list []aclUser) error {
	had, err := c.Do(ctx, "acl", "users").StringSlice()
	if err != nil {
		return fmt.Errorf("list the users: %w", err)
	}
	pipe := c.Pipeline()
	for _, u := range list {
		args := []any{"acl", "setuser", u.name, "reset"}
		for _, rule := range strings.Fields(u.rules) {
			args = append(args, rule)
		}
		pipe.Do(ctx, args...)
	}
	for _, name := range had {
		if !slices.ContainsFunc(list, func(u aclUser) bool { return u.name == name }) {
			pipe.Do(ctx, "acl", "deluser", name)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("set the users: %w", err)
	}
	return nil
}

// Apply sets the users. Each member has its own list of them, so that replicas can be read from.
func (s *server) Apply(ctx context.Context, d engine.Desired) error {
	if err := checkUsers(d); err != nil {
		return err
	}
	secret, err := s.keeperSecret()
	if err != nil {
		return fmt.Errorf("read the keeper's secret: %w", err)
	}
	return s.call(ctx, func(c *redis.Client) error { return setUsers(ctx, c, users(d, secret)) })
}

// Promote makes a replica a primary.
func (s *server) Promote(ctx context.Context) error {
	return s.call(ctx, func(c *redis.Client) error {
		if err := c.Do(ctx, "replicaof", "no", "one").Err(); err != nil {
			return fmt.Errorf("promote: %w", err)
		}
		for {
			info, err := replication(ctx, c)
			if err != nil {
				return fmt.Errorf("promote: %w", err)
			}
			if info["role"] == "master" {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("promote: %w", ctx.Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
}
