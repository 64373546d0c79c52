package agent

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
	"github.com/orrery-db/orrery/internal/session"
)

// The labels of places.
const (
	labelInstance  = "instance"
	labelDatastore = "datastore"
	labelEngine    = "engine"
	labelVersion   = "version"
	labelFull      = "full"   // of the engine that prepared a warm place
	labelBinary    = "binary" // of the keeper in a warm place
	labelLimits    = "limits" // as last set
	labelWarm      = "warm"   // "yes": belongs to nobody yet
	labelMet       = "met"    // generation of the wish that last asked for these labels
)

// placeInfo is a place of the driver with what the agent knows beside.
type placeInfo struct {
	hypervisor.Place
	busy     bool // a task works on it
	proxy    *proxy
	prepared bool
	watched  bool // its getting prepared is waited for
	// assigned is what lies in its assignment file; nil where that is not known.
	assigned *assignment
}

func (p *placeInfo) warm() bool       { return p.Labels[labelWarm] == "yes" && p.Labels[labelInstance] == "" }
func (p *placeInfo) instance() string { return p.Labels[labelInstance] }
func (p *placeInfo) key() engineKey   { return engineKey{p.Labels[labelEngine], p.Labels[labelVersion]} }

func limitsOf(w session.PlaceWish) hypervisor.Limits {
	return hypervisor.Limits{CPUMilli: w.CPUMilli, MemoryMiB: w.MemoryMiB, StorageGiB: w.StorageGiB}
}

func limitsLabel(l hypervisor.Limits) string {
	return fmt.Sprintf("%d/%d/%d", l.CPUMilli, l.MemoryMiB, l.StorageGiB)
}

func labelsOf(w session.PlaceWish, generation uint64) map[string]string {
	return map[string]string{
		labelMet:      strconv.FormatUint(generation, 10),
		labelInstance: w.Instance, labelDatastore: w.Datastore, labelEngine: w.Engine, labelVersion: w.Version,
		labelLimits: limitsLabel(limitsOf(w)),
	}
}

func (a *Agent) warmLabels(k engineKey, full string) map[string]string {
	return map[string]string{
		labelWarm: "yes", labelEngine: k.engine, labelVersion: k.version, labelFull: full, labelBinary: a.cfg.Version,
	}
}

func (a *Agent) command(k engineKey) []string {
	return []string{a.cfg.Keeper, "keeper", "--dir", "{dir}", "--port", "{port}", "--engine", k.engine, "--version", k.version}
}

// refresh takes over the driver's view. Its proxies listen again: keepers that outlived an agent wait for that.
func (a *Agent) refresh() error {
	list, err := a.cfg.Driver.List(a.ctx)
	if err != nil {
		return fmt.Errorf("list places: %w", err)
	}
	seen := make(map[string]bool, len(list))
	for _, p := range list {
		seen[p.ID] = true
		info := a.places[p.ID]
		if info == nil {
			info = &placeInfo{}
			a.places[p.ID] = info
		}
		info.Place = p
	}
	for id, info := range a.places {
		if !seen[id] && !info.busy {
			a.drop(info)
		}
	}
	for _, info := range a.places {
		a.attend(info)
	}
	return nil
}

// attend gives a place what every place has: its proxy and, where it is warm, somebody who waits for it.
func (a *Agent) attend(p *placeInfo) {
	if p.State != orrery.PlaceRunning && p.State != orrery.PlaceRestarting {
		return
	}
	if p.proxy == nil {
		proxy, err := openProxy(a.ctx, p.Place, a.cfg.Dial, a.log)
		if err != nil {
			a.log.Error("a place has no way to the server", "place", p.ID, "error", err)
			return
		}
		p.proxy = proxy
	}
	if p.warm() && !p.prepared && !p.watched {
		p.watched = true
		a.awaitPrepared(p)
	}
}

// drop forgets a place that is no more.
func (a *Agent) drop(p *placeInfo) {
	if p.proxy != nil {
		p.proxy.close()
	}
	delete(a.places, p.ID)
}

func (a *Agent) closeProxies() {
	for _, p := range a.places {
		if p.proxy != nil {
			p.proxy.close()
		}
	}
}

// of gives the places of an instance, the whole ones first. More than one is a fault of the past.
func (a *Agent) of(instance string) []*placeInfo {
	var found []*placeInfo
	for _, p := range a.places {
		if p.instance() == instance {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(x, y *placeInfo) int {
		if xr, yr := rank(x.State), rank(y.State); xr != yr {
			return xr - yr
		}
		return strings.Compare(x.ID, y.ID)
	})
	return found
}

func rank(s orrery.PlaceState) int {
	return slices.Index([]orrery.PlaceState{orrery.PlaceRunning, orrery.PlaceRestarting, orrery.PlaceCreating, orrery.PlaceFailed}, s)
}

// unclaimed gives the places that nobody wishes: of instances that the wish does not name, and those that do not tell whose they are.
func (a *Agent) unclaimed() []string {
	if !a.wished {
		return nil
	}
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(a.places)) {
		p := a.places[id]
		if a.claims[p.instance()] == nil && !p.warm() && !p.busy {
			ids = append(ids, id)
		}
	}
	return ids
}
