package sim

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
)

// Run runs one schedule to its end: faults and requests, then quiet, then the
// checks. The same seed and options do the same.
func Run(seed uint64, o Options) Report {
	w := newWorld(seed, &o)
	w.report.Seed = seed
	steps := o.Steps
	if steps == 0 {
		if steps = 150 + w.rng.IntN(250); w.chance(32) {
			steps *= 6
		}
	}
	w.guard(func() {
		if w.warm {
			w.warmUp()
		}
		if w.may[faultScrub] > 0 && w.violation == nil {
			w.bystand()
		}
		w.randomSteps(steps)
		if w.violation == nil {
			w.settle()
		}
	})
	w.endAll()
	r := w.report
	r.AllSteps, r.Ops, r.Milli, r.Violation, r.Unchecked = w.steps, len(w.ops), w.now, w.violation, w.unchecked
	r.Committed = len(w.effects)
	return r
}

// guard makes a violation of a machine's panic.
func (w *world) guard(fn func()) {
	defer func() {
		if e := recover(); e != nil {
			w.violation = nil
			w.violate("panic", "%v\n%s", e, debug.Stack())
		}
	}()
	fn()
}

// endAll leaves no coroutine behind.
func (w *world) endAll() {
	for h := range len(w.members) + 1 {
		w.host(h).endTasks()
	}
	for i := 0; i < len(w.callers); i++ { // one that is stopped may begin another
		if r := w.callers[i]; !r.done {
			r.stopped = true
			r.stop()
		}
	}
}

// warmUp brings the cluster into service without faults, so that the schedule's
// steps are about something.
func (w *world) warmUp() {
	rng := rand.New(rand.NewPCG(w.seed, 4))
	w.settling = true
	for n := 0; n < quietSteps && w.violation == nil && (w.cur == nil || w.cur.m.ReadPoint() == 0); n++ {
		if c, ok := pick(rng, w.choices()); ok {
			w.take(Step{c.what, c.a, c.b, rng.Uint64()})
		}
	}
	w.settling = false
}

// randomSteps takes the schedule's steps: the script's, or n random ones.
func (w *world) randomSteps(n int) {
	before := w.steps
	if w.script != nil {
		for _, s := range w.script {
			if w.violation != nil {
				return
			}
			if w.isPossible(s) {
				w.report.Schedule = append(w.report.Schedule, s)
				w.take(s)
			}
		}
		w.report.Steps = w.steps - before
		return
	}
	rng := rand.New(rand.NewPCG(w.seed, 1))
	for ; n > 0 && w.violation == nil; n-- {
		list := w.choices
		if rng.IntN(1000) < w.faultShare {
			list = w.faultChoices
		}
		c, ok := pick(rng, list())
		if !ok {
			continue
		}
		s := Step{c.what, c.a, c.b, rng.Uint64()}
		w.report.Schedule = append(w.report.Schedule, s)
		w.take(s)
	}
	w.report.Steps = w.steps - before
}

func (w *world) isPossible(s Step) bool {
	list := w.choices
	if s.what >= stepFault {
		list = w.faultChoices
	}
	for _, c := range list() {
		if c.what == s.what && c.a == s.a && c.b == s.b {
			return true
		}
	}
	return false
}

// take takes one step, whose own randomness begins at its seed.
func (w *world) take(s Step) {
	w.steps++
	w.rng = rand.New(rand.NewPCG(s.seed, 2))
	switch {
	case s.what >= stepFault:
		w.report.Faults[s.what-stepFault]++
		w.fault(int(s.what-stepFault), s.a, s.b)
	case s.what >= stepAttach:
		w.clientStep(s.what, w.clients[s.a], s.b)
	case s.what >= stepDial:
		w.reignStep(s.what, s.a, s.b)
	case s.what == stepRelease:
		w.host(s.a).release()
	case s.what == stepWake:
		w.tracef("%s goes on", w.host(s.a).name)
		w.host(s.a).silent = false
	case s.what == stepMend:
		w.mend(w.host(s.a))
	case s.what == stepPutBack:
		w.putBack(w.members[s.a])
	case s.what == stepFlow:
		k := w.slot(s.a).conns[s.b]
		w.tracef("the link of C%d and P%d passes both ways again", k.c.epoch.Number, s.b)
		k.deaf, k.mute = false, false
	default:
		w.memberStep(s.what, w.members[s.a], s.b)
	}
	w.afterStep()
}

