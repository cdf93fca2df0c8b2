package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"tpcfs/journal"
	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// newcomer is a store that was away and catches up with a donor's world.
type newcomer struct {
	w        *world
	donor    *world
	rng      *rand.Rand
	since    wire.Position // what it had when it was evicted
	copied   int64         // bytes of contents that were brought
	rows     int
	begins   int
	fulls    int
	meddle   bool // the donor's service goes on between the steps
	lived    int  // steps at which it did, of this catching up
	replayed int
	doubt    []*vote.Tx
}

func (n *newcomer) position() wire.Position {
	return wire.Position{Epoch: 1, Index: uint64(len(n.donor.log))}
}

// feed has a store do what another world's log says, at its position.
func feed(w *world, from *world, i int) error {
	r := from.log[i]
	if r.tx != nil && r.tx.Pack != nil { // where it came from makes no difference
		tx := *r.tx
		tx.Pack, r.tx = nil, &tx
	}
	if err := feedStages(w, from, r); err != nil {
		return err
	}
	if r.tx != nil && !r.abort {
		if err := preserve(w.s, r.tx); err != nil {
			return err
		}
	}
	pos := wire.Position{Epoch: 1, Index: uint64(i + 1)}
	switch {
	case r.tx == nil:
		return w.s.Bootstrap(testRoot, pos)
	case r.abort:
		return nil
	default:
		return w.s.Apply(r.tx, pos)
	}
}

