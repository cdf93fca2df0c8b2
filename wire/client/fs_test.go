package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"testing/fstest"

	"tpcfs/wire"
)

// populate makes a tree of a bit of everything and returns its names.
func populate(t *testing.T, c *Client, files int) []string {
	t.Helper()
	tx := c.Tx().Mkdir("many", 0o755).Mkdir("empty", 0o700).Symlink("many/f1", "link").Symlink("many", "dirlink").Symlink("../link", "many/up")
	names := []string{"many", "empty", "link", "dirlink", "many/up"}
	for i := range files {
		name := fmt.Sprintf("many/f%d", i)
		tx.WriteFile(name, Bytes([]byte(name)), WriteOptions{Mode: 0o640})
		names = append(names, name)
	}
	deep := "deep"
	for range 20 {
		tx.Mkdir(deep, 0o755)
		deep += "/d"
	}
	tx.WriteFile(deep, Bytes(contents(9000)), WriteOptions{})
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return append(names, deep)
}

func TestFS(t *testing.T) {
	c := newClient(t, NewFake(), Options{})
	names := populate(t, c, 20)
	if err := fstest.TestFS(c.FS(t.Context(), ""), names...); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{".", "/"} {
		if info, err := fs.Stat(c.FS(t.Context(), root), "many/f1"); err != nil || info.Name() != "f1" {
			t.Error(root, info, err)
		}
	}
	if err := fstest.TestFS(c.FS(t.Context(), "/deep/d"), "d/d/d"); err != nil {
		t.Error(err)
	}
	if err := fstest.TestFS(c.FS(t.Context(), "dirlink"), "f1", "f19", "up"); err != nil {
		t.Error(err)
	}
}

// Errors are those of io/fs, with the caller's name and the cause.
func TestFSErrors(t *testing.T) {
	c := newClient(t, NewFake(), Options{})
	populate(t, c, 3)
	fsys := c.FS(t.Context(), "many")
	_, err := fs.ReadFile(fsys, "f9")
	var pe *fs.PathError
	var we *wire.Error
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &pe) || pe.Path != "f9" || !errors.As(err, &we) || err.Error() != "open f9: no such file or directory" {
		t.Error(err)
	}
	if _, err := fsys.Open("../link"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if _, err := c.FS(t.Context(), "a//b").Open("x"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if _, err := fs.ReadDir(fsys, "f1"); wire.CodeOf(err) != wire.CodeNotDir {
		t.Error(err)
	}
	d, err := fsys.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(make([]byte, 1)); wire.CodeOf(err) != wire.CodeIsDir {
		t.Error(err)
	}
	// A directory that is read in parts, in time renamed.
	dir := d.(fs.ReadDirFile)
	first, err := dir.ReadDir(2)
	if err != nil || len(first) != 2 {
		t.Fatal(first, err)
	}
	if err := c.Rename(t.Context(), "many", "others"); err != nil {
		t.Fatal(err)
	}
	if rest, err := dir.ReadDir(9); err != nil || len(rest) != 2 || rest[1].Name() != "up" {
		t.Error(rest, err)
	}
	if _, err := dir.ReadDir(1); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := dir.ReadDir(1); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.FS(ctx, "").Open("link"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFileMode(t *testing.T) {
	for mode, want := range map[uint32]string{
		wire.ModeRegular | 0o644: "-rw-r--r--", wire.ModeDir | 0o1777: "dtrwxrwxrwx", wire.ModeSymlink | 0o777: "Lrwxrwxrwx",
		wire.ModeFifo | 0o600: "prw-------", wire.ModeSocket | 0o600: "Srw-------", wire.ModeRegular | 0o6755: "ugrwxr-xr-x",
		wire.ModeChar | 0o600: "Dcrw-------", wire.ModeBlock | 0o600: "Drw-------",
	} {
		if got := FileMode(mode).String(); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}
