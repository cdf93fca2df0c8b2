package commit

import (
	"fmt"

	"tpcfs/wire"
)

// member is a participant as its coordinator knows it.
type member struct {
	name, addr string
	flag       string       // wire.Member.Flag
	identity   int          // Machine.identities when the number became this one's
	vacant     bool         // nobody has this number any more
	coming     bool         // was added by a config that is not in force yet (P14)
	going      bool         // ... and is taken out by one: removed, or
	heir       *wire.Member // replaced by it
	storage    wire.UUID
	in         bool        // in the config that is in force: it votes, and everything is to be durable there
	outside    bool        // its last greeting told it that it is not (P11)
	unfit      *wire.Error // why it may not testify any more (P7); nil: it may
	gone       int64       // m.now when its link was lost
	refusing   bool        // ... since when nobody answers at its address
	answered   bool        // has testified in this epoch (P6)
	greeting   wire.Greeting
	known      map[wire.ID]*wire.Testimony // of its first answer; until recovery

	linked  bool
	link    uint64 // number of the link, from 1; what comes by another does not count
	next    uint64 // entry to be sent next by it
	handled uint64 // last entry that it has handled
	durable uint64 // last entry up to which its journal is durable
	free    uint64 // bytes of space left to files

	pace pace // how its journal keeps up (P15)

	owed  []wire.ID // staged objects that it has not said to have dropped
	asked int       // ... of which its link has asked for the first so many
}

// Member is one of the participants.
type Member struct {
	Name, Addr string
	InSync     bool
	Unfit      *wire.Error // why it may not testify any more; nil: it may
	Answered   bool        // has been greeted in this epoch
	Linked     bool
	Handled    uint64
	Durable    uint64
	Free       uint64 // bytes
	// None: nobody has this number; Coming: not yet, until a config that says so is
	// in force.
	None, Coming bool
	Identity     int // another one's is greater
}

// Members returns the participants by their numbers, which they keep while the
// reign lasts. Who is removed leaves its number to who is added later.
func (m *Machine) Members() []Member {
	list := make([]Member, len(m.members))
	for i, mem := range m.members {
		list[i] = Member{mem.name, mem.addr, mem.in, mem.unfit, mem.answered, mem.linked, mem.handled, mem.durable, mem.free, mem.vacant, mem.coming, mem.identity}
	}
	return list
}

// Peer is who has that number; its name is empty when nobody has.
func (m *Machine) Peer(i int) Peer { return Peer{m.members[i].name, m.members[i].addr} }

// MayGreet: a participant that is out of the config is greeted as such only
// once this reign's own config is sure to be the newest (P11, P13), one that is
// on its way out not at all until it is.
func (m *Machine) MayGreet(i int) bool {
	if mem := m.members[i]; mem.vacant || mem.coming || mem.going {
		return false
	}
	return m.stop == nil && !m.leaving(i) && (!m.outsider(i) || m.phase == Serving)
}

// Greet is what the member has to be greeted with.
func (m *Machine) Greet(i int) wire.Greet {
	mem := m.members[i]
	mem.outside = m.outsider(i)
	return wire.Greet{Epoch: m.epoch, Name: mem.name, Cluster: m.o.Cluster, Outside: mem.outside, Heartbeat: m.o.Heartbeat}
}

// Greeted tells that a participant has answered on a new link, whose number it
// returns: from then on that link alone counts. 0: the machine has stopped, or
// err says why the link does not count; it has to be greeted again.
func (m *Machine) Greeted(i int, g wire.Greeting) (link uint64, err *wire.Error) {
	mem := m.members[i]
	if m.stop != nil {
		return 0, nil
	}
	if err := m.checkStale(mem, &g); err != nil {
		if mem.stranger() && g.Config.Cluster != m.o.Cluster {
			mem.unfit = m.isStrange(mem, err.Text)
			return 0, mem.unfit
		}
		m.halt(err)
		return 0, nil
	}
	if mem.outside != m.outsider(i) || m.leaving(i) || mem.going {
		return 0, &wire.Error{Code: wire.CodeUnavailable, Who: mem.name, Text: "the in-sync set has changed while it was greeted"}
	}
	if mem.outside {
		return m.greetedOutside(i, &g)
	}
	if err := m.checkMember(mem, &g); err != nil {
		return 0, m.isUnfit(mem, err)
	}
	var at uint64 // handled in this epoch
	if g.Position.Epoch == m.epoch.Number {
		at = g.Position.Index
	}
	m.linkUp(mem)
	mem.handled, mem.next, mem.asked = at, at+1, 0
	m.state.ServiceTime = max(m.state.ServiceTime, g.ServiceTime)
	m.state.Time = max(m.state.Time, g.Time) // what recovery rolls forward is not later (F4a)
	known := map[wire.ID]*wire.Testimony{}
	for k := range g.Known {
		known[g.Known[k].Tx] = &g.Known[k]
	}
	if !mem.answered {
		// Its first words count, and are never asked for again (P6, P7).
		mem.answered = true
		mem.storage = g.Storage
		mem.known = known
		g.Known = nil
		mem.greeting = g
		m.tryStart()
		return mem.link, nil
	}
	if m.phase == Serving {
		if err := m.resumeVotes(i, at, known); err != nil {
			mem.linked = false
			return 0, m.isUnfit(mem, err)
		}
	}
	return mem.link, nil
}

