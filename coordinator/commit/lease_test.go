package commit

import (
	"slices"
	"testing"

	"tpcfs/wire"
)

var dave = wire.SessionID{9}

// mount is a session that watches.
type mount struct {
	b    *bench
	id   wire.SessionID
	link uint64
	last wire.Watched
	w    *Watch
}

func (b *bench) mount(id wire.SessionID) *mount {
	return &mount{b: b, id: id, link: b.m.Attach(id).Link}
}

// rest is settle in no time.
func (b *bench) rest() {
	b.t.Helper()
	b.run()
	for range 5 {
		b.sync()
		for _, f := range b.fakes {
			if !f.alive {
				b.greet(f.name)
			}
			b.all(f.name)
		}
	}
}

// ask asks, with what was told last forgotten.
func (mo *mount) ask() { mo.askKnowing(0) }

// askKnowing is ask of a session that has had the answers to its requests below
// the lowest, but for the lost ones.
func (mo *mount) askKnowing(lowest uint64, lost ...uint64) {
	mo.w = &Watch{Watch: wire.Watch{Session: mo.id, Link: mo.link, Epoch: mo.last.Epoch, Number: mo.last.Number, Wait: wire.WatchEvery, Lowest: lowest, Lost: lost}}
	mo.b.m.Ask(mo.w, 0)
	mo.b.run()
}

// told returns the answer to the last ask; nil: there is none yet.
func (mo *mount) told() *wire.Watched {
	mo.b.t.Helper()
	for _, w := range mo.b.watched {
		if w.Watch != mo.w {
			continue
		}
		if w.Err != nil {
			mo.b.t.Fatalf("%v: %v", mo.id, w.Err)
		}
		mo.last = w.Watched
		return &mo.last
	}
	return nil
}

// begin gets a lease and asks on.
func (mo *mount) begin() *mount {
	mo.b.t.Helper()
	mo.ask()
	mo.b.sync()
	if got := mo.told(); got == nil || !got.Touched.Wide {
		mo.b.t.Fatalf("a lease begins with %+v: everything is to be forgotten", got)
	}
	mo.ask()
	for _, other := range mo.b.mounts { // who was alone hears that it is not
		heard := slices.ContainsFunc(mo.b.watched, func(w Watched) bool {
			return w.Watch == other.w && w.Err == nil && !w.Watched.Alone && len(w.Watched.Touched.Names)+len(w.Watched.Unnamed) == 0
		})
		if heard {
			other.told()
			other.ask()
		}
	}
	mo.b.mounts = append(mo.b.mounts, mo)
	return mo
}

func (mo *mount) wants(names ...string) {
	mo.b.t.Helper()
	got := mo.told()
	if got == nil {
		mo.b.t.Fatalf("%v was told nothing, want %v", mo.id, names)
	}
	var list []string
	for _, at := range got.Touched.Names {
		list = append(list, at.Path)
	}
	if got.Touched.Wide || !slices.Equal(list, names) {
		mo.b.t.Fatalf("%v was told %+v, want %v", mo.id, got.Touched, names)
	}
}

// Nobody hears that a change is done before every other mount has forgotten
// what it knew of it; the mount that made it is not waited for (F9).
func TestLease(t *testing.T) {
	b := newBench(t).serve()
	d, a := b.mount(dave).begin(), &mount{b: b, id: alice, link: b.link}
	a.begin()
	r := b.submit(1, "x")
	b.rest()
	b.wantAnswer(r, "")
	if a.told() != nil && a.last.Number > 1 {
		t.Error("a mount was told at once of its own change")
	}
	d.wants("x")
	b.wantAnswer(r, "")
	d.ask()
	b.wantAnswer(r, "committed")
	if got := b.reply(r).Reply.Touched; got == nil || len(got.Names) != 1 {
		t.Errorf("the reply tells %+v", got)
	}
	b.tick(wire.WatchEvery)
	a.wants("x") // of its own in time: its caller may have given up
	if d.told() == nil || len(d.last.Touched.Names) != 0 {
		t.Errorf("told twice: %+v", d.last)
	}
}

