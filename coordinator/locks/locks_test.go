package locks

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tpcfs/wire"
)

func owner(session byte, kind wire.LockKind, number uint64) Owner {
	return Owner{wire.SessionID{session}, wire.LockOwner{Kind: kind, Number: number}}
}

func bytesOf(start, end uint64, mode wire.LockMode) wire.LockRange {
	return wire.LockRange{Start: start, End: end, Mode: mode, PID: 7}
}

var whole = wire.LockRange{End: wire.MaxLockEnd, Mode: wire.LockExclusive}

func (t *Table) want(tt *testing.T, o Owner, r wire.LockRange, wait uint64, want wire.LockResult) {
	tt.Helper()
	if got, _ := t.Set(o, 5, r, wait); got != want {
		tt.Fatalf("%v sets %v: %v, want %v", o.LockOwner, r, got, want)
	}
}

func (t *Table) granted(tt *testing.T, want ...uint64) {
	tt.Helper()
	var got []uint64
	for _, g := range t.Grants() {
		got = append(got, g.Wait)
	}
	if !slices.Equal(got, want) {
		tt.Fatalf("granted %v, want %v", got, want)
	}
}

// What excludes what, and what GETLK says of it.
func TestConflicts(t *testing.T) {
	a, b, other := owner(1, wire.LockFcntl, 1), owner(1, wire.LockFcntl, 2), owner(2, wire.LockFcntl, 1)
	tab := New(Limits{})
	tab.want(t, a, bytesOf(10, 19, wire.LockShared), 0, wire.LockDone)
	tab.want(t, b, bytesOf(15, 30, wire.LockShared), 0, wire.LockDone)
	tab.want(t, b, bytesOf(15, 30, wire.LockExclusive), 0, wire.LockConflict)
	tab.want(t, b, bytesOf(20, 30, wire.LockExclusive), 0, wire.LockDone)
	tab.want(t, owner(1, wire.LockFlock, 2), whole, 0, wire.LockDone) // flock(2) sees none of it
	if got, ok := tab.Get(b, 5, bytesOf(0, 12, wire.LockExclusive)); !ok || got != bytesOf(10, 19, wire.LockShared) {
		t.Fatal(got, ok)
	}
	if got, ok := tab.Get(other, 5, bytesOf(25, 25, wire.LockShared)); !ok || got.PID != 0 || got.Start != 20 {
		t.Fatal("a process of another machine has no number here: ", got, ok)
	}
	if _, ok := tab.Get(other, 6, whole); ok {
		t.Fatal("a lock of another file")
	}
	// Unlocking the middle leaves both ends.
	tab.want(t, b, bytesOf(22, 24, wire.LockNone), 0, wire.LockDone)
	held, _ := tab.Held(b, 5)
	want := []wire.LockRange{bytesOf(15, 19, wire.LockShared), bytesOf(20, 21, wire.LockExclusive), bytesOf(25, 30, wire.LockExclusive)}
	if !slices.Equal(held, want) {
		t.Fatal(held)
	}
}

// Waits are granted in the order in which they came, as soon as nobody is in
// their way.
func TestWaits(t *testing.T) {
	tab := New(Limits{})
	a, b, c, d := owner(1, wire.LockFlock, 1), owner(2, wire.LockFlock, 1), owner(3, wire.LockFlock, 1), owner(4, wire.LockFlock, 1)
	shared := whole
	shared.Mode = wire.LockShared
	tab.want(t, a, whole, 0, wire.LockDone)
	tab.want(t, b, shared, 1, wire.LockQueued)
	tab.want(t, c, whole, 2, wire.LockQueued)
	tab.want(t, d, shared, 3, wire.LockQueued)
	if held, waiting := tab.Count(); held != 1 || waiting != 3 {
		t.Fatal(held, waiting)
	}
	tab.granted(t)
	tab.Release(a, 5)
	tab.granted(t, 1, 3)
	if tab.Cancel(d.Session, 3) {
		t.Fatal("it was granted")
	}
	tab.Drop(b.Session)
	tab.granted(t)
	tab.Drop(d.Session)
	tab.granted(t, 2)
	tab.want(t, a, whole, 4, wire.LockQueued)
	if !tab.Cancel(a.Session, 4) || tab.Uses(a.Session) {
		t.Fatal("a wait that was not canceled")
	}
	tab.Release(c, 5)
	tab.granted(t)
	if len(tab.files)+len(tab.sessions)+tab.held+tab.waiting != 0 {
		t.Fatalf("something is left: %+v", tab)
	}
}

