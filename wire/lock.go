package wire

import "slices"

// Limits of file locks (ENOLCK beyond them).
const (
	MaxOwnerLocks   = 1024    // ranges of one owner in one file
	MaxSessionLocks = 8192    // ranges and waits of one session: all of them fit in one frame
	MaxLocks        = 1 << 18 // ranges and waits of all sessions
	MaxLockEnd      = 1<<63 - 1
)

// LockLease is how long a session's locks outlive its last sign of life, in
// milliseconds (F10). Who holds or waits for one gives a sign every LockRenew.
const (
	LockLease = 5000
	LockRenew = 1000
)

// LockKind keeps the locks of flock(2) and of fcntl(2) apart: as on a local
// disk, they do not see each other.
type LockKind uint8

// The kinds.
const (
	LockFlock LockKind = iota + 1 // owned by an open file
	LockFcntl                     // owned by a process (POSIX) or an open file (OFD)
)

// LockMode is what a lock lets others do.
type LockMode uint8

// The modes, the stronger the greater.
const (
	LockNone LockMode = iota
	LockShared
	LockExclusive
)

// LockOwner is who holds locks, within a session.
type LockOwner struct {
	Kind   LockKind `cbor:"1,keyasint"`
	Number uint64   `cbor:"2,keyasint"` // the session's own
}

// LockRange is a lock on the bytes Start to End, both included.
type LockRange struct {
	Start uint64   `cbor:"1,keyasint,omitempty"`
	End   uint64   `cbor:"2,keyasint"` // at most MaxLockEnd
	Mode  LockMode `cbor:"3,keyasint,omitempty"`
	PID   uint32   `cbor:"4,keyasint,omitempty"` // for F_GETLK; means something to its own session alone
}

// HeldLocks is what one owner holds in one file: ranges in order, none
// touching another of its mode.
type HeldLocks struct {
	Ino    Ino         `cbor:"1,keyasint"`
	Owner  LockOwner   `cbor:"2,keyasint"`
	Ranges []LockRange `cbor:"3,keyasint,omitempty"`
}

// LockOp says what a LockRequest asks for.
type LockOp uint8

// The operations on locks.
const (
	LockGet     LockOp = iota + 1 // who is in the way of Range?
	LockSet                       // Range becomes what its Mode says; with Wait, as soon as it can
	LockCancel                    // Wait is not waited for any more
	LockRelease                   // Owner holds nothing in Ino any more
	LockAssert                    // the session holds Held and nothing else, and waits for nothing
	LockPoll                      // a sign of life; answers when a wait was granted, or after LockRenew
)

// LockRequest is anything about locks. Every one is a sign of life of its session.
type LockRequest struct {
	Session SessionID `cbor:"1,keyasint"`
	Link    uint64    `cbor:"2,keyasint"` // that Attach gave
	Op      LockOp    `cbor:"3,keyasint"`
	Ino     Ino       `cbor:"4,keyasint,omitempty"`
	Owner   LockOwner `cbor:"5,keyasint,omitempty"`
	Range   LockRange `cbor:"6,keyasint,omitempty"`
	// Wait is the session's number for a LockSet that waits; 0: it does not.
	Wait uint64 `cbor:"7,keyasint,omitempty"`
	// Held is what a LockAssert says.
	Held []HeldLocks `cbor:"8,keyasint,omitempty"`
	// Acked is the greatest LockGrant.Seq that has arrived.
	Acked uint64 `cbor:"9,keyasint,omitempty"`
}

// LockResult says what became of a LockRequest.
type LockResult uint8

// The results.
const (
	LockDone     LockResult = iota + 1 // granted, released, not waited for any more, nobody in the way
	LockConflict                       // Conflict is in the way
	LockQueued                         // a LockGrant comes when it is granted
	LockDeadlock                       // waiting would never end (EDEADLK)
	LockFull                           // a limit (ENOLCK)
	LockLater                          // the coordinator has just started and waits for those who held locks before: ask again
	LockGranted                        // of a LockCancel: too late
	LockLost                           // of an assertion: the locks are gone, others may have held them since
)

// LockReply answers a LockRequest. A refusal changes nothing, but that a
// flock(2) that converts a lock has given up the old one (as the manual says).
type LockReply struct {
	Result   LockResult `cbor:"1,keyasint"`
	Conflict LockRange  `cbor:"2,keyasint,omitempty"` // PID only of the same session
	// Held is what Owner holds in Ino now, and Seq orders such answers: of two
	// the one with the greater is newer.
	Held   []LockRange `cbor:"3,keyasint,omitempty"`
	Seq    uint64      `cbor:"4,keyasint,omitempty"`
	Grants []LockGrant `cbor:"5,keyasint,omitempty"` // of a LockPoll
}

// LockGrant tells that a wait is over: granted.
type LockGrant struct {
	Wait uint64      `cbor:"1,keyasint"`
	Held []LockRange `cbor:"2,keyasint,omitempty"`
	Seq  uint64      `cbor:"3,keyasint"`
}

// Valid reports whether the range has bytes, a known mode and an end within bounds.
func (r LockRange) Valid() bool {
	return r.Start <= r.End && r.End <= MaxLockEnd && r.Mode <= LockExclusive
}

// Overlaps reports whether the ranges have a byte in common.
func (r LockRange) Overlaps(q LockRange) bool { return r.Start <= q.End && q.Start <= r.End }

// Excludes reports whether two owners cannot hold r and q at the same time.
func (r LockRange) Excludes(q LockRange) bool {
	return r.Overlaps(q) && min(r.Mode, q.Mode) != LockNone && max(r.Mode, q.Mode) == LockExclusive
}

// SetLock returns an owner's ranges after r is what its Mode says. held is in
// order, without overlaps, and stays as it is.
func SetLock(held []LockRange, r LockRange) []LockRange {
	return joined(cutLock(held, r), r)
}

// WeakenLock returns an owner's ranges after r is at most what its Mode says:
// what the owner holds for sure while a request for r has no answer.
func WeakenLock(held []LockRange, r LockRange) []LockRange {
	out := cutLock(held, r)
	for _, h := range held {
		if h.Overlaps(r) {
			h.Start, h.End, h.Mode = max(h.Start, r.Start), min(h.End, r.End), min(h.Mode, r.Mode)
			out = joined(out, h)
		}
	}
	return out
}

// cutLock returns what held has outside r.
func cutLock(held []LockRange, r LockRange) []LockRange {
	out := make([]LockRange, 0, len(held)+2)
	for _, h := range held {
		if !h.Overlaps(r) {
			out = append(out, h)
			continue
		}
		if h.Start < r.Start {
			before := h
			before.End = r.Start - 1
			out = append(out, before)
		}
		if h.End > r.End {
			after := h
			after.Start = r.End + 1
			out = append(out, after)
		}
	}
	return out
}

// joined puts r, which overlaps nothing, where it belongs, as one with what it
// touches of its mode.
func joined(held []LockRange, r LockRange) []LockRange {
	if r.Mode == LockNone {
		return held
	}
	at, _ := slices.BinarySearchFunc(held, r, func(a, b LockRange) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	if at < len(held) && held[at].Mode == r.Mode && held[at].Start == r.End+1 {
		r.End = held[at].End
		held = slices.Delete(held, at, at+1)
	}
	if at > 0 && held[at-1].Mode == r.Mode && held[at-1].End+1 == r.Start {
		held[at-1].End = r.End
		return held
	}
	return slices.Insert(held, at, r)
}
