package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// Contents of all sizes around the borders arrive whole, whatever the writes'
// sizes; nobody sees any of it before Close.
func TestWriter(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	ctx := t.Context()
	if err := c.Symlink(ctx, "file", "link"); err != nil {
		t.Fatal(err)
	}
	const held = writerHolds * wire.PieceSize
	rng := rand.New(rand.NewSource(1))
	for i, n := range []int{0, 1, wire.MaxInline, wire.PieceSize, wire.PieceSize + 1, held, held + 1, held + wire.PieceSize, 3*held + 12345} {
		want := contents(n)
		var last int64
		w, err := c.Create(ctx, "link", WriteOptions{Progress: func(n int64) { last = n }})
		if err != nil {
			t.Fatal(err)
		}
		for rest := want; len(rest) > 0; {
			k := min(len(rest), 1+rng.Intn(300<<10))
			if m, err := w.Write(rest[:k]); m != k || err != nil {
				t.Fatal(n, m, err)
			}
			rest = rest[k:]
		}
		if attr, err := c.Stat(ctx, "file"); i == 0 && !errors.Is(err, fs.ErrNotExist) || i > 0 && attr.Size == int64(n) {
			t.Fatal("it shows before Close:", attr, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(n, err)
		}
		if got, err := c.ReadFile(ctx, "file"); err != nil || !bytes.Equal(got, want) {
			t.Fatal(n, len(got), err)
		}
		attr, err := c.Stat(ctx, "file")
		if err != nil || attr.Version != w.Version() || attr.Ino != w.Result().Ino || w.Result().Created != (i == 0) {
			t.Error(n, attr, w.Version(), w.Result(), err)
		}
		if n > held && last != int64(n) {
			t.Error("progress ends at", last, "of", n)
		}
		if err := w.Close(); err != nil {
			t.Error("a second Close:", err)
		}
		w.Abort()
		if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "writeFile link: ") {
			t.Error(err)
		}
	}
	if len(f.stages) != 0 {
		t.Error(len(f.stages), "stages are left")
	}
}

