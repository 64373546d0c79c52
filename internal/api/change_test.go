package api_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/control"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

const demo = stores + "/demo"

func TestPatch(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	p.addCatalogue()
	id := p.create("demo").Datastore.ID
	p.finishJobs(id)

	ch := into[api.Changed](t, p.ok("PATCH", demo, `{"labels":{"team":"a"},"spec":{"plan":"medium","storage_gib":60,"parameters":{"work_mem":"8MB"}}}`,
		"Content-Type", "application/merge-patch+json"))
	if ch.Job.Kind != "datastore.update" || ch.Datastore.Generation != 2 || ch.Datastore.Spec.Plan != "medium" || ch.Datastore.Labels["team"] != "a" ||
		ch.Datastore.Status.State != orrery.DatastoreUpdating || ch.Datastore.Applied.Plan != "small" || string(ch.Job.Input) != `{"generation":2}` {
		t.Fatalf("%+v", ch)
	}
	ch = into[api.Changed](t, p.ok("PATCH", demo, `{"spec":{"parameters":{"max_connections":"50","work_mem":null}}}`))
	if got := ch.Datastore.Spec.Parameters; len(got) != 1 || got["max_connections"] != "50" {
		t.Fatalf("null must take a key away: %v", got)
	}
	for body, want := range map[string]int{`{}`: 200, `{"spec":{}}`: 200, `{"spec":{"plan":"medium"}}`: 200, `{"labels":{"team":null}}`: 200} {
		a := p.do("PATCH", demo, body)
		if ch := into[api.Changed](t, a); a.status != want || ch.Job != nil || ch.Datastore.Generation != 3 {
			t.Fatalf("%s: %d %s", body, a.status, a.body)
		}
	}
	for name, tc := range map[string]struct{ body, code, field string }{
		"engine":             {`{"spec":{"engine":"valkey"}}`, "field_immutable", "spec.engine"},
		"version":            {`{"spec":{"version":"14"}}`, "field_immutable", "spec.version"},
		"region":             {`{"spec":{"region":"mars"}}`, "field_immutable", "spec.region"},
		"name":               {`{"name":"other"}`, "field_immutable", "name"},
		"smaller storage":    {`{"spec":{"storage_gib":5}}`, "storage_cannot_shrink", "spec.storage_gib"},
		"status":             {`{"status":{"state":"available"}}`, "field_unknown", "status"},
		"unknown":            {`{"spec":{"colour":"red"}}`, "field_unknown", "spec.colour"},
		"wrong type":         {`{"spec":{"instances":"two"}}`, "wrong_type", "spec.instances"},
		"no instances":       {`{"spec":{"instances":null}}`, "instances_out_of_range", "spec.instances"},
		"no spec":            {`{"spec":null}`, "invalid", "spec"},
		"paused":             {`{"spec":{"paused":true}}`, "use_action", "spec.paused"},
		"restart":            {`{"spec":{"restart_seq":7}}`, "field_read_only", "spec.restart_seq"},
		"a new user":         {`{"spec":{"users":[{"name":"admin","access":"admin"},{"name":"eve","access":"admin"}]}}`, "user_not_found", "spec.users[1].name"},
		"a secret's version": {`{"spec":{"users":[{"name":"admin","access":"admin","secret_version":9}]}}`, "field_read_only", "spec.users[0].secret_version"},
		"a parameter":        {`{"spec":{"parameters":{"work_mem":"1"}}}`, "parameter_out_of_range", "spec.parameters.work_mem"},
	} {
		t.Run(name, func(t *testing.T) { p.refused(400, tc.code, tc.field, "PATCH", demo, tc.body) })
	}
	if ds := p.store.Datastores.List()[0]; ds.Generation != 3 {
		t.Fatalf("generation %d", ds.Generation)
	}
}

