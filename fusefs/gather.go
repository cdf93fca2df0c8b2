package fusefs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"tpcfs/wire"
)

// need says what of the base a change needs.
type need int

const (
	needNothing need = iota // the file becomes empty
	needBase                // its version and size
)

// ensure sees to it that the node has contents to change: gathered or kept
// ones, else none over the base as it is now, of which nothing is read. When
// it returns nil they may have been dropped again: callers check under mu.
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
	var base wire.Attr
	if what == needBase {
		var err error
		if base, err = f.stat(ctx, n.at()); err != nil {
			return f.orLost(n, err)
		}
	}
	c := newContents(f.depot)
	if err := c.Truncate(base.Size); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.replaceLocked(c, base.Version, noEdits())
	n.baseSize = base.Size
	return nil
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
	return f.orLost(n, f.rebase(ctx, n))
}

// moved reports that the base of the node's contents is not the newest version.
func (f *fileSystem) moved(ctx context.Context, n *node) (bool, error) {
	n.mu.Lock()
	skip := !n.basedLocked()
	n.mu.Unlock()
	if skip {
		return false, nil
	}
	attr, err := f.leased(ctx, n.at())
	if isGone(err) {
		return false, f.lose(n)
	} else if err != nil {
		return false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.basedLocked() && (n.base != attr.Version || n.baseSize != attr.Size), nil
}

// rebase lays the edits over the newest version. The caller has the node's turn.
func (f *fileSystem) rebase(ctx context.Context, n *node) error {
	base, err := f.stat(ctx, n.at())
	if err != nil {
		return err
	}
	done, at, err := f.happened(ctx, n, base)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil || n.orphan {
		return nil
	}
	if done != nil {
		if err := n.creditLocked(done, at); err != nil {
			return err
		}
	}
	if n.base == base.Version && n.baseSize == base.Size {
		return nil
	}
	e, c, err := n.cur.rebase(n.c, base.Size)
	if err != nil {
		return err
	}
	for i := range n.sent {
		if s := &n.sent[i]; s.from == n.cur.tail {
			s.from = e.tail
		} else {
			s.from = -1
		}
	}
	n.installLocked(c, e)
	n.base, n.baseSize = base.Version, base.Size
	// Another mtime has the kernel drop its pages, which are of the older
	// base. A notification could not: it voids the GETATTR that is under way
	// and with it the new size.
	if done == nil {
		n.moveTimesLocked(f.clock.now())
	}
	return nil
}

// happened tells which commit of unknown outcome has; nil: none. The file has its
// mtime, which is this mount's clock in nanoseconds, or the appended bytes are
// where they were to be. at is where in the file it has appended.
func (f *fileSystem) happened(ctx context.Context, n *node, now wire.Attr) (done *sent, at int64, err error) {
	n.mu.Lock()
	tried, tail := slices.Clone(n.sent), n.cur.tail
	unsure := n.unsure && n.c != nil && now.Version != n.base
	n.mu.Unlock()
	if !unsure {
		return nil, 0, nil
	}
	slices.Reverse(tried) // what was sent later has what was sent before
	most := int64(0)
	for i := range tried {
		if s := &tried[i]; s.mtime != 0 && now.Mtime == s.mtime {
			return s, now.Size - s.tail, nil
		}
		if tail >= 0 && tried[i].from == tail { // else they have a place by now
			most = max(most, min(tried[i].tail, headBytes))
		}
	}
	if most == 0 {
		return nil, 0, nil
	}
	there := make([]byte, most)
	k, _, err := f.readService(ctx, n.ino, there, tail)
	if err != nil {
		return nil, 0, err
	}
	for i := range tried {
		s := &tried[i]
		if size := min(s.tail, headBytes); size > 0 && s.from == tail && int64(k) >= size && sha256.Sum256(there[:size]) == s.head {
			return s, tail, nil
		}
	}
	return nil, 0, nil
}

// creditLocked takes out of the edits what a commit of unknown outcome has
// brought to the service. Bytes with a place may be written again, appended
// ones may not: they have one now, at is where.
func (n *node) creditLocked(done *sent, at int64) error {
	switch {
	case n.gen == done.gen:
		n.cur = noEdits()
	case done.tail > 0 && n.cur.tail >= 0 && n.cur.tail == done.from: // else they have a place, and what is appended now came later
		e, c, err := n.cur.rebase(n.c, at)
		if err != nil {
			return err
		}
		n.installLocked(c, e)
		if n.cur.tail == at { // what of them was changed since is not known
			n.cur.add(at, at+done.tail)
		}
		if n.cur.tail += done.tail; n.cur.tail >= n.c.Size() {
			n.cur.tail = -1
		}
	}
	n.unsure, n.sent = false, nil
	return nil
}

// lose notes that the service has the file no more: another mount deleted
// it. What is here goes on serving those who have it open; if that is
// nothing, they hear ESTALE. For a mount with a lease the service keeps what is open
// (F7): then the file is lost, since the mount was away for too long, and the error
// says so.
func (f *fileSystem) lose(n *node) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held || f.leases.Load() && n.handles > 0 && !n.orphan && !n.reclaimed {
		f.loseHeldLocked(n)
	}
	if n.reclaimed {
		return &wire.Error{Code: wire.CodeIO, Name: n.at().String(), Text: "the service was out of reach for too long and has let the deleted file go that was open here"}
	}
	if n.c != nil {
		n.becomeOrphanLocked(n.attr)
	}
	return nil
}

