package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/orrery-db/orrery/test/plane"
)

// plants are faults made by hand after a storm: proof that the check can fail. Each gives what takes it away again.
var plants = map[string]func(context.Context, *plane.Plane, *history) (undo func(), err error){
	"folder":  plantFolder,
	"process": plantProcess,
	"row":     plantRow,
	"loss":    plantLoss,
	"zombie":  plantZombie,
	"setting": plantSetting,
}

func plantNames() []string { return slices.Sorted(maps.Keys(plants)) }

// plantFolder leaves the folder of a place that nobody owns.
func plantFolder(_ context.Context, p *plane.Plane, _ *history) (func(), error) {
	dir := filepath.Join(p.Dir, "agent", "places", "pl-planted", "agent")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	err := os.WriteFile(filepath.Join(dir, "assignment.json"), []byte("{}"), 0o600)
	return func() { _ = os.RemoveAll(filepath.Dir(dir)) }, err
}

// plantProcess leaves what looks like the keeper of a place that is gone.
func plantProcess(_ context.Context, p *plane.Plane, _ *history) (func(), error) {
	dir := filepath.Join(p.Dir, "agent", "places", "pl-planted")
	cmd := exec.Command("sh", "-c", "sleep 600; :", "orrery", "keeper", "--dir", dir) //nolint:noctx // undo ends it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() }, nil
}

// plantRow writes one row and claims that a second one was acknowledged.
func plantRow(ctx context.Context, p *plane.Plane, h *history) (func(), error) {
	r, err := h.alive()
	if err != nil {
		return nil, err
	}
	c, err := p.Client()
	if err != nil {
		return nil, err
	}
	ds, err := c.Datastore(ctx, "default", r.id)
	if err != nil {
		return nil, err
	}
	if err := insert(ctx, c, ds, r, 1); err != nil {
		return nil, err
	}
	r.rows = append(r.rows, 1, -1)
	return func() {}, nil
}

// plantLoss deletes a datastore behind the history's back.
func plantLoss(ctx context.Context, p *plane.Plane, h *history) (func(), error) {
	r, err := h.alive()
	if err != nil {
		return nil, err
	}
	c, err := p.Client()
	if err != nil {
		return nil, err
	}
	_, err = c.DeleteDatastore(ctx, "default", r.id)
	return func() {}, err
}

// plantZombie claims that a datastore was deleted which was not.
func plantZombie(_ context.Context, _ *plane.Plane, h *history) (func(), error) {
	r, err := h.alive()
	if err != nil {
		return nil, err
	}
	r.deleted = true
	return func() {}, nil
}

// plantSetting sets a parameter inside a database to something else than its spec says.
func plantSetting(ctx context.Context, p *plane.Plane, h *history) (func(), error) {
	r, err := h.alive()
	if err != nil {
		return nil, err
	}
	c, err := p.Client()
	if err != nil {
		return nil, err
	}
	value := "9MB"
	changed, err := c.SetParameters(ctx, "default", r.id, map[string]*string{"work_mem": &value})
	if err != nil {
		return nil, err
	}
	if _, err := c.WaitJob(ctx, changed.Job.ID, nil); err != nil {
		return nil, err
	}
	ds, err := c.Datastore(ctx, "default", r.id)
	if err != nil {
		return nil, err
	}
	conn, err := connect(ctx, c, ds, r)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "alter role current_user set work_mem = '10MB'")
	return func() {}, err
}

// alive gives a datastore that is to be there.
func (h *history) alive() (*record, error) {
	for _, id := range slices.Sorted(maps.Keys(h.datastores)) {
		if r := h.datastores[id]; !r.deleted {
			return r, nil
		}
	}
	return nil, errors.New("the storm left no datastore to harm")
}
