package exhaust

import (
	"slices"

	"tpcfs/wire"
)

// step is something that may happen.
type step struct {
	kind stepKind
	i    uint8 // participant, or operation
	n    uint8 // crashes: how many unsynced records stay
}

type stepKind uint8

const (
	stHandle   stepKind = iota + 1 // a participant handles the next message
	stRefuse                       // ... and refuses the prepare alone
	stSync                         // a participant's journal becomes durable
	stHear                         // the coordinator takes a participant's message
	stHearBeat                     // ... and sends heartbeats in the same turn
	stLate                         // ... of a link that is gone
	stGreet                        // a new link
	stSubmit                       // a client sends its operation, by a new link
	stSyncC                        // the coordinator's journal becomes durable
	stTick
	stDelayed // a request that was sent by an old link of its session arrives
	stBreak
	stCrash
	stCrashC
	stGreetLost // the answer to a greeting is lost
)

// explorer knows the machines' steps.
type explorer struct {
	box *Box
	r   *replicas
	c   *coordinators
}

func newExplorer(b *Box) *explorer {
	r := newReplicas()
	return &explorer{box: b, r: r, c: newCoordinators(b, r)}
}

// steps lists what may happen in s; the faults last. quiet: nothing but
// clients' requests and faults.
func (x *explorer) steps(s *state) (list []step, quiet bool) {
	if i := x.alone(s); i >= 0 {
		return x.own(s, i), false
	}
	add := func(k stepKind, i, n int) { list = append(list, step{k, uint8(i), uint8(n)}) }
	for i := range s.parts {
		p := &s.parts[i]
		if len(p.down) > 0 {
			add(stHandle, i, 0)
		}
		if len(p.tail) > 0 {
			add(stSync, i, 0)
		}
		if len(p.up) > 0 {
			add(stHear, i, 0)
			if s.left.beats > 0 {
				add(stHearBeat, i, 0)
			}
		}
		if p.link == 0 {
			add(stGreet, i, 0)
		}
	}
	if s.config {
		add(stSyncC, 0, 0)
	}
	if !s.told && (len(list) == 0 || s.left.beats > 0) && x.c.reigns.values[s.coord].serving {
		add(stTick, 0, 0)
	}
	quiet = len(list) == 0
	for i := range s.clients {
		c := &s.clients[i]
		if c.tries == 0 && i > 0 && x.box.Ops[i] == x.box.Ops[i-1] && s.clients[i-1].tries == 0 {
			continue // the same with names exchanged
		}
		if c.tries == 0 || s.left.retries > 0 {
			add(stSubmit, i, 0)
		}
	}
	x.faults(s, add)
	return list, quiet
}

// alone finds a participant whose own steps may all be taken before anything
// else happens: no fault is left that could come in between, and whatever else
// happens only appends to what it will handle and takes off what it has sent.
// Such steps commute with all the others, so one order stands for all. -1: none.
func (x *explorer) alone(s *state) int {
	if l := &s.left; l.crashC+l.crashP+l.breaks > 0 {
		return -1
	}
	for i := range s.parts {
		if p := &s.parts[i]; p.link != 0 && len(p.down)+len(p.tail) > 0 {
			return i
		}
	}
	return -1
}

// own lists a participant's steps.
func (x *explorer) own(s *state, i int) []step {
	var list []step
	p := &s.parts[i]
	if len(p.down) > 0 {
		list = append(list, step{kind: stHandle, i: uint8(i)})
		if s.left.refusals > 0 && x.isPrepare(p.down[0]) {
			list = append(list, step{kind: stRefuse, i: uint8(i)})
		}
	}
	if len(p.tail) > 0 {
		list = append(list, step{kind: stSync, i: uint8(i)})
	}
	return list
}

func (x *explorer) isPrepare(down uint32) bool {
	e := x.r.downs.values[down].Entry
	return e != nil && e.Kind == wire.EntryPrepare
}

