package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
)

// WatchdogConfig says when the plane stops to take on new work because space runs out. An etcd that cannot write ends
// its process; the watchdog is there so that it never comes to that.
type WatchdogConfig struct {
	// Dir is a folder on the disk that etcd writes to; the disk is not watched where it is empty, as with an etcd that
	// others run.
	Dir string
	// LowBytes free on that disk refuse new mutations, until ResumeBytes are free; below FloorBytes nothing at all is
	// written. 512 MiB, 640 MiB and 128 MiB where 0: etcd's log grows in files of 64 MiB.
	LowBytes, ResumeBytes, FloorBytes uint64
	// LowShare of etcd's quota being used refuses new mutations, until it is down to ResumeShare; 0.85 and 0.75 where 0.
	LowShare, ResumeShare float64
	// Interval between two looks; 5 s where 0.
	Interval time.Duration
	// FreeBytes tells how much is free for this process on the disk of a folder; statfs(2) where nil.
	FreeBytes func(dir string) (uint64, error)
}

func (c WatchdogConfig) withDefaults() WatchdogConfig {
	setDefault(&c.LowBytes, 512<<20)
	setDefault(&c.ResumeBytes, c.LowBytes+c.LowBytes/4)
	setDefault(&c.FloorBytes, c.LowBytes/4)
	setDefault(&c.LowShare, 0.85)
	setDefault(&c.ResumeShare, 0.75)
	setDefault(&c.Interval, 5*time.Second)
	if c.FreeBytes == nil {
		c.FreeBytes = freeBytes
	}
	return c
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func freeBytes(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// Space is what the watchdog last saw.
type Space struct {
	// DiskFreeBytes is 0 where the disk is not watched.
	DiskFreeBytes uint64 `json:"disk_free_bytes"`
	// StateBytes of QuotaBytes are taken by etcd's file; StateInUseBytes of them by what is in it.
	StateBytes      int64 `json:"state_bytes"`
	StateInUseBytes int64 `json:"state_in_use_bytes"`
	QuotaBytes      int64 `json:"quota_bytes"`
	// Low: new mutations are refused; Reason says why.
	Low    bool   `json:"low"`
	Reason string `json:"reason,omitempty"`

	floor bool // nothing may be written
}

type watchdog struct {
	seen  atomic.Pointer[Space]
	alert chan struct{} // etcd has refused a write: look now
	tidy  time.Time     // when making room is worth another try
}

func (d *watchdog) init() {
	d.seen.Store(&Space{})
	d.alert = make(chan struct{}, 1)
}

// Space is what the watchdog last saw.
func (s *Store) Space() Space { return *s.dog.seen.Load() }

// CheckWritable tells whether new mutations are taken on: nil, or an *orrery.Error of KindUnavailable with code
// "disk_low". Update checks it by itself for transactions that are not essential.
func (s *Store) CheckWritable() error {
	if s.dog.seen.Load().Low {
		return s.dog.refusal()
	}
	return nil
}

// checkFloor keeps even essential writes off a disk that is as good as full.
func (d *watchdog) checkFloor() error {
	if d.seen.Load().floor {
		return d.refusal()
	}
	return nil
}

func (d *watchdog) refusal() *orrery.Error {
	reason := d.seen.Load().Reason
	if reason == "" {
		reason = "etcd has used up its quota"
	}
	return orrery.Errorf(orrery.KindUnavailable, "no changes are taken on because space runs out: %s", reason).
		WithCode("disk_low").WithHint("Free space on the control plane's disk; changes are taken on again by themselves within seconds.")
}

func (d *watchdog) noSpace() {
	select {
	case d.alert <- struct{}{}:
	default:
	}
}

// watchSpace looks at the disk and at etcd until the Store is closed.
func (s *Store) watchSpace() {
	timer := time.NewTimer(s.cfg.Watchdog.Interval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.dog.alert:
		case <-s.ctx.Done():
			return
		}
		s.lookAtSpace(s.ctx)
		timer.Reset(s.cfg.Watchdog.Interval)
	}
}

// lookAtSpace looks once. What cannot be asked keeps its last answer.
func (s *Store) lookAtSpace(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cfg, before := s.cfg.Watchdog, s.Space()
	now := before
	now.Low, now.floor, now.Reason = false, false, ""
	if cfg.Dir != "" {
		free, err := cfg.FreeBytes(cfg.Dir)
		if err != nil {
			s.log.Warn("the free space of the disk is unknown", "dir", cfg.Dir, "error", err)
		} else {
			now.DiskFreeBytes = free
		}
		limit := cfg.LowBytes
		if before.Low {
			limit = cfg.ResumeBytes
		}
		if now.DiskFreeBytes < limit {
			now.Low = true
			now.floor = now.DiskFreeBytes < cfg.FloorBytes
			now.Reason = fmt.Sprintf("%d MiB are free on the disk of %s, %d MiB are wanted", now.DiskFreeBytes>>20, cfg.Dir, limit>>20)
		}
	}
	alarm := s.lookAtQuota(ctx, &now, before.Low)
	if alarm && !now.Low {
		alarm = !s.disarm(ctx)
	}
	if alarm {
		now.Low, now.Reason = true, "etcd has raised its alarm that no space is left"
	}
	s.dog.seen.Store(&now)
	if now.Low != before.Low {
		s.log.Warn("the watchdog of space has changed its mind", "low", now.Low, "reason", now.Reason,
			"disk_free_bytes", now.DiskFreeBytes, "state_bytes", now.StateBytes, "quota_bytes", now.QuotaBytes)
	}
}

// lookAtQuota asks every member how large its file is, and makes room where it is too large. It tells whether etcd's
// alarm is raised.
func (s *Store) lookAtQuota(ctx context.Context, now *Space, wasLow bool) (alarm bool) {
	limit := s.cfg.Watchdog.LowShare
	if wasLow {
		limit = s.cfg.Watchdog.ResumeShare
	}
	over := func() bool { return now.QuotaBytes > 0 && float64(now.StateBytes) > limit*float64(now.QuotaBytes) }
	alarm = s.askSizes(ctx, now)
	if (over() || alarm) && time.Now().After(s.dog.tidy) {
		before := now.StateBytes
		s.makeRoom(ctx, now)
		alarm = s.askSizes(ctx, now)
		s.dog.tidy = time.Now().Add(time.Minute)
		if now.StateBytes > before/10*9 { // all of it is in use, and etcd stands still while it finds that out
			s.dog.tidy = time.Now().Add(15 * time.Minute)
		}
	}
	if over() {
		now.Low = true
		now.Reason = fmt.Sprintf("etcd's file has %d of %d MiB", now.StateBytes>>20, now.QuotaBytes>>20)
	}
	return alarm
}

// endpoints of the members. A client within the process has none, and takes the empty one.
func (s *Store) endpoints() []string {
	if eps := s.client.Endpoints(); len(eps) > 0 {
		return eps
	}
	return []string{""}
}

func (s *Store) askSizes(ctx context.Context, now *Space) (alarm bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // a member may be down
	defer cancel()
	endpoints := s.endpoints()
	answers := make([]*clientv3.StatusResponse, len(endpoints))
	var asking sync.WaitGroup
	for i, ep := range endpoints {
		asking.Go(func() {
			st, err := s.client.Status(ctx, ep)
			if err != nil {
				s.log.Debug("a member of etcd does not tell its size", "endpoint", ep, "error", err)
				return
			}
			answers[i] = st
		})
	}
	asking.Wait()
	var largest *clientv3.StatusResponse
	for _, st := range answers {
		if st == nil {
			continue
		}
		if largest == nil || st.DbSize > largest.DbSize {
			largest = st
		}
		for _, e := range st.Errors {
			alarm = alarm || strings.Contains(e, etcdserverpb.AlarmType_NOSPACE.String())
		}
	}
	if largest == nil {
		return alarm
	}
	now.StateBytes, now.StateInUseBytes, now.QuotaBytes = largest.DbSize, largest.DbSizeInUse, largest.DbSizeQuota
	if largest.Header.Revision < s.Revision() {
		// etcd was restored from a backup of its own under this server.
		select {
		case s.relist <- struct{}{}:
		default:
		}
	}
	return alarm
}

// makeRoom drops etcd's history and gives what it took back to the disk. A member does not answer while it does. Whether
// it is worth it cannot be asked before: etcd counts what a compaction has freed as in use for a while.
func (s *Store) makeRoom(ctx context.Context, now *Space) {
	revision := s.Revision()
	if _, err := s.client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		s.log.Debug("etcd was not compacted", "revision", revision, "error", err)
	}
	if s.cfg.Watchdog.Dir != "" && now.DiskFreeBytes < uint64(now.StateBytes)+s.cfg.Watchdog.FloorBytes {
		return // the new file would not fit beside the old one
	}
	for _, ep := range s.endpoints() {
		if _, err := s.client.Defragment(ctx, ep); err != nil {
			s.log.Warn("a member of etcd was not defragmented", "endpoint", ep, "error", err)
			return
		}
	}
	s.log.Info("made room in etcd", "compacted_to", revision)
}

// disarm takes the alarm back, now that there is room. etcd never does so by itself.
func (s *Store) disarm(ctx context.Context) bool {
	list, err := s.client.AlarmList(ctx)
	if err != nil {
		return false
	}
	for _, a := range list.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := s.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			s.log.Warn("etcd's alarm was not taken back", "error", err)
			return false
		}
	}
	return true
}
