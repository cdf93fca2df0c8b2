package sim

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// Faults, as a report counts them.
const (
	faultPower       = iota // a computer loses its power
	faultKill               // a process is killed
	faultMidway             // the power fails at a chosen operation of the disk
	faultStop               // a process is stopped properly
	faultBreak              // a link to a participant breaks
	faultClientBreak        // a client's link breaks
	faultGiveUp             // a client gives a request up
	faultVanish             // a client ends for good
	faultZombie             // an old coordinator goes on talking
	faultBackup             // the coordinator starts on an old backup
	faultSync               // a sync fails
	faultFull               // a disk is full
	faultRefuse             // a participant refuses a few prepares: no space
	faultCheckpoint         // no fault: a checkpoint before its time
	faultLong               // no fault: more than ten minutes pass
	faultSilent             // a process takes no step for long, and is not gone
	faultHalf               // a link passes nothing in one direction
	faultWipe               // a participant comes up on an empty disk
	faultRot                // a bit flips on a disk
	faultLie                // syncs report success and do nothing
	faultSuspect            // a participant's link is given up as silent
	faultFlood              // two of three disks are lost at once
	faultEdit               // no fault: an operator replaces a participant
	faultAway               // a mount is cut off
	faultLapse              // seconds pass in which no coordinator takes a turn
	faultFence              // a session is fenced
	faultRemove             // no fault: an operator removes a participant, or adds one
	faultTrap               // the power fails while checksums are put aside
	faultScrub              // no fault: a scrub begins
	faultWrong              // a row of a participant is another one, or a block rots, that nobody else looks at
	faults
)

// FaultNames are those of Report.Faults.
var FaultNames = [faults]string{
	"power losses", "kills", "crashes in mid-operation", "proper stops", "links broken", "client links broken", "requests given up",
	"clients gone", "zombie coordinators", "old backups restored", "failed syncs", "full disks", "prepares refused", "early checkpoints", "long waits",
	"silent processes", "half-dead links", "wiped disks", "rotten disks", "lying disks", "links given up", "two disks lost", "wishes to replace one",
	"mounts cut off", "lapses of time", "sessions fenced", "wishes to remove or add one", "traps",
	"scrubs begun by hand", "rows and blocks made wrong",
}

var faultWeight = [faults]int{
	faultPower: 8, faultKill: 6, faultMidway: 8, faultStop: 2, faultBreak: 20, faultClientBreak: 10, faultGiveUp: 4,
	faultVanish: 1, faultZombie: 4, faultBackup: 40, faultSync: 3, faultFull: 3, faultRefuse: 10, faultCheckpoint: 10, faultLong: 1,
	faultSilent: 6, faultHalf: 8, faultWipe: 20, faultRot: 20, faultLie: 80, faultSuspect: 12, faultFlood: 30, faultEdit: 4, faultAway: 12, faultLapse: 12, faultFence: 3, faultTrap: 20, faultRemove: 12, faultScrub: 40, faultWrong: 40,
}

// faultRarity: one in how many schedules has a fault that takes much of the
// others' room, or leaves less to be checked.
var faultRarity = [faults]int{faultSilent: 2, faultHalf: 2, faultWipe: 8, faultRot: 4, faultLie: 6}

