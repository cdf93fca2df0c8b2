package coordinator

import (
	"sync/atomic"
	"testing"
	"time"
)

// fakeClock is a machine's clock that is set, and one that is not.
type fakeClock struct{ wall, mono atomic.Int64 }

func (f *fakeClock) clock() clock {
	return clock{wall: f.wall.Load, mono: func() time.Duration { return time.Duration(f.mono.Load()) }}
}

func (f *fakeClock) pass(d time.Duration) {
	f.wall.Add(int64(d))
	f.mono.Add(int64(d))
}

// TestClockSetBack: the count goes on, a little more slowly, until the machine's
// clock has caught up, and from there with it.
func TestClockSetBack(t *testing.T) {
	var f fakeClock
	f.wall.Store(int64(1000 * time.Hour))
	c := f.clock()
	c.begin(0)
	last := c.now(0)
	step := func(d time.Duration, least, most time.Duration) {
		t.Helper()
		f.pass(d)
		now := c.now(0)
		if gone := time.Duration(now - last); gone < least || gone > most {
			t.Errorf("in %v the count went on by %v, want %v to %v", d, gone, least, most)
		}
		last = now
	}
	step(time.Second, time.Second, time.Second)
	f.wall.Add(int64(-time.Hour))
	for range 100 {
		step(time.Second, 990*time.Millisecond, 990*time.Millisecond)
	}
	for range 1000 { // often asked
		step(50, 49, 50)
	}
	step(200*time.Hour, 200*time.Hour-time.Hour-time.Second, 200*time.Hour-time.Hour+time.Second)
	if want := f.wall.Load(); last != want {
		t.Errorf("it has not caught up: it is %v ahead", time.Duration(last-want))
	}
	f.wall.Add(int64(time.Hour))
	step(time.Second, time.Hour+time.Second, time.Hour+time.Second)

	again := f.clock()
	f.wall.Add(int64(-time.Hour))
	again.begin(last)
	c = again
	step(time.Second, 990*time.Millisecond, 990*time.Millisecond)
	c.now(last + int64(time.Minute)) // a participant knows of a later transaction
	step(time.Second, time.Minute+990*time.Millisecond, time.Minute+990*time.Millisecond)
}

// TestTimesGoOn: transactions' times go on at the pace of time when the machine's
// clock is set back, and when the next coordinator's machine has an older one.
func TestTimesGoOn(t *testing.T) {
	var f fakeClock
	f.wall.Store(int64(1000 * time.Hour))
	k := newCluster(t)
	k.o.clock = f.clock()
	k.serve()
	last := int64(0)
	step := func(name string, d time.Duration) {
		t.Helper()
		f.pass(d)
		data := []byte(name)
		r, err := k.c.Transact(ctx, k.request(0, write(name, data)), data)
		if err != nil {
			t.Fatal(err)
		}
		if gone := time.Duration(r.Time - last); last != 0 && (gone < d-d/clockSlew || gone > d+time.Microsecond) {
			t.Errorf("%s: %v later its time is %v later", name, d, gone)
		}
		last = r.Time
	}
	step("a", time.Second)
	step("b", time.Second)
	f.wall.Add(int64(-time.Hour))
	step("c", time.Second)
	step("d", 10*time.Second)
	k.close()
	f.wall.Add(int64(-time.Hour))
	k.serve()
	step("e", time.Second)
	step("f", time.Minute)
}
