package vote

import (
	"bytes"
	"fmt"

	"tpcfs/wire"
)

// fakeView is a store in a few maps: the decided state.
type fakeView struct {
	inodes   map[wire.Ino]Inode
	entries  map[Entry]wire.Ino
	ops      map[wire.OpID]wire.Outcome
	stages   map[wire.ID]wire.Content
	packs    map[wire.ID][]byte
	data     map[wire.Ino][]byte
	xattrs   map[wire.Ino]map[string]string
	holders  map[wire.Ino]wire.SessionID // of inodes without a name
	skews    map[wire.ID]int64
	rotten   map[wire.Ino]bool
	reserved map[wire.ID]int64
	rows     int // of the last reservation
	full     bool
	broken   error // of every look
}

func newFakeView() *fakeView {
	return &fakeView{inodes: map[wire.Ino]Inode{}, entries: map[Entry]wire.Ino{}, ops: map[wire.OpID]wire.Outcome{},
		stages: map[wire.ID]wire.Content{}, packs: map[wire.ID][]byte{}, data: map[wire.Ino][]byte{},
		xattrs: map[wire.Ino]map[string]string{}, holders: map[wire.Ino]wire.SessionID{}, reserved: map[wire.ID]int64{}, skews: map[wire.ID]int64{}, rotten: map[wire.Ino]bool{}}
}

func (v *fakeView) Inode(ino wire.Ino) (Inode, error) {
	if v.broken != nil {
		return Inode{}, v.broken
	}
	if n, ok := v.inodes[ino]; ok {
		return n, nil
	}
	return Inode{}, wire.NewError(wire.CodeNotExist, "")
}

func (v *fakeView) Lookup(dir wire.Ino, name string) (wire.Ino, error) {
	if v.broken != nil {
		return 0, v.broken
	}
	if ino, ok := v.entries[Entry{dir, name}]; ok {
		return ino, nil
	}
	return 0, wire.NewError(wire.CodeNotExist, "")
}

func (v *fakeView) Op(op wire.OpID) (wire.Outcome, bool, error) {
	o, ok := v.ops[op]
	return o, ok, v.broken
}

func (v *fakeView) Staged(id wire.ID) (int64, uint32, bool) {
	c, ok := v.stages[id]
	return c.Size, c.Sum, ok
}

func (v *fakeView) Pack(p *wire.Pack) ([]wire.Mutation, []byte, error) {
	b, ok := v.packs[p.Stage]
	if !ok {
		return nil, nil, wire.NewError(wire.CodeStageLost, "")
	}
	return wire.DecodePack(b)
}

// stagedBytes is what a staged object holds.
func (v *fakeView) stagedBytes(id wire.ID, size int64) []byte {
	return bytes.Repeat([]byte{byte(id) | 1}, int(size))
}

func (v *fakeView) Xattr(ino wire.Ino, name string) (bool, error) {
	_, ok := v.xattrs[ino][name]
	return ok, v.broken
}

func (v *fakeView) Xattrs(ino wire.Ino) (count, bytes int, err error) {
	for name := range v.xattrs[ino] {
		count++
		bytes += len(name) + 1
	}
	return count, bytes, v.broken
}

func (v *fakeView) Skew(id wire.ID) int64 { return v.skews[id] }

func (v *fakeView) ReadStaged(id wire.ID, p []byte, offset int64) (bool, error) {
	copy(p, v.stagedBytes(id, offset+int64(len(p)))[offset:])
	return true, v.broken
}

func (v *fakeView) Block(ino wire.Ino, block int64, into []byte) (int, bool, error) {
	data := v.data[ino]
	start := min(int64(len(data)), block*wire.BlockSize)
	return copy(into, data[start:min(int64(len(data)), start+wire.BlockSize)]), v.rotten[ino], v.broken
}

func (v *fakeView) Room(ino wire.Ino, from, to int64) (int64, error) { return to - from, v.broken }

func (v *fakeView) Preserve(wire.Ino, wire.ID, int64) error { return v.broken }

func (v *fakeView) Reserve(id wire.ID, rows int, bytes, room int64, deletes bool) error {
	if v.full && !deletes {
		return &wire.Error{Code: wire.CodeNoSpace, Text: "full"}
	}
	v.reserved[id], v.rows = bytes, rows
	return nil
}

func (v *fakeView) Release(id wire.ID) { delete(v.reserved, id) }

// give carries out what a step asks for.
func (v *fakeView) give(r *Ready) {
	for _, tx := range r.Discard {
		v.give(&Ready{Abort: tx})
	}
	switch {
	case r.Bootstrap != nil:
		v.inodes[wire.RootIno] = Inode{Attr: wire.Attr{Ino: wire.RootIno, Mode: wire.ModeDir | r.Bootstrap.Mode, Nlink: 2, Parent: wire.RootIno}}
	case r.Commit != nil:
		v.apply(r.Commit)
	case r.Abort != nil:
		for _, id := range r.Abort.Stages() {
			delete(v.stages, id)
		}
		v.Release(r.Abort.ID)
	}
}

