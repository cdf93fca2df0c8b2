package fusefs

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"tpcfs/wire"
)

// testDepot holds little memory, so that contents of a few pages spill.
func testDepot(t interface{ TempDir() string }) *depot {
	return &depot{dir: t.TempDir(), fileBytes: 2 * pageSize, bytes: 5 * pageSize}
}

func contentsOf(t *rapid.T, d *depot, b []byte) *contents {
	c := newContents(d)
	if _, err := c.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return c
}

func bytesOf(t *rapid.T, r interface {
	ReadAt([]byte, int64) (int, error)
}, size int64) []byte {
	b := make([]byte, size)
	if n, _ := r.ReadAt(b, 0); int64(n) != size {
		t.Fatalf("read %d of %d bytes", n, size)
	}
	return b
}

// TestContentsModel: contents and their snapshots are what a byte slice is,
// in memory, spilled and shared; all that was taken is given back.
func TestContentsModel(t *testing.T) {
	d := testDepot(t)
	rapid.Check(t, func(t *rapid.T) {
		type shot struct {
			s    *snapshot
			want []byte
		}
		c, want := newContents(d), []byte{}
		var shots []shot
		drop := func(i int) {
			if got := bytesOf(t, shots[i].s, shots[i].s.Size()); !bytes.Equal(got, shots[i].want) {
				t.Fatal("a snapshot has changed")
			}
			shots[i].s.Release()
			shots = append(shots[:i], shots[i+1:]...)
		}
		at := func() int { // near page boundaries, mostly
			return rapid.IntRange(0, 3).Draw(t, "page")*pageSize + rapid.IntRange(0, 5).Draw(t, "in")*pageSize/5
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				off, n := at(), rapid.IntRange(0, 3*pageSize/2).Draw(t, "n")
				b := bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "b"))}, n)
				if _, err := c.WriteAt(b, int64(off)); err != nil {
					t.Fatal(err)
				}
				if n > 0 && off+n > len(want) {
					want = append(want, make([]byte, off+n-len(want))...)
				}
				copy(want[min(off, len(want)):], b)
			},
			"truncate": func(t *rapid.T) {
				size := at()
				if err := c.Truncate(int64(size)); err != nil {
					t.Fatal(err)
				}
				want = append(want[:min(size, len(want)):min(size, len(want))], make([]byte, max(0, size-len(want)))...)
			},
			"snapshot": func(t *rapid.T) { shots = append(shots, shot{c.Snapshot(), bytes.Clone(want)}) },
			"release": func(t *rapid.T) {
				if len(shots) > 0 {
					drop(rapid.IntRange(0, len(shots)-1).Draw(t, "i"))
				}
			},
			"compare": func(t *rapid.T) {
				if got := bytesOf(t, c, c.Size()); !bytes.Equal(got, want) {
					t.Fatalf("contents differ (%d bytes, want %d)", len(got), len(want))
				}
			},
		})
		if got := bytesOf(t, c, c.Size()); !bytes.Equal(got, want) {
			t.Fatalf("contents differ at the end (%d bytes, want %d)", len(got), len(want))
		}
		c.Close()
		for len(shots) > 0 {
			drop(0)
		}
		if n := d.used.Load(); n != 0 {
			t.Fatalf("%d bytes of memory were not given back", n)
		}
	})
}

// local is a local file that two processes write: what edits imitate.
type local []byte

func (l *local) write(off int, b []byte) {
	if n := off + len(b); n > len(*l) {
		*l = append(*l, make([]byte, n-len(*l))...)
	}
	copy((*l)[off:], b)
}

func (l *local) truncate(size int) {
	*l = append((*l)[:min(size, len(*l)):min(size, len(*l))], make([]byte, max(0, size-len(*l)))...)
}

