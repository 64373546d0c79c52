package keeper

import (
	"math/rand/v2"
	"time"
)

// backoff gives growing, jittered waits: about first, then twice that, up to limit.
type backoff struct {
	first, limit time.Duration
	tries        int
}

func (b *backoff) next() time.Duration {
	d := min(b.first<<min(b.tries, 20), b.limit)
	b.tries++
	return d/2 + rand.N(d/2+1)
}

func (b *backoff) reset() { b.tries = 0 }
