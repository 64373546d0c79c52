package main

import (
	"context"
	"fmt"
)

// benchInside: the API's reads against a bare handler, the store's writes against bare puts, and the job engine.
func benchInside(ctx context.Context, o options, r *report) error {
	for _, f := range []func(context.Context, options, *report) error{benchReads, benchWrites, benchJobs} {
		if err := f(ctx, o, r); err != nil {
			return err
		}
	}
	return nil
}

func (o options) benchtime() string {
	if o.short {
		return "300ms"
	}
	return "1s"
}

func benchReads(ctx context.Context, o options, r *report) error {
	all, err := goBench(ctx, "./internal/api", "^BenchmarkReads$", o.benchtime(), o.rounds)
	if err != nil {
		return err
	}
	for _, x := range []struct{ name, title string }{{"get", "GET of a datastore"}, {"list-100-of-10000", "list of 100 out of 10,000"}} {
		api, err := unit(all, "Reads/"+x.name+"/api", "requests/s")
		if err != nil {
			return err
		}
		bare, err := unit(all, "Reads/"+x.name+"/bare", "requests/s")
		if err != nil {
			return err
		}
		value := fmt.Sprintf("%.0f/s", api.median())
		if tail, err := quantiles(all, "Reads/"+x.name+"/api"); err == nil {
			value += tail
		}
		ratio := api.over(bare)
		r.add(row{name: "read: " + x.title, value: value, ratio: ratio, against: "bare handler", target: "≥ 0.5×", met: ratio.median() >= 0.5})
	}
	return nil
}

func quantiles(all map[string][]measured, name string) (string, error) {
	p50, err := unit(all, name, "p50-µs")
	if err != nil {
		return "", err
	}
	p99, err := unit(all, name, "p99-µs")
	return fmt.Sprintf(", p50 %.2f ms, p99 %.2f ms", p50.median()/1000, p99.median()/1000), err
}

func benchWrites(ctx context.Context, o options, r *report) error {
	all, err := goBench(ctx, "./internal/store", "^Benchmark(Update|BarePut)$/^writers=(1|64)$", o.benchtime(), o.rounds)
	if err != nil {
		return err
	}
	for _, writers := range []string{"1", "64"} {
		ours, err := unit(all, "Update/writers="+writers, "ns/op")
		if err != nil {
			return err
		}
		bare, err := unit(all, "BarePut/writers="+writers, "ns/op")
		if err != nil {
			return err
		}
		ratio := bare.over(ours) // of rates, so the other way round
		r.add(row{name: "write: store updates, " + writers + " at once", value: fmt.Sprintf("%.0f/s", 1e9/ours.median()), ratio: ratio,
			against: "bare etcd puts", target: "≥ 0.4×", met: ratio.median() >= 0.4})
	}
	return nil
}

func benchJobs(ctx context.Context, o options, r *report) error {
	all, err := goBench(ctx, "./internal/job", "^BenchmarkJob$", o.benchtime(), min(o.rounds, 3))
	if err != nil {
		return err
	}
	for _, workers := range []string{"1", "64"} {
		rate, err := unit(all, "Job/workers="+workers, "jobs/s")
		if err != nil {
			return err
		}
		writes, err := unit(all, "Job/workers="+workers, "etcd-writes/job")
		if err != nil {
			return err
		}
		r.add(row{name: "jobs: no-op of 5 steps, " + workers + " workers", value: fmt.Sprintf("%.0f/s (%.0f–%.0f), %.1f etcd writes each", rate.median(),
			rate.quantile(0), rate.quantile(1), writes.median())})
	}
	return nil
}
