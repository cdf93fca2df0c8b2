package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	randv2 "math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"tpcfs/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t testing.TB, f *Fake, o Options) *Client {
	t.Helper()
	f.wrong = t.Errorf
	c, err := New(t.Context(), f.Dial, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// script is a fault function that plays faults for one kind of call, then none.
func script(call string, faults ...fault) func(string) fault {
	var mu sync.Mutex
	return func(c string) fault {
		mu.Lock()
		defer mu.Unlock()
		if c != call || len(faults) == 0 {
			return fine
		}
		f := faults[0]
		faults = faults[1:]
		return f
	}
}

func contents(n int) []byte {
	b := make([]byte, n)
	// Eight bytes at a time: under the race detector a byte at a time is dear.
	_, _ = randv2.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b) // never fails
	return b
}

// All of the calls, on all ways to name a file.
func TestFiles(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{UID: 7})
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Mkdir(ctx, "dir", 0o750))
	for i, n := range []int{0, 1, wire.MaxInline, wire.MaxInline + 1, 3*wire.PieceSize + 7} {
		name := fmt.Sprintf("/dir/f%d", i)
		r, err := c.WriteFile(ctx, name, Bytes(contents(n)), WriteOptions{})
		must(err)
		got, err := c.ReadFile(ctx, strings.TrimPrefix(name, "/"))
		if err != nil || !bytes.Equal(got, contents(n)) || !r.Created {
			t.Fatal(n, len(got), err)
		}
		var part bytes.Buffer
		attr, err := c.ReadTo(ctx, name, &part, ReadOptions{Offset: int64(n / 2), Length: int64(n/4 + 1)})
		if want := contents(n)[n/2 : min(n, n/2+n/4+1)]; err != nil || !bytes.Equal(part.Bytes(), want) || attr.Ino != r.Ino {
			t.Fatal(n, part.Len(), err)
		}
	}
	entries, err := c.List(ctx, "dir")
	if err != nil || len(entries) != 5 || entries[4].Name != "f4" {
		t.Fatal(entries, err)
	}
	must(c.Rename(ctx, "dir/f0", "dir/g"))
	must(c.SetAttr(ctx, "dir/g", wire.Mutation{Set: wire.SetMode, Mode: 0o600}))
	attr, err := c.Stat(ctx, "dir/g")
	if err != nil || attr.Mode != wire.ModeRegular|0o600 {
		t.Fatal(attr, err)
	}
	must(c.DeleteFile(ctx, "dir/g"))
	if _, err := c.Stat(ctx, "dir/g"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "stat dir/g: no such file") {
		t.Fatal(err)
	}
	must(c.Rmdir(ctx, "dir"))
	for _, root := range []string{"", ".", "/"} {
		if attr, err := c.Stat(ctx, root); err != nil || attr.Ino != wire.RootIno {
			t.Fatal(root, attr, err)
		}
	}
	if got, err := c.Statfs(ctx); err != nil || got.Total != 100 {
		t.Fatal(got, err)
	}
	if got, err := c.Watch(ctx, wire.Watch{Number: 3}); err != nil || got.Number != 4 { // by its session and link
		t.Fatal(got, err)
	}
	if got, err := c.Status(ctx, wire.StatusRequest{}); err != nil || !got.Serving {
		t.Fatal(got, err)
	}
	must(c.Close())
	if f.detachs != 1 || len(f.stages) != 0 {
		t.Error("detached", f.detachs, "times, stages left", len(f.stages))
	}
	if _, err := c.ReadFile(ctx, "x"); wire.CodeOf(err) != wire.CodeCanceled {
		t.Error(err)
	}
}

