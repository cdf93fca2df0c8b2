package commit

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"tpcfs/wire"
)

// retry submits what a conflict has aborted, behind who was in the way.
func (b *bench) retry(seq uint64, refused *Request, names ...string) *Request {
	b.t.Helper()
	e := b.reply(refused).Err
	if e == nil || e.Code != wire.CodeConflict || e.Blocker == 0 {
		b.t.Fatalf("no conflict that names a blocker: %v", e)
	}
	return b.behind(seq, wire.Behind{Tx: e.Blocker, Key: e.Key}, names...)
}

func (b *bench) behind(seq uint64, behind wire.Behind, names ...string) *Request {
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: seq}, Link: b.link, Lowest: 1, Mutations: writeTo(names...), Behind: &behind}}
	b.m.Submit(r)
	b.run()
	return r
}

// prepares are the sequence numbers of the PREPAREs that a member was sent.
func (b *bench) prepares(member string) (seqs []uint64) {
	for _, e := range b.sent[b.index(member)] {
		if e.Kind == wire.EntryPrepare {
			seqs = append(seqs, e.Prepare.Op.Seq)
		}
	}
	return seqs
}

func (b *bench) wantPrepares(want ...uint64) {
	b.t.Helper()
	if got := b.prepares("a"); !slices.Equal(got, want) {
		b.t.Fatalf("put %v, want %v", got, want)
	}
}

// blocked serves a bench on which transaction 1, on x, is undecided, and 2, on x, was
// refused because of it.
func blocked(t *testing.T) (b *bench, first, refused *Request) {
	b = newBench(t).serve()
	first = b.submit(1, "x")
	refused = b.submit(2, "x")
	b.handle("a", "b", "c")
	b.deliver("a", "b", "c")
	b.wantAnswer(refused, "conflict")
	b.wantAnswer(first, "")
	return b, first, refused
}

// F5: a retry waits until who was in its way is decided, then goes at once: its
// PREPARE comes behind the COMMIT, and before what came later.
func TestParkedUntilDecided(t *testing.T) {
	b, first, refused := blocked(t)
	r := b.retry(3, refused, "x")
	b.wantAnswer(r, "")
	b.wantPrepares(1, 2)
	if got := b.m.Status().Queued; got != 1 {
		t.Errorf("status shows %d that wait, want 1", got)
	}
	b.all("a", "b")
	b.wantPrepares(1, 2)
	b.all("c")
	b.wantAnswer(first, "committed")
	b.wantPrepares(1, 2, 3)
	if got := b.sent[0]; got[len(got)-2].Kind != wire.EntryCommit || got[len(got)-1].Kind != wire.EntryPrepare {
		t.Errorf("put %v, want COMMIT and the retry's PREPARE behind it", got)
	}
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
}

// First come, first served: of those behind one transaction because of one lock each is
// put when the one before is decided, none is aborted, and what comes later has to wait.
func TestParkedInOrder(t *testing.T) {
	b, _, refused := blocked(t)
	parked := []*Request{b.retry(3, refused, "x"), b.retry(4, refused, "x"), b.retry(5, refused, "x")}
	b.all("a", "b", "c") // 1 is decided
	b.wantPrepares(1, 2, 3)
	late := b.submit(6, "x")
	b.all("a", "b", "c") // 3 is decided
	b.wantAnswer(late, "conflict")
	b.wantPrepares(1, 2, 3, 6, 4)
	lastly := b.behind(7, wire.Behind{Tx: b.m.order[len(b.m.order)-1].id, Key: keyOf("x")}, "x")
	b.settle()
	b.wantPrepares(1, 2, 3, 6, 4, 5, 7)
	for _, r := range append(parked, lastly) {
		b.wantAnswer(r, "committed")
	}
	b.wantEqual()
}

// Who waits for the same transaction because of other locks does not wait for each other.
func TestParkedBehindOneOnDifferentFiles(t *testing.T) {
	b := newBench(t).serve()
	first := b.submit(1, "x", "y")
	x, y := b.submit(2, "x"), b.submit(3, "y")
	b.handle("a", "b", "c")
	b.deliver("a", "b", "c")
	rx, rx2, ry := b.retry(4, x, "x"), b.retry(5, x, "x"), b.retry(6, y, "y")
	b.all("a", "b", "c")
	b.wantAnswer(first, "committed")
	b.wantPrepares(1, 2, 3, 4, 6)
	b.settle()
	for _, r := range []*Request{rx, rx2, ry} {
		b.wantAnswer(r, "committed")
	}
	b.wantEqual()
}

// An ABORT lets them go as well, and so does a NO of all.
func TestParkedBehindAnAbort(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "no-b", "x")
	r := b.behind(2, wire.Behind{Tx: wire.MakeID(1, 2), Key: keyOf("x")}, "x")
	b.wantPrepares(1)
	b.all("a", "b", "c")
	b.wantPrepares(1, 2)
	b.settle()
	b.wantAnswer(r, "committed")

	refused := b.submit(3, "no-a", "no-b", "no-c")
	again := b.behind(4, wire.Behind{Tx: refused.tx.id}, "x")
	b.wantPrepares(1, 2, 3)
	b.settle()
	b.wantAnswer(refused, "no space left")
	b.wantAnswer(again, "committed")
	b.wantEqual()
}

