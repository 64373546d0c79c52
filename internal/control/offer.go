package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// definition finds an engine.
func (c *Control) definition(name string) (engine.Definition, error) {
	if def, ok := c.engines[name]; ok {
		return def, nil
	}
	known := slices.Sorted(maps.Keys(c.engines))
	if name == "" {
		return nil, orrery.Invalid("spec.engine", "an engine is wanted").WithCode("engine_unknown").WithHint("The engines are: %s.", strings.Join(known, ", "))
	}
	return nil, orrery.Invalid("spec.engine", "there is no engine %q", orrery.Shorten(name, 60)).WithCode("engine_unknown").
		WithHint("The engines are: %s.", strings.Join(known, ", "))
}

// offered lists the major versions of an engine that some host has and the driver knows, oldest first.
func (c *Control) offered(def engine.Definition) []string {
	found := map[string]bool{}
	for _, h := range c.store.Hosts.List() {
		for _, v := range h.Status.Engines {
			if v.Engine == def.Engine().Name && def.Supports(v.Version) {
				found[v.Version] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), compareVersions)
}

// compareVersions compares "9" and "15" as numbers, part by part.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.Atoi(as[i])
		y, errY := strconv.Atoi(bs[i])
		if errX != nil || errY != nil {
			return strings.Compare(a, b)
		}
		if x != y {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(as), len(bs))
}

// packager is implemented by drivers that can say what to install on a host to have a version there.
type packager interface {
	// Package is the usual package of a version, or of any where it is empty.
	Package(version string) string
}

// checkOffer refuses an engine or version that no host has, and chooses the newest where none is asked for.
func (c *Control) checkOffer(def engine.Definition, spec *orrery.DatastoreSpec) error {
	title := def.Engine().Title
	if c.store.Hosts.Len() == 0 {
		return orrery.Errorf(orrery.KindUnavailable, "no host has joined this plane yet").WithCode("no_hosts").
			WithHint("Start an agent on a machine: orrery agent, with a token of orrery host join-token.")
	}
	versions := c.offered(def)
	hint := fmt.Sprintf("Install %s on a host; its agent finds it by itself.", title)
	if p, ok := def.(packager); ok {
		hint = fmt.Sprintf("Install it on a host, as with: apt-get install %s. Its agent finds it by itself.", p.Package(spec.Version))
	}
	switch {
	case spec.Version != "" && !def.Supports(spec.Version):
		e := orrery.Invalid("spec.version", "Orrery does not know version %q of %s", orrery.Shorten(spec.Version, 20), title).WithCode("version_unknown")
		if len(versions) > 0 {
			e = e.WithHint("On offer: %s. Give the major version alone.", strings.Join(versions, ", "))
		}
		return e
	case len(versions) == 0:
		return orrery.Errorf(orrery.KindUnavailable, "%s is not installed on any host", title).WithCode("engine_not_installed").WithHint("%s", hint)
	case spec.Version == "":
		spec.Version = versions[len(versions)-1]
	case !slices.Contains(versions, spec.Version):
		return orrery.Invalid("spec.version", "%s %s is not installed on any host", title, spec.Version).WithCode("version_not_installed").
			WithHint("On offer: %s. %s", strings.Join(versions, ", "), hint)
	}
	return nil
}

// checkRoom refuses a size that no host could hold even if it were empty. Whether there is room now is for placement.
func (c *Control) checkRoom(spec *orrery.DatastoreSpec, plan *orrery.Plan) error {
	var most orrery.Capacity
	for _, h := range c.store.Hosts.List() {
		pool, ok := c.store.Pools.Get(h.Spec.Pool)
		if !ok || pool.Spec.Region != spec.Region {
			continue
		}
		has := h.Status.Capacity
		has.CPUMilli = percent(has.CPUMilli, pool.Spec.CPUOvercommitPercent)
		has.StorageGiB = percent(has.StorageGiB, pool.Spec.StorageOvercommitPercent)
		if plan.CPUMilli <= has.CPUMilli && plan.MemoryMiB <= has.MemoryMiB && int64(spec.StorageGiB) <= has.StorageGiB {
			return nil
		}
		most.CPUMilli, most.MemoryMiB = max(most.CPUMilli, has.CPUMilli), max(most.MemoryMiB, has.MemoryMiB)
		most.StorageGiB = max(most.StorageGiB, has.StorageGiB)
	}
	field, text := "spec.plan", fmt.Sprintf("no host is large enough for plan %s (%.2g CPU, %d MiB)", plan.Name, float64(plan.CPUMilli)/1000, plan.MemoryMiB)
	if plan.CPUMilli <= most.CPUMilli && plan.MemoryMiB <= most.MemoryMiB && int64(spec.StorageGiB) > most.StorageGiB {
		field, text = "spec.storage_gib", fmt.Sprintf("no host has %d GiB of storage", spec.StorageGiB)
	}
	return orrery.Invalid(field, "%s", text).WithCode("larger_than_any_host").
		WithHint("The largest host has %.2g CPU to promise, %d MiB of memory and %d GiB of storage.", float64(most.CPUMilli)/1000, most.MemoryMiB, most.StorageGiB)
}

func percent(v int64, p int) int64 {
	if p == 0 {
		return v
	}
	return v * int64(p) / 100
}
