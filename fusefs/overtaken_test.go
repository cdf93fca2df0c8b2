package fusefs

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"tpcfs/wire"
)

// What others overtake twice goes on whatever base there is: it waits for who is in its
// way, and that one makes a newer base. A truncation does not, which might cut what others wrote.
func TestOvertakenAgainAndAgain(t *testing.T) {
	for _, tc := range []struct {
		name, do string
		tries    int // until it is done, while every one is overtaken; 0: never
		want     string
	}{
		{"write", "pwrite 100 ours", 3, strings.Repeat("x", 100) + "ours" + strings.Repeat("x", 96) + "their"},
		{"truncation", "truncate 150", 0, ""},
		{"growth", "truncate 500", 0, ""},
	} {
		s := newFake()
		s.put("f", strings.Repeat("x", 200))
		dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour, ConflictWait: 500 * time.Millisecond})
		f := openFile(t, dir+"/f", os.O_RDWR)
		f.must("pwrite 0 x", "ok") // so that a truncation gathers
		f.must(tc.do, "ok")
		tries, guarded := 0, 0
		s.set(func(s *fake) {
			s.before = func(muts []wire.Mutation) error { // each is first in another one's way, then too late
				in, err := s.resolve(wire.At{Dir: wire.RootIno, Path: "f"})
				if err != nil {
					return err
				}
				if tries++; muts[0].IfVersion != 0 {
					guarded++
				}
				in.data = append(bytes.Clone(in.data[:200]), "their"...)
				in.attr.Size, in.attr.Version = 205, s.nextID
				s.nextID++
				if tries == 1 {
					return &wire.Error{Code: wire.CodeConflict, Blocker: in.attr.Version, Key: 1}
				}
				return nil
			}
		})
		if tc.tries == 0 {
			f.must("fsync", "error: resource temporarily unavailable")
			s.set(func(s *fake) { s.before = nil })
			if guarded != tries {
				t.Errorf("%s: %d of %d tries named a version", tc.name, guarded, tries)
			}
			f.must("fsync", "ok")
			continue
		}
		f.must("fsync", "ok")
		s.set(func(s *fake) { s.before = nil })
		if tries != tc.tries || guarded != tc.tries-1 {
			t.Errorf("%s: %d tries, %d named a version", tc.name, tries, guarded)
		}
		wantFile(t, s, "f", tc.want)
		f.must("fsync", "ok")
	}
}

// Who waits for others twice keeps the times that somebody has set, unless it goes on a
// base that it does not know: then the kernel's pages have to go.
func TestOvertakenKeepsTimes(t *testing.T) {
	const set = 1000 * int64(time.Second)
	for _, tc := range []struct {
		name  string
		do    []string
		moved bool
	}{
		{"rewritten", []string{"pwrite 0 x", "truncate 0", "pwrite 0 data"}, false},
		{"cut", []string{"pwrite 0 x", "truncate 150"}, false},
		{"extended", []string{"pwrite 0 x", "truncate 500"}, false},
		{"written", []string{"pwrite 100 ours"}, true},
	} {
		s := newFake()
		s.put("f", strings.Repeat("x", 200))
		dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
		f := openFile(t, dir+"/f", os.O_RDWR)
		for _, do := range tc.do {
			f.must(do, "ok")
		}
		sh(t, dir, "touch -h -d @1000 $D/f") // opens and closes nothing
		left := 2
		s.set(func(s *fake) {
			s.before = func([]wire.Mutation) error {
				if left--; left >= 0 {
					return &wire.Error{Code: wire.CodeConflict, Blocker: wire.ID(left + 1), Key: 1}
				}
				return nil
			}
		})
		f.must("fsync", "ok")
		s.set(func(s *fake) {
			in, err := s.resolve(rootAt("f"))
			if err != nil || left >= 0 {
				t.Fatal(err, left)
			}
			if moved := in.attr.Mtime != set; moved != tc.moved {
				t.Errorf("%s: mtime %d, moved %v", tc.name, in.attr.Mtime, moved)
			}
		})
	}
}

