package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// A participant's files come out as plain files: contents, modes, times, links.
func TestExport(t *testing.T) {
	f := real(t)
	large := fill(200_000, 1)
	f.create("large", large)
	dir := wire.Ino(f.apply(nil, vote.Bound{Kind: wire.MutMkdir, Dir: 1, Name: "d", Mode: 0o2750, UID: 5, GID: 6}))
	f.apply(nil, vote.Bound{Kind: wire.MutSymlink, Dir: dir, Name: "out", Target: "/etc/passwd", UID: 7})
	sparse := wire.Ino(f.apply([]byte("small"), vote.Bound{Kind: wire.MutWriteFile, Created: true, Dir: dir, Name: "sparse", Mode: 0o400,
		Content: wire.Content{Size: 5}}))
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: sparse, Set: wire.SetSize | wire.SetMtime, Size: 1 << 40, Mtime: 1e18})
	f.checkpoint()
	out := filepath.Join(t.TempDir(), "out")
	files := int64(0)
	if err := f.Export(t.Context(), out, func(n, _ int64) { files = n }); err != nil {
		t.Fatal(err)
	}
	if files != 4 {
		t.Errorf("progress told of %d files", files)
	}
	if got, err := os.ReadFile(filepath.Join(out, "large")); err != nil || !bytes.Equal(got, large) {
		t.Errorf("large: %d bytes, %v", len(got), err)
	}
	if target, err := os.Readlink(filepath.Join(out, "d/out")); err != nil || target != "/etc/passwd" {
		t.Errorf("link to %q, %v", target, err)
	}
	st, err := os.Stat(filepath.Join(out, "d/sparse"))
	if err != nil || st.Size() != 1<<40 || st.Mode() != 0o400 || !st.ModTime().Equal(time.Unix(0, 1e18)) {
		t.Errorf("sparse: %v, %v", st, err)
	}
	if blocks := st.Sys().(*syscall.Stat_t).Blocks; blocks > 2048 {
		t.Errorf("a file of zeros takes %d blocks", blocks)
	}
	st, err = os.Stat(filepath.Join(out, "d"))
	if err != nil || st.Mode().Perm() != 0o750 || st.Mode()&fs.ModeSetgid == 0 || !st.ModTime().Equal(time.Unix(0, 1000)) {
		t.Errorf("directory: %v, %v", st, err)
	}
	if sys := st.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && (sys.Uid != 5 || sys.Gid != 6) {
		t.Errorf("directory of %d:%d", sys.Uid, sys.Gid)
	}
	if err := f.Export(t.Context(), out, nil); wire.CodeOf(err) != wire.CodeNotEmpty || !strings.Contains(err.Error(), out) {
		t.Errorf("a second export to the same place: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(f.o.Dir, "objects"), link); err != nil {
		t.Fatal(err)
	}
	for _, own := range []string{f.o.Dir, filepath.Join(f.o.Dir, "objects", "new", "x"), link + "/x"} {
		if err := f.Export(t.Context(), own, nil); wire.CodeOf(err) != wire.CodeInvalid {
			t.Errorf("an export to %s: %v", own, err)
		}
		if _, err := os.Stat(filepath.Join(f.o.Dir, "objects", "new")); err == nil {
			t.Error("it is there")
		}
	}
}

// A rotten file is named, and the rest is exported.
func TestExportRotten(t *testing.T) {
	f := real(t)
	bad := f.create("bad", fill(100_000, 1))
	f.create("good", fill(100_000, 2))
	flip(t, f.objectFile(bad), 70_000)
	out := t.TempDir()
	err := f.Export(t.Context(), out, nil)
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeCorrupt || e.Name != "bad" || e.Op != "export" {
		t.Errorf("error %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(out, "good")); err != nil || !bytes.Equal(got, fill(100_000, 2)) {
		t.Errorf("the sound file: %d bytes, %v", len(got), err)
	}
	if err := f.Export(t.Context(), filepath.Join(out, "good"), nil); err == nil {
		t.Error("exported into a file")
	}
}

// Hard links stay links, fifos and sockets are made, attributes come along; what
// has no name stays out.
func TestExportNames(t *testing.T) {
	f := real(t)
	file := wire.Ino(f.create("a", fill(10_000, 1)))
	d := wire.Ino(f.apply(nil, vote.Bound{Kind: wire.MutMkdir, Dir: 1, Name: "d", Mode: 0o755}))
	f.apply(nil, vote.Bound{Kind: wire.MutLink, Ino: file, Dir: d, Name: "b"})
	f.apply(nil, vote.Bound{Kind: wire.MutSetxattr, Ino: file, Xattr: "user.k", Value: []byte("v\x00w")},
		vote.Bound{Kind: wire.MutSetattr, Ino: file, Set: wire.SetMode, Mode: 0o444})
	f.apply(nil, vote.Bound{Kind: wire.MutMknod, Dir: d, Name: "p", Mode: wire.ModeFifo | 0o620})
	f.apply(nil, vote.Bound{Kind: wire.MutMknod, Dir: 1, Name: "s", Mode: wire.ModeSocket | 0o600})
	f.apply(nil, vote.Bound{Kind: wire.MutCreateUnlinked, Mode: 0o600, Created: true})
	out := t.TempDir()
	files := int64(0)
	if err := f.Export(t.Context(), out, func(n, _ int64) { files = n }); err != nil {
		t.Fatal(err)
	}
	if files != 5 {
		t.Errorf("progress told of %d names", files)
	}
	a, err := os.Stat(filepath.Join(out, "a"))
	b, err2 := os.Stat(filepath.Join(out, "d/b"))
	if err != nil || err2 != nil || !os.SameFile(a, b) || a.Sys().(*syscall.Stat_t).Nlink != 2 || a.Mode() != 0o444 {
		t.Errorf("%v (%v) and %v (%v) are to be one file", a, err, b, err2)
	}
	val := make([]byte, 10)
	if n, err := syscall.Getxattr(filepath.Join(out, "a"), "user.k", val); err != nil || string(val[:n]) != "v\x00w" {
		t.Errorf("attribute %q, %v", val[:max(n, 0)], err)
	}
	for name, want := range map[string]fs.FileMode{"d/p": fs.ModeNamedPipe | 0o620, "s": fs.ModeSocket | 0o600} {
		if st, err := os.Lstat(filepath.Join(out, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, st, err, want)
		}
	}
}

// An export that is given up ends before the next file.
func TestExportGivenUp(t *testing.T) {
	f := real(t)
	for _, name := range []string{"a", "b", "c"} {
		f.create(name, []byte(name))
	}
	f.checkpoint()
	ctx, cancel := context.WithCancel(t.Context())
	out := filepath.Join(t.TempDir(), "out")
	err := f.Export(ctx, out, func(files, _ int64) {
		if files == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if there, err := os.ReadDir(out); err != nil || len(there) != 2 {
		t.Errorf("%v are there, %v", there, err)
	}
}
