package commit

import (
	"fmt"
	"strings"

	"tpcfs/wire"
)

// txState is how far a transaction is. It changes in tx.becomes only.
type txState uint8

const (
	undecided txState = iota
	committed         // COMMIT is put
	aborted           // ABORT is put: somebody prepared it, somebody did not
	refused           // all voted, none YES: nobody has it, no decision is put (P4)
)

func (s txState) String() string { return [...]string{"", "commit", "abort", "refused"}[s] }

// tx is a transaction whose PREPARE is put, until W has passed it.
type tx struct {
	id       wire.ID
	index    uint64        // of its PREPARE; 0: of an earlier epoch
	prepared wire.Position // the same, with the epoch
	count    int           // ids that it has reserved
	alone    bool          // nobody else may have open what it leaves without a name
	op       wire.OpID
	state    txState
	votes    []wire.Verdict // by member; 0: none yet
	errs     []*wire.Error  // why, of the NOs
	outcome  *wire.Outcome
	touched  *wire.Touched // what a commit changes; nil: not told
	pushed   uint64        // the number under which sessions with a lease were told of that
	dup      *wire.Outcome // of the first attempt (VoteDup)
	err      *wire.Error   // aborted, refused: what the client hears
	decided  uint64        // index of the decision; 0: none put
	waiters  []*Request
	line     *line // retries that wait until it is decided; nil: none
	stages   []wire.ID
	names    []string
	linked   []wire.Ino // that get a name by their number
	since    int64      // m.now at the put
	time     int64      // of the prepare; 0: of an earlier epoch
}

func (t *tx) becomes(s txState) {
	if t.state != undecided || s == undecided {
		panic(fmt.Sprintf("commit: transaction %v is %v, becomes %v", t.id, t.state, s))
	}
	t.state = s
}

// admit checks what needs no participant.
func (m *Machine) admit(r *Request) *wire.Error {
	t := &r.Transact
	switch {
	case m.stop != nil:
		return &wire.Error{Code: wire.CodeUnavailable, Text: "the coordinator has stopped; nothing changed: " + m.stop.Error()}
	case m.closing:
		return wire.NewError(wire.CodeUnavailable, "the coordinator is shutting down; nothing changed")
	}
	if err := m.checkSession(t.Op.Session, t.Link); err != nil {
		return err
	}
	s := m.sessions[t.Op.Session]
	s.lowest = max(s.lowest, t.Lowest, 1) // from now on it has changed something
	if err := s.checkSeq(t.Op.Seq); err != nil {
		return err
	}
	if t.Pack != nil {
		return m.admitPack(r)
	}
	switch {
	case len(t.Mutations) == 0:
		return wire.NewError(wire.CodeInvalid, "a transaction without mutations")
	case len(t.Mutations) > wire.MaxMutations:
		return &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("%d mutations, at most %d", len(t.Mutations), wire.MaxMutations)}
	case len(r.Payload) > wire.MaxInline:
		return &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("%d bytes inline, at most %d: stage them", len(r.Payload), wire.MaxInline)}
	}
	cost := 0
	for i := range t.Mutations {
		mu := &t.Mutations[i]
		if mu.Kind == wire.MutReclaim {
			if err := m.admitReclaim(r); err != nil {
				return err
			}
		}
		if err := mu.CheckLimits(); err != nil {
			err.Mutation = i
			return err
		}
		cost += mu.Cost()
		for _, id := range mu.Stages() {
			if !m.staged(id, t.Op.Session) {
				return &wire.Error{Code: wire.CodeStageLost, Name: mu.At.String(), Mutation: i,
					Text: fmt.Sprintf("stage %v is not this session's, or not complete", id)}
			}
		}
	}
	if cost > wire.MaxBindings {
		// A PREPARE that no frame holds would break every link it is sent by.
		if n := len(wire.Marshal(t.Mutations)); n > wire.MaxBindings {
			return &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("the mutations take %d bytes, at most %d: send them in a pack, or split them", n, wire.MaxBindings)}
		}
	}
	r.size = requestCost + int64(cost+len(r.Payload))
	return nil
}

