package coordinator

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// link is a connection to a participant from its greeting on.
type link struct {
	member  int
	number  uint64 // as the machine counts; set before anything else uses the link
	name    string
	replica wire.Replica
	stream  wire.TxStream
	ctx     context.Context // ends with the link
	cancel  context.CancelFunc
	heard   atomic.Int64 // when something came, nanoseconds since the coordinator's start

	outside atomic.Bool // the participant is not in sync: nothing is read or staged there

	late atomic.Int64 // until when reads go elsewhere, if they can; nanoseconds since the coordinator's start

	wake chan struct{} // capacity 1: out is to be sent

	mu     sync.Mutex  // guards what follows
	out    []wire.Down // what the owner has queued; bounded by what the machine holds of its streams
	roused bool        // the sender has been woken for it
	queued uint64      // index of the last entry queued
	wanted uint64      // up to where reads wait for the stream
}

// push queues messages for the link's sender. A COMMIT lingers: nobody waits
// for it but reads (need) and the watermark, so it rides with what is sent
// next, at the latest at the owner's tick (rouse). That saves every process
// on the way half of its wakings.
func (l *link) push(d wire.Down) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = append(l.out, d)
	lingers := false
	if d.Entry != nil {
		l.queued = d.Entry.Index
		lingers = d.Entry.Kind == wire.EntryCommit && l.queued > l.wanted
	}
	if !lingers {
		l.rouseLocked()
	}
}

// need sends what lingers up to that index: a read waits for it (P5).
func (l *link) need(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = max(l.wanted, index)
	if len(l.out) > 0 {
		l.rouseLocked()
	}
}

// rouse sends what lingers.
func (l *link) rouse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.out) > 0 {
		l.rouseLocked()
	}
}

func (l *link) rouseLocked() {
	if !l.roused {
		l.roused = true
		l.wake <- struct{}{} // there is room: the sender has taken the last one
	}
}

// take waits for messages; spare is used again. nil: the link has ended.
func (l *link) take(spare []wire.Down) []wire.Down {
	select {
	case <-l.wake:
	case <-l.ctx.Done():
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.out
	l.out, l.roused = spare[:0], false
	return out
}

// send gives the stream what is queued, in order, until the link ends.
func (l *link) send() {
	var batch []wire.Down
	for {
		clear(batch)
		if batch = l.take(batch); batch == nil {
			return
		}
		for i := range batch {
			sendPoint(batch[i].Entry)
		}
		if err := l.stream.Send(batch...); err != nil {
			l.cancel()
			return
		}
	}
}

func sendPoint(e *wire.Entry) {
	switch {
	case e == nil:
	case e.Kind == wire.EntryPrepare:
		failpoint.At("coordinator.send-prepare")
	case e.Kind == wire.EntryCommit:
		failpoint.At("coordinator.send-commit")
	case e.Kind == wire.EntryAbort:
		failpoint.At("coordinator.send-abort")
	case e.Kind == wire.EntryOpen:
		failpoint.At("coordinator.open")
	}
}

// How long the steps of opening a link may take, and how soon it is tried again.
const (
	dialWait     = 5 * time.Second
	greetWait    = 30 * time.Second // the participant makes its fence durable
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = 80 * time.Millisecond // a participant that is back is found soon
	refusedPause = time.Second
	refusedFor   = 200 * time.Millisecond // a participant at whose address nobody listens is not waited for (P8)
	greetPause   = 20 * time.Millisecond  // before it may be greeted
	vacantPause  = time.Second            // while nobody has the number
)

// peer is what is known of the way to a participant, for status.
type peer struct {
	identity int // the member's, as the machine was last seen; the owner's alone

	mu    sync.Mutex // guards the following
	name  string     // "": nobody has its number
	state string
	err   string
	since time.Time // when it was last in sync; zero: it is, or never was
	copy  wire.CatchUp
	held  bool   // it is not greeted: it is to be evicted
	late  int    // last rounds of its catching up that took too long
	told  string // the state that the log has told last; "": none
}

// set tells whether the log should say so: not the same again, and not that a
// participant was not there first.
func (p *peer) set(state, why string) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.err = state, why
	if state == stateInSync {
		p.since = time.Time{}
	} else if state == stateUnreachable && p.since.IsZero() && p.told == stateInSync {
		p.since = time.Now()
	}
	if state == stateGreeting || state == stateUnreachable && p.told == "" || state == p.told {
		return false
	}
	news = state != stateInSync || p.told != ""
	p.told = state
	return news
}

