package fusefs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pageSize is the grain in which gathered bytes are kept, shared and spilled.
const pageSize = 32 << 10

// depot is what the gathered contents of one mount share: memory and the
// directory for what does not fit there.
type depot struct {
	dir       string // of spill files
	fileBytes int64  // memory for one file
	bytes     int64  // memory for all files
	used      atomic.Int64
}

// take counts n more bytes of memory, or reports that there are none left.
func (d *depot) take(n int64) bool {
	if d.used.Add(n) > d.bytes && n > 0 {
		d.used.Add(-n)
		return false
	}
	return true
}

// contents holds gathered bytes at their places in the file: in memory while
// they are few, then in an unlinked file. What was never written is zeros and
// takes no space. A snapshot shares the pages; a page that is shared is never changed.
type contents struct {
	depot *depot

	mu    sync.Mutex // guards all below and every page's fields
	size  int64      // bytes
	pages map[int64]*page
	inMem int64  // bytes of pages in memory
	spill *spill // nil: all in memory
	ahead *ahead // what is sent of it while it is written; nil: nothing
}

// page is up to pageSize bytes; those past its length are zeros.
type page struct {
	mem  []byte // while in memory
	slot int64  // else its place in the spill file, in pages; -1 in memory
	n    int    // length in the spill file
	refs int    // contents and snapshots that hold it
}

// spill is the unlinked file. It closes with the last that uses it.
type spill struct {
	f    *os.File
	next int64   // first slot never used
	free []int64 // slots to use again
	refs int     // the contents and its snapshots
}

func newContents(d *depot) *contents {
	return &contents{depot: d, pages: map[int64]*page{}}
}

// Size is the length in bytes.
func (c *contents) Size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// Spilled reports whether the bytes have left memory.
func (c *contents) Spilled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spill != nil
}

// WriteAt writes p at off and extends the size. After an error the bytes of
// p are written in part, the size counts what was.
func (c *contents) WriteAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoilLocked(off, off+int64(len(p)))
	done := 0
	for done < len(p) {
		at := off + int64(done)
		in := int(at % pageSize)
		n := min(len(p)-done, pageSize-in)
		if err := c.writePageLocked(at/pageSize, in, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
		c.size = max(c.size, at+int64(n))
	}
	return done, nil
}

func (c *contents) writePageLocked(index int64, in int, b []byte) error {
	pg, err := c.ownLocked(index)
	if err != nil {
		return err
	}
	if pg.slot < 0 {
		grow := int64(max(in+len(b)-len(pg.mem), 0))
		if c.inMem+grow <= c.depot.fileBytes && c.depot.take(grow) {
			c.inMem += grow
			pg.write(in, b)
			return nil
		}
		if err := c.spillLocked(); err != nil {
			return err
		}
	}
	if in > pg.n {
		if _, err := c.spill.f.WriteAt(make([]byte, in-pg.n), pg.slot*pageSize+int64(pg.n)); err != nil {
			return spillError(err)
		}
	}
	if _, err := c.spill.f.WriteAt(b, pg.slot*pageSize+int64(in)); err != nil {
		return spillError(err)
	}
	pg.n = max(pg.n, in+len(b))
	return nil
}

// write puts b into a page in memory.
func (pg *page) write(in int, b []byte) {
	if end := in + len(b); end > len(pg.mem) {
		if end > cap(pg.mem) {
			bigger := make([]byte, len(pg.mem), min(max(2*cap(pg.mem), end), pageSize))
			copy(bigger, pg.mem)
			pg.mem = bigger
		}
		old := len(pg.mem)
		pg.mem = pg.mem[:end]
		if in > old {
			clear(pg.mem[old:in])
		}
	}
	copy(pg.mem[in:], b)
}

