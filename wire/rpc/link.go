package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

// keepStreams is how many idle streams a connection keeps for the next calls.
const keepStreams = 64

// link is the dialling side of a link.
type link struct {
	addr    string
	o       DialOptions
	control *channel
	bulk    *channel

	done chan struct{}  // closed when the link has ended
	wg   sync.WaitGroup // the link's goroutines

	mu  sync.Mutex // guards what follows
	end bool
	why error // what ended it
}

// channel is one connection of a link with its session.
type channel struct {
	kind  wire.Channel
	conn  net.Conn
	below *conn // between them
	mux   *yamux.Session
	room  chan struct{} // one for each call

	mu   sync.Mutex   // guards idle
	idle []idleStream // the last one used comes last
}

// idleStream waits for a call.
type idleStream struct {
	*stream
	since time.Time // zero: it is shrunk
}

// shrink makes streams that have been idle for long small.
func (ch *channel) shrink(now time.Time) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	for i := range ch.idle {
		if st := &ch.idle[i]; !st.since.IsZero() && now.Sub(st.since) >= idleAfter {
			st.shrink()
			st.since = time.Time{}
		}
	}
}

// tidy shrinks idle streams until the link ends.
func (l *link) tidy() {
	ticker := time.NewTicker(idleAfter)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			l.control.shrink(now)
			l.bulk.shrink(now)
		case <-l.done:
			return
		}
	}
}

// dial connects both connections of a link. Errors are *wire.Error.
func dial(ctx context.Context, addr string, role wire.Role, o DialOptions) (*link, error) {
	network, address, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeouts.Handshake)
	defer cancel()
	var nonce wire.UUID
	_, _ = rand.Read(nonce[:]) // never fails (crypto/rand)
	l := &link{addr: addr, o: o, done: make(chan struct{})}
	for _, kind := range []wire.Channel{wire.ChannelControl, wire.ChannelBulk} {
		c, err := o.connect(ctx, network, address, addr, wire.Preface{
			Versions: o.Versions, Role: role, Channel: kind, Cluster: o.Cluster, Peer: o.Peer, Nonce: nonce,
		})
		if err == nil {
			err = l.add(kind, c)
		}
		if err != nil {
			l.close()
			return nil, err
		}
	}
	l.wg.Go(l.tidy)
	return l, nil
}

// called is the role of who is called by a client, or by a coordinator.
var called = map[wire.Role]wire.Role{wire.RoleClient: wire.RoleCoordinator, wire.RoleCoordinator: wire.RoleParticipant}

// connect opens one connection, encrypted if there is an identity, and
// exchanges prefaces.
func (o *DialOptions) connect(ctx context.Context, network, address, addr string, ours wire.Preface) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, dialError(ctx, addr, err)
	}
	raw := c
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(past) }) // the handshake fails at once
	if o.Identity != nil {
		c, err = encrypt(ctx, o.Identity.Client(raw, called[ours.Role], o.PeerName))
	}
	if err == nil {
		err = handshake(ctx, c, ours)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return c, nil
	}
	_ = raw.Close() // nothing was asked yet
	var e *wire.Error
	if errors.As(err, &e) {
		e.Name = addr
		return nil, e
	}
	return nil, dialError(ctx, addr, err)
}

func handshake(ctx context.Context, c net.Conn, ours wire.Preface) error {
	if err := writePreface(c, ours); err != nil {
		return err
	}
	theirs, err := readPreface(c)
	if err != nil {
		return err
	}
	if _, err := wire.Agree(ours.Versions, theirs.Versions); err != nil {
		return err
	}
	if theirs.Code != wire.CodeNone {
		lost := theirs.Code == wire.CodeUnavailable || theirs.Code == wire.CodeTooMany // for now
		return &wire.Error{Code: theirs.Code, Text: theirs.Refusal, Lost: lost}
	}
	if want := called[ours.Role]; theirs.Role != want {
		return wire.NewError(wire.CodeProtocol, fmt.Sprintf("want a %v there, it is a %v", want, theirs.Role))
	}
	if !ours.Cluster.IsZero() && !theirs.Cluster.IsZero() && ours.Cluster != theirs.Cluster {
		return wire.NewError(wire.CodeProtocol, fmt.Sprintf("it belongs to cluster %v, not %v", theirs.Cluster, ours.Cluster))
	}
	if theirs.Nonce != ours.Nonce {
		return wire.NewError(wire.CodeProtocol, "the peer answers somebody else")
	}
	return ctx.Err()
}

