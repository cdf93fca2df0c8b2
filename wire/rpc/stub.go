package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"tpcfs/wire"
)

// ServiceConn is a link to a coordinator.
type ServiceConn interface {
	wire.Service
	// Close ends the link and waits until its goroutines are gone.
	Close() error
	// Done is closed when the link has ended, for whatever reason.
	Done() <-chan struct{}
}

// ReplicaConn is a link to a participant.
type ReplicaConn interface {
	wire.Replica
	// Done is closed when the link has ended, for whatever reason.
	Done() <-chan struct{}
}

// DialService connects to the coordinator at "HOST:PORT" or "unix:PATH". One
// link, no retries. An error with Lost set means that nobody was reached.
func DialService(ctx context.Context, addr string, o DialOptions) (ServiceConn, error) {
	o.validate(48)
	l, err := dial(ctx, addr, wire.RoleClient, o)
	if err != nil {
		return nil, err
	}
	return &serviceStub{l}, nil
}

// DialReplica connects to the participant at "HOST:PORT" or "unix:PATH", as
// its coordinator. One link, no retries.
func DialReplica(ctx context.Context, addr string, o DialOptions) (ReplicaConn, error) {
	o.validate(208)
	l, err := dial(ctx, addr, wire.RoleCoordinator, o)
	if err != nil {
		return nil, err
	}
	return &replicaStub{l}, nil
}

func (l *link) Close() error          { l.close(); return nil }
func (l *link) Done() <-chan struct{} { return l.done }

type serviceStub struct{ *link }

func (s *serviceStub) Attach(ctx context.Context, req wire.Attach) (reply wire.Attached, err error) {
	return reply, s.ask(ctx, request{kind: wire.FrameAttach, header: req, reserved: true}, &reply)
}

func (s *serviceStub) Detach(ctx context.Context, session wire.SessionID) error {
	return s.ask(ctx, request{kind: wire.FrameDetach, header: wire.Detach{Session: session}, reserved: true}, &wire.Nothing{})
}

// Transact's context counts until the request is sent; after that, a cancel
// reaches the coordinator and the error is CodeUnknownOutcome.
func (s *serviceStub) Transact(ctx context.Context, req wire.Transact, payload []byte) (reply wire.TransactReply, err error) {
	if len(req.Mutations) > wire.MaxMutations {
		return reply, wire.NewError(wire.CodeTooMany, fmt.Sprintf("%d changes in one transaction, at most %d are allowed: split it", len(req.Mutations), wire.MaxMutations))
	}
	header := wire.Marshal(req)
	if len(header) > wire.MaxTransact || len(payload) > wire.MaxInline {
		return reply, transactTooLong(len(header), len(payload))
	}
	return reply, s.ask(ctx, request{kind: wire.FrameTransact, encoded: header, body: payload, effect: true}, &reply)
}

func (s *serviceStub) Stage(ctx context.Context, session wire.SessionID, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	return s.stage(ctx, wire.FrameStage, wire.SessionStage{Session: session, Request: req}, pieces)
}

func (s *serviceStub) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	return s.read(ctx, wire.FrameRead, req, req, w)
}

func (s *serviceStub) Lock(ctx context.Context, req wire.LockRequest) (reply wire.LockReply, err error) {
	return reply, s.ask(ctx, request{kind: wire.FrameLock, header: req, reserved: true}, &reply)
}

func (s *serviceStub) Statfs(ctx context.Context) (reply wire.Statfs, err error) {
	return reply, s.ask(ctx, request{kind: wire.FrameStatfs, header: wire.Nothing{}, reserved: true}, &reply)
}

func (s *serviceStub) Watch(ctx context.Context, req wire.Watch) (reply wire.Watched, err error) {
	return reply, s.ask(ctx, request{kind: wire.FrameWatch, header: req, reserved: true}, &reply)
}

func (s *serviceStub) Status(ctx context.Context, req wire.StatusRequest) (reply wire.Status, err error) {
	return reply, s.ask(ctx, request{kind: wire.FrameStatus, header: req, reserved: true}, &reply)
}

