package process

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

func (d *Driver) logPath(id string) string { return filepath.Join(d.dir(id), "log", "command.log") }

// openLog opens a log to append to. The command has the file open itself, so it can write while there is no driver.
func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
}

// rotate copies a log that has grown beyond limit to <path>.1 and empties it. The writer has it open for appending and
// goes on at its new end; what it writes between the last copied byte and the emptying is lost, which is an instant.
func rotate(path string, limit int64) error {
	fi, err := os.Lstat(path)
	if err != nil || fi.Size() < limit {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	from, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	old := path + ".1"
	if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to, err := os.OpenFile(old, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	// While the driver was away the log may have grown beyond all measure: the newest part is kept.
	if fi.Size() > 2*limit {
		_, err = from.Seek(-limit, io.SeekEnd)
	}
	if err == nil {
		_, err = io.Copy(to, from)
	}
	err = errors.Join(err, to.Close())
	// Emptied even when the copy failed, as on a full disk: the log must not fill it further.
	return errors.Join(err, from.Truncate(0))
}
