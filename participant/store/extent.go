package store

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// fileWrite is a write in place, which an apply does in the page cache once it
// knows all of them, and a redo does again.
type fileWrite struct {
	object wire.ID
	make   bool // the object is new
	offset int64
	data   []byte // nil: length zeros
	length int64
	space  bool // nothing is written, but blocks are reserved
}

// edit changes an object's blocks: the checksums of those that it touches are
// loaded, and entered by flush.
type edit struct {
	b     *batch
	n     *inode
	pages map[int64]*editPage
	fresh bool                 // the object is of this mutation
	sums  map[int64]blockCheck // what the PREPARE says of blocks written in part
}

type editPage struct {
	checks []blockCheck // trailing holes may be missing
	had    bool         // a row
}

func (b *batch) edit(n *inode, sums []vote.BlockSum) *edit {
	e := &edit{b: b, n: n, pages: map[int64]*editPage{}, sums: map[int64]blockCheck{}}
	for _, s := range sums {
		e.sums[s.Block] = checkOf(s.Sum, s.Bad)
	}
	return e
}

func checkOf(sum uint32, bad bool) blockCheck {
	if bad {
		return blockCheck{state: blockBad}
	}
	return blockCheck{blockSum, sum}
}

func (e *edit) page(number int64) (*editPage, error) {
	p := e.pages[number]
	if p != nil {
		return p, nil
	}
	key := sumKey(e.n.object, number)
	val, ok, err := e.b.get(key)
	if err != nil {
		return nil, err
	}
	p = &editPage{had: ok}
	if ok {
		if p.checks, err = decodeSums(val); err != nil {
			return nil, e.b.m.s.damage(rowName(key) + ": " + err.Error())
		}
	}
	e.pages[number] = p
	return p, nil
}

func (e *edit) check(block int64) (blockCheck, error) {
	p, err := e.page(block / sumsPerPage)
	if i := block % sumsPerPage; err == nil && i < int64(len(p.checks)) {
		return p.checks[i], nil
	}
	return blockCheck{}, err
}

func (e *edit) set(block int64, c blockCheck) error {
	p, err := e.page(block / sumsPerPage)
	if err != nil {
		return err
	}
	i := block % sumsPerPage
	for int64(len(p.checks)) <= i {
		p.checks = append(p.checks, blockCheck{})
	}
	e.n.blocks += int64(boolInt(c.state.isData()) - boolInt(p.checks[i].state.isData()))
	p.checks[i] = c
	return nil
}

// clear makes holes of [from, to) blocks.
func (e *edit) clear(from, to int64) error {
	pages, err := e.b.pagesFrom(e.n.object, from/sumsPerPage)
	if err != nil {
		return err
	}
	for number := range e.pages {
		pages = append(pages, number)
	}
	for _, number := range pages {
		if e.pages[number] == nil && number != 0 && number*sumsPerPage >= from && (number+1)*sumsPerPage <= to {
			if err := e.clearPage(number); err != nil {
				return err
			}
			continue
		}
		p, err := e.page(number)
		if err != nil {
			return err
		}
		for i := range p.checks {
			if block := number*sumsPerPage + int64(i); block >= from && block < to && p.checks[i].state.isData() {
				p.checks[i] = blockCheck{}
				e.n.blocks--
			}
		}
	}
	return nil
}

// clearPage makes holes of all blocks of a page that was not touched yet, of which nothing
// is kept: a large file has many.
func (e *edit) clearPage(number int64) error {
	p, err := e.page(number)
	if err != nil {
		return err
	}
	for _, c := range p.checks {
		e.n.blocks -= int64(boolInt(c.state.isData()))
	}
	delete(e.pages, number)
	e.b.del(sumKey(e.n.object, number))
	return nil
}

// flush enters what has changed. Equal blocks give equal rows: no trailing
// holes, no empty page but the first.
func (e *edit) flush() {
	for _, number := range slices.Sorted(maps.Keys(e.pages)) {
		p, key := e.pages[number], sumKey(e.n.object, number)
		for len(p.checks) > 0 && !p.checks[len(p.checks)-1].state.isData() {
			p.checks = p.checks[:len(p.checks)-1]
		}
		switch {
		case len(p.checks) > 0 || number == 0:
			e.b.put(key, encodeSums(p.checks), e.fresh)
			e.b.notePage(e.n.object, number)
		case p.had:
			e.b.del(key)
		}
	}
}

func (b *batch) notePage(object wire.ID, number int64) {
	if b.pages[object] == nil {
		b.pages[object] = map[int64]bool{}
	}
	b.pages[object][number] = true
}

