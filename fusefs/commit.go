package fusefs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

const (
	firstRetry  = time.Second // after a commit that failed
	lastRetry   = 30 * time.Second
	sweepEvery  = 250 * time.Millisecond
	exitingPoll = time.Second

	// maxOvertaken is how often a commit is aborted by others' of the same file, under
	// way or done, before it goes on whatever base there is: else who waits for one
	// that is under way finds a newer base for certain, and falls behind again.
	maxOvertaken = 2
)

// sync commits all changes of a node that were made before the call (fsync,
// close). It joins a commit in flight if that has them all. Each call tries
// and answers for itself; the changes stay gathered after an error (F3).
func (f *fileSystem) sync(ctx context.Context, n *node) error {
	n.mu.Lock()
	want := n.gen
	n.mu.Unlock()
	for {
		n.mu.Lock()
		if !n.dirtyLocked() || n.saved >= want {
			n.mu.Unlock()
			return nil
		}
		if n.gone { // it was given up meanwhile: nothing is left of it
			err := cmp.Or(n.fatal, f.commits.Err())
			n.mu.Unlock()
			return err
		}
		fl, mine := n.flight, false
		if fl == nil {
			fl, mine = f.startLocked(n, wire.Mutation{}), true
		}
		n.mu.Unlock()
		select {
		case <-fl.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if fl.err != nil && (mine || fl.gen >= want && fl.with.Set == 0) { // else the error may be of what went with it
			return fl.err
		}
	}
}

// startLocked begins a commit that nothing but giveUp stops: a caller that
// goes away stops waiting, not the transaction (F6). Mode and owner, if with sets
// them, go with what is gathered.
func (f *fileSystem) startLocked(n *node, with wire.Mutation) *flight {
	fl := &flight{done: make(chan struct{}), with: with}
	fl.ctx, fl.cancel = context.WithCancel(f.commits)
	n.flight = fl
	f.wg.Go(func() { f.fly(n, fl) })
	return fl
}

// fly brings the node's changes to the service.
func (f *fileSystem) fly(n *node, fl *flight) {
	defer fl.cancel()
	err := n.take(fl.ctx, turnCommit)
	took := err == nil
	if took {
		err = f.commit(n, fl)
	}
	f.land(n, fl, err)
	if took {
		n.give()
	}
	f.recallFrom(fl.ctx, fl.lent) // with the turn a READ might wait for it
	close(fl.done)
	f.reap(n)
}

// land notes how a commit went. Errors are logged once until one succeeds.
func (f *fileSystem) land(n *node, fl *flight, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.flight, fl.err = nil, err
	if n.gen == n.saved { // the file's own counts: this clock may have jumped since
		n.ctime = 0
	}
	if err == nil || !n.dirtyLocked() && fl.ctx.Err() != nil { // done, or given up
		n.logged, n.retry, n.fatal = false, 0, nil
		return
	}
	if fl.with.Set != 0 && !lasting(err) { // of what went with it, perhaps: each is tried by itself
		return
	}
	if n.fatal = nil; !lasting(err) {
		n.fatal, n.fatalGen = err, fl.gen
	}
	n.retry = min(max(firstRetry, 2*n.retry), lastRetry)
	n.next = time.Now().Add(n.retry)
	if !n.logged && f.commits.Err() == nil {
		n.logged = true
		f.log.Warn("committing gathered writes failed; they are kept, each fsync and close tries again", "inode", n.ino, "err", err)
	}
}

// commit tries until the changes are committed, the error is final, or
// ConflictWait is over. The caller has the node's turn.
func (f *fileSystem) commit(n *node, fl *flight) error {
	overtaken := 0
	for b := f.backoff(); ; {
		n.mu.Lock()
		look := n.unsure || n.lostBaseLocked()
		n.mu.Unlock()
		if look { // before anything is sent twice
			if err := f.rebase(fl.ctx, n); err != nil && !isGone(err) {
				return err
			}
		}
		err := f.attempt(n, fl, b.behind, overtaken < maxOvertaken)
		switch {
		case err == nil:
			return nil
		case isGone(err):
			return f.lose(n) // deleted by another mount: as on a local disk, writing succeeds
		case !b.again(fl.ctx, err):
			return err
		case b.behind != nil:
			overtaken++
		case wire.CodeOf(err) == wire.CodeVersion:
			overtaken++
			if err := f.rebase(fl.ctx, n); err != nil && !isGone(err) {
				return err
			}
		}
	}
}

// attempt is one transaction: what was written, and the times with it, which
// stay as fstat showed them. It waits for who was in the way of the last one.
// guarded: a newer base is to refuse it.
func (f *fileSystem) attempt(n *node, fl *flight, behind *wire.Behind, guarded bool) error {
	n.mu.Lock()
	if !n.dirtyLocked() {
		n.mu.Unlock()
		return nil
	}
	p := n.planLocked(guarded, f.clock, fl.with)
	before, ctime := *n.timesLocked(), n.ctime
	if len(p.mutations) == 0 { // what was unsure turned out to be done, or the base has it
		n.saved, n.cur = n.gen, noEdits()
		n.mu.Unlock()
		p.release()
		return nil
	}
	flying := n.cur
	n.flying, n.flyingSize, n.flyingCtime, n.cur = &flying, before.size, ctime, noEdits()
	fl.gen = n.gen
	since := n.since
	n.since = time.Time{}
	n.mu.Unlock()

	p.finishAhead(fl.ctx)
	known := f.cached.foresee(n.at())
	noPriv := fl.with.Set == 0 && f.noPriv(n)
	out, err := f.client.TransactBehind(fl.ctx, behind, p.mutations, p.contents)
	tried := p.tried(&flying, before, fl.gen, err)
	p.release()
	if err == nil {
		f.pages.committed(n.ino, &p.mutations[0], out.Tx)
		fl.lent = f.cached.learn(known, n.at(), foreseenWrite(known.was, &p, &out), &out)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	made := f.madeLocked(fl.ctx, n, &p, &out)
	n.flying, n.flyingCtime = nil, 0
	if n.forfeit { // nothing of it is here any more
		n.forfeit = false
		return err
	}
	if err != nil {
		n.since = since
		n.failedLocked(&flying, before.size, tried)
		return err
	}
	n.saved, n.unsure, n.sent, fl.carried = fl.gen, false, nil, true
	if noPriv { // contents and times bring no set-id bits
		n.privAt = max(n.privAt, fl.lent.heard)
	}
	n.savedTimesLocked(before)
	n.savedAt = f.saves.Add(1)
	if flying.empty() {
		return nil
	}
	if err := n.acknowledgeLocked(p.blind, made); err != nil {
		f.log.Warn("moving gathered appends behind those of others failed; the next read or commit tries again", "inode", n.ino, "err", err)
	}
	return nil
}

// savedTimesLocked: those that were before a commit are the service's. One that was set
// after a later write is to come, though it is the same.
func (n *node) savedTimesLocked(before times) {
	if n.mtimeSet = n.mtimeSet && (n.mtime != before.mtime || !n.cur.empty()); !n.mtimeSet {
		n.mtime = 0
	}
	n.atimeSet = n.atimeSet && n.atime != before.atime
}

// tried is what a transaction was, if it may have happened; else nil.
func (p *plan) tried(flying *edits, before times, gen uint64, err error) *sent {
	if wire.CodeOf(err) != wire.CodeUnknownOutcome {
		return nil
	}
	s := &sent{mtime: before.mtime, from: flying.tail, gen: gen}
	if flying.tail >= 0 {
		s.tail = before.size - flying.tail
		head := make([]byte, min(s.tail, headBytes))
		if k, _ := p.snap.ReadAt(head, flying.tail); k < len(head) { // then its mtime alone tells
			return s
		}
		s.head = sha256.Sum256(head)
	}
	return s
}

// failedLocked gathers again what an attempt had taken of a file of size bytes, and
// keeps what it was if that may have happened.
func (n *node) failedLocked(flying *edits, size int64, tried *sent) {
	if n.c != nil {
		n.cur = flying.then(size, n.cur, n.c.Size())
	}
	n.noAhead = true // all that waits would be sent ahead before its next try
	if tried != nil {
		n.unsure, n.sent = true, append(n.sent, *tried)
	}
}

// madeLocked is the version that the commit in flight has made, and its size. Where others
// may have changed that and more gathers here, it is what is there now: n.mu is let go.
func (f *fileSystem) madeLocked(ctx context.Context, n *node, p *plan, out *wire.Outcome) wire.Attr {
	made := wire.Attr{Version: out.Tx, Size: max(n.baseSize, n.flying.end())}
	switch {
	case out.Tx == 0: // it has made none
	case n.flying.keep != untouched:
		made.Size = n.flyingSize
	case p.appended >= 0 && p.appended < len(out.Results):
		made.Size = out.Results[p.appended].Offset + n.flyingSize - n.flying.tail
	case p.blind && !n.cur.empty():
		n.mu.Unlock()
		defer n.mu.Lock()
		now, err := f.stat(ctx, n.at())
		if err != nil {
			now.Version = noBase
		}
		return now
	}
	return made
}

// acknowledgeLocked makes the version that a commit has made the base, or, if it was made
// of whatever there was (blind), what is there now. Where nothing gathers over that nobody
// has to know its size.
func (n *node) acknowledgeLocked(blind bool, made wire.Attr) error {
	if n.c == nil || n.orphan {
		return nil
	}
	if blind && n.cur.empty() {
		n.dropLocked()
		return nil
	}
	if made.Version == noBase {
		n.base = noBase
		return nil
	}
	e, c, err := n.cur.rebase(n.c, made.Size)
	if err != nil {
		n.base = noBase
		return err
	}
	n.installLocked(c, e)
	n.base, n.baseSize = made.Version, made.Size
	n.c.retain(e.ours(n.c.Size()))
	return nil
}

// times are what a commit carries beside the bytes.
type times struct {
	mtime, atime, size int64
}

func (n *node) timesLocked() *times {
	t := &times{mtime: n.mtime, atime: n.atime}
	if n.c != nil {
		t.size = n.c.Size()
	}
	return t
}

// at names the inode itself: whatever its name is by now, or without one.
func (n *node) at() wire.At { return wire.At{Dir: n.ino} }

// reap forgets a node that nobody has open: at once when all is committed,
// with a loss that is logged when its commit can never succeed. Others stay
// and are tried again.
func (f *fileSystem) reap(n *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opens > 0 || n.flight != nil || n.turn != turnNone || n.gone {
		return
	}
	if n.dirtyLocked() && !n.alone {
		if n.fatal == nil && f.commits.Err() == nil {
			return
		}
		f.lost.Add(1)
		f.log.Error("gathered writes are given up: nobody has the file open any more and they cannot be committed", "inode", n.ino, "err", cmp.Or(n.fatal, f.commits.Err()))
	}
	n.gone = true
	n.dropLocked()
	delete(f.nodes, n.ino)
	if n.held {
		f.releaseLocked(n.ino)
	}
}

// sweep is the goroutine that commits what is due by itself (F3).
func (f *fileSystem) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f.endLinger(time.Now())
			f.commitDue(time.Now(), false)
			f.signOfLife(time.Now())
		case <-f.commits.Done():
			return
		case <-f.swept:
			return
		}
	}
}

