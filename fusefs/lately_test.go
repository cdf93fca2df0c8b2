package fusefs

import (
	"testing"

	"tpcfs/wire"
)

func TestLately(t *testing.T) {
	var l lately[wire.Ino, int]
	if _, ok := l.get(1); ok || !l.empty() {
		t.Error("nothing was put")
	}
	l.put(1, 10)
	l.turn()
	l.put(2, 20)
	if v, ok := l.get(1); !ok || v != 10 {
		t.Errorf("after one turn: %d, %v", v, ok)
	}
	l.turn()
	if _, ok := l.get(1); ok {
		t.Error("it is remembered after two turns")
	}
	l.drop(2)
	if !l.empty() {
		t.Error("what was dropped is there")
	}
	for i := range 10 * maxLately {
		l.put(wire.Ino(i), i)
	}
	if n := len(l.now) + len(l.before); n > 2*maxLately {
		t.Errorf("%d are remembered", n)
	}
	if _, ok := l.get(10*maxLately - 1); !ok {
		t.Error("the newest is not")
	}
}
