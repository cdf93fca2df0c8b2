package fusefs

import (
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/wire"
)

// fake is the service in memory: names, versions, preconditions and errors as
// wire's contracts say, one transaction at a time.
type fake struct {
	locks  fakeLocks
	leases bool // set before it is mounted
	older  bool // likewise: it does not tell that a file has no extended attributes

	calls    atomic.Int64 // transactions asked for
	readCall atomic.Int64
	sunk     atomic.Int64
	sent     atomic.Int64 // bytes of contents
	readSent atomic.Int64 // bytes read
	ahead    atomic.Int64 // bytes written ahead
	aheads   atomic.Int64 // head starts that are not at their end

	mu        sync.Mutex // guards all below
	inodes    map[wire.Ino]*fakeInode
	nextID    wire.ID
	down      chan struct{}                                           // not nil: the service is away until it is closed
	waits     func()                                                  // runs before a transaction, without mu
	before    func(mutations []wire.Mutation) error                   // may refuse a transaction
	behind    []*wire.Behind                                          // of each Transact
	after     func(mutations []wire.Mutation, out wire.Outcome) error // may lose its answer
	afterRead func()                                                  // runs between a read and its answer
	piece     int                                                     // bytes of a piece; 0: wire.PieceSize
	aheadErr  func(sent int64) error                                  // may refuse what is sent ahead
	space     int64                                                   // of all contents; 0: no bound
	sink      bool                                                    // contents are counted, not kept
	list      int                                                     // entries of a page; 0: as asked for
	off       time.Duration                                           // its clock less this machine's
	time      int64                                                   // of the last transaction
	late      time.Duration                                           // how long before its answer a transaction was put, as that says; 0: it does not
	was       map[wire.Ino]*fakeInode                                 // before it
}

type fakeInode struct {
	attr   wire.Attr
	data   []byte
	target string
	names  map[string]wire.Ino
	sorted []string // names, if they have not changed since

	xattrs   map[string]string // replaced, never changed
	linkable bool              // made without a name
}

func newFake() *fake {
	now := time.Now().UnixNano()
	f := &fake{inodes: map[wire.Ino]*fakeInode{}, nextID: wire.MakeID(1, 2)}
	f.inodes[wire.RootIno] = &fakeInode{names: map[string]wire.Ino{}, attr: wire.Attr{
		Ino: wire.RootIno, Mode: wire.ModeDir | 0o755, Nlink: 2, Atime: now, Mtime: now, Ctime: now}}
	return f
}

// stop makes the service go away; what it returns brings it back.
func (f *fake) stop() (start func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	down := make(chan struct{})
	f.down = down
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.down = nil
		close(down)
	})
}

func (f *fake) set(change func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// wait returns with mu held, once the service is there.
func (f *fake) wait(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return wire.NewError(wire.CodeCanceled, "")
		}
		f.mu.Lock()
		down := f.down
		if down == nil {
			return nil
		}
		f.mu.Unlock()
		select {
		case <-down:
		case <-ctx.Done():
			return wire.NewError(wire.CodeCanceled, "")
		}
	}
}

func fakeErr(code wire.Code) error { return wire.NewError(code, "fake") }

func (f *fake) resolve(at wire.At) (*fakeInode, error) {
	dir := f.inodes[at.Dir]
	if dir == nil {
		return nil, fakeErr(wire.CodeNotExist)
	}
	if at.Path == "" {
		return dir, nil
	}
	if dir.names == nil {
		return nil, fakeErr(wire.CodeNotDir)
	}
	if strings.Contains(at.Path, "/") || at.Path == "." || at.Path == ".." {
		return nil, fakeErr(wire.CodeInvalid)
	}
	ino, ok := dir.names[at.Path]
	if !ok {
		return nil, fakeErr(wire.CodeNotExist)
	}
	return f.inodes[ino], nil
}