// A file that was empty when this mount looked last, and is overtaken before it has
// looked again: what others have written into it meanwhile stays.
func TestOvertakenInAnEmptyFile(t *testing.T) {
	s := newFake()
	s.put("f", "")
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("pwrite 0 ours", "ok")
	left := 3
	s.set(func(s *fake) {
		s.before = func([]wire.Mutation) error {
			in, err := s.resolve(wire.At{Dir: wire.RootIno, Path: "f"})
			if left--; err != nil || left < 0 {
				return err
			}
			in.data = append(make([]byte, 4), "their"...)
			in.attr.Size, in.attr.Version = int64(len(in.data)), s.nextID
			s.nextID++
			if left == 0 {
				return nil
			}
			return &wire.Error{Code: wire.CodeConflict, Blocker: in.attr.Version, Key: 1}
		}
	})
	f.must("fsync", "ok")
	wantFile(t, s, "f", "ourstheir")
	f.must("read", `"ourstheir"`)
}

// overtake has the next commit of a file overtaken by others' twice, and met by one more
// change before it is done, after meanwhile. It names no version then.
func (f *fake) overtake(name string, meanwhile func(), change func(data []byte) []byte) {
	left := 3
	f.set(func(f *fake) {
		f.before = func([]wire.Mutation) error {
			in, err := f.resolve(wire.At{Dir: wire.RootIno, Path: name})
			if err != nil {
				return err
			}
			if left--; left > 0 {
				return &wire.Error{Code: wire.CodeConflict, Blocker: in.attr.Version, Key: 1}
			}
			f.before = nil
			f.mu.Unlock()
			meanwhile()
			f.mu.Lock()
			in.data = change(in.data)
			in.attr.Size, in.attr.Version = int64(len(in.data)), f.nextID
			f.nextID++
			return nil
		}
	})
}

// commitOf is a commit of a file as the mount makes it by itself.
func commitOf(t *testing.T, m *Mounted, ino wire.Ino) {
	t.Helper()
	n := m.fs.peek(ino)
	defer m.fs.letGo(n)
	fl := startFlight(m.fs, n, wire.Mutation{})
	if <-fl.done; fl.err != nil {
		t.Fatal(fl.err)
	}
}

// After a commit on whatever base there was, nobody takes what this mount knew of the base
// for what is there: what is appended next, by a try whose answer is lost, is found where
// it is, and not appended twice.
func TestOvertakenInAGrowingFile(t *testing.T) {
	for _, during := range []bool{false, true} {
		s := newFake()
		s.put("f", strings.Repeat("x", 100))
		dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
		f, g := openFile(t, dir+"/f", os.O_RDWR), openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND)
		f.must("pwrite 10 ours", "ok")
		s.overtake("f", func() {
			if during {
				g.must("write once", "ok")
			}
		}, func(data []byte) []byte { return append(bytes.Clone(data), "their"...) })
		commitOf(t, m, s.inodeOf("f"))
		if !during {
			g.must("write once", "ok")
		}
		s.set(func(s *fake) {
			s.after = func([]wire.Mutation, wire.Outcome) error { return once(s, wire.CodeUnknownOutcome) }
		})
		g.must("fsync", eio)
		s.append(t, "f", ",more") // with another mtime
		g.must("fsync", "ok")
		wantFile(t, s, "f", strings.Repeat("x", 10)+"ours"+strings.Repeat("x", 86)+"theironce,more")
	}
}

// What others wrote before a commit on whatever base there was is read after it, though
// the time that this mount says its change has was shown before that was done.
func TestOvertakenShowsWhatOthersWrote(t *testing.T) {
	for _, more := range []bool{false, true} {
		s := newFake()
		s.put("f", strings.Repeat("x", 8192))
		dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
		f, g := openFile(t, dir+"/f", os.O_RDWR), openFile(t, dir+"/f", os.O_RDWR)
		f.must("pwrite 0 ours", "ok")
		var mtime string
		s.overtake("f", func() {
			if more {
				g.must("pwrite 4 more", "ok")
			}
			mtime = g.do("size")
			g.do("read")
		}, func(data []byte) []byte { return append(bytes.Clone(data[:8187]), "their"...) })
		commitOf(t, m, s.inodeOf("f"))
		if got := g.do("size"); got != mtime {
			t.Errorf("another mtime, which has the kernel drop its pages: %s, %s before", got, mtime)
		}
		if got := g.do("read"); !strings.HasSuffix(got, `xtheir"`) {
			t.Errorf("more: %v: it reads ...%s", more, got[len(got)-10:])
		}
	}
}
