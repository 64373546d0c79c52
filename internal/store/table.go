package store

import (
	"reflect"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// table is what the untyped parts of the Store see of a Collection. Methods that say so want s.mu held.
type table interface {
	// prepare decodes what etcd holds, outside the lock.
	prepare(id string, kv *mvccpb.KeyValue) (prepared any, problem error)
	// swap puts a prepared entry in place, or removes where it is nil. It wants s.mu held for writing.
	swap(id string, prepared any) (old, new any)
	// modRevision is that of the cached entry, 0 where there is none.
	modRevision(id string) int64
	// ids lists what is cached. It wants s.mu held.
	ids() []string
	// stored is the stored form of an object.
	stored(obj any) []byte
	// topics yields every topic that a change belongs to.
	topics(ch *Change, yield func(Topic))
}

// Keys below the prefix:
//
//	o/<collection>/<id>    an object
//	u/<collection>/<name>  the ID of the object that has the unique name
//	meta/<what>            see snapshot.go
const (
	objectSpace = "/o/"
	nameSpace   = "/u/"
	metaSpace   = "/meta/"
)

func (c *Collection[T, P]) key(id string) string {
	return c.s.cfg.Prefix + objectSpace + c.name + "/" + id
}

func (c *Collection[T, P]) nameKey(name string) string {
	return c.s.cfg.Prefix + nameSpace + c.name + "/" + name
}

// tableOf finds the collection and the ID of an object's key. Keys of other spaces, and of collections that only a
// newer version knows, have none.
func (s *Store) tableOf(key string) (t table, collection, id string) {
	rest, ok := strings.CutPrefix(key, s.cfg.Prefix+objectSpace)
	if !ok {
		return nil, "", ""
	}
	collection, id, _ = strings.Cut(rest, "/")
	return s.tables[collection], collection, id
}

func (c *Collection[T, P]) prepare(id string, kv *mvccpb.KeyValue) (any, error) {
	e := c.decode(id, kv)
	return e, e.problem
}

func (c *Collection[T, P]) swap(id string, prepared any) (before, after any) {
	was := c.byID[id]
	now, _ := prepared.(*entry[T])
	if was != nil && was.obj != nil {
		before = was.obj
	}
	if now != nil && now.obj != nil {
		after = now.obj
	}
	if now == nil {
		delete(c.byID, id)
		if was != nil {
			c.order.Delete(was)
		}
	} else {
		c.byID[id] = now
		c.order.Set(now)
	}
	for name, keys := range c.schema.indexes {
		tree := c.index[name]
		if was != nil && was.obj != nil {
			for _, key := range keys(was.obj) {
				tree.Delete(posting[T]{key: key, id: id})
			}
		}
		if now != nil && now.obj != nil {
			for _, key := range keys(now.obj) {
				tree.Set(posting[T]{key: key, id: id, obj: now.obj})
			}
		}
	}
	return before, after
}

func (c *Collection[T, P]) modRevision(id string) int64 {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	if e := c.byID[id]; e != nil {
		return e.rev
	}
	return 0
}

func (c *Collection[T, P]) stored(obj any) []byte {
	data, err := c.encode(clone(obj.(*T))) // a copy, because encode takes the revision out
	if err != nil {
		return nil // has no stored form, and so was never stored
	}
	return data
}

func (c *Collection[T, P]) ids() []string {
	out := make([]string, 0, len(c.byID))
	for id := range c.byID {
		out = append(out, id)
	}
	return out
}

// sameObject tells whether b, a private copy, is like a but for when it was written.
func sameObject[T any, P Object[T]](a, b *T) bool {
	ma, mb := P(a).GetMeta(), P(b).GetMeta()
	updated, revision := mb.UpdatedAt, mb.Revision
	mb.UpdatedAt, mb.Revision = ma.UpdatedAt, ma.Revision
	same := reflect.DeepEqual(a, b)
	mb.UpdatedAt, mb.Revision = updated, revision
	return same
}
