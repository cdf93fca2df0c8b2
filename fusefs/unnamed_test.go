package fusefs

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

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
// out is not open: no handle is left that can read nothing.
func TestOpenMeetsUnlink(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprint("busy=", busy), func(t *testing.T) {
			s := newFake()
			s.put("f", "contents")
			s.put("other", "")
			dir, m := mountAt(t, s, Options{})
			if busy {
				openFile(t, dir+"/other", os.O_RDONLY)
			}
			begun, opened := make(chan struct{}), make(chan struct{})
			s.set(func(s *fake) {
				s.before = func(m []wire.Mutation) error {
					s.before = nil
					s.mu.Unlock()
					close(begun)
					<-opened
					s.mu.Lock()
					return nil
				}
			})
			removed := make(chan string)
			go func() {
				out, err := tryShell(t, dir, "rm $D/f")
				removed <- fmt.Sprint(out, err)
			}()
			<-begun
			flags := t.TempDir()
			read := make(chan string)
			go func() {
				out, _ := tryShell(t, dir, "exec 3<$D/f; touch "+flags+"/open; until [ -e "+flags+"/gone ]; do sleep 0.01; done; cat <&3")
				read <- out
			}()
			ino := s.inodeOf("f")
			eventually(t, "the open is under way", func() bool {
				n := m.fs.peek(ino)
				if n != nil {
					m.fs.letGo(n)
				}
				return n != nil
			})
			for range 20 { // time enough for an open that does not wait
				if _, err := os.Stat(flags + "/open"); err == nil {
					break
				}
				<-time.After(10 * time.Millisecond)
			}
			close(opened)
			if got := <-removed; got != "<nil>" {
				t.Error(got)
			}
			if err := os.WriteFile(flags+"/gone", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := <-read; got != "contents" && !strings.Contains(got, "No such file") {
				t.Errorf("the other one's cat: %q", got)
			}
		})
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
	n.setHeld(true)
	m.fs.signOfLife(now)
	eventually(t, "a sign of life", func() bool { return calls() == 2 })
	m.fs.signOfLife(now.Add(signEvery - 1))
	m.fs.signOfLife(now.Add(signEvery))
	eventually(t, "the next", func() bool { return calls() == 3 })
	n.setHeld(false)
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
