package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/seal"
)

// RestoreConfig says where a snapshot is restored to.
type RestoreConfig struct {
	Client *clientv3.Client
	Prefix string // DefaultPrefix where empty
	// Sealer must open every secret of the snapshot.
	Sealer *seal.Sealer
	// Force replaces the state that is there.
	Force bool
}

// Batches stay below what etcd takes by default: 128 operations and 1.5 MiB.
const (
	restoreOps   = 100
	restoreBytes = 512 << 10
)

// Restore makes the state that of a snapshot. No server may run on it meanwhile. Nothing is written before the whole
// snapshot was read and verified, its secrets included; a restore that is interrupted after that leaves a mark with
// which no server starts, and is repeated with Force. The epoch grows; see Store.Epoch.
//
// Errors that a person can act on are *orrery.Error with the codes "snapshot_damaged", "snapshot_too_new",
// "state_not_empty", "state_in_use" and "root_key_missing".
func Restore(ctx context.Context, cfg RestoreConfig, r io.Reader) (SnapshotInfo, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	cfg.Prefix = strings.TrimSuffix(cfg.Prefix, "/")
	var info SnapshotInfo
	if cfg.Client == nil || cfg.Sealer == nil {
		return info, errors.New("restore a snapshot: its Client and Sealer are wanted")
	}
	var records []record
	info, err := readSnapshot(r, func(rec record) error {
		if !strings.HasPrefix(rec.key, objectSpace) && !strings.HasPrefix(rec.key, nameSpace) {
			return damaged(fmt.Errorf("unexpected key %q", rec.key))
		}
		records = append(records, rec)
		return cfg.checkSecret(rec)
	})
	if err != nil {
		return info, fmt.Errorf("restore a snapshot: %w", err)
	}
	info.Epoch, err = cfg.restore(ctx, info, records)
	if err != nil {
		return info, fmt.Errorf("restore a snapshot: %w", err)
	}
	return info, nil
}

// checkSecret tells before anything is written whether the root key at hand opens a secret.
func (cfg RestoreConfig) checkSecret(rec record) error {
	id, ok := strings.CutPrefix(rec.key, objectSpace+"secrets/")
	if !ok {
		return nil
	}
	_, data, _ := bytes.Cut(rec.value, []byte{' '})
	var secret Secret
	if err := json.Unmarshal(data, &secret); err != nil {
		return damaged(fmt.Errorf("secret %s: %w", id, err))
	}
	plain, err := cfg.Sealer.Open(sealedFor(id), secret.Sealed)
	clear(plain)
	return err
}

func restoringKey(prefix string) string { return prefix + metaSpace + "restoring" }

func errHalfRestored() error {
	return orrery.Errorf(orrery.KindUnavailable, "a restore of this state was interrupted").WithCode("half_restored").
		WithHint("Run the restore again, with --force.")
}

func (cfg RestoreConfig) restore(ctx context.Context, info SnapshotInfo, records []record) (uint64, error) {
	stale, err := cfg.look(ctx)
	if err != nil {
		return 0, err
	}
	known, _, err := readEpoch(ctx, cfg.Client, cfg.Prefix)
	if err != nil {
		return 0, err
	}
	if _, err := cfg.Client.Put(ctx, restoringKey(cfg.Prefix), info.CreatedAt.Format(time.RFC3339)); err != nil {
		return 0, err
	}
	var ops []clientv3.Op
	for _, rec := range records {
		delete(stale, cfg.Prefix+rec.key)
		ops = append(ops, clientv3.OpPut(cfg.Prefix+rec.key, string(rec.value)))
	}
	for key := range stale {
		ops = append(ops, clientv3.OpDelete(key))
	}
	if err := cfg.write(ctx, ops); err != nil {
		return 0, err
	}
	epoch := nextEpoch(time.Now(), info.Epoch, known)
	_, err = cfg.Client.Txn(ctx).Then(
		clientv3.OpPut(cfg.Prefix+metaSpace+"epoch", strconv.FormatUint(epoch, 10)),
		clientv3.OpDelete(restoringKey(cfg.Prefix)),
	).Commit()
	return epoch, err
}

// look finds the keys that are there and tells whether they may be replaced.
func (cfg RestoreConfig) look(ctx context.Context) (map[string]bool, error) {
	stale := map[string]bool{}
	_, err := scan(ctx, cfg.Client, cfg.Prefix+"/", 0, func(kv *mvccpb.KeyValue) error {
		if kv.Lease != 0 {
			return orrery.Errorf(orrery.KindConflict, "a server runs on this state").WithCode("state_in_use").
				WithHint("Stop every server; one that was killed counts as running for some seconds more.")
		}
		if key := string(kv.Key); !strings.HasPrefix(key, cfg.Prefix+metaSpace) {
			stale[key] = true
		}
		return nil
	})
	if err == nil && len(stale) > 0 && !cfg.Force {
		return nil, orrery.Errorf(orrery.KindConflict, "there is a state already, of %d keys", len(stale)).
			WithCode("state_not_empty").WithHint("Restore onto an empty state, or give --force to lose the one that is there.")
	}
	return stale, err
}

func (cfg RestoreConfig) write(ctx context.Context, ops []clientv3.Op) error {
	for len(ops) > 0 {
		n, size := 0, 0
		for n < len(ops) && n < restoreOps && (n == 0 || size+len(ops[n].ValueBytes()) <= restoreBytes) {
			size += len(ops[n].ValueBytes())
			n++
		}
		if _, err := cfg.Client.Txn(ctx).Then(ops[:n]...).Commit(); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}
