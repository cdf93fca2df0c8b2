package store

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// write writes extents as a prepare would bind them; want is the file then.
func (f *fixture) write(ino wire.Ino, want []byte, payload []byte, x ...wire.Extent) {
	f.t.Helper()
	d := vote.Bound{Kind: wire.MutWriteFile, Ino: ino, Write: wire.WriteExtents, Extents: x}
	blocks := map[int64]bool{}
	for _, e := range x {
		for _, b := range []int64{e.Offset / wire.BlockSize, (e.Offset + e.Size - 1) / wire.BlockSize} {
			if !blocks[b] && !vote.WholeBlock(b, e.Offset, e.Offset+e.Size, int64(len(want))) {
				blocks[b] = true
				part := want[b*wire.BlockSize : min(int64(len(want)), (b+1)*wire.BlockSize)]
				d.Sums = append(d.Sums, vote.BlockSum{Block: b, Sum: padSum(part)})
			}
		}
		if err := f.Preserve(ino, 0, e.Offset+e.Size); err != nil {
			f.t.Fatal(err)
		}
	}
	f.apply(payload, d)
}

// patched is what a file holds after a write.
func patched(old []byte, at int, data []byte) []byte {
	b := make([]byte, max(len(old), at+len(data)))
	copy(b, old)
	copy(b[at:], data)
	return b
}

// A long read is of one version, while extents are written over what it has
// not read yet, staged and inline, and a checkpoint copies (S2).
func TestReadDuringExtents(t *testing.T) {
	for _, young := range []bool{false, true} {
		f := real(t)
		old := fill(40*wire.BlockSize+77, 1)
		ino := f.create("f", old)
		if !young {
			f.checkpoint()
		}
		now, n := old, 0
		w := pieces{hook: func(wire.Piece) {
			n++
			switch n {
			case 1:
				now = patched(now, 30*wire.BlockSize+5, fill(1000, 2))
				f.write(ino, now, fill(1000, 2), wire.Extent{Offset: 30*wire.BlockSize + 5, Size: 1000})
			case 2:
				part := fill(2*wire.BlockSize, 3)
				now = patched(now, 20*wire.BlockSize, part)
				r := f.stage(part)
				f.write(ino, now, nil, wire.Extent{Offset: 20 * wire.BlockSize, Size: r.Size, Stage: r.ID, Sum: r.Sum})
			case 3:
				f.checkpoint()
				f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: 25 * wire.BlockSize})
				now = now[:25*wire.BlockSize]
			case 4:
				now = patched(now, len(now), fill(3000, 4))
				f.write(ino, now, fill(3000, 4), wire.Extent{Offset: 25 * wire.BlockSize, Size: 3000})
				f.checkpoint()
			}
		}}
		_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "f"}, Length: -1}, &w)
		if err != nil || !bytes.Equal(w.data, old) || n < 4 {
			t.Fatalf("young %t: the read gave %d bytes after %d pieces, error %v", young, len(w.data), n, err)
		}
		f.wantFile("f", now)
		f.reopen()
	}
}

// What would have to be kept for a slow reader is bounded: then it starts again.
func TestReadDuringTooMuch(t *testing.T) {
	f := real(t)
	old := fill(300*wire.BlockSize, 1)
	ino := f.create("f", old)
	part := fill(280*wire.BlockSize, 9)
	w := pieces{}
	w.hook = func(p wire.Piece) {
		if p.Offset > 0 {
			return
		}
		r := f.stage(part)
		f.write(ino, patched(old, 5*wire.BlockSize, part), nil, wire.Extent{Offset: 5 * wire.BlockSize, Size: r.Size, Stage: r.ID, Sum: r.Sum})
		f.checkpoint()
	}
	_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "f"}, Length: -1}, &w)
	if wire.CodeOf(err) != wire.CodeChanged {
		t.Errorf("after %d bytes: %v", len(w.data), err)
	}
	f.wantFile("f", patched(old, 5*wire.BlockSize, part))
}

