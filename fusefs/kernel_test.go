package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// fakeKernel notes what it is told to forget.
type fakeKernel struct {
	mu     sync.Mutex // guards below
	inos   []wire.Ino
	pages  []wire.Ino // of which it drops the pages too
	names  []wire.At
	absent int                        // so often it does not know the inode yet
	block  map[wire.Ino]chan struct{} // notices of an inode, or of a directory's names, wait for it
}

func (k *fakeKernel) wait(ino wire.Ino) {
	k.mu.Lock()
	block := k.block[ino]
	k.mu.Unlock()
	if block != nil {
		<-block
	}
}

func (k *fakeKernel) InodeNotify(node uint64, off int64, length int64) fuse.Status {
	k.wait(wire.Ino(node))
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.absent > 0 {
		k.absent--
		return fuse.ENOENT
	}
	if off >= 0 {
		k.pages = append(k.pages, wire.Ino(node))
	} else {
		k.inos = append(k.inos, wire.Ino(node))
	}
	return fuse.OK
}

func (k *fakeKernel) EntryNotify(parent uint64, name string) fuse.Status {
	k.wait(wire.Ino(parent))
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names = append(k.names, wire.At{Dir: wire.Ino(parent), Path: name})
	return fuse.OK
}

// told returns what it was told since the last call, in order of numbers.
func (k *fakeKernel) told() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	slices.Sort(k.inos)
	out := fmt.Sprint(k.inos, k.names)
	if len(k.pages) > 0 {
		slices.Sort(k.pages)
		out += fmt.Sprint(" pages ", k.pages)
	}
	k.inos, k.names, k.pages = nil, nil, nil
	return out
}

// lending is a mount that has a lease and is alone, with attributes of some
// inodes and their names in the root.
func lending(t *testing.T, inos ...wire.Ino) (*fileSystem, *fakeKernel) {
	t.Helper()
	f := newFileSystem(newFake(), Options{})
	k := &fakeKernel{block: map[wire.Ino]chan struct{}{}}
	f.lendTo(k)
	t.Cleanup(func() {
		f.abandon()
		f.wg.Wait()
	})
	f.cached.extend(bootNow()+time.Hour, true)
	for _, ino := range inos {
		f.cached.keepName(f.cached.begin(), rootAt(fmt.Sprint(ino)), wire.Attr{Ino: ino, Size: 1})
	}
	return f, k
}

// lendAll lends attributes and names, as a lookup does.
func lendAll(t *testing.T, f *fileSystem, inos ...wire.Ino) {
	t.Helper()
	for _, ino := range inos {
		f.cached.lookedUp(ino)
		a := f.cached.lend(wire.Attr{Ino: ino, Size: 1}, true)
		n := f.cached.lendName(rootAt(fmt.Sprint(ino)), ino)
		if a <= 0 || a > lentFor || n <= 0 || n > lentFor {
			t.Fatalf("%d is lent for %v, its name for %v", ino, a, n)
		}
	}
}

// age makes it long ago that the kernel was told anything.
func (c *cache) age() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ino, l := range c.loans {
		if l.since != news {
			l.since -= toldFor
		}
		c.loans[ino] = l
	}
}

