package sim

import (
	"errors"
	"slices"

	"tpcfs/coordinator/commit"
	"tpcfs/coordinator/scrub"
	"tpcfs/journal"
	"tpcfs/wire"
)

// reign is a coordinator's process. It mirrors coordinator.Coordinator.
type reign struct {
	w      *world
	host   *host
	epoch  wire.Epoch
	m      *commit.Machine
	j      *writer
	zombie bool // a newer one runs on its disk; it does not know
	// suspect: it was started on a restored backup. beyond: before it was
	// started, a participant had answered a greeting of its epoch or a later
	// one, or all had a config that its journal does not.
	suspect, beyond bool
	blames          map[string]bool // the participants that it has reason to name

	conns   []*conn // by member; nil: none
	leaving []*conn // given up, and their catching up is not over
	inbox   []*attempt
	delayed []*attempt   // of links that are gone, still on their way
	orphans []*attempt   // whose client has gone
	stages  []*stageJob  // complete at all members, or failed
	late    []*conn      // given up, with messages that have come by them
	asks    []*watchCall // Watches on their way (mounts.go)
	unasked []*watchCall // ... that nobody waits for
	behind  int64        // by so many milliseconds its ticks are behind
	telling *conn        // to one that was removed (operator.go)
	closing bool
	over    bool // the process has ended

	// listing is what it wants to read of files without a name; listed has come.
	listing *wire.Read
	listed  *wire.ReadReply

	repairs repairs

	// scrub.go
	book     scrub.Book
	scrub    *scrubRun // the last one
	held     []bool    // by member: it is not dialed
	keeping  bool      // the book is written down
	bookTask *task

	inSync []bool // as the machine was last seen

	gathered bool // a turn has begun and is not over
	ticked   bool // ... with a tick in it

	// readPoint is stored before the replies of the same turn are given (P5).
	readPoint uint64

	// ledger.go
	waiting  []waiting
	snapshot journal.LSN
	seen     journal.LSN
	unsynced int
}

type waiting struct {
	lsn  journal.LSN
	done func()
}

// turn mirrors one round of the owner: what happened, then what follows from
// it; or what follows comes later, with what else happens until then.
func (c *reign) turn(what func()) {
	c.m.Clock(c.w.wall())
	what()
	c.gathered = c.w.gathers && c.m.Stopped() == nil && c.w.chance(3)
	if !c.gathered {
		c.endTurn()
	}
}

func (c *reign) endTurn() {
	c.gathered = false
	if c.ticked && c.w.broken == snapshotEarly {
		c.ledgerTick()
	}
	c.carryOut(c.m.Ready())
	if c.ticked && c.w.broken != snapshotEarly {
		c.ledgerTick()
	}
	c.ticked = false
	c.w.membership(c)
	switch {
	case c.over:
	case c.m.Stopped() != nil:
		c.end(c.m.Stopped())
	case c.closing && c.m.Settled():
		c.finish()
	}
}

// finish mirrors the end of a shutdown: everybody is answered, the journal closed.
func (c *reign) finish() {
	if c.bookTask != nil && !c.zombie {
		c.bookTask.run(-1)
	}
	c.m.Halt(wire.NewError(wire.CodeUnavailable, "it was shut down"))
	c.carryOut(c.m.Ready())
	if !c.zombie {
		c.j.forceLazy()
		c.j.work(-1)
		if c.j.flush == nil && c.j.err == nil {
			_ = c.j.log.Close() // its failures leave what a crash does
		}
	}
	c.end(nil)
}

// silent: is its process stopped in its tracks?
func (c *reign) silent() bool { return !c.zombie && c.host.silent }

// end ends the process; why is nil when it was told to.
func (c *reign) end(why *wire.Error) {
	if c.over {
		return
	}
	c.over = true
	c.breakAll()
	c.w.reignEnded(c, why)
}

