package commit

import (
	"strings"
	"testing"

	"tpcfs/wire"
)

// edit is an operator's wish.
func (b *bench) edit(kind wire.MembersKind, force bool, to string, names ...string) *Edit {
	b.t.Helper()
	b.edits = true
	b.asks++
	e := &Edit{Request: wire.MembersRequest{Kind: kind, Names: names, Force: force, ID: wire.UUID{0xe, b.asks}, By: "root@here", Reason: "because"}}
	e.Request.New.Name, e.Request.New.Addr, _ = strings.Cut(to, "=")
	b.m.Edit(e)
	b.run()
	return e
}

// heard is what an operator was told: "", "done", or the code in words.
func (b *bench) heard(e *Edit) (got, text string) {
	for _, r := range b.edited {
		switch {
		case r.Edit != e:
		case r.Err != nil:
			got, text = r.Err.Code.String(), r.Err.Text
		default:
			got, text = "done", r.Reply.What
		}
	}
	return got, text
}

func (b *bench) wantHeard(e *Edit, want, word string) {
	b.t.Helper()
	got, text := b.heard(e)
	if got != want || !strings.Contains(text, word) {
		b.t.Fatalf("the operator heard %q (%s), want %q with %q", got, text, want, word)
	}
}

// wipe leaves a participant an empty disk.
func (b *bench) wipe(names ...string) {
	for _, n := range names {
		b.breakLink(n)
		b.disks++
		b.fake(n).wiped(wire.UUID{b.disks})
		b.fake(n).up = true
	}
}

// Two of three lose their disks at once: nothing goes on by itself. An operator
// declares them lost: what the third holds is the truth, nothing acknowledged is
// missing, and they get all of it.
func TestTwoLost(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		b := newEvicting(t)
		r := b.submit(1, "x")
		b.all("a", "b", "c")
		b.wantAnswer(r, "committed")
		under := b.submit(2, "y")
		b.all("a", "b")
		b.wipe("b", "c")
		if restarted {
			b.sync()
			b.start()
		}
		b.settle()
		if b.m.Writable() || restarted && b.m.Phase() != Greeting {
			t.Fatal("it goes on by itself")
		}
		b.wantHeard(b.edit(wire.MembersLost, true, "", "a", "b", "c"), "invalid argument", "")
		if !restarted {
			b.wantHeard(b.edit(wire.MembersLost, false, "", "b", "c"), "invalid argument", "1 of 3 participants would be left")
		}
		e := b.edit(wire.MembersLost, true, "", "b", "c")
		b.wantHeard(e, "", "")
		b.sync()
		b.all("a")
		b.wantHeard(e, "done", "b, c were declared lost; in sync: a")
		b.settle()
		if got := b.inSync(); got != "a,b,c" {
			t.Errorf("in sync: %s", got)
		}
		b.attach()
		again := b.submit(3, "z")
		b.settle()
		b.wantAnswer(again, "committed")
		if !restarted {
			b.wantAnswer(under, "committed") // all that were left had prepared it
		}
		b.settle()
		b.wantEqual()
		if edits := b.m.state.Config.Edits; len(edits) != 1 || edits[0].By != "root@here" || !edits[0].Forced || edits[0].Reason != "because" {
			t.Errorf("recorded: %+v", edits)
		}
	}
}

// An operator's word is one about those that it names: who else does not answer
// is waited for. Without an answer of somebody who has everything nothing begins.
func TestLostWaitsForTheRest(t *testing.T) {
	b := newEvicting(t)
	b.sync()
	b.start()
	e := b.edit(wire.MembersLost, true, "", "b")
	b.settleOnly("a")
	b.wantHeard(e, "", "")
	if b.m.Phase() != Greeting {
		t.Fatal("it begins without c")
	}
	b.greet("c")
	b.sync()
	b.all("a", "c")
	b.wantHeard(e, "done", "in sync: a, c")

	b.sync()
	b.start()
	b.edit(wire.MembersLost, true, "", "a")
	b.waitOut()
	b.waitOut()
	if b.m.Phase() != Greeting {
		t.Fatal("it begins with nobody")
	}
	e = b.edit(wire.MembersLost, true, "", "c")
	b.wantHeard(e, "invalid argument", "no participant that is in sync would be left")
}

