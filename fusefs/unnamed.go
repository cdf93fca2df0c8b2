package fusefs

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"tpcfs/wire"
)

// Files without a name (F7). The service keeps one for the session that left
// it so; a mount does while it has it open, and reclaims it at the last close.
// What it does not get to goes when its session ends.

const (
	maxReclaims = 8               // reclaims under way at a time
	signEvery   = 2 * time.Minute // well below what a session may be silent
)

// unnaming is a change at work that may take a file's last name, of a file
// that was not open here when it began.
type unnaming struct {
	ino  wire.Ino // 0: nobody looked, as nothing was open
	done chan struct{}
}

// unname commits a mutation that takes the name at away from the file that has
// it, if any. A file that is open here is held.
func (f *fileSystem) unname(ctx context.Context, at wire.At, m wire.Mutation) error {
	n, u, err := f.beginUnname(ctx, at)
	if err != nil {
		return err
	}
	if n != nil {
		m.Hold = true
		defer f.letGo(n)
	} else {
		defer f.endUnname(u)
	}
	out, err := f.transact(ctx, m)
	for _, ino := range out.Orphans {
		n := f.hold(ino)
		n.setHeld(true)
		f.letGo(n)
	}
	return err
}

// beginUnname returns the node of the file at a name, held until letGo; if it
// is not open, an unnaming, which who opens it waits for.
func (f *fileSystem) beginUnname(ctx context.Context, at wire.At) (*node, *unnaming, error) {
	u := &unnaming{done: make(chan struct{})}
	f.mu.Lock()
	if len(f.nodes) > 0 {
		f.mu.Unlock()
		a, err := f.stat(ctx, at)
		if err != nil && !isGone(err) { // else the mutation says so, or needs no such name
			return nil, nil, err
		}
		u.ino = a.Ino
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	if n := f.nodes[u.ino]; n != nil {
		n.opens++
		return n, nil, nil
	}
	f.unnaming[u] = struct{}{}
	return nil, u, nil
}

func (f *fileSystem) endUnname(u *unnaming) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.unnaming, u)
	close(u.done)
}

// waitUnnamed waits for changes that began before a file was open and may take
// its name for good. The caller holds its node: later ones see that.
func (f *fileSystem) waitUnnamed(ctx context.Context, ino wire.Ino) error {
	f.mu.Lock()
	var wait []*unnaming
	for u := range f.unnaming {
		if u.ino == ino || u.ino == 0 {
			wait = append(wait, u)
		}
	}
	f.mu.Unlock()
	for _, u := range wait {
		select {
		case <-u.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Tmpfile makes a file without a name and opens it (open(2), O_TMPFILE). Link
// may give it one.
func (f *fileSystem) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	ctx, end := f.begin(cancel, &in.InHeader)
	defer end()
	done, err := f.transact(ctx, wire.Mutation{Kind: wire.MutCreateUnlinked, At: wire.At{Dir: wire.Ino(in.NodeId)},
		Mode: in.Mode & wire.ModePerm, UID: in.Uid, GID: in.Gid})
	if err != nil {
		if _, removed := f.orphan(wire.Ino(in.NodeId)); removed {
			return fuse.Status(syscall.EPERM)
		}
		return statusOf(err)
	}
	if len(done.Results) != 1 {
		return fuse.Status(syscall.EIO)
	}
	n := f.hold(done.Results[0].Ino)
	n.setHeld(true)
	a, err := f.attr(ctx, n.at())
	if err != nil {
		f.letGo(n)
		return statusOf(err)
	}
	f.beginEmpty(n, a, done.Tx)
	fillEntry(&out.EntryOut, a)
	out.Fh = f.openHandle(n, in.Flags)
	return fuse.OK
}

// setHeld notes that the service keeps the file without a name for this mount,
// or that it has got one again.
func (n *node) setHeld(held bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = held
}

// signOfLife keeps the session of a mount that holds files and changes nothing:
// reads do not, and what it holds would go with it.
func (f *fileSystem) signOfLife(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.signed) < signEvery {
		return
	}
	for _, n := range f.nodes {
		n.mu.Lock()
		held := n.held
		n.mu.Unlock()
		if held {
			f.signed = now
			f.wg.Go(func() {
				// Refused as empty, and heard all the same.
				_, _ = f.client.Transact(f.commits, nil, nil)
			})
			return
		}
	}
}

// releaseLocked lets the service have a file back that nobody has open any
// more. f.mu is held.
func (f *fileSystem) releaseLocked(ino wire.Ino) {
	if f.commits.Err() != nil {
		return // the session ends
	}
	f.released = append(f.released, ino)
	if f.reclaiming < maxReclaims {
		f.reclaiming++
		f.wg.Go(f.reclaim)
	}
}

// reclaim is a goroutine that reclaims what is released until nothing is left.
func (f *fileSystem) reclaim() {
	for {
		f.mu.Lock()
		if len(f.released) == 0 || f.commits.Err() != nil {
			f.reclaiming--
			f.mu.Unlock()
			return
		}
		ino := f.released[0]
		f.released = f.released[1:]
		f.mu.Unlock()
		_, err := f.transact(f.commits, wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: ino}})
		if err != nil && !isGone(err) {
			f.log.Debug("a closed file without a name stays until the mount's session ends", "inode", ino, "err", err)
		}
	}
}
