package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

// inside checks what is in a datastore's primary: every acknowledged row, the users and the parameters of the spec, and
// a stream to each replica.
func inside(ctx context.Context, c *client.Client, ds *orrery.Datastore, r *record) error {
	conn, err := connect(ctx, c, ds, r)
	if err != nil {
		return fmt.Errorf("connect to look inside: %w", err)
	}
	defer conn.Close(ctx)
	if len(r.rows) > 0 {
		got, err := column[int](ctx, conn, "select n from torture")
		if err != nil {
			return fmt.Errorf("read the rows: %w", err)
		}
		for _, n := range r.rows {
			if !got[n] {
				return fmt.Errorf("row %d was acknowledged and is lost (%d of %d are there)", n, len(got), len(r.rows))
			}
		}
	}
	roles, err := column[string](ctx, conn, "select rolname::text from pg_roles")
	if err != nil {
		return fmt.Errorf("read the roles: %w", err)
	}
	for _, u := range ds.Spec.Users {
		if !roles[u.Name] {
			return fmt.Errorf("user %s of the spec is not in the database", u.Name)
		}
	}
	for name, value := range ds.Spec.Parameters {
		is, err := column[string](ctx, conn, "select current_setting($1)", name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if !is[value] {
			return fmt.Errorf("%s is %v, and the spec says %s", name, is, value)
		}
	}
	streams, err := column[int](ctx, conn, "select pid from pg_stat_replication")
	if err != nil {
		return fmt.Errorf("read the replication streams: %w", err)
	}
	if len(streams) != ds.Spec.Instances-1 {
		return fmt.Errorf("%d replicas stream from the primary, and the spec says %d", len(streams), ds.Spec.Instances-1)
	}
	return nil
}

// column gives the values of a query's one column.
func column[T comparable](ctx context.Context, conn *pgx.Conn, query string, args ...any) (map[T]bool, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		return nil, err
	}
	out := map[T]bool{}
	for _, v := range list {
		out[v] = true
	}
	return out, nil
}

func insert(ctx context.Context, c *client.Client, ds *orrery.Datastore, r *record, n int) error {
	conn, err := connect(ctx, c, ds, r)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "create table if not exists torture (n bigint)"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "insert into torture values ($1)", n)
	return err
}

func connect(ctx context.Context, c *client.Client, ds *orrery.Datastore, r *record) (*pgx.Conn, error) {
	if len(ds.Status.Endpoints) == 0 || ds.Status.Endpoints[0].Role != orrery.EndpointPrimary {
		return nil, errors.New("no primary endpoint")
	}
	pem, err := c.CA(ctx)
	if err != nil {
		return nil, err
	}
	e := ds.Status.Endpoints[0]
	u := url.URL{Scheme: "postgresql", User: url.UserPassword(r.user, r.password), Host: net.JoinHostPort(e.Address, strconv.Itoa(e.Port)),
		Path: "/" + ds.Spec.Databases[0].Name, RawQuery: "sslmode=require&connect_timeout=5"}
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(pem))
	cfg.TLSConfig = &tls.Config{RootCAs: pool, ServerName: e.Address, MinVersion: tls.VersionTLS13}
	return pgx.ConnectConfig(ctx, cfg)
}
