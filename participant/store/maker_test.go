package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// txMaker makes random transactions that are valid for a tree, and puts them
// into the tree.
type txMaker struct {
	src  *rand.PCG // rng's
	rng  *rand.Rand
	tree *memTree
	next uint64 // counter of ids
	seq  map[wire.SessionID]uint64
	now  int64
	svc  int64
}

func newTxMaker(seed uint64, tree *memTree) *txMaker {
	src := rand.NewPCG(seed, 7)
	return &txMaker{src: src, rng: rand.New(src), tree: tree, next: 2, seq: map[wire.SessionID]uint64{}, now: 1000, svc: 1}
}

// fork returns a maker that goes on as this one would; its tree is to be set.
func (k *txMaker) fork() *txMaker {
	c, src := *k, *k.src
	c.src, c.rng = &src, rand.New(&src)
	c.seq = maps.Clone(k.seq)
	c.tree = &memTree{skews: maps.Clone(k.tree.skews)}
	return &c
}

func (k *txMaker) id(n int) wire.ID {
	id := wire.MakeID(1, k.next)
	k.next += uint64(max(1, n))
	return id
}

func (k *txMaker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 97 {
		b[i] = byte(k.rng.Uint32())
	}
	if n > 0 {
		b[n-1] = byte(n)
	}
	return b
}

// inos returns the inodes of a type, in order.
func (k *txMaker) inos(mode uint32) []wire.Ino {
	var inos []wire.Ino
	for ino, f := range k.tree.files {
		if f.attr.Mode&wire.ModeType == mode {
			inos = append(inos, ino)
		}
	}
	slices.Sort(inos)
	return inos
}

func pick[T any](rng *rand.Rand, of []T) (v T, ok bool) {
	if len(of) == 0 {
		return v, false
	}
	return of[rng.IntN(len(of))], true
}

// name picks an entry, or a free name.
func (k *txMaker) name(free bool) (dir wire.Ino, name string, ino wire.Ino, ok bool) {
	for range 20 {
		dir, _ := pick(k.rng, k.inos(wire.ModeDir))
		name := fmt.Sprintf("n%d", k.rng.IntN(6))
		ino := k.tree.files[dir].names[name]
		if free == (ino == 0) {
			return dir, name, ino, true
		}
	}
	return 0, "", 0, false
}

type stageFunc func(id wire.ID, skew int64, data []byte) (wire.StageReply, bool)

// make returns a transaction of up to n mutations, already entered in the tree.
// stage brings contents to the store, and returns 0 if it cannot.
func (k *txMaker) make(n int, stage stageFunc) (*vote.Tx, [][]byte) {
	n = 1 + k.rng.IntN(n)
	tx := &vote.Tx{ID: k.id(n), Time: k.now + int64(k.rng.IntN(5)) - 2, ServiceTime: k.svc}
	k.now += int64(k.rng.IntN(3))
	k.svc += int64(k.rng.IntN(2)) * int64(k.rng.IntN(200_000))
	session := wire.SessionID{byte(k.rng.IntN(3))}
	k.seq[session]++
	tx.Op = wire.OpID{Session: session, Seq: k.seq[session]}
	tx.Lowest = tx.Op.Seq - min(tx.Op.Seq, uint64(k.rng.IntN(3)))
	tx.Outcome = wire.Outcome{Tx: tx.ID}
	var contents [][]byte
	for len(tx.Bounds) < n {
		d, data, ok := k.mutation(tx, stage)
		if !ok {
			break
		}
		if d.Created {
			d.Ctime = 0
		}
		k.tree.bound(tx, &d, data)
		d.Sums = k.sums(&d)
		tx.Bounds, contents = append(tx.Bounds, d), append(contents, data)
	}
	saved := tx.Bounds
	tx.Bounds = nil
	k.tree.apply(tx, nil) // the operation's row
	tx.Bounds = saved
	return tx, contents
}

var sizes = []int{0, 1, 100, 8192, 8193, 20_000, 65_536, 65_537, 131_072, 200_000}

