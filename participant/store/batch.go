package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// batch collects what a transaction changes, over a moment: the table sees all
// of it at once, or, after an error, nothing.
type batch struct {
	m     *moment
	cells map[string]cell
	order []string // keys of cells, as they were first changed
	dead  []deadObject
	named []wire.ID // objects that rows name from now on
	files int64     // change of the number of inodes
	bytes int64     // change of the sum of sizes
	// Objects that stay are changed in place (S2):
	writes  []fileWrite                // in order
	ranges  []rangeChange              // in order
	touched map[wire.ID]bool           // objects with new ranges
	pages   map[wire.ID]map[int64]bool // of checksums, that the batch has put
	// opsFrom is the store's from now on.
	opsFrom string
}

type deadObject struct {
	id   wire.ID
	size int64
}

func (s *Store) newBatch() *batch {
	return &batch{cells: map[string]cell{}, opsFrom: s.opsFrom, touched: map[wire.ID]bool{}, pages: map[wire.ID]map[int64]bool{}}
}

func (b *batch) get(key string) ([]byte, bool, error) {
	if c, ok := b.cells[key]; ok {
		if c.val == nil {
			return nil, false, nil
		}
		return c.val[: len(c.val)-crcLen : len(c.val)-crcLen], true, nil
	}
	return b.m.get(key)
}

func (b *batch) enter(key string, c cell) {
	if old, ok := b.cells[key]; ok {
		c.fresh = old.fresh
	} else {
		b.order = append(b.order, key)
	}
	b.cells[key] = c
}

// put enters a row; fresh: none has that key in any state, now or earlier.
func (b *batch) put(key string, val []byte, fresh bool) {
	b.enter(key, cell{val: seal(key, val), fresh: fresh})
}

func (b *batch) del(key string) { b.enter(key, cell{}) }

// inode reads an inode that the PREPARE has found: if it is not there, rows
// were lost.
func (b *batch) inode(ino wire.Ino) (inode, error) {
	val, ok, err := b.get(inodeKey(ino))
	if err != nil {
		return inode{}, err
	}
	if !ok {
		return inode{}, b.m.s.damage(fmt.Sprintf("inode %d, which a prepared transaction changes, is missing", ino))
	}
	n, err := decodeInode(ino, val)
	if err != nil {
		return inode{}, b.m.s.damage(err.Error())
	}
	return n, nil
}

func (b *batch) putInode(n *inode, created bool) {
	if created {
		b.files++
	}
	b.put(inodeKey(n.attr.Ino), encodeInode(n), created)
}

// resize sets Size and counts it.
func (b *batch) resize(n *inode, size int64) {
	b.bytes += size - n.attr.Size
	n.attr.Size = size
}

