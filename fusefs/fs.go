package fusefs

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// fileSystem answers the kernel's requests. A node id is an inode number:
// there is no tree here to keep in step with the service's.
type fileSystem struct {
	fuse.RawFileSystem // ENOSYS for what is not here: the kernel has a fallback, or says EOPNOTSUPP

	client service
	o      Options
	log    *slog.Logger
	depot  *depot
	cached *cache
	clock  *clock
	pages  pages
	kernel kernel // who is told to forget; nil: it is lent nothing

	forgetful forgetful
	asking    asking

	ctx         context.Context // ends with the kernel's connection: nobody waits any more
	disconnect  context.CancelFunc
	commits     context.Context // ends when what is gathered is given up
	stopCommits context.CancelFunc
	watched     chan struct{} // closed when the first Watch is answered
	leases      atomic.Bool   // this mount has, or had, a lease: what is open here the service keeps (F7)
	swept       chan struct{} // closed when nothing gathered is left

	wg       sync.WaitGroup // all goroutines of the mount but go-fuse's
	panics   atomic.Uint64
	requests atomic.Uint64 // of the kernel that a handler has begun
	lost     atomic.Uint64 // files whose gathered writes were given up
	saves    atomic.Uint64 // commits done
	reading  chan struct{} // a place for each READ at the service
	aheads   chan struct{} // a place for each head start

	mu      sync.Mutex // guards below; taken before a node's
	nodes   map[wire.Ino]*node
	handles map[uint64]*handle
	dirs    map[uint64]*dirHandle
	lastFH  uint64
	removed map[wire.Ino]wire.Attr // of those, what is no more and the kernel still knows: somebody's working directory, or open fifo

	unnaming   map[*unnaming]struct{}     // those at work
	looked     lately[wire.Ino, uint32]   // what the kernel was told of lately, and the thread that asked
	unnamed    lately[wire.Ino, struct{}] // what has lost a name lately
	linger     []lingering                // in the order of until
	turned     time.Time                  // when looked and unnamed last forgot
	seen       map[wire.Ino]wire.Attr     // directories and fifos, sockets, devices that the kernel may know, as last seen
	places     places                     // where it has directories
	refused    map[wire.Ino]int           // reclaims that the service has refused, and how often
	later      []wire.Ino                 // of those, what is tried again
	givenUp    map[wire.Ino]struct{}      // files without a name that others had open when this mount had them no more
	released   []wire.Ino                 // files without a name that wait for their reclaim
	reclaiming int                        // goroutines that reclaim
	signed     time.Time                  // when the service last had a sign of life for the sake of held files
}

// handle is one open file.
type handle struct {
	n      *node
	writes bool // its closes commit

	lost atomic.Bool // a lock was lost, or what it wrote: it answers EIO

	ctx context.Context // ends then: of what changes the file and does not gather
	end context.CancelFunc
}

// lose has the handle answer EIO. What it waits for at the service is not done any
// more if it was not sent.
func (h *handle) lose() {
	h.lost.Store(true)
	h.end()
}

// changes is a context of one request's that ends when the handle is lost, too. The
// caller calls end.
func (h *handle) changes(ctx context.Context) (_ context.Context, end func()) {
	own, cancel := context.WithCancel(h.ctx)
	stop := context.AfterFunc(ctx, cancel)
	return own, func() { stop(); cancel() }
}

// changed is the error of such a request.
func (h *handle) changed(err error) error {
	if err != nil && h.lost.Load() {
		return syscall.EIO
	}
	return err
}

// maxReading bounds the READs at the service: below the kernel's bound, so
// that read-ahead of one process leaves room for others' (F1).
const maxReading = 48

