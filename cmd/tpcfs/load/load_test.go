package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"tpcfs/wire"
	"tpcfs/wire/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func v(client int, op uint64) Value { return Value{client, op} }

func write(call, ret time.Duration, c int, n uint64) Op {
	return Op{Client: c, Kind: Write, Value: v(c, n), Call: call, Return: ret}
}

func read(call, ret time.Duration, c int, of Value) Op {
	o := Op{Client: c, Kind: Read, Value: of, Call: call, Return: ret}
	if of == Absent {
		o.Outcome = Missing
	}
	return o
}

func del(call, ret time.Duration, c int, outcome Outcome) Op {
	return Op{Client: c, Kind: Delete, Outcome: outcome, Call: call, Return: ret}
}

func unknown(o Op) Op { o.Outcome, o.Text = Unknown, "outcome unknown"; return o }

// What a service that is not linearizable may do has to be found, and told in
// the few operations that show it.
func TestJudge(t *testing.T) {
	long := func(ops ...Op) []Op { // among many others that are right
		var all []Op
		for i := range 60 {
			at := time.Duration(i * 10)
			all = append(all, write(at, at+5, 9, uint64(i+1)), read(at+6, at+8, 8, v(9, uint64(i+1))))
		}
		for _, o := range ops {
			o.Call, o.Return = o.Call+1000, o.Return+1000
			all = append(all, o)
		}
		return all
	}
	tests := []struct {
		what  string
		start []Value
		ops   []Op
		wrong int      // operations of the shortest wrong piece; 0: it is right
		words []string // of the explanation
	}{
		{what: "nothing"},
		{what: "in turn", ops: []Op{read(0, 1, 1, Absent), write(2, 3, 1, 1), read(4, 5, 2, v(1, 1)), del(6, 7, 2, Done), del(8, 9, 1, Missing)}},
		{what: "two writes at once", ops: []Op{write(0, 9, 1, 1), write(1, 8, 2, 1), read(10, 11, 3, v(1, 1))}},
		{what: "two writes at once, the other order", ops: []Op{write(0, 9, 1, 1), write(1, 8, 2, 1), read(10, 11, 3, v(2, 1))}},
		{what: "unknown, and happened late", ops: []Op{unknown(write(0, 1, 1, 1)), read(2, 3, 2, Absent), read(4, 5, 2, v(1, 1))}},
		{what: "unknown, and never happened", ops: []Op{unknown(write(0, 1, 1, 1)), read(2, 3, 2, Absent)}},
		{what: "unknown, and deleted before anybody saw it", ops: []Op{unknown(write(0, 1, 1, 1)), del(2, 3, 2, Done), read(4, 5, 2, Absent)}},
		{what: "an unknown delete happened late", ops: []Op{write(0, 1, 1, 1), unknown(del(2, 3, 1, Done)), read(4, 5, 2, v(1, 1)), read(6, 7, 2, Absent)}},
		{what: "any start", start: []Value{v(1, 1), v(2, 1)}, ops: []Op{read(0, 1, 1, v(2, 1))}},
		{what: "failed writes", ops: []Op{{Client: 1, Kind: Write, Outcome: Failed, Value: v(1, 1), Return: 1}, read(2, 3, 1, Absent)}},

		{what: "a stale read", ops: long(write(0, 1, 1, 1), write(2, 3, 2, 1), read(4, 5, 3, v(1, 1))), wrong: 3,
			words: []string{"client 3's read was answered what client 1's operation 1 wrote", "it could only have been: what client 2's operation 1 wrote"}},
		{what: "a read that goes back", ops: []Op{write(0, 1, 1, 1), write(2, 30, 2, 1), read(4, 5, 3, v(2, 1)), read(6, 7, 4, v(1, 1))}, wrong: 3},
		{what: "a lost write", ops: long(del(0, 1, 1, Done), write(2, 3, 1, 1), read(4, 5, 3, Absent)), wrong: 2,
			words: []string{"no such file; it could only have been: what client 1's operation 1 wrote"}},
		{what: "a resurrected file", ops: long(write(0, 1, 1, 1), del(2, 3, 2, Done), read(4, 5, 3, v(1, 1))), wrong: 3,
			words: []string{"it could only have been: no such file", "delete: done"}},
		{what: "a delete of what is not there", ops: []Op{write(0, 1, 1, 1), del(2, 3, 2, Done), del(4, 5, 3, Done)}, wrong: 2,
			words: []string{"client 3's delete was answered done; it could only have been: no such file"}},
		{what: "a double effect", ops: long(write(0, 1, 1, 1), write(2, 3, 2, 1), read(4, 5, 3, v(2, 1)), read(6, 7, 3, v(1, 1))), wrong: 3},
		{what: "an unknown write that happens twice", ops: []Op{unknown(write(0, 1, 1, 1)), read(2, 3, 2, v(1, 1)), write(4, 5, 2, 1), read(6, 7, 2, v(1, 1))}, wrong: 4},
		{what: "an unknown delete that happens twice", ops: []Op{write(0, 1, 1, 1), unknown(del(2, 3, 1, Done)), read(4, 5, 2, Absent), write(6, 7, 2, 1), read(8, 9, 2, Absent)}, wrong: 5, words: []string{"delete: unknown"}},
		{what: "a read of what is written later", ops: []Op{read(0, 1, 1, v(2, 1)), write(2, 3, 2, 1)}, wrong: 2, words: []string{"before: no file"}},
		{what: "what had failed", ops: []Op{{Client: 1, Kind: Write, Outcome: Failed, Text: "conflict", Value: v(1, 1), Return: 1}, read(2, 3, 2, v(1, 1))},
			wrong: 2, words: []string{"write as its operation 1: nothing changed (conflict)"}},
		{what: "what another file holds", ops: []Op{write(0, 1, 1, 1), read(2, 3, 2, v(3, 7))}, wrong: 2, words: []string{"what client 3's operation 7 wrote"}},
		{what: "garbage", ops: []Op{write(0, 1, 1, 1), {Client: 2, Kind: Read, Outcome: Garbled, Text: "12 bytes that no client wrote", Call: 2, Return: 3}},
			wrong: 1, words: []string{"12 bytes that no client wrote"}},
		{what: "one write lost, another deleted by who has no answer yet",
			ops:   []Op{del(0, 99, 4, Done), write(1, 2, 1, 1), read(3, 4, 2, Absent), write(5, 6, 1, 2), read(7, 8, 3, Absent)},
			wrong: 5, words: []string{"client 4  delete: still under way"}},
		{what: "none of the starts", start: []Value{v(1, 1), v(2, 1)}, ops: []Op{read(0, 1, 1, Absent)}, wrong: 1,
			words: []string{"before: what client 1's operation 1 wrote, or what client 2's operation 1 wrote"}},
	}
	for _, tt := range tests {
		p := Piece{Name: "f", Start: tt.start, Ops: slices.Clone(tt.ops)}
		if p.Start == nil {
			p.Start = []Value{Absent}
		}
		rand.Shuffle(len(p.Ops), func(i, j int) { p.Ops[i], p.Ops[j] = p.Ops[j], p.Ops[i] })
		verdict, _ := Judge(p)
		if (verdict == Wrong) != (tt.wrong > 0) || verdict == Undecided {
			t.Errorf("%s: verdict %d", tt.what, verdict)
			continue
		}
		if verdict == Right {
			continue
		}
		fault := Explain(p)
		if len(fault.Ops) != tt.wrong {
			t.Errorf("%s: %d operations, want %d:\n%v", tt.what, len(fault.Ops), tt.wrong, fault)
		}
		for _, words := range tt.words {
			if !strings.Contains(fault.Error(), words) {
				t.Errorf("%s: does not say %q:\n%v", tt.what, words, fault)
			}
		}
	}
}

