package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// memFile is a file of the plain model that the store is compared with.
type memFile struct {
	attr   wire.Attr
	data   []byte // of a regular file
	valid  int64  // as in the store: for Blocks
	object bool
	blocks map[int64]bool // of an object, that hold data
	target string
	later  bool                // a setattr has set the mtime to a time to come
	names  map[string]wire.Ino // of a directory
	xattrs map[string]string
	holder wire.SessionID // of a file without a name
	// linkable: it never had a name.
	linkable bool
}

type memOp struct {
	time    int64
	outcome wire.Outcome
}

// memTree is what a participant holds, in plain maps.
type memTree struct {
	files map[wire.Ino]*memFile
	ops   map[wire.OpID]memOp
	skews map[wire.ID]int64 // of stages; shared by copies
	// doubtful files' bytes are ahead of their rows: transactions in doubt,
	// which are committed elsewhere, have written them before a crash, or have
	// kept a checkpoint from copying what they drop.
	doubtful map[wire.Ino]bool
}

// change is touch at d.Ctime, if it has one.
func (t *memTree) change(f *memFile, tx *vote.Tx, d *vote.Bound, contents bool) {
	time := tx.Time
	if d.Ctime != 0 {
		time = d.Ctime
	}
	t.touch(f, time, contents)
}

func newMemTree(root wire.Root) *memTree {
	return &memTree{
		ops:   map[wire.OpID]memOp{},
		skews: map[wire.ID]int64{},
		files: map[wire.Ino]*memFile{wire.RootIno: {
			attr: wire.Attr{Ino: 1, Mode: wire.ModeDir | root.Mode, Nlink: 2, UID: root.UID, GID: root.GID,
				Atime: root.Time, Mtime: root.Time, Ctime: root.Time, Parent: 1},
			names: map[string]wire.Ino{},
		}},
	}
}

func (t *memTree) touch(f *memFile, time int64, contents bool) {
	f.attr.Ctime = max(f.attr.Ctime, time)
	if contents && (f.later || f.attr.Mtime < time) {
		f.attr.Mtime, f.later = time, false
	}
}

func (t *memTree) enter(dir wire.Ino, name string, ino wire.Ino, time int64) {
	d := t.files[dir]
	d.names[name] = ino
	d.attr.Size++
	if t.files[ino].names != nil {
		d.attr.Nlink++
		t.files[ino].attr.Parent = dir
	}
	t.touch(d, time, true)
}

func (t *memTree) leave(dir wire.Ino, name string, time int64) *memFile {
	d := t.files[dir]
	f := t.files[d.names[name]]
	delete(d.names, name)
	d.attr.Size--
	if f.names != nil {
		d.attr.Nlink--
	}
	t.touch(d, time, true)
	return f
}

func (t *memTree) create(tx *vote.Tx, d *vote.Bound, mode uint32) *memFile {
	f := &memFile{attr: wire.Attr{Ino: d.Ino, Mode: mode, Nlink: 1, UID: d.UID, GID: d.GID,
		Atime: tx.Time, Mtime: tx.Time, Ctime: tx.Time, Version: tx.ID}}
	t.files[d.Ino] = f
	return f
}

func (t *memTree) write(f *memFile, data []byte, staged bool) {
	f.data, f.valid = bytes.Clone(data), int64(len(data))
	f.attr.Size = int64(len(data))
	f.object, f.blocks = len(data) > 0 && (staged || len(data) > 8192), map[int64]bool{}
	f.fill(0, f.valid)
}

// fill makes data of an object's blocks that [from, to) touches.
func (f *memFile) fill(from, to int64) {
	if f.blocks = maps.Clone(f.blocks); f.blocks == nil {
		f.blocks = map[int64]bool{}
	}
	for b := from / wire.BlockSize; f.object && b*wire.BlockSize < to; b++ {
		f.blocks[b] = true
	}
}

func (f *memFile) resize(size int64) {
	data := make([]byte, size)
	copy(data, f.data)
	f.data, f.attr.Size = data, size
	f.valid = min(f.valid, size)
	f.object = f.object && size > 0
	f.blocks = maps.Clone(f.blocks)
	maps.DeleteFunc(f.blocks, func(b int64, _ bool) bool { return b >= blocksOf(size) })
}

// reach is what a change in place up to end makes of the file's form.
func (f *memFile) reach(end int64, object bool) {
	if !f.object && (object || max(f.valid, end) > 8192) {
		f.object = true
		f.fill(0, f.valid)
	}
	f.valid = max(f.valid, end)
}

