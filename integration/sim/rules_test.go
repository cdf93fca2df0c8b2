package sim

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestRulesAreMissed leaves out one rule after the other that is the shells'
// own: the schedules have to find out. What the machines and the store keep by
// themselves is tested by changing them.
func TestRulesAreMissed(t *testing.T) {
	if testing.Short() {
		return
	}
	for _, c := range []struct {
		rule  rule
		name  string
		tries int64          // seeds within which it has to be found
		tune  func(*profile) // nil: schedules as they are
	}{
		{replyBeforePut, "P3: a reply is given before reads know of it", 4000, reading},
		{readAtOnce, "P5: a participant answers reads at once", 4000, nil},
		{readsBeforeOpen, "P5: reads are served before recovery is over", 4000, nil},
		{voteBeforeSync, "P2: YES goes before its record is durable", 4000, nil},
		{durableIsHandled, "P4, P9: what is handled counts as durable", 4000, nil},
		{fenceInMemory, "P6: the greeting is answered before the fence is durable", 4000, crashing},
		{epochNotForced, "P6: nobody waits for the EPOCH record", 4000, nil},
		{noRevote, "P10: lost votes are not repeated", 4000, nil},
		{checkpointBeforeJournal, "S3: the kv commits before the journal is durable", 4000, nil},
		{snapshotEarly, "P13: a SNAPSHOT goes before records of its turn", 4000, starting},
		{sweepAll, "S3: objects of undecided transactions are swept", 4000, staging},
	} {
		if v, seed := missed(Options{broken: c.rule, tune: c.tune}, c.tries); v != nil {
			t.Logf("%s: found after %d seeds: %v", c.name, seed, v.Kind)
		} else {
			t.Errorf("%s: not found in %d seeds", c.name, c.tries)
		}
	}
}

// reading makes schedules of reads, with a slow participant and few faults.
func reading(p *profile) {
	p.paths, p.readShare, p.faultShare, p.inodeShare, p.maxOps, p.speed = paths[:1], 60, 0, 0, 60, [3]int{1, 4, 16}
}

// crashing makes schedules of crashes alone.
func crashing(p *profile) {
	p.readShare, p.maxOps, p.faultShare, p.may = 0, 60, 60, [faults]int{faultPower: 1}
}

// starting makes schedules of starts, in small segments.
func starting(p *profile) {
	crashing(p)
	p.segmentSize, p.gathers, p.warm, p.maxOps, p.speed = 8<<10, true, false, 4, [3]int{16, 16, 16}
}

// staging makes schedules of staged contents.
func staging(p *profile) { p.stageShare, p.readShare, p.faultShare = 80, 10, 40 }

// missed runs seeds without a rule until one fails.
func missed(o Options, tries int64) (*Violation, int64) {
	var next atomic.Int64
	var mu sync.Mutex // guards found and seed
	var found *Violation
	seed := tries + 1
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				k := next.Add(1)
				mu.Lock()
				over := k > tries || k > seed
				mu.Unlock()
				if over {
					return
				}
				if rep := Run(uint64(k), o); rep.Violation != nil {
					mu.Lock()
					if k < seed {
						found, seed = rep.Violation, k
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return found, seed
}
