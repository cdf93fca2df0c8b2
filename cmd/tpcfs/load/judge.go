package load

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what a client asked for.
type Kind uint8

// The operations.
const (
	Write Kind = iota
	Read
	Delete
	kinds
)

func (k Kind) String() string { return [...]string{"write", "read", "delete"}[k] }

// Outcome is what a client was told.
type Outcome uint8

// The outcomes.
const (
	Done    Outcome = iota
	Missing         // a read or a delete: no such file
	Unknown         // a write or a delete: it may take effect at any time after its call, or never
	Failed          // it did not happen and never will (G6)
	Garbled         // a read: what no write has written
)

// Op is one operation on one file as its client saw it.
type Op struct {
	Client  int
	Kind    Kind
	Outcome Outcome
	Value   Value         // written, or read
	Call    time.Duration // since the start
	Return  time.Duration
	Text    string // of Unknown, Failed and Garbled: what was said

	lax bool // a delete of which it does not count whether it found a file
}

// definite reports whether the operation has taken effect, or was answered from
// the state of the file, by its return.
func (o *Op) definite() bool { return o.Outcome == Done || o.Outcome == Missing }

// changes reports whether the operation has changed the file, or may have.
func (o *Op) changes() bool {
	return o.Kind != Read && (o.Outcome == Done || o.Outcome == Unknown)
}

// after is what the file holds after a change.
func (o *Op) after() Value {
	if o.Kind == Delete {
		return Absent
	}
	return o.Value
}

// Piece is what was asked of one file between two moments at which nothing was
// under way.
type Piece struct {
	Name  string
	Start []Value // what it may have held before
	Ops   []Op    // in any order
}

// Verdict is a judgement of a history.
type Verdict uint8

// The verdicts.
const (
	Right Verdict = iota
	Wrong
	Undecided // there was not enough time
)

// judgeTime bounds one question to the checker.
const judgeTime = 2 * time.Second

// Judge says whether a piece is linearizable: whether there is one order of its
// operations, none before one that had ended when it began, in which every
// answer is that of a single copy. ends are the values with which such an order
// can end; they are the next piece's Start. Of a piece with an Unknown outcome,
// or of one that is not Right, there are none.
func Judge(p Piece) (verdict Verdict, ends []Value) {
	open := false
	for i := range p.Ops {
		if p.Ops[i].Outcome == Garbled {
			return Wrong, nil
		}
		open = open || p.Ops[i].Outcome == Unknown
	}
	last := p.last()
	if open || len(last) == 1 {
		if verdict = p.check(judgeTime); verdict != Right || open {
			return verdict, nil
		}
		return Right, last
	}
	end := p.end()
	verdict = Wrong
	for _, v := range last {
		look := Op{Kind: Read, Value: v, Call: end + 1, Return: end + 2}
		if v == Absent {
			look.Outcome = Missing
		}
		with := Piece{Start: p.Start, Ops: append(slices.Clip(p.Ops), look)}
		switch with.check(judgeTime) {
		case Right:
			verdict, ends = min(verdict, Right), append(ends, v)
		case Undecided:
			return Undecided, nil
		case Wrong:
		}
	}
	return verdict, ends
}

// end is the last return of the piece.
func (p *Piece) end() time.Duration {
	var end time.Duration
	for i := range p.Ops {
		end = max(end, p.Ops[i].Return)
	}
	return end
}

// last are the values that the file may hold at the piece's end, as far as the
// changes alone tell: what was overwritten for certain is not among them.
func (p *Piece) last() []Value {
	var begun time.Duration // when the last certain change began
	changed := false
	for i := range p.Ops {
		if o := &p.Ops[i]; o.changes() && o.Outcome == Done {
			begun, changed = max(begun, o.Call), true
		}
	}
	if !changed {
		return p.Start
	}
	var last []Value
	for i := range p.Ops {
		if o := &p.Ops[i]; o.changes() && o.Return >= begun && !slices.Contains(last, o.after()) {
			last = append(last, o.after())
		}
	}
	return last
}

// check asks porcupine about the piece; Garbled reads are left out.
func (p *Piece) check(limit time.Duration) Verdict {
	if p.unwritten() {
		return Wrong
	}
	read, idle := p.open()
	implied := p.implied()
	var history []porcupine.Operation
	for i := range p.Ops {
		o := &p.Ops[i]
		if idle[i] || implied[i] {
			continue
		}
		op := porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Return: int64(o.Return)}
		switch {
		case o.definite():
		case o.Outcome == Unknown:
			// What never happens might as well happen after everything else;
			// what was seen has happened by then.
			op.Return = math.MaxInt64
			if at, ok := read[o.Value]; ok && o.Kind == Write && at > o.Call {
				op.Return = int64(at)
			}
		default:
			continue
		}
		history = append(history, op)
	}
	switch porcupine.CheckOperationsTimeout(model(p.Start), history, limit) {
	case porcupine.Ok:
		return Right
	case porcupine.Illegal:
		return Wrong
	default:
		return Undecided
	}
}

