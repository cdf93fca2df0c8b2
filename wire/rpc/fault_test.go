package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tpcfs/wire"
)

// proxy passes connections on to addr until a number of bytes, both ways
// together, has passed; then it cuts all of them, in the middle of whatever
// it is, or keeps silent from then on.
type proxy struct {
	l      net.Listener
	left   atomic.Int64
	freeze bool
	wg     sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

func newProxy(t testing.TB, addr string, bytes int64, freeze bool) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, freeze: freeze}
	p.left.Store(bytes)
	p.wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", addr)
			if err != nil {
				_ = near.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, near, far)
			p.mu.Unlock()
			p.wg.Go(func() { p.pass(near, far) })
			p.wg.Go(func() { p.pass(far, near) })
		}
	})
	t.Cleanup(p.close)
	return p
}

func (p *proxy) pass(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		left := p.left.Add(-int64(n))
		if left < 0 {
			n = max(0, n+int(left))
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil || left < 0 {
			if left >= 0 || !p.freeze {
				_ = to.Close()
				_ = from.Close()
				return
			}
			// Frozen: it takes all and passes on nothing.
			_, _ = io.Copy(io.Discard, from)
			return
		}
		if left == 0 && !p.freeze {
			p.cut()
			return
		}
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) close() {
	_ = p.l.Close()
	p.cut()
	p.wg.Wait()
}

// A connection that is cut after any number of bytes: every call ends, with a
// right answer or as lost.
func TestCutAnywhere(t *testing.T) {
	f := &fake{contents: random(300 << 10), version: 3}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
	step := int64(97)
	for cut := int64(1); cut < 900<<10; cut += step {
		if cut > 3000 {
			step = 21000
		}
		p := newProxy(t, addr, cut, false)
		ctx := t.Context()
		c, err := DialService(ctx, p.l.Addr().String(), DialOptions{})
		if err != nil {
			isLost(t, cut, err, wire.CodeUnavailable)
			p.close()
			continue
		}
		for range 2 {
			reply, err := c.Transact(ctx, wire.Transact{Mutations: make([]wire.Mutation, 2)}, nil)
			if err == nil && reply.Outcome.Tx != 2 {
				t.Fatal(cut, reply)
			}
			isLost(t, cut, err, wire.CodeUnknownOutcome, wire.CodeUnavailable)
			var w collect
			_, err = c.Read(ctx, wire.Read{Kind: wire.ReadFile, Length: -1}, &w)
			if !bytes.HasPrefix(f.contents, w.Bytes()) || err == nil && w.Len() != len(f.contents) {
				t.Fatal(cut, "wrong contents")
			}
			isLost(t, cut, err, wire.CodeUnavailable)
			staged, err := c.Stage(ctx, wire.SessionID{}, wire.StageRequest{}, &pieces{n: 200 << 10})
			if err == nil && staged.Size != 200<<10 {
				t.Fatal(cut, staged)
			}
			isLost(t, cut, err, wire.CodeUnavailable)
		}
		_ = c.Close()
		p.close()
	}
}

func isLost(t *testing.T, cut int64, err error, codes ...wire.Code) {
	t.Helper()
	if err == nil {
		return
	}
	var e *wire.Error
	if errors.As(err, &e) && e.Lost {
		for _, code := range codes {
			if e.Code == code {
				return
			}
		}
	}
	t.Fatalf("cut after %d bytes: %v (%+v)", cut, err, e)
}

// A peer that stops without a word is noticed by both sides.
func TestFrozenPeer(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	f := &fake{transact: func(ctx context.Context, _ wire.Transact, _ []byte) (wire.TransactReply, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return wire.TransactReply{}, ctx.Err()
	}}
	addr, s := serve(t, ServerOptions{Service: fakeService{f}, Timeouts: quick})
	p := newProxy(t, addr, 1<<40, true)
	c, err := DialService(t.Context(), p.l.Addr().String(), DialOptions{Timeouts: quick})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { <-began; p.left.Store(0) }()
	_, err = c.Transact(t.Context(), wire.Transact{}, nil)
	isLost(t, 0, err, wire.CodeUnknownOutcome)
	<-c.Done()
	<-ended
	eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.links) == 0 })
	_, err = c.Transact(t.Context(), wire.Transact{}, nil)
	isLost(t, 0, err, wire.CodeUnavailable) // it cannot have reached anybody
}

