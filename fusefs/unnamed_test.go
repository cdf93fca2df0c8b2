package fusefs

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// TestHeldUntilClosed: a file without a name is there, for readers and writers,
// until its last close; then the service has it no more.
func TestHeldUntilClosed(t *testing.T) {
	for _, name := range []string{"unlinked", "replaced", "linked before", "made without", "written"} {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			s.put("f", "contents")
			dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
			path, flags, want := dir+"/f", os.O_RDWR, "contents"
			if name == "made without" {
				path, flags, want = dir, unix.O_TMPFILE|os.O_RDWR, ""
			}
			a, b := openFile(t, path, flags), (*filer)(nil)
			switch name {
			case "unlinked":
				sh(t, dir, "rm $D/f")
			case "replaced":
				sh(t, dir, "echo -n new > $D/n; mv $D/n $D/f")
			case "linked before":
				sh(t, dir, "ln $D/f $D/g; rm $D/f")
				if n := s.nameless(); n != 0 {
					t.Errorf("%d without a name, while there is one", n)
				}
				sh(t, dir, "rm $D/g")
			case "written":
				b = openFile(t, path, flags)
				b.must("pwrite 0 C", "ok")
				sh(t, dir, "rm $D/f")
				b.must("pwrite 1 O", "ok")
				calls := s.calls.Load()
				b.must("close", "ok")
				if n := s.calls.Load() - calls; n != 0 {
					t.Errorf("%d transactions for a close: what nobody can see is not committed", n)
				}
				want = "COntents"
			}
			a.must("read", fmt.Sprintf("%q", want))
			if n := s.nameless(); n != 1 {
				t.Errorf("%d files without a name", n)
			}
			calls := s.calls.Load()
			a.must("close", "ok")
			eventually(t, "it is reclaimed", func() bool { return s.nameless() == 0 && !m.fs.busy() })
			if n := s.calls.Load() - calls; n != 1 {
				t.Errorf("%d transactions for a close, 1 is the reclaim", n)
			}
		})
	}
}

// TestTmpfileGetsAName with all that was written, and is kept after its close.
func TestTmpfileGetsAName(t *testing.T) {
	s := newFake()
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir, unix.O_TMPFILE|os.O_RDWR)
	f.must("write data", "ok")
	f.must("link "+dir+"/f", "ok")
	wantFile(t, s, "f", "data")
	f.must("write +more", "ok")
	f.must("close", "ok")
	eventually(t, "closed", func() bool { return !m.fs.busy() })
	wantFile(t, s, "f", "data+more")
}

// TestOpenMeetsUnlink: a file that is opened while its last name is on its way
// out, long after it was looked up, is not open: no handle is left that can read
// nothing.
func TestOpenMeetsUnlink(t *testing.T) {
	for _, busy := range []bool{false, true} {
		s := newFake()
		s.put("f", "contents")
		s.put("other", "")
		a, b := rawOf(t, s)
		if busy {
			a.open(a.lookup("other"))
		}
		ino := a.lookup("f")
		a.fs.looked, a.fs.unnamed = lately[wire.Ino, uint32]{}, lately[wire.Ino, struct{}]{}
		begun, goOn := s.stopAt(wire.MutDeleteFile)
		removed, opened := make(chan fuse.Status), make(chan fuse.Status)
		go func() { removed <- b.unlink("f") }()
		<-begun
		go func() {
			_, status := a.open(ino)
			opened <- status
		}()
		select {
		case status := <-opened:
			t.Errorf("busy=%v: open does not wait: %v", busy, status)
			goOn()
			<-removed
			continue
		case <-time.After(50 * time.Millisecond):
		}
		goOn()
		if r, o := <-removed, <-opened; r != fuse.OK || o != fuse.Status(syscall.ESTALE) {
			t.Errorf("busy=%v: unlink %v, open %v", busy, r, o)
		}
	}
}

