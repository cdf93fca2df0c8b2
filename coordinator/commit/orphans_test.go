package commit

import (
	"slices"
	"testing"

	"tpcfs/wire"
)

var bob = wire.SessionID{2}

// hold submits a request of a session's that leaves an inode without a name.
func (b *bench) hold(s wire.SessionID, link, seq uint64, ino int64) *Request {
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: s, Seq: seq}, Link: link,
		Mutations: []wire.Mutation{{Kind: wire.MutDeleteFile, At: wire.At{Dir: wire.RootIno, Path: "x"}, Hold: true, Size: ino}}}}
	b.m.Submit(r)
	b.run()
	return r
}

// wantReclaims: those inodes' reclaims were put since the last look, in this order.
func (b *bench) wantReclaims(inos ...wire.Ino) {
	b.t.Helper()
	var got []wire.Ino
	for _, e := range b.sent[0] {
		if e.Kind == wire.EntryPrepare && e.Prepare.Mutations[0].Kind == wire.MutReclaim {
			if op := e.Prepare.Op; op.Session != ownSession(b.m.epoch) || len(e.Prepare.Mutations) != 1 || e.Prepare.Lowest > op.Seq {
				b.t.Errorf("a reclaim as %v, lowest %d, of %d mutations", op, e.Prepare.Lowest, len(e.Prepare.Mutations))
			}
			got = append(got, e.Prepare.Mutations[0].At.Dir)
		}
	}
	b.sent[0] = nil
	if !slices.Equal(got, inos) {
		b.t.Errorf("reclaims of %v, want %v", got, inos)
	}
}

func (b *bench) tick(ms int64) {
	b.m.Tick(ms)
	b.run()
}

// What a session has left without a name is reclaimed when it detaches or is
// forgotten, not before, and not what another session holds by then.
func TestOrphans(t *testing.T) {
	b := newBench(t).serve()
	r := b.hold(alice, b.link, 1, 7)
	b.settle()
	b.wantAnswer(r, "committed")
	if got := b.reply(r).Reply.Outcome.Orphans; !slices.Equal(got, []wire.Ino{7}) {
		t.Errorf("the outcome names %v", got)
	}
	b.hold(alice, b.link, 2, 9)
	b.settle()
	b.hold(alice, b.link, 3, 8)
	b.settle()
	link := b.m.Attach(bob).Link
	b.hold(bob, link, 1, 9) // it had got a name, and lost that, too
	b.settle()
	b.wantReclaims()

	b.m.Detach(alice)
	b.settle()
	b.wantReclaims(7, 8)
	b.tick(b.m.o.SessionIdle - b.m.o.StageIdle) // bob has been silent for less
	b.wantReclaims()
	b.tick(b.m.o.SessionIdle)
	b.wantReclaims(9)
	b.settle()
	b.tick(10 * reclaimPause)
	b.settle()
	b.wantReclaims()
	b.wantEqual()
	if o := &b.m.orphans; len(o.holder)+len(o.held)+len(o.due)+len(o.flying) != 0 {
		t.Errorf("not forgotten: %+v", o)
	}
}

// A session that detaches, and is back before its files are reclaimed, keeps them.
func TestOrphansOfWhoIsBack(t *testing.T) {
	b := newBench(t).serve()
	b.hold(alice, b.link, 1, 7)
	b.settle()
	b.breakLink("a")
	b.m.Detach(alice)
	b.tick(1)
	b.attach()
	b.settle()
	b.wantReclaims()
	b.m.Detach(alice)
	b.settle()
	b.wantReclaims(7)
}

// A reclaim that meets a conflict is tried again later; the inode's number is
// what others may be at work on.
func TestReclaimAgain(t *testing.T) {
	b := newBench(t).serve()
	b.hold(alice, b.link, 1, 7)
	b.settle()
	b.m.Detach(alice)
	link := b.m.Attach(bob).Link
	b.sent[0] = nil
	b.m.Submit(&Request{Transact: wire.Transact{Op: wire.OpID{Session: bob, Seq: 1}, Link: link,
		Mutations: []wire.Mutation{{Kind: wire.MutSetattr, At: wire.At{Dir: 7}}}}})
	b.run()
	b.handle("a", "b", "c") // it is prepared
	b.tick(1)
	b.all("a", "b", "c")
	b.wantReclaims(7)
	if len(b.m.orphans.due) != 1 {
		t.Fatalf("after a conflict: %+v", b.m.orphans)
	}
	b.tick(reclaimPause - 1)
	b.wantReclaims()
	b.tick(1)
	b.wantReclaims(7)
	b.settle()
	b.tick(reclaimPause)
	b.wantReclaims()
}

// A new coordinator asks what there is, page by page; a session that comes
// back in time keeps what it holds.
func TestOrphansAfterRestart(t *testing.T) {
	b := newBench(t).serve()
	if len(b.lists) != 1 || b.lists[0].Kind != wire.ReadOrphans || b.lists[0].Offset != 0 {
		t.Fatalf("it asks for %+v", b.lists)
	}
	entry := func(ino wire.Ino) wire.DirEntry { return wire.DirEntry{Attr: wire.Attr{Ino: ino}} }
	b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{entry(5), entry(6)}, Holders: []wire.SessionID{alice, bob}, More: true})
	b.run()
	if len(b.lists) != 2 || b.lists[1].Offset != 6 {
		t.Fatalf("it goes on with %+v", b.lists)
	}
	b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{entry(8)}, Holders: []wire.SessionID{bob}})
	b.sent[0] = nil
	for range 9 { // alice is there, bob does not come
		b.tick(b.m.o.SessionIdle / 10)
		b.m.touch(alice)
	}
	b.settle()
	b.wantReclaims()
	b.tick(b.m.o.SessionIdle / 10)
	b.settle()
	b.wantReclaims(6, 8)
	b.m.Detach(alice)
	b.tick(1)
	b.wantReclaims(5)
}

