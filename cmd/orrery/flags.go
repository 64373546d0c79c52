package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store/etcd"
)

// commonFlags are those of every role.
type commonFlags struct {
	dataDir   string
	logLevel  string
	logFormat string
}

func (f *commonFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.dataDir, "data-dir", defaultRoot(), "folder for all that the plane keeps (ORRERY_DATA_DIR)")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
}

func (f *commonFlags) paths() paths { return paths{f.dataDir} }

func (f *commonFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, orrery.Invalid("--log-level", "%q is no level", f.logLevel).WithHint("Use debug, info, warn or error.")
	}
	o := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, orrery.Invalid("--log-format", "%q is no format", f.logFormat).WithHint("Use text or json.")
}

// serverFlags are those of a server.
type serverFlags struct {
	name                     string
	apiListen, sessionListen string
	names                    []string
	warm                     int
	etcdEndpoints            []string
	etcdTLS                  etcd.TLSFiles
	etcdPrefix               string
}

func (f *serverFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.name, "name", hostName(), "name of this server and host; no two of a plane may share it")
	fs.StringVar(&f.apiListen, "api-listen", "127.0.0.1:7600", "address of the API")
	fs.StringVar(&f.sessionListen, "session-listen", "127.0.0.1:7601", "address that agents and keepers dial")
	fs.StringSliceVar(&f.names, "tls-name", nil, "further names and addresses in the server's certificate, beside those it listens on")
	fs.IntVar(&f.warm, "warm", 2, "prepared places that each host holds ready for each engine version")
	fs.StringSliceVar(&f.etcdEndpoints, "etcd-endpoints", nil, "your own etcd cluster, as in https://10.0.0.1:2379; embedded where empty")
	fs.StringVar(&f.etcdTLS.CA, "etcd-ca", "", "CA certificate of your etcd")
	fs.StringVar(&f.etcdTLS.Cert, "etcd-cert", "", "client certificate for your etcd")
	fs.StringVar(&f.etcdTLS.Key, "etcd-key", "", "key of the client certificate")
	fs.StringVar(&f.etcdPrefix, "etcd-prefix", "/orrery", "key prefix in etcd")
}

// dial connects to the outside etcd that the flags name.
func (f *serverFlags) dialConfig(log *slog.Logger) etcd.DialConfig {
	cfg := etcd.DialConfig{Endpoints: f.etcdEndpoints, Log: log}
	if f.etcdTLS != (etcd.TLSFiles{}) {
		cfg.TLS = &f.etcdTLS
	}
	return cfg
}

// certNames are the names and addresses in the server's certificate.
func (f *serverFlags) certNames() []string {
	names := append([]string{"localhost", "127.0.0.1", "::1", f.name}, f.names...)
	for _, a := range []string{f.apiListen, f.sessionListen} {
		if host, _, err := net.SplitHostPort(a); err == nil && host != "" && host != "0.0.0.0" && host != "::" {
			names = append(names, host)
		}
	}
	return names
}

func (f *serverFlags) check() error {
	if err := orrery.CheckName("--name", f.name); err != nil {
		return err
	}
	for flag, a := range map[string]string{"--api-listen": f.apiListen, "--session-listen": f.sessionListen} {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return orrery.Invalid(flag, "%q is no address to listen on", a).WithHint("Give it as 127.0.0.1:7600 or :7600.")
		}
	}
	if f.warm < 0 || f.warm > 100 {
		return orrery.Invalid("--warm", "%d is not between 0 and 100", f.warm)
	}
	return nil
}

// agentFlags are those of an agent.
type agentFlags struct {
	address string
	ports   string
}

func (f *agentFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.address, "advertise-address", "127.0.0.1", "address at which clients and other hosts reach the databases of this host")
	fs.StringVar(&f.ports, "ports", "17000-17999", "ports for databases")
}

func (f *agentFlags) portRange() (first, last int, err error) {
	a, b, ok := strings.Cut(f.ports, "-")
	first, err1 := strconv.Atoi(a)
	last, err2 := strconv.Atoi(b)
	if !ok || err1 != nil || err2 != nil || first < 1024 || last > 65535 || first > last {
		return 0, 0, orrery.Invalid("--ports", "%q is no range of ports", f.ports).WithHint("Give it as 17000-17999, between 1024 and 65535.")
	}
	return first, last, nil
}

func (f *agentFlags) check(ctx context.Context) error {
	if _, _, err := f.portRange(); err != nil {
		return err
	}
	if net.ParseIP(f.address) != nil {
		return nil
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, f.address); err != nil {
		return orrery.Invalid("--advertise-address", "%q is neither an address nor a name that resolves", f.address).WithCause(err)
	}
	return nil
}

var notLabel = regexp.MustCompile(`[^a-z0-9-]+`)

// hostName makes a name out of the machine's.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		name = "host"
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	name = strings.Trim(notLabel.ReplaceAllString(name, "-"), "-")
	if orrery.CheckName("", name) != nil {
		name = fmt.Sprintf("host-%.30s", name)
		name = strings.TrimRight(name, "-")
	}
	return name
}