// What a piece may end with is what the next one begins with.
func TestEnds(t *testing.T) {
	tests := []struct {
		start []Value
		ops   []Op
		want  []Value
	}{
		{[]Value{v(1, 1)}, []Op{read(0, 1, 1, v(1, 1))}, []Value{v(1, 1)}},
		{[]Value{v(1, 1), v(2, 1)}, []Op{read(0, 1, 1, v(2, 1))}, []Value{v(2, 1)}},
		{[]Value{v(1, 1), v(2, 1)}, nil, []Value{v(1, 1), v(2, 1)}},
		{[]Value{v(1, 1), Absent}, []Op{del(0, 1, 1, Done)}, []Value{Absent}},
		{[]Value{Absent}, []Op{write(0, 9, 1, 1), write(1, 8, 2, 1)}, []Value{v(1, 1), v(2, 1)}},
		{[]Value{Absent}, []Op{write(0, 9, 1, 1), write(1, 8, 2, 1), read(20, 21, 3, v(2, 1))}, []Value{v(2, 1)}},
		{[]Value{Absent}, []Op{write(0, 9, 1, 1), del(1, 8, 2, Done)}, []Value{Absent}},
		{[]Value{Absent}, []Op{write(0, 9, 1, 1), del(1, 8, 2, Missing)}, []Value{v(1, 1)}},
		{[]Value{v(3, 1)}, []Op{del(0, 1, 3, Done), write(2, 5, 1, 1), del(4, 8, 2, Done), read(6, 7, 1, v(1, 1))}, []Value{Absent}},
	}
	for i, tt := range tests {
		verdict, ends := Judge(Piece{Start: tt.start, Ops: tt.ops})
		slices.SortFunc(ends, func(a, b Value) int { return a.Client - b.Client })
		if verdict != Right || !slices.Equal(ends, tt.want) {
			t.Errorf("%d: verdict %d, ends %v, want %v", i, verdict, ends, tt.want)
		}
	}
}

