package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

// TestBadDays asks one plane for what it must refuse, and disturbs it while it works: each gets a clear answer, and
// nothing is lost or left over.
func TestBadDays(t *testing.T) {
	ctx := testContext(t, 4*time.Minute)
	w := newWorld(t, 0)
	w.knows(ctx, "postgres")
	w.knows(ctx, "valkey")
	// The places that found the parameters out are not wanted any more.
	eventually(ctx, t, func() bool {
		places, err := filepath.Glob(filepath.Join(w.Dir, "agent", "places", "*"))
		return err == nil && len(places) == 0
	})
	t.Run("the same create twice with one key", w.sameKeyTwice)
	t.Run("bodies that are refused", w.badBodies)
	t.Run("tokens that are refused", w.badTokens)
	t.Run("two clients change one object", w.twoClients)
	t.Run("a delete during the create", w.deleteDuringCreate)
	t.Run("the plane is killed during the create", w.killDuringCreate)
	t.Run("the port of a paused instance is taken", w.portTaken)
}

func pg(name string, instances int) client.NewDatastore {
	return client.NewDatastore{Name: name, Spec: orrery.DatastoreSpec{Engine: "postgres", Plan: "nano", Instances: instances}}
}

func (w *world) sameKeyTwice(t *testing.T) {
	ctx := t.Context()
	w = w.in(t)
	const body = `{"name":"once","spec":{"engine":"postgres","plan":"nano"}}`
	type answer struct {
		client.Changed
		status int
	}
	answers := make([]answer, 4)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			status, b := w.raw(ctx, "POST", "/v1/projects/default/datastores", strings.NewReader(body), "Idempotency-Key", "k1")
			answers[i].status = status
			if err := json.Unmarshal(b, &answers[i].Changed); err != nil {
				t.Errorf("%s: %v", b, err)
			}
		})
	}
	wg.Wait()
	passwords := 0
	for _, a := range answers {
		if a.status != http.StatusAccepted || a.Datastore == nil || a.Job == nil || a.Datastore.ID != answers[0].Datastore.ID || a.Job.ID != answers[0].Job.ID {
			t.Fatalf("the answers differ: %d %+v", a.status, a.Changed)
		}
		if a.Credentials != nil && a.Credentials.Password != "" {
			passwords++
		}
	}
	if passwords != 1 {
		t.Errorf("%d answers of %d hold the password, want 1", passwords, len(answers))
	}
	w.done(ctx, &answers[0].Changed, nil)
	all, err := client.Collect(w.c.Datastores(ctx, "default", client.ListOptions{}))
	if err != nil || len(all) != 1 {
		t.Errorf("%d datastores, %v, want 1", len(all), err)
	}
	status, b := w.raw(ctx, "POST", "/v1/projects/default/datastores", strings.NewReader(strings.Replace(body, "once", "twice", 1)), "Idempotency-Key", "k1")
	w.refused(status, b, http.StatusConflict, "idempotency_key_reused")
	w.remove(ctx, "once")
}

