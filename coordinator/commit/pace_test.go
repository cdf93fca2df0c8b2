package commit

import (
	"strings"
	"testing"

	"tpcfs/wire"
)

// passes lets so much time pass in ticks of 20 ms; the members named handle and sync
// what they are sent at once, and the coordinator's journal is synced.
func (b *bench) passes(ms int64, quick ...string) {
	b.t.Helper()
	for ; ms > 0; ms -= 20 {
		b.m.Tick(20)
		b.run()
		b.sync()
		for _, n := range quick {
			if b.fake(n).alive {
				b.all(n)
			}
		}
	}
}

// synced has a member's disk take so long for all that is there when it begins, while
// the others are quick.
func (b *bench) synced(name string, ms int64, quick ...string) {
	b.t.Helper()
	f := b.fake(name)
	for len(f.down) > 0 {
		if err := f.handle(false); err != nil {
			b.t.Fatal(err)
		}
	}
	b.passes(ms, quick...)
	if f.alive {
		f.sync()
		b.deliver(name)
	}
}

func (b *bench) slow(name string) *wire.SlowStatus {
	for _, m := range b.m.Status().Members {
		if m.Name == name {
			return m.Slow
		}
	}
	panic(name)
}

// P15: a member that is there and never votes is evicted when it has kept the others
// waiting for long, not before, and what waited goes on; status says so.
func TestHungDiskIsEvicted(t *testing.T) {
	b := newEvicting(t)
	r := b.submit(1, "x")
	b.passes(900, "a", "b")
	if b.slow("c") != nil || b.m.Degraded() != "" {
		t.Errorf("slow after 0.9 s: %+v, %q", b.slow("c"), b.m.Degraded())
	}
	b.passes(9000, "a", "b")
	if got := b.inSync(); got != "a,b,c" {
		t.Fatalf("in sync before its time: %s", got)
	}
	if s := b.slow("c"); s == nil || s.WaitMS < 9000 || s.HeldMS < 9000 || s.LimitMS != 10_000 || s.Evicted {
		t.Errorf("before its time: %+v", s)
	}
	if w := b.m.Degraded(); !strings.Contains(w, "c is slow: changes have waited up to 9.9 s for its disk") || !strings.Contains(w, "it is evicted when it keeps the others waiting for 10.0 s") {
		t.Errorf("before its time: %q", w)
	}
	b.wantAnswer(r, "")
	b.passes(300, "a", "b")
	if got := b.inSync(); got != "a,b" {
		t.Fatalf("in sync after 10 s: %s", got)
	}
	b.wantAnswer(r, "committed")
	if s := b.slow("c"); s == nil || !s.Evicted || s.ReturnMS < 9000 {
		t.Errorf("evicted: %+v", s)
	}
	if w := b.m.Degraded(); !strings.Contains(w, "c was evicted because its disk, or the way to it, kept the others waiting") {
		t.Errorf("evicted: %q", w)
	}
}

// Syncs of two seconds, one after the other, add up; now and then they do not, and
// short ones never do.
func TestSlowDiskIsEvicted(t *testing.T) {
	for _, c := range []struct {
		name        string
		sync, pause int64 // ms
		times       uint64
		evicted     bool
	}{
		{"one after the other", 2000, 0, 7, true},
		{"more often than not", 3000, 2000, 20, true},
		{"now and then", 3000, 4000, 20, false},
		{"short ones", 900, 0, 60, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newEvicting(t)
			for seq := uint64(1); seq <= c.times && b.inSync() == "a,b,c"; seq++ {
				b.submit(seq, "x")
				b.synced("c", c.sync, "a", "b")
				b.passes(c.pause, "a", "b", "c")
			}
			if got := b.inSync() == "a,b"; got != c.evicted {
				t.Errorf("in sync: %s, %+v", b.inSync(), b.slow("c"))
			}
		})
	}
}

// Nobody goes where fewer than min-in-sync others have what it lacks: two of three
// are slow, or all are on one disk that is; nor in the strict form. Status says it.
func TestSlowStay(t *testing.T) {
	for _, c := range []struct {
		name   string
		strict bool
		quick  []string
	}{{"two are slow", false, []string{"a"}}, {"all are", false, nil}, {"strict", true, []string{"a", "b"}}} {
		t.Run(c.name, func(t *testing.T) {
			b := newEvicting(t)
			if c.strict {
				b.m.o.MinInSync = 0
			}
			r := b.submit(1, "x")
			b.passes(30_000, c.quick...)
			if got := b.inSync(); got != "a,b,c" {
				t.Fatalf("in sync: %s", got)
			}
			if s := b.slow("c"); s == nil || s.WaitMS < 29_000 || !strings.Contains(b.m.Degraded(), "c is slow") {
				t.Errorf("%+v, %q", s, b.m.Degraded())
			}
			b.all("a", "b", "c")
			b.wantAnswer(r, "committed")
		})
	}
}

