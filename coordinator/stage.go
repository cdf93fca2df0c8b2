package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

// pieceBuffers is how many pieces of one stage are in memory: the slowest
// participant sets the pace.
const pieceBuffers = 8

// Stage implements wire.Service: every piece goes to all participants as it comes.
func (c *Coordinator) Stage(ctx context.Context, session wire.SessionID, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	reply, err := c.stage(ctx, session, req, pieces)
	if err != nil {
		e := *asError(err)
		e.Op, e.Name = "stage", req.Name
		return wire.StageReply{}, &e
	}
	return reply, nil
}

func (c *Coordinator) stage(ctx context.Context, session wire.SessionID, req wire.StageRequest, pieces wire.PieceReader) (wire.StageReply, error) {
	if req.Size > wire.MaxFileSize {
		return wire.StageReply{}, &wire.Error{Code: wire.CodeTooLarge, Text: fmt.Sprintf("%d bytes, at most %d", req.Size, int64(wire.MaxFileSize))}
	}
	if req.Pack && (req.Size < 0 || req.Size > wire.MaxPack) {
		return wire.StageReply{}, &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("names and small contents of %d bytes in one transaction, at most %d", req.Size, wire.MaxPack)}
	}
	waitCtx, cancelWait := ctx, context.CancelFunc(func() {})
	if req.Wait > 0 { // for the beginning; then progress is watched link by link
		waitCtx, cancelWait = context.WithTimeout(ctx, time.Duration(req.Wait)*time.Millisecond)
	}
	defer cancelWait()
	pl, err := c.stages.take(waitCtx, c.ctx, owner(session))
	if err != nil {
		return wire.StageReply{}, err
	}
	defer pl.release()
	id, links, err := c.beginStage(waitCtx, session, req.Link)
	if err != nil {
		return wire.StageReply{}, err
	}
	reply, has, err := c.fanOut(ctx, wire.StageRequest{Epoch: c.epoch, ID: id, Size: req.Size, Name: req.Name, Pack: req.Pack, Skew: req.Skew}, links, pl, pieces)
	if err == nil {
		err = c.settleStage(ctx, links, has) // however long they took to come
	}
	known := make(chan struct{})
	if c.post(func() { c.m.EndStage(id, err == nil); close(known) }) {
		select {
		case <-known: // a Transact that names it may follow at once
		case <-c.done:
		}
	}
	return reply, err
}

// beginStage waits until all participants have a link, and takes an id.
func (c *Coordinator) beginStage(ctx context.Context, session wire.SessionID, number uint64) (wire.ID, []*link, error) {
	type begun struct {
		id    wire.ID
		links []*link
		err   *wire.Error
	}
	for {
		changed := c.changed.wait()
		answer := make(chan begun, 1)
		posted := c.post(func() {
			var b begun
			if b.id, b.err = c.m.BeginStage(session, number); b.err == nil {
				for i := range int(c.slots.Load()) { // who was let in in this turn is no outsider any more
					if l := c.links[i].Load(); l != nil && c.m.InSync(i) {
						b.links = append(b.links, l)
					}
				}
			}
			answer <- b
		})
		if !posted {
			return 0, nil, errStopped
		}
		b := <-answer // the owner never waits
		switch {
		case b.err == nil:
			return b.id, b.links, nil
		case b.err.Code != wire.CodeUnavailable:
			return 0, nil, b.err
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return 0, nil, errStopped
		case <-ctx.Done():
			e := *b.err
			if errors.Is(ctx.Err(), context.Canceled) {
				e.Code = wire.CodeCanceled
			}
			return 0, nil, &e
		}
	}
}

// settleStage waits until those who have an object are all that need it: who
// was lost meanwhile is evicted, or back without it.
func (c *Coordinator) settleStage(ctx context.Context, links []*link, has []int) error {
	lost := &wire.Error{Code: wire.CodeUnavailable, Text: "a participant was lost while the contents were brought to it; nothing changed"}
	var late <-chan time.Time
	for {
		changed := c.changed.wait()
		answer := make(chan [2]bool, 1)
		ok := c.ask(ctx, func() {
			lacks, back := c.m.StageLacks(has), false
			for _, i := range lacks {
				now := c.links[i].Load() // the lost one, until that is noticed
				back = back || now != nil && !slices.Contains(links, now) || !c.m.MayGo(i)
			}
			answer <- [2]bool{len(lacks) == 0, back}
		})
		if !ok {
			return lost
		}
		if a := <-answer; a[0] {
			return nil
		} else if a[1] {
			return lost
		}
		if late == nil {
			late = time.After(2*c.o.EvictAfter + time.Second)
		}
		select {
		case <-changed:
		case <-late: // it is there after all
			return lost
		case <-ctx.Done():
			return lost
		case <-c.ctx.Done():
			return errStopped
		}
	}
}

// lostBy: did a call fail because its link is gone, noticed or not yet?
func lostBy(l *link, err error) bool {
	return err != nil && (l.ctx.Err() != nil || asError(err).Lost)
}

