package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/control"
)

func TestProblemsOfHTTPItself(t *testing.T) {
	p := newPlane(t)
	p.refused(404, "path_not_found", "", "GET", "/", nil)
	p.refused(404, "path_not_found", "", "GET", "/v2/plans", nil)
	p.refused(404, "path_not_found", "", "GET", "/v1/plans/", nil)
	p.refused(404, "path_not_found", "", "GET", "/v1//plans", nil)
	p.refused(404, "path_not_found", "", "GET", "/v1/x/../plans", nil)
	p.refused(404, "path_not_found", "", "GET", "/v1/projects/%2e%2e%2fetc%2fpasswd", nil)
	p.refused(404, "project_not_found", "", "GET", "/v1/projects/etc%2fpasswd", nil)
	p.refused(404, "datastore_not_found", "", "GET", stores+"/%27%3B%20DROP%20TABLE", nil)
	if a := p.do("PUT", "/v1/plans", `{}`); a.status != 405 || a.problem().Code != "method_not_allowed" || a.header.Get("Allow") != "GET, HEAD" {
		t.Fatalf("%d %s %s", a.status, a.header.Get("Allow"), a.body)
	}
	if a := p.do("HEAD", "/v1/plans", nil); a.status != 200 || len(a.body) != 0 {
		t.Fatalf("%d", a.status)
	}
	p.refused(415, "unsupported_media_type", "Content-Type", "POST", "/v1/projects", "name=x", "Content-Type", "application/x-www-form-urlencoded")
	p.refused(415, "unsupported_media_type", "Content-Type", "POST", "/v1/projects", "{}", "Content-Type", "application/merge-patch+json")
	p.refused(400, "query_unknown", "colour", "GET", "/v1/plans?colour=red", nil)
	p.refused(400, "query_malformed", "limit", "GET", "/v1/plans?limit=1&limit=2", nil)
	p.refused(400, "query_malformed", "", "GET", "/v1/plans?%zz", nil)
	p.refused(400, "invalid", "revision", "GET", "/v1/jobs?revision=3", nil)
	p.refused(400, "query_unknown", "limit", "GET", "/v1/jobs?watch&limit=3", nil)
	p.refused(400, "invalid", "watch", "GET", "/v1/jobs?watch=maybe", nil)
}