// breakAll is what others see of the process's end.
func (c *reign) breakAll() {
	for i, k := range c.conns {
		if k != nil {
			k.breaks(false)
			c.conns[i] = nil
		}
	}
	for _, cl := range c.w.clients {
		if cl.c == c {
			cl.linkLost()
		}
	}
	c.inbox, c.delayed, c.orphans, c.stages, c.asks, c.unasked = nil, nil, nil, nil, nil, nil
	if c.telling != nil {
		c.telling.breaks(false)
		c.telling = nil
	}
}

// carryOut mirrors Coordinator.carryOut: sends, then replies, then records.
func (c *reign) carryOut(rd commit.Ready) {
	if rd.Stop != nil {
		c.w.tracef("C%d stops: %v", c.epoch.Number, rd.Stop)
	}
	if c.w.broken != replyBeforePut || len(rd.Replies) == 0 {
		c.readPoint = c.m.ReadPoint()
	}
	for i := range rd.Sends {
		s := &rd.Sends[i]
		if k := c.conns[s.Member]; k != nil && k.number == s.Link {
			k.send(s.Down)
		}
	}
	c.lookAround()
	c.reply(rd.Replies)
	c.watched(rd.Watched)
	c.journal(rd.Records)
	c.edited(rd.Edited)
	for _, d := range rd.Drop {
		if d.Err == nil { // it is out
			if k := c.conns[d.Member]; k != nil && k.number == d.Link {
				k.breaks(false)
			}
			continue
		}
		if c.w.members[d.Member].lossy {
			c.w.loserNamed()
		} else {
			c.w.violate("protocol", "C%d drops P%d's link: %v", c.epoch.Number, d.Member, d.Err)
		}
		if k := c.conns[d.Member]; k != nil && k.number == d.Link {
			k.breaks(false)
		}
	}
	if c.m.Stopped() == nil {
		for _, u := range rd.Unstage {
			if k := c.conns[u.Member]; k != nil && k.number == u.Link && !k.cut {
				k.drops = append(k.drops, slices.Sorted(slices.Values(u.IDs))...)
			}
		}
	}
	if rd.ListOrphans != nil {
		c.listing = rd.ListOrphans
	}
	if rd.Serving {
		c.w.tracef("C%d serves", c.epoch.Number)
		c.w.serves(c)
	}
}

// lookAround mirrors the function: a link of a newcomer that was let in is like
// any other.
func (c *reign) lookAround() {
	if c.m.Stopped() != nil {
		return
	}
	for i, was := range c.inSync {
		in := c.inSyncAt(i)
		if c.inSync[i] = in; in == was {
			continue
		}
		c.w.tracef("C%d: P%d is %s", c.epoch.Number, i, map[bool]string{true: "in sync again", false: "EVICTED"}[in])
		if !in {
			c.w.reach(reachEvicted)
			if c.has(i) && c.m.WasSlow(i) {
				c.w.reach(reachSlow)
			}
			continue
		}
		c.w.reach(reachBack)
		if k := c.conns[i]; k != nil {
			k.outside = false
		}
	}
}

func (c *reign) reply(replies []commit.Reply) {
	// The machine looks at its transactions in the order of a map here and there.
	slices.SortFunc(replies, func(a, b commit.Reply) int {
		return a.Request.Token.(*attempt).number - b.Request.Token.(*attempt).number
	})
	for _, r := range replies {
		a := r.Request.Token.(*attempt)
		if a.answer == nil {
			a.answered(r)
		}
	}
}

// journal mirrors Coordinator.journal: CONFIG through the authority, the rest lazily.
func (c *reign) journal(records []*commit.Record) {
	if c.m.Stopped() != nil || len(records) == 0 {
		return
	}
	var leases []*commit.Record
	records = slices.DeleteFunc(records, func(r *commit.Record) bool {
		if r.Kind == commit.RecLease {
			leases = append(leases, r)
		}
		return r.Kind == commit.RecLease
	})
	for len(records) > 0 {
		n := slices.IndexFunc(records, func(r *commit.Record) bool { return r.Kind == commit.RecConfig }) + 1
		if n == 0 {
			n = len(records)
		}
		if err := c.append(records[:n]); err != nil {
			c.journalProblem(err)
			return
		}
		records = records[n:]
	}
	if err := c.lease(leases); err != nil {
		c.journalProblem(err)
	}
}

