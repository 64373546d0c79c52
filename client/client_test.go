package client_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

// serve starts a server and gives a client of it that trusts its certificate.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	c, err := client.New(client.Config{Server: srv.URL, Token: "orr_test", CA: ca, Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func problem(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

func TestErrorsComeBackAsWords(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   orrery.Error
	}{
		"problem": {409, `{"title":"Conflict","status":409,"kind":"conflict","detail":"the name is taken","code":"name_taken","field":"name","hint":"Choose another."}`,
			orrery.Error{Kind: "conflict", Code: "name_taken", Message: "the name is taken", Field: "name", Hint: "Choose another."}},
		"no kind":   {422, `{"title":"Bad","detail":"no"}`, orrery.Error{Kind: "invalid", Code: "invalid", Message: "no"}},
		"no detail": {404, `{"title":"Not Found"}`, orrery.Error{Kind: "not_found", Code: "not_found", Message: "Not Found"}},
		"a proxy":   {502, `<html>`, orrery.Error{Kind: "unavailable", Code: "unavailable", Message: "the server answered 502 Bad Gateway"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) { problem(w, tc.status, tc.body) })
			_, err := c.Datastore(t.Context(), "default", "demo")
			got, ok := err.(*orrery.Error) //nolint:errorlint // promised as it is, not wrapped
			if !ok || *got != tc.want {
				t.Fatalf("got %#v, want %#v", err, tc.want)
			}
		})
	}
}

func TestRetries(t *testing.T) {
	for name, tc := range map[string]struct {
		answers []func(http.ResponseWriter)
		do      func(context.Context, *client.Client) error
		calls   int32
		ok      bool
	}{
		"unavailable is tried again": {
			[]func(http.ResponseWriter){busy}, get, 2, true},
		"a cut connection is tried again": {
			[]func(http.ResponseWriter){cut}, get, 2, true},
		"a create too, for it carries a key": {
			[]func(http.ResponseWriter){cut, busy}, create, 3, true},
		"a delete that was cut is not": {
			[]func(http.ResponseWriter){cut}, remove, 1, false},
		"a delete that was put off is": {
			[]func(http.ResponseWriter){busy}, remove, 2, true},
		"a full disk is for a person": {
			[]func(http.ResponseWriter){func(w http.ResponseWriter) {
				problem(w, 503, `{"kind":"unavailable","code":"disk_low","detail":"the disk is nearly full"}`)
			}}, create, 1, false},
		"a refusal is final": {
			[]func(http.ResponseWriter){func(w http.ResponseWriter) { problem(w, 403, `{}`) }}, get, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			var keys = map[string]bool{}
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				n := calls.Add(1)
				keys[r.Header.Get("Idempotency-Key")] = true
				if int(n) <= len(tc.answers) {
					tc.answers[n-1](w)
					return
				}
				fmt.Fprint(w, `{}`)
			})
			err := tc.do(t.Context(), c)
			if (err == nil) != tc.ok || calls.Load() != tc.calls {
				t.Fatalf("%d calls, error %v; want %d calls, ok %v", calls.Load(), err, tc.calls, tc.ok)
			}
			if len(keys) != 1 {
				t.Fatalf("a repeated request must keep its idempotency key: %v", keys)
			}
		})
	}
}

func get(ctx context.Context, c *client.Client) error {
	_, err := c.Datastore(ctx, "default", "demo")
	return err
}
func create(ctx context.Context, c *client.Client) error {
	_, err := c.CreateDatastore(ctx, "default", client.NewDatastore{Name: "demo"})
	return err
}
func remove(ctx context.Context, c *client.Client) error {
	_, err := c.DeleteDatastore(ctx, "default", "demo")
	return err
}
func busy(w http.ResponseWriter) { problem(w, 503, `{"kind":"unavailable","code":"unavailable"}`) }
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		conn.Close()
	}
}

func TestUnreachable(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	other := httptest.NewTLSServer(nil)
	defer other.Close()
	address := srv.URL
	srv.Close()
	tries := 0
	c, err := client.New(client.Config{Server: address, Patience: time.Second, OnRetry: func(error, time.Duration) { tries++ }})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context()); orrery.KindOf(err) != orrery.KindUnavailable || tries == 0 {
		t.Fatalf("%d retries, then %v", tries, err)
	}
	c, err = client.New(client.Config{Server: other.URL, OnRetry: func(error, time.Duration) { t.Error("tried again") }})
	if err != nil {
		t.Fatal(err)
	}
	var e *orrery.Error
	if err := c.Ready(t.Context()); !errors.As(err, &e) || e.Code != "certificate_unknown" {
		t.Fatalf("got %v", err)
	}
}

