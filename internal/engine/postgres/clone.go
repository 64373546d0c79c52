package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// Clone takes a base backup from the primary, in this process: one connection, no further programs, and the dataset is
// written once and synced once. The slot is made first where it is missing, so that the primary keeps all WAL from
// there on; the backup brings the WAL that it needs itself, so it is consistent without its primary.
func (s *server) Clone(ctx context.Context, d engine.Desired, progress func(done, total int64)) error {
	if d.Primary == nil {
		return orrery.Errorf(orrery.KindUnavailable, "the primary's address is not known yet").WithCode("primary_unknown")
	}
	if pid, err := s.FindProcess(); err != nil || pid != 0 {
		return errors.Join(err, orrery.Errorf(orrery.KindConflict, "the dataset is in use by process %d", pid).WithCode("in_use"))
	}
	s.kept.close()
	made, err := s.aside()
	if err != nil {
		return err
	}
	if err := s.reuse(made); err != nil {
		return err
	}
	if err := s.receive(ctx, d, made, progress); err != nil {
		return errors.Join(fmt.Errorf("clone %s from %s: %w", d.Instance, d.Primary.Instance, err), os.RemoveAll(filepath.Dir(made)))
	}
	// Whatever happens from here on, this dataset never starts as a primary by accident.
	if err := os.WriteFile(filepath.Join(made, "standby.signal"), nil, 0o600); err != nil {
		return diskError(fmt.Errorf("mark the clone as a standby: %w", err))
	}
	return s.takePlace(made)
}

// reuse takes a dataset that no server ever ran on, as a warm place has, for the copy to be written over: making a
// thousand files, and removing a thousand, is most of what the copy of a small datastore costs. It is aside from here
// on, and goes where the copy fails. A dataset that has lived stays until the copy is whole.
func (s *server) reuse(made string) error {
	if _, err := os.Stat(s.conf(confMain)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(s.data(), made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take the unused dataset: %w", err)
	}
	return nil
}

func (s *server) receive(ctx context.Context, d engine.Desired, made string, progress func(done, total int64)) error {
	c, err := dialReplication(ctx, d)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if err := makeSlot(ctx, c, slotName(d.Instance)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Conn().Close() })
	defer stop()
	err = s.baseBackup(c, made, progress)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return diskError(err)
}

// dialReplication connects to the primary as a member of the datastore.
func dialReplication(ctx context.Context, d engine.Desired) (*pgconn.PgConn, error) {
	pem, err := os.ReadFile(d.TLS.CA)
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", d.TLS.CA)
	}
	cert, err := tls.LoadX509KeyPair(d.TLS.Cert, d.TLS.Key)
	if err != nil {
		return nil, fmt.Errorf("read the member's certificate: %w", err)
	}
	cfg, err := pgconn.ParseConfig("sslmode=disable host=x port=1 user=x dbname=x password=x passfile=/dev/null connect_timeout=10 target_session_attrs=any")
	if err != nil {
		return nil, fmt.Errorf("connect to the primary: %w", err)
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Database, cfg.Fallbacks = d.Primary.Address, uint16(d.Primary.Port), replicator, "", "", nil
	cfg.TLSConfig = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, ServerName: d.Primary.Instance, MinVersion: tls.VersionTLS13}
	cfg.RuntimeParams = map[string]string{"replication": "true", "application_name": d.Instance + "-clone"}
	c, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the primary: %w", err)
	}
	return c, nil
}

// makeSlot makes the replica's slot where it is missing.
func makeSlot(ctx context.Context, c *pgconn.PgConn, name string) error {
	_, err := c.Exec(ctx, "CREATE_REPLICATION_SLOT "+name+" PHYSICAL RESERVE_WAL").ReadAll()
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42710" { // duplicate_object
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the replication slot %s: %w", name, err)
	}
	return nil
}

// baseBackup speaks BASE_BACKUP (the manual, "Streaming Replication Protocol") and unpacks what comes.
func (s *server) baseBackup(c *pgconn.PgConn, made string, progress func(done, total int64)) error {
	command := "BASE_BACKUP (LABEL 'orrery', PROGRESS, CHECKPOINT 'fast', WAL, WAIT false)"
	if s.major < 15 {
		command = "BASE_BACKUP LABEL 'orrery' PROGRESS FAST WAL NOWAIT"
	}
	f := c.Frontend()
	f.SendQuery(&pgproto3.Query{String: command})
	if err := f.Flush(); err != nil {
		return fmt.Errorf("ask for a base backup: %w", err)
	}
	u, err := newUnpacker(made)
	if err != nil {
		return err
	}
	defer u.close()
	r := backupReader{framed: s.major >= 15, unpacker: u, progress: progress}
	for {
		msg, err := f.Receive()
		if err != nil {
			return fmt.Errorf("receive the base backup: %w", err)
		}
		done, err := r.handle(msg)
		if err != nil {
			return err
		}
		if done {
			return u.finish()
		}
	}
}
