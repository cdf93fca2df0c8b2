package forget

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"tpcfs/journal/disk"
)

const (
	pageSize   = 4096
	sectorSize = 512
	perPage    = pageSize / sectorSize
	// maxFile is the greatest size of a file in bytes, ext4's.
	maxFile = 16<<40 - 4<<10
)

// node is a file or a directory.
type node struct {
	dir bool

	// Of a directory: what is seen, and what a crash leaves at least.
	names, durable map[string]*node

	// Of a file.
	pages    map[int64]*page
	size     int64 // as seen
	diskSize int64 // as a crash leaves it at least
	links    int   // names, as seen
	opens    int   // open handles
	released bool  // its space was given back
}

// page is 4 KiB of a file; nil contents are zeros. When both are the same
// array, it is copied before a write.
type page struct {
	mem    *[pageSize]byte // as reads see it
	disk   *[pageSize]byte // as the disk has it
	dirty  uint8           // sectors of mem that are to be written
	shared bool            // mem is an image's, too
	rot    map[int]masks   // bits that FlipBit has changed, by byte
	// allocated: by AllocateRange; it stays, also beyond the end.
	allocated bool
}

// masks are flipped bits of a byte, in the cache and on the disk.
type masks struct{ mem, disk byte }

// rots changes the masks of the bytes [from, to).
func (p *page) rots(from, to int, fn func(m masks) masks) {
	for at, m := range p.rot {
		if at < from || at >= to {
			continue
		}
		if m = fn(m); m == (masks{}) {
			delete(p.rot, at)
		} else {
			p.rot[at] = m
		}
	}
}

func written(m masks) masks { return masks{m.mem, m.mem} }
func dropped(m masks) masks { return masks{m.disk, m.disk} }
func covered(m masks) masks { return masks{0, m.disk} }

// mend flips back what is still flipped.
func (p *page) mend() {
	restored := func(src *[pageSize]byte, of func(masks) byte) *[pageSize]byte {
		if src == nil {
			return nil
		}
		c := *src // other images may share it
		for at, m := range p.rot {
			c[at] ^= of(m)
		}
		return &c
	}
	mem := restored(p.mem, func(m masks) byte { return m.mem })
	if p.mem == p.disk {
		p.disk = mem
	} else {
		p.disk = restored(p.disk, func(m masks) byte { return m.disk })
	}
	p.mem, p.rot = mem, nil
}

func newDir() *node {
	return &node{dir: true, names: map[string]*node{}, durable: map[string]*node{}}
}

func newFile() *node { return &node{pages: map[int64]*page{}, opens: 1} }

func (n *node) allocated() int64 { return int64(len(n.pages)) * pageSize }

// sector returns the s'th sector of a page's contents.
func sector(p *[pageSize]byte, s int) []byte { return p[s*sectorSize : (s+1)*sectorSize] }

var zeroes [pageSize]byte

// put copies a sector of mem to the disk.
func (p *page) put(s int) {
	switch {
	case p.disk == p.mem:
		return
	case p.disk == nil:
		p.disk = new([pageSize]byte)
	default:
		// Crash images share pages with each other.
		c := *p.disk
		p.disk = &c
	}
	if p.mem == nil {
		copy(sector(p.disk, s), zeroes[:])
	} else {
		copy(sector(p.disk, s), sector(p.mem, s))
	}
	p.rots(s*sectorSize, (s+1)*sectorSize, written)
}

// flush writes what is dirty.
func (p *page) flush() {
	switch {
	case p.dirty == 0:
	case p.dirty == 0xff || p.disk == nil && p.mem != nil && p.clean() == zeroes:
		p.disk = p.mem
		p.rots(0, pageSize, written)
	default:
		for s := range perPage {
			if p.dirty&(1<<s) != 0 {
				p.put(s)
			}
		}
		p.share()
	}
	p.dirty = 0
}

// clean is mem with zeros for its dirty sectors.
func (p *page) clean() [pageSize]byte {
	c := *p.mem
	for s := range perPage {
		if p.dirty&(1<<s) != 0 {
			clear(sector(&c, s))
		}
	}
	return c
}