// admitPack is admit for a request whose mutations are in a pack.
func (m *Machine) admitPack(r *Request) *wire.Error {
	t := &r.Transact
	p := t.Pack
	switch {
	case len(t.Mutations) > 0 || len(r.Payload) > 0:
		return wire.NewError(wire.CodeInvalid, "mutations beside those of a pack")
	case p.Count < 1 || p.Count > wire.MaxMutations:
		return &wire.Error{Code: wire.CodeTooMany, Name: p.Name, Text: fmt.Sprintf("%d changes, a transaction has 1 to %d", p.Count, wire.MaxMutations)}
	case p.Size < 0 || p.Size > wire.MaxPack:
		return &wire.Error{Code: wire.CodeTooMany, Name: p.Name, Text: fmt.Sprintf("names and small contents of %d bytes, at most %d", p.Size, wire.MaxPack)}
	case len(p.Stages) > p.Count || len(p.Name) > wire.MaxPathLen:
		return wire.NewError(wire.CodeInvalid, "a pack that names more stages than it has mutations, or has a name too long")
	}
	for _, id := range append([]wire.ID{p.Stage}, p.Stages...) {
		if !m.staged(id, t.Op.Session) {
			return &wire.Error{Code: wire.CodeStageLost, Name: p.Name, Text: fmt.Sprintf("stage %v is not this session's, or not complete", id)}
		}
	}
	r.size = requestCost + int64(8*len(p.Stages)+len(p.Name))
	return nil
}

// staged: the session may name that stage, as far as this reign knows.
func (m *Machine) staged(id wire.ID, session wire.SessionID) bool {
	st := m.stages[id]
	if st == nil {
		return true
	}
	if st.session != session || !st.ready {
		return false
	}
	st.owner.staged = m.now
	return true
}

// mayRunAnew: an attempt that is known to have changed nothing anywhere is
// not remembered to a retry; its answer was lost (S1a).
func (m *Machine) mayRunAnew(t *tx) bool {
	return t.state == refused && t.dup == nil || t.state == aborted && t.decided <= m.durable
}

// join makes a retry wait for the attempt that is known (W5), or answers it.
func (m *Machine) join(t *tx, r *Request) {
	switch {
	case t.state == committed:
		r.tx = t
		m.reply(r, t.outcome, nil)
	case t.dup != nil:
		m.reply(r, t.dup, nil)
	default:
		r.tx = t
		t.waiters = append(t.waiters, r)
	}
}

// putPrepare gives a request its transaction and its place.
func (m *Machine) putPrepare(r *Request) {
	q := &r.Transact
	count := len(q.Mutations)
	if q.Pack != nil {
		count = q.Pack.Count
	}
	id := m.takeIDs(count)
	if id == 0 {
		m.reply(r, nil, wire.NewError(wire.CodeUnavailable, "this epoch's transaction numbers are used up: restart the coordinator; nothing changed"))
		return
	}
	m.state.Time = max(m.state.Time+1, m.wall) // of each change of a file another
	n := len(m.members)
	t := &tx{id: id, count: count, alone: !m.othersMayOpen(q.Op.Session), op: q.Op, votes: make([]wire.Verdict, n), errs: make([]*wire.Error, n), since: m.now, time: m.state.Time, waiters: []*Request{r}}
	p := &wire.Prepare{
		Tx: id, Config: m.state.Config.ID, Op: q.Op, Lowest: q.Lowest, Sent: q.Sent,
		Time: m.state.Time, ServiceTime: m.state.ServiceTime, W: m.w, Mutations: q.Mutations, Pack: q.Pack,
		Keep: !t.alone,
	}
	t.index = m.put(wire.Entry{Kind: wire.EntryPrepare, Prepare: p, Payload: r.Payload}, t, r.size)
	t.prepared = wire.Position{Epoch: m.epoch.Number, Index: t.index}
	if q.Pack != nil {
		t.names = append(t.names, q.Pack.Name)
		m.consume(t, q.Pack.Stage)
		m.consume(t, q.Pack.Stages...)
	}
	for i := range q.Mutations {
		mu := &q.Mutations[i]
		if mu.Kind == wire.MutLink && mu.At.Path == "" {
			t.linked = append(t.linked, mu.At.Dir)
		}
		if len(t.names) < maxNames {
			t.names = append(t.names, mu.At.String())
		}
		m.consume(t, mu.Stages()...)
	}
	r.tx, r.Payload = t, nil
	t.line, r.next = r.next, nil
	m.ops[q.Op] = t
	m.byIndex[t.index] = t
	m.order = append(m.order, t)
}

