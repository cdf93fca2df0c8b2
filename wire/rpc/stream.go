package rpc

import (
	"bufio"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

const (
	// writeChunk is what one yamux frame carries at most: a piece with its
	// header. A larger one would delay all other streams (W1a).
	writeChunk = wire.PieceSize + 512
	// growStep is how much of a frame is allocated before its bytes arrive.
	growStep = 64 << 10
	// idleAfter is when a stream without calls gives its buffers back. Not at
	// once: making them anew for each call took longer than the call.
	idleAfter = time.Second
)

// message is one message of a stream: header joined, body of its last frame.
type message struct {
	kind   wire.FrameKind
	end    bool
	header []byte
	body   []byte
	room   []byte // the memory before body, header included (wire.Piece.Room)
}

// stream sends and receives messages over one yamux stream. One goroutine may
// send while another receives.
type stream struct {
	mux   *yamux.Stream
	br    *bufio.Reader
	stall time.Duration
	conn  *conn // that knows it; nil in tests

	rbuf []byte // wire.FrameRoom bytes, and those of the last frame; the receiver's
	wbuf []byte // the sender's

	mu      sync.Mutex // guards what follows, and orders it with the deadlines
	aborted bool       // sends and receives fail
	cut     bool       // sends fail
	deaf    bool       // receives fail
	// The deadlines that yamux has; zero: none.
	receiveBy, sendBy time.Time
}

func newStream(mux *yamux.Stream, stall time.Duration) *stream {
	return &stream{mux: mux, br: bufio.NewReaderSize(mux, 4096), stall: stall}
}

// abort makes every pending and future send and receive fail at once.
func (s *stream) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	_ = s.mux.SetDeadline(past) // only stores it
}

// cutOff makes every pending and future send fail at once.
func (s *stream) cutOff() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = true
	s.sendBy = past
	_ = s.mux.SetWriteDeadline(past) // only stores it
}

// interrupt makes a pending receive, and those to come until the next deadline
// is set, fail at once.
func (s *stream) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiveBy = past
	_ = s.mux.SetReadDeadline(past) // only stores it
}

// deafen makes every pending and future receive fail at once.
func (s *stream) deafen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = true
	s.receiveBy = past
	_ = s.mux.SetReadDeadline(past) // only stores it
}

func (s *stream) isDeaf() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deaf
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// readBy sets the deadline of receives, d from now; 0 is none.
func (s *stream) readBy(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.aborted && !s.deaf && moveDeadline(&s.receiveBy, d) {
		_ = s.mux.SetReadDeadline(s.receiveBy) // only stores it
	}
}

// writeBy sets the deadline of sends, d from now; 0 is none.
func (s *stream) writeBy(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.aborted && !s.cut && moveDeadline(&s.sendBy, d) {
		_ = s.mux.SetWriteDeadline(s.sendBy) // only stores it
	}
}

// moveDeadline moves a deadline to d from now (0: none) and reports whether that is
// worth telling, which wakes whoever waits: up to a sixteenth of d it is not.
func moveDeadline(by *time.Time, d time.Duration) bool {
	if d <= 0 {
		was := *by
		*by = time.Time{}
		return !was.IsZero()
	}
	now := time.Now()
	if left := by.Sub(now); left <= d && left > d-d/16 {
		return false
	}
	*by = now.Add(d)
	return true
}

// close ends the stream in both directions; a peer that waits hears of it.
func (s *stream) close() {
	s.abort()
	if s.conn != nil {
		s.conn.drop(s)
	}
	_ = s.mux.Close() // the session's death is the only error
}

// cause tells why a send or a receive failed: what ended the connection, if it
// did, rather than that this ended the stream.
func (s *stream) cause(err error) error {
	if s.conn != nil && errors.Is(err, yamux.ErrTimeout) {
		if why := s.conn.why(); why != nil {
			return why
		}
	}
	return err
}

// renew prepares a stream for its next call.
func (s *stream) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = false
}

// shrink gives an idle stream's memory back.
func (s *stream) shrink() {
	s.rbuf, s.wbuf = nil, nil
	s.mux.Shrink()
}

// await waits for the first byte of a call, for ever, and shrinks the stream
// meanwhile.
func (s *stream) await() error {
	if s.br.Buffered() > 0 {
		return nil
	}
	s.readBy(idleAfter)
	_, err := s.br.Peek(1)
	if !errors.Is(err, yamux.ErrTimeout) {
		return err
	}
	s.shrink()
	s.readBy(0)
	_, err = s.br.Peek(1)
	return err
}

// receive waits for the next message, at most wait (0: forever) for its first
// byte and the stream's stall for the rest. header and body are valid until
// the next call. limit bounds the joined headers, in bytes.
func (s *stream) receive(wait time.Duration, limit int) (message, error) {
	var joined []byte
	for {
		f, err := s.receiveFrame(wait)
		if err != nil {
			return message{}, s.cause(err)
		}
		m := message{kind: f.Kind, end: f.Flags&wire.FlagEnd != 0, header: f.Header, body: f.Body, room: s.rbuf[:wire.FrameRoom+len(f.Header)]}
		if f.Flags&wire.FlagMore == 0 && joined == nil {
			return m, nil
		}
		if len(joined)+len(f.Header) > limit || len(f.Header) == 0 && f.Flags&wire.FlagMore != 0 {
			return message{}, wire.NewError(wire.CodeProtocol, "a message is too long")
		}
		joined = append(joined, f.Header...)
		if f.Flags&wire.FlagMore == 0 {
			m.header = joined
			return m, nil
		}
		wait = s.stall
	}
}