// share lets a page without differences take memory once.
func (p *page) share() {
	if p.mem != nil && p.disk != nil && p.mem != p.disk && *p.mem == *p.disk {
		p.disk = p.mem
		p.rots(0, pageSize, written)
	}
}

// drop forgets clean sectors, so that the disk's are seen.
func (p *page) drop() {
	if p.mem == p.disk {
		return
	}
	m := new([pageSize]byte)
	for s := range perPage {
		src := p.disk
		if p.dirty&(1<<s) != 0 {
			src = p.mem
		} else {
			p.rots(s*sectorSize, (s+1)*sectorSize, dropped)
		}
		if src != nil {
			copy(sector(m, s), sector(src, s))
		}
	}
	p.mem = m
	p.share()
}

// modify gives contents that may be written to; whole: all of them will be.
func (p *page) modify(whole bool) *[pageSize]byte {
	switch {
	case p.mem != nil && p.mem != p.disk && p.dirty != 0 && !p.shared:
		return p.mem
	case p.mem == nil || whole:
		p.mem = new([pageSize]byte)
	default:
		c := *p.mem // the disk, or the image of another crash, may share it
		p.mem = &c
	}
	p.shared = false
	return p.mem
}

// flip changes a bit on the disk and as seen.
func (n *node) flip(bit int64) {
	at := bit / 8
	p := n.pages[at/pageSize]
	if p == nil {
		p = &page{}
		n.pages[at/pageSize] = p
	}
	if p.rot == nil {
		p.rot = map[int]masks{}
	}
	m := p.rot[int(at%pageSize)]
	m.mem, m.disk = m.mem^1<<(bit%8), m.disk^1<<(bit%8)
	p.rot[int(at%pageSize)] = m
	p.rots(int(at%pageSize), int(at%pageSize)+1, func(m masks) masks { return m }) // flipped twice is not flipped
	one := func(src *[pageSize]byte) *[pageSize]byte {
		var c [pageSize]byte
		if src != nil {
			c = *src
		}
		c[at%pageSize] ^= 1 << (bit % 8)
		return &c
	}
	if p.mem == p.disk {
		p.mem = one(p.mem)
		p.disk = p.mem
		return
	}
	p.mem, p.disk = one(p.mem), one(p.disk)
}

// write puts b into the cache. Before an unsynced sector is overwritten, rng
// decides whether it had reached the disk.
func (n *node) write(b []byte, at int64, rng *rand.Rand) {
	n.size = max(n.size, at+int64(len(b)))
	for len(b) > 0 {
		p := n.pages[at/pageSize]
		if p == nil {
			p = &page{}
			n.pages[at/pageSize] = p
		}
		in := int(at % pageSize)
		k := min(len(b), pageSize-in)
		mask := uint8(0)
		for s := in / sectorSize; s <= (in+k-1)/sectorSize; s++ {
			mask |= 1 << s
			if p.dirty&(1<<s) != 0 && rng.IntN(4) == 0 {
				p.put(s)
			}
		}
		copy(p.modify(k == pageSize)[in:], b[:k])
		p.rots(in, in+k, covered)
		p.dirty |= mask
		b, at = b[k:], at+int64(k)
	}
}

func (n *node) read(b []byte, at int64) int {
	if at >= n.size {
		return 0
	}
	b = b[:min(int64(len(b)), n.size-at)]
	total := len(b)
	for len(b) > 0 {
		in := int(at % pageSize)
		k := min(len(b), pageSize-in)
		if p := n.pages[at/pageSize]; p != nil && p.mem != nil {
			copy(b[:k], p.mem[in:])
		} else {
			clear(b[:k])
		}
		b, at = b[k:], at+int64(k)
	}
	return total
}

// truncate sets the size; what is cut off reads as zeros from then on.
func (n *node) truncate(size int64, rng *rand.Rand) {
	if size < n.size {
		for _, i := range slices.Sorted(maps.Keys(n.pages)) {
			from := max(size, i*pageSize)
			if from >= (i+1)*pageSize {
				continue
			}
			if p := n.pages[i]; p.mem != nil || p.disk != nil {
				n.write(make([]byte, (i+1)*pageSize-from), from, rng)
			}
		}
	}
	n.size = size
}

