package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// KeeperBinary gives a path of this program at which the users of places can run it: where it lies, or a copy in
// root/bin where some folder on the way is closed to them, as in root's home.
func KeeperBinary(root string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the own program: %w", err)
	}
	if os.Geteuid() != 0 || reachable(self) {
		return self, nil
	}
	dir := filepath.Join(root, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a folder for the keeper's program: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the users of places run what lies in it
		return "", err
	}
	path := filepath.Join(dir, "orrery")
	if err := copyProgram(path, "/proc/self/exe"); err != nil {
		return "", fmt.Errorf("copy the keeper's program to %s: %w", path, err)
	}
	return path, nil
}

// reachable tells whether everybody may run the program and pass through the folders that lead to it.
func reachable(path string) bool {
	for p := path; ; p = filepath.Dir(p) {
		fi, err := os.Stat(p)
		if err != nil || fi.Mode().Perm()&0o001 == 0 {
			return false
		}
		if p == filepath.Dir(p) {
			return true
		}
	}
}

// copyProgram replaces the program at path by renaming: running keepers keep the one they run.
func copyProgram(path, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.CreateTemp(filepath.Dir(path), ".orrery-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(dst.Name())
		}
	}()
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Chmod(0o755)
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	return os.Rename(dst.Name(), path)
}
