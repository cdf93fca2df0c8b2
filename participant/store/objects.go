package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// An object is a file in objects/ that is never renamed; extents are written in
// place. A staged one ends in its blocks' checksums, so that a redo, or a prepare after
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
// The trailer of an object that begins within a block (StageRequest.Skew):
//
//	0       8     16     24     32       36         40
//	+-------+-----+------+------+--------+----------+
//	| magic | id  | size | skew | sum of | CRC32C of|
//	|       |     |      |      | sums   | 0 to 36  |
//	+-------+-----+------+------+--------+----------+
//
// Numbers are little-endian. The sum of sums is StageReply.Sum. What lies past
// an inode's valid bytes is never read as contents.
const (
	trailerMagic = "tpcfsobj"
	trailerLen   = 32
	skewedMagic  = "tpcfsobs"
	skewedLen    = 40
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

func (s objectState) String() string {
	switch s {
	case stateStaging:
		return "being written"
	case stateStaged:
		return "staged"
	case stateDirty:
		return "made by an apply, or copied, and not synced yet"
	case stateDead:
		return "dead"
	default:
		return fmt.Sprintf("in state %d", uint8(s))
	}
}

// staged is a complete staged object.
type staged struct {
	size int64
	skew int64 // where in a block of its file it begins
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
	aside map[wire.ID]bool // objects with a file of checksums beside them; true: whole, and synced by this process
	// tails is where the checksums of some objects begin, as Preserve has seen.
	// What ends before them never needs it: ids are not used twice.
	tails map[wire.ID]int64
	dead  int64 // bytes of objects in stateDead
}

// pin counts an object's readers and who writes it in place; the last one
// unlinks it if it is time to.
type pin struct {
	users  int // guarded by objects.mu, as what follows
	unlink bool
	// writing: an apply is between its writes and its rows.
	writing bool
	readers map[*reader]bool

	// mu is held while the object's file is written, and shared while a piece
	// is read. It guards what readers keep of it.
	mu sync.RWMutex
}

func (o *objects) init() {
	o.known, o.pins, o.aside, o.tails = map[wire.ID]*objectInfo{}, map[wire.ID]*pin{}, map[wire.ID]bool{}, map[wire.ID]int64{}
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
func (o *objects) pin(id wire.ID) *pin {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pinLocked(id)
}

func (o *objects) pinLocked(id wire.ID) *pin {
	p := o.pins[id]
	if p == nil {
		p = &pin{readers: map[*reader]bool{}}
		o.pins[id] = p
	}
	p.users++
	return p
}

// hold pins an object and keeps others from its file.
func (s *Store) hold(id wire.ID) *pin {
	p := s.objects.pin(id)
	for s.o.Held != nil && !p.mu.TryLock() {
		s.o.Held()
	}
	if s.o.Held == nil {
		p.mu.Lock()
	}
	return p
}

// share keeps an object's file from being written.
func (s *Store) share(p *pin) {
	for s.o.Held != nil && !p.mu.TryRLock() {
		s.o.Held()
	}
	if s.o.Held == nil {
		p.mu.RLock()
	}
}

// unpin returns true if the caller has to unlink the file.
func (o *objects) unpin(id wire.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.pins[id]
	p.users--
	if p.users > 0 {
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
	s.removeAside(id)
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
	st, ok, err = readTail(f, id, false)
	if err == nil && !ok {
		st, ok, err = s.loadAside(id)
	}
	if err != nil || !ok {
		return nil, false, err
	}
	s.objects.become(id, stateStaged, st.size, st)
	return st, true, nil
}

// readTail reads the checksums and the trailer that a file ends in; alone:
// there is nothing before them.
func readTail(f disk.File, id wire.ID, alone bool) (st *staged, ok bool, err error) {
	st, at, err := readTrailer(f, id, alone)
	if err != nil || st == nil {
		return nil, false, err
	}
	raw := make([]byte, 4*blocksOf(st.skew+st.size))
	if _, err := readUpTo(f, raw, at); err != nil {
		return nil, false, err
	}
	st.sums = make([]uint32, len(raw)/4)
	for i := range st.sums {
		st.sums[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return st, sumOfSums(st.sums) == st.sum, nil
}

// readTrailer reads a trailer alone, whose checksums begin at at; nil: the file
// does not end in one.
func readTrailer(f disk.File, id wire.ID, alone bool) (st *staged, at int64, err error) {
	size, err := f.Size()
	if err != nil || size < trailerLen {
		return nil, 0, err
	}
	t := make([]byte, min(skewedLen, size))
	if _, err := readUpTo(f, t, size-int64(len(t))); err != nil {
		return nil, 0, err
	}
	st, length := decodeTrailer(t, id)
	if st == nil {
		return nil, 0, nil
	}
	if !alone {
		at = tailOffset(st.size)
	}
	if at+4*blocksOf(st.skew+st.size)+length != size {
		return nil, 0, nil
	}
	return st, at, nil
}

// decodeTrailer returns what a trailer at the end of t says, and its length.
func decodeTrailer(t []byte, id wire.ID) (*staged, int64) {
	le := binary.LittleEndian
	st, length := &staged{}, int64(trailerLen)
	b := t[len(t)-trailerLen:]
	if string(b[:8]) == trailerMagic {
		st.size, st.sum = int64(le.Uint64(b[16:])), le.Uint32(b[24:])
	} else if len(t) >= skewedLen && string(t[len(t)-skewedLen:][:8]) == skewedMagic {
		b, length = t[len(t)-skewedLen:], skewedLen
		st.size, st.skew, st.sum = int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:])), le.Uint32(b[32:])
	} else {
		return nil, 0
	}
	if wire.Sum(b[:length-4]) != le.Uint32(b[length-4:]) || wire.ID(le.Uint64(b[8:])) != id ||
		st.size < 0 || st.size > wire.MaxFileSize || st.skew < 0 || st.skew >= wire.BlockSize {
		return nil, 0
	}
	return st, length
}

// tailOffset is where a staged object's checksums begin.
func tailOffset(size int64) int64 { return (size + tailAlign - 1) / tailAlign * tailAlign }

// encodeTail is what a staged object has from tailOffset on.
func encodeTail(id wire.ID, st *staged) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 4*len(st.sums)+skewedLen)
	for _, sum := range st.sums {
		b = le.AppendUint32(b, sum)
	}
	t := []byte(trailerMagic)
	if st.skew != 0 {
		t = []byte(skewedMagic)
	}
	t = le.AppendUint64(t, uint64(id))
	t = le.AppendUint64(t, uint64(st.size))
	if st.skew != 0 {
		t = le.AppendUint64(t, uint64(st.skew))
	}
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
	if isFull(err) && s.dropBallast(drops) {
		return write()
	}
	return err
}

// rotten is the error of an object whose contents cannot be believed. The
// store itself is sound: another participant has the contents.
func (s *Store) rotten(id wire.ID, offset int64, why string) *wire.Error {
	return &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf("storage %s, %s at byte %d: %s", s.format.uuid, s.objectPath(id), offset, why)}
}

func (s *Store) unpin(id wire.ID) {
	if s.objects.unpin(id) {
		s.removeFile(id)
	}
}
