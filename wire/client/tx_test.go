package client

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"tpcfs/wire"
)

// Changes of many kinds happen together, small and large contents alike.
func TestTx(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	ctx := t.Context()
	tx := c.Tx().Mkdir("dir", 0o755).Symlink("dir", "link")
	for i := range 20 {
		tx.WriteFile(fmt.Sprintf("dir/f%d", i), Bytes(contents(i*11<<10)), WriteOptions{})
	}
	tx.Rename("dir/f1", "dir/g").DeleteFile("dir/f2").SetAttr("dir/g", wire.Mutation{Set: wire.SetMode, Mode: 0o600})
	tx.Mkdir("gone", 0o700).Rmdir("gone")
	tx.Add(wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Path: "added"}, Mode: 0o640}, Bytes([]byte("by Add")))
	outcome, err := tx.Commit(ctx)
	if err != nil || len(outcome.Results) != tx.Len() || outcome.Tx == 0 {
		t.Fatal(outcome, err)
	}
	for i := range 20 {
		got, err := c.ReadFile(ctx, fmt.Sprintf("dir/f%d", i))
		if (i == 1 || i == 2) != errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Equal(got, contents(i*11<<10)) {
			t.Error(i, len(got), err)
		}
	}
	attr, err := c.Stat(ctx, "dir/g")
	if err != nil || attr.Mode&wire.ModePerm != 0o600 || attr.Size != 11<<10 {
		t.Error(attr, err)
	}
	if got, err := c.ReadFile(ctx, "added"); err != nil || string(got) != "by Add" {
		t.Errorf("%q %v", got, err)
	}
	if len(f.runs) != 1 || len(f.stages) != 0 {
		t.Error("runs", f.runs, "stages left", len(f.stages))
	}
}

