package sim

import (
	"fmt"
	"math/rand/v2"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// Options of a run. The zero value is the ordinary one.
type Options struct {
	// Steps that a schedule takes before its faults end; 0: about 200.
	Steps int
	// Trace gets a line for everything that happens; nil: none.
	Trace func(line string)
	// Script is taken step by step in place of random ones: a run's own
	// steps, or some of them. A step that is not possible is left out.
	Script []Step

	broken rule
	tune   func(*profile)
}

// Step is one step of a schedule: what, who, and the seed of what happens in it.
type Step struct {
	what what
	a, b int // who: member, coordinator (0: the newest), client
	seed uint64
}

// Report is what a run did.
type Report struct {
	Seed      uint64
	Steps     int // those before the faults end, and all
	AllSteps  int
	Ops       int
	Committed int
	Milli     int64 // simulated, ms
	Faults    [faults]int
	Reached   [reaches]int
	Unchecked bool // the history was too wild to be judged in time
	Schedule  []Step
	Violation *Violation
}

// rule is a clause of the design that the driver leaves out, to see that it is
// missed.
type rule uint8

const (
	nothing                 rule = iota
	replyBeforePut               // P3, P5: a reply is given before reads know of its COMMIT
	readAtOnce                   // P5: the participant answers before its stream is there
	readsBeforeOpen              // P5: reads are served before recovery is over
	voteBeforeSync               // P2: YES leaves before its record is durable
	durableIsHandled             // P4, P9: positions count as durable when handled
	fenceInMemory                // P6: the greeting is answered before the fence is durable
	epochNotForced               // P6: nobody waits for the EPOCH record
	noRevote                     // P10: lost votes are not repeated
	checkpointBeforeJournal      // S3: the kv commits before the journal is synced
	sweepAll                     // P2, S3: objects of undecided transactions are swept
	snapshotEarly                // P13: a SNAPSHOT goes before records that it holds
	lazyWaits                    // P3: lazy records wait for traffic
	keepsWhatIsTouched           // F9: an answer that came while its file changed is kept
	rules
)

// world is everything there is.
type world struct {
	rng    *rand.Rand // of the step that is being taken
	seed   uint64
	trace  func(string)
	broken rule

	members     []*member
	coordinator *host  // the computer that the newest coordinator runs on
	cur         *reign // nil: none runs
	old         *reign // a zombie; nil: none
	clients     []*client

	// backups: images of the coordinator's disk; truth is the disk's true
	// state while a backup takes its place.
	backup   *forget.FS
	truth    *forget.FS
	loser    *host         // a participant whose disk has lied, and lost what it was to keep
	named    bool          // ... and somebody has said so
	judged   bool          // ... and it was counted how it has fared
	restored bool          // the disk is a backup's that has not proved itself
	stray    uint64        // the greatest epoch that was begun on a backup
	served   wire.ConfigID // the newest config that a coordinator has served with

	// What this schedule is like.
	profile

	steps    int
	now      int64 // simulated, ms
	runs     uint64
	attempts int
	settling bool
	script   []Step

	ops       []*op
	byID      map[wire.OpID]*op
	contents  map[wire.ID][]byte // of stages
	verdicts  map[wire.ID]verdict
	effects   map[wire.OpID]wire.ID // what operations were committed as
	handledBy map[wire.ID]int       // the participants that have carried out a decision, as bits
	// unnamed.go
	// evict.go
	in         []bool                    // who is in sync, as the newest coordinator has it
	underOf    map[wire.ID]wire.ConfigID // the config that a transaction was put under
	aborted    map[wire.ID]int           // the participants that have aborted it, as bits
	callers    []*caller                 // all that have begun
	flooded    *wire.MembersRequest      // what an operator has to say (operator.go); nil: nothing
	wishes     uint64                    // of operators
	bystanders *bystanders               // nil: there are no scrubs
	doomed     *reign                    // its process is killed at once
	trapped    bool                      // one was: who has to get everything anew would never be in
	// mounts.go
	keptReads []keptRead
	order     map[wire.ID]wire.Position   // of the first COMMIT of a transaction
	keep      map[wire.ID]bool            // Prepare.Keep
	takers    map[wire.Ino]wire.SessionID // who took the last name
	fenced    map[wire.SessionID]fence
	linked    bool                        // files may be met by several names, or by none
	reclaims  map[wire.ID]*reclaim        // that were put
	holders   map[wire.Ino]wire.SessionID // of what has no name
	left      []wire.SessionID            // sessions that have ended
	closing   bool                        // no session is left
	violation *Violation
	unchecked bool
	report    Report
	possible  []choice
}

// profile is what one schedule is like: sizes, speeds, which faults there are.
type profile struct {
	segmentSize int64
	segments    int // CheckpointSegments
	inlineMax   int
	partShare   int // per cent of writes that are extents or appends
	tableBytes  int64
	maxAhead    uint64
	wait        int64   // of requests, ms; 0: forever
	ticks       []int64 // ms that pass at a coordinator's tick; nil: usualTicks
	warm        bool    // it begins with a cluster in service
	encode      bool    // messages are encoded on the way
	gathers     bool    // a coordinator's turn may take in several things
	joins       bool    // messages up are joined while they wait
	readShare   int     // percent of ops
	stageShare  int     // percent of contents
	inodeShare  int     // percent of names that begin at an inode
	metaShare   int     // percent of mutations that are about names, nodes and extended attributes
	moveShare   int     // percent of mutations that make, move or remove directories, beside the ordinary mix
	maxOps      int
	paths       []string
	speed       [3]int // of members
	faultShare  int    // per thousand of steps
	may         [faults]int
	startWeight int   // of the coordinator's start
	minInSync   int   // 0: all; then nobody is evicted
	evictAfter  int64 // ms
	evictSlow   int64 // ms
	objectsRot  bool  // bits flip nowhere else
	mounts      bool  // clients have leases (mounts.go)
	large       bool  // files of some KiB, or blocks, in objects that grow (generate.go)
}

func newWorld(seed uint64, o *Options) *world {
	w := &world{
		seed: seed, trace: o.Trace, broken: o.broken, script: o.Script,
		byID: map[wire.OpID]*op{}, contents: map[wire.ID][]byte{}, verdicts: map[wire.ID]verdict{},
		effects: map[wire.OpID]wire.ID{}, handledBy: map[wire.ID]int{},
		reclaims: map[wire.ID]*reclaim{}, holders: map[wire.Ino]wire.SessionID{},
		order: map[wire.ID]wire.Position{}, keep: map[wire.ID]bool{}, takers: map[wire.Ino]wire.SessionID{}, fenced: map[wire.SessionID]fence{},
		in: []bool{true, true, true}, underOf: map[wire.ID]wire.ConfigID{}, aborted: map[wire.ID]int{},
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	w.rng = rng
	w.profile = newProfile(rng)
	w.metaShare = []int{0, 0, 0, 25, 60}[rand.New(rand.NewPCG(seed, 7)).IntN(5)]
	if seed%16 == 3 && o.tune == nil {
		ageing(&w.profile)
	}
	evicting(rand.New(rand.NewPCG(seed, 8)), &w.profile)
	operating(rand.New(rand.NewPCG(seed, 9)), &w.profile)
	mounting(rand.New(rand.NewPCG(seed, 10)), &w.profile)
	if rand.New(rand.NewPCG(seed, 11)).IntN(16) == 0 {
		growing(&w.profile)
	}
	scrubbing(rand.New(rand.NewPCG(seed, 12)), &w.profile)
	if o.tune != nil {
		o.tune(&w.profile)
	}
	for i := range 3 {
		name := fmt.Sprintf("P%d", i)
		w.members = append(w.members, &member{host: newHost(name, rng, w.reach), w: w, i: i, fences: map[uint64]bool{}})
		w.members[i].at = name + ":1"
	}
	w.coordinator = newHost("coordinator", rng, w.reach)
	for n := range 1 + rng.IntN(3) {
		cl := &client{w: w, n: n}
		cl.watches = w.mounts && (n > 0 || seed%2 == 0)
		cl.begin()
		w.clients = append(w.clients, cl)
	}
	return w
}

func newProfile(rng *rand.Rand) profile {
	p := profile{
		segmentSize: []int64{8, 16, 16, 32, 64}[rng.IntN(5)] << 10,
		segments:    2 + rng.IntN(3), inlineMax: 16 + rng.IntN(48), partShare: []int{0, 20, 60}[rng.IntN(3)], tableBytes: []int64{24, 64, 256}[rng.IntN(3)] << 10,
		maxAhead: []uint64{3, 16, 0}[rng.IntN(3)], wait: []int64{0, 0, 1000, 5000}[rng.IntN(4)], warm: rng.IntN(8) > 0,
		encode: rng.IntN(4) == 0, joins: rng.IntN(2) == 0, gathers: rng.IntN(2) == 0,
		readShare: []int{10, 30, 60}[rng.IntN(3)], stageShare: []int{0, 10, 30}[rng.IntN(3)], inodeShare: []int{5, 10, 50}[rng.IntN(3)],
		maxOps: 6 + rng.IntN(30), faultShare: []int{0, 10, 20, 40, 80}[rng.IntN(5)],
	}
	p.paths = paths[:[]int{1, 3, 6, len(paths)}[rng.IntN(4)]]
	p.startWeight = 10
	for i := range p.speed {
		p.speed[i] = []int{1, 4, 16, 16}[rng.IntN(4)]
	}
	for f := range faultSilent {
		if rng.IntN(3) > 0 {
			p.may[f] = faultWeight[f]
		}
	}
	for f := faultSilent; f < faultSuspect; f++ {
		if rng.IntN(faultRarity[f]) == 0 {
			p.may[f] = faultWeight[f]
		}
	}
	if p.may[faultRot] > 0 { // few files, most of them objects, read often
		p.inlineMax, p.readShare, p.paths, p.maxOps = 16, 50, paths[:3], 40
	}
	if rng.IntN(8) == 0 { // a coordinator that comes and goes, and backups of it
		p.may[faultBackup], p.may[faultPower], p.startWeight = 500, 20, 1
	}
	return p
}

var usualTicks = []int64{5, 20, 20, 20, 100, 600}

// settlingTicks: once the faults end no disk is slow any more, and none is evicted as such
// again and again. Where more time passes the coordinator stood still (P15).
var settlingTicks = []int64{5, 20, 20, 20, 20, 700}

// ageing makes time pass quickly: requests and outcomes get too old (S1a),
// sessions and stages are forgotten, in the middle of everything.
func ageing(p *profile) {
	p.ticks, p.wait = []int64{20, 20, 600, 61_000, 150_000, 330_000}, 0
	p.may[faultClientBreak] = max(p.may[faultClientBreak], 20)
}

// clock numbers the steps, for the history.
func (w *world) clock() int64 { return int64(w.steps) }

// wall is the coordinators' clock, in nanoseconds.
func (w *world) wall() int64 { return 1_000_000_000 + w.now*1_000_000 }

// chance is true once in n.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

// upTo is a number from 0 to n.
func (w *world) upTo(n int) int { return w.rng.IntN(n + 1) }

// reigns are the coordinators that run.
func (w *world) reigns() []*reign {
	var list []*reign
	for _, c := range []*reign{w.cur, w.old} {
		if c != nil && !c.over {
			list = append(list, c)
		}
	}
	return list
}

// serves is told that a coordinator begins to serve: not from an old backup.
func (w *world) serves(c *reign) {
	w.reach(reachServe)
	if id := c.m.Status().Config; w.served.Compare(id) < 0 {
		w.served = id
	}
	if c.suspect && c.beyond {
		w.violate("P13", "C%d serves, from a backup that is older than what the participants hold", c.epoch.Number)
	}
}

// configured is told that a coordinator's CONFIG is durable, before anybody
// else hears of it. A backup that was as good as the truth takes its place.
func (w *world) configured(c *reign) {
	if c == w.cur && !c.beyond {
		w.truth, w.restored, w.coordinator.lossy = nil, false, false
	}
}

// reignEnded is told that a coordinator's process has ended by itself.
func (w *world) reignEnded(c *reign, why *wire.Error) {
	zombie := c == w.old
	if why != nil {
		w.stopHasReason(c, zombie, why)
	}
	if zombie {
		w.old = nil
		return
	}
	w.cur = nil
	w.coordinator.processEnds()
	if why != nil && why.Code != wire.CodeIO && w.truth != nil {
		w.takeBackTruth()
	}
}

// stopHasReason: a coordinator ends by itself only where it has to.
func (w *world) stopHasReason(c *reign, zombie bool, why *wire.Error) {
	old := why.Code == wire.CodeStaleEpoch || why.Code == wire.CodeCorrupt
	switch {
	case why.Code == wire.CodeCorrupt && c.blames[why.Who]:
	case why.Code == wire.CodeCorrupt && w.loser != nil && (why.Who == "" || why.Who == w.loser.name):
		w.loserNamed()
	case zombie && why.Code == wire.CodeStaleEpoch:
		w.reach(reachZombieStops)
	case c.suspect && old:
		w.reach(reachBackupFound)
	case old && c.epoch.Number <= w.stray: // a backup had as many starts as the truth: a later one is higher
	case why.Code == wire.CodeIO && c.host.hurt:
	default:
		w.violate("stop", "C%d stops: %v", c.epoch.Number, why)
	}
}

// takeBackTruth puts the true disk in the place of a backup that was found to be old.
func (w *world) takeBackTruth() {
	w.tracef("the coordinator's true disk is put back")
	w.coordinator.install(w.truth)
	w.coordinator.syncedTo, w.coordinator.lossy = 0, false // how far, nobody knows
	w.truth, w.restored = nil, false
}

// lostPower ends a computer's process and takes what its disk has forgotten.
func (w *world) lostPower(h *host) {
	w.processGone(h)
	if len(h.lied) > 0 {
		w.losesLies(h)
	}
	h.powerFails(w.rng)
}

// killed ends a process; its computer goes on.
func (w *world) killed(h *host) {
	w.processGone(h)
	h.processEnds()
}

// processGone is what others see of a process's end.
func (w *world) processGone(h *host) {
	w.disturb()
	for _, p := range w.members {
		if p.host == h {
			p.down()
		}
	}
	if h == w.coordinator && w.cur != nil {
		c := w.cur
		c.over = true
		w.cur = nil
		c.breakAll()
	}
}

// disturb excuses conflicts of what is under way: votes may be lost with their
// reasons, and recovery aborts.
func (w *world) disturb() {
	for _, cl := range w.clients {
		for _, o := range cl.ops {
			o.excused = true
		}
	}
}

// afterStep looks at who has been struck in the middle of something, and ends
// whoever has to end by itself (P12).
func (w *world) afterStep() {
	for _, p := range w.members {
		switch {
		case p.struck():
			if p.up {
				w.tracef("P%d crashes in the middle of it", p.i)
			}
			w.lostPower(p.host)
		case p.up && p.fatal != nil:
			w.tracef("P%d ends: %v", p.i, p.fatal)
			if !p.excuses(p.fatal) {
				w.violate("ends", "P%d ends by itself: %v", p.i, p.fatal)
			}
			if w.reach(reachFatal); p.rotten {
				w.reach(reachRotEnded)
			}
			if p.lossy {
				w.loserNamed()
			}
			w.killed(p.host)
		}
	}
	if w.doomed != nil && w.doomed == w.cur {
		w.tracef("C%d is KILLED, when it has let one in that had to get everything anew", w.cur.epoch.Number)
		w.reach(reachDoomed)
		w.killed(w.coordinator)
	}
	w.doomed = nil
	if w.coordinator.struck() {
		w.tracef("the coordinator crashes in the middle of it")
		w.lostPower(w.coordinator)
	}
}
