package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// copying is a newcomer's catching up (P11). While it lasts the participant is
// marked as needing a resync, so nobody reads what is half there: rows come into
// the table, blocks straight into the objects. A crash loses no more than
// what it was about to bring; blocks that are right are found to be so.
type copying struct {
	full  bool // a full comparison, until its round is over
	open  bool // the round's rows are not all there
	walk  string
	sizes map[wire.ID]objectSize
	// pages of checksums whose blocks are not known to be right, by object.
	pages    map[wire.ID]map[int64]*copiedPage
	chunkAt  wire.Position // position of the last row of the index that was made
	chunk    int           // ... and the next one's number there
	progress wire.ResyncProgress
}

// objectSize says whose an object is and how many bytes of it count.
type objectSize struct {
	ino   wire.Ino
	valid int64
}

// copiedPage is a page of checksums whose blocks are to be compared.
type copiedPage struct {
	verified bool
	lacks    map[int64]bool // numbers of blocks
}

// BeginCopy begins to catch up after since, the last position that the
// participant has handled in an epoch that it saw open; zero: it has nothing.
// It returns from where on rows are needed, which is later if an earlier attempt
// came that far, and whether all are to be compared. A checkpoint must have passed
// all that was applied or dropped. Owner only.
func (s *Store) BeginCopy(since wire.Position, full bool) (wire.Position, bool, error) {
	if err := s.trouble(); err != nil {
		return since, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil || len(s.active.ranges) > 0 || len(s.active.dead) > 0 {
		return since, false, &wire.Error{Code: wire.CodeBusy, Op: "resync", Text: "what was applied before is not all in its place"}
	}
	if since.Before(s.counts.CopiedTo) {
		since = s.counts.CopiedTo
	}
	full = full || since == wire.Position{}
	s.copying = &copying{full: full, sizes: map[wire.ID]objectSize{}, pages: map[wire.ID]map[int64]*copiedPage{}}
	if full {
		s.copying.walk, s.noIndex = string(bucketInode), true
	}
	return since, full, nil
}

// Copying tells how a newcomer does; false: it copies nothing.
func (s *Store) Copying() (wire.ResyncProgress, bool) {
	if s.copying == nil {
		return wire.ResyncProgress{}, false
	}
	return s.copying.progress, true
}

func notCopying() error {
	return &wire.Error{Code: wire.CodeProtocol, Op: "resync", Text: "it is not under way here: begin again"}
}

// CopyRows enters rows that a donor had at req.Position, tombstones included,
// into the table, and into the index at that position. If they are all that there are
// in a range of keys, others go; again: there are more of these, call it again with
// the same. After a CodeBusy too, once a checkpoint has passed. Owner only.
func (s *Store) CopyRows(req *wire.Resync, rows []wire.Row) (again bool, err error) {
	c := s.copying
	if c == nil || req.Full && !c.full {
		return false, notCopying()
	}
	if s.TableFull() {
		return false, &wire.Error{Code: wire.CodeBusy, Op: "resync", Text: "the table is full"}
	}
	a := &adoption{b: s.newBatch(), c: c, objects: map[wire.ID]bool{}}
	err = s.look(func(m *moment) error {
		a.b.m = m
		for i := range rows {
			if err := a.row(&rows[i]); err != nil {
				return err
			}
		}
		if req.Full {
			if again, err = a.dropOthers(req, rows); err != nil {
				return err
			}
		}
		if !c.full {
			return a.note(req.Position)
		}
		return nil
	})
	if err == nil {
		err = s.openCopied(a)
	}
	if err != nil {
		return false, err
	}
	s.install(a.b)
	for _, touch := range a.touch {
		touch()
	}
	if !again {
		c.came(rows)
		c.open = len(req.Next) > 0
	}
	return again, nil
}

// came counts rows: small contents come in them.
func (c *copying) came(rows []wire.Row) {
	c.progress.Rows += int64(len(rows))
	for i := range rows {
		switch r := &rows[i]; {
		case r.Gone:
		case r.Key[0] == bucketInode:
			c.progress.Files++
		case r.Key[0] == bucketInline:
			c.progress.Verified += int64(len(r.Val))
			c.progress.Lacking += int64(len(r.Val))
			c.progress.Copied += int64(len(r.Val))
		}
	}
}

// adoption is the rows of one CopyRows.
type adoption struct {
	b       *batch
	c       *copying
	noted   []string         // keys for the index
	objects map[wire.ID]bool // whose bytes count from now on
	touch   []func()         // once the rows are there
}

func refusedRow(key string, why error) error {
	return &wire.Error{Code: wire.CodeProtocol, Op: "resync", Text: fmt.Sprintf("the donor's %s: %v", rowName(key), why)}
}

// row enters a row, or that there is none.
func (a *adoption) row(r *wire.Row) error {
	if len(r.Key) > maxKeyLen || slices.Index(copiedBuckets, r.Key[0]) < 0 || !wellFormed(r.Key) {
		return &wire.Error{Code: wire.CodeProtocol, Op: "resync", Text: fmt.Sprintf("a row with the key %q", r.Key)}
	}
	a.noted = append(a.noted, r.Key)
	old, had, err := a.b.get(r.Key)
	if err != nil {
		return err
	}
	switch r.Key[0] {
	case bucketInode:
		err = a.inode(r, old, had)
	case bucketSum:
		err = a.sums(r)
	case bucketOp:
		err = a.op(r, old, had)
	}
	switch {
	case err != nil:
		return err
	case r.Gone && had:
		a.b.del(r.Key)
	case !r.Gone && (!had || string(old) != string(r.Val)):
		a.b.put(r.Key, append(make([]byte, 0, len(r.Val)+crcLen), r.Val...), false)
	}
	return nil
}

// wellFormed checks the length of a key of copiedBuckets.
func wellFormed(key string) bool {
	switch key[0] {
	case bucketEntry, bucketXattr:
		return len(key) > 9
	case bucketInode, bucketInline, bucketOrphan:
		return len(key) == 9
	case bucketSum:
		return len(key) == 13
	default:
		return len(key) == 25
	}
}

func (a *adoption) inode(r *wire.Row, old []byte, had bool) error {
	var before, after inode
	ino := wire.Ino(be.Uint64([]byte(r.Key[1:])))
	var err error
	if had {
		if before, err = decodeInode(ino, old); err != nil {
			return a.b.m.s.damage(err.Error())
		}
	}
	if !r.Gone {
		if after, err = decodeInode(ino, r.Val); err != nil {
			return refusedRow(r.Key, err)
		}
	}
	a.b.files += int64(boolInt(!r.Gone) - boolInt(had))
	a.b.bytes += fileBytes(&after) - fileBytes(&before)
	if before.content == contentObject && (after.content != contentObject || after.object != before.object) {
		a.b.dead = append(a.b.dead, deadObject{before.object, before.valid})
		a.touch = append(a.touch, func() { a.c.forget(before.object) })
	}
	if after.content != contentObject {
		return nil
	}
	a.objects[after.object] = true
	if !a.c.full {
		a.touch = append(a.touch, func() { a.c.sizes[after.object] = objectSize{ino, after.valid} })
	}
	if before.content == contentObject && before.object == after.object && before.valid != after.valid {
		// What the file holds past its old end has been anything.
		a.touchPage(after.object, before.valid/wire.BlockSize/sumsPerPage)
		a.touchPage(after.object, after.valid/wire.BlockSize/sumsPerPage)
	}
	return nil
}

func fileBytes(n *inode) int64 {
	if n.isRegular() {
		return n.attr.Size
	}
	return 0
}

func (a *adoption) sums(r *wire.Row) error {
	if _, err := decodeSums(r.Val); err != nil {
		return refusedRow(r.Key, err)
	}
	object, page := sumPageOf(r.Key)
	if r.Gone {
		a.touch = append(a.touch, func() { delete(a.c.pages[object], page) })
		return nil
	}
	a.objects[object] = true
	a.touchPage(object, page)
	return nil
}

// touchPage has a page's blocks compared once its rows are there. A full
// comparison looks at all pages in the end.
func (a *adoption) touchPage(object wire.ID, page int64) {
	if !a.c.full {
		a.touch = append(a.touch, func() { a.c.touch(object, page) })
	}
}

func (a *adoption) op(r *wire.Row, old []byte, had bool) error {
	op := opOfKey(r.Key)
	if had {
		if len(old) < 8 {
			return a.b.m.s.damage(rowName(r.Key) + " is malformed")
		}
		a.b.del(opTimeKey(int64(be.Uint64(old)), op))
	}
	if r.Gone {
		return nil
	}
	ms, _, err := decodeOp(r.Val)
	if err != nil {
		return refusedRow(r.Key, err)
	}
	key := opTimeKey(ms, op)
	a.b.put(key, make([]byte, 0, crcLen), false)
	a.b.opsFrom = min(a.b.opsFrom, key)
	return nil
}

// droppedRows bounds the rows that one CopyRows drops.
const droppedRows = maxTxKeys / 2

// dropOthers drops the rows of a range that the donor does not have.
func (a *adoption) dropOthers(req *wire.Resync, rows []wire.Row) (again bool, err error) {
	from, next := string(copiedBuckets[:1]), string(req.Next)
	if len(req.Cursor) > 0 {
		from = string(req.Cursor)
	}
	has := make(map[string]bool, len(rows))
	for i := range rows {
		if !inRange(rows[i].Key, from, next) {
			return false, &wire.Error{Code: wire.CodeProtocol, Op: "resync", Text: "a row outside the range that was asked for"}
		}
		has[rows[i].Key] = true
	}
	var gone []string
	err = a.b.m.ascend(from, func(key string, _ []byte) (bool, error) {
		if !inRange(key, from, next) {
			return false, nil
		}
		if !has[key] {
			gone = append(gone, key)
		}
		again = len(gone) == droppedRows
		return !again, nil
	})
	if err != nil {
		return false, err
	}
	for _, key := range gone {
		if err := a.row(&wire.Row{Key: key, Gone: true}); err != nil {
			return false, err
		}
	}
	return again, nil
}

// note enters the rows' keys in the index at the donor's position (P11), where
// other rows may stand already.
func (a *adoption) note(pos wire.Position) error {
	c := a.c
	if c.chunkAt != pos {
		c.chunkAt, c.chunk = pos, 0
		err := a.b.m.ascend(changeKey(pos, 0), func(key string, _ []byte) (bool, error) {
			if positionOfKey(key) != pos {
				return false, nil
			}
			c.chunk = int(be.Uint32([]byte(key[17:]))) + 1
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	c.chunk = a.b.noteKeys(a.noted, pos, c.chunk)
	return nil
}

// openCopied opens the objects that the rows name, made where they are
// missing: the next checkpoint syncs them, also what an earlier process wrote.
func (s *Store) openCopied(a *adoption) error {
	for _, id := range slices.Sorted(maps.Keys(a.objects)) {
		if info, known := s.objects.get(id); known && info.state == stateStaging {
			s.objects.revoke(id)
			return &wire.Error{Code: wire.CodeBusy, Op: "resync", Text: fmt.Sprintf("object %s is being staged still", id)}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(a.objects)) {
		if slices.ContainsFunc(a.b.dead, func(d deadObject) bool { return d.id == id }) {
			continue
		}
		if err := s.roomToStage(); err != nil {
			return err
		}
		if _, err := s.dirtyFile(id, true); err != nil {
			if isFull(err) {
				return stageError(id, err)
			}
			return s.fail("open", s.objectPath(id), err)
		}
	}
	return nil
}

func (c *copying) touch(object wire.ID, page int64) {
	if c.pages[object] == nil {
		c.pages[object] = map[int64]*copiedPage{}
	}
	c.pages[object][page] = &copiedPage{}
}

func (c *copying) forget(object wire.ID) {
	delete(c.pages, object)
	delete(c.sizes, object)
}

// Bounds of one CopyVerify: bytes that it reads, and blocks that it asks for.
const (
	verifiedBytes = 64 << 20
	lackedBlocks  = 1024
)

// CopyVerify compares the contents of what has come with their checksums, up to
// a bound, and returns the blocks that are needed; more: it did not come to the
// end. One goroutine at a time, not beside CopyRows and CopyBlocks.
func (s *Store) CopyVerify(ctx context.Context) (lacks []wire.Lack, more bool, err error) {
	c := s.copying
	if c == nil || c.open {
		return nil, false, notCopying()
	}
	asked, until := 0, c.progress.Verified+verifiedBytes
	for {
		for _, object := range slices.Sorted(maps.Keys(c.pages)) {
			v := &verification{s: s, c: c, object: object}
			for _, number := range slices.Sorted(maps.Keys(c.pages[object])) {
				if c.pages[object][number].verified {
					continue
				}
				if err = ctxError(ctx, "resync"); err != nil {
					break
				}
				if more = asked >= lackedBlocks || c.progress.Verified >= until; more {
					break
				}
				var lack *wire.Lack
				if lack, err = v.page(number); err != nil {
					break
				}
				if lack != nil {
					lacks, asked = append(lacks, *lack), asked+len(lack.Blocks)
				}
			}
			v.close()
			if err != nil || more {
				return lacks, more, err
			}
			if len(c.pages[object]) == 0 {
				delete(c.pages, object)
			}
		}
		if c.walk == "" {
			return lacks, false, nil
		}
		if err := s.walkOn(); err != nil {
			return nil, false, err
		}
	}
}

// walkedInodes bounds the inodes whose pages a full comparison looks at next.
const walkedInodes = 64

// walkOn takes the next inodes of a full comparison, until some have objects.
func (s *Store) walkOn() error {
	c := s.copying
	maps.DeleteFunc(c.sizes, func(id wire.ID, _ objectSize) bool { return len(c.pages[id]) == 0 })
	m, err := s.snapshot()
	if err != nil {
		return err
	}
	defer m.close()
	n, next := 0, ""
	var found []wire.ID
	err = m.ascend(c.walk, func(key string, val []byte) (bool, error) {
		if n++; n > maxTxKeys/2 || len(found) == walkedInodes {
			next = key
			return false, nil
		}
		i, err := decodeInode(wire.Ino(be.Uint64([]byte(key[1:]))), val)
		if err != nil {
			return false, s.damage(err.Error())
		}
		if i.content == contentObject {
			c.sizes[i.object] = objectSize{i.attr.Ino, i.valid}
			found = append(found, i.object)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, object := range found {
		if err := s.touchAll(object); err != nil {
			return err
		}
	}
	c.walk = next
	return nil
}

// touchAll has all pages of an object compared.
func (s *Store) touchAll(object wire.ID) error {
	prefix := sumKey(object, 0)[:9]
	for from := sumKey(object, 0); from != ""; {
		n, next := 0, ""
		err := s.look(func(m *moment) error {
			return m.ascend(from, func(key string, _ []byte) (bool, error) {
				if !strings.HasPrefix(key, prefix) {
					return false, nil
				}
				if n++; n > pagesAtOnce {
					next = key
					return false, nil
				}
				_, page := sumPageOf(key)
				s.copying.touch(object, page)
				return true, nil
			})
		})
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// verification compares pages of one object.
type verification struct {
	s      *Store
	c      *copying
	object wire.ID
	file   disk.File
	opened bool
}

func (v *verification) close() {
	if v.file != nil {
		closeRead(v.file)
	}
}

// open opens the object's file, as the disk has it: an earlier process may have
// left it in the page cache, and a sync may have failed (J3).
func (v *verification) open() error {
	if v.opened {
		return nil
	}
	v.opened = true
	name := v.s.objectPath(v.object)
	f, err := v.s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return v.s.fail("open", name, err)
	}
	v.file = f
	if err := f.Sync(); err != nil {
		return v.s.fail("sync", name, err)
	}
	if err := f.DropCache(); err != nil {
		return v.s.fail("drop the cache of", name, err)
	}
	return nil
}

// page compares a page's blocks; nil: all are right, or the page is of no object
// any more.
func (v *verification) page(number int64) (*wire.Lack, error) {
	if err := v.open(); err != nil {
		return nil, err
	}
	of, known := v.c.sizes[v.object]
	var checks []blockCheck
	err := v.s.look(func(m *moment) (err error) {
		var n inode
		if known {
			n, err = m.inode(of.ino)
		}
		if !known || wire.CodeOf(err) == wire.CodeNotExist || err == nil && (n.content != contentObject || n.object != v.object) {
			return nil // of an older moment than its inode: the next round brings what is true
		}
		first := number * sumsPerPage
		of.valid = n.valid
		if end := min(blocksOf(n.valid), first+sumsPerPage); err == nil && first < end {
			checks, err = m.sums(v.object, first, end)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := v.reserve(number*sumsPerPage, checks); err != nil {
		return nil, err
	}
	p := &copiedPage{verified: true, lacks: map[int64]bool{}}
	lack := &wire.Lack{Ino: of.ino, Object: v.object}
	buf := make([]byte, wire.BlockSize)
	for i, check := range checks {
		b := number*sumsPerPage + int64(i)
		size := min(wire.BlockSize, of.valid-b*wire.BlockSize)
		if check.state != blockSum {
			continue
		}
		v.c.progress.Verified += size
		if !v.right(buf[:size], b, check.sum) {
			v.c.progress.Lacking += size
			p.lacks[b] = true
			lack.Blocks = append(lack.Blocks, b)
		}
	}
	if len(p.lacks) == 0 {
		delete(v.c.pages[v.object], number)
		return nil, nil
	}
	v.c.pages[v.object][number] = p
	return lack, nil
}

// reserve takes the space of blocks that are allocated and unwritten, from a number on: who
// writes them was promised it (S6).
func (v *verification) reserve(first int64, checks []blockCheck) error {
	reserved := false
	for i := 0; i < len(checks) && v.file != nil; i++ {
		n := 0
		for i+n < len(checks) && checks[i+n].state == blockUnwritten {
			n++
		}
		if n == 0 {
			continue
		}
		from, to := blocksToAllocate(first+int64(i), first+int64(i+n))
		err := v.file.AllocateRange(from, to-from)
		if err == nil {
			err = v.s.roomToStage()
		}
		switch {
		case isFull(err):
			return stageError(v.object, err)
		case wire.CodeOf(err) == wire.CodeNoSpace:
			return err
		case err != nil:
			return v.s.fail("allocate", v.s.objectPath(v.object), err)
		}
		i, reserved = i+n, true
	}
	if !reserved {
		return nil
	}
	if err := v.file.Sync(); err != nil {
		return v.s.fail("sync", v.s.objectPath(v.object), err)
	}
	return nil
}

func (v *verification) right(buf []byte, block int64, sum uint32) bool {
	if v.file == nil {
		return false
	}
	n, err := readUpTo(v.file, buf, block*wire.BlockSize)
	if err != nil {
		return false
	}
	clear(buf[n:])
	return padSum(buf) == sum
}

// CopyBlocks writes blocks that a donor gave, where they are what the rows here
// say. Those that are not have changed since; a later round brings both. After a
// CodeBusy it may be called again, once a checkpoint has passed. Owner only.
func (s *Store) CopyBlocks(req *wire.Resync, body []byte) error {
	c := s.copying
	if c == nil {
		return notCopying()
	}
	if s.TableFull() {
		return &wire.Error{Code: wire.CodeBusy, Op: "resync", Text: "too many objects wait for a checkpoint"}
	}
	if err := s.roomToStage(); err != nil {
		return err
	}
	for _, d := range req.Blocks {
		if d.Size <= 0 || d.Size > wire.BlockSize || d.Size > len(body) || d.Block < 0 || d.Block >= blocksOf(wire.MaxFileSize) {
			return &wire.Error{Code: wire.CodeProtocol, Op: "resync", Text: fmt.Sprintf("block %d of %d bytes, and %d have come", d.Block, d.Size, len(body))}
		}
		var data []byte
		data, body = body[:d.Size], body[d.Size:]
		if padSum(data) != d.Sum {
			return &wire.Error{Code: wire.CodeCorrupt, Op: "resync", Text: fmt.Sprintf("block %d of object %s was damaged on the way here", d.Block, req.Object)}
		}
		p := c.pages[req.Object][d.Block/sumsPerPage]
		if p == nil || !p.lacks[d.Block] {
			continue
		}
		var check []blockCheck
		err := s.look(func(m *moment) (err error) {
			check, err = m.sums(req.Object, d.Block, d.Block+1)
			return err
		})
		if err != nil {
			return err
		}
		if check[0] != (blockCheck{blockSum, d.Sum}) {
			continue
		}
		if err := s.writeCopied(req.Object, d.Block*wire.BlockSize, data); err != nil {
			return err
		}
		c.progress.Copied += int64(len(data))
		if delete(p.lacks, d.Block); len(p.lacks) == 0 {
			delete(c.pages[req.Object], d.Block/sumsPerPage)
		}
	}
	return nil
}

func (s *Store) writeCopied(id wire.ID, offset int64, data []byte) error {
	f, err := s.dirtyFile(id, true)
	if err == nil {
		p := s.hold(id)
		s.keepOld(p, f, offset, offset+int64(len(data)))
		_, err = f.WriteAt(data, offset)
		s.letGo(id, p)
	}
	switch {
	case isFull(err):
		return stageError(id, err)
	case err != nil:
		return s.fail("write", s.objectPath(id), err)
	}
	return nil
}

// EndRound ends a round, which began at pos: in the next one, rows are needed that
// were changed after it. The next checkpoint, which the caller waits for, makes
// that durable, unless blocks are lacking still, which the next round compares
// again. Owner only.
func (s *Store) EndRound(pos wire.Position) error {
	c := s.copying
	if c == nil || c.open {
		return notCopying()
	}
	if c.walk != "" {
		return &wire.Error{Code: wire.CodeBusy, Op: "resync", Text: "not all contents are compared"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.again() {
		s.counts.CopiedTo, c.sizes = pos, map[wire.ID]objectSize{}
	}
	if c.full { // its index begins here: of what was before it knows nothing
		c.full, s.counts.ChangesFrom = false, pos
	}
	return nil
}

// again has what is lacking compared once more; true: nothing is.
func (c *copying) again() bool {
	complete := true
	for _, pages := range c.pages {
		for _, p := range pages {
			complete, p.verified = false, false
		}
	}
	return complete
}

// EndCopy ends the catching up: the store holds what the donor does, and
// the next checkpoint, with the participant's state after it, makes that durable
// (S3). CodeBusy: something is lacking. Owner only.
func (s *Store) EndCopy(applied journal.LSN, state []byte) (*Checkpoint, error) {
	c := s.copying
	if c == nil || c.open {
		return nil, notCopying()
	}
	if c.full || c.walk != "" || !c.again() {
		return nil, &wire.Error{Code: wire.CodeBusy, Op: "resync", Text: "contents are lacking still"}
	}
	s.mu.Lock()
	before := s.counts.CopiedTo
	s.counts.CopiedTo = wire.Position{}
	s.mu.Unlock()
	ck, err := s.Freeze(applied, state)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.counts.CopiedTo = before
		return nil, err
	}
	s.copying = nil
	return ck, nil
}
