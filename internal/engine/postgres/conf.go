package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

const (
	confMain  = "postgresql.conf"
	confHBA   = "pg_hba.conf"
	confIdent = "pg_ident.conf"
	// confSync has synchronous_standby_names only; see sync.go.
	confSync = "sync.conf"
)

// replicator is whom replicas log in as, by certificate only.
const replicator = "orrery_replication"

// Configure writes all files whole. Parameters that Orrery manages are refused here once more.
func (s *server) Configure(ctx context.Context, d engine.Desired) (engine.Effect, error) {
	if err := s.checkDesired(d); err != nil {
		return engine.EffectNone, err
	}
	for _, dir := range []string{s.path("conf"), s.path("run"), s.logDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return engine.EffectNone, diskError(fmt.Errorf("make the folder %s: %w", dir, err))
		}
	}
	main, err := s.mainConf(ctx, d)
	if err != nil {
		return engine.EffectNone, err
	}
	me, err := user.Current()
	if err != nil {
		return engine.EffectNone, fmt.Errorf("find the own user's name: %w", err)
	}
	sync, err := s.syncConfFor(d)
	if err != nil {
		return engine.EffectNone, err
	}
	changed := false
	for name, text := range map[string]string{confMain: main, confHBA: hbaConf(d), confIdent: identConf(d, me.Username), confSync: sync} {
		c, err := writeFile(s.conf(name), text)
		if err != nil {
			return engine.EffectNone, err
		}
		changed = changed || c
	}
	if d.Role == orrery.RoleReplica {
		// On a primary this file is left alone: only a promotion may end a standby.
		if _, err := writeFile(s.data("standby.signal"), ""); err != nil {
			return engine.EffectNone, err
		}
	}
	s.pruneLogs()
	return s.effect(ctx, d, changed)
}

func (s *server) checkDesired(d engine.Desired) error {
	for name := range d.Parameters {
		if why := managed(name); why != "" {
			return orrery.Invalid(engine.ParameterField(name), "%s is set by Orrery: %s", name, why).WithCode("parameter_managed").WithHint("Leave it out.")
		}
		if strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '.'
		}) {
			return orrery.Invalid(engine.ParameterField(orrery.Shorten(name, 60)), "there is no parameter %q", orrery.Shorten(name, 60)).WithCode("parameter_unknown")
		}
	}
	if d.Port <= 0 || d.Port > 65535 || d.Datastore == "" || d.Instance == "" || d.TLS.Cert == "" || d.TLS.Key == "" || d.TLS.CA == "" {
		return fmt.Errorf("configure PostgreSQL: port, IDs and TLS files are needed")
	}
	ok, err := s.Prepared()
	if err != nil {
		return err
	}
	if !ok {
		return orrery.Errorf(orrery.KindConflict, "there is no dataset to configure").WithCode("not_prepared")
	}
	if d.Role != orrery.RoleReplica || d.SystemID == "" {
		return nil
	}
	id, err := s.systemID()
	if err == nil && id != d.SystemID {
		err = orrery.Errorf(orrery.KindConflict, "the dataset is of lineage %s, not %s: it has to be cloned anew", id, d.SystemID).WithCode("data_incompatible").
			WithHint("The replica is cloned from its primary.")
	}
	return err
}

func (s *server) mainConf(ctx context.Context, d engine.Desired) (string, error) {
	values := map[string]string{}
	for _, x := range tune(size{d.CPUMilli, d.MemoryMiB, d.StorageGiB}, s.major) {
		values[x.name] = x.value
	}
	// Replicas keep what replication needs at hand; a user's values win over tuned ones, never over Orrery's own.
	for name, value := range d.Parameters {
		values[strings.ToLower(name)] = value
	}
	maps.Copy(values, s.ownSettings(d))
	if d.Role == orrery.RoleReplica {
		if err := s.raiseForReplay(ctx, values); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	b.WriteString("# Written by Orrery, whole, at each change. Changes by hand are lost.\n")
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s = %s\n", name, quoteConf(values[name]))
	}
	fmt.Fprintf(&b, "include = %s\n", quoteConf(s.conf(confSync)))
	return b.String(), nil
}