// dialError says why a peer could not be reached: nothing was sent to it.
func dialError(ctx context.Context, addr string, err error) *wire.Error {
	e := &wire.Error{Code: wire.CodeUnavailable, Op: "connect", Name: addr, Text: err.Error(), Lost: true}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Code, e.Text, e.Lost = wire.CodeCanceled, "the caller gave up", false
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Text = "no answer in time: is it running there?"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Text, e.Refused = "connection refused: is it running there?", true
	case errors.Is(err, fs.ErrNotExist):
		e.Text, e.Refused = "no such socket: is it running there?", true
	case errors.Is(err, fs.ErrPermission):
		e.Code, e.Text, e.Lost = wire.CodeAccess, "this user may not connect there", false
	}
	return e
}

// add makes a connection the link's.
func (l *link) add(kind wire.Channel, c net.Conn) error {
	t := l.o.Timeouts
	below := newConn(c, t.readTimeout(), t.Write)
	mux, err := yamux.Client(below, muxConfig(kind, t, l.o.Logger))
	if err != nil {
		panic("rpc: yamux refuses its configuration: " + err.Error())
	}
	ch := &channel{kind: kind, conn: c, below: below, mux: mux}
	l.mu.Lock()
	if kind == wire.ChannelBulk {
		ch.room, l.bulk = make(chan struct{}, l.o.BulkCalls), ch
	} else {
		ch.room, l.control = make(chan struct{}, l.o.ControlCalls), ch
	}
	ended := l.end
	l.mu.Unlock()
	// The goroutine ends with the session: at its own failure, or by fail. A
	// server has no call to open streams: one that does is broken.
	l.wg.Go(func() {
		_, err := mux.AcceptStream()
		if err == nil {
			err = errors.New("the peer opened a stream")
		}
		l.finish(err, func() { l.drain(mux) })
	})
	if ended { // the control connection, since
		_ = mux.Close() // always nil
		return l.lost(false, nil)
	}
	return nil
}

// drainWait is how long one connection's end waits for the other's.
const drainWait = 100 * time.Millisecond

// drain waits, after the peer has ended one connection, until it has ended the
// other: answers may be on their way there still.
func (l *link) drain(ended *yamux.Session) {
	l.mu.Lock()
	channels := []*channel{l.control, l.bulk}
	l.mu.Unlock()
	timer := time.NewTimer(drainWait)
	defer timer.Stop()
	for _, ch := range channels {
		if ch == nil || ch.mux == ended {
			continue
		}
		select {
		case <-ch.mux.CloseChan():
		case <-timer.C:
			return
		}
	}
}

// fail ends the link; the first cause is kept.
func (l *link) fail(cause error) { l.finish(cause, func() {}) }

// finish lets no more calls begin and, after wait, ends those that there are.
func (l *link) finish(cause error, wait func()) {
	l.mu.Lock()
	if l.end {
		l.mu.Unlock()
		return
	}
	l.end, l.why = true, cause
	channels := []*channel{l.control, l.bulk}
	l.mu.Unlock()
	close(l.done)
	wait()
	for _, ch := range channels {
		if ch == nil {
			continue
		}
		_ = ch.conn.Close() // unblocks yamux first, which may wait for a write
		_ = ch.mux.Close()  // always nil
	}
}