// unwritten reports whether a read has returned what nobody had begun to write:
// the one fault that would cost the checker most.
func (p *Piece) unwritten() bool {
	written := map[Value]time.Duration{}
	for i := range p.Ops {
		if o := &p.Ops[i]; o.Kind == Write && o.changes() {
			written[o.Value] = o.Call
		}
	}
	for i := range p.Ops {
		o := &p.Ops[i]
		if o.Kind != Read || o.Outcome != Done || slices.Contains(p.Start, o.Value) {
			continue
		}
		if call, ok := written[o.Value]; !ok || call > o.Return {
			return true
		}
	}
	return false
}

// implied are the answers that follow from others, by index: where those can be
// put in order, these can. One that was under way all the time while another
// found the same is as good as it. And since a value is written once, it is there
// from its first reading to its last: of its reads the one that returned first
// and the one that began last tell all.
func (p *Piece) implied() map[int]bool {
	same := map[Value][]int{}
	implied := map[int]bool{}
	for i := range p.Ops {
		o := &p.Ops[i]
		if o.Outcome == Missing || o.Kind == Read && o.Outcome == Done {
			same[o.Value] = append(same[o.Value], i)
			implied[i] = true
		}
	}
	for v, all := range same {
		if v != Absent {
			implied[slices.MinFunc(all, func(i, j int) int { return cmp.Compare(p.Ops[i].Return, p.Ops[j].Return) })] = false
			implied[slices.MaxFunc(all, func(i, j int) int { return cmp.Compare(p.Ops[i].Call, p.Ops[j].Call) })] = false
			continue
		}
		slices.SortFunc(all, func(i, j int) int {
			a, b := &p.Ops[i], &p.Ops[j]
			return cmp.Or(cmp.Compare(a.Return, b.Return), cmp.Compare(b.Call, a.Call))
		})
		begun := time.Duration(-1) // the latest call of those that returned before
		for _, i := range all {
			if p.Ops[i].Call > begun {
				begun = p.Ops[i].Call
				implied[i] = false
			}
		}
	}
	return implied
}

// open tells what is known of operations of unknown outcome: when each value
// was first read, and by index those that no order needs. A write whose value
// nobody has read can only give a delete something to delete, and a delete only
// make a file be missing: the earliest called of them will do, as many as there
// are such answers.
func (p *Piece) open() (read map[Value]time.Duration, idle map[int]bool) {
	read = map[Value]time.Duration{}
	for i := range p.Ops {
		o := &p.Ops[i]
		if at, ok := read[o.Value]; o.Kind == Read && o.Outcome == Done && (!ok || o.Return < at) {
			read[o.Value] = o.Return
		}
	}
	var open [kinds][]int
	var useful [kinds]int
	for i := range p.Ops {
		o := &p.Ops[i]
		_, seen := read[o.Value]
		switch {
		case o.Outcome == Unknown && !(o.Kind == Write && seen):
			open[o.Kind] = append(open[o.Kind], i)
		case o.Outcome == Missing:
			useful[Delete]++
		case o.Outcome == Done && o.Kind == Delete:
			useful[Write]++
		}
	}
	idle = map[int]bool{}
	for k, all := range open {
		slices.SortFunc(all, func(i, j int) int { return cmp.Compare(p.Ops[i].Call, p.Ops[j].Call) })
		for _, i := range all[min(len(all), useful[k]):] {
			idle[i] = true
		}
	}
	return read, idle
}

// state is what a file holds; with open set, any one of its piece's Start.
type state struct {
	value Value
	open  bool
}

// model is a file as one copy that does one thing at a time.
func model(start []Value) porcupine.Model {
	return porcupine.Model{
		Init: func() any {
			if len(start) == 1 {
				return state{value: start[0]}
			}
			return state{open: true}
		},
		Step: func(s, input, _ any) (bool, any) {
			was, o := s.(state), input.(*Op)
			switch {
			case o.Outcome == Unknown || o.Kind == Write || o.lax:
				return true, state{value: o.after()}
			case o.Outcome == Missing:
				return was.is(Absent, start), state{}
			case o.Kind == Read:
				return was.is(o.Value, start), state{value: o.Value}
			default: // a delete that found a file
				return was.isFile(start), state{}
			}
		},
	}
}

// is reports whether the file may hold v.
func (s state) is(v Value, start []Value) bool {
	if s.open {
		return slices.Contains(start, v)
	}
	return s.value == v
}

// isFile reports whether the file may exist.
func (s state) isFile(start []Value) bool {
	if s.open {
		return slices.ContainsFunc(start, func(v Value) bool { return v != Absent })
	}
	return s.value != Absent
}
