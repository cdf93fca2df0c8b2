package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

var (
	sequenceLength = flag.Int("length", 0, "of TestCrashInSequences: all sequences of up to so many operations, every crash, under several schedules; 0: of one, and a part of the crashes of those of two")
	oneSequence    = flag.String("sequence", "", "of TestCrashInSequences: this sequence alone (names of operations, with commas)")
)

// motion is an operation of a sequence. Before the first one there are: a (an
// object), b (a row of its own), d (an empty directory), e with e/a.
type motion struct {
	name string
	make func(o *op)
}

func rooted(path string) wire.At { return wire.At{Dir: wire.RootIno, Path: path} }

// inline gives a mutation contents inside the prepare; staged, outside.
func (o *op) inline(m wire.Mutation, size int) {
	data := o.bytesOf(size)
	m.Kind, m.Content = wire.MutWriteFile, wire.Content{Size: int64(size), Sum: wire.Sum(data)}
	o.payload = append(o.payload, data...)
	o.add(m, nil)
}

func (o *op) bytesOf(size int) []byte {
	data := make([]byte, size)
	for k := range data {
		data[k] = byte(o.num*31 + len(o.muts)*7 + k*(o.num+3))
	}
	return data
}

func (o *op) add(m wire.Mutation, staged []byte) {
	o.muts, o.staged = append(o.muts, m), append(o.staged, staged)
}

// part makes an extent or an append, the last extent staged.
func (o *op) part(m wire.Mutation, sizes ...int) {
	m.Kind = wire.MutWriteFile
	at := int64(30)
	if m.Write == wire.WriteAppend {
		at = 0
	}
	var staged []byte
	for i, size := range sizes {
		data := o.bytesOf(size)
		if m.Extents = append(m.Extents, wire.Extent{Offset: at, Size: int64(size), Sum: wire.Sum(data)}); i == len(sizes)-1 {
			staged = data
		} else {
			o.payload = append(o.payload, data...)
		}
		at += int64(size)
	}
	o.add(m, staged)
}

var motions = []motion{
	{"new", func(o *op) {
		o.add(wire.Mutation{Kind: wire.MutWriteFile, At: rooted("n"), Mode: 0o644, Create: wire.MustNotExist}, o.bytesOf(300))
	}},
	{"overwrite", func(o *op) { o.inline(wire.Mutation{At: rooted("a"), Create: wire.MustExist}, 150) }},
	{"extent", func(o *op) { o.part(wire.Mutation{At: rooted("a"), Write: wire.WriteExtents}, 50, 90) }},
	{"append", func(o *op) { o.part(wire.Mutation{At: rooted("a"), Write: wire.WriteAppend}, 40) }},
	{"delete", func(o *op) { o.add(remove("a"), nil) }},
	{"rename", func(o *op) { o.add(wire.Mutation{Kind: wire.MutRename, At: rooted("b"), To: rooted("a")}, nil) }},
	{"mkdir", func(o *op) { o.add(wire.Mutation{Kind: wire.MutMkdir, At: rooted("m"), Mode: 0o755}, nil) }},
	{"rmdir", func(o *op) { o.add(wire.Mutation{Kind: wire.MutRmdir, At: rooted("d")}, nil) }},
	{"link", func(o *op) { o.add(wire.Mutation{Kind: wire.MutLink, At: rooted("a"), To: rooted("d/l")}, nil) }},
	{"setattr", func(o *op) {
		o.add(wire.Mutation{Kind: wire.MutSetattr, At: rooted("a"), Set: wire.SetSize | wire.SetMode, Size: 70, Mode: 0o600}, nil)
	}},
	{"tree", func(o *op) { // as put -r
		o.add(wire.Mutation{Kind: wire.MutMkdir, At: rooted("t"), Mode: 0o755}, nil)
		o.inline(wire.Mutation{At: rooted("t/a"), Mode: 0o644}, 20)
		o.add(wire.Mutation{Kind: wire.MutWriteFile, At: rooted("t/b"), Mode: 0o644}, o.bytesOf(260))
		o.inline(wire.Mutation{At: rooted("t/c"), Mode: 0o644}, 140)
	}},
}

// sequence is a run of motions, one after the other is answered; behind each,
// a participant begins a checkpoint.
type sequence struct {
	*play
	rng *rand.Rand
}

// asks lets the first client begin an operation, which it sends in its own time.
func (s *sequence) asks(fill func(o *op)) *op {
	s.step()
	cl := s.clients[0]
	o := &op{cl: cl, num: len(s.ops), begun: s.clock()}
	if fill != nil {
		cl.seq++
		o.id = wire.OpID{Session: cl.session, Seq: cl.seq}
		s.byID[o.id] = o
		fill(o)
		o.bulk = slices.Clone(o.staged)
	}
	s.ops, cl.ops = append(s.ops, o), append(cl.ops, o)
	return o
}

// until takes steps until something is so.
func (s *sequence) until(what string, ok func() bool) {
	for range quietSteps {
		if s.violation != nil || ok() {
			return
		}
		if c, possible := pick(s.rng, s.choices()); possible {
			s.take(Step{c.what, c.a, c.b, s.rng.Uint64()})
		}
	}
	s.violate("settles", "%s not after %d steps: %s", what, quietSteps, s.unrest())
}

func (s *sequence) answered() {
	s.until("an answer", func() bool { return len(s.clients[0].ops) == 0 })
}

// crashPoint is a disk operation of a computer, counted from the first motion's beginning.
type crashPoint struct{ host, n int }

