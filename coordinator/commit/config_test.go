package commit

import (
	"slices"
	"strings"
	"testing"

	"tpcfs/wire"
)

// newEvicting is a cluster in service that goes on with two of three.
func newEvicting(t *testing.T, names ...string) *bench {
	b := newBench(t, names...)
	b.opts.MinInSync = (len(b.fakes)) / 2
	b.opts.MinInSync++
	b.start()
	return b.serve()
}

func (b *bench) inSync() string {
	return strings.Join(b.m.state.Config.InSync, ",")
}

// waitOut lets so much time pass that who is gone is given up; what follows
// from that is not durable anywhere yet.
func (b *bench) waitOut() {
	b.m.Tick(b.m.o.EvictAfter)
	b.run()
}

// evicts takes a member's link and has it evicted; rest are the others.
func (b *bench) evicts(member string, rest ...string) {
	b.breakLink(member)
	b.waitOut()
	b.sync()
	b.all(rest...)
	b.all(rest...)
}

// G8: a member that is gone is evicted, what waits goes on; back again, it
// catches up and is in sync.
func TestEviction(t *testing.T) {
	b := newEvicting(t)
	under := b.submit(1, "x")
	b.all("a", "c")
	b.breakLink("b")
	waits := b.submit(2, "y")
	b.waitOut()
	if got := b.inSync(); got != "a,c" {
		t.Fatalf("in sync: %s", got)
	}
	b.wantAnswer(under, "")
	b.sync()
	b.all("a", "c")
	b.wantAnswer(under, "committed")
	b.all("a", "c")
	b.wantAnswer(waits, "committed")
	if st := b.m.Status(); len(st.WaitsFor) > 0 || b.m.Degraded() != "1 of 3 participants out of sync: b; changes are kept on 2" {
		t.Errorf("waits for %v, %q", st.WaitsFor, b.m.Degraded())
	}
	b.greet("b")
	if !b.fake("b").s.resync || b.fake("b").s.vals["x"] != 0 {
		t.Error("b was let in as it came")
	}
	b.settle()
	if got := b.inSync(); got != "a,b,c" || b.m.Degraded() != "" {
		t.Errorf("in sync after its return: %s, %q", got, b.m.Degraded())
	}
	b.wantEqual()
}

// Trace "eviction not forced": nothing is decided without the evicted member,
// and nobody is told, before the config is durable at the coordinator.
func TestEvictionIsForced(t *testing.T) {
	b := newEvicting(t)
	r := b.submit(1, "x")
	b.breakLink("b")
	b.waitOut()
	b.all("a", "c")
	b.all("a", "c")
	b.wantAnswer(r, "")
	for _, n := range []string{"a", "c"} {
		if got := b.lastSent(n); strings.HasPrefix(got, "CONFIG") || strings.HasPrefix(got, "COMMIT") {
			t.Errorf("%s was sent %s", n, got)
		}
	}
	b.sync()
	b.settle()
	b.wantAnswer(r, "committed")
}

// Trace "eviction not at members": ... and durable at every member that stays.
func TestEvictionAtMembers(t *testing.T) {
	b := newEvicting(t)
	r := b.submit(1, "x")
	b.breakLink("b")
	b.waitOut()
	b.sync()
	b.all("a")
	b.handle("c")
	b.deliver("c")
	b.all("a")
	b.wantAnswer(r, "")
	if b.m.Writable() {
		t.Error("changes are put under a config that is not in force")
	}
	b.all("c")
	b.wantAnswer(r, "committed")
	b.settle()
	b.wantEqual()
}

// Trace "W runs ahead of config": while the change is under way W counts who goes.
func TestWatermarkCountsWhoGoes(t *testing.T) {
	b := newEvicting(t)
	before := b.m.w
	r := b.submit(1, "x")
	b.all("a", "b", "c")
	b.wantAnswer(r, "committed")
	b.breakLink("b") // it has not handled COMMIT
	b.all("a", "c")
	b.all("a", "c")
	b.waitOut()
	b.all("a", "c")
	if at := b.fake("b").s.pos.Index; b.m.w.Index > at {
		t.Errorf("W went from %v to %v, b has handled %d", before, b.m.w, at)
	}
	b.sync()
	b.all("a", "c")
	if b.m.w.Index != b.m.last {
		t.Errorf("W is %v of %d without b", b.m.w, b.m.last)
	}
}

// G8: a coordinator that is started with a greater minimum than the last one makes no
// change until as many are in sync.
func TestMinimumRaised(t *testing.T) {
	b := newEvicting(t)
	b.breakLink("b")
	b.waitOut()
	b.sync()
	b.all("a", "c")
	if got := b.inSync(); got != "a,c" {
		t.Fatalf("in sync: %s", got)
	}
	b.opts.MinInSync = 3
	b.start()
	b.greet("a")
	b.greet("c")
	b.sync()
	b.all("a", "c")
	b.attach()
	if b.m.Phase() != Serving {
		t.Fatalf("phase %d", b.m.Phase())
	}
	r := b.submit(1, "x")
	b.all("a", "c")
	b.wantAnswer(r, "")
	if got := b.m.Degraded(); !strings.Contains(got, "changes wait until 3 participants are in sync") {
		t.Errorf("%q", got)
	}
	b.greet("b")
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
}

