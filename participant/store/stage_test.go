package store

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// A stage refuses what is out of order, damaged or too large, and a discarded
// one leaves nothing.
func TestStageRefuses(t *testing.T) {
	f := real(t)
	st, err := f.NewStage(50, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.NewStage(50, 0); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("a second stage of one id: %v", err)
	}
	p := fill(wire.PieceSize, 1)
	for _, tt := range []struct {
		p    wire.Piece
		code wire.Code
	}{
		{wire.Piece{Offset: 1, Sum: wire.Sum(p), Data: p}, wire.CodeProtocol},
		{wire.Piece{Sum: wire.Sum(p) + 1, Data: p}, wire.CodeCorrupt},
		{wire.Piece{Sum: wire.Sum(append(p, 1)), Data: append(p, 1)}, wire.CodeProtocol},
		{wire.Piece{Sum: wire.Sum(p[:5]), Data: p[:5]}, wire.CodeNone},
		{wire.Piece{Offset: 5, Sum: wire.Sum(p), Data: p}, wire.CodeProtocol}, // the short one was the last
	} {
		if err := st.Write(tt.p); wire.CodeOf(err) != tt.code {
			t.Errorf("piece at %d: %v, want %v", tt.p.Offset, err, tt.code)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := st.Finish(ctx); wire.CodeOf(err) != wire.CodeCanceled {
		t.Errorf("finish of a canceled stage: %v", err)
	}
	name := f.objectPath(50)
	st.Discard()
	st.Discard()
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("discarded: %v", err)
	}
	if _, _, ok := f.Staged(50); ok {
		t.Error("a discarded stage is staged")
	}
	r := f.stage(fill(200_000, 2))
	f.reopen()
	if size, sum, ok := f.Staged(r.ID); !ok || size != r.Size || sum != r.Sum {
		t.Errorf("after a restart: %d %x %t, want %v", size, sum, ok, r)
	}
	f.reopen()
	flip(t, f.objectPath(r.ID), tailOffset(r.Size)+5)
	if _, _, ok := f.Staged(r.ID); ok {
		t.Error("a stage whose checksums are rotten is staged")
	}
	flip(t, f.objectPath(r.ID), tailOffset(r.Size)+5)
	f.Unstage([]wire.ID{r.ID})
	if _, _, ok := f.Staged(r.ID); ok {
		t.Error("an unstaged object is staged")
	}
}

// A process ends between the last write of a stage and its sync. The next one
// finds the object in the page cache and says YES to it: after a power loss it
// is still there, name and contents (P2). What an earlier sync has failed to
// write is no stage (J3), and a sync that fails now ends the participant (P12).
func TestStageOfAnEarlierProcess(t *testing.T) {
	for seed := range uint64(30) {
		fsys := forget.New(seed)
		f := simulated(t, fsys)
		f.checkpoint() // the root outlasts the process
		data := fill(150_000, byte(seed))
		id, sum := f.unsynced(data)
		if seed%3 == 2 { // the sync was tried, and has failed
			fsys.SetHook(failSyncOf("objects/"))
			h, err := fsys.Open(f.objectPath(id))
			if err != nil || h.Sync() == nil || h.Close() != nil {
				t.Fatalf("no failed sync: %v", err)
			}
			fsys.SetHook(nil)
		}
		fsys.Restart() // the process ends, the machine goes on
		f.restartModel(fsys)
		size, got, ok := f.Staged(id)
		if ok && (size != int64(len(data)) || got != sum) || !ok && seed%3 != 2 {
			t.Fatalf("seed %d: a stage of %d bytes, sum %x, %t", seed, size, got, ok)
		}
		if !ok {
			continue
		}
		lost := fsys.Crash(rand.New(rand.NewPCG(seed, 1)))
		f.restartModel(lost)
		if size, got, ok = f.Staged(id); !ok || size != int64(len(data)) || got != sum {
			t.Fatalf("seed %d: after the power loss a stage of %d bytes, sum %x, %t", seed, size, got, ok)
		}
		b := vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: wire.RootIno, Name: "x", Mode: 0o644,
			Content: wire.Content{Size: size, Stage: id, Sum: sum}}
		if seed%3 != 2 { // what a failed sync has lost shows at the read (S5)
			f.apply(nil, b)
			f.wantFile("x", data)
		}
	}
	for _, what := range []string{"objects/", "dir"} {
		fsys := forget.New(1)
		f := simulated(t, fsys)
		id, _ := f.unsynced(fill(100_000, 1))
		f.restartModel(fsys)
		fsys.SetHook(failSyncOf(what))
		var fatal *FatalError
		if _, _, ok := f.Staged(id); ok || !errors.As(f.Failed(), &fatal) {
			t.Errorf("%s: YES to what a failed sync has not written, and %v", what, f.Failed())
		}
		fsys.SetHook(nil)
	}
}

// failSyncOf fails the syncs of files with part in their names, of directories for "dir".
func failSyncOf(part string) func(forget.Op) error {
	return func(op forget.Op) error {
		if op.Kind == forget.Sync && strings.Contains(op.Name, part) || op.Kind == forget.SyncDir && part == "dir" {
			return syscall.EIO
		}
		return nil
	}
}

// unsynced writes all of a stage, and ends before its sync.
func (f *fixture) unsynced(data []byte) (wire.ID, uint32) {
	f.t.Helper()
	st, err := f.NewStage(wire.MakeID(1, f.next), 0)
	f.next++
	for i := 0; err == nil && i < len(data); i += wire.PieceSize {
		p := data[i:min(len(data), i+wire.PieceSize)]
		err = st.Write(wire.Piece{Offset: int64(i), Sum: wire.Sum(p), Data: p})
	}
	if err != nil {
		f.t.Fatal(err)
	}
	st.endBlock()
	done := &staged{size: st.size, sum: sumOfSums(st.sums), sums: st.sums}
	if _, err := st.file.WriteAt(encodeTail(st.id, done), tailOffset(st.size)); err != nil {
		f.t.Fatal(err)
	}
	if err := st.file.Close(); err != nil {
		f.t.Fatal(err)
	}
	st.over = true
	return st.id, done.sum
}

