package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"tpcfs/journal/disk"
)

// Open opens the journal in a directory, or makes one there if there is none.
// After a crash it cuts what was torn, keeping a copy (J3); everything that
// it returns is durable. Errors: *CorruptError, and then nothing was changed;
// *FullError while making a new journal; the file system's.
func Open(o Options) (*Log, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	m := files{fs: o.FS, dir: o.Dir, size: o.SegmentSize}
	if err := m.fs.MkdirAll(m.dir); err != nil {
		return nil, err
	}
	// A process that was killed may have left names that are not durable.
	if err := m.syncDir(); err != nil {
		return nil, err
	}
	names, err := m.list()
	if err != nil {
		return nil, err
	}
	if !names.ident {
		if err := m.make(&o, names); err != nil {
			return nil, err
		}
		if names, err = m.list(); err != nil {
			return nil, err
		}
	}
	return m.open(&o, names)
}

// names is the journal's part of a directory listing.
type names struct {
	ident    bool
	segments []uint64 // ascending
	sizes    []int64
	tmp      []string
	torn     []string
}

func (m *files) list() (names, error) {
	var n names
	list, err := m.fs.ReadDir(m.dir)
	if err != nil {
		return n, err
	}
	for _, e := range list {
		number, isSegment := segmentNumber(e.Name)
		switch {
		case e.IsDir:
		case isSegment:
			n.segments = append(n.segments, number)
			n.sizes = append(n.sizes, e.Size)
		case e.Name == identName:
			n.ident = true
		case strings.HasSuffix(e.Name, segmentSuffix+tmpSuffix), e.Name == identName+tmpSuffix,
			strings.HasPrefix(e.Name, tornPrefix) && strings.HasSuffix(e.Name, tmpSuffix):
			n.tmp = append(n.tmp, e.Name)
		case strings.HasPrefix(e.Name, tornPrefix) && strings.HasSuffix(e.Name, tornSuffix):
			n.torn = append(n.torn, e.Name)
		}
	}
	return n, nil
}

// make makes a new journal: a first segment, then the identity file. Before
// that is durable there is no journal, and a crash begins again.
func (m *files) make(o *Options, n names) error {
	if err := m.checkUnmade(n); err != nil {
		return err
	}
	for _, number := range n.segments {
		if err := m.fs.Remove(m.path(segmentName(number))); err != nil {
			return failed("remove", m.path(segmentName(number)), err)
		}
	}
	if err := m.removeTmp(n); err != nil {
		return err
	}
	s, err := m.create(1)
	if err != nil {
		return err
	}
	if err := s.file.Close(); err != nil {
		return failed("close", m.path(segmentName(1)), err)
	}
	return m.putFile(identName, func(f disk.File) error {
		_, err := f.WriteAt(encodeIdent(o.ID, m.size), 0)
		return err
	})
}

