package fusefs

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"tpcfs/wire"
)

// need says what of the base a change needs.
type need int

const (
	needNothing need = iota // the file becomes empty
	needBase                // the contents as they are
)

// ensure sees to it that the node has contents to change or to read: gathered
// or kept ones, else loaded. When it returns nil the contents may have been
// dropped again: callers check under mu.
func (f *fileSystem) ensure(ctx context.Context, n *node, what need) error {
	n.mu.Lock()
	have := n.c != nil
	n.mu.Unlock()
	if have {
		return nil
	}
	if err := n.take(ctx, turnLoad); err != nil {
		return err
	}
	defer n.give()
	n.mu.Lock()
	have = n.c != nil
	orphan := n.orphan
	n.mu.Unlock()
	switch {
	case have:
		return nil
	case orphan:
		return &wire.Error{Code: wire.CodeStale, Op: "write", Name: n.at().String(), Text: "the file is deleted and its contents were not kept"}
	}
	c, version := newContents(f.depot), wire.ID(0)
	if what == needBase {
		attr, err := f.stat(ctx, n.at())
		if err != nil {
			return err
		}
		if version = attr.Version; attr.Size > 0 {
			if version, err = f.load(ctx, n.ino, c); err != nil {
				c.Close()
				return err
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.replaceLocked(c, version, noEdits())
	return nil
}

// load reads the whole file into c: one version, every piece checked (G7).
func (f *fileSystem) load(ctx context.Context, ino wire.Ino, c *contents) (wire.ID, error) {
	w := &loader{c: c}
	reply, err := f.retryRead(ctx, wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: ino}, Length: -1}, w)
	if err != nil {
		return 0, err
	}
	if reply.Attr.Size == 0 { // what came is of a version before
		return reply.Attr.Version, c.Truncate(0)
	}
	if w.version != reply.Attr.Version || c.Size() != reply.Attr.Size {
		return 0, &wire.Error{Code: wire.CodeProtocol, Op: "readFile", Name: wire.At{Dir: ino}.String(), Text: "the contents do not fit their attributes"}
	}
	return reply.Attr.Version, nil
}

// loader takes a whole file's pieces, and begins again when they do.
type loader struct {
	c       *contents
	version wire.ID
	next    int64
}

// WritePiece is that of wire.PieceWriter.
func (l *loader) WritePiece(p wire.Piece) error {
	if wire.Sum(p.Data) != p.Sum {
		return wire.NewError(wire.CodeCorrupt, "a piece of the contents was damaged on its way")
	}
	if p.Offset == 0 && (l.next > 0 || p.Version != l.version) {
		l.version, l.next = p.Version, 0
		if err := l.c.Truncate(0); err != nil {
			return err
		}
	}
	if p.Offset != l.next || p.Version != l.version {
		return wire.NewError(wire.CodeProtocol, "the contents came out of order")
	}
	l.next += int64(len(p.Data))
	_, err := l.c.WriteAt(p.Data, p.Offset)
	return err
}

// refresh compares kept or gathered contents with the service's version and
// brings them up to date: a clean copy is dropped, edits are laid over the
// newer base. A version that is not the base may be that of a commit whose
// answer is on its way: only the turn tells.
func (f *fileSystem) refresh(ctx context.Context, n *node) error {
	moved, err := f.moved(ctx, n)
	if err != nil || !moved {
		return err
	}
	if err := n.take(ctx, turnLoad); err != nil {
		return err
	}
	defer n.give()
	if moved, err = f.moved(ctx, n); err != nil || !moved {
		return err
	}
	n.mu.Lock()
	clean := !n.dirtyLocked()
	if clean {
		n.dropLocked()
	}
	n.mu.Unlock()
	if clean {
		return nil
	}
	return f.rebase(ctx, n)
}

// moved reports that the base of the node's contents is not the newest version.
func (f *fileSystem) moved(ctx context.Context, n *node) (bool, error) {
	n.mu.Lock()
	skip := !n.basedLocked()
	n.mu.Unlock()
	if skip {
		return false, nil
	}
	attr, err := f.stat(ctx, n.at())
	if isGone(err) {
		f.lose(n)
		return false, nil
	} else if err != nil {
		return false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.basedLocked() && n.base != attr.Version, nil
}

// rebase loads the newest version and lays the edits over it. The caller has
// the node's turn.
func (f *fileSystem) rebase(ctx context.Context, n *node) error {
	base := newContents(f.depot)
	version, err := f.load(ctx, n.ino, base)
	if err != nil {
		base.Close()
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil || n.orphan {
		base.Close()
		return nil
	}
	if n.unsure { // the commit whose outcome nobody knew may be what is there now
		same, err := n.c.equal(base)
		if err != nil {
			base.Close()
			return err
		}
		if same {
			n.unsure = false
			n.replaceLocked(base, version, noEdits())
			return nil
		}
	}
	e, err := n.cur.rebase(n.c, base)
	if err != nil {
		base.Close()
		return err
	}
	n.replaceLocked(base, version, e)
	// Another mtime has the kernel drop its pages, which are of the older
	// base. A notification could not: it voids the GETATTR that is under way
	// and with it the new size.
	n.mtime, n.mtimeSet = max(time.Now().UnixNano(), n.mtime+1), true
	return nil
}

// lose notes that the service has the file no more: another mount deleted
// it. What is here goes on serving those who have it open; if that is
// nothing, they hear ESTALE.
func (f *fileSystem) lose(n *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c != nil {
		n.becomeOrphanLocked(n.attr)
	}
}

// isGone reports that an inode named by its number is no more.
func isGone(err error) bool {
	code := wire.CodeOf(err)
	return code == wire.CodeNotExist || code == wire.CodeStale
}

// backoff spreads the tries of those who got in each other's way.
type backoff struct {
	till time.Time
	wait time.Duration
}

func (f *fileSystem) backoff() *backoff {
	return &backoff{till: time.Now().Add(f.o.ConflictWait), wait: time.Millisecond}
}

// again waits a little and reports true while trying again makes sense (F5).
func (b *backoff) again(ctx context.Context, err error) bool {
	switch wire.CodeOf(err) {
	case wire.CodeConflict, wire.CodeVersion, wire.CodeChanged:
	default:
		return false
	}
	if !time.Now().Before(b.till) {
		return false
	}
	timer := time.NewTimer(b.wait/2 + rand.N(b.wait))
	defer timer.Stop()
	b.wait = min(2*b.wait, 100*time.Millisecond)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// transact commits mutations, again and again while others' get in the way.
// IfVersion does not hold is the caller's matter.
func (f *fileSystem) transact(ctx context.Context, mutations ...wire.Mutation) (wire.Outcome, error) {
	for b := f.backoff(); ; {
		out, err := f.client.Transact(ctx, mutations, make([]Content, len(mutations)))
		if err == nil || wire.CodeOf(err) == wire.CodeVersion || !b.again(ctx, err) {
			return out, err
		}
	}
}

// retryRead reads, again while the file changes under the read.
func (f *fileSystem) retryRead(ctx context.Context, req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
	for b := f.backoff(); ; {
		reply, err := f.client.Read(ctx, req, w)
		if err == nil || !b.again(ctx, err) {
			return reply, err
		}
	}
}

// stat reads attributes as the service has them.
func (f *fileSystem) stat(ctx context.Context, at wire.At) (wire.Attr, error) {
	reply, err := f.retryRead(ctx, wire.Read{Kind: wire.ReadStat, At: at}, nil)
	return reply.Attr, err
}

// lasting reports errors after which a commit may still succeed without
// anybody's help: the service is away, or others were faster.
func lasting(err error) bool {
	code := wire.CodeOf(err)
	return code == wire.CodeUnavailable || code == wire.CodeConflict || code == wire.CodeVersion || code == wire.CodeChanged ||
		code == wire.CodeUnknownOutcome || code == wire.CodeCanceled ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