func newFileSystem(c service, o Options) *fileSystem {
	clock := &clock{}
	f := &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		client:        timed{c, clock}, clock: clock, o: o, log: o.Logger,
		depot:   &depot{dir: o.SpillDir, fileBytes: o.FileMemory, bytes: o.Memory},
		cached:  newCache(),
		watched: make(chan struct{}),
		swept:   make(chan struct{}),
		reading: make(chan struct{}, min(maxReading, o.MaxBackground)),
		aheads:  make(chan struct{}, aheadsAtOnce),

		forgetful: forgetful{places: make(chan struct{}, nameRecall)},
		nodes:     map[wire.Ino]*node{}, handles: map[uint64]*handle{}, dirs: map[uint64]*dirHandle{},
		removed: map[wire.Ino]wire.Attr{}, seen: map[wire.Ino]wire.Attr{}, places: newPlaces(), refused: map[wire.Ino]int{}, givenUp: map[wire.Ino]struct{}{}, unnaming: map[*unnaming]struct{}{}, signed: time.Now(),
	}
	f.ctx, f.disconnect = context.WithCancel(context.Background())
	f.commits, f.stopCommits = context.WithCancel(context.Background())
	return f
}

// start begins the mount's own work.
func (f *fileSystem) start() {
	f.client.OnLocksLost(f.locksLost)
	f.wg.Go(f.sweep)
	f.wg.Go(f.lease)
}

// abandon ends what newFileSystem began.
func (f *fileSystem) abandon() {
	f.disconnect()
	f.stopCommits()
}

// finish is called when the kernel's connection is gone: it commits what is
// left, for as long as giveUp is not called, and waits for all goroutines.
func (f *fileSystem) finish() {
	f.disconnect()
	f.mu.Lock()
	f.handles, f.dirs, f.linger = map[uint64]*handle{}, map[uint64]*dirHandle{}, nil
	left := make([]*node, 0, len(f.nodes))
	for _, n := range f.nodes {
		n.opens = 0
		left = append(left, n)
	}
	f.mu.Unlock()
	for _, n := range left {
		f.reap(n)
	}
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for first := true; f.commits.Err() == nil && len(f.commitDue(time.Now(), first)) > 0; first = false {
		select {
		case <-ticker.C:
		case <-f.commits.Done():
		}
	}
	close(f.swept)
	f.stopCommits()
	f.wg.Wait()
	f.mu.Lock()
	left = left[:0]
	for _, n := range f.nodes {
		left = append(left, n)
	}
	f.mu.Unlock()
	for _, n := range left {
		f.reap(n)
	}
}

// giveUp makes finish end.
func (f *fileSystem) giveUp() { f.stopCommits() }

// lossError says what was given up.
func (f *fileSystem) lossError() error {
	if n := f.lost.Load(); n > 0 {
		return fmt.Errorf("since it was mounted, gathered writes to %d files were given up: they could not be committed, and are lost; the log says why", n)
	}
	return nil
}

// String names the file system in go-fuse's messages.
func (f *fileSystem) String() string { return "tpcfs" }

// Forget takes back what the kernel was told of an inode. Node ids are inode
// numbers, which are never reused.
func (f *fileSystem) Forget(nodeid, nlookup uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cached.forgotten(wire.Ino(nodeid), nlookup) { // else it has been told of it again meanwhile
		delete(f.removed, wire.Ino(nodeid))
		delete(f.seen, wire.Ino(nodeid))
		f.places.forget(wire.Ino(nodeid))
		f.pages.forgotten(wire.Ino(nodeid))
	}
}

// peek returns the inode's node, held until letGo; nil if there is none.
func (f *fileSystem) peek(ino wire.Ino) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[ino]
	if n != nil {
		n.opens++
	}
	return n
}

// withNode calls fn with the inode's node, if there is one, and its mu held.
func (f *fileSystem) withNode(ino wire.Ino, fn func(n *node)) {
	n := f.peek(ino)
	if n == nil {
		return
	}
	defer f.letGo(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	fn(n)
}

// hold returns the inode's node, made if there is none, held until letGo.
func (f *fileSystem) hold(ino wire.Ino) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holdLocked(ino)
}

// holdLocked is hold for who has f.mu.
func (f *fileSystem) holdLocked(ino wire.Ino) *node {
	n := f.nodes[ino]
	if n == nil {
		n = &node{ino: ino, cur: noEdits()}
		f.nodes[ino] = n
	}
	n.opens++
	return n
}

// letGo gives a node back.
func (f *fileSystem) letGo(n *node) {
	f.mu.Lock()
	n.opens--
	f.mu.Unlock()
	f.reap(n)
}

