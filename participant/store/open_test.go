package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

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
	stage := func(id wire.ID, skew int64, data []byte) (wire.StageReply, bool) {
		f.next = uint64(id) & (1<<40 - 1)
		return f.stageAt(skew, data), true
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
	stage := func(id wire.ID, skew int64, data []byte) (wire.StageReply, bool) {
		f.next = uint64(id) & (1<<40 - 1)
		return f.stageAt(skew, data), true
	}
	var log []*vote.Tx
	for i := range 120 {
		tx, _ := k.make(5, stage)
		if err := preserve(f.Store, tx); err != nil {
			t.Fatal(err)
		}
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

// A directory that this user cannot write to is refused with what to do about it, and
// nobody takes it for a broken disk.
func TestUnwritableDirectory(t *testing.T) {
	for _, tt := range []struct {
		kind forget.Kind
		err  error
		code wire.Code
		want string
	}{
		{forget.Mkdir, syscall.EACCES, wire.CodeAccess, fmt.Sprintf("give user %d", os.Geteuid())},
		{forget.Lock, syscall.EACCES, wire.CodeAccess, fmt.Sprintf("give user %d", os.Geteuid())},
		{forget.ReadDir, syscall.EACCES, wire.CodeAccess, fmt.Sprintf("give user %d", os.Geteuid())},
		{forget.Open, syscall.EPERM, wire.CodeAccess, fmt.Sprintf("give user %d", os.Geteuid())},
		{forget.Lock, syscall.EROFS, wire.CodeReadOnly, "mount it for writing"},
		{forget.Lock, syscall.EIO, wire.CodeIO, "see to its disk"},
	} {
		fsys := forget.New(1)
		if tt.kind == forget.Open {
			if err := errors.Join(fsys.MkdirAll("/p"), disk.WriteWhole(fsys, "/p/FORMAT", "/p/FORMAT.new", nil)); err != nil {
				t.Fatal(err)
			}
		}
		fsys.SetHook(func(op forget.Op) error {
			if op.Kind == tt.kind {
				return tt.err
			}
			return nil
		})
		_, err := Open(Options{FS: fsys, Dir: "/p", Ballast: -1, Fanout: 1})
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != tt.code || e.Name != "/p" || !strings.Contains(e.Text, tt.want) {
			t.Errorf("%v at %s: %v; want %v and %q", tt.err, tt.kind, err, tt.code, tt.want)
		}
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
