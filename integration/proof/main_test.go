package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// The patterns fit what the commands print.
func TestTotals(t *testing.T) {
	tests := map[string]struct {
		out  string
		want map[string]int64
	}{
		"simulator": {"    sim_test.go:58: 1200 schedules in 12.3 s (5853 a minute), 100 steps under faults and 5000 in all (400 a second), 3 s of simulated time (1 each second), 77 operations, 60 committed, 0 histories not judged\n  power losses: 12;  kills: 9;  crashes in mid-operation: 1;  links broken: 4;",
			map[string]int64{"schedules": 1200, "steps": 5000, "operations": 77, "crashes": 22}},
		"mutants": {"182 rules left out, 166 noticed, 15 without a difference, 1 missed, 0 not run, in 4000 s\n",
			map[string]int64{"rules left out": 182, "noticed": 166, "without a difference": 15, "missed": 1}},
		"exhaust": {"  7 states, 9 steps\n  12 states, 30 steps (18 to states met before), 2 ends\n  100 states, 200 steps (100 to states met before)\n",
			map[string]int64{"states": 112, "steps": 230}},
		"sequences": {"110 sequences, 900 crashes of a participant, 300 of the coordinator\n",
			map[string]int64{"sequences": 110, "crashes of a participant": 900, "crashes of the coordinator": 300}},
		"powerloss": {"keeper 0: 50 changes acknowledged (map[]), not done: map[]\nkeeper 1: 60 changes acknowledged (map[]), not done: map[]\n8 cuts (map[all:8]); of the load 900 operations judged, 1 unknown, errors map[]\n",
			map[string]int64{"cuts": 8, "changes acknowledged": 110, "operations judged": 900}},
		"crashes": {"worker 1: 20 operations, not done: map[]\nfaults: map[all killed:1 failpoint:2 killed:3 stopped:4 two killed:1]\nhistory: {Operations:500 Pieces:3}, errors\n",
			map[string]int64{"operations": 20, "kills": 7, "stops": 4, "operations judged": 500}},
		"network": {"    network_test.go:1: network: map[bad:2 cut from the coordinator:7 cut off:3]\n    network_test.go:1: 15 rounds, fine\n    network_test.go:1: 900 writes, history {Operations:2580 Unknown:3}, errors map[]\n",
			map[string]int64{"faults": 12, "rounds of the job": 15, "operations judged": 2580}},
		"programs": {"killed 7 times\nkilled 8 times\n", map[string]int64{"kills": 15}},
		"stress":   {"seed 4: 1234 steps\n", map[string]int64{"steps": 1234}},
		"long":     {"git: 40 rounds\n    long_test.go:1: log: 30 rounds\n    long_test.go:1: 16 kills and stops in 30s\n", map[string]int64{"rounds": 70, "kills and stops": 16}},
		"fuzz": {"== ./wire FuzzFrame\nfuzz: elapsed: 3s, execs: 10 (3/sec), new interesting: 0 (total: 5)\nfuzz: elapsed: 4s, execs: 20 (5/sec), new interesting: 0 (total: 5)\nPASS\nok \ttpcfs/wire\n== ./journal FuzzBlock\nfuzz: elapsed: 4s, execs: 30 (5/sec), new interesting: 0 (total: 5)\nPASS\n",
			map[string]int64{"targets": 2, "inputs": 50}},
	}
	for _, r := range rows {
		tt, ok := tests[r.name]
		if !ok {
			t.Errorf("%s has no test", r.name)
		}
		if got := r.totals(tt.out); !maps.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", r.name, got, tt.want)
		}
	}
}

func TestCommand(t *testing.T) {
	for name, want := range map[string]string{
		"simulator": "make sim SEEDS=1000", "sequences": "make sequences LENGTH=2", "mutants": "make mutate", "fuzz": "make fuzz FUZZTIME=6s FUZZJOBS=2",
	} {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
		if got := strings.Join(rows[i].command(0.01), " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if _, err := choose("simulator,none"); err == nil {
		t.Error("a row that is not there is taken")
	}
}

func TestPage(t *testing.T) {
	got := string(page(map[string]Outcome{
		"simulator": {Commit: "abc", Date: "2026-01-02", Seconds: 61.4, Totals: map[string]int64{"schedules": 1234567}},
		"mutants":   {Commit: "abc", Date: "2026-01-02", Seconds: 1, Totals: map[string]int64{"missed": 1}, Failed: true},
	}))
	for _, words := range []string{
		"| **simulator** | 1,234,567 schedules, 0 steps, 0 operations, 0 crashes | 1m1s | nothing | 2026-01-02, abc |",
		"1 missed | 1s | **a fault** |", "| **powerloss** | not run yet", "## Not shown",
	} {
		if !strings.Contains(got, words) {
			t.Errorf("the page does not say %q:\n%s", words, got)
		}
	}
}
