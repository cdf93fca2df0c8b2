package commit

import (
	"fmt"
	"strings"
	"testing"

	"tpcfs/wire"
)

// P8: the config is forced here before it is put, durable at every member
// before anything is decided, and nothing is served before OPEN is put.
func TestBootstrap(t *testing.T) {
	b := newBench(t)
	b.greet("a", "b")
	if got := len(b.journal); got != 1 {
		t.Fatalf("%d records before all have answered", got)
	}
	b.greet("c")
	if got := b.journal[len(b.journal)-1]; got.Kind != RecConfig || got.Root == nil || len(got.Config.InSync) != 3 || got.Config.Cluster != cluster {
		t.Fatalf("journaled %+v", got)
	}
	if b.lastSent("a") != "" {
		t.Fatalf("%s was sent before the config was durable", b.lastSent("a"))
	}
	b.sync()
	if b.lastSent("c") != "CONFIG1" || b.sent[0][0].Root == nil {
		t.Fatalf("sent %v", b.sent[0])
	}
	b.all("a", "b")
	b.handle("c")
	b.deliver("c")
	if b.m.ReadPoint() != 0 || b.lastSent("a") != "CONFIG1" {
		t.Fatalf("%s, while the config is not durable at c", b.lastSent("a"))
	}
	b.fake("c").sync()
	b.deliver("c")
	if b.lastSent("a") != "OPEN2" || b.m.ReadPoint() != 2 {
		t.Fatalf("sent %s, read point %d", b.lastSent("a"), b.m.ReadPoint())
	}
	if w := b.m.Status().W; w.Index != 0 {
		t.Errorf("W %v before OPEN is durable everywhere (P9)", w)
	}
	b.all("a", "b")
	if w := b.m.Status().W; w.Index != 0 {
		t.Errorf("W %v before OPEN is durable everywhere (P9)", w)
	}
	b.all("c")
	if w := b.m.Status().W; w.Index != 2 || w.Epoch != 1 {
		t.Errorf("W %v, want 1.2", w)
	}
	b.attach()
	r := b.submit(1, "x")
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
}

// A bootstrap that crashed anywhere is repeated; one that is over is not: the
// root directory is not described again.
func TestBootstrapCrashes(t *testing.T) {
	steps := []func(b *bench){
		func(b *bench) {},
		func(b *bench) { b.greet("a") },
		func(b *bench) { b.greet("a", "b", "c") },
		func(b *bench) { b.sync() },
		func(b *bench) { b.all("a") },
		func(b *bench) { b.handle("b") },
		func(b *bench) { b.all("b", "c") },
		func(b *bench) { b.all("a", "b") },
		func(b *bench) { b.all("c") },
		func(b *bench) { b.m.Tick(1); b.run() },
		func(b *bench) { b.sync() },
	}
	for n := range len(steps) + 1 {
		for _, crash := range []string{"coordinator", "all"} {
			b := newBench(t)
			for _, step := range steps[:n] {
				step(b)
			}
			if crash == "all" {
				for _, f := range b.fakes {
					b.crash(f.name, 0)
				}
			}
			b.start()
			b.serve()
			root := b.sent[0][0].Root != nil
			if over := n >= len(steps); root == over {
				t.Errorf("after %d steps: root described again: %v", n, root)
			}
			r := b.submit(1, "x")
			b.settle()
			b.wantAnswer(r, "committed")
			b.wantEqual()
		}
	}
}

