package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

// watchDelay is after how long a call's stream is watched for the caller's
// cancel: shorter calls are not worth a goroutine.
const watchDelay = 5 * time.Millisecond

// call is one call of a peer, on the server's side.
type call struct {
	p       *peer
	st      *stream
	channel wire.Channel
	ctx     context.Context // ends when the caller gives up, too
	cancel  context.CancelFunc
	timer   *time.Timer // starts the watch
	watched chan struct{}
	held    int64 // of p.pending
}

// call answers one call; false when its stream is of no more use.
func (p *peer) call(st *stream, m message, channel wire.Channel) (again bool) {
	c := &call{p: p, st: st, channel: channel}
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	defer c.cancel()
	defer func() { p.pending.Release(c.held) }()
	defer func() {
		if r := recover(); r != nil {
			p.log.Error("a handler panicked", "kind", m.kind, "panic", r, "stack", string(debug.Stack()))
			c.unwatch()
			again = c.answer(nil, wire.NewError(wire.CodeIO, fmt.Sprintf("a bug in the server, which has logged it: %v", r)), false)
		}
	}()
	if p.role == wire.RoleClient {
		return c.service(m)
	}
	return c.replica(m)
}

func (c *call) service(m message) bool {
	s := c.p.s.o.Service
	switch m.kind {
	case wire.FrameAttach:
		return unary(c, m, func(ctx context.Context, a wire.Attach) (wire.Attached, error) {
			got, err := s.Attach(ctx, a)
			if err == nil {
				c.p.attaches(a.Session)
			}
			return got, err
		})
	case wire.FrameDetach:
		return unary(c, m, func(ctx context.Context, d wire.Detach) (wire.Nothing, error) {
			err := s.Detach(ctx, d.Session)
			if err == nil {
				c.p.detached(d.Session)
			}
			return wire.Nothing{}, err
		})
	case wire.FrameTransact:
		return c.transact(m)
	case wire.FrameStage:
		return stage(c, m, func(ctx context.Context, req wire.SessionStage, r wire.PieceReader) (wire.StageReply, error) {
			return s.Stage(ctx, req.Session, req.Request, r)
		})
	case wire.FrameRead:
		return read(c, m, s.Read)
	case wire.FrameLock:
		return unary(c, m, s.Lock)
	case wire.FrameStatfs:
		return unary(c, m, func(ctx context.Context, _ wire.Nothing) (wire.Statfs, error) { return s.Statfs(ctx) })
	case wire.FrameWatch:
		return unary(c, m, s.Watch)
	case wire.FrameStatus:
		return unary(c, m, s.Status)
	case wire.FrameMembers:
		return unary(c, m, func(ctx context.Context, req wire.MembersRequest) (wire.MembersReply, error) {
			if err := c.p.who.operates(c.p.s.o.Operators); err != nil {
				return wire.MembersReply{}, err
			}
			req.By = c.p.who.signs(req.By)
			return s.Members(ctx, req)
		})
	case wire.FrameScrub:
		return unary(c, m, func(ctx context.Context, req wire.ScrubRequest) (wire.ScrubReport, error) {
			if err := c.p.who.operates(c.p.s.o.Operators); err != nil && (req.Start || req.Stop != 0) {
				return wire.ScrubReport{}, err
			}
			return s.Scrub(ctx, req)
		})
	case wire.FrameAdopt:
		return c.adopt(m)
	default:
		return c.unsupported(m)
	}
}

func (c *call) replica(m message) bool {
	r := c.p.s.o.Replica
	switch m.kind {
	case wire.FrameGreet:
		return c.greet(m)
	case wire.FrameReplicaRead:
		return read(c, m, r.Read)
	case wire.FrameReplicaStage:
		return stage(c, m, r.Stage)
	case wire.FrameUnstage:
		return unary(c, m, func(ctx context.Context, u wire.Unstage) (wire.Nothing, error) {
			return wire.Nothing{}, r.Unstage(ctx, u.Epoch, u.Stages)
		})
	case wire.FrameReplicaStatus:
		return unary(c, m, r.Status)
	case wire.FrameDonate:
		return withBody(c, m, r.Donate)
	case wire.FrameResync:
		body := append([]byte(nil), m.body...)
		return unary(c, m, func(ctx context.Context, req wire.Resync) (wire.Resynced, error) { return r.Resync(ctx, req, body) })
	case wire.FrameVerify:
		return unary(c, m, r.Verify)
	case wire.FrameCompare:
		return withBody(c, m, r.Compare)
	case wire.FrameRepair:
		body := append([]byte(nil), m.body...)
		return unary(c, m, func(ctx context.Context, req wire.Repair) (wire.Repaired, error) { return r.Repair(ctx, req, body) })
	case wire.FrameAdopt:
		return c.adopt(m)
	default:
		return c.unsupported(m)
	}
}

