package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

// runCases runs all cases over one client, each under its own prefix.
func runCases(t *testing.T, client *clientv3.Client) {
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := storetest.Config(t)
			if client != nil {
				cfg.Client = client
			}
			run(t, cfg)
		})
	}
}

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "orr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func startEtcd(t testing.TB, cfg etcd.Config) *etcd.Server {
	t.Helper()
	cfg.Log, cfg.ForTests = storetest.Log(t), true
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	server, err := etcd.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server
}

func dial(t testing.TB, cfg etcd.DialConfig) *clientv3.Client {
	t.Helper()
	cfg.Log = storetest.Log(t)
	client, err := etcd.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestOnEmbeddedEtcd(t *testing.T) { runCases(t, nil) }

func TestOnUnixSocket(t *testing.T) {
	server := startEtcd(t, etcd.Config{Dir: shortDir(t)})
	runCases(t, dial(t, etcd.DialConfig{Endpoints: []string{server.Endpoint()}}))
}

func TestOnOutsideEtcdOverTLS(t *testing.T) {
	dir := shortDir(t)
	files, stranger := makeTLS(t, filepath.Join(dir, "good")), makeTLS(t, filepath.Join(dir, "other"))
	url := "https://" + freeAddress(t)
	startEtcd(t, etcd.Config{Dir: dir, ClientURL: url, ClientTLS: files})
	for name, bad := range map[string]*etcd.TLSFiles{"another CA's certificate": stranger,
		"another CA's client certificate": {CA: files.CA, Cert: stranger.Cert, Key: stranger.Key}} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := etcd.Dial(ctx, etcd.DialConfig{Endpoints: []string{url}, TLS: bad, Log: storetest.Log(t)})
		cancel()
		if err == nil {
			t.Fatalf("dialled with %s", name)
		}
		wantCode(t, err, orrery.KindUnavailable, "etcd_unreachable")
	}
	runCases(t, dial(t, etcd.DialConfig{Endpoints: []string{url}, TLS: files}))
}

func TestOnThreeMembers(t *testing.T) {
	dir := shortDir(t)
	files := makeTLS(t, dir)
	peers, clients := map[string]string{}, []string{}
	for i := range 3 {
		peers[fmt.Sprintf("m%d", i)] = "https://" + freeAddress(t)
		clients = append(clients, "https://"+freeAddress(t))
	}
	servers := make([]*etcd.Server, 3)
	var wg sync.WaitGroup
	for i := range servers {
		name := fmt.Sprintf("m%d", i)
		wg.Go(func() {
			servers[i] = startEtcd(t, etcd.Config{Dir: filepath.Join(dir, name), ClientURL: clients[i], ClientTLS: files,
				Member: &etcd.Member{Name: name, PeerURL: peers[name], Peers: peers, TLS: files}})
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	client := dial(t, etcd.DialConfig{Endpoints: clients, TLS: files})
	runCases(t, client)

	t.Run("a member dies", func(t *testing.T) {
		cfg := storetest.Config(t)
		cfg.Client = client
		s := storetest.Open(t, cfg)
		ds := datastore("pr-1", "demo")
		insert(t, s, ds)
		var done atomic.Int64
		var writers sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			writers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := s.Update(t.Context(), change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ })); err != nil {
						t.Error(err)
						return
					}
					done.Add(1)
				}
			})
		}
		reached := func(n int64) {
			eventually(t, s, func() bool { got, _ := s.Datastores.Get(ds.ID); return got.Spec.RestartSeq >= n })
		}
		reached(20)
		_ = servers[leader(t, client, clients)].Close()
		reached(done.Load() + 20)
		close(stop)
		writers.Wait()
		// Each write counts once, those whose answer the dying member took with it too.
		if got, _ := s.Datastores.Get(ds.ID); got.Spec.RestartSeq != done.Load() {
			t.Fatalf("%d writes were done, %d are stored", done.Load(), got.Spec.RestartSeq)
		}
	})
}

