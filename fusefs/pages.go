package fusefs

import (
	"context"
	"sync"
	"time"

	"tpcfs/wire"
)

// The kernel keeps pages of what it has read, and drops them when it is told
// another size or mtime. Times can be set, and of two answers under way at once it
// voids one, so that is not enough. What others have
// touched it is told to drop, by the goroutines that have it forget (kernel.go): that
// waits for a READ under way, whose pages are of before. And before it is told
// attributes of another version with the size of the version before, its
// pages go. What this mount has written itself they hold already.

// pagesGo is how long after a Watch was sent nobody at the service waits any more
// for what its answer tells to be forgotten (coordinator/commit, leaseHeld): what
// is not done by then the next answer tells once more, all of it.
const pagesGo = wire.Lease*time.Millisecond + time.Second

// pages is which version the pages are of that the kernel keeps of files.
type pages struct {
	mu    sync.Mutex // guards files; nothing is taken after it
	files map[wire.Ino]paged
}

// paged is a file of which the kernel may have pages, until it forgets the inode.
type paged struct {
	version wire.ID // of the pages

	// What the kernel was told last of the file.
	shown wire.ID // 0: nothing
	size  int64
}

// What is no file's version.
const (
	mixed wire.ID = 0           // of several, or written, or not known
	none  wire.ID = ^wire.ID(0) // there are none, but for what is being read
)

// changeLocked changes what is known of a file's pages. p.mu is held.
func (p *pages) changeLocked(ino wire.Ino, change func(one *paged)) {
	one, ok := p.files[ino]
	if !ok {
		one.version = none
	}
	change(&one)
	if p.files == nil {
		p.files = map[wire.Ino]paged{}
	}
	p.files[ino] = one
}

// begin is called before anything is read for the kernel: where others change it
// meanwhile those pages go too.
func (p *pages) begin(ino wire.Ino) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.files[ino]; !ok {
		p.changeLocked(ino, func(*paged) {})
	}
}

// read notes that the kernel gets pages of a version.
func (p *pages) read(ino wire.Ino, version wire.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changeLocked(ino, func(one *paged) {
		if one.version != none && one.version != version {
			version = mixed
		}
		one.version = version
	})
}

// wrote notes that the kernel's pages are of no version.
func (p *pages) wrote(ino wire.Ino) { p.read(ino, mixed) }

// committed takes a commit of what was written here, if it is known that it came
// after what the kernel was told last, and nothing else between: its pages stay.
func (p *pages) committed(ino wire.Ino, first *wire.Mutation, tx wire.ID) {
	whole := first.Kind == wire.MutWriteFile && first.Write == wire.WriteWhole
	cut := first.Kind == wire.MutSetattr && first.Set&wire.SetSize != 0 && first.Size == 0
	p.mu.Lock()
	defer p.mu.Unlock()
	if one, ok := p.files[ino]; ok && one.shown != 0 && (whole || cut || first.IfVersion == one.shown) {
		one.shown = tx
		p.files[ino] = one
	}
}

// open reports whether the pages are those of a version. If not, the kernel
// drops them: the caller tells it.
func (p *pages) open(ino wire.Ino, version wire.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, ok := p.files[ino]
	if !ok {
		return false
	}
	if one.version == version && version != mixed {
		return true
	}
	one.version = none
	p.files[ino] = one
	return false
}

// outdated reports that the pages may not be those of a. Of the same size, the kernel is
// not told by the attributes alone: it voids an answer that was asked for before another
// one came, and goes on with the pages that another mtime would have had it drop.
func (p *pages) outdated(a *wire.Attr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, ok := p.files[a.Ino]
	return ok && one.shown != 0 && one.shown != a.Version && one.version != a.Version && one.size == a.Size
}

// show notes what the kernel is told.
func (p *pages) show(a *wire.Attr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one, ok := p.files[a.Ino]; ok {
		one.shown, one.size = a.Version, a.Size
		p.files[a.Ino] = one
	}
}

// drop notes that the kernel is about to drop a file's pages; those that it is
// getting go too, if what they hold was asked for before.
func (p *pages) drop(ino wire.Ino) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one, ok := p.files[ino]; ok {
		one.version = mixed
		p.files[ino] = one
	}
}

// forgotten: the kernel has no inode any more, and no pages of it.
func (p *pages) forgotten(ino wire.Ino) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.files, ino)
}

// of are the files among what was touched of which the kernel may have pages;
// nil, or Wide: among all.
func (p *pages) of(t *wire.Touched) (list []wire.Ino) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t == nil || t.Wide {
		for ino := range p.files {
			list = append(list, ino)
		}
		return list
	}
	for _, ino := range t.Inos {
		if _, ok := p.files[ino]; ok {
			list = append(list, ino)
		}
	}
	return list
}

// forget has the mount forget what was touched by others, nil: that is not known,
// and tells what the kernel has to. For its pages it is waited until a time of the
// boot clock at most.
func (f *fileSystem) forget(t *wire.Touched, until time.Duration) recall {
	paged := f.pages.of(t)
	idle := paged[:0]
	for _, ino := range paged {
		if f.idle(ino) {
			idle = append(idle, ino)
		}
	}
	return f.cached.forgetPaged(t, idle, until)
}

// idle reports that nothing of a file gathers here, or is being committed. What
// does moves to another mtime when others change the file; and a READ may wait for
// that commit, whose reply waits for another mount, which waits for this one.
func (f *fileSystem) idle(ino wire.Ino) bool {
	idle := true
	f.withNode(ino, func(n *node) { idle = n.plainLocked() && n.turn == turnNone && n.flight == nil && !n.orphan })
	return idle
}

// show is called before the kernel is told attributes: it drops pages that these
// may not tell it to. The notification voids the answer, so that it is asked for again at
// the next call; who has asked is told all the same, and the size is no other. A READ under
// way may wait for a commit of the file, and that for other mounts: who holds something
// that others need (held) leaves the pages to the next answer then.
func (f *fileSystem) show(ctx context.Context, a *wire.Attr, held bool) {
	if f.kernel != nil && f.pages.outdated(a) {
		if held && !f.idle(a.Ino) {
			return
		}
		f.pages.drop(a.Ino)
		f.recallFrom(ctx, recall{pages: []wire.Ino{a.Ino}, pagesUntil: bootNow() + pagesGo})
	}
	f.pages.show(a)
}
