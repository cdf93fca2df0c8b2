package commit

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"tpcfs/wire"
)

// session is a client, kept over its links.
type session struct {
	link   uint64 // the newest
	lowest uint64 // least sequence number without an answer
	used   int64  // m.now at its last call
	staged int64  // m.now when a stage of its ended, or was named by a request
	busy   int    // stages under way
	stages int    // ... and those that no prepare has consumed
}

func (s *session) checkSeq(seq uint64) *wire.Error {
	if seq == 0 || seq < s.lowest {
		return &wire.Error{Code: wire.CodeProtocol, Text: fmt.Sprintf(
			"request %d of a session that has had all answers below %d", seq, s.lowest)}
	}
	return nil
}

// stage is a staged object that no prepare has consumed.
type stage struct {
	session wire.SessionID
	owner   *session // that of the id when it began
	ready   bool     // complete at all members
}

// Attach gives a session a new link in place of its old one: what waits by
// that is not put any more (W5).
func (m *Machine) Attach(id wire.SessionID) wire.Attached {
	m.links++
	delete(m.orphans.left, id)
	s := m.sessions[id]
	if s == nil {
		if len(m.sessions) >= m.o.MaxSessions {
			m.forgetSessions()
		}
		s = &session{}
		m.sessions[id] = s
	}
	s.link, s.used = m.links, m.now
	m.dropQueued(id)
	return wire.Attached{Link: s.link, ServiceTime: m.state.ServiceTime, Cluster: m.o.Cluster, Epoch: m.epoch.Number}
}

// Detach ends a session: what it staged is dropped, what it has put goes on.
func (m *Machine) Detach(id wire.SessionID) {
	m.dropQueued(id)
	m.dropStages(id)
	delete(m.sessions, id)
	m.detaches(id)
}

// Fence ends what a session's link may do: the client has to attach again.
// What was put for it goes on; it is all at or before the entry last.
func (m *Machine) Fence(id wire.SessionID) (last uint64) {
	if s := m.sessions[id]; s != nil {
		m.links++
		s.link = m.links
		m.dropQueued(id)
	}
	return m.last
}

// Undecided reports whether the session has a transaction, put at or before
// the entry last, that has no decision.
func (m *Machine) Undecided(id wire.SessionID, last uint64) bool {
	return slices.ContainsFunc(m.order, func(t *tx) bool {
		return t.state == undecided && t.op.Session == id && t.index <= last
	})
}

// CheckSession tells whether a call comes by the session's link.
func (m *Machine) CheckSession(id wire.SessionID, link uint64) *wire.Error {
	return m.checkSession(id, link)
}

func (m *Machine) dropQueued(id wire.SessionID) {
	for _, r := range m.unput() {
		if r.Transact.Op.Session == id {
			m.unqueue(r)
			m.reply(r, nil, replaced())
		}
	}
}

func replaced() *wire.Error {
	return wire.NewError(wire.CodeReplaced, "attach again; nothing changed")
}

func (m *Machine) dropStages(id wire.SessionID) {
	for stageID, st := range m.stages {
		if st.session == id && st.ready {
			m.dropStage(stageID, st)
		}
	}
}

// dropStage has an object dropped that no prepare will name.
func (m *Machine) dropStage(id wire.ID, st *stage) {
	st.owner.stages--
	delete(m.stages, id)
	m.unstage(id)
}

// checkSession: does a call come by the session's link?
func (m *Machine) checkSession(id wire.SessionID, link uint64) *wire.Error {
	s := m.sessions[id]
	if s == nil || s.link != link {
		return replaced()
	}
	s.used = m.now
	return nil
}

func (m *Machine) touch(id wire.SessionID) {
	if s := m.sessions[id]; s != nil {
		s.used = m.now
	}
}

// BeginStage gives a stage its id. EndStage follows, always.
func (m *Machine) BeginStage(id wire.SessionID, link uint64) (wire.ID, *wire.Error) {
	if err := m.checkSession(id, link); err != nil {
		return 0, err
	}
	if !m.writable() {
		return 0, &wire.Error{Code: wire.CodeUnavailable, Text: "contents go to all participants" + m.forWhom() + "; nothing changed"}
	}
	s := m.sessions[id]
	if s.stages >= maxStaged {
		return 0, &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("the session has %d contents staged that no change has named: name them, or detach", s.stages)}
	}
	stageID := m.takeIDs(1)
	if stageID == 0 {
		return 0, wire.NewError(wire.CodeUnavailable, "this epoch's transaction numbers are used up: restart the coordinator")
	}
	m.stages[stageID] = &stage{session: id, owner: s}
	s.busy++
	s.stages++
	return stageID, nil
}

// StageLacks names the members that a stage has not been brought to: with one
// of them in sync it is of no use.
func (m *Machine) StageLacks(has []int) (lacks []int) {
	for i, mem := range m.members {
		if mem.in && !slices.Contains(has, i) {
			lacks = append(lacks, i)
		}
	}
	return lacks
}

// EndStage tells whether all members have the object. One that is not
// complete, or whose session has gone, is dropped.
func (m *Machine) EndStage(stageID wire.ID, ok bool) {
	st := m.stages[stageID]
	if st == nil {
		return
	}
	st.owner.busy--
	st.owner.used, st.owner.staged = m.now, m.now
	if st.ready = ok && m.sessions[st.session] == st.owner; !st.ready {
		m.dropStage(stageID, st)
	}
}

