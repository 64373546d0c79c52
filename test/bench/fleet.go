package main

import (
	"context"
	"fmt"
	"strconv"
)

// benchFleet: many simulated instances on the real session protocol, and what each costs the server.
func benchFleet(ctx context.Context, o options, r *report) error {
	n := 10_000
	if o.short {
		n = 1000
	}
	all, err := goBench(ctx, "./internal/session", "^BenchmarkFleet$", "1x", 1, "ORRERY_FLEET="+strconv.Itoa(n))
	if err != nil {
		return err
	}
	for _, x := range []struct {
		title, unit, format string
		scale               float64
	}{
		{"memory of the server for each", "B/conn", "%.1f KiB", 1.0 / 1024},
		{"goroutines of the server for each", "goroutines/conn", "%.1f", 1},
		{"CPU of the server while idle", "%core-idle", "%.1f %% of a core", 1},
		{"all back after a server restart", "s/reconnect-all", "%.1f s", 1},
		{"CPU of the server to take one back", "µs-cpu/reconnect", "%.0f µs", 1},
	} {
		s, err := unit(all, "Fleet", x.unit)
		if err != nil {
			return err
		}
		r.add(row{name: fmt.Sprintf("fleet of %d: %s", n, x.title), value: fmt.Sprintf(x.format, s.median()*x.scale)})
	}
	return nil
}
