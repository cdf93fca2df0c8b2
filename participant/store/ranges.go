package store

import (
	"errors"
	"io/fs"
	"math"
	"slices"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// stagedRange is a part of an object whose bytes are still in a staged object:
// reads look there first, and a checkpoint copies them. Without a stage it
// stands for bytes that are in the object's own file.
type stagedRange struct {
	from, to int64   // in the object
	stage    wire.ID // 0: none
	base     int64   // where the stage's first byte belongs
}

type rangeChange struct {
	object wire.ID
	stagedRange
}

// cut returns the ranges without what lies in [from, to). It makes a new list:
// readers keep theirs.
func cut(list []stagedRange, from, to int64) []stagedRange {
	var left []stagedRange
	for _, r := range list {
		before, after := r, r
		before.to, after.from = min(r.to, from), max(r.from, to)
		if before.from < before.to {
			left = append(left, before)
		}
		if after.from < after.to {
			left = append(left, after)
		}
	}
	return left
}

// put returns the ranges with one on top.
func put(list []stagedRange, r stagedRange) []stagedRange {
	list = cut(list, r.from, r.to)
	if r.stage != 0 {
		i := 0
		for i < len(list) && list[i].from < r.from {
			i++
		}
		list = slices.Insert(list, i, r)
	}
	return list
}

// changeRange enters what an apply has changed. Store.mu is held.
func (t *table) changeRange(c rangeChange, enter bool) {
	if len(t.ranges[c.object]) == 0 && (!enter || c.stage == 0) {
		return
	}
	if !enter {
		c.stage = 0
	}
	if list := put(t.ranges[c.object], c.stagedRange); len(list) > 0 {
		t.ranges[c.object] = list
	} else {
		delete(t.ranges, c.object)
	}
}

// rangesLocked returns an object's ranges as they are now, in [from, to).
func (s *Store) rangesLocked(object wire.ID, from, to int64) []stagedRange {
	var list []stagedRange
	if s.frozen != nil {
		list = s.frozen.ranges[object]
	}
	for _, r := range s.active.ranges[object] {
		list = put(list, r)
	}
	if len(list) == 0 {
		return nil
	}
	list = cut(list, to, math.MaxInt64)
	return cut(list, 0, from)
}

// copyStep is how much of a staged extent is copied at a time, in bytes.
const copyStep = 1 << 20

// copyStaged brings staged extents to where they belong, before the objects are
// synced (S3). An apply that meanwhile puts something else there takes the
// range away; the two never write at once.
func (c *Checkpoint) copyStaged() error {
	s := c.s
	s.mu.RLock()
	ids := make([]wire.ID, 0, len(c.table.ranges))
	step := int64(0)
	for id, list := range c.table.ranges {
		ids = append(ids, id)
		for _, r := range list {
			step = max(step, min(r.to-r.from, copyStep))
		}
	}
	s.mu.RUnlock()
	slices.Sort(ids)
	buf := make([]byte, step)
	return c.each(len(ids), func(i int) error {
		b := buf
		if s.o.Workers > 1 {
			b = make([]byte, step)
		}
		return c.copyObject(ids[i], b)
	})
}

func (c *Checkpoint) copyObject(id wire.ID, buf []byte) error {
	var from wire.ID
	var in disk.File
	defer func() {
		if in != nil {
			closeRead(in)
		}
	}()
	for at := int64(0); ; {
		p := c.s.hold(id)
		r, ok := c.nextRange(id, at, int64(len(buf)))
		if !ok {
			c.s.letGo(id, p)
			return nil
		}
		if in == nil || from != r.stage {
			if in != nil {
				closeRead(in)
			}
			var err error
			if in, err = c.s.fs.Open(c.s.objectPath(r.stage)); err != nil {
				in = nil
				if ofProcess(err) { // it is unlinked at the end of this checkpoint
					c.s.letGo(id, p)
					return c.s.fail("open", c.s.objectPath(r.stage), err)
				}
				c.s.log.Error("staged contents are lost; the file's checksums tell", "file", c.s.objectPath(r.stage), "error", err)
			}
			from = r.stage
		}
		err := c.copyRange(p, id, r, in, buf[:r.to-r.from])
		c.s.letGo(id, p)
		if err != nil {
			return err
		}
		at = r.to
	}
}

// nextRange returns what is to be copied next, at most step bytes.
func (c *Checkpoint) nextRange(id wire.ID, at, step int64) (stagedRange, bool) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	for _, r := range c.table.ranges[id] {
		if r.to > at {
			r.from = max(r.from, at)
			r.to = min(r.to, r.from+step)
			return r, true
		}
	}
	return stagedRange{}, false
}

// copyRange copies while p is held. What cannot be read is left out: the
// block's checksum, which is the stage's, does not match then.
func (c *Checkpoint) copyRange(p *pin, id wire.ID, r stagedRange, in disk.File, buf []byte) error {
	if in == nil {
		return nil
	}
	n, err := readUpTo(in, buf, r.from-r.base)
	if ofProcess(err) {
		return c.s.fail("read", c.s.objectPath(r.stage), err)
	}
	if err != nil {
		c.s.log.Error("staged contents cannot be read; the file's checksums tell", "file", c.s.objectPath(r.stage), "offset", r.from-r.base, "error", err)
		return nil
	}
	out := c.table.dirty[id]
	c.s.keepOld(p, out, r.from, r.from+int64(n))
	err = c.s.withBallast(func() error {
		_, err := out.WriteAt(buf[:n], r.from)
		return err
	})
	if err != nil {
		return c.s.fail("write", c.s.objectPath(id), err)
	}
	return nil
}

// writeOut does an apply's writes, into the page cache.
func (s *Store) writeOut(b *batch) error {
	dead := map[wire.ID]bool{}
	for _, d := range b.dead {
		dead[d.id] = true
	}
	for i := range b.writes {
		w := &b.writes[i]
		if dead[w.object] {
			continue
		}
		f, err := s.dirtyFile(w.object, w.make)
		if err == nil {
			err = s.withBallast(func() error { return w.do(f) })
		}
		if err != nil {
			return s.fail("write", s.objectPath(w.object), err)
		}
	}
	for id := range b.touched {
		if dead[id] {
			continue
		}
		if _, err := s.dirtyFile(id, false); err != nil {
			return s.fail("open", s.objectPath(id), err)
		}
	}
	return nil
}

func (w *fileWrite) do(f disk.File) error {
	switch {
	case w.length == 0:
		return nil
	case w.space:
		return f.AllocateRange(w.offset, w.length)
	case w.data != nil:
		_, err := f.WriteAt(w.data, w.offset)
		return err
	}
	for at := int64(0); at < w.length; at += wire.BlockSize {
		if _, err := f.WriteAt(zeroBlock[:min(wire.BlockSize, w.length-at)], w.offset+at); err != nil {
			return err
		}
	}
	return nil
}

// dirtyFile returns an object's file, which stays open until a checkpoint has
// synced it (S3).
func (s *Store) dirtyFile(id wire.ID, fresh bool) (disk.File, error) {
	if f := s.active.dirty[id]; f != nil {
		return f, nil
	}
	if fresh {
		s.objects.become(id, stateDirty, 0, nil)
	}
	name := s.objectPath(id)
	f, err := s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) { // new, or lost: then the checksums of its blocks tell
		err = s.withBallast(func() (err error) {
			f, err = s.fs.Create(name)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	s.active.dirty[id] = f
	return f, nil
}
