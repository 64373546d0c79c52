package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// observeSQL asks all in one go. The statement is prepared once for each connection.
const observeSQL = `SELECT pg_is_in_recovery(), current_setting('server_version'), pg_postmaster_start_time(), pg_conf_load_time(),
	(CASE WHEN pg_is_in_recovery() THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0') ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint,
	CASE WHEN pg_is_in_recovery() THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - pg_last_wal_replay_lsn(), 0)::bigint ELSE 0 END,
	coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false),
	coalesce((SELECT sender_host FROM pg_stat_wal_receiver), ''),
	coalesce((SELECT array_agg(DISTINCT application_name ORDER BY application_name) FROM pg_stat_replication WHERE state = 'streaming'), '{}')::text[],
	coalesce((SELECT array_agg(DISTINCT application_name ORDER BY application_name) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('quorum', 'sync')), '{}')::text[]`

// Observe asks the running server over the kept connection.
func (s *server) Observe(ctx context.Context) (engine.Observation, error) {
	var o engine.Observation
	var load time.Time
	err := s.kept.use(ctx, func(ctx context.Context) (*conn, error) { return s.dial(ctx, "postgres") }, func(c *conn) error {
		var standby bool
		var position, lag int64
		err := c.QueryRow(ctx, observeSQL).Scan(&standby, &o.Version, &o.StartedAt, &load, &position, &lag, &o.Streaming, &o.Upstream, &o.Replicas, &o.Sync)
		if err != nil {
			return fmt.Errorf("ask the server how it is: %w", err)
		}
		o.Role, o.Position, o.LagBytes = orrery.RolePrimary, uint64(max(position, 0)), uint64(max(lag, 0))
		if standby {
			o.Role = orrery.RoleReplica
		}
		if o.PendingRestart, err = s.pending.get(ctx, c, load); err != nil || !standby {
			return err
		}
		s.heldMu.Lock()
		defer s.heldMu.Unlock()
		o.PendingRestart = slices.Compact(slices.Sorted(slices.Values(append(o.PendingRestart, s.held...))))
		return nil
	})
	if err != nil {
		return engine.Observation{}, err
	}
	o.Version = firstWord(o.Version) // Debian's adds its package's version
	if o.Role == orrery.RolePrimary || !orrery.IsID(o.Upstream, orrery.PrefixInstance) {
		o.Upstream = ""
	}
	members := func(name string) bool { return !orrery.IsID(name, orrery.PrefixInstance) } // others may stream as well: backups, a person's tool
	o.Replicas, o.Sync = slices.DeleteFunc(o.Replicas, members), slices.DeleteFunc(o.Sync, members)
	if o.SystemID, err = s.systemID(); err != nil {
		return engine.Observation{}, fmt.Errorf("read the dataset's lineage: %w", err)
	}
	s.tidyLogs()
	if o.Role == orrery.RolePrimary {
		if err := s.settleSync(ctx, o.Replicas); err != nil {
			s.log.Warn("synchronous replication could not be put on", "error", err)
		}
	}
	return o, nil
}

// pendingCache holds what waits for a restart; it can only change when the configuration is loaded. Used under the kept
// connection's lock.
type pendingCache struct {
	at    time.Time
	names []string
}

func (p *pendingCache) get(ctx context.Context, c *conn, loaded time.Time) ([]string, error) {
	if p.at.Equal(loaded) {
		return slices.Clone(p.names), nil
	}
	rows, _ := c.Query(ctx, `SELECT name FROM pg_settings WHERE pending_restart ORDER BY name`)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("ask what waits for a restart: %w", err)
	}
	p.at, p.names = loaded, names
	return slices.Clone(names), nil
}

// Promote ends the standby. The server is polled: pg_promote itself would look only every 100 ms.
func (s *server) Promote(ctx context.Context) error {
	return s.with(ctx, "postgres", func(c *conn) error {
		var standby bool
		if err := c.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
			return fmt.Errorf("ask for the server's role: %w", err)
		}
		if !standby {
			return nil
		}
		if _, err := c.Exec(ctx, `SELECT pg_promote(false)`); err != nil {
			return fmt.Errorf("promote: %w", err)
		}
		for standby {
			if err := pause(ctx, 3*time.Millisecond); err != nil {
				return fmt.Errorf("wait for the promotion: %w", err)
			}
			if err := c.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
				return fmt.Errorf("wait for the promotion: %w", err)
			}
		}
		return nil
	})
}

func firstWord(s string) string {
	for i, r := range s {
		if r == ' ' {
			return s[:i]
		}
	}
	return s
}
