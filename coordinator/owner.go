package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// inbox is what is to be done with the machine, in order. There is one owner at
// a time: whoever posts while there is none becomes it, and does what is there on
// its own goroutine, since waking another one takes longer than all that is done.
// Its length is bounded by its users: requests by the sessions' limits, messages
// by the streams'.
type inbox struct {
	mu     sync.Mutex // guards the following; never held during a turn
	items  []func()
	ticked bool // the clock has gone on
	owned  bool // somebody is the owner
	closed bool
	// wake, of capacity 1, passes ownership on to the owner goroutine.
	wake chan struct{}
}

// open makes the owner goroutine the first owner: until it begins nothing is done.
func (b *inbox) open() {
	b.owned = true
	b.wake = make(chan struct{}, 1)
	b.wake <- struct{}{}
}

// post adds a function. owns: the caller has become the owner, and has to work.
// ok is false when the coordinator has ended.
func (b *inbox) post(f func()) (owns, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false, false
	}
	b.items = append(b.items, f)
	owns, b.owned = !b.owned, true
	return owns, true
}

// tick is post for what a tick does.
func (b *inbox) tick() (owns bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ticked = true
	owns, b.owned = !b.owned, true
	return owns
}

// take is the owner's: what is to be done in a turn. some is false when there is
// nothing, and then there is no owner any more. spare is used again.
func (b *inbox) take(spare []func()) (items []func(), ticked, some bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.items) == 0 && !b.ticked {
		b.owned = false
		return nil, false, false
	}
	items, ticked = b.items, b.ticked
	b.items, b.ticked = spare[:0], false
	return items, ticked, true
}

// keeps: the owner has more to do; else there is none any more.
func (b *inbox) keeps() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owned = len(b.items) > 0 || b.ticked
	return b.owned
}

// close returns what is left; nothing more is taken.
func (b *inbox) close() []func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.items
}

// crew is the coordinator's goroutines but the owner.
type crew struct {
	mu     sync.Mutex // guards closed, and the order of wg's Add and Wait
	closed bool
	wg     sync.WaitGroup
}

// start runs f in a goroutine of its own; false: the coordinator is ending.
func (w *crew) start(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.wg.Go(f)
	return true
}

// wait lets nobody start any more and waits for all.
func (w *crew) wait() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wg.Wait()
}

// notifier wakes all who wait for a change.
type notifier struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

// wait returns what the next notify closes. Look at the state after that.
func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}

// post hands the owner a function, which may run on the caller's goroutine before
// post returns: the caller holds no lock that a turn takes (of a link, a peer, the
// crew, a notifier, the repairer, the journal). false: the owner is gone.
func (c *Coordinator) post(f func()) bool {
	owns, ok := c.inbox.post(f)
	if owns && c.work(1) {
		c.inbox.wake <- struct{}{} // there is room: only the owner passes it on
	}
	return ok
}

// ask has the owner run f and waits for it; f may run later all the same when
// ctx ends first. false: it did not run yet, and perhaps never will.
func (c *Coordinator) ask(ctx context.Context, f func()) bool {
	ran := make(chan struct{})
	if !c.post(func() { f(); close(ran) }) {
		return false
	}
	select {
	case <-ran:
		return true
	case <-ctx.Done():
	case <-c.done:
	}
	select {
	case <-ran:
		return true
	default:
		return false
	}
}

// own is the owner goroutine: it keeps the clock, goes on with what others leave
// of their work, and ends the coordinator.
func (c *Coordinator) own() {
	tick := time.NewTicker(c.o.Tick)
	defer tick.Stop()
	var drain <-chan time.Time
	closing := c.closing
	for {
		owns := false
		select {
		case <-c.inbox.wake:
			owns = true
		case <-tick.C:
			owns = c.inbox.tick()
		case <-closing:
			closing = nil
			drain = time.After(c.o.DrainWait)
			owns, _ = c.inbox.post(func() { c.m.Shut(); c.shut = true })
		case <-drain:
			owns, _ = c.inbox.post(func() { c.drained = true })
		}
		if owns && c.work(math.MaxInt) {
			c.end()
			return
		}
	}
}

// work is the owner's: turn after turn, at most so many, while there is
// something to do. The caller is the owner still when more is left to do; after
// any number of turns, that is the coordinator's end.
func (c *Coordinator) work(turns int) (more bool) {
	defer crash()
	for ; turns > 0 && !c.over(); turns-- {
		items, ticked, some := c.inbox.take(c.batch)
		if !some {
			return false
		}
		c.batch = items
		c.turn(items, ticked)
	}
	return c.over() || c.inbox.keeps()
}

