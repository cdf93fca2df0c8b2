package fusefs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// maxGathered is how many extents of a file gather before writers wait: one
// commit holds them in a pack.
const maxGathered = wire.MaxExtents / 4

// Create makes an empty file at once and opens it. A taken name is ESTALE
// without O_EXCL: the kernel looks up again, checks permissions and opens.
func (f *fileSystem) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if len(name) > wire.MaxNameLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	if err := f.begun(ctx); err != nil {
		return statusOf(err)
	}
	done, err := f.transact(ctx, wire.Mutation{
		Kind: wire.MutWriteFile, At: wire.At{Dir: wire.Ino(in.NodeId), Path: name}, Create: wire.MustNotExist,
		Mode: in.Mode & wire.ModePerm, UID: in.Uid, GID: in.Gid,
	})
	if err != nil {
		if code := wire.CodeOf(err); in.Flags&syscall.O_EXCL == 0 && (code == wire.CodeExist || code == wire.CodeSymlink) {
			return fuse.Status(syscall.ESTALE)
		} else if code == wire.CodeSymlink {
			return fuse.Status(syscall.EEXIST)
		}
		return statusOf(f.inGone(ctx, wire.Ino(in.NodeId), err))
	}
	n, a, err := f.holdNew(ctx, done)
	if err != nil {
		return statusOf(err)
	}
	f.beginEmpty(n, a, done.Tx)
	f.fillEntry(&out.EntryOut, wire.At{Dir: wire.Ino(in.NodeId), Path: name}, a)
	out.Fh = f.openHandle(n, in.Flags)
	return fuse.OK
}

// holdNew holds a file that was made, and reads its attributes. Another mount may have
// removed it already, and this one have said that it is not open here: then it is
// ESTALE, and the kernel makes it once more.
func (f *fileSystem) holdNew(ctx context.Context, done wire.Outcome) (*node, wire.Attr, error) {
	if len(done.Results) == 0 {
		return nil, wire.Attr{}, errNoResults
	}
	n := f.hold(done.Results[0].Ino) // from here on who takes its last name holds it
	a, err := f.attr(ctx, n.at())
	if err == nil && a.Nlink == 0 && !f.mayOpen(n) {
		err = syscall.ESTALE
	}
	if err != nil {
		f.letGo(n)
	}
	return n, a, err
}

// beginEmpty: a file that tx has made is known to be empty, if nobody was faster.
func (f *fileSystem) beginEmpty(n *node, a wire.Attr, tx wire.ID) {
	n.see(a)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil && n.turn == turnNone && a.Version == tx {
		n.replaceLocked(newContents(f.depot), tx, noEdits())
	}
}

var errNoResults = wire.NewError(wire.CodeProtocol, "a transaction's outcome lacks its results")

// attrOfNew reads what the first mutation of a transaction made.
func (f *fileSystem) attrOfNew(ctx context.Context, out wire.Outcome) (wire.Attr, error) {
	if len(out.Results) == 0 {
		return wire.Attr{}, errNoResults
	}
	return f.attr(ctx, wire.At{Dir: out.Results[0].Ino})
}

