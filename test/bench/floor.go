package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// floor makes databases by hand, as a careful person with a shell would: initdb, a configuration, a start, a first query
// over TLS. Nothing is synced to disk, as in Orrery's own Prepare: else a busy disk would flatter us. What Orrery does is measured against it in the same run.
type floor struct {
	bin  string // folder of PostgreSQL's programs
	dir  string
	conf string // settings, as Orrery gives them to the same plan
	cred *syscall.Credential
	cert []byte
	key  []byte
	next atomic.Int64
}

func newFloor(parent, bin, conf string) (*floor, error) {
	dir, err := os.MkdirTemp(parent, "orrfloor")
	if err != nil {
		return nil, err
	}
	f := &floor{bin: bin, dir: dir, conf: withoutPaths(conf)}
	f.next.Store(29000)
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres") // of Debian's package
		if err != nil {
			return nil, fmt.Errorf("find a user to run PostgreSQL as: %w", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		f.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
	}
	return f, f.makeCert()
}

// withoutPaths leaves out of a configuration what binds it to the place it was written for.
func withoutPaths(conf string) string {
	var b strings.Builder
	for line := range strings.Lines(conf) {
		name, _, _ := strings.Cut(line, " ")
		switch name {
		case "include", "data_directory", "hba_file", "ident_file", "log_directory", "port", "listen_addresses", "ssl_cert_file", "ssl_key_file",
			"ssl_ca_file", "unix_socket_directories", "primary_conninfo", "primary_slot_name", "cluster_name":
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}

func (f *floor) makeCert() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	f.cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	f.key = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	return nil
}

func (f *floor) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(f.bin, name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: f.cred}
	cmd.Dir = f.dir
	return cmd
}

// create makes one database from nothing and gives the time to its first answer over TLS.
func (f *floor) create(ctx context.Context, port int) (time.Duration, error) {
	dir := filepath.Join(f.dir, strconv.Itoa(port))
	defer os.RemoveAll(dir)
	start := time.Now()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	if f.cred != nil {
		if err := os.Chown(dir, int(f.cred.Uid), int(f.cred.Gid)); err != nil {
			return 0, err
		}
	}
	pw := filepath.Join(dir, "pw")
	if err := f.write(pw, []byte("secret\n")); err != nil {
		return 0, err
	}
	if out, err := f.command(ctx, "initdb", "-D", data, "--no-sync", "-k", "-U", "app", "--pwfile", pw, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("initdb: %w: %s", err, out)
	}
	for name, b := range map[string][]byte{"server.crt": f.cert, "server.key": f.key,
		"pg_hba.conf": []byte("hostssl all all 127.0.0.1/32 scram-sha-256\n")} {
		if err := f.write(filepath.Join(data, name), b); err != nil {
			return 0, err
		}
	}
	own := fmt.Sprintf("port=%d\nlisten_addresses='127.0.0.1'\nssl=on\nunix_socket_directories='%s'\n", port, dir)
	if err := f.write(filepath.Join(data, "postgresql.conf"), []byte(f.conf+own)); err != nil {
		return 0, err
	}
	pg := f.command(ctx, "postgres", "-D", data)
	if err := pg.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = pg.Process.Signal(syscall.SIGQUIT)
		_ = pg.Wait()
	}()
	for {
		err := query(ctx, fmt.Sprintf("postgresql://app:secret@127.0.0.1:%d/postgres?sslmode=require", port))
		if err == nil {
			return time.Since(start), nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("no answer: %w", errors.Join(ctx.Err(), err))
		}
		pause(ctx, 2*time.Millisecond)
	}
}

func (f *floor) write(file string, b []byte) error {
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	if f.cred == nil {
		return nil
	}
	return os.Chown(file, int(f.cred.Uid), int(f.cred.Gid))
}

func (f *floor) port() int { return int(f.next.Add(1)) }

// query connects, asks once, and goes.
func query(ctx context.Context, url string) error {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	if cfg.TLSConfig == nil {
		return errors.New("the connection would be in the clear")
	}
	if strings.Contains(url, "sslmode=require") {
		cfg.TLSConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // the floor's own throw-away certificate
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var one int
	return conn.QueryRow(ctx, "select 1").Scan(&one)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
