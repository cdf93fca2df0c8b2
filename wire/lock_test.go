package wire

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Ranges of locks behave as a mode for every byte: joined where they touch,
// split where something else is set, and what is set to a weaker mode is never
// stronger than it was.
func TestLockRangesAreModesOfBytes(t *testing.T) {
	const bytes = 16
	rapid.Check(t, func(t *rapid.T) {
		var held []LockRange
		var want [bytes]LockMode
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			start := rapid.Uint64Range(0, bytes-1).Draw(t, "start")
			r := LockRange{Start: start, End: rapid.Uint64Range(start, bytes-1).Draw(t, "end"), Mode: LockMode(rapid.IntRange(0, 2).Draw(t, "mode"))}
			before := slices.Clone(held)
			weaken := rapid.Bool().Draw(t, "weaken")
			next := SetLock(held, r)
			if weaken {
				next = WeakenLock(held, r)
			}
			if !slices.Equal(before, held) {
				t.Fatalf("the list that came in has changed: %v, was %v", held, before)
			}
			held = next
			for i := r.Start; i <= r.End; i++ {
				if weaken {
					want[i] = min(want[i], r.Mode)
				} else {
					want[i] = r.Mode
				}
			}
			var got [bytes]LockMode
			for i, h := range held {
				if !h.Valid() || h.Mode == LockNone {
					t.Fatalf("%v is no lock", h)
				}
				if i > 0 && (held[i-1].End >= h.Start || held[i-1].End+1 == h.Start && held[i-1].Mode == h.Mode) {
					t.Fatalf("out of order, or not joined: %v", held)
				}
				for at := h.Start; at <= h.End; at++ {
					got[at] = h.Mode
				}
			}
			if got != want {
				t.Fatalf("%v, want %v", got, want)
			}
		}
	})
}

// The ends of a file's bytes.
func TestLockRangeBounds(t *testing.T) {
	whole := LockRange{End: MaxLockEnd, Mode: LockExclusive}
	last := LockRange{Start: MaxLockEnd, End: MaxLockEnd}
	if got := SetLock([]LockRange{whole}, last); len(got) != 1 || got[0].End != MaxLockEnd-1 {
		t.Fatal(got)
	}
	for _, bad := range []LockRange{{Start: 1}, {End: MaxLockEnd + 1}, {Mode: LockExclusive + 1}} {
		if bad.Valid() {
			t.Errorf("%v is valid", bad)
		}
	}
	shared := LockRange{Start: 5, End: 9, Mode: LockShared}
	for q, want := range map[LockRange]bool{
		{Start: 9, End: 9, Mode: LockExclusive}:   true,
		{Start: 10, End: 20, Mode: LockExclusive}: false,
		{Start: 0, End: 5, Mode: LockShared}:      false,
		{Start: 0, End: 5, Mode: LockNone}:        false,
	} {
		if shared.Excludes(q) != want || q.Excludes(shared) != want {
			t.Errorf("%v and %v", shared, q)
		}
	}
}