// Open opens a file. A vanished inode is ESTALE: the kernel looks up again
// (F8). O_TRUNC gathers: what replaces the contents is one transaction (F3).
func (f *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	n := f.hold(wire.Ino(in.NodeId)) // from here on who takes its last name holds it
	err := f.begun(ctx)
	if err == nil {
		err = f.waitUnnamed(ctx, n.ino)
	}
	var a wire.Attr
	if err == nil {
		a, err = f.attr(ctx, n.at())
	}
	if err == nil && a.Nlink == 0 && !f.mayOpen(n) {
		f.cached.vanished(n.ino) // else its name leads there again, until the mount hears of the change
		err = syscall.ESTALE
	}
	if err != nil {
		f.letGo(n)
		return statusOf(err)
	}
	n.see(a)
	if in.Flags&syscall.O_TRUNC != 0 {
		var err error
		if in.Mode&fuse.OPEN_KILL_SUIDGID != 0 {
			err = f.killPriv(ctx, n, &in.InHeader)
		}
		if err == nil { // last: an open that fails cuts nothing
			err = f.cut(ctx, n)
		}
		if err != nil {
			f.letGo(n)
			return statusOf(err)
		}
	}
	if f.keepsPages(n, a, in.Flags) {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	out.Fh = f.openHandle(n, in.Flags)
	f.opened(n.ino, in.Pid)
	return fuse.OK
}

// keepsPages reports whether what the kernel has of a file that is opened is
// what it holds now. Else the kernel drops it.
func (f *fileSystem) keepsPages(n *node, a wire.Attr, flags uint32) bool {
	n.mu.Lock()
	plain := n.plainLocked() && !n.dirtyLocked() && !n.orphan
	n.mu.Unlock()
	if !plain || flags&syscall.O_TRUNC != 0 {
		f.pages.wrote(n.ino)
	}
	return f.pages.open(n.ino, a.Version)
}

// cut gathers a truncation to nothing.
func (f *fileSystem) cut(ctx context.Context, n *node) error {
	return f.change(ctx, n, needNothing, func() error {
		n.cur.truncate(n.c.Size(), 0)
		n.cur.keep = 0 // also of a base that was longer, or not loaded
		return n.c.Truncate(0)
	})
}

// change applies fn to the node's contents, under mu, and notes the change.
func (f *fileSystem) change(ctx context.Context, n *node, what need, fn func() error) error {
	f.pages.wrote(n.ino)
	for {
		if err := f.ensure(ctx, n, what); err != nil {
			return err
		}
		n.mu.Lock()
		if n.c == nil { // dropped by a READ that found it outdated
			n.mu.Unlock()
			continue
		}
		err := fn()
		if err == nil {
			after := f.o.CommitAfter
			if n.c.Spilled() {
				after = f.o.SpillCommitAfter
			}
			at := n.timeLocked(f.clock.now())
			n.changedLocked(at, after)
			n.touchLocked(at)
			f.aheadLocked(n)
		}
		n.mu.Unlock()
		return err
	}
}

// Write gathers. O_APPEND is at the end as this mount sees it; if the end
// moves before the commit the bytes move with it (edits).
func (f *fileSystem) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h, status := f.usable(in.Fh)
	if h == nil {
		return 0, status
	}
	from := int64(in.Offset)
	data, ok := clipAt(data, from)
	if !ok {
		return 0, fuse.Status(syscall.EFBIG)
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	n := h.n
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := f.killPriv(ctx, n, &in.InHeader); err != nil {
			return 0, statusOf(err)
		}
	}
	cached := in.WriteFlags&fuse.WRITE_CACHE != 0
	if err := f.makeRoom(ctx, n, cached); err != nil {
		return 0, statusOf(err)
	}
	if cached { // the file's end counts
		if err := f.refresh(ctx, n); err != nil {
			return 0, statusOf(err)
		}
	}
	written := 0
	err := f.change(ctx, n, needBase, func() (err error) {
		if h.lost.Load() { // set under mu, with what was gathered before given up
			return syscall.EIO
		}
		size := n.c.Size()
		switch {
		case cached: // a mapping's page: it never extends the file (F8)
			data = data[:max(0, min(int64(len(data)), size-from))]
		case in.Flags&syscall.O_APPEND != 0:
			if data, ok = clipAt(data, size); !ok {
				return syscall.EFBIG
			}
			written, err = n.c.WriteAt(data, size)
			if written > 0 {
				n.cur.append(size, int64(written))
				err = nil
			}
			return err
		}
		written, err = n.c.WriteAt(data, from)
		if written > 0 {
			n.cur.write(from, from+int64(written), size)
			err = nil // a short write says the rest
		}
		return err
	})
	if err != nil {
		return 0, statusOf(err)
	}
	if cached {
		written = int(in.Size)
	}
	return uint32(written), fuse.OK
}

// clipAt is what of data a file may have at an offset: a write that begins
// below the largest size is short there. Not ok: nothing.
func clipAt(data []byte, off int64) (_ []byte, ok bool) {
	if off < 0 || off >= wire.MaxFileSize && len(data) > 0 {
		return nil, false
	}
	return data[:min(int64(len(data)), wire.MaxFileSize-off)], true
}

// makeRoom waits for a commit where so many extents are gathered that they
// would be too much for one transaction, and, where a program asks, while what is
// written is far ahead of what is sent: the kernel's own writes of a mapping would
// keep others of the mount from being served.
func (f *fileSystem) makeRoom(ctx context.Context, n *node, cached bool) error {
	if !cached {
		if err := n.awaitAhead(ctx, f.o.AheadMost); err != nil {
			return err
		}
	}
	n.mu.Lock()
	count, flying := len(n.cur.extents), 0
	if n.flying != nil {
		flying = len(n.flying.extents) // if that commit fails, the next has to hold both
	}
	full := !n.orphan && (count >= maxGathered || count+flying >= 2*maxGathered)
	n.mu.Unlock()
	if !full {
		return nil
	}
	return f.sync(ctx, n)
}

