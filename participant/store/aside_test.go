package store

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// countingFS counts the bytes that are read of files that are opened.
type countingFS struct {
	disk.FS
	read atomic.Int64
}

func (c *countingFS) Open(name string) (disk.File, error) {
	f, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return &countingFile{f, c}, nil
}

type countingFile struct {
	disk.File
	fs *countingFS
}

func (f *countingFile) ReadAt(p []byte, at int64) (int, error) {
	f.fs.read.Add(int64(len(p)))
	return f.File.ReadAt(p, at)
}

// A small write in a large file that no checkpoint has passed yet reads no more
// of it than one in a small file does (F4).
func TestPreserveReadsNoSums(t *testing.T) {
	fsys := &countingFS{FS: disk.New()}
	f := openFixture(t, Options{FS: fsys, Dir: filepath.Join(t.TempDir(), "p"), Ballast: 1 << 20, Fanout: 4})
	ino := f.create("f", fill(1000*wire.BlockSize, 1))
	before := fsys.read.Load()
	if err := f.Preserve(ino, 0, 4096); err != nil {
		t.Fatal(err)
	}
	if n := fsys.read.Load() - before; n > 100 {
		t.Errorf("%d bytes were read for a write before the tail, want the trailer alone", n)
	}
	before = fsys.read.Load()
	if err := f.Preserve(ino, 0, 8192); err != nil {
		t.Fatal(err)
	}
	if n := fsys.read.Load() - before; n > 0 {
		t.Errorf("%d bytes were read for the second write, want none", n)
	}
	if ids := f.objects.asides(); len(ids) != 0 {
		t.Errorf("the checksums of %v were put aside for a write before them", ids)
	}
	if err := f.Preserve(ino, 0, 1000*wire.BlockSize+1); err != nil {
		t.Fatal(err)
	}
	if ids := f.objects.asides(); len(ids) != 1 {
		t.Errorf("a write over the checksums put %d objects' aside, want 1", len(ids))
	}
}
