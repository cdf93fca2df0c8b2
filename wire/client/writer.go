package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"tpcfs/wire"
)

// Memory of a Writer, or an Ahead: what it keeps before it begins to send, and what is then
// on its way.
const (
	writerHolds = 8 // pieces of wire.PieceSize
	writerAhead = 4
)

// Writer writes one file as a stream. What is written goes to the participants
// as it comes, in bounded memory, and shows to nobody before Close: that puts
// all of it in the file's place at one moment. A Writer is not safe for
// concurrent use.
type Writer struct {
	c    *Client
	ctx  context.Context // the caller's, of all that the Writer does
	name string
	o    WriteOptions

	cur    []byte   // the piece being filled
	held   [][]byte // full ones; nothing is sent yet
	size   int64
	up     *upload // nil: nothing is sent yet
	err    error   // why nothing more can be written
	closed bool
	done   wire.Outcome
}

// upload is contents on their way, and what became of them.
type upload struct {
	path   string // of a Writer's file, symbolic links followed
	skew   int64  // where in a block of their file they begin
	cancel context.CancelFunc
	in     chan []byte // pieces; closed after the last
	free   chan []byte // their memory, to be used again
	ended  chan struct{}
	reply  wire.StageReply // valid when ended, as is err
	err    error
}

// Create begins to write a file. Its contents, and the file itself if it is
// new, appear when Close succeeds; Abort, or the end of ctx before Close, leaves
// nothing behind. One of the two must be called:
//
//	w, err := c.Create(ctx, "log.tar", client.WriteOptions{})
//	if err != nil { ... }
//	defer w.Abort() // does nothing after Close
//	if _, err := io.Copy(w, r); err != nil { ... }
//	if err := w.Close(); err != nil { ... }
//
// Contents of up to 1 MiB are kept until Close and survive lost connections.
// Longer ones are not kept: when the connection or a participant is lost before
// Close, or nothing is written for some minutes (or, while others wait to write
// large contents, for 10 seconds), the Writer fails with ErrUnavailable, nothing
// has changed, and the file is to be written anew.
// Where contents can be read again, WriteFile is the better choice: it goes on by itself.
func (c *Client) Create(ctx context.Context, name string, o WriteOptions) (*Writer, error) {
	if _, bad := parse(name); bad != nil {
		return nil, named(bad, "writeFile", name)
	}
	if ctx.Err() != nil {
		return nil, &wire.Error{Code: wire.CodeCanceled, Op: "writeFile", Name: name, Text: "the caller gave up before anything was done"}
	}
	return &Writer{c: c, ctx: ctx, name: name, o: o}, nil
}

// Write adds to the contents. It waits for the participants when they are
// behind. After an error nothing of the Writer will happen.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.usable(); err != nil {
		return 0, err
	}
	if int64(len(p)) > wire.MaxFileSize-w.size {
		return 0, w.fail(&wire.Error{Code: wire.CodeTooLarge, Text: fmt.Sprintf("more than the %d bytes that a file may have", int64(wire.MaxFileSize))})
	}
	n := 0
	for n < len(p) {
		if len(w.cur) == wire.PieceSize {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
		if w.cur == nil {
			w.cur = w.up.buffer()
		}
		k := min(len(p)-n, wire.PieceSize-len(w.cur))
		w.cur = append(w.cur, p[n:n+k]...)
		n += k
		w.size += int64(k)
	}
	return n, nil
}