// Histories of a single copy, cut anywhere, are right; with one answer made
// false they are found out, unless that answer would have been right too.
func TestJudgeKnowsASingleCopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ops := singleCopy(t)
		whole := Piece{Start: []Value{Absent}, Ops: ops}
		if verdict, _ := Judge(whole); verdict != Right {
			t.Fatalf("a single copy's history is called %d", verdict)
		}
		i := rapid.IntRange(0, len(ops)-1).Draw(t, "changed")
		if o := &ops[i]; o.Kind == Read && o.Outcome != Failed {
			o.Outcome, o.Value = Done, v(7, 7) // nobody writes that
			if verdict, _ := Judge(whole); verdict != Wrong {
				t.Fatalf("a false answer is called %d", verdict)
			}
			fault := Explain(whole)
			if len(fault.Ops) == 0 || fault.Ops[fault.Last].Value != v(7, 7) {
				t.Fatalf("explained as %v", fault)
			}
		}
	})
}

// What is left out because other answers imply it changes no verdict, right or wrong.
func TestJudgeLeavesOutOnlyWhatIsImplied(t *testing.T) {
	verdicts := map[Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		p := Piece{Start: []Value{Absent}, Ops: singleCopy(t)}
		values := []Value{Absent}
		for _, o := range p.Ops {
			if o.Kind == Write {
				values = append(values, o.Value)
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "false answers") {
			switch o := &p.Ops[rapid.IntRange(0, len(p.Ops)-1).Draw(t, "of")]; {
			case o.Kind == Read:
				o.Value = rapid.SampledFrom(values).Draw(t, "read")
				o.Outcome = Done
				if o.Value == Absent {
					o.Outcome = Missing
				}
			case o.Kind == Delete && o.Outcome != Unknown:
				o.Outcome = rapid.SampledFrom([]Outcome{Done, Missing}).Draw(t, "deleted")
			}
		}
		var all []porcupine.Operation
		for i := range p.Ops {
			op := porcupine.Operation{Input: &p.Ops[i], Call: int64(p.Ops[i].Call), Return: int64(p.Ops[i].Return)}
			if p.Ops[i].Outcome == Unknown {
				op.Return = 1 << 62
			}
			all = append(all, op)
		}
		want := map[bool]Verdict{true: Right, false: Wrong}[porcupine.CheckOperations(model(p.Start), all)]
		if got := p.check(time.Minute); got != want {
			t.Fatalf("verdict %d, want %d: %v", got, want, p.Ops)
		}
		verdicts[want]++
	})
	if verdicts[Right] == 0 || verdicts[Wrong] == 0 {
		t.Errorf("one verdict only: %v", verdicts)
	}
}

