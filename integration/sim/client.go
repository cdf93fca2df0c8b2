package sim

import (
	"slices"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// client is a user of wire.Service with one session: up to two requests at a
// time, retried by new links under their op ids.
type client struct {
	w       *world
	n       int
	lives   int // sessions it has had
	session wire.SessionID

	c    *reign // attached to; nil: not
	link uint64
	seq  uint64
	ops  []*op // not answered yet, oldest first
	// service time when last heard of, in milliseconds (S1a).
	serviceTime int64
	versions    map[string]wire.ID // of files, as last heard
	inos        map[string]wire.Ino
	dirs        []wire.Ino // directories that it has met
	unnamed     []wire.Ino // files that it has left without a name
	mount                  // mounts.go
}

// op is what a client wants done: a transaction or a read.
type op struct {
	cl  *client
	num int
	id  wire.OpID // zero: a read
	read
	muts    []wire.Mutation
	payload []byte
	staged  [][]byte // contents to be staged, by mutation; nil: not (any more)
	bulk    [][]byte // ... as they were at first

	attempt *attempt     // under way
	call    *readCall    // under way
	tried   uint         // members that have found their copy rotten, as bits
	stage   *stageJob    // under way
	behind  *wire.Behind // who has aborted it when it was tried before; nil: nobody
	tries   int          // how often it was, as other ops
	sent    int64        // service time at which it was first sent
	sends   int          // of them
	link    uint64       // of the last one
	sentBy  []sending
	replied int64           // when a coordinator said that it is done; 0: not yet
	heard   []*wire.Touched // since a read was asked (mounts.go)
	maybe   bool            // an attempt's answer is lost: it may have been put
	given   bool            // its caller does not want it any more

	begun, ended int64 // numbers of steps; ended 0: no answer
	prepared     bool  // some participant has said YES
	released     int64 // when all participants had carried out its decision
	fate         fate
	err          *wire.Error
	outcome      wire.Outcome
	answer       readAnswer
	excused      bool // a link or a process was lost meanwhile: a conflict may be about nothing else
}

// sending is by which link of which coordinator an op was sent.
type sending struct{ epoch, link uint64 }

type fate uint8

const (
	waits     fate = iota
	committed      // with an outcome
	refused        // definitely not done
	unknown        // the client has given up
)

// attempt is one sending of a request.
type attempt struct {
	number     int
	op         *op
	c          *reign
	link       uint64
	request    *commit.Request
	submitted  bool
	clientGone bool
	noticed    bool          // ... by the coordinator
	answer     *commit.Reply // on its way back
}

// attach mirrors the client's first word on a new link.
func (cl *client) attach(c *reign) {
	c.turn(func() {
		a := c.m.Attach(cl.session)
		cl.c, cl.link, cl.serviceTime = c, a.Link, a.ServiceTime
	})
	cl.w.tracef("client %d attaches to C%d, link %d", cl.n, c.epoch.Number, cl.link)
}

// linkLost is when a client's link breaks: what it had asked may be put yet.
func (cl *client) linkLost() {
	for _, o := range cl.ops {
		o.excused = true
		if a := o.attempt; a != nil {
			a.clientGone = true
			o.attempt, o.maybe = nil, true
			if !a.c.over {
				a.c.orphans = append(a.c.orphans, a)
			}
			if i := slices.Index(a.c.inbox, a); i >= 0 { // it arrives late
				a.c.inbox = slices.Delete(a.c.inbox, i, i+1)
				a.c.delayed = append(a.c.delayed, a)
			}
		}
		if o.call != nil {
			o.call.lost()
		}
		o.stage, o.tried = nil, 0
	}
	cl.watchLost()
	cl.c, cl.link = nil, 0
}

// lowest mirrors Transact.Lowest: the least sequence number without an answer.
func (cl *client) lowest() uint64 {
	low := cl.seq + 1
	for _, o := range cl.ops {
		if o.id.Seq != 0 {
			low = min(low, o.id.Seq)
		}
	}
	return low
}

// send sends a transaction, for the first time or again.
func (cl *client) send(o *op) {
	if o.sends++; o.sends == 1 {
		o.sent = cl.serviceTime
	} else if o.link != cl.link {
		cl.w.reach(reachRetry)
	}
	o.link = cl.link
	o.sentBy = append(o.sentBy, sending{cl.c.epoch.Number, cl.link})
	cl.w.attempts++
	a := &attempt{number: cl.w.attempts, op: o, c: cl.c, link: cl.link}
	a.request = &commit.Request{Token: a, Payload: slices.Clone(o.payload), Transact: wire.Transact{
		Op: o.id, Link: cl.link, Lowest: cl.lowest(), Sent: o.sent, Wait: cl.w.wait, Mutations: slices.Clone(o.muts), Behind: o.behind,
	}}
	o.attempt = a
	cl.c.inbox = append(cl.c.inbox, a)
	cl.w.tracef("client %d sends op %d by link %d", cl.n, o.num, cl.link)
}

// answered is the coordinator's answer to an attempt, on its way.
func (a *attempt) answered(r commit.Reply) {
	if !a.clientGone {
		a.answer = &r
		if r.Err == nil && a.op.replied == 0 {
			a.op.replied = a.c.w.clock()
		}
		return
	}
	// Nobody hears it. That it was canceled before it was put still means it.
	a.c.orphans = slices.DeleteFunc(a.c.orphans, func(o *attempt) bool { return o == a })
}

// hears takes the answer to an op's attempt.
func (cl *client) hears(o *op) {
	r := o.attempt.answer
	o.attempt = nil
	if r.Err == nil {
		cl.serviceTime = max(cl.serviceTime, r.Reply.ServiceTime)
		o.outcome = r.Reply.Outcome
		cl.learn(o)
		cl.forgets(r.Reply.Touched)
		cl.w.tracef("client %d hears: op %d is COMMITTED as %v", cl.n, o.num, o.outcome.Tx)
		cl.done(o, committed, nil)
		return
	}
	cl.w.tracef("client %d hears of op %d: %v", cl.n, o.num, r.Err)
	switch r.Err.Code {
	case wire.CodeReplaced:
		cl.linkLost() // attach again, send again
	case wire.CodeUnknownOutcome:
		o.maybe = true
		if o.given || cl.w.chance(2) {
			cl.done(o, unknown, r.Err)
		}
	case wire.CodeStageLost: // stage again under the same op id, as the client library does
		if o.given || cl.w.chance(3) {
			cl.done(o, refused, r.Err)
			return
		}
		o.staged = slices.Clone(o.bulk)
	case wire.CodeUnavailable, wire.CodeCanceled:
		switch {
		case !o.maybe:
			cl.done(o, refused, r.Err)
		case o.given || cl.w.chance(4):
			cl.done(o, unknown, r.Err)
		}
	case wire.CodeConflict:
		cl.done(o, refused, r.Err)
		if r.Err.Blocker != 0 && !o.given && o.tries < 3 && cl.w.chance(2) {
			cl.triesAgain(o)
		}
	default:
		cl.done(o, refused, r.Err)
	}
}

// triesAgain mirrors the mount's backoff: what a conflict has aborted is tried again,
// as another op, behind who was in its way (F5).
func (cl *client) triesAgain(before *op) {
	w := cl.w
	o := &op{cl: cl, num: len(w.ops), begun: w.clock(), tries: before.tries + 1, payload: before.payload,
		muts: slices.Clone(before.muts), staged: slices.Clone(before.bulk), bulk: before.bulk}
	o.behind = &wire.Behind{Tx: before.err.Blocker, Key: before.err.Key}
	if w.chance(4) {
		o.behind.Patience = 1 + int64(w.rng.IntN(3000))
	}
	cl.seq++
	o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
	w.byID[o.id] = o
	w.ops = append(w.ops, o)
	cl.ops = append(cl.ops, o)
	w.tracef("client %d begins op %d: op %d behind %v: %s", cl.n, o.num, before.num, o.behind.Tx, o.words())
}

func (cl *client) done(o *op, f fate, err *wire.Error) {
	o.fate, o.err, o.ended = f, err, cl.w.clock()
	if f == unknown && o.id.Seq != 0 {
		cl.lost = append(cl.lost, o.id.Seq)
	}
	cl.ops = slices.DeleteFunc(cl.ops, func(x *op) bool { return x == o })
	cl.w.answered(o)
}

// vanish ends a client for good: what it had asked stays unknown, and a new
// session takes its place.
func (cl *client) vanish() {
	cl.linkLost()
	for _, o := range slices.Clone(cl.ops) {
		cl.done(o, unknown, nil)
	}
	cl.leave()
	cl.begin()
}

func (cl *client) begin() {
	cl.lives++
	cl.session = wire.SessionID{byte(cl.n + 1), byte(cl.lives)}
	cl.seq, cl.inos, cl.versions, cl.dirs, cl.unnamed = 0, map[string]wire.Ino{}, map[string]wire.ID{}, []wire.Ino{wire.RootIno}, nil
	cl.mount = mount{watches: cl.watches}
}

// giveUp cancels a request: its caller has had enough.
func (cl *client) giveUp(o *op) {
	o.given = true
	if a := o.attempt; a != nil && a.submitted && a.answer == nil {
		a.c.turn(func() { a.c.m.Cancel(a.request) })
	}
}

// learn keeps what an outcome tells, for later requests.
func (cl *client) learn(o *op) {
	cl.unnamed = append(cl.unnamed, o.outcome.Orphans...)
	for i, m := range o.muts {
		if i >= len(o.outcome.Results) {
			break
		}
		switch m.Kind {
		case wire.MutMkdir:
			cl.dirs = append(cl.dirs, o.outcome.Results[i].Ino)
		case wire.MutWriteFile:
			cl.versions[m.At.Path] = o.outcome.Tx
		default:
		}
	}
}

// stageJob brings contents to all members: mirrors Coordinator.Stage.
type stageJob struct {
	w       *world
	c       *reign
	o       *op
	mut     int
	id      wire.ID
	data    []byte
	skew    int64
	parts   []*stagePart
	pending int
	err     *wire.Error
	agreed  bool // who has it are all that need it
}

// stagePart is one member's share: participant.staging.
type stagePart struct {
	job   *stageJob
	p     *member
	k     *conn
	task  *task
	over  bool
	has   bool // ... and it has the object
	reply wire.StageReply
}

// beginStage takes an id and asks all members.
func (cl *client) beginStage(o *op, mut int) {
	c := cl.c
	s := &stageJob{w: cl.w, c: c, o: o, mut: mut, data: o.staged[mut], skew: o.skew(mut)}
	var err *wire.Error
	c.turn(func() { s.id, err = c.m.BeginStage(cl.session, cl.link) })
	if err != nil {
		if err.Code == wire.CodeReplaced {
			cl.linkLost()
		}
		return // waits until all have links
	}
	if c.over { // it has ended in that very turn
		return
	}
	o.stage = s
	cl.w.contents[s.id] = s.data
	cl.w.tracef("client %d stages %d bytes for op %d as %v", cl.n, len(s.data), o.num, s.id)
	for _, k := range c.conns {
		if k == nil || !k.opened || k.outside {
			continue
		}
		part := &stagePart{job: s, p: k.member, k: k}
		s.parts = append(s.parts, part)
		s.pending++
		if k.cut {
			s.fail(k.member, wire.NewError(wire.CodeCanceled, "the link is gone"))
			continue
		}
		k.stages = append(k.stages, s)
	}
}

// fail ends a member's part with an error.
func (s *stageJob) fail(p *member, err *wire.Error) {
	for _, part := range s.parts {
		if part.p == p && !part.over {
			s.end(part, err)
		}
	}
}

func (s *stageJob) end(part *stagePart, err *wire.Error) {
	part.over, part.has = true, err == nil
	part.k.stages = slices.DeleteFunc(part.k.stages, func(o *stageJob) bool { return o == s })
	if err != nil && !(part.k.cut && (!s.c.has(part.p.i) || s.c.m.MayGo(part.p.i))) {
		s.err = err
	}
	if s.pending--; s.pending == 0 && !s.c.over {
		s.c.stages = append(s.c.stages, s)
	}
}

// part returns the member's share.
func (s *stageJob) part(p *member) *stagePart {
	for _, part := range s.parts {
		if part.p == p {
			return part
		}
	}
	return nil
}

// nextStage begins a stage that waits at a link, or finds one begun.
func (p *member) nextStage() *stagePart {
	for _, c := range p.w.reigns() {
		k := c.conns[p.i]
		if k == nil || k.half() {
			continue
		}
		for _, s := range k.stages {
			if part := s.part(p); part.task == nil {
				return part
			}
		}
	}
	if len(p.staging) > 0 {
		return p.staging[p.w.rng.IntN(len(p.staging))]
	}
	return nil
}

func (p *member) hasStage() bool {
	for _, c := range p.w.reigns() {
		if k := c.conns[p.i]; k != nil && !k.half() && slices.ContainsFunc(k.stages, func(s *stageJob) bool { return s.part(p).task == nil }) {
			return true
		}
	}
	return len(p.staging) > 0
}

// goOn writes a member's share, up to n operations of its disk.
func (part *stagePart) goOn(n int) {
	s, p := part.job, part.p
	if part.task == nil {
		if s.c.epoch != p.gateEpoch {
			s.end(part, wire.NewError(wire.CodeStaleEpoch, "another epoch holds"))
			return
		}
		part.task = p.start("stage", func(*task) { part.write() })
		p.staging = append(p.staging, part)
	}
	part.task.run(n)
	if part.task.done {
		p.staging = slices.DeleteFunc(p.staging, func(o *stagePart) bool { return o == part })
	}
}

// holds mirrors staging.with: the call is not canceled, the epoch is the one that holds.
func (part *stagePart) holds() error {
	if part.over || part.job.c.epoch != part.p.gateEpoch {
		return wire.NewError(wire.CodeCanceled, "nobody wants it any more")
	}
	return nil
}

func (part *stagePart) write() {
	s, p := part.job, part.p
	st, err := p.store.NewStage(s.id, s.skew)
	for at := 0; err == nil && at < len(s.data); at += wire.PieceSize {
		data := s.data[at:min(at+wire.PieceSize, len(s.data))]
		if err = part.holds(); err == nil {
			err = st.Write(wire.Piece{Offset: int64(at), Sum: wire.Sum(data), Data: data})
		}
	}
	if err == nil {
		err = part.holds()
	}
	if err == nil {
		part.reply, err = st.Finish(background)
	}
	if err == nil {
		if !part.over {
			s.end(part, nil)
		}
		return
	}
	if st != nil {
		st.Discard()
	}
	p.storeError(err)
	if !part.over {
		s.end(part, wire.NewError(wire.CodeUnavailable, "not staged"))
	}
}

// settles mirrors settleStage: are those who have an object all that need it? It
// is to be asked again if neither that is so nor s.err tells that it is in vain.
func (s *stageJob) settles() {
	var has []int
	for _, part := range s.parts {
		if part.has {
			has = append(has, part.p.i)
		}
	}
	s.c.turn(func() {
		lacks, back := s.c.m.StageLacks(has), len(has) == 0
		for _, i := range lacks {
			now := s.c.conns[i]
			back = back || now != nil && s.part(now.member).of(now) || !s.c.m.MayGo(i)
		}
		if s.agreed = len(lacks) == 0 && len(has) > 0; !s.agreed && (back || s.w.chance(20)) {
			s.err = wire.NewError(wire.CodeUnavailable, "a participant was lost while the contents were brought to it")
		}
	})
}

// of: is it not by that link that the member got its share, or did not?
func (part *stagePart) of(now *conn) bool { return part == nil || part.k != now }

// staged is when the coordinator has heard of all members.
func (c *reign) staged(s *stageJob) {
	if s.err == nil && !s.agreed {
		if s.settles(); !c.over {
			c.stages = append(c.stages, s)
		}
		return
	}
	c.turn(func() { c.m.EndStage(s.id, s.err == nil) })
	o := s.o
	if o.stage != s {
		return // the client has gone
	}
	o.stage = nil
	if s.err != nil {
		return // it tries again
	}
	first := s.parts[slices.IndexFunc(s.parts, func(part *stagePart) bool { return part.has })]
	if m, sum := &o.muts[s.mut], first.reply.Sum; m.Write == wire.WriteWhole {
		m.Content = wire.Content{Size: int64(len(s.data)), Stage: s.id, Sum: sum}
	} else {
		m.Extents = slices.Clone(m.Extents)
		e := &m.Extents[len(m.Extents)-1]
		e.Stage, e.Sum = s.id, sum
	}
	o.staged[s.mut] = nil
}

// readCall is a read on its way: mirrors coordinator.reading.
type readCall struct {
	o     *op
	c     *reign
	k     *conn
	index uint64
}

// readAnswer is what a read has told.
type readAnswer struct {
	reply wire.ReadReply
	data  []byte
}

// readable are the links that a read may go by: mirrors Coordinator.pick. There
// are none before the coordinator has a read point (P5), and none to a member
// that has failed the read.
func (c *reign) readable(o *op) []*conn {
	if c.readPoint == 0 && c.w.broken != readsBeforeOpen || c.zombie && c.w.evicts() {
		return nil // the one hole: a zombie does not know who was evicted
	}
	var list []*conn
	for _, k := range c.conns {
		if k != nil && k.opened && !k.cut && !k.outside && o.tried&(1<<k.member.i) == 0 {
			list = append(list, k)
		}
	}
	return list
}

// ask mirrors Coordinator.Read: a linked member at random, with the read point
// of now (P5).
func (cl *client) ask(o *op) {
	links := cl.c.readable(o)
	k := links[cl.w.rng.IntN(len(links))]
	o.call, o.heard = &readCall{o: o, c: cl.c, k: k, index: cl.c.readPoint}, nil
	k.reads = append(k.reads, o.call)
	cl.w.tracef("client %d reads (op %d: %s) at P%d, position %d", cl.n, o.num, o.words(), k.member.i, o.call.index)
}

// lost makes the client ask again.
func (r *readCall) lost() {
	r.k.reads = slices.DeleteFunc(r.k.reads, func(o *readCall) bool { return o == r })
	if r.o.call == r {
		r.o.call = nil
	}
}

// answers mirrors Participant.Read: the member answers if its gate is open.
func (r *readCall) answers(p *member) {
	open, err := p.gateOpen(r.c.epoch, r.index)
	if !open {
		return
	}
	if err != nil {
		r.lost()
		return
	}
	var got readAnswer
	got.reply, err = p.store.Read(r.o.read.request(), (*pieces)(&got))
	if p.store.Failed() != nil || p.store.Damaged() != "" {
		p.storeError(err)
		return
	}
	o := r.o
	r.lost()
	if p.removed && r.c == p.w.cur {
		p.w.violate("P14", "P%d, which was removed, answers %s", p.i, o.words())
	}
	if o.cl.c != r.c {
		return
	}
	o.answer = got
	if err == nil {
		if o.kind == wire.ReadList {
			o.cl.w.reach(reachList)
		}
		o.cl.learnRead(o, &got)
		o.cl.keepsRead(o, 0, &got)
		o.cl.w.tracef("P%d answers op %d: %s", p.i, o.num, got.words())
		o.cl.done(o, committed, nil)
		return
	}
	we := asError(err)
	o.cl.w.tracef("P%d answers op %d: %v", p.i, o.num, we)
	switch we.Code {
	case wire.CodeCorrupt:
		o.rottenAt(p, we)
	case wire.CodeUnavailable, wire.CodeIO:
		o.cl.w.violate("read", "P%d answers %s: %v", p.i, o.words(), we)
	default:
		o.cl.keepsRead(o, we.Code, &got)
		o.cl.done(o, refused, we)
	}
}

// rottenAt mirrors reading.judge: a member has found its copy rotten, and
// another one is asked, if there is one.
func (o *op) rottenAt(p *member, err *wire.Error) {
	if !p.rotten && len(p.bad) == 0 && !p.lossy {
		p.w.violate("read", "P%d answers %s: %v", p.i, o.words(), err)
	}
	p.w.reach(reachRotRead)
	o.cl.c.rottenAt(p, err)
	o.tried |= 1 << p.i
	if len(o.cl.c.readable(o)) == 0 {
		o.cl.done(o, refused, err)
	}
}

func (cl *client) learnRead(o *op, got *readAnswer) {
	a := got.reply.Attr
	if a.Mode&wire.ModeType == wire.ModeDir {
		cl.dirs = append(cl.dirs, a.Ino)
	} else {
		cl.versions[o.at.Path], cl.inos[o.at.Path] = a.Version, a.Ino
	}
}

// pieces gathers a file's contents.
type pieces readAnswer

// WritePiece implements wire.PieceWriter.
func (g *pieces) WritePiece(p wire.Piece) error {
	if wire.Sum(p.Data) != p.Sum || p.Offset != int64(len(g.data)) {
		panic("sim: a piece out of place")
	}
	g.data = append(g.data, p.Data...)
	return nil
}
