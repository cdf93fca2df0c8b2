package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"sync"
	"time"

	"tpcfs/wire"
)

// FS is the tree below root ("" is all of it) as an fs.FS, to be read by
// whatever reads one: fs.WalkDir, http.FS, template.ParseFS. Besides it is an
// fs.ReadDirFS, fs.StatFS, fs.ReadFileFS, fs.SubFS and fs.ReadLinkFS, and what it
// opens are *Reader's files: io.ReaderAt, io.Seeker, io.WriterTo; each is of one
// version. ctx is for all that is done through it.
//
// Symbolic links are followed, also out of root, as os.DirFS does: an absolute
// one leads from the service's root. Errors are *fs.PathError with the *wire.Error
// inside. FileInfo.Sys is the wire.Attr.
func (c *Client) FS(ctx context.Context, root string) fs.FS { return &tree{c, ctx, root} }

// tree implements fs.FS.
type tree struct {
	c    *Client
	ctx  context.Context
	root string
}

var (
	_ fs.ReadDirFS  = (*tree)(nil)
	_ fs.StatFS     = (*tree)(nil)
	_ fs.ReadFileFS = (*tree)(nil)
	_ fs.SubFS      = (*tree)(nil)
	_ fs.ReadLinkFS = (*tree)(nil)

	_ fs.ReadDirFile = (*dirFile)(nil)
	_ io.ReaderAt    = (*regularFile)(nil)
	_ io.Seeker      = (*regularFile)(nil)
	_ io.WriterTo    = (*regularFile)(nil)
)

// name is the Client's name for an fs.FS's.
func (t *tree) name(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		return t.root, nil
	}
	if t.root == "" || t.root == "." || t.root == "/" {
		return name, nil
	}
	return t.root + "/" + name, nil
}

// pathError tells what was wrong with a name in the words of io/fs.
func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var e *wire.Error
	if errors.As(err, &e) {
		short := *e
		short.Op, short.Name = "", ""
		err = &short
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open implements fs.FS.
func (t *tree) Open(name string) (fs.File, error) {
	full, err := t.name("open", name)
	if err != nil {
		return nil, err
	}
	r, err := t.c.Open(t.ctx, full)
	switch {
	case err == nil:
		return &regularFile{r, info{path.Base(name), r.Attr()}}, nil
	case wire.CodeOf(err) != wire.CodeIsDir && wire.CodeOf(err) != wire.CodeInvalid:
		return nil, pathError("open", name, err)
	}
	attr, err := t.c.Stat(t.ctx, full)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	i := info{path.Base(name), attr}
	if !i.IsDir() {
		return &otherFile{i, name}, nil
	}
	return &dirFile{t: t, name: name, info: i, pages: listing{at: wire.At{Dir: attr.Ino}}}, nil
}

// ReadFile implements fs.ReadFileFS.
func (t *tree) ReadFile(name string) ([]byte, error) {
	full, err := t.name("open", name)
	if err != nil {
		return nil, err
	}
	data, err := t.c.ReadFile(t.ctx, full)
	return data, pathError("open", name, err)
}

// ReadDir implements fs.ReadDirFS. Each page of wire.MaxListEntries is of one
// moment.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	full, err := t.name("readdir", name)
	if err != nil {
		return nil, err
	}
	list, err := t.c.List(t.ctx, full)
	return entries(list), pathError("readdir", name, err)
}

// Stat implements fs.StatFS.
func (t *tree) Stat(name string) (fs.FileInfo, error) { return t.stat("stat", name, t.c.Stat) }

// Lstat implements fs.ReadLinkFS.
func (t *tree) Lstat(name string) (fs.FileInfo, error) { return t.stat("lstat", name, t.c.Lstat) }

func (t *tree) stat(op, name string, ask func(context.Context, string) (wire.Attr, error)) (fs.FileInfo, error) {
	full, err := t.name(op, name)
	if err != nil {
		return nil, err
	}
	attr, err := ask(t.ctx, full)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return info{path.Base(name), attr}, nil
}

