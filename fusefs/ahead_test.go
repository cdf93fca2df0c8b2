package fusefs

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"testing"
	"time"

	"tpcfs/wire"
)

// aheadOptions give a file a head start early, and commit nothing by themselves.
var aheadOptions = Options{AheadFrom: 64 << 10, CommitAfter: time.Hour}

// settled waits until every head start is at its end.
func settled(t *testing.T, s *fake) {
	t.Helper()
	eventually(t, "the head starts end", func() bool { return s.aheads.Load() == 0 })
}

// What is written from one place on is sent while the file is still open, and
// not again with its commit: a new file, one that is cut, a part of one, and
// what comes behind a commit.
func TestAhead(t *testing.T) {
	const n = 300 << 10
	for name, tt := range map[string]struct {
		old         string
		flags, from int
	}{
		"new":    {"", os.O_CREATE, 0},
		"cut":    {strings.Repeat("old", 100<<10), os.O_TRUNC, 0},
		"part":   {strings.Repeat("old", 100<<10), 0, 12345},
		"behind": {strings.Repeat("old", 3333), 0, 9999},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			if tt.old != "" {
				s.put("f", tt.old)
			}
			dir, _ := mountAt(t, s, aheadOptions)
			f := openFile(t, dir+"/f", os.O_RDWR|tt.flags)
			want := []byte(tt.old)
			if tt.flags != 0 {
				want = nil
			}
			for at := tt.from; at < tt.from+2*n; at += n {
				sent, ahead := s.sent.Load(), s.ahead.Load()
				for i := range n / 10240 {
					f.must(fmt.Sprintf("fill %d 10240 %c", at+i*10240, 'a'+i%26), "ok")
					want = append(want, make([]byte, max(0, at+(i+1)*10240-len(want)))...)
					copy(want[at+i*10240:], bytes.Repeat([]byte{byte('a' + i%26)}, 10240))
				}
				eventually(t, "it is sent ahead", func() bool { return s.ahead.Load() >= ahead+256<<10 })
				f.must("fsync", "ok")
				wantFile(t, s, "f", string(want))
				if k := s.sent.Load() - sent; k != 0 {
					t.Errorf("%d bytes are sent again", k)
				}
				if k := s.ahead.Load() - ahead; k != n {
					t.Errorf("%d bytes of %d went ahead", k, n)
				}
			}
			f.must("close", "ok")
			settled(t, s)
		})
	}
}

// Whatever spoils what was sent ahead, the file is what was written.
func TestAheadIsSpoilt(t *testing.T) {
	const n = 200 << 10
	body := func() []byte { return bytes.Repeat([]byte("x"), n) }
	for name, tt := range map[string]struct {
		step string // of the writer, behind the body
		over bool   // the head start is at its end then, before the commit

		unknown bool // the first commit's outcome is
		do      func(s *fake, dir string)
		want    func(b []byte) []byte
	}{
		"overwritten": {step: "pwrite 70000 new", over: true, want: func(b []byte) []byte { copy(b[70000:], "new"); return b }},
		"cut":         {step: "truncate 70000", over: true, want: func(b []byte) []byte { return b[:70000] }},
		"cut, longer": {step: "truncate 300000", want: func(b []byte) []byte { return append(b, make([]byte, 300000-n)...) }},
		"gap":         {step: "pwrite 300000 far", want: func(b []byte) []byte { return append(append(b, make([]byte, 300000-n)...), "far"...) }},
		"before":      {step: "pwrite 0 x", over: true, want: func(b []byte) []byte { return b }},
		"refused": {do: func(s *fake, _ string) {
			s.set(func(s *fake) { s.aheadErr = func(int64) error { return wire.NewError(wire.CodeNoSpace, "") } })
		}, want: func(b []byte) []byte { return b }},
		"refused with the commit": {do: func(s *fake, _ string) {
			s.set(func(s *fake) { s.before = func([]wire.Mutation) error { return once(s, wire.CodeVersion) } })
		}, want: func(b []byte) []byte { return b }},
		"not known to be committed": {do: func(s *fake, _ string) {
			s.set(func(s *fake) {
				s.after = func([]wire.Mutation, wire.Outcome) error { return once(s, wire.CodeUnknownOutcome) }
			})
		}, want: func(b []byte) []byte { return b }, unknown: true},
		"lost at its end": {do: func(s *fake, _ string) {
			s.set(func(s *fake) {
				s.aheadErr = func(sent int64) error {
					if sent+64<<10 > n {
						return wire.NewError(wire.CodeUnavailable, "")
					}
					return nil
				}
			})
		}, want: func(b []byte) []byte { return b }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			dir, _ := mountAt(t, s, aheadOptions)
			f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
			if tt.do != nil {
				tt.do(s, dir)
			}
			f.must(fmt.Sprintf("fill 0 %d x", n), "ok")
			if tt.do == nil {
				eventually(t, "it is sent ahead", func() bool { return s.ahead.Load() >= 128<<10 })
			}
			if tt.step != "" {
				f.must(tt.step, "ok")
			}
			if tt.over {
				settled(t, s)
			}
			if tt.unknown {
				f.must("fsync", "error: input/output error")
			}
			f.must("close", "ok")
			wantFile(t, s, "f", string(tt.want(body())))
			settled(t, s)
		})
	}
}

