package fusefs

import (
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// xattrKnown: is the attribute in a namespace that there is here? Access
// control lists are not (F8).
func xattrKnown(attr string) bool {
	space, _, ok := strings.Cut(attr, ".")
	return ok && (space == "user" || space == "trusted" || space == "security" || space == "system") &&
		!strings.HasPrefix(attr, "system.posix_acl_")
}

// GetXAttr is getxattr(2): with room for nothing it tells the size.
func (f *fileSystem) GetXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if !xattrKnown(attr) {
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
	ctx, end := f.begin(cancel, in)
	defer end()
	a, err := f.leasedRead(ctx, wire.Ino(in.NodeId), question{wire.ReadGetxattr, attr})
	if err != nil {
		return 0, statusOf(staleIfGone(err))
	}
	return fit(dest, a.value)
}

// ListXAttr is listxattr(2): with room for nothing it tells the size.
func (f *fileSystem) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	ctx, end := f.begin(cancel, in)
	defer end()
	a, err := f.leasedRead(ctx, wire.Ino(in.NodeId), question{kind: wire.ReadListxattr})
	if err != nil {
		return 0, statusOf(staleIfGone(err))
	}
	var list []byte
	for _, name := range a.names {
		if in.Uid != 0 && strings.HasPrefix(name, "trusted.") {
			continue // for root alone (xattr(7)): the kernel sees to it at getxattr only
		}
		list = append(append(list, name...), 0)
	}
	return fit(dest, list)
}

// fit copies value to where the caller has room for it.
func fit(dest, value []byte) (uint32, fuse.Status) {
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// xattrModes are the flags of setxattr(2).
var xattrModes = map[uint32]wire.XattrMode{
	0: wire.XattrEither, unix.XATTR_CREATE: wire.XattrCreate, unix.XATTR_REPLACE: wire.XattrReplace,
}

// SetXAttr is setxattr(2).
func (f *fileSystem) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	if in.Flags == unix.XATTR_CREATE|unix.XATTR_REPLACE { // never: it must be new, and there
		if _, status := f.GetXAttr(cancel, &in.InHeader, attr, nil); status != fuse.OK && status != fuse.ERANGE {
			return status
		}
		return fuse.Status(syscall.EEXIST)
	}
	mode, ok := xattrModes[in.Flags]
	switch {
	case !ok:
		return fuse.Status(syscall.EINVAL)
	case !xattrKnown(attr):
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	value := slices.Clone(data) // the request's memory is used again, and the transaction may outlive the call
	return f.changeXattr(cancel, &in.InHeader, wire.Mutation{Kind: wire.MutSetxattr, Name: attr, Value: value, Xattr: mode})
}

// RemoveXAttr is removexattr(2).
func (f *fileSystem) RemoveXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	if !xattrKnown(attr) {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return f.changeXattr(cancel, in, wire.Mutation{Kind: wire.MutRemovexattr, Name: attr})
}

func (f *fileSystem) changeXattr(cancel <-chan struct{}, in *fuse.InHeader, m wire.Mutation) fuse.Status {
	ctx, end := f.begin(cancel, in)
	defer end()
	m.At = wire.At{Dir: wire.Ino(in.NodeId)}
	_, err := f.transact(ctx, m)
	if wire.CodeOf(err) == wire.CodeTooMany { // setxattr(2) of a file that has no room for more
		return fuse.Status(syscall.ENOSPC)
	}
	return statusOf(staleIfGone(err))
}
