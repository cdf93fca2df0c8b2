package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tpcfs/wire"
)

// below reports whether name, which may be missing, is or would be in the directory.
func below(name, dir string) bool {
	home, err := os.Stat(dir)
	if err != nil {
		return false // it is no directory of the operating system's
	}
	name, err = filepath.Abs(name)
	for err == nil {
		if there, missing := filepath.EvalSymlinks(name); missing == nil {
			name = there
		}
		if info, missing := os.Stat(name); missing == nil && os.SameFile(info, home) {
			return true
		}
		if name == filepath.Dir(name) {
			return false
		}
		name = filepath.Dir(name)
	}
	return false
}

// Export writes the tree as plain files below out, which must be empty or
// missing (S7): with modes, times, hard and symbolic links, fifos, sockets,
// extended attributes, and owners and devices if the process is root. What cannot be read or written is named in the error, joined with the
// rest's; all else is exported. Of a file with a rotten block the part before
// it is there. progress, if not nil, is told the number of
// files and bytes so far, after each file. Nothing is synced. Where ctx ends, what is
// there by then stays, and the error is ctx's.
func (s *Store) Export(ctx context.Context, out string, progress func(files, bytes int64)) error {
	if below(out, s.o.Dir) {
		return &wire.Error{Code: wire.CodeInvalid, Op: "export", Name: out, Text: "it is in the participant's own data directory: choose another place"}
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return exportError(out, err)
	}
	there, err := os.ReadDir(out)
	if err != nil {
		return exportError(out, err)
	}
	if len(there) > 0 {
		return &wire.Error{Code: wire.CodeNotEmpty, Op: "export", Name: out, Text: "give an empty or a new directory"}
	}
	root, err := os.OpenRoot(out)
	if err != nil {
		return exportError(out, err)
	}
	defer closeRead(root)
	reply, err := s.Read(wire.Read{Kind: wire.ReadStat, At: wire.At{Dir: wire.RootIno}}, nil)
	if wire.CodeOf(err) == wire.CodeStale {
		return &wire.Error{Code: wire.CodeNotExist, Op: "export", Name: s.o.Dir, Text: "nothing was ever stored in it"}
	}
	if err != nil {
		return err
	}
	e := &exporter{ctx: ctx, s: s, root: root, progress: progress, owners: os.Geteuid() == 0, linked: map[wire.Ino]string{}}
	e.dir(".", reply.Attr)
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(e.errs...)
}

func exportError(name string, err error) error {
	var e *wire.Error
	if errors.As(err, &e) {
		named := *e
		named.Op, named.Name = "export", name
		return &named
	}
	code := wire.CodeIO
	switch {
	case errors.Is(err, fs.ErrExist):
		code = wire.CodeExist
	case errors.Is(err, fs.ErrPermission):
		code = wire.CodeAccess
	}
	return &wire.Error{Code: code, Op: "export", Name: name, Text: err.Error()}
}

// exporter writes a tree through an os.Root: no name and no link of the tree
// leads out of it.
type exporter struct {
	ctx      context.Context
	s        *Store
	root     *os.Root
	progress func(files, bytes int64)
	owners   bool
	linked   map[wire.Ino]string // the first name of a file that has several
	files    int64
	bytes    int64
	errs     []error
}

func (e *exporter) fail(name string, err error) {
	if err != nil {
		e.errs = append(e.errs, exportError(name, err))
	}
}

// dir fills a directory that is there already, then sets its attributes.
func (e *exporter) dir(name string, a wire.Attr) {
	req := wire.Read{Kind: wire.ReadList, At: wire.At{Dir: a.Ino}}
	for e.ctx.Err() == nil {
		reply, err := e.s.Read(req, nil)
		if err != nil {
			e.fail(name, err)
			break
		}
		for _, entry := range reply.Entries {
			if e.ctx.Err() != nil {
				return
			}
			e.entry(path.Join(name, entry.Name), entry)
		}
		if !reply.More || len(reply.Entries) == 0 {
			break
		}
		req.After = reply.Entries[len(reply.Entries)-1].Name
	}
	e.fail(name, e.attributes(name, a))
}

func (e *exporter) entry(name string, entry wire.DirEntry) {
	if strings.Contains(entry.Name, "/") || entry.Name == "." || entry.Name == ".." {
		e.fail(name, fmt.Errorf("%q is no file name", entry.Name))
		return
	}
	if first := e.linked[entry.Attr.Ino]; first != "" {
		e.fail(name, e.root.Link(first, name))
		e.done()
		return
	}
	if entry.Attr.Nlink > 1 && entry.Attr.Mode&wire.ModeType != wire.ModeDir {
		e.linked[entry.Attr.Ino] = name
	}
	switch entry.Attr.Mode & wire.ModeType {
	case wire.ModeDir:
		if err := e.root.Mkdir(name, 0o700); err != nil {
			e.fail(name, err)
			return
		}
		e.dir(name, entry.Attr)
	case wire.ModeSymlink:
		e.fail(name, e.symlink(name, entry.Attr))
	case wire.ModeRegular:
		e.fail(name, e.file(name, entry.Attr))
	default:
		e.fail(name, e.node(name, entry.Attr))
	}
	e.done()
}

