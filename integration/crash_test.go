package integration

import (
	"context"
	bin "encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// crashCase kills processes at named steps and starts them again. steps are
// the processes' successive starts, each with the failpoint that ends it; the
// start after the last one has none.
type crashCase struct {
	name  string
	who   string
	steps []string
	// gaveUp: the client has given up when the process comes back, so that
	// it may have heard "unavailable" or "unknown".
	gaveUp bool
	// atStart: the first step is reached at the start already, by itself.
	atStart bool
	// greeted: the coordinator is killed too, since a new epoch is needed.
	greeted bool
	// fill: enough is written for checkpoints.
	fill bool
}

// smallJournal makes checkpoints frequent: they begin at four segments, which
// are as small as they may be.
var smallJournal = []string{"--segment-size", "1048576"}

func crashCases() []crashCase {
	var cases []crashCase
	commit := func(who string, points ...string) {
		for _, p := range points {
			cases = append(cases, crashCase{name: p, who: who, steps: []string{p}},
				crashCase{name: p + "/client-gave-up", who: who, steps: []string{p}, gaveUp: true})
		}
	}
	start := func(who string, points ...string) {
		for _, p := range points {
			cases = append(cases, crashCase{name: p, who: who, steps: []string{p}, atStart: true})
		}
	}
	commit(harness.Coordinator, "coordinator.before-put", "coordinator.send-prepare:1", "coordinator.send-prepare:2",
		"coordinator.send-prepare:3", "coordinator.votes", "coordinator.replied", "coordinator.send-commit:1",
		"coordinator.send-commit:2", "coordinator.send-commit:3")
	commit("a", "participant.prepare", "participant.prepare-synced", "participant.voted", "participant.commit",
		"participant.applied", "participant.staged", "participant.stage-synced")
	start(harness.Coordinator, "coordinator.epoch-journaled", "coordinator.greeted:1", "coordinator.greeted:2",
		"coordinator.greeted:3", "coordinator.recovery", "coordinator.config", "coordinator.open:1",
		"coordinator.open:2", "coordinator.open:3")
	start("a", "participant.recovery", "participant.fenced")
	cases = append(cases, crashCase{name: "participant.fence", who: "a", steps: []string{"participant.fence"}, atStart: true, greeted: true})
	// Crashes of the recovery from a crash.
	second := func(name, who string, steps ...string) {
		cases = append(cases, crashCase{name: name, who: who, steps: steps})
	}
	second("commit-in-recovery", harness.Coordinator, "coordinator.votes", "coordinator.recovery", "coordinator.send-commit:2", "coordinator.open:2")
	second("commit-half-sent", harness.Coordinator, "coordinator.send-commit:2", "coordinator.config")
	second("redo", "a", "participant.prepare-synced", "participant.recovery", "participant.fenced")
	for _, p := range []string{"store.checkpoint-journal", "store.checkpoint-objects", "store.checkpoint-kv",
		"store.checkpoint-kv-done", "store.checkpoint-unlink", "participant.cut"} {
		cases = append(cases, crashCase{name: p, who: "a", steps: []string{p}, fill: true},
			crashCase{name: p + "/twice", who: "a", steps: []string{p, "participant.recovery"}, fill: true})
	}
	return cases
}

// op is one request of a workload with what it does to the tree.
type op struct {
	what  string
	do    func(ctx context.Context, c *client.Client) error
	want  wire.Code // the answer when nothing is in the way
	apply func(t harness.Tree)
}

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	bin.LittleEndian.PutUint64(key[:], uint64(seed))
	_, _ = rand.NewChaCha8(key).Read(b) // never fails; a source that gives single bytes is dear under the race detector
	return b
}

func writeOp(name string, b []byte) op {
	return op{"write " + name, func(ctx context.Context, c *client.Client) error {
		_, err := c.WriteFile(ctx, name, client.Bytes(b), client.WriteOptions{Mode: 0o644})
		return err
	}, wire.CodeNone, func(t harness.Tree) { t[name] = harness.File(b) }}
}

