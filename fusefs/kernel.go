package fusefs

import (
	"context"
	"hash/maphash"
	"maps"
	"math"
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
	toldFor    = time.Second                       // then the kernel has handled an answer for sure
	askAgain   = 200 * time.Microsecond            // the kernel is about to know an inode
	afterWide  = 10 * time.Second                  // without names: more of what everything has to be forgotten for may follow
	recallers  = 16                                // that tell the kernel of inodes at a time
	nameRecall = 128                               // directories whose names it is told of at a time
	maxLent    = 1024                              // names lent in lentFor+lentMargin that are remembered
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

// loan is what the kernel has of an inode. It knows as many as it has memory for,
// and each has one: so nothing is here that can be elsewhere.
type loan struct {
	lookups uint64        // that it has not taken back (Forget)
	until   time.Duration // of the boot clock, with the margin: its attributes count no more; 0: it has none, and gets none with an answer under way
	told    uint64        // a hash of the attributes that it was told last
	since   time.Duration // of the boot clock, when it was told them first; news: others have touched it since, and what it is told next it does not know
}

const news = time.Duration(math.MaxInt64)

var hashSeed = maphash.MakeSeed()

// recall is what the kernel is to forget before something is said to be done.
type recall struct {
	inos  []wire.Ino // their attributes
	pages []wire.Ino // and attributes
	names []wire.At
	check map[wire.At]wire.Ino // and these, where they lead elsewhere by now
	any   time.Duration        // of the boot clock: until then it may have names that nobody knows
	until time.Duration        // of the boot clock: then it has, by itself
	heard uint64               // the number of this mount's own change, if nothing else was heard of the file meanwhile; else 0

	pagesUntil time.Duration // of the boot clock: so long it is waited for pages
}

// lentLately remembers what the kernel was lent until that is over: for one to two times as long.
type lentLately[K comparable, V any] struct {
	lately[K, V]
	turned time.Duration // of the boot clock
}

// tick is called before it is used.
func (l *lentLately[K, V]) tick(now time.Duration) {
	if l.now == nil || now-l.turned >= lentFor+lentMargin {
		l.turn()
		l.turned = now
	}
}

// lentNames are the names that the kernel may have, and what they lead to, 0: nowhere.
type lentNames struct {
	lentLately[wire.At, wire.Ino]
	more time.Duration // of the boot clock: until then it may have some that are not here
}

// lends adds one, if there are not too many.
func (l *lentNames) lends(at wire.At, ino wire.Ino, until time.Duration) {
	l.tick(bootNow())
	if _, ok := l.now[at]; !ok && len(l.now) >= maxLent {
		l.more = max(l.more, until)
		return
	}
	l.add(at, ino)
}

// all returns them.
func (l *lentNames) all() map[wire.At]wire.Ino {
	all := make(map[wire.At]wire.Ino, len(l.now)+len(l.before))
	maps.Copy(all, l.before)
	maps.Copy(all, l.now)
	return all
}

// termLocked is for how long something may be lent now. c.mu is held.
func (c *cache) termLocked(now time.Duration) time.Duration {
	if !c.lends {
		return 0
	}
	return max(0, min(lentFor, c.until-now-lentMargin))
}

// lend is for how long the kernel may keep attributes that it is told: what is
// known to be true now, of an inode that is new to it, or what it has been told
// before, without lending it. A notification voids the answers under way, with the size in
// them: so one that is lent brings nothing that an earlier one has not brought.
// Nothing is waited for between this and the answer. looked: that is counted as
// a lookup, by lookedUp before.
func (c *cache) lend(a wire.Attr, looked bool) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := bootNow()
	l, hash := c.loans[a.Ino], maphash.Comparable(hashSeed, a)
	known, ok := c.attrs[a.Ino]
	switch {
	case l.since == news && (!ok || known != a): // and does not know it then either
		l.told = hash
	case l.since == news, l.told != hash:
		l.told, l.since = hash, now
	}
	term := c.termLocked(now)
	if first := looked && l.lookups == 1; !ok || known != a || !first && now-l.since < toldFor {
		term = 0
	}
	if term > 0 {
		l.until = now + term + lentMargin
	}
	c.loans[a.Ino] = l
	return term
}