func (k *txMaker) mutation(tx *vote.Tx, stage stageFunc) (d vote.Bound, data []byte, ok bool) {
	d = vote.Bound{Ino: wire.Ino(tx.ID) + wire.Ino(len(tx.Bounds)), Mode: uint32(k.rng.IntN(0o1000)), UID: uint32(k.rng.IntN(3)), GID: 4}
	if i := int(d.Ino % 14); i < 7 { // before, about, and long after the transaction's time
		d.Ctime = k.now + []int64{-wire.MaxCtimeOff - 5, -20, 0, 2, 20, wire.MaxCtimeOff, wire.MaxCtimeOff + 5}[i]
	}
	switch k.rng.IntN(18) {
	case 9, 10, 11:
		ok = k.meta(&d)
	case 12, 13, 14, 15:
		data, ok = k.parts(tx, &d, stage)
	case 16, 17:
		ok = k.rangeOf(&d)
	case 0, 1, 2:
		d.Kind, d.Created = wire.MutWriteFile, true
		d.Dir, d.Name, _, ok = k.name(true)
		if ok {
			data, ok = k.content(tx, &d, stage)
		}
	case 3:
		d.Kind = wire.MutWriteFile
		if d.Ino, ok = pick(k.rng, k.inos(wire.ModeRegular)); ok {
			data, ok = k.content(tx, &d, stage)
		}
	case 4:
		d.Dir, d.Name, d.Ino, ok = k.name(false)
		d.Kind = wire.MutDeleteFile
		if ok {
			k.leaves(&d, k.tree.files[d.Ino])
		}
		if ok && k.tree.files[d.Ino].names != nil {
			d.Kind, ok = wire.MutRmdir, len(k.tree.files[d.Ino].names) == 0
		}
	case 5:
		d.Kind = wire.MutMkdir
		d.Dir, d.Name, _, ok = k.name(true)
	case 6:
		d.Kind, d.Target = wire.MutSymlink, "a/../b"
		d.Dir, d.Name, _, ok = k.name(true)
	case 7:
		ok = k.rename(&d)
	case 8:
		ok = k.setattr(&d)
	}
	return d, data, ok
}

// leaves says how a file that loses a name goes.
func (k *txMaker) leaves(d *vote.Bound, f *memFile) {
	d.Hold = f.names == nil && k.rng.IntN(3) == 0
	if f.names != nil || f.attr.Nlink == 1 && !d.Hold {
		d.Xattrs = len(f.xattrs)
	}
}

// meta makes a mutation of names without contents or of attributes.
func (k *txMaker) meta(d *vote.Bound) (ok bool) {
	switch k.rng.IntN(8) {
	case 0, 1:
		d.Kind = wire.MutLink
		if d.Ino, ok = pick(k.rng, append(k.inos(wire.ModeRegular), k.inos(wire.ModeFifo)...)); ok {
			f := k.tree.files[d.Ino]
			d.Orphan = f.attr.Nlink == 0
			if ok = !d.Orphan || f.linkable; ok {
				d.Dir, d.Name, _, ok = k.name(true)
			}
		}
	case 2:
		d.Kind, d.Mode = wire.MutMknod, d.Mode|[]uint32{wire.ModeFifo, wire.ModeChar, wire.ModeRegular}[k.rng.IntN(3)]
		if d.Mode&wire.ModeType == wire.ModeChar {
			d.Rdev = 259
		}
		d.Dir, d.Name, _, ok = k.name(true)
	case 3:
		d.Kind, d.Created, ok = wire.MutCreateUnlinked, true, true
	case 4, 5, 6:
		d.Kind, d.Xattr, d.Value = wire.MutSetxattr, fmt.Sprintf("user.%d", k.rng.IntN(3)), k.bytes(k.rng.IntN(300))
		if d.Ino, ok = pick(k.rng, append(k.inos(wire.ModeRegular), k.inos(wire.ModeDir)...)); !ok {
			return false
		}
		if _, has := k.tree.files[d.Ino].xattrs[d.Xattr]; has && k.rng.IntN(2) == 0 {
			d.Kind, d.Value = wire.MutRemovexattr, nil
		}
	default:
		d.Kind = wire.MutReclaim
		if d.Ino, ok = pick(k.rng, k.inos(wire.ModeRegular)); ok {
			if f := k.tree.files[d.Ino]; f.attr.Nlink == 0 {
				d.Orphan, d.Xattrs = true, len(f.xattrs)
			}
		}
	}
	return ok
}

