package jobtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/job/jobtest"
	"github.com/orrery-db/orrery/internal/store"
	"github.com/orrery-db/orrery/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// world is a plane in small: a creation books a host, makes a folder outside the store, and inserts an object.
type world struct {
	s   *store.Store
	dir string
}

// input is the job's.
type input struct {
	Name string `json:"name"`
}

func (w *world) has() (booked int, folder, object bool) {
	h, _ := w.s.Hosts.Get("ho-1")
	_, err := os.Stat(filepath.Join(w.dir, "place"))
	_, object = w.s.Projects.Get("pr-1")
	return int(h.Status.Capacity.CPUMilli), err == nil, object
}

// book makes and removes what is booked, keyed by the job so that doing it twice books once.
func (w *world) book(ctx context.Context, c *job.Context, want bool) error {
	_, err := c.Update(ctx, func(tx *store.Tx) error {
		h, err := w.s.Hosts.TxGet(tx, "ho-1")
		if err != nil {
			return err
		}
		if h.Labels == nil {
			h.Labels = map[string]string{}
		}
		if (h.Labels[c.Job.ID] != "") == want {
			return nil
		}
		if want {
			h.Labels[c.Job.ID] = "booked"
			h.Status.Capacity.CPUMilli++
		} else {
			delete(h.Labels, c.Job.ID)
			h.Status.Capacity.CPUMilli--
		}
		return w.s.Hosts.Put(tx, h)
	})
	return err
}

func (w *world) steps() map[string]job.Def {
	return map[string]job.Def{
		"book": {
			Do:   func(ctx context.Context, c *job.Context) error { return w.book(ctx, c, true) },
			Undo: func(ctx context.Context, c *job.Context) error { return w.book(ctx, c, false) },
		},
		"place": {
			Do:   func(context.Context, *job.Context) error { return os.MkdirAll(filepath.Join(w.dir, "place"), 0o700) },
			Undo: func(context.Context, *job.Context) error { return os.RemoveAll(filepath.Join(w.dir, "place")) },
		},
		"wait": {Do: func(ctx context.Context, c *job.Context) error { return c.Save(ctx) }, Undo: job.NothingToUndo},
	}
}

func (w *world) kind() job.Kind {
	return job.Kind{Name: "create", Input: input{},
		Plan: func(context.Context, *orrery.Job) ([]orrery.JobStep, error) {
			return []orrery.JobStep{{Name: "book", Title: "Book"}, {Name: "wait", Title: "Wait"}, {Name: "place", Title: "Place"}}, nil
		},
		Finished: func(tx *store.Tx, _ *orrery.Job) error {
			return w.s.Projects.Insert(tx, &orrery.Project{Meta: orrery.Meta{ID: "pr-1", Name: "made"}})
		}}
}

func (w *world) check(j *orrery.Job) error {
	booked, folder, object := w.has()
	whole := booked == 1 && folder && object
	nothing := booked == 0 && !folder && !object
	if j.State == orrery.JobSucceeded && !whole || j.State != orrery.JobSucceeded && !nothing {
		return fmt.Errorf("booked %d times, folder %v, object %v", booked, folder, object)
	}
	return nil
}

func scenario(change func(w *world, k *job.Kind, steps map[string]job.Def)) jobtest.Scenario {
	return jobtest.Scenario{World: func(t testing.TB) *jobtest.World {
		w := &world{s: storetest.New(t), dir: t.TempDir()}
		build := func() (job.Kind, map[string]job.Def) {
			k, steps := w.kind(), w.steps()
			if change != nil {
				change(w, &k, steps)
			}
			return k, steps
		}
		k, steps := build()
		return &jobtest.World{Store: w.s, Kinds: []job.Kind{k}, Steps: steps, Check: w.check,
			Restart: func() map[string]job.Def { _, steps := build(); return steps },
			Start: func(ctx context.Context) (string, error) {
				j := &orrery.Job{Kind: k.Name, Object: "ds-1", Input: []byte(`{"name":"demo"}`)}
				_, err := w.s.Update(ctx, func(tx *store.Tx) error {
					if err := w.s.Hosts.Insert(tx, &orrery.Host{Meta: orrery.Meta{ID: "ho-1", Name: "host"}}); err != nil {
						return err
					}
					return job.Enqueue(tx, w.s, j)
				})
				return j.ID, err
			}}
	}}
}