// settleOnly greets those alone and lets time pass.
func (b *bench) settleOnly(names ...string) {
	b.greet(names...)
	b.waitOut()
	b.waitOut()
}

// The decision is durable here, and at who is left, before anything is decided
// by it; a coordinator that dies before knows nothing of it.
func TestLostIsForced(t *testing.T) {
	b := newEvicting(t)
	r := b.submit(1, "x")
	b.all("a")
	b.wipe("b", "c")
	e := b.edit(wire.MembersLost, true, "", "b", "c")
	b.all("a")
	b.wantHeard(e, "", "")
	b.wantAnswer(r, "")
	b.start() // the config is lost
	b.settleOnly("a")
	if b.m.Phase() != Greeting || b.inSync() != "a,b,c" {
		t.Fatalf("phase %d, in sync %s", b.m.Phase(), b.inSync())
	}
	e = b.edit(wire.MembersLost, true, "", "b", "c")
	b.sync()
	b.handle("a")
	b.deliver("a")
	b.wantHeard(e, "", "")
	b.start() // it is durable here, not at a
	b.settle()
	if got := b.inSync(); got != "a,b,c" {
		t.Errorf("in sync: %s", got)
	}
	b.wantEqual()
}

// A member that is evicted while another one is on its way out: the operator's word
// is that neither is waited for.
func TestLostWhileOneLeaves(t *testing.T) {
	b := newEvicting(t)
	b.breakLink("c")
	b.waitOut()
	b.sync() // b has not handled the config without c
	b.all("a")
	b.wipe("b")
	b.greet("b")
	b.settle()
	if b.m.Writable() {
		t.Fatal("it goes on by itself")
	}
	e := b.edit(wire.MembersLost, true, "", "b")
	b.settle()
	b.wantHeard(e, "done", "")
	if got := b.inSync(); got != "a,b,c" {
		t.Errorf("in sync: %s", got)
	}
	b.wantEqual()
}

// A participant is replaced by another one, under its own name or another: the new
// one gets everything, the old one is told that it is out for good.
func TestReplace(t *testing.T) {
	for _, to := range []string{"d=d:1", "b=b:2"} {
		b := newEvicting(t)
		r := b.submit(1, "x")
		b.all("a", "b", "c")
		b.wantAnswer(r, "committed")
		b.settle()
		old := b.fake("b")
		e := b.edit(wire.MembersReplace, false, to, "b")
		under := b.submit(2, "y")
		b.wantHeard(e, "", "")
		if b.m.MayGreet(1) {
			t.Error("who is on its way out is greeted")
		}
		b.sync()
		b.all("a")
		b.wantHeard(e, "", "")
		b.all("c")
		b.wantHeard(e, "done", "b was replaced by "+to[:1])
		if u := b.m.Untold(); len(u) != 1 || u[0].Storage != old.storage {
			t.Errorf("to be told: %+v", u)
		}
		b.settle()
		b.wantAnswer(under, "committed")
		b.wantEqual()
		if got := b.inSync(); got != strings.Join([]string{"a", to[:1], "c"}, ",") || b.fakes[1] == old {
			t.Errorf("in sync: %s", got)
		}
		b.m.Told(old.storage)
		b.settle()
		b.start()
		b.settle()
		c := b.m.state.Config
		if len(b.m.Untold()) != 0 || len(c.Removed) != 1 || !c.Removed[0].Told || len(c.Configured) != 3 || c.Configured[1].Addr != to[2:] {
			t.Errorf("%+v", c)
		}
		b.wantEqual()
	}
}

