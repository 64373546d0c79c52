package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// takeWarm gives a warm place to hand out, a prepared one before one that is still being prepared (which is still
// ahead of a new one); nil where there is none.
func (a *Agent) takeWarm(k engineKey, full string) *placeInfo {
	var best *placeInfo
	for _, p := range a.places {
		if !a.usable(p, full) || p.key() != k {
			continue
		}
		if best == nil || p.prepared && !best.prepared || p.prepared == best.prepared && p.ID < best.ID {
			best = p
		}
	}
	return best
}

// usable tells whether a warm place may be handed out: of today's engine and keeper, and well.
func (a *Agent) usable(p *placeInfo, full string) bool {
	return p.warm() && !p.busy && p.State == orrery.PlaceRunning && p.Message == "" &&
		p.Labels[labelFull] == full && p.Labels[labelBinary] == a.cfg.Version
}

// fresh tells whether a warm place is worth keeping. One whose keeper has just died may come back.
func (a *Agent) fresh(p *placeInfo) bool {
	engine, installed := a.engines[p.key()]
	return installed && p.Labels[labelFull] == engine.Full && p.Labels[labelBinary] == a.cfg.Version &&
		(p.State == orrery.PlaceRunning && p.Message == "" || p.State == orrery.PlaceRestarting && p.Restarts < 3)
}

// reconcileWarm throws away warm places that nobody wants, and makes the next one that is missing: one at a time, and
// only while no instance is waiting for a place.
func (a *Agent) reconcileWarm() {
	have := map[engineKey]int{}
	making := false
	warm := make([]*placeInfo, 0, len(a.places))
	for _, p := range a.places {
		if p.warm() {
			warm = append(warm, p)
		}
	}
	// Prepared ones count first: what is too many is thrown away from the end.
	slices.SortFunc(warm, func(x, y *placeInfo) int {
		if x.prepared != y.prepared {
			if x.prepared {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.ID, y.ID)
	})
	for _, p := range warm {
		if p.busy {
			making = making || !p.prepared
			continue
		}
		if !a.fresh(p) || have[p.key()] >= a.wantWarm(p.key()) {
			a.discard(p)
			continue
		}
		have[p.key()]++
		making = making || !p.prepared
	}
	if making {
		return
	}
	k, missing := a.nextWarm(have)
	if !missing {
		return
	}
	quiet := a.lastUse.Add(a.cfg.RefillDelay)
	if a.working() || time.Now().Before(quiet) {
		a.wakeAt(quiet)
		return
	}
	a.createWarm(k)
}

func (a *Agent) wantWarm(k engineKey) int {
	if a.cfg.NoWarm {
		return 0
	}
	return a.warmWish[k]
}

// nextWarm gives the engine version that lacks most.
func (a *Agent) nextWarm(have map[engineKey]int) (engineKey, bool) {
	var best engineKey
	most := 0
	for k := range a.warmWish {
		if _, installed := a.engines[k]; !installed {
			continue
		}
		lack := a.wantWarm(k) - have[k]
		if lack > most || lack == most && lack > 0 && k.String() < best.String() {
			best, most = k, lack
		}
	}
	return best, most > 0
}

// working tells whether a task runs for an instance.
func (a *Agent) working() bool {
	for _, c := range a.claims {
		if c.busy {
			return true
		}
	}
	return false
}

func (a *Agent) createWarm(k engineKey) {
	spec := hypervisor.Spec{
		ID: orrery.NewID(orrery.PrefixPlace), Labels: a.warmLabels(k, a.engines[k].Full),
		Limits: hypervisor.Limits{Background: true}, Command: a.command(k),
	}
	info := &placeInfo{busy: true, Place: hypervisor.Place{ID: spec.ID, Labels: spec.Labels, State: orrery.PlaceCreating}}
	a.places[spec.ID] = info
	a.tasks.Go(func() {
		_, err := a.cfg.Driver.Create(a.ctx, spec)
		a.post(func() {
			info.busy = false
			if err != nil {
				a.log.Warn("a warm place cannot be made", "engine", k.String(), "error", err)
				a.drop(info)
				a.lastUse = time.Now().Add(10 * time.Second) // the next attempt comes later
				return
			}
			if err := a.refresh(); err != nil {
				a.log.Error("places cannot be listed", "error", err)
			}
		})
	})
}

func (a *Agent) discard(p *placeInfo) {
	p.busy = true
	id := p.ID
	a.tasks.Go(func() {
		err := a.cfg.Driver.Destroy(a.ctx, id)
		if err != nil {
			a.log.Warn("a warm place cannot be destroyed", "place", id, "error", err)
			pause(a.ctx, time.Second)
		}
		a.post(func() {
			p.busy = false
			if err == nil {
				a.drop(p)
			}
		})
	})
}
