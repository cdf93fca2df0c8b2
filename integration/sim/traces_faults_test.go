package sim

import (
	"strings"
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

// settled takes steps until everything is quiet, without ending the play.
func (p *play) settled() {
	p.Helper()
	p.settling = true
	quiet := p.quietWithin(quietSteps)
	p.settling = false
	if p.ok(); !quiet {
		p.Fatal(p.unrest())
	}
}

// readFile asks a member for a file's contents.
func (p *play) readFile(client, member int, name string) *op {
	p.Helper()
	o := &op{cl: p.clients[client], num: len(p.ops), begun: p.clock(), read: read{kind: wire.ReadFile, at: wire.At{Dir: wire.RootIno, Path: name}}}
	p.ops, o.cl.ops = append(p.ops, o), append(o.cl.ops, o)
	k := p.cur.conns[member]
	o.call = &readCall{o: o, c: p.cur, k: k, index: p.cur.readPoint}
	k.reads = append(k.reads, o.call)
	p.answer(o)
	return o
}

// rottenFile writes a file that becomes an object, and flips bits of it at a member.
func (p *play) rottenFile(member int, name string) *op {
	p.Helper()
	o := p.tx(0, write(name))
	for p.settled(); len(o.payload) <= p.inlineMax; p.settled() {
		o = p.tx(0, write(name))
	}
	h := p.members[member].host
	for _, dir := range []string{"00", "01"} {
		list, _ := h.fs.ReadDir(memberDir + "/objects/" + dir)
		for _, e := range list {
			p.step()
			p.flips(h, memberDir+"/objects/"+dir+"/"+e.Name, 0, 4)
		}
	}
	return o
}

// S5: a file that is rotten at one participant is cut at all of them. There it
// is unreadable, also when the bit is restored: rot is not blessed by a new
// checksum. The others show what is left of it, and from them it is repaired.
func TestTraceRottenBlockIsCut(t *testing.T) {
	p := newPlay(t)
	o := p.rottenFile(1, "a")
	m := wire.Mutation{Kind: wire.MutSetattr, At: wire.At{Dir: wire.RootIno, Path: "a"}, Set: wire.SetSize, Size: 5}
	p.tx(0, m)
	p.settled()
	if len(p.members[1].bad) != 1 || len(p.members[0].bad)+len(p.members[2].bad) > 0 {
		t.Fatalf("unreadable are %v, %v, %v", p.members[0].bad, p.members[1].bad, p.members[2].bad)
	}
	p.step()
	p.mend(p.members[1].host)
	r := p.readFile(1, 1, "a")
	if r.fate != waits {
		t.Fatalf("P1 shows %q", r.answer.data)
	}
	p.step()
	p.clients[1].ask(r)
	if p.answer(r); r.fate != committed || string(r.answer.data) != string(o.payload[:5]) {
		t.Fatalf("the others show %q", r.answer.data)
	}
	p.settles()
	if len(p.members[1].bad) > 0 || p.report.Reached[reachRelearnt] == 0 {
		t.Error("its checksum is not known again")
	}
}

// repairing lets the repair, and what it asks of members, go on until that holds.
func (p *play) repairing(until func(r *repairs) bool) {
	p.Helper()
	r := &p.cur.repairs
	for n := 0; !until(r); n++ {
		if n > 1000 || r.next == nil || r.done {
			p.Fatalf("nothing is repaired any more\n%s", strings.Join(p.lines, "\n"))
		}
		p.step()
		switch {
		case r.ready():
			r.goesOn()
		case r.call.donate != nil:
			r.call.k.member.donate(r.call)
		default:
			r.call.k.member.resyncGoesOn()
		}
		p.ok()
	}
}

// S5: a read that meets a rotten block has it rewritten, in an object and in what is
// staged for one; a change that comes in between is not undone.
func TestTraceRottenObjectIsRepaired(t *testing.T) {
	for _, changed := range []bool{false, true} {
		p := newPlay(t)
		o := p.rottenFile(1, "a")
		p.readFile(1, 1, "a")
		if changed {
			p.repairing(func(r *repairs) bool { return r.call != nil && r.call.repair != nil })
			o = p.tx(0, write("a"))
			p.prepare(9, 0, 1, 2)
			p.committed(o)
			p.handle(9, 0, 1, 2)
		}
		p.repairing(func(r *repairs) bool { return r.done })
		r := p.readFile(1, 1, "a")
		if r.fate != committed || string(r.answer.data) != string(o.payload) {
			t.Fatalf("changed %v: P1 shows %d bytes, want %d: %s", changed, len(r.answer.data), len(o.payload), r.answer.words())
		}
		if repaired := p.report.Reached[reachRepaired]; repaired > 0 == changed {
			t.Errorf("changed %v: %d repairs", changed, repaired)
		}
		p.settles()
	}
}

// G7: a file that is rotten at one participant is read from another, and never
// shows what the flipped bit made.
func TestTraceRottenObjectIsReadElsewhere(t *testing.T) {
	p := newPlay(t)
	o := p.rottenFile(1, "a")
	h := p.members[1].host
	r := p.readFile(1, 1, "a")
	if r.fate != waits || r.tried != 1<<1 {
		t.Fatalf("P1's answer is taken, or nobody else will be asked: %s", r.answer.words())
	}
	p.step()
	p.clients[1].ask(r)
	if p.answer(r); r.fate != committed || string(r.answer.data) != string(o.payload) {
		t.Fatalf("the file is %d bytes, want %d", len(r.answer.data), len(o.payload))
	}
	p.step()
	p.mend(h)
	p.settles()
}

// S1: a participant that meets a row with a flipped bit answers nothing any
// more and ends; the read is answered by another. It comes up again, and votes,
// when the bit is restored.
func TestTraceRottenRowEndsItsParticipant(t *testing.T) {
	p := newPlay(t)
	p.tx(0, write("a"))
	p.settled()
	m := p.members[1]
	if m.end > m.frozenAt {
		p.step()
		m.freeze()
	}
	p.settled()
	name := "e\x00\x00\x00\x00\x00\x00\x00\x01a"
	if !m.keys[name] {
		t.Fatal("the kv has no entry of the file")
	}
	m.rotten, m.rows = true, map[string]int{name: 5}
	r := p.readFile(1, 1, "a")
	if r.fate != waits || m.up {
		t.Fatalf("P1 is up: %v, and answers: %s", m.up, r.answer.words())
	}
	p.step()
	p.cur.linkGone(1)
	p.clients[1].ask(r)
	if p.answer(r); r.fate != committed {
		t.Fatal("nobody answers")
	}
	p.mend(m.host)
	p.settles()
}

// J3, P7: a participant whose journal is damaged in its middle does not come
// up, and the coordinator says for whom it waits.
func TestTraceDamagedJournalIsNamed(t *testing.T) {
	p := newPlay(t)
	for range 4 {
		p.tx(0, write("a"))
		p.settled()
	}
	m := p.members[1]
	p.step()
	if !p.rotsJournal(m.host, memberDir+"/journal") {
		t.Fatal("there is no block to rot")
	}
	p.step()
	p.killed(m.host)
	p.crashCoordinator()
	p.restartMember(1)
	if m.up {
		t.Fatal("P1 is up, with a damaged journal")
	}
	p.startCoordinator()
	p.greet(0, 2)
	if s := p.cur.m.Status(); s.Serving || len(s.WaitsFor) != 1 || s.WaitsFor[0] != "P1" {
		t.Fatalf("serving: %v, it waits for %v", s.Serving, s.WaitsFor)
	}
	p.mend(m.host)
	p.settles()
}

// P10: a participant whose disk has lied, and lost by it what it had said to
// be durable, is named when it comes back: nothing goes on with less.
func TestTraceLyingDiskIsNamed(t *testing.T) {
	p := newPlay(t)
	m := p.members[1]
	m.lies = 100
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.handle(9, 0, 1, 2)
	p.sync(0, 1, 2)
	p.hear(0, 1, 2)
	p.step()
	p.processGone(m.host)
	p.rng = powerRNG(nothingStays)
	p.lostPower(m.host)
	p.restartMember(1)
	if m.m.Position().Index > 2 || p.loser != m.host {
		t.Fatalf("nothing is lost: %v", m.m.Position())
	}
	c := p.cur
	p.fence(1)
	p.sync(1)
	p.hear(1)
	if c.m.Stopped() == nil || c.m.Stopped().Who != "P1" || !p.named {
		t.Fatalf("the coordinator goes on with less: %v", c.m.Stopped())
	}
	p.settles()
}
