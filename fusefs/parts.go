package fusefs

import (
	"io"

	"tpcfs/wire"
)

const (
	// groupBytes is up to how many bytes of small extents are one mutation: the
	// service's client takes no more of several.
	groupBytes = 64 << 10
	// groupsBytes is how much of a transaction is such groups: what its pack
	// surely holds. Each further extent is a mutation of its own.
	groupsBytes = wire.MaxPack / 2
	// appendBytes is the most of one append mutation: participants read again
	// what was staged for another place within a block, up to 16 MiB.
	appendBytes = 8 << 20
)

// plan is the transaction of what is gathered, and whose bytes it sends.
type plan struct {
	mutations []wire.Mutation
	contents  []Content
	snap      *snapshot // nil: no bytes
	appended  int       // the first append's place in mutations; -1: none
	blind     bool      // what others have made of the base it leaves, and nothing of it tells the size
	ahead     *ahead    // sent of a content while it was written; nil: nothing
	aheadOf   int       // ... of this one
	ctime     int64     // of each that is added
}

func (p *plan) release() {
	if p.ahead != nil {
		p.ahead.giveUp()
	}
	if p.snap != nil {
		p.snap.Release()
	}
}

func (p *plan) add(m wire.Mutation, c Content) {
	m.Ctime = p.ctime
	p.mutations, p.contents = append(p.mutations, m), append(p.contents, c)
}

// planLocked makes the transaction (F4): what was written, not the file. A
// file that is new, or was cut to nothing, and then written without a gap is
// written as a whole. Else the file gets the least size that it had meanwhile,
// then the extents, then what was appended wherever the end is by then, then
// its last size. The times go with it, as fstat showed them.
//
// IfVersion stands where bytes of the base are left: another mount's commit
// shows, and the kernel's pages go (rebase). What is cut to nothing and written
// anew owes nothing to what was there: the later of two whole rewrites wins.
// guarded is false for what others have overtaken: what is only written or appended goes
// on any base then, with another mtime, as rebase does, for who comes in between. Mode
// and owner, if with sets them, change too.
func (n *node) planLocked(guarded bool, clock *clock, with wire.Mutation) plan {
	p := plan{appended: -1, ctime: n.ctime}
	set := wire.Mutation{Kind: wire.MutSetattr, At: n.at(), Mtime: n.mtime, Atime: n.atime,
		Set: with.Set, Mode: with.Mode, UID: with.UID, GID: with.GID}
	n.noAhead = false
	if e := &n.cur; !e.empty() {
		p.snap = n.c.Snapshot()
		p.ahead, p.aheadOf = n.c.own(), -1
		if e.keep != untouched && e.keep != 0 || !n.wholeLocked(&p, guarded) {
			n.partsLocked(&p, &set)
		}
		if len(p.mutations) > 0 && (n.unsure || e.needsBase()) { // else the base has all of it
			first := &p.mutations[0]
			switch follows := !guarded && first.Kind == wire.MutWriteFile; { // and cuts nothing of a newer one
			case n.unsure || !follows:
				first.IfVersion = n.base
			case n.mtimeSet:
				n.moveTimesLocked(clock.now())
				set.Mtime, p.ctime = n.mtime, n.ctime
				for i := range p.mutations {
					p.mutations[i].Ctime = n.ctime
				}
			}
			p.blind = first.IfVersion == 0 && e.needsBase() && p.appended < 0
		}
	}
	if n.mtimeSet {
		set.Set |= wire.SetMtime
	}
	if n.atimeSet {
		set.Set |= wire.SetAtime
	}
	if set.Set != 0 {
		if with.Set != 0 {
			p.ctime = 0 // that is a change of now, the others were before it
		}
		p.add(set, nil)
	}
	return p
}

// wholeLocked writes the file as a whole, if it holds nothing of a base. One that is empty
// has to be that still.
func (n *node) wholeLocked(p *plan, guarded bool) bool {
	size, all := n.c.Size(), n.cur.ours(n.c.Size())
	gapless := len(all) == 0 && size == 0 || len(all) == 1 && all[0] == extent{0, size}
	if !gapless || n.cur.keep != 0 && (!guarded || n.base == 0 || n.baseSize != 0 || n.cur.tail >= 0) {
		return false
	}
	p.begun(extent{0, size})
	p.add(wire.Mutation{Kind: wire.MutWriteFile, At: n.at(), Create: wire.MustExist}, p.snap)
	return true
}

// partsLocked writes parts.
func (n *node) partsLocked(p *plan, set *wire.Mutation) {
	e, size := n.cur, n.c.Size()
	end := n.baseSize
	if e.keep != untouched {
		e.extents, end = clip(e.extents, size), e.keep
		p.add(wire.Mutation{Kind: wire.MutSetattr, At: n.at(), Set: wire.SetSize, Size: e.keep}, nil)
	} else {
		e = e.settle()
		if e.least > end && (len(e.extents) == 0 || e.extents[len(e.extents)-1].to < e.least) {
			p.add(wire.Mutation{Kind: wire.MutSetattr, At: n.at(), Set: wire.SetSize, Size: e.least}, nil)
		}
	}
	n.extentsLocked(p, e.extents)
	if k := len(e.extents); k > 0 {
		end = max(end, e.extents[k-1].to)
	}
	if e.keep != untouched && end != size {
		set.Set, set.Size = set.Set|wire.SetSize, size
	}
	for at := e.tail; e.tail >= 0 && at < size; at += appendBytes {
		x := extent{at, min(size, at+appendBytes)}
		if p.appended < 0 {
			p.appended = len(p.mutations)
		}
		p.add(wire.Mutation{Kind: wire.MutWriteFile, At: n.at(), Create: wire.MustExist, Write: wire.WriteAppend,
			Extents: []wire.Extent{{Size: x.to - x.from}}}, &part{snap: p.snap, extents: []extent{x}})
	}
}

// extentsLocked writes extents: small ones together, each large one by itself.
func (n *node) extentsLocked(p *plan, list []extent) {
	for grouped := int64(0); len(list) > 0; {
		k, bytes := 1, list[0].to-list[0].from
		for k < len(list) && grouped < groupsBytes && k < wire.MaxExtents && bytes+list[k].to-list[k].from <= groupBytes {
			bytes += list[k].to - list[k].from
			k++
		}
		if k > 1 {
			grouped += bytes
		} else {
			p.begun(list[0])
		}
		m := wire.Mutation{Kind: wire.MutWriteFile, At: n.at(), Create: wire.MustExist, Write: wire.WriteExtents}
		for _, x := range list[:k] {
			m.Extents = append(m.Extents, wire.Extent{Offset: x.from, Size: x.to - x.from})
		}
		p.add(m, &part{snap: p.snap, extents: list[:k]})
		list = list[k:]
	}
}

// part is what a mutation writes of gathered bytes: ranges, one after another.
type part struct {
	snap    *snapshot
	extents []extent
}

// Size is the length in bytes.
func (c *part) Size() (n int64) {
	for _, x := range c.extents {
		n += x.to - x.from
	}
	return n
}

// Open reads from the beginning.
func (c *part) Open() (io.ReadCloser, error) {
	var list []io.Reader
	for _, x := range c.extents {
		list = append(list, io.NewSectionReader(c.snap, x.from, x.to-x.from))
	}
	return io.NopCloser(io.MultiReader(list...)), nil
}

// Expected is where in the file it will begin, as far as is known here.
func (c *part) Expected() int64 { return c.extents[0].from }
