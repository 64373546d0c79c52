package valkey_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/engine/valkey"
)

// member is one server of a test, with all that a keeper would give it.
type member struct {
	engine.Server
	dir, ca string
	d       engine.Desired
	cmd     *exec.Cmd
}

func discover(t *testing.T) (*valkey.Driver, orrery.EngineVersion) {
	t.Helper()
	driver := valkey.New(valkey.Config{})
	versions, err := driver.Discover(t.Context())
	if err != nil || len(versions) == 0 {
		t.Fatalf("Discover: %v, %v", versions, err)
	}
	return driver, versions[len(versions)-1]
}

func newMember(t *testing.T, ca *authority, id string) *member {
	t.Helper()
	driver, version := discover(t)
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	s, err := driver.Open(engine.Config{Version: version, Dir: dir, LogDir: filepath.Join(dir, "log"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{Server: s, dir: dir, ca: ca.file}
	m.d = engine.Desired{
		Generation: 1, Datastore: "ds-0000000000000000", Instance: id, Role: orrery.RolePrimary,
		Replication: orrery.ReplicationAsync, Address: "127.0.0.1", Port: freePort(t), CPUMilli: 1000, MemoryMiB: 256, StorageGiB: 1,
		MemberSecret: "between members", TLS: ca.issue(t, dir),
		Users: []engine.DesiredUser{{User: orrery.User{Name: "admin", Access: orrery.AccessAdmin}, Secret: secret(t, driver, "hunter2")}},
	}
	t.Cleanup(func() {
		m.kill()
		_ = s.Close()
		_ = os.RemoveAll(dir)
	})
	return m
}

func secret(t *testing.T, d *valkey.Driver, password string) string {
	t.Helper()
	s, err := d.SecretForm(password)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (m *member) peer() engine.Peer {
	return engine.Peer{Instance: m.d.Instance, Role: m.d.Role, Address: m.d.Address, Port: m.d.Port}
}

func (m *member) kill() {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

func (m *member) configure(t *testing.T) engine.Effect {
	t.Helper()
	effect, err := m.Configure(t.Context(), m.d)
	if err != nil {
		t.Fatalf("Configure: %v", err)
	}
	return effect
}

// start configures and starts the server and waits until it is ready.
func (m *member) start(t *testing.T) {
	t.Helper()
	m.configure(t)
	c, err := m.Command(m.d)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(m.dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	m.cmd = exec.Command(c.Path, c.Args...)
	m.cmd.Dir, m.cmd.Env, m.cmd.Stdout, m.cmd.Stderr = c.Dir, c.Env, log, log
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return m.Ready(t.Context()) })
}

// eventually polls: neither a starting server nor replication gives a signal.
func eventually(t *testing.T, cond func() error) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("still: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// login connects as a client does: TLS, verified, with a password.
func (m *member) login(t *testing.T, user, password string) *redis.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pemCA, err := os.ReadFile(m.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(pemCA)
	c := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(m.d.Address, strconv.Itoa(m.d.Port)), Username: user, Password: password, MaxRetries: -1, DialerRetries: 1,
		DisableIdentity: true, TLSConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"},
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// authority is a CA for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, file, "CERTIFICATE", der)
	return &authority{cert, key, file}
}

func (a *authority) issue(t *testing.T, dir string) engine.TLSFiles {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "ds-0000000000000000"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := engine.TLSFiles{Cert: filepath.Join(dir, "server.pem"), Key: filepath.Join(dir, "server.key"), CA: a.file}
	writePEM(t, files.Cert, "CERTIFICATE", der)
	writePEM(t, files.Key, "PRIVATE KEY", keyDER)
	return files
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
