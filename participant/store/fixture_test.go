package store

import (
	"bytes"
	"context"
	"path/filepath"
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

// restartModel opens the store, as a new process, on what a file system holds.
func (f *fixture) restartModel(fsys *forget.FS) {
	f.t.Helper()
	_ = f.Store.Close() // its file system may have crashed
	kv, err := NewModelKV(fsys, testDir)
	if err != nil {
		f.t.Fatal(err)
	}
	f.o.FS, f.o.KV = fsys, kv
	if f.Store, err = Open(f.o); err != nil {
		f.t.Fatal(err)
	}
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
	return f.stageAt(0, data)
}

func (f *fixture) stageAt(skew int64, data []byte) wire.StageReply {
	f.t.Helper()
	st, err := f.NewStage(wire.MakeID(1, f.next), skew)
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

// tailOf is the checksum of the block that a cut to size cuts, as a prepare
// makes it; nil: there are no bytes in it.
func tailOf(s *Store, ino wire.Ino, size int64) (*vote.Tail, error) {
	data := make([]byte, wire.BlockSize)
	n, bad, err := s.Block(ino, size/wire.BlockSize, data)
	data = data[:n]
	switch {
	case err != nil || len(data) == 0 && !bad || size%wire.BlockSize == 0:
		return nil, err
	case bad:
		return &vote.Tail{Bad: true}, nil
	}
	return &vote.Tail{Sum: padSum(data[:min(int64(len(data)), size%wire.BlockSize)])}, nil
}