func TestTwoClientsChangeOneObject(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	p.create("demo")
	seen := p.ok("GET", demo, nil)
	tag := seen.header.Get("ETag")
	p.ok("PATCH", demo, `{"spec":{"instances":2}}`, "If-Match", tag)
	pr := p.refused(412, "generation_mismatch", "", "PATCH", demo, `{"spec":{"instances":3}}`, "If-Match", tag)
	if pr.Hint == "" {
		t.Fatal("no hint")
	}
	p.refused(412, "generation_mismatch", "", "DELETE", demo, nil, "If-Match", tag)
	p.ok("PATCH", demo, `{"spec":{"instances":3}}`, "If-Match", `"2"`) // the generation alone will do
	p.refused(400, "invalid", "If-Match", "PATCH", demo, `{}`, "If-Match", `"abc"`)
	p.ok("PATCH", demo, `{}`, "If-Match", "*")

	now := p.ok("GET", demo, nil).header.Get("ETag")
	if a := p.do("GET", demo, nil, "If-None-Match", now); a.status != http.StatusNotModified || len(a.body) > 0 {
		t.Fatalf("%d", a.status)
	}
	// A changed status is no change of the spec, and yet seen.
	p.update(func(tx *store.Tx) error {
		ds, err := p.store.Datastores.TxGet(tx, p.store.Datastores.List()[0].ID)
		if err != nil {
			return err
		}
		ds.Status.Message = "on its way"
		return p.store.Datastores.Put(tx, ds)
	})
	if a := p.do("GET", demo, nil, "If-None-Match", now); a.status != http.StatusOK || !strings.Contains(string(a.body), "on its way") {
		t.Fatalf("%d", a.status)
	}
}

func TestUsersAndDatabases(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	ds := p.create("demo").Datastore
	users, databases := demo+"/users", demo+"/databases"
	p.ok("POST", databases, `{"name":"shop"}`)
	ch := into[api.Changed](t, p.ok("POST", users, `{"name":"eve","databases":["shop"]}`))
	if u := ch.Datastore.Spec.Users[1]; u.Access != "readwrite" || u.SecretVersion != 3 || ch.Credentials.Username != "eve" || len(ch.Credentials.Password) < 20 {
		t.Fatalf("%+v %+v", u, ch.Credentials)
	}
	if _, err := p.store.Secret(t.Context(), control.UserSecretID(ds.ID, "eve")); err != nil {
		t.Fatal(err)
	}
	p.refused(409, "user_exists", "", "POST", users, `{"name":"eve"}`)
	p.refused(400, "user_name_reserved", "name", "POST", users, `{"name":"pg_eve"}`)
	p.refused(400, "invalid", "name", "POST", users, `{}`)
	p.refused(400, "invalid", "access", "POST", users, `{"name":"bob","access":"god"}`)
	p.refused(400, "database_not_found", "databases[0]", "POST", users, `{"name":"bob","databases":["nope"]}`)
	p.refused(400, "field_unknown", "role", "POST", users, `{"name":"bob","role":"x"}`)
	p.refused(400, "password_unusable", "password", "POST", users, `{"name":"bob","password":"short"}`)
	p.refused(409, "database_in_use", "", "DELETE", databases+"/shop", nil)
	p.refused(409, "user_owns_database", "", "DELETE", users+"/admin", nil)
	p.refused(409, "database_exists", "", "POST", databases, `{"name":"shop"}`)
	p.refused(400, "owner_not_admin", "owner", "POST", databases, `{"name":"x","owner":"eve"}`)
	p.refused(400, "field_unknown", "secret_version", "PATCH", users+"/eve", `{"secret_version":1}`)
	p.refused(404, "user_not_found", "", "PATCH", users+"/bob", `{"access":"admin"}`)
	p.refused(404, "user_not_found", "", "GET", users+"/bob", nil)

	ch = into[api.Changed](t, p.ok("PATCH", users+"/eve", `{"access":"readonly","databases":null}`))
	if u := ch.Datastore.Spec.Users[1]; u.Access != "readonly" || len(u.Databases) != 0 || u.SecretVersion != 3 || ch.Credentials != nil {
		t.Fatalf("%+v", u)
	}
	ch = into[api.Changed](t, p.ok("POST", users+"/eve/actions/reset-password", nil))
	if u := ch.Datastore.Spec.Users[1]; u.SecretVersion != 5 || ch.Credentials.Password == "" {
		t.Fatalf("%+v", u)
	}
	ch = into[api.Changed](t, p.ok("POST", users+"/eve/actions/reset-password", `{"password":"correct horse"}`))
	if ch.Credentials.Password != "correct horse" {
		t.Fatalf("%+v", ch.Credentials)
	}
	p.ok("DELETE", databases+"/shop", nil)
	p.ok("DELETE", users+"/eve", nil)
	if u := into[orrery.User](t, p.ok("GET", users+"/admin", nil)); u.Access != "admin" {
		t.Fatalf("%+v", u)
	}
	ch = into[api.Changed](t, p.ok("POST", users, `{"name":"eve"}`))
	if u := ch.Datastore.Spec.Users[1]; u.SecretVersion <= 6 {
		t.Fatalf("a user that comes back must not have an old secret's version: %+v", u)
	}
}

