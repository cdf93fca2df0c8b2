package vote

import (
	"fmt"
	"strings"

	"tpcfs/wire"
)

// binder validates a transaction's mutations in their order and binds their
// names to inode numbers (section 4).
//
// All that it decides but three things follows from the decided state, the locks
// and the entry alone, and comes out the same at every replica: errors,
// conflicts, bindings, limits. Not so space (Reserve, Preserve), staged objects
// (Staged) and files that do not open: a replica may be full, have lost a stage, or
// lack descriptors, alone. Checksums of tail blocks are equal unless one replica's block is rotten.
type binder struct {
	*overlay
	prepare   *wire.Prepare
	mutations []wire.Mutation     // the prepare's, or its pack's
	payload   []byte              // what the mutations so far have left
	stages    map[wire.ID]wire.ID // consumed by prepared transactions
	staged    map[wire.ID]bool    // consumed by this transaction
	images    map[imageKey]*image // blocks written in part, as they are now
	spare     *spareImages        // where their memory comes from

	bounds  []Bound
	results []wire.Result
}

// bind returns the contents that go with the mutations, or the first error in
// their order: a *wire.Error for a NO, or a *ViewError.
func (b *binder) bind() (payload []byte, err error) {
	if len(b.payload) > wire.MaxInline {
		return nil, &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("inline contents of a transaction have at most %d bytes", wire.MaxInline)}
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	payload = b.payload
	muts := b.mutations
	if len(muts) > wire.MaxMutations {
		return nil, &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("a transaction has at most %d mutations", wire.MaxMutations)}
	}
	b.bounds, b.results = make([]Bound, 0, len(muts)), make([]wire.Result, 0, len(muts))
	for i := range muts {
		if err := b.mutation(i, &muts[i]); err != nil {
			if no, _ := verdictOf(err); no != nil {
				no.Op, no.Mutation = opNames[muts[i].Kind], i
			}
			return nil, err
		}
	}
	if len(b.payload) > 0 {
		return nil, &wire.Error{Code: wire.CodeProtocol, Text: fmt.Sprintf("%d bytes of contents belong to no mutation", len(b.payload))}
	}
	return payload, nil
}

var opNames = map[wire.MutationKind]string{
	wire.MutWriteFile: "writeFile", wire.MutDeleteFile: "deleteFile", wire.MutMkdir: "mkdir", wire.MutRmdir: "rmdir",
	wire.MutRename: "rename", wire.MutSymlink: "symlink", wire.MutSetattr: "setattr",
	wire.MutLink: "link", wire.MutMknod: "mknod", wire.MutSetxattr: "setxattr", wire.MutRemovexattr: "removexattr",
	wire.MutCreateUnlinked: "createUnlinked", wire.MutReclaim: "reclaim",
	wire.MutAllocate: "allocate", wire.MutPunchHole: "punchHole", wire.MutZeroRange: "zeroRange",
}

func (b *binder) mutation(i int, m *wire.Mutation) error {
	ino := wire.Ino(b.prepare.Tx) + wire.Ino(i)
	if b.prepare.Pack != nil { // nobody has looked at it yet, and a NO has to fit in a record
		if err := m.CheckLimits(); err != nil {
			return err
		}
	}
	if err := checkForm(m); err != nil {
		return err
	}
	switch m.Kind {
	case wire.MutWriteFile:
		return b.writeFile(m, ino)
	case wire.MutDeleteFile:
		return b.deleteFile(m)
	case wire.MutMkdir:
		return b.mkdir(m, ino)
	case wire.MutRmdir:
		return b.rmdir(m)
	case wire.MutRename:
		return b.rename(m)
	case wire.MutSymlink:
		return b.symlink(m, ino)
	case wire.MutSetattr:
		return b.setattr(m)
	case wire.MutLink:
		return b.link(m)
	case wire.MutMknod:
		return b.mknod(m, ino)
	case wire.MutSetxattr:
		return b.setxattr(m)
	case wire.MutRemovexattr:
		return b.removexattr(m)
	case wire.MutCreateUnlinked:
		return b.createUnlinked(m, ino)
	case wire.MutReclaim:
		return b.reclaim(m)
	case wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		return b.changeRange(m)
	default:
		return &wire.Error{Code: wire.CodeUnsupported, Name: m.At.String(), Text: fmt.Sprintf("this participant knows no mutation of kind %d", m.Kind)}
	}
}

