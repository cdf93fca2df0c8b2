package rpc

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sync/semaphore"

	"tpcfs/wire"
)

// peer is the server's side of a link.
type peer struct {
	s     *Server
	log   *slog.Logger
	role  wire.Role
	who   caller
	id    wire.UUID
	nonce wire.UUID
	half  *list.Element // the control connection, while no bulk one has come

	ctx    context.Context // of the link's handlers
	cancel context.CancelFunc
	txCtx  context.Context // of its transaction streams; ends as soon as the server closes
	endTx  context.CancelFunc

	paired  chan struct{}  // closed when the bulk connection has come
	calls   sync.WaitGroup // one for each stream
	pending *semaphore.Weighted

	mu       sync.Mutex // guards what follows; may be taken under Server.mu
	ended    bool
	draining bool
	conns    []net.Conn
	sessions []*yamux.Session
	streams  [wire.ChannelBulk + 1]int
	moves    map[uint64]*move
	lastMove uint64
	calling  int            // calls in flight
	called   bool           // there was one
	attached wire.SessionID // the last one that it has attached; zero: none
	used     time.Time      // when the last one ended; at first when the link began
}

func newPeer(s *Server, c net.Conn, half *list.Element, theirs wire.Preface, who caller) *peer {
	p := &peer{
		s: s, role: theirs.Role, who: who, id: theirs.Peer, nonce: theirs.Nonce, half: half,
		log:    s.o.Logger.With("peer", c.RemoteAddr().String(), "role", theirs.Role.String()),
		paired: make(chan struct{}), pending: semaphore.NewWeighted(s.o.MaxPending), moves: map[uint64]*move{}, used: time.Now(),
	}
	if who.certified {
		p.log = p.log.With("name", who.who.Name)
	}
	p.ctx, p.cancel = context.WithCancel(s.ctx)
	p.txCtx, p.endTx = context.WithCancel(p.ctx)
	return p
}

// pair reports whether this bulk connection is the link's first.
func (p *peer) pair() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.paired:
		return false
	default:
		close(p.paired)
		return true
	}
}

// attaches notes which session the link is of.
func (p *peer) attaches(session wire.SessionID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached = session
}

// detached tells who has ended another one's session: a mistake there costs its client locks
// and deleted files that it has open.
func (p *peer) detached(session wire.SessionID) {
	p.mu.Lock()
	own := p.attached
	p.mu.Unlock()
	if own != session {
		p.log.Info("a client has ended another's session", "session", session.String(), "by", own.String())
	}
}

// drain lets no new calls in and ends what would not end by itself.
func (p *peer) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
	p.endTx()
}

// end ends the link with all its calls. It does not wait for them.
func (p *peer) end(cause error) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended = true
	conns, sessions := p.conns, p.sessions
	p.mu.Unlock()
	if cause != nil {
		p.log.Warn("ended a link", "err", cause)
	}
	p.cancel()
	for _, c := range conns {
		_ = c.Close() // unblocks yamux first, which may wait for a write
	}
	for _, y := range sessions {
		_ = y.Close() // always nil
	}
}

// serve runs a session over one of the link's connections until it ends, and
// the link with it.
func (p *peer) serve(c net.Conn, channel wire.Channel) {
	defer p.end(nil)
	t := p.s.o.Timeouts
	below := newConn(c, t.readTimeout(), t.Write)
	y, err := yamux.Server(below, muxConfig(channel, t, p.log))
	if err != nil {
		panic("rpc: yamux refuses its configuration: " + err.Error())
	}
	p.mu.Lock()
	ended := p.ended
	p.conns, p.sessions = append(p.conns, c), append(p.sessions, y)
	p.mu.Unlock()
	if ended {
		_ = y.Close() // always nil
		return
	}
	limit := p.limit(channel)
	for {
		mux, err := y.AcceptStream()
		if err != nil {
			break
		}
		if y.NumStreams() > 4*limit+64 {
			p.end(errors.New("the peer opens streams without measure"))
			break
		}
		if !p.enter(channel, limit) {
			_ = mux.Close() // the peer's call ends
			continue
		}
		go func() {
			defer p.exit(channel)
			p.serveStream(below.adopt(newStream(mux, t.Stall)), channel)
		}()
	}
	_ = y.Close() // always nil
}

func (p *peer) limit(channel wire.Channel) int {
	if channel == wire.ChannelControl {
		return p.s.o.ControlStreams
	}
	return p.s.o.BulkStreams
}

// enter counts a stream in, for exit to count out; false when there is no room.
func (p *peer) enter(channel wire.Channel, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.draining || p.streams[channel] >= limit {
		return false
	}
	p.streams[channel]++
	p.calls.Add(1) // before ended, and so before anybody waits
	return true
}

func (p *peer) exit(channel wire.Channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams[channel]--
	p.calls.Done()
}

// count counts a call in or out.
func (p *peer) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calling += n
	p.called, p.used = true, time.Now()
}

// idle tells since when the link has no call in flight, and whether it ever
// had one; false: it has one.
func (p *peer) idle() (since time.Time, called, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used, p.called, p.calling == 0
}

// serveStream answers the calls of one stream, one after the other.
func (p *peer) serveStream(st *stream, channel wire.Channel) {
	defer st.close()
	for {
		if err := st.await(); err != nil {
			return
		}
		m, err := st.receive(0, wire.MaxFrame)
		if err != nil {
			if wire.CodeOf(err) == wire.CodeProtocol || wire.CodeOf(err) == wire.CodeCorrupt {
				p.end(err)
			}
			return
		}
		if !p.s.begin() {
			return
		}
		p.count(1)
		again := p.call(st, m, channel)
		p.count(-1)
		p.s.finish()
		if !again {
			return
		}
	}
}
