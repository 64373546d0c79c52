package job

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/orrery-db/orrery"
)

// Class says what becomes of a failed attempt.
type Class int

// The classes.
const (
	// Soon: try again in place, after 50 ms, then twice as long each time up to 5 s. What has failed so for a minute is
	// tried later.
	Soon Class = iota
	// Later: let the worker go and try again in 5 s, then twice as long each time up to 2 minutes. Any server may.
	Later
	// Permanent: no retry will help; undo.
	Permanent
)

type classified struct {
	err   error
	class Class
}

func (c *classified) Error() string { return c.err.Error() }
func (c *classified) Unwrap() error { return c.err }

// Retry marks err with the class that decides what becomes of it. Without a mark an *orrery.Error of KindInvalid,
// KindConflict, KindExhausted or KindNotFound is Permanent, and anything else is Soon. The outermost mark counts.
func Retry(err error, class Class) error {
	if err == nil {
		return nil
	}
	return &classified{err: err, class: class}
}

// ClassOf gives err's class by the rules of Retry.
func ClassOf(err error) Class {
	if c, ok := errors.AsType[*classified](err); ok {
		return c.class
	}
	if e, ok := errors.AsType[*orrery.Error](err); ok {
		switch e.Kind {
		case orrery.KindInvalid, orrery.KindConflict, orrery.KindExhausted, orrery.KindNotFound:
			return Permanent
		}
	}
	return Soon
}

const (
	soonFirst  = 50 * time.Millisecond
	soonMost   = 5 * time.Second
	soonFor    = time.Minute
	laterFirst = 5 * time.Second
	laterMost  = 2 * time.Minute
)

// backoff gives the wait after the n-th failure in a row (from 1): doubled each time up to most, and spread over the
// upper half of it so that those that failed together do not come back together.
func backoff(first, most time.Duration, n int) time.Duration {
	d := first << min(max(n-1, 0), 20)
	if d > most || d <= 0 {
		d = most
	}
	return d/2 + rand.N(d/2+1)
}
