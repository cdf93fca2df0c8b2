package fusefs

import (
	"context"
	"io"

	"tpcfs/wire"
)

const (
	aheadsAtOnce = 8         // files of a mount that have a head start
	aheadChunk   = 256 << 10 // bytes taken of the contents at a time: nobody can use the file meanwhile
)

// ahead is a head start (F3): the bytes of a file that is written from one
// place on without a gap go to the participants while they come. It belongs to
// a contents, which keeps all of them: what is lost on its way is sent again
// with the commit. Bytes that were taken must stay as they are: whoever changes
// one of them spoils it (contents.spoilLocked). The commit takes it out of the
// contents, sends the rest of its own snapshot and puts it in the place of that.
type ahead struct {
	c    *contents
	from int64 // in the file, of its first byte

	ctx    context.Context
	cancel context.CancelFunc
	more   chan struct{} // has room for one: there may be more to take
	done   chan struct{} // closed when feed has ended

	// Valid when done.
	up  Ahead // nil: it could not begin
	err error // why it is lost

	// Guarded by c.mu.
	taken int64         // the bytes [from, taken) are on their way
	over  bool          // no more is taken
	owned bool          // a commit has it
	moved chan struct{} // closed, and made anew, when taken or over changes
}

// aheadLocked begins a head start of what was just written, if it is worth one,
// or tells the one there is of it.
func (f *fileSystem) aheadLocked(n *node) {
	c := n.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.ahead; a != nil {
		a.tell()
		return
	}
	k := len(n.cur.extents)
	if n.noAhead || n.orphan || k == 0 || n.cur.tail >= 0 {
		return
	}
	x := n.cur.extents[k-1]
	if x.to-x.from < f.o.AheadFrom {
		return
	}
	n.noAhead = true // one for each commit
	select {
	case f.aheads <- struct{}{}:
	default:
		return
	}
	a := &ahead{c: c, from: x.from, taken: x.from, more: make(chan struct{}, 1), done: make(chan struct{}), moved: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(f.commits)
	c.ahead = a
	f.wg.Go(func() {
		defer func() { <-f.aheads }()
		f.feed(n, a)
	})
}

// tell says that there may be more to take, or nothing any more.
func (a *ahead) tell() {
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// feed sends what is written until the head start is over. It leaves up to
// the commit that has taken it over, if one has.
func (f *fileSystem) feed(n *node, a *ahead) {
	defer close(a.done)
	if a.up, a.err = f.client.Ahead(a.ctx, n.at().String(), a.from); a.err == nil {
		a.err = f.sendAhead(n, a)
	}
	if a.err != nil {
		a.stop()
		f.log.Debug("what is written of a file is not sent ahead; it will be with the commit", "inode", n.ino, "err", a.err)
	}
	if a.up != nil && !a.isOwned() {
		a.up.Abort()
		a.cancel()
	}
}

func (f *fileSystem) sendAhead(n *node, a *ahead) error {
	buf := make([]byte, min(aheadChunk, f.o.AheadFrom))
	for {
		ready, over, err := n.nextAhead(a, buf)
		switch {
		case err != nil || over:
			return err
		case ready:
			if _, err := a.up.Write(buf); err != nil {
				return err
			}
			continue
		}
		select {
		case <-a.more:
		case <-a.ctx.Done():
			return a.ctx.Err()
		}
	}
}

// nextAhead takes the next bytes that are written without a gap. Not ready:
// there are not so many yet.
func (n *node) nextAhead(a *ahead, buf []byte) (ready, over bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a.c.mu.Lock()
	from, over := a.taken, a.over
	a.c.mu.Unlock()
	if over || n.aheadEndLocked(a)-from < int64(len(buf)) {
		return false, over, nil
	}
	// n.mu keeps writers out until the bytes count as taken.
	if k, err := a.c.ReadAt(buf, from); err != nil && k < len(buf) {
		return false, false, err
	}
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	if a.over {
		return false, true, nil
	}
	a.taken += int64(len(buf))
	a.movedLocked()
	return true, false, nil
}

// aheadEndLocked is up to where the file is written without a gap from the
// head start's beginning on.
func (n *node) aheadEndLocked(a *ahead) int64 {
	for _, x := range n.cur.extents {
		if x.from == a.from {
			return x.to
		}
	}
	return a.from // more was written before it
}

// awaitAhead waits while what is written is too far before what is sent of it.
func (n *node) awaitAhead(ctx context.Context, most int64) error {
	for {
		moved := n.aheadBehind(most)
		if moved == nil {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *node) aheadBehind(most int64) (moved chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil {
		return nil
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if a := n.c.ahead; a != nil && n.aheadEndLocked(a)-a.taken > most {
		return a.moved
	}
	return nil
}

func (a *ahead) movedLocked() {
	close(a.moved)
	a.moved = make(chan struct{})
}

// isOwned: a commit has taken it over.
func (a *ahead) isOwned() bool {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	return a.owned
}

// stop ends a head start that is lost.
func (a *ahead) stop() {
	a.c.mu.Lock()
	defer a.c.mu.Unlock()
	if a.c.ahead == a {
		a.c.abandonLocked()
	}
}

// own takes the head start over for a commit; nil: there is none.
func (c *contents) own() *ahead {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.ahead
	if a != nil {
		c.endLocked()
		a.owned = true
	}
	return a
}

// abandon gives the head start up, if there is one.
func (c *contents) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abandonLocked()
}

func (c *contents) abandonLocked() {
	if a := c.ahead; a != nil {
		c.endLocked()
		a.cancel()
	}
}

func (c *contents) endLocked() {
	a := c.ahead
	c.ahead = nil
	a.over = true
	a.movedLocked()
	a.tell()
}

// spoilLocked: the bytes [from, to) change. What was taken of them is wrong now.
func (c *contents) spoilLocked(from, to int64) {
	if a := c.ahead; a != nil && from < a.taken && to > a.from {
		c.abandonLocked()
	}
}

// begun notes that what was sent ahead is the beginning of the bytes of the
// mutation to be added.
func (p *plan) begun(x extent) {
	if p.ahead != nil && p.ahead.from == x.from && p.ahead.taken <= x.to {
		p.aheadOf = len(p.mutations)
	}
}

// finishAhead sends the rest of what was sent ahead, and puts it in the place of
// its content. Whatever goes wrong, the contents are still there to be sent as they
// are; what was sent of them has gone first, as there may be no room for both.
func (p *plan) finishAhead(ctx context.Context) {
	a := p.ahead
	if a == nil {
		return
	}
	if !p.completeAhead(ctx) {
		a.giveUp()
		p.ahead = nil
	}
}

func (p *plan) completeAhead(ctx context.Context) bool {
	a := p.ahead
	if p.aheadOf < 0 {
		return false
	}
	content := p.contents[p.aheadOf]
	if a.taken == a.from || content.Size() <= wire.MaxInline { // it goes with the transaction
		return false
	}
	defer context.AfterFunc(ctx, a.cancel)()
	<-a.done
	if a.err != nil {
		return false
	}
	rest := io.NewSectionReader(p.snap, a.taken, a.from+content.Size()-a.taken)
	if _, err := io.CopyBuffer(struct{ io.Writer }{a.up}, struct{ io.Reader }{rest}, make([]byte, aheadChunk)); err != nil {
		return false
	}
	of, err := a.up.Of(content)
	if err != nil {
		return false
	}
	p.contents[p.aheadOf] = of
	return true
}

// giveUp ends a head start that a commit owns, if it is not at its end.
func (a *ahead) giveUp() {
	a.cancel()
	<-a.done
	if a.up != nil {
		a.up.Abort()
	}
}