func TestTrustedSourcesByPath(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	p.create("demo")
	sources := demo + "/trusted-sources"
	for _, cidr := range []string{"10.1.0.0/16", "2001:db8::/32", "192.0.2.7"} {
		p.ok("POST", sources, map[string]string{"cidr": cidr, "description": "office"})
	}
	p.refused(409, "trusted_source_exists", "", "POST", sources, `{"cidr":"192.0.2.7/32"}`)
	p.refused(400, "cidr_malformed", "cidr", "POST", sources, `{"cidr":"10.0.0.0/8; DROP"}`)
	p.refused(400, "cidr_malformed", "cidr", "POST", sources, `{"cidr":"::ffff:10.0.0.1"}`)
	for _, cidr := range []string{"10.1.0.0/16", "2001:db8::/32", "192.0.2.7"} {
		p.ok("DELETE", sources+"/"+url.PathEscape(cidr), nil)
	}
	p.refused(404, "trusted_source_not_found", "", "DELETE", sources+"/10.1.0.0%2F16", nil)
	type list struct{ Items []orrery.TrustedSource }
	if l := into[list](t, p.ok("GET", sources, nil)); len(l.Items) != 2 {
		t.Fatalf("%+v", l)
	}
}

func TestParameters(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	p.create("demo")
	path := demo + "/parameters"
	p.refused(503, "catalogue_unknown", "", "PATCH", path, `{"work_mem":"4MB"}`)
	p.addCatalogue()
	p.ok("PATCH", path, `{"work_mem":"4MB"}`)
	p.refused(400, "parameter_unknown", "work_mum", "PATCH", path, `{"work_mum":"4MB"}`)
	p.refused(400, "wrong_type", "work_mem", "PATCH", path, `{"work_mem":4096}`)
	list := string(p.ok("GET", path+"?limit=1000", nil).body)
	if !strings.Contains(list, `"name":"work_mem"`) || !strings.Contains(list, `"value":"4MB"`) || strings.Count(list, `"value"`) != 1 {
		t.Fatal(list)
	}
	p.ok("PATCH", path, `{"work_mem":null}`)
	if got := p.store.Datastores.List()[0].Spec.Parameters; len(got) != 0 {
		t.Fatal(got)
	}
	p.ok("GET", "/v1/engines/postgres/versions/15/parameters", nil)
	p.refused(404, "version_not_found", "", "GET", "/v1/engines/postgres/versions/12/parameters", nil)
	p.refused(404, "engine_not_found", "", "GET", "/v1/engines/oracle/versions/12/parameters", nil)
}

