package seal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/orrery-db/orrery"
)

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if e, ok := errors.AsType[*orrery.Error](err); !ok || e.Code != code || e.Hint == "" {
		t.Fatalf("error is %v, want code %s with a hint", err, code)
	}
}

func newFile(t *testing.T) (string, *Sealer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.key")
	s, err := OpenKeyFile(path, true)
	if err != nil {
		t.Fatal(err)
	}
	return path, s
}

func TestSealAndOpen(t *testing.T) {
	path, s := newFile(t)
	for _, text := range []string{"", "p", strings.Repeat("long ", 10_000)} {
		sealed, err := s.Seal("ds-1", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 1 && bytes.Contains(sealed, []byte(text)) {
			t.Fatal("the text shows")
		}
		again, err := s.Seal("ds-1", []byte(text))
		if err != nil || bytes.Equal(sealed, again) {
			t.Fatal("the same text seals to the same bytes")
		}
		reopened, err := OpenKeyFile(path, true) // must not make another key
		if err != nil {
			t.Fatal(err)
		}
		if got, err := reopened.Open("ds-1", sealed); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
		_, err = s.Open("ds-2", sealed)
		wantCode(t, err, "secret_damaged")
	}
}

func TestEveryByteCounts(t *testing.T) {
	_, s := newFile(t)
	sealed, err := s.Seal("ds-1", []byte("hush"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := s.Open("ds-1", bad); err == nil {
			t.Fatalf("opened with byte %d changed", i)
		}
		if _, err := s.Open("ds-1", sealed[:i]); err == nil {
			t.Fatalf("opened the first %d bytes", i)
		}
	}
}

func TestRotation(t *testing.T) {
	path, old := newFile(t)
	sealed, err := old.Seal("ds-1", []byte("hush"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.KeyID() == old.KeyID() || s.Current(sealed) {
		t.Fatal("the root key is still the old one")
	}
	if got, err := s.Open("ds-1", sealed); err != nil || string(got) != "hush" {
		t.Fatalf("%q, %v", got, err)
	}
	moved, err := s.Rewrap("ds-1", sealed)
	if err != nil || !s.Current(moved) {
		t.Fatal(err)
	}
	if got, err := s.Open("ds-1", moved); err != nil || string(got) != "hush" {
		t.Fatalf("%q, %v", got, err)
	}
	_, err = old.Open("ds-1", moved)
	wantCode(t, err, "root_key_missing")
	if _, err := s.Rewrap("ds-2", sealed); err == nil {
		t.Fatal("rewrapped for another object")
	}
}

func TestKeyFileErrors(t *testing.T) {
	path, _ := newFile(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	_, err := OpenKeyFile(path+".other", false)
	wantCode(t, err, "root_key_missing")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = OpenKeyFile(path, true)
	wantCode(t, err, "root_key_exposed")
	for _, text := range []string{"", "# only a comment\n", "no base64!\n", "c2hvcnQ=\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenKeyFile(path, true)
		wantCode(t, err, "root_key_damaged")
	}
}

func TestServersThatStartTogetherShareTheKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			s, err := OpenKeyFile(path, true)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = s.KeyID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("keys %v", ids)
		}
	}
}