// openHandle takes the caller's hold of n over.
func (f *fileSystem) openHandle(n *node, flags uint32) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastFH++
	n.handles++
	h := &handle{n: n, writes: flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0}
	h.ctx, h.end = context.WithCancel(context.Background())
	f.handles[f.lastFH] = h
	return f.lastFH
}

func (f *fileSystem) handle(fh uint64) *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.handles[fh]
}

// usable returns an open file that requests may use.
func (f *fileSystem) usable(fh uint64) (*handle, fuse.Status) {
	h := f.handle(fh)
	switch {
	case h == nil:
		return nil, fuse.Status(syscall.EBADF)
	case h.lost.Load():
		return nil, fuse.EIO
	}
	return h, fuse.OK
}

// attr reads attributes, with what is gathered over them: one moment's, not
// older than anything that this mount has shown.
func (f *fileSystem) attr(ctx context.Context, at wire.At) (wire.Attr, error) {
	if at.Path == "" {
		if a, ok := f.orphan(at.Dir); ok {
			return a, nil
		}
	}
	for try := 0; ; try++ {
		saves := f.saves.Load()
		stat := f.leased
		if try > 0 { // what is kept was not enough
			stat = f.stat
		}
		a, err := stat(ctx, at)
		if err != nil {
			if at.Path == "" && isGone(err) {
				f.cached.vanished(at.Dir)
				if n := f.peek(at.Dir); n != nil {
					err := f.lose(n)
					f.letGo(n)
					if err != nil {
						return a, err
					}
				}
				if a, ok := f.orphan(at.Dir); ok {
					return a, nil
				}
				if a, ok := f.goneNode(at.Dir); ok {
					return a, nil
				}
				return a, &wire.Error{Code: wire.CodeStale, Op: "stat", Name: at.String()}
			}
			return a, err
		}
		older, err := f.overlay(ctx, &a, saves)
		if err != nil || !older || try == 10 {
			return a, err
		}
	}
}

// orphan returns the attributes of a file or directory without a name that
// only this mount still has.
func (f *fileSystem) orphan(ino wire.Ino) (wire.Attr, bool) {
	f.mu.Lock()
	a, ok := f.removed[ino]
	f.mu.Unlock()
	if ok {
		return a, true
	}
	n := f.peek(ino)
	if n == nil {
		return wire.Attr{}, false
	}
	defer f.letGo(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	a = n.attr
	if n.orphan {
		n.overlayLocked(&a)
	}
	return a, n.orphan
}

// overlay puts gathered size and times over a. It reports that a is older
// than what this mount has shown and has to be read again: a commit was done
// since saves, or the base has moved.
func (f *fileSystem) overlay(ctx context.Context, a *wire.Attr, saves uint64) (older bool, err error) {
	n := f.peek(a.Ino)
	if n == nil {
		return false, nil
	}
	defer f.letGo(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.savedAt > saves {
		return true, nil
	}
	if !n.orphan {
		n.attr = *a
	}
	if !n.dirtyLocked() {
		return false, nil
	}
	times := n.cur.empty() && n.flying == nil // they alone are gathered
	if !times && n.basedLocked() && (n.base != a.Version || n.baseSize != a.Size) {
		n.mu.Unlock()
		err := f.refresh(ctx, n)
		n.mu.Lock()
		return true, err
	}
	size, blocks := a.Size, a.Blocks
	n.overlayLocked(a)
	if times {
		a.Size, a.Blocks = size, blocks
	}
	return false, nil
}

// GetAttr is stat(2).
func (f *fileSystem) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	a, err := f.attr(ctx, wire.At{Dir: wire.Ino(in.NodeId)})
	if err != nil {
		return statusOf(err)
	}
	f.seeNode(a)
	f.show(ctx, &a, false)
	fillAttr(&out.Attr, a)
	out.SetTimeout(f.cached.lend(a, false))
	return fuse.OK
}

// Lookup finds a name.
func (f *fileSystem) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if len(name) > wire.MaxNameLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	ctx, end := f.begin(cancel, in)
	defer end()
	at := wire.At{Dir: wire.Ino(in.NodeId), Path: name}
	f.placesSettle(ctx)
	a, err := f.find(ctx, at, in.Pid)
	if err == nil && f.makePlace(ctx, at, a) {
		a, err = f.find(ctx, at, in.Pid) // as it is after the wait
	}
	if wire.CodeOf(err) == wire.CodeNotExist {
		f.takePlace(at, wire.Attr{})
		if term := f.cached.lendName(at, 0); term > 0 {
			out.SetEntryTimeout(term) // without a node id: there is none
			return fuse.OK
		}
	}
	if err != nil {
		return statusOf(f.inGone(ctx, at.Dir, err))
	}
	f.seeNode(a)
	f.show(ctx, &a, true) // its directory
	f.lendEntry(out, at, a)
	f.takePlace(at, a)
	return fuse.OK
}

