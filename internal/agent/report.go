package agent

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/session"
)

// reporter remembers what has been told.
type reporter struct {
	last *session.AgentReport // belongs to the agent's goroutine

	mu         sync.Mutex // guards what follows; the session gets reports when it can send them
	newest     session.AgentReport
	catalogues map[string]orrery.ParameterCatalogue
	told       map[string]string // catalogue name → full version told on this stream
}

// addCatalogue tells whether it is news.
func (r *reporter) addCatalogue(c orrery.ParameterCatalogue) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.catalogues == nil {
		r.catalogues = map[string]orrery.ParameterCatalogue{}
	}
	name := c.Engine + "-" + c.Version
	news := r.catalogues[name].Full != c.Full
	r.catalogues[name] = c
	return news
}

// get gives the newest report, with the catalogues that the server has not been told on this stream.
func (r *reporter) get(first bool) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first || r.told == nil {
		r.told = map[string]string{}
	}
	report := r.newest
	for _, name := range slices.Sorted(maps.Keys(r.catalogues)) {
		if c := r.catalogues[name]; r.told[name] != c.Full {
			r.told[name] = c.Full
			report.Catalogues = append(report.Catalogues, c)
		}
	}
	return report
}

// publish reports what has changed since the last report.
func (a *Agent) publish() {
	report := session.AgentReport{Generation: a.generation, Host: a.hostStatus(), Places: make(map[string]session.PlaceState, len(a.claims))}
	for instance, c := range a.claims {
		if !c.dropped {
			report.Places[instance] = a.placeStatus(c)
		}
	}
	r := &a.reporter
	if r.last != nil && reflect.DeepEqual(*r.last, report) {
		return
	}
	r.last = &report
	r.mu.Lock()
	r.newest = report
	r.mu.Unlock()
	a.cfg.Report(r.get)
}

func (a *Agent) hostStatus() orrery.HostStatus {
	return orrery.HostStatus{
		Address: a.cfg.Address, AgentVersion: a.cfg.Version, Hypervisor: a.cfg.Driver.Name(), Capacity: a.host.Capacity,
		Limits: a.host.Limits, Engines: a.engineList, Unclaimed: a.unclaimed(), Message: a.hostError, BootID: a.bootID,
	}
}

// placeStatus tells how far a claim has come.
func (a *Agent) placeStatus(c *claim) session.PlaceState {
	s := session.PlaceState{Generation: c.metGeneration}
	places := a.of(c.wish.Instance)
	switch {
	case len(places) > 0:
		p := places[0]
		s.State, s.ID, s.Port, s.KeeperPID, s.Limits, s.Message = p.State, p.ID, p.Port, p.PID, p.Limited, p.Message
		s.Address = a.cfg.Address
	case c.wish.Absent && !c.busy:
		s.State = orrery.PlaceAbsent
	case c.err != nil && !c.busy:
		s.State = orrery.PlaceFailed
	default:
		s.State = orrery.PlaceCreating
	}
	if c.err != nil && s.Message == "" {
		s.Message = text(c.err)
	}
	return s
}
