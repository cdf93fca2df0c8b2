package fusefs

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// What a mount has read of attributes and names it answers from while it has a
// lease (F9): the service tells it what others change, and nobody hears that a
// change is done before this mount has forgotten what it knew of that, and the
// kernel what it was lent (kernel.go). What the kernel asks again costs no
// message, and finds what is true now.

const (
	maxCached  = 200_000 // attributes, and as many names
	maxTouches = 8192    // touched inodes and names that are remembered
	watchPause = 200 * time.Millisecond
	hearWait   = time.Second // for the service; then nothing is known any more
)

// cache is what the mount has read under its lease.
type cache struct {
	mu     sync.Mutex    // guards all below; nothing is taken after it
	until  time.Duration // of the boot clock: nothing here counts from then on
	number uint64        // what has been forgotten, counted
	floor  uint64        // what was asked for at this number, or before, is not kept
	inos   map[wire.Ino]uint64
	names  map[wire.At]uint64 // the numbers at which they were touched last, above floor

	attrs   map[wire.Ino]wire.Attr
	entries map[wire.At]wire.Ino // 0: there is no such name
	told    map[wire.Ino]map[question]answer
	near    map[wire.Ino]nearby

	toldBytes int // of all in told, about

	lends     bool // there is a kernel that can be told to forget
	alone     bool // no other session has a lease
	loans     map[wire.Ino]loan
	nameOf    lentLately[wire.Ino, wire.At] // by which each was lent last; of all: nobody could say what is missing
	namesLent time.Duration                 // of the boot clock, with the margin: the kernel may have names
	lent      lentNames
	noNames   time.Duration // of the boot clock: until then it gets none
}

func newCache() *cache {
	c := &cache{loans: map[wire.Ino]loan{}}
	c.forgetLocked()
	return c
}

// bootNow is the time since the boot. It goes on while the machine sleeps,
// as the coordinator's does.
func bootNow() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("fusefs: no boot clock: " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// forgetLocked forgets everything, also what is being asked for.
func (c *cache) forgetLocked() {
	c.number++
	c.floor = c.number
	c.inos, c.names = map[wire.Ino]uint64{}, map[wire.At]uint64{}
	c.attrs, c.entries = map[wire.Ino]wire.Attr{}, map[wire.At]wire.Ino{}
	c.told, c.toldBytes, c.near = map[wire.Ino]map[question]answer{}, 0, map[wire.Ino]nearby{}
}

// forget forgets what was touched by others; nil: that is not known. The kernel
// has to forget too.
func (c *cache) forget(t *wire.Touched) recall { return c.forgetPaged(t, nil, 0) }

// forgetPaged is forget where the kernel may have pages of some of what was
// touched. It is waited for that until a time of the boot clock at most.
func (c *cache) forgetPaged(t *wire.Touched, paged []wire.Ino, until time.Duration) recall {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetTouchedLocked(t)
	pages := c.quietLocked(paged)
	r := c.recallLocked(t)
	r.pages, r.pagesUntil = pages, until
	c.newsLocked(t)
	if t != nil && len(t.Names) > 0 && c.namesLent > bootNow() { // of its own changes the kernel knows the names
		r.names, r.until = t.Names, max(r.until, c.namesLent)
	}
	return r
}

func (c *cache) forgetTouchedLocked(t *wire.Touched) {
	if t == nil || t.Wide {
		c.forgetLocked()
		return
	}
	c.number++
	if len(c.inos)+len(c.names) > maxTouches { // what is being asked for is not kept
		c.floor = c.number
		clear(c.inos)
		clear(c.names)
	}
	for _, ino := range t.Inos {
		c.inos[ino] = c.number
		delete(c.attrs, ino)
		c.untellLocked(ino)
	}
	for _, at := range t.Names {
		c.names[at] = c.number
		delete(c.entries, at)
	}
}

// extend makes the lease good until then; alone: nobody else has one.
func (c *cache) extend(until time.Duration, alone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until, c.alone = max(c.until, until), alone
}

// end gives the lease up.
func (c *cache) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = 0
	c.forgetLocked()
}

// begin is called before something is asked for; what it returns goes to keep.
func (c *cache) begin() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.number
}

// keep keeps the attributes that were asked for at a number, unless they were
// touched since.
func (c *cache) keep(asked uint64, a wire.Attr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keepLocked(asked, a)
}

func (c *cache) keepLocked(asked uint64, a wire.Attr) {
	if asked < c.floor || asked < c.inos[a.Ino] || a.Ino == 0 || bootNow() >= c.until {
		return
	}
	if len(c.attrs) >= maxCached {
		clear(c.attrs)
	}
	c.attrs[a.Ino] = a
}

// untouched reports that nothing was heard of an inode since a number of begin.
func (c *cache) untouched(asked uint64, ino wire.Ino) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return asked >= c.floor && asked >= c.inos[ino]
}

// keepName keeps what a name was found to be; the zero Attr: nothing.
func (c *cache) keepName(asked uint64, at wire.At, a wire.Attr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keepLocked(asked, a)
	if asked < c.floor || asked < c.names[at] || bootNow() >= c.until {
		return
	}
	if len(c.entries) >= maxCached {
		clear(c.entries)
	}
	c.entries[at] = a.Ino
}

