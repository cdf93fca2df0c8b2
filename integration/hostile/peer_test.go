package hostile

import (
	"crypto/rand"
	"io"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

// Bounds of one input.
const (
	maxSteps   = 64
	maxStreams = 12
	maxSilence = 3 // waits for what does not come
	stepWait   = 50 * time.Millisecond
)

// call is a kind of request, with what its header is.
type call struct {
	kind   wire.FrameKind
	header any
}

var clientCalls = []call{
	{wire.FrameTransact, wire.Transact{}}, {wire.FrameRead, wire.Read{}}, {wire.FrameStage, wire.SessionStage{}}, {wire.FrameAttach, wire.Attach{}},
	{wire.FrameLock, wire.LockRequest{}}, {wire.FrameWatch, wire.Watch{}}, {wire.FrameDetach, wire.Detach{}}, {wire.FrameStatfs, wire.Nothing{}},
	{wire.FrameStatus, wire.StatusRequest{}}, {wire.FrameScrub, wire.ScrubRequest{}}, {wire.FrameAdopt, wire.Moved{}}, {wire.FrameGreet, wire.Greet{}}, {wire.FrameReplicaRead, wire.PositionedRead{}},
}

var coordinatorCalls = []call{
	{wire.FrameGreet, wire.Greet{}}, {wire.FrameDown, wire.Down{}}, {wire.FrameReplicaRead, wire.PositionedRead{}}, {wire.FrameReplicaStage, wire.StageRequest{}},
	{wire.FrameUnstage, wire.Unstage{}}, {wire.FrameReplicaStatus, wire.StatusRequest{}}, {wire.FrameDonate, wire.Donate{}}, {wire.FrameResync, wire.Resync{}}, {wire.FrameRepair, wire.Repair{}}, {wire.FrameVerify, wire.Verify{}}, {wire.FrameCompare, wire.Compare{}},
	{wire.FrameAdopt, wire.Moved{}}, {wire.FrameTransact, wire.Transact{}}, {wire.FrameUp, wire.Up{}},
}

// peer is one side of a session that a script tells what to say.
type peer struct {
	addr string
	role wire.Role
	s    *script
	k    known
	wait time.Duration // for what may not come

	links   []*rawLink
	streams []*rawStream
	current *rawStream
	last    []byte // the last frame
	piece   int64  // where the next one goes
	silence int
}

type rawLink struct {
	conns    []net.Conn
	sessions []*yamux.Session // control, bulk
}

type rawStream struct {
	*yamux.Stream
	asked []wire.FrameKind // the requests without an answer
}

func (l *rawLink) close() {
	for _, c := range l.conns {
		_ = c.Close() // what is lost with it is meant to be
	}
	for _, y := range l.sessions {
		_ = y.Close() // always nil
	}
}

// preface exchanges prefaces; nil: the other side ended it.
func (p *peer) preface(ours wire.Preface) net.Conn {
	c, err := net.Dial("unix", strings.TrimPrefix(p.addr, "unix:"))
	if err != nil {
		return nil
	}
	_ = c.SetDeadline(time.Now().Add(patience)) // it is a new one
	prefix := make([]byte, wire.PrefacePrefix)
	_, err = c.Write(wire.AppendPreface(nil, ours))
	if err == nil {
		_, err = io.ReadFull(c, prefix)
	}
	n, lerr := wire.PrefaceLength(prefix)
	if err == nil && lerr == nil {
		_, err = io.ReadFull(c, make([]byte, n))
	}
	if err != nil || lerr != nil {
		_ = c.Close() // it is useless
		return nil
	}
	return c
}

// connect opens a whole link.
func (p *peer) connect() {
	if len(p.links) >= 4 {
		return
	}
	ours := wire.Preface{Versions: wire.Versions, Role: p.role}
	_, _ = rand.Read(ours.Nonce[:]) // never fails
	l := &rawLink{}
	p.links = append(p.links, l)
	for _, channel := range []wire.Channel{wire.ChannelControl, wire.ChannelBulk} {
		ours.Channel = channel
		c := p.preface(ours)
		if c == nil {
			return
		}
		l.conns = append(l.conns, c)
		config := yamux.DefaultConfig()
		config.LogOutput, config.EnableKeepAlive, config.StreamOpenTimeout = io.Discard, false, 0
		config.ConnectionWriteTimeout = time.Second
		y, err := yamux.Client(c, config)
		if err != nil {
			return
		}
		l.sessions = append(l.sessions, y)
	}
}

// open opens a stream and makes it the current one.
func (p *peer) open(channel int) {
	if len(p.links) == 0 || len(p.streams) >= maxStreams {
		return
	}
	l := p.links[len(p.links)-1]
	if channel >= len(l.sessions) || l.sessions[channel].IsClosed() {
		return
	}
	y, err := l.sessions[channel].OpenStream()
	if err != nil {
		return
	}
	p.current = &rawStream{Stream: y}
	p.streams = append(p.streams, p.current)
	p.piece = 0
}

// write says bytes on the current stream.
func (p *peer) write(b []byte) {
	if p.current == nil {
		p.open(0)
	}
	if p.current == nil {
		return
	}
	_ = p.current.SetDeadline(time.Now().Add(p.wait)) // only stores it
	_, _ = p.current.Write(b)                         // the other side may have ended it
}

func (p *peer) frame(kind wire.FrameKind, flags wire.FrameFlags, header, body []byte) {
	if len(header)+len(body) > wire.MaxFrame {
		header, body = header[:min(len(header), wire.MaxRecord)], body[:min(len(body), 1000)]
	}
	p.last = wire.AppendFrame(nil, wire.Frame{Kind: kind, Flags: flags, Header: header, Body: body})
}

// request makes one of those calls, its fields filled in.
func (p *peer) request(calls []call) {
	c := calls[int(p.s.byte())%len(calls)]
	v := reflect.New(reflect.TypeOf(c.header))
	p.k.fill(p.s, v.Elem(), "", 0)
	var body []byte
	flags := wire.FlagEnd
	switch h := v.Interface().(type) {
	case *wire.Transact:
		if p.s.byte() < 192 {
			body = p.k.mend(p.s, h.Mutations)
		}
	case *wire.SessionStage, *wire.StageRequest, *wire.Greet:
		flags = 0
	case *wire.Down:
		flags, body = 0, p.down(h)
	}
	if c := p.s.byte(); c >= 224 {
		flags = wire.FrameFlags(c % 4)
	}
	if c := p.s.byte(); c >= 224 {
		body = append(body, p.s.take(int(c-224))...)
	}
	p.frame(c.kind, flags, wire.Marshal(v.Elem().Interface()), body)
	p.write(p.last)
	if p.current != nil {
		p.current.asked, p.piece = append(p.current.asked, c.kind), 0
	}
}

// receive waits for an answer on the current stream, and learns from it.
func (p *peer) receive() {
	if p.current == nil || p.silence >= maxSilence {
		return
	}
	for {
		_ = p.current.SetDeadline(time.Now().Add(p.wait)) // only stores it
		prefix := make([]byte, wire.FramePrefix)
		if _, err := io.ReadFull(p.current, prefix); err != nil {
			p.silence++
			return
		}
		n, err := wire.FrameLength(prefix)
		if err != nil {
			return
		}
		rest := make([]byte, n)
		if _, err := io.ReadFull(p.current, rest); err != nil {
			return
		}
		f, err := wire.ParseFrame(prefix, rest)
		if err != nil {
			return
		}
		if f.Kind != wire.FramePiece {
			p.learn(f)
			return
		}
	}
}

func (p *peer) learn(f wire.Frame) {
	var asked wire.FrameKind
	if q := p.current.asked; len(q) > 0 {
		asked, p.current.asked = q[0], q[1:]
	}
	if f.Kind != wire.FrameReply {
		return
	}
	switch asked {
	case wire.FrameAttach:
		var a wire.Attached
		if wire.Unmarshal(f.Header, &a) == nil {
			p.k.link, p.k.epoch.Number = a.Link, a.Epoch
		}
	case wire.FrameStage, wire.FrameReplicaStage:
		var r wire.StageReply
		if wire.Unmarshal(f.Header, &r) == nil {
			p.k.stages = append(p.k.stages, r)
		}
	case wire.FrameTransact:
		var r wire.TransactReply
		if wire.Unmarshal(f.Header, &r) == nil {
			for _, one := range r.Outcome.Results {
				p.k.inos = append(p.k.inos, one.Ino)
			}
		}
	case wire.FrameGreet:
		var g wire.Greeting
		if wire.Unmarshal(f.Header, &g) == nil && g.Position.Epoch == p.k.epoch.Number {
			p.k.index = g.Position.Index
		}
	}
}

// sendPiece says a piece of contents, right or not.
func (p *peer) sendPiece() {
	n := []int{1, 1000, wire.BlockSize, wire.PieceSize, wire.PieceSize + 1, 0, 8<<10 + 1}[p.s.byte()%7]
	data := make([]byte, n)
	copy(data, p.s.take(8))
	piece := wire.Piece{Offset: p.piece, Sum: wire.Sum(data)}
	if c := p.s.byte(); c >= 192 {
		piece.Offset = int64(p.k.number(p.s, c, ""))
	}
	if c := p.s.byte(); c >= 224 {
		piece.Sum ^= uint32(c)
	}
	p.frame(wire.FramePiece, 0, wire.Marshal(piece), data)
	p.write(p.last)
	p.piece += int64(n)
}

// below says bytes that are not yamux's, or words of yamux that are wrong.
func (p *peer) below() {
	if len(p.links) == 0 {
		return
	}
	l := p.links[len(p.links)-1]
	if len(l.conns) == 0 {
		return
	}
	b := []byte{p.s.byte() % 4, p.s.byte() % 8, 0, p.s.byte() % 16, 0, 0, 0, p.s.byte(), p.s.byte(), p.s.byte(), p.s.byte(), p.s.byte()}
	b = append(b, p.s.take(int(p.s.byte()))...)
	c := l.conns[int(p.s.byte())%len(l.conns)]
	_, _ = c.Write(b) // the other side may have ended it
}

// run carries a script out.
func (p *peer) run(calls []call) {
	p.connect()
	for range maxSteps {
		if p.s.over() {
			return
		}
		p.step(calls)
	}
}

func (p *peer) step(calls []call) {
	switch p.s.byte() % 20 {
	case 0, 1, 2, 3:
		p.request(calls)
	case 4, 5:
		p.receive()
	case 6, 7:
		p.sendPiece()
	case 8:
		p.frame(wire.FrameEnd, wire.FlagEnd, nil, nil)
		p.write(p.last)
	case 9:
		p.open(0)
	case 10:
		p.open(1)
	case 11:
		p.write(p.last) // once more
	case 12:
		if len(p.last) > 0 {
			p.write(spoil(p.s, p.last))
		}
	case 13:
		p.write(p.s.take(int(p.s.byte())))
	case 14:
		if p.current != nil {
			_ = p.current.Close() // the session's death is the only error
		}
	case 15:
		if n := len(p.streams); n > 0 {
			p.current = p.streams[int(p.s.byte())%n]
		}
	case 16:
		p.frame(wire.FrameKind(p.s.byte()|1), wire.FrameFlags(p.s.byte()%4), p.s.take(int(p.s.byte())), p.s.take(int(p.s.byte())))
		p.write(p.last)
	case 17:
		p.below()
	case 18:
		if n := len(p.links); n > 0 && p.s.byte() >= 64 {
			p.links[n-1].close()
		}
		p.connect()
	case 19:
		p.pipelined(calls)
	}
}

// pipelined says several requests in one write.
func (p *peer) pipelined(calls []call) {
	var all []byte
	for range 1 + p.s.byte()%4 {
		c := calls[int(p.s.byte())%len(calls)]
		v := reflect.New(reflect.TypeOf(c.header))
		p.k.fill(p.s, v.Elem(), "", 0)
		p.frame(c.kind, wire.FlagEnd, wire.Marshal(v.Elem().Interface()), nil)
		all = append(all, p.last...)
		if p.current != nil {
			p.current.asked = append(p.current.asked, c.kind)
		}
	}
	p.write(all)
}

func (p *peer) close() {
	for _, l := range p.links {
		l.close()
	}
}

// down makes an entry fit for its place, with its payload.
func (p *peer) down(d *wire.Down) []byte {
	if d.Entry == nil {
		if p.s.byte() >= 128 {
			return nil // a heartbeat
		}
		d.Entry = &wire.Entry{}
		p.k.fill(p.s, reflect.ValueOf(d.Entry).Elem(), "", 0)
	}
	e := d.Entry
	if p.s.byte() < 224 {
		p.k.index++
		e.Index = p.k.index
	}
	if p.s.byte() < 192 {
		e.Kind = wire.EntryKind(p.s.byte()%6) + 1
	}
	if p.s.byte() < 192 {
		d.W = wire.Position{}
	}
	switch e.Kind {
	case wire.EntryPrepare:
		if e.Prepare == nil {
			e.Prepare = &wire.Prepare{}
			p.k.fill(p.s, reflect.ValueOf(e.Prepare).Elem(), "", 0)
		}
		if p.s.byte() < 224 {
			p.k.counter += 8
			e.Prepare.Tx = wire.MakeID(p.k.epoch.Number, p.k.counter)
		}
		if p.s.byte() < 192 {
			e.Prepare.W, e.Prepare.Pack = wire.Position{}, nil
		}
		if p.s.byte() < 192 {
			return p.k.mend(p.s, e.Prepare.Mutations)
		}
	case wire.EntryConfig:
		if e.Config == nil || p.s.byte() < 160 {
			e.Config = &wire.Config{Cluster: wire.UUID{9}}
			p.k.config.Counter++
			p.k.config.Epoch = p.k.epoch.Number
			e.Config.ID = p.k.config
		}
	default:
	}
	return nil
}