// rename makes it another participant, of which nothing is known yet.
func (p *peer) rename(mem commit.Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.identity = mem.Identity
	p.name, p.state, p.err, p.told = mem.Name, stateGreeting, "", ""
	p.since, p.copy, p.late = time.Time{}, wire.CatchUp{}, 0
}

// tooLate counts last rounds that took too long, and returns how many there were.
func (p *peer) tooLate(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late += n
	return p.late
}

func (p *peer) called() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.name
}

// missing tells, once and only before anything was told of it, that the
// participant is not there.
func (p *peer) missing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.told != "" {
		return false
	}
	p.told = stateUnreachable
	return true
}

// hold keeps the coordinator from greeting it, or lets it again.
func (p *peer) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
}

func (p *peer) isHeld() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// inSync notes that the participant is in the config, or is no more.
func (p *peer) inSync(in bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.copy = wire.CatchUp{}
	if in {
		p.state, p.err, p.told, p.since, p.late = stateInSync, "", stateInSync, time.Time{}, 0
	} else if p.since.IsZero() {
		p.since = time.Now()
	}
}

// catches notes how far it has caught up.
func (p *peer) catches(c wire.CatchUp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.copy = c
}

func (p *peer) get() (state, err string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.err
}

// The states of wire.MemberStatus.
const (
	stateInSync      = "in sync"
	stateUnreachable = "unreachable"
	stateGreeting    = "greeting"
	stateRefused     = "refused"
	stateCatchingUp  = "catching up"
	stateEvicted     = "evicted"
)

// during returns a context that ends with the link, too.
func (l *link) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// keep keeps a link to whoever has that number until the coordinator ends.
func (c *Coordinator) keep(i int) {
	backoff := time.Duration(0)
	var refused time.Time // since when nobody listens there
	short := shortLinks{most: c.o.EvictAfter}
	var last Peer
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(backoff):
		}
		began := time.Now()
		p, now := c.whom(i)
		if p != last {
			last, refused, short = p, time.Time{}, shortLinks{most: c.o.EvictAfter}
		}
		if !now {
			if backoff = greetPause; p.Name == "" {
				backoff = vacantPause
			}
			continue
		}
		linked, state, err := c.visit(i, p)
		if c.ctx.Err() != nil {
			return
		}
		if state == stateGreeting { // not yet
			backoff = greetPause
			continue
		}
		c.left(i, p, state, err)
		if !asError(err).Refused {
			refused = time.Time{}
		} else if refused.IsZero() {
			refused = began
		} else if time.Since(refused) >= refusedFor {
			c.post(func() { c.m.Refusing(i) })
		}
		if linked && short.ended(began, time.Now()) {
			c.post(func() { c.m.Refusing(i) })
		}
		switch {
		case state == stateRefused:
			backoff = refusedPause
		case linked && time.Since(began) > shortLink:
			backoff = 0
		case linked:
			backoff = firstBackoff
		default:
			backoff = min(max(2*backoff, firstBackoff), lastBackoff)
		}
	}
}

// shortLink is what a link lasts for at least that is of use, or a third of EvictAfter.
const shortLink = time.Second

// shortLinks finds a participant that is never away for long, and of no use all the same: for
// longer than most each of its links ends soon, as where it ends at each write to its disk,
// and is started again at once.
type shortLinks struct {
	most        time.Duration
	since, last time.Time // when the first one was begun, and the last one has ended
}

// ended tells of a link's end; true: it is such a participant.
func (s *shortLinks) ended(began, now time.Time) bool {
	switch {
	case now.Sub(began) > min(shortLink, s.most/3):
		s.since = time.Time{}
		return false
	case s.since.IsZero() || began.Sub(s.last) > s.most:
		s.since = began
	}
	s.last = now
	return now.Sub(s.since) >= s.most
}

