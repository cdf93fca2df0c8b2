package sim

import (
	"maps"
	"slices"
	"strings"

	"tpcfs/wire"
)

// tree is a small file tree: what one copy, used by one client at a time,
// would hold. It is written against wire's words and not against the machines.
// A tree does not change; with makes the next one.
type tree map[wire.Ino]*file

// file is an inode of a tree; it does not change either.
type file struct {
	mode    uint32 // type and permission bits
	content string
	target  string
	version wire.ID
	parent  wire.Ino // of a directory
	entries map[string]wire.Ino
	links   int // names, of what is no directory
	rdev    uint32
	xattrs  map[string]string
	// linkable: made without a name, and never had one.
	linkable bool
}

func newTree() tree {
	return tree{wire.RootIno: {mode: wire.ModeDir | 0o755, parent: wire.RootIno}}
}

func (f *file) is(kind uint32) bool { return f != nil && f.mode&wire.ModeType == kind }

func (f *file) equal(g *file) bool {
	return f == g || f.mode == g.mode && f.version == g.version && f.parent == g.parent && f.target == g.target &&
		f.content == g.content && maps.Equal(f.entries, g.entries) &&
		f.links == g.links && f.rdev == g.rdev && f.linkable == g.linkable && maps.Equal(f.xattrs, g.xattrs)
}

func (t tree) equal(u tree) bool {
	if len(t) != len(u) {
		return false
	}
	for ino, f := range t {
		if g := u[ino]; g == nil || !f.equal(g) {
			return false
		}
	}
	return true
}

// subdirs is how many directories lie in a directory.
func (t tree) subdirs(f *file) (n int) {
	for _, ino := range f.entries {
		if t[ino].is(wire.ModeDir) {
			n++
		}
	}
	return n
}

// place is what a name leads to.
type place struct {
	dir  wire.Ino // 0: the file was named by its inode
	name string
	ino  wire.Ino // 0: there is nothing
}

// find follows a name as section 4 says.
func (t tree) find(at wire.At) (place, wire.Code) {
	f := t[at.Dir]
	switch {
	case f == nil:
		return place{}, wire.CodeStale
	case at.Path == "":
		return place{ino: at.Dir}, 0
	case !f.is(wire.ModeDir):
		return place{}, wire.CodeNotDir
	}
	dir := at.Dir
	parts := strings.Split(at.Path, "/")
	for _, name := range parts[:len(parts)-1] {
		ino := t[dir].entries[name]
		switch f := t[ino]; {
		case f == nil:
			return place{}, wire.CodeNotExist
		case f.is(wire.ModeSymlink):
			return place{}, wire.CodeSymlink
		case !f.is(wire.ModeDir):
			return place{}, wire.CodeNotDir
		}
		dir = ino
	}
	name := parts[len(parts)-1]
	return place{dir, name, t[dir].entries[name]}, 0
}

// change is a transaction on its way through a tree.
type change struct {
	t       tree
	tx      wire.ID
	payload []byte
	staged  map[wire.ID][]byte
	orphans map[wire.Ino]bool // have lost their last name and were held
	keep    bool              // those that were not stay all the same (F7)
}

// apply does a transaction's mutations; the code and index of the first that
// cannot be done, or what they did.
func (t tree) apply(tx wire.ID, muts []wire.Mutation, payload []byte, staged map[wire.ID][]byte, keep bool) (tree, wire.Outcome, wire.Code, int) {
	c := &change{t: maps.Clone(t), tx: tx, payload: payload, staged: staged, orphans: map[wire.Ino]bool{}, keep: keep}
	var results []wire.Result
	for i := range muts {
		r, code := c.mutation(&muts[i], wire.Ino(tx)+wire.Ino(i))
		if code != 0 {
			return t, wire.Outcome{}, code, i
		}
		results = append(results, r)
	}
	return c.t, wire.Outcome{Results: results, Orphans: c.left()}, 0, 0
}

// edit gives a copy of a file that may be changed.
func (c *change) edit(ino wire.Ino) *file {
	f := *c.t[ino]
	f.entries = maps.Clone(f.entries)
	c.t[ino] = &f
	return &f
}

