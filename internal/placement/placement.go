// Package placement chooses hosts for new instances. It is pure: the caller books what it chose in the transaction that
// makes the instances, and chooses again when that lost its race.
package placement

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/orrery-db/orrery"
)

// Host is a candidate.
type Host struct {
	*orrery.Host
	Pool *orrery.Pool
	// Members counts the datastore's own instances that are there already.
	Members int
}

// Need is what each new instance takes.
type Need struct {
	Engine, Version string
	Region          string // ID of the region; any where empty
	Size            orrery.Capacity
}

// Choose gives a host for each of n instances: first where the fewest members of the same datastore are, then in the
// zone with the fewest, then where the smallest share of memory is promised. A host may be given more than once when
// there are fewer hosts than members. The error (KindExhausted) says what stood against each candidate.
func Choose(hosts []Host, need Need, n int) ([]*orrery.Host, error) {
	free := make([]Host, 0, len(hosts))
	why := map[string]int{}
	for _, h := range hosts {
		if reason := unfit(h, need); reason != "" {
			why[reason]++
			continue
		}
		copied := *h.Host
		h.Host = &copied
		free = append(free, h)
	}
	chosen := make([]*orrery.Host, 0, n)
	zone := map[string]int{}
	for _, h := range free {
		zone[h.Spec.Zone] += h.Members
	}
	for range n {
		slices.SortStableFunc(free, func(a, b Host) int {
			return cmp.Or(
				cmp.Compare(a.Members, b.Members),
				cmp.Compare(zone[a.Spec.Zone], zone[b.Spec.Zone]),
				cmp.Compare(share(a), share(b)),
				cmp.Compare(a.ID, b.ID))
		})
		i := slices.IndexFunc(free, func(h Host) bool { return Fits(h.Host, h.Pool, need.Size) })
		if i < 0 {
			return nil, exhausted(hosts, need, n, len(chosen), why)
		}
		h := &free[i]
		h.Allocated = Add(h.Allocated, need.Size, 1)
		h.Members++
		zone[h.Spec.Zone]++
		chosen = append(chosen, h.Host)
	}
	return chosen, nil
}

// Fits tells whether a host has room for one more of this size beside what it has been promised.
func Fits(h *orrery.Host, pool *orrery.Pool, size orrery.Capacity) bool {
	has, taken := h.Status.Capacity, Add(h.Allocated, size, 1)
	return taken.MemoryMiB <= has.MemoryMiB &&
		taken.CPUMilli <= percent(has.CPUMilli, pool.Spec.CPUOvercommitPercent) &&
		taken.StorageGiB <= percent(has.StorageGiB, pool.Spec.StorageOvercommitPercent)
}

// Add gives a + times·b.
func Add(a, b orrery.Capacity, times int64) orrery.Capacity {
	a.CPUMilli += times * b.CPUMilli
	a.MemoryMiB += times * b.MemoryMiB
	a.StorageGiB += times * b.StorageGiB
	return a
}

func percent(v int64, p int) int64 {
	if p == 0 {
		return v
	}
	return v * int64(p) / 100
}

func share(h Host) float64 {
	return float64(h.Allocated.MemoryMiB) / float64(max(h.Status.Capacity.MemoryMiB, 1))
}

// unfit says why a host is no candidate at all; "" when it is one.
func unfit(h Host, need Need) string {
	switch {
	case !h.Status.Connected:
		return "not connected"
	case h.Spec.Cordoned:
		return "cordoned"
	case h.Pool == nil:
		return "in no pool"
	case need.Region != "" && h.Pool.Spec.Region != need.Region:
		return "in another region"
	case !slices.ContainsFunc(h.Status.Engines, func(e orrery.EngineVersion) bool {
		return e.Engine == need.Engine && e.Version == need.Version
	}):
		return "without " + need.Engine + " " + need.Version
	}
	return ""
}

func exhausted(hosts []Host, need Need, n, found int, why map[string]int) error {
	e := orrery.Errorf(orrery.KindExhausted, "no host has room for %d more of %d instances of %d MiB of memory, %.2g CPU and %d GiB of storage",
		n-found, n, need.Size.MemoryMiB, float64(need.Size.CPUMilli)/1000, need.Size.StorageGiB).WithCode("no_capacity")
	reasons := make([]string, 0, len(why))
	for r := range why {
		reasons = append(reasons, r)
	}
	slices.Sort(reasons)
	hint := "Add a host, choose a smaller plan, or delete what is not needed."
	for _, r := range reasons {
		hint += fmt.Sprintf(" %d of %d hosts: %s.", why[r], len(hosts), r)
	}
	return e.WithHint("%s", hint)
}