// With too few nobody is evicted: changes wait, then fail and say for whom,
// reads go on; whoever is back first is enough.
func TestBelowTheMinimum(t *testing.T) {
	b := newEvicting(t)
	b.breakLink("b")
	b.breakLink("c")
	r := b.submit(1, "x")
	b.m.queue[0].deadline = b.m.now + 5000
	b.waitOut()
	b.m.Refusing(1)
	b.waitOut()
	if got := b.inSync(); got != "a,b,c" {
		t.Fatalf("in sync: %s", got)
	}
	b.wantAnswer(r, "unavailable")
	if text := b.reply(r).Err.Text; !strings.Contains(text, "b, c") {
		t.Errorf("who is missing? %s", text)
	}
	if b.m.ReadPoint() == 0 || !strings.Contains(b.m.Degraded(), "fewer than 2") {
		t.Errorf("read point %d, %q", b.m.ReadPoint(), b.m.Degraded())
	}
	b.greet("c")
	if got := b.inSync(); got != "a,c" {
		t.Errorf("in sync with c back: %s", got)
	}
	again := b.submit(1, "x")
	b.settle()
	b.wantAnswer(again, "committed")
	b.wantEqual()
}

// Nobody is waited for whose address refuses.
func TestRefusing(t *testing.T) {
	b := newEvicting(t)
	b.m.Refusing(1) // it is linked: a late word
	b.breakLink("c")
	b.run()
	b.m.Refusing(2)
	b.run()
	if got := b.inSync(); got != "a,b" {
		t.Errorf("in sync: %s", got)
	}
}

// A reign begins with those that are there, when so many have answered that
// any newer config would have shown itself (P8, P13).
func TestStartWithoutOne(t *testing.T) {
	b := newEvicting(t)
	r := b.submit(1, "x")
	b.all("a", "b", "c")
	b.wantAnswer(r, "committed")
	b.sync()
	b.start()
	b.greet("a")
	b.waitOut()
	b.waitOut()
	if b.m.Phase() != Greeting {
		t.Fatal("one of three begins alone")
	}
	b.greet("c")
	if b.m.Phase() != Configuring || b.inSync() != "a,c" {
		t.Fatalf("phase %d, in sync %s", b.m.Phase(), b.inSync())
	}
	if b.m.MayGreet(1) {
		t.Error("b may be greeted before recovery is over")
	}
	b.sync()
	b.all("a")
	if b.m.Phase() != Configuring {
		t.Fatal("recovery ends before the config is durable at c")
	}
	b.all("c")
	if b.m.Phase() != Serving || !b.m.MayGreet(1) {
		t.Fatalf("phase %d", b.m.Phase())
	}
	b.settle()
	b.wantEqual()
	if got := b.inSync(); got != "a,b,c" {
		t.Errorf("in sync: %s", got)
	}
}

// P11: an outsider is told so only by a reign whose own config is sure to be
// the newest: one on an old backup would make a member discard what it has.
func TestOutsiderIsGreetedLate(t *testing.T) {
	b := newEvicting(t)
	b.evicts("c", "a", "b")
	b.start()
	if b.m.MayGreet(2) {
		t.Error("c is greeted as an outsider by a coordinator that has heard nobody")
	}
	b.greet("c", "a")
	if b.fake("c").s.resync || b.fake("c").alive {
		t.Error("c was greeted")
	}
	b.settle()
	b.wantEqual()
}

// The last round (P11): nothing is put, all that was put is decided and durable
// at every member; traces "pause only" and "decided, not durable everywhere".
func TestDrain(t *testing.T) {
	b := newEvicting(t)
	b.evicts("b", "a", "c")
	r := b.submit(1, "x")
	b.greet("b")
	link := b.fake("b").link
	if !b.m.Pause(1, link) || b.m.Pause(1, link) {
		t.Fatal("one pause, not two")
	}
	waits := b.submit(2, "y")
	drained := func() bool {
		t.Helper()
		_, yes, over := b.m.Drained(1, link)
		if over {
			t.Fatal("the round is over")
		}
		return yes
	}
	if drained() {
		t.Error("drained with a transaction undecided")
	}
	b.all("a", "c")
	b.wantAnswer(r, "committed")
	if drained() {
		t.Error("drained with a decision that nobody has")
	}
	b.all("a")
	b.handle("c")
	b.deliver("c")
	if drained() {
		t.Error("drained with a decision that is not durable at c")
	}
	b.all("c")
	if !drained() {
		t.Fatalf("not drained: W %v of %d", b.m.w, b.m.last)
	}
	b.wantAnswer(waits, "")
	b.settle()
	b.wantAnswer(waits, "committed")
	b.wantEqual()
}