func (x *explorer) faults(s *state, add func(stepKind, int, int)) {
	l := &s.left
	for i := range s.clients {
		if l.delayed > 0 && s.clients[i].old != 0 {
			add(stDelayed, i, 0)
		}
	}
	for i := range s.parts {
		p := &s.parts[i]
		if i > 0 && x.box.Symmetric && x.unhurt(l) {
			break // the same with names exchanged
		}
		if l.refusals > 0 && len(p.down) > 0 && x.isPrepare(p.down[0]) {
			add(stRefuse, i, 0)
		}
		if l.late > 0 && len(p.late) > 0 {
			add(stLate, i, 0)
		}
		if l.breaks > 0 && p.link != 0 {
			add(stBreak, i, 0)
		}
		if l.greets > 0 && p.link == 0 {
			add(stGreetLost, i, 0)
		}
		if l.crashP > 0 {
			for n := range len(p.tail) + 1 {
				add(stCrash, i, n)
			}
		}
	}
	if l.crashC > 0 {
		for n := range s.ledgers {
			add(stCrashC, 0, n)
		}
	}
}

// unhurt: has no participant had a fault yet?
func (x *explorer) unhurt(l *budget) bool {
	b := x.box
	return int(l.refusals) == b.Refusals && int(l.late) == b.Late && int(l.breaks) == b.Breaks &&
		int(l.greets) == b.LostGreetings && int(l.crashP) == b.ReplicaCrashes
}

// do takes a step from s; s stays as it is.
func (x *explorer) do(s *state, st step) (*state, *violation) {
	n := s.clone()
	bad := x.take(n, st)
	if bad == nil {
		n.forget()
		bad = x.check(n)
	}
	return n, bad
}

func (x *explorer) take(s *state, st step) *violation {
	i := int(st.i)
	switch st.kind {
	case stHandle, stRefuse:
		if st.kind == stRefuse {
			s.left.refusals--
		}
		return x.handle(s, i, st.kind == stRefuse)
	case stSync:
		x.sync(s, i)
	case stHear, stHearBeat:
		p := &s.parts[i]
		up := p.up[0]
		p.up = p.up[1:]
		beat := st.kind == stHearBeat
		if beat {
			s.left.beats--
		}
		return x.tell(s, event{kind: evUp, i: st.i, link: p.link, arg: up, beat: beat})
	case stLate:
		s.left.late--
		p := &s.parts[i]
		up := p.late[0]
		p.late = p.late[1:]
		return x.tell(s, event{kind: evUp, i: st.i, link: p.lost, arg: up})
	case stGreet, stGreetLost:
		if st.kind == stGreetLost {
			s.left.greets--
		}
		return x.greet(s, i, st.kind == stGreetLost)
	case stSubmit:
		c := &s.clients[i]
		if c.tries++; c.tries > 1 {
			s.left.retries--
		}
		c.waits, c.failed = true, false // an answer on its way is lost with the old link
		c.old = c.link
		return x.tell(s, event{kind: evSubmit, i: st.i, try: c.tries})
	case stSyncC:
		config := s.config
		s.ledgers, s.config = s.ledgers[len(s.ledgers)-1:], false
		if config {
			return x.tell(s, event{kind: evJournaled})
		}
	case stTick:
		s.left.beats -= min(s.left.beats, 1)
		s.told = true
		return x.tell(s, event{kind: evTick})
	case stDelayed:
		s.left.delayed--
		return x.tell(s, event{kind: evDelayed, i: st.i, link: s.clients[i].old})
	default:
		return x.strike(s, st)
	}
	return nil
}

// strike does a fault to a process or a link.
func (x *explorer) strike(s *state, st step) *violation {
	i := int(st.i)
	switch st.kind {
	case stBreak:
		s.left.breaks--
		return x.cut(s, i)
	case stCrash:
		s.left.crashP--
		return x.crash(s, i, int(st.n))
	case stCrashC:
		s.left.crashC--
		return x.crashC(s, int(st.n))
	default:
		panic("exhaust: an unknown step")
	}
}

