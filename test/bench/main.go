// Command bench measures Orrery against floors made by hand in the same run, and prints each figure as a ratio with its
// spread. Nothing here fails for being slow: a figure that misses its target is marked and named.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

type options struct {
	binary string
	rounds int
	short  bool
	only   string
	dir    string
}

func main() {
	var o options
	flag.StringVar(&o.binary, "orrery", "bin/orrery", "the program to measure")
	flag.IntVar(&o.rounds, "rounds", 10, "rounds of each measurement")
	flag.BoolVar(&o.short, "short", false, "a slice of everything, for CI")
	flag.StringVar(&o.only, "only", "", "only the sections whose name contains this")
	flag.StringVar(&o.dir, "dir", "/tmp", "where all databases are made, Orrery's and those by hand; on a machine whose disk others keep busy, a tmpfs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // main
	}
}

func run(ctx context.Context, o options) error {
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	o.binary = binary
	sections := []struct {
		name string
		run  func(context.Context, options, *report) error
	}{
		{"create", benchCreate},
		{"burst", benchBurst},
		{"footprint", benchFootprint},
		{"inside", benchInside},
		{"fleet", benchFleet},
	}
	var r report
	for _, s := range sections {
		if o.only != "" && !strings.Contains(s.name, o.only) {
			continue
		}
		heading("%s", s.name)
		if err := s.run(ctx, o, &r); err != nil {
			return fmt.Errorf("section %s: %w", s.name, err)
		}
	}
	heading("%d figures with a target, %d missed", r.targets(), len(r.missed()))
	for _, m := range r.missed() {
		fmt.Println("missed:", m)
	}
	return nil
}