func (f *fake) TransactBehind(ctx context.Context, behind *wire.Behind, mutations []wire.Mutation, contents []Content) (wire.Outcome, error) {
	f.calls.Add(1)
	data := make([][]byte, len(mutations))
	sunk := int64(-1)
	for i, c := range contents {
		if c == nil {
			continue
		}
		r, err := c.Open()
		if err != nil {
			return wire.Outcome{}, err
		}
		if f.sink {
			var n int64
			n, err = io.Copy(io.Discard, r)
			if err != nil {
				return wire.Outcome{}, err
			}
			f.sunk.Add(n)
			if sunk = n; mutations[i].Write != wire.WriteWhole {
				panic("a sink takes whole files")
			}
			continue
		}
		data[i], err = io.ReadAll(r)
		if err != nil {
			return wire.Outcome{}, err
		}
		if int64(len(data[i])) != c.Size() {
			panic("contents of another size than they say")
		}
		if a, ok := c.(fakeBegun); ok {
			if !bytes.Equal(data[i], a.sent) {
				panic("what was sent ahead is not what the contents are")
			}
		} else {
			f.sent.Add(c.Size())
		}
		_ = r.Close()
	}
	f.mu.Lock()
	f.behind = append(f.behind, behind)
	waits := f.waits
	f.mu.Unlock()
	if waits != nil {
		waits()
	}
	if err := f.wait(ctx); err != nil {
		return wire.Outcome{}, err
	}
	defer f.mu.Unlock()
	if f.before != nil {
		if err := f.before(mutations); err != nil {
			return wire.Outcome{}, err
		}
	}
	saved := f.copyInodes()
	f.was = saved
	f.time = max(f.time+1, time.Now().Add(f.off).UnixNano())
	out := wire.Outcome{Tx: f.nextID}
	f.nextID += wire.ID(len(mutations))
	for i, m := range mutations {
		r, err := f.apply(m, data[i], out.Tx, wire.Ino(out.Tx)+wire.Ino(i))
		if err == nil && f.space > 0 && f.used() > f.space {
			err = fakeErr(wire.CodeNoSpace)
		}
		if err != nil {
			f.inodes = saved
			return wire.Outcome{}, err
		}
		if m.Kind == wire.MutWriteFile && sunk >= 0 {
			f.inodes[r.Ino].attr.Size = sunk
		}
		out.Results = append(out.Results, r)
	}
	out.Orphans, out.Alone = f.orphans(mutations, saved, wire.Ino(out.Tx)), true
	if f.late != 0 {
		out.Time = f.time - int64(f.late)
	}
	if f.after != nil {
		if err := f.after(mutations, out); err != nil {
			return wire.Outcome{}, err
		}
	}
	return out, nil
}

// fakeAhead is a head start, fakeBegun a content that had one.
type fakeAhead struct {
	f    *fake
	ctx  context.Context
	sent []byte
	over bool
}

type fakeBegun struct {
	Content
	sent []byte
}

func (f *fake) Ahead(ctx context.Context, _ string, _ int64) (Ahead, error) {
	f.aheads.Add(1)
	return &fakeAhead{f: f, ctx: ctx}, ctx.Err()
}

func (a *fakeAhead) Write(p []byte) (int, error) {
	a.f.mu.Lock()
	down, refuse := a.f.down, a.f.aheadErr
	a.f.mu.Unlock()
	if down != nil {
		select {
		case <-down:
		case <-a.ctx.Done():
		}
	}
	if refuse != nil {
		if err := refuse(int64(len(a.sent))); err != nil {
			return 0, err
		}
	}
	a.sent = append(a.sent, p...)
	a.f.ahead.Add(int64(len(p)))
	return len(p), a.ctx.Err()
}

func (a *fakeAhead) Of(c Content) (Content, error) {
	if a.over || a.ctx.Err() != nil || int64(len(a.sent)) != c.Size() {
		panic("a head start ends that is none, or of other contents")
	}
	a.end()
	return fakeBegun{c, a.sent}, nil
}

func (a *fakeAhead) Abort() { a.end() }

func (a *fakeAhead) end() {
	if !a.over {
		a.over = true
		a.f.aheads.Add(-1)
	}
}

func (f *fake) used() (n int64) {
	for _, in := range f.inodes {
		n += int64(len(in.data))
	}
	return n
}

// copyInodes is deep but for contents, which are replaced, never changed.
func (f *fake) copyInodes() map[wire.Ino]*fakeInode {
	if len(f.inodes) > 200 { // too dear: tests that need a rollback are small
		return f.inodes
	}
	m := map[wire.Ino]*fakeInode{}
	for ino, in := range f.inodes {
		c := *in
		c.names = maps.Clone(in.names)
		m[ino] = &c
	}
	return m
}

