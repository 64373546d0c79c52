package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// epochStart is the minute from which epochs count. 24 bits of minutes last until 2056.
var epochStart = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// revisionBits is how much of a generation is the revision.
const revisionBits = 40

func (s *Store) epochKey() string { return s.cfg.Prefix + metaSpace + "epoch" }

// Epoch counts the lives of the state: it grows with each restore. It is the minute of the first start, or of the
// restore, so that it grows even where the state before was lost with all it knew.
func (s *Store) Epoch() uint64 { return s.epoch.Load() }

// Generation makes a number of a revision that never goes backwards, though revisions begin anew when a snapshot is
// restored into a fresh etcd: the epoch in the upper 24 bits, the revision in the lower 40.
func (s *Store) Generation(revision int64) uint64 {
	return s.Epoch()<<revisionBits | uint64(revision)&(1<<revisionBits-1)
}

// nextEpoch is above all of those given.
func nextEpoch(now time.Time, known ...uint64) uint64 {
	next := uint64(max(now.Sub(epochStart)/time.Minute, 1))
	for _, k := range known {
		next = max(next, k+1)
	}
	return next
}

// noteMeta takes on what is kept in keys that are no objects.
func (s *Store) noteMeta(key string, value []byte) {
	if key != s.epochKey() {
		return
	}
	epoch, err := parseEpoch(value)
	if err != nil {
		s.log.Error("the epoch in etcd cannot be read", "key", key, "error", err)
		return
	}
	s.epoch.Store(max(epoch, s.epoch.Load()))
}

func parseEpoch(value []byte) (uint64, error) {
	epoch, err := strconv.ParseUint(string(value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the epoch %q in etcd is no number: %w", value, err)
	}
	return epoch, nil
}

// ensureEpoch reads the epoch, and gives a fresh state its first one. It comes before the listing: etcd starts a watch
// at once that begins where etcd is, and lets one wait for up to 100 ms that begins before.
func (s *Store) ensureEpoch(ctx context.Context) error {
	value := strconv.FormatUint(nextEpoch(time.Now()), 10)
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(s.epochKey()), "=", 0)).
		Then(clientv3.OpPut(s.epochKey(), value)).
		Else(clientv3.OpGet(s.epochKey())).Commit()
	if err != nil {
		return fmt.Errorf("write the first epoch: %w", err)
	}
	if !resp.Succeeded { // another server was quicker
		value = string(resp.Responses[0].GetResponseRange().Kvs[0].Value)
	}
	s.noteMeta(s.epochKey(), []byte(value))
	return nil
}
