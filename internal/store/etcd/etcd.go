// Package etcd runs the etcd that keeps the plane's state, or dials one that others run.
//
// It owns how etcd is tuned, started, stopped and reached. It knows nothing of what is stored: package store gets a
// client and does not know which of the two it talks to.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"

	"github.com/orrery-db/orrery"
)

// DefaultQuota is the size in bytes up to which the embedded etcd's file may grow. At some 2 KiB an object it is far
// above what a cell is planned for; etcd's own advice is to stay at or below 8 GiB.
const DefaultQuota = 4 << 30

// SocketName is the name of the unix socket within Config.Dir.
const SocketName = "etcd.sock"

// maxSocketPath is what sockaddr_un has room for on Linux, but for the final zero; see unix(7).
const maxSocketPath = 107

// Config says how to run the embedded etcd.
type Config struct {
	// Dir holds its data, and its socket. It is made with mode 0700.
	Dir string
	Log *slog.Logger
	// QuotaBytes is etcd's space quota; DefaultQuota where 0.
	QuotaBytes int64
	// Member makes it a member of a cluster that several servers embed; a single node where nil.
	Member *Member
	// ClientURL is an address beside the socket on which clients are served, as in https://127.0.0.1:2379; none where empty.
	ClientURL string
	// ClientTLS is wanted for a ClientURL of https.
	ClientTLS *TLSFiles
	// ForTests trades safety for speed: a crash of the machine loses data.
	ForTests bool
}

// Member is one member of an embedded cluster.
type Member struct {
	Name    string
	PeerURL string            // where the other members reach this one
	Peers   map[string]string // name → peer URL of every member, this one included
	TLS     *TLSFiles         // between members; wanted for peer URLs of https
	// Join is true where the cluster runs already.
	Join bool
}

// TLSFiles are PEM files. CA verifies the other side, and makes client certificates mandatory on a server.
type TLSFiles struct {
	CA, Cert, Key string
}

// Server is a running embedded etcd.
type Server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	dir    string
	log    *zapCore
	lock   *os.File
	close  sync.Once
}

// Start starts etcd and returns when it answers, or when ctx ends. Only one process can use a folder at a time.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Dir == "" || cfg.Log == nil {
		return nil, errors.New("start etcd: Dir and Log are wanted")
	}
	if socket := filepath.Join(cfg.Dir, SocketName); len(socket) > maxSocketPath {
		return nil, orrery.Errorf(orrery.KindInvalid, "the path of the folder %s is too long", cfg.Dir).WithCode("path_too_long").
			WithHint("Unix sockets have paths of at most %d bytes: use a folder with a path of at most %d.",
				maxSocketPath, maxSocketPath-len(SocketName)-1)
	}
	log := newZapCore(cfg.Log)
	ec, err := embedConfig(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("configure etcd in %s: %w", cfg.Dir, err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of etcd: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, cfg, ec)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	s.log, s.lock = log, lock
	return s, nil
}

func start(ctx context.Context, cfg Config, ec *embed.Config) (*Server, error) {
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		e.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	case <-ctx.Done():
		e.Close()
		return nil, fmt.Errorf("wait for etcd in %s: %w", cfg.Dir, ctx.Err())
	}
	if err := os.Chmod(filepath.Join(cfg.Dir, SocketName), 0o600); err != nil {
		e.Close()
		return nil, fmt.Errorf("guard the socket of etcd: %w", err)
	}
	client := v3client.New(e.Server)
	client.Maintenance = maintenance{client.Maintenance, e}
	return &Server{etcd: e, client: client, dir: cfg.Dir}, nil
}

// maintenance defragments without etcd's health service, which a client within the process does not have and which
// etcd 3.7 calls all the same.
type maintenance struct {
	clientv3.Maintenance
	etcd *embed.Etcd
}

// Defragment is part of clientv3.Maintenance. There is one endpoint, this member.
func (m maintenance) Defragment(context.Context, string) (*clientv3.DefragmentResponse, error) {
	if err := m.etcd.Server.Backend().Defrag(); err != nil {
		return nil, fmt.Errorf("defragment etcd: %w", err)
	}
	return &clientv3.DefragmentResponse{}, nil
}

// Client talks to this member without a connection between. It is the server's own: Close closes it.
func (s *Server) Client() *clientv3.Client { return s.client }

// Endpoint is the address of the unix socket, for Dial. Whoever may open the file may do anything.
func (s *Server) Endpoint() string { return "unix://" + filepath.Join(s.dir, SocketName) }