// Rare things that a strong simulator has to reach.
const (
	reachServe          = iota                    // a coordinator has begun to serve
	reachZombieStops                              // a zombie has noticed
	reachBackupFound                              // an old backup was found out (P13)
	reachFatal                                    // a participant has ended by itself (P12)
	reachDup                                      // a retry was answered by DUP (G5)
	reachMixed                                    // a participant drops what it had prepared
	reachUnknown                                  // a client was told "unknown"
	reachConflict                                 // ... "conflict"
	reachBehind                                   // what one has aborted was tried again behind who was in the way, and has committed
	reachOutlasted                                // a request has run out of time while somebody was silent
	reachWipeFound                                // a wiped participant was named (P7)
	reachRotJournal                               // a bit has flipped in a journal
	reachRotObject                                // ... in an object
	reachRotRow                                   // ... in a row of the kv
	reachRotKV                                    // ... in the kv's last transaction
	reachRotFile                                  // ... in another file
	reachRotRefused                               // a process has refused to start on a rotten disk
	reachRotEnded                                 // a participant has ended because of its rotten disk
	reachRotRead                                  // a read was answered "corrupt", and went on elsewhere
	reachRotSettled                               // all is as it should be around a rotten disk
	reachRotTail                                  // a prepare has found the block rotten that it cuts (S5)
	reachLost                                     // the power failed while a sync had lied
	reachLostNamed                                // who lost by it was named
	reachLostNothing                              // ... has what the others have
	reachLostSilently                             // ... goes on with other files, unnoticed: nothing can tell, by design
	reachRetry                                    // a request was sent again under its op id, by a new link
	reachMulti                                    // a transaction of several mutations has committed
	reachRename                                   // a rename has committed
	reachList                                     // a listing was answered
	reachReclaim                                  // a file without a name was reclaimed
	reachNamedAgain                               // ... has got a name before its reclaim
	reachEvicted                                  // a participant was evicted
	reachSlow                                     // ... although it was there: it kept the others waiting
	reachBack                                     // ... is in sync again
	reachMarked                                   // ... was told so, and has marked itself
	reachAdmitted                                 // a config that lets one in was issued
	reachNotAdmitted                              // ... was not, after its mark was gone
	reachInterrupted                              // catching up began again
	reachFullCopy                                 // ... with all rows
	reachTooOld                                   // ... since the donor's index begins later
	reachUnfit                                    // a participant on a new disk was evicted
	reachRepaired                                 // a rotten block was repaired
	reachRelearnt                                 // ... whose checksum was not known
	reachScrubbed                                 // all that was rotten at the end was repaired
	reachRevived                                  // an ABORT that only who is out of sync has kept became a COMMIT
	reachDeclared                                 // disks were declared lost by an operator, and it is so
	reachReplaced                                 // a participant was replaced by another
	reachRemoved                                  // a participant was removed
	reachTold                                     // ... knows it
	reachAdded                                    // another one was added
	reachTrapped                                  // the power has failed while checksums were put aside
	reachLease                                    // a Watch was answered
	reachLapsed                                   // ... after the lease had run out
	reachKept                                     // a mount has answered from what it keeps
	reachAsked                                    // ... was asked whether it has a file open that lost its last name
	reachHolds                                    // ... and has
	reachScrubBegun                               // a scrub has begun
	reachScrubClean                               // ... says that a participant is clean
	reachHurtRow                                  // a row of a participant is not what it was
	reachHurtBlock                                // ... a block
	reachExpelled                                 // a participant was evicted for a scrub
	reachRenewed                                  // ... and has got everything anew
	reachVerdictEnds                              // a scrub has ended an older verdict
	reachBookLost                                 // what scrubs have found could not be read
	reachDoomed                                   // the coordinator dies between an admission and the end of its verdict
	reachLastBlock                                // a block is rotten at all that are in sync
	reachStartsAnew                               // one was started on an empty directory, as a scrub's words say
	reachCheckpointEnd                            // a checkpoint was finished
	reachSync                                     // a sync has failed of: a journal, the kv, objects, something else
	reachFull           = reachSync + places      // a write has found no space: likewise
	reachFullCheckpoint = reachFull + places      // ... during a checkpoint
	reachCrash          = reachFullCheckpoint + 1 // a process has ended during: a flush of the journal, a checkpoint, a sweep, a stage
	reaches             = reachCrash + len(crashes)
)

// places of a file, as a report tells them apart.
const (
	placeJournal = iota
	placeKV
	placeObjects
	placeOther
	places
)

