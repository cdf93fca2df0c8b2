package participant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/journal/disk/forget"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// What a client commits is read back, now, after a clean end and after a crash.
func TestCommitReadRestart(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, nil)
	r.begin(1)
	r.write(2, "small", "hello")
	r.write(3, "middle", strings.Repeat("m", 20_000))
	r.wantFile("small", "hello")
	big := bytes.Repeat([]byte("big "), 100_000)
	s, err := r.stage(4, big)
	if err != nil {
		t.Fatal(err)
	}
	r.want(r.prepare(5, nil, stagedOf("large", s)), wire.VoteYes)
	r.durable(r.commit(5))
	r.wantFile("large", string(big))
	digest := r.digest()
	r.link.close()
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}

	r2 := newRig(t, fsys, nil)
	g := r2.greet(2)
	if g.Held.Number != 1 || g.Config.ID.Epoch != 1 || g.Position != (wire.Position{Epoch: 2}) || g.LastID != wire.MakeID(1, 5) {
		t.Fatalf("after a restart it says %+v", g)
	}
	r2.wantFile("small", "hello")
	r2.wantFile("middle", strings.Repeat("m", 20_000))
	r2.wantFile("large", string(big))
	if d := r2.digest(); d != digest {
		t.Fatal("the digest has changed over a restart")
	}
}

// One commit waits for one sync of the journal, and no other sync is on its path.
func TestOneForcedSyncPerCommit(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, func(o *Options) { o.QuietForce = time.Hour })
	r.begin(1)
	r.write(2, "warm", "up")
	r.spare()
	before, others := fsys.Count(forget.Sync), fsys.Count(forget.SyncDir)
	r.write(3, "f", "hello")
	r.wantFile("f", "hello")
	if n := fsys.Count(forget.Sync) - before; n != 1 {
		t.Errorf("a commit of an inline write took %d syncs, want 1", n)
	}
	if n := fsys.Count(forget.SyncDir) - others; n != 0 {
		t.Errorf("a commit of an inline write synced directories %d times", n)
	}
}

// Lazy records are synced by themselves after a short quiet, so that W catches
// up without traffic (P3).
func TestLazyRecordsAreSyncedInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, forget.New(1), func(o *Options) { o.QuietForce = 20 * time.Millisecond })
		r.begin(1)
		r.write(2, "f", "x")
		r.durable(r.next - 1)
		r.want(r.prepare(3, nil, deleteOf("none")), wire.VoteNo)
		began := time.Now()
		r.durable(r.next - 1)
		if d := time.Since(began); d > 40*time.Millisecond {
			t.Errorf("a NO's record was durable after %v", d)
		}
	})
}

// P12: after a failed sync nothing is voted, not even a NO, and the
// participant ends.
func TestFailedSyncEndsWithoutVoting(t *testing.T) {
	for _, kind := range []string{"yes", "no"} {
		t.Run(kind, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { failedSync(t, kind) }) })
	}
}

func failedSync(t *testing.T, kind string) {
	fsys := forget.New(1)
	r := newRig(t, fsys, func(o *Options) { o.QuietForce = time.Hour })
	r.begin(1)
	r.write(2, "f", "x")
	r.want(r.prepare(3, []byte("y"), writeOf("f", "y")), wire.VoteYes)
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync && isJournal(op) {
			return syscall.EIO
		}
		return nil
	})
	index := r.prepare(4, []byte("z"), writeOf("g", "z"))
	r.ended()
	if kind == "no" { // what comes after the failure
		_ = r.link.s.Send(wire.Down{Entry: prepareEntry(1, 5, 99, nil, deleteOf("none"))})
		index++
	}
	if v, err := r.link.vote(index); err == nil {
		t.Errorf("it voted %+v", v)
	}
	if _, err := r.read("f"); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("a read afterwards: %v", err)
	}
	// The disk, not the page cache, decides at the restart.
	r2 := newRig(t, fsys.Crash(rng(1)), nil)
	known := r2.greet(2).Known
	for _, k := range known {
		if k.Tx == wire.MakeID(1, 3) && k.State != wire.TxPrepared {
			t.Errorf("what was voted for is %+v", k)
		}
	}
}

