package commit

import (
	"bytes"
	"fmt"
	"slices"

	"tpcfs/wire"
)

// A session may have a lease on what it has read (F9): until it ends, nobody
// hears that a change is done before the session has forgotten what it has
// read of that. The session asks with Watch, again and again; the answers tell
// it what has been changed, its next question says that it has forgotten that.
// Sessions with a lease are in the journal before they get it: the next reign
// lets each keep it for as long as it may last (F10).

const (
	// leaseHeld is how long a lease holds here after its Watch came, in
	// milliseconds: a little longer than there, as clocks differ.
	leaseHeld = wire.Lease + wire.Lease/10

	maxLeases = 256  // sessions with a lease; they are in each SNAPSHOT
	maxPushes = 1024 // kept; who is further behind forgets everything
)

// leases are what the machine knows of them.
type leases struct {
	live   map[wire.SessionID]*lease
	before map[wire.SessionID]int64 // earlier reigns': m.now until which they hold
	number uint64                   // of the last push
	pushes []push                   // up to number
	held   []heldReply              // in the order of numbers
}

// lease is one of this reign.
type lease struct {
	until  int64        // m.now
	told   uint64       // up to here the session was told
	again  bool         // the session has had one before
	first  uint64       // ... then the number of this one's first answer: what is older is the other's
	acked  uint64       // ... and has forgotten it; 0: it has not said anything yet
	record *LeaseRecord // on its way to the journal; nil: it is there
	all    bool         // the next answer makes it forget everything
	after  uint64       // the entries up to here may let files go that others have open (F7)
	alone  bool         // the last answer said so
	lowest uint64       // Watch.Lowest and Lost
	lost   []uint64
	own    []ownPush // pushes of its own changes that it was not told of, up to number seen
	seen   uint64
	watch  *Watch
}

// ownPush is a change of the session's own. It has the answer, or will have it,
// and is told only if that turns out to be lost.
type ownPush struct {
	seq     uint64
	touched *wire.Touched
	told    uint64 // with this number; 0: not yet
}

// push is what a transaction has changed.
type push struct {
	session wire.SessionID // whose transaction it was
	seq     uint64         // of the request; 0: of none
	touched *wire.Touched
}

// heldReply waits until no other session than its own may answer from before number.
type heldReply struct {
	reply  Reply
	number uint64
}

// Watch is a session's question. It is the machine's until it is answered.
type Watch struct {
	Watch    wire.Watch
	Token    any   // the caller's own
	deadline int64 // m.now at which it is answered though there is nothing to tell
}

// Watched answers a Watch.
type Watched struct {
	Watch   *Watch
	Watched wire.Watched
	Err     *wire.Error
}

// Ask takes a Watch; its answer comes in a Ready. lag is by how many
// milliseconds the ticks are behind the time when it came, or less.
func (m *Machine) Ask(w *Watch, lag int64) {
	id := w.Watch.Session
	err := m.checkSession(id, w.Watch.Link)
	l := m.leases.live[id]
	known := l != nil && w.Watch.Epoch == m.epoch.Number && w.Watch.Number >= l.acked && w.Watch.Number <= l.told &&
		(w.Watch.Number == 0 || w.Watch.Number >= l.first)
	if err == nil && l != nil && l.told > 0 && l.acked == 0 && !known { // else it could keep everybody waiting
		err = wire.NewError(wire.CodeBusy, "the session was told to forget everything and has not said that it did; its lease runs out")
	}
	if err == nil && len(w.Watch.Lost) > wire.MaxLost {
		err = &wire.Error{Code: wire.CodeProtocol, Text: fmt.Sprintf("%d requests without an answer, at most %d are told", len(w.Watch.Lost), wire.MaxLost)}
	}
	if m.stop != nil || m.closing {
		err = wire.NewError(wire.CodeUnavailable, "the coordinator has stopped, or is shutting down")
	}
	if err == nil && l == nil && len(m.leases.live)+len(m.leases.before) >= maxLeases && m.leases.before[id] == 0 {
		err = &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("%d sessions have a lease already", maxLeases)}
	}
	if err != nil {
		m.rd.Watched = append(m.rd.Watched, Watched{Watch: w, Err: err})
		return
	}
	if l != nil && l.watch != nil {
		m.rd.Watched = append(m.rd.Watched, Watched{Watch: l.watch, Err: replaced()})
		l.watch = nil
	}
	switch {
	case l == nil:
		l = m.grant(id)
	case l.told == 0: // no answer has come to it
	case !known:
		l.all, l.acked = true, 0
	default:
		l.acked = w.Watch.Number
		delete(m.leases.before, id)
		if l.acked == l.told { // else the last answer was lost, and it is asked again
			m.answered(id, w.Watch.Holds)
		}
	}
	w.deadline = m.now + min(max(w.Watch.Wait, 0), wire.Lease)
	l.until, l.watch = max(l.until, m.now+max(lag, 0)+leaseHeld), w
	l.hears()
}

