package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// populate makes a tree: a page of files and more, directories in directories,
// one that nobody may write to, symbolic links.
func populate(t *testing.T, c *client.Client) map[string]string {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{}
	must(c.Mkdir(ctx, "top", 0o755))
	must(c.Mkdir(ctx, "top/sub", 0o755))
	must(c.Mkdir(ctx, "top/sub/deep", 0o750))
	must(c.Mkdir(ctx, "top/empty", 0o711))
	for i := range treePage + 7 {
		files[fmt.Sprintf("f%03d", i)] = strings.Repeat(fmt.Sprint(i), i)
	}
	files["sub/deep/large"] = strings.Repeat("0123456789abcdef", 1<<16)
	files["sub/odd name\n"] = "odd"
	for name, text := range files {
		if _, err := c.WriteFile(ctx, "top/"+name, client.Bytes([]byte(text)), client.WriteOptions{Mode: 0o640}); err != nil {
			t.Fatal(err)
		}
	}
	must(c.Symlink(ctx, "../f001", "top/sub/link"))
	must(c.Link(ctx, "top/f003", "top/f004.other"))
	must(c.Link(ctx, "top/f003", "top/sub/deep/f003.too"))
	files["f004.other"], files["sub/deep/f003.too"] = files["f003"], files["f003"]
	must(c.Mknod(ctx, "top/pipe", wire.ModeFifo|0o600, 0))
	must(c.Symlink(ctx, "/nowhere", "top/dangling"))
	must(c.SetAttr(ctx, "top/f001", wire.Mutation{Set: wire.SetMode | wire.SetMtime, Mode: 0o4755, Mtime: 1_000_000_000_123_456_789}))
	must(c.SetAttr(ctx, "top/sub/deep", wire.Mutation{Set: wire.SetMode | wire.SetMtime, Mode: 0o500, Mtime: 1_100_000_000_000_000_000}))
	return files
}

func TestGetTree(t *testing.T) {
	addr := startService(t)
	c := clientOf(t, addr, nil)
	files := populate(t, c)
	dir := filepath.Join(t.TempDir(), "copy")
	code, out, errOut := at(t.Context(), addr, "", "get", "-r", "-o", "json", "top", dir)
	if code != 0 || errOut != "" || !strings.Contains(out, fmt.Sprintf(`"files":%d,"directories":4,"symlinks":2,`, len(files)+1)) {
		t.Fatalf("exit %d, %q, %q", code, out, errOut)
	}
	check := func() {
		t.Helper()
		for name, text := range files {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != text {
				t.Errorf("%q: %d bytes, %v", name, len(b), err)
			}
		}
		for name, want := range map[string]string{"sub/link": "../f001", "dangling": "/nowhere"} {
			if target, err := os.Readlink(filepath.Join(dir, name)); err != nil || target != want {
				t.Errorf("%s: %q, %v", name, target, err)
			}
		}
		for name, want := range map[string]struct {
			mode os.FileMode
			ns   int64
		}{"f001": {0o755, 1_000_000_000_123_456_789}, "sub/deep": {os.ModeDir | 0o500, 1_100_000_000_000_000_000}} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want.mode || info.ModTime().UnixNano() != want.ns {
				t.Errorf("%s: %v, %v", name, info, err)
			}
		}
		first, err := os.Stat(dir + "/f003")
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range []string{"f004.other", "sub/deep/f003.too"} {
			if info, err := os.Stat(filepath.Join(dir, other)); err != nil || !os.SameFile(first, info) {
				t.Errorf("%s is no other name of f003: %v", other, err)
			}
		}
		if info, err := os.Stat(dir + "/pipe"); err != nil || info.Mode() != os.ModeNamedPipe|0o600 {
			t.Errorf("pipe: %v %v", info, err)
		}
		left, err := filepath.Glob(dir + "/.tpcfs*")
		if deep, _ := filepath.Glob(dir + "/*/.tpcfs*"); err != nil || len(left)+len(deep) > 0 {
			t.Errorf("left behind: %v %v %v", left, deep, err)
		}
	}
	check()

	// Nothing is overwritten unless that is asked for.
	if code, _, errOut := at(t.Context(), addr, "", "get", "-r", "top", dir); code != exitFailed || !strings.Contains(errOut, "--force") {
		t.Errorf("over a copy: exit %d, %q", code, errOut)
	}
	if err := os.WriteFile(dir+"/f002", []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A local symbolic link is not followed, whatever it leads to.
	outside := t.TempDir()
	for _, step := range []error{os.RemoveAll(dir + "/sub"), os.Symlink(outside, dir+"/sub")} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if code, _, errOut := at(t.Context(), addr, "", "get", "-r", "--force", "top", dir); code != 0 {
		t.Fatalf("--force: exit %d, %q", code, errOut)
	}
	check()
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("written outside: %v %v", entries, err)
	}
}

func TestGetTreeRefusals(t *testing.T) {
	addr := startService(t)
	clientOf(t, addr, map[string]string{"file": "x"})
	dir := t.TempDir()
	for args, want := range map[string]int{
		"get -r file " + dir:               exitFailed,
		"get -r none " + dir + "/new":      exitNotExist,
		"get -r / " + dir + "/no/such/dir": exitNotExist,
		"get -r /":                         exitUsage,
		"get -r / -":                       exitUsage,
		"get -r --offset 1 / " + dir:       exitUsage,
	} {
		code, _, errOut := at(t.Context(), addr, "", strings.Fields(args)...)
		if code != want || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%s: exit %d, %q", args, code, errOut)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("made all the same: %v %v", entries, err)
	}
}

// interrupting ends a context in the middle of the n-th file that is read.
type interrupting struct {
	*client.Client
	left   atomic.Int64
	cancel func()
}

func (c *interrupting) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	if req.Kind == wire.ReadFile && c.left.Add(-1) == 0 {
		c.cancel()
	}
	return c.Client.Read(ctx, req, w)
}

// Interrupted, it says how far it came, and what is there is whole.
func TestGetTreeInterrupted(t *testing.T) {
	addr := startService(t)
	c := clientOf(t, addr, nil)
	files := populate(t, c)
	attr, err := c.Stat(t.Context(), "top")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1, 20, treePage + 3} {
		dir := filepath.Join(t.TempDir(), "copy")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		reader := &interrupting{Client: c, cancel: cancel}
		reader.left.Store(n)
		var errOut bytes.Buffer
		a := &app{out: io.Discard, err: &errOut, output: outputText}
		code := a.report("get", a.copyTree(ctx, reader, attr, "top", dir, false))
		if code != exitInterrupted || !strings.Contains(errOut.String(), "each of them whole") || strings.Count(errOut.String(), "\n") != 1 {
			t.Errorf("exit %d, %q", code, errOut.String())
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) >= len(files) {
			t.Error(len(entries), err)
		}
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err != nil || string(b) != files[e.Name()] {
				t.Errorf("%s is not whole: %v", e.Name(), err)
			}
		}
	}
}
