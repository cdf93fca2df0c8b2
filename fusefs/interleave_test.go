package fusefs

import (
	"context"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// stopCommits has the next transactions wait; comes says that one has come, and
// goes, called once, lets all go on.
func stopTransacts(s *fake) (comes <-chan struct{}, goes func()) {
	come, wait := make(chan struct{}, 100), make(chan struct{})
	s.set(func(s *fake) { s.waits = func() { come <- struct{}{}; <-wait } })
	return come, func() {
		s.set(func(s *fake) { s.waits = nil })
		close(wait)
	}
}

// fly starts a commit of a node as the mount does by itself.
func startFlight(f *fileSystem, n *node, with wire.Mutation) *flight {
	n.mu.Lock()
	defer n.mu.Unlock()
	return f.startLocked(n, with)
}

// asked is a context whose asked is closed when somebody begins to wait for it.
type askedContext struct {
	context.Context
	asked chan struct{}
}

func (c askedContext) Done() <-chan struct{} {
	select {
	case <-c.asked:
	default:
		close(c.asked)
	}
	return c.Context.Done()
}

// TestWrittenAfterLostLocks: what is written through a handle that was opened when
// locks were lost already stays, also while a commit of what is given up is under way.
func TestWrittenAfterLostLocks(t *testing.T) {
	s := newFake()
	s.put("f", "old contents")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	holder := openFile(t, dir+"/f", os.O_RDWR)
	holder.lock(t, "ex", "ok")
	holder.must("write theirs", "ok")
	n := m.fs.peek(s.inodeOf("f"))
	defer m.fs.letGo(n)
	comes, goes := stopTransacts(s)
	holder.begin("fsync")
	<-comes
	s.loseLocks(n.ino)
	cut := make(chan error, 1)
	go func() { cut <- m.fs.cut(t.Context(), n) }() // O_TRUNC
	select {
	case err := <-cut:
		cut <- err
	case <-time.After(100 * time.Millisecond): // it may wait for the commit
	}
	goes()
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	if got := holder.answer(); got != eio {
		t.Errorf("fsync of what is given up: %s", got)
	}
	if _, err := m.fs.write(t.Context(), &handle{n: n, writes: true}, []byte("mine"), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.fs.sync(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, "f", "mine")
}

// TestChangedAfterUnknownOutcome: appended bytes that are changed when it is not
// known whether they are committed are what they were changed to, once.
func TestChangedAfterUnknownOutcome(t *testing.T) {
	for _, others := range []bool{false, true} {
		s := newFake()
		s.put("f", "base,")
		dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
		f, g := openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND), openFile(t, dir+"/f", os.O_RDWR)
		s.set(func(s *fake) {
			s.after = func([]wire.Mutation, wire.Outcome) error { return once(s, wire.CodeUnknownOutcome) }
		})
		f.must("write once", "ok")
		f.must("fsync", eio)
		wantFile(t, s, "f", "base,once")
		want := "base,OnCe"
		g.must("pwrite 5 O", "ok")
		if others {
			s.append(t, "f", ",theirs")
			want += ",theirs"
		}
		g.must("pwrite 7 C", "ok")
		f.must("fsync", "ok")
		wantFile(t, s, "f", want)
	}
}

// TestAppendedAgainAfterUnknownOutcome: what is appended behind bytes that got a place
// when it was not known whether they are committed stays.
func TestAppendedAgainAfterUnknownOutcome(t *testing.T) {
	s := newFake()
	s.put("f", "base,")
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f, g := openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND), openFile(t, dir+"/f", os.O_RDWR)
	s.set(func(s *fake) {
		s.after = func([]wire.Mutation, wire.Outcome) error { return once(s, wire.CodeUnknownOutcome) }
	})
	f.must("write once", "ok")
	f.must("fsync", eio)
	g.must("pwrite 9 ,placed", "ok")
	f.must("write ,two", "ok")
	f.must("fsync", "ok")
	wantFile(t, s, "f", "base,once,placed,two")
}

// append is another client's.
func (f *fake) append(t *testing.T, name, data string) {
	t.Helper()
	m := wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: name}, Write: wire.WriteAppend, Extents: []wire.Extent{{Size: int64(len(data))}}}
	if _, err := f.TransactBehind(context.Background(), nil, []wire.Mutation{m}, []Content{textContent(data)}); err != nil {
		t.Error(err)
	}
}