// mayGo: could the others go on without that participant?
func (c *Coordinator) mayGo(i int) bool {
	answer := make(chan bool, 1)
	return c.ask(c.ctx, func() { answer <- c.m.MayGo(i) }) && <-answer
}

// fanOut brings the pieces to all links and compares what they say. It names
// those who have them: one whose link is lost, and who may be evicted, is left
// out. A lost participant, or the place's loss, does not wait for the client's
// next piece.
func (c *Coordinator) fanOut(ctx context.Context, req wire.StageRequest, links []*link, pl *place, pieces wire.PieceReader) (wire.StageReply, []int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	defer context.AfterFunc(pl.ctx, cancel)()
	defer context.AfterFunc(ctx, func() { interrupt(pieces) })()
	f := newFan(ctx, len(links))
	replies := make([]wire.StageReply, len(links))
	errs := make([]error, len(links))
	var wg sync.WaitGroup
	for i, l := range links {
		wg.Go(func() {
			one, end := context.WithCancelCause(ctx)
			defer end(nil)
			in := newFanReader(one, f, i, c.o.StagePatience, func() { end(lateError{c.o.StagePatience}) })
			defer in.owes.Stop()
			defer context.AfterFunc(l.ctx, func() {
				if c.mayGo(l.member) {
					end(nil)
				} else {
					cancel()
				}
			})()
			replies[i], errs[i] = l.replica.Stage(one, req, in)
			if late := (lateError{}); errs[i] != nil && errors.As(context.Cause(one), &late) {
				errs[i] = late
			}
			switch {
			case errs[i] == nil:
			case lostBy(l, errs[i]) && ctx.Err() == nil && c.mayGo(l.member):
				in.ctx = ctx
				in.drain()
			default:
				cancel() // the others' work is in vain
			}
		})
	}
	feedErr := f.feed(req.Size, &placeReader{pl, pieces})
	if ctx.Err() != nil {
		feedErr = nil // it was interrupted
	} else if feedErr != nil {
		cancel()
	}
	f.finish()
	wg.Wait()
	switch {
	case pl.ctx.Err() != nil:
		return wire.StageReply{}, nil, pl.lost()
	case feedErr != nil:
		return wire.StageReply{}, nil, feedErr
	}
	if ctx.Err() == nil {
		links, replies, errs = f.left(links, replies, errs)
	}
	var has []int
	for _, l := range links {
		has = append(has, l.member)
	}
	reply, err := judgeStage(ctx, req.ID, links, replies, errs)
	return reply, has, err
}

// left are those whose links have not been lost on the way; all, if there is none.
func (f *fan) left(links []*link, replies []wire.StageReply, errs []error) (l []*link, r []wire.StageReply, e []error) {
	for i := range links {
		if !lostBy(links[i], errs[i]) {
			l, r, e = append(l, links[i]), append(r, replies[i]), append(e, errs[i])
		}
	}
	if len(l) == 0 {
		return links, replies, errs
	}
	return l, r, e
}

// lateError: a participant has let StagePatience pass.
type lateError struct{ after time.Duration }

func (e lateError) Error() string {
	return fmt.Sprintf("has done nothing for %v with the contents that were brought to it, though its connection is there", e.after)
}

// judgeStage: the same from everybody, or what is most telling.
func judgeStage(ctx context.Context, id wire.ID, links []*link, replies []wire.StageReply, errs []error) (wire.StageReply, error) {
	var worst *wire.Error
	for i, l := range links {
		if errs[i] == nil {
			continue
		}
		if late := (lateError{}); errors.As(errs[i], &late) {
			worst = &wire.Error{Code: wire.CodeUnavailable, Who: l.name, Text: fmt.Sprintf("participant %s %v; nothing changed", l.name, late)}
			continue
		}
		e := *asError(errs[i])
		e.Who = l.name
		switch e.Code {
		case wire.CodeNoSpace, wire.CodeTooLarge, wire.CodeInvalid, wire.CodeCorrupt:
			e.Text = "participant " + l.name + ": " + e.Text
			return wire.StageReply{}, &e
		case wire.CodeCanceled:
			if l.ctx.Err() == nil {
				continue // because of another
			}
		default:
		}
		e.Code = wire.CodeUnavailable
		e.Text = "participant " + l.name + " was lost while the contents were brought to it; nothing changed: " + errs[i].Error()
		worst = &e
	}
	switch {
	case worst != nil:
		return wire.StageReply{}, worst
	case ctx.Err() != nil:
		return wire.StageReply{}, wire.NewError(wire.CodeCanceled, "given up; nothing changed")
	}
	for i, r := range replies {
		if r.Size != replies[0].Size || r.Sum != replies[0].Sum {
			return wire.StageReply{}, &wire.Error{Code: wire.CodeCorrupt, Who: links[i].name, Text: fmt.Sprintf(
				"participant %s has %d bytes (sum %08x) of what is %d bytes (sum %08x) at %s; nothing changed: try again",
				links[i].name, r.Size, r.Sum, replies[0].Size, replies[0].Sum, links[0].name)}
		}
	}
	reply := replies[0]
	reply.ID = id
	return reply, nil
}

