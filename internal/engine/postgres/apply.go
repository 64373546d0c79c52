package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// Apply converges slots on any member, and on the primary roles, databases and their grants.
func (s *server) Apply(ctx context.Context, d engine.Desired) error {
	s.syncMu.Lock()
	s.wanted = &d
	s.syncMu.Unlock()
	var streaming []string
	err := s.with(ctx, "postgres", func(c *conn) error {
		var standby bool
		if err := c.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
			return fmt.Errorf("ask for the server's role: %w", err)
		}
		primary := !standby && d.Role == orrery.RolePrimary
		if err := applySlots(ctx, c, d, primary); err != nil || !primary {
			return err
		}
		rows, _ := c.Query(ctx, `SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'`)
		var err error
		if streaming, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return fmt.Errorf("ask who streams: %w", err)
		}
		a := &applier{s: s, c: c, d: d}
		return a.run(ctx)
	})
	if err != nil {
		return err
	}
	return s.settleSync(ctx, streaming)
}

// applySlots makes a slot for each peer on a primary, and drops those of members that are gone. A replica has none: its
// slots would hold back WAL that nobody fetches. Slots that do not bear an instance's name are not Orrery's.
func applySlots(ctx context.Context, c *conn, d engine.Desired, primary bool) error {
	wanted := []string{}
	if primary {
		for _, p := range d.Peers {
			wanted = append(wanted, slotName(p.Instance))
		}
	}
	type slot struct {
		Name string
		PID  *int32
		Lost bool
	}
	rows, _ := c.Query(ctx, `SELECT slot_name::text, active_pid, coalesce(wal_status = 'lost', false) FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name ~ '^in_[0-9a-z]{16}$'`)
	slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[slot])
	if err != nil {
		return fmt.Errorf("list the replication slots: %w", err)
	}
	var have []string
	for _, x := range slots {
		if slices.Contains(wanted, x.Name) && !x.Lost {
			have = append(have, x.Name)
			continue
		}
		if x.PID != nil {
			if _, err := c.Exec(ctx, `SELECT pg_terminate_backend($1, 5000)`, *x.PID); err != nil {
				return fmt.Errorf("end the use of slot %s: %w", x.Name, err)
			}
		}
		if _, err := c.Exec(ctx, `SELECT pg_drop_replication_slot($1)`, x.Name); err != nil && !isState(err, "42704", "55006") {
			return fmt.Errorf("drop the slot %s: %w", x.Name, err)
		}
	}
	for _, name := range wanted {
		if slices.Contains(have, name) {
			continue
		}
		if _, err := c.Exec(ctx, `SELECT pg_create_physical_replication_slot($1, true)`, name); err != nil && !isState(err, "42710") {
			return fmt.Errorf("make the slot %s: %w", name, err)
		}
	}
	return nil
}

// isState tells whether err is one of the SQLSTATEs.
func isState(err error, states ...string) bool {
	e, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err)
	return ok && slices.Contains(states, e.SQLState())
}