// P13, P8: who may not testify, and a journal that is empty, old or another's,
// stop the start with the culprit's name.
func TestWhoStopsTheStart(t *testing.T) {
	// A cluster that has served; its parts are then mixed up.
	served := func(t *testing.T) *bench {
		b := newBench(t).serve()
		b.submit(1, "x")
		b.settle()
		b.m.Tick(1)
		b.run()
		b.sync()
		return b
	}
	for _, tc := range []struct {
		name string
		mix  func(t *testing.T, b *bench)
		want string
	}{
		{"journal lost", func(t *testing.T, b *bench) { b.durable = 0 }, "empty, old or another's"},
		{"journal lost, in a new cluster's directory", func(t *testing.T, b *bench) { b.durable = 0; b.opts.Cluster = wire.UUID{7} }, "empty, old or another's"},
		{"journal lost, later epoch", func(t *testing.T, b *bench) {
			b.durable = 0
			b.start()
			b.durable = 1
		}, "knows nothing"},
		{"old journal", func(t *testing.T, b *bench) {
			old := append([]*Record(nil), b.journal...)
			b.start()
			b.serve()
			b.journal, b.durable = old, len(old)
		}, "epoch 2"},
		{"old journal, crashed twice since", func(t *testing.T, b *bench) {
			old := append([]*Record(nil), b.journal...)
			for range 3 {
				b.start()
				b.serve()
			}
			b.journal, b.durable = old, len(old)
		}, "newer coordinator"},
		{"old journal, epoch made up", func(t *testing.T, b *bench) {
			old := append([]*Record(nil), b.journal...)
			b.start()
			b.serve()
			b.journal = append(old, &Record{Kind: RecEpoch, Epoch: wire.Epoch{Number: 2, Run: wire.UUID{200}}})
			b.durable = len(b.journal)
		}, "newer than the journal's"},
		{"data lost at b", func(t *testing.T, b *bench) { b.fakes[1] = newFake("b", 2) }, "lost its data"},
		{"new storage at b", func(t *testing.T, b *bench) { b.fakes[1] = newFake("b", 77) }, "its storage is"},
		{"b and c exchanged", func(t *testing.T, b *bench) {
			b.fakes[1], b.fakes[2] = b.fakes[2], b.fakes[1]
			b.fakes[1].name, b.fakes[2].name = "b", "c"
		}, "its storage is"},
		{"another cluster's c", func(t *testing.T, b *bench) {
			o := newBench(t)
			o.opts.Cluster = wire.UUID{8}
			o.start()
			o.serve()
			b.fakes[2] = o.fakes[2]
		}, "another cluster's"},
		{"c must resync", func(t *testing.T, b *bench) { b.fakes[2].resync = "its journal was damaged" }, "may not testify: its journal was damaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := served(t)
			tc.mix(t, b)
			b.start()
			b.settle()
			if b.stop == nil {
				t.Fatalf("it started, phase %d", b.m.Phase())
			}
			if !strings.Contains(b.stop.Text, tc.want) || b.stop.Who == "" {
				t.Errorf("says %v (who: %q), want %q", b.stop, b.stop.Who, tc.want)
			}
			for i := range b.sent {
				if len(b.sent[i]) > 0 {
					t.Errorf("%v was put", b.sent[i])
				}
			}
		})
	}
}

// P6: a coordinator on a new directory, started again and again, fences nobody: the one
// that the participants belong to goes on.
func TestNewDirectoryFencesNobody(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.settle()
	held := b.fakes[0].s.fence
	b.opts.Cluster, b.journal, b.durable = wire.UUID{7}, nil, 0
	for range 3 {
		b.start()
		b.settle()
		if b.stop == nil || !strings.Contains(b.stop.Text, "--rebuild") {
			t.Fatalf("epoch %d: %v", b.m.epoch.Number, b.stop)
		}
		b.sync()
	}
	if b.m.epoch.Number <= held.Number {
		t.Fatalf("its epoch is %d only", b.m.epoch.Number)
	}
	for _, f := range b.fakes {
		if f.s.fence != held {
			t.Errorf("%s is fenced: %v, was %v", f.name, f.s.fence, held)
		}
	}
}

func TestTwoNamesOfOneParticipant(t *testing.T) {
	b := newBench(t)
	b.fakes[2].storage = b.fakes[0].storage
	b.settle()
	if b.stop == nil || !strings.Contains(b.stop.Text, "same participant") {
		t.Errorf("stopped: %v", b.stop)
	}
}

// P8: later lists of participants only tell addresses.
func TestPeerList(t *testing.T) {
	b := newBench(t).serve()
	b.sync()
	b.opts.Exact = true
	peers := b.opts.Peers
	b.opts.Peers = append(peers[:3:3], Peer{"d", "d:1"})
	if err := b.tryStart(); err != nil || len(b.m.members) != 3 || len(b.m.Notices()) != 1 || !strings.Contains(b.m.Notices()[0], "participant d takes no part") {
		t.Errorf("one too many: %v, %q", err, b.m.Notices())
	}
	b.opts.Exact = false
	if err := b.tryStart(); err == nil || !strings.Contains(err.Error(), "names d") {
		t.Errorf("one too many: %v", err)
	}
	b.opts.Exact = true
	b.opts.Peers = peers[:2]
	if err := b.tryStart(); err == nil || !strings.Contains(err.Error(), "does not name c") {
		t.Errorf("one too few: %v", err)
	}
	b.opts.Peers = []Peer{{"c", "c:9"}, {"a", "a:9"}, {"b", "b:9"}}
	b.start()
	b.serve()
	if n := b.m.Notices(); len(n) > 0 {
		t.Errorf("notices: %q", n)
	}
	if c := b.fake("a").s.config; c.Configured[0].Addr != "a:9" || c.Configured[0].Name != "a" || c.ID.Epoch != b.m.epoch.Number {
		t.Errorf("config %+v", c)
	}
	b.opts.Peers = nil
	b.start()
	b.serve()
	if got := b.m.members[2].addr; got != "c:9" {
		t.Errorf("address of c: %s", got)
	}
	b.opts.Cluster = wire.UUID{5}
	if err := b.tryStart(); err == nil || !strings.Contains(err.Error(), "FORMAT") {
		t.Errorf("a journal of another cluster: %v", err)
	}
	if _, err := New(Options{State: State{Epoch: wire.Epoch{Number: 1}}}); err == nil {
		t.Error("a cluster of nobody")
	}
	if _, err := New(Options{State: State{Epoch: wire.Epoch{Number: 1}}, Peers: []Peer{{"a", "x"}, {"a", "y"}}}); err == nil {
		t.Error("a name twice")
	}
}