// One is taken out, and another added: numbers of participants move at the next
// start only.
func TestRemoveAndAdd(t *testing.T) {
	b := newEvicting(t)
	b.m.o.Majority = true
	b.opts.Majority = true
	e := b.edit(wire.MembersRemove, false, "", "a")
	b.sync()
	b.all("b", "c")
	b.wantHeard(e, "done", "a was removed; in sync: b, c")
	if b.m.size() != 2 || b.m.minInSync() != 2 || len(b.m.Status().Members) != 2 {
		t.Fatalf("%d participants, %d have to stay", b.m.size(), b.m.minInSync())
	}
	r := b.submit(1, "x")
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantHeard(b.edit(wire.MembersRemove, false, "", "b"), "invalid argument", "1 of 2 participants would be left")
	e = b.edit(wire.MembersAdd, false, "d=d:1")
	if b.m.MayGreet(0) {
		t.Error("d is greeted before the config is in force")
	}
	b.settle()
	b.wantHeard(e, "done", "d (d:1) was added")
	if got := b.inSync(); got != "d,b,c" {
		t.Errorf("in sync: %s", got)
	}
	e = b.edit(wire.MembersAdd, false, "e=e:1")
	b.settle()
	b.wantHeard(e, "done", "e (e:1) was added")
	r = b.submit(2, "y")
	b.settle()
	b.wantAnswer(r, "committed")
	e = b.edit(wire.MembersRemove, true, "", "b")
	b.settle()
	b.wantHeard(e, "done", "")
	b.start()
	b.serve()
	b.wantEqual()
	if got := b.inSync(); got != "d,c,e" || len(b.fakes) != 3 {
		t.Errorf("in sync: %s", got)
	}
}

// An eviction that comes while a change is under way brings both.
func TestEvictionCarriesEdits(t *testing.T) {
	b := newEvicting(t, "a", "b", "c", "d", "e")
	e := b.edit(wire.MembersReplace, false, "f=f:1", "b")
	b.sync()
	b.all("a")
	b.breakLink("c")
	b.waitOut()
	b.sync()
	b.all("a", "d", "e")
	b.wantHeard(e, "done", "")
	if got := b.inSync(); got != "a,d,e" {
		t.Fatalf("in sync: %s", got)
	}
	if c := b.m.state.Config; c.Configured[1].Name != "f" || len(c.Edits) != 1 || len(c.Removed) != 1 {
		t.Fatalf("%+v", c)
	}
	b.settle()
	b.wantEqual()
}

func TestEditsThatAreRefused(t *testing.T) {
	b := newEvicting(t)
	b.settle()
	for _, tc := range []struct {
		kind  wire.MembersKind
		to    string
		names []string
		want  string
	}{
		{wire.MembersAdd, "a=x:1", nil, "a is a participant already"},
		{wire.MembersAdd, "d=b:1", nil, "b:1 is the address of participant b"},
		{wire.MembersReplace, "a=x:1", []string{"b"}, "a is a participant already"},
		{wire.MembersRemove, "", []string{"x"}, "there is no participant x: there are a, b, c"},
		{wire.MembersLost, "", []string{"b"}, "is there and has its data"},
		{wire.MembersLost, "", []string{"b", "b"}, ""},
	} {
		e := b.edit(tc.kind, true, tc.to, tc.names...)
		if got, text := b.heard(e); got == "" || got == "done" || !strings.Contains(text, tc.want) {
			t.Errorf("%v %s %v: %s %s", tc.kind, tc.to, tc.names, got, text)
		}
	}
	b.evicts("b", "a", "c")
	b.wantHeard(b.edit(wire.MembersLost, true, "", "b"), "invalid argument", "out of sync already")
	b.wantHeard(b.edit(wire.MembersRemove, false, "", "c"), "invalid argument", "1 of 3 participants would be left")
	b.m.o.Majority = true
	b.wantHeard(b.edit(wire.MembersAdd, false, "d=d:1"), "invalid argument", "of 4 participants 3 have to be in sync, and 2 are")
	b.m.o.Majority, b.m.o.MinInSync = false, 3
	b.wantHeard(b.edit(wire.MembersRemove, false, "", "b"), "invalid argument", "--min-in-sync 3")
}

