package store

import (
	"github.com/tidwall/btree"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// cell is a row in a table, sealed; without a value the row is gone. fresh:
// no row lies below it, so that to delete it is to forget it.
type cell struct {
	val   []byte
	fresh bool
}

// cellCost is what a row takes in memory beside its key and value.
const cellCost = 96

// table holds the rows that were applied since a checkpoint, and what the next
// one has to do.
type table struct {
	rows  *btree.Map[string, cell] // guarded by Store.mu; frozen ones change no more
	bytes int64                    // what rows take in memory; likewise
	// ranges of objects that are still in staged ones, in order; guarded by
	// Store.mu. The lists do not change, others take their place.
	ranges map[wire.ID][]stagedRange

	// The owner's until the table is frozen, then the checkpoint's.
	dirty   map[wire.ID]disk.File // objects in the page cache, open until synced (S3)
	dead    []wire.ID             // objects to unlink once the kv names them no more
	changes int64                 // rows of the changed-keys index
}

func newTable() *table {
	return &table{rows: new(btree.Map[string, cell]), ranges: map[wire.ID][]stagedRange{}, dirty: map[wire.ID]disk.File{}}
}

// set enters a row, or removes one (no value).
func (t *table) set(key string, c cell) {
	old, had := t.rows.Get(key)
	if had {
		t.bytes -= int64(len(key)+len(old.val)) + cellCost
		c.fresh = old.fresh
	}
	if c.val == nil && c.fresh {
		t.rows.Delete(key)
		return
	}
	t.rows.Set(key, c)
	t.bytes += int64(len(key)+len(c.val)) + cellCost
}

// moment is one state of the store: the tables over the kv. It may be used
// while Store.mu is held for reading, or if it is a snapshot as long as need be;
// in both cases by one goroutine.
type moment struct {
	s              *Store
	active, frozen *btree.Map[string, cell] // frozen may be nil
	tx             KVTx                     // nil until needed, unless a snapshot
	keys           int                      // read from tx
	// renewable: the kv may be read in several transactions, for nothing but
	// the frozen table's rows can come into it meanwhile.
	renewable bool
}

// maxTxKeys bounds a read transaction of the kv (S1).
const maxTxKeys = 1000

func (m *moment) begin() error {
	if m.tx != nil && (!m.renewable || m.keys < maxTxKeys) {
		m.keys++
		return nil
	}
	m.close()
	tx, err := m.s.kv.View()
	if err != nil {
		return m.s.kvError(err)
	}
	m.tx, m.keys = tx, 1
	return nil
}

func (m *moment) close() {
	if m.tx != nil {
		m.tx.Close()
		m.tx = nil
	}
}

// get returns a row's value without its checksum.
func (m *moment) get(key string) ([]byte, bool, error) {
	c, ok := m.active.Get(key)
	if !ok && m.frozen != nil {
		c, ok = m.frozen.Get(key)
	}
	if ok {
		if c.val == nil {
			return nil, false, nil
		}
		return c.val[: len(c.val)-crcLen : len(c.val)-crcLen], true, nil
	}
	if err := m.begin(); err != nil {
		return nil, false, err
	}
	sealed, ok, err := m.tx.Get(key)
	if err != nil || !ok {
		return nil, false, m.s.kvError(err)
	}
	val, ok := unseal(key, sealed)
	if !ok {
		return nil, false, m.s.damage(rowName(key) + ": its checksum does not match")
	}
	return val, true, nil
}

// ascend calls fn with the rows of from's bucket, from that key on, in order,
// until it returns false. What fn is given it may keep. fn may use m only if it
// is a snapshot: a renewed transaction would take the walk's away.
func (m *moment) ascend(from string, fn func(key string, val []byte) (bool, error)) error {
	if err := m.begin(); err != nil {
		return err
	}
	w := merged{m: m, kv: m.tx.Seek(from), bucket: from[0]}
	w.tables = append(w.tables, newTableWalk(m.active, from))
	if m.frozen != nil {
		w.tables = append(w.tables, newTableWalk(m.frozen, from))
	}
	if err := w.nextKV(); err != nil {
		return err
	}
	for {
		key, val, ok, err := w.next()
		if err != nil || !ok {
			return err
		}
		if more, err := fn(key, val); err != nil || !more {
			return err
		}
	}
}

// merged walks tables and kv as one: of equal keys the newest counts.
type merged struct {
	m      *moment
	bucket byte
	tables []*tableWalk // newest first
	kv     KVCursor
	key    string // of the kv's row; "" after the last
	val    []byte // sealed
}

type tableWalk struct {
	it btree.MapIter[string, cell]
	ok bool
}

func newTableWalk(rows *btree.Map[string, cell], from string) *tableWalk {
	w := &tableWalk{it: rows.Iter()}
	w.ok = w.it.Seek(from) && w.it.Key()[0] == from[0]
	return w
}

func (w *tableWalk) next(bucket byte) { w.ok = w.it.Next() && w.it.Key()[0] == bucket }

func (w *merged) nextKV() error {
	key, val, ok, err := w.kv.Next()
	if err != nil {
		return w.m.s.kvError(err)
	}
	w.m.keys++
	if !ok {
		key = ""
	}
	w.key, w.val = key, val
	return nil
}

// next returns the next row that is not gone.
func (w *merged) next() (key string, val []byte, ok bool, err error) {
	for {
		key, found := w.key, w.key != ""
		for _, t := range w.tables {
			if t.ok && (!found || t.it.Key() < key) {
				key, found = t.it.Key(), true
			}
		}
		if !found {
			return "", nil, false, nil
		}
		sealed, live, fromKV := w.val, true, true
		for i := len(w.tables) - 1; i >= 0; i-- {
			if t := w.tables[i]; t.ok && t.it.Key() == key {
				sealed, live, fromKV = t.it.Value().val, t.it.Value().val != nil, false
				t.next(w.bucket)
			}
		}
		if w.key == key {
			if err := w.nextKV(); err != nil {
				return "", nil, false, err
			}
		}
		if !live {
			continue
		}
		if !fromKV {
			return key, sealed[: len(sealed)-crcLen : len(sealed)-crcLen], true, nil
		}
		val, ok := unseal(key, sealed)
		if !ok {
			return "", nil, false, w.m.s.damage(rowName(key) + ": its checksum does not match")
		}
		return key, val, true, nil
	}
}

// inode reads an inode row; CodeNotExist when there is none.
func (m *moment) inode(ino wire.Ino) (inode, error) {
	val, ok, err := m.get(inodeKey(ino))
	if err != nil {
		return inode{}, err
	}
	if !ok {
		return inode{}, &wire.Error{Code: wire.CodeNotExist, Name: wire.At{Dir: ino}.String()}
	}
	n, err := decodeInode(ino, val)
	if err != nil {
		return inode{}, m.s.damage(err.Error())
	}
	return n, nil
}

// lookup reads an entry; CodeNotExist when there is none.
func (m *moment) lookup(dir wire.Ino, name string) (wire.Ino, error) {
	val, ok, err := m.get(entryKey(dir, name))
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return 0, &wire.Error{Code: wire.CodeNotExist, Name: wire.At{Dir: dir, Path: name}.String()}
	case len(val) != 8:
		return 0, m.s.damage(rowName(entryKey(dir, name)) + " is malformed")
	}
	return wire.Ino(be.Uint64(val)), nil
}

// sums reads the checksums of an object's blocks [from, to).
func (m *moment) sums(object wire.ID, from, to int64) ([]blockCheck, error) {
	blocks := make([]blockCheck, to-from)
	for page := from / sumsPerPage; page*sumsPerPage < to; page++ {
		val, ok, err := m.get(sumKey(object, page))
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		part, err := decodeSums(val)
		if err != nil {
			return nil, m.s.damage(rowName(sumKey(object, page)) + ": " + err.Error())
		}
		for i, c := range part {
			if b := page*sumsPerPage + int64(i); b >= from && b < to {
				blocks[b-from] = c
			}
		}
	}
	return blocks, nil
}