// Two who convert shared flocks do not wait for each other for ever; one that
// must not wait has lost its own, as flock(2) says.
func TestFlockConversion(t *testing.T) {
	tab := New(Limits{})
	a, b := owner(1, wire.LockFlock, 1), owner(2, wire.LockFlock, 1)
	shared := whole
	shared.Mode = wire.LockShared
	tab.want(t, a, shared, 0, wire.LockDone)
	tab.want(t, b, shared, 0, wire.LockDone)
	tab.want(t, a, whole, 1, wire.LockQueued)
	tab.want(t, b, whole, 2, wire.LockQueued)
	tab.granted(t, 1)
	tab.want(t, a, shared, 0, wire.LockDone)
	tab.granted(t)
	tab.want(t, owner(3, wire.LockFlock, 1), shared, 0, wire.LockDone)
	tab.want(t, a, whole, 0, wire.LockConflict)
	if held, _ := tab.Held(a, 5); len(held) != 0 {
		t.Fatal(held)
	}
}

// Who would wait for himself is told, whatever the length of the circle.
func TestDeadlock(t *testing.T) {
	for n := uint64(2); n <= 20; n++ {
		tab := New(Limits{})
		for i := range n {
			tab.want(t, owner(byte(i), wire.LockFcntl, 9), bytesOf(i, i, wire.LockExclusive), 0, wire.LockDone)
		}
		for i := range n - 1 {
			tab.want(t, owner(byte(i), wire.LockFcntl, 9), bytesOf(i+1, i+1, wire.LockShared), 1, wire.LockQueued)
		}
		last := owner(byte(n-1), wire.LockFcntl, 9)
		tab.want(t, last, bytesOf(0, 0, wire.LockShared), 1, wire.LockDeadlock)
		tab.want(t, last, bytesOf(0, 0, wire.LockShared), 0, wire.LockConflict)
		tab.want(t, owner(99, wire.LockFcntl, 9), bytesOf(0, 0, wire.LockShared), 1, wire.LockQueued)
		tab.Release(last, 5)
		tab.granted(t, 1)
	}
}

// No flock ever is a deadlock: the kernel does not look for one either.
func TestFlockCircle(t *testing.T) {
	tab := New(Limits{})
	a, b := owner(1, wire.LockFlock, 1), owner(2, wire.LockFlock, 1)
	tab.want(t, a, whole, 0, wire.LockDone)
	if got, _ := tab.Set(b, 6, whole, 0); got != wire.LockDone {
		t.Fatal(got)
	}
	tab.want(t, b, whole, 1, wire.LockQueued)
	if got, _ := tab.Set(a, 6, whole, 1); got != wire.LockQueued {
		t.Fatal(got)
	}
}

// Each limit, at it and beyond it. Giving up is possible at any.
func TestLimits(t *testing.T) {
	one := func(i int) wire.LockRange { return bytesOf(uint64(2*i), uint64(2*i), wire.LockShared) }
	fill := func(tab *Table, o Owner, n int) (ok int) {
		for i := range n {
			if got, _ := tab.Set(o, 5, one(i), 0); got == wire.LockDone {
				ok++
			} else if got != wire.LockFull {
				t.Fatal(got)
			}
		}
		return ok
	}
	if got := fill(New(Limits{Owner: 10}), owner(1, wire.LockFcntl, 1), 12); got != 10 {
		t.Fatalf("an owner has %d ranges", got)
	}
	tab := New(Limits{Session: 10})
	if got := fill(tab, owner(1, wire.LockFcntl, 1), 6) + fill(tab, owner(1, wire.LockFcntl, 2), 6); got != 10 {
		t.Fatalf("a session has %d ranges", got)
	}
	tab.want(t, owner(2, wire.LockFcntl, 1), bytesOf(0, 0, wire.LockShared), 0, wire.LockDone)
	tab.want(t, owner(1, wire.LockFcntl, 2), bytesOf(0, 0, wire.LockExclusive), 1, wire.LockFull)
	tab.want(t, owner(1, wire.LockFcntl, 2), bytesOf(0, 0, wire.LockNone), 0, wire.LockDone)
	tab.want(t, owner(1, wire.LockFcntl, 2), bytesOf(0, 0, wire.LockExclusive), 1, wire.LockQueued)
	tab = New(Limits{Total: 10})
	if got := fill(tab, owner(1, wire.LockFcntl, 1), 6) + fill(tab, owner(2, wire.LockFcntl, 2), 6); got != 10 {
		t.Fatalf("there are %d ranges", got)
	}
}

