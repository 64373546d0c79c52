package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/orrery-db/orrery"
)

// Topic names what is watched: an object (Index is empty, Key an ID), the objects that an index has under a key, or a
// whole collection (both empty).
type Topic struct{ Collection, Index, Key string }

// Change is a change of one object. Old and New are pointers to it as it was and is, shared and not to be changed; nil
// where it is new or gone.
type Change struct {
	Collection, ID string
	Revision       int64
	Old, New       any
}

// Feed gives changes as they happen.
type Feed interface {
	// Revision of the state that reads show.
	Revision() int64
	// Watch follows topics from behind a revision on, until ctx ends. The error has the code revision_compacted where
	// the changes since then are no longer known.
	Watch(ctx context.Context, from int64, topics ...Topic) (Stream, error)
	// TokenTopic is where changes of a principal's token are told.
	TokenTopic(id string) Topic
}

// Stream is an open watch.
type Stream interface {
	// Next waits for the next change. ok is false when ctx ended, timer fired, or nothing comes any more (over).
	Next(ctx context.Context, timer <-chan time.Time) (ch Change, ok, over bool)
}

const (
	heartbeat = 15 * time.Second
	// writeTime is how long a client may take nothing from us before its watch is ended.
	writeTime = 10 * time.Second
)

// watchSpec is what one watch follows. Of what changes on the topic it tells the objects of type T that match.
type watchSpec[T any] struct {
	topic Topic
	list  func() ([]*T, error) // what is now
	match func(*T) bool        // nil: all
}

var watchParams = []queryParam{
	{"watch", "Answer with server-sent events: put and delete as they happen, each with the object, and synced when all that is has been told."},
	{"revision", "With watch: go on from this revision, the id of an earlier event, instead of telling what is. Changes at that very revision may be told again."},
}

// wantsWatch tells whether a GET asks for a watch, and refuses what cannot go with it.
func (c *call) wantsWatch(fixedFilters ...string) (bool, error) {
	if !c.given("watch") {
		if c.given("revision") {
			return false, orrery.Invalid("revision", "a revision goes with watch only")
		}
		return false, nil
	}
	switch c.param("watch") {
	case "false", "0":
		return false, nil
	case "", "true", "1":
	default:
		return false, orrery.Invalid("watch", "%q is neither true nor false", orrery.Shorten(c.param("watch"), 20))
	}
	for name := range c.values {
		ok := name == "watch" || name == "revision"
		for _, f := range fixedFilters {
			ok = ok || name == f
		}
		if !ok {
			return false, orrery.Invalid(name, "this parameter cannot go with watch").WithCode("query_unknown")
		}
	}
	return true, nil
}

// watch serves a watch until one side ends it.
func watch[T any, P object[T]](c *call, s watchSpec[T]) error {
	from, err := c.revision()
	if err != nil {
		return err
	}
	if err := c.a.openWatch(c.principal.ID); err != nil {
		return err
	}
	defer c.a.closeWatch(c.principal.ID)
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	defer context.AfterFunc(c.a.stopping, cancel)()

	fresh := from == 0
	if fresh {
		from = c.a.Backend.Revision()
	} else {
		// One transaction may have made several changes: the last revision seen need not have been seen whole. Nothing
		// happens at revision 1, and 0 would mean now.
		from = max(from-1, 1)
	}
	// The list is read after the revision and before the watch begins at it, so that nothing falls between.
	var items []*T
	if fresh {
		if items, err = s.list(); err != nil {
			return err
		}
	}
	stream, err := c.a.Backend.Watch(ctx, from, s.topic, c.a.Backend.TokenTopic(c.principal.ID))
	if err != nil {
		return err
	}
	e := c.startEvents()
	shown, ok := tellAll[T, P](c.a, e, items, from)
	if !ok || fresh && !e.event("synced", from, []byte("{}")) || !e.flush() {
		return nil
	}
	return follow[T, P](ctx, c, e, s, stream, shown)
}

// tellAll tells what is. It gives the revisions of objects that are newer than from already: their changes are not to
// be told again.
func tellAll[T any, P object[T]](a *API, e *eventWriter, items []*T, from int64) (shown map[string]int64, ok bool) {
	shown = map[string]int64{}
	for _, item := range items {
		m := P(item).GetMeta()
		if m.Revision > from {
			shown[m.ID] = m.Revision
		}
		data, err := encode[T, P](a, item)
		if err != nil || !e.event("put", m.Revision, data) {
			return nil, false
		}
	}
	return shown, true
}

