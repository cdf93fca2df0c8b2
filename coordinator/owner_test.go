package coordinator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/journal"
	"tpcfs/wire"
)

// lateReplica answers its greeting while the owner is busy past a tick.
type lateReplica struct {
	wire.Replica
	busy func()
}

func (r *lateReplica) Greet(ctx context.Context, g wire.Greet) (wire.Greeting, wire.TxStream, error) {
	greeting, s, err := r.Replica.Greet(ctx, g)
	r.busy()
	return greeting, s, err
}

// The last greeting makes the CONFIG record; a tick of the same turn begins a
// segment. The SNAPSHOT there says what stands before it, not what follows: a
// journal that says CONFIG twice could not be read any more (P13).
func TestSnapshotBesideConfig(t *testing.T) {
	for i := range 20 { // which of two events the owner takes first is chance
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, snapshotBesideConfig)
		})
	}
}

func snapshotBesideConfig(t *testing.T) {
	k := newCluster(t)
	k.o.SegmentSize = 32 << 10
	k.o.Tick = time.Hour // no new segment
	for range 2 {        // each with an EPOCH, a CONFIG and a decision by themselves
		k.serve()
		k.put("x", nil)
		k.close()
	}

	k.o.Tick = 20 * time.Millisecond
	opened := make(chan *Coordinator, 1)
	dial := k.o.Dial
	k.o.Dial = func(ctx context.Context, p Peer) (wire.Replica, error) {
		r, err := dial(ctx, p)
		if err != nil || p.Name != "c" {
			return r, err
		}
		return &lateReplica{r, func() {
			time.Sleep(5 * time.Millisecond) // the others have answered
			c, begun := <-opened, make(chan struct{})
			go c.post(func() { // which may do it itself
				close(begun)
				time.Sleep(50 * time.Millisecond)
			})
			<-begun
		}}, nil
	}
	k.open()
	if !k.c.ledger.w.SegmentFull() {
		t.Fatalf("the journal is not full: %+v", k.c.ledger.w.Stats())
	}
	opened <- k.c
	<-k.c.Ready()
	time.Sleep(time.Second) // a snapshot is made
	k.close()

	k.o.Dial = dial
	k.serve()
	k.put("x", nil)
	k.close()
}

// Contents that wait for room in the coordinator's journal go on when there is
// some again.
func TestStageWaitsForTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.c.post(func() { k.c.journalProblem(&journal.FullError{}) })
		done := make(chan error, 1)
		go func() {
			_, err := k.stage([]byte("z"), 1)
			done <- err
		}()
		synctest.Wait()
		k.c.post(func() { k.c.journalProblem(nil) })
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("it waits for ever")
		}
		k.close()
	})
}

// Who posts something while nobody is the owner does it at once, itself, and one
// turn only: what that brings is left to the owner goroutine.
func TestPostWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		synctest.Wait() // all wait
		var first, second, third bool
		let := make(chan struct{})
		k.c.post(func() {
			first = true
			k.c.post(func() {
				select {
				case <-let:
				case <-time.After(time.Minute):
					t.Error("who has posted one does another's")
				}
				second = true
			})
		})
		if !first {
			t.Error("post returned, and it was not done")
		}
		close(let) // not before: who has posted the first one does not do the second
		synctest.Wait()
		if !second {
			t.Error("what was posted in a turn was not done")
		}
		k.c.post(func() { third = true })
		if !third {
			t.Error("nobody owns, and yet it was not done")
		}
		k.close()
		if k.c.post(func() { t.Error("it ran after the end") }) {
			t.Error("something was taken after the end")
		}
	})
}

// What many post is done one at a time, and in each one's order.
func TestPostOrder(t *testing.T) {
	k := newCluster(t).serve()
	const posters, each = 8, 200
	var last [posters]int
	var wg sync.WaitGroup
	total := 0 // the race detector watches these
	for p := range posters {
		wg.Go(func() {
			for i := range each {
				k.c.post(func() {
					if total++; last[p] != i {
						t.Errorf("%d is done after %d of its %d", i, last[p], p)
					}
					last[p] = i + 1
				})
			}
		})
	}
	wg.Wait()
	if !k.c.ask(context.Background(), func() {}) || total != posters*each { // it is behind them all
		t.Errorf("%d done of %d", total, posters*each)
	}
	k.close()
}

// A bug in a turn ends the process, also where its caller would go on: the rpc
// server answers for a handler that panics.
func TestPanicInTurnIsFatal(t *testing.T) {
	if os.Getenv("TPCFS_TEST_PANIC") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPanicInTurnIsFatal$", "-test.timeout=1m")
		cmd.Env = append(os.Environ(), "TPCFS_TEST_PANIC=1")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !strings.Contains(string(out), "panic: a bug, in") || !strings.Contains(string(out), "coordinator.TestPanicInTurnIsFatal") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	k := newCluster(t).serve()
	func() {
		defer func() { _ = recover() }()
		k.c.ask(context.Background(), func() { panic("a bug") })
	}()
	os.Exit(0) // it goes on
}