func TestGoodKindPasses(t *testing.T) { jobtest.Torture(t, scenario(nil)) }

func TestForwardOnlyKindPasses(t *testing.T) {
	jobtest.Torture(t, scenario(func(_ *world, k *job.Kind, _ map[string]job.Def) { k.ForwardOnly = true }))
}

func TestPointOfNoReturnPasses(t *testing.T) {
	jobtest.Torture(t, scenario(func(_ *world, _ *job.Kind, steps map[string]job.Def) {
		d := steps["place"]
		d.ForwardOnly = true
		steps["place"] = d
	}))
}

// TestBrokenKindsAreCaught proves that the torture can fail: each of these has one of the usual faults.
func TestBrokenKindsAreCaught(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world, k *job.Kind, steps map[string]job.Def)
		trial  string // which must be among those that catch it
	}{
		"undo forgotten": {func(_ *world, _ *job.Kind, steps map[string]job.Def) {
			d := steps["place"]
			d.Undo = job.NothingToUndo
			steps["place"] = d
		}, "step 2 fails after it was done"},
		"not idempotent": {func(w *world, _ *job.Kind, steps map[string]job.Def) {
			d := steps["book"]
			d.Do = func(ctx context.Context, c *job.Context) error {
				_, err := c.Update(ctx, func(tx *store.Tx) error {
					h, err := w.s.Hosts.TxGet(tx, "ho-1")
					if err != nil {
						return err
					}
					h.Labels = map[string]string{c.Job.ID: "booked"}
					h.Status.Capacity.CPUMilli++
					return w.s.Hosts.Put(tx, h)
				})
				return err
			}
			steps["book"] = d
		}, "each step twice"},
		"undo not idempotent": {func(w *world, _ *job.Kind, steps map[string]job.Def) {
			d := steps["place"]
			d.Undo = func(context.Context, *job.Context) error {
				return job.Retry(os.Remove(filepath.Join(w.dir, "place")), job.Permanent)
			}
			steps["place"] = d
		}, "each undo twice"},
		"undo that wants the step done": {func(w *world, _ *job.Kind, steps map[string]job.Def) {
			d := steps["place"]
			d.Undo = func(context.Context, *job.Context) error {
				return job.Retry(os.Remove(filepath.Join(w.dir, "place")), job.Permanent)
			}
			steps["place"] = d
		}, "step 2 fails"},
		"remembers in the process": {func(w *world, _ *job.Kind, steps map[string]job.Def) {
			made := false
			steps["place"] = job.Def{
				Do: func(context.Context, *job.Context) error {
					made = true
					return os.MkdirAll(filepath.Join(w.dir, "place"), 0o700)
				},
				Undo: func(context.Context, *job.Context) error {
					if !made {
						return nil
					}
					return os.RemoveAll(filepath.Join(w.dir, "place"))
				}}
		}, "step 2 fails, then killed at"},
		"passes over a cancellation": {func(w *world, k *job.Kind, _ map[string]job.Def) {
			k.Undone = func(tx *store.Tx, j *orrery.Job) error {
				if j.StartedAt != nil {
					return nil
				}
				return w.s.Projects.Insert(tx, &orrery.Project{Meta: orrery.Meta{ID: "pr-1", Name: "left"}})
			}
		}, "cancelled while queued"},
		"secret in the input": {func(_ *world, k *job.Kind, _ map[string]job.Def) {
			k.Input = struct {
				Password string `json:"password"`
			}{}
		}, "plain"},
		"fails plainly": {func(_ *world, _ *job.Kind, steps map[string]job.Def) {
			steps["wait"] = job.Def{Undo: job.NothingToUndo, Do: func(context.Context, *job.Context) error {
				return job.Retry(errors.New("never works"), job.Permanent)
			}}
		}, "plain"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := jobtest.Find(t, scenario(c.change))
			for _, f := range faults {
				if strings.HasPrefix(f.Trial, c.trial) {
					return
				}
			}
			t.Errorf("trial %q does not catch it; the faults found are %v", c.trial, faults)
		})
	}
}
