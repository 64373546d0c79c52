package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/orrery-db/orrery"
)

// maxEncoded bounds the bytes that encodedObjects holds. It is emptied when they are reached, which costs one encoding
// of each object that is asked for again.
const maxEncoded = 48 << 20

// encodedObjects keeps the JSON of objects that the backend hands out shared and unchanged. An object that changed is
// another pointer, so that nothing has to be told of changes.
type encodedObjects struct {
	byID  sync.Map // ID → *encodedObject
	bytes atomic.Int64
}

type encodedObject struct {
	of   any // the pointer that was encoded
	json []byte
}

// object is what the backend shares: a pointer to a type that embeds orrery.Meta.
type object[T any] interface {
	*T
	GetMeta() *orrery.Meta
}

func encode[T any, P object[T]](a *API, obj *T) ([]byte, error) {
	id := P(obj).GetMeta().ID
	if v, ok := a.encoded.byID.Load(id); ok {
		if e, ok := v.(*encodedObject); ok && e.of == any(obj) {
			return e.json, nil
		}
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", id, err)
	}
	if a.encoded.bytes.Add(int64(len(data))) > maxEncoded {
		a.encoded.byID.Clear()
		a.encoded.bytes.Store(int64(len(data)))
	}
	if v, replaced := a.encoded.byID.Swap(id, &encodedObject{obj, data}); replaced {
		if e, ok := v.(*encodedObject); ok {
			a.encoded.bytes.Add(-int64(len(e.json)))
		}
	}
	return data, nil
}

// sendObject answers a GET with an object that the backend shares.
func sendObject[T any, P object[T]](c *call, obj *T) error {
	tag := etag(P(obj).GetMeta())
	c.w.Header()["Etag"] = []string{tag}
	if c.r.Header["If-None-Match"] != nil && c.header("If-None-Match") == tag {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	data, err := encode[T, P](c.a, obj)
	if err != nil {
		return err
	}
	c.write(http.StatusOK, data)
	return nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }} // scratch space, no state

// sendPage answers with a page of objects that the backend shares.
func sendPage[T any, P object[T]](c *call, o ListOptions, page Page[T]) error {
	buf, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := (*buf)[:0]
	b = append(b, `{"items":[`...)
	for i, item := range page.Items {
		data, err := encode[T, P](c.a, item)
		if err != nil {
			return err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, data...)
	}
	b = append(b, ']')
	if page.More && len(page.Items) > 0 {
		b = append(b, `,"next_cursor":"`...) // base64 needs no escaping
		b = append(b, o.nextCursor(P(page.Items[len(page.Items)-1]).GetMeta())...)
		b = append(b, '"')
	}
	if page.Revision > 0 {
		b = append(b, `,"revision":`...)
		b = strconv.AppendInt(b, page.Revision, 10)
	}
	b = append(b, '}')
	*buf = b
	c.write(http.StatusOK, b)
	return nil
}

// sendList pages through what is not stored by itself. name gives each item's key.
func sendList[T any](c *call, items []*T, revision int64, name func(*T) string) error {
	o, err := listOptions(c.values, "name", nil)
	if err != nil {
		return err
	}
	type named struct {
		orrery.Meta
		item *T
	}
	all := make([]*named, len(items))
	for i, item := range items {
		// The ID keeps the given order where it means something and the name does not.
		all[i] = &named{orrery.Meta{Name: name(item), ID: fmt.Sprintf("%08d", i)}, item}
	}
	page := Select(all, o, revision, func(n *named) *orrery.Meta { return &n.Meta })
	out := listBody[*T]{Items: make([]*T, 0, len(page.Items)), Revision: revision}
	for _, n := range page.Items {
		out.Items = append(out.Items, n.item)
	}
	if page.More {
		out.NextCursor = o.nextCursor(&page.Items[len(page.Items)-1].Meta)
	}
	return c.send(http.StatusOK, out)
}
