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

// maxMoved is how often a name may lead elsewhere than a change of it was
// told before that one goes on whatever the name leads to, and holds what it takes.
const maxMoved = 3

// unnaming is a change at work that may take a file's last name.
type unnaming struct {
	at   wire.At
	ino  wire.Ino // at that name; 0: nobody looked, as nothing was open
	held bool     // it is open here, or about to be: it stays
	done chan struct{}
}

// lingering is a file without a name that nobody need have open: somebody had
// looked it up.
type lingering struct {
	n     *node
	until time.Time
}

// unname commits a mutation that takes the name at away from the file that has
// it, if any, for a thread. A file that is open here is held, and for a moment
// one that another thread is about to open.
func (f *fileSystem) unname(ctx context.Context, at wire.At, m wire.Mutation, thread uint32) error {
	for try := 0; ; try++ {
		ino, looked, err := f.nameOf(ctx, at, try)
		if err != nil {
			return err
		}
		m := m
		switch m.IfIno = ino; {
		case try == maxMoved:
			m.Hold = true
		case ino != 0 || !looked:
		case m.Kind == wire.MutDeleteFile:
			return &wire.Error{Code: wire.CodeNotExist, Op: "deleteFile", Name: at.String()}
		default:
			m.Rename = wire.RenameNoReplace
		}
		err = f.unnameOne(ctx, at, m, thread)
		code := wire.CodeOf(err)
		if code != wire.CodeVersion && (code != wire.CodeExist || m.Rename != wire.RenameNoReplace) {
			return err
		}
	}
}

// nameOf is what a name leads to: nothing is 0. looked is false where it need
// not be known. The error is that of looking.
func (f *fileSystem) nameOf(ctx context.Context, at wire.At, try int) (ino wire.Ino, looked bool, err error) {
	f.mu.Lock()
	quiet := len(f.nodes) == 0 && f.looked.empty()
	f.mu.Unlock()
	a, looked, err := f.cached.look(at)
	switch {
	case try == maxMoved, try == 0 && !looked && quiet:
		return 0, false, nil
	case try > 0 || !looked:
		a, err = f.stat(ctx, at)
	}
	switch {
	case err == nil:
		return a.Ino, true, nil
	case wire.CodeOf(err) == wire.CodeNotExist:
		return 0, true, nil
	case isGone(err): // the mutation says so
		return 0, false, nil
	}
	return 0, false, err
}

// unnameOne is unname of what m.IfIno says, if it does.
func (f *fileSystem) unnameOne(ctx context.Context, at wire.At, m wire.Mutation, thread uint32) error {
	u := &unnaming{at: at, ino: m.IfIno, held: m.Hold, done: make(chan struct{})}
	if n := f.beginUnname(u, thread); n != nil {
		m.Hold = true
		defer f.letGo(n)
	}
	out, err := f.transact(ctx, m)
	f.endUnname(u, err == nil, out.Orphans, out.Alone, thread)
	return err
}

// beginUnname returns the node of the file at the name, held until letGo, if
// it is open or about to be. Else who opens it waits for endUnname.
func (f *fileSystem) beginUnname(u *unnaming, thread uint32) (n *node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unnaming[u] = struct{}{}
	if f.nodes[u.ino] == nil && !f.wantedLocked(u.ino, thread) {
		return nil
	}
	u.held = true
	return f.holdLocked(u.ino)
}

// endUnname notes what a change of names has left without one.
func (f *fileSystem) endUnname(u *unnaming, committed bool, orphans []wire.Ino, alone bool, thread uint32) {
	f.mu.Lock()
	if u.ino != 0 && committed {
		f.unnamed.put(u.ino, struct{}{})
	}
	left := make([]*node, 0, len(orphans))
	for _, ino := range orphans {
		f.unnamed.put(ino, struct{}{})
		n := f.holdLocked(ino)
		n.setHeld(true, alone)
		left = append(left, n)
		f.lingerLocked(n, thread)
	}
	delete(f.unnaming, u)
	close(u.done)
	f.mu.Unlock()
	for _, n := range left {
		f.letGo(n)
	}
}

// lingerLocked keeps a file without a name for a moment, if another thread has
// looked it up and may be about to open it. f.mu is held.
func (f *fileSystem) lingerLocked(n *node, thread uint32) {
	if f.wantedLocked(n.ino, thread) {
		n.opens++
		f.linger = append(f.linger, lingering{n, time.Now().Add(lookedFor)})
	}
}

