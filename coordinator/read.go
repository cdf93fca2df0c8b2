package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"tpcfs/wire"
)

// maxRestarts bounds how often a read begins again because the file changes.
const maxRestarts = 8

// retryPause is how long a read waits when all participants have failed it.
const retryPause = 50 * time.Millisecond

// lateRest is for how long reads go to others, if they can, after a participant has
// given nothing for EvictSlow. Who asks all in vain gives each twice as long, so many times
// at most.
const (
	lateRest  = time.Minute
	mostTurns = 6
)

// reading is one Read on its way through the participants.
type reading struct {
	c   *Coordinator
	req wire.Read
	w   wire.PieceWriter

	// What was passed on to w since the last beginning.
	next    int64   // the offset after it
	version wire.ID // of it; 0: nothing was
	werr    error   // why w does not take more

	// What is longer than a piece needs one of the places, so that those whose
	// clients stop taking keep no others from the participants (W3).
	large  bool
	place  *place             // nil: it has none
	kept   [2]func() bool     // stop what ends it with its place
	cancel context.CancelFunc // of the read

	owes  *time.Timer // runs while the participant has something to give; nil: nobody else can be asked
	most  time.Duration
	turns int  // so often all have been asked, in vain
	left  bool // since the last pause one was, that may only be slow

	tried    []bool // members that have failed since the last pause
	corrupt  error  // what the last of them said that found its copy rotten
	last     error  // what the last of the others said
	restarts int
}

// Read implements wire.Service.
func (c *Coordinator) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	if req.Kind == wire.ReadOrphans {
		return wire.ReadReply{}, &wire.Error{Code: wire.CodePermission, Op: readNames[req.Kind], Text: "only the coordinator asks for what has no name"}
	}
	began := time.Since(c.began)
	reply, err := c.read(ctx, req, w)
	c.count(ctx, &c.reads, began, err)
	return reply, err
}

func (c *Coordinator) read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	if req.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.Wait)*time.Millisecond)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &reading{c: c, req: req, w: w, next: req.Offset, cancel: cancel}
	r.large = req.Kind == wire.ReadFile && req.Length > wire.PieceSize
	defer r.leave()
	for {
		if err := r.enter(ctx); err != nil {
			return wire.ReadReply{}, r.named(err)
		}
		changed := c.changed.wait() // before the look at what may change
		l := c.pick(r.tried)
		point := c.readPoint.Load()
		if l == nil || point == 0 {
			if r.corrupt != nil && l == nil && !r.left { // of all that can be asked
				return wire.ReadReply{}, r.named(r.corrupt)
			}
			if err := r.pause(ctx, changed); err != nil {
				return wire.ReadReply{}, err
			}
			continue
		}
		reply, err := r.attempt(ctx, l, point)
		if err == nil {
			return reply, nil
		}
		if r.large && r.place == nil && ctx.Err() == nil {
			continue // no participant is kept waiting while it waits for a place
		}
		if done, err := r.judge(ctx, l, err); done {
			return wire.ReadReply{}, r.named(err)
		}
	}
}

// enter waits for a place if the read needs one.
func (r *reading) enter(ctx context.Context) error {
	if !r.large || r.place != nil {
		return nil
	}
	pl, err := r.c.large.take(ctx, r.c.ctx, r.owner())
	if err != nil {
		return err
	}
	r.keep(pl)
	return nil
}

// keep: when the place is lost, or the coordinator ends, the read does too,
// whatever it waits for.
func (r *reading) keep(pl *place) {
	end := func() { r.cancel(); interrupt(r.w) }
	r.place, r.kept = pl, [2]func() bool{context.AfterFunc(pl.ctx, end), context.AfterFunc(r.c.ctx, end)}
}

func (r *reading) leave() {
	if r.place != nil {
		r.kept[0]()
		r.kept[1]()
		r.place.release()
	}
}

// owner is the link that the pieces go by.
func (r *reading) owner() owner {
	if l, ok := r.w.(wire.Linked); ok {
		return owner(l.Link())
	}
	return owner{}
}

// room: is there a place for a read that turns out to be long?
func (r *reading) room(p *wire.Piece) bool {
	if r.place != nil || len(p.Data) < wire.PieceSize || r.req.Length >= 0 {
		return true
	}
	r.large = true
	if pl := r.c.large.try(r.owner()); pl != nil {
		r.keep(pl)
	}
	return r.place != nil
}