// done counts a name.
func (e *exporter) done() {
	e.files++
	if e.progress != nil {
		e.progress(e.files, e.bytes)
	}
}

func (e *exporter) symlink(name string, a wire.Attr) error {
	reply, err := e.s.Read(wire.Read{Kind: wire.ReadLink, At: wire.At{Dir: a.Ino}}, nil)
	if err != nil {
		return err
	}
	if err := e.root.Symlink(reply.Target, name); err != nil {
		return err
	}
	if e.owners {
		if err := e.root.Lchown(name, int(a.UID), int(a.GID)); err != nil {
			return err
		}
	}
	return e.xattrs(name, a)
}

// within calls fn with a name's directory as a path that no rename and no
// link leads elsewhere, and its last component.
func (e *exporter) within(name string, fn func(dir string, fd int, base string) error) error {
	d, err := e.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer closeRead(d)
	return fn(fmt.Sprintf("/proc/self/fd/%d", d.Fd()), int(d.Fd()), path.Base(name))
}

// node makes a fifo, a socket or a device.
func (e *exporter) node(name string, a wire.Attr) error {
	err := e.within(name, func(_ string, fd int, base string) error {
		return unix.Mknodat(fd, base, a.Mode&wire.ModeType|0o600, int(a.Rdev))
	})
	if err != nil {
		return err
	}
	return e.attributes(name, a)
}

// xattrs sets the extended attributes, of a link itself.
func (e *exporter) xattrs(name string, a wire.Attr) error {
	at := wire.At{Dir: a.Ino}
	list, err := e.s.Read(wire.Read{Kind: wire.ReadListxattr, At: at}, nil)
	if err != nil || len(list.Names) == 0 {
		return err
	}
	return e.within(name, func(dir string, _ int, base string) error {
		for _, x := range list.Names {
			reply, err := e.s.Read(wire.Read{Kind: wire.ReadGetxattr, At: at, Name: x}, nil)
			if err == nil {
				err = unix.Lsetxattr(dir+"/"+base, x, reply.Value, 0)
			}
			if err != nil {
				return fmt.Errorf("extended attribute %q: %w", x, err)
			}
		}
		return nil
	})
}

// fileWriter writes pieces where they belong; what is zeros stays a hole.
type fileWriter struct {
	f *os.File
	e *exporter
}

func (w fileWriter) WritePiece(p wire.Piece) error {
	if err := w.e.ctx.Err(); err != nil {
		return err
	}
	w.e.bytes += int64(len(p.Data))
	for block := range slices.Chunk(p.Data, wire.BlockSize) {
		if !bytes.Equal(block, zeroBlock[:len(block)]) {
			_, err := w.f.WriteAt(p.Data, p.Offset)
			return err
		}
	}
	return nil
}

func (e *exporter) file(name string, a wire.Attr) error {
	f, err := e.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = e.contents(f, a)
	if err == nil {
		err = f.Truncate(a.Size)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return e.attributes(name, a)
}

// attributes sets owner, extended attributes, mode and times of a file or
// directory, in this order: chown takes set-id bits and capabilities away,
// attributes need a file that can be written, and all move ctime alone.
func (e *exporter) attributes(name string, a wire.Attr) error {
	if e.owners {
		if err := e.root.Chown(name, int(a.UID), int(a.GID)); err != nil {
			return err
		}
	}
	if err := e.xattrs(name, a); err != nil {
		return err
	}
	mode := fs.FileMode(a.Mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if a.Mode&bit != 0 {
			mode |= flag
		}
	}
	if err := e.root.Chmod(name, mode); err != nil {
		return err
	}
	return e.root.Chtimes(name, time.Unix(0, a.Atime), time.Unix(0, a.Mtime))
}

// contents writes what of a file is data; the rest is holes.
func (e *exporter) contents(f *os.File, a wire.Attr) error {
	at := wire.At{Dir: a.Ino}
	for req := (wire.Read{Kind: wire.ReadData, At: at}); ; {
		reply, err := e.s.Read(req, nil)
		if err != nil {
			return err
		}
		for _, r := range reply.Ranges {
			if _, err := e.s.Read(wire.Read{Kind: wire.ReadFile, At: at, Offset: r.Offset, Length: r.Length}, fileWriter{f, e}); err != nil {
				return err
			}
			req.Offset = r.Offset + r.Length
		}
		if !reply.More {
			return nil
		}
	}
}
