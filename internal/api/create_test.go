package api_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/control"
	"github.com/orrery-db/orrery/internal/store"
)

func TestCreateFillsDefaults(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	a := p.ok("POST", stores, `{"name":"demo","spec":{"engine":"postgres"}}`)
	ch := into[api.Changed](t, a)
	s := ch.Datastore.Spec
	if a.status != http.StatusAccepted || a.header.Get("Location") != "/v1/jobs/"+ch.Job.ID || a.header.Get("ETag") == "" {
		t.Fatalf("%d %v", a.status, a.header)
	}
	if s.Version != "15" || s.Plan != "small" || s.StorageGiB != 10 || s.Instances != 1 || s.Replication != "async" || s.Region != "local" ||
		len(s.Users) != 1 || s.Users[0].Name != "admin" || s.Users[0].Access != "admin" || len(s.Databases) != 1 || s.Databases[0].Owner != "admin" ||
		len(s.TrustedSources) != 2 || s.TrustedSources[0].CIDR != "127.0.0.1/32" {
		t.Fatalf("%+v", s)
	}
	if ch.Job.Kind != "datastore.create" || ch.Job.Object != ch.Datastore.ID || string(ch.Job.Input) != `{"generation":1}` || ch.Job.RequestedBy != "bootstrap" {
		t.Fatalf("%+v", ch.Job)
	}
	if len(ch.Credentials.Password) != 32 || ch.Credentials.Username != "admin" {
		t.Fatalf("%+v", ch.Credentials)
	}
	form, err := p.store.Secret(t.Context(), control.UserSecretID(ch.Datastore.ID, "admin"))
	if err != nil || !strings.HasPrefix(string(form), "SCRAM-SHA-256$") {
		t.Fatalf("%q %v", form, err)
	}
	if m, err := p.store.Secret(t.Context(), control.MemberSecretID(ch.Datastore.ID)); err != nil || len(m) < 32 {
		t.Fatalf("%q %v", m, err)
	}
	for _, path := range []string{"/demo", "/" + ch.Datastore.ID} {
		got := p.ok("GET", stores+path, nil)
		if into[orrery.Datastore](t, got).ID != ch.Datastore.ID {
			t.Fatal(string(got.body))
		}
	}
	if got := p.ok("GET", "/v1/jobs/"+ch.Job.ID, nil); strings.Contains(string(got.body), ch.Credentials.Password) {
		t.Fatal("the job holds the password")
	}
	if strings.Contains(p.log.String(), ch.Credentials.Password) || strings.Contains(p.log.String(), p.token) {
		t.Fatal("the log holds a secret")
	}
}

func TestCreateValkey(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	ch := into[api.Changed](t, p.ok("POST", stores, `{"name":"cache","spec":{"engine":"valkey","instances":3}}`))
	if s := ch.Datastore.Spec; s.Version != "7" || len(s.Databases) != 0 || len(s.Users) != 1 || ch.Credentials.Password == "" {
		t.Fatalf("%+v", s)
	}
	p.refused(400, "databases_not_supported", "", "POST", stores+"/cache/databases", `{"name":"x"}`)
	p.refused(400, "trusted_source_not_enforceable", "cidr", "POST", stores+"/cache/trusted-sources", `{"cidr":"10.0.0.0/8"}`)
}

