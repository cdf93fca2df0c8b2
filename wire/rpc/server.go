package rpc

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"tpcfs/wire"
)

// Server serves a wire.Service to clients, a wire.Replica to coordinators, or
// both. It is safe for concurrent use.
type Server struct {
	o ServerOptions

	ctx    context.Context // of every handler; ends when Close loses patience
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine but those in Serve

	// decoding bounds how many large headers are decoded at a time.
	decoding chan struct{}

	mu        sync.Mutex // guards what follows
	closing   bool
	listeners map[net.Listener]struct{}
	half      *list.List          // of net.Conn: before its link is complete, oldest first
	links     map[wire.UUID]*peer // by nonce; from the control connection on
	active    int                 // calls in flight
	idle      chan struct{}       // closed when closing and active is 0
}

// NewServer makes a server; Serve lets it listen. Options without anything to
// serve are a bug of the caller.
func NewServer(o ServerOptions) *Server {
	o.validate()
	s := &Server{
		o: o, decoding: make(chan struct{}, 8), listeners: map[net.Listener]struct{}{},
		half: list.New(), links: map[wire.UUID]*peer{}, idle: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections until Close, which makes it return nil, or until
// the listener fails. It closes l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close() // its error tells nobody anything
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		if err == nil {
			pause = 0
			s.welcome(c)
			continue
		}
		if s.isClosing() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return listenError(l.Addr().String(), err)
		}
		// Out of descriptors, most likely: others may free some.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.o.Logger.Warn("cannot accept a connection", "addr", l.Addr().String(), "err", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
		}
	}
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// Close ends all: no new connections and calls at once, those in flight within
// CloseTimeout, then everything. It returns when every goroutine is gone; a
// handler that ignores its context keeps it waiting.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		for l := range s.listeners {
			_ = l.Close() // Accept reports it
		}
		for e := s.half.Front(); e != nil; e = e.Next() {
			_ = e.Value.(net.Conn).Close() // nothing was said yet
		}
		for _, p := range s.links {
			p.drain()
		}
		if s.active == 0 {
			close(s.idle)
		}
	}
	s.mu.Unlock()

	timer := time.NewTimer(s.o.CloseTimeout)
	defer timer.Stop()
	select {
	case <-s.idle:
	case <-timer.C:
	}
	s.cancel()
	s.mu.Lock()
	links := make([]*peer, 0, len(s.links))
	for _, p := range s.links {
		links = append(links, p)
	}
	s.mu.Unlock()
	for _, p := range links {
		p.end(nil)
	}
	s.wg.Wait()
	return nil
}

// begin counts a call in; false when the server is closing.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.active++
	return true
}

func (s *Server) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active == 0 && s.closing {
		close(s.idle)
	}
}

// welcome gives a new connection its goroutine.
func (s *Server) welcome(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = c.Close() // nothing was said yet
		return
	}
	if s.half.Len() >= s.o.MaxHalfOpen {
		oldest := s.half.Remove(s.half.Front()).(net.Conn)
		_ = oldest.Close() // its goroutine notices
		s.o.Logger.Warn("too many connections without a handshake: dropped the oldest", "peer", oldest.RemoteAddr().String(), "limit", s.o.MaxHalfOpen)
	}
	e := s.half.PushBack(c)
	s.wg.Go(func() { s.handshake(c, e) })
}

// complete takes a connection off the list of half-open ones. Taking one off
// twice is harmless.
func (s *Server) complete(e *list.Element) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.half.Remove(e)
}

// handshake exchanges prefaces, then runs the connection's session.
func (s *Server) handshake(raw net.Conn, e *list.Element) {
	defer s.complete(e)
	defer raw.Close() // the session has closed it already, or it is refused
	if err := raw.SetDeadline(time.Now().Add(s.o.Timeouts.Handshake)); err != nil {
		return
	}
	c, who, err := s.secure(raw)
	if err != nil {
		s.o.Logger.Warn("no handshake", "peer", c.RemoteAddr().String(), "err", err)
		return
	}
	theirs, err := readPreface(c)
	if err != nil {
		s.o.Logger.Warn("no handshake", "peer", c.RemoteAddr().String(), "err", err)
		if wire.CodeOf(err) == wire.CodeProtocol {
			_ = writePreface(c, s.preface(wire.Preface{}, err)) // it is leaving anyway
		}
		return
	}
	log := s.o.Logger.With("peer", c.RemoteAddr().String(), "role", theirs.Role.String())
	p, err := s.admit(c, e, theirs, who)
	if err != nil {
		log.Warn("refused a connection", "err", err)
		_ = writePreface(c, s.preface(theirs, err)) // it is leaving anyway
		return
	}
	if err := errors.Join(writePreface(c, s.preface(theirs, nil)), c.SetDeadline(time.Time{})); err != nil {
		log.Debug("lost a connection during the handshake", "err", err)
		p.end(err)
		s.leave(p, theirs.Channel)
		return
	}
	s.run(p, c, e, theirs.Channel)
}

