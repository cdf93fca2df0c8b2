package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"sync"
	"time"

	"tpcfs/wire"
	"tpcfs/wire/rpc"
	"tpcfs/wire/rpc/identity"
)

// Conn is one connection to a coordinator. Close ends the connection, not the
// coordinator.
type Conn interface {
	wire.Service
	Close() error
}

// Options are a Client's.
type Options struct {
	// Wait is how long an operation waits for a service that is not there;
	// transfers that make progress are not counted. 0: forever.
	Wait time.Duration
	// Session names the client to the coordinator, over reconnects. Zero:
	// random, which is right for all but tests: a session used by a second
	// client gets the outcomes of the first one's requests (G5).
	Session wire.SessionID
	// UID and GID own what Mkdir and Symlink make.
	UID, GID uint32
	// Host is shown by status. Default: the host's name and the process's number.
	Host string
	// Identity, if set, encrypts: Dial then wants a coordinator of the same
	// authority, and shows it this certificate. Its file may be renewed meanwhile.
	Identity *identity.Identity
	Logger   *slog.Logger // nil: discard
}

func (o *Options) validate() error {
	if o.Wait < 0 {
		return wire.NewError(wire.CodeInvalid, fmt.Sprintf("a wait of %v: want 0 (forever) or more", o.Wait))
	}
	if o.Session == (wire.SessionID{}) {
		_, _ = rand.Read(o.Session[:]) // never fails (crypto/rand)
	}
	if o.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			name = "?"
		}
		o.Host = fmt.Sprintf("%s:%d", name, os.Getpid())
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// How a client goes on after failures.
const (
	pauseMin      = 10 * time.Millisecond // before connecting again
	pauseMax      = time.Second
	attachTimeout = 10 * time.Second // for one attempt to connect
	detachTimeout = 2 * time.Second
	answerGrace   = time.Second      // for the coordinator's own word after Wait
	stageGrace    = 30 * time.Second // ... while it writes contents to disk
	timeMaxAge    = time.Minute      // of a known service time (S1a: ten minutes are too much)
	maxRestarts   = 8                // reads of a file that keeps changing (W5)
	maxCorrupt    = 3                // contents garbled on the way, for one operation
	maxRestage    = 8                // stages that get lost, for one operation
)

// Client is a session with a coordinator.
type Client struct {
	o      Options
	dial   func(ctx context.Context) (Conn, error)
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the connector, all operations, the keeper of locks
	locks  lockBook

	mu          sync.Mutex // guards what follows
	closed      bool
	current     *link
	cluster     wire.UUID // that the session belongs to; zero: it never had a link
	connecting  *attempt
	lastSeq     uint64
	unanswered  map[uint64]struct{} // sequence numbers in use
	lost        []lostRequest       // the newest last
	serviceTime int64               // ms, the latest heard of
	heard       time.Time           // when, on the wall clock
}

// lostRequest is one whose answer nobody will hear; it may still happen.
type lostRequest struct {
	seq   uint64
	since time.Time
}

// link is an attached connection.
type link struct {
	conn   Conn
	number uint64 // that Attach gave
	epoch  uint64 // the coordinator's; 0: it did not say
	once   sync.Once
}

func (l *link) close() { l.once.Do(func() { _ = l.conn.Close() }) } // nobody can use its error

// alive reports whether the connection is known to be there still.
func (l *link) alive() bool {
	c, ok := l.conn.(interface{ Done() <-chan struct{} })
	if !ok {
		return false
	}
	select {
	case <-c.Done():
		return false
	default:
		return true
	}
}

// attempt is the work of getting a link, for all who wait for one. Its fields
// are guarded by Client.mu until done is closed.
type attempt struct {
	dialled chan struct{} // closed when the first dial has ended, one way or the other
	done    chan struct{}
	link    *link
	err     error // the last failure; final when done
	waiters int
}

// Dial makes a client of the coordinator at "HOST:PORT" or "unix:PATH". It
// tries to connect, but a coordinator that is not there is no error: the
// operations wait for it (Options.Wait). Wrong addresses and peers of another
// kind or version are errors.
func Dial(ctx context.Context, addr string, o Options) (*Client, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return New(ctx, func(ctx context.Context) (Conn, error) {
		return rpc.DialService(ctx, addr, rpc.DialOptions{Peer: wire.UUID(o.Session), Identity: o.Identity, Logger: o.Logger})
	}, o)
}

