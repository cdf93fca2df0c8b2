package fusefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

func wantFile(t *testing.T, s *fake, name, want string) {
	t.Helper()
	if got, ok := s.file(name); !ok || got != want {
		t.Fatalf("%s is %.200q (there: %v), want %.200q", name, got, ok, want)
	}
}

// TestGathers: nothing goes out before fsync or close; all of this mount sees
// it meanwhile; then it is one transaction.
func TestGathers(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	wantFile(t, s, "f", "")
	calls := s.calls.Load()
	f.must("write one", "ok")
	f.must("pwrite 5 two", "ok")
	f.must("read", `"one\x00\x00two"`)
	if got := sh(t, dir, "stat -c %s $D/f; cat $D/f | tr '\\0' ."); got != "8\none..two" {
		t.Fatalf("another process sees %q", got)
	}
	wantFile(t, s, "f", "")
	before := f.do("size")
	f.must("fsync", "ok")
	wantFile(t, s, "f", "one\x00\x00two")
	if got := f.do("size"); got != before {
		t.Fatalf("the commit changed size or mtime: %s, before %s", got, before)
	}
	if n := s.calls.Load() - calls; n != 1 {
		t.Fatalf("%d transactions, want one", n)
	}
	f.must("close", "ok")
	if n := s.calls.Load() - calls; n != 1 {
		t.Fatal("a close with nothing unsaved made a transaction")
	}
}

// TestCommitsByItself: what nobody syncs is not kept back for long.
func TestCommitsByItself(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{CommitAfter: 300 * time.Millisecond})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("write data", "ok")
	eventually(t, "the write is committed", func() bool { got, _ := s.file("f"); return got == "data" })
	f.must("write more", "ok")
	eventually(t, "the second too", func() bool { got, _ := s.file("f"); return got == "datamore" })
}

// TestCommitSendsWhatChanged, and nothing is read for it; also when another
// mount was faster.
func TestCommitSendsWhatChanged(t *testing.T) {
	s := newFake()
	s.put("f", strings.Repeat("x", 8<<20))
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f, g := openFile(t, dir+"/f", os.O_RDWR), openFile(t, dir+"/f", os.O_WRONLY|os.O_APPEND)
	for i, other := range []bool{false, false, true} {
		sent, read := s.sent.Load(), s.readSent.Load()
		f.must("pwrite 5000000 four", "ok")
		f.must("pwrite 100 two", "ok")
		g.must("write end", "ok")
		if other {
			theirs := wire.Mutation{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: "f"}, Write: wire.WriteAppend, Extents: []wire.Extent{{Size: 5}}}
			if _, err := s.TransactBehind(context.Background(), nil, []wire.Mutation{theirs}, []Content{textContent("their")}); err != nil {
				t.Fatal(err)
			}
		}
		f.must("fsync", "ok")
		if n := s.sent.Load() - sent; n > 30 {
			t.Errorf("%d bytes sent for 10", n)
		}
		if n := s.readSent.Load() - read; n > 0 {
			t.Errorf("%d bytes read", n)
		}
		got, _ := s.file("f")
		want := strings.Repeat("end", i+1)
		if other {
			want = "endendtheirend"
		}
		if got[8<<20:] != want || got[100:104] != "twox" || got[5000000:5000005] != "fourx" {
			t.Errorf("round %d: %q", i, got[8<<20:])
		}
	}
	f.must("truncate 200", "ok")
	f.must("pwrite 300 far", "ok")
	f.must("truncate 150", "ok")
	f.must("truncate 160", "ok")
	f.must("fsync", "ok")
	want := strings.Repeat("x", 100) + "two" + strings.Repeat("x", 47) + strings.Repeat("\x00", 10)
	wantFile(t, s, "f", want)
}