// someOps is how many operations of the disk a task goes on: often all.
func (w *world) someOps() int {
	if !w.chance(3) {
		return -1
	}
	return 1 + w.upTo(3)
}

func (w *world) memberStep(what what, p *member, b int) {
	switch what {
	case stepGreet:
		p.greetArrives(p.incoming[0])
	case stepHandle:
		p.handle(1 + w.upTo(3)*w.upTo(3))
	case stepSynced:
		p.synced()
	case stepJournal:
		p.j.work(w.someOps())
	case stepQuiet:
		p.quiet()
	case stepBeat:
		p.beat()
	case stepCheckpoint:
		p.checkpointGoesOn(w.someOps())
	case stepSweep:
		p.sweep.run(w.someOps())
		if p.sweep.done {
			p.sweep = nil
		}
	case stepStage:
		p.nextStage().goOn(w.someOps())
	case stepRead:
		k := w.slot(b).conns[p.i]
		for _, r := range k.reads {
			if open, _ := p.gateOpen(k.c.epoch, r.index); open {
				r.answers(p)
				break
			}
		}
	case stepDrop:
		k := w.slot(b).conns[p.i]
		ids := k.drops
		k.drops = nil
		if p.dropStages(k.c.epoch, ids) {
			k.c.turn(func() { k.c.m.Unstaged(p.i, ids) })
		}
	case stepStreamGone:
		p.conn = nil
	case stepResync:
		p.resyncGoesOn()
	default:
		p.restart()
	}
}

func (w *world) slot(b int) *reign {
	if b == 0 {
		return w.cur
	}
	return w.old
}

// someTime is how many milliseconds pass until a tick.
func (w *world) someTime() int64 {
	ticks := usualTicks
	switch {
	case w.profile.ticks != nil:
		ticks = w.profile.ticks
	case w.settling:
		ticks = settlingTicks
	}
	return ticks[w.upTo(len(ticks)-1)]
}

func (w *world) reignStep(what what, slot, b int) {
	if what == stepStart {
		w.startReign()
		return
	}
	c := w.slot(slot)
	switch what {
	case stepDial:
		c.dial(w.members[b])
	case stepReceive:
		c.receive(b, 1+w.upTo(2))
	case stepLinkGone:
		c.linkGone(b)
	case stepReignJournal:
		c.j.work(w.someOps())
	case stepReignSynced:
		c.synced()
	case stepTick:
		ms := w.someTime()
		w.pass(slot, ms)
		c.tick(ms)
	case stepSubmit:
		a := c.inbox[w.rng.IntN(len(c.inbox))]
		for i, first := range c.inbox {
			if first.link == a.link { // links keep their order
				c.inbox = append(c.inbox[:i:i], c.inbox[i+1:]...)
				c.submit(first)
				break
			}
		}
	case stepCancel:
		a := c.orphans[0]
		c.orphans = c.orphans[1:]
		c.cancel(a)
	case stepStaged:
		s := c.stages[0]
		c.stages = c.stages[1:]
		c.staged(s)
	case stepTurn:
		c.endTurn()
	case stepRefusing, stepGiveUp, stepRejoin, stepOperator, stepRepair:
		c.leavingStep(what, b)
	case stepDelayed:
		a := c.delayed[0]
		c.delayed = c.delayed[1:]
		c.submit(a)
	case stepLate:
		c.hearLate()
	case stepAsked, stepUnask, stepTell, stepTold:
		c.talkStep(what)
	case stepScrub, stepBook, stepDue:
		c.scrubStep(what, b)
	default: // stepDrained
		c.finish()
	}
}

// talkStep is of Watches, and of who was removed.
func (c *reign) talkStep(what what) {
	switch what {
	case stepAsked:
		c.asked()
	case stepUnask:
		c.unasks()
	case stepTell:
		c.tells()
	default: // stepTold
		c.told()
	}
}

