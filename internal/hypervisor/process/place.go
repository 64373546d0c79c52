package process

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// place is one place in memory.
type place struct {
	d  *Driver
	id string
	op sync.Mutex // one of Create, Update, Destroy at a time

	mu      sync.Mutex // guards what follows
	rec     record
	running bool   // the command runs
	message string // of the command: why it does not run
	port    string // of the port: who has taken it
	broken  string // the record cannot be read
	// supervise's own end and its sign of having ended; nil while nothing is supervised.
	stop context.CancelFunc
	done chan struct{}
}

// view gives the place as it is now.
func (p *place) view() hypervisor.Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := hypervisor.Place{
		ID: p.id, Labels: maps.Clone(p.rec.Spec.Labels), Dir: p.d.dir(p.id), UID: p.rec.UID, GID: p.rec.GID, Port: p.rec.Port,
		Restarts: p.rec.Restarts, Limited: p.rec.Limited, Message: p.message,
	}
	if v.Message == "" {
		v.Message = p.port
	}
	switch {
	case p.broken != "":
		v.State, v.Message = orrery.PlaceFailed, p.broken
	case p.rec.Destroying:
		v.State, v.Message = orrery.PlaceFailed, "its destruction was begun"
	case !p.rec.Whole:
		v.State, v.Message = orrery.PlaceCreating, "its making was begun"
	case p.running:
		v.State = orrery.PlaceRunning
		v.PID = p.rec.Process.PID
	default:
		v.State = orrery.PlaceRestarting
	}
	return v
}

// save changes the record in memory and on the disk, or neither.
func (p *place) save(sync bool, change func(r *record)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.rec
	change(&next)
	if err := writeRecord(p.d.recordPath(p.id), &next, sync); err != nil {
		return fmt.Errorf("place %s: %w", p.id, err)
	}
	p.rec = next
	return nil
}

// record gives a copy that nobody changes.
func (p *place) record() record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec
}

// set changes the state in memory and tells.
func (p *place) set(change func(p *place)) {
	p.mu.Lock()
	change(p)
	p.mu.Unlock()
	p.d.changes.tell(p.id)
}

// get gives the place with the ID; with make, a new one where there is none.
func (d *Driver) get(id string, create bool) *place {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.places[id]
	if p == nil && create {
		p = &place{d: d, id: id}
		d.places[id] = p
	}
	return p
}

// hold gives the place locked for one operation, nil where there is none and none is to be made.
func (d *Driver) hold(id string, create bool) *place {
	for {
		p := d.get(id, create)
		if p == nil {
			return nil
		}
		p.op.Lock()
		if d.get(id, false) == p {
			return p
		}
		p.op.Unlock() // destroyed while this call waited
	}
}

func (d *Driver) forget(p *place) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.places[p.id] == p {
		delete(d.places, p.id)
	}
}
