package commit

import (
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
	if len(m.queue) >= m.o.MaxQueued || m.waiting+r.size > m.o.MaxQueuedBytes {
		m.reply(r, nil, &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf(
			"%d requests wait already%s; nothing changed: try again later", len(m.queue), m.forWhom())})
		return
	}
	m.queue = append(m.queue, r)
	m.queued[op] = r
	m.waiting += r.size
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
	if len(m.queue) > 0 && m.queue[0] == r {
		m.queue[0] = nil
		m.queue = m.queue[1:]
	} else {
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
		m.unqueue(r)
		m.reply(r, nil, &wire.Error{Code: wire.CodeCanceled, Text: "given up before anything was put; nothing changed" + m.forWhom()})
	}
}

// expireRequests answers those whose wait is over (W3).
func (m *Machine) expireRequests() {
	m.expireHeld(func(r *Request) bool { return r.deadline != 0 && m.now >= r.deadline }, "the wait was over")
	for _, r := range slices.Clone(m.queue) {
		if r.deadline != 0 && m.now >= r.deadline {
			m.unqueue(r)
			m.reply(r, nil, &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf(
				"not begun in time%s; nothing changed", m.forWhom())})
		}
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
	for _, r := range m.queue {
		m.reply(r, nil, err)
	}
	clear(m.queued)
	m.queue, m.waiting = nil, 0
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
