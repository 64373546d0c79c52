package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/orrery-db/orrery"
)

const (
	// attemptTimeout bounds one round trip to etcd, patience a whole Update whose context does not.
	attemptTimeout = 3 * time.Second
	patience       = 20 * time.Second
)

// Update runs fn and commits what it has written in one transaction of etcd, in which everything that fn has read must
// still be as it was. Where it is not, fn is run again; so fn must have no effects but through tx. When Update has
// returned, reads from this Store show the writes. The revision is that of the writes, or of the reads where fn wrote
// nothing; then etcd is not asked.
//
// The revision is 0 where nothing is known to be written. fn's error comes back as it is. Further errors are *orrery.Error: KindUnavailable with code "disk_low" (see
// CheckWritable) or "state_unavailable" when etcd does not answer. In the latter case alone it is unknown whether the
// writes were done.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var (
		unsure  []batch // sent, and maybe done
		turn    chan struct{}
		backoff = 10 * time.Millisecond
	)
	defer func() {
		if turn != nil {
			<-turn
		}
	}()
	for {
		if s.ctx.Err() != nil {
			return 0, errClosed()
		}
		tx := s.newTx()
		b, fnErr := tx.run(fn)
		// Between fn and the sending, so that fn has either not seen the earlier try, and then its writes lose against it,
		// or what it has to say no longer matters.
		if revision, err := s.settle(ctx, unsure); err != nil {
			return 0, unavailable("learn what became of a write", err)
		} else if revision != 0 {
			return revision, s.waitShown(ctx, revision)
		}
		if errors.Is(fnErr, errNoLease) {
			s.lease.suspect(0)
			if err := pause(ctx, &backoff); err != nil {
				return 0, unavailable("get a lease", fnErr)
			}
			continue
		}
		if fnErr != nil {
			return 0, fnErr
		}
		if len(b.ops) == 0 {
			return s.Revision(), nil
		}
		if err := s.mayWrite(tx, b); err != nil {
			return 0, err
		}
		out, err := s.send(ctx, b)
		switch {
		case err == nil && out.done:
			tx.written(out.revision)
			return out.revision, s.waitShown(ctx, out.revision)
		case err == nil: // lost a race
			// Those who lose over the same object go one at a time from now on: each then wins at its first try, but for
			// newcomers, instead of all running against each other.
			if turn == nil {
				if turn, err = s.takeTurn(ctx, out.lost); err != nil {
					return 0, unavailable("wait for other transactions", err)
				}
			}
			if err := s.waitSeen(ctx, out); err != nil {
				return 0, unavailable("follow etcd", err)
			}
			continue
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			s.lease.suspect(b.lease)
		case errors.Is(err, rpctypes.ErrNoSpace):
			// etcd says so of the write with which it passes its quota, too, and does that one all the same.
			s.dog.noSpace()
			if revision, err := s.settle(ctx, []batch{b}); err == nil && revision != 0 {
				tx.written(revision)
				return revision, s.waitShown(ctx, revision)
			}
			return 0, s.dog.refusal().WithCause(err)
		case definite(err):
			return 0, refused(err)
		default:
			unsure = append(unsure, b)
		}
		if pause(ctx, &backoff) != nil {
			return 0, unavailable("write", err)
		}
	}
}

// pause waits before another try, longer each time.
func pause(ctx context.Context, backoff *time.Duration) error {
	timer := time.NewTimer(*backoff)
	defer timer.Stop()
	*backoff = min(2**backoff, time.Second)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (tx *Tx) run(fn func(tx *Tx) error) (batch, error) {
	if err := fn(tx); err != nil {
		return batch{}, err
	}
	return tx.batch()
}

// mayWrite sheds load before the disk is full: new mutations first, then everything.
func (s *Store) mayWrite(tx *Tx, b batch) error {
	if b.sheds && !tx.essential {
		return s.CheckWritable()
	}
	return s.dog.checkFloor()
}

// refused makes an error of what etcd will answer again if asked again.
func refused(err error) error {
	if errors.Is(err, rpctypes.ErrTooManyOps) || errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return orrery.Errorf(orrery.KindTooLarge, "the change is too large to be done in one transaction").WithCause(err).
			WithHint("Change fewer or smaller objects at once.")
	}
	return unavailable("write", err)
}

// waitShown returns when reads show a revision whose writes are done: not even the end of the caller's context may
// make them look as if they were not.
func (s *Store) waitShown(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := s.waitRevision(ctx, revision); err != nil {
		return unavailable("follow etcd", err)
	}
	return nil
}

// batch is a transaction as it is sent.
type batch struct {
	keys  []string // compared, each with
	revs  []int64  // the revision that it must have
	ops   []operation
	cmps  []clientv3.Cmp
	thens []clientv3.Op
	elses []clientv3.Op
	sheds bool
	lease clientv3.LeaseID
}