// visit opens a link and serves it until it ends. It tells whether there was
// one, and how it ended.
func (c *Coordinator) visit(i int, p Peer) (linked bool, state string, err error) {
	if c.peers[i].isHeld() {
		return false, stateGreeting, nil
	}
	dialCtx, cancelDial := context.WithTimeout(c.ctx, dialWait)
	defer cancelDial()
	replica, err := c.o.Dial(dialCtx, p)
	if err != nil {
		if code := wire.CodeOf(err); code == wire.CodeProtocol || code == wire.CodeAccess {
			return false, stateRefused, err
		}
		return false, stateUnreachable, err
	}
	if s, _ := c.peers[i].get(); s != stateRefused {
		c.peers[i].set(stateGreeting, "")
	}
	l := &link{member: i, name: p.Name, replica: replica, wake: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(c.ctx)
	defer func() {
		l.cancel()
		_ = replica.Close() // the link is given up either way
	}()
	greetCtx, cancelGreet := context.WithTimeout(l.ctx, greetWait)
	defer cancelGreet()
	greet, ok := c.greet(i, p)
	if !ok {
		return false, stateGreeting, nil
	}
	l.outside.Store(greet.Outside)
	greeting, stream, err := replica.Greet(greetCtx, greet)
	if err != nil {
		return c.greetFailed(i, err)
	}
	l.stream = stream
	l.heard.Store(int64(time.Since(c.began)))
	if err := c.welcome(l, greeting); err != nil {
		_ = stream.Close()
		if wire.CodeOf(err) == wire.CodeUnavailable {
			return false, stateGreeting, nil // the in-sync set has changed meanwhile
		}
		return false, stateRefused, err
	}
	var catching sync.WaitGroup
	if greet.Outside {
		catching.Go(func() { c.catchUp(l) })
	} else {
		c.came(i, p, greeting.Position)
	}
	err = c.converse(l)
	catching.Wait()
	c.ask(context.Background(), func() {
		c.links[i].CompareAndSwap(l, nil)
		c.m.LinkDown(i, l.number)
		c.changed.notify()
	})
	return true, stateUnreachable, err
}

// greetFailed returns the participant's state after a greeting that failed, and why.
func (c *Coordinator) greetFailed(i int, err error) (came bool, state string, why error) {
	e := asError(err)
	if e.Lost || e.Code == wire.CodeUnavailable || e.Code == wire.CodeCanceled || e.Code == wire.CodeUnknownOutcome {
		return false, stateUnreachable, err
	}
	strange := make(chan *wire.Error, 1)
	if c.ask(c.ctx, func() { strange <- c.m.Refused(i, e) }) {
		if s := <-strange; s != nil {
			err = s
		}
	}
	return false, stateRefused, err
}

// welcome gives the owner a greeting; the error is why the link does not count.
func (c *Coordinator) welcome(l *link, g wire.Greeting) error {
	failpoint.At("coordinator.greeted")
	answer := make(chan error, 1)
	c.ask(c.ctx, func() {
		var err *wire.Error
		if l.number, err = c.m.Greeted(l.member, g); err != nil {
			answer <- err
			return
		}
		if l.number != 0 {
			c.links[l.member].Store(l)
			c.changed.notify()
			answer <- nil
		}
	})
	select {
	case err := <-answer:
		return err
	default:
		return errStopped
	}
}

// greet is what the member is greeted with; false: not now, or the coordinator
// has stopped.
func (c *Coordinator) greet(i int, p Peer) (g wire.Greet, ok bool) {
	answer := make(chan wire.Greet, 1)
	c.ask(c.ctx, func() {
		if c.m.MayGreet(i) && c.m.Peer(i) == p {
			g := c.m.Greet(i)
			c.greets++
			g.Number = c.greets
			answer <- g
		}
	})
	select {
	case g = <-answer:
		return g, true
	default:
		return g, false
	}
}

// whom tells who has that number, and whether it may be greeted now.
func (c *Coordinator) whom(i int) (p Peer, now bool) {
	type answer struct {
		p   Peer
		now bool
	}
	got := make(chan answer, 1)
	if !c.ask(c.ctx, func() { got <- answer{c.m.Peer(i), c.m.MayGreet(i)} }) {
		return p, false
	}
	a := <-got
	return a.p, a.now
}

// maxUps bounds a participant's messages that the owner has not taken yet.
const maxUps = 64

// converse sends and receives until the link ends.
func (c *Coordinator) converse(l *link) error {
	var wg sync.WaitGroup
	wg.Go(l.send)
	wg.Go(func() { // what ends the link ends the calls that wait on it
		<-l.ctx.Done()
		_ = l.stream.Close()
		_ = l.replica.Close()
	})
	defer wg.Wait()
	defer l.cancel()
	room := make(chan struct{}, maxUps)
	for {
		up, err := l.stream.Recv()
		if err != nil {
			return err
		}
		l.heard.Store(int64(time.Since(c.began)))
		select {
		case room <- struct{}{}:
		case <-l.ctx.Done():
			continue // Recv says why
		}
		c.post(func() { c.m.Up(l.member, l.number, &up); <-room })
	}
}
