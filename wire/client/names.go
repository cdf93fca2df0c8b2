package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"tpcfs/wire"
)

// WriteOptions say how a file is written.
type WriteOptions struct {
	Create wire.CreateMode // default: a file that exists is replaced, a missing one made
	// Mode, UID and GID of a new file. Mode 0 is 0644.
	Mode, UID, GID uint32
	// IfVersion, if not 0: the version that the file must still have, else
	// CodeVersion.
	IfVersion wire.ID
	// Progress is called with the number of bytes sent so far, for contents of
	// more than wire.MaxInline bytes.
	Progress func(bytes int64)
}

// The names below are paths from the root: "a/b" or "/a/b"; "", "." and "/"
// are the root itself.

// WriteFile gives a file new contents, all of them at once: no reader ever
// sees a part. Symbolic links are followed.
func (c *Client) WriteFile(ctx context.Context, name string, content Content, o WriteOptions) (wire.Result, error) {
	outcome, err := c.writeFile(ctx, name, content, o)
	if err != nil {
		return wire.Result{}, err
	}
	return outcome.Results[0], nil
}

// mutation is what the options ask for, without a name.
func (o *WriteOptions) mutation() wire.Mutation {
	return wire.Mutation{Kind: wire.MutWriteFile, IfVersion: o.IfVersion, Create: o.Create, Mode: cmp.Or(o.Mode, 0o644), UID: o.UID, GID: o.GID}
}

func (c *Client) writeFile(ctx context.Context, name string, content Content, o WriteOptions) (wire.Outcome, error) {
	m := o.mutation()
	var t *transaction
	var outcome wire.Outcome
	err := c.follow(ctx, "writeFile", name, func(op *operation, path string) (err error) {
		m.At = wire.At{Dir: wire.RootIno, Path: path}
		if t == nil {
			if t, err = op.prepare([]wire.Mutation{m}, []Content{content}); err != nil {
				return err
			}
			t.report = o.Progress
		}
		if len(t.staged) > 0 && t.muts[0].Content.Stage == 0 {
			// What is wrong with the name is better known before the
			// contents are sent.
			_, link, err := op.lstat(path)
			switch {
			case err != nil && wire.CodeOf(err) != wire.CodeNotExist:
				return err
			case link != nil && o.Create != wire.MustNotExist:
				return link
			}
		}
		t.o, t.muts[0].At = op, m.At
		outcome, err = only(t.commit())
		if e := asSymlink(err); e != nil && e.Rest == "" && o.Create == wire.MustNotExist {
			return wire.NewError(wire.CodeExist, "there is a symbolic link of that name")
		}
		return err
	})
	return outcome, err
}

// only checks that an outcome has one result.
func only(outcome wire.Outcome, err error) (wire.Outcome, error) {
	if err == nil && len(outcome.Results) != 1 {
		err = wire.NewError(wire.CodeProtocol, fmt.Sprintf("it is done, but the answer has %d results", len(outcome.Results)))
	}
	return outcome, err
}

// mutate commits one mutation without contents, at the name.
func (c *Client) mutate(ctx context.Context, op, name string, m wire.Mutation) error {
	return c.follow(ctx, op, name, func(o *operation, path string) error {
		m.At = wire.At{Dir: wire.RootIno, Path: path}
		return o.mutate(m)
	})
}

func (o *operation) mutate(m wire.Mutation) error {
	t, err := o.prepare([]wire.Mutation{m}, nil)
	if err != nil {
		return err
	}
	_, err = t.commit()
	return err
}

// DeleteFile removes a file or a symbolic link.
func (c *Client) DeleteFile(ctx context.Context, name string) error {
	return c.mutate(ctx, "deleteFile", name, wire.Mutation{Kind: wire.MutDeleteFile})
}