// pagesFrom lists an object's pages of checksums from a number on. Holes have
// none: what it costs does not follow from the size.
func (b *batch) pagesFrom(object wire.ID, first int64) ([]int64, error) {
	var list []int64
	prefix := sumKey(object, 0)[:9]
	from := sumKey(object, first)
	for from != "" {
		n, next := 0, ""
		err := b.m.ascend(from, func(key string, _ []byte) (bool, error) {
			if !strings.HasPrefix(key, prefix) {
				return false, nil
			}
			if n++; n > maxTxKeys/2 {
				next = key
				return false, nil
			}
			if _, changed := b.cells[key]; !changed {
				list = append(list, int64(be.Uint32([]byte(key[9:]))))
			}
			return true, nil
		})
		if err != nil {
			return nil, err
		}
		from = next
	}
	for number := range b.pages[object] {
		if number >= first && b.cells[sumKey(object, number)].val != nil {
			list = append(list, number)
		}
	}
	slices.Sort(list)
	return list, nil
}

// part is new bytes for a file: of the payload, or staged.
type part struct {
	from, to int64
	data     []byte
	stage    wire.ID
	staged   *staged // of stage
}

// extents enters a writeFile of parts.
func (b *batch) extents(tx *vote.Tx, i int, n *inode, c *content) error {
	d := &tx.Bounds[i]
	if d.Set&wire.SetSize != 0 {
		if err := b.truncate(n, d.Size, d.Sums); err != nil {
			return err
		}
	}
	if len(c.parts) > 0 || d.Set&wire.SetSize != 0 {
		n.attr.Version = tx.ID
		n.change(tx, d, true)
	}
	if len(c.parts) == 0 {
		return nil
	}
	end := c.parts[len(c.parts)-1].to
	b.resize(n, max(n.attr.Size, end))
	if ok, err := b.takeWhole(n, c.parts); ok || err != nil {
		return err
	}
	staged := slices.ContainsFunc(c.parts, func(p part) bool { return p.stage != 0 })
	if !staged && n.content != contentObject && max(n.valid, end) <= int64(b.m.s.o.InlineMax) {
		return b.patchInline(n, c.parts, end)
	}
	e, err := b.object(n, tx.ID+wire.ID(i), d.Sums)
	if err != nil {
		return err
	}
	if err := e.grow(end); err != nil {
		return err
	}
	touched := map[int64]int{}
	for _, p := range c.parts {
		touched[p.from/wire.BlockSize]++
		if last := (p.to - 1) / wire.BlockSize; last != p.from/wire.BlockSize {
			touched[last]++
		}
	}
	for _, p := range c.parts {
		if err := e.write(p, touched); err != nil {
			return err
		}
	}
	e.flush()
	return nil
}

// takeWhole makes a staged object that covers all contents the file's own.
func (b *batch) takeWhole(n *inode, parts []part) (bool, error) {
	p := &parts[0]
	if len(parts) > 1 || p.stage == 0 || p.from != 0 || p.to < n.valid || p.staged.skew != 0 {
		return false, nil
	}
	if err := b.dropContent(n); err != nil {
		return false, err
	}
	size := n.attr.Size
	b.setContent(n, &content{kind: contentObject, object: p.stage, size: p.to, sums: p.staged.sums}, false)
	b.resize(n, size)
	return true, nil
}

// patchInline rewrites contents that are, and stay, a row.
func (b *batch) patchInline(n *inode, parts []part, end int64) error {
	old, err := b.inlineBytes(n)
	if err != nil {
		return err
	}
	end = max(end, n.valid)
	val := append(make([]byte, 0, end+crcLen), old...)[:end]
	for _, p := range parts {
		if p.data == nil {
			clear(val[p.from:p.to])
		}
		copy(val[p.from:p.to], p.data)
	}
	b.put(inlineKey(n.attr.Ino), val, false)
	n.content, n.valid = contentInline, end
	return nil
}

// inlineBytes returns the contents of a file without an object.
func (b *batch) inlineBytes(n *inode) ([]byte, error) {
	if n.content != contentInline {
		return nil, nil
	}
	val, ok, err := b.get(inlineKey(n.attr.Ino))
	if err == nil && (!ok || int64(len(val)) < n.valid) {
		err = b.m.s.damage(fmt.Sprintf("contents of inode %d are missing", n.attr.Ino))
	}
	if err != nil {
		return nil, err
	}
	return val[:n.valid], nil
}

