package participant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

type greetReply struct {
	greeting wire.Greeting
	err      error
}

// Greet implements wire.Replica.
func (p *Participant) Greet(ctx context.Context, req wire.Greet) (wire.Greeting, wire.TxStream, error) {
	s := newStream(req.Epoch, func() { p.bring(dueEntries, nil) })
	reply := make(chan greetReply, 1)
	if err := p.do(ctx, func() { p.greet(req, s, reply) }); err != nil {
		return wire.Greeting{}, nil, err
	}
	select {
	case r := <-reply:
		if r.err != nil {
			return r.greeting, nil, r.err
		}
		return r.greeting, s, nil
	case <-ctx.Done():
		_ = s.Close() // the owner lets go of it
		return wire.Greeting{}, nil, canceled(ctx)
	}
}

// greet fences (P6): from here on nothing older is handled or read, and the
// answer waits until the fence is durable with all that stands before it.
func (p *Participant) greet(req wire.Greet, s *stream, reply chan greetReply) {
	if p.resync.join != nil { // answered from what is durable (P6)
		p.resync.greets = append(p.resync.greets, func(err error) {
			if err != nil {
				s.end(err)
				reply <- greetReply{err: err}
				return
			}
			p.greet(req, s, reply)
		})
		return
	}
	held := p.m.Fence()
	if req.Epoch == held && req.Number < p.greeted { // it may say that this member is none, which it is by now
		reply <- greetReply{err: &wire.Error{Code: wire.CodeReplaced, Op: "greet", Text: "a newer greeting of this coordinator has come before it"}}
		return
	}
	greeting, out, err := p.m.Greet(req, p.store.UUID())
	if err != nil {
		reply <- greetReply{greeting, err}
		return
	}
	p.greeted = req.Number
	p.resync.attempt++ // what comes late, over a link that was given up, is of an older one
	p.setBeat(req.Heartbeat)
	why := &wire.Error{Code: wire.CodeReplaced, Text: "the coordinator has opened a newer stream"}
	switch {
	case out.Record != nil && req.Epoch == held:
		p.gate.behind()
	case out.Record != nil:
		why = &wire.Error{Code: wire.CodeStaleEpoch, Text: fmt.Sprintf("epoch %d has greeted this participant; %d is over", req.Epoch.Number, held.Number)}
		p.gate.fence(req.Epoch)
	}
	if p.stream != nil {
		p.stream.end(why)
		p.stream = nil
	}
	p.failGreets(why)
	p.greets = append(p.greets, heldGreeting{greeting, s, reply})
	if out.Record != nil {
		failpoint.At("participant.fence")
		p.votes, p.entries, p.durable, p.held = nil, nil, 0, false
		if err := p.effects(&out); err != nil {
			p.fail(err)
			return
		}
		lsn, err := p.writer.Append([][]byte{out.Record}, true)
		if err != nil {
			p.fail(err)
			return
		}
		p.end, p.fence, p.sealed = lsn, lsn, false
		p.armQuiet()
		p.log.Info("greeted", "epoch", req.Epoch.Number, "run", req.Epoch.Run, "before", held.Number)
		switch {
		case !req.Removed.IsZero():
			p.log.Warn("this participant was removed from its cluster: it serves nobody until its data directory is empty", "dir", p.o.Dir)
		case req.Outside:
			p.log.Info("out of sync: nothing is served until it has caught up", "dir", p.o.Dir, "given_up", len(out.Discard))
		}
		return
	}
	if p.fence <= p.peekSynced() {
		p.answerGreets()
	}
}

// answerGreets answers who has greeted, opens the stream, and votes again for
// what is undecided (P10); a YES whose record is not durable yet follows it.
func (p *Participant) answerGreets() {
	for _, g := range p.greets {
		failpoint.At("participant.fenced")
		p.stream = g.stream
		g.reply <- greetReply{greeting: g.greeting}
		waits := map[wire.ID]bool{}
		for _, v := range p.votes {
			waits[v.vote.Tx] = true
		}
		var again []wire.Vote
		for _, v := range p.m.Revotes() {
			if !waits[v.Tx] {
				again = append(again, v)
			}
		}
		p.post(again)
		p.again()
	}
	p.greets = nil
}

func (p *Participant) failGreets(err error) {
	for _, g := range p.greets {
		g.stream.end(err)
		g.reply <- greetReply{err: err}
	}
	p.greets = nil
}

