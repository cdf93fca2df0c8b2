package store

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// When the disk is full: an apply and a checkpoint go on by giving up the
// ballast, then only deletes get YES, until there is space again.
func TestDiskFull(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	for i := range 20 {
		f.create(fmt.Sprint("f", i), fill(60_000, byte(i)))
	}
	f.checkpoint()
	free := func() int64 {
		n, err := fsys.Free(testDir)
		if err != nil {
			t.Fatal(err)
		}
		return int64(n)
	}
	used := int64(0) // find out what is used
	fsys.SetCapacity(1 << 40)
	used = 1<<40 - free()
	fsys.SetCapacity(used + 30_000)
	left := func() string { return ": " + wire.SizeText(f.Stats().Free) + " left" } // as status shows it
	if err := f.Reserve(7, 5, 100_000, 0, false); wire.CodeOf(err) != wire.CodeNoSpace || !strings.Contains(err.Error(), left()) {
		t.Fatalf("a YES without space: %v; %s", err, left())
	}
	if err := f.Reserve(8, 5, 100_000, 0, true); err != nil {
		t.Fatalf("a delete without space: %v", err)
	}
	f.Release(8)
	if _, err := f.NewStage(wire.MakeID(9, 9), 0); wire.CodeOf(err) != wire.CodeNoSpace || !strings.Contains(err.Error(), left()) {
		t.Fatalf("a stage without space: %v", err)
	}
	f.create("more", fill(60_000, 99)) // needs the ballast
	if !f.ballastMissing() {
		t.Fatal("the ballast is still there")
	}
	fsys.SetCapacity(0)
	if err := f.Reserve(9, 1, 1, 0, false); wire.CodeOf(err) != wire.CodeNoSpace {
		t.Fatalf("a YES without ballast: %v", err)
	}
	if !f.NeedCheckpoint() {
		t.Fatal("nothing makes the ballast again")
	}
	f.checkpoint()
	if err := f.Reserve(9, 1, 1, 0, false); err != nil || f.ballastMissing() || f.NeedCheckpoint() {
		t.Fatalf("after space came back: %v", err)
	}
	f.wantFile("more", fill(60_000, 99))

	// The kv's write meets the full disk.
	f.create("small", fill(8000, 5))
	fsys.SetCapacity(1 << 40)
	fsys.SetCapacity(1<<40 - free() + 4096)
	f.checkpoint()
	if !f.ballastMissing() {
		t.Fatal("the checkpoint did not need the ballast")
	}
	fsys.SetCapacity(1 << 40)
	fsys.SetCapacity(1<<40 - free() + f.headroom() + f.o.Ballast/2)
	if err := f.Reserve(10, 1, 1, 0, false); wire.CodeOf(err) != wire.CodeNoSpace || f.Stats().Free != 0 {
		t.Errorf("%v, and yet %d bytes are left to files", err, f.Stats().Free)
	}
	fsys.SetCapacity(0)
	f.wantFile("small", fill(8000, 5))
}

// Two writes meet the full disk at once, an apply's and a checkpoint's: both go
// on when the ballast is gone, none before, and who reserves space does not wait.
func TestBallastIsGivenUpOnce(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	drops := f.ballastDrops()
	inside := false
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind != forget.Remove || inside {
			return nil
		}
		inside = true
		if !f.space.mu.TryLock() {
			t.Error("the ballast is unlinked under the lock")
			return nil
		}
		f.space.mu.Unlock()
		if f.claimBallast() {
			t.Error("the ballast is made while it is given up")
		}
		return nil
	})
	if !f.dropBallast(drops) || !inside {
		t.Error("the first write gets no space")
	}
	if !f.dropBallast(drops) {
		t.Error("the second write, which began before the ballast was given up, fails")
	}
	if f.dropBallast(f.ballastDrops()) {
		t.Error("a later write gets space that nobody has")
	}
	if !f.claimBallast() || !f.dropBallast(drops) || f.dropBallast(f.ballastDrops()) {
		t.Error("while the ballast is made again")
	}
	fsys.SetHook(nil)
}

