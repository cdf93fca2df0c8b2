package fusefs

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"tpcfs/wire"
)

// node is a file that is open in this mount, or has writes that are not
// committed, or both. All handles of the inode share it.
type node struct {
	ino   wire.Ino
	opens int // handles, and handlers at work on it; guarded by fileSystem.mu

	handles int // of those the handles; guarded by fileSystem.mu

	mu sync.Mutex // guards all below; taken after fileSystem.mu

	// turn says who may replace the contents and their base just now; free is
	// closed when that changes. Holders keep it over calls to the service,
	// mu they do not.
	turn turn
	free chan struct{}

	c    *contents // nil: nothing gathered, nothing kept
	base wire.ID   // the version that the edits are over; 0 when they need none

	baseSize int64 // of base as this mount knows it, bytes

	cur    edits  // since the commit in flight, or since the base
	flying *edits // in the commit in flight; nil: none

	flyingSize int64 // of the file when it was made, bytes

	flight *flight // the commit at work; nil: none

	noAhead bool // until the next commit no head start begins: there was one, or no place for one, or a commit has failed

	gen      uint64    // counts changes
	saved    uint64    // the changes up to here are committed
	since    time.Time // of the first change that is in no commit; zero: none
	next     time.Time // when to commit by itself
	retry    time.Duration
	logged   bool
	fatal    error  // the last commit failed, and so will the next
	fatalGen uint64 // ... with the changes up to here
	unsure   bool   // a commit's outcome is unknown
	sent     []sent // what each of those would have done, the newest last
	savedAt  uint64 // fileSystem.saves when the last commit was done

	mtime, atime       int64 // nanoseconds since 1970; gathered if set
	mtimeSet, atimeSet bool
	ctime              int64     // of the last change, nanoseconds since 1970
	flyingCtime        int64     // of the last one in the commit in flight; 0: none
	privChecked        bool      // set-id bits are known to be gone since the last chmod here
	privAt             uint64    // ... and of others, while nothing but own commits is heard of the file since this number of the cache
	orphan             bool      // without a name: what is here is all there is
	held               bool      // without a name: the service keeps it for this mount
	alone              bool      // ... and for no other
	reclaimed          bool      // ... and has let it go though it was open here
	attr               wire.Attr // as last seen; an orphan's own
	forfeit            bool      // what is in flight is given up when it is back

	lockers map[wire.LockOwner]map[uint64]struct{} // who may have locks, and through which handles
	leaving int                                    // owners whose locks are being given up
	left    chan struct{}                          // closed when leaving is 0 again

	gone bool // removed from the table: look it up again
}

// sent is what a commit of unknown outcome was: enough to know it again.
type sent struct {
	mtime int64
	from  int64             // where what it appended begins here, while that has no other place: edits.tail; else -1
	tail  int64             // bytes appended
	head  [sha256.Size]byte // the sum of the first of them, headBytes at most
	gen   uint64
}

// headBytes is up to how many of the bytes that a commit appends tell it from others.
const headBytes = 1 << 20

// turn is who works on a node's base.
type turn int

const (
	turnNone   turn = iota
	turnLoad        // contents are being loaded, compared or dropped
	turnCommit      // a commit is in flight
)

// flight is one commit at work; several callers may wait for it.
type flight struct {
	done chan struct{}

	ctx    context.Context // of its transactions: ends when what is gathered is given up
	cancel context.CancelFunc

	with wire.Mutation // mode and owner that go with it, if it sets any
	lent recall        // what the kernel has to forget of the file before done is closed

	gen     uint64 // the changes in it; set before done is closed
	err     error  // set before done is closed
	carried bool   // a transaction of it, with with, was committed; set before done is closed
}