// lendName is that of what a name leads to; 0: nowhere. Where a file has several
// names, the kernel counts them by itself when one goes, and has to look again.
func (c *cache) lendName(at wire.At, ino wire.Ino) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := bootNow()
	term := c.termLocked(now)
	if known, ok := c.entries[at]; term == 0 || !c.alone || now < c.noNames || !ok || known != ino {
		return 0
	}
	if ino != 0 {
		a, ok := c.attrs[ino]
		if !ok || a.Nlink > 1 && a.Mode&wire.ModeType != wire.ModeDir {
			return 0
		}
		c.nameOf.tick(now)
		c.nameOf.add(ino, at)
	}
	c.namesLent = now + term + lentMargin
	c.lent.lends(at, ino, c.namesLent)
	return term
}

// ownNames are what the kernel was lent of the names of this mount's own change, while
// that is under way: it holds their directories until it is answered, and makes, takes or
// moves the names itself then. A name that it was told to forget meanwhile would lose its
// path, under whoever sits there by then.
type ownNames struct {
	asked uint64 // the number of what was heard last before
	lent  map[wire.At]wire.Ino
}

// takeNames is called before the change is asked for.
func (c *cache) takeNames(m *wire.Mutation) ownNames {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := ownNames{asked: c.number}
	for _, at := range []wire.At{m.At, m.To} {
		if ino, ok := c.lent.get(at); ok && at.Path != "" {
			if own.lent == nil {
				own.lent = map[wire.At]wire.Ino{}
			}
			own.lent[at] = ino
			c.lent.drop(at)
		}
	}
	return own
}

// giveNames is called when it is known what has become of it. What the kernel has of the
// names then is as if it had been lent now: after a rename that of the other name; nothing
// after another change; else what it was. Where everything had to be forgotten meanwhile
// that is looked up. It is not waited for: the caller holds the directories.
func (f *fileSystem) giveNames(own ownNames, m *wire.Mutation, err error) {
	if len(own.lent) == 0 {
		return
	}
	has := own.lent
	if err == nil {
		has = map[wire.At]wire.Ino{}
		if ino, ok := own.lent[m.At]; ok && m.Kind == wire.MutRename {
			has[m.To] = ino
		}
		if ino, ok := own.lent[m.To]; ok && m.Rename == wire.RenameExchange {
			has[m.At] = ino
		}
	}
	c := f.cached
	c.mu.Lock()
	until := c.namesLent
	for at, ino := range has {
		c.lent.lends(at, ino, until)
	}
	again := c.floor > own.asked
	c.mu.Unlock()
	if again {
		f.checkNames(has, until, newCountdown(len(has)))
	}
}

// linked has the kernel forget the name of a file that has got another one. It
// is not waited for: the caller holds the directory.
func (f *fileSystem) linked(ino wire.Ino) {
	c := f.cached
	c.mu.Lock()
	c.nameOf.tick(bootNow())
	name, lent := c.nameOf.get(ino)
	c.mu.Unlock()
	if lent {
		f.recallName(name, newCountdown(1))
	}
}

// lookedUp counts an answer that tells the kernel of an inode.
func (c *cache) lookedUp(ino wire.Ino) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.loans[ino]
	l.lookups++
	c.loans[ino] = l
}

// forgotten: the kernel has taken lookups back; all reports that they were all.
func (c *cache) forgotten(ino wire.Ino, lookups uint64) (all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.loans[ino]
	if l.lookups > lookups {
		l.lookups -= lookups
		c.loans[ino] = l
		return false
	}
	delete(c.loans, ino)
	return true
}

// kernelKnows reports that the kernel has an inode, or is about to.
func (c *cache) kernelKnows(ino wire.Ino) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loans[ino].lookups > 0
}

// quietLocked are those of which no answer is under way that would bring the kernel
// anything new: a notification would void it. c.mu is held.
func (c *cache) quietLocked(inos []wire.Ino) (quiet []wire.Ino) {
	now := bootNow()
	for _, ino := range inos {
		if l, ok := c.loans[ino]; c.lends && ok && now-l.since >= toldFor { // since news it is below 0
			quiet = append(quiet, ino)
		}
	}
	return quiet
}

// newsLocked notes what others have touched that the kernel knows. c.mu is held.
func (c *cache) newsLocked(t *wire.Touched) {
	note := func(ino wire.Ino) {
		if l, ok := c.loans[ino]; ok {
			l.since = news
			c.loans[ino] = l
		}
	}
	if t == nil || t.Wide {
		for ino := range c.loans {
			note(ino)
		}
		return
	}
	for _, ino := range t.Inos {
		note(ino)
	}
}

