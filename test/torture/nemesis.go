package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-db/orrery/test/plane"
)

// nemesis kills with SIGKILL, one thing or everything at a time.
type nemesis struct {
	plane *plane.Plane
	rand  *rand.Rand
	done  map[string]int
	up    bool // the server runs; its PID stays known when it ends by itself
}

func (n *nemesis) run(ctx context.Context) error {
	n.done, n.up = map[string]int{}, true
	faults := []struct {
		name string
		do   func(context.Context) error
	}{
		{"server", n.server},
		{"agent", n.agent},
		{"server and agent", func(ctx context.Context) error {
			if err := n.plane.Kill(); err != nil {
				return err
			}
			n.up = false
			return n.startAll(ctx)
		}},
		{"keeper", func(context.Context) error { return n.one(n.plane.Keepers) }},
		{"database", func(context.Context) error { return n.one(n.plane.Postmasters) }},
		{"keeper and database", func(context.Context) error {
			return errors.Join(n.one(n.plane.Keepers), n.one(n.plane.Postmasters))
		}},
	}
	for {
		wait := time.NewTimer(time.Duration(200+n.rand.IntN(2500)) * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			// What is down comes up again, however the storm ended.
			return n.startAll(context.WithoutCancel(ctx))
		case <-wait.C:
		}
		f := faults[n.rand.IntN(len(faults))]
		log.Printf("nemesis: kill %s", f.name)
		n.done[f.name]++
		if err := f.do(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("kill %s: %w", f.name, err)
		}
	}
}

func (n *nemesis) server(ctx context.Context) error {
	if err := n.plane.KillServer(); err != nil {
		return err
	}
	n.rest()
	return n.startServer(ctx)
}

func (n *nemesis) agent(ctx context.Context) error {
	if err := n.plane.KillAgent(); err != nil {
		return err
	}
	n.rest()
	return n.plane.StartAgent(ctx)
}

// startServer starts the server, again and again as the service manager of a real machine would: where the disk stalls
// for longer than etcd's patience a start may end with an error.
func (n *nemesis) startServer(ctx context.Context) error {
	n.up = false
	for try := 1; ; try++ {
		err := n.plane.StartServer(ctx)
		if err == nil {
			n.up = true
			return nil
		}
		if try == 3 {
			return err
		}
		log.Printf("nemesis: start %d of the server: %v", try, err)
		n.done["start that failed"]++
	}
}

// startAll starts what is down.
func (n *nemesis) startAll(ctx context.Context) error {
	if !n.up {
		if err := n.startServer(ctx); err != nil {
			return err
		}
	}
	if n.plane.AgentPID() == 0 {
		return n.plane.StartAgent(ctx)
	}
	return nil
}

// rest leaves things dead for a random while.
func (n *nemesis) rest() {
	<-time.After(time.Duration(n.rand.IntN(1500)) * time.Millisecond)
}

// one kills one of the processes that list gives.
func (n *nemesis) one(list func() (map[string]plane.Process, error)) error {
	all, err := list()
	if err != nil || len(all) == 0 {
		return err
	}
	dirs := slices.Sorted(maps.Keys(all))
	p := all[dirs[n.rand.IntN(len(dirs))]]
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

func (n *nemesis) counts() string {
	var s []string
	total := 0
	for _, name := range slices.Sorted(maps.Keys(n.done)) {
		s = append(s, fmt.Sprintf("%d × %s", n.done[name], name))
		if name != "start that failed" {
			total += n.done[name]
		}
	}
	return fmt.Sprintf("%d kills (%s)", total, strings.Join(s, ", "))
}
