package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

const (
	// treePage is how many entries of each directory on the way are held.
	treePage = 200
	// treeFiles is how many files are copied at once.
	treeFiles = 8
)

// treeResult is what -o json prints of a copied directory.
type treeResult struct {
	Name    string `json:"name"`
	Files   int64  `json:"files"`
	Dirs    int64  `json:"directories"`
	Links   int64  `json:"symlinks"`
	Bytes   int64  `json:"bytes"`
	Skipped int64  `json:"skipped,omitempty"` // devices and sockets
	Gone    int64  `json:"gone,omitempty"`    // deleted while they were copied
}

// treeReader is what a copy needs of a client.
type treeReader interface {
	Read(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error)
}

// treeCopy copies a directory of the service to a local one. Everything local is
// done below root, whatever symbolic links are there.
type treeCopy struct {
	app   *app
	c     treeReader
	name  string // of the directory in the service
	root  *os.Root
	force bool
	bar   *meter

	files, dirs, links, bytes, skipped, gone atomic.Int64

	mu     sync.Mutex            // guards linked
	linked map[wire.Ino]hardLink // files with several names that have one here
}

// hardLink is a file with other names.
type hardLink struct {
	path string
	left uint32 // names not yet seen
}

// getTree copies the directory name to dir, which must not exist, be empty, or
// may be written over with force.
func (a *app) getTree(ctx context.Context, f getFlags, name, dir string) error {
	if err := checkTreeTarget(dir, f.force); err != nil {
		return err
	}
	c, err := a.connect(ctx, "get", f.clientFlags)
	if err != nil {
		return err
	}
	defer closeClient(c)
	attr, err := c.Stat(ctx, name)
	if err == nil && attr.Mode&wire.ModeType != wire.ModeDir {
		err = wire.NewError(wire.CodeNotDir, "get it without -r")
	}
	if err != nil {
		return about(name, err)
	}
	return a.copyTree(ctx, c, attr, name, dir, f.force)
}

// copyTree copies the directory name, which attr is of, to dir.
func (a *app) copyTree(ctx context.Context, c treeReader, attr wire.Attr, name, dir string, force bool) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() // what was written is closed already
	t := &treeCopy{app: a, c: c, name: name, root: root, force: force, bar: a.meter(name, -1), linked: map[wire.Ino]hardLink{}}
	err = t.directory(ctx, attr, ".")
	t.bar.done()
	if err != nil {
		return about(name, t.far(err, dir))
	}
	return a.print(treeResult{name, t.files.Load(), t.dirs.Load(), t.links.Load(), t.bytes.Load(), t.skipped.Load(), t.gone.Load()}, "")
}

// far adds to an error how far the copy has come.
func (t *treeCopy) far(err error, dir string) error {
	far := fmt.Sprintf("%d files of %d bytes are in %s, each of them whole; --force begins again over them", t.files.Load(), t.bytes.Load(), printable(dir))
	var e *wire.Error
	switch {
	case wire.CodeOf(err) == wire.CodeCanceled, errors.Is(err, context.Canceled):
		return wire.NewError(wire.CodeCanceled, "interrupted; "+far)
	case errors.As(err, &e):
		full := *e
		full.Text = join("; ", cmp.Or(e.Text, advice(e.Code)), far)
		return &full
	default:
		return fmt.Errorf("%w; %s", err, far)
	}
}

// at gives an error of the service the name of the file that it is about.
func (t *treeCopy) at(err error, to string) error {
	var e *wire.Error
	if !errors.As(err, &e) {
		return err
	}
	full := *e
	full.Name = path.Join(t.name, to)
	return &full
}

// checkTreeTarget refuses a directory in which something is, before anything is asked.
func checkTreeTarget(dir string, force bool) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err := os.Stat(filepath.Dir(filepath.Clean(dir)))
		return err
	case err != nil:
		return err
	case len(entries) > 0 && !force:
		return fmt.Errorf("%s is not empty: name a new directory, or overwrite what is in it with --force", dir)
	}
	return nil
}