// A file that is extended while a commit is under way, and by another mount
// further still: the next commit has nothing to write.
func TestExtendedUnderACommit(t *testing.T) {
	s := newFake()
	s.put("f", strings.Repeat("x", 100))
	dir, _ := mountAt(t, s, Options{CommitAfter: 50 * time.Millisecond})
	f := openFile(t, dir+"/f", os.O_RDWR)
	begun, pass := make(chan struct{}), make(chan struct{})
	var once, theirs sync.Once
	s.set(func(s *fake) {
		s.waits = func() { once.Do(func() { close(begun); <-pass }) }
		s.after = func([]wire.Mutation, wire.Outcome) error {
			theirs.Do(func() { // behind ours
				in, err := s.resolve(wire.At{Dir: wire.RootIno, Path: "f"})
				if err != nil {
					t.Error(err)
					return
				}
				in.data = append(bytes.Clone(in.data), strings.Repeat("y", 200)...)
				in.attr.Size, in.attr.Version = int64(len(in.data)), s.nextID
				s.nextID++
			})
			return nil
		}
	})
	f.must("pwrite 0 new", "ok") // commits by itself
	<-begun
	f.must("truncate 200", "ok")
	close(pass)
	want := "new" + strings.Repeat("x", 97) + strings.Repeat("y", 200)
	eventually(t, "both are there", func() bool { got, _ := s.file("f"); return got == want })
	f.must("fsync", "ok")
	wantFile(t, s, "f", want)
	f.must("pwrite 300 z", "ok")
	f.must("fsync", "ok")
	wantFile(t, s, "f", want+"z")
}

// TestTruncateGathers only with gathered data.
func TestTruncateGathers(t *testing.T) {
	s := newFake()
	s.put("f", "0123456789")
	dir, _ := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("truncate 8", "ok")
	wantFile(t, s, "f", "01234567")
	f.must("pwrite 2 xx", "ok")
	f.must("truncate 5", "ok")
	f.must("read", `"01xx4"`)
	wantFile(t, s, "f", "01234567")
	f.must("fsync", "ok")
	wantFile(t, s, "f", "01xx4")
	sh(t, dir, "truncate -s 2 $D/f")
	f.must("read", `"01"`)
}

// TestTwoMountsWrite: neither undoes the other's bytes.
func TestTwoMountsWrite(t *testing.T) {
	s := newFake()
	s.put("f", "..........")
	one, _ := mountAt(t, s, Options{})
	two, _ := mountAt(t, s, Options{})
	a, b := openFile(t, one+"/f", os.O_RDWR), openFile(t, two+"/f", os.O_RDWR)
	a.must("pwrite 1 aa", "ok")
	b.must("pwrite 6 bbbbbb", "ok")
	b.must("read", `"......bbbbbb"`) // the kernel has these pages now
	a.must("fsync", "ok")
	wantFile(t, s, "f", ".aa.......")
	b.must("read", `".aa...bbbbbb"`) // the newest, with its own over it
	a.must("read", `".aa......."`)
	b.must("fsync", "ok")
	wantFile(t, s, "f", ".aa...bbbbbb")
	a.must("read", `".aa...bbbbbb"`)
	b.must("pwrite 0 B", "ok")
	a.must("pwrite 11 A", "ok")
	b.must("close", "ok")
	a.must("close", "ok")
	wantFile(t, s, "f", "Baa...bbbbbA")
}

// TestTwoMountsAppend: no append is lost, none is doubled.
func TestTwoMountsAppend(t *testing.T) {
	s := newFake()
	one, _ := mountAt(t, s, Options{})
	two, _ := mountAt(t, s, Options{})
	const n = 40
	loop := "for i in $(seq " + fmt.Sprint(n) + "); do echo $0-$i >> $D/log || exit 1; done"
	done := make(chan string, 2)
	for name, dir := range map[string]string{"one": one, "two": two} {
		go func() {
			out, err := tryShell(t, dir, strings.ReplaceAll(loop, "$0", name))
			done <- fmt.Sprint(out, err)
		}()
	}
	for range 2 {
		if got := <-done; got != "<nil>" {
			t.Error(got)
		}
	}
	log, _ := s.file("log")
	lines := map[string]int{}
	for line := range strings.Lines(log) {
		lines[strings.TrimSpace(line)]++
	}
	for i := 1; i <= n; i++ {
		for _, name := range []string{"one", "two"} {
			if k := fmt.Sprint(name, "-", i); lines[k] != 1 {
				t.Errorf("%s is there %d times", k, lines[k])
			}
		}
	}
}

