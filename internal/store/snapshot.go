package store

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/orrery-db/orrery"
)

// A snapshot is a gzip stream of
//
//	header   one line of JSON: SnapshotInfo
//	record*  length of the key, key without the prefix, length of the value, value; lengths as uvarint
//	end      0, number of records as uvarint, SHA-256 of everything before it (32 bytes)
//
// It holds everything of one revision but what is leased. Secrets are in it as they are stored, sealed: the root key
// file has to be kept beside it, and guarded more closely.

const (
	snapshotFormat  = "orrery-snapshot"
	snapshotVersion = 1
	maxRecordBytes  = 64 << 20
)

// SnapshotInfo is the head of a snapshot. Keys is known once the snapshot has been written or read whole.
type SnapshotInfo struct {
	Format    string    `json:"format"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	Revision  int64     `json:"revision"`
	Epoch     uint64    `json:"epoch"`
	Keys      int       `json:"keys,omitempty"`
}

type record struct {
	key   string // without the prefix
	value []byte
}

// Snapshot writes the whole state as it is at one moment to w. The servers go on meanwhile.
func (s *Store) Snapshot(ctx context.Context, w io.Writer) (SnapshotInfo, error) {
	return WriteSnapshot(ctx, s.client, s.cfg.Prefix, w)
}

// WriteSnapshot does what Store.Snapshot does where no server runs.
func WriteSnapshot(ctx context.Context, client *clientv3.Client, prefix string, w io.Writer) (SnapshotInfo, error) {
	info, err := writeSnapshot(ctx, client, strings.TrimSuffix(prefix, "/"), w)
	if err != nil {
		return info, fmt.Errorf("write a snapshot of the state: %w", err)
	}
	return info, nil
}

func writeSnapshot(ctx context.Context, client *clientv3.Client, prefix string, w io.Writer) (SnapshotInfo, error) {
	info := SnapshotInfo{Format: snapshotFormat, Version: snapshotVersion, CreatedAt: time.Now().UTC().Truncate(time.Second)}
	var err error
	if info.Epoch, info.Revision, err = readEpoch(ctx, client, prefix); err != nil {
		return info, err
	}
	zip := gzip.NewWriter(w)
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(zip, sum), 64<<10)
	if err := json.NewEncoder(out).Encode(info); err != nil { // ends in a newline
		return info, err
	}
	_, err = scan(ctx, client, prefix+"/", info.Revision, func(kv *mvccpb.KeyValue) error {
		key := strings.TrimPrefix(string(kv.Key), prefix)
		if kv.Lease != 0 || strings.HasPrefix(key, metaSpace) {
			return nil
		}
		info.Keys++
		_, _ = out.Write(binary.AppendUvarint(nil, uint64(len(key)))) // errors stay with the writer until Flush
		_, _ = out.WriteString(key)
		_, _ = out.Write(binary.AppendUvarint(nil, uint64(len(kv.Value))))
		_, err := out.Write(kv.Value)
		return err
	})
	if err != nil {
		return info, err
	}
	_, _ = out.Write(binary.AppendUvarint([]byte{0}, uint64(info.Keys)))
	if err := out.Flush(); err != nil {
		return info, err
	}
	if _, err := zip.Write(sum.Sum(nil)); err != nil {
		return info, err
	}
	return info, zip.Close()
}

// readEpoch gives the epoch, 0 in a fresh state, and the revision of etcd.
func readEpoch(ctx context.Context, client *clientv3.Client, prefix string) (uint64, int64, error) {
	resp, err := client.Get(ctx, prefix+metaSpace+"epoch")
	if err != nil {
		return 0, 0, err
	}
	if len(resp.Kvs) == 0 {
		return 0, resp.Header.Revision, nil
	}
	epoch, err := parseEpoch(resp.Kvs[0].Value)
	return epoch, resp.Header.Revision, err
}

// ReadSnapshotInfo reads a snapshot, verifies it and tells what it is.
func ReadSnapshotInfo(r io.Reader) (SnapshotInfo, error) {
	return readSnapshot(r, func(record) error { return nil })
}

// readSnapshot gives each record to take, before it is known whether the snapshot is whole: that the end was read
// without an error says so.
func readSnapshot(r io.Reader, take func(record) error) (SnapshotInfo, error) {
	var info SnapshotInfo
	zip, err := gzip.NewReader(r)
	if err != nil {
		return info, damaged(err)
	}
	in := &summed{r: bufio.NewReaderSize(zip, 64<<10), sum: sha256.New()}
	head, err := in.line()
	if err != nil {
		return info, damaged(err)
	}
	if err := json.Unmarshal(head, &info); err != nil || info.Format != snapshotFormat {
		return info, damaged(errors.New("it has no header of a snapshot"))
	}
	if info.Version > snapshotVersion {
		return info, orrery.Errorf(orrery.KindInvalid, "the snapshot was written by a newer Orrery (format %d, known up to %d)",
			info.Version, snapshotVersion).WithCode("snapshot_too_new").WithHint("Restore it with the version that wrote it, or a newer one.")
	}
	for {
		key, err := in.field()
		if err != nil {
			return info, damaged(err)
		}
		if len(key) == 0 {
			break
		}
		value, err := in.field()
		if err != nil {
			return info, damaged(err)
		}
		info.Keys++
		if err := take(record{string(key), value}); err != nil {
			return info, err
		}
	}
	count, err := binary.ReadUvarint(in)
	if err != nil || count != uint64(info.Keys) {
		return info, damaged(fmt.Errorf("it has %d keys and says %d (%w)", info.Keys, count, err))
	}
	want := in.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in.r, got); err != nil || string(got) != string(want) {
		return info, damaged(errors.New("its checksum does not match"))
	}
	if _, err := in.r.ReadByte(); !errors.Is(err, io.EOF) { // also verifies the checksum of gzip
		return info, damaged(fmt.Errorf("it does not end where it says: %w", err))
	}
	return info, nil
}

func damaged(err error) error {
	return orrery.Errorf(orrery.KindInvalid, "the snapshot is damaged or is none").WithCode("snapshot_damaged").WithCause(err).
		WithHint("Nothing was changed. Use another snapshot.")
}

// summed reads and sums up what it has read.
type summed struct {
	r   *bufio.Reader
	sum hash.Hash
}

// ReadByte is part of io.ByteReader.
func (s *summed) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		_, _ = s.sum.Write([]byte{b})
	}
	return b, err
}

func (s *summed) line() ([]byte, error) {
	line, err := s.r.ReadSlice('\n') // at most the buffer's size
	if err != nil {
		return nil, err
	}
	_, _ = s.sum.Write(line)
	return line, nil
}

func (s *summed) field() ([]byte, error) {
	n, err := binary.ReadUvarint(s)
	if err != nil {
		return nil, err
	}
	if n > maxRecordBytes {
		return nil, fmt.Errorf("a field of %d bytes", n)
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(s.r, out); err != nil {
		return nil, err
	}
	_, _ = s.sum.Write(out)
	return out, nil
}
