package commit

import (
	"slices"

	"tpcfs/wire"
)

// Inodes without a name live as long as the session that left them so, or until
// it reclaims them itself (F7); then transactions of the coordinator's own
// reclaim them. Which there are follows from outcomes; after a start from a
// participant's list, where a session that is not back yet has SessionIdle to
// come.

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

// orphans is what the machine knows of inodes without a name. Some may have
// got one: a reclaim looks again.
type orphans struct {
	holder map[wire.Ino]wire.SessionID
	held   map[wire.SessionID]*holding
	due    []dueOrphan // nobody held them
	flying []uint64    // sequence numbers of the reclaims under way
	seq    uint64      // the last one, in ownSession

	// Until all is heard of that there was before this reign: who has detached
	// in it meanwhile.
	left   map[wire.SessionID]bool
	listed bool
}

// holding is what a session holds, or has held: holder counts.
type holding struct {
	inos  []wire.Ino
	until int64 // m.now until which a session that is not there keeps it
}

type dueOrphan struct {
	ino  wire.Ino
	when int64 // m.now before which it is not tried
}

// holds notes that a session has left inodes without a name.
func (m *Machine) holds(s wire.SessionID, until int64, inos ...wire.Ino) {
	if len(inos) == 0 {
		return
	}
	o := &m.orphans
	if o.holder == nil {
		o.holder, o.held = map[wire.Ino]wire.SessionID{}, map[wire.SessionID]*holding{}
	}
	h := m.holding(s)
	h.until = max(h.until, until)
	for _, ino := range inos {
		if old, ok := o.holder[ino]; !ok || old != s {
			h.inos = append(h.inos, ino)
		}
		o.holder[ino] = s
	}
}

func (m *Machine) holding(s wire.SessionID) *holding {
	h := m.orphans.held[s]
	if h == nil {
		h = &holding{}
		m.orphans.held[s] = h
	}
	return h
}

// leaves: a session does not come back for what it holds, be it known already
// or not. Of more than MaxSessions that leave during a list, the rest has
// SessionIdle as if it had said nothing.
func (m *Machine) leaves(s wire.SessionID) {
	o := &m.orphans
	if h := o.held[s]; h != nil {
		h.until = 0
	}
	if o.listed || len(o.left) >= m.o.MaxSessions {
		return
	}
	if o.left == nil {
		o.left = map[wire.SessionID]bool{}
	}
	o.left[s] = true
}

// admitReclaim checks a client's reclaim: a session may give up what it holds
// before it ends.
func (m *Machine) admitReclaim(r *Request) *wire.Error {
	at := r.Transact.Mutations[0].At
	if s, ok := m.orphans.holder[at.Dir]; len(r.Transact.Mutations) != 1 || at.Path != "" || !ok || s != r.Transact.Op.Session {
		return &wire.Error{Code: wire.CodePermission, Name: at.String(),
			Text: "a reclaim is of one inode without a name, which the session holds, and alone in its transaction"}
	}
	r.releases = at.Dir
	return nil
}

// released: a session holds an inode no more, which is gone or has a name.
func (m *Machine) released(s wire.SessionID, ino wire.Ino) {
	o := &m.orphans
	if o.holder[ino] != s {
		return
	}
	delete(o.holder, ino)
	h := o.held[s]
	if h == nil {
		return
	}
	if h.inos = slices.DeleteFunc(h.inos, func(i wire.Ino) bool { return i == ino }); len(h.inos) == 0 {
		delete(o.held, s)
	}
}

// listOrphans asks for the next page of those that there were before this reign.
func (m *Machine) listOrphans(after wire.Ino) {
	m.rd.ListOrphans = &wire.Read{Kind: wire.ReadOrphans, At: wire.At{Dir: wire.RootIno}, Offset: int64(after)}
}

// Orphans takes the answer to Ready.ListOrphans.
func (m *Machine) Orphans(reply wire.ReadReply) {
	if m.stop != nil {
		return
	}
	n := min(len(reply.Entries), len(reply.Holders))
	for i, e := range reply.Entries[:n] {
		if _, known := m.orphans.holder[e.Attr.Ino]; known {
			continue
		}
		until := m.now + m.o.SessionIdle
		if m.orphans.left[reply.Holders[i]] {
			until = 0
		}
		m.holds(reply.Holders[i], until, e.Attr.Ino)
	}
	if reply.More && n > 0 {
		m.listOrphans(reply.Entries[n-1].Attr.Ino)
		return
	}
	m.orphans.left, m.orphans.listed = nil, true
}

// Unnamed is the number of inodes without a name that the machine knows of.
// Some may have got one.
func (m *Machine) Unnamed() int { return len(m.orphans.holder) }

// kept: is the session there, or may it come yet?
func (m *Machine) kept(s wire.SessionID) bool {
	h := m.orphans.held[s]
	return m.sessions[s] != nil || h != nil && m.now < h.until
}

// releaseOrphans finds the sessions that are gone.
func (m *Machine) releaseOrphans() {
	o := &m.orphans
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
		o.due = append(o.due, dueOrphan{ino, m.now})
	}
}

// putReclaims puts reclaims beside the clients' requests.
func (m *Machine) putReclaims() {
	o := &m.orphans
	for len(o.due) > 0 && len(o.flying) < maxReclaims && o.due[0].when <= m.now && m.writable() && m.room() {
		ino := o.due[0].ino
		o.due = o.due[1:]
		s, ok := o.holder[ino]
		if !ok { // it has gone
			continue
		}
		if m.kept(s) { // another session has it, or the same one is back
			m.holding(s).inos = append(m.holding(s).inos, ino)
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
		return
	}
	delete(o.holder, r.reclaims)
}
