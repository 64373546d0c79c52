package agent

import (
	"maps"
	"reflect"
	"slices"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/session"
)

// reporter remembers what has been told.
type reporter struct {
	last       *session.AgentReport // without catalogues
	catalogues map[string]orrery.ParameterCatalogue
	told       map[string]string // catalogue name → full version told on this stream
}

// again has everything told anew.
func (r *reporter) again() { r.last, r.told = nil, nil }

func (r *reporter) addCatalogue(c orrery.ParameterCatalogue) {
	if r.catalogues == nil {
		r.catalogues = map[string]orrery.ParameterCatalogue{}
	}
	r.catalogues[c.Engine+"-"+c.Version] = c
}

// untold gives the catalogues that the server has not been told on this stream.
func (r *reporter) untold() []orrery.ParameterCatalogue {
	var list []orrery.ParameterCatalogue
	for _, name := range slices.Sorted(maps.Keys(r.catalogues)) {
		if c := r.catalogues[name]; r.told[name] != c.Full {
			list = append(list, c)
		}
	}
	return list
}

// publish reports what has changed since the last report.
func (a *Agent) publish() {
	report := session.AgentReport{Generation: a.generation, Host: a.hostStatus(), Places: make(map[string]session.PlaceState, len(a.claims))}
	for instance, c := range a.claims {
		if !c.dropped {
			report.Places[instance] = a.placeStatus(c)
		}
	}
	catalogues := a.reporter.untold()
	if len(catalogues) == 0 && a.reporter.last != nil && reflect.DeepEqual(*a.reporter.last, report) {
		return
	}
	last := report
	a.reporter.last = &last
	if a.reporter.told == nil {
		a.reporter.told = map[string]string{}
	}
	for _, c := range catalogues {
		a.reporter.told[c.Engine+"-"+c.Version] = c.Full
	}
	report.Catalogues = catalogues
	a.cfg.Report(report)
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