func (s *serviceStub) Scrub(ctx context.Context, req wire.ScrubRequest) (reply wire.ScrubReport, err error) {
	return reply, s.ask(ctx, request{kind: wire.FrameScrub, header: req, reserved: true}, &reply)
}

type replicaStub struct{ *link }

func (r *replicaStub) Greet(ctx context.Context, req wire.Greet) (wire.Greeting, wire.TxStream, error) {
	var greeting wire.Greeting
	st, err := r.take(ctx, r.control, true)
	if err != nil {
		return greeting, nil, err
	}
	stop := context.AfterFunc(ctx, st.abort)
	_, err = r.exchange(ctx, st, request{kind: wire.FrameGreet, header: req, goesOn: true}, &greeting)
	if !stop() && err == nil {
		err = givenUp(ctx, false)
	}
	if err != nil {
		r.give(r.control, st, false, true)
		return greeting, nil, plain(err)
	}
	return greeting, &txStream{l: r.link, st: st}, nil
}

func (r *replicaStub) Read(ctx context.Context, req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, error) {
	return r.read(ctx, wire.FrameReplicaRead, req, req.Read, w)
}

func (r *replicaStub) Stage(ctx context.Context, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	return r.stage(ctx, wire.FrameReplicaStage, req, pieces)
}

func (r *replicaStub) Unstage(ctx context.Context, epoch wire.Epoch, stages []wire.ID) error {
	return r.ask(ctx, request{kind: wire.FrameUnstage, header: wire.Unstage{Epoch: epoch, Stages: stages}}, &wire.Nothing{})
}

// Members has to wait for a place among the link's calls, as changes do.
func (s *serviceStub) Members(ctx context.Context, req wire.MembersRequest) (reply wire.MembersReply, err error) {
	return reply, s.ask(ctx, request{kind: wire.FrameMembers, header: req, effect: true}, &reply)
}

func (r *replicaStub) Status(ctx context.Context, req wire.StatusRequest) (reply wire.ReplicaStatus, err error) {
	return reply, r.ask(ctx, request{kind: wire.FrameReplicaStatus, header: req, reserved: true}, &reply)
}

// Donate goes over the bulk connection: votes are not kept waiting (W1).
func (r *replicaStub) Donate(ctx context.Context, req wire.Donate) (reply wire.Donated, body []byte, err error) {
	body, err = r.askBulk(ctx, request{kind: wire.FrameDonate, header: req}, &reply)
	return reply, body, err
}

func (r *replicaStub) Resync(ctx context.Context, req wire.Resync, body []byte) (reply wire.Resynced, err error) {
	_, err = r.askBulk(ctx, request{kind: wire.FrameResync, header: req, body: body}, &reply)
	return reply, err
}

func (r *replicaStub) Repair(ctx context.Context, req wire.Repair, body []byte) (reply wire.Repaired, err error) {
	_, err = r.askBulk(ctx, request{kind: wire.FrameRepair, header: req, body: body}, &reply)
	return reply, err
}

func (r *replicaStub) Verify(ctx context.Context, req wire.Verify) (reply wire.Verified, err error) {
	_, err = r.askBulk(ctx, request{kind: wire.FrameVerify, header: req}, &reply)
	return reply, err
}

func (r *replicaStub) Compare(ctx context.Context, req wire.Compare) (reply wire.Compared, body []byte, err error) {
	body, err = r.askBulk(ctx, request{kind: wire.FrameCompare, header: req}, &reply)
	return reply, body, err
}

// askBulk is ask on the bulk connection; it returns the answer's body too.
func (l *link) askBulk(ctx context.Context, req request, reply any) ([]byte, error) {
	st, err := l.take(ctx, l.bulk, false)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, st.abort)
	m, err := l.exchangeBody(ctx, st, req, reply)
	body := append([]byte(nil), m.body...)
	l.give(l.bulk, st, stop() && m.end, false)
	return body, plain(err)
}