// The limits of requests, and one more.
func TestRequestLimits(t *testing.T) {
	f := &fake{}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
	c := dialService(t, addr, DialOptions{})
	transact := func(req wire.Transact, payload int) error {
		_, err := c.Transact(t.Context(), req, make([]byte, payload))
		return err
	}
	long := wire.Transact{Mutations: make([]wire.Mutation, 10)}
	for i := 0; len(wire.Marshal(long)) < wire.MaxTransact; i++ {
		long.Mutations[i%10].At.Path += strings.Repeat("x", min(50000, max(1, (wire.MaxTransact-len(wire.Marshal(long)))/2)))
	}
	longer := wire.Transact{Mutations: append([]wire.Mutation(nil), long.Mutations...)}
	longer.Mutations[0].At.Path += "x"
	many := wire.Transact{Mutations: make([]wire.Mutation, wire.MaxMutations)}
	for name, c := range map[string]struct {
		err  error
		want wire.Code
	}{
		"most inline contents": {transact(wire.Transact{}, wire.MaxInline), wire.CodeNone},
		"one byte more":        {transact(wire.Transact{}, wire.MaxInline+1), wire.CodeTooMany},
		"longest names":        {transact(long, wire.MaxInline), wire.CodeNone},
		"longer names":         {transact(longer, 0), wire.CodeTooMany},
		"most changes":         {transact(many, 0), wire.CodeNone},
		"one change more":      {transact(wire.Transact{Mutations: make([]wire.Mutation, wire.MaxMutations+1)}, 0), wire.CodeTooMany},
	} {
		if wire.CodeOf(c.err) != c.want {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if len(wire.Marshal(long)) != wire.MaxTransact {
		t.Fatalf("the longest request has %d bytes", len(wire.Marshal(long)))
	}
	// The answer to the most changes is longer than a frame.
	f.transact = func(context.Context, wire.Transact, []byte) (reply wire.TransactReply, err error) {
		reply.Outcome.Results = make([]wire.Result, wire.MaxMutations)
		for i := range reply.Outcome.Results {
			reply.Outcome.Results[i] = wire.Result{Ino: 1<<63 - 1, Created: true, Offset: 1<<62 + int64(i)}
		}
		return reply, nil
	}
	for range 2 {
		reply, err := c.Transact(t.Context(), wire.Transact{}, nil)
		if err != nil || len(reply.Outcome.Results) != wire.MaxMutations || reply.Outcome.Results[777].Offset != 1<<62+777 {
			t.Fatal(len(reply.Outcome.Results), err)
		}
	}
}

// A source that fails must never look like the end of the contents.
func TestStageSourceFails(t *testing.T) {
	seen := make(chan error, 1)
	f := &fake{stage: func(_ context.Context, _ wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
		for {
			if _, err := pieces.ReadPiece(); err != nil {
				seen <- err
				return wire.StageReply{}, err
			}
		}
	}}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
	c := dialService(t, addr, DialOptions{})
	broken := errors.New("the disk is broken")
	for _, fail := range []func() error{
		func() error {
			_, err := c.Stage(t.Context(), wire.SessionID{}, wire.StageRequest{}, &failing{pieces{n: 1 << 20}, 3, broken})
			if !errors.Is(err, broken) {
				t.Error(err)
			}
			return <-seen
		},
		func() error {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := c.Stage(ctx, wire.SessionID{}, wire.StageRequest{}, &failing{pieces{n: 1 << 30}, 3, funcError(cancel)})
			if wire.CodeOf(err) != wire.CodeCanceled {
				t.Error(err)
			}
			return <-seen
		},
	} {
		if err := fail(); errors.Is(err, io.EOF) {
			t.Fatal("the server took a part for the whole")
		}
		well(t, c)
	}
}

type failing struct {
	pieces
	after int
	err   error
}

// funcError calls f in place of failing.
type funcError func()

func (funcError) Error() string { return "" }

func (f *failing) ReadPiece() (wire.Piece, error) {
	if f.after--; f.after == 0 {
		cancel, ok := f.err.(funcError) //nolint:errorlint // a test's own
		if !ok {
			return wire.Piece{}, f.err
		}
		cancel()
	}
	return f.pieces.ReadPiece()
}

// A stage that fails at once is answered at once, however much is to come.
func TestStageEarlyAnswer(t *testing.T) {
	f := &fake{stage: func(_ context.Context, _ wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
		_, _ = pieces.ReadPiece()
		return wire.StageReply{}, wire.NewError(wire.CodeNoSpace, "full")
	}}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
	c := dialService(t, addr, DialOptions{BulkCalls: 2})
	for range 20 {
		source := &pieces{n: 1 << 40}
		if _, err := c.Stage(t.Context(), wire.SessionID{}, wire.StageRequest{}, source); wire.CodeOf(err) != wire.CodeNoSpace {
			t.Fatal(err)
		}
	}
	well(t, c)
}

// A reader that gives up ends the read at its source, wherever it is.
func TestReadGivenUp(t *testing.T) {
	ended := make(chan struct{}, 1)
	f := &fake{contents: random(8 << 20)}
	f.readHook = func(ctx context.Context, at int64) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return nil
	}
	addr, _ := serve(t, ServerOptions{Service: ending{fakeService{f}, ended}})
	c := dialService(t, addr, DialOptions{BulkCalls: 2})
	full := errors.New("no more, please")
	for _, length := range []int64{-1, 8 << 20} {
		for _, after := range []int{1, 2, 5, 40} {
			_, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadFile, Length: length}, &stopping{after: after, err: full})
			if !errors.Is(err, full) {
				t.Error(err)
			}
			<-ended
			ctx, cancel := context.WithCancel(t.Context())
			_, err = c.Read(ctx, wire.Read{Kind: wire.ReadFile, Length: length}, &stopping{after: after, cancel: cancel})
			if wire.CodeOf(err) != wire.CodeCanceled {
				t.Error(err)
			}
			<-ended
			well(t, c)
		}
	}
}