// What others are waited for as well is not one's own fault.
func TestSlowTogether(t *testing.T) {
	b := newEvicting(t, "a", "b", "c", "d", "e")
	b.submit(1, "x")
	b.passes(6000, "a", "b", "c", "d")
	b.all("e")
	b.submit(2, "y")
	b.passes(6000, "a", "b") // of whom three have to be
	if got, held := b.inSync(), b.slow("e").HeldMS; got != "a,b,c,d,e" || held < 5800 || held > 6200 {
		t.Fatalf("in sync: %s; e alone has held up for %d ms in 6000", got, held)
	}
	b.passes(5000, "a", "b", "c", "d")
	if got := b.inSync(); got != "a,b,c,d" {
		t.Errorf("in sync: %s", got)
	}
}

// Time that a member is away is not time for which its disk is slow; a link that is
// new does not begin the count anew.
func TestTimeAwayIsNotSlow(t *testing.T) {
	b := newEvicting(t)
	b.submit(1, "x")
	b.passes(6000, "a", "b")
	b.breakLink("c")
	b.passes(2800, "a", "b")
	b.greet("c")
	before := b.slow("c").HeldMS
	if before < 5800 || before > 6200 {
		t.Errorf("held the others up for %d ms in 6000", before)
	}
	b.passes(4300, "a", "b")
	if got := b.inSync(); got != "a,b" {
		t.Errorf("in sync: %s", got)
	}
}

// A member that hangs keeps neither a reign from beginning nor another's last round
// from its end.
func TestHungElsewhere(t *testing.T) {
	b := newEvicting(t)
	b.start()
	b.greet("a", "b", "c")
	b.passes(11_000, "a", "b")
	if b.m.Phase() != Serving || b.inSync() != "a,b" {
		t.Errorf("phase %d, in sync %s", b.m.Phase(), b.inSync())
	}

	b = newEvicting(t, "a", "b", "c", "d", "e")
	b.evicts("e", "a", "b", "c", "d")
	b.greet("e")
	b.submit(1, "x")
	i := b.index("e")
	if !b.m.Pause(i, b.fake("e").link) {
		t.Fatal("no last round")
	}
	b.passes(11_000, "a", "b", "c")
	if got := b.inSync(); got != "a,b,c" || !b.m.Writable() {
		t.Errorf("in sync: %s; writable: %v", got, b.m.Writable())
	}
}

// Who was evicted as too slow is let in when its disk has been quick for a while, and
// for twice as long the next time: it does not flap. Once it has kept up for long that
// is forgotten.
func TestSlowComesBack(t *testing.T) {
	b := newEvicting(t)
	i := b.index("c")
	evict := func(seq uint64) {
		t.Helper()
		b.submit(seq, "x")
		b.passes(11_000, "a", "b")
		b.passes(1000, "a", "b")
		if got := b.inSync(); got != "a,b" {
			t.Fatalf("in sync: %s", got)
		}
		b.fake("c").crash(0)
		b.fake("c").up = true
		b.greet("c")
	}
	// comes tells after how many seconds of quick rounds it may begin the last one.
	comes := func() int64 {
		t.Helper()
		for n := int64(0); n < 1000; n++ {
			quick := b.m.RoundTook(i, b.fake("c").link, 0, 50)
			paused := b.m.Pause(i, b.fake("c").link)
			if quick != paused {
				t.Fatalf("after %d s: quick %v, pauses %v", n, quick, paused)
			}
			if paused {
				b.m.Unpause(i)
				return n
			}
			b.passes(1000, "a", "b")
		}
		t.Fatal("it never comes back")
		return 0
	}
	evict(1)
	b.passes(5000, "a", "b")
	if b.m.RoundTook(i, b.fake("c").link, 0, 6000) || !b.m.RoundTook(i, b.fake("c").link+1, 0, 6000) {
		t.Error("a slow round is quick, or one of another link counts")
	}
	if got := comes(); got != 10 {
		t.Errorf("back after %d s of quick rounds", got)
	}
	b.settle()
	if got := b.inSync(); got != "a,b,c" || b.slow("c") != nil {
		t.Fatalf("in sync: %s, %+v", got, b.slow("c"))
	}
	evict(2)
	if got := comes(); got < 18 || got > 20 {
		t.Errorf("the second time back after %d s", got)
	}
	b.settle()
	b.passes(201_000, "a", "b", "c")
	evict(3)
	if got := comes(); got < 8 || got > 10 {
		t.Errorf("after a good while, back after %d s", got)
	}
	// One that was never slow only has to be quick; how much the round has brought counts.
	b.settle()
	b.evicts("b", "a", "c")
	b.greet("b")
	i = b.index("b")
	if l := b.fake("b").link; b.m.RoundTook(i, l, 0, 5000) || !b.m.RoundTook(i, l, 60<<20, 5000) || !b.m.RoundTook(i, l, 0, 300) || !b.m.Pause(i, l) {
		t.Error("one that was not slow has to wait")
	}
}

