package commit

import (
	"strings"
	"testing"

	"tpcfs/wire"
)

func TestCommit(t *testing.T) {
	b := newBench(t).serve()
	point := b.m.ReadPoint()
	r := b.submit(1, "x")
	b.handle("a", "b", "c")
	b.fake("a").sync()
	b.fake("b").sync()
	b.deliver("a", "b")
	b.wantAnswer(r, "")
	if b.m.ReadPoint() != point {
		t.Error("a PREPARE moved the read point")
	}
	before := len(b.journal)
	b.fake("c").sync()
	b.deliver("c")
	b.wantAnswer(r, "committed")
	if b.m.ReadPoint() != b.m.last || !strings.HasPrefix(b.lastSent("a"), "COMMIT") {
		t.Errorf("read point %d, last %s: want that of COMMIT, put before the reply (P3, P5)", b.m.ReadPoint(), b.lastSent("a"))
	}
	for _, rec := range b.journal[before:] {
		if rec.Kind.Forced() {
			t.Errorf("a forced %v on the commit path", rec.Kind)
		}
	}
	b.settle()
	b.wantEqual()
}

func TestIDsAreReserved(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x", "y", "z")
	stage, err := b.m.BeginStage(alice, b.link)
	if err != nil {
		t.Fatal(err)
	}
	b.submit(2, "u")
	ids := map[uint64]wire.ID{}
	for _, e := range b.sent[0] {
		if e.Kind == wire.EntryPrepare {
			ids[e.Prepare.Op.Seq] = e.Prepare.Tx
		}
	}
	if ids[1] != wire.MakeID(1, 2) || stage != wire.MakeID(1, 5) || ids[2] != wire.MakeID(1, 6) {
		t.Errorf("ids %v, stage %v", ids, stage)
	}
}

// All refuse: nobody has it, and the client hears it at once (P4).
func TestAllNo(t *testing.T) {
	b := newBench(t).serve()
	first := b.submit(1, "x")
	r := b.submit(2, "x")
	b.handle("a", "b", "c")
	b.deliver("a", "b", "c")
	b.wantAnswer(r, "conflict")
	b.wantAnswer(first, "")
	if rep := b.reply(r); rep.Err.Who != "" {
		t.Errorf("a conflict is nobody's in particular: %v", rep.Err.Who)
	}
	b.settle()
	b.wantAnswer(first, "committed")
	b.wantEqual()
}

// Traces of M-P4: "aborted" only when ABORT is durable at every member.
func TestMixedVotes(t *testing.T) {
	b := newBench(t).serve()
	r := b.submit(1, "no-b", "x")
	b.all("a", "b", "c")
	b.wantAnswer(r, "")
	if got := b.lastSent("a"); !strings.HasPrefix(got, "ABORT") {
		t.Fatalf("sent %s", got)
	}
	b.all("a", "b")
	b.handle("c")
	b.deliver("c")
	b.wantAnswer(r, "")
	b.all("c")
	b.wantAnswer(r, "no space left")
	if e := b.reply(r).Err; e.Who != "b" {
		t.Errorf("who is full? %q: %v", e.Who, e)
	}
	b.settle()
	b.wantEqual()
}

// The coordinator dies between ABORT and its being durable everywhere: the
// client has heard nothing, and whatever recovery says is right.
func TestMixedVotesAndCrash(t *testing.T) {
	for _, lost := range []bool{false, true} {
		b := newBench(t).serve()
		r := b.submit(1, "no-b", "x")
		b.all("a", "b", "c")
		b.handle("b")
		if !lost {
			b.sync()
		}
		b.wantAnswer(r, "")
		b.start()
		b.serve()
		again := b.submit(1, "no-b", "x")
		b.settle()
		if got := b.answer(again); got != "conflict" && got != "no space left" {
			t.Errorf("lost %v: the retry heard %q", lost, got)
		}
		b.settle()
		b.wantEqual()
		if len(b.fake("a").s.vals) != 0 {
			t.Errorf("lost %v: it happened all the same", lost)
		}
	}
}