// ending tells when a read has ended.
type ending struct {
	fakeService
	ended chan struct{}
}

func (e ending) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	reply, err := e.fakeService.Read(ctx, req, w)
	e.ended <- struct{}{}
	return reply, err
}

type stopping struct {
	after  int
	err    error
	cancel func()
}

func (s *stopping) WritePiece(wire.Piece) error {
	if s.after--; s.after == 0 {
		if s.cancel != nil {
			s.cancel()
		}
		return s.err
	}
	return nil
}

// Many calls of all kinds at once, from several links.
func TestManyAtOnce(t *testing.T) {
	f := &fake{contents: random(200 << 10), version: 3}
	// However busy the machine is: what ends a link is not tested here.
	slow := Timeouts{Handshake: time.Minute, Write: 5 * time.Minute, Stall: 5 * time.Minute}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}, Timeouts: slow})
	var wg sync.WaitGroup
	for range 3 {
		c := dialService(t, addr, DialOptions{ControlCalls: 40, BulkCalls: 7, Timeouts: slow})
		for i := range 40 {
			wg.Go(func() {
				for j := range 3 {
					switch (i + j) % 4 {
					case 0:
						n := i * 100
						if reply, err := c.Transact(t.Context(), wire.Transact{}, make([]byte, n)); err != nil || reply.ServiceTime != int64(n) {
							t.Error(reply, err)
						}
					case 1:
						var w collect
						if _, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadFile, Length: -1}, &w); err != nil || !bytes.Equal(w.Bytes(), f.contents) {
							t.Error(w.Len(), err)
						}
					case 2:
						n := int64(i) * 3000
						if reply, err := c.Stage(t.Context(), wire.SessionID{}, wire.StageRequest{}, &pieces{n: n}); err != nil || reply.Size != n {
							t.Error(reply, err)
						}
					case 3:
						if _, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadFile, At: wire.At{Path: "missing"}}, &collect{}); wire.CodeOf(err) != wire.CodeNotExist {
							t.Error(err)
						}
					}
				}
			})
		}
	}
	wg.Wait()
}

