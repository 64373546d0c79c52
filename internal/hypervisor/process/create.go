package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// Create implements hypervisor.Driver. A whole place is given back as it is; the command and environment of the spec
// are taken on when its command is next started. What Create began and cannot finish it takes away again.
func (d *Driver) Create(ctx context.Context, spec hypervisor.Spec) (hypervisor.Place, error) {
	if err := checkSpec(spec); err != nil {
		return hypervisor.Place{}, err
	}
	if err := d.closed(); err != nil {
		return hypervisor.Place{}, err
	}
	p := d.hold(spec.ID, true)
	defer p.op.Unlock()
	rec := p.record()
	switch {
	case rec.Destroying:
		return hypervisor.Place{}, orrery.Errorf(orrery.KindConflict, "place %s is being destroyed", spec.ID).WithCode("place_destroying")
	case p.broken != "":
		// Nobody knows what was begun there. Where a command has been at work there may be data.
		if used, err := d.used(spec.ID); err != nil || used {
			return hypervisor.Place{}, orrery.Errorf(orrery.KindConflict, "place %s holds files, and its record cannot be read", spec.ID).
				WithCode("place_unreadable").WithHint("Save what is needed of its folder, then destroy it.").WithCause(err)
		}
	case rec.Whole:
		if !slices.Equal(rec.Spec.Command, spec.Command) || !slices.Equal(rec.Spec.Env, spec.Env) {
			err := p.save(true, func(r *record) { r.Spec.Command, r.Spec.Env = slices.Clone(spec.Command), slices.Clone(spec.Env) })
			if err != nil {
				return hypervisor.Place{}, err
			}
		}
		d.supervise(p, nil) //nolint:contextcheck // goes on after this call
		return p.view(), nil
	}
	first, err := d.make(ctx, p, spec)
	if err != nil {
		err = fmt.Errorf("make place %s: %w", spec.ID, diskError(err))
		if undo := d.unmake(context.WithoutCancel(ctx), p); undo != nil {
			d.log.Error("a place that could not be made could not be taken away either", "place", spec.ID, "error", undo)
		}
		return hypervisor.Place{}, err
	}
	d.supervise(p, first) //nolint:contextcheck // goes on after this call
	return p.view(), nil
}

// make makes everything that a place has, and starts its command for the first time.
func (d *Driver) make(ctx context.Context, p *place, spec hypervisor.Spec) (*command, error) {
	if err := d.checkRoom(); err != nil {
		return nil, err
	}
	d.cfg.Stage("record")
	if err := d.reserve(ctx, p, spec); err != nil {
		return nil, err
	}
	d.cfg.Stage("user")
	uid, gid, err := d.users.ensure(ctx, spec.ID)
	if err != nil {
		return nil, err
	}
	d.cfg.Stage("folder")
	if err := d.makeFolder(spec.ID, uid, gid); err != nil {
		return nil, err
	}
	d.cfg.Stage("group")
	limited := d.limit(spec.ID, spec.Limits)
	d.cfg.Stage("whole")
	if err := p.save(true, func(r *record) {
		r.UID, r.GID, r.Limited, r.Whole = uid, gid, limited, true
	}); err != nil {
		return nil, err
	}
	d.cfg.Stage("start")
	return d.start(p, false)
}

// reserve writes down the first of a place: its ID, its port, and the name its user will have. A half-made place
// keeps its port.
func (d *Driver) reserve(ctx context.Context, p *place, spec hypervisor.Spec) error {
	rec := p.record()
	if p.broken != "" { // and its folder is unused: begun anew
		if err := d.unmakeAll(context.WithoutCancel(ctx), p); err != nil {
			return err
		}
		p.set(func(p *place) { p.broken = "" })
		rec = record{}
	}
	port, err := rec.Port, error(nil)
	if port == 0 {
		if port, err = d.ports.take(); err != nil {
			return err
		}
	}
	spec.Labels, spec.Command, spec.Env = maps.Clone(spec.Labels), slices.Clone(spec.Command), slices.Clone(spec.Env)
	err = p.save(true, func(r *record) {
		*r = record{Spec: spec, Port: port, User: d.users.nameFor(spec.ID), CreatedAt: time.Now().UTC()}
		if !d.root {
			r.UID, r.GID = os.Getuid(), os.Getgid()
		}
	})
	if err != nil && rec.Port == 0 {
		d.ports.release(port)
	}
	return err
}

// makeFolder makes the folder of a place. Where the place has a user of its own, the folder itself is root's and
// sticky: the user can make what it likes in it, and can neither replace agent/, which the agent writes into as root,
// nor its log, which the driver writes as root.
func (d *Driver) makeFolder(id string, uid, gid int) error {
	dir := d.dir(id)
	mode, sticky := os.FileMode(0o700), os.FileMode(0o700)
	owner := uid
	if d.root {
		mode, sticky, owner = 0o750, 0o770|os.ModeSticky, 0
	}
	for _, f := range []struct {
		path string
		mode os.FileMode
	}{{dir, sticky}, {filepath.Join(dir, "agent"), mode}, {filepath.Join(dir, "log"), sticky}} {
		if err := os.Mkdir(f.path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Lchown(f.path, owner, gid); err != nil {
			return err
		}
		if err := os.Chmod(f.path, f.mode); err != nil {
			return err
		}
	}
	log, err := openLog(d.logPath(id))
	if err != nil {
		return err
	}
	if d.root {
		err = log.Chown(0, gid)
	}
	return errors.Join(err, log.Close())
}

// used tells whether there is more in the place's folder than the driver puts there.
func (d *Driver) used(id string) (bool, error) {
	entries, err := os.ReadDir(d.dir(id))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != "agent" && e.Name() != "log" }), err
}

// limit sets the limits of a place and says how they are enforced.
func (d *Driver) limit(id string, l hypervisor.Limits) string {
	if err := d.groups.set(id, l); err != nil {
		d.log.Warn("a place is not limited", "place", id, "error", err)
		return "not limited: " + err.Error()
	}
	return d.groups.describe()
}

// checkRoom refuses before the disk is full: a place that dies of a full disk takes its neighbours with it.
func (d *Driver) checkRoom() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.cfg.Root, &fs); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", d.cfg.Root, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize >> 20; free < d.cfg.MinFreeMiB {
		return diskFull().WithCause(fmt.Errorf("%d MiB are free in %s, %d are wanted", free, d.cfg.Root, d.cfg.MinFreeMiB))
	}
	return nil
}

// Update implements hypervisor.Driver.
func (d *Driver) Update(_ context.Context, id string, limits hypervisor.Limits, labels map[string]string) (hypervisor.Place, error) {
	if err := errors.Join(checkLimits(limits), checkLabels(labels), d.closed()); err != nil {
		return hypervisor.Place{}, err
	}
	p := d.hold(id, false)
	if p == nil {
		return hypervisor.Place{}, orrery.NotFound("place", id)
	}
	defer p.op.Unlock()
	rec := p.record()
	if !rec.Whole || rec.Destroying || p.view().State == orrery.PlaceFailed {
		return hypervisor.Place{}, orrery.Errorf(orrery.KindConflict, "place %s is half-made", id).WithCode("place_half_made")
	}
	limited := rec.Limited
	if limits != rec.Spec.Limits {
		limited = d.limit(id, limits)
	}
	if err := p.save(true, func(r *record) {
		r.Spec.Limits, r.Spec.Labels, r.Limited = limits, maps.Clone(labels), limited
	}); err != nil {
		return hypervisor.Place{}, err
	}
	return p.view(), nil
}