func TestReasonForNo(t *testing.T) {
	e := func(c wire.Code) *wire.Error { return wire.NewError(c, "because") }
	for _, tc := range []struct {
		errs []*wire.Error
		want wire.Code
		who  string
	}{
		{[]*wire.Error{e(wire.CodeNoSpace), e(wire.CodeConflict), nil}, wire.CodeConflict, ""},
		{[]*wire.Error{e(wire.CodeConflict), e(wire.CodeNotExist), nil}, wire.CodeNotExist, ""},
		{[]*wire.Error{nil, e(wire.CodeStageLost), e(wire.CodeNoSpace)}, wire.CodeNoSpace, "c"},
		{[]*wire.Error{nil, e(wire.CodeStageLost), nil}, wire.CodeStageLost, "b"},
		{[]*wire.Error{e(wire.CodeNotExist), e(wire.CodeUnknownOutcome), e(wire.CodeNoSpace)}, wire.CodeUnknownOutcome, ""},
		{[]*wire.Error{nil, e(wire.CodeCorrupt), nil}, wire.CodeCorrupt, "b"},
	} {
		m := newBench(t).m
		got := m.reason(&tx{errs: tc.errs})
		if got.Code != tc.want || got.Who != tc.who {
			t.Errorf("%v: %v by %q", tc.errs, got.Code, got.Who)
		}
	}
}

// Trace "unavailable for one in flight": once put, a lost member means unknown.
func TestUnavailableOnlyIfNotPut(t *testing.T) {
	b := newBench(t).serve()
	put := b.submit(1, "x")
	b.breakLink("a")
	waits := b.submit(2, "y")
	b.m.queue[0].deadline = b.m.now + 1000
	put.deadline = b.m.now + 1000
	b.m.Tick(999)
	b.run()
	b.wantAnswer(put, "")
	b.wantAnswer(waits, "")
	b.m.Tick(1)
	b.run()
	b.wantAnswer(put, "outcome unknown")
	b.wantAnswer(waits, "unavailable")
	if text := b.reply(waits).Err.Text; !strings.Contains(text, "participant a") {
		t.Errorf("who is missing? %s", text)
	}
	if text := b.reply(put).Err.Text; !strings.Contains(text, "a") {
		t.Errorf("who is missing? %s", text)
	}
	// It goes on without the client, and a retry hears its outcome.
	retry := b.submit(1, "x")
	b.settle()
	b.wantAnswer(retry, "committed")
	again := b.submit(2, "y")
	b.settle()
	b.wantAnswer(again, "committed")
	b.settle()
	b.wantEqual()
}

func TestCancel(t *testing.T) {
	b := newBench(t).serve()
	put := b.submit(1, "x")
	b.breakLink("c")
	waits := b.submit(2, "y")
	b.m.Cancel(put)
	b.m.Cancel(waits)
	b.run()
	b.wantAnswer(put, "outcome unknown")
	b.wantAnswer(waits, "canceled")
	b.m.Cancel(put) // again: nothing
	b.settle()
	b.wantEqual()
	if len(b.fake("a").s.vals) != 1 {
		t.Error("what was put goes on without its client")
	}
}

// W5: a retry joins the attempt in flight; later its outcome is told from
// memory; when that is forgotten the participants know it.
func TestRetries(t *testing.T) {
	b := newBench(t).serve()
	first := b.submit(1, "x")
	b.attach()
	retry := b.submit(1, "x")
	b.all("a", "b", "c")
	b.wantAnswer(first, "committed")
	b.wantAnswer(retry, "committed")
	known := b.submit(1, "x")
	b.wantAnswer(known, "committed")
	b.settle()
	b.wantEqual()
	dup := b.submit(1, "x")
	b.wantAnswer(dup, "")
	b.all("a")
	b.wantAnswer(dup, "committed")
	if got, want := b.reply(dup).Reply.Outcome.Tx, b.reply(first).Reply.Outcome.Tx; got != want {
		t.Errorf("the retry heard of transaction %v, the first attempt was %v", got, want)
	}
	b.settle()
	b.wantEqual()
}