// TestRebaseKeepsBoth: whatever one mount writes over a base that another has
// changed meanwhile, in one commit or over failed ones, the result is that of
// the same operations done after the other's on one local file. Plain writes
// past appended bytes apart, which have no place of their own.
func TestRebaseKeepsBoth(t *testing.T) {
	d := &depot{dir: t.TempDir(), fileBytes: 1 << 20, bytes: 1 << 30}
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SliceOfN(rapid.ByteRange('a', 'f'), 0, 20).Draw(t, "base")
		theirs := local(bytes.Clone(base))
		switch rapid.IntRange(0, 3).Draw(t, "theirs") {
		case 1:
			theirs.write(len(theirs), rapid.SliceOfN(rapid.ByteRange('t', 'z'), 1, 9).Draw(t, "appended"))
		case 2:
			theirs.write(rapid.IntRange(0, 20).Draw(t, "at"), []byte("TTT"))
		case 3:
			theirs.truncate(rapid.IntRange(0, 20).Draw(t, "cut"))
		}
		want := local(bytes.Clone(theirs))
		ours, cur := contentsOf(t, d, base), noEdits()
		var flying *edits
		var flyingSize int64
		cut, appended := false, false
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				size := ours.Size()
				at, b := int64(rapid.IntRange(0, 25).Draw(t, "at")), []byte{byte(rapid.ByteRange('0', '9').Draw(t, "b")), '!'}
				if appended && at+2 > int64(min(len(base), len(theirs))) {
					t.Skip("no place of its own")
				}
				if _, err := ours.WriteAt(b, at); err != nil {
					t.Fatal(err)
				}
				cur.write(at, at+2, size)
				want.write(int(at), b)
			},
			"append": func(t *rapid.T) {
				size, b := ours.Size(), []byte{byte(rapid.ByteRange('A', 'Z').Draw(t, "b"))}
				if _, err := ours.WriteAt(b, size); err != nil {
					t.Fatal(err)
				}
				cur.append(size, 1)
				if cut { // the size is ours
					want.write(int(size), b)
				} else {
					want.write(len(want), b)
				}
				appended = true
			},
			"truncate": func(t *rapid.T) {
				size, to := ours.Size(), int64(rapid.IntRange(0, 25).Draw(t, "to"))
				if appended || to >= size || to > int64(len(theirs)) {
					t.Skip("their bytes would be in between")
				}
				if err := ours.Truncate(to); err != nil {
					t.Fatal(err)
				}
				cur.truncate(size, to)
				want.truncate(int(to))
				cut = true
			},
			"extend": func(t *rapid.T) {
				size := ours.Size()
				to := size + int64(rapid.IntRange(1, 9).Draw(t, "by"))
				if appended || int(to) < len(want) {
					t.Skip()
				}
				if err := ours.Truncate(to); err != nil {
					t.Fatal(err)
				}
				cur.truncate(size, to)
				want.truncate(int(to))
			},
			"commit": func(t *rapid.T) {
				if flying == nil {
					e := cur
					flying, flyingSize, cur = &e, ours.Size(), noEdits()
				}
			},
			"fail": func(t *rapid.T) {
				if flying != nil {
					cur, flying = flying.then(flyingSize, cur, ours.Size()), nil
				}
			},
		})
		if flying != nil {
			cur = flying.then(flyingSize, cur, ours.Size())
		}
		// The cut decides the size only where the base was cut.
		after, newer, err := cur.rebase(ours, int64(len(theirs)))
		if err != nil {
			t.Fatal(err)
		}
		got := laid(t, after, newer, theirs)
		if !bytes.Equal(got, want) {
			t.Fatalf("got %q, want %q (base %q, theirs %q, edits %+v)", got, want, base, []byte(theirs), cur)
		}
		// A second rebase over the same base changes nothing: it can fail halfway.
		after, again, err := after.rebase(newer, int64(len(theirs)))
		if err != nil {
			t.Fatal(err)
		}
		if got := laid(t, after, again, theirs); !bytes.Equal(got, want) {
			t.Fatalf("after a second rebase: %q, want %q", got, want)
		}
	})
}

// laid is a file as a mount shows it: edits over a base, read in two parts.
func laid(t *rapid.T, e edits, c *contents, base []byte) []byte {
	all := make([]byte, c.Size())
	cut := int64(rapid.IntRange(0, len(all)).Draw(t, "read"))
	for _, x := range []extent{{0, cut}, {cut, c.Size()}} {
		buf := all[x.from:x.to]
		if gap := e.gap(x.from, x.to, c.Size()); gap.from < min(gap.to, int64(len(base))) {
			copy(all[gap.from:gap.to], base[gap.from:])
		}
		if n, err := e.lay(c, buf, x.from); err != nil || n != len(buf) {
			t.Fatal(n, err)
		}
	}
	return all
}

// TestWriteAcrossAppended: a plain write over the old end changes bytes of
// the base and appended ones; each part stays with its own.
func TestWriteAcrossAppended(t *testing.T) {
	d := testDepot(t)
	ours, e := newContents(d), noEdits()
	if _, err := ours.WriteAt([]byte("aaa12Y"), 0); err != nil {
		t.Fatal(err)
	}
	e.append(4, 2)
	e.write(3, 5, 6)
	e, ours, err := e.rebase(ours, 8)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, ours.Size())
	copy(got, "aaaabbbb")
	if _, err := e.lay(ours, got, 0); err != nil || string(got) != "aaa1bbbb2Y" {
		t.Fatalf("got %q", got)
	}
}

func TestErrnoOfEveryCode(t *testing.T) {
	codes := 0
	for code := wire.CodeNone; code.String() != wire.Code(1<<15).String(); code++ {
		errno, ok := errnos[code]
		if !ok {
			t.Errorf("%v has no errno", code)
		}
		if (errno == 0) != (code == wire.CodeNone) {
			t.Errorf("%v is errno %d", code, errno)
		}
		if got := errnoOf(&wire.Error{Code: code, Op: "x"}); got != errno {
			t.Errorf("%v: %v, want %v", code, got, errno)
		}
		codes++
	}
	if codes != len(errnos) {
		t.Errorf("%d codes, %d in the table", codes, len(errnos))
	}
	if got := errnoOf(wire.NewError(1<<15, "of a newer service")); got != 5 {
		t.Errorf("an unknown code is errno %d", got)
	}
}