// New is Dial with a way to connect of the caller's own, such as a coordinator
// in the same process. dial is called again after each lost connection; ctx is
// only for the first connection.
func New(ctx context.Context, dial func(ctx context.Context) (Conn, error), o Options) (*Client, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	c := &Client{o: o, dial: dial, unanswered: map[uint64]struct{}{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.mu.Lock()
	a := c.connectLocked()
	c.mu.Unlock()
	select {
	case <-a.dialled:
	case <-ctx.Done():
		_ = c.Close() // always nil
		return nil, wire.NewError(wire.CodeCanceled, "the caller gave up")
	}
	c.mu.Lock()
	err := a.err
	hopeless := c.permanentLocked(err)
	c.mu.Unlock()
	if hopeless {
		_ = c.Close() // always nil
		return nil, err
	}
	return c, nil
}

// Session is the client's id.
func (c *Client) Session() wire.SessionID { return c.o.Session }

// Cluster is whose the session is; it waits for the first link.
func (c *Client) Cluster(ctx context.Context) (wire.UUID, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return wire.UUID{}, err
	}
	defer o.end()
	if _, err := o.link(); err != nil {
		return wire.UUID{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cluster, nil
}

// EndSession ends another client's session, which has to be dead for certain: its
// locks, and the files without a name that it alone has open, go at once, not when the
// coordinator has heard nothing of it for long.
func (c *Client) EndSession(ctx context.Context, session wire.SessionID) error {
	if session == c.o.Session {
		return wire.NewError(wire.CodeInvalid, "a client ends its own session with Close")
	}
	o, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer o.end()
	for {
		l, err := o.link()
		if err != nil {
			return err
		}
		bounded, cancel := o.bounded(answerGrace)
		err = l.conn.Detach(bounded, session)
		cancel()
		if err == nil || !o.again(l, err) {
			return err
		}
		if !o.backoff() {
			return o.outOfTime(err)
		}
	}
}

// Close ends the session. Operations in flight return: what has been sent may
// still happen, and what was staged is dropped.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	l := c.current
	c.current = nil
	c.mu.Unlock()
	if l == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), detachTimeout)
	defer cancel()
	if err := l.conn.Detach(ctx, c.o.Session); err != nil {
		c.o.Logger.Debug("could not detach: the session ends by itself", "err", err)
	}
	l.close()
	return nil
}

// connectLocked starts an attempt, or returns the one that is under way.
func (c *Client) connectLocked() *attempt {
	if c.connecting == nil {
		a := &attempt{dialled: make(chan struct{}), done: make(chan struct{})}
		c.connecting = a
		c.wg.Go(func() { c.connect(a) })
	}
	return c.connecting
}

// connect tries to get a link until it has one, nobody waits for it any more,
// or it is clear that it will not work.
func (c *Client) connect(a *attempt) {
	for pause := pauseMin; ; pause = min(2*pause, pauseMax) {
		l, at, err := c.attach(a)
		c.mu.Lock()
		a.link, a.err = l, err
		if l != nil {
			c.hearLocked(at.ServiceTime)
			c.current, c.cluster = l, at.Cluster
		}
		if l != nil || c.permanentLocked(err) || c.closed || a.waiters == 0 {
			c.connecting = nil
			close(a.done)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if pause == pauseMin {
			c.o.Logger.Warn("not connected, trying again", "err", err)
		}
		// Between half and all of it, so that many clients do not come at once.
		timer := time.NewTimer(pause/2 + mathrand.N(pause/2))
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			timer.Stop()
		}
	}
}

// attach opens a connection and makes it the session's link.
func (c *Client) attach(a *attempt) (*link, wire.Attached, error) {
	ctx, cancel := context.WithTimeout(c.ctx, attachTimeout)
	defer cancel()
	conn, err := c.dial(ctx)
	c.mu.Lock()
	a.err = err
	select {
	case <-a.dialled:
	default:
		close(a.dialled)
	}
	c.mu.Unlock()
	if err != nil {
		return nil, wire.Attached{}, err
	}
	at, err := conn.Attach(ctx, wire.Attach{Session: c.o.Session, Host: c.o.Host})
	if err != nil {
		_ = conn.Close() // the attach's error says more
		return nil, at, err
	}
	c.mu.Lock()
	own := c.cluster
	c.mu.Unlock()
	if own != (wire.UUID{}) && own != at.Cluster {
		_ = conn.Close() // nothing was asked there
		return nil, at, wire.NewError(wire.CodeUnavailable, fmt.Sprintf("the coordinator that answers is that of cluster %v, this session belongs to %v: was its data directory replaced?", at.Cluster, own))
	}
	l := &link{conn: conn, number: at.Link, epoch: at.Epoch}
	if err := c.assertLocks(ctx, l); err != nil {
		_ = conn.Close() // the assertion's error says more
		return nil, at, err
	}
	return l, at, nil
}

// permanentLocked reports whether connecting again would fail the same way. A
// session that was let in before and is not now, as when a certificate has
// expired, waits for that to be mended: it may hold what is not committed yet.
func (c *Client) permanentLocked(err error) bool {
	var e *wire.Error
	if !errors.As(err, &e) || e.Lost {
		return false
	}
	switch e.Code {
	case wire.CodeProtocol, wire.CodeInvalid, wire.CodeUnsupported:
		return true
	case wire.CodeAccess, wire.CodePermission:
		return c.cluster == wire.UUID{}
	default:
		return false
	}
}

// drop gives up a link that has failed or was replaced.
func (c *Client) drop(l *link) {
	c.mu.Lock()
	if c.current == l {
		c.current = nil
	}
	c.mu.Unlock()
	l.close()
}

// hear notes a service time. It never goes back.
func (c *Client) hear(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hearLocked(ms)
}