// W5: what waits by a replaced link is never put; what comes by one is refused.
func TestReplacedLink(t *testing.T) {
	b := newBench(t).serve()
	b.breakLink("a")
	old := b.link
	waits := b.submit(1, "x")
	b.attach()
	b.run()
	b.wantAnswer(waits, "replaced by a newer link of the session")
	late := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 2}, Link: old, Mutations: writeTo("y")}}
	b.m.Submit(late)
	stranger := &Request{Transact: wire.Transact{Op: wire.OpID{Session: wire.SessionID{9}, Seq: 1}, Link: old, Mutations: writeTo("y")}}
	b.m.Submit(stranger)
	b.run()
	b.wantAnswer(late, "replaced by a newer link of the session")
	b.wantAnswer(stranger, "replaced by a newer link of the session")
	b.settle()
	b.wantEqual()
	if len(b.fake("b").s.vals) != 0 {
		t.Error("something was put")
	}
}

func TestLowest(t *testing.T) {
	b := newBench(t).serve()
	r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 7}, Link: b.link, Lowest: 6, Mutations: writeTo("x")}}
	b.m.Submit(r)
	b.run()
	below := b.submit(5, "y")
	b.wantAnswer(below, "protocol error")
	zero := b.submit(0, "y")
	b.wantAnswer(zero, "protocol error")
	equal := b.submit(6, "y")
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantAnswer(equal, "committed")
}

func TestRequestLimits(t *testing.T) {
	b := newBench(t).serve()
	send := func(muts []wire.Mutation, payload int) string {
		r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 1}, Link: b.link, Mutations: muts}, Payload: make([]byte, payload)}
		b.m.Submit(r)
		b.run()
		a := b.answer(r)
		b.replies = nil
		if a == "" {
			b.settle()
		}
		return a
	}
	if got := send(nil, 0); got != "invalid argument" {
		t.Errorf("no mutations: %q", got)
	}
	if got := send(make([]wire.Mutation, wire.MaxMutations+1), 0); got != "over a limit" {
		t.Errorf("too many mutations: %q", got)
	}
	if got := send(writeTo("x"), wire.MaxInline+1); got != "over a limit" {
		t.Errorf("too much inline: %q", got)
	}
	if got := send(writeTo(strings.Repeat("x", wire.MaxBindings+1)), 0); got != "name too long" {
		t.Errorf("names too long: %q", got)
	}
	if got := send(make([]wire.Mutation, wire.MaxMutations), 0); got != "" {
		t.Errorf("as many as allowed: %q", got)
	}
	many := writeTo("x")
	many[0] = wire.Mutation{Kind: wire.MutSetattr, At: wire.At{Dir: 1 << 62, Path: "x"}, To: wire.At{Dir: 1 << 62}, IfVersion: 1 << 62, Create: 2, Mode: 1 << 31, UID: 1 << 31, GID: 1 << 31,
		Target: "x", Set: 1 << 15, Size: 1 << 62, Atime: -1 << 62, Mtime: -1 << 62, Content: wire.Content{Size: 1 << 43, Stage: 1 << 62, Sum: 1 << 31}, Ctime: -1 << 62}
	if n := len(wire.Marshal(many)); n > many[0].Cost() {
		t.Errorf("a mutation takes %d bytes", n)
	}
	for len(many) < wire.MaxMutations {
		many = append(many, many[0])
	}
	if got := send(many, 0); got != "over a limit" {
		t.Errorf("a transaction that no frame holds: %q", got)
	}
	if got := send(writeTo("x"), wire.MaxInline); got != "" {
		t.Errorf("as much as allowed: %q", got)
	}
}