func (t *memTree) extents(f *memFile, d *vote.Bound, data []byte) {
	if d.Set&wire.SetSize != 0 {
		f.resize(d.Size)
	}
	if len(d.Extents) == 0 {
		return
	}
	x, staged, end := &d.Extents[0], false, int64(0)
	for i := range d.Extents {
		staged = staged || d.Extents[i].Stage != 0
		end = d.Extents[i].Offset + d.Extents[i].Size
	}
	if end > f.attr.Size {
		valid := f.valid
		f.resize(end)
		f.valid = valid
	}
	if len(d.Extents) == 1 && staged && x.Offset == 0 && end >= f.valid && t.skews[x.Stage] == 0 {
		f.object, f.blocks, f.valid = true, nil, end
	} else {
		f.reach(end, staged)
	}
	f.data = bytes.Clone(f.data)
	for _, x := range d.Extents {
		f.fill(x.Offset, x.Offset+x.Size)
		copy(f.data[x.Offset:x.Offset+x.Size], data)
		data = data[x.Size:]
	}
}

func (t *memTree) changeRange(f *memFile, d *vote.Bound) {
	if d.Size > f.attr.Size {
		valid := f.valid
		f.resize(d.Size)
		f.valid = valid
	}
	from, to := d.Offset, d.Offset+d.Length
	if d.Length == 0 {
		return
	}
	if d.Kind != wire.MutAllocate {
		f.data = bytes.Clone(f.data)
		clear(f.data[from:to])
	}
	if d.Kind != wire.MutPunchHole {
		f.reach(to, false)
		f.fill(from, to)
		return
	}
	f.blocks = maps.Clone(f.blocks)
	maps.DeleteFunc(f.blocks, func(b int64, _ bool) bool {
		return from <= b*wire.BlockSize && (to >= (b+1)*wire.BlockSize || to >= f.attr.Size) && b*wire.BlockSize < to
	})
}

func (t *memTree) apply(tx *vote.Tx, contents [][]byte) {
	for i := range tx.Bounds {
		t.bound(tx, &tx.Bounds[i], contents[i])
	}
	if tx.Op.Seq == 0 {
		return
	}
	maps.DeleteFunc(t.ops, func(op wire.OpID, _ memOp) bool {
		return op.Session == tx.Op.Session && op.Seq < tx.Lowest
	})
	old := slices.SortedFunc(maps.Keys(t.ops), func(a, b wire.OpID) int {
		return strings.Compare(opTimeKey(t.ops[a].time, a), opTimeKey(t.ops[b].time, b))
	})
	for _, op := range old[:min(len(old), maxExpired)] {
		if t.ops[op].time < tx.ServiceTime-20*60*1000 {
			delete(t.ops, op)
		}
	}
	t.ops[tx.Op] = memOp{tx.ServiceTime, tx.Outcome}
}

// lose takes a name from a file, or a directory away.
func (t *memTree) lose(tx *vote.Tx, d *vote.Bound, f *memFile) {
	if f.names != nil || f.attr.Nlink == 1 && !d.Hold {
		delete(t.files, f.attr.Ino)
		return
	}
	f.attr.Nlink--
	f.holder = tx.Op.Session
	t.touch(f, tx.Time, false)
}

// meta does the mutations of names without contents and of attributes.
func (t *memTree) meta(tx *vote.Tx, d *vote.Bound) {
	f := t.files[d.Ino]
	switch d.Kind {
	case wire.MutLink:
		f.attr.Nlink++
		f.linkable = false
		t.touch(f, tx.Time, false)
		t.enter(d.Dir, d.Name, d.Ino, tx.Time)
	case wire.MutMknod:
		f = t.create(tx, d, d.Mode)
		f.attr.Rdev = d.Rdev
		t.enter(d.Dir, d.Name, d.Ino, tx.Time)
	case wire.MutCreateUnlinked:
		f = t.create(tx, d, wire.ModeRegular|d.Mode)
		f.attr.Nlink, f.holder, f.linkable = 0, tx.Op.Session, true
	case wire.MutSetxattr, wire.MutRemovexattr:
		if f.xattrs = maps.Clone(f.xattrs); f.xattrs == nil {
			f.xattrs = map[string]string{}
		}
		if delete(f.xattrs, d.Xattr); d.Kind == wire.MutSetxattr {
			f.xattrs[d.Xattr] = string(d.Value)
		}
		t.touch(f, tx.Time, false)
	case wire.MutReclaim:
		if f.attr.Nlink == 0 {
			delete(t.files, d.Ino)
		}
	default:
		panic("not made here")
	}
}

