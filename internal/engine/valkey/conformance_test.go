package valkey_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery/internal/engine/enginetest"
	"github.com/orrery-db/orrery/internal/engine/valkey"
)

func TestConformance(t *testing.T) {
	enginetest.Run(t, enginetest.Target{
		Driver:     valkey.New(valkey.Config{}),
		Connect:    connect,
		Reloadable: enginetest.Setting{Name: "hz", Value: "20"},
		Restart:    enginetest.Setting{Name: "databases", Value: "5"},
	})
}

type client struct{ c *redis.Client }

func connect(ctx context.Context, l enginetest.Login) (enginetest.Client, error) {
	dialer := &net.Dialer{}
	if l.Source != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(l.Source)}
	}
	opts := &redis.Options{
		Addr: net.JoinHostPort(l.Address, strconv.Itoa(l.Port)), Username: l.User, Password: l.Password, Protocol: 2,
		DisableIdentity: true, MaxRetries: -1, DialerRetries: 1, PoolSize: 1, TLSConfig: l.TLS, ContextTimeoutEnabled: true,
	}
	opts.Dialer = redis.NewDialer(opts)
	if l.Source != "" {
		opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil || l.TLS == nil {
				return conn, err
			}
			return tlsClient(ctx, conn, l.TLS)
		}
	}
	c := redis.NewClient(opts)
	if err := c.Ping(ctx).Err(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return client{c}, nil
}

func (c client) Write(ctx context.Context, key, value string) error {
	return c.c.Set(ctx, key, value, 0).Err()
}

func (c client) Read(ctx context.Context, key string) (string, error) {
	v, err := c.c.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return v, err
}

func (c client) Close() error { return c.c.Close() }

// Setting looks from outside: no user may ask for the configuration.
func (c client) Setting(ctx context.Context, name string) (string, error) {
	if name == "hz" {
		return c.c.InfoMap(ctx, "server").Item("Server", "configured_hz"), nil
	}
	conn := c.c.Conn()
	defer func() { _ = conn.Close() }()
	for n := 0; ; n++ {
		if err := conn.Select(ctx, n).Err(); err != nil {
			if said := redis.Error(nil); !errors.As(err, &said) {
				return "", err
			}
			return strconv.Itoa(n), nil
		}
	}
}

func tlsClient(ctx context.Context, conn net.Conn, config *tls.Config) (net.Conn, error) {
	c := tls.Client(conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}
