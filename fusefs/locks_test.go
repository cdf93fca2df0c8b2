package fusefs

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// lock locks the whole file, by fcntl(2).
func (f *filer) lock(t *testing.T, mode string, want string) {
	t.Helper()
	f.must("posix "+mode, want)
}

// What was written under a lock is with the service before the lock is anybody
// else's: at an unlock, at a weaker lock, at a close of any descriptor.
func TestUnlockCommits(t *testing.T) {
	for _, step := range []string{"posix un", "posix sh", "close"} {
		c := newFake()
		c.put("f", "old")
		dir, _ := mountAt(t, c, Options{CommitAfter: 1 << 40})
		f := openFile(t, dir+"/f", unix.O_RDWR)
		f.lock(t, "ex", "ok")
		f.must("write new", "ok")
		if got, _ := c.file("f"); got != "old" {
			t.Fatalf("committed before anything needs it: %q", got)
		}
		f.must(step, "ok")
		if got, _ := c.file("f"); got != "new" {
			t.Errorf("after %s the service has %q", step, got)
		}
	}
}

// Opening for reading only does not spare a process the loss of its locks at
// the close (fcntl(2)), nor the mount the FLUSH that tells it.
func TestReadersCloseDropsPosixLocks(t *testing.T) {
	c := newFake()
	c.put("f", "x")
	dir, _ := mountAt(t, c, Options{})
	f := openFile(t, dir+"/f", unix.O_RDONLY)
	f.lock(t, "sh", "ok")
	other := openFile(t, dir+"/f", unix.O_RDWR)
	other.lock(t, "ex", "error: resource temporarily unavailable")
	f.must("close", "ok")
	other.lock(t, "ex", "ok")
	other.end()
	eventually(t, "nothing is locked", func() bool {
		held, waiting := c.lockCount()
		return held == 0 && waiting == 0
	})
}

// A close whose data cannot be committed keeps the locks until it can: nobody
// reads what was before (F3). The mount's other users find them.
func TestLocksOutliveAnAbsentService(t *testing.T) {
	c := newFake()
	c.put("f", "old")
	dir, _ := mountAt(t, c, Options{})
	f := openFile(t, dir+"/f", unix.O_RDWR)
	f.lock(t, "ex", "ok")
	f.must("write new", "ok")
	start := c.stop()
	f.begin("exit")
	<-f.gone // an exiting process does not wait for an absent service
	if held, _ := c.lockCount(); held != 1 {
		t.Fatal("the lock went before the data")
	}
	start()
	eventually(t, "unlocked", func() bool { held, _ := c.lockCount(); return held == 0 })
	if got, _ := c.file("f"); got != "new" {
		t.Errorf("unlocked, and the service has %q", got)
	}
}

// When locks are lost, what is gathered under them is dropped, and handles that
// held one, or wrote, answer EIO to everything. Others go on.
func TestLostLocks(t *testing.T) {
	c := newFake()
	c.put("f", "old")
	c.put("g", "old")
	dir, _ := mountAt(t, c, Options{CommitAfter: 1 << 40})
	holder := openFile(t, dir+"/f", unix.O_RDWR)
	holder.lock(t, "ex", "ok")
	holder.must("write new", "ok")
	reader := openFile(t, dir+"/f", unix.O_RDONLY)
	other := openFile(t, dir+"/g", unix.O_RDWR)
	other.must("write new", "ok")
	c.loseLocks(c.inodeOf("f"))
	for _, step := range []string{"read", "write more", "fsync", "truncate 0", "posix ex", "posix un", "close"} {
		holder.must(step, eio)
	}
	reader.must("read", `"old"`)
	other.must("close", "ok")
	for name, want := range map[string]string{"f": "old", "g": "new"} {
		if got, _ := c.file(name); got != want {
			t.Errorf("%s: the service has %q, want %q", name, got, want)
		}
	}
	again := openFile(t, dir+"/f", unix.O_RDWR)
	again.lock(t, "ex", "ok")
	again.must("write NEW", "ok")
	again.must("close", "ok")
	if got, _ := c.file("f"); got != "NEW" {
		t.Errorf("a new handle wrote %q", got)
	}
}

