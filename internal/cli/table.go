package cli

import (
	"strings"
	"time"
	"unicode/utf8"

	"strconv"
)

// table is a list as people read it. Columns whose head begins with "+" are shown only where there is room for all
// ("wide").
type table struct {
	head  []string
	rows  [][]string
	empty string // said where there are no rows
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// render aligns the columns. The last is not padded, and no line ends in spaces.
func (t *table) render(wide bool) string {
	if len(t.rows) == 0 {
		return t.empty + "\n"
	}
	var columns []int
	head := make([]string, len(t.head))
	for i, h := range t.head {
		extra := strings.HasPrefix(h, "+")
		head[i] = strings.TrimPrefix(h, "+")
		if wide || !extra {
			columns = append(columns, i)
		}
	}
	width := make([]int, len(t.head))
	lines := append([][]string{head}, t.rows...)
	for _, l := range lines {
		for i, cell := range l {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, l := range lines {
		var row strings.Builder
		for n, i := range columns {
			cell := ""
			if i < len(l) {
				cell = l[i]
			}
			if cell == "" {
				cell = "-"
			}
			row.WriteString(cell)
			if n < len(columns)-1 {
				row.WriteString(strings.Repeat(" ", width[i]-min(width[i], utf8.RuneCountInString(cell))+2))
			}
		}
		b.WriteString(strings.TrimRight(row.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// fields renders names and values, one to a line; pairs without a value are left out.
func fields(pairs ...string) string {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, utf8.RuneCountInString(pairs[i]))
		}
	}
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		pad := strings.Repeat(" ", width-utf8.RuneCountInString(pairs[i])+2)
		b.WriteString(pairs[i] + pad + strings.ReplaceAll(pairs[i+1], "\n", "\n"+strings.Repeat(" ", width+2)) + "\n")
	}
	return b.String()
}

// age tells how long ago t was, in one unit.
func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

func ageOf(now time.Time, t *time.Time) string {
	if t == nil {
		return ""
	}
	return age(now, *t)
}

// took tells a duration as people say it: 0.04s, 3.2s, 1m05s.
func took(d time.Duration) string {
	switch {
	case d < 0:
		return "0.0s"
	case d < 100*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + "s"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	}
	return d.Round(time.Second).String()
}

// cores tells thousandths of a core: 500 is "0.5".
func cores(milli int64) string {
	return strconv.FormatFloat(float64(milli)/1000, 'g', 4, 64)
}

// mib tells a size in the unit that suits it.
func mib(n int64) string {
	if n >= 1024 && n%512 == 0 {
		return strconv.FormatFloat(float64(n)/1024, 'g', 5, 64) + " GiB"
	}
	return strconv.FormatInt(n, 10) + " MiB"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