func (b *binder) done(bd Bound, created bool) {
	b.bounds = append(b.bounds, bd)
	b.results = append(b.results, wire.Result{Ino: bd.Ino, Created: created})
}

func no(code wire.Code, at wire.At, text string) error {
	return &wire.Error{Code: code, Name: at.String(), Text: text}
}

// version checks IfVersion against what the mutation is about (nil: nothing).
func version(m *wire.Mutation, n *node) error {
	if m.IfVersion == 0 || n != nil && n.Attr.Version == m.IfVersion {
		return nil
	}
	if n == nil {
		return no(wire.CodeVersion, m.At, fmt.Sprintf("it should have version %v and does not exist", m.IfVersion))
	}
	return no(wire.CodeVersion, m.At, fmt.Sprintf("it has version %v, not %v", n.Attr.Version, m.IfVersion))
}

func (b *binder) writeFile(m *wire.Mutation, newIno wire.Ino) error {
	// A name that has to exist is read; one that may have to be made is made.
	// An existing file's name is only read, so that it conflicts with whoever
	// takes the name away, and its inode is written.
	f, err := b.resolve(m.At, false)
	if err != nil {
		return err
	}
	if m.Create > wire.MustNotExist {
		return no(wire.CodeUnsupported, m.At, fmt.Sprintf("unknown create mode %d", m.Create))
	}
	if f.ino == 0 {
		if err := version(m, nil); err != nil {
			return err
		}
		if m.Create == wire.MustExist {
			return no(wire.CodeNotExist, m.At, "")
		}
		return b.createFile(m, f, newIno)
	}
	switch {
	case m.Create == wire.MustNotExist:
		return no(wire.CodeExist, m.At, "")
	case isType(f.node, wire.ModeSymlink):
		return &wire.Error{Code: wire.CodeSymlink, Name: m.At.String(), Prefix: m.At.Path, Target: f.node.Target}
	case isType(f.node, wire.ModeDir):
		return no(wire.CodeIsDir, m.At, "")
	case !isType(f.node, wire.ModeRegular):
		return no(wire.CodeInvalid, m.At, "it is no regular file")
	}
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Ctime: b.changeTime(m, f.node)}
	return b.content(m, f.node, bd, false)
}

// changeTime is Bound.Ctime of a mutation of a file.
func (b *binder) changeTime(m *wire.Mutation, n *node) int64 {
	if n.fresh {
		return 0
	}
	if t := m.ChangeTime(n.Attr.Ctime, b.prepare.Time); t != b.prepare.Time {
		return t
	}
	return 0
}

func (b *binder) createFile(m *wire.Mutation, f named, ino wire.Ino) error {
	bd, n, err := b.create(m, f, ino, wire.ModeRegular|m.Mode&wire.ModePerm)
	if err != nil {
		return err
	}
	bd.Created = true
	return b.content(m, n, bd, true)
}

// create makes an entry for a new inode: locks, set-gid inheritance, overlay.
func (b *binder) create(m *wire.Mutation, f named, ino wire.Ino, mode uint32) (Bound, *node, error) {
	if err := b.need(entryKey(f.dir, f.name), true, m.At); err != nil {
		return Bound{}, nil, err
	}
	parent, err := b.parent(f, m.At)
	if err != nil {
		return Bound{}, nil, err
	}
	gid := m.GID
	if parent.Attr.Mode&setGID != 0 {
		gid = parent.Attr.GID
		if mode&wire.ModeType == wire.ModeDir {
			mode |= setGID
		}
	}
	n := &node{fresh: true, Inode: Inode{Attr: wire.Attr{Ino: ino, Mode: mode, Nlink: 1, UID: m.UID, GID: gid, Version: b.prepare.Tx}}}
	b.enter(f.dir, f.name, ino)
	b.inodes[ino] = n
	return Bound{Kind: m.Kind, Ino: ino, Dir: f.dir, Name: f.name, Mode: mode & wire.ModePerm, UID: m.UID, GID: gid}, n, nil
}

