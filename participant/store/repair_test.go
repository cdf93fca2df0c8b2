package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// donated is what the coordinator asks a donor for, and brings.
func donated(t testing.TB, from *fixture, ino wire.Ino, blocks ...int64) (*wire.Repair, []byte) {
	t.Helper()
	var object wire.ID
	err := from.look(func(m *moment) error {
		n, err := m.inode(ino)
		object = n.object
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	d, body, err := from.Donate(wire.Donate{Ino: ino, Object: object, Blocks: blocks})
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Repair{Ino: ino, Object: object, Version: d.Version, Blocks: d.Blocks}, body
}

// repair repairs blocks from a donor; taken are those that were written.
func (f *fixture) repair(from *fixture, ino wire.Ino, blocks ...int64) (taken []int64) {
	f.t.Helper()
	req, body := donated(f.t, from, ino, blocks...)
	return f.repairWith(req, body)
}

func (f *fixture) repairWith(req *wire.Repair, body []byte) (taken []int64) {
	f.t.Helper()
	taken, _, err := f.Repair(req, body)
	if err != nil {
		f.t.Fatal(err)
	}
	right, rotten, err := f.Repaired(req.Ino, req.Object, taken)
	if err != nil || len(rotten) > 0 || fmt.Sprint(right) != fmt.Sprint(taken) {
		f.t.Fatalf("taken %v: right %v, rotten %v, error %v", taken, right, rotten, err)
	}
	return taken
}

// two are a participant and another one, which have done the same.
func two(t testing.TB) [2]*fixture { return [2]*fixture{real(t), real(t)} }

// twoWith are two stores that both have a file "a", and have checkpointed it.
func twoWith(t *testing.T, data []byte) (both [2]*fixture, ino wire.Ino) {
	t.Helper()
	both = two(t)
	for _, f := range both {
		ino = f.create("a", data)
		f.checkpoint()
	}
	return both, ino
}

// A rotten block, a cut and a lost object are as they were after a repair, over a
// restart too; the error of the read has said which block it is (S5).
func TestRepairedBlock(t *testing.T) {
	data := fill(5*wire.BlockSize+100, 1)
	both, ino := twoWith(t, data)
	f, name := both[0], both[0].objectFile(ino)
	for what, damage := range map[string]func(){
		"rotten": func() { flip(t, name, 2*wire.BlockSize+17); flip(t, name, 5*wire.BlockSize+1) },
		"cut": func() {
			if err := os.Truncate(name, 10); err != nil {
				t.Fatal(err)
			}
		},
		"lost": func() {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		},
	} {
		damage()
		blocks := map[int64]bool{}
		for {
			_, err := f.read("a", 0, -1)
			if err == nil {
				break
			}
			e := err.(*wire.Error)
			if e.Code != wire.CodeCorrupt || e.Ino != ino || e.Object != wire.ID(ino) && e.Object == 0 || blocks[e.Block] {
				t.Fatalf("%s: %+v after %v", what, e, blocks)
			}
			blocks[e.Block] = true
			if taken := f.repair(both[1], ino, e.Block); len(taken) != 1 {
				t.Fatalf("%s: block %d is not taken", what, e.Block)
			}
		}
		if want := map[string]int{"rotten": 2, "cut": 6, "lost": 6}[what]; len(blocks) != want {
			t.Errorf("%s: %d blocks were rotten, want %d", what, len(blocks), want)
		}
		f.wantFile("a", data)
		f.reopen()
		f.wantFile("a", data)
	}
}

// Of a block that is another one by now nothing is taken: not from an older version
// of it, nor for a file that is written whole or gone.
func TestRepairOfWhatHasChanged(t *testing.T) {
	data := fill(3*wire.BlockSize, 1)
	both, ino := twoWith(t, data)
	f := both[0]
	old, body := donated(t, both[1], ino, 0, 1, 2)
	now := patched(data, wire.BlockSize+5, fill(1000, 2))
	f.write(ino, now, fill(1000, 2), wire.Extent{Offset: wire.BlockSize + 5, Size: 1000})
	if taken := f.repairWith(old, body); fmt.Sprint(taken) != "[0 2]" {
		t.Fatalf("taken %v: block 1 has changed", taken)
	}
	f.wantFile("a", now)
	cut := 2*wire.BlockSize + 100
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: int64(cut), Tail: mustTail(f, ino, int64(cut))})
	if taken := f.repairWith(old, body); fmt.Sprint(taken) != "[0]" {
		t.Fatalf("taken %v: block 2 is cut", taken)
	}
	f.wantFile("a", now[:cut])
	other := fill(200_000, 9)
	f.overwrite(ino, other)
	if taken := f.repairWith(old, body); len(taken) != 0 {
		t.Fatalf("taken %v: the file is written whole", taken)
	}
	f.wantFile("a", other)
	f.apply(nil, vote.Bound{Kind: wire.MutDeleteFile, Ino: ino, Dir: wire.RootIno, Name: "a"})
	if taken := f.repairWith(old, body); len(taken) != 0 {
		t.Fatalf("taken %v: the file is gone", taken)
	}
}

