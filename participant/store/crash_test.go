package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"tpcfs/journal"
	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

const testDir = "/p1"

var testRoot = wire.Root{Mode: 0o755, UID: 1, GID: 2, Time: 500}

// record is one of the participant's journal.
type record struct {
	tx       *vote.Tx // nil: the bootstrap
	contents [][]byte
	abort    bool
}

// world is a store with a journal of its own, which a crash cuts anywhere
// after its last sync.
type world struct {
	fs     *forget.FS
	s      *Store
	maker  *txMaker
	log    []record
	synced int
	fault  error // of the first operation that failed
	// trusted: the store is not compared with the model on the way; others are for that.
	trusted bool
}

// open opens the store; the error is the crash's or a failure of the test.
func (w *world) open() error {
	kv, err := NewModelKV(w.fs, testDir)
	if err != nil {
		return err
	}
	s, err := Open(Options{FS: w.fs, Dir: testDir, KV: kv, Fanout: 2, Workers: 1, TableBytes: 1 << 20, Ballast: 8192, UUID: wire.UUID{1}})
	if err != nil {
		return err
	}
	w.s = s
	return nil
}

func (w *world) do(r record) error {
	pos := wire.Position{Epoch: 1, Index: uint64(len(w.log))}
	if r.tx != nil && r.tx.Pack != nil { // the machine asks for it at the prepare and at its replay
		if _, payload, err := w.s.Pack(r.tx.Pack); err != nil || !bytes.Equal(payload, r.tx.Payload) {
			return fmt.Errorf("the pack of a transaction to be decided has %d bytes of contents: %w", len(payload), err)
		}
	}
	switch {
	case r.tx == nil:
		return w.s.Bootstrap(testRoot, pos)
	case r.abort:
		w.s.Abort(r.tx)
		return nil
	default:
		return w.s.Apply(r.tx, pos)
	}
}

func (w *world) stage(id wire.ID, skew int64, data []byte) (wire.StageReply, bool) {
	if w.fault != nil {
		return wire.StageReply{}, false
	}
	st, err := w.s.NewStage(id, skew)
	if err != nil {
		w.fault = err
		return wire.StageReply{}, false
	}
	defer st.Discard()
	for at := 0; at < len(data) && err == nil; at += wire.PieceSize {
		part := data[at:min(at+wire.PieceSize, len(data))]
		err = st.Write(wire.Piece{Offset: int64(at), Sum: wire.Sum(part), Data: part})
	}
	var reply wire.StageReply
	if err == nil {
		reply, err = st.Finish(context.Background())
	}
	if err != nil {
		w.fault = err
	}
	return reply, err == nil
}

// step does something at random.
func (w *world) step() error {
	rng := w.maker.rng
	switch rng.IntN(10) {
	case 0:
		return w.checkpoint(0)
	case 1:
		return w.checkpoint(1 + rng.IntN(3))
	case 2: // staged, prepared, aborted
		reply, ok := w.stage(w.maker.id(1), 0, w.maker.bytes(rng.IntN(100_000)))
		if !ok {
			return w.fault
		}
		tx := &vote.Tx{ID: w.maker.id(1), Bounds: []vote.Bound{{Kind: wire.MutWriteFile, Content: wire.Content{Stage: reply.ID, Size: reply.Size, Sum: reply.Sum}}}}
		w.log = append(w.log, record{tx: tx, abort: true})
		return w.do(w.log[len(w.log)-1])
	case 3:
		if reply, ok := w.stage(w.maker.id(1), 0, w.maker.bytes(rng.IntN(100_000))); ok && rng.IntN(2) == 0 {
			w.s.Unstage([]wire.ID{reply.ID})
		}
		return w.fault
	default:
		return w.transact()
	}
}

func (w *world) transact() error {
	before := w.maker.tree.clone()
	tx, contents := w.maker.make(4, w.stage)
	if w.fault == nil && len(tx.Bounds) > 0 && w.maker.rng.IntN(4) == 0 {
		w.pack(tx)
	}
	if w.fault != nil {
		w.maker.tree = before
		return w.fault
	}
	if !w.fs.Crashed() {
		if err := w.checkTail(before, tx); err != nil {
			return err
		}
	}
	if err := preserve(w.s, tx); err != nil {
		w.maker.tree = before
		return err
	}
	w.log = append(w.log, record{tx: tx, contents: contents})
	return w.do(w.log[len(w.log)-1])
}

