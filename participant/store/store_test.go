package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"tpcfs/journal"
	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a store with short ways to change it.
type fixture struct {
	*Store
	t    testing.TB
	o    Options
	next uint64
	lsn  journal.LSN
}

func openFixture(t testing.TB, o Options) *fixture {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Store: s, t: t, o: o, next: 2}
	t.Cleanup(func() {
		if err := f.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Bootstrap(testRoot, wire.Position{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	return f
}

// real is a store on bbolt and the real file system.
func real(t testing.TB) *fixture {
	return openFixture(t, Options{Dir: filepath.Join(t.TempDir(), "p"), Ballast: 1 << 20, Fanout: 4})
}

// simulated is a store in memory.
func simulated(t testing.TB, fsys *forget.FS) *fixture {
	kv, err := NewModelKV(fsys, testDir)
	if err != nil {
		t.Fatal(err)
	}
	return openFixture(t, Options{FS: fsys, Dir: testDir, KV: kv, Fanout: 2, Workers: 1, TableBytes: 1 << 16, Ballast: 1 << 16})
}

// reopen closes the store as a crash of the process would.
func (f *fixture) reopen() {
	f.t.Helper()
	if err := f.Store.Close(); err != nil {
		f.t.Fatal(err)
	}
	s, err := Open(f.o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Store = s
}

func (f *fixture) apply(payload []byte, bounds ...vote.Bound) wire.ID {
	f.t.Helper()
	tx := &vote.Tx{ID: wire.MakeID(1, f.next), Time: 1000, Bounds: bounds, Payload: payload}
	f.next += uint64(len(bounds))
	for i := range tx.Bounds {
		if tx.Bounds[i].Ino == 0 {
			tx.Bounds[i].Ino = wire.Ino(tx.ID) + wire.Ino(i)
		}
	}
	f.lsn++
	if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(f.lsn)}); err != nil {
		f.t.Fatal(err)
	}
	return tx.ID
}

// create makes a file, by payload or a stage.
func (f *fixture) create(name string, data []byte) wire.Ino {
	b := vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: wire.RootIno, Name: name, Mode: 0o644}
	var payload []byte
	b.Content, payload = f.content(data)
	return wire.Ino(f.apply(payload, b))
}

func (f *fixture) content(data []byte) (wire.Content, []byte) {
	if len(data) <= wire.MaxInline {
		return wire.Content{Size: int64(len(data)), Sum: wire.Sum(data)}, data
	}
	r := f.stage(data)
	return wire.Content{Size: r.Size, Stage: r.ID, Sum: r.Sum}, nil
}

func (f *fixture) overwrite(ino wire.Ino, data []byte) {
	b := vote.Bound{Kind: wire.MutWriteFile, Ino: ino}
	var payload []byte
	b.Content, payload = f.content(data)
	f.apply(payload, b)
}

func (f *fixture) stage(data []byte) wire.StageReply {
	f.t.Helper()
	st, err := f.NewStage(wire.MakeID(1, f.next))
	f.next++
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(data); i += wire.PieceSize {
		p := data[i:min(len(data), i+wire.PieceSize)]
		if err := st.Write(wire.Piece{Offset: int64(i), Sum: wire.Sum(p), Data: p}); err != nil {
			f.t.Fatal(err)
		}
	}
	r, err := st.Finish(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *fixture) checkpoint() {
	f.t.Helper()
	c, err := f.Freeze(f.lsn, []byte("state"))
	if err == nil {
		err = c.Run(func() error { return nil })
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(name string, offset, length int64) ([]byte, error) {
	var w pieces
	_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: name}, Offset: offset, Length: length}, &w)
	return w.data, err
}

func (f *fixture) wantFile(name string, want []byte) {
	f.t.Helper()
	got, err := f.read(name, 0, -1)
	if err != nil || !bytes.Equal(got, want) {
		f.t.Fatalf("%s: %d bytes, error %v; want %d", name, len(got), err, len(want))
	}
}

func fill(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + byte(i>>8) + seed
	}
	return b
}