// Readers beside an owner that writes and a checkpoint that copies see each
// version whole.
func TestReadersBesideExtents(t *testing.T) {
	f := real(t)
	const size = 6 * wire.BlockSize
	ino := f.create("f", bytes.Repeat([]byte{0}, size))
	done, ended := make(chan struct{}), make(chan error, 3)
	for range 3 {
		go func() {
			for {
				select {
				case <-done:
					ended <- nil
					return
				default:
				}
				data, err := f.read("f", 0, -1)
				for i := 1; err == nil && i < len(data); i++ {
					if data[i] != data[0] {
						err = wire.NewError(wire.CodeIO, "two versions in one read")
					}
				}
				if err != nil && wire.CodeOf(err) != wire.CodeChanged {
					ended <- err
					return
				}
			}
		}()
	}
	for v := byte(1); v < 60; v++ {
		now := bytes.Repeat([]byte{v}, size)
		head, mid, tail := now[:100], now[100:size-200], now[size-200:]
		r := f.stageAt(100, mid)
		f.write(ino, now, append(bytes.Clone(head), tail...), wire.Extent{Size: 100},
			wire.Extent{Offset: 100, Size: r.Size, Stage: r.ID, Sum: r.Sum}, wire.Extent{Offset: size - 200, Size: 200})
		if v%5 == 0 {
			f.checkpoint()
		}
	}
	close(done)
	for range 3 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// Rot is never blessed (S5): what a prepare cannot verify it says is bad, and
// reads say so, until all of the block is written anew.
func TestRotUnderExtents(t *testing.T) {
	f := real(t)
	data := fill(3*wire.BlockSize, 1)
	ino := f.create("f", data)
	f.checkpoint()
	flip(t, f.objectFile(ino), wire.BlockSize+9)
	if _, bad, err := f.Block(ino, 1, make([]byte, wire.BlockSize)); !bad || err != nil {
		t.Fatalf("bad %t, error %v", bad, err)
	}
	f.apply([]byte("x"), vote.Bound{Kind: wire.MutWriteFile, Ino: ino, Write: wire.WriteExtents,
		Extents: []wire.Extent{{Offset: wire.BlockSize + 100, Size: 1}}, Sums: []vote.BlockSum{{Block: 1, Bad: true}}})
	if _, err := f.read("f", wire.BlockSize, 10); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Errorf("a block that was rotten and written in part: %v", err)
	}
	if _, err := f.read("f", 0, wire.BlockSize); err != nil {
		t.Errorf("the block before it: %v", err)
	}
	now := patched(data, wire.BlockSize, fill(wire.BlockSize, 7))
	f.write(ino, now, fill(wire.BlockSize, 7), wire.Extent{Offset: wire.BlockSize, Size: wire.BlockSize})
	f.wantFile("f", now)
}

// What a change costs follows what changed (F4, S2): bytes far out in a file of
// terabytes take a block and a row or two.
func TestSparse(t *testing.T) {
	f := real(t)
	ino := f.create("f", []byte("begin"))
	far := int64(15 << 40)
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: far + 5})
	f.apply([]byte("end"), vote.Bound{Kind: wire.MutWriteFile, Ino: ino, Write: wire.WriteExtents, Extents: []wire.Extent{{Offset: far, Size: 3}},
		Sums: []vote.BlockSum{{Block: far / wire.BlockSize, Sum: padSum([]byte("end"))}}})
	f.checkpoint()
	reply, err := f.Read(wire.Read{Kind: wire.ReadData, At: wire.At{Dir: ino}}, nil)
	want := []wire.Range{{Length: wire.BlockSize}, {Offset: far, Length: 3}}
	if err != nil || len(reply.Ranges) != 2 || reply.Ranges[0] != want[0] || reply.Ranges[1] != want[1] || reply.More || reply.Attr.Blocks != 256 {
		t.Fatalf("%+v, error %v", reply, err)
	}
	if got, err := f.read("f", far-2, -1); err != nil || string(got) != "\x00\x00end\x00\x00" {
		t.Errorf("%q, error %v", got, err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := f.Export(t.Context(), out, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(out, "f")); err != nil || info.Size() != far+5 {
		t.Errorf("exported: %v, error %v", info, err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutPunchHole, Ino: ino, Length: far + 5, Size: far + 5})
	if reply, err := f.Read(wire.Read{Kind: wire.ReadData, At: wire.At{Dir: ino}}, nil); err != nil || len(reply.Ranges) != 0 || reply.Attr.Blocks != 0 {
		t.Errorf("all punched: %+v, error %v", reply, err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutDeleteFile, Dir: 1, Name: "f", Ino: ino})
	f.checkpoint()
}

// A stage that has become a file is written in place, over its trailer; a crash
// before the next checkpoint finds its checksums aside.
func TestYoungObjectIsExtended(t *testing.T) {
	for seed := range uint64(40) {
		fsys := forget.New(seed)
		f := simulated(t, fsys)
		data := fill(100_000, 1)
		r := f.stage(data)
		take := vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: 1, Name: "f", Content: wire.Content{Size: r.Size, Stage: r.ID, Sum: r.Sum}}
		ino := wire.Ino(f.apply(nil, take))
		take.Ino = ino
		now := append(bytes.Clone(data), fill(60_000, 2)...)
		f.write(ino, now, fill(60_000, 2), wire.Extent{Offset: 100_000, Size: 60_000})
		h, err := fsys.Open(f.objectPath(r.ID))
		if err != nil || h.StartWriteback(0, 1<<20) != nil || h.Close() != nil {
			t.Fatal(err)
		}
		f.restartModel(fsys.Crash(rand.New(rand.NewPCG(seed, 1))))
		if err := f.Bootstrap(testRoot, wire.Position{Epoch: 1}); err != nil {
			t.Fatal(err)
		}
		f.next, f.lsn = uint64(ino)&(1<<40-1), 0
		f.apply(nil, take)
		f.write(ino, now, fill(60_000, 2), wire.Extent{Offset: 100_000, Size: 60_000})
		f.wantFile("f", now)
		f.checkpoint()
		if _, err := f.fs.Open(f.asidePath(r.ID)); err == nil {
			t.Fatal("the checksums are still aside after a checkpoint")
		}
	}
}