func TestCreateRefusesBadInput(t *testing.T) {
	p := newPlane(t)
	p.refused(503, "no_hosts", "", "POST", stores, `{"name":"demo","spec":{"engine":"postgres"}}`)
	p.addHost()
	p.refused(503, "catalogue_unknown", "", "POST", stores, `{"name":"demo","spec":{"engine":"postgres","parameters":{"work_mem":"4MB"}}}`)
	p.addCatalogue()
	p.create("taken")
	spec := func(s string) string { return `{"name":"demo","spec":{"engine":"postgres",` + s + `}}` }
	named := func(n string) string { return `{"name":"` + n + `","spec":{"engine":"postgres"}}` }
	for name, tc := range map[string]struct{ body, code, field string }{
		"unknown field":                {`{"name":"demo","size":3,"spec":{"engine":"postgres"}}`, "field_unknown", "size"},
		"unknown field inside":         {spec(`"storage":10`), "field_unknown", "spec.storage"},
		"unknown field in a list":      {spec(`"users":[{"name":"a","access":"admin"},{"name":"b","rights":1}]`), "field_unknown", "spec.users[1].rights"},
		"a field in another case":      {spec(`"Plan":"small"`), "field_unknown", "spec.Plan"},
		"text for a number":            {spec(`"instances":"3"`), "wrong_type", "spec.instances"},
		"a fraction":                   {spec(`"instances":1.5`), "wrong_type", "spec.instances"},
		"a number beyond 64 bits":      {spec(`"storage_gib":1e40`), "wrong_type", "spec.storage_gib"},
		"a number for text":            {spec(`"plan":7`), "wrong_type", "spec.plan"},
		"an object for a list":         {spec(`"users":{}`), "wrong_type", "spec.users"},
		"a number as parameter":        {spec(`"parameters":{"work_mem":4}`), "wrong_type", "spec.parameters.work_mem"},
		"a list as body":               {`[]`, "wrong_type", ""},
		"text as body":                 {`"demo"`, "wrong_type", ""},
		"no JSON":                      {`{"name":`, "json_malformed", ""},
		"two values":                   {named("demo") + `{}`, "json_malformed", ""},
		"a field twice":                {`{"name":"demo","name":"other","spec":{"engine":"postgres"}}`, "field_twice", "name"},
		"not UTF-8":                    {"{\"name\":\"de\xffmo\"}", "json_malformed", ""},
		"no body":                      {"", "body_missing", ""},
		"a field of the server":        {spec(`"restart_seq":4`), "field_read_only", "spec.restart_seq"},
		"name with a space":            {named("my db"), "invalid", "name"},
		"name with an emoji":           {named("db😀"), "invalid", "name"},
		"name with SQL":                {named("x'; DROP TABLE users; --"), "invalid", "name"},
		"name with a path":             {named("../../etc/passwd"), "invalid", "name"},
		"name with a NUL":              {named(`a\u0000b`), "invalid", "name"},
		"name with a line break":       {named(`a\nb`), "invalid", "name"},
		"name too long":                {named(strings.Repeat("a", 41)), "invalid", "name"},
		"no name":                      {`{"spec":{"engine":"postgres"}}`, "invalid", "name"},
		"name taken":                   {named("taken"), "name_taken", "name"},
		"no engine":                    {`{"name":"demo","spec":{}}`, "engine_unknown", "spec.engine"},
		"unknown engine":               {`{"name":"demo","spec":{"engine":"oracle"}}`, "engine_unknown", "spec.engine"},
		"unknown version":              {spec(`"version":"9.6"`), "version_unknown", "spec.version"},
		"version on no host":           {spec(`"version":"17"`), "version_not_installed", "spec.version"},
		"unknown plan":                 {spec(`"plan":"huge"`), "plan_unknown", "spec.plan"},
		"plan beyond every host":       {spec(`"plan":"2xlarge"`), "larger_than_any_host", "spec.plan"},
		"storage beyond every host":    {spec(`"storage_gib":100000`), "larger_than_any_host", "spec.storage_gib"},
		"negative storage":             {spec(`"storage_gib":-5`), "storage_out_of_range", "spec.storage_gib"},
		"unknown region":               {spec(`"region":"mars"`), "region_unknown", "spec.region"},
		"16 instances":                 {spec(`"instances":16`), "instances_out_of_range", "spec.instances"},
		"-1 instances":                 {spec(`"instances":-1`), "instances_out_of_range", "spec.instances"},
		"unknown replication":          {spec(`"replication":"maybe"`), "invalid", "spec.replication"},
		"sync alone":                   {spec(`"replication":"sync"`), "invalid", "spec.replication"},
		"a network that is none":       {spec(`"trusted_sources":[{"cidr":"everyone"}]`), "cidr_malformed", "spec.trusted_sources[0].cidr"},
		"a prefix that is none":        {spec(`"trusted_sources":[{"cidr":"10.0.0.0/33"}]`), "cidr_malformed", "spec.trusted_sources[0].cidr"},
		"host bits":                    {spec(`"trusted_sources":[{"cidr":"10.0.0.0/8"},{"cidr":"10.1.2.3/16"}]`), "cidr_host_bits", "spec.trusted_sources[1].cidr"},
		"a network twice":              {spec(`"trusted_sources":[{"cidr":"10.0.0.1"},{"cidr":"10.0.0.1/32"}]`), "trusted_source_twice", "spec.trusted_sources[1].cidr"},
		"unknown parameter":            {spec(`"parameters":{"work_men":"4MB"}`), "parameter_unknown", "spec.parameters.work_men"},
		"parameter out of range":       {spec(`"parameters":{"work_mem":"1"}`), "parameter_out_of_range", "spec.parameters.work_mem"},
		"parameter of a wrong type":    {spec(`"parameters":{"work_mem":"much"}`), "parameter_invalid", "spec.parameters.work_mem"},
		"parameter of Orrery's":        {spec(`"parameters":{"port":"1"}`), "parameter_managed", "spec.parameters.port"},
		"a user twice":                 {spec(`"users":[{"name":"a","access":"admin"},{"name":"a"}]`), "user_twice", "spec.users[1].name"},
		"a user's name with a NUL":     {spec(`"users":[{"name":"a\u0000b","access":"admin"}]`), "invalid", "spec.users[0].name"},
		"unknown access":               {spec(`"users":[{"name":"a","access":"root"}]`), "invalid", "spec.users[0].access"},
		"no admin":                     {spec(`"users":[{"name":"a"}]`), "admin_wanted", "spec.users"},
		"a user's unknown database":    {spec(`"users":[{"name":"a","access":"admin","databases":["x"]}]`), "database_not_found", "spec.users[0].databases[0]"},
		"a database's unknown owner":   {spec(`"databases":[{"name":"x","owner":"nobody"}]`), "owner_not_admin", "spec.databases[0].owner"},
		"a reserved database":          {spec(`"databases":[{"name":"postgres"}]`), "database_name_reserved", "spec.databases[0].name"},
		"databases of Valkey":          {`{"name":"demo","spec":{"engine":"valkey","databases":[{"name":"x"}]}}`, "databases_not_supported", "spec.databases[0]"},
		"a password too short":         {`{"name":"demo","spec":{"engine":"postgres"},"password":"x"}`, "password_unusable", "password"},
		"a password with a line break": {`{"name":"demo","spec":{"engine":"postgres"},"password":"secret\nsecret"}`, "password_unusable", "password"},
		"a label too long":             {`{"name":"demo","labels":{"` + strings.Repeat("l", 64) + `":""},"spec":{"engine":"postgres"}}`, "invalid", "labels." + strings.Repeat("l", 60) + "…"},
		"deep nesting":                 {strings.Repeat(`{"spec":`, 2000) + "1" + strings.Repeat("}", 2000), "json_too_deep", strings.TrimSuffix(strings.Repeat("spec.", 20), ".") + ".…"},
	} {
		t.Run(name, func(t *testing.T) {
			status := 400
			if tc.code == "name_taken" {
				status = 409
			}
			a := p.do("POST", stores, tc.body)
			pr := a.problem()
			if tc.code == "json_too_deep" {
				tc.field = pr.Field
			}
			if a.status != status || pr.Code != tc.code || pr.Field != tc.field {
				t.Fatalf("got %d %s", a.status, a.body)
			}
		})
	}
	if n := p.store.Datastores.Len(); n != 1 {
		t.Fatalf("%d datastores were made", n)
	}
}