// consume makes stages the transaction's.
func (m *Machine) consume(t *tx, ids ...wire.ID) {
	for _, id := range ids {
		if st := m.stages[id]; st != nil {
			st.owner.stages--
			delete(m.stages, id)
			t.stages = append(t.stages, id)
		}
	}
}

// maxNames is how many of a transaction's names status shows.
const maxNames = 8

// maxCounter bounds an epoch's ids: they stay below those of the next.
const maxCounter = 1<<40 - 1

// takeIDs reserves n consecutive ids and returns the first; 0: there are none.
func (m *Machine) takeIDs(n int) wire.ID {
	n = max(n, 1)
	if m.counter+uint64(n) > maxCounter {
		return 0
	}
	id := wire.MakeID(m.epoch.Number, m.counter)
	m.counter += uint64(n)
	return id
}

// vote counts a member's first vote on a transaction.
func (m *Machine) vote(t *tx, i int, v wire.Verdict, err *wire.Error, o *wire.Outcome, touched *wire.Touched) {
	if t.state != undecided || t.votes[i] != 0 {
		return
	}
	t.votes[i] = v
	switch v {
	case wire.VoteYes:
		if t.outcome == nil {
			t.outcome, t.touched = o, touched
		}
	case wire.VoteNo:
		if err == nil || err.Code == wire.CodeNone {
			err = wire.NewError(wire.CodeIO, "refused without a reason")
		}
		t.errs[i] = err
	case wire.VoteDup:
		if o == nil {
			o = &wire.Outcome{}
		}
		if t.dup == nil {
			t.dup = o
		}
		// The first attempt has committed: whoever waits hears that (G5).
		m.answer(t, t.dup, nil)
	}
	m.tryDecide(t)
}

// tryDecide decides once all members of the config in force have voted (P3, P4).
func (m *Machine) tryDecide(t *tx) {
	yes, all := 0, 0
	for i, v := range t.votes {
		switch {
		case !m.members[i].in:
			continue
		case v == 0:
			return
		case v == wire.VoteYes:
			yes++
		}
		all++
	}
	switch {
	case yes == all && t.dup == nil: // dup: somebody who was evicted since knows it as done
		if t.outcome == nil {
			t.outcome = &wire.Outcome{Tx: t.id}
		}
		t.becomes(committed)
		m.rd.Commits++
		m.putCommit(t)
		t.pushed = m.push(t.op.Session, t.op.Seq, t.touched)
		m.named(t.linked)
		m.holds(t.op.Session, 0, t.outcome.Orphans...)
		m.leaves(t)
		m.answer(t, t.outcome, nil)
	case yes == 0:
		t.becomes(refused)
		t.err = m.reason(t)
		m.answer(t, nil, t.err)
		m.aborted(t)
	default:
		t.becomes(aborted)
		m.putAbort(t, m.reason(t))
	}
	m.release(t.line) // what is put from now on comes after the decision
	t.line = nil
}

func (m *Machine) putCommit(t *tx) {
	t.decided = m.put(wire.Entry{Kind: wire.EntryCommit, Tx: t.id}, nil, 0)
	m.decision = t.decided
	m.record(&Record{Kind: RecDecision, Decision: &Decision{Tx: t.id, Prepared: t.prepared, Commit: true}, Time: m.state.Time})
}

// putAbort: the client hears of it once it is durable at every member (P4).
func (m *Machine) putAbort(t *tx, why *wire.Error) {
	t.err = why
	t.decided = m.put(wire.Entry{Kind: wire.EntryAbort, Tx: t.id}, nil, 0)
	m.decision = t.decided
	m.aborts = append(m.aborts, t)
	m.record(&Record{Kind: RecDecision, Decision: &Decision{Tx: t.id, Prepared: t.prepared}, Time: m.state.Time})
}

// abortsDurable answers those whose ABORT has become durable everywhere; those
// of recovery run anew.
func (m *Machine) abortsDurable() {
	n := 0
	for ; n < len(m.aborts) && m.aborts[n].decided <= m.durable; n++ {
		t := m.aborts[n]
		m.aborts[n] = nil
		if t.index == 0 {
			m.runAnew(t)
			continue
		}
		m.answer(t, nil, t.err)
		m.aborted(t)
	}
	m.aborts = m.aborts[n:]
}

