package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// series is what one measurement gave, round by round.
type series []float64

func (s *series) add(d time.Duration) { *s = append(*s, d.Seconds()*1000) }

func (s series) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(q*float64(len(sorted)-1) + 0.5)
	return sorted[i]
}

func (s series) median() float64 { return s.quantile(0.5) }

// over gives the ratios to a floor, round by round where both have as many rounds, else to the floor's median.
func (s series) over(floor series) series {
	out := make(series, len(s))
	for i := range s {
		f := floor.median()
		if len(floor) == len(s) {
			f = floor[i]
		}
		out[i] = s[i] / f
	}
	return out
}

// row is one line of the report.
type row struct {
	name    string
	value   string // the figure with its unit
	ratio   series // against the floor, empty where there is none
	against string // what the floor is
	target  string
	met     bool
}

type report struct{ rows []row }

func (r *report) add(x row) {
	r.rows = append(r.rows, x)
	fmt.Println(x)
}

func (x row) String() string {
	mark := "ok  "
	switch {
	case x.target == "":
		mark = "    "
	case !x.met:
		mark = "MISS"
	}
	ratio := ""
	if len(x.ratio) > 0 {
		ratio = fmt.Sprintf("%.2f× %s (%.2f–%.2f, %d rounds)", x.ratio.median(), x.against, x.ratio.quantile(0), x.ratio.quantile(1), len(x.ratio))
	}
	return fmt.Sprintf("%s  %-44s %-34s %-52s %s", mark, x.name, x.value, ratio, x.target)
}

// targets counts the rows that have one.
func (r *report) targets() (n int) {
	for _, x := range r.rows {
		if x.target != "" {
			n++
		}
	}
	return n
}

// missed gives the names of the rows that miss their targets.
func (r *report) missed() []string {
	var out []string
	for _, x := range r.rows {
		if x.target != "" && !x.met {
			out = append(out, x.name)
		}
	}
	return out
}

func ms(s series) string {
	return fmt.Sprintf("%.0f ms (%.0f–%.0f)", s.median(), s.quantile(0), s.quantile(1))
}

func heading(format string, args ...any) {
	t := fmt.Sprintf(format, args...)
	fmt.Printf("\n%s\n%s\n", t, strings.Repeat("─", len([]rune(t))))
}