// A sync of a staged object that fails is as fatal.
func TestFailedStageSyncEnds(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, func(o *Options) { o.Heartbeat = time.Hour })
	r.begin(1)
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync && strings.Contains(op.Name, "objects") {
			return syscall.EIO
		}
		return nil
	})
	if _, err := r.stage(2, make([]byte, 200_000)); err == nil {
		t.Error("staged in spite of a failed sync")
	}
	r.ended()
}

// A stage of an earlier process is synced before the YES that stands on it. When
// that fails there is no vote at all, not even a NO (P2, P12).
func TestFailedSyncOfAnEarlierStageEnds(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, nil)
	r.begin(1)
	reply, err := r.stage(2, make([]byte, 200_000))
	if err != nil {
		t.Fatal(err)
	}
	r.durable(r.next - 1)
	r.close()
	fsys.Restart()
	again := newRig(t, fsys, nil)
	again.greet(1)
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync && strings.Contains(op.Name, "objects") {
			return syscall.EIO
		}
		return nil
	})
	index := again.prepare(3, nil, stagedOf("f", reply))
	if v, err := again.link.vote(index); err == nil {
		t.Errorf("it voted %+v", v)
	}
	again.ended()
	// It was not luck that the stream ended before the vote was sent.
	if applyTo(again.p.store, &vote.Ready{}) == nil {
		t.Error("a vote may leave although the store has failed")
	}
}

// P6: the fence is durable before its answer; from the greeting on nothing
// older is read, and the old stream ends.
func TestFence(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, func(o *Options) { o.QuietForce = time.Hour })
	r.begin(1)
	r.write(2, "f", "x")
	r.wantFile("f", "x")
	old, oldEpoch := r.link, r.epoch
	hold, reached := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync && isJournal(op) && once.CompareAndSwap(false, true) {
			close(reached)
			<-hold
		}
		return nil
	})
	type answer struct {
		g   wire.Greeting
		s   wire.TxStream
		err error
	}
	answers := make(chan answer, 2)
	greet := func(n uint64) {
		g, s, err := r.p.Greet(context.Background(), wire.Greet{Epoch: wire.Epoch{Number: n}})
		answers <- answer{g, s, err}
	}
	go greet(2)
	<-reached
	if err := old.wait(func() bool { return false }); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("the old stream ends with %v", err)
	}
	_, err := r.p.Read(context.Background(), wire.PositionedRead{Epoch: oldEpoch, Read: wire.Read{Kind: wire.ReadStat, At: at("f")}}, nil)
	if wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("a read of the old epoch: %v", err)
	}
	// The same coordinator again, before the fence is durable: it waits, and
	// its first try is replaced.
	go greet(2)
	first := <-answers
	if wire.CodeOf(first.err) != wire.CodeReplaced {
		t.Fatalf("the first greeting was answered %+v", first)
	}
	select {
	case a := <-answers:
		t.Fatalf("answered %+v before the fence was durable", a)
	default:
	}
	close(hold)
	second := <-answers
	if second.err != nil {
		t.Fatal(second.err)
	}
	defer second.s.Close()
	if _, err := r.tryGreet(1); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("the old coordinator is greeted back: %v", err)
	}
	// What was synced before the answer outlives a crash.
	r2 := newRig(t, fsys.Crash(rng(2)), nil)
	if _, err := r2.tryGreet(1); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("after a crash the fence is forgotten: %v", err)
	}
}