// The process, or the machine, ends while an object's checksums are put aside. The
// next one does not take what is there of that for the whole: it makes the same
// change, and a power loss after that costs nothing.
func TestHalfAside(t *testing.T) {
	for at := 1; at <= 4; at++ { // Preserve creates, writes, and syncs a file and its directory
		for seed := range uint64(24) {
			halfAside(t, at, seed)
		}
	}
}

// halfAside has the operation at of Preserve not happen, nor any after it.
func halfAside(t *testing.T, at int, seed uint64) {
	data, more := fill(100_000, 1), fill(60_000, 2)
	now := append(bytes.Clone(data), more...)
	fsys, rng := forget.New(seed), rand.New(rand.NewPCG(seed, uint64(at)))
	f := simulated(t, fsys)
	r := f.stage(data)
	take := vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: 1, Name: "f", Content: wire.Content{Size: r.Size, Stage: r.ID, Sum: r.Sum}}
	ino := wire.Ino(f.apply(nil, take))
	take.Ino = ino
	redo := func() {
		if err := f.Bootstrap(testRoot, wire.Position{Epoch: 1}); err != nil {
			t.Fatal(err)
		}
		f.next, f.lsn = uint64(ino)&(1<<40-1), 0
		f.apply(nil, take)
	}
	extend := func() { f.write(ino, now, more, wire.Extent{Offset: int64(len(data)), Size: int64(len(more))}) }

	fsys.CrashAt(fsys.Ops() + at)
	if err := f.Preserve(ino, 0, int64(len(now))); err == nil {
		t.Fatalf("a crash before operation %d of Preserve did not strike", at)
	}
	if seed%2 == 0 {
		fsys.Restart() // of the process alone
	} else {
		fsys = fsys.Crash(rng)
	}
	f.restartModel(fsys)
	redo()
	if err := f.Sweep(func(wire.ID) bool { return false }); err != nil {
		t.Fatal(err)
	}
	extend()
	h, err := fsys.Open(f.objectPath(r.ID))
	if err != nil || h.StartWriteback(0, 1<<20) != nil || h.Close() != nil {
		t.Fatal(err)
	}
	f.restartModel(fsys.Crash(rng))
	redo()
	extend()
	f.wantFile("f", now)
	f.checkpoint()
	if _, err := f.fs.Open(f.asidePath(r.ID)); err == nil {
		t.Fatal("the checksums are still aside after a checkpoint")
	}
}

