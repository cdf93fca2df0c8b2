package fusefs

import (
	"math"
	"slices"
)

// untouched is the keep of edits that never cut the file.
const untouched = math.MaxInt64

// edits says which bytes of the gathered contents are ours and which came
// from the base, the version that they were loaded from. When another mount
// commits first, ours are laid over the newer base, as two processes' writes
// to one local file end up in one file:
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

// then returns both edits as one: e first, which left size bytes, then later.
func (e *edits) then(size int64, later edits) edits {
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
	}
	out.keep, out.least = min(out.keep, later.keep), max(out.least, later.least)
	for _, x := range extents {
		out.add(x.from, x.to)
	}
	if out.tail < 0 {
		out.tail = later.tail
	}
	if out.keep != untouched { // all past the cut is ours already
		out.tail = -1
	}
	return out
}

// rebase lays the edits, whose result is ours, over a newer base, which
// becomes the result. It returns what the edits are then.
func (e *edits) rebase(ours, base *contents) (edits, error) {
	size, out := ours.Size(), edits{extents: slices.Clone(e.extents), keep: e.keep, least: e.least, tail: -1}
	limit := min(size, e.keep)
	if e.tail >= 0 {
		limit = min(limit, e.tail)
	}
	if e.keep != untouched && base.Size() > e.keep {
		if err := base.Truncate(e.keep); err != nil {
			return out, err
		}
	}
	for _, x := range e.extents {
		if x.from >= limit {
			break
		}
		if err := base.copyRange(ours, x.from, min(x.to, limit), x.from); err != nil {
			return out, err
		}
	}
	if e.keep != untouched {
		if err := base.copyRange(ours, e.keep, size, e.keep); err != nil {
			return out, err
		}
		return out, base.Truncate(size)
	}
	if e.least > base.Size() {
		if err := base.Truncate(e.least); err != nil {
			return out, err
		}
	}
	if e.tail >= 0 {
		out.tail = base.Size()
		out.extents = clip(out.extents, e.tail)
		return out, base.copyRange(ours, e.tail, size, out.tail)
	}
	return out, nil
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
