package sim

import (
	"testing"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// The traces: for each rule the shortest schedule that its absence spoils, as
// far as it needs no eviction. The letters are the rules'.

// P3, P5: as soon as a client has heard of its commit, no participant answers a
// read from before it.
func TestTraceReadAfterReply(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	r := p.read(1, 1, "a") // P1 has not handled COMMIT
	if r.call == nil {
		t.Fatalf("P1 has answered before it has handled COMMIT: %v", r.err)
	}
	p.handle(1, 1)
	p.answer(r)
	if r.fate != committed {
		t.Fatalf("the read ends with %v", r.err)
	}
	p.settles()
}

// P4: of mixed votes the client hears when ABORT is durable at every member.
func TestTraceAbortDurableEverywhere(t *testing.T) {
	p := newPlay(t)
	p.members[2].squeeze(0)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.silent(o)
	p.prepare(9, 1) // ABORT
	p.silent(o)
	p.prepare(9, 2)
	p.silent(o)
	p.prepare(9, 0)
	p.refusedWith(o, wire.CodeNoSpace)
	p.members[2].release()
	p.settles()
}

// P4: the coordinator dies between mixed votes and their ABORT: the client is
// told nothing that recovery does not keep.
func TestTraceMixedVotesCoordinatorDies(t *testing.T) {
	p := newPlay(t)
	p.members[2].squeeze(0)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.members[2].release()
	p.crashCoordinator()
	p.recoverAll()
	p.send(o) // the retry
	p.silent(o)
	p.settles()
}

// P5: a read at a new coordinator waits for what recovery has decided.
func TestTraceReadAfterRecovery(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.crashCoordinator()
	p.recoverAll()
	r := p.read(1, 1, "a")
	if r.call == nil {
		t.Fatalf("P1 has answered before it has handled what recovery decided: %v", r.err)
	}
	p.handle(9, 1)
	p.answer(r)
	if r.fate != committed {
		t.Fatalf("the read ends with %v", r.err)
	}
	p.settles()
}

// P5, P6: nothing is read before recovery is over.
func TestTraceNoReadBeforeRecovery(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.crashCoordinator()
	p.startCoordinator()
	for i := range 3 {
		p.greet(i)
		if p.cur.m.ReadPoint() != 0 {
			t.Fatalf("reads are served after %d greetings", i+1)
		}
	}
	p.config(0, 1)
	if p.cur.m.ReadPoint() != 0 {
		t.Fatal("reads are served before the config is everywhere")
	}
	p.settles()
}

// P6: the fence is durable, with all before it, before the greeting is
// answered: what the participant says it will say again.
func TestTraceFenceIsDurable(t *testing.T) {
	p := newPlay(t)
	a := p.tx(0, write("a"))
	b := p.tx(1, write("b"))
	p.handle(9, 1) // prepared, not synced
	p.crashCoordinator()
	p.startCoordinator()
	p.fence(1)
	if p.cur.conns[1].answer != nil {
		t.Fatal("P1 has answered before its fence was durable")
	}
	p.crashMember(1, nothingStays)
	p.restartMember(1)
	p.greet(1)
	p.handle(9, 0, 2) // of the old stream, handled late
	p.greet(0, 2)
	p.config(0, 1, 2)
	p.send(a)
	p.send(b)
	p.settles()
}

// P7: all have prepared, the commit was acknowledged, and only votes were
// durable: recovery rolls forward.
func TestTraceRollForward(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.crashCoordinator()
	for i := range 3 {
		p.crashMember(i, nothingStays)
		p.restartMember(i)
	}
	p.recoverAll()
	p.settles()
	if p.effects[o.id] == 0 {
		t.Fatal("the acknowledged transaction was not committed")
	}
}

// P7: some have not prepared: recovery aborts, and the retry runs anew.
func TestTraceNeverPrepared(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.crashCoordinator()
	p.crashMember(2, nothingStays)
	p.restartMember(2)
	p.recoverAll()
	p.send(o)
	p.silent(o) // until the first attempt's ABORT is durable
	p.settles()
	if o.fate != committed {
		t.Fatalf("the retry hears %v, %v; it had to run anew", o.fate, o.err)
	}
}

// P7: who is not reachable has not said "never": recovery waits for it.
func TestTraceUnreachableIsNotNever(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.handle(1, 1)
	p.crashCoordinator()
	p.crashMember(0, nothingStays)
	p.startCoordinator()
	p.greet(1, 2)
	if p.cur.m.ReadPoint() != 0 || p.cur.conns[1].down != nil {
		t.Fatal("recovery has begun without P0")
	}
	p.settles()
}

// P9: W enters an epoch when its OPEN is durable at all, not before: else a
// second recovery finds "forgotten" beside "prepared".
func TestTraceWatermarkAndOpen(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0) // P0 alone
	p.crashCoordinator()
	p.recoverAll()
	if w := p.cur.m.Status().W; w.Epoch == p.cur.epoch.Number {
		t.Fatalf("W is %v before OPEN is durable", w)
	}
	p.step()
	p.cur.tick(600)
	p.handle(9, 1) // OPEN, W, at P1 alone
	p.sync(1)
	p.crashCoordinator()
	p.recoverAll()
	p.send(o)
	p.settles()
}