// ENOSPC from a sync is no full disk but a lost write (P12): the store has
// failed, for good, and the ballast stays.
func TestFailedSync(t *testing.T) {
	for _, what := range []string{"object", "directory", "kv", "journal"} {
		t.Run(what, func(t *testing.T) {
			fsys := forget.New(1)
			f := simulated(t, fsys)
			f.create("a", fill(30_000, 1))
			fsys.SetHook(func(op forget.Op) error {
				bad := op.Kind == forget.Sync && strings.Contains(op.Name, "objects/") && what == "object" ||
					op.Kind == forget.SyncDir && what == "directory" ||
					op.Kind == forget.Sync && strings.HasSuffix(op.Name, "meta.db") && what == "kv"
				if bad {
					return syscall.ENOSPC
				}
				return nil
			})
			c, err := f.Freeze(1, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = c.Run(func() error {
				if what == "journal" {
					return syscall.EIO
				}
				return nil
			})
			fsys.SetHook(nil)
			var fatal *FatalError
			if !errors.As(err, &fatal) || f.Failed() == nil || f.ballastMissing() {
				t.Fatalf("error %v, failed %v", err, f.Failed())
			}
			if err := f.Apply(&vote.Tx{ID: 99}, wire.Position{Epoch: 1, Index: 9}); !errors.As(err, &fatal) {
				t.Errorf("a failed store applies: %v", err)
			}
			if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeUnavailable {
				t.Errorf("a failed store answers: %v", err)
			}
		})
	}
}

// The table's bound holds the next prepare back, and a checkpoint makes room.
func TestTableBound(t *testing.T) {
	f := simulated(t, forget.New(1)) // 64 KiB
	for i := 0; !f.NeedCheckpoint(); i++ {
		if i > 1000 {
			t.Fatal("no checkpoint is ever needed")
		}
		f.create(fmt.Sprint("f", i), fill(100, 1))
	}
	if f.TableFull() {
		t.Fatal("full at half")
	}
	if err := f.Reserve(1000, 10, 40_000, 0, false); err != nil {
		t.Fatal(err)
	}
	if !f.TableFull() {
		t.Fatal("promises do not count")
	}
	f.Release(1000)
	f.Release(1000)
	c, err := f.Freeze(f.lsn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Freeze(f.lsn, nil); wire.CodeOf(err) != wire.CodeBusy {
		t.Fatalf("a second checkpoint at once: %v", err)
	}
	if err := c.Run(func() error { return nil }); err != nil || f.TableFull() || f.NeedCheckpoint() || f.Stats().TableBytes != 0 {
		t.Fatalf("after a checkpoint: %v", err)
	}
}

// Where a disk has space and no inodes left, a YES that makes files is refused before an
// apply finds that out; what is promised is made, and deletes go on (S6).
func TestNoMoreFiles(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	f.create("old", fill(30_000, 1))
	f.checkpoint()
	if left := f.Stats().FilesLeft; left != math.MaxUint64 {
		t.Errorf("without a bound %d files are left", left)
	}
	fsys.SetFiles(keptFiles + 3)
	if left := f.Stats().FilesLeft; left != 3 {
		t.Errorf("%d files are left, want 3", left)
	}
	var promised []wire.ID
	for n := uint64(100); ; n++ {
		id := wire.MakeID(1, n)
		err := f.Reserve(id, 8, 30_000, 0, false)
		if err != nil {
			if wire.CodeOf(err) != wire.CodeNoSpace || !strings.Contains(err.Error(), "inodes") {
				t.Fatal(err)
			}
			break
		}
		if promised = append(promised, id); len(promised) > keptFiles+3 {
			t.Fatalf("%d files are promised, %d can be made", len(promised), keptFiles+3)
		}
	}
	if left := f.Stats().FilesLeft; len(promised) != 3 || left != 0 {
		t.Errorf("%d files are promised, %d left; want 3 and 0", len(promised), left)
	}
	for i, id := range promised {
		data := fill(30_000, byte(i))
		tx := &vote.Tx{ID: id, Time: 1000, Payload: data, Bounds: []vote.Bound{{Kind: wire.MutWriteFile, Created: true, Dir: wire.RootIno,
			Name: fmt.Sprint("f", i), Ino: wire.Ino(id), Content: wire.Content{Size: int64(len(data)), Sum: wire.Sum(data)}}}}
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(200 + i)}); err != nil {
			t.Fatal(err)
		}
		f.wantFile(fmt.Sprint("f", i), data)
	}
	if f.ballastMissing() {
		t.Error("the reserve was given up for what was promised")
	}
	if _, err := f.NewStage(wire.MakeID(9, 9), 0); wire.CodeOf(err) != wire.CodeNoSpace {
		t.Errorf("a stage: %v", err)
	}
	if err := f.Reserve(7, 8, 100, 0, true); err != nil {
		t.Errorf("a delete: %v", err)
	}
	fsys.SetFiles(-1)
	if err := f.Reserve(8, 8, 100, 0, false); err != nil {
		t.Errorf("when there are inodes again: %v", err)
	}
}

// A transaction of many changes that make no files is not refused for want of them, nor are
// others beside it: directories, names and small contents are rows.
func TestRowsAreNoFiles(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	fsys.SetFiles(5000)
	const many = wire.MaxMutations
	if err := f.Reserve(7, 2+6*many, 300*many, 0, false); err != nil {
		t.Errorf("%d directories: %v", many, err)
	}
	if err := f.Reserve(8, 8, 30_000, 0, false); err != nil {
		t.Errorf("a file beside them: %v", err)
	}
	for n, tt := range []struct {
		bytes, room, files int64
	}{{int64(f.Store.o.InlineMax) - 1, 0, 0}, {int64(f.Store.o.InlineMax) + 300, 0, 1}, {300, wire.BlockSize, 1}, {1 << 20, 0, 1}} {
		before, id := f.space.files, wire.ID(100+n)
		if err := f.Reserve(id, 8, tt.bytes, tt.room, false); err != nil || f.space.files-before != tt.files {
			t.Errorf("a change of %d bytes and %d in place makes %d files, %v; want %d", tt.bytes, tt.room, f.space.files-before, err, tt.files)
		}
	}
}

// A quota that is exceeded is a full disk: an apply gives up the reserve and goes on.
func TestQuota(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	given := false
	fsys.SetHook(func(op forget.Op) error {
		given = given || op.Kind == forget.Remove && strings.HasSuffix(op.Name, ballastName)
		if op.Kind == forget.Write && strings.Contains(op.Name, "objects/") && !given {
			return syscall.EDQUOT
		}
		return nil
	})
	if _, err := f.NewStage(wire.MakeID(1, 90), 0); err != nil {
		t.Fatal(err)
	}
	data := fill(30_000, 1)
	f.create("f", data)
	fsys.SetHook(nil)
	if !given || f.Failed() != nil {
		t.Errorf("the reserve was given up: %t; failed: %v", given, f.Failed())
	}
	f.wantFile("f", data)
}
