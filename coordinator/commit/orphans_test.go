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
	if o := &b.m.orphans; len(o.inodes)+len(o.held)+len(o.due)+len(o.flying) != 0 {
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

// A session that has ended, and is back while another one holds its files too, is
// their last holder when that one ends: they go with it, not never.
func TestOrphansOfWhoIsBackAndLast(t *testing.T) {
	b := newBench(t).serve()
	other := b.m.Attach(bob).Link
	b.hold(alice, b.link, 1, 7)
	b.settle()
	b.hold(bob, other, 1, 7)
	b.settle()
	b.sent[0] = nil
	b.m.Detach(alice)
	b.tick(1)
	b.attach()
	b.m.Detach(bob)
	b.tick(1)
	b.settle()
	b.wantReclaims()
	b.m.Detach(alice)
	b.tick(1)
	b.wantReclaims(7)
	b.settle()
	if o := &b.m.orphans; len(o.inodes)+len(o.held)+len(o.due)+len(o.flying) != 0 {
		t.Errorf("not forgotten: %+v", o)
	}
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
	b.wantReclaims(6, 5)
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
	if o := &b.m.orphans; len(o.inodes)+len(o.held)+len(o.due)+len(o.flying) != 0 {
		t.Errorf("not forgotten: %+v", o)
	}
}

// remove submits a change that leaves an inode without a name, if that is kept.
func (b *bench) remove(s wire.SessionID, link, seq uint64, ino int64) *Request {
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: s, Seq: seq}, Link: link,
		Mutations: []wire.Mutation{{Kind: wire.MutDeleteFile, At: wire.At{Dir: wire.RootIno, Path: "y"}, Size: ino}}}}
	b.m.Submit(r)
	b.rest()
	return r
}

// wantAsked: the mount is asked about those, and answers what it holds.
func (mo *mount) wantAsked(inos, holds []wire.Ino) {
	mo.b.t.Helper()
	got := mo.told()
	if got == nil || !slices.Equal(got.Unnamed, inos) {
		mo.b.t.Fatalf("%v is asked about %+v, want %v", mo.id, got, inos)
	}
	mo.w = &Watch{Watch: wire.Watch{Session: mo.id, Link: mo.link, Epoch: mo.last.Epoch, Number: mo.last.Number, Wait: wire.WatchEvery, Holds: holds}}
	mo.b.m.Ask(mo.w, 0)
	mo.b.run()
}

type inos = []wire.Ino

// What another session takes the last name of stays while a mount has it open,
// and while that is not known.
func TestHeldByOthers(t *testing.T) {
	b := newBench(t).serve()
	r := b.remove(alice, b.link, 1, 5) // no mount is there: nothing is kept
	b.wantAnswer(r, "committed")
	if got := b.reply(r).Reply; !got.Alone {
		t.Errorf("alone, and told %+v", got)
	}
	d := b.mount(dave).begin()
	e := b.mount(wire.SessionID{8}).begin()
	b.sent[0] = nil
	r = b.remove(alice, b.link, 2, 7)
	b.wantAnswer(r, "") // not before the mounts have heard, as any change
	e.wantAsked(inos{7}, nil)
	d.wantAsked(inos{7}, inos{7})
	b.wantAnswer(r, "committed")
	if got := b.reply(r).Reply; got.Alone {
		t.Errorf("mounts are there, and told %+v", got)
	}
	b.remove(alice, b.link, 3, 8)
	d.link = b.m.Attach(d.id).Link // the answer is lost with the link
	d.ask()
	d.wantAsked(inos{8}, nil)
	b.tick(1)
	b.wantReclaims()
	e.wantAsked(inos{8}, nil)
	b.tick(1)
	b.wantReclaims(8)
	b.rest()

	for e.told() != nil { // of the reclaim, and what d was told beside it
		e.ask()
	}
	b.hold(d.id, d.link, 1, 9) // d has it open, and asks that it is held; e has it too
	b.rest()
	e.wantAsked(inos{9}, inos{9})
	b.sent[0] = nil
	if r := b.reclaim(d.id, d.link, 2, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: 9}}); b.reply(r).Err == nil || b.reply(r).Err.Code != wire.CodeBusy {
		t.Errorf("a reclaim of what others hold: %+v", b.reply(r))
	}
	b.reclaim(d.id, d.link, 3, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: 7}})
	b.rest()
	b.wantReclaimsOfClients(7)
	b.m.Detach(e.id)
	b.tick(1)
	b.wantReclaims(9)
	b.rest()
	if n := b.m.Unnamed(); n != 0 {
		t.Errorf("%d are known", n)
	}
}

