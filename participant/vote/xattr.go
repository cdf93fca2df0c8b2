package vote

import (
	"fmt"
	"strings"

	"tpcfs/wire"
)

// checkXattr checks an extended attribute's name (xattr(7)).
func checkXattr(m *wire.Mutation) error {
	space, rest, _ := strings.Cut(m.Name, ".")
	switch {
	case len(m.Name) > wire.MaxNameLen:
		return no(wire.CodeNameTooLong, m.At, fmt.Sprintf("an extended attribute's name has at most %d bytes", wire.MaxNameLen))
	case strings.IndexByte(m.Name, 0) >= 0:
		return no(wire.CodeInvalid, m.At, "an extended attribute's name holds no NUL")
	case space != "user" && space != "trusted" && space != "security" && space != "system":
		return no(wire.CodeUnsupported, m.At, fmt.Sprintf("extended attribute %q is in none of the namespaces user, trusted, security and system", m.Name))
	case rest == "":
		return no(wire.CodeInvalid, m.At, fmt.Sprintf("extended attribute %q has a namespace and no name", m.Name))
	}
	return nil
}

// forXattr finds and locks the file whose extended attribute changes, and tells
// whether it has it.
func (b *binder) forXattr(m *wire.Mutation) (f named, has bool, err error) {
	if err := checkXattr(m); err != nil {
		return f, false, err
	}
	if f, err = b.resolve(m.At, false); err != nil {
		return f, false, err
	}
	if f.ino == 0 {
		return f, false, no(wire.CodeNotExist, m.At, "")
	}
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return f, false, err
	}
	if err := version(m, f.node); err != nil {
		return f, false, err
	}
	has, err = b.hasXattr(f.ino, f.node, m.Name)
	return f, has, err
}

func (b *binder) setxattr(m *wire.Mutation) error {
	f, has, err := b.forXattr(m)
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(m.Name, "user.") && !isType(f.node, wire.ModeRegular) && !isType(f.node, wire.ModeDir):
		return no(wire.CodePermission, m.At, "only files and directories have user attributes")
	case len(m.Value) > wire.MaxXattrValue:
		return no(wire.CodeTooMany, m.At, fmt.Sprintf("an extended attribute's value has at most %d bytes", wire.MaxXattrValue))
	case has && m.Xattr == wire.XattrCreate:
		return no(wire.CodeExist, m.At, fmt.Sprintf("it has an extended attribute %q", m.Name))
	case !has && m.Xattr == wire.XattrReplace:
		return no(wire.CodeNoAttr, m.At, fmt.Sprintf("it has no extended attribute %q", m.Name))
	}
	if !has {
		_, bytes, err := b.xattrsOf(f.ino, f.node)
		if err != nil {
			return err
		}
		if bytes+len(m.Name)+1 > wire.MaxXattrNames {
			return no(wire.CodeTooMany, m.At, fmt.Sprintf("the names of a file's extended attributes have at most %d bytes", wire.MaxXattrNames))
		}
		f.node.noteXattr(m.Name, true)
	}
	b.done(Bound{Kind: m.Kind, Ino: f.ino, Xattr: m.Name, Value: m.Value}, false)
	return nil
}

func (b *binder) removexattr(m *wire.Mutation) error {
	f, has, err := b.forXattr(m)
	switch {
	case err != nil:
		return err
	case !has:
		return no(wire.CodeNoAttr, m.At, fmt.Sprintf("it has no extended attribute %q", m.Name))
	}
	f.node.noteXattr(m.Name, false)
	b.done(Bound{Kind: m.Kind, Ino: f.ino, Xattr: m.Name}, false)
	return nil
}

// hasXattr: has the file the attribute, as this mutation sees it?
func (o *overlay) hasXattr(ino wire.Ino, n *node, name string) (bool, error) {
	if has, ok := n.xattrs[name]; ok {
		return has, nil
	}
	if n.fresh {
		return false, nil
	}
	has, err := o.view.Xattr(ino, name)
	if err != nil {
		return false, &ViewError{err}
	}
	return has, nil
}

// xattrsOf counts a file's attributes, and the bytes of their names.
func (o *overlay) xattrsOf(ino wire.Ino, n *node) (count, bytes int, err error) {
	if !n.fresh {
		if count, bytes, err = o.view.Xattrs(ino); err != nil {
			return 0, 0, &ViewError{err}
		}
	}
	return count + n.xattrCount, bytes + n.xattrBytes, nil
}

// noteXattr enters that an attribute has come or gone.
func (n *node) noteXattr(name string, has bool) {
	if n.xattrs == nil {
		n.xattrs = map[string]bool{}
	}
	n.xattrs[name] = has
	if has {
		n.xattrCount++
		n.xattrBytes += len(name) + 1
	} else {
		n.xattrCount--
		n.xattrBytes -= len(name) + 1
	}
}