func (x *explorer) handle(s *state, i int, refuse bool) *violation {
	p := &s.parts[i]
	t := x.r.step(turnKey{state: p.now, down: p.down[0], refuse: refuse})
	if t.bad != nil {
		return t.bad.at(memberName(i))
	}
	p.down = p.down[1:]
	p.now = t.to
	if t.record {
		p.tail = append(p.tail, unsynced{t.to, t.later, t.index})
	}
	if t.now != 0 && p.link != 0 {
		x.post(p, t.now, nil)
	}
	if t.abort != 0 {
		if bad := s.decide(t.abort, false); bad != nil {
			return bad
		}
	}
	if t.commit != nil {
		k := int(t.commit.Op.Session[0]) - 1
		if s.clients[k].failed {
			return violated("G6", "operation %d was told to have failed, and %s commits it as %v", k, memberName(i), t.commit.ID)
		}
		s.clients[k].committed = true
		return s.decide(t.commit.ID, true)
	}
	return nil
}

func (v *violation) at(who string) *violation { return &violation{v.rule, who + " " + v.text} }

// post sends a message to the coordinator: votes, and what is durable.
func (x *explorer) post(p *part, votes uint32, more []wire.Vote) {
	// What is handled and not durable is told for status alone.
	up := wire.Up{Handled: uint64(p.synced), Durable: uint64(p.synced), Votes: more}
	if votes != 0 {
		up.Votes = append(slices.Clone(x.r.votes.values[votes]), more...)
	}
	p.up = append(p.up, x.c.up(up))
}

// sync makes all records durable; the votes that waited leave.
func (x *explorer) sync(s *state, i int) {
	p := &s.parts[i]
	var votes []wire.Vote
	before := p.synced
	for _, t := range p.tail {
		if t.votes != 0 {
			votes = append(votes, x.r.votes.values[t.votes]...)
		}
		p.synced = max(p.synced, t.index)
	}
	p.tail, p.durable = nil, p.now
	if p.link != 0 && (len(votes) > 0 || p.synced != before) {
		x.post(p, 0, votes)
	}
}

// tell lets the coordinator take an event and carries out what it asks for.
func (x *explorer) tell(s *state, e event) *violation {
	r := x.c.step(s.coord, e)
	if r.bad != nil {
		return r.bad
	}
	if e.beat {
		s.told = true
	} else if e.kind != evTick && x.c.reigns.values[s.coord].w != x.c.reigns.values[r.to].w {
		s.told = false
	}
	s.coord = r.to
	if e.kind == evSubmit {
		s.clients[e.i].link = r.link
	}
	if e.kind == evGreeted {
		s.parts[e.i].link = r.link
		s.told = false
	}
	for _, d := range r.sends {
		p := &s.parts[d.member]
		if m := &x.r.downs.values[d.down]; m.Entry == nil && !x.news(p, m.W) {
			continue
		}
		p.down = append(p.down, d.down)
	}
	s.ledgers = append(s.ledgers, r.ledgers...)
	s.config = s.config || r.config
	for _, d := range r.decided {
		if bad := s.decide(d.tx, d.commit); bad != nil {
			return bad
		}
	}
	for _, a := range r.answers {
		if bad := s.hear(a); bad != nil {
			return bad
		}
	}
	return nil
}

// news: does a heartbeat tell the participant a W that it has not heard?
func (x *explorer) news(p *part, w wire.Position) bool {
	if !x.r.states.values[p.now].w.Before(w) {
		return false
	}
	for _, d := range p.down {
		if m := &x.r.downs.values[d]; m.Entry == nil && !m.W.Before(w) {
			return false
		}
	}
	return true
}

// decide notes a decision: there is one of each transaction, for ever (G1).
func (s *state) decide(tx wire.ID, commit bool) *violation {
	for _, d := range s.decided {
		if d.tx == tx {
			if d.commit != commit {
				return violated("G1", "transaction %v is committed by one and aborted by another", tx)
			}
			return nil
		}
	}
	s.decided = append(s.decided, decision{tx, commit})
	slices.SortFunc(s.decided, func(a, b decision) int { return int(int64(a.tx) - int64(b.tx)) })
	return nil
}

