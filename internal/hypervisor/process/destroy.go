package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/orrery-db/orrery"
)

// Destroy implements hypervisor.Driver. The record, which says that destruction was begun, is the last to go.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if err := d.closed(); err != nil {
		return err
	}
	if !orrery.IsID(id, orrery.PrefixPlace) {
		return orrery.Invalid("id", "%q is no ID of a place", orrery.Shorten(id, 60))
	}
	p := d.hold(id, false)
	if p == nil {
		return nil
	}
	defer p.op.Unlock()
	return d.unmake(ctx, p)
}

// unmake takes a place away whole. The caller holds p.op.
func (d *Driver) unmake(ctx context.Context, p *place) error {
	d.cfg.Stage("destroy-record")
	// On a full disk nothing can be written down; then the last record, which is still there, has to do.
	if err := p.save(false, func(r *record) { r.Destroying = true; r.Spec.ID = p.id }); err != nil {
		d.log.Warn("the destruction of a place could not be written down", "place", p.id, "error", err)
	}
	d.unsupervise(p)
	if err := d.unmakeAll(ctx, p); err != nil {
		return fmt.Errorf("destroy place %s: %w", p.id, err)
	}
	d.cfg.Stage("destroy-forget")
	for _, path := range []string{d.recordPath(p.id) + ".tmp", d.recordPath(p.id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("destroy place %s: %w", p.id, err)
		}
	}
	d.forget(p)
	d.changes.tell(p.id)
	return nil
}

// unmakeAll takes away everything but the record, whatever of it is there.
func (d *Driver) unmakeAll(ctx context.Context, p *place) error {
	rec := p.record()
	rec.Spec.ID = p.id
	if d.root {
		// The record of a place that never became whole does not know its user's number.
		a, err := findAccount(d.users.nameFor(p.id))
		if err != nil {
			return err
		}
		rec.User, rec.UID = d.users.nameFor(p.id), 0
		if a != nil && a.comment == d.users.comment(p.id) {
			rec.UID = a.uid
		}
	} else {
		rec.UID = os.Getuid()
	}
	d.cfg.Stage("destroy-kill")
	if err := d.killAll(ctx, &rec); err != nil {
		return err
	}
	d.cfg.Stage("destroy-folder")
	if err := d.removeFolder(p.id); err != nil {
		return err
	}
	d.cfg.Stage("destroy-group")
	if err := d.groups.remove(ctx, p.id); err != nil {
		return err
	}
	d.cfg.Stage("destroy-user")
	if err := d.users.remove(ctx, p.id); err != nil {
		return err
	}
	d.ports.release(rec.Port)
	return nil
}

// removeFolder moves the folder out of the way first: what is half removed must not pass for a place.
func (d *Driver) removeFolder(id string) error {
	trash := filepath.Join(d.trashDir(), id)
	if err := os.RemoveAll(trash); err != nil {
		return err
	}
	if err := os.Rename(d.dir(id), trash); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(trash)
}