func (c *change) enter(p place, ino wire.Ino) {
	d := c.edit(p.dir)
	if d.entries == nil {
		d.entries = map[string]wire.Ino{}
	}
	d.entries[p.name] = ino
}

func (c *change) leave(p place) { delete(c.edit(p.dir).entries, p.name) }

// version checks IfVersion.
func version(m *wire.Mutation, f *file) bool {
	return m.IfVersion == 0 || f != nil && f.version == m.IfVersion
}

func (c *change) mutation(m *wire.Mutation, newIno wire.Ino) (wire.Result, wire.Code) {
	p, code := c.t.find(m.At)
	if m.At.Path == "" { // names of inodes are for contents and attributes
		switch m.Kind {
		case wire.MutDeleteFile, wire.MutRmdir, wire.MutRename:
			return wire.Result{}, wire.CodeInvalid
		case wire.MutMkdir, wire.MutSymlink, wire.MutMknod:
			return wire.Result{}, wire.CodeExist
		default:
		}
	}
	if code != 0 {
		return wire.Result{}, code
	}
	f := c.t[p.ino]
	switch m.Kind {
	case wire.MutWriteFile:
		return c.write(m, p, f, newIno)
	case wire.MutMkdir, wire.MutSymlink, wire.MutMknod:
		return c.create(m, p, f, newIno)
	case wire.MutRename:
		return wire.Result{Ino: p.ino}, c.rename(m, p, f)
	case wire.MutSetattr:
		return wire.Result{Ino: p.ino}, c.setattr(m, p, f)
	case wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		return wire.Result{Ino: p.ino}, c.changeRange(m, p, f)
	case wire.MutDeleteFile, wire.MutRmdir:
		return wire.Result{Ino: p.ino}, c.remove(m, p, f)
	default:
		return c.meta(m, p, f, newIno)
	}
}

func (c *change) write(m *wire.Mutation, p place, f *file, newIno wire.Ino) (wire.Result, wire.Code) {
	switch {
	case f == nil && m.IfVersion != 0:
		return wire.Result{}, wire.CodeVersion
	case f == nil && m.Create == wire.MustExist:
		return wire.Result{}, wire.CodeNotExist
	case f != nil && m.Create == wire.MustNotExist:
		return wire.Result{}, wire.CodeExist
	case f.is(wire.ModeSymlink):
		return wire.Result{}, wire.CodeSymlink
	case f.is(wire.ModeDir):
		return wire.Result{}, wire.CodeIsDir
	case f != nil && !f.is(wire.ModeRegular):
		return wire.Result{}, wire.CodeInvalid
	case f != nil && !version(m, f):
		return wire.Result{}, wire.CodeVersion
	}
	r := wire.Result{Ino: p.ino, Created: f == nil}
	if f == nil {
		r.Ino = newIno
		c.t[newIno] = &file{mode: wire.ModeRegular | m.Mode, links: 1}
		c.enter(p, newIno)
	}
	g := c.edit(r.Ino)
	g.version = c.tx
	if m.Write != wire.WriteWhole {
		r.Offset = c.writeParts(m, g)
		return r, 0
	}
	if m.Content.Stage != 0 {
		g.content = string(c.staged[m.Content.Stage])
	} else {
		g.content, c.payload = string(c.payload[:m.Content.Size]), c.payload[m.Content.Size:]
	}
	return r, 0
}

// writeParts puts a writeFile's extents, or what it appends, into a file.
func (c *change) writeParts(m *wire.Mutation, g *file) (offset int64) {
	if m.Set&wire.SetSize != 0 {
		g.resize(m.Size)
	}
	if m.Write == wire.WriteAppend {
		offset = int64(len(g.content))
	}
	for i := range m.Extents {
		e := &m.Extents[i]
		data := string(c.staged[e.Stage])
		if e.Stage == 0 {
			data, c.payload = string(c.payload[:e.Size]), c.payload[e.Size:]
		}
		g.put(offset+e.Offset, data)
	}
	return offset
}