// ownLocked returns the page to be changed: new, or a copy of one that a snapshot shares.
func (c *contents) ownLocked(index int64) (*page, error) {
	pg := c.pages[index]
	if pg == nil {
		pg = &page{slot: -1, refs: 1}
		if c.spill != nil {
			pg.slot = c.spill.slot()
		}
		c.pages[index] = pg
		return pg, nil
	}
	if pg.refs == 1 {
		return pg, nil
	}
	own := &page{slot: -1, refs: 1}
	if pg.slot < 0 {
		own.mem = append([]byte(nil), pg.mem...)
		c.depot.used.Add(int64(len(own.mem))) // over the bound by the shared pages of one snapshot at most
		c.inMem += int64(len(own.mem))
	} else {
		b := make([]byte, pg.n)
		if _, err := c.spill.f.ReadAt(b, pg.slot*pageSize); err != nil {
			return nil, spillError(err)
		}
		own.slot = c.spill.slot()
		if _, err := c.spill.f.WriteAt(b, own.slot*pageSize); err != nil {
			c.spill.free = append(c.spill.free, own.slot)
			return nil, spillError(err)
		}
		own.n = pg.n
	}
	c.unrefLocked(pg)
	c.pages[index] = own
	return own, nil
}

// spillFile makes a file there that has no name: however this process ends, it leaves none.
func spillFile(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|unix.O_EXCL|os.O_RDWR, 0o600)
	if err != nil { // not every file system has that (man 2 open); else an ordinary file tells why
		return unlinkedFile(dir)
	}
	return f, nil
}

// unlinkedFile makes a file there and takes its name away.
func unlinkedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "tpcfs-spill-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// spillLocked moves all pages to the spill file. On an error nothing has moved.
func (c *contents) spillLocked() error {
	if c.spill != nil {
		return nil
	}
	f, err := spillFile(c.depot.dir)
	if err != nil {
		return spillError(err)
	}
	s := &spill{f: f, refs: 1}
	slots := map[int64]int64{}
	for index, pg := range c.pages {
		slots[index] = s.slot()
		if _, err := f.WriteAt(pg.mem, slots[index]*pageSize); err != nil {
			return spillError(errors.Join(err, f.Close()))
		}
	}
	c.spill = s
	for index, pg := range c.pages {
		moved := pg
		if pg.refs > 1 { // its snapshots keep the memory
			moved = &page{refs: 1}
			c.pages[index] = moved
			moved.n = len(pg.mem)
			c.unrefLocked(pg)
		} else {
			c.freeMemLocked(pg)
			moved.n, moved.mem = len(pg.mem), nil
		}
		moved.slot = slots[index]
	}
	return nil
}

// slot gives a free place. Its bytes may be old ones: a page's length bounds what is read.
func (s *spill) slot() int64 {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot
	}
	s.next++
	return s.next - 1
}

func (c *contents) freeMemLocked(pg *page) {
	c.depot.used.Add(-int64(len(pg.mem)))
	c.inMem -= int64(len(pg.mem))
}

func (c *contents) unrefLocked(pg *page) {
	pg.refs--
	switch {
	case pg.refs > 0:
	case pg.slot < 0:
		c.freeMemLocked(pg)
		pg.mem = nil
	default:
		c.spill.free = append(c.spill.free, pg.slot)
	}
}

// ReadAt reads what there is at off: fewer bytes than asked for at the end
// only, then with io.EOF.
func (c *contents) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	size, pages := c.size, c.pages
	c.mu.Unlock()
	return c.readPages(p, off, size, pages)
}