// hears notes of which of its own changes a session knows, or will not hear.
func (l *lease) hears() {
	l.lowest, l.lost = l.watch.Watch.Lowest, l.watch.Watch.Lost
	l.own = slices.DeleteFunc(l.own, func(p ownPush) bool {
		return p.told > 0 && p.told <= l.acked || p.seq < l.lowest && !slices.Contains(l.lost, p.seq)
	})
}

// knows: has the session the answer to a request of its own, or may it have it yet?
func (l *lease) knows(seq uint64) bool {
	return seq > 0 && l.lowest > 0 && !slices.Contains(l.lost, seq)
}

// missed: is there a change of its own whose answer it will not hear?
func (l *lease) missed() bool {
	return slices.ContainsFunc(l.own, func(p ownPush) bool { return p.told == 0 && !l.knows(p.seq) })
}

// alone: may no other session answer from what it has read?
func (m *Machine) alone(id wire.SessionID) bool {
	for other := range m.leases.before {
		if other != id {
			return false
		}
	}
	return len(m.leases.live) == 1 && m.leases.live[id] != nil
}

// grant begins a lease. Its session is told to forget everything, and counts as
// one that may answer from before until it has said that it has.
func (m *Machine) grant(id wire.SessionID) *lease {
	l := &lease{all: true, after: m.last, again: m.orphans.asked[id] != nil}
	if m.leases.live == nil {
		m.leases.live = map[wire.SessionID]*lease{}
	}
	m.leases.live[id] = l
	if m.leases.number == 0 {
		m.leases.number = 1 // acked 0 is before everything
		m.leases.pushes = append(m.leases.pushes, push{})
	}
	m.askNew(id)
	if !m.state.Leases[id] {
		l.record = &LeaseRecord{Session: id}
		m.record(&Record{Kind: RecLease, Lease: l.record})
	}
	return l
}

// LeaseJournaled tells that a LEASE record is durable: the lease may begin.
func (m *Machine) LeaseJournaled(r *LeaseRecord) {
	if l := m.leases.live[r.Session]; l != nil && l.record == r {
		l.record = nil
	}
}

// Unask gives up a Watch, whose caller has.
func (m *Machine) Unask(w *Watch) {
	if l := m.leases.live[w.Watch.Session]; l != nil && l.watch == w {
		l.watch = nil
		m.rd.Watched = append(m.rd.Watched, Watched{Watch: w, Err: wire.NewError(wire.CodeCanceled, "given up")})
	}
}

// keepLeases lets the sessions that had a lease under an earlier reign keep it
// for as long as it may last.
func (m *Machine) keepLeases() {
	for id, live := range m.state.Leases {
		m.asks(id).until = m.now + m.o.WatcherIdle
		if !live {
			continue
		}
		if m.leases.before == nil {
			m.leases.before = map[wire.SessionID]int64{}
		}
		m.leases.before[id] = m.now + leaseHeld
	}
}

// endLease ends a session's lease: it has run out. The session may have files
// open still.
func (m *Machine) endLease(id wire.SessionID) {
	m.dropLease(id)
	if m.state.Leases[id] {
		m.record(&Record{Kind: RecLease, Lease: &LeaseRecord{Session: id, Lapsed: true}})
	}
}

// dropLease ends it where the journal hears of that otherwise.
func (m *Machine) dropLease(id wire.SessionID) {
	if l := m.leases.live[id]; l != nil && l.watch != nil {
		m.rd.Watched = append(m.rd.Watched, Watched{Watch: l.watch, Err: replaced()})
	}
	delete(m.leases.live, id)
	delete(m.leases.before, id)
}

