package vote

import (
	"slices"
	"strings"
	"testing"

	"tpcfs/wire"
)

// A YES counts the rows of the attributes that go with a file: a table has room
// for them (S3).
func TestReservedRows(t *testing.T) {
	s := newScripted(t)
	s.run("begin 1 r")
	s.run("do 1.2 write a; setx a user.x value=1; setx a user.y value=2; setx a user.z value=3; write b")
	s.run("prepare 1.10 delete a")
	with := s.view.rows
	s.run("prepare 1.11 delete b")
	if with != s.view.rows+3 {
		t.Errorf("%d rows for a file with three attributes, %d for one without", with, s.view.rows)
	}
}

// An outcome names what it leaves without a name, once, and not what has got one.
func TestOutcomeNamesOrphans(t *testing.T) {
	s := newScripted(t)
	s.run("begin 1 r")
	s.run("do 1.2 write a; write b; write c; link b b2")
	s.run("do 1.10 delete a hold; mv c b hold; unlinked root:; unlinked root:; link 1.13: named; delete named hold; unlinked root:; link 1.16: stays")
	id := func(n uint64) wire.Ino { return wire.Ino(wire.MakeID(1, n)) }
	got := s.view.ops[wire.OpID{Session: wire.SessionID{1}, Seq: 1002}].Orphans
	want := []wire.Ino{id(2), id(12), id(13)}
	if len(got) != len(want) {
		t.Fatalf("orphans %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("orphans %v, want %v", got, want)
		}
	}
}

// The coordinator does not look into packs: a client's cannot reclaim.
func TestPackReclaimsNothing(t *testing.T) {
	s := newScripted(t)
	s.run("begin 1 r")
	s.run("do 1.2 unlinked root:")
	muts := []wire.Mutation{{Kind: wire.MutReclaim, At: wire.At{Dir: wire.Ino(wire.MakeID(1, 2))}}}
	b, err := wire.EncodePack(muts, nil)
	if err != nil {
		t.Fatal(err)
	}
	pack := &wire.Pack{Stage: wire.MakeID(1, 9), Size: int64(len(b)), Sum: 5, Count: 1, Name: "pack"}
	s.view.stages[pack.Stage] = wire.Content{Stage: pack.Stage, Size: pack.Size, Sum: 5}
	s.view.packs[pack.Stage] = b
	lines := s.entry(&wire.Entry{Kind: wire.EntryPrepare, Prepare: &wire.Prepare{Tx: wire.MakeID(1, 10), Config: s.m.config.ID,
		Op: wire.OpID{Session: wire.SessionID{1}, Seq: 1}, Sent: s.now, ServiceTime: s.now, Pack: pack}})
	if len(lines) != 2 || !strings.Contains(lines[1], "reclaims") {
		t.Errorf("a reclaim in a pack: %q", lines)
	}
}

// Where other mounts may have files open, what loses its last name stays, as no
// session's, unless the transaction has made it itself; the vote says so.
func TestKeep(t *testing.T) {
	s := newScripted(t)
	s.run("begin 1 r")
	s.run("do 1.2 write a; write b; write c; link c c2; mkdir d; write e")
	muts := []wire.Mutation{
		{Kind: wire.MutDeleteFile, At: wire.At{Dir: 1, Path: "a"}},
		{Kind: wire.MutRename, At: wire.At{Dir: 1, Path: "c2"}, To: wire.At{Dir: 1, Path: "b"}},
		{Kind: wire.MutDeleteFile, At: wire.At{Dir: 1, Path: "e"}, Hold: true},
		{Kind: wire.MutRmdir, At: wire.At{Dir: 1, Path: "d"}},
		{Kind: wire.MutMknod, At: wire.At{Dir: 1, Path: "own"}},
		{Kind: wire.MutDeleteFile, At: wire.At{Dir: 1, Path: "own"}},
		{Kind: wire.MutDeleteFile, At: wire.At{Dir: 1, Path: "c"}},
	}
	p := &wire.Prepare{Tx: wire.MakeID(1, 20), Config: s.m.config.ID, Op: wire.OpID{Session: wire.SessionID{1}, Seq: 1},
		Sent: s.now, ServiceTime: s.now, Mutations: muts, Keep: true}
	b, body, err := s.m.consider(&wire.Entry{Kind: wire.EntryPrepare, Prepare: p}, wire.Position{Epoch: 1, Index: 99})
	if err != nil {
		t.Fatal(err)
	}
	id := func(n uint64) wire.Ino { return wire.Ino(wire.MakeID(1, n)) }
	touched := body.touched()
	if !slices.Equal(touched.Left, []wire.Ino{id(2), id(3)}) || touched.MoreLeft || !slices.Equal(body.Outcome.Orphans, []wire.Ino{id(7)}) {
		t.Errorf("left %v, held %v", touched.Left, body.Outcome.Orphans)
	}
	if b.inodes[id(6)] != nil || b.inodes[id(24)] != nil || !body.Keeps(id(2)) || body.Keeps(id(24)) {
		t.Error("a directory, or a file of the transaction's own, is kept")
	}
}