// An edit that cannot be done yet waits, and says for whom when its time is over;
// a repeated request is known by its number.
func TestEditsWait(t *testing.T) {
	b := newEvicting(t)
	b.breakLink("b")
	e := b.edit(wire.MembersRemove, true, "", "c")
	b.wantHeard(e, "", "")
	e.deadline = b.m.now + 100
	b.m.Tick(100)
	b.run()
	b.wantHeard(e, "unavailable", "waits for participant b")
	e = b.edit(wire.MembersRemove, true, "", "c")
	b.m.CancelEdit(e)
	b.run()
	b.wantHeard(e, "canceled", "nothing has changed")
	b.greet("b")
	e = b.edit(wire.MembersRemove, true, "", "c")
	e.deadline = b.m.now + 100
	b.m.Tick(100)
	b.run()
	b.wantHeard(e, "outcome unknown", "waits for a, b")
	again := &Edit{Request: e.Request}
	b.m.Edit(again)
	b.run()
	b.wantHeard(again, "", "")
	b.sync()
	b.all("a", "b")
	b.wantHeard(again, "done", "c was removed")
	third := &Edit{Request: e.Request}
	b.m.Edit(third)
	b.run()
	b.wantHeard(third, "done", "c was removed")
	if n := len(b.m.state.Config.Edits); n != 1 {
		t.Errorf("%d edits", n)
	}
	e = b.edit(wire.MembersRemove, true, "", "b")
	b.m.Halt(wire.NewError(wire.CodeIO, "ends"))
	b.run()
	b.wantHeard(e, "outcome unknown", "")
}