func (t *memTree) exchange(tx *vote.Tx, d *vote.Bound) {
	f, g := t.leave(d.Dir, d.Name, tx.Time), t.leave(d.ToDir, d.ToName, tx.Time)
	t.enter(d.Dir, d.Name, d.Replaced, tx.Time)
	t.enter(d.ToDir, d.ToName, d.Ino, tx.Time)
	t.touch(f, tx.Time, false)
	t.touch(g, tx.Time, false)
}

func (t *memTree) bound(tx *vote.Tx, d *vote.Bound, data []byte) {
	switch d.Kind {
	case wire.MutWriteFile:
		f := t.files[d.Ino]
		if d.Created {
			f = t.create(tx, d, wire.ModeRegular|d.Mode)
			t.enter(d.Dir, d.Name, d.Ino, tx.Time)
		}
		if d.Write == wire.WriteWhole {
			t.write(f, data, d.Content.Stage != 0)
		} else {
			t.extents(f, d, data)
		}
		f.attr.Version = tx.ID
		t.change(f, tx, d, true)
	case wire.MutDeleteFile, wire.MutRmdir:
		t.lose(tx, d, t.leave(d.Dir, d.Name, tx.Time))
	case wire.MutMkdir:
		f := t.create(tx, d, wire.ModeDir|d.Mode)
		f.names, f.attr.Nlink = map[string]wire.Ino{}, 2
		t.enter(d.Dir, d.Name, d.Ino, tx.Time)
	case wire.MutSymlink:
		f := t.create(tx, d, wire.ModeSymlink|0o777)
		f.target, f.attr.Size = d.Target, int64(len(d.Target))
		t.enter(d.Dir, d.Name, d.Ino, tx.Time)
	case wire.MutRename:
		if d.Replaced == d.Ino {
			return
		}
		if d.Exchange {
			t.exchange(tx, d)
			return
		}
		if d.Replaced != 0 {
			t.lose(tx, d, t.leave(d.ToDir, d.ToName, tx.Time))
		}
		f := t.leave(d.Dir, d.Name, tx.Time)
		t.enter(d.ToDir, d.ToName, d.Ino, tx.Time)
		t.touch(f, tx.Time, false)
	case wire.MutSetattr:
		t.setattr(tx, d)
	case wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		f := t.files[d.Ino]
		t.changeRange(f, d)
		f.attr.Version = tx.ID
		t.touch(f, tx.Time, true)
	default:
		t.meta(tx, d)
	}
}

func (t *memTree) setattr(tx *vote.Tx, d *vote.Bound) {
	f := t.files[d.Ino]
	if d.Set&wire.SetMode != 0 {
		f.attr.Mode = f.attr.Mode&wire.ModeType | d.Mode
	}
	if d.Set&wire.SetUID != 0 {
		f.attr.UID = d.UID
	}
	if d.Set&wire.SetGID != 0 {
		f.attr.GID = d.GID
	}
	if d.Set&wire.SetSize != 0 {
		f.resize(d.Size)
		f.attr.Version = tx.ID
	}
	t.change(f, tx, d, d.Set&wire.SetSize != 0)
	if d.Set&wire.SetAtimeNow != 0 {
		f.attr.Atime = tx.Time
	}
	if d.Set&wire.SetMtime != 0 {
		at := d.Ctime
		if at == 0 {
			at = tx.Time
		}
		f.attr.Mtime, f.later = d.Mtime, d.Mtime > at
	}
}

// attrOf is what stat says.
func (f *memFile) attrOf() wire.Attr {
	a := f.attr
	a.NoXattrs = len(f.xattrs) == 0
	a.Blocks = (f.valid + 511) / 512
	if f.object {
		a.Blocks = min(a.Blocks, int64(len(f.blocks))*wire.BlockSize/512)
	}
	return a
}

// pieces collects what a read gives, and checks it.
type pieces struct {
	data    []byte
	from    int64
	version wire.ID
	begun   bool
	hook    func(p wire.Piece)
}

func (w *pieces) WritePiece(p wire.Piece) error {
	if err := w.check(p, len(w.data)); err != nil {
		return err
	}
	w.data = append(w.data, p.Data...)
	if w.hook != nil {
		w.hook(p)
	}
	return nil
}

// check looks at a piece that follows n bytes.
func (w *pieces) check(p wire.Piece, n int) error {
	if !w.begun {
		w.from, w.version, w.begun = p.Offset, p.Version, true
	}
	switch {
	case p.Offset != w.from+int64(n):
		return fmt.Errorf("a piece at %d after %d bytes from %d", p.Offset, n, w.from)
	case wire.Sum(p.Data) != p.Sum:
		return fmt.Errorf("the sum of the piece at %d is wrong", p.Offset)
	case len(p.Data) == 0 || len(p.Data) > wire.PieceSize:
		return fmt.Errorf("a piece of %d bytes", len(p.Data))
	case p.Version != w.version:
		return fmt.Errorf("version %s, then %s", w.version, p.Version)
	}
	return nil
}

