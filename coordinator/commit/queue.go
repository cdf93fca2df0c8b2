package commit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"tpcfs/wire"
)

// Request is a client's Transact. It is the machine's until it is answered;
// mutations and payload for good: they go into the buffer of the streams.
type Request struct {
	Transact wire.Transact
	Payload  []byte
	Token    any // the caller's own

	reclaims wire.Ino // not 0: the machine's own, about that inode
	releases wire.Ino // not 0: its session's reclaim of that inode

	tx       *tx // that it waits for; nil while queued
	arrived  int64
	deadline int64 // m.now at which it is answered all the same; 0: never
	size     int64 // bytes that it takes

	line     *line // that it is parked in; nil: not
	patience int64 // service time at which it is parked no longer; 0: never
	next     *line // who is parked behind it; nil once that is put
}

// line is retries that are parked behind the same transaction, or behind one of them
// that is to be put, in the order of arrival (F5).
type line struct {
	requests []*Request
	mixed    bool // they may wait because of different locks
}

// requestCost is the fixed cost of a request in memory, in bytes, beside its
// mutations and contents.
const requestCost = 512

// Submit takes a request. Its answer comes in a Ready: the outcome; what
// refused it; CodeUnavailable if it was not put in time, CodeUnknownOutcome if
// it was and is not decided in time (G6).
func (m *Machine) Submit(r *Request) {
	if err := m.admit(r); err != nil {
		m.reply(r, nil, err)
		return
	}
	if r.Transact.Wait > 0 {
		r.deadline = m.now + r.Transact.Wait
	}
	r.arrived = m.now
	m.enter(r)
}

// enter joins a request that was admitted to an attempt that is under way, or
// lets it wait for its turn.
func (m *Machine) enter(r *Request) {
	op := r.Transact.Op
	if t := m.ops[op]; t != nil && !m.mayRunAnew(t) {
		m.join(t, r)
		return
	}
	if first := m.queued[op]; first != nil {
		m.unqueue(first)
		m.reply(first, nil, &wire.Error{Code: wire.CodeReplaced, Text: "the same request came again"})
	}
	t, part := m.blocker(r), 1
	if t != nil { // a client can have as many parked as it likes: they leave half to the others
		part = 2
	}
	if len(m.queued) >= m.o.MaxQueued/part || m.waiting+r.size > m.o.MaxQueuedBytes/int64(part) {
		m.reply(r, nil, &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf(
			"%d requests wait already%s; nothing changed: try again later", len(m.queued), m.forWhom())})
		return
	}
	m.queued[op] = r
	m.waiting += r.size
	if t != nil {
		m.park(r, t)
		return
	}
	m.queue = append(m.queue, r)
}

// blocker is the transaction that a retry waits for; nil: it is decided, or another
// reign's, and so was recovered before anything is put in this one.
func (m *Machine) blocker(r *Request) *tx {
	b := r.Transact.Behind
	if b == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(m.order, b.Tx, func(t *tx, id wire.ID) int { return cmp.Compare(t.id, id) })
	if !found || m.order[i].state != undecided {
		return nil
	}
	return m.order[i]
}

func (m *Machine) park(r *Request, t *tx) {
	if t.line == nil {
		t.line = &line{}
	}
	t.line.take(r)
	if b := r.Transact.Behind; b.Patience > 0 { // an outage does not count: nobody's change goes on in it
		r.patience = m.state.ServiceTime + b.Patience
	}
}

func (l *line) take(r *Request) {
	l.mixed = l.mixed || len(l.requests) > 0 && l.requests[0].Transact.Behind.Key != r.Transact.Behind.Key
	l.requests = append(l.requests, r)
	r.line = l
}

// leave takes one out. The first leaves the others where they are.
func (l *line) leave(r *Request) {
	if i := slices.Index(l.requests, r); i == 0 {
		l.requests[0] = nil
		l.requests = l.requests[1:]
	} else {
		l.requests = slices.Delete(l.requests, i, i+1)
	}
	r.line = nil
}

// release lets those of a line go on that are the first because of a lock: they are
// put before all that came later. The others are parked behind them: they would only
// be aborted once more.
func (m *Machine) release(l *line) {
	if l == nil || len(l.requests) == 0 {
		return
	}
	if !l.mixed { // the line stays as it is, however long
		f := l.requests[0]
		l.leave(f)
		f.next = l
		m.queue = slices.Insert(m.queue, 0, f)
		return
	}
	var first []*Request
	byKey := map[uint64]*Request{}
	for _, r := range l.requests {
		key := r.Transact.Behind.Key
		f := byKey[key]
		if f == nil {
			byKey[key], r.line = r, nil
			first = append(first, r)
			continue
		}
		if f.next == nil {
			f.next = &line{}
		}
		f.next.take(r)
	}
	m.queue = slices.Insert(m.queue, 0, first...)
}

// unput are all requests that are not put: those that wait for their turn, each
// followed by those behind it, then those behind transactions.
func (m *Machine) unput() []*Request {
	list := make([]*Request, 0, len(m.queued))
	for _, r := range m.queue {
		list = append(list, r)
		if r.next != nil {
			list = append(list, r.next.requests...)
		}
	}
	for _, t := range m.order {
		if t.line != nil {
			list = append(list, t.line.requests...)
		}
	}
	return list
}