func (c *reign) leavingStep(what what, b int) {
	switch what {
	case stepRefusing:
		c.refusing(b)
	case stepGiveUp:
		c.givesUp(b)
	case stepOperator:
		c.resolves()
	case stepRepair:
		c.repairs.goesOn()
	default: // stepRejoin
		append(slices.Clone(c.conns), c.leaving...)[b].rejoin.goesOn()
		c.leaving = slices.DeleteFunc(c.leaving, func(k *conn) bool { return !k.catches() })
	}
}

// pass lets simulated time go on; a zombie's is its own.
func (w *world) pass(slot int, ms int64) {
	if slot == 0 {
		w.now += ms
	}
}

func (w *world) clientStep(what what, cl *client, b int) {
	switch what {
	case stepAttach:
		cl.attach(w.slot(b))
	case stepBegin:
		cl.newOp(w.rng)
	case stepHear:
		cl.hears(cl.ops[b])
	case stepAsk:
		cl.ask(cl.ops[b])
	case stepWatch:
		cl.asks()
	case stepWatched:
		cl.hearsWatch()
	case stepKept:
		cl.answersKept()
	case stepReturn:
		w.tracef("mount %d is back", cl.n)
		cl.away = false
	default: // stepSend
		o := cl.ops[b]
		for i, data := range o.staged {
			if data != nil {
				cl.beginStage(o, i)
				return
			}
		}
		cl.send(o)
	}
}

func (w *world) fault(f, a, b int) {
	switch f {
	case faultPower, faultKill, faultMidway, faultStop, faultSync, faultFull, faultRefuse, faultCheckpoint, faultSilent, faultWipe, faultRot, faultLie, faultTrap:
		w.hostFault(f, a)
	case faultHalf:
		w.halfDead(w.slot(a).conns[b/2], b%2 == 0)
	case faultBreak:
		w.disturb()
		w.tracef("the link of C%d and P%d breaks", w.slot(a).epoch.Number, b)
		w.slot(a).conns[b].breaks(false)
	case faultSuspect:
		w.slot(a).givesUp(b)
	case faultFlood:
		w.flood(a)
	case faultEdit:
		w.cur.replaces(w.members[a])
	case faultClientBreak, faultGiveUp, faultVanish:
		w.clientFault(f, w.clients[a], b)
	case faultRemove:
		w.cur.removes(w.members[a])
	case faultScrub, faultWrong:
		w.scrubFault(f, a)
	case faultAway:
		w.clients[a].goesAway()
	case faultLapse:
		w.lapse()
	case faultFence:
		w.cur.fences(w.clients[a])
	case faultZombie:
		w.becomeZombie()
	case faultBackup:
		w.tracef("an old backup of the coordinator is restored")
		w.truth, w.restored = w.coordinator.fs, true
		old := w.backup
		w.backup = old.Crash(w.rng) // all of it is durable: a copy
		w.coordinator.install(old.Crash(w.rng))
		w.coordinator.syncedTo = 0
		for range w.upTo(3) { // somebody has tried before: its epoch may be above all that is held
			if w.startReign(); w.cur != nil {
				w.killed(w.coordinator)
			}
		}
	default: // faultLong
		w.tracef("eleven minutes pass")
		w.pass(a, 660_000)
		w.slot(a).tick(660_000)
	}
}

func (w *world) clientFault(f int, cl *client, b int) {
	switch f {
	case faultClientBreak:
		w.tracef("the link of client %d breaks", cl.n)
		cl.linkLost()
	case faultGiveUp:
		o := cl.ops[b]
		w.tracef("client %d gives up op %d", cl.n, o.num)
		cl.giveUp(o)
	default: // faultVanish
		w.tracef("client %d is gone; another takes its place", cl.n)
		cl.vanish()
	}
}