// lease mirrors ledger.lease.
func (c *reign) lease(records []*commit.Record) error {
	for _, r := range records {
		begins := !r.Lease.Ended
		lsn, err := c.j.append([][]byte{r.Encode()}, begins)
		if err != nil {
			return err
		}
		if begins {
			c.waiting = append(c.waiting, waiting{lsn, func() { c.m.LeaseJournaled(r.Lease) }})
		}
	}
	return nil
}

// append appends records, of which the last may be a CONFIG.
func (c *reign) append(records []*commit.Record) error {
	list := make([][]byte, len(records))
	force := false
	for i, r := range records {
		list[i] = r.Encode()
		force = force || r.Kind.Forced()
	}
	lsn, err := c.j.append(list, force)
	if last := records[len(records)-1]; err == nil && last.Kind == commit.RecConfig {
		c.waiting = append(c.waiting, waiting{lsn, func() {
			c.w.configured(c)
			c.m.Journaled(last.Config.ID)
		}})
	}
	return err
}

// journalProblem mirrors the function of the owner (P12).
func (c *reign) journalProblem(err error) {
	var full *journal.FullError
	switch {
	case err == nil:
		c.m.JournalFull(false)
	case errors.As(err, &full):
		c.m.JournalFull(true)
	default:
		c.m.Halt(&wire.Error{Code: wire.CodeIO, Text: "the coordinator's journal has failed: " + err.Error()})
	}
}

// synced mirrors what ledger.run posts.
func (c *reign) synced() {
	upTo, err := c.j.take()
	c.turn(func() {
		for len(c.waiting) > 0 && c.waiting[0].lsn <= upTo {
			done := c.waiting[0].done
			c.waiting = c.waiting[1:]
			done()
		}
		c.journalProblem(err)
	})
}

// tick mirrors Coordinator.tick; tickLedger comes at the end of the turn, when
// its records are in the journal.
func (c *reign) tick(ms int64) {
	c.turn(func() {
		c.m.Tick(ms + c.behind)
		c.behind = 0
		c.listUnnamed()
		c.ticked = true
	})
}

// ledgerTick mirrors Coordinator.tickLedger.
func (c *reign) ledgerTick() {
	if c.over || c.m.Stopped() != nil {
		return
	}
	if err := c.tickJournal(); err != nil {
		c.journalProblem(err)
	}
}

// tickJournal mirrors ledger.tick: lazy records, and a new segment in time (P13).
func (c *reign) tickJournal() error {
	if c.j.segmentFull() && c.snapshot <= c.j.synced {
		lsn, err := c.j.appendHead(c.m.Snapshot().Encode())
		if err != nil {
			return err
		}
		c.snapshot = lsn
		c.waiting = append(c.waiting, waiting{lsn, func() { _ = c.j.cutBelow(lsn) }})
		return nil
	}
	if c.j.synced == c.j.end {
		c.unsynced = 0
		return c.j.sealIdle()
	}
	if c.unsynced++; c.j.end == c.seen || c.unsynced >= 5 {
		c.unsynced = 0
		c.j.forceLazy()
	}
	c.seen = c.j.end
	return nil
}

// dial mirrors the beginning of Coordinator.visit: a greeting goes out.
func (c *reign) dial(p *member) {
	k := &conn{w: c.w, c: c, member: p, greet: c.m.Greet(p.i)}
	k.outside = k.greet.Outside
	if c.w.encode {
		k.greet = transmit(k.greet)
	}
	c.conns[p.i] = k
	p.incoming = append(p.incoming, k)
}