// recallLocked takes back what was lent of inodes, and of names where everything
// is to be forgotten: of other changes the caller knows the names. c.mu is held.
func (c *cache) recallLocked(t *wire.Touched) (r recall) {
	now := bootNow()
	take := func(ino wire.Ino) { // what is past too: its answer may be under way still
		if l := c.loans[ino]; l.until > 0 {
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
			r.check, r.any, r.until = c.lent.all(), c.lent.more, max(r.until, c.namesLent)
			c.noNames = now + afterWide
		}
		return r
	}
	for _, ino := range t.Inos {
		take(ino)
	}
	return r
}

// forgetful has the kernel forget.
type forgetful struct {
	places chan struct{} // for directories whose names it is being told

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

func newCountdown(n int) *countdown {
	c := &countdown{done: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *countdown) count() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

// recallFrom has the kernel forget, and waits until it has, or what it was lent
// has run out, or ctx ends.
func (f *fileSystem) recallFrom(ctx context.Context, r recall) {
	if len(r.inos)+len(r.pages)+len(r.names)+len(r.check) == 0 && r.any == 0 {
		return
	}
	pages := newCountdown(len(r.pages) + 1)
	f.recallInodes(r.pages, fromStart, r.pagesUntil, pages)
	pages.count()
	left := newCountdown(len(r.inos) + len(r.names) + len(r.check) + 1)
	f.recallInodes(r.inos, onlyAttributes, r.until, left)
	for _, at := range r.names {
		f.recallName(at, left)
	}
	f.checkNames(r.check, r.until, left)
	if wait := r.any - bootNow(); wait > 0 { // of those only time tells
		time.AfterFunc(wait, left.count)
	} else {
		left.count()
	}
	left.wait(ctx, max(r.until, r.any))
	pages.wait(ctx, r.pagesUntil)
}

// wait waits until all are counted, or a time of the boot clock, or ctx ends.
func (c *countdown) wait(ctx context.Context, until time.Duration) {
	timer := time.NewTimer(until - bootNow())
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Where pages are dropped, too, and where not.
const (
	onlyAttributes = -1
	fromStart      = 0
)

// recallInodes has the kernel forget inodes, by goroutines.
func (f *fileSystem) recallInodes(inos []wire.Ino, off int64, until time.Duration, left *countdown) {
	var next atomic.Int64
	for range min(len(inos), recallers) {
		f.wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(inos)); i = next.Add(1) - 1 {
				f.recallInode(inos[i], off, until)
				left.count()
			}
		})
	}
}

// recallInode drops an inode's attributes, and pages from off on. One that the
// kernel was told of and does not know yet it is asked about again.
func (f *fileSystem) recallInode(ino wire.Ino, off int64, until time.Duration) {
	for f.kernel.InodeNotify(uint64(ino), off, 0) == fuse.Status(syscall.ENOENT) && f.cached.kernelKnows(ino) && bootNow() < until {
		select {
		case <-time.After(askAgain):
		case <-f.ctx.Done():
			return
		}
	}
}

// checkNames has the kernel forget those names that lead elsewhere by now. It is not
// told of the others: what it is told to forget loses its path, as a working
// directory or an open file. Where the service does not say, only time tells.
func (f *fileSystem) checkNames(names map[wire.At]wire.Ino, until time.Duration, left *countdown) {
	if len(names) == 0 {
		return
	}
	f.wg.Go(func() {
		ctx, cancel := context.WithTimeout(f.ctx, until-bootNow())
		defer cancel()
		places := make(chan struct{}, recallers)
		var workers sync.WaitGroup
		for at, ino := range names {
			places <- struct{}{}
			workers.Go(func() {
				defer func() { <-places }()
				f.checkName(ctx, at, ino, left)
			})
		}
		workers.Wait()
	})
}

func (f *fileSystem) checkName(ctx context.Context, at wire.At, ino wire.Ino, left *countdown) {
	a, err := f.stat(ctx, at)
	switch {
	case err == nil && a.Ino == ino, isGone(err) && ino == 0:
		left.count()
	case err == nil || isGone(err):
		f.recallName(at, left)
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
	g.places <- struct{}{} // each may be a thread that waits in the kernel
	defer func() { <-g.places }()
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
