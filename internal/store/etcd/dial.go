package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/orrery-db/orrery"
)

// dialTimeout bounds how long Dial waits for the first answer where its context does not.
const dialTimeout = 10 * time.Second

// DialConfig says where an etcd that others run is.
type DialConfig struct {
	// Endpoints are URLs: https://host:2379, or unix:///path for the socket of an embedded etcd on this machine.
	Endpoints []string
	// TLS holds the CA that signed the members' certificates and this client's own; nil where the endpoints are plain.
	TLS *TLSFiles
	// Username and Password where the cluster has authentication by password switched on.
	Username, Password string
	Log                *slog.Logger
}

// Dial connects to an etcd cluster and returns when one member has answered. The caller closes the client.
func Dial(ctx context.Context, cfg DialConfig) (*clientv3.Client, error) {
	if len(cfg.Endpoints) == 0 || cfg.Log == nil {
		return nil, errors.New("dial etcd: Endpoints and Log are wanted")
	}
	tlsConfig, err := clientTLS(cfg)
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  tlsConfig,
		Username:             cfg.Username,
		Password:             cfg.Password,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize:   16 << 20,
		MaxCallRecvMsgSize:   math.MaxInt32,
		Logger:               zap.New(newZapCore(cfg.Log)),
		DialOptions:          []grpc.DialOption{grpc.WithReadBufferSize(64 << 10)},
	})
	if err != nil {
		return nil, unreachable(cfg.Endpoints, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := client.Get(ctx, "orrery-probe", clientv3.WithCountOnly()); err != nil {
		_ = client.Close()
		return nil, unreachable(cfg.Endpoints, err)
	}
	return client, nil
}

func unreachable(endpoints []string, err error) error {
	return orrery.Errorf(orrery.KindUnavailable, "etcd does not answer at %s", strings.Join(endpoints, ", ")).
		WithCode("etcd_unreachable").WithCause(err).
		WithHint("See that etcd runs there and, where the address is https, that the CA, certificate and key given belong to it.")
}

func clientTLS(cfg DialConfig) (*tls.Config, error) {
	if cfg.TLS == nil {
		return nil, nil
	}
	var info transport.TLSInfo
	setTLS(&info, cfg.TLS)
	c, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the TLS files for etcd (CA %s, certificate %s, key %s): %w", cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key, err)
	}
	c.MinVersion = tls.VersionTLS12
	return c, nil
}

func setTLS(info *transport.TLSInfo, files *TLSFiles) {
	if files == nil {
		return
	}
	info.TrustedCAFile, info.CertFile, info.KeyFile = files.CA, files.Cert, files.Key
	info.ClientCertAuth = files.CA != ""
}
