package vote

import (
	"testing"

	"tpcfs/wire"
)

// A file with two names outlives the loss of one, and a rename of one over the
// other is nothing (rename(2)); the store may come to hold such files.
func TestTwoNames(t *testing.T) {
	setup := func() *scripted {
		s := newScripted(t)
		s.run("begin 1 r")
		s.run("do 1.2 write a data=x")
		ino := wire.Ino(wire.MakeID(1, 2))
		s.view.enter(wire.RootIno, "b", ino)
		s.view.edit(ino, func(a *wire.Attr) { a.Nlink = 2 })
		return s
	}
	s := setup()
	s.run("do 1.10 delete a; write b data=still must")
	if n, ok := s.view.inodes[wire.Ino(wire.MakeID(1, 2))]; !ok || n.Attr.Nlink != 1 {
		t.Errorf("after the delete of one name the file is %+v", n)
	}
	s = setup()
	s.run("do 1.10 mv a b; write a data=1 must; write b data=2 must")
	if len(s.view.entries) != 2 {
		t.Errorf("after a rename of one name over the other: %v", s.view.entries)
	}
}
