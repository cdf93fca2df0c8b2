package store

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// A staged object that is a file's own is written in place, over the trailer
// too, which a redo of the transaction that took it reads. Until a row of the
// kv names the object, its checksums and trailer are therefore in a file of
// their own as well, once the prepare of such a write was voted for.
const asideSuffix = ".sums"

func (s *Store) asidePath(id wire.ID) string { return s.objectPath(id) + asideSuffix }

// Preserve implements vote.View. It costs two syncs, once, and only for an
// object that no checkpoint has passed yet.
func (s *Store) Preserve(ino wire.Ino, stage wire.ID, end int64) error {
	id := stage
	if id == 0 {
		err := s.look(func(m *moment) error {
			n, err := m.inode(ino)
			id = n.object
			return err
		})
		if err != nil || id == 0 {
			return err
		}
	}
	if info, known := s.objects.get(id); known && info.state != stateStaged || s.objects.hasAside(id) {
		return nil // made by an apply, whose redo has the bytes; or done
	}
	if s.objects.beforeTail(id, end) {
		return nil
	}
	if named, err := s.namedByKV(id); named || err != nil {
		return err
	}
	f, err := s.fs.Open(s.objectPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the file is rotten, and reads say so
	}
	if err != nil {
		return cannot(err)
	}
	defer closeRead(f)
	// Most writes end before the tail. All of it, which grows with the file, is
	// read only for those that do not (F4).
	st, at, err := readTrailer(f, id, false)
	if err != nil {
		return cannot(err)
	}
	if st != nil {
		s.objects.seeTail(id, at)
		if s.objects.beforeTail(id, end) {
			return nil
		}
	}
	st, ok, err := readTail(f, id, false)
	if err == nil && !ok {
		st, ok, err = s.loadAside(id)
	}
	if err != nil || !ok || blocksOf(end)*wire.BlockSize <= tailOffset(st.size) {
		return cannot(err)
	}
	return s.putAside(id, st)
}

func (s *Store) namedByKV(id wire.ID) (bool, error) {
	tx, err := s.kv.View()
	if err != nil {
		return false, s.kvError(err)
	}
	defer tx.Close()
	_, named, err := tx.Get(sumKey(id, 0))
	return named, s.kvError(err)
}

// putAside writes such a file. Without space there is none, and the prepare is refused;
// what is left of it goes with the object.
func (s *Store) putAside(id wire.ID, st *staged) error {
	if left, err := s.filesLeft(); err == nil && left <= 0 { // those are promised
		return s.space.refuse("", "the disk is full")
	}
	name := s.asidePath(id)
	f, err := s.fs.Create(name)
	if errors.Is(err, fs.ErrExist) {
		f, err = s.fs.Open(name)
	}
	if isFull(err) {
		return s.space.refuse("", "the disk is full")
	}
	if ofProcess(err) {
		return unread(err)
	}
	if err != nil {
		return s.fail("create", name, err)
	}
	s.objects.noteAside(id, false)
	if _, err = f.WriteAt(encodeTail(id, st), 0); isFull(err) {
		closeRead(f) // what is in it does not count
		return s.space.refuse("", "the disk is full")
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.fs.SyncDir(s.objectDir(id))
	}
	if err != nil {
		return s.fail("sync", name, err)
	}
	s.objects.noteAside(id, true)
	return nil
}

// loadAside reads such a file, which an earlier process may not have synced.
func (s *Store) loadAside(id wire.ID) (st *staged, ok bool, err error) {
	f, err := s.fs.Open(s.asidePath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer closeRead(f)
	s.objects.noteAside(id, false)
	return readTail(f, id, true)
}

// maxTails bounds what is remembered of objects that are written in place.
const maxTails = 1024

func (o *objects) seeTail(id wire.ID, at int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.tails) >= maxTails {
		clear(o.tails)
	}
	o.tails[id] = at
}

// beforeTail: it is known that blocks up to end lie before the checksums.
func (o *objects) beforeTail(id wire.ID, end int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, known := o.tails[id]
	return known && blocksOf(end)*wire.BlockSize <= at
}

// hasAside: an object's checksums are in a file of their own, and outlast a
// power loss there. One that an earlier process has left may be half of that.
func (o *objects) hasAside(id wire.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.aside[id]
}