// once fails the first time; s.mu is held.
func once(s *fake, code wire.Code) error {
	s.before, s.after = nil, nil
	return wire.NewError(code, "")
}

// A file that is deleted, here or by another mount, has no head start any more.
func TestAheadOfWhatIsDeleted(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		s := newFake()
		dir, _ := mountAt(t, s, aheadOptions)
		f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
		f.must("fill 0 204800 x", "ok")
		eventually(t, "it is sent ahead", func() bool { return s.ahead.Load() >= 128<<10 })
		if !elsewhere {
			sh(t, dir, "rm $D/f")
		} else if _, err := s.TransactBehind(context.Background(), nil, []wire.Mutation{{Kind: wire.MutDeleteFile, At: wire.At{Dir: wire.RootIno, Path: "f"}}}, nil); err != nil {
			t.Fatal(err)
		}
		if elsewhere {
			f.do("read") // finds out
		} else {
			f.must("fsync", "ok")
		}
		settled(t, s)
		f.must("close", "ok")
	}
}

// A commit that owns a head start is given up, or finds its file deleted by another
// mount: nothing of it stays, and nothing was written.
func TestAheadOfACommitInVain(t *testing.T) {
	const gone = "the file is deleted"
	for name, giveUp := range map[string]func(s *fake, m *Mounted){
		"its locks are lost": func(s *fake, _ *Mounted) { s.loseLocks(s.inodeOf("f")) },
		"the mount is closed": func(_ *fake, m *Mounted) {
			m.fs.giveUp()
		},
		gone: func(s *fake, _ *Mounted) {
			s.set(func(s *fake) {
				delete(s.inodes, s.inodes[wire.RootIno].names["f"])
				delete(s.inodes[wire.RootIno].names, "f")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			s.put("f", "old")
			dir, m := mountAt(t, s, aheadOptions)
			f := openFile(t, dir+"/f", os.O_RDWR)
			f.lock(t, "ex", "ok")
			f.must("fill 0 204800 x", "ok")
			eventually(t, "it is sent ahead", func() bool { return s.ahead.Load() >= 128<<10 })
			comes, goes := make(chan struct{}), make(chan struct{})
			s.set(func(s *fake) {
				s.waits = func() { comes <- struct{}{}; <-goes }
				s.before = func([]wire.Mutation) error { // it was not sent
					if s.before = nil; name == gone {
						return nil
					}
					return wire.NewError(wire.CodeCanceled, "")
				}
			})
			f.begin("fsync")
			<-comes
			s.set(func(s *fake) { s.waits = nil })
			giveUp(s, m)
			close(goes)
			if got := f.answer(); (got == "ok") != (name == gone) {
				t.Errorf("fsync: %s", got)
			}
			settled(t, s)
			if got, ok := s.file("f"); ok != (name != gone) || ok && got != "old" {
				t.Errorf("the service has %d bytes, %t", len(got), ok)
			}
		})
	}
}

// What was sent ahead and is of no use, since more was written before it, is gone
// before the contents are sent: there may be no room for both. So is what a failed
// commit leaves, and nothing begins anew of what waits for the next try.
func TestAheadOfNoUse(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, aheadOptions)
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("fill 4096 204800 x", "ok")
	eventually(t, "it is sent ahead", func() bool { return s.ahead.Load() >= 128<<10 })
	f.must("fill 0 4096 y", "ok")
	s.set(func(s *fake) {
		s.before = func([]wire.Mutation) error {
			if n := s.aheads.Load(); n != 0 {
				t.Errorf("%d head starts are there when the contents come", n)
			}
			return wire.NewError(wire.CodeNoSpace, "")
		}
	})
	f.must("fsync", "error: no space left on device")
	sent := s.ahead.Load()
	f.must("fill 208896 204800 z", "ok")
	s.set(func(s *fake) { s.before = nil })
	f.must("close", "ok")
	if n := s.ahead.Load() - sent; n != 0 {
		t.Errorf("%d bytes were sent ahead after a commit that failed", n)
	}
	wantFile(t, s, "f", strings.Repeat("y", 4096)+strings.Repeat("x", 204800)+strings.Repeat("z", 204800))
	settled(t, s)
}

