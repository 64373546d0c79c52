package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/test/plane"
)

// checkAll waits until the plane is quiet and then compares everything that is there with everything that was accepted.
func checkAll(ctx context.Context, p *plane.Plane, h *history) error {
	c, err := p.Client()
	if err != nil {
		return err
	}
	if err := jobsEnd(ctx, c); err != nil {
		return err
	}
	there, err := settled(ctx, c)
	if err != nil {
		return err
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	wanted := 0
	places := map[string]bool{}
	for id, r := range h.datastores {
		ds, ok := there[id]
		failedCreate, err := createFailed(ctx, c, id)
		if err != nil {
			return err
		}
		switch {
		case r.deleted || failedCreate:
			if ok {
				fail("%s (%s) was deleted and is still there: %s", r.name, id, ds.Status.State)
			}
			continue
		case !ok:
			fail("%s (%s) was accepted and is lost", r.name, id)
			continue
		}
		instances, err := client.Collect(c.Instances(ctx, "default", id, client.ListOptions{}))
		if err != nil {
			return err
		}
		if len(instances) != ds.Spec.Instances {
			fail("%s wants %d instances and has %d", r.name, ds.Spec.Instances, len(instances))
		}
		for _, in := range instances {
			places[in.Status.Place.ID] = true
			wanted++
		}
		if err := inside(ctx, c, ds, r); err != nil {
			fail("%s: %w", r.name, err)
		}
	}
	for id, ds := range there {
		if _, ok := h.datastores[id]; !ok {
			// A creation whose answer was lost may have been accepted: it must be whole, and was checked to be available.
			log.Printf("%s was accepted, but its answer got lost", ds.Name)
			instances, err := client.Collect(c.Instances(ctx, "default", id, client.ListOptions{}))
			if err != nil {
				return err
			}
			for _, in := range instances {
				places[in.Status.Place.ID] = true
				wanted++
			}
		}
	}
	booked, err := bookings(ctx, c)
	if err != nil {
		return err
	}
	errs = append(errs, booked...)
	errs = append(errs, orphans(ctx, p, places)...)
	if len(errs) == 0 {
		log.Printf("checked: %d datastores with %d instances are as they should be, and nothing else is there", len(there), wanted)
	}
	return errors.Join(errs...)
}

// jobsEnd waits until every job is over; one that is stuck fails the run.
func jobsEnd(ctx context.Context, c *client.Client) error {
	for {
		var open []string
		for j, err := range c.Jobs(ctx, client.ListOptions{}) {
			if err != nil {
				return fmt.Errorf("list the jobs: %w", err)
			}
			if j.State == orrery.JobStuck {
				return fmt.Errorf("job %s (%s of %s) is stuck: %s", j.ID, j.Kind, j.ObjectName, j.Alarm)
			}
			if !j.State.Final() {
				open = append(open, fmt.Sprintf("%s %s of %s is %s: %s", j.ID, j.Kind, j.ObjectName, j.State, lastWords(j)))
			}
		}
		if len(open) == 0 {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("jobs do not end:\n%s", strings.Join(open, "\n"))
		}
	}
}

func lastWords(j *orrery.Job) string {
	if j.Cursor >= 0 && j.Cursor < len(j.Steps) {
		s := j.Steps[j.Cursor]
		if n := len(s.Log); n > 0 {
			return s.Title + ": " + s.Log[n-1].Message
		}
		return s.Title
	}
	return ""
}

// settled waits until every datastore is available, with all that its spec asks for.
func settled(ctx context.Context, c *client.Client) (map[string]*orrery.Datastore, error) {
	for {
		all := map[string]*orrery.Datastore{}
		var open []string
		for ds, err := range c.Datastores(ctx, "default", client.ListOptions{}) {
			if err != nil {
				return nil, fmt.Errorf("list the datastores: %w", err)
			}
			all[ds.ID] = ds
			if ds.Status.State != orrery.DatastoreAvailable || ds.Status.ReadyInstances != ds.Spec.Instances {
				open = append(open, fmt.Sprintf("%s is %s, %d of %d: %s", ds.Name, ds.Status.State, ds.Status.ReadyInstances, ds.Spec.Instances, ds.Status.Message))
			}
		}
		if len(open) == 0 {
			return all, nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("datastores do not become what their specs say:\n%s", strings.Join(open, "\n"))
		}
	}
}

// createFailed tells whether the datastore's creation ended without it.
func createFailed(ctx context.Context, c *client.Client, id string) (bool, error) {
	for j, err := range c.Jobs(ctx, client.ListOptions{Filter: map[string]string{"object": id}}) {
		if err != nil {
			return false, fmt.Errorf("list the jobs of %s: %w", id, err)
		}
		if j.Kind == "datastore.create" {
			return j.State == orrery.JobFailed || j.State == orrery.JobCancelled, nil
		}
	}
	return false, nil
}