// TestRewriteIsWhole: the later of two rewrites wins whole, and a reader who
// has the file open sees the newest.
func TestRewriteIsWhole(t *testing.T) {
	s := newFake()
	s.put("f", "first")
	one, _ := mountAt(t, s, Options{})
	two, _ := mountAt(t, s, Options{})
	r := openFile(t, two+"/f", os.O_RDONLY)
	r.must("read", `"first"`)
	w := openFile(t, one+"/f", os.O_WRONLY|os.O_TRUNC)
	w.must("write second", "ok")
	r.must("read", `"first"`)
	sh(t, two, "echo -n meanwhile, something longer > $D/f")
	r.must("read", `"meanwhile, something longer"`)
	w.must("close", "ok")
	wantFile(t, s, "f", "second")
	r.must("read", `"second"`)
}

// TestFailedCommitIsKept: the fsync that failed says so, the data stay, and a
// later fsync succeeds.
func TestFailedCommitIsKept(t *testing.T) {
	s := newFake()
	s.space = 10
	var log bytes.Buffer
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("write 0123456789abc", "ok")
	f.must("fsync", "error: no space left on device")
	f.must("fsync", "error: no space left on device")
	f.must("read", `"0123456789abc"`)
	wantFile(t, s, "f", "")
	if n := strings.Count(log.String(), "committing gathered writes failed"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	s.set(func(s *fake) { s.space = 0 })
	f.must("fsync", "ok")
	wantFile(t, s, "f", "0123456789abc")
	s.set(func(s *fake) { s.space = 10 })
	f.must("write !", "ok")
	f.must("close", "error: no space left on device")
	eventually(t, "what cannot be committed is given up after the last close", func() bool { return m.fs.lost.Load() == 1 })
	if got := sh(t, dir, "cat $D/f"); got != "0123456789abc" {
		t.Fatalf("the file is %q", got)
	}
}

// TestUnavailableIsKept: past the client's wait the close fails, but the data
// go out when the service is back, though nobody has the file open.
func TestUnavailableIsKept(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{CommitAfter: 50 * time.Millisecond})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	s.set(func(s *fake) {
		s.before = func([]wire.Mutation) error { return fakeErr(wire.CodeUnavailable) }
	})
	f.must("write kept", "ok")
	f.must("close", "error: connection timed out")
	s.set(func(s *fake) { s.before = nil })
	eventually(t, "the data are committed", func() bool { got, _ := s.file("f"); return got == "kept" })
}

// TestConflicts are tried again, up to a bound.
func TestConflicts(t *testing.T) {
	s := newFake()
	left := 5
	s.before = func([]wire.Mutation) error {
		if left--; left >= 0 {
			return fakeErr(wire.CodeConflict)
		}
		return nil
	}
	dir, _ := mountAt(t, s, Options{ConflictWait: time.Second})
	sh(t, dir, "echo hi > $D/f; [ $(cat $D/f) = hi ]")
	s.set(func(*fake) { left = 4 })
	sh(t, dir, "mkdir $D/d && mv $D/f $D/d/f")
	s.set(func(*fake) { left = 1 << 30 })
	if out, err := tryShell(t, dir, "mkdir $D/e"); err == nil || !strings.Contains(out, "Resource temporarily unavailable") {
		t.Fatalf("a conflict without end: %v %s", err, out)
	}
	if s.calls.Load() > 300 {
		t.Fatalf("%d tries: no pause between them", s.calls.Load())
	}
}

// TestConflictsWaitAtTheService: where it is known who was in the way, the next try
// waits for that one there, without a pause here, for what is left of ConflictWait.
func TestConflictsWaitAtTheService(t *testing.T) {
	s := newFake()
	left := 300
	s.before = func([]wire.Mutation) error {
		if left--; left >= 0 {
			return &wire.Error{Code: wire.CodeConflict, Blocker: wire.ID(left + 1), Key: 7}
		}
		return nil
	}
	dir, _ := mountAt(t, s, Options{ConflictWait: time.Minute})
	sh(t, dir, "mkdir $D/d") // 300 pauses would be over after seconds, and not without a few of 1 to 24 ms
	var first, second []*wire.Behind
	s.set(func(s *fake) { first, s.behind, left = s.behind, nil, 2 })
	sh(t, dir, "echo hi > $D/f; [ $(cat $D/f) = hi ]")
	if len(first) != 301 || first[0] != nil {
		t.Fatalf("%d tries of mkdir", len(first))
	}
	for i, b := range first[1:] {
		if b == nil || b.Tx != wire.ID(300-i) || b.Key != 7 || b.Patience <= 0 || b.Patience > 60_000 {
			t.Fatalf("try %d waits for %+v", i+1, b)
		}
	}
	s.set(func(s *fake) { second = slices.Clone(s.behind) })
	if len(second) < 4 || second[1].Tx != 2 || second[2].Tx != 1 || second[3] != nil { // CREATE, then the contents
		t.Fatalf("the file's tries wait for %v", second)
	}
}