func (v *fakeView) apply(t *Tx) {
	v.Release(t.ID)
	v.ops[t.Op] = t.Outcome
	payload := t.Payload
	for i := range t.Bounds {
		payload = v.applyBound(t, &t.Bounds[i], payload)
	}
}

func (v *fakeView) edit(ino wire.Ino, fn func(a *wire.Attr)) {
	n, ok := v.inodes[ino]
	if !ok {
		panic(fmt.Sprintf("apply to inode %d, which is not there", ino))
	}
	fn(&n.Attr)
	v.inodes[ino] = n
}

func (v *fakeView) enter(dir wire.Ino, name string, ino wire.Ino) {
	if _, ok := v.entries[Entry{dir, name}]; ok {
		panic(fmt.Sprintf("entry %q of %d is taken", name, dir))
	}
	v.entries[Entry{dir, name}] = ino
	isDir := v.inodes[ino].Attr.Mode&wire.ModeType == wire.ModeDir
	v.edit(dir, func(a *wire.Attr) {
		a.Size++
		if isDir {
			a.Nlink++
		}
	})
	if isDir {
		v.edit(ino, func(a *wire.Attr) { a.Parent = dir })
	}
}

func (v *fakeView) leave(dir wire.Ino, name string, ino wire.Ino) {
	if v.entries[Entry{dir, name}] != ino {
		panic(fmt.Sprintf("entry %q of %d is %d, not %d", name, dir, v.entries[Entry{dir, name}], ino))
	}
	delete(v.entries, Entry{dir, name})
	isDir := v.inodes[ino].Attr.Mode&wire.ModeType == wire.ModeDir
	v.edit(dir, func(a *wire.Attr) {
		a.Size--
		if isDir {
			a.Nlink--
		}
	})
}

// drop takes a name from a file; holder: who keeps it when that was the last one.
func (v *fakeView) drop(b *Bound, ino wire.Ino, holder wire.SessionID) {
	n := v.inodes[ino]
	if n.Attr.Mode&wire.ModeType == wire.ModeDir && n.Attr.Size != 0 {
		panic(fmt.Sprintf("directory %d goes with %d entries", ino, n.Attr.Size))
	}
	if (n.Attr.Nlink > 1 || b.Hold) && n.Attr.Mode&wire.ModeType != wire.ModeDir {
		v.edit(ino, func(a *wire.Attr) { a.Nlink-- })
		if n.Attr.Nlink == 1 {
			v.holders[ino] = holder
		}
		return
	}
	v.forget(b, ino)
}

func (v *fakeView) forget(b *Bound, ino wire.Ino) {
	if b.Xattrs != len(v.xattrs[ino]) {
		panic(fmt.Sprintf("inode %d goes with %d attributes, not %d", ino, len(v.xattrs[ino]), b.Xattrs))
	}
	delete(v.inodes, ino)
	delete(v.data, ino)
	delete(v.xattrs, ino)
	delete(v.holders, ino)
}

// exchange lets two names change places.
func (v *fakeView) exchange(b *Bound) {
	v.leave(b.Dir, b.Name, b.Ino)
	v.leave(b.ToDir, b.ToName, b.Replaced)
	v.enter(b.Dir, b.Name, b.Replaced)
	v.enter(b.ToDir, b.ToName, b.Ino)
}

func (v *fakeView) applyNew(t *Tx, b *Bound) {
	switch b.Kind {
	case wire.MutLink:
		v.edit(b.Ino, func(a *wire.Attr) {
			if b.Orphan != (a.Nlink == 0) {
				panic(fmt.Sprintf("link of inode %d with %d names, orphan %t", b.Ino, a.Nlink, b.Orphan))
			}
			a.Nlink++
		})
		n := v.inodes[b.Ino]
		n.Linkable = false
		v.inodes[b.Ino] = n
		delete(v.holders, b.Ino)
		v.enter(b.Dir, b.Name, b.Ino)
	case wire.MutMknod:
		v.inodes[b.Ino] = Inode{Attr: wire.Attr{Ino: b.Ino, Mode: b.Mode, Rdev: b.Rdev, Nlink: 1, UID: b.UID, GID: b.GID, Version: t.ID}}
		v.enter(b.Dir, b.Name, b.Ino)
	case wire.MutCreateUnlinked:
		v.inodes[b.Ino] = Inode{Linkable: true, Attr: wire.Attr{Ino: b.Ino, Mode: wire.ModeRegular | b.Mode, UID: b.UID, GID: b.GID, Version: t.ID}}
		v.holders[b.Ino] = t.Op.Session
	case wire.MutSetxattr:
		if v.xattrs[b.Ino] == nil {
			v.xattrs[b.Ino] = map[string]string{}
		}
		v.xattrs[b.Ino][b.Xattr] = string(b.Value)
	case wire.MutRemovexattr:
		delete(v.xattrs[b.Ino], b.Xattr)
	case wire.MutReclaim:
		if b.Orphan {
			v.forget(b, b.Ino)
		}
	default:
		panic(fmt.Sprintf("apply of kind %d", b.Kind))
	}
}