// pick chooses a linked participant at random that was not tried, of those whose rows scrubs
// have found least against (S5b), and of these one that is not late; nil: none.
func (c *Coordinator) pick(tried []bool) *link {
	n := int(c.slots.Load())
	first := rand.IntN(n)
	var best *link
	least := 0
	for k := range n {
		i := (first + k) % n
		if tried != nil && tried[i] {
			continue
		}
		l := c.links[i].Load()
		if l == nil || l.outside.Load() {
			continue
		}
		doubt := 2 * c.doubt(i) // it goes before being late
		if until := l.late.Load(); until != 0 && time.Since(c.began) < time.Duration(until) {
			doubt++
		}
		if doubt == 0 {
			return l
		}
		if best == nil || doubt < least {
			best, least = l, doubt
		}
	}
	return best
}

// pause waits until there may be somebody to ask.
func (r *reading) pause(ctx context.Context, changed <-chan struct{}) error {
	var again <-chan time.Time
	if r.tried != nil { // all have failed, but are there
		again = time.After(retryPause)
		r.turns++
	}
	select {
	case <-changed:
	case <-again:
	case <-r.c.done:
		return r.named(errStopped)
	case <-ctx.Done():
		return r.named(r.expired(ctx))
	}
	r.tried, r.corrupt, r.left = nil, nil, false
	return nil
}

// expired says why a read has found no answer in time.
func (r *reading) expired(ctx context.Context) *wire.Error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return wire.NewError(wire.CodeCanceled, "given up")
	}
	text := "no participant answered in time"
	if missing := r.c.unlinked(); len(missing) > 0 {
		text += "; not connected: " + strings.Join(missing, ", ")
	}
	if r.c.readPoint.Load() == 0 {
		text = "the coordinator does not serve yet: it waits for participants " + strings.Join(r.c.unlinked(), ", ")
	}
	if r.last != nil {
		text += ": " + r.last.Error()
	}
	return wire.NewError(wire.CodeUnavailable, text)
}

// unlinked names the participants without a connection.
func (c *Coordinator) unlinked() []string {
	var names []string
	for i := range int(c.slots.Load()) {
		if name := c.peers[i].called(); name != "" && c.links[i].Load() == nil {
			names = append(names, name)
		}
	}
	return names
}

// attempt asks one participant, for the rest if something was passed on.
func (r *reading) attempt(ctx context.Context, l *link, point uint64) (wire.ReadReply, error) {
	req := r.req
	req.Wait = 0
	if r.version != 0 {
		req.IfVersion = r.version
		req.Offset = r.next
		if req.Length >= 0 {
			req.Length -= r.next - r.req.Offset
		}
	}
	ctx, cancel := l.during(ctx)
	defer cancel()
	if r.owes = nil; r.c.o.EvictSlow > 0 && r.c.hasOther(l) {
		most := min(r.c.o.EvictSlow, time.Hour) << min(r.turns, mostTurns) // all may be busy
		r.most, r.owes = most, time.AfterFunc(most, func() { r.c.readsElsewhere(l, most); cancel() })
	}
	l.need(point)
	reply, err := l.replica.Read(ctx, wire.PositionedRead{Epoch: r.c.epoch, Index: point, Read: req}, r)
	if r.owes != nil && !r.owes.Stop() {
		r.left = true
	}
	return reply, err
}

// hasOther: is another participant than that one in sync and there, and none under a
// verdict? A slow one is better than one that is wrong (S5b).
func (c *Coordinator) hasOther(than *link) bool {
	if c.scrub.doubted.Load() {
		return false
	}
	for i := range int(c.slots.Load()) {
		if l := c.links[i].Load(); l != nil && l.member != than.member && !l.outside.Load() {
			return true
		}
	}
	return false
}

// readsElsewhere notes that a participant gives nothing though its connection is there, as
// one whose disk hangs. Where nothing is changed, nobody misses what it has not made
// durable, and it is not evicted for that (P15).
func (c *Coordinator) readsElsewhere(l *link, after time.Duration) {
	now := time.Since(c.began)
	if was := l.late.Swap(int64(now + lateRest)); time.Duration(was) < now {
		c.log.Warn("a participant gives nothing that is to be read there: reads go to the others for a while; see whether its disk hangs",
			"name", l.name, "after", after)
	}
}

