package sim

import (
	"math/rand/v2"
	"slices"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// Schedules in which members are evicted, catch up and return (P8, P11): some of
// all, in which two of three, or one, have to stay. Their disks do not rot or lie, and
// a lost one is lost for good: an empty one takes its place when all three have
// everything, and gets everything from the others.
//
// What an evicted participant has kept does not count any more. An ABORT that
// nobody was told of, and that only such ones have, may become a COMMIT.

// evicting makes some schedules of that kind.
func evicting(rng *rand.Rand, p *profile) {
	if rng.IntN(5) > 1 {
		return
	}
	p.minInSync = []int{2, 2, 2, 1}[rng.IntN(4)]
	p.evictAfter = []int64{1, 100, 300, 3000}[rng.IntN(4)]
	p.may[faultSuspect], p.may[faultWipe], p.may[faultRot], p.may[faultLie] = faultWeight[faultSuspect], 0, 0, 0
	if rng.IntN(2) == 0 {
		p.may[faultWipe] = faultWeight[faultWipe]
	}
	p.evictSlow = []int64{10_000, 1000, 100}[rng.IntN(3)]
}

// evicts: may a member be evicted?
func (w *world) evicts() bool { return w.minInSync > 0 && w.minInSync < len(w.members) }

// membership notes who is in sync. One that runs on an old backup does not know.
func (w *world) membership(c *reign) {
	if c != w.cur || c.over || c.m.Stopped() != nil || c.beyond {
		return
	}
	for i := range w.in {
		w.in[i] = c.inSyncAt(i)
	}
	w.newcomers(c)
}

// revives: are those who have aborted the transaction all out of sync?
func (w *world) revives(tx wire.ID) bool {
	for i, in := range w.in {
		if in && w.aborted[tx]&(1<<i) != 0 {
			return false
		}
	}
	w.reach(reachRevived)
	return true
}

// undecided is told of a member that has started: an ABORT that its crash has
// lost is none that it has.
func (w *world) undecided(p *member) {
	for _, t := range p.m.Testimony() {
		if t.State == wire.TxPrepared {
			w.aborted[t.Tx] &^= 1 << p.i
		}
	}
}

// underConfig is told of a transaction that is committed: the config that it was
// put under is one that no coordinator may go behind (P13).
func (w *world) underConfig(tx wire.ID) {
	if id := w.underOf[tx]; w.served.Compare(id) < 0 {
		w.served = id
	}
}

// whole: do all members have everything, and know it? Then one may lose its
// disk. Where one participant alone may stay, all three have to answer at a start,
// and an empty disk is no answer.
func (w *world) whole() bool { return w.minInSync >= 2 && w.intact() }

// intact: have all members everything, and does the coordinator know it?
func (w *world) intact() bool {
	c := w.cur
	if c == nil || c.suspect || c.gathered || w.coordinator.silent || w.old != nil || !c.m.Writable() || slices.Contains(w.in, false) || len(w.there()) < len(w.members) {
		return false
	}
	for i, p := range w.members {
		k := c.conns[i]
		if k == nil || !k.opened || k.outside || k.cut || k.half() || !p.up || p.silent {
			return false
		}
	}
	return true
}

// losesDisk leaves a participant an empty disk for good.
func (w *world) losesDisk(p *member) {
	p.replaced = true
	p.disks++
	p.install(forget.New(w.rng.Uint64()))
	p.syncedTo, p.fences, p.bad = 0, map[uint64]bool{}, nil
	if c := w.cur; c != nil {
		k := c.conns[p.i]
		k.up = nil
		c.linkGone(p.i)
	}
}

// unfit is told that a coordinator has found out that a participant has lost its data.
func (w *world) unfit(c *reign, p *member, why *wire.Error) {
	if !w.evicts() {
		return // it stops, and is asked for its reason
	}
	if w.reach(reachUnfit); !p.replaced && !c.suspect {
		w.violate("P7", "C%d evicts P%d, which has lost nothing: %v", c.epoch.Number, p.i, why)
	}
}