// TestHeldFilesKeepTheSession of a mount that changes nothing.
func TestHeldFilesKeepTheSession(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	_, m := mountAt(t, s, Options{})
	calls := func() int64 { return s.calls.Load() }
	now := time.Now().Add(signEvery)
	m.fs.signOfLife(now)
	if got := calls(); got != 1 { // put
		t.Errorf("%d transactions, and nothing is held", got)
	}
	n := m.fs.hold(s.inodeOf("f"))
	n.setHeld(true, true)
	m.fs.signOfLife(now)
	eventually(t, "a sign of life", func() bool { return calls() == 2 })
	m.fs.signOfLife(now.Add(signEvery - 1))
	m.fs.signOfLife(now.Add(signEvery))
	eventually(t, "the next", func() bool { return calls() == 3 })
	n.setHeld(false, false)
	m.fs.letGo(n)
}

// TestReclaimRefused by a service that does not know any more who holds the
// file: it is left to it.
func TestReclaimRefused(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	dir, m := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDONLY)
	sh(t, dir, "rm $D/f")
	refused := make(chan struct{})
	s.set(func(s *fake) {
		s.before = func(m []wire.Mutation) error {
			s.before = nil
			close(refused)
			return fakeErr(wire.CodePermission)
		}
	})
	f.must("close", "ok")
	select {
	case <-refused:
	case <-time.After(15 * time.Second):
		t.Fatal("nothing was reclaimed")
	}
	eventually(t, "nothing is open", func() bool { return !m.fs.busy() })
	sh(t, dir, "echo on > $D/g")
	wantFile(t, s, "g", "on\n")
}

// raw is a caller of a mount's handlers, without a kernel in between.
type raw struct {
	t      *testing.T
	fs     *fileSystem
	thread uint32
}

func (r raw) header(ino wire.Ino) fuse.InHeader {
	return fuse.InHeader{NodeId: uint64(ino), Caller: fuse.Caller{Pid: r.thread}}
}

func (r raw) lookup(name string) wire.Ino {
	r.t.Helper()
	h, out := r.header(wire.RootIno), &fuse.EntryOut{}
	if status := r.fs.Lookup(nil, &h, name, out); status != fuse.OK {
		r.t.Fatalf("lookup %s: %v", name, status)
	}
	return wire.Ino(out.NodeId)
}

func (r raw) open(ino wire.Ino) (uint64, fuse.Status) {
	in, out := &fuse.OpenIn{InHeader: r.header(ino)}, &fuse.OpenOut{}
	status := r.fs.Open(nil, in, out)
	return out.Fh, status
}

func (r raw) release(fh uint64) { r.fs.Release(nil, &fuse.ReleaseIn{Fh: fh}) }

func (r raw) unlink(name string) fuse.Status {
	h := r.header(wire.RootIno)
	return r.fs.Unlink(nil, &h, name)
}

func (r raw) wantLinks(ino wire.Ino, want uint32) {
	r.t.Helper()
	out := &fuse.AttrOut{}
	if status := r.fs.GetAttr(nil, &fuse.GetAttrIn{InHeader: r.header(ino)}, out); status != fuse.OK || out.Nlink != want {
		r.t.Errorf("an open file's attributes: %v, %d links", status, out.Nlink)
	}
}

func rawOf(t *testing.T, s *fake) (a, b raw) {
	fs := newFileSystem(s, Options{ConflictWait: time.Second, CommitAfter: time.Hour, MaxBackground: 4, Logger: slog.New(slog.DiscardHandler)})
	fs.start()
	t.Cleanup(func() {
		fs.giveUp()
		fs.finish()
	})
	return raw{t, fs, 1 << 30}, raw{t, fs, 1<<30 + 1} // no such threads
}

// stopAt lets the next transaction wait, with the service free for others.
func (f *fake) stopAt(kind wire.MutationKind) (begun chan struct{}, goOn func()) {
	begun, on := make(chan struct{}), make(chan struct{})
	f.set(func(f *fake) {
		f.before = func(m []wire.Mutation) error {
			if m[0].Kind != kind {
				return nil
			}
			f.before = nil
			f.mu.Unlock()
			close(begun)
			<-on
			f.mu.Lock()
			return nil
		}
	})
	return begun, func() { close(on) }
}

