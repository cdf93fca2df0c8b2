package vote

import (
	"errors"
	"fmt"
	"strings"

	"tpcfs/wire"
)

// ViewError says that the store could not tell what a vote needs to know. A
// participant that cannot read its own rows may not vote: it ends (S1, P12).
type ViewError struct{ Err error }

func (e *ViewError) Error() string { return "the store cannot be read: " + e.Err.Error() }
func (e *ViewError) Unwrap() error { return e.Err }

// node is a file as the transaction's next mutation sees it.
type node struct {
	Inode
	fresh    bool      // made by this transaction
	contents *contents // nil: as before the transaction
	// What this transaction has done to the extended attributes: which are
	// there (true) or gone, how many more than before, how much longer their names.
	xattrs     map[string]bool
	xattrCount int
	xattrBytes int
}

// overlay is the decided state with a transaction's earlier mutations on top
// (section 4). It takes the locks of what it looks at before it looks.
type overlay struct {
	view    View
	locks   lockTable
	tx      wire.ID
	entries map[Entry]wire.Ino // 0: gone
	inodes  map[wire.Ino]*node // nil: gone
	walked  map[Entry]bool     // locked shared
	order   []Entry            // ... in the order of the walk
}

func newOverlay(view View, locks lockTable, tx wire.ID) *overlay {
	return &overlay{view: view, locks: locks, tx: tx, entries: map[Entry]wire.Ino{}, inodes: map[wire.Ino]*node{}, walked: map[Entry]bool{}}
}

// need checks that a lock can be had; it is granted with the PREPARE record.
func (o *overlay) need(k lockKey, exclusive bool, at wire.At) error {
	id := o.locks.blocker(o.tx, k, exclusive)
	if id == 0 {
		return nil
	}
	return conflict(at, id, k)
}

func conflict(at wire.At, blocker wire.ID, k lockKey) error {
	return &wire.Error{Code: wire.CodeConflict, Name: at.String(), Blocker: blocker, Key: k.number(),
		Text: fmt.Sprintf("transaction %v is at work on it; nothing changed, try again", blocker)}
}

// inode returns a file, nil when there is none.
func (o *overlay) inode(ino wire.Ino) (*node, error) {
	if n, ok := o.inodes[ino]; ok {
		return n, nil
	}
	in, err := o.view.Inode(ino)
	switch {
	case wire.CodeOf(err) == wire.CodeNotExist:
		return nil, nil
	case err != nil:
		return nil, &ViewError{err}
	}
	n := &node{Inode: in}
	o.inodes[ino] = n
	return n, nil
}

// lookup returns the inode number of an entry, 0 when there is none.
func (o *overlay) lookup(dir wire.Ino, name string) (wire.Ino, error) {
	if ino, ok := o.entries[Entry{dir, name}]; ok {
		return ino, nil
	}
	if n := o.inodes[dir]; n != nil && n.fresh {
		return 0, nil
	}
	ino, err := o.view.Lookup(dir, name)
	switch {
	case wire.CodeOf(err) == wire.CodeNotExist:
		return 0, nil
	case err != nil:
		return 0, &ViewError{err}
	}
	return ino, nil
}

// named is where a name leads: the directory, the last component and what it
// names (0: nothing). With an empty path dir is 0.
type named struct {
	dir  wire.Ino
	name string
	ino  wire.Ino
	node *node
}

// self resolves {ino, ""}.
func (o *overlay) self(at wire.At) (named, error) {
	n, err := o.inode(at.Dir)
	if err != nil {
		return named{}, err
	}
	if n == nil {
		return named{}, &wire.Error{Code: wire.CodeStale, Name: at.String(), Text: "the file is gone; look it up again"}
	}
	return named{ino: at.Dir, node: n}, nil
}

// resolve walks a name. Every component but the last is locked shared; the
// last one as exclusive says, before it is looked up.
func (o *overlay) resolve(at wire.At, exclusive bool) (named, error) {
	if at.Path == "" {
		return o.self(at)
	}
	parts, err := splitPath(at)
	if err != nil {
		return named{}, err
	}
	dir, err := o.startDir(at)
	if err != nil {
		return named{}, err
	}
	for i, name := range parts[:len(parts)-1] {
		prefix := func() string { return strings.Join(parts[:i+1], "/") }
		n, err := o.step(dir, name, at)
		switch {
		case err != nil:
			return named{}, err
		case n.node == nil:
			return named{}, &wire.Error{Code: wire.CodeNotExist, Name: at.String(), Text: fmt.Sprintf("%q does not exist", prefix())}
		case isType(n.node, wire.ModeSymlink):
			return named{}, &wire.Error{Code: wire.CodeSymlink, Name: at.String(), Prefix: prefix(), Target: n.node.Target, Rest: strings.Join(parts[i+1:], "/")}
		case !isType(n.node, wire.ModeDir):
			return named{}, &wire.Error{Code: wire.CodeNotDir, Name: at.String(), Text: fmt.Sprintf("%q is not a directory", prefix())}
		}
		dir = n.ino
	}
	last := parts[len(parts)-1]
	if !exclusive {
		return o.step(dir, last, at)
	}
	if err := o.need(entryKey(dir, last), true, at); err != nil {
		return named{}, err
	}
	return o.find(dir, last)
}