func createOp(name string, b []byte, want wire.Code) op {
	return op{"create " + name, func(ctx context.Context, c *client.Client) error {
		_, err := c.WriteFile(ctx, name, client.Bytes(b), client.WriteOptions{Mode: 0o644, Create: wire.MustNotExist})
		return err
	}, want, func(t harness.Tree) { t[name] = harness.File(b) }}
}

func deleteOp(name string, want wire.Code) op {
	return op{"delete " + name, func(ctx context.Context, c *client.Client) error { return c.DeleteFile(ctx, name) },
		want, func(t harness.Tree) { delete(t, name) }}
}

func mkdirOp(name string) op {
	return op{"mkdir " + name, func(ctx context.Context, c *client.Client) error { return c.Mkdir(ctx, name, 0o755) },
		wire.CodeNone, func(t harness.Tree) { t[name] = harness.Dir }}
}

func renameOp(from, to string) op {
	return op{"rename " + from, func(ctx context.Context, c *client.Client) error { return c.Rename(ctx, from, to) },
		wire.CodeNone, func(t harness.Tree) { t[to] = t[from]; delete(t, from) }}
}

// baseline is there and durable before anything is killed.
func baseline() []op {
	return []op{
		writeOp("kept", noise(1, 4096)), writeOp("f", []byte("old")), mkdirOp("d"), writeOp("d/x", []byte("x")),
		writeOp("gone", noise(2, 20000)), writeOp("from", []byte("moves")), writeOp("big", noise(3, 300_000)),
	}
}

// workload is what runs while processes die. Most of it cannot be done twice
// without an error that shows it (G5).
func workload(fill bool) []op {
	ops := []op{
		createOp("made", noise(4, 4096), wire.CodeNone),
		writeOp("big", noise(5, 300_000)),
		createOp("f", []byte("must not be"), wire.CodeExist),
		writeOp("f", []byte("new")),
		mkdirOp("d2"),
		renameOp("from", "d2/to"),
		deleteOp("never", wire.CodeNotExist),
		deleteOp("gone", wire.CodeNone),
		createOp("made-big", noise(6, 200_000), wire.CodeNone),
	}
	if fill { // six segments
		for i := range 110 {
			ops = append(ops, createOp(fmt.Sprintf("fill%d", i), noise(int64(100+i), 60_000), wire.CodeNone))
			if i%3 == 2 {
				ops = append(ops, deleteOp(fmt.Sprintf("fill%d", i-1), wire.CodeNone))
			}
		}
		ops = append(ops, writeOp("big", noise(7, 250_000)), deleteOp("made-big", wire.CodeNone))
	}
	return append(ops, writeOp("last", []byte("last")))
}

// trees are the states that the files may be in: more than one after an
// outcome that is not known.
type trees []harness.Tree

func (ts trees) matches(got harness.Tree) bool {
	for _, want := range ts {
		if harness.Diff(got, want) == "" {
			return true
		}
	}
	return false
}

// conflictPatience is how long an operation that is told "conflict, nothing
// changed" is given again while somebody who has crashed keeps its file locked.
const conflictPatience = 3 * time.Second

// runOps runs ops in order until one has no definite answer or is not done, or
// to the end, and returns the states that may now be.
func runOps(ctx context.Context, c *client.Client, before harness.Tree, ops []op) (trees, error) {
	now := maps.Clone(before)
	for _, o := range ops {
		start := time.Now()
		err := o.do(ctx, c)
		for wire.CodeOf(err) == wire.CodeConflict && time.Since(start) < conflictPatience {
			// Nothing changed, as an operation that can be done only once shows.
			err = o.do(ctx, c)
		}
		switch code := wire.CodeOf(err); {
		case code == wire.CodeUnknownOutcome:
			after := maps.Clone(now)
			o.apply(after)
			return trees{now, after}, nil
		case code == wire.CodeUnavailable, code == wire.CodeConflict:
			return trees{now}, nil
		case code != o.want:
			return nil, fmt.Errorf("%s: got %v, want %v", o.what, err, o.want)
		case err == nil:
			o.apply(now)
		}
	}
	return trees{now}, nil
}