// killPriv clears the set-id bits, as an unprivileged change of contents must.
func (f *fileSystem) killPriv(ctx context.Context, n *node, caller *fuse.InHeader) error {
	if f.noPriv(n) {
		return nil
	}
	asked := f.cached.begin()
	a, err := f.attr(ctx, n.at())
	if err != nil {
		return err
	}
	mode := withoutPriv(a, caller)
	if mode != a.Mode {
		if err := f.setAttr(ctx, n.ino, wire.Mutation{Set: wire.SetMode, Mode: mode & wire.ModePerm}); err != nil {
			return err
		}
	}
	n.mu.Lock()
	n.privChecked, n.privAt = mode&(syscall.S_ISUID|syscall.S_ISGID) == 0, asked
	n.mu.Unlock()
	return nil
}

// noPriv reports that a file is known to have no set-id bits.
func (f *fileSystem) noPriv(n *node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.privChecked && f.cached.untouched(n.privAt, n.ino)
}

// withoutPriv is the mode without set-uid, and without set-gid but where that
// means nothing (nobody of the group may execute it) and the caller is of the group.
func withoutPriv(a wire.Attr, caller *fuse.InHeader) uint32 {
	mode := a.Mode
	if mode&wire.ModeType != wire.ModeRegular {
		return mode
	}
	mode &^= syscall.S_ISUID
	if mode&syscall.S_ISGID != 0 && (mode&syscall.S_IXGRP != 0 || !inGroup(caller, a.GID)) {
		mode &^= syscall.S_ISGID
	}
	return mode
}