// objectFile is the file that holds an inode's contents.
func (f *fixture) objectFile(ino wire.Ino) string {
	f.t.Helper()
	var n inode
	err := f.look(func(m *moment) (err error) {
		n, err = m.inode(ino)
		return err
	})
	if err != nil || n.content != contentObject {
		f.t.Fatalf("inode %d: content %d, error %v", ino, n.content, err)
	}
	return f.objectPath(n.object)
}

// What was applied, checkpointed or not, is there after a restart and a redo,
// on the real file system with bbolt.
func TestRealRestart(t *testing.T) {
	f := real(t)
	small, middle, large := fill(4096, 1), fill(60_000, 2), fill(300_000, 3)
	f.create("small", small)
	f.create("middle", middle)
	f.create("large", large)
	f.checkpoint()
	f.wantFile("large", large)
	ino := f.create("late", middle)
	f.reopen()
	applied, state := f.Meta()
	if applied != 3 || string(state) != "state" {
		t.Fatalf("applied %d, state %q", applied, state)
	}
	f.wantFile("small", small)
	f.wantFile("middle", middle)
	f.wantFile("large", large)
	if _, err := f.read("late", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("what was not checkpointed: %v", err)
	}
	f.next = uint64(ino) & (1<<40 - 1)
	if got := f.create("late", middle); got != ino {
		t.Fatalf("redo made inode %d, not %d", got, ino)
	}
	f.wantFile("late", middle)
	if err := f.Sweep(func(wire.ID) bool { return false }); err != nil {
		t.Fatal(err)
	}
	f.wantFile("late", middle)
	f.checkpoint()
	f.reopen()
	f.wantFile("late", middle)
	f.wantFile("large", large)
}

// The same random histories as in simulation, on bbolt.
func TestRealHistory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	tree := newMemTree(testRoot)
	k := newTxMaker(1, tree)
	f := openFixture(t, Options{Dir: dir, Ballast: 1 << 20, Fanout: 2})
	stage := func(id wire.ID, data []byte) (wire.StageReply, bool) {
		f.next = uint64(id) & (1<<40 - 1)
		return f.stage(data), true
	}
	for i := range 300 {
		tx, _ := k.make(5, stage)
		f.lsn++
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(i) + 1}); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 {
			f.checkpoint()
			f.reopen()
			if err := tree.compare(f.Store); err != nil {
				t.Fatal(i, err)
			}
		}
	}
}

// A process that is killed leaves what it has written, whenever that is: with
// the journal's redo a store opens on it, and holds the same.
func TestRealKill(t *testing.T) {
	tree := newMemTree(testRoot)
	k := newTxMaker(3, tree)
	f := openFixture(t, Options{Dir: filepath.Join(t.TempDir(), "p"), Ballast: -1, Fanout: 2})
	stage := func(id wire.ID, data []byte) (wire.StageReply, bool) {
		f.next = uint64(id) & (1<<40 - 1)
		return f.stage(data), true
	}
	var log []*vote.Tx
	for i := range 120 {
		tx, _ := k.make(5, stage)
		log = append(log, tx)
		f.lsn++
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(i) + 1}); err != nil {
			t.Fatal(err)
		}
		if i%17 == 16 {
			f.checkpoint()
		}
		if i%20 != 19 {
			continue
		}
		o := f.o
		o.Dir = filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(o.Dir, os.DirFS(f.o.Dir)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		applied, _ := s.Meta()
		for j := int(applied); j < len(log); j++ {
			if applied == 0 && j == 0 {
				err = s.Bootstrap(testRoot, wire.Position{Epoch: 1})
			}
			if err = errors.Join(err, s.Apply(log[j], wire.Position{Epoch: 1, Index: uint64(j) + 1})); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(tree.compare(s), s.Close()); err != nil {
			t.Fatal(i, err)
		}
	}
}

// Only one process opens a data directory; the refusal names the other.
func TestLocked(t *testing.T) {
	f := real(t)
	_, err := Open(f.o)
	if wire.CodeOf(err) != wire.CodeBusy || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Fatalf("second open: %v", err)
	}
}