// hear is the client's side of an answer.
func (s *state) hear(a answer) *violation {
	c := &s.clients[a.op]
	if !c.waits || a.try != c.tries {
		return nil // by a link that is gone
	}
	c.waits = false
	switch a.code {
	case wire.CodeNone:
		if c.acked && c.tx != a.tx {
			return violated("G5", "operation %d is told that it committed as %v; a retry is told %v", a.op, c.tx, a.tx)
		}
		c.acked, c.tx = true, a.tx
		return nil
	case wire.CodeUnknownOutcome:
		return nil
	case wire.CodeUnavailable, wire.CodeReplaced, wire.CodeCanceled:
		if c.tries > 1 {
			return nil // of this attempt only
		}
	case wire.CodeConflict, wire.CodeNoSpace:
	default:
		return violated("answer", "operation %d hears %v", a.op, a.code)
	}
	if c.acked || c.committed {
		return violated("G6", "operation %d is told that it failed, after it committed", a.op)
	}
	c.failed = true
	return nil
}

// cut ends a participant's link; both sides notice.
func (x *explorer) cut(s *state, i int) *violation {
	p := &s.parts[i]
	p.lost, p.late = p.link, p.up
	p.link, p.down, p.up = 0, nil, nil
	return x.tell(s, event{kind: evLinkDown, i: uint8(i), link: p.lost})
}

// crash ends a participant's process and starts it again from its disk.
func (x *explorer) crash(s *state, i, keep int) *violation {
	p := &s.parts[i]
	if keep > 0 {
		p.durable = p.tail[keep-1].state
	}
	p.now, p.tail = p.durable, nil
	p.synced = uint32(x.r.states.values[p.now].position.Index)
	if p.link == 0 {
		p.down = nil // of a coordinator that is gone
		return nil
	}
	return x.cut(s, i)
}

// crashC ends the coordinator's process and starts the next reign from its
// disk. What it has sent may still arrive, until the next one greets.
func (x *explorer) crashC(s *state, keep int) *violation {
	next, bad := x.c.start(s.ledgers[keep])
	if bad != nil {
		return bad
	}
	s.coord, s.ledgers, s.config, s.told = next, []uint32{x.c.reigns.values[next].ledger}, false, false
	for i := range s.parts {
		p := &s.parts[i]
		p.link, p.up, p.lost, p.late = 0, nil, 0, nil
	}
	for i := range s.clients {
		s.clients[i].waits, s.clients[i].link, s.clients[i].old = false, 0, 0
	}
	return nil
}

// greet opens a link: the participant's answer is durable before it leaves (P6).
func (x *explorer) greet(s *state, i int, lost bool) *violation {
	p := &s.parts[i]
	epoch := x.c.reigns.values[s.coord].epoch
	t := x.r.step(turnKey{state: p.now, epoch: epoch})
	if t.bad != nil {
		return t.bad.at(memberName(i))
	}
	waits := map[wire.ID]bool{}
	if t.record {
		p.tail, p.now, p.durable, p.synced = nil, t.to, t.to, 0
	}
	for _, u := range p.tail {
		if u.votes != 0 {
			for _, v := range x.r.votes.values[u.votes] {
				waits[v.Tx] = true
			}
		}
	}
	p.down, p.up = nil, nil
	if lost {
		return nil
	}
	if bad := x.tell(s, event{kind: evGreeted, i: uint8(i), arg: x.c.greeting(*t.greeting)}); bad != nil {
		return bad
	}
	var again []wire.Vote
	if t.now != 0 {
		for _, v := range x.r.votes.values[t.now] {
			if !waits[v.Tx] {
				again = append(again, v)
			}
		}
	}
	if len(again) > 0 || p.synced > 0 {
		x.post(p, 0, again)
	}
	return nil
}
