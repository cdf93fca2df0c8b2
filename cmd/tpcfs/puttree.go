package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// Bounds of one transaction of put -r --no-atomic, and how many are under way.
const (
	batchChanges  = 1000
	batchBytes    = 16 << 20
	batchesAtOnce = 4
)

// tree is a local directory as the changes that make it.
type tree struct {
	root     string // local
	base     string // its name in the service's directory
	muts     []wire.Mutation
	contents []client.Content
	dirs     int // the first so many changes make directories
	result   putTreeResult
	read     atomic.Int64 // bytes of contents read so far
}

// putTreeResult is what -o json prints.
type putTreeResult struct {
	Name        string `json:"name"`
	Directories int    `json:"directories"`
	Files       int    `json:"files"`
	Links       int    `json:"links"`
	Bytes       int64  `json:"bytes"`
	Atomic      bool   `json:"atomic"`
}

func (a *app) putTree(ctx context.Context, f putFlags, local, name string) error {
	switch {
	case local == "-":
		return usage("put", "-r takes a directory, not standard input")
	case f.ifVersion != "" || f.exclusive || f.mode != "":
		return usage("put", "--if-version, --exclusive and --mode go with one file: with -r, NAME must not exist anyway, and modes are copied")
	}
	clean := strings.Trim(path.Clean("/"+name), "/")
	if clean == "" {
		return usage("put", "the root directory exists already: name a directory to make")
	}
	t := &tree{root: local, base: path.Base(clean), result: putTreeResult{Name: name, Atomic: !f.noAtomic}}
	if err := t.walk(f.preserve); err != nil {
		return err
	}
	if err := t.check(f.noAtomic); err != nil {
		return about(local, err)
	}
	c, err := a.connect(ctx, "put", f.clientFlags)
	if err != nil {
		return err
	}
	defer closeClient(c)
	parent, err := c.Stat(ctx, path.Dir(clean))
	if err == nil && parent.Mode&wire.ModeType != wire.ModeDir {
		err = &wire.Error{Code: wire.CodeNotDir}
	}
	if err != nil {
		return about(path.Dir(clean), err)
	}
	for i := range t.muts {
		t.muts[i].At.Dir = parent.Ino
	}
	bar := a.meter(name, t.result.Bytes)
	stop := t.follow(bar)
	if f.noAtomic {
		err = t.putParts(ctx, c)
	} else {
		_, err = c.Transact(ctx, t.muts, t.contents)
		err = hintNoAtomic(err)
	}
	stop()
	bar.done()
	if err != nil {
		return t.named(clean, err)
	}
	return a.print(t.result, "")
}

// hintNoAtomic says what to do about a tree that is too much for a transaction.
func hintNoAtomic(err error) error {
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeTooMany {
		return err
	}
	more := *e
	more.Text += "; --no-atomic puts it in several transactions"
	return &more
}

// named tells an error by the names that the user knows.
func (t *tree) named(name string, err error) error {
	var e *wire.Error
	if !errors.As(err, &e) {
		return about(name, err)
	}
	if e.Mutation >= 0 && e.Mutation < len(t.muts) && e.Name != "" {
		name = path.Join(path.Dir(name), t.muts[e.Mutation].At.Path)
	}
	return about(name, err)
}

