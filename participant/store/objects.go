package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"tpcfs/journal/disk"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// An object is a file in objects/ that is written once and never renamed. A
// staged one ends in its blocks' checksums, so that a redo, or a prepare after
// a restart, finds them:
//
//	0          size    multiple of 4096         + 4*blocks
//	+----------+-------+------------------------+---------+
//	| contents | zeros | CRC32C of each block:4 | trailer |
//	+----------+-------+------------------------+---------+
//
// The trailer:
//
//	0       8     16     24       28         32
//	+-------+-----+------+--------+----------+
//	| magic | id  | size | sum of | CRC32C of|
//	|       |     |      | sums   | 0 to 28  |
//	+-------+-----+------+--------+----------+
//
// Numbers are little-endian. The sum of sums is StageReply.Sum. What lies past
// an inode's valid bytes is never read as contents.
const (
	trailerMagic = "tpcfsobj"
	trailerLen   = 32
	tailAlign    = 4096
)

// objectState is why an object may be there although no row of the kv names it.
type objectState uint8

const (
	stateStaging objectState = iota + 1 // being written
	stateStaged                         // complete and durable, waits for its prepare or decision
	stateDirty                          // made by an apply, not synced yet
	stateDead                           // named by no row; unlinked after the next checkpoint
)

// staged is a complete staged object.
type staged struct {
	size int64
	sum  uint32
	sums []uint32 // of its blocks
	// durable: synced by this process, name and all. Owner only, once it is known.
	durable bool
}

type objectInfo struct {
	state  objectState
	staged *staged
	size   int64 // bytes that an unlink gives back, about
	// revoked: unstaged while it is being written; it does not become complete.
	revoked bool
}

// objects knows every object that is not simply named by a row of the kv, and
// who reads which.
type objects struct {
	mu    sync.Mutex // guards the fields below
	known map[wire.ID]*objectInfo
	pins  map[wire.ID]*pin
	dead  int64 // bytes of objects in stateDead
}

// pin counts an object's readers; the last one unlinks it if it is time to.
type pin struct {
	readers int
	unlink  bool
}

func (o *objects) init() {
	o.known, o.pins = map[wire.ID]*objectInfo{}, map[wire.ID]*pin{}
}

// become moves an object from one state to another (0: from or to "simply
// named by a row, or not there").
func (o *objects) become(id wire.ID, state objectState, size int64, st *staged) {
	o.mu.Lock()
	defer o.mu.Unlock()
	info := o.known[id]
	if info != nil && info.state == stateDead {
		o.dead -= info.size
	}
	switch state {
	case 0:
		delete(o.known, id)
		return
	case stateStaged, stateDirty:
	case stateDead:
		o.dead += size
	default:
		panic(fmt.Sprintf("store: object %s cannot become %d", id, state))
	}
	o.known[id] = &objectInfo{state: state, staged: st, size: size}
}

// claim makes id an open stage, unless it is known already.
func (o *objects) claim(id wire.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[id] != nil {
		return false
	}
	o.known[id] = &objectInfo{state: stateStaging}
	return true
}

// revoke tells a stage that is being written that it is in vain; false if id is none.
func (o *objects) revoke(id wire.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	info := o.known[id]
	if info == nil || info.state != stateStaging {
		return false
	}
	info.revoked = true
	return true
}

// complete makes an open stage a staged object, unless it was revoked.
func (o *objects) complete(id wire.ID, st *staged) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[id].revoked {
		return false
	}
	o.known[id] = &objectInfo{state: stateStaged, staged: st, size: st.size}
	return true
}

// settle forgets an object that rows name from now on, unless it has left the
// state meanwhile.
func (o *objects) settle(id wire.ID, from objectState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if info := o.known[id]; info != nil && info.state == from {
		delete(o.known, id)
	}
}

func (o *objects) get(id wire.ID) (objectInfo, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if info := o.known[id]; info != nil {
		return *info, true
	}
	return objectInfo{}, false
}

func (o *objects) deadBytes() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dead
}

// pin keeps an object's file. It is called within the moment in which a row
// was seen to name it.
func (o *objects) pin(id wire.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pins[id] == nil {
		o.pins[id] = &pin{}
	}
	o.pins[id].readers++
}

// unpin returns true if the caller has to unlink the file.
func (o *objects) unpin(id wire.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.pins[id]
	p.readers--
	if p.readers > 0 {
		return false
	}
	delete(o.pins, id)
	return p.unlink
}

// mayUnlink returns true if nobody reads the object; else its last reader
// unlinks it.
func (o *objects) mayUnlink(id wire.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := o.pins[id]; p != nil {
		p.unlink = true
		return false
	}
	return true
}