// singleCopy draws what three clients see of a file that is one.
func singleCopy(t *rapid.T) []Op {
	var ops []Op
	busy := map[int]time.Duration{}
	held := Absent
	var at time.Duration
	for n := range rapid.IntRange(1, 20).Draw(t, "operations") {
		c := rapid.IntRange(1, 3).Draw(t, "client")
		at += time.Duration(rapid.IntRange(1, 10).Draw(t, "pause"))
		at = max(at, busy[c])
		o := Op{Client: c, Kind: Kind(rapid.IntRange(0, 2).Draw(t, "kind")), Value: Absent,
			Call: max(busy[c], at-time.Duration(rapid.IntRange(0, 15).Draw(t, "before"))), Return: at + time.Duration(rapid.IntRange(0, 15).Draw(t, "after"))}
		o.Call, o.Return = 100*o.Call, 100*o.Return+time.Duration(n) // no two at once
		busy[c] = o.Return/100 + 1
		lost := o.Kind != Read && rapid.IntRange(0, 7).Draw(t, "unknown") == 0
		never := lost && rapid.Bool().Draw(t, "never")
		switch {
		case o.Kind == Write:
			o.Value = v(c, uint64(n+1))
			if !never {
				held = o.Value
			}
		case held == Absent:
			o.Outcome = Missing
		case o.Kind == Read:
			o.Value = held
		case !never:
			held = Absent
		}
		if lost {
			o.Outcome = Unknown
		}
		ops = append(ops, o)
	}
	return ops
}

func TestContentsTellTheirWriteAndEveryFlippedBit(t *testing.T) {
	for _, size := range []int64{MinChecked, MinChecked + 1, 100, 4096} {
		b := contents(5, v(3, 17), size)
		got, err := valueOf(5, b)
		if err != nil || got != v(3, 17) || int64(len(b)) != size {
			t.Fatal(size, got, err)
		}
		for i := range b {
			b[i] ^= 1
			if got, err := valueOf(5, b); err == nil && got == v(3, 17) {
				t.Fatalf("%d bytes: byte %d is not checked", size, i)
			}
			b[i] ^= 1
		}
		if _, err := valueOf(5, b[:size-1]); err == nil {
			t.Error("a cut is not noticed")
		}
		if _, err := valueOf(6, b); err == nil {
			t.Error("another run is not noticed")
		}
	}
	if b := contents(1, v(1, 1), 3); len(b) != 3 {
		t.Error(len(b))
	}
}

// fake is a service in memory, with faults.
type fake struct {
	mu    sync.Mutex
	files map[string][]byte
	asked []string // of one client, for the test of determinism
	fault func(what, name string, held []byte) (reply []byte, err error, handled bool)
	rnd   *rand.Rand
}

func newFake() *fake { return &fake{files: map[string][]byte{}, rnd: rand.New(rand.NewPCG(1, 1))} }