// A mount is not told of its own changes, whose answers it has or will have, but
// of those that turn out to be lost, until it has heard.
func TestLeaseOwnChanges(t *testing.T) {
	b := newBench(t).serve()
	a := &mount{b: b, id: alice, link: b.link}
	a.begin()
	tick := func() {
		b.rest()
		b.tick(wire.WatchEvery)
	}
	b.submit(1, "x")
	b.submit(2, "y")
	b.submit(3, "z")
	tick()
	a.wants("x", "y", "z") // of what it knows it has said nothing
	a.askKnowing(4)
	b.submit(4, "u")
	b.submit(5, "v")
	b.submit(6, "w")
	tick()
	a.wants()
	a.askKnowing(7, 5)
	a.wants("v") // at once
	a.last.Number--
	a.askKnowing(7, 5) // the answer was lost
	tick()
	a.wants("v")
	a.askKnowing(7, 5)
	tick()
	a.wants()
	a.askKnowing(7, 5, 7)
	b.submit(7, "late")
	b.rest()
	a.wants("late")
	a.askKnowing(8, 5, 7)
	tick()
	a.wants()
	for i := range maxPushes + 10 {
		b.m.push(alice, uint64(i+8), &wire.Touched{Inos: []wire.Ino{wire.Ino(i + 2)}})
	}
	a.askKnowing(8)
	tick()
	if got := a.told(); got == nil || !got.Touched.Wide {
		t.Errorf("more of its own than is kept, and told %+v", got)
	}
	a.askKnowing(1e6)
	tick()
	a.wants()
	a.last = wire.Watched{}
	b.m.Ask(&Watch{Watch: wire.Watch{Session: alice, Link: a.link, Lost: make([]uint64, wire.MaxLost+1)}}, 0)
	b.run()
	if got := b.watched[len(b.watched)-1]; wire.CodeOf(got.Err) != wire.CodeProtocol {
		t.Errorf("too many lost ones, and %v", got.Err)
	}
}

// A mount whose change is not answered yet, or whose answer is on its way, hears of it with
// another's that goes on from it: once that one is done, nothing may be as it was before both.
func TestLeaseOwnChangeThatAnotherMeets(t *testing.T) {
	b := newBench(t).serve()
	a := &mount{b: b, id: alice, link: b.link}
	a.begin()
	d := b.mount(dave).begin()
	a.askKnowing(1)
	first, other := b.submit(1, "w", "x"), b.submit(2, "v")
	second := b.submit(3, "x", "y")
	b.rest()
	d.wants("w", "x", "v")
	b.wantAnswer(second, "conflict")
	second = b.submit(4, "x", "y")
	b.rest()
	s := &Request{Transact: wire.Transact{Op: wire.OpID{Session: dave, Seq: 1}, Link: d.link, Mutations: writeTo("y", "z")}}
	b.m.Submit(s)
	b.rest()
	for _, r := range []*Request{first, other, second, s} {
		b.wantAnswer(r, "")
	}
	a.wants("y", "z", "x", "w")
	a.last.Number--
	a.askKnowing(1) // the answer was lost
	b.tick(wire.WatchEvery)
	a.wants("y", "z", "x", "w")
	a.askKnowing(1)
	b.wantAnswer(s, "committed")
	b.tick(wire.WatchEvery)
	a.wants()
}

