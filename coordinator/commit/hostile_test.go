package commit

import (
	"strings"
	"testing"

	"tpcfs/wire"
)

// A member is named also where its words happen to hold its name.
func TestReasonNamesTheMember(t *testing.T) {
	m := newBench(t).m
	e := wire.NewError(wire.CodeNoSpace, "the disk was full before: be patient")
	if got := m.reason(&tx{errs: []*wire.Error{nil, e, nil}}); !strings.HasPrefix(got.Text, "participant b: ") {
		t.Errorf("%v", got)
	}
}

// A client that makes sessions without end costs no more than the bound, and
// who has changed something, waits, stages or holds something stays.
func TestSessionsAreBounded(t *testing.T) {
	b := newBench(t)
	b.opts.MaxSessions = 100
	b.start()
	b.serve()
	r := b.submit(1, "x")
	b.settle()
	b.wantAnswer(r, "committed")
	stager := wire.SessionID{9}
	link := b.m.Attach(stager).Link
	if _, err := b.m.BeginStage(stager, link); err != nil {
		t.Fatal(err)
	}
	idle := wire.SessionID{8}
	b.m.Attach(idle)
	for i := range 10_000 {
		b.m.now++
		b.m.Attach(wire.SessionID{7, byte(i), byte(i >> 8)})
		if n := len(b.m.sessions); n > 100 {
			t.Fatalf("%d sessions", n)
		}
	}
	if b.m.sessions[alice] == nil || b.m.sessions[stager] == nil || b.m.sessions[idle] != nil {
		t.Error("the wrong ones were forgotten")
	}
	again := b.submit(1, "x")
	b.settle()
	b.wantAnswer(again, "committed")
}

// What a session stages and never uses is bounded; it goes with the silence.
func TestUnusedStagesAreBounded(t *testing.T) {
	b := newBench(t).serve()
	s := b.m.sessions[alice]
	s.stages = maxStaged - 1
	id, err := b.m.BeginStage(alice, b.link)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.m.BeginStage(alice, b.link); err == nil || err.Code != wire.CodeTooMany {
		t.Fatalf("one stage more: %v", err)
	}
	b.m.EndStage(id, true)
	b.m.now += b.m.o.StageIdle
	b.m.expireSessions()
	if s.stages != maxStaged-1 || b.m.stages[id] != nil {
		t.Errorf("%d are counted after it went", s.stages)
	}
}

// A client that does not go by the library's limits is refused by the machine.
func TestOversizedRequests(t *testing.T) {
	mutation := func(change func(m *wire.Mutation)) []wire.Mutation {
		m := writeTo("x")
		change(&m[0])
		return m
	}
	for name, tc := range map[string]struct {
		muts []wire.Mutation
		want wire.Code
		says string
	}{
		"extents":    {mutation(func(m *wire.Mutation) { m.Extents = make([]wire.Extent, wire.MaxExtents+1) }), wire.CodeTooMany, "4096"},
		"a value":    {mutation(func(m *wire.Mutation) { m.Value = make([]byte, wire.MaxXattrValue+1) }), wire.CodeTooMany, "65536"},
		"a name":     {mutation(func(m *wire.Mutation) { m.Name = strings.Repeat("n", 256) }), wire.CodeNameTooLong, "255"},
		"a path":     {mutation(func(m *wire.Mutation) { m.At.Path = strings.Repeat("n", 4097) }), wire.CodeNameTooLong, "4096"},
		"another":    {mutation(func(m *wire.Mutation) { m.To.Path = strings.Repeat("n", 4097) }), wire.CodeNameTooLong, "4096"},
		"a target":   {mutation(func(m *wire.Mutation) { m.Target = strings.Repeat("n", 4097) }), wire.CodeNameTooLong, "4096"},
		"too many":   {make([]wire.Mutation, wire.MaxMutations+1), wire.CodeTooMany, "65536"},
		"all values": {valuesOf(13, wire.MaxXattrValue), wire.CodeTooMany, "786432"},
	} {
		b := newBench(t).serve()
		r := &Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: 1}, Link: b.link, Mutations: tc.muts}}
		b.m.Submit(r)
		b.run()
		if len(b.replies) != 1 || b.replies[0].Err == nil || b.replies[0].Err.Code != tc.want || !strings.Contains(b.replies[0].Err.Text, tc.says) ||
			len(b.replies[0].Err.Name) > 64 || len(b.m.order) != 0 {
			t.Errorf("%s: %+v", name, b.replies)
		}
	}
}

// valuesOf are n mutations with an attribute's value of that many bytes each.
func valuesOf(n, size int) []wire.Mutation {
	var muts []wire.Mutation
	for range n {
		muts = append(muts, wire.Mutation{Kind: wire.MutSetxattr, At: wire.At{Dir: 1, Path: "x"}, Name: "user.n", Value: make([]byte, size)})
	}
	return muts
}

// What a request has in memory counts, whatever it is made of (P9).
func TestCostOfARequest(t *testing.T) {
	b := newBench(t).serve()
	b.m.LinkDown(0, b.fake("a").link) // so that it waits
	for i, muts := range [][]wire.Mutation{valuesOf(1, 60_000), {{Kind: wire.MutWriteFile, Extents: make([]wire.Extent, 4000)}}} {
		before := b.m.waiting
		b.m.Submit(&Request{Transact: wire.Transact{Op: wire.OpID{Session: alice, Seq: uint64(i + 1)}, Link: b.link, Mutations: muts}})
		if got := b.m.waiting - before; got < 60_000 {
			t.Errorf("request %d counts %d bytes", i, got)
		}
	}
}

// A participant that answers a greeting, or votes, as no participant does: the
// coordinator says so, ends or drops the link, and decides nothing by it.
func TestHostileMember(t *testing.T) {
	for name, lie := range map[string]func(g *wire.Greeting){
		"a time that nobody has reached":    func(g *wire.Greeting) { g.ServiceTime = 1 << 62 },
		"a negative time":                   func(g *wire.Greeting) { g.ServiceTime = -5 },
		"an entry that was never put":       func(g *wire.Greeting) { g.Position = wire.Position{Epoch: 1, Index: 99} },
		"an epoch to come":                  func(g *wire.Greeting) { g.Held.Number = 99 },
		"a transaction of an epoch to come": func(g *wire.Greeting) { g.LastID = wire.MakeID(99, 1) },
		"a watermark to come":               func(g *wire.Greeting) { g.W = wire.Position{Epoch: 99, Index: 1} },
		"a testimony on an epoch to come": func(g *wire.Greeting) {
			g.Known = []wire.Testimony{{Tx: wire.MakeID(99, 2), State: wire.TxPrepared}}
		},
		"an odd testimony": func(g *wire.Greeting) {
			g.Known = []wire.Testimony{{Tx: wire.MakeID(0, 2), State: 77}}
		},
	} {
		b := newBench(t)
		b.greet("a", "c")
		g, err := b.fake("b").greet(b.m.Greet(1))
		if err != nil {
			t.Fatal(err)
		}
		lie(&g)
		_, _ = b.m.Greeted(1, g)
		b.run()
		if b.stop == nil || !strings.Contains(b.stop.Text, "participant b") {
			t.Errorf("%s: %v", name, b.stop)
		}
		if b.m.ReadPoint() != 0 {
			t.Errorf("%s: it serves", name)
		}
	}
}