// crash ends the process if the caller panics: the machine is not what it should
// be, and whoever has called would go on.
func crash() {
	if r := recover(); r != nil {
		stack := debug.Stack()
		go panic(fmt.Sprintf("%v, in\n%s", r, stack))
		select {}
	}
}

// turn does what was posted, and all that follows from it: everything that
// changes the machine happens here, by one goroutine at a time.
func (c *Coordinator) turn(items []func(), ticked bool) {
	c.m.Clock(c.clock.now(c.m.Time()))
	for i, f := range items {
		f()
		items[i] = nil
	}
	if ticked {
		c.tick()
	}
	c.carryOut(c.m.Ready())
	if ticked {
		c.tickLedger()
	}
}

// over: the coordinator ends.
func (c *Coordinator) over() bool {
	return c.m.Stopped() != nil || c.shut && (c.drained || c.m.Settled())
}

// end answers everybody, ends all goroutines and closes the files.
func (c *Coordinator) end() {
	stop := c.m.Stopped()
	if stop == nil {
		c.m.Halt(wire.NewError(wire.CodeUnavailable, "it was shut down"))
	} else {
		c.log.Info("coordinator stops", "err", stop)
	}
	c.readPoint.Store(0)
	c.cancel()
	for _, f := range c.inbox.close() {
		f()
	}
	c.carryOut(c.m.Ready())
	c.changed.notify()
	c.crew.wait()
	err := c.ledger.close()
	err = errors.Join(err, c.lock.Close())
	switch {
	case stop != nil:
		c.err = stop
	case err != nil:
		c.err = &wire.Error{Code: wire.CodeIO, Name: c.o.Dir, Text: err.Error()}
	}
	close(c.done)
}

// carryOut does what the machine asks for.
func (c *Coordinator) carryOut(rd commit.Ready) {
	for range rd.Commits {
		failpoint.At("coordinator.votes")
	}
	if rd.Serving {
		failpoint.At("coordinator.recovery")
	}
	c.readPoint.Store(c.m.ReadPoint())
	for i := range rd.Sends {
		s := &rd.Sends[i]
		if l := c.links[s.Member].Load(); l != nil && l.number == s.Link {
			l.push(s.Down)
		}
	}
	c.lookAround()
	for _, r := range rd.Replies {
		r.Request.Token.(*call).done <- r
		failpoint.At("coordinator.replied")
	}
	for _, w := range rd.Watched {
		w.Watch.Token.(chan commit.Watched) <- w
	}
	c.journal(rd.Records)
	for _, e := range rd.Edited {
		failpoint.At("coordinator.edited")
		e.Edit.Token.(chan commit.Edited) <- e
	}
	for _, d := range rd.Drop {
		if d.Err != nil {
			c.log.Error("participant broke the protocol: its connection is closed", "name", c.peers[d.Member].called(), "err", d.Err)
		}
		if l := c.links[d.Member].Load(); l != nil && l.number == d.Link {
			l.cancel()
		}
	}
	if len(rd.Unstage) > 0 && c.m.Stopped() == nil {
		c.unstage(rd.Unstage)
	}
	if rd.ListOrphans != nil {
		c.crew.start(func() { c.readOrphans(*rd.ListOrphans) })
	}
	if rd.Serving && !c.served {
		c.served = true
		c.log.Info("serving", "epoch", c.epoch.Number)
		close(c.ready)
		c.changed.notify()
	}
}

// lookAround tells those who wait, and the operator, what has changed in the
// in-sync set. A link of a newcomer that was let in is like any other from here on.
func (c *Coordinator) lookAround() {
	if c.m.Stopped() != nil {
		return
	}
	news := c.renamed()
	for i := range int(c.slots.Load()) {
		in := c.m.InSync(i)
		if in == c.inSync[i] {
			continue
		}
		c.inSync[i], news = in, true
		c.tellInSync(i, in)
		if l := c.links[i].Load(); in && l != nil {
			l.outside.Store(false)
		}
	}
	if w := c.m.Writable(); w != c.writable {
		c.writable = w
		news = news || w
	}
	if news {
		c.changed.notify()
	}
}