// A newer coordinator has greeted a participant: this one is over.
func TestReplacedCoordinator(t *testing.T) {
	b := newBench(t).serve()
	r := b.submit(1, "x")
	b.fake("b").add(frec{kind: fEpoch, epoch: wire.Epoch{Number: 9, Run: wire.UUID{9}}})
	b.breakLink("b")
	b.greet("b")
	if b.stop == nil || b.stop.Code != wire.CodeStaleEpoch {
		t.Fatalf("stopped: %v", b.stop)
	}
	b.wantAnswer(r, "outcome unknown")
	if b.m.ReadPoint() != 0 {
		t.Error("reads go on")
	}
	late := b.submit(2, "y")
	b.wantAnswer(late, "unavailable")
}

// P6: a participant that lost what it had synced may not go on.
func TestLostDurable(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.settle()
	f := b.fake("b")
	b.breakLink("b")
	for f.recs[len(f.recs)-1].kind != fCommit {
		f.recs = f.recs[:len(f.recs)-1]
	}
	f.recs = f.recs[:len(f.recs)-1]
	f.synced = len(f.recs)
	f.reset()
	b.greet("b")
	if b.stop == nil || b.stop.Who != "b" || !strings.Contains(b.stop.Text, "lost what was synced") {
		t.Errorf("stopped: %v", b.stop)
	}
}

// P7 at every combination of what three members can be left with, with and
// without the coordinator's own decision.
func TestRecovery(t *testing.T) {
	// What happens before the crash, member by member.
	const (
		never    = iota // the PREPARE did not arrive, or was not durable
		prepared        // durable
		decided         // and the decision too
	)
	for code := range 27 {
		for _, kept := range []bool{false, true} {
			states := [3]int{code % 3, code / 3 % 3, code / 9}
			n := map[int]int{}
			for _, s := range states {
				n[s]++
			}
			if n[decided] > 0 && n[never] > 0 {
				continue // a decision means that all had prepared
			}
			t.Run(fmt.Sprint(states, kept), func(t *testing.T) {
				b := newBench(t).serve()
				r := b.submit(1, "x")
				for i, f := range b.fakes {
					if states[i] != never {
						b.all(f.name)
					}
				}
				if n[never] == 0 {
					b.wantAnswer(r, "committed")
				}
				for i, f := range b.fakes {
					if states[i] == decided {
						b.all(f.name)
					}
				}
				if kept {
					b.sync()
				}
				for _, f := range b.fakes {
					b.crash(f.name, 0)
				}
				b.start()
				b.serve()
				puts := 0
				for _, e := range b.sent[0] {
					if e.Kind == wire.EntryCommit || e.Kind == wire.EntryAbort {
						puts++
						if commit := n[never] == 0; commit != (e.Kind == wire.EntryCommit) {
							t.Errorf("put %s", entryString(e))
						}
					}
				}
				if want := min(n[prepared], 1); puts != want {
					t.Errorf("%d decisions put, want %d", puts, want)
				}
				retry := b.submit(1, "x")
				b.settle()
				b.wantAnswer(retry, "committed")
				if n[never] == 0 {
					if got := b.reply(retry).Reply.Outcome.Tx; got != wire.MakeID(1, 2) {
						t.Errorf("the retry heard of %v", got)
					}
				}
				b.settle()
				b.wantEqual()
			})
		}
	}
}