// Close lets what is in flight come to its end, for a while.
func TestCloseIsGraceful(t *testing.T) {
	for _, patient := range []bool{true, false} {
		began, finish := make(chan struct{}), make(chan struct{})
		f := &fake{transact: func(ctx context.Context, _ wire.Transact, _ []byte) (wire.TransactReply, error) {
			close(began)
			if patient {
				<-finish
				return wire.TransactReply{ServiceTime: 77}, nil
			}
			<-ctx.Done()
			return wire.TransactReply{}, ctx.Err()
		}}
		closeTimeout := time.Minute
		if !patient {
			closeTimeout = time.Millisecond
		}
		addr, s := serve(t, ServerOptions{Service: fakeService{f}, CloseTimeout: closeTimeout})
		c := dialService(t, addr, DialOptions{})
		eventually(t, func() bool { // the server, too, has both connections
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.half.Len() == 0
		})
		type result struct {
			reply wire.TransactReply
			err   error
		}
		answer := make(chan result)
		go func() {
			reply, err := c.Transact(t.Context(), wire.Transact{}, nil)
			answer <- result{reply, err}
		}()
		<-began
		closed := make(chan struct{})
		go func() { _ = s.Close(); close(closed) }()
		eventually(t, s.isClosing)
		if patient {
			_, err := c.Statfs(t.Context())
			isLost(t, 0, err, wire.CodeUnavailable)
			close(finish)
		}
		r := <-answer
		if patient && (r.err != nil || r.reply.ServiceTime != 77) {
			t.Error("cut off:", r.err)
		}
		if !patient {
			isLost(t, 0, r.err, wire.CodeUnknownOutcome, wire.CodeUnavailable)
		}
		<-closed
		if _, err := DialService(t.Context(), addr, DialOptions{}); err == nil {
			t.Error("it still listens")
		}
	}
}

// tx is a transaction stream in memory.
type tx struct {
	down   chan wire.Down
	up     chan wire.Up
	closed chan struct{}
	once   sync.Once
}

func newTx() *tx {
	return &tx{down: make(chan wire.Down), up: make(chan wire.Up), closed: make(chan struct{})}
}

func (x *tx) Send(batch ...wire.Down) error {
	for _, d := range batch {
		select {
		case x.down <- d:
		case <-x.closed:
			return net.ErrClosed
		}
	}
	return nil
}

func (x *tx) Recv() (wire.Up, error) {
	select {
	case u := <-x.up:
		return u, nil
	case <-x.closed:
		return wire.Up{}, net.ErrClosed
	}
}

func (x *tx) Close() error { x.once.Do(func() { close(x.closed) }); return nil }

// A transaction stream keeps order and payloads both ways, and ends for both
// sides when either, or the link, or the server ends it.
func TestTxStream(t *testing.T) {
	var current *tx
	f := &fake{greet: func(_ context.Context, req wire.Greet) (wire.Greeting, wire.TxStream, error) {
		if req.Epoch.Number == 0 {
			return wire.Greeting{}, nil, wire.NewError(wire.CodeStaleEpoch, "")
		}
		<-time.After(3 * watchDelay) // a fence takes a disk's time
		current = newTx()
		greeting := wire.Greeting{LastID: 5, Known: make([]wire.Testimony, req.Epoch.Number)}
		for i := range greeting.Known {
			greeting.Known[i].Outcome = &wire.Outcome{Results: make([]wire.Result, 30)}
		}
		return greeting, current, nil
	}}
	addr, s := serve(t, ServerOptions{Replica: fakeReplica{f}})
	c := dialReplica(t, addr, DialOptions{})
	if _, _, err := c.Greet(t.Context(), wire.Greet{}); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Fatal(err)
	}
	known := uint64(20000) // a greeting of many frames
	greet := func() (*tx, wire.TxStream) {
		greeting, stream, err := c.Greet(t.Context(), wire.Greet{Epoch: wire.Epoch{Number: known}})
		if err != nil || greeting.LastID != 5 || len(greeting.Known) != int(known) {
			t.Fatal(err)
		}
		known = 1
		return current, stream
	}
	far, near := greet()
	exchangeEntries(t, far, near)
	ends := func(far *tx, near wire.TxStream) {
		t.Helper()
		<-far.closed
		if _, err := near.Recv(); err == nil {
			t.Error("it goes on")
		}
		for near.Send(wire.Down{}) == nil { //nolint:revive // until it notices
		}
		_ = near.Close()
	}
	_ = near.Close()
	ends(far, near)
	far, near = greet()
	_ = far.Close()
	ends(far, near)
	far, near = greet()
	if err := near.Send(wire.Down{Entry: &wire.Entry{Payload: make([]byte, wire.MaxFrame)}}); wire.CodeOf(err) != wire.CodeTooLarge {
		t.Error(err)
	}
	ends(far, near)
	far, near = greet()
	_ = s.Close()
	ends(far, near)
}