func (f *fake) apply(m wire.Mutation, data []byte, tx wire.ID, ino wire.Ino) (wire.Result, error) {
	now := f.time
	in, err := f.resolve(m.At)
	if err == nil && f.was[in.attr.Ino] != nil { // one transaction does not change a file at two times
		now = m.ChangeTime(f.was[in.attr.Ino].attr.Ctime, now)
	}
	missing := wire.CodeOf(err) == wire.CodeNotExist
	if m.IfVersion != 0 && (in == nil || in.attr.Version != m.IfVersion) {
		if in == nil {
			return wire.Result{}, err
		}
		return wire.Result{}, fakeErr(wire.CodeVersion)
	}
	switch m.Kind {
	case wire.MutWriteFile:
		return f.writeFile(m, in, err, data, tx, ino, now)
	case wire.MutMkdir, wire.MutSymlink:
		if err == nil {
			return wire.Result{}, fakeErr(wire.CodeExist)
		} else if !missing {
			return wire.Result{}, err
		}
		n := &fakeInode{attr: wire.Attr{Nlink: 1, Mode: wire.ModeSymlink | 0o777, Size: int64(len(m.Target))}, target: m.Target}
		if m.Kind == wire.MutMkdir {
			n = &fakeInode{names: map[string]wire.Ino{}, attr: wire.Attr{Nlink: 2, Mode: wire.ModeDir | m.Mode}}
		}
		return f.enter(m, n, ino, now)
	case wire.MutDeleteFile, wire.MutRmdir:
		if err != nil {
			return wire.Result{}, err
		}
		if m.IfIno != 0 && m.IfIno != in.attr.Ino {
			return wire.Result{}, fakeErr(wire.CodeVersion)
		}
		return f.remove(m.At, in, m.Kind == wire.MutRmdir, m.Hold, now)
	case wire.MutRename:
		if err != nil {
			return wire.Result{}, err
		}
		return f.rename(m, in, now)
	case wire.MutSetattr:
		if err != nil {
			return wire.Result{}, err
		}
		f.setattr(m, in, tx, now)
		return wire.Result{Ino: in.attr.Ino}, nil
	default:
		return f.applyNames(m, in, err, ino, now)
	}
}

func (f *fake) writeFile(m wire.Mutation, in *fakeInode, err error, data []byte, tx wire.ID, ino wire.Ino, now int64) (wire.Result, error) {
	switch {
	case err == nil && m.Create == wire.MustNotExist:
		return wire.Result{}, fakeErr(wire.CodeExist)
	case err == nil && in.names != nil:
		return wire.Result{}, fakeErr(wire.CodeIsDir)
	case err == nil && in.target != "":
		return wire.Result{}, fakeErr(wire.CodeSymlink)
	case err == nil:
		at := int64(len(in.data))
		if m.Write != wire.WriteWhole {
			data = withExtents(in.data, m, data)
		}
		in.data = data
		in.attr.Size, in.attr.Blocks, in.attr.Version = int64(len(data)), int64(len(data)+511)/512, tx
		changeFake(&in.attr, now)
		if m.Write == wire.WriteAppend {
			return wire.Result{Ino: in.attr.Ino, Offset: at}, nil
		}
		return wire.Result{Ino: in.attr.Ino}, nil
	case wire.CodeOf(err) != wire.CodeNotExist || m.Create == wire.MustExist || m.At.Path == "":
		return wire.Result{}, err
	}
	n := &fakeInode{data: data, attr: wire.Attr{Nlink: 1, Mode: wire.ModeRegular | m.Mode, Size: int64(len(data)), Version: tx}}
	return f.enter(m, n, ino, now)
}

// withExtents returns what a file holds after a write of parts.
func withExtents(old []byte, m wire.Mutation, data []byte) []byte {
	start := int64(0)
	if m.Write == wire.WriteAppend {
		start = int64(len(old))
	}
	out := slices.Clone(old)
	for _, e := range m.Extents {
		end := start + e.Offset + e.Size
		out = append(out, make([]byte, max(0, end-int64(len(out))))...)
		copy(out[start+e.Offset:], data[:e.Size])
		data = data[e.Size:]
	}
	if len(data) > 0 {
		panic("more bytes than extents")
	}
	return out
}

func (f *fake) enter(m wire.Mutation, n *fakeInode, ino wire.Ino, now int64) (wire.Result, error) {
	dir := f.inodes[m.At.Dir]
	if dir == nil || dir.names == nil || m.At.Path == "" {
		return wire.Result{}, fakeErr(wire.CodeNotExist)
	}
	n.attr.Ino, n.attr.UID, n.attr.GID = ino, m.UID, m.GID
	n.attr.Atime, n.attr.Mtime, n.attr.Ctime = now, now, now
	if dir.attr.Mode&0o2000 != 0 {
		n.attr.GID = dir.attr.GID
		if n.names != nil {
			n.attr.Mode |= 0o2000
		}
	}
	if n.names != nil {
		n.attr.Parent = m.At.Dir
		dir.attr.Nlink++
	}
	f.inodes[ino] = n
	dir.names[m.At.Path] = ino
	dir.touch(now)
	return wire.Result{Ino: ino, Created: true}, nil
}

