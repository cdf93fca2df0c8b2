package participant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// outside greets a participant that is no member.
func (r *rig) outside(n uint64) wire.Greeting {
	r.t.Helper()
	r.epoch = wire.Epoch{Number: n, Run: wire.UUID{byte(n)}}
	g, s, err := r.p.Greet(context.Background(), wire.Greet{Epoch: r.epoch, Name: "b", Outside: true})
	if err != nil || g.Resync == "" {
		r.t.Fatal(g, err)
	}
	if r.link != nil {
		r.link.close()
	}
	r.link = newLink(s)
	return g
}

func (r *rig) step(req wire.Resync, body []byte) wire.Resynced {
	r.t.Helper()
	req.Epoch, req.Attempt = r.epoch, r.attempt
	reply, err := r.p.Resync(r.t.Context(), req, body)
	if err != nil {
		r.t.Fatalf("%v: %v", req.Step, err)
	}
	if req.Step == wire.ResyncBegin {
		r.attempt = reply.Attempt
	}
	return reply
}

// rounds is what a coordinator does until all but the last step.
func (r *rig) rounds(donor *rig) (copied int64) {
	r.t.Helper()
	begun := r.step(wire.Resync{Step: wire.ResyncBegin}, nil)
	since, full := begun.Since, begun.Full
	for last := false; ; last = true {
		at := wire.Position{Epoch: donor.epoch.Number, Index: donor.next - 1}
		ask := wire.Donate{Epoch: donor.epoch, Index: at.Index, Since: since, Full: full}
		for {
			d, body, err := donor.p.Donate(r.t.Context(), ask)
			if err != nil || d.TooOld || d.Position.Before(at) {
				r.t.Fatal(d, err)
			}
			r.step(wire.Resync{Step: wire.ResyncRows, Full: full, Position: d.Position, Cursor: ask.Cursor, Next: d.Cursor}, body)
			if ask.Cursor = d.Cursor; d.Cursor == nil {
				break
			}
		}
		for {
			v := r.step(wire.Resync{Step: wire.ResyncVerify}, nil)
			for _, l := range v.Lacks {
				for part := range slices.Chunk(l.Blocks, wire.MaxDonated) {
					d, body, err := donor.p.Donate(r.t.Context(), wire.Donate{Epoch: donor.epoch, Index: at.Index, Ino: l.Ino, Object: l.Object, Blocks: part})
					if err != nil {
						r.t.Fatal(err)
					}
					r.step(wire.Resync{Step: wire.ResyncBlocks, Ino: l.Ino, Object: l.Object, Blocks: d.Blocks}, body)
				}
			}
			copied = v.Progress.Lacking
			if len(v.Lacks) == 0 && !v.More {
				break
			}
		}
		if last {
			return copied
		}
		r.step(wire.Resync{Step: wire.ResyncRound, Position: at}, nil)
		since, full = at, false
	}
}

func (r *rig) joinAt(donor *rig) *wire.Join {
	at := wire.Position{Epoch: donor.epoch.Number, Index: donor.next - 1}
	return &wire.Join{Position: at, W: at, Config: *configEntry(donor.epoch.Number).Config, ServiceTime: 5, LastID: wire.MakeID(donor.epoch.Number, 1000)}
}

func donorOf(t *testing.T) *rig {
	donor := newRig(t, forget.New(1), nil)
	donor.begin(1)
	donor.write(2, "small", "hello")
	s, err := donor.stage(4, bytes.Repeat([]byte("big "), 100_000))
	if err != nil {
		t.Fatal(err)
	}
	donor.want(donor.prepare(5, nil, stagedOf("large", s)), wire.VoteYes)
	donor.durable(donor.commit(5))
	return donor
}

// A blank participant gets everything, and is as its donor is, also after a
// restart; before the last step it serves nothing and stays marked over a crash.
func TestCatchUp(t *testing.T) {
	donor := donorOf(t)
	fsys := forget.New(2)
	r := newRig(t, fsys, func(o *Options) { o.UUID = wire.UUID{7} })
	r.outside(1)
	if copied := r.rounds(donor); copied != 400_000+int64(len("hello")) { // the small file's came with its row
		t.Errorf("%d bytes of contents were lacking", copied)
	}
	if _, _, err := r.p.Donate(t.Context(), wire.Donate{Epoch: r.epoch, Full: true}); err == nil {
		t.Error("it is a donor before it has caught up")
	}
	crashed := fsys.Crash(rand.New(rand.NewPCG(1, 1)))
	r.link.close()
	_ = r.p.Close()

	r = newRig(t, crashed, func(o *Options) { o.UUID = wire.UUID{7} })
	r.outside(1)
	if copied := r.rounds(donor); copied != 0 {
		t.Errorf("after a crash %d bytes of contents were lacking again", copied)
	}
	r.step(wire.Resync{Step: wire.ResyncFinish, Join: r.joinAt(donor)}, nil)
	crashed = crashed.Crash(rand.New(rand.NewPCG(2, 2))) // what was answered is durable
	r.link.close()
	_ = r.p.Close()

	r = newRig(t, crashed, func(o *Options) { o.UUID = wire.UUID{7} })
	g := r.greet(1)
	if g.Resync != "" || g.Position != r.joinAt(donor).Position || g.W != g.Position || g.LastID != wire.MakeID(1, 1000) {
		t.Fatalf("after the join it says %+v", g)
	}
	r.wantFile("small", "hello")
	r.wantFile("large", strings.Repeat("big ", 100_000))
	r.next, donor.seq = donor.next, 100
	r.seq = 100
	for _, x := range []*rig{donor, r} {
		x.write(2000, "after", "both")
	}
	if r.digest() != donor.digest() {
		t.Error("the digests differ")
	}
}