// A session's assertion is all or nothing.
func TestAssert(t *testing.T) {
	tab := New(Limits{})
	a, b := owner(1, wire.LockFcntl, 1), owner(2, wire.LockFcntl, 1)
	held := func(o Owner, ranges ...wire.LockRange) wire.HeldLocks {
		return wire.HeldLocks{Ino: 5, Owner: o.LockOwner, Ranges: ranges}
	}
	low, high := bytesOf(0, 9, wire.LockExclusive), bytesOf(20, 29, wire.LockShared)
	if !tab.Assert(a.Session, []wire.HeldLocks{held(a, low, high)}) {
		t.Fatal("nobody was in the way")
	}
	if got, _ := tab.Held(a, 5); !slices.Equal(got, []wire.LockRange{low, high}) {
		t.Fatal(got)
	}
	tab.want(t, b, bytesOf(0, 100, wire.LockExclusive), 1, wire.LockQueued)
	if !tab.Assert(a.Session, []wire.HeldLocks{held(a, high)}) { // it did not get low, or gave it up
		t.Fatal("nobody was in the way")
	}
	tab.granted(t)
	if tab.Assert(b.Session, []wire.HeldLocks{held(b, bytesOf(40, 50, wire.LockShared), bytesOf(25, 25, wire.LockExclusive))}) || tab.Uses(b.Session) {
		t.Fatal("it holds what another has")
	}
	for name, bad := range map[string][]wire.HeldLocks{
		"one owner twice": {held(b, bytesOf(40, 50, wire.LockShared)), held(b, bytesOf(60, 60, wire.LockShared))},
		"no range":        {held(b, bytesOf(50, 40, wire.LockShared))},
		"no mode":         {held(b, bytesOf(40, 50, wire.LockNone))},
		"beyond the end":  {held(b, bytesOf(40, 1<<63, wire.LockShared))},
	} {
		if tab.Assert(b.Session, bad) || tab.Uses(b.Session) {
			t.Error(name)
		}
	}
	tab.want(t, b, bytesOf(0, 100, wire.LockExclusive), 1, wire.LockQueued)
	if !tab.Assert(a.Session, nil) {
		t.Fatal("nothing is always granted")
	}
	tab.granted(t, 1)
}

// model is the naive table: a mode for each owner and byte.
type model struct {
	held  map[Owner][]wire.LockMode
	waits []modelWait
}

type modelWait struct {
	number uint64
	owner  Owner
	r      wire.LockRange
}

const modelBytes = 12

func (m *model) free(o Owner, r wire.LockRange) bool {
	for q, modes := range m.held {
		if q == o || q.Kind != o.Kind {
			continue
		}
		for i := r.Start; i <= r.End; i++ {
			if min(modes[i], r.Mode) != wire.LockNone && max(modes[i], r.Mode) == wire.LockExclusive {
				return false
			}
		}
	}
	return true
}

func (m *model) set(o Owner, r wire.LockRange) {
	if m.held[o] == nil {
		m.held[o] = make([]wire.LockMode, modelBytes)
	}
	for i := r.Start; i <= r.End; i++ {
		m.held[o][i] = r.Mode
	}
}

func (m *model) wake() (granted []uint64) {
	for i := 0; i < len(m.waits); i++ {
		if w := m.waits[i]; m.free(w.owner, w.r) {
			m.set(w.owner, w.r)
			granted = append(granted, w.number)
			m.waits = slices.Delete(m.waits, i, i+1)
			i = -1
		}
	}
	return granted
}

// stuck: nobody of the circle could ever go on, if all of them waited.
func (m *model) stuck(o Owner, r wire.LockRange) bool {
	blocked := func(w modelWait, free map[Owner]bool) bool {
		held := map[Owner][]wire.LockMode{}
		for q, modes := range m.held {
			if !free[q] {
				held[q] = modes
			}
		}
		return !(&model{held: held}).free(w.owner, w.r)
	}
	waits := append(slices.Clone(m.waits), modelWait{owner: o, r: r})
	reach := map[Owner]bool{o: true}
	for grew := true; grew; {
		grew = false
		for _, w := range waits {
			if !reach[w.owner] {
				continue
			}
			for q := range m.held {
				others := map[Owner]bool{}
				for p := range m.held {
					others[p] = p != q
				}
				if q == w.owner || q.Kind != o.Kind || !blocked(w, others) {
					continue
				}
				if q == o {
					return true
				}
				if !reach[q] {
					reach[q], grew = true, true
				}
			}
		}
	}
	return false
}