// renamed looks for members that an operator has added, taken out, or replaced.
func (c *Coordinator) renamed() (news bool) {
	if c.identities == c.m.Identities() {
		return false
	}
	c.identities = c.m.Identities()
	members := c.m.Members()
	c.growTo(members)
	for i, mem := range members {
		if c.peers[i].identity == mem.Identity {
			continue
		}
		c.inSync[i] = mem.InSync
		was := c.peers[i].called()
		c.peers[i].rename(mem)
		c.repairs.forget(i)
		c.log.Info("a participant takes another's place", "before", was, "now", mem.Name)
	}
	return true
}

// journal appends records: CONFIG through the authority, the rest lazily.
func (c *Coordinator) journal(records []*commit.Record) {
	if c.m.Stopped() != nil {
		return
	}
	var leases []*commit.Record
	records = slices.DeleteFunc(records, func(r *commit.Record) bool {
		if r.Kind == commit.RecLease {
			leases = append(leases, r)
		}
		return r.Kind == commit.RecLease
	})
	isConfig := func(r *commit.Record) bool { return r.Kind == commit.RecConfig }
	var err error
	for at := slices.IndexFunc(records, isConfig); at >= 0 && err == nil; at = slices.IndexFunc(records, isConfig) {
		if err = c.ledger.append(records[:at]); err == nil {
			err = c.configure(records[at])
		}
		records = records[at+1:]
	}
	if err == nil {
		err = c.ledger.append(records)
	}
	if err == nil {
		err = c.ledger.lease(leases, c.m.LeaseJournaled)
	}
	if err != nil {
		c.journalProblem(err)
	}
}

func (c *Coordinator) configure(r *commit.Record) error {
	var keeper authority = c.ledger
	edit := r.Edited()
	if edit {
		failpoint.At("coordinator.edit-put")
	}
	return keeper.Configure(r, func() {
		failpoint.At("coordinator.config")
		if edit {
			failpoint.At("coordinator.edit-durable")
		}
		c.m.Journaled(r.Config.ID)
	})
}

// journalProblem is called in the owner with what became of a sync. A failure
// is fatal (P12); a full disk makes requests wait.
func (c *Coordinator) journalProblem(err error) {
	var full *journal.FullError
	switch {
	case err == nil:
		if c.m.JournalFull(false) {
			c.changed.notify() // stages wait for it, too
		}
	case errors.As(err, &full):
		c.m.JournalFull(true)
		c.log.Error("the coordinator's disk is full: no change is begun", "err", err)
	default:
		c.m.Halt(&wire.Error{Code: wire.CodeIO, Name: c.o.Dir, Text: "the coordinator's journal has failed: " + err.Error() +
			". Mend the disk and start again"})
	}
}

// mostElapsed is how many milliseconds a tick tells the machine at most: in the
// others this process stood still, not those whose silence they would count.
const mostElapsed = 1000

// behind is by how many milliseconds the next tick sets the machine's time forward.
// What is to last so long from now on lasts as much longer in that time.
func (c *Coordinator) behind() int64 {
	return min(time.Since(c.began).Milliseconds()-c.lastMS, mostElapsed)
}

// tick tells the machine the time and gives up silent links.
func (c *Coordinator) tick() {
	if c.m.Stopped() != nil {
		return
	}
	now := time.Since(c.began)
	ms := now.Milliseconds()
	elapsed := ms - c.lastMS
	c.lastMS = ms
	slept := time.Duration(elapsed)*time.Millisecond > c.o.EvictAfter/2 // this process stood still, not they
	c.m.Tick(min(elapsed, mostElapsed))
	c.tickLocks(min(elapsed, mostElapsed))
	for i := range c.links {
		l := c.links[i].Load()
		if l == nil {
			continue
		}
		l.rouse()
		switch {
		case slept:
			l.heard.Store(int64(now))
		case now-time.Duration(l.heard.Load()) > c.o.EvictAfter:
			c.log.Warn("participant is silent: its connection is given up", "name", l.name)
			l.cancel()
			c.links[i].CompareAndSwap(l, nil)
			c.m.LinkDown(i, l.number)
			c.m.Refusing(i)
			c.changed.notify()
		}
	}
}

// tickLedger lets the journal write what is lazy. It comes after carryOut: a
// SNAPSHOT stands for the records before it, so none may be on its way yet (P13).
func (c *Coordinator) tickLedger() {
	if c.m.Stopped() != nil {
		return
	}
	if err := c.ledger.tick(c.m.Snapshot); err != nil {
		c.journalProblem(err)
	}
}