// crashes are the tasks that a crash may cut short.
var crashes = [...]string{"journal", "checkpoint", "sweep", "stage", "resync", "repair", "book"}

func placeOf(name string) int {
	switch {
	case strings.HasPrefix(name, reignDir+"/"), strings.HasPrefix(name, memberDir+"/journal/"):
		return placeJournal
	case name == memberDir+"/meta.db":
		return placeKV
	case strings.HasPrefix(name, memberDir+"/objects/"):
		return placeObjects
	default:
		return placeOther
	}
}

// ReachNames are those of Report.Reached.
var ReachNames = [reaches]string{
	"coordinators served", "zombies stopped", "old backups found", "participants ended by themselves", "DUP votes", "prepared and aborted", "unknown outcomes", "conflicts", "retries behind a blocker",
	"waits that a silent process outlasted", "wiped participants named",
	"bits flipped in journals", "bits flipped in objects", "bits flipped in rows", "bits flipped in a kv's last transaction", "bits flipped in other files",
	"refusals to start on flipped bits", "ends because of flipped bits",
	"corrupt answers", "settled around flipped bits", "rotten blocks cut",
	"power losses after lies", "losses by lies named", "losses by lies of nothing", "losses by lies unnoticed",
	"retries on new links", "transactions of several mutations", "renames", "listings", "files reclaimed", "reclaims of what had a name",
	"evictions", "evictions as too slow", "returns", "marks", "configs that let one in", "newcomers not let in", "interrupted catchings up", "full copies", "copies from before an index",
	"new disks", "rotten blocks repaired", "checksums found again", "ends without rot", "aborts revived", "declared lost", "replaced",
	"removed", "removed ones told", "added", "crashes while checksums were put aside", "Watches answered", "leases that had run out", "answers from what is kept", "questions about files without a name", "files without a name held open",
	"scrubs", "participants found clean", "rows made wrong", "blocks made rotten", "evictions for scrubs", "got everything anew for scrubs", "verdicts ended by scrubs", "books lost", "crashes before the end of a verdict", "blocks rotten at all", "started anew for scrubs", "checkpoints",
	"failed syncs of journals", "failed syncs of kvs", "failed syncs of objects", "failed syncs of others",
	"no space for journals", "no space for kvs", "no space for objects", "no space for others", "no space in checkpoints",
	"crashes in flushes", "crashes in checkpoints", "crashes in sweeps", "crashes in stages", "crashes in catching up", "crashes in repairs", "crashes in writing a scrub's book",
}

func (w *world) reach(n int) { w.report.Reached[n]++ }

// what names a kind of step.
type what uint8

// Steps of the system, then the faults in their order.
const (
	stepGreet what = iota
	stepHandle
	stepSynced
	stepJournal
	stepQuiet
	stepBeat
	stepCheckpoint
	stepSweep
	stepStage
	stepRead
	stepDrop
	stepStreamGone
	stepResync
	stepRestart
	stepRelease
	stepWake
	stepFlow
	stepPutBack
	stepMend

	stepDial
	stepReceive
	stepLinkGone
	stepReignJournal
	stepReignSynced
	stepTick
	stepSubmit
	stepCancel
	stepStaged
	stepDrained
	stepLate
	stepDelayed
	stepTurn
	stepRefusing
	stepGiveUp
	stepRejoin
	stepRepair
	stepOperator
	stepAsked
	stepUnask
	stepTell
	stepTold
	stepScrub
	stepBook
	stepDue
	stepStart

	stepAttach
	stepBegin
	stepSend
	stepHear
	stepAsk
	stepLinkLost
	stepWatch
	stepWatched
	stepKept
	stepReturn

	stepFault // + fault
)

// choice is a step that is possible now.
type choice struct {
	what   what
	a, b   int
	weight int
}

func (w *world) may1(x what, a, b, weight int) {
	if weight > 0 {
		w.possible = append(w.possible, choice{x, a, b, weight})
	}
}