// changeFake is what a change of contents does to times.
func changeFake(a *wire.Attr, now int64) {
	if a.Mtime > a.Ctime { // set by somebody
		a.Mtime = now
	}
	a.Mtime, a.Ctime = max(now, a.Mtime), max(now, a.Ctime)
}

func (n *fakeInode) touch(now int64) {
	changeFake(&n.attr, now)
	n.attr.Size, n.sorted = int64(len(n.names)), nil
}

func (f *fake) remove(at wire.At, in *fakeInode, isDir, hold bool, now int64) (wire.Result, error) {
	switch {
	case isDir && in.names == nil:
		return wire.Result{}, fakeErr(wire.CodeNotDir)
	case !isDir && in.names != nil:
		return wire.Result{}, fakeErr(wire.CodeIsDir)
	case len(in.names) > 0:
		return wire.Result{}, fakeErr(wire.CodeNotEmpty)
	}
	dir := f.inodes[at.Dir]
	delete(dir.names, at.Path)
	if in.attr.Nlink--; isDir || in.attr.Nlink == 0 && !hold {
		delete(f.inodes, in.attr.Ino)
	}
	in.attr.Ctime = max(now, in.attr.Ctime)
	if isDir {
		dir.attr.Nlink--
	}
	dir.touch(now)
	return wire.Result{Ino: in.attr.Ino}, nil
}

func (f *fake) rename(m wire.Mutation, in *fakeInode, now int64) (wire.Result, error) {
	to, err := f.resolve(m.To)
	dir, old := f.inodes[m.To.Dir], f.inodes[m.At.Dir]
	switch {
	case dir == nil:
		return wire.Result{}, fakeErr(wire.CodeNotExist)
	case m.IfIno != 0 && (to == nil || to.attr.Ino != m.IfIno):
		return wire.Result{}, fakeErr(wire.CodeVersion)
	case m.Rename == wire.RenameNoReplace && err == nil:
		return wire.Result{}, fakeErr(wire.CodeExist)
	case m.Rename == wire.RenameExchange:
		return f.exchange(m, in, to, err, now)
	case err == nil && to == in:
		return wire.Result{Ino: in.attr.Ino}, nil
	case err == nil && in.names != nil && to.names == nil:
		return wire.Result{}, fakeErr(wire.CodeNotDir)
	case err == nil && in.names == nil && to.names != nil:
		return wire.Result{}, fakeErr(wire.CodeIsDir)
	case err != nil && wire.CodeOf(err) != wire.CodeNotExist:
		return wire.Result{}, err
	}
	for d := m.To.Dir; in.names != nil && d != wire.RootIno; d = f.inodes[d].attr.Parent {
		if d == in.attr.Ino {
			return wire.Result{}, fakeErr(wire.CodeInvalid)
		}
	}
	if err == nil {
		if _, err := f.remove(m.To, to, to.names != nil, m.Hold, now); err != nil {
			return wire.Result{}, err
		}
	}
	delete(old.names, m.At.Path)
	dir.names[m.To.Path] = in.attr.Ino
	if in.names != nil {
		in.attr.Parent = m.To.Dir
		old.attr.Nlink--
		dir.attr.Nlink++
	}
	in.attr.Ctime = max(now, in.attr.Ctime)
	old.touch(now)
	dir.touch(now)
	return wire.Result{Ino: in.attr.Ino}, nil
}

func (f *fake) setattr(m wire.Mutation, in *fakeInode, tx wire.ID, now int64) {
	a := &in.attr
	a.Ctime = max(now, a.Ctime)
	for _, s := range []struct {
		bit wire.SetMask
		do  func()
	}{
		{wire.SetMode, func() { a.Mode = a.Mode&wire.ModeType | m.Mode }},
		{wire.SetUID, func() { a.UID = m.UID }}, {wire.SetGID, func() { a.GID = m.GID }},
		{wire.SetAtime, func() { a.Atime = m.Atime }}, {wire.SetAtimeNow, func() { a.Atime = now }},
		{wire.SetSize, func() {
			data := make([]byte, m.Size)
			copy(data, in.data)
			in.data, a.Size, a.Version = data, m.Size, tx
			changeFake(a, now)
			a.Blocks = (m.Size + 511) / 512
		}},
		{wire.SetMtime, func() { a.Mtime = m.Mtime }}, {wire.SetMtimeNow, func() { a.Mtime = now }},
	} {
		if m.Set&s.bit != 0 {
			s.do()
		}
	}
}

