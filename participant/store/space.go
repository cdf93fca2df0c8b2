package store

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"

	"tpcfs/wire"
)

// reservation is what a YES will take until it is applied or aborted.
type reservation struct {
	table int64 // bytes of memory in the table
	disk  int64 // bytes
	files int64 // that are made
}

// space counts what is promised and keeps the ballast (S6).
type space struct {
	mu       sync.Mutex // guards the fields below
	reserved map[wire.ID]reservation
	table    int64 // sum of reservations
	disk     int64 // likewise
	files    int64 // likewise
	noLoad   bool  // the ballast is missing
	making   bool  // ... and being made again
	drops    int   // how often it was given up
	dropping int   // who unlinks it now
	stuck    bool  // to make it again has failed since the last checkpoint began
	refused  bool  // a transaction or a stage was refused since the last checkpoint
}

// rowBytes is what a row takes in the table at most, but for names and contents,
// which Reserve is told.
const rowBytes = cellCost + inodeFixed + 32

// rowsPerFile is what a mutation is counted with, at least: it makes one file at most.
const rowsPerFile = 6

// keptFiles are those that nobody is promised: the journal's and the reserve's.
const keptFiles = 64

// Reserve implements vote.View. rows is the number of rows that the
// transaction changes, bytes those of its inline contents and names, room those
// that objects grow by.
//
// The table's bound is soft: a YES may pass it by one transaction; TableFull
// then holds the next prepare back (S3).
func (s *Store) Reserve(id wire.ID, rows int, bytes, room int64, deletes bool) error {
	need := reservation{table: int64(rows)*rowBytes + bytes, disk: 2*(int64(rows)*rowBytes+bytes) + room}
	// A file is made of more than InlineMax bytes, or for contents in place, of which the room tells.
	need.files = min(int64(rows)/rowsPerFile, bytes/int64(s.o.InlineMax)+room/wire.BlockSize)
	headroom := s.headroom()
	free, err := s.fs.Free(s.o.Dir)
	if err != nil {
		return &wire.Error{Code: wire.CodeIO, Name: s.o.Dir, Text: err.Error()}
	}
	files, err := s.fs.FreeFiles(s.o.Dir)
	if err != nil {
		return &wire.Error{Code: wire.CodeIO, Name: s.o.Dir, Text: err.Error()}
	}
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	if _, again := s.space.reserved[id]; again {
		return nil
	}
	switch {
	case deletes: // they give space back; the ballast is theirs too
	case s.space.noLoad:
		return s.space.refuseLocked("", "the disk was full: until there is space for the reserve again, files can only be deleted")
	case int64(free) < headroom+need.disk:
		return s.space.refuseLocked("", diskFull(free, headroom))
	case files < uint64(s.space.files+need.files+keptFiles):
		return s.space.refuseLocked("", noInodes)
	}
	s.space.reserved[id] = need
	s.space.files += need.files
	s.space.table += need.table
	s.space.disk += need.disk
	return nil
}

// refuse is the error of what there is no space for; a checkpoint looks for some then.
func (s *space) refuse(op, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refuseLocked(op, why)
}

func (s *space) refuseLocked(op, why string) error {
	s.refused = true
	return &wire.Error{Code: wire.CodeNoSpace, Op: op, Text: why}
}

// noInodes is a NO where space is left, and no inodes.
const noInodes = "the disk is full: it takes no more files (inodes)"

// filesLeft is how many files can be made that nobody is promised; below 0: fewer
// than are promised.
func (s *Store) filesLeft() (int64, error) {
	n, err := s.fs.FreeFiles(s.o.Dir)
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	return int64(min(n, math.MaxInt64)) - s.space.files - keptFiles, err
}

// inodesLeft is what status shows of that; math.MaxUint64: no bound is known.
func (s *Store) inodesLeft() uint64 {
	n, err := s.filesLeft()
	if err != nil {
		s.log.Warn("cannot tell how many files can be made", "dir", s.o.Dir, "error", err)
	}
	if err != nil || n > math.MaxInt64/2 {
		return math.MaxUint64
	}
	return uint64(max(n, 0))
}

// filesFree is the space left to files, in bytes: what status shows as well.
func filesFree(free uint64, headroom int64) uint64 { return uint64(max(int64(free)-headroom, 0)) }

func diskFull(free uint64, headroom int64) string {
	return fmt.Sprintf("the disk is full: %s left to files", wire.SizeText(filesFree(free, headroom)))
}

// Release implements vote.View; unknown ids are ignored.
func (s *Store) Release(id wire.ID) {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	r := s.space.reserved[id]
	delete(s.space.reserved, id)
	s.space.table -= r.table
	s.space.disk -= r.disk
	s.space.files -= r.files
}

