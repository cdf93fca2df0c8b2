package sim

import (
	"math/rand/v2"
	"slices"

	"tpcfs/wire"
)

// The few names that all clients use, so that they meet.
var paths = []string{"a", "b", "c", "d", "d/a", "d/b", "e", "e/a", "d/e", "d/e/a"}

// newOp makes up what a client does next.
func (cl *client) newOp(rng *rand.Rand) *op {
	w := cl.w
	o := &op{cl: cl, num: len(w.ops)}
	w.ops = append(w.ops, o)
	cl.ops = append(cl.ops, o)
	o.begun = w.clock()
	if rng.IntN(100) < w.readShare {
		o.read = read{kind: []wire.ReadKind{wire.ReadFile, wire.ReadFile, wire.ReadList, wire.ReadStat}[rng.IntN(4)], at: cl.at(rng)}
		if o.kind == wire.ReadList && rng.IntN(2) == 0 {
			o.at = wire.At{Dir: wire.RootIno}
		}
		if w.metaShare > 0 {
			cl.metaRead(rng, o)
		}
		w.tracef("client %d begins op %d: %s", cl.n, o.num, o.words())
		return o
	}
	cl.seq++
	o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
	w.byID[o.id] = o
	n := 1
	if rng.IntN(5) == 0 {
		n = 2 + rng.IntN(3)
	}
	o.staged = make([][]byte, n)
	for i := range n {
		o.muts = append(o.muts, cl.mutation(rng, o, i))
	}
	o.bulk = slices.Clone(o.staged)
	w.tracef("client %d begins op %d: %s", cl.n, o.num, o.words())
	return o
}

// at names a file by its path, now and then from a directory's inode.
func (cl *client) at(rng *rand.Rand) wire.At {
	p := cl.w.paths[min(rng.IntN(len(cl.w.paths)), rng.IntN(len(cl.w.paths)))] // the first ones more often
	if rng.IntN(100) < cl.w.inodeShare {
		return wire.At{Dir: cl.dirs[rng.IntN(len(cl.dirs))], Path: []string{"a", "b", "e", "e/a"}[rng.IntN(4)]}
	}
	return wire.At{Dir: wire.RootIno, Path: p}
}

// entry names an entry of a directory that the client has met.
func (cl *client) entry(rng *rand.Rand) wire.At {
	return wire.At{Dir: cl.dirs[rng.IntN(len(cl.dirs))], Path: cl.w.paths[rng.IntN(len(cl.w.paths))]}
}

func (cl *client) mutation(rng *rand.Rand, o *op, i int) wire.Mutation {
	m := wire.Mutation{At: cl.at(rng), Mode: []uint32{0o644, 0o600, 0o755}[rng.IntN(3)]}
	if cl.w.moveShare > 0 && rng.IntN(100) < cl.w.moveShare {
		m.At = cl.entry(rng)
		if m.Kind = []wire.MutationKind{wire.MutMkdir, wire.MutRmdir, wire.MutRename, wire.MutRename}[rng.IntN(4)]; m.Kind == wire.MutRename {
			m.To = cl.entry(rng)
		}
		return m
	}
	if cl.w.metaShare > 0 && rng.IntN(100) < cl.w.metaShare && cl.meta(rng, &m) {
		return m
	}
	kinds := 100
	if cl.w.large {
		kinds = 55
	}
	switch n := rng.IntN(kinds); {
	case n < 50:
		m.Kind = wire.MutWriteFile
		m.Create = []wire.CreateMode{wire.MustExist, wire.MustNotExist, 3: wire.MayExist, 9: wire.MayExist}[rng.IntN(10)]
		if rng.IntN(100) < cl.w.partShare {
			cl.parts(rng, o, &m, i)
		} else {
			cl.content(rng, o, &m, i)
		}
		m.Ctime = cl.ctime(o.num + i)
	case n < 60:
		m.Kind = wire.MutDeleteFile
	case n < 74:
		m.Kind = wire.MutMkdir
		if rng.IntN(3) > 0 {
			m.At = wire.At{Dir: wire.RootIno, Path: []string{"d", "e", "d/e"}[rng.IntN(3)]}
		}
	case n < 79:
		m.Kind = wire.MutRmdir
	case n < 87:
		m.Kind, m.To = wire.MutRename, cl.at(rng)
	case n < 91:
		m.Kind, m.Target = wire.MutSymlink, "d/a"
	case n < 91+cl.w.partShare/20:
		m.Kind = []wire.MutationKind{wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange}[rng.IntN(3)]
		m.Offset, m.Length, m.KeepSize = cl.offset(rng), 1+int64(rng.IntN(300)), rng.IntN(3) == 0
	default:
		m.Kind, m.Set = wire.MutSetattr, wire.SetMode
		if rng.IntN(2) == 0 {
			m.Set, m.Size = wire.SetSize, int64(rng.IntN(400))
		} else { // an mtime of before, about and after the transaction's
			m.Set, m.Mtime = wire.SetMode|wire.SetMtime, cl.w.wall()+int64((o.num+i)%5-2)*(wire.MaxCtimeOff/8)
		}
		m.Ctime = cl.ctime(o.num + i)
	}
	if rng.IntN(8) == 0 {
		m.IfVersion = cl.versions[m.At.Path]
	}
	return m
}

