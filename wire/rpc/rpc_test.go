package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tpcfs/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Service and a Replica with one file, whose methods can be
// replaced one by one.
type fake struct {
	contents []byte
	version  wire.ID

	transact func(ctx context.Context, req wire.Transact, payload []byte) (wire.TransactReply, error)
	stage    func(ctx context.Context, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error)
	readHook func(ctx context.Context, offset int64) error // before each piece
	greet    func(ctx context.Context, req wire.Greet) (wire.Greeting, wire.TxStream, error)
}

func (f *fake) Attach(_ context.Context, req wire.Attach) (wire.Attached, error) {
	if req.Host == "panic" {
		panic("attached to a panic")
	}
	return wire.Attached{Link: 7, ServiceTime: 12, Cluster: wire.UUID{1}}, nil
}

func (f *fake) Detach(context.Context, wire.SessionID) error { return nil }

func (f *fake) Transact(ctx context.Context, req wire.Transact, payload []byte) (wire.TransactReply, error) {
	if f.transact != nil {
		return f.transact(ctx, req, payload)
	}
	return wire.TransactReply{Outcome: wire.Outcome{Tx: wire.ID(len(req.Mutations))}, ServiceTime: int64(len(payload))}, nil
}

func (f *fake) stageAny(ctx context.Context, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	if f.stage != nil {
		return f.stage(ctx, req, pieces)
	}
	var sum wire.ObjectSum
	var n int64
	for {
		p, err := pieces.ReadPiece()
		if errors.Is(err, io.EOF) {
			return wire.StageReply{ID: 9, Size: n, Sum: sum.Sum()}, nil
		}
		if err != nil {
			return wire.StageReply{}, err
		}
		n += int64(len(p.Data))
		_, _ = sum.Write(p.Data)
	}
}

func (f *fake) readAny(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	reply := wire.ReadReply{Attr: wire.Attr{Ino: 5, Size: int64(len(f.contents)), Version: f.version}}
	if req.At.Path == "missing" {
		return reply, &wire.Error{Code: wire.CodeNotExist, Op: "readFile", Name: "missing"}
	}
	end := int64(len(f.contents))
	if req.Length >= 0 {
		end = min(end, req.Offset+req.Length)
	}
	for at := req.Offset; at < end; {
		if f.readHook != nil {
			if err := f.readHook(ctx, at); err != nil {
				return reply, err
			}
		}
		data := f.contents[at:min(end, at+wire.PieceSize)]
		if err := w.WritePiece(wire.Piece{Version: f.version, Offset: at, Sum: wire.Sum(data), Data: data}); err != nil {
			return reply, err
		}
		at += int64(len(data))
	}
	return reply, nil
}

func (f *fake) Lock(_ context.Context, req wire.LockRequest) (wire.LockReply, error) {
	return wire.LockReply{Result: wire.LockQueued, Conflict: req.Range, Seq: req.Wait}, nil
}

func (f *fake) Statfs(context.Context) (wire.Statfs, error) { return wire.Statfs{Total: 3}, nil }
func (f *fake) Donate(_ context.Context, req wire.Donate) (wire.Donated, []byte, error) {
	if req.Full {
		return wire.Donated{}, nil, wire.NewError(wire.CodeCorrupt, "rotten")
	}
	return wire.Donated{Cursor: req.Cursor, Files: 7}, bytes.Repeat([]byte{5}, wire.DonatedBytes), nil
}

func (f *fake) Verify(_ context.Context, req wire.Verify) (wire.Verified, error) {
	return wire.Verified{Cursor: req.Cursor, Bytes: req.Bytes}, nil
}

func (f *fake) Compare(_ context.Context, req wire.Compare) (wire.Compared, []byte, error) {
	return wire.Compared{Next: req.From, Rows: 3}, []byte("rows"), nil
}

func (f *fake) Scrub(_ context.Context, req wire.ScrubRequest) (wire.ScrubReport, error) {
	return wire.ScrubReport{ID: 8, Rows: req.Rate}, nil
}

func (f *fake) Repair(_ context.Context, req wire.Repair, body []byte) (wire.Repaired, error) {
	return wire.Repaired{Right: []int64{int64(req.Ino), int64(len(body))}}, nil
}

