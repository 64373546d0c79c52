package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
	"github.com/orrery-db/orrery/internal/session"
)

// claim is one instance's wish for a place, and how far it has come.
type claim struct {
	wish session.PlaceWish
	// met is the wish that was last converged to, of generation metGeneration.
	met           *session.PlaceWish
	metGeneration uint64
	busy          bool // a task works for it
	dropped       bool // the wish does not name it any more
	// err is why it could not be done; it is tried again at retryAt or, where that is zero, when the wish changes.
	err      error
	attempts int
	retryAt  time.Time
}

// takeWish sets the claims by the wish.
func (a *Agent) takeWish(generation uint64, wish session.AgentWish) {
	a.generation, a.wished = generation, true
	named := map[string]bool{}
	for _, w := range wish.Places {
		named[w.Instance] = true
		c := a.claims[w.Instance]
		if c == nil {
			c = &claim{}
			a.claims[w.Instance] = c
		}
		c.dropped = false
		if c.wish != w {
			c.wish = w
			c.err, c.attempts, c.retryAt = nil, 0, time.Time{}
		}
	}
	for instance, c := range a.claims {
		if !named[instance] {
			c.dropped = true
		}
	}
	a.warmWish = map[engineKey]int{}
	for _, w := range wish.Warm {
		a.warmWish[engineKey{w.Engine, w.Version}] += w.Count
	}
}

// reconcile compares what is wished with what is, and starts tasks for the difference. It never blocks.
func (a *Agent) reconcile() {
	if !a.wished {
		return
	}
	for instance, c := range a.claims {
		if c.busy {
			continue
		}
		if c.dropped {
			delete(a.claims, instance)
			continue
		}
		a.converge(c)
	}
	a.reconcileWarm()
}

func (a *Agent) converge(c *claim) {
	places := a.of(c.wish.Instance)
	for _, p := range places {
		if p.busy {
			return
		}
	}
	if c.err != nil && (c.retryAt.IsZero() || time.Now().Before(c.retryAt)) {
		if !c.retryAt.IsZero() {
			a.wakeAt(c.retryAt)
		}
		return
	}
	switch {
	case c.wish.Absent && len(places) > 0:
		a.destroyAll(c, places)
	case c.wish.Absent:
		c.meet(a.generation, nil)
	case len(places) == 0:
		a.provide(c)
	default:
		a.adjust(c, places[0])
	}
}

// meet notes that all is as wished. The generation moves only when the wish for this place was another: a change for
// one place is no news of all others, and neither is the agent's restart: the place's label remembers.
func (c *claim) meet(generation uint64, p *placeInfo) {
	c.err, c.attempts, c.retryAt = nil, 0, time.Time{}
	now := c.wish
	now.JoinToken = ""
	if c.met == nil && p != nil {
		c.met = &now
		if c.metGeneration, _ = strconv.ParseUint(p.Labels[labelMet], 10, 64); c.metGeneration == 0 {
			c.metGeneration = generation
		}
		return
	}
	if c.met == nil || *c.met != now {
		c.met, c.metGeneration = &now, generation
	}
}

// fail notes an error. Errors that no retry will mend wait for another wish.
func (c *claim) fail(err error) {
	c.err = err
	c.attempts++
	c.retryAt = time.Time{}
	if kind := orrery.KindOf(err); kind != orrery.KindInvalid && kind != orrery.KindExhausted {
		wait := min(30*time.Second, 250*time.Millisecond<<min(c.attempts, 8))
		c.retryAt = time.Now().Add(wait/2 + rand.N(wait))
	}
}

const codeEngineMissing = "engine_missing"

// provide gives the instance a place: a warm one, else a new one.
func (a *Agent) provide(c *claim) {
	k := engineKey{c.wish.Engine, c.wish.Version}
	engine, ok := a.engines[k]
	if !ok {
		c.err = orrery.Errorf(orrery.KindUnavailable, "%s %s is not installed on this host", k.engine, k.version).
			WithCode(codeEngineMissing).WithHint("Install it on the host; the agent finds it within a minute.")
		return
	}
	limits, labels := limitsOf(c.wish), labelsOf(c.wish, a.generation)
	if p := a.takeWarm(k, engine.Full); p != nil {
		// The label before the assignment: from here on no agent takes the place for a warm one.
		a.update(c, p, limits, labels)
		return
	}
	a.create(c, hypervisor.Spec{ID: orrery.NewID(orrery.PrefixPlace), Labels: labels, Limits: limits, Command: a.command(k)})
}