// TestCrashAtEveryStep kills a process at each named step of a commit, a
// checkpoint, a start and a recovery, and then wants all that was acknowledged
// on every participant, nothing that was refused, nothing in doubt, and a
// cluster that goes on.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, cc := range crashCases() {
		t.Run(cc.name, func(t *testing.T) {
			t.Parallel()
			crash(t, cc)
		})
	}
}

func crash(t *testing.T, cc crashCase) {
	ctx := testContext(t)
	c := newCluster(t, smallJournal...)
	startAll(t, ctx, c)
	states, err := runOps(ctx, dial(t, ctx, c, 0), harness.Tree{}, baseline())
	if err != nil {
		t.Fatal(err)
	}
	settle(t, ctx, c)
	if err := c.Kill(cc.who); err != nil {
		t.Fatal(err)
	}
	if cc.greeted {
		if err := c.Kill(harness.Coordinator); err != nil {
			t.Fatal(err)
		}
		if err := c.Launch(harness.Coordinator); err != nil {
			t.Fatal(err)
		}
	}
	launch := func(step string) {
		if err := c.Kill(cc.who); err != nil {
			t.Fatal(err)
		}
		if err := c.Launch(cc.who, "TPCFS_FAILPOINT="+step); err != nil {
			t.Fatal(err)
		}
	}
	launch(cc.steps[0])
	if !cc.atStart && c.WaitReady(ctx, cc.who) != nil {
		cc.atStart = true // recovery came to that step
	}
	if cc.atStart {
		died(t, ctx, c, cc.who, cc.steps[0])
	}
	wait := time.Duration(0)
	if cc.gaveUp {
		wait = 1500 * time.Millisecond
	}
	type result struct {
		states trees
		err    error
	}
	worked := make(chan result, 1)
	if cc.atStart { // it has died already, and is needed before a client can connect
		if err := c.Start(ctx, cc.who); err != nil {
			t.Fatal(err)
		}
	}
	cl := dial(t, ctx, c, wait)
	go func() {
		s, err := runOps(ctx, cl, states[0], workload(cc.fill))
		worked <- result{s, err}
	}()
	if !cc.atStart {
		died(t, ctx, c, cc.who, cc.steps[0])
	}
	for _, step := range cc.steps[1:] {
		launch(step)
		// Where the checkpoint had all that the journal has, there is nothing to do
		// again, and it begins to serve: once more, with something.
		for tries := 0; step == "participant.recovery" && c.WaitReady(ctx, cc.who) == nil && tries < 20; tries++ {
			leaveNothing(t, ctx, cl)
			launch(step)
		}
		died(t, ctx, c, cc.who, step)
	}
	var r result
	if cc.gaveUp {
		r = <-worked
	}
	if !cc.atStart {
		if err := c.Start(ctx, cc.who); err != nil {
			t.Fatal(err)
		}
	}
	if !cc.gaveUp {
		r = <-worked
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
	if !cc.gaveUp && len(r.states) != 1 {
		t.Error("a client that waits for ever was told that an outcome is unknown")
	}
	checkAfterCrash(t, ctx, c, r.states)
}

// leaveNothing makes two changes that leave nothing.
func leaveNothing(t *testing.T, ctx context.Context, cl *client.Client) {
	t.Helper()
	err := cl.Mkdir(ctx, "again", 0o755)
	if err == nil {
		err = cl.Rmdir(ctx, "again")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// died waits until a process has killed itself at a step.
func died(t *testing.T, ctx context.Context, c *harness.Cluster, who, step string) {
	t.Helper()
	p := c.Proc(who)
	name, _, _ := strings.Cut(step, ":")
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatalf("%s never came to %s", who, step)
	}
	if !strings.Contains(p.Output(), "failpoint "+name+": kill") {
		t.Fatalf("%s ended, but not at %s:\n%s", who, step, p.Output())
	}
}

// checkAfterCrash wants one of the states everywhere, byte for byte, nothing
// in doubt, and the same names writable.
func checkAfterCrash(t *testing.T, ctx context.Context, c *harness.Cluster, states trees) {
	t.Helper()
	settle(t, ctx, c)
	got := exports(t, ctx, c)
	for name, tree := range got {
		if !states.matches(tree) {
			t.Errorf("participant %s does not hold what was acknowledged:\n%s", name, harness.Diff(tree, states[0]))
		}
		if diff := harness.Diff(tree, got["a"]); diff != "" {
			t.Errorf("participants %s and a differ:\n%s", name, diff)
		}
	}
	startAll(t, ctx, c)
	settle(t, ctx, c)
	cl := dial(t, ctx, c, 0)
	for _, name := range []string{"f", "big", "made", "kept"} {
		want := []byte("written after all: " + name)
		mustWrite(t, ctx, cl, name, want)
		if b, err := cl.ReadFile(ctx, name); err != nil || string(b) != string(want) {
			t.Errorf("%s after the crash: %q, %v", name, b, err)
		}
	}
	settle(t, ctx, c)
}

// TestCrashWhileRecoveryAborts leaves a transaction prepared at two of three
// participants, kills the coordinator again while its recovery puts the ABORT,
// and wants the operation to happen once all the same.
func TestCrashWhileRecoveryAborts(t *testing.T) {
	t.Parallel()
	for k := 1; k <= 3; k++ {
		t.Run(fmt.Sprintf("coordinator.send-abort:%d", k), func(t *testing.T) {
			t.Parallel()
			crashWhileAborting(t, fmt.Sprintf("coordinator.send-abort:%d", k))
		})
	}
}

func crashWhileAborting(t *testing.T, step string) {
	ctx := testContext(t)
	c := newCluster(t, smallJournal...)
	startAll(t, ctx, c)
	states, err := runOps(ctx, dial(t, ctx, c, 0), harness.Tree{}, baseline())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill("b"); err != nil {
		t.Fatal(err)
	}
	if err := c.Launch("b", "TPCFS_FAILPOINT=participant.prepare=block"); err != nil {
		t.Fatal(err)
	}
	settle(t, ctx, c)
	cl := dial(t, ctx, c, 0)
	done := make(chan error, 1)
	go func() {
		states, err = runOps(ctx, cl, states[0], workload(false))
		done <- err
	}()
	for _, name := range []string{"a", "c"} {
		if err := c.WaitPrepared(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Kill(harness.Coordinator, "b"); err != nil {
		t.Fatal(err)
	}
	if err := c.Launch("b"); err != nil {
		t.Fatal(err)
	}
	if err := c.Launch(harness.Coordinator, "TPCFS_FAILPOINT="+step); err != nil {
		t.Fatal(err)
	}
	died(t, ctx, c, harness.Coordinator, step)
	if err := c.Start(ctx, harness.Coordinator); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkAfterCrash(t, ctx, c, states)
}

// TestAllKilledAtOnce kills all four processes again and again while clients
// write, each time at another moment.
func TestAllKilledAtOnce(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	c := newCluster(t, smallJournal...)
	startAll(t, ctx, c)
	cl := dial(t, ctx, c, 0)
	states, err := runOps(ctx, cl, harness.Tree{}, baseline())
	if err != nil {
		t.Fatal(err)
	}
	ops := workload(true)
	per := len(ops)/5 + 1
	for round := 0; len(ops) > 0; round++ {
		n := min(per, len(ops))
		part := ops[:n]
		ops = ops[n:]
		done := make(chan error, 1)
		killAt := round * 3 // after how many operations of this part
		reached := make(chan struct{})
		part[min(killAt, n-1)].do = signalling(part[min(killAt, n-1)].do, reached)
		go func() {
			var err error
			states, err = runOps(ctx, cl, states[0], part)
			done <- err
		}()
		select {
		case <-reached:
		case <-ctx.Done():
			t.Fatal("the workload is stuck")
		}
		if err := c.Kill(c.All()...); err != nil {
			t.Fatal(err)
		}
		startAll(t, ctx, c)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(states) != 1 {
			t.Fatal("a client that waits for ever was told that an outcome is unknown")
		}
	}
	checkAfterCrash(t, ctx, c, states)
}

// signalling closes reached when do begins for the first time.
func signalling(do func(context.Context, *client.Client) error, reached chan struct{}) func(context.Context, *client.Client) error {
	var once sync.Once
	return func(ctx context.Context, c *client.Client) error {
		once.Do(func() { close(reached) })
		return do(ctx, c)
	}
}
