package fusefs

import (
	"context"
	"time"

	"tpcfs/wire"
)

// places are the names under which the kernel has directories, as far as that is
// known: each has one. A directory that another mount has moved the kernel has at
// its old name. Whoever looks it up at the new one has it taken there, except in a
// rename(2) between two directories: that holds the very lock that taking it there
// needs, and ends with ESTALE, again and again until somebody looks otherwise.
type places struct {
	names map[wire.Ino]wire.At
	inos  map[wire.At]wire.Ino

	late  *countdown    // of the name that the kernel had not forgotten in time last; nil: none
	until time.Duration // of the boot clock: so long lookups wait for that
}

func newPlaces() places {
	return places{names: map[wire.Ino]wire.At{}, inos: map[wire.At]wire.Ino{}}
}

// put says where a directory is now.
func (p *places) put(ino wire.Ino, at wire.At) {
	p.forget(p.inos[at])
	p.forget(ino)
	if len(p.names) < maxCached {
		p.names[ino], p.inos[at] = at, ino
	}
}

// moved says that this mount has renamed what was at a name.
func (p *places) moved(from, to wire.At, mode wire.RenameMode) {
	a, b := p.inos[from], p.inos[to]
	p.forget(a)
	p.forget(b)
	if a != 0 {
		p.put(a, to)
	}
	if b != 0 && mode == wire.RenameExchange {
		p.put(b, from)
	}
}

// forget forgets a directory.
func (p *places) forget(ino wire.Ino) {
	if at, ok := p.names[ino]; ok {
		delete(p.names, ino)
		delete(p.inos, at)
	}
}

// moveWait is how long a lookup waits for the kernel to forget a name. Whoever
// holds what that needs may be waiting for the lookup; after ESTALE the kernel
// begins once more, with a lookup of a directory above. It holds nothing then: that
// one waits (placesSettle) for lateWait at most, and the name is forgotten.
const (
	moveWait = 50 * time.Millisecond
	lateWait = 10 * moveWait
)

// makePlace has the kernel forget the name of another directory that it has one at
// which is looked up at this name. False: there was nothing to forget.
func (f *fileSystem) makePlace(ctx context.Context, at wire.At, a wire.Attr) bool {
	f.mu.Lock()
	was, known := f.places.names[a.Ino]
	f.mu.Unlock()
	if !known || was.Dir == at.Dir || f.kernel == nil {
		return false
	}
	left := newCountdown(1)
	f.recallName(was, left)
	left.wait(ctx, bootNow()+moveWait)
	select {
	case <-left.done:
	default:
		f.mu.Lock()
		f.places.late, f.places.until = left, bootNow()+lateWait
		f.mu.Unlock()
	}
	return true
}

// placesSettle waits for a name that the kernel has not forgotten in time.
func (f *fileSystem) placesSettle(ctx context.Context) {
	f.mu.Lock()
	late, until := f.places.late, f.places.until
	f.mu.Unlock()
	if late == nil {
		return
	}
	late.wait(ctx, until)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.places.late == late {
		f.places.late = nil
	}
}

// takePlace is called when the kernel is about to be told of what is at a name, and
// that is counted (lookedUp): it may be forgetting the one of before.
func (f *fileSystem) takePlace(at wire.At, a wire.Attr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.Mode&wire.ModeType == wire.ModeDir {
		f.places.put(a.Ino, at)
	} else { // or nothing: it has no directory there any more
		f.places.forget(f.places.inos[at])
	}
}