// commitDue starts the commits of what is due, or of all that is not saved.
func (f *fileSystem) commitDue(now time.Time, all bool) (dirty []*node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		n.mu.Lock()
		if n.dirtyLocked() {
			dirty = append(dirty, n)
			if n.flight == nil && (all || !n.next.After(now)) {
				f.startLocked(n, wire.Mutation{})
			}
		}
		n.mu.Unlock()
	}
	return dirty
}

// commitAll commits everything gathered so far; the error tells how many
// files are not.
func (f *fileSystem) commitAll(ctx context.Context) error {
	var failed int
	var first error
	for _, n := range f.commitDue(time.Now(), true) {
		if err := f.sync(ctx, n); err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	if failed == 0 {
		return nil
	}
	return &wire.Error{Code: codeOf(first), Op: "unmount", Text: fmt.Sprintf("writes to %d files are not committed yet: %v", failed, first)}
}

// codeOf is wire.CodeOf, but for a wait that was over.
func codeOf(err error) wire.Code {
	if errors.Is(err, context.DeadlineExceeded) {
		return wire.CodeUnavailable
	}
	return wire.CodeOf(err)
}

// leaving does what a close waits for, unless the caller is exiting and the
// service is away. Nobody would see the answer, and the process would hang until
// the service is back; the changes go out then (F6).
func (f *fileSystem) leaving(ctx context.Context, h *fuse.InHeader, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	thread := h.Pid
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if f.waitLeaving(ctx, thread) {
			cancel()
		}
	}()
	err := do(ctx)
	cancel()
	<-watched
	return err
}

// waitLeaving waits until the thread is exiting and the service does not
// answer, or ctx ends.
func (f *fileSystem) waitLeaving(ctx context.Context, thread uint32) bool {
	ticker := time.NewTicker(exitingPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
		if !threadExiting(thread) {
			continue
		}
		probe, end := context.WithTimeout(ctx, exitingPoll)
		_, err := f.client.Statfs(probe)
		end()
		if err != nil && ctx.Err() == nil {
			return true
		}
	}
}