// choices lists what may happen next.
func (w *world) choices() []choice {
	w.possible = w.possible[:0]
	for _, p := range w.members {
		p.choices()
	}
	if w.cur != nil {
		w.cur.choices(0)
	} else {
		w.may1(stepStart, 0, 0, w.startWeight)
	}
	if w.old != nil {
		w.old.choices(1)
	}
	if w.coordinator.squeezed {
		w.may1(stepRelease, len(w.members), 0, w.coordinator.releases)
	}
	if w.coordinator.rotten && !w.settling {
		w.may1(stepMend, len(w.members), 0, max(w.coordinator.mends, b2i(w.cur == nil)))
	}
	for _, cl := range w.clients {
		cl.choices()
	}
	return w.possible
}

func (p *member) choices() {
	w, i, fast := p.w, p.i, p.w.speed[p.i]
	if p.squeezed {
		w.may1(stepRelease, i, 0, p.releases)
	}
	if p.kept != nil {
		w.may1(stepPutBack, i, 0, 1)
	}
	if p.rotten && !w.settling {
		w.may1(stepMend, i, 0, max(p.mends, b2i(!p.up)))
	}
	if p.silent {
		w.may1(stepWake, i, 0, p.wakes)
		return
	}
	if !p.up {
		w.may1(stepRestart, i, 0, 6-5*b2i(p.rotten))
		return
	}
	if len(p.incoming) > 0 {
		w.may1(stepGreet, i, 0, fast)
	}
	if k := p.conn; k != nil {
		if len(k.down) > 0 && !k.deaf && !p.holdsBack() {
			w.may1(stepHandle, i, 0, 2*fast)
		}
		if k.cut && len(k.down) == 0 {
			w.may1(stepStreamGone, i, 0, fast)
		}
		if !k.cut && len(k.up) == 0 {
			w.may1(stepBeat, i, 0, 1)
		}
	}
	if p.j.signal {
		w.may1(stepSynced, i, 0, 2*fast)
	}
	if p.j.ready() {
		w.may1(stepJournal, i, 0, fast)
	}
	if p.needsQuiet() {
		w.may1(stepQuiet, i, 0, max(1, fast/8))
	}
	if p.ck != nil {
		w.may1(stepCheckpoint, i, 0, max(1, fast/2))
	}
	if p.sweep != nil {
		w.may1(stepSweep, i, 0, max(1, fast/4))
	}
	if p.hasStage() {
		w.may1(stepStage, i, 0, fast)
	}
	if p.mayResync() {
		w.may1(stepResync, i, 0, fast)
	}
	p.linkChoices()
}

