package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// stall keeps the owner busy for so long, as if the process had been stopped, and
// returns when it has begun.
func (k *cluster) stall(d time.Duration) {
	begun := make(chan struct{})
	go k.c.post(func() {
		close(begun)
		time.Sleep(d)
	})
	<-begun
}

// mount is a session with a lease, which has forgotten what it was told to.
func (k *cluster) mount() (watch func() error) {
	k.t.Helper()
	id := wire.SessionID{9}
	a, err := k.c.Attach(ctx, wire.Attach{Session: id})
	if err != nil {
		k.t.Fatal(err)
	}
	var last wire.Watched
	watch = func() error {
		got, err := k.c.Watch(ctx, wire.Watch{Session: id, Link: a.Link, Epoch: last.Epoch, Number: last.Number})
		last = got
		return err
	}
	for range 2 {
		if err := watch(); err != nil {
			k.t.Fatal(err)
		}
	}
	return watch
}

// A Watch that comes while the coordinator stands still renews a lease from then on,
// for as long as any: if its mount is lost afterwards, changes do not wait for as long
// as the coordinator has stood still, too.
func TestLeaseAfterAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		watch := k.mount()
		k.stall(time.Minute)
		heard := make(chan error, 1)
		go func() { heard <- watch() }()
		if err := <-heard; err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		k.put("x", []byte("1"))
		if d := time.Since(began); d < wire.Lease*time.Millisecond || d > (wire.Lease+wire.Lease/10+100)*time.Millisecond {
			t.Errorf("a change has waited %v for a mount that says nothing", d)
		}
		k.close()
	})
}

// The same of file locks: who has asked for one keeps it for a lease from then on.
func TestLockAfterAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		session := func(n byte) func(req wire.LockRequest) wire.LockReply {
			id := wire.SessionID{n}
			a, err := k.c.Attach(ctx, wire.Attach{Session: id})
			if err != nil {
				t.Fatal(err)
			}
			return func(req wire.LockRequest) wire.LockReply {
				req.Session, req.Link, req.Owner = id, a.Link, process
				reply, err := k.c.Lock(ctx, req)
				if err != nil {
					t.Error(err)
				}
				return reply
			}
		}
		first, next := session(1), session(2)
		k.stall(time.Minute)
		locked := make(chan wire.LockReply, 1)
		go func() { locked <- first(wire.LockRequest{Op: wire.LockSet, Ino: 5, Range: exclusive}) }()
		if r := <-locked; r.Result != wire.LockDone {
			t.Fatalf("%+v", r)
		}
		began := time.Now()
		if r := next(wire.LockRequest{Op: wire.LockSet, Ino: 5, Range: exclusive, Wait: 1}); r.Result != wire.LockQueued {
			t.Fatalf("%+v", r)
		}
		for len(next(wire.LockRequest{Op: wire.LockPoll}).Grants) == 0 {
		}
		if d := time.Since(began); d < wire.LockLease*time.Millisecond || d > wire.LockLease*time.Millisecond+100*time.Millisecond {
			t.Errorf("its lock was released after %v", d)
		}
		k.close()
	})
}