// pack stages a transaction's contents as a pack.
func (w *world) pack(tx *vote.Tx) {
	b, err := wire.EncodePack(make([]wire.Mutation, len(tx.Bounds)), tx.Payload)
	if err != nil {
		w.fault = err
		return
	}
	reply, ok := w.stage(w.maker.id(1), 0, b)
	if !ok {
		return
	}
	if w.maker.rng.IntN(2) == 0 {
		w.s.ReadyPack(reply.ID, reply.Size, reply.Sum)
	}
	tx.Pack = &wire.Pack{Stage: reply.ID, Size: reply.Size, Sum: reply.Sum, Count: len(tx.Bounds)}
}

// preserve does what a prepare does before a write in place.
func preserve(s *Store, tx *vote.Tx) error {
	for _, d := range tx.Bounds {
		end := d.Offset + d.Length
		for _, x := range d.Extents {
			end = max(end, x.Offset+x.Size)
		}
		if end == 0 {
			continue
		}
		if d.Ino < wire.Ino(tx.ID) {
			if err := s.Preserve(d.Ino, 0, end); err != nil {
				return err
			}
		}
		for _, id := range tx.Stages() {
			if err := s.Preserve(0, id, end); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkTail compares the store's checksum of a cut block with the model's.
func (w *world) checkTail(before *memTree, tx *vote.Tx) error {
	if len(tx.Bounds) != 1 || tx.Bounds[0].Kind != wire.MutSetattr || tx.Bounds[0].Set&wire.SetSize == 0 {
		return nil
	}
	d := &tx.Bounds[0]
	got, err := tailOf(w.s, d.Ino, d.Size)
	if w.fs.Crashed() {
		return nil
	}
	if err != nil || got != nil && d.Tail != nil && *got != *d.Tail {
		return fmt.Errorf("tail of %d at %d: %v %v, want %v", d.Ino, d.Size, got, err, d.Tail)
	}
	return nil
}

// checkpoint makes one, with transactions between its two parts.
func (w *world) checkpoint(between int) error {
	lsn := journal.LSN(len(w.log))
	c, err := w.s.Freeze(lsn, []byte(strconv.Itoa(int(lsn))))
	if err != nil {
		return err
	}
	for range between {
		if err := w.transact(); err != nil {
			return err
		}
	}
	if !w.fs.Crashed() && !w.trusted { // rows in both tables
		if err := w.maker.tree.compare(w.s); err != nil && !w.fs.Crashed() {
			return err
		}
	}
	return c.Run(func() error {
		w.synced = max(w.synced, int(lsn))
		return nil
	})
}

func (t *memTree) clone() *memTree {
	c := &memTree{files: map[wire.Ino]*memFile{}, ops: map[wire.OpID]memOp{}, skews: t.skews}
	for ino, f := range t.files {
		g := *f
		g.blocks = maps.Clone(f.blocks)
		if f.names != nil {
			g.names = map[string]wire.Ino{}
			for name, child := range f.names {
				g.names[name] = child
			}
		}
		c.files[ino] = &g
	}
	for op, o := range t.ops {
		c.ops[op] = o
	}
	return c
}

// at is the tree after the first n records.
func (w *world) at(n int) *memTree {
	tree := newMemTree(testRoot)
	tree.skews = w.maker.tree.skews
	for _, r := range w.log[:n] {
		tree.redo(r)
	}
	return tree
}

func (t *memTree) redo(r record) {
	if r.tx != nil && !r.abort {
		t.apply(r.tx, r.contents)
	}
}

// fork returns the world that a crash would leave now.
func (w *world) fork(rng *rand.Rand) *world {
	return &world{fs: w.fs.Imagine(rng), maker: w.maker.fork(), log: slices.Clip(w.log), synced: w.synced}
}

// recover opens what a crash has left, redoes, sweeps, and compares at each step.
func (w *world) recover(rng *rand.Rand) error {
	if err := w.open(); err != nil {
		return fmt.Errorf("open after a crash: %w", err)
	}
	applied, state := w.s.Meta()
	have := w.synced + rng.IntN(len(w.log)-w.synced+1) // what of the journal is left
	if int(applied) > have {
		return fmt.Errorf("the kv has %d records, the journal %d", applied, have)
	}
	if want := strconv.Itoa(int(applied)); applied > 0 && string(state) != want {
		return fmt.Errorf("the state is %q, want %q", state, want)
	}
	for _, r := range w.log[applied:have] {
		if err := w.do(r); err != nil {
			return fmt.Errorf("redo: %w", err)
		}
	}
	tree := w.at(have)
	if err := w.recovered(tree, applied, have); err != nil {
		return err
	}
	if err := w.sweep(have); err != nil {
		return err
	}
	return w.redoRest(tree, have)
}

// redoRest decides again what the journal has lost; tree is without it.
// recovered compares the store after the redo of what is left with the model.
func (w *world) recovered(tree *memTree, applied journal.LSN, have int) error {
	if have == 0 {
		return nil // not even a root
	}
	tree.doubtful = map[wire.Ino]bool{}
	for _, r := range w.log[have:] {
		if r.tx != nil {
			for _, d := range r.tx.Bounds {
				tree.doubtful[d.Ino], tree.doubtful[d.Replaced] = true, true
			}
		}
	}
	if err := tree.compare(w.s); err != nil {
		return fmt.Errorf("after a redo of %d to %d: %w", applied, have, err)
	}
	return nil
}

// sweep removes what nothing names, as each recovery does; the stages of what is
// not decided yet stay.
func (w *world) sweep(have int) error {
	undecided := map[wire.ID]bool{}
	for _, r := range w.log[have:] {
		if r.tx != nil {
			for _, id := range r.tx.Stages() {
				undecided[id] = true
			}
		}
	}
	if err := w.s.Sweep(func(id wire.ID) bool { return undecided[id] }); err != nil {
		return err
	}
	delete(undecided, 0)
	for id := range undecided {
		if _, _, ok := w.s.Staged(id); !ok {
			return fmt.Errorf("the staged object %s of an undecided transaction is gone", id)
		}
	}
	return nil
}

func (w *world) redoRest(tree *memTree, have int) error {
	for _, r := range w.log[have:] {
		if err := w.do(r); err != nil {
			return fmt.Errorf("decided again: %w", err)
		}
		tree.redo(r)
	}
	tree.doubtful = nil
	w.maker.tree = tree
	if len(w.log) == 0 {
		return nil
	}
	if err := w.maker.tree.compare(w.s); err != nil {
		return fmt.Errorf("after all of %d: %w", len(w.log), err)
	}
	return nil
}

// leaks compares the objects on the disk with those that files name.
func (w *world) leaks() error {
	if err := w.checkpoint(0); err != nil {
		return err
	}
	if err := w.s.Sweep(func(wire.ID) bool { return false }); err != nil {
		return err
	}
	files := 0
	for i := range 2 {
		entries, err := w.fs.ReadDir(testDir + "/objects/" + dirName(i))
		if err != nil {
			return err
		}
		files += len(entries)
	}
	named := 0
	err := w.s.look(func(m *moment) error {
		return m.ascend(string(bucketSum), func(string, []byte) (bool, error) {
			named++ // no file is longer than a page
			return true, nil
		})
	})
	staged := 0
	for _, info := range w.s.objects.known {
		if info.state == stateStaged {
			staged++
		}
	}
	if err == nil && files != named+staged {
		err = fmt.Errorf("%d objects on the disk, %d named, %d staged", files, named, staged)
	}
	return err
}

// run plays a script; then, and with everywhere from what a crash before any of
// its operations on the disk would leave, it recovers, goes on, and crashes once
// more.
func run(seed uint64, steps int, everywhere bool) error {
	w := &world{fs: forget.New(seed), maker: newTxMaker(seed, newMemTree(testRoot))}
	var failed error
	if everywhere {
		last := 0
		w.fs.SetHook(func(op forget.Op) error {
			if op.N == last || failed != nil { // a read
				return failed
			}
			if last = op.N; last%forget.OneIn > 0 {
				return nil
			}
			rng := rand.New(rand.NewPCG(seed, uint64(op.N)))
			if err := w.fork(rng).afterCrash(rng); err != nil {
				failed = fmt.Errorf("crash before %v: %w", op, err)
			}
			return failed
		})
	}
	err := w.script(steps)
	if failed != nil || err != nil {
		return errors.Join(failed, err)
	}
	w.fs.SetHook(nil)
	rng := rand.New(rand.NewPCG(seed, 0))
	w.fs = w.fs.Crash(rng)
	return w.afterCrash(rng)
}

// afterCrash recovers from what a crash has left.
func (w *world) afterCrash(rng *rand.Rand) error {
	for round := range 2 {
		if round > 0 {
			w.fs = w.fs.Crash(rng)
		}
		if err := w.recover(rng); err != nil {
			return fmt.Errorf("recovery %d: %w", round, err)
		}
		if len(w.log) == 0 {
			w.log = []record{{}}
			if err := w.do(w.log[0]); err != nil {
				return err
			}
			w.maker.tree = newMemTree(testRoot)
		}
		for range 5 {
			if err := w.step(); err != nil {
				return fmt.Errorf("after recovery %d: %w", round, err)
			}
		}
		if err := w.maker.tree.compare(w.s); err != nil {
			return fmt.Errorf("after going on: %w", err)
		}
		if err := w.leaks(); err != nil {
			return err
		}
	}
	return w.s.Close()
}

func (w *world) script(steps int) error {
	if err := w.open(); err != nil {
		return err
	}
	w.log = []record{{}}
	if err := w.do(w.log[0]); err != nil {
		return err
	}
	for range steps {
		if err := w.step(); err != nil {
			return err
		}
		if w.maker.rng.IntN(4) == 0 && !w.fs.Crashed() && !w.trusted {
			if err := w.maker.tree.compare(w.s); err != nil && !w.fs.Crashed() {
				return err
			}
		}
	}
	return nil
}

// A crash before any operation on the disk leaves a store that, with the rest
// of the journal, has what was applied: no file is lost or mixed up.
func TestCrashEverywhere(t *testing.T) {
	seeds := 2
	if n, err := strconv.Atoi(os.Getenv("TPCFS_STORE_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range uint64(seeds) {
		if err := run(seed, 30, true); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// Long random histories, with checkpoints anywhere, equal the plain model.
func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		if seed%forget.OneIn > 0 {
			return
		}
		if err := run(seed, rapid.IntRange(5, 40).Draw(rt, "steps"), false); err != nil {
			rt.Fatal(err)
		}
	})
}

// Short histories that a checkpoint fails which leaves out a sync of an object's
// directory, a sync of the object, or the end of its stage (S3); and those of a
// crash that leaves nothing of the journal, but an object's checksums aside.
func TestShortHistories(t *testing.T) {
	for _, h := range []struct {
		seed  uint64
		steps int
	}{{1, 6}, {1, 15}, {0, 6}, {388, 5}, {24, 8}} {
		if err := run(h.seed, h.steps, false); err != nil {
			t.Errorf("seed %d, %d steps: %v", h.seed, h.steps, err)
		}
	}
}

// A replica that made checkpoints and one that never did have equal digests;
// one that holds something else has another.
func TestDigestIgnoresCheckpoints(t *testing.T) {
	for seed := range uint64(24 / forget.OneIn) {
		a := &world{fs: forget.New(seed), maker: newTxMaker(seed, newMemTree(testRoot))}
		b := &world{fs: forget.New(seed + 1)}
		if err := errors.Join(a.script(40), b.open()); err != nil {
			t.Fatal(err)
		}
		b.log = a.log
		last := ""
		for i, r := range a.log {
			if r.tx != nil {
				for j, d := range r.tx.Bounds {
					if r.abort {
						break
					}
					rest := r.contents[j]
					for _, x := range d.Extents {
						if x.Stage != 0 {
							if _, ok := b.stage(x.Stage, a.maker.tree.skews[x.Stage], rest[:x.Size]); !ok {
								t.Fatal(b.fault)
							}
						}
						rest = rest[x.Size:]
					}
					if d.Content.Stage != 0 && !r.abort {
						if _, ok := b.stage(d.Content.Stage, 0, r.contents[j]); !ok {
							t.Fatal(b.fault)
						}
					}
				}
			}
			if r.tx != nil && r.tx.Pack != nil { // where it came from makes no difference
				tx := *r.tx
				tx.Pack, r.tx = nil, &tx
			}
			if err := b.do(r); err != nil {
				t.Fatal(i, err)
			}
			digest, err := b.s.Digest(t.Context())
			if err != nil || digest == last && r.tx != nil && !r.abort {
				t.Fatalf("digest %s after %s, error %v", digest, last, err)
			}
			last = digest
		}
		if digest, err := a.s.Digest(t.Context()); err != nil || digest != last {
			t.Fatalf("seed %d: digest %s with checkpoints, %s without (error %v)", seed, digest, last, err)
		}
		if err := errors.Join(a.s.Close(), b.s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
