package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tpcfs/journal/disk"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// writebackEvery is how many bytes of a stage are left to the final sync (S6).
const writebackEvery = 8 << 20

// Stage is a staged object being written. One goroutine uses it.
type Stage struct {
	s     *Store
	id    wire.ID
	file  disk.File
	skew  int64 // where in a block of its file it begins
	size  int64
	sums  []uint32 // of whole blocks
	sum   uint32   // of the last one, as far as it goes
	fill  int      // ... so many bytes
	short bool     // a piece shorter than PieceSize has come: it was the last
	begun int64    // up to where writeback was started
	over  bool     // finished or discarded
}

// NewStage begins the staged object id, with its StageRequest.Skew. It is in
// the way of no other stage.
func (s *Store) NewStage(id wire.ID, skew int64) (*Stage, error) {
	if err := s.trouble(); err != nil {
		return nil, err
	}
	if skew < 0 || skew >= wire.BlockSize {
		return nil, &wire.Error{Code: wire.CodeInvalid, Op: "stage", Text: fmt.Sprintf("a skew of %d in blocks of %d bytes", skew, wire.BlockSize)}
	}
	if err := s.roomToStage(); err != nil {
		return nil, err
	}
	if id == 0 || !s.objects.claim(id) {
		return nil, &wire.Error{Code: wire.CodeProtocol, Op: "stage", Text: fmt.Sprintf("stage id %s is taken", id)}
	}
	f, err := s.fs.Create(s.objectPath(id))
	if err != nil {
		s.objects.become(id, 0, 0, nil)
		return nil, stageError(id, err)
	}
	return &Stage{s: s, id: id, file: f, skew: skew}, nil
}

func stageError(id wire.ID, err error) error {
	if isFull(err) {
		return &wire.Error{Code: wire.CodeNoSpace, Op: "stage", Text: "the disk is full"}
	}
	return &wire.Error{Code: wire.CodeIO, Op: "stage", Text: fmt.Sprintf("stage %s: %v", id, err)}
}

// roomToStage keeps stages from taking what YES votes were promised.
func (s *Store) roomToStage() error {
	free, err := s.fs.Free(s.o.Dir)
	headroom := s.headroom()
	if err == nil && int64(free) < headroom+writebackEvery {
		return s.space.refuse("stage", diskFull(free, headroom))
	}
	if left, err := s.filesLeft(); err == nil && left <= 0 {
		return s.space.refuse("stage", noInodes)
	}
	return nil
}

// Write appends a piece: in order, all but the last PieceSize bytes long. After
// an error the stage is good for Discard alone.
func (st *Stage) Write(p wire.Piece) error {
	switch {
	case st.over:
		panic("store: Write to a stage that is over")
	case p.Offset != st.size || st.short || len(p.Data) > wire.PieceSize:
		return &wire.Error{Code: wire.CodeProtocol, Op: "stage", Text: fmt.Sprintf("a piece of %d bytes at %d does not follow %d", len(p.Data), p.Offset, st.size)}
	case st.size+int64(len(p.Data)) > wire.MaxFileSize:
		return &wire.Error{Code: wire.CodeTooLarge, Op: "stage", Text: fmt.Sprintf("a file has at most %d bytes", int64(wire.MaxFileSize))}
	case wire.Sum(p.Data) != p.Sum:
		return &wire.Error{Code: wire.CodeCorrupt, Op: "stage", Text: fmt.Sprintf("the contents at %d were damaged on the way here; send them again", p.Offset)}
	}
	if _, err := st.file.WriteAt(p.Data, st.size); err != nil {
		return stageError(st.id, err)
	}
	st.sumUp(p.Data)
	st.size += int64(len(p.Data))
	st.short = len(p.Data) < wire.PieceSize
	if st.size-st.begun < writebackEvery {
		return nil
	}
	if err := st.file.StartWriteback(st.begun, st.size-st.begun); err != nil {
		return stageError(st.id, err)
	}
	st.begun = st.size
	return st.s.roomToStage()
}

// sumUp sums blocks; with a skew the first one is shorter.
func (st *Stage) sumUp(b []byte) {
	for len(b) > 0 {
		room := wire.BlockSize
		if len(st.sums) == 0 {
			room -= int(st.skew)
		}
		part := b[:min(len(b), room-st.fill)]
		st.sum = wire.SumUpdate(st.sum, part)
		if st.fill += len(part); st.fill == room {
			st.endBlock()
		}
		b = b[len(part):]
	}
}

func (st *Stage) endBlock() {
	if st.fill > 0 {
		st.sums = append(st.sums, wire.SumUpdate(st.sum, zeroBlock[st.fill:]))
	}
	st.sum, st.fill = 0, 0
}