func feedStages(w *world, from *world, r record) error {
	if r.tx == nil || r.abort {
		return nil
	}
	put := func(id wire.ID, skew int64, data []byte) error {
		if _, _, ok := w.s.Staged(id); ok {
			return nil
		}
		w.stage(id, skew, data)
		err := w.fault
		w.fault = nil
		return err
	}
	for j, d := range r.tx.Bounds {
		rest := r.contents[j]
		for _, x := range d.Extents {
			if x.Stage != 0 {
				if err := put(x.Stage, from.maker.tree.skews[x.Stage], rest[:x.Size]); err != nil {
					return err
				}
			}
			rest = rest[x.Size:]
		}
		if d.Content.Stage != 0 {
			if err := put(d.Content.Stage, 0, r.contents[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkpoint makes one of the newcomer's.
func (n *newcomer) checkpoint(lsn int) error {
	c, err := n.w.s.Freeze(journal.LSN(lsn), []byte("marked"))
	if err != nil {
		return err
	}
	return c.Run(func() error { return nil })
}

// fallBehind has the newcomer follow the donor's log for a while, with
// checkpoints, and crash, so that bytes of its objects may be ahead of its rows.
func (n *newcomer) fallBehind(upTo int) error {
	if err := n.w.open(); err != nil {
		return err
	}
	have := 0
	for i := range upTo {
		if err := feed(n.w, n.donor, i); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		if n.rng.IntN(5) == 0 {
			if err := n.checkpoint(i + 1); err != nil {
				return err
			}
			have = i + 1
		}
	}
	n.w.fs = n.w.fs.Crash(n.rng)
	if err := n.w.open(); err != nil {
		return err
	}
	applied, _ := n.w.s.Meta()
	have += n.rng.IntN(upTo - have + 1) // what of its journal is left
	for i := int(applied); i < have; i++ {
		if err := feed(n.w, n.donor, i); err != nil {
			return fmt.Errorf("redo of record %d: %w", i, err)
		}
	}
	n.replayed = have
	n.since = wire.Position{Epoch: 1, Index: uint64(have)}
	for i := have; i < upTo; i++ { // in doubt, and discarded with the mark
		if r := n.donor.log[i]; r.tx != nil && !r.abort && n.rng.IntN(2) == 0 {
			n.doubt = append(n.doubt, r.tx)
		}
	}
	n.discard()
	return nil
}

func (n *newcomer) discard() {
	for _, tx := range n.doubt {
		n.w.s.Abort(tx)
	}
}

// restart opens the newcomer after a crash; its journal had all up to the mark.
func (n *newcomer) restart() error {
	n.w.fs = n.w.fs.Crash(n.rng)
	if err := n.w.open(); err != nil {
		return err
	}
	applied, _ := n.w.s.Meta()
	for i := int(applied); i < n.replayed; i++ {
		if err := feed(n.w, n.donor, i); err != nil {
			return fmt.Errorf("redo of record %d: %w", i, err)
		}
	}
	if int(applied) < n.replayed {
		n.discard()
	}
	return nil
}

func (n *newcomer) begin() (since wire.Position, full bool, err error) {
	n.begins++
	if err := n.checkpoint(n.replayed); err != nil {
		return since, false, err
	}
	return n.w.s.BeginCopy(n.since, false)
}

// bring calls a step of the newcomer's until it is not in the way of a checkpoint.
func (n *newcomer) bring(step func() (again bool, err error)) error {
	for {
		again, err := step()
		if wire.CodeOf(err) == wire.CodeBusy {
			again, err = true, n.checkpoint(n.replayed)
		}
		if err != nil || !again {
			return err
		}
		if n.rng.IntN(4) == 0 {
			if err := n.checkpoint(n.replayed); err != nil {
				return err
			}
		}
	}
}

// mostLived bounds how often the donor's service goes on during one catching up: what it
// changes has to be caught up with, and where its index is short of that all has to be
// compared again, so a history may be unlucky enough to have no end. Most need a
// hundredth.
const mostLived = 400

// live lets the donor's service go on.
func (n *newcomer) live() error {
	if !n.meddle || n.lived == mostLived {
		return nil
	}
	n.lived++
	for range n.rng.IntN(3) {
		if err := n.donor.step(); err != nil {
			return fmt.Errorf("donor: %w", err)
		}
	}
	return nil
}

var errTooOld = errors.New("the donor's index begins later")

func (n *newcomer) round(since wire.Position, full bool) error {
	var cursor []byte
	for {
		d, body, err := n.donor.s.Donate(wire.Donate{Since: since, Full: full, Cursor: cursor})
		if err != nil {
			return fmt.Errorf("donor: %w", err)
		}
		if d.TooOld {
			return errTooOld
		}
		rows, err := wire.DecodeRows(body)
		if err != nil {
			return err
		}
		n.rows += len(rows)
		req := wire.Resync{Full: full, Position: n.position(), Cursor: cursor, Next: d.Cursor}
		if err := n.bring(func() (bool, error) { return n.w.s.CopyRows(&req, rows) }); err != nil {
			return err
		}
		if err := n.live(); err != nil {
			return err
		}
		if cursor = d.Cursor; cursor == nil {
			break
		}
	}
	for {
		lacks, more, err := n.w.s.CopyVerify(context.Background())
		if err != nil {
			return err
		}
		for _, l := range lacks {
			for part := range slices.Chunk(l.Blocks, 3) {
				if err := n.live(); err != nil {
					return err
				}
				d, body, err := n.donor.s.Donate(wire.Donate{Ino: l.Ino, Object: l.Object, Blocks: part})
				if err != nil {
					return fmt.Errorf("donor: %w", err)
				}
				n.copied += int64(len(body))
				req := wire.Resync{Ino: l.Ino, Object: l.Object, Blocks: d.Blocks}
				if err := n.bring(func() (bool, error) { return false, n.w.s.CopyBlocks(&req, body) }); err != nil {
					return err
				}
			}
		}
		if len(lacks) == 0 && !more {
			return nil
		}
	}
}

// catchUp is what a coordinator does, until the newcomer is joined or its disk
// stops.
func (n *newcomer) catchUp(rounds int) error {
	n.lived = 0
	since, full, err := n.begin()
	if err != nil {
		return err
	}
	for {
		if full {
			n.fulls++
		}
		from := n.position()
		last := rounds <= 0 && !full
		meddle := n.meddle
		n.meddle = n.meddle && !last
		err := n.round(since, full)
		n.meddle = meddle
		if errors.Is(err, errTooOld) {
			if err := n.checkpoint(n.replayed); err != nil {
				return err
			}
			if _, full, err = n.w.s.BeginCopy(n.since, true); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		rounds--
		if !last {
			err := n.w.s.EndRound(from)
			if err == nil {
				err = n.checkpoint(n.replayed)
			}
			if err != nil {
				return err
			}
			since, full = from, false
			continue
		}
		ck, err := n.w.s.EndCopy(journal.LSN(n.replayed), []byte("joined"))
		if wire.CodeOf(err) == wire.CodeBusy {
			continue
		}
		if err != nil {
			return err
		}
		return ck.Run(func() error { return nil })
	}
}

// equal compares the newcomer with its donor, in every way.
func (n *newcomer) equal(t *testing.T) error {
	want, err1 := n.donor.s.Digest(t.Context())
	got, err2 := n.w.s.Digest(t.Context())
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := n.donor.maker.tree.compare(n.w.s); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("digest %s, the donor's is %s", got, want)
	}
	return nil
}

// goOn has donor and newcomer go on together, and looks for what is left behind.
func (n *newcomer) goOn(t *testing.T) error {
	for range 6 {
		at := len(n.donor.log)
		if err := n.donor.step(); err != nil {
			return err
		}
		for i := at; i < len(n.donor.log); i++ {
			if err := feed(n.w, n.donor, i); err != nil {
				return fmt.Errorf("after the join: %w", err)
			}
		}
	}
	n.replayed = len(n.donor.log)
	if err := n.checkpoint(n.replayed); err != nil {
		return err
	}
	if err := n.equal(t); err != nil {
		return fmt.Errorf("after the join: %w", err)
	}
	if err := n.w.s.Sweep(func(wire.ID) bool { return false }); err != nil {
		return err
	}
	if err := n.checkpoint(n.replayed); err != nil { // checksums kept aside go with it
		return err
	}
	return n.objects()
}

// objects compares the files of objects with those that rows name.
func (n *newcomer) objects() error {
	files, named, names := 0, 0, ""
	for i := range 2 {
		entries, err := n.w.fs.ReadDir(testDir + "/objects/" + dirName(i))
		if err != nil {
			return err
		}
		files += len(entries)
		for _, e := range entries {
			names += " " + e.Name
		}
	}
	err := n.w.s.look(func(m *moment) error {
		return m.ascend(string(bucketSum), func(string, []byte) (bool, error) { named++; return true, nil })
	})
	if err == nil && files != named {
		states := ""
		for id, info := range n.w.s.objects.known {
			states += fmt.Sprintf(" %s in state %d", id, info.state)
		}
		err = fmt.Errorf("%d objects on the newcomer's disk, %d named:%s; known:%s", files, named, names, states)
	}
	return err
}

func newPair(seed uint64, steps int) (*newcomer, error) {
	n := &newcomer{rng: rand.New(rand.NewPCG(seed, 99)), meddle: true}
	n.donor = &world{fs: forget.New(seed), maker: newTxMaker(seed, newMemTree(testRoot)), trusted: true}
	n.w = &world{fs: forget.New(seed + 1000)}
	return n, n.donor.script(steps)
}

// resync plays one history; crashAt: the newcomer's disk stops before that
// operation of the catching up, which starts over then.
func resync(t *testing.T, seed uint64, crashAt int) (ops int, err error) {
	n, err := newPair(seed, 15)
	if err != nil {
		return 0, err
	}
	if seed%4 == 3 {
		n.donor.s.maxChanges = 3 // its index is lost again and again
	}
	if err := n.fallBehind(len(n.donor.log) * int(seed%5) / 5); err != nil {
		return 0, err
	}
	for range 10 {
		if err := n.donor.step(); err != nil {
			return 0, err
		}
	}
	before := n.w.fs.Ops()
	if crashAt > 0 {
		n.w.fs.CrashAt(before + crashAt)
	}
	err = n.catchUp(2)
	ops = n.w.fs.Ops() - before
	if crashAt > 0 && n.w.fs.Crashed() {
		if err := n.restart(); err != nil {
			return ops, fmt.Errorf("open after the crash: %w", err)
		}
		if _, state := n.w.s.Meta(); string(state) != "joined" {
			if err := n.catchUp(1); err != nil {
				return ops, fmt.Errorf("starting over: %w", err)
			}
		}
	} else if err != nil {
		return ops, err
	}
	if err := n.equal(t); err != nil {
		return ops, err
	}
	if err := n.goOn(t); err != nil {
		return ops, err
	}
	if crashAt > 0 {
		return ops, errors.Join(n.w.s.Close(), n.donor.s.Close())
	}
	return ops, n.passOn(t)
}

// passOn makes the newcomer a donor: what it does not know it says, what it
// says is enough.
func (n *newcomer) passOn(t *testing.T) error {
	for at := len(n.donor.log) / 2; at < len(n.donor.log); at += 5 {
		next := &newcomer{w: &world{fs: forget.New(uint64(at))}, donor: n.donor, rng: n.rng}
		if err := next.fallBehind(at); err != nil {
			return err
		}
		next.donor = &world{s: n.w.s, log: n.donor.log, maker: n.donor.maker}
		if err := next.catchUp(0); err != nil {
			return err
		}
		if err := next.equal(t); err != nil {
			return fmt.Errorf("from the former newcomer, after %d of %d: %w", next.replayed, len(n.donor.log), err)
		}
		if err := next.w.s.Close(); err != nil {
			return err
		}
	}
	return errors.Join(n.w.s.Close(), n.donor.s.Close())
}

// A newcomer catches up while its donor's service goes on, from any state that
// a crash has left, and again after a crash before an operation on its disk: each
// of them in the first history, some of the others.
func TestResyncEverywhere(t *testing.T) {
	seeds, all := 4, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("TPCFS_STORE_SEEDS")); err == nil {
		seeds, all = n, uint64(n)
	}
	for seed := range uint64(seeds) {
		ops, err := resync(t, seed, 0)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		step := 1
		if seed >= all {
			step = 1 + ops/12
		}
		step *= forget.OneIn
		for at := 1 + int(seed)%forget.OneIn; at <= ops; at += step {
			if _, err := resync(t, seed, at); err != nil {
				t.Fatalf("seed %d, crash before operation %d of %d: %v", seed, at, ops, err)
			}
		}
	}
}

// Many histories without a crash.
func TestResyncHistories(t *testing.T) {
	for seed := range uint64(24 / forget.OneIn) {
		if _, err := resync(t, 1000+seed, 0); err != nil {
			t.Fatalf("seed %d: %v", 1000+seed, err)
		}
	}
}

// joined brings a real newcomer up to a real donor's state, in full or after since.
func joined(t *testing.T, donor, blank *fixture, since wire.Position) (rows int, copied int64) {
	t.Helper()
	blank.checkpoint()
	since, full, err := blank.BeginCopy(since, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // at rest: the second round brings nothing
		var cursor []byte
		for {
			d, body, err := donor.Donate(wire.Donate{Since: since, Full: full, Cursor: cursor})
			if err != nil || d.TooOld {
				t.Fatal(d.TooOld, err)
			}
			list, err := wire.DecodeRows(body)
			if err != nil {
				t.Fatal(err)
			}
			rows += len(list)
			req := wire.Resync{Full: full, Position: wire.Position{Epoch: 1, Index: uint64(donor.lsn)}, Cursor: cursor, Next: d.Cursor}
			for again := true; again; {
				if again, err = blank.CopyRows(&req, list); err != nil {
					t.Fatal(err)
				}
			}
			if cursor = d.Cursor; cursor == nil {
				break
			}
		}
		for more := true; more; {
			var lacks []wire.Lack
			if lacks, more, err = blank.CopyVerify(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, l := range lacks {
				for part := range slices.Chunk(l.Blocks, wire.MaxDonated) {
					d, body, err := donor.Donate(wire.Donate{Ino: l.Ino, Object: l.Object, Blocks: part})
					if err == nil {
						copied += int64(len(body))
						err = blank.CopyBlocks(&wire.Resync{Object: l.Object, Blocks: d.Blocks}, body)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			more = more || len(lacks) > 0
		}
		if full {
			since, full = wire.Position{Epoch: 1, Index: uint64(donor.lsn)}, false
			if err := blank.EndRound(since); err != nil {
				t.Fatal(err)
			}
			blank.checkpoint()
		}
	}
	blank.lsn++
	ck, err := blank.EndCopy(blank.lsn, []byte("joined"))
	if err == nil {
		err = ck.Run(func() error { return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	want, _ := donor.Digest(t.Context())
	if got, err := blank.Digest(t.Context()); err != nil || got != want {
		t.Fatalf("digest %s, the donor's is %s, error %v", got, want, err)
	}
	return rows, copied
}

// A blank participant gets everything: its export is the donor's. One that was
// away gets what changed, however much there is; of a large file the blocks
// that changed.
func TestResyncCopiesWhatChanged(t *testing.T) {
	donor, blank := real(t), real(t)
	const large = 2 << 20
	ino := donor.create("large", fill(large, 1))
	for i := range 300 {
		donor.create(fmt.Sprint("small", i), fill(100, byte(i)))
	}
	donor.checkpoint()
	if _, copied := joined(t, donor, blank, wire.Position{}); copied != large {
		t.Errorf("a blank participant got %d bytes of contents, want %d", copied, large)
	}
	at := wire.Position{Epoch: 1, Index: uint64(donor.lsn)}
	data := fill(5000, 9)
	r := donor.stageAt(0, data)
	block := slices.Clone(fill(large, 1)[:wire.BlockSize])
	copy(block, data)
	donor.apply(nil, vote.Bound{Kind: wire.MutWriteFile, Write: wire.WriteExtents, Ino: ino, Extents: []wire.Extent{{Size: 5000, Stage: r.ID, Sum: r.Sum}},
		Sums: []vote.BlockSum{{Block: 0, Sum: padSum(block)}}})
	donor.create("late", fill(10, 3))
	rows, copied := joined(t, donor, blank, at)
	if copied != wire.BlockSize || rows > 20 {
		t.Errorf("after two changes %d rows and %d bytes of contents came", rows, copied)
	}
	dir := t.TempDir()
	for name, f := range map[string]*fixture{"a": donor, "b": blank} {
		if err := f.Export(t.Context(), filepath.Join(dir, name), nil); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("diff", "-r", filepath.Join(dir, "a"), filepath.Join(dir, "b")).CombinedOutput(); err != nil {
		t.Errorf("the exports differ: %s %v", out, err)
	}
	blank.reopen()
	if applied, state := blank.Meta(); applied != blank.lsn || string(state) != "joined" || blank.counts.CopiedTo != (wire.Position{}) {
		t.Errorf("after a restart: applied %d, state %q, copied to %v", applied, state, blank.counts.CopiedTo)
	}
}

// A full comparison heals what has rotted in a newcomer's objects; the donor
// says when a block of its own has.
func TestResyncHealsRot(t *testing.T) {
	donor, rotten := real(t), real(t)
	data := fill(300_000, 1)
	ino := donor.create("f", data)
	joined(t, donor, rotten, wire.Position{})
	flip := func(f *fixture, at int64) {
		t.Helper()
		file, err := os.OpenFile(f.objectFile(ino), os.O_RDWR, 0)
		if err == nil {
			_, err = file.WriteAt([]byte{data[at] ^ 4}, at)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flip(rotten, 70_000)
	if _, err := rotten.read("f", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("a flipped bit: error %v", err)
	}
	if _, copied := joined(t, donor, rotten, wire.Position{}); copied != wire.BlockSize {
		t.Errorf("%d bytes came", copied)
	}
	rotten.wantFile("f", data)
	flip(donor, 200_000)
	var object wire.ID
	err := donor.look(func(m *moment) error { n, err := m.inode(ino); object = n.object; return err })
	if err != nil {
		t.Fatal(err)
	}
	for b, want := range map[int64]wire.Code{0: 0, 3: wire.CodeCorrupt} {
		if _, _, err := donor.Donate(wire.Donate{Ino: ino, Object: object, Blocks: []int64{b}}); wire.CodeOf(err) != want {
			t.Errorf("block %d of a donor with a flipped bit: %v", b, err)
		}
	}
}

// What a donor or a coordinator may send wrongly is refused, and nothing changes.
func TestResyncRefuses(t *testing.T) {
	f := real(t)
	f.create("f", fill(100_000, 1))
	if _, err := f.CopyRows(&wire.Resync{}, nil); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("without a beginning: %v", err)
	}
	f.checkpoint()
	if _, _, err := f.BeginCopy(wire.Position{Epoch: 1, Index: 1}, false); err != nil {
		t.Fatal(err)
	}
	before, err := f.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []wire.Row{{Key: "m" + "meta"}, {Key: "x"}, {Key: "i"}, {Key: inodeKey(5), Val: []byte{1}},
		{Key: sumKey(1, 0), Val: []byte{9}}, {Key: opKey(wire.OpID{}), Val: []byte{1}}} {
		if _, err := f.CopyRows(&wire.Resync{}, []wire.Row{r}); wire.CodeOf(err) != wire.CodeProtocol {
			t.Errorf("row %q: %v", r.Key, err)
		}
	}
	for _, b := range []wire.DonatedBlock{{Size: 10}, {Size: 0}, {Size: 1, Block: -1}, {Size: 4, Sum: 1}} {
		if err := f.CopyBlocks(&wire.Resync{Blocks: []wire.DonatedBlock{b}}, []byte("abcd")); wire.CodeOf(err) != wire.CodeProtocol && wire.CodeOf(err) != wire.CodeCorrupt {
			t.Errorf("block %+v: %v", b, err)
		}
	}
	for _, d := range []wire.Donate{{Cursor: []byte("x")}, {Full: true, Cursor: []byte("m")}, {Ino: 1}, {Ino: 1, Blocks: []int64{0, 256}}, {Ino: 1, Blocks: []int64{1, 0}}, {Ino: 1, Blocks: make([]int64, 17)}} {
		if _, _, err := f.Donate(d); wire.CodeOf(err) != wire.CodeInvalid {
			t.Errorf("%+v: %v", d, err)
		}
	}
	if after, err := f.Digest(t.Context()); err != nil || after != before {
		t.Errorf("digest %s, then %s, error %v", before, after, err)
	}
}

// A round in which blocks are lacking is none to begin after, the catching up is
// not over, and blocks of another moment are left alone.
func TestResyncLacking(t *testing.T) {
	donor, blank := real(t), real(t)
	ino := donor.create("f", fill(100_000, 1))
	blank.checkpoint()
	if _, full, err := blank.BeginCopy(wire.Position{}, false); err != nil || !full {
		t.Fatal(full, err)
	}
	at := wire.Position{Epoch: 1, Index: uint64(donor.lsn)}
	var cursor []byte
	for first := true; first || cursor != nil; first = false {
		d, body, err := donor.Donate(wire.Donate{Full: true, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		rows, err := wire.DecodeRows(body)
		if err == nil {
			_, err = blank.CopyRows(&wire.Resync{Full: true, Position: at, Cursor: cursor, Next: d.Cursor}, rows)
		}
		if err != nil {
			t.Fatal(err)
		}
		cursor = d.Cursor
	}
	lacks, _, err := blank.CopyVerify(t.Context())
	if err != nil || len(lacks) != 1 || len(lacks[0].Blocks) != 2 || lacks[0].Ino != ino {
		t.Fatalf("lacks %+v, error %v", lacks, err)
	}
	wrong := fill(wire.BlockSize, 9) // of another moment: not what the rows here say
	req := wire.Resync{Object: lacks[0].Object, Blocks: []wire.DonatedBlock{{Block: 0, Size: len(wrong), Sum: wire.Sum(wrong)}}}
	if err := blank.CopyBlocks(&req, wrong); err != nil {
		t.Error(err)
	}
	if p, _ := blank.Copying(); p.Copied != 0 {
		t.Errorf("%d bytes of another moment were taken", p.Copied)
	}
	if err := blank.EndRound(at); err != nil {
		t.Fatal(err)
	}
	if blank.counts.CopiedTo != (wire.Position{}) {
		t.Errorf("copied to %v with blocks lacking", blank.counts.CopiedTo)
	}
	if _, err := blank.EndCopy(blank.lsn+1, nil); wire.CodeOf(err) != wire.CodeBusy {
		t.Errorf("the end with blocks lacking: %v", err)
	}
}

// What is allocated takes its space at a newcomer, too: a write there was promised it, and
// a YES counts on it (S6).
func TestResyncReservesSpace(t *testing.T) {
	disks := []*forget.FS{forget.New(1), forget.New(2)}
	donor, blank := simulated(t, disks[0]), simulated(t, disks[1])
	ino := donor.create("f", fill(100_000, 1))
	const from, length = 2 * wire.BlockSize, 10 * wire.BlockSize
	donor.apply(nil, vote.Bound{Kind: wire.MutAllocate, Ino: ino, Offset: from, Length: length, Size: from + length})
	joined(t, donor, blank, wire.Position{})
	blank.lsn++
	for i, f := range []*fixture{donor, blank} {
		if room, err := f.Room(ino, from, from+length); err != nil || room != 0 {
			t.Errorf("a write of what was allocated takes %d bytes more, %v", room, err)
		}
		f.checkpoint()
		disks[i].SetCapacity(1 << 40)
		free, err := disks[i].Free(testDir)
		if err != nil {
			t.Fatal(err)
		}
		disks[i].SetCapacity(1<<40 - int64(free)) // nothing is left
		data := fill(length, 7)
		tx := &vote.Tx{ID: wire.MakeID(1, 500), Time: 1000, Payload: data[:wire.MaxInline], Bounds: []vote.Bound{{
			Kind: wire.MutWriteFile, Write: wire.WriteExtents, Ino: ino,
			Extents: []wire.Extent{{Offset: from, Size: wire.MaxInline, Sum: wire.Sum(data[:wire.MaxInline])}}}}}
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: 500}); err != nil {
			t.Fatal(err)
		}
		if f.ballastMissing() {
			t.Errorf("store %d gave up its reserve for a write of what was allocated", i)
		}
	}
}
