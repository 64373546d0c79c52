package keeper_test

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/engine/postgres"
	"github.com/orrery-db/orrery/internal/engine/valkey"
)

// subject is an engine that the keeper is tested with. The keeper must not tell one from another.
type subject struct {
	name    string
	driver  engine.Driver
	connect func(ctx context.Context, port int, config *tls.Config) (client, error)
	// reload and restart are each a parameter with a legal value, and bad one with a value that the server refuses.
	reload, restart, bad [2]string
}

type client interface {
	Write(ctx context.Context, key, value string) error
	Read(ctx context.Context, key string) (string, error)
	Close() error
}

var subjects = []subject{
	{
		name: "postgres", driver: postgres.New(postgres.Config{}), connect: connectPostgres,
		reload: [2]string{"work_mem", "5MB"}, restart: [2]string{"max_connections", "57"}, bad: [2]string{"work_mem", "sometimes"},
	},
	{
		name: "valkey", driver: valkey.New(valkey.Config{}), connect: connectValkey,
		reload: [2]string{"maxmemory-policy", "allkeys-lru"}, restart: [2]string{"databases", "3"}, bad: [2]string{"maxmemory-policy", "sometimes"},
	},
}

func engineNamed(name string) subject {
	for _, e := range subjects {
		if e.name == name {
			return e
		}
	}
	return subject{}
}

// onEach runs a test on every engine.
func onEach(t *testing.T, test func(t *testing.T, e subject)) {
	for _, e := range subjects {
		t.Run(e.name, func(t *testing.T) { test(t, e) })
	}
}

// version is the newest installed.
func (e subject) version(ctx context.Context) orrery.EngineVersion {
	versions, err := e.driver.Discover(ctx)
	if err != nil || len(versions) == 0 {
		panic(e.name + " is not installed")
	}
	return versions[len(versions)-1]
}

type valkeyClient struct {
	conn *redis.Conn
	pool *redis.Client
}

func connectValkey(ctx context.Context, port int, config *tls.Config) (client, error) {
	pool := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Username: "admin", Password: "hunter2", MaxRetries: -1, DialerRetries: 1,
		DisableIdentity: true, TLSConfig: config,
	})
	conn := pool.Conn()
	return valkeyClient{conn, pool}, conn.Ping(ctx).Err()
}

func (c valkeyClient) Write(ctx context.Context, key, value string) error {
	return c.conn.Set(ctx, key, value, 0).Err()
}

func (c valkeyClient) Read(ctx context.Context, key string) (string, error) {
	return c.conn.Get(ctx, key).Result()
}

func (c valkeyClient) Close() error {
	_ = c.conn.Close()
	return c.pool.Close()
}
