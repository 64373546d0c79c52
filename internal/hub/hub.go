// Package hub is the server's side of all sessions: it tells each agent and each keeper what it should have, and writes
// into the store what they report. It decides nothing; jobs and reconcilers do.
package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/pki"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/store"
)

// Config is what a hub needs.
type Config struct {
	Store *store.Store
	Plane *pki.CA // proves sessions
	Data  *pki.CA // proves databases
	// JoinKey makes the one-time tokens of instances: every server of the plane has the same.
	JoinKey []byte
	// Warm is how many prepared places each host holds of each engine version.
	Warm int
	// DefaultPool takes hosts that join.
	DefaultPool string
	// Server is this server's name, for presences.
	Server string
	Log    *slog.Logger
	Now    func() time.Time
}

// Hub is one server's side of its sessions.
type Hub struct {
	Config

	mu      sync.Mutex
	agents  map[string]*box // by host ID
	keepers map[string]*box // by instance ID

	comings map[string]bool // hosts that came or went and are not written yet
	wake    chan struct{}
}

// New makes a hub; Run keeps it going.
func New(cfg Config) (*Hub, error) {
	if cfg.Store == nil || cfg.Plane == nil || cfg.Data == nil || len(cfg.JoinKey) < 32 || cfg.Log == nil {
		return nil, fmt.Errorf("make the hub: a store, two CAs, a join key of 32 bytes and a logger are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Hub{Config: cfg, agents: map[string]*box{}, keepers: map[string]*box{}, comings: map[string]bool{}, wake: make(chan struct{}, 1)}, nil
}

// Run follows the store and sends new wishes to whom a change concerns, until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	go h.keepPresence(ctx)
	for ctx.Err() == nil {
		changes, err := h.Store.Watch(ctx, concerns, 0)
		if err != nil {
			return fmt.Errorf("watch the store for wishes: %w", err)
		}
		h.refreshAll() // whatever was missed between two watches
		for ch := range changes {
			h.route(ch)
		}
	}
	return ctx.Err()
}

func concerns(ch store.Change) bool {
	switch ch.Collection {
	case "instances", "datastores", "hosts", "plans", "catalogues":
		return true
	}
	return false
}

// route refreshes only the sessions that a change concerns.
func (h *Hub) route(ch store.Change) {
	for _, v := range []any{ch.New, ch.Old} {
		switch o := v.(type) {
		case *orrery.Instance:
			if o != nil {
				h.refreshAgent(o.Spec.Host)
				h.refreshMembers(o.Spec.Datastore)
				return
			}
		case *orrery.Datastore:
			if o != nil {
				for _, in := range h.Store.Instances.By("datastore", o.ID) {
					h.refreshAgent(in.Spec.Host)
				}
				h.refreshMembers(o.ID)
				return
			}
		case *orrery.Host:
			if o != nil {
				h.refreshAgent(o.ID)
				return
			}
		case *orrery.Plan, *orrery.ParameterCatalogue:
			h.refreshAll()
			return
		}
	}
}

func (h *Hub) refreshMembers(datastore string) {
	for _, in := range h.Store.Instances.By("datastore", datastore) {
		h.refreshKeeper(in.ID)
	}
}

func (h *Hub) refreshAll() {
	h.mu.Lock()
	hosts, instances := make([]string, 0, len(h.agents)), make([]string, 0, len(h.keepers))
	for id := range h.agents {
		hosts = append(hosts, id)
	}
	for id := range h.keepers {
		instances = append(instances, id)
	}
	h.mu.Unlock()
	for _, id := range hosts {
		h.refreshAgent(id)
	}
	for _, id := range instances {
		h.refreshKeeper(id)
	}
}

func (h *Hub) refreshKeeper(instance string) {
	if b := h.box(h.keepers, instance); b != nil {
		b.refresh(h, func() (any, error) { return h.wishForKeeper(instance) })
	}
}

func (h *Hub) refreshAgent(host string) {
	if b := h.box(h.agents, host); b != nil {
		b.refresh(h, func() (any, error) { return h.wishForAgent(host) })
	}
}

func (h *Hub) box(of map[string]*box, id string) *box {
	h.mu.Lock()
	defer h.mu.Unlock()
	return of[id]
}

// wishForKeeper gathers the facts of an instance from memory.
func (h *Hub) wishForKeeper(instance string) (any, error) {
	in, ok := h.Store.Instances.Get(instance)
	if !ok {
		return nil, orrery.NotFound("instance", instance)
	}
	ds, ok := h.Store.Datastores.Get(in.Spec.Datastore)
	if !ok {
		return nil, orrery.NotFound("datastore", in.Spec.Datastore)
	}
	plan, err := h.plan(in.Spec.Plan)
	if err != nil {
		return nil, err
	}
	f := facts{datastore: ds, instance: in, members: h.Store.Instances.By("datastore", ds.ID), plan: plan, secrets: map[string]string{}}
	for _, u := range ds.Spec.Users {
		secret, err := h.Store.Secret(context.Background(), ds.ID+"/user/"+u.Name)
		if err != nil {
			return nil, fmt.Errorf("unseal the secret of user %s of %s: %w", u.Name, ds.ID, err)
		}
		f.secrets[u.Name] = string(secret)
	}
	member, err := h.Store.Secret(context.Background(), ds.ID+"/member")
	if err != nil {
		return nil, fmt.Errorf("unseal the member secret of %s: %w", ds.ID, err)
	}
	f.member = string(member)
	if host, ok := h.Store.Hosts.Get(in.Spec.Host); ok {
		f.address = host.Status.Address
	}
	return keeperWish(f), nil
}

// wishForAgent gathers all places of a host from memory.
func (h *Hub) wishForAgent(host string) (any, error) {
	wish := session.AgentWish{Places: []session.PlaceWish{}}
	for _, in := range h.Store.Instances.By("host", host) {
		ds, _ := h.Store.Datastores.Get(in.Spec.Datastore)
		now, err := h.plan(in.Spec.Plan)
		if err != nil {
			return nil, err
		}
		was := now
		if ds != nil && ds.Applied != nil {
			if p, err := h.plan(ds.Applied.Plan); err == nil {
				was = p
			}
		}
		token := ""
		if in.Status.KeeperKey == "" && !in.Spec.Absent {
			token = h.instanceToken(in.ID)
		}
		wish.Places = append(wish.Places, placeWish(ds, in, now, was, token))
	}
	if hst, ok := h.Store.Hosts.Get(host); ok && !hst.Spec.Cordoned {
		for _, e := range hst.Status.Engines {
			if n := h.warm(e); n > 0 {
				wish.Warm = append(wish.Warm, session.WarmWish{Engine: e.Engine, Version: e.Version, Count: n})
			}
		}
	}
	return wish, nil
}

// warm is how many prepared places a host holds of an engine version: at least one until the version has told its
// parameters, which only a prepared place can.
func (h *Hub) warm(e orrery.EngineVersion) int {
	if c := h.Store.Catalogues.By("name", e.Engine+"-"+e.Version); len(c) == 0 {
		return max(h.Warm, 1)
	}
	return h.Warm
}

func (h *Hub) plan(name string) (*orrery.Plan, error) {
	if plans := h.Store.Plans.By("name", name); len(plans) > 0 {
		return plans[0], nil
	}
	return nil, orrery.NotFound("plan", name)
}

// box holds the newest wish of one session until the stream takes it.
type box struct {
	mu   sync.Mutex
	last []byte // body of the newest wish, to tell whether another differs
	out  chan session.Wish
}

func newBox() *box { return &box{out: make(chan session.Wish, 1)} }

// refresh makes the wish anew and puts it in the box where it differs from the last one. Making and putting happen under
// one lock, so that a later call never puts something older.
func (b *box) refresh(h *Hub, makeWish func() (any, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	generation := h.Store.Generation(h.Store.Revision())
	wish, err := makeWish()
	if err != nil {
		if orrery.KindOf(err) != orrery.KindNotFound { // gone meanwhile: there is nothing to wish
			h.Log.Error("make a wish", "err", err)
		}
		return
	}
	body, err := json.Marshal(wish)
	if err != nil {
		h.Log.Error("marshal a wish", "err", err)
		return
	}
	if bytes.Equal(body, b.last) {
		return
	}
	b.last = body
	select {
	case <-b.out:
	default:
	}
	b.out <- session.Wish{Generation: generation, Body: body}
}
