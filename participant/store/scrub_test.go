package store

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// verified is all that Verify finds, in steps of so many bytes.
func (f *fixture) verified(step int64) (rotten []string, files, size int64) {
	f.t.Helper()
	for req := (wire.Verify{Bytes: step}); ; {
		v, err := f.Verify(f.t.Context(), req)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, l := range v.Rotten {
			rotten = append(rotten, fmt.Sprint(l.Ino, l.Blocks))
		}
		files, size = files+v.Files, size+v.Bytes
		if req.Cursor = v.Cursor; len(req.Cursor) == 0 {
			return rotten, files, size
		}
	}
}

// A scrub finds each rotten block, whatever its steps, and nothing where nothing is.
func TestVerify(t *testing.T) {
	both := two(t)
	data := fill(300*wire.BlockSize+100, 1)
	var inos []wire.Ino
	for _, f := range both {
		inos = nil
		f.create("inline", fill(100, 2))
		for i := range 5 {
			inos = append(inos, f.create(fmt.Sprint("file", i), data[:len(data)-i]))
		}
		f.checkpoint()
	}
	f := both[0]
	for _, step := range []int64{1, 1 << 20, wire.MaxVerify} {
		if rotten, files, size := f.verified(step); len(rotten) > 0 || files != 6 || size != 5*int64(len(data))-10 {
			t.Fatalf("step %d: %v, %d files, %d bytes", step, rotten, files, size)
		}
	}
	flip(t, f.objectFile(inos[0]), 1)
	flip(t, f.objectFile(inos[1]), 299*wire.BlockSize)
	flip(t, f.objectFile(inos[1]), 300*wire.BlockSize+50)
	if err := os.Truncate(f.objectFile(inos[2]), 298*wire.BlockSize+1); err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprint(inos[0], []int64{0}), fmt.Sprint(inos[1], []int64{299, 300}), fmt.Sprint(inos[2], []int64{298, 299, 300})}
	if rotten, _, _ := f.verified(wire.MaxVerify); !slices.Equal(rotten, want) {
		t.Fatalf("rotten are %v, want %v", rotten, want)
	}
	if err := os.Remove(f.objectFile(inos[4])); err != nil {
		t.Fatal(err)
	}
	found := 0
	for req := (wire.Verify{Bytes: wire.MaxVerify}); ; {
		v, err := f.Verify(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range v.Rotten {
			found += len(l.Blocks)
			for part := range slices.Chunk(l.Blocks, wire.MaxDonated) {
				f.repair(both[1], l.Ino, part...)
			}
		}
		if req.Cursor = v.Cursor; len(req.Cursor) == 0 {
			break
		}
	}
	if rotten, _, _ := f.verified(wire.MaxVerify); len(rotten) > 0 || found != 6+301 {
		t.Fatalf("%d were found, and %v are left", found, rotten)
	}
	for i := range 5 {
		f.wantFile(fmt.Sprint("file", i), data[:len(data)-i])
	}
	if _, err := f.Verify(t.Context(), wire.Verify{Cursor: []byte("x")}); wire.CodeOf(err) != wire.CodeInvalid {
		t.Error(err)
	}
}

// A file that is nearly all holes takes as many short steps as it needs: each looks
// at a bounded part of it, and ends when nobody wants it any more.
func TestVerifyHoles(t *testing.T) {
	f := real(t)
	ino := f.create("a", fill(2*wire.BlockSize, 1))
	const size = 4 * verifiedPages * sumsPerPage * wire.BlockSize
	f.apply(nil, vote.Bound{Kind: wire.MutSetattr, Ino: ino, Set: wire.SetSize, Size: size})
	f.apply(nil, vote.Bound{Kind: wire.MutAllocate, Ino: ino, Size: size, Offset: size - wire.BlockSize, Length: wire.BlockSize})
	steps := 0
	for req := (wire.Verify{Bytes: 1 << 20}); ; {
		v, err := f.Verify(t.Context(), req)
		if err != nil || len(v.Rotten) > 0 {
			t.Fatal(v, err)
		}
		steps++
		if req.Cursor = v.Cursor; len(req.Cursor) == 0 {
			break
		}
	}
	if steps < 4 || steps > 6 {
		t.Errorf("%d steps", steps)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Verify(ctx, wire.Verify{}); wire.CodeOf(err) != wire.CodeCanceled {
		t.Error(err)
	}
}

// compared are the digests of all ranges that from chooses, and the rows.
func compared(t *testing.T, from, f *fixture) (digests [][]byte, rows []wire.Row) {
	t.Helper()
	for req := (wire.Compare{Rows: true}); ; {
		choose := req
		choose.Choose = true
		c, _ := compareOnce(t, from, choose)
		req.Next = c.Next
		got, body := compareOnce(t, f, req)
		list, err := wire.DecodeRows(body)
		if err != nil || int64(len(list)) != got.Rows {
			t.Fatal(len(list), got, err)
		}
		digests, rows = append(digests, got.Digest), append(rows, list...)
		if req.From = c.Next; len(req.From) == 0 {
			return digests, rows
		}
	}
}

func compareOnce(t *testing.T, f *fixture, req wire.Compare) (wire.Compared, []byte) {
	t.Helper()
	m, err := f.Moment()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c, body, err := m.Compare(req)
	if err != nil {
		t.Fatal(err)
	}
	return c, body
}

// All rows are compared, range by range; equal stores have equal digests, wherever
// their checkpoints are, and a row that differs shows in its range alone.
func TestCompare(t *testing.T) {
	both := two(t)
	for i := range 700 {
		for _, f := range both {
			f.create(fmt.Sprint("file", i), fill(10+i%7, byte(i)))
		}
		if i == 300 {
			both[0].checkpoint()
		}
	}
	a, rows := compared(t, both[0], both[0])
	b, _ := compared(t, both[0], both[1])
	if len(rows) != 700+701+700 || len(a) < 9 || !slices.EqualFunc(a, b, bytes.Equal) {
		t.Fatalf("%d rows, %d and %d ranges", len(rows), len(a), len(b))
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.Key] || len(r.Val) <= wire.RowDigest {
			t.Fatalf("row %q twice, or without a name", r.Key)
		}
		seen[r.Key] = true
	}
	both[1].create("another", fill(10, 1))
	b, _ = compared(t, both[0], both[1])
	differ := 0
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			differ++
		}
	}
	if differ != 4 { // its entry, its inode, its contents, and the root's inode
		t.Errorf("%d ranges differ", differ)
	}
	m, err := both[0].Moment()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, req := range []wire.Compare{{From: []byte("m")}, {From: bytes.Repeat([]byte("e"), 1000)}, {Next: make([]byte, 1000)}} {
		if _, _, err := m.Compare(req); wire.CodeOf(err) != wire.CodeInvalid {
			t.Errorf("%q to %q: %v", req.From, req.Next, err)
		}
	}
}