// The kernel gets what is known to be true now, for no longer than the lease
// allows; a name while no other mount is there.
func TestKernelIsLent(t *testing.T) {
	f, _ := lending(t, 5, 6)
	c := f.cached
	lendAll(t, f, 5, 6)
	if d := c.lend(wire.Attr{Ino: 5, Size: 2}, false); d != 0 {
		t.Errorf("what gathers here is lent for %v", d)
	}
	if d := c.lend(wire.Attr{Ino: 7}, true); d != 0 {
		t.Errorf("what is not known is lent for %v", d)
	}
	if d := c.lendName(rootAt("5"), 6) + c.lendName(rootAt("none"), 0); d != 0 {
		t.Errorf("a name that leads elsewhere is lent for %v", d)
	}
	c.keepName(c.begin(), rootAt("none"), wire.Attr{})
	if d := c.lendName(rootAt("none"), 0); d <= 0 {
		t.Error("that there is no such name is not lent")
	}
	c.extend(0, false)
	if d := c.lendName(rootAt("5"), 5); d != 0 || c.lend(wire.Attr{Ino: 5, Size: 1}, true) == 0 {
		t.Errorf("with another mount names are lent for %v", d)
	}
	c.extend(0, true)
	for _, left := range []time.Duration{lentMargin + 100*time.Millisecond, lentMargin, -1} {
		c.until = bootNow() + left
		if d := max(c.lend(wire.Attr{Ino: 5, Size: 1}, true), c.lendName(rootAt("5"), 5)); d > max(0, left-lentMargin) || d == 0 && left > lentMargin {
			t.Errorf("with %v of the lease left it is lent for %v", left, d)
		}
	}
	c.until = bootNow() + time.Hour
	c.forget(&wire.Touched{Inos: []wire.Ino{5}})
	c.keep(c.begin(), wire.Attr{Ino: 5, Size: 2})
	for range 2 { // by a GETATTR, though it was looked up but once
		if d := c.lend(wire.Attr{Ino: 5, Size: 2}, false); d != 0 {
			t.Errorf("the kernel has not been told of it before, and it is lent for %v", d)
		}
	}
	c.age()
	if d := c.lend(wire.Attr{Ino: 5, Size: 2}, false); d <= 0 {
		t.Error("the kernel has been told of it long ago, and it is not lent")
	}
	c.keepName(c.begin(), rootAt("two"), wire.Attr{Ino: 7, Nlink: 2})
	if d := c.lendName(rootAt("two"), 7); d != 0 {
		t.Errorf("a file has two names, and one is lent for %v", d)
	}
	c.lends = false
	if d := c.lend(wire.Attr{Ino: 6, Size: 1}, true); d != 0 {
		t.Errorf("nobody can be told, and it is lent for %v", d)
	}
}

// What others touch the kernel forgets before the mount goes on: of attributes
// what it was lent, of names all while any are lent. What this mount has
// changed it forgets too, but for the names.
func TestKernelForgets(t *testing.T) {
	f, k := lending(t, 5, 6, 7, 8)
	lendAll(t, f, 5, 6)
	push := func(touched *wire.Touched) string {
		t.Helper()
		f.recallFrom(t.Context(), f.forget(touched, bootNow()+time.Minute))
		return k.told()
	}
	touched := &wire.Touched{Inos: []wire.Ino{5, 7}, Names: []wire.At{rootAt("5"), rootAt("x")}}
	if got := push(touched); got != "[5] [5 x]" {
		t.Errorf("told %s", got)
	}
	if got := push(&wire.Touched{Inos: []wire.Ino{5}}); got != "[] []" {
		t.Errorf("told %s of what it has no more", got)
	}
	f.recallFrom(t.Context(), f.cached.learn(foresight{}, rootAt("6"), changes{}, &wire.Outcome{Touched: &wire.Touched{Inos: []wire.Ino{6}, Names: []wire.At{rootAt("6")}}}))
	if got := k.told(); got != "[6] []" {
		t.Errorf("after a change of its own: told %s", got)
	}
	lendAll(t, f, 8)
	f.cached.namesLent = 0
	if got := push(&wire.Touched{Wide: true}); got != "[8] []" {
		t.Errorf("everything is to go, and told %s", got)
	}
	if got := push(&wire.Touched{Names: []wire.At{rootAt("x")}}); got != "[] []" {
		t.Errorf("no name is lent, and told %s", got)
	}
	// What is past is recalled too: the answer that lends it may be under way.
	f.cached.noNames = 0
	f.cached.keepName(f.cached.begin(), rootAt("7"), wire.Attr{Ino: 7, Size: 1})
	lendAll(t, f, 7)
	l := f.cached.loans[7]
	l.until = 1
	f.cached.loans[7] = l
	f.cached.namesLent = 0
	began := bootNow()
	got := push(&wire.Touched{Inos: []wire.Ino{7}})
	if bootNow()-began > time.Second {
		t.Error("it is waited for what is past")
	}
	f.wg.Wait()
	if got += k.told(); !strings.Contains(got, "[7] []") {
		t.Errorf("told %s", got)
	}
}

