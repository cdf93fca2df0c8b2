package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// inbox is what the owner has to do next. Its length is bounded by its
// users: requests by the sessions' limits, messages by the streams'.
type inbox struct {
	mu     sync.Mutex // guards the following
	items  []func()
	closed bool
	wake   chan struct{} // capacity 1: items is not empty
}

// post hands the owner a function. false: the owner is gone.
func (b *inbox) post(f func()) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.items = append(b.items, f)
	n := len(b.items)
	b.mu.Unlock()
	if n == 1 {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns what was posted; spare is used again.
func (b *inbox) take(spare []func(), last bool) []func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items = spare[:0]
	b.closed = last
	return items
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

func (c *Coordinator) post(f func()) bool { return c.inbox.post(f) }

// ask runs f in the owner and waits for it; f may run later all the same when
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

// own is the owner goroutine: everything that changes the machine happens here.
func (c *Coordinator) own() {
	tick := time.NewTicker(c.o.Tick)
	defer tick.Stop()
	var batch []func()
	var drain <-chan time.Time
	closing := c.closing
	for {
		ticked := false
		select {
		case <-c.inbox.wake:
		case <-tick.C:
			ticked = true
		case <-closing:
			closing = nil
			c.m.Shut()
			drain = time.After(c.o.DrainWait)
		case <-drain:
			c.drained = true
		}
		batch = c.inbox.take(batch, false)
		c.m.Clock(time.Now().UnixNano())
		for i, f := range batch {
			f()
			batch[i] = nil
		}
		if ticked {
			c.tick()
		}
		c.carryOut(c.m.Ready())
		if ticked {
			c.tickLedger()
		}
		if c.m.Stopped() != nil || closing == nil && (c.drained || c.m.Settled()) {
			break
		}
	}
	c.end(batch)
}

// end answers everybody, ends all goroutines and closes the files.
func (c *Coordinator) end(batch []func()) {
	stop := c.m.Stopped()
	if stop == nil {
		c.m.Halt(wire.NewError(wire.CodeUnavailable, "it was shut down"))
	} else {
		c.log.Info("coordinator stops", "err", stop)
	}
	c.readPoint.Store(0)
	c.cancel()
	for _, f := range c.inbox.take(batch, true) {
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
	c.m.Tick(min(elapsed, 1000))
	c.tickLocks(min(elapsed, 1000))
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