const setGID = 0o2000

// content checks what a writeFile brings, takes it from the payload, and
// enters the mutation.
func (b *binder) content(m *wire.Mutation, n *node, bd Bound, created bool) error {
	end := n.Attr.Size
	write := b.writeExtents
	if m.Write == wire.WriteWhole {
		write = b.writeWhole
	}
	if err := write(m, n, &bd); err != nil {
		return err
	}
	b.done(bd, created)
	if m.Write == wire.WriteAppend {
		b.results[len(b.results)-1].Offset = end
	}
	return nil
}

func (b *binder) writeWhole(m *wire.Mutation, n *node, bd *Bound) error {
	c := &m.Content
	now := &contents{base: baseStage, stage: c.Stage, size: c.Size, stages: []wire.ID{c.Stage}}
	switch {
	case c.Size < 0:
		return no(wire.CodeInvalid, m.At, "a negative size")
	case c.Size > wire.MaxFileSize:
		return no(wire.CodeTooLarge, m.At, fmt.Sprintf("a file has at most %d bytes", int64(wire.MaxFileSize)))
	case len(m.Extents) > 0:
		return no(wire.CodeInvalid, m.At, "extents beside whole contents")
	case c.Stage != 0:
		if err := b.consume(m.At, *c); err != nil {
			return err
		}
		if b.view.Skew(c.Stage) != 0 {
			return no(wire.CodeInvalid, m.At, fmt.Sprintf("stage %v is a part of a file", c.Stage))
		}
	default:
		data, err := b.take(m.At, c.Size, c.Sum)
		if err != nil {
			return err
		}
		now = &contents{base: baseData, data: data}
	}
	bd.Content = *c
	n.contents = now
	n.Attr.Size, n.Attr.Version = c.Size, b.prepare.Tx
	return nil
}

// consume checks a staged object: one stage is consumed by one prepare, of the
// epoch that staged it. What older epochs have left is being swept from OPEN
// on, here sooner and there later.
func (b *binder) consume(at wire.At, c wire.Content) error {
	if c.Stage.Epoch() != b.prepare.Tx.Epoch() {
		return no(wire.CodeStageLost, at, fmt.Sprintf("stage %v is of another epoch; stage the contents again", c.Stage))
	}
	if tx, taken := b.stages[c.Stage]; taken {
		return no(wire.CodeStageLost, at, fmt.Sprintf("stage %v belongs to transaction %v; stage the contents again", c.Stage, tx))
	}
	if b.staged[c.Stage] {
		return no(wire.CodeStageLost, at, fmt.Sprintf("stage %v is named twice; stage the contents again", c.Stage))
	}
	size, sum, ok := b.view.Staged(c.Stage)
	switch {
	case !ok:
		return no(wire.CodeStageLost, at, fmt.Sprintf("there is no stage %v; stage the contents again", c.Stage))
	case size != c.Size || sum != c.Sum:
		return no(wire.CodeStageLost, at, fmt.Sprintf("stage %v has %d bytes with checksum %08x, not %d with %08x; stage the contents again", c.Stage, size, sum, c.Size, c.Sum))
	}
	b.staged[c.Stage] = true
	return nil
}

// existing resolves a name that will be taken away.
func (b *binder) existing(m *wire.Mutation) (named, error) {
	if m.At.Path == "" {
		return named{}, no(wire.CodeInvalid, m.At, "it takes a name in a directory")
	}
	f, err := b.resolve(m.At, true)
	if err != nil {
		return f, err
	}
	if f.ino == 0 {
		return f, no(wire.CodeNotExist, m.At, "")
	}
	_, err = b.parent(f, m.At)
	return f, err
}

