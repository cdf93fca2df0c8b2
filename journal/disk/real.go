package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Error says who holds the lock and what to do.
func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s: in use by another process", e.Name)
	}
	return fmt.Sprintf("%s: in use by process %d", e.Name, e.PID)
}

// New returns the operating system's file system.
func New() FS { return osFS{} }

type osFS struct{}

var _ FS = osFS{}

func (osFS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

func (osFS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

// MkdirAll also syncs the entry of the deepest directory that is there
// already: an earlier call may have died between making it and syncing it.
func (d osFS) MkdirAll(name string) error {
	name = filepath.Clean(name)
	var missing []string // deepest first
	at := name
	for {
		st, err := os.Stat(at)
		if err == nil && !st.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: at, Err: unix.ENOTDIR}
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(at) == at {
			return err
		}
		missing = append(missing, at)
		at = filepath.Dir(at)
	}
	if up := filepath.Dir(at); up != at {
		// A directory above that this process may not open is not ours.
		if err := d.SyncDir(up); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := d.SyncDir(filepath.Dir(missing[i])); err != nil {
			return err
		}
	}
	return nil
}

func (osFS) ReadDir(name string) ([]Entry, error) {
	list, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(list))
	for _, e := range list {
		entry := Entry{Name: e.Name(), IsDir: e.IsDir()}
		if !entry.IsDir {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, err
			}
			entry.Size = info.Size()
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &LockedError{Name: name, PID: readPID(f)}
	} else if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
		// The pid is for the reader of an error message: a full disk must
		// not keep a participant from starting.
		if errors.Is(err, unix.ENOSPC) {
			err = nil
		}
	} else {
		err = &fs.PathError{Op: "flock", Path: name, Err: err}
	}
	if err != nil {
		_ = f.Close() // it holds nothing
		return nil, err
	}
	return f, nil
}

// readPID reads the owner's pid from a lock file; 0 if there is none.
func readPID(f *os.File) int {
	var b [32]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

func (osFS) Free(name string) (uint64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(name, &st) }); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	return st.Bavail * uint64(st.Frsize), nil
}

func (osFS) FreeFiles(name string) (uint64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(name, &st) }); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	if st.Files == 0 { // btrfs and others make inodes as they need them
		return math.MaxUint64, nil
	}
	return st.Ffree, nil
}

// osFile adds to os.File what package os does not have.
type osFile struct {
	*os.File
	aligned atomic.Bool // Direct was called
	direct  atomic.Bool // and the file system can
}

var _ File = (*osFile)(nil)

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *osFile) Sync() error {
	return f.control("fdatasync", unix.Fdatasync)
}

func (f *osFile) StartWriteback(offset, length int64) error {
	return f.control("sync_file_range", func(fd int) error {
		err := unix.SyncFileRange(fd, offset, length, unix.SYNC_FILE_RANGE_WRITE)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // only a hint
		}
		return err
	})
}

func (f *osFile) Allocate(size int64) error {
	err := f.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	// No fallocate here: at least the length.
	have, err := f.Size()
	if err == nil && have < size {
		err = f.Truncate(size)
	}
	return err
}

func (f *osFile) AllocateRange(offset, length int64) error {
	err := f.control("fallocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, offset, length)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func (f *osFile) DropCache() error {
	return f.control("fadvise", func(fd int) error {
		return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	})
}

// control runs a system call on the descriptor, which a concurrent Close
// cannot take away meanwhile.
func (f *osFile) control(op string, call func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = c.Control(func(fd uintptr) {
		callErr = retry(func() error { return call(int(fd)) })
	})
	if err != nil {
		// The only reason: Close came first.
		return &fs.PathError{Op: op, Path: f.Name(), Err: fs.ErrClosed}
	}
	if callErr != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: callErr}
	}
	return nil
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