// Steps of another epoch, of a participant that is not marked, or with a join
// that cannot be are refused.
func TestCatchUpRefuses(t *testing.T) {
	donor := donorOf(t)
	if _, err := donor.p.Resync(t.Context(), wire.Resync{Epoch: donor.epoch, Step: wire.ResyncBegin}, nil); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("a member: %v", err)
	}
	r := newRig(t, forget.New(2), nil)
	r.outside(2)
	join := r.joinAt(donor) // of epoch 1
	for _, req := range []wire.Resync{{Step: wire.ResyncVerify}, {Step: wire.ResyncFinish}, {Step: wire.ResyncFinish, Join: join}, {Step: wire.ResyncRound}} {
		req.Epoch = r.epoch
		if _, err := r.p.Resync(t.Context(), req, nil); wire.CodeOf(err) != wire.CodeProtocol {
			t.Errorf("%v: %v", req.Step, err)
		}
	}
	if _, err := r.p.Resync(t.Context(), wire.Resync{Epoch: donor.epoch, Step: wire.ResyncBegin}, nil); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("of an older epoch: %v", err)
	}
	if _, err := r.p.Resync(t.Context(), wire.Resync{Epoch: r.epoch, Step: 99}, nil); wire.CodeOf(err) != wire.CodeUnsupported {
		t.Errorf("an unknown step: %v", err)
	}
	r.step(wire.Resync{Step: wire.ResyncBegin}, nil)
	join.Position.Epoch, join.W.Epoch = 2, 2
	if _, err := r.p.Resync(t.Context(), wire.Resync{Epoch: r.epoch, Attempt: r.attempt, Step: wire.ResyncFinish, Join: join}, nil); wire.CodeOf(err) != wire.CodeBusy {
		t.Errorf("a finish before anything came: %v", err)
	}
}

// A greeting that comes late, over a link that was given up, does not make an
// outsider of who has been let in since, nor end the stream that it has now.
func TestLateGreeting(t *testing.T) {
	r := newRig(t, forget.New(2), nil)
	r.epoch = wire.Epoch{Number: 1, Run: wire.UUID{1}}
	_, s, err := r.p.Greet(t.Context(), wire.Greet{Epoch: r.epoch, Name: "b", Number: 2})
	if err != nil {
		t.Fatal(err)
	}
	r.link = newLink(s)
	if _, _, err := r.p.Greet(t.Context(), wire.Greet{Epoch: r.epoch, Name: "b", Outside: true, Number: 1}); wire.CodeOf(err) != wire.CodeReplaced {
		t.Errorf("it is answered %v", err)
	}
	g, s, err := r.p.Greet(t.Context(), wire.Greet{Epoch: r.epoch, Name: "b", Number: 3})
	if err != nil || g.Resync != "" {
		t.Fatalf("%v, mark %q", err, g.Resync)
	}
	_ = s.Close()
	next := wire.Epoch{Number: 2, Run: wire.UUID{2}} // another coordinator counts anew
	if _, s, err = r.p.Greet(t.Context(), wire.Greet{Epoch: next, Name: "b", Number: 1}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// What comes late, over a link that was given up, changes nothing in the attempt
// that has begun since.
func TestCatchUpRefusesAnOlderAttempt(t *testing.T) {
	r := newRig(t, forget.New(2), nil)
	r.outside(2)
	r.step(wire.Resync{Step: wire.ResyncBegin}, nil)
	old := r.attempt
	r.step(wire.Resync{Step: wire.ResyncBegin}, nil)
	if old == r.attempt {
		t.Fatal("two attempts have one number")
	}
	join, words := &wire.Join{}, fmt.Sprintf("attempt %d has begun since", r.attempt)
	for _, step := range []wire.ResyncStep{wire.ResyncRows, wire.ResyncVerify, wire.ResyncBlocks, wire.ResyncRound, wire.ResyncFinish} {
		_, err := r.p.Resync(t.Context(), wire.Resync{Epoch: r.epoch, Attempt: old, Step: step, Join: join}, nil)
		if wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v", step, err)
		}
	}
	r.step(wire.Resync{Step: wire.ResyncVerify}, nil)
}

// So does the last step of an attempt whose link was given up, and that waits for a
// checkpoint while the participant is greeted anew: who has greeted it takes it for
// out of sync, and has to find it so.
func TestCatchUpRefusesALateFinish(t *testing.T) {
	donor := donorOf(t)
	fsys := forget.New(2)
	r := newRig(t, fsys, func(o *Options) { o.UUID = wire.UUID{7} })
	r.outside(1)
	r.rounds(donor)
	goOn := make(chan struct{})
	fsys.SetHook(func(op forget.Op) error {
		if op.Kind == forget.Sync && !isJournal(op) {
			<-goOn
		}
		return nil
	})
	late := make(chan error, 1)
	err := r.p.do(t.Context(), r.p.startCheckpoint)
	go func() {
		_, err := r.p.Resync(context.Background(), wire.Resync{Epoch: r.epoch, Attempt: r.attempt, Step: wire.ResyncFinish, Join: r.joinAt(donor)}, nil)
		late <- err
	}()
	for waits := 0; waits == 0 && err == nil; runtime.Gosched() {
		err = r.p.do(t.Context(), func() { waits = len(r.p.resync.waiting) })
	}
	if err != nil {
		t.Fatal(err)
	}
	r.outside(1)
	close(goOn)
	if err := <-late; wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("the late step ends with %v", err)
	}
	if copied := r.rounds(donor); copied != 0 {
		t.Errorf("%d bytes of contents were lacking", copied)
	}
	r.step(wire.Resync{Step: wire.ResyncFinish, Join: r.joinAt(donor)}, nil)
}