// unsupported refuses a kind of another version: the link goes on.
func (c *call) unsupported(m message) bool {
	return c.answer(nil, wire.NewError(wire.CodeUnsupported, fmt.Sprintf("no call of kind %d here: the peers' versions differ", m.kind)), m.end)
}

// decode decodes a header. Large ones queue: decoded, a hostile one may take
// fifty times its size for a moment.
func (c *call) decode(header []byte, v any) error {
	if len(header) > 4<<10 {
		c.p.s.decoding <- struct{}{}
		defer func() { <-c.p.s.decoding }()
	}
	return wire.Unmarshal(header, v)
}

// hold waits until the link may have n more bytes of requests in memory.
func (c *call) hold(n int64) error {
	n = min(n, c.p.s.o.MaxPending)
	if err := c.p.pending.Acquire(c.ctx, n); err != nil {
		return err
	}
	c.held += n
	return nil
}

// watch notices from now on when the caller gives up.
func (c *call) watch() {
	c.watched = make(chan struct{})
	c.timer = time.AfterFunc(watchDelay, func() {
		defer close(c.watched)
		c.st.readBy(0)
		if _, err := c.st.br.Peek(1); err != nil && !errors.Is(err, yamux.ErrTimeout) { // that is unwatch
			c.cancel()
		}
	})
}

