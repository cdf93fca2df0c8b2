package vote

import (
	"testing"

	"tpcfs/wire"
)

// TestBoundTime: whether the time that a client gives counts is decided once, by
// what the file's was before the transaction, for all of its mutations.
func TestBoundTime(t *testing.T) {
	const was, at = 1000, 2000
	for _, c := range []struct {
		given int64
		want  int64 // in the Bounds
	}{{0, 0}, {was, 0}, {was + 1, was + 1}, {at - 1, at - 1}, {at, 0}, {at + 1, 0}} {
		s := newScripted(t)
		s.run("begin 1 r")
		s.run("do 1.2 write a data=x")
		ino := wire.Ino(wire.MakeID(1, 2))
		s.view.edit(ino, func(a *wire.Attr) { a.Ctime = was })
		self := wire.At{Dir: ino}
		fresh := wire.At{Dir: wire.RootIno, Path: "fresh"}
		b := &binder{
			overlay: newOverlay(s.view, s.m.locks, wire.MakeID(1, 10)),
			prepare: &wire.Prepare{Tx: wire.MakeID(1, 10), Time: at, Mutations: []wire.Mutation{
				{Kind: wire.MutWriteFile, At: self, Create: wire.MustExist, Ctime: c.given},
				{Kind: wire.MutSetattr, At: self, Set: wire.SetMtime, Mtime: 7, Ctime: c.given},
				{Kind: wire.MutWriteFile, At: fresh, Ctime: c.given},
				{Kind: wire.MutSetattr, At: fresh, Set: wire.SetMtime, Mtime: 7, Ctime: c.given},
			}},
			staged: map[wire.ID]bool{}, images: map[imageKey]*image{},
		}
		if _, err := b.bind(); err != nil {
			t.Fatal(err)
		}
		for i, want := range []int64{c.want, c.want, 0, 0} {
			if got := b.bounds[i].Ctime; got != want {
				t.Errorf("given %d: mutation %d is of %d, want %d", c.given, i, got, want)
			}
		}
	}
}

// TestGreetingTellsTime: a participant knows the greatest time that was prepared
// on it, also when it has forgotten the transaction.
func TestGreetingTellsTime(t *testing.T) {
	s := newScripted(t)
	s.run("begin 1 r")
	tells := func(what string, m *Machine, want int64) {
		t.Helper()
		if got := m.greeting(wire.UUID{}, wire.Epoch{}).Time; got != want {
			t.Errorf("%s the greeting tells the time %d, want %d", what, got, want)
		}
	}
	tells("before all", s.m, 0)
	s.run("do 1.2 write a data=x")
	tells("after a change", s.m, 5)
	again, err := Restore(s.view, s.m.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	tells("from the snapshot", again, 5)
	again.Join(&wire.Join{})
	tells("after a join", again, 5)
}
