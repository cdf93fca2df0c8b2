package store

import (
	"context"
	"crypto/sha256"
	"slices"

	"tpcfs/wire"
)

// Bounds of one Verify.
const (
	verifiedFiles = 256  // inodes that are looked at
	verifiedPages = 1024 // pages of checksums that are looked at: a file may be nearly all holes
	rottenBlocks  = 1024 // blocks that are told
)

// Verify reads contents from the disk and verifies them: of the inodes from the
// cursor on, which is an inode's number and a block's, about so many bytes. Applies
// and checkpoints go on. Any goroutine may call it.
func (s *Store) Verify(ctx context.Context, req wire.Verify) (wire.Verified, error) {
	v := scrubbing{s: s, ctx: ctx, left: min(max(req.Bytes, wire.BlockSize), wire.MaxVerify)}
	ino, block := wire.Ino(0), int64(0)
	if len(req.Cursor) > 0 {
		if len(req.Cursor) != 16 {
			return wire.Verified{}, &wire.Error{Code: wire.CodeInvalid, Op: "verify", Text: "a cursor that no answer has given"}
		}
		ino, block = wire.Ino(be.Uint64(req.Cursor)), int64(min(be.Uint64(req.Cursor[8:]), uint64(blocksOf(wire.MaxFileSize))))
	}
	list, next, err := s.inodesFrom(ino)
	if err != nil {
		return wire.Verified{}, err
	}
	cursor := func(ino wire.Ino, block int64) []byte {
		return be.AppendUint64(be.AppendUint64(nil, uint64(ino)), uint64(block))
	}
	for i := range list {
		n := &list[i]
		if n.attr.Ino != ino {
			block = 0
		}
		if block == 0 && n.isRegular() {
			v.Files++
		}
		if n.content != contentObject {
			continue
		}
		if block, err = v.object(n, block); err != nil {
			return wire.Verified{}, err
		}
		if block >= 0 {
			v.Cursor = cursor(n.attr.Ino, block)
			break
		}
	}
	if v.Cursor == nil && next != 0 {
		v.Cursor = cursor(next, 0)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	v.Total = s.counts.Bytes
	return v.Verified, nil
}

// inodesFrom returns inodes from a number on; next is the one after them, 0: none.
func (s *Store) inodesFrom(from wire.Ino) (list []inode, next wire.Ino, err error) {
	err = s.look(func(m *moment) error {
		return m.ascend(inodeKey(from), func(key string, val []byte) (bool, error) {
			ino := wire.Ino(be.Uint64([]byte(key[1:])))
			if len(list) == verifiedFiles {
				next = ino
				return false, nil
			}
			n, err := decodeInode(ino, val)
			if err != nil {
				return false, s.damage(err.Error())
			}
			list = append(list, n)
			return true, nil
		})
	})
	return list, next, err
}

// scrubbing is one Verify under way.
type scrubbing struct {
	wire.Verified
	s      *Store
	ctx    context.Context
	left   int64 // bytes that may be read still
	pages  int   // that were looked at
	rotten int
}

// object verifies an inode's blocks from a number on, and returns where to go on;
// -1: that was the end. What has changed meanwhile is verified when it is read.
func (v *scrubbing) object(n *inode, block int64) (int64, error) {
	for end := blocksOf(n.valid); block < end; {
		if v.left <= 0 || v.pages >= verifiedPages || v.rotten >= rottenBlocks {
			return block, nil
		}
		if err := ctxError(v.ctx, "verify"); err != nil {
			return 0, err
		}
		v.pages++
		r, err := v.s.readerOf(n.attr.Ino, n.object, block, min(end, (block/sumsPerPage+1)*sumsPerPage))
		if err != nil {
			return 0, err
		}
		if r == nil {
			return -1, nil
		}
		lack := wire.Lack{Ino: n.attr.Ino, Object: n.object}
		block, err = v.page(r, &lack, min(end, (block/sumsPerPage+1)*sumsPerPage))
		r.close()
		if err != nil {
			return 0, err
		}
		if len(lack.Blocks) > 0 {
			v.Rotten, v.rotten = append(v.Rotten, lack), v.rotten+len(lack.Blocks)
		}
	}
	return -1, nil
}

// page verifies a reader's blocks up to one, and returns the first that it did not
// come to.
func (v *scrubbing) page(r *reader, lack *wire.Lack, to int64) (int64, error) {
	if !slices.ContainsFunc(r.checks, func(c blockCheck) bool { return c.state.isBytes() }) {
		return to, nil
	}
	err := r.open()
	missing := wire.CodeOf(err) == wire.CodeCorrupt
	if err != nil && !missing {
		return 0, err
	}
	if !missing {
		if err := r.file.DropCache(); err != nil { // of the disk is to be read (J3)
			return 0, &wire.Error{Code: wire.CodeIO, Op: "verify", Name: v.s.objectPath(r.id), Text: err.Error()}
		}
	}
	buf := make([]byte, wire.BlockSize)
	for i, check := range r.checks {
		b := r.first + int64(i)
		if !check.state.isBytes() {
			continue
		}
		if v.left <= 0 {
			return b, nil
		}
		code := wire.CodeCorrupt
		if !missing {
			v.s.share(r.pin)
			err := r.block(b, buf)
			r.next = b + 1
			r.pin.mu.RUnlock()
			if code = wire.CodeOf(err); code == wire.CodeUnavailable {
				return 0, err
			}
		}
		size := min(wire.BlockSize, r.valid-b*wire.BlockSize)
		v.left, v.Bytes = v.left-size, v.Bytes+size
		if code == wire.CodeCorrupt {
			lack.Blocks = append(lack.Blocks, b)
		}
	}
	return to, nil
}

// Moment is the rows of one moment; any one goroutine may use it. It keeps the kv's
// space of before: Close it soon.
type Moment struct{ m *moment }

// Moment returns the rows of now. Owner only.
func (s *Store) Moment() (*Moment, error) {
	m, err := s.snapshot()
	if err != nil {
		if m != nil {
			m.close()
		}
		return nil, err
	}
	return &Moment{m}, nil
}

// Close ends the use of the moment.
func (m *Moment) Close() { m.m.close() }

// Bounds of the rows that are compared at once.
const (
	chosenRows   = maxTxKeys / 4
	comparedRows = maxTxKeys - 2
)

// Compare makes a digest of the rows in a range of keys, and with req.Rows one of
// each. It leaves Compared.Position to the caller.
func (m *Moment) Compare(req wire.Compare) (c wire.Compared, body []byte, err error) {
	from := string(copiedBuckets[:1])
	if len(req.From) > 0 {
		from = string(req.From)
	}
	bucket := slices.Index(copiedBuckets, from[0])
	if len(from) > maxKeyLen+1 || bucket < 0 || len(req.Next) > maxKeyLen+1 {
		return c, nil, &wire.Error{Code: wire.CodeInvalid, Op: "compare", Text: "a range of keys that there are none in"}
	}
	sum, next, size := sha256.New(), "", 0
	err = m.m.ascend(from, func(key string, val []byte) (bool, error) {
		size += len(key) + len(val)
		switch {
		case !req.Choose && !inRange(key, from, string(req.Next)):
			return false, nil
		case req.Choose && (c.Rows == chosenRows || c.Rows > 0 && size > wire.DonatedBytes):
			next = key
			return false, nil
		case c.Rows == comparedRows:
			c.More = true
			return false, nil
		}
		c.Rows++
		one := sha256.Sum256(append(be.AppendUint16(nil, uint16(len(key))), key+string(val)...))
		sum.Write(one[:])
		if req.Rows {
			body = wire.AppendRow(body, wire.Row{Key: key, Val: append(one[:wire.RowDigest:wire.RowDigest], rowName(key)...)})
		}
		return true, nil
	})
	if err != nil {
		return wire.Compared{}, nil, err
	}
	if c.Digest = sum.Sum(nil); !req.Choose {
		return c, body, nil
	}
	if next == "" && bucket+1 < len(copiedBuckets) {
		next = string(copiedBuckets[bucket+1 : bucket+2])
	}
	c.Next = []byte(next)
	return c, body, nil
}