// flipObject flips a bit of the only object.
func flipObject(t *testing.T, fsys *forget.FS, bit int64) {
	t.Helper()
	dirs, err := fsys.ReadDir(dataDir + "/objects")
	for _, d := range dirs {
		list, rerr := fsys.ReadDir(dataDir + "/objects/" + d.Name)
		if err = errors.Join(err, rerr); len(list) == 1 {
			err = errors.Join(err, fsys.FlipBit(dataDir+"/objects/"+d.Name+"/"+list[0].Name, bit))
		}
	}
	if err != nil || fsys.Rotten() != 1 {
		t.Fatalf("%d bits have flipped, %v", fsys.Rotten(), err)
	}
}

// A rotten block is repaired with what another member donates, durably: by no older
// coordinator, not before what the donor had handled, and not by who is out of sync.
func TestRepair(t *testing.T) {
	donor := donorOf(t)
	fsys := forget.New(2)
	r := newRig(t, fsys, nil)
	r.begin(1)
	r.write(2, "small", "hello")
	s, err := r.stage(4, bytes.Repeat([]byte("big "), 100_000))
	if err != nil {
		t.Fatal(err)
	}
	r.want(r.prepare(5, nil, stagedOf("large", s)), wire.VoteYes)
	r.durable(r.commit(5))
	flipObject(t, fsys, 8*70_000)
	ask := wire.PositionedRead{Epoch: r.epoch, Index: r.next - 1, Read: wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: 1, Path: "large"}, Length: -1}}
	_, err = r.p.Read(t.Context(), ask, new(collect))
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeCorrupt || e.Block != 1 {
		t.Fatalf("%+v", err)
	}
	d, body, err := donor.p.Donate(t.Context(), wire.Donate{Epoch: donor.epoch, Index: donor.next - 1, Ino: e.Ino, Object: e.Object, Blocks: []int64{e.Block}})
	if err != nil {
		t.Fatal(err)
	}
	req := wire.Repair{Epoch: r.epoch, Index: r.next - 1, Ino: e.Ino, Object: e.Object, Version: d.Version, Blocks: d.Blocks}
	old := req
	old.Epoch = wire.Epoch{}
	if _, err := r.p.Repair(t.Context(), old, body); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("an older coordinator's repair: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	early := req
	early.Index = r.next
	for range 20 { // who does not wait for it takes no notice, now and then
		if _, err := r.p.Repair(over, early, body); wire.CodeOf(err) != wire.CodeCanceled {
			t.Fatalf("a repair before its position is handled: %v", err)
		}
	}
	if got, err := r.p.Repair(t.Context(), req, body); err != nil || len(got.Right) != 1 || len(got.Rotten) != 0 {
		t.Fatal(got, err)
	}
	crashed := fsys.Crash(rand.New(rand.NewPCG(1, 1)))
	r.link.close()
	_ = r.p.Close()
	r = newRig(t, crashed, nil)
	r.greet(2)
	r.send(configEntry(2))
	r.send(&wire.Entry{Kind: wire.EntryOpen})
	r.durable(r.next - 1)
	ask.Epoch, ask.Index = r.epoch, r.next-1
	if _, err := r.p.Read(t.Context(), ask, new(collect)); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	r.outside(3)
	r.step(wire.Resync{Step: wire.ResyncBegin}, nil)
	req.Epoch, req.Index = r.epoch, 0
	if _, err := r.p.Repair(t.Context(), req, body); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("a repair at who is out of sync: %v", err)
	}
}
