package sim

import (
	"testing"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// G6: a participant that is alive and answers nothing outlasts a request's
// wait: its client hears "unknown", never "failed", and a read of the file
// elsewhere goes on. When it wakes, the change is committed everywhere.
func TestTraceSilentMemberOutlastsAWait(t *testing.T) {
	p := newPlay(t)
	p.wait = 1000
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.members[2].silent, p.members[2].wakes = true, 1
	for _, c := range p.choices() {
		if c.what < stepDial && c.a == 2 && c.what != stepWake {
			t.Fatalf("a silent P2 may take step %d", c.what)
		}
	}
	p.step()
	p.pass(0, 2000)
	p.cur.tick(2000)
	p.refusedWith(o, wire.CodeUnknownOutcome)
	if r := p.read(1, 0, "b"); r.fate == waits {
		t.Fatal("a read elsewhere waits")
	}
	p.settles()
	if _, done := p.effects[o.id]; !done {
		t.Fatal("the change is not committed")
	}
}

// P10: what is on its way on a link that passes nothing down any more is not
// handled, also when the link breaks at last; it is sent again by the next one.
func TestTraceHalfDeadLink(t *testing.T) {
	p := newPlay(t)
	p.rng = powerRNG(nothingStays)
	k := p.cur.conns[2]
	p.halfDead(k, true)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	for _, c := range p.choices() {
		if c.what == stepHandle && c.a == 2 {
			t.Fatal("P2 may handle what cannot arrive")
		}
	}
	p.silent(o)
	p.breakLink(2)
	p.greet(2)
	p.prepare(9, 2)
	p.committed(o)
	p.settles()
}

// P7, P8: a participant that comes up on an empty disk does not say "never" of
// what it once held: the coordinator ends and names it, and a new one recovers
// nothing without it. When the true disk is put back, service goes on.
func TestTraceWipedDiskIsNamed(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.step()
	p.wipe(p.members[2])
	p.restartMember(2)
	c := p.cur
	p.fence(2)
	p.sync(2)
	p.hear(2)
	if c.m.Stopped() == nil || c.m.Stopped().Who != "P2" {
		t.Fatalf("the coordinator goes on with an empty disk: %v", c.m.Stopped())
	}
	p.startCoordinator()
	p.greet(0, 1)
	if p.cur.m.Phase() != commit.Greeting {
		t.Fatal("recovery has begun without P2")
	}
	c = p.cur
	p.fence(2)
	p.sync(2)
	p.hear(2)
	if c.m.Stopped() == nil || c.m.Stopped().Who != "P2" {
		t.Fatalf("recovery goes on with an empty disk: %v", c.m.Stopped())
	}
	p.putBack(p.members[2])
	p.settles()
}