// TestTwoUnknownOutcomes: of two tries whose answers are lost the first happens, late.
// Nothing is appended twice.
func TestTwoUnknownOutcomes(t *testing.T) {
	s := newFake()
	s.put("f", "base,")
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND)
	var late []wire.Mutation
	s.set(func(s *fake) {
		s.before = func(m []wire.Mutation) error {
			late = m
			return once(s, wire.CodeUnknownOutcome)
		}
	})
	f.must("write one,", "ok")
	f.must("fsync", eio)
	f.must("write two,", "ok")
	s.set(func(s *fake) {
		s.before = func([]wire.Mutation) error {
			s.before = nil
			s.mu.Unlock()
			defer s.mu.Lock()
			if _, err := s.TransactBehind(context.Background(), nil, late, []Content{textContent("one,"), nil}); err != nil {
				t.Error(err)
			}
			return fakeErr(wire.CodeUnknownOutcome)
		}
	})
	f.must("fsync", eio)
	wantFile(t, s, "f", "base,one,")
	f.must("fsync", "ok")
	wantFile(t, s, "f", "base,one,two,")
}

// TestOpenThatFailsCutsNothing.
func TestOpenThatFailsCutsNothing(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	ino := s.inodeOf("f")
	s.set(func(s *fake) {
		s.inodes[ino].attr.Mode |= 0o4111
		s.before = func([]wire.Mutation) error { return once(s, wire.CodeUnavailable) }
	})
	_, m := mountAt(t, s, Options{CommitAfter: time.Millisecond})
	in := fuse.OpenIn{InHeader: fuse.InHeader{NodeId: uint64(ino), Caller: fuse.Caller{Owner: fuse.Owner{Uid: 1000, Gid: 1000}}},
		Flags: syscall.O_WRONLY | syscall.O_TRUNC, Mode: fuse.OPEN_KILL_SUIDGID}
	if status := m.fs.Open(nil, &in, &fuse.OpenOut{}); status != fuse.Status(syscall.ETIMEDOUT) {
		t.Fatal(status)
	}
	eventually(t, "nothing is to be committed", func() bool { return !m.fs.busy() })
	wantFile(t, s, "f", "contents")
}

// TestMtimeSetAgain: a time that is set after a write stays, also if it is the one
// that a commit of before carries.
func TestMtimeSetAgain(t *testing.T) {
	s := newFake()
	s.put("f", "")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR)
	n := m.fs.peek(s.inodeOf("f"))
	defer m.fs.letGo(n)
	f.must("pwrite 0 one", "ok")
	sh(t, dir, "touch -h -d @1000 $D/f")
	comes, goes := stopTransacts(s)
	fl := startFlight(m.fs, n, wire.Mutation{})
	<-comes
	f.must("pwrite 0 two", "ok")
	sh(t, dir, "touch -h -d @1000 $D/f")
	goes()
	<-fl.done
	f.must("close", "ok")
	wantFile(t, s, "f", "two")
	if got := sh(t, dir, "stat -c %Y $D/f"); got != "1000\n" {
		t.Errorf("the mtime is %s", got)
	}
}

// TestExtentsAreBounded, also while commit after commit fails with what was written
// before it: one transaction has to hold all.
func TestExtentsAreBounded(t *testing.T) {
	s := newFake()
	s.put("f", strings.Repeat("x", 100))
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	openFile(t, dir+"/f", os.O_RDWR).must("pwrite 0 y", "ok")
	n := m.fs.peek(s.inodeOf("f"))
	defer m.fs.letGo(n)
	gone, cancel := context.WithCancel(t.Context())
	cancel() // who would have to wait gets an error
	at := int64(0)
	for range 5 {
		comes, goes := stopTransacts(s)
		s.set(func(s *fake) { s.before = func([]wire.Mutation) error { return once(s, wire.CodeUnavailable) } })
		fl := startFlight(m.fs, n, wire.Mutation{})
		<-comes
		for range maxGathered {
			at += 10
			if _, err := m.fs.write(gone, &handle{n: n, writes: true}, []byte("y"), at); err != nil {
				break
			}
		}
		goes()
		<-fl.done
	}
	n.mu.Lock()
	k := len(n.cur.extents)
	n.mu.Unlock()
	if k > 2*maxGathered {
		t.Errorf("%d extents are gathered", k)
	}
	if err := m.fs.sync(t.Context(), n); err != nil {
		t.Error(err)
	}
}

