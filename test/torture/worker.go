package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/test/plane"
)

// record is what a worker knows of one datastore that it made: the checker holds the plane to it.
type record struct {
	mu       sync.Mutex
	name     string
	id       string
	user     string
	password string
	engine   string
	accepted bool // the creation was accepted
	deleted  bool // the deletion was accepted
	rows     []int
}

// history is what all workers know.
type history struct {
	mu         sync.Mutex
	datastores map[string]*record
	done       int // changes that were accepted
	refused    int
	unwritten  int   // rows that were not acknowledged
	lastError  error // of a row that was not acknowledged
}

func (h *history) counts() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	rows := 0
	for _, r := range h.datastores {
		rows += len(r.rows)
	}
	return fmt.Sprintf("%d datastores, %d changes accepted, %d refused, %d rows acknowledged, %d not (%v)",
		len(h.datastores), h.done, h.refused, rows, h.unwritten, h.lastError)
}

// worker is a person who makes and changes datastores of their own, through whatever is left of the plane.
type worker struct {
	id      int
	n       int
	plane   *plane.Plane
	history *history
	rand    *rand.Rand
	mine    []*record
}

const maxEach = 3

func (w *worker) run(ctx context.Context) error {
	for ctx.Err() == nil {
		c, err := w.plane.Client()
		if err != nil {
			return err
		}
		// A change is never cut in the middle by the end of the storm: its fate would be unknown.
		step, cancel := context.WithTimeout(context.WithoutCancel(ctx), 60*time.Second)
		err = w.act(step, ctx, c)
		cancel()
		var e *orrery.Error
		if err != nil && !errors.As(err, &e) && !errors.Is(err, context.DeadlineExceeded) {
			log.Printf("worker %d: %v", w.id, err)
		}
		if errors.As(err, &e) && e.Kind == orrery.KindInternal {
			return fmt.Errorf("the plane says that it is at fault: %w", err)
		}
		t := time.NewTimer(time.Duration(w.rand.IntN(1500)) * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	return nil
}

// act does one thing; what the plane accepted is written down.
func (w *worker) act(ctx, storm context.Context, c *client.Client) error {
	if len(w.mine) == 0 || (len(w.mine) < maxEach && w.rand.IntN(3) == 0) {
		return w.create(ctx, c)
	}
	i := w.rand.IntN(len(w.mine))
	r := w.mine[i]
	var ch *client.Changed
	var err error
	switch w.rand.IntN(12) {
	case 0:
		ch, err = c.DeleteDatastore(ctx, "default", r.id)
		if err == nil || orrery.KindOf(err) == orrery.KindNotFound {
			r.deleted = true
			w.mine = append(w.mine[:i], w.mine[i+1:]...)
		}
	case 1, 2:
		n := 1 + w.rand.IntN(3)
		ch, err = c.UpdateDatastore(ctx, "default", r.id, 0, client.DatastorePatch{Spec: &client.SpecPatch{Instances: &n}})
	case 3:
		ch, err = c.ActOnDatastore(ctx, "default", r.id, "restart")
	case 4:
		value := strconv.Itoa(1+w.rand.IntN(8)) + "MB"
		ch, err = c.SetParameters(ctx, "default", r.id, map[string]*string{"work_mem": &value})
	case 5:
		ch, err = c.CreateUser(ctx, "default", r.id, client.NewUser{Name: fmt.Sprintf("u%d", w.rand.IntN(1000000)), Access: orrery.AccessReadOnly})
	default:
		return w.write(ctx, c, r)
	}
	w.count(err)
	if err != nil {
		return err
	}
	if ch != nil && ch.Job != nil && w.rand.IntN(2) == 0 {
		// Waiting, though, may end at any time; a person has more to do than to look on.
		patience, cancel := context.WithTimeout(storm, 15*time.Second)
		defer cancel()
		_, err = c.WaitJob(patience, ch.Job.ID, nil)
		var failed *client.JobFailed
		if errors.As(err, &failed) {
			log.Printf("worker %d: %v", w.id, err)
			return nil
		}
	}
	return err
}

func (w *worker) create(ctx context.Context, c *client.Client) error {
	w.n++
	r := &record{name: fmt.Sprintf("w%d-%d", w.id, w.n), engine: "postgres", password: "secret-of-" + strconv.Itoa(w.n) + "-0123456789"}
	made, err := c.CreateDatastore(ctx, "default", client.NewDatastore{Name: r.name, Password: r.password,
		Spec: orrery.DatastoreSpec{Engine: r.engine, Plan: "nano", Instances: 1 + w.rand.IntN(2)}})
	w.count(err)
	if err != nil {
		return err
	}
	r.accepted, r.id, r.user = true, made.Datastore.ID, made.Datastore.Spec.Users[0].Name
	w.history.mu.Lock()
	w.history.datastores[r.id] = r
	w.history.mu.Unlock()
	w.mine = append(w.mine, r)
	return nil
}

// write puts a row into the datastore; a row that was acknowledged must be there in the end.
func (w *worker) write(ctx context.Context, c *client.Client, r *record) error {
	ds, err := c.Datastore(ctx, "default", r.id)
	if err != nil {
		return err
	}
	n := w.rand.IntN(1 << 30)
	if ds.Status.ReadyInstances == 0 {
		return nil // still being made, or just killed
	}
	if err := insert(ctx, c, ds, r, n); err != nil {
		w.history.mu.Lock()
		w.history.unwritten++
		w.history.lastError = err
		w.history.mu.Unlock()
		return nil //nolint:nilerr // databases are being killed; only acknowledged rows count
	}
	r.mu.Lock()
	r.rows = append(r.rows, n)
	r.mu.Unlock()
	return nil
}

func (w *worker) count(err error) {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	if err != nil {
		w.history.refused++
		return
	}
	w.history.done++
}