func (a *Agent) create(c *claim, spec hypervisor.Spec) {
	a.run(c, nil, func(ctx context.Context) (hypervisor.Place, error) { return a.cfg.Driver.Create(ctx, spec) })
}

func (a *Agent) update(c *claim, p *placeInfo, limits hypervisor.Limits, labels map[string]string) {
	id := p.ID
	a.run(c, []*placeInfo{p}, func(ctx context.Context) (hypervisor.Place, error) {
		return a.cfg.Driver.Update(ctx, id, limits, labels)
	})
}

// adjust brings the place that is there to what is wished.
func (a *Agent) adjust(c *claim, p *placeInfo) {
	switch {
	case p.State == orrery.PlaceCreating:
		// An earlier agent died over it.
		a.create(c, hypervisor.Spec{
			ID: p.ID, Labels: labelsOf(c.wish, a.generation), Limits: limitsOf(c.wish), Command: a.command(engineKey{c.wish.Engine, c.wish.Version}),
		})
	case p.State == orrery.PlaceFailed:
		// Its end, where it is being destroyed, is told by the driver.
		c.err = errors.New(p.Message)
		c.retryAt = time.Now().Add(time.Second)
		a.wakeAt(c.retryAt)
	case p.Labels[labelLimits] != limitsLabel(limitsOf(c.wish)):
		a.update(c, p, limitsOf(c.wish), labelsOf(c.wish, a.generation))
	case !a.assignmentDone(c.wish, p):
		place := p.Place
		a.run(c, []*placeInfo{p}, func(context.Context) (hypervisor.Place, error) { return place, nil })
	default:
		c.meet(a.generation, p)
	}
}

// run runs a task for a claim beside the agent's goroutine; it must not look at what belongs to that. The place it gives is assigned to the instance.
func (a *Agent) run(c *claim, places []*placeInfo, task func(ctx context.Context) (hypervisor.Place, error)) {
	c.busy = true
	a.lastUse = time.Now()
	for _, p := range places {
		p.busy = true
	}
	want := a.newAssignment(c.wish)
	a.tasks.Go(func() {
		place, err := task(a.ctx)
		var assigned *assignment
		if err == nil {
			assigned, err = assign(place, want)
		}
		a.post(func() {
			a.lastUse = time.Now()
			c.busy = false
			for _, p := range places {
				p.busy = false
			}
			// What the task gave may be older than what Changes has told since.
			if listErr := a.refresh(); listErr != nil {
				a.log.Error("places cannot be listed", "error", listErr)
			}
			if p := a.places[place.ID]; p != nil && assigned != nil {
				p.assigned = assigned
			}
			if err != nil {
				a.log.Error("a place is not as wished", "instance", want.Instance, "place", place.ID, "error", err)
				c.fail(err)
			} else {
				c.err = nil
			}
		})
	})
}

func (a *Agent) destroyAll(c *claim, places []*placeInfo) {
	c.busy = true
	ids := make([]string, len(places))
	for i, p := range places {
		p.busy = true
		ids[i] = p.ID
	}
	instance := c.wish.Instance
	a.tasks.Go(func() {
		var errs []error
		gone := map[string]bool{}
		for _, id := range ids {
			err := a.cfg.Driver.Destroy(a.ctx, id)
			gone[id] = err == nil
			errs = append(errs, err)
		}
		err := errors.Join(errs...)
		a.post(func() {
			c.busy = false
			for _, p := range places {
				p.busy = false
				if gone[p.ID] {
					a.drop(p)
				}
			}
			if err != nil {
				a.log.Error("a place cannot be destroyed", "instance", instance, "error", err)
				c.fail(err)
			}
		})
	})
}

// text is what a person is shown of an error.
func text(err error) string {
	if e, ok := errors.AsType[*orrery.Error](err); ok {
		if e.Hint != "" {
			return e.Message + ". " + e.Hint
		}
		return e.Message
	}
	return err.Error()
}
