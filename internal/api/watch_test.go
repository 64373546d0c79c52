package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/store"
)

type event struct {
	name string
	id   int64
	data string
}

// openWatch follows a path; the channel is closed when the server ends it.
func (p *plane) openWatch(path, token string) (<-chan event, func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.srv.URL+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := p.srv.Client().Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		p.t.Fatalf("%s: %d", path, resp.StatusCode)
	}
	events := make(chan event, 1000)
	go func() {
		defer resp.Body.Close()
		defer close(events)
		var e event
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			key, value, _ := strings.Cut(sc.Text(), ": ")
			switch key {
			case "event":
				e.name = value
			case "id":
				e.id, _ = strconv.ParseInt(value, 10, 64)
			case "data":
				e.data = value
			case "":
				events <- e
				e = event{}
			}
		}
	}()
	return events, cancel
}

func (p *plane) next(events <-chan event) event {
	p.t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			p.t.Fatal("the watch ended")
		}
		return e
	case <-time.After(10 * time.Second):
		p.t.Fatal("nothing came")
	}
	return event{}
}

// expect reads events as "name of the event:name of the object".
func (p *plane) expect(events <-chan event, want ...string) (last event) {
	p.t.Helper()
	for _, w := range want {
		last = p.next(events)
		var o struct{ Name, Kind, Code string }
		_ = json.Unmarshal([]byte(last.data), &o)
		if got := last.name + ":" + o.Name + o.Kind + o.Code; got != w {
			p.t.Fatalf("got %s, want %s (%s)", got, w, last.data)
		}
	}
	return last
}

func TestWatch(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	id := p.create("demo").Datastore.ID
	list, _ := p.openWatch(stores+"?watch", p.token)
	p.expect(list, "put:demo", "synced:")
	one, _ := p.openWatch(demo+"?watch=true", p.token)
	p.expect(one, "put:demo", "synced:")
	jobs, _ := p.openWatch("/v1/jobs?watch&object="+id, p.token)
	p.expect(jobs, "put:datastore.create", "synced:")

	p.create("other")
	p.expect(list, "put:other")
	p.ok("PATCH", demo, `{"spec":{"instances":2}}`)
	e := p.expect(one, "put:demo")
	var ds orrery.Datastore
	if err := json.Unmarshal([]byte(e.data), &ds); err != nil || ds.Generation != 2 || ds.Revision != e.id {
		t.Fatalf("%v %d %d", err, ds.Revision, e.id)
	}
	p.expect(list, "put:demo")
	p.expect(jobs, "put:datastore.update")
	p.update(func(tx *store.Tx) error { return p.store.Datastores.Delete(tx, id) })
	p.expect(one, "delete:demo")
	last := p.expect(list, "delete:demo")

	// What was missed is told to who comes back, from the revision last seen; that one again.
	p.create("third")
	back, _ := p.openWatch(fmt.Sprintf("%s?watch&revision=%d", stores, e.id), p.token)
	p.expect(back, "put:demo", "delete:demo", "put:third")
	back, _ = p.openWatch(fmt.Sprintf("%s?watch&revision=%d", stores, last.id), p.token)
	p.expect(back, "delete:demo", "put:third")
	p.refused(400, "revision_compacted", "", "GET", stores+"?watch&revision=1", nil)
	p.refused(400, "invalid", "revision", "GET", stores+"?watch&revision=x", nil)
	p.refused(404, "datastore_not_found", "", "GET", stores+"/nothing?watch", nil)
}

func TestSeveralChangesOfOneRevisionAreNotLost(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	ds := p.create("demo").Datastore
	path := demo + "/instances?watch"
	events, stop := p.openWatch(path, p.token)
	p.expect(events, "synced:")
	p.update(func(tx *store.Tx) error {
		for i := range 3 {
			in := &orrery.Instance{Meta: orrery.Meta{ID: orrery.NewID("in"), Name: fmt.Sprintf("demo-%d", i+1), Project: ds.Project}, Spec: orrery.InstanceSpec{Datastore: ds.ID}}
			if err := p.store.Instances.Insert(tx, in); err != nil {
				return err
			}
		}
		return nil
	})
	cut := p.next(events) // and then the connection breaks
	stop()
	back, _ := p.openWatch(fmt.Sprintf("%s&revision=%d", path, cut.id), p.token)
	names := map[string]bool{}
	for range 3 {
		names[p.next(back).data] = true
	}
	if len(names) != 3 {
		t.Fatalf("%d of 3", len(names))
	}
}

func TestWatchEndsWithItsToken(t *testing.T) {
	p := newPlane(t)
	id, viewer := p.newToken(iam.RoleViewer)
	events, _ := p.openWatch("/v1/events?watch", viewer)
	p.expect(events, "synced:")
	p.ok("DELETE", "/v1/tokens/"+id, nil)
	p.expect(events, "end:token_invalid")
	if _, open := <-events; open {
		t.Fatal("it goes on")
	}
}

func TestWatchesAreLimited(t *testing.T) {
	p := newPlane(t, func(c *api.Config) { c.MaxWatchesPerPrincipal, c.MaxWatches = 3, 4 })
	_, viewer := p.newToken(iam.RoleViewer)
	var stops []func()
	for range 3 {
		events, stop := p.openWatch("/v1/jobs?watch", p.token)
		p.expect(events, "synced:")
		stops = append(stops, stop)
	}
	pr := p.refused(429, "too_many_watches", "", "GET", "/v1/jobs?watch", nil)
	if !strings.Contains(pr.Detail, "3") || pr.Hint == "" {
		t.Fatalf("%+v", pr)
	}
	events, _ := p.openWatch("/v1/jobs?watch", viewer)
	p.expect(events, "synced:")
	p.refused(429, "too_many_watches", "", "GET", "/v1/jobs?watch", nil, "Authorization", "Bearer "+viewer)
	p.ok("GET", "/v1/jobs", nil) // everything else goes on
	stops[0]()
	deadline := time.Now().Add(10 * time.Second)
	for p.do("GET", "/v1/status", nil); ; {
		var s api.Status
		_ = json.Unmarshal(p.ok("GET", "/v1/status", nil).body, &s)
		if s.Watches == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d watches are counted", s.Watches)
		}
	}
	events, _ = p.openWatch("/v1/jobs?watch", p.token)
	p.expect(events, "synced:")
}

func TestSlowWatcherIsCutOff(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	id := p.create("demo").Datastore.ID
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, p.srv.URL+demo+"?watch", nil)
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := p.srv.Client().Do(req) // and its body is not read
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for i := range 450 {
		p.update(func(tx *store.Tx) error {
			ds, err := p.store.Datastores.TxGet(tx, id)
			if err != nil {
				return err
			}
			ds.Status.Message = fmt.Sprint(i, strings.Repeat("x", 40_000))
			return p.store.Datastores.Put(tx, ds)
		})
	}
	body := bufio.NewReader(resp.Body)
	for {
		line, err := body.ReadString('\n')
		if strings.Contains(line, "too_slow") {
			break
		}
		if err != nil {
			t.Fatalf("ended without a word: %v", err)
		}
	}
}
