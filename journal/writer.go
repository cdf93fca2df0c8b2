package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// eagerBytes is how many bytes of lazy records are not kept waiting for the
// owner's tick.
const eagerBytes = 1 << 20

// Writer runs a Log in a goroutine and adds group commit (J2): whatever waits
// when a sync has ended becomes one block, one write, one sync. A second
// goroutine makes and retires segments. All methods are safe for concurrent
// use; the order of calls to Append is the order of LSNs.
type Writer struct {
	l        *Log // used by the first goroutine alone until done is closed
	onSynced func(upTo LSN, err error)

	wake    chan struct{} // capacity 1: there is something to do
	jobs    chan job      // capacity 1, at most one is under way
	results chan result   // capacity 1
	done    chan struct{} // closed when both goroutines are gone

	mu      sync.Mutex // guards everything below; never held during I/O or onSynced
	q       queue      // appended, not yet taken by the goroutine
	end     LSN        // last appended
	synced  LSN        // last durable
	pending int64      // bytes appended and not yet written
	force   bool
	seal    bool
	cut     LSN
	closing bool
	err     error         // sticky, or ErrClosed
	full    error         // of the last try, nil if it went well
	tries   uint64        // flushes ended
	fill    fill          // of the newest segment, when q was last taken
	stats   Stats         // as of the last flush
	changed chan struct{} // closed and replaced when synced, pending, err or tries change; nil if nobody waits
}

// NewWriter takes over l, which belongs to the Writer from then on.
//
// onSynced is called from the Writer's goroutine: after each sync with the
// last durable LSN; with a *FullError when there was no room for another
// segment, and then again at each try (a forced Append, Force, Sync); and
// once with the sticky error, as the last call. It may call everything but
// Sync, WaitRoom and Close, and holds up the next sync until it returns. It
// may be nil.
func NewWriter(l *Log, onSynced func(upTo LSN, err error)) *Writer {
	if onSynced == nil {
		onSynced = func(LSN, error) {}
	}
	w := &Writer{
		l: l, onSynced: onSynced,
		wake: make(chan struct{}, 1), jobs: make(chan job, 1), results: make(chan result, 1), done: make(chan struct{}),
		end: l.end, synced: l.synced, err: l.err,
	}
	w.q.limit = l.q.limit
	w.q.newSegment = l.q.newSegment
	l.q.newSegment = false
	if w.pending = l.q.bytes; w.pending > 0 {
		w.force = true // appended before
	}
	w.fill, w.stats = l.fill(), l.Stats()
	l.background = func(j job) { w.jobs <- j }
	l.await = func() result { return <-w.results }
	w.q.free, l.q.free = l.q.free, nil
	w.signal()
	go w.run()
	return w
}

// signal wakes the goroutine.
func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// changedLocked wakes whoever waits in Sync or WaitRoom.
func (w *Writer) changedLocked() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Append copies records and returns the last one's LSN; the others have those
// before it. It never waits for the disk. With force the records are synced as
// soon as the sync under way, if any, has ended; else they ride along with
// the next one, at the latest after Force (or when very many wait). With no
// records, it returns the last LSN so far. Errors: ErrTooLarge, and then none
// was appended; ErrClosed; the sticky one.
func (w *Writer) Append(records [][]byte, force bool) (LSN, error) {
	for _, r := range records {
		if limit := maxRecordFor(w.l.size); len(r) > limit {
			return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(r), limit)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	if w.closing {
		return 0, ErrClosed // the last sync may be under way
	}
	before := w.q.bytes
	for _, r := range records {
		w.end++
		w.q.add(w.end, r)
	}
	w.pending += w.q.bytes - before
	if force || w.q.bytes > eagerBytes {
		w.force = true
		w.signal()
	}
	return w.end, nil
}

// Force starts a sync of what was appended lazily, if there is any: the
// owner's tick calls it. It does not wait.
func (w *Writer) Force() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && w.end > w.synced {
		w.force = true
		w.signal()
	}
}

// Sync waits until everything appended before is durable. Errors: ctx's, the
// sticky one, ErrClosed, *FullError.
func (w *Writer) Sync(ctx context.Context) error {
	w.mu.Lock()
	target := w.end
	var tries uint64
	if w.end > w.synced && w.err == nil {
		// A flush may be under way that has not all of it: the verdict of
		// the second one from here is about all of it.
		tries = w.tries + 2
		w.force = true
		w.signal()
	}
	w.mu.Unlock()
	return w.wait(ctx, func() (bool, error) {
		if w.synced >= target {
			return true, nil
		}
		if w.full != nil && w.tries < tries && w.err == nil {
			w.force = true
			w.signal()
		}
		return w.full != nil && w.tries >= tries, w.full
	})
}

// WaitRoom waits until less than Options.MaxPending bytes wait to be written:
// the back-pressure for whoever appends. Errors as of Sync, but *FullError.
func (w *Writer) WaitRoom(ctx context.Context) error {
	return w.wait(ctx, func() (bool, error) { return w.pending < w.l.opts.MaxPending, nil })
}

// Room tells whether WaitRoom would not wait.
func (w *Writer) Room() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pending < w.l.opts.MaxPending
}