// request is one call's first message.
type request struct {
	kind     wire.FrameKind
	header   any
	encoded  []byte // header, if it is encoded already
	body     []byte
	reserved bool // small and needed always: does not wait for other calls
	effect   bool // once sent, it may have happened
	goesOn   bool // more follows, both ways
}

// ask makes a call of one message each way on the control connection.
func (l *link) ask(ctx context.Context, req request, reply any) error {
	st, err := l.take(ctx, l.control, req.reserved)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, st.abort)
	end, err := l.exchange(ctx, st, req, reply)
	l.give(l.control, st, stop() && end, req.reserved)
	return plain(err)
}

// exchange sends a request and receives its answer. end says whether the
// stream can serve another call.
func (l *link) exchange(ctx context.Context, st *stream, req request, reply any) (end bool, err error) {
	m, err := l.exchangeBody(ctx, st, req, reply)
	return m.end, err
}

// exchangeBody is exchange for answers with a body, which is valid until the
// stream is used again.
func (l *link) exchangeBody(ctx context.Context, st *stream, req request, reply any) (m message, err error) {
	if req.encoded == nil {
		req.encoded = wire.Marshal(req.header)
	}
	if len(req.encoded)+len(req.body) > wire.MaxFrame {
		return m, wire.NewError(wire.CodeTooMany, fmt.Sprintf("a request of %d bytes, at most %d are allowed", len(req.encoded)+len(req.body), wire.MaxFrame))
	}
	if ctx.Err() != nil {
		return m, givenUp(ctx, false)
	}
	select {
	case <-l.done:
		return m, l.lost(false, nil)
	default:
	}
	if err := st.send(st.stall, req.kind, !req.goesOn, req.encoded, req.body); err != nil {
		return m, l.failed(ctx, req.effect, err)
	}
	m, err = st.receive(0, wire.MaxMessage)
	if err != nil {
		return m, l.failed(ctx, req.effect, err)
	}
	return m, l.parse(m, reply)
}

// parse decodes an answer.
func (l *link) parse(m message, reply any) error {
	switch m.kind {
	case wire.FrameReply:
		if err := wire.Unmarshal(m.header, reply); err != nil {
			return l.broken(err.Error())
		}
		return nil
	case wire.FrameError:
		e := new(wire.Error)
		if err := wire.Unmarshal(m.header, e); err != nil {
			return l.broken(err.Error())
		}
		if e.Code == wire.CodeNone { // who asks for the code would take it for success
			return l.broken("the peer answers with an error that is none")
		}
		return &answered{e}
	default:
		return l.broken(fmt.Sprintf("want an answer, got a frame of kind %d", m.kind))
	}
}

// answered is an error that the peer sent, as opposed to one of the link.
type answered struct{ e *wire.Error }

func (a *answered) Error() string { return a.e.Error() }
func (a *answered) Unwrap() error { return a.e }

// plain makes an answered error the *wire.Error that it holds. The caller of
// this call has not given up, so a peer that says so is shutting down: nothing
// was put, and another may be asked.
func plain(err error) error {
	var a *answered
	if !errors.As(err, &a) {
		return err
	}
	if a.e.Code == wire.CodeCanceled {
		e := *a.e
		e.Code, e.Lost = wire.CodeUnavailable, true
		return &e
	}
	return a.e
}

// failed is the error of a call whose stream failed.
func (l *link) failed(ctx context.Context, effect bool, err error) error {
	if ctx.Err() != nil {
		return givenUp(ctx, effect)
	}
	if code := wire.CodeOf(err); code == wire.CodeCorrupt || code == wire.CodeProtocol {
		l.fail(err) // garbled once, it is not trusted again
	}
	return l.lost(effect, err)
}

