package coordinator

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// loseDisk gives the coordinator's machine an empty disk.
func (k *cluster) loseDisk() {
	k.fs = forget.New(2)
	k.o.FS = k.fs
}

// endsWith wants the next coordinator to end by itself, for that reason.
func (k *cluster) endsWith(words ...string) {
	k.t.Helper()
	c, err := Open(k.o)
	if err != nil {
		k.t.Fatal(err)
	}
	<-c.Done()
	err = c.Err()
	if closed := c.Close(); wire.CodeOf(closed) != wire.CodeOf(err) {
		k.t.Errorf("Close says %v, Err %v", closed, err)
	}
	wantCode(k.t, err, wire.CodeOf(err), words...)
}

// TestRebuild: a coordinator whose disk is lost does not begin on an empty one, and says
// what to do; rebuilt, it serves what was there, knows what a retry is, and goes on.
func TestRebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("one"))
		again := k.request(0, write("y", []byte("two")))
		first, err := k.c.Transact(ctx, again, []byte("two"))
		if err != nil {
			t.Fatal(err)
		}
		epoch := k.c.Epoch().Number
		k.close()
		k.loseDisk()
		k.endsWith("empty, old or another's", "--rebuild")
		if done, err := Rebuild(ctx, k.o, Word{By: "me"}); !done || err != nil {
			t.Fatalf("rebuilt %v, %v", done, err)
		}
		k.serve()
		if k.c.Epoch().Number <= epoch {
			t.Errorf("epoch %d after %d", k.c.Epoch().Number, epoch)
		}
		k.wantGet("x", []byte("one"))
		again.Link = k.link
		began := time.Now()
		if r, err := k.c.Transact(ctx, again, []byte("two")); err != nil || r.Outcome.Tx != first.Outcome.Tx {
			t.Errorf("a retry gets %+v, %v; it was %v", r.Outcome, err, first.Outcome.Tx)
		}
		// Somebody may still answer from before, for as long as a lease lasts (F10).
		if d := time.Since(began); d < wire.Lease*time.Millisecond {
			t.Errorf("a change is answered after %v, while mounts may not have heard of it", d)
		}
		began = time.Now()
		k.put("x", []byte("three"))
		if d := time.Since(began); d > time.Second {
			t.Errorf("the next one is answered after %v", d)
		}
		m, err := k.c.Status(ctx, wire.StatusRequest{})
		if err != nil || len(m.Edits) != 1 || m.Edits[0].By != "me" {
			t.Errorf("the record of it: %+v, %v", m.Edits, err)
		}
		k.close()
		// The flag may stay.
		if done, err := Rebuild(ctx, k.o, Word{By: "me"}); done || err != nil {
			t.Fatalf("rebuilt once more: %v, %v", done, err)
		}
		k.serve()
		k.wantGet("x", []byte("three"))
		k.close()
	})
}

// TestRebuildOfAnOldJournal: a backup is as good as nothing, and goes on all the same.
func TestRebuildOfAnOldJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("one"))
		k.close()
		backup := k.fs.Crash(rand.New(rand.NewPCG(1, 1)))
		k.fs.Restart()
		k.serve()
		k.put("x", []byte("two"))
		k.close()
		k.fs, k.o.FS = backup, backup
		k.endsWith("--rebuild")
		if done, err := Rebuild(ctx, k.o, Word{By: "me"}); !done || err != nil {
			t.Fatalf("rebuilt %v, %v", done, err)
		}
		k.serve()
		k.wantGet("x", []byte("two"))
		k.close()
	})
}

// TestRebuildCrashes: a crash before each operation of the disk, and a power loss, leave
// what the next rebuilding makes good.
func TestRebuildCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("one"))
		k.close()
		for at := 1; ; at++ {
			k.loseDisk()
			k.fs.CrashAt(at)
			done, err := Rebuild(ctx, k.o, Word{By: "me"})
			whole := err == nil && !k.fs.Crashed()
			if whole && !done {
				t.Fatal("nothing was rebuilt")
			}
			k.fs = k.fs.Crash(rand.New(rand.NewPCG(uint64(at), 1)))
			k.o.FS = k.fs
			if _, err := Rebuild(ctx, k.o, Word{By: "me"}); err != nil {
				t.Fatalf("after a crash before operation %d: %v", at, err)
			}
			k.serve()
			k.wantGet("x", []byte("one"))
			k.close()
			if whole {
				if at < 5 {
					t.Fatalf("it takes %d operations", at-1)
				}
				return
			}
		}
	})
}

// TestRebuildWaits: who is in sync has to be there, or to be declared lost, by one that
// is whole; who does not answer at once is asked again.
func TestRebuildWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.MinInSync = 2
		k.serve()
		k.put("x", []byte("one"))
		k.close()
		k.loseDisk()
		k.nodes[0].kill()
		_, err := Rebuild(ctx, k.o, Word{By: "me"})
		wantCode(t, err, wire.CodeUnavailable, "a (a) has not answered", "declared lost", "No answer from a")
		_, err = Rebuild(ctx, k.o, Word{Lost: []string{"z"}, By: "me"})
		wantCode(t, err, wire.CodeInvalid, "z cannot be declared lost")
		_, err = Rebuild(ctx, k.o, Word{Lost: []string{"a", "b"}, By: "me"})
		wantCode(t, err, wire.CodeInvalid, "b (b) is there and has its data")
		stopped, cancel := context.WithCancel(ctx)
		cancel()
		_, err = Rebuild(stopped, k.o, Word{By: "me"})
		wantCode(t, err, wire.CodeCanceled, "nothing was changed")

		// By one alone, which names the others.
		one := k.o
		one.Participants = one.Participants[1:2]
		if done, err := Rebuild(ctx, one, Word{Lost: []string{"a"}, By: "me"}); !done || err != nil {
			t.Fatalf("rebuilt %v, %v", done, err)
		}
		k.serve()
		k.wantGet("x", []byte("one"))
		k.put("y", []byte("two"))
		k.close()
	})
}
