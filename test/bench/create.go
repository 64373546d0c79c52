package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/orrery-db/orrery/test/plane"
)

// benchPlan has a whole core: a smaller plan's CPU limit would be measured in place of the plane.
const benchPlan = "small"

// tinyPlan is the smallest: twenty fit on a small machine.
const tinyPlan = "nano"

// bench is a plane under measurement.
type bench struct {
	plane  *plane.Plane
	client *client.Client
	ca     *x509.CertPool
	plan   string
	n      int
}

func start(ctx context.Context, o options, warm int) (*bench, error) {
	dir, err := os.MkdirTemp(o.dir, "orr")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // databases run as users of their own and must be able to pass
		return nil, err
	}
	p, err := plane.New(plane.Options{Binary: o.binary, Dir: dir, Warm: warm})
	if err != nil {
		return nil, err
	}
	b := &bench{plane: p, plan: benchPlan}
	if err := b.open(ctx, warm); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	return b, nil
}

func (b *bench) open(ctx context.Context, warm int) error {
	if err := b.plane.Start(ctx); err != nil {
		return err
	}
	c, err := b.plane.Client()
	if err != nil {
		return err
	}
	b.client = c
	pem, err := c.CA(ctx)
	if err != nil {
		return err
	}
	b.ca = x509.NewCertPool()
	b.ca.AppendCertsFromPEM([]byte(pem))
	return b.warmed(ctx, warm)
}

// close removes the plane with its databases; a second time does nothing.
func (b *bench) close(ctx context.Context) error {
	if b.plane == nil {
		return nil
	}
	p := b.plane
	b.plane = nil
	err := p.Destroy(context.WithoutCancel(ctx))
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err) // callers on their way out cannot say it
	}
	return err
}

// floor prepares databases by hand with the settings that the plane gave to one of its own.
func (b *bench) floor(ctx context.Context) (*floor, error) {
	name := b.name()
	if _, err := b.create(ctx, name, 1); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(b.plane.Dir, "agent", "places", "*", "conf", "postgresql.conf"))
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("the settings of the one database are in %d files: %v", len(files), files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return nil, err
	}
	if err := b.remove(ctx, name); err != nil {
		return nil, err
	}
	return newFloor(filepath.Dir(b.plane.Dir), postgresBin(), string(text))
}

// warmed waits until n places are prepared and wait for an instance.
func (b *bench) warmed(ctx context.Context, n int) error {
	for ctx.Err() == nil {
		prepared, err := filepath.Glob(filepath.Join(b.plane.Dir, "agent", "places", "*", "keeper", "prepared.json"))
		if err != nil {
			return err
		}
		ready := 0
		for _, f := range prepared {
			if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(f)), "agent", "assignment.json")); os.IsNotExist(err) {
				ready++
			}
		}
		if ready >= n {
			return nil
		}
		pause(ctx, 20*time.Millisecond)
	}
	return fmt.Errorf("wait for %d warm places: %w", n, ctx.Err())
}

