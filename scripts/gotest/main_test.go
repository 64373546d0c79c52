package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	for name, tc := range map[string]struct {
		events string
		want   string // the last lines
		has    string
	}{
		"passed": {`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"ok p (cached)\n"}
{"Action":"pass","Package":"p","Elapsed":1.5}`,
			"1 passed, 0 failed, 0 skipped\n", "1.5s  1 tests (cached)"},
		"failed": {`{"Action":"output","Package":"p","Test":"TestA","Output":"boom\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			"failed:  p TestA\n0 passed, 1 failed, 0 skipped\n", "boom\n"},
		"skipped": {`{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}`,
			"skipped: p TestA\n0 passed, 0 failed, 1 skipped\n", ""},
		"died": {`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: oh\n"}
{"Action":"fail","Package":"p"}`,
			"failed:  p TestA (did not end)\n0 passed, 1 failed, 0 skipped\n", "panic: oh\n"},
		"not built": {`{"ImportPath":"p","Action":"build-output","Output":"syntax error\n"}
{"Action":"fail","Package":"p"}`,
			"failed:  p (the package)\n0 passed, 1 failed, 0 skipped\n", "syntax error\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			s := newSummary(&out)
			if err := s.read(strings.NewReader(tc.events)); err != nil {
				t.Fatal(err)
			}
			s.print()
			if got := out.String(); !strings.HasSuffix(got, tc.want) || !strings.Contains(got, tc.has) || name == "passed" && strings.Contains(got, "chatter") {
				t.Errorf("got\n%s", got)
			}
		})
	}
}
