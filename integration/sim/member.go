package sim

import (
	"errors"
	"fmt"
	"slices"

	"tpcfs/journal"
	"tpcfs/participant/store"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// member is a participant. While it is up it mirrors participant.owner.
type member struct {
	*host
	w  *world
	i  int
	up bool

	store *store.Store
	kv    store.KV // the store's
	m     *vote.Machine
	j     *writer

	conn     *conn   // its transaction stream
	incoming []*conn // greetings that arrive

	votes   []heldVote
	entries []handledEntry
	durable uint64
	end     journal.LSN
	fence   journal.LSN
	greets  []heldGreet
	fatal   error

	gateEpoch   wire.Epoch
	gateHandled uint64

	quietMark journal.LSN
	sealed    bool
	freezes   uint64
	ck        *task // checkpoint under way
	ckErr     error
	ckDone    bool
	frozenAt  journal.LSN
	stored    uint64
	carried   uint64
	held      bool
	heldSince uint64
	sweep     *task
	refuses   int          // so many prepares find no space
	staging   []*stagePart // begun here

	// resync.go
	resyncs     []*resyncCall // that have begun
	steps       *resyncCall   // the one whose turn it is; nil: nobody's
	checkpoints int           // that have ended
	join        *wire.Join    // what the checkpoint under way makes durable; nil: nothing of the kind
	joinGreets  []*conn       // they wait for that
	stopping    bool          // the process is being stopped
	moments     []*resyncCall // they wait for an entry to be handled (scrub.go)

	fences map[uint64]bool // epochs whose fence was answered for, over all its lives
}

type heldVote struct {
	lsn  journal.LSN
	vote wire.Vote
}

type handledEntry struct {
	lsn   journal.LSN
	index uint64
}

type heldGreet struct {
	greeting wire.Greeting
	conn     *conn
}

// fail mirrors Participant.fail: nothing more is voted or answered (P12).
func (p *member) fail(err error) {
	if p.fatal == nil {
		p.fatal = err
	}
}

// greetArrives mirrors Participant.greet.
func (p *member) greetArrives(k *conn) {
	k.arrived = true
	p.incoming = slices.DeleteFunc(p.incoming, func(o *conn) bool { return o == k })
	if p.join != nil {
		p.joinGreets = append(p.joinGreets, k)
		return
	}
	greeting, out, err := p.m.Greet(k.greet, p.store.UUID())
	if err != nil {
		p.w.tracef("P%d refuses epoch %d: %v", p.i, k.greet.Epoch.Number, err)
		k.answered(greeting, err)
		return
	}
	switch {
	case out.Record != nil && k.greet.Epoch == greeting.Held:
		p.gateHandled = 0
	case out.Record != nil:
		p.fenceGate(k.greet.Epoch)
	}
	if p.conn != nil {
		p.endStream()
	}
	p.failGreets()
	p.greets = append(p.greets, heldGreet{greeting, k})
	if out.Record != nil {
		if k.greet.Outside {
			p.w.reach(reachMarked)
		}
		p.w.tracef("P%d is fenced by epoch %d, not durable yet: held %d, handled %v, W %v, knows %s", p.i, k.greet.Epoch.Number, greeting.Held.Number, greeting.Position, greeting.W, knownWords(greeting.Known))
		p.votes, p.entries, p.durable, p.held = nil, nil, 0, false
		if err := p.effects(&out); err != nil {
			p.fail(err)
			return
		}
		lsn, err := p.j.append([][]byte{out.Record}, true)
		if err != nil {
			p.fail(err)
			return
		}
		p.end, p.fence, p.sealed = lsn, lsn, false
		if p.w.broken == fenceInMemory {
			p.answerGreets()
		}
		return
	}
	if p.fence <= p.j.synced {
		p.answerGreets()
	}
}

// answerGreets mirrors Participant.answerGreets (P10).
func (p *member) answerGreets() {
	for _, g := range p.greets {
		p.conn = g.conn
		if p.kept == nil {
			p.fences[g.conn.greet.Epoch.Number] = true
		}
		g.conn.answered(g.greeting, nil)
		waits := map[wire.ID]bool{}
		for _, v := range p.votes {
			waits[v.vote.Tx] = true
		}
		var again []wire.Vote
		for _, v := range p.m.Revotes() {
			if !waits[v.Tx] {
				again = append(again, v)
			}
		}
		p.w.tracef("P%d answers the greeting of epoch %d: handled %v", p.i, g.conn.greet.Epoch.Number, g.greeting.Position)
		if p.w.broken != noRevote {
			p.post(again)
		}
	}
	p.greets = nil
}

func (k *conn) answered(g wire.Greeting, err error) {
	if k.cut {
		return
	}
	if k.w.encode {
		g = transmit(g)
	}
	k.answer = &greetAnswer{g, err, k.member.kept != nil}
}

func (p *member) failGreets() {
	for _, g := range p.greets {
		g.conn.breaks(false)
	}
	p.greets = nil
}

// loses forgets a greeting that will not arrive any more.
func (p *member) loses(k *conn) {
	p.incoming = slices.DeleteFunc(p.incoming, func(o *conn) bool { return o == k })
}

// endStream lets go of the stream: its connection ends.
func (p *member) endStream() {
	p.conn.ended = true
	p.conn.breaks(false)
	p.conn = nil
}

// handle mirrors handleEntries, for up to n messages.
func (p *member) handle(n int) {
	var batch []vote.Ready
	k := p.conn
	for ; n > 0 && len(k.down) > 0 && p.mayHandle(&k.down[0], len(batch) > 0); n-- {
		d := k.down[0]
		k.down = k.down[1:]
		r, err := p.step(&d)
		if err == nil {
			err = p.effects(&r)
		}
		if err != nil {
			p.refuse(err, batch)
			return
		}
		p.reached()
		if r.Record != nil {
			batch = append(batch, r)
		}
	}
	p.append(batch)
	p.maybeCheckpoint()
}

// mayHandle mirrors Participant.mayHandle (S3).
func (p *member) mayHandle(d *wire.Down, behind bool) bool {
	p.held = false
	if d.Entry == nil || d.Entry.Kind != wire.EntryPrepare {
		return true
	}
	if !p.store.TableFull() {
		p.heldSince = 0
		return true
	}
	if p.heldSince == 0 {
		p.heldSince = p.freezes + 1
	}
	if p.freezes >= p.heldSince || p.end == p.frozenAt && !behind {
		p.heldSince = 0
		return true
	}
	p.held = true
	return false
}

func (p *member) step(d *wire.Down) (vote.Ready, error) {
	if d.Entry == nil {
		return p.m.Heartbeat(d.W, d.ServiceTime)
	}
	r, err := p.m.Handle(d.Entry)
	if err == nil {
		p.w.voted(d.Entry, &r)
		p.w.tracef("P%d handles %s%s", p.i, entryWords(p.m.Fence().Number, d.Entry), readyWords(&r))
	}
	return r, err
}

// effects mirrors Participant.effects.
func (p *member) effects(r *vote.Ready) error {
	if err := applyTo(p.store, r); err != nil {
		return &vote.ViewError{Err: err}
	}
	p.w.decided(p, r)
	if r.Opened {
		p.startSweep()
	}
	return nil
}

// applyTo mirrors the function of package participant.
func applyTo(s *store.Store, out *vote.Ready) error {
	switch {
	case out.Commit != nil:
		return s.Apply(out.Commit, out.Position)
	case out.Abort != nil:
		s.Abort(out.Abort)
	case len(out.Discard) > 0:
		for _, tx := range out.Discard {
			s.Abort(tx)
		}
	case out.Bootstrap != nil:
		return s.Bootstrap(*out.Bootstrap, out.Position)
	}
	return s.Failed()
}

// append mirrors Participant.append.
func (p *member) append(batch []vote.Ready) {
	if len(batch) == 0 || p.fatal != nil {
		return
	}
	records, force := make([][]byte, len(batch)), false
	for i := range batch {
		records[i] = batch[i].Record
		force = force || batch[i].Force
	}
	last, err := p.j.append(records, force)
	if err != nil {
		p.fail(err)
		return
	}
	p.end, p.sealed = last, false
	var now []wire.Vote
	for i := range batch {
		r, lsn := &batch[i], last-journal.LSN(len(batch)-1-i)
		now = append(now, r.Send...)
		for _, v := range r.SendAfterSync {
			if p.w.broken == voteBeforeSync {
				now = append(now, v)
				continue
			}
			p.votes = append(p.votes, heldVote{lsn, v})
		}
		p.entries = append(p.entries, handledEntry{lsn, r.Position.Index})
	}
	p.gateHandled = max(p.gateHandled, p.m.Position().Index)
	if len(now) > 0 {
		p.post(now)
	}
}

// refuse mirrors Participant.refuse. No coordinator here breaks the protocol:
// a refusal is a fault of ours.
func (p *member) refuse(err error, batch []vote.Ready) {
	var unreadable *vote.ViewError
	if wire.CodeOf(err) != wire.CodeProtocol || errors.As(err, &unreadable) {
		p.fail(err)
		return
	}
	p.append(batch)
	if p.lossy {
		p.w.loserNamed()
	} else {
		p.w.violate("protocol", "P%d refuses the stream of epoch %d: %v", p.i, p.m.Fence().Number, err)
	}
	p.endStream()
}

func (p *member) post(votes []wire.Vote) {
	if p.conn != nil {
		durable := p.durable
		if p.w.broken == durableIsHandled {
			durable = p.m.Position().Index
		}
		p.conn.post(wire.Up{Votes: votes, Handled: p.m.Position().Index, Durable: durable, Free: 1 << 20})
	}
}

// synced mirrors handleSynced: lets out what waited for a sync (P2).
func (p *member) synced() {
	upTo, err := p.j.take()
	var full *journal.FullError
	if err != nil && !errors.As(err, &full) {
		p.fail(err)
		return
	}
	var votes []wire.Vote
	n := 0
	for ; n < len(p.votes) && p.votes[n].lsn <= upTo; n++ {
		votes = append(votes, p.votes[n].vote)
	}
	p.votes = p.votes[n:]
	for n = 0; n < len(p.entries) && p.entries[n].lsn <= upTo; n++ {
		p.durable = max(p.durable, p.entries[n].index)
	}
	p.entries = p.entries[n:]
	p.w.tracef("P%d is durable to %d of epoch %d, votes YES on %s", p.i, p.durable, p.m.Fence().Number, votesWords(votes))
	if n > 0 || len(votes) > 0 {
		p.post(votes)
	}
	if p.fence <= upTo {
		p.answerGreets()
	}
	p.maybeCheckpoint()
}

// quiet mirrors handleQuiet: the timer for lazy records (J2) and the seal (J3).
func (p *member) quiet() {
	switch {
	case p.j.synced < p.quietMark:
		p.j.forceLazy()
		p.quietMark = p.end
	case p.j.synced < p.end:
		p.quietMark = p.end
	case !p.sealed:
		p.sealed = true
		if err := p.j.sealIdle(); err != nil {
			p.fail(err)
		}
	}
}

func (p *member) needsQuiet() bool {
	return p.w.broken != lazyWaits && (p.j.synced < p.end || !p.sealed)
}

func (p *member) beat() {
	p.post(nil)
	p.maybeCheckpoint()
}

// maybeCheckpoint mirrors the function of the owner (S3).
func (p *member) maybeCheckpoint() {
	if p.ck != nil || p.fatal != nil || p.end == p.frozenAt {
		return
	}
	stats := p.j.log.Stats()
	grown := stats.StoredBytes - p.stored + p.carried
	noSpare := stats.SpareError != "" && stats.Segments > 1
	if p.heldSince != 0 || noSpare || p.store.NeedCheckpoint() || grown >= uint64(p.w.segments-1)*uint64(stats.SegmentBytes) {
		p.freeze()
	}
}

// maybeFreeze begins a checkpoint before its time, if there can be one.
func (p *member) maybeFreeze() {
	if p.up && p.ck == nil && p.fatal == nil && p.end > p.frozenAt {
		p.freeze()
	}
}

// freeze mirrors startCheckpoint; the disk work is a task.
func (p *member) freeze() {
	at := p.end
	ck, err := p.store.Freeze(at, p.m.Snapshot())
	if err != nil {
		p.fail(err)
		return
	}
	p.w.tracef("P%d begins a checkpoint at record %d", p.i, at)
	p.runCheckpoint(ck)
}

// runCheckpoint mirrors the function.
func (p *member) runCheckpoint(ck *store.Checkpoint) {
	at := p.end
	p.frozenAt, p.carried = at, 0
	p.freezes++
	p.stored = p.j.log.Stats().StoredBytes
	p.ckDone, p.ckErr = false, nil
	p.ck = p.start("checkpoint", func(t *task) {
		p.ckErr = ck.Run(func() error { return p.syncJournal(t, at) })
		p.ckDone = true
	})
}

var errEnded = errors.New("the process has ended")

// syncJournal mirrors Participant.syncJournal: others make it durable.
func (p *member) syncJournal(t *task, at journal.LSN) error {
	for p.w.broken != checkpointBeforeJournal && p.j.synced < at {
		if p.j.err != nil {
			return p.j.err
		}
		p.j.forceLazy()
		if !t.wait() {
			return errEnded
		}
	}
	return nil
}

// checkpointLetsGo is where somebody would wait for the checkpoint, which
// writes to an object: it goes on first.
func (p *member) checkpointLetsGo() {
	who := p.current
	p.ck.run(1)
	p.current = who
}

// checkpointGoesOn mirrors handleCheckpoint when the task is done.
func (p *member) checkpointGoesOn(n int) {
	p.ck.run(n)
	if !p.ckDone {
		return
	}
	p.ck = nil
	if p.ckErr != nil {
		p.fail(p.ckErr)
		return
	}
	p.w.reach(reachCheckpointEnd)
	p.w.tracef("P%d has a checkpoint at record %d", p.i, p.frozenAt)
	if err := p.j.cutBelow(p.frozenAt + 1); err != nil {
		p.fail(err)
		return
	}
	p.checkpointed()
}

// startSweep mirrors Participant.sweep, but for the one before: that is run to its end
// here, and there keeps the rest and is followed, while the owner goes on.
func (p *member) startSweep() {
	if p.sweep != nil {
		p.sweep.run(-1)
	}
	epoch, keep := p.m.Fence().Number, p.m.Stages()
	if p.w.broken == sweepAll {
		epoch, keep = 1<<30, nil
	}
	p.sweep = p.start("sweep", func(t *task) {
		err := p.store.Sweep(func(id wire.ID) bool {
			if id.Epoch() >= epoch || keep[id] {
				return true
			}
			if !t.over { // what the owner does meanwhile
				t.yield(struct{}{})
			}
			return false
		})
		p.storeError(err)
	})
}

// storeError mirrors Participant.storeError (P12, S1).
func (p *member) storeError(err error) {
	if err != nil && (p.store.Failed() != nil || p.store.Damaged() != "") {
		p.fail(err)
	}
}

// fenceGate mirrors gate.fence: older reads are refused.
func (p *member) fenceGate(e wire.Epoch) {
	p.gateEpoch, p.gateHandled = e, 0
}

// gateOpen mirrors gate.wait: passes, waits, or is refused.
func (p *member) gateOpen(e wire.Epoch, index uint64) (bool, error) {
	switch {
	case e != p.gateEpoch:
		return true, &wire.Error{Code: wire.CodeStaleEpoch, Text: fmt.Sprintf("epoch %d is not the one that holds, %d", e.Number, p.gateEpoch.Number)}
	case p.gateHandled >= index, p.w.broken == readAtOnce:
		return true, nil
	}
	return false, nil
}

// dropStages mirrors Participant.Unstage.
func (p *member) dropStages(e wire.Epoch, ids []wire.ID) bool {
	if e != p.gateEpoch {
		return false
	}
	var free []wire.ID
	for _, id := range ids {
		if !p.m.Consumes(id) {
			free = append(free, id)
		}
	}
	p.store.Unstage(free)
	return p.store.Failed() == nil
}