// Where everything has to go the names that were lent are looked up, also those that
// the kernel has moved: it is told to forget those that lead elsewhere, and no other,
// which would lose somebody's path. Nobody waits for their time, but for that of names
// that were too many to be remembered, or that the service says nothing of.
func TestKernelForgetsAllNames(t *testing.T) {
	f, k := lending(t)
	s := f.client.(timed).service.(*fake)
	c := f.cached
	lend := func(name string, ino wire.Ino) {
		t.Helper()
		c.noNames = 0
		c.keepName(c.begin(), rootAt(name), wire.Attr{Ino: ino, Nlink: 1})
		if ino == 0 {
			c.keepName(c.begin(), rootAt(name), wire.Attr{})
		}
		if c.lendName(rootAt(name), ino) == 0 {
			t.Errorf("%s is not lent", name)
		}
	}
	push := func() (told string, took time.Duration) {
		began := bootNow()
		f.recallFrom(t.Context(), f.forget(&wire.Touched{Wide: true}, began+time.Minute))
		took = bootNow() - began
		slices.SortFunc(k.names, func(a, b wire.At) int { return strings.Compare(a.Path, b.Path) })
		return k.told(), took
	}
	changes := func(m wire.Mutation) { f.giveNames(c.takeNames(&m), &m, nil) }
	for _, name := range []string{"same", "new", "moved", "moved on", "a", "b"} {
		s.put(name, "x")
	}
	lend("same", s.inodeOf("same"))
	lend("replaced", 99)
	c.lent.turned -= lentFor + lentMargin
	lend("gone", 99)
	lend("none", 0)
	lend("new", 0)
	for from, to := range map[string]string{"before": "moved", "other": "moved on"} {
		lend(from, s.inodeOf("moved"))
		changes(wire.Mutation{Kind: wire.MutRename, At: rootAt(from), To: rootAt(to)})
	}
	lend("a", s.inodeOf("b"))
	lend("b", s.inodeOf("a"))
	changes(wire.Mutation{Kind: wire.MutRename, At: rootAt("a"), To: rootAt("b"), Rename: wire.RenameExchange})
	// What this mount makes and moves itself leads elsewhere, too, and the kernel knows.
	lend("made", 0)
	lend("moved here", 0)
	s.put("made", "x")
	s.put("moved here", "x")
	changes(wire.Mutation{Kind: wire.MutMkdir, At: rootAt("made")})
	changes(wire.Mutation{Kind: wire.MutRename, At: rootAt("not lent"), To: rootAt("moved here")})
	s.put("replaced", "y")
	if got, took := push(); got != "[] [gone moved on new replaced]" || took > lentFor {
		t.Errorf("told %s in %v", got, took)
	}
	c.keepName(c.begin(), rootAt("same"), wire.Attr{Ino: s.inodeOf("same")})
	if d := c.lendName(rootAt("same"), s.inodeOf("same")); d != 0 {
		t.Errorf("everything had to be forgotten a moment ago, and a name is lent for %v", d)
	}
	// Everything has to be forgotten while a change of this mount's own is under way.
	for _, during := range []struct {
		m    wire.Mutation
		lent wire.Ino // by its first name
		err  error
		want string
	}{
		{wire.Mutation{Kind: wire.MutMkdir, At: rootAt("made")}, 0, nil, "[] []"},
		{wire.Mutation{Kind: wire.MutMkdir, At: rootAt("made")}, 0, syscall.EEXIST, "[] [made]"}, // by another, since
		{wire.Mutation{Kind: wire.MutRmdir, At: rootAt("gone")}, 99, nil, "[] []"},
		{wire.Mutation{Kind: wire.MutRename, At: rootAt("x"), To: rootAt("new")}, 99, nil, "[] [new]"},
		{wire.Mutation{Kind: wire.MutRename, At: rootAt("x"), To: rootAt("new")}, s.inodeOf("new"), nil, "[] []"},
		{wire.Mutation{Kind: wire.MutRename, At: rootAt("x"), To: rootAt("new")}, 99, syscall.ENOENT, "[] [x]"},
	} {
		c.lent = lentNames{}
		c.namesLent = bootNow() + time.Minute
		c.lent.lends(during.m.At, during.lent, c.namesLent)
		own := c.takeNames(&during.m)
		got, _ := push()
		f.giveNames(own, &during.m, during.err)
		f.wg.Wait()
		if got += k.told(); got != "[] []"+during.want {
			t.Errorf("everything had to be forgotten during %v of %s (%v), and it was told %s", during.m.Kind, during.m.At.Path, during.err, got)
		}
	}
	waits := func(why string) {
		t.Helper()
		until := bootNow() + 30*time.Millisecond
		c.namesLent = until
		if c.lent.more > 0 {
			c.lent.more = until
		}
		if _, took := push(); bootNow() < until {
			t.Errorf("%s, and it goes on after %v", why, took)
		}
	}
	away := make(chan struct{})
	s.set(func(s *fake) { s.down = away })
	waits("the service says nothing")
	s.set(func(s *fake) { s.down = nil })
	close(away)
	f.wg.Wait()
	c.lent = lentNames{}
	for i := range maxLent + 1 {
		c.lent.lends(rootAt(fmt.Sprint("n", i)), 0, bootNow()+30*time.Millisecond)
	}
	waits("there are names that nobody knows")
}