// Names that nobody may use are refused before anything is sent, by their name.
func TestBadNames(t *testing.T) {
	c := newClient(t, NewFake(), Options{})
	for name, want := range map[string]wire.Code{
		"a//b": wire.CodeInvalid, "a/./b": wire.CodeInvalid, "a/../b": wire.CodeInvalid, "..": wire.CodeInvalid, "a/": wire.CodeInvalid, "//": wire.CodeInvalid,
		"a\x00b": wire.CodeInvalid, strings.Repeat("x", 256): wire.CodeNameTooLong,
	} {
		_, err := c.WriteFile(t.Context(), name, Bytes(nil), WriteOptions{})
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != want || e.Name != name || e.Op != "writeFile" {
			t.Errorf("%.20q: %v", name, err)
		}
		if err := c.Rename(t.Context(), "a", name); wire.CodeOf(err) != want {
			t.Errorf("%.20q: %v", name, err)
		}
		if _, err := c.Transact(t.Context(), []wire.Mutation{{Kind: wire.MutMkdir, At: wire.At{Dir: 1, Path: strings.TrimPrefix(name, "/")}}}, nil); wire.CodeOf(err) != want {
			t.Errorf("%.20q: %v", name, err)
		}
	}
}

// A request whose answer was lost is sent again under its own name, and has
// happened once (G5).
func TestRetriedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		faults []fault
		tries  int
	}{
		"lost before":       {[]fault{lostBefore}, 2},
		"lost after":        {[]fault{lostAfter}, 2},
		"lost, lost, lost":  {[]fault{lostAfter, lostBefore, lostAfter}, 4},
		"replaced":          {[]fault{replaced}, 2},
		"never sent":        {[]fault{unreachable}, 2},
		"a restart":         {[]fault{canceled}, 2},
		"replaced and lost": {[]fault{replaced, lostAfter, replaced}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake()
			f.fault = script("transact", c.faults...)
			client := newClient(t, f, Options{})
			r, err := client.WriteFile(t.Context(), "x", Bytes([]byte("text")), WriteOptions{Create: wire.MustNotExist})
			if err != nil || !r.Created {
				t.Fatal(r, err)
			}
			op := wire.OpID{Session: client.Session(), Seq: 1}
			if f.runs[op] != 1 || f.tries[op] != c.tries || len(f.tries) != 1 {
				t.Errorf("runs %v, tries %v", f.runs, f.tries)
			}
		})
	}
}

// Lost stages are staged again under the same op id.
func TestStagesAgain(t *testing.T) {
	big := contents(500 << 10)
	for name, fault := range map[string]func(string) fault{
		"the stage's answer is lost": script("stage", lostAfter, lostBefore),
		"the stage is replaced":      script("stage", replaced),
		"the stage is garbled":       script("stage", garbled, garbled),
		"the stage is lost":          script("transact", stageLost, stageLost),
		"all of it": func() func(string) fault {
			a, b := script("stage", lostAfter, replaced), script("transact", lostBefore, stageLost, lostAfter)
			return func(call string) fault { return max(a(call), b(call)) }
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake()
			f.fault = fault
			c := newClient(t, f, Options{})
			var progress int64
			if _, err := c.WriteFile(t.Context(), "x", Bytes(big), WriteOptions{Progress: func(n int64) {
				if n <= progress {
					t.Error("progress goes back")
				}
				progress = n
			}}); err != nil {
				t.Fatal(err)
			}
			got, err := c.ReadFile(t.Context(), "x")
			if err != nil || !bytes.Equal(got, big) || progress != int64(len(big)) {
				t.Error(len(got), progress, err)
			}
			if len(f.tries) != 1 {
				t.Error("more than one op id:", f.tries)
			}
		})
	}
}