func (b *binder) deleteFile(m *wire.Mutation) error {
	f, err := b.existing(m)
	if err != nil {
		return err
	}
	if isType(f.node, wire.ModeDir) {
		return no(wire.CodeIsDir, m.At, "")
	}
	if err := ifIno(m, m.At, f.ino); err != nil {
		return err
	}
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Dir: f.dir, Name: f.name}
	b.leave(f.dir, f.name)
	if err := b.lose(&bd, f.ino, f.node, m.Hold); err != nil {
		return err
	}
	b.done(bd, false)
	return nil
}

func (b *binder) rmdir(m *wire.Mutation) error {
	f, err := b.existing(m)
	if err != nil {
		return err
	}
	if !isType(f.node, wire.ModeDir) {
		return no(wire.CodeNotDir, m.At, "")
	}
	// Whoever adds or removes an entry there holds the inode shared: the
	// number of entries stands still.
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	if f.node.Attr.Size > 0 {
		return no(wire.CodeNotEmpty, m.At, "")
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Dir: f.dir, Name: f.name}
	b.leave(f.dir, f.name)
	if err := b.lose(&bd, f.ino, f.node, false); err != nil {
		return err
	}
	b.done(bd, false)
	return nil
}

// vacant resolves a name that must not exist yet.
func (b *binder) vacant(m *wire.Mutation) (named, error) {
	if m.At.Path == "" {
		return named{}, no(wire.CodeExist, m.At, "")
	}
	f, err := b.resolve(m.At, true)
	if err != nil {
		return f, err
	}
	if f.ino != 0 {
		return f, no(wire.CodeExist, m.At, "")
	}
	return f, version(m, nil)
}

func (b *binder) mkdir(m *wire.Mutation, ino wire.Ino) error {
	f, err := b.vacant(m)
	if err != nil {
		return err
	}
	bd, n, err := b.create(m, f, ino, wire.ModeDir|m.Mode&wire.ModePerm)
	if err != nil {
		return err
	}
	n.Attr.Nlink, n.Attr.Parent = 2, f.dir
	b.done(bd, true)
	return nil
}

func (b *binder) symlink(m *wire.Mutation, ino wire.Ino) error {
	switch {
	case m.Target == "" || strings.IndexByte(m.Target, 0) >= 0:
		return no(wire.CodeInvalid, m.At, "a link's target is not empty and holds no NUL")
	case len(m.Target) > wire.MaxPathLen:
		return no(wire.CodeNameTooLong, m.At, fmt.Sprintf("a link's target has at most %d bytes", wire.MaxPathLen))
	}
	f, err := b.vacant(m)
	if err != nil {
		return err
	}
	bd, n, err := b.create(m, f, ino, wire.ModeSymlink|0o777)
	if err != nil {
		return err
	}
	n.Target, n.Attr.Size = m.Target, int64(len(m.Target))
	bd.Target = m.Target
	b.done(bd, true)
	return nil
}

// rename follows rename(2).
func (b *binder) rename(m *wire.Mutation) error {
	from, err := b.existing(m)
	if err != nil {
		return err
	}
	if m.To.Path == "" {
		return no(wire.CodeInvalid, m.To, "it takes a name in a directory")
	}
	if err := version(m, from.node); err != nil {
		return err
	}
	to, err := b.resolve(m.To, true)
	if err != nil {
		return err
	}
	if _, err := b.parent(to, m.To); err != nil {
		return err
	}
	if err := ifIno(m, m.To, to.ino); err != nil {
		return err
	}
	switch {
	case m.Rename == wire.RenameNoReplace && to.ino != 0:
		return no(wire.CodeExist, m.To, "")
	case m.Rename == wire.RenameExchange && to.ino == 0:
		return no(wire.CodeNotExist, m.To, "")
	case m.Rename == wire.RenameExchange:
		return b.exchange(m, from, to)
	}
	bd := Bound{Kind: m.Kind, Ino: from.ino, Dir: from.dir, Name: from.name, ToDir: to.dir, ToName: to.name,
		Replaced: to.ino, IsDir: isType(from.node, wire.ModeDir)}
	if bd.IsDir {
		if err := b.moveDir(m, from, to); err != nil {
			return err
		}
	}
	if to.ino == from.ino { // two names of one file, or one name: nothing is done
		b.done(bd, false)
		return nil
	}
	if to.ino != 0 {
		if err := b.replace(&bd, m, from, to); err != nil {
			return err
		}
	}
	b.leave(from.dir, from.name)
	b.enter(to.dir, to.name, from.ino)
	if bd.IsDir {
		from.node.Attr.Parent = to.dir
	}
	b.done(bd, false)
	return nil
}