// P9: what is in flight is bounded, by entries and by bytes; the rest waits in
// order, and beyond that is refused.
func TestPushBack(t *testing.T) {
	b := newBench(t)
	b.opts.MaxAhead = 4
	b.opts.MaxQueued = 3
	b.start()
	b.serve()
	var rs []*Request
	for i := range 8 {
		rs = append(rs, b.submit(uint64(i+1), "f"+string(rune('a'+i))))
	}
	prepares := func() (n int) {
		for _, e := range b.sent[0] {
			if e.Kind == wire.EntryPrepare {
				n++
			}
		}
		return n
	}
	if prepares() != 4 {
		t.Errorf("%d put, want 4", prepares())
	}
	b.wantAnswer(rs[7], "unavailable")
	b.settle()
	for _, r := range rs[:7] {
		b.wantAnswer(r, "committed")
	}
	b.wantEqual()

	b = newBench(t)
	b.opts.MaxBytes = 1
	b.start()
	b.serve()
	b.submit(1, "x")
	b.submit(2, "y")
	if len(b.m.queue) != 1 {
		t.Errorf("%d wait for room in memory, want 1", len(b.m.queue))
	}
	b.settle()
	b.wantEqual()
}

// P10: the stream goes on where the member was; counted NOs come as VOID.
func TestResume(t *testing.T) {
	b := newBench(t).serve()
	r1 := b.submit(1, "no-b", "x")
	b.handle("b")
	b.deliver("b")                   // the NO is counted
	b.crash("b", b.fake("b").synced) // and forgotten there
	from := b.fake("b").s.pos.Index  // before the PREPARE
	n := len(b.sent[b.index("b")])
	b.greet("b")
	resent := b.sent[b.index("b")][n:]
	if len(resent) != 1 || resent[0].Kind != wire.EntryVoid || resent[0].Index != from+1 {
		t.Fatalf("re-sent after %d: %v", from, resent)
	}
	r2 := b.submit(2, "y")
	b.settle()
	b.wantAnswer(r1, "no space left")
	b.wantAnswer(r2, "committed")
	b.settle()
	b.wantEqual()
}

// P10: a lost NO is inferred, with its reason if the member still has it; a
// lost YES comes again; a lost DUP is inferred as such.
func TestResumeVotes(t *testing.T) {
	t.Run("no", func(t *testing.T) {
		b := newBench(t).serve()
		r := b.submit(1, "no-b", "x")
		b.all("a", "c")
		b.handle("b")
		b.breakLink("b")
		b.settle()
		b.wantAnswer(r, "no space left")
		b.settle()
		b.wantEqual()
	})
	t.Run("no, all", func(t *testing.T) {
		b := newBench(t).serve()
		b.submit(1, "x")
		b.handle("a", "b", "c")
		r := b.submit(2, "x")
		b.handle("a", "b", "c")
		b.breakLink("b")
		b.deliver("a", "c")
		b.wantAnswer(r, "")
		b.greet("b")
		b.wantAnswer(r, "conflict")
		b.settle()
		b.wantEqual()
	})
	t.Run("yes", func(t *testing.T) {
		b := newBench(t).serve()
		r := b.submit(1, "x")
		b.all("a", "c")
		b.handle("b")
		b.fake("b").sync()
		b.breakLink("b")
		b.wantAnswer(r, "")
		b.greet("b")
		b.fake("b").sync()
		b.deliver("b")
		b.wantAnswer(r, "committed")
		b.settle()
		b.wantEqual()
	})
	t.Run("dup", func(t *testing.T) {
		b := newBench(t).serve()
		b.submit(1, "x")
		b.settle()
		r := b.submit(1, "x")
		b.handle("a", "b", "c")
		for _, n := range []string{"a", "b", "c"} {
			b.breakLink(n)
		}
		b.wantAnswer(r, "")
		b.greet("b")
		b.wantAnswer(r, "committed")
		b.settle()
		b.wantEqual()
	})
	t.Run("reason unknown", func(t *testing.T) {
		b := newBench(t).serve()
		r := b.submit(1, "x")
		b.all("a", "c")
		b.handle("b")
		g, _ := b.fake("b").greet(b.m.Greet(1))
		g.Known = nil
		b.m.LinkDown(1, b.fake("b").link)
		_, _ = b.m.Greeted(1, g)
		b.run()
		if got := b.lastSent("a"); !strings.HasPrefix(got, "ABORT") {
			t.Errorf("%s, want ABORT", got)
		}
		b.wantAnswer(r, "")
	})
}