// The first write into a hole writes all of its block, and a file that grows
// again holds zeros where it was cut: its object has other bytes there (S2).
func TestHoleIsWrittenWhole(t *testing.T) {
	f := real(t)
	data := fill(3*wire.BlockSize, 1)
	ino := f.create("f", data)
	f.apply(nil, vote.Bound{Kind: wire.MutPunchHole, Ino: ino, Offset: wire.BlockSize, Length: wire.BlockSize, Size: 3 * wire.BlockSize})
	now := bytes.Clone(data)
	clear(now[wire.BlockSize : 2*wire.BlockSize])
	f.wantFile("f", now)
	now = patched(now, wire.BlockSize+500, []byte("x"))
	f.write(ino, now, []byte("x"), wire.Extent{Offset: wire.BlockSize + 500, Size: 1})
	f.wantFile("f", now)
	cut := int64(2*wire.BlockSize + 100)
	tail, err := tailOf(f.Store, ino, cut)
	if err != nil {
		t.Fatal(err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: cut, Tail: tail})
	now = patched(now[:cut], int(cut)+50, []byte("y"))
	f.write(ino, now, []byte("y"), wire.Extent{Offset: cut + 50, Size: 1})
	f.wantFile("f", now)
	f.checkpoint()
	f.wantFile("f", now)
}

// Who begins to read while an apply is between its writes and its rows looks
// again when it is over: the checksums that it has found are of what is gone.
func TestReadDuringAnApplyLooksAgain(t *testing.T) {
	fsys := forget.New(1)
	f := simulated(t, fsys)
	const size = 2 * wire.BlockSize
	ino := f.create("f", bytes.Repeat([]byte{1}, size))
	f.checkpoint()
	type answer struct {
		data []byte
		err  error
	}
	answers := make(chan answer, 1)
	begun := false
	fsys.SetHook(func(op forget.Op) error {
		if begun || op.Kind != forget.Write || !strings.Contains(op.Name, "objects/") {
			return nil
		}
		begun = true
		go func() {
			data, err := f.read("f", 0, -1)
			answers <- answer{data, err}
		}()
		for limit := time.Now().Add(time.Minute); f.readers() == 0 && time.Now().Before(limit); {
			runtime.Gosched()
		}
		return nil
	})
	now, parts := bytes.Repeat([]byte{1}, size), bytes.Repeat([]byte{2}, 200)
	copy(now, parts[:100])
	copy(now[size-100:], parts[100:])
	f.write(ino, now, parts, wire.Extent{Size: 100}, wire.Extent{Offset: size - 100, Size: 100})
	if !begun {
		t.Fatal("nothing was written in place")
	}
	if a := <-answers; a.err != nil || !bytes.Equal(a.data, now) {
		t.Errorf("it reads %d bytes, error %v", len(a.data), a.err)
	}
	fsys.SetHook(nil)
}

// readers is how many readers there are of objects.
func (f *fixture) readers() (n int) {
	o := &f.objects
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.pins {
		n += len(p.readers)
	}
	return n
}

// To cut a large file takes no memory for each of its blocks: only the page of the new end,
// and the first one, are kept.
func TestCutOfALargeFile(t *testing.T) {
	f := simulated(t, forget.New(1))
	ino := f.create("f", fill(100_000, 1))
	const pages = 200
	for i := int64(1); i < pages; i++ { // sparse: one block of each page
		f.apply([]byte("x"), vote.Bound{Kind: wire.MutWriteFile, Write: wire.WriteExtents, Ino: ino,
			Extents: []wire.Extent{{Offset: i * sumsPerPage * wire.BlockSize, Size: 1, Sum: wire.Sum([]byte("x"))}}})
	}
	f.checkpoint()
	err := f.look(func(m *moment) error {
		b := f.newBatch()
		b.m = m
		n, err := b.inode(ino)
		if err != nil {
			return err
		}
		e := b.edit(&n, nil)
		if err := e.clear(1, 1<<40); err != nil {
			return err
		}
		if n.blocks != 1 || len(e.pages) > 2 {
			t.Errorf("%d blocks are left, want 1, and %d pages are in memory, at most 2 should be", n.blocks, len(e.pages))
		}
		e.flush()
		list, err := b.pagesFrom(n.object, 0)
		if err != nil || len(list) != 1 || list[0] != 0 {
			t.Errorf("pages %v are left, want the first one alone: %v", list, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
