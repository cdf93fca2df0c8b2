// Package locks is the table of file locks of all clients: who holds which
// bytes of which file, and who waits (F10). The caller's duties: one goroutine;
// take Grants after every call that changes something.
//
// The package is pure: no clock, no I/O. Locks behave as Linux's: a lock that
// is in nobody's way is granted at once, whoever waits; waits are looked at in
// the order in which they came whenever something is released; flock(2) gives
// up the old lock before it converts one; who waits by fcntl(2) in a circle is
// told EDEADLK. (The kernel does not say which fcntl locks are those of open
// files, for which the manual promises no such check.)
package locks

import (
	"slices"

	"tpcfs/wire"
)

// Owner is a holder of locks: two owners' locks may exclude each other.
type Owner struct {
	Session wire.SessionID
	wire.LockOwner
}

// Grant is a wait that is over.
type Grant struct {
	Session wire.SessionID
	wire.LockGrant
}

// Limits bound the table; the zero value takes those of package wire.
type Limits struct {
	Owner, Session, Total int
}

// Table is the table of locks.
type Table struct {
	limits   Limits
	files    map[wire.Ino]*file
	sessions map[wire.SessionID]*session
	seq      uint64 // counts changes
	held     int    // ranges
	waiting  int
	grants   []Grant
}

// file is what is locked, or waited for, in one inode.
type file struct {
	holders []*holder // in the order of their first lock
	waits   []*wait   // in the order in which they came
}

type holder struct {
	owner  Owner
	ranges []wire.LockRange // never empty
}

type wait struct {
	number uint64
	owner  Owner
	ino    wire.Ino
	r      wire.LockRange
}

// session is what one client holds and waits for.
type session struct {
	ranges int
	files  map[wire.Ino]int // holders there
	waits  map[uint64]*wait
}

// New makes an empty table.
func New(l Limits) *Table {
	for _, d := range []struct {
		v   *int
		def int
	}{{&l.Owner, wire.MaxOwnerLocks}, {&l.Session, wire.MaxSessionLocks}, {&l.Total, wire.MaxLocks}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	return &Table{limits: l, files: map[wire.Ino]*file{}, sessions: map[wire.SessionID]*session{}}
}

// Count tells how many ranges are held, and how many requests wait.
func (t *Table) Count() (held, waiting int) { return t.held, t.waiting }

// Uses reports whether the session holds or waits for anything.
func (t *Table) Uses(id wire.SessionID) bool { return t.sessions[id] != nil }

// Held is what the owner holds in the file; Seq is greater after every change.
func (t *Table) Held(o Owner, ino wire.Ino) (ranges []wire.LockRange, seq uint64) {
	if h := t.holder(o, ino); h != nil {
		ranges = slices.Clone(h.ranges)
	}
	return ranges, t.seq
}

// Grants returns the waits that are over since the last call.
func (t *Table) Grants() []Grant {
	g := t.grants
	t.grants = nil
	return g
}

// Get returns a lock that is in the way of r for o.
func (t *Table) Get(o Owner, ino wire.Ino, r wire.LockRange) (conflict wire.LockRange, ok bool) {
	h, conflict := t.blocker(o, ino, r)
	if h != nil && h.owner.Session != o.Session {
		conflict.PID = 0 // a process of another machine
	}
	return conflict, h != nil
}

// Set makes r what its mode says, if nobody is in the way. With a number it
// waits otherwise; numbers are the session's, not used at the moment.
func (t *Table) Set(o Owner, ino wire.Ino, r wire.LockRange, number uint64) (wire.LockResult, wire.LockRange) {
	if o.Kind == wire.LockFlock {
		t.convert(o, ino, r.Mode)
	}
	conflict, ok := t.Get(o, ino, r)
	switch {
	case !ok:
		return t.take(o, ino, r), wire.LockRange{}
	case number == 0:
		return wire.LockConflict, conflict
	case o.Kind == wire.LockFcntl && t.circle(o, ino, r):
		return wire.LockDeadlock, conflict
	case t.full(o.Session, 1):
		return wire.LockFull, conflict
	}
	w := &wait{number: number, owner: o, ino: ino, r: r}
	s := t.session(o.Session)
	s.waits[number] = w
	f := t.file(ino)
	f.waits = append(f.waits, w)
	t.waiting++
	return wire.LockQueued, conflict
}

// Cancel ends a wait; false: it is not there (any more).
func (t *Table) Cancel(id wire.SessionID, number uint64) bool {
	s := t.sessions[id]
	if s == nil || s.waits[number] == nil {
		return false
	}
	t.unwait(s.waits[number])
	return true
}

// Release drops all that the owner holds in the file.
func (t *Table) Release(o Owner, ino wire.Ino) {
	t.release(o, ino)
	t.wake(ino)
}

// Drop ends a session: what it holds and what it waits for.
func (t *Table) Drop(id wire.SessionID) { t.Assert(id, nil) }

// Assert makes held all that the session has. false: others are in the way, or
// it is no list of locks, and then the session has nothing. The limits leave
// room for what waits have added to them.
func (t *Table) Assert(id wire.SessionID, held []wire.HeldLocks) bool {
	inos := t.withhold(id)
	ok := true
	for i := range held {
		ok = ok && t.assert(Owner{id, held[i].Owner}, held[i].Ino, held[i].Ranges)
	}
	if !ok {
		inos = append(inos, t.withhold(id)...)
	}
	slices.Sort(inos)
	for _, ino := range slices.Compact(inos) {
		t.wake(ino)
	}
	return ok
}

func (t *Table) assert(o Owner, ino wire.Ino, asserted []wire.LockRange) bool {
	if t.holder(o, ino) != nil {
		return false // named twice
	}
	var ranges []wire.LockRange
	for _, r := range asserted {
		_, blocked := t.Get(o, ino, r)
		if blocked || !r.Valid() || r.Mode == wire.LockNone {
			return false
		}
		ranges = wire.SetLock(ranges, r)
	}
	n := len(ranges)
	if s := t.sessions[o.Session]; s != nil {
		n += s.ranges
	}
	if n > 2*t.limits.Session || t.held+len(ranges) > 2*t.limits.Total {
		return false
	}
	t.install(o, ino, nil, ranges)
	return true
}

// withhold takes all from a session without waking anybody yet, and returns
// the files in which it had locks.
func (t *Table) withhold(id wire.SessionID) (inos []wire.Ino) {
	s := t.sessions[id]
	if s == nil {
		return nil
	}
	for _, w := range s.waits {
		t.unwait(w)
	}
	for ino := range s.files {
		inos = append(inos, ino)
		for _, h := range slices.Clone(t.files[ino].holders) {
			if h.owner.Session == id {
				t.release(h.owner, ino)
			}
		}
	}
	return inos
}
