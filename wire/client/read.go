package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"tpcfs/wire"
)

// Read makes one read; names are used as they are. A ReadFile's pieces go to w,
// verified and in order. When the file changes meanwhile, the read starts
// again with a piece of another version at req.Offset: what was given before
// it is void, and all of it is when the reply's Attr.Version is another one.
// A file that keeps changing is CodeConflict; with req.IfVersion, the first
// change is CodeChanged. An error of w ends the read and is returned as it is.
func (c *Client) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return wire.ReadReply{}, err
	}
	defer o.end()
	r := &reading{o: o, req: req, w: w, version: req.IfVersion, next: req.Offset}
	reply, err := r.run()
	if err != nil && r.failed == nil {
		err = named(err, readNames[req.Kind], req.At.String())
	}
	return reply, err
}

var readNames = map[wire.ReadKind]string{
	wire.ReadFile: "readFile", wire.ReadStat: "stat", wire.ReadList: "list",
	wire.ReadLink: "readlink", wire.ReadGetxattr: "getxattr", wire.ReadListxattr: "listxattr", wire.ReadData: "readData",
}

func (o *operation) read(req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	r := &reading{o: o, req: req, w: w, version: req.IfVersion, next: req.Offset}
	return r.run()
}

// run tries until there is an answer.
func (r *reading) run() (wire.ReadReply, error) {
	if err := wire.CheckPath(r.req.At.Path); err != nil {
		return wire.ReadReply{}, err
	}
	o := r.o
	for corrupt := 0; ; {
		l, err := o.link()
		if err != nil {
			return wire.ReadReply{}, err
		}
		reply, err := r.attempt(l)
		switch {
		case err == nil:
			return reply, nil
		case r.failed != nil:
			return wire.ReadReply{}, r.failed
		case wire.CodeOf(err) == wire.CodeCorrupt && r.garbled && corrupt < maxCorrupt:
			corrupt++
		case wire.CodeOf(err) == wire.CodeChanged && r.req.IfVersion == 0:
			if err := r.restart(0); err != nil {
				return wire.ReadReply{}, err
			}
		case o.againHere(l, err):
		default:
			return wire.ReadReply{}, err
		}
		if !o.backoff() {
			return wire.ReadReply{}, o.outOfTime(err)
		}
	}
}

// reading is a read over all its attempts.
type reading struct {
	o   *operation
	req wire.Read
	w   wire.PieceWriter

	version  wire.ID // of what has been given; 0: nothing yet
	next     int64   // offset of the next piece
	restarts int
	garbled  bool  // the last attempt ended with a bad piece
	failed   error // w's own error
}

// attempt asks for what is missing.
func (r *reading) attempt(l *link) (wire.ReadReply, error) {
	wait, ok := r.o.waitMS()
	if !ok {
		return wire.ReadReply{}, r.o.outOfTime(nil)
	}
	req := r.req
	req.Wait = wait
	if req.Kind == wire.ReadFile {
		req.IfVersion, req.Offset = r.version, r.next
		if req.Length >= 0 {
			req.Length -= r.next - r.req.Offset
		}
	}
	r.garbled = false
	ctx, cancel := context.WithCancel(r.o.ctx)
	defer cancel()
	if r.o.c.o.Wait > 0 {
		// The wait starts anew with each piece, so this is a timer of its own.
		stop := r.o.watch(cancel)
		defer stop()
	}
	reply, err := l.conn.Read(ctx, req, r)
	switch {
	case err == nil && req.Kind == wire.ReadFile:
		return reply, r.complete(reply)
	case err != nil && r.o.ctx.Err() != nil:
		return reply, r.o.gaveUp()
	case err != nil && ctx.Err() != nil:
		return reply, r.o.outOfTime(nil)
	}
	return reply, err
}

