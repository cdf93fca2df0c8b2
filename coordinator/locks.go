package coordinator

import (
	"context"
	"fmt"
	"time"

	"tpcfs/coordinator/locks"
	"tpcfs/wire"
)

// lockKeeper is what the coordinator knows of file locks (F10). Nothing of it
// is journaled: after a start those who held locks assert them again, and until
// the grace is over nobody else gets any. The owner's alone.
type lockKeeper struct {
	table   *locks.Table
	clients map[wire.SessionID]*lockClient
	now     int64 // milliseconds of the owner's clock, at most mostElapsed a tick
	grace   int64 // until when only assertions are granted
}

// lockClient is a session that has used locks in this epoch.
type lockClient struct {
	heard  int64  // lockKeeper.now at its last sign of life
	lost   bool   // silent for a lease: its locks go when nothing that was put of it is undecided
	last   uint64 // ... up to this entry of the streams
	grants []wire.LockGrant
	acked  uint64        // the greatest grant that it has
	wake   chan struct{} // capacity 1: there are grants
}

func (k *lockKeeper) open(grace time.Duration) {
	k.table, k.clients, k.grace = locks.New(locks.Limits{}), map[wire.SessionID]*lockClient{}, grace.Milliseconds()
}

// Lock implements wire.Service.
func (c *Coordinator) Lock(ctx context.Context, req wire.LockRequest) (wire.LockReply, error) {
	if err := checkLock(&req); err != nil {
		return wire.LockReply{}, err
	}
	type answer struct {
		reply wire.LockReply
		err   *wire.Error
		wake  chan struct{}
	}
	ask := func() (answer, error) {
		done := make(chan answer, 1)
		ok := c.ask(ctx, func() {
			var a answer
			if a.err = c.m.CheckSession(req.Session, req.Link); a.err == nil {
				a.reply = c.locks.serve(&req, c.behind())
			}
			if s := c.locks.clients[req.Session]; s != nil {
				a.wake = s.wake
			}
			done <- a
		})
		if !ok {
			return answer{}, c.gone(ctx, "lock")
		}
		a := <-done
		if a.err != nil {
			return a, a.err
		}
		return a, nil
	}
	a, err := ask()
	if err != nil || req.Op != wire.LockPoll || len(a.reply.Grants) > 0 {
		return a.reply, err
	}
	timer := time.NewTimer(wire.LockRenew * time.Millisecond)
	defer timer.Stop()
	select {
	case <-a.wake:
	case <-timer.C:
	case <-ctx.Done():
		return wire.LockReply{}, c.gone(ctx, "lock")
	case <-c.done:
	}
	a, err = ask()
	return a.reply, err
}

// checkLock refuses what no client of ours sends.
func checkLock(req *wire.LockRequest) *wire.Error {
	bad := func(format string, args ...any) *wire.Error {
		return &wire.Error{Code: wire.CodeInvalid, Op: "lock", Name: fmt.Sprintf("inode %d", req.Ino), Text: fmt.Sprintf(format, args...)}
	}
	kind := req.Owner.Kind
	switch req.Op {
	case wire.LockGet, wire.LockSet, wire.LockRelease:
		if kind != wire.LockFlock && kind != wire.LockFcntl {
			return bad("locks of kind %d are not known", kind)
		}
	case wire.LockAssert:
		for _, h := range req.Held {
			if h.Owner.Kind != wire.LockFlock && h.Owner.Kind != wire.LockFcntl {
				return bad("locks of kind %d are not known", h.Owner.Kind)
			}
		}
	case wire.LockCancel, wire.LockPoll:
	default:
		return bad("operation %d on locks is not known", req.Op)
	}
	if (req.Op == wire.LockGet || req.Op == wire.LockSet) && !req.Range.Valid() {
		return bad("bytes %d to %d, mode %d, are no lock", req.Range.Start, req.Range.End, req.Range.Mode)
	}
	return nil
}

