package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

// script serves a watch: each connection writes the next text and is cut; the last one stays open.
func script(t *testing.T, asked *[]string, texts ...string) *client.Client {
	t.Helper()
	n := 0
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL.RawQuery)
		text := texts[n]
		n++
		if strings.HasPrefix(text, "{") {
			problem(w, http.StatusGone, text)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, text)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		if n == len(texts) {
			<-r.Context().Done()
		}
	})
}

func event(name string, revision int, data string) string {
	return fmt.Sprintf("event: %s\nid: %d\ndata: %s\n\n", name, revision, data)
}

func TestWatchResumes(t *testing.T) {
	var asked []string
	c := script(t, &asked,
		event("put", 5, `{"name":"a"}`)+event("synced", 9, `{}`)+": heartbeat\n\n"+event("put", 12, `{"name":"b"}`)+"event: put\nid: 13\nda",
		event("delete", 14, `{"name":"a"}`))
	var got []string
	for ch, err := range c.WatchDatastores(t.Context(), "default") {
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%s@%d", ch.Type, ch.Revision)
		if ch.Object != nil {
			s += ":" + ch.Object.Name
		}
		got = append(got, s)
		if ch.Type == client.ChangeDelete {
			break
		}
	}
	if want := []string{"reset@0", "put@5:a", "synced@9", "put@12:b", "delete@14:a"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if want := []string{"watch=true", "revision=12&watch=true"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
}

func TestWatchBeginsAnewWhenTooOld(t *testing.T) {
	var asked []string
	c := script(t, &asked,
		event("synced", 9, `{}`),
		`{"kind":"conflict","code":"revision_compacted","detail":"too old"}`,
		event("put", 40, `{"name":"b"}`)+event("synced", 41, `{}`))
	var got []client.ChangeType
	for ch, err := range c.WatchDatastores(t.Context(), "default") {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, ch.Type); len(got) == 5 {
			break
		}
	}
	want := []client.ChangeType{client.ChangeReset, client.ChangeSynced, client.ChangeReset, client.ChangePut, client.ChangeSynced}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if want := []string{"watch=true", "revision=9&watch=true", "watch=true"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
}

func TestWatchThatBreaksBeforeItIsInSyncBeginsAnew(t *testing.T) {
	var asked []string
	c := script(t, &asked, event("put", 5, `{"name":"a"}`), event("synced", 9, `{}`))
	for ch, err := range c.WatchDatastores(t.Context(), "default") {
		if err != nil {
			t.Fatal(err)
		}
		if ch.Type == client.ChangeSynced {
			break
		}
	}
	if want := []string{"watch=true", "watch=true"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
}

func TestWatchEndsWithRefusalAndContext(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { problem(w, 401, `{}`) })
	for _, err := range c.WatchDatastores(t.Context(), "default") {
		if orrery.KindOf(err) != orrery.KindUnauthorized {
			t.Fatalf("got %v", err)
		}
	}
	var asked []string
	c = script(t, &asked, event("synced", 9, `{}`))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for ch, err := range c.WatchDatastores(ctx, "default") {
		if last = err; ch.Type == client.ChangeSynced {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Fatalf("got %v", last)
	}
}

func TestWaitJob(t *testing.T) {
	for name, tc := range map[string]struct {
		end    string
		want   orrery.JobState
		failed bool
	}{
		"succeeds": {`{"id":"jo-1","state":"succeeded"}`, orrery.JobSucceeded, false},
		"fails":    {`{"id":"jo-1","state":"failed","error":{"code":"x","message":"no room"}}`, orrery.JobFailed, true},
		"is stuck": {`{"id":"jo-1","state":"stuck","alarm":"look"}`, orrery.JobStuck, true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			c := script(t, &asked, event("put", 5, `{"id":"jo-1","state":"running"}`)+event("synced", 6, `{}`), event("put", 7, tc.end))
			var seen []orrery.JobState
			j, err := c.WaitJob(t.Context(), "jo-1", func(j *orrery.Job) { seen = append(seen, j.State) })
			if j == nil || j.State != tc.want || errors.As(err, new(*client.JobFailed)) != tc.failed || (err != nil) != tc.failed {
				t.Fatalf("got %+v, %v", j, err)
			}
			if want := []orrery.JobState{orrery.JobRunning, tc.want}; !slices.Equal(seen, want) {
				t.Fatalf("saw %v, want %v", seen, want)
			}
		})
	}
}
