package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// measured is what one line of `go test -bench` tells: values by unit.
type measured map[string]float64

// goBench runs a package's benchmarks, count times each, and gives their lines by name, without the number of
// processors.
func goBench(ctx context.Context, pkg, pattern, benchtime string, count int, env ...string) (map[string][]measured, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "xxx", "-bench", pattern, "-benchtime", benchtime, "-count", strconv.Itoa(count), "-timeout", "20m", pkg)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run the benchmarks of %s: %w: %s", pkg, err, out)
	}
	all := map[string][]measured{}
	broken := "" // a name whose figures come on a later line: what the benchmark logged went between
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if strings.HasPrefix(f[0], "Benchmark") {
			broken = f[0]
		} else if _, err := strconv.Atoi(f[0]); err == nil && broken != "" {
			line = broken + " " + line
		}
		if name, m, ok := parseBench(line); ok {
			all[name], broken = append(all[name], m), ""
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no benchmark like %s", pkg, pattern)
	}
	return all, nil
}

// parseBench reads a line such as "BenchmarkUpdate/writers=1-2   100   1234 ns/op   5 B/op".
func parseBench(line string) (string, measured, bool) {
	f := strings.Fields(line)
	if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
		return "", nil, false
	}
	m := measured{}
	for i := 2; i+1 < len(f); i += 2 {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return "", nil, false
		}
		m[f[i+1]] = v
	}
	name := strings.TrimPrefix(f[0], "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i]
		}
	}
	return name, m, true
}

// unit gives one unit's values, round by round.
func unit(all map[string][]measured, name, unit string) (series, error) {
	var s series
	for _, m := range all[name] {
		v, ok := m[unit]
		if !ok {
			return nil, fmt.Errorf("benchmark %s tells no %s", name, unit)
		}
		s = append(s, v)
	}
	if len(s) == 0 {
		return nil, fmt.Errorf("there is no benchmark %s", name)
	}
	return s, nil
}