// What an old link brings late does not count: its NO may be forgotten at a
// member that now gets the PREPARE again.
func TestOldLink(t *testing.T) {
	b := newBench(t).serve()
	r := b.submit(1, "x")
	old := b.fake("b").link
	id, index := b.m.order[0].id, b.m.order[0].index
	b.all("a", "c")
	b.crash("b", b.fake("b").synced)
	b.greet("b")
	b.m.Up(1, old, &wire.Up{Handled: index, Votes: []wire.Vote{{Index: index, Tx: id, Verdict: wire.VoteNo}}})
	b.m.LinkDown(1, old)
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
}

// A NO whose reason is none, or that has none, is a refusal all the same: nobody
// hears of success.
func TestNoWithoutReason(t *testing.T) {
	for _, reason := range []*wire.Error{nil, {Text: "so it says"}} {
		b := newBench(t).serve()
		r := b.submit(1, "x")
		id, index := b.m.order[0].id, b.m.order[0].index
		for i, name := range []string{"a", "b", "c"} {
			b.m.Up(i, b.fake(name).link, &wire.Up{Handled: index, Durable: index, Votes: []wire.Vote{{Index: index, Tx: id, Verdict: wire.VoteNo, Err: reason}}})
		}
		b.run()
		b.wantAnswer(r, wire.CodeIO.String())
	}
}

func TestBreaches(t *testing.T) {
	for _, up := range []wire.Up{
		{Handled: 1000},
		{Durable: 1000},
		{Votes: []wire.Vote{{Index: 1000, Tx: 1, Verdict: wire.VoteYes}}},
		{Votes: []wire.Vote{{Index: 3, Tx: 77, Verdict: wire.VoteYes}}},
		{Votes: []wire.Vote{{Index: 3, Tx: wire.MakeID(1, 2), Verdict: 9}}},
	} {
		b := newBench(t).serve()
		b.submit(1, "x")
		if b.m.order[0].index != 3 {
			t.Fatal("not entry 3")
		}
		b.m.Up(0, b.fake("a").link, &up)
		b.run()
		if len(b.dropped) != 1 || b.m.members[0].linked {
			t.Errorf("%+v was taken", up)
		}
	}
}

// Service time moves only while writes are possible, and never back.
func TestServiceTime(t *testing.T) {
	b := newBench(t).serve()
	at := b.m.state.ServiceTime
	b.m.Tick(100)
	if got := b.m.state.ServiceTime; got != at+100 {
		t.Errorf("%d after 100 ms from %d", got, at)
	}
	b.breakLink("c")
	b.m.Tick(5000)
	if got := b.m.state.ServiceTime; got != at+100 {
		t.Errorf("moved in an outage: %d", got)
	}
	b.settle()
	b.submit(1, "x") // carries it to the members
	b.settle()
	least := b.fake("b").s.svc
	b.durable = 1 + 1 // EPOCH and CONFIG alone
	b.start()
	b.serve()
	if b.m.state.ServiceTime < least {
		t.Errorf("%d after a restart, b was told %d", b.m.state.ServiceTime, least)
	}
}

// Transactions' times never run backwards, also when the clock does.
func TestClock(t *testing.T) {
	b := newBench(t).serve()
	times := map[uint64]int64{}
	note := func() {
		for _, e := range b.sent[0] {
			if e.Kind == wire.EntryPrepare {
				times[e.Prepare.Op.Seq] = e.Prepare.Time
			}
		}
	}
	b.m.Clock(1000)
	b.submit(1, "x")
	b.m.Clock(900)
	b.submit(2, "y")
	b.settle()
	b.sync()
	note()
	b.start()
	b.serve()
	b.m.Clock(800)
	b.submit(3, "z")
	note()
	if times[1] != 1000 || times[2] != 1001 || times[3] != 1002 { // of each change another
		t.Errorf("times %v", times)
	}
}

