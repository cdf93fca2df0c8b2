package commit

import (
	"bytes"
	"maps"
	"slices"

	"tpcfs/wire"
)

// Inodes without a name live as long as the session that left them so, or until
// it reclaims them itself (F7); then transactions of the coordinator's own
// reclaim them. Which there are follows from outcomes; after a start from a
// participant's list, where a session that is not back yet has as long to come as
// it may be silent: WatcherIdle, if it has had a lease, else SessionIdle.

// maxReclaims is how many reclaims are under way at a time.
const maxReclaims = 8

// reclaimPause is how long, in milliseconds, an inode that could not be
// reclaimed is left alone.
const reclaimPause = 1000

// ownSession is the session of a reign's own transactions: no other reign has
// its run, and no client makes it up.
func ownSession(e wire.Epoch) wire.SessionID {
	s := wire.SessionID(e.Run)
	for i := range s {
		s[i] = ^s[i]
	}
	return s
}

// maxAsked bounds the questions about inodes that sessions without a lease have
// not answered: beyond it they are not waited for any more.
const maxAsked = 1 << 16

// orphans is what the machine knows of inodes without a name. Some may have
// got one: a reclaim looks again.
type orphans struct {
	inodes map[wire.Ino]*unnamed
	held   map[wire.SessionID]*holding
	asked  map[wire.SessionID]*asked // of all sessions in state.Leases
	asking int                       // questions without an answer
	due    []dueOrphan               // nobody held them
	flying []uint64                  // sequence numbers of the reclaims under way
	seq    uint64                    // the last one, in ownSession

	// Until all is heard of that there was before this reign: who has detached
	// in it meanwhile.
	left    map[wire.SessionID]bool
	listed  bool
	listing bool // a list is on its way
	again   bool // and another one is needed after it
}

// unnamed is an inode without a name.
type unnamed struct {
	holders []wire.SessionID // who have it open, or had until they ended
	waits   int              // sessions that have not said yet whether they have
	due     bool             // it is among those to be reclaimed
}

// holding is what a session holds, or has held: the inodes' holders count.
type holding struct {
	inos  []wire.Ino
	until int64 // m.now until which a session that is not there keeps it
}

// asked is a session that has had a lease: it may have files open, of which
// others take the last name. What it holds it is asked with the answer to its
// Watch, and says with its next one.
type asked struct {
	inos  []wire.Ino // without an answer
	told  int        // of those in the last answer
	until int64      // m.now until which it may come
}

type dueOrphan struct {
	ino  wire.Ino
	when int64 // m.now before which it is not tried
}

// othersMayOpen: is there another session that may have files open?
func (m *Machine) othersMayOpen(s wire.SessionID) bool {
	n := len(m.orphans.asked)
	if m.orphans.asked[s] != nil {
		n--
	}
	return n > 0
}

// asks returns what a session that has, or had, a lease is asked.
func (m *Machine) asks(s wire.SessionID) *asked {
	o := &m.orphans
	if o.asked[s] == nil {
		if o.asked == nil {
			o.asked = map[wire.SessionID]*asked{}
		}
		o.asked[s] = &asked{}
	}
	return o.asked[s]
}

// tell returns what is asked next.
func (a *asked) tell() []wire.Ino {
	a.told = min(len(a.inos), wire.MaxUnnamed)
	return slices.Clone(a.inos[:a.told])
}

// answered takes a session's answer to what it was told.
func (m *Machine) answered(s wire.SessionID, holds []wire.Ino) {
	a := m.asks(s)
	told := slices.Clone(a.inos[:a.told])
	a.inos, a.told = a.inos[a.told:], 0
	for _, ino := range told {
		if slices.Contains(holds, ino) {
			m.holds(s, 0, ino)
		}
	}
	m.heard(told)
}

// heard: one session less is asked about those.
func (m *Machine) heard(inos []wire.Ino) {
	for _, ino := range inos {
		m.orphans.asking--
		if u := m.orphans.inodes[ino]; u != nil {
			u.waits--
			m.free(ino, u)
		}
	}
}