// Mkdir makes a directory with those permission bits, owned as Options say.
func (c *Client) Mkdir(ctx context.Context, name string, mode uint32) error {
	return c.mutate(ctx, "mkdir", name, wire.Mutation{Kind: wire.MutMkdir, Mode: mode, UID: c.o.UID, GID: c.o.GID})
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(ctx context.Context, name string) error {
	return c.mutate(ctx, "rmdir", name, wire.Mutation{Kind: wire.MutRmdir})
}

// Symlink makes a symbolic link to target, which need not exist.
func (c *Client) Symlink(ctx context.Context, target, name string) error {
	return c.mutate(ctx, "symlink", name, wire.Mutation{Kind: wire.MutSymlink, Target: target, UID: c.o.UID, GID: c.o.GID})
}

// SetAttr sets what m.Set names: Mode, UID, GID, Size, Atime or Mtime. A
// symbolic link is followed.
func (c *Client) SetAttr(ctx context.Context, name string, m wire.Mutation) error {
	m.Kind = wire.MutSetattr
	return c.followLast(ctx, "setattr", name, func(o *operation, attr wire.Attr) error {
		m.At = wire.At{Dir: attr.Ino}
		return o.mutate(m)
	})
}

// Rename moves a file or a directory; what to names is replaced, a directory
// only if it is empty.
func (c *Client) Rename(ctx context.Context, from, to string) error {
	return c.twoNames(ctx, "rename", from, to, wire.Mutation{Kind: wire.MutRename})
}

// RenameNoReplace is Rename, refused with CodeExist if to names something.
func (c *Client) RenameNoReplace(ctx context.Context, from, to string) error {
	return c.twoNames(ctx, "rename", from, to, wire.Mutation{Kind: wire.MutRename, Rename: wire.RenameNoReplace})
}

// Exchange lets two names change places in one step; both must exist, of
// whatever type.
func (c *Client) Exchange(ctx context.Context, a, b string) error {
	return c.twoNames(ctx, "rename", a, b, wire.Mutation{Kind: wire.MutRename, Rename: wire.RenameExchange})
}

// Link gives the file target one more name (link(2)). A symbolic link is not
// followed; a directory has one name only.
func (c *Client) Link(ctx context.Context, target, name string) error {
	return c.twoNames(ctx, "link", target, name, wire.Mutation{Kind: wire.MutLink})
}

// twoNames commits a mutation of two names; symbolic links on the way to
// either are followed.
func (c *Client) twoNames(ctx context.Context, op, from, to string, m wire.Mutation) error {
	toPath, bad := parse(to)
	if bad != nil {
		return named(bad, op, to)
	}
	links := 0
	return c.follow(ctx, op, from, func(o *operation, path string) error {
		for {
			m.At, m.To = wire.At{Dir: wire.RootIno, Path: path}, wire.At{Dir: wire.RootIno, Path: toPath}
			err := o.mutate(m)
			e := asSymlink(err)
			if e == nil || joinPath(e.Prefix, e.Rest) != toPath || toPath == path {
				return renameError(err, path, from, toPath, to)
			}
			if toPath, err = o.resolve(e, &links); err != nil {
				return named(err, op, to)
			}
		}
	})
}

// renameError gives an error the caller's word for the name that it is about.
func renameError(err error, path, from, toPath, to string) error {
	var e *wire.Error
	if !errors.As(err, &e) || e.Code == wire.CodeSymlink {
		return err
	}
	full := *e
	switch {
	case e.Name == toPath && toPath != path:
		full.Name = to
	default:
		full.Name = from
	}
	return &full
}

// Lstat tells of a file, or of the symbolic link itself.
func (c *Client) Lstat(ctx context.Context, name string) (wire.Attr, error) {
	reply, err := c.readName(ctx, "stat", name, wire.Read{Kind: wire.ReadStat})
	return reply.Attr, err
}

// Stat tells of a file; symbolic links are followed.
func (c *Client) Stat(ctx context.Context, name string) (wire.Attr, error) {
	var attr wire.Attr
	err := c.followLast(ctx, "stat", name, func(_ *operation, a wire.Attr) error {
		attr = a
		return nil
	})
	return attr, err
}

// Readlink returns a symbolic link's target.
func (c *Client) Readlink(ctx context.Context, name string) (string, error) {
	reply, err := c.readName(ctx, "readlink", name, wire.Read{Kind: wire.ReadLink})
	return reply.Target, err
}

// List returns a directory's entries in the order of their names' bytes. Each
// page of wire.MaxListEntries is of one moment.
func (c *Client) List(ctx context.Context, name string) ([]wire.DirEntry, error) {
	var entries []wire.DirEntry
	err := c.follow(ctx, "list", name, func(o *operation, path string) error {
		p := &listing{at: wire.At{Dir: wire.RootIno, Path: path}}
		for entries = nil; !p.over; {
			page, err := p.next(o)
			if err != nil {
				return err
			}
			entries = append(entries, page...)
		}
		return nil
	})
	return entries, err
}

// listing reads a directory page by page.
type listing struct {
	at    wire.At
	after string
	over  bool
}

// next returns the next page, which may be empty if it is the last.
func (p *listing) next(o *operation) ([]wire.DirEntry, error) {
	reply, err := o.read(wire.Read{Kind: wire.ReadList, At: p.at, After: p.after}, nil)
	if err != nil {
		return nil, err
	}
	if p.over = !reply.More; p.over {
		return reply.Entries, nil
	}
	if len(reply.Entries) == 0 {
		return nil, wire.NewError(wire.CodeProtocol, "a listing goes on without entries")
	}
	// The rest of the same directory, whatever the name becomes.
	p.at, p.after = wire.At{Dir: reply.Attr.Ino}, reply.Entries[len(reply.Entries)-1].Name
	return reply.Entries, nil
}

func (c *Client) readName(ctx context.Context, op, name string, req wire.Read) (wire.ReadReply, error) {
	var reply wire.ReadReply
	err := c.follow(ctx, op, name, func(o *operation, path string) (err error) {
		req.At = wire.At{Dir: wire.RootIno, Path: path}
		reply, err = o.read(req, nil)
		return err
	})
	return reply, err
}

// parse makes a caller's name a path on the wire.
func parse(name string) (string, *wire.Error) {
	path := strings.TrimPrefix(name, "/")
	if path == "" || path == "." {
		return "", nil
	}
	if err := wire.CheckPath(path); err != nil {
		err.Name = name
		return "", err
	}
	return path, nil
}

func joinPath(prefix, rest string) string {
	if prefix == "" || rest == "" {
		return prefix + rest
	}
	return prefix + "/" + rest
}

func asSymlink(err error) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) && e.Code == wire.CodeSymlink {
		return e
	}
	return nil
}