// wantReclaimsOfClients: those were put since the last look, as clients asked.
func (b *bench) wantReclaimsOfClients(want ...wire.Ino) {
	b.t.Helper()
	var got []wire.Ino
	for _, e := range b.sent[0] {
		if e.Kind == wire.EntryPrepare && e.Prepare.Mutations[0].Kind == wire.MutReclaim {
			got = append(got, e.Prepare.Mutations[0].At.Dir)
		}
	}
	b.sent[0] = nil
	if !slices.Equal(got, want) {
		b.t.Errorf("clients' reclaims of %v, want %v", got, want)
	}
}

// A mount that is away may have files open: it is asked when it is back, and
// waited for until its session is forgotten, over a restart too.
func TestHeldByWhoIsAway(t *testing.T) {
	for _, c := range []string{"back", "forgotten", "restarted, back", "restarted, forgotten", "detached"} {
		b := newBench(t).serve()
		d := b.mount(dave).begin()
		b.tick(leaseHeld)
		r := b.remove(alice, b.link, 1, 7)
		b.wantAnswer(r, "committed")
		b.sent[0] = nil
		restarted := c == "restarted, back" || c == "restarted, forgotten"
		if restarted {
			b.sync()
			b.start()
			b.rest()
			b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{{Attr: wire.Attr{Ino: 7}}}, Holders: []wire.SessionID{{}}})
			b.sent[0] = nil
		}
		for range 9 {
			b.tick(b.m.o.WatcherIdle / 10)
			b.wantReclaims()
		}
		switch c {
		case "back", "restarted, back":
			d.link = b.m.Attach(dave).Link
			d.ask()
			b.sync()
			b.run()
			if got := d.told(); got == nil || !got.Touched.Wide || !slices.Equal(got.Unnamed, inos{7}) {
				t.Fatalf("%s: told %+v", c, got)
			}
			d.wantAsked(inos{7}, inos{7})
			b.tick(wire.WatchEvery)
			b.wantReclaims()
			b.m.Detach(dave)
		case "detached":
			b.m.Detach(dave)
		default:
			b.tick(b.m.o.WatcherIdle / 10)
		}
		b.tick(1)
		b.wantReclaims(7)
		b.rest()
		if n := len(b.m.orphans.asked) + len(b.m.state.Leases) + b.m.orphans.asking; n != 0 {
			t.Errorf("%s: not forgotten: %+v, %v", c, b.m.orphans, b.m.state.Leases)
		}
	}
}

// A mount asks every second. One that does not is dead, or stands still: what it
// holds goes a minute later, over a restart too; not before, not if it is back in
// time, and not what a client without a lease holds, or a mount that asks.
func TestHeldByWhoDied(t *testing.T) {
	for _, c := range []string{"forgotten", "back", "back at the end", "restarted, forgotten", "restarted, back"} {
		b := newBench(t).serve()
		dead, lives := b.mount(dave).begin(), b.mount(bob).begin()
		ask := func(mo *mount) {
			for mo.told() != nil {
				mo.ask()
			}
			b.sync()
		}
		for _, h := range []struct {
			id   wire.SessionID
			link uint64
			ino  int64
		}{{alice, b.link, 7}, {dave, dead.link, 8}, {bob, lives.link, 9}} {
			b.hold(h.id, h.link, 1, h.ino)
			b.rest()
		}
		if n := b.m.Unnamed(); n != 3 {
			t.Fatalf("%d files are without a name", n)
		}
		dead.told()
		dead.w = &Watch{Watch: wire.Watch{Session: dave, Link: dead.link, Epoch: dead.last.Epoch, Number: dead.last.Number}}
		b.m.Ask(dead.w, 0) // it has none of the others open
		b.run()
		for range 4 {
			ask(lives)
		}
		b.sent[0] = nil
		if c == "restarted, forgotten" || c == "restarted, back" {
			b.sync()
			b.start()
			b.rest()
			entry := func(ino wire.Ino) wire.DirEntry { return wire.DirEntry{Attr: wire.Attr{Ino: ino}} }
			b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{entry(7), entry(8), entry(9)}, Holders: []wire.SessionID{alice, dave, bob}})
			lives.link = b.m.Attach(bob).Link
			b.link = b.m.Attach(alice).Link
			lives.ask()
			b.sent[0] = nil
		}
		pass := func(ms int64) {
			for ; ms > 0; ms -= wire.WatchEvery {
				b.tick(min(ms, wire.WatchEvery))
				ask(lives)
			}
		}
		pass(b.m.o.WatcherIdle - 1)
		b.wantReclaims()
		switch c {
		case "back", "restarted, back":
			dead.link = b.m.Attach(dave).Link
			dead.ask()
			b.sync()
			pass(b.m.o.WatcherIdle - 1)
			b.wantReclaims()
		case "back at the end": // forgotten, and back before the reclaim is put
			b.m.Tick(1)
			b.m.Attach(dave)
			b.run()
			pass(b.m.o.WatcherIdle - 1)
			b.wantReclaims()
		}
		pass(2)
		b.rest()
		pass(2)
		if got := b.m.Unnamed(); c != "back at the end" && got != 2 {
			t.Errorf("%s: %d files without a name are known, want alice's and bob's: %+v", c, got, b.m.orphans.inodes)
		}
		b.sent[0] = nil
		pass(b.m.o.SessionIdle)
		b.rest()
		pass(2)
		if got := b.m.orphans.inodes; len(got) != 1 || got[9] == nil {
			t.Errorf("%s: in the end %+v is known, want the file that a mount holds which asks", c, got)
		}
	}
}