func (m *Machine) linkUp(mem *member) {
	mem.linked, mem.refusing, mem.unfit = true, false, nil
	mem.link++
}

// resumeVotes counts the NOs of a member that has handled prepares whose votes
// were lost with its old link: a PREPARE that it holds is voted for again, one
// that it is past and does not hold was a NO (P10).
func (m *Machine) resumeVotes(i int, at uint64, known map[wire.ID]*wire.Testimony) *wire.Error {
	for _, t := range append([]*tx(nil), m.order...) {
		if t.index > at || t.state != undecided || t.votes[i] != 0 {
			continue
		}
		k := known[t.id]
		switch {
		case k == nil:
			m.vote(t, i, wire.VoteNo, &wire.Error{
				Code: wire.CodeConflict, Who: m.members[i].name,
				Text: "the participant refused, and its reason was lost with the connection; nothing changed: try again",
			}, nil, nil)
		case k.State == wire.TxRefused && k.Outcome != nil:
			m.vote(t, i, wire.VoteDup, nil, k.Outcome, nil)
		case k.State == wire.TxRefused:
			m.vote(t, i, wire.VoteNo, k.Err, nil, nil)
		case k.State != wire.TxPrepared:
			return m.blame(m.members[i], fmt.Sprintf("it holds transaction %v as decided, which it is not", t.id))
		}
	}
	return nil
}

// checkStale finds a coordinator whose own journal is empty, old or foreign
// (P13). Nobody is evicted: the start stops.
func (m *Machine) checkStale(mem *member, g *wire.Greeting) *wire.Error {
	stale := func(what string) *wire.Error { return m.notItsOwn(mem, what) }
	c := g.Config
	switch {
	case g.Held.Number > m.epoch.Number:
		return stale(fmt.Sprintf("has served in epoch %d, later than this one (%d)", g.Held.Number, m.epoch.Number))
	case g.Held.Number == m.epoch.Number && g.Held.Run != m.epoch.Run:
		return stale(fmt.Sprintf("has served another coordinator's epoch %d", g.Held.Number))
	case c.ID.Epoch != 0 && m.state.Config == nil:
		return stale(fmt.Sprintf("belongs to cluster %v, of which this coordinator knows nothing", c.Cluster))
	case c.ID.Epoch != 0 && c.Cluster != m.o.Cluster:
		return m.blame(mem, fmt.Sprintf("it belongs to cluster %v, not to this one (%v)", c.Cluster, m.o.Cluster))
	case c.ID.Epoch < m.epoch.Number && c.ID.Compare(m.base) > 0:
		return stale(fmt.Sprintf("holds config %v, newer than the journal's (%v)", c.ID, m.base))
	case m.state.Config != nil && c.ID.Compare(m.state.Config.ID) > 0:
		return stale(fmt.Sprintf("holds config %v, newer than the coordinator's (%v)", c.ID, m.state.Config.ID))
	case g.LastID.Epoch() > m.epoch.Number:
		return stale(fmt.Sprintf("knows of transaction %v, of a later epoch than this one (%d)", g.LastID, m.epoch.Number))
	}
	return nil
}

// notItsOwn is why a coordinator does not start whose journal is not that of the
// cluster which the participant belongs to.
func (m *Machine) notItsOwn(mem *member, what string) *wire.Error {
	return &wire.Error{Code: wire.CodeCorrupt, Who: mem.name, Text: fmt.Sprintf(
		"participant %s (%s) %s: this coordinator's journal is empty, old or another's. Nothing was changed. "+
			"Start the coordinator on the data directory that it last ran on; if that is lost for good, on an empty one with --rebuild", mem.name, mem.addr, what)}
}

// maxServiceTime is a thousand years, in milliseconds.
const maxServiceTime = 1000 * 365 * 24 * 3600 * 1000

// maxTime is in the year 2261, in nanoseconds since 1970: a year that can be told
// is left.
const maxTime = 1<<63 - 1 - 365*24*3600*1_000_000_000