// Contents that have to be staged again take their time: the request that
// follows is none that was sent long ago (S1a).
func TestSentAfterStagesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake()
		f.wrong = t.Errorf
		stages := 0
		f.fault = func(call string) fault {
			if call == "stage" {
				if stages++; stages == 2 {
					time.Sleep(time.Hour)
					f.mu.Lock()
					f.now += 3600_000
					f.mu.Unlock()
				}
			}
			if call == "transact" && stages == 1 {
				return stageLost
			}
			return fine
		}
		c, err := New(t.Context(), f.Dial, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.WriteFile(t.Context(), "x", Bytes(make([]byte, 100<<10)), WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}

// What the client says of an outcome is true (G6). The last fault goes on.
func TestHonestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		faults []fault
		want   wire.Code
	}{
		"a conflict":                               {[]fault{conflict}, wire.CodeConflict},
		"a conflict after a lost answer":           {[]fault{lostBefore, conflict}, wire.CodeConflict},
		"a conflict after being unavailable":       {[]fault{unavailable, conflict}, wire.CodeConflict},
		"unavailable for a while":                  {[]fault{unavailable, unavailable, fine}, wire.CodeNone},
		"unavailable":                              {[]fault{unavailable}, wire.CodeUnavailable},
		"unavailable, after one that never left":   {[]fault{unreachable, unavailable}, wire.CodeUnavailable},
		"unavailable, but it may have happened":    {[]fault{lostBefore, unavailable}, wire.CodeUnknownOutcome},
		"unavailable, but it has happened":         {[]fault{lostAfter, unavailable}, wire.CodeUnknownOutcome},
		"replaced, then unavailable":               {[]fault{replaced, unavailable}, wire.CodeUnavailable},
		"stages lost, then unavailable, never put": {[]fault{stageLost, unavailable}, wire.CodeUnavailable},
		"no stage holds":                           {[]fault{stageLost}, wire.CodeStageLost},
		"no stage holds, but it may have happened": {[]fault{lostBefore, stageLost}, wire.CodeUnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewFake()
				f.wrong = t.Errorf
				n := 0
				f.fault = func(call string) fault {
					if call != "transact" {
						return fine
					}
					n++
					return c.faults[min(n, len(c.faults))-1]
				}
				client, err := New(t.Context(), f.Dial, Options{Wait: 10 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				_, err = client.WriteFile(t.Context(), "dir-x", Bytes(nil), WriteOptions{})
				var e *wire.Error
				if wire.CodeOf(err) != c.want || err != nil && (!errors.As(err, &e) || e.Name != "dir-x" || e.Op != "writeFile") {
					t.Fatal(err)
				}
				// It is over: whatever comes next has another name.
				first := wire.OpID{Session: client.Session(), Seq: 1}
				tries := f.tries[first]
				f.fault = nil
				if err := client.Mkdir(t.Context(), "next", 0o755); err != nil || f.tries[first] != tries || len(f.tries) != 2 {
					t.Error(err, f.tries)
				}
			})
		})
	}
}

// A restage that fails says nothing of an attempt before it.
func TestRestageFails(t *testing.T) {
	f := NewFake()
	a, b := script("transact", lostAfter, stageLost), script("stage", fine, conflict)
	f.fault = func(call string) fault { return max(a(call), b(call)) }
	c := newClient(t, f, Options{})
	if _, err := c.WriteFile(t.Context(), "x", Bytes(make([]byte, 100<<10)), WriteOptions{}); wire.CodeOf(err) != wire.CodeUnknownOutcome {
		t.Fatal(err)
	}
}

