package locks

import (
	"slices"

	"tpcfs/wire"
)

func (t *Table) file(ino wire.Ino) *file {
	f := t.files[ino]
	if f == nil {
		f = &file{}
		t.files[ino] = f
	}
	return f
}

func (t *Table) session(id wire.SessionID) *session {
	s := t.sessions[id]
	if s == nil {
		s = &session{files: map[wire.Ino]int{}, waits: map[uint64]*wait{}}
		t.sessions[id] = s
	}
	return s
}

// forget drops what is empty.
func (t *Table) forget(ino wire.Ino, id wire.SessionID) {
	if f := t.files[ino]; f != nil && len(f.holders) == 0 && len(f.waits) == 0 {
		delete(t.files, ino)
	}
	if s := t.sessions[id]; s != nil && s.ranges == 0 && len(s.waits) == 0 {
		delete(t.sessions, id)
	}
}

// full reports whether the session may not have so many ranges and waits more.
func (t *Table) full(id wire.SessionID, more int) bool {
	have := 0
	if s := t.sessions[id]; s != nil {
		have = s.ranges + len(s.waits)
	}
	return have+more > t.limits.Session || t.held+t.waiting+more > t.limits.Total
}

func (t *Table) holder(o Owner, ino wire.Ino) *holder {
	if f := t.files[ino]; f != nil {
		for _, h := range f.holders {
			if h.owner == o {
				return h
			}
		}
	}
	return nil
}

// blocker returns who holds a lock that excludes r for o, and that lock: of
// the first holder the first.
func (t *Table) blocker(o Owner, ino wire.Ino, r wire.LockRange) (*holder, wire.LockRange) {
	if f := t.files[ino]; f != nil {
		for _, h := range f.holders {
			if q, ok := h.blocks(o, r); ok {
				return h, q
			}
		}
	}
	return nil, wire.LockRange{}
}

func (h *holder) blocks(o Owner, r wire.LockRange) (wire.LockRange, bool) {
	if h.owner == o || h.owner.Kind != o.Kind {
		return wire.LockRange{}, false
	}
	for _, q := range h.ranges {
		if q.Excludes(r) {
			return q, true
		}
	}
	return wire.LockRange{}, false
}

// take sets a range that nobody is in the way of. What it gives up may wake
// others.
func (t *Table) take(o Owner, ino wire.Ino, r wire.LockRange) wire.LockResult {
	h := t.holder(o, ino)
	var old []wire.LockRange
	if h != nil {
		old = h.ranges
	}
	ranges := wire.SetLock(old, r)
	more := len(ranges) - len(old)
	if len(ranges) > t.limits.Owner && more > 0 || more > 0 && t.full(o.Session, more) {
		return wire.LockFull
	}
	t.install(o, ino, h, ranges)
	t.wake(ino)
	return wire.LockDone
}

// install makes ranges all that the owner holds in the file.
func (t *Table) install(o Owner, ino wire.Ino, h *holder, ranges []wire.LockRange) {
	t.seq++
	if h == nil && len(ranges) == 0 {
		return
	}
	f, s := t.file(ino), t.session(o.Session)
	if h == nil {
		h = &holder{owner: o}
		f.holders = append(f.holders, h)
		s.files[ino]++
	}
	t.held += len(ranges) - len(h.ranges)
	s.ranges += len(ranges) - len(h.ranges)
	h.ranges = ranges
	if len(ranges) > 0 {
		return
	}
	f.holders = slices.DeleteFunc(f.holders, func(q *holder) bool { return q == h })
	if s.files[ino]--; s.files[ino] == 0 {
		delete(s.files, ino)
	}
	t.forget(ino, o.Session)
}

// release drops what the owner holds in the file; wake follows.
func (t *Table) release(o Owner, ino wire.Ino) {
	if h := t.holder(o, ino); h != nil {
		t.install(o, ino, h, nil)
	}
}

// convert gives up an open file's flock(2) of another mode, so that two who
// convert a shared one do not wait for each other.
func (t *Table) convert(o Owner, ino wire.Ino, mode wire.LockMode) {
	h := t.holder(o, ino)
	if h == nil || h.ranges[0].Mode == mode {
		return
	}
	if mode == wire.LockShared {
		return // in nobody's way
	}
	t.Release(o, ino)
}

func (t *Table) unwait(w *wait) {
	f, s := t.files[w.ino], t.sessions[w.owner.Session]
	f.waits = slices.DeleteFunc(f.waits, func(q *wait) bool { return q == w })
	delete(s.waits, w.number)
	t.waiting--
	t.forget(w.ino, w.owner.Session)
}

// wake grants what can be granted in the file, first come first served. A wait
// that is granted may give up something, too.
func (t *Table) wake(ino wire.Ino) {
	for {
		w := t.next(ino)
		if w == nil {
			return
		}
		t.unwait(w)
		h := t.holder(w.owner, ino)
		var old []wire.LockRange
		if h != nil {
			old = h.ranges
		}
		t.install(w.owner, ino, h, wire.SetLock(old, w.r))
		held, seq := t.Held(w.owner, ino)
		t.grants = append(t.grants, Grant{w.owner.Session, wire.LockGrant{Wait: w.number, Held: held, Seq: seq}})
	}
}

func (t *Table) next(ino wire.Ino) *wait {
	if f := t.files[ino]; f != nil {
		for _, w := range f.waits {
			if h, _ := t.blocker(w.owner, ino, w.r); h == nil {
				return w
			}
		}
	}
	return nil
}

// circle reports whether o, waiting for r, would wait for itself: through
// whoever is in its way, and what those wait for.
func (t *Table) circle(o Owner, ino wire.Ino, r wire.LockRange) bool {
	seen := map[Owner]bool{}
	todo := []wait{{owner: o, ino: ino, r: r}}
	for len(todo) > 0 {
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		f := t.files[w.ino]
		if f == nil {
			continue
		}
		for _, h := range f.holders {
			if _, ok := h.blocks(w.owner, w.r); !ok || seen[h.owner] {
				continue
			}
			if h.owner == o {
				return true
			}
			seen[h.owner] = true
			for _, q := range t.sessions[h.owner.Session].waits {
				if q.owner == h.owner {
					todo = append(todo, *q)
				}
			}
		}
	}
	return false
}
