package store

import (
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
)

// Tx is one transaction: what fn in Update reads and writes. Nothing is sent before fn has returned. It is used by one
// goroutine and is worthless once fn has returned.
type Tx struct {
	s         *Store
	now       time.Time
	items     map[string]item   // by key
	order     []string          // keys of written items, in the order of first writing
	names     map[string]string // of unique names that the transaction has given, and to which ID
	essential bool
}

// item is one object in a transaction.
type item interface {
	// compared is the revision that the object must have at commit; 0: it must not exist.
	compared() int64
	// op gives what to write; false where there is nothing.
	op(tx *Tx) (operation, bool, error)
	// written is told of success.
	written(revision int64)
}

// operation is one write of a transaction.
type operation struct {
	key    string
	value  []byte // of a put
	delete bool
	base   int64 // the object's revision before
	lease  clientv3.LeaseID
	// sheds: the operation is refused while the disk is low.
	sheds bool
	// claims and frees are keys of unique names with their objects' IDs.
	claims, frees string
	id            string
}

func (s *Store) newTx() *Tx {
	// Without the monotonic clock, and of the precision that JSON and people keep.
	return &Tx{s: s, now: time.Now().UTC().Round(0), items: map[string]item{}, names: map[string]string{}}
}

// Essential marks a transaction that finishes or frees what is under way, such as a job's checkpoint or an observer's
// status: it is let through while the disk is low, when new mutations are refused. Transactions that only delete or
// lease are let through anyway.
func (tx *Tx) Essential() { tx.essential = true }

// Now is the time that the transaction writes as CreatedAt and UpdatedAt.
func (tx *Tx) Now() time.Time { return tx.now }

type itemState int

const (
	itemRead itemState = iota
	itemInsert
	itemPut
	itemDelete
	itemGone // inserted and deleted within the transaction
)

// txItem is one object of type T in a transaction.
type txItem[T any, P Object[T]] struct {
	c      *Collection[T, P]
	id     string
	base   *entry[T] // as the cache had it; nil where it was absent
	obj    *T        // the private copy
	state  itemState
	leased bool
	queued bool
}

// item finds the object in the transaction, reading it where it was not yet.
func (c *Collection[T, P]) item(tx *Tx, id string) (*txItem[T, P], error) {
	key := c.key(id)
	if it, ok := tx.items[key]; ok {
		return it.(*txItem[T, P]), nil
	}
	c.s.mu.RLock()
	e := c.byID[id]
	c.s.mu.RUnlock()
	return c.itemOf(tx, key, id, e)
}

func (c *Collection[T, P]) itemOf(tx *Tx, key, id string, e *entry[T]) (*txItem[T, P], error) {
	it := &txItem[T, P]{c: c, id: id, base: e}
	if e != nil {
		if e.problem != nil {
			return nil, e.problem
		}
		it.obj = clone(e.obj)
	}
	tx.items[key] = it
	return it, nil
}

func (it *txItem[T, P]) there() bool {
	return it.obj != nil && it.state != itemDelete && it.state != itemGone
}

// TxGet gives a private copy of an object as the transaction sees it; the same copy each time. At commit the object
// must still be as it was. The error is of orrery.KindNotFound where there is none; that, too, must still be so at commit.
func (c *Collection[T, P]) TxGet(tx *Tx, id string) (*T, error) {
	it, err := c.item(tx, id)
	if err != nil {
		return nil, err
	}
	if !it.there() {
		return nil, orrery.NotFound(c.noun, id).WithCode(c.code("not_found"))
	}
	return it.obj, nil
}

// TxBy gives private copies of what an index has under a key, as the transaction sees it, in the order of their IDs.
// At commit each of them must still be as it was; that no others have come is not checked.
func (c *Collection[T, P]) TxBy(tx *Tx, index, key string) ([]*T, error) {
	tree := c.tree(index)
	var found []*entry[T]
	c.s.mu.RLock()
	tree.Ascend(posting[T]{key: key}, func(p posting[T]) bool {
		if p.key == key {
			found = append(found, c.byID[p.id])
		}
		return p.key == key
	})
	c.s.mu.RUnlock()
	var out []*T
	take := func(it *txItem[T, P]) {
		if !it.there() {
			return
		}
		for _, k := range c.schema.indexes[index](it.obj) {
			if k == key {
				out = append(out, it.obj)
				return
			}
		}
	}
	taken := map[string]bool{}
	for _, e := range found {
		objKey := c.key(e.id)
		it, ok := tx.items[objKey].(*txItem[T, P])
		if !ok {
			var err error
			if it, err = c.itemOf(tx, objKey, e.id, e); err != nil {
				return nil, err
			}
		}
		taken[objKey] = true
		take(it)
	}
	for _, objKey := range tx.order { // what this transaction has written and the cache cannot know
		if it, ok := tx.items[objKey].(*txItem[T, P]); ok && !taken[objKey] {
			taken[objKey] = true
			take(it)
		}
	}
	sortByID[T, P](out)
	return out, nil
}