func (v *fakeView) applyBound(t *Tx, b *Bound, payload []byte) []byte {
	switch b.Kind {
	case wire.MutWriteFile:
		if b.Created {
			v.inodes[b.Ino] = Inode{Attr: wire.Attr{Ino: b.Ino, Mode: wire.ModeRegular | b.Mode, Nlink: 1, UID: b.UID, GID: b.GID}}
			v.enter(b.Dir, b.Name, b.Ino)
		}
		if b.Write != wire.WriteWhole {
			return v.applyExtents(t, b, payload)
		}
		if b.Content.Stage == 0 {
			v.data[b.Ino], payload = payload[:b.Content.Size], payload[b.Content.Size:]
		} else {
			v.data[b.Ino] = v.stagedBytes(b.Content.Stage, b.Content.Size)
			delete(v.stages, b.Content.Stage)
		}
		v.edit(b.Ino, func(a *wire.Attr) { a.Size, a.Version = b.Content.Size, t.ID })
	case wire.MutMkdir:
		v.inodes[b.Ino] = Inode{Attr: wire.Attr{Ino: b.Ino, Mode: wire.ModeDir | b.Mode, Nlink: 2, UID: b.UID, GID: b.GID, Version: t.ID}}
		v.enter(b.Dir, b.Name, b.Ino)
	case wire.MutSymlink:
		v.inodes[b.Ino] = Inode{Target: b.Target, Attr: wire.Attr{Ino: b.Ino, Mode: wire.ModeSymlink | b.Mode, Nlink: 1, Size: int64(len(b.Target)), Version: t.ID}}
		v.enter(b.Dir, b.Name, b.Ino)
	case wire.MutDeleteFile, wire.MutRmdir:
		v.leave(b.Dir, b.Name, b.Ino)
		v.drop(b, b.Ino, t.Op.Session)
	case wire.MutRename:
		if b.Replaced == b.Ino {
			break
		}
		if b.Exchange {
			v.exchange(b)
			break
		}
		if b.Replaced != 0 {
			v.leave(b.ToDir, b.ToName, b.Replaced)
			v.drop(b, b.Replaced, t.Op.Session)
		}
		v.leave(b.Dir, b.Name, b.Ino)
		v.enter(b.ToDir, b.ToName, b.Ino)
	case wire.MutSetattr:
		v.edit(b.Ino, func(a *wire.Attr) {
			if b.Set&wire.SetMode != 0 {
				a.Mode = a.Mode&wire.ModeType | b.Mode
			}
			if b.Set&wire.SetGID != 0 {
				a.GID = b.GID
			}
			if b.Set&wire.SetSize != 0 {
				a.Size, a.Version = b.Size, t.ID
			}
		})
		if b.Set&wire.SetSize != 0 {
			v.resize(t, b.Ino, b.Size)
			if b.Tail != nil {
				v.checkSums(&Bound{Ino: b.Ino, Sums: []BlockSum{{Block: b.Size / wire.BlockSize, Sum: b.Tail.Sum, Bad: b.Tail.Bad}}})
			}
		}
	case wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		v.resize(t, b.Ino, b.Size)
		if b.Kind != wire.MutAllocate {
			clear(v.data[b.Ino][b.Offset : b.Offset+b.Length])
		}
		v.checkSums(b)
	default:
		v.applyNew(t, b)
	}
	return payload
}

func (v *fakeView) resize(t *Tx, ino wire.Ino, size int64) {
	data := make([]byte, size)
	copy(data, v.data[ino])
	v.data[ino] = data
	v.edit(ino, func(a *wire.Attr) { a.Size, a.Version = size, t.ID })
}

func (v *fakeView) applyExtents(t *Tx, b *Bound, payload []byte) []byte {
	if b.Set&wire.SetSize != 0 {
		v.resize(t, b.Ino, b.Size)
	}
	for i := range b.Extents {
		e := &b.Extents[i]
		if end := e.Offset + e.Size; end > int64(len(v.data[b.Ino])) {
			v.resize(t, b.Ino, end)
		}
		data := v.stagedBytes(e.Stage, e.Size)
		if e.Stage == 0 {
			data, payload = payload[:e.Size], payload[e.Size:]
		}
		delete(v.stages, e.Stage)
		v.data[b.Ino] = bytes.Clone(v.data[b.Ino])
		copy(v.data[b.Ino][e.Offset:], data)
		v.edit(b.Ino, func(a *wire.Attr) { a.Version = t.ID })
	}
	v.checkSums(b)
	return payload
}

// checkSums compares a bound's checksums with the bytes.
func (v *fakeView) checkSums(b *Bound) {
	for _, s := range b.Sums {
		block := make([]byte, wire.BlockSize)
		data := v.data[b.Ino]
		copy(block, data[min(int64(len(data)), s.Block*wire.BlockSize):])
		if !s.Bad && wire.Sum(block) != s.Sum {
			panic(fmt.Sprintf("block %d of inode %d sums to %08x, its bound says %08x", s.Block, b.Ino, wire.Sum(block), s.Sum))
		}
	}
}
