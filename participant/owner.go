package participant

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"tpcfs/journal"
	"tpcfs/participant/vote"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// batchEntries is how many entries are handled before the owner looks at what
// else there is; their records are appended together.
const batchEntries = 64

// owner is what belongs to the owner alone, whichever goroutine that is (inbox).
type owner struct {
	m        *vote.Machine
	stream   *stream // nil: none
	quitting bool    // Close was called
	spare    []func()

	votes      []heldVote     // wait for the sync of their record; by LSN
	entries    []handledEntry // of this epoch, not known to be durable; by LSN
	durable    uint64         // index of the last entry of this epoch that is durable
	end        journal.LSN    // last record appended
	fence      journal.LSN    // the record of the epoch that holds
	greets     []heldGreeting // wait for the fence to be durable
	greeted    uint64         // the number of this epoch's last greeting
	free       uint64         // bytes left to files, as of the last heartbeat
	beat       *time.Ticker   // heartbeats are due
	fatal      error          // why the participant ends (P12)
	full       bool           // the journal has found no room, and that was logged
	quiet      *time.Timer
	quietArmed bool
	quietMark  journal.LSN // last record when the timer was armed
	sealed     bool        // the idle journal's last block is promised (J3)

	freezes    uint64 // checkpoints begun
	running    bool   // a checkpoint is under way
	checkpoint chan error
	frozenAt   journal.LSN // of the last checkpoint begun
	stored     uint64      // journal bytes written when it began
	carried    uint64      // journal bytes that the start found, until a checkpoint has passed them
	held       bool        // a PREPARE waits
	heldSince  uint64      // ... for the table: until as many checkpoints have begun; 0: not
	sweeping   chan struct{}
	sweepEnded *atomic.Bool
	resync     resyncing
	moments    []*momentWaiter
}

type heldVote struct {
	lsn  journal.LSN
	vote wire.Vote
}

type handledEntry struct {
	lsn   journal.LSN
	index uint64
}

type heldGreeting struct {
	greeting wire.Greeting
	stream   *stream
	reply    chan greetReply
}

func newOwner(m *vote.Machine, position wire.Position, stats journal.Stats, beat time.Duration) owner {
	o := owner{m: m, durable: position.Index, end: stats.End, fence: stats.End, frozenAt: 0, checkpoint: make(chan error, 1),
		carried: uint64(max(0, stats.Segments-1)) * uint64(stats.SegmentBytes)}
	o.beat = time.NewTicker(beat)
	o.quiet = time.NewTimer(time.Hour)
	o.quiet.Stop()
	return o
}

// fail ends the participant: nothing more is voted or answered (P12).
func (p *Participant) fail(err error) {
	if p.fatal == nil {
		p.fatal = err
		p.log.Info("the participant ends", "dir", p.o.Dir, "error", err)
	}
}

// handleEntries takes a batch off the stream. Each entry's effects are in the
// store before the next one is looked at; the records of all go to the journal
// in one append.
func (p *Participant) handleEntries() {
	var batch []vote.Ready
	var size int
	s := p.stream
	if s == nil {
		return
	}
	more := true // the batch's bound ended it, not the queue
	for len(batch) < batchEntries && size < journal.MaxRecord {
		var d wire.Down
		if d, more = s.next(func(d *wire.Down) bool { return p.mayHandle(d, len(batch) > 0) }); !more {
			break
		}
		r, err := p.step(&d)
		if err == nil {
			err = p.effects(&r)
		}
		if err != nil {
			p.refuse(s, err, batch)
			return
		}
		p.reached()
		if r.Record != nil {
			batch = append(batch, r)
			size += len(r.Record)
		}
	}
	p.append(batch)
	if more {
		p.again()
	}
	p.maybeCheckpoint()
}

// again has the owner look at the stream in another turn.
func (p *Participant) again() { p.inbox.put(dueEntries, nil) }