// receive takes what has come from a member: the answer to the greeting
// (welcome, greetFailed), then up to n messages of the stream (converse).
func (c *reign) receive(i, n int) {
	k := c.conns[i]
	if a := k.answer; a != nil {
		k.answer = nil
		c.turn(func() { c.greeted(k, a) })
		return
	}
	c.turn(func() {
		for ; n > 0 && len(k.up) > 0; n-- {
			up := k.up[0]
			k.up = k.up[1:]
			if len(up.Votes) > 0 || up.Durable != k.told {
				c.w.tracef("C%d hears from P%d: %shandled %d, durable %d", c.epoch.Number, i, votesUp(up.Votes), up.Handled, up.Durable)
			}
			k.told = up.Durable
			c.m.Up(i, k.number, &up)
		}
	})
}

func (c *reign) greeted(k *conn, a *greetAnswer) {
	i := k.member.i
	if a.err != nil {
		c.conns[i] = nil
		k.breaks(false)
		var e *wire.Error
		if !errors.As(a.err, &e) {
			e = wire.NewError(wire.CodeIO, a.err.Error())
		}
		_ = c.m.Refused(i, e)
		return
	}
	known := c.m.Status().Config.Epoch != 0
	number, err := c.m.Greeted(i, a.greeting)
	if a.impostor && known {
		c.w.metImpostor(c, k.member)
	}
	if err != nil {
		c.w.tracef("C%d lets P%d go: %v", c.epoch.Number, i, err)
		if err.Code == wire.CodeCorrupt {
			c.w.unfit(c, k.member, err)
		}
	}
	if k.number = number; number == 0 {
		c.conns[i] = nil
		k.breaks(false)
		return
	}
	k.opened = true
	c.w.tracef("C%d has greeted P%d%s", c.epoch.Number, i, map[bool]string{true: ", which is out of sync"}[k.outside])
	if k.outside {
		c.beginRejoin(k)
	}
}

// refusing is when nobody answers at a member's address for long.
func (c *reign) refusing(i int) { c.turn(func() { c.m.Refusing(i) }) }

// givesUp mirrors what tick does to a link that is silent.
func (c *reign) givesUp(i int) {
	k := c.conns[i]
	c.w.tracef("C%d gives up the link of P%d", c.epoch.Number, i)
	c.w.disturb()
	k.breaks(false)
	k.gone, c.conns[i] = true, nil
	if k.catches() {
		c.leaving = append(c.leaving, k)
	}
	if len(k.up) > 0 {
		c.late = append(c.late, k)
	}
	c.turn(func() {
		c.m.LinkDown(i, k.number)
		c.m.Refusing(i)
	})
}

// mayDial: there is nobody left of the last link, and the machine lets it.
func (c *reign) mayDial(i int) bool {
	return c.has(i) && !c.held[i] && c.m.MayGreet(i) && c.m.Peer(i).Addr == c.w.members[i].at && !slices.ContainsFunc(c.leaving, func(k *conn) bool { return k.member.i == i && k.catches() })
}

// hearLate looks at a message of a link that was given up.
func (c *reign) hearLate() {
	k := c.late[0]
	up := k.up[0]
	if k.up = k.up[1:]; len(k.up) == 0 {
		c.late = c.late[1:]
	}
	c.turn(func() { c.m.Up(k.member.i, k.number, &up) })
}

// linkGone is when the coordinator notices that a link is gone. What has come by
// it may be looked at later yet.
func (c *reign) linkGone(i int) {
	k := c.conns[i]
	if k.gone = true; k.catches() { // visit waits for it
		return
	}
	c.conns[i] = nil
	if len(k.up) > 0 && k.opened {
		c.late = append(c.late, k)
	}
	if k.opened {
		c.turn(func() { c.m.LinkDown(i, k.number) })
	}
}

// submit takes a request off the network: mirrors Coordinator.Transact.
func (c *reign) submit(a *attempt) {
	c.turn(func() {
		if a.noticed { // its context is canceled: Transact returns at once
			return
		}
		a.submitted = true
		c.m.Submit(a.request)
	})
}

// cancel is when the coordinator notices that a client is gone.
func (c *reign) cancel(a *attempt) {
	a.noticed = true
	c.turn(func() {
		if a.answer == nil && a.submitted {
			c.m.Cancel(a.request)
		}
	})
}
