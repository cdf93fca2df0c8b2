package coordinator

import (
	"context"
	"fmt"
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
			c.post(func() {
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