func TestBadConfig(t *testing.T) {
	for name, cfg := range map[string]client.Config{
		"no address":         {Server: "demo"},
		"no host":            {Server: "https://"},
		"plain and far away": {Server: "http://db.example.com:7600"},
		"CA that is none":    {Server: "https://127.0.0.1", CA: []byte("x")},
	} {
		if _, err := client.New(cfg); orrery.KindOf(err) != orrery.KindInvalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestListPages(t *testing.T) {
	var queries []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		switch r.URL.Query().Get("cursor") {
		case "":
			fmt.Fprint(w, `{"items":[{"name":"a"},{"name":"b"}],"next_cursor":"x"}`)
		case "x":
			fmt.Fprint(w, `{"items":[{"name":"c"}]}`)
		}
	})
	all, err := client.Collect(c.Datastores(t.Context(), "default", client.ListOptions{Sort: "name", Filter: map[string]string{"engine": "postgres", "state": ""}}))
	if err != nil || len(all) != 3 || all[2].Name != "c" {
		t.Fatalf("got %v, %v", all, err)
	}
	if want := "engine=postgres&sort=name|cursor=x&engine=postgres&sort=name"; strings.Join(queries, "|") != want {
		t.Fatalf("asked %q, want %q", queries, want)
	}
	// A page is fetched only when it is come to.
	queries = nil
	for range c.Datastores(t.Context(), "default", client.ListOptions{}) {
		break
	}
	if len(queries) != 1 {
		t.Fatalf("asked %q", queries)
	}
}

func TestListThatDoesNotEnd(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"items":[{"name":"a"}],"next_cursor":"x"}`)
	})
	if _, err := client.Collect(c.Datastores(t.Context(), "default", client.ListOptions{})); err == nil {
		t.Fatal("no error")
	}
}

func TestPathsAreEscaped(t *testing.T) {
	var got string
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r.URL.EscapedPath() })
	_, err := c.RemoveTrustedSource(t.Context(), "default", "demo", "10.0.0.0/8")
	if err != nil || got != "/v1/projects/default/datastores/demo/trusted-sources/10.0.0.0%2F8" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestCreateLeavesOutWhatIsEmpty(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		got = string(data)
		fmt.Fprint(w, `{"datastore":{"name":"demo"},"job":{"id":"jo-1"},"credentials":{"username":"app","password":"s"}}`)
	})
	ch, err := c.CreateDatastore(t.Context(), "default", client.NewDatastore{Name: "demo",
		Spec: orrery.DatastoreSpec{Engine: "postgres", Parameters: map[string]string{"search_path": ""}, Users: []orrery.User{{Name: "app", Access: "admin"}}}})
	if err != nil || ch.Credentials.Password != "s" || ch.Job.ID != "jo-1" {
		t.Fatalf("got %+v, %v", ch, err)
	}
	want := `{"name":"demo","spec":{"engine":"postgres","parameters":{"search_path":""},"users":[{"access":"admin","name":"app"}]}}`
	if got != want {
		t.Fatalf("sent %s\nwant %s", got, want)
	}
}

func TestPatchIsBoundToAGeneration(t *testing.T) {
	var match, body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		match, body = r.Header.Get("If-Match"), string(data)
		fmt.Fprint(w, `{}`)
	})
	three := 3
	_, err := c.UpdateDatastore(t.Context(), "default", "demo", 7, client.DatastorePatch{Spec: &client.SpecPatch{Instances: &three}})
	if err != nil || match != `"7"` || body != `{"spec":{"instances":3}}` {
		t.Fatalf("sent %s %s, %v", match, body, err)
	}
	_, err = c.SetParameters(t.Context(), "default", "demo", map[string]*string{"work_mem": nil})
	if err != nil || match != "" || !json.Valid([]byte(body)) || body != `{"work_mem":null}` {
		t.Fatalf("sent %s %s, %v", match, body, err)
	}
}
