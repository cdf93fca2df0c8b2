package store

import (
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// TestTimesInAnyOrder: changes at work at the same time leave the same times in
// whichever order they are decided, here in one and after a recovery in another: a
// rename does not lock the file.
func TestTimesInAnyOrder(t *testing.T) {
	for _, c := range []struct {
		name             string
		was, tx, given   int64 // of a write
		rename           int64 // the time of a rename
		ctime, wantMtime int64
	}{
		{"both by the coordinator", 10, 50, 0, 60, 60, 50},
		{"given, and a later rename", 10, 50, 40, 60, 60, 40},
		{"given, and an earlier rename", 10, 50, 40, 45, 45, 40},
		{"given, and a rename before it", 10, 50, 40, 30, 40, 40},
	} {
		m := wire.Mutation{Ctime: c.given}
		write := func(n *inode) {
			n.change(&vote.Tx{Time: c.tx}, &vote.Bound{Ctime: m.ChangeTime(c.was, c.tx)}, true)
		}
		rename := func(n *inode) { n.touch(c.rename, false) }
		for _, order := range [][]func(*inode){{write, rename}, {rename, write}} {
			n := inode{attr: wire.Attr{Ctime: c.was, Mtime: c.was}}
			for _, step := range order {
				step(&n)
			}
			if n.attr.Ctime != c.ctime || n.attr.Mtime != c.wantMtime {
				t.Errorf("%s: ctime %d, mtime %d, want %d, %d", c.name, n.attr.Ctime, n.attr.Mtime, c.ctime, c.wantMtime)
			}
		}
	}
	// Without a time of its own a change has its transaction's.
	n := inode{attr: wire.Attr{Ctime: 10, Mtime: 10}}
	if n.change(&vote.Tx{Time: 50}, &vote.Bound{}, false); n.attr.Ctime != 50 || n.attr.Mtime != 10 {
		t.Errorf("of attributes: ctime %d, mtime %d, want 50, 10", n.attr.Ctime, n.attr.Mtime)
	}
}