// What is not a store, or of a newer version, is refused and left as it is.
func TestRefusedDirectories(t *testing.T) {
	write := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	valid := string(format{uuid: wire.UUID{1}, dirs: 4}.encode())
	tests := []struct {
		name string
		make func(dir string)
		want string
		code wire.Code
	}{
		{"somebody's files", func(dir string) { write(dir, "thesis.tex", "x") }, "thesis.tex", wire.CodeInvalid},
		{"newer version", func(dir string) { write(dir, "FORMAT", strings.Replace(valid, "version 1", "version 2", 1)) }, "newer", wire.CodeUnsupported},
		{"flipped bit", func(dir string) { write(dir, "FORMAT", strings.Replace(valid, "uuid 01", "uuid 03", 1)) }, "checksum", wire.CodeCorrupt},
		{"no format at all", func(dir string) { write(dir, "FORMAT", "hello\n") }, "FORMAT", wire.CodeCorrupt},
		{"oversized", func(dir string) { write(dir, "FORMAT", strings.Repeat("x", 5000)) }, "5000 bytes", wire.CodeIO},
		{"kv without format", func(dir string) { write(dir, "meta.db", strings.Repeat("x", 100_000)) }, "FORMAT", wire.CodeCorrupt},
		{"format without kv", func(dir string) { write(dir, "FORMAT", valid) }, "meta.db", wire.CodeCorrupt},
		{"garbage kv", func(dir string) {
			write(dir, "FORMAT", valid)
			write(dir, "meta.db", strings.Repeat("x", 100_000))
		}, "meta.db", wire.CodeCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.make(dir)
			s, err := Open(Options{Dir: dir, Ballast: -1, Fanout: 1})
			if err == nil {
				t.Fatal("opened", s.Close())
			}
			var e *wire.Error
			if !errors.As(err, &e) || e.Code != tt.code || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("error %v, want one about %q", err, tt.want)
			}
		})
	}
}

// A crash while a store is made leaves a directory that is made again.
func TestHalfMade(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"objects/00", "journal"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"FORMAT.new", "meta.db"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(Options{Dir: dir, Ballast: -1, Fanout: 2})
	if err != nil {
		t.Fatal(err)
	}
	uuid := s.UUID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(Options{Dir: dir, Ballast: -1}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if uuid.IsZero() || s.UUID() != uuid {
		t.Fatalf("storage %s, then %s", uuid, s.UUID())
	}
}

// A flipped bit in an object is noticed by the read of that block and of no
// other; the error names object and place; the store stays sound.
func TestRottenObject(t *testing.T) {
	f := real(t)
	data := fill(300_000, 1)
	ino := f.create("a", data)
	f.checkpoint()
	name := f.objectFile(ino)
	flip(t, name, 2*wire.BlockSize+17)
	if got, err := f.read("a", 0, 2*wire.BlockSize); err != nil || !bytes.Equal(got, data[:2*wire.BlockSize]) {
		t.Fatalf("the sound part: %v", err)
	}
	_, err := f.read("a", 2*wire.BlockSize+100, 10)
	if wire.CodeOf(err) != wire.CodeCorrupt || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "131072") ||
		!strings.Contains(err.Error(), f.UUID().String()) || !strings.Contains(err.Error(), "readFile a") {
		t.Fatalf("the rotten block: %v", err)
	}
	if f.Damaged() != "" {
		t.Fatal("a rotten object made the store damaged")
	}
	// A truncation there never blesses it (S5).
	tail, err := f.Tail(ino, 2*wire.BlockSize+50)
	if err != nil || tail == nil || !tail.Bad {
		t.Fatalf("tail %v, error %v", tail, err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: 2*wire.BlockSize + 50, Tail: tail})
	flip(t, name, 2*wire.BlockSize+17) // sound again, but who knows
	if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("after a cut in the rotten block: %v", err)
	}
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: 70_000, Tail: mustTail(f, ino, 70_000)})
	f.wantFile("a", data[:70_000])
	// A lost or short file is rot too.
	if err := os.Truncate(name, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("a short object: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := f.read("a", 0, -1); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Fatalf("a missing object: %v", err)
	}
}