// noteAside notes that there is such a file, for which there is a time to go.
func (o *objects) noteAside(id wire.ID, durable bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.aside[id] = o.aside[id] || durable
}

// forgetAside is false if no such file was noted.
func (o *objects) forgetAside(id wire.ID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, there := o.aside[id]
	delete(o.aside, id)
	return there
}

func (o *objects) asides() []wire.ID {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []wire.ID
	for id := range o.aside {
		ids = append(ids, id)
	}
	return ids
}

// dropAside removes what no redo will read: the kv names the object.
func (s *Store) dropAside() error {
	for _, id := range s.objects.asides() {
		named, err := s.namedByKV(id)
		if err != nil {
			return err
		}
		if named {
			s.removeAside(id)
		}
	}
	return nil
}

func (s *Store) removeAside(id wire.ID) {
	if !s.objects.forgetAside(id) {
		return
	}
	if err := s.fs.Remove(s.asidePath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("cannot remove an object's checksums; the next start tries again", "file", s.asidePath(id), "error", err)
	}
}

// sweepAside deals with an entry of an objects directory if it is such a file:
// one that an earlier process has left goes with its object, or with the next
// checkpoint after which the kv names that.
func (s *Store) sweepAside(dir, name string) bool {
	hex, ok := strings.CutSuffix(name, asideSuffix)
	var n uint64
	if _, err := fmt.Sscanf(hex, "%016x", &n); !ok || err != nil || fmt.Sprintf("%016x", n) != hex {
		return false
	}
	id := wire.ID(n)
	f, err := s.fs.Open(s.objectPath(id))
	if err == nil {
		closeRead(f)
	}
	s.objects.noteAside(id, false) // it may be torn: who needs it writes it again
	if errors.Is(err, fs.ErrNotExist) {
		s.removeAside(id)
	}
	return true
}

// Skew implements vote.View.
func (s *Store) Skew(id wire.ID) int64 {
	if st, ok, err := s.stagedObject(id); err == nil && ok {
		return st.skew
	}
	return 0
}

// ReadStaged implements vote.View.
func (s *Store) ReadStaged(id wire.ID, p []byte, offset int64) (bool, error) {
	st, ok, err := s.stagedObject(id)
	if err != nil || !ok || offset < 0 || offset+int64(len(p)) > st.size {
		return false, err
	}
	f, err := s.fs.Open(s.objectPath(id))
	if err != nil {
		return false, nil
	}
	defer closeRead(f)
	for done := 0; done < len(p); {
		at := offset + int64(done)
		n, ok := readStagedBlock(f, st, p[done:], at)
		if !ok {
			return false, nil
		}
		done += n
	}
	return true, nil
}

// readStagedBlock reads what of p lies in the block with byte at, and verifies
// all of the block.
func readStagedBlock(f disk.File, st *staged, p []byte, at int64) (int, bool) {
	block := (at + st.skew) / wire.BlockSize
	start := max(0, block*wire.BlockSize-st.skew)
	size := min((block+1)*wire.BlockSize-st.skew, st.size) - start
	buf := make([]byte, size)
	got, err := readUpTo(f, buf, start)
	if err != nil || int64(got) < size || padSum(buf) != st.sums[block] {
		return 0, false
	}
	return copy(p, buf[at-start:]), true
}

// Block implements vote.View.
func (s *Store) Block(ino wire.Ino, block int64, into []byte) (have int, bad bool, err error) {
	var r *reader
	err = s.look(func(m *moment) error {
		n, err := m.inode(ino)
		if err != nil || block*wire.BlockSize >= n.valid {
			return err
		}
		if n.content == contentInline {
			val, ok, err := m.get(inlineKey(ino))
			if err == nil && (!ok || int64(len(val)) < n.valid) {
				err = s.damage(fmt.Sprintf("contents of inode %d are missing", ino))
			}
			if err == nil {
				have = copy(into, val[block*wire.BlockSize:min(n.valid, (block+1)*wire.BlockSize)])
			}
			return err
		}
		if n.content == contentObject {
			r, err = m.reader(&n, block, block+1)
		}
		return err
	})
	if err != nil || r == nil {
		return have, false, err
	}
	defer r.close()
	if !r.checks[0].state.isBytes() {
		return 0, false, nil
	}
	if err = r.open(); err == nil {
		s.share(r.pin)
		err = r.block(block, into[:wire.BlockSize])
		r.pin.mu.RUnlock()
	}
	switch wire.CodeOf(err) {
	case wire.CodeNone:
		return wire.BlockSize, false, nil
	case wire.CodeCorrupt:
		return 0, true, nil
	default: // of the block that says nothing: its checksum is not given up
		return 0, false, err
	}
}