// startDir checks the directory that a path is relative to.
func (o *overlay) startDir(at wire.At) (wire.Ino, error) {
	n, err := o.inode(at.Dir)
	switch {
	case err != nil:
		return 0, err
	case n == nil:
		return 0, &wire.Error{Code: wire.CodeStale, Name: at.String(), Text: "its directory is gone; look it up again"}
	case !isType(n, wire.ModeDir):
		return 0, &wire.Error{Code: wire.CodeNotDir, Name: at.String(), Text: fmt.Sprintf("inode %d is not a directory", at.Dir)}
	}
	return at.Dir, nil
}

// step looks up one component that must stay as it is.
func (o *overlay) step(dir wire.Ino, name string, at wire.At) (named, error) {
	if err := o.need(entryKey(dir, name), false, at); err != nil {
		return named{}, err
	}
	if e := (Entry{dir, name}); !o.walked[e] {
		o.walked[e] = true
		o.order = append(o.order, e)
	}
	return o.find(dir, name)
}

func (o *overlay) find(dir wire.Ino, name string) (named, error) {
	f := named{dir: dir, name: name}
	var err error
	if f.ino, err = o.lookup(dir, name); err != nil || f.ino == 0 {
		return f, err
	}
	if f.node, err = o.inode(f.ino); err != nil {
		return f, err
	}
	if f.node == nil {
		return f, &ViewError{corrupt("entry %q of directory %d names inode %d, which does not exist", name, dir, f.ino)}
	}
	return f, nil
}

// parent locks and returns the directory that gains or loses an entry.
func (o *overlay) parent(f named, at wire.At) (*node, error) {
	if err := o.need(inodeKey(f.dir), false, at); err != nil {
		return nil, err
	}
	n, err := o.inode(f.dir)
	if err == nil && n == nil {
		err = &ViewError{corrupt("directory %d was walked and does not exist", f.dir)}
	}
	return n, err
}

// maxDepth bounds how many directories lie above a place that a directory moves to: the
// way up is walked while everybody else waits.
const maxDepth = 1 << 16

// below reports whether dir is the directory top or under it. at is what the error names.
func (o *overlay) below(dir, top wire.Ino, at wire.At) (bool, error) {
	for depth := 0; ; depth++ {
		if dir == top {
			return true, nil
		}
		if dir == wire.RootIno {
			return false, nil
		}
		n, err := o.inode(dir)
		if err != nil {
			return false, err
		}
		if n == nil {
			return false, &ViewError{corrupt("directory %d has no way up to the root", dir)}
		}
		if depth == maxDepth { // anybody can make such a tree
			return false, no(wire.CodeTooMany, at, fmt.Sprintf("a directory moves to a place with at most %d directories above it", maxDepth))
		}
		dir = n.Attr.Parent
	}
}

// enter and leave change an entry and count it in its directory.
func (o *overlay) enter(dir wire.Ino, name string, ino wire.Ino) {
	o.entries[Entry{dir, name}] = ino
	if n := o.inodes[dir]; n != nil {
		n.Attr.Size++
	}
}

func (o *overlay) leave(dir wire.Ino, name string) {
	o.entries[Entry{dir, name}] = 0
	if n := o.inodes[dir]; n != nil {
		n.Attr.Size--
	}
}

// unlink takes one name from a file; at none it goes, unless it is held.
func (o *overlay) unlink(ino wire.Ino, n *node, hold bool) {
	if isType(n, wire.ModeDir) || n.Attr.Nlink <= 1 && !hold {
		o.inodes[ino] = nil
		return
	}
	n.Attr.Nlink--
}

func isType(n *node, t uint32) bool { return n.Attr.Mode&wire.ModeType == t }

// splitPath checks a path's components (section 4).
func splitPath(at wire.At) ([]string, error) {
	bad := func(code wire.Code, format string, args ...any) error {
		return &wire.Error{Code: code, Name: at.String(), Text: fmt.Sprintf(format, args...)}
	}
	if len(at.Path) > wire.MaxPathLen {
		return nil, bad(wire.CodeNameTooLong, "a path has at most %d bytes", wire.MaxPathLen)
	}
	if strings.IndexByte(at.Path, 0) >= 0 {
		return nil, bad(wire.CodeInvalid, "a name holds no NUL")
	}
	parts := strings.Split(at.Path, "/")
	for _, p := range parts {
		switch {
		case p == "":
			return nil, bad(wire.CodeInvalid, "an empty name in the path")
		case p == "." || p == "..":
			return nil, bad(wire.CodeInvalid, "%q is not a name", p)
		case len(p) > wire.MaxNameLen:
			return nil, bad(wire.CodeNameTooLong, "a name has at most %d bytes", wire.MaxNameLen)
		}
	}
	return parts, nil
}

// verdictOf tells a NO's error from a store that cannot be read.
func verdictOf(err error) (*wire.Error, error) {
	var we *wire.Error
	var ve *ViewError
	if errors.As(err, &ve) || !errors.As(err, &we) {
		return nil, err
	}
	return we, nil
}