func leader(t testing.TB, client *clientv3.Client, endpoints []string) int {
	t.Helper()
	for i, ep := range endpoints {
		st, err := client.Status(t.Context(), ep)
		if err != nil {
			t.Fatal(err)
		}
		if st.Leader == st.Header.MemberId {
			return i
		}
	}
	t.Fatal("no leader")
	return 0
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// makeTLS makes a CA, and one certificate that serves for server, peer and client.
func makeTLS(t testing.TB, dir string) *etcd.TLSFiles {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(der []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, leafKey := key(), key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA " + dir}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	return &etcd.TLSFiles{
		CA:   write("ca.pem", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey))),
		Cert: write("cert.pem", "CERTIFICATE", must(x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, caKey))),
		Key:  write("key.pem", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(leafKey))),
	}
}

// compactionIsSurvived lets a store's etcd forget the changes that it has not seen, and looks whether it lists anew.
func compactionIsSurvived(t *testing.T, cfg store.Config) {
	a := storetest.Open(t, cfg)
	keep, drop, alter := datastore("pr-1", "keep"), datastore("pr-1", "drop"), datastore("pr-1", "alter")
	for _, ds := range []*orrery.Datastore{keep, drop, alter} {
		insert(t, a, ds)
	}
	gate := &gatedWatcher{Watcher: cfg.Client.Watcher, open: make(chan struct{})}
	behind := clientv3.NewCtxClient(context.Background())
	behind.KV, behind.Lease, behind.Watcher = cfg.Client.KV, cfg.Client.Lease, gate
	behind.Maintenance = oneEndpoint{cfg.Client.Maintenance, cfg.Client.Endpoints()}
	cfg.Client, cfg.ServerName = behind, "behind"
	b := storetest.Open(t, cfg)
	ch := watch(t, b, nil, 0)
	seen := b.Revision()
	update(t, a, func(tx *store.Tx) error { return a.Datastores.Delete(tx, drop.ID) })
	update(t, a, change(a, alter.ID, func(ds *orrery.Datastore) { ds.Name = "altered" }))
	added := datastore("pr-1", "added")
	last := insert(t, a, added)
	if _, err := storetest.ConfigOf(t, a).Client.Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if b.Datastores.Len() != 3 {
		t.Fatal("the gate does not hold")
	}
	close(gate.open)
	eventually(t, b, func() bool { _, ok := b.Datastores.Get(added.ID); return ok })
	if _, ok := b.Datastores.Get(drop.ID); ok || b.Datastores.Len() != 3 || len(b.Datastores.By("name", "pr-1/alter")) != 0 ||
		len(b.Datastores.By("name", "pr-1/altered")) != 1 || b.Revision() < last {
		t.Fatalf("after listing anew at %d: %d datastores", b.Revision(), b.Datastores.Len())
	}
	told := map[string]bool{}
	for range 3 {
		told[receive(t, ch).ID] = true
	}
	if !told[drop.ID] || !told[alter.ID] || !told[added.ID] {
		t.Fatalf("watchers were told of %v", told)
	}
	_, err := b.Watch(t.Context(), nil, seen)
	wantCode(t, err, orrery.KindInvalid, "revision_compacted")
	insert(t, b, datastore("pr-1", "afterwards")) // and follows again
}

// gatedWatcher holds back the first watch until it is opened.
type gatedWatcher struct {
	clientv3.Watcher
	open chan struct{}
}

func (g *gatedWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	out := make(chan clientv3.WatchResponse)
	go func() {
		defer close(out)
		select {
		case <-g.open:
		case <-ctx.Done():
			return
		}
		for resp := range g.Watcher.Watch(ctx, key, opts...) {
			select {
			case out <- resp:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// oneEndpoint lets a client that knows no endpoints ask for the status of one.
type oneEndpoint struct {
	clientv3.Maintenance
	endpoints []string
}

func (m oneEndpoint) Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	if len(m.endpoints) > 0 {
		endpoint = m.endpoints[0]
	}
	return m.Maintenance.Status(ctx, endpoint)
}