// What a mount's own change has touched the kernel forgets before the change is
// said to be done, though it may know by itself.
func TestKernelForgetsOwnChanges(t *testing.T) {
	f, k := lending(t, 5)
	root, err := f.stat(t.Context(), wire.At{Dir: wire.RootIno})
	told := f.cached.lend(root, false)
	f.cached.age()
	if err != nil || told != 0 || f.cached.lend(root, false) == 0 {
		t.Fatal("the root is not lent", err)
	}
	if _, err := f.transact(t.Context(), wire.Mutation{Kind: wire.MutMkdir, At: rootAt("d")}); err != nil {
		t.Fatal(err)
	}
	if got := k.told(); got != "[1] []" {
		t.Errorf("told %s", got)
	}
}

// A file that gets another name is looked up again by the one that was lent: the
// kernel counts links by itself when one goes. Nobody waits for that.
func TestKernelOfALink(t *testing.T) {
	f, k := lending(t, 5)
	lendAll(t, f, 5)
	busy := make(chan struct{})
	k.block[wire.RootIno] = busy
	f.linked(5)
	f.linked(6)
	close(busy)
	f.wg.Wait()
	if got := k.told(); got != "[] [5]" {
		t.Errorf("told %s", got)
	}
}

// What others touch of a file loses the kernel's pages, which a READ under way is
// waited for; not what this mount has changed itself, or is changing. And no answer
// that brings the kernel something new is voided.
func TestKernelDropsPages(t *testing.T) {
	f, k := lending(t, 5, 6, 7)
	lendAll(t, f, 5, 6, 7)
	f.pages.read(5, 1)
	f.pages.begin(6)
	push := func(touched *wire.Touched) string {
		t.Helper()
		f.recallFrom(t.Context(), f.forget(touched, bootNow()+time.Minute))
		return k.told()
	}
	of := func(inos ...wire.Ino) *wire.Touched { return &wire.Touched{Inos: inos} }
	f.recallFrom(t.Context(), f.cached.learn(foresight{}, rootAt("5"), changes{}, &wire.Outcome{Touched: of(5)}))
	if got := k.told(); got != "[5] []" {
		t.Errorf("after a change of its own: told %s", got)
	}
	if got := push(of(5, 6, 7)); got != "[6 7] []" {
		t.Errorf("told %s while answers are under way", got)
	}
	tell := func(inos ...wire.Ino) {
		for _, ino := range inos {
			a := wire.Attr{Ino: ino, Size: 1}
			f.cached.keep(f.cached.begin(), a)
			f.cached.lend(a, false)
		}
		f.cached.age()
	}
	f.cached.age()
	if got := push(of(5)); got != "[] []" {
		t.Errorf("told %s, and it has not heard of the last change yet", got)
	}
	tell(5, 6, 7)
	if got := push(of(5, 6, 7)); got != "[] [] pages [5 6]" {
		t.Errorf("told %s", got)
	}
	tell(5, 6)
	f.cached.namesLent = 0
	n := f.hold(6)
	n.turn, n.free = turnCommit, make(chan struct{})
	if got := push(nil); got != "[] [] pages [5]" {
		t.Errorf("told %s when everything is to go and 6 is being committed", got)
	}
	n.give()
	f.letGo(n)
	tell(5, 6)
	f.cached.lookedUp(6)
	f.Forget(5, 1)
	f.Forget(6, 1)
	if got := push(&wire.Touched{Wide: true}); got != "[] [] pages [6]" {
		t.Errorf("told %s, and it knows 5 no more", got)
	}
	// A READ under way: that is waited for, but for no longer than somebody counts on it.
	tell(6)
	busy := make(chan struct{})
	k.block[6] = busy
	r := f.forget(of(6), bootNow()+50*time.Millisecond)
	f.recallFrom(t.Context(), r)
	if now := bootNow(); now < r.pagesUntil {
		t.Errorf("it goes on %v too early", r.pagesUntil-now)
	}
	close(busy)
	f.wg.Wait()
	if got := k.told(); got != "[] [] pages [6]" {
		t.Errorf("told %s in the end", got)
	}
}