// Who detaches before a new coordinator has heard what it holds is waited for no
// more than anybody else who detaches; who has come back since is.
func TestOrphansOfWhoLeftDuringTheList(t *testing.T) {
	b := newBench(t).serve()
	entry := func(ino wire.Ino) wire.DirEntry { return wire.DirEntry{Attr: wire.Attr{Ino: ino}} }
	carol := wire.SessionID{3}
	b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{entry(5)}, Holders: []wire.SessionID{alice}, More: true})
	b.sent[0] = nil
	b.m.Detach(alice)
	b.m.Detach(bob)
	b.m.Attach(bob)
	b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{entry(6), entry(7), entry(8)}, Holders: []wire.SessionID{alice, bob, carol}, More: true})
	b.tick(1)
	b.wantReclaims(5, 6)
	b.settle()
	b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{entry(9)}, Holders: []wire.SessionID{alice}})
	b.tick(1)
	b.wantReclaims(9)
	b.settle()
	if b.m.orphans.left != nil {
		t.Error("it is still remembered who has left")
	}
	b.m.Detach(carol)
	b.tick(1)
	b.wantReclaims(8)
	if b.m.orphans.left != nil {
		t.Error("it is remembered who leaves, and nobody will ask")
	}
}

// Who has detached and come back is away as others are when it is forgotten to
// make room.
func TestOrphansOfWhoIsBackAndForgotten(t *testing.T) {
	b := newBench(t)
	b.opts.MaxSessions = 2
	b.start()
	b.serve()
	b.m.Detach(bob)
	b.m.Attach(bob)
	b.tick(1)
	b.m.touch(alice)
	b.m.Attach(wire.SessionID{3})
	if b.m.sessions[bob] != nil {
		t.Fatal("it is not forgotten")
	}
	b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{{Attr: wire.Attr{Ino: 5}}}, Holders: []wire.SessionID{bob}})
	b.tick(b.m.o.SessionIdle - 1)
	b.wantReclaims()
	b.tick(1)
	b.wantReclaims(5)
}

// Who leaves while the list is not there yet costs no more than the bound.
func TestWhoLeavesIsBounded(t *testing.T) {
	b := newBench(t)
	b.opts.MaxSessions = 100
	b.start()
	for i := range 1000 {
		b.m.Detach(wire.SessionID{7, byte(i), byte(i >> 8)})
	}
	if n := len(b.m.orphans.left); n != 100 {
		t.Errorf("%d are remembered", n)
	}
}

// reclaim submits a session's own reclaim.
func (b *bench) reclaim(s wire.SessionID, link, seq uint64, mutations ...wire.Mutation) *Request {
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: s, Seq: seq}, Link: link, Mutations: mutations}}
	b.m.Submit(r)
	b.run()
	return r
}

// Clients reclaim nothing but what their session holds, one at a time.
func TestReclaimRefused(t *testing.T) {
	b := newBench(t).serve()
	other := b.m.Attach(bob).Link
	b.hold(alice, b.link, 1, 7)
	b.settle()
	b.hold(alice, b.link, 2, 8)
	b.settle()
	of := func(ino wire.Ino, path string) wire.Mutation {
		return wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: ino, Path: path}}
	}
	b.wantAnswer(b.reclaim(bob, other, 1, of(7, "")), "operation not permitted")
	b.wantAnswer(b.reclaim(alice, b.link, 3, of(9, "")), "operation not permitted")
	b.wantAnswer(b.reclaim(alice, b.link, 4, of(7, "x")), "operation not permitted")
	b.wantAnswer(b.reclaim(alice, b.link, 5, of(7, ""), of(8, "")), "operation not permitted")
	b.wantAnswer(b.reclaim(alice, b.link, 6, wire.Mutation{Kind: wire.MutMkdir, At: wire.At{Dir: 1, Path: "d"}}, of(8, "")), "operation not permitted")
	if b.m.Unnamed() != 2 {
		t.Errorf("%d are known", b.m.Unnamed())
	}
}

// What a session has reclaimed itself is not reclaimed again when it ends, and
// is forgotten; a reclaim that fails changes nothing.
func TestReclaimOfItsSession(t *testing.T) {
	b := newBench(t).serve()
	other := b.m.Attach(bob).Link
	b.hold(alice, b.link, 1, 7)
	b.settle()
	b.hold(alice, b.link, 2, 8)
	b.settle()
	b.sent[0] = nil
	again := b.reclaim(alice, b.link, 3, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: 7}})
	if b.m.Unnamed() != 2 {
		t.Error("it is forgotten before it is decided")
	}
	b.settle()
	if again.tx == nil || b.m.Unnamed() != 1 {
		t.Errorf("%d are known", b.m.Unnamed())
	}
	b.hold(bob, other, 1, 9)
	b.settle()
	b.reclaim(bob, other, 2, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: 9}})
	b.settle()
	if b.m.orphans.held[bob] != nil {
		t.Error("a session that holds nothing any more is kept as one that does")
	}
	b.sent[0] = nil
	b.m.Detach(alice)
	b.settle()
	b.wantReclaims(8)
	b.settle()
	if o := &b.m.orphans; len(o.holder)+len(o.held)+len(o.due)+len(o.flying) != 0 {
		t.Errorf("not forgotten: %+v", o)
	}
}
