package fusefs

import (
	"strings"
	"testing"

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
			dirs := map[string]*fakeInode{"": s.inodes[wire.RootIno]}
			for i, name := range []string{"a", "b", "e"} {
				in := &fakeInode{names: map[string]wire.Ino{}, attr: wire.Attr{Ino: wire.Ino(1000 + i), Parent: wire.RootIno, Mode: wire.ModeDir | 0o755, Nlink: 2}}
				s.inodes[in.attr.Ino], dirs[name], dirs[""].names[name] = in, in, in.attr.Ino
			}
			s.before = func(m []wire.Mutation) error {
				if to, ok := strings.CutPrefix(m[0].At.Path, "to-"); ok { // another one moves a there
					a := dirs["a"]
					from := s.inodes[a.attr.Parent]
					delete(from.names, "a")
					dirs[to].names["a"], a.attr.Parent = a.attr.Ino, dirs[to].attr.Ino
					from.sorted, dirs[to].sorted = nil, nil
				}
				return nil
			}
			dir, _ := mountAt(t, s, Options{})
			sh(t, dir, "set -e; "+script+"; test -d $D/c")
		})
	}
}