// Who writes faster than it is sent waits at last, but not for a service that
// refuses it.
func TestAheadSlowsWriters(t *testing.T) {
	s := newFake()
	o := aheadOptions
	o.AheadMost = 128 << 10
	dir, _ := mountAt(t, s, o)
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	pass := make(chan struct{})
	s.set(func(s *fake) { s.aheadErr = func(int64) error { <-pass; return nil } })
	at := 0
	fill := func() string {
		at += 40960
		return f.do(fmt.Sprintf("fill %d 40960 x", at-40960))
	}
	fills := func(n int) {
		for range n {
			if got := fill(); got != "ok" {
				t.Fatal(got)
			}
		}
	}
	fills(5) // 64 KiB of which are on their way
	waits := make(chan string, 1)
	go func() { waits <- fill() }()
	select {
	case got := <-waits:
		t.Errorf("a writer that is far ahead does not wait: %s", got)
	case <-time.After(200 * time.Millisecond):
		select {
		case pass <- struct{}{}:
		case <-time.After(time.Minute):
			t.Fatal("nothing is sent ahead")
		}
		if got := <-waits; got != "ok" {
			t.Error(got)
		}
	}
	s.set(func(s *fake) { s.aheadErr = func(int64) error { return wire.NewError(wire.CodeUnavailable, "") } })
	close(pass)
	fills(10)
	f.must("close", "ok")
	wantFile(t, s, "f", strings.Repeat("x", at))
	settled(t, s)
}

// Random writes, cuts and commits: the file is what a model says, and what was
// sent ahead is what its contents are (the fake looks).
func TestAheadModel(t *testing.T) {
	s := newFake()
	o := aheadOptions
	o.AheadFrom = 8 << 10
	dir, _ := mountAt(t, s, o)
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	rng := rand.New(rand.NewSource(7))
	var want []byte
	at := 0
	write := func(off, n int, c byte) {
		f.must(fmt.Sprintf("fill %d %d %c", off, n, c), "ok")
		want = append(want, make([]byte, max(0, off+n-len(want)))...)
		copy(want[off:], bytes.Repeat([]byte{c}, n))
	}
	for range 1500 {
		c := byte('a' + rng.Intn(26))
		switch k := rng.Intn(40); {
		case k < 30:
			n := 1 + rng.Intn(9000)
			write(at, n, c)
			at += n
		case k < 32:
			write(rng.Intn(len(want)+100), 1+rng.Intn(3000), c)
		case k < 33:
			at = rng.Intn(len(want) + 5000)
		case k < 34:
			n := rng.Intn(len(want) + 1000)
			f.must(fmt.Sprint("truncate ", n), "ok")
			want = append(want, make([]byte, max(0, n-len(want)))...)[:n]
			at = n
		case k < 37:
			f.must("fsync", "ok")
			wantFile(t, s, "f", string(want))
		}
	}
	f.must("close", "ok")
	wantFile(t, s, "f", string(want))
	settled(t, s)
	if ahead := s.ahead.Load(); ahead < 1<<20 {
		t.Errorf("only %d bytes went ahead", ahead)
	}
}
