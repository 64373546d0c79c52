// Package client is the Go client of Orrery's REST API. It owns what every user of the API needs once: finding the
// server, proving who asks, retrying what is safe to retry, paging through lists, following changes as they happen, and
// waiting for jobs. Its words are those of package orrery, and so are its errors: every error that the server gives
// comes back as *orrery.Error.
//
// Other modules build it, so it never imports internal packages.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

// Config says which server to talk to, and how.
type Config struct {
	// Server is the address of the API, as in "https://127.0.0.1:7600". Plain http is taken for loopback addresses only.
	Server string
	// Token is the bearer token, as in "orr_…".
	Token string
	// CA is the PEM certificate that the server's is checked against; the system's where empty.
	CA []byte
	// Patience is how long a request that is safe to repeat is tried again while the server cannot be reached or says
	// that it is unavailable. Default 10 s; negative never tries again.
	Patience time.Duration
	// OnRetry is told each failure that will be tried again, and after how long. It must not block.
	OnRetry func(err error, after time.Duration)
	// UserAgent defaults to "orrery-go".
	UserAgent string
	// Transport replaces the connection to the server; CA is not used then.
	Transport http.RoundTripper
}

// Client talks to one server as one identity. It is safe for concurrent use.
type Client struct {
	cfg  Config
	base string
	http *http.Client
}

// New checks cfg and makes a client. It connects to nothing yet.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Server)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, orrery.Invalid("server", "%q is not the address of a server", orrery.Shorten(cfg.Server, 100)).
			WithHint("Give it as https://host:port.")
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, orrery.Invalid("server", "the token would be sent in the clear to %s", u.Host).WithHint("Use https://.")
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "orrery-go"
	}
	transport := cfg.Transport
	if transport == nil {
		t := &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 60 * time.Second,
		}
		if len(cfg.CA) > 0 {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(cfg.CA) {
				return nil, orrery.Invalid("ca", "the CA is not a PEM certificate")
			}
			t.TLSClientConfig.RootCAs = pool
		}
		transport = t
	}
	return &Client{
		cfg:  cfg,
		base: strings.TrimRight(u.Scheme+"://"+u.Host+u.Path, "/"),
		http: &http.Client{Transport: transport},
	}, nil
}

// Server is the address that the client talks to.
func (c *Client) Server() string { return c.base }

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// request is one call of the API. It can be sent more than once.
type request struct {
	method string
	path   string // begins with "/"; its parts are escaped already
	query  url.Values
	body   any
	header map[string]string
}

// path joins parts, escaped, below /v1.
func path(parts ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}

// get reads one object.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	return call[T](ctx, c, request{method: http.MethodGet, path: path, query: query})
}

// post creates or acts. It carries an idempotency key, so that it may be repeated.
func post[T any](ctx context.Context, c *Client, path string, body any) (*T, error) {
	return call[T](ctx, c, request{method: http.MethodPost, path: path, body: body,
		header: map[string]string{"Idempotency-Key": rand.Text()}})
}

// patch sends a JSON merge patch (RFC 7396), bound to a generation unless that is 0.
func patch[T any](ctx context.Context, c *Client, path string, generation int64, body any) (*T, error) {
	r := request{method: http.MethodPatch, path: path, body: body,
		header: map[string]string{"Content-Type": "application/merge-patch+json"}}
	if generation != 0 {
		r.header["If-Match"] = fmt.Sprintf("%q", fmt.Sprint(generation))
	}
	return call[T](ctx, c, r)
}

func remove[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	return call[T](ctx, c, request{method: http.MethodDelete, path: path, query: query})
}

// maxBody bounds what is read of one answer. The largest list page is far below it.
const maxBody = 64 << 20

// call sends r and decodes the answer. An answer without a body leaves T at its zero value.
func call[T any](ctx context.Context, c *Client, r request) (*T, error) {
	out := new(T)
	err := c.retry(ctx, r, func() error {
		resp, err := c.send(ctx, r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return c.unreachable(ctx, err)
		}
		if len(bytes.TrimSpace(data)) == 0 {
			return nil
		}
		if text, ok := any(out).(*string); ok {
			*text = string(data)
			return nil
		}
		if err := json.Unmarshal(data, out); err != nil {
			return orrery.Errorf(orrery.KindInternal, "the server's answer to %s %s cannot be read", r.method, r.path).WithCause(err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// send sends r once. Answers from 400 on are errors.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encode the body of %s %s: %w", r.method, r.path, err)
		}
		body = bytes.NewReader(data)
	}
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make the request %s %s: %w", r.method, r.path, err)
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept", "application/json")
	if c.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, decodeError(resp)
}

// unreachable turns a failure to talk to the server at all into an error that a person can act on.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.As(err, new(x509.UnknownAuthorityError)) || errors.As(err, new(x509.HostnameError)) ||
		errors.As(err, new(x509.CertificateInvalidError)) {
		return orrery.Errorf(orrery.KindUnavailable, "the server at %s is not the one that was expected", c.base).
			WithCode("certificate_unknown").WithCause(err).
			WithHint("Its certificate was not signed by the CA that this client trusts. Give the right CA, or check the address.")
	}
	return orrery.Errorf(orrery.KindUnavailable, "the server at %s cannot be reached", c.base).
		WithCode("unreachable").WithCause(err).WithHint("Check that it runs, and that the address is right.")
}
