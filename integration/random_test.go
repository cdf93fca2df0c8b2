package integration

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// crashTime is how long each random test makes trouble: TPCFS_TEST_CRASHTIME.
func crashTime(t *testing.T) time.Duration {
	t.Helper()
	d, err := harness.Duration("TPCFS_TEST_CRASHTIME", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// seed is what the random choices begin with: TPCFS_TEST_SEED, or the time.
func seed(t *testing.T) int64 {
	n := time.Now().UnixNano()
	if s := os.Getenv("TPCFS_TEST_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("TPCFS_TEST_SEED=%d", n)
	return n
}

// value numbers a file's contents; 0 is: no such file.
type value int64

// contents of a value: some inline, some in the store's objects, some staged.
func (v value) contents() []byte {
	size := []int{10, 3000, 20_000, 150_000}[v%4]
	return append([]byte(fmt.Sprintf("value %d\n", v)), noise(int64(v), size)...)
}

func (v value) String() string {
	if v == 0 {
		return "absent"
	}
	return strconv.FormatInt(int64(v), 10)
}

// valueOf is the value that contents are of.
func valueOf(b []byte) (value, error) {
	var v value
	if _, err := fmt.Sscanf(string(b[:min(len(b), 40)]), "value %d\n", &v); err != nil || string(b) != string(v.contents()) {
		return 0, fmt.Errorf("%d bytes that nobody wrote: %.40q", len(b), b)
	}
	return v, nil
}

// worker is a client that writes files of its own, and shared ones.
type worker struct {
	n       int
	c       *client.Client
	patient bool // waits for ever: every answer must be definite
	rnd     *rand.Rand
	start   time.Time
	next    value
	own     map[string][]value // what each of its files may hold
	doubt   map[string]bool    // files with an unknown outcome are not touched again
	names   int
	history []porcupine.Operation
	ops     int
	failed  map[wire.Code]int
}

const sharedFiles = 3

// newValue is a value that nobody else writes.
func (w *worker) newValue() value {
	w.next++
	return w.next*16 + value(w.n)
}

func (w *worker) write(ctx context.Context, name string, v value, mode wire.CreateMode) error {
	_, err := w.c.WriteFile(ctx, name, client.Bytes(v.contents()), client.WriteOptions{Mode: 0o644, Create: mode})
	return err
}

// settle enters what an operation on an own file has done. A definite failure
// that the operation cannot have is an error: it means that it took effect twice,
// or that something else is lost.
func (w *worker) settle(what, name string, err error, v value) error {
	w.ops++
	switch code := wire.CodeOf(err); code {
	case wire.CodeNone:
		w.own[name] = []value{v}
	case wire.CodeUnknownOutcome:
		if w.patient {
			return fmt.Errorf("worker %d: %s %s: unknown, though it waits for ever: %w", w.n, what, name, err)
		}
		w.own[name] = append(w.own[name], v)
		w.doubt[name] = true
		w.failed[code]++
	case wire.CodeUnavailable:
		if w.patient {
			return fmt.Errorf("worker %d: %s %s: given up, though it waits for ever: %w", w.n, what, name, err)
		}
		w.failed[code]++
	case wire.CodeConflict: // a coordinator that crashed in between; nothing changed
		w.failed[code]++
	default:
		return fmt.Errorf("worker %d: %s %s, which holds %v: %w", w.n, what, name, w.own[name], err)
	}
	return nil
}

// pick is one of the worker's certain files; created if there is none.
func (w *worker) pick(present bool) (string, bool) {
	for name, values := range w.own {
		if !w.doubt[name] && (values[0] != 0) == present {
			return name, true
		}
	}
	return "", false
}

func (w *worker) step(ctx context.Context) error {
	if w.rnd.Intn(3) == 0 {
		return w.shared(ctx)
	}
	switch w.rnd.Intn(4) {
	case 0:
		if name, ok := w.pick(true); ok {
			return w.settle("delete", name, w.c.DeleteFile(ctx, name), 0)
		}
	case 1:
		if name, ok := w.pick(true); ok {
			v := w.newValue()
			return w.settle("write", name, w.write(ctx, name, v, wire.MustExist), v)
		}
	case 2:
		if name, ok := w.pick(true); ok {
			return w.check(ctx, name)
		}
	}
	name, ok := w.pick(false)
	if !ok || len(w.own) < 8 {
		name = fmt.Sprintf("w%d-%d", w.n, w.names)
		w.names++
		w.own[name] = []value{0}
	}
	v := w.newValue()
	return w.settle("create", name, w.write(ctx, name, v, wire.MustNotExist), v)
}

// check reads an own file, whose value is certain.
func (w *worker) check(ctx context.Context, name string) error {
	b, err := w.c.ReadFile(ctx, name)
	if code := wire.CodeOf(err); err != nil && !w.patient && code == wire.CodeUnavailable {
		w.failed[code]++
		return nil
	}
	if err != nil {
		return fmt.Errorf("worker %d: read %s, which holds %v: %w", w.n, name, w.own[name], err)
	}
	v, err := valueOf(b)
	if err != nil || v != w.own[name][0] {
		return fmt.Errorf("worker %d: read %s: value %v, want %v: %w", w.n, name, v, w.own[name], err)
	}
	return nil
}

// registerInput is an operation on a shared file.
type registerInput struct {
	file  int
	write bool
	v     value
}

// shared writes, deletes or reads a file that all workers use, and records it.
func (w *worker) shared(ctx context.Context) error {
	in := registerInput{file: w.rnd.Intn(sharedFiles), write: w.rnd.Intn(2) == 0}
	name := fmt.Sprintf("shared%d", in.file)
	call := time.Since(w.start)
	var err error
	var got value
	switch {
	case in.write:
		in.v = w.newValue()
		err = w.write(ctx, name, in.v, wire.MayExist)
	default:
		var b []byte
		if b, err = w.c.ReadFile(ctx, name); err == nil {
			got, err = valueOf(b)
			if err != nil {
				return fmt.Errorf("worker %d: read %s: %w", w.n, name, err)
			}
		}
	}
	end := time.Since(w.start)
	w.ops++
	switch code := wire.CodeOf(err); {
	case err == nil, !in.write && code == wire.CodeNotExist:
	case in.write && code == wire.CodeUnknownOutcome && !w.patient:
		w.failed[code]++
		end = 24 * time.Hour // at any time after, or never
	case code == wire.CodeConflict, code == wire.CodeUnavailable && !w.patient:
		w.failed[code]++
		return nil // it did not happen
	default:
		return fmt.Errorf("worker %d: %s, write %v: %w", w.n, name, in.write, err)
	}
	w.history = append(w.history, porcupine.Operation{
		ClientId: w.n, Input: in, Call: int64(call), Output: got, Return: int64(end),
	})
	return nil
}

// register is a shared file as a sequential object.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, sharedFiles)
		for _, o := range history {
			file := o.Input.(registerInput).file
			parts[file] = append(parts[file], o)
		}
		return parts
	},
	Init: func() any { return value(0) },
	Step: func(state, input, output any) (bool, any) {
		in := input.(registerInput)
		if in.write {
			return true, in.v
		}
		return output.(value) == state.(value), state
	},
}

// troublemaker kills, stops and restarts processes at random moments.
type troublemaker struct {
	c      *harness.Cluster
	rnd    *rand.Rand
	counts map[string]int
}

var randomPoints = []string{
	"coordinator.before-put", "coordinator.send-prepare", "coordinator.votes", "coordinator.replied", "coordinator.send-commit",
	"coordinator.recovery", "coordinator.open", "participant.prepare", "participant.prepare-synced", "participant.voted",
	"participant.commit", "participant.applied", "participant.stage-synced", "participant.fenced", "participant.recovery",
	"store.checkpoint-objects", "store.checkpoint-kv", "store.checkpoint-kv-done", "participant.cut",
}

// revive starts every process that has ended.
func (m *troublemaker) revive(points bool) error {
	for _, name := range m.c.All() {
		select {
		case <-m.c.Proc(name).Done():
		default:
			continue
		}
		var env []string
		if points && m.rnd.Intn(3) == 0 {
			point := randomPoints[m.rnd.Intn(len(randomPoints))]
			env = []string{fmt.Sprintf("TPCFS_FAILPOINT=%s:%d", point, 1+m.rnd.Intn(20))}
			m.counts["failpoint"]++
		}
		if err := m.c.Launch(name, env...); err != nil {
			return err
		}
	}
	return nil
}

func (m *troublemaker) trouble(ctx context.Context) error {
	all := m.c.All()
	one := all[m.rnd.Intn(len(all))]
	switch m.rnd.Intn(8) {
	case 0:
		m.counts["all killed"]++
		return m.c.Kill(all...)
	case 1:
		m.counts["two killed"]++
		return m.c.Kill(one, all[m.rnd.Intn(len(all))])
	case 2, 3:
		m.counts["stopped"]++
		if err := m.c.Proc(one).Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		pause(ctx, time.Duration(m.rnd.Intn(2000))*time.Millisecond)
		return m.c.Proc(one).Signal(syscall.SIGCONT)
	default:
		m.counts["killed"]++
		return m.c.Kill(one)
	}
}

// run makes trouble until ctx ends, with time to work in between.
func (m *troublemaker) run(ctx context.Context) error {
	for ctx.Err() == nil {
		pause(ctx, time.Duration(200+m.rnd.Intn(1800))*time.Millisecond)
		if err := m.trouble(ctx); err != nil {
			return err
		}
		pause(ctx, time.Duration(m.rnd.Intn(500))*time.Millisecond)
		if err := m.revive(true); err != nil {
			return err
		}
	}
	return nil
}

// report tells what trouble was made in that time, and wants a fault in each 5 s:
// else the clients were hardly disturbed. A schedule has three on the average.
func (m *troublemaker) report(t *testing.T, limit time.Duration) {
	t.Helper()
	faults := -m.counts["failpoint"] // one may not be reached
	for _, n := range m.counts {
		faults += n
	}
	t.Logf("%d faults: %v", faults, m.counts)
	if want := int(limit / (5 * time.Second)); faults < want {
		t.Errorf("%d faults in %v, want %d or more", faults, limit, want)
	}
}

// pause is a part of the schedule of faults, not a wait for anything.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// crashing starts a cluster whose processes are about to be killed at random for
// a limited time. evicts are its flags of evictions; nil: all are needed.
func crashing(t *testing.T, evicts []string) (ctx context.Context, c *harness.Cluster, rnd *rand.Rand, limit time.Duration) {
	t.Helper()
	rnd = rand.New(rand.NewSource(seed(t)))
	limit = crashTime(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit+3*patience)
	t.Cleanup(cancel)
	c = newCluster(t, smallJournal...)
	c.Evicts = evicts
	startAll(t, ctx, c)
	return ctx, c, rnd, limit
}

// TestClientsThroughRandomCrashes has clients write, read and delete while
// every process is killed or stopped at random moments, and then wants every
// answer to have been true, on every participant.
func TestClientsThroughRandomCrashes(t *testing.T) {
	t.Parallel()
	ctx, c, rnd, limit := crashing(t, nil)

	const workers = 4
	all := make([]*worker, workers)
	start := time.Now()
	for i := range all {
		w := &worker{n: i, patient: i%2 == 0, rnd: rand.New(rand.NewSource(rnd.Int63())), start: start,
			own: map[string][]value{}, doubt: map[string]bool{}, failed: map[wire.Code]int{}}
		wait := 2 * time.Second
		if w.patient {
			wait = 0
		}
		w.c = dial(t, ctx, c, wait)
		all[i] = w
	}
	fault, stopFaults := context.WithTimeout(ctx, limit)
	defer stopFaults()
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i, w := range all {
		wg.Go(func() {
			for fault.Err() == nil && errs[i] == nil {
				errs[i] = w.step(ctx)
			}
			if errs[i] != nil {
				stopFaults()
			}
		})
	}
	maker := &troublemaker{c: c, rnd: rnd, counts: map[string]int{}}
	if err := maker.run(fault); err != nil {
		t.Error(err)
	}
	// Everything comes back; what still waits goes on by itself. A process
	// that was started with a failpoint may end once more.
	if err := c.Kill(c.All()...); err != nil {
		t.Error(err)
	}
	startAll(t, ctx, c)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	for _, w := range all {
		t.Logf("worker %d: %d operations, not done: %v", w.n, w.ops, w.failed)
		if w.ops == 0 {
			t.Errorf("worker %d did nothing", w.n)
		}
	}
	maker.report(t, limit)
	judge(t, ctx, c, all)
}

// judge compares what every participant holds with what the workers were told.
func judge(t *testing.T, ctx context.Context, c *harness.Cluster, all []*worker) {
	t.Helper()
	settle(t, ctx, c)
	cl := dial(t, ctx, c, 0)
	end := int64(time.Since(all[0].start))
	var history []porcupine.Operation
	for i := range sharedFiles { // the last state is a read too
		name := fmt.Sprintf("shared%d", i)
		b, err := cl.ReadFile(ctx, name)
		v := value(0)
		if err == nil {
			v, err = valueOf(b)
		}
		if err != nil && wire.CodeOf(err) != wire.CodeNotExist {
			t.Errorf("%s at the end: %v", name, err)
		}
		history = append(history, porcupine.Operation{ClientId: len(all), Input: registerInput{file: i}, Call: end, Output: v, Return: end + 1})
	}
	trees := exports(t, ctx, c)
	for name, tree := range trees {
		if diff := harness.Diff(tree, trees["a"]); diff != "" {
			t.Errorf("participants %s and a differ:\n%s", name, diff)
		}
	}
	for _, w := range all {
		history = append(history, w.history...)
		for name, may := range w.own {
			got := value(0)
			if s, ok := trees["a"][name]; ok {
				var err error
				if got, err = valueOf([]byte(s[len("file "):])); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			found := false
			for _, v := range may {
				found = found || v == got
			}
			if !found {
				t.Errorf("%s is %v at the end, worker %d was told %v", name, got, w.n, may)
			}
		}
	}
	if got := porcupine.CheckOperationsTimeout(register, history, time.Minute); got == porcupine.Illegal {
		t.Error("the history of the shared files is not linearizable")
	} else {
		t.Logf("history of %d operations on shared files: %s", len(history), got)
	}
}