func (k *txMaker) content(tx *vote.Tx, d *vote.Bound, stage stageFunc) ([]byte, bool) {
	size, _ := pick(k.rng, sizes)
	data := k.bytes(size)
	if len(tx.Payload)+size <= wire.MaxInline && k.rng.IntN(4) > 0 {
		tx.Payload = append(tx.Payload, data...)
		d.Content = wire.Content{Size: int64(size), Sum: wire.Sum(data)}
		return data, true
	}
	reply, ok := stage(k.id(1), 0, data)
	if !ok {
		return nil, false
	}
	d.Content = wire.Content{Size: reply.Size, Stage: reply.ID, Sum: reply.Sum}
	return data, true
}

func (k *txMaker) rename(d *vote.Bound) bool {
	d.Kind = wire.MutRename
	var ok bool
	if d.Dir, d.Name, d.Ino, ok = k.name(false); !ok {
		return false
	}
	d.ToDir, d.ToName, d.Replaced, ok = k.name(k.rng.IntN(2) == 0)
	d.IsDir = k.tree.files[d.Ino].names != nil
	if !ok {
		return false
	}
	if d.Replaced != 0 && k.rng.IntN(3) == 0 {
		return k.exchange(d)
	}
	if d.Replaced != 0 && d.Replaced != d.Ino {
		k.leaves(d, k.tree.files[d.Replaced])
		old := k.tree.files[d.Replaced]
		if (old.names != nil) != d.IsDir || len(old.names) > 0 {
			return false
		}
	}
	return !d.IsDir || !k.under(d.ToDir, d.Ino)
}

// under: is dir the directory top, or below it?
func (k *txMaker) under(dir, top wire.Ino) bool {
	for ; dir != top; dir = k.tree.files[dir].attr.Parent {
		if dir == wire.RootIno {
			return false
		}
	}
	return true
}

func (k *txMaker) exchange(d *vote.Bound) bool {
	d.Exchange = true
	to := k.tree.files[d.Replaced].names != nil
	ok := (!d.IsDir || !k.under(d.ToDir, d.Ino)) && (!to || !k.under(d.Dir, d.Replaced))
	d.IsDir = d.IsDir || to
	return ok
}

func (k *txMaker) setattr(d *vote.Bound) bool {
	d.Kind = wire.MutSetattr
	var ok bool
	if d.Ino, ok = pick(k.rng, k.inos(wire.ModeRegular)); !ok || k.now%5 == 0 {
		d.Ino, _ = pick(k.rng, k.inos(wire.ModeDir))
		d.Set, d.Mtime = wire.SetMtime, int64(k.rng.IntN(2000))
		return true
	}
	d.Set = wire.SetMask(k.rng.IntN(1<<8)) &^ wire.SetAtime
	d.Mtime = int64(k.rng.IntN(2000))
	d.Set &^= wire.SetMtimeNow
	if d.Set&wire.SetSize == 0 {
		return true
	}
	f := k.tree.files[d.Ino]
	size, _ := pick(k.rng, sizes)
	if k.rng.IntN(2) == 0 && f.attr.Size > 0 {
		size = k.rng.IntN(int(f.attr.Size))
	}
	d.Size = int64(size)
	if d.Size < f.valid && size%wire.BlockSize != 0 {
		d.Tail = &vote.Tail{Sum: padSum(f.data[size/wire.BlockSize*wire.BlockSize : size])}
	}
	return true
}

// edges are offsets at which something may go wrong.
var edges = []int{0, 1, 4096, 8191, 8192, 65_535, 65_536, 65_537, 100_000, 131_072, 196_608}

func (k *txMaker) edge() int64 {
	at, _ := pick(k.rng, edges)
	if k.rng.IntN(2) == 0 {
		at = k.rng.IntN(200_000)
	}
	return int64(at)
}

