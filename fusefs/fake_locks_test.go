package fusefs

import (
	"context"
	"sync"

	"tpcfs/coordinator/locks"
	"tpcfs/wire"
)

// fakeLocks keeps the locks of a fake's one session, as the coordinator does.
type fakeLocks struct {
	mu    sync.Mutex // guards what follows
	table *locks.Table
	last  uint64
	waits map[uint64]chan struct{}
	lost  []func([]wire.Ino)
	stale chan struct{} // not nil: LocksFresh waits for its end
}

func (l *fakeLocks) lockLocked() *locks.Table {
	if l.table == nil {
		l.table, l.waits = locks.New(locks.Limits{}), map[uint64]chan struct{}{}
	}
	return l.table
}

func (l *fakeLocks) grantLocked() {
	for _, g := range l.table.Grants() {
		close(l.waits[g.Wait])
		delete(l.waits, g.Wait)
	}
}

func (f *fake) GetLock(_ context.Context, ino wire.Ino, o wire.LockOwner, r wire.LockRange) (wire.LockRange, bool, error) {
	l := &f.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	got, held := l.lockLocked().Get(locks.Owner{LockOwner: o}, ino, r)
	return got, held, nil
}

func (f *fake) SetLock(ctx context.Context, ino wire.Ino, o wire.LockOwner, r wire.LockRange, wait bool) error {
	l := &f.locks
	l.mu.Lock()
	number, done := uint64(0), make(chan struct{})
	t := l.lockLocked()
	if wait {
		l.last++
		number = l.last
		l.waits[number] = done
	}
	result, _ := t.Set(locks.Owner{LockOwner: o}, ino, r, number)
	l.grantLocked()
	l.mu.Unlock()
	switch result {
	case wire.LockDone:
		return nil
	case wire.LockConflict:
		return fakeErr(wire.CodeLocked)
	case wire.LockDeadlock:
		return fakeErr(wire.CodeDeadlock)
	case wire.LockFull:
		return fakeErr(wire.CodeNoLocks)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		if !t.Cancel(wire.SessionID{}, number) {
			return nil
		}
		return ctx.Err()
	}
}

func (f *fake) ReleaseLocks(ctx context.Context, ino wire.Ino, o wire.LockOwner) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	f.mu.Unlock()
	l := &f.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lockLocked().Release(locks.Owner{LockOwner: o}, ino)
	l.grantLocked()
	return nil
}

func (f *fake) LocksFresh(ctx context.Context) error {
	f.locks.mu.Lock()
	stale := f.locks.stale
	f.locks.mu.Unlock()
	if stale == nil {
		return nil
	}
	select {
	case <-stale:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fake) OnLocksLost(hear func([]wire.Ino)) {
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	f.locks.lost = append(f.locks.lost, hear)
}

// loseLocks is what the client does when its session's locks are gone.
func (f *fake) loseLocks(inos ...wire.Ino) {
	f.locks.mu.Lock()
	f.locks.lockLocked().Drop(wire.SessionID{})
	f.locks.grantLocked()
	hear := f.locks.lost
	f.locks.mu.Unlock()
	for _, h := range hear {
		h(inos)
	}
}
