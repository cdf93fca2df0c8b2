package sim

import "tpcfs/journal/disk/forget"

// lie is what a host's disk has promised and does not hold: syncs that
// reported success, until a later one of the same file was honest. One disk in
// a schedule lies, and only until it has lost something by it: the next power
// loss takes of what it "synced" as much as of what it did not.
//
// No protocol of participants that write once can keep everything then: with
// its vote on the disk of the liar alone in doubt, a change that was
// acknowledged may be aborted in the next recovery (P7: the liar says "never"),
// and a liar that lost decisions below W goes on without them: nothing that it
// still has tells so. Hence neither G2 and G3, nor what the liar itself holds
// and answers, is checked; how often it goes unnoticed is counted.
//
// What must hold all the same, and is checked:
//   - The others are identical when all is quiet (G1), and have committed
//     nothing twice (G5) and nothing that was told to have failed (G6). What one
//     had carried out and not yet made durable may be decided otherwise.
//   - Whoever notices says so and does no more: the liar refuses to start or
//     ends because of damage (a journal below the kv's applied record, S3), or
//     a coordinator ends and names it, or says that testimonies contradict each
//     other (P7, P10). No other participant is blamed, nobody breaks down.
//   - Where nobody is named, all settles.
//   - A coordinator whose own disk lied is one on an old backup (P13): with
//     nothing lost that the participants had heard of it goes on, else it ends
//     before it serves. There everything is checked.
type lie struct {
	lies  int             // so many syncs will lie
	lied  map[string]bool // files and directories that are not as durable as was said
	lossy bool            // the power has failed since
}

func (h *host) tellLie(name string) error {
	h.lies--
	if h.lied == nil {
		h.lied = map[string]bool{}
	}
	h.lied[name] = true
	return forget.Lie
}

// lying: is there a disk that lies, or has lost something by it?
func (w *world) lying() bool {
	for n := range len(w.members) + 1 {
		if h := w.host(n); h.lies > 0 || len(h.lied) > 0 || h.lossy {
			return true
		}
	}
	return w.loser != nil
}

// mayLie: one disk at a time, and no other damage besides.
func (w *world) mayLie() bool {
	for n := range len(w.members) + 1 {
		if w.host(n).rotten || w.host(n).failSync {
			return false
		}
	}
	return w.mayWipe() && w.old == nil
}

// begins makes the next syncs of a disk lie; often its power fails soon.
func (w *world) begins(h *host) {
	h.lies = 1 + w.upTo(9)*w.upTo(5)
	w.tracef("%s: the next %d syncs LIE", h.name, h.lies)
	if w.chance(2) {
		h.fs.CrashAt(h.fs.Ops() + 2 + w.upTo(40))
		w.disturb()
	}
}

// losesLies is a power loss that takes what a sync had promised.
func (w *world) losesLies(h *host) {
	w.tracef("what %s has synced may be lost", h.name)
	w.reach(reachLost)
	h.lies, h.lied, h.lossy, h.syncedTo = 0, nil, true, 0
	if h != w.coordinator {
		w.loser = h
		return
	}
	w.truth, w.restored = h.fs.Image(w.rng.Uint64()), true
}

// loserNamed is told that somebody has noticed the loss.
func (w *world) loserNamed() {
	if !w.named {
		w.named = true
		w.reach(reachLostNamed)
	}
}

// checkHonest compares the replicas whose disks have not lied, and counts how
// the other one has fared.
func (w *world) checkHonest() {
	var honest []*member
	var loser *member
	for _, p := range w.members {
		if p.lossy {
			loser = p
		} else {
			honest = append(honest, p)
		}
	}
	if !w.same(honest[0], honest[1]) {
		w.violate("G1", "P%d and P%d differ, whose disks have not lied:\n%s\n%s", honest[0].i, honest[1].i, w.dump(honest[0]), w.dump(honest[1]))
		return
	}
	if w.judged {
		return
	}
	w.judged = true
	switch {
	case w.named:
	case loser != nil && w.same(loser, honest[0]): // but for objects that are corrupt when read
		w.reach(reachLostNothing)
	default:
		w.reach(reachLostSilently)
	}
}
