package sim

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tpcfs/journal/disk/forget"
)

var (
	oneSeed   = flag.Uint64("seed", 0, "run this schedule alone; with -v its trace is printed")
	firstSeed = flag.Uint64("first", 1, "the first seed of those that -seeds counts")
	seeds     = flag.Int("seeds", 0, "how many schedules TestSim runs; 0: the fixed set")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixedSeeds are those of the ordinary test.
const fixedSeeds = 1200 / forget.OneIn

// pastSeeds have found something once, and are among the fixed ones. What is
// drawn from a seed changes with the simulator: what each found has a test of
// its own, too.
var pastSeeds = []uint64{18398, 72656, 49332, 4170, 8690, 9731, 50653, 51187}

// TestSim runs schedules of all seeds of a range. A failing one is shrunk and
// its trace printed; `go test ./integration/sim -run TestSim -seed=N -v` does
// that one again.
func TestSim(t *testing.T) {
	if *oneSeed != 0 {
		r := Run(*oneSeed, Options{Trace: func(line string) { t.Log(line) }})
		if r.Violation != nil {
			explain(t, r, Options{})
		}
		return
	}
	n := *seeds
	if n == 0 {
		n = fixedSeeds
	}
	if testing.Short() {
		n = min(n, fixedSeeds/5)
	}
	var sum tally
	began := time.Now()
	sum.run(t, *firstSeed, n, Options{})
	if *seeds == 0 {
		for _, seed := range pastSeeds {
			sum.run(t, seed, 1, Options{})
		}
	}
	t.Log(sum.words(time.Since(began)))
}

// tally sums reports up.
type tally struct {
	mu                        sync.Mutex // guards everything below
	schedules, steps, all     int
	ops, committed, unchecked int
	milli                     int64
	faults                    [faults]int
	reached                   [reaches]int
	failed                    *Report // of the least seed
}

// run runs n seeds on all processors, and explains the first one that fails.
func (s *tally) run(t *testing.T, first uint64, n int, o Options) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				k := next.Add(1) - 1
				if k >= int64(n) || s.add(Run(first+uint64(k), o)) {
					return
				}
			}
		})
	}
	wg.Wait()
	if s.failed != nil {
		explain(t, *s.failed, o)
	}
}

// add counts a report; true: it is time to stop.
func (s *tally) add(r Report) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schedules++
	s.steps += r.Steps
	s.all += r.AllSteps
	s.ops += r.Ops
	s.committed += r.Committed
	s.milli += r.Milli
	if r.Unchecked {
		s.unchecked++
	}
	for i, n := range r.Faults {
		s.faults[i] += n
	}
	for i, n := range r.Reached {
		s.reached[i] += n
	}
	if r.Violation != nil && (s.failed == nil || r.Seed < s.failed.Seed) {
		s.failed = &r
	}
	return s.failed != nil
}

func (s *tally) words(took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d schedules in %.1f s (%.0f a minute), %d steps under faults and %d in all (%.0f a second), %.0f s of simulated time (%.0f each second), "+
		"%d operations, %d committed, %d histories not judged\n",
		s.schedules, took.Seconds(), float64(s.schedules)/took.Minutes(), s.steps, s.all, float64(s.all)/took.Seconds(),
		float64(s.milli)/1000, float64(s.milli)/1000/took.Seconds(), s.ops, s.committed, s.unchecked)
	for i, n := range s.faults {
		fmt.Fprintf(&b, "  %s: %d;", FaultNames[i], n)
	}
	b.WriteByte('\n')
	for i, n := range s.reached {
		fmt.Fprintf(&b, "  %s: %d;", ReachNames[i], n)
	}
	return b.String()
}

// explain shrinks a failed schedule, prints the trace of what is left, and
// fails the test.
func explain(t *testing.T, r Report, o Options) {
	t.Helper()
	short := Shrink(r.Seed, r, o, 400)
	var lines []string
	o.Script, o.Trace = short.Schedule, func(line string) { lines = append(lines, line) }
	Run(r.Seed, o)
	const most = 400
	if len(lines) > most {
		lines = append(append(lines[:most/2:most/2], "..."), lines[len(lines)-most/2:]...)
	}
	t.Fatalf("seed %d: %v\nshrunk from %d steps to %d:\n%s\ndo it again: go test ./integration/sim -run TestSim -seed=%d -v",
		r.Seed, r.Violation, len(r.Schedule), len(short.Schedule), strings.Join(lines, "\n"), r.Seed)
}

// TestLeaving runs schedules in which participants are evicted and come back, of
// which some meet each of what is rare there.
func TestLeaving(t *testing.T) {
	n := *seeds
	if n == 0 {
		n = 40 / forget.OneIn
	}
	var sum tally
	began := time.Now()
	sum.run(t, *firstSeed, n, Options{tune: leaving, Steps: 600})
	t.Log(sum.words(time.Since(began)))
	if forget.OneIn > 1 {
		return // too few
	}
	for _, r := range []int{reachEvicted, reachSlow, reachBack, reachMarked, reachAdmitted, reachInterrupted, reachFullCopy, reachUnfit} {
		if sum.reached[r] == 0 {
			t.Errorf("%s: none in %d schedules", ReachNames[r], n)
		}
	}
}

// TestMounts runs schedules in which clients answer from what they have read, and meet
// each of what is rare there.
func TestMounts(t *testing.T) {
	n := *seeds
	if n == 0 {
		n = 160 / forget.OneIn
	}
	var sum tally
	began := time.Now()
	o := Options{tune: leasing, Steps: 500}
	sum.run(t, *firstSeed, n, o)
	sum.run(t, 31713, 1, o) // has found that a mount took its own change for all that had happened
	t.Log(sum.words(time.Since(began)))
	if forget.OneIn > 1 {
		return // too few
	}
	for _, r := range []int{reachLease, reachLapsed, reachKept, reachAsked, reachHolds, reachReclaim} {
		if sum.reached[r] == 0 {
			t.Errorf("%s: none in %d schedules", ReachNames[r], n)
		}
	}
}

// TestReplay: the same seed does the same, step by step.
func TestReplay(t *testing.T) {
	for seed := uint64(1); seed <= 40; seed += forget.OneIn {
		var first, second []string
		a := Run(seed, Options{Trace: func(s string) { first = append(first, s) }})
		b := Run(seed, Options{Trace: func(s string) { second = append(second, s) }, Script: a.Schedule})
		if a.AllSteps != b.AllSteps || strings.Join(first, "\n") != strings.Join(second, "\n") {
			for i := range min(len(first), len(second)) {
				if first[i] != second[i] {
					t.Fatalf("seed %d, line %d:\n%s\nthe second time:\n%s", seed, i, first[i], second[i])
				}
			}
			t.Fatalf("seed %d: %d steps, then %d", seed, a.AllSteps, b.AllSteps)
		}
	}
}