func (c *Client) hearLocked(ms int64) {
	c.serviceTime = max(c.serviceTime, ms)
	c.heard = wallNow()
}

// wallNow is the wall clock's time: the monotonic clock stands still while a
// machine sleeps, service time does not.
func wallNow() time.Time { return time.Now().Round(0) }

// operation is one call of the client's user.
type operation struct {
	c   *Client
	ctx context.Context
	end func()

	mu       sync.Mutex    // guards what follows
	deadline time.Time     // of waiting; zero: none
	pause    time.Duration // the last one of backoff; 0: none since there was progress
}

// begin starts an operation; its end must be called.
func (c *Client) begin(ctx context.Context) (*operation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, wire.NewError(wire.CodeCanceled, "the client is closed")
	}
	c.wg.Add(1) // before closed, and so before Close waits
	o := &operation{c: c}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	o.ctx = ctx
	o.end = func() { stop(); cancel(); c.wg.Done() }
	o.progress()
	return o, nil
}

// progress starts the wait anew.
func (o *operation) progress() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pause = 0
	if o.c.o.Wait > 0 {
		o.deadline = time.Now().Add(o.c.o.Wait)
	}
}

// until is when the wait ends; zero: never.
func (o *operation) until() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.deadline
}

// waitMS is how long the operation may still wait, as requests say it: in
// milliseconds, 0 for ever; ok is false when that is over.
func (o *operation) waitMS() (ms int64, ok bool) {
	by := o.until()
	if by.IsZero() {
		return 0, true
	}
	left := time.Until(by)
	return max(1, left.Milliseconds()), left > 0
}

// bounded is the operation's context with the end of its wait, and some grace
// for the coordinator to say itself what is known then.
func (o *operation) bounded(grace time.Duration) (context.Context, context.CancelFunc) {
	by := o.until()
	if by.IsZero() {
		return context.WithCancel(o.ctx)
	}
	return context.WithDeadline(o.ctx, by.Add(grace))
}

// link returns the session's link, and waits for one if there is none.
func (o *operation) link() (*link, error) {
	c := o.c
	if o.ctx.Err() != nil {
		return nil, o.gaveUp()
	}
	c.mu.Lock()
	if l := c.current; l != nil {
		c.mu.Unlock()
		return l, nil
	}
	a := c.connectLocked()
	a.waiters++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		a.waiters--
		c.mu.Unlock()
	}()
	ctx, cancel := o.bounded(0)
	defer cancel()
	select {
	case <-a.done:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case a.link != nil:
		return a.link, nil
	case o.ctx.Err() != nil:
		return nil, o.gaveUp()
	case c.permanentLocked(a.err):
		return nil, a.err
	case a.err != nil:
		return nil, wire.NewError(wire.CodeUnavailable, fmt.Sprintf("waited %v for a connection: %v", c.o.Wait, a.err))
	default:
		return nil, wire.NewError(wire.CodeUnavailable, fmt.Sprintf("waited %v for a connection", c.o.Wait))
	}
}

// gaveUp is the error of an operation that did nothing before its caller, or
// Close, ended it.
func (o *operation) gaveUp() error {
	if errors.Is(o.ctx.Err(), context.DeadlineExceeded) {
		return wire.NewError(wire.CodeUnavailable, "the caller's deadline passed before anything was done")
	}
	return wire.NewError(wire.CodeCanceled, "the caller gave up before anything was done")
}

// backoff waits before a repetition, a little longer each time; false when the
// operation's time is over.
func (o *operation) backoff() bool {
	o.mu.Lock()
	// The first one is mostly for a connection that has just been lost.
	o.pause = min(max(2*o.pause, 2*time.Millisecond), pauseMax)
	pause := o.pause
	o.mu.Unlock()
	ctx, cancel := o.bounded(0)
	defer cancel()
	timer := time.NewTimer(pause/2 + mathrand.N(pause/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// watch calls end when the wait of an operation that has one is over and some
// grace has passed, progress counted in. The returned function stops that.
func (o *operation) watch(end func()) (stop func() bool) {
	var timer *time.Timer
	look := func() {
		if left := time.Until(o.until()) + answerGrace; left > 0 {
			timer.Reset(left)
		} else {
			end()
		}
	}
	timer = time.AfterFunc(time.Hour, look) // timer is set before look runs
	timer.Reset(time.Until(o.until()) + answerGrace)
	return timer.Stop
}

// again reports whether the same request should be sent again after err: by
// a new link when the old one is lost, or later when the service is not there.
func (o *operation) again(l *link, err error) bool {
	return o.lostLink(l, err) || wire.CodeOf(err) == wire.CodeUnavailable
}

// againHere is again for what changes nothing: a link that has only lost this
// one call, to a reader that was too slow, say, serves the others on.
func (o *operation) againHere(l *link, err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Lost && l.alive() || o.again(l, err)
}

// lostLink reports whether err means that the same request should be sent
// again by a new link, and gives up the old one.
func (o *operation) lostLink(l *link, err error) bool {
	var e *wire.Error
	if errors.As(err, &e) && (e.Lost || e.Code == wire.CodeReplaced) {
		o.c.drop(l)
		return true
	}
	return false
}