// unlink removes an object's file once nobody reads it.
func (s *Store) unlink(id wire.ID) {
	if s.objects.mayUnlink(id) {
		s.removeFile(id)
	}
}

// removeFile removes an object's file; one that cannot be removed is found by
// the next Sweep.
func (s *Store) removeFile(id wire.ID) {
	if err := s.fs.Remove(s.objectPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot remove an object; the next start tries again", "file", s.objectPath(id), "error", err)
	}
}

// loadStaged reads the tail of a staged object that an earlier process wrote;
// confirmStaged makes sure that it outlasts a power loss. ok is false if there is none.
func (s *Store) loadStaged(id wire.ID) (st *staged, ok bool, err error) {
	f, err := s.fs.Open(s.objectPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer closeRead(f)
	size, err := f.Size()
	if err != nil || size < trailerLen {
		return nil, false, err
	}
	t := make([]byte, trailerLen)
	if _, err := readUpTo(f, t, size-trailerLen); err != nil {
		return nil, false, err
	}
	le := binary.LittleEndian
	st = &staged{size: int64(le.Uint64(t[16:])), sum: le.Uint32(t[24:])}
	if string(t[:8]) != trailerMagic || wire.Sum(t[:28]) != le.Uint32(t[28:]) || wire.ID(le.Uint64(t[8:])) != id {
		return nil, false, nil
	}
	if st.size < 0 || st.size > wire.MaxFileSize || tailOffset(st.size)+4*blocksOf(st.size)+trailerLen != size {
		return nil, false, nil
	}
	raw := make([]byte, 4*blocksOf(st.size))
	if _, err := readUpTo(f, raw, tailOffset(st.size)); err != nil {
		return nil, false, err
	}
	st.sums = make([]uint32, len(raw)/4)
	for i := range st.sums {
		st.sums[i] = le.Uint32(raw[4*i:])
	}
	if sumOfSums(st.sums) != st.sum {
		return nil, false, nil
	}
	s.objects.become(id, stateStaged, st.size, st)
	return st, true, nil
}

// tailOffset is where a staged object's checksums begin.
func tailOffset(size int64) int64 { return (size + tailAlign - 1) / tailAlign * tailAlign }

// encodeTail is what a staged object has from tailOffset on.
func encodeTail(id wire.ID, st *staged) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 4*len(st.sums)+trailerLen)
	for _, sum := range st.sums {
		b = le.AppendUint32(b, sum)
	}
	t := append([]byte(nil), trailerMagic...)
	t = le.AppendUint64(t, uint64(id))
	t = le.AppendUint64(t, uint64(st.size))
	t = le.AppendUint32(t, st.sum)
	return append(b, le.AppendUint32(t, wire.Sum(t))...)
}

// Staged implements vote.View.
func (s *Store) Staged(id wire.ID) (size int64, sum uint32, ok bool) {
	st, ok, err := s.stagedObject(id)
	if err == nil && ok && !st.durable {
		st, ok, err = s.confirmStaged(id)
	}
	if err != nil || !ok {
		return 0, 0, false
	}
	return st.size, st.sum, true
}

// confirmStaged makes durable what an earlier process wrote, which may have
// ended before its own sync, and reads from the disk what is there: a YES is
// about to stand on it (P2). What a redo names was voted for, and needs none of
// that. A failed sync is fatal (P12).
func (s *Store) confirmStaged(id wire.ID) (*staged, bool, error) {
	name := s.objectPath(id)
	f, err := s.fs.Open(name)
	if err != nil {
		return nil, false, err
	}
	defer closeRead(f)
	if err := f.Sync(); err != nil {
		return nil, false, s.fail("sync", name, err)
	}
	if err := s.fs.SyncDir(s.objectDir(id)); err != nil {
		return nil, false, s.fail("sync", s.objectDir(id), err)
	}
	if err := f.DropCache(); err != nil { // it may hide an earlier failed sync (J3)
		return nil, false, s.fail("drop the cache of", name, err)
	}
	st, ok, err := s.loadStaged(id)
	if err != nil || !ok {
		s.objects.settle(id, stateStaged)
		return nil, false, err
	}
	st.durable = true
	return st, true, nil
}

func (s *Store) stagedObject(id wire.ID) (*staged, bool, error) {
	if info, ok := s.objects.get(id); ok {
		return info.staged, info.state == stateStaged, nil
	}
	if named, err := s.namedByRows(id); named || err != nil {
		return nil, false, err
	}
	return s.loadStaged(id)
}

// namedByRows tells whether an object is a file's contents: its stage was
// consumed, although the trailer is still there.
func (s *Store) namedByRows(id wire.ID) (named bool, err error) {
	err = s.look(func(m *moment) error {
		_, named, err = m.get(sumKey(id, 0))
		return err
	})
	return named, err
}

