package vote

import (
	"fmt"
	"slices"

	"tpcfs/wire"
)

// maxLinks is how many names a file may have, as on ext4.
const maxLinks = 65000

// checkForm refuses words that belong to other kinds, and unknown ones.
func checkForm(m *wire.Mutation) error {
	switch {
	case m.Hold && m.Kind != wire.MutDeleteFile && m.Kind != wire.MutRename && m.Kind != wire.MutCreateUnlinked:
		return no(wire.CodeInvalid, m.At, "it leaves nothing to hold")
	case m.IfIno != 0 && m.Kind != wire.MutDeleteFile && (m.Kind != wire.MutRename || m.Rename != wire.RenameReplace):
		return no(wire.CodeInvalid, m.At, "it takes no name away")
	case m.Rename != wire.RenameReplace && m.Kind != wire.MutRename, m.Rename > wire.RenameExchange:
		return no(wire.CodeInvalid, m.At, fmt.Sprintf("rename mode %d", m.Rename))
	case m.Xattr != wire.XattrEither && m.Kind != wire.MutSetxattr, m.Xattr > wire.XattrReplace:
		return no(wire.CodeInvalid, m.At, fmt.Sprintf("extended attribute mode %d", m.Xattr))
	}
	return nil
}

// ifIno checks IfIno against what the name at leads to.
func ifIno(m *wire.Mutation, at wire.At, ino wire.Ino) error {
	if m.IfIno == 0 || ino == m.IfIno {
		return nil
	}
	return no(wire.CodeVersion, at, fmt.Sprintf("it should name inode %d, and names %d", m.IfIno, ino))
}

// lose takes a name from a file, or removes a directory; the caller has locked it.
func (b *binder) lose(bd *Bound, ino wire.Ino, n *node, hold bool) error {
	bd.Hold = hold && !isType(n, wire.ModeDir)
	b.unlink(ino, n, bd.Hold || b.prepare.Keep && ino < wire.Ino(b.prepare.Tx))
	return b.gone(bd, ino, n)
}

// gone counts what goes with a file that is gone.
func (b *binder) gone(bd *Bound, ino wire.Ino, n *node) (err error) {
	if b.inodes[ino] == nil {
		bd.Xattrs, _, err = b.xattrsOf(ino, n)
	}
	return err
}

// orphans lists the inodes that the transaction leaves without a name.
func (b *binder) orphans() []wire.Ino {
	var list []wire.Ino
	for i := range b.bounds {
		bd := &b.bounds[i]
		ino := bd.Ino
		switch {
		case bd.Kind == wire.MutRename && bd.Hold:
			ino = bd.Replaced
		case bd.Kind == wire.MutDeleteFile && bd.Hold, bd.Kind == wire.MutCreateUnlinked:
		default:
			continue
		}
		if n := b.inodes[ino]; n != nil && n.Attr.Nlink == 0 && !slices.Contains(list, ino) {
			list = append(list, ino)
		}
	}
	return list
}

// left lists the inodes that Prepare.Keep leaves without a name, or says that
// there are more than can be told.
func (b *binder) left() (list []wire.Ino, more bool) {
	if !b.prepare.Keep {
		return nil, false
	}
	for i := range b.bounds {
		bd := &b.bounds[i]
		ino := bd.Ino
		switch {
		case bd.Hold:
			continue
		case bd.Kind == wire.MutRename && !bd.Exchange:
			ino = bd.Replaced
		case bd.Kind != wire.MutDeleteFile:
			continue
		}
		if n := b.inodes[ino]; n == nil || n.Attr.Nlink > 0 || slices.Contains(list, ino) {
			continue
		}
		if list = append(list, ino); len(list) > wire.MaxTouched {
			return nil, true
		}
	}
	return list, false
}

// exchange lets two names change places, as RENAME_EXCHANGE of renameat2(2).
func (b *binder) exchange(m *wire.Mutation, from, to named) error {
	fromDir, toDir := isType(from.node, wire.ModeDir), isType(to.node, wire.ModeDir)
	bd := Bound{Kind: m.Kind, Exchange: true, Ino: from.ino, Dir: from.dir, Name: from.name, ToDir: to.dir, ToName: to.name,
		Replaced: to.ino, IsDir: fromDir || toDir}
	if fromDir {
		if err := b.moveDir(m, from, to); err != nil {
			return err
		}
	}
	if toDir {
		if err := b.moveDir(m, to, from); err != nil {
			return err
		}
	}
	b.done(bd, false)
	if from.ino == to.ino { // two names of one file, or one name
		return nil
	}
	b.entries[Entry{from.dir, from.name}] = to.ino
	b.entries[Entry{to.dir, to.name}] = from.ino
	if fromDir {
		from.node.Attr.Parent = to.dir
	}
	if toDir {
		to.node.Attr.Parent = from.dir
	}
	return nil
}