// growing makes a schedule of files that are staged as a whole, and written to and
// extended in their objects, over the trailers of those (S2): 4 KiB and a little, or
// some blocks.
func growing(p *profile) {
	p.large, p.paths, p.maxOps, p.partShare, p.stageShare = true, paths[:1+p.segments%2], min(p.maxOps, 24), 60, max(p.stageShare, 30)
	p.segmentSize, p.tableBytes, p.readShare = max(p.segmentSize, 64<<10), 256<<10, min(p.readShare, 30)
	p.may[faultTrap], p.faultShare = faultWeight[faultTrap], max(p.faultShare, 10)
}

// largeSize is the size of such a file.
func largeSize(rng *rand.Rand) int {
	return []int{3000 + rng.IntN(2000), 7000 + rng.IntN(2000), wire.BlockSize + rng.IntN(9000), 2*wire.BlockSize + rng.IntN(100)}[rng.IntN(12)%4*rng.IntN(2)]
}

// content makes up contents that no other op has: inline, or to be staged.
func (cl *client) content(rng *rand.Rand, o *op, m *wire.Mutation, i int) {
	size := []int{0, 1 + rng.IntN(40), 1 + rng.IntN(40), cl.w.inlineMax + 1 + rng.IntN(200)}[rng.IntN(4)]
	if cl.w.large && rng.IntN(3) > 0 {
		size = largeSize(rng)
	}
	data := make([]byte, size)
	for k := range data {
		data[k] = byte(o.num*31 + i*7 + k*(o.num+3))
	}
	if rng.IntN(100) < cl.w.stageShare || size > 1000 {
		o.staged[i] = data
		return
	}
	m.Content = wire.Content{Size: int64(size), Sum: wire.Sum(data)}
	o.payload = append(slices.Clip(o.payload), data...)
}

// offset is where in a file something may begin: now and then about the end of
// a block.
func (cl *client) offset(rng *rand.Rand) int64 {
	if rng.IntN(12) == 0 {
		return wire.BlockSize - 100 + int64(rng.IntN(150))
	}
	if cl.w.large {
		return int64(rng.IntN(9000))
	}
	return int64(rng.IntN(300))
}

// parts makes up extents, or an append; one of them may be staged.
func (cl *client) parts(rng *rand.Rand, o *op, m *wire.Mutation, i int) {
	m.Write = wire.WriteExtents
	at := cl.offset(rng)
	switch rng.IntN(5) {
	case 0:
		m.Set, m.Size = wire.SetSize, cl.offset(rng)
	case 1, 2:
		m.Write, at = wire.WriteAppend, 0
	}
	last := rng.IntN(3)
	for k := 0; k <= last; k++ {
		data := make([]byte, 1+rng.IntN(100))
		if cl.w.large && k == last && rng.IntN(2) == 0 {
			data = make([]byte, 1+rng.IntN(5000))
		}
		for j := range data {
			data[j] = byte(o.num*29 + i*5 + k + j*(o.num+1))
		}
		e := wire.Extent{Offset: at, Size: int64(len(data)), Sum: wire.Sum(data)}
		if k == last && rng.IntN(100) < cl.w.stageShare {
			o.staged[i] = data
		} else {
			o.payload = append(slices.Clip(o.payload), data...)
		}
		m.Extents = append(m.Extents, e)
		at += e.Size + int64(rng.IntN(2)*rng.IntN(50))
	}
}

// skew is where in a block a mutation's staged bytes will begin; of an append
// it is a guess.
func (o *op) skew(mut int) int64 {
	m := &o.muts[mut]
	switch m.Write {
	case wire.WriteExtents:
		return m.Extents[len(m.Extents)-1].Offset % wire.BlockSize
	case wire.WriteAppend:
		return int64(o.num*7) % 64
	default:
		return 0
	}
}

// ctime is a time that a client gives its change of a number, or 0: before, about
// and after the transaction's.
func (cl *client) ctime(n int) int64 {
	if n%3 > 0 {
		return 0
	}
	return cl.w.wall() + int64(n/3%7-3)*(wire.MaxCtimeOff/2)
}