func (w *world) hostFault(f, n int) {
	h := w.host(n)
	switch f {
	case faultPower:
		w.tracef("%s LOSES POWER", h.name)
		w.lostPower(h)
		if h == w.coordinator && w.truth == nil && !h.rotten && w.loser == nil && w.chance(2) {
			w.backup = h.fs.Crash(w.rng) // all of it is durable: a copy
			h.fs.Restart()
			w.tracef("its disk is backed up")
		}
	case faultKill:
		w.tracef("%s is KILLED", h.name)
		w.killed(h)
	case faultMidway:
		k := 1 + w.upTo(12)
		w.tracef("%s will lose power %d disk operations from now", h.name, k)
		h.fs.CrashAt(h.fs.Ops() + k)
		w.disturb()
	case faultStop:
		w.tracef("%s is stopped", h.name)
		w.stopped(h, n)
	case faultSync:
		w.tracef("%s: the next sync fails", h.name)
		h.failSync, h.hurt = true, true
	case faultFull:
		left := int64(w.upTo(24)*w.upTo(1)) << 10
		h.releases = w.upTo(2)
		w.tracef("%s has %d bytes of disk left", h.name, left)
		h.squeeze(left)
		if n < len(w.members) && w.chance(2) {
			w.members[n].maybeFreeze()
		}
	case faultRefuse:
		w.members[n].refuses = 1 + w.upTo(2)
		w.tracef("%s refuses the next %d prepares", h.name, w.members[n].refuses)
	case faultSilent:
		w.tracef("%s is SILENT", h.name)
		h.silent, h.wakes = true, w.patience()
	case faultWipe:
		w.wipe(w.members[n])
	case faultRot:
		w.rots(h)
	case faultTrap:
		h.trap = 1 + w.upTo(3)
		w.tracef("%s will lose power at operation %d on checksums that are put aside", h.name, h.trap)
	case faultLie:
		w.begins(h)
	default: // faultCheckpoint
		w.members[n].maybeFreeze()
	}
}

// patience is the weight of the step that ends a silence: soon, late, or not
// before the faults end.
func (w *world) patience() int { return []int{0, 1, 1, 4}[w.rng.IntN(4)] }

// halfDead stops what goes to the member, or what comes from it: it arrives
// when the link passes again, or never if it breaks first.
func (w *world) halfDead(k *conn, down bool) {
	w.tracef("the link of C%d and P%d passes nothing %s any more", k.c.epoch.Number, k.member.i, map[bool]string{true: "down", false: "up"}[down])
	w.disturb()
	k.deaf, k.mute, k.flows = down, !down, w.patience()
}

// stopped stops a process properly.
func (w *world) stopped(h *host, n int) {
	if h == w.coordinator {
		w.cur.closing = true
		w.cur.turn(w.cur.m.Shut)
		return
	}
	p := w.members[n]
	p.stops()
	if !p.struck() {
		w.killed(h)
	}
}

// becomeZombie: the coordinator is thought dead and is not; a new one will be
// started on its disk.
func (w *world) becomeZombie() {
	c := w.cur
	w.tracef("C%d is taken for dead, and goes on", c.epoch.Number)
	w.coordinator.powerFails(w.rng)
	c.zombie, c.host = true, &host{name: "zombie", met: w.reach}
	c.j.log, c.j.flush, c.j.err, c.j.full = nil, nil, nil, nil
	w.old, w.cur = c, nil
}

// settle lets the faults end: everything must be answered and agreed upon in a
// bounded number of steps. Then the replicas are compared, all is started again
// from its disks, and compared again.
func (w *world) settle() {
	w.settling = true
	if w.chance(2) {
		w.settleRotten()
	}
	w.tracef("--- the faults end")
	w.endFaults()
	for h := range len(w.members) + 1 {
		if w.host(h).rotten {
			w.mend(w.host(h))
		}
	}
	if w.old != nil && w.chance(2) {
		w.old.end(nil)
	}
	if !w.quiesce() || !w.endSessions() {
		return
	}
	if w.bystanders != nil && !w.scrubsAll() {
		return
	}
	w.scrubs()
	w.checkEnd()
	w.checkHistory()
	if w.violation != nil {
		return
	}
	w.startAgain()
}

// endFaults ends what was done to computers and links.
func (w *world) endFaults() {
	for h := range len(w.members) + 1 {
		host := w.host(h)
		host.release()
		host.fs.CrashAt(0)
		host.failSync, host.silent, host.trap = false, false, 0
		if len(host.lied) > 0 {
			host.fs.WriteBack()
		}
		host.lies, host.lied = 0, nil
	}
	for _, c := range w.reigns() {
		for _, k := range c.conns {
			if k != nil {
				k.deaf, k.mute = false, false
			}
		}
	}
	for _, cl := range w.clients {
		cl.away = false
	}
	for _, p := range w.members {
		p.refuses = 0
		if p.kept != nil {
			w.putBack(p)
		}
	}
}