// link follows link(2): the file is locked, so that its last name does not go
// meanwhile, and what it is linked from stays.
func (b *binder) link(m *wire.Mutation) error {
	f, err := b.resolve(m.At, false)
	switch {
	case err != nil:
		return err
	case f.ino == 0:
		return no(wire.CodeNotExist, m.At, "")
	case isType(f.node, wire.ModeDir):
		return no(wire.CodePermission, m.At, "a directory has one name")
	}
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	if m.To.Path == "" {
		return no(wire.CodeExist, m.To, "")
	}
	to, err := b.resolve(m.To, true)
	if err != nil {
		return err
	}
	switch n := f.node; {
	case to.ino != 0:
		return no(wire.CodeExist, m.To, "")
	case n.Attr.Nlink == 0 && !n.Linkable:
		return no(wire.CodeNotExist, m.At, "its last name is gone")
	case n.Attr.Nlink >= maxLinks:
		return no(wire.CodeLinks, m.At, fmt.Sprintf("a file has at most %d names", maxLinks))
	}
	if _, err := b.parent(to, m.To); err != nil {
		return err
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Dir: to.dir, Name: to.name, Orphan: f.node.Attr.Nlink == 0}
	b.enter(to.dir, to.name, f.ino)
	f.node.Attr.Nlink++
	f.node.Linkable = false
	b.done(bd, false)
	return nil
}

// mknod follows mknod(2).
func (b *binder) mknod(m *wire.Mutation, ino wire.Ino) error {
	mode, rdev := m.Mode&(wire.ModeType|wire.ModePerm), uint32(0)
	switch mode & wire.ModeType {
	case 0:
		mode |= wire.ModeRegular
	case wire.ModeRegular, wire.ModeFifo, wire.ModeSocket:
	case wire.ModeChar, wire.ModeBlock:
		rdev = m.Rdev
	case wire.ModeDir:
		return no(wire.CodePermission, m.At, "a directory is made by mkdir")
	default:
		return no(wire.CodeInvalid, m.At, fmt.Sprintf("mknod makes no file of type %#o", mode&wire.ModeType))
	}
	f, err := b.vacant(m)
	if err != nil {
		return err
	}
	bd, n, err := b.create(m, f, ino, mode)
	if err != nil {
		return err
	}
	bd.Mode, bd.Rdev = n.Attr.Mode, rdev
	b.done(bd, true)
	return nil
}

// createUnlinked makes what open(2) makes with O_TMPFILE.
func (b *binder) createUnlinked(m *wire.Mutation, ino wire.Ino) error {
	f, err := b.resolve(m.At, false)
	switch {
	case err != nil:
		return err
	case f.ino == 0:
		return no(wire.CodeNotExist, m.At, "")
	case isType(f.node, wire.ModeSymlink) && m.At.Path != "":
		return &wire.Error{Code: wire.CodeSymlink, Name: m.At.String(), Prefix: m.At.Path, Target: f.node.Target}
	case !isType(f.node, wire.ModeDir):
		return no(wire.CodeNotDir, m.At, "")
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	bd := Bound{Kind: m.Kind, Ino: ino, Created: true, Mode: m.Mode & wire.ModePerm, UID: m.UID, GID: m.GID}
	if f.node.Attr.Mode&setGID != 0 {
		bd.GID = f.node.Attr.GID
	}
	n := &node{fresh: true, Inode: Inode{Linkable: true, Attr: wire.Attr{
		Ino: ino, Mode: wire.ModeRegular | bd.Mode, UID: bd.UID, GID: bd.GID, Version: b.prepare.Tx}}}
	b.inodes[ino] = n
	b.done(bd, true)
	return nil
}

// reclaim removes an inode without a name. It looks again: a name may have
// come since somebody saw that there was none.
func (b *binder) reclaim(m *wire.Mutation) error {
	if m.At.Path != "" {
		return no(wire.CodeInvalid, m.At, "it takes an inode's number")
	}
	f, err := b.self(m.At)
	if err != nil {
		return err
	}
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Orphan: f.node.Attr.Nlink == 0}
	if bd.Orphan {
		b.inodes[f.ino] = nil
		if err := b.gone(&bd, f.ino, f.node); err != nil {
			return err
		}
	}
	b.done(bd, false)
	return nil
}
