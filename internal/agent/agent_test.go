package agent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/session"
)

func TestColdPlaceFromWishToEnd(t *testing.T) {
	h := newHarness(t)
	h.start()
	w := placeWish()
	h.agent.Wish(1, session.AgentWish{Places: []session.PlaceWish{w}})
	r := h.wait("running", func(r session.AgentReport) bool { return settled(r, w.Instance) })
	s := r.Places[w.Instance]
	if s.Address != "127.0.0.1" || s.Port == 0 || s.KeeperPID == 0 || s.Limits == "" || s.Generation != 1 || s.ID == "" {
		t.Errorf("reported: %+v", s)
	}
	if r.Generation != 1 || len(r.Host.Engines) != 1 || r.Host.Capacity.CPUMilli == 0 || r.Host.Hypervisor != "process" || r.Host.BootID == "" {
		t.Errorf("reported: %+v", r)
	}
	path := filepath.Join(h.root, "places", s.ID, "agent", "assignment.json")
	var got map[string]string
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &got) != nil {
		t.Fatal(err)
	}
	if got["instance"] != w.Instance || got["datastore"] != w.Datastore || got["join_token"] != "a.b.c" || got["server_name"] != "plane" {
		t.Errorf("assignment: %s", b)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the assignment has mode %v, %v", fi.Mode(), err)
	}
	h.waitAssigned(s.ID) // the keeper, as its own user, could read it

	// A token that was used is no reason to touch anything.
	w.JoinToken = ""
	h.agent.Wish(2, session.AgentWish{Places: []session.PlaceWish{w}})
	r = h.wait("generation 2", func(r session.AgentReport) bool { return r.Generation == 2 })
	if got := r.Places[w.Instance]; got != s {
		t.Errorf("changed from %+v to %+v", s, got)
	}

	w.Absent = true
	h.agent.Wish(3, session.AgentWish{Places: []session.PlaceWish{w}})
	r = h.wait("absent", func(r session.AgentReport) bool { return r.Places[w.Instance].State == orrery.PlaceAbsent })
	h.wait("generation 3", func(r session.AgentReport) bool { return r.Places[w.Instance].Generation == 3 })
	if alive(s.KeeperPID) {
		t.Error("the keeper lives on")
	}
	if _, err := os.Stat(filepath.Dir(filepath.Dir(path))); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestWarmPlaceIsHandedOutAndReplaced(t *testing.T) {
	h := newHarness(t)
	h.start()
	warm := []session.WarmWish{{Engine: "fake", Version: "1", Count: 2}}
	h.agent.Wish(1, session.AgentWish{Warm: warm})
	first := h.waitWarm(2)
	r := h.wait("catalogue", func(r session.AgentReport) bool { return len(h.catalogues()) > 0 })
	if c := h.catalogues(); c[0].Full != "1.0" || len(c[0].Parameters) != 1 {
		t.Errorf("catalogues: %+v", c)
	}
	if len(r.Host.Unclaimed) > 0 {
		t.Errorf("warm places are reported as unclaimed: %v", r.Host.Unclaimed)
	}

	w := placeWish()
	began := time.Now()
	h.agent.Wish(2, session.AgentWish{Places: []session.PlaceWish{w}, Warm: warm})
	r = h.wait("running", func(r session.AgentReport) bool { return settled(r, w.Instance) })
	t.Logf("handed out in %v", time.Since(began))
	s := r.Places[w.Instance]
	if pid, ok := first[s.ID]; !ok || pid != s.KeeperPID {
		t.Errorf("the place %+v was not one of the warm ones %v, or its keeper was restarted", s, first)
	}
	h.waitAssigned(s.ID)
	second := h.waitWarm(2)
	if _, ok := second[s.ID]; ok {
		t.Error("the place is still warm")
	}
	if n := len(h.catalogues()); n != 1 {
		t.Errorf("the catalogue was sent %d times on one stream", n)
	}
	h.newStream()
	h.wait("catalogue again", func(session.AgentReport) bool { return len(h.catalogues()) == 2 })

	// Not wished any more.
	h.agent.Wish(3, session.AgentWish{Places: []session.PlaceWish{w}})
	h.waitWarm(0)
	if !alive(s.KeeperPID) {
		t.Error("the instance's keeper died")
	}
}

