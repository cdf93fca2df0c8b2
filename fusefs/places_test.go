package fusefs

import (
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