func (tx *Tx) batch() (batch, error) {
	var b batch
	for key, it := range tx.items {
		b.compare(key, it.compared())
	}
	freed := map[string]bool{}
	for _, key := range tx.order {
		o, ok, err := tx.items[key].op(tx)
		if err != nil {
			return b, err
		}
		if !ok {
			continue
		}
		b.ops = append(b.ops, o)
		b.sheds = b.sheds || o.sheds
		if o.frees != "" {
			freed[o.frees] = true
		}
		if o.lease != 0 {
			b.lease = o.lease
		}
	}
	if len(b.ops) == 0 {
		return b, nil
	}
	claimed := map[string]bool{}
	for _, o := range b.ops {
		if o.delete {
			b.thens = append(b.thens, clientv3.OpDelete(o.key))
		} else {
			b.thens = append(b.thens, clientv3.OpPut(o.key, string(o.value), clientv3.WithLease(o.lease)))
		}
		if o.claims == "" {
			continue
		}
		// A name that the same transaction frees is guarded by the comparison of the object that has it.
		if !freed[o.claims] {
			b.compare(o.claims, 0)
		}
		claimed[o.claims] = true
		b.thens = append(b.thens, clientv3.OpPut(o.claims, o.id, clientv3.WithLease(o.lease)))
	}
	for name := range freed {
		if !claimed[name] {
			b.thens = append(b.thens, clientv3.OpDelete(name))
		}
	}
	return b, nil
}

func (b *batch) compare(key string, rev int64) {
	b.keys = append(b.keys, key)
	b.revs = append(b.revs, rev)
	b.cmps = append(b.cmps, clientv3.Compare(clientv3.ModRevision(key), "=", rev))
	b.elses = append(b.elses, clientv3.OpGet(key))
}

func (tx *Tx) written(revision int64) {
	for _, key := range tx.order {
		tx.items[key].written(revision)
	}
}

// outcome of a transaction that etcd has answered.
type outcome struct {
	done     bool
	revision int64      // of the writes where done; else what the cache has to show before another try
	lost     string     // a key over which it was lost
	gone     []expected // keys that were there and are not
}

type expected struct {
	key string
	rev int64
}

func (s *Store) send(ctx context.Context, b batch) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	resp, err := s.client.Txn(ctx).If(b.cmps...).Then(b.thens...).Else(b.elses...).Commit()
	if err != nil {
		return outcome{}, err
	}
	if resp.Succeeded {
		return outcome{done: true, revision: resp.Header.Revision}, nil
	}
	var out outcome
	for i, key := range b.keys {
		var rev int64
		if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
			rev = kvs[0].ModRevision
		}
		if rev == b.revs[i] {
			continue
		}
		if out.lost == "" || key < out.lost {
			out.lost = key
		}
		out.revision = max(out.revision, rev)
		if rev == 0 {
			out.gone = append(out.gone, expected{key, b.revs[i]})
		}
	}
	return out, nil
}

// settle looks for a batch that was sent without an answer and was done after all, even if others have changed the
// same objects since. It gives the revision, 0 where there is none.
func (s *Store) settle(ctx context.Context, unsure []batch) (int64, error) {
	for _, b := range unsure {
		o := b.witness()
		resp, err := s.client.Get(ctx, o.key)
		if err != nil {
			return 0, err
		}
		if len(resp.Kvs) == 0 {
			if o.delete {
				return max(s.Revision(), 1), nil
			}
			continue
		}
		kv := resp.Kvs[0]
		if !o.delete && bytes.Equal(kv.Value, o.value) {
			return kv.ModRevision, nil
		}
		if err := s.waitRevision(ctx, kv.ModRevision); err != nil {
			return 0, err
		}
		if revision := s.lookBack(o); revision != 0 {
			return revision, nil
		}
	}
	return 0, nil
}

// witness is an operation that tells of the whole batch: a put, whose value is like no other since its times are exact
// to the nanosecond; a deletion where there is no put.
func (b *batch) witness() operation {
	for _, o := range b.ops {
		if !o.delete {
			return o
		}
	}
	return b.ops[0]
}

// lookBack finds the revision at which an operation was done in the changes of late.
func (s *Store) lookBack(o operation) int64 {
	t, collection, id := s.tableOf(o.key)
	s.subs.mu.Lock()
	defer s.subs.mu.Unlock()
	for i := range s.subs.history {
		ch := &s.subs.history[i]
		if ch.ID != id || ch.Collection != collection || ch.Revision <= o.base || o.delete != (ch.New == nil) {
			continue
		}
		if o.delete || bytes.Equal(t.stored(ch.New), o.value) {
			return ch.Revision
		}
	}
	return 0
}

// waitSeen returns when the cache shows what made a transaction lose.
func (s *Store) waitSeen(ctx context.Context, out outcome) error {
	if err := s.waitRevision(ctx, out.revision); err != nil {
		return err
	}
	for _, gone := range out.gone {
		t, _, id := s.tableOf(gone.key)
		for t != nil {
			rev := s.Revision()
			if t.modRevision(id) != gone.rev {
				break
			}
			if err := s.waitRevision(ctx, rev+1); err != nil {
				return err
			}
		}
	}
	return nil
}

var turnSeed = maphash.MakeSeed()

func (s *Store) takeTurn(ctx context.Context, key string) (chan struct{}, error) {
	turn := s.retrying[maphash.String(turnSeed, key)%uint64(len(s.retrying))]
	select {
	case turn <- struct{}{}:
		return turn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// definite tells whether an error is etcd's word that it has not done what was asked, and would say so again. After
// any other error it is unknown whether it was done.
func definite(err error) bool {
	var e rpctypes.EtcdError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.PermissionDenied, codes.Unauthenticated, codes.OutOfRange:
		return true
	}
	return false
}

func unavailable(doing string, err error) error {
	if e, ok := errors.AsType[*orrery.Error](err); ok {
		return e
	}
	return orrery.Errorf(orrery.KindUnavailable, "the state cannot be changed just now").WithCode("state_unavailable").
		WithCause(fmt.Errorf("%s: %w", doing, err)).WithHint("Try again in a moment; see that etcd runs and has a leader.")
}