// The sums that stages answer are those that the wire defines.
func TestStageSum(t *testing.T) {
	f := real(t)
	data := fill(wire.PieceSize+wire.BlockSize+5, 1)
	var sums []byte
	for i := 0; i < len(data); i += wire.BlockSize {
		block := make([]byte, wire.BlockSize)
		copy(block, data[i:])
		s := wire.Sum(block)
		sums = append(sums, byte(s), byte(s>>8), byte(s>>16), byte(s>>24))
	}
	if r := f.stage(data); r.Sum != wire.Sum(sums) || r.Size != int64(len(data)) {
		t.Errorf("reply %v, want sum %x", r, wire.Sum(sums))
	}
}

// A stage longer than the writeback step, read back.
func TestLargeStage(t *testing.T) {
	f := real(t)
	data := fill(writebackEvery*2+12_345, 3)
	f.create("big", data)
	f.wantFile("big", data)
	f.checkpoint()
	f.reopen()
	f.wantFile("big", data)
}

// Sweep touches nothing that is in use, and no file that is not an object.
func TestSweep(t *testing.T) {
	f := real(t)
	ino := f.create("a", fill(100_000, 1))
	keep, left := f.stage(fill(100, 1)), f.stage(fill(100, 2))
	open, err := f.NewStage(77, 0)
	if err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(f.o.Dir, "objects", "00", "0000000000000abc")
	foreign := filepath.Join(f.o.Dir, "objects", "00", "README")
	for _, name := range []string{stray, foreign} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kept := f.objectPath(500)
	if err := os.WriteFile(kept, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep(func(id wire.ID) bool { return id == 500 || id == keep.ID }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{foreign, kept, f.objectFile(ino), f.objectPath(keep.ID), f.objectPath(77)} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(stray); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a stray object: %v", err)
	}
	if _, _, ok := f.Staged(left.ID); ok {
		t.Error("a stage that nobody can name any more is still there")
	}
	if _, err := os.Stat(f.objectPath(left.ID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its object: %v", err)
	}
	open.Discard()
}

// A file is overwritten while a sweep looks at its object: that stays until the
// checkpoint, because the redo of the transaction that took it needs it.
func TestSweepBesideAnApply(t *testing.T) {
	f := real(t)
	ino := f.create("x", fill(150_000, 1))
	name := f.objectFile(ino)
	looked := false
	err := f.Sweep(func(id wire.ID) bool {
		if f.objectPath(id) == name {
			looked = true
			f.overwrite(ino, fill(10, 2))
		}
		return false
	})
	if err != nil || !looked {
		t.Fatalf("%v, looked %t", err, looked)
	}
	if _, err := os.Stat(name); err != nil {
		t.Errorf("before a checkpoint: %v", err)
	}
	f.checkpoint()
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after it: %v", err)
	}
}

// A participant that does not find what a transaction was prepared with says what
// it finds.
func TestNoStage(t *testing.T) {
	data := fill(100_000, 1)
	for _, tt := range []struct {
		name, want string
		harm       func(f *fixture, take vote.Bound)
	}{
		{"dead", "the object is dead", func(f *fixture, take vote.Bound) {
			f.Abort(&vote.Tx{ID: wire.MakeID(1, 900), Bounds: []vote.Bound{take}})
		}},
		{"named", "rows name the object already (meta.db: false, <nil>)", func(f *fixture, take vote.Bound) { f.apply(nil, take) }},
		{"missing", "does not exist, ", func(f *fixture, take vote.Bound) {
			f.reopen()
			if err := os.Remove(f.objectPath(take.Content.Stage)); err != nil {
				f.t.Fatal(err)
			}
		}},
		{"no trailer", " has 100403 bytes and no trailer at their end, ", func(f *fixture, take vote.Bound) {
			f.reopen()
			if err := os.Truncate(f.objectPath(take.Content.Stage), 100_403); err != nil {
				f.t.Fatal(err)
			}
		}},
		{"no checksums", " has a trailer, and other bytes than its checksums at 102400, ", func(f *fixture, take vote.Bound) {
			f.reopen()
			flip(f.t, f.objectPath(take.Content.Stage), tailOffset(take.Content.Size)+5)
		}},
		{"half aside", ".sums has 3 bytes and no trailer at their end", func(f *fixture, take vote.Bound) {
			f.reopen()
			flip(f.t, f.objectPath(take.Content.Stage), tailOffset(take.Content.Size)+5)
			if err := os.WriteFile(f.asidePath(take.Content.Stage), []byte("abc"), 0o600); err != nil {
				f.t.Fatal(err)
			}
		}},
		{"another", "there are 100000 bytes with checksum ", func(f *fixture, take vote.Bound) { f.reopen() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := real(t)
			f.checkpoint()
			r := f.stage(data)
			take := vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: 1, Name: "f", Content: wire.Content{Size: r.Size, Stage: r.ID, Sum: r.Sum}}
			tt.harm(f, take)
			if tt.name == "another" {
				take.Content.Sum++
			}
			take.Name = "g"
			err := f.Apply(&vote.Tx{ID: wire.MakeID(1, 901), Bounds: []vote.Bound{take}}, wire.Position{Epoch: 1, Index: 9})
			if wire.CodeOf(err) != wire.CodeCorrupt || !strings.Contains(err.Error(), tt.want) || f.Damaged() == "" {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
