// Package forget is a file system in memory that forgets what was not synced,
// for tests.
//
// FS.Crash gives what a power loss leaves (FS.Imagine too, and stops nothing):
// each 512-byte sector (or 4 KiB page) that was written and not synced is there
// or not, each change of a directory that was not synced happened or did not, by
// the choice of a seeded generator. A hook before every operation injects errors,
// and CrashAt stops everything before a chosen one. Without concurrency, the same
// seeds and calls give the same bytes.
package forget

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"tpcfs/journal/disk"
)

// Kind names an operation.
type Kind string

// The operations. Those up to Allocate can change what a crash leaves, and
// are numbered.
const (
	Create    Kind = "create"
	Mkdir     Kind = "mkdir"
	Rename    Kind = "rename"
	Remove    Kind = "remove"
	SyncDir   Kind = "syncdir"
	Write     Kind = "write"
	Truncate  Kind = "truncate"
	Sync      Kind = "sync"
	Writeback Kind = "writeback"
	Allocate  Kind = "allocate"

	Open      Kind = "open"
	ReadDir   Kind = "readdir"
	Read      Kind = "read"
	DropCache Kind = "dropcache"
	Lock      Kind = "lock"
)

// mutates tells whether an operation is numbered.
func (k Kind) mutates() bool {
	switch k {
	case Open, ReadDir, Read, DropCache, Lock:
		return false
	default:
		return true
	}
}

// Op is an operation about to happen.
type Op struct {
	Kind   Kind
	N      int    // its number, from 1, among those that change something; for the others, the last number given
	Name   string // file or directory; of a rename the old name
	To     string // of a rename
	Offset int64
	Length int64
}

func (o Op) String() string {
	s := fmt.Sprintf("%d %s %s", o.N, o.Kind, o.Name)
	if o.To != "" {
		s += " -> " + o.To
	}
	if o.Length != 0 {
		s += fmt.Sprintf(" [%d,%d)", o.Offset, o.Offset+o.Length)
	}
	return s
}

// Errors that a hook may return for a special effect.
var (
	// Lie makes a Sync or SyncDir succeed and do nothing.
	Lie = errors.New("forget: sync lies")
	// ErrCrashed is the answer of everything after a crash.
	ErrCrashed = errors.New("forget: crashed")
)

// ShortWrite, returned by a hook, makes a write end after N bytes with Err.
type ShortWrite struct {
	N   int
	Err error
}

func (e *ShortWrite) Error() string { return fmt.Sprintf("short write of %d: %v", e.N, e.Err) }

// Unwrap returns Err.
func (e *ShortWrite) Unwrap() error { return e.Err }

// FS is the file system. It is safe for concurrent use.
type FS struct {
	mu       sync.Mutex // guards everything below, and all nodes
	root     *node
	pending  []*change // of directories, not synced, oldest first
	rng      *rand.Rand
	hook     func(Op) error
	full     func(Op)
	ops      int
	crashAt  int
	dead     bool
	boot     int // counts Restart: older handles are dead
	counts   map[Kind]int
	used     int64 // bytes allocated
	capacity int64 // bytes; 0: no limit
	files    int64 // that there are, open ones without a name too
	most     int64 // files; 0: no limit
	locks    map[string]*lock
}

var _ disk.FS = (*FS)(nil)

// New makes an empty file system. The seed decides what is written back by
// itself, and what a failed sync has written.
func New(seed uint64) *FS {
	return &FS{
		root: newDir(), rng: rand.New(rand.NewPCG(seed, 0)),
		counts: map[Kind]int{}, locks: map[string]*lock{},
	}
}

// SetHook installs a function that is called before every operation, nil for
// none. When it returns an error, the operation fails with it and does
// nothing; but a failed Sync marks the file's pages clean, so that reads show
// what the disk lacks until DropCache (as Linux does), and see Lie and
// ShortWrite. It is called without locks held: it may call this FS.
func (f *FS) SetHook(hook func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// CrashAt lets the operation with number n and everything after it fail with
// ErrCrashed and do nothing; 0 for never.
func (f *FS) CrashAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashAt = n
}