func (c *contents) readPages(p []byte, off, size int64, pages map[int64]*page) (int, error) {
	if off >= size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > size-off {
		p, err = p[:size-off], io.EOF
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		in := int(at % pageSize)
		n := min(len(p)-done, pageSize-in)
		if err := c.readPage(pages, at/pageSize, in, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), err
}

func (c *contents) readPage(pages map[int64]*page, index int64, in int, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(b)
	pg := pages[index]
	if pg == nil {
		return nil
	}
	if pg.slot < 0 {
		if in < len(pg.mem) {
			copy(b, pg.mem[in:])
		}
		return nil
	}
	if in >= pg.n {
		return nil
	}
	if _, err := c.spill.f.ReadAt(b[:min(len(b), pg.n-in)], pg.slot*pageSize+int64(in)); err != nil {
		return spillError(err)
	}
	return nil
}

// Truncate sets the size. What it adds reads as zeros. After an error nothing has
// changed.
func (c *contents) Truncate(size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoilLocked(size, c.size)
	if size < c.size {
		if in := int(size % pageSize); in > 0 && c.pages[size/pageSize] != nil {
			pg, err := c.ownLocked(size / pageSize)
			if err != nil {
				return err
			}
			if cut := len(pg.mem) - in; cut > 0 {
				pg.mem = pg.mem[:in]
				c.depot.used.Add(-int64(cut))
				c.inMem -= int64(cut)
			}
			pg.n = min(pg.n, in)
		}
		for index, pg := range c.pages {
			if index*pageSize >= size {
				c.unrefLocked(pg)
				delete(c.pages, index)
			}
		}
	}
	c.size = size
	return nil
}

// copyRange copies the bytes [from, to) of o to the place at.
func (c *contents) copyRange(o io.ReaderAt, from, to, at int64) error {
	buf := make([]byte, min(pageSize, max(to-from, 0)))
	for from < to {
		n, err := o.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
		if err != nil && (!errors.Is(err, io.EOF) || n == 0) {
			return err
		}
		if _, err := c.WriteAt(buf[:n], at); err != nil {
			return err
		}
		from, at = from+int64(n), at+int64(n)
	}
	return nil
}

// retain gives back the pages that hold nothing of the ranges, which are
// sorted and disjoint. What they held reads as anything, as nobody asks.
func (c *contents) retain(ranges []extent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for index, pg := range c.pages {
		from, to := index*pageSize, (index+1)*pageSize
		i, _ := slices.BinarySearchFunc(ranges, from, func(x extent, at int64) int {
			if x.to <= at {
				return -1
			}
			return 1
		})
		if i == len(ranges) || ranges[i].from >= to {
			c.unrefLocked(pg)
			delete(c.pages, index)
		}
	}
	if len(c.pages) == 0 && c.spill != nil && c.spill.refs == 1 { // memory serves again
		c.dropLocked(nil, c.spill)
		c.spill = nil
	}
}

// Close gives everything back. Snapshots stay readable.
func (c *contents) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abandonLocked()
	c.dropLocked(c.pages, c.spill)
	c.pages, c.size = map[int64]*page{}, 0
}

func (c *contents) dropLocked(pages map[int64]*page, s *spill) {
	for _, pg := range pages {
		c.unrefLocked(pg)
	}
	if s != nil {
		if s.refs--; s.refs == 0 {
			_ = s.f.Close() // unlinked: there is nothing to lose
		}
	}
}

// snapshot is the contents of one moment, for a transaction that may send
// them more than once. It is a client's Content.
type snapshot struct {
	c     *contents
	size  int64
	pages map[int64]*page
	spill *spill
}

// Snapshot costs a copy of the list of pages. The caller releases it.
func (c *contents) Snapshot() *snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pg := range c.pages {
		pg.refs++
	}
	if c.spill != nil {
		c.spill.refs++
	}
	return &snapshot{c: c, size: c.size, pages: maps.Clone(c.pages), spill: c.spill}
}

// Size is the length in bytes.
func (s *snapshot) Size() int64 { return s.size }

// ReadAt is that of io.ReaderAt.
func (s *snapshot) ReadAt(p []byte, off int64) (int, error) {
	return s.c.readPages(p, off, s.size, s.pages)
}

// Open reads from the beginning.
func (s *snapshot) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(s, 0, s.size)), nil
}

// Release gives the pages back. Nothing may be read after it.
func (s *snapshot) Release() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.dropLocked(s.pages, s.spill)
	s.pages = nil
}

// spillError names the place that failed; errors.Is still finds the errno.
func spillError(err error) error {
	return fmt.Errorf("spilling gathered writes: %w", err)
}
