package posix

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"tpcfs/integration/harness"
)

// lines are the table's, by case.
func lines(text string) map[string][]string {
	m := map[string][]string{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "## "); ok {
			name = rest
			m[name] = nil
		} else {
			m[name] = append(m[name], line)
		}
	}
	return m
}

// TestTable makes each system call of the cases in the mount and in a local
// directory, and compares what it answers, line by line. Where the mount may
// answer otherwise is in deviations.
func TestTable(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	w := newWorld(t, ctx, raced, 1, "GOMAXPROCS=2")
	local := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	table := func(dir string) map[string][]string {
		r := harness.Run(ctx, nil, nil, self, "helper", "table", dir)
		if r.Code != 0 {
			t.Fatalf("exit %d: %s", r.Code, r.Err)
		}
		return lines(r.Out)
	}
	got, want := table(w.mounts[0]), table(local)
	used := map[string]bool{}
	for _, c := range cases {
		if len(want[c.name]) == 0 {
			t.Errorf("%s: nothing was tried", c.name)
		}
		compare(t, c.name, got[c.name], want[c.name], used)
	}
	for key := range deviations {
		if !used[key] {
			t.Errorf("deviations has what does not deviate: %s", key)
		}
	}
}

func compare(t *testing.T, name string, got, want []string, used map[string]bool) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d lines in the mount, %d in a local directory", name, len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] == want[i] {
			continue
		}
		call, _, _ := strings.Cut(want[i], " = ")
		key := name + ": " + call
		if d, ok := deviations[key]; ok && got[i] == call+" = "+d.mount {
			used[key] = true
			continue
		}
		t.Errorf("%s:\n in the mount %s\n      locally %s\n        after %s", name, got[i], want[i], fmt.Sprint(want[max(0, i-3):i]))
	}
}
