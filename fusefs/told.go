package fusefs

import (
	"context"

	"tpcfs/wire"
)

// Beside attributes and names a mount keeps under its lease (F9) what it has
// read of symbolic links, extended attributes, also that there is none, and
// directories' lists. All of it is an inode's, and goes when that is touched.
// Most inodes have no extended attributes: their attributes say so.

const (
	maxTold      = 16 << 20 // bytes of all that is kept so, about
	maxToldOfOne = 1 << 20  // of one answer
	toldCost     = 200      // bytes that each takes beside its own
)

// question is what was asked about an inode.
type question struct {
	kind wire.ReadKind
	name string // of the extended attribute
}

// answer is what was told. Nobody changes what it points to.
type answer struct {
	target string
	value  []byte
	names  []string
	list   []dirName
	parent wire.Ino // of the directory listed
	once   bool     // the list came in one answer: it is of one moment
	err    error    // there is no such attribute
}

func (a *answer) size() int {
	n := toldCost + len(a.target) + len(a.value)
	for _, name := range a.names {
		n += 16 + len(name)
	}
	for i := range a.list {
		n += 32 + len(a.list[i].name)
	}
	return n
}

// recall answers a question from what was told before, of the inode or with its
// attributes.
func (c *cache) recall(ino wire.Ino, q question) (a answer, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bootNow() >= c.until {
		return answer{}, false
	}
	if a, known = c.told[ino][q]; known || !c.attrs[ino].NoXattrs {
		return a, known
	}
	switch q.kind {
	case wire.ReadListxattr:
		return answer{}, true
	case wire.ReadGetxattr:
		return answer{err: &wire.Error{Code: wire.CodeNoAttr, Op: "getxattr", Name: wire.At{Dir: ino}.String()}}, true
	default:
		return answer{}, false
	}
}

// tell keeps an answer that was asked for at a number, unless the inode was
// touched since.
func (c *cache) tell(asked uint64, ino wire.Ino, q question, a answer) {
	size := a.size()
	c.mu.Lock()
	defer c.mu.Unlock()
	if asked < c.floor || asked < c.inos[ino] || bootNow() >= c.until || size > maxToldOfOne {
		return
	}
	if c.toldBytes+size > maxTold {
		c.toldBytes = 0
		clear(c.told)
	}
	of := c.told[ino]
	if of == nil {
		of = map[question]answer{}
		c.told[ino] = of
	}
	if old, ok := of[q]; ok {
		c.toldBytes -= old.size()
	}
	of[q] = a
	c.toldBytes += size
}

// untellLocked forgets what was told of an inode. c.mu is held.
func (c *cache) untellLocked(ino wire.Ino) {
	for _, a := range c.told[ino] {
		c.toldBytes -= a.size()
	}
	delete(c.told, ino)
}

// leasedRead reads of an inode what fits in one answer, from what was read
// before where the lease allows.
func (f *fileSystem) leasedRead(ctx context.Context, ino wire.Ino, q question) (answer, error) {
	if a, known := f.cached.recall(ino, q); known {
		return a, a.err
	}
	asked := f.cached.begin()
	reply, err := f.retryRead(ctx, wire.Read{Kind: q.kind, At: wire.At{Dir: ino}, Name: q.name}, nil)
	a := answer{target: reply.Target, value: reply.Value, names: reply.Names}
	switch {
	case err == nil:
	case q.kind == wire.ReadGetxattr && wire.CodeOf(err) == wire.CodeNoAttr:
		a = answer{err: err}
	default:
		return a, err
	}
	f.cached.tell(asked, ino, q, a)
	return a, err
}
