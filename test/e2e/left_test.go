package e2e

import (
	"bytes"
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/test/plane"
)

// restarted gives the places whose process is there in both, and another.
func restarted(before, after map[string]plane.Process) (dirs []string) {
	for dir, p := range before {
		if now, ok := after[dir]; ok && now.PID != p.PID {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// nothingLeft checks that of these instances, which have been deleted, this machine holds nothing any more.
func (w *world) nothingLeft(list []*orrery.Instance) {
	w.t.Helper()
	for _, in := range list {
		place := in.Status.Place
		if place.ID == "" {
			continue
		}
		dir := filepath.Join(w.Dir, "agent", "places", place.ID)
		if _, err := os.Stat(dir); err == nil {
			w.t.Errorf("the folder of the place %s is left", place.ID)
		}
		if left, err := plane.Processes(dir); err != nil || len(left) != 0 {
			w.t.Errorf("processes of the place %s are left: %v, %v", place.ID, left, err)
		}
		if passwd, err := os.ReadFile("/etc/passwd"); err != nil || bytes.Contains(passwd, []byte(place.ID)) {
			w.t.Errorf("the user of the place %s is left (%v)", place.ID, err)
		}
		_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.Contains(d.Name(), place.ID) {
				w.t.Errorf("the cgroup %s is left", path)
			}
			return nil // cgroups of others come and go meanwhile
		})
		if place.Port == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(place.Address, strconv.Itoa(place.Port)))
		cancel()
		if err != nil {
			w.t.Errorf("the port %d is not free: %v", place.Port, err)
			continue
		}
		l.Close()
	}
}

// noDatabases checks that no datastore, no instance and no place is left in the plane.
func (w *world) noDatabases(ctx context.Context) {
	w.t.Helper()
	for ds, err := range w.c.Datastores(ctx, "default", client.ListOptions{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Errorf("the datastore %s is left: %+v", ds.Name, ds.Status)
	}
	places, err := os.ReadDir(filepath.Join(w.Dir, "agent", "places"))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	for _, p := range places {
		w.t.Errorf("the place %s is left", p.Name())
	}
	running, err := w.Postmasters()
	if err != nil || len(running) != 0 {
		w.t.Errorf("databases are left: %v, %v", running, err)
	}
}