func (f *fake) Resync(_ context.Context, req wire.Resync, body []byte) (wire.Resynced, error) {
	return wire.Resynced{Since: req.Position, Progress: wire.ResyncProgress{Copied: int64(len(body))}}, nil
}

func (f *fake) Watch(_ context.Context, req wire.Watch) (wire.Watched, error) {
	return wire.Watched{Epoch: req.Epoch + 1, Number: req.Number, Touched: wire.Touched{Names: []wire.At{{Dir: 1, Path: "x"}}}}, nil
}
func (f *fake) Unstage(context.Context, wire.Epoch, []wire.ID) error {
	return wire.NewError(wire.CodeStaleEpoch, "")
}
func (f *fake) Close() error { return nil }

func (f *fake) Greet(ctx context.Context, req wire.Greet) (wire.Greeting, wire.TxStream, error) {
	return f.greet(ctx, req)
}

type fakeService struct{ *fake }

func (f fakeService) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	return f.readAny(ctx, req, w)
}

func (f fakeService) Stage(ctx context.Context, _ wire.SessionID, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	return f.stageAny(ctx, req, pieces)
}

func (f fakeService) Members(_ context.Context, req wire.MembersRequest) (wire.MembersReply, error) {
	return wire.MembersReply{What: req.Kind.String(), Note: req.By}, nil
}

func (f fakeService) Status(context.Context, wire.StatusRequest) (wire.Status, error) {
	return wire.Status{Serving: true}, nil
}

type fakeReplica struct{ *fake }

func (f fakeReplica) Read(ctx context.Context, req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, error) {
	return f.readAny(ctx, req.Read, w)
}

func (f fakeReplica) Stage(ctx context.Context, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	return f.stageAny(ctx, req, pieces)
}

func (f fakeReplica) Status(context.Context, wire.StatusRequest) (wire.ReplicaStatus, error) {
	return wire.ReplicaStatus{Files: 4}, nil
}

// collect is a PieceWriter that keeps what it gets.
type collect struct{ bytes.Buffer }

func (c *collect) WritePiece(p wire.Piece) error {
	if wire.Sum(p.Data) != p.Sum || p.Offset != int64(c.Len()) {
		return errors.New("a garbled piece")
	}
	c.Write(p.Data)
	return nil
}

// pieces is a PieceReader of n bytes.
type pieces struct{ at, n int64 }

func (p *pieces) ReadPiece() (wire.Piece, error) {
	if p.at == p.n {
		return wire.Piece{}, io.EOF
	}
	data := make([]byte, min(wire.PieceSize, p.n-p.at))
	piece := wire.Piece{Offset: p.at, Sum: wire.Sum(data), Data: data}
	p.at += int64(len(data))
	return piece, nil
}

// serve starts a server for the test's length and returns its address.
func serve(t testing.TB, o ServerOptions) (string, *Server) {
	t.Helper()
	l, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(o)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
	return l.Addr().String(), s
}