func TestWarmPlacesOfAnotherVersionAreReplaced(t *testing.T) {
	for name, change := range map[string]func(h *harness){
		"keeper": func(h *harness) { h.version = "2" },
		"engine": func(h *harness) { h.setEngines(orrery.EngineVersion{Engine: "fake", Version: "1", Full: "1.1"}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.start()
			wish := session.AgentWish{Warm: []session.WarmWish{{Engine: "fake", Version: "1", Count: 1}}}
			h.agent.Wish(1, wish)
			old := h.waitWarm(1)
			h.stop()
			change(h)
			h.start()
			h.agent.Wish(1, wish)
			h.waitNew(old)
		})
	}
}

func TestRestartedAgentFindsEverything(t *testing.T) {
	h := newHarness(t)
	h.start()
	a, b := placeWish(), placeWish()
	wish := session.AgentWish{Places: []session.PlaceWish{a, b}, Warm: []session.WarmWish{{Engine: "fake", Version: "1", Count: 1}}}
	h.agent.Wish(7, wish)
	before := h.wait("running", func(r session.AgentReport) bool { return settled(r, a.Instance) && settled(r, b.Instance) })
	warm := h.waitWarm(1)
	h.stop()
	h.start()
	h.agent.Wish(8, wish)
	after := h.wait("running", func(r session.AgentReport) bool { return settled(r, a.Instance) && settled(r, b.Instance) })
	for _, w := range []session.PlaceWish{a, b} {
		if before.Places[w.Instance] != after.Places[w.Instance] {
			t.Errorf("before %+v, after %+v", before.Places[w.Instance], after.Places[w.Instance])
		}
		h.echo(after.Places[w.Instance].ID)
	}
	if again := h.waitWarm(1); fmt.Sprint(again) != fmt.Sprint(warm) {
		t.Errorf("warm before %v, after %v", warm, again)
	}
}

func TestProxyLeadsToTheServerAndAgainAfterRestart(t *testing.T) {
	h := newHarness(t)
	h.start()
	w := placeWish()
	wish := session.AgentWish{Places: []session.PlaceWish{w}}
	h.agent.Wish(1, wish)
	id := h.wait("running", func(r session.AgentReport) bool { return settled(r, w.Instance) }).Places[w.Instance].ID
	h.echo(id)
	// Another user of the host gets nowhere near.
	if fi, err := os.Stat(filepath.Join(h.root, "places", id, "agent")); err != nil || fi.Mode().Perm()&0o007 != 0 {
		t.Errorf("the socket's folder has mode %v, %v", fi.Mode(), err)
	}
	h.stop()
	h.start() // no wish has come yet, and the keeper is led to the server already
	h.wait("first report", func(session.AgentReport) bool { return true })
	h.echo(id)
}

func TestOnlyWhatIsWishedAbsentIsDestroyed(t *testing.T) {
	h := newHarness(t)
	h.start()
	w := placeWish()
	h.agent.Wish(1, session.AgentWish{Places: []session.PlaceWish{w}})
	s := h.wait("running", func(r session.AgentReport) bool { return settled(r, w.Instance) }).Places[w.Instance]
	h.agent.Wish(2, session.AgentWish{})
	r := h.wait("unclaimed", func(r session.AgentReport) bool { return len(r.Host.Unclaimed) == 1 })
	if r.Host.Unclaimed[0] != s.ID || len(r.Places) != 0 || !alive(s.KeeperPID) {
		t.Errorf("reported %+v; the place was %+v", r, s)
	}
	h.agent.Wish(3, session.AgentWish{Places: []session.PlaceWish{w}})
	r = h.wait("claimed again", func(r session.AgentReport) bool { return settled(r, w.Instance) })
	if got := r.Places[w.Instance]; got.KeeperPID != s.KeeperPID || len(r.Host.Unclaimed) != 0 {
		t.Errorf("claimed again: %+v", r)
	}
}