// free has an inode reclaimed that nobody holds.
func (m *Machine) free(ino wire.Ino, u *unnamed) {
	if u.waits == 0 && !u.due && !m.stays(ino, u) {
		u.due = true
		m.orphans.due = append(m.orphans.due, dueOrphan{ino, m.now})
	}
}

// stays: does a session hold the inode? If it had ended, and is back, its next
// end has to find the inode once more.
func (m *Machine) stays(ino wire.Ino, u *unnamed) bool {
	i := slices.IndexFunc(u.holders, m.kept)
	if i < 0 {
		return false
	}
	if h := m.holding(u.holders[i]); !slices.Contains(h.inos, ino) {
		h.inos = append(h.inos, ino)
	}
	return true
}

// ask asks all sessions but one whether they have inodes open.
func (m *Machine) ask(but wire.SessionID, inos ...wire.Ino) {
	o := &m.orphans
	for _, ino := range inos {
		u := m.unnamed(ino)
		for s, a := range o.asked {
			if s == but {
				continue
			}
			a.inos = append(a.inos, ino)
			u.waits++
			o.asking++
		}
		m.free(ino, u)
	}
	m.boundAsked()
}

// boundAsked ends sessions that are away, and have no lease any more, while
// they leave more questions open than is kept: those with most first.
func (m *Machine) boundAsked() {
	o := &m.orphans
	if o.asking <= maxAsked {
		return
	}
	var away []wire.SessionID
	open := 0
	for _, s := range o.sessions() {
		if m.leases.live[s] == nil && m.leases.before[s] == 0 {
			away = append(away, s)
			open += len(o.asked[s].inos)
		}
	}
	slices.SortStableFunc(away, func(a, b wire.SessionID) int { return len(o.asked[b].inos) - len(o.asked[a].inos) })
	for _, s := range away {
		if open <= maxAsked {
			return
		}
		open -= len(o.asked[s].inos)
		m.endAsking(s)
	}
}

// sessions are those that are asked, in an order that replays.
func (o *orphans) sessions() []wire.SessionID {
	return slices.SortedFunc(maps.Keys(o.asked), func(a, b wire.SessionID) int { return bytes.Compare(a[:], b[:]) })
}

// askNew makes room for one more session that is asked: one that is without a
// lease goes. It may be one that was forgotten, and its questions with it; so it is
// asked about all that has no name.
func (m *Machine) askNew(s wire.SessionID) {
	o := &m.orphans
	if o.asked[s] != nil {
		return
	}
	if len(o.asked) >= maxLeases {
		for _, old := range o.sessions() {
			if m.leases.live[old] == nil && m.leases.before[old] == 0 {
				m.endAsking(old)
				break
			}
		}
	}
	a := m.asks(s)
	a.inos = slices.Sorted(maps.Keys(o.inodes))
	for _, ino := range a.inos {
		o.inodes[ino].waits++
	}
	o.asking += len(a.inos)
	m.boundAsked()
}

// endAsking asks a session no more: it has ended, or has been silent.
func (m *Machine) endAsking(s wire.SessionID) {
	a := m.orphans.asked[s]
	if a == nil {
		return
	}
	delete(m.orphans.asked, s)
	m.dropLease(s)
	if _, known := m.state.Leases[s]; known {
		m.record(&Record{Kind: RecLease, Lease: &LeaseRecord{Session: s, Ended: true}})
	}
	m.heard(a.inos)
}

func (m *Machine) unnamed(ino wire.Ino) *unnamed {
	o := &m.orphans
	if o.inodes == nil {
		o.inodes = map[wire.Ino]*unnamed{}
	}
	if o.inodes[ino] == nil {
		o.inodes[ino] = &unnamed{}
	}
	return o.inodes[ino]
}

// leaves: a transaction that commits leaves inodes without a name, which
// others may have open; not those that it has made itself.
func (m *Machine) leaves(t *tx) {
	for _, ino := range t.outcome.Orphans {
		if id := wire.ID(ino); id < t.id || id >= t.id+wire.ID(max(t.count, 1)) {
			m.ask(t.op.Session, ino)
		}
	}
	if t.touched == nil {
		return
	}
	m.ask(t.op.Session, t.touched.Left...)
	if t.touched.MoreLeft {
		m.listOrphans(0)
	}
}

