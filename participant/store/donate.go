package store

import (
	"slices"
	"strings"

	"tpcfs/wire"
)

// Donate reads what a newcomer needs of this store (P11): rows, those changed
// after a position or all, a page at a time, or blocks of an object. Rows are
// of one moment in each page; applies and checkpoints go on. It leaves
// Donated.Position to the caller. Any goroutine may call it.
func (s *Store) Donate(req wire.Donate) (d wire.Donated, body []byte, err error) {
	switch {
	case req.Ino != 0:
		d.Version, d.Blocks, body, err = s.donateBlocks(&req)
	case req.Full:
		d.Cursor, body, err = s.donateAll(req.Cursor)
	default:
		d.TooOld, d.Cursor, body, err = s.donateChanges(req.Since, req.Cursor)
	}
	if err != nil {
		return wire.Donated{}, nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	d.Files, d.Bytes = s.counts.Files, s.counts.Bytes
	return d, body, nil
}

func badCursor() error {
	return &wire.Error{Code: wire.CodeInvalid, Op: "donate", Text: "a cursor that no answer has given"}
}

// indexRow is a row of the changed-keys index.
type indexRow struct {
	key  string
	keys []string
}

// donatedKeys bounds the keys of a page; each takes one of the kv's reads, and
// so does each row of the index.
const donatedKeys = maxTxKeys / 4

// donateChanges returns the rows that the index names after since. The cursor
// is the key of an index row and how many of its keys were given.
func (s *Store) donateChanges(since wire.Position, cursor []byte) (tooOld bool, next, body []byte, err error) {
	from, skip := changeKey(wire.Position{Epoch: since.Epoch, Index: since.Index + 1}, 0), 0
	if cursor != nil {
		if len(cursor) != changeKeyLen+2 || cursor[0] != bucketChange {
			return false, nil, nil, badCursor()
		}
		from, skip = string(cursor[:changeKeyLen]), int(be.Uint16(cursor[changeKeyLen:]))
	}
	err = s.look(func(m *moment) error {
		if tooOld = since.Before(s.counts.ChangesFrom); tooOld {
			return nil
		}
		index, more, err := m.changesFrom(from, donatedKeys)
		if err != nil {
			return err
		}
		p := &page{m: m, seen: map[string]bool{}}
		for _, x := range index {
			for i := min(skip, len(x.keys)); i < len(x.keys); i++ {
				full, err := p.add(x.keys[i])
				if err != nil {
					return err
				}
				if full {
					next = be.AppendUint16([]byte(x.key), uint16(i))
					body = p.body
					return nil
				}
			}
			skip = 0
		}
		if more != "" {
			next = be.AppendUint16([]byte(more), 0)
		}
		body = p.body
		return nil
	})
	return tooOld, next, body, err
}

// changesFrom returns rows of the index from a key on, with about limit keys,
// and the key of the next row, if there is one.
func (m *moment) changesFrom(from string, limit int) (index []indexRow, more string, err error) {
	n := 0
	err = m.ascend(from, func(key string, val []byte) (bool, error) {
		if n >= limit {
			more = key
			return false, nil
		}
		x := indexRow{key: key}
		for len(val) > 0 {
			if len(val) < 2 || int(be.Uint16(val)) == 0 || len(val)-2 < int(be.Uint16(val)) {
				return false, m.s.damage(rowName(key) + " is malformed")
			}
			end := 2 + int(be.Uint16(val))
			x.keys = append(x.keys, string(val[2:end]))
			val = val[end:]
		}
		n += 1 + len(x.keys)
		index = append(index, x)
		return true, nil
	})
	return index, more, err
}

// page collects rows up to a page's size.
type page struct {
	m    *moment
	seen map[string]bool
	body []byte
}

// add puts the row of a key, or that there is none, on the page; full: it has
// no place there.
func (p *page) add(key string) (full bool, err error) {
	if p.seen[key] {
		return false, nil
	}
	val, ok, err := p.m.get(key)
	if err != nil {
		return false, err
	}
	return p.put(wire.Row{Key: key, Val: val, Gone: !ok}), nil
}

func (p *page) put(r wire.Row) (full bool) {
	if len(p.body) > 0 && len(p.body)+wire.RowSize(r) > wire.DonatedBytes {
		return true
	}
	if p.seen != nil {
		p.seen[r.Key] = true
	}
	p.body = wire.AppendRow(p.body, r)
	return false
}

// copiedBuckets are compared in full, in this order. Rows of operations by time
// follow from the others, the index does not count.
var copiedBuckets = []byte{bucketEntry, bucketInode, bucketInline, bucketXattr, bucketOrphan, bucketOp, bucketSum}

// donateAll returns a page of all rows. The cursor is the key of its first.
func (s *Store) donateAll(cursor []byte) (next, body []byte, err error) {
	from := string(copiedBuckets[:1])
	if cursor != nil {
		from = string(cursor)
		if from == "" || len(from) > maxKeyLen || slices.Index(copiedBuckets, from[0]) < 0 {
			return nil, nil, badCursor()
		}
	}
	n, after := 0, ""
	p := &page{}
	err = s.look(func(m *moment) error {
		p.m = m
		return m.ascend(from, func(key string, val []byte) (bool, error) {
			if n++; n > maxTxKeys/2 || p.put(wire.Row{Key: key, Val: val}) {
				after = key
				return false, nil
			}
			return true, nil
		})
	})
	if at := slices.Index(copiedBuckets, from[0]) + 1; after == "" && at < len(copiedBuckets) {
		after = string(copiedBuckets[at : at+1])
	}
	if after != "" {
		next = []byte(after)
	}
	return next, p.body, err
}

// donateBlocks reads and verifies blocks, of one version of the file. Those that
// the object does not hold any more are left out.
func (s *Store) donateBlocks(req *wire.Donate) (version wire.ID, list []wire.DonatedBlock, body []byte, err error) {
	if len(req.Blocks) == 0 || len(req.Blocks) > wire.MaxDonated || !slices.IsSorted(req.Blocks) || req.Blocks[0] < 0 ||
		req.Blocks[0]/sumsPerPage != req.Blocks[len(req.Blocks)-1]/sumsPerPage {
		return 0, nil, nil, &wire.Error{Code: wire.CodeInvalid, Op: "donate", Text: "blocks that are not of one page of checksums, or too many"}
	}
	r, err := s.readerOf(req.Ino, req.Object, req.Blocks[0], req.Blocks[len(req.Blocks)-1]+1)
	if err != nil || r == nil {
		return 0, nil, nil, err
	}
	defer r.close()
	if err := r.open(); err != nil {
		return 0, nil, nil, err
	}
	buf := make([]byte, wire.BlockSize)
	s.share(r.pin)
	defer r.pin.mu.RUnlock()
	for _, b := range req.Blocks {
		i, size := b-r.first, min(wire.BlockSize, r.valid-b*wire.BlockSize)
		if i >= int64(len(r.checks)) || !r.checks[i].state.isBytes() || size <= 0 {
			continue
		}
		err := r.block(b, buf)
		if wire.CodeOf(err) == wire.CodeChanged {
			continue
		}
		if err != nil {
			return 0, nil, nil, err
		}
		list = append(list, wire.DonatedBlock{Block: b, Sum: r.checks[i].sum, Size: int(size)})
		body = append(body, buf[:size]...)
	}
	return r.version, list, body, nil
}

// readerOf returns a reader of an inode's object, nil if it is not that
// inode's, or has no block of [first, end), any more.
func (s *Store) readerOf(ino wire.Ino, object wire.ID, first, end int64) (r *reader, err error) {
	for {
		r = nil
		err = s.look(func(m *moment) error {
			n, err := m.inode(ino)
			if wire.CodeOf(err) == wire.CodeNotExist {
				return nil
			}
			if err != nil || n.content != contentObject || n.object != object || first >= blocksOf(n.valid) {
				return err
			}
			r, err = m.reader(&n, first, min(end, blocksOf(n.valid)))
			return err
		})
		if err != nil || r == nil || !r.again {
			return r, err
		}
		r.wait()
		r.close()
	}
}

// sumPageOf reads what a key of a row of checksums says.
func sumPageOf(key string) (object wire.ID, page int64) {
	return wire.ID(be.Uint64([]byte(key[1:9]))), int64(be.Uint32([]byte(key[9:13])))
}

// inRange tells whether a key is in [from, next) of from's bucket; next of
// another bucket, or none, is its end.
func inRange(key, from, next string) bool {
	return key[0] == from[0] && key >= from && (next == "" || next[0] != from[0] || strings.Compare(key, next) < 0)
}
