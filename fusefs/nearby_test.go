package fusefs

import (
	"fmt"
	"testing"
	"time"

	"tpcfs/wire"
)

func nearAt(dir wire.Ino, name string) wire.At { return wire.At{Dir: dir, Path: name} }

// A directory is listed when that costs about what was asked for one by one, and each
// time for twice as many questions; not a large one, nor without a lease.
func TestListNear(t *testing.T) {
	of := func(size int64) *cache {
		c := leasedCacheOf(nil)
		c.keep(c.begin(), wire.Attr{Ino: 9, Mode: wire.ModeDir, Nlink: 2, Size: size})
		return c
	}
	after := func(c *cache, most int) int { // how many are found one by one before it is listed
		for n := range most {
			if c.listNear(nearAt(9, "f")) {
				return n
			}
			c.foundNear(nearAt(9, "f"))
		}
		return most
	}
	for _, tt := range []struct {
		size int64
		want []int
	}{{1, []int{1, 1, 1}}, {50, []int{1, 1, 3, 7}}, {100, []int{1, 3, 7, 15}}, {500, []int{9, 19, 39}}, {501, []int{2000}}} {
		c := of(tt.size)
		for i, want := range tt.want {
			if got := after(c, 2000); got != want {
				t.Errorf("of %d entries, time %d: listed after %d questions, want %d", tt.size, i, got, want)
			}
		}
	}
	for name, spoil := range map[string]func(c *cache){
		"the lease is over":          func(c *cache) { c.until = bootNow() },
		"its size is not known":      func(c *cache) { c.doubt(9) },
		"what it holds is known":     func(c *cache) { c.tell(c.begin(), 9, question{kind: wire.ReadList}, answer{}) },
		"everything is to be forgot": func(c *cache) { c.forget(nil) },
		"another was looked into":    func(c *cache) { clear(c.near); c.foundNear(nearAt(8, "f")) },
	} {
		c := of(50)
		c.foundNear(nearAt(9, "f"))
		if spoil(c); c.listNear(nearAt(9, "g")) {
			t.Errorf("%s, and it is listed", name)
		}
	}
	c := of(1)
	for ino := range wire.Ino(3 * maxTouches) {
		if c.foundNear(nearAt(ino, "f")); len(c.near) > maxTouches {
			t.Fatalf("%d directories are remembered", len(c.near))
		}
	}
}

// What a list does not name is not there, until the directory is touched.
func TestNotListed(t *testing.T) {
	c := leasedCacheOf(nil)
	whole := answer{list: []dirName{{name: "B"}, {name: "a"}, {name: "c"}}, once: true}
	absent := func(name string) bool {
		_, known, err := c.look(nearAt(9, name))
		if known && wire.CodeOf(err) != wire.CodeNotExist {
			t.Fatalf("%q is %v", name, err)
		}
		return known
	}
	if absent("b") {
		t.Error("nothing was listed, and a name is not there")
	}
	c.tell(c.begin(), 9, question{kind: wire.ReadList}, whole)
	for name, want := range map[string]bool{"B": false, "a": false, "c": false, "": false, "A": true, "b": true, "aa": true, "d": true} {
		if got := absent(name); got != want && name != "" {
			t.Errorf("%q is not there: %v, want %v", name, got, want)
		}
	}
	if _, known, _ := c.look(nearAt(8, "b")); known {
		t.Error("of another directory it knows what is not there")
	}
	c.forget(&wire.Touched{Inos: []wire.Ino{9}, Names: []wire.At{nearAt(9, "b"), nearAt(9, "d")}})
	for _, name := range []string{"b", "d", "e"} {
		if absent(name) {
			t.Errorf("%q is not there, though the directory has changed", name)
		}
	}
}

// A list that took several answers is of several moments: another mount may have moved a name,
// from behind what was listed to before it, and it would be nowhere.
func TestListOfSeveralAnswers(t *testing.T) {
	s := newFake()
	for _, name := range []string{"b", "c", "d"} {
		s.put(name, "contents")
	}
	for page, want := range map[int]bool{2: false, 3: true} {
		s.list = page
		f := newFileSystem(s, Options{})
		f.cached.extend(bootNow()+time.Hour, false)
		if whole, err := f.readNames(t.Context(), wire.RootIno); err != nil || len(whole.list) != 3 {
			t.Fatal(whole, err)
		}
		if _, known, _ := f.cached.look(rootAt("a")); known != want {
			t.Errorf("%d names an answer: it is known that there is no other: %t", page, known)
		}
		if _, known, err := f.cached.look(rootAt("b")); !known || err != nil {
			t.Errorf("%d names an answer: one that was listed is known: %t, %v", page, known, err)
		}
		f.abandon()
	}
}

// Who looks at the files of a directory one by one asks for most of them at once; who
// looks for names that are not there does not, and neither does who makes files.
func TestLooksNear(t *testing.T) {
	const files = 80
	s := newFake()
	for i := range files {
		s.put(fmt.Sprintf("f%d", i), "contents")
	}
	dir, m := mountAt(t, s, Options{})
	m.fs.cached.extend(bootNow()+time.Hour, false)
	reads := func(script string) int64 {
		t.Helper()
		before := s.readCall.Load()
		sh(t, dir, script)
		return s.readCall.Load() - before
	}
	if n := reads(`cd $D; for i in $(seq 30); do [ ! -e none$i ]; done; mkdir d; for i in $(seq 30); do : > d/f$i; done`); n < 60 {
		t.Errorf("%d reads for 60 names that are not there: was the directory listed?", n)
	}
	m.fs.cached.mu.Lock()
	if near := m.fs.cached.near; len(near) != 0 {
		t.Errorf("names that were not there count: %v", near)
	}
	m.fs.cached.mu.Unlock()
	if n := reads(fmt.Sprintf(`cd $D; for i in $(seq 0 %d); do [ "$(stat -c %%s f$i)" = 8 ]; done; for i in $(seq 100); do [ ! -e no$i ]; done; [ "$(ls | wc -l)" = %d ]`, files-1, files+1)); n > 5 {
		t.Errorf("%d reads to look at %d files one by one, and for what is not there", n, files)
	}
	s.set(func(f *fake) { delete(f.inodes[wire.RootIno].names, "f7"); f.inodes[wire.RootIno].touch(f.time) }) // as another mount does
	s.put("no1", "contents")
	m.fs.recallFrom(t.Context(), m.fs.cached.forget(&wire.Touched{Inos: []wire.Ino{wire.RootIno}, Names: []wire.At{rootAt("f7"), rootAt("no1")}}))
	sh(t, dir, `cd $D; [ ! -e f7 ]; [ "$(cat no1)" = contents ]; [ -e f8 ]; [ ! -e no2 ]`)
}