// What is not known to be undecided is not waited for: decided long ago, never put, of
// another epoch.
func TestParkedBehindNobody(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x", "y")
	b.settle()
	b.submit(2, "u")
	for i, id := range []wire.ID{wire.MakeID(1, 2), wire.MakeID(1, 3), wire.MakeID(1, 1000), wire.MakeID(7, 2), 0, ^wire.ID(0)} {
		b.behind(uint64(3+i), wire.Behind{Tx: id}, "x"+string(rune('0'+i)))
	}
	b.wantPrepares(1, 2, 3, 4, 5, 6, 7, 8)
	b.settle()
	b.wantEqual()
}

// A participant is slow: patience ends with a conflict, the wait with "unavailable", and
// each says who is missing. Those behind them go on in their order.
func TestParkedPatience(t *testing.T) {
	b, first, refused := blocked(t)
	b.all("a", "b")
	e := b.reply(refused).Err
	short := b.behind(3, wire.Behind{Tx: e.Blocker, Key: e.Key, Patience: 300}, "x")
	waits := b.behind(4, wire.Behind{Tx: e.Blocker, Key: e.Key}, "x")
	waits.deadline = b.m.now + 400
	stays := b.behind(5, wire.Behind{Tx: e.Blocker, Key: e.Key}, "x")
	b.m.Tick(299)
	b.run()
	b.wantAnswer(short, "")
	b.m.Tick(1)
	b.run()
	b.wantAnswer(short, "conflict")
	if got := b.reply(short).Err; got.Blocker != e.Blocker || got.Key != e.Key || !strings.Contains(got.Text, "waits for c") {
		t.Errorf("%+v: want who is in the way, and who is missing", got)
	}
	b.wantAnswer(waits, "")
	b.m.Tick(100)
	b.run()
	b.wantAnswer(waits, "unavailable")
	if text := b.reply(waits).Err.Text; !strings.Contains(text, "waits for c") {
		t.Errorf("who is missing? %s", text)
	}
	b.settle()
	b.wantAnswer(first, "committed")
	b.wantAnswer(stays, "committed")
	b.wantPrepares(1, 2, 5)
	b.wantEqual()
}

// A participant is away: who is parked waits until it is back, as any change does that
// comes then, however long. Only the wait ends, and says who is missing.
func TestParkedInAnOutage(t *testing.T) {
	b, first, refused := blocked(t)
	b.all("a", "b")
	b.breakLink("c")
	e := b.reply(refused).Err
	short := b.behind(3, wire.Behind{Tx: e.Blocker, Key: e.Key, Patience: 10_000}, "x")
	waits := b.behind(4, wire.Behind{Tx: e.Blocker, Key: e.Key, Patience: 10_000}, "x")
	waits.deadline = b.m.now + 400
	other := b.submit(5, "y")
	b.m.Tick(399)
	b.run()
	b.wantAnswer(waits, "")
	b.m.Tick(1)
	b.run()
	b.wantAnswer(waits, "unavailable")
	if text := b.reply(waits).Err.Text; !strings.Contains(text, "waits for c") {
		t.Errorf("who is missing? %s", text)
	}
	b.m.Tick(60_000)
	b.run()
	b.wantAnswer(short, "")
	b.wantAnswer(other, "")
	b.settle()
	for _, r := range []*Request{first, short, other} {
		b.wantAnswer(r, "committed")
	}
	b.wantPrepares(1, 2, 5, 3)
	b.wantEqual()
}

// Who goes away leaves its place to who is behind: parked, or first but not put.
func TestParkedLeave(t *testing.T) {
	for _, full := range []bool{false, true} {
		b, _, refused := blocked(t)
		r3, r4, r5, r6 := b.retry(3, refused, "x"), b.retry(4, refused, "x"), b.retry(5, refused, "x"), b.retry(6, refused, "x")
		if full { // 3 is the first, and cannot be put
			b.m.full = true
			b.all("a", "b", "c")
			b.wantPrepares(1, 2)
		}
		for _, r := range []*Request{r4, r3, r5} {
			b.m.Cancel(r)
			b.run()
			b.wantAnswer(r, "canceled")
		}
		b.wantPrepares(1, 2)
		b.m.full = false
		b.settle()
		b.wantAnswer(r6, "committed")
		b.wantPrepares(1, 2, 6)
		b.wantEqual()
	}
}

// A new link of the session ends what is parked; the same request parked twice is one.
func TestParkedByAReplacedLink(t *testing.T) {
	b, _, refused := blocked(t)
	old := b.retry(3, refused, "x")
	again := b.retry(3, refused, "x")
	b.wantAnswer(old, "replaced by a newer link of the session")
	b.attach()
	b.run()
	b.wantAnswer(again, "replaced by a newer link of the session")
	anew := b.retry(3, refused, "x")
	b.settle()
	b.wantAnswer(anew, "committed")
	b.wantPrepares(1, 2, 3)
	b.wantEqual()
}

