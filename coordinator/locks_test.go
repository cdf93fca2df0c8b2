package coordinator

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

// gate is the way of one client to the coordinator, whoever that is at the
// moment. It can be cut, and can lose requests and answers about locks.
type gate struct {
	mu   sync.Mutex // guards what follows
	c    *Coordinator
	cut  bool
	lose func() bool

	dials int
}

type gated struct {
	wire.Service
	g *gate
}

func (g *gate) dial(context.Context) (client.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dials++
	if g.cut {
		return nil, errLost
	}
	return gated{g.c, g}, nil
}

func (g *gate) set(c *Coordinator, cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.c, g.cut = c, cut
}

func (c gated) lost() bool {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.g.cut || c.Service != c.g.c || c.g.lose != nil && c.g.lose()
}

func (c gated) Close() error { return nil }

func (c gated) Lock(ctx context.Context, req wire.LockRequest) (wire.LockReply, error) {
	if c.lost() {
		return wire.LockReply{}, errLost
	}
	reply, err := c.Service.Lock(ctx, req)
	if c.lost() {
		return wire.LockReply{}, errLost
	}
	return reply, err
}

func (c gated) Transact(ctx context.Context, req wire.Transact, payload []byte) (wire.TransactReply, error) {
	if c.lost() {
		return wire.TransactReply{}, errLost
	}
	return c.Service.Transact(ctx, req, payload)
}

// locker is a client with its gate, and what it was told to be lost.
type locker struct {
	*client.Client
	t    *testing.T
	g    *gate
	lost chan []wire.Ino
}

func (k *cluster) locker() *locker {
	k.t.Helper()
	l := &locker{t: k.t, g: &gate{c: k.c}, lost: make(chan []wire.Ino, 8)}
	var err error
	if l.Client, err = client.New(ctx, l.g.dial, client.Options{}); err != nil {
		k.t.Fatal(err)
	}
	l.OnLocksLost(func(inos []wire.Ino) { l.lost <- inos })
	k.t.Cleanup(func() { _ = l.Close() })
	return l
}

var (
	process   = wire.LockOwner{Kind: wire.LockFcntl, Number: 1}
	exclusive = wire.LockRange{End: wire.MaxLockEnd, Mode: wire.LockExclusive}
	unlocked  = wire.LockRange{End: wire.MaxLockEnd}
)

func (l *locker) set(r wire.LockRange, want wire.Code) {
	l.t.Helper()
	if err := l.SetLock(ctx, 5, process, r, false); wire.CodeOf(err) != want {
		l.t.Fatalf("%v, want %v", err, want)
	}
}

// waits begins to wait for the lock.
func (l *locker) waits(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.SetLock(ctx, 5, process, exclusive, true) }()
	return done
}

func (k *cluster) lockCount(wantHeld, wantWaits int) {
	k.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		s, err := k.c.Status(ctx, wire.StatusRequest{})
		if err == nil && s.Locks == wantHeld && s.LockWaits == wantWaits {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%d locks and %d waits, want %d and %d (%v)", s.Locks, s.LockWaits, wantHeld, wantWaits, err)
		}
		<-time.After(time.Millisecond)
	}
}

// lease lets a lease pass at once.
func (k *cluster) lease() {
	for range wire.LockLease / 1000 {
		k.c.ask(ctx, func() { k.c.tickLocks(1000) })
	}
}

func answered(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting")
		return nil
	}
}

func unanswered(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatal("it did not wait: ", err)
	default:
	}
}

// Locks of two clients keep each other out, waits are woken by whatever ends
// the lock, and a wait that is given up leaves nothing.
func TestLocksOfClients(t *testing.T) {
	k := newCluster(t).serve()
	a, b := k.locker(), k.locker()
	a.set(exclusive, 0)
	b.set(exclusive, wire.CodeLocked)
	got, held, err := b.GetLock(ctx, 5, process, exclusive)
	if !held || got.Mode != wire.LockExclusive || err != nil {
		t.Fatal(got, held, err)
	}
	done := b.waits(ctx)
	k.lockCount(1, 1)
	unanswered(t, done)
	a.set(unlocked, 0)
	if err := answered(t, done); err != nil {
		t.Fatal(err)
	}
	stop, cancel := context.WithCancel(ctx)
	done = a.waits(stop)
	k.lockCount(1, 1)
	cancel()
	if err := answered(t, done); wire.CodeOf(err) != wire.CodeCanceled {
		t.Fatal(err)
	}
	k.lockCount(1, 0)
	done = a.waits(ctx)
	k.lockCount(1, 1)
	if err := b.ReleaseLocks(ctx, 5, process); err != nil {
		t.Fatal(err)
	}
	if err := answered(t, done); err != nil {
		t.Fatal(err)
	}
	done = b.waits(ctx)
	k.lockCount(1, 1)
	if err := a.Close(); err != nil { // the session's end
		t.Fatal(err)
	}
	if err := answered(t, done); err != nil {
		t.Fatal(err)
	}
	b.set(unlocked, 0)
	k.lockCount(0, 0)
}

