package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"tpcfs/wire"
)

const (
	lockPause    = 50 * time.Millisecond // before a lock is asked for again that nobody gets yet
	lockPatience = time.Second           // for the answer to a request whose caller has gone
	pollTimeout  = 4 * time.Second       // of one sign of life: less than a lease
)

// lockKey is an owner in a file.
type lockKey struct {
	ino   wire.Ino
	owner wire.LockOwner
}

// lockEntry is what an owner holds for sure: never more than the coordinator
// has for it, so that it can be asserted at any moment.
type lockEntry struct {
	ranges []wire.LockRange
	seq    uint64 // of the answer that said so
	calls  int    // under way
}

// lockWait is a lock that the coordinator will grant some time.
type lockWait struct {
	key     lockKey
	done    chan struct{} // closed when it is over, by whatever
	granted bool          // set before done is closed; false: ask again by the new link
}

// lockBook is what the session knows of its file locks (F10). They live at the
// coordinator; a new link begins by asserting what is in the book.
type lockBook struct {
	mu      sync.Mutex // guards what follows; taken alone
	used    bool       // there was a lock, so the coordinator may know of some
	keeping bool       // the keeper is at work
	link    *link      // the one by which the book was asserted: answers by others do not count
	entries map[lockKey]*lockEntry
	waits   map[uint64]*lockWait
	last    uint64        // wait's number
	acked   uint64        // the latest grant that came by link
	renewed time.Duration // the boot clock when the last request was sent that was answered
	news    chan struct{} // closed when renewed or the entries change; nil: nobody asks
	lost    []func([]wire.Ino)
}

func (b *lockBook) tellLocked() {
	if b.news != nil {
		close(b.news)
		b.news = nil
	}
}

func (b *lockBook) enter(k lockKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.entries == nil {
		b.entries, b.waits = map[lockKey]*lockEntry{}, map[uint64]*lockWait{}
	}
	b.used = true
	e := b.entries[k]
	if e == nil {
		e = &lockEntry{}
		b.entries[k] = e
	}
	e.calls++
}

func (b *lockBook) leave(k lockKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[k]
	if e.calls--; e.calls == 0 && len(e.ranges) == 0 {
		delete(b.entries, k)
	}
}

// learnLocked takes what an answer by the book's link says.
func (b *lockBook) learnLocked(k lockKey, held []wire.LockRange, seq uint64) {
	if e := b.entries[k]; e != nil && seq >= e.seq {
		e.ranges, e.seq = held, seq
	}
}

// holdsLocked reports whether there is something to keep alive.
func (b *lockBook) holdsLocked() bool {
	if len(b.waits) > 0 {
		return true
	}
	for _, e := range b.entries {
		if len(e.ranges) > 0 {
			return true
		}
	}
	return false
}

// weakenLocked lets the book forget what a request may take away.
func (b *lockBook) weakenLocked(req *wire.LockRequest) {
	e := b.entries[lockKey{req.Ino, req.Owner}]
	switch {
	case e == nil:
	case req.Op == wire.LockRelease:
		e.ranges = nil
	case req.Op == wire.LockSet && req.Owner.Kind == wire.LockFlock && len(e.ranges) > 0 && e.ranges[0].Mode < req.Range.Mode:
		e.ranges = nil // a conversion gives up the old one first
	case req.Op == wire.LockSet:
		e.ranges = wire.WeakenLock(e.ranges, req.Range)
	}
}

// OnLocksLost calls f when the session has lost its locks because it could not
// reach the coordinator for too long: with the files in which it held some,
// before anything else is sent. f must not call the client.
func (c *Client) OnLocksLost(f func(inos []wire.Ino)) {
	c.locks.mu.Lock()
	defer c.locks.mu.Unlock()
	c.locks.lost = append(c.locks.lost, f)
}