// Before the kernel is told attributes that do not show that the contents are
// others, its pages go.
func TestPagesThatLookRight(t *testing.T) {
	f, k := lending(t, 5)
	lendAll(t, f, 5)
	a := wire.Attr{Ino: 5, Size: 1, Mtime: 7, Version: 1}
	show := func(version wire.ID, mtime int64) string {
		t.Helper()
		a.Version, a.Mtime = version, mtime
		f.show(t.Context(), &a, false)
		return k.told()
	}
	const nothing, pages = "[] []", "[] [] pages [5]"
	if got := show(1, 7) + show(2, 7); got != nothing+nothing {
		t.Errorf("told %s of a file that nobody has read", got)
	}
	f.pages.read(5, 2)
	whole := &wire.Mutation{Kind: wire.MutWriteFile}
	for i, c := range []struct {
		does    func()
		version wire.ID
		mtime   int64
		want    string
	}{
		{nil, 2, 7, nothing},
		{nil, 3, 8, pages}, // another mtime, which an answer that the kernel voids does not tell
		{nil, 4, 8, pages},
		{nil, 4, 8, nothing},
		{func() { f.pages.open(5, 4); f.pages.read(5, 5) }, 5, 8, nothing}, // they are of this version already
		{func() { f.pages.wrote(5) }, 5, 8, nothing},
		{func() { f.pages.committed(5, whole, 6) }, 6, 8, nothing}, // this mount's own
		{func() {
			f.pages.committed(5, &wire.Mutation{Kind: wire.MutWriteFile, Write: wire.WriteExtents, IfVersion: 6}, 7)
		}, 7, 8, nothing},
		{func() {
			f.pages.committed(5, &wire.Mutation{Kind: wire.MutWriteFile, Write: wire.WriteExtents, IfVersion: 8}, 9)
		}, 9, 8, pages}, // somebody's came between
		{func() { f.pages.committed(5, &wire.Mutation{Kind: wire.MutWriteFile, Write: wire.WriteAppend}, 10) }, 10, 8, pages},
		{func() { f.pages.committed(5, &wire.Mutation{Kind: wire.MutSetattr, Set: wire.SetSize}, 11) }, 11, 8, nothing},
		{nil, 12, 8, pages},
	} {
		if c.does != nil {
			c.does()
		}
		if got := show(c.version, c.mtime); got != c.want {
			t.Errorf("%d: told %s of version %d", i, got, c.version)
		}
	}
	if f.pages.open(5, 12) {
		t.Error("pages that were dropped under readers are taken for those of one version")
	}
}