// A client that is silent for a lease loses its locks to who waits, and hears
// of it before anything of its is put.
func TestLocksOfASilentClient(t *testing.T) {
	k := newCluster(t).serve()
	a, b := k.locker(), k.locker()
	a.set(exclusive, 0)
	done := b.waits(ctx)
	k.lockCount(1, 1)
	a.g.set(k.c, true)
	for range 4 {
		k.c.ask(ctx, func() { k.c.tickLocks(1000) })
	}
	unanswered(t, done) // not before the lease is over
	k.lease()
	if err := answered(t, done); err != nil {
		t.Fatal(err)
	}
	stale, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	fresh := make(chan error, 1)
	a.g.set(k.c, false)
	go func() { fresh <- a.LocksFresh(stale) }()
	if _, err := a.Transact(ctx, []wire.Mutation{{Kind: wire.MutMkdir, At: wire.At{Dir: wire.RootIno, Path: "d"}}}, nil); err != nil && wire.CodeOf(err) != wire.CodeUnsupported {
		t.Log(err) // nodes know no mkdir: what counts is when it was put
	}
	select {
	case inos := <-a.lost:
		if !slices.Equal(inos, []wire.Ino{5}) {
			t.Fatal(inos)
		}
	default:
		t.Fatal("a change was put and its client had not heard that its locks are lost")
	}
	if err := answered(t, fresh); err != nil {
		t.Fatal(err)
	}
	a.set(exclusive, wire.CodeLocked)
	b.set(unlocked, 0)
	a.set(exclusive, 0)
}

// What a lost session had put is decided before its locks go: the next holder
// sees it.
func TestLostLocksWaitForWhatWasPut(t *testing.T) {
	t.Run("silent", func(t *testing.T) { lostLocksWait(t, false) })
	t.Run("ended by another client", func(t *testing.T) { lostLocksWait(t, true) })
}

func lostLocksWait(t *testing.T, ended bool) {
	t.Helper()
	k := newCluster(t).serve()
	a, b := k.locker(), k.locker()
	a.set(exclusive, 0)
	done := b.waits(ctx)
	k.lockCount(1, 1)
	k.nodes[1].set(func() { k.nodes[1].hang = true })
	put := make(chan error, 1)
	go func() {
		data := []byte("under the lock")
		_, err := a.Transact(ctx, []wire.Mutation{write("f", data)}, []client.Content{client.Bytes(data)})
		put <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		if s, _ := k.c.Status(ctx, wire.StatusRequest{}); len(s.InDoubt) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never put")
		}
	}
	a.g.set(k.c, true)
	if ended {
		if err := b.EndSession(ctx, a.Session()); err != nil {
			t.Fatal(err)
		}
	}
	k.lease()
	k.lease()
	unanswered(t, done)
	k.lockCount(1, 1)
	k.nodes[1].kill() // it hangs no more
	k.nodes[1].set(func() { k.nodes[1].hang = false })
	k.nodes[1].revive()
	if err := answered(t, done); err != nil {
		t.Fatal(err)
	}
	var w contents
	if _, err := k.c.Read(ctx, readReq("f"), &w); err != nil || string(w.data) != "under the lock" {
		t.Fatalf("the next holder reads %q, %v", w.data, err)
	}
	a.g.set(k.c, false)
	if err := answered(t, put); err != nil { // the retry hears what became of it
		t.Fatal(err)
	}
}

// After a restart who held locks holds them, and nobody else gets any before
// they had the time to say so. Who comes later has lost them.
func TestLocksOverARestart(t *testing.T) {
	for _, late := range []bool{false, true} {
		k := newCluster(t).serve()
		a, b := k.locker(), k.locker()
		for range 20 { // grants of this epoch say nothing of the next one's
			a.set(exclusive, 0)
			done := b.waits(ctx)
			k.lockCount(1, 1)
			a.set(unlocked, 0)
			if err := answered(t, done); err != nil {
				t.Fatal(err)
			}
			b.set(unlocked, 0)
		}
		if err := b.SetLock(ctx, 6, process, exclusive, false); err != nil { // its keeper waits for the next epoch
			t.Fatal(err)
		}
		a.set(exclusive, 0)
		b.g.set(k.c, true)
		k.close()
		b.g.mu.Lock()
		before := b.g.dials
		b.g.mu.Unlock()
		for tries := 0; tries < 3; <-time.After(time.Millisecond) {
			b.g.mu.Lock()
			tries = b.g.dials - before
			b.g.mu.Unlock()
		}
		k.open()
		b.g.set(k.c, false)
		if !late {
			a.g.set(k.c, false)
		}
		done := b.waits(ctx)
		for range 4 {
			k.c.ask(ctx, func() { k.c.tickLocks(1000) })
		}
		unanswered(t, done)
		if !late {
			k.lockCount(2, 0) // the keepers assert them
			k.c.ask(ctx, func() { k.c.tickLocks(1000) })
			k.lockCount(2, 1)
			b.set(exclusive, wire.CodeLocked)
			unanswered(t, done)
			a.set(unlocked, 0)
			if err := answered(t, done); err != nil {
				t.Fatal(err)
			}
			if len(a.lost) > 0 {
				t.Fatal("a lost its locks")
			}
			k.close()
			continue
		}
		k.lease()
		if err := answered(t, done); err != nil {
			t.Fatal(err)
		}
		b.set(unlocked, 0) // also when nobody holds it any more
		a.g.set(k.c, false)
		if inos := <-a.lost; !slices.Equal(inos, []wire.Ino{5}) {
			t.Fatal(inos)
		}
		k.close()
	}
}

