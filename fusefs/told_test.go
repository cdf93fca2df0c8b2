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

// The attributes of a file say that it has no extended ones: asking for them costs
// nothing then. A service of an older version does not tell.
func TestNoXattrs(t *testing.T) {
	const files = 50
	for _, older := range []bool{false, true} {
		s := newFake()
		s.older = older
		for i := range files {
			s.put(fmt.Sprintf("f%d", i), "contents")
		}
		s.set(func(f *fake) { f.inodes[f.inodes[wire.RootIno].names["f7"]].xattrs = map[string]string{"user.a": "1"} })
		dir, m := mountAt(t, s, Options{})
		m.fs.cached.extend(bootNow()+time.Hour, false)
		before := s.readCall.Load()
		sh(t, dir, "ls -l $D")
		got := sh(t, dir, `cd $D; python3 -c '
import os
def told(f, *a):
    try: return f(*a)
    except OSError as e: return e.strerror
for n in sorted(os.listdir(".")):
    print(n, told(os.listxattr, n), told(os.getxattr, n, "user.a"), told(os.getxattr, n, "user.b"), told(os.removexattr, n, "user.c"))
'`)
		none := "No data available"
		for line := range strings.Lines(got) {
			name, is, _ := strings.Cut(strings.TrimSpace(line), " ")
			want := fmt.Sprintf("[] %s %s %s", none, none, none)
			if name == "f7" {
				want = fmt.Sprintf("['user.a'] b'1' %s %s", none, none)
			}
			if is != want {
				t.Errorf("older %v: of %s it is told %q, want %q", older, name, is, want)
			}
		}
		most, least := int64(12), int64(0) // the directory, and f7
		if older {
			most, least = 100*files, 2*files
		}
		if n := s.readCall.Load() - before; n > most || n < least {
			t.Errorf("older %v: %d reads of %d files", older, n, files)
		}
	}
}

// What is known of a file's extended attributes goes with its attributes, and stays
// where they are foreseen.
func TestNoXattrsIsForgotten(t *testing.T) {
	none := func(c *cache, ino wire.Ino) bool {
		a, listed := c.recall(ino, question{kind: wire.ReadListxattr})
		b, got := c.recall(ino, xattrOf("user.a"))
		if listed != got || listed && (len(a.names) > 0 || a.err != nil) || got && wire.CodeOf(b.err) != wire.CodeNoAttr {
			t.Fatalf("it says %+v, %v and %+v, %v", a, listed, b, got)
		}
		if _, known := c.recall(ino, question{kind: wire.ReadLink}); known {
			t.Fatal("it knows where a link leads")
		}
		return listed
	}
	bare := wire.Attr{Ino: 5, Mode: wire.ModeRegular, Nlink: 1, NoXattrs: true, Ctime: 1}
	for name, change := range map[string]struct {
		do   func(c *cache)
		left bool
	}{
		"nothing":                      {func(*cache) {}, true},
		"another is touched":           {func(c *cache) { c.forget(&wire.Touched{Inos: []wire.Ino{6}}) }, true},
		"it is touched":                {func(c *cache) { c.forget(&wire.Touched{Inos: []wire.Ino{5}}) }, false},
		"everything is":                {func(c *cache) { c.forget(nil) }, false},
		"it has vanished":              {func(c *cache) { c.vanished(5) }, false},
		"the lease is over":            {func(c *cache) { c.until = bootNow() }, false},
		"its attributes are in doubt":  {func(c *cache) { c.doubt(5) }, false},
		"it has some":                  {func(c *cache) { a := bare; a.NoXattrs = false; c.keep(c.begin(), a) }, false},
		"an older answer, touched":     {func(c *cache) { asked := c.begin(); c.doubt(5); c.keep(asked, bare) }, false},
		"this mount changes its mode":  {func(c *cache) { changes5(c, wire.Mutation{Kind: wire.MutSetattr, Set: wire.SetMode}) }, true},
		"this mount gives it some":     {func(c *cache) { changes5(c, wire.Mutation{Kind: wire.MutSetxattr, Name: "user.a"}) }, false},
		"this mount takes one away":    {func(c *cache) { changes5(c, wire.Mutation{Kind: wire.MutRemovexattr, Name: "user.a"}) }, false},
		"this mount gives it a name":   {func(c *cache) { changes5(c, wire.Mutation{Kind: wire.MutLink, To: rootAt("n")}) }, false},
		"this mount moves it":          {func(c *cache) { changes5(c, wire.Mutation{Kind: wire.MutRename, To: rootAt("n")}) }, false},
		"another does meanwhile, here": {func(c *cache) { meanwhile5(c) }, false},
	} {
		c := leasedCacheOf(nil)
		c.keep(c.begin(), bare)
		if !none(c, 5) {
			t.Fatal("it does not know what it was told")
		}
		if change.do(c); none(c, 5) != change.left {
			t.Errorf("%s: known %v, want %v", name, !change.left, change.left)
		}
	}
	c := foreseeingCache()
	m, out := makeIn("new")
	if learns(c, m, out); !none(c, 77) {
		t.Error("what it has made itself may have extended attributes")
	}
}

// changes5 is this mount's change of inode 5, by its number.
func changes5(c *cache, m wire.Mutation) {
	m.At.Dir = 5
	learns(c, &m, &wire.Outcome{Tx: 80, Time: someTime, Results: []wire.Result{{Ino: 5}}, Touched: &wire.Touched{Inos: []wire.Ino{5}}})
}

// meanwhile5: another mount's setxattr is heard of before the answer to this mount's chmod.
func meanwhile5(c *cache) {
	m := &wire.Mutation{Kind: wire.MutSetattr, At: wire.At{Dir: 5}, Set: wire.SetMode}
	touched := &wire.Touched{Inos: []wire.Ino{5}}
	out := &wire.Outcome{Tx: 80, Time: someTime, Results: []wire.Result{{Ino: 5}}, Touched: touched}
	before := c.foresee(m.At)
	c.forget(touched)
	c.learn(before, m.At, foreseen(before.was, m, out), out)
}