// A retry during recovery waits until ABORT is durable everywhere; a retry of
// what was rolled forward is answered at once.
func TestRetryAfterRecovery(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.submit(2, "y")
	b.handle("a", "b", "c")
	for _, n := range []string{"a", "b", "c"} {
		b.fake(n).sync()
	}
	b.start() // x and y are in doubt, both prepared everywhere
	b.greet("a", "b", "c")
	b.sync()
	b.all("a", "b", "c")
	if b.m.Phase() != Serving {
		t.Fatal("not serving")
	}
	b.attach()
	r := b.submit(1, "x")
	b.wantAnswer(r, "committed")
	b.settle()
	b.wantEqual()

	b = newBench(t).serve()
	b.submit(1, "x")
	b.all("a")
	b.start()
	b.greet("a", "b", "c")
	b.sync()
	b.all("a", "b", "c")
	b.attach()
	r = b.submit(1, "x")
	b.all("a", "b")
	b.wantAnswer(r, "")
	if len(b.m.queue) != 0 || b.lastSent("a") != "OPEN3" {
		t.Errorf("%d wait, last sent %s", len(b.m.queue), b.lastSent("a"))
	}
	b.all("c")
	b.wantAnswer(r, "") // the attempt of before is gone; this one runs anew
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
	if len(b.fake("a").s.ops) != 1 {
		t.Errorf("%d operations are done, want one", len(b.fake("a").s.ops))
	}
}

// Retries that wait for recovery's ABORT: one by a replaced link, one that is
// given up, one that comes twice, one while the coordinator shuts down.
func TestWhoRunsAnewAfterRecovery(t *testing.T) {
	begin := func() (*bench, *Request) {
		b := newBench(t).serve()
		b.submit(1, "x")
		b.all("a")
		b.start()
		b.greet("a", "b", "c")
		b.sync()
		b.all("a", "b", "c")
		b.attach()
		r := b.submit(1, "x")
		b.wantAnswer(r, "")
		return b, r
	}
	b, old := begin()
	b.attach()
	r := b.submit(1, "x")
	b.settle()
	b.wantAnswer(old, "replaced by a newer link of the session")
	b.wantAnswer(r, "committed")
	b.wantEqual()

	b, r = begin()
	b.m.Cancel(r)
	b.settle()
	b.wantAnswer(r, "outcome unknown")
	b.wantEqual()
	if len(b.fake("a").s.vals) != 0 {
		t.Error("what was given up ran anew")
	}

	b, r = begin()
	second := b.submit(1, "x")
	b.settle()
	b.wantAnswer(r, "replaced by a newer link of the session")
	b.wantAnswer(second, "committed")
	b.wantEqual()

	b, r = begin()
	b.m.Shut()
	b.settle()
	b.wantAnswer(r, "unavailable")
}

// What no run of the protocol leaves behind stops the start (P7).
func TestContradictions(t *testing.T) {
	base := func() (*bench, wire.ID) {
		b := newBench(t).serve()
		b.submit(1, "x")
		for _, n := range []string{"a", "b", "c"} {
			b.all(n)
		}
		return b, wire.MakeID(1, 2)
	}
	check := func(name string, b *bench, want string) {
		t.Helper()
		b.start()
		b.settle()
		if b.stop == nil || !strings.Contains(b.stop.Text, want) {
			t.Errorf("%s: stopped: %v", name, b.stop)
		}
	}
	b, id := base()
	b.all("a")
	b.fake("b").add(frec{kind: fAbort, tx: id, pos: wire.Position{Epoch: 1, Index: 4}})
	check("committed and aborted", b, "committed to some and aborted to others")

	b, id = base()
	b.all("a")
	f := b.fake("b")
	f.recs = f.recs[:len(f.recs)-1]
	f.synced = len(f.recs)
	f.reset()
	check("committed and never", b, "never prepared at b")
	_ = id

	b, _ = base()
	b.fake("c").add(frec{kind: fW, w: wire.Position{Epoch: 1, Index: 3}})
	delete(b.fake("c").s.txs, wire.MakeID(1, 2))
	b.start()
	b.settle()
	if b.stop == nil || !strings.Contains(b.stop.Text, "below the watermark of c") {
		t.Errorf("prepared and forgotten: %v", b.stop)
	}

	b, _ = base()
	b.sync() // DECISION is durable here
	for _, n := range []string{"a", "b", "c"} {
		f := b.fake(n)
		f.recs = f.recs[:len(f.recs)-1]
		f.synced = len(f.recs)
		f.reset()
	}
	check("committed here, never anywhere", b, "never prepared at a, b, c")
}