func (f *file) resize(size int64) {
	if n := int(size); n <= len(f.content) {
		f.content = f.content[:n]
	} else {
		f.content += strings.Repeat("\x00", n-len(f.content))
	}
}

func (f *file) put(at int64, data string) {
	if end := at + int64(len(data)); end > int64(len(f.content)) {
		f.resize(end)
	}
	f.content = f.content[:at] + data + f.content[at+int64(len(data)):]
}

// changeRange does allocate, punchHole and zeroRange: all but where holes are.
func (c *change) changeRange(m *wire.Mutation, p place, f *file) wire.Code {
	switch {
	case f == nil:
		return wire.CodeNotExist
	case f.is(wire.ModeDir):
		return wire.CodeIsDir
	case !f.is(wire.ModeRegular):
		return wire.CodeInvalid
	case !version(m, f):
		return wire.CodeVersion
	}
	g := c.edit(p.ino)
	g.version = c.tx
	end := m.Offset + m.Length
	if size := int64(len(g.content)); m.Kind == wire.MutPunchHole || m.KeepSize {
		end = min(end, size)
	} else if end > size {
		g.resize(end)
	}
	if m.Kind != wire.MutAllocate && m.Offset < end {
		g.put(m.Offset, strings.Repeat("\x00", int(end-m.Offset)))
	}
	return 0
}

func (c *change) create(m *wire.Mutation, p place, f *file, newIno wire.Ino) (wire.Result, wire.Code) {
	switch {
	case f != nil:
		return wire.Result{}, wire.CodeExist
	case m.IfVersion != 0:
		return wire.Result{}, wire.CodeVersion
	}
	g := &file{mode: wire.ModeSymlink | 0o777, target: m.Target, version: c.tx, links: 1}
	switch m.Kind {
	case wire.MutMkdir:
		g = &file{mode: wire.ModeDir | m.Mode, parent: p.dir, version: c.tx}
	case wire.MutMknod:
		g = &file{mode: m.Mode, rdev: m.Rdev, version: c.tx, links: 1}
	default:
	}
	c.t[newIno] = g
	c.enter(p, newIno)
	return wire.Result{Ino: newIno, Created: true}, 0
}

func (c *change) remove(m *wire.Mutation, p place, f *file) wire.Code {
	dir := m.Kind == wire.MutRmdir
	switch {
	case f == nil:
		return wire.CodeNotExist
	case !dir && f.is(wire.ModeDir):
		return wire.CodeIsDir
	case dir && !f.is(wire.ModeDir):
		return wire.CodeNotDir
	case !version(m, f), m.IfIno != 0 && m.IfIno != p.ino:
		return wire.CodeVersion
	case dir && len(f.entries) > 0:
		return wire.CodeNotEmpty
	}
	c.leave(p)
	c.lose(p.ino, m.Hold)
	return 0
}

// rename follows rename(2).
func (c *change) rename(m *wire.Mutation, p place, f *file) wire.Code {
	switch {
	case f == nil:
		return wire.CodeNotExist
	case m.To.Path == "":
		return wire.CodeInvalid
	case !version(m, f):
		return wire.CodeVersion
	}
	to, code := c.t.find(m.To)
	if code != 0 {
		return code
	}
	switch {
	case m.IfIno != 0 && m.IfIno != to.ino:
		return wire.CodeVersion
	case m.Rename == wire.RenameNoReplace && to.ino != 0:
		return wire.CodeExist
	case m.Rename == wire.RenameExchange:
		return c.exchange(p, to)
	}
	if f.is(wire.ModeDir) && c.below(to.dir, p.ino) {
		return wire.CodeInvalid
	}
	if to.ino == p.ino {
		return 0
	}
	if g := c.t[to.ino]; g != nil {
		switch {
		case g.is(wire.ModeDir) && !f.is(wire.ModeDir):
			return wire.CodeIsDir
		case !g.is(wire.ModeDir) && f.is(wire.ModeDir):
			return wire.CodeNotDir
		case len(g.entries) > 0:
			return wire.CodeNotEmpty
		}
		c.lose(to.ino, m.Hold)
	}
	c.leave(p)
	c.enter(to, p.ino)
	if f.is(wire.ModeDir) {
		c.edit(p.ino).parent = to.dir
	}
	return 0
}