func (f *fake) ask(what, name string, b []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprint(what, " ", name, " ", len(b)))
	held, ok := f.files[name]
	if f.fault != nil {
		if reply, err, handled := f.fault(what, name, held); handled {
			return reply, err
		}
	}
	switch {
	case what == "write":
		f.files[name] = b
	case !ok:
		return nil, wire.NewError(wire.CodeNotExist, "")
	case what == "delete":
		delete(f.files, name)
	}
	return held, nil
}

func (f *fake) WriteFile(_ context.Context, name string, c client.Content, _ client.WriteOptions) (wire.Result, error) {
	var b bytes.Buffer
	r, err := c.Open()
	if err == nil {
		_, err = b.ReadFrom(r)
	}
	if err == nil {
		_, err = f.ask("write", name, b.Bytes())
	}
	return wire.Result{}, err
}

func (f *fake) ReadFile(_ context.Context, name string) ([]byte, error) {
	return f.ask("read", name, nil)
}

func (f *fake) DeleteFile(_ context.Context, name string) error {
	_, err := f.ask("delete", name, nil)
	return err
}

func options(f *fake, clients int) Options {
	o := Options{Ops: 4000, Mix: [3]int{4, 4, 2}, Names: 3, MinSize: 64, MaxSize: 256, Seed: 7, Check: true, Dir: "d"}
	for range clients {
		o.Clients = append(o.Clients, f)
	}
	return o
}

func TestRunOfARightService(t *testing.T) {
	f := newFake()
	f.fault = func(what, name string, held []byte) ([]byte, error, bool) {
		switch f.rnd.IntN(60) {
		case 0:
			return nil, wire.NewError(wire.CodeUnknownOutcome, ""), what != "read"
		case 1:
			return nil, wire.NewError(wire.CodeUnavailable, ""), true
		case 2:
			return nil, wire.NewError(wire.CodeConflict, ""), true
		}
		return nil, nil, false
	}
	r, err := Run(t.Context(), options(f, 8))
	if err != nil {
		t.Fatal(err)
	}
	var failed int64
	for _, n := range r.Errors {
		failed += n
	}
	c := r.Check
	if r.Answered()+failed != 4000 || len(c.Faults) > 0 || c.Undecided > 0 || c.Ops < 4000 || c.Files < 4 || c.Unknown == 0 || r.Unexpected != nil {
		t.Errorf("%s\n%+v", r.String(), r.Check)
	}
	for _, words := range []string{"8 clients", "linearizable", "unavailable", "conflict"} {
		if !strings.Contains(r.String(), words) {
			t.Errorf("the report does not say %q:\n%s", words, r.String())
		}
	}
}

// Each way to be wrong ends the load, with the fault in the report.
func TestRunFindsAWrongService(t *testing.T) {
	stale := map[string][]byte{}
	faults := map[string]func(f *fake, what, name string, held []byte) ([]byte, error, bool){
		"stale read": func(f *fake, what, name string, held []byte) ([]byte, error, bool) {
			old := stale[name]
			if what == "write" && held != nil {
				stale[name] = held
			}
			return old, nil, what == "read" && old != nil && f.rnd.IntN(200) == 0
		},
		"lost write": func(f *fake, what, name string, held []byte) ([]byte, error, bool) {
			return nil, nil, what == "write" && f.rnd.IntN(200) == 0
		},
		"lost delete": func(f *fake, what, name string, held []byte) ([]byte, error, bool) {
			return nil, nil, what == "delete" && held != nil && f.rnd.IntN(100) == 0
		},
		"failed, but done": func(f *fake, what, name string, held []byte) ([]byte, error, bool) {
			if what == "delete" && held != nil && f.rnd.IntN(50) == 0 {
				delete(f.files, name)
				return nil, wire.NewError(wire.CodeUnavailable, ""), true
			}
			return nil, nil, false
		},
		"flipped bit": func(f *fake, what, name string, held []byte) ([]byte, error, bool) {
			if what == "read" && held != nil && f.rnd.IntN(200) == 0 {
				b := bytes.Clone(held)
				b[len(b)-1] ^= 4
				return b, nil, true
			}
			return nil, nil, false
		},
	}
	for what, fault := range faults {
		f := newFake()
		f.fault = func(what, name string, held []byte) ([]byte, error, bool) { return fault(f, what, name, held) }
		o := options(f, 4)
		o.Ops, o.Duration = 0, time.Minute
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Check.Faults) != 1 || r.Seconds > 30 || len(r.Check.Faults[0].Ops) > most(r.Check.Faults[0].Ops) {
			t.Errorf("%s: %s\n%v", what, r.String(), r.Check.Faults)
		}
	}
}