// Insert adds an object, which must have an ID and not exist. Names of collections with unique names must be free, or
// the error is of orrery.KindConflict with code "name_taken". CreatedAt, UpdatedAt and Generation are set where empty;
// Revision is set once the transaction is through.
func (c *Collection[T, P]) Insert(tx *Tx, obj *T) error { return c.insert(tx, obj, false) }

// InsertLeased adds an object that lives as long as this server does: it vanishes when the server dies (after
// Config.LeaseTTL) or its Store is closed. See Lost.
func (c *Collection[T, P]) InsertLeased(tx *Tx, obj *T) error {
	if claim, ok := any(obj).(*Claim); ok && claim.Owner == "" {
		claim.Owner = c.s.cfg.ServerName
	}
	return c.insert(tx, obj, true)
}

func (c *Collection[T, P]) insert(tx *Tx, obj *T, leased bool) error {
	m := P(obj).GetMeta()
	if m.ID == "" {
		return orrery.Errorf(orrery.KindInternal, "a %s without an ID cannot be stored", c.noun)
	}
	it, err := c.item(tx, m.ID)
	if err != nil {
		return err
	}
	if it.there() {
		return orrery.Errorf(orrery.KindConflict, "there is a %s %s already", c.noun, orrery.Shorten(m.ID, 80)).
			WithCode("already_exists")
	}
	if err := c.checkName(tx, m); err != nil {
		return err
	}
	if m.CreatedAt.IsZero() {
		m.CreatedAt = tx.now
	}
	if m.Generation == 0 {
		m.Generation = 1
	}
	m.UpdatedAt = tx.now
	it.obj, it.leased = obj, leased
	if it.base != nil {
		it.state = itemPut // deleted before in this transaction
	} else {
		it.state = itemInsert
	}
	it.wrote(tx)
	return nil
}

// checkName tells early, from the cache and the transaction, what etcd would refuse at commit.
func (c *Collection[T, P]) checkName(tx *Tx, m *orrery.Meta) error {
	if !c.schema.unique {
		return nil
	}
	for _, name := range nameKey(m) {
		key := c.nameKey(name)
		for _, holder := range append(c.holders(name), tx.names[key]) {
			if holder != "" && holder != m.ID && c.stillNamed(tx, holder, name) {
				return orrery.Errorf(orrery.KindConflict, "the name %q is taken by another %s", m.Name, c.noun).
					WithCode("name_taken").WithHint("Choose another name.")
			}
		}
		tx.names[key] = m.ID
	}
	return nil
}

// holders are the IDs that the cache has under a name: one at most.
func (c *Collection[T, P]) holders(name string) (ids []string) {
	tree := c.tree("name")
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	tree.Ascend(posting[T]{key: name}, func(p posting[T]) bool {
		if p.key == name {
			ids = append(ids, p.id)
		}
		return p.key == name
	})
	return ids
}

// stillNamed tells whether an object that had a name has it in this transaction too.
func (c *Collection[T, P]) stillNamed(tx *Tx, id, name string) bool {
	it, ok := tx.items[c.key(id)].(*txItem[T, P])
	if !ok || it.state == itemRead {
		return true
	}
	return it.there() && slices.Contains(nameKey(P(it.obj).GetMeta()), name)
}

// Put replaces an object that the transaction has read with TxGet or TxBy, or inserted, and sets UpdatedAt. An object
// that is as it was is not written.
func (c *Collection[T, P]) Put(tx *Tx, obj *T) error {
	m := P(obj).GetMeta()
	it, ok := tx.items[c.key(m.ID)].(*txItem[T, P])
	if !ok || !it.there() {
		return orrery.Errorf(orrery.KindInternal, "%s %s was not read in the transaction that puts it", c.noun, m.ID)
	}
	it.obj = obj
	if it.state == itemRead {
		it.state = itemPut
	}
	it.wrote(tx)
	return c.checkName(tx, m)
}

// Delete removes an object. The error is of orrery.KindNotFound where there is none.
func (c *Collection[T, P]) Delete(tx *Tx, id string) error {
	if _, err := c.TxGet(tx, id); err != nil {
		return err
	}
	it := tx.items[c.key(id)].(*txItem[T, P])
	it.state = itemDelete
	if it.base == nil {
		it.state = itemGone
	}
	it.wrote(tx)
	return nil
}

// wrote puts an item among those that are written at commit.
func (it *txItem[T, P]) wrote(tx *Tx) {
	if !it.queued {
		it.queued = true
		tx.order = append(tx.order, it.c.key(it.id))
	}
}

// code makes "parameter_catalogue_not_found" of a noun with a space.
func (c *Collection[T, P]) code(what string) string {
	return strings.ReplaceAll(c.noun, " ", "_") + "_" + what
}