// inGroup: root may do what a file's group may. The groups besides the
// caller's first are in /proc; of one that this process cannot see it has none.
func inGroup(caller *fuse.InHeader, gid uint32) bool {
	if caller.Uid == 0 || caller.Gid == gid {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", caller.Pid))
	if err != nil {
		return false
	}
	_, groups, _ := strings.Cut(string(status), "\nGroups:")
	groups, _, _ = strings.Cut(groups, "\n")
	return slices.Contains(strings.Fields(groups), fmt.Sprint(gid))
}

// Read reads from the service, with what is gathered over it.
func (f *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h, status := f.usable(in.Fh)
	if h == nil {
		return nil, status
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	k, err := f.readNode(ctx, h.n, buf, int64(in.Offset))
	if err == nil {
		err = f.stillLocked(ctx, h)
	}
	if err != nil {
		return nil, statusOf(staleIfGone(err))
	}
	return fuse.ReadResultData(buf[:k]), fuse.OK
}

// readNode fills buf; short at the file's end only.
func (f *fileSystem) readNode(ctx context.Context, n *node, buf []byte, off int64) (int, error) {
	for b := f.backoff(); ; {
		k, moved, err := f.readOver(ctx, n, buf, off)
		if !moved || err != nil {
			return k, err
		}
		if again := wire.NewError(wire.CodeChanged, "the file kept changing while it was read"); !b.again(ctx, again) {
			return 0, again
		}
	}
}

// readOver reads once. It takes what is the base's there before it asks for
// it; moved: the base is not the one that the edits are over any more.
func (f *fileSystem) readOver(ctx context.Context, n *node, buf []byte, off int64) (k int, moved bool, err error) {
	if err := f.refresh(ctx, n); err != nil {
		return 0, false, err
	}
	n.mu.Lock()
	if n.plainLocked() {
		gen := n.gen
		n.mu.Unlock()
		f.pages.begin(n.ino)
		k, attr, err := f.readService(ctx, n.ino, buf, off)
		f.pages.read(n.ino, attr.Version)
		if err != nil {
			return k, false, f.orLost(n, err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		return k, n.gen != gen, nil // a page that was written before the kernel dropped it comes after the READ
	}
	f.pages.wrote(n.ino)
	if n.lostBaseLocked() {
		n.mu.Unlock()
		return 0, true, nil
	}
	all, base := n.allLocked(), n.base
	gap := all.gap(off, off+int64(len(buf)), n.c.Size())
	gap.to = max(gap.from, min(gap.to, n.baseSize))
	lost := n.orphan && gap.from < gap.to
	n.mu.Unlock()
	if lost {
		return 0, false, &wire.Error{Code: wire.CodeStale, Op: "read", Name: n.at().String(), Text: "another mount has deleted the file, and only what was written here is left"}
	}
	clear(buf)
	if gap.from < gap.to {
		_, attr, err := f.readService(ctx, n.ino, buf[gap.from-off:gap.to-off], gap.from)
		if isGone(err) {
			return 0, true, f.lose(n)
		} else if err != nil {
			return 0, false, err
		}
		if attr.Version != base {
			f.cached.doubt(n.ino)
			return 0, true, nil
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plainLocked() || n.base != base {
		return 0, true, nil
	}
	all = n.allLocked()
	k, err = all.lay(n.c, buf, off)
	return k, false, err
}

// plainLocked: the file is what the service has.
func (n *node) plainLocked() bool {
	return n.c == nil || !n.orphan && n.flying == nil && n.cur.empty()
}

// readService fills buf from the service; short at the file's end only.
func (f *fileSystem) readService(ctx context.Context, ino wire.Ino, buf []byte, off int64) (int, wire.Attr, error) {
	select {
	case f.reading <- struct{}{}:
		defer func() { <-f.reading }()
	case <-ctx.Done():
		return 0, wire.Attr{}, ctx.Err()
	}
	asked := f.cached.begin()
	w := &collector{buf: buf, off: off}
	reply, err := f.retryRead(ctx, wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: ino}, Offset: off, Length: int64(len(buf))}, w)
	if err == nil {
		f.cached.keep(asked, reply.Attr)
	}
	if w.version != reply.Attr.Version {
		return 0, reply.Attr, err // cut below off meanwhile: what came is of a version before
	}
	return w.n, reply.Attr, err
}

// collector takes a range's pieces, and begins again when they do.
type collector struct {
	buf     []byte
	off     int64 // of buf in the file
	n       int
	version wire.ID
}

// WritePiece is that of wire.PieceWriter.
func (c *collector) WritePiece(p wire.Piece) error {
	if wire.Sum(p.Data) != p.Sum {
		return wire.NewError(wire.CodeCorrupt, "a piece of the contents was damaged on its way")
	}
	if p.Offset == c.off {
		c.n, c.version = 0, p.Version
	}
	if p.Offset != c.off+int64(c.n) || p.Version != c.version || len(p.Data) > len(c.buf)-c.n {
		return wire.NewError(wire.CodeProtocol, "the contents came out of order")
	}
	c.n += copy(c.buf[c.n:], p.Data)
	return nil
}

// Flush is close(2) of one descriptor: commits what is gathered, if the
// handle may have written, and drops the process's POSIX locks on the file,
// through whichever descriptor it got them. So each close has to come here.
func (f *fileSystem) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h, status := f.usable(in.Fh)
	if h == nil {
		return status
	}
	h.n.mu.Lock()
	dirty := h.writes && h.n.dirtyLocked() && !h.n.alone // without a name nobody will look for it
	h.n.mu.Unlock()
	owner := wire.LockOwner{Kind: wire.LockFcntl, Number: in.LockOwner}
	locked := h.n.locks(owner)
	if !dirty && !locked {
		return fuse.OK
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	return statusOf(f.leaving(ctx, &in.InHeader, func(ctx context.Context) (err error) {
		if dirty {
			err = f.sync(ctx, h.n)
		}
		if locked {
			select {
			case <-f.unlock(h.n, owner):
			case <-ctx.Done():
			}
		}
		if h.lost.Load() {
			err = syscall.EIO
		}
		return err
	}))
}

// Fsync commits what is gathered.
func (f *fileSystem) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, status := f.usable(in.Fh)
	if h == nil {
		return status
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	err := f.sync(ctx, h.n)
	if h.lost.Load() {
		err = syscall.EIO
	}
	return statusOf(err)
}

// Release is the last close of a handle. The locks that were taken through it
// end. What is still gathered (a mapping's
// pages, or an error before) is committed by itself; nobody waits.
func (f *fileSystem) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	f.mu.Lock()
	h := f.handles[in.Fh]
	delete(f.handles, in.Fh)
	if h != nil {
		h.n.handles--
	}
	f.mu.Unlock()
	if h == nil {
		return
	}
	for _, owner := range h.n.removeHandle(in.Fh) {
		f.unlock(h.n, owner)
	}
	h.n.mu.Lock()
	tried := h.n.fatal != nil && h.n.fatalGen == h.n.gen // else a close may have failed before a mapping's last pages came
	if h.n.dirtyLocked() && !h.n.alone && h.n.flight == nil && !tried && h.writes {
		f.startLocked(h.n, wire.Mutation{})
	}
	h.n.mu.Unlock()
	f.letGo(h.n)
}