func TestMissingEngineIsToldAndFoundLater(t *testing.T) {
	h := newHarness(t)
	h.setEngines()
	h.start()
	w := placeWish()
	h.agent.Wish(1, session.AgentWish{Places: []session.PlaceWish{w}})
	r := h.wait("failed", func(r session.AgentReport) bool { return r.Places[w.Instance].State == orrery.PlaceFailed })
	if r.Places[w.Instance].Message == "" {
		t.Error("nothing says why")
	}
	h.setEngines(fakeEngine())
	h.agent.Rediscover()
	h.wait("running", func(r session.AgentReport) bool { return settled(r, w.Instance) })
}

func TestPlanChangeKeepsTheKeeper(t *testing.T) {
	h := newHarness(t)
	h.start()
	w, other := placeWish(), placeWish()
	h.agent.Wish(1, session.AgentWish{Places: []session.PlaceWish{w, other}})
	s := h.wait("running", func(r session.AgentReport) bool { return settled(r, w.Instance) && settled(r, other.Instance) }).Places[w.Instance]
	w.MemoryMiB *= 2
	h.agent.Wish(2, session.AgentWish{Places: []session.PlaceWish{w, other}})
	r := h.wait("changed", func(r session.AgentReport) bool { return r.Places[w.Instance].Generation == 2 })
	if got := r.Places[w.Instance]; got.KeeperPID != s.KeeperPID || got.State != orrery.PlaceRunning {
		t.Errorf("changed from %+v to %+v", s, got)
	}
	if got := r.Places[other.Instance].Generation; got != 1 {
		t.Errorf("a change for one place is news of another: generation %d", got)
	}
	list, err := h.driver.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.ID == s.ID && p.Labels["limits"] != fmt.Sprintf("%d/%d/%d", w.CPUMilli, w.MemoryMiB, w.StorageGiB) {
			t.Errorf("labels: %v", p.Labels)
		}
	}
}

func TestDeadKeeperIsReportedAndRestarted(t *testing.T) {
	h := newHarness(t)
	h.start()
	w := placeWish()
	h.agent.Wish(1, session.AgentWish{Places: []session.PlaceWish{w}})
	s := h.wait("running", func(r session.AgentReport) bool { return settled(r, w.Instance) }).Places[w.Instance]
	h.waitAssigned(s.ID)
	kill(t, s.KeeperPID)
	h.wait("restarting", func(r session.AgentReport) bool { return r.Places[w.Instance].State == orrery.PlaceRestarting })
	h.wait("running", func(r session.AgentReport) bool {
		return settled(r, w.Instance) && r.Places[w.Instance].KeeperPID != s.KeeperPID
	})
}

func TestManyAtOnce(t *testing.T) {
	h := newHarness(t)
	h.start()
	var wish session.AgentWish
	for range 20 {
		wish.Places = append(wish.Places, placeWish())
	}
	all := func(ok func(session.PlaceState) bool) func(session.AgentReport) bool {
		return func(r session.AgentReport) bool {
			for _, w := range wish.Places {
				if !ok(r.Places[w.Instance]) {
					return false
				}
			}
			return true
		}
	}
	began := time.Now()
	h.agent.Wish(1, wish)
	h.wait("running", all(func(s session.PlaceState) bool { return s.State == orrery.PlaceRunning && s.Generation == 1 }))
	t.Logf("20 made in %v", time.Since(began))
	for i := range wish.Places {
		wish.Places[i].Absent = true
	}
	began = time.Now()
	h.agent.Wish(2, wish)
	h.wait("absent", all(func(s session.PlaceState) bool { return s.State == orrery.PlaceAbsent }))
	t.Logf("20 unmade in %v", time.Since(began))
	if list, err := h.driver.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// TestDestroyDuringCreate wishes a place away before it can be there.
func TestDestroyDuringCreate(t *testing.T) {
	h := newHarness(t)
	h.start()
	w := placeWish()
	h.agent.Wish(1, session.AgentWish{Places: []session.PlaceWish{w}})
	w.Absent = true
	h.agent.Wish(2, session.AgentWish{Places: []session.PlaceWish{w}})
	h.wait("absent", func(r session.AgentReport) bool {
		s := r.Places[w.Instance]
		return r.Generation == 2 && s.State == orrery.PlaceAbsent && s.Generation == 2
	})
	if list, err := h.driver.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}
