package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// lease is what binds this server's leased objects to its life.
type lease struct {
	mu      sync.Mutex
	current clientv3.LeaseID // 0 while there is none
	former  clientv3.LeaseID // lost, and perhaps still known to etcd
	lost    chan struct{}
	check   chan struct{} // asks the keeper of the lease to look at once
}

func (l *lease) id() clientv3.LeaseID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// suspect asks to look after a lease of which etcd says that it does not exist.
func (l *lease) suspect(id clientv3.LeaseID) {
	if current := l.id(); current != 0 && id != current {
		return // another server's, whose objects are about to vanish; or one that was lost already
	}
	select {
	case l.check <- struct{}{}:
	default:
	}
}

// Lost gives a channel that is closed when this server's lease is lost: other servers then see none of the objects that
// it has leased, and whoever relies on a claim must abandon what the claim covers. It is closed before the lease runs
// out in etcd where etcd cannot be reached. Ask before claiming: afterwards a new lease, with a new channel, stands.
func (s *Store) Lost() <-chan struct{} {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	return s.lease.lost
}

// errNoLease: there is none just now, and a new one is being asked for.
var errNoLease = errors.New("this server has no lease at the moment")

func (l *lease) init() { l.check = make(chan struct{}, 1) }

// grantLease gets a lease. The clock of its life starts before etcd is asked.
func (s *Store) grantLease(ctx context.Context) error {
	resp, err := s.client.Grant(ctx, int64(s.cfg.LeaseTTL/time.Second))
	if err != nil {
		return fmt.Errorf("get a lease: %w", err)
	}
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	s.lease.current, s.lease.lost = resp.ID, make(chan struct{})
	return nil
}

func (s *Store) revokeLease(ctx context.Context) error {
	id := s.lease.id()
	if id == 0 {
		return nil
	}
	s.dropLease()
	_, err := s.client.Revoke(ctx, id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// dropLease tells that the lease is lost; once more does nothing.
func (s *Store) dropLease() {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	if s.lease.current != 0 {
		s.lease.former, s.lease.current = s.lease.current, 0
		close(s.lease.lost)
	}
}

// keepLease renews the lease every third of its life, and gets a new one when it is lost. A renewal costs no write.
//
// The lease counts as lost when nothing was heard for two thirds of its life, measured from before the last renewal was
// sent, on the monotonic clock: then etcd has it for another third at least, and nobody else has taken over yet.
func (s *Store) keepLease() {
	interval := s.cfg.LeaseTTL / 3
	margin := s.cfg.LeaseTTL / 3
	renewed := time.Now()
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.lease.check:
		case <-s.ctx.Done():
			return
		}
		sent := time.Now()
		err := s.renewLease(max(renewed.Add(s.cfg.LeaseTTL-margin).Sub(sent), interval/4))
		switch {
		case err == nil:
			renewed = sent
			timer.Reset(interval)
			continue
		case s.ctx.Err() != nil:
			return
		case s.lease.id() == 0:
			s.log.Debug("no new lease can be had", "error", err)
		case errors.Is(err, rpctypes.ErrLeaseNotFound) || time.Since(renewed) >= s.cfg.LeaseTTL-margin:
			s.log.Warn("the lease was lost", "error", err)
			s.dropLease()
		}
		timer.Reset(interval / 8)
	}
}

// renewLease renews the lease, or gets a new one where there is none. What the former one held must not outlive its
// loss: the server has abandoned it already.
func (s *Store) renewLease(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	id := s.lease.id()
	if id == 0 {
		_, err := s.client.Revoke(ctx, s.lease.former)
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
		return s.grantLease(ctx)
	}
	_, err := s.client.KeepAliveOnce(ctx, id)
	return err
}

// LeaseID is that of the lease which stands, 0 where there is none.
func (s *Store) LeaseID() int64 { return int64(s.lease.id()) }
