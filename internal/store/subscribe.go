package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/orrery-db/orrery"
)

// Change is one object's change. Old and New are *T of the collection, shared with the cache and not to be changed:
// Old is nil where the object is new, New where it is gone.
type Change struct {
	Collection string
	ID         string
	Revision   int64
	Old, New   any
}

// Topic names a part of the state that can be watched: an object, the objects that an index has under a key, or a
// whole collection. A watch with topics costs nothing when something else changes; one without is asked about
// every change.
type Topic struct {
	Collection string
	Index      string // empty: Key is an ID
	Key        string // empty: the whole collection
}

// Topic is that of one object.
func (c *Collection[T, P]) Topic(id string) Topic { return Topic{Collection: c.name, Key: id} }

// TopicBy is that of the objects which an index has under a key, those that leave it included.
func (c *Collection[T, P]) TopicBy(index, key string) Topic {
	c.tree(index)
	return Topic{Collection: c.name, Index: index, Key: key}
}

// TopicAll is that of the whole collection.
func (c *Collection[T, P]) TopicAll() Topic { return Topic{Collection: c.name} }

func (c *Collection[T, P]) topics(ch *Change, yield func(Topic)) {
	yield(Topic{Collection: c.name})
	yield(Topic{Collection: c.name, Key: ch.ID})
	for index, keys := range c.schema.indexes {
		for _, o := range []any{ch.Old, ch.New} {
			if obj, _ := o.(*T); obj != nil {
				for _, key := range keys(obj) {
					yield(Topic{c.name, index, key})
				}
			}
		}
	}
}

const (
	// historySize is how many changes can be replayed to a watcher that comes back.
	historySize = 4096
	// watchBuffer is how many changes a watcher may be behind before it is cut off, and objectBuffer the same for one that
	// watches single objects only: of those there may be tens of thousands, and the buffer is most of what each takes.
	watchBuffer  = 256
	objectBuffer = 24
)

// buffer is how many changes a watcher of the topics may be behind.
func buffer(topics []Topic) int {
	for _, t := range topics {
		if t.Index != "" || t.Key == "" {
			return watchBuffer
		}
	}
	if len(topics) == 0 {
		return watchBuffer
	}
	return objectBuffer
}

// subscriptions are all watchers, found by what they watch. mu stands before Store.mu.
type subscriptions struct {
	mu      sync.Mutex
	closed  bool
	all     map[*subscription]struct{}
	byTopic map[Topic]map[*subscription]struct{}

	history   []Change // a ring, oldest at next once it is full
	next      int
	forgotten int64 // changes up to this revision are not in the history
	turn      uint64
}

type subscription struct {
	topics []Topic
	filter func(Change) bool
	after  int64  // changes up to this revision are not its
	turn   uint64 // of the last change it was asked about

	changes chan Change   // of a Watch
	wake    chan struct{} // of a WaitFor; holds at most one
}

func (s *subscriptions) init() {
	s.all = map[*subscription]struct{}{}
	s.byTopic = map[Topic]map[*subscription]struct{}{}
}

// publish tells the watchers of a change. It wants mu held.
func (s *subscriptions) publish(t table, ch Change) {
	s.remember(ch)
	s.turn++
	for sub := range s.all {
		s.tell(sub, ch)
	}
	if len(s.byTopic) > 0 {
		t.topics(&ch, func(topic Topic) {
			for sub := range s.byTopic[topic] {
				s.tell(sub, ch)
			}
		})
	}
}

func (s *subscriptions) tell(sub *subscription, ch Change) {
	if sub.turn == s.turn || ch.Revision <= sub.after || sub.filter != nil && !sub.filter(ch) {
		return
	}
	sub.turn = s.turn
	if sub.wake != nil {
		select {
		case sub.wake <- struct{}{}:
		default: // woken already and not yet awake
		}
		return
	}
	select {
	case sub.changes <- ch:
	default: // too slow: it has to resume from the last revision it saw
		s.remove(sub)
	}
}

func (s *subscriptions) remember(ch Change) {
	if len(s.history) < historySize {
		s.history = append(s.history, ch)
		return
	}
	s.forgotten = s.history[s.next].Revision
	s.history[s.next] = ch
	s.next = (s.next + 1) % historySize
}

// forget empties the history: there is nothing to be replayed of what came up to revision.
func (s *subscriptions) forget(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history, s.next, s.forgotten = nil, 0, revision
}

// add wants mu held.
func (s *subscriptions) add(sub *subscription) {
	if len(sub.topics) == 0 {
		s.all[sub] = struct{}{}
	}
	for _, t := range sub.topics {
		if s.byTopic[t] == nil {
			s.byTopic[t] = map[*subscription]struct{}{}
		}
		s.byTopic[t][sub] = struct{}{}
	}
}