// Room implements vote.View.
func (s *Store) Room(ino wire.Ino, from, to int64) (room int64, err error) {
	first, end := from/wire.BlockSize, blocksOf(to)
	room = (end - first) * wire.BlockSize
	err = s.look(func(m *moment) error {
		n, err := m.inode(ino)
		if err != nil || n.content != contentObject {
			return err
		}
		pages, err := m.pagesOf(n.object, first, end)
		for _, p := range pages {
			for i, c := range p.checks {
				if b := p.number*sumsPerPage + int64(i); c.state.isData() && b >= first && b < end && b < blocksOf(n.valid) {
					room -= wire.BlockSize
				}
			}
		}
		return err
	})
	return room, err
}

// sumsPage is a row of checksums.
type sumsPage struct {
	number int64
	checks []blockCheck
}

// pagesAtOnce bounds the rows of checksums that are looked at in one moment.
const pagesAtOnce = maxTxKeys / 2

// pagesOf returns the rows with blocks of [first, end) that there are, the
// first pagesAtOnce of them.
func (m *moment) pagesOf(object wire.ID, first, end int64) ([]sumsPage, error) {
	var list []sumsPage
	prefix := sumKey(object, 0)[:9]
	err := m.ascend(sumKey(object, first/sumsPerPage), func(key string, val []byte) (bool, error) {
		if !strings.HasPrefix(key, prefix) || len(list) == pagesAtOnce {
			return false, nil
		}
		number := int64(be.Uint32([]byte(key[9:])))
		if number*sumsPerPage >= end {
			return false, nil
		}
		checks, err := decodeSums(val)
		if err != nil {
			return false, m.s.damage(rowName(key) + ": " + err.Error())
		}
		list = append(list, sumsPage{number, checks})
		return true, nil
	})
	return list, err
}

// readData lists the ranges that hold data, from metadata alone (S2).
func (s *Store) readData(req wire.Read) (wire.ReadReply, error) {
	if req.Offset < 0 {
		return wire.ReadReply{}, wire.NewError(wire.CodeInvalid, "a negative offset")
	}
	limit := wire.MaxListEntries
	if req.Limit > 0 {
		limit = min(limit, req.Limit)
	}
	var o opened
	var reply wire.ReadReply
	end := int64(0)
	err := s.look(func(m *moment) (err error) {
		if o.n, err = m.walk(req.At); err != nil {
			return err
		}
		if err := o.readable(req.At, req.IfVersion); err != nil {
			return err
		}
		reply.Attr, end = o.n.attr, o.n.valid
		if req.Offset >= end || o.n.content == contentNone {
			return nil
		}
		if o.n.content == contentInline {
			reply.Ranges = []wire.Range{{Offset: req.Offset, Length: end - req.Offset}}
			return nil
		}
		reply.Ranges, reply.More, err = m.dataOf(o.n.object, req.Offset, end, limit)
		return err
	})
	return reply, err
}

// dataOf lists an object's data in [from, end). More: there may be others after
// the last range, whose end is where to go on.
func (m *moment) dataOf(object wire.ID, from, end int64, limit int) (list []wire.Range, more bool, err error) {
	pages, err := m.pagesOf(object, from/wire.BlockSize, blocksOf(end))
	if err != nil {
		return nil, false, err
	}
	for _, p := range pages {
		for i, c := range p.checks {
			start := (p.number*sumsPerPage + int64(i)) * wire.BlockSize
			if !c.state.isData() || start+wire.BlockSize <= from || start >= end {
				continue
			}
			r := wire.Range{Offset: max(start, from)}
			r.Length = min(start+wire.BlockSize, end) - r.Offset
			if n := len(list); n > 0 && list[n-1].Offset+list[n-1].Length == r.Offset {
				list[n-1].Length += r.Length
				continue
			}
			if len(list) == limit {
				return list, true, nil
			}
			list = append(list, r)
		}
	}
	return list, len(pages) == pagesAtOnce, nil
}
