package process

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/hypervisor"
)

// checkSpec refuses what cannot be made, with the field's name.
func checkSpec(s hypervisor.Spec) error {
	if !orrery.IsID(s.ID, orrery.PrefixPlace) {
		return orrery.Invalid("id", "%q is no ID of a place", orrery.Shorten(s.ID, 60))
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return orrery.Invalid("command", "a place needs a command")
	}
	for i, a := range s.Command {
		if strings.ContainsRune(a, 0) {
			return orrery.Invalid(fmt.Sprintf("command[%d]", i), "an argument cannot hold a zero byte")
		}
	}
	if _, err := exec.LookPath(s.Command[0]); err != nil {
		return orrery.Invalid("command[0]", "the program %q cannot be run", orrery.Shorten(s.Command[0], 200)).WithCause(err)
	}
	for i, kv := range s.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || strings.ContainsRune(kv, 0) {
			return orrery.Invalid(fmt.Sprintf("env[%d]", i), "%q is not of the form NAME=value", orrery.Shorten(kv, 60))
		}
	}
	if err := checkLimits(s.Limits); err != nil {
		return err
	}
	return checkLabels(s.Labels)
}

func checkLimits(l hypervisor.Limits) error {
	for _, f := range []struct {
		name  string
		value int64
	}{{"cpu_milli", l.CPUMilli}, {"memory_mib", l.MemoryMiB}, {"storage_gib", l.StorageGiB}} {
		if f.value < 0 || f.value > 1<<40 {
			return orrery.Invalid("limits."+f.name, "%d is no limit", f.value)
		}
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > 64 {
		return orrery.Invalid("labels", "%d labels are too many; 64 are allowed", len(labels))
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k == "" || len(k) > 63 || len(labels[k]) > 1024 {
			return orrery.Invalid("labels", "the label %q is empty or too long", orrery.Shorten(k, 63))
		}
	}
	return nil
}

// expand fills in what the command may ask for.
func expand(arg, dir string, port int) string {
	return strings.NewReplacer("{dir}", dir, "{port}", strconv.Itoa(port)).Replace(arg)
}