// headroom is the space in bytes that is spoken for: what is promised, and
// what the tables will take in the kv, which copies the pages that it changes.
func (s *Store) headroom() int64 {
	tables := s.tableBytes()
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	return 2*tables + s.space.disk + s.o.TableBytes/4
}

func (s *Store) tableBytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := s.active.bytes
	if s.frozen != nil {
		n += s.frozen.bytes
	}
	return n
}

// TableFull tells whether the table is at its bound, promises included: the
// next PREPARE has to wait for a checkpoint or for decisions (S3). Owner only.
func (s *Store) TableFull() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	return s.active.bytes+s.space.table >= s.o.TableBytes || len(s.active.dirty) >= maxDirty
}

// maxDirty bounds the objects that wait for a checkpoint: each is an open file.
const maxDirty = 1024

// NeedCheckpoint tells whether it is time to freeze the table: it is half
// full, or space can be gained for somebody who was refused. False while a
// checkpoint runs. Owner only.
func (s *Store) NeedCheckpoint() bool {
	s.mu.RLock()
	running := s.frozen != nil
	half := s.active.bytes >= s.o.TableBytes/2 || len(s.active.dirty) >= maxDirty/2
	dead := len(s.active.dead) > 0
	s.mu.RUnlock()
	if running || half {
		return !running
	}
	s.space.mu.Lock()
	refused, noLoad, stuck := s.space.refused, s.space.noLoad, s.space.stuck
	s.space.mu.Unlock()
	return dead && (refused || noLoad || s.objects.deadBytes() >= s.o.TableBytes*2) || noLoad && !stuck && s.roomForBallast()
}

// openBallast looks for the ballast, or makes it. Without space for it the
// store opens all the same: files have to be deleted.
func (s *Store) openBallast() {
	if s.o.Ballast < 0 {
		return
	}
	s.setBallast(false)
	f, err := s.fs.Open(s.path(ballastName))
	if err == nil {
		size, serr := f.Size()
		if serr == nil && size >= s.o.Ballast {
			s.setBallast(true)
		}
		_ = f.Close() // nothing was written
	}
	s.rebuildBallast()
}

func (s *Store) setBallast(there bool) {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	s.space.noLoad = !there
}

func (s *Store) ballastMissing() bool {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	return s.space.noLoad
}

func (s *Store) roomForBallast() bool {
	free, err := s.fs.Free(s.o.Dir)
	return err == nil && int64(free) >= s.headroom()+s.o.Ballast
}

// rebuildBallast allocates the ballast if it is missing and there is space. Its
// file need not outlast a crash: the next start allocates it again.
func (s *Store) rebuildBallast() {
	if !s.ballastMissing() || !s.roomForBallast() || !s.claimBallast() {
		return
	}
	name := s.path(ballastName)
	f, err := s.fs.Create(name)
	if errors.Is(err, fs.ErrExist) {
		f, err = s.fs.Open(name)
	}
	if err == nil {
		err = f.Allocate(s.o.Ballast)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.log.Warn("no space for the reserve: files can only be deleted", "file", name, "bytes", s.o.Ballast, "error", err)
		if rerr := s.fs.Remove(name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			s.log.Warn("cannot remove the unfinished reserve", "file", name, "error", rerr)
		}
	}
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	s.space.making, s.space.noLoad, s.space.stuck = false, err != nil, err != nil
}

// claimBallast lets its caller make the ballast; not while it is given up.
func (s *Store) claimBallast() bool {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	if !s.space.noLoad || s.space.making || s.space.dropping > 0 {
		return false
	}
	s.space.making = true
	return true
}

// ballastDrops is how often the ballast was given up.
func (s *Store) ballastDrops() int {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	return s.space.drops
}

// dropBallast gives the ballast's space to a write that has met the full disk
// and began after that many drops; false if there is none. Of two writes at
// once both unlink the file: neither is tried again before it is gone. Nobody
// waits meanwhile for space.mu.
func (s *Store) dropBallast(drops int) bool {
	if s.o.Ballast < 0 {
		return false
	}
	s.space.mu.Lock()
	first := !s.space.noLoad
	given := first || s.space.drops != drops
	unlink := given && !s.space.making
	if first {
		s.space.noLoad = true
		s.space.drops++
	}
	if unlink {
		s.space.dropping++
	}
	s.space.mu.Unlock()
	if !unlink {
		return given
	}
	err := s.fs.Remove(s.path(ballastName))
	s.space.mu.Lock()
	s.space.dropping--
	s.space.mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("cannot give up the reserve", "file", s.path(ballastName), "error", err)
		return false
	}
	if first {
		s.log.Warn("the disk is full: the reserve was given up; only deletes until there is space again", "dir", s.o.Dir)
	}
	return true
}
