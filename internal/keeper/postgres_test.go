package keeper_test

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/jackc/pgx/v5"
)

type postgresClient struct{ conn *pgx.Conn }

func connectPostgres(ctx context.Context, port int, config *tls.Config) (client, error) {
	c, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=admin password=hunter2 dbname=app sslmode=require", port))
	if err != nil {
		return nil, err
	}
	c.TLSConfig, c.Fallbacks = config, nil
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	return postgresClient{conn}, nil
}

func (c postgresClient) Write(ctx context.Context, key, value string) error {
	if _, err := c.conn.Exec(ctx, "create table if not exists kv (k text primary key, v text)"); err != nil {
		return err
	}
	_, err := c.conn.Exec(ctx, "insert into kv values ($1, $2) on conflict (k) do update set v = excluded.v", key, value)
	return err
}

func (c postgresClient) Read(ctx context.Context, key string) (v string, err error) {
	err = c.conn.QueryRow(ctx, "select v from kv where k = $1", key).Scan(&v)
	return v, err
}

func (c postgresClient) Close() error { return c.conn.Close(context.Background()) }