// io.Copy goes through, and an error of what is read is told.
func TestWriterReadFrom(t *testing.T) {
	c := newClient(t, NewFake(), Options{})
	want := contents(2<<20 + 5)
	w, err := c.Create(t.Context(), "a", WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	n, err := io.Copy(w, iotest.HalfReader(io.MultiReader(bytes.NewReader(want[:1<<20]), iotest.ErrReader(broken))))
	if n != 1<<20 || !errors.Is(err, broken) {
		t.Fatal(n, err)
	}
	if n, err := io.Copy(w, bytes.NewReader(want[1<<20:])); n != 1<<20+5 || err != nil {
		t.Fatal(n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.ReadFile(t.Context(), "a"); err != nil || !bytes.Equal(got, want) {
		t.Fatal(len(got), err)
	}
}

// A Writer that is given up leaves nothing, wherever it was.
func TestWriterLeavesNothing(t *testing.T) {
	for name, end := range map[string]func(w *Writer, cancel func()) error{
		"abort":   func(w *Writer, _ func()) error { w.Abort(); return w.Close() },
		"cancel":  func(w *Writer, cancel func()) error { cancel(); return w.Close() },
		"cancel2": func(w *Writer, cancel func()) error { cancel(); _, err := w.Write(contents(5 << 20)); return err },
	} {
		for _, n := range []int{0, 10, 1 << 20, 3 << 20} {
			f := NewFake()
			c := newClient(t, f, Options{})
			ctx, cancel := context.WithCancel(t.Context())
			w, err := c.Create(ctx, "a", WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(contents(n)); err != nil {
				t.Fatal(err)
			}
			if err := end(w, cancel); !errors.Is(err, context.Canceled) {
				t.Error(name, n, err)
			}
			if _, err := c.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) || len(f.tries) != 0 || len(f.stages) != 0 {
				t.Error(name, n, err, f.tries, len(f.stages))
			}
			cancel()
			w.Abort()
		}
	}
}

// What goes wrong is told by Write or Close, with the name, and honestly (G6).
func TestWriterErrors(t *testing.T) {
	for _, k := range []struct {
		name  string
		fault func(string) fault
		size  int
		o     WriteOptions
		is    error
		says  string
	}{
		{"x", script("transact", conflict), 3 << 20, WriteOptions{}, ErrConflict, "writeFile x: conflict"},
		{"x", script("transact", conflict), 3, WriteOptions{}, ErrConflict, "writeFile x: conflict"},
		{"x", script("transact", stageLost), 3 << 20, WriteOptions{}, ErrUnavailable, "write the file again"},
		{"x", script("stage", garbled), 3 << 20, WriteOptions{}, ErrUnavailable, "write the file again"},
		{"x", script("stage", lostAfter), 3 << 20, WriteOptions{}, ErrUnavailable, "write the file again"},
		{"old", nil, 3 << 20, WriteOptions{IfVersion: 999}, ErrVersion, "writeFile old: version"},
		{"old", nil, 3, WriteOptions{IfVersion: 999}, ErrVersion, "writeFile old: version"},
		{"old", nil, 3 << 20, WriteOptions{Create: wire.MustNotExist}, fs.ErrExist, "writeFile old: file exists"},
		{"new", nil, 3 << 20, WriteOptions{Create: wire.MustExist}, fs.ErrNotExist, "writeFile new: no such file"},
		{"no/dir", nil, 3, WriteOptions{}, fs.ErrNotExist, "writeFile no/dir: no such file"},
		{"dir", nil, 3 << 20, WriteOptions{}, &wire.Error{Code: wire.CodeIsDir}, "writeFile dir: is a directory"},
	} {
		f := NewFake()
		c := newClient(t, f, Options{})
		if _, err := c.Tx().WriteFile("old", Bytes(nil), WriteOptions{}).Mkdir("dir", 0o755).Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.fault = k.fault
		w, err := c.Create(t.Context(), k.name, k.o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = w.Write(contents(k.size)); err == nil {
			err = w.Close()
		} else if again := w.Close(); again == nil {
			t.Error("Close succeeds after", err)
		}
		if !errors.Is(err, k.is) || !strings.Contains(err.Error(), k.says) {
			t.Errorf("%s, %d bytes: %v, want %q", k.name, k.size, err, k.says)
		}
		if len(f.runs) != 1 {
			t.Error(k.says, f.runs)
		}
	}
	if _, err := newClient(t, NewFake(), Options{}).Create(t.Context(), "a//b", WriteOptions{}); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
}

// A lost connection costs a Writer nothing while all contents are in its
// memory, and after all of them have arrived: they are sent once.
func TestWriterGoesOn(t *testing.T) {
	for _, size := range []int{10, 500 << 10, 3 << 20} {
		f := NewFake()
		f.fault = script("transact", lostBefore, lostAfter)
		c := newClient(t, f, Options{})
		w, err := c.Create(t.Context(), "a", WriteOptions{Create: wire.MustNotExist})
		if err == nil {
			_, err = w.Write(contents(size))
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(size, err)
		}
		if f.staged > int64(size) || len(f.tries) != 1 || len(f.runs) != 1 {
			t.Error(size, f.staged, f.tries)
		}
	}
}

// The coordinator has started again when the contents are to be committed: if
// they are, Close finds that out, else it says that they are not.
func TestWriterRestart(t *testing.T) {
	for _, k := range []struct {
		fault fault
		is    error
	}{{lostAfter, nil}, {lostBefore, ErrUnavailable}, {unreachable, ErrUnavailable}} {
		f := NewFake()
		lost := script("transact", k.fault)
		f.fault = func(call string) fault {
			if call == "dial" && f.dials > 1 {
				f.restart()
			}
			return lost(call)
		}
		c := newClient(t, f, Options{})
		w, err := c.Create(t.Context(), "a", WriteOptions{})
		if err == nil {
			_, err = w.Write(contents(3 << 20))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); !errors.Is(err, k.is) || k.is != nil && !strings.Contains(err.Error(), "nothing changed") {
			t.Error(k.fault, err)
		}
		if f.staged != 3<<20 {
			t.Error(f.staged)
		}
	}
}

// A writer that pauses is not taken for a service that does not answer; and a
// Client that is closed does not wait for it.
func TestWriterPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake()
		f.wrong = t.Errorf
		c, err := New(t.Context(), f.Dial, Options{Wait: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Create(t.Context(), "a", WriteOptions{})
		for range 4 {
			if err == nil {
				_, err = w.Write(contents(1<<20 + 1))
			}
			time.Sleep(4 * time.Minute)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		left, err := c.Create(t.Context(), "b", WriteOptions{})
		if err == nil {
			_, err = left.Write(contents(2 << 20))
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close() // always nil
		if err := left.Close(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// All ways to read give the same bytes.
func TestReader(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	ctx := t.Context()
	for _, n := range []int{0, 1, 5000, readerFirst, readerFirst + 1, 5<<20 + 99} {
		want := contents(n)
		wrote, err := c.Tx().WriteFile("a", Bytes(want), WriteOptions{}).Commit(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Open(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if r.Size() != int64(n) || r.Version() != wrote.Tx {
			t.Error(r.Size(), r.Version(), wrote.Tx)
		}
		if n <= 5000 {
			if err := iotest.TestReader(r, want); err != nil {
				t.Error(n, err)
			}
		}
		if at, err := r.Seek(0, io.SeekStart); at != 0 || err != nil {
			t.Fatal(at, err)
		}
		var out bytes.Buffer
		if m, err := r.WriteTo(&out); m != int64(n) || err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Error(n, m, err)
		}
		rng := rand.New(rand.NewSource(int64(n)))
		var wg sync.WaitGroup
		for range 4 {
			off, buf := rng.Int63n(int64(n)+2), make([]byte, rng.Intn(300<<10))
			wg.Go(func() {
				m, err := r.ReadAt(buf, off)
				end := min(int64(n), off+int64(len(buf)))
				if off < int64(n) && !bytes.Equal(buf[:m], want[off:end]) || (m < len(buf)) != errors.Is(err, io.EOF) {
					t.Error(n, off, len(buf), m, err)
				}
			})
		}
		wg.Wait()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "readFile a: ") {
			t.Error(err)
		}
	}
	if _, err := c.Open(ctx, "missing"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
}

// Never bytes of two versions: a file that is changed, or deleted, is ErrChanged
// from then on, but for what was read ahead.
func TestReaderKeepsItsVersion(t *testing.T) {
	const size = 9 << 20
	for name, change := range map[string]func(c *Client) error{
		"overwritten": func(c *Client) error {
			_, err := c.WriteFile(context.Background(), "a", Bytes(contents(size+1)), WriteOptions{})
			return err
		},
		"shorter": func(c *Client) error {
			_, err := c.WriteFile(context.Background(), "a", Bytes(nil), WriteOptions{})
			return err
		},
		"deleted": func(c *Client) error { return c.DeleteFile(context.Background(), "a") },
	} {
		c := newClient(t, NewFake(), Options{})
		want := contents(size)
		if _, err := c.WriteFile(t.Context(), "a", Bytes(want), WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := c.Open(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 3<<20)
		if _, err := io.ReadFull(r, got); err != nil {
			t.Fatal(err)
		}
		if err := change(c); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(r)
		if got = append(got, rest...); !errors.Is(err, ErrChanged) || !bytes.Equal(got, want[:len(got)]) || len(got) > (3+readerAhead)<<20 {
			t.Error(name, len(got), err)
		}
		if _, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "readFile a: ") {
			t.Error(name, err)
		}
		_ = r.Close() // always nil
	}
}

// Reading ahead takes bounded memory, and few calls.
func TestReaderReadsAhead(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	const size = 12 << 20
	if _, err := c.WriteFile(t.Context(), "a", Bytes(contents(size)), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	reads := 0
	var mu sync.Mutex
	f.fault = func(call string) fault {
		mu.Lock()
		defer mu.Unlock()
		if call == "read" {
			reads++
		}
		return fine
	}
	r, err := c.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		_, err := r.Read(make([]byte, 10<<10))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		bytes := int64(0)
		for _, p := range r.parts {
			bytes += p.to - p.from
		}
		r.mu.Unlock()
		if bytes > readerAhead*readerPart {
			t.Fatal(bytes, "bytes in memory")
		}
	}
	if reads > size/readerPart+8 {
		t.Error(reads, "reads")
	}
}

// Lost connections and garbled pieces do not show.
func TestReaderGoesOn(t *testing.T) {
	f := NewFake()
	c := newClient(t, f, Options{})
	want := contents(5 << 20)
	if _, err := c.WriteFile(t.Context(), "a", Bytes(want), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	pieces := 0
	var mu sync.Mutex
	f.piece = func(p *wire.Piece) error {
		mu.Lock()
		defer mu.Unlock()
		switch pieces++; pieces % 11 {
		case 5:
			return lostError(false)
		case 9:
			p.Data[0]++
		}
		return nil
	}
	r, err := c.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Error(len(got), err)
	}
}