// stage sends contents on the bulk connection. An answer that comes before
// they are all sent, an error most likely, ends the sending.
func (l *link) stage(ctx context.Context, kind wire.FrameKind, header any, pieces wire.PieceReader) (wire.StageReply, error) {
	var reply wire.StageReply
	st, err := l.take(ctx, l.bulk, false)
	if err != nil {
		return reply, err
	}
	stop := context.AfterFunc(ctx, st.abort)
	var m message
	var received error
	answeredCh := make(chan struct{})
	go func() {
		defer close(answeredCh)
		m, received = st.receive(0, wire.MaxMessage)
		st.cutOff()
	}()
	whole, source := l.sendPieces(st, kind, header, pieces, answeredCh)
	if source != nil {
		st.abort() // no answer will come of this
	}
	<-answeredCh
	switch {
	case received == nil:
		err = l.parse(m, &reply)
	case source != nil:
		err = source
	default:
		err = l.failed(ctx, false, received)
	}
	l.give(l.bulk, st, stop() && whole && m.end, false)
	return reply, plain(err)
}

// sendPieces sends a stage's request and its pieces until they are all sent
// (whole), their source fails, an answer has come, or the stream fails.
func (l *link) sendPieces(st *stream, kind wire.FrameKind, header any, pieces wire.PieceReader, answered <-chan struct{}) (whole bool, source error) {
	err := st.send(st.stall, kind, false, wire.Marshal(header), nil)
	for err == nil {
		select {
		case <-answered:
			return false, nil
		default:
		}
		p, source := pieces.ReadPiece()
		switch {
		case errors.Is(source, io.EOF):
			err = st.send(st.stall, wire.FrameEnd, true, nil, nil)
			return err == nil, nil
		case source != nil:
			return false, source
		case len(p.Data) > wire.PieceSize:
			return false, wire.NewError(wire.CodeTooLarge, fmt.Sprintf("a piece of %d bytes, at most %d are allowed", len(p.Data), wire.PieceSize))
		}
		err = st.send(l.o.Timeouts.StageIdle, wire.FramePiece, false, wire.Marshal(p), p.Data)
	}
	// A peer that stopped reading without an answer will not give one.
	select {
	case <-answered:
	default:
		st.abort()
	}
	return false, nil
}

// read makes a read. Pieces go to w as they come; an error of w ends the read
// and is returned as it is.
func (l *link) read(ctx context.Context, kind wire.FrameKind, header any, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	ch := l.control
	if req.Kind == wire.ReadFile && req.Length > wire.PieceSize {
		ch = l.bulk
	}
	var reply wire.ReadReply
	err := l.readFrom(ctx, ch, kind, header, w, &reply)
	return reply, plain(err)
}

// readFrom makes a read, or with FrameAdopt the rest of one, on one connection.
func (l *link) readFrom(ctx context.Context, ch *channel, kind wire.FrameKind, header any, w wire.PieceWriter, reply *wire.ReadReply) error {
	st, err := l.take(ctx, ch, false)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, st.abort)
	end, err := l.receiveRead(ctx, st, request{kind: kind, header: header}, w, reply)
	l.give(ch, st, stop() && end, false)
	return err
}

func (l *link) receiveRead(ctx context.Context, st *stream, req request, w wire.PieceWriter, reply *wire.ReadReply) (end bool, err error) {
	if err := st.send(st.stall, req.kind, true, wire.Marshal(req.header), nil); err != nil {
		return false, l.failed(ctx, false, err)
	}
	for {
		m, err := st.receive(0, wire.MaxMessage)
		switch {
		case err != nil:
			return false, l.failed(ctx, false, err)
		case m.kind == wire.FramePiece && !m.end:
			p, err := decodePiece(m)
			if err != nil {
				return false, l.broken(err.Error())
			}
			p.Room = m.room // its header is decoded
			if err := w.WritePiece(p); err != nil {
				return false, err
			}
		case m.kind == wire.FrameMoved && req.kind != wire.FrameAdopt:
			var moved wire.Moved
			if err := wire.Unmarshal(m.header, &moved); err != nil {
				return false, l.broken(err.Error())
			}
			// This stream stays taken until the rest is read: the peer's
			// handler still watches it for a cancel.
			err := l.readFrom(ctx, l.bulk, wire.FrameAdopt, moved, w, reply)
			var a *answered
			return m.end && (err == nil || errors.As(err, &a)), err
		default:
			return m.end, l.parse(m, reply)
		}
	}
}