// unwatch ends the watch; the stream can be read again.
func (c *call) unwatch() {
	if c.timer == nil || c.timer.Stop() {
		c.timer = nil
		return
	}
	c.timer = nil
	// The deadline is set until it works: the watch may be just about to
	// take it away.
	for tick := time.NewTicker(time.Millisecond); ; {
		c.st.interrupt()
		select {
		case <-c.watched:
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

// answer sends the reply or the error. clean says whether the stream can serve
// another call after it; the result, whether it really can.
func (c *call) answer(reply any, err error, clean bool) bool {
	return c.answerOn(c.st, reply, err, clean)
}

func (c *call) answerOn(st *stream, reply any, err error, clean bool) bool {
	return c.answerWith(st, reply, nil, err, clean)
}

func (c *call) answerWith(st *stream, reply any, body []byte, err error, clean bool) bool {
	if err != nil {
		st.put(wire.FrameError, clean, wire.Marshal(toWire(err)), nil)
	} else {
		header := wire.Marshal(reply)
		if len(header) > wire.MaxMessage {
			return c.answerOn(st, nil, wire.NewError(wire.CodeTooMany, "the answer is too long"), clean)
		}
		st.put(wire.FrameReply, clean, header, body)
	}
	if err := st.flush(st.stall); err != nil {
		c.p.log.Debug("could not answer", "err", err)
		return false
	}
	return clean
}

// toWire makes any error one that can go on the wire.
func toWire(err error) *wire.Error {
	var e *wire.Error
	switch {
	case errors.As(err, &e) && e != nil:
		return e
	case errors.Is(err, context.Canceled):
		return wire.NewError(wire.CodeCanceled, "the caller gave up")
	default:
		return wire.NewError(wire.CodeIO, err.Error())
	}
}

// unary serves a call of one frame each way.
func unary[Req, Reply any](c *call, m message, serve func(context.Context, Req) (Reply, error)) bool {
	var req Req
	if err := c.decode(m.header, &req); err != nil {
		return c.answer(nil, err, m.end)
	}
	c.watch()
	reply, err := serve(c.ctx, req)
	c.unwatch()
	return c.answer(reply, err, m.end)
}

// withBody serves a call whose answer has a body: rows or blocks.
func withBody[Req, Reply any](c *call, m message, serve func(context.Context, Req) (Reply, []byte, error)) bool {
	var req Req
	if err := c.decode(m.header, &req); err != nil {
		return c.answer(nil, err, m.end)
	}
	c.watch()
	reply, body, err := serve(c.ctx, req)
	c.unwatch()
	if err == nil && len(body) > wire.MaxFrame {
		err = wire.NewError(wire.CodeTooMany, fmt.Sprintf("rows of %d bytes, at most %d fit", len(body), wire.MaxFrame))
	}
	return c.answerWith(c.st, reply, body, err, m.end)
}

func (c *call) transact(m message) bool {
	if len(m.header) > wire.MaxTransact || len(m.body) > wire.MaxInline {
		return c.answer(nil, transactTooLong(len(m.header), len(m.body)), m.end)
	}
	var req wire.Transact
	if err := c.decode(m.header, &req); err != nil {
		return c.answer(nil, err, m.end)
	}
	payload := append([]byte(nil), m.body...)
	cost := len(m.header) + len(payload)
	for i := range req.Mutations {
		cost += req.Mutations[i].Cost()
	}
	c.watch()
	defer c.unwatch() // only when hold or the handler fails badly
	if err := c.hold(int64(cost)); err != nil {
		return c.answer(nil, wire.NewError(wire.CodeCanceled, "the caller gave up"), m.end)
	}
	reply, err := c.p.s.o.Service.Transact(c.ctx, req, payload)
	c.unwatch()
	return c.answer(reply, err, m.end)
}

func transactTooLong(header, payload int) *wire.Error {
	if payload > wire.MaxInline {
		return wire.NewError(wire.CodeTooMany, fmt.Sprintf("%d bytes of inline contents, at most %d are allowed: stage them", payload, wire.MaxInline))
	}
	return wire.NewError(wire.CodeTooMany, fmt.Sprintf("%d bytes of names and attributes in one transaction, at most %d are allowed: split it", header, wire.MaxTransact))
}

// stage serves a call whose request goes on with pieces.
func stage[Req any](c *call, m message, serve func(context.Context, Req, wire.PieceReader) (wire.StageReply, error)) bool {
	var req Req
	if err := c.decode(m.header, &req); err != nil {
		return c.answer(nil, err, false)
	}
	r := &pieceReader{c: c, over: m.end}
	reply, err := serve(c.ctx, req, r)
	c.unwatch()
	// With pieces on their way still, the stream has no clean end.
	return c.answer(reply, err, r.over && r.failed == nil)
}

// pieceReader gives a stage's pieces as they come.
type pieceReader struct {
	c      *call
	over   bool // all have come
	failed error

	mu sync.Mutex // over is set with mu held
}

// Interrupt implements wire.Interrupter. Behind the last piece comes the
// stream's next call, which is none of its business.
func (r *pieceReader) Interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.c.st.deafen()
	}
}

// ends: the last piece has come. false: too late, nothing is heard any more.
func (r *pieceReader) ends() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = !r.c.st.isDeaf()
	return r.over
}

func (r *pieceReader) ReadPiece() (wire.Piece, error) {
	switch {
	case r.failed != nil:
		return wire.Piece{}, r.failed
	case r.over:
		return wire.Piece{}, io.EOF
	}
	m, err := r.c.st.receive(r.c.p.s.o.Timeouts.StageIdle, 0)
	if err != nil {
		r.failed = wire.NewError(wire.CodeCanceled, "the contents stopped coming: "+err.Error())
		if e := (*wire.Error)(nil); errors.As(err, &e) {
			r.failed = e
		}
		return wire.Piece{}, r.failed
	}
	if m.kind == wire.FrameEnd && m.end {
		if !r.ends() {
			r.failed = wire.NewError(wire.CodeCanceled, "the contents are not wanted any more")
			return wire.Piece{}, r.failed
		}
		r.c.watch()
		return wire.Piece{}, io.EOF
	}
	p, err := decodePiece(m)
	if err != nil {
		r.failed = err
	}
	return p, err
}

func decodePiece(m message) (wire.Piece, error) {
	var p wire.Piece
	if m.kind != wire.FramePiece || len(m.body) > wire.PieceSize {
		return p, wire.NewError(wire.CodeProtocol, fmt.Sprintf("want a piece of contents, got a frame of kind %d with %d bytes", m.kind, len(m.body)))
	}
	if err := wire.Unmarshal(m.header, &p); err != nil {
		return p, err
	}
	p.Data = m.body
	return p, nil
}