// P5: a read waits for its position, as long as its caller does.
func TestReadWaitsForItsPosition(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	r.want(r.prepare(2, []byte("x"), writeOf("f", "x")), wire.VoteYes)
	read := func(ctx context.Context, index uint64) error {
		_, err := r.p.Read(ctx, wire.PositionedRead{Epoch: r.epoch, Index: index, Read: wire.Read{Kind: wire.ReadStat, At: at("f")}}, nil)
		return err
	}
	if err := read(context.Background(), r.next-1); wire.CodeOf(err) != wire.CodeNotExist {
		t.Errorf("what is undecided shows: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := read(ctx, r.next); wire.CodeOf(err) != wire.CodeCanceled {
		t.Errorf("a cancelled read: %v", err)
	}
	got := make(chan error, 1)
	next := r.next
	go func() { got <- read(context.Background(), next) }()
	r.commit(2)
	if err := <-got; err != nil {
		t.Errorf("the read at the commit: %v", err)
	}
	_, err := r.p.Read(context.Background(), wire.PositionedRead{Epoch: wire.Epoch{Number: 7}, Read: wire.Read{Kind: wire.ReadStat, At: at("f")}}, nil)
	if wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("a read of an epoch to come: %v", err)
	}
}

// P10: a link that comes back goes on after the last entry handled, and hears
// the votes that were lost with the old one.
func TestResumeInOneProcess(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	r.want(r.prepare(2, []byte("x"), writeOf("f", "x")), wire.VoteYes)
	refused := r.prepare(3, []byte("y"), writeOf("f", "y"))
	r.want(refused, wire.VoteNo)
	g := r.greet(1)
	if g.Position.Index != refused {
		t.Fatalf("it goes on after %v, want %d", g.Position, refused)
	}
	r.want(refused-1, wire.VoteYes)
	if v := r.want(refused, wire.VoteNo); v.Err.Code != wire.CodeConflict {
		t.Errorf("the reason has become %v", v.Err)
	}
	r.commit(2)
	r.wantFile("f", "x")
}

// G5: a request that was done is not done again; the retry hears of the first.
func TestDuplicate(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, nil)
	r.begin(1)
	r.write(2, "f", "x")
	r.want(r.prepare(3, nil, deleteOf("f")), wire.VoteYes)
	r.durable(r.commit(3))
	seq := r.seq
	r.seq = seq - 1
	if v := r.want(r.prepare(4, nil, deleteOf("f")), wire.VoteDup); v.Outcome.Tx != wire.MakeID(1, 3) {
		t.Errorf("the first attempt was %v", v.Outcome.Tx)
	}
	r2 := newRig(t, fsys.Crash(rng(3)), nil)
	r2.begin(2)
	r2.seq = seq - 1
	if v := r2.want(r2.prepare(5, nil, deleteOf("f")), wire.VoteDup); v.Outcome.Tx != wire.MakeID(1, 3) {
		t.Errorf("after a crash the first attempt was %v", v.Outcome.Tx)
	}
}

// A coordinator that breaks the protocol loses its stream; the participant stays.
func TestProtocolErrorEndsTheStreamAlone(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	r.write(2, "f", "x")
	r.commit(9) // never prepared
	if err := r.link.wait(func() bool { return false }); wire.CodeOf(err) != wire.CodeProtocol {
		t.Fatalf("the stream ends with %v", err)
	}
	g := r.greet(1)
	if g.Position.Index != r.next-1 {
		t.Errorf("the greeting says %v", g.Position)
	}
	r.wantFile("f", "x")
}

// Heartbeats come by themselves and tell the space left.
func TestHeartbeats(t *testing.T) {
	r := newRig(t, forget.New(1), func(o *Options) { o.Heartbeat = time.Millisecond })
	r.begin(1)
	if err := r.link.wait(func() bool { return r.link.ups >= 5 }); err != nil {
		t.Fatal(err)
	}
}

