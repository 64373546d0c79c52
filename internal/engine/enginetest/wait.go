package enginetest

import (
	"net/netip"
	"testing"
	"time"
)

// patience is how long the suite waits for a server to do what it has to.
const patience = 30 * time.Second

// eventually polls: a database that starts or catches up gives no signal to wait for.
func eventually(t testing.TB, what string, cond func() error) {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited %v until %s: %v", patience, what, err)
		case <-time.After(3 * time.Millisecond):
		}
	}
}

func prefixes(cidrs ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(cidrs))
	for i, c := range cidrs {
		out[i] = netip.MustParsePrefix(c)
	}
	return out
}