// expireLeases ends those that have run out.
func (m *Machine) expireLeases() {
	var over []wire.SessionID
	for id, l := range m.leases.live {
		if m.now >= l.until {
			over = append(over, id)
		}
	}
	for id, until := range m.leases.before {
		if m.now >= until && m.leases.live[id] == nil {
			over = append(over, id)
		} else if m.now >= until {
			delete(m.leases.before, id)
		}
	}
	slices.SortFunc(over, func(a, b wire.SessionID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range over {
		m.endLease(id)
	}
	if len(m.leases.live) == 0 {
		m.leases.pushes = nil
	}
}

// push tells all sessions with a lease what a transaction has changed, and
// returns the number of that.
func (m *Machine) push(s wire.SessionID, seq uint64, touched *wire.Touched) uint64 {
	l := &m.leases
	if len(l.live) == 0 {
		return l.number
	}
	l.number++
	l.pushes = append(l.pushes, push{s, seq, touched})
	least := l.number
	for _, one := range l.live {
		known := one.acked
		if known == 0 { // it forgets everything first
			known = one.told
		}
		least = min(least, known)
	}
	if drop := len(l.pushes) - int(min(l.number-least, maxPushes)); drop > 0 {
		l.pushes = slices.Delete(l.pushes, 0, drop)
	}
	return l.number
}

// toForget is what a session has to forget of its own change, before it says that it is
// done: also what others have changed before, on which that went on, and of which the
// session may not have heard yet. nil: everything.
func (m *Machine) toForget(s wire.SessionID, number uint64, own *wire.Touched) *wire.Touched {
	l := m.leases.live[s]
	switch {
	case m.leases.before[s] != 0: // what others have done under this reign it may not know
		return nil
	case l == nil || own == nil:
		return own
	}
	out := *own
	out.Inos, out.Names = slices.Clone(own.Inos), slices.Clone(own.Names)
	for n := number - 1; n > l.acked && !out.Wide; n-- {
		p := m.pushed(n)
		if p == nil {
			return nil
		}
		if p.session != s && out.Meets(p.touched) {
			out.Add(p.touched)
		}
	}
	return &out
}

// blocked: may a session other than s still answer from before a push?
func (m *Machine) blocked(s wire.SessionID, number uint64) bool {
	for id := range m.leases.before {
		if id != s {
			return true
		}
	}
	for id, l := range m.leases.live {
		if id != s && l.told > 0 && l.acked < number {
			return true
		}
	}
	return false
}

// holdBack keeps the answer that a change is done until every other session
// with a lease has forgotten what it has read of it.
func (m *Machine) holdBack(rep Reply, number uint64) bool {
	if !m.blocked(rep.Request.Transact.Op.Session, number) {
		return false
	}
	m.leases.held = append(m.leases.held, heldReply{rep, number})
	return true
}

// pumpLeases answers what may be answered.
func (m *Machine) pumpLeases() {
	l := &m.leases
	if len(l.live) == 0 && len(l.held) == 0 {
		return
	}
	l.held = slices.DeleteFunc(l.held, func(h heldReply) bool {
		s := h.reply.Request.Transact.Op.Session
		if m.blocked(s, h.number) {
			return false
		}
		m.touch(s)
		m.rd.Replies = append(m.rd.Replies, h.reply)
		return true
	})
	var late []wire.SessionID // the journal has no room, or is slow
	ids := make([]wire.SessionID, 0, len(l.live))
	for id, one := range l.live {
		if one.watch != nil && one.record == nil && !m.settling(one) && (one.all || m.now >= one.watch.deadline || m.news(id, one)) {
			ids = append(ids, id)
		}
		if one.watch != nil && one.record != nil && m.now >= one.watch.deadline+wire.Lease {
			late = append(late, id)
		}
	}
	for _, id := range late {
		m.endLease(id)
	}
	slices.SortFunc(ids, func(a, b wire.SessionID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		m.tell(id, l.live[id])
	}
}

// settling: is a change undecided that was put before the session was one that
// may have files open? It may take one that the session would open now (F7).
func (m *Machine) settling(l *lease) bool {
	return l.told == 0 && slices.ContainsFunc(m.order, func(t *tx) bool { return t.state == undecided && t.index <= l.after })
}

// news: is there a change by others that the session was not told of, or
// somebody else now?
func (m *Machine) news(id wire.SessionID, l *lease) bool {
	if a := m.orphans.asked[id]; a != nil && len(a.inos) > 0 {
		return true
	}
	if l.alone && !m.alone(id) || l.missed() {
		return true
	}
	for n := max(l.told, l.acked) + 1; n <= m.leases.number; n++ {
		if p := m.pushed(n); p == nil || p.session != id || slices.Contains(l.lost, p.seq) {
			return true
		}
	}
	return false
}

// pushed is the push of a number; nil: it is kept no more.
func (m *Machine) pushed(n uint64) *push {
	l := &m.leases
	i := int64(n) - int64(l.number) + int64(len(l.pushes)) - 1
	if i < 0 || i >= int64(len(l.pushes)) {
		return nil
	}
	return &l.pushes[i]
}

// tell answers a session's Watch with all since what it has forgotten.
func (m *Machine) tell(id wire.SessionID, l *lease) {
	unnamed := m.asks(id).tell()
	// What has to be answered has a number of its own: the next Watch says with it
	// that this answer has come, and not the one of a lease before.
	begins := l.again && l.first == 0
	if begins || (len(unnamed) > 0 || l.missed()) && l.told == m.leases.number {
		m.push(id, 0, &wire.Touched{})
	}
	if begins {
		l.first = m.leases.number
	}
	out := wire.Watched{Epoch: m.epoch.Number, Number: m.leases.number, Unnamed: unnamed, Alone: m.alone(id), Time: max(m.state.Time, m.wall)}
	out.Touched.Wide = l.all
	for n := l.acked + 1; n <= m.leases.number && !out.Touched.Wide; n++ {
		switch p := m.pushed(n); {
		case p == nil:
			out.Touched = wire.Touched{Wide: true}
		case p.session == id && l.knows(p.seq):
			l.keepOwn(n, p)
		default:
			out.Touched.Add(p.touched)
		}
	}
	l.tellOwn(&out)
	m.rd.Watched = append(m.rd.Watched, Watched{Watch: l.watch, Watched: out})
	l.watch, l.all, l.told, l.alone = nil, false, m.leases.number, out.Alone
}

// keepOwn keeps a change of the session's own for when its answer is lost.
func (l *lease) keepOwn(n uint64, p *push) {
	if n > l.seen {
		l.seen = n
		if p.seq >= l.lowest {
			l.own = append(l.own, ownPush{seq: p.seq, touched: p.touched})
		}
	}
}

// tellOwn tells of those that are, and of those that others' changes in the same answer
// meet: such a one may be what others have gone on from. They hear that theirs is done
// when this answer has come, maybe before the session hears of its own.
func (l *lease) tellOwn(out *wire.Watched) {
	if len(l.own) > maxPushes {
		out.Touched = wire.Touched{Wide: true}
	}
	for i := len(l.own) - 1; i >= 0; i-- { // what it went on from itself came before
		if p := &l.own[i]; p.told > 0 || !l.knows(p.seq) || out.Touched.Meets(p.touched) {
			out.Touched.Add(p.touched)
			if p.told == 0 {
				p.told = out.Number
			}
		}
	}
}

// expireHeld answers those whose wait is over (W3), and who gave up.
func (m *Machine) expireHeld(over func(r *Request) bool, why string) {
	m.leases.held = slices.DeleteFunc(m.leases.held, func(h heldReply) bool {
		r := h.reply.Request
		if !over(r) {
			return false
		}
		m.rd.Replies = append(m.rd.Replies, Reply{Request: r, Err: &wire.Error{Code: wire.CodeUnknownOutcome,
			Text: why + " while mounts were told of the change: it is done"}})
		return true
	})
}

// refuseWatches answers everything about leases when the machine ends.
func (m *Machine) refuseWatches(err *wire.Error) {
	for _, l := range m.leases.live {
		if l.watch != nil {
			m.rd.Watched = append(m.rd.Watched, Watched{Watch: l.watch, Err: err})
			l.watch = nil
		}
	}
}