func dialService(t testing.TB, addr string, o DialOptions) ServiceConn {
	t.Helper()
	c, err := DialService(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dialReplica(t testing.TB, addr string, o DialOptions) ReplicaConn {
	t.Helper()
	c, err := DialReplica(t.Context(), addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func random(n int) []byte {
	b := make([]byte, n)
	x := uint32(n) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// Every call of both contracts arrives and is answered, more than once on the
// same streams, over TCP and over a unix socket.
func TestCalls(t *testing.T) {
	unixPath := "unix:" + filepath.Join(t.TempDir(), "s")
	for _, addr := range []string{"127.0.0.1:0", unixPath} {
		l, err := Listen(addr, false)
		if err != nil {
			t.Fatal(err)
		}
		f := &fake{contents: random(1000), version: 3}
		s := NewServer(ServerOptions{Service: fakeService{f}, Replica: fakeReplica{f}})
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.Serve(l) })
		if addr != unixPath {
			addr = l.Addr().String()
		}
		callService(t, addr)
		callReplica(t, addr)
		_ = s.Close()
		wg.Wait()
	}
}

// Who ends another client's session is logged, and whose; who ends its own is not.
func TestDetachOfAnother(t *testing.T) {
	l, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := NewServer(ServerOptions{Service: fakeService{&fake{}}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	c, err := DialService(t.Context(), l.Addr().String(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own, other := wire.SessionID{1}, wire.SessionID{2}
	_, err = c.Attach(t.Context(), wire.Attach{Session: own})
	for _, session := range []wire.SessionID{other, own} {
		err = errors.Join(err, c.Detach(t.Context(), session))
	}
	if err = errors.Join(err, c.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := log.String(); strings.Count(got, "another's session") != 1 || !strings.Contains(got, "session="+other.String()+" by="+own.String()) || !strings.Contains(got, "peer=127.0.0.1:") {
		t.Errorf("the log says %q", got)
	}
}

func callService(t *testing.T, addr string) {
	ctx := t.Context()
	c, err := DialService(ctx, addr, DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if got, err := c.Attach(ctx, wire.Attach{}); err != nil || got.Link != 7 || got.Cluster != (wire.UUID{1}) {
			t.Fatal(got, err)
		}
		if err := c.Detach(ctx, wire.SessionID{1}); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Transact(ctx, wire.Transact{Mutations: make([]wire.Mutation, 3)}, []byte("abcd")); err != nil || got.Outcome.Tx != 3 || got.ServiceTime != 4 {
			t.Fatal(got, err)
		}
		if got, err := c.Stage(ctx, wire.SessionID{}, wire.StageRequest{}, &pieces{n: 300 << 10}); err != nil || got.Size != 300<<10 {
			t.Fatal(got, err)
		}
		var w collect
		if got, err := c.Read(ctx, wire.Read{Kind: wire.ReadFile, Length: -1}, &w); err != nil || got.Attr.Ino != 5 || w.Len() != 1000 {
			t.Fatal(got, err)
		}
		if _, err := c.Read(ctx, wire.Read{Kind: wire.ReadFile, At: wire.At{Path: "missing"}}, &w); !errors.Is(err, wire.NewError(wire.CodeNotExist, "")) && wire.CodeOf(err) != wire.CodeNotExist {
			t.Fatal(err)
		}
		want := wire.LockRange{Start: 1, End: 5, Mode: wire.LockShared}
		if got, err := c.Lock(ctx, wire.LockRequest{Range: want, Wait: 8}); err != nil || got.Conflict != want || got.Seq != 8 {
			t.Fatal(got, err)
		}
		if got, err := c.Statfs(ctx); err != nil || got.Total != 3 {
			t.Fatal(got, err)
		}
		if got, err := c.Watch(ctx, wire.Watch{Epoch: 4, Number: 7}); err != nil || got.Epoch != 5 || got.Number != 7 || len(got.Touched.Names) != 1 {
			t.Fatal(got, err)
		}
		if got, err := c.Members(ctx, wire.MembersRequest{Kind: wire.MembersReplace}); err != nil || got.What != "replace" {
			t.Errorf("members: %+v, %v", got, err)
		}
		if got, err := c.Status(ctx, wire.StatusRequest{}); err != nil || !got.Serving {
			t.Fatal(got, err)
		}
	}
}

func callReplica(t *testing.T, addr string) {
	ctx := t.Context()
	c, err := DialReplica(ctx, addr, DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if got, err := c.Stage(ctx, wire.StageRequest{}, &pieces{n: 300 << 10}); err != nil || got.Size != 300<<10 {
			t.Fatal(got, err)
		}
		var w collect
		if got, err := c.Read(ctx, wire.PositionedRead{Read: wire.Read{Kind: wire.ReadFile, Length: -1}}, &w); err != nil || got.Attr.Ino != 5 || w.Len() != 1000 {
			t.Fatal(got, err)
		}
		d, body, err := c.Donate(ctx, wire.Donate{Cursor: []byte("at")})
		if err != nil || string(d.Cursor) != "at" || d.Files != 7 || !bytes.Equal(body, bytes.Repeat([]byte{5}, wire.DonatedBytes)) {
			t.Fatal(d, len(body), err)
		}
		if _, _, err := c.Donate(ctx, wire.Donate{Full: true}); wire.CodeOf(err) != wire.CodeCorrupt {
			t.Fatal(err)
		}
		got, err := c.Resync(ctx, wire.Resync{Position: wire.Position{Epoch: 3, Index: 4}}, body)
		if err != nil || got.Since != (wire.Position{Epoch: 3, Index: 4}) || got.Progress.Copied != wire.DonatedBytes {
			t.Fatal(got, err)
		}
		if got, err := c.Repair(ctx, wire.Repair{Ino: 9}, body); err != nil || !slices.Equal(got.Right, []int64{9, wire.DonatedBytes}) {
			t.Fatal(got, err)
		}
		if got, err := c.Verify(ctx, wire.Verify{Cursor: []byte("at"), Bytes: 7}); err != nil || string(got.Cursor) != "at" || got.Bytes != 7 {
			t.Fatal(got, err)
		}
		if got, rows, err := c.Compare(ctx, wire.Compare{From: []byte("at")}); err != nil || string(got.Next) != "at" || got.Rows != 3 || string(rows) != "rows" {
			t.Fatal(got, string(rows), err)
		}
		if err := c.Unstage(ctx, wire.Epoch{}, []wire.ID{1}); wire.CodeOf(err) != wire.CodeStaleEpoch {
			t.Fatal(err)
		}
		if got, err := c.Status(ctx, wire.StatusRequest{}); err != nil || got.Files != 4 {
			t.Fatal(got, err)
		}
	}
}

// Files of all sizes around the places where a read changes connections.
func TestReadSizes(t *testing.T) {
	for _, n := range []int{0, 1, 4096, wire.PieceSize - 1, wire.PieceSize, wire.PieceSize + 1, 3*wire.PieceSize + 5, 5 << 20} {
		f := &fake{contents: random(n), version: 3}
		addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
		c := dialService(t, addr, DialOptions{})
		for _, length := range []int64{-1, int64(n), 0, 1, wire.PieceSize, wire.PieceSize + 1} {
			for range 2 {
				var w collect
				want := f.contents
				if length >= 0 {
					want = want[:min(length, int64(n))]
				}
				if _, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadFile, Length: length}, &w); err != nil || !bytes.Equal(w.Bytes(), want) {
					t.Fatalf("%d bytes, length %d: got %d, %v", n, length, w.Len(), err)
				}
			}
		}
	}
}

// A cancelled call returns at once and its handler's context ends.
func TestCancelReachesHandler(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	f := &fake{transact: func(ctx context.Context, _ wire.Transact, _ []byte) (wire.TransactReply, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return wire.TransactReply{}, ctx.Err()
	}}
	addr, _ := serve(t, ServerOptions{Service: fakeService{f}})
	c := dialService(t, addr, DialOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if _, err := c.Transact(ctx, wire.Transact{}, nil); wire.CodeOf(err) != wire.CodeUnknownOutcome {
		t.Fatal(err)
	}
	<-ended
	if _, err := c.Transact(ctx, wire.Transact{}, nil); wire.CodeOf(err) != wire.CodeCanceled {
		t.Fatal(err)
	}
	if _, err := c.Statfs(t.Context()); err != nil {
		t.Fatal("the link did not survive a cancel:", err)
	}
}

// A panic in a handler is answered, and costs nobody else anything.
func TestHandlerPanics(t *testing.T) {
	addr, _ := serve(t, ServerOptions{Service: fakeService{&fake{}}})
	c := dialService(t, addr, DialOptions{})
	if _, err := c.Attach(t.Context(), wire.Attach{Host: "panic"}); wire.CodeOf(err) != wire.CodeIO || !strings.Contains(err.Error(), "bug") {
		t.Fatal(err)
	}
	if _, err := c.Attach(t.Context(), wire.Attach{}); err != nil {
		t.Fatal(err)
	}
}

// Nobody listens: the error names the address and says what to look at.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, err = DialService(t.Context(), addr, DialOptions{})
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeUnavailable || !e.Lost || e.Name != addr || !strings.Contains(e.Text, "refused") {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := DialService(ctx, "127.0.0.1:0x", DialOptions{}); err == nil {
		t.Fatal("dialled nonsense")
	}
}