// The answer to a mount's own change tells it to forget what others have changed that this
// went on from: it may not have heard of that.
func TestLeaseOwnChangeOfAnothers(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	b.submit(1, "w", "x")
	b.rest()
	b.submit(2, "x", "v")
	b.rest()
	b.submit(3, "u")
	b.rest()
	mine := func(seq uint64, want ...string) {
		t.Helper()
		s := &Request{Transact: wire.Transact{Op: wire.OpID{Session: dave, Seq: seq}, Link: d.link, Mutations: writeTo("v", "y")}}
		b.m.Submit(s)
		b.rest()
		b.wantAnswer(s, "committed")
		var got []string
		touched := b.reply(s).Reply.Touched
		if touched == nil {
			got = []string{"everything"}
		} else {
			for _, at := range touched.Names {
				got = append(got, at.Path)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("the answer to its own change tells it to forget %v, want %v", got, want)
		}
	}
	mine(1, "v", "y", "x", "w")
	d.told()
	d.ask()
	b.tick(wire.WatchEvery)
	d.told()
	d.ask()
	mine(2, "v", "y")
	b.start()
	b.rest()
	d.link = b.m.Attach(dave).Link
	mine(3, "everything")
}

// A mount is told that it is alone, and at once when it is no more; also those
// that an earlier reign knew count.
func TestLeaseAlone(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave)
	is := func(m *mount, alone bool) {
		t.Helper()
		if got := m.told(); got == nil || got.Alone != alone {
			t.Fatalf("%v was told %+v, want alone %v", m.id, got, alone)
		}
		m.ask()
	}
	d.ask()
	b.sync()
	is(d, true)
	e := b.mount(wire.SessionID{8})
	e.ask()
	is(d, false) // before the other has anything
	b.sync()
	is(e, false)
	b.m.Detach(dave)
	b.run()
	b.sync()
	b.tick(wire.WatchEvery)
	is(e, true)
	b.start()
	b.rest()
	e.link = b.m.Attach(e.id).Link
	e.ask()
	b.sync()
	is(e, true)
	b.mount(dave).begin()
	is(e, false)
	b.start()
	b.rest()
	e.link = b.m.Attach(e.id).Link
	e.ask()
	b.sync()
	is(e, false) // the other may have its lease still
	b.tick(leaseHeld)
	e.ask()
	b.sync()
	b.tick(wire.WatchEvery)
	is(e, true)
}

// The lease of a mount that says nothing runs out, no sooner than it may trust it.
func TestLeaseRunsOut(t *testing.T) {
	b := newBench(t).serve()
	b.mount(dave).begin()
	b.tick(100)
	r := b.submit(1, "x")
	b.rest()
	b.tick(wire.Lease - 100)
	b.wantAnswer(r, "")
	b.tick(leaseHeld - wire.Lease)
	b.wantAnswer(r, "committed")
	again := b.mount(dave)
	again.ask()
	b.sync()
	if got := again.told(); got == nil || !got.Touched.Wide {
		t.Errorf("a lease that had run out goes on: %+v", got)
	}
	r = b.submit(2, "y")
	b.rest()
	b.wantAnswer(r, "")
	again.ask()
	again.wants("y")
	again.ask()
	b.wantAnswer(r, "committed")
}

// A Watch that the owner comes to late counts from when it came.
func TestLeaseCountsFromItsCall(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	w := &Watch{Watch: wire.Watch{Session: dave, Link: d.link, Epoch: d.last.Epoch, Number: d.last.Number}}
	b.m.Ask(w, 3000)
	b.run()
	r := b.submit(1, "x")
	b.rest()
	b.tick(3000)
	b.tick(wire.Lease)
	b.wantAnswer(r, "")
}

// A lease begins when the journal knows of it, and not before.
func TestLeaseIsJournaledFirst(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave)
	d.ask()
	if d.told() != nil {
		t.Fatal("a lease that a crash would forget")
	}
	r := b.submit(1, "x") // who has no lease yet keeps nobody waiting
	b.all("a", "b", "c")
	b.wantAnswer(r, "committed")
	b.sync()
	if d.told() == nil {
		t.Fatal("no lease")
	}
}

// After a restart those who had a lease keep it, whatever has become of them,
// and the retry of a change waits for them; one that is back and has forgotten
// everything is waited for no more (F10).
func TestLeaseOverRestart(t *testing.T) {
	for _, back := range []bool{false, true} {
		b := newBench(t).serve()
		d := b.mount(dave).begin()
		r := b.submit(1, "x")
		b.rest()
		d.wants("x")
		b.wantAnswer(r, "")
		b.sync()
		b.start()
		b.rest()
		b.attach()
		again := b.submit(1, "x")
		b.rest()
		b.wantAnswer(again, "")
		if back {
			d.link = b.m.Attach(dave).Link
			d.ask()
			b.sync()
			if got := d.told(); got == nil || !got.Touched.Wide {
				t.Fatalf("after a restart it goes on with what it knew: %+v", got)
			}
			b.wantAnswer(again, "")
			d.ask()
		} else {
			b.tick(leaseHeld - 1)
			b.wantAnswer(again, "")
			b.tick(1)
		}
		b.wantAnswer(again, "committed")
	}
}

