package participant

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// syncs stops the journal's syncs, one by one, until the test lets them go.
type syncs struct {
	reached chan struct{} // one for each sync that waits
	pass    chan struct{}
	off     chan struct{}
	once    sync.Once
}

func holdSyncs(fsys *forget.FS, which func(forget.Op) bool) *syncs {
	s := &syncs{reached: make(chan struct{}, 1000), pass: make(chan struct{}), off: make(chan struct{})}
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync && which(op) {
			s.reached <- struct{}{}
			select {
			case <-s.pass:
			case <-s.off:
			}
		}
		return nil
	})
	return s
}

// release lets this and all later syncs go.
func (s *syncs) release() { s.once.Do(func() { close(s.off) }) }

func isMeta(op forget.Op) bool { return strings.HasSuffix(op.Name, "meta.db") }

// P2: a vote, and the position, leave after the sync of their own record, not
// after that of the one before.
func TestVoteWaitsForItsOwnSync(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, func(o *Options) { o.QuietForce, o.Heartbeat = time.Hour, time.Hour })
	r.begin(1)
	r.write(2, "warm", "up")
	r.spare()
	s := holdSyncs(fsys, isJournal)
	defer s.release()
	a := r.prepare(3, []byte("a"), writeOf("a", "a"))
	<-s.reached
	b := r.prepare(4, []byte("b"), writeOf("b", "b"))
	refused := r.prepare(5, []byte("b"), writeOf("b", "b"))
	r.want(refused, wire.VoteNo) // so b's record is appended by now
	s.pass <- struct{}{}
	r.want(a, wire.VoteYes)
	<-s.reached
	r.link.mu.Lock()
	if v, ok := r.link.votes[b]; ok || r.link.up.Durable >= b {
		t.Errorf("before its sync entry %d is durable (%d) or voted for (%+v)", b, r.link.up.Durable, v)
	}
	r.link.mu.Unlock()
	s.release()
	r.want(b, wire.VoteYes)
}

// P6: a sync that was under way when the greeting came does not cover the fence.
func TestFenceWaitsForItsOwnSync(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, func(o *Options) { o.QuietForce, o.Heartbeat = time.Hour, time.Hour })
	r.begin(1)
	r.write(2, "warm", "up")
	r.spare()
	s := holdSyncs(fsys, isJournal)
	defer s.release()
	r.prepare(3, []byte("a"), writeOf("a", "a"))
	<-s.reached
	answered := make(chan wire.TxStream, 1)
	go func() {
		_, stream, err := r.p.Greet(context.Background(), wire.Greet{Epoch: wire.Epoch{Number: 2}})
		if err != nil {
			t.Error(err)
		}
		answered <- stream
	}()
	if err := r.link.wait(func() bool { return false }); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("the old stream ends with %v", err)
	}
	s.pass <- struct{}{}
	<-s.reached // the fence's own
	waiting := 0
	err := r.p.do(context.Background(), func() {
		r.p.handleSynced() // of the first sync, if the owner has not heard of it yet
		waiting = len(r.p.greets)
	})
	if err != nil {
		t.Fatal(err)
	}
	if waiting != 1 {
		t.Error("greeted before the fence is durable")
	}
	s.release()
	_ = (<-answered).Close()
}

// S3: records that came after a checkpoint began are not cut with those before
// it, however many segments they fill meanwhile.
func TestCutStopsAtTheCheckpoint(t *testing.T) {
	fsys := forget.New(1)
	small := func(o *Options) { o.SegmentSize, o.CheckpointSegments = 64<<10, 2 }
	r := newRig(t, fsys, small)
	r.begin(1)
	s := holdSyncs(fsys, isMeta)
	defer s.release()
	n := uint64(0)
	write := func() {
		n++
		r.write(1+n, fmt.Sprint("f", n), "x")
	}
	for len(s.reached) == 0 {
		write()
	}
	for from := r.p.writer.Stats().Segments; r.p.writer.Stats().Segments < from+3; {
		write()
	}
	s.release()
	r.durable(r.next - 1)
	r.link.close()
	for r.p.writer.Stats().First == 1 { // until it is cut
		if err := r.p.do(context.Background(), func() {}); err != nil {
			t.Fatal(err)
		}
	}
	r2 := newRig(t, fsys.Crash(rng(5)), small)
	r2.greet(2)
	for i := uint64(1); i <= n; i++ {
		r2.wantFile(fmt.Sprint("f", i), "x")
	}
}

// S3: the kv does not run ahead of the journal. A power loss after a checkpoint
// has begun, and before the journal's sync is done, leaves a store that has
// applied no more than the journal holds.
func TestCheckpointWaitsForTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := forget.New(1)
		r := newRig(t, fsys, smallTable)
		r.begin(1)
		r.write(2, "warm", "up")
		r.durable(r.next - 1)
		r.spare()
		s := holdSyncs(fsys, isJournal)
		defer s.release()
		data := strings.Repeat("d", 4000)
		for n := range uint64(12) { // more than half a table
			r.prepare(3+n, []byte(data), writeOf(fmt.Sprint("f", n), data))
			r.commit(3 + n)
			synctest.Wait() // from the second on they wait for the first one's sync, in memory
		}
		begun := false
		if err := r.p.do(context.Background(), func() { begun = r.p.freezes > 0 }); err != nil {
			t.Fatal(err)
		}
		if !begun {
			t.Fatal("no checkpoint has begun")
		}
		after := fsys.Crash(rng(3))
		s.release()
		r.close()
		r2 := newRig(t, after, smallTable) // fatal when it does not open
		r2.greet(2)
		r2.wantFile("warm", "up")
	})
}