// Read implements wire.Replica (P5).
func (p *Participant) Read(ctx context.Context, req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, error) {
	position, err := p.gate.wait(ctx, req.Epoch, req.Index)
	if err != nil {
		return wire.ReadReply{}, err
	}
	release, err := p.use()
	if err != nil {
		return wire.ReadReply{}, err
	}
	defer release()
	reply, err := p.store.Read(req.Read, &pieceWriter{ctx, p.quit, w})
	if err != nil {
		return wire.ReadReply{}, p.storeError(err)
	}
	reply.Position = position
	return reply, nil
}

// pieceWriter ends a read whose caller, or whose participant, has gone.
type pieceWriter struct {
	ctx  context.Context
	quit <-chan struct{}
	w    wire.PieceWriter
}

func (w *pieceWriter) WritePiece(piece wire.Piece) error {
	select {
	case <-w.ctx.Done():
		return canceled(w.ctx)
	case <-w.quit:
		return errStopping
	default:
		return w.w.WritePiece(piece)
	}
}

// Stage implements wire.Replica.
func (p *Participant) Stage(ctx context.Context, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	fail := func(err error) (wire.StageReply, error) {
		var we *wire.Error
		if errors.As(err, &we) && we.Name == "" {
			we = &wire.Error{Code: we.Code, Op: we.Op, Name: req.Name, Text: we.Text}
			err = we
		}
		return wire.StageReply{}, err
	}
	if req.ID.Epoch() != req.Epoch.Number || req.Size > wire.MaxFileSize {
		return fail(&wire.Error{Code: wire.CodeInvalid, Op: "stage", Text: fmt.Sprintf("stage %v of epoch %d with %d bytes", req.ID, req.Epoch.Number, req.Size)})
	}
	if req.Pack && (req.Size < 0 || req.Size > wire.MaxPack) {
		return fail(&wire.Error{Code: wire.CodeTooMany, Op: "stage", Text: fmt.Sprintf("a pack of %d bytes, at most %d", req.Size, wire.MaxPack)})
	}
	if err := p.gate.check(req.Epoch); err != nil {
		return fail(err)
	}
	st := &staging{p: p, ctx: ctx, req: &req}
	reply, err := st.run(pieces)
	if err != nil {
		return fail(err)
	}
	if req.Pack {
		if release, err := p.use(); err == nil {
			p.store.ReadyPack(reply.ID, reply.Size, reply.Sum)
			release()
		}
	}
	return reply, nil
}

// staging writes one staged object. It holds the store only while it works on
// it, never while it waits for a piece.
type staging struct {
	p     *Participant
	ctx   context.Context
	req   *wire.StageRequest
	stage interface {
		Write(wire.Piece) error
		Finish(context.Context) (wire.StageReply, error)
		Discard()
	}
	size int64
}

// with calls fn while the store is open and the epoch holds.
func (s *staging) with(fn func() error) error {
	release, err := s.p.use()
	if err != nil {
		return err
	}
	defer release()
	if err = s.ctx.Err(); err != nil {
		err = canceled(s.ctx)
	} else if err = s.p.gate.check(s.req.Epoch); err == nil {
		err = fn()
	}
	if err != nil && s.stage != nil {
		s.stage.Discard()
		s.stage = nil
	}
	return s.p.storeError(err)
}

func (s *staging) run(pieces wire.PieceReader) (wire.StageReply, error) {
	err := s.with(func() error {
		st, err := s.p.store.NewStage(s.req.ID, s.req.Skew)
		if err == nil {
			s.stage = st
		}
		return err
	})
	if err != nil {
		return wire.StageReply{}, err
	}
	for {
		piece, err := pieces.ReadPiece()
		if errors.Is(err, io.EOF) {
			break
		}
		if werr := s.with(func() error { return s.write(piece, err) }); werr != nil {
			return wire.StageReply{}, werr
		}
	}
	var reply wire.StageReply
	err = s.with(func() error {
		if s.req.Size >= 0 && s.size != s.req.Size {
			return &wire.Error{Code: wire.CodeProtocol, Op: "stage", Text: fmt.Sprintf("%d bytes came of %d", s.size, s.req.Size)}
		}
		failpoint.At("participant.staged")
		st := s.stage
		var err error
		if reply, err = st.Finish(s.ctx); err == nil {
			failpoint.At("participant.stage-synced")
		}
		return err
	})
	return reply, err
}