// The table does what the naive one does, whatever is asked of it, and its
// ranges stay in order, apart and joined.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := New(Limits{})
		m := &model{held: map[Owner][]wire.LockMode{}}
		next := uint64(0)
		owners := rapid.Custom(func(t *rapid.T) Owner {
			return owner(byte(rapid.IntRange(1, 2).Draw(t, "session")), wire.LockKind(rapid.IntRange(1, 2).Draw(t, "kind")), uint64(rapid.IntRange(1, 2).Draw(t, "number")))
		})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			o := owners.Draw(t, "owner")
			var want []uint64
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				tab.Release(o, 5)
				delete(m.held, o)
				want = m.wake()
			case 1:
				tab.Drop(o.Session)
				m.waits = slices.DeleteFunc(m.waits, func(w modelWait) bool { return w.owner.Session == o.Session })
				for q := range m.held {
					if q.Session == o.Session {
						delete(m.held, q)
					}
				}
				want = m.wake()
			case 2:
				if len(m.waits) > 0 {
					w := m.waits[rapid.IntRange(0, len(m.waits)-1).Draw(t, "wait")]
					if !tab.Cancel(w.owner.Session, w.number) {
						t.Fatal("a wait is not there")
					}
					m.waits = slices.DeleteFunc(m.waits, func(q modelWait) bool { return q == w })
				}
			default:
				want = m.step(t, tab, o, &next)
			}
			var got []uint64
			for _, g := range tab.Grants() {
				got = append(got, g.Wait)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("granted %v, want %v", got, want)
			}
			m.compare(t, tab)
		}
	})
}

func (m *model) step(t *rapid.T, tab *Table, o Owner, next *uint64) []uint64 {
	start := uint64(rapid.IntRange(0, modelBytes-1).Draw(t, "start"))
	r := wire.LockRange{Start: start, End: uint64(rapid.IntRange(int(start), modelBytes-1).Draw(t, "end")), Mode: wire.LockMode(rapid.IntRange(0, 2).Draw(t, "mode"))}
	var granted []uint64
	if o.Kind == wire.LockFlock {
		r.Start, r.End = 0, modelBytes-1
		if modes := m.held[o]; modes != nil && modes[0] != wire.LockNone && r.Mode != modes[0] && r.Mode != wire.LockShared {
			delete(m.held, o)
			granted = m.wake()
		}
	}
	wait := uint64(0)
	if rapid.Bool().Draw(t, "waits") {
		*next++
		wait = *next
	}
	want := wire.LockDone
	switch {
	case m.free(o, r):
		m.set(o, r)
		granted = append(granted, m.wake()...)
	case wait == 0:
		want = wire.LockConflict
	case o.Kind == wire.LockFcntl && m.stuck(o, r):
		want = wire.LockDeadlock
	default:
		want = wire.LockQueued
		m.waits = append(m.waits, modelWait{wait, o, r})
	}
	if got, _ := tab.Set(o, 5, r, wait); got != want {
		t.Fatalf("%v sets %+v: %v, want %v", o, r, got, want)
	}
	return granted
}

func (m *model) compare(t *rapid.T, tab *Table) {
	held := 0
	for _, session := range []byte{1, 2} {
		for _, kind := range []wire.LockKind{wire.LockFlock, wire.LockFcntl} {
			for number := range uint64(3) {
				o := owner(session, kind, number)
				ranges, _ := tab.Held(o, 5)
				held += len(ranges)
				got := make([]wire.LockMode, modelBytes)
				for i, r := range ranges {
					if i > 0 && (ranges[i-1].End >= r.Start || ranges[i-1].End+1 == r.Start && ranges[i-1].Mode == r.Mode) {
						t.Fatalf("ranges out of order, or apart that belong together: %v", ranges)
					}
					for at := r.Start; at <= r.End; at++ {
						got[at] = r.Mode
					}
				}
				want := m.held[o]
				if want == nil {
					want = make([]wire.LockMode, modelBytes)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%v holds %v, want %v", o, got, want)
				}
			}
		}
	}
	if h, w := tab.Count(); h != held || w != len(m.waits) {
		t.Fatalf("counts %d ranges and %d waits, want %d and %d", h, w, held, len(m.waits))
	}
	for id, s := range tab.sessions {
		if s.ranges == 0 && len(s.waits) == 0 {
			t.Fatal(fmt.Sprint("session ", id, " has nothing and is remembered"))
		}
	}
}
