package fusefs

import (
	"context"
	"time"

	"tpcfs/wire"
)

// What the kernel looked up is opened, read or asked about a moment later, by
// its number: on a local disk nothing comes in between, here others may have
// taken its last name (F7).

const (
	lookedFor = time.Second // for so long at least an inode is what somebody may be about to open
	maxLately = 8192        // remembered of inodes; beyond it sooner forgotten
)

// several stands for the threads that have looked an inode up, where not one.
const several uint32 = 0

// lately remembers for one to two turns.
type lately[K comparable, V any] struct{ now, before map[K]V }

// put is add, but turns when there are many.
func (l *lately[K, V]) put(k K, v V) {
	if len(l.now) >= maxLately {
		l.turn()
	}
	l.add(k, v)
}

func (l *lately[K, V]) add(k K, v V) {
	if l.now == nil {
		l.now = map[K]V{}
	}
	l.now[k] = v
}

func (l *lately[K, V]) get(k K) (v V, ok bool) {
	if v, ok = l.now[k]; !ok {
		v, ok = l.before[k]
	}
	return v, ok
}

func (l *lately[K, V]) drop(k K) {
	delete(l.now, k)
	delete(l.before, k)
}

func (l *lately[K, V]) empty() bool { return len(l.now)+len(l.before) == 0 }

// turn forgets what was put before the last turn.
func (l *lately[K, V]) turn() {
	l.before, l.now = l.now, map[K]V{}
}

// find is what Lookup answers. It notes what a thread has found, and may be
// about to open: who takes the last name of it holds it for a moment. Where that
// is under way, or has been done meanwhile, it looks again.
func (f *fileSystem) find(ctx context.Context, at wire.At, thread uint32) (wire.Attr, error) {
	for try := 0; ; try++ {
		a, err := f.attr(ctx, at)
		if err != nil {
			return a, err
		}
		wait := f.found(at, a.Ino, thread, try)
		if wait == nil {
			return a, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
}

// maxFinds is how often a name is looked at again because of what is done to it.
const maxFinds = 10

// closed is a channel that is.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// found notes what was found, or returns what to wait for before looking again.
func (f *fileSystem) found(at wire.At, ino wire.Ino, thread uint32, try int) (wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if try < maxFinds {
		for u := range f.unnaming {
			if u.ino == ino || u.ino == 0 && u.at == at {
				return u.done
			}
		}
	}
	if _, unnamed := f.unnamed.get(ino); unnamed && try == 0 { // later: it has got a name again, or had several
		return closed
	}
	if old, ok := f.looked.get(ino); ok && old != thread {
		thread = several
	}
	f.looked.put(ino, thread)
	return nil
}

// opened notes that a thread has opened what it had looked up.
func (f *fileSystem) opened(ino wire.Ino, thread uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if by, ok := f.looked.get(ino); ok && by == thread {
		f.looked.drop(ino)
	}
}

// wantedLocked: has another thread looked the inode up a moment ago? f.mu is held.
func (f *fileSystem) wantedLocked(ino wire.Ino, thread uint32) bool {
	by, ok := f.looked.get(ino)
	return ok && (by != thread || by == several)
}