// sync writes everything.
func (n *node) sync() {
	for i, p := range n.pages {
		p.flush()
		if i*pageSize >= n.size && !p.allocated {
			delete(n.pages, i)
		}
	}
	n.diskSize = n.size
}

// failSync writes some of what is dirty and calls it all clean.
func (n *node) failSync(rng *rand.Rand) {
	for _, i := range slices.Sorted(maps.Keys(n.pages)) {
		p := n.pages[i]
		for s := range perPage {
			if p.dirty&(1<<s) != 0 && rng.IntN(2) == 0 {
				p.put(s)
			}
		}
		p.dirty = 0 // mem stays as it is
	}
}

// change is a change of directories that is not durable: a name that comes, a
// name that goes, or both.
type change struct {
	from     *node // nil: the node is new
	fromName string
	to       *node // nil: the node is removed
	toName   string
	node     *node
}

// apply makes a change durable, if what it builds upon is.
func (c *change) apply() {
	if c.from != nil && c.from.durable[c.fromName] != c.node {
		return
	}
	if c.from != nil {
		delete(c.from.durable, c.fromName)
	}
	if c.to != nil {
		c.to.durable[c.toName] = c.node
	}
}

// syncDirLocked makes a directory's names durable. A rename into it is durable
// then, but the old name in another directory may come back until that one is
// synced too; a rename out of it is durable as a whole.
func (f *FS) syncDirLocked(n *node) {
	rest := f.pending[:0]
	for _, c := range f.pending {
		switch {
		case c.from != nil && c.to != nil && c.from != c.to && c.to == n:
			c = &change{from: c.from, fromName: c.fromName, node: c.node}
			rest = append(rest, c)
		case c.from != nil && c.to != nil && c.from != c.to && c.from == n:
			c.to.durable[c.toName] = c.node
		case c.from == n || c.to == n:
		default:
			rest = append(rest, c)
		}
	}
	clear(f.pending[len(rest):])
	f.pending = rest
	n.durable = maps.Clone(n.names)
}

// file is an open file.
type file struct {
	fs     *FS
	node   *node
	name   string
	boot   int
	closed bool
	direct bool
}

// before also checks the handle.
func (h *file) before(op Op) error {
	op.Name = h.name
	if err := h.fs.before(op); err != nil {
		return err
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	if h.boot != h.fs.boot {
		return ErrCrashed
	}
	return h.fs.aliveLocked()
}

func (h *file) ReadAt(b []byte, at int64) (int, error) {
	if err := h.before(Op{Kind: Read, Offset: at, Length: int64(len(b))}); err != nil {
		return 0, pathError("read", h.name, err)
	}
	if at < 0 {
		return 0, pathError("read", h.name, syscall.EINVAL)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	n := h.node.read(b, at)
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) WriteAt(b []byte, at int64) (int, error) {
	err := h.before(Op{Kind: Write, Offset: at, Length: int64(len(b))})
	var short *ShortWrite
	switch {
	case errors.As(err, &short):
		b = b[:min(len(b), max(0, short.N))]
	case err != nil:
		return 0, pathError("write", h.name, err)
	case at < 0, h.direct && (at%disk.Unit != 0 || len(b)%disk.Unit != 0):
		return 0, pathError("write", h.name, syscall.EINVAL)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if full := h.fs.growLocked(h.node, at, int64(len(b))); full != nil {
		h.fs.tellFullLocked(full, Op{Kind: Write, Name: h.name, Offset: at, Length: int64(len(b))})
		return 0, pathError("write", h.name, full)
	}
	h.node.write(b, at, h.fs.rng)
	if short != nil {
		return len(b), pathError("write", h.name, short.Err)
	}
	return len(b), nil
}

func (f *FS) tellFullLocked(err error, op Op) {
	if f.full != nil && errors.Is(err, syscall.ENOSPC) {
		f.full(op)
	}
}

// growLocked accounts for the pages of a range that are not there yet.
func (f *FS) growLocked(n *node, at, length int64) error {
	if at > maxFile-length {
		return syscall.EFBIG
	}
	var missing []int64
	for i := at / pageSize; i*pageSize < at+length; i++ {
		if n.pages[i] == nil {
			missing = append(missing, i)
		}
	}
	need := int64(len(missing)) * pageSize
	if f.capacity > 0 && need > 0 && f.used+need > f.capacity {
		return syscall.ENOSPC
	}
	for _, i := range missing {
		n.pages[i] = &page{}
	}
	f.used += need
	return nil
}

func (h *file) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return pathError("close", h.name, fs.ErrClosed)
	}
	h.closed = true
	h.node.opens--
	h.fs.release(h.node)
	if h.fs.dead || h.boot != h.fs.boot {
		return pathError("close", h.name, ErrCrashed)
	}
	return nil
}

func (h *file) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return 0, pathError("stat", h.name, fs.ErrClosed)
	}
	return h.node.size, h.fs.aliveLocked()
}

