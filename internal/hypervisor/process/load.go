package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

// load finds every place that has left a trace, and takes up its life where it was.
func (d *Driver) load() error {
	ids := map[string]bool{}
	for _, dir := range []string{d.recordsDir(), d.placesDir(), d.trashDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			id := strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".tmp"), ".json")
			if orrery.IsID(id, orrery.PrefixPlace) {
				ids[id] = true
			}
		}
	}
	for _, id := range d.groups.list() {
		if orrery.IsID(id, orrery.PrefixPlace) {
			ids[id] = true
		}
	}
	strays, err := d.users.strays()
	if err != nil {
		return err
	}
	for _, id := range strays {
		ids[id] = true
	}
	for id := range ids {
		d.loadPlace(id)
	}
	return nil
}

func (d *Driver) loadPlace(id string) {
	p := d.get(id, true)
	rec, err := readRecord(d.recordPath(id))
	switch {
	case err == nil:
		p.rec = *rec
		p.rec.Spec.ID = id
		d.ports.adopt(rec.Port)
	case errors.Is(err, os.ErrNotExist) && !d.hasFolder(id):
		// A group or a user that was made or removed when the power went: nothing of worth hangs on it.
		p.rec.Destroying = true
	default:
		// There may be data. A person, or whoever wished the place, decides.
		p.broken = "its record cannot be read"
		d.log.Error("the record of a place cannot be read", "place", id, "error", err)
		return
	}
	switch {
	case p.rec.Destroying:
		// Begun destruction is finished: part of the data may be gone.
		d.wg.Go(func() {
			p := d.hold(id, false)
			if p == nil {
				return // destroyed meanwhile
			}
			defer p.op.Unlock()
			if !p.record().Destroying {
				return // and made again
			}
			if err := d.unmake(d.ctx, p); err != nil {
				d.log.Error("a place could not be destroyed to the end", "place", id, "error", err)
			}
		})
	case p.rec.Whole:
		if p.rec.Process != nil && p.rec.Process.Boot != d.boot {
			d.regroup(p)
		}
		d.supervise(p, nil)
	}
}

// regroup makes the control group again, which does not outlive a boot.
func (d *Driver) regroup(p *place) { p.rec.Limited = d.limit(p.id, p.rec.Spec.Limits) }

func (d *Driver) hasFolder(id string) bool {
	_, err := os.Lstat(filepath.Join(d.placesDir(), id))
	return err == nil
}

// watch looks after what gives no signal: the size of logs, and who listens on the ports of places.
func (d *Driver) watch() {
	tick := time.NewTicker(d.cfg.CheckEvery)
	defer tick.Stop()
	own := ownSockets{}
	for {
		d.mu.Lock()
		all := make([]*place, 0, len(d.places))
		for _, p := range d.places {
			all = append(all, p)
		}
		d.mu.Unlock()
		for _, p := range all {
			if err := rotate(d.logPath(p.id), d.cfg.LogMaxBytes); err != nil {
				d.log.Warn("the log of a place cannot be rotated", "place", p.id, "error", err)
			}
		}
		d.checkPorts(all, own)
		select {
		case <-tick.C:
		case <-d.ctx.Done():
			return
		}
	}
}
