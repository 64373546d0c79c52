package seal

import (
	"bufio"
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
)

const keyIDSize = 8

// keyID is the start of the SHA-256 of a root key.
type keyID [keyIDSize]byte

func (id keyID) String() string { return hex.EncodeToString(id[:]) }

type rootKey struct {
	id   keyID
	aead cipher.AEAD
}

// keyFileHead opens a key file. Below it, each line is one key in base64; the last is the newest, and seals.
const keyFileHead = "# Orrery root keys. Whoever has this file and the state can read every secret; without it nobody can.\n"

// OpenKeyFile reads the root keys in a file, and makes the file with a new key where there is none yet and create is
// set. Set create only where there is no state yet that an earlier key has sealed.
func OpenKeyFile(path string, create bool) (*Sealer, error) {
	if create {
		key := make([]byte, keySize)
		_, _ = rand.Read(key)
		err := writeNew(path, append([]byte(keyFileHead), encodeKey(key)...))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the root key file: %w", err)
		}
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, orrery.Errorf(orrery.KindInvalid, "the root key file %s is missing", path).WithCode("root_key_missing").
			WithHint("Put the file back from where you keep its copy: the secrets in the state cannot be read without it.")
	}
	if err != nil {
		return nil, fmt.Errorf("read the root key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, orrery.Errorf(orrery.KindInvalid, "the root key file %s may be read by others (mode %04o)", path, info.Mode().Perm()).
			WithCode("root_key_exposed").WithHint("Run: chmod 600 %s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the root key file: %w", err)
	}
	s, err := parse(text)
	if err != nil {
		return nil, orrery.Errorf(orrery.KindInvalid, "the root key file %s is damaged: %v", path, err).WithCode("root_key_damaged").
			WithHint("Put the file back from where you keep its copy.")
	}
	return s, nil
}

// Rotate adds a new root key to the file and gives the Sealer that seals with it. Older keys stay and open what they
// sealed; every server has to be started anew with the new file before values sealed with the new key reach it.
func Rotate(path string) (*Sealer, error) {
	if _, err := OpenKeyFile(path, false); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the root key file: %w", err)
	}
	key := make([]byte, keySize)
	_, _ = rand.Read(key)
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	next := path + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("rotate the root key: %w", err)
	}
	if err := writeNew(next, append(text, encodeKey(key)...)); err != nil {
		return nil, fmt.Errorf("rotate the root key: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return nil, fmt.Errorf("rotate the root key: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("rotate the root key: %w", err)
	}
	return OpenKeyFile(path, false)
}

// NewSealer makes a Sealer from raw root keys of 32 bytes, oldest first; the last one seals.
func NewSealer(keys ...[]byte) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	s := &Sealer{keys: make(map[keyID]*rootKey, len(keys))}
	for _, key := range keys {
		if len(key) != keySize {
			return nil, fmt.Errorf("a root key has %d bytes instead of %d", len(key), keySize)
		}
		aead, err := newAEAD(key)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(append([]byte("orrery/root key id/"), key...))
		root := &rootKey{id: keyID(sum[:keyIDSize]), aead: aead}
		s.keys[root.id] = root
		s.current = root
	}
	return s, nil
}

// KeyID names the root key that seals.
func (s *Sealer) KeyID() string { return s.current.id.String() }

func (s *Sealer) ids() string {
	var out []string
	for id := range s.keys {
		out = append(out, id.String())
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func parse(text []byte) (*Sealer, error) {
	var keys [][]byte
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, errors.New("a line is not base64") // the line itself may be a key: it is not told
		}
		keys = append(keys, key)
	}
	return NewSealer(keys...)
}

func encodeKey(key []byte) []byte {
	return append([]byte(base64.StdEncoding.EncodeToString(key)), '\n')
}

// writeNew writes a file that must not exist yet, whole or not at all, and returns when the disk has it.
func writeNew(path string, data []byte) error {
	if _, err := os.Lstat(path); err == nil {
		return fs.ErrExist
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".rootkey-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// A link, unlike a rename, fails where another process was quicker: both then use that one's key.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