func TestActions(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	id := p.create("demo").Datastore.ID
	p.refused(409, "creating", "", "POST", demo+"/actions/restart", nil)
	p.finishJobs(id)
	ch := into[api.Changed](t, p.ok("POST", demo+"/actions/restart", nil, "Idempotency-Key", "r"))
	if ch.Job.Kind != "datastore.restart" || ch.Datastore.Spec.RestartSeq != 1 {
		t.Fatalf("%+v", ch)
	}
	p.ok("POST", demo+"/actions/restart", nil, "Idempotency-Key", "r")
	if got := p.store.Datastores.List()[0].Spec.RestartSeq; got != 1 {
		t.Fatalf("one key restarted %d times", got)
	}
	p.finishJobs(id)
	if ch := into[api.Changed](t, p.ok("POST", demo+"/actions/pause", nil)); ch.Job.Kind != "datastore.pause" || !ch.Datastore.Spec.Paused {
		t.Fatalf("%+v", ch)
	}
	p.finishJobs(id)
	if a := p.do("POST", demo+"/actions/pause", nil); a.status != http.StatusOK || into[api.Changed](t, a).Job != nil {
		t.Fatalf("%d %s", a.status, a.body)
	}
	p.refused(409, "datastore_paused", "", "PATCH", demo, `{"spec":{"instances":2}}`)
	p.refused(409, "datastore_paused", "", "POST", demo+"/actions/restart", nil)
	if a := p.do("PATCH", demo, `{"spec":{"deletion_protection":true}}`); a.status != http.StatusOK || into[api.Changed](t, a).Job != nil {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if ch := into[api.Changed](t, p.ok("POST", demo+"/actions/resume", nil)); ch.Job.Kind != "datastore.resume" || ch.Datastore.Spec.Paused {
		t.Fatalf("%+v", ch)
	}
	p.refused(404, "path_not_found", "", "POST", demo+"/actions/explode", nil)
	p.refused(400, "body_unexpected", "", "POST", demo+"/actions/restart", `{"now":true}`)
}

func TestDelete(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	created := p.create("demo")
	p.ok("PATCH", demo, `{"spec":{"deletion_protection":true}}`)
	p.refused(409, "deletion_protected", "", "DELETE", demo, nil)
	p.ok("PATCH", demo, `{"spec":{"deletion_protection":false}}`)

	// During creation: what is under way is cancelled, and asked twice the same job answers.
	first := into[api.Changed](t, p.ok("DELETE", demo, nil))
	second := into[api.Changed](t, p.ok("DELETE", demo, nil))
	if first.Job.Kind != "datastore.delete" || first.Job.ID != second.Job.ID || first.Datastore.DeletingAt == nil || first.Datastore.Status.State != orrery.DatastoreDeleting {
		t.Fatalf("%+v", first)
	}
	for _, j := range p.store.Jobs.By("object", created.Datastore.ID) {
		if j.CancelRequested != (j.Kind != "datastore.delete") {
			t.Fatalf("%s: cancel requested is %v", j.Kind, j.CancelRequested)
		}
	}
	p.refused(409, "deleting", "", "PATCH", demo, `{"spec":{"instances":2}}`)
	p.refused(409, "deleting", "", "POST", demo+"/users", `{"name":"eve"}`)
	p.refused(409, "name_taken", "name", "POST", stores, `{"name":"demo","spec":{"engine":"postgres"}}`)
	p.refused(404, "datastore_not_found", "", "DELETE", stores+"/nothing", nil)
}

func TestJobs(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	j := p.create("demo").Job
	got := into[orrery.Job](t, p.ok("POST", "/v1/jobs/"+j.ID+"/actions/cancel", nil))
	if !got.CancelRequested {
		t.Fatalf("%+v", got)
	}
	p.ok("POST", "/v1/jobs/"+j.ID+"/actions/cancel", nil)
	p.refused(409, "job_not_stuck", "", "POST", "/v1/jobs/"+j.ID+"/actions/retry", nil)
	p.refused(404, "job_not_found", "", "GET", "/v1/jobs/jo-0", nil)
	type list struct{ Items []orrery.Job }
	for query, want := range map[string]int{"": 1, "?object=" + j.Object: 1, "?state=queued": 1, "?state=failed": 0, "?object=x": 0, "?kind=datastore.create&state=queued": 1} {
		if l := into[list](t, p.ok("GET", "/v1/jobs"+query, nil)); len(l.Items) != want || l.Items == nil {
			t.Errorf("%s: %d", query, len(l.Items))
		}
	}
}

func TestProjects(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	p.ok("POST", "/v1/projects", `{"name":"shop","description":"Sells things."}`)
	p.refused(409, "name_taken", "name", "POST", "/v1/projects", `{"name":"shop"}`)
	p.ok("POST", "/v1/projects/shop/datastores", `{"name":"demo","spec":{"engine":"postgres"}}`)
	p.create("demo") // a name is unique within its project only
	p.refused(409, "project_not_empty", "", "DELETE", "/v1/projects/shop", nil)
	p.refused(409, "project_default", "", "DELETE", "/v1/projects/default", nil)
	if pr := into[orrery.Project](t, p.ok("PATCH", "/v1/projects/shop", `{"description":"Sells all."}`)); pr.Description != "Sells all." || pr.Generation != 2 {
		t.Fatalf("%+v", pr)
	}
	p.ok("POST", "/v1/projects", `{"name":"empty"}`)
	if a := p.ok("DELETE", "/v1/projects/empty", nil); a.status != http.StatusNoContent {
		t.Fatal(a.status)
	}
	p.refused(404, "project_not_found", "", "GET", "/v1/projects/empty", nil)
	p.refused(404, "project_not_found", "", "GET", "/v1/projects/nothing/datastores", nil)
	shop := into[orrery.Project](t, p.ok("GET", "/v1/projects/shop", nil))
	p.ok("GET", "/v1/projects/"+shop.ID+"/datastores/demo", nil)
	other := into[orrery.Datastore](t, p.ok("GET", demo, nil))
	p.refused(404, "datastore_not_found", "", "GET", "/v1/projects/shop/datastores/"+other.ID, nil)
}

func TestPlane(t *testing.T) {
	p := newPlane(t)
	h := p.addHost()
	for _, path := range []string{"/v1/engines", "/v1/plans", "/v1/regions", "/v1/pools", "/v1/pools/local", "/v1/hosts", "/v1/hosts/h1", "/v1/status", "/v1/ca", "/v1/events"} {
		p.ok("GET", path, nil)
	}
	type engines struct{ Items []orrery.Engine }
	if e := into[engines](t, p.ok("GET", "/v1/engines", nil)).Items[0]; e.Default != "15" || len(e.Versions) != 2 {
		t.Fatalf("%+v", e)
	}
	if h := into[orrery.Host](t, p.ok("GET", "/v1/hosts/h1", nil)); h.Status.Connected {
		t.Fatal("connected without a session")
	}
	p.update(func(tx *store.Tx) error {
		return p.store.Presences.InsertLeased(tx, &store.Claim{Meta: orrery.Meta{ID: h.ID}})
	})
	if h := into[orrery.Host](t, p.ok("GET", "/v1/hosts/h1", nil)); !h.Status.Connected {
		t.Fatal("not connected with a session")
	}
	if h := into[orrery.Host](t, p.ok("PATCH", "/v1/hosts/h1", `{"spec":{"cordoned":true}}`)); !h.Spec.Cordoned || h.Generation != 2 || h.Spec.Pool == "" {
		t.Fatalf("%+v", h)
	}
	p.refused(400, "pool_unknown", "spec.pool", "PATCH", "/v1/hosts/h1", `{"spec":{"pool":"x"}}`)
	if ca := p.ok("GET", "/v1/ca", nil); !strings.HasPrefix(string(ca.body), "-----BEGIN") {
		t.Fatal(string(ca.body))
	}
}

func TestConnection(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	id := p.create("demo").Datastore.ID
	p.refused(409, "no_endpoints", "", "GET", demo+"/connection", nil)
	p.update(func(tx *store.Tx) error {
		ds, err := p.store.Datastores.TxGet(tx, id)
		if err != nil {
			return err
		}
		ds.Status.Endpoints = []orrery.Endpoint{{Instance: "in-2", Role: "replica", Address: "10.0.0.2", Port: 17001}, {Instance: "in-1", Role: "primary", Address: "10.0.0.1", Port: 17000}}
		return p.store.Datastores.Put(tx, ds)
	})
	c := into[orrery.ConnectionInfo](t, p.ok("GET", demo+"/connection", nil))
	if c.User != "admin" || c.Database != "app" || !strings.HasPrefix(c.CA, "-----BEGIN") || !strings.HasPrefix(c.Strings[0].Text, "postgresql://admin:{password}@10.0.0.1:17000/app?sslmode=verify-full") {
		t.Fatalf("%+v", c)
	}
	p.refused(404, "user_not_found", "", "GET", demo+"/connection?user=bob", nil)
	p.refused(404, "database_not_found", "", "GET", demo+"/connection?database=bob", nil)
	type list struct{ Items []orrery.Endpoint }
	if l := into[list](t, p.ok("GET", demo+"/endpoints", nil)); l.Items[0].Role != "primary" {
		t.Fatalf("%+v", l)
	}
}

func TestDiskLow(t *testing.T) {
	var free atomic.Uint64
	free.Store(1000)
	cfg := storetest.Config(t)
	cfg.Watchdog = store.WatchdogConfig{Dir: "/anywhere", LowBytes: 100, ResumeBytes: 200, FloorBytes: 50, Interval: time.Millisecond,
		FreeBytes: func(string) (uint64, error) { return free.Load(), nil }}
	p := newPlaneOn(t, storetest.Open(t, cfg))
	p.addHost()
	p.create("demo")
	writable := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			s := into[api.Status](t, p.ok("GET", "/v1/status", nil))
			if s.Writable == want && (s.Message == "") == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v", s)
			}
		}
	}
	free.Store(80)
	writable(false)
	for _, tc := range [][3]string{{"POST", stores, `{"name":"more","spec":{"engine":"postgres"}}`}, {"PATCH", demo, `{"spec":{"instances":2}}`},
		{"POST", demo + "/users", `{"name":"eve"}`}, {"DELETE", demo, ""}, {"POST", "/v1/projects", `{"name":"x"}`}} {
		if pr := p.refused(503, "disk_low", "", tc[0], tc[1], tc[2]); pr.Hint == "" {
			t.Fatal("no hint")
		}
	}
	p.ok("GET", demo, nil)
	free.Store(1000)
	writable(true)
	p.ok("PATCH", demo, `{"spec":{"instances":2}}`)
}