// directory copies what is in a directory to the local path, and then gives that
// its mode and times.
func (t *treeCopy) directory(ctx context.Context, attr wire.Attr, to string) error {
	req := wire.Read{Kind: wire.ReadList, At: wire.At{Dir: attr.Ino}, Limit: treePage}
	for {
		reply, err := t.c.Read(ctx, req, nil)
		if err != nil {
			return t.vanished(err, to)
		}
		if err := t.page(ctx, reply.Entries, to); err != nil {
			return err
		}
		if !reply.More || len(reply.Entries) == 0 {
			break
		}
		req.After = reply.Entries[len(reply.Entries)-1].Name
	}
	t.dirs.Add(1)
	return t.finish(to, attr)
}

// vanished swallows the error of a file that was deleted meanwhile: it is as if
// the copy had come to it later.
func (t *treeCopy) vanished(err error, to string) error {
	switch wire.CodeOf(err) {
	case wire.CodeNotExist, wire.CodeStale:
		t.gone.Add(1)
		return nil
	default:
		return t.at(err, to)
	}
}

// page copies some entries of a directory: files at the same time, then other
// names of files, then the directories one after the other.
func (t *treeCopy) page(ctx context.Context, entries []wire.DirEntry, to string) error {
	group, inGroup := errgroup.WithContext(ctx)
	group.SetLimit(treeFiles)
	var names, dirs []wire.DirEntry
	for _, e := range entries {
		if err := wire.CheckName(e.Name); err != nil {
			return errors.Join(err, group.Wait())
		}
		at := path.Join(to, e.Name)
		switch e.Attr.Mode & wire.ModeType {
		case wire.ModeDir:
			dirs = append(dirs, e)
		case wire.ModeRegular:
			if t.hasName(e.Attr, at) {
				names = append(names, e)
				continue
			}
			group.Go(func() error { return t.file(inGroup, e.Attr, at) })
		default:
			group.Go(func() error { return t.special(inGroup, e.Attr, at) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, e := range names {
		if err := t.link(e.Attr, path.Join(to, e.Name)); err != nil {
			return err
		}
	}
	for _, e := range dirs {
		at := path.Join(to, e.Name)
		if err := t.mkdir(at); err != nil {
			return err
		}
		if err := t.directory(ctx, e.Attr, at); err != nil {
			return err
		}
	}
	return nil
}

// hasName reports whether a file has a name here already; if not, it gets this one.
func (t *treeCopy) hasName(attr wire.Attr, at string) bool {
	if attr.Nlink < 2 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.linked[attr.Ino]; ok {
		return true
	}
	t.linked[attr.Ino] = hardLink{at, attr.Nlink - 1}
	return false
}

// link gives a file that is here another name.
func (t *treeCopy) link(attr wire.Attr, at string) error {
	t.mu.Lock()
	first := t.linked[attr.Ino]
	if first.left--; first.left == 0 {
		delete(t.linked, attr.Ino)
	} else {
		t.linked[attr.Ino] = first
	}
	t.mu.Unlock()
	return t.replace(at, func(temp string) error {
		err := t.root.Link(first.path, temp)
		if errors.Is(err, fs.ErrNotExist) { // its first name was deleted before it was read
			return nil
		}
		if err == nil {
			t.files.Add(1)
		}
		return err
	})
}

// mkdir makes a directory in which only this user can write until it is finished.
func (t *treeCopy) mkdir(at string) error {
	err := t.root.Mkdir(at, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := t.root.Lstat(at)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return t.root.Chmod(at, 0o700)
	case !t.force:
		return fmt.Errorf("%s exists here already", at)
	}
	if err := t.root.Remove(at); err != nil {
		return err
	}
	return t.root.Mkdir(at, 0o700)
}

// finish gives a directory its permissions and times, when nothing is written
// to it any more.
func (t *treeCopy) finish(at string, attr wire.Attr) error {
	if err := t.root.Chmod(at, permissions(attr.Mode)); err != nil {
		return err
	}
	return t.times(at, attr)
}

// permissions are those of a copy, which belongs to who makes it: no set-id bits.
func permissions(mode uint32) fs.FileMode { return client.FileMode(mode & 0o1777) }

// times sets a file's times; a symbolic link's own.
func (t *treeCopy) times(at string, attr wire.Attr) error {
	dir, err := t.root.Open(path.Dir(at))
	if err != nil {
		return err
	}
	defer dir.Close() // nothing was written
	times := []unix.Timespec{unix.NsecToTimespec(attr.Atime), unix.NsecToTimespec(attr.Mtime)}
	if err := unix.UtimesNanoAt(int(dir.Fd()), path.Base(at), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: at, Err: err}
	}
	return nil
}

// replace makes something under a name of its own and then gives it the name at.
// What make did not make is no error.
func (t *treeCopy) replace(at string, make func(temp string) error) error {
	temp := path.Join(path.Dir(at), ".tpcfs-get-"+rand.Text()[:12])
	if err := make(temp); err != nil {
		if left := t.root.Remove(temp); left != nil && !errors.Is(left, fs.ErrNotExist) {
			err = errors.Join(err, left)
		}
		return err
	}
	info, err := t.root.Lstat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil && !t.force:
		err = fmt.Errorf("%s exists here already", at)
	case err == nil && info.IsDir():
		err = fmt.Errorf("%s is a directory here, and a file there", at)
	}
	if err == nil {
		err = t.root.Rename(temp, at)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Join(err, t.root.Remove(temp))
	}
	return nil
}

// file copies contents, mode and times.
func (t *treeCopy) file(ctx context.Context, attr wire.Attr, at string) error {
	err := t.replace(at, func(temp string) error {
		file, err := t.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		w := &treeFile{t: t, file: file}
		reply, err := t.c.Read(ctx, wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: attr.Ino}, Length: -1}, w)
		if err == nil {
			err = file.Truncate(reply.Attr.Size) // what was there of another version
		}
		if err == nil {
			err = file.Chmod(permissions(reply.Attr.Mode))
		}
		err = errors.Join(err, file.Close())
		if err == nil {
			err = t.times(temp, reply.Attr)
		}
		if err != nil {
			t.bytes.Add(-w.counted)
			return err
		}
		t.files.Add(1)
		return nil
	})
	return t.vanished(err, at)
}