// Stages: what is announced has to come, what is consumed stays, what another
// epoch asks for is refused.
func TestStages(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	ctx := context.Background()
	stage := func(req wire.StageRequest, p *pieces) error {
		_, err := r.p.Stage(ctx, req, p)
		return err
	}
	id := func(n uint64) wire.ID { return wire.MakeID(1, n) }
	data := make([]byte, 150_000)
	if err := stage(wire.StageRequest{Epoch: r.epoch, ID: id(2), Size: 150_001, Name: "f"}, &pieces{data: data}); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("less than announced: %v", err)
	}
	if err := stage(wire.StageRequest{Epoch: r.epoch, ID: id(3), Size: 149_999}, &pieces{data: data}); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("more than announced: %v", err)
	}
	broken := wire.NewError(wire.CodeUnavailable, "client is gone")
	if err := stage(wire.StageRequest{Epoch: r.epoch, ID: id(4), Size: -1}, &pieces{data: data, err: broken}); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("a broken stage: %v", err)
	}
	if err := stage(wire.StageRequest{Epoch: wire.Epoch{Number: 1}, ID: id(5)}, &pieces{}); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("another run's stage: %v", err)
	}
	if err := stage(wire.StageRequest{Epoch: r.epoch, ID: wire.MakeID(2, 5)}, &pieces{}); wire.CodeOf(err) != wire.CodeInvalid {
		t.Errorf("an id of another epoch: %v", err)
	}
	if err := stage(wire.StageRequest{Epoch: r.epoch, ID: id(6), Size: -1}, &pieces{data: data}); err != nil {
		t.Errorf("a stage without a size: %v", err)
	}
	if _, err := r.stage(2, data); err != nil {
		t.Errorf("what had failed is in the way: %v", err)
	}
	s, err := r.stage(7, data)
	if err != nil {
		t.Fatal(err)
	}
	r.want(r.prepare(8, nil, stagedOf("f", s)), wire.VoteYes)
	if v := r.want(r.prepare(9, nil, stagedOf("g", s)), wire.VoteNo); v.Err.Code != wire.CodeStageLost {
		t.Errorf("a stage is consumed twice: %v", v.Err)
	}
	if err := r.p.Unstage(ctx, r.epoch, []wire.ID{s.ID, id(6)}); err != nil {
		t.Fatal(err)
	}
	if v := r.want(r.prepare(10, nil, stagedOf("h", wire.StageReply{ID: id(6), Size: 150_000})), wire.VoteNo); v.Err.Code != wire.CodeStageLost {
		t.Errorf("an unstaged object: %v", v.Err)
	}
	r.commit(8)
	r.wantFile("f", string(data))
	if v := r.want(r.prepare(11, nil, stagedOf("g", s)), wire.VoteNo); v.Err.Code != wire.CodeStageLost {
		t.Errorf("a stage is consumed after its commit: %v", v.Err)
	}
	if err := r.p.Unstage(ctx, r.epoch, []wire.ID{s.ID}); err != nil {
		t.Fatal(err)
	}
	r.wantFile("f", string(data))
}

// A stage outlives the participant's crash within an epoch; OPEN of the next
// epoch sweeps what nobody can name any more.
func TestStageOverCrashAndSweep(t *testing.T) {
	fsys := forget.New(5)
	r := newRig(t, fsys, nil)
	r.begin(1)
	data := make([]byte, 300_000)
	kept, err := r.stage(2, data)
	if err != nil {
		t.Fatal(err)
	}
	left, err := r.stage(3, data)
	if err != nil {
		t.Fatal(err)
	}
	r.durable(r.next - 1)
	r2 := newRig(t, fsys.Crash(rng(4)), nil)
	r2.greet(1)
	index := r2.prepare(4, nil, stagedOf("f", kept))
	r2.want(index, wire.VoteYes)
	r2.greet(2) // in doubt
	r2.send(configEntry(2))
	r2.send(&wire.Entry{Kind: wire.EntryCommit, Tx: wire.MakeID(1, 4)})
	r2.send(&wire.Entry{Kind: wire.EntryOpen})
	r2.wantFile("f", string(data))
	r2.link.close()
	if err := r2.p.Close(); err != nil { // waits for the sweep
		t.Fatal(err)
	}
	r3 := newRig(t, r2.fs, nil)
	if _, _, ok := r3.p.store.Staged(left.ID); ok {
		t.Error("a stage of an older epoch was not swept")
	}
	r3.greet(3)
	r3.wantFile("f", string(data))
}

