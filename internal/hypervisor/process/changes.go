package process

import "sync"

// changes hands out the IDs of changed places: each at least once after its last change, in no more memory than there
// are places.
type changes struct {
	out     chan string
	stop    chan struct{}
	done    chan struct{}
	wake    chan struct{}
	mu      sync.Mutex
	pending map[string]struct{}
}

func newChanges() *changes {
	c := &changes{
		out: make(chan string), stop: make(chan struct{}), done: make(chan struct{}),
		wake: make(chan struct{}, 1), pending: map[string]struct{}{},
	}
	go c.pump()
	return c
}

func (c *changes) tell(id string) {
	c.mu.Lock()
	c.pending[id] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) take() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.pending {
		delete(c.pending, id)
		return id, true
	}
	return "", false
}

func (c *changes) pump() {
	defer close(c.done)
	defer close(c.out)
	for {
		id, ok := c.take()
		if !ok {
			select {
			case <-c.wake:
				continue
			case <-c.stop:
				return
			}
		}
		select {
		case c.out <- id:
		case <-c.stop:
			return
		}
	}
}

func (c *changes) close() {
	close(c.stop)
	<-c.done
}