// look answers a stat; known says whether it can. The error is that there is
// no such name.
func (c *cache) look(at wire.At) (a wire.Attr, known bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bootNow() >= c.until {
		return a, false, nil
	}
	ino := at.Dir
	if at.Path != "" {
		if ino, known = c.entries[at]; !known {
			if !c.absentLocked(at) {
				return a, false, nil
			}
			if len(c.entries) < maxCached {
				c.entries[at] = 0
			}
		}
		if ino == 0 {
			return a, true, &wire.Error{Code: wire.CodeNotExist, Op: "stat", Name: at.String()}
		}
	}
	a, known = c.attrs[ino]
	return a, known, nil
}

// doubt drops an inode's attributes: the service has shown newer ones, and will
// tell of the change.
func (c *cache) doubt(ino wire.Ino) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetTouchedLocked(&wire.Touched{Inos: []wire.Ino{ino}})
}

// vanished forgets an inode that is no more, with the names that led to it: the
// kernel looks them up again, and what was kept would lead there once more.
func (c *cache) vanished(ino wire.Ino) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.number++
	c.inos[ino] = c.number
	delete(c.attrs, ino)
	c.untellLocked(ino)
	for at, found := range c.entries {
		if found == ino {
			c.names[at] = c.number
			delete(c.entries, at)
		}
	}
}

// lease is the goroutine that keeps the mount's lease. Without one, or with a
// service that gives none, every question goes to the service.
func (f *fileSystem) lease() {
	var last wire.Watched
	var holds []wire.Ino
	going := false // the last Watch has had an answer, in the epoch of the one before
	var once sync.Once
	begun := func() { once.Do(func() { close(f.watched) }) }
	defer begun()
	for f.commits.Err() == nil {
		ctx, askers := f.asking.begin(f.commits, going)
		req := wire.Watch{Epoch: last.Epoch, Number: last.Number, Wait: wire.WatchEvery, Holds: holds}
		if len(askers) > 0 {
			req.Wait = 0
		}
		sent := bootNow()
		got, err := f.client.Watch(ctx, req)
		if interrupted := f.asking.end(); err != nil {
			f.asking.again(askers)
			going = interrupted
			if code := wire.CodeOf(err); code == wire.CodeUnsupported || code == wire.CodeTooMany {
				f.log.Debug("no lease: nothing that was read is kept", "err", err)
				begun()
			}
			if interrupted {
				continue
			}
			select {
			case <-time.After(watchPause):
			case <-f.commits.Done():
			}
			continue
		}
		r := f.forget(&got.Touched, sent+pagesGo) // first: who opens a file now sees that it has no name
		holds = f.heldOf(got.Unnamed)
		f.cached.extend(sent+wire.Lease*time.Millisecond, got.Alone)
		f.recallFrom(f.commits, r) // before the next Watch says that it is forgotten
		going = got.Epoch == last.Epoch
		last = got
		f.leases.Store(true)
		begun()
		for _, done := range askers {
			close(done)
		}
	}
	f.cached.end()
}

// asking are those who wait for a Watch that was sent after they have come.
type asking struct {
	mu     sync.Mutex // guards below; nothing is taken after it
	list   []chan struct{}
	cancel context.CancelFunc // of the Watch under way that nobody waits for
	broken bool               // it was called
}

// begin begins a Watch under ctx for those who wait by now. Where it goes on with
// a lease, who comes later may break it off; the answer that begins one must not
// be lost.
func (a *asking) begin(ctx context.Context, goesOn bool) (context.Context, []chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list, a.broken = nil, false
	if len(list) == 0 && goesOn {
		ctx, a.cancel = context.WithCancel(ctx)
	}
	return ctx, list
}

// end: the Watch has ended; interrupted: since somebody came.
func (a *asking) end() (interrupted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cancel != nil {
		a.cancel()
		a.cancel = nil
	}
	return a.broken
}

// again has them wait for the next.
func (a *asking) again(list []chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, list...)
}

// ask returns a channel that is closed when a Watch has been answered that is
// sent from now on.
func (a *asking) ask() <-chan struct{} {
	done := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, done)
	if a.cancel != nil && !a.broken {
		a.broken = true
		a.cancel()
	}
	return done
}

// hear waits until the mount has heard of all that was done so far, whether
// somebody was told that it is done or not.
func (f *fileSystem) hear(ctx context.Context) {
	if f.leases.Load() {
		timer := time.NewTimer(hearWait)
		defer timer.Stop()
		select {
		case <-f.asking.ask():
			return
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	f.recallFrom(ctx, f.forget(nil, bootNow()+lentFor))
}

// leased is stat, answered from what was read before where the lease allows.
func (f *fileSystem) leased(ctx context.Context, at wire.At) (wire.Attr, error) {
	if a, known, err := f.cached.look(at); known {
		return a, err
	}
	if at.Path != "" {
		return f.lookNear(ctx, at)
	}
	return f.stat(ctx, at)
}
