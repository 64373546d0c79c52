package postgres

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func archive(t *testing.T, entries ...string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		name, content, isFile := strings.Cut(e, "=")
		h := &tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
		if isFile {
			h = &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// tree lists files with their content, and folders.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		if e.IsDir() {
			lines = append(lines, name+"/")
			return nil
		}
		b, err := os.ReadFile(path)
		lines = append(lines, name+"="+string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, " ")
}

func TestUnpackWritesOver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := unpack(mkdir(t, dir), archive(t, "base", "base/1", "base/1/10=old and longer", "base/1/11=gone", "base/2", "base/2/20=gone", "pg_wal", "pg_wal/1=gone", "global", "global/pg_control=old")); err != nil {
		t.Fatal(err)
	}
	if err := unpack(dir, archive(t, "base/1/10=new", "pg_wal", "pg_twophase", "global/pg_control=new", "base/3/30=x")); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, dir), "base/ base/1/ base/1/10=new base/3/ base/3/30=x global/ global/pg_control=new pg_twophase/ pg_wal/"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUnpackRefuses(t *testing.T) {
	whole := archive(t, "global/pg_control=x", "base/1=0123456789").Bytes()
	for what, b := range map[string][]byte{
		"a path that leads out": archive(t, "../x=1", "global/pg_control=x").Bytes(), "an absolute path": archive(t, "/tmp/x=1", "global/pg_control=x").Bytes(),
		"no pg_control": archive(t, "base/1=1").Bytes(), "an early end": whole[:1030], "nothing": nil,
	} {
		if err := unpack(mkdir(t, filepath.Join(t.TempDir(), "data")), bytes.NewReader(b)); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