// TestSyncBesideAChown that is refused: that is the chown's error alone.
func TestSyncBesideAChown(t *testing.T) {
	s := newFake()
	s.put("f", "old")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	openFile(t, dir+"/f", os.O_RDWR).must("pwrite 0 new", "ok")
	n := m.fs.peek(s.inodeOf("f"))
	defer m.fs.letGo(n)
	comes, goes := stopTransacts(s)
	s.set(func(s *fake) { s.before = func([]wire.Mutation) error { return once(s, wire.CodePermission) } })
	fl := startFlight(m.fs, n, wire.Mutation{Set: wire.SetUID, UID: 12})
	<-comes
	ctx := askedContext{t.Context(), make(chan struct{})}
	synced := make(chan error)
	go func() { synced <- m.fs.sync(ctx, n) }()
	<-ctx.asked
	goes()
	if err := <-synced; err != nil {
		t.Errorf("sync: %v", err)
	}
	if <-fl.done; wire.CodeOf(fl.err) != wire.CodePermission {
		t.Errorf("the chown: %v", fl.err)
	}
	wantFile(t, s, "f", "new")
}

// TestLinkOfUnknownOutcome: the file may have a name, so a close commits it.
func TestLinkOfUnknownOutcome(t *testing.T) {
	s := newFake()
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir, unix.O_TMPFILE|os.O_RDWR)
	s.set(func(s *fake) {
		s.after = func([]wire.Mutation, wire.Outcome) error { return once(s, wire.CodeUnknownOutcome) }
	})
	f.must("link "+dir+"/f", eio)
	f.must("write data", "ok")
	f.must("close", "ok")
	eventually(t, "closed", func() bool { return !m.fs.busy() })
	wantFile(t, s, "f", "data")
}

// TestCutThatFails changes nothing.
func TestCutThatFails(t *testing.T) {
	c := newContents(testDepot(t))
	if _, err := c.WriteAt([]byte(strings.Repeat("x", 4*pageSize)), 0); err != nil || !c.Spilled() {
		t.Fatal(err)
	}
	shared := c.Snapshot()
	good := c.spill.f
	full, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(good.Fd()))) // takes no writes
	if err != nil {
		t.Fatal(err)
	}
	c.spill.f = full
	if err := c.Truncate(pageSize / 2); err == nil {
		t.Fatal("a cut of a page that a snapshot shares needs another")
	}
	got := make([]byte, 4*pageSize)
	if k, err := c.ReadAt(got, 0); k != len(got) || strings.Count(string(got), "x") != len(got) {
		t.Errorf("after a cut that failed %d bytes are there, %d of them right (%v)", k, strings.Count(string(got), "x"), err)
	}
	shared.Release()
	c.Close()
	_ = good.Close()
}

// setIDWriter opens a file of a fake service and returns what an unprivileged process does with it.
func setIDWriter(t *testing.T, s *fake, a raw, name string) (h fuse.InHeader, fh uint64, write func() (reads int64)) {
	t.Helper()
	ino := a.lookup(name)
	in := fuse.OpenIn{InHeader: a.header(ino), Flags: syscall.O_RDWR}
	out := fuse.OpenOut{}
	if status := a.fs.Open(nil, &in, &out); status != fuse.OK {
		t.Fatal(status)
	}
	t.Cleanup(func() { a.release(out.Fh) })
	h = a.header(ino)
	h.Uid, h.Gid = 1000, 1000
	return h, out.Fh, func() int64 {
		t.Helper()
		before := s.readCall.Load()
		if _, status := a.fs.Write(nil, &fuse.WriteIn{InHeader: h, Fh: out.Fh, WriteFlags: fuse.WRITE_KILL_SUIDGID}, []byte("x")); status != fuse.OK {
			t.Fatal(status)
		}
		return s.readCall.Load() - before
	}
}

func wantNoSetID(t *testing.T, s *fake, ino wire.Ino) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if mode := s.inodes[ino].attr.Mode; mode&syscall.S_ISUID != 0 {
		t.Errorf("the mode is %o", mode)
	}
}

// TestSetIDBitsOfOthers: a file that another mount gives a set-id bit loses it by
// the next write of an unprivileged process here, though the last one had none to
// take away.
func TestSetIDBitsOfOthers(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	a, _ := rawOf(t, s)
	h, _, write := setIDWriter(t, s, a, "f")
	ino := wire.Ino(h.NodeId)
	write()
	if n := write(); n != 0 {
		t.Errorf("%d reads for a second write", n)
	}
	set := wire.Mutation{Kind: wire.MutSetattr, At: wire.At{Dir: ino}, Set: wire.SetMode, Mode: 0o4755}
	if _, err := s.TransactBehind(t.Context(), nil, []wire.Mutation{set}, nil); err != nil {
		t.Fatal(err)
	}
	a.fs.forget(&wire.Touched{Inos: []wire.Ino{ino}}, 0)
	write()
	wantNoSetID(t, s, ino)
}