// run plays a sequence; with n 0 nothing crashes. It returns how many operations
// each of the computers made on its disk.
func (s *sequence) run(at crashPoint, list []motion) (ops [2]int) {
	s.settling = true
	s.asks(func(o *op) {
		o.add(wire.Mutation{Kind: wire.MutWriteFile, At: rooted("a"), Mode: 0o644}, o.bytesOf(200))
		o.inline(wire.Mutation{At: rooted("b"), Mode: 0o644}, 20)
		o.add(wire.Mutation{Kind: wire.MutMkdir, At: rooted("d"), Mode: 0o755}, nil)
		o.add(wire.Mutation{Kind: wire.MutMkdir, At: rooted("e"), Mode: 0o755}, nil)
		o.inline(wire.Mutation{At: rooted("e/a"), Mode: 0o644}, 100)
	})
	s.answered()
	s.members[0].maybeFreeze()
	s.until("rest", s.quiet)
	hosts := [2]*host{s.members[0].host, s.coordinator}
	var before [2]int
	for i, h := range hosts {
		before[i] = h.fs.Ops()
	}
	if at.n > 0 {
		hosts[at.host].fs.CrashAt(before[at.host] + at.n)
	}
	for _, m := range list {
		s.asks(m.make)
		s.answered()
		s.members[0].maybeFreeze()
		s.afterStep()
	}
	s.until("rest", s.quiet)
	for i, h := range hosts {
		ops[i] = h.fs.Ops() - before[i]
	}
	// The work goes on, and all that is there is read and judged.
	hosts[at.host].fs.CrashAt(0)
	s.asks(func(o *op) { o.inline(wire.Mutation{At: rooted("e/b"), Mode: 0o644}, 120) })
	s.answered()
	for _, path := range []string{"a", "b", "n", "d/l", "e/a", "e/b", "t/a", "t/b", "t/c"} {
		s.asks(nil).read = read{kind: wire.ReadFile, at: rooted(path)}
		s.answered()
	}
	for _, path := range []string{"", "d", "e", "t", "m"} {
		s.asks(nil).read = read{kind: wire.ReadList, at: rooted(path)}
		s.answered()
	}
	if s.violation == nil {
		s.settle()
	}
	return ops
}

// playSequence plays a sequence in a world of its own; trace nil: none.
func playSequence(schedule uint64, at crashPoint, list []motion, trace func(line string)) (ops [2]int, why *Violation) {
	s := &sequence{play: &play{}, rng: rand.New(rand.NewPCG(schedule, 8))}
	s.play.begin(trace)
	s.maxOps = 100
	s.guard(func() { ops = s.run(at, list) })
	s.endAll()
	return ops, s.violation
}

// allSequences are those of 1 to n motions.
func allSequences(n int) [][]motion {
	last := [][]motion{nil}
	var all [][]motion
	for range n {
		var next [][]motion
		for _, head := range last {
			for _, m := range motions {
				next = append(next, append(slices.Clone(head), m))
			}
		}
		all, last = append(all, next...), next
	}
	return all
}

func names(list []motion) string {
	var names []string
	for _, m := range list {
		names = append(names, m.name)
	}
	return strings.Join(names, ",")
}

// TestCrashInSequences plays all short sequences of operations, and lets a
// participant's, and the coordinator's, computer lose its power before each
// operation that changes its disk. What was acknowledged is there and what was
// refused is not, the replicas are the same, and the work goes on. (After ACE and
// CrashMonkey: Mohan et al., Finding Crash-Consistency Bugs with Bounded Black-Box
// Crash Testing, OSDI 2018.)
func TestCrashInSequences(t *testing.T) {
	length, schedules, every := *sequenceLength, 3, 1
	if length == 0 {
		length, schedules, every = 2, 1, 8
	}
	list := allSequences(length)
	if *oneSequence != "" {
		list, schedules = slices.DeleteFunc(allSequences(1+strings.Count(*oneSequence, ",")), func(s []motion) bool { return names(s) != *oneSequence }), 3
		every = 1
		if len(list) != 1 {
			t.Fatalf("no sequence %s", *oneSequence)
		}
	}
	if testing.Short() || forget.OneIn > 1 {
		list = list[:len(motions)]
	}
	var next, crashes [3]atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !failed.Load() {
				k := next[0].Add(1) - 1
				if k >= int64(len(list)*schedules) {
					return
				}
				what, schedule := list[k/int64(schedules)], uint64(k)
				check := func(at crashPoint) [2]int {
					ops, why := playSequence(schedule, at, what, nil)
					if why != nil && failed.CompareAndSwap(false, true) {
						var trace []string
						_, _ = playSequence(schedule, at, what, func(line string) { trace = append(trace, line) })
						t.Errorf("%s, schedule %d, a crash of %s before operation %d of its disk: %v\n%s", names(what), schedule,
							[]string{"P0", "the coordinator"}[at.host], at.n, why, strings.Join(trace[max(0, len(trace)-200):], "\n"))
					}
					return ops
				}
				ops := check(crashPoint{})
				for host := range ops {
					first, step := 1, 1
					if every > 1 && (len(what) > 1 || forget.OneIn > 1) {
						first, step = 1+int(k+int64(host))%every, every
					}
					for n := first; n <= ops[host] && !failed.Load(); n += step {
						check(crashPoint{host, n})
						crashes[host].Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	words := fmt.Sprintf("%d sequences, %d crashes of a participant, %d of the coordinator", len(list)*schedules, crashes[0].Load(), crashes[1].Load())
	t.Log(words)
	if !failed.Load() && (*oneSequence == "" && (crashes[0].Load() < int64(2*len(list)/forget.OneIn) || crashes[1].Load() < int64(len(list)/2/forget.OneIn))) {
		t.Error("too few crashes:", words)
	}
}
