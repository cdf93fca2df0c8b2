package integration

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// dirNames is how many names a directory under test may have: few, so that
// operations meet.
const dirNames = 4

// dirState is a directory: what each name's file holds, 0: there is none.
type dirState [dirNames]value

type dirKind int

const (
	dirWrite dirKind = iota
	dirRead
	dirDelete
	dirRename
	dirList
)

// dirOp is one operation as its client saw it.
type dirOp struct {
	kind     dirKind
	name, to int
	value    value          // written, or read
	names    [dirNames]bool // that a listing has
	missing  bool           // the answer was: no such file
	unknown  bool           // it happened, or will, or never will
}

func (o *dirOp) String() string {
	what := [...]string{"write", "read", "delete", "rename", "list"}[o.kind]
	return fmt.Sprintf("%s %d -> %d value %v names %v missing %v unknown %v", what, o.name, o.to, o.value, o.names, o.missing, o.unknown)
}

// step is what one copy of the directory would do; false: it would have
// answered something else.
func (s dirState) step(o *dirOp) (bool, dirState) {
	there := s[o.name] != 0
	switch o.kind {
	case dirWrite:
		s[o.name] = o.value
		return true, s
	case dirRead:
		return s[o.name] == o.value, s
	case dirList:
		for i, v := range s {
			if o.names[i] != (v != 0) {
				return false, s
			}
		}
		return true, s
	}
	switch {
	case o.missing:
		return !there, s
	case !there:
		return o.unknown, s // it changes nothing then
	case o.kind == dirRename:
		s[o.to] = s[o.name]
	}
	s[o.name] = 0
	return true, s
}

func dirModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return dirState{} },
		Step: func(s, input, _ any) (bool, any) {
			ok, next := s.(dirState).step(input.(*dirOp))
			return ok, next
		},
	}
}