// moveDir takes the one key of directories' moves, so that what is above stays
// above, and refuses a move into the directory itself.
func (b *binder) moveDir(m *wire.Mutation, from, to named) error {
	if err := b.need(lockKey{kind: lockDirRename}, true, m.At); err != nil {
		return err
	}
	under, err := b.below(to.dir, from.ino, m.To)
	if err == nil && under {
		err = no(wire.CodeInvalid, m.At, "a directory cannot be moved into itself")
	}
	return err
}

func (b *binder) replace(bd *Bound, m *wire.Mutation, from, to named) error {
	fromDir, toDir := isType(from.node, wire.ModeDir), isType(to.node, wire.ModeDir)
	if toDir && !fromDir {
		return no(wire.CodeIsDir, m.To, "")
	}
	if fromDir && !toDir {
		return no(wire.CodeNotDir, m.To, "")
	}
	if err := b.need(inodeKey(to.ino), true, m.To); err != nil {
		return err
	}
	if toDir && to.node.Attr.Size > 0 {
		return no(wire.CodeNotEmpty, m.To, "")
	}
	b.leave(to.dir, to.name)
	return b.lose(bd, to.ino, to.node, m.Hold)
}

const knownSets = wire.SetMode | wire.SetUID | wire.SetGID | wire.SetSize | wire.SetAtime | wire.SetAtimeNow | wire.SetMtime | wire.SetMtimeNow

func (b *binder) setattr(m *wire.Mutation) error {
	if m.Set&^knownSets != 0 {
		return no(wire.CodeUnsupported, m.At, fmt.Sprintf("unknown attributes %#x", uint16(m.Set&^knownSets)))
	}
	f, err := b.resolve(m.At, false)
	if err != nil {
		return err
	}
	if f.ino == 0 {
		return no(wire.CodeNotExist, m.At, "")
	}
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	if m.Set&wire.SetMode != 0 && isType(f.node, wire.ModeSymlink) {
		return no(wire.CodeUnsupported, m.At, "a symbolic link has no mode of its own")
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Set: m.Set, Mode: m.Mode & wire.ModePerm, UID: m.UID, GID: m.GID, Atime: m.Atime, Mtime: m.Mtime, Ctime: b.changeTime(m, f.node)}
	if m.Set&wire.SetSize != 0 {
		bd.Size = m.Size
		if bd.Tail, err = b.resize(m, f.node); err != nil {
			return err
		}
	}
	a := &f.node.Attr
	if m.Set&wire.SetMode != 0 {
		a.Mode = a.Mode&wire.ModeType | bd.Mode
	}
	if m.Set&wire.SetGID != 0 {
		a.GID = m.GID
	}
	b.done(bd, false)
	return nil
}

// resize checks a new size and returns the checksum of the block that it cuts.
func (b *binder) resize(m *wire.Mutation, n *node) (*Tail, error) {
	if err := regular(m.At, n); err != nil {
		return nil, err
	}
	switch {
	case m.Size < 0:
		return nil, no(wire.CodeInvalid, m.At, "a negative size")
	case m.Size > wire.MaxFileSize:
		return nil, no(wire.CodeTooLarge, m.At, fmt.Sprintf("a file has at most %d bytes", int64(wire.MaxFileSize)))
	}
	cuts := m.Size < n.Attr.Size && m.Size%wire.BlockSize != 0
	n.resize(m.Size)
	n.Attr.Version = b.prepare.Tx
	if !cuts {
		return nil, nil
	}
	sums, err := b.sums(n, []int64{m.Size / wire.BlockSize}, m.At)
	if err != nil {
		return nil, err
	}
	return &Tail{Sum: sums[0].Sum, Bad: sums[0].Bad}, nil
}