// TestLostLocksWhileWaiting: what a handle with a lock asks for while the service is out
// of reach is not done when that is back, and the lock another's perhaps.
func TestLostLocksWhileWaiting(t *testing.T) {
	for _, step := range []string{"truncate 0", "allocate 100"} {
		c := newFake()
		c.put("f", "old")
		dir, _ := mountAt(t, c, Options{})
		f := openFile(t, dir+"/f", unix.O_RDWR)
		f.lock(t, "ex", "ok")
		comes, goes := stopTransacts(c)
		f.begin(step)
		<-comes
		c.loseLocks(c.inodeOf("f"))
		goes()
		if got := f.answer(); got != eio {
			t.Errorf("%s: %s", step, got)
		}
		if got, _ := c.file("f"); got != "old" {
			t.Errorf("after %s the service has %q", step, got)
		}
	}
}

// A read under a lock that may be lost waits until that is known.
func TestReadWaitsForTheLease(t *testing.T) {
	c := newFake()
	c.put("f", "old")
	dir, _ := mountAt(t, c, Options{})
	f := openFile(t, dir+"/f", unix.O_RDWR)
	f.lock(t, "sh", "ok")
	known := make(chan struct{})
	c.locks.mu.Lock()
	c.locks.stale = known
	c.locks.mu.Unlock()
	f.begin("read")
	c.loseLocks(c.inodeOf("f"))
	close(known)
	if got := f.answer(); !strings.Contains(got, "input/output error") {
		t.Errorf("a read under a lock that was lost: %s", got)
	}
}

// What copy_file_range has read under a lock that was lost meanwhile it does not write.
func TestCopyUnderALostLock(t *testing.T) {
	s := newFake()
	s.put("f", "new, by who has the lock now")
	s.put("g", "old")
	a, _ := rawOf(t, s)
	from, status := a.open(a.lookup("f"))
	if status != fuse.OK {
		t.Fatal(status)
	}
	to, status := a.open(a.lookup("g"))
	if status != fuse.OK {
		t.Fatal(status)
	}
	ino := s.inodeOf("f")
	lock := &fuse.LkIn{InHeader: a.header(ino), Fh: from, Lk: fuse.FileLock{Typ: syscall.F_RDLCK}, LkFlags: fuse.LK_FLOCK}
	if status := a.fs.SetLk(nil, lock); status != fuse.OK {
		t.Fatal(status)
	}
	lost := sync.OnceFunc(func() { s.loseLocks(ino) })
	s.set(func(s *fake) { s.afterRead = lost })
	in := &fuse.CopyFileRangeIn{InHeader: a.header(ino), FhIn: from, FhOut: to, Len: 100}
	if n, status := a.fs.CopyFileRange(nil, in); status != fuse.EIO {
		t.Errorf("%d bytes are copied: %v", n, status)
	}
	a.release(from)
	a.release(to)
}

// TestLockGotAndSignalled: a signal that comes when the lock is got already does not end
// what follows: the kernel forgets first what it may have of before.
func TestLockGotAndSignalled(t *testing.T) {
	f, k := lending(t, 5)
	lendAll(t, f, 5)
	n := f.hold(5)
	defer f.letGo(n)
	fh := f.openHandle(n, 0)
	forgets := make(chan struct{})
	k.block[5] = forgets
	goOn := sync.OnceFunc(func() { close(forgets) })
	defer goOn()
	signalled := make(chan struct{})
	close(signalled)
	got := make(chan fuse.Status, 1)
	go func() {
		got <- f.SetLkw(signalled, &fuse.LkIn{InHeader: fuse.InHeader{NodeId: 5}, Fh: fh, Lk: fuse.FileLock{Typ: syscall.F_WRLCK}, LkFlags: fuse.LK_FLOCK})
	}()
	select {
	case status := <-got:
		t.Fatalf("the kernel has not forgotten yet: %v", status)
	case <-time.After(100 * time.Millisecond):
	}
	goOn()
	if status := <-got; status != fuse.OK {
		t.Error(status)
	}
}

func (f *fake) lockCount() (held, waiting int) {
	f.locks.mu.Lock()
	defer f.locks.mu.Unlock()
	return f.locks.lockLocked().Count()
}

var _ Locker = (*fake)(nil)

func lkIn(typ uint32) *fuse.LkIn { return &fuse.LkIn{Lk: fuse.FileLock{End: 5, Typ: typ}} }

// Every lock type of the kernel, and what is none.
func TestLockModes(t *testing.T) {
	for typ, want := range map[uint32]wire.LockMode{unix.F_RDLCK: wire.LockShared, unix.F_WRLCK: wire.LockExclusive, unix.F_UNLCK: wire.LockNone} {
		in := lkIn(typ)
		if _, r, ok := lockOf(in); !ok || r.Mode != want {
			t.Errorf("type %d: %v %v", typ, r, ok)
		}
	}
	if _, _, ok := lockOf(lkIn(9)); ok {
		t.Error("type 9 is a lock")
	}
}