// The model accepts what one copy does, and nothing else.
func TestDirModel(t *testing.T) {
	at := func(ops ...dirOp) []porcupine.Operation { // one after the other
		var h []porcupine.Operation
		for i := range ops {
			h = append(h, porcupine.Operation{Input: &ops[i], Call: int64(2 * i), Return: int64(2*i + 1)})
		}
		return h
	}
	write, rename := dirOp{kind: dirWrite, value: 7}, dirOp{kind: dirRename, to: 1}
	late := at(write, dirOp{kind: dirRename, to: 1, unknown: true}, dirOp{kind: dirRead, value: 7}, dirOp{kind: dirRead, name: 1, value: 7})
	late[1].Return = math.MaxInt64
	for what, tt := range map[string]struct {
		ops  []porcupine.Operation
		want bool
	}{
		"a rename":                       {at(write, rename, dirOp{kind: dirRead, name: 1, value: 7}, dirOp{kind: dirList, names: [dirNames]bool{1: true}}), true},
		"an unknown rename, late":        {late, true},
		"a rename that left both":        {at(write, rename, dirOp{kind: dirRead, name: 1, value: 7}, dirOp{kind: dirRead, value: 7}), false},
		"a listing in between":           {at(write, rename, dirOp{kind: dirList}), false},
		"a listing of both":              {at(write, rename, dirOp{kind: dirList, names: [dirNames]bool{true, true}}), false},
		"a rename that found nothing":    {at(write, dirOp{kind: dirRename, to: 1, missing: true}), false},
		"a rename of what is not there":  {at(rename), false},
		"a delete of what was renamed":   {at(write, rename, dirOp{kind: dirDelete}), false},
		"a rename over, and its old one": {at(write, dirOp{kind: dirWrite, name: 1, value: 8}, rename, dirOp{kind: dirRead, name: 1, value: 8}), false},
	} {
		if got := porcupine.CheckOperations(dirModel(), tt.ops); got != tt.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// dirRound is one directory with those who work in it.
type dirRound struct {
	dir   string
	start time.Time
	next  *atomic.Int64 // the last value written

	mu      sync.Mutex // guards what follows
	history []porcupine.Operation
	unknown int
}

// Bounds of one round: what a checker can judge.
const (
	dirOps     = 8 // each client's
	dirUnknown = 5
	judgeTime  = 20 * time.Second
)

// work does a client's operations.
func (r *dirRound) work(ctx context.Context, n int, c *client.Client, rnd *rand.Rand) {
	for range dirOps {
		r.mu.Lock()
		enough := r.unknown >= dirUnknown
		r.mu.Unlock()
		if enough || ctx.Err() != nil {
			return
		}
		o := &dirOp{kind: []dirKind{dirWrite, dirWrite, dirRead, dirRead, dirRead, dirDelete, dirRename, dirRename, dirList, dirList}[rnd.Intn(10)], name: rnd.Intn(dirNames)}
		o.to = (o.name + 1 + rnd.Intn(dirNames-1)) % dirNames
		call := time.Since(r.start)
		counts := r.do(ctx, c, o)
		end := int64(time.Since(r.start))
		if !counts {
			continue
		}
		r.mu.Lock()
		if o.unknown {
			end = math.MaxInt64
			r.unknown++
		}
		r.history = append(r.history, porcupine.Operation{ClientId: n, Input: o, Call: int64(call), Return: end})
		r.mu.Unlock()
	}
}

// do carries an operation out; false: nothing has come of it, nor will.
func (r *dirRound) do(ctx context.Context, c *client.Client, o *dirOp) bool {
	path := func(n int) string { return fmt.Sprintf("%s/n%d", r.dir, n) }
	var err error
	switch o.kind {
	case dirWrite:
		o.value = value(r.next.Add(1))
		_, err = c.WriteFile(ctx, path(o.name), client.Bytes(o.value.contents()), client.WriteOptions{Mode: 0o644})
	case dirRead:
		var b []byte
		if b, err = c.ReadFile(ctx, path(o.name)); err == nil {
			if o.value, err = valueOf(b); err != nil {
				o.value, err = -1, nil // what no order explains
			}
		}
	case dirDelete:
		err = c.DeleteFile(ctx, path(o.name))
	case dirRename:
		err = c.Rename(ctx, path(o.name), path(o.to))
	case dirList:
		var list []wire.DirEntry
		list, err = c.List(ctx, r.dir)
		for _, e := range list {
			var n int
			if _, err := fmt.Sscanf(e.Name, "n%d", &n); err == nil && n < dirNames {
				o.names[n] = true
			}
		}
	}
	switch code := wire.CodeOf(err); {
	case err == nil:
	case code == wire.CodeNotExist && o.kind != dirWrite && o.kind != dirList:
		o.missing = true
	case o.kind == dirRead || o.kind == dirList:
		return false
	case code == wire.CodeConflict || code == wire.CodeUnavailable || code == wire.CodeTooMany:
		return false // it says that nothing changed (G6)
	default:
		o.unknown = true
	}
	return true
}

// judge asks for one order of a round that one copy could have had.
func (r *dirRound) judge(t *testing.T) porcupine.CheckResult {
	result := porcupine.CheckOperationsTimeout(dirModel(), r.history, judgeTime)
	if result == porcupine.Illegal {
		var b bytes.Buffer
		slices.SortFunc(r.history, func(x, y porcupine.Operation) int { return int(x.Call - y.Call) })
		for _, op := range r.history {
			fmt.Fprintf(&b, "%12d to %20d  client %2d  %v\n", op.Call, op.Return, op.ClientId, op.Input)
		}
		t.Errorf("%s is not linearizable:\n%s", r.dir, &b)
	}
	return result
}

// Sixteen clients write, read, delete, rename and list a few names, round after
// round in a new directory, while the coordinator and the participants are killed
// and stopped: each directory is, to all of them, one copy.
func TestDirectoriesAreLinearizableThroughRandomCrashes(t *testing.T) {
	t.Parallel()
	ctx, c, rnd, limit := crashing(t, nil)
	clients := make([]*client.Client, 16)
	for i := range clients {
		clients[i] = dial(t, ctx, c, 2*time.Second)
	}
	setup := dial(t, ctx, c, patience)
	fault, stopFaults := context.WithCancel(ctx)
	defer stopFaults()
	maker := &troublemaker{c: c, rnd: rand.New(rand.NewSource(rnd.Int63())), counts: map[string]int{}}
	var faults sync.WaitGroup
	faults.Go(func() {
		if err := maker.run(fault); err != nil {
			t.Error(err)
		}
	})
	var next atomic.Int64
	counts := map[porcupine.CheckResult]int{}
	ops := 0
	// On a slow machine a round takes long, and some are of those that cannot be judged.
	for n, began := 0, time.Now(); (time.Since(began) < limit || n < 5) && !t.Failed(); n++ {
		r := &dirRound{dir: fmt.Sprintf("round%d", n), start: time.Now(), next: &next}
		if err := setup.Mkdir(ctx, r.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var workers sync.WaitGroup
		for i, cl := range clients {
			own := rand.New(rand.NewSource(rnd.Int63()))
			workers.Go(func() { r.work(ctx, i, cl, own) })
		}
		workers.Wait()
		counts[r.judge(t)]++
		ops += len(r.history)
	}
	stopFaults()
	faults.Wait()
	if err := c.Kill(c.All()...); err != nil {
		t.Error(err)
	}
	startAll(t, ctx, c)
	maker.report(t, limit)
	t.Logf("%d operations; rounds: %v", ops, counts)
	if all := counts[porcupine.Ok] + counts[porcupine.Unknown]; counts[porcupine.Ok] == 0 || counts[porcupine.Unknown] > max(1, all/10) {
		t.Errorf("of %d rounds %d could not be judged", all, counts[porcupine.Unknown])
	}
	settle(t, ctx, c)
	trees := exports(t, ctx, c)
	for _, name := range c.Names {
		if diff := harness.Diff(trees[name], trees["a"]); diff != "" {
			t.Errorf("participants %s and a differ:\n%s", name, diff)
		}
	}
}
