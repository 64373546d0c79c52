package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/test/plane"
)

// bookings compares what hosts have promised with the instances that are there, and wants no place unclaimed.
func bookings(ctx context.Context, c *client.Client) ([]error, error) {
	sizes := map[string]*orrery.Plan{}
	for p, err := range c.Plans(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list the plans: %w", err)
		}
		sizes[p.Name] = p
	}
	want := map[string]orrery.Capacity{}
	for ds, err := range c.Datastores(ctx, "default", client.ListOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("list the datastores: %w", err)
		}
		for in, err := range c.Instances(ctx, "default", ds.ID, client.ListOptions{}) {
			if err != nil {
				return nil, fmt.Errorf("list the instances of %s: %w", ds.Name, err)
			}
			p := sizes[in.Spec.Plan]
			if p == nil {
				return nil, fmt.Errorf("%s has plan %q, which is not there", in.Name, in.Spec.Plan)
			}
			w := want[in.Spec.Host]
			w.CPUMilli += p.CPUMilli
			w.MemoryMiB += p.MemoryMiB
			w.StorageGiB += int64(in.Spec.StorageGiB)
			want[in.Spec.Host] = w
		}
	}
	var errs []error
	for h, err := range c.Hosts(ctx, client.ListOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("list the hosts: %w", err)
		}
		if h.Allocated != want[h.ID] {
			errs = append(errs, fmt.Errorf("host %s has promised %+v, and its instances take %+v", h.Name, h.Allocated, want[h.ID]))
		}
		if len(h.Status.Unclaimed) > 0 {
			errs = append(errs, fmt.Errorf("host %s has places that nobody owns: %v", h.Name, h.Status.Unclaimed))
		}
	}
	return errs, nil
}

// orphans waits a little for what is being removed, and then names every folder and process of a place that neither an
// instance owns nor the warm pool.
func orphans(ctx context.Context, p *plane.Plane, places map[string]bool) []error {
	var errs []error
	for deadline := time.Now().Add(30 * time.Second); ; {
		errs = nil
		dirs, err := filepath.Glob(filepath.Join(p.Dir, "agent", "places", "*"))
		if err != nil {
			return []error{err}
		}
		known := map[string]bool{}
		for _, d := range dirs {
			id := filepath.Base(d)
			_, notAssigned := os.Stat(filepath.Join(d, "agent", "assignment.json"))
			warm := errors.Is(notAssigned, os.ErrNotExist)
			if places[id] || warm {
				known[d] = true
				continue
			}
			errs = append(errs, fmt.Errorf("the folder of place %s is left over", id))
		}
		databases, err := p.Postmasters()
		if err != nil {
			return []error{err}
		}
		for dir, pr := range databases {
			if !places[filepath.Base(dir)] {
				errs = append(errs, fmt.Errorf("database process %d of %s is left over", pr.PID, dir))
			}
		}
		keepers, err := p.Keepers()
		if err != nil {
			return []error{err}
		}
		for dir, pr := range keepers {
			if !known[dir] {
				errs = append(errs, fmt.Errorf("keeper process %d of %s is left over", pr.PID, dir))
			}
		}
		if len(errs) == 0 || time.Now().After(deadline) {
			return errs
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return append(errs, ctx.Err())
		}
	}
}
