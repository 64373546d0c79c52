package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// effect compares the files with what the running server has. The server itself is asked: pg_file_settings reads the
// files as a reload would, and says what could not be taken on without a restart.
func (s *server) effect(ctx context.Context, d engine.Desired, changed bool) (engine.Effect, error) {
	pid, err := s.FindProcess()
	if err != nil || pid == 0 {
		return engine.EffectNone, err
	}
	atLeast := engine.EffectNone
	if changed {
		atLeast = engine.EffectReload
	}
	var loaded time.Time
	var restart []string
	var standby bool
	err = s.with(ctx, "postgres", func(c *conn) error {
		if err := c.QueryRow(ctx, `SELECT pg_conf_load_time(), pg_is_in_recovery()`).Scan(&loaded, &standby); err != nil {
			return err
		}
		restart, err = needRestart(ctx, c)
		return err
	})
	if err != nil {
		// It starts, or stops. What it needs shows when it is up: then Observe tells what waits for a restart.
		s.log.Debug("the running server cannot be asked", "error", err)
		return atLeast, nil
	}
	if len(restart) > 0 || (d.Role == orrery.RoleReplica && !standby) {
		return engine.EffectRestart, nil
	}
	for _, path := range []string{s.conf(confMain), s.conf(confHBA), s.conf(confIdent), s.conf(confSync), d.TLS.Cert, d.TLS.Key, d.TLS.CA} {
		info, err := os.Stat(path)
		if err != nil {
			return engine.EffectNone, fmt.Errorf("look at %s: %w", path, err)
		}
		if info.ModTime().After(loaded) {
			return engine.EffectReload, nil
		}
	}
	return atLeast, nil
}

// needRestart gives what keeps the files from taking effect without a restart: parameters whose new value can only be
// set at a start, and those that were taken out of the files.
func needRestart(ctx context.Context, c *conn) ([]string, error) {
	rows, _ := c.Query(ctx, `SELECT coalesce(f.name, f.error) FROM pg_file_settings f LEFT JOIN pg_settings s ON s.name = lower(f.name)
		WHERE NOT coalesce(f.applied, false) AND f.error IS NOT NULL AND (s.context = 'postmaster' OR f.name IS NULL AND f.error LIKE '%cannot be changed without restarting%')`)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Reload signals the server and waits until it has read everything: settings by the time that this connection's own
// process has loaded them; rules of access, which the postmaster reads after that, by one more connection, which the
// postmaster makes only when it is done.
func (s *server) Reload(ctx context.Context) error {
	pid, err := s.FindProcess()
	if err != nil {
		return err
	}
	if pid == 0 {
		return errNotUp
	}
	return s.with(ctx, "postgres", func(c *conn) error {
		var before time.Time
		if err := c.QueryRow(ctx, `SELECT pg_conf_load_time()`).Scan(&before); err != nil {
			return fmt.Errorf("ask when the configuration was loaded: %w", err)
		}
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			return fmt.Errorf("signal the server: %w", err)
		}
		for after := before; !after.After(before); {
			if err := pause(ctx, 2*time.Millisecond); err != nil {
				return fmt.Errorf("wait for the reload: %w", err)
			}
			if err := c.QueryRow(ctx, `SELECT pg_conf_load_time()`).Scan(&after); err != nil {
				return fmt.Errorf("wait for the reload: %w", err)
			}
		}
		return s.with(ctx, "postgres", func(c *conn) error { return reloadErrors(ctx, c) })
	})
}

// reloadErrors gives what the server could not take out of the files.
func reloadErrors(ctx context.Context, c *conn) error {
	rows, _ := c.Query(ctx, `SELECT coalesce(f.name, ''), f.error FROM pg_file_settings f LEFT JOIN pg_settings s ON s.name = lower(f.name)
		WHERE f.error IS NOT NULL AND coalesce(s.context, '') <> 'postmaster' AND f.error NOT LIKE '%cannot be changed without restarting%'
		UNION ALL SELECT '', 'pg_hba.conf line ' || line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL`)
	type problem struct{ Name, Error string }
	problems, err := pgx.CollectRows(rows, pgx.RowToStructByPos[problem])
	if err != nil {
		return fmt.Errorf("ask what was loaded: %w", err)
	}
	if len(problems) == 0 {
		return nil
	}
	words := make([]string, len(problems))
	for i, p := range problems {
		words[i] = strings.TrimSpace(p.Name + " " + p.Error)
	}
	name := problems[0].Name
	if name == "" {
		return orrery.Errorf(orrery.KindInvalid, "the server rejects its configuration").WithCode("configuration_rejected").
			WithCause(errors.New(strings.Join(words, "; ")))
	}
	e := rejected([]string{name}).WithCause(errors.New(strings.Join(words, "; ")))
	e.Field = engine.ParameterField(name)
	return e
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