func (c *change) below(dir, top wire.Ino) bool {
	for ; dir != top; dir = c.t[dir].parent {
		if dir == wire.RootIno {
			return false
		}
	}
	return true
}

func (c *change) setattr(m *wire.Mutation, p place, f *file) wire.Code {
	switch {
	case f == nil:
		return wire.CodeNotExist
	case !version(m, f):
		return wire.CodeVersion
	case m.Set&wire.SetMode != 0 && f.is(wire.ModeSymlink):
		return wire.CodeUnsupported
	case m.Set&wire.SetSize != 0 && f.is(wire.ModeDir):
		return wire.CodeIsDir
	case m.Set&wire.SetSize != 0 && !f.is(wire.ModeRegular):
		return wire.CodeInvalid
	}
	g := c.edit(p.ino)
	if m.Set&wire.SetMode != 0 {
		g.mode = g.mode&wire.ModeType | m.Mode
	}
	if m.Set&wire.SetSize != 0 {
		g.version = c.tx
		g.resize(m.Size)
	}
	return 0
}

// read is what a read asks for.
type read struct {
	kind wire.ReadKind
	at   wire.At
	name string // of an extended attribute
}

func (r read) request() wire.Read {
	return wire.Read{Kind: r.kind, At: r.at, Length: -1, Name: r.name}
}

// readOf tells whether a read of this tree gives that code, and that answer.
func (t tree) readOf(r read, code wire.Code, got *readAnswer) bool {
	p, want := t.find(r.at)
	f := t[p.ino]
	switch {
	case want != 0:
	case f == nil:
		want = wire.CodeNotExist
	case r.kind == wire.ReadFile && f.is(wire.ModeDir):
		want = wire.CodeIsDir
	case r.kind == wire.ReadList && f.is(wire.ModeSymlink), r.kind == wire.ReadFile && f.is(wire.ModeSymlink):
		if want = wire.CodeSymlink; r.at.Path == "" { // a link by its number: nobody knows from where its target counts
			want = wire.CodeLoop
		}
	case r.kind == wire.ReadList && !f.is(wire.ModeDir):
		want = wire.CodeNotDir
	case r.kind == wire.ReadFile && !f.is(wire.ModeRegular):
		want = wire.CodeInvalid
	case r.kind == wire.ReadGetxattr:
		if _, has := f.xattrs[r.name]; !has {
			want = wire.CodeNoAttr
		}
	}
	if code != 0 || want != 0 {
		return code == want
	}
	if !t.attrIs(p.ino, f, &got.reply.Attr) {
		return false
	}
	switch r.kind {
	case wire.ReadFile:
		return string(got.data) == f.content
	case wire.ReadList:
		return t.listIs(f, got.reply.Entries)
	case wire.ReadGetxattr:
		return string(got.reply.Value) == f.xattrs[r.name]
	case wire.ReadListxattr:
		return slices.Equal(got.reply.Names, slices.Sorted(maps.Keys(f.xattrs)))
	default:
		return true
	}
}

func (t tree) listIs(f *file, entries []wire.DirEntry) bool {
	names := slices.Sorted(maps.Keys(f.entries))
	if len(names) != len(entries) {
		return false
	}
	for i, e := range entries {
		ino := f.entries[names[i]]
		if e.Name != names[i] || e.Attr.Ino != ino || !t.attrIs(ino, t[ino], &e.Attr) {
			return false
		}
	}
	return true
}

func (t tree) attrIs(ino wire.Ino, f *file, a *wire.Attr) bool {
	size, links, parent := int64(len(f.content)+len(f.target)), f.links, wire.Ino(0)
	if f.is(wire.ModeDir) {
		size, links, parent = int64(len(f.entries)), 2+t.subdirs(f), f.parent
	}
	return a.Ino == ino && a.Mode == f.mode && a.Size == size && a.Nlink == uint32(links) && a.Parent == parent && a.Version == f.version && a.Rdev == f.rdev &&
		a.NoXattrs == (len(f.xattrs) == 0)
}
