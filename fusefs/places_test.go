package fusefs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

func TestPlaces(t *testing.T) {
	p := newPlaces()
	at := func(dir wire.Ino, name string) wire.At { return wire.At{Dir: dir, Path: name} }
	is := func(want map[wire.Ino]wire.At) {
		t.Helper()
		if len(p.names) != len(want) || len(p.inos) != len(want) {
			t.Fatalf("%v, %v; want %v", p.names, p.inos, want)
		}
		for ino, at := range want {
			if p.names[ino] != at || p.inos[at] != ino {
				t.Fatalf("%v, %v; want %v", p.names, p.inos, want)
			}
		}
	}
	p.put(2, at(1, "a"))
	p.put(3, at(1, "b"))
	p.moved(at(1, "a"), at(2, "c"), wire.RenameReplace)
	is(map[wire.Ino]wire.At{2: at(2, "c"), 3: at(1, "b")})
	p.moved(at(2, "c"), at(1, "b"), wire.RenameExchange)
	is(map[wire.Ino]wire.At{2: at(1, "b"), 3: at(2, "c")})
	p.moved(at(1, "x"), at(1, "b"), wire.RenameExchange) // of a file, or what is not known
	is(map[wire.Ino]wire.At{2: at(1, "x"), 3: at(2, "c")})
	p.moved(at(2, "c"), at(1, "x"), wire.RenameReplace) // over it, which is gone
	is(map[wire.Ino]wire.At{3: at(1, "x")})
	p.put(4, at(1, "x")) // another mount has moved it there
	is(map[wire.Ino]wire.At{4: at(1, "x")})
	p.forget(3)
	p.forget(4)
	is(nil)
}

// TestListedThenMoved: the kernel has directories where a listing has told it of them, too.
// One that another mount has moved can be renamed at once all the same.
func TestListedThenMoved(t *testing.T) {
	for name, script := range map[string]string{
		"listed":            "ls $D; mkdir $D/to-b; mv -T $D/b/a $D/c",
		"listed once moved": "stat $D/a; mkdir $D/to-b; ls $D/b; mkdir $D/to-e; mv -T $D/e/a $D/c",
		"listed twice":      "ls $D; mkdir $D/to-b; ls $D/b; mkdir $D/to-e; ls $D/e; mv -T $D/e/a $D/c",
	} {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			move := threeDirs(s)
			s.before = func(m []wire.Mutation) error {
				if to, ok := strings.CutPrefix(m[0].At.Path, "to-"); ok { // another one moves it there
					move(to)
				}
				return nil
			}
			dir, _ := mountAt(t, s, Options{})
			sh(t, dir, "set -e; "+script+"; test -d $D/c")
		})
	}
}

// threeDirs makes a, b and e in the root; move moves a to another one of them. s.mu is held
// then.
func threeDirs(s *fake) (move func(to string)) {
	root := s.inodes[wire.RootIno]
	for i, name := range []string{"a", "b", "e"} {
		ino := wire.Ino(1000 + i)
		s.inodes[ino] = &fakeInode{names: map[string]wire.Ino{}, attr: wire.Attr{Ino: ino, Parent: wire.RootIno, Mode: wire.ModeDir | 0o755, Nlink: 2}}
		root.names[name] = ino
	}
	a := s.inodes[root.names["a"]]
	return func(to string) {
		from, into := s.inodes[a.attr.Parent], s.inodes[root.names[to]]
		delete(from.names, "a")
		into.names["a"], a.attr.Parent = a.attr.Ino, into.attr.Ino
		from.sorted, into.sorted = nil, nil
	}
}

// TestLateMove: the kernel forgets the old name of a directory after its rename has ended
// with ESTALE and let go of what that needs. When it begins once more it is not faster.
func TestLateMove(t *testing.T) {
	s := newFake()
	move := threeDirs(s)
	r, _ := rawOf(t, s)
	held := make(chan struct{})
	k := &fakeKernel{block: map[wire.Ino]chan struct{}{wire.RootIno: held}}
	r.fs.lendTo(k)
	r.lookup("a")
	b := r.lookup("b")
	s.set(func(*fake) { move("b") })
	h := r.header(b)
	if status := r.fs.Lookup(nil, &h, "a", &fuse.EntryOut{}); status != fuse.OK {
		t.Fatal(status)
	}
	time.AfterFunc(20*time.Millisecond, func() { close(held) })
	r.lookup("b")
	if told, want := k.told(), fmt.Sprint([]wire.Ino{}, []wire.At{{Dir: wire.RootIno, Path: "a"}}); told != want {
		t.Errorf("the kernel was told %s, want %s", told, want)
	}
}

// TestPlaceOfAnother: a name that leads elsewhere by now is not dropped for the directory
// that was there: what is mounted on it would go.
func TestPlaceOfAnother(t *testing.T) {
	for name, file := range map[string]bool{"a file": true, "nothing": false} {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			move := threeDirs(s)
			r, _ := rawOf(t, s)
			k := &fakeKernel{}
			r.fs.lendTo(k)
			r.lookup("a")
			b := r.lookup("b")
			s.set(func(*fake) { move("b") })
			if file {
				s.put("a", "")
			}
			for _, dir := range []wire.Ino{wire.RootIno, b} {
				h := r.header(dir)
				if status := r.fs.Lookup(nil, &h, "a", &fuse.EntryOut{}); status != fuse.OK && (file || dir == b || status != fuse.ENOENT) {
					t.Fatal(status)
				}
			}
			if told, want := k.told(), fmt.Sprint([]wire.Ino{}, []wire.At{}); told != want {
				t.Errorf("the kernel was told %s, want %s", told, want)
			}
		})
	}
}