// A crash in the middle of recovery, and of the next one: the decisions stand.
func TestRecoveryCrashes(t *testing.T) {
	for stop := range 9 {
		b := newBench(t).serve()
		r := b.submit(1, "x")
		b.all("a", "b", "c")
		b.wantAnswer(r, "committed")
		for round := range 2 {
			for _, f := range b.fakes {
				b.crash(f.name, 0)
			}
			b.start()
			steps := []func(){
				func() { b.greet("a", "b") },
				func() { b.greet("c") },
				func() { b.sync() },
				func() { b.all("a", "b", "c") }, // CONFIG: recovery's decisions are put
				func() { b.handle("a"); b.fake("a").sync() },
				func() { b.deliver("a") },
				func() { b.all("b") },
				func() { b.all("c") },
			}
			for _, s := range steps[:max(stop-round, 0)] {
				s()
			}
		}
		b.start()
		b.serve()
		if v := b.fake("c").s.vals["x"]; v != wire.MakeID(1, 2) {
			t.Errorf("stop %d: x is %v", stop, v)
		}
		b.settle()
		b.wantEqual()
	}
}

// P9: a config is told under each epoch's own id (P8), also over many restarts.
func TestReissue(t *testing.T) {
	b := newBench(t).serve()
	for range 5 {
		b.start()
		b.serve()
		for _, f := range b.fakes {
			if id := f.s.config.ID; id.Epoch != b.m.epoch.Number || id.Counter != 1 {
				t.Errorf("%s holds %v in epoch %d", f.name, id, b.m.epoch.Number)
			}
		}
		r := b.submit(uint64(b.runs), "x")
		b.settle()
		b.wantAnswer(r, "committed")
		b.wantEqual()
	}
}

// A greeting whose answer was lost is repeated: its testimony still counts.
func TestLostGreeting(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.all("a", "b", "c")
	b.start()
	if _, err := b.fake("a").greet(b.m.Greet(0)); err != nil {
		t.Fatal(err)
	}
	b.serve()
	b.settle()
	b.wantEqual()
	if b.fake("a").s.vals["x"] == 0 {
		t.Error("x is lost")
	}
}

// P13, told by the greeting's own words: a participant need not refuse.
func TestStaleGreeting(t *testing.T) {
	for name, g := range map[string]wire.Greeting{
		"same number, another run": {Held: wire.Epoch{Number: 1, Run: wire.UUID{99}}},
		"later epoch":              {Held: wire.Epoch{Number: 2, Run: wire.UUID{99}}},
		"later transaction":        {LastID: wire.MakeID(2, 5)},
		"entry never put":          {Position: wire.Position{Epoch: 1, Index: 1}},
		"later entry":              {Position: wire.Position{Epoch: 2}},
	} {
		b := newBench(t)
		g.Storage = wire.UUID{1}
		_, _ = b.m.Greeted(0, g)
		b.run()
		if b.stop == nil || b.stop.Who != "a" {
			t.Errorf("%s: stopped: %v", name, b.stop)
		}
	}
}

// A member that met only a transaction's ABORT does not know where its PREPARE
// was; another that never heard of it has not forgotten it for that.
func TestRecoveryAfterAbortAlone(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.all("a")
	b.start()
	b.greet("a", "b", "c")
	b.sync()
	b.all("a", "b", "c") // CONFIG; then ABORT is put
	b.all("c")
	for _, f := range b.fakes {
		b.crash(f.name, 0)
	}
	b.start()
	b.serve()
	b.settle()
	b.wantEqual()
}

// A vote that comes twice, before and after a broken link, counts once.
func TestVoteTwice(t *testing.T) {
	b := newBench(t).serve()
	r := b.submit(1, "x")
	b.all("a", "b")
	b.breakLink("a")
	b.greet("a")
	b.all("a")
	b.wantAnswer(r, "")
	if got := b.lastSent("b"); !strings.HasPrefix(got, "PREPARE") {
		t.Errorf("%s was put before c has voted", got)
	}
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
}

// P7: a member that does not answer is not one that never prepared: nothing is
// decided, and nothing served, without it; then all that it held counts.
func TestRecoveryWaitsForAll(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.all("a", "b", "c")
	b.start()
	b.greet("a", "b")
	b.sync()
	b.all("a", "b")
	b.m.Tick(60_000)
	b.attach()
	early := b.submit(2, "y")
	if b.m.Phase() != Greeting || len(b.sent[0]) != 0 || b.m.ReadPoint() != 0 {
		t.Fatalf("phase %d, sent %v", b.m.Phase(), b.sent[0])
	}
	b.wantAnswer(early, "")
	b.settle()
	b.wantAnswer(early, "committed")
	if b.fake("a").s.vals["x"] != wire.MakeID(1, 2) {
		t.Error("x is lost")
	}
	b.wantEqual()
}