// runAnew lets the retries of an attempt that recovery has aborted take their
// turn: nothing of it is left anywhere, and that the coordinator had failed is
// no answer to what they ask for (S1a).
func (m *Machine) runAnew(t *tx) {
	waiters := t.waiters
	t.waiters = nil
	for _, r := range waiters {
		r.tx = nil
		if err := m.admit(r); err != nil {
			m.reply(r, nil, err)
			continue
		}
		m.enter(r)
	}
}

// aborted drops what an attempt that failed had staged.
func (m *Machine) aborted(t *tx) {
	m.unstage(t.stages...)
	t.stages = nil
}

// rank orders reasons for a NO: the greatest is what the client hears.
// Unknown comes first, because an earlier attempt may have happened; then what
// every participant finds alike; then what one of them lacks.
func rank(c wire.Code) int {
	switch c {
	case wire.CodeUnknownOutcome:
		return 6
	case wire.CodeConflict:
		return 4
	case wire.CodeNoSpace:
		return 3
	case wire.CodeStageLost:
		return 2
	case wire.CodeCorrupt, wire.CodeIO, wire.CodeUnavailable, wire.CodeBusy:
		return 1
	default: // validation
		return 5
	}
}

// reason chooses what the client hears of a transaction that was refused: the
// reason of the highest rank, the first member's of equals.
func (m *Machine) reason(t *tx) *wire.Error {
	var best *wire.Error
	who := 0
	for i, e := range t.errs {
		if e != nil && (best == nil || rank(e.Code) > rank(best.Code)) {
			best, who = e, i
		}
	}
	if best == nil { // all DUP, or DUP and YES: everybody has had the outcome
		return wire.NewError(wire.CodeConflict, "the request was done before")
	}
	e := *best
	if rank(e.Code) <= 3 { // of that member alone
		e.Who = m.members[who].name
		if e.Text != "" && !strings.Contains(e.Text, "participant "+e.Who) {
			e.Text = "participant " + e.Who + ": " + e.Text
		}
	} else {
		e.Who = ""
	}
	return &e
}

// answer gives all who wait for a transaction its outcome or error.
func (m *Machine) answer(t *tx, o *wire.Outcome, err *wire.Error) {
	for _, r := range t.waiters {
		m.reply(r, o, err)
	}
	t.waiters = nil
}

func (m *Machine) reply(r *Request, o *wire.Outcome, err *wire.Error) {
	if r.reclaims != 0 {
		m.reclaimed(r, err)
		return
	}
	m.release(r.next) // it does not come to be put
	r.next = nil
	rep := Reply{Request: r, Err: err}
	if err == nil {
		rep.Reply = wire.TransactReply{Outcome: *o, ServiceTime: m.state.ServiceTime}
	}
	number := m.leases.number
	if t := r.tx; err == nil && t != nil && o == t.outcome {
		if rep.Reply.Alone = t.alone; t.pushed > 0 {
			rep.Reply.Touched, rep.Reply.Time, number = m.toForget(r.Transact.Op.Session, t.pushed, t.touched), t.time, t.pushed
		}
	}
	if r.releases != 0 && (err == nil || err.Code == wire.CodeStale) {
		m.released(r.Transact.Op.Session, r.releases)
	}
	m.touch(r.Transact.Op.Session)
	if err == nil && m.holdBack(rep, number) {
		return
	}
	m.rd.Replies = append(m.rd.Replies, rep)
}

// forget drops a transaction that W has passed.
func (m *Machine) forget(t *tx) {
	delete(m.byIndex, t.index)
	if m.ops[t.op] == t {
		delete(m.ops, t.op)
	}
}

// unknown says who keeps a transaction that was put from being decided (G6).
func (m *Machine) unknown(t *tx, why string) *wire.Error {
	_, missing := m.voted(t)
	text := why + " while the change was under way: it may happen yet"
	if len(missing) > 0 {
		text += "; it waits for " + strings.Join(missing, ", ")
	}
	return &wire.Error{Code: wire.CodeUnknownOutcome, Text: text}
}

// voted names who has voted on t, or has its ABORT durable, and who has not.
func (m *Machine) voted(t *tx) (done, missing []string) {
	for i, mem := range m.members {
		if !mem.in {
			continue
		}
		ok := t.votes[i] != 0
		if t.decided != 0 {
			ok = mem.durable >= t.decided
		}
		if ok {
			done = append(done, mem.name)
		} else {
			missing = append(missing, mem.name)
		}
	}
	return done, missing
}