// A new cluster has nobody to wait for.
func TestNoGraceInTheFirstEpoch(t *testing.T) {
	k := newCluster(t).serve()
	reply, err := k.c.Lock(ctx, wire.LockRequest{Session: k.me, Link: k.link, Op: wire.LockSet, Ino: 5, Owner: process, Range: exclusive})
	if err != nil || reply.Result != wire.LockDone {
		t.Fatal(reply, err)
	}
}

// Requests that no client of ours sends, and such by a link that was replaced.
func TestHostileLockRequests(t *testing.T) {
	k := newCluster(t).serve()
	good := wire.LockRequest{Session: k.me, Link: k.link, Op: wire.LockSet, Ino: 5, Owner: process, Range: exclusive}
	for name, spoil := range map[string]func(r *wire.LockRequest){
		"no operation":     func(r *wire.LockRequest) { r.Op = 0 },
		"a newer one":      func(r *wire.LockRequest) { r.Op = 99 },
		"no kind":          func(r *wire.LockRequest) { r.Owner.Kind = 0 },
		"a newer kind":     func(r *wire.LockRequest) { r.Owner.Kind = 3 },
		"no bytes":         func(r *wire.LockRequest) { r.Range.Start, r.Range.End = 5, 4 },
		"beyond the end":   func(r *wire.LockRequest) { r.Range.End = 1 << 63 },
		"a newer mode":     func(r *wire.LockRequest) { r.Range.Mode = 3 },
		"a kind asserted":  func(r *wire.LockRequest) { r.Op, r.Held = wire.LockAssert, []wire.HeldLocks{{Ino: 5}} },
		"a range asked of": func(r *wire.LockRequest) { r.Op, r.Range.End = wire.LockGet, 1<<63 },
	} {
		r := good
		spoil(&r)
		if _, err := k.c.Lock(ctx, r); wire.CodeOf(err) != wire.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]wire.LockRequest{
		"another link":    {Session: k.me, Link: k.link + 1, Op: wire.LockPoll},
		"another session": {Session: wire.SessionID{9}, Link: k.link, Op: wire.LockPoll},
	} {
		if _, err := k.c.Lock(ctx, r); wire.CodeOf(err) != wire.CodeReplaced {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := good
	bad.Op, bad.Held = wire.LockAssert, []wire.HeldLocks{{Ino: 5, Owner: process, Ranges: []wire.LockRange{{Start: 9, End: 3}}}}
	k.c.ask(ctx, func() { k.c.locks.serve(&good, 0) })
	if reply, err := k.c.Lock(ctx, bad); err != nil || reply.Result != wire.LockLost {
		t.Error(reply, err)
	}
	k.lockCount(0, 0)
}

// Requests and answers get lost all the time, at every point: never do two
// clients hold the lock, never is one kept that nobody holds.
func TestLocksOverBadLinks(t *testing.T) {
	k := newCluster(t).serve()
	var mu sync.Mutex // guards inside
	inside, entered := 0, 0
	var wg sync.WaitGroup
	for i := range 4 {
		l := k.locker()
		random := rand.New(rand.NewPCG(1, uint64(i)))
		l.g.lose = func() bool { return random.IntN(6) == 0 }
		wg.Go(func() {
			for n := range 25 {
				giveUp, cancel := context.WithCancel(ctx)
				if n%5 == 4 {
					time.AfterFunc(time.Duration(n)*time.Millisecond, cancel)
				}
				err := l.SetLock(giveUp, 5, process, exclusive, true)
				cancel()
				if err != nil {
					if wire.CodeOf(err) != wire.CodeCanceled {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				inside++
				entered++
				if inside != 1 {
					t.Errorf("%d clients hold the lock", inside)
				}
				mu.Unlock()
				<-time.After(time.Millisecond)
				mu.Lock()
				inside--
				mu.Unlock()
				if n%2 == 0 {
					err = l.SetLock(ctx, 5, process, unlocked, false)
				} else {
					err = l.ReleaseLocks(ctx, 5, process)
				}
				if err != nil {
					t.Error(err)
				}
			}
			if len(l.lost) > 0 {
				t.Error("locks were lost that nobody else could get")
			}
		})
	}
	wg.Wait()
	if entered < 40 {
		t.Errorf("only %d times was the lock got", entered)
	}
	k.lockCount(0, 0)
}
