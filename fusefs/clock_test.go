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
	there := func(off time.Duration) time.Time { return time.Now().Add(off) }
	near := func(what string, off time.Duration) {
		t.Helper()
		got := time.Unix(0, c.now())
		if want := there(off); got.After(want) || got.Before(want.Add(-time.Minute)) {
			t.Errorf("%s it is %v, want %v", what, got, want)
		}
	}
	near("before anything is heard", 0)
	c.hear(0)
	near("after an answer without a time", 0)
	c.hear(there(-time.Hour).UnixNano())
	near("after an answer", -time.Hour)
	was := c.now()
	c.hear(there(-time.Hour - 5*time.Second).UnixNano())
	if now := c.now(); now < was {
		t.Error("an answer that took long sets the clock back")
	}
	c.hear(there(-2 * time.Hour).UnixNano())
	near("after the coordinator's was set back", -2*time.Hour)
	c.hear(there(time.Hour).UnixNano())
	near("after the coordinator's was set forward", time.Hour)
	c.mu.Lock()
	c.heard -= 1000 * time.Second
	c.time -= int64(1000 * time.Second)
	c.mu.Unlock()
	if late := time.Until(time.Unix(0, c.now()).Add(-time.Hour)); late > -time.Second || late < -2*time.Second {
		t.Errorf("1000 s after an answer it is %v early, want a thousandth", -late)
	}
}
