package store_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/seal"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func snapshotAndRestore(t *testing.T, cfg store.Config) {
	s := storetest.Open(t, cfg)
	ds := datastore("pr-1", "demo")
	insert(t, s, ds)
	update(t, s, func(tx *store.Tx) error { return s.PutSecret(tx, ds.ID+"/user/app", []byte("hush")) })
	update(t, s, claim(s, "jo-1"))
	want, _ := s.Datastores.Get(ds.ID)
	var snap bytes.Buffer
	info, err := s.Snapshot(t.Context(), &snap)
	if err != nil {
		t.Fatal(err)
	}
	if info.Keys != 3 || info.Epoch != s.Epoch() { // the datastore, its name, the secret
		t.Fatalf("%+v", info)
	}
	if read, err := store.ReadSnapshotInfo(bytes.NewReader(snap.Bytes())); err != nil || read != info {
		t.Fatalf("%+v, %v", read, err)
	}
	later := datastore("pr-1", "later")
	insert(t, s, later)

	into := store.RestoreConfig{Client: cfg.Client, Prefix: cfg.Prefix, Sealer: cfg.Sealer}
	_, err = store.Restore(t.Context(), into, bytes.NewReader(snap.Bytes()))
	wantCode(t, err, orrery.KindConflict, "state_in_use")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = store.Restore(t.Context(), into, bytes.NewReader(snap.Bytes()))
	wantCode(t, err, orrery.KindConflict, "state_not_empty")

	for name, at := range map[string]string{"forced": cfg.Prefix, "empty": cfg.Prefix + "/elsewhere"} {
		into.Prefix, into.Force = at, name == "forced"
		restored, err := store.Restore(t.Context(), into, bytes.NewReader(snap.Bytes()))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		cfg := cfg
		cfg.Prefix = at
		again := storetest.Open(t, cfg)
		got, ok := again.Datastores.Get(ds.ID)
		if !ok || got.Name != want.Name || !got.CreatedAt.Equal(want.CreatedAt) || again.Datastores.Len() != 1 {
			t.Fatalf("%s: %+v", name, got)
		}
		if secret, err := again.Secret(t.Context(), ds.ID+"/user/app"); err != nil || string(secret) != "hush" {
			t.Fatalf("%s: %q, %v", name, secret, err)
		}
		if again.Claims.Len() != 0 {
			t.Fatalf("%s: what was leased came back", name)
		}
		if restored.Epoch <= info.Epoch || again.Epoch() != restored.Epoch || again.Generation(1) <= s.Generation(1<<40-1) {
			t.Fatalf("%s: epoch %d after %d", name, again.Epoch(), info.Epoch)
		}
		_, err = again.Update(t.Context(), func(tx *store.Tx) error { return again.Datastores.Insert(tx, datastore("pr-1", "demo")) })
		wantCode(t, err, orrery.KindConflict, "name_taken")
		insert(t, again, datastore("pr-1", "later"))
		if err := again.Close(); err != nil { // "elsewhere" lies below the first prefix
			t.Fatal(err)
		}
	}
}

func TestDamagedSnapshotsChangeNothing(t *testing.T) {
	cfg := storetest.Config(t)
	s := storetest.Open(t, cfg)
	insert(t, s, datastore("pr-1", "demo"))
	update(t, s, func(tx *store.Tx) error { return s.PutSecret(tx, "ds-1/user/app", []byte("hush")) })
	var snap bytes.Buffer
	if _, err := s.Snapshot(t.Context(), &snap); err != nil {
		t.Fatal(err)
	}
	into := store.RestoreConfig{Client: cfg.Client, Prefix: "/test/damaged", Sealer: cfg.Sealer}
	untouched := func() {
		t.Helper()
		resp, err := cfg.Client.Get(t.Context(), into.Prefix, clientv3.WithPrefix())
		if err != nil || resp.Count != 0 {
			t.Fatalf("%d keys were written, %v", resp.Count, err)
		}
	}
	whole := snap.Bytes()
	for i := 0; i < len(whole); i++ {
		cut := append([]byte{}, whole[:i]...)
		if _, err := store.Restore(t.Context(), into, bytes.NewReader(cut)); err == nil {
			t.Fatalf("the first %d of %d bytes were restored", i, len(whole))
		}
	}
	untouched()
	for i := 10; i < len(whole); i++ { // before lies gzip's own header, with bytes that mean nothing
		bad := append([]byte{}, whole...)
		bad[i] ^= 0x10
		if bytes.Equal(gunzip(bad), gunzip(whole)) {
			continue // a bit that pads the compressed data to whole bytes
		}
		if _, err := store.Restore(t.Context(), into, bytes.NewReader(bad)); err == nil {
			t.Fatalf("a snapshot with a changed byte %d was restored", i)
		}
	}
	untouched()
	other, err := seal.NewSealer(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	wrong := into
	wrong.Sealer = other
	_, err = store.Restore(t.Context(), wrong, bytes.NewReader(whole))
	wantCode(t, err, orrery.KindInternal, "root_key_missing")
	untouched()
}

func gunzip(data []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(r)
	if err != nil {
		return nil
	}
	return out
}

func TestHalfRestoredStateIsRefused(t *testing.T) {
	cfg := storetest.Config(t)
	if _, err := cfg.Client.Put(t.Context(), cfg.Prefix+"/meta/restoring", "now"); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(t.Context(), cfg)
	wantCode(t, err, orrery.KindUnavailable, "half_restored")
}