// ReadFrom adds all that r gives. An error of r is returned as it is; the
// Writer can go on after it.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	buf := make([]byte, wire.PieceSize)
	for {
		n, err := r.Read(buf)
		wrote, failed := w.Write(buf[:n])
		total += int64(wrote)
		switch {
		case failed != nil:
			return total, failed
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

func (w *Writer) usable() error {
	switch {
	case w.closed:
		return w.named(wire.NewError(wire.CodeInvalid, "it is closed"))
	case w.err != nil:
		return w.err
	case w.ctx.Err() != nil:
		return w.fail(wire.NewError(wire.CodeCanceled, "the caller gave up; nothing changed"))
	}
	return nil
}

func (w *Writer) named(err error) error { return named(err, "writeFile", w.name) }

// fail ends the Writer: nothing of it will happen.
func (w *Writer) fail(err error) error {
	w.err = told(err, "writeFile", w.name, w.name)
	w.drop()
	return w.err
}

// drop gives up what is on its way, and forgets the rest.
func (w *Writer) drop() {
	w.cur, w.held = nil, nil
	if w.up != nil {
		w.up.cancel()
		<-w.up.ended
	}
}

// buffer is an empty piece; u may be nil.
func (u *upload) buffer() []byte {
	if u != nil {
		select {
		case b := <-u.free:
			return b[:0]
		default:
		}
	}
	return make([]byte, 0, wire.PieceSize)
}

// flush puts the piece that is full behind those before it.
func (w *Writer) flush() error {
	if w.up == nil {
		w.held = append(w.held, w.cur)
		w.cur = nil
		if len(w.held) < writerHolds {
			return nil
		}
		if err := w.begin(); err != nil {
			return w.fail(err)
		}
		for _, piece := range w.held {
			if err := w.send(piece); err != nil {
				return err
			}
		}
		w.held = nil
		return nil
	}
	piece := w.cur
	w.cur = nil
	return w.send(piece)
}

func (w *Writer) send(piece []byte) error {
	if w.up.send(w.ctx, piece) {
		return nil
	}
	if err := w.usable(); err != nil {
		return err
	}
	return w.fail(anew(w.up.lost()))
}

// send passes a piece on; false: the upload has ended, or ctx has.
func (u *upload) send(ctx context.Context, piece []byte) bool {
	select {
	case u.in <- piece:
		return true
	case <-u.ended:
	case <-ctx.Done():
	}
	return false
}

// lost is why an upload that has ended did so before its time.
func (u *upload) lost() error {
	if u.err != nil {
		return u.err
	}
	return wire.NewError(wire.CodeProtocol, "the contents were taken before they were complete")
}

// anew says what to do about contents that were lost on their way.
func anew(err error) error {
	var e *wire.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Code == wire.CodeUnknownOutcome:
		return err
	case e.Lost, e.Code == wire.CodeStageLost, e.Code == wire.CodeReplaced, e.Code == wire.CodeCorrupt:
		return wire.NewError(wire.CodeUnavailable, "the contents were lost on their way; nothing changed: write the file again ("+e.Code.String()+": "+e.Text+")")
	}
	return err
}

// begin finds the file's path, which is better known before contents are sent,
// and starts the upload.
func (w *Writer) begin() error {
	path := ""
	err := w.c.follow(w.ctx, "writeFile", w.name, func(o *operation, p string) error {
		path = p
		attr, link, err := o.lstat(p)
		switch {
		case wire.CodeOf(err) == wire.CodeNotExist && w.o.Create != wire.MustExist:
			return nil
		case err != nil:
			return err
		case w.o.Create == wire.MustNotExist:
			return wire.NewError(wire.CodeExist, "")
		case link != nil:
			return link
		case attr.Mode&wire.ModeType == wire.ModeDir:
			return wire.NewError(wire.CodeIsDir, "")
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.up, err = w.c.upload(w.ctx, w.name, 0, w.o.Progress)
	if err == nil {
		w.up.path = path
	}
	return err
}

// upload starts to stage what will be put into its in. It ends with ctx.
func (c *Client) upload(ctx context.Context, name string, skew int64, report func(bytes int64)) (*upload, error) {
	ctx, cancel := context.WithCancel(ctx)
	o, err := c.begin(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	u := &upload{skew: skew, cancel: cancel, in: make(chan []byte, writerAhead), free: make(chan []byte, writerAhead), ended: make(chan struct{})}
	go u.run(o, name, report)
	return u, nil
}

// run stages what comes. It ends with its operation, so at the latest with the
// Client.
func (u *upload) run(o *operation, name string, report func(bytes int64)) {
	defer o.end()
	defer close(u.ended)
	defer u.cancel()
	if report == nil {
		report = func(int64) {}
	}
	source := &pieceSource{r: &pieceStream{u: u, ctx: o.ctx}, size: -1, buf: make([]byte, wire.PieceSize), patient: true,
		skew: u.skew, sum: wire.NewObjectSum(u.skew)}
	for {
		l, err := o.link()
		if err != nil {
			u.err = err
			return
		}
		u.reply, u.err = o.stageFrom(l, source, name, report)
		// What was taken from the stream is not there to be sent again.
		if u.err == nil || source.at > 0 || source.failed != nil || source.ended || !o.againHere(l, u.err) || !o.backoff() {
			return
		}
	}
}

// pieceStream reads what a Writer, or an Ahead, writes.
type pieceStream struct {
	u    *upload
	ctx  context.Context
	last []byte // the piece that is being read
	rest []byte // ... what is left of it
}

func (s *pieceStream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.last != nil {
			select {
			case s.u.free <- s.last:
			default:
			}
			s.last = nil
		}
		select {
		case piece, ok := <-s.u.in:
			if !ok {
				return 0, io.EOF
			}
			s.last, s.rest = piece, piece
		case <-s.ctx.Done():
			return 0, wire.NewError(wire.CodeCanceled, "the caller gave up; nothing changed")
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close makes what was written the file's contents, at one moment. An error
// that is not ErrUnknownOutcome means that nothing has changed and never will:
// ErrConflict that somebody else changes the file just now, ErrVersion that
// WriteOptions.IfVersion does not hold. A second Close returns what the first
// one did.
func (w *Writer) Close() error {
	if w.closed {
		return w.err
	}
	if err := w.usable(); err == nil {
		if w.up == nil {
			w.commitHeld()
		} else {
			w.commitUpload()
		}
	}
	w.closed = true
	w.drop()
	return w.err
}

// Abort gives up what was written: nothing has changed. It does nothing after
// Close.
func (w *Writer) Abort() {
	if w.closed {
		return
	}
	w.closed = true
	w.err = w.named(wire.NewError(wire.CodeCanceled, "the write was given up; nothing changed"))
	w.drop()
}

// Result is what the write did; valid after Close has returned nil.
func (w *Writer) Result() wire.Result {
	if len(w.done.Results) == 0 {
		return wire.Result{}
	}
	return w.done.Results[0]
}

// Version is the file's version; valid after Close has returned nil.
func (w *Writer) Version() wire.ID { return w.done.Tx }

// commitHeld writes contents of which nothing was sent.
func (w *Writer) commitHeld() {
	all := w.cur
	if len(w.held) > 0 {
		all = bytes.Join(append(w.held, w.cur), nil)
	}
	w.done, w.err = w.c.writeFile(w.ctx, w.name, Bytes(all), w.o)
}

// commitUpload completes the upload and commits it.
func (w *Writer) commitUpload() {
	if len(w.cur) > 0 {
		piece := w.cur
		w.cur = nil
		if w.send(piece) != nil {
			return
		}
	}
	close(w.up.in)
	<-w.up.ended
	if w.up.err != nil {
		_ = w.fail(anew(w.up.lost())) // that is w.err
		return
	}
	var err error
	if w.done, err = w.commitStage(); err != nil {
		_ = w.fail(anew(err))
	}
}

func (w *Writer) commitStage() (wire.Outcome, error) {
	o, err := w.c.begin(w.ctx)
	if err != nil {
		return wire.Outcome{}, err
	}
	defer o.end()
	m := w.o.mutation()
	m.At = wire.At{Dir: wire.RootIno, Path: w.up.path}
	t, err := o.prepare([]wire.Mutation{m}, []Content{spent(w.size)})
	if err != nil {
		return wire.Outcome{}, err
	}
	t.muts[0].Content = wire.Content{Size: w.up.reply.Size, Stage: w.up.reply.ID, Sum: w.up.reply.Sum}
	outcome, err := only(t.commit())
	if e := asSymlink(err); e != nil {
		return outcome, wire.NewError(wire.CodeConflict, "a symbolic link has come in the way while the file was written; nothing changed: write it again")
	}
	return outcome, err
}

// spent is a content that was sent and is not kept.
type spent int64

func (s spent) Size() int64 { return int64(s) }

func (s spent) Open() (io.ReadCloser, error) {
	return nil, wire.NewError(wire.CodeStageLost, "the participants have dropped them, as they do when the coordinator starts again")
}
