package fusefs

import (
	"math"
	"slices"
)

// untouched is the keep of edits that never cut the file.
const untouched = math.MaxInt64

// edits says which bytes of a file are gathered here; all others are those of
// the base, a version that the service has. When another mount commits first,
// ours lie over the newer base, as two processes' writes to one local file end
// up in one file:
//
//   - a plain write keeps its offset;
//   - what O_APPEND wrote moves to the new end, so that no append is lost;
//   - after a truncation nothing of the base past the cut comes back, and
//     the size is ours.
type edits struct {
	extents []extent // plain writes: sorted, disjoint, not adjacent
	keep    int64    // no byte of the base from here on is left
	least   int64    // the size is this at least: the file was extended
	tail    int64    // where appended bytes begin, up to the end; -1: none
}

type extent struct{ from, to int64 }

func noEdits() edits { return edits{keep: untouched, tail: -1} }

// empty reports that the contents are the base's.
func (e *edits) empty() bool {
	return len(e.extents) == 0 && e.keep == untouched && e.tail < 0 && e.least == 0
}

// needsBase reports whether anything of the base is left in the contents.
func (e *edits) needsBase() bool { return e.keep > 0 }

// write notes a plain write of [from, to) to a file of size bytes.
func (e *edits) write(from, to, size int64) {
	if e.tail >= 0 {
		if from >= e.tail && to <= size {
			return // our own appended bytes, changed
		}
		if to > size {
			e.fix(size)
		}
	}
	e.add(from, to)
}

// append notes an append to a file of size bytes.
func (e *edits) append(size, n int64) {
	switch {
	case e.keep != untouched: // the size is ours: the place is too
		e.add(size, size+n)
	case e.tail < 0:
		e.tail = size
	}
}

// truncate notes a cut or an extension from size bytes to a new size.
func (e *edits) truncate(size, to int64) {
	e.fix(size)
	if to < size {
		e.keep = min(e.keep, to)
		e.extents = clip(e.extents, to)
	}
	if to > size {
		e.least = max(e.least, to)
	} else {
		e.least = min(e.least, to)
	}
}

// fix gives appended bytes the place where they are.
func (e *edits) fix(size int64) {
	if e.tail >= 0 {
		e.add(e.tail, size)
		e.tail = -1
	}
}

// add inserts [from, to), joining what it touches.
func (e *edits) add(from, to int64) {
	if from >= to {
		return
	}
	i, _ := slices.BinarySearchFunc(e.extents, from, func(x extent, at int64) int {
		if x.to < at {
			return -1
		}
		return 1
	})
	j := i
	for j < len(e.extents) && e.extents[j].from <= to {
		from, to = min(from, e.extents[j].from), max(to, e.extents[j].to)
		j++
	}
	e.extents = slices.Replace(e.extents, i, j, extent{from, to})
}

// then returns both edits as one: e first, which left size bytes, then later,
// by which the file has now bytes.
func (e *edits) then(size int64, later edits, now int64) edits {
	out := edits{extents: slices.Clone(e.extents), keep: e.keep, least: e.least, tail: e.tail}
	grew := later.tail > size || later.least > size // by other means than appends
	extents := later.extents
	if later.tail >= 0 {
		extents = clip(extents, later.tail)
	} else if n := len(extents); n > 0 {
		grew = grew || extents[n-1].to > size
	}
	if later.keep != untouched || grew {
		out.fix(size)
	}
	if later.keep != untouched {
		out.least = min(out.least, later.keep)
		out.extents = clip(out.extents, later.keep)
	}
	out.keep, out.least = min(out.keep, later.keep), max(out.least, later.least)
	for _, x := range extents {
		out.add(x.from, x.to)
	}
	if out.tail < 0 {
		out.tail = later.tail
	}
	if out.keep != untouched { // the size is ours: the place is too
		out.fix(now)
	}
	return out
}

// end is where the bytes written and the extension reach, but for what is
// appended behind them.
func (e *edits) end() int64 {
	end := e.least
	if n := len(e.extents); n > 0 {
		end = max(end, e.extents[n-1].to)
	}
	return end
}

// settle gives the extents up to what is appended, which moves by itself.
func (e *edits) settle() edits {
	out := edits{extents: slices.Clone(e.extents), keep: e.keep, least: e.least, tail: e.tail}
	if e.tail >= 0 {
		out.extents = clip(out.extents, e.tail)
	}
	return out
}

// rebase lays the edits, whose bytes are c's, over a base of another size. It
// returns what they are then and who has their bytes: c, or if some had to
// move, others that the caller installs.
func (e *edits) rebase(c *contents, size int64) (edits, *contents, error) {
	if e.keep != untouched { // the size is ours
		return *e, c, nil
	}
	out := e.settle()
	end := max(size, out.end())
	if e.tail < 0 {
		return out, c, c.Truncate(end)
	}
	if e.tail == end {
		return out, c, nil
	}
	moved := newContents(c.depot)
	for _, x := range out.extents {
		if err := moved.copyRange(c, x.from, x.to, x.from); err != nil {
			moved.Close()
			return *e, c, err
		}
	}
	if err := moved.copyRange(c, e.tail, c.Size(), end); err != nil {
		moved.Close()
		return *e, c, err
	}
	out.tail = end
	return out, moved, nil
}

// ours lists the bytes of a file of size bytes that are gathered: sorted,
// disjoint.
func (e *edits) ours(size int64) []extent {
	list := clip(e.extents, size)
	if e.tail >= 0 {
		list = append(clip(list, e.tail), extent{e.tail, size})
	}
	return list
}

// gap is the least range that holds all bytes of [from, to), of a file of size
// bytes, that are the base's; empty: all are ours, or zeros.
func (e *edits) gap(from, to, size int64) extent {
	to = min(to, size, e.keep)
	for _, x := range e.ours(size) {
		if x.from <= from {
			from = max(from, x.to)
		} else if x.to >= to {
			to = min(to, x.from)
		}
	}
	return extent{from, max(from, to)}
}

// lay puts what is gathered, c's bytes, over a base's bytes from off on, with
// zeros behind its end. It returns how many of them the file has.
func (e *edits) lay(c *contents, buf []byte, off int64) (int, error) {
	size := c.Size()
	buf = buf[:max(0, min(int64(len(buf)), size-off))]
	end := off + int64(len(buf))
	if e.keep < end {
		clear(buf[max(0, e.keep-off):])
	}
	for _, x := range e.ours(size) {
		from, to := max(x.from, off), min(x.to, end)
		if from >= to {
			continue
		}
		if n, err := c.ReadAt(buf[from-off:to-off], from); err != nil && int64(n) != to-from {
			return 0, err
		}
	}
	return len(buf), nil
}

// clip drops what lies at or past limit.
func clip(list []extent, limit int64) []extent {
	var out []extent
	for _, x := range list {
		if x.from < limit {
			out = append(out, extent{x.from, min(x.to, limit)})
		}
	}
	return out
}
