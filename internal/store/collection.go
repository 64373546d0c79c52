package store

import (
	"fmt"
	"iter"

	"github.com/tidwall/btree"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
)

// Object is a pointer to a type that embeds orrery.Meta.
type Object[T any] interface {
	*T
	GetMeta() *orrery.Meta
}

// Collection is all objects of one type.
//
// Reads come from memory, never block on etcd, and always show this Store's own finished writes. What they return is
// shared and must not be changed; TxGet and TxBy give private copies.
type Collection[T any, P Object[T]] struct {
	s      *Store
	name   string
	noun   string // for messages
	schema schema[T]

	// Guarded by s.mu.
	byID  map[string]*entry[T]
	order *btree.BTreeG[*entry[T]]
	index map[string]*btree.BTreeG[posting[T]]
}

// schema is what a collection is told of its type.
type schema[T any] struct {
	unique   bool // names are unique within the project, enforced in etcd
	indexes  indexes[T]
	upgrades []upgrade // from version i+1 to i+2 of the stored form
}

type indexes[T any] map[string]func(*T) []string

// entry is one object as the cache holds it. It is never changed, only replaced.
type entry[T any] struct {
	id      string
	obj     *T // nil where problem is not
	rev     int64
	version int // of the stored form
	lease   clientv3.LeaseID
	problem error // why it cannot be read
}

type posting[T any] struct {
	key, id string
	obj     *T
}

func define[T any, P Object[T]](s *Store, name, noun string, sch schema[T]) *Collection[T, P] {
	locks := btree.Options{NoLocks: true} // s.mu is the lock
	c := &Collection[T, P]{
		s: s, name: name, noun: noun, schema: sch,
		byID:  map[string]*entry[T]{},
		order: btree.NewBTreeGOptions(func(a, b *entry[T]) bool { return a.id < b.id }, locks),
		index: make(map[string]*btree.BTreeG[posting[T]], len(sch.indexes)),
	}
	for index := range sch.indexes {
		c.index[index] = btree.NewBTreeGOptions(func(a, b posting[T]) bool {
			return a.key < b.key || a.key == b.key && a.id < b.id
		}, locks)
	}
	s.tables[name] = c
	return c
}

// Name is the collection's name, as in Change.Collection.
func (c *Collection[T, P]) Name() string { return c.name }

// Get gives the object with the ID. It is shared: do not change it.
func (c *Collection[T, P]) Get(id string) (*T, bool) {
	c.s.mu.RLock()
	e := c.byID[id]
	c.s.mu.RUnlock()
	if e == nil || e.obj == nil {
		return nil, false
	}
	return e.obj, true
}

// Len is the number of objects.
func (c *Collection[T, P]) Len() int {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	return len(c.byID)
}

// List gives all objects in the order of their IDs. The slice is the caller's, the objects are shared.
func (c *Collection[T, P]) List() []*T {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	out := make([]*T, 0, len(c.byID))
	c.order.Scan(func(e *entry[T]) bool {
		if e.obj != nil {
			out = append(out, e.obj)
		}
		return true
	})
	return out
}

// By gives the objects that an index has under a key, in the order of their IDs, at a cost that is proportional to
// their number. The slice is the caller's, the objects are shared. An index that the collection does not have is a
// fault of the program, and panics.
func (c *Collection[T, P]) By(index, key string) []*T {
	tree := c.tree(index)
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	var out []*T
	tree.Ascend(posting[T]{key: key}, func(p posting[T]) bool {
		if p.key != key {
			return false
		}
		out = append(out, p.obj)
		return true
	})
	return out
}

// CountBy is the number of objects that By would give, at the same cost.
func (c *Collection[T, P]) CountBy(index, key string) int {
	tree := c.tree(index)
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	n := 0
	tree.Ascend(posting[T]{key: key}, func(p posting[T]) bool {
		if p.key == key {
			n++
		}
		return p.key == key
	})
	return n
}

// After iterates over the objects in the order of their IDs, beginning behind the ID after: a page costs what the page
// holds. Objects that come or go meanwhile may or may not be seen.
func (c *Collection[T, P]) After(after string) iter.Seq[*T] {
	return pages(after, func(after string, page []*T) []*T {
		c.s.mu.RLock()
		defer c.s.mu.RUnlock()
		c.order.Ascend(&entry[T]{id: after}, func(e *entry[T]) bool {
			if e.id > after && e.obj != nil {
				page = append(page, e.obj)
			}
			return len(page) < cap(page)
		})
		return page
	}, func(o *T) string { return P(o).GetMeta().ID })
}

// Prefix iterates over the objects whose key in the index begins with prefix, in the order of key and ID, beginning
// behind the key after, as in Prefix("name", "<project ID>/", "<project ID>/<last name of the page before>"). Meant for
// indexes with one object for each key.
func (c *Collection[T, P]) Prefix(index, prefix, after string) iter.Seq2[string, *T] {
	tree := c.tree(index)
	return func(yield func(string, *T) bool) {
		page := make([]posting[T], 0, pageSize)
		for {
			page = page[:0]
			c.s.mu.RLock()
			tree.Ascend(posting[T]{key: max(prefix, after)}, func(p posting[T]) bool {
				if len(p.key) < len(prefix) || p.key[:len(prefix)] != prefix {
					return false
				}
				if p.key > after {
					page = append(page, p)
				}
				return len(page) < cap(page)
			})
			c.s.mu.RUnlock()
			for _, p := range page {
				if !yield(p.key, p.obj) {
					return
				}
				after = p.key
			}
			if len(page) < cap(page) {
				return
			}
		}
	}
}

// pageSize bounds how long an iteration holds up the writer.
const pageSize = 256

func pages[T any](after string, fill func(after string, page []*T) []*T, id func(*T) string) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		page := make([]*T, 0, pageSize)
		for {
			page = fill(after, page[:0])
			for _, o := range page {
				if !yield(o) {
					return
				}
				after = id(o)
			}
			if len(page) < cap(page) {
				return
			}
		}
	}
}

func (c *Collection[T, P]) tree(index string) *btree.BTreeG[posting[T]] {
	tree, ok := c.index[index]
	if !ok {
		//nolint:forbidigo // an index's name is part of the program, not input
		panic(fmt.Sprintf("collection %s has no index %q", c.name, index))
	}
	return tree
}