// P9: W waits for votes, even where the positions that cover them have come.
func TestTraceWatermarkWaitsForVotes(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.handle(9, 2)
	p.sync(2)
	k := p.cur.conns[2]
	var votes []wire.Up
	for i := range k.up {
		if len(k.up[i].Votes) > 0 {
			votes = append(votes, wire.Up{Votes: k.up[i].Votes})
			k.up[i].Votes = nil
		}
	}
	before := p.cur.m.Status().W
	p.hear(2)
	if w := p.cur.m.Status().W; before.Before(w) {
		t.Fatalf("W is %v while P2's vote is on its way", w)
	}
	k.up = append(k.up, votes...)
	p.hear(2)
	p.committed(o)
	p.settles()
}

// P10: a link breaks after the greeting: the stream goes on after what was
// handled, CONFIG included.
func TestTraceResumeSkipsNothing(t *testing.T) {
	p := newPlay(t)
	p.crashCoordinator()
	p.startCoordinator()
	p.greet(0, 2)
	p.breakLink(2)
	p.greet(1)
	p.coordinatorSyncs()
	p.handle(9, 0, 1)
	p.greet(2)
	p.handle(9, 2)
	p.sync(0, 1, 2)
	p.hear(0, 1, 2)
	if p.cur.m.ReadPoint() == 0 {
		t.Fatal("the coordinator does not serve")
	}
	p.settles()
}

// P10: a NO that was counted stays one: what the participant has forgotten of
// it comes again as VOID.
func TestTraceCountedNoStays(t *testing.T) {
	p := newPlay(t)
	p.members[1].squeeze(0)
	o := p.tx(0, write("a"))
	p.handle(9, 1)
	p.hear(1) // its NO, not durable
	p.crashMember(1, nothingStays)
	p.members[1].release()
	p.restartMember(1)
	p.greet(1)
	p.handle(9, 1)
	if p.members[1].m.InDoubt() != 0 {
		t.Fatal("P1 has prepared what it had refused")
	}
	p.prepare(9, 0, 2)
	p.silent(o)
	p.prepare(9, 0, 1, 2)
	p.refusedWith(o, wire.CodeNoSpace)
	p.settles()
}

// P10: a vote that was lost with its link is given again.
func TestTraceVoteAgain(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.handle(9, 2)
	p.sync(2)
	p.breakLink(2)
	p.prepare(9, 0, 1)
	p.silent(o)
	p.greet(2)
	p.hear(2)
	p.committed(o)
	p.settles()
}

// P10: a NO that was lost with its link, and even with its process, is found
// by the position.
func TestTraceLostNo(t *testing.T) {
	p := newPlay(t)
	p.members[0].squeeze(0)
	o := p.tx(0, write("a"))
	p.handle(9, 0)
	p.sync(0)
	p.breakLink(0)
	p.members[0].release()
	p.crashMember(0, nothingStays)
	p.restartMember(0)
	p.greet(0)
	p.prepare(9, 1, 2)
	p.prepare(9, 0, 1, 2)
	p.refusedWith(o, wire.CodeNoSpace)
	p.settles()
}

// P10: what an old link brings late does not count: the participant has forgotten
// since what it said there.
func TestTraceOldLinkIsNotHeard(t *testing.T) {
	p := newPlay(t)
	p.members[1].squeeze(0)
	o := p.tx(0, write("a"))
	p.handle(9, 1) // its NO is on its way, its position too
	p.step()
	k := p.cur.conns[1]
	said := k.up
	p.crashMember(1, nothingStays)
	p.members[1].release()
	k.up = said
	p.cur.linkGone(1)
	p.restartMember(1)
	p.greet(1)
	p.step()
	p.cur.hearLate()
	p.ok()
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.settles()
}

// P8, G6: what is put is never told to be unavailable, however long it waits.
func TestTraceUnknownNotUnavailable(t *testing.T) {
	p := newPlay(t)
	p.wait = 100
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.step()
	p.cur.tick(600)
	if err := o.attempt.answer; err == nil || err.Err == nil || err.Err.Code != wire.CodeUnknownOutcome {
		t.Fatalf("the answer is %v, want unknown", err)
	}
	p.prepare(9, 2)
	p.settles()
	if p.effects[o.id] == 0 {
		t.Fatal("it was not committed after all")
	}
}