// TestUnknownOutcome: fsync does not claim success, and trying again does not
// append twice.
func TestUnknownOutcome(t *testing.T) {
	s := newFake()
	s.put("f", "base,")
	dir, _ := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND)
	s.set(func(s *fake) {
		s.after = func(m []wire.Mutation, _ wire.Outcome) error {
			s.after = nil
			return fakeErr(wire.CodeUnknownOutcome)
		}
	})
	f.must("write once", "ok")
	f.must("fsync", "error: input/output error")
	wantFile(t, s, "f", "base,once")
	f.must("fsync", "ok")
	wantFile(t, s, "f", "base,once")
	f.must("write ,twice", "ok")
	f.must("fsync", "ok")
	wantFile(t, s, "f", "base,once,twice")
}

// TestWritesDuringCommit are not lost, do not wait, and are in the next one;
// also when the first commit finds a newer base.
func TestWritesDuringCommit(t *testing.T) {
	for _, moved := range []bool{false, true} {
		t.Run(fmt.Sprint("moved=", moved), func(t *testing.T) {
			s := newFake()
			s.put("f", "0123456789")
			dir, _ := mountAt(t, s, Options{CommitAfter: 200 * time.Millisecond}) // fsync(2) itself holds up writes
			f, g := openFile(t, dir+"/f", os.O_RDWR), openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND)
			entered, leave := make(chan struct{}), make(chan struct{})
			s.set(func(s *fake) {
				s.before = func([]wire.Mutation) error {
					s.before = nil
					s.mu.Unlock()
					close(entered)
					<-leave
					if moved {
						s.put("f", "THE_OTHER_MOUNT")
					}
					s.mu.Lock()
					return nil
				}
			})
			f.must("pwrite 2 xx", "ok")
			g.must("write end", "ok")
			<-entered
			g.must("write !", "ok")
			close(leave)
			g.must("fsync", "ok")
			want := "01xx456789end!"
			if moved {
				want = "THxxOTHER_MOUNTend!"
			}
			wantFile(t, s, "f", want)
			f.must("read", fmt.Sprintf("%q", want))
		})
	}
}

// TestUnlinkedFilesLiveOn until closed, whoever unlinked them.
func TestUnlinkedFilesLiveOn(t *testing.T) {
	s := newFake()
	for _, name := range []string{"clean", "dirty", "replaced", "elsewhere", "synced"} {
		s.put(name, "contents")
	}
	dir, m := mountAt(t, s, Options{})
	other, _ := mountAt(t, s, Options{})
	files := map[string]*filer{}
	for _, name := range []string{"clean", "dirty", "replaced", "elsewhere"} {
		files[name] = openFile(t, dir+"/"+name, os.O_RDWR)
	}
	files["dirty"].must("pwrite 0 C", "ok")
	files["elsewhere"].must("pwrite 0 C", "ok")
	sh(t, dir, "rm $D/clean $D/dirty; echo new > $D/x; mv $D/x $D/replaced; cat $D/replaced")
	synced := openFile(t, dir+"/synced", os.O_RDWR)
	synced.must("pwrite 0 C", "ok")
	sh(t, other, "rm $D/elsewhere $D/synced")
	synced.must("fsync", "ok")
	synced.must("read", "error: stale file handle") // what was written here alone is here
	synced.must("close", "ok")
	want := map[string]string{"clean": "contents", "dirty": "Contents", "replaced": "contents"}
	lost := files["elsewhere"]
	delete(files, "elsewhere")
	lost.must("read", "error: stale file handle")
	lost.must("pwrite 1 ontents", "ok")
	lost.must("read", `"Contents"`)
	lost.must("close", "ok")
	for name, f := range files {
		f.must("read", fmt.Sprintf("%q", want[name]))
		f.must("pwrite 8 !", "ok")
		f.must("fsync", "ok")
		f.must("read", fmt.Sprintf("%q", want[name]+"!"))
		if got := f.do("size"); !strings.HasPrefix(got, "9 0 ") {
			t.Errorf("%s: size and links are %s", name, got)
		}
		f.must("truncate 3", "ok")
		f.must("chmod 384", "ok")
		f.must("read", fmt.Sprintf("%q", want[name][:3]))
		f.must("close", "ok")
	}
	if got := sh(t, dir, "ls $D; cat $D/replaced"); got != "replaced\nnew\n" {
		t.Errorf("left: %q", got)
	}
	eventually(t, "nothing is kept after the last close", func() bool { return !m.fs.busy() && m.fs.depot.used.Load() == 0 })
}

