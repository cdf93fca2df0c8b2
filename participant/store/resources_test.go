package store

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// noFiles has a process run out of file descriptors: objects do not open until the
// function that it returns is called.
func noFiles(fsys *forget.FS) (enough func()) {
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Open && strings.Contains(op.Name, "objects/") {
			return syscall.EMFILE
		}
		return nil
	})
	return func() { fsys.SetHook(nil) }
}

// A file that cannot be opened for want of descriptors is no rotten file: no block is
// called bad for it, neither to a prepare, which would forget its checksum, nor to a read.
func TestNoDescriptorsIsNoRot(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	data := fill(100_000, 1)
	ino := f.create("f", data)
	f.checkpoint()
	enough := noFiles(fsys)
	_, bad, err := f.Block(ino, 0, make([]byte, wire.BlockSize))
	if bad || err == nil {
		t.Errorf("a prepare is told of block 0: bad %t, %v; want an error", bad, err)
	}
	if _, err := f.read("f", 0, -1); err == nil || wire.CodeOf(err) == wire.CodeCorrupt {
		t.Errorf("a read: %v; want an error that does not speak of rot", err)
	}
	if v, err := f.Verify(t.Context(), wire.Verify{Bytes: 1 << 20}); err == nil || len(v.Rotten) > 0 {
		t.Errorf("a scrub finds %v, %v; want an error", v.Rotten, err)
	}
	enough()
	f.wantFile("f", data)
}