// run serves a link's control or bulk connection until it ends.
func (s *Server) run(p *peer, c net.Conn, e *list.Element, channel wire.Channel) {
	if channel == wire.ChannelBulk {
		s.complete(e)
		s.complete(p.half)
		p.serve(c, channel)
		return
	}
	unpaired := time.AfterFunc(s.o.Timeouts.Handshake, func() {
		select {
		case <-p.paired:
		default:
			p.end(errors.New("no bulk connection came"))
		}
	})
	p.serve(c, channel)
	unpaired.Stop()
	s.leave(p, channel)
}

// leave forgets a link whose control connection has ended, once its calls have.
func (s *Server) leave(p *peer, channel wire.Channel) {
	if channel != wire.ChannelControl {
		return
	}
	p.calls.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links[p.nonce] == p {
		delete(s.links, p.nonce)
	}
}

func (s *Server) preface(theirs wire.Preface, refusal error) wire.Preface {
	role := wire.RoleParticipant
	if s.o.Replica == nil || s.o.Service != nil && theirs.Role == wire.RoleClient {
		role = wire.RoleCoordinator
	}
	p := wire.Preface{Versions: s.o.Versions, Role: role, Channel: theirs.Channel, Cluster: s.o.Cluster(), Nonce: theirs.Nonce}
	if refusal != nil {
		e := toWire(refusal)
		p.Code, p.Refusal = e.Code, e.Text
	}
	return p
}

// admit checks a preface and finds or makes its link.
func (s *Server) admit(c net.Conn, e *list.Element, theirs wire.Preface, who caller) (*peer, error) {
	if err := who.claims(theirs.Role); err != nil {
		return nil, err
	}
	if _, err := wire.Agree(s.o.Versions, theirs.Versions); err != nil {
		return nil, err
	}
	switch {
	case theirs.Role == wire.RoleClient && s.o.Service == nil:
		return nil, wire.NewError(wire.CodeProtocol, "this is a participant, a client needs the coordinator's address")
	case theirs.Role == wire.RoleCoordinator && s.o.Replica == nil:
		return nil, wire.NewError(wire.CodeProtocol, "this is a coordinator, not a participant")
	case theirs.Role != wire.RoleClient && theirs.Role != wire.RoleCoordinator:
		return nil, wire.NewError(wire.CodeProtocol, fmt.Sprintf("a %v has no business here", theirs.Role))
	}
	if own := s.o.Cluster(); !own.IsZero() && !theirs.Cluster.IsZero() && own != theirs.Cluster {
		return nil, wire.NewError(wire.CodeProtocol, fmt.Sprintf("this belongs to cluster %v, the peer to %v", own, theirs.Cluster))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, wire.NewError(wire.CodeUnavailable, "shutting down")
	}
	p := s.links[theirs.Nonce]
	switch theirs.Channel {
	case wire.ChannelControl:
		if p != nil {
			return nil, wire.NewError(wire.CodeProtocol, "this link has its control connection already")
		}
		if len(s.links) >= s.o.MaxLinks && !s.makeRoomLocked() {
			return nil, wire.NewError(wire.CodeTooMany, fmt.Sprintf("%d peers are connected, no more are allowed: try again later", s.o.MaxLinks))
		}
		p = newPeer(s, c, e, theirs, who)
		s.links[theirs.Nonce] = p
		return p, nil
	case wire.ChannelBulk:
		if p == nil || p.role != theirs.Role || p.id != theirs.Peer || p.who != who {
			return nil, wire.NewError(wire.CodeProtocol, "no control connection came before this bulk connection")
		}
		if !p.pair() {
			return nil, wire.NewError(wire.CodeProtocol, "this link has its bulk connection already")
		}
		return p, nil
	default:
		return nil, wire.NewError(wire.CodeProtocol, "neither a control nor a bulk connection")
	}
}

// makeRoomLocked ends the link that needs its place least: nothing was asked by
// it for LinkIdle, or longest, or ever. Its peer, if it is a good one, connects
// again when it has something to ask. false: all are at work.
func (s *Server) makeRoomLocked() bool {
	var least *peer
	var leastSince time.Time
	leastCalled := true
	for _, p := range s.links {
		since, called, ok := p.idle()
		if !ok || time.Since(since) < s.o.LinkIdle {
			continue
		}
		if least == nil || leastCalled && !called || leastCalled == called && since.Before(leastSince) {
			least, leastSince, leastCalled = p, since, called
		}
	}
	if least == nil {
		return false
	}
	delete(s.links, least.nonce)
	s.wg.Go(func() { least.end(fmt.Errorf("%d peers are connected, and this one asks for nothing", s.o.MaxLinks)) })
	return true
}
