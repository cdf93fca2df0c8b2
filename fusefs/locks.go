package fusefs

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// File locks (F10). The kernel keeps none; the service does, for all mounts.
// What is gathered is committed before a lock is given up, so that the next
// owner reads it. A handle is remembered by the owners that have locked through
// it: of an open file's own fcntl locks (OFD) only its RELEASE tells the end.

// Locker is what a mount needs for file locks.
type Locker interface {
	// GetLock returns a lock that keeps owner from r.
	GetLock(ctx context.Context, ino wire.Ino, owner wire.LockOwner, r wire.LockRange) (conflict wire.LockRange, held bool, err error)
	// SetLock makes r what its Mode says; with wait it waits for that, until
	// ctx ends. After an error owner has got nothing.
	SetLock(ctx context.Context, ino wire.Ino, owner wire.LockOwner, r wire.LockRange, wait bool) error
	// ReleaseLocks gives up all that owner has in a file; cheap if that is nothing.
	ReleaseLocks(ctx context.Context, ino wire.Ino, owner wire.LockOwner) error
	// LocksFresh waits until it is certain that no lock was lost before the
	// call, or f of OnLocksLost has been told.
	LocksFresh(ctx context.Context) error
	// OnLocksLost sets what is told of files whose locks are lost, before
	// anything else goes to the service. f does not call the client.
	OnLocksLost(f func(inos []wire.Ino))
}

// lockOf reads a request. flock(2) locks are the open file's: its handle names
// the owner, and is never used again. fcntl(2) locks have the kernel's name of
// the process, or of the open file.
func lockOf(in *fuse.LkIn) (wire.LockOwner, wire.LockRange, bool) {
	owner := wire.LockOwner{Kind: wire.LockFcntl, Number: in.Owner}
	r := wire.LockRange{Start: in.Lk.Start, End: in.Lk.End, PID: in.Lk.Pid}
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		owner = wire.LockOwner{Kind: wire.LockFlock, Number: in.Fh}
		r.Start, r.End = 0, wire.MaxLockEnd
	}
	switch in.Lk.Typ {
	case syscall.F_RDLCK:
		r.Mode = wire.LockShared
	case syscall.F_WRLCK:
		r.Mode = wire.LockExclusive
	case syscall.F_UNLCK:
	default:
		return owner, r, false
	}
	return owner, r, r.Valid()
}

// GetLk is fcntl(2) F_GETLK.
func (f *fileSystem) GetLk(cancel <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	h, status := f.usable(in.Fh)
	if h == nil {
		return status
	}
	owner, r, ok := lockOf(in)
	if !ok {
		return fuse.EINVAL
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	if err := h.n.waitLeft(ctx); err != nil {
		return statusOf(err)
	}
	got, held, err := f.client.GetLock(ctx, h.n.ino, owner, r)
	if err != nil {
		return statusOf(err)
	}
	out.Lk = in.Lk
	out.Lk.Typ = syscall.F_UNLCK
	if held {
		out.Lk = fuse.FileLock{Start: got.Start, End: got.End, Typ: syscall.F_RDLCK, Pid: got.PID}
		if got.Mode == wire.LockExclusive {
			out.Lk.Typ = syscall.F_WRLCK
		}
	}
	return fuse.OK
}

// SetLk is flock(2) with LOCK_NB or LOCK_UN, and F_SETLK.
func (f *fileSystem) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	return f.setLock(ctx, ctx, in, false)
}

// SetLkw is flock(2) and F_SETLKW. Any signal ends the wait: the kernel begins
// it anew if the handler says so.
func (f *fileSystem) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	ctx, stop := context.WithCancel(f.ctx)
	defer stop()
	f.wg.Go(func() {
		select {
		case <-cancel:
			stop()
		case <-ctx.Done():
		}
	})
	got, end := f.begin(cancel, &in.InHeader)
	defer end()
	return f.setLock(ctx, got, in, true)
}

// setLock gives a lock, or takes it away. What follows once the owner has got it, under
// got, any signal does not end: without that it would read what was before.
func (f *fileSystem) setLock(ctx, got context.Context, in *fuse.LkIn, wait bool) fuse.Status {
	h, status := f.usable(in.Fh)
	if h == nil {
		return status
	}
	owner, r, ok := lockOf(in)
	if !ok {
		return fuse.EINVAL
	}
	var unsaved error
	if r.Mode != wire.LockExclusive && h.n.locks(owner) { // others may read next (F3)
		unsaved = f.sync(ctx, h.n)
		if unsaved != nil && (r.Mode != wire.LockNone || ctx.Err() != nil) {
			return statusOf(unsaved)
		}
	}
	if r.Mode != wire.LockNone {
		if err := h.n.waitLeft(ctx); err != nil {
			return statusOf(err)
		}
		h.n.addLocker(owner, in.Fh)
	}
	if err := f.client.SetLock(ctx, h.n.ino, owner, r, wait); err != nil {
		return statusOf(err)
	}
	if r.Mode != wire.LockNone {
		// Who held it may have been lost with changes that nobody has waited
		// for (F10).
		f.hear(got)
	}
	if h.lost.Load() {
		f.unlock(h.n, owner)
		return fuse.EIO
	}
	return statusOf(unsaved)
}

