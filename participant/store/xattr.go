package store

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// changeXattr enters or removes an extended attribute.
func (b *batch) changeXattr(tx *vote.Tx, d *vote.Bound) error {
	n, err := b.inode(d.Ino)
	if err != nil {
		return err
	}
	key := xattrKey(d.Ino, d.Xattr)
	if d.Kind == wire.MutSetxattr {
		b.put(key, append(make([]byte, 0, len(d.Value)+crcLen), d.Value...), false)
	} else {
		b.del(key)
	}
	n.touch(tx.Time, false)
	b.putInode(&n, false)
	return nil
}

// dropXattrs removes the attributes of a file that goes: those of the moment,
// and those that the batch has brought.
func (b *batch) dropXattrs(ino wire.Ino) error {
	prefix := xattrKey(ino, "")
	var keys []string
	err := b.m.xattrs(ino, func(name string) { keys = append(keys, prefix+name) })
	for _, key := range b.order {
		if strings.HasPrefix(key, prefix) && b.cells[key].val != nil {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		b.del(key)
	}
	return err
}

// xattrs calls fn with the names of a file's extended attributes, in order.
func (m *moment) xattrs(ino wire.Ino, fn func(name string)) error {
	prefix := xattrKey(ino, "")
	for from := prefix; from != ""; {
		n, next := 0, ""
		err := m.ascend(from, func(key string, _ []byte) (bool, error) {
			if !strings.HasPrefix(key, prefix) {
				return false, nil
			}
			if n++; n > maxTxKeys {
				next = key
				return false, nil
			}
			fn(key[len(prefix):])
			return true, nil
		})
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// xattr reads an extended attribute's value.
func (m *moment) xattr(n *inode, name string) ([]byte, error) {
	if len(name) > wire.MaxNameLen {
		return nil, wire.NewError(wire.CodeNameTooLong, fmt.Sprintf("an extended attribute's name has at most %d bytes", wire.MaxNameLen))
	}
	val, ok, err := m.get(xattrKey(n.attr.Ino, name))
	if err == nil && !ok {
		err = wire.NewError(wire.CodeNoAttr, fmt.Sprintf("it has no extended attribute %q", name))
	}
	return val, err
}

// bareRun are inodes [from, to) none of which has extended attributes.
type bareRun struct{ from, to uint64 }

// bare reports that an inode has no extended attributes. What the search finds out
// about others stays in run: of many inodes, in order, it takes as many searches as
// there are some with attributes between them.
func (m *moment) bare(ino wire.Ino, run *bareRun) (bool, error) {
	if at := uint64(ino); at >= run.from && at < run.to {
		return true, nil
	}
	*run = bareRun{uint64(ino), math.MaxUint64}
	err := m.ascend(xattrKey(ino, ""), func(key string, _ []byte) (bool, error) {
		if len(key) < len(xattrKey(0, "")) {
			return false, m.s.damage(rowName(key) + " is malformed")
		}
		run.to = be.Uint64([]byte(key[1:]))
		return false, nil
	})
	return run.from < run.to, err
}

// tellBare says of the entries of a page whether they have extended attributes.
func (m *moment) tellBare(entries []wire.DirEntry) (err error) {
	order := make([]*wire.Attr, len(entries))
	for i := range entries {
		order[i] = &entries[i].Attr
	}
	slices.SortFunc(order, func(a, b *wire.Attr) int { return cmp.Compare(a.Ino, b.Ino) })
	var run bareRun
	for _, a := range order {
		if a.NoXattrs, err = m.bare(a.Ino, &run); err != nil {
			return err
		}
	}
	return nil
}

// readListxattr lists a file's extended attributes, in the order of their bytes.
func (s *Store) readListxattr(req wire.Read) (reply wire.ReadReply, err error) {
	err = s.look(func(m *moment) error {
		n, err := m.walk(req.At)
		if err != nil {
			return err
		}
		reply.Attr = n.attr
		return m.xattrs(n.attr.Ino, func(name string) { reply.Names = append(reply.Names, name) })
	})
	return reply, err
}

// Xattr implements vote.View.
func (s *Store) Xattr(ino wire.Ino, name string) (found bool, err error) {
	err = s.look(func(m *moment) (err error) {
		_, found, err = m.get(xattrKey(ino, name))
		return err
	})
	return found, err
}

// Xattrs implements vote.View.
func (s *Store) Xattrs(ino wire.Ino) (count, bytes int, err error) {
	err = s.look(func(m *moment) error {
		return m.xattrs(ino, func(name string) {
			count++
			bytes += len(name) + 1
		})
	})
	return count, bytes, err
}
