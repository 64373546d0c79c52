package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// conn is a superuser's connection over the unix socket.
type conn = pgx.Conn

// pidFile is what postmaster.pid tells (miscadmin.h, LOCK_FILE_LINE_*).
type pidFile struct {
	pid, port     int
	started       time.Time
	socketDir     string
	listenAddress string
	status        string
}

func (s *server) readPidFile() (pidFile, error) {
	b, err := os.ReadFile(s.data("postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	lines := strings.Split(string(b), "\n")
	get := func(i int) string {
		if i < len(lines) {
			return strings.TrimSpace(lines[i])
		}
		return ""
	}
	var p pidFile
	p.pid, _ = strconv.Atoi(get(0))
	p.port, _ = strconv.Atoi(get(3))
	if secs, err := strconv.ParseInt(get(2), 10, 64); err == nil {
		p.started = time.Unix(secs, 0)
	}
	p.socketDir, p.listenAddress, p.status = get(4), get(5), get(7)
	return p, nil
}

var errNotUp = errors.New("the server does not take connections yet")

// dial opens a connection to a database of the running server.
func (s *server) dial(ctx context.Context, database string) (*conn, error) {
	p, err := s.readPidFile()
	if err != nil || p.port == 0 || p.socketDir == "" {
		return nil, errors.Join(errNotUp, err)
	}
	// Everything that the environment could bring in is named.
	cfg, err := pgx.ParseConfig("sslmode=disable host=/ port=1 user=x dbname=x password=x passfile=/dev/null connect_timeout=10 target_session_attrs=any")
	if err != nil {
		return nil, fmt.Errorf("connect to the local server: %w", err)
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Database, cfg.Password = s.path("run"), uint16(p.port), superuser, database, ""
	cfg.Fallbacks = nil
	cfg.RuntimeParams = map[string]string{
		"application_name": "orrery", "search_path": "pg_catalog", "statement_timeout": "0", "lock_timeout": "0",
		"idle_in_transaction_session_timeout": "0", "client_min_messages": "error", "default_transaction_read_only": "off",
		// What Orrery does itself must not wait for replicas that it may be about to bring.
		"synchronous_commit": "local",
	}
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the local server: %w", err)
	}
	return c, nil
}

// with runs fn on a connection of its own.
func (s *server) with(ctx context.Context, database string, fn func(*conn) error) error {
	c, err := s.dial(ctx, database)
	if err != nil {
		return err
	}
	defer closeConn(c)
	return fn(c)
}

func closeConn(c *conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// keptConn is one connection that is kept between calls.
type keptConn struct {
	mu sync.Mutex
	c  *conn
}

// use runs fn on the kept connection, and makes it anew where it was lost.
func (k *keptConn) use(ctx context.Context, dial func(context.Context) (*conn, error), fn func(*conn) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	fresh := false
	for {
		if k.c == nil || k.c.IsClosed() {
			c, err := dial(ctx)
			if err != nil {
				return err
			}
			k.c, fresh = c, true
		}
		err := fn(k.c)
		if err == nil || !k.c.IsClosed() {
			return err
		}
		k.c = nil
		if fresh || ctx.Err() != nil {
			return err
		}
	}
}

func (k *keptConn) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.c != nil {
		closeConn(k.c)
		k.c = nil
	}
}