// WritePiece passes a piece on, if it is the next one of the version begun.
func (r *reading) WritePiece(p wire.Piece) error {
	switch {
	case p.Offset != r.next:
		return &wire.Error{Code: wire.CodeProtocol, Text: fmt.Sprintf("a piece at %d in place of %d", p.Offset, r.next)}
	case r.version != 0 && p.Version != r.version:
		return wire.NewError(wire.CodeChanged, "the file changed while it was read")
	case len(p.Data) > wire.PieceSize:
		return wire.NewError(wire.CodeProtocol, "a piece that is too long")
	case !r.room(&p):
		return wire.NewError(wire.CodeCanceled, "it has to wait for a place")
	}
	if r.owes != nil { // while the client takes it the participant owes nothing
		r.owes.Stop()
		defer r.owes.Reset(r.most)
	}
	if r.place != nil {
		r.place.note(true, 0)
		defer r.place.note(false, len(p.Data))
	}
	if err := r.w.WritePiece(p); err != nil {
		r.werr = err
		return err
	}
	r.version = p.Version
	r.next += int64(len(p.Data))
	return nil
}

// judge tells whether an error is the answer, or somebody else is to be asked.
func (r *reading) judge(ctx context.Context, l *link, err error) (done bool, answer error) {
	switch {
	case r.place != nil && r.place.ctx.Err() != nil:
		return true, &wire.Error{Code: wire.CodeUnavailable, Text: fmt.Sprintf(
			"less than %d KiB of contents were taken in %v while others waited to read: they have the place now", wire.PieceSize>>10, r.c.o.Patience)}
	case r.c.ctx.Err() != nil:
		return true, errStopped
	case r.werr != nil:
		return true, r.werr
	case ctx.Err() != nil:
		return true, r.expired(ctx)
	}
	switch e := asError(err); e.Code {
	case wire.CodeChanged:
		if r.req.IfVersion != 0 {
			return true, e
		}
		// From the beginning, with the version of now (W5).
		if r.restarts++; r.restarts > maxRestarts {
			return true, &wire.Error{Code: wire.CodeChanged, Text: fmt.Sprintf("the file changed %d times while it was read", r.restarts)}
		}
		r.next, r.version = r.req.Offset, 0
		return false, nil
	case wire.CodeCorrupt:
		r.corrupt = e
		r.c.logRotten(l, &r.req, e)
		r.c.rottenAt(l.member, e)
	case wire.CodeUnavailable, wire.CodeUnknownOutcome, wire.CodeIO, wire.CodeProtocol, wire.CodeStaleEpoch, wire.CodeReplaced, wire.CodeCanceled:
		r.last = e
	default:
		return true, e
	}
	if r.tried == nil {
		r.tried = make([]bool, len(r.c.links))
	}
	r.tried[l.member] = true
	return false, nil
}

var readNames = map[wire.ReadKind]string{
	wire.ReadFile: "readFile", wire.ReadStat: "stat", wire.ReadList: "list", wire.ReadLink: "readlink",
	wire.ReadGetxattr: "getxattr", wire.ReadListxattr: "listxattr", wire.ReadData: "readData", wire.ReadOrphans: "orphans",
}

func (r *reading) named(err error) *wire.Error {
	e := *asError(err)
	if e.Op == "" {
		e.Op = readNames[r.req.Kind]
	}
	if e.Name == "" && r.req.Kind != wire.ReadOp { // that is about no file
		e.Name = r.req.At.String()
	}
	return &e
}

// maxRotten is how many rotten files are remembered as logged.
const maxRotten = 1000

// rottenList keeps one damaged file from filling the log.
type rottenList struct {
	mu   sync.Mutex // guards seen
	seen map[rottenFile]bool
}

type rottenFile struct {
	member int
	at     wire.At
}

func (c *Coordinator) logRotten(l *link, req *wire.Read, err *wire.Error) {
	k := rottenFile{l.member, req.At}
	c.rotten.mu.Lock()
	known := c.rotten.seen[k]
	if !known {
		if c.rotten.seen == nil || len(c.rotten.seen) >= maxRotten {
			c.rotten.seen = map[rottenFile]bool{}
		}
		c.rotten.seen[k] = true
	}
	c.rotten.mu.Unlock()
	if !known {
		c.log.Error("a participant's copy is damaged; read from another", "name", l.name, "file", req.At.String(), "err", err)
	}
}
