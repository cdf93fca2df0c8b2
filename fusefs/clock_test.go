package fusefs

import (
	"os"
	"strings"
	"testing"
	"time"

	"tpcfs/wire"
)

// TestTimesAreTheCoordinators: whatever this machine's clock says, a file's times are
// by the coordinator's, each change has a later ctime than the one before, and what
// fstat has shown of a change that is gathered stays when it is committed.
func TestTimesAreTheCoordinators(t *testing.T) {
	for name, off := range map[string]time.Duration{
		"as here": 0, "this one is ahead": -30 * time.Second, "far ahead": -time.Hour, "this one is behind": 30 * time.Second, "far behind": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			s.leases, s.off = true, off
			dir, _ := mountAt(t, s, Options{CommitAfter: time.Hour})
			began := time.Now().Add(off)
			f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
			last := int64(0)
			ctime := func(when, name string) (now int64) {
				t.Helper()
				out := sh(t, dir, `stat -c %z "$D/`+name+`"`)
				at, err := time.Parse("2006-01-02 15:04:05.999999999 -0700", strings.TrimSpace(out))
				if err != nil {
					t.Fatal(err)
				}
				now = at.UnixNano()
				if now < last {
					t.Errorf("%s the ctime is %v before the last one", when, time.Duration(last-now))
				}
				if at.Before(began.Add(-time.Second)) || at.After(time.Now().Add(off)) {
					t.Errorf("%s the ctime is %v from the coordinator's time", when, time.Until(at.Add(-off)))
				}
				return now
			}
			later := func(when, name string) {
				t.Helper()
				now := ctime(when, name)
				if now == last {
					t.Errorf("%s the ctime is what it was", when)
				}
				last = now
			}
			same := func(when, name string) {
				t.Helper()
				if now := ctime(when, name); now != last {
					t.Errorf("%s the ctime is %v after what fstat has shown", when, time.Duration(now-last))
				}
			}
			later("of a new file", "f")
			for range 3 {
				f.must("write written", "ok")
				later("after a write", "f")
				f.must("fsync", "ok")
				same("after its commit", "f")
				f.must("chmod 384", "ok")
				later("after a chmod", "f")
				f.must("write written", "ok")
				later("after a write", "f")
				f.must("chmod 420", "ok")
				later("after a chmod of what is gathered", "f")
				same("and then", "f")
				sh(t, dir, `mv "$D/f" "$D/g"`)
				later("after a rename", "g")
				f.must("write written", "ok")
				later("after a write", "g")
				sh(t, dir, `mv "$D/g" "$D/f"`)
				later("after a rename of what is gathered", "f")
				f.must("truncate 3", "ok")
				later("after a truncation", "f")
				f.must("fsync", "ok")
			}
			f.must("write written", "ok")
			later("after a write", "f")
			f.must("close", "ok")
			same("after the close", "f")
		})
	}
}

// TestOthersChangesMoveTime: what another mount has changed meanwhile is not later
// than what is gathered here.
func TestOthersChangesMoveTime(t *testing.T) {
	s := newFake()
	s.put("f", "contents")
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	f := openFile(t, dir+"/f", os.O_RDWR)
	f.must("pwrite 0 C", "ok")
	ino := s.inodeOf("f")
	var theirs int64
	s.set(func(s *fake) { // as a chmod does, by a coordinator that is ahead
		in := s.inodes[ino]
		in.attr.Ctime = time.Now().Add(time.Minute).UnixNano()
		theirs = in.attr.Ctime
	})
	a, err := m.fs.attr(t.Context(), wire.At{Dir: ino})
	if err != nil || a.Ctime <= theirs {
		t.Errorf("the ctime of what is gathered is %d, that of an earlier change %d, %v", a.Ctime, theirs, err)
	}
	if again, err := m.fs.attr(t.Context(), wire.At{Dir: ino}); err != nil || again.Ctime != a.Ctime {
		t.Errorf("and then %d, not %d, %v", again.Ctime, a.Ctime, err)
	}
	f.must("close", "ok")
}

func TestClock(t *testing.T) {
	var c clock
	if off := time.Since(time.Unix(0, c.now())); off < 0 || off > time.Minute {
		t.Errorf("before anything is heard it is %v early", off)
	}
	const start = int64(1000 * time.Hour)
	boot := time.Hour
	is := func(what string, want int64) {
		t.Helper()
		if got := c.atLocked(boot); got != want {
			t.Errorf("%s it is %v off", what, time.Duration(got-want))
		}
	}
	c.hear(0, boot)
	if c.time != 0 {
		t.Error("an answer without a time tells one")
	}
	c.hear(start, boot)
	is("after an answer", start)
	boot += 100 * time.Second
	want := start + int64(98*time.Second)
	is("100 s later", want)
	c.hear(want-int64(25*time.Second), boot)
	is("after the answer to a change that took long", want)
	c.hear(want-int64(time.Hour), boot)
	is("after one that took an hour", want)
	c.hearNow(want-int64(25*time.Second), boot-25*time.Second, boot)
	is("after a Watch that took long", want)
	c.hearNow(0, boot, boot)
	is("after a Watch's answer without a time", want)
	c.hearNow(want+1, boot-time.Second, boot)
	is("after a Watch's answer", want+1)
	c.hearNow(want-int64(time.Hour), boot-time.Second, boot)
	is("after the coordinator has lost time", want-int64(time.Hour))
	c.hear(want+int64(time.Hour), boot)
	is("after its time was set forward", want+int64(time.Hour))
}

// TestClockOfASlowCoordinator: while the coordinator's time goes slower by a
// hundredth, what the mount counts is never ahead of it, nor goes back.
func TestClockOfASlowCoordinator(t *testing.T) {
	var c clock
	there, boot := int64(1000*time.Hour), time.Hour
	c.hearNow(there, boot, boot)
	last := there
	for range 1000 {
		for range 10 {
			there += int64(99 * time.Millisecond)
			boot += 100 * time.Millisecond
			now := c.atLocked(boot)
			if now < last || now > there {
				t.Fatalf("it is %v ahead, %v after the last", time.Duration(now-there), time.Duration(now-last))
			}
			last = now
		}
		c.hearNow(there, boot-time.Second, boot)
	}
}

// TestLateAnswer: the answer to a change that comes long after the change's time sets
// no later change's back.
func TestLateAnswer(t *testing.T) {
	s := newFake()
	s.leases = true
	s.put("g", "old")
	ino := s.inodeOf("g")
	s.set(func(s *fake) { s.inodes[ino].attr.Ctime = 1 })
	dir, m := mountAt(t, s, Options{CommitAfter: time.Hour})
	<-m.fs.watched // its answer has told the time
	f := openFile(t, dir+"/f", os.O_RDWR|os.O_CREATE)
	g := openFile(t, dir+"/g", os.O_RDWR)
	f.must("write written", "ok")
	s.set(func(s *fake) { s.late = 25 * time.Second })
	before := m.fs.clock.now()
	f.must("fsync", "ok")
	g.must("write written", "ok")
	a, err := m.fs.attr(t.Context(), wire.At{Dir: ino})
	if err != nil || a.Mtime < before {
		t.Errorf("its mtime is %v in the past, %v", time.Duration(before-a.Mtime), err)
	}
	g.must("close", "ok")
	f.must("close", "ok")
}
