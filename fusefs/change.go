package fusefs

import (
	"context"
	"math"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// SetAttr is chmod, chown, utimens and truncate. Size and times gather while
// the file has gathered data; else, like mode and owner always, they are
// committed at once (F3).
func (f *fileSystem) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	asked, changed := ctx, func(err error) error { return err }
	if in.Valid&fuse.FATTR_FH != 0 {
		h, status := f.usable(in.Fh)
		if h == nil {
			return status
		}
		var end func()
		asked, end = h.changes(ctx)
		defer end()
		changed = h.changed
	}
	ino := wire.Ino(in.NodeId)
	m := setattrOf(in)
	if m.Size < 0 || m.Size > wire.MaxFileSize {
		return fuse.Status(syscall.EFBIG)
	}
	if err := changed(f.setAttrOf(asked, ino, in, m)); isGone(err) {
		if _, gone := f.goneNode(ino); !gone || !f.setRemoved(ino, m) {
			return fuse.Status(syscall.ESTALE)
		}
	} else if err != nil {
		return statusOf(err)
	}
	a, err := f.attr(ctx, wire.At{Dir: ino})
	if err != nil {
		return statusOf(err)
	}
	f.seeNode(a)
	fillAttr(&out.Attr, a)
	return fuse.OK
}

func (f *fileSystem) setAttrOf(ctx context.Context, ino wire.Ino, in *fuse.SetAttrIn, m wire.Mutation) error {
	if f.setRemoved(ino, m) {
		return nil
	}
	if m.Set&wire.SetMode != 0 {
		f.forgetPriv(ino)
	}
	if m.Set&^ownership == 0 && f.dirty(ino) {
		a, err := f.attr(ctx, wire.At{Dir: ino})
		if err != nil {
			return err
		}
		if sameOwnership(a, m, &in.InHeader) && f.gatherCtime(ino) {
			return nil
		}
	}
	chown := m.Set&(wire.SetUID|wire.SetGID) != 0 && m.Set&wire.SetMode == 0
	if chown || m.Set&wire.SetSize != 0 && in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		a, err := f.attr(ctx, wire.At{Dir: ino})
		if err != nil {
			return err
		}
		if mode := withoutPriv(a, &in.InHeader); mode != a.Mode {
			m.Set, m.Mode = m.Set|wire.SetMode, mode&wire.ModePerm
		}
	}
	return f.setAttr(ctx, ino, m)
}

// ownership is what of the attributes does not gather, but goes with what does.
const ownership = wire.SetMode | wire.SetUID | wire.SetGID

// sameOwnership reports whether a setattr of mode and owner only leaves them as
// they are.
func sameOwnership(a wire.Attr, m wire.Mutation, caller *fuse.InHeader) bool {
	mode := a.Mode & wire.ModePerm
	if m.Set&wire.SetMode != 0 {
		mode = m.Mode
	} else if withoutPriv(a, caller) != a.Mode {
		return false // a chown takes the set-id bits away
	}
	return mode == a.Mode&wire.ModePerm && (m.Set&wire.SetUID == 0 || m.UID == a.UID) && (m.Set&wire.SetGID == 0 || m.GID == a.GID)
}

// dirty reports whether a file has gathered changes.
func (f *fileSystem) dirty(ino wire.Ino) (dirty bool) {
	f.withNode(ino, func(n *node) { dirty = n.dirtyLocked() })
	return dirty
}

// gatherCtime adds to a file's gathered changes one of nothing but its ctime, a
// time as any other (tar says to each new file whose it is, which it is already).
// False: nothing is gathered.
func (f *fileSystem) gatherCtime(ino wire.Ino) (gathered bool) {
	f.withNode(ino, func(n *node) {
		if !n.dirtyLocked() || n.cur.empty() && (n.flying != nil || !n.mtimeSet && !n.atimeSet) {
			return // no transaction is to come that would bring it
		}
		n.changedLocked(n.timeLocked(f.clock.now()), f.o.CommitAfter)
		gathered = true
	})
	return gathered
}

// commitWith commits mode and owner of a file in one transaction with what is
// gathered of it, if that is little (F3): a close soon after has nothing left to
// do. Not done: they are to be committed by themselves.
func (f *fileSystem) commitWith(ctx context.Context, n *node, m wire.Mutation) (done bool, err error) {
	if m.Set == 0 || m.Set&^ownership != 0 {
		return false, nil
	}
	for {
		n.mu.Lock()
		if !n.dirtyLocked() || n.c != nil && n.c.Spilled() {
			n.mu.Unlock()
			return false, nil
		}
		fl, mine := n.flight, false
		if fl == nil {
			fl, mine = f.startLocked(n, m), true
		}
		n.mu.Unlock()
		select {
		case <-fl.done:
		case <-ctx.Done():
			return true, ctx.Err()
		}
		switch {
		case !mine:
		case fl.err != nil:
			return lasting(fl.err), fl.err
		case fl.carried:
			return true, nil
		}
	}
}