// The sweep that a start begins with takes long where there are many objects: the OPEN of
// a coordinator that starts, too, does not wait for it.
func TestOpenDoesNotWaitForASweep(t *testing.T) {
	fsys := forget.New(5)
	r := newRig(t, fsys, nil)
	r.begin(1)
	r.durable(r.next - 1)
	r.close()
	goOn := make(chan struct{})
	late := time.AfterFunc(patience, func() {
		t.Error("it waits")
		close(goOn)
	})
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.ReadDir && strings.Contains(op.Name, "/objects/") {
			<-goOn
		}
		return nil
	})
	r = newRig(t, fsys, nil)
	for n := range uint64(2) {
		r.begin(2 + n)
		r.durable(r.next - 1)
	}
	if late.Stop() {
		close(goOn)
	}
}

// What a coordinator that has died left unconsumed goes at the next OPEN, also
// where the participant has lived on.
func TestSweepInOneProcess(t *testing.T) {
	r := newRig(t, forget.New(5), nil)
	r.begin(1)
	data := make([]byte, 300_000)
	taken, err := r.stage(2, data)
	if err != nil {
		t.Fatal(err)
	}
	left, err := r.stage(3, data)
	if err != nil {
		t.Fatal(err)
	}
	r.want(r.prepare(4, nil, stagedOf("f", taken)), wire.VoteYes)
	r.greet(2)
	r.send(configEntry(2))
	r.send(&wire.Entry{Kind: wire.EntryCommit, Tx: wire.MakeID(1, 4)})
	r.send(&wire.Entry{Kind: wire.EntryOpen})
	young, err := r.stage(5, data)
	if err != nil {
		t.Fatal(err)
	}
	r.wantFile("f", string(data))
	if err := r.p.Close(); err != nil { // waits for the sweep
		t.Fatal(err)
	}
	r2 := newRig(t, r.fs, nil)
	if _, _, ok := r2.p.store.Staged(left.ID); ok {
		t.Error("a stage of an older epoch was not swept")
	}
	if _, _, ok := r2.p.store.Staged(young.ID); !ok {
		t.Error("a stage of this epoch was swept")
	}
	r2.greet(3)
	r2.wantFile("f", string(data))
}

// Two processes on one directory: the second is refused.
func TestSecondProcess(t *testing.T) {
	fsys := forget.New(1)
	newRig(t, fsys, nil)
	_, err := Open(testOptions(fsys))
	if wire.CodeOf(err) != wire.CodeBusy || !strings.Contains(err.Error(), dataDir) {
		t.Errorf("a second participant: %v", err)
	}
}

// S3: at the table's bound prepares wait for a checkpoint, decisions and
// heartbeats go on, and what is promised alone cannot stop the stream.
func TestTableBound(t *testing.T) {
	r := newRig(t, forget.New(1), smallTable)
	r.begin(1)
	var last uint64
	data := strings.Repeat("d", 4000)
	for n := range uint64(100) { // 400 KB of rows, all undecided at once
		last = r.prepare(2+n, []byte(data), writeOf("f"+wire.ID(n).String(), data))
	}
	r.want(last, wire.VoteYes)
	for n := range uint64(100) {
		r.commit(2 + n)
	}
	r.durable(r.next - 1)
	for n := range uint64(100) {
		r.write(200+n, "g"+wire.ID(n).String(), data)
	}
	r.wantFile("g"+wire.ID(99).String(), data)
}

func smallTable(o *Options) { o.TableBytes, o.InlineMax = 64<<10, 8<<10 }

// S3: while a checkpoint is slow, prepares come no faster than the table has
// room for them.
func TestTableDoesNotGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const files = 100
		fsys := forget.New(1)
		r := newRig(t, fsys, smallTable)
		r.begin(1)
		s := holdSyncs(fsys, isMeta)
		defer s.release()
		data := strings.Repeat("d", 4000)
		for n := range uint64(files) { // 400 KB
			r.prepare(2+n, []byte(data), writeOf(fmt.Sprint("f", n), data))
			r.commit(2 + n)
			if n%60 == 0 { // in batches: the bound holds within one, too
				synctest.Wait()
			}
		}
		synctest.Wait()
		if len(s.reached) == 0 {
			t.Fatal("no checkpoint has begun")
		}
		if n := r.p.store.Stats().TableBytes; n > 2*r.p.o.TableBytes+8<<10 { // two tables, and a transaction more
			t.Errorf("tables of %d bytes hold %d", r.p.o.TableBytes, n)
		}
		s.release()
		r.durable(r.next - 1)
		r.wantFile(fmt.Sprint("f", files-1), data)
	})
}