// follow calls fn with the name's path, and again with the path that each
// symbolic link on the way leads to (openat(2), path_resolution(7)).
func (c *Client) follow(ctx context.Context, op, name string, fn func(o *operation, path string) error) error {
	path, bad := parse(name)
	if bad != nil {
		return named(bad, op, name)
	}
	o, err := c.begin(ctx)
	if err != nil {
		return named(err, op, name)
	}
	defer o.end()
	for links := 0; ; {
		err := fn(o, path)
		if e := asSymlink(err); e != nil {
			if path, err = o.resolve(e, &links); err == nil {
				continue
			}
		}
		return told(err, op, name, path)
	}
}

// told gives an error the caller's words: the operation and the name.
func told(err error, op, name, path string) error {
	if err == nil {
		return nil
	}
	var e *wire.Error
	if !errors.As(err, &e) {
		return named(err, op, name)
	}
	full := *e
	full.Op = op
	// The server's name for the file is the path that it was asked for.
	if full.Name == "" || full.Name == path || strings.HasPrefix(full.Name, "inode ") {
		full.Name = name
	}
	return &full
}

// followLast calls fn with the attributes of what the name leads to when its
// last component is followed too.
func (c *Client) followLast(ctx context.Context, op, name string, fn func(o *operation, attr wire.Attr) error) error {
	return c.follow(ctx, op, name, func(o *operation, path string) error {
		attr, link, err := o.lstat(path)
		switch {
		case err != nil:
			return err
		case link != nil:
			return link
		}
		return fn(o, attr)
	})
}

// lstat tells of path itself; of a symbolic link as the error that one on the
// way would have been.
func (o *operation) lstat(path string) (wire.Attr, *wire.Error, error) {
	at := wire.At{Dir: wire.RootIno, Path: path}
	reply, err := o.read(wire.Read{Kind: wire.ReadStat, At: at}, nil)
	if err != nil || reply.Attr.Mode&wire.ModeType != wire.ModeSymlink {
		return reply.Attr, nil, err
	}
	target, err := o.read(wire.Read{Kind: wire.ReadLink, At: at}, nil)
	if err != nil {
		return reply.Attr, nil, err
	}
	return reply.Attr, &wire.Error{Code: wire.CodeSymlink, Prefix: path, Target: target.Target}, nil
}

// resolve returns the path that goes on after a symbolic link. Above the link
// are directories only: the participant stopped at the first link.
func (o *operation) resolve(e *wire.Error, links *int) (string, error) {
	var base, todo []string
	enter := func(e *wire.Error, after []string) error {
		if *links++; *links > wire.MaxSymlinks {
			return wire.NewError(wire.CodeLoop, fmt.Sprintf("more than %d symbolic links", wire.MaxSymlinks))
		}
		if e.Target == "" || e.Prefix == "" {
			return wire.NewError(wire.CodeNotExist, "a symbolic link without a target")
		}
		base = wire.SplitPath(e.Prefix)
		base = base[:len(base)-1]
		if e.Target[0] == '/' {
			base = nil
		}
		todo = append(append(components(e.Target), components(e.Rest)...), after...)
		return nil
	}
	if err := enter(e, nil); err != nil {
		return "", err
	}
	for {
		up := indexOf(todo, "..")
		if up < 0 {
			path := strings.Join(append(base, todo...), "/")
			if err := wire.CheckPath(path); err != nil {
				return "", wire.NewError(err.Code, "a symbolic link leads to what is no name: "+err.Text)
			}
			return path, nil
		}
		if up == 0 {
			base, todo = base[:max(0, len(base)-1)], todo[1:]
			continue
		}
		// What ".." is above of is known only once the names before it are.
		attr, link, err := o.lstat(strings.Join(append(base, todo[:up]...), "/"))
		if link == nil {
			link = asSymlink(err)
		}
		switch {
		case link != nil:
			if err := enter(link, todo[up:]); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		case attr.Mode&wire.ModeType != wire.ModeDir:
			return "", wire.NewError(wire.CodeNotDir, "a symbolic link leads through something that is no directory")
		default:
			base, todo = append(base, todo[:up-1]...), todo[up+1:]
		}
	}
}

// components splits a target as path_resolution(7) reads it.
func components(path string) []string {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

func indexOf(names []string, name string) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	return -1
}