// TestOwnCommitsAskNoMode: who writes and syncs in turns asks once whether the file has
// set-id bits, unless something of others is heard of it.
func TestOwnCommitsAskNoMode(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	a, _ := rawOf(t, s)
	h, fh, write := setIDWriter(t, s, a, "f")
	ino := wire.Ino(h.NodeId)
	sync := func() {
		t.Helper()
		if status := a.fs.Fsync(nil, &fuse.FsyncIn{InHeader: h, Fh: fh}); status != fuse.OK {
			t.Fatal(status)
		}
	}
	write()
	for range 2 {
		sync()
		if n := write(); n != 0 {
			t.Errorf("%d reads for a write after a commit", n)
		}
	}
	s.set(func(s *fake) {
		s.after = func([]wire.Mutation, wire.Outcome) error { // another mount's, heard before the answer
			s.after = nil
			s.inodes[ino].attr.Mode |= syscall.S_ISUID
			a.fs.forget(&wire.Touched{Inos: []wire.Ino{ino}}, 0)
			return nil
		}
	})
	sync()
	write()
	wantNoSetID(t, s, ino)
}

// TestMappingAfterAFailedClose: what a mapping writes after a close that failed is
// tried, too, before it is given up.
func TestMappingAfterAFailedClose(t *testing.T) {
	s := newFake()
	s.put("f", strings.Repeat(".", 100))
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("map 4096", "ok")
	f.must("poke 10 mapped", "ok")
	s.set(func(s *fake) { s.space = 10 })
	f.must("close", "error: no space left on device")
	s.set(func(s *fake) { s.space = 0 })
	f.must("poke 20 later", "ok")
	f.must("unmap", "ok")
	eventually(t, "closed", func() bool { return !m.fs.busy() })
	wantFile(t, s, "f", strings.Repeat(".", 10)+"mapped"+"...."+"later"+strings.Repeat(".", 75))
}

// TestSyncOfWhatIsGivenUp is an error, and makes nothing of the file.
func TestSyncOfWhatIsGivenUp(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	a, _ := rawOf(t, s)
	n := a.fs.hold(a.lookup("f"))
	if _, err := a.fs.write(t.Context(), &handle{n: n, writes: true}, []byte("longer than before"), 0); err != nil {
		t.Fatal(err)
	}
	var mtime int64
	s.set(func(s *fake) { s.space, mtime = 10, s.inodes[n.ino].attr.Mtime })
	a.fs.letGo(n)
	a.fs.commitDue(time.Now(), true)
	eventually(t, "it is given up", func() bool { return a.fs.lost.Load() == 1 })
	if err := a.fs.sync(t.Context(), n); wire.CodeOf(err) != wire.CodeNoSpace {
		t.Errorf("sync: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.inodes[n.ino].attr.Mtime; now != mtime {
		t.Errorf("the mtime has changed by %v", time.Duration(now-mtime))
	}
}

// TestReadMeetsAWrite: what a READ answers has what was written while it asked: a page
// that the kernel has dropped may come before, and behind, the WRITE of it.
func TestReadMeetsAWrite(t *testing.T) {
	for _, commits := range []bool{false, true} {
		s := newFake()
		s.put("f", "their bytes")
		_, m := mountAt(t, s, Options{CommitAfter: time.Hour})
		n := m.fs.hold(s.inodeOf("f"))
		defer m.fs.letGo(n)
		s.set(func(s *fake) {
			s.afterRead = func() {
				s.set(func(s *fake) { s.afterRead = nil })
				if _, err := m.fs.write(t.Context(), &handle{n: n, writes: true}, []byte("our"), 0); err != nil {
					t.Error(err)
				}
				if commits {
					if err := m.fs.sync(t.Context(), n); err != nil {
						t.Error(err)
					}
				}
			}
		})
		buf := make([]byte, 20)
		if k, err := m.fs.readNode(t.Context(), n, buf, 0); err != nil || string(buf[:k]) != "ourir bytes" {
			t.Errorf("commits: %v: %q, %v", commits, buf[:k], err)
		}
	}
}
