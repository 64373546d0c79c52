// Command gotest runs `go test -json` with its arguments, prints one line for each package, the whole output of what
// failed, and at the end how many tests passed, failed and were skipped. It fails when a test failed, and also when
// one was skipped or there was none: a test that does not run proves nothing.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// event is a line of `go test -json`; see `go doc test2json` and `go help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64
	Output     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		code = 1
	}
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 1, fmt.Errorf("open the output of go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start go test: %w", err)
	}
	s := newSummary(out)
	if err := s.read(pipe); err != nil {
		return 1, fmt.Errorf("read the output of go test: %w", err)
	}
	err = cmd.Wait()
	s.print()
	if err != nil || s.failed > 0 || s.skipped > 0 || s.passed == 0 {
		return 1, nil
	}
	return 0, nil
}

type summary struct {
	out                     io.Writer
	passed, failed, skipped int
	perPackage              map[string]int
	output                  map[string][]string // by package and test, until it is known to have passed
	failures, skips         []string
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, perPackage: map[string]int{}, output: map[string][]string{}}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(s.out, lines.Text()) // not every line that go test writes is JSON
			continue
		}
		s.add(e)
	}
	return lines.Err()
}

func (s *summary) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e, s.output[key])
		} else {
			s.endTest(e, s.output[key])
		}
		delete(s.output, key)
	}
}

func (s *summary) endTest(e event, output []string) {
	s.perPackage[e.Package]++
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.failures = append(s.failures, e.Package+" "+e.Test)
		fmt.Fprint(s.out, strings.Join(output, ""))
	case "skip":
		s.skipped++
		s.skips = append(s.skips, e.Package+" "+e.Test)
		fmt.Fprint(s.out, strings.Join(output, ""))
	}
}

func (s *summary) endPackage(e event, output []string) {
	switch {
	case e.Action == "fail":
		// Output that belongs to no ended test: a panic, a timeout, a TestMain. Tests that never ended are told too.
		fmt.Fprint(s.out, strings.Join(output, ""))
		for _, key := range sortedKeys(s.output) {
			if name, ok := strings.CutPrefix(key, e.Package+" "); ok && name != "" {
				fmt.Fprint(s.out, strings.Join(s.output[key], ""))
				s.failed++
				s.failures = append(s.failures, key+" (did not end)")
				delete(s.output, key)
			}
		}
		if !slices.ContainsFunc(s.failures, func(f string) bool { return strings.HasPrefix(f, e.Package+" ") }) {
			s.failures = append(s.failures, e.Package+" (the package)")
			s.failed++
		}
		fmt.Fprintf(s.out, "FAIL  %-60s %6.1fs  %d tests\n", e.Package, e.Elapsed, s.perPackage[e.Package])
	case s.perPackage[e.Package] > 0:
		cached := ""
		if strings.Contains(strings.Join(output, ""), "(cached)") {
			cached = " (cached)"
		}
		fmt.Fprintf(s.out, "ok    %-60s %6.1fs  %d tests%s\n", e.Package, e.Elapsed, s.perPackage[e.Package], cached)
	}
}

func (s *summary) print() {
	for _, f := range s.failures {
		fmt.Fprintln(s.out, "failed: ", f)
	}
	for _, f := range s.skips {
		fmt.Fprintln(s.out, "skipped:", f)
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}

func sortedKeys(m map[string][]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