// piece is a copy of a client's piece, shared by the links.
type piece struct {
	wire.Piece
	buf  *[]byte
	refs atomic.Int32
}

var pieceBufs = sync.Pool{New: func() any { b := make([]byte, wire.PieceSize); return &b }}

// fan hands pieces to all links. At most pieceBuffers are on their way.
type fan struct {
	ctx  context.Context
	out  []chan *piece // by link, each with room for all
	free chan struct{} // a token for each piece that may still be read
	done bool          // the last piece was fed; read after out is closed
}

func newFan(ctx context.Context, n int) *fan {
	f := &fan{ctx: ctx, free: make(chan struct{}, pieceBuffers)}
	for range n {
		f.out = append(f.out, make(chan *piece, pieceBuffers))
	}
	for range pieceBuffers {
		f.free <- struct{}{}
	}
	return f
}

// feed reads all pieces and checks their order, sums and size (G7).
func (f *fan) feed(size int64, pieces wire.PieceReader) error {
	var next int64
	for {
		select {
		case <-f.free:
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
		p, err := pieces.ReadPiece()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch {
		case p.Offset != next || len(p.Data) == 0 || len(p.Data) > wire.PieceSize:
			return &wire.Error{Code: wire.CodeProtocol, Text: fmt.Sprintf("a piece of %d bytes at %d, expected at %d", len(p.Data), p.Offset, next)}
		case wire.Sum(p.Data) != p.Sum:
			return wire.NewError(wire.CodeCorrupt, "the contents changed on their way to the coordinator: their checksum does not match; try again")
		}
		if next += int64(len(p.Data)); next > wire.MaxFileSize || size >= 0 && next > size {
			return &wire.Error{Code: wire.CodeTooLarge, Text: fmt.Sprintf("more than the %d bytes announced, or allowed", size)}
		}
		f.give(p)
	}
	if size >= 0 && next != size {
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("%d bytes came, %d were announced", next, size)}
	}
	f.done = true
	return nil
}

func (f *fan) give(p wire.Piece) {
	c := &piece{Piece: p, buf: pieceBufs.Get().(*[]byte)}
	c.Data = (*c.buf)[:copy(*c.buf, p.Data)]
	c.refs.Store(int32(len(f.out)))
	for _, ch := range f.out {
		ch <- c // never waits: there are no more pieces than room
	}
}

// finish tells the links that nothing more comes.
func (f *fan) finish() {
	for _, ch := range f.out {
		close(ch)
	}
}

// fanReader is one link's PieceReader.
type fanReader struct {
	f    *fan
	ctx  context.Context // ends with the fan, or with the link
	in   chan *piece
	last *piece // given out; its buffer is the reader's until the next call

	// Runs while the participant has something to do: not while it waits for
	// the client, who may take its time (W3).
	owes     *time.Timer
	patience time.Duration
}

// newFanReader is the reader of link i, which calls late if that takes longer
// than patience with a piece, or with its answer after the last.
func newFanReader(ctx context.Context, f *fan, i int, patience time.Duration, late func()) *fanReader {
	return &fanReader{f: f, ctx: ctx, in: f.out[i], owes: time.AfterFunc(patience, late), patience: patience}
}

// ReadPiece implements wire.PieceReader.
func (r *fanReader) ReadPiece() (wire.Piece, error) {
	r.owes.Stop()
	defer r.owes.Reset(r.patience)
	if p := r.last; p != nil {
		r.last = nil
		if p.refs.Add(-1) == 0 {
			pieceBufs.Put(p.buf)
			r.f.free <- struct{}{}
		}
	}
	select {
	case p, ok := <-r.in:
		if ok {
			r.last = p
			return p.Piece, nil
		}
		if r.f.done {
			return wire.Piece{}, io.EOF
		}
	case <-r.ctx.Done():
	}
	return wire.Piece{}, wire.NewError(wire.CodeCanceled, "staging was given up")
}

// drain takes what comes for a link that is lost, so that the others go on.
func (r *fanReader) drain() {
	for {
		if _, err := r.ReadPiece(); err != nil {
			return
		}
	}
}

// unstageWait bounds the dropping of staged objects; what it misses is asked
// for again by the participant's next link.
const unstageWait = 10 * time.Second

// unstage has participants drop staged objects, in the background.
func (c *Coordinator) unstage(list []commit.Unstage) {
	for _, u := range list {
		l := c.links[u.Member].Load()
		if l == nil || l.number != u.Link {
			continue
		}
		c.crew.start(func() {
			ctx, cancel := context.WithTimeout(l.ctx, unstageWait)
			defer cancel()
			err := l.replica.Unstage(ctx, c.epoch, u.IDs)
			switch {
			case err == nil:
				c.post(func() { c.m.Unstaged(u.Member, u.IDs) })
			case l.ctx.Err() == nil:
				c.log.Warn("staged contents were not dropped; they are when the participant's connection is made again", "name", l.name, "err", err)
			}
		})
	}
}