// A block whose checksum is not known gets it from a file of the same version, and
// of no other; then the replicas are equal.
func TestRepairOfUnknownChecksum(t *testing.T) {
	data := fill(3*wire.BlockSize, 1)
	both, ino := twoWith(t, data)
	f := both[0]
	flip(t, f.objectFile(ino), 2*wire.BlockSize+17)
	cut := int64(2*wire.BlockSize + 50)
	for _, f := range both {
		f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: cut, Tail: mustTail(f, ino, cut)})
	}
	first, body := donated(t, both[1], ino, 2)
	if _, _, err := f.Donate(wire.Donate{Ino: ino, Object: first.Object, Blocks: []int64{2}}); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("who does not know a checksum gives the block, or hides that it has one: %v", err)
	}
	x := wire.Extent{Offset: 100, Size: 10}
	for _, f := range both { // another block changes, and with it the version
		f.write(ino, patched(data[:cut], 100, fill(10, 7)), fill(10, 7), x)
	}
	if taken := f.repairWith(first, body); len(taken) != 0 {
		t.Fatal("a block of another version is taken for one that is not known")
	}
	if taken := f.repair(both[1], ino, 2); len(taken) != 1 {
		t.Fatal("it is not repaired")
	}
	f.wantFile("a", patched(data[:cut], 100, fill(10, 7)))
	f.wantSame(both[1])
	f.checkpoint()
	f.reopen()
	f.wantSame(both[1])
	f.wantFile("a", patched(data[:cut], 100, fill(10, 7)))
}

func (f *fixture) wantSame(g *fixture) {
	f.t.Helper()
	a, err := f.Digest(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	if b, err := g.Digest(f.t.Context()); err != nil || a != b {
		f.t.Fatalf("digests %s and %s, error %v", a, b, err)
	}
}

// What is damaged on its way is refused, and nothing of it is written.
func TestRepairIsVerified(t *testing.T) {
	data := fill(3*wire.BlockSize, 1)
	f := real(t)
	ino := f.create("a", data)
	req, body := donated(t, f, ino, 0, 1)
	body[wire.BlockSize+3] ^= 1
	if _, _, err := f.Repair(req, body); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatal(err)
	}
	for _, blocks := range [][]wire.DonatedBlock{
		{{Block: -1, Size: 5}}, {{Block: 1 << 40, Size: 5}}, {{Block: 1, Size: wire.BlockSize + 1}}, {{Block: 1}},
		{{Block: 1, Size: wire.BlockSize}, {Block: 1, Size: wire.BlockSize}}, make([]wire.DonatedBlock, wire.MaxDonated+1),
	} {
		bad := *req
		bad.Blocks = blocks
		if _, _, err := f.Repair(&bad, body); err == nil {
			t.Errorf("%+v is accepted", blocks)
		}
	}
	f.wantFile("a", data)
}

// A repair while a block is still in a staged object takes its place, also where a
// checkpoint is about to copy that; the staged object may be what is rotten.
func TestRepairOfStagedPart(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		data := fill(4*wire.BlockSize, 1)
		both := two(t)
		var ino wire.Ino
		part := fill(2*wire.BlockSize, 3)
		now := patched(data, wire.BlockSize, part)
		var stage wire.ID
		for _, f := range both {
			ino = f.create("a", data)
			f.checkpoint()
			r := f.stage(part)
			stage = r.ID
			f.write(ino, now, nil, wire.Extent{Offset: wire.BlockSize, Size: r.Size, Stage: r.ID, Sum: r.Sum})
		}
		f := both[0]
		var ck *Checkpoint
		if frozen {
			var err error
			if ck, err = f.Freeze(f.lsn, []byte("state")); err != nil {
				t.Fatal(err)
			}
		}
		flip(t, f.objectPath(stage), wire.BlockSize+7)
		if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt || err.(*wire.Error).Block != 2 {
			t.Fatalf("the rotten stage: %+v", err)
		}
		if taken := f.repair(both[1], ino, 2); len(taken) != 1 {
			t.Fatal("it is not repaired")
		}
		f.wantFile("a", now)
		if frozen {
			if err := ck.Run(func() error { return nil }); err != nil {
				t.Fatal(err)
			}
			f.wantFile("a", now)
		}
		f.checkpoint()
		f.wantFile("a", now)
		f.reopen()
		f.wantFile("a", now)
	}
}

