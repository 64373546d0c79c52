package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/control"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/engine/postgres"
	"github.com/orrery-db/orrery/internal/engine/valkey"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// plane is an API over a real store, with one host, and no servers that run jobs.
type plane struct {
	t       testing.TB
	store   *store.Store
	control *control.Control
	api     *api.API
	srv     *httptest.Server
	token   string // administrator's
	log     *logBuffer
}

type option func(*api.Config)

func newPlane(t testing.TB, options ...option) *plane {
	t.Helper()
	return newPlaneOn(t, storetest.New(t), options...)
}

func newPlaneOn(t testing.TB, s *store.Store, options ...option) *plane {
	t.Helper()
	p := &plane{t: t, store: s, log: &logBuffer{}}
	p.control = newControl(t, p.store, p.log)
	if _, err := p.control.EnsureDefaults(t.Context(), "process"); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.token, err = p.control.EnsureBootstrapToken(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := api.Config{Backend: p.control, Log: slog.New(slog.NewJSONHandler(p.log, nil)), Version: "test"}
	for _, o := range options {
		o(&cfg)
	}
	if p.api, err = api.New(cfg); err != nil {
		t.Fatal(err)
	}
	p.srv = httptest.NewUnstartedServer(p.api)
	p.srv.EnableHTTP2 = true
	p.srv.StartTLS()
	p.srv.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() {
		p.api.StopWatches()
		p.srv.Close()
	})
	return p
}

func newControl(t testing.TB, s *store.Store, log io.Writer) *control.Control {
	t.Helper()
	c, err := control.New(control.Config{Store: s, Engines: map[string]engine.Definition{"postgres": postgres.New(postgres.Config{}), "valkey": valkey.New(valkey.Config{})},
		DataCA: []byte("-----BEGIN CERTIFICATE-----\n"), PlaneFingerprint: "c0ffee", ServerName: "here",
		Log: slog.New(slog.NewJSONHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// addHost adds a host of 4 cores, 8 GiB and 100 GiB that has the engines.
func (p *plane) addHost() *orrery.Host {
	p.t.Helper()
	h := &orrery.Host{Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixHost), Name: "h1"},
		Spec: orrery.HostSpec{Pool: p.store.Pools.By("name", "local")[0].ID},
		Status: orrery.HostStatus{Capacity: orrery.Capacity{CPUMilli: 4000, MemoryMiB: 8192, StorageGiB: 100}, Engines: []orrery.EngineVersion{
			{Engine: "postgres", Version: "14", Full: "14.12"}, {Engine: "postgres", Version: "15", Full: "15.18"}, {Engine: "valkey", Version: "7", Full: "7.0.15"}}}}
	p.update(func(tx *store.Tx) error { return p.store.Hosts.Insert(tx, h) })
	return h
}

func (p *plane) addCatalogue() {
	p.t.Helper()
	p.update(func(tx *store.Tx) error {
		return p.store.Catalogues.Insert(tx, &orrery.ParameterCatalogue{Meta: orrery.Meta{ID: "postgres-15", Name: "postgres-15"},
			Engine: "postgres", Version: "15", Full: "15.18", Parameters: []orrery.Parameter{
				{Name: "work_mem", Type: orrery.ParameterInt, Unit: "kB", Min: "64", Max: "2147483647"},
				{Name: "port", Type: orrery.ParameterInt, Managed: "the place's port"},
				{Name: "max_connections", Type: orrery.ParameterInt, Min: "1", Max: "262143", Restart: true}}})
	})
}

func (p *plane) update(fn func(tx *store.Tx) error) {
	p.t.Helper()
	if _, err := p.store.Update(context.Background(), fn); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) newToken(role iam.Role) (id, bearer string) {
	p.t.Helper()
	token, bearer := iam.NewToken("t-"+strings.ToLower(orrery.NewID("x"))[2:10], role, nil)
	p.update(func(tx *store.Tx) error { return p.store.Tokens.Insert(tx, token) })
	return token.ID, bearer
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem() (pr api.Problem) {
	_ = json.Unmarshal(a.body, &pr)
	return pr
}

func into[T any](t testing.TB, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return v
}

// do sends a request; headers are pairs. A body that is no string is sent as JSON.
func (p *plane) do(method, path string, body any, headers ...string) answer {
	p.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			p.t.Fatal(err)
		}
		r = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.srv.URL+path, r)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := p.srv.Client().Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, data}
}

// ok is do for what must succeed.
func (p *plane) ok(method, path string, body any, headers ...string) answer {
	p.t.Helper()
	a := p.do(method, path, body, headers...)
	if a.status >= 300 {
		p.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

// refused is do for what must be refused with a code, and, where given, a field.
func (p *plane) refused(status int, code, field, method, path string, body any, headers ...string) api.Problem {
	p.t.Helper()
	a := p.do(method, path, body, headers...)
	pr := a.problem()
	if a.status != status || pr.Code != code || pr.Field != field {
		p.t.Fatalf("%s %s: got %d %s, want %d, code %s, field %q", method, path, a.status, a.body, status, code, field)
	}
	if a.header.Get("Content-Type") != "application/problem+json" || pr.Detail == "" || pr.Status != status ||
		pr.Title == "" || pr.Type == "" || pr.Kind == "" || pr.RequestID == "" || pr.RequestID != a.header.Get("X-Request-Id") {
		p.t.Fatalf("%s %s: not a whole problem: %s %s", method, path, a.header.Get("Content-Type"), a.body)
	}
	return pr
}

const stores = "/v1/projects/default/datastores"

func (p *plane) create(name string) api.Changed {
	p.t.Helper()
	return into[api.Changed](p.t, p.ok("POST", stores, map[string]any{"name": name, "spec": map[string]any{"engine": "postgres"}}))
}

// finishJobs ends a datastore's jobs as their runner would, with success.
func (p *plane) finishJobs(id string) {
	p.t.Helper()
	p.update(func(tx *store.Tx) error {
		ds, err := p.store.Datastores.TxGet(tx, id)
		if err != nil {
			return err
		}
		applied := ds.Spec
		ds.Applied, ds.AppliedGeneration = &applied, ds.Generation
		ds.Status.State = orrery.DatastoreAvailable
		if err := p.store.Datastores.Put(tx, ds); err != nil {
			return err
		}
		jobs, err := p.store.Jobs.TxBy(tx, "object", id)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			j.State = orrery.JobSucceeded
			if err := p.store.Jobs.Put(tx, j); err != nil {
				return err
			}
		}
		return nil
	})
}

// logBuffer gathers a log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