// P8: of an address the one counts that was told last, by flag or by operator.
func TestFlagsAndEdits(t *testing.T) {
	b := newEvicting(t)
	e := b.edit(wire.MembersReplace, false, "b=b:2", "b")
	b.settle()
	b.wantHeard(e, "done", "")
	e = b.edit(wire.MembersReplace, false, "d=d:1", "c")
	b.settle()
	b.wantHeard(e, "done", "")
	b.sync()
	b.start() // with the flags of the beginning
	if got := b.m.members[1].addr; got != "b:2" {
		t.Errorf("b is at %s", got)
	}
	text := strings.Join(b.m.Notices(), "; ")
	for _, want := range []string{"b=b:1 is older", "participant c: it was removed", "does not name d"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
	b.opts.Peers[1].Addr = "b:3"
	b.opts.Peers = append(b.opts.Peers[:2], Peer{"e", "e:1"})
	if err := b.tryStart(); err == nil || !strings.Contains(err.Error(), "members add") {
		t.Errorf("one that nobody knows: %v", err)
	}
	b.opts.Peers = b.opts.Peers[:2]
	b.fake("b").addr = "b:3"
	b.start()
	if got := b.m.members[1].addr; got != "b:3" {
		t.Errorf("b is at %s", got)
	}
	b.serve()
	b.wantEqual()
}

// A greeting that was on its way when its participant was replaced is none of its
// successor's, nor a reason to find fault with it.
func TestGreetingOfOneWhoGoes(t *testing.T) {
	b := newEvicting(t)
	b.evicts("b", "a", "c")
	g, err := b.fake("b").greet(b.m.Greet(1))
	if err != nil {
		t.Fatal(err)
	}
	e := b.edit(wire.MembersReplace, false, "d=d:1", "b")
	if link, err := b.m.Greeted(1, g); link != 0 || err == nil || err.Code != wire.CodeUnavailable {
		t.Errorf("on its way out: link %d, %v", link, err)
	}
	b.sync()
	b.all("a", "c")
	b.wantHeard(e, "done", "")
	if link, err := b.m.Greeted(1, g); link != 0 || err == nil || err.Code != wire.CodeUnavailable {
		t.Errorf("out: link %d, %v", link, err)
	}
	b.settle()
	b.wantEqual()
}

// One that is declared lost, and is there after all before the service begins, stays.
func TestLostIsThere(t *testing.T) {
	b := newEvicting(t)
	b.sync()
	b.start()
	b.greet("a")
	e := b.edit(wire.MembersLost, true, "", "b")
	b.greet("b")
	b.greet("c")
	if got := b.inSync(); b.m.Phase() != Configuring || got != "a,b,c" {
		t.Errorf("phase %d, in sync: %s", b.m.Phase(), got)
	}
	b.settle()
	b.wantHeard(e, "invalid argument", "is there and has its data")
	b.wantEqual()
}

// One that is added, and turns out to be another cluster's, says nothing of this one: it
// is refused, and nothing ends, now or at the next start (P14).
func TestAddedIsAnothers(t *testing.T) {
	b := newEvicting(t)
	e := b.edit(wire.MembersAdd, true, "d=d:1")
	b.sync()
	b.all("a", "b", "c")
	b.wantHeard(e, "done", "")
	d := b.fake("d")
	d.add(frec{kind: fEpoch, epoch: wire.Epoch{Number: 99, Run: wire.UUID{99}}})
	d.synced = 1
	for range 2 {
		b.settle()
		if b.stop != nil || b.m.Phase() != Serving {
			t.Fatalf("phase %d, stopped: %v", b.m.Phase(), b.stop)
		}
		if why := b.m.Members()[b.index("d")].Unfit; why == nil || !strings.Contains(why.Text, "members remove d") {
			t.Errorf("refused: %v", why)
		}
		b.sync()
		b.start()
	}
	b.settle()
	d.add(frec{kind: fConfig, config: &wire.Config{ID: wire.ConfigID{Epoch: 99, Counter: 1}, Cluster: wire.UUID{9}}})
	g := wire.Greeting{Storage: d.storage, Config: d.s.config, Held: d.s.fence, Resync: "out of sync"}
	if link, err := b.m.Greeted(b.index("d"), g); link != 0 || err == nil || b.m.Stopped() != nil {
		t.Errorf("link %d, %v; stopped: %v", link, err, b.m.Stopped())
	}
	e = b.edit(wire.MembersRemove, false, "", "d")
	b.settle()
	b.wantHeard(e, "done", "")
	if len(b.m.Untold()) != 0 {
		t.Errorf("to be told: %+v", b.m.Untold())
	}
	b.sync()
	b.opts.Peers = append(b.opts.Peers, Peer{"d", "d:1"})
	b.start() // it is known to be removed
	if text := strings.Join(b.m.Notices(), "; "); !strings.Contains(text, "participant d: it was removed") {
		t.Errorf("notices: %s", text)
	}
}

// P8: a name that was taken away and given to another one, elsewhere: the flag that
// told the old address tells nothing new.
func TestFlagsOutliveRemoval(t *testing.T) {
	steps := func(b *bench, to string, restart, bare bool) {
		b.wantDone(b.edit(wire.MembersRemove, false, "", "c"))
		if restart {
			if bare {
				b.opts.Peers = nil
			}
			b.sync()
			b.start()
			b.serve()
		}
		if to == "" {
			b.wantDone(b.edit(wire.MembersAdd, true, "c=c:2"))
			return
		}
		b.wantDone(b.edit(wire.MembersAdd, true, "d=d:1"))
		b.wantDone(b.edit(wire.MembersReplace, true, "c=c:2", "d"))
	}
	for _, to := range []string{"", "d"} {
		for _, restart := range []bool{false, true} {
			for _, bare := range []bool{false, true} {
				b := newEvicting(t)
				peers := b.opts.Peers
				steps(b, to, restart, bare)
				b.opts.Peers = peers
				b.sync()
				b.start() // with the flags of the beginning
				if mem := b.m.members[b.m.find("c")]; mem.addr != "c:2" || mem.flag != "c:1" || len(b.m.Notices()) != 1 {
					t.Errorf("replaced %q, restarted %v without flags %v: c is at %s, flag %s; %q", to, restart, bare, mem.addr, mem.flag, b.m.Notices())
				}
				b.serve()
				b.wantEqual()
			}
		}
	}
}

func (b *bench) wantDone(e *Edit) {
	b.t.Helper()
	b.settle()
	b.wantHeard(e, "done", "")
}

// Who knows that it was removed is forgotten before who does not.
func TestRemovedAreManyMore(t *testing.T) {
	m := &Machine{}
	for i := range wire.MaxRemoved + 2 {
		if i == wire.MaxRemoved {
			m.removed[7].Told = true
		}
		m.remember(&member{name: "p", storage: wire.UUID{byte(i + 1)}})
	}
	if len(m.removed) != wire.MaxRemoved || m.removed[0].Member.Storage != (wire.UUID{2}) || m.removed[6].Member.Storage != (wire.UUID{9}) {
		t.Errorf("%d, first %v, seventh %v", len(m.removed), m.removed[0].Member.Storage, m.removed[6].Member.Storage)
	}
}

// However many were removed since, and are forgotten, the list of peers of the beginning
// is one to start with where it is the process's own (tpcfs up).
func TestForgottenPeersAreLeftOut(t *testing.T) {
	b := newEvicting(t)
	b.wantDone(b.edit(wire.MembersRemove, false, "", "b"))
	c := b.m.state.Config
	if len(c.Removed) != 1 || c.Removed[0].Member.Name != "b" {
		t.Fatalf("removed: %+v", c.Removed)
	}
	s := b.m.state
	known := *c
	known.Removed = nil // as after wire.MaxRemoved more
	s.Config = &known
	s.Epoch = wire.Epoch{Number: 9}
	o := b.opts
	o.State, o.Exact, o.Cluster = s, true, s.Config.Cluster
	m, err := New(o)
	if err != nil {
		t.Fatalf("it does not start any more: %v", err)
	}
	if len(m.members) != 2 || m.find("b") >= 0 {
		t.Errorf("members: %+v", m.Members())
	}
}

// A start counts with what it brings, not with words that it refuses: who was not to be
// lost after all takes nobody along, and the rule of starts holds (P8, P14).
func TestStartCountsWhatItBrings(t *testing.T) {
	b := newEvicting(t, "a", "b", "c", "d", "e")
	b.sync()
	b.start()
	for _, n := range []string{"b", "c", "d", "e"} {
		b.fake(n).up = false
	}
	e := b.edit(wire.MembersLost, true, "", "b", "c", "d", "e")
	b.greet("b")
	b.wantHeard(e, "invalid argument", "b is there and has its data")
	b.greet("a")
	if b.m.Phase() != Greeting {
		t.Fatalf("it begins with %s, of whom three were never heard of", b.inSync())
	}
	b.wantDone(b.edit(wire.MembersLost, true, "", "c", "d", "e"))

	b = newEvicting(t)
	b.opts.MinInSync, b.opts.Majority = 1, false // all three have to answer before one goes
	b.sync()
	b.start()
	b.fake("c").up = false
	e = b.edit(wire.MembersLost, true, "", "b", "c")
	b.greet("b", "a")
	b.wantHeard(e, "invalid argument", "b is there and has its data")
	b.settle()
	if b.m.Phase() != Greeting {
		t.Fatalf("it begins with %s: nobody has said that c knows no newer config", b.inSync())
	}
}

// Edits of one start that cannot both be.
func TestStartOfTwoEdits(t *testing.T) {
	for _, tc := range []struct {
		kind        wire.MembersKind
		to1, to2    string
		name2, want string
	}{
		{wire.MembersReplace, "x=x:1", "x=x:2", "c", "x (x:1) is just being added"},
		{wire.MembersReplace, "x=x:1", "y=x:1", "c", "x (x:1) is just being added"},
		{wire.MembersReplace, "x=x:1", "y=y:1", "b", "b is just being added or removed"},
		{wire.MembersLost, "x=x:1", "", "b", "b is just being added or removed"},
		{wire.MembersReplace, "x=x:1", "y=y:1", "c", ""},
	} {
		b := newEvicting(t, "a", "b", "c", "d", "e")
		b.sync()
		b.start()
		b.fake("b").up, b.fake("c").up = false, false
		e1 := b.edit(wire.MembersReplace, true, tc.to1, "b")
		e2 := b.edit(tc.kind, true, tc.to2, tc.name2)
		if got, text := b.heard(e2); tc.want != "" && (got == "" || !strings.Contains(text, tc.want)) {
			t.Errorf("%v %s %s: heard %q %q, want %q", tc.kind, tc.to2, tc.name2, got, text, tc.want)
		}
		if tc.want != "" && tc.name2 == "c" {
			b.fake("c").up = true // its word was refused: it is waited for
			b.greet("c")
		}
		b.greet("a", "d", "e")
		b.waitOut() // where nobody named c, it is evicted
		out := "a,d,e"
		if tc.want != "" && tc.name2 == "c" {
			out = "a,c,d,e"
		}
		if got := strings.Join(b.m.state.Config.InSync, ","); b.m.Phase() != Configuring || got != out {
			t.Errorf("phase %d, in sync: %s", b.m.Phase(), got)
		}
		for _, d := range b.m.state.Config.Edits {
			if want := "in sync: " + strings.ReplaceAll(out, ",", ", "); !strings.HasSuffix(d.What, want) {
				t.Errorf("recorded %q, want %q", d.What, want)
			}
		}
		b.settle()
		b.wantHeard(e1, "done", "b was replaced by x")
	}
}

// One who is on its way out by an operator's word is none of those that stay: nobody
// else is evicted because it is there (P14).
func TestDeclaredDoesNotStay(t *testing.T) {
	b := newEvicting(t, "a", "b", "c", "d")
	b.sync()
	b.start()
	b.fake("c").up = false
	e := b.edit(wire.MembersRemove, true, "", "d")
	b.greet("d", "a", "b")
	b.waitOut()
	if b.m.Phase() != Greeting {
		t.Fatalf("phase %d: c is evicted, though nobody named it, and %s stay", b.m.Phase(), b.m.state.Config.InSync)
	}
	b.greet("c")
	b.settle()
	b.wantHeard(e, "done", "d was removed; in sync: a, b, c")

	b = newEvicting(t, "a", "b", "c", "d", "e") // three of five stay: c goes as well
	b.sync()
	b.start()
	b.fake("c").up, b.fake("d").up = false, false
	e = b.edit(wire.MembersRemove, true, "", "d")
	b.greet("a", "b", "e")
	b.waitOut()
	b.settle()
	b.wantHeard(e, "done", "d was removed; in sync: a, b, e")
}

// A disk that is lost while the service begins, with another one on its way out.
func TestLostWhileConfiguring(t *testing.T) {
	b := newEvicting(t)
	r := b.submit(1, "x")
	b.all("a", "b", "c")
	b.wantAnswer(r, "committed")
	b.sync()
	b.start()
	b.fake("c").up = false
	b.greet("a", "b")
	b.waitOut()
	b.sync()
	b.all("a")
	b.wipe("b")
	b.greet("b")
	if b.m.Phase() != Configuring {
		t.Fatalf("phase %d", b.m.Phase())
	}
	other := b.edit(wire.MembersAdd, true, "d=d:1")
	b.wantHeard(other, "", "")
	e := b.edit(wire.MembersLost, true, "", "b")
	b.wantHeard(e, "", "")
	b.sync()
	b.all("a")
	b.wantHeard(e, "done", "b was declared lost; in sync: a")
	b.fake("c").up = true
	b.settle()
	b.wantHeard(other, "done", "d (d:1) was added")
	if got := b.inSync(); got != "a,b,c,d" {
		t.Errorf("in sync: %s", got)
	}
	b.wantEqual()
}

// A request that comes again while the first one waits: the second hears the outcome.
func TestEditTwice(t *testing.T) {
	b := newEvicting(t)
	b.breakLink("b")
	e := b.edit(wire.MembersRemove, true, "", "c")
	b.wantHeard(e, "", "")
	again := &Edit{Request: e.Request}
	b.m.Edit(again)
	b.run()
	b.wantHeard(e, "replaced by a newer link of the session", "has come again")
	b.m.CancelEdit(e) // its caller goes
	b.run()
	b.greet("b")
	third := &Edit{Request: e.Request}
	b.m.Edit(third) // on its way
	b.run()
	b.wantHeard(again, "replaced by a newer link of the session", "has come again")
	b.sync()
	b.all("a", "b")
	b.wantHeard(third, "done", "c was removed")
	if n := len(b.edited); n != 3 || len(b.m.edits) != 0 || len(b.m.state.Config.Edits) != 1 {
		t.Errorf("%d answers, %d wait, %d recorded", n, len(b.m.edits), len(b.m.state.Config.Edits))
	}
}

// A request that comes again is answered when what it asked for is in force: not before,
// and not because something else is under way.
func TestEditAgain(t *testing.T) {
	b := newEvicting(t)
	e := b.edit(wire.MembersReplace, false, "d=d:1", "b")
	b.sync() // durable here alone
	b.start()
	again := &Edit{Request: e.Request}
	b.m.Edit(again)
	b.run()
	b.wantHeard(again, "", "")
	b.greet("a", "c")
	b.waitOut()
	b.wantHeard(again, "", "")
	b.sync()
	b.all("a", "c")
	b.wantHeard(again, "done", "b was replaced by d")

	b.breakLink("c") // an eviction is under way
	third := &Edit{Request: e.Request}
	b.greet("d")
	for range 100 {
		if b.m.change != nil && b.m.change.admits >= 0 {
			break
		}
		b.greet("c")
		b.all("a", "c")
		b.rejoin(b.index("d"))
		b.m.Tick(50)
		b.run()
	}
	if b.m.change == nil {
		t.Fatal("nobody is let in")
	}
	b.m.Edit(third)
	b.run()
	b.wantHeard(third, "done", "b was replaced by d")
	b.settle()
	b.wantEqual()
}

// At a start that is stuck an operator hears at once what it takes, and whom it waits for.
func TestEditsAtAStuckStart(t *testing.T) {
	b := newEvicting(t)
	b.wipe("b", "c")
	b.sync()
	b.start()
	b.settle()
	if d := b.m.Degraded(); !strings.Contains(d, "--lost b,c --force") {
		t.Errorf("degraded: %s", d)
	}
	b.wantHeard(b.edit(wire.MembersLost, false, "", "b", "c"), "invalid argument", "--force does it all the same")
	b.wantHeard(b.edit(wire.MembersLost, false, "", "b", "c", "a"), "invalid argument", "a is there")
	e := b.edit(wire.MembersLost, false, "", "b")
	e.deadline = b.m.now + 100
	b.m.Tick(200)
	b.run()
	b.wantHeard(e, "unavailable", "the service to begin; that waits for b, c")
	e = b.edit(wire.MembersLost, true, "", "b")
	e.deadline = b.m.now + 100
	b.m.Tick(200)
	b.run()
	b.wantHeard(e, "unavailable", "participant c, without which nobody knows everything")
}
