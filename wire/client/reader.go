package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"tpcfs/wire"
)

// A Reader reads ahead in parts that grow while it is read in order, and
// several at once.
const (
	readerFirst = wire.PieceSize // bytes of the first part
	readerPart  = 1 << 20        // ... of the largest
	readerAhead = 4              // parts in memory
)

// Reader reads one version of one file. Everything that it gives is of that
// version, verified against the checksums that were made where the contents
// came from (G7); when the file changes or is deleted and the rest of it is not
// to be had, the error is ErrChanged. Its methods may be called at the same
// time; those that move its offset wait for each other.
type Reader struct {
	c      *Client
	ctx    context.Context // of all reads; ends with Close
	cancel context.CancelFunc
	name   string
	attr   wire.Attr

	mu     sync.Mutex // guards what follows
	wg     sync.WaitGroup
	closed bool
	offset int64
	parts  []*part // in order, one following the other, the first at or before offset
	size   int64   // of the next part
	ahead  int     // parts wanted at once
}

// part is a piece of a file that is being read, or was.
type part struct {
	from, to int64
	done     chan struct{} // closed when data and err are valid
	data     []byte
	err      error
}

// Open begins to read a file; symbolic links are followed. ctx is for all reads,
// also those after Open has returned. The caller closes the Reader.
func (c *Client) Open(ctx context.Context, name string) (*Reader, error) {
	var b buffer
	attr, err := c.ReadTo(ctx, name, &b, ReadOptions{Length: readerFirst})
	if err != nil {
		return nil, err
	}
	r := &Reader{c: c, name: name, attr: attr, size: readerFirst, ahead: 1}
	r.ctx, r.cancel = context.WithCancel(ctx)
	first := &part{to: int64(len(b.data)), data: b.data, done: make(chan struct{})}
	close(first.done)
	r.parts = []*part{first}
	return r, nil
}

// Size is the file's length in bytes.
func (r *Reader) Size() int64 { return r.attr.Size }

// Version is the version that is read.
func (r *Reader) Version() wire.ID { return r.attr.Version }

// Attr is what Stat told of the file when it was opened.
func (r *Reader) Attr() wire.Attr { return r.attr }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(p) == 0 {
		return 0, r.usableLocked()
	}
	data, err := r.nextLocked()
	if err != nil {
		return 0, err
	}
	n := copy(p, data)
	r.offset += int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var total int64
	for {
		data, err := r.nextLocked()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(data)
		r.offset += int64(n)
		total += int64(n)
		if err == nil && n < len(data) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, err
		}
	}
}

// Seek implements io.Seeker.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.usableLocked(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.attr.Size
	default:
		return 0, r.told(wire.NewError(wire.CodeInvalid, fmt.Sprintf("seek from %d", whence)))
	}
	if offset < 0 {
		return 0, r.told(wire.NewError(wire.CodeInvalid, "seek before the beginning"))
	}
	r.offset = offset
	return offset, nil
}

// ReadAt implements io.ReaderAt. It does not read ahead.
func (r *Reader) ReadAt(p []byte, offset int64) (int, error) {
	r.mu.Lock()
	err := r.usableLocked()
	if err == nil {
		r.wg.Add(1) // before Close waits
		defer r.wg.Done()
	}
	r.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case offset < 0:
		return 0, r.told(wire.NewError(wire.CodeInvalid, "a negative offset"))
	case len(p) == 0:
		return 0, nil
	case offset >= r.attr.Size:
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.attr.Size-offset)]
	if err := r.fetch(want, offset); err != nil {
		return 0, err
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(p), nil
}

// Close ends all reads and waits for them.
func (r *Reader) Close() error {
	r.cancel() // whoever reads has the lock
	r.mu.Lock()
	r.closed, r.parts = true, nil
	r.mu.Unlock()
	r.wg.Wait()
	return nil
}

func (r *Reader) usableLocked() error {
	if r.closed {
		return r.told(wire.NewError(wire.CodeInvalid, "it is closed"))
	}
	return nil
}

// nextLocked returns what comes at the offset, at least a byte of it.
func (r *Reader) nextLocked() ([]byte, error) {
	if err := r.usableLocked(); err != nil {
		return nil, err
	}
	if r.offset >= r.attr.Size {
		return nil, io.EOF
	}
	r.fillLocked()
	p := r.parts[0]
	<-p.done // at the latest when ctx ends
	if p.err != nil {
		r.parts = nil // the next Read tries again
		return nil, p.err
	}
	return p.data[r.offset-p.from:], nil
}

// fillLocked makes the first part that of the offset, and starts those that
// are missing after it.
func (r *Reader) fillLocked() {
	passed := 0
	for passed < len(r.parts) && r.parts[passed].to <= r.offset {
		passed++
	}
	switch {
	case passed < len(r.parts) && r.parts[passed].from <= r.offset:
		r.parts = r.parts[passed:]
	case passed > 0 && passed == len(r.parts) && r.parts[passed-1].to == r.offset:
		r.parts = nil // it goes on
	default:
		// Elsewhere: parts under way end by themselves.
		r.parts, r.size, r.ahead = nil, readerFirst, 1
		passed = 0
	}
	if passed > 0 {
		r.size, r.ahead = min(2*r.size, readerPart), min(r.ahead+1, readerAhead)
	}
	for len(r.parts) < r.ahead {
		from := r.offset
		if n := len(r.parts); n > 0 {
			from = r.parts[n-1].to
		}
		if from >= r.attr.Size {
			return
		}
		p := &part{from: from, to: min(from+r.size, r.attr.Size), done: make(chan struct{})}
		r.parts = append(r.parts, p)
		r.wg.Go(func() {
			defer close(p.done)
			p.data = make([]byte, p.to-p.from)
			p.err = r.fetch(p.data, p.from)
		})
	}
}

// fetch fills p with what is at an offset.
func (r *Reader) fetch(p []byte, offset int64) error {
	b := &fixed{p: p}
	_, err := r.c.Read(r.ctx, wire.Read{
		Kind: wire.ReadFile, At: wire.At{Dir: r.attr.Ino}, Offset: offset, Length: int64(len(p)), IfVersion: r.attr.Version,
	}, b)
	if err == nil && b.n < len(p) {
		err = wire.NewError(wire.CodeChanged, "the file has become shorter")
	}
	return r.told(err)
}

// fixed takes pieces into a slice of their size.
type fixed struct {
	p []byte
	n int
}

func (f *fixed) WritePiece(p wire.Piece) error {
	f.n += copy(f.p[f.n:], p.Data)
	return nil
}

// told gives an error the caller's words.
func (r *Reader) told(err error) error {
	if err == nil {
		return nil
	}
	e := &wire.Error{Code: wire.CodeIO, Text: err.Error()}
	errors.As(err, &e)
	full := *e
	full.Op, full.Name = "readFile", r.name
	switch e.Code {
	case wire.CodeStale, wire.CodeNotExist: // by its number it was there
		full.Code, full.Text = wire.CodeChanged, "it was deleted or replaced while it was read"
	default:
	}
	return &full
}
