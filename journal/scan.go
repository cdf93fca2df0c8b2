package journal

import (
	"errors"
	"fmt"
	"io"

	"tpcfs/journal/disk"
)

// readAhead is how much a reader takes from a segment at once, in bytes.
const readAhead = 256 << 10

// reader reads blocks of one segment through a window.
type reader struct {
	place // of the segment; page is set at each read
	file  disk.File
	size  int64
	buf   []byte // the window's bytes
	at    int64  // the window's offset
}

// reset aims the reader at another segment and keeps its buffer.
func (r *reader) reset(id [16]byte, number uint64, f disk.File, size int64) {
	r.place = place{id: id, segment: number}
	r.file, r.size, r.at, r.buf = f, size, 0, r.buf[:0]
}

// bytes returns n bytes at offset, which both lie in the segment. They are
// valid until the next call.
func (r *reader) bytes(offset int64, n int) ([]byte, error) {
	if offset >= r.at && offset+int64(n) <= r.at+int64(len(r.buf)) {
		return r.buf[offset-r.at:][:n], nil
	}
	want := int(min(int64(max(n, readAhead)), r.size-offset))
	if cap(r.buf) < want {
		r.buf = make([]byte, want)
	}
	r.buf, r.at = r.buf[:want], offset
	if got, err := r.file.ReadAt(r.buf, offset); got < want {
		r.buf = r.buf[:0]
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return r.buf[:n], nil
}

// badBlock says why a block does not count; read errors are other errors.
type badBlock struct {
	reason error
}

func (e *badBlock) Error() string { return e.reason.Error() }

// noBlock is what a search meets at most places.
var noBlock = &badBlock{reason: errNoBlock}

// header reads the header at a multiple of the page size.
func (r *reader) header(offset int64) (header, error) {
	b, err := r.bytes(offset, headerSize)
	if err != nil {
		return header{}, err
	}
	p := r.place
	p.page = uint32(offset / pageSize)
	h, err := parseHeader(b, p)
	if errors.Is(err, errNoBlock) {
		return header{}, noBlock
	}
	if err != nil {
		return header{}, &badBlock{reason: err}
	}
	if offset+h.length() > r.size {
		return header{}, &badBlock{reason: errors.New("block is longer than its segment")}
	}
	return h, nil
}

// block reads a whole block and verifies its checksums. The payload is valid
// until the next call.
func (r *reader) block(offset int64) (header, []byte, error) {
	h, err := r.header(offset)
	if err != nil {
		return h, nil, err
	}
	b, err := r.bytes(offset, headerSize+int(h.stored))
	if err != nil {
		return h, nil, err
	}
	payload := b[headerSize:]
	if err := h.checkPayload(payload); err != nil {
		return h, nil, &badBlock{reason: err}
	}
	return h, payload, nil
}

// chain is what a segment holds of the unbroken sequence of records.
type chain struct {
	first, last  LSN   // 0, 0 if it has no record
	used         int64 // bytes up to the end of the last block with records
	seal         LSN   // what the empty block behind them promises; 0: none
	blocks       int
	raw, written int64
	bad          *badBlock // what is at used, behind a seal at used + 4 KiB
}

// tail is where the chain's knowledge ends.
func (c *chain) tail() int64 {
	if c.seal != 0 {
		return c.used + pageSize
	}
	return c.used
}

// scan follows the blocks of a segment from its start. The first record must
// be next; any if next is 0. visit, if not nil, sees each block that counts.
func (r *reader) scan(next LSN, visit func(offset int64, h *header, payload []byte) error) (chain, error) {
	var c chain
	for c.used < r.size {
		h, payload, err := r.block(c.used)
		if err == nil && next != 0 && h.first != next {
			err = &badBlock{reason: fmt.Errorf("first LSN is %d, want %d", h.first, next)}
		}
		if errors.As(err, &c.bad) {
			return c, nil
		}
		if err != nil {
			return c, err
		}
		if visit != nil {
			if err := visit(c.used, &h, payload); err != nil {
				return c, err
			}
		}
		c.blocks++
		c.written += h.length()
		if h.count == 0 {
			// The next block with records is written over this one: no
			// block that counts is behind it.
			c.seal = h.synced
			c.bad = noBlock
			return c, nil
		}
		if c.first == 0 {
			c.first = h.first
		}
		c.last = h.last()
		c.used += h.length()
		c.raw += int64(h.raw)
		next = h.last() + 1
	}
	return c, nil
}

// evidence is what lies behind the end of the chain in one segment.
type evidence struct {
	from, to int64 // where headers of this segment's own blocks were seen; equal: none
	promise  LSN   // the greatest synced LSN in a header that is whole
	at       int64 // its offset
}

// search looks for this segment's own blocks from an offset on, whole or not,
// at every place where one could begin.
func (r *reader) search(from int64) (evidence, error) {
	e := evidence{from: from, to: from}
	for at := from; at < r.size; at += pageSize {
		h, err := r.header(at)
		var bad *badBlock
		switch {
		case err == nil:
			e.to = max(e.to, at+h.length())
			if h.synced > e.promise {
				e.promise, e.at = h.synced, at
			}
		case !errors.As(err, &bad):
			return e, err
		case !errors.Is(bad.reason, errNoBlock):
			e.to = max(e.to, at+pageSize)
		}
	}
	return e, nil
}