// A mount that was forgotten has its questions forgotten too. If it is back before
// the file goes, because another one holds it or writes wait, it is asked anew.
func TestForgottenIsAskedAnew(t *testing.T) {
	for _, c := range []string{"another holds it", "writes wait", "the other's reclaim waits", "its reclaim is put"} {
		b := newBench(t).serve()
		d := b.mount(dave).begin()
		b.tick(leaseHeld)
		if c == "another holds it" || c == "the other's reclaim waits" {
			b.hold(alice, b.link, 1, 7)
			b.rest()
		} else {
			b.remove(alice, b.link, 1, 7)
			b.breakLink("a")
		}
		b.sent[0] = nil
		b.tick(b.m.o.WatcherIdle)
		b.wantReclaims()
		if b.m.sessions[dave] != nil || b.m.orphans.asking != 0 {
			t.Fatalf("%s: it is not forgotten", c)
		}
		switch c {
		case "the other's reclaim waits":
			b.breakLink("a")
			b.reclaim(alice, b.link, 2, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: 7}})
		case "its reclaim is put":
			b.rest()
			b.wantReclaims(7)
			if n := b.m.Unnamed(); n != 0 {
				t.Errorf("%s: %d are known", c, n)
			}
			continue
		}
		d.link = b.m.Attach(dave).Link
		d.ask()
		b.rest()
		d.wantAsked(inos{7}, inos{7})
		if c == "another holds it" {
			b.reclaim(alice, b.link, 2, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: 7}})
		}
		b.rest()
		b.tick(reclaimPause)
		b.rest()
		b.wantReclaimsOfClients()
		b.m.Detach(dave)
		b.tick(1)
		b.wantReclaims(7)
		b.rest()
		if n := b.m.Unnamed() + b.m.orphans.asking; n != 0 {
			t.Errorf("%s: not forgotten: %+v", c, b.m.orphans)
		}
	}
}

// A question outlasts a reclaim that was put before it: when the file, which had
// got a name, loses it again, all who are asked then are waited for.
func TestAskedDuringItsReclaim(t *testing.T) {
	b := newBench(t).serve()
	e := b.mount(bob).begin()
	b.hold(alice, b.link, 1, 7)
	b.rest()
	e.wantAsked(inos{7}, nil)
	b.sent[0] = nil
	b.m.Detach(alice)
	b.tick(1)
	b.wantReclaims(7)
	d := b.mount(dave)
	d.ask()
	b.rest()
	for e.told() != nil {
		e.ask()
	}
	if got := d.told(); got == nil || !slices.Equal(got.Unnamed, inos{7}) {
		t.Fatalf("told %+v", got)
	}
	b.attach()
	b.remove(alice, b.link, 2, 7)
	d.wantAsked(inos{7}, nil)
	d.wantAsked(inos{7}, nil)
	b.tick(1)
	b.wantReclaims()
	e.wantAsked(inos{7}, inos{7})
	b.tick(1)
	b.wantReclaims()
	b.m.Detach(bob)
	b.tick(1)
	b.wantReclaims(7)
	b.rest()
	if n := b.m.Unnamed() + b.m.orphans.asking; n != 0 {
		t.Errorf("not forgotten: %+v", b.m.orphans)
	}
}

// A lease begins when what was put before it is decided: that may take files
// that the mount would open.
func TestLeaseWaitsForWhatKeepsNothing(t *testing.T) {
	b := newBench(t).serve()
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 1}, Link: b.link,
		Mutations: []wire.Mutation{{Kind: wire.MutDeleteFile, At: wire.At{Dir: wire.RootIno, Path: "y"}, Size: 7}}}}
	b.m.Submit(r)
	b.run()
	d := b.mount(dave)
	d.ask()
	b.sync()
	if d.told() != nil {
		t.Error("it may open what is about to go")
	}
	b.rest()
	b.wantAnswer(r, "committed")
	if d.told() == nil {
		t.Error("no lease")
	}
}

