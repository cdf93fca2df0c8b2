package powerloss

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"tpcfs/journal/disk"
	"tpcfs/journal/disk/forget"
)

// fileSystem shows a forget.FS to the kernel, which writes through: what a
// process has written is in the forget.FS when its write(2) returns. Reads and
// shared read-only maps are the page cache's; so a file system is mounted anew
// after each loss. Inodes are kept until then.
type fileSystem struct {
	fuse.RawFileSystem // ENOSYS for what is not here

	gate  *sync.RWMutex // held for reading by each operation
	syncs *slowness
	fs    *forget.FS

	mu    sync.Mutex // guards what follows, and all nodes' names and places
	nodes map[uint64]*node
	dirs  map[uint64][]fuse.DirEntry // what open directories hold, by handle
	last  uint64                     // the last inode or handle given
}

// node is an inode.
type node struct {
	ino   uint64
	up    *node            // the directory that it is in
	name  string           // in there
	names map[string]*node // nil: a file
	file  disk.File        // nil: a directory
}

func (n *node) path() string {
	if n.up == nil {
		return "/"
	}
	return path.Join(n.up.path(), n.name)
}

func newFileSystem(gate *sync.RWMutex, syncs *slowness, f *forget.FS) (*fileSystem, error) {
	s := &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), gate: gate, syncs: syncs, fs: f,
		nodes: map[uint64]*node{}, dirs: map[uint64][]fuse.DirEntry{}}
	root := s.addLocked(nil, "", nil)
	return s, s.load(root)
}

// load enters what a directory holds.
func (s *fileSystem) load(dir *node) error {
	entries, err := s.fs.ReadDir(dir.path())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir {
			if err := s.load(s.addLocked(dir, e.Name, nil)); err != nil {
				return err
			}
			continue
		}
		file, err := s.fs.Open(path.Join(dir.path(), e.Name))
		if err != nil {
			return err
		}
		s.addLocked(dir, e.Name, file)
	}
	return nil
}

// addLocked makes an inode; a directory if file is nil.
func (s *fileSystem) addLocked(up *node, name string, file disk.File) *node {
	s.last++
	n := &node{ino: s.last, up: up, name: name, file: file}
	if file == nil {
		n.names = map[string]*node{}
	}
	if up != nil {
		up.names[name] = n
	}
	s.nodes[n.ino] = n
	return n
}

// enter waits while the machine is frozen; what it returns ends the operation.
func (s *fileSystem) enter() func() {
	s.gate.RLock()
	return s.gate.RUnlock
}

func (s *fileSystem) node(ino uint64) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[ino]
}

func status(err error) fuse.Status {
	var errno syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, fs.ErrNotExist):
		return fuse.ENOENT
	case errors.Is(err, fs.ErrExist):
		return fuse.Status(syscall.EEXIST)
	case errors.As(err, &errno):
		return fuse.Status(errno)
	default:
		return fuse.EIO
	}
}

func (s *fileSystem) attr(n *node, a *fuse.Attr) fuse.Status {
	a.Ino, a.Nlink, a.Mode, a.Blksize = n.ino, 1, fuse.S_IFDIR|0o700, 4096
	if n.file == nil {
		return fuse.OK
	}
	size, err := n.file.Size()
	a.Mode, a.Size, a.Blocks = fuse.S_IFREG|0o600, uint64(size), uint64(size+511)/512
	return status(err)
}

func (s *fileSystem) entry(n *node, out *fuse.EntryOut) fuse.Status {
	out.NodeId, out.Generation = n.ino, 1
	return s.attr(n, &out.Attr)
}

func (s *fileSystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer s.enter()()
	s.mu.Lock()
	n := s.nodes[in.NodeId].names[name]
	s.mu.Unlock()
	if n == nil {
		return fuse.ENOENT
	}
	return s.entry(n, out)
}

func (s *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer s.enter()()
	return s.attr(s.node(in.NodeId), &out.Attr)
}

// SetAttr sets the size; modes and times are not kept.
func (s *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer s.enter()()
	n := s.node(in.NodeId)
	if size, ok := in.GetSize(); ok {
		if n.file == nil {
			return fuse.Status(syscall.EISDIR)
		}
		if err := n.file.Truncate(int64(size)); err != nil {
			return status(err)
		}
	}
	return s.attr(n, &out.Attr)
}

func (s *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer s.enter()()
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[in.NodeId]
	if err := s.fs.Mkdir(path.Join(dir.path(), name)); err != nil {
		return status(err)
	}
	return s.entry(s.addLocked(dir, name, nil), out)
}

func (s *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer s.enter()()
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[in.NodeId]
	file, err := s.fs.Create(path.Join(dir.path(), name))
	if err != nil {
		return status(err)
	}
	return s.entry(s.addLocked(dir, name, file), &out.EntryOut)
}

func (s *fileSystem) remove(ino uint64, name string) fuse.Status {
	defer s.enter()()
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[ino]
	if err := s.fs.Remove(path.Join(dir.path(), name)); err != nil {
		return status(err)
	}
	delete(dir.names, name)
	return fuse.OK
}

func (s *fileSystem) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name)
}

func (s *fileSystem) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name)
}

func (s *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	defer s.enter()()
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, dir := s.nodes[in.NodeId], s.nodes[in.Newdir]
	if err := s.fs.Rename(path.Join(old.path(), from), path.Join(dir.path(), to)); err != nil {
		return status(err)
	}
	n := old.names[from]
	delete(old.names, from)
	dir.names[to] = n
	n.up, n.name = dir, to
	return fuse.OK
}

func (s *fileSystem) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	defer s.enter()()
	return fuse.OK
}

func (s *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	defer s.enter()()
	k, err := s.node(in.NodeId).file.ReadAt(buf, int64(in.Offset))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return fuse.ReadResultData(buf[:k]), status(err)
}

func (s *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	defer s.enter()()
	k, err := s.node(in.NodeId).file.WriteAt(data, int64(in.Offset))
	return uint32(k), status(err)
}

func (s *fileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.syncs.wait()
	defer s.enter()()
	return status(s.node(in.NodeId).file.Sync())
}

func (s *fileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.syncs.wait()
	defer s.enter()()
	s.mu.Lock()
	defer s.mu.Unlock()
	return status(s.fs.SyncDir(s.nodes[in.NodeId].path()))
}

func (s *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	defer s.enter()()
	file := s.node(in.NodeId).file
	switch in.Mode {
	case 0:
		return status(file.Allocate(int64(in.Offset + in.Length)))
	case unix.FALLOC_FL_KEEP_SIZE:
		return status(file.AllocateRange(int64(in.Offset), int64(in.Length)))
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
}

func (s *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer s.enter()()
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []fuse.DirEntry
	for name, n := range s.nodes[in.NodeId].names {
		e := fuse.DirEntry{Name: name, Ino: n.ino, Mode: fuse.S_IFREG}
		if n.file == nil {
			e.Mode = fuse.S_IFDIR
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b fuse.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	s.last++
	out.Fh = s.last
	s.dirs[out.Fh] = list
	return fuse.OK
}

func (s *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer s.enter()()
	s.mu.Lock()
	list := s.dirs[in.Fh]
	s.mu.Unlock()
	for i := in.Offset; i < uint64(len(list)) && out.AddDirEntry(list[i]); i++ {
	}
	return fuse.OK
}

func (s *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dirs, in.Fh)
}

func (s *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer s.enter()()
	free, err := s.fs.Free("/")
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	out.Blocks, out.Bfree, out.Bavail = 2*free/4096, free/4096, free/4096
	return status(err)
}
