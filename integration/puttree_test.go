package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"tpcfs/integration/harness"
)

// localTree makes a directory with what a tree may hold.
func localTree(t *testing.T, files int) string {
	t.Helper()
	dir := tempDir(t) + "/tree"
	for _, d := range []string{dir, dir + "/a b", dir + "/a b/deep/er", dir + "/empty"} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, data []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("none", nil, 0o600)
	write("a b/run.sh", []byte("#!/bin/sh\n"), 0o755)
	write("a b/deep/er/\xff\nname", []byte("x"), 0o644)
	write("large", noise(1, 3<<20), 0o640)
	for i := range files {
		write(fmt.Sprintf("a b/f%d", i), noise(int64(i), i*37%9000), 0o644)
	}
	if err := os.Symlink("../nowhere", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	return dir
}

// put -r makes a whole tree appear at once, or nothing of it.
func TestPutTree(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t)
	startAll(t, ctx, c)
	env := []string{"TPCFS_COORDINATOR=" + c.Addr(harness.Coordinator)}
	do := func(args ...string) harness.Result { return run(t, ctx, env, "", args...) }
	local := localTree(t, 300)

	if r := do("put", "-r", "-o", "json", local, "whole"); r.Code != 0 || !bytes.Contains([]byte(r.Out), []byte(`"files":304`)) {
		t.Errorf("put -r: exit %d, %s%s", r.Code, r.Out, r.Err)
	}
	oneLine(t, "a name that is taken", do("put", "-r", local, "whole"), 1, "whole", "exists")
	oneLine(t, "a parent that is missing", do("put", "-r", local, "missing/whole"), 3, "missing")
	oneLine(t, "the root", do("put", "-r", local, "/"), 2, "root")
	oneLine(t, "a file", do("put", "-r", local+"/large", "x"), 1, "large")
	oneLine(t, "a directory without -r", do("put", local, "x"), 1, "put -r")
	if err := syscall.Mkfifo(local+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	oneLine(t, "a fifo", do("put", "-r", local, "fifo"), 1, local+"/fifo")
	if err := os.Remove(local + "/fifo"); err != nil {
		t.Fatal(err)
	}
	if r := do("put", "-r", "--no-atomic", "--preserve", local, "parts"); r.Code != 0 {
		t.Errorf("put -r --no-atomic: exit %d, %s", r.Code, r.Err)
	}

	// Of several at once that make the same name, one wins; whatever is killed
	// meanwhile, each is there as a whole or not at all.
	var wg sync.WaitGroup
	results := make([]harness.Result, 4)
	for i := range results {
		wg.Go(func() { results[i] = do("put", "-r", local, "race") })
	}
	for _, name := range []string{harness.Coordinator, c.Names[0]} {
		if err := c.Kill(name); err != nil {
			t.Error(err)
		}
		if err := c.Start(ctx, name); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	won := 0
	for _, r := range results {
		switch r.Code {
		case 0:
			won++
		case 1, 5, 6: // exists; a conflict; its answer was lost
		default:
			t.Errorf("exit %d, %s", r.Code, r.Err)
		}
	}
	if won > 1 {
		t.Errorf("%d of %d made the same directory", won, len(results))
	}
	settle(t, ctx, c)
	if err := c.Kill(c.All()...); err != nil {
		t.Fatal(err)
	}
	for _, name := range c.Names {
		out, err := c.Export(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		sameTree(t, local, out+"/whole", false)
		sameTree(t, local, out+"/parts", true)
		if won == 1 {
			sameTree(t, local, out+"/race", false)
		}
	}
}

// sameTree compares two local trees: names, kinds, modes, contents, with times
// also when files were changed.
func sameTree(t *testing.T, want, got string, times bool) {
	t.Helper()
	list := func(root string) map[string]string {
		all := map[string]string{}
		err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			word := fmt.Sprint(info.Mode())
			switch {
			case info.Mode().IsRegular():
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				word += " " + string(data)
			case info.Mode()&os.ModeSymlink != 0:
				target, err := os.Readlink(path)
				if err != nil {
					return err
				}
				word += " " + target
			}
			if times && info.Mode()&os.ModeSymlink == 0 {
				word += " " + info.ModTime().String()
			}
			all[rel] = word
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	w, g := list(want), list(got)
	for name, word := range w {
		if g[name] != word {
			t.Errorf("%s/%s is %.80q, want %.80q", got, name, g[name], word)
		}
	}
	if len(g) != len(w) {
		t.Errorf("%s has %d files, want %d", got, len(g), len(w))
	}
}
