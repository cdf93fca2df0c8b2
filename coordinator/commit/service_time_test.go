package commit

import (
	"testing"

	"tpcfs/wire"
)

// A session that attaches while the participants are being greeted is told a
// service time that its requests can carry, however long nothing was written
// before the coordinator died (S1a).
func TestServiceTimeAfterAnIdleReign(t *testing.T) {
	b := newBench(t).serve()
	b.submit(1, "x")
	b.settle()
	for range 40 * 60 {
		b.m.Tick(1000)
		b.run()
		b.handle("a", "b", "c")
	}
	b.sync()
	at := b.m.Attach(alice).ServiceTime
	b.start()
	early := b.m.Attach(alice).ServiceTime
	if at-early > wire.ServiceTimeHold/5 {
		t.Errorf("service time is %d s, a new reign begins with %d s", at/1000, early/1000)
	}
}

// Nothing is said of W before it is in this epoch: it would end the bootstrap (P8).
func TestNoWBeforeItsEpoch(t *testing.T) {
	b := newBench(t)
	b.greet("a", "b", "c")
	b.sync()
	b.all("a", "b", "c")
	b.all("a", "b") // c has not handled OPEN
	if b.m.Phase() != Serving {
		t.Fatalf("phase %d", b.m.Phase())
	}
	b.m.Tick(10 * serviceTimeStep)
	b.run()
	b.sync()
	if b.start(); b.m.state.Root == nil {
		t.Error("the bootstrap is taken for done")
	}
}

// TestTimeGoesOnIdle: where nothing is changed, the time that Watches are told is
// not lost by a restart where the machine's clock is behind.
func TestTimeGoesOnIdle(t *testing.T) {
	b := newBench(t).serve()
	now := int64(1_000_000_000_000_000)
	for range 10 * 60 {
		now += 1_000_000_000
		b.m.Clock(now)
		b.m.Tick(1000)
		b.run()
		b.handle("a", "b", "c")
	}
	b.sync()
	b.start()
	if lost := now - b.m.state.Time; lost > 61_000_000_000 {
		t.Errorf("%d s are lost", lost/1_000_000_000)
	}
}

// TestTimeAfterRecovery: no transaction is earlier than what recovery rolls forward, when
// the machine's clock is behind and the journal lost the times since it began.
func TestTimeAfterRecovery(t *testing.T) {
	b := newBench(t).serve()
	b.m.Clock(1_000_000)
	b.submit(1, "x")
	b.settle()
	b.durable = 1 + 1 // EPOCH and CONFIG alone
	b.start()
	if b.m.state.Time >= 1_000_000 {
		t.Fatal("the journal has the time")
	}
	b.serve()
	if b.m.Time() != 1_000_000 {
		t.Errorf("after the start the last time is %d", b.m.Time())
	}
	b.submit(2, "y")
	b.settle()
	b.sync()
	if b.m.Time() <= 1_000_000 {
		t.Errorf("a transaction has the time %d", b.m.Time())
	}
}

// TestImpossibleTime: a participant that knows of a time after which there is none
// is not served.
func TestImpossibleTime(t *testing.T) {
	for _, at := range []int64{-1, 1<<63 - 1} {
		b := newBench(t)
		b.fake("a").s.time = at
		b.greet("a", "b", "c")
		if b.m.members[0].answered || b.m.state.Time != 0 {
			t.Errorf("time %d was taken", at)
		}
	}
}
