package postgres_test

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery/internal/engine/enginetest"
	"github.com/orrery-db/orrery/internal/engine/postgres"
	"github.com/orrery-db/orrery/internal/testkit/unpriv"
)

func TestMain(m *testing.M) { unpriv.Main(m) }

func TestConformance(t *testing.T) {
	enginetest.Run(t, enginetest.Target{
		Driver: postgres.New(postgres.Config{}), Connect: connect, FiltersSources: true, Extra: extra,
		Reloadable: enginetest.Setting{Name: "work_mem", Value: "7MB"},
		Restart:    enginetest.Setting{Name: "max_connections", Value: "77"},
	})
}

// client is a plain client of the suite.
type client struct{ c *pgx.Conn }

func connect(ctx context.Context, l enginetest.Login) (enginetest.Client, error) {
	cfg, err := pgx.ParseConfig("sslmode=disable host=x port=1 user=x dbname=x password=x passfile=/dev/null")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Database, cfg.TLSConfig = l.Address, uint16(l.Port), l.User, l.Password, l.Database, l.TLS
	cfg.Fallbacks = nil
	if l.Source != "" {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(l.Source)}}
		cfg.DialFunc = d.DialContext
	}
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return client{c}, nil
}

func (c client) Write(ctx context.Context, key, value string) error {
	var there bool
	if err := c.c.QueryRow(ctx, `SELECT to_regclass('public.kv') IS NOT NULL`).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := c.c.Exec(ctx, `CREATE TABLE public.kv (k text PRIMARY KEY, v text, n serial)`); err != nil {
			return err
		}
	}
	_, err := c.c.Exec(ctx, `INSERT INTO public.kv (k, v) VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v`, key, value)
	return err
}

func (c client) Read(ctx context.Context, key string) (string, error) {
	var there bool
	if err := c.c.QueryRow(ctx, `SELECT to_regclass('public.kv') IS NOT NULL`).Scan(&there); err != nil || !there {
		return "", err
	}
	var v string
	err := c.c.QueryRow(ctx, `SELECT coalesce(max(v), '') FROM public.kv WHERE k = $1`, key).Scan(&v)
	return v, err
}

func (c client) Setting(ctx context.Context, name string) (string, error) {
	var v string
	err := c.c.QueryRow(ctx, fmt.Sprintf("SHOW %s", name)).Scan(&v)
	return v, err
}

func (c client) Close() error { return c.c.Close(context.Background()) }
