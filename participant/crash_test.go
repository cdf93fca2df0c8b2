package participant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// planned is an entry of a stream that is planned in advance.
type planned struct {
	entry wire.Entry
	want  wire.Verdict
	stage []byte // contents to be staged before the PREPARE
}

// plan is a short history with everything that leaves records: each kind of
// contents, a NO, an ABORT, a DUP, a directory, a rename, and enough of them
// for a checkpoint or two.
func plan() []planned {
	var list []planned
	seq := uint64(0)
	prepare := func(counter uint64, want wire.Verdict, payload string, muts ...wire.Mutation) {
		seq++
		e := prepareEntry(1, counter, seq, []byte(payload), muts...)
		list = append(list, planned{entry: *e, want: want})
	}
	decide := func(kind wire.EntryKind, counter uint64) {
		list = append(list, planned{entry: wire.Entry{Kind: kind, Tx: wire.MakeID(1, counter)}})
	}
	list = append(list, planned{entry: *configEntry(1)}, planned{entry: wire.Entry{Kind: wire.EntryOpen}})
	prepare(10, wire.VoteYes, "hello", writeOf("a", "hello"))
	decide(wire.EntryCommit, 10)
	middle := strings.Repeat("middle ", 3000)
	prepare(20, wire.VoteYes, middle, writeOf("m", middle))
	prepare(30, wire.VoteNo, "late", writeOf("m", "late"))
	decide(wire.EntryCommit, 20)
	prepare(40, wire.VoteYes, "", wire.Mutation{Kind: wire.MutMkdir, At: at("d"), Mode: 0o755}, wire.Mutation{Kind: wire.MutRename, At: at("m"), To: at("d/m")})
	prepare(50, wire.VoteYes, "", stagedOf("big", wire.StageReply{}))
	list[len(list)-1].stage = bytes.Repeat([]byte("staged"), 15_000)
	decide(wire.EntryCommit, 50)
	decide(wire.EntryCommit, 40)
	prepare(60, wire.VoteYes, "x", writeOf("gone", "x"))
	decide(wire.EntryAbort, 60)
	seq = 0 // the first one's op id
	prepare(70, wire.VoteDup, "hello", writeOf("a", "hello"))
	seq = 100
	prepare(80, wire.VoteYes, "", deleteOf("a"))
	decide(wire.EntryCommit, 80)
	prepare(90, wire.VoteYes, "", stagedOf("big", wire.StageReply{}))
	list[len(list)-1].stage = bytes.Repeat([]byte("again."), 12_000)
	decide(wire.EntryCommit, 90)
	for n := range uint64(8) {
		data := fmt.Sprint("number ", n)
		prepare(100+n, wire.VoteYes, data, writeOf(fmt.Sprint("f", n), data))
		decide(wire.EntryCommit, 100+n)
	}
	prepare(120, wire.VoteYes, "", wire.Mutation{Kind: wire.MutSetattr, At: at("d/m"), Set: wire.SetSize, Size: 10_000})
	decide(wire.EntryAbort, 120)
	prepare(130, wire.VoteYes, "", deleteOf("f1"), deleteOf("f2"))
	decide(wire.EntryCommit, 130)
	prepare(140, wire.VoteYes, "held", wire.Mutation{Kind: wire.MutLink, At: at("d/m"), To: at("l")},
		wire.Mutation{Kind: wire.MutSetxattr, At: at("l"), Name: "user.a", Value: []byte("v")},
		wire.Mutation{Kind: wire.MutMknod, At: at("p"), Mode: wire.ModeFifo | 0o600},
		wire.Mutation{Kind: wire.MutCreateUnlinked, At: at("")}, writeOf("f3", "held"),
		wire.Mutation{Kind: wire.MutDeleteFile, At: at("f3"), Hold: true})
	prepare(150, wire.VoteNo, "", deleteOf("l"))
	decide(wire.EntryCommit, 140)
	prepare(160, wire.VoteYes, "", wire.Mutation{Kind: wire.MutRename, At: at("l"), To: at("d"), Rename: wire.RenameExchange},
		wire.Mutation{Kind: wire.MutReclaim, At: wire.At{Dir: wire.Ino(wire.MakeID(1, 143))}})
	decide(wire.EntryCommit, 160)
	prepare(170, wire.VoteYes, "", wire.Mutation{Kind: wire.MutRemovexattr, At: at("d"), Name: "user.a"})
	decide(wire.EntryAbort, 170)
	for i := range list {
		list[i].entry.Index = uint64(i + 1)
	}
	return list
}