// Errors that no retry will mend come at once, already from New.
func TestPermanentErrors(t *testing.T) {
	bad := wire.NewError(wire.CodeProtocol, "this side speaks versions 1-1, the peer 3-4")
	_, err := New(t.Context(), func(context.Context) (Conn, error) { return nil, bad }, Options{})
	if !errors.Is(err, bad) {
		t.Error(err)
	}
	if _, err := Dial(t.Context(), "nonsense", Options{}); wire.CodeOf(err) != wire.CodeInvalid {
		t.Error(err)
	}
	if _, err := New(t.Context(), NewFake().Dial, Options{Wait: -1}); wire.CodeOf(err) != wire.CodeInvalid {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	block := func(ctx context.Context) (Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	if _, err := New(ctx, block, Options{}); wire.CodeOf(err) != wire.CodeCanceled {
		t.Error(err)
	}
}

// A read goes on where it was cut, starts again when the file has changed, and
// never gives a mixture or garbled bytes.
func TestReadsGoOn(t *testing.T) {
	const size = 5 * wire.PieceSize
	old, new := contents(size), contents(size + 1)[:size-3]
	type at struct {
		piece int // the how-manieth
		do    func(f *Fake, p *wire.Piece) error
	}
	lose := func(*Fake, *wire.Piece) error { return errLost }
	end := func(*Fake, *wire.Piece) error { return errEnough }
	change := func(f *Fake, _ *wire.Piece) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.lastID++
		n := f.nodes[f.nodes[1].entries["x"]]
		n.data, n.attr.Size, n.attr.Version = new, int64(len(new)), wire.ID(f.lastID)
		return errLost
	}
	empty := func(f *Fake, p *wire.Piece) error {
		_ = change(f, p)
		f.mu.Lock()
		defer f.mu.Unlock()
		n := f.nodes[f.nodes[1].entries["x"]]
		n.data, n.attr.Size = nil, 0
		return errLost
	}
	garble := func(_ *Fake, p *wire.Piece) error { p.Data[7]++; return nil }
	skip := func(_ *Fake, p *wire.Piece) error { p.Offset += 1; return nil }
	mix := func(_ *Fake, p *wire.Piece) error { p.Version++; return nil }
	for name, c := range map[string]struct {
		faults []at
		want   []byte
		code   wire.Code
		writer wire.Code // for a writer that cannot begin again
	}{
		"nothing":                 {nil, old, 0, 0},
		"lost at once":            {[]at{{1, lose}}, old, 0, 0},
		"lost twice":              {[]at{{3, lose}, {4, lose}}, old, 0, 0},
		"lost at every piece":     {[]at{{1, lose}, {3, lose}, {5, lose}, {7, lose}, {9, lose}}, old, 0, 0},
		"garbled once":            {[]at{{3, garble}}, old, 0, 0},
		"always garbled":          {[]at{{1, garble}, {2, garble}, {3, garble}, {4, garble}}, nil, wire.CodeCorrupt, wire.CodeCorrupt},
		"changed at once":         {[]at{{1, change}}, new, 0, 0},
		"changed on the way":      {[]at{{3, change}}, new, 0, wire.CodeConflict},
		"changed at its end":      {[]at{{5, change}}, new, 0, wire.CodeConflict},
		"became empty":            {[]at{{3, empty}}, nil, 0, wire.CodeConflict},
		"keeps changing":          {[]at{{2, change}, {4, change}, {6, change}, {8, change}, {10, change}, {12, change}, {14, change}, {16, change}, {18, change}}, nil, wire.CodeConflict, wire.CodeConflict},
		"ends too soon":           {[]at{{3, end}}, nil, wire.CodeProtocol, wire.CodeProtocol},
		"a hole":                  {[]at{{3, skip}}, nil, wire.CodeProtocol, wire.CodeProtocol},
		"two versions in one":     {[]at{{3, mix}}, nil, wire.CodeProtocol, wire.CodeProtocol},
		"two versions in piece 1": {[]at{{1, mix}}, nil, wire.CodeProtocol, wire.CodeProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			for _, plain := range []bool{false, true} {
				f := NewFake()
				client := newClient(t, f, Options{})
				if _, err := client.WriteFile(t.Context(), "x", Bytes(old), WriteOptions{}); err != nil {
					t.Fatal(err)
				}
				n := 0
				f.piece = func(p *wire.Piece) error {
					n++
					for _, fault := range c.faults {
						if fault.piece == n {
							return fault.do(f, p)
						}
					}
					return nil
				}
				var got []byte
				var err error
				want := c.code
				if plain {
					var b bytes.Buffer
					_, err = client.ReadTo(t.Context(), "x", &b, ReadOptions{})
					got, want = b.Bytes(), c.writer
				} else {
					got, err = client.ReadFile(t.Context(), "x")
				}
				if wire.CodeOf(err) != want || want == 0 && !bytes.Equal(got, c.want) {
					t.Fatalf("plain=%v: %d bytes, %v", plain, len(got), err)
				}
			}
		})
	}
}