func (w *world) badBodies(t *testing.T) {
	ctx := t.Context()
	w = w.in(t)
	const path = "/v1/projects/default/datastores"
	for body, want := range map[string]string{
		`{"name":"x","spec":{"engine":"postgres"},"colour":"red"}`:                                "colour",
		`{"name":"x","spec":{"engine":"postgres","instances":"two"}}`:                             "spec.instances",
		`{"name":"x y","spec":{"engine":"postgres"}}`:                                             "name",
		`{"name":"🐘","spec":{"engine":"postgres"}}`:                                               "name",
		`{"name":"../../etc","spec":{"engine":"postgres"}}`:                                       "name",
		`{"name":"x","spec":{"engine":"postgres","storage_gib":900000000}}`:                       "spec.storage_gib",
		`{"name":"x","spec":{"engine":"postgres","trusted_sources":[{"cidr":"10.0.0"}]}}`:         "spec.trusted_sources[0].cidr",
		`{"name":"x","spec":{"engine":"postgres","parameters":{"work_mem":"-1"}}}`:                "spec.parameters.work_mem",
		`{"name":"x","spec":{"engine":"postgres","users":[{"name":"pg_evil","access":"admin"}]}}`: "spec.users[0].name",
		`{"name":"x","spec":{"engine":"postgres","version":"9.6"}}`:                               "spec.version",
		`{"name":"x"`: "",
	} {
		status, b := w.raw(ctx, "POST", path, strings.NewReader(body))
		var p struct{ Detail, Field string }
		if err := json.Unmarshal(b, &p); err != nil || (status != http.StatusBadRequest && status != http.StatusUnprocessableEntity) || p.Field != want || p.Detail == "" {
			t.Errorf("%s\n  gives %d %s, want it refused for %q", body, status, b, want)
		}
	}
	for _, known := range []bool{true, false} { // with a length, and in chunks without
		var r io.Reader = bytes.NewReader(make([]byte, 50<<20))
		if !known {
			r = io.MultiReader(r)
		}
		status, b := w.raw(ctx, "POST", path, r)
		w.refused(status, b, http.StatusRequestEntityTooLarge, "too_large")
	}
	w.noDatabases(ctx)
}

func (w *world) badTokens(t *testing.T) {
	ctx := t.Context()
	w = w.in(t)
	const path = "/v1/projects/default/datastores"
	made, err := w.c.CreateToken(ctx, client.NewToken{Name: "passing"})
	if err != nil {
		t.Fatal(err)
	}
	if status, b := w.raw(ctx, "GET", path, nil, "Authorization", "Bearer "+made.Secret); status != http.StatusOK {
		t.Fatalf("a fresh token: %d %s", status, b)
	}
	if err := w.c.RevokeToken(ctx, made.Token.ID); err != nil {
		t.Fatal(err)
	}
	for what, token := range map[string]string{"revoked": made.Secret, "none": "", "garbage": "orr_{}", "long": strings.Repeat("x", 9000),
		"another secret": made.Secret[:len(made.Secret)-1] + "~"} {
		for method, body := range map[string]io.Reader{"GET": nil, "POST": strings.NewReader(`{"name":"x","spec":{"engine":"postgres"}}`)} {
			status, b := w.raw(ctx, method, path, body, "Authorization", "Bearer "+token)
			if status != http.StatusUnauthorized {
				t.Errorf("%s with a token that is %s: %d %s", method, what, status, b)
			}
		}
	}
	w.noDatabases(ctx)
}

func (w *world) twoClients(t *testing.T) {
	ctx := t.Context()
	w = w.in(t)
	ds, _ := w.create(ctx, pg("shared", 1))
	errs, sizes, changes := make([]error, 2), []int{6, 7}, make([]*client.Changed, 2)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			changes[i], errs[i] = w.c.UpdateDatastore(ctx, "default", "shared", ds.Generation, client.DatastorePatch{Spec: &client.SpecPatch{StorageGiB: &sizes[i]}})
		})
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Fatalf("both changed the same generation, or neither: %v; %v", errs[0], errs[1])
	}
	for i, err := range errs {
		if err != nil {
			if orrery.KindOf(err) != orrery.KindPrecondition {
				t.Errorf("the one who came late: %v, want a failed precondition", err)
			}
			continue
		}
		if got := w.done(ctx, changes[i], nil).Spec.StorageGiB; got != sizes[i] {
			t.Errorf("the one who came first asked for %d GiB and got %d", sizes[i], got)
		}
	}
	w.remove(ctx, "shared")
}

func (w *world) deleteDuringCreate(t *testing.T) {
	ctx := t.Context()
	w = w.in(t)
	made, err := w.c.CreateDatastore(ctx, "default", pg("brief", 2))
	if err != nil {
		t.Fatal(err)
	}
	w.underWay(ctx, made.Job.ID)
	list := w.instances(ctx, made.Datastore.ID)
	gone, err := w.c.DeleteDatastore(ctx, "default", "brief")
	w.done(ctx, gone, err)
	if j, _ := w.c.WaitJob(ctx, made.Job.ID, nil); j == nil || !j.State.Final() || j.State == orrery.JobSucceeded {
		t.Errorf("the create ended so: %+v", j)
	}
	w.nothingLeft(list)
	w.noDatabases(ctx)
}

