package session

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff says how long to wait before the next try.
type backoff struct {
	first, limit time.Duration
	tries        int
}

// next gives a random part of a bound that doubles from first to limit. The bound's lower half is left in: peers of a
// server that restarts must not come back together, and one that merely lost its connection is back at once.
func (b *backoff) next() time.Duration {
	bound := b.limit
	if b.tries < 16 {
		bound = min(b.limit, b.first<<b.tries)
	}
	b.tries++
	return rand.N(bound) + time.Millisecond
}

func (b *backoff) reset() { b.tries = 0 }

// pause waits and tells whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
