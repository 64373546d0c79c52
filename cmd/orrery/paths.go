package main

import (
	"os"
	"path/filepath"
)

// paths is where a plane keeps what it keeps, below one folder.
type paths struct{ root string }

// defaultRoot is /var/lib/orrery for root, and the XDG data folder for everybody else.
func defaultRoot() string {
	if dir := os.Getenv("ORRERY_DATA_DIR"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/orrery"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "orrery")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, ".local", "share", "orrery")
}

func (p paths) etcd() string       { return filepath.Join(p.root, "server", "etcd") }
func (p paths) server() string     { return filepath.Join(p.root, "server") }
func (p paths) rootKey() string    { return filepath.Join(p.root, "server", "root.key") }
func (p paths) adminToken() string { return filepath.Join(p.root, "server", "admin-token") }
func (p paths) agent() string      { return filepath.Join(p.root, "agent") }
func (p paths) lock() string       { return filepath.Join(p.root, "plane.lock") }
func (p paths) log() string        { return filepath.Join(p.root, "log", "plane.log") }