// P2: a staged object, contents and name, is durable before the YES.
func TestTraceStageIsDurable(t *testing.T) {
	p := newPlay(t)
	cl := p.clients[0]
	o := &op{cl: cl, num: len(p.ops), muts: []wire.Mutation{write("a")}, staged: [][]byte{[]byte("contents that are brought before the prepare, and kept")}, begun: p.clock()}
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
	p.send(o)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	for i := range 3 {
		p.crashMember(i, nothingStays)
		p.restartMember(i)
	}
	p.settles()
}

// S3: a checkpoint keeps what is in doubt.
func TestTraceCheckpointKeepsInDoubt(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.handle(9, 0, 1, 2)
	p.sync(2)
	p.checkpoint(2)
	p.crashMember(2, nothingStays)
	p.restartMember(2)
	if p.members[2].m.InDoubt() != 1 {
		t.Fatal("the checkpoint has dropped what was in doubt")
	}
	p.sync(0, 1)
	p.greet(2)
	p.hear(0, 1, 2)
	p.committed(o)
	p.settles()
}

// S3: a checkpoint after the decision: what is redone from the journal, part of
// which is older, does not bring the transaction back.
func TestTraceCheckpointResurrectsNothing(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.handle(9, 1)
	p.checkpoint(1)
	d := p.tx(1, remove("a"))
	p.handle(9, 1)
	p.sync(1)
	p.crashMember(1, nothingStays)
	p.restartMember(1)
	if n := p.members[1].m.InDoubt(); n != 1 {
		t.Fatalf("%d transactions are in doubt, want the delete", n)
	}
	p.greet(1)
	p.handle(9, 0, 2)
	p.prepare(9, 0, 1, 2)
	p.hear(0, 1, 2)
	p.committed(d)
	p.settles()
}

func (p *play) checkpoint(i int) {
	p.Helper()
	m := p.members[i]
	if m.ck == nil {
		p.step()
		m.freeze()
	}
	for m.ck != nil {
		p.step()
		m.checkpointGoesOn(-1)
		p.disk(i)
	}
	p.ok()
}

// G5: an operation that was done is not done again, when W has passed it, two
// coordinators have come and gone, and checkpoints have cut the journals: the
// retry of an unlink does not hear "no such file".
func TestTraceRetriedUnlink(t *testing.T) {
	p := newPlay(t)
	w := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(w)
	o := p.tx(0, remove("a"))
	p.prepare(9, 0, 1, 2)
	p.step()
	p.clients[0].linkLost() // the answer with it
	for range 2 {
		p.prepare(9, 0, 1, 2)
		p.step()
		p.cur.tick(600)
		p.prepare(9, 0, 1, 2)
		for i := range 3 {
			p.checkpoint(i)
		}
		p.crashCoordinator()
		p.recoverAll()
	}
	p.send(o)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	if p.report.Reached[reachDup] != 3 {
		t.Fatalf("%d DUP votes, want 3", p.report.Reached[reachDup])
	}
	p.settles()
}

// G5: the op id is looked for before locks: a retry of what was done does not
// hear "conflict" because of another's lock.
func TestTraceDupBeforeLocks(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.step()
	p.clients[0].linkLost()
	p.crashCoordinator()
	p.recoverAll()
	p.prepare(9, 0, 1, 2) // W passes: the coordinator forgets
	p.step()
	p.cur.tick(600)
	p.prepare(9, 0, 1, 2)
	other := p.tx(1, write("a")) // holds the locks
	p.prepare(9, 0, 1)
	p.send(o)
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.committed(other)
	p.settles()
}

// P12: a PREPARE whose sync fails is not voted for; the participant ends, and
// what the disk has decides.
func TestTraceFailedSync(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1)
	p.handle(9, 2)
	p.members[2].failSync, p.members[2].hurt = true, true
	p.disk(2)
	p.step()
	p.members[2].synced()
	p.ok()
	if p.members[2].up {
		t.Fatal("P2 goes on after a failed sync")
	}
	p.hearEnd(2)
	p.silent(o)
	p.settles()
}

// hearEnd takes what a member's end has left on its way.
func (p *play) hearEnd(i int) {
	p.Helper()
	p.step()
	if k := p.cur.conns[i]; len(k.up) > 0 {
		p.cur.receive(i, 100)
	}
	p.cur.linkGone(i)
	p.ok()
}

