package sim

import (
	"strings"
	"testing"

	"tpcfs/wire"
)

// The traces of P8 and P11: participants that are evicted and come back.

func newLeavingPlay(t *testing.T) *play {
	t.Helper()
	p := newPlayOf(t, func(f *profile) { f.minInSync, f.evictAfter = 2, 3000 })
	return p
}

// evict gives a member up; the config without it is durable nowhere yet.
func (p *play) evict(i int) {
	p.Helper()
	p.step()
	if k := p.cur.conns[i]; k != nil {
		p.cur.givesUp(i)
	} else {
		p.cur.refusing(i)
	}
	p.ok()
}

// evicted evicts a member for good.
func (p *play) evicted(i int, stay ...int) {
	p.Helper()
	p.evict(i)
	p.coordinatorSyncs()
	p.prepare(99, stay...)
	if p.cur.m.InSync(i) {
		p.Fatalf("P%d is in sync yet\n%s", i, strings.Join(p.lines, "\n"))
	}
}

// catchUp lets a newcomer, and what it asks of others, go on until that holds.
// Members handle nothing meanwhile, and nobody's journal but its own is synced.
func (p *play) catchUp(i int, until func(r *rejoin) bool) {
	p.Helper()
	m := p.members[i]
	r := p.cur.conns[i].rejoin
	for n := 0; !until(r); n++ {
		if n > 5000 || r.done {
			p.Fatalf("P%d has stopped catching up\n%s", i, strings.Join(p.lines, "\n"))
		}
		p.step()
		switch {
		case r.ready():
			r.goesOn()
		case r.call.donate != nil:
			r.donor.member.donate(r.call)
		case m.mayResync():
			m.resyncGoesOn()
		}
		if m.ck != nil {
			m.checkpointGoesOn(-1)
		}
		if m.j.ready() {
			m.j.work(-1)
			m.synced()
		}
		p.ok()
	}
}

// pausing: nothing is put, because of a newcomer.
func (p *play) pausing(*rejoin) bool { return p.cur.m.Staging() == 0 && !p.cur.m.Writable() }

// P8: nobody hears of what is decided without a member before that is durable at
// the coordinator: as it is, the config that counts needs that member.
func TestTraceEvictionIsForced(t *testing.T) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.evict(2)
	p.prepare(9, 0, 1)
	p.silent(o)
	p.crashCoordinator() // with the config
	p.recoverAll()       // P2 is there, and has never prepared
	p.send(o)
	p.settles()
	if p.effects[o.id] == 0 {
		t.Error("the retry has not committed")
	}
}

// P8: ... and at each member that stays.
func TestTraceEvictionAtMembers(t *testing.T) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.evict(2)
	p.coordinatorSyncs()
	p.prepare(9, 0)
	p.handle(9, 1) // not synced
	p.silent(o)
	p.crashMember(1, nothingStays)
	p.restartMember(1)
	p.greet(1)
	p.prepare(9, 1)
	p.committed(o)
	p.settles()
}

// P7, P8: an ABORT that only an evicted participant has kept, and that nobody
// was told of, becomes the COMMIT that the others' votes are.
func TestTraceAbortOfEvictedIsRevived(t *testing.T) {
	p := newLeavingPlay(t)
	p.members[2].refuses = 1
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.silent(o)
	p.handle(9, 2) // ABORT
	p.sync(2)
	p.crashCoordinator()
	p.crashMember(2, nothingStays)
	p.startCoordinator()
	p.greet(0, 1)
	if p.cur.readPoint != 0 {
		t.Fatal("it serves before it has evicted P2")
	}
	p.cur.turn(func() { p.cur.m.Tick(3000) })
	p.evictsAtStart(2, 0, 1)
	p.restartMember(2)
	if y := p.members[2].m.Testimony(); len(y) != 1 || y[0].State != wire.TxAborted {
		t.Fatalf("P2 testifies %+v", y)
	}
	p.send(o)
	p.settles()
	if p.effects[o.id] == 0 {
		t.Errorf("it is not committed\n%s", strings.Join(p.lines, "\n"))
	}
}

// evictsAtStart brings a coordinator that waits for a member alone into service.
func (p *play) evictsAtStart(i int, stay ...int) {
	p.Helper()
	p.coordinatorSyncs()
	p.prepare(99, stay...)
	if p.cur.readPoint == 0 || p.cur.m.InSync(i) {
		p.Fatalf("serving %v, P%d in sync %v\n%s", p.cur.readPoint > 0, i, p.cur.m.InSync(i), strings.Join(p.lines, "\n"))
	}
}

// P8, P11: who is evicted and lives is read from by nobody, not even by one who
// has asked before, and not while it catches up.
func TestTraceNoReadFromEvicted(t *testing.T) {
	p := newLeavingPlay(t)
	p.evicted(2, 0, 1)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.committed(o)
	p.handle(9, 0, 1)
	reads := func(when string) {
		t.Helper()
		for _, k := range p.cur.readable(&op{}) {
			if k.member.i == 2 {
				t.Fatalf("P2 is read from %s", when)
			}
		}
	}
	reads("after it was evicted")
	p.greet(2)
	reads("when it is back")
	if p.members[2].m.Resync() == "" {
		t.Fatal("P2 has no mark")
	}
	p.catchUp(2, func(r *rejoin) bool { return r.call != nil && r.call.req.Step == wire.ResyncVerify })
	reads("while it catches up")
	p.settles()
}