// Finish makes the object durable, name and all. A failed sync is a *FatalError
// (P12). After any error the stage is good for Discard alone.
func (st *Stage) Finish(ctx context.Context) (wire.StageReply, error) {
	if err := ctxError(ctx, "stage"); err != nil {
		return wire.StageReply{}, err
	}
	st.endBlock()
	done := &staged{size: st.size, skew: st.skew, sum: sumOfSums(st.sums), sums: st.sums, durable: true}
	if _, err := st.file.WriteAt(encodeTail(st.id, done), tailOffset(st.size)); err != nil {
		return wire.StageReply{}, stageError(st.id, err)
	}
	if err := st.file.Sync(); err != nil {
		return wire.StageReply{}, st.s.fail("sync", st.s.objectPath(st.id), err)
	}
	if err := st.s.fs.SyncDir(st.s.objectDir(st.id)); err != nil {
		return wire.StageReply{}, st.s.fail("sync", st.s.objectDir(st.id), err)
	}
	if err := st.file.Close(); err != nil {
		return wire.StageReply{}, st.s.fail("close", st.s.objectPath(st.id), err)
	}
	if !st.s.objects.complete(st.id, done) {
		return wire.StageReply{}, &wire.Error{Code: wire.CodeCanceled, Op: "stage", Text: "nobody wants these contents any more"}
	}
	st.over = true
	return wire.StageReply{ID: st.id, Size: st.size, Sum: done.sum}, nil
}

// Discard drops an unfinished stage; after Finish it does nothing.
func (st *Stage) Discard() {
	if st.over {
		return
	}
	st.over = true
	_ = st.file.Close() // it is removed
	st.s.removeFile(st.id)
	st.s.objects.become(st.id, 0, 0, nil)
}

// Unstage drops stages that no prepare has consumed or will consume: complete
// ones, those being written, which end in an error, and what a crash has left
// of one, of which no row and no trailer tells.
func (s *Store) Unstage(ids []wire.ID) {
	for _, id := range ids {
		if s.objects.revoke(id) {
			continue // its writer removes it
		}
		if info, known := s.objects.get(id); known && info.state != stateStaged {
			continue
		}
		if named, err := s.namedByRows(id); named || err != nil {
			continue
		}
		s.removeFile(id)
		s.objects.settle(id, stateStaged)
	}
}

// Abort drops what an aborted transaction has staged and reserved. The objects
// are unlinked by the next checkpoint: until the ABORT is durable, the PREPARE
// names them.
func (s *Store) Abort(tx *vote.Tx) {
	for _, id := range tx.Stages() {
		if st, ok, err := s.stagedObject(id); err == nil && ok {
			s.kill(id, st.size)
		}
	}
	s.Release(tx.ID)
}

// kill marks an object that no row names any more, from when on it is a
// checkpoint's to unlink: until then a redo may need it. Owner only.
func (s *Store) kill(id wire.ID, size int64) {
	s.objects.become(id, stateDead, size, nil)
	s.active.dead = append(s.active.dead, id)
}

// Sweep removes the objects that are of no use any more: those that neither
// rows, nor keep (whatever a prepare has named or may name yet), nor stages
// being written name. It is called after OPEN, and may run beside all else.
func (s *Store) Sweep(keep func(wire.ID) bool) error {
	for i := range s.format.dirs {
		dir := s.path(objectsName, dirName(i))
		entries, err := s.fs.ReadDir(dir)
		if err != nil {
			return &wire.Error{Code: wire.CodeIO, Op: "sweep", Name: dir, Text: err.Error()}
		}
		for part := range slices.Chunk(entries, maxTxKeys/2) {
			if err := s.sweepSome(dir, part, keep); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) sweepSome(dir string, entries []disk.Entry, keep func(wire.ID) bool) error {
	var gone []wire.ID
	for _, e := range entries {
		var n uint64
		if s.sweepAside(dir, e.Name) {
			continue
		}
		if _, err := fmt.Sscanf(e.Name, "%016x", &n); err != nil || fmt.Sprintf("%016x", n) != e.Name || e.IsDir {
			s.log.Warn("not an object; left alone", "file", strings.Join([]string{dir, e.Name}, "/"))
			continue
		}
		if id := wire.ID(n); !keep(id) {
			gone = append(gone, id)
		}
	}
	var sweep []wire.ID
	err := s.look(func(m *moment) error {
		for _, id := range gone {
			// What is known goes to a row before it is known no more, and what a
			// row leaves is known as dead in the same moment (install): looked for in
			// this order, within one moment, it is not missed.
			if info, known := s.objects.get(id); known && info.state != stateStaged {
				continue
			}
			named, err := m.names(id)
			if err != nil {
				return err
			}
			if !named {
				sweep = append(sweep, id)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range sweep {
		s.log.Info("removing an object that nothing names", "object", id)
		s.unlink(id)
		s.objects.settle(id, stateStaged)
	}
	return nil
}

// names tells whether a row names the object: every object of a file has a
// first page of checksums. One that a table has dropped and the kv still names
// is known as dead until a checkpoint has passed.
func (m *moment) names(id wire.ID) (bool, error) {
	_, ok, err := m.get(sumKey(id, 0))
	return ok, err
}
