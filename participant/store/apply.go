package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// Bootstrap makes the root directory, at the position of the first CONFIG
// (P8). Where there is one already it does nothing. Owner only.
func (s *Store) Bootstrap(root wire.Root, pos wire.Position) error {
	b := s.newBatch()
	err := s.look(func(m *moment) error {
		b.m = m
		if _, ok, err := m.get(inodeKey(wire.RootIno)); err != nil || ok {
			return err
		}
		b.putInode(&inode{attr: wire.Attr{
			Ino: wire.RootIno, Mode: wire.ModeDir | root.Mode&wire.ModePerm, Nlink: 2, UID: root.UID, GID: root.GID,
			Atime: root.Time, Mtime: root.Time, Ctime: root.Time, Parent: wire.RootIno,
		}}, true)
		b.noteChanges(pos)
		return nil
	})
	if err != nil {
		return err
	}
	s.install(b)
	return nil
}

// Apply enters a committed transaction, decided at pos: rows into the table,
// contents beyond InlineMax into the page cache. It looks nothing up but the
// rows that it changes, so a redo of the same transactions from the same
// checkpoint gives the same rows. A *FatalError, or a damaged store, ends the
// participant. Owner only.
func (s *Store) Apply(tx *vote.Tx, pos wire.Position) error {
	if err := s.trouble(); err != nil {
		return err
	}
	contents, err := s.takeContents(tx)
	if err != nil {
		return err
	}
	b := s.newBatch()
	err = s.look(func(m *moment) error {
		b.m = m
		for i := range tx.Bounds {
			if err := b.mutation(tx, i, contents[i]); err != nil {
				return err
			}
		}
		return b.finish(tx, pos)
	})
	if err != nil {
		return err
	}
	held, err := s.holdWritten(b)
	if err == nil {
		err = s.writeOut(b)
	}
	if err == nil {
		s.install(b)
	}
	s.endWrites(held)
	if err != nil {
		return err
	}
	s.endPack(tx.Pack)
	s.Release(tx.ID)
	return nil
}

// install shows a batch to readers, all at once.
func (s *Store) install(b *batch) {
	s.mu.Lock()
	for _, key := range b.order {
		s.active.set(key, b.cells[key])
		if key[0] == bucketChange {
			s.active.changes++
		}
	}
	for _, c := range b.ranges {
		s.active.changeRange(c, true)
		if s.frozen != nil {
			s.frozen.changeRange(c, false)
		}
	}
	s.counts.Files += b.files
	s.counts.Bytes += b.bytes
	for _, d := range b.dead { // in the moment in which the rows let go of it (Sweep)
		s.kill(d.id, d.size)
	}
	s.mu.Unlock()

	for _, id := range b.named {
		s.objects.settle(id, stateStaged)
	}
	for _, d := range b.dead {
		if f := s.active.dirty[d.id]; f != nil { // nothing of it has to last
			_ = f.Close()
			delete(s.active.dirty, d.id)
		}
	}
	s.opsFrom = b.opsFrom
}