// TestMapping: pages written through a mapping reach the service, also after
// the descriptor is closed, and do not extend the file.
func TestMapping(t *testing.T) {
	s := newFake()
	s.put("f", strings.Repeat(".", 100))
	dir, _ := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("map 4096", "ok")
	f.must("poke 10 mapped", "ok")
	f.must("close", "ok")
	f.must("poke 20 later", "ok")
	f.must("unmap", "ok")
	want := strings.Repeat(".", 10) + "mapped" + "...." + "later" + strings.Repeat(".", 75)
	eventually(t, "the mapping's pages are committed", func() bool { got, _ := s.file("f"); return got == want })
}

// TestMappingDoesNotExtend a file that another mount has cut.
func TestMappingDoesNotExtend(t *testing.T) {
	s := newFake()
	s.put("f", strings.Repeat(".", 8000))
	dir, m := mountAt(t, s, Options{})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("map 8000", "ok")
	f.must("poke 5000 mapped", "ok")
	s.put("f", "short")
	f.must("unmap", "ok")
	f.must("close", "ok")
	eventually(t, "all is committed", func() bool { return !m.fs.busy() })
	wantFile(t, s, "f", "short")
}

// TestRenameBringsTheData: after a crash the new name is not an empty file.
func TestRenameBringsTheData(t *testing.T) {
	s := newFake()
	s.put("f", "old")
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/tmp", os.O_RDWR|os.O_CREATE)
	f.must("write new", "ok")
	sh(t, dir, "mv $D/tmp $D/f")
	wantFile(t, s, "f", "new")
}

// TestCreateRace: a name that another mount takes between this one's lookup
// and its create is opened as it is, or refused with O_EXCL.
func TestCreateRace(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{})
	race := func(s *fake) {
		s.before = func(m []wire.Mutation) error {
			s.before = nil
			s.mu.Unlock()
			s.put(m[0].At.Path, "theirs,")
			s.mu.Lock()
			return nil
		}
	}
	s.set(race)
	sh(t, dir, "echo -n ours >> $D/f")
	wantFile(t, s, "f", "theirs,ours")
	s.set(race)
	if out, err := tryShell(t, dir, "set -C; echo ours > $D/g"); err == nil || !strings.Contains(out, "File exists") && !strings.Contains(out, "cannot overwrite") {
		t.Fatalf("O_EXCL: %v %s", err, out)
	}
	wantFile(t, s, "g", "theirs,")
}

// TestStatIsNeverOlder than what was shown: a commit that ends while the
// attributes are on their way.
func TestStatIsNeverOlder(t *testing.T) {
	s := newFake()
	s.put("f", "old")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("pwrite 0 longer", "ok")
	ino := wire.Ino(s.inodeOf("f"))
	s.set(func(s *fake) {
		s.afterRead = func() {
			s.set(func(s *fake) { s.afterRead = nil })
			f.must("fsync", "ok")
		}
	})
	a, err := m.fs.attr(context.Background(), wire.At{Dir: ino})
	if err != nil || a.Size != 6 {
		t.Fatalf("size %d, %v; it was 6 already", a.Size, err)
	}
}

