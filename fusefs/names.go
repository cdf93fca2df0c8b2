package fusefs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// Mknod makes a regular file, a fifo, a socket or a device (mknod(2)). The
// kernel knows who may make devices; the mount is nodev, they open nowhere here.
func (f *fileSystem) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(cancel, &in.InHeader, name, out, wire.Mutation{
		Kind: wire.MutMknod, Mode: in.Mode & (wire.ModeType | wire.ModePerm), Rdev: in.Rdev})
}

// Link gives a file one more name, or one made by Tmpfile its first. Gathered
// writes go first: after a crash the new name has what was written before it.
func (f *fileSystem) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if len(name) > wire.MaxNameLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	at := wire.At{Dir: wire.Ino(in.Oldnodeid)}
	n := f.peek(at.Dir)
	if n != nil {
		defer f.letGo(n)
		if err := f.sync(ctx, n); err != nil {
			return statusOf(err)
		}
	}
	if _, err := f.transact(ctx, wire.Mutation{
		Kind: wire.MutLink, At: at, To: wire.At{Dir: wire.Ino(in.NodeId), Path: name},
	}); err != nil {
		if n != nil && wire.CodeOf(err) == wire.CodeUnknownOutcome {
			n.mayHaveName()
		}
		return statusOf(f.inGone(ctx, wire.Ino(in.NodeId), err))
	}
	if n != nil {
		n.setHeld(false, false)
	}
	a, err := f.attr(ctx, at)
	if err != nil {
		return statusOf(err)
	}
	f.fillEntry(out, wire.At{}, a)
	f.linked(a.Ino)
	return fuse.OK
}

// renameModes are the flags of renameat2(2) that there are here; with any
// other it is EINVAL.
var renameModes = map[uint32]wire.RenameMode{
	0: wire.RenameReplace, unix.RENAME_NOREPLACE: wire.RenameNoReplace, unix.RENAME_EXCHANGE: wire.RenameExchange,
}

// Rename moves a name, over another if there is one, or exchanges two.
// Gathered writes of what gets a new name go first: after a crash that has
// what was written before it.
func (f *fileSystem) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if len(oldName) > wire.MaxNameLen || len(newName) > wire.MaxNameLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	mode, ok := renameModes[in.Flags]
	if !ok {
		return fuse.Status(syscall.EINVAL)
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	from := wire.At{Dir: wire.Ino(in.NodeId), Path: oldName}
	to := wire.At{Dir: wire.Ino(in.Newdir), Path: newName}
	m := wire.Mutation{Kind: wire.MutRename, At: from, To: to, Rename: mode}
	if err := f.syncName(ctx, from); err != nil {
		return statusOf(err)
	}
	var err error
	switch mode {
	case wire.RenameExchange:
		if err = f.syncName(ctx, to); err == nil {
			_, err = f.transact(ctx, m)
		}
	case wire.RenameNoReplace:
		_, err = f.transact(ctx, m)
	default:
		err = f.replace(ctx, to, m, in.Pid)
	}
	if err == nil {
		f.mu.Lock()
		f.places.moved(from, to, mode)
		f.mu.Unlock()
	}
	return statusOf(f.inGone(ctx, to.Dir, err))
}

// replace renames over what is at a name, if anything is. A directory there,
// which is empty, goes; it may be somebody's working directory.
func (f *fileSystem) replace(ctx context.Context, to wire.At, m wire.Mutation, thread uint32) error {
	old, err := f.leased(ctx, to)
	if err != nil && !isGone(err) {
		return err
	}
	if err := f.unname(ctx, to, m, thread); err != nil || old.Mode&wire.ModeType != wire.ModeDir {
		return err
	}
	if _, err := f.stat(ctx, wire.At{Dir: old.Ino}); isGone(err) {
		f.keepRemoved(old)
	}
	return nil
}

// syncName commits what is gathered of the file at a name.
func (f *fileSystem) syncName(ctx context.Context, at wire.At) error {
	if !f.busy() {
		return nil
	}
	a, err := f.leased(ctx, at)
	if err != nil {
		return err
	}
	n := f.peek(a.Ino)
	if n == nil {
		return nil
	}
	defer f.letGo(n)
	return f.sync(ctx, n)
}

// Unlink removes a name. A file that is open in this mount is held for those
// who have it open.
func (f *fileSystem) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if len(name) > wire.MaxNameLen {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	ctx, end := f.begin(cancel, in)
	defer end()
	at := wire.At{Dir: wire.Ino(in.NodeId), Path: name}
	return statusOf(f.unname(ctx, at, wire.Mutation{Kind: wire.MutDeleteFile, At: at}, in.Pid))
}

// busy reports whether any file is open or has gathered changes.
func (f *fileSystem) busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.nodes) > 0
}