// orLost is the error of a call that names a file: that it is lost, if it is.
func (f *fileSystem) orLost(n *node, err error) error {
	if isGone(err) {
		return cmp.Or(f.lose(n), err)
	}
	return err
}

// loseHeldLocked: the service has let a file go that is open in this mount,
// which it had not heard of for long. What has it open answers EIO, what is gathered
// is dropped. f.mu and n.mu are held.
func (f *fileSystem) loseHeldLocked(n *node) {
	n.held, n.alone, n.reclaimed = false, false, true
	dropped := n.forfeitLocked()
	for _, h := range f.handles {
		if h.n == n {
			h.lose()
		}
	}
	f.log.Error("a deleted file that was open is lost: the service was out of reach for too long; what had it open answers EIO", "inode", n.ino, "dropped_writes", dropped)
}

// isGone reports that an inode named by its number is no more.
func isGone(err error) bool {
	code := wire.CodeOf(err)
	return code == wire.CodeNotExist || code == wire.CodeStale
}

// backoff is the tries of who got in another's way. Where it is known whose way that
// was, the next one waits at the coordinator until that is decided; others are spread.
type backoff struct {
	till   time.Time
	wait   time.Duration
	behind *wire.Behind // whom the next try waits for; nil: nobody
}

func (f *fileSystem) backoff() *backoff {
	return &backoff{till: time.Now().Add(f.o.ConflictWait), wait: time.Millisecond}
}

// again waits a little, unless the next try does, and reports true while trying again
// makes sense (F5).
func (b *backoff) again(ctx context.Context, err error) bool {
	b.behind = nil
	switch wire.CodeOf(err) {
	case wire.CodeConflict, wire.CodeVersion, wire.CodeChanged:
	default:
		return false
	}
	left := time.Until(b.till)
	if left <= 0 {
		return false
	}
	b.behind = behind(err, left)
	if b.behind != nil || wire.CodeOf(err) == wire.CodeVersion { // somebody has done something: no two can wait for each other
		return ctx.Err() == nil
	}
	timer := time.NewTimer(b.wait/2 + rand.N(b.wait))
	defer timer.Stop()
	b.wait = min(2*b.wait, 16*time.Millisecond)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// behind is the place of a change that was aborted by a conflict, for so long at most;
// nil: nobody knows whom it has to wait for.
func behind(err error, patience time.Duration) *wire.Behind {
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeConflict || e.Blocker == 0 {
		return nil
	}
	return &wire.Behind{Tx: e.Blocker, Key: e.Key, Patience: max(1, patience.Milliseconds())}
}

// transact commits a mutation, again and again while others' get in the way.
// IfVersion does not hold is the caller's matter.
func (f *fileSystem) transact(ctx context.Context, m wire.Mutation) (_ wire.Outcome, err error) {
	own := f.cached.takeNames(&m)
	defer func() { f.giveNames(own, &m, err) }()
	before := f.cached.foresee(m.At)
	for b := f.backoff(); ; {
		out, err := f.client.TransactBehind(ctx, b.behind, []wire.Mutation{m}, []Content{nil})
		if err == nil {
			f.recallFrom(ctx, f.cached.learn(before, m.At, foreseen(before.was, f.asMade(m), &out), &out))
		}
		if err == nil || wire.CodeOf(err) == wire.CodeVersion || !b.again(ctx, err) {
			return out, err
		}
	}
}

// asMade is a mutation with the owner that what it makes seems to have.
func (f *fileSystem) asMade(m wire.Mutation) *wire.Mutation {
	if f.o.UID != nil {
		m.UID = *f.o.UID
	}
	if f.o.GID != nil {
		m.GID = *f.o.GID
	}
	return &m
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
	asked := f.cached.begin()
	reply, err := f.retryRead(ctx, wire.Read{Kind: wire.ReadStat, At: at}, nil)
	switch {
	case err == nil && at.Path == "":
		f.cached.keep(asked, reply.Attr)
	case err == nil:
		f.cached.keepName(asked, at, reply.Attr)
	case wire.CodeOf(err) == wire.CodeNotExist && at.Path != "":
		f.cached.keepName(asked, at, wire.Attr{})
	}
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