// expected compares the pieces of a file with its contents.
type expected struct {
	pieces
	want []byte
	n    int // bytes that were the same
}

func (w *expected) WritePiece(p wire.Piece) error {
	if err := w.check(p, w.n); err != nil {
		return err
	}
	if w.n+len(p.Data) > len(w.want) || !bytes.Equal(p.Data, w.want[w.n:w.n+len(p.Data)]) {
		return fmt.Errorf("the contents differ in %d bytes from %d of %d", len(p.Data), w.n, len(w.want))
	}
	w.n += len(p.Data)
	return nil
}

// compare returns the first difference between a store and the model.
func (t *memTree) compare(s *Store) error {
	if err := t.compareDir(s, wire.RootIno); err != nil {
		return err
	}
	for op, want := range t.ops {
		got, ok, err := s.Op(op)
		if err != nil || !ok || got.Tx != want.outcome.Tx {
			return fmt.Errorf("op %s: %v %v %v, want %v", op, got, ok, err, want)
		}
	}
	st := s.Stats()
	var size int64
	for _, f := range t.files {
		if f.attr.Mode&wire.ModeType == wire.ModeRegular {
			size += f.attr.Size
		}
	}
	if st.Files != uint64(len(t.files)) || st.Bytes != uint64(size) {
		return fmt.Errorf("stats say %d files with %d bytes, want %d with %d", st.Files, st.Bytes, len(t.files), size)
	}
	if err := t.compareOrphans(s); err != nil {
		return err
	}
	return t.compareCounts(s)
}

// compareOrphans reads the files without a name, page by page, and what they hold.
func (t *memTree) compareOrphans(s *Store) error {
	req := wire.Read{Kind: wire.ReadOrphans, Limit: 2}
	var got []wire.Ino
	for {
		reply, err := s.Read(req, nil)
		if err != nil {
			return err
		}
		for i, e := range reply.Entries {
			f := t.files[e.Attr.Ino]
			if f == nil || f.attr.Nlink != 0 || e.Attr != f.attrOf() || reply.Holders[i] != f.holder {
				return fmt.Errorf("orphan %+v of %s, want %+v", e.Attr, reply.Holders[i], f)
			}
			v, err := s.Inode(e.Attr.Ino)
			if err != nil || v.Linkable != f.linkable {
				return fmt.Errorf("orphan %d: linkable %t, error %v", e.Attr.Ino, v.Linkable, err)
			}
			if err := t.compareFile(s, wire.At{Dir: e.Attr.Ino}, f); err != nil {
				return err
			}
			got = append(got, e.Attr.Ino)
		}
		if !reply.More {
			break
		}
		req.Offset = int64(got[len(got)-1])
	}
	want := 0
	for _, f := range t.files {
		if f.attr.Nlink == 0 {
			want++
		}
	}
	if len(got) != want || !slices.IsSorted(got) {
		return fmt.Errorf("orphans %v, want %d", got, want)
	}
	return nil
}

// compareXattrs reads a file's extended attributes.
func (t *memTree) compareXattrs(s *Store, f *memFile) error {
	at := wire.At{Dir: f.attr.Ino}
	reply, err := s.Read(wire.Read{Kind: wire.ReadListxattr, At: at}, nil)
	if err != nil || !slices.Equal(reply.Names, slices.Sorted(maps.Keys(f.xattrs))) || reply.Attr != f.attrOf() {
		return fmt.Errorf("attributes of %s: %q, want %q, error %v", at, reply.Names, f.xattrs, err)
	}
	for name, want := range f.xattrs {
		reply, err := s.Read(wire.Read{Kind: wire.ReadGetxattr, At: at, Name: name}, nil)
		if err != nil || string(reply.Value) != want {
			return fmt.Errorf("attribute %q of %s: %q, want %q, error %v", name, at, reply.Value, want, err)
		}
	}
	return nil
}