func mustTail(f *fixture, ino wire.Ino, size int64) *vote.Tail {
	f.t.Helper()
	tail, err := f.Tail(ino, size)
	if err != nil {
		f.t.Fatal(err)
	}
	return tail
}

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// A bit flipped anywhere in bbolt's file is never answered as data: reads are
// right, or the store says that it is damaged, and then answers nothing.
func TestDamagedKV(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	f := openFixture(t, Options{Dir: dir, Ballast: -1, Fanout: 1})
	want := map[string][]byte{}
	for i := range 40 {
		name := fmt.Sprintf("file%d", i)
		want[name] = fill(200+i*10, byte(i))
		f.create(name, want[name])
	}
	f.checkpoint()
	f.reopen()
	if err := f.Store.Close(); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(filepath.Join(dir, "meta.db"), sound, 0o600); err != nil {
			t.Fatal(err)
		}
	}()
	var used []int64 // places of bytes that mean something
	for i := 8192; i < len(sound); i++ {
		if sound[i] != 0 {
			used = append(used, int64(i))
		}
	}
	noticed := 0
	for i := range 60 {
		at := used[i*len(used)/60]
		flip(t, filepath.Join(dir, "meta.db"), at)
		if readAllSound(t, f.o, want, int(at)) {
			noticed++
		}
		flip(t, filepath.Join(dir, "meta.db"), at)
	}
	if noticed < 15 {
		t.Errorf("of 60 flips %d were noticed", noticed)
	}
}

// readAllSound returns true if damage was reported.
func readAllSound(t *testing.T, o Options, want map[string][]byte, at int) bool {
	s, err := Open(o)
	if err != nil {
		if wire.CodeOf(err) != wire.CodeCorrupt {
			t.Fatalf("flip at %d: %v", at, err)
		}
		return true
	}
	defer s.Close()
	for name, data := range want {
		var w pieces
		_, err := s.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: name}, Length: -1}, &w)
		switch {
		case wire.CodeOf(err) == wire.CodeCorrupt && s.Damaged() != "":
			if _, err := s.Lookup(1, name); wire.CodeOf(err) != wire.CodeCorrupt {
				t.Fatalf("flip at %d: a damaged store answers %v", at, err)
			}
			return true
		case wire.CodeOf(err) == wire.CodeNotExist || wire.CodeOf(err) == wire.CodeStale:
			// A key that is not found cannot be told from one that never was.
		case err != nil || !bytes.Equal(w.data, data):
			t.Fatalf("flip at %d: %s has %d bytes, error %v", at, name, len(w.data), err)
		}
	}
	return false
}

// A long read is of one version although the file is overwritten, deleted and
// checkpointed meanwhile; its object goes when it is done.
func TestReadKeepsItsVersion(t *testing.T) {
	f := real(t)
	old := fill(1_000_000, 1)
	ino := f.create("a", old)
	f.checkpoint()
	name := f.objectFile(ino)
	w := &pieces{}
	w.hook = func(p wire.Piece) {
		switch p.Offset {
		case 0:
			f.overwrite(ino, fill(500_000, 2))
			f.checkpoint()
			f.create("b", old) // reuses what was freed, if anything was
			f.checkpoint()
		case wire.PieceSize:
			f.apply(nil, vote.Bound{Kind: wire.MutDeleteFile, Dir: 1, Name: "a", Ino: ino})
			f.checkpoint()
		}
		if _, err := os.Stat(name); err != nil {
			t.Error("unlinked under its reader:", err)
		}
	}
	reply, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "a"}, Length: -1}, w)
	if err != nil || !bytes.Equal(w.data, old) || reply.Attr.Version != w.version {
		t.Fatalf("read %d bytes, version %s (%s): %v", len(w.data), w.version, reply.Attr.Version, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the last reader has not unlinked it: %v", err)
	}
	if _, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: ino}, Length: -1}, w); wire.CodeOf(err) != wire.CodeStale {
		t.Fatalf("a deleted inode: %v", err)
	}
}