// mayHandle holds a PREPARE back while the table or the journal is full (S3);
// decisions go on. Once a checkpoint has emptied the table, only what is
// promised can fill it, and for that to be decided the stream has to go on.
// behind: others stand before it in its batch, which no checkpoint has seen.
func (p *Participant) mayHandle(d *wire.Down, behind bool) bool {
	p.held = false
	if d.Entry == nil || d.Entry.Kind != wire.EntryPrepare {
		return true
	}
	if !p.writer.Room() {
		p.held = true // handleSynced looks again
		return false
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
	p.held = true // handleCheckpoint looks again
	return false
}

func (p *Participant) step(d *wire.Down) (vote.Ready, error) {
	if d.Entry == nil {
		return p.m.Heartbeat(d.W, d.ServiceTime)
	}
	r, err := p.m.Handle(d.Entry)
	if err == nil && len(r.SendAfterSync) > 0 {
		failpoint.At("participant.prepare")
	}
	return r, err
}

func (p *Participant) effects(r *vote.Ready) error {
	if r.Commit != nil || r.Abort != nil {
		failpoint.At("participant.commit")
	}
	if err := applyTo(p.store, r); err != nil {
		return &vote.ViewError{Err: err}
	}
	if r.Commit != nil {
		failpoint.At("participant.applied")
	}
	if r.Opened {
		p.sweep()
	}
	return nil
}

// append gives a batch's records to the journal, lets the votes leave that
// need no sync, and those who wait for its positions read.
func (p *Participant) append(batch []vote.Ready) {
	if len(batch) == 0 || p.fatal != nil {
		return
	}
	records, force := make([][]byte, len(batch)), false
	for i := range batch {
		records[i] = batch[i].Record
		force = force || batch[i].Force
	}
	last, err := p.writer.Append(records, force)
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
			p.votes = append(p.votes, heldVote{lsn, v})
		}
		p.entries = append(p.entries, handledEntry{lsn, r.Position.Index})
	}
	p.gate.advance(p.m.Position().Index)
	if len(now) > 0 {
		p.post(now)
	}
	p.armQuiet()
}

// refuse ends the stream of a coordinator that breaks the protocol, after the
// entries before that; any other error ends the participant at once.
func (p *Participant) refuse(s *stream, err error, batch []vote.Ready) {
	var unreadable *vote.ViewError
	if wire.CodeOf(err) != wire.CodeProtocol || errors.As(err, &unreadable) {
		p.fail(err)
		return
	}
	p.append(batch)
	p.log.Error("the coordinator's stream is refused", "epoch", s.epoch.Number, "error", err)
	s.end(err)
	p.stream = nil
}

// post sends votes, and how far the stream is handled and durable.
func (p *Participant) post(votes []wire.Vote) {
	if p.stream != nil {
		p.stream.post(wire.Up{Votes: votes, Handled: p.m.Position().Index, Durable: p.durable, Free: p.free})
	}
}