// named: inodes that had no name have got one. Nobody holds them any more: who
// has them open says so when they lose it again.
func (m *Machine) named(inos []wire.Ino) {
	for _, ino := range inos {
		u := m.orphans.inodes[ino]
		if u == nil {
			continue
		}
		m.unheld(ino, u)
	}
}

// unheld: nobody holds an inode any more: it has a name, or is gone. Who is asked
// about it has to answer yet, and the last answer has it looked for again.
func (m *Machine) unheld(ino wire.Ino, u *unnamed) {
	for _, s := range slices.Clone(u.holders) {
		m.gives(s, ino, u)
	}
	if u.waits == 0 {
		delete(m.orphans.inodes, ino)
	}
}

// holds notes that a session has inodes open that have no name.
func (m *Machine) holds(s wire.SessionID, until int64, inos ...wire.Ino) {
	if len(inos) == 0 {
		return
	}
	h := m.holding(s)
	h.until = max(h.until, until)
	for _, ino := range inos {
		u := m.unnamed(ino)
		if !slices.Contains(u.holders, s) {
			u.holders = append(u.holders, s)
			h.inos = append(h.inos, ino)
		}
	}
}

func (m *Machine) holding(s wire.SessionID) *holding {
	o := &m.orphans
	if o.held == nil {
		o.held = map[wire.SessionID]*holding{}
	}
	if o.held[s] == nil {
		o.held[s] = &holding{}
	}
	return o.held[s]
}

// detaches: a session does not come back for what it holds, be it known already
// or not. Of more than MaxSessions that leave during a list, the rest has
// SessionIdle as if it had said nothing.
func (m *Machine) detaches(s wire.SessionID) {
	o := &m.orphans
	if h := o.held[s]; h != nil {
		h.until = 0
	}
	m.endAsking(s)
	if o.listed || len(o.left) >= m.o.MaxSessions {
		return
	}
	if o.left == nil {
		o.left = map[wire.SessionID]bool{}
	}
	o.left[s] = true
}

// admitReclaim checks a client's reclaim: a session may give up what it holds
// before it ends. What others have open too only it gives up.
func (m *Machine) admitReclaim(r *Request) *wire.Error {
	at, s := r.Transact.Mutations[0].At, r.Transact.Op.Session
	u := m.orphans.inodes[at.Dir]
	if len(r.Transact.Mutations) != 1 || at.Path != "" || u == nil || !slices.Contains(u.holders, s) {
		return &wire.Error{Code: wire.CodePermission, Name: at.String(),
			Text: "a reclaim is of one inode without a name, which the session holds, and alone in its transaction"}
	}
	others := func(o wire.SessionID) bool { return o != s && m.kept(o) }
	if u.waits > 0 || slices.ContainsFunc(u.holders, others) {
		m.gives(s, at.Dir, u)
		return &wire.Error{Code: wire.CodeBusy, Name: at.String(), Text: "others may have it open: the session holds it no more, and it goes with the last of them"}
	}
	r.releases = at.Dir
	return nil
}

// gives: a session holds an inode no more.
func (m *Machine) gives(s wire.SessionID, ino wire.Ino, u *unnamed) {
	u.holders = slices.DeleteFunc(u.holders, func(o wire.SessionID) bool { return o == s })
	if h := m.orphans.held[s]; h != nil {
		if h.inos = slices.DeleteFunc(h.inos, func(i wire.Ino) bool { return i == ino }); len(h.inos) == 0 {
			delete(m.orphans.held, s)
		}
	}
}

// released: a session has reclaimed an inode, which is gone or has a name.
func (m *Machine) released(s wire.SessionID, ino wire.Ino) {
	if u := m.orphans.inodes[ino]; u != nil {
		if m.gives(s, ino, u); len(u.holders) == 0 && u.waits == 0 {
			delete(m.orphans.inodes, ino)
		}
	}
}

