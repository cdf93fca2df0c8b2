package hostile

import (
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"

	"github.com/hashicorp/yamux"

	"tpcfs/wire"
)

// proxy stands before a participant and passes on what coordinators say to it.
// Of what it answers, a script says what comes how.
type proxy struct {
	from net.Listener
	to   string // the participant's socket
	wg   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	script *script    // nil: all is passed on as it is
	k      known
	closed bool
	conns  map[net.Conn]bool
}

func newProxy(addr, to string) (*proxy, error) {
	l, err := net.Listen("unix", strings.TrimPrefix(addr, "unix:"))
	if err != nil {
		return nil, err
	}
	p := &proxy{from: l, to: strings.TrimPrefix(to, "unix:"), conns: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.pass(c) })
		}
	})
	return p, nil
}

// turn makes a script say what the coordinator hears from now on.
func (p *proxy) turn(input []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = &script{input}
	p.k = known{epoch: wire.Epoch{Number: 1}, counter: 3, config: wire.ConfigID{Epoch: 1, Counter: 1}}
	if p.script.byte() >= 128 { // by new links only, greeting and all
		p.breakLocked()
	}
}

func (p *proxy) breakLocked() {
	for c := range p.conns {
		_ = c.Close() // its goroutines notice
	}
}

func (p *proxy) close() error {
	p.mu.Lock()
	p.closed = true
	p.breakLocked()
	p.mu.Unlock()
	err := p.from.Close()
	p.wg.Wait()
	return err
}

// keep closes c with the proxy; false: it is closed.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close() // nobody uses it
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close() // it is over
}

// copyPreface passes a preface on.
func copyPreface(to io.Writer, from io.Reader) error {
	b := make([]byte, wire.PrefacePrefix)
	if _, err := io.ReadFull(from, b); err != nil {
		return err
	}
	n, err := wire.PrefaceLength(b)
	if err != nil {
		return err
	}
	b = append(b, make([]byte, n)...)
	if _, err := io.ReadFull(from, b[wire.PrefacePrefix:]); err != nil {
		return err
	}
	_, err = to.Write(b)
	return err
}

func (p *proxy) pass(c net.Conn) {
	if !p.keep(c) {
		return
	}
	defer p.drop(c)
	d, err := net.Dial("unix", p.to)
	if err != nil || !p.keep(d) {
		return
	}
	defer p.drop(d)
	if err := errors.Join(copyPreface(d, c), copyPreface(c, d)); err != nil {
		return
	}
	config := yamux.DefaultConfig()
	config.LogOutput, config.EnableKeepAlive, config.MaxStreamWindowSize, config.AcceptBacklog = io.Discard, false, 1<<20, 1024
	up, err := yamux.Server(c, config)
	if err != nil {
		return
	}
	defer up.Close()
	down, err := yamux.Client(d, config)
	if err != nil {
		return
	}
	defer down.Close()
	for {
		st, err := up.AcceptStream()
		if err != nil {
			return
		}
		out, err := down.OpenStream()
		if err != nil {
			return
		}
		asked := make(chan wire.FrameKind, 1024)
		p.wg.Go(func() { p.ask(out, st, asked) })
		p.wg.Go(func() { p.answer(st, out, asked, c) })
	}
}

// ask passes requests on.
func (p *proxy) ask(to, from *yamux.Stream, asked chan<- wire.FrameKind) {
	defer to.Close()
	defer close(asked)
	for {
		f, raw, err := readFrame(from)
		if err != nil {
			return
		}
		if f.Kind != wire.FramePiece && f.Kind != wire.FrameEnd && f.Kind != wire.FrameDown {
			select {
			case asked <- f.Kind:
			default:
			}
		}
		if _, err := to.Write(raw); err != nil {
			return
		}
	}
}

// answer passes answers on, as the script says.
func (p *proxy) answer(to, from *yamux.Stream, asked <-chan wire.FrameKind, c net.Conn) {
	defer to.Close()
	for kind := wire.FrameKind(0); ; {
		f, raw, err := readFrame(from)
		if err != nil {
			return
		}
		if f.Kind == wire.FrameReply || f.Kind == wire.FrameError {
			kind = <-asked // it is there: this answers it
		}
		raw, ended := p.tamper(kind, f, raw, c)
		if len(raw) > 0 {
			if _, err := to.Write(raw); err != nil {
				return
			}
		}
		if ended {
			return
		}
	}
}

