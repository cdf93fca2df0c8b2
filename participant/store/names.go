package store

import (
	"fmt"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// exchange lets two names change places (renameat2(2)).
func (b *batch) exchange(tx *vote.Tx, d *vote.Bound) error {
	if d.Replaced == d.Ino {
		return nil
	}
	n, err := b.inode(d.Ino)
	if err != nil {
		return err
	}
	o, err := b.inode(d.Replaced)
	if err != nil {
		return err
	}
	subdirs := boolInt(n.isDir()) - boolInt(o.isDir())
	b.put(entryKey(d.Dir, d.Name), encodeIno(d.Replaced), false)
	b.put(entryKey(d.ToDir, d.ToName), encodeIno(d.Ino), false)
	if err := b.changeDir(d.Dir, 0, -subdirs, tx.Time); err != nil {
		return err
	}
	if err := b.changeDir(d.ToDir, 0, subdirs, tx.Time); err != nil {
		return err
	}
	for moved, dir := range map[*inode]wire.Ino{&n: d.ToDir, &o: d.Dir} {
		if moved.isDir() {
			moved.attr.Parent = dir
		}
		moved.touch(tx.Time, false)
	}
	b.putInode(&n, false)
	b.putInode(&o, false)
	return nil
}

// link gives a file one more name; one without a name is no orphan any more.
func (b *batch) link(tx *vote.Tx, d *vote.Bound) error {
	n, err := b.inode(d.Ino)
	if err != nil {
		return err
	}
	if d.Orphan {
		b.del(orphanKey(d.Ino))
	}
	n.attr.Nlink++
	n.touch(tx.Time, false)
	b.putInode(&n, false)
	return b.enterName(d.Dir, d.Name, &n, tx.Time)
}

// reclaim removes an orphan; what has got a name meanwhile stays.
func (b *batch) reclaim(d *vote.Bound) error {
	if !d.Orphan {
		return nil
	}
	n, err := b.inode(d.Ino)
	if err != nil {
		return err
	}
	return b.remove(&n, d)
}

// orphan reads the row of an inode without a name.
func (m *moment) orphan(ino wire.Ino) (orphan, error) {
	val, ok, err := m.get(orphanKey(ino))
	if err != nil {
		return orphan{}, err
	}
	o, good := decodeOrphan(val)
	if !ok || !good {
		return orphan{}, m.s.damage(fmt.Sprintf("inode %d has no name, and its row of orphans is missing or malformed", ino))
	}
	return o, nil
}

// readOrphans lists the inodes without a name, in order, with their holders.
func (s *Store) readOrphans(req wire.Read) (reply wire.ReadReply, err error) {
	if req.Offset < 0 {
		return reply, wire.NewError(wire.CodeInvalid, "a negative inode number")
	}
	m, err := s.snapshot()
	if err != nil {
		return reply, err
	}
	defer m.close()
	limit := listEntries
	if req.Limit > 0 {
		limit = min(limit, req.Limit)
	}
	var run bareRun
	err = m.ascend(orphanKey(wire.Ino(req.Offset)+1), func(key string, val []byte) (bool, error) {
		if len(reply.Entries) == limit {
			reply.More = true
			return false, nil
		}
		o, ok := decodeOrphan(val)
		if !ok {
			return false, m.s.damage(rowName(key) + " is malformed")
		}
		ino := wire.Ino(be.Uint64([]byte(key[1:])))
		n, err := m.inode(ino)
		if wire.CodeOf(err) == wire.CodeNotExist {
			err = m.s.damage(fmt.Sprintf("orphan %d is missing", ino))
		}
		if err == nil {
			n.attr.NoXattrs, err = m.bare(ino, &run)
		}
		reply.Entries = append(reply.Entries, wire.DirEntry{Attr: n.attr})
		reply.Holders = append(reply.Holders, o.holder)
		return true, err
	})
	return reply, err
}
