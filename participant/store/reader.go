package store

import (
	"maps"
	"slices"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// maxKept bounds what is kept aside for one reader of a file that changes, in
// bytes (S2).
const maxKept = 16 << 20

// reader reads an object's verified blocks as they were when it was made:
// applies and checkpoints keep for it what they write over.
type reader struct {
	s   *Store
	ino wire.Ino
	// version of the inode, which all of this is of.
	version wire.ID
	id      wire.ID
	valid   int64
	first   int64 // number of the block that checks[0] is of
	checks  []blockCheck
	ranges  []stagedRange // bytes that are in staged objects
	pin     *pin
	again   bool // it came while an apply was at work: look again

	file   disk.File
	stages map[wire.ID]disk.File

	// Guarded by pin.mu, which the reader itself needs only shared:
	next int64            // block that is read next
	kept map[int64][]byte // blocks as the file had them
	lost bool             // too many
}

// reader returns a reader of blocks [first, end) of an inode's object. It is
// called within the moment that the inode was read in; open and close follow.
func (m *moment) reader(n *inode, first, end int64) (*reader, error) {
	checks, err := m.sums(n.object, first, end)
	if err != nil {
		return nil, err
	}
	r := &reader{s: m.s, ino: n.attr.Ino, version: n.attr.Version, id: n.object, valid: n.valid, first: first, checks: checks, next: first,
		stages: map[wire.ID]disk.File{}, kept: map[int64][]byte{}}
	r.ranges = m.s.rangesLocked(n.object, first*wire.BlockSize, end*wire.BlockSize)
	o := &m.s.objects
	o.mu.Lock()
	defer o.mu.Unlock()
	r.pin = o.pinLocked(r.id)
	r.pin.readers[r] = true
	r.again = r.pin.writing
	for _, g := range r.ranges {
		if _, ok := r.stages[g.stage]; !ok {
			r.stages[g.stage] = nil
			o.pinLocked(g.stage)
		}
	}
	return r, nil
}

func (r *reader) open() (err error) {
	if r.file, err = r.s.fs.Open(r.s.objectPath(r.id)); err != nil {
		r.file = nil
		if ofProcess(err) {
			return unread(err)
		}
		b := r.first // or the first one that is in the file
		if i := slices.IndexFunc(r.checks, func(c blockCheck) bool { return c.state.isBytes() }); i > 0 {
			b += int64(i)
		}
		return r.rotten(b, r.id, b*wire.BlockSize, err.Error())
	}
	return nil
}

func (r *reader) close() {
	if r.file != nil {
		closeRead(r.file)
	}
	o := &r.s.objects
	o.mu.Lock()
	delete(r.pin.readers, r)
	o.mu.Unlock()
	r.s.unpin(r.id)
	for id, f := range r.stages {
		if f != nil {
			closeRead(f)
		}
		r.s.unpin(id)
	}
}

// wait lets the apply end that was at work when the reader was made.
func (r *reader) wait() {
	r.s.share(r.pin)
	r.pin.mu.RUnlock()
}

// block reads a block into buf, BlockSize bytes, zeros past the valid bytes.
// pin.mu is held, shared.
func (r *reader) block(b int64, buf []byte) error {
	start := b * wire.BlockSize
	n := max(0, min(wire.BlockSize, r.valid-start))
	if b < r.first || b-r.first >= int64(len(r.checks)) {
		n = 0
	}
	clear(buf[n:wire.BlockSize])
	if n == 0 {
		return nil
	}
	check := r.checks[b-r.first]
	switch check.state {
	case blockZero, blockUnwritten:
		clear(buf[:n])
		return nil
	case blockBad:
		return r.rotten(b, r.id, start, "the block was rotten when it was written in part, or the file cut there")
	case blockSum:
	}
	if r.lost {
		return wire.NewError(wire.CodeChanged, "it changes while it is read")
	}
	old, ok := r.kept[b]
	if ok {
		clear(buf[copy(buf[:n], old):n])
	} else {
		got, err := readUpTo(r.file, buf[:n], start)
		if err != nil {
			return r.unreadable(b, r.id, start, err)
		}
		clear(buf[got:n])
	}
	if err := r.overlay(start, buf[:n]); err != nil {
		return err
	}
	if wire.Sum(buf[:wire.BlockSize]) != check.sum {
		return r.rotten(b, r.id, start, "the checksum of the block does not match")
	}
	return nil
}

// rotten is the error of a block whose bytes, in the file of an object at an
// offset, cannot be believed.
func (r *reader) rotten(block int64, in wire.ID, offset int64, why string) error {
	e := r.s.rotten(in, offset, why)
	e.Ino, e.Object, e.Block = r.ino, r.id, block
	return e
}

// unreadable is the error of a block whose bytes could not be read.
func (r *reader) unreadable(block int64, in wire.ID, offset int64, err error) error {
	if ofProcess(err) {
		return unread(err)
	}
	return r.rotten(block, in, offset, err.Error())
}

// sum is what block has verified a whole block with, if it has bytes.
func (r *reader) sum(b int64) (uint32, bool) {
	if i := b - r.first; i >= 0 && i < int64(len(r.checks)) && b*wire.BlockSize < r.valid && r.checks[i].state == blockSum {
		return r.checks[i].sum, true
	}
	return 0, false
}

// overlay puts what is staged over what the object's file has.
func (r *reader) overlay(start int64, buf []byte) error {
	end := start + int64(len(buf))
	for i := range r.ranges {
		g := &r.ranges[i]
		from, to := max(g.from, start), min(g.to, end)
		if from >= to {
			continue
		}
		f := r.stages[g.stage]
		if f == nil {
			var err error
			if f, err = r.s.fs.Open(r.s.objectPath(g.stage)); err != nil {
				return r.unreadable(from/wire.BlockSize, g.stage, from-g.base, err)
			}
			r.stages[g.stage] = f
		}
		part := buf[from-start : to-start]
		got, err := readUpTo(f, part, from-g.base)
		if err != nil {
			return r.unreadable(from/wire.BlockSize, g.stage, from-g.base, err)
		}
		clear(part[got:])
	}
	return nil
}

// needs tells whether the reader has still to read bytes [from, to) of a block
// from the object's file.
func (r *reader) needs(b, from, to int64) bool {
	i := b - r.first
	if r.lost || b < r.next || i >= int64(len(r.checks)) || r.checks[i].state != blockSum || r.kept[b] != nil {
		return false
	}
	for _, g := range r.ranges {
		if g.from <= from && to <= g.to {
			return false
		}
	}
	return true
}

// keepOld keeps aside, for those who read the object, the blocks that are
// about to be written over. p.mu is held; f is the object's file.
func (s *Store) keepOld(p *pin, f disk.File, from, to int64) {
	readers := s.objects.readersOf(p)
	for b := from / wire.BlockSize; b*wire.BlockSize < to; b++ {
		start := b * wire.BlockSize
		readers = slices.DeleteFunc(readers, func(r *reader) bool { return r.lost || r.first+int64(len(r.checks)) <= b })
		if len(readers) == 0 {
			return
		}
		var old []byte
		for _, r := range readers {
			if !r.needs(b, max(from, start), min(to, start+wire.BlockSize)) {
				continue
			}
			if old == nil {
				old = make([]byte, wire.BlockSize)
				n, err := readUpTo(f, old, start)
				if err != nil {
					n = 0 // its checksum will tell
				}
				old = old[:n]
			}
			if r.kept[b] = old; len(r.kept)*wire.BlockSize > maxKept {
				r.lost, r.kept = true, nil
			}
		}
	}
}

func (o *objects) readersOf(p *pin) []*reader {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(p.readers))
}

