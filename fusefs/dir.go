package fusefs

import (
	"context"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// dirHandle is one open directory. It keeps the names that it read at offset
// 0, so that an offset means the same while names come and go.
type dirHandle struct {
	ino wire.Ino

	mu     sync.Mutex // guards below; held over a request
	parent wire.Ino
	names  []dirName
	read   bool
}

type dirName struct {
	name string
	ino  wire.Ino
	mode uint32
}

// plusSize is what a READDIRPLUS entry takes at least, in bytes.
const plusSize = 152

// OpenDir opens a directory. Names are read at offset 0.
func (f *fileSystem) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastFH++
	f.dirs[f.lastFH] = &dirHandle{ino: wire.Ino(in.NodeId)}
	out.Fh = f.lastFH
	return fuse.OK
}

// ReleaseDir closes it.
func (f *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.dirs, in.Fh)
}

// FsyncDir has nothing to do: changes of names are durable when they return.
func (f *fileSystem) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// ReadDir gives names.
func (f *fileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.withDir(cancel, in, func(ctx context.Context, d *dirHandle) error {
		for i := in.Offset; i < uint64(len(d.names))+2; i++ {
			if !out.AddDirEntry(d.entry(i)) {
				break
			}
		}
		return nil
	})
}

// ReadDirPlus gives names with attributes, as they are now.
func (f *fileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.withDir(cancel, in, func(ctx context.Context, d *dirHandle) error {
		saves := f.saves.Load()
		last := min(in.Offset+uint64(in.Size)/plusSize, uint64(len(d.names))+2)
		now, err := f.attrs(ctx, d, in.Offset, last)
		if err != nil {
			return err
		}
		for name, a := range now { // before any is lent: it may wait for the service
			if f.fresh(ctx, &a, saves) {
				f.show(ctx, &a, true)
				now[name] = a
			} else {
				delete(now, name)
			}
		}
		for i := in.Offset; i < last; i++ {
			a, ok := now[d.name(i)]
			e := d.entry(i)
			if ok {
				e.Ino, e.Mode = uint64(a.Ino), a.Mode
			}
			entry := out.AddDirLookupEntry(e)
			if entry == nil {
				break
			}
			if ok {
				at := wire.At{Dir: d.ino, Path: e.Name}
				f.seeNode(a)
				f.lendEntry(entry, at, a)
				f.takePlace(at, a)
			} // else node id 0: the name alone
		}
		return nil
	})
}

// fresh puts what is gathered over a listed file's attributes.
func (f *fileSystem) fresh(ctx context.Context, a *wire.Attr, saves uint64) bool {
	older, err := f.overlay(ctx, a, saves)
	if err == nil && older {
		*a, err = f.attr(ctx, wire.At{Dir: a.Ino})
	}
	return err == nil
}

func (f *fileSystem) withDir(cancel <-chan struct{}, in *fuse.ReadIn, fn func(context.Context, *dirHandle) error) fuse.Status {
	f.mu.Lock()
	d := f.dirs[in.Fh]
	f.mu.Unlock()
	if d == nil {
		return fuse.Status(syscall.EBADF)
	}
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	d.mu.Lock()
	defer d.mu.Unlock()
	if in.Offset == 0 || !d.read {
		if err := f.list(ctx, d); isGone(err) {
			if _, ok := f.goneNode(d.ino); ok {
				return fuse.OK // removed, and empty
			}
			return fuse.Status(syscall.ESTALE)
		} else if err != nil {
			return statusOf(err)
		}
	}
	return statusOf(fn(ctx, d))
}

// list reads all names of a directory.
func (f *fileSystem) list(ctx context.Context, d *dirHandle) error {
	a, known := f.cached.recall(d.ino, question{kind: wire.ReadList})
	if !known {
		var err error
		if a, err = f.readNames(ctx, d.ino); err != nil {
			return err
		}
	}
	d.names, d.parent, d.read = a.list, a.parent, true
	return nil
}

// readNames asks the service for all names of a directory, with what they lead to.
func (f *fileSystem) readNames(ctx context.Context, dir wire.Ino) (answer, error) {
	var whole answer
	first := f.cached.begin()
	for after := ""; ; {
		asked := f.cached.begin()
		reply, err := f.retryRead(ctx, wire.Read{Kind: wire.ReadList, At: wire.At{Dir: dir}, After: after}, nil)
		if err != nil {
			return answer{}, err
		}
		for _, e := range reply.Entries {
			whole.list = append(whole.list, dirName{e.Name, e.Attr.Ino, e.Attr.Mode})
			f.cached.keepName(asked, wire.At{Dir: dir, Path: e.Name}, e.Attr)
		}
		whole.parent = reply.Attr.Parent
		whole.once = after == "" && !reply.More
		if !reply.More || len(reply.Entries) == 0 {
			break
		}
		after = reply.Entries[len(reply.Entries)-1].Name
	}
	if whole.parent == 0 {
		whole.parent = dir // the root's is itself
	}
	f.cached.tell(first, dir, question{kind: wire.ReadList}, whole)
	return whole, nil
}

// attrs reads the attributes of the entries [from, to). Names that are gone
// are not in the answer.
func (f *fileSystem) attrs(ctx context.Context, d *dirHandle, from, to uint64) (map[string]wire.Attr, error) {
	now := map[string]wire.Attr{}
	from = max(from, 2)
	if from >= to {
		return now, nil
	}
	if f.cachedAttrs(d, from, to, now) {
		return now, nil
	}
	clear(now)
	after, last := "", d.name(to-1)
	if from > 2 {
		after = d.name(from - 1)
	}
	for {
		asked := f.cached.begin()
		req := wire.Read{Kind: wire.ReadList, At: wire.At{Dir: d.ino}, After: after, Limit: min(int(to-from), wire.MaxListEntries)}
		reply, err := f.retryRead(ctx, req, nil)
		if isGone(err) {
			return now, nil // removed since: its names are
		} else if err != nil {
			return nil, err
		}
		for _, e := range reply.Entries {
			now[e.Name] = e.Attr
			f.cached.keepName(asked, wire.At{Dir: d.ino, Path: e.Name}, e.Attr)
			after = e.Name
		}
		if !reply.More || len(reply.Entries) == 0 || after >= last {
			return now, nil
		}
	}
}

// cachedAttrs is attrs from what was read before; false: that is not enough.
func (f *fileSystem) cachedAttrs(d *dirHandle, from, to uint64, now map[string]wire.Attr) bool {
	for i := from; i < to; i++ {
		name := d.name(i)
		a, known, err := f.cached.look(wire.At{Dir: d.ino, Path: name})
		if !known {
			return false
		}
		if err == nil { // else it has gone
			now[name] = a
		}
	}
	return true
}

// name is that of the entry at an offset; empty for "." and "..".
func (d *dirHandle) name(i uint64) string {
	if i < 2 {
		return ""
	}
	return d.names[i-2].name
}

// entry is what is given at an offset: "." and ".." come first.
func (d *dirHandle) entry(i uint64) fuse.DirEntry {
	switch i {
	case 0:
		return fuse.DirEntry{Name: ".", Ino: uint64(d.ino), Mode: wire.ModeDir, Off: 1}
	case 1:
		return fuse.DirEntry{Name: "..", Ino: uint64(d.parent), Mode: wire.ModeDir, Off: 2}
	}
	n := d.names[i-2]
	return fuse.DirEntry{Name: n.name, Ino: uint64(n.ino), Mode: n.mode, Off: i + 1}
}