// P11: the last round waits until all that was put is decided, and durable at
// all members: else what is copied is decided otherwise, or was never heard of.
func TestTraceLastRoundDrains(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(p *play) // with a change prepared at P0 and P1
	}{
		{"undecided", func(p *play) { p.handle(9, 0, 1) }},
		{"decided, not durable", func(p *play) { p.prepare(9, 0, 1); p.handle(9, 0, 1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newLeavingPlay(t)
			p.evicted(2, 0, 1)
			p.greet(2)
			o := p.tx(0, write("a"))
			c.do(p)
			p.catchUp(2, p.pausing)
			for range 50 {
				p.step()
				if r := p.cur.conns[2].rejoin; r.ready() {
					r.goesOn()
				}
				p.ok()
			}
			if p.cur.m.InSync(2) || p.members[2].m.Resync() == "" {
				t.Fatal("P2 was let in before all was decided and durable")
			}
			if p.effects[o.id] == 0 {
				p.prepare(9, 0, 1)
			}
			p.settles()
		})
	}
}

// P11: once the config that lets a newcomer in is on its way the pause holds,
// also when the newcomer drops: what is put has to wait for its vote.
func TestTracePauseHolds(t *testing.T) {
	p := newLeavingPlay(t)
	p.evicted(2, 0, 1)
	p.greet(2)
	p.prepare(99, 0, 1)
	p.catchUp(2, func(r *rejoin) bool { p.syncAll(0, 1); return r.done })
	if p.cur.m.InSync(2) {
		t.Fatal("P2 is in sync before its config is durable")
	}
	p.breakLink(2)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.silent(o)
	p.coordinatorSyncs()
	p.prepare(9, 0, 1)
	p.silent(o) // it is put for all three
	p.greet(2)
	p.prepare(9, 0, 1, 2)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.settles()
}

// syncAll makes all durable that members hold, and tells the coordinator.
func (p *play) syncAll(members ...int) {
	for _, i := range members {
		if k := p.cur.conns[i]; p.members[i].j.synced < p.members[i].end && k != nil {
			p.sync(i)
			p.hear(i)
		}
	}
}

// P11: a greeting, and an epoch that never opened, move nothing: what the others
// decided in them a newcomer lacks.
func TestTraceGreetingMovesNothing(t *testing.T) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.crashCoordinator() // P2 has not handled COMMIT
	since := p.members[2].m.Since()
	p.startCoordinator()
	p.greet(0, 1, 2)
	if got := p.members[2].m.Since(); got != since {
		t.Fatalf("the greeting has moved P2 from %v to %v", since, got)
	}
	p.evict(2)
	p.evictsAtStart(2, 0, 1)
	p.settles()
}

// P11: what a newcomer has in doubt is given up: others have decided it.
func TestTraceInDoubtIsGivenUp(t *testing.T) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.handle(9, 2)
	p.sync(2)
	p.prepare(9, 0, 1)
	p.evicted(2, 0, 1)
	p.committed(o)
	p.greet(2)
	if n := p.members[2].m.InDoubt(); n != 0 {
		t.Fatalf("P2 has %d in doubt", n)
	}
	p.crashMember(2, nothingStays)
	p.restartMember(2)
	if p.members[2].m.Resync() == "" || p.members[2].m.InDoubt() != 0 {
		t.Fatal("P2 has forgotten over a crash that it is out of sync")
	}
	p.settles()
}

// P11: the newcomer dies after its mark is gone and before it is let in: it is
// marked again, and nothing of what was put meanwhile is missing.
func TestTraceNewcomerDiesAtTheEnd(t *testing.T) {
	p := newLeavingPlay(t)
	p.evicted(2, 0, 1)
	p.greet(2)
	p.prepare(99, 0, 1)
	p.catchUp(2, func(*rejoin) bool { p.syncAll(0, 1); return p.members[2].m.Resync() == "" })
	p.crashMember(2, nothingStays)
	p.restartMember(2)
	for k := p.cur.conns[2]; p.cur.conns[2] != nil; {
		p.step()
		if k.catches() {
			k.rejoin.goesOn()
		}
		p.cur.linkGone(2)
		p.ok()
	}
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.committed(o)
	p.greet(2)
	if p.members[2].m.Resync() == "" {
		t.Fatal("P2 has no mark, and lacks a change")
	}
	p.settles()
}

// P8, P9: the coordinator journals a W record in the turn in which it evicts: the
// config is not lost among the lazy ones.
func TestTraceConfigBesideOtherRecords(t *testing.T) {
	p := newLeavingPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.prepare(9, 0, 1, 2) // COMMIT is durable: W goes on
	p.cur.turn(func() {
		p.cur.m.LinkDown(2, p.cur.conns[2].number)
		p.cur.m.Tick(3000)
	})
	p.breakLink(2)
	p.evictsAtStart(2, 0, 1)
	p.settles()
}

// P11: the donor dies, and the coordinator, while one is copied from: it goes on
// with another one, from where it was.
func TestTraceDonorAndCoordinatorDie(t *testing.T) {
	p := newLeavingPlay(t)
	p.evicted(2, 0, 1)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.committed(o)
	p.prepare(9, 0, 1)
	p.greet(2)
	p.catchUp(2, func(r *rejoin) bool { return r.call != nil && r.call.donate != nil })
	donor := p.cur.conns[2].rejoin.donor.member.i
	p.crashMember(donor, nothingStays)
	p.restartMember(donor)
	p.step()
	p.crashCoordinator()
	p.startCoordinator()
	p.settles()
}