// checkMember: is it who the config means, and does it still have what it had?
func (m *Machine) checkMember(mem *member, g *wire.Greeting) *wire.Error {
	if g.Resync != "" {
		return m.blame(mem, "it may not testify: "+g.Resync)
	}
	if !mem.storage.IsZero() && g.Storage != mem.storage {
		return m.blame(mem, fmt.Sprintf("its storage is %v, the cluster knows it as %v: "+
			"its data directory is another's, or new", g.Storage, mem.storage))
	}
	if err := m.checkTwin(mem, g); err != nil {
		return err
	}
	if g.ServiceTime < 0 || g.ServiceTime > maxServiceTime {
		return m.blame(mem, fmt.Sprintf("it knows of a service time of %d ms, which nobody can have reached", g.ServiceTime))
	}
	if g.Time < 0 || g.Time > maxTime {
		return m.blame(mem, fmt.Sprintf("it knows of a transaction of a time, %d ns after 1970, which nobody can have reached", g.Time))
	}
	if g.W.Epoch > m.epoch.Number {
		return m.blame(mem, fmt.Sprintf("it has a watermark of %v, of an epoch to come", g.W))
	}
	for i := range g.Known {
		if k := &g.Known[i]; k.Tx.Epoch() > m.epoch.Number || k.State < wire.TxPrepared || k.State > wire.TxRefused {
			return m.blame(mem, fmt.Sprintf("it testifies %d of transaction %v, which cannot be", k.State, k.Tx))
		}
	}
	if g.Config.ID.Epoch == 0 && m.state.Config != nil && m.state.Root == nil {
		return m.blame(mem, "it holds no config, although the cluster has served before: it has lost its data")
	}
	var at uint64
	if g.Position.Epoch == m.epoch.Number {
		at = g.Position.Index
	}
	switch {
	case g.Position.Epoch > m.epoch.Number, at > m.last, at > 0 && !mem.answered:
		return m.blame(mem, fmt.Sprintf("it has handled entry %v, which was never put", g.Position))
	case at < mem.durable:
		return m.blame(mem, fmt.Sprintf("it has handled its stream up to %d, after it said that %d is durable there: "+
			"its disk has lost what was synced", at, mem.durable))
	case at < m.trimmed:
		panic(fmt.Sprintf("commit: trimmed to %d, %s is at %d", m.trimmed, mem.name, at))
	}
	return nil
}

// checkTwin: is it not another one of the participants?
func (m *Machine) checkTwin(mem *member, g *wire.Greeting) *wire.Error {
	for _, other := range m.members {
		if other != mem && !other.vacant && other.storage == g.Storage {
			return m.blame(mem, fmt.Sprintf("it is the same participant as %s (storage %v)", other.name, g.Storage))
		}
	}
	return nil
}

func (m *Machine) blame(mem *member, why string) *wire.Error {
	return &wire.Error{Code: wire.CodeCorrupt, Who: mem.name, Text: fmt.Sprintf("participant %s (%s): %s", mem.name, mem.addr, why)}
}

// Refused tells that a participant has answered a greeting with an error. A
// newer coordinator (CodeStaleEpoch) ends this reign, another cluster or
// protocol (CodeProtocol) its start; after anything else it is greeted again. A
// stranger knows nothing of this cluster's coordinators: it is not let in, and strange
// says so (P14).
func (m *Machine) Refused(i int, why *wire.Error) (strange *wire.Error) {
	mem := m.members[i]
	switch {
	case mem.stranger():
		if why.Code == wire.CodeStaleEpoch || why.Code == wire.CodeProtocol {
			mem.unfit = m.isStrange(mem, why.Text)
			return mem.unfit
		}
	case why.Code == wire.CodeStaleEpoch:
		m.halt(&wire.Error{Code: wire.CodeStaleEpoch, Who: mem.name, Text: fmt.Sprintf(
			"participant %s (%s) serves a newer coordinator than this one (epoch %d): %s. Either another coordinator runs, "+
				"or this one's journal is empty, old or another's: start it on the data directory that it last ran on, or, if that is lost for good, on an empty one with --rebuild", mem.name, mem.addr, m.epoch.Number, why.Text)})
	case why.Code == wire.CodeProtocol && m.phase == Greeting:
		if m.state.Config == nil {
			m.halt(m.notItsOwn(mem, "refuses it ("+why.Text+")"))
			break
		}
		m.halt(m.blame(mem, "it refuses this coordinator: "+why.Text))
	}
	return nil
}

// stranger: was it greeted as an outsider, and has never been seen as a participant?
func (mem *member) stranger() bool { return mem.outside && mem.storage.IsZero() }

func (m *Machine) isStrange(mem *member, why string) *wire.Error {
	return m.blame(mem, why+". It was added, and is another cluster's: remove it (tpcfs members remove "+mem.name+"), "+
		"and add a participant on an empty directory")
}

