package sim

import (
	"testing"

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