// LocksFresh waits until it is certain that the session had its locks when the
// call began, or has been told that they are lost.
func (c *Client) LocksFresh(ctx context.Context) error {
	b := &c.locks
	began := bootClock()
	for {
		b.mu.Lock()
		if !b.holdsLocked() || began < b.renewed+wire.LockLease*time.Millisecond {
			b.mu.Unlock()
			return nil
		}
		if b.news == nil {
			b.news = make(chan struct{})
		}
		news := b.news
		b.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// GetLock returns a lock that keeps owner from r, if there is one. Its PID is 0
// when another session holds it.
func (c *Client) GetLock(ctx context.Context, ino wire.Ino, owner wire.LockOwner, r wire.LockRange) (conflict wire.LockRange, held bool, err error) {
	reply, err := c.lock(ctx, wire.LockRequest{Op: wire.LockGet, Ino: ino, Owner: owner, Range: r}, false)
	return reply.Conflict, reply.Result == wire.LockConflict, err
}

// SetLock gives owner the lock r, or takes it away, as its Mode says. With wait
// it waits until nobody is in the way, or ctx ends: then the error says that it
// has not got it. CodeLocked: somebody is in the way. CodeDeadlock,
// CodeNoLocks: see fcntl(2). Locks end with the session.
func (c *Client) SetLock(ctx context.Context, ino wire.Ino, owner wire.LockOwner, r wire.LockRange, wait bool) error {
	_, err := c.lock(ctx, wire.LockRequest{Op: wire.LockSet, Ino: ino, Owner: owner, Range: r}, wait)
	return err
}

// ReleaseLocks gives up all that owner holds in the file. It costs nothing
// when there is nothing.
func (c *Client) ReleaseLocks(ctx context.Context, ino wire.Ino, owner wire.LockOwner) error {
	b := &c.locks
	b.mu.Lock()
	e := b.entries[lockKey{ino, owner}]
	none := e == nil || e.calls == 0 && len(e.ranges) == 0
	b.mu.Unlock()
	if none {
		return nil
	}
	_, err := c.lock(ctx, wire.LockRequest{Op: wire.LockRelease, Ino: ino, Owner: owner}, false)
	return err
}

// lock makes a request until it has an answer.
func (c *Client) lock(ctx context.Context, req wire.LockRequest, wait bool) (wire.LockReply, error) {
	name := fmt.Sprintf("inode %d", req.Ino)
	if req.Op != wire.LockRelease && !req.Range.Valid() {
		return wire.LockReply{}, &wire.Error{Code: wire.CodeInvalid, Op: "lock", Name: name, Text: fmt.Sprintf("bytes %d to %d are no range", req.Range.Start, req.Range.End)}
	}
	o, err := c.begin(ctx)
	if err != nil {
		return wire.LockReply{}, err
	}
	defer o.end()
	k := lockKey{req.Ino, req.Owner}
	c.locks.enter(k)
	defer c.locks.leave(k)
	for {
		reply, again, err := o.lockOnce(req, k, wait)
		if !again {
			if err == nil && req.Op != wire.LockGet {
				err = refusedLock(reply.Result)
			}
			if err != nil {
				err = named(err, "lock", name)
			}
			return reply, err
		}
		if err != nil && !o.backoff() {
			return reply, named(o.outOfTime(err), "lock", name)
		}
		if reply.Result == wire.LockLater && !o.pauseFor(lockPause) {
			return reply, named(o.gaveUp(), "lock", name)
		}
	}
}

func refusedLock(r wire.LockResult) error {
	switch r {
	case wire.LockDone, wire.LockGranted:
		return nil
	case wire.LockConflict:
		return wire.NewError(wire.CodeLocked, "another holds a lock on it")
	case wire.LockDeadlock:
		return wire.NewError(wire.CodeDeadlock, "its holder waits for a lock of this one's")
	case wire.LockFull:
		return wire.NewError(wire.CodeNoLocks, fmt.Sprintf("at most %d ranges in a file, %d of a client, %d of all are locked", wire.MaxOwnerLocks, wire.MaxSessionLocks, wire.MaxLocks))
	default:
		return wire.NewError(wire.CodeProtocol, fmt.Sprintf("an answer about a lock of kind %d", r))
	}
}

func (o *operation) pauseFor(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-o.ctx.Done():
		return false
	}
}

// lockOnce makes one attempt, and waits for a lock that is queued. again: it
// has to be made once more.
func (o *operation) lockOnce(req wire.LockRequest, k lockKey, wait bool) (reply wire.LockReply, again bool, err error) {
	c := o.c
	l, err := o.link()
	if err != nil {
		return reply, false, err
	}
	var w *lockWait
	if wait {
		req.Wait, w = c.locks.await(k)
		defer c.locks.forget(req.Wait)
	}
	reply, err = o.lockCall(l, req)
	switch {
	case err != nil:
		return reply, o.again(l, err), err
	case reply.Result == wire.LockLater:
		return reply, true, nil
	case reply.Result != wire.LockQueued || w == nil:
		return reply, false, nil
	}
	reply.Result = wire.LockGranted
	select {
	case <-w.done:
		return reply, !w.granted, nil
	case <-o.ctx.Done():
	}
	canceled, err := o.lockCall(l, wire.LockRequest{Op: wire.LockCancel, Ino: req.Ino, Owner: req.Owner, Wait: req.Wait})
	if err == nil && canceled.Result == wire.LockGranted {
		return reply, false, nil
	}
	// Without an answer the next link's assertion settles it: not held.
	return reply, false, o.gaveUp()
}

// await makes a wait. The keeper hears of its end.
func (b *lockBook) await(k lockKey) (uint64, *lockWait) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	w := &lockWait{key: k, done: make(chan struct{})}
	b.waits[b.last] = w
	return b.last, w
}

func (b *lockBook) forget(number uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waits, number)
}