// reign is the coordinator of one epoch that goes on with its plan over any
// number of the participant's crashes (P10).
type reign struct {
	t       *testing.T
	plan    []planned
	votes   map[uint64]wire.Vote
	durable uint64
	stages  uint64 // ids taken
}

func newReign(t *testing.T) *reign {
	return &reign{t: t, plan: plan(), votes: map[uint64]wire.Vote{}, stages: 500}
}

// live runs the plan on a participant until all of it is durable (true) or the
// participant dies (false).
func (c *reign) live(p *Participant) (done bool) {
	epoch := wire.Epoch{Number: 1, Run: wire.UUID{1}}
	g, s, err := greetInTime(c.t, p, wire.Greet{Epoch: epoch, Name: "a"})
	if err != nil {
		return false
	}
	c.checkGreeting(&g)
	l := newLink(s)
	defer func() {
		l.close()
		for i, v := range l.votes {
			c.votes[i] = v
		}
		c.durable = max(c.durable, l.up.Durable)
	}()
	for i := g.Position.Index; i < uint64(len(c.plan)); i++ {
		if !c.send(p, l, epoch, &c.plan[i]) {
			return false
		}
	}
	return inTime(c.t, l.durable(uint64(len(c.plan)))) == nil
}

// greetInTime ends the test where the greeting is neither answered nor refused.
func greetInTime(t *testing.T, p *Participant, g wire.Greet) (wire.Greeting, wire.TxStream, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	greeting, s, err := p.Greet(ctx, g)
	if ctx.Err() != nil {
		t.Fatal("no answer to the greeting")
	}
	return greeting, s, err
}

// inTime ends the test where nothing came; what a crash has ended is not of interest.
func inTime(t *testing.T, err error) error {
	t.Helper()
	if errors.Is(err, errTimeout) {
		t.Fatal(err)
	}
	return err
}

// send puts one entry; a PREPARE whose NO was counted is re-sent as VOID.
func (c *reign) send(p *Participant, l *link, epoch wire.Epoch, e *planned) bool {
	entry := e.entry
	if v, ok := c.votes[entry.Index]; ok && v.Verdict != wire.VoteYes {
		entry = wire.Entry{Index: entry.Index, Kind: wire.EntryVoid}
	}
	if e.stage != nil {
		c.stages++
		reply, err := p.Stage(context.Background(), wire.StageRequest{Epoch: epoch, ID: wire.MakeID(1, c.stages), Size: int64(len(e.stage))}, &pieces{data: e.stage})
		if err != nil {
			return false
		}
		e.stage = nil // durable from now on
		m := &e.entry.Prepare.Mutations[0]
		m.Content = wire.Content{Size: reply.Size, Stage: reply.ID, Sum: reply.Sum}
	}
	return l.s.Send(wire.Down{Entry: &entry}) == nil
}

// checkGreeting: what was said to be durable is there, and what was voted for
// is prepared or decided.
func (c *reign) checkGreeting(g *wire.Greeting) {
	if g.Position.Index < c.durable {
		c.t.Fatalf("it has handled %d entries, after it had said that %d are durable", g.Position.Index, c.durable)
	}
	known := map[wire.ID]wire.Testimony{}
	for _, k := range g.Known {
		known[k.Tx] = k
	}
	for i, v := range c.votes {
		k, ok := known[v.Tx]
		if v.Verdict == wire.VoteYes && (!ok || k.State == wire.TxRefused) {
			c.t.Fatalf("it voted for transaction %v at %d and now knows %+v", v.Tx, i, k)
		}
	}
	for i := range c.plan[:g.Position.Index] {
		e := &c.plan[i]
		if e.want != 0 && c.votes[e.entry.Index].Verdict == 0 && e.want == wire.VoteYes {
			k, ok := known[e.entry.Prepare.Tx]
			if !ok {
				c.t.Fatalf("it is past prepare %d, which it would have voted for, and knows nothing of it", e.entry.Index)
			}
			if k.State == wire.TxRefused { // the NO was lost with its link, the reason too: only a full disk is one
				c.votes[e.entry.Index] = wire.Vote{Tx: k.Tx, Verdict: wire.VoteNo, Err: wire.NewError(wire.CodeNoSpace, "as its greeting tells")}
			}
		}
	}
}