// setRemoved changes the attributes of what was removed and is no file of
// contents, and reports whether it is that: somebody's working directory, or fifo.
func (f *fileSystem) setRemoved(ino wire.Ino, m wire.Mutation) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.removed[ino]
	if !ok {
		return false
	}
	now := max(f.clock.now(), a.Ctime+1)
	a.Ctime = now
	for _, set := range []struct {
		what wire.SetMask
		do   func()
	}{
		{wire.SetMode, func() { a.Mode = a.Mode&wire.ModeType | m.Mode }},
		{wire.SetUID, func() { a.UID = m.UID }},
		{wire.SetGID, func() { a.GID = m.GID }},
		{wire.SetMtime, func() { a.Mtime = m.Mtime }},
		{wire.SetMtimeNow, func() { a.Mtime = now }},
		{wire.SetAtime, func() { a.Atime = m.Atime }},
		{wire.SetAtimeNow, func() { a.Atime = now }},
	} {
		if m.Set&set.what != 0 {
			set.do()
		}
	}
	f.removed[ino] = a
	return true
}

// forgetPriv: set-id bits may be back.
func (f *fileSystem) forgetPriv(ino wire.Ino) {
	f.withNode(ino, func(n *node) { n.privChecked = false })
}

// setAttr gathers what gathers and commits the rest.
func (f *fileSystem) setAttr(ctx context.Context, ino wire.Ino, m wire.Mutation) error {
	n := f.peek(ino)
	if n != nil {
		defer f.letGo(n)
		if m.Set&wire.SetSize != 0 { // whether it cuts or extends
			if err := f.refresh(ctx, n); err != nil {
				return err
			}
		}
		left, err := f.gatherAttr(n, m)
		if err != nil {
			return err
		}
		if done, err := f.commitWith(ctx, n, left); done {
			return err
		}
		if m, err = f.gatherAttr(n, left); err != nil { // it may have lost its name meanwhile
			return err
		}
	}
	if m.Set == 0 {
		return nil
	}
	m.Kind, m.At = wire.MutSetattr, wire.At{Dir: ino}
	_, err := f.transact(ctx, m)
	if n != nil {
		err = f.orLost(n, err)
	}
	return err
}

// gatherAttr takes out of m what joins the node's gathered changes: size and
// times if there are any, everything for a file without a name.
func (f *fileSystem) gatherAttr(n *node, m wire.Mutation) (wire.Mutation, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.dirtyLocked() && !n.orphan {
		return m, nil
	}
	now := n.timeLocked(f.clock.now())
	changed := false
	if m.Set&wire.SetSize != 0 && n.c != nil {
		size := n.c.Size()
		if err := n.c.Truncate(m.Size); err != nil {
			return m, err
		}
		n.cur.truncate(size, m.Size)
		n.touchLocked(now)
		f.pages.wrote(n.ino)
		m.Set, changed = m.Set&^wire.SetSize, true
	}
	if m.Set&(wire.SetMtime|wire.SetMtimeNow) != 0 {
		if m.Set&wire.SetMtimeNow != 0 {
			m.Mtime = now
		}
		n.mtime, n.mtimeSet, changed = m.Mtime, true, true
	}
	if m.Set&(wire.SetAtime|wire.SetAtimeNow) != 0 {
		if m.Set&wire.SetAtimeNow != 0 {
			m.Atime = now
		}
		n.atime, n.atimeSet, changed = m.Atime, true, true
	}
	m.Set &^= wire.SetMtime | wire.SetMtimeNow | wire.SetAtime | wire.SetAtimeNow
	if changed {
		n.changedLocked(now, f.o.CommitAfter)
	}
	if n.orphan {
		n.setOrphanLocked(m)
		m.Set = 0
	}
	return m, nil
}

// setOrphanLocked applies what is left of a setattr to a file without a name.
func (n *node) setOrphanLocked(m wire.Mutation) {
	if m.Set&wire.SetMode != 0 {
		n.attr.Mode = n.attr.Mode&wire.ModeType | m.Mode
	}
	if m.Set&wire.SetUID != 0 {
		n.attr.UID = m.UID
	}
	if m.Set&wire.SetGID != 0 {
		n.attr.GID = m.GID
	}
	if m.Set&wire.SetSize != 0 {
		n.attr.Size = m.Size
	}
}