// Trace "pause ends when the newcomer drops": once its config is on the way to
// the journal, nothing is put before that is durable, be the newcomer there or not.
func TestPauseHolds(t *testing.T) {
	b := newEvicting(t)
	b.evicts("b", "a", "c")
	b.greet("b")
	link := b.fake("b").link
	b.m.Pause(1, link)
	j, ok, _ := b.m.Drained(1, link)
	if !ok {
		t.Fatal("not drained")
	}
	b.fake("b").joins(b.fake("a"), j)
	if b.m.Admit(2, link) || b.m.Admit(1, link+1) || !b.m.Admit(1, link) {
		t.Fatal("b was not let in, or somebody else was")
	}
	b.run()
	last := b.m.last
	r := b.submit(1, "x")
	b.breakLink("b")
	b.all("a", "c")
	if b.m.last != last || b.m.Writable() {
		t.Errorf("a change was put while the newcomer's config was not settled: entry %d after %d", b.m.last, last)
	}
	b.sync()
	b.all("a", "c")
	b.wantAnswer(r, "") // b is a member now, and not there
	b.waitOut()
	b.settle()
	b.wantAnswer(r, "committed")
	b.wantEqual()
}

// A round that is given up, by whomever, lets the others go on.
func TestRoundGivenUp(t *testing.T) {
	for name, giveUp := range map[string]func(*bench){
		"told":     func(b *bench) { b.m.Unpause(1) },
		"link":     func(b *bench) { b.breakLink("b") },
		"eviction": func(b *bench) { b.breakLink("c"); b.m.Refusing(2); b.run(); b.sync() },
	} {
		b := newEvicting(t, "a", "b", "c", "d", "e")
		b.breakLink("b")
		b.waitOut()
		b.sync()
		b.all("a", "c", "d", "e")
		b.all("a", "c", "d", "e")
		b.greet("b")
		b.m.Pause(1, b.fake("b").link)
		giveUp(b)
		if b.m.Admit(1, b.fake("b").link) {
			t.Errorf("%s: b is let in all the same", name)
		}
		b.all("a", "d", "e")
		b.all("a", "d", "e")
		r := b.submit(1, "x")
		b.settle()
		b.wantAnswer(r, "committed")
		b.wantEqual()
	}
}

// One that has lost its data is evicted and gets it back; in the strict form
// the reign ends and names it (P7).
func TestUnfit(t *testing.T) {
	b := newEvicting(t)
	r := b.submit(1, "x")
	b.all("a", "b", "c")
	b.wantAnswer(r, "committed")
	b.settle()
	b.breakLink("c")
	b.fake("c").wiped(wire.UUID{99})
	b.fake("c").up = true
	b.greet("c")
	if b.stop != nil || b.refused == nil || !strings.Contains(b.refused.Text, "participant c") {
		t.Fatalf("stopped %v, refused %v", b.stop, b.refused)
	}
	if got := b.inSync(); got != "a,b" {
		t.Errorf("in sync: %s", got)
	}
	b.settle()
	b.wantEqual()
	if c := b.m.state.Config; c.Configured[2].Storage != (wire.UUID{99}) || len(c.InSync) != 3 {
		t.Errorf("%+v", c)
	}

	b = newBench(t).serve()
	b.breakLink("c")
	b.fake("c").wiped(wire.UUID{99})
	b.fake("c").up = true
	b.greet("c")
	if b.stop == nil || b.stop.Who != "c" {
		t.Errorf("strict, and stopped by %v", b.stop)
	}
}

// Another member fails while an eviction is under way: both go.
func TestTwoEvictions(t *testing.T) {
	b := newEvicting(t, "a", "b", "c", "d", "e")
	r := b.submit(1, "x")
	b.breakLink("b")
	b.waitOut()
	b.sync()
	b.all("a")
	b.breakLink("c")
	b.waitOut()
	b.all("a", "d", "e")
	b.wantAnswer(r, "")
	b.sync()
	if got := b.inSync(); got != "a,d,e" {
		t.Fatalf("in sync: %s", got)
	}
	b.all("a", "d", "e")
	b.wantAnswer(r, "committed")
	b.settle()
	b.wantEqual()
}

// What was staged without the newcomer is staged anew.
func TestStagesOfBefore(t *testing.T) {
	b := newEvicting(t)
	b.evicts("b", "a", "c")
	id, err := b.m.BeginStage(alice, b.link)
	if err != nil {
		t.Fatal(err)
	}
	b.m.EndStage(id, true)
	b.settle()
	if b.m.stages[id] != nil || !slices.Contains(b.unstage, id) {
		t.Errorf("b has come, and does not have what was staged: known %v, dropped %v", b.m.stages[id] != nil, b.unstage)
	}
}