// check compares the votes with the plan's.
func (c *reign) check() {
	for i := range c.plan {
		e := &c.plan[i]
		if v, ok := c.votes[e.entry.Index]; ok && v.Verdict != e.want {
			c.t.Fatalf("vote on entry %d is %d (%v), want %d", e.entry.Index, v.Verdict, v.Err, e.want)
		}
	}
}

func smallOptions(fsys *forget.FS) Options {
	o := testOptions(fsys)
	o.SegmentSize, o.CheckpointSegments, o.InlineMax = 32<<10, 2, 8<<10
	return o
}

// tree lists all files with their attributes and contents.
func tree(p *Participant, epoch wire.Epoch, dir wire.Ino, prefix string) (string, error) {
	var out strings.Builder
	read := func(req wire.Read, w wire.PieceWriter) (wire.ReadReply, error) {
		return p.Read(context.Background(), wire.PositionedRead{Epoch: epoch, Read: req}, w)
	}
	list, err := read(wire.Read{Kind: wire.ReadList, At: wire.At{Dir: dir}}, nil)
	if err != nil {
		return "", err
	}
	for _, e := range list.Entries {
		var c collect
		if e.Attr.Mode&wire.ModeType == wire.ModeRegular {
			if _, err := read(wire.Read{Kind: wire.ReadFile, At: wire.At{Dir: dir, Path: e.Name}, Length: -1}, &c); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(&out, "%s%s %+v %08x\n", prefix, e.Name, e.Attr, wire.Sum(c))
		if e.Attr.Mode&wire.ModeType == wire.ModeDir {
			sub, err := tree(p, epoch, e.Attr.Ino, prefix+e.Name+"/")
			if err != nil {
				return "", err
			}
			out.WriteString(sub)
		}
	}
	return out.String(), nil
}

// TestCrashAtEveryDiskOperation stops the disk before each operation that
// changes it, loses what was not synced, restarts (and stops some restarts in
// the middle, too), resumes the stream, and compares with a participant that
// never crashed.
func TestCrashAtEveryDiskOperation(t *testing.T) {
	fsys := forget.New(1)
	want, ops := crashRun(t, fsys, nil)
	if ops < 80 {
		t.Fatalf("the plan makes %d disk operations only", ops)
	}
	for n := 1; n <= ops; n++ {
		for seed := range uint64(2) {
			r := rand.New(rand.NewPCG(uint64(n), seed))
			fsys := forget.New(seed + 10)
			crashes := []int{n}
			if seed == 1 { // and once more, soon: most likely in the recovery
				crashes = append(crashes, 1+r.IntN(12))
			}
			if got, _ := crashRun(t, fsys, func() int {
				if len(crashes) == 0 {
					return 0
				}
				at := crashes[0]
				crashes = crashes[1:]
				return at
			}); got != want {
				t.Fatalf("after a crash before operation %d (seed %d) it holds\n%swant\n%s", n, seed, got, want)
			}
		}
	}
}

// crashRun drives the plan to its end over the crashes that next chooses (0:
// no more), and returns the files and the number of disk operations of the
// last life.
func crashRun(t *testing.T, fsys *forget.FS, next func() int) (files string, ops int) {
	c := newReign(t)
	r := rng(uint64(fsys.Ops()) + 77)
	for life := 0; ; life++ {
		start := fsys.Ops()
		crash := 0
		if next != nil {
			crash = next()
		}
		if crash > 0 {
			fsys.CrashAt(start + crash)
		}
		done := false
		p, err := Open(smallOptions(fsys))
		if err == nil {
			if done = c.live(p); done {
				files, err = tree(p, p.m.Fence(), wire.RootIno, "")
			}
			err = errors.Join(err, p.Close())
		}
		if done && err == nil {
			c.check()
			return files, fsys.Ops() - start
		}
		if !fsys.Crashed() {
			t.Fatalf("life %d fails without a crash: %v", life, err)
		}
		fsys = fsys.Crash(r)
	}
}

// TestInDoubtBothWays crashes at each disk operation, greets with a new epoch,
// resolves what is in doubt one way or the other, and looks at every file.
func TestInDoubtBothWays(t *testing.T) {
	for n := 1; n <= 130; n += 2 { // the run takes about as many operations
		for _, kind := range []wire.EntryKind{wire.EntryCommit, wire.EntryAbort} {
			fsys := forget.New(3)
			p, err := Open(smallOptions(fsys))
			if err != nil {
				t.Fatal(err)
			}
			fsys.CrashAt(fsys.Ops() + n)
			voted, committed := inDoubtRun(t, p)
			_ = p.Close() // it may have crashed
			checkInDoubt(t, fsys.Crash(rng(uint64(n))), kind, voted, committed)
		}
	}
}

// inDoubtRun prepares files and commits every third; it returns what was voted
// for and whose COMMIT was said to be durable.
func inDoubtRun(t *testing.T, p *Participant) (voted map[wire.ID]bool, committed map[wire.ID]bool) {
	voted, committed = map[wire.ID]bool{}, map[wire.ID]bool{}
	_, s, err := greetInTime(t, p, wire.Greet{Epoch: wire.Epoch{Number: 1}})
	if err != nil {
		return voted, committed
	}
	l := newLink(s)
	defer l.close()
	index, commits := uint64(0), map[wire.ID]uint64{}
	send := func(e *wire.Entry) bool {
		index++
		e.Index = index
		return l.s.Send(wire.Down{Entry: e}) == nil
	}
	ok := send(configEntry(1)) && send(&wire.Entry{Kind: wire.EntryOpen})
	for n := uint64(10); ok && n < 30; n++ {
		name := fmt.Sprint("f", n)
		id := wire.MakeID(1, n)
		if !send(prepareEntry(1, n, n, []byte(name), writeOf(name, name))) {
			break
		}
		if _, err := l.vote(index); inTime(t, err) != nil {
			break
		}
		voted[id] = true
		if n%3 == 0 {
			ok = send(&wire.Entry{Kind: wire.EntryCommit, Tx: id})
			commits[id] = index
		}
	}
	_ = inTime(t, l.durable(index))
	l.close()
	for id, at := range commits {
		committed[id] = l.up.Durable >= at
	}
	return voted, committed
}

func checkInDoubt(t *testing.T, fsys *forget.FS, kind wire.EntryKind, voted, committed map[wire.ID]bool) {
	p, err := Open(smallOptions(fsys))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, fs: fsys, p: p, seq: 1000}
	defer r.close()
	g := r.greet(2)
	if g.Config.ID.Epoch == 0 && len(voted) > 0 {
		t.Fatal("it has voted and holds no config")
	}
	state := map[wire.ID]wire.TxState{}
	r.send(configEntry(2))
	for _, k := range g.Known {
		state[k.Tx] = k.State
		if k.State == wire.TxPrepared {
			r.send(&wire.Entry{Kind: kind, Tx: k.Tx})
		}
	}
	r.send(&wire.Entry{Kind: wire.EntryOpen})
	for id := range voted {
		if state[id] != wire.TxPrepared && state[id] != wire.TxCommitted {
			t.Fatalf("it voted for %v and testifies %d", id, state[id])
		}
		if committed[id] && state[id] != wire.TxCommitted {
			t.Fatalf("COMMIT of %v was durable and it testifies %d", id, state[id])
		}
	}
	for n := uint64(10); n < 30; n++ {
		name := fmt.Sprint("f", n)
		s := state[wire.MakeID(1, n)]
		if s == wire.TxCommitted || s == wire.TxPrepared && kind == wire.EntryCommit {
			r.wantFile(name, name)
		} else {
			r.wantNone(name)
		}
		r.write(100+n, name, "after") // the next write of the name works
	}
	r.durable(r.next - 1)
}
