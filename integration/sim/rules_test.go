package sim

import (
	"flag"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tpcfs/journal/disk/forget"
)

var (
	huntSeeds = flag.Int("hunt", 0, "how many schedules TestHunt runs until one fails; 0: a few of each tune, of which none may")
	huntHint  = flag.Uint64("hint", 0, "a seed that TestHunt tries first; 0: none")
	huntTune  = flag.String("tune", "", "how TestHunt's schedules are made: a name of tunes; empty: as ever")
)

// tunes make schedules in which a rule that is rarely needed is needed often.
var tunes = map[string]func(*profile){
	"": nil, "reading": reading, "crashing": crashing, "starting": starting, "staging": staging,
	"moving": moving, "overwriting": overwriting, "outages": outages, "ageing": ageingRetries, "retrying": retrying,
	"names": func(p *profile) { p.metaShare = 60 }, "leaving": leaving, "rotting": rotting, "leasing": leasing, "reigning": reigning, "extending": extending, "operated": operated, "scrubbed": scrubbed,
}

// TestHunt looks for a schedule that fails, where a rule was left out of the
// sources (integration/sim/mutate), and tells its seed. As they are none fails,
// however the schedules are made.
func TestHunt(t *testing.T) {
	if *huntSeeds == 0 {
		for name, tune := range tunes {
			if v, seed := missed(Options{tune: tune}, max(1, 16/forget.OneIn)); v != nil {
				t.Errorf("tune %q, seed %d: %v", name, seed, v)
			}
		}
		return
	}
	tune, ok := tunes[*huntTune]
	if !ok {
		t.Fatalf("there is no tune %q", *huntTune)
	}
	o := Options{tune: tune}
	if *huntHint > 0 {
		if r := Run(*huntHint, o); r.Violation != nil {
			found(t, r.Violation, int64(*huntHint))
		}
	}
	if v, seed := missed(o, int64(*huntSeeds)); v != nil {
		found(t, v, seed)
	}
}

func found(t *testing.T, v *Violation, seed int64) {
	t.Helper()
	line, _, _ := strings.Cut(v.Error(), "\n")
	t.Fatalf("found by seed %d: %s", seed, line)
}

// TestRulesAreMissed leaves out one rule after the other that is the shells'
// own: the schedules have to find out. What the machines and the store keep by
// themselves is tested by changing them.
func TestRulesAreMissed(t *testing.T) {
	if testing.Short() {
		return
	}
	for i, c := range []struct {
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
		{lazyWaits, "P3: lazy records wait for traffic", 4000, nil},
		{keepsWhatIsTouched, "F9: what came while its file changed is kept", 4000, rereading},
	} {
		if i%forget.OneIn > 0 {
			continue
		}
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

// rotting makes schedules of few files that are objects, flipped bits in them, and
// crashes around their repair.
func rotting(p *profile) {
	p.paths, p.readShare, p.partShare, p.inodeShare, p.maxOps, p.faultShare, p.minInSync = paths[:2], 40, 60, 0, 60, 60, 0
	p.inlineMax, p.objectsRot = 8, true
	p.may = [faults]int{faultRot: 6, faultKill: 2, faultPower: 2, faultMidway: 2, faultCheckpoint: 4}
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

// moving makes schedules of directories that are made, moved and removed, named by
// their inodes.
func moving(p *profile) {
	p.paths, p.moveShare, p.readShare, p.stageShare, p.maxOps = []string{"d", "e"}, 90, 10, 0, 30
	p.warm, p.faultShare, p.speed = true, 0, [3]int{1, 4, 4}
}

// overwriting makes schedules of one file that is written again and again, in
// the middle of checkpoints and crashes.
func overwriting(p *profile) {
	p.paths, p.stageShare, p.readShare, p.inodeShare, p.maxOps, p.warm = paths[:1], 60, 5, 0, 80, true
	p.faultShare, p.may = 30, [faults]int{faultPower: 2, faultKill: 2, faultMidway: 2, faultCheckpoint: 6}
}

// outages makes schedules of long waits, links that break and answers that are lost.
func outages(p *profile) {
	p.paths, p.stageShare, p.readShare, p.inodeShare, p.maxOps, p.warm, p.wait = paths[:3], 0, 0, 0, 40, true, 0
	p.faultShare, p.may, p.speed = 120, [faults]int{faultLong: 20, faultBreak: 4, faultClientBreak: 12, faultPower: 1, faultCheckpoint: 1}, [3]int{16, 16, 16}
}

// ageingRetries makes schedules of few names and answers that are lost, in which
// requests and outcomes get old.
func ageingRetries(p *profile) {
	outages(p)
	ageing(p)
	p.may, p.faultShare = [faults]int{faultClientBreak: 12, faultBreak: 1, faultPower: 1, faultCheckpoint: 1}, 60
}

// retrying makes schedules of requests whose links break, and of refusals.
func retrying(p *profile) {
	p.paths, p.stageShare, p.readShare, p.inodeShare, p.maxOps, p.warm, p.wait = paths[:1], 0, 0, 0, 80, true, 0
	p.faultShare, p.may, p.speed = 200, [faults]int{faultClientBreak: 20, faultRefuse: 8, faultGiveUp: 3, faultBreak: 1}, [3]int{16, 16, 16}
}

// leaving makes schedules in which participants are evicted and come back.
func leaving(p *profile) {
	p.minInSync, p.evictAfter, p.evictSlow, p.faultShare, p.maxOps = 1+p.segments%2, 100, 1000, 25, 60
	p.may = [faults]int{faultPower: 6, faultKill: 4, faultBreak: 3, faultSuspect: 8, faultWipe: 20, faultCheckpoint: 6, faultSilent: 3, faultRefuse: 20}
}

// leasing makes schedules of mounts that read, change and remove the same few files.
func leasing(p *profile) {
	mounted(p)
	p.paths, p.readShare, p.inodeShare, p.stageShare, p.maxOps, p.warm, p.minInSync = paths[:2+p.segments%3], 50, 10, 0, 60, true, 0
	p.faultShare, p.metaShare = max(p.faultShare, 20), 25*(p.segments%2)
	p.may = [faults]int{faultAway: 8, faultLapse: 12, faultFence: 3, faultClientBreak: 6, faultVanish: 2, faultPower: 2, faultKill: 3, faultStop: 1, faultSilent: 2, faultGiveUp: 3, faultBreak: 2}
}

// rereading makes schedules of mounts that read one file while it changes.
func rereading(p *profile) {
	leasing(p)
	p.paths, p.faultShare, p.inodeShare, p.metaShare, p.speed = paths[:1], 0, 0, 0, [3]int{1, 4, 16}
}

// reigning makes schedules of mounts that outlast coordinators.
func reigning(p *profile) {
	leasing(p)
	p.faultShare, p.maxOps = 40, 40
	p.may = [faults]int{faultAway: 10, faultKill: 6, faultClientBreak: 2}
}

// extending makes schedules of one file that grows in its object, of retries, and of
// participants that crash in the middle.
func extending(p *profile) {
	growing(p)
	p.paths, p.readShare, p.inodeShare, p.stageShare, p.partShare, p.maxOps, p.warm, p.minInSync, p.mounts = paths[:1], 5, 0, 50, 70, 40, true, 0, false
	p.segments, p.segmentSize, p.metaShare = 4, 256<<10, 0
	p.faultShare, p.may, p.speed = 20, [faults]int{faultPower: 4, faultTrap: 6}, [3]int{16, 16, 16}
}

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
