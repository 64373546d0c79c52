package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

// ChangeType says what a Change tells.
type ChangeType string

// The types of change. A watch begins with a Reset, the objects as they are, and Synced; then it goes on with changes.
// When the server no longer has the changes that a broken watch missed, the same begins again from Reset.
const (
	ChangeReset  ChangeType = "reset"  // forget what was known; what is follows
	ChangePut    ChangeType = "put"    // the object is as given
	ChangeDelete ChangeType = "delete" // the object is gone; given as it last was
	ChangeSynced ChangeType = "synced" // all that is has been told
)

// Change is one change of a watched object.
type Change[T any] struct {
	Type     ChangeType
	Revision int64
	Object   *T // of ChangePut and ChangeDelete
}

// silence is how long a watch may say nothing before it is taken for dead. The server says something every 15 s.
const silence = 45 * time.Second

// watch follows a path's changes until ctx ends, the caller stops, or an error comes that trying again does not mend.
// Broken connections are taken up again where they broke.
func watch[T any](ctx context.Context, c *Client, path string, filter url.Values) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		w := watcher[T]{c: c, path: path, filter: filter, yield: yield}
		for {
			err := w.once(ctx)
			switch {
			case w.stopped:
				return
			case ctx.Err() != nil:
				yield(Change[T]{}, context.Cause(ctx))
				return
			case w.revision != 0 && isCode(err, "revision_compacted"):
				w.revision = 0 // too old: begin again with what is
				continue
			case err != nil && !errors.Is(err, errBroken) && !repeatable(request{method: http.MethodGet}, err):
				yield(Change[T]{}, plain(err))
				return
			}
			if err := c.pause(ctx, plain(err), w.backoff.next(err)); err != nil {
				yield(Change[T]{}, err)
				return
			}
		}
	}
}

var errBroken = orrery.Errorf(orrery.KindUnavailable, "the server ended the watch").WithCode("watch_broken")

func isCode(err error, code string) bool {
	e, ok := errors.AsType[*orrery.Error](err)
	return ok && e.Code == code
}

type watcher[T any] struct {
	c        *Client
	path     string
	filter   url.Values
	yield    func(Change[T], error) bool
	stopped  bool
	revision int64 // of the last change seen after the watch was in sync; 0 before
	backoff  backoff
}

// once follows one connection until it breaks.
func (w *watcher[T]) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := url.Values{}
	maps.Copy(q, w.filter)
	q.Set("watch", "true")
	fresh := w.revision == 0
	if !fresh {
		q.Set("revision", strconv.FormatInt(w.revision, 10))
	}
	resp, err := w.c.send(ctx, request{method: http.MethodGet, path: w.path, query: q,
		header: map[string]string{"Accept": "text/event-stream"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if fresh && !w.tell(Change[T]{Type: ChangeReset}) {
		return nil
	}
	alive := time.AfterFunc(silence, cancel)
	defer alive.Stop()
	events := eventReader{lines: bufio.NewReader(resp.Body), heard: func() { alive.Reset(silence) }}
	synced := !fresh
	for {
		e, err := events.next()
		if err != nil {
			return errBroken
		}
		w.backoff.reset()
		ch := Change[T]{Type: ChangeType(e.name), Revision: e.id}
		switch e.name {
		case "put", "delete":
			ch.Object = new(T)
			if err := json.Unmarshal(e.data, ch.Object); err != nil {
				return orrery.Errorf(orrery.KindInternal, "a change of %s cannot be read", w.path).WithCause(err)
			}
		case "synced":
			synced = true
		case "error":
			return problemError(e.data, http.StatusInternalServerError)
		default:
			continue // a newer server may say more
		}
		if synced && e.id > 0 {
			w.revision = e.id
		}
		if !w.tell(ch) {
			return nil
		}
	}
}

func (w *watcher[T]) tell(ch Change[T]) bool {
	w.stopped = w.stopped || !w.yield(ch, nil)
	return !w.stopped
}

// sse is one server-sent event.
type sse struct {
	name string
	id   int64
	data []byte
}

// eventReader reads server-sent events (WHATWG HTML, section 9.2).
type eventReader struct {
	lines *bufio.Reader
	heard func()
}

func (r *eventReader) next() (sse, error) {
	var e sse
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			return e, io.ErrUnexpectedEOF // an event without its empty line is not whole
		}
		r.heard()
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			if e.name != "" || e.data != nil {
				return e, nil
			}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			e.name = value
		case "id":
			e.id, _ = strconv.ParseInt(value, 10, 64)
		case "data":
			if e.data != nil {
				e.data = append(e.data, '\n')
			}
			e.data = append(e.data, value...)
		}
	}
}
