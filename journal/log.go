package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
)

// compressFrom is the raw payload, in bytes, below which zstd is not tried:
// one page less saves no time in a sync, and zstd costs some (see
// BenchmarkCompress).
const compressFrom = 12 << 10

// Log is a journal without goroutines. It must not be used concurrently.
type Log struct {
	files
	id       [16]byte
	opts     Options
	recovery Recovery

	q       queue // appended, not yet written
	end     LSN   // last appended
	written LSN   // last in the segment files
	synced  LSN   // last durable
	dirty   bool  // the active segment holds blocks that are not synced
	promise LSN   // what an empty block after the last one promises; 0: none is there
	err     error // sticky

	segs   []*segment // with records, oldest first; the last is the active one
	spares []*segment // ready, in order
	auto   bool       // the active segment began without NewSegment

	// Making and retiring segments. With background set, jobs are given to it
	// one at a time and the results come by handleResult.
	cut        []*segment // cut, not yet recycled or removed; oldest first
	background func(job)
	await      func() result // waits for the job that is under way
	busy       *job
	spareErr   error // why the last spare could not be made; nil if it could

	out   []byte // encoded block, reused
	stats Stats  // counters only
}

// result is what became of a job.
type result struct {
	seg *segment
	err error
}

// ID is the journal's random name.
func (l *Log) ID() [16]byte { return l.id }

// First is the oldest record kept, End()+1 if there is none.
func (l *Log) First() LSN {
	if first := l.segs[0].first; first != 0 {
		return first
	}
	return l.written + 1
}

// End is the last record appended, durable or not; 0 if there never was one.
func (l *Log) End() LSN { return l.end }

// Synced is the last record that is durable.
func (l *Log) Synced() LSN { return l.synced }

// Recovery tells what Open had to repair.
func (l *Log) Recovery() Recovery { return l.recovery }

// MaxRecord is the largest record that Append takes, in bytes: 1 MiB, or less
// in a journal of very small segments.
func (l *Log) MaxRecord() int { return maxRecordFor(l.size) }

// Append copies record into memory as the next one. It is durable when Synced
// has reached its LSN. Errors: ErrTooLarge, ErrClosed, the sticky one.
func (l *Log) Append(record []byte) (LSN, error) {
	if l.err != nil {
		return 0, l.err
	}
	if len(record) > l.MaxRecord() {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(record), l.MaxRecord())
	}
	l.end++
	l.q.add(l.end, record)
	return l.end, nil
}

// NewSegment makes the next appended record the first of a segment.
func (l *Log) NewSegment() error {
	if l.err == nil {
		l.q.newSegment = true
	}
	return l.err
}

// SegmentFull tells the owner that it is time for NewSegment: the newest
// segment has less than a quarter left, or was begun without NewSegment.
func (l *Log) SegmentFull() bool { return l.q.fill(l.fill()).full(l.size) }

func (l *Log) fill() fill { return fill{used: l.active().used, auto: l.auto} }

func (l *Log) active() *segment { return l.segs[len(l.segs)-1] }

// Flush writes all appended records and makes them durable. A *FullError is
// not sticky; after any other error nothing more is ever reported durable.
func (l *Log) Flush() error {
	if l.err != nil {
		return l.err
	}
	if err := l.flush(); err != nil {
		return err
	}
	l.maintain()
	return l.err
}

// flush is Flush without making spares.
func (l *Log) flush() error {
	err := l.write()
	// What was written before the disk was full counts all the same.
	if syncErr := l.sync(); syncErr != nil {
		return syncErr
	}
	return err
}

// write puts the queue into segments, block after block.
func (l *Log) write() error {
	for len(l.q.chunks) > 0 {
		if err := l.writeChunk(l.q.chunks[0]); err != nil {
			return err
		}
		l.q.pop()
	}
	return nil
}

func (l *Log) writeChunk(c *chunk) error {
	h := header{
		id: l.id, first: c.first, count: uint32(c.count),
		raw: uint32(len(c.raw())), stored: uint32(len(c.raw())),
	}
	block := l.encode(c, &h)
	if c.newSegment && l.active().used > 0 || l.active().used+h.length() > l.size {
		if err := l.roll(); err != nil {
			return err
		}
		l.auto = !c.newSegment
	} else if c.newSegment {
		l.auto = false // this segment is empty
	}
	if err := l.writeBlock(&h, block); err != nil {
		return err
	}
	a := l.active()
	if a.first == 0 {
		a.first = h.first
	}
	a.last, l.written = h.last(), h.last()
	a.used += h.length()
	l.promise = 0
	l.stats.Records += uint64(h.count)
	l.stats.RawBytes += uint64(h.raw)
	return nil
}