// ownSettings are those that Orrery keeps to itself.
func (s *server) ownSettings(d engine.Desired) map[string]string {
	own := map[string]string{
		"listen_addresses": strings.Join(listenAddresses(d.Address), ","), "port": strconv.Itoa(d.Port),
		"unix_socket_directories": s.path("run"), "unix_socket_permissions": "0700",
		"data_directory": s.data(), "hba_file": s.conf(confHBA), "ident_file": s.conf(confIdent), "cluster_name": d.Instance,
		// Old clients still speak TLS 1.2; whoever speaks 1.3 gets it.
		"ssl": "on", "ssl_min_protocol_version": "TLSv1.2", "ssl_ciphers": "ECDHE+AESGCM:ECDHE+CHACHA20",
		"ssl_cert_file": d.TLS.Cert, "ssl_key_file": d.TLS.Key, "ssl_ca_file": d.TLS.CA, "password_encryption": "scram-sha-256",
		"superuser_reserved_connections": "5",
		// Replication. Slots and senders for 15 members, each of which may come back while its old connection lingers.
		"hot_standby": "on", "max_wal_senders": "40", "max_replication_slots": "40",
		"wal_retrieve_retry_interval": "250ms", "recovery_target_timeline": "latest",
		"fsync": "on", "full_page_writes": "on", "restart_after_crash": "on",
		// One syncfs instead of opening every file before crash recovery.
		"recovery_init_sync_method": "syncfs",
		"logging_collector":         "on", "log_destination": "stderr", "log_directory": s.logDir, "log_filename": logPrefix + "%Y%m%d-%H%M%S.log",
		"log_file_mode": "0600", "log_rotation_size": "16MB", "log_rotation_age": "1d", "log_line_prefix": "%m [%p] %q%u@%d %h ",
		"log_timezone": "UTC", "lc_messages": "C",
	}
	if _, ok := d.Parameters["timezone"]; !ok {
		own["timezone"] = "UTC"
	}
	if s.hasStatStatements() {
		own["shared_preload_libraries"] = statStatements
	}
	if s.major >= 17 {
		own["allow_alter_system"] = "off"
	}
	if d.Role == orrery.RoleReplica {
		own["primary_slot_name"] = slotName(d.Instance)
		if d.Primary != nil {
			own["primary_conninfo"] = primaryConninfo(d)
		}
	}
	return own
}

// listenAddresses has the instance's own address first: the server notes the first in postmaster.pid, by which Ready
// sees that it was to be had.
func listenAddresses(address string) []string {
	if a, err := netip.ParseAddr(address); err == nil && a.IsUnspecified() {
		return []string{address}
	}
	if address == "" || address == "127.0.0.1" || address == "localhost" {
		return []string{"127.0.0.1"}
	}
	return []string{address, "127.0.0.1"}
}

// primaryConninfo names the primary by its instance ID, which its certificate carries, and tells its address beside it:
// so the certificate is checked against who it has to be, also by libpq before 15, which knows no addresses in
// certificates; and pg_stat_wal_receiver tells whom it receives from.
func primaryConninfo(d engine.Desired) string {
	p := *d.Primary
	where := "host=" + quoteConninfo(p.Address)
	if _, err := netip.ParseAddr(p.Address); err == nil {
		where = "host=" + quoteConninfo(p.Instance) + " hostaddr=" + p.Address
	}
	return fmt.Sprintf("%s port=%d user=%s application_name=%s sslmode=verify-full sslrootcert=%s sslcert=%s sslkey=%s "+
		"ssl_min_protocol_version=TLSv1.3 passfile=%s gssencmode=disable connect_timeout=5 keepalives_idle=10 keepalives_interval=5 keepalives_count=3",
		where, p.Port, replicator, quoteConninfo(d.Instance), quoteConninfo(d.TLS.CA), quoteConninfo(d.TLS.Cert), quoteConninfo(d.TLS.Key), quoteConninfo(d.TLS.CA+".none"))
}

// raiseForReplay keeps settings that a standby must have no less of than its primary had (the manual, "Hot Standby:
// Administrator's Overview") at the primary's values, which pg_control carries, while those are higher. They wait for a
// restart after the primary's.
func (s *server) raiseForReplay(ctx context.Context, values map[string]string) error {
	out, err := s.run(ctx, s.program("pg_controldata"), "-D", s.data())
	if err != nil {
		return fmt.Errorf("read what replay needs: %w: %s", err, lastLines(out, 3))
	}
	var held []string
	defer func() {
		s.heldMu.Lock()
		defer s.heldMu.Unlock()
		s.held = held
	}()
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(line, " setting:")
		switch name {
		case "max_prepared_xacts":
			name = "max_prepared_transactions"
		case "max_locks_per_xact":
			name = "max_locks_per_transaction"
		case "max_connections", "max_worker_processes", "max_wal_senders":
		default:
			continue
		}
		needed, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			continue
		}
		if own, err := strconv.Atoi(values[name]); err != nil || own < needed {
			values[name] = strconv.Itoa(needed)
			held = append(held, name)
		}
	}
	return nil
}

// quoteConf quotes a value for postgresql.conf.
func quoteConf(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", "''", "\n", `\n`).Replace(v) + "'"
}

// quoteConninfo quotes a value for a connection string of keywords and values.
func quoteConninfo(v string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v) + "'"
}

// slotName is an instance's replication slot: slots know no hyphens.
func slotName(instance string) string { return strings.ReplaceAll(instance, "-", "_") }

// writeFile replaces a file by renaming, where its content differs, and tells whether it did. It is not synced to disk:
// Configure comes before each start, and writes what a crash of the machine has damaged anew. The one file that is read
// back, sync.conf, is.
func writeFile(path, text string) (bool, error) {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == text {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		if filepath.Base(path) == confSync {
			err = errors.Join(err, f.Sync())
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return false, diskError(fmt.Errorf("write %s: %w", path, err))
	}
	return true, nil
}
