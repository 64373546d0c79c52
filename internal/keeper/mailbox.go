package keeper

import (
	"context"
	"sync"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// mailbox holds the newest wish.
type mailbox struct {
	mu      sync.Mutex
	newest  *wish
	changed chan struct{} // holds one token after a change
	// shape is what a long operation was begun for; another ends it through cut.
	shape shape
	cut   context.CancelFunc
}

func newMailbox() *mailbox { return &mailbox{changed: make(chan struct{}, 1)} }

func (m *mailbox) put(w *wish) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest != nil && w.Generation < m.newest.Generation {
		return
	}
	m.newest = w
	if m.cut != nil && shapeOf(w.Desired) != m.shape {
		m.cut()
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *mailbox) get() *wish {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newest
}

// shape is the part of a wish whose change makes it pointless to go on with what takes long.
type shape struct {
	role       orrery.Role
	stopped    bool
	restartSeq int64
	primary    engine.Peer
	systemID   string
}

func shapeOf(d engine.Desired) shape {
	s := shape{role: d.Role, stopped: d.Stopped, restartSeq: d.RestartSeq, systemID: d.SystemID}
	if d.Primary != nil {
		s.primary = *d.Primary
	}
	return s
}

// during gives a context for a long operation for d, which ends when a wish of another shape comes.
func (m *mailbox) during(ctx context.Context, d engine.Desired) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shape, m.cut = shapeOf(d), cancel
	if m.newest != nil && shapeOf(m.newest.Desired) != m.shape {
		cancel()
	}
	return ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.cut = nil
		cancel()
	}
}