// Ops is the number of the last operation that could change something.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Count is how many operations of a kind there were, failed ones too.
func (f *FS) Count(k Kind) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[k]
}

// Crashed tells whether CrashAt or Crash has struck.
func (f *FS) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// SetCapacity limits the bytes allocated; 0 for no limit.
func (f *FS) SetCapacity(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = bytes
}

// Restart ends the process and not the machine: open files and locks are gone,
// what was written and not synced is still there, and so is the hook. It also
// revives a file system that CrashAt has stopped.
func (f *FS) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boot++
	f.dead, f.crashAt = false, 0
	clear(f.locks)
}

// FlipBit changes one bit of a file, on the disk and in the cache. Bit 0 is
// the lowest of the first byte.
func (f *FS) FlipBit(name string, bit int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil || n.dir {
		return pathError("flip", name, cmpErr(err, syscall.EISDIR))
	}
	if bit < 0 || bit/8 >= n.size {
		return pathError("flip", name, syscall.EINVAL)
	}
	n.flip(bit)
	return nil
}

// Mend flips all bits back that FlipBit has changed and nobody has written over.
func (f *FS) Mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pagesLocked(func(p *page) {
		if len(p.rot) > 0 {
			p.mend()
		}
	})
}

// Rotten is how many bytes Mend would restore.
func (f *FS) Rotten() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	f.pagesLocked(func(p *page) { n += len(p.rot) })
	return n
}

// WriteBack makes all that was written durable, as a disk does by itself in time.
func (f *FS) WriteBack() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodesLocked(func(n *node) {
		if n.dir {
			n.durable = maps.Clone(n.names)
			return
		}
		before := n.allocated()
		n.sync()
		f.used += n.allocated() - before
	})
	f.pending = nil
}

func (f *FS) pagesLocked(fn func(p *page)) {
	f.nodesLocked(func(n *node) {
		for _, p := range n.pages {
			fn(p)
		}
	})
}

// nodesLocked calls fn for all files and directories, those too whose names come or go.
func (f *FS) nodesLocked(fn func(n *node)) {
	seen := map[*node]bool{nil: true}
	var visit func(n *node)
	visit = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		for _, names := range []map[string]*node{n.names, n.durable} {
			for _, child := range names {
				visit(child)
			}
		}
		fn(n)
	}
	visit(f.root)
	for _, c := range f.pending {
		visit(c.from)
		visit(c.to)
		visit(c.node)
	}
}

// SetFull installs a function that is told of every operation for which there
// was no space, nil for none. It is called with locks held.
func (f *FS) SetFull(full func(Op)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

// before counts an operation and asks the hook.
func (f *FS) before(op Op) error {
	f.mu.Lock()
	if op.Kind.mutates() && !f.dead {
		if f.crashAt > 0 && f.ops+1 >= f.crashAt {
			f.dead = true
		} else {
			f.ops++
		}
	}
	if f.dead {
		f.mu.Unlock()
		return ErrCrashed
	}
	f.counts[op.Kind]++
	op.N = f.ops
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op)
}