// close ends the link and waits for its goroutines.
func (l *link) close() {
	l.fail(net.ErrClosed)
	<-l.done
	l.wg.Wait()
}

// lost is the error of a call that the link did not live to answer.
func (l *link) lost(sent bool, cause error) *wire.Error {
	l.mu.Lock()
	if l.why != nil {
		cause = l.why // what ended the link, rather than what came of it
	}
	l.mu.Unlock()
	e := &wire.Error{Code: wire.CodeUnavailable, Lost: true, Text: fmt.Sprintf("the connection to %s was lost: %v", l.addr, cause)}
	if sent {
		e.Code = wire.CodeUnknownOutcome
	}
	return e
}

// broken ends a link whose peer does not keep to the protocol.
func (l *link) broken(text string) *wire.Error {
	e := &wire.Error{Code: wire.CodeProtocol, Name: l.addr, Text: text}
	l.fail(e)
	return e
}

// take gets a stream for a call, an idle one if there is one. With a reserve,
// it does not wait for other calls.
func (l *link) take(ctx context.Context, ch *channel, reserved bool) (*stream, error) {
	if !reserved {
		select {
		case ch.room <- struct{}{}:
		case <-ctx.Done():
			return nil, givenUp(ctx, false)
		case <-l.done:
			return nil, l.lost(false, nil)
		}
	}
	ch.mu.Lock()
	if n := len(ch.idle); n > 0 {
		st := ch.idle[n-1].stream
		ch.idle = ch.idle[:n-1]
		ch.mu.Unlock()
		return st, nil
	}
	ch.mu.Unlock()
	st, err := l.open(ctx, ch)
	if err != nil && !reserved {
		<-ch.room
	}
	return st, err
}

// open opens a stream. yamux may keep it waiting without a deadline, so the
// wait is our own and what comes too late is closed.
func (l *link) open(ctx context.Context, ch *channel) (*stream, error) {
	type opened struct {
		mux *yamux.Stream
		err error
	}
	result := make(chan opened)
	gone := make(chan struct{})
	defer close(gone)
	l.mu.Lock()
	if l.end {
		l.mu.Unlock()
		return nil, l.lost(false, nil)
	}
	l.wg.Go(func() {
		mux, err := ch.mux.OpenStream()
		select {
		case result <- opened{mux, err}:
		case <-gone:
			if err == nil {
				_ = mux.Close() // nobody has used it
			}
		}
	})
	l.mu.Unlock()
	timer := time.NewTimer(l.o.Timeouts.Write)
	defer timer.Stop()
	select {
	case r := <-result:
		if r.err != nil {
			if errors.Is(r.err, yamux.ErrConnectionWriteTimeout) {
				l.fail(r.err)
			}
			return nil, l.lost(false, r.err)
		}
		return ch.below.adopt(newStream(r.mux, l.o.Timeouts.Stall)), nil
	case <-ctx.Done():
		return nil, givenUp(ctx, false)
	case <-timer.C:
		l.fail(errors.New("no stream could be opened in time"))
	case <-l.done:
	}
	return nil, l.lost(false, nil)
}

// give returns a stream after a call: to the idle ones when the call ended
// cleanly.
func (l *link) give(ch *channel, st *stream, clean, reserved bool) {
	if clean {
		st.renew()
		ch.mu.Lock()
		if clean = len(ch.idle) < keepStreams; clean {
			ch.idle = append(ch.idle, idleStream{st, time.Now()})
		}
		ch.mu.Unlock()
	}
	if !clean {
		st.close()
	}
	if !reserved {
		<-ch.room
	}
}

// givenUp is the error of a call whose context ended.
func givenUp(ctx context.Context, sent bool) *wire.Error {
	switch {
	case sent:
		return wire.NewError(wire.CodeUnknownOutcome, "the caller did not wait for the answer")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return wire.NewError(wire.CodeUnavailable, "no answer in time")
	default:
		return wire.NewError(wire.CodeCanceled, "the caller gave up")
	}
}
