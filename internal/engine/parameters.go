package engine

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
)

// ParameterField is the field that an error about a parameter names.
func ParameterField(name string) string { return "spec.parameters." + name }

// CheckParameters checks values against what the engine's version itself says of its parameters: that they exist, are
// not managed, and are of the right type and range. check is called for what passed (Definition.CheckParameter, bound
// to a spec and plan); nil is none. It gives the names of those that take effect at a restart only.
//
// Errors are *orrery.Error of KindInvalid with the codes parameter_unknown, parameter_managed, parameter_invalid and
// parameter_out_of_range; the first in the order of names is given.
func CheckParameters(catalogue []orrery.Parameter, values map[string]string, check func(p orrery.Parameter, value string) error) (restart []string, err error) {
	known := make(map[string]orrery.Parameter, len(catalogue))
	for _, p := range catalogue {
		known[p.Name] = p
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		p, ok := known[name]
		if !ok {
			return nil, unknownParameter(catalogue, name)
		}
		if err := CheckParameter(p, values[name]); err != nil {
			return nil, err
		}
		if check != nil {
			if err := check(p, values[name]); err != nil {
				return nil, withField(err, ParameterField(name))
			}
		}
		if p.Restart {
			restart = append(restart, name)
		}
	}
	return restart, nil
}

// CheckParameter checks one value against its parameter.
func CheckParameter(p orrery.Parameter, value string) error {
	field := ParameterField(p.Name)
	if p.Managed != "" {
		return orrery.Invalid(field, "%s is set by Orrery: %s", p.Name, p.Managed).WithCode("parameter_managed").WithHint("Leave it out.")
	}
	if len(value) > 8192 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return orrery.Invalid(field, "the value of %s has control characters, is not UTF-8, or is too long", p.Name).WithCode("parameter_invalid")
	}
	switch p.Type {
	case orrery.ParameterBool:
		if !isBool(value) {
			return orrery.Invalid(field, "%s is on or off, not %q", p.Name, orrery.Shorten(value, 60)).WithCode("parameter_invalid")
		}
	case orrery.ParameterEnum:
		if !slices.ContainsFunc(p.Values, func(v string) bool { return strings.EqualFold(v, value) }) {
			return orrery.Invalid(field, "%s cannot be %q", p.Name, orrery.Shorten(value, 60)).WithCode("parameter_invalid").
				WithHint("It is one of: %s.", strings.Join(p.Values, ", "))
		}
	case orrery.ParameterInt, orrery.ParameterReal:
		return checkNumber(p, value)
	case orrery.ParameterString:
	}
	return nil
}

func checkNumber(p orrery.Parameter, value string) error {
	field := ParameterField(p.Name)
	n, err := ParseNumber(value, p.Unit)
	if err != nil {
		kind := "a whole number"
		if p.Type == orrery.ParameterReal {
			kind = "a number"
		}
		e := orrery.Invalid(field, "%s is %s, not %q", p.Name, kind, orrery.Shorten(value, 60)).WithCode("parameter_invalid")
		if units := unitsFor(p.Unit); units != "" {
			return e.WithHint("It may carry a unit: %s; without one it counts in %s.", units, p.Unit)
		}
		return e
	}
	hasUnit := strings.TrimSpace(value) != strings.TrimRight(strings.TrimSpace(value), letters)
	if p.Type == orrery.ParameterInt && !hasUnit && n != math.Trunc(n) {
		return orrery.Invalid(field, "%s is a whole number, not %q", p.Name, orrery.Shorten(value, 60)).WithCode("parameter_invalid")
	}
	if p.Type == orrery.ParameterInt {
		n = math.Round(n)
	}
	low, lowErr := strconv.ParseFloat(p.Min, 64)
	high, highErr := strconv.ParseFloat(p.Max, 64)
	if (lowErr == nil && n < low) || (highErr == nil && n > high) {
		e := orrery.Invalid(field, "%s is out of range: %s", p.Name, orrery.Shorten(value, 60)).WithCode("parameter_out_of_range")
		in := ""
		if p.Unit != "" {
			in = " in units of " + p.Unit
		}
		return e.WithHint("It goes from %s to %s%s.", orValue(p.Min, "-∞"), orValue(p.Max, "∞"), in)
	}
	return nil
}

func orValue(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func isBool(v string) bool {
	return slices.Contains([]string{"on", "off", "true", "false", "yes", "no", "1", "0"}, strings.ToLower(v))
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

var (
	numberRE = regexp.MustCompile(`^\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*$`)
	unitRE   = regexp.MustCompile(`^(\d*)([A-Za-z]+)$`)
	memory   = map[string]float64{"b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30, "tb": 1 << 40}
	duration = map[string]float64{"us": 1, "ms": 1e3, "s": 1e6, "min": 60e6, "h": 3600e6, "d": 86400e6}
)

// ParseNumber reads a number that may carry a unit, as in 64MB or 5min, and gives it in base units ("8kB", "ms").
// Letters' case is the driver's to judge (Definition.CheckParameter): engines differ.
func ParseNumber(value, base string) (float64, error) {
	m := numberRE.FindStringSubmatch(value)
	if m == nil {
		return 0, fmt.Errorf("%q is no number", value)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, fmt.Errorf("%q is no number", value)
	}
	if m[2] == "" {
		return n, nil
	}
	table, size := baseUnit(base)
	factor, ok := table[strings.ToLower(m[2])]
	if !ok {
		return 0, fmt.Errorf("%q is no unit here", m[2])
	}
	return n * factor / size, nil
}

// baseUnit gives the units that may stand in for base, and base's own size in the smallest of them.
func baseUnit(base string) (map[string]float64, float64) {
	m := unitRE.FindStringSubmatch(base)
	if m == nil {
		return nil, 1
	}
	times := 1.0
	if m[1] != "" {
		times, _ = strconv.ParseFloat(m[1], 64) // digits only
	}
	for _, table := range []map[string]float64{memory, duration} {
		if f, ok := table[strings.ToLower(m[2])]; ok {
			return table, f * times
		}
	}
	return nil, 1
}

func unitsFor(base string) string {
	table, _ := baseUnit(base)
	switch {
	case table == nil:
		return ""
	case table["mb"] != 0:
		return "B, kB, MB, GB, TB"
	default:
		return "us, ms, s, min, h, d"
	}
}

func withField(err error, field string) error {
	e, ok := err.(*orrery.Error) //nolint:errorlint // only the driver's own error, not one wrapped inside
	if !ok {
		return orrery.Invalid(field, "%s", err.Error()).WithCode("parameter_invalid")
	}
	c := *e
	c.Field = field
	if c.Code == "" || c.Code == string(orrery.KindInvalid) {
		c.Code = "parameter_invalid"
	}
	return &c
}
