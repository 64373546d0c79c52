package hub

import (
	"context"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/session"
	"github.com/orrery-db/orrery/internal/store"
)

var _ session.Plane = (*Hub)(nil)

// AgentConnected begins an agent's session: its host is present from now on, and is sent its whole wish.
func (h *Hub) AgentConnected(_ context.Context, who session.Identity, _ session.Hello) (session.AgentSession, error) {
	if err := h.known(who); err != nil {
		return nil, err
	}
	s := &agentSession{hub: h, host: who.ID, box: newBox()}
	h.mu.Lock()
	h.agents[who.ID] = s.box
	h.mu.Unlock()
	h.present(who.ID, true)
	h.refreshAgent(who.ID)
	return s, nil
}

// KeeperConnected begins a keeper's session and sends its whole wish.
func (h *Hub) KeeperConnected(_ context.Context, who session.Identity, _ session.Hello) (session.KeeperSession, error) {
	if err := h.known(who); err != nil {
		return nil, err
	}
	s := &keeperSession{hub: h, instance: who.ID, box: newBox()}
	h.mu.Lock()
	h.keepers[who.ID] = s.box
	h.mu.Unlock()
	h.refreshKeeper(who.ID)
	return s, nil
}

type agentSession struct {
	hub  *Hub
	host string
	box  *box
}

func (s *agentSession) Wishes() <-chan session.Wish { return s.box.out }

func (s *agentSession) Report(ctx context.Context, r session.AgentReport) error {
	return s.hub.reportAgent(ctx, s.host, r)
}

func (s *agentSession) Close() {
	if s.hub.leave(s.hub.agents, s.host, s.box) {
		s.hub.present(s.host, false)
	}
}

type keeperSession struct {
	hub      *Hub
	instance string
	box      *box
}

func (s *keeperSession) Wishes() <-chan session.Wish { return s.box.out }

func (s *keeperSession) Actions() <-chan session.Action { return nil }

func (s *keeperSession) Report(ctx context.Context, r session.KeeperReport) error {
	return s.hub.reportKeeper(ctx, s.instance, r)
}

// Stats are not kept: nothing reads them yet, and they never belong into the state store.
func (s *keeperSession) Stats(session.KeeperStats) {}

func (s *keeperSession) ActionResult(context.Context, string, session.ActionResult) error { return nil }

func (s *keeperSession) Close() { s.hub.leave(s.hub.keepers, s.instance, s.box) }

// leave takes a session's box away, unless a newer session has put its own there.
func (h *Hub) leave(of map[string]*box, id string, b *box) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if of[id] != b {
		return false
	}
	delete(of, id)
	return true
}

// presence is that a host came or went.
type presence struct {
	id   string
	here bool
}

func (h *Hub) present(id string, here bool) {
	h.mu.Lock()
	h.comings[id] = here
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default: // the keeper of presences is awake already
	}
}

// keepPresence writes who is here under this server's lease, so that all of them vanish with it. Many comings and goings
// are one transaction.
func (h *Hub) keepPresence(ctx context.Context) {
	const batch = 100
	for {
		select {
		case <-h.wake:
		case <-ctx.Done():
			return
		}
		for {
			list := h.takeComings(batch)
			if len(list) == 0 {
				break
			}
			if err := h.writePresence(ctx, list); err != nil && ctx.Err() == nil {
				h.Log.Error("write which hosts are connected", "err", err)
				h.giveBack(list)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

func (h *Hub) takeComings(n int) (list []presence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, here := range h.comings {
		if len(list) == n {
			break
		}
		list = append(list, presence{id, here})
		delete(h.comings, id)
	}
	return list
}

// giveBack puts what could not be written back, where nothing newer is known.
func (h *Hub) giveBack(list []presence) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range list {
		if _, newer := h.comings[p.id]; !newer {
			h.comings[p.id] = p.here
		}
	}
}

func (h *Hub) writePresence(ctx context.Context, list []presence) error {
	_, err := h.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		for _, p := range list {
			mark, err := h.Store.Presences.TxGet(tx, p.id)
			if err != nil && orrery.KindOf(err) != orrery.KindNotFound {
				return err
			}
			there, mine := err == nil, err == nil && mark.Owner == h.Server
			switch {
			case p.here && there && !mine, !p.here && mine:
				if err := h.Store.Presences.Delete(tx, p.id); err != nil {
					return err
				}
			}
			if p.here && !mine {
				if err := h.Store.Presences.InsertLeased(tx, &store.Claim{Meta: orrery.Meta{ID: p.id}, Owner: h.Server}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return err
}
