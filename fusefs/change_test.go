package fusefs

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"tpcfs/wire"
)

// modeOf is the mode of a file as the service has it.
func (f *fake) modeOf(name string) (mode uint32) {
	ino := f.inodeOf(name)
	f.set(func(f *fake) { mode = f.inodes[ino].attr.Mode & wire.ModePerm })
	return mode
}

// TestModeBringsTheData: what is gathered goes with a change of mode or owner,
// in one transaction, and with one that changes nothing it goes on gathering.
func TestModeBringsTheData(t *testing.T) {
	s := newFake()
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("write data", "ok")
	calls := s.calls.Load()
	sh(t, dir, fmt.Sprintf("chown %d:%d $D/f; touch -h -d @1000000000 $D/f", os.Getuid(), os.Getgid()))
	wantFile(t, s, "f", "")
	if n := s.calls.Load() - calls; n != 0 {
		t.Fatalf("%d transactions for the owner that the file has already, and times", n)
	}
	if got := sh(t, dir, "chmod 640 $D/f; stat --printf '%a %Y' $D/f"); got != "640 1000000000" {
		t.Fatalf("mode and mtime are %s", got)
	}
	wantFile(t, s, "f", "data")
	if mode := s.modeOf("f"); mode != 0o640 {
		t.Fatalf("the service has mode %o", mode)
	}
	f.must("close", "ok")
	if n := s.calls.Load() - calls; n != 1 {
		t.Fatalf("%d transactions for contents, times and mode, want one", n)
	}
}

// TestModeWithoutTheData: where the contents cannot be committed the mode can.
func TestModeWithoutTheData(t *testing.T) {
	s := newFake()
	s.space = 10
	dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("write 0123456789abc", "ok")
	sh(t, dir, "chmod 640 $D/f")
	if mode := s.modeOf("f"); mode != 0o640 {
		t.Fatalf("the service has mode %o", mode)
	}
	f.must("fsync", "error: no space left on device")
	s.set(func(s *fake) { s.space = 0 })
	f.must("fsync", "ok")
	wantFile(t, s, "f", "0123456789abc")
	if got := sh(t, dir, "stat --printf %a $D/f"); got != "640" {
		t.Fatalf("the mode is %s", got)
	}
}

// TestModeOfOverwritten: another mount's change of the base is no reason to
// lose the mode.
func TestModeOfOverwritten(t *testing.T) {
	s := newFake()
	s.put("f", "..........")
	one, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	two, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
	a, b := openFile(t, one+"/f", os.O_RDWR), openFile(t, two+"/f", os.O_RDWR)
	a.must("pwrite 1 aa", "ok")
	b.must("pwrite 6 bb", "ok")
	b.must("fsync", "ok")
	sh(t, one, "chmod 600 $D/f")
	wantFile(t, s, "f", ".aa...bb..")
	if mode := s.modeOf("f"); mode != 0o600 {
		t.Fatalf("the service has mode %o", mode)
	}
	b.must("read", `".aa...bb.."`)
}

// TestModeRefused: what refuses the mode is no word about the contents.
func TestModeRefused(t *testing.T) {
	s := newFake()
	s.before = func(mutations []wire.Mutation) error {
		for _, m := range mutations {
			if m.Kind == wire.MutSetattr && m.Set&wire.SetMode != 0 {
				return fakeErr(wire.CodePermission)
			}
		}
		return nil
	}
	var log bytes.Buffer
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	f.must("write data", "ok")
	if got := sh(t, dir, "chmod 640 $D/f 2>/dev/null || printf refused"); got != "refused" {
		t.Fatalf("chmod: %q", got)
	}
	n := m.fs.peek(s.inodeOf("f"))
	n.mu.Lock()
	fatal := n.fatal
	n.mu.Unlock()
	m.fs.letGo(n)
	if fatal != nil || log.Len() > 0 {
		t.Errorf("the contents count as refused: %v, %s", fatal, &log)
	}
	f.must("close", "ok")
	wantFile(t, s, "f", "data")
}

// TestModeRidesWithUnknownOutcome: mode and what was appended go in one transaction,
// whose answer is lost. Whether it had happened or not, all of it has, once.
func TestModeRidesWithUnknownOutcome(t *testing.T) {
	for _, happened := range []bool{false, true} {
		s := newFake()
		s.put("f", "old")
		dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
		f := openFile(t, dir+"/f", os.O_RDWR|os.O_APPEND)
		f.must("write new", "ok")
		var rode atomic.Bool
		s.set(func(s *fake) {
			lose := func(m []wire.Mutation) error {
				rode.Store(m[0].Kind == wire.MutWriteFile && m[len(m)-1].Set&wire.SetMode != 0)
				return once(s, wire.CodeUnknownOutcome)
			}
			if happened {
				s.after = func(m []wire.Mutation, _ wire.Outcome) error { return lose(m) }
			} else {
				s.before = lose
			}
		})
		if got := f.do("chmod 384"); got != "ok" && got != eio {
			t.Errorf("happened %t: chmod: %s", happened, got)
		}
		if !rode.Load() {
			t.Fatal("the mode did not go with what was written")
		}
		f.must("fsync", "ok")
		f.must("chmod 384", "ok")
		f.must("write more", "ok")
		f.must("close", "ok")
		wantFile(t, s, "f", "oldnewmore")
		if got := sh(t, dir, "stat -c %a $D/f"); got != "600\n" {
			t.Errorf("happened %t: the mode is %s", happened, got)
		}
	}
}
