package sim

import (
	"testing"
	"time"

	"tpcfs/journal/disk/forget"
)

// scrubbed makes schedules in which participants are scrubbed, evicted for that, and for other
// reasons, and in which rows and blocks go wrong.
func scrubbed(p *profile) {
	p.minInSync, p.evictAfter, p.evictSlow, p.warm = 2, max(p.evictAfter, 100), 10_000, true
	p.may[faultRot], p.may[faultLie], p.may[faultBackup] = 0, 0, p.may[faultBackup]/4
	p.may[faultSuspect], p.may[faultScrub], p.may[faultWrong] = faultWeight[faultSuspect], 60, 60
	p.faultShare, p.maxOps = max(p.faultShare, 30), min(p.maxOps, 12)
}

// TestScrubs runs schedules with scrubs, of which some meet each of what is rare there.
func TestScrubs(t *testing.T) {
	n := *seeds
	if n == 0 {
		n = 160 / forget.OneIn
	}
	o := Options{tune: scrubbed, Steps: 500}
	if *oneSeed != 0 {
		o.Trace = func(line string) { t.Log(line) }
		if r := Run(*oneSeed, o); r.Violation != nil {
			t.Fatal(r.Violation)
		}
		return
	}
	var sum tally
	began := time.Now()
	sum.run(t, *firstSeed, n, o)
	t.Log(sum.words(time.Since(began)))
	if forget.OneIn > 1 {
		return // too few
	}
	for _, r := range []int{reachScrubBegun, reachScrubClean, reachHurtRow, reachHurtBlock, reachExpelled, reachRenewed, reachDoomed, reachStartsAnew} {
		if sum.reached[r] == 0 {
			t.Errorf("%s: none in %d schedules", ReachNames[r], n)
		}
	}
}
