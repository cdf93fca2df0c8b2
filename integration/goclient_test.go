package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// goClient is a client of a cluster of three participants in this process.
func goClient(t *testing.T) (*harness.InProcess, *client.Client) {
	t.Helper()
	p, err := harness.OpenInProcess(t.Context(), t.TempDir(), 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, c
}

func randomBytes(n int) []byte {
	return noise(int64(n), n)
}

// A tree of more than a thousand names, made in one transaction, is one that
// everything in Go which reads an fs.FS can read.
func TestGoClientFS(t *testing.T) {
	t.Parallel()
	_, c := goClient(t)
	tx := c.Tx().Mkdir("many", 0o755).Mkdir("empty", 0o700).Symlink("many/f1", "link").Symlink("many", "dirlink").Symlink("../link", "many/up")
	names := []string{"many/up", "empty", "link", "dirlink"}
	for i := range 1100 {
		name := fmt.Sprintf("many/f%d", i)
		tx.WriteFile(name, client.Bytes([]byte(name)), client.WriteOptions{Mode: 0o640})
		names = append(names, name)
	}
	deep := "deep"
	for range 60 {
		tx.Mkdir(deep, 0o755)
		deep += "/d"
	}
	// In an object, not longer: TestFS reads each byte by a call of its own.
	tx.WriteFile(deep, client.Bytes(randomBytes(9<<10)), client.WriteOptions{})
	outcome, err := tx.Commit(t.Context())
	if err != nil || len(outcome.Results) != tx.Len() {
		t.Fatal(len(outcome.Results), err)
	}
	if err := fstest.TestFS(c.FS(t.Context(), ""), append(names, deep)...); err != nil {
		t.Error(err)
	}
	sub, err := fs.Sub(c.FS(t.Context(), ""), "dirlink")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := fs.Glob(sub, "f10*"); err != nil || len(list) != 111 {
		t.Error(len(list), err)
	}
}

// A stream is written whole or not at all, and read back as one version.
func TestGoClientStreams(t *testing.T) {
	t.Parallel()
	_, c := goClient(t)
	ctx := t.Context()
	want := randomBytes(9<<20 + 77)
	w, err := c.Create(ctx, "stream", client.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(ctx, "stream"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("it shows before Close:", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := c.Open(ctx, "stream")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) || r.Version() != w.Version() {
		t.Fatal(len(got), r.Version(), w.Version(), err)
	}

	// Two write the same file: both are whole, the second one's condition fails.
	first, err := c.Create(ctx, "stream", client.WriteOptions{IfVersion: r.Version()})
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Create(ctx, "stream", client.WriteOptions{IfVersion: r.Version()})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range []*client.Writer{first, second} {
		if _, err := w.Write(randomBytes(2<<20 + i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := second.Close(); !errors.Is(err, client.ErrVersion) {
		t.Error(err)
	}
	if _, err := r.ReadAt(make([]byte, 10), 5<<20); !errors.Is(err, client.ErrChanged) {
		t.Error(err)
	}

	// One that is given up leaves nothing, at the participants neither.
	ctx2, cancel := context.WithCancel(ctx)
	w, err = c.Create(ctx2, "gone", client.WriteOptions{})
	if err == nil {
		_, err = w.Write(want)
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Stat(ctx, "gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A transaction fails as a whole, and its error names the change.
func TestGoClientTransaction(t *testing.T) {
	t.Parallel()
	_, c := goClient(t)
	ctx := t.Context()
	big := randomBytes(300 << 10)
	outcome, err := c.Tx().Mkdir("d", 0o755).WriteFile("d/a", client.Bytes(big), client.WriteOptions{}).
		WriteFile("d/b", client.Bytes([]byte("b")), client.WriteOptions{}).Symlink("d", "l").Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Tx().DeleteFile("d/b", client.IfVersion(outcome.Tx)).WriteFile("l/a", client.Bytes(big[1:]), client.WriteOptions{}).
		Rename("l/a", "d/c").DeleteFile("l/missing").Commit(ctx)
	var e *wire.Error
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &e) || e.Mutation != 3 || e.Name != "l/missing" {
		t.Fatal(err)
	}
	if got, err := c.ReadFile(ctx, "d/a"); err != nil || !bytes.Equal(got, big) {
		t.Error("something happened:", len(got), err)
	}
	if _, err = c.Tx().DeleteFile("d/b", client.IfVersion(outcome.Tx)).WriteFile("l/a", client.Bytes(big[1:]), client.WriteOptions{}).
		Rename("l/a", "d/c").Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tx().Mkdir("links", 0o755).Link("l/c", "links/c").Setxattr("links/c", "user.k", []byte("v"), wire.XattrEither).
		RenameNoReplace("links/c", "links/d").Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Getxattr(ctx, "d/c", "user.k"); err != nil || string(v) != "v" {
		t.Errorf("%q %v", v, err)
	}
	list, err := c.List(ctx, "d")
	if err != nil || len(list) != 1 || list[0].Name != "c" || list[0].Attr.Size != int64(len(big))-1 {
		t.Error(list, err)
	}
}

// An operation can be asked for by its id (S1a): that is how a retry finds out
// before it sends contents again.
func TestGoClientReadOp(t *testing.T) {
	t.Parallel()
	_, c := goClient(t)
	outcome, err := c.Tx().Mkdir("d", 0o755).Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq, want := range map[uint64]wire.ID{1: outcome.Tx, 2: 0} {
		reply, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadOp, Op: wire.OpID{Session: c.Session(), Seq: seq}}, nil)
		if err != nil || (want == 0) != (reply.Outcome == nil) || want != 0 && reply.Outcome.Tx != want {
			t.Error(seq, reply.Outcome, err)
		}
	}
}

// flaky passes calls on to a cluster of now, counts the contents that are
// staged, and loses answers.
type flaky struct {
	wire.Service
	staged *atomic.Int64
	lost   func() bool // asked after each Transact
}

func (*flaky) Close() error { return nil }

func (f *flaky) Stage(ctx context.Context, s wire.SessionID, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	return f.Service.Stage(ctx, s, req, &counted{pieces, f.staged})
}

func (f *flaky) Transact(ctx context.Context, req wire.Transact, payload []byte) (wire.TransactReply, error) {
	reply, err := f.Service.Transact(ctx, req, payload)
	if f.lost() {
		return reply, &wire.Error{Code: wire.CodeUnknownOutcome, Text: "the connection was lost", Lost: true}
	}
	return reply, err
}

type counted struct {
	wire.PieceReader
	n *atomic.Int64
}

func (c *counted) ReadPiece() (wire.Piece, error) {
	p, err := c.PieceReader.ReadPiece()
	c.n.Add(int64(len(p.Data)))
	return p, err
}

// A write whose answer is lost with the coordinator has happened once, and its
// contents are sent once (G5, S1a): also a long one.
func TestGoClientRetryAfterRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx := testContext(t)
	p, err := harness.OpenInProcess(ctx, dir, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	var staged atomic.Int64
	losses := 0
	restart := false
	conn := func(context.Context) (client.Conn, error) {
		if restart {
			restart = false
			if err := p.Close(); err != nil {
				return nil, err
			}
			if p, err = harness.OpenInProcess(ctx, dir, 3, nil); err != nil {
				return nil, err
			}
		}
		return &flaky{p.Coordinator, &staged, func() bool {
			losses--
			restart = losses == 0
			return losses >= 0
		}}, nil
	}
	c, err := client.New(ctx, conn, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 5 << 20
	versions := map[wire.ID]bool{}
	for losses = range 3 {
		staged.Store(0)
		name := fmt.Sprint("f", losses)
		r, err := c.WriteFile(ctx, name, client.Bytes(randomBytes(size)), client.WriteOptions{Create: wire.MustNotExist})
		if err != nil || !r.Created || staged.Load() != size {
			t.Fatal(name, r, staged.Load(), err)
		}
		if got, err := c.ReadFile(ctx, name); err != nil || !bytes.Equal(got, randomBytes(size)) {
			t.Fatal(name, len(got), err)
		}
		attr, err := c.Stat(ctx, name)
		if err != nil || versions[attr.Version] {
			t.Error(name, attr, err)
		}
		versions[attr.Version] = true
	}
}