// While one that is there is on its way out, nothing is put: it would vote under a
// config that is not in force (P8).
func TestHungOnItsWayOut(t *testing.T) {
	b := newEvicting(t)
	b.submit(1, "x")
	b.passes(9800, "a", "b")
	for range 20 {
		b.m.Tick(20)
		b.run()
	}
	if b.inSync() != "a,b" || !b.m.InSync(b.index("c")) {
		t.Fatalf("in sync %s", b.inSync())
	}
	r := b.submit(2, "y")
	for _, n := range []string{"a", "b", "c"} {
		if got := b.lastSent(n); !strings.HasPrefix(got, "PREPARE") && !strings.HasPrefix(got, "OPEN") || len(b.m.queue) != 1 {
			t.Errorf("%s was sent %s, %d wait", n, got, len(b.m.queue))
		}
	}
	b.sync()
	b.all("a", "b", "c")
	b.all("a", "b")
	b.wantAnswer(r, "committed")
}

// Where so few are in sync that nothing is written, a newcomer that is slow is better than
// none: it is let in at once (P15).
func TestSlowIsBetterThanNone(t *testing.T) {
	b := newEvicting(t)
	b.m.o.MinInSync = 3
	b.breakLink("c")
	e := b.edit(wire.MembersReplace, true, "d=d:1", "c")
	b.sync()
	b.all("a", "b")
	b.wantHeard(e, "done", "c was replaced by d")
	b.run()
	b.greet("d")
	i, l := b.index("d"), b.fake("d").link
	if b.m.Writable() || !b.m.RoundTook(i, l, 0, 4000) || !b.m.Pause(i, l) {
		t.Error("one whose disk is slow is kept out though nothing is written without it")
	}
	if w := b.m.Degraded(); !strings.Contains(w, "its disk, or the way to it, is slow (4.0 s for one step): it comes back all the same") {
		t.Errorf("it says %q", w)
	}
	b.settle()
	if got := b.inSync(); got != "a,b,d" || !b.m.Writable() {
		t.Errorf("in sync: %s; writable: %v", got, b.m.Writable())
	}

	// One that was evicted as slow, and then another's disk is lost.
	b = newEvicting(t)
	b.submit(1, "x")
	b.passes(11_000, "b", "c")
	b.fake("a").crash(0)
	b.fake("a").up = true
	b.greet("a")
	i, l = b.index("a"), b.fake("a").link
	if b.inSync() != "b,c" || b.m.RoundTook(i, l, 0, 4000) || b.m.Pause(i, l) || b.slow("a").ReturnMS == 0 {
		t.Fatalf("in sync: %s, and a is let in while others write", b.inSync())
	}
	b.breakLink("b")
	b.edit(wire.MembersLost, true, "", "b")
	b.sync()
	b.all("c")
	if got := b.inSync(); got != "c" || b.m.Writable() {
		t.Fatalf("in sync: %s; writable: %v", got, b.m.Writable())
	}
	if w := b.m.Degraded(); b.slow("a").ReturnMS != 0 || strings.Contains(w, "when it has been fast") {
		t.Errorf("it is to stay out: %+v, %q", b.slow("a"), w)
	}
	if !b.m.RoundTook(i, l, 0, 4000) || !b.m.Pause(i, l) {
		t.Error("one that was evicted as slow is kept out though nothing is written without it")
	}
	b.settle()
	if got := b.inSync(); got != "a,b,c" || !b.m.Writable() {
		t.Errorf("in sync: %s; writable: %v", got, b.m.Writable())
	}
}

// Time in which the coordinator itself stood still is no member's, however often that is,
// between the acknowledgements of two others and a third's (P15).
func TestOwnStallsAreNobodysSlowness(t *testing.T) {
	b := newEvicting(t)
	for seq := uint64(1); seq <= 30; seq++ {
		b.submit(seq, "x")
		b.passes(20, "b", "c")
		b.m.Tick(1000)
		b.run()
		b.passes(20, "b", "c")
		b.passes(20, "a", "b", "c")
	}
	if s, w := b.slow("a"), b.m.Degraded(); s != nil || w != "" || b.inSync() != "a,b,c" {
		t.Errorf("in sync %s; a is slow: %+v, %q", b.inSync(), s, w)
	}

	// Nor does it end a wait that there is, or take off from it.
	b.submit(31, "x")
	b.passes(5000, "b", "c")
	before := b.slow("a").HeldMS
	b.m.Tick(1000)
	b.run()
	if got := b.slow("a").HeldMS; got != before || got < 4900 {
		t.Errorf("held for %d ms before, and %d then", before, got)
	}
	b.passes(5100, "b", "c")
	if got := b.inSync(); got != "b,c" {
		t.Errorf("in sync: %s", got)
	}
}
