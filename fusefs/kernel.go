package fusefs

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// What a mount keeps under its lease it lends to the kernel, which then does not
// ask (F9): attributes always, names and that there is none while no other mount
// has a lease. Before the service hears that what was touched is forgotten,
// the kernel has forgotten it too, or its time for it is over.
//
// A notification about a name waits for the operations in flight in its
// directory, and those may wait for the service: so none is sent by a handler
// (F6a), and nobody waits for one longer than what was lent is good for.

const (
	lentFor    = wire.Lease * time.Millisecond / 2 // at most
	lentMargin = time.Second                       // left of the lease then: the kernel counts from when it has handled the answer
	askAgain   = 200 * time.Microsecond            // the kernel is about to know an inode
)

// kernel is who is told to forget; go-fuse's server in a mount.
type kernel interface {
	InodeNotify(node uint64, off int64, length int64) fuse.Status
	EntryNotify(parent uint64, name string) fuse.Status
}

// lendTo is called before anything is served.
func (f *fileSystem) lendTo(k kernel) {
	f.kernel = k
	f.cached.mu.Lock()
	defer f.cached.mu.Unlock()
	f.cached.lends = true
}

// loan is what the kernel has of an inode.
type loan struct {
	lookups uint64        // that it has not taken back (Forget)
	until   time.Duration // of the boot clock, with the margin: it may have attributes
}

// recall is what the kernel is to forget before something is said to be done.
type recall struct {
	inos  []wire.Ino
	names []wire.At
	any   bool          // and any name there is
	until time.Duration // of the boot clock: then it has, by itself
}

// termLocked is for how long something may be lent now. c.mu is held.
func (c *cache) termLocked(now time.Duration) time.Duration {
	if !c.lends {
		return 0
	}
	return max(0, min(lentFor, c.until-now-lentMargin))
}

// lend is for how long the kernel may keep attributes that it is told: what is
// known to be true now, and was not changed by others a moment ago. A
// notification voids the answers under way, with the new size in them.
func (c *cache) lend(a wire.Attr) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := bootNow()
	term := c.termLocked(now)
	if known, ok := c.attrs[a.Ino]; term == 0 || !ok || known != a {
		return 0
	}
	if _, lately := c.heard.get(a.Ino); lately {
		return 0
	}
	l := c.loans[a.Ino]
	l.until = now + term + lentMargin
	c.loans[a.Ino] = l
	return term
}

// lendName is that of what a name leads to; 0: nowhere.
func (c *cache) lendName(at wire.At, ino wire.Ino) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := bootNow()
	term := c.termLocked(now)
	if known, ok := c.entries[at]; term == 0 || !c.alone || !ok || known != ino {
		return 0
	}
	c.namesLent = now + term + lentMargin
	return term
}

// lookedUp counts an answer that tells the kernel of an inode.
func (c *cache) lookedUp(ino wire.Ino) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.loans[ino]
	l.lookups++
	c.loans[ino] = l
}

// forgotten: the kernel has taken lookups back.
func (c *cache) forgotten(ino wire.Ino, lookups uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.loans[ino]
	if l.lookups > lookups {
		l.lookups -= lookups
		c.loans[ino] = l
		return
	}
	delete(c.loans, ino)
}

// knows reports that the kernel has an inode, or is about to.
func (c *cache) kernelKnows(ino wire.Ino) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loans[ino].lookups > 0
}

// recallLocked takes back what was lent of inodes; of names it is not known
// what was. c.mu is held.
func (c *cache) recallLocked(t *wire.Touched) (r recall) {
	now := bootNow()
	take := func(ino wire.Ino) {
		if l, ok := c.loans[ino]; ok && l.until > now {
			r.inos, r.until = append(r.inos, ino), max(r.until, l.until)
			l.until = 0
			c.loans[ino] = l
		}
	}
	if t == nil || t.Wide {
		for ino := range c.loans {
			take(ino)
		}
		if c.namesLent > now {
			r.any, r.until = true, max(r.until, c.namesLent)
		}
		return r
	}
	for _, ino := range t.Inos {
		take(ino)
	}
	return r
}

// recallNamesLocked adds names that others have touched. Those that this mount
// changes the kernel knows. c.mu is held.
func (c *cache) recallNamesLocked(r *recall, names []wire.At) {
	if len(names) > 0 && c.namesLent > bootNow() {
		r.names, r.until = names, max(r.until, c.namesLent)
	}
}

// forgetful has the kernel forget.
type forgetful struct {
	mu   sync.Mutex // guards dirs; nothing is taken after it
	dirs map[wire.Ino][]notice
}

// notice is a name of a directory that the kernel is to forget.
type notice struct {
	name string
	left *countdown
}

// countdown closes done when all have been counted.
type countdown struct {
	left atomic.Int64
	done chan struct{}
}

func (c *countdown) count() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

// recallFrom has the kernel forget, and waits until it has, or what it was lent
// has run out, or ctx ends.
func (f *fileSystem) recallFrom(ctx context.Context, r recall) {
	now := bootNow()
	if r.until <= now {
		return
	}
	left := &countdown{done: make(chan struct{})}
	left.left.Store(int64(len(r.inos) + len(r.names)))
	if r.any { // only time tells
		left.left.Add(1)
	}
	for _, ino := range r.inos {
		f.wg.Go(func() {
			f.recallInode(ino, r.until)
			left.count()
		})
	}
	for _, at := range r.names {
		f.recallName(at, left)
	}
	timer := time.NewTimer(r.until - now)
	defer timer.Stop()
	select {
	case <-left.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// recallInode drops an inode's attributes. One that the kernel was told of and
// does not know yet it is asked about again.
func (f *fileSystem) recallInode(ino wire.Ino, until time.Duration) {
	for f.kernel.InodeNotify(uint64(ino), -1, 0) == fuse.Status(syscall.ENOENT) && f.cached.kernelKnows(ino) && bootNow() < until {
		select {
		case <-time.After(askAgain):
		case <-f.ctx.Done():
			return
		}
	}
}

// recallName drops a name. Those of one directory go one after the other: they
// would wait for the same.
func (f *fileSystem) recallName(at wire.At, left *countdown) {
	g := &f.forgetful
	g.mu.Lock()
	defer g.mu.Unlock()
	waiting, working := g.dirs[at.Dir]
	if g.dirs == nil {
		g.dirs = map[wire.Ino][]notice{}
	}
	g.dirs[at.Dir] = append(waiting, notice{at.Path, left})
	if !working {
		f.wg.Go(func() { f.recallNames(at.Dir) })
	}
}

// recallNames is the goroutine of a directory's names.
func (f *fileSystem) recallNames(dir wire.Ino) {
	g := &f.forgetful
	for {
		g.mu.Lock()
		waiting := g.dirs[dir]
		if len(waiting) == 0 {
			delete(g.dirs, dir)
			g.mu.Unlock()
			return
		}
		next := waiting[0]
		g.dirs[dir] = waiting[1:]
		g.mu.Unlock()
		f.kernel.EntryNotify(uint64(dir), next.name) // fails where the kernel does not know the name
		next.left.count()
	}
}
