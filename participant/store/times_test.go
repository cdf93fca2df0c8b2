package store

import (
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// The time that a client gives a change is taken where it is near the
// transaction's, and moves no file back.
func TestGivenCtime(t *testing.T) {
	const off = wire.MaxCtimeOff
	for _, c := range []struct {
		name            string
		was, tx, given  int64
		want, wantMtime int64
	}{
		{"none is given", 10, 50, 0, 50, 50},
		{"a little before the transaction", 10, 50, 49, 49, 49},
		{"a little after it", 10, 50, 51, 51, 51},
		{"the file's own", 10, 50, 10, 10, 10},
		{"before the file's own", 10, 50, 9, 50, 50},
		{"before a file's own that is ahead of the transaction", 90, 50, 60, 90, 90},
		{"as long before as may be", 1, 1 + off, 1, 1, 1},
		{"too long before", 1, 2 + off, 1, 2 + off, 2 + off},
		{"as long after as may be", 10, 50, 50 + off, 50 + off, 50 + off},
		{"too long after", 10, 50, 51 + off, 50, 50},
		{"before 1970, and so was the file", -10, 50, -5, 50, 50},
		{"the end of time", 10, 50, 1<<63 - 1, 50, 50},
		{"the beginning of time", 10, 50, -1 << 63, 50, 50},
	} {
		n := inode{attr: wire.Attr{Ctime: c.was, Mtime: c.was}}
		n.change(&vote.Tx{Time: c.tx}, &vote.Bound{Ctime: c.given}, true)
		if n.attr.Ctime != c.want || n.attr.Mtime != c.wantMtime {
			t.Errorf("%s: ctime %d, mtime %d, want %d, %d", c.name, n.attr.Ctime, n.attr.Mtime, c.want, c.wantMtime)
		}
		n = inode{attr: wire.Attr{Ctime: c.was, Mtime: c.was}}
		if n.change(&vote.Tx{Time: c.tx}, &vote.Bound{Ctime: c.given}, false); n.attr.Ctime != c.want || n.attr.Mtime != c.was {
			t.Errorf("%s: of attributes: ctime %d, mtime %d, want %d, %d", c.name, n.attr.Ctime, n.attr.Mtime, c.want, c.was)
		}
	}
}
