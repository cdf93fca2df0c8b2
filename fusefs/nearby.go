package fusefs

import (
	"context"
	"slices"
	"strings"

	"tpcfs/wire"
)

// Who looks at several files of a directory, by name and without having listed it - git
// status does, make, a compiler -, will look at more of them. So the mount asks for them
// all at once when that costs about as much as what it has asked for one by one already.
// Names that are made do not count: that there is none of a name tells nothing of others.

const (
	maxNearby = 500 // entries of a directory that is listed so: one answer
	worth     = 50  // entries of a list that cost about as much as one question more
)

// nearby is what was asked for, one by one, of a directory's files.
type nearby struct {
	found int // since it was listed last
	lists int
}

// lookNear answers a stat of a name that is not known.
func (f *fileSystem) lookNear(ctx context.Context, at wire.At) (wire.Attr, error) {
	if f.cached.listNear(at) {
		if _, err := f.readNames(ctx, at.Dir); err == nil {
			if a, known, err := f.cached.look(at); known {
				return a, err
			}
		} // else the question about the name tells what is wrong
	}
	a, err := f.stat(ctx, at)
	if err == nil {
		f.cached.foundNear(at)
	}
	return a, err
}

// listNear reports that the directory of a name is to be listed: each time for twice
// as many questions, since others may be making files there.
func (c *cache) listNear(at wire.At) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.near[at.Dir]
	dir, known := c.attrs[at.Dir]
	_, listed := c.told[at.Dir][question{kind: wire.ReadList}] // what is not known by now was touched
	if n.found == 0 || !known || listed || dir.Size > maxNearby || bootNow() >= c.until {
		return false
	}
	if int64(n.found+1)*worth < dir.Size<<n.lists {
		return false
	}
	c.near[at.Dir] = nearby{lists: min(n.lists+1, 16)}
	return true
}

// foundNear notes that a name was asked for and found.
func (c *cache) foundNear(at wire.At) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.near) >= maxTouches {
		clear(c.near)
	}
	n := c.near[at.Dir]
	n.found++
	c.near[at.Dir] = n
}

// absentLocked: is the directory's list known, of one moment, without that name? Between two
// answers a name may have moved from what was to come to what was there. c.mu is held.
func (c *cache) absentLocked(at wire.At) bool {
	whole, known := c.told[at.Dir][question{kind: wire.ReadList}]
	if !known || !whole.once {
		return false
	}
	_, found := slices.BinarySearchFunc(whole.list, at.Path, func(n dirName, name string) int { return strings.Compare(n.name, name) })
	return !found
}