// parts makes up a writeFile of extents, or an append, of a file old or new.
func (k *txMaker) parts(tx *vote.Tx, d *vote.Bound, stage stageFunc) (data []byte, ok bool) {
	d.Kind, d.Write = wire.MutWriteFile, wire.WriteExtents
	size := int64(0)
	if k.rng.IntN(4) == 0 {
		d.Created = true
		if d.Dir, d.Name, _, ok = k.name(true); !ok {
			return nil, false
		}
	} else {
		if d.Ino, ok = pick(k.rng, k.inos(wire.ModeRegular)); !ok {
			return nil, false
		}
		size = k.tree.files[d.Ino].attr.Size
	}
	if k.rng.IntN(4) == 0 {
		d.Set, d.Size = wire.SetSize, k.edge()
	}
	at := k.edge()
	if k.rng.IntN(3) == 0 {
		d.Write, d.Set, d.Size, at = wire.WriteAppend, 0, 0, size
	}
	for n := k.rng.IntN(3); n >= 0; n-- {
		length, _ := pick(k.rng, []int{1, 10, 5000, 8192, 30_000, 65_536, 70_000, 140_000})
		part := k.bytes(length)
		x := wire.Extent{Offset: at, Size: int64(length), Sum: wire.Sum(part)}
		if len(tx.Payload)+length <= wire.MaxInline && k.rng.IntN(3) > 0 {
			tx.Payload = append(tx.Payload, part...)
		} else {
			skew := at % wire.BlockSize
			if k.rng.IntN(3) == 0 {
				skew = k.edge() % wire.BlockSize
			}
			reply, ok := stage(k.id(1), skew, part)
			if !ok {
				return nil, false
			}
			x.Stage, x.Sum = reply.ID, reply.Sum
			k.tree.skews[reply.ID] = skew
		}
		d.Extents, data = append(d.Extents, x), append(data, part...)
		at += x.Size + []int64{0, 1, 4096, 65_536}[k.rng.IntN(4)]
	}
	return data, true
}

func (k *txMaker) rangeOf(d *vote.Bound) (ok bool) {
	d.Kind = []wire.MutationKind{wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange}[k.rng.IntN(3)]
	if d.Ino, ok = pick(k.rng, k.inos(wire.ModeRegular)); !ok {
		return false
	}
	d.Size = k.tree.files[d.Ino].attr.Size
	d.Offset = k.edge()
	end := d.Offset + 1 + k.edge()
	if d.Kind == wire.MutPunchHole || k.rng.IntN(2) == 0 {
		end = min(end, d.Size)
	}
	d.Offset = min(d.Offset, end)
	d.Length, d.Size = end-d.Offset, max(d.Size, end)
	return true
}

// sums is what a PREPARE would say of blocks that are written in part.
func (k *txMaker) sums(d *vote.Bound) (list []vote.BlockSum) {
	f := k.tree.files[d.Ino]
	blocks := map[int64]bool{}
	note := func(from, to int64, all bool) {
		for b := from / wire.BlockSize; b*wire.BlockSize < to; b++ {
			if all || !vote.WholeBlock(b, from, to, f.attr.Size) {
				blocks[b] = true
			}
		}
	}
	for _, x := range d.Extents {
		note(x.Offset, x.Offset+x.Size, x.Stage != 0 && k.tree.skews[x.Stage] != x.Offset%wire.BlockSize)
	}
	if d.Kind == wire.MutWriteFile && d.Set&wire.SetSize != 0 && d.Size < f.attr.Size+1 {
		blocks[d.Size/wire.BlockSize] = true
	}
	if d.Length > 0 && d.Kind != wire.MutAllocate {
		note(d.Offset, d.Offset+d.Length, false)
	}
	for _, b := range slices.Sorted(maps.Keys(blocks)) {
		part := f.data[min(f.attr.Size, b*wire.BlockSize):min(f.attr.Size, (b+1)*wire.BlockSize)]
		list = append(list, vote.BlockSum{Block: b, Sum: padSum(part)})
	}
	return list
}