// maxStaged bounds what a session has staged and not used: a transaction names
// no more.
const maxStaged = wire.MaxMutations

// maxOwed bounds the staged objects that a member has still to drop. What is
// beyond it is swept by the member when the next epoch opens.
const maxOwed = wire.MaxMutations

// unstage has staged objects dropped by all members; one that is away, or has
// kept half of an object through a crash, is asked when it is back.
func (m *Machine) unstage(ids ...wire.ID) {
	for _, mem := range m.members {
		if !mem.in {
			continue
		}
		mem.owed = append(mem.owed, ids...)
		if over := len(mem.owed) - maxOwed; over > 0 {
			mem.owed = slices.Delete(mem.owed, 0, over)
			mem.asked = max(0, mem.asked-over)
		}
	}
}

// askToDrop asks a member for what its link has not asked for yet.
func (m *Machine) askToDrop(i int) {
	mem := m.members[i]
	if !mem.linked || mem.asked == len(mem.owed) {
		return
	}
	m.rd.Unstage = append(m.rd.Unstage, Unstage{i, mem.link, slices.Clone(mem.owed[mem.asked:])})
	mem.asked = len(mem.owed)
}

// Unstaged tells that a member has dropped what an Unstage had named.
func (m *Machine) Unstaged(i int, ids []wire.ID) {
	gone := make(map[wire.ID]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	mem := m.members[i]
	asked := 0
	for _, id := range mem.owed[:mem.asked] {
		if !gone[id] {
			asked++
		}
	}
	mem.owed = slices.DeleteFunc(mem.owed, func(id wire.ID) bool { return gone[id] })
	mem.asked = asked
}

// expireSessions forgets sessions that have been silent for long, and sooner
// what they have staged: also of one that goes on otherwise, since a request that did
// not come about leaves its stages behind. What a request names that waits stays.
func (m *Machine) expireSessions() {
	var wanted map[wire.ID]bool
	for id, st := range m.stages {
		if s := st.owner; !st.ready || s.busy > 0 || m.now-s.staged < m.o.StageIdle {
			continue
		}
		if wanted == nil {
			wanted = m.stagesWanted()
		}
		if !wanted[id] {
			m.dropStage(id, st)
		}
	}
	for id, s := range m.sessions {
		if s.busy == 0 && m.now-s.used >= m.idle(id) && !m.waits(id) {
			delete(m.sessions, id)
		}
	}
}

// stagesWanted are those that requests name which wait: some always may (F5).
func (m *Machine) stagesWanted() map[wire.ID]bool {
	wanted := map[wire.ID]bool{}
	for _, r := range m.queued {
		for i := range r.Transact.Mutations {
			for _, id := range r.Transact.Mutations[i].Stages() {
				wanted[id] = true
			}
		}
		if p := r.Transact.Pack; p != nil {
			wanted[p.Stage] = true
			for _, id := range p.Stages {
				wanted[id] = true
			}
		}
	}
	return wanted
}

// idle is how long a session may say nothing before it is forgotten.
func (m *Machine) idle(id wire.SessionID) int64 {
	if m.orphans.asked[id] != nil {
		return m.o.WatcherIdle
	}
	return m.o.SessionIdle
}

// forgetSessions makes room for new ones: a quarter goes, first of those that
// have changed nothing yet, then of those that have been silent longest. Their
// next call hears that they have to attach again. Who stages, waits for an
// answer, holds an inode without a name or has had a lease stays: those are bounded elsewhere.
func (m *Machine) forgetSessions() {
	needed := map[wire.SessionID]bool{}
	for _, r := range m.queued {
		needed[r.Transact.Op.Session] = true
	}
	for _, t := range m.ops {
		for _, r := range t.waiters {
			needed[r.Transact.Op.Session] = true
		}
	}
	for _, h := range m.leases.held {
		needed[h.reply.Request.Transact.Op.Session] = true
	}
	var idle []wire.SessionID
	for id, s := range m.sessions {
		if s.stages == 0 && !needed[id] && m.orphans.held[id] == nil && m.orphans.asked[id] == nil {
			idle = append(idle, id)
		}
	}
	slices.SortFunc(idle, func(a, b wire.SessionID) int {
		x, y := m.sessions[a], m.sessions[b]
		return cmp.Or(cmp.Compare(min(x.lowest, 1), min(y.lowest, 1)), cmp.Compare(x.used, y.used), bytes.Compare(a[:], b[:]))
	})
	for _, id := range idle[:min(len(idle), m.o.MaxSessions/4+1)] {
		delete(m.sessions, id)
	}
}

// waits: has the session requests that are not answered?
func (m *Machine) waits(id wire.SessionID) bool {
	mine := func(r *Request) bool { return r.Transact.Op.Session == id }
	held := func(h heldReply) bool { return mine(h.reply.Request) }
	if m.leases.live[id] != nil || slices.ContainsFunc(m.leases.held, held) {
		return true
	}
	for op := range m.queued {
		if op.Session == id {
			return true
		}
	}
	for _, t := range m.ops {
		if slices.ContainsFunc(t.waiters, mine) {
			return true
		}
	}
	return false
}