// An inode that the kernel was told of, and does not know yet, it is asked about
// until it does, or has taken it back.
func TestKernelIsAboutToKnow(t *testing.T) {
	f, k := lending(t, 5, 6)
	lendAll(t, f, 5, 6)
	k.absent = 5
	f.recallFrom(t.Context(), f.cached.forget(&wire.Touched{Inos: []wire.Ino{5}}))
	if got := k.told(); got != "[5] []" {
		t.Errorf("told %s", got)
	}
	f.cached.lookedUp(6)
	f.cached.forgotten(6, 1)
	if !f.cached.kernelKnows(6) {
		t.Error("one of two lookups is taken back, and it is not known")
	}
	k.absent = 1 << 30
	done := make(chan struct{})
	r := f.cached.forget(&wire.Touched{Inos: []wire.Ino{6}})
	go func() {
		defer close(done)
		f.recallFrom(t.Context(), r)
	}()
	f.cached.forgotten(6, 1)
	<-done
	if now := bootNow(); now >= r.until {
		t.Error("it is waited for what the kernel has taken back")
	}
}

// Nobody waits for a directory in which something is under way longer than what
// was lent is good for; other directories and inodes do not wait for it at all.
func TestKernelIsBusy(t *testing.T) {
	f, k := lending(t, 5, 6)
	lendAll(t, f, 5, 6)
	busy, other := make(chan struct{}), wire.At{Dir: 9, Path: "c"}
	k.block[wire.RootIno], k.block[5] = busy, busy
	r := f.cached.forget(&wire.Touched{Inos: []wire.Ino{5, 6}, Names: []wire.At{rootAt("a"), rootAt("b"), other}})
	r.until = bootNow() + time.Second
	f.recallFrom(t.Context(), r)
	if now := bootNow(); now < r.until {
		t.Errorf("it goes on %v too early", r.until-now)
	}
	if got := k.told(); got != fmt.Sprintf("[6] [%v]", other) {
		t.Errorf("told %s beside what is busy", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.recallFrom(ctx, recall{names: []wire.At{rootAt("d")}, until: bootNow() + time.Hour})
	close(busy)
	f.wg.Wait()
	if got := k.told(); got != "[5] [a b d]" {
		t.Errorf("told %s in the end", got)
	}
}

// While nobody else is there the kernel asks once: for what is there, and is
// not. What others change it asks for again, at once.
func TestKernelAsksOnce(t *testing.T) {
	s := newFake()
	s.leases = true
	s.put("f", "contents")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	sh(t, dir, `mkdir $D/d; for i in $(seq 200); do : > $D/d/f$i; done`)
	look := func() string {
		t.Helper()
		return sh(t, dir, `cd $D; find . -printf '%p %s %m\n' | sort | cksum; stat -c '%s %a' f; ls none 2>&1; cat f`)
	}
	m.fs.cached.extend(bootNow()+time.Hour, true)
	first := look()
	m.fs.cached.age()
	look()
	eventually(t, "the kernel asks about what it knows", func() bool { // where two looks take longer than what was lent is good for
		before := m.Requests()
		if again := look(); again != first {
			t.Errorf("looking again shows %q, not %q", again, first)
		}
		return m.Requests()-before <= 40 // directories and files are opened, read and closed
	})
	told := func(touched *wire.Touched) { m.fs.recallFrom(t.Context(), m.fs.forget(touched, bootNow()+time.Minute)) }
	ino := s.inodeOf("f")
	s.set(func(f *fake) { f.inodes[ino].attr.Mode = wire.ModeRegular | 0o600 })
	told(&wire.Touched{Inos: []wire.Ino{ino}})
	s.put("none", "x")
	told(&wire.Touched{Inos: []wire.Ino{wire.RootIno, s.inodeOf("none")}, Names: []wire.At{rootAt("none")}})
	if got := look(); !strings.Contains(got, "8 600\n") || strings.Contains(got, "No such") {
		t.Errorf("after changes by others it sees %q", got)
	}
	if _, err := s.TransactBehind(t.Context(), nil, []wire.Mutation{{Kind: wire.MutDeleteFile, At: rootAt("f")}}, []Content{nil}); err != nil {
		t.Fatal(err)
	}
	told(&wire.Touched{Inos: []wire.Ino{wire.RootIno, ino}, Names: []wire.At{rootAt("f")}})
	if got := sh(t, dir, `ls $D`); got != "d\nnone\n" {
		t.Errorf("it lists %q", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "f")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a file that others have removed: %v", err)
	}
}
