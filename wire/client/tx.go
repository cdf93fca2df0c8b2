package client

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"

	"tpcfs/wire"
)

// Tx is a transaction that is being put together: its changes happen all, in
// their order and at one moment, or none of them. Each sees what those before
// it have done. Names are as the Client's; symbolic links in them are followed.
//
//	outcome, err := c.Tx().
//		WriteFile("config", client.Bytes(config), client.WriteOptions{}).
//		Rename("state.new", "state").
//		DeleteFile("draft", client.IfVersion(attr.Version)).
//		Commit(ctx)
//
// A change that cannot be meant shows as the error of Commit. A Tx is not safe
// for concurrent use.
type Tx struct {
	c        *Client
	muts     []wire.Mutation
	contents []Content // by mutation
	names    []txNames // ... as the caller gave them
	err      error     // the first change that cannot be
}

// txNames are a mutation's names in the caller's words.
type txNames struct{ at, to string }

// IfVersion is a condition of a change: the file must still have that version,
// else nothing of the transaction happens and the error is ErrVersion. 0 is no
// condition.
type IfVersion wire.ID

// Tx begins a transaction of no changes. Nothing is sent before Commit.
func (c *Client) Tx() *Tx { return &Tx{c: c} }

// Len is the number of changes.
func (t *Tx) Len() int { return len(t.muts) }

// WriteFile gives a file new contents, all of them at once; o.Progress does not
// count (Transact's contents are staged together).
func (t *Tx) WriteFile(name string, content Content, o WriteOptions) *Tx {
	return t.named(o.mutation(), name, "", content)
}

// DeleteFile removes a file or a symbolic link.
func (t *Tx) DeleteFile(name string, when ...IfVersion) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutDeleteFile, IfVersion: ifVersion(when)}, name, "", nil)
}

// Mkdir makes a directory, owned as the Client's Options say.
func (t *Tx) Mkdir(name string, mode uint32) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutMkdir, Mode: mode, UID: t.c.o.UID, GID: t.c.o.GID}, name, "", nil)
}

// Rmdir removes an empty directory.
func (t *Tx) Rmdir(name string) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutRmdir}, name, "", nil)
}

// Rename moves a file or a directory; what to names is replaced.
func (t *Tx) Rename(from, to string, when ...IfVersion) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutRename, IfVersion: ifVersion(when)}, from, to, nil)
}

// RenameNoReplace is Rename, refused if to names something.
func (t *Tx) RenameNoReplace(from, to string, when ...IfVersion) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutRename, Rename: wire.RenameNoReplace, IfVersion: ifVersion(when)}, from, to, nil)
}

// Link gives the file target one more name.
func (t *Tx) Link(target, name string) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutLink}, target, name, nil)
}

// Setxattr sets an extended attribute, of a symbolic link itself if it is one.
func (t *Tx) Setxattr(name, attr string, value []byte, mode wire.XattrMode) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutSetxattr, Name: attr, Value: value, Xattr: mode}, name, "", nil)
}

// Symlink makes a symbolic link to target, which need not exist.
func (t *Tx) Symlink(target, name string) *Tx {
	return t.named(wire.Mutation{Kind: wire.MutSymlink, Target: target, UID: t.c.o.UID, GID: t.c.o.GID}, name, "", nil)
}

// SetAttr sets what m.Set names, of a symbolic link itself if it is one.
func (t *Tx) SetAttr(name string, m wire.Mutation, when ...IfVersion) *Tx {
	m.Kind, m.IfVersion = wire.MutSetattr, cmp.Or(ifVersion(when), m.IfVersion)
	return t.named(m, name, "", nil)
}

func ifVersion(when []IfVersion) wire.ID {
	if len(when) == 0 {
		return 0
	}
	return wire.ID(when[0])
}

// Add adds any mutation, with what it writes, if anything. Its At and To are
// used as they are, but Dir 0 is the root; symbolic links are followed only
// below the root.
func (t *Tx) Add(m wire.Mutation, content Content) *Tx {
	if m.At.Dir == 0 {
		m.At.Dir = wire.RootIno
	}
	names := txNames{at: m.At.String()}
	if m.To != (wire.At{}) {
		if m.To.Dir == 0 {
			m.To.Dir = wire.RootIno
		}
		names.to = m.To.String()
	}
	t.muts, t.contents, t.names = append(t.muts, m), append(t.contents, content), append(t.names, names)
	return t
}

// named adds a mutation at a name, and to another one if to is not "".
func (t *Tx) named(m wire.Mutation, name, to string, content Content) *Tx {
	path, bad := parse(name)
	m.At = wire.At{Dir: wire.RootIno, Path: path}
	if bad == nil && (m.Kind == wire.MutRename || m.Kind == wire.MutLink) {
		path, bad = parse(to)
		m.To = wire.At{Dir: wire.RootIno, Path: path}
	}
	if bad != nil && t.err == nil {
		bad.Op, bad.Mutation = kindNames[m.Kind], len(t.muts)
		t.err = bad
	}
	t.muts, t.contents, t.names = append(t.muts, m), append(t.contents, content), append(t.names, txNames{name, to})
	return t
}