// roomyBuffer holds what a transaction stream brings at once, unless it is much.
const roomyBuffer = 32 << 10

// roomy enlarges the receive buffer, so that holdsFrame sees more than a page.
func (s *stream) roomy() { s.br = bufio.NewReaderSize(s.br, roomyBuffer) }

// holdsFrame tells whether the next frame is here whole: receive will not wait.
func (s *stream) holdsFrame() bool {
	n := s.br.Buffered()
	if n < wire.FramePrefix {
		return false
	}
	prefix, _ := s.br.Peek(wire.FramePrefix) // that many are there
	length, err := wire.FrameLength(prefix)
	return err == nil && n >= wire.FramePrefix+length
}

func (s *stream) receiveFrame(wait time.Duration) (wire.Frame, error) {
	if s.br.Buffered() == 0 {
		s.readBy(wait)
		if _, err := s.br.Peek(1); err != nil {
			return wire.Frame{}, err
		}
	}
	if !s.holdsFrame() {
		s.readBy(s.stall)
	}
	var prefix [wire.FramePrefix]byte
	if _, err := io.ReadFull(s.br, prefix[:]); err != nil {
		return wire.Frame{}, noEOF(err)
	}
	n, err := wire.FrameLength(prefix[:])
	if err != nil {
		return wire.Frame{}, err
	}
	if err := s.fill(n); err != nil {
		return wire.Frame{}, noEOF(err)
	}
	return wire.ParseFrame(prefix[:], s.rbuf[wire.FrameRoom:])
}

// fill reads n bytes into rbuf, which grows as they come: a peer pays for
// memory with bytes.
func (s *stream) fill(n int) error {
	if s.rbuf == nil {
		s.rbuf = make([]byte, wire.FrameRoom, wire.FrameRoom+min(n, growStep))
	}
	n += wire.FrameRoom
	for have := wire.FrameRoom; have < n; {
		end := min(n, max(cap(s.rbuf), have+max(have, growStep)))
		if end > cap(s.rbuf) {
			s.rbuf = append(make([]byte, 0, end), s.rbuf[:have]...)
		}
		s.rbuf = s.rbuf[:end]
		got, err := io.ReadFull(s.br, s.rbuf[have:])
		if have += got; err != nil {
			return err
		}
	}
	s.rbuf = s.rbuf[:n]
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// put encodes a message behind what wbuf holds already.
func (s *stream) put(kind wire.FrameKind, end bool, header, body []byte) {
	flags := wire.FrameFlags(0)
	if end {
		flags = wire.FlagEnd
	}
	for len(header)+len(body) > wire.MaxFrame {
		n := min(len(header), wire.MaxRecord)
		s.wbuf = wire.AppendFrame(s.wbuf, wire.Frame{Kind: kind, Flags: wire.FlagMore, Header: header[:n]})
		header = header[n:]
	}
	s.wbuf = wire.AppendFrame(s.wbuf, wire.Frame{Kind: kind, Flags: flags, Header: header, Body: body})
}

// flush sends what put gathered; every window's worth within wait (0: forever).
func (s *stream) flush(wait time.Duration) error {
	b := s.wbuf
	s.wbuf = s.wbuf[:0]
	return s.write(b, wait)
}

func (s *stream) write(b []byte, wait time.Duration) error {
	for len(b) > 0 {
		s.writeBy(wait)
		n := min(len(b), writeChunk)
		if _, err := s.mux.Write(b[:n]); err != nil {
			s.endHalfAlive(err)
			return s.cause(err)
		}
		b = b[n:]
	}
	return nil
}

// sendPiece sends a piece with its header. Where there is room for that before
// its contents they are not copied.
func (s *stream) sendPiece(wait time.Duration, header []byte, p wire.Piece) error {
	if len(s.wbuf) == 0 {
		if b, ok := wire.FrameBefore(p.Room, wire.Frame{Kind: wire.FramePiece, Header: header, Body: p.Data}); ok {
			return s.write(b, wait)
		}
	}
	return s.send(wait, wire.FramePiece, false, header, p.Data)
}

// send is put and flush.
func (s *stream) send(wait time.Duration, kind wire.FrameKind, end bool, header, body []byte) error {
	s.put(kind, end, header, body)
	return s.flush(wait)
}

// endHalfAlive ends the session after a write that timed out: yamux goes on
// with streams whose windows are out of step.
func (s *stream) endHalfAlive(err error) {
	if errors.Is(err, yamux.ErrConnectionWriteTimeout) {
		_ = s.mux.Session().Close() // always nil
	}
}