// object gives a file an object, of that id if it has none, to be changed.
func (b *batch) object(n *inode, id wire.ID, sums []vote.BlockSum) (*edit, error) {
	e := b.edit(n, sums)
	if n.content == contentObject {
		_, err := e.page(0)
		return e, err
	}
	data, err := b.inlineBytes(n)
	if err != nil {
		return nil, err
	}
	if n.content == contentInline {
		b.del(inlineKey(n.attr.Ino))
	}
	n.content, n.object, n.blocks, e.fresh = contentObject, id, 0, true
	e.pages[0] = &editPage{}
	b.writes = append(b.writes, fileWrite{object: id, make: true, data: data, length: int64(len(data))})
	for at := int64(0); at < int64(len(data)); at += wire.BlockSize {
		block := data[at:min(int64(len(data)), at+wire.BlockSize)]
		if err := e.set(at/wire.BlockSize, blockCheck{blockSum, padSum(block)}); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// grow moves the end of what may hold data: the file's bytes between the old
// and the new one have been anything, and count as zeros.
func (e *edit) grow(end int64) error {
	valid := e.n.valid
	if end <= valid {
		return nil
	}
	e.n.valid = end
	if valid%wire.BlockSize == 0 {
		return nil
	}
	last := valid / wire.BlockSize
	c, err := e.check(last)
	if err == nil && c.state.isBytes() {
		e.zero(valid, min(end, (last+1)*wire.BlockSize))
	}
	return err
}

func (e *edit) zero(from, to int64) {
	if from < to {
		e.b.writes = append(e.b.writes, fileWrite{object: e.n.object, offset: from, length: to - from})
	}
}

// write puts a part in place: bytes into the file, a stage into the table (S2).
func (e *edit) write(p part, touched map[int64]int) error {
	first, last := p.from/wire.BlockSize, (p.to-1)/wire.BlockSize
	for block := first; block <= last; block++ {
		start := block * wire.BlockSize
		from, to := max(p.from, start), min(p.to, start+wire.BlockSize)
		c, err := e.check(block)
		if err != nil {
			return err
		}
		if !c.state.isBytes() { // all of it is written
			e.zero(start, from)
			e.zero(to, min(start+wire.BlockSize, e.n.valid))
		}
		now, said := e.sums[block]
		switch {
		case said:
		case touched[block] > 1 || !vote.WholeBlock(block, from, to, e.n.attr.Size):
			return e.unsaid(block)
		case p.stage == 0:
			now = blockCheck{blockSum, padSum(p.data[from-p.from : to-p.from])}
		case p.staged.skew != p.from%wire.BlockSize:
			return e.unsaid(block)
		default:
			now = blockCheck{blockSum, p.staged.sums[block-first]}
		}
		if err := e.set(block, now); err != nil {
			return err
		}
	}
	e.b.ranges = append(e.b.ranges, rangeChange{e.n.object, stagedRange{p.from, p.to, p.stage, p.from}})
	if p.stage != 0 {
		e.b.touched[e.n.object] = true
		e.b.dead = append(e.b.dead, deadObject{p.stage, p.staged.size})
		return nil
	}
	e.b.writes = append(e.b.writes, fileWrite{object: e.n.object, offset: p.from, data: p.data, length: p.to - p.from})
	return nil
}

func (e *edit) unsaid(block int64) error {
	return e.b.m.s.damage(fmt.Sprintf("a prepared transaction writes a part of block %d of inode %d and has no checksum for it", block, e.n.attr.Ino))
}

// changeRange enters an allocate, a punchHole or a zeroRange.
func (b *batch) changeRange(tx *vote.Tx, i int) error {
	d := &tx.Bounds[i]
	n, err := b.inode(d.Ino)
	if err != nil {
		return err
	}
	b.resize(&n, d.Size)
	n.attr.Version = tx.ID
	n.touch(tx.Time, true)
	if d.Length > 0 {
		if err := b.rangeOf(tx, i, &n); err != nil {
			return err
		}
	}
	b.putInode(&n, false)
	return nil
}

func (b *batch) rangeOf(tx *vote.Tx, i int, n *inode) error {
	d := &tx.Bounds[i]
	from, to := d.Offset, d.Offset+d.Length
	punch := d.Kind == wire.MutPunchHole
	if punch && from >= n.valid {
		return nil
	}
	if n.content != contentObject && (punch || max(n.valid, to) <= int64(b.m.s.o.InlineMax)) {
		if punch {
			to = min(to, n.valid)
		}
		parts := []part{{from: from, to: to}}
		if d.Kind == wire.MutAllocate {
			parts = nil
		}
		return b.patchInline(n, parts, to)
	}
	e, err := b.object(n, tx.ID+wire.ID(i), d.Sums)
	if err != nil {
		return err
	}
	if !punch {
		if err := e.grow(to); err != nil {
			return err
		}
	}
	switch d.Kind {
	case wire.MutAllocate:
		err = e.allocate(from, to, false)
	case wire.MutZeroRange:
		err = e.allocate(from, to, true)
	default:
		err = e.punch(from, to)
	}
	if err != nil {
		return err
	}
	e.flush()
	return nil
}

// edges zeroes the bytes of blocks that a range of zeros covers in part, and
// returns the blocks [first, end) that it covers whole.
func (e *edit) edges(from, to int64) (first, end int64, err error) {
	first, end = from/wire.BlockSize, (to+wire.BlockSize-1)/wire.BlockSize
	for _, block := range slices.Compact([]int64{first, end - 1}) {
		if vote.WholeBlock(block, from, to, e.n.attr.Size) {
			continue
		}
		if block == first {
			first++
		} else {
			end--
		}
		if err := e.edge(block, from, to); err != nil {
			return 0, 0, err
		}
	}
	e.b.ranges = append(e.b.ranges, rangeChange{e.n.object, stagedRange{from: from, to: to}})
	return first, max(first, end), nil
}

func (e *edit) edge(block, from, to int64) error {
	c, err := e.check(block)
	if err != nil || !c.state.isBytes() {
		return err
	}
	now, said := e.sums[block]
	if !said {
		return e.unsaid(block)
	}
	start := block * wire.BlockSize
	e.zero(max(from, start), min(to, start+wire.BlockSize, e.n.valid))
	return e.set(block, now)
}

func (e *edit) punch(from, to int64) error {
	first, end, err := e.edges(from, to)
	if err != nil {
		return err
	}
	return e.clear(first, end)
}

// allocate makes data of holes; zero: and zeros of all data.
func (e *edit) allocate(from, to int64, zero bool) error {
	if zero {
		first, end, err := e.edges(from, to)
		if err != nil {
			return err
		}
		for block := first; block < end; block++ {
			if err := e.set(block, blockCheck{state: blockUnwritten}); err != nil {
				return err
			}
		}
	}
	first, end := from/wire.BlockSize, (to+wire.BlockSize-1)/wire.BlockSize
	for block := first; block < end; block++ {
		c, err := e.check(block)
		if err == nil && !c.state.isData() {
			err = e.set(block, blockCheck{state: blockUnwritten})
		}
		if err != nil {
			return err
		}
	}
	from, to = blocksToAllocate(first, end)
	e.b.writes = append(e.b.writes, fileWrite{object: e.n.object, space: true, offset: from, length: to - from})
	return nil
}

// blocksToAllocate returns the bytes of blocks [first, end). The last block of the greatest
// file ends beyond what a file system may have.
func blocksToAllocate(first, end int64) (from, to int64) {
	return first * wire.BlockSize, min(end*wire.BlockSize, wire.MaxFileSize)
}

// truncate sets a file's size. Of what is cut off only metadata tells: bytes
// past valid are zeros, whatever the object holds.
func (b *batch) truncate(n *inode, size int64, sums []vote.BlockSum) error {
	b.resize(n, size)
	if size >= n.valid {
		return nil
	}
	if size == 0 {
		return b.dropContent(n)
	}
	if n.content == contentInline {
		val, err := b.inlineBytes(n)
		if err != nil {
			return err
		}
		n.valid = size
		b.put(inlineKey(n.attr.Ino), append(make([]byte, 0, size+crcLen), val[:size]...), false)
		return nil
	}
	e := b.edit(n, sums)
	if err := e.clear(blocksOf(size), math.MaxInt64); err != nil {
		return err
	}
	n.valid = size
	b.ranges = append(b.ranges, rangeChange{n.object, stagedRange{from: size, to: math.MaxInt64}})
	last := size / wire.BlockSize
	c, err := e.check(last)
	if err != nil {
		return err
	}
	if size%wire.BlockSize != 0 && c.state.isBytes() {
		now, said := e.sums[last]
		if !said {
			return b.m.s.damage(fmt.Sprintf("a prepared transaction cuts inode %d and has no checksum for its end", n.attr.Ino))
		}
		if err := e.set(last, now); err != nil {
			return err
		}
	}
	e.flush()
	return nil
}