func TestHeartbeats(t *testing.T) {
	b := newBench(t).serve()
	b.m.Tick(500)
	rd := b.m.Ready()
	n := 0
	for _, s := range rd.Sends {
		if s.Down.Entry == nil && s.Down.W == b.m.w {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d heartbeats, want 3", n)
	}
	b.m.Tick(499)
	if rd := b.m.Ready(); len(rd.Sends) != 0 {
		t.Errorf("%d messages before the next is due", len(rd.Sends))
	}
}

func TestShut(t *testing.T) {
	b := newBench(t).serve()
	put := b.submit(1, "x")
	b.breakLink("a")
	waits := b.submit(2, "y")
	b.m.Shut()
	b.run()
	b.wantAnswer(waits, "unavailable")
	b.wantAnswer(put, "")
	if b.m.Idle() || b.m.Settled() {
		t.Error("idle, although a client waits")
	}
	b.m.Halt(wire.NewError(wire.CodeUnavailable, "closed"))
	b.run()
	b.wantAnswer(put, "outcome unknown")
	late := b.submit(3, "z")
	b.wantAnswer(late, "unavailable")
}

// A clean end leaves nothing in doubt, if all are there.
func TestSettled(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.m.Shut()
	b.all("a", "b", "c")
	b.all("a", "b")
	if !b.m.Idle() || b.m.Settled() {
		t.Error("settled, although c does not have the COMMIT")
	}
	b.breakLink("c")
	if !b.m.Settled() {
		t.Error("waits for somebody who is not there")
	}
	b.greet("c")
	b.all("c")
	if !b.m.Settled() {
		t.Error("not settled")
	}
}

func TestJournalFull(t *testing.T) {
	b := newBench(t).serve()
	b.m.JournalFull(true)
	r := b.submit(1, "x")
	b.settle()
	b.wantAnswer(r, "")
	b.m.JournalFull(false)
	b.settle()
	b.wantAnswer(r, "committed")
}

func TestStatus(t *testing.T) {
	b := newBench(t)
	b.greet("a")
	if s := b.m.Status(); s.Serving || strings.Join(s.WaitsFor, ",") != "b,c" {
		t.Errorf("waits for %v", s.WaitsFor)
	}
	b.serve()
	b.submit(1, "x")
	b.all("a")
	s := b.m.Status()
	if !s.Serving || len(s.InDoubt) != 1 || strings.Join(s.InDoubt[0].Missing, ",") != "b,c" || s.InDoubt[0].Names[0] != "x" || s.Sessions != 1 {
		t.Errorf("%+v", s)
	}
	b.all("b", "c")
	if s := b.m.Status(); len(s.InDoubt) != 1 || s.InDoubt[0].Decision != "commit" {
		t.Errorf("%+v", s.InDoubt)
	}
	b.settle()
	if s := b.m.Status(); len(s.InDoubt) != 0 || s.W != s.Last {
		t.Errorf("%+v", s)
	}
}

// A member's first vote counts: who has refused does not agree later, as one
// would that tells again what it has been told twice (P10).
func TestFirstVoteCounts(t *testing.T) {
	b := newBench(t).serve()
	r := b.submit(1, "x")
	id, index := b.m.order[0].id, b.m.order[0].index
	say := func(name string, v wire.Vote) {
		v.Index, v.Tx = index, id
		i := b.index(name)
		b.m.Up(i, b.fake(name).link, &wire.Up{Handled: index, Durable: index, Votes: []wire.Vote{v}})
		b.run()
	}
	say("a", wire.Vote{Verdict: wire.VoteNo, Err: wire.NewError(wire.CodeNoSpace, "full")})
	say("a", wire.Vote{Verdict: wire.VoteYes, Outcome: &wire.Outcome{Tx: id}})
	say("b", wire.Vote{Verdict: wire.VoteYes, Outcome: &wire.Outcome{Tx: id}})
	say("c", wire.Vote{Verdict: wire.VoteYes, Outcome: &wire.Outcome{Tx: id}})
	for _, e := range b.sent[0] {
		if e.Kind == wire.EntryCommit {
			t.Error("what one has refused is committed")
		}
	}
	b.wantAnswer(r, "")
}
