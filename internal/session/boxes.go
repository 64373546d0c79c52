package session

import (
	"encoding/json"
	"os"
	"sync"
)

// outbox holds the newest of what is to be sent.
type outbox struct {
	mu      sync.Mutex
	newest  func(first bool) any
	version int64 // counts puts
	signal  chan struct{}
}

func newOutbox() *outbox { return &outbox{signal: make(chan struct{}, 1)} }

func (o *outbox) put(f func(first bool) any) {
	o.mu.Lock()
	o.newest = f
	o.version++
	o.mu.Unlock()
	ring(o.signal)
}

// get gives what is newest, nil for nothing.
func (o *outbox) get() (f func(first bool) any, version int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.newest, o.version
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it rings already
	}
}

// wishBox holds the newest wish until it is taken, and refuses older ones, also than those of earlier processes.
type wishBox struct {
	mu     sync.Mutex
	path   string // "" is memory only
	keep   bool
	seen   uint64 // newest generation that any process of ours was given
	held   uint64 // newest that this process was given
	newest *Wish  // not taken yet
	signal chan struct{}
}

type storedWish struct {
	Generation uint64          `json:"generation"`
	Body       json.RawMessage `json:"body,omitempty"`
}

func newWishBox() *wishBox { return &wishBox{signal: make(chan struct{}, 1)} }

// load reads what an earlier process wrote. A file that cannot be read is as good as none: the server sends its wish again.
func (b *wishBox) load(path string, keep bool) {
	b.path, b.keep = path, keep
	raw, err := os.ReadFile(path)
	if err != nil {
		return
	}
	var s storedWish
	if json.Unmarshal(raw, &s) != nil {
		return
	}
	b.seen = s.Generation
	if keep && len(s.Body) > 0 {
		b.newest = &Wish{Generation: s.Generation, Body: s.Body}
		ring(b.signal)
	}
}

// offer takes a wish where it is not older than what was seen. A duplicate of what this process holds is dropped.
func (b *wishBox) offer(w Wish) (taken bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.Generation < b.seen || w.Generation == b.held {
		return false, nil
	}
	if b.path != "" && (w.Generation > b.seen || b.keep) {
		s := storedWish{Generation: w.Generation}
		if b.keep {
			s.Body = w.Body
		}
		var raw []byte
		if raw, err = json.Marshal(s); err == nil {
			err = writeFile(b.path, raw)
		}
	}
	// A wish that cannot be written down is taken all the same: a full disk must not keep a database from what it needs.
	b.seen, b.held = w.Generation, w.Generation
	b.newest = &w
	ring(b.signal)
	return true, err
}

// take gives the newest wish once.
func (b *wishBox) take() (Wish, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.newest == nil {
		return Wish{}, false
	}
	w := *b.newest
	b.newest = nil
	return w, true
}

func (b *wishBox) generations() (held, seen uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held, b.seen
}
