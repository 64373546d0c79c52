package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

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
		if err := rowsThere(ctx, c, ds, r); err != nil {
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

// rowsThere checks that every acknowledged row is in the primary.
func rowsThere(ctx context.Context, c *client.Client, ds *orrery.Datastore, r *record) error {
	if len(r.rows) == 0 {
		return nil
	}
	conn, err := connect(ctx, c, ds, r)
	if err != nil {
		return fmt.Errorf("connect to read %d rows: %w", len(r.rows), err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "select n from torture")
	if err != nil {
		return fmt.Errorf("read the rows: %w", err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return fmt.Errorf("read the rows: %w", err)
	}
	have := map[int]bool{}
	for _, n := range got {
		have[n] = true
	}
	for _, n := range r.rows {
		if !have[n] {
			return fmt.Errorf("row %d was acknowledged and is lost (%d of %d are there)", n, len(got), len(r.rows))
		}
	}
	return nil
}

func insert(ctx context.Context, c *client.Client, ds *orrery.Datastore, r *record, n int) error {
	conn, err := connect(ctx, c, ds, r)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "create table if not exists torture (n bigint)"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "insert into torture values ($1)", n)
	return err
}

func connect(ctx context.Context, c *client.Client, ds *orrery.Datastore, r *record) (*pgx.Conn, error) {
	if len(ds.Status.Endpoints) == 0 || ds.Status.Endpoints[0].Role != orrery.EndpointPrimary {
		return nil, errors.New("no primary endpoint")
	}
	pem, err := c.CA(ctx)
	if err != nil {
		return nil, err
	}
	e := ds.Status.Endpoints[0]
	u := url.URL{Scheme: "postgresql", User: url.UserPassword(r.user, r.password), Host: net.JoinHostPort(e.Address, strconv.Itoa(e.Port)),
		Path: "/" + ds.Spec.Databases[0].Name, RawQuery: "sslmode=require&connect_timeout=5"}
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(pem))
	cfg.TLSConfig = &tls.Config{RootCAs: pool, ServerName: e.Address, MinVersion: tls.VersionTLS13}
	return pgx.ConnectConfig(ctx, cfg)
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