// What is staged is not given up because a checkpoint cannot open it: the checkpoint
// fails, and a redo has it.
func TestNoDescriptorsLosesNoStage(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	data := fill(300_000, 1)
	ino := f.create("f", data)
	f.checkpoint()
	part := fill(2*wire.BlockSize, 9)
	r := f.stage(part)
	patch := vote.Bound{Kind: wire.MutWriteFile, Ino: ino, Write: wire.WriteExtents,
		Extents: []wire.Extent{{Offset: wire.BlockSize, Size: r.Size, Stage: r.ID, Sum: r.Sum}}}
	copy(data[wire.BlockSize:], part)
	f.apply(nil, patch)
	enough := noFiles(fsys)
	c, err := f.Freeze(f.lsn, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Run(func() error { return nil })
	enough()
	if err == nil { // then nothing may be lost
		f.wantFile("f", data)
		t.Fatal("the checkpoint went well without the staged contents")
	}
	var fatal *FatalError
	if !errors.As(err, &fatal) {
		t.Errorf("the checkpoint failed with %v, want a *FatalError (P12)", err)
	}
	f.restartModel(fsys)
	f.lsn = 1
	f.next -= 1
	f.apply(nil, patch)
	f.wantFile("f", data)
	f.checkpoint()
	f.wantFile("f", data)
}

// A redo that cannot open what was staged ends the participant; it is not damaged.
func TestNoDescriptorsIsNoDamage(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	data := fill(100_000, 1)
	r := f.stage(data)
	f.restartModel(fsys)
	enough := noFiles(fsys)
	tx := &vote.Tx{ID: wire.MakeID(1, 50), Time: 1000, Bounds: []vote.Bound{{Kind: wire.MutWriteFile, Created: true, Dir: wire.RootIno, Name: "f",
		Ino: wire.Ino(wire.MakeID(1, 50)), Content: wire.Content{Size: r.Size, Stage: r.ID, Sum: r.Sum}}}}
	if err := f.Bootstrap(testRoot, wire.Position{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	err := f.Apply(tx, wire.Position{Epoch: 1, Index: 1})
	if err == nil || wire.CodeOf(err) == wire.CodeCorrupt || f.Damaged() != "" {
		t.Errorf("the redo: %v, damaged: %q; want an error that speaks of no damage", err, f.Damaged())
	}
	enough()
	f.restartModel(fsys)
	if err := f.Bootstrap(testRoot, wire.Position{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	if err := f.Apply(tx, wire.Position{Epoch: 1, Index: 1}); err != nil {
		t.Fatal(err)
	}
	f.wantFile("f", data)
}

// A pack that cannot be opened for want of descriptors is not lost.
func TestNoDescriptorsLosesNoPack(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	b, err := wire.EncodePack([]wire.Mutation{{Kind: wire.MutMkdir, At: wire.At{Dir: 1, Path: "d"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := f.stage(b)
	pack := &wire.Pack{Stage: r.ID, Size: r.Size, Sum: r.Sum, Count: 1}
	enough := noFiles(fsys)
	_, _, err = f.Pack(pack)
	if err == nil || wire.CodeOf(err) == wire.CodeStageLost {
		t.Errorf("the pack: %v; want an error that does not say that it is lost", err)
	}
	enough()
	if m, _, err := f.Pack(pack); err != nil || len(m) != 1 {
		t.Errorf("the pack: %d mutations, %v", len(m), err)
	}
}

// A pack is staged from the begin of a block on: one that is not is refused.
func TestPackWithSkew(t *testing.T) {
	f := simulated(t, forget.New(1))
	data := fill(wire.BlockSize-10, 1)
	clear(data[len(data)-20:]) // the first block's checksum is that of all of it
	r := f.stageAt(20, data)
	if _, _, err := f.Pack(&wire.Pack{Stage: r.ID, Size: r.Size, Sum: r.Sum, Count: 1}); err == nil {
		t.Error("it was taken")
	}
}

// A write over the checksums of an object on a full disk gets a NO (S6): the disk is no
// reason to end.
func TestPreserveOnFullDisk(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	data := fill(100_000, 1)
	ino := f.create("f", data)
	fsys.SetCapacity(1)
	err := f.Preserve(ino, 0, 200_000)
	if wire.CodeOf(err) != wire.CodeNoSpace || f.Failed() != nil {
		t.Errorf("%v, failed: %v; want that there is no space", err, f.Failed())
	}
	fsys.SetCapacity(0)
	if err := f.Preserve(ino, 0, 200_000); err != nil || !f.objects.hasAside(wire.ID(mustObject(f, ino))) {
		t.Errorf("with space: %v", err)
	}
	f.wantFile("f", data)
}

// A vote that may not open an object, or cannot make a file, for want of descriptors gets a
// NO; the participant goes on (S5).
func TestPreserveWithoutDescriptors(t *testing.T) {
	for name, kind := range map[string]forget.Kind{"open": forget.Open, "create": forget.Create} {
		fsys := forget.New(1)
		f := simulated(t, fsys)
		ino := f.create("f", fill(100_000, 1))
		met := false
		fsys.SetHook(func(op forget.Op) error {
			if op.Kind != kind || !strings.Contains(op.Name, "objects/") {
				return nil
			}
			met = true
			return syscall.EMFILE
		})
		err := f.Preserve(ino, 0, 200_000)
		fsys.SetHook(nil)
		if !met || wire.CodeOf(err) != wire.CodeUnavailable || f.Failed() != nil {
			t.Errorf("%s: met %t, %v, failed: %v; want that it is not available", name, met, err, f.Failed())
		}
		if err := f.Preserve(ino, 0, 200_000); err != nil || !f.objects.hasAside(mustObject(f, ino)) {
			t.Errorf("%s, with descriptors: %v", name, err)
		}
	}
}

// A vote makes no file of those that others are promised.
func TestPreserveLeavesPromisedFiles(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	ino := f.create("f", fill(100_000, 1))
	fsys.SetFiles(keptFiles + 1)
	if err := f.Reserve(7, 8, 30_000, 0, false); err != nil {
		t.Fatal(err)
	}
	if err := f.Preserve(ino, 0, 200_000); wire.CodeOf(err) != wire.CodeNoSpace || f.Failed() != nil {
		t.Errorf("%v, failed: %v; want that there is no space", err, f.Failed())
	}
	f.Release(7)
	if err := f.Preserve(ino, 0, 200_000); err != nil || !f.objects.hasAside(mustObject(f, ino)) {
		t.Errorf("when nobody is promised one: %v", err)
	}
}

func mustObject(f *fixture, ino wire.Ino) (id wire.ID) {
	f.t.Helper()
	err := f.look(func(m *moment) error {
		n, err := m.inode(ino)
		id = n.object
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// The last block of the greatest file ends beyond what a file system may have.
func TestAllocateAtTheGreatestSize(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	ino := f.create("f", fill(100_000, 1))
	f.apply(nil, vote.Bound{Kind: wire.MutAllocate, Ino: ino, Offset: wire.MaxFileSize - 4096, Length: 4096, Size: wire.MaxFileSize})
	f.checkpoint()
}
