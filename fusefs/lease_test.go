package fusefs

import (
	"testing"
	"time"

	"tpcfs/wire"
)

func leasedCacheOf(names map[string]wire.Ino) *cache {
	c := newCache()
	c.extend(bootNow()+time.Hour, false)
	asked := c.begin()
	for name, ino := range names {
		c.keepName(asked, rootAt(name), wire.Attr{Ino: ino})
	}
	return c
}

func rootAt(name string) wire.At { return wire.At{Dir: wire.RootIno, Path: name} }

func (c *cache) knows(at wire.At) bool {
	_, known, _ := c.look(at)
	return known
}

func TestCacheForgetsWhatWasTouched(t *testing.T) {
	c := leasedCacheOf(map[string]wire.Ino{"a": 5, "b": 5, "d": 6, "none": 0})
	if _, known, err := c.look(rootAt("none")); !known || wire.CodeOf(err) != wire.CodeNotExist {
		t.Errorf("a name that is not there: known %v, %v", known, err)
	}
	if a, known, err := c.look(rootAt("b")); !known || err != nil || a.Ino != 5 {
		t.Errorf("b is %+v, %v, %v", a, known, err)
	}
	c.forget(&wire.Touched{Inos: []wire.Ino{5}, Names: []wire.At{rootAt("none")}})
	for name, want := range map[string]bool{"a": false, "b": false, "d": true, "none": false} { // 5 under both its names
		if got := c.knows(rootAt(name)); got != want {
			t.Errorf("%s is known: %v", name, got)
		}
	}
	c.forget(nil)
	if c.knows(rootAt("d")) {
		t.Error("what is touched is not known, and something is still kept")
	}
}

// An answer that was on its way while others changed what it tells is old.
func TestCacheKeepsNoAnswerThatWasTouched(t *testing.T) {
	c := leasedCacheOf(nil)
	for _, touch := range []*wire.Touched{{Inos: []wire.Ino{5}, Names: []wire.At{rootAt("a")}}, {Wide: true}, nil} {
		asked := c.begin()
		c.forget(touch)
		c.keepName(asked, rootAt("a"), wire.Attr{})
		if c.knows(rootAt("a")) {
			t.Errorf("touched %+v meanwhile, and the name is still not there", touch)
		}
		c.keepName(asked, rootAt("a"), wire.Attr{Ino: 5})
		if c.knows(rootAt("a")) || c.knows(wire.At{Dir: 5}) {
			t.Errorf("touched %+v meanwhile, and it is kept", touch)
		}
		c.keepName(c.begin(), rootAt("a"), wire.Attr{Ino: 5})
		if !c.knows(rootAt("a")) {
			t.Error("an answer that was asked for later is not kept")
		}
	}
	asked := c.begin()
	for i := range maxTouches + 10 { // what is remembered is bounded: then nothing asked for before counts
		c.forget(&wire.Touched{Inos: []wire.Ino{wire.Ino(i + 100)}})
	}
	c.keep(asked, wire.Attr{Ino: 100})
	if c.knows(wire.At{Dir: 100}) || len(c.inos) > maxTouches+1 {
		t.Errorf("an answer from before is kept, or %d touches are", len(c.inos))
	}
}

// Without a lease nothing counts, and nothing is kept.
func TestCacheWithoutLease(t *testing.T) {
	c := leasedCacheOf(map[string]wire.Ino{"a": 5})
	c.end()
	c.keepName(c.begin(), rootAt("b"), wire.Attr{Ino: 6})
	c.extend(bootNow()+time.Hour, false)
	if c.knows(rootAt("a")) || c.knows(rootAt("b")) {
		t.Error("what was read without a lease, or under one that was given up, is kept")
	}
	c = leasedCacheOf(map[string]wire.Ino{"a": 5})
	c.until = bootNow()
	if c.knows(rootAt("a")) {
		t.Error("the lease is over, and the mount answers from it")
	}
}

func TestPages(t *testing.T) {
	var p pages
	if p.open(5, 1) {
		t.Error("pages that nobody knows of are kept")
	}
	p.read(5, 1)
	for range 2 {
		if !p.open(5, 1) {
			t.Error("pages of the version are dropped")
		}
	}
	if p.open(5, 2) || p.open(5, 1) {
		t.Error("pages of an older version are kept, or come back")
	}
	p.read(5, 1)
	p.read(5, 2)
	if p.open(5, 2) || p.open(5, 1) {
		t.Error("pages of two versions are kept")
	}
	p.read(5, 1)
	p.wrote(5)
	if p.open(5, 1) {
		t.Error("written pages are kept")
	}
}

// The kernel looks up again what turned out to be gone: the names that led there
// are not kept for it, nor an answer that was on its way.
func TestCacheOfWhatVanished(t *testing.T) {
	c := leasedCacheOf(map[string]wire.Ino{"a": 5, "b": 5, "d": 6})
	asked := c.begin()
	c.vanished(5)
	c.keepName(asked, rootAt("a"), wire.Attr{Ino: 5})
	for name, want := range map[string]bool{"a": false, "b": false, "d": true} {
		if got := c.knows(rootAt(name)); got != want {
			t.Errorf("%s is known: %v", name, got)
		}
	}
	c.keepName(c.begin(), rootAt("a"), wire.Attr{Ino: 7})
	if a, known, err := c.look(rootAt("a")); !known || err != nil || a.Ino != 7 {
		t.Errorf("a is %+v, %v, %v", a, known, err)
	}
}