// endLinger lets go what has been kept for long enough, and forgets what was
// looked up long ago.
func (f *fileSystem) endLinger(now time.Time) {
	f.mu.Lock()
	if now.Sub(f.turned) >= lookedFor {
		f.turned = now
		f.looked.turn()
		f.unnamed.turn()
		for _, ino := range f.later {
			f.releaseLocked(ino)
		}
		f.later = nil
	}
	n := 0
	for n < len(f.linger) && !now.Before(f.linger[n].until) {
		n++
	}
	over := f.linger[:n:n]
	f.linger = f.linger[n:]
	f.mu.Unlock()
	for _, l := range over {
		f.letGo(l.n)
	}
}

// mayOpen: is a file that has no name kept for who opens it now? Else its
// reclaim may be under way (the name that led to it was looked up long ago).
func (f *fileSystem) mayOpen(n *node) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held || n.handles > 0
}

// waitUnnamed waits for changes that began before a file was open and may take
// it away for good. The caller holds its node: later ones see that.
func (f *fileSystem) waitUnnamed(ctx context.Context, ino wire.Ino) error {
	f.mu.Lock()
	var wait []*unnaming
	for u := range f.unnaming {
		if (u.ino == ino || u.ino == 0) && !u.held {
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
	if err := f.begun(ctx); err != nil {
		return statusOf(err)
	}
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
	n.setHeld(true, true)
	a, err := f.attr(ctx, n.at())
	if err != nil {
		f.letGo(n)
		return statusOf(err)
	}
	f.beginEmpty(n, a, done.Tx)
	f.fillEntry(&out.EntryOut, wire.At{}, a)
	out.Fh = f.openHandle(n, in.Flags)
	return fuse.OK
}

// setHeld notes that the service keeps the file without a name for this mount,
// alone, or that it has got one again.
func (n *node) setHeld(held, alone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held, n.alone = held, held && alone
}

// mayHaveName: it is not known whether the file has got a name again. What is written
// to it is committed as if it had, and a reclaim finds out.
func (n *node) mayHaveName() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.alone = false
}

// heldOf takes the question which of some inodes without a name are open here:
// another mount has taken the last names. From now on they are held; the others
// open no more.
func (f *fileSystem) heldOf(inos []wire.Ino) (holds []wire.Ino) {
	if len(inos) == 0 {
		return nil
	}
	f.mu.Lock()
	var left []*node
	for _, ino := range inos {
		f.unnamed.put(ino, struct{}{})
		if f.nodes[ino] == nil && !f.wantedLocked(ino, several) {
			f.giveUpAgainLocked(ino)
			continue
		}
		n := f.holdLocked(ino)
		n.setHeld(true, false)
		f.lingerLocked(n, several)
		holds, left = append(holds, ino), append(left, n)
	}
	f.mu.Unlock()
	for _, n := range left {
		f.letGo(n)
	}
	return holds
}

// maxGivenUp bounds the files that are remembered as given up while others had
// them open; of more, some stay without need until the mount's session ends.
const maxGivenUp = 8192

// noteGivenUpLocked notes how a reclaim ended; busy: this mount's part is given
// up, and others have the file open. f.mu is held.
func (f *fileSystem) noteGivenUpLocked(ino wire.Ino, busy bool) {
	if !busy {
		delete(f.givenUp, ino)
	} else if len(f.givenUp) < maxGivenUp {
		f.givenUp[ino] = struct{}{}
	}
}

// giveUpAgainLocked: the service asks about a file that this mount had given up.
// After a start it knows of those that left it without a name, not of who gave
// it up since (F7), so that is said once more. f.mu is held.
func (f *fileSystem) giveUpAgainLocked(ino wire.Ino) {
	if _, ok := f.givenUp[ino]; ok {
		f.releaseLocked(ino)
	}
}

// begun waits until the service knows that this mount may have files open, or
// has said that it gives no lease.
func (f *fileSystem) begun(ctx context.Context) error {
	select {
	case <-f.watched:
		return nil
	default:
	}
	select {
	case <-f.watched:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
				_, _ = f.client.TransactBehind(f.commits, nil, nil, nil)
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
		code := wire.CodeOf(err)
		if code == wire.CodePermission && f.reclaimLater(ino) {
			continue
		}
		f.mu.Lock()
		delete(f.refused, ino)
		f.noteGivenUpLocked(ino, code == wire.CodeBusy)
		f.mu.Unlock()
		if err != nil && !isGone(err) && code != wire.CodeBusy { // busy: others have it open
			f.log.Debug("a closed file without a name stays until the mount's session ends", "inode", ino, "err", err)
		}
	}
}

// maxRefused is how often a reclaim is tried again that the service refuses: it
// hears what this mount holds with the next Watch.
const maxRefused = 3

// reclaimLater has a reclaim tried again with the next turn; false: often enough.
func (f *fileSystem) reclaimLater(ino wire.Ino) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refused[ino] >= maxRefused {
		return false
	}
	f.refused[ino]++
	f.later = append(f.later, ino)
	return true
}