func (f *fake) Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	f.readCall.Add(1)
	if err := f.wait(ctx); err != nil {
		return wire.ReadReply{}, err
	}
	in, err := f.resolve(req.At)
	if err != nil {
		f.mu.Unlock()
		return wire.ReadReply{}, err
	}
	reply, data, piece := wire.ReadReply{Attr: f.attrOf(in), Target: in.target}, in.data, f.piece
	switch req.Kind {
	case wire.ReadList:
		err = f.listing(in, req, &reply)
	case wire.ReadGetxattr, wire.ReadListxattr:
		err = in.readXattr(req, &reply)
	}
	hook := f.afterRead
	f.mu.Unlock()
	if hook != nil {
		hook()
	}
	if err != nil || req.Kind != wire.ReadFile {
		return reply, err
	}
	if in.names != nil {
		return reply, fakeErr(wire.CodeIsDir)
	}
	if piece == 0 {
		piece = wire.PieceSize
	}
	from, to := min(req.Offset, int64(len(data))), int64(len(data))
	if req.Length >= 0 {
		to = min(to, from+req.Length)
	}
	for from < to {
		b := data[from:min(to, from+int64(piece))]
		if err := w.WritePiece(wire.Piece{Version: reply.Attr.Version, Offset: from, Sum: wire.Sum(b), Data: b}); err != nil {
			return reply, err
		}
		f.readSent.Add(int64(len(b)))
		from += int64(len(b))
	}
	return reply, nil
}

func (f *fake) attrOf(in *fakeInode) wire.Attr {
	a := in.attr
	a.NoXattrs = !f.older && len(in.xattrs) == 0
	return a
}

func (f *fake) listing(in *fakeInode, req wire.Read, reply *wire.ReadReply) error {
	if in.names == nil {
		return fakeErr(wire.CodeNotDir)
	}
	limit := req.Limit
	if limit == 0 {
		limit = wire.MaxListEntries
	}
	if f.list > 0 {
		limit = min(limit, f.list)
	}
	if in.sorted == nil {
		in.sorted = slices.Sorted(maps.Keys(in.names))
	}
	from, found := slices.BinarySearch(in.sorted, req.After)
	if found {
		from++
	}
	for _, name := range in.sorted[from:] {
		if len(reply.Entries) == limit {
			reply.More = true
			break
		}
		reply.Entries = append(reply.Entries, wire.DirEntry{Name: name, Attr: f.attrOf(f.inodes[in.names[name]])})
	}
	return nil
}

// Watch gives no lease unless leases is set: the mount keeps nothing that it has
// read. Then it gives one, once: nothing is told of changes, and cache.end ends it.
func (f *fake) Watch(ctx context.Context, w wire.Watch) (wire.Watched, error) {
	switch {
	case !f.leases:
		return wire.Watched{}, wire.NewError(wire.CodeUnsupported, "no leases here")
	case w.Epoch == 0:
		f.mu.Lock()
		defer f.mu.Unlock()
		return wire.Watched{Epoch: 1, Number: 1, Touched: wire.Touched{Wide: true}, Time: time.Now().Add(f.off).UnixNano()}, nil
	}
	<-ctx.Done()
	return wire.Watched{}, wire.NewError(wire.CodeCanceled, "")
}

func (f *fake) Statfs(ctx context.Context) (wire.Statfs, error) {
	if err := f.wait(ctx); err != nil {
		return wire.Statfs{}, err
	}
	defer f.mu.Unlock()
	return wire.Statfs{Total: 10 << 30, Free: 4 << 30, Files: uint64(len(f.inodes))}, nil
}

// file returns the committed contents of a path below the root.
func (f *fake) file(path string) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := wire.At{Dir: wire.RootIno}
	for _, at.Path = range strings.Split(path, "/") {
		in, err := f.resolve(at)
		if err != nil {
			return "", false
		}
		at.Dir = in.attr.Ino
	}
	return string(f.inodes[at.Dir].data), true
}

func (f *fake) inodeOf(name string) wire.Ino {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inodes[wire.RootIno].names[name]
}

// put is another client's whole write of an existing or new file in the root.
func (f *fake) put(name, data string) {
	_, err := f.TransactBehind(context.Background(), nil, []wire.Mutation{{
		Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: name}, Mode: 0o644}}, []Content{textContent(data)})
	if err != nil {
		panic(err)
	}
}

type textContent string

func (c textContent) Size() int64 { return int64(len(c)) }
func (c textContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(c))), nil
}
