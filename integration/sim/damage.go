package sim

import (
	"tpcfs/journal"
	"tpcfs/journal/disk/forget"
)

// medium is a disk that was taken out of its computer.
type medium struct {
	fs       *forget.FS
	syncedTo journal.LSN
}

// journalOpened is told of every journal that was opened: what was ever synced
// is in it (J3), or it would have refused.
func (w *world) journalOpened(h *host, log *journal.Log) {
	if log.End() < h.syncedTo {
		w.violate("J3", "the journal of %s ends at record %d, and %d was synced", h.name, log.End(), h.syncedTo)
	}
	h.syncedTo = log.End()
}

// mayWipe: once a config is durable everywhere, an empty disk may not pass for
// a participant's. One at a time, and not while the coordinator's is a backup.
func (w *world) mayWipe() bool {
	return w.served.Epoch != 0 && w.truth == nil && !w.wiped() && !w.lying() && (!w.evicts() || w.whole())
}

// wiped: does a participant run on an empty disk?
func (w *world) wiped() bool {
	for _, p := range w.members {
		if p.kept != nil {
			return true
		}
	}
	return false
}

// wipe puts an empty disk into a participant's computer.
func (w *world) wipe(p *member) {
	w.tracef("%s's disk is lost: an empty one takes its place", p.name)
	w.lostPower(p.host)
	if w.evicts() {
		w.losesDisk(p)
		return
	}
	p.kept = &medium{p.fs, p.syncedTo}
	p.disks++
	p.install(forget.New(w.rng.Uint64()))
	p.syncedTo = 0
}

// putBack: the operator finds the true disk.
func (w *world) putBack(p *member) {
	w.tracef("%s's true disk is put back", p.name)
	w.killed(p.host)
	p.install(p.kept.fs)
	p.syncedTo, p.kept = p.kept.syncedTo, nil
}

// diskNumber tells a participant's disks apart: each has a storage UUID of its own.
func (p *member) diskNumber() uint64 {
	if p.kept == nil && !p.replaced {
		return uint64(p.i)
	}
	return 100*p.disks + uint64(p.i)
}

// metImpostor is told that a coordinator which knows its cluster was greeted
// from an empty disk: it must end at once and name the participant, whose word
// would be "never" (P7).
func (w *world) metImpostor(c *reign, p *member) {
	if c.m.Stopped() == nil || c.m.Stopped().Who != p.name {
		w.violate("P7", "C%d takes %s's empty disk for %s: %v", c.epoch.Number, p.name, p.name, c.m.Stopped())
		return
	}
	if c.blames == nil {
		c.blames = map[string]bool{}
	}
	c.blames[p.name] = true
	w.reach(reachWipeFound)
}
