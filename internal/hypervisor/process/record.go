package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/orrery-db/orrery/internal/hypervisor"
)

// record is what the driver writes down of a place: before it makes the first trace of it, and removed after the last
// trace is gone.
type record struct {
	Spec hypervisor.Spec `json:"spec"`
	Port int             `json:"port"`
	// User is empty where the driver is not root.
	User string `json:"user,omitempty"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	// Whole: all is made, the command may run.
	Whole      bool      `json:"whole,omitempty"`
	Destroying bool      `json:"destroying,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	// Start is written before the command is started, and is in the command's environment: a driver that dies between
	// starting a command and writing its process down finds it by that.
	Start    string  `json:"start,omitempty"`
	Process  *procID `json:"process,omitempty"`
	Restarts int     `json:"restarts,omitempty"`
	Limited  string  `json:"limited,omitempty"`
}

// procID tells a process from all others that ever had or will have its number.
type procID struct {
	PID   int    `json:"pid"`
	Ticks uint64 `json:"ticks"` // start time in clock ticks after boot
	Boot  string `json:"boot"`
}

// readRecord gives an os.ErrNotExist error where there is none.
func readRecord(path string) (*record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read record %s: %w", path, err)
	}
	return r, nil
}

// writeRecord replaces the record at path as a whole. With sync it is on the disk when writeRecord returns; what
// matters to this boot only (process IDs) does without.
func writeRecord(path string, r *record, sync bool) (err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write record: %w", diskError(err))
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	_, err = f.Write(b)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write record: %w", diskError(err))
	}
	if err = os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write record: %w", diskError(err))
	}
	if sync {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