// ReadLink implements fs.ReadLinkFS.
func (t *tree) ReadLink(name string) (string, error) {
	full, err := t.name("readlink", name)
	if err != nil {
		return "", err
	}
	target, err := t.c.Readlink(t.ctx, full)
	return target, pathError("readlink", name, err)
}

// Sub implements fs.SubFS.
func (t *tree) Sub(dir string) (fs.FS, error) {
	full, err := t.name("sub", dir)
	if err != nil {
		return nil, err
	}
	return &tree{t.c, t.ctx, full}, nil
}

// info is a file's attributes as fs.FileInfo and fs.DirEntry.
type info struct {
	name string
	attr wire.Attr
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.attr.Size }
func (i info) Mode() fs.FileMode          { return FileMode(i.attr.Mode) }
func (i info) ModTime() time.Time         { return time.Unix(0, i.attr.Mtime) }
func (i info) IsDir() bool                { return i.Mode().IsDir() }
func (i info) Sys() any                   { return i.attr }
func (i info) Type() fs.FileMode          { return i.Mode().Type() }
func (i info) Info() (fs.FileInfo, error) { return i, nil }
func (i info) String() string             { return fs.FormatDirEntry(i) }

func entries(list []wire.DirEntry) []fs.DirEntry {
	var out []fs.DirEntry
	for _, e := range list {
		out = append(out, info{e.Name, e.Attr})
	}
	return out
}

// FileMode is the mode of stat(2) as Go's.
func FileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & wire.ModeType {
	case wire.ModeDir:
		m |= fs.ModeDir
	case wire.ModeSymlink:
		m |= fs.ModeSymlink
	case wire.ModeFifo:
		m |= fs.ModeNamedPipe
	case wire.ModeSocket:
		m |= fs.ModeSocket
	case wire.ModeBlock:
		m |= fs.ModeDevice
	case wire.ModeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	}
	for _, bit := range []struct {
		unix uint32
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if mode&bit.unix != 0 {
			m |= bit.mode
		}
	}
	return m
}

// regularFile is an open file.
type regularFile struct {
	*Reader
	info info
}

func (f *regularFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// otherFile is neither a directory nor has it contents.
type otherFile struct {
	info info
	name string
}

func (f *otherFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *otherFile) Close() error               { return nil }
func (f *otherFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: f.name, Err: wire.NewError(wire.CodeUnsupported, "it is no regular file")}
}

// dirFile is an open directory. It reads the one that it has opened, whatever
// its name becomes.
type dirFile struct {
	t    *tree
	name string
	info info

	mu     sync.Mutex // guards what follows
	pages  listing
	ahead  []wire.DirEntry // read and not given yet
	closed bool
}

func (d *dirFile) Stat() (fs.FileInfo, error) { return d.info, nil }

func (d *dirFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: wire.NewError(wire.CodeIsDir, "")}
}

func (d *dirFile) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed, d.ahead = true, nil
	return nil
}

// ReadDir implements fs.ReadDirFile: a page at a time is in memory, if n > 0.
func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: fs.ErrClosed}
	}
	for !d.pages.over && (n <= 0 || len(d.ahead) < n) {
		if err := d.pageLocked(); err != nil {
			if n > 0 {
				return nil, pathError("readdir", d.name, err)
			}
			out := entries(d.ahead)
			d.ahead = nil
			return out, pathError("readdir", d.name, err)
		}
	}
	k := len(d.ahead)
	if n > 0 {
		k = min(n, k)
	}
	out := entries(d.ahead[:k])
	d.ahead = d.ahead[k:]
	if n > 0 && k == 0 {
		return nil, io.EOF
	}
	return out, nil
}

func (d *dirFile) pageLocked() error {
	o, err := d.t.c.begin(d.t.ctx)
	if err != nil {
		return err
	}
	defer o.end()
	page, err := d.pages.next(o)
	d.ahead = append(d.ahead, page...)
	return err
}