// Commit makes the changes, all or none. An error names the change that is at
// fault, also by its index (wire.Error.Mutation). What is over a limit of the
// service is refused before anything is sent: ErrTooLarge, ErrTooMany. After an
// error which says that nothing has changed, such as ErrConflict, Commit may be
// called again.
//
// The outcome's Results are one a change, but missing where a transaction has
// many thousands of changes, or many small contents, and so travelled as a pack.
func (t *Tx) Commit(ctx context.Context) (wire.Outcome, error) {
	switch {
	case t.err != nil:
		return wire.Outcome{}, t.err
	case len(t.muts) == 0:
		return wire.Outcome{}, wire.NewError(wire.CodeInvalid, "a transaction without changes")
	}
	o, err := t.c.begin(ctx)
	if err != nil {
		return wire.Outcome{}, err
	}
	defer o.end()
	var outcome wire.Outcome
	var muts []wire.Mutation
	tr, err := o.prepare(t.muts, t.contents)
	if err == nil {
		outcome, err = t.commit(tr)
		muts = tr.muts
	}
	return outcome, t.told(err, muts)
}

// linksMet counts the symbolic links followed for a mutation's names.
type linksMet struct{ at, to int }

// commit follows symbolic links until the transaction has an answer.
func (t *Tx) commit(tr *transaction) (wire.Outcome, error) {
	links := make([]linksMet, len(tr.muts))
	if err := tr.settleNames(links); err != nil {
		return wire.Outcome{}, err
	}
	for {
		outcome, err := tr.commit()
		e := asSymlink(err)
		if e == nil || e.Mutation < 0 || e.Mutation >= len(tr.muts) {
			return outcome, err
		}
		i := e.Mutation
		m := &tr.muts[i]
		at, met := &m.At, &links[i].at
		if joinPath(e.Prefix, e.Rest) != at.Path {
			at, met = &m.To, &links[i].to
		}
		switch {
		case at.Dir != wire.RootIno || joinPath(e.Prefix, e.Rest) != at.Path:
			return outcome, err
		case m.Kind == wire.MutWriteFile && m.Create == wire.MustNotExist && e.Rest == "":
			return outcome, &wire.Error{Code: wire.CodeExist, Mutation: i, Text: "there is a symbolic link of that name"}
		}
		path, err := tr.o.resolve(e, met)
		if err != nil {
			return outcome, ofMutation(err, i)
		}
		at.Path = path
	}
}

// looksAtOnce is how many names of a transaction are looked at at a time.
const looksAtOnce = 16

// settleNames follows the symbolic links that the names of a transaction with
// large contents lead through now: a refusal would throw away what was staged.
// What else is wrong with them, the transaction will tell.
func (t *transaction) settleNames(links []linksMet) error {
	if len(t.staged) == 0 && t.packed == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(t.o.ctx)
	group.SetLimit(looksAtOnce)
	touched := map[string]bool{}
	dirs := map[string]string{"": ""} // as they are after links
	for i := range t.muts {
		m := &t.muts[i]
		for _, at := range []*wire.At{&m.At, &m.To} {
			if at.Dir != wire.RootIno && *at != (wire.At{}) || ctx.Err() != nil {
				return group.Wait() // nobody knows which names it changes
			}
			name := at.Path
			dir, _ := splitPath(name)
			if name == "" || touchedAbove(touched, dir) {
				continue
			}
			before := touched[name]
			touched[name] = true
			if err := t.o.settleDir(&at.Path, dirs); err != nil {
				return cmp.Or(group.Wait(), ofMutation(err, i))
			}
			if at == &m.At && !before && m.Kind == wire.MutWriteFile && m.Create != wire.MustNotExist {
				group.Go(func() error { return ofMutation(t.o.settlePath(&at.Path, &links[i].at), i) })
			}
		}
	}
	return group.Wait()
}

// settleDir follows the links that lead to the directory of path.
func (o *operation) settleDir(path *string, dirs map[string]string) error {
	name, last := splitPath(*path)
	dir, ok := dirs[name]
	if !ok {
		dir = name
		links := 0
		if err := o.settlePath(&dir, &links); err != nil {
			return err
		}
		dirs[name] = dir
	}
	*path = joinPath(dir, last)
	return nil
}

// splitPath returns a path's directory and its last name.
func splitPath(path string) (dir, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// touchedAbove: does an earlier change of the transaction name path, or
// something above it? Then what is there now says nothing.
func touchedAbove(touched map[string]bool, path string) bool {
	for path != "" {
		if touched[path] {
			return true
		}
		path, _ = splitPath(path)
	}
	return false
}

// settlePath follows the symbolic links that path leads through now. What else
// is wrong with it, the transaction will tell.
func (o *operation) settlePath(path *string, links *int) error {
	for {
		_, link, err := o.lstat(*path)
		if link == nil {
			link = asSymlink(err)
		}
		if link == nil {
			return nil
		}
		if *path, err = o.resolve(link, links); err != nil {
			return err
		}
	}
}

// told gives an error the caller's words for the change that it is about.
// muts are the mutations as they were sent.
func (t *Tx) told(err error, muts []wire.Mutation) error {
	var e *wire.Error
	if !errors.As(err, &e) || e.Mutation < 0 || e.Mutation >= len(t.muts) {
		return err
	}
	full := *e
	full.Op = kindNames[t.muts[e.Mutation].Kind]
	full.Name = t.names[e.Mutation].at
	if muts != nil {
		m := &muts[e.Mutation]
		if to := t.names[e.Mutation].to; to != "" && m.To != m.At && (e.Name == m.To.Path || e.Name == to) {
			full.Name = to
		}
	}
	return &full
}