func TestMissingPackageIsNamed(t *testing.T) {
	p := newPlane(t)
	h := p.addHost()
	p.update(func(tx *store.Tx) error {
		h, err := p.store.Hosts.TxGet(tx, h.ID)
		if err != nil {
			return err
		}
		h.Status.Engines = nil
		return p.store.Hosts.Put(tx, h)
	})
	pr := p.refused(503, "engine_not_installed", "", "POST", stores, `{"name":"demo","spec":{"engine":"postgres","version":"15"}}`)
	if !strings.Contains(pr.Hint, "apt-get install postgresql-15") {
		t.Fatal(pr.Hint)
	}
}

func TestBodyOf50MB(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	body := `{"name":"demo","spec":{"engine":"postgres","parameters":{"x":"` + strings.Repeat("y", 50<<20) + `"}}}`
	p.refused(413, "too_large", "", "POST", stores, body)
	p.create("demo") // and nothing is broken
}

func TestIdempotencyKey(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	body := `{"name":"demo","spec":{"engine":"postgres"}}`
	// Ten at once: one is done, all get its answer.
	answers := make([]answer, 10)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = p.do("POST", stores, body, "Idempotency-Key", "k1") })
	}
	wg.Wait()
	shown := 0
	var first api.Changed
	for i, a := range answers {
		if a.status != http.StatusAccepted {
			t.Fatalf("%d %s", a.status, a.body)
		}
		ch := into[api.Changed](t, a)
		if i == 0 {
			first = ch
		}
		if ch.Datastore.ID != first.Datastore.ID || ch.Job.ID != first.Job.ID {
			t.Fatalf("two answers: %s and %s", ch.Job.ID, first.Job.ID)
		}
		replayed := a.header.Get("Idempotency-Replayed") == "true"
		if (ch.Credentials.Password == "") != replayed || (ch.Credentials.Hint == "") == replayed {
			t.Fatalf("replayed %v: %+v", replayed, ch.Credentials)
		}
		if !replayed {
			shown++
		}
	}
	if shown != 1 || p.store.Datastores.Len() != 1 || p.store.Jobs.Len() != 1 {
		t.Fatalf("password shown %d times, %d datastores, %d jobs", shown, p.store.Datastores.Len(), p.store.Jobs.Len())
	}
	p.refused(409, "idempotency_key_reused", "", "POST", stores, strings.Replace(body, "demo", "demo2", 1), "Idempotency-Key", "k1")
	p.refused(409, "name_taken", "name", "POST", stores, body, "Idempotency-Key", "k2")
	p.refused(400, "invalid", "Idempotency-Key", "POST", stores, body, "Idempotency-Key", strings.Repeat("k", 201))
	_, other := p.newToken("admin")
	p.refused(409, "name_taken", "name", "POST", stores, body, "Idempotency-Key", "k1", "Authorization", "Bearer "+other) // another's key is another key
	// The stored record holds neither the key nor a password.
	for _, r := range p.store.Requests.List() {
		if strings.Contains(string(r.Answer), "password\":") || strings.Contains(r.ID, "k1") {
			t.Fatal(string(r.Answer))
		}
	}
	// A refused request leaves the key free.
	p.refused(400, "plan_unknown", "spec.plan", "POST", stores, `{"name":"b","spec":{"engine":"postgres","plan":"x"}}`, "Idempotency-Key", "k3")
	p.ok("POST", stores, `{"name":"b","spec":{"engine":"postgres"}}`, "Idempotency-Key", "k3")
}