// treeFile writes the pieces of a file to where they belong. A file that changed
// meanwhile is begun again: its pieces are written over.
type treeFile struct {
	t       *treeCopy
	file    *os.File
	counted int64
}

// WritePiece implements wire.PieceWriter.
func (w *treeFile) WritePiece(p wire.Piece) error {
	if _, err := w.file.WriteAt(p.Data, p.Offset); err != nil {
		return err
	}
	n := p.Offset + int64(len(p.Data)) - w.counted
	w.counted += n
	w.t.bar.set(w.t.bytes.Add(n))
	return nil
}

// special copies what has no contents: symbolic links and pipes; others are told
// of and left out.
func (t *treeCopy) special(ctx context.Context, attr wire.Attr, at string) error {
	switch attr.Mode & wire.ModeType {
	case wire.ModeSymlink:
		reply, err := t.c.Read(ctx, wire.Read{Kind: wire.ReadLink, At: wire.At{Dir: attr.Ino}}, nil)
		if err != nil {
			return t.vanished(err, at)
		}
		t.links.Add(1)
		return t.replace(at, func(temp string) error {
			if err := t.root.Symlink(reply.Target, temp); err != nil {
				return err
			}
			return t.times(temp, attr)
		})
	case wire.ModeFifo:
		return t.replace(at, func(temp string) error {
			dir, err := t.root.Open(path.Dir(temp))
			if err != nil {
				return err
			}
			defer dir.Close() // nothing was written
			if err := unix.Mkfifoat(int(dir.Fd()), path.Base(temp), 0o600); err != nil {
				return &fs.PathError{Op: "mkfifo", Path: at, Err: err}
			}
			t.files.Add(1)
			return t.finish(temp, attr)
		})
	default:
		t.skipped.Add(1)
		t.mu.Lock()
		defer t.mu.Unlock()
		fmt.Fprintf(t.app.err, "tpcfs: get: %s is left out: a device or a socket\n", printable(at))
		return nil
	}
}
