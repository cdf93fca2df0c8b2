package load

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// explainTime bounds each question that makes a wrong piece shorter.
const explainTime = time.Second

// Fault is the shortest wrong piece that was found in a longer one.
type Fault struct {
	Name  string
	Held  []Value // before; nil where it does not matter
	Ops   []Op    // in the order of their calls: each is needed for the contradiction
	Last  int     // index in Ops of the one whose answer cannot be
	Could []string
	Text  string // what a Garbled read has read
}

// Explain makes a piece that Judge called Wrong as short as it can. Each
// operation that it leaves could have any answer, or never have happened, and
// the rest would still be a contradiction.
func Explain(p Piece) Fault {
	for _, o := range p.Ops {
		if o.Outcome == Garbled {
			return Fault{Name: p.Name, Ops: []Op{o}, Text: o.Text}
		}
	}
	whole := p.cut(p.firstWrong())
	short := whole
	short.shorten()
	f := Fault{Name: p.Name, Could: whole.could(len(whole.Ops) - 1)}
	culprit := short.Ops[len(short.Ops)-1]
	_, idle := short.open()
	for i, o := range short.Ops {
		// What was of unknown outcome from the beginning is shown where it may
		// matter, and so is what was under way, where less would do without it.
		o.lax = false
		switch {
		case o.Outcome != Unknown || o.Text != "" && !idle[i]:
			f.Ops = append(f.Ops, o)
		case o.Return > culprit.Return && !idle[i] && short.excused(i):
			f.Ops = append(f.Ops, o)
		}
	}
	// Who wrote what was read is told even where the contradiction does not need it.
	writer := slices.IndexFunc(p.Ops, func(o Op) bool { return o.Kind == Write && o.Value == culprit.Value })
	if culprit.Kind == Read && culprit.Value != Absent && writer >= 0 && !slices.Contains(f.Ops, p.Ops[writer]) {
		f.Ops = append(f.Ops, p.Ops[writer])
	}
	slices.SortFunc(f.Ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	f.Last = slices.Index(f.Ops, culprit)
	if !slices.ContainsFunc(f.Ops[:f.Last], func(o Op) bool { return o.changes() && o.Outcome == Done && o.Return < culprit.Call }) {
		f.Held = p.Start
	}
	return f
}

// shorten leaves out of a wrong piece, whose last operation is the one at fault,
// what it is wrong without. Each step turns right histories into right ones, so
// that what is wrong after it was so before.
func (p *Piece) shorten() {
	wrong := func(ops []Op) bool {
		without := Piece{Start: p.Start, Ops: ops}
		if without.check(explainTime) != Wrong {
			return false
		}
		p.Ops = ops
		return true
	}
	for i := len(p.Ops) - 2; i >= 0; i-- { // an answer that told something
		if o := &p.Ops[i]; o.Kind == Read || o.Outcome == Missing {
			wrong(slices.Delete(slices.Clone(p.Ops), i, i+1))
		}
	}
	for i := len(p.Ops) - 2; i >= 0; i-- { // that a delete found something
		if o := &p.Ops[i]; o.Kind == Delete && o.Outcome == Done {
			ops := slices.Clone(p.Ops)
			ops[i].lax = true
			wrong(ops)
		}
	}
	for i := 0; i < len(p.Ops)-1; { // a change that nobody could see any more
		if p.telling(i) || !p.overwritten(i) || !wrong(slices.Delete(slices.Clone(p.Ops), i, i+1)) {
			i++
		}
	}
	for i := len(p.Ops) - 2; i >= 0; i-- { // that a change happened when it did, or at all
		if o := &p.Ops[i]; o.Outcome == Done && o.changes() && !p.telling(i) {
			ops := slices.Clone(p.Ops)
			ops[i].Outcome = Unknown
			wrong(ops)
		}
	}
}

// excused reports whether the i-th operation, one under way, can account for
// something: without it the contradiction would be shorter still.
func (p *Piece) excused(i int) bool {
	without := Piece{Name: p.Name, Start: p.Start, Ops: slices.Delete(slices.Clone(p.Ops), i, i+1)}
	without.shorten()
	return len(without.Ops) < len(p.Ops)-1
}

// telling reports whether people want to see the i-th operation, needed or not:
// it wrote what the last one read, or is the last change before that.
func (p *Piece) telling(i int) bool {
	m, last := &p.Ops[i], &p.Ops[len(p.Ops)-1]
	if m.Kind == Write && last.Kind == Read && m.Value == last.Value {
		return true
	}
	return m.changes() && m.Outcome == Done && m.Return < last.Call && !slices.ContainsFunc(p.Ops, func(o Op) bool {
		return o.changes() && o.Outcome == Done && o.Return < last.Call && o.Call > m.Call
	})
}

// overwritten reports whether between the i-th operation, a change, and each
// answer that came after it there was another change for certain.
func (p *Piece) overwritten(i int) bool {
	m := &p.Ops[i]
	if !m.changes() || m.Outcome != Done {
		return false
	}
	for j := range p.Ops {
		o := &p.Ops[j]
		tells := o.definite() && (o.Kind == Read || o.Kind == Delete && !o.lax)
		if j == i || !tells || o.Return < m.Call {
			continue
		}
		if !slices.ContainsFunc(p.Ops, func(w Op) bool {
			return w.changes() && w.Outcome == Done && w.Call > m.Return && w.Return < o.Call
		}) {
			return false
		}
	}
	return true
}

// firstWrong finds the return of the operation with which the piece became wrong.
func (p *Piece) firstWrong() time.Duration {
	var returns []time.Duration
	for i := range p.Ops {
		if p.Ops[i].definite() {
			returns = append(returns, p.Ops[i].Return)
		}
	}
	slices.Sort(returns)
	// What is wrong stays wrong, whatever comes later.
	at, _ := slices.BinarySearchFunc(returns, true, func(t time.Duration, _ bool) int {
		before := p.cut(t)
		if before.check(explainTime) == Wrong {
			return 0
		}
		return -1
	})
	return returns[min(at, len(returns)-1)]
}

// cut is the piece as it was known at a moment: what was under way may still
// happen. The operation that returned last is the last one.
func (p *Piece) cut(at time.Duration) Piece {
	short := Piece{Name: p.Name, Start: p.Start}
	for _, o := range p.Ops {
		switch {
		case o.Call > at:
			continue
		case o.Return > at && o.Kind == Read:
			continue
		case o.Return > at && o.Outcome == Missing:
			continue
		case o.Return > at && o.Outcome == Done:
			o.Outcome = Unknown
		}
		if o.definite() || o.Outcome == Unknown {
			short.Ops = append(short.Ops, o)
		}
	}
	slices.SortStableFunc(short.Ops, func(a, b Op) int {
		if d := cmp.Compare(btoi(a.definite()), btoi(b.definite())); d != 0 {
			return d // what has no answer is before all that has one
		}
		// A write is never the one that cannot be.
		return cmp.Or(cmp.Compare(a.Return, b.Return), cmp.Compare(btoi(a.Kind != Write), btoi(b.Kind != Write)))
	})
	return short
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// could are the answers that the i-th operation could have had.
func (p *Piece) could(i int) []string {
	try := func(outcome Outcome, v Value) bool {
		with := *p // anew: a question that took too long may still read the last one's
		with.Ops = slices.Clone(p.Ops)
		with.Ops[i].Outcome, with.Ops[i].Value = outcome, v
		return with.check(explainTime) == Right
	}
	var could []string
	if p.Ops[i].Kind == Delete {
		if try(Done, Absent) {
			could = append(could, "deleted")
		}
	} else {
		values := slices.Clone(p.Start)
		for _, o := range p.Ops {
			if o.Kind == Write {
				values = append(values, o.Value)
			}
		}
		for n, v := range values {
			if v != Absent && !slices.Contains(values[:n], v) && try(Done, v) {
				could = append(could, "what "+v.String()+" wrote")
			}
		}
	}
	if try(Missing, Absent) {
		could = append(could, "no such file")
	}
	return could
}

// Error tells the fault in words, on several lines.
func (f Fault) Error() string {
	var b strings.Builder
	o := f.Ops[f.Last]
	fmt.Fprintf(&b, "%s: client %d's %s was answered %s", f.Name, o.Client, o.Kind, o.answer())
	switch {
	case f.Text != "":
	case len(f.Could) > 0:
		fmt.Fprintf(&b, "; it could only have been: %s", strings.Join(f.Could, ", or "))
	default:
		b.WriteString("; no answer would have been right")
	}
	if len(f.Held) > 0 {
		var held []string
		for _, v := range f.Held {
			if v == Absent {
				held = append(held, "no file")
			} else {
				held = append(held, "what "+v.String()+" wrote")
			}
		}
		fmt.Fprintf(&b, "\n  before: %s", strings.Join(held, ", or "))
	}
	for i, o := range f.Ops {
		fmt.Fprintf(&b, "\n  %12.6f s to %12.6f s  %s", o.Call.Seconds(), o.Return.Seconds(), o)
		if i == f.Last && len(f.Ops) > 1 {
			b.WriteString("   <- cannot be")
		}
	}
	return b.String()
}

// answer is what the client was told.
func (o Op) answer() string {
	switch {
	case o.Outcome == Missing:
		return "no such file"
	case o.Outcome == Unknown && o.Text == "":
		return "still under way"
	case o.Outcome == Unknown:
		return "unknown (" + o.Text + ")"
	case o.Outcome == Failed:
		return "nothing changed (" + o.Text + ")"
	case o.Outcome == Garbled:
		return o.Text
	case o.Kind == Read:
		return "what " + o.Value.String() + " wrote"
	default:
		return "done"
	}
}

func (o Op) String() string {
	if o.Kind == Write {
		return fmt.Sprintf("client %d  write as its operation %d: %s", o.Client, o.Value.Op, o.answer())
	}
	return fmt.Sprintf("client %d  %s: %s", o.Client, o.Kind, o.answer())
}