func (w *world) killDuringCreate(t *testing.T) {
	ctx := t.Context()
	w = w.in(t)
	made, err := w.c.CreateDatastore(ctx, "default", pg("tough", 2))
	if err != nil {
		t.Fatal(err)
	}
	w.underWay(ctx, made.Job.ID)
	if err := w.Kill(); err != nil {
		t.Fatal(err)
	}
	w.start(ctx)
	ds := w.done(ctx, made, nil)
	if !available(ds) || ds.Status.ReadyInstances != 2 || len(w.instances(ctx, ds.ID)) != 2 {
		t.Errorf("after the kill: %+v", ds.Status)
	}
	exec(ctx, t, w.must(ctx, ds, orrery.EndpointPrimary, made.Credentials.Username, made.Credentials.Password), "create table t (n int)")
	w.remove(ctx, "tough")
}

func (w *world) portTaken(t *testing.T) {
	ctx := t.Context()
	w = w.in(t)
	ds, cr := w.create(ctx, pg("port", 1))
	place := w.instances(ctx, ds.ID)[0].Status.Place
	ch, err := w.c.ActOnDatastore(ctx, "default", "port", "pause")
	w.done(ctx, ch, err)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(place.Address, strconv.Itoa(place.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ch, err = w.c.ActOnDatastore(ctx, "default", "port", "resume")
	if err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, func() bool {
		in := w.instances(ctx, ds.ID)[0]
		return in.Status.Database.ErrorCode == "port_taken" && in.Status.Database.Message != ""
	})
	l.Close()
	ds = w.done(ctx, ch, nil)
	w.must(ctx, ds, orrery.EndpointPrimary, cr.Username, cr.Password)
	w.remove(ctx, "port")
}

// underWay waits until a job has done its first step and not yet its last.
func (w *world) underWay(ctx context.Context, job string) {
	w.t.Helper()
	for ch, err := range w.c.WatchJob(ctx, job) {
		if err != nil {
			w.t.Fatal(err)
		}
		if j := ch.Object; j != nil && j.State.Final() {
			w.t.Fatalf("the job ended before it could be disturbed: %s", j.State)
		} else if j != nil && j.Cursor > 0 {
			return
		}
	}
}

// remove deletes a datastore and looks for what is left.
func (w *world) remove(ctx context.Context, name string) {
	w.t.Helper()
	list := w.instances(ctx, name)
	ch, err := w.c.DeleteDatastore(ctx, "default", name)
	w.done(ctx, ch, err)
	w.nothingLeft(list)
}

// raw sends a request as it is, with the administrator's token where header does not say otherwise.
func (w *world) raw(ctx context.Context, method, path string, body io.Reader, header ...string) (int, []byte) {
	w.t.Helper()
	have, err := w.Context()
	if err != nil {
		w.t.Error(err)
		return 0, nil
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(have.CAPEM))
	req, err := http.NewRequestWithContext(ctx, method, have.Server+path, body)
	if err != nil {
		w.t.Error(err)
		return 0, nil
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+have.Token)
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = []string{header[i+1]}
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		w.t.Errorf("%s %s: %v", method, path, err)
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Error(err)
	}
	return resp.StatusCode, b
}

// refused checks the answer to a request that had to be refused.
func (w *world) refused(status int, body []byte, want int, code string) {
	w.t.Helper()
	var p struct{ Code, Detail string }
	if err := json.Unmarshal(body, &p); err != nil || status != want || p.Code != code || p.Detail == "" {
		w.t.Errorf("the answer is %d %s, want %d with the code %s", status, body, want, code)
	}
}