// takeContents writes the contents that become objects, and finds those that
// are staged, before any row changes.
func (s *Store) takeContents(tx *vote.Tx) ([]*content, error) {
	contents := make([]*content, len(tx.Bounds))
	payload := tx.Payload
	take := func(size int64) ([]byte, error) {
		if size < 0 || size > int64(len(payload)) {
			return nil, s.damage(fmt.Sprintf("transaction %s: contents of %d bytes, and %d are left of its payload", tx.ID, size, len(payload)))
		}
		var data []byte
		data, payload = payload[:size:size], payload[size:]
		return data, nil
	}
	for i := range tx.Bounds {
		d := &tx.Bounds[i]
		if d.Kind != wire.MutWriteFile {
			continue
		}
		var err error
		switch {
		case d.Write != wire.WriteWhole:
			contents[i], err = s.takeParts(d, take)
		case d.Content.Stage != 0:
			contents[i], err = s.takeStage(&d.Content)
		default:
			var data []byte
			if data, err = take(d.Content.Size); err == nil {
				contents[i], err = s.takeInline(tx.ID+wire.ID(i), data)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return contents, nil
}

func (s *Store) takeParts(d *vote.Bound, take func(size int64) ([]byte, error)) (*content, error) {
	c := &content{}
	for i := range d.Extents {
		x := &d.Extents[i]
		p := part{from: x.Offset, to: x.Offset + x.Size, stage: x.Stage}
		var err error
		if x.Stage == 0 {
			p.data, err = take(x.Size)
		} else {
			p.staged, err = s.consumed(x.Stage, x.Size, x.Sum)
		}
		if err != nil {
			return nil, err
		}
		c.parts = append(c.parts, p)
	}
	return c, nil
}

// consumed finds a staged object that a prepared transaction names.
func (s *Store) consumed(id wire.ID, size int64, sum uint32) (*staged, error) {
	st, ok, err := s.stagedObject(id)
	if err == nil && ok && st.size == size && st.sum == sum {
		return st, nil
	}
	why := ""
	switch {
	case ofProcess(err):
		return nil, s.fail("open", s.objectPath(id), err)
	case err != nil:
		why = err.Error()
	case ok:
		why = fmt.Sprintf("there are %d bytes with checksum %08x, not %d with %08x", st.size, st.sum, size, sum)
	default:
		why = s.noStage(id)
	}
	return nil, s.damage(fmt.Sprintf("%s: the staged contents that a prepared transaction names are not there: %s", s.objectPath(id), why))
}

// noStage tells what there is of an object that should be staged and is not.
func (s *Store) noStage(id wire.ID) string {
	if info, known := s.objects.get(id); known {
		return "the object is " + info.state.String()
	}
	byRows, err := s.namedByRows(id)
	byKV, kvErr := s.namedByKV(id)
	if byRows || err != nil || kvErr != nil {
		return fmt.Sprintf("rows name the object already (%s: %t, %v)", kvName, byKV, errors.Join(err, kvErr))
	}
	list := []string{s.whatTail(s.objectPath(id), id, false), s.whatTail(s.asidePath(id), id, true)}
	return strings.Join(list, ", ")
}

// whatTail tells whether a file ends in checksums.
func (s *Store) whatTail(name string, id wire.ID, alone bool) string {
	what := path.Base(name)
	f, err := s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return what + " does not exist"
	}
	if err != nil {
		return fmt.Sprintf("%s: %v", what, err)
	}
	defer closeRead(f)
	size, err := f.Size()
	st, at, terr := readTrailer(f, id, alone)
	_, ok, serr := readTail(f, id, alone)
	if err = errors.Join(err, terr, serr); err != nil {
		return fmt.Sprintf("%s: %v", what, err)
	}
	switch {
	case st == nil:
		return fmt.Sprintf("%s has %d bytes and no trailer at their end", what, size)
	case !ok:
		return fmt.Sprintf("%s has a trailer, and other bytes than its checksums at %d", what, at)
	default:
		return what + " is whole"
	}
}

func (s *Store) takeStage(c *wire.Content) (*content, error) {
	st, err := s.consumed(c.Stage, c.Size, c.Sum)
	if err != nil {
		return nil, err
	}
	if st.size == 0 {
		return &content{object: c.Stage}, nil
	}
	return &content{kind: contentObject, object: c.Stage, size: st.size, sums: st.sums}, nil
}

func (s *Store) takeInline(id wire.ID, data []byte) (*content, error) {
	size := int64(len(data))
	switch {
	case size == 0:
		return &content{}, nil
	case size <= int64(s.o.InlineMax):
		return &content{kind: contentInline, inline: data, size: size}, nil
	}
	f, err := s.makeObject(id, data)
	if err != nil {
		return nil, err
	}
	s.active.dirty[id] = f
	return &content{kind: contentObject, object: id, size: size, sums: blockSums(data)}, nil
}

func blockSums(data []byte) []uint32 {
	var sums []uint32
	for block := range slices.Chunk(data, wire.BlockSize) {
		sums = append(sums, padSum(block))
	}
	return sums
}

// mutation enters one mutation, after those before it (bound.go).
func (b *batch) mutation(tx *vote.Tx, i int, c *content) error {
	d := &tx.Bounds[i]
	switch d.Kind {
	case wire.MutWriteFile:
		return b.writeFile(tx, i, c)
	case wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		return b.changeRange(tx, i)
	case wire.MutDeleteFile, wire.MutRmdir:
		n, err := b.inode(d.Ino)
		if err != nil {
			return err
		}
		if err := b.leaveName(d.Dir, d.Name, n.isDir(), tx.Time); err != nil {
			return err
		}
		return b.unlink(&n, tx, d)
	case wire.MutMkdir:
		n := newInode(tx, d, wire.ModeDir)
		n.attr.Nlink, n.attr.Parent = 2, d.Dir
		b.putInode(&n, true)
		return b.enterName(d.Dir, d.Name, &n, tx.Time)
	case wire.MutSymlink:
		n := newInode(tx, d, wire.ModeSymlink)
		n.attr.Mode, n.target, n.attr.Size = wire.ModeSymlink|0o777, d.Target, int64(len(d.Target))
		b.putInode(&n, true)
		return b.enterName(d.Dir, d.Name, &n, tx.Time)
	case wire.MutRename:
		if d.Exchange {
			return b.exchange(tx, d)
		}
		return b.rename(tx, d)
	case wire.MutSetattr:
		return b.setattr(tx, d)
	case wire.MutLink:
		return b.link(tx, d)
	case wire.MutMknod:
		n := newInode(tx, d, d.Mode&wire.ModeType)
		n.attr.Rdev = d.Rdev
		b.putInode(&n, true)
		return b.enterName(d.Dir, d.Name, &n, tx.Time)
	case wire.MutCreateUnlinked:
		n := newInode(tx, d, wire.ModeRegular)
		n.attr.Nlink = 0
		b.putInode(&n, true)
		b.put(orphanKey(d.Ino), encodeOrphan(orphan{holder: tx.Op.Session, linkable: true}), true)
		return nil
	case wire.MutSetxattr, wire.MutRemovexattr:
		return b.changeXattr(tx, d)
	case wire.MutReclaim:
		return b.reclaim(d)
	default:
		return &wire.Error{Code: wire.CodeUnsupported, Mutation: i, Text: fmt.Sprintf("transaction %s was prepared by a newer version: unknown mutation %d", tx.ID, d.Kind)}
	}
}

func newInode(tx *vote.Tx, d *vote.Bound, kind uint32) inode {
	return inode{attr: wire.Attr{
		Ino: d.Ino, Mode: kind | d.Mode&wire.ModePerm, Nlink: 1, UID: d.UID, GID: d.GID,
		Atime: tx.Time, Mtime: tx.Time, Ctime: tx.Time, Version: tx.ID,
	}}
}

func (b *batch) writeFile(tx *vote.Tx, i int, c *content) error {
	d := &tx.Bounds[i]
	var n inode
	if d.Created {
		n = newInode(tx, d, wire.ModeRegular)
		if err := b.enterName(d.Dir, d.Name, &n, tx.Time); err != nil {
			return err
		}
	} else {
		var err error
		if n, err = b.inode(d.Ino); err != nil {
			return err
		}
	}
	if d.Write != wire.WriteWhole {
		if err := b.extents(tx, i, &n, c); err != nil {
			return err
		}
		b.putInode(&n, d.Created)
		return nil
	}
	if !d.Created {
		if err := b.dropContent(&n); err != nil {
			return err
		}
		n.attr.Version = tx.ID
		n.change(tx, d, true)
	}
	b.setContent(&n, c, d.Created)
	b.putInode(&n, d.Created)
	return nil
}

func (b *batch) rename(tx *vote.Tx, d *vote.Bound) error {
	if d.Replaced == d.Ino { // two names of one file, or one name
		return nil
	}
	n, err := b.inode(d.Ino)
	if err != nil {
		return err
	}
	if d.Replaced != 0 {
		old, err := b.inode(d.Replaced)
		if err != nil {
			return err
		}
		if err := b.leaveName(d.ToDir, d.ToName, old.isDir(), tx.Time); err != nil {
			return err
		}
		if err := b.unlink(&old, tx, d); err != nil {
			return err
		}
	}
	if err := b.leaveName(d.Dir, d.Name, n.isDir(), tx.Time); err != nil {
		return err
	}
	if err := b.enterName(d.ToDir, d.ToName, &n, tx.Time); err != nil {
		return err
	}
	if n.isDir() {
		n.attr.Parent = d.ToDir
	}
	n.touch(tx.Time, false)
	b.putInode(&n, false)
	return nil
}

func (b *batch) setattr(tx *vote.Tx, d *vote.Bound) error {
	n, err := b.inode(d.Ino)
	if err != nil {
		return err
	}
	a := &n.attr
	if d.Set&wire.SetMode != 0 {
		a.Mode = a.Mode&wire.ModeType | d.Mode&wire.ModePerm
	}
	if d.Set&wire.SetUID != 0 {
		a.UID = d.UID
	}
	if d.Set&wire.SetGID != 0 {
		a.GID = d.GID
	}
	if d.Set&wire.SetSize != 0 {
		var sums []vote.BlockSum
		if t := d.Tail; t != nil {
			sums = []vote.BlockSum{{Block: d.Size / wire.BlockSize, Sum: t.Sum, Bad: t.Bad}}
		}
		if err := b.truncate(&n, d.Size, sums); err != nil {
			return err
		}
		a.Version = tx.ID
	}
	n.change(tx, d, d.Set&wire.SetSize != 0)
	switch {
	case d.Set&wire.SetAtime != 0:
		a.Atime = d.Atime
	case d.Set&wire.SetAtimeNow != 0:
		a.Atime = tx.Time
	}
	switch {
	case d.Set&wire.SetMtime != 0:
		n.setMtime(d.Mtime, cmp.Or(d.Ctime, tx.Time))
	case d.Set&wire.SetMtimeNow != 0:
		n.setMtime(tx.Time, tx.Time)
	}
	b.putInode(&n, false)
	return nil
}