// locks reports whether owner may have locks here.
func (n *node) locks(owner wire.LockOwner) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lockers[owner] != nil
}

func (n *node) addLocker(owner wire.LockOwner, fh uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lockers == nil {
		n.lockers = map[wire.LockOwner]map[uint64]struct{}{}
	}
	if n.lockers[owner] == nil {
		n.lockers[owner] = map[uint64]struct{}{}
	}
	n.lockers[owner][fh] = struct{}{}
}

// removeHandle forgets a handle and returns the owners that locked through no
// other one.
func (n *node) removeHandle(fh uint64) (over []wire.LockOwner) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for owner, handles := range n.lockers {
		if _, ok := handles[fh]; !ok {
			continue
		}
		if delete(handles, fh); len(handles) == 0 {
			over = append(over, owner)
		}
	}
	return over
}

// unlock gives up all locks of an owner, when what is gathered is committed or
// cannot be. Nobody has to wait for it: done is closed then.
func (f *fileSystem) unlock(n *node, owner wire.LockOwner) (done <-chan struct{}) {
	over := make(chan struct{})
	f.mu.Lock()
	n.opens++
	f.mu.Unlock()
	n.mu.Lock()
	delete(n.lockers, owner)
	if n.leaving++; n.leaving == 1 {
		n.left = make(chan struct{})
	}
	n.mu.Unlock()
	f.wg.Go(func() {
		defer close(over)
		defer f.letGo(n)
		defer n.leave()
		_ = f.sync(f.commits, n) // logged; a later fsync or close tells
		if err := f.client.ReleaseLocks(f.commits, n.ino, owner); err != nil {
			f.log.Debug("locks are released when the mount's session ends", "inode", n.ino, "err", err)
		}
	})
	return over
}

func (n *node) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leaving--; n.leaving == 0 {
		close(n.left)
	}
}

// waitLeft waits until the locks of handles and processes that are gone are:
// RELEASE comes when the close has returned already, and who tries next on
// this machine is not to find them.
func (n *node) waitLeft(ctx context.Context) error {
	n.mu.Lock()
	leaving, left := n.leaving > 0, n.left
	n.mu.Unlock()
	if !leaving {
		return nil
	}
	select {
	case <-left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stillLocked tells, after a read, whether its handle's locks were held when it
// was made.
func (f *fileSystem) stillLocked(ctx context.Context, h *handle) error {
	h.n.mu.Lock()
	locked := len(h.n.lockers) > 0
	h.n.mu.Unlock()
	if locked {
		if err := f.client.LocksFresh(ctx); err != nil {
			return err
		}
	}
	if h.lost.Load() {
		return syscall.EIO
	}
	return nil
}

// locksLost is told of files in which this mount held locks, and others may by
// now. Handles that held one answer EIO from now on; what is gathered in the
// file goes, and so do the handles that may have written it.
func (f *fileSystem) locksLost(inos []wire.Ino) {
	for _, ino := range inos {
		n := f.peek(ino)
		if n == nil {
			continue
		}
		f.mu.Lock()
		n.mu.Lock()
		dropped := n.forfeitLocked()
		for fh, h := range f.handles {
			if h.n == n && (dropped && h.writes || n.lockedThroughLocked(fh)) {
				h.lose()
			}
		}
		n.lockers = nil
		n.mu.Unlock()
		f.mu.Unlock()
		f.log.Error("file locks are lost: the service was out of reach for too long; what was open with them answers EIO", "inode", ino, "dropped_writes", dropped)
		f.letGo(n)
	}
}

func (n *node) lockedThroughLocked(fh uint64) bool {
	for _, handles := range n.lockers {
		if _, ok := handles[fh]; ok {
			return true
		}
	}
	return false
}

// forfeitLocked gives up what is gathered. A commit under way ends unsent, if
// it is not sent; it gives up the rest.
func (n *node) forfeitLocked() (dropped bool) {
	if !n.dirtyLocked() {
		return false
	}
	n.saved, n.unsure, n.sent, n.since = n.gen, false, nil, time.Time{}
	n.mtimeSet, n.atimeSet, n.ctime = false, false, 0
	if n.flight != nil {
		n.flight.cancel()
	}
	n.forfeit = n.flying != nil
	n.dropLocked() // who writes from now on waits for that commit's turn, and begins anew
	return true
}