// alive is checked again under the lock: the hook may have crashed f.
func (f *FS) aliveLocked() error {
	if f.dead {
		return ErrCrashed
	}
	return nil
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// split gives the parts of a name below the root.
func split(name string) []string {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

func clean(name string) string { return path.Clean("/" + name) }

func (f *FS) find(name string) (*node, error) {
	n := f.root
	for _, part := range split(name) {
		if !n.dir {
			return nil, syscall.ENOTDIR
		}
		next, ok := n.names[part]
		if !ok {
			return nil, fs.ErrNotExist
		}
		n = next
	}
	return n, nil
}

// parent finds the directory that a name lies in.
func (f *FS) parent(name string) (*node, string, error) {
	dir, base := path.Split(clean(name))
	n, err := f.find(dir)
	switch {
	case err != nil:
		return nil, "", err
	case !n.dir:
		return nil, "", syscall.ENOTDIR
	case base == "":
		return nil, "", syscall.EINVAL
	case len(base) > 255:
		return nil, "", syscall.ENAMETOOLONG
	}
	return n, base, nil
}

// Create implements disk.FS.
func (f *FS) Create(name string) (disk.File, error) {
	if err := f.before(Op{Kind: Create, Name: name}); err != nil {
		return nil, pathError("create", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.createLocked(name)
	if err != nil {
		return nil, pathError("create", name, err)
	}
	return &file{fs: f, node: n, name: name, boot: f.boot}, nil
}

func (f *FS) createLocked(name string) (*node, error) {
	if err := f.aliveLocked(); err != nil {
		return nil, err
	}
	dir, base, err := f.parent(name)
	if err != nil {
		return nil, err
	}
	if dir.names[base] != nil {
		return nil, fs.ErrExist
	}
	if f.most > 0 && f.files >= f.most {
		return nil, syscall.ENOSPC
	}
	n := newFile()
	n.links = 1
	f.files++
	dir.names[base] = n
	f.pending = append(f.pending, &change{to: dir, toName: base, node: n})
	return n, nil
}

// Open implements disk.FS.
func (f *FS) Open(name string) (disk.File, error) {
	if err := f.before(Op{Kind: Open, Name: name}); err != nil {
		return nil, pathError("open", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.aliveLocked()
	if err != nil {
		return nil, pathError("open", name, err)
	}
	n, err := f.find(name)
	if err == nil && n.dir {
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	n.opens++
	return &file{fs: f, node: n, name: name, boot: f.boot}, nil
}

// MkdirAll implements disk.FS. What it makes is durable; a crash in the
// middle leaves the directories above.
func (f *FS) MkdirAll(name string) error {
	parts := split(name)
	for i := range parts {
		at := "/" + path.Join(parts[:i+1]...)
		f.mu.Lock()
		n, err := f.find(at)
		f.mu.Unlock()
		if err == nil && !n.dir {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
		if err == nil {
			continue
		}
		if err := f.before(Op{Kind: Mkdir, Name: at}); err != nil {
			return pathError("mkdir", name, err)
		}
		f.mu.Lock()
		if dir, base, err := f.parent(at); err == nil && dir.names[base] == nil && !f.dead {
			n := newDir()
			dir.names[base] = n
			f.pending = append(f.pending, &change{to: dir, toName: base, node: n})
		}
		f.mu.Unlock()
	}
	// Also what a call that was cut short has left unsynced.
	for i := range parts {
		up := "/" + path.Join(parts[:i]...)
		if f.synced(up) {
			continue
		}
		if err := f.SyncDir(up); err != nil {
			return err
		}
	}
	return nil
}

// Mkdir makes one directory, and unlike MkdirAll syncs nothing.
func (f *FS) Mkdir(name string) error {
	if err := f.before(Op{Kind: Mkdir, Name: name}); err != nil {
		return pathError("mkdir", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.aliveLocked()
	var dir *node
	var base string
	if err == nil {
		dir, base, err = f.parent(name)
	}
	if err == nil && dir.names[base] != nil {
		err = fs.ErrExist
	}
	if err != nil {
		return pathError("mkdir", name, err)
	}
	n := newDir()
	dir.names[base] = n
	f.pending = append(f.pending, &change{to: dir, toName: base, node: n})
	return nil
}

// synced tells whether a directory has nothing to sync.
func (f *FS) synced(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	return err == nil && !f.dead && !slices.ContainsFunc(f.pending, func(c *change) bool { return c.from == n || c.to == n })
}

// ReadDir implements disk.FS.
func (f *FS) ReadDir(name string) ([]disk.Entry, error) {
	if err := f.before(Op{Kind: ReadDir, Name: name}); err != nil {
		return nil, pathError("readdir", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	if err == nil {
		err = f.aliveLocked()
	}
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	entries := make([]disk.Entry, 0, len(n.names))
	for base, child := range n.names {
		entries = append(entries, disk.Entry{Name: base, IsDir: child.dir, Size: child.size})
	}
	slices.SortFunc(entries, func(a, b disk.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// Rename implements disk.FS.
func (f *FS) Rename(from, to string) error {
	if err := f.before(Op{Kind: Rename, Name: from, To: to}); err != nil {
		return pathError("rename", from, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.renameLocked(from, to); err != nil {
		return pathError("rename", from, err)
	}
	return nil
}

func (f *FS) renameLocked(from, to string) error {
	if err := f.aliveLocked(); err != nil {
		return err
	}
	fromDir, fromName, err := f.parent(from)
	if err != nil {
		return err
	}
	toDir, toName, err := f.parent(to)
	if err != nil {
		return err
	}
	n := fromDir.names[fromName]
	old := toDir.names[toName]
	switch {
	case n == nil:
		return fs.ErrNotExist
	case n == old:
		return nil
	case n.dir && (clean(to)+"/" == clean(from)+"/" || strings.HasPrefix(clean(to)+"/", clean(from)+"/")):
		return syscall.EINVAL
	case old != nil && old.dir && !n.dir:
		return syscall.EISDIR
	case old != nil && !old.dir && n.dir:
		return syscall.ENOTDIR
	case old != nil && old.dir && len(old.names) > 0:
		return syscall.ENOTEMPTY
	}
	delete(fromDir.names, fromName)
	toDir.names[toName] = n
	if old != nil {
		old.links--
		f.release(old)
	}
	f.pending = append(f.pending, &change{from: fromDir, fromName: fromName, to: toDir, toName: toName, node: n})
	return nil
}

// Remove implements disk.FS.
func (f *FS) Remove(name string) error {
	if err := f.before(Op{Kind: Remove, Name: name}); err != nil {
		return pathError("remove", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.removeLocked(name); err != nil {
		return pathError("remove", name, err)
	}
	return nil
}

func (f *FS) removeLocked(name string) error {
	if err := f.aliveLocked(); err != nil {
		return err
	}
	dir, base, err := f.parent(name)
	if err != nil {
		return err
	}
	n := dir.names[base]
	if n == nil {
		return fs.ErrNotExist
	}
	if n.dir && len(n.names) > 0 {
		return syscall.ENOTEMPTY
	}
	delete(dir.names, base)
	n.links--
	f.release(n)
	f.pending = append(f.pending, &change{from: dir, fromName: base, node: n})
	return nil
}

// release gives back the space of a file without names and users.
func (f *FS) release(n *node) {
	if n.links <= 0 && n.opens <= 0 && !n.dir {
		f.used -= n.allocated()
		f.files--
		n.released = true
	}
}

// SyncDir implements disk.FS.
func (f *FS) SyncDir(name string) error {
	err := f.before(Op{Kind: SyncDir, Name: name})
	if errors.Is(err, Lie) {
		return nil
	}
	if err != nil {
		return pathError("syncdir", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	if err == nil {
		err = f.aliveLocked()
	}
	if err != nil {
		return pathError("syncdir", name, err)
	}
	f.syncDirLocked(n)
	return nil
}

// Free implements disk.FS.
func (f *FS) Free(string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.capacity == 0 {
		return 1 << 40, nil
	}
	return uint64(max(0, f.capacity-f.used)), nil
}

// FreeFiles implements disk.FS.
func (f *FS) FreeFiles(string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.most == 0 {
		return math.MaxUint64, nil
	}
	return uint64(max(0, f.most-f.files)), nil
}

// SetFiles bounds the number of files, to so many more than there are: what is made beyond
// that fails with ENOSPC, as without inodes. Negative: no limit.
func (f *FS) SetFiles(more int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.most = max(1, f.files+more)
	if more < 0 {
		f.most = 0
	}
}

type lock struct {
	fs   *FS
	name string
}

// Lock implements disk.FS. The holder's pid is 1. A crash releases it.
func (f *FS) Lock(name string) (io.Closer, error) {
	if err := f.before(Op{Kind: Lock, Name: name}); err != nil {
		return nil, pathError("lock", name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locks[clean(name)] != nil {
		return nil, &disk.LockedError{Name: name, PID: 1}
	}
	if _, err := f.find(name); err != nil {
		n, err := f.createLocked(name)
		if err != nil {
			return nil, pathError("lock", name, err)
		}
		n.opens--
	}
	l := &lock{fs: f, name: clean(name)}
	f.locks[l.name] = l
	return l, nil
}

// Close releases the lock.
func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if l.fs.locks[l.name] == l {
		delete(l.fs.locks, l.name)
	}
	return nil
}
