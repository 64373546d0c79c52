package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
)

// A stored value is the version of its form in decimal, a space, and the object's JSON: "1 {"id":"ds-…",…}".

// upgrade moves the JSON of one version of a stored form to the next.
type upgrade func(old json.RawMessage) (json.RawMessage, error)

// version is that of the form which this program writes.
func (c *Collection[T, P]) version() int { return len(c.schema.upgrades) + 1 }

// encode gives the stored form of obj. Its revision is not stored: etcd knows it.
func (c *Collection[T, P]) encode(obj *T) ([]byte, error) {
	m := P(obj).GetMeta()
	rev := m.Revision
	m.Revision = 0
	data, err := json.Marshal(obj)
	m.Revision = rev
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", c.noun, m.ID, err)
	}
	out := make([]byte, 0, len(data)+4)
	out = strconv.AppendInt(out, int64(c.version()), 10)
	out = append(out, ' ')
	return append(out, data...), nil
}

// decode reads what etcd holds under an ID. It never fails: what cannot be read becomes an entry with a problem, which
// hides the object from reads and keeps transactions from overwriting it.
func (c *Collection[T, P]) decode(id string, kv *mvccpb.KeyValue) *entry[T] {
	e := &entry[T]{id: id, rev: kv.ModRevision, lease: clientv3.LeaseID(kv.Lease)}
	version, obj, err := c.decodeValue(kv.Value)
	e.version = version
	if err != nil {
		e.problem = c.problem(id, version, err)
		return e
	}
	m := P(obj).GetMeta()
	if m.ID != id {
		e.problem = c.problem(id, version, fmt.Errorf("its ID inside is %q", m.ID))
		return e
	}
	m.Revision = kv.ModRevision
	e.obj = obj
	return e
}

func (c *Collection[T, P]) decodeValue(value []byte) (int, *T, error) {
	head, data, ok := bytes.Cut(value, []byte{' '})
	version, err := strconv.Atoi(string(head))
	if !ok || err != nil || version < 1 {
		return 0, nil, fmt.Errorf("it has no version in front")
	}
	if version > c.version() {
		return version, nil, fmt.Errorf("its form is version %d", version)
	}
	for v := version; v < c.version(); v++ {
		if data, err = c.schema.upgrades[v-1](data); err != nil {
			return version, nil, fmt.Errorf("move it from version %d to %d: %w", v, v+1, err)
		}
	}
	obj := new(T)
	if err := json.Unmarshal(data, obj); err != nil {
		return version, nil, err
	}
	return version, obj, nil
}

func (c *Collection[T, P]) problem(id string, version int, err error) error {
	if version > c.version() {
		return orrery.Errorf(orrery.KindUnavailable, "%s %s was written by a newer Orrery (form %d, known up to %d)",
			c.noun, id, version, c.version()).WithCode("object_too_new").WithCause(err).
			WithHint("Upgrade this server to the version that the others run.")
	}
	return orrery.Errorf(orrery.KindInternal, "what is stored of %s %s cannot be read", c.noun, id).
		WithCode("object_damaged").WithCause(err).
		WithHint("Restore a snapshot, or repair the key %s in etcd.", c.key(id))
}
