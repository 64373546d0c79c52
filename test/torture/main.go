// Command torture kills everything at random while jobs run, and then proves that nothing was lost, nothing is left
// over, every job has ended, and every datastore is as its spec says. A run is repeated by its seed; README.md here
// keeps a table of past faults, each with the command that reproduces it.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-db/orrery/test/plane"
)

type options struct {
	binary  string
	length  time.Duration
	seed    uint64
	workers int
	keep    bool
	out     string
	plant   string
}

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	var o options
	flag.StringVar(&o.binary, "orrery", "bin/orrery", "the program to torture")
	flag.DurationVar(&o.length, "for", 10*time.Minute, "how long")
	flag.Uint64Var(&o.seed, "seed", 0, "repeats a run; chosen where 0")
	flag.IntVar(&o.workers, "workers", 3, "people who change datastores at the same time")
	flag.BoolVar(&o.keep, "keep", false, "leave the plane running when the check failed")
	flag.StringVar(&o.out, "out", "", "keep what the plane said in this file, also when the check passed")
	flag.StringVar(&o.plant, "plant", "", "a fault that the check must find: "+strings.Join(plantNames(), ", "))
	flag.Parse()
	if _, ok := plants[o.plant]; !ok && o.plant != "" {
		log.Fatalf("-plant %s: there are %s", o.plant, strings.Join(plantNames(), ", "))
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Printf("0 passed, 1 failed\ntorture: %v\nrepeat it with: make torture, or: go run ./test/torture -seed %d -for %s\n", err, o.seed, o.length)
		os.Exit(1) //nolint:forbidigo // main
	}
	fmt.Println("1 passed, 0 failed")
}

func run(ctx context.Context, o options) (err error) {
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	log.Printf("seed %d, for %s", o.seed, o.length)
	p, err := plane.New(plane.Options{Binary: binary, Warm: 2, Split: true})
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(p.Dir, "plane.out"))
	if err != nil {
		return err
	}
	defer out.Close()
	p.Output = out
	if err := p.Start(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil && o.keep {
			log.Printf("left running: %s, API %s", p.Dir, p.API)
			return
		}
		if err != nil && o.out == "" {
			o.out = filepath.Join(os.TempDir(), fmt.Sprintf("orrery-torture-%d.log", o.seed))
		}
		if saved := o.out; saved != "" {
			if b, readErr := os.ReadFile(out.Name()); readErr == nil {
				_ = os.WriteFile(saved, b, 0o600)
				log.Printf("what the plane said is in %s", saved)
			}
		}
		err = errors.Join(err, p.Destroy(context.WithoutCancel(ctx)))
	}()

	h := &history{datastores: map[string]*record{}}
	storm, stop := context.WithTimeout(ctx, o.length)
	defer stop()
	var wg sync.WaitGroup
	failures := make(chan error, o.workers+1)
	for i := range o.workers {
		wg.Go(func() {
			w := &worker{id: i, plane: p, history: h, rand: rand.New(rand.NewPCG(o.seed, uint64(i+1)))}
			if err := w.run(storm); err != nil {
				failures <- fmt.Errorf("worker %d: %w", i, err)
				stop()
			}
		})
	}
	n := &nemesis{plane: p, rand: rand.New(rand.NewPCG(o.seed, 0))}
	wg.Go(func() {
		if err := n.run(storm); err != nil {
			failures <- fmt.Errorf("nemesis: %w", err)
			stop()
		}
	})
	wg.Wait()
	close(failures)
	for f := range failures {
		err = errors.Join(err, f)
	}
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	log.Printf("the storm is over: %s; %s", n.counts(), h.counts())
	if err := noPanic(out.Name()); err != nil {
		return err
	}
	check, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if o.plant == "" {
		return checkAll(check, p, h)
	}
	if err := checkAll(check, p, h); err != nil {
		return fmt.Errorf("before anything was planted: %w", err)
	}
	undo, err := plants[o.plant](check, p, h)
	if err != nil {
		return fmt.Errorf("plant %s: %w", o.plant, err)
	}
	defer undo()
	log.Printf("planted: %s", o.plant)
	found := checkAll(check, p, h)
	if found == nil {
		return fmt.Errorf("the check did not find what was planted (%s)", o.plant)
	}
	log.Printf("found, as it must be: %v", found)
	return nil
}

// noPanic looks through what server and agent said: they may be killed, and never fall by themselves.
func noPanic(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if i := bytes.Index(b, []byte("\npanic: ")); i >= 0 {
		return fmt.Errorf("a process of the plane fell: %s", b[i+1:min(len(b), i+1500)])
	}
	return nil
}
