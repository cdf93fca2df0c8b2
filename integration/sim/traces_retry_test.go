package sim

import (
	"testing"

	"tpcfs/wire"
)

// Traces about retries: joins, op ids and how long they are kept, links, stages.

const minute = 60_000 // ms

// passed lets W pass all that was put: the coordinator forgets it.
func (p *play) passed() {
	p.Helper()
	p.prepare(9, 0, 1, 2)
	p.step()
	p.cur.tick(600)
	p.prepare(9, 0, 1, 2)
	if s := p.cur.m.Status(); s.W != s.Last {
		p.Fatalf("W is %v, not %v", s.W, s.Last)
	}
}

// last is how much is put.
func (p *play) last() wire.Position { return p.cur.m.Status().Last }

// resend sends an op again by a new link: its answer was lost with the old one.
func (p *play) resend(o *op) {
	p.Helper()
	p.step()
	o.cl.linkLost()
	p.send(o)
}

// commits does something else, for its service time.
func (p *play) commits(client int, name string) {
	p.Helper()
	p.step()
	p.clients[client].linkLost() // the session may have expired
	o := p.tx(client, write(name))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.handle(9, 0, 1, 2)
}

// W5, P4: a retry waits for the ABORT of its first attempt to be durable: until
// then nothing is put in its place.
func TestTraceRetryWaitsForAbort(t *testing.T) {
	p := newPlay(t)
	p.members[2].squeeze(0)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.members[2].release()
	last := p.last()
	p.resend(o)
	if p.last() != last {
		t.Fatal("the retry is put beside an ABORT that is not durable")
	}
	p.silent(o)
	p.prepare(9, 0, 1, 2)
	p.refusedWith(o, wire.CodeNoSpace)
	p.settles()
}

// W5, P7: a retry finds what recovery has decided, without being put.
func TestTraceRetryAfterRecovery(t *testing.T) {
	p := newPlay(t)
	done := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	half := p.tx(1, write("b"))
	p.prepare(9, 0, 1)
	p.crashCoordinator()
	p.crashMember(2, nothingStays)
	p.restartMember(2)
	p.recoverAll()
	last := p.last()
	p.resend(done)
	p.committed(done)
	p.resend(half)
	p.silent(half) // its ABORT is not durable
	if p.last() != last {
		t.Fatal("a retry of what recovery has decided was put")
	}
	p.settles()
}

// S1a: a request that comes again when its outcome may have expired is not run:
// nobody knows whether it was.
func TestTraceRetryAfterExpiry(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.passed()
	p.step()
	p.cur.tick(25 * minute)
	p.commits(1, "b") // its apply drops the outcome
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.refusedWith(o, wire.CodeUnknownOutcome)
	p.settles()
}

// S1a: an outcome is kept for longer than a request may come again.
func TestTraceOutcomesAreKept(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.passed()
	p.step()
	p.cur.tick(9 * minute)
	p.commits(1, "b")
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.settles()
}

// S1a: outcomes expire by service time, which stands still while nothing can be
// written: whoever waits for the end of an outage finds them.
func TestTraceOutageKeepsOutcomes(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.passed()
	p.breakLink(2)
	p.step()
	p.now += 25 * minute
	p.cur.tick(25 * minute)
	p.greet(2)
	p.commits(1, "b")
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.settles()
}

// S1a: service time goes on from what the participants hold, in their kv too:
// a request of the last epoch is not younger than it is.
func TestTraceServiceTimeGoesOn(t *testing.T) {
	p := newPlay(t)
	p.step()
	p.cur.tick(30 * minute)
	p.commits(1, "b")
	p.passed()
	p.step()
	p.clients[0].linkLost()
	p.clients[0].attach(p.cur)
	o := p.tx(0, write("a")) // on its way, put nowhere that lasts
	for i := range 3 {
		p.checkpoint(i)
	}
	p.crashCoordinator()
	for i := range 3 {
		p.crashMember(i, nothingStays)
		p.restartMember(i)
	}
	p.recoverAll()
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.passed()
	p.step()
	p.cur.tick(25 * minute)
	p.commits(1, "c")
	p.resend(o)
	p.prepare(9, 0, 1, 2)
	p.refusedWith(o, wire.CodeUnknownOutcome)
	p.settles()
}

// stage brings contents for a new op of a client; nothing is sent yet.
func (p *play) stage(client int, muts ...wire.Mutation) *op {
	p.Helper()
	cl := p.clients[client]
	o := &op{cl: cl, num: len(p.ops), muts: muts, staged: make([][]byte, len(muts)), begun: p.clock()}
	o.staged[0] = []byte("contents that are brought before the prepare, and kept")
	p.ops, cl.ops = append(p.ops, o), append(cl.ops, o)
	cl.seq++
	o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
	p.byID[o.id] = o
	p.step()
	cl.beginStage(o, 0)
	for i := range 3 {
		p.step()
		p.members[i].nextStage().goOn(-1)
	}
	s := p.cur.stages[0]
	p.cur.stages = nil
	p.cur.staged(s) // all have it
	p.cur.stages = nil
	p.cur.staged(s)
	p.ok()
	return o
}

// P2: a stage is consumed by one prepare, whatever a client asks for.
func TestTraceStageOfAnother(t *testing.T) {
	p := newPlay(t)
	first := p.stage(0, write("a"))
	p.send(first)
	second := p.tx(0, write("b"))
	p.prepare(9, 0, 1, 2)
	p.committed(first)
	p.committed(second)

	first = p.stage(0, write("a"))
	p.send(first)
	p.handle(9, 0, 1, 2) // prepared, in doubt
	thief := &op{cl: p.clients[0], num: len(p.ops), muts: []wire.Mutation{write("b")}, staged: make([][]byte, 1), begun: p.clock()}
	thief.muts[0].Content = first.muts[0].Content
	p.ops, p.clients[0].ops = append(p.ops, thief), append(p.clients[0].ops, thief)
	p.clients[0].seq++
	thief.id = wire.OpID{Session: p.clients[0].session, Seq: p.clients[0].seq}
	thief.given = true
	p.byID[thief.id] = thief
	p.send(thief)
	p.prepare(9, 0, 1, 2)
	p.refusedWith(thief, wire.CodeStageLost)
	p.committed(first)
	p.settles()
}

// P2: ... nor twice by one.
func TestTraceStageNamedTwice(t *testing.T) {
	p := newPlay(t)
	o := p.stage(0, write("a"), write("b"))
	o.muts[1].Content = o.muts[0].Content
	o.given = true
	p.send(o)
	p.prepare(9, 0, 1, 2)
	p.refusedWith(o, wire.CodeStageLost)
	p.settles()
}