// serve carries out a request that came by its session's link; now is behind by so
// many milliseconds.
func (k *lockKeeper) serve(req *wire.LockRequest, behind int64) wire.LockReply {
	s := k.clients[req.Session]
	if s == nil {
		if s = k.admit(req); s == nil {
			return wire.LockReply{Result: wire.LockLost}
		}
	}
	s.heard = k.now + behind
	if s.lost {
		// Fenced already: what it does from now on comes by a new link. The
		// locks of the old one are going.
		return wire.LockReply{Result: lostOr(req.Op)}
	}
	o := locks.Owner{Session: req.Session, LockOwner: req.Owner}
	reply := wire.LockReply{Result: wire.LockDone}
	switch req.Op {
	case wire.LockPoll:
		reply.Grants = s.pending(req.Acked)
		return reply
	case wire.LockAssert:
		s.grants = nil
		if !k.table.Assert(req.Session, req.Held) {
			reply.Result = wire.LockLost
		}
	case wire.LockCancel:
		if !k.table.Cancel(req.Session, req.Wait) {
			reply.Result = wire.LockGranted
		}
	case wire.LockRelease:
		k.table.Release(o, req.Ino)
	case wire.LockGet:
		if k.now < k.grace {
			reply.Result = wire.LockLater
			break
		}
		var blocked bool
		if reply.Conflict, blocked = k.table.Get(o, req.Ino, req.Range); blocked {
			reply.Result = wire.LockConflict
		}
	case wire.LockSet:
		if req.Range.Mode != wire.LockNone && k.now < k.grace {
			reply.Result = wire.LockLater
			break
		}
		reply.Result, reply.Conflict = k.table.Set(o, req.Ino, req.Range, req.Wait)
	}
	reply.Held, reply.Seq = k.table.Held(o, req.Ino)
	k.deliver()
	return reply
}

// lostOr: a client hears of its loss by the assertion that it makes first; all
// else is to be asked again.
func lostOr(op wire.LockOp) wire.LockResult {
	if op == wire.LockAssert {
		return wire.LockLost
	}
	return wire.LockLater
}

// admit makes a client of a session that is not known. nil: it says that it
// holds locks, and others may have held them since.
func (k *lockKeeper) admit(req *wire.LockRequest) *lockClient {
	if req.Op == wire.LockAssert && len(req.Held) > 0 && k.now >= k.grace {
		return nil
	}
	s := &lockClient{wake: make(chan struct{}, 1)}
	k.clients[req.Session] = s
	return s
}

// pending returns the grants that have not arrived.
func (s *lockClient) pending(acked uint64) []wire.LockGrant {
	s.acked = max(s.acked, acked)
	for len(s.grants) > 0 && s.grants[0].Seq <= s.acked {
		s.grants = s.grants[1:]
	}
	return append([]wire.LockGrant(nil), s.grants...)
}

// deliver gives grants to those who poll for them.
func (k *lockKeeper) deliver() {
	for _, g := range k.table.Grants() {
		s := k.clients[g.Session]
		if s == nil {
			continue
		}
		s.grants = append(s.grants, g.LockGrant)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// end drops a session's locks: it is over.
func (k *lockKeeper) end(id wire.SessionID) {
	if k.clients[id] == nil {
		return
	}
	delete(k.clients, id)
	k.table.Drop(id)
	k.deliver()
}

// tickLocks ends the locks of those who have been silent for a lease. First
// nothing more is put of theirs; when what was put is decided, the locks go: who
// gets them next sees it.
func (c *Coordinator) tickLocks(elapsed int64) {
	k := &c.locks
	k.now += elapsed
	for id, s := range k.clients {
		switch {
		case s.lost && !c.m.Undecided(id, s.last):
			k.end(id)
		case s.lost || k.now-s.heard < wire.LockLease:
		case k.table.Uses(id):
			s.lost, s.last = true, c.m.Fence(id)
			c.log.Warn("a client that held file locks is silent: its locks are released", "session", id, "lease", wire.LockLease*time.Millisecond)
		default:
			delete(k.clients, id)
		}
	}
}