// lockCall sends a request by l. Its answer counts only while l is the book's
// link. Who goes away waits a little for it; then the link is given up, for
// what the coordinator has done must be known.
func (o *operation) lockCall(l *link, req wire.LockRequest) (wire.LockReply, error) {
	c, b := o.c, &o.c.locks
	req.Session, req.Link = c.o.Session, l.number
	b.mu.Lock()
	if b.link != l {
		b.mu.Unlock()
		return wire.LockReply{}, &wire.Error{Code: wire.CodeUnavailable, Text: "the link has been replaced", Lost: true}
	}
	b.weakenLocked(&req)
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(o.ctx, func() {
		timer := time.NewTimer(lockPatience)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-ctx.Done():
		}
	})
	defer stop()
	sent := bootClock()
	reply, err := l.conn.Lock(ctx, req)
	if err != nil {
		if ctx.Err() != nil {
			c.drop(l)
			return reply, o.gaveUp()
		}
		return reply, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.link != l {
		return wire.LockReply{}, &wire.Error{Code: wire.CodeUnavailable, Text: "the link was replaced meanwhile", Lost: true}
	}
	if reply.Result != wire.LockLater {
		b.learnLocked(lockKey{req.Ino, req.Owner}, reply.Held, reply.Seq)
	}
	b.renewed = max(b.renewed, sent)
	if !b.keeping && b.holdsLocked() {
		b.keeping = true
		c.wg.Go(c.keepLocks) // this operation is counted in wg
	}
	return reply, nil
}

// keepLocks gives signs of life while the session holds or waits for locks, and
// takes the grants.
func (c *Client) keepLocks() {
	b := &c.locks
	for {
		b.mu.Lock()
		if !b.holdsLocked() || c.ctx.Err() != nil {
			b.keeping = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		o, err := c.begin(c.ctx)
		if err != nil {
			continue // closed: c.ctx ends
		}
		l, err := o.link()
		if err == nil {
			err = o.pollLocks(l)
		}
		if err != nil {
			o.backoff()
		}
		o.end()
	}
}

func (o *operation) pollLocks(l *link) error {
	b := &o.c.locks
	b.mu.Lock()
	acked := b.acked // of this link: another epoch counts anew
	other := b.link != l
	b.mu.Unlock()
	if other {
		return nil
	}
	ctx, cancel := context.WithTimeout(o.ctx, pollTimeout)
	defer cancel()
	sent := bootClock()
	reply, err := l.conn.Lock(ctx, wire.LockRequest{Op: wire.LockPoll, Session: o.c.o.Session, Link: l.number, Acked: acked})
	if err != nil {
		o.c.drop(l)
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.link != l {
		return nil
	}
	b.renewed = max(b.renewed, sent)
	for _, g := range reply.Grants {
		b.acked = max(b.acked, g.Seq)
		if w := b.waits[g.Wait]; w != nil {
			b.learnLocked(w.key, g.Held, g.Seq)
			delete(b.waits, g.Wait)
			w.granted = true
			close(w.done)
		}
	}
	b.tellLocked()
	return nil
}

// assertLocks begins a link: the coordinator is told what the session holds,
// and what it waited for is asked for again.
func (c *Client) assertLocks(ctx context.Context, l *link) error {
	b := &c.locks
	b.mu.Lock()
	if !b.used {
		b.link = l
		b.mu.Unlock()
		return nil
	}
	b.link = nil // nothing changes until the answer is here
	held := b.assertionLocked()
	for number, w := range b.waits {
		delete(b.waits, number)
		close(w.done)
	}
	b.mu.Unlock()
	sent := bootClock()
	reply, err := l.conn.Lock(ctx, wire.LockRequest{Op: wire.LockAssert, Session: c.o.Session, Link: l.number, Held: held})
	if err != nil {
		return err
	}
	b.mu.Lock()
	var lost []wire.Ino
	for k, e := range b.entries {
		if e.seq = 0; reply.Result != wire.LockDone && len(e.ranges) > 0 {
			e.ranges = nil
			lost = append(lost, k.ino)
		}
	}
	hear := slices.Clone(b.lost)
	b.link, b.acked, b.renewed = l, 0, sent
	b.mu.Unlock()
	if len(lost) > 0 {
		slices.Sort(lost)
		lost = slices.Compact(lost)
		c.o.Logger.Error("file locks are lost: the coordinator was out of reach for too long", "files", len(lost))
		for _, f := range hear {
			f(lost)
		}
	}
	b.mu.Lock()
	b.tellLocked()
	b.mu.Unlock()
	return nil
}

func (b *lockBook) assertionLocked() (held []wire.HeldLocks) {
	for k, e := range b.entries {
		if len(e.ranges) > 0 {
			held = append(held, wire.HeldLocks{Ino: k.ino, Owner: k.owner, Ranges: e.ranges})
		}
	}
	return held
}