// holdWritten keeps readers and the checkpoint from the objects that a batch
// writes, until its rows are there.
func (s *Store) holdWritten(b *batch) (map[wire.ID]*pin, error) {
	held := s.holdObjects(b)
	for i := range b.writes {
		w := &b.writes[i]
		if w.space || len(s.objects.readersOf(held[w.object])) == 0 {
			continue
		}
		f, err := s.dirtyFile(w.object, false)
		if err != nil {
			return held, s.fail("open", s.objectPath(w.object), err)
		}
		s.keepOld(held[w.object], f, w.offset, w.offset+w.length)
	}
	return held, nil
}

func (s *Store) holdObjects(b *batch) map[wire.ID]*pin {
	var ids []wire.ID
	for i := range b.writes {
		ids = append(ids, b.writes[i].object)
	}
	slices.Sort(ids)
	held := map[wire.ID]*pin{}
	for _, id := range slices.Compact(ids) {
		p := s.hold(id)
		s.objects.mu.Lock()
		p.writing = true
		s.objects.mu.Unlock()
		held[id] = p
	}
	return held
}

func (s *Store) endWrites(held map[wire.ID]*pin) {
	for id, p := range held {
		s.objects.mu.Lock()
		p.writing = false
		s.objects.mu.Unlock()
		s.letGo(id, p)
	}
}

// letGo ends a hold.
func (s *Store) letGo(id wire.ID, p *pin) {
	p.mu.Unlock()
	s.unpin(id)
}