// TestSpill: a file beyond memory is gathered, read, changed and committed
// through the spill file, in bounded memory, and the spill file is closed.
func TestSpill(t *testing.T) {
	s := newFake()
	s.sink = true
	spill := t.TempDir()
	dir, m := mountAt(t, s, Options{SpillDir: spill, Memory: 4 << 20, CommitAfter: time.Hour})
	const size = 64 << 20
	g := openFile(t, dir+"/g", os.O_RDWR|os.O_CREATE)
	s.set(func(s *fake) {
		s.before = func(m []wire.Mutation) error {
			if m[0].At.Path == "" { // a commit
				return fakeErr(wire.CodeUnavailable)
			}
			return nil
		}
	})
	out := sh(t, dir, fmt.Sprintf(`yes | head -c %d > $D.src; cat $D.src > $D/g || true; cksum < $D.src; cksum < $D/g`, size))
	if lines := strings.Fields(strings.Join(strings.Split(out, "\n")[1:], " ")); len(lines) != 4 || lines[0] != lines[2] {
		t.Fatalf("read back while gathered: %s", out)
	}
	s.set(func(s *fake) { s.before = nil })
	sh(t, dir, "cp $D.src $D/f; rm $D.src")
	g.must("fsync", "ok")
	g.must("close", "ok")
	if n := s.sunk.Load(); n < 2*size {
		t.Fatalf("%d bytes came through, want %d", n, 2*size)
	}
	if peak := m.fs.depot.used.Load(); peak > 4<<20 {
		t.Fatalf("%d bytes gathered in memory", peak)
	}
	eventually(t, "the spill files are closed", func() bool { return openUnder(spill) == 0 })
	if left, _ := os.ReadDir(spill); len(left) != 0 {
		t.Fatalf("spill files have names: %v", left)
	}
}

// TestSpillFileHasNoName at any time, where the file system can do so: who is killed
// at the wrong moment leaves nothing. Elsewhere it has none in the end.
func TestSpillFileHasNoName(t *testing.T) {
	for _, tt := range []struct {
		what  string
		make  func(dir string) (*os.File, error)
		named bool // for a moment
	}{{"without a name", spillFile, false}, {"unlinked", unlinkedFile, true}} {
		dir := t.TempDir()
		fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err == nil {
			_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
		}
		if err != nil {
			t.Fatal(err)
		}
		f, err := tt.make(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 1<<20); err != nil {
			t.Error(err)
		}
		b := make([]byte, 1)
		if n, err := f.ReadAt(b, 1<<20); n != 1 || b[0] != 'x' {
			t.Errorf("%s: read back %q, %v", tt.what, b, err)
		}
		events := make([]byte, 4096)
		n, err := unix.Read(fd, events)
		if got := n > 0; got != tt.named || !got && !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: whether a name was made: %v, %v", tt.what, got, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: %v is left, %v", tt.what, left, err)
		}
		if err := errors.Join(f.Close(), unix.Close(fd)); err != nil {
			t.Error(err)
		}
	}
}

// TestSpillDirFull answers ENOSPC and keeps what was there.
func TestSpillDirFull(t *testing.T) {
	spill := t.TempDir()
	if err := syscall.Mount("tmpfs", spill, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("these tests need root for a small file system: %v", err)
	}
	defer syscall.Unmount(spill, syscall.MNT_DETACH)
	s := newFake()
	dir, _ := mountAt(t, s, Options{SpillDir: spill})
	out, err := tryShell(t, dir, "head -c 4000000 /dev/zero > $D/f")
	if err == nil || !strings.Contains(out, "No space left") {
		t.Fatalf("%v: %s", err, out)
	}
	sh(t, dir, "echo small > $D/g; cat $D/g")
	wantFile(t, s, "g", "small\n")
}

// openUnder counts this process's open files under dir.
func openUnder(dir string) (n int) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

// TestCtimeOfAClockAhead: a time that this mount's clock showed for a moment is not
// that of later changes, once what was written then is committed.
func TestCtimeOfAClockAhead(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("pwrite 0 C", "ok")
	n := m.fs.peek(s.inodeOf("f"))
	defer m.fs.letGo(n)
	ahead := time.Now().Add(time.Hour).UnixNano()
	n.mu.Lock()
	n.ctime = ahead
	n.mu.Unlock()
	ctime := func() int64 {
		a, err := m.fs.attr(t.Context(), n.at())
		if err != nil {
			t.Fatal(err)
		}
		return a.Ctime
	}
	if got := ctime(); got != ahead {
		t.Errorf("before the commit the ctime is %d, want that of the change, %d", got, ahead)
	}
	f.must("fsync", "ok")
	f.must("pwrite 1 O", "ok")
	if got := ctime(); got >= ahead {
		t.Errorf("of a later change the ctime is %d still", got)
	}
	n.mu.Lock()
	n.ctime = ahead
	n.forfeitLocked() // as when a lock is lost
	n.mu.Unlock()
	f.must("pwrite 2 N", "ok")
	if got := ctime(); got >= ahead {
		t.Errorf("of a change after one that was given up the ctime is %d still", got)
	}
	f.must("close", "ok")
}
