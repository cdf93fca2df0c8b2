package rpc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tpcfs/wire"
)

// A read begins on the control connection unless it is known to be long. What
// fits in one piece comes back with the reply in one write, so that a small
// file costs one round trip. When there is more, the server says Moved, the
// client opens a bulk stream with Adopt, and the same handler goes on there:
// still one read of one version.

// move is a read that waits for its bulk stream, then uses it.
type move struct {
	adopted chan *stream  // never closed; room for one
	done    chan struct{} // closed when the read is over
	clean   bool          // set before done: the stream can serve another call
}

// read serves a call whose answer begins with pieces.
func read[Req any](c *call, m message, serve func(context.Context, Req, wire.PieceWriter) (wire.ReadReply, error)) bool {
	var req Req
	if err := c.decode(m.header, &req); err != nil {
		return c.answer(nil, err, m.end)
	}
	w := &pieceWriter{c: c, out: c.st, move: c.channel == wire.ChannelControl}
	c.watch()
	defer w.release(false) // a second one does nothing
	reply, err := serve(c.ctx, req, w)
	c.unwatch()
	w.ends()
	clean := c.answerOn(w.out, reply, err, m.end && w.failed == nil)
	w.release(clean)
	return clean
}

// pieceWriter sends a read's pieces.
type pieceWriter struct {
	c      *call
	move   bool // when there is too much, ask for a bulk stream
	moved  *move
	failed error

	mu          sync.Mutex // guards what follows, for others than the handler
	out         *stream    // changed by the handler only
	interrupted bool
	over        bool
}

// Interrupt implements wire.Interrupter. What the reader has not taken is in its
// way, so no word reaches it: its streams end. Behind the read come the streams'
// next calls, which are none of its business.
func (w *pieceWriter) Interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.interrupted {
		return
	}
	w.interrupted = true
	w.out.cutOff()
	w.c.cancel() // the wait for a bulk stream ends
}

// ends: nothing is interrupted any more.
func (w *pieceWriter) ends() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// goOn is told the stream that the rest goes to.
func (w *pieceWriter) goOn(st *stream, mv *move) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out, w.moved, w.move = st, mv, false
	if w.interrupted {
		st.cutOff()
	}
}

// Link implements wire.Linked.
func (w *pieceWriter) Link() wire.UUID { return w.c.p.nonce }

func (w *pieceWriter) WritePiece(p wire.Piece) error {
	if w.failed != nil {
		return w.failed
	}
	if len(p.Data) > wire.PieceSize {
		return wire.NewError(wire.CodeTooLarge, fmt.Sprintf("a piece of %d bytes, at most %d are allowed", len(p.Data), wire.PieceSize))
	}
	w.failed = w.write(p)
	return w.failed
}

func (w *pieceWriter) write(p wire.Piece) error {
	if err := w.c.ctx.Err(); err != nil {
		return toWire(err)
	}
	if w.move && len(w.out.wbuf)+len(p.Data) > wire.PieceSize {
		if err := w.toBulk(); err != nil {
			return err
		}
	}
	if w.move {
		w.out.put(wire.FramePiece, false, wire.Marshal(p), p.Data)
		return nil // goes with the reply, or before Moved
	}
	if err := w.out.sendPiece(w.out.stall, wire.Marshal(p), p); err != nil {
		return wire.NewError(wire.CodeCanceled, "the reader went away: "+err.Error())
	}
	return nil
}

// toBulk sends what is held, and waits for the stream that the rest goes to.
func (w *pieceWriter) toBulk() error {
	mv, token := w.c.p.newMove()
	w.out.put(wire.FrameMoved, true, wire.Marshal(wire.Moved{Token: token}), nil)
	if err := w.out.flush(w.out.stall); err != nil {
		w.take(mv, token)
		return wire.NewError(wire.CodeCanceled, "the reader went away: "+err.Error())
	}
	timer := time.NewTimer(w.out.stall)
	defer timer.Stop()
	select {
	case st := <-mv.adopted:
		w.goOn(st, mv)
		return nil
	case <-w.c.ctx.Done():
	case <-timer.C:
	}
	w.take(mv, token)
	return wire.NewError(wire.CodeCanceled, "the reader did not fetch the rest")
}

// take withdraws a move; a bulk stream that came all the same is taken, to be
// released with the error.
func (w *pieceWriter) take(mv *move, token uint64) {
	w.move = false
	if w.c.p.dropMove(token) == nil {
		w.goOn(<-mv.adopted, mv)
	}
}

// release gives the bulk stream back to the goroutine that it belongs to.
func (w *pieceWriter) release(clean bool) {
	if w.moved != nil {
		w.moved.clean = clean
		close(w.moved.done)
		w.moved = nil
	}
}

func (p *peer) newMove() (*move, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastMove++
	mv := &move{adopted: make(chan *stream, 1), done: make(chan struct{})}
	p.moves[p.lastMove] = mv
	return mv, p.lastMove
}

// dropMove forgets a token; the one who takes it out of the map owns it.
func (p *peer) dropMove(token uint64) *move {
	p.mu.Lock()
	defer p.mu.Unlock()
	mv := p.moves[token]
	delete(p.moves, token)
	return mv
}

// adopt lends this call's stream to the read that waits for it.
func (c *call) adopt(m message) bool {
	var req wire.Moved
	if err := c.decode(m.header, &req); err != nil {
		return c.answer(nil, err, m.end)
	}
	mv := c.p.dropMove(req.Token)
	if mv == nil || c.channel != wire.ChannelBulk {
		return c.answer(nil, wire.NewError(wire.CodeCanceled, "the read did not wait for this stream"), m.end)
	}
	mv.adopted <- c.st
	<-mv.done
	return mv.clean && m.end
}