// linkChoices: what has come by links beside the streams.
func (p *member) linkChoices() {
	w, i, fast := p.w, p.i, p.w.speed[p.i]
	for slot, c := range []*reign{w.cur, w.old} {
		if c == nil || c.conns[i] == nil {
			continue
		}
		k := c.conns[i]
		if k.half() {
			continue
		}
		for _, r := range k.reads {
			if open, _ := p.gateOpen(c.epoch, r.index); open {
				w.may1(stepRead, i, slot, fast)
				break
			}
		}
		if len(k.drops) > 0 {
			w.may1(stepDrop, i, slot, max(1, fast/4))
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// holdsBack mirrors where handleEntries waits for a checkpoint.
func (p *member) holdsBack() bool {
	return p.held && p.freezes < p.heldSince && p.end != p.frozenAt
}

func (c *reign) choices(slot int) {
	w := c.w
	for i, k := range c.conns {
		if k != nil && k.half() {
			w.may1(stepFlow, slot, i, k.flows)
		}
	}
	if slot == 0 && w.coordinator.silent {
		w.may1(stepWake, len(w.members), 0, w.coordinator.wakes)
		return
	}
	for i, k := range c.conns {
		switch {
		case k == nil:
			switch {
			case !c.has(i):
			case !w.members[i].up && w.evicts():
				w.may1(stepRefusing, slot, i, 1)
			case w.members[i].up && c.mayDial(i):
				w.may1(stepDial, slot, i, 8)
			}
		case !k.mute && (k.answer != nil || k.opened && len(k.up) > 0):
			w.may1(stepReceive, slot, i, 12)
			fallthrough
		default:
			if k.opened && w.evicts() && (k.half() || w.members[i].silent) {
				w.may1(stepGiveUp, slot, i, 1)
			}
			if k.cut && !(k.gone && k.catches()) && (k.answer == nil && (!k.opened || len(k.up) == 0) || !w.settling) {
				w.may1(stepLinkGone, slot, i, 4)
			}
		}
	}
	c.rejoinChoices(slot)
	c.scrubChoices(slot)
	if c.j.ready() {
		w.may1(stepReignJournal, slot, 0, 6)
	}
	if c.j.signal {
		w.may1(stepReignSynced, slot, 0, 8)
	}
	w.may1(stepTick, slot, 0, 2)
	if w.flooded != nil && w.mayAsk(c) {
		w.may1(stepOperator, slot, 0, 1)
	}
	if len(c.inbox) > 0 {
		w.may1(stepSubmit, slot, 0, 10)
	}
	if len(c.orphans) > 0 {
		w.may1(stepCancel, slot, 0, 2)
	}
	if len(c.stages) > 0 {
		w.may1(stepStaged, slot, 0, 6)
	}
	if c.closing {
		w.may1(stepDrained, slot, 0, 2)
	}
	if c.gathered {
		w.may1(stepTurn, slot, 0, 16)
	}
	if len(c.delayed) > 0 {
		w.may1(stepDelayed, slot, 0, 1)
	}
	if len(c.late) > 0 {
		w.may1(stepLate, slot, 0, 1)
	}
	c.talkChoices(slot)
}

// rejoinChoices: newcomers' catching up goes on, of links that are given up too;
// so does the repairing.
func (c *reign) rejoinChoices(slot int) {
	if c.repairs.next != nil && c.repairs.ready() {
		c.w.may1(stepRepair, slot, 0, 4)
	}
	for i, k := range append(slices.Clone(c.conns), c.leaving...) {
		if k != nil && k.rejoin != nil && (k.rejoin.ready() || k.gone && !k.rejoin.done) {
			c.w.may1(stepRejoin, slot, i, 8)
		}
	}
}

func (cl *client) choices() {
	w := cl.w
	cl.mountChoices()
	if cl.c == nil && !cl.away {
		for slot, c := range []*reign{w.cur, w.old} {
			if c != nil && (slot == 0 && !w.coordinator.silent || slot == 1 && !w.settling) {
				w.may1(stepAttach, cl.n, slot, 6-3*slot)
			}
		}
	}
	if !w.settling && len(cl.ops) < 2 && len(w.ops) < w.maxOps {
		w.may1(stepBegin, cl.n, 0, 6)
	}
	for at, o := range cl.ops {
		switch {
		case o.attempt != nil && o.attempt.answer != nil:
			w.may1(stepHear, cl.n, at, 8)
		case cl.c == nil || o.attempt != nil || o.stage != nil || o.call != nil || cl.c.silent():
		case o.id.Seq == 0:
			if len(cl.c.readable(o)) > 0 {
				w.may1(stepAsk, cl.n, at, 8)
			}
		default:
			w.may1(stepSend, cl.n, at, 8)
		}
	}
}

// faultChoices lists the faults that may strike now.
func (w *world) faultChoices() []choice {
	w.possible = w.possible[:0]
	add := func(f, a, b int, ok bool) {
		if ok {
			w.may1(stepFault+what(f), a, b, w.may[f])
		}
	}
	running := w.cur != nil
	for h := range len(w.members) + 1 {
		up := h == len(w.members) && running || h < len(w.members) && w.members[h].up
		host := w.host(h)
		add(faultPower, h, 0, up)
		add(faultKill, h, 0, up)
		if len(host.tasks) > 0 { // in the middle of something: more often
			add(faultPower, h, 0, up)
			add(faultKill, h, 0, up)
		}
		add(faultMidway, h, 0, true)
		add(faultStop, h, 0, up && !host.squeezed && !host.silent)
		add(faultSilent, h, 0, up && !host.silent)
		add(faultWipe, h, 0, h < len(w.members) && w.mayWipe() && !host.rotten)
		add(faultFlood, h, 0, h < len(w.members) && w.may[faultFlood] > 0 && w.mayFlood())
		add(faultEdit, h, 0, h < len(w.members) && w.may[faultEdit] > 0 && running && w.flooded == nil && w.mayAsk(w.cur) && w.cur.m.ReadPoint() != 0)
		add(faultRemove, h, 0, h == len(w.members)-1 && w.may[faultRemove] > 0 && running && w.flooded == nil && w.mayAsk(w.cur) && w.cur.m.ReadPoint() != 0)
		add(faultLie, h, 0, up && w.mayLie())
		add(faultRot, h, 0, w.mayRot(host))
		add(faultTrap, h, 0, h < len(w.members) && host.trap == 0)
		add(faultSync, h, 0, up && host.lies == 0 && len(host.lied) == 0)
		add(faultFull, h, 0, !host.squeezed)
		for _, t := range host.tasks { // in the middle of what was promised room: more often
			add(faultFull, h, 0, !host.squeezed && (t.what == "checkpoint" || t.what == "stage"))
		}
		add(faultRefuse, h, 0, up && h < len(w.members) && w.members[h].refuses == 0)
		add(faultCheckpoint, h, 0, up && h < len(w.members) && w.members[h].ck == nil && w.members[h].fatal == nil && w.members[h].end > w.members[h].frozenAt && !host.silent)
	}
	for slot, c := range []*reign{w.cur, w.old} {
		if c == nil {
			continue
		}
		for i, k := range c.conns {
			add(faultBreak, slot, i, k != nil && !k.cut)
			add(faultSuspect, slot, i, w.evicts() && k != nil && k.opened && !k.cut)
			for way := range 2 {
				add(faultHalf, slot, 2*i+way, k != nil && !k.cut && !k.half())
			}
		}
		add(faultLong, slot, 0, !c.silent())
	}
	for _, cl := range w.clients {
		add(faultClientBreak, cl.n, 0, cl.c != nil)
		add(faultVanish, cl.n, 0, len(cl.ops) > 0)
		add(faultAway, cl.n, 0, cl.watches && !cl.away)
		add(faultFence, cl.n, 0, cl.c != nil && cl.c == w.cur && !w.coordinator.silent)
		for at, o := range cl.ops {
			add(faultGiveUp, cl.n, at, o.id.Seq != 0 && !o.given && (cl.c == nil || !cl.c.silent()))
		}
	}
	add(faultLapse, 0, 0, true)
	w.scrubFaults(add)
	add(faultZombie, 0, 0, running && !w.coordinator.silent && !w.lying() && w.old == nil && w.truth == nil) // nobody starts two on purpose
	add(faultBackup, 0, 0, !running && w.flooded == nil && w.backup != nil && w.truth == nil && !w.wiped() && !w.coordinator.rotten && !w.lying())
	return w.possible
}

// host is a member's, or the coordinator's.
func (w *world) host(n int) *host {
	if n < len(w.members) {
		return w.members[n].host
	}
	return w.coordinator
}

// pick draws one of the choices by weight.
func pick(rng *rand.Rand, list []choice) (choice, bool) {
	sum := 0
	for _, c := range list {
		sum += c.weight
	}
	if sum == 0 {
		return choice{}, false
	}
	n := rng.IntN(sum)
	for _, c := range list {
		if n -= c.weight; n < 0 {
			return c, true
		}
	}
	panic("sim: weights")
}
