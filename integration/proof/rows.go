package main

import (
	"fmt"
	"regexp"
	"strconv"
)

// row is one way to look for faults.
type row struct {
	name  string
	what  string // it does, and what must hold
	shell string // the command, with %d or %s where size goes
	size  float64
	unit  string // of size: "" is a number, else a time unit of Go
	units []unit
}

// unit is something that a row's output counts: the first group of each match of
// the pattern, summed up.
type unit struct {
	name      string
	pattern   *regexp.Regexp
	mayBeNone bool
}

func counts(name, pattern string) unit {
	return unit{name: name, pattern: regexp.MustCompile(pattern)}
}

func mayCount(name, pattern string) unit {
	u := counts(name, pattern)
	u.mayBeNone = true
	return u
}

// rows are in the order in which the page shows them.
var rows = []row{
	{
		name: "simulator", size: 100_000, shell: "make sim SEEDS=%s",
		what: "The real commit and vote machines, journals and stores under a scheduler that draws every step, delay, crash and fault from one seed; afterwards nothing is in doubt, replicas are identical, the history is linearizable.",
		units: []unit{
			counts("schedules", `(?m)(\d+) schedules in`), counts("steps", ` (\d+) in all \(`), counts("operations", `(\d+) operations, \d+ committed`),
			counts("crashes", `(?:power losses|kills|crashes in mid-operation): (\d+);`),
		},
	},
	{
		name: "mutants", shell: "make mutate",
		what: "One rule of the program is left out after the other: the simulator, a scripted schedule or a test has to notice.",
		units: []unit{
			counts("rules left out", `(\d+) rules left out`), counts("noticed", `left out, (\d+) noticed`),
			mayCount("without a difference", `(\d+) without a difference`), mayCount("missed", `(\d+) missed`),
		},
	},
	{
		name: "exhaust", shell: "make exhaust",
		what:  "All interleavings, crashes and lost messages of small clusters of the real pure machines.",
		units: []unit{counts("states", `(\d+) states, \d+ steps \(`), counts("steps", `states, (\d+) steps \(`)},
	},
	{
		name: "sequences", size: 3, shell: "make sequences LENGTH=%s",
		what:  "All sequences of operations up to a length, a power loss before every operation of a participant's and the coordinator's disk; recovered and worked on.",
		units: []unit{counts("sequences", `(\d+) sequences,`), counts("crashes of a participant", `(\d+) crashes of a participant`), counts("crashes of the coordinator", `participant, (\d+) of the coordinator`)},
	},
	{
		name: "powerloss", size: 500, shell: "make powerloss POWERCUTS=%s",
		what:  "Real processes on disks that forget what was not synced, of all machines at once or of some, under clients that change files in every way: what was acknowledged is there, what was refused is not.",
		units: []unit{counts("cuts", `(\d+) cuts \(`), counts("changes acknowledged", `(\d+) changes acknowledged`), counts("operations judged", `of the load (\d+) operations judged`)},
	},
	{
		name: "crashes", size: 60, unit: "m",
		shell: "env TPCFS_TEST_CRASHTIME=%s go test -race ./integration -run ^TestClientsThroughRandomCrashes$|^TestLoadIsLinearizableThroughRandomCrashes$ -count=1 -timeout 0 -v",
		what:  "Real processes killed with SIGKILL, stopped with SIGSTOP, and ended at failpoints at random, under clients whose histories are judged.",
		units: []unit{counts("operations", `worker \d+: (\d+) operations`), counts("kills", `(?:killed|failpoint):(\d+)`), mayCount("stops", `stopped:(\d+)`), mayCount("operations judged", `history: \{Operations:(\d+)`)},
	},
	{
		name: "network", size: 30, unit: "m",
		shell: "env TPCFS_TEST_NETTIME=%s go test -race ./integration -run ^TestNetwork -count=1 -timeout 0 -v",
		what:  "Real processes on hosts of their own (network namespaces): what some send to others is swallowed, in one direction or both, or comes slowly and with losses, at random, under clients whose histories are judged and a job on a mount; scrubs are clean, exports the same.",
		units: []unit{counts("faults", `(?:cut off|bad|cut from the coordinator):(\d+)`), counts("rounds of the job", `(\d+) rounds, fine`), counts("operations judged", `history \{Operations:(\d+)`)},
	},
	{
		name: "programs", size: 50,
		shell: "go test -race ./integration/posix -run ^TestPrograms$ -count=%s -timeout 0 -v",
		what:  "git, sqlite3, tar, rsync, make, go, editors and shell commands on a mount while servers are killed, against the same in a local directory.",
		units: []unit{counts("kills", `killed (\d+) times`)},
	},
	{
		name: "stress", size: 10, unit: "m",
		shell: "env TPCFS_TEST_STRESSTIME=%s go test -race ./integration/posix -run ^TestStress -count=1 -timeout 0 -v",
		what:  "Random operations on one mount and on two, against the local disk after each step.",
		units: []unit{counts("steps", `(\d+) steps`)},
	},
	{
		name: "long", size: 60, unit: "m",
		shell: "env TPCFS_TEST_LONGTIME=%s go test -race ./integration/posix -run ^TestLongRun$ -count=1 -timeout 0 -v",
		what:  "git, sqlite3, tar, appends and rewrites on one mount while servers are killed and stopped at random: memory, descriptors, goroutines, journals and stores are as large in the end as they were early.",
		units: []unit{counts("rounds", `: (\d+) rounds`), counts("kills and stops", `(\d+) kills and stops`)},
	},
	{
		name: "fuzz", size: 10, unit: "m", shell: "make fuzz FUZZTIME=%s FUZZJOBS=2",
		what:  "Every decoder and whole sessions with hostile peers.",
		units: []unit{counts("targets", `(?m)^()== `), counts("inputs", `execs: (\d+) \(\S+\), new interesting: \d+ \(total: \d+\)\nPASS`)},
	},
}

// command is the row's command line, no shell between.
func (r *row) command(scale float64) []string {
	size := strconv.Itoa(max(1, int(r.size*scale)))
	switch {
	case r.unit != "":
		size = fmt.Sprintf("%.0f%s", max(1, r.size*scale*60), "s")
	case r.name == "sequences":
		size = strconv.Itoa(max(2, int(r.size*scale))) // a length of 1 shows little
	}
	var args []string
	for _, a := range regexp.MustCompile(` +`).Split(r.shell, -1) {
		if r.size > 0 {
			a = regexp.MustCompile(`%s`).ReplaceAllString(a, size)
		}
		args = append(args, a)
	}
	return args
}

// totals sums up what the output counts.
func (r *row) totals(out string) map[string]int64 {
	totals := map[string]int64{}
	for _, u := range r.units {
		for _, m := range u.pattern.FindAllStringSubmatch(out, -1) {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil { // the group is empty: each match is one
				n = 1
			}
			totals[u.name] += n
		}
	}
	return totals
}