// A full journal directory never gets larger than a few segments: checkpoints
// pass it and it is cut.
func TestJournalIsCut(t *testing.T) {
	r := newRig(t, forget.New(1), func(o *Options) { o.SegmentSize, o.CheckpointSegments = 256<<10, 2 })
	r.begin(1)
	data := strings.Repeat("d", 6000)
	for n := range uint64(300) {
		r.write(2+n, "f", data[:n+1])
	}
	r.durable(r.next - 1)
	st := r.p.writer.Stats()
	if st.First < 100 || st.Segments > 4 {
		t.Errorf("after 300 commits the journal holds records from %d on in %d segments", st.First, st.Segments)
	}
	r2 := newRig(t, r.fs.Crash(rng(9)), nil)
	r2.greet(2)
	r2.wantFile("f", data[:300])
}

// S6: no space is a NO, not an end, and deletes go on.
func TestFullDisk(t *testing.T) {
	fsys := forget.New(1)
	r := newRig(t, fsys, func(o *Options) { o.TableBytes = 1 << 20 })
	r.begin(1)
	r.write(2, "f", "x")
	r.durable(r.next - 1)
	fsys.SetCapacity(1)
	if v := r.want(r.prepare(3, []byte("y"), writeOf("g", "y")), wire.VoteNo); v.Err.Code != wire.CodeNoSpace {
		t.Errorf("on a full disk: %v", v.Err)
	}
	r.want(r.prepare(4, nil, deleteOf("f")), wire.VoteYes)
	r.commit(4)
	r.wantNone("f")
}

// Close ends everything that waits.
func TestCloseEndsWaits(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	got := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		_, err := r.p.Read(context.Background(), wire.PositionedRead{Epoch: r.epoch, Index: 1000, Read: wire.Read{Kind: wire.ReadStat, At: at("f")}}, nil)
		got <- err
	}()
	<-started
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("a waiting read: %v", err)
	}
	if err := r.link.wait(func() bool { return false }); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("the stream: %v", err)
	}
	if _, err := r.tryGreet(2); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("a greeting: %v", err)
	}
	if _, err := r.p.Status(context.Background(), wire.StatusRequest{}); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("a status: %v", err)
	}
	if _, err := r.stage(2, []byte("x")); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("a stage: %v", err)
	}
	if r.p.Err() != nil {
		t.Errorf("Err after Close: %v", r.p.Err())
	}
}

// A handle's Close ends its streams, not the participant.
func TestReplicaHandle(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	h := r.p.Replica()
	_, s, err := h.Greet(context.Background(), wire.Greet{Epoch: wire.Epoch{Number: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Close(), h.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); wire.CodeOf(err) != wire.CodeUnavailable {
		t.Errorf("its stream: %v", err)
	}
	r.begin(2)
	r.write(2, "f", "x")
	r.wantFile("f", "x")
}

// A process that was killed before its sweep had ended leaves stages that the
// next one sweeps, without waiting for the next epoch.
func TestSweepAfterRestart(t *testing.T) {
	fsys := forget.New(6)
	r := newRig(t, fsys, nil)
	r.begin(1)
	left, err := r.stage(2, make([]byte, 300_000))
	if err != nil {
		t.Fatal(err)
	}
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Remove && strings.Contains(op.Name, "objects") {
			return syscall.EIO // the sweep of epoch 2 does not get far
		}
		return nil
	})
	r.begin(2)
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	fsys.SetHook(nil)
	for _, swept := range []bool{false, true} { // Close waits for the sweep that Open began
		again := newRig(t, fsys, nil)
		if _, _, ok := again.p.store.Staged(left.ID); ok && swept {
			t.Error("a stage of an older epoch was not swept after the restart")
		}
		if err := again.p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