// encode returns the block with room for its header, padded, and completes h.
func (l *Log) encode(c *chunk, h *header) []byte {
	block := c.buf
	if len(c.raw()) >= compressFrom {
		if cap(l.out) < headerSize {
			l.out = make([]byte, headerSize, len(c.buf))
		}
		out := encoder.EncodeAll(c.raw(), l.out[:headerSize])
		// Fewer bytes in as many pages would only cost the reader time.
		if blockLength(len(out)-headerSize) < blockLength(len(c.raw())) {
			block = out
			h.zstd, h.stored = true, uint32(len(out)-headerSize)
		}
		l.out = nil
		if cap(out) <= keepBuffer {
			l.out = out
		}
	}
	h.sum = crc32.Checksum(block[headerSize:], castagnoli)
	pad := int(h.length()) - len(block)
	padded := append(block, zeroPage[:pad]...)
	if !h.zstd {
		c.buf = padded[:len(c.buf)] // keep what append allocated
	}
	return padded
}

// zeroPage pads; nobody writes to it.
var zeroPage [pageSize]byte

// writeBlock completes the header and writes the block behind the last one,
// over an empty block if one is there: that one is no longer needed when this
// one, which promises as much, is there, and lost only if this one is torn.
func (l *Log) writeBlock(h *header, block []byte) error {
	a := l.active()
	h.segment, h.page, h.synced = a.number, uint32(a.used/pageSize), l.synced
	putHeader(block, h)
	l.dirty = true
	// From a segment's first block on: until then it is read.
	if err := a.file.Direct(); err != nil {
		return l.fail("write past the cache of", a, err)
	}
	if _, err := a.file.WriteAt(block, a.used); err != nil {
		return l.fail("write", a, err)
	}
	l.stats.Blocks++
	l.stats.StoredBytes += uint64(len(block))
	return nil
}

// sync makes durable what is written.
func (l *Log) sync() error {
	if l.err != nil || !l.dirty || l.written == l.synced {
		return l.err
	}
	if err := l.active().file.Sync(); err != nil {
		return l.fail("sync", l.active(), err)
	}
	l.stats.Syncs++
	l.dirty = false
	l.synced = l.written
	return nil
}

// roll makes the next segment the active one. Everything before it is durable
// by then: only the newest segment can be torn.
func (l *Log) roll() error {
	if err := l.sync(); err != nil {
		return err
	}
	if err := l.needSpare(); err != nil {
		return err
	}
	l.segs = append(l.segs, l.spares[0])
	l.spares = l.spares[1:]
	l.promise = 0
	l.dirty = false
	return nil
}

// Seal closes an idle journal with an empty block that promises the last
// synced record, so that its loss would be noticed (J3). The block itself is
// not synced, and the next record takes its place. Seal does nothing while
// records wait to be synced, or if it is done already.
func (l *Log) Seal() error {
	if l.err != nil {
		return l.err
	}
	l.spareErr = nil // the owner's tick: try again
	l.maintain()
	return l.seal()
}

// seal is Seal without making spares.
func (l *Log) seal() error {
	if l.err != nil || l.synced == 0 || l.synced != l.end || l.promise == l.synced {
		return l.err
	}
	if l.active().used+pageSize > l.size {
		if len(l.spares) == 0 {
			return nil // not worth making a segment for
		}
		if err := l.roll(); err != nil {
			return err
		}
		l.auto = true
	}
	h := header{id: l.id, first: l.synced + 1}
	block := make([]byte, pageSize)
	if err := l.writeBlock(&h, block); err != nil {
		return err
	}
	l.promise = l.synced
	a := l.active()
	if err := a.file.StartWriteback(a.used, pageSize); err != nil {
		return l.fail("start writeback", a, err)
	}
	return nil
}

// fail makes the error sticky (P12).
func (l *Log) fail(op string, s *segment, err error) error {
	l.err = failed(op, l.path(segmentName(s.number)), err)
	return l.err
}

// Stats describes the journal now.
func (l *Log) Stats() Stats {
	s := l.stats
	s.ID, s.First, s.End, s.Synced = l.id, l.First(), l.end, l.synced
	s.Segments, s.Spares = len(l.segs), len(l.spares)
	s.SegmentBytes, s.Bytes = l.size, int64(len(l.segs))*l.size
	s.ActiveBytes, s.PendingBytes = l.active().used, l.q.bytes
	s.Full = l.SegmentFull()
	if l.spareErr != nil {
		s.SpareError = l.spareErr.Error()
	}
	return s
}

// Close makes everything durable, seals the journal, and closes its files. It
// returns the sticky error if there is one; after it everything answers
// ErrClosed. A *FullError means that what was appended last is not durable.
func (l *Log) Close() error {
	if errors.Is(l.err, ErrClosed) {
		return nil
	}
	err := l.err
	if err == nil {
		err = l.flush()
	}
	if err == nil {
		err = l.seal()
	}
	if err == nil && l.dirty {
		if syncErr := l.active().file.Sync(); syncErr != nil {
			err = l.fail("sync", l.active(), syncErr)
		}
	}
	l.err = ErrClosed
	for _, list := range [][]*segment{l.cut, l.segs, l.spares} {
		for _, s := range list {
			if closeErr := s.file.Close(); closeErr != nil && err == nil {
				err = failed("close", l.path(segmentName(s.number)), closeErr)
			}
		}
	}
	return err
}
