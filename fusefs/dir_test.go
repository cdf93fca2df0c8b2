package fusefs

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// TestRemoveManyFiles while they are listed.
func TestRemoveManyFiles(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{})
	for i := range 2500 {
		s.put(fmt.Sprintf("file-%05d", i), "")
	}
	if got := sh(t, dir, "ls $D | wc -l; ls -f $D | sort | uniq | wc -l; find $D -type f | wc -l; cd $D && rm -rf -- *; ls -A | wc -l"); got != "2500\n2502\n2500\n0\n" {
		t.Fatalf("got %q", got)
	}
}

// TestListingSurvivesChanges: one directory handle sees each name that was
// there all the time exactly once, while others come and go; a rewind sees
// the new ones; attributes are those of the moment.
func TestListingSurvivesChanges(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{})
	for i := range 500 {
		s.put(fmt.Sprintf("k%03d", i), "x")
	}
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	l := openFile(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	seen := map[string]int{}
	for round := 0; ; round++ {
		got := l.do("list 4096")
		if got == "ok" {
			break
		}
		for _, name := range strings.Fields(got) {
			seen[name]++
		}
		for i := range 5 {
			s.put(fmt.Sprintf("a-new-%d-%d", round, i), "")
		}
		sh(t, dir, fmt.Sprintf("rm $D/k%03d; mv $D/k%03d $D/z%d", 2*round, 499-2*round, round))
	}
	for i := 40; i < 440; i++ {
		if n := seen[fmt.Sprintf("k%03d", i)]; n > 1 {
			t.Errorf("k%03d came %d times", i, n)
		}
	}
	for _, name := range []string{"k200", "k201"} {
		if seen[name] != 1 {
			t.Errorf("%s came %d times", name, seen[name])
		}
	}
	l.must("rewind", "ok")
	if got := l.do("list 1000000"); !strings.HasPrefix(got, "a-new-0-0 ") {
		t.Errorf("after a rewind: %.200s", got)
	}
}

// TestTamperedContents: damage on the way is an error, never bytes.
func TestTamperedContents(t *testing.T) {
	s := newFake()
	s.put("f", "data")
	good := wire.Piece{Version: 7, Sum: wire.Sum([]byte("data")), Data: []byte("data")}
	bad := good
	bad.Data = []byte("dbta")
	c := &collector{buf: make([]byte, 10)}
	if err := c.WritePiece(bad); wire.CodeOf(err) != wire.CodeCorrupt {
		t.Errorf("READ: %v", err)
	}
}

// TestPiecesThatBeginAgain: a newer version in the middle of a read replaces
// what came; anything else out of order is refused.
func TestPiecesThatBeginAgain(t *testing.T) {
	piece := func(version wire.ID, off int64, data string) wire.Piece {
		return wire.Piece{Version: version, Offset: off, Sum: wire.Sum([]byte(data)), Data: []byte(data)}
	}
	for _, c := range []struct {
		name   string
		pieces []wire.Piece
		want   string
		code   wire.Code
	}{
		{"in order", []wire.Piece{piece(1, 0, "ab"), piece(1, 2, "cd")}, "abcd", 0},
		{"again", []wire.Piece{piece(1, 0, "ab"), piece(2, 0, "x"), piece(2, 1, "yz")}, "xyz", 0},
		{"the same again", []wire.Piece{piece(1, 0, "ab"), piece(1, 0, "ab")}, "ab", 0},
		{"a gap", []wire.Piece{piece(1, 0, "ab"), piece(1, 3, "d")}, "", wire.CodeProtocol},
		{"another version", []wire.Piece{piece(1, 0, "ab"), piece(2, 2, "cd")}, "", wire.CodeProtocol},
	} {
		r := &collector{buf: make([]byte, 8)}
		var err error
		for _, p := range c.pieces {
			if err == nil {
				err = r.WritePiece(p)
			}
		}
		if wire.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.code == 0 && string(r.buf[:r.n]) != c.want {
			t.Errorf("%s: %q, want %q", c.name, r.buf[:r.n], c.want)
		}
	}
	r := &collector{buf: make([]byte, 2)}
	if err := r.WritePiece(piece(1, 0, "abc")); wire.CodeOf(err) != wire.CodeProtocol || !bytes.Equal(r.buf, []byte{0, 0}) {
		t.Errorf("more than was asked for: %v", err)
	}
}
