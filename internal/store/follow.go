package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// listPage is how many keys are asked for at a time when everything is read. Pages are large because etcd counts all
// keys that are left anew for each of them.
const listPage = 10_000

// scan reads every key below a prefix at one revision: the one given, or the newest where it is 0.
func scan(ctx context.Context, client clientv3.KV, prefix string, revision int64, each func(kv *mvccpb.KeyValue) error) (int64, error) {
	key, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(listPage)}
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		resp, err := client.Get(ctx, key, opts...)
		if err != nil {
			return 0, fmt.Errorf("read the state from etcd: %w", err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			if err := each(kv); err != nil {
				return 0, err
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return revision, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// scanObjects reads the epoch and every object at one revision, collection by collection; the keys of unique names are
// as many again, and the cache does not want them.
func (s *Store) scanObjects(ctx context.Context, each func(kv *mvccpb.KeyValue) error) (int64, error) {
	revision, err := scan(ctx, s.client, s.cfg.Prefix+metaSpace, 0, func(kv *mvccpb.KeyValue) error {
		if string(kv.Key) == restoringKey(s.cfg.Prefix) {
			return errHalfRestored()
		}
		s.noteMeta(string(kv.Key), kv.Value)
		return nil
	})
	for collection := range s.tables {
		if err == nil {
			_, err = scan(ctx, s.client, s.cfg.Prefix+objectSpace+collection+"/", revision, each)
		}
	}
	return revision, err
}

// load fills the empty cache. An object that cannot be read stops it: a server that cannot read everything must not
// decide about anything.
func (s *Store) load(ctx context.Context) error {
	revision, err := s.scanObjects(ctx, func(kv *mvccpb.KeyValue) error {
		t, _, id := s.tableOf(string(kv.Key))
		if t == nil {
			return nil
		}
		prepared, problem := t.prepare(id, kv)
		if problem != nil {
			return problem
		}
		t.swap(id, prepared) // nobody else has the Store yet
		return nil
	})
	s.revision = revision
	s.subs.forget(revision)
	return err
}

// follow keeps the cache up to date until the Store is closed.
func (s *Store) follow() {
	for backoff := 50 * time.Millisecond; s.ctx.Err() == nil; backoff = min(2*backoff, 2*time.Second) {
		began := time.Now()
		err := s.stream()
		if errors.Is(err, errRelist) {
			err = s.listAnew()
		}
		if s.ctx.Err() != nil {
			return
		}
		if time.Since(began) > 10*time.Second {
			backoff = 50 * time.Millisecond
		}
		if err != nil {
			s.log.Warn("following etcd was interrupted", "error", err, "revision", s.Revision())
			select {
			case <-time.After(backoff):
			case <-s.ctx.Done():
			}
		}
	}
}

// errRelist: the changes since the cache's revision are no longer to be had.
var errRelist = errors.New("the state has to be listed anew")

// stream applies changes until the watch breaks.
func (s *Store) stream() error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(s.ctx))
	defer cancel()
	watch := s.client.Watch(ctx, s.cfg.Prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(s.Revision()+1))
	for {
		select {
		case resp, ok := <-watch:
			if !ok {
				return errors.New("the watch ended")
			}
			if resp.CompactRevision != 0 {
				return errRelist
			}
			if err := resp.Err(); err != nil {
				return err
			}
			s.apply(resp.Events)
		case <-s.relist:
			return errRelist
		}
	}
}

// staged is a change that has been decoded and waits for the lock.
type staged struct {
	table    table
	id       string
	prepared any
	change   Change
}

// apply shows the changes of one or more whole revisions to readers at once, then tells watchers.
func (s *Store) apply(events []*clientv3.Event) {
	if len(events) == 0 {
		return
	}
	work := make([]staged, 0, len(events))
	for _, ev := range events {
		key := string(ev.Kv.Key)
		if ev.Type == clientv3.EventTypePut {
			s.noteMeta(key, ev.Kv.Value)
		}
		t, collection, id := s.tableOf(key)
		if t == nil {
			continue
		}
		w := staged{table: t, id: id, change: Change{Collection: collection, ID: id, Revision: ev.Kv.ModRevision}}
		if ev.Type == clientv3.EventTypePut {
			w.prepared = s.prepareLogged(t, id, ev.Kv)
		}
		work = append(work, w)
	}
	s.commit(work, events[len(events)-1].Kv.ModRevision)
}

func (s *Store) prepareLogged(t table, id string, kv *mvccpb.KeyValue) any {
	prepared, problem := t.prepare(id, kv)
	if problem != nil {
		s.log.Error("an object cannot be read and is hidden", "key", string(kv.Key), "error", problem)
	}
	return prepared
}

// commit makes staged changes visible, all at once. Watchers are told after: a watcher that is told of a change finds
// it in the cache.
func (s *Store) commit(work []staged, revision int64) {
	s.subs.mu.Lock() // outermost, so that a new subscription sees either the change or the cache that has it
	defer s.subs.mu.Unlock()
	s.mu.Lock()
	for i := range work {
		w := &work[i]
		w.change.Old, w.change.New = w.table.swap(w.id, w.prepared)
	}
	s.revision = revision
	s.waiters.wake(revision)
	s.mu.Unlock()
	for i := range work {
		if ch := work[i].change; ch.Old != nil || ch.New != nil {
			s.subs.publish(work[i].table, ch)
		}
	}
}

// listAnew brings the cache up to date when the changes themselves were compacted away: what differs is told to
// watchers as changes, what came and went between is never seen.
func (s *Store) listAnew() error {
	seen := map[string]map[string]bool{}
	for name := range s.tables {
		seen[name] = map[string]bool{}
	}
	var work []staged
	revision, err := s.scanObjects(s.ctx, func(kv *mvccpb.KeyValue) error {
		t, collection, id := s.tableOf(string(kv.Key))
		if t == nil {
			return nil
		}
		seen[collection][id] = true
		if t.modRevision(id) != kv.ModRevision {
			work = append(work, staged{t, id, s.prepareLogged(t, id, kv), Change{Collection: collection, ID: id}})
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.RLock()
	for collection, t := range s.tables {
		for _, id := range t.ids() {
			if !seen[collection][id] {
				work = append(work, staged{t, id, nil, Change{Collection: collection, ID: id}})
			}
		}
	}
	s.mu.RUnlock()
	for i := range work {
		work[i].change.Revision = revision
	}
	s.subs.forget(revision)
	s.log.Info("listed the state anew", "revision", revision, "changes", len(work))
	s.commit(work, revision)
	return nil
}