// TestOpenMeetsReclaim: who has looked a file up long ago and opens it while it
// is being reclaimed does not get a file that is about to go.
func TestOpenMeetsReclaim(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	a, b := rawOf(t, s)
	ino := a.lookup("f")
	fh, status := a.open(ino)
	if status != fuse.OK || a.unlink("f") != fuse.OK {
		t.Fatal(status)
	}
	again, status := b.open(ino) // through /proc, as long as it is open
	if status != fuse.OK {
		t.Fatalf("a file without a name that is open: %v", status)
	}
	begun, goOn := s.stopAt(wire.MutReclaim)
	a.release(fh)
	b.release(again)
	<-begun
	fh, status = b.open(ino)
	goOn()
	if status == fuse.OK {
		eventually(t, "the reclaim", func() bool { return s.nameless() == 0 })
		b.wantLinks(ino, 0)
		b.release(fh)
		t.Error("a file was opened that was being reclaimed")
	} else if status != fuse.Status(syscall.ESTALE) {
		t.Error(status)
	}
}

// TestUnlinkMeetsReplace: a change of a name takes no other file than it was told,
// as somebody may have opened that meanwhile.
func TestUnlinkMeetsReplace(t *testing.T) {
	for _, over := range []bool{false, true} { // renamed over, or unlinked
		s := newFake()
		s.put("f", "old")
		s.put("g", "new")
		s.put("h", "newest")
		a, b := rawOf(t, s)
		s.put("busy", "")
		a.open(a.lookup("busy")) // else every open waits
		first := wire.MutDeleteFile
		if over {
			first = wire.MutRename
		}
		begun, goOn := s.stopAt(first)
		done := make(chan fuse.Status)
		go func() {
			if !over {
				done <- a.unlink("f")
				return
			}
			done <- a.fs.Rename(nil, &fuse.RenameIn{InHeader: a.header(wire.RootIno), Newdir: uint64(wire.RootIno)}, "h", "f")
		}()
		<-begun
		if status := b.fs.Rename(nil, &fuse.RenameIn{InHeader: b.header(wire.RootIno), Newdir: uint64(wire.RootIno)}, "g", "f"); status != fuse.OK {
			t.Fatal(status)
		}
		ino := s.inodeOf("f")
		opened := make(chan fuse.Status)
		go func() {
			_, status := b.open(ino)
			opened <- status
		}()
		status := <-opened // no change that was told of another file is waited for
		goOn()
		if got := <-done; status != fuse.OK || got != fuse.OK {
			t.Fatalf("over=%v: open %v, the change %v", over, status, got)
		}
		b.wantLinks(ino, 0)
		if got, _ := s.file("f"); over && got != "newest" {
			t.Errorf("f holds %q", got)
		}
	}
}

// TestLookedUpIsThere: what a thread has looked up it can open a moment later,
// whoever takes the last name meanwhile; then it is reclaimed.
func TestLookedUpIsThere(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	s.put("g", "other")
	a, b := rawOf(t, s)
	ino := a.lookup("f")
	b.lookup("f") // as unlink(2) does
	if status := b.unlink("f"); status != fuse.OK {
		t.Fatal(status)
	}
	fh, status := a.open(ino)
	if status != fuse.OK {
		t.Fatalf("a file that was looked up and unlinked: %v", status)
	}
	a.release(fh)
	a.wantLinks(ino, 0)
	eventually(t, "it is reclaimed", func() bool { return s.nameless() == 0 })

	b.lookup("g")
	if status := b.unlink("g"); status != fuse.OK || s.nameless() != 0 {
		t.Errorf("%v; a file is held that nobody else has looked up", status)
	}
}

// TestLookupMeetsUnlink: a file whose last name is on its way out is not found
// any more, and not after that by who had read its name before.
func TestLookupMeetsUnlink(t *testing.T) {
	s := newFake()
	s.put("f", "old")
	s.put("g", "new")
	a, b := rawOf(t, s)
	old := b.lookup("f")
	begun, goOn := s.stopAt(wire.MutRename)
	done, found := make(chan fuse.Status), make(chan wire.Ino)
	go func() {
		done <- b.fs.Rename(nil, &fuse.RenameIn{InHeader: b.header(wire.RootIno), Newdir: uint64(wire.RootIno)}, "g", "f")
	}()
	<-begun
	go func() { found <- a.lookup("f") }()
	select {
	case ino := <-found:
		t.Fatalf("inode %d is found, and may be gone at once", ino)
	case <-time.After(50 * time.Millisecond):
	}
	goOn()
	if status, ino := <-done, <-found; status != fuse.OK || ino == old || ino != s.inodeOf("f") {
		t.Errorf("rename: %v; found inode %d after %d", status, ino, old)
	}
	if wait := a.fs.found(rootAt("f"), old, a.thread, 0); wait == nil {
		t.Error("what was read before its name went is found")
	}
	if wait := a.fs.found(rootAt("f"), old, a.thread, 1); wait != nil {
		t.Error("what still has a name when it is looked at again is not found")
	}
}