// Readers, stages, digests and checkpoints run beside the owner. Each read of
// a file sees one whole version; each listing one moment.
func TestConcurrentReads(t *testing.T) {
	f := real(t)
	var inos []wire.Ino
	for i := range 4 {
		inos = append(inos, f.create(fmt.Sprint("f", i), bytes.Repeat([]byte{byte(i)}, 100_000)))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f.readWhole(g); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			if _, err := f.Digest(context.Background()); err != nil {
				t.Error(err)
			}
			// As a participant does: a stage of this epoch may still be named.
			if err := f.Sweep(func(id wire.ID) bool { return id.Epoch() >= 1 }); err != nil {
				t.Error(err)
			}
		}
	})
	var ck sync.WaitGroup
	for i := range 200 {
		data := bytes.Repeat([]byte{byte(i)}, []int{1000, 40_000, 100_000}[i%3])
		f.overwrite(inos[i%4], data)
		f.apply(nil, vote.Bound{Kind: wire.MutRename, Ino: inos[i%4], Dir: 1, Name: fmt.Sprint("f", i%4), ToDir: 1, ToName: "moved"})
		f.apply(nil, vote.Bound{Kind: wire.MutRename, Ino: inos[i%4], Dir: 1, Name: "moved", ToDir: 1, ToName: fmt.Sprint("f", i%4)})
		if i%20 == 0 {
			ck.Wait()
			c, err := f.Freeze(f.lsn, nil)
			if err != nil {
				t.Fatal(err)
			}
			ck.Go(func() {
				if err := c.Run(func() error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
	}
	close(stop)
	ck.Wait()
	wg.Wait()
}

func (f *fixture) readWhole(g int) error {
	var w pieces
	_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: fmt.Sprint("f", g)}, Length: -1}, &w)
	if wire.CodeOf(err) == wire.CodeNotExist {
		err = nil // it has its other name
	}
	if err == nil && len(w.data) > 0 && !bytes.Equal(w.data, bytes.Repeat(w.data[:1], len(w.data))) {
		err = errors.New("a read mixes two versions")
	}
	if err != nil {
		return err
	}
	reply, err := f.Read(wire.Read{Kind: wire.ReadList, At: wire.At{Dir: 1}}, nil)
	if err == nil && (len(reply.Entries) != 4 || reply.Attr.Size != 4) {
		err = fmt.Errorf("a listing of two moments: %v", reply.Entries)
	}
	return err
}

// Ranges, ends, holes made by growing, and versions of reads.
func TestReadFile(t *testing.T) {
	f := real(t)
	for _, size := range []int{0, 1, 8192, 8193, 65_536, 65_537, 400_000} {
		name := fmt.Sprint("f", size)
		data := fill(size, 9)
		ino := f.create(name, data)
		for round := range 2 {
			for _, at := range []int64{0, 1, 4096, 65_535, 65_536, 131_072, 200_001, int64(size) - 1, int64(size), int64(size) + 5} {
				for _, n := range []int64{-1, 0, 1, 4096, 65_536, 131_072, 300_000} {
					if at < 0 {
						continue
					}
					want := data[min(at, int64(size)):]
					if n >= 0 && n < int64(len(want)) {
						want = want[:n]
					}
					if got, err := f.read(name, at, n); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%s round %d [%d,+%d): %d bytes, want %d, error %v", name, round, at, n, len(got), len(want), err)
					}
				}
			}
			f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: int64(size) + 300_000})
			data = append(slices.Clone(data), make([]byte, 300_000)...)
			size += 300_000
			f.checkpoint()
		}
	}
	if _, err := f.read("f1", -1, 1); wire.CodeOf(err) != wire.CodeInvalid {
		t.Errorf("a negative offset: %v", err)
	}
	_, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "f1"}, Length: -1, IfVersion: 99}, &pieces{})
	if wire.CodeOf(err) != wire.CodeChanged {
		t.Errorf("another version: %v", err)
	}
	sent := errors.New("the client is gone")
	if _, err := f.Read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "f1"}, Length: -1}, failing{sent}); !errors.Is(err, sent) || wire.CodeOf(err) != wire.CodeIO {
		t.Errorf("the piece writer's error came back as %v", err)
	}
}