// most is how many operations may be needed to show a fault: of operations one
// after the other 4 (the two that contradict each other, who wrote what was read,
// the last change). One during which others began could have happened at any
// moment of its time, so that it accounts for one false answer, and takes one
// more: itself, a change, and who did not see that.
func most(ops []Op) int {
	n := 4
	for i := range ops {
		if slices.ContainsFunc(ops, func(o Op) bool { return o.Call > ops[i].Call && o.Call < ops[i].Return }) {
			n += 3
		}
	}
	return n
}

// What is asked follows from the seed, not from the answers.
func TestSeed(t *testing.T) {
	ask := func(seed uint64, broken bool) []string {
		f := newFake()
		if broken {
			f.fault = func(string, string, []byte) ([]byte, error, bool) {
				return nil, wire.NewError(wire.CodeUnavailable, ""), true
			}
		}
		o := options(f, 1)
		o.Ops, o.Seed, o.Check = 200, seed, false
		r, err := Run(t.Context(), o)
		if err != nil || broken && (r.Last == nil || r.Answered() != 0) {
			t.Fatal(err, r.String())
		}
		return f.asked
	}
	if !slices.Equal(ask(1, false), ask(1, true)) {
		t.Error("one seed, two loads")
	}
	if slices.Equal(ask(1, false), ask(2, false)) {
		t.Error("two seeds, one load")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFake()
	n := 0
	f.fault = func(string, string, []byte) ([]byte, error, bool) {
		if n++; n == 500 {
			cancel()
		}
		return nil, nil, false
	}
	o := options(f, 4)
	o.Ops, o.Duration = 0, time.Hour
	o.Tick = func(Snapshot) {}
	r, err := Run(ctx, o)
	if err != nil || r.Answered() < 500 || len(r.Check.Faults) > 0 {
		t.Error(r.String(), err)
	}
}

func TestUnexpectedErrorsAreKept(t *testing.T) {
	f := newFake()
	f.fault = func(what, _ string, _ []byte) ([]byte, error, bool) {
		return nil, wire.NewError(wire.CodeNoSpace, ""), what == "write"
	}
	r, err := Run(t.Context(), options(f, 2))
	if err != nil || wire.CodeOf(r.Unexpected) != wire.CodeNoSpace || len(r.Check.Faults) > 0 {
		t.Errorf("%v: %s", err, r.String())
	}
	if tells(errors.New("x")) || !tells(wire.NewError(wire.CodeConflict, "")) || tells(wire.NewError(wire.CodeUnknownOutcome, "")) {
		t.Error("tells")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for i, spoil := range []func(o *Options){
		func(o *Options) { o.Clients = nil },
		func(o *Options) { o.Ops = 0 },
		func(o *Options) { o.Mix = [3]int{} },
		func(o *Options) { o.Mix[Read] = -1 },
		func(o *Options) { o.Names = 0 },
		func(o *Options) { o.MinSize = MinChecked - 1 },
		func(o *Options) { o.MaxSize = o.MinSize - 1 },
		func(o *Options) { o.MaxSize = MaxSize + 1 },
	} {
		o := options(newFake(), 1)
		spoil(&o)
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%d was taken", i)
		}
	}
}