// Err delivers the error with which etcd stopped by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops etcd and returns when its files are closed. Once more does nothing.
func (s *Server) Close() error {
	var err error
	s.close.Do(func() {
		s.log.calm.Store(true)
		err = s.client.Close()
		s.etcd.Close()
		_ = s.lock.Close()
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the client of etcd: %w", err)
	}
	return nil
}

func embedConfig(cfg Config, log *zapCore) (*embed.Config, error) {
	ec := embed.NewConfig()
	ec.Dir = filepath.Join(cfg.Dir, "data")
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(log))
	ec.UnsafeNoFsync = cfg.ForTests
	ec.QuotaBackendBytes = cfg.QuotaBytes
	if ec.QuotaBackendBytes == 0 {
		ec.QuotaBackendBytes = DefaultQuota
	}
	// The servers' caches follow within milliseconds and list anew when they cannot: little history is enough.
	ec.AutoCompactionMode = embed.CompactorModePeriodic
	ec.AutoCompactionRetention = "5m"
	// Raft entries are held in memory until a snapshot; etcd's defaults of 10,000 and 5,000 would hold up to 15,000
	// objects twice.
	ec.SnapshotCount = 5000
	ec.SnapshotCatchUpEntries = 500
	ec.MaxTxnOps = 4096
	ec.MaxRequestBytes = 4 << 20
	ec.EnableGRPCGateway = false

	socket := url.URL{Scheme: "unix", Path: filepath.Join(cfg.Dir, SocketName)}
	ec.ListenClientUrls = []url.URL{socket}
	ec.AdvertiseClientUrls = []url.URL{socket}
	if cfg.ClientURL != "" {
		u, err := url.Parse(cfg.ClientURL)
		if err != nil {
			return nil, fmt.Errorf("client URL: %w", err)
		}
		ec.ListenClientUrls = append(ec.ListenClientUrls, *u)
		ec.AdvertiseClientUrls = []url.URL{*u}
		setTLS(&ec.ClientTLSInfo, cfg.ClientTLS)
	}
	if cfg.Member == nil {
		setSingle(ec)
		if cfg.ForTests {
			ec.TickMs, ec.ElectionMs = 10, 50
		}
		return ec, nil
	}
	return ec, setMember(ec, cfg.Member)
}

// setSingle tunes for one node: nobody listens for peers, so there is no port, and since there is nobody to elect but
// itself, the short election timeout costs nothing in robustness and saves half a second at each start. Shorter ticks
// would cost CPU for ever: 20 ms ticks take 1.1 % of a core when idle, 100 ms ticks 0.4 %, 500 ms ticks 0.3 %.
func setSingle(ec *embed.Config) {
	ec.Name = "orrery"
	ec.TickMs, ec.ElectionMs = 100, 500
	ec.ListenPeerUrls = nil
	self := url.URL{Scheme: "http", Host: "localhost:2380"} // never listened on; etcd wants one to be named
	ec.AdvertisePeerUrls = []url.URL{self}
	ec.InitialCluster = ec.Name + "=" + self.String()
}

func setMember(ec *embed.Config, m *Member) error {
	u, err := url.Parse(m.PeerURL)
	if err != nil {
		return fmt.Errorf("peer URL: %w", err)
	}
	if m.Peers[m.Name] != m.PeerURL {
		return fmt.Errorf("member %q is not among its own peers with the URL %s", m.Name, m.PeerURL)
	}
	ec.Name = m.Name
	// Busy machines pause for hundreds of milliseconds; etcd's defaults ride that out.
	ec.TickMs, ec.ElectionMs = 100, 1000
	ec.PreVote = true
	ec.ListenPeerUrls = []url.URL{*u}
	ec.AdvertisePeerUrls = []url.URL{*u}
	ec.InitialCluster = ""
	for name, peer := range m.Peers {
		if ec.InitialCluster != "" {
			ec.InitialCluster += ","
		}
		ec.InitialCluster += name + "=" + peer
	}
	if m.Join {
		ec.ClusterState = embed.ClusterStateFlagExisting
	}
	setTLS(&ec.PeerTLSInfo, m.TLS)
	return nil
}

// lockDir makes sure that no other process uses the folder: etcd itself would wait for it without a word. The lock
// goes with the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder of etcd: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, orrery.Errorf(orrery.KindConflict, "another server uses the state in %s", dir).WithCode("state_in_use").WithCause(err).
			WithHint("Stop it first, or give this one another folder.")
	}
	return f, nil
}