// checkUnmade tells a journal whose making was interrupted, which has at most
// an empty first segment, from one that has lost its identity file.
func (m *files) checkUnmade(n names) error {
	lost := &CorruptError{File: m.path(identName), Reason: "the identity file is missing"}
	if len(n.segments) == 0 {
		return nil
	}
	if len(n.segments) > 1 || n.segments[0] != 1 {
		return lost
	}
	f, err := m.fs.Open(m.path(segmentName(1)))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	page := make([]byte, pageSize)
	for at := int64(0); at < n.sizes[0]; at += pageSize {
		got, err := f.ReadAt(page, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if strings.HasPrefix(string(page[:got]), blockMagic) {
			return lost
		}
	}
	return nil
}

func (m *files) removeTmp(n names) error {
	for _, name := range n.tmp {
		if err := m.fs.Remove(m.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return failed("remove", m.path(name), err)
		}
	}
	if len(n.tmp) == 0 {
		return nil
	}
	return m.syncDir()
}

// open is the way of every start: read, validate, repair, and only then
// assign.
func (m *files) open(o *Options, n names) (*Log, error) {
	id, err := m.readIdent()
	if err != nil {
		return nil, err
	}
	if err := m.checkNames(n); err != nil {
		return nil, err
	}
	segs, err := m.openSegments(n)
	if err != nil {
		return nil, err
	}
	l, err := m.recover(o, id, segs, n)
	if err != nil {
		for _, s := range segs {
			_ = s.file.Close() // nothing was written that is to be kept
		}
		return nil, err
	}
	return l, nil
}

// readIdent reads the identity file and sets the segment size from it.
func (m *files) readIdent() ([16]byte, error) {
	name := m.path(identName)
	f, err := m.fs.Open(name)
	if err != nil {
		return [16]byte{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	if err := f.DropCache(); err != nil {
		return [16]byte{}, err
	}
	b := make([]byte, identSize+1) // one more, to notice a longer file
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return [16]byte{}, err
	}
	id, size, err := decodeIdent(b[:n])
	if err != nil {
		return id, &CorruptError{File: name, Reason: err.Error()}
	}
	m.size = size
	return id, nil
}

// checkNames checks what holds after every crash (segment.go).
func (m *files) checkNames(n names) error {
	if len(n.segments) == 0 {
		return &CorruptError{File: m.path(segmentName(1)), Reason: "every segment is missing"}
	}
	for i, number := range n.segments {
		if want := n.segments[0] + uint64(i); number != want {
			return &CorruptError{File: m.path(segmentName(want)), Reason: "the segment is missing"}
		}
		if n.sizes[i] != m.size {
			return &CorruptError{File: m.path(segmentName(number)), Offset: n.sizes[i],
				Reason: fmt.Sprintf("the file is %d bytes long, want %d", n.sizes[i], m.size)}
		}
	}
	return nil
}

// openSegments opens all segments so that what is read of them is what the
// disk has: after a failed fsync the page cache has more (J3).
func (m *files) openSegments(n names) (segs []*segment, err error) {
	defer func() {
		if err != nil {
			for _, s := range segs {
				_ = s.file.Close() // the error is reported
			}
		}
	}()
	for _, number := range n.segments {
		name := m.path(segmentName(number))
		f, err := m.fs.Open(name)
		if err != nil {
			return segs, err
		}
		segs = append(segs, &segment{number: number, file: f})
		if err := f.Sync(); err != nil {
			return segs, failed("sync", name, err)
		}
		if err := f.DropCache(); err != nil {
			return segs, err
		}
	}
	return segs, nil
}

// torn is a piece of a segment that recovery must cut.
type torn struct {
	seg      *segment
	from, to int64
}

// survey is the result of reading a journal's segments.
type survey struct {
	chains []chain // one for each segment
	active int     // index of the segment that holds the end
	last   LSN
	torn   []torn
}

// survey follows the chain of records through the segments, and decides
// whether what is behind its end is a torn tail or corruption (J3). It
// changes nothing. On corruption, what was read so far comes with the error.
func (m *files) survey(id [16]byte, segs []*segment, visit func(s *segment, offset int64, h *header, payload []byte) error) (survey, error) {
	var v survey
	var r reader
	next := LSN(0) // the oldest segment may begin with any record
	if segs[0].number == 1 {
		next = 1
	}
	for i, s := range segs {
		r.reset(id, s.number, s.file, m.size)
		var see func(int64, *header, []byte) error
		if visit != nil {
			see = func(offset int64, h *header, payload []byte) error { return visit(s, offset, h, payload) }
		}
		c, err := r.scan(next, see)
		if err != nil {
			return v, err
		}
		v.chains = append(v.chains, c)
		if c.blocks == 0 && i > 0 {
			continue // a spare, or the end was lost: searchTail knows
		}
		if i > 0 && (i > v.active+1 || v.chains[v.active].first == 0) {
			return v, m.corrupt(segs[v.active], v.chains[v.active].tail(), v.chains[v.active].bad,
				"but "+segmentName(s.number)+" goes on")
		}
		v.active = i
		if c.first != 0 {
			v.last, next = c.last, c.last+1
		}
	}
	if v.last == 0 && segs[0].number > 1 {
		return v, m.corrupt(segs[0], 0, v.chains[0].bad, "older segments were cut, so it held records")
	}
	err := m.searchTail(id, segs, &v)
	return v, err
}

// searchTail searches everything behind the end of the chain.
func (m *files) searchTail(id [16]byte, segs []*segment, v *survey) error {
	var r reader
	for i := v.active; i < len(segs); i++ {
		r.reset(id, segs[i].number, segs[i].file, m.size)
		e, err := r.search(v.chains[i].tail())
		if err != nil {
			return err
		}
		if e.promise > v.last {
			end := &v.chains[v.active]
			return m.corrupt(segs[v.active], end.tail(), end.bad, fmt.Sprintf(
				"but %s at offset %d says that record %d was synced, and the last one here is %d",
				segmentName(segs[i].number), e.at, e.promise, v.last))
		}
		if e.to > e.from {
			v.torn = append(v.torn, torn{seg: segs[i], from: e.from, to: e.to})
		}
	}
	return nil
}

func (m *files) corrupt(s *segment, offset int64, bad error, why string) error {
	reason := why
	var b *badBlock
	if errors.As(bad, &b) && b != nil {
		reason = b.Error() + ", " + why
	}
	return &CorruptError{File: m.path(segmentName(s.number)), Offset: offset, Reason: reason}
}

// recover builds a Log from the segments. It changes the disk only after all
// of it was validated.
func (m *files) recover(o *Options, id [16]byte, segs []*segment, n names) (*Log, error) {
	v, err := m.survey(id, segs, nil)
	if err != nil {
		return nil, err
	}
	if err := m.removeTmp(n); err != nil {
		return nil, err
	}
	rec, err := m.repair(v.torn, n)
	if err != nil {
		return nil, err
	}
	for i, s := range segs {
		s.first, s.last, s.used = v.chains[i].first, v.chains[i].last, v.chains[i].used
	}
	l := &Log{
		files: *m, id: id, opts: *o, recovery: rec,
		end: v.last, written: v.last, synced: v.last,
		segs: segs[: v.active+1 : v.active+1], spares: slices.Clone(segs[v.active+1:]),
		promise: v.chains[v.active].seal,
	}
	l.q.limit = maxRawFor(m.size)
	return l, nil
}

// keepTorn is how many copies of torn tails are kept.
const keepTorn = 8

// repair keeps a copy of each torn piece, then replaces it by zeros, so that
// no block in it can ever follow what will be appended before it. A crash
// between finds a torn tail again, or none.
func (m *files) repair(pieces []torn, n names) (Recovery, error) {
	var rec Recovery
	for _, t := range pieces {
		name := tornName(t.seg.number, t.from)
		err := m.putFile(name, func(f disk.File) error { return copyRange(f, t.seg.file, t.from, t.to) })
		var full *FullError
		switch {
		case errors.As(err, &full):
			// No record in it was ever acknowledged: a start on a full disk
			// is worth more than the copy.
			rec.CopyError = err.Error()
		case err != nil:
			return rec, err
		default:
			n.torn = append(n.torn, name)
			if rec.Copy == "" {
				rec.Copy = m.path(name)
			}
		}
		if rec.TornFile == "" {
			rec.TornFile, rec.TornOffset = m.path(segmentName(t.seg.number)), t.from
		}
		rec.TornBytes += t.to - t.from
	}
	for _, t := range pieces {
		if err := zero(t.seg.file, m.path(segmentName(t.seg.number)), t.from, m.size); err != nil {
			return rec, err
		}
	}
	if len(pieces) == 0 || len(n.torn) <= keepTorn {
		return rec, nil
	}
	slices.Sort(n.torn)
	n.torn = slices.Compact(n.torn)
	for len(n.torn) > keepTorn {
		if err := m.fs.Remove(m.path(n.torn[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return rec, failed("remove", m.path(n.torn[0]), err)
		}
		n.torn = n.torn[1:]
	}
	return rec, m.syncDir()
}

// copyRange copies [from, to) of src to the start of dst.
func copyRange(dst, src disk.File, from, to int64) error {
	buf := make([]byte, min(zeroChunk, to-from))
	for at := from; at < to; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), to-at)]
		if _, err := src.ReadAt(buf, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := dst.WriteAt(buf, at-from); err != nil {
			return err
		}
	}
	return nil
}

// Replay calls fn for every flushed record from the LSN on, in order; from 0
// means from First. The bytes are fn's only until it returns. fn's error ends
// it and is returned as it is. Other errors: ErrCut if Cut has given up
// records from there on, *CorruptError, the file system's.
func (l *Log) Replay(from LSN, fn func(lsn LSN, record []byte) error) error {
	if l.err != nil {
		return l.err
	}
	if from == 0 {
		from = l.First()
	}
	if from < l.First() {
		return fmt.Errorf("%w: from %d, the oldest is %d", ErrCut, from, l.First())
	}
	var r reader
	var raw []byte
	for _, s := range l.segs {
		if s.last < from {
			continue
		}
		r.reset(l.id, s.number, s.file, l.size)
		next := s.first
		for at := int64(0); at < s.used; {
			h, payload, err := r.block(at)
			if err == nil && (h.first != next || h.count == 0) {
				err = &badBlock{reason: fmt.Errorf("%d records from %d, want %d", h.count, h.first, next)}
			}
			if err == nil && h.last() >= from {
				err = l.replayBlock(&h, payload, &raw, from, fn)
			}
			var bad *badBlock
			if errors.As(err, &bad) {
				return &CorruptError{File: l.path(segmentName(s.number)), Offset: at, Reason: bad.Error()}
			}
			if err != nil {
				return err
			}
			at, next = at+h.length(), h.last()+1
		}
	}
	return nil
}

func (l *Log) replayBlock(h *header, payload []byte, buf *[]byte, from LSN, fn func(LSN, []byte) error) error {
	raw, err := h.decode(payload, buf)
	if err != nil {
		return &badBlock{reason: err}
	}
	err = h.eachRecord(raw, func(lsn LSN, record []byte) error {
		if lsn < from {
			return nil
		}
		return fn(lsn, record)
	})
	if errors.Is(err, errFraming) {
		return &badBlock{reason: err}
	}
	return err
}
