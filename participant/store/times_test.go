package store

import (
	"slices"
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

// TestTimesToCome: of a file, or a directory, whose mtime somebody has set to a time
// to come the next change sets its own, in whichever order those are decided that are
// at work at the same time: two creates in a directory, and renames of it, which do
// not keep who sets times out either. Other changes leave it.
func TestTimesToCome(t *testing.T) {
	const was, set, later = 10, 20, 45
	create := func(at int64) func(*inode) { return func(n *inode) { n.touch(at, true) } }
	move := func(at int64) func(*inode) { return func(n *inode) { n.touch(at, false) } }
	setMtime := func(n *inode) {
		n.change(&vote.Tx{Time: set}, &vote.Bound{}, false)
		n.setMtime(later, set)
	}
	orders := func(a, b func(*inode)) [][]func(*inode) { return [][]func(*inode){{a, b}, {b, a}} }
	for _, c := range []struct {
		name         string
		first        [][]func(*inode)
		then         [][]func(*inode)
		mtime, ctime int64
	}{
		{"a rename before it, one after it", orders(setMtime, move(15)), orders(move(30), move(40)), later, 40},
		{"a rename at the same time, up to the time to come", orders(setMtime, move(later)), orders(create(50), move(55)), 50, 55},
		{"a rename at the same time, later than the time to come", orders(setMtime, move(60)), orders(create(30), move(70)), 30, 70},
		{"creates before the time to come", orders(setMtime, move(15)), orders(create(30), create(40)), 40, 40},
		{"creates before and after it", orders(setMtime, move(15)), orders(create(30), create(50)), 50, 50},
		{"a create before it, a rename after it", orders(setMtime, move(15)), orders(create(30), move(50)), 30, 50},
	} {
		for _, first := range c.first {
			for _, then := range c.then {
				n := inode{attr: wire.Attr{Ino: 7, Ctime: was, Mtime: was}}
				for _, step := range append(slices.Clone(first), then...) {
					step(&n)
					again, err := decodeInode(7, encodeInode(&n)) // the row tells all of it
					if err != nil {
						t.Fatal(err)
					}
					n = again
				}
				if n.attr.Mtime != c.mtime || n.attr.Ctime != c.ctime || n.later != (c.mtime == later) {
					t.Errorf("%s: mtime %d, ctime %d, to come %v; want %d, %d", c.name, n.attr.Mtime, n.attr.Ctime, n.later, c.mtime, c.ctime)
				}
			}
		}
	}
	n := inode{}
	for mtime, want := range map[int64]bool{set - 1: false, set: false, set + 1: true} {
		if n.setMtime(mtime, set); n.later != want {
			t.Errorf("at %d set to %d: to come %v", set, mtime, n.later)
		}
	}
}