// StatFs is statfs(2): the space of the fullest participant.
func (f *fileSystem) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	ctx, end := f.begin(cancel, in)
	defer end()
	st, err := f.client.Statfs(ctx)
	if err != nil {
		return statusOf(err)
	}
	*out = statfsOf(st)
	return fuse.OK
}

func statfsOf(st wire.Statfs) fuse.StatfsOut {
	const block = 4096
	free := st.Free / block
	// Inodes take no space of their own: as many are free as blocks are, but where the
	// participants' file systems have fewer of theirs.
	files := free
	if st.FilesLeft != nil {
		files = min(files, *st.FilesLeft)
	}
	return fuse.StatfsOut{
		Blocks: st.Total / block, Bfree: free, Bavail: free, Bsize: block, Frsize: block,
		Files: st.Files + files, Ffree: files, NameLen: wire.MaxNameLen,
	}
}

// Readlink is readlink(2).
func (f *fileSystem) Readlink(cancel <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	ctx, end := f.begin(cancel, in)
	defer end()
	a, err := f.leasedRead(ctx, wire.Ino(in.NodeId), question{kind: wire.ReadLink})
	if err != nil {
		return nil, statusOf(staleIfGone(err))
	}
	return []byte(a.target), fuse.OK
}

// staleIfGone: an inode named by its number that is no more. The kernel looks
// up again where it may (F8).
func staleIfGone(err error) error {
	if isGone(err) {
		return &wire.Error{Code: wire.CodeStale, Text: err.Error()}
	}
	return err
}

// fillEntry tells the kernel of an inode by a name; without one where there is
// none. It asks again for the attributes, which whoever makes something, or
// changes it, cannot lend: the kernel takes them though it was told to forget (F9).
func (f *fileSystem) fillEntry(out *fuse.EntryOut, at wire.At, a wire.Attr) {
	out.NodeId = uint64(a.Ino)
	fillAttr(&out.Attr, a)
	f.cached.lookedUp(a.Ino)
	if at.Path != "" {
		out.SetEntryTimeout(f.cached.lendName(at, a.Ino))
	}
}

// lendEntry is fillEntry of what was looked up: a name is lent with what it
// leads to.
func (f *fileSystem) lendEntry(out *fuse.EntryOut, at wire.At, a wire.Attr) {
	f.fillEntry(out, wire.At{}, a)
	if term := f.cached.lend(a, true); term > 0 {
		out.SetAttrTimeout(term)
		out.SetEntryTimeout(f.cached.lendName(at, a.Ino))
	}
}

func fillAttr(out *fuse.Attr, a wire.Attr) {
	*out = fuse.Attr{
		Ino: uint64(a.Ino), Size: uint64(a.Size), Blocks: uint64(a.Blocks),
		Mode: a.Mode, Nlink: a.Nlink, Owner: fuse.Owner{Uid: a.UID, Gid: a.GID}, Rdev: a.Rdev,
		Blksize: wire.BlockSize,
	}
	out.Atime, out.Atimensec = splitTime(a.Atime)
	out.Mtime, out.Mtimensec = splitTime(a.Mtime)
	out.Ctime, out.Ctimensec = splitTime(a.Ctime)
}

// splitTime gives whole seconds, before 1970 too, and nanoseconds of 0 to 999,999,999.
func splitTime(ns int64) (uint64, uint32) {
	t := time.Unix(0, ns)
	return uint64(t.Unix()), uint32(t.Nanosecond())
}