// listOrphans asks for the next page of those that there were before this reign.
func (m *Machine) listOrphans(after wire.Ino) {
	if m.orphans.listing && after == 0 {
		m.orphans.again = true
		return
	}
	m.orphans.listing = true
	m.rd.ListOrphans = &wire.Read{Kind: wire.ReadOrphans, At: wire.At{Dir: wire.RootIno}, Offset: int64(after)}
}

// Orphans takes the answer to Ready.ListOrphans.
func (m *Machine) Orphans(reply wire.ReadReply) {
	if m.stop != nil {
		return
	}
	n := min(len(reply.Entries), len(reply.Holders))
	for i, e := range reply.Entries[:n] {
		if m.orphans.inodes[e.Attr.Ino] != nil {
			continue
		}
		until := m.now + m.idle(reply.Holders[i])
		if m.orphans.left[reply.Holders[i]] {
			until = 0
		}
		if reply.Holders[i] != (wire.SessionID{}) {
			m.holds(reply.Holders[i], until, e.Attr.Ino)
		}
		m.ask(wire.SessionID{}, e.Attr.Ino)
	}
	if reply.More && n > 0 {
		m.listOrphans(reply.Entries[n-1].Attr.Ino)
		return
	}
	o := &m.orphans
	o.left, o.listed, o.listing = nil, true, false
	if o.again {
		o.again = false
		m.listOrphans(0)
	}
}

// Unnamed is the number of inodes without a name that the machine knows of.
// Some may have got one.
func (m *Machine) Unnamed() int { return len(m.orphans.inodes) }

// kept: is the session there, or may it come yet?
func (m *Machine) kept(s wire.SessionID) bool {
	h := m.orphans.held[s]
	return m.sessions[s] != nil || h != nil && m.now < h.until
}

// releaseOrphans finds the sessions that are gone.
func (m *Machine) releaseOrphans() {
	o := &m.orphans
	for _, s := range o.sessions() {
		if a := o.asked[s]; m.sessions[s] != nil {
			a.until = 0
		} else if m.now >= a.until {
			m.endAsking(s)
		}
	}
	var free []wire.Ino
	for s, h := range o.held {
		if m.sessions[s] != nil {
			h.until = 0 // it is back: from now on it ends as any other
		}
		if m.kept(s) {
			continue
		}
		free = append(free, h.inos...)
		delete(o.held, s)
	}
	slices.Sort(free)
	for _, ino := range slices.Compact(free) {
		if u := o.inodes[ino]; u != nil {
			m.free(ino, u)
		}
	}
}

// putReclaims puts reclaims beside the clients' requests.
func (m *Machine) putReclaims() {
	o := &m.orphans
	for len(o.due) > 0 && len(o.flying) < maxReclaims && o.due[0].when <= m.now && m.writable() && m.room() {
		ino := o.due[0].ino
		o.due = o.due[1:]
		u := o.inodes[ino]
		if u == nil { // it has gone
			continue
		}
		if u.due = false; u.waits > 0 { // whoever answers last is followed by its reclaim
			continue
		}
		if m.stays(ino, u) { // another session has it, or the same one is back
			continue
		}
		o.seq++
		o.flying = append(o.flying, o.seq)
		m.putPrepare(&Request{reclaims: ino, size: requestCost, Transact: wire.Transact{
			Op: wire.OpID{Session: ownSession(m.epoch), Seq: o.seq}, Lowest: o.flying[0], Sent: m.state.ServiceTime,
			Mutations: []wire.Mutation{{Kind: wire.MutReclaim, At: wire.At{Dir: ino}}},
		}})
	}
}

// reclaimed is the answer to a reclaim: a conflict, or a want of space, passes.
func (m *Machine) reclaimed(r *Request, err *wire.Error) {
	o := &m.orphans
	o.flying = slices.DeleteFunc(o.flying, func(seq uint64) bool { return seq == r.Transact.Op.Seq })
	if err != nil && err.Code != wire.CodeStale {
		o.due = append(o.due, dueOrphan{r.reclaims, m.now + reclaimPause})
		m.unnamed(r.reclaims).due = true
		return
	}
	if u := o.inodes[r.reclaims]; u != nil {
		m.unheld(r.reclaims, u)
	}
}