// LinkDown tells that a link is gone.
func (m *Machine) LinkDown(i int, link uint64) {
	if mem := m.members[i]; mem.link == link && mem.linked {
		m.unlinked(i)
	}
}

func (m *Machine) unlinked(i int) {
	mem := m.members[i]
	mem.linked, mem.gone = false, m.now
	if m.joiner == i && m.change == nil {
		m.joiner = -1 // the pause ends; once its config is on the way, with that (P11)
	}
}

// flush sends a member what it has not been sent on its link, in order.
func (m *Machine) flush(i int) {
	mem := m.members[i]
	if !mem.linked || !mem.in {
		return
	}
	for ; mem.next <= m.last && (m.held == 0 || mem.next < m.held); mem.next++ {
		l := &m.log[mem.next-m.trimmed-1]
		e := l.entry
		if l.tx != nil && (l.tx.votes[i] == wire.VoteNo || l.tx.votes[i] == wire.VoteDup || l.tx.state == aborted) {
			e = &wire.Entry{Index: mem.next, Kind: wire.EntryVoid} // P10
		}
		m.rd.Sends = append(m.rd.Sends, Send{i, mem.link, m.down(e)})
	}
}

// Up takes a message that came by a link.
func (m *Machine) Up(i int, link uint64, up *wire.Up) {
	mem := m.members[i]
	if m.stop != nil || !mem.linked || mem.link != link {
		return // what an old link brings late does not count (P10)
	}
	if err := m.up(i, mem, up); err != nil {
		m.unlinked(i)
		m.rd.Drop = append(m.rd.Drop, Drop{i, link, err})
		return
	}
	m.progress()
}

// progress looks at what waited for members' journals.
func (m *Machine) progress() {
	m.tryEffect()
	if m.stop == nil && m.advance() {
		m.settle()
	}
}

func (m *Machine) up(i int, mem *member, up *wire.Up) *wire.Error {
	odd := func(format string, args ...any) *wire.Error {
		return &wire.Error{Code: wire.CodeProtocol, Who: mem.name, Text: fmt.Sprintf(format, args...)}
	}
	if up.Free != 0 { // it counts in heartbeats
		mem.free = up.Free
	}
	if !mem.in {
		return nil
	}
	sent := mem.next - 1
	if up.Handled > sent || up.Durable > sent {
		return odd("handled %d, durable %d, while only %d was sent", up.Handled, up.Durable, sent)
	}
	for k := range up.Votes {
		v := &up.Votes[k]
		if v.Index > sent {
			return odd("a vote on entry %d, while only %d was sent", v.Index, sent)
		}
		t := m.byIndex[v.Index]
		if t == nil {
			continue // decided long ago
		}
		if t.id != v.Tx || v.Verdict < wire.VoteYes || v.Verdict > wire.VoteDup {
			return odd("a vote (%d) on transaction %v at entry %d, which is %v", v.Verdict, v.Tx, v.Index, t.id)
		}
		m.vote(t, i, v.Verdict, v.Err, v.Outcome, v.Touched)
	}
	mem.handled = max(mem.handled, up.Handled)
	mem.durable = max(mem.durable, up.Durable)
	return nil
}

// advance tells whether all members' journals are durable further than before.
func (m *Machine) advance() bool {
	least := m.last
	for _, mem := range m.members {
		if mem.in {
			least = min(least, mem.durable)
		}
	}
	if least <= m.durable {
		return false
	}
	m.durable = least
	return true
}

// settle does what waited for entries to be durable at every member.
func (m *Machine) settle() {
	for m.trimmed < m.durable { // nobody can need it again (P10)
		m.trimmed++
		m.bytes -= m.log[0].bytes
		m.log[0] = logEntry{}
		m.log = m.log[1:]
	}
	m.abortsDurable()
	m.watermark()
}

// watermark raises W: all up to it is decided, and the decisions are durable
// at all members; in this epoch only once its OPEN is (P9).
func (m *Machine) watermark() {
	if m.phase != Serving || m.durable < m.open {
		return
	}
	w := m.durable
	n := 0
	for ; n < len(m.order); n++ {
		t := m.order[n]
		if t.index > m.durable {
			break
		}
		if t.state == undecided || t.decided > m.durable {
			w = t.index - 1
			break
		}
		m.forget(t)
		m.order[n] = nil
	}
	m.order = m.order[n:]
	if m.w.Epoch != m.epoch.Number {
		m.forgetRecovered()
	}
	if p := (wire.Position{Epoch: m.epoch.Number, Index: w}); m.w.Before(p) {
		m.w = p
	}
}