// What is parked counts where what waits is bounded, and leaves half of that to the
// others: a client cannot keep all from what they want by a line of its own. It keeps its
// session, and hears when the coordinator shuts down.
func TestParkedIsBoundedAndEnds(t *testing.T) {
	b := newBench(t)
	b.opts.MaxQueued = 4
	b.opts.MaxQueuedBytes = 20_000
	b.start()
	b.serve()
	behind := wire.Behind{Tx: b.submit(1, "x").tx.id, Key: keyOf("x")}
	one, two, three := b.behind(2, behind, "x"), b.behind(3, behind, "x"), b.behind(4, behind, "x")
	b.wantAnswer(three, "unavailable")
	b.submit(5, "y")
	b.wantPrepares(1, 5)
	b.m.full = true
	others := []*Request{b.submit(6, "y"), b.submit(7, "y"), b.submit(8, "y")}
	b.wantAnswer(others[2], "unavailable")
	b.m.Cancel(others[0])
	b.m.Cancel(others[1])
	b.m.Cancel(two)
	large := &Request{Payload: make([]byte, 10_000), Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 9}, Link: b.link, Lowest: 1, Mutations: writeTo("x"), Behind: &behind}}
	b.m.Submit(large)
	b.run()
	b.wantAnswer(large, "unavailable")
	b.m.full = false
	two = b.behind(10, behind, "x")
	b.wantAnswer(two, "")
	if !b.m.waits(alice) {
		t.Error("a session with parked requests is idle")
	}
	b.m.Shut()
	b.run()
	b.wantAnswer(one, "unavailable")
	b.wantAnswer(two, "unavailable")
	b.settle()
	b.wantPrepares(1, 5)
	b.wantEqual()
}

// Where mounts get in each other's way somebody may be parked at any time: what nobody
// names goes all the same, and what a parked request names does not.
func TestParkedAndStages(t *testing.T) {
	b, _, refused := blocked(t)
	left, named, piece, pack, part := b.stage(true), b.stage(true), b.stage(true), b.stage(true), b.stage(true)
	e := b.reply(refused).Err
	for i, r := range []*Request{
		{Transact: wire.Transact{Mutations: writeTo("x")}},
		{Transact: wire.Transact{Mutations: writeTo("x")}},
		{Transact: wire.Transact{Pack: &wire.Pack{Stage: pack, Stages: []wire.ID{part}, Count: 1, Name: "x"}}},
	} {
		q := &r.Transact
		q.Op, q.Link, q.Behind = wire.OpID{Session: alice, Seq: uint64(3 + i)}, b.link, &wire.Behind{Tx: e.Blocker, Key: e.Key}
		switch i {
		case 0:
			q.Mutations[0].Content.Stage = named
		case 1:
			q.Mutations[0].Extents = []wire.Extent{{Stage: piece}}
		}
		b.m.Submit(r)
	}
	b.m.Tick(b.m.o.StageIdle - 1)
	b.run()
	b.wantUnstaged()
	b.m.Tick(1)
	b.run()
	b.wantUnstaged(left)
}

// The coordinator dies: what was parked is sent again, and finds nobody in its way.
func TestParkedAndCrash(t *testing.T) {
	b, _, refused := blocked(t)
	e := b.reply(refused).Err
	b.retry(3, refused, "x")
	b.start()
	b.serve()
	r := b.behind(3, wire.Behind{Tx: e.Blocker, Key: e.Key}, "x")
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
}

// However many are parked behind one another, and cannot be put, they end at once: each
// leaves its place to the next without a look at the rest.
func TestParkedManyEnd(t *testing.T) {
	const many = 4000
	for name, end := range map[string]func(b *bench, parked []*Request){
		"no time left": func(b *bench, _ []*Request) { b.m.Tick(1000) },
		"a new link":   func(b *bench, _ []*Request) { b.attach() },
		"given up": func(b *bench, parked []*Request) {
			for _, r := range parked {
				b.m.Cancel(r)
			}
		},
		"shut": func(b *bench, _ []*Request) { b.m.Shut() },
	} {
		b := newBench(t).serve()
		tx := b.submit(1, "x").tx.id
		var parked []*Request
		for i := range many {
			r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: uint64(2 + i)}, Link: b.link, Wait: 1000, Mutations: writeTo("x"), Behind: &wire.Behind{Tx: tx}}}
			b.m.Submit(r)
			parked = append(parked, r)
		}
		b.m.full = true
		b.all("a", "b", "c")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		end(b, parked)
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / many; got > 4<<10 {
			t.Errorf("%s: %d bytes for each of %d", name, got, many)
		}
		b.run()
		if len(b.replies) != 1+many || len(b.m.queued)+len(b.m.queue)+len(b.m.unput()) != 0 || b.m.waiting != 0 {
			t.Errorf("%s: %d answers; %d wait, %d in the queue", name, len(b.replies), len(b.m.queued), len(b.m.queue))
		}
	}
}
