package sim

import (
	"testing"

	"tpcfs/wire"
)

// Traces about the age of requests and of outcomes (S1a).

// A request may come again until its age reaches the hold, not a moment longer.
func TestTraceAgeOfARequest(t *testing.T) {
	for _, age := range []int64{9 * minute, wire.ServiceTimeHold, wire.ServiceTimeHold + 1, 11 * minute} {
		p := newPlay(t)
		o := p.tx(0, write("a"))
		p.step()
		p.crashCoordinator() // put, and handled by nobody
		p.recoverAll()
		p.step()
		p.cur.tick(o.sent + age - p.cur.m.Status().ServiceTime)
		p.resend(o)
		p.prepare(9, 0, 1, 2)
		if age <= wire.ServiceTimeHold {
			p.committed(o)
		} else {
			p.refusedWith(o, wire.CodeUnknownOutcome)
		}
		p.settles()
	}
}

// A request that is under way when it comes again is joined, however old it is.
func TestTraceOldRequestJoins(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1) // one participant is slow
	p.step()
	p.cur.tick(11 * minute)
	last := p.last()
	p.resend(o)
	if p.last() != last {
		t.Fatal("the retry is put beside its first attempt")
	}
	p.prepare(9, 2)
	p.committed(o)
	p.settles()
}

// An hour without service does not make a request older.
func TestTraceOutageDoesNotAge(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.step()
	p.crashCoordinator()
	p.now += 60 * minute
	p.recoverAll()
	p.breakLink(2)
	p.step()
	p.now += 60 * minute
	p.cur.tick(60 * minute)
	p.greet(2)
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.settles()
}

// A coordinator that fails takes up to a minute of service time with it, so a
// request may seem younger than its outcome is: that is why outcomes are kept
// for twice as long as requests may come again.
func TestTraceOutcomesOutliveTheHold(t *testing.T) {
	p := newPlay(t)
	p.step()
	p.cur.tick(59_000) // worth no record
	p.clients[0].linkLost()
	p.clients[0].attach(p.cur)
	o := p.tx(0, write("a"))
	p.crashCoordinator()
	p.recoverAll()
	if back := o.sent - p.cur.m.Status().ServiceTime; back < 30_000 {
		t.Fatalf("service time has gone back by %d ms only", back)
	}
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.passed()
	p.step()
	p.cur.tick(wire.ServiceTimeHold + 30_000 - 600)
	p.commits(1, "b") // its apply drops outcomes that are old
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.settles()
}