func setattrOf(in *fuse.SetAttrIn) wire.Mutation {
	var m wire.Mutation
	if mode, ok := in.GetMode(); ok {
		m.Set, m.Mode = m.Set|wire.SetMode, mode&wire.ModePerm
	}
	if uid, ok := in.GetUID(); ok {
		m.Set, m.UID = m.Set|wire.SetUID, uid
	}
	if gid, ok := in.GetGID(); ok {
		m.Set, m.GID = m.Set|wire.SetGID, gid
	}
	if size, ok := in.GetSize(); ok {
		m.Set, m.Size = m.Set|wire.SetSize, int64(size)
	}
	if t, ok := in.GetATime(); ok {
		m.Set, m.Atime = m.Set|wire.SetAtime, nanoseconds(t)
		if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
			m.Set, m.Atime = m.Set&^wire.SetAtime|wire.SetAtimeNow, 0
		}
	}
	if t, ok := in.GetMTime(); ok {
		m.Set, m.Mtime = m.Set|wire.SetMtime, nanoseconds(t)
		if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
			m.Set, m.Mtime = m.Set&^wire.SetMtime|wire.SetMtimeNow, 0
		}
	}
	return m
}

// nanoseconds since 1970; of a time that does not fit (before 1678, after
// 2262) the nearest that does.
func nanoseconds(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// Mkdir makes a directory.
func (f *fileSystem) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(cancel, &in.InHeader, name, out, wire.Mutation{Kind: wire.MutMkdir, Mode: in.Mode & wire.ModePerm})
}

// Symlink makes a symbolic link.
func (f *fileSystem) Symlink(cancel <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if len(target) > wire.MaxPathLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	return f.make(cancel, in, name, out, wire.Mutation{Kind: wire.MutSymlink, Target: target})
}

func (f *fileSystem) make(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut, m wire.Mutation) fuse.Status {
	if len(name) > wire.MaxNameLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	ctx, end := f.begin(cancel, h)
	defer end()
	m.At, m.UID, m.GID = wire.At{Dir: wire.Ino(h.NodeId), Path: name}, h.Uid, h.Gid
	done, err := f.transact(ctx, m)
	if err != nil {
		if wire.CodeOf(err) == wire.CodeSymlink {
			return fuse.Status(syscall.EEXIST)
		}
		return statusOf(f.inGone(ctx, m.At.Dir, err))
	}
	a, err := f.attrOfNew(ctx, done)
	if err != nil {
		return statusOf(err)
	}
	f.seeNode(a)
	f.fillEntry(out, m.At, a)
	f.takePlace(m.At, a)
	return fuse.OK
}

// seeNode keeps what the kernel is told of that it may use without a word here:
// somebody is in a directory, or has a fifo open, when its name goes.
func (f *fileSystem) seeNode(a wire.Attr) {
	switch a.Mode & wire.ModeType {
	case wire.ModeRegular, wire.ModeSymlink:
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, removed := f.removed[a.Ino]; !removed && len(f.seen) < maxCached {
		f.seen[a.Ino] = a
	}
}

// goneNode returns what that was, when the service has it no more.
func (f *fileSystem) goneNode(ino wire.Ino) (wire.Attr, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a, ok := f.removed[ino]; ok {
		return a, true
	}
	a, ok := f.seen[ino]
	if !ok {
		return a, false
	}
	delete(f.seen, ino)
	a.Nlink, a.Size = 0, 0
	f.removed[ino] = a
	return a, true
}

// inGone: what is looked for, or made, in a directory that was removed is not there.
// The error may be that of another inode: of one that had the name, and has gone.
func (f *fileSystem) inGone(ctx context.Context, dir wire.Ino, err error) error {
	if wire.CodeOf(err) != wire.CodeStale {
		return err
	}
	if _, there := f.stat(ctx, wire.At{Dir: dir}); !isGone(there) {
		return err
	}
	if _, gone := f.goneNode(dir); !gone {
		return err
	}
	return &wire.Error{Code: wire.CodeNotExist, Text: "its directory was removed"}
}

// Rmdir removes an empty directory.
func (f *fileSystem) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if len(name) > wire.MaxNameLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	ctx, end := f.begin(cancel, in)
	defer end()
	at := wire.At{Dir: wire.Ino(in.NodeId), Path: name}
	a, err := f.leased(ctx, at)
	if err != nil {
		return statusOf(err)
	}
	out, err := f.transact(ctx, wire.Mutation{Kind: wire.MutRmdir, At: at})
	if err != nil {
		return statusOf(err)
	}
	if len(out.Results) > 0 && out.Results[0].Ino == a.Ino {
		f.keepRemoved(a)
	}
	return fuse.OK
}

// keepRemoved keeps the attributes of a directory that is no more.
func (f *fileSystem) keepRemoved(a wire.Attr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.Nlink, a.Size = 0, 0
	f.removed[a.Ino] = a
}