// A read that was lost alone does not cost the session its link.
func TestLostCallKeepsLink(t *testing.T) {
	for _, alive := range []bool{true, false} {
		f := NewFake()
		f.wrong = t.Errorf
		done := make(chan struct{})
		if !alive {
			close(done)
		}
		c, err := New(t.Context(), func(ctx context.Context) (Conn, error) {
			conn, err := f.Dial(ctx)
			return &lasting{conn.(*fakeConn), done}, err
		}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.WriteFile(t.Context(), "x", Bytes(contents(100)), WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		f.fault = script("read", canceled, canceled)
		if _, err := c.ReadFile(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		if f.dials == 1 != alive {
			t.Error("alive", alive, "and dialled", f.dials, "times")
		}
	}
}

type lasting struct {
	*fakeConn
	done chan struct{}
}

func (l *lasting) Done() <-chan struct{} { return l.done }

// Read by inode goes on too; with IfVersion the first change ends it.
func TestReadIfVersion(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	out, err := c.Transact(t.Context(), []wire.Mutation{{Kind: wire.MutWriteFile, At: wire.At{Dir: 1, Path: "x"}}}, []Content{Bytes([]byte("one"))})
	if err != nil {
		t.Fatal(err)
	}
	req := wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: out.Results[0].Ino}, Length: -1, IfVersion: out.Tx}
	if _, err := c.Read(t.Context(), req, &sink{w: io.Discard}); err != nil {
		t.Fatal(err)
	}
	req.IfVersion++
	if _, err := c.Read(t.Context(), req, &sink{w: io.Discard}); wire.CodeOf(err) != wire.CodeChanged {
		t.Fatal(err)
	}
	full := errors.New("full")
	req.IfVersion = 0
	if _, err := c.Read(t.Context(), req, failingWriter{full}); !errors.Is(err, full) {
		t.Fatal(err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) WritePiece(wire.Piece) error { return w.err }
func (w failingWriter) Write([]byte) (int, error)   { return 0, w.err }

// Symbolic links lead where path_resolution(7) says.
func TestSymlinks(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	ctx := t.Context()
	for _, dir := range []string{"a", "a/b", "a/b/c", "d"} {
		if err := c.Mkdir(ctx, dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"to-a": "a", "abs": "/a/b", "a/up": "..", "a/b/upup": "../..", "d/loop1": "loop2", "d/loop2": "loop1", "d/self": "self",
		"d/far": "../to-a/b/../up/abs/c", "d/file": "../a//b/./f", "root": "/", "dots": "../../..", "d/via": "../to-f/../x", "to-f": "a/b/f",
		"dangling": "a/new", "d/linkup": "c-link/../x", "d/c-link": "../a/b/c", "bad": "x/" + strings.Repeat("n", 256),
	} {
		if err := c.Symlink(ctx, target, name); err != nil {
			t.Fatal(name, err)
		}
	}
	if _, err := c.WriteFile(ctx, "a/b/f", Bytes([]byte("f")), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteFile(ctx, "a/b/x", Bytes([]byte("x")), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	same := func(name string) wire.Ino {
		attr, err := c.Stat(ctx, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return attr.Ino
	}
	for name, want := range map[string]string{
		"to-a": "a", "to-a/b": "a/b", "abs": "a/b", "a/up": "", "a/up/a": "a", "a/b/upup/d": "d", "d/far": "a/b/c", "d/file": "a/b/f",
		"root": "", "dots": "", "root/to-a/up/abs/upup/d/file": "a/b/f", "d/linkup": "a/b/x",
	} {
		if same(name) != same(want) {
			t.Errorf("%s does not lead to %q", name, want)
		}
	}
	for name, want := range map[string]wire.Code{
		"d/loop1": wire.CodeLoop, "d/self": wire.CodeLoop, "d/loop2/x": wire.CodeLoop, "d/via": wire.CodeNotDir, "dangling": wire.CodeNotExist, "bad": wire.CodeNameTooLong,
	} {
		_, err := c.Stat(ctx, name)
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != want || e.Name != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	symlinkedWrites(t, c)
}

func symlinkedWrites(t *testing.T, c *Client) {
	ctx := t.Context()
	for _, n := range []int{10, 100 << 10} {
		for name, want := range map[string]string{"dangling": "a/new", "to-a/b/y": "a/b/y", "d/file": "a/b/f"} {
			if _, err := c.WriteFile(ctx, name, Bytes(contents(n)), WriteOptions{}); err != nil {
				t.Fatal(name, err)
			}
			if got, err := c.ReadFile(ctx, want); err != nil || !bytes.Equal(got, contents(n)) {
				t.Fatal(name, len(got), err)
			}
		}
		if _, err := c.WriteFile(ctx, "dangling", Bytes(contents(n)), WriteOptions{Create: wire.MustNotExist}); !errors.Is(err, fs.ErrExist) {
			t.Error("a link where nothing may be:", err)
		}
	}
	if err := c.Symlink(ctx, "a/fresh", "d/fresh"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteFile(ctx, "d/fresh", Bytes(nil), WriteOptions{Create: wire.MustNotExist}); !errors.Is(err, fs.ErrExist) {
		t.Error("a link that leads nowhere where nothing may be:", err)
	}
	if attr, err := c.Lstat(ctx, "dangling"); err != nil || attr.Mode&wire.ModeType != wire.ModeSymlink {
		t.Error(attr, err)
	}
	if target, err := c.Readlink(ctx, "to-a/up"); err != nil || target != ".." {
		t.Error(target, err)
	}
	if err := c.Rename(ctx, "to-a/b/y", "d/far/moved"); err != nil {
		t.Error(err)
	}
	if _, err := c.Stat(ctx, "a/b/c/moved"); err != nil {
		t.Error(err)
	}
	if err := c.Rename(ctx, "to-a/b/missing", "d/far/moved"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "rename to-a/b/missing") {
		t.Error(err)
	}
	if err := c.DeleteFile(ctx, "to-a"); err != nil {
		t.Error("a link is deleted itself:", err)
	}
	if _, err := c.Stat(ctx, "a"); err != nil {
		t.Error(err)
	}
	if entries, err := c.List(ctx, "abs"); err != nil || len(entries) < 3 {
		t.Error(entries, err)
	}
}

// The contents are what they are said to be, or nothing is written.
func TestContentsThatLie(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	for _, n := range []int64{10, 300 << 10} {
		for name, content := range map[string]Content{
			"too short":     ReaderAt(bytes.NewReader(make([]byte, n-1)), n),
			"too long":      tooLong{n},
			"cannot open":   unreadable{n},
			"cannot exist":  ReaderAt(bytes.NewReader(nil), wire.MaxFileSize+1),
			"less than nil": ReaderAt(bytes.NewReader(nil), -1),
		} {
			_, err := c.WriteFile(t.Context(), "x", content, WriteOptions{})
			if code := wire.CodeOf(err); code != wire.CodeIO && code != wire.CodeTooLarge {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(f.tries) > 0 || len(f.stages) > 0 {
		t.Error("something was sent:", f.tries, len(f.stages))
	}
}

type tooLong struct{ n int64 }

func (c tooLong) Size() int64 { return c.n }
func (c tooLong) Open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(make([]byte, c.n+1))), nil
}

type unreadable struct{ n int64 }

func (c unreadable) Size() int64                  { return c.n }
func (c unreadable) Open() (io.ReadCloser, error) { return nil, fs.ErrPermission }

// Of many contents the smallest travel inside the request.
func TestManyContents(t *testing.T) {
	f := NewFake()
	stages := 0
	f.fault = func(call string) fault {
		if call == "stage" {
			f.mu.Lock()
			stages++
			f.mu.Unlock()
		}
		return fine
	}
	c := newClient(t, f, Options{})
	var muts []wire.Mutation
	var all []Content
	sizes := []int{70 << 10, 10, 30 << 10, 0, 40 << 10, 20 << 10, 200 << 10}
	for i, n := range sizes {
		muts = append(muts, wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: 1, Path: fmt.Sprint(i)}}, wire.Mutation{Kind: wire.MutMkdir, At: wire.At{Dir: 1, Path: fmt.Sprint("d", i)}})
		all = append(all, Bytes(contents(n)), nil)
	}
	out, err := c.Transact(t.Context(), muts, all[:len(all)-1])
	if err != nil || len(out.Results) != len(muts) || stages != 3 {
		t.Fatal(len(out.Results), stages, err)
	}
	for i, n := range sizes {
		if got, err := c.ReadFile(t.Context(), fmt.Sprint(i)); err != nil || !bytes.Equal(got, contents(n)) {
			t.Error(i, len(got), err)
		}
	}
	if muts[0].Content != (wire.Content{}) {
		t.Error("the caller's mutations were changed")
	}
	muts[2].At.Path = "missing/x"
	_, err = c.Transact(t.Context(), muts[2:3], nil)
	if err == nil || !strings.Contains(err.Error(), "writeFile missing/x") {
		t.Error(err)
	}
	if _, err := c.Transact(t.Context(), muts[:1], all); wire.CodeOf(err) != wire.CodeInvalid {
		t.Error(err)
	}
	if _, err := c.Transact(t.Context(), make([]wire.Mutation, wire.MaxMutations+1), nil); wire.CodeOf(err) != wire.CodeTooMany {
		t.Error(err)
	}
}

// Many operations on one session, with connections that fail at random: what
// is said to be done is done once, what is said to have failed never is.
func TestRandomFaults(t *testing.T) {
	for seed := range int64(10) {
		synctest.Test(t, func(t *testing.T) { randomFaults(t, seed) })
	}
}

func randomFaults(t *testing.T, seed int64) {
	f := NewFake()
	f.wrong = t.Errorf
	var mu sync.Mutex
	rng := rand.New(rand.NewSource(seed))
	f.fault = func(call string) fault {
		mu.Lock()
		p, takes := rng.Intn(100), time.Duration(rng.Intn(3))*time.Millisecond
		mu.Unlock()
		time.Sleep(takes) // on the bubble's clock: calls overlap
		switch {
		case p < 10:
			return lostBefore
		case p < 20:
			return lostAfter
		case p < 25:
			return unreachable
		case p < 30 && call != "read":
			return replaced
		case p < 33 && call == "transact":
			return stageLost
		case p < 35 && call == "transact":
			return unavailable
		case p < 37 && call == "transact":
			return conflict
		default:
			return fine
		}
	}
	c, err := New(t.Context(), f.Dial, Options{Wait: time.Duration(seed%2) * 200 * time.Millisecond, Session: wire.SessionID{1}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			for j := range 5 {
				name, n := fmt.Sprintf("%d-%d", i, j), (i*5+j)*700
				_, err := c.WriteFile(t.Context(), name, Bytes(contents(n)), WriteOptions{Create: wire.MustNotExist})
				f.mu.Lock()
				ino, there := f.nodes[1].entries[name]
				if there && !bytes.Equal(f.nodes[ino].data, contents(n)) {
					t.Error(name, "holds something else")
				}
				f.mu.Unlock()
				code := wire.CodeOf(err)
				if err == nil && !there || err != nil && code != wire.CodeUnknownOutcome && there {
					t.Errorf("seed %d: %s: %v, but there=%v", seed, name, err, there)
				}
				switch code {
				case wire.CodeNone, wire.CodeUnknownOutcome, wire.CodeUnavailable, wire.CodeConflict, wire.CodeStageLost:
				default:
					t.Errorf("seed %d: %s: %v", seed, name, err)
				}
			}
		})
	}
	wg.Wait()
	_ = c.Close()
	for op, n := range f.runs {
		if n != 1 {
			t.Errorf("seed %d: %v was done %d times", seed, op, n)
		}
	}
}