func (h *file) Truncate(size int64) error {
	err := h.before(Op{Kind: Truncate, Length: size})
	if err == nil && size < 0 {
		err = syscall.EINVAL
	}
	if err != nil {
		return pathError("truncate", h.name, err)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	before := h.node.allocated()
	h.node.truncate(size, h.fs.rng)
	h.fs.used += h.node.allocated() - before
	return nil
}

func (h *file) Sync() error {
	err := h.before(Op{Kind: Sync})
	if errors.Is(err, Lie) {
		return nil
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err != nil {
		if !h.fs.dead && !h.closed && h.boot == h.fs.boot {
			h.node.failSync(h.fs.rng)
		}
		return pathError("sync", h.name, err)
	}
	before := h.node.allocated()
	h.node.sync()
	h.fs.used += h.node.allocated() - before
	return nil
}

// Direct changes nothing else: a disk has a cache of its own.
func (h *file) Direct() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	h.direct = true
	return h.fs.aliveLocked()
}

func (h *file) StartWriteback(offset, length int64) error {
	if err := h.before(Op{Kind: Writeback, Offset: offset, Length: length}); err != nil {
		return pathError("writeback", h.name, err)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	for i := offset / pageSize; i*pageSize < offset+length; i++ {
		p := h.node.pages[i]
		if p == nil {
			continue
		}
		for s := range perPage {
			if p.dirty&(1<<s) != 0 && h.fs.rng.IntN(2) == 0 {
				p.put(s)
			}
		}
	}
	return nil
}

func (h *file) Allocate(size int64) error {
	if err := h.before(Op{Kind: Allocate, Length: size}); err != nil {
		return pathError("allocate", h.name, err)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.growLocked(h.node, 0, size); err != nil {
		h.fs.tellFullLocked(err, Op{Kind: Allocate, Name: h.name, Length: size})
		return pathError("allocate", h.name, err)
	}
	h.node.size = max(h.node.size, size)
	return nil
}

func (h *file) AllocateRange(offset, length int64) error {
	op := Op{Kind: Allocate, Offset: offset, Length: length}
	if err := h.before(op); err != nil {
		return pathError("allocate", h.name, err)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.growLocked(h.node, offset, length); err != nil {
		op.Name = h.name
		h.fs.tellFullLocked(err, op)
		return pathError("allocate", h.name, err)
	}
	for i := offset / pageSize; i*pageSize < offset+length; i++ {
		h.node.pages[i].allocated = true
	}
	return nil
}

func (h *file) DropCache() error {
	if err := h.before(Op{Kind: DropCache}); err != nil {
		return pathError("dropcache", h.name, err)
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	for _, p := range h.node.pages {
		p.drop()
	}
	return nil
}

// Crash stops this file system, and returns what the next start finds: what
// was synced, and of the rest what rng chooses (in every fourth call nothing,
// in every fourth everything). Called again, it returns another outcome of the
// same crash. The result has no hook and no operations counted.
func (f *FS) Crash(rng *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	return f.crashedLocked(rng)
}

func (f *FS) crashedLocked(rng *rand.Rand) *FS {
	g := New(rng.Uint64())
	var keep func() bool
	switch rng.IntN(4) {
	case 0:
		keep = func() bool { return false }
	case 1:
		keep = func() bool { return true }
	default:
		percent := 10 + rng.IntN(81)
		keep = func() bool { return rng.IntN(100) < percent }
	}
	unit := []int{1, perPage}[rng.IntN(2)] // sectors that live or die together
	ordered := rng.IntN(2) == 0            // directories as a journaling file system leaves them
	f.imageLocked(g, keep, unit, ordered)
	return g
}

// Imagine returns what a crash now would leave, as Crash does; this file system
// goes on, and is not changed by it.
func (f *FS) Imagine(rng *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashedLocked(rng)
}

// Image returns what the next start would find if all that was written had
// reached the disk. This file system goes on. The result has no hook.
func (f *FS) Image(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := New(seed)
	f.imageLocked(g, func() bool { return true }, perPage, true)
	return g
}

// imageLocked puts into g what is durable, and of the rest what keep chooses.
func (f *FS) imageLocked(g *FS, keep func() bool, unit int, ordered bool) {
	g.capacity, g.most = f.capacity, f.most
	c := copier{keep: keep, unit: unit, from: f, to: g, seen: map[*node]*node{}}
	g.root = c.copy(f.root)
	for _, ch := range f.pending {
		// A changed directory may be reachable by a pending change only.
		for _, n := range []*node{ch.from, ch.to, ch.node} {
			if n != nil {
				c.copy(n)
			}
		}
	}
	for _, ch := range f.pending {
		if !keep() {
			if ordered {
				break
			}
			continue
		}
		moved := change{from: c.seen[ch.from], fromName: ch.fromName, to: c.seen[ch.to], toName: ch.toName, node: c.seen[ch.node]}
		moved.apply()
	}
	g.settle(g.root)
}

// copier copies durable state.
type copier struct {
	keep     func() bool
	unit     int
	from, to *FS
	seen     map[*node]*node
}

func (c *copier) copy(n *node) *node {
	if have := c.seen[n]; have != nil {
		return have
	}
	if n.dir {
		d := newDir()
		c.seen[n] = d
		for _, name := range slices.Sorted(maps.Keys(n.durable)) {
			d.durable[name] = c.copy(n.durable[name])
		}
		return d
	}
	m := newFile()
	m.opens = 0
	c.seen[n] = m
	m.size = n.diskSize
	if n.size != n.diskSize && c.keep() {
		m.size = n.size
	}
	m.diskSize = m.size
	for _, i := range slices.Sorted(maps.Keys(n.pages)) {
		if i*pageSize >= m.size {
			continue
		}
		old := n.pages[i]
		p := &page{mem: old.mem, disk: old.disk, rot: maps.Clone(old.rot)}
		old.shared = true
		for s := 0; s < perPage; s += c.unit {
			mask := uint8(1<<c.unit-1) << s
			if old.dirty&mask != 0 && c.keep() {
				p.dirty |= old.dirty & mask
			}
		}
		p.flush()
		p.mem = p.disk
		p.rots(0, pageSize, dropped)
		m.pages[i] = p
	}
	if tail := m.size % pageSize; tail > 0 {
		// Nothing is behind the end.
		if p := m.pages[m.size/pageSize]; p != nil && p.disk != nil {
			clone := *p.disk
			clear(clone[tail:])
			p.mem, p.disk = &clone, &clone
			p.rots(int(tail), pageSize, func(masks) masks { return masks{} })
		}
	}
	return m
}

// settle makes the durable names the ones that are seen.
func (f *FS) settle(n *node) {
	n.names = maps.Clone(n.durable)
	for _, child := range n.durable {
		if child.dir {
			f.settle(child)
			continue
		}
		if child.links++; child.links == 1 {
			f.used += child.allocated()
			f.files++
		}
	}
}
