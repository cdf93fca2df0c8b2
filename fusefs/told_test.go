package fusefs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tpcfs/wire"
)

func xattrOf(name string) question { return question{wire.ReadGetxattr, name} }

// What was told of an inode goes when it is touched, at the lease's end, and is
// not kept where it was touched meanwhile; its bytes are counted right.
func TestToldIsForgotten(t *testing.T) {
	c := leasedCacheOf(nil)
	known := func(ino wire.Ino, q question) bool {
		_, ok := c.recall(ino, q)
		return ok
	}
	fill := func() {
		for ino := wire.Ino(5); ino < 8; ino++ {
			for _, q := range []question{xattrOf("user.a"), xattrOf("user.b"), {kind: wire.ReadLink}, {kind: wire.ReadList}} {
				for range 2 { // the second takes the place of the first
					c.tell(c.begin(), ino, q, answer{value: []byte("v"), target: fmt.Sprint(ino), list: []dirName{{name: "n"}}, names: []string{"x"}})
				}
			}
		}
	}
	for name, forget := range map[string]func(){
		"touched": func() { c.forget(&wire.Touched{Inos: []wire.Ino{6}}) }, "vanished": func() { c.vanished(6) }, "in doubt": func() { c.doubt(6) },
	} {
		fill()
		asked := c.begin()
		forget()
		if known(6, xattrOf("user.a")) || known(6, question{kind: wire.ReadList}) || !known(5, xattrOf("user.b")) || !known(7, question{kind: wire.ReadLink}) {
			t.Errorf("%s: not exactly what it was told of 6 is forgotten", name)
		}
		c.tell(asked, 6, xattrOf("user.a"), answer{})
		if known(6, xattrOf("user.a")) {
			t.Errorf("%s: an answer that was on its way is kept", name)
		}
	}
	for _, ino := range []wire.Ino{5, 7} {
		c.doubt(ino)
	}
	if len(c.told) != 0 || c.toldBytes != 0 {
		t.Errorf("%d inodes, %d bytes are left", len(c.told), c.toldBytes)
	}
	fill()
	c.until = bootNow()
	if known(5, xattrOf("user.a")) {
		t.Error("the lease is over, and the mount answers from it")
	}
	c.extend(bootNow()+time.Hour, false)
	c.forget(nil)
	if known(5, xattrOf("user.a")) || c.toldBytes != 0 {
		t.Error("all is to be forgotten, and something is kept")
	}
}

// What is kept is bounded.
func TestToldIsBounded(t *testing.T) {
	c := leasedCacheOf(nil)
	big := answer{value: make([]byte, maxToldOfOne-toldCost)}
	for i := range 3 * maxTold / maxToldOfOne {
		c.tell(c.begin(), wire.Ino(i+5), xattrOf("user.a"), big)
		sum := 0
		for _, of := range c.told {
			for _, a := range of {
				sum += a.size()
			}
		}
		if sum != c.toldBytes || sum > maxTold {
			t.Fatalf("%d bytes are kept, %d counted", sum, c.toldBytes)
		}
	}
	big.names = []string{"x"}
	if c.tell(c.begin(), 1000, xattrOf("user.a"), big); len(c.told[1000]) != 0 {
		t.Error("an answer that is too large is kept")
	}
}

// A mount that looks again at what nobody has changed asks nothing: not for
// lists, links, attributes, extended ones, nor for those that there are not. What
// is changed, and told, it asks for again.
func TestLooksAgain(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	sh(t, dir, `mkdir $D/d; ln -s to $D/d/l; for i in $(seq 300); do : > $D/d/f$i; done; python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.a", b"1")' $D/f`)
	look := func() string {
		t.Helper()
		return sh(t, dir, `cd $D; ls -lR . | cksum; find . -type l -printf '%p %l\n'; python3 -c '
import os
def told(f, *a):
    try: return f("f", *a)
    except OSError as e: return e.strerror
print(told(os.getxattr, "user.a"), told(os.getxattr, "user.none"), told(os.listxattr), os.stat("f").st_size, len(os.listdir("d")))
'`)
	}
	m.fs.cached.extend(bootNow()+time.Hour, false)
	first := look()
	if !strings.Contains(first, "b'1' No data available ['user.a'] 8 301") {
		t.Fatalf("it sees %q", first)
	}
	before := s.readCall.Load()
	if again := look(); again != first {
		t.Errorf("looking again shows %q, not %q", again, first)
	}
	if n := s.readCall.Load() - before; n != 0 {
		t.Errorf("%d reads to look again", n)
	}
	ino := s.inodeOf("f")
	s.set(func(f *fake) { f.inodes[ino].xattrs = map[string]string{"user.none": "2"} }) // as another mount does
	told := func(touched *wire.Touched) { m.fs.recallFrom(t.Context(), m.fs.cached.forget(touched)) }
	told(&wire.Touched{Inos: []wire.Ino{ino}})
	s.put("new", "")
	told(&wire.Touched{Inos: []wire.Ino{wire.RootIno, s.inodeOf("new")}, Names: []wire.At{rootAt("new")}})
	if got := look(); !strings.Contains(got, "No data available b'2' ['user.none'] 8 301") {
		t.Errorf("after a change it sees %q", got)
	}
	if got := strings.Fields(sh(t, dir, "ls $D")); !slices.Equal(got, []string{"d", "f", "new"}) {
		t.Errorf("the list is %v", got)
	}
}