// A session that detaches is waited for no more, after a restart either.
func TestLeaseDetached(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	r := b.submit(1, "x")
	b.rest()
	b.wantAnswer(r, "")
	d.wants("x")
	b.m.Detach(dave)
	b.run()
	b.wantAnswer(r, "committed")
	b.sync()
	b.start()
	b.rest()
	b.attach()
	r = b.submit(2, "y")
	b.rest()
	b.wantAnswer(r, "committed")
}

// A retry of a change that is done waits as its first attempt does.
func TestLeaseRetry(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	r := b.submit(1, "x")
	b.rest()
	b.m.Cancel(r)
	b.run()
	b.wantAnswer(r, "outcome unknown")
	again := b.submit(1, "x")
	b.rest()
	b.wantAnswer(again, "")
	d.wants("x")
	d.ask()
	b.wantAnswer(again, "committed")
}

// What is held back is answered when its wait is over, and when all ends.
func TestLeaseAndWaits(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 1}, Link: b.link, Wait: 500, Mutations: writeTo("x")}}
	b.m.Submit(r)
	b.rest()
	b.tick(500)
	b.wantAnswer(r, "outcome unknown")
	d.wants("x")
	d.ask()
	r = b.submit(2, "y")
	b.rest()
	d.wants("y")
	d.ask()
	b.wantAnswer(r, "committed")
	r = b.submit(3, "z")
	b.rest()
	b.m.Halt(wire.NewError(wire.CodeIO, "the end"))
	b.run()
	b.wantAnswer(r, "outcome unknown")
}

// Who is far behind forgets everything; the list of what was changed is bounded.
func TestLeaseFarBehind(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	b.submit(1, "first")
	b.rest()
	d.wants("first")
	for i := range maxPushes + 10 {
		b.m.push(alice, 0, &wire.Touched{Inos: []wire.Ino{wire.Ino(i + 2)}})
	}
	if n := len(b.m.leases.pushes); n > maxPushes {
		t.Errorf("%d pushes are kept", n)
	}
	d.last.Number = 1 // the answer was lost
	d.ask()
	if got := d.told(); got == nil || !got.Touched.Wide {
		t.Errorf("told %+v", got)
	}
}

// A session that never says that it has forgotten keeps nobody waiting for
// longer than a lease; others than those that fit get none.
func TestLeaseHostile(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	r := b.submit(1, "x")
	b.rest()
	for range 3 * leaseHeld / 500 {
		d.last = wire.Watched{}
		d.ask()
		b.tick(500)
	}
	b.wantAnswer(r, "committed")
	for i := range maxLeases + 1 {
		b.mount(wire.SessionID{7, byte(i), byte(i >> 8)}).ask()
	}
	if got := b.watched[len(b.watched)-1]; got.Err == nil || got.Err.Code != wire.CodeTooMany {
		t.Errorf("one lease too many: %+v", got)
	}
}

// A session whose lease has run out gets another one. A Watch that knows the old
// one's number only has not had the first answer of the new one: neither has it
// forgotten anything, nor said what it has open.
func TestLeaseAgain(t *testing.T) {
	b := newBench(t).serve()
	d := b.mount(dave).begin()
	old := d.last.Number
	b.tick(leaseHeld)
	b.remove(alice, b.link, 1, 7)
	b.rest()
	d.ask()
	b.sync()
	if got := d.told(); got == nil || !got.Touched.Wide || !slices.Equal(got.Unnamed, inos{7}) || got.Number <= old {
		t.Fatalf("after number %d the new lease begins with %+v", old, got)
	}
	d.last.Number = old // the answer is lost with the link
	d.link = b.m.Attach(dave).Link
	d.ask()
	var refused *wire.Error
	for _, w := range b.watched {
		if w.Watch == d.w {
			refused = w.Err
		}
	}
	if refused == nil || refused.Code != wire.CodeBusy {
		t.Errorf("it is told %v", refused)
	}
	b.tick(1)
	b.wantReclaims()
	b.tick(leaseHeld) // the lease runs out, and the next one begins in the same way
	d.ask()
	b.sync()
	d.wantAsked(inos{7}, inos{7})
	b.tick(1)
	b.wantReclaims()
}