// compareCounts finds rows that nothing needs any more.
func (t *memTree) compareCounts(s *Store) error {
	got := map[byte]int{}
	err := s.look(func(m *moment) error {
		m.renewable = false
		for _, bucket := range []byte{bucketEntry, bucketInode, bucketInline, bucketSum, bucketOp, bucketOpTime, bucketXattr, bucketOrphan} {
			err := m.ascend(string(bucket), func(string, []byte) (bool, error) {
				got[bucket]++
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	entries, contents, xattrs, orphans := 0, 0, 0, 0
	for _, f := range t.files {
		entries += len(f.names)
		xattrs += len(f.xattrs)
		if f.attr.Nlink == 0 {
			orphans++
		}
		if f.valid > 0 {
			contents++
		}
	}
	if got[bucketEntry] != entries || got[bucketInode] != len(t.files) || got[bucketInline]+got[bucketSum] != contents ||
		got[bucketXattr] != xattrs || got[bucketOrphan] != orphans || got[bucketOp] != len(t.ops) || got[bucketOpTime] != len(t.ops) {
		return fmt.Errorf("rows %v, want %d entries, %d inodes, %d contents, %d attributes, %d orphans, %d ops", got, entries, len(t.files), contents, xattrs, orphans, len(t.ops))
	}
	return nil
}

func (t *memTree) compareDir(s *Store, dir wire.Ino) error {
	var entries []wire.DirEntry
	req := wire.Read{Kind: wire.ReadList, At: wire.At{Dir: dir}, Limit: 3}
	for {
		reply, err := s.Read(req, nil)
		if err != nil {
			return err
		}
		if got, want := reply.Attr, t.files[dir].attrOf(); got != want {
			return fmt.Errorf("directory %d: %+v, want %+v", dir, got, want)
		}
		if err := t.compareXattrs(s, t.files[dir]); err != nil {
			return err
		}
		entries = append(entries, reply.Entries...)
		if !reply.More {
			break
		}
		req.After = entries[len(entries)-1].Name
	}
	want := slices.Sorted(maps.Keys(t.files[dir].names))
	if len(entries) != len(want) {
		return fmt.Errorf("directory %d: %v, want %v", dir, entries, want)
	}
	for i, e := range entries {
		f := t.files[t.files[dir].names[want[i]]]
		if e.Name != want[i] || e.Attr != f.attrOf() {
			return fmt.Errorf("entry %q of %d: %+v, want %q %+v", e.Name, dir, e.Attr, want[i], f.attrOf())
		}
		if err := t.compareFile(s, wire.At{Dir: dir, Path: e.Name}, f); err != nil {
			return err
		}
	}
	return nil
}

func (t *memTree) compareFile(s *Store, at wire.At, f *memFile) error {
	if f.names != nil {
		return t.compareDir(s, f.attr.Ino)
	}
	if err := t.compareXattrs(s, f); err != nil {
		return err
	}
	switch f.attr.Mode & wire.ModeType {
	case wire.ModeFifo, wire.ModeChar:
		return nil
	case wire.ModeSymlink:
		reply, err := s.Read(wire.Read{Kind: wire.ReadLink, At: at}, nil)
		if err == nil && reply.Target != f.target {
			err = fmt.Errorf("%s -> %q, want %q", at, reply.Target, f.target)
		}
		return err
	}
	if t.doubtful[f.attr.Ino] {
		return f.compareRanges(s, at)
	}
	w := expected{want: f.data}
	reply, err := s.Read(wire.Read{Kind: wire.ReadFile, At: at, Length: -1}, &w)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if w.n != len(f.data) || reply.Attr != f.attrOf() {
		return fmt.Errorf("%s (%+v): contents of %d bytes, want %d (%+v)", at, reply.Attr, w.n, len(f.data), f.attrOf())
	}
	return f.compareRanges(s, at)
}

// compareRanges compares where a file holds data.
func (f *memFile) compareRanges(s *Store, at wire.At) error {
	var got, want []wire.Range
	req := wire.Read{Kind: wire.ReadData, At: at, Limit: 1}
	for {
		reply, err := s.Read(req, nil)
		if err != nil {
			return err
		}
		got = append(got, reply.Ranges...)
		if !reply.More {
			break
		}
		last := got[len(got)-1]
		req.Offset = last.Offset + last.Length
	}
	if !f.object && f.valid > 0 {
		want = []wire.Range{{Length: f.valid}}
	}
	for b := int64(0); f.object && b*wire.BlockSize < f.valid; b++ {
		r := wire.Range{Offset: b * wire.BlockSize, Length: min(wire.BlockSize, f.valid-b*wire.BlockSize)}
		if n := len(want); !f.blocks[b] {
			continue
		} else if n > 0 && want[n-1].Offset+want[n-1].Length == r.Offset {
			want[n-1].Length += r.Length
		} else {
			want = append(want, r)
		}
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s holds data in %v, want %v", at, got, want)
	}
	return nil
}