// changeDir enters that a directory has gained (+1) or lost (-1) entries and
// subdirectories.
func (b *batch) changeDir(dir wire.Ino, entries, subdirs int, t int64) error {
	n, err := b.inode(dir)
	if err != nil {
		return err
	}
	n.attr.Size += int64(entries)
	n.attr.Nlink = uint32(int(n.attr.Nlink) + subdirs)
	n.touch(t, true)
	b.putInode(&n, false)
	return nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (b *batch) enterName(dir wire.Ino, name string, n *inode, t int64) error {
	b.put(entryKey(dir, name), encodeIno(n.attr.Ino), false)
	return b.changeDir(dir, 1, boolInt(n.isDir()), t)
}

func (b *batch) leaveName(dir wire.Ino, name string, isDir bool, t int64) error {
	b.del(entryKey(dir, name))
	return b.changeDir(dir, -1, -boolInt(isDir), t)
}

// unlink takes a name from a file, or removes a directory. A file without a
// name stays while it is held.
func (b *batch) unlink(n *inode, tx *vote.Tx, d *vote.Bound) error {
	if n.isDir() || n.attr.Nlink <= 1 && !d.Hold && !tx.Keeps(n.attr.Ino) {
		return b.remove(n, d)
	}
	n.attr.Nlink--
	n.touch(tx.Time, false)
	b.putInode(n, false)
	if n.attr.Nlink == 0 {
		o := orphan{holder: tx.Op.Session}
		if !d.Hold {
			o.holder = wire.SessionID{}
		}
		b.put(orphanKey(n.attr.Ino), encodeOrphan(o), false)
	}
	return nil
}

// remove takes an inode away, with all that is its own.
func (b *batch) remove(n *inode, d *vote.Bound) error {
	if d.Xattrs > 0 {
		if err := b.dropXattrs(n.attr.Ino); err != nil {
			return err
		}
	}
	if n.attr.Nlink == 0 {
		b.del(orphanKey(n.attr.Ino))
	}
	if n.isRegular() {
		if err := b.dropContent(n); err != nil {
			return err
		}
		b.resize(n, 0)
	}
	b.files--
	b.del(inodeKey(n.attr.Ino))
	return nil
}

// dropContent takes a file's contents away; the caller writes the inode.
func (b *batch) dropContent(n *inode) error {
	switch n.content {
	case contentNone:
	case contentInline:
		b.del(inlineKey(n.attr.Ino))
	case contentObject:
		pages, err := b.pagesFrom(n.object, 0)
		if err != nil {
			return err
		}
		for _, page := range pages {
			b.del(sumKey(n.object, page))
		}
		b.ranges = append(b.ranges, rangeChange{n.object, stagedRange{to: math.MaxInt64}})
		b.dead = append(b.dead, deadObject{n.object, n.valid})
	}
	n.content, n.object, n.valid, n.blocks = contentNone, 0, 0, 0
	return nil
}

// content is a writeFile's new contents, ready to be named by rows.
type content struct {
	kind   contentKind
	inline []byte
	object wire.ID
	size   int64
	sums   []uint32
	parts  []part // of extents; all else is zero then
}

func (b *batch) setContent(n *inode, c *content, created bool) {
	n.content, n.object, n.valid, n.blocks = c.kind, 0, c.size, 0
	switch c.kind {
	case contentNone:
		if c.object != 0 { // an empty stage
			b.dead = append(b.dead, deadObject{c.object, 0})
		}
	case contentInline:
		b.put(inlineKey(n.attr.Ino), append(make([]byte, 0, len(c.inline)+crcLen), c.inline...), created)
	case contentObject:
		n.object, n.blocks = c.object, int64(len(c.sums))
		b.named = append(b.named, c.object)
		page := int64(0)
		for sums := range slices.Chunk(c.sums, sumsPerPage) {
			checks := make([]blockCheck, len(sums))
			for i, sum := range sums {
				checks[i] = blockCheck{blockSum, sum}
			}
			b.put(sumKey(c.object, page), encodeSums(checks), true)
			b.notePage(c.object, page)
			page++
		}
	}
	b.resize(n, c.size)
}

// finish enters the operation's outcome and the changed keys, and forgets
// outcomes that nobody will ask for (W5, S1a).
func (b *batch) finish(tx *vote.Tx, pos wire.Position) error {
	if tx.Op.Seq != 0 {
		if err := b.forgetSession(tx); err != nil {
			return err
		}
		if err := b.expireOps(tx.ServiceTime - opsKeptMS); err != nil {
			return err
		}
		key := opTimeKey(tx.ServiceTime, tx.Op)
		b.put(opKey(tx.Op), encodeOp(tx.ServiceTime, &tx.Outcome), true)
		b.put(key, make([]byte, 0, crcLen), true)
		b.opsFrom = min(b.opsFrom, key)
	}
	b.noteChanges(pos)
	return nil
}

// opsKeptMS is how long an outcome is kept, in milliseconds of service time (S1a).
const opsKeptMS = 2 * wire.ServiceTimeHold

// maxExpired bounds the outcomes that expire with one transaction, which
// brings one.
const maxExpired = 16

// maxForgotten bounds the outcomes that go with one transaction, of those that its session
// has had; the next one goes on.
const maxForgotten = 1024

// forgetSession drops the oldest outcomes that the transaction's session has had (W5).
func (b *batch) forgetSession(tx *vote.Tx) error {
	var times []string
	err := b.m.ascend(opKey(wire.OpID{Session: tx.Op.Session}), func(key string, val []byte) (bool, error) {
		op := opOfKey(key)
		if op.Session != tx.Op.Session || len(times) == maxForgotten || op.Seq >= tx.Lowest {
			return false, nil
		}
		if len(val) < 8 {
			return false, b.m.s.damage(rowName(key) + " is malformed")
		}
		times = append(times, opTimeKey(int64(be.Uint64(val)), op))
		return true, nil
	})
	b.delOps(times)
	return err
}

// expireOps drops the oldest outcomes of before a service time. A walk begins
// where the last one ended, not among the rows that earlier ones have removed.
func (b *batch) expireOps(before int64) error {
	limit := opTimeKey(max(0, before), wire.OpID{})
	if b.opsFrom >= limit {
		return nil
	}
	var times []string
	end := limit
	err := b.m.ascend(b.opsFrom, func(key string, _ []byte) (bool, error) {
		if key >= limit || len(times) == maxExpired {
			end = key
			return false, nil
		}
		times = append(times, key)
		return true, nil
	})
	b.delOps(times)
	b.opsFrom = end
	return err
}

func (b *batch) delOps(times []string) {
	for _, key := range times {
		_, op := opOfTimeKey(key)
		b.del(opKey(op))
		b.del(key)
	}
}

// noteChanges enters what the batch changes in the index by position (P11).
// Rows by time follow from the others.
func (b *batch) noteChanges(pos wire.Position) {
	b.noteKeys(slices.DeleteFunc(slices.Clone(b.order), func(key string) bool { return key[0] == bucketOpTime }), pos, 0)
}

// noteKeys enters keys in the index, in rows of pos from a number on, and
// returns the next number.
func (b *batch) noteKeys(keys []string, pos wire.Position, chunk int) int {
	for part := range slices.Chunk(keys, changesInRow) {
		var val []byte
		for _, key := range part {
			val = binary.BigEndian.AppendUint16(val, uint16(len(key)))
			val = append(val, key...)
		}
		b.put(changeKey(pos, chunk), val, true)
		chunk++
	}
	return chunk
}