// handleSynced lets out what waited for a sync: one message (P2).
func (p *Participant) handleSynced() {
	upTo, err := p.takeSynced()
	var full *journal.FullError
	switch {
	case errors.As(err, &full): // handleQuiet tries again
		if !p.full {
			p.log.Error("the disk has no room for the journal; votes wait until there is some", "dir", p.o.Dir, "error", err)
		}
		p.full = true
	case err != nil:
		p.fail(err)
		return
	default:
		p.full = false
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
	if n > 0 || len(votes) > 0 {
		if len(votes) > 0 {
			failpoint.At("participant.prepare-synced")
		}
		p.post(votes)
		if len(votes) > 0 {
			failpoint.At("participant.voted")
		}
	}
	if p.fence <= upTo {
		p.answerGreets()
	}
	if p.held {
		p.again()
	}
	p.maybeCheckpoint()
}

// armQuiet sees to it that lazy records do not wait for company for long (J2).
func (p *Participant) armQuiet() {
	if !p.quietArmed {
		p.quietArmed, p.quietMark = true, p.end
		p.quiet.Reset(p.o.QuietForce)
	}
}

func (p *Participant) handleQuiet() {
	p.quietArmed = false
	synced := p.peekSynced()
	switch {
	case synced < p.quietMark:
		p.writer.Force()
		p.armQuiet()
	case synced < p.end:
		p.armQuiet()
	case !p.sealed: // idle: from now on its last block cannot go unnoticed (J3)
		p.sealed = true
		if err := p.writer.Seal(); err != nil {
			p.fail(err)
		}
	}
}

func (p *Participant) peekSynced() journal.LSN {
	p.syncMu.Lock()
	defer p.syncMu.Unlock()
	return p.synced
}

// leastBeat bounds how often a coordinator may want to hear something.
const leastBeat = 10 * time.Millisecond

// setBeat is told how often the coordinator that has greeted wants to hear
// something: who is silent for six times as long is given up (P8).
func (p *Participant) setBeat(ms int64) {
	if d := time.Duration(ms) * time.Millisecond; ms > 0 && ms < time.Hour.Milliseconds() {
		p.beat.Reset(min(p.o.Heartbeat, max(d, leastBeat)))
	}
}

func (p *Participant) handleBeat() {
	p.free = p.store.Stats().Free
	p.post(nil)
	p.maybeCheckpoint()
}

// teardown closes everything, in an order that keeps P12: after a failure
// nothing is voted or answered.
func (p *Participant) teardown() {
	var reason error = errStopping
	if p.fatal != nil {
		reason = &wire.Error{Code: wire.CodeUnavailable, Text: "the participant has ended: " + p.fatal.Error()}
	}
	p.inbox.close()
	close(p.stopping)
	p.gate.close(reason)
	if p.stream != nil {
		p.stream.end(reason)
	}
	p.failGreets(reason)
	for _, greet := range p.resync.greets {
		greet(reason)
	}
	p.resync.greets = nil
	p.useMu.Lock()
	p.over = true
	p.useMu.Unlock()
	p.users.Wait()
	if p.running {
		p.handleCheckpoint(<-p.checkpoint)
	}
	if p.sweeping != nil {
		<-p.sweeping
	}
	if p.fatal == nil {
		p.lastCheckpoint()
	}
	p.runs.Wait()
	err := errors.Join(p.writer.Close(), p.store.Close())
	if p.fatal == nil {
		p.fatal = err
	}
	p.reason = p.fatal
}

// quickCheckpoint is the size of the tables, in bytes, up to which Close makes
// a checkpoint, so that the next start has nothing to replay.
const quickCheckpoint = 4 << 20

func (p *Participant) lastCheckpoint() {
	if err := p.writer.Sync(context.Background()); err != nil {
		p.fail(err)
		return
	}
	if p.end > p.frozenAt && p.store.Stats().TableBytes <= quickCheckpoint {
		p.startCheckpoint()
		if p.running {
			p.handleCheckpoint(<-p.checkpoint)
		}
	}
}

// maybeCheckpoint starts one when the table is half full or the journal has
// grown by some segments (S3).
func (p *Participant) maybeCheckpoint() {
	if p.running || p.fatal != nil || p.end == p.frozenAt {
		return
	}
	stats := p.writer.Stats()
	grown := stats.StoredBytes - p.stored + p.carried
	noSpare := stats.SpareError != "" && stats.Segments > 1 // what is cut becomes one
	if p.heldSince != 0 || noSpare || p.store.NeedCheckpoint() || grown >= uint64(p.o.CheckpointSegments-1)*uint64(stats.SegmentBytes) {
		p.startCheckpoint()
	}
}

// startCheckpoint freezes the table with the machine's state as of the last
// record appended, and leaves the disk work to another goroutine.
func (p *Participant) startCheckpoint() {
	ck, err := p.store.Freeze(p.end, p.m.Snapshot())
	if err != nil {
		p.fail(err)
		return
	}
	p.runCheckpoint(ck)
}

// syncJournal waits until the journal is durable; a full disk is waited for.
func (p *Participant) syncJournal() error {
	for {
		err := p.writer.Sync(context.Background())
		var full *journal.FullError
		if !errors.As(err, &full) {
			return err
		}
		select {
		case <-p.quit:
			return err
		case <-time.After(time.Second):
		}
	}
}

// takeCheckpoint handles the end of a checkpoint.
func (p *Participant) takeCheckpoint() {
	select {
	case err := <-p.checkpoint:
		p.handleCheckpoint(err)
	default:
	}
}

func (p *Participant) handleCheckpoint(err error) {
	p.running = false
	if err != nil {
		p.fail(err)
		return
	}
	failpoint.At("participant.cut")
	if err := p.writer.Cut(p.frozenAt + 1); err != nil {
		p.fail(err)
		return
	}
	p.checkpointed()
	if p.held {
		p.again()
	}
}

// sweep removes what older epochs have left behind: now that their
// transactions are decided, nobody can name it any more. This epoch's stages
// may still be named by prepares to come. With many objects that takes long, also
// what a start begins with: an OPEN waits for no sweep. It has the one before keep the
// rest (sweepEnded), since its own, which follows, looks at all.
func (p *Participant) sweep() {
	before, ended := p.sweeping, p.sweepEnded
	if before != nil {
		ended.Store(true)
	}
	epoch := p.m.Fence().Number
	keep := p.m.Stages()
	done, over := make(chan struct{}), new(atomic.Bool)
	p.sweeping, p.sweepEnded = done, over
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		err := p.store.Sweep(func(id wire.ID) bool { return id.Epoch() >= epoch || keep[id] || over.Load() })
		if err != nil {
			p.log.Warn("cannot sweep what is left of old stages", "dir", p.o.Dir, "error", p.storeError(err))
		}
	}()
}