// wait waits until ready, which is called with mu held, says so.
func (w *Writer) wait(ctx context.Context, ready func() (bool, error)) error {
	for {
		w.mu.Lock()
		ok, err := ready()
		if !ok && w.err != nil {
			ok, err = true, w.err
		}
		if ok {
			w.mu.Unlock()
			return err
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Seal asks for an idle journal to be closed with an empty block (Log.Seal).
// It does not wait, and does nothing if records are waiting. Errors: the
// sticky one, ErrClosed.
func (w *Writer) Seal() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.seal = true
		w.signal()
	}
	return w.err
}

// Cut gives up records below that LSN, as Log.Cut does, without waiting.
func (w *Writer) Cut(below LSN) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && below > w.cut {
		w.cut = below
		w.signal()
	}
	return w.err
}

// NewSegment makes the next appended record the first of a segment.
func (w *Writer) NewSegment() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.q.newSegment = true
	}
	return w.err
}

// SegmentFull tells the owner that it is time for NewSegment (Log.SegmentFull).
func (w *Writer) SegmentFull() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.q.fill(w.fill).full(w.l.size)
}

// End is the last record appended.
func (w *Writer) End() LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}

// Synced is the last record that is durable.
func (w *Writer) Synced() LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.synced
}

// Err is the sticky error, ErrClosed after Close, else nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// ID is the journal's random name.
func (w *Writer) ID() [16]byte { return w.l.id }

// Stats describes the journal as of the last sync, with what waits now.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.End, s.Synced, s.PendingBytes = w.end, w.synced, w.pending
	s.Full = w.q.fill(w.fill).full(w.l.size)
	return s
}

// Close syncs and seals what was appended, ends the goroutines, and closes the
// files. Errors: the sticky one; *FullError if the last records found no room.
func (w *Writer) Close() error {
	w.mu.Lock()
	w.closing = true
	w.signal()
	w.mu.Unlock()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(w.err, ErrClosed) {
		return w.full
	}
	return w.err
}

// run is the goroutine that owns the Log.
func (w *Writer) run() {
	makerDone := make(chan struct{})
	go func() {
		defer close(makerDone)
		for j := range w.jobs {
			seg, err := w.l.do(j)
			w.results <- result{seg, err}
		}
	}()
	closing := false
	for !closing {
		select {
		case <-w.wake:
			closing = w.step()
		case r := <-w.results:
			w.l.handleResult(r)
			w.l.maintain()
			w.publish()
		}
	}
	if w.l.busy != nil {
		w.l.handleResult(<-w.results)
	}
	close(w.jobs)
	<-makerDone
	w.l.background = nil
	w.finish(w.l.Close())
	close(w.done)
}

// step does what was asked for since the last one, and tells whether Close
// was called.
func (w *Writer) step() bool {
	w.mu.Lock()
	force, seal, cut, closing := w.force || w.closing, w.seal, w.cut, w.closing
	w.force, w.seal, w.cut = false, false, 0
	if force {
		w.fill = w.q.fill(w.fill)
		w.l.q.take(&w.q)
		w.l.end = w.end
	}
	idle := w.end == w.synced || force
	w.mu.Unlock()

	if force {
		w.flush()
	}
	if cut > 0 && !closing && w.l.err == nil {
		_ = w.l.Cut(cut) // sticky if it fails; publish tells
	}
	if seal && !closing {
		w.l.spareErr = nil // the owner's tick: try again
		if idle {
			_ = w.l.seal() // as above
		}
	}
	if !closing {
		w.l.maintain()
	}
	w.publish()
	return closing
}

// flush makes everything taken durable and reports it.
func (w *Writer) flush() {
	before := w.l.synced
	if w.l.err != nil {
		return
	}
	err := w.l.flush()
	w.mu.Lock()
	w.synced = w.l.synced
	w.pending = w.l.q.bytes + w.q.bytes
	w.full = nil
	w.tries++
	var full *FullError
	if errors.As(err, &full) {
		w.full = err
	}
	w.changedLocked()
	w.mu.Unlock()
	if w.l.synced > before {
		w.onSynced(w.l.synced, nil)
	}
	if full != nil {
		w.onSynced(w.l.synced, err)
	}
}

// publish makes the Log's state visible, and reports a sticky error once.
func (w *Writer) publish() {
	w.mu.Lock()
	w.stats = w.l.Stats()
	if len(w.l.q.chunks) == 0 {
		w.fill = w.l.fill()
	}
	report := w.l.err != nil && w.err == nil
	if report {
		w.err = w.l.err
		w.changedLocked()
	}
	synced := w.synced
	w.mu.Unlock()
	if report {
		w.onSynced(synced, w.l.err)
	}
}

// finish records how the Log was closed.
func (w *Writer) finish(err error) {
	w.mu.Lock()
	var full *FullError
	var failure error
	switch {
	case w.err != nil:
	case errors.As(err, &full):
		w.err, w.full = ErrClosed, err
	case err != nil:
		w.err, failure = err, err
	default:
		w.err, w.full = ErrClosed, nil
	}
	synced := w.synced
	w.changedLocked()
	w.mu.Unlock()
	if failure != nil {
		w.onSynced(synced, failure)
	}
}