type failing struct{ err error }

func (f failing) WritePiece(wire.Piece) error { return f.err }

// Every read that cannot be answered says why, by code, with the name asked for.
func TestReadErrors(t *testing.T) {
	f := real(t)
	dir := wire.Ino(f.apply(nil, vote.Bound{Kind: wire.MutMkdir, Dir: 1, Name: "d"}))
	link := wire.Ino(f.apply(nil, vote.Bound{Kind: wire.MutSymlink, Dir: dir, Name: "l", Target: "../x"}))
	f.create("f", []byte("x"))
	long := strings.Repeat("n", 256)
	tests := []struct {
		kind wire.ReadKind
		at   wire.At
		code wire.Code
	}{
		{wire.ReadFile, wire.At{Dir: 1, Path: "none"}, wire.CodeNotExist},
		{wire.ReadFile, wire.At{Dir: 1, Path: "d/none/x"}, wire.CodeNotExist},
		{wire.ReadFile, wire.At{Dir: 1, Path: "f/x"}, wire.CodeNotDir},
		{wire.ReadFile, wire.At{Dir: 1, Path: "d"}, wire.CodeIsDir},
		{wire.ReadFile, wire.At{Dir: 1, Path: ""}, wire.CodeIsDir},
		{wire.ReadFile, wire.At{Dir: 999}, wire.CodeStale},
		{wire.ReadFile, wire.At{Dir: 1, Path: "d/l"}, wire.CodeSymlink},
		{wire.ReadFile, wire.At{Dir: link}, wire.CodeLoop},
		{wire.ReadStat, wire.At{Dir: 1, Path: "d/l/a/b"}, wire.CodeSymlink},
		{wire.ReadStat, wire.At{Dir: 1, Path: "a//b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "../b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "./b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "/b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "b/"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: "a\x00b"}, wire.CodeInvalid},
		{wire.ReadStat, wire.At{Dir: 1, Path: long}, wire.CodeNameTooLong},
		{wire.ReadStat, wire.At{Dir: 1, Path: strings.Repeat("n/", 2100) + "n"}, wire.CodeNameTooLong},
		{wire.ReadList, wire.At{Dir: 1, Path: "f"}, wire.CodeNotDir},
		{wire.ReadList, wire.At{Dir: 1, Path: "d/l"}, wire.CodeSymlink},
		{wire.ReadLink, wire.At{Dir: 1, Path: "f"}, wire.CodeInvalid},
		{wire.ReadGetxattr, wire.At{Dir: 1, Path: "f"}, wire.CodeNoAttr},
		{99, wire.At{Dir: 1, Path: "f"}, wire.CodeUnsupported},
	}
	for _, tt := range tests {
		_, err := f.Read(wire.Read{Kind: tt.kind, At: tt.at, Length: -1}, &pieces{})
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != tt.code || e.Name != tt.at.String() {
			t.Errorf("read %d of %s: %v, want %v", tt.kind, tt.at, err, tt.code)
		}
	}
	_, err := f.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: 1, Path: "d/l/a/b"}}, nil)
	if e := new(wire.Error); !errors.As(err, &e) || e.Prefix != "d/l" || e.Target != "../x" || e.Rest != "a/b" {
		t.Errorf("a link on the way: %+v", e)
	}
	reply, err := f.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: 1, Path: "d/l"}}, nil)
	if err != nil || reply.Attr.Ino != link || reply.Attr.Size != 4 {
		t.Errorf("stat of a link: %+v %v", reply, err)
	}
	if reply, err = f.Read(wire.Read{Kind: wire.ReadListxattr, At: wire.At{Dir: 1, Path: "f"}}, nil); err != nil || len(reply.Value) > 0 {
		t.Errorf("listxattr: %v %v", reply, err)
	}
}

