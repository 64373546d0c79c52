package postgres

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// backupReader takes the messages of a base backup. The server sends the start position, the list of tablespaces with
// their sizes, the archives, and the end position.
type backupReader struct {
	framed   bool // from 15 on each piece of data says what it is
	unpacker *unpacker
	progress func(done, total int64)

	resultSets  int
	tablespaces int
	archives    int
	done, total int64
}

// handle takes one message and tells whether it was the last.
func (r *backupReader) handle(msg pgproto3.BackendMessage) (bool, error) {
	switch m := msg.(type) {
	case *pgproto3.ErrorResponse:
		return false, fmt.Errorf("the primary refuses: %w", pgconn.ErrorResponseToPgError(m))
	case *pgproto3.RowDescription:
		r.resultSets++
	case *pgproto3.DataRow:
		if r.resultSets == 2 {
			return false, r.tablespace(m)
		}
	case *pgproto3.CopyOutResponse:
		r.archives++
	case *pgproto3.CopyData:
		return false, r.data(m.Data)
	case *pgproto3.ReadyForQuery:
		if r.archives == 0 {
			return false, errors.New("the primary sent no backup")
		}
		return true, nil
	}
	return false, nil
}

// tablespace takes a row of (oid, location, size in kB); the data folder itself has no oid.
func (r *backupReader) tablespace(m *pgproto3.DataRow) error {
	r.tablespaces++
	if len(m.Values) < 3 || m.Values[0] != nil || r.tablespaces > 1 {
		return errors.New("the primary has tablespaces, which Orrery does not make and cannot clone")
	}
	kb, err := strconv.ParseInt(string(m.Values[2]), 10, 64)
	if err == nil {
		r.total = kb * 1024
	}
	return nil
}

func (r *backupReader) data(b []byte) error {
	if r.framed {
		if len(b) == 0 {
			return errors.New("an empty message in the base backup")
		}
		kind := b[0]
		b = b[1:]
		switch kind {
		case 'd':
		default: // 'n' begins an archive, of which there is only one; 'p' tells how far it is, which shows by itself
			return nil
		}
	}
	if _, err := r.unpacker.Write(b); err != nil {
		return err
	}
	r.done += int64(len(b))
	r.total = max(r.total, r.done) // the size was an estimate
	if r.progress != nil {
		r.progress(r.done, r.total)
	}
	return nil
}

// unpacker writes the files of a tar archive that is written to it.
type unpacker struct {
	*io.PipeWriter
	ended chan error
}

func newUnpacker(dir string) (*unpacker, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for the clone: %w", err)
	}
	pr, pw := io.Pipe()
	u := &unpacker{PipeWriter: pw, ended: make(chan error, 1)}
	go func() {
		err := unpack(dir, pr)
		_ = pr.CloseWithError(err) // a writer must not wait for a reader that has gone
		u.ended <- err
	}()
	return u, nil
}

// finish says that the archive is whole and waits until it is written.
func (u *unpacker) finish() error {
	_ = u.PipeWriter.Close()
	err := <-u.ended
	u.ended <- err // for close
	return err
}

// close ends the unpacking wherever it is.
func (u *unpacker) close() {
	_ = u.CloseWithError(errors.New("cut off"))
	if err := <-u.ended; err != nil { // of being cut off, or told by finish already
		u.ended <- err
	}
}

// unpack writes the archive into dir. What lies there already is written over where the archive has it, and removed
// where it has not.
func unpack(dir string, r io.Reader) error {
	t := tar.NewReader(r)
	buf := make([]byte, 256<<10)
	has := map[string]bool{".": true}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the base backup: %w", err)
		}
		name := filepath.Clean(filepath.FromSlash(h.Name))
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the base backup has a file outside of its folder: %q", h.Name)
		}
		path := filepath.Join(dir, name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o700)
		case tar.TypeReg:
			err = unpackFile(path, t, h.Size, buf)
		default:
			err = fmt.Errorf("%q is neither file nor folder", h.Name)
		}
		if err != nil {
			return fmt.Errorf("write the clone: %w", err)
		}
		for ; !has[name]; name = filepath.Dir(name) {
			has[name] = true
		}
	}
	if !has[filepath.Join("global", "pg_control")] {
		return errors.New("the base backup ended early: it has no pg_control")
	}
	// The archive's end may be followed by padding that the primary still has to get rid of.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	return removeOthers(dir, has)
}

func unpackFile(path string, r io.Reader, size int64, buf []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		}
	}
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, buf)
	if err == nil {
		err = cutTo(f, size)
	}
	return errors.Join(err, f.Close())
}

// cutTo takes away what a longer file of the same name had.
func cutTo(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() == size {
		return err
	}
	return f.Truncate(size)
}

// removeOthers removes what is not in has. It matters: WAL or a relation's file of another lineage must not be found.
func removeOthers(dir string, has map[string]bool) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || has[name] {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if e.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
}