// Who is away is not waited for without end: neither for as many files as may
// be, nor as many sessions.
func TestAskedIsBounded(t *testing.T) {
	b := newBench(t).serve()
	b.mount(dave).begin()
	b.tick(leaseHeld)
	for i := range maxAsked {
		b.m.ask(alice, wire.Ino(i+10))
	}
	if len(b.m.orphans.asked) != 1 || len(b.m.orphans.due) != 0 {
		t.Fatal("it is not waited for")
	}
	b.m.ask(alice, 5)
	if len(b.m.orphans.asked) != 0 || b.m.orphans.asking != 0 || len(b.m.orphans.due) != maxAsked+1 {
		t.Errorf("beyond the bound: %d sessions are asked %d times", len(b.m.orphans.asked), b.m.orphans.asking)
	}
	for i := range byte(3) { // who is back is asked about all, and bounded all the same when it is away again
		b.mount(wire.SessionID{70 + i}).ask()
		if i == 1 {
			if n := b.m.orphans.asking; n != 2*(maxAsked+1) {
				t.Errorf("two who are back are asked %d times", n)
			}
			b.tick(leaseHeld)
		}
	}
	if n := len(b.m.orphans.asked); n != 1 || b.m.orphans.asking != maxAsked+1 {
		t.Errorf("beyond the bound, and away again: %d sessions are asked %d times", n, b.m.orphans.asking)
	}
	b.m.endAsking(wire.SessionID{72})
	b.m.orphans.due, b.m.orphans.inodes = nil, nil
	d := b.mount(dave).begin() // who has a lease is asked all the same, and nobody who is away pays for it
	other := b.mount(wire.SessionID{8}).begin()
	b.tick(leaseHeld / 2)
	d.ask()
	b.tick(leaseHeld / 2) // the other one's has run out
	for i := range maxAsked {
		b.m.ask(alice, wire.Ino(i+10))
	}
	if b.m.orphans.asked[dave] == nil || b.m.orphans.asked[other.id] == nil || b.m.orphans.asking != 2*maxAsked {
		t.Fatalf("%d sessions are asked %d times", len(b.m.orphans.asked), b.m.orphans.asking)
	}
	b.m.ask(alice, 5)
	if b.m.orphans.asked[dave] == nil || b.m.orphans.asked[other.id] != nil {
		t.Errorf("beyond the bound: %d sessions are asked %d times", len(b.m.orphans.asked), b.m.orphans.asking)
	}
	b.m.endAsking(dave)
	b.m.orphans.due, b.m.orphans.inodes = nil, nil
	for i := range maxLeases + 1 {
		mo := b.mount(wire.SessionID{7, byte(i), byte(i >> 8)})
		mo.ask()
		b.sync()
		b.m.endLease(mo.id)
	}
	if n := len(b.m.orphans.asked); n != maxLeases || len(b.m.state.Leases) != maxLeases {
		t.Errorf("%d sessions are asked", n)
	}
}

// More than a vote can tell is read from a participant; that asks everybody.
func TestMoreIsLeftThanTold(t *testing.T) {
	b := newBench(t).serve()
	b.m.Orphans(wire.ReadReply{})
	d := b.mount(dave).begin()
	lists := len(b.lists)
	b.remove(alice, b.link, 1, -1)
	if len(b.lists) != lists+1 || b.lists[lists].Offset != 0 {
		t.Fatalf("lists %+v", b.lists)
	}
	b.remove(alice, b.link, 2, -1) // while one is on its way
	if len(b.lists) != lists+1 {
		t.Fatalf("lists %+v", b.lists)
	}
	b.m.Orphans(wire.ReadReply{Entries: []wire.DirEntry{{Attr: wire.Attr{Ino: 7}}}, Holders: []wire.SessionID{{}}})
	b.run()
	if len(b.lists) != lists+2 {
		t.Fatalf("lists %+v", b.lists)
	}
	d.told()
	d.ask()
	d.wantAsked(inos{7}, nil)
	b.tick(1)
	b.wantReclaims(7)
}

// A file that gets its first name (O_TMPFILE, then a link) is held by nobody any
// more: when others take that name it goes as any other.
func TestNamedIsHeldByNobody(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	e := b.mount(wire.SessionID{8}).begin()
	b.hold(d.id, d.link, 1, 9)
	b.rest()
	e.wantAsked(inos{9}, nil)
	if n := b.m.Unnamed(); n != 1 {
		t.Fatalf("%d are known", n)
	}
	b.reclaim(d.id, d.link, 2, wire.Mutation{Kind: wire.MutLink, At: wire.At{Dir: 9}, To: wire.At{Dir: wire.RootIno, Path: "name"}})
	b.rest()
	if n := b.m.Unnamed(); n != 0 {
		t.Errorf("it has a name, and %d are held", n)
	}
	for e.told() != nil {
		e.ask()
	}
	b.sent[0] = nil
	b.remove(alice, b.link, 1, 9)
	e.wantAsked(inos{9}, nil)
	d.wantAsked(inos{9}, nil)
	b.tick(1)
	b.wantReclaims(9)
}
