package vote

import (
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
	reserved map[wire.ID]int64
	rows     int // of the last reservation
	full     bool
	broken   error // of every look
}

func newFakeView() *fakeView {
	return &fakeView{inodes: map[wire.Ino]Inode{}, entries: map[Entry]wire.Ino{}, ops: map[wire.OpID]wire.Outcome{},
		stages: map[wire.ID]wire.Content{}, packs: map[wire.ID][]byte{}, data: map[wire.Ino][]byte{},
		xattrs: map[wire.Ino]map[string]string{}, holders: map[wire.Ino]wire.SessionID{}, reserved: map[wire.ID]int64{}}
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

func (v *fakeView) Tail(ino wire.Ino, size int64) (*Tail, error) {
	data := v.data[ino]
	if int64(len(data)) > size {
		data = data[:size]
	}
	return inlineTail(data), v.broken
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

func (v *fakeView) Reserve(id wire.ID, rows int, bytes int64, deletes bool) error {
	if v.full && !deletes {
		return &wire.Error{Code: wire.CodeNoSpace, Text: "full"}
	}
	v.reserved[id], v.rows = bytes, rows
	return nil
}

func (v *fakeView) Release(id wire.ID) { delete(v.reserved, id) }

// give carries out what a step asks for.
func (v *fakeView) give(r *Ready) {
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
		if b.Content.Stage == 0 {
			v.data[b.Ino], payload = payload[:b.Content.Size], payload[b.Content.Size:]
		} else {
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
			data := make([]byte, b.Size)
			copy(data, v.data[b.Ino])
			v.data[b.Ino] = data
		}
	default:
		v.applyNew(t, b)
	}
	return payload
}