func follow[T any, P object[T]](ctx context.Context, c *call, e *eventWriter, s watchSpec[T], stream Stream, shown map[string]int64) error {
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	for {
		ch, ok, over := stream.Next(ctx, beat.C)
		switch {
		case over && c.ctx().Err() == nil && c.a.stopping.Err() == nil:
			e.end("too_slow", "this watch fell too far behind; resume it from the last revision")
			return nil
		case ctx.Err() != nil:
			if c.a.stopping.Err() != nil {
				e.end("server_stopping", "the server is stopping; resume from the last revision")
			}
			return nil
		case !ok: // time for a sign of life
			if err := c.a.Backend.StillAlive(c.principal); err != nil {
				e.end("token_invalid", "the token is no longer valid")
				return nil
			}
			if !e.comment() || !e.flush() {
				return nil
			}
			beat.Reset(heartbeat)
			continue
		}
		if ch.Collection != s.topic.Collection {
			if err := c.a.Backend.StillAlive(c.principal); err != nil {
				e.end("token_invalid", "the token is no longer valid")
				return nil
			}
			continue
		}
		if ch.Revision <= shown[ch.ID] {
			continue
		}
		if !tell[T, P](c.a, e, s, ch) || !e.flush() {
			return nil
		}
	}
}

// tell writes one change. An object that no longer matches is told as deleted.
func tell[T any, P object[T]](a *API, e *eventWriter, s watchSpec[T], ch Change) bool {
	next, _ := ch.New.(*T)
	last, _ := ch.Old.(*T)
	matches := func(obj *T) bool { return obj != nil && (s.match == nil || s.match(obj)) }
	name, obj := "put", next
	switch {
	case matches(next):
	case matches(last):
		name, obj = "delete", last
	default:
		return true
	}
	data, err := encode[T, P](a, obj)
	return err == nil && e.event(name, ch.Revision, data)
}

// revision reads where to resume from: the query, or the header that browsers send.
func (c *call) revision() (int64, error) {
	s := c.param("revision")
	if s == "" {
		s = c.header("Last-Event-ID")
	}
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, orrery.Invalid("revision", "%q is not a revision", orrery.Shorten(s, 30))
	}
	return n, nil
}

func (a *API) openWatch(principal string) error {
	a.watchMu.Lock()
	defer a.watchMu.Unlock()
	switch {
	case a.stopping.Err() != nil:
		return orrery.Errorf(orrery.KindUnavailable, "the server is stopping")
	case a.watches[principal] >= a.MaxWatchesPerPrincipal:
		return orrery.Errorf(orrery.KindRateLimited, "this token has %d watches open, and may not have more", a.watches[principal]).
			WithCode("too_many_watches").WithHint("Close some, or watch a whole list instead of each object.")
	case a.open >= a.MaxWatches:
		return orrery.Errorf(orrery.KindRateLimited, "the server has %d watches open, and takes no more", a.open).
			WithCode("too_many_watches").WithHint("Try another server of the plane, or later.")
	}
	a.watches[principal]++
	a.open++
	return nil
}

func (a *API) closeWatch(principal string) {
	a.watchMu.Lock()
	defer a.watchMu.Unlock()
	a.open--
	if a.watches[principal]--; a.watches[principal] == 0 {
		delete(a.watches, principal)
	}
}

// eventWriter writes server-sent events (WHATWG HTML, section 9.2). Its methods give false when the client is gone.
type eventWriter struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (c *call) startEvents() *eventWriter {
	e := &eventWriter{w: c.w, rc: http.NewResponseController(c.w)}
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")      // or a proxy would hold events back
	_ = e.rc.SetReadDeadline(time.Time{}) // the server's own deadlines are for requests that end
	_ = e.rc.SetWriteDeadline(now().Add(writeTime))
	c.w.WriteHeader(http.StatusOK)
	return e
}

func (e *eventWriter) event(name string, revision int64, data []byte) bool {
	b := make([]byte, 0, len(data)+64)
	b = append(append(b, "event: "...), name...)
	if revision > 0 {
		b = strconv.AppendInt(append(b, "\nid: "...), revision, 10)
	}
	b = append(append(append(b, "\ndata: "...), data...), "\n\n"...) // JSON has no line breaks
	return e.write(b)
}

func (e *eventWriter) comment() bool { return e.write([]byte(":\n\n")) }

// end says why the watch ends.
func (e *eventWriter) end(code, message string) {
	data, _ := json.Marshal(map[string]string{"code": code, "message": message}) // strings cannot fail
	_ = e.event("end", 0, data) && e.flush()
}

func (e *eventWriter) write(b []byte) bool {
	_ = e.rc.SetWriteDeadline(now().Add(writeTime))
	_, err := e.w.Write(b)
	return err == nil
}

func (e *eventWriter) flush() bool { return e.rc.Flush() == nil }
