package fusefs

import (
	"syscall"
	"testing"
	"time"

	"tpcfs/wire"
)

const someTime = 1_700_000_000_000_000_000

var someDir = wire.Attr{Ino: 9, Mode: wire.ModeDir | 0o755, Nlink: 2, Size: 3, Mtime: someTime - 5, Ctime: someTime - 5, Atime: someTime - 9}

// makeIn is a change in someDir and what the service answers.
func makeIn(name string) (*wire.Mutation, *wire.Outcome) {
	at := wire.At{Dir: someDir.Ino, Path: name}
	return &wire.Mutation{Kind: wire.MutWriteFile, At: at, Create: wire.MustNotExist, Mode: 0o640, UID: 3, GID: 4},
		&wire.Outcome{Tx: 77, Time: someTime, Results: []wire.Result{{Ino: 77, Created: true}},
			Touched: &wire.Touched{Inos: []wire.Ino{someDir.Ino, 77}, Names: []wire.At{at}}}
}

func foreseeingCache() *cache {
	c := leasedCacheOf(nil)
	c.keep(c.begin(), someDir)
	return c
}

// learns is a change during which nothing happens.
func learns(c *cache, m *wire.Mutation, out *wire.Outcome) {
	before := c.foresee(m.At)
	c.learn(before, m.At, foreseen(before.was, m, out), out)
}

// TestForesees: what a mount has changed itself it need not read again.
func TestForesees(t *testing.T) {
	c := foreseeingCache()
	m, out := makeIn("new")
	learns(c, m, out)
	want := wire.Attr{Ino: 77, Mode: wire.ModeRegular | 0o640, Nlink: 1, UID: 3, GID: 4, Atime: someTime, Mtime: someTime, Ctime: someTime, Version: 77, NoXattrs: true}
	if a, known, err := c.look(m.At); a != want || !known || err != nil {
		t.Errorf("the new file is %+v, known %v, %v, want %+v", a, known, err, want)
	}
	dir := someDir
	dir.Size, dir.Mtime, dir.Ctime = 4, someTime, someTime
	if a, known, _ := c.look(wire.At{Dir: dir.Ino}); a != dir || !known {
		t.Errorf("its directory is %+v, known %v, want %+v", a, known, dir)
	}
	gone := &wire.Mutation{Kind: wire.MutDeleteFile, At: m.At}
	learns(c, gone, &wire.Outcome{Tx: 78, Time: someTime + 1, Results: []wire.Result{{Ino: 77}}, Touched: out.Touched})
	if _, known, err := c.look(m.At); !known || wire.CodeOf(err) != wire.CodeNotExist {
		t.Errorf("the name that was removed: known %v, %v", known, err)
	}
	if c.knows(wire.At{Dir: 77}) {
		t.Error("the file that was removed is known")
	}
	dir.Size, dir.Mtime, dir.Ctime = 3, someTime+1, someTime+1
	if a, _, _ := c.look(wire.At{Dir: dir.Ino}); a != dir {
		t.Errorf("its directory is %+v, want %+v", a, dir)
	}
}

// TestForeseesNothing where anything may have come between, or is not told.
func TestForeseesNothing(t *testing.T) {
	for name, spoil := range map[string]func(c *cache, m *wire.Mutation, out *wire.Outcome){
		"the directory was touched": func(c *cache, _ *wire.Mutation, _ *wire.Outcome) {
			c.forget(&wire.Touched{Inos: []wire.Ino{someDir.Ino}})
		},
		"... and read again": func(c *cache, _ *wire.Mutation, _ *wire.Outcome) {
			c.forget(&wire.Touched{Inos: []wire.Ino{someDir.Ino}})
			c.keep(c.begin(), someDir)
		},
		"the directory was read meanwhile, with the change in it": func(c *cache, _ *wire.Mutation, _ *wire.Outcome) {
			dir := someDir
			dir.Size++
			c.keep(c.begin(), dir)
		},
		"the new file was touched": func(c *cache, _ *wire.Mutation, _ *wire.Outcome) {
			c.forget(&wire.Touched{Inos: []wire.Ino{77}})
		},
		"the name was touched": func(c *cache, m *wire.Mutation, _ *wire.Outcome) {
			c.forget(&wire.Touched{Names: []wire.At{m.At}})
		},
		"everything was": func(c *cache, _ *wire.Mutation, _ *wire.Outcome) { c.forget(nil) },
		"the coordinator starts again, and a lease begins anew": func(c *cache, _ *wire.Mutation, _ *wire.Outcome) {
			c.end()
			c.forget(&wire.Touched{Wide: true})
			c.extend(bootNow()+time.Hour, false)
			c.keep(c.begin(), someDir)
		},
		"the lease has ended":      func(c *cache, _ *wire.Mutation, _ *wire.Outcome) { c.end() },
		"no time":                  func(_ *cache, _ *wire.Mutation, out *wire.Outcome) { out.Time = 0 },
		"it is not told":           func(_ *cache, _ *wire.Mutation, out *wire.Outcome) { out.Touched = nil },
		"more than is told":        func(_ *cache, _ *wire.Mutation, out *wire.Outcome) { out.Touched = &wire.Touched{Wide: true} },
		"the file was there":       func(_ *cache, _ *wire.Mutation, out *wire.Outcome) { out.Results[0].Created = false },
		"results are not what was": func(_ *cache, _ *wire.Mutation, out *wire.Outcome) { out.Results = nil },
		"another kind of change":   func(_ *cache, m *wire.Mutation, _ *wire.Outcome) { m.Kind = wire.MutRename },
	} {
		c := foreseeingCache()
		m, out := makeIn("new")
		before := c.foresee(m.At)
		spoil(c, m, out)
		c.learn(before, m.At, foreseen(before.was, m, out), out)
		if c.knows(m.At) || c.knows(wire.At{Dir: 77}) || c.knows(wire.At{Dir: someDir.Ino}) {
			t.Errorf("%s: the mount still says what it foresaw", name)
		}
	}
	c := foreseeingCache()
	dir := someDir
	dir.Mode |= syscall.S_ISGID
	c.keep(c.begin(), dir)
	m, out := makeIn("new")
	if learns(c, m, out); c.knows(m.At) {
		t.Error("the group of a file in a set-gid directory is foreseen")
	}
}

// TestForeseesTimesToCome: an mtime that somebody has set to a time to come is
// replaced by that of the next change.
func TestForeseesTimesToCome(t *testing.T) {
	for _, c := range []struct{ mtime, want int64 }{{someTime + 1e9, someTime}, {someTime - 1, someTime}, {1, someTime}} {
		dir := someDir
		dir.Mtime = c.mtime
		m, out := makeIn("new")
		now := foreseen(dir, m, out)
		if now.was.Mtime != c.want || now.was.Ctime != someTime {
			t.Errorf("of %d: %+v", c.mtime, now.was)
		}
		set := &wire.Mutation{Kind: wire.MutSetattr, At: wire.At{Dir: dir.Ino}, Set: wire.SetMode}
		if now := foreseen(dir, set, out); now.was.Mtime != c.mtime {
			t.Errorf("a chmod makes %d %d", c.mtime, now.was.Mtime)
		}
	}
}