// Nothing of a transaction that fails has happened; its error names the change.
func TestTxFails(t *testing.T) {
	c := newClient(t, NewFake(), Options{})
	ctx := t.Context()
	r, err := c.Tx().WriteFile("a", Bytes([]byte("1")), WriteOptions{}).Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteFile(ctx, "a", Bytes([]byte("2")), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("n", wire.MaxNameLen+1)
	for _, k := range []struct {
		tx   *Tx
		is   error
		at   int
		says string
	}{
		{c.Tx().Mkdir("new", 0o755).DeleteFile("/missing"), fs.ErrNotExist, 1, "deleteFile /missing: no such file"},
		{c.Tx().Mkdir("new", 0o755).WriteFile("a", Bytes(nil), WriteOptions{IfVersion: r.Tx}), ErrVersion, 1, "writeFile a: version"},
		{c.Tx().Mkdir("new", 0o755).Rename("b", "c"), fs.ErrNotExist, 1, "rename b: no such file"},
		{c.Tx().Mkdir("new", 0o755).Rename("a", "x/y"), fs.ErrNotExist, 1, "rename x/y: no such file"},
		{c.Tx().Mkdir("new", 0o755).Mkdir("a", 0o755), fs.ErrExist, 1, "mkdir a: file exists"},
		{c.Tx().Mkdir("new", 0o755).DeleteFile("a//b"), fs.ErrInvalid, 1, "deleteFile a//b: invalid"},
		{c.Tx().Mkdir("new", 0o755).Rename("a", "../b"), fs.ErrInvalid, 1, "rename ../b: invalid"},
		{c.Tx().Mkdir("new", 0o755).Mkdir(long, 0o755), &wire.Error{Code: wire.CodeNameTooLong}, 1, "at most 255"},
		{c.Tx(), fs.ErrInvalid, 0, "without changes"},
	} {
		_, err := k.tx.Commit(ctx)
		var e *wire.Error
		if !errors.As(err, &e) || !errors.Is(err, k.is) || e.Mutation != k.at || !strings.Contains(err.Error(), k.says) {
			t.Errorf("%v (%d), want %q", err, e.Mutation, k.says)
		}
		if _, err := c.Stat(ctx, "new"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal("something happened:", err)
		}
	}
}

// What is over a limit is refused before anything is sent, saying the limit.
func TestTxLimits(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	big := func() *Tx { return c.Tx().WriteFile("big", Bytes(contents(200<<10)), WriteOptions{}) }
	many := big()
	for many.Len() <= wire.MaxMutations {
		many.DeleteFile("x")
	}
	names := big()
	for target := strings.Repeat("t", wire.MaxPathLen); names.Len() < 18_000; {
		names.Symlink(target, fmt.Sprint("l", names.Len()))
	}
	if _, err := c.Stat(t.Context(), ""); err != nil { // it is connected
		t.Fatal(err)
	}
	f.fault = func(call string) fault {
		t.Error("a call:", call)
		return fine
	}
	for _, k := range []struct {
		tx   *Tx
		is   error
		says string
	}{
		{many, ErrTooMany, "65536"},
		{names, ErrTooMany, "at most 64.0 MiB"},
		{big().WriteFile("huge", tooLong{n: wire.MaxFileSize + 1}, WriteOptions{}), ErrTooLarge, "huge: file too large: 17592186040321 bytes, at most 17592186040320"},
		{big().Symlink(strings.Repeat("t", wire.MaxPathLen+1), "l"), wire.NewError(wire.CodeNameTooLong, ""), "4096"},
		{big().Add(wire.Mutation{Kind: wire.MutMkdir, At: wire.At{Path: "a/../b"}}, nil), fs.ErrInvalid, `".."`},
	} {
		if _, err := k.tx.Commit(t.Context()); !errors.Is(err, k.is) || !strings.Contains(err.Error(), k.says) {
			t.Errorf("%v, want %q", err, k.says)
		}
	}
	f.fault = nil
	if f.staged != 0 || len(f.tries) != 0 {
		t.Error(f.staged, "bytes staged, tries", f.tries)
	}
}

// Symbolic links are followed in every name; those of large contents before
// these are sent, but not if the transaction itself changes what is there.
func TestTxSymlinks(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	ctx := t.Context()
	const big = 200 << 10
	if _, err := c.Tx().Mkdir("real", 0o755).Mkdir("real/sub", 0o755).Symlink("real", "l1").Symlink("../l1/sub", "real/l2").
		Symlink("l1/file", "lf").Symlink("real/other", "lo").Symlink("loop", "loop").Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tx().WriteFile("l1/l2/x", Bytes(contents(big)), WriteOptions{}).
		WriteFile("lf", Bytes([]byte("small")), WriteOptions{}).
		DeleteFile("lo").WriteFile("lo", Bytes(contents(big+1)), WriteOptions{}).
		Rename("l1/l2/x", "l1/y").
		Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if f.staged != 2*big+1 {
		t.Error(f.staged, "bytes staged")
	}
	for name, size := range map[string]int64{"real/y": big, "real/file": 5, "lo": big + 1} {
		if attr, err := c.Lstat(ctx, name); err != nil || attr.Size != size || attr.Mode&wire.ModeType != wire.ModeRegular {
			t.Error(name, attr, err)
		}
	}
	if _, err := c.Tx().Mkdir("l1/d", 0o755).WriteFile("lf", Bytes(contents(big)), WriteOptions{Create: wire.MustNotExist}).Commit(ctx); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if _, err := c.Tx().Mkdir("e", 0o755).Mkdir("loop/x", 0o755).Commit(ctx); wire.CodeOf(err) != wire.CodeLoop || !strings.Contains(err.Error(), "mkdir loop/x") {
		t.Error(err)
	}
	// A link that the transaction makes itself.
	if _, err := c.Tx().Symlink("real/sub", "own").WriteFile("own/z", Bytes(contents(big)), WriteOptions{}).Commit(ctx); err != nil {
		t.Error(err)
	}
	if attr, err := c.Lstat(ctx, "real/sub/z"); err != nil || attr.Size != big {
		t.Error(attr, err)
	}
}

// A transaction that met a conflict can be tried again as it is.
func TestTxAgain(t *testing.T) {
	f := NewFake()
	f.fault = script("transact", conflict)
	c := newClient(t, f, Options{})
	tx := c.Tx().WriteFile("a", Bytes(contents(100<<10)), WriteOptions{}).WriteFile("b", Bytes([]byte("b")), WriteOptions{})
	if _, err := tx.Commit(t.Context()); !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.runs) != 1 || len(f.tries) != 2 {
		t.Error(f.runs, f.tries)
	}
}
