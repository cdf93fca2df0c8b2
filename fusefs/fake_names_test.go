package fusefs

import (
	"maps"
	"slices"
	"strings"

	"tpcfs/wire"
)

// orphans lists what mutations with Hold, or without a name, left without one.
func (f *fake) orphans(mutations []wire.Mutation, saved map[wire.Ino]*fakeInode, first wire.Ino) (list []wire.Ino) {
	for i, m := range mutations {
		if m.Kind == wire.MutCreateUnlinked {
			list = append(list, first+wire.Ino(i))
		}
		if !m.Hold {
			continue
		}
		for ino, in := range f.inodes {
			if old := saved[ino]; in.attr.Nlink == 0 && old != nil && (old.attr.Nlink > 0 || old == in) {
				list = append(list, ino)
			}
		}
	}
	return list
}

// nameless are the inodes without a name.
func (f *fake) nameless() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range f.inodes {
		if in.attr.Nlink == 0 {
			n++
		}
	}
	return n
}

// applyNames does the mutations of links, nodes and attributes. err is that of
// finding m.At.
func (f *fake) applyNames(m wire.Mutation, in *fakeInode, err error, ino wire.Ino, now int64) (wire.Result, error) {
	switch m.Kind {
	case wire.MutMknod:
		switch {
		case err == nil:
			return wire.Result{}, fakeErr(wire.CodeExist)
		case wire.CodeOf(err) != wire.CodeNotExist:
			return wire.Result{}, err
		}
		return f.enter(m, &fakeInode{attr: wire.Attr{Nlink: 1, Mode: m.Mode, Rdev: m.Rdev}}, ino, now)
	case wire.MutCreateUnlinked:
		if err != nil || in.names == nil {
			return wire.Result{}, fakeErr(wire.CodeNotDir)
		}
		f.inodes[ino] = &fakeInode{linkable: true, attr: wire.Attr{Ino: ino, Mode: wire.ModeRegular | m.Mode, UID: m.UID, GID: m.GID,
			Atime: now, Mtime: now, Ctime: now, Version: wire.ID(ino)}}
		return wire.Result{Ino: ino, Created: true}, nil
	}
	if err != nil {
		return wire.Result{}, err
	}
	done := wire.Result{Ino: in.attr.Ino}
	switch m.Kind {
	case wire.MutLink:
		return done, f.link(m, in, now)
	case wire.MutReclaim:
		if in.attr.Nlink == 0 {
			delete(f.inodes, in.attr.Ino)
		}
		return done, nil
	case wire.MutSetxattr, wire.MutRemovexattr:
		return done, in.setXattr(m, now)
	}
	return wire.Result{}, fakeErr(wire.CodeUnsupported)
}

func (f *fake) link(m wire.Mutation, in *fakeInode, now int64) error {
	dir := f.inodes[m.To.Dir]
	_, err := f.resolve(m.To)
	switch {
	case in.names != nil:
		return fakeErr(wire.CodePermission)
	case err == nil:
		return fakeErr(wire.CodeExist)
	case wire.CodeOf(err) != wire.CodeNotExist:
		return err
	case dir == nil, in.attr.Nlink == 0 && !in.linkable:
		return fakeErr(wire.CodeNotExist)
	}
	in.attr.Nlink++
	in.linkable, in.attr.Ctime = false, max(now, in.attr.Ctime)
	dir.names[m.To.Path] = in.attr.Ino
	dir.touch(now)
	return nil
}

func (f *fake) exchange(m wire.Mutation, from, to *fakeInode, err error, now int64) (wire.Result, error) {
	if err != nil {
		return wire.Result{}, err
	}
	a, b := f.inodes[m.At.Dir], f.inodes[m.To.Dir]
	a.names[m.At.Path], b.names[m.To.Path] = to.attr.Ino, from.attr.Ino
	for _, moved := range []struct {
		in      *fakeInode
		was, is *fakeInode
	}{{from, a, b}, {to, b, a}} {
		moved.in.attr.Ctime = max(now, moved.in.attr.Ctime)
		if moved.in.names != nil {
			moved.in.attr.Parent = moved.is.attr.Ino
			moved.was.attr.Nlink--
			moved.is.attr.Nlink++
		}
	}
	a.touch(now)
	b.touch(now)
	return wire.Result{Ino: from.attr.Ino}, nil
}

func (n *fakeInode) setXattr(m wire.Mutation, now int64) error {
	_, has := n.xattrs[m.Name]
	space, _, _ := strings.Cut(m.Name, ".")
	isFile := n.names != nil || n.attr.Mode&wire.ModeType == wire.ModeRegular
	switch {
	case !slices.Contains([]string{"user", "trusted", "security", "system"}, space):
		return fakeErr(wire.CodeUnsupported)
	case m.Kind == wire.MutRemovexattr && !has, m.Xattr == wire.XattrReplace && !has:
		return fakeErr(wire.CodeNoAttr)
	case m.Xattr == wire.XattrCreate && has:
		return fakeErr(wire.CodeExist)
	case space == "user" && !isFile:
		return fakeErr(wire.CodePermission)
	case m.Name == "user.too-many":
		return fakeErr(wire.CodeTooMany)
	}
	n.xattrs = maps.Clone(n.xattrs)
	if n.xattrs == nil {
		n.xattrs = map[string]string{}
	}
	if m.Kind == wire.MutRemovexattr {
		delete(n.xattrs, m.Name)
	} else {
		n.xattrs[m.Name] = string(m.Value)
	}
	n.attr.Ctime = max(now, n.attr.Ctime)
	return nil
}

func (n *fakeInode) readXattr(req wire.Read, reply *wire.ReadReply) error {
	if req.Kind == wire.ReadListxattr {
		reply.Names = slices.Sorted(maps.Keys(n.xattrs))
		return nil
	}
	v, ok := n.xattrs[req.Name]
	if !ok {
		return fakeErr(wire.CodeNoAttr)
	}
	reply.Value = []byte(v)
	return nil
}
