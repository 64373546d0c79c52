package store

import (
	"container/heap"
	"context"
)

// revisionWaiters are those who wait until the cache shows a revision, the nearest first. Guarded by Store.mu.
type revisionWaiters []revisionWaiter

type revisionWaiter struct {
	revision int64
	done     chan struct{}
}

func (w revisionWaiters) Len() int           { return len(w) }
func (w revisionWaiters) Less(i, j int) bool { return w[i].revision < w[j].revision }
func (w revisionWaiters) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }

// Push is part of heap.Interface.
func (w *revisionWaiters) Push(x any) { *w = append(*w, x.(revisionWaiter)) }

// Pop is part of heap.Interface.
func (w *revisionWaiters) Pop() any {
	old := *w
	last := old[len(old)-1]
	*w = old[:len(old)-1]
	return last
}

func (w *revisionWaiters) wake(revision int64) {
	for len(*w) > 0 && (*w)[0].revision <= revision {
		close(heap.Pop(w).(revisionWaiter).done)
	}
}

// waitRevision returns when the cache shows the revision.
func (s *Store) waitRevision(ctx context.Context, revision int64) error {
	s.mu.Lock()
	if s.revision >= revision {
		s.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	heap.Push(&s.waiters, revisionWaiter{revision, done})
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return errClosed()
	}
}