// take waits until the node's turn is free and takes it.
func (n *node) take(ctx context.Context, who turn) error {
	for {
		n.mu.Lock()
		if n.turn == turnNone {
			n.turn, n.free = who, make(chan struct{})
			n.mu.Unlock()
			return nil
		}
		free := n.free
		n.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// give ends a turn.
func (n *node) give() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.turn = turnNone
	close(n.free)
}

// see keeps attributes, for when the service has them no more.
func (n *node) see(a wire.Attr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.orphan {
		n.attr = a
	}
}

// dirtyLocked reports changes that are not committed.
func (n *node) dirtyLocked() bool { return n.gen != n.saved && !n.orphan }

// basedLocked reports contents that are only right while their base is the
// newest version. Those of a file that was cut to nothing are right anyhow.
func (n *node) basedLocked() bool {
	if n.c == nil || n.orphan {
		return false
	}
	return !n.dirtyLocked() || n.cur.needsBase() && (n.flying == nil || n.flying.needsBase())
}

// timeLocked is the time of a change that is made now: after that of each earlier
// one that this mount knows of.
func (n *node) timeLocked(now int64) int64 { return max(now, n.ctime+1, n.attr.Ctime+1) }

// changedLocked notes a change of a time, which is the ctime. A commit is due after
// a while.
func (n *node) changedLocked(at int64, after time.Duration) {
	n.gen++
	n.ctime = max(n.ctime, at)
	if n.since.IsZero() {
		n.since = time.Now()
		n.next = n.since.Add(after)
	}
}

// touchLocked sets the gathered mtime: contents changed.
func (n *node) touchLocked(at int64) { n.mtime, n.mtimeSet = at, true }

// moveTimesLocked gives the gathered contents an mtime that was not shown yet.
func (n *node) moveTimesLocked(now int64) {
	n.ctime = n.timeLocked(now)
	n.mtime, n.mtimeSet = max(n.ctime, n.mtime+1), true
}

// noBase is no version's number: what the edits are over has to be asked for.
const noBase = ^wire.ID(0)

func (n *node) lostBaseLocked() bool { return n.base == noBase && n.basedLocked() }

// dropLocked forgets the contents. There must be no edits.
func (n *node) dropLocked() {
	if n.c != nil {
		n.c.Close()
		n.c = nil
	}
	n.base, n.baseSize, n.cur = 0, 0, noEdits()
}

// replaceLocked installs other contents over a base of no length.
func (n *node) replaceLocked(c *contents, base wire.ID, e edits) {
	n.installLocked(c, e)
	n.base, n.baseSize = base, 0
}

// installLocked sets the edits and whose bytes they are.
func (n *node) installLocked(c *contents, e edits) {
	if n.c != nil && n.c != c {
		n.c.Close()
	}
	n.c, n.cur = c, e
}

// allLocked are the edits that the service has not acknowledged. There are contents.
func (n *node) allLocked() edits {
	if n.flying == nil {
		return n.cur
	}
	return n.flying.then(n.flyingSize, n.cur, n.c.Size())
}

// becomeOrphanLocked cuts the node off from the service: its name is gone.
func (n *node) becomeOrphanLocked(attr wire.Attr) {
	if n.orphan {
		return
	}
	attr.Ino, attr.Nlink = n.ino, 0
	if n.c != nil {
		n.c.abandon()
	}
	n.orphan, n.attr = true, attr
	n.overlayLocked(&n.attr)
}

// overlayLocked puts what is gathered over attributes from the service (F3).
func (n *node) overlayLocked(a *wire.Attr) {
	if n.orphan && n.attr.Ino != 0 {
		*a = n.attr
	}
	if n.c != nil {
		a.Size = n.c.Size()
		all := n.allLocked()
		if all.keep == 0 {
			a.Blocks = 0
		}
		for _, x := range all.ours(a.Size) {
			a.Blocks += ((x.to-1)/wire.BlockSize - x.from/wire.BlockSize + 1) * wire.BlockSize / 512
		}
		a.Blocks = min(a.Blocks, (a.Size+511)/512)
	}
	if n.mtimeSet {
		a.Mtime = n.mtime
	}
	if n.atimeSet {
		a.Atime = n.atime
	}
	if n.dirtyLocked() && !n.unsure && n.ctime > n.flyingCtime && a.Ctime >= n.ctime { // others have changed it since
		n.ctime = a.Ctime + 1
	}
	a.Ctime = max(a.Ctime, n.ctime)
}
