package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// A transaction of thousands of files is one: all are there, on all
// participants and over a restart from the journal, or none.
func TestLargeTransaction(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	p, err := harness.OpenInProcess(ctx, dir, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	muts, contents := manyFiles("tree", 4000)
	outcome, err := c.Transact(ctx, muts, contents)
	if err != nil || outcome.Tx == 0 {
		t.Fatal(outcome, err)
	}
	wantFiles(ctx, t, c, muts, contents)

	// One of its names is taken: nothing of it happens.
	again, more := manyFiles("other", 4000)
	again = append(again, wire.Mutation{Kind: wire.MutMkdir, At: wire.At{Dir: wire.RootIno, Path: "tree"}, Mode: 0o755})
	if _, err := c.Transact(ctx, again, more); wire.CodeOf(err) != wire.CodeExist {
		t.Fatal("a name that is taken:", err)
	}
	if _, err := c.Stat(ctx, "other"); wire.CodeOf(err) != wire.CodeNotExist {
		t.Fatal("a part of what was refused is there:", err)
	}

	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = harness.OpenInProcess(ctx, dir, 3, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	if c, err = p.Client(ctx); err != nil {
		t.Fatal(err)
	}
	wantFiles(ctx, t, c, muts, contents)
}

// manyFiles makes a directory with n files in some directories below it: most
// of them small, some that are staged by themselves, some links.
func manyFiles(name string, n int) ([]wire.Mutation, []client.Content) {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	at := func(path string) wire.At { return wire.At{Dir: wire.RootIno, Path: path} }
	muts := []wire.Mutation{{Kind: wire.MutMkdir, At: at(name), Mode: 0o750}}
	contents := []client.Content{nil}
	dirs := []string{name}
	for i := range n {
		path := fmt.Sprintf("%s/a file number %d", dirs[rng.IntN(len(dirs))], i)
		switch m := (wire.Mutation{At: at(path), Mode: 0o640}); {
		case i%50 == 0:
			m.Kind = wire.MutMkdir
			muts, contents, dirs = append(muts, m), append(contents, nil), append(dirs, path)
		case i%50 == 1:
			m.Kind, m.Target = wire.MutSymlink, "to somewhere"
			muts, contents = append(muts, m), append(contents, nil)
		default:
			size := rng.IntN(6000)
			switch i % 500 {
			case 2:
				size += 100_000
			case 3:
				size += 12_000
			}
			data := make([]byte, size)
			_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(data) // never fails
			m.Kind = wire.MutWriteFile
			muts, contents = append(muts, m), append(contents, client.Bytes(data))
		}
	}
	return muts, contents
}

func wantFiles(ctx context.Context, t *testing.T, c *client.Client, muts []wire.Mutation, contents []client.Content) {
	t.Helper()
	for i := range muts {
		if contents[i] == nil {
			if _, err := c.Lstat(ctx, muts[i].At.Path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := c.ReadFile(ctx, muts[i].At.Path)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		r, err := contents[i].Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := want.ReadFrom(r); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%s has %d bytes, want %d, or others: %v", muts[i].At.Path, len(got), want.Len(), err)
		}
	}
}