// WritePiece implements wire.PieceWriter.
func (r *reading) WritePiece(p wire.Piece) error {
	switch {
	case r.failed != nil:
		return r.failed
	case r.w == nil:
		return wire.NewError(wire.CodeProtocol, "contents where none were asked for")
	case wire.Sum(p.Data) != p.Sum:
		r.garbled = true
		return wire.NewError(wire.CodeCorrupt, "contents were garbled on the way")
	case r.version != 0 && p.Version != r.version:
		if p.Offset != r.req.Offset || r.req.IfVersion != 0 {
			return wire.NewError(wire.CodeProtocol, "contents of two versions in one read")
		}
		if r.failed = r.restart(p.Version); r.failed != nil {
			return r.failed
		}
	}
	end := p.Offset + int64(len(p.Data))
	if p.Offset != r.next || r.req.Length >= 0 && end > r.req.Offset+r.req.Length {
		return wire.NewError(wire.CodeProtocol, fmt.Sprintf("contents from %d to %d come where those from %d should", p.Offset, end, r.next))
	}
	if r.failed = r.w.WritePiece(p); r.failed != nil {
		return r.failed
	}
	r.version, r.next = p.Version, end
	r.o.progress()
	return nil
}

// restart begins again with a newer version, a bounded number of times (W5).
func (r *reading) restart(version wire.ID) error {
	if r.restarts++; r.restarts > maxRestarts {
		return wire.NewError(wire.CodeConflict, fmt.Sprintf("the file changed %d times while it was read: try again when it is at rest", r.restarts))
	}
	r.version, r.next = version, r.req.Offset
	return nil
}

// complete checks that nothing is missing.
func (r *reading) complete(reply wire.ReadReply) error {
	want := max(0, reply.Attr.Size-r.req.Offset)
	if r.req.Length >= 0 {
		want = min(want, r.req.Length)
	}
	got := r.next - r.req.Offset
	if got > 0 && reply.Attr.Version != r.version && want == 0 {
		return nil // it became empty; what was given is void
	}
	if got != want || got > 0 && reply.Attr.Version != r.version {
		return wire.NewError(wire.CodeProtocol, fmt.Sprintf("%d bytes of version %v came, %d of version %v should have", got, r.version, want, reply.Attr.Version))
	}
	return nil
}

// ReadOptions say which part of a file is read.
type ReadOptions struct {
	Offset int64 // bytes
	Length int64 // bytes; 0: to the end
	// Progress is called with the number of bytes read so far.
	Progress func(bytes int64)
}

// Restarter is a writer that can begin again: what was written to it is void.
type Restarter interface{ Restart() error }

// ReadFile returns a file's contents, all of one version.
func (c *Client) ReadFile(ctx context.Context, name string) ([]byte, error) {
	var b buffer
	_, err := c.ReadTo(ctx, name, &b, ReadOptions{})
	if err != nil {
		return nil, err
	}
	return b.data, nil
}

type buffer struct{ data []byte }

func (b *buffer) Write(p []byte) (int, error) { b.data = append(b.data, p...); return len(p), nil }
func (b *buffer) Restart() error              { b.data = b.data[:0]; return nil }

// ReadTo writes a file's contents, or a part of them, to w and returns the
// attributes of the version that it read. When the file changes meanwhile and
// w is a Restarter, the read starts again; if it is not and something has been
// written, the error is CodeConflict. An error of w is returned as it is.
func (c *Client) ReadTo(ctx context.Context, name string, w io.Writer, o ReadOptions) (wire.Attr, error) {
	if o.Length == 0 {
		o.Length = -1
	}
	if o.Offset < 0 || o.Length < -1 {
		return wire.Attr{}, &wire.Error{Code: wire.CodeInvalid, Op: "readFile", Name: name, Text: "a negative offset or length"}
	}
	s := &sink{w: w, progress: o.Progress}
	var reply wire.ReadReply
	err := c.follow(ctx, "readFile", name, func(op *operation, path string) (err error) {
		reply, err = op.read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: wire.RootIno, Path: path}, Offset: o.Offset, Length: o.Length}, s)
		if err == nil && s.written > 0 && s.version != reply.Attr.Version {
			err = s.restart()
		}
		return err
	})
	if s.failed != nil {
		return reply.Attr, s.failed
	}
	return reply.Attr, err
}