// create asks for a datastore and gives the time until its primary answered the first query over verified TLS, and, for
// more than one instance, until all replicas stream.
func (b *bench) create(ctx context.Context, name string, instances int) (time.Duration, error) {
	begin := time.Now()
	made, err := b.client.CreateDatastore(ctx, "default", client.NewDatastore{Name: name,
		Spec: orrery.DatastoreSpec{Engine: "postgres", Plan: b.plan, StorageGiB: 1, Instances: instances}})
	if err != nil {
		return 0, err
	}
	var ds *orrery.Datastore
	for ch, err := range b.client.WatchDatastore(ctx, "default", made.Datastore.ID) {
		if err != nil {
			return 0, err
		}
		if ds = ch.Object; ds != nil && ds.Status.Primary != "" && ds.Status.ReadyInstances == instances {
			break
		}
	}
	if ds == nil {
		return 0, fmt.Errorf("the watch of %s ended early", name)
	}
	if err := b.query(ctx, ds, made.Credentials); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

func (b *bench) query(ctx context.Context, ds *orrery.Datastore, cr *client.Credentials) error {
	e := ds.Status.Endpoints[0]
	cfg, err := pgx.ParseConfig(fmt.Sprintf("postgresql://%s:%s@%s/app?sslmode=require", url.UserPassword(cr.Username, "x").Username(),
		url.QueryEscape(cr.Password), net.JoinHostPort(e.Address, strconv.Itoa(e.Port))))
	if err != nil {
		return err
	}
	cfg.Database = "app"
	if len(ds.Spec.Databases) > 0 {
		cfg.Database = ds.Spec.Databases[0].Name
	}
	cfg.TLSConfig = &tls.Config{RootCAs: b.ca, ServerName: e.Address, MinVersion: tls.VersionTLS13}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var one int
	return conn.QueryRow(ctx, "select 1").Scan(&one)
}

func (b *bench) remove(ctx context.Context, name string) error {
	gone, err := b.client.DeleteDatastore(ctx, "default", name)
	if err != nil {
		return err
	}
	_, err = b.client.WaitJob(ctx, gone.Job.ID, nil)
	return err
}

func (b *bench) name() string { b.n++; return "bench-" + strconv.Itoa(b.n) }

// rounds measures n creations one after the other, each with a full warm pool.
func (b *bench) rounds(ctx context.Context, n, instances, warm int) (series, error) {
	var s series
	for range n {
		if err := b.warmed(ctx, warm); err != nil {
			return nil, err
		}
		name := b.name()
		d, err := b.create(ctx, name, instances)
		if err != nil {
			return nil, err
		}
		s.add(d)
		if err := b.remove(ctx, name); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// benchCreate: creation to first TLS query, warm and cold, one and three instances, against initdb, start and first query
// by hand.
func benchCreate(ctx context.Context, o options, r *report) error {
	const warm = 3
	hot, err := start(ctx, o, warm)
	if err != nil {
		return err
	}
	defer hot.close(ctx)
	f, err := hot.floor(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(f.dir)
	var floor series
	for range o.rounds {
		d, err := f.create(ctx, f.port())
		if err != nil {
			return err
		}
		floor.add(d)
	}
	r.add(row{name: "floor: initdb, start, first TLS query by hand", value: ms(floor)})
	one, err := hot.rounds(ctx, o.rounds, 1, warm)
	if err != nil {
		return err
	}
	r.add(row{name: "create, 1 instance, warm", value: ms(one), ratio: one.over(floor), against: "by hand", target: "≤ 0.4× and p50 ≤ 200 ms",
		met: one.over(floor).median() <= 0.4 && one.median() <= 200})
	three, err := hot.rounds(ctx, o.rounds, 3, warm)
	if err != nil {
		return err
	}
	r.add(row{name: "create, 3 instances streaming, warm", value: ms(three), ratio: three.over(floor), against: "1 by hand", target: "p50 ≤ 700 ms", met: three.median() <= 700})
	if err := hot.close(ctx); err != nil {
		return err
	}
	cold, err := start(ctx, o, 0)
	if err != nil {
		return err
	}
	defer cold.close(ctx)
	floor = nil
	var coldOne series
	for range o.rounds { // by turns: both see the same machine
		d, err := f.create(ctx, f.port())
		if err != nil {
			return err
		}
		floor.add(d)
		s, err := cold.rounds(ctx, 1, 1, 0)
		if err != nil {
			return err
		}
		coldOne = append(coldOne, s...)
	}
	ratio := coldOne.over(floor)
	r.add(row{name: "create, 1 instance, cold", value: ms(coldOne), ratio: ratio, against: "by hand", target: "≤ 1.25×", met: ratio.median() <= 1.25})
	return nil
}

// benchBurst: twenty creations at once against twenty by hand at once.
func benchBurst(ctx context.Context, o options, r *report) error {
	const n = 20
	b, err := start(ctx, o, 3)
	if err != nil {
		return err
	}
	defer b.close(ctx)
	b.plan = tinyPlan
	f, err := b.floor(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(f.dir)
	var ours, floor series
	for range max(1, o.rounds/5) {
		d, err := together(n, func(int) error { _, err := f.create(ctx, f.port()); return err })
		if err != nil {
			return err
		}
		floor.add(d)
		if err := b.warmed(ctx, 3); err != nil {
			return err
		}
		base := b.n
		b.n += n
		d, err = together(n, func(i int) error { _, err := b.create(ctx, "bench-"+strconv.Itoa(base+i+1), 1); return err })
		if err != nil {
			return err
		}
		ours.add(d)
		if _, err := together(n, func(i int) error { return b.remove(ctx, "bench-"+strconv.Itoa(base+i+1)) }); err != nil {
			return err
		}
	}
	ratio := ours.over(floor)
	r.add(row{name: "20 creates at once", value: ms(ours), ratio: ratio, against: "20 by hand at once", target: "≤ 1.5×", met: ratio.median() <= 1.5})
	return nil
}

// together runs f n times side by side and gives the time until the last was done.
func together(n int, f func(int) error) (time.Duration, error) {
	begin := time.Now()
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return time.Since(begin), nil
	}
}
