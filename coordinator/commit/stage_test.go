package commit

import (
	"slices"
	"testing"

	"tpcfs/wire"
)

func (b *bench) stage(ok bool) wire.ID {
	b.t.Helper()
	id, err := b.m.BeginStage(alice, b.link)
	if err != nil {
		b.t.Fatal(err)
	}
	b.m.EndStage(id, ok)
	b.run()
	return id
}

func (b *bench) submitStaged(seq uint64, name string, id wire.ID) *Request {
	muts := writeTo(name)
	muts[0].Content.Stage = id
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: seq}, Link: b.link, Mutations: muts}}
	b.m.Submit(r)
	b.run()
	return r
}

func (b *bench) wantUnstaged(ids ...wire.ID) {
	b.t.Helper()
	slices.Sort(b.unstage)
	if !slices.Equal(b.unstage, ids) {
		b.t.Errorf("dropped %v, want %v", b.unstage, ids)
	}
}

// A staged object lives until a prepare consumes it; what nobody will consume
// is dropped.
func TestStages(t *testing.T) {
	b := newBench(t).serve()
	failed := b.stage(false)
	b.wantUnstaged(failed)
	b.unstage = nil

	used := b.stage(true)
	r := b.submitStaged(1, "x", used)
	b.settle()
	b.wantAnswer(r, "committed")
	b.m.Detach(alice)
	b.run()
	b.wantUnstaged()

	b.attach()
	left := b.stage(true)
	b.m.Detach(alice)
	b.run()
	b.wantUnstaged(left)
	b.unstage = nil

	b.attach()
	old := b.stage(true)
	b.m.Tick(b.m.o.StageIdle - 1)
	b.run()
	b.wantUnstaged()
	b.m.Tick(1)
	b.run()
	b.wantUnstaged(old)
	b.unstage = nil

	// Also of a session that goes on, as a mount does with its lease.
	old = b.stage(true)
	for range b.m.o.StageIdle / 1000 {
		b.wantUnstaged()
		b.m.touch(alice)
		b.m.Tick(1000)
		b.run()
	}
	b.wantUnstaged(old)
	b.unstage = nil

	// Refused by all: at once. By some: when the ABORT is durable everywhere.
	s1 := b.stage(true)
	b.submit(10, "y")
	b.submitStaged(11, "y", s1)
	b.settle()
	b.wantUnstaged(s1)
	b.unstage = nil
	s2 := b.stage(true)
	r = b.submitStaged(12, "no-a", s2)
	b.all("a", "b", "c")
	b.all("a", "b")
	b.wantUnstaged()
	b.all("c")
	b.wantUnstaged(s2)
	b.wantAnswer(r, "no space left")
}

func TestStagesOfOthers(t *testing.T) {
	b := newBench(t).serve()
	s := b.stage(true)
	open, err := b.m.BeginStage(alice, b.link)
	if err != nil {
		t.Fatal(err)
	}
	r := b.submitStaged(1, "x", open)
	b.wantAnswer(r, "staged contents are gone")
	bob := wire.SessionID{2}
	link := b.m.Attach(bob).Link
	muts := writeTo("x")
	muts[0].Content.Stage = s
	r = &Request{Transact: wire.Transact{Op: wire.OpID{Session: bob, Seq: 1}, Link: link, Mutations: muts}}
	b.m.Submit(r)
	b.run()
	b.wantAnswer(r, "staged contents are gone")
	if _, err := b.m.BeginStage(bob, b.link); err == nil || err.Code != wire.CodeReplaced {
		t.Errorf("by another's link: %v", err)
	}
	// One that is not known goes to the participants: it may be a retry of
	// what they have done in an earlier epoch (G5).
	r = b.submitStaged(2, "z", wire.MakeID(1, 1000))
	b.settle()
	b.wantAnswer(r, "committed")

	// A stage that ends after its session is dropped.
	b.unstage = nil
	b.m.Detach(alice)
	b.unstage = nil
	b.attach() // the same client, anew
	b.m.EndStage(open, true)
	b.m.EndStage(open, true)
	b.run()
	if n := b.m.sessions[alice].busy; n != 0 {
		t.Errorf("the new session has %d stages under way", n)
	}
	b.wantUnstaged(s, open)
	b.breakLink("c")
	b.attach()
	if _, err := b.m.BeginStage(alice, b.link); err == nil || err.Code != wire.CodeUnavailable {
		t.Errorf("without c: %v", err)
	}
}

// A member that is away, or whose answer is lost, is asked by its next link for
// all that it has not said to have dropped, and for nothing else.
func TestStagesToDropAreKept(t *testing.T) {
	b := newBench(t).serve()
	asked := func(name string) (ids []wire.ID) {
		for _, u := range b.asked {
			if u.Member == b.index(name) {
				ids = append(ids, u.IDs...)
			}
		}
		return ids
	}
	want := func(name string, ids ...wire.ID) {
		t.Helper()
		if got := asked(name); !slices.Equal(got, ids) {
			t.Errorf("%s was asked to drop %v, want %v", name, got, ids)
		}
	}
	first := b.stage(false)
	second, err := b.m.BeginStage(alice, b.link)
	if err != nil {
		t.Fatal(err)
	}
	b.breakLink("b") // in the middle of it
	b.m.EndStage(second, false)
	b.run()
	want("a", first, second)
	want("b", first)
	b.m.Unstaged(b.index("a"), []wire.ID{first, second})
	b.asked = nil
	b.greet("b") // nobody knows whether it has dropped the first
	want("b", first, second)
	b.m.Unstaged(b.index("b"), []wire.ID{first})
	third := b.stage(false)
	want("b", first, second, third)
	b.m.Unstaged(b.index("b"), []wire.ID{third})
	b.asked = nil
	for _, name := range []string{"a", "b"} {
		b.breakLink(name)
		b.greet(name)
	}
	want("a", third)
	want("b", second)

	// What is owed is bounded: the oldest are left to the next epoch's sweep.
	b.breakLink("c")
	for i := range maxOwed + 3 {
		b.m.unstage(wire.MakeID(1, uint64(1000+i)))
	}
	b.asked = nil
	b.greet("c")
	if ids := asked("c"); len(ids) != maxOwed || ids[0] != wire.MakeID(1, 1003) {
		t.Errorf("%d are asked for, from %v on", len(ids), ids[0])
	}
	b.m.unstage(wire.MakeID(1, 1))
	b.asked = nil
	b.run()
	want("c", wire.MakeID(1, 1))
}

func TestSessionsExpire(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.breakLink("a")
	b.m.Tick(b.m.o.SessionIdle)
	if len(b.m.sessions) != 1 {
		t.Error("a session that waits was forgotten")
	}
	b.settle()
	b.m.Tick(b.m.o.SessionIdle)
	if len(b.m.sessions) != 0 {
		t.Error("an idle session is kept")
	}
	late := b.submit(2, "y")
	b.wantAnswer(late, "replaced by a newer link of the session")
	before := b.link
	b.attach()
	if b.link <= before {
		t.Errorf("link %d after %d", b.link, before)
	}
}