// sink passes pieces on to a writer.
type sink struct {
	w        io.Writer
	progress func(bytes int64)
	version  wire.ID
	written  int64
	failed   error // w's
}

func (s *sink) WritePiece(p wire.Piece) error {
	if s.written > 0 && p.Version != s.version {
		if err := s.restart(); err != nil {
			return err
		}
	}
	s.version = p.Version
	n, err := s.w.Write(p.Data)
	s.written += int64(n)
	if err == nil && n < len(p.Data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		s.failed = err
		return err
	}
	if s.progress != nil {
		s.progress(s.written)
	}
	return nil
}

func (s *sink) restart() error {
	r, ok := s.w.(Restarter)
	if !ok {
		return wire.NewError(wire.CodeConflict, fmt.Sprintf("the file changed after %d bytes of it were written out: try again", s.written))
	}
	s.written = 0
	if err := r.Restart(); err != nil {
		s.failed = err
		return err
	}
	return nil
}

// Statfs tells the space left.
func (c *Client) Statfs(ctx context.Context) (wire.Statfs, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return wire.Statfs{}, err
	}
	defer o.end()
	for {
		l, err := o.link()
		if err != nil {
			return wire.Statfs{}, err
		}
		bounded, cancel := o.bounded(answerGrace)
		fs, err := l.conn.Statfs(bounded)
		cancel()
		if err == nil || !o.lostLink(l, err) {
			return fs, err
		}
		if !o.backoff() {
			return fs, o.outOfTime(err)
		}
	}
}

// Watch asks for a lease on what was read, or for more of it (wire.Watched).
// Epoch, Number, Wait and Holds are the caller's, the rest is the client's. The
// lease counts from before the call. It makes one attempt, once there is a link.
func (c *Client) Watch(ctx context.Context, req wire.Watch) (wire.Watched, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return wire.Watched{}, err
	}
	defer o.end()
	l, err := o.link()
	if err != nil {
		return wire.Watched{}, err
	}
	ctx, cancel := context.WithTimeout(o.ctx, time.Duration(req.Wait)*time.Millisecond+watchGrace)
	defer cancel()
	req.Session, req.Link = c.o.Session, l.number
	req.Lowest, req.Lost = c.known()
	got, err := l.conn.Watch(ctx, req)
	if err != nil {
		_ = o.lostLink(l, err) // the next call connects again
	}
	return got, err
}

// watchGrace is how long the answer to a Watch may be late: a lease is over then.
const watchGrace = wire.Lease * time.Millisecond

// Status tells how the cluster does. It needs no session, and answers also
// while the coordinator waits for participants.
func (c *Client) Status(ctx context.Context, req wire.StatusRequest) (wire.Status, error) {
	o, err := c.begin(ctx)
	if err != nil {
		return wire.Status{}, err
	}
	defer o.end()
	for {
		status, err := o.status(req)
		var e *wire.Error
		if err == nil || errors.As(err, &e) && !e.Lost {
			return status, err
		}
		if !o.backoff() {
			return status, o.outOfTime(err)
		}
	}
}

// status asks by the session's link, or without one by a connection of its own.
func (o *operation) status(req wire.StatusRequest) (wire.Status, error) {
	c := o.c
	ctx, cancel := o.bounded(answerGrace)
	defer cancel()
	c.mu.Lock()
	l := c.current
	c.mu.Unlock()
	if l != nil {
		status, err := l.conn.Status(ctx, req)
		if err != nil {
			o.lostLink(l, err)
		}
		return status, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return wire.Status{}, err
	}
	defer conn.Close() // it has served
	return conn.Status(ctx, req)
}