// pump puts what may be put, in the order of arrival.
func (m *Machine) pump() {
	for len(m.queue) > 0 && m.writable() && m.room() {
		r := m.queue[0]
		m.unqueue(r)
		if err := m.checkSession(r.Transact.Op.Session, r.Transact.Link); err != nil {
			m.reply(r, nil, err)
			continue
		}
		if err := m.sessions[r.Transact.Op.Session].checkSeq(r.Transact.Op.Seq); err != nil {
			m.reply(r, nil, err)
			continue
		}
		if r.releases != 0 { // others may have come while it waited
			if err := m.admitReclaim(r); err != nil {
				m.reply(r, nil, err)
				continue
			}
		}
		m.putPrepare(r)
	}
	m.putReclaims()
}

// room: is there place for another prepare beyond W (P9)?
func (m *Machine) room() bool {
	low := m.open
	if m.w.Epoch == m.epoch.Number {
		low = m.w.Index
	}
	return m.last-low < m.o.MaxAhead && m.bytes < m.o.MaxBytes
}

func (m *Machine) unqueue(r *Request) {
	switch {
	case r.line != nil:
		r.line.leave(r)
	case len(m.queue) > 0 && m.queue[0] == r:
		m.queue[0] = nil
		m.queue = m.queue[1:]
	default:
		i := slices.Index(m.queue, r)
		m.queue = slices.Delete(m.queue, i, i+1)
	}
	delete(m.queued, r.Transact.Op)
	m.waiting -= r.size
}

// Cancel gives up a request (its caller has). It is answered at once:
// CodeCanceled if it was not put, else CodeUnknownOutcome; the transaction
// goes on. A request that was answered stays so.
func (m *Machine) Cancel(r *Request) {
	m.expireHeld(func(h *Request) bool { return h == r }, "the caller gave up")
	switch {
	case r.tx != nil:
		if i := slices.Index(r.tx.waiters, r); i >= 0 {
			r.tx.waiters = slices.Delete(r.tx.waiters, i, i+1)
			m.reply(r, nil, m.unknown(r.tx, "the caller gave up"))
		}
	case m.queued[r.Transact.Op] == r:
		why := m.waitsFor(r)
		m.unqueue(r)
		m.reply(r, nil, &wire.Error{Code: wire.CodeCanceled, Text: "given up before anything was put; nothing changed" + why})
	}
}

// expireRequests answers those whose wait is over (W3).
func (m *Machine) expireRequests() {
	m.expireHeld(func(r *Request) bool { return r.deadline != 0 && m.now >= r.deadline }, "the wait was over")
	for _, r := range m.unput() {
		var err *wire.Error
		switch {
		case r.deadline != 0 && m.now >= r.deadline:
			err = &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf("not begun in time%s; nothing changed", m.waitsFor(r))}
		case r.line != nil && r.patience != 0 && m.state.ServiceTime >= r.patience:
			b := r.Transact.Behind
			err = &wire.Error{Code: wire.CodeConflict, Blocker: b.Tx, Key: b.Key, Text: fmt.Sprintf(
				"after %d ms others are still at work on it%s; nothing changed", b.Patience, m.waitsFor(r))}
		default:
			continue
		}
		m.unqueue(r)
		m.reply(r, nil, err)
	}
	for _, t := range m.ops {
		late := func(r *Request) bool { return r.deadline != 0 && m.now >= r.deadline }
		if !slices.ContainsFunc(t.waiters, late) {
			continue
		}
		t.waiters = slices.DeleteFunc(t.waiters, func(r *Request) bool {
			if late(r) {
				m.reply(r, nil, m.unknown(t, fmt.Sprintf("no answer within %d ms", r.Transact.Wait)))
			}
			return late(r)
		})
	}
}

// refuseQueue answers everything that waits.
func (m *Machine) refuseQueue(err *wire.Error) {
	for _, r := range m.unput() {
		m.unqueue(r)
		m.reply(r, nil, err)
	}
}

// waitsFor says what a request waits for, to be appended to an error's text.
func (m *Machine) waitsFor(r *Request) string {
	t := m.blocker(r)
	if r.line == nil || t == nil {
		return m.forWhom()
	}
	text := fmt.Sprintf(": transaction %v is not decided", t.id)
	if _, missing := m.voted(t); len(missing) > 0 {
		text += ", it waits for " + strings.Join(missing, ", ")
	}
	return text
}

// forWhom says what requests wait for, to be appended to an error's text.
func (m *Machine) forWhom() string {
	switch missing := m.missing(); {
	case len(missing) > 0:
		return ": waits for participant " + strings.Join(missing, ", ")
	case m.full:
		return ": the coordinator's disk is full"
	case m.phase == Serving && !m.enough():
		return fmt.Sprintf(": waits for participant %s, which are not in sync: %d have to be", strings.Join(m.evicted(), ", "), m.minInSync())
	case m.phase != Serving:
		return ": the participants are being recovered"
	case m.change != nil:
		return ": the set of participants in sync is being changed"
	case m.joiner >= 0:
		return ": participant " + m.members[m.joiner].name + " gets the last of what it lacks"
	case !m.room() && len(m.order) > 0 && m.order[0] != nil:
		_, names := m.voted(m.order[0])
		return ": the oldest change waits for " + strings.Join(names, ", ")
	}
	return ""
}