// Pages of a listing follow each other in byte order, and the largest fits a frame.
func TestListPages(t *testing.T) {
	f := real(t)
	var want []string
	var bounds []vote.Bound
	for i := range 1300 {
		name := fmt.Sprintf("%04d", i) + strings.Repeat("\xff", wire.MaxNameLen-4)
		want = append(want, name)
		bounds = append(bounds, vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: 1, Name: name})
		if i == 600 {
			f.apply(nil, bounds...)
			f.checkpoint()
			bounds = nil
		}
	}
	f.apply(nil, bounds...)
	for _, limit := range []int{0, 7, 5000} {
		var got []string
		req := wire.Read{Kind: wire.ReadList, At: wire.At{Dir: 1}, Limit: limit}
		for more := true; more; {
			reply, err := f.Read(req, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(wire.Marshal(&reply)); n > wire.MaxFrame/2 || limit > 0 && len(reply.Entries) > limit {
				t.Fatalf("a page of %d entries has %d bytes", len(reply.Entries), n)
			}
			for _, e := range reply.Entries {
				got = append(got, e.Name)
			}
			req.After, more = got[len(got)-1], reply.More
		}
		if !slices.Equal(got, want) {
			t.Fatalf("limit %d: %d names, want %d", limit, len(got), len(want))
		}
	}
}