// makeObject writes contents into the page cache as a new object. A redo
// writes them again, absolutely: what the file holds past them does not count.
func (s *Store) makeObject(id wire.ID, data []byte) (disk.File, error) {
	s.objects.become(id, stateDirty, int64(len(data)), nil)
	name := s.objectPath(id)
	var f disk.File
	err := s.withBallast(func() (err error) {
		if f == nil {
			if f, err = s.fs.Create(name); errors.Is(err, fs.ErrExist) {
				f, err = s.fs.Open(name)
			}
			if err != nil {
				f = nil
				return err
			}
		}
		_, err = f.WriteAt(data, 0)
		return err
	})
	if err != nil {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, s.fail("write", name, err)
	}
	return f, nil
}

// withBallast does a write of an apply or a checkpoint; when the disk is full
// it gives up the ballast and writes again (S6).
func (s *Store) withBallast(write func() error) error {
	drops := s.ballastDrops()
	err := write()
	if errors.Is(err, syscall.ENOSPC) && s.dropBallast(drops) {
		return write()
	}
	return err
}

// reader reads an object's verified blocks.
type reader struct {
	s      *Store
	id     wire.ID
	file   disk.File
	valid  int64
	first  int64 // number of the block that checks[0] is of
	checks []blockCheck
}

// openObject opens an object that the caller has pinned.
func (s *Store) openObject(id wire.ID, valid, first int64, checks []blockCheck) (*reader, error) {
	f, err := s.fs.Open(s.objectPath(id))
	if err != nil {
		return nil, s.rotten(id, first*wire.BlockSize, err.Error())
	}
	return &reader{s: s, id: id, file: f, valid: valid, first: first, checks: checks}, nil
}

// rotten is the error of an object whose contents cannot be believed. The
// store itself is sound: another participant has the contents.
func (s *Store) rotten(id wire.ID, offset int64, why string) error {
	return &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf("storage %s, %s at byte %d: %s", s.format.uuid, s.objectPath(id), offset, why)}
}

// block reads a block into buf, BlockSize bytes, zeros past the valid bytes.
func (r *reader) block(b int64, buf []byte) error {
	n := max(0, min(wire.BlockSize, r.valid-b*wire.BlockSize))
	if b < r.first || b-r.first >= int64(len(r.checks)) {
		n = 0
	}
	clear(buf[n:wire.BlockSize])
	if n == 0 {
		return nil
	}
	check := r.checks[b-r.first]
	switch check.state {
	case blockZero:
		clear(buf[:n])
		return nil
	case blockBad:
		return r.s.rotten(r.id, b*wire.BlockSize, "the block was rotten when the file was cut there")
	case blockSum:
	}
	got, err := readUpTo(r.file, buf[:n], b*wire.BlockSize)
	if err != nil {
		return r.s.rotten(r.id, b*wire.BlockSize, err.Error())
	}
	clear(buf[got:n])
	if wire.Sum(buf[:wire.BlockSize]) != check.sum {
		return r.s.rotten(r.id, b*wire.BlockSize, "the checksum of the block does not match")
	}
	return nil
}

// Tail implements vote.View: nil when no block is cut, or when the contents
// are a row, which is rewritten whole.
func (s *Store) Tail(ino wire.Ino, size int64) (*vote.Tail, error) {
	var n inode
	var checks []blockCheck
	b := size / wire.BlockSize
	err := s.look(func(m *moment) (err error) {
		if n, err = m.inode(ino); err != nil || !cutsBlock(&n, size) {
			return err
		}
		if checks, err = m.sums(n.object, b, b+1); err == nil {
			s.objects.pin(n.object)
		}
		return err
	})
	if err != nil || !cutsBlock(&n, size) {
		return nil, err
	}
	defer s.unpin(n.object)
	if checks[0].state == blockZero {
		return nil, nil
	}
	r, err := s.openObject(n.object, n.valid, b, checks)
	if err != nil {
		return &vote.Tail{Bad: true}, nil
	}
	defer closeRead(r.file)
	buf := make([]byte, wire.BlockSize)
	if r.block(b, buf) != nil {
		return &vote.Tail{Bad: true}, nil
	}
	return &vote.Tail{Sum: padSum(buf[:size%wire.BlockSize])}, nil
}

// cutsBlock tells whether a new size ends within a block of an object's bytes.
func cutsBlock(n *inode, size int64) bool {
	return n.content == contentObject && size >= 0 && size < n.valid && size%wire.BlockSize != 0
}

func (s *Store) unpin(id wire.ID) {
	if s.objects.unpin(id) {
		s.removeFile(id)
	}
}
