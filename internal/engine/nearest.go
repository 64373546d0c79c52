package engine

import (
	"cmp"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
)

func unknownParameter(catalogue []orrery.Parameter, name string) error {
	e := orrery.Invalid(ParameterField(orrery.Shorten(name, 60)), "there is no parameter %q", orrery.Shorten(name, 60)).WithCode("parameter_unknown")
	if near := nearest(catalogue, name, 3); len(near) > 0 {
		return e.WithHint("Did you mean %s?", strings.Join(near, ", "))
	}
	return e.WithHint("The engine's version tells its parameters at /v1/engines/{engine}/versions/{version}/parameters.")
}

// nearest gives up to n names that are like name, the likest first.
func nearest(catalogue []orrery.Parameter, name string, n int) []string {
	type candidate struct {
		name     string
		distance int
	}
	name = strings.ToLower(orrery.Shorten(name, 80))
	if name == "" {
		return nil
	}
	var found []candidate
	for _, p := range catalogue {
		if p.Managed != "" {
			continue
		}
		d := distance(name, strings.ToLower(p.Name))
		switch {
		case d <= max(1, len(name)/4):
		case len(name) >= 4 && strings.Contains(p.Name, name):
			d = 100 + len(p.Name) - len(name) // a part of it: behind all misspellings
		default:
			continue
		}
		found = append(found, candidate{p.Name, d})
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	names := make([]string, 0, n)
	for _, c := range found[:min(n, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
