package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/etcd"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

// poll waits until cond is true of something that gives no signal.
func poll(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(2 * time.Millisecond); !cond(); {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("never came: %s", what)
		}
	}
}

func spaceIs(t testing.TB, s *store.Store, low bool) {
	t.Helper()
	poll(t, fmt.Sprintf("low %v", low), func() bool { return s.Space().Low == low })
}

func TestWatchdogOfTheDisk(t *testing.T) {
	cfg := storetest.Config(t)
	var free atomic.Uint64
	free.Store(1000)
	cfg.Watchdog = store.WatchdogConfig{Dir: "/anywhere", LowBytes: 100, ResumeBytes: 200, FloorBytes: 50,
		Interval: time.Millisecond, FreeBytes: func(string) (uint64, error) { return free.Load(), nil }}
	s := storetest.Open(t, cfg)
	ds, doomed := datastore("pr-1", "demo"), datastore("pr-1", "doomed")
	insert(t, s, ds)
	insert(t, s, doomed)
	refused := func(fn func(tx *store.Tx) error) {
		t.Helper()
		_, err := s.Update(t.Context(), fn)
		wantCode(t, err, orrery.KindUnavailable, "disk_low")
		if e, _ := errors.AsType[*orrery.Error](err); e.Hint == "" || !strings.Contains(e.Message, "/anywhere") {
			t.Fatalf("%+v", e)
		}
	}
	grow := change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ })

	free.Store(99)
	spaceIs(t, s, true)
	wantCode(t, s.CheckWritable(), orrery.KindUnavailable, "disk_low")
	refused(grow)
	refused(func(tx *store.Tx) error { return s.Datastores.Insert(tx, datastore("pr-1", "new")) })
	update(t, s, func(tx *store.Tx) error { tx.Essential(); return grow(tx) })
	update(t, s, func(tx *store.Tx) error { return s.Datastores.Delete(tx, doomed.ID) })
	update(t, s, claim(s, "jo-1"))

	free.Store(150) // above what stops, below what resumes
	poll(t, "150 bytes free", func() bool { return s.Space().DiskFreeBytes == 150 })
	refused(grow)

	free.Store(20)
	poll(t, "20 bytes free", func() bool { return s.Space().DiskFreeBytes == 20 })
	refused(func(tx *store.Tx) error { tx.Essential(); return grow(tx) })
	refused(func(tx *store.Tx) error { return s.Datastores.Delete(tx, ds.ID) })

	free.Store(200)
	spaceIs(t, s, false)
	update(t, s, grow)
}

// TestWatchdogOnAFullDisk fills a small disk of its own, on which etcd lies.
func TestWatchdogOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: the mounted disk is left out, TestWatchdogOfTheDisk covers the rules")
		return
	}
	dir := shortDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=320m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	server := startEtcd(t, etcd.Config{Dir: filepath.Join(dir, "e")})
	cfg := storetest.Config(t)
	cfg.Client = server.Client()
	cfg.Watchdog = store.WatchdogConfig{Dir: dir, LowBytes: 64 << 20, FloorBytes: 8 << 20, Interval: 5 * time.Millisecond}
	s := storetest.Open(t, cfg)
	t.Cleanup(func() { _ = s.Close() }) // before etcd
	ds := datastore("pr-1", "demo")
	insert(t, s, ds)
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4<<20)
	for tick := time.Tick(6 * time.Millisecond); !s.Space().Low; <-tick { // at 700 MB/s
		if _, err := f.Write(block); err != nil {
			t.Fatalf("the disk was full before the watchdog saw it: %v", err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Update(t.Context(), func(tx *store.Tx) error { return s.Datastores.Insert(tx, datastore("pr-1", "new")) })
	wantCode(t, err, orrery.KindUnavailable, "disk_low")
	update(t, s, func(tx *store.Tx) error {
		tx.Essential()
		return change(s, ds.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ })(tx)
	})
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	spaceIs(t, s, false)
	insert(t, s, datastore("pr-1", "new"))
}

// TestQuota writes until etcd itself refuses, faster than the watchdog looks, and sees the plane come back.
func TestQuota(t *testing.T) {
	server := startEtcd(t, etcd.Config{Dir: shortDir(t), QuotaBytes: 16 << 20})
	cfg := storetest.Config(t)
	cfg.Client = server.Client()
	cfg.Watchdog.Interval = 30 * time.Second // only etcd's refusal wakes it
	s := storetest.Open(t, cfg)
	t.Cleanup(func() { _ = s.Close() })
	big := datastore("pr-1", "demo")
	big.Labels = map[string]string{"big": strings.Repeat("x", 500_000)}
	insert(t, s, big)
	var err error
	n := 0
	for ; err == nil && n < 200; n++ {
		_, err = s.Update(t.Context(), change(s, big.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ }))
	}
	wantCode(t, err, orrery.KindUnavailable, "disk_low")
	// Nearly all of it is history: the watchdog drops that and takes etcd's alarm back.
	poll(t, "room in etcd", func() bool {
		_, err = s.Update(t.Context(), change(s, big.ID, func(ds *orrery.Datastore) { ds.Spec.RestartSeq++ }))
		return err == nil
	})
	got, _ := s.Datastores.Get(big.ID)
	if got.Spec.RestartSeq != int64(n) {
		t.Fatalf("%d changes are stored after %d", got.Spec.RestartSeq, n)
	}
	if sp := s.Space(); sp.QuotaBytes != 16<<20 || sp.StateBytes == 0 {
		t.Fatalf("%+v", sp)
	}
}