func (s *staging) write(piece wire.Piece, err error) error {
	if err != nil {
		return err
	}
	s.size += int64(len(piece.Data))
	if s.req.Size >= 0 && s.size > s.req.Size {
		return &wire.Error{Code: wire.CodeProtocol, Op: "stage", Text: fmt.Sprintf("more than the %d bytes that were announced", s.req.Size)}
	}
	return s.stage.Write(piece)
}

// Unstage implements wire.Replica. What a prepare has consumed stays; what a
// crash has left of a stage goes.
func (p *Participant) Unstage(ctx context.Context, epoch wire.Epoch, stages []wire.ID) error {
	if len(stages) > wire.MaxMutations {
		return &wire.Error{Code: wire.CodeTooMany, Op: "unstage", Text: fmt.Sprintf("%d stages at once", len(stages))}
	}
	if err := p.gate.check(epoch); err != nil {
		return err
	}
	var failed error
	err := p.do(ctx, func() {
		var free []wire.ID
		for _, id := range stages {
			if !p.m.Consumes(id) {
				free = append(free, id)
			}
		}
		p.store.Unstage(free)
		failed = p.store.Failed()
	})
	if err != nil {
		return err
	}
	return p.storeError(failed)
}

// Status implements wire.Replica.
func (p *Participant) Status(ctx context.Context, req wire.StatusRequest) (wire.ReplicaStatus, error) {
	var st wire.ReplicaStatus
	release, err := p.use()
	if err != nil {
		return st, err
	}
	defer release()
	err = p.do(ctx, func() {
		position := p.m.Position()
		st = wire.ReplicaStatus{Storage: p.store.UUID(), Epoch: p.m.Fence(), Handled: position,
			Durable: wire.Position{Epoch: position.Epoch, Index: p.durable}, W: p.m.W(), InDoubt: p.m.InDoubt()}
		if req.Standing {
			st.Standing = p.m.Standing(st.Storage)
		}
	})
	if err != nil {
		return st, err
	}
	js, ss := p.writer.Stats(), p.store.Stats()
	st.JournalBytes, st.Syncs = js.Bytes, js.Syncs
	st.Total, st.Free, st.Files = ss.Total, ss.Free, ss.Files
	if ss.FilesLeft != math.MaxUint64 {
		st.FilesLeft = &ss.FilesLeft
	}
	if req.Digest && st.InDoubt == 0 {
		st.Digest = p.digest(ctx, st.Handled)
	}
	return st, nil
}

// digestCache keeps the last digest: it is of everything, and costs as much.
type digestCache struct {
	gate  chan struct{} // capacity 1: held while one is made
	mu    sync.Mutex    // guards at and value
	at    wire.Position
	value string
}

// digest returns the digest of all files as of that position, "" if the state
// has moved on or it takes too long.
func (p *Participant) digest(ctx context.Context, at wire.Position) string {
	c := &p.digests
	select {
	case c.gate <- struct{}{}:
		defer func() { <-c.gate }()
	case <-ctx.Done():
		return ""
	}
	c.mu.Lock()
	cached, value := c.at, c.value
	c.mu.Unlock()
	if cached == at && value != "" {
		return value
	}
	value, err := p.store.Digest(ctx)
	if err != nil {
		_ = p.storeError(err) // a damaged store ends the participant, which says why
		return ""
	}
	var now wire.Position
	doubt := 1
	if err := p.do(ctx, func() { now, doubt = p.m.Position(), p.m.InDoubt() }); err != nil || now != at || doubt != 0 {
		return ""
	}
	c.mu.Lock()
	c.at, c.value = at, value
	c.mu.Unlock()
	return value
}

// Replica returns a handle for a coordinator in this process: its Close ends
// the streams that it opened, not the participant.
func (p *Participant) Replica() wire.Replica { return &replica{Participant: p} }

type replica struct {
	*Participant
	mu     sync.Mutex // guards stream
	stream wire.TxStream
}

var _ wire.Replica = (*replica)(nil)

// Greet implements wire.Replica.
func (r *replica) Greet(ctx context.Context, req wire.Greet) (wire.Greeting, wire.TxStream, error) {
	greeting, s, err := r.Participant.Greet(ctx, req)
	if err == nil {
		r.mu.Lock()
		r.stream = s
		r.mu.Unlock()
	}
	return greeting, s, err
}

// Close implements wire.Replica.
func (r *replica) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stream != nil {
		return r.stream.Close()
	}
	return nil
}