// follow shows progress until the function that it returns is called.
func (t *tree) follow(bar *meter) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				bar.set(min(t.read.Load(), t.result.Bytes))
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// walk finds what is to be put. Symbolic links are put as such.
func (t *tree) walk(preserve bool) error {
	info, err := os.Stat(t.root) // a link to a directory is meant as the directory
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "put -r", Path: t.root, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return err
	}
	uid, gid := owner()
	var files, times []wire.Mutation
	var contents []client.Content
	err = filepath.WalkDir(t.root+string(filepath.Separator), func(local string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(t.root, local)
		if err != nil {
			return err
		}
		m := wire.Mutation{At: wire.At{Path: path.Join(t.base, filepath.ToSlash(rel))}, UID: uid, GID: gid}
		stat := info.Sys().(*syscall.Stat_t)
		m.Mode = stat.Mode & wire.ModePerm
		if preserve {
			m.UID, m.GID = stat.Uid, stat.Gid
		}
		switch {
		case info.IsDir():
			m.Kind = wire.MutMkdir
			t.muts = append(t.muts, m)
			t.result.Directories++
		case info.Mode().IsRegular():
			m.Kind = wire.MutWriteFile
			m.Create = wire.MustNotExist
			files, contents = append(files, m), append(contents, &localFile{local, info.Size(), &t.read})
			t.result.Files++
			t.result.Bytes += info.Size()
		case info.Mode()&fs.ModeSymlink != 0:
			if m.Target, err = os.Readlink(local); err != nil {
				return err
			}
			m.Kind = wire.MutSymlink
			files, contents = append(files, m), append(contents, nil)
			t.result.Links++
		default:
			return about(local, errors.New("it is no file, directory or symbolic link, and nothing else is put"))
		}
		if preserve {
			times = append(times, wire.Mutation{Kind: wire.MutSetattr, At: m.At, Set: wire.SetMtime | wire.SetAtime,
				Mtime: stat.Mtim.Nano(), Atime: stat.Atim.Nano()})
		}
		return nil
	})
	t.dirs = len(t.muts)
	t.contents = append(make([]client.Content, t.dirs), contents...)
	t.muts = append(t.muts, files...)
	for i := len(times) - 1; i >= 0; i-- { // a directory's after what is made in it
		t.muts, t.contents = append(t.muts, times[i]), append(t.contents, nil)
	}
	return err
}

// check refuses what cannot be put, before anything is sent.
func (t *tree) check(noAtomic bool) error {
	for i := range t.muts {
		if err := wire.CheckPath(t.muts[i].At.Path); err != nil {
			return &wire.Error{Code: err.Code, Name: t.muts[i].At.Path, Text: err.Text}
		}
		if c := t.contents[i]; c != nil && c.Size() > wire.MaxFileSize {
			return &wire.Error{Code: wire.CodeTooLarge, Name: t.muts[i].At.Path, Text: fmt.Sprintf("a file has at most %s", wire.SizeText(wire.MaxFileSize))}
		}
	}
	if n := len(t.muts); n > wire.MaxMutations && !noAtomic {
		return hintNoAtomic(&wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf(
			"%d changes (%d directories, %d files, %d links), one transaction has at most %d", n, t.result.Directories, t.result.Files, t.result.Links, wire.MaxMutations)})
	}
	return nil
}

// putParts puts the tree in several transactions: directories first, then what
// is in them, times at last.
func (t *tree) putParts(ctx context.Context, c *client.Client) error {
	plain := t.dirs
	for plain < len(t.muts) && t.muts[plain].Kind != wire.MutSetattr {
		plain++
	}
	for _, part := range []struct {
		from, to, atOnce int
	}{{0, t.dirs, 1}, {t.dirs, plain, batchesAtOnce}, {plain, len(t.muts), 1}} {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(part.atOnce)
		for from := part.from; from < part.to && ctx.Err() == nil; {
			to := t.batch(from, part.to)
			begin := from
			group.Go(func() error {
				_, err := c.Transact(ctx, t.muts[begin:to], t.contents[begin:to])
				var e *wire.Error
				if errors.As(err, &e) {
					moved := *e
					moved.Mutation += begin
					err = &moved
				}
				return err
			})
			from = to
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("%w; what was put before is there: remove it before you try again", err)
		}
	}
	return nil
}

// batch is where the transaction ends that begins with a change.
func (t *tree) batch(from, end int) int {
	bytes := int64(0)
	to := from
	for to < end && to-from < batchChanges && (to == from || bytes < batchBytes) {
		if c := t.contents[to]; c != nil {
			bytes += c.Size()
		}
		to++
	}
	return to
}

// localFile is a file of the local disk as contents.
type localFile struct {
	name string
	size int64
	read *atomic.Int64
}

func (f *localFile) Size() int64 { return f.size }

func (f *localFile) Open() (io.ReadCloser, error) {
	file, err := os.Open(f.name)
	if err != nil {
		return nil, err
	}
	return &countedFile{file, f.read}, nil
}

type countedFile struct {
	*os.File
	read *atomic.Int64
}

func (f *countedFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	f.read.Add(int64(n))
	return n, err
}