func TestHeadersAndLog(t *testing.T) {
	p := newPlane(t)
	a := p.ok("GET", "/v1/plans", nil, "X-Request-Id", "mine-1")
	for name, want := range map[string]string{"X-Request-Id": "mine-1", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Content-Type": "application/json",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, bad := range []string{"two words", strings.Repeat("x", 65), `"},{"level":"fake"`} {
		if got := p.ok("GET", "/v1/plans", nil, "X-Request-Id", bad).header.Get("X-Request-Id"); got == bad || len(got) < 10 {
			t.Errorf("%q became %q", bad, got)
		}
	}
	p.do("DELETE", "/v1/projects/x%0a%7b%22level%22%3a%22INFO%22%2c%22msg%22%3a%22forged%22%7d", nil)
	for _, line := range strings.Split(strings.TrimSpace(p.log.String()), "\n") {
		if strings.HasPrefix(line, `{"level"`) || !strings.HasPrefix(line, "{") {
			t.Fatalf("a forged line: %s", line)
		}
	}
	if !strings.Contains(p.log.String(), `"operation":"delete-project"`) {
		t.Fatal(p.log.String())
	}
}

func TestListsPage(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	for i := range 7 {
		p.create(fmt.Sprintf("d%d", 6-i))
	}
	type list struct {
		Items      []orrery.Datastore
		NextCursor string `json:"next_cursor"`
		Revision   int64
	}
	for query, want := range map[string]string{
		"": "d0 d1 d2 d3 d4 d5 d6", "sort=name&": "d0 d1 d2 d3 d4 d5 d6", "sort=-name&": "d6 d5 d4 d3 d2 d1 d0",
		"sort=created_at&": "d6 d5 d4 d3 d2 d1 d0", "sort=-created_at&": "d0 d1 d2 d3 d4 d5 d6",
		"name=d3&": "d3", "engine=postgres&state=creating&": "d0 d1 d2 d3 d4 d5 d6", "engine=valkey&": "", "plan=nano&": "",
	} {
		for _, limit := range []int{1, 3, 7, 100} {
			var names []string
			cursor := ""
			for page := 0; ; page++ {
				l := into[list](t, p.ok("GET", fmt.Sprintf("%s?%slimit=%d%s", stores, query, limit, cursor), nil))
				for _, ds := range l.Items {
					names = append(names, ds.Name)
				}
				if l.Revision == 0 || l.Items == nil || page > 8 {
					t.Fatalf("%+v", l)
				}
				if l.NextCursor == "" {
					break
				}
				cursor = "&cursor=" + l.NextCursor
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%slimit=%d: %s, want %s", query, limit, got, want)
			}
		}
	}
	p.refused(400, "invalid", "limit", "GET", stores+"?limit=0", nil)
	p.refused(400, "invalid", "limit", "GET", stores+"?limit=1001", nil)
	p.refused(400, "invalid", "sort", "GET", stores+"?sort=size", nil)
	p.refused(400, "invalid", "cursor", "GET", stores+"?cursor=abc", nil)
	first := into[list](t, p.ok("GET", stores+"?limit=2", nil))
	p.refused(400, "invalid", "cursor", "GET", stores+"?sort=-name&cursor="+first.NextCursor, nil)
	// What comes before the cursor does not move what comes after it.
	p.create("a0")
	if next := into[list](t, p.ok("GET", stores+"?limit=2&cursor="+first.NextCursor, nil)); next.Items[0].Name != "d2" {
		t.Fatalf("%+v", next.Items[0].Name)
	}
}

func TestDocumentsLoadNothingFromOutside(t *testing.T) {
	p := newPlane(t)
	page := p.ok("GET", "/docs", nil, "Authorization", "")
	policy := page.header.Get("Content-Security-Policy")
	if strings.Contains(policy, "http") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") {
		t.Fatal(policy)
	}
	refs := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(string(page.body), -1)
	if len(refs) < 4 {
		t.Fatal(string(page.body))
	}
	for _, ref := range refs {
		if !strings.HasPrefix(ref[1], "/") || strings.HasPrefix(ref[1], "//") {
			t.Fatalf("%s is outside", ref[1])
		}
		if a := p.ok("GET", ref[1], nil, "Authorization", ""); len(a.body) < 100 || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Fatalf("%s: %d bytes", ref[1], len(a.body))
		}
	}
	if a := p.ok("GET", "/openapi.yaml", nil, "Authorization", ""); !strings.Contains(string(a.body), "openapi: 3.1.0") {
		t.Fatal(string(a.body[:100]))
	}
	doc := string(p.ok("GET", "/openapi.json", nil, "Authorization", "").body)
	for _, want := range []string{`"Datastore"`, `"Problem"`, `"DatastoreList"`, `"merge-patch`, `"text/event-stream"`, `"Idempotency-Key"`} {
		if !strings.Contains(strings.ReplaceAll(doc, "application/merge-patch", `"merge-patch`), want) {
			t.Errorf("the document lacks %s", want)
		}
	}
}

// failing stands for a backend with a fault.
type failing struct {
	*control.Control
	plans func(context.Context) ([]*orrery.Plan, error)
}

func (f failing) Plans(ctx context.Context) ([]*orrery.Plan, error) { return f.plans(ctx) }

func TestFaultsWithin(t *testing.T) {
	for name, tc := range map[string]struct {
		plans  func(context.Context) ([]*orrery.Plan, error)
		status int
		code   string
	}{
		"a panic": {func(context.Context) ([]*orrery.Plan, error) { panic("secret detail") }, 500, "internal"},
		"an unknown error": {func(context.Context) ([]*orrery.Plan, error) {
			return nil, errors.New("secret detail at 10.0.0.7")
		}, 500, "internal"},
		"a cause": {func(context.Context) ([]*orrery.Plan, error) {
			return nil, orrery.Errorf(orrery.KindUnavailable, "try later").WithCause(errors.New("secret detail"))
		}, 503, "unavailable"},
		"no time left": {func(context.Context) ([]*orrery.Plan, error) {
			return nil, fmt.Errorf("secret detail: %w", context.DeadlineExceeded)
		}, 503, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t, func(c *api.Config) {
				real, _ := c.Backend.(*control.Control)
				c.Backend = failing{real, tc.plans}
			})
			p.refused(tc.status, tc.code, "", "GET", "/v1/plans", nil)
			if a := p.do("GET", "/v1/plans", nil); strings.Contains(string(a.body), "secret") {
				t.Fatal(string(a.body))
			}
			if !strings.Contains(p.log.String(), "secret detail") {
				t.Fatal("the log does not tell")
			}
			p.ok("GET", "/v1/regions", nil)
		})
	}
}

func TestShutdownLetsWorkFinish(t *testing.T) {
	p := newPlane(t)
	begun, release := make(chan struct{}), make(chan struct{})
	a, err := api.New(api.Config{Log: slog.New(slog.NewJSONHandler(p.log, nil)), Backend: failing{p.control, func(ctx context.Context) ([]*orrery.Plan, error) {
		close(begun)
		<-release
		return nil, ctx.Err()
	}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert := p.srv.TLS.Certificates[0]
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- a.Serve(ctx, l, api.TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }))
	}()
	get := func(path string) (*http.Response, error) {
		req, _ := http.NewRequest(http.MethodGet, "https://"+l.Addr().String()+path, nil)
		req.Header.Set("Authorization", "Bearer "+p.token)
		return p.srv.Client().Do(req)
	}
	watching, err := get("/v1/jobs?watch")
	if err != nil {
		t.Fatal(err)
	}
	if watching.TLS.Version != tls.VersionTLS13 {
		t.Fatalf("TLS %x", watching.TLS.Version)
	}
	slow := make(chan int, 1)
	go func() {
		resp, err := get("/v1/plans")
		if err != nil {
			slow <- 0
			return
		}
		resp.Body.Close()
		slow <- resp.StatusCode
	}()
	<-begun
	stop()
	events, err := io.ReadAll(watching.Body) // ends by itself
	if err != nil || !strings.Contains(string(events), "event: end") || !strings.Contains(string(events), "server_stopping") {
		t.Fatalf("%v: %s", err, events)
	}
	close(release)
	if status := <-slow; status != http.StatusOK {
		t.Fatalf("a request under way ended with %d", status)
	}
	select {
	case err := <-served:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not stop")
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := api.New(api.Config{}); err == nil {
		t.Fatal("no backend and no error")
	}
}