// TestHeldOf: of what another mount has taken the last name of, a mount holds
// what is open in it, and opens nothing else any more.
func TestHeldOf(t *testing.T) {
	s := newFake()
	for _, name := range []string{"open", "looked", "other"} {
		s.put(name, "contents")
	}
	a, _ := rawOf(t, s)
	fh, _ := a.open(a.lookup("open"))
	open, looked, other := s.inodeOf("open"), a.lookup("looked"), s.inodeOf("other")
	for _, name := range []string{"open", "looked", "other"} {
		if _, err := s.TransactBehind(t.Context(), nil, []wire.Mutation{{Kind: wire.MutDeleteFile, At: rootAt(name), Hold: true}}, []Content{nil}); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.fs.heldOf([]wire.Ino{other, open, looked}); !slices.Equal(got, []wire.Ino{open, looked}) {
		t.Errorf("it holds %v of %d open, %d looked up", got, open, looked)
	}
	if _, status := a.open(other); status != fuse.Status(syscall.ESTALE) {
		t.Errorf("what was said not to be open is opened: %v", status)
	}
	again, status := a.open(looked)
	if status != fuse.OK {
		t.Errorf("what was looked up and is held: %v", status)
	}
	a.release(fh)
	a.release(again)
	eventually(t, "both are reclaimed", func() bool { return s.nameless() == 1 })
}

// TestGivenUpAgain: a service that has started anew takes this mount for a holder
// of what it had given up while others had it open. Asked about it, the mount gives
// it up once more; else the file would stay for as long as the mount.
func TestGivenUpAgain(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	s.put("never", "contents")
	a, _ := rawOf(t, s)
	fh, _ := a.open(a.lookup("f"))
	ino, never := s.inodeOf("f"), s.inodeOf("never")
	if status := a.unlink("f"); status != fuse.OK {
		t.Fatalf("unlink: %v", status)
	}
	tried := make(chan wire.Ino, 10)
	others := true
	s.set(func(s *fake) {
		s.before = func(m []wire.Mutation) error {
			if m[0].Kind != wire.MutReclaim {
				return nil
			}
			tried <- m[0].At.Dir
			if others {
				return fakeErr(wire.CodeBusy)
			}
			return nil
		}
	})
	reclaimed := func() wire.Ino {
		select {
		case ino := <-tried:
			return ino
		case <-time.After(time.Minute):
			t.Fatal("nothing is given up")
			return 0
		}
	}
	noted := func() int {
		a.fs.mu.Lock()
		defer a.fs.mu.Unlock()
		return len(a.fs.givenUp)
	}
	a.release(fh)
	reclaimed()
	eventually(t, "it is noted", func() bool { return noted() == 1 })
	s.set(func(*fake) { others = false })
	if got := a.fs.heldOf([]wire.Ino{never, ino}); len(got) != 0 {
		t.Errorf("it holds %v", got)
	}
	if got := reclaimed(); got != ino {
		t.Errorf("%d is given up, want %d", got, ino)
	}
	eventually(t, "it is gone, and forgotten", func() bool { return s.nameless() == 0 && noted() == 0 })
	if len(tried) != 0 {
		t.Errorf("what this mount has never had is given up: %d", <-tried)
	}
}

// dropNameless forgets the files without a name: the service takes the mount for dead.
func (f *fake) dropNameless() {
	f.set(func(f *fake) {
		for ino, in := range f.inodes {
			if in.attr.Nlink == 0 {
				delete(f.inodes, ino)
			}
		}
	})
}

// firstCalls may find out that a file is lost: of one with gathered writes, or without.
var firstCalls = []string{
	"read", "fsync", "size", "truncate 3", "close",
	"clean: read", "clean: size", "clean: pwrite 0 X", "clean: truncate 3", "clean: chmod 384", "clean: allocate 3", "clean: seekdata",
}

const eio = "error: input/output error"

// TestHeldIsLost: what the service has let go while it was open answers EIO, from
// the first call that finds out on. Nothing of it pretends to be written; other
// files go on.
func TestHeldIsLost(t *testing.T) {
	for _, first := range firstCalls {
		t.Run(first, func(t *testing.T) {
			first, clean := strings.CutPrefix(first, "clean: ")
			s := newFake()
			s.put("f", "contents")
			s.put("g", "old")
			dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
			writer := openFile(t, dir+"/f", os.O_RDWR)
			reader := openFile(t, dir+"/f", os.O_RDONLY)
			other := openFile(t, dir+"/g", os.O_RDWR)
			other.must("write new", "ok")
			sh(t, dir, "rm $D/f")
			if first != "close" && !clean { // what only this mount sees is not committed by it
				writer.must("pwrite 0 C", "ok")
			}
			s.dropNameless()
			if first == "close" {
				reader.must("read", eio)
			}
			writer.must(first, eio)
			wantLost(t, writer, reader, first == "close")
			other.must("close", "ok")
			wantFile(t, s, "g", "new")
			eventually(t, "nothing is left of it", func() bool { return !m.fs.busy() })
			if n := m.fs.lost.Load(); n != 0 {
				t.Errorf("%d files were given up when they were closed: that was said before", n)
			}
		})
	}
}

func wantLost(t *testing.T, writer, reader *filer, closed bool) {
	t.Helper()
	if !closed {
		for _, step := range []string{"read", "pwrite 0 X", "fsync", "size", "truncate 0", "close"} {
			writer.must(step, eio)
		}
		reader.must("read", eio)
	}
	reader.must("close", eio)
}

// TestDeletedWhileAway: what others deleted while the service took this mount for
// dead, so that it kept nothing for it, is lost as what it had kept. A file that
// this mount has deleted is not.
func TestDeletedWhileAway(t *testing.T) {
	for _, first := range firstCalls {
		t.Run(first, func(t *testing.T) {
			first, clean := strings.CutPrefix(first, "clean: ")
			s := newFake()
			s.leases = true
			for _, name := range []string{"f", "own"} {
				s.put(name, "contents")
			}
			dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
			writer := openFile(t, dir+"/f", os.O_RDWR)
			reader := openFile(t, dir+"/f", os.O_RDONLY)
			own := openFile(t, dir+"/own", os.O_RDWR)
			own.must("pwrite 0 C", "ok")
			sh(t, dir, "rm $D/own")
			if !clean {
				writer.must("pwrite 0 C", "ok")
			}
			s.set(func(f *fake) {
				root := f.inodes[wire.RootIno]
				delete(f.inodes, root.names["f"])
				delete(root.names, "f")
				root.sorted = nil
			})
			m.fs.cached.end()
			writer.must(first, eio)
			wantLost(t, writer, reader, first == "close")
			own.must("pwrite 1 O", "ok")
			own.must("fsync", "ok")
			own.must("read", `"COntents"`)
			own.must("close", "ok")
			eventually(t, "nothing is left", func() bool { return !m.fs.busy() && s.nameless() == 0 })
		})
	}
}

// TestOpenOfWhatWasReplaced: what another mount has put in a file's place is opened though
// this mount has not heard of that yet: the old one is not found twice.
func TestOpenOfWhatWasReplaced(t *testing.T) {
	s := newFake()
	s.put("f", "old")
	a, _ := rawOf(t, s)
	c := a.fs.cached
	c.mu.Lock()
	c.until = bootNow() + time.Hour
	c.mu.Unlock()
	old := a.lookup("f")
	if a.lookup("f") != old {
		t.Fatal("the name leads elsewhere")
	}
	if _, err := s.TransactBehind(t.Context(), nil, []wire.Mutation{{Kind: wire.MutDeleteFile, At: rootAt("f"), Hold: true}}, []Content{nil}); err != nil {
		t.Fatal(err)
	}
	s.put("f", "new")
	c.doubt(old) // its attributes are asked for
	if _, status := a.open(old); status != fuse.Status(syscall.ESTALE) {
		t.Fatalf("what is without a name is opened: %v", status)
	}
	if got := a.lookup("f"); got != s.inodeOf("f") {
		t.Errorf("the name leads to %d still", got)
	}
}