// J3: a process is killed between the write and the sync of a PREPARE. The next
// one finds it, makes it durable before it believes it, and votes; the power
// fails, and it is still there.
func TestTraceKilledBeforeSync(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	m := p.members[2]
	p.handle(9, 2)
	p.step()
	m.j.work(2) // before the write, then before the sync
	if m.j.flush == nil || m.j.synced == m.end {
		t.Fatal("the flush is not in its middle")
	}
	p.killed(m.host)
	p.restartMember(2)
	p.step()
	p.cur.linkGone(2)
	p.cur.dial(m)
	m.greetArrives(p.cur.conns[2])
	p.hear(2)
	p.crashMember(2, nothingStays)
	p.restartMember(2)
	p.prepare(9, 0, 1)
	p.committed(o)
	p.settles()
}

// P7: a participant whose journal has lost a PREPARE that was durable does not
// come up to say "never": it refuses to start, and recovery waits for it.
func TestTraceLostPrepareIsNotNever(t *testing.T) {
	p := newPlay(t)
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	m := p.members[2]
	for range 3 { // an idle journal is sealed (J3)
		p.step()
		m.quiet()
		m.j.work(-1)
	}
	at := m.j.log.Stats().ActiveBytes - 4096 // its last block, the PREPARE's
	rot := func() {
		if err := m.fs.FlipBit("/member/journal/0000000000000001.seg", 8*(at+100)); err != nil {
			t.Fatal(err)
		}
	}
	p.crashCoordinator()
	p.killed(m.host)
	rot()
	m.hurt = true
	p.restartMember(2)
	if m.up {
		t.Fatalf("P2 is up: position %v, %d in doubt", m.m.Position(), m.m.InDoubt())
	}
	p.startCoordinator()
	p.greet(0, 1)
	if p.cur.m.Phase() != commit.Greeting {
		t.Fatal("recovery has begun without P2")
	}
	rot() // the disk is mended
	p.settles()
}

// P13: a coordinator on an old backup stops, whichever participant it meets first.
func TestTraceOldBackup(t *testing.T) {
	for _, first := range []int{0, 1, 2} {
		p := newPlay(t)
		p.crashCoordinator()
		p.backup = p.coordinator.fs.Crash(powerRNG(allStays))
		p.coordinator.fs.Restart()
		p.recoverAll()
		o := p.tx(0, write("a"))
		p.prepare(9, 0, 1, 2)
		p.committed(o)
		p.crashCoordinator()
		p.step()
		p.fault(faultBackup, 0, 0)
		p.startCoordinator()
		p.fence(first)
		p.sync(first)
		p.step()
		p.cur.receive(first, 1)
		if p.cur != nil {
			t.Fatalf("the coordinator goes on after P%d", first)
		}
		p.ok()
		p.settles()
	}
}

// P13: nor does it serve when it is started again and again, so that its epoch
// is higher than what the participants hold: they know a config that it does not.
func TestTraceOldBackupInsists(t *testing.T) {
	p := newPlay(t)
	p.crashCoordinator()
	p.backup = p.coordinator.fs.Crash(powerRNG(allStays))
	p.coordinator.fs.Restart()
	p.recoverAll()
	o := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(o)
	p.crashCoordinator()
	p.step()
	p.fault(faultBackup, 0, 0)
	for range 2 {
		p.startCoordinator()
		p.crashCoordinator() // before it has greeted anybody
	}
	p.startCoordinator()
	for i := range 3 {
		if p.cur == nil {
			break
		}
		p.fence(i)
		p.sync(i)
		p.step()
		p.cur.receive(i, 1)
		p.ok()
	}
	if p.cur != nil {
		t.Fatal("the coordinator goes on, on an old journal")
	}
	p.settles()
}

// W5: a request of a replaced link is not put any more.
func TestTraceReplacedLink(t *testing.T) {
	p := newPlay(t)
	cl := p.clients[0]
	w := p.tx(0, write("a"))
	p.prepare(9, 0, 1, 2)
	p.committed(w)
	o := &op{cl: cl, num: len(p.ops), muts: []wire.Mutation{remove("a")}, staged: make([][]byte, 1), begun: p.clock()}
	p.ops, cl.ops = append(p.ops, o), append(cl.ops, o)
	cl.seq++
	o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
	p.byID[o.id] = o
	p.step()
	cl.send(o)
	late := p.cur.inbox[0]
	p.cur.inbox = nil
	cl.linkLost()
	cl.attach(p.cur)
	last := p.cur.m.Status().Last
	p.cur.submit(late)
	if p.cur.m.Status().Last != last {
		t.Fatal("a request by the replaced link was put")
	}
	p.settles()
}