func exchangeEntries(t *testing.T, far *tx, near wire.TxStream) {
	const n = 500
	var wg sync.WaitGroup
	wg.Go(func() {
		var batch []wire.Down // of all lengths, in bytes up to some windows
		for i := range n {
			d := wire.Down{ServiceTime: int64(i)}
			if i%3 > 0 {
				d.Entry = &wire.Entry{Index: uint64(i), Kind: wire.EntryPrepare, Payload: random(i * 37 % 500 * 100)}
			}
			if batch = append(batch, d); len(batch) < i/10 && i+1 < n {
				continue
			}
			if err := near.Send(batch...); err != nil {
				t.Error(err)
				return
			}
			batch = nil
		}
	})
	wg.Go(func() {
		for i := range n {
			if err := sendUp(far, wire.Up{Handled: uint64(i), Votes: make([]wire.Vote, i%50)}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for i := range n {
			up, err := near.Recv()
			if err != nil || up.Handled != uint64(i) || len(up.Votes) != i%50 {
				t.Error(i, up.Handled, err)
				return
			}
		}
	})
	var kept []*wire.Entry
	for i := range n {
		d := <-far.down
		if d.ServiceTime != int64(i) || (d.Entry != nil) != (i%3 > 0) {
			t.Fatal(i, d)
		}
		if d.Entry != nil {
			kept = append(kept, d.Entry)
		}
	}
	for _, e := range kept { // payloads are the receiver's for good
		if !bytes.Equal(e.Payload, random(int(e.Index)*37%500*100)) {
			t.Fatal("entry", e.Index, "has another's payload")
		}
	}
	wg.Wait()
}

func sendUp(x *tx, u wire.Up) error {
	select {
	case x.up <- u:
		return nil
	case <-x.closed:
		return fmt.Errorf("closed")
	}
}

// A stage whose contents the server stops waiting for ends with a word, and the
// link goes on; behind the last piece there is nothing to be interrupted.
func TestInterruptedStage(t *testing.T) {
	begun, ended := make(chan wire.Interrupter, 1), make(chan struct{}, 1)
	f := &fake{stage: func(_ context.Context, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
		i := pieces.(wire.Interrupter)
		if req.Name == "silent" {
			begun <- i
			defer func() { ended <- struct{}{} }()
		}
		for {
			_, err := pieces.ReadPiece()
			if errors.Is(err, io.EOF) {
				i.Interrupt()
				return wire.StageReply{Size: 7}, nil
			}
			if err != nil {
				return wire.StageReply{}, wire.NewError(wire.CodeUnavailable, "others wait")
			}
		}
	}}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
	c := dialService(t, addr, DialOptions{BulkCalls: 1})
	for range 3 {
		source := &gated{pieces{n: 1 << 20}, make(chan struct{})}
		answer := make(chan error, 1)
		go func() {
			_, err := c.Stage(t.Context(), wire.SessionID{}, wire.StageRequest{Name: "silent"}, source)
			answer <- err
		}()
		(<-begun).Interrupt()
		<-ended // with nothing from the client
		close(source.gate)
		if err := <-answer; wire.CodeOf(err) != wire.CodeUnavailable || !strings.Contains(err.Error(), "others wait") {
			t.Error(err)
		}
		for range 3 { // on one stream: it stays of use
			if reply, err := c.Stage(t.Context(), wire.SessionID{}, wire.StageRequest{}, &pieces{n: 1 << 20}); err != nil || reply.Size != 7 {
				t.Fatal(reply, err)
			}
		}
		well(t, c)
	}
}

// gated gives nothing before its gate is open.
type gated struct {
	pieces
	gate chan struct{}
}

func (g *gated) ReadPiece() (wire.Piece, error) {
	<-g.gate
	return g.pieces.ReadPiece()
}