// A long read that has met a rotten block's predecessor goes on over its repair.
func TestReadDuringRepair(t *testing.T) {
	data := fill(40*wire.BlockSize, 1)
	both, ino := twoWith(t, data)
	f := both[0]
	flip(t, f.objectFile(ino), 30*wire.BlockSize)
	n := 0
	w := pieces{hook: func(wire.Piece) {
		if n++; n == 1 {
			f.repair(both[1], ino, 30)
		}
	}}
	_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "a"}, Length: -1}, &w)
	if err != nil || !bytes.Equal(w.data, data) || n < 2 {
		t.Fatalf("%d bytes in %d pieces, %v", len(w.data), n, err)
	}
}

// A crash after every operation of the disk during a repair, of the object or of
// the checkpoint that follows, leaves the block rotten or right, nothing else
// changed; and it can be repaired then.
func TestCrashInRepair(t *testing.T) {
	data := fill(3*wire.BlockSize, 1)
	cut := int64(2*wire.BlockSize + 50)
	prepare := func(f *fixture) wire.Ino {
		ino := f.create("a", data)
		f.checkpoint()
		return ino
	}
	change := func(f *fixture, ino wire.Ino, tail *vote.Tail) {
		f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: cut, Tail: tail})
	}
	donor := simulated(t, forget.New(1))
	ino := prepare(donor)
	change(donor, ino, mustTail(donor, ino, cut))
	outcomes := map[bool]int{}
	for at, over := 1, false; !over; at++ {
		fsys := forget.New(2)
		f := simulated(t, fsys)
		prepare(f)
		for _, block := range []int64{0, 2} { // the second one's checksum will not be known
			if err := fsys.FlipBit(f.objectFile(ino), 8*(block*wire.BlockSize+9)); err != nil {
				t.Fatal(err)
			}
		}
		tail := mustTail(f, ino, cut)
		if !tail.Bad {
			t.Fatal("the block is not known to be rotten")
		}
		change(f, ino, tail)
		before := fsys.Ops()
		fsys.CrashAt(before + at)
		req, body := donated(t, donor, ino, 0, 2)
		taken, _, err := f.Repair(req, body)
		if err == nil {
			_, _, err = f.Repaired(ino, req.Object, taken)
		}
		if err == nil {
			var ck *Checkpoint
			if ck, err = f.Freeze(f.lsn, []byte("state")); err == nil {
				err = ck.Run(func() error { return nil })
			}
		}
		over = err == nil
		f.restartModel(fsys.Crash(rand.New(rand.NewPCG(uint64(at), 1))))
		if applied, _ := f.Meta(); applied < f.lsn { // the journal has it
			f.lsn, f.next = f.lsn-1, f.next-1
			change(f, ino, tail)
		}
		got, err := f.read("a", 0, -1)
		if err != nil && wire.CodeOf(err) != wire.CodeCorrupt || err == nil && !bytes.Equal(got, data[:cut]) || over && err != nil {
			t.Fatalf("crash at %d: %d bytes, %v", at, len(got), err)
		}
		outcomes[err == nil]++
		f.repair(donor, ino, 0, 2)
		f.wantFile("a", data[:cut])
		f.wantSame(donor)
	}
	if outcomes[false] < 5 || outcomes[true] < 1 {
		t.Errorf("right, or not: %v", outcomes)
	}
}

// What Repaired calls right is so after a power loss.
func TestRepairIsDurable(t *testing.T) {
	data := fill(3*wire.BlockSize, 1)
	donor := simulated(t, forget.New(1))
	ino := donor.create("a", data)
	for seed := range uint64(8) {
		fsys := forget.New(2)
		f := simulated(t, fsys)
		f.create("a", data)
		f.checkpoint()
		if err := fsys.FlipBit(f.objectFile(ino), 8*9); err != nil {
			t.Fatal(err)
		}
		f.repair(donor, ino, 0)
		f.restartModel(fsys.Crash(rand.New(rand.NewPCG(seed, 1))))
		f.wantFile("a", data)
	}
}