// remove ends a subscription and closes its channel; once more does nothing. It wants mu held.
func (s *subscriptions) remove(sub *subscription) {
	delete(s.all, sub)
	for _, t := range sub.topics {
		delete(s.byTopic[t], sub)
		if len(s.byTopic[t]) == 0 {
			delete(s.byTopic, t)
		}
	}
	if sub.changes != nil {
		close(sub.changes)
		sub.changes = nil
	}
}

func (s *subscriptions) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for sub := range s.all {
		s.remove(sub)
	}
	for _, subs := range s.byTopic {
		for sub := range subs {
			s.remove(sub)
		}
	}
}

// matches tells whether a change belongs to a subscription, for the replay.
func (sub *subscription) matches(t table, ch Change) bool {
	ok := len(sub.topics) == 0
	if !ok {
		t.topics(&ch, func(topic Topic) {
			for _, want := range sub.topics {
				ok = ok || topic == want
			}
		})
	}
	return ok && (sub.filter == nil || sub.filter(ch))
}

// Watch delivers the changes after fromRevision for which filter is true (all where filter is nil), narrowed down to
// topics where some are given, in order and each once. What is delivered is in the cache already. fromRevision 0 means
// from now on; s.Revision() means the same without a gap between a read before and the watch.
//
// The channel is closed when ctx ends, when the Store is closed, and when the receiver is too slow: whoever is not
// done then watches again from the last revision it has seen whole. Where the history no longer reaches back to
// fromRevision the error is an *orrery.Error with code "revision_compacted": read anew, then watch from Revision.
//
// filter runs while changes are given out: it must be quick, and must not watch or wait itself.
func (s *Store) Watch(ctx context.Context, filter func(Change) bool, fromRevision int64, topics ...Topic) (<-chan Change, error) {
	if fromRevision > s.Revision() {
		if err := s.checkReached(ctx, fromRevision); err != nil {
			return nil, err
		}
	}
	sub := &subscription{topics: topics, filter: filter, after: fromRevision}
	s.subs.mu.Lock()
	defer s.subs.mu.Unlock()
	if s.subs.closed {
		return nil, errClosed()
	}
	var replay []Change
	if fromRevision != 0 {
		if fromRevision < s.subs.forgotten {
			return nil, compacted(fromRevision)
		}
		for i := range s.subs.history {
			ch := s.subs.history[(s.subs.next+i)%len(s.subs.history)]
			if ch.Revision > fromRevision && sub.matches(s.tables[ch.Collection], ch) {
				replay = append(replay, ch)
			}
		}
	}
	changes := make(chan Change, len(replay)+buffer(topics))
	for _, ch := range replay {
		changes <- ch
	}
	sub.changes = changes
	s.subs.add(sub)
	context.AfterFunc(ctx, func() { s.unsubscribe(sub) })
	return changes, nil
}

func (s *Store) unsubscribe(sub *subscription) {
	s.subs.mu.Lock()
	defer s.subs.mu.Unlock()
	s.subs.remove(sub)
}

// checkReached tells whether etcd has come to a revision that this server has not seen yet but another has. One that
// etcd has not reached is from before a restore.
func (s *Store) checkReached(ctx context.Context, revision int64) error {
	resp, err := s.client.Get(ctx, s.epochKey())
	if err != nil {
		return unavailable("read the revision", err)
	}
	if resp.Header.Revision < revision {
		return compacted(revision)
	}
	return nil
}

func compacted(revision int64) error {
	return orrery.Errorf(orrery.KindInvalid, "the changes since revision %d are no longer known", revision).
		WithCode("revision_compacted").WithHint("Read the objects anew and watch from the revision that comes with them.")
}

// WaitFor returns when cond is true: it is asked at once, and again after each change for which wake is true (every
// change where wake is nil), narrowed down to topics where some are given. Changes that come together may wake it only
// once. It returns cond's error, or ctx's.
func (s *Store) WaitFor(ctx context.Context, wake func(Change) bool, cond func() (bool, error), topics ...Topic) error {
	sub := &subscription{topics: topics, filter: wake, wake: make(chan struct{}, 1)}
	s.subs.mu.Lock()
	if s.subs.closed {
		s.subs.mu.Unlock()
		return errClosed()
	}
	s.subs.add(sub)
	s.subs.mu.Unlock()
	defer s.unsubscribe(sub)
	for {
		if done, err := cond(); done || err != nil {
			return err
		}
		select {
		case <-sub.wake:
		case <-ctx.Done():
			return fmt.Errorf("wait for a change: %w", ctx.Err())
		case <-s.ctx.Done():
			return errClosed()
		}
	}
}
