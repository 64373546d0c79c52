package job

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/orrery-db/orrery/internal/store"
)

// Keep says what Prune leaves. Zero values stand for the defaults.
type Keep struct {
	Jobs      int           // finished jobs of each object; 50
	JobsFor   time.Duration // since their end; 30 days
	Events    int           // of each object; 200
	EventsFor time.Duration // 30 days
}

func (k Keep) withDefaults() Keep {
	const month = 30 * 24 * time.Hour
	return Keep{Jobs: cmp.Or(k.Jobs, 50), JobsFor: cmp.Or(k.JobsFor, month),
		Events: cmp.Or(k.Events, 200), EventsFor: cmp.Or(k.EventsFor, month)}
}

// pruneBatch is how many objects one transaction removes; etcd takes 128 operations.
const pruneBatch = 50

// Prune removes finished jobs and events beyond what is to be kept, and says how many. Any server may call it at any
// time, every hour or so; it costs a walk through memory and a write for every 50 that it removes.
func Prune(ctx context.Context, s *store.Store, keep Keep) (jobs, events int, err error) {
	keep = keep.withDefaults()
	now := time.Now()
	old := map[string][]aged{}
	for j := range s.Jobs.After("") {
		if j.State.Final() && j.EndedAt != nil {
			old[j.Object] = append(old[j.Object], aged{j.ID, *j.EndedAt})
		}
	}
	if jobs, err = remove(ctx, s, s.Jobs, surplus(old, keep.Jobs, now.Add(-keep.JobsFor))); err != nil {
		return jobs, 0, fmt.Errorf("prune finished jobs: %w", err)
	}
	clear(old)
	for e := range s.Events.After("") {
		old[e.Object] = append(old[e.Object], aged{e.ID, e.Time})
	}
	if events, err = remove(ctx, s, s.Events, surplus(old, keep.Events, now.Add(-keep.EventsFor))); err != nil {
		return jobs, events, fmt.Errorf("prune events: %w", err)
	}
	return jobs, events, nil
}

type aged struct {
	id string
	at time.Time
}

// surplus gives the IDs of what is older than oldest or not among the newest most of its object.
func surplus(byObject map[string][]aged, most int, oldest time.Time) []string {
	var ids []string
	for _, all := range byObject {
		slices.SortFunc(all, func(a, b aged) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.id, a.id)) })
		for i, a := range all {
			if i >= most || a.at.Before(oldest) {
				ids = append(ids, a.id)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

func remove[T any, P store.Object[T]](ctx context.Context, s *store.Store, c *store.Collection[T, P], ids []string) (int, error) {
	removed := 0
	for batch := range slices.Chunk(ids, pruneBatch) {
		n := 0
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			n = 0
			for _, id := range batch {
				err := c.Delete(tx, id)
				if err == nil {
					n++
				} else if ignoreNotFound(err) != nil { // another server may have been quicker
					return err
				}
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed += n
	}
	return removed, nil
}