func readFrame(r io.Reader) (wire.Frame, []byte, error) {
	raw := make([]byte, wire.FramePrefix)
	if _, err := io.ReadFull(r, raw); err != nil {
		return wire.Frame{}, nil, err
	}
	n, err := wire.FrameLength(raw)
	if err != nil {
		return wire.Frame{}, nil, err
	}
	raw = append(raw, make([]byte, n)...)
	if _, err := io.ReadFull(r, raw[wire.FramePrefix:]); err != nil {
		return wire.Frame{}, nil, err
	}
	f, err := wire.ParseFrame(raw[:wire.FramePrefix], raw[wire.FramePrefix:])
	return f, raw, err
}

// tamper says what comes in place of an answer, and whether its stream ends.
func (p *proxy) tamper(asked wire.FrameKind, f wire.Frame, raw []byte, c net.Conn) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.script
	if s == nil || s.over() {
		return raw, false
	}
	choice := s.byte()
	if choice < 128 {
		return raw, false
	}
	switch choice % 12 {
	case 0:
		return nil, false
	case 1:
		return append(raw[:len(raw):len(raw)], raw...), false
	case 2:
		return spoil(s, raw), false
	case 3:
		return s.take(int(s.byte())), false
	case 4:
		return raw[:int(s.byte())%len(raw)], true
	case 5:
		_ = c.Close() // the link ends
		return nil, true
	case 6:
		return wire.AppendFrame(nil, wire.Frame{Kind: wire.FrameError, Flags: wire.FlagEnd, Header: wire.Marshal(&wire.Error{Code: wire.Code(s.byte()), Text: "so it says"})}), false
	default:
		return p.lie(s, asked, f, raw), false
	}
}

// answers are what is answered, by what was asked.
var answers = map[wire.FrameKind]any{
	wire.FrameGreet: wire.Greeting{}, wire.FrameReplicaRead: wire.ReadReply{}, wire.FrameReplicaStage: wire.StageReply{},
	wire.FrameReplicaStatus: wire.ReplicaStatus{}, wire.FrameUnstage: wire.Nothing{}, wire.FrameDonate: wire.Donated{}, wire.FrameResync: wire.Resynced{}, wire.FrameRepair: wire.Repaired{},
	wire.FrameVerify: wire.Verified{}, wire.FrameCompare: wire.Compared{},
}

// lie changes fields of an answer.
func (p *proxy) lie(s *script, asked wire.FrameKind, f wire.Frame, raw []byte) []byte {
	what := answers[asked]
	switch f.Kind {
	case wire.FrameUp:
		what = wire.Up{}
	case wire.FramePiece:
		what = wire.Piece{}
	case wire.FrameError:
		what = wire.Error{}
	case wire.FrameMoved:
		what = wire.Moved{}
	default:
	}
	if what == nil || f.Flags&wire.FlagMore != 0 {
		return raw
	}
	v := reflect.New(reflect.TypeOf(what))
	if err := wire.Unmarshal(f.Header, v.Interface()); err != nil {
		return raw
	}
	for range 1 + s.byte()%3 {
		nodes := nodesOf(v.Elem(), "", nil)
		n := nodes[int(s.byte())%len(nodes)]
		p.k.fill(s, n.v, n.name, 0)
	}
	header := wire.Marshal(v.Elem().Interface())
	if len(header)+len(f.Body) > wire.MaxFrame {
		return raw
	}
	return wire.AppendFrame(nil, wire.Frame{Kind: f.Kind, Flags: f.Flags, Header: header, Body: f.Body})
}

// node is a field, or what is in one.
type node struct {
	v    reflect.Value
	name string
}

// nodesOf lists what can be changed in v.
func nodesOf(v reflect.Value, name string, list []node) []node {
	list = append(list, node{v, name})
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("cbor") != "-" {
				list = nodesOf(v.Field(i), f.Name, list)
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			list = nodesOf(v.Elem(), name, list)
		}
	case reflect.Slice:
		for i := range min(v.Len(), 4) {
			list = nodesOf(v.Index(i), name, list)
		}
	default:
	}
	return list
}
