package store

import (
	"cmp"
	"slices"
)

func (it *txItem[T, P]) compared() int64 {
	if it.base == nil {
		return 0
	}
	return it.base.rev
}

func (it *txItem[T, P]) op(tx *Tx) (operation, bool, error) {
	o := operation{key: it.c.key(it.id), id: it.id, base: it.compared()}
	switch it.state {
	case itemDelete:
		o.delete = true
		o.frees = it.uniqueName(it.base.obj)
		return o, true, nil
	case itemPut:
		if it.base.version == it.c.version() && !it.leased && sameObject[T, P](it.base.obj, it.obj) {
			return o, false, nil
		}
		P(it.obj).GetMeta().UpdatedAt = tx.now
		o.lease = it.base.lease
		o.sheds = o.lease == 0
		o.frees, o.claims = it.uniqueName(it.base.obj), it.uniqueName(it.obj)
		if o.frees == o.claims {
			o.frees, o.claims = "", ""
		}
	case itemInsert:
		o.sheds = !it.leased
		o.claims = it.uniqueName(it.obj)
	default:
		return o, false, nil
	}
	if it.leased {
		if o.lease = tx.s.lease.id(); o.lease == 0 {
			return o, false, errNoLease
		}
	}
	var err error
	o.value, err = it.c.encode(it.obj)
	return o, true, err
}

func (it *txItem[T, P]) written(revision int64) {
	if it.state == itemInsert || it.state == itemPut {
		P(it.obj).GetMeta().Revision = revision
	}
}

// uniqueName is the key in etcd that keeps the object's name its own; empty where names are not unique.
func (it *txItem[T, P]) uniqueName(obj *T) string {
	if it.c.schema.unique {
		for _, name := range nameKey(P(obj).GetMeta()) {
			return it.c.nameKey(name)
		}
	}
	return ""
}

func sortByID[T any, P Object[T]](objs []*T) {
	slices.SortFunc(objs, func(a, b *T) int { return cmp.Compare(P(a).GetMeta().ID, P(b).GetMeta().ID) })
}