// A stage refuses what is out of order, damaged or too large, and a discarded
// one leaves nothing.
func TestStageRefuses(t *testing.T) {
	f := real(t)
	st, err := f.NewStage(50)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.NewStage(50); wire.CodeOf(err) != wire.CodeProtocol {
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

// Operations are forgotten when their session has had the answer, and when 20
// minutes of service time have passed.
func TestForgetOps(t *testing.T) {
	f := simulated(t, forget.New(1))
	ops := func() (n int) {
		err := f.look(func(m *moment) error {
			return m.ascend(string(bucketOp), func(string, []byte) (bool, error) { n++; return true, nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	op := func(session byte, seq, lowest uint64, ms int64) {
		f.lsn++
		tx := &vote.Tx{ID: wire.MakeID(1, f.next), Op: wire.OpID{Session: wire.SessionID{session}, Seq: seq}, Lowest: lowest, ServiceTime: ms}
		f.next++
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(f.lsn)}); err != nil {
			t.Fatal(err)
		}
		if f.lsn%7 == 0 {
			f.checkpoint()
		}
	}
	for i := range uint64(100) {
		op(1, i+1, i+1, 10)
	}
	if n := ops(); n != 1 {
		t.Errorf("a session that has had all answers has %d rows", n)
	}
	for i := range 100 {
		op(byte(i+2), 1, 1, int64(1000+i))
	}
	if n := ops(); n != 101 {
		t.Errorf("%d rows of 101 sessions", n)
	}
	const minute = 60_000
	op(200, 1, 1, 20*minute+1000)
	if _, found, err := f.Op(wire.OpID{Session: wire.SessionID{2}, Seq: 1}); err != nil || !found {
		t.Errorf("20 minutes old: %t %v", found, err)
	}
	for i := range 10 {
		op(201, uint64(i+1), uint64(i+1), 21*minute)
	}
	if n := ops(); n != 2 {
		t.Errorf("%d rows after 21 minutes, want 2", n)
	}
	op(202, 1, 1, 5) // decided late: older than what has expired
	op(203, 1, 1, 21*minute)
	if _, found, _ := f.Op(wire.OpID{Session: wire.SessionID{202}, Seq: 1}); found {
		t.Error("a row that came late never expires")
	}
}

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
	if err := f.Reserve(7, 5, 100_000, false); wire.CodeOf(err) != wire.CodeNoSpace {
		t.Fatalf("a YES without space: %v", err)
	}
	if err := f.Reserve(8, 5, 100_000, true); err != nil {
		t.Fatalf("a delete without space: %v", err)
	}
	f.Release(8)
	if _, err := f.NewStage(wire.MakeID(9, 9)); wire.CodeOf(err) != wire.CodeNoSpace {
		t.Fatalf("a stage without space: %v", err)
	}
	f.create("more", fill(60_000, 99)) // needs the ballast
	if !f.ballastMissing() {
		t.Fatal("the ballast is still there")
	}
	fsys.SetCapacity(0)
	if err := f.Reserve(9, 1, 1, false); wire.CodeOf(err) != wire.CodeNoSpace {
		t.Fatalf("a YES without ballast: %v", err)
	}
	if !f.NeedCheckpoint() {
		t.Fatal("nothing makes the ballast again")
	}
	f.checkpoint()
	if err := f.Reserve(9, 1, 1, false); err != nil || f.ballastMissing() || f.NeedCheckpoint() {
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
	fsys.SetCapacity(0)
	f.wantFile("small", fill(8000, 5))
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
	if err := f.Reserve(1000, 10, 40_000, false); err != nil {
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

// The changed-keys index names, for each position, what its decision changed,
// and says from where on it is complete.
func TestChanges(t *testing.T) {
	f := simulated(t, forget.New(1))
	ino := f.create("a", fill(10, 1))
	f.checkpoint()
	f.apply(nil, vote.Bound{Kind: wire.MutDeleteFile, Dir: 1, Name: "a", Ino: ino})
	f.checkpoint()
	tx, err := f.kv.View()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	got := map[uint64][]string{}
	for cur := tx.Seek(string(bucketChange)); ; {
		key, sealed, ok, err := cur.Next()
		if err != nil || !ok {
			break
		}
		val, _ := unseal(key, sealed)
		for len(val) > 0 {
			n := int(be.Uint16(val))
			got[positionOfKey(key).Index] = append(got[positionOfKey(key).Index], string(val[2:2+n]))
			val = val[2+n:]
		}
	}
	want := []string{entryKey(1, "a"), inodeKey(1), inlineKey(ino), inodeKey(ino)}
	for _, at := range []uint64{1, 2} {
		for _, key := range want {
			if !slices.Contains(got[at], key) {
				t.Errorf("position %d: %q, without %q", at, got[at], key)
			}
		}
	}
	if len(got) != 3 {
		t.Errorf("%d positions, want the bootstrap's and 2", len(got))
	}
}

// The index keeps to its bound and says where it begins, also after a restart.
func TestChangesBound(t *testing.T) {
	f := real(t)
	f.maxChanges = 10
	for i := range 50 {
		f.create(fmt.Sprint("f", i), fill(10, 1))
		if i%7 == 6 {
			f.checkpoint()
		}
	}
	f.checkpoint() // one more: what came last was in no kv before
	f.checkpoint()
	f.reopen()
	if c := f.counts; c.Changes != 10 || c.ChangesFrom != (wire.Position{Epoch: 1, Index: 40}) {
		t.Errorf("%d rows after %v, want 10 after 1.40", c.Changes, c.ChangesFrom)
	}
	tx, err := f.kv.View()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if key, _, _, err := tx.Seek(string(bucketChange)).Next(); err != nil || positionOfKey(key).Index != 41 {
		t.Errorf("the first row is of %v, error %v", positionOfKey(key), err)
	}
}

// Sweep touches nothing that is in use, and no file that is not an object.
func TestSweep(t *testing.T) {
	f := real(t)
	ino := f.create("a", fill(100_000, 1))
	keep, left := f.stage(fill(100, 1)), f.stage(fill(100, 2))
	open, err := f.NewStage(77)
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

// A closed store answers, and does not crash.
func TestClosed(t *testing.T) {
	f := real(t)
	if err := f.Store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Lookup(1, "a"); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("after Close: %v", err)
	}
	if _, err := f.Digest(t.Context()); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("after Close: %v", err)
	}
}

func TestAMissingObjectDirectoryIsNamedAtOpen(t *testing.T) {
	for _, lost := range []string{"objects", "objects/" + dirName(2)} {
		f := real(t)
		if err := f.Store.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(f.o.Dir, lost)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(f.o)
		if wire.CodeOf(err) != wire.CodeCorrupt || !strings.Contains(err.Error(), filepath.Join(f.o.Dir, lost)) {
			t.Errorf("without %s: %v; want corrupt, and its name", lost, err)
		}
	}
}