// quietSteps bounds how many steps the cluster takes to become quiet.
const quietSteps = 6000

func (w *world) quiesce() bool {
	steps := quietSteps
	if w.evicts() && min(w.evictAfter, w.evictSlow) <= 100 {
		steps *= 8 // whoever is silent, or slow, for a moment is evicted again: it takes luck
	}
	if w.quietWithin(steps) {
		return true
	}
	if w.violation == nil && !w.named {
		w.violate("settles", "not quiet after %d steps: %s", steps, w.unrest())
	}
	return false
}

// quietWithin takes up to n steps until the cluster is quiet.
func (w *world) quietWithin(n int) bool {
	rng := rand.New(rand.NewPCG(w.seed, 3))
	for i := range n {
		if w.violation != nil {
			return false
		}
		if i%8 == 0 && w.quiet() {
			return true
		}
		if c, ok := pick(rng, w.choices()); ok {
			w.take(Step{c.what, c.a, c.b, rng.Uint64()})
		}
	}
	return false
}

func (w *world) quiet() bool { return w.unrest() == "" }

// unrest says what is not over yet.
func (w *world) unrest() string {
	for _, cl := range w.clients {
		if len(cl.ops) > 0 {
			return fmt.Sprintf("op %d of client %d is not answered: %s", cl.ops[0].num, cl.n, cl.ops[0].words())
		}
	}
	c := w.cur
	if c == nil || c.closing {
		return "no coordinator runs"
	}
	st := c.m.Status()
	if !st.Serving || len(st.InDoubt) > 0 || st.Queued > 0 || st.W != st.Last {
		return fmt.Sprintf("the coordinator: serving %v, in doubt %d, queued %d, W %v of %v, waits for %v", st.Serving, len(st.InDoubt), st.Queued, st.W, st.Last, st.WaitsFor)
	}
	if w.closing && c.m.Unnamed() > 0 {
		return fmt.Sprintf("%d files without a name are left", c.m.Unnamed())
	}
	if c.repairs.next != nil && !c.repairs.done {
		return "something is being repaired"
	}
	if c.scrub != nil && !c.scrub.done {
		return "a scrub is under way"
	}
	for _, p := range w.there() {
		i := p.i
		switch {
		case !p.up:
			return fmt.Sprintf("P%d is down", i)
		case !c.inSyncAt(i) || p.m.Resync() != "":
			return fmt.Sprintf("P%d is out of sync", i)
		case p.m.InDoubt() > 0 || p.m.Position() != st.Last || p.m.W() != st.W || p.durable != st.Last.Index:
			return fmt.Sprintf("P%d: in doubt %d, handled %v, durable %d, W %v", i, p.m.InDoubt(), p.m.Position(), p.durable, p.m.W())
		case p.ck != nil || p.sweep != nil || len(p.staging) > 0 || len(p.resyncs) > 0 || p.j.flush != nil || p.j.synced < p.j.end:
			return fmt.Sprintf("P%d is at work", i)
		}
	}
	return ""
}

// startAgain starts everything from its disks: what was agreed upon is there.
func (w *world) startAgain() {
	before := make([]string, len(w.members))
	for _, p := range w.there() {
		if i := p.i; !p.lossy {
			before[i] = w.digest(p)
		}
	}
	w.tracef("--- all start again from their disks")
	for h := range len(w.members) + 1 {
		if w.chance(2) {
			w.lostPower(w.host(h))
		} else {
			w.killed(w.host(h))
		}
	}
	for i, p := range w.members {
		p.restart()
		if w.violation != nil {
			return
		}
		if p.lossy || p.removed {
			continue
		}
		if d := w.digest(p); d != before[i] {
			w.violate("G2", "P%d is not what it was before its restart:\n%s\nbefore:\n%s", i, d, before[i])
		}
		if p.m.InDoubt() > 0 {
			w.violate("G1", "P%d has %d transactions in doubt after a quiet end", i, p.m.InDoubt())
		}
	}
	if w.violation == nil && w.chance(4) && w.quiesce() {
		w.checkEnd()
	}
}
