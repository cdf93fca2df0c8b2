package vote

import (
	"errors"
	"testing"

	"tpcfs/wire"
)

// A tree that anybody can make, however deep, is no reason to end: a move into it is
// refused where the way up is longer than the bound, by all replicas alike.
func TestMoveIntoDeepTree(t *testing.T) {
	for depth, want := range map[wire.Ino]wire.Code{maxDepth: wire.CodeNone, maxDepth + 1: wire.CodeTooMany} {
		s := newScripted(t)
		s.run("begin 1 r")
		s.run("do 1.2 mkdir a")
		above := wire.RootIno
		for i := range depth { // the last one has so many above it
			ino := 1000 + i
			s.view.inodes[ino] = Inode{Attr: wire.Attr{Ino: ino, Mode: wire.ModeDir | 0o755, Nlink: 2, Parent: above}}
			above = ino
		}
		b := &binder{overlay: newOverlay(s.view, s.m.locks, wire.MakeID(1, 9)), prepare: &wire.Prepare{Tx: wire.MakeID(1, 9)}}
		err := b.mutation(0, &wire.Mutation{Kind: wire.MutRename, At: wire.At{Dir: wire.RootIno, Path: "a"}, To: wire.At{Dir: above, Path: "a"}})
		var fatal *ViewError
		if errors.As(err, &fatal) || wire.CodeOf(err) != want {
			t.Errorf("a directory moves below %d others: %v, want code %v", depth, err, want)
		}
	}
}

// A replica that has no space for what keeps a redo's checksums, or lacks descriptors,
// says NO; it does not end.
func TestViewThatCannotNow(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeNoSpace, wire.CodeUnavailable, wire.CodeCorrupt} {
		err := refusal(wire.NewError(code, "why"), wire.At{Dir: wire.RootIno, Path: "f"})
		var fatal *ViewError
		if ends := code == wire.CodeCorrupt; errors.As(err, &fatal) != ends {
			t.Errorf("code %v: %v; want that it is fatal: %t", code, err, ends)
		}
	}
}
