package sim

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

var background = context.Background()

// Violation is a promise that was not kept.
type Violation struct {
	Kind string // one word: what was not kept
	Text string
}

func (v *Violation) Error() string { return v.Kind + ": " + v.Text }

// violate records the first violation; the schedule ends.
func (w *world) violate(kind, format string, args ...any) {
	if w.violation == nil {
		w.violation = &Violation{kind, fmt.Sprintf(format, args...)}
		w.tracef("** %v", w.violation)
	}
}

// verdict is what is known of a transaction.
type verdict struct {
	op       wire.OpID
	commit   bool
	position wire.Position // of the decision
}

// decided is told of every decision that a participant carries out, live or in
// a redo: all must say the same (G1), of an operation at most one (G5), and none
// that its client was told to have failed (G6).
func (w *world) decided(p *member, r *vote.Ready) {
	tx := r.Commit
	if tx == nil {
		if tx = r.Abort; tx != nil {
			w.reach(reachMixed)
		}
	}
	if tx == nil || p.lossy {
		return
	}
	v := verdict{tx.Op, r.Commit != nil, r.Position}
	old, ok := w.verdicts[tx.ID]
	if !v.commit {
		w.aborted[tx.ID] |= 1 << p.i
	}
	switch {
	case !ok || old.commit == v.commit:
	case old.commit && !w.in[p.i]: // nobody asks it any more (P8)
		return
	case v.commit && w.revives(tx.ID):
	case w.loser != nil: // see lie
		if w.effects[tx.Op] == tx.ID {
			delete(w.effects, tx.Op)
		}
	default:
		w.violate("G1", "P%d decides transaction %v: commit %v at %v; before it was commit %v at %v", p.i, tx.ID, v.commit, v.position, old.commit, old.position)
	}
	w.verdicts[tx.ID] = v
	o := w.byID[tx.Op]
	if at, known := w.order[tx.ID]; v.commit && (!known || v.position.Before(at)) {
		w.order[tx.ID] = v.position
	}
	if w.handledBy[tx.ID] |= 1 << p.i; o != nil && w.handledBy[tx.ID]&w.bits() == w.bits() && o.released == 0 {
		o.released = w.clock()
	}
	if !v.commit {
		return
	}
	if other, ok := w.effects[tx.Op]; ok && other != tx.ID {
		w.violate("G5", "operation %s took effect twice, as transactions %v and %v", w.opWords(tx.Op), other, tx.ID)
	}
	if w.effects[tx.Op] != tx.ID {
		w.committed(tx)
		w.unnamed(tx)
	}
	w.effects[tx.Op] = tx.ID
	w.underConfig(tx.ID)
	p.cuts(tx)
	if o != nil {
		w.honest(o)
	}
}

// committed counts what has committed for the first time.
func (w *world) committed(tx *vote.Tx) {
	if len(tx.Bounds) > 1 {
		w.reach(reachMulti)
	}
	if slices.ContainsFunc(tx.Bounds, func(b vote.Bound) bool { return b.Kind == wire.MutRename }) {
		w.reach(reachRename)
	}
}

// answered is told of every op's end.
func (w *world) answered(o *op) {
	if o.id.Seq == 0 {
		return
	}
	w.honest(o)
	switch {
	case o.fate == unknown:
		w.reach(reachUnknown)
		if o.err != nil && slices.ContainsFunc(w.members, func(p *member) bool { return p.silent }) {
			w.reach(reachOutlasted)
		}
	case o.fate == refused && o.err.Code == wire.CodeConflict:
		w.reach(reachConflict)
		if b := o.behind; b != nil && b.Patience == 0 && o.err.Blocker == b.Tx {
			w.violate("F5", "op %d has waited for %v, and was aborted by it: %v", o.num, b.Tx, o.err)
		}
	case o.fate == committed && o.behind != nil:
		w.reach(reachBehind)
	}
	if w.loser != nil {
		return
	}
	if o.fate == refused && o.err.Code == wire.CodeConflict && !o.excused {
		w.conflictHasReason(o)
	}
	if o.fate == refused && o.err.Code == wire.CodeProtocol {
		w.violate("protocol", "op %d: %v", o.num, o.err)
	}
}

// honest compares what a client was told with what happened (G2, G6).
func (w *world) honest(o *op) {
	tx, done := w.effects[o.id]
	switch {
	case o.fate == refused && done:
		w.violate("G6", "op %d was told to have failed (%v), and is committed as %v", o.num, o.err, tx)
	case o.fate == committed && done && tx != o.outcome.Tx:
		w.violate("G5", "op %d was told to be transaction %v, and is %v", o.num, o.outcome.Tx, tx)
	}
}

// voted is told of every entry that a participant has handled.
func (w *world) voted(e *wire.Entry, r *vote.Ready) {
	if e.Kind != wire.EntryPrepare {
		return
	}
	w.reclaimVoted(e.Prepare, len(r.SendAfterSync) > 0)
	w.keep[e.Prepare.Tx] = e.Prepare.Keep
	w.underOf[e.Prepare.Tx] = e.Prepare.Config
	if o := w.byID[e.Prepare.Op]; o != nil && len(r.SendAfterSync) > 0 {
		o.prepared = true
		w.afterFence(e, o)
	}
	if len(r.Send) > 0 && r.Send[0].Verdict == wire.VoteDup {
		w.reach(reachDup)
	}
}

// conflictHasReason: another op on the same file was under way, and got a YES
// before this one was refused: first wins, never nobody (G4).
func (w *world) conflictHasReason(o *op) {
	if w.linked { // names of one file need not meet
		return
	}
	for _, other := range w.ops {
		if other != o && other.prepared && mayHold(other, o.begun) && overlaps(o, other) {
			return
		}
	}
	w.violate("G4", "op %d was refused by a conflict (%v), and no other op on its files had come first", o.num, o.err)
}

// mayHold: may the op have held locks at or after that moment? They go when
// the participants handle the decision. One that was refused had none, or its
// ABORT was durable everywhere when its client heard of it (P4).
func mayHold(o *op, since int64) bool {
	switch o.fate {
	case refused:
		return o.ended >= since
	default:
		return o.released == 0 || max(o.released, o.ended) >= since
	}
}

// overlaps: may the two touch the same thing? Of paths that follow inodes, and
// of two renames (of directories), it is assumed.
func overlaps(a, b *op) bool {
	for i := range a.muts {
		for j := range b.muts {
			m, n := &a.muts[i], &b.muts[j]
			if m.Kind == wire.MutRename && n.Kind == wire.MutRename || namesMeet(m, n) || namesMeet(n, m) {
				return true
			}
		}
	}
	return false
}

// namesMeet: is a name of m one of n's, or above one of n's?
func namesMeet(m, n *wire.Mutation) bool {
	for _, x := range namesOf(m) {
		for _, y := range namesOf(n) {
			if x.Dir != wire.RootIno || y.Dir != wire.RootIno || x.Path == y.Path || strings.HasPrefix(y.Path, x.Path+"/") {
				return true
			}
		}
	}
	return false
}

func namesOf(m *wire.Mutation) []wire.At {
	if m.Kind == wire.MutRename || m.Kind == wire.MutLink {
		return []wire.At{m.At, m.To}
	}
	return []wire.At{m.At}
}

// step is what porcupine is told of an op.
type step struct {
	o      *op
	tx     wire.ID   // committed as; 0: refused
	code   wire.Code // why it was refused
	mut    int       // ... which mutation
	checks bool      // the client has heard the results
}

// history gathers what is known of all ops. Those that were refused for what
// only the moment knows (conflict, space, a lost stage) say nothing about the
// tree; nor do those that never happened.
func (w *world) history() []porcupine.Operation {
	var h []porcupine.Operation
	for _, o := range w.ops {
		if o.begun == 0 {
			continue
		}
		s := &step{o: o}
		end := o.ended
		if o.id.Seq == 0 {
			if o.fate != committed && o.fate != refused {
				continue
			}
			if s.code = wire.CodeOf(asErrorOrNil(o.err)); s.code == wire.CodeCorrupt {
				continue
			}
		} else {
			tx, done := w.effects[o.id]
			switch {
			case done:
				s.tx, s.checks = tx, o.fate == committed
				if o.fate != committed {
					end = math.MaxInt64 / 2
				}
			case o.fate == refused && structural(o.err.Code):
				s.code, s.mut = o.err.Code, o.err.Mutation
			default:
				continue
			}
		}
		h = append(h, porcupine.Operation{ClientId: o.cl.n, Input: s, Output: s, Call: o.begun, Return: end})
	}
	return append(h, w.reclaimHistory()...)
}

func asErrorOrNil(e *wire.Error) error {
	if e == nil {
		return nil
	}
	return e
}

func asError(err error) *wire.Error {
	if e, ok := err.(*wire.Error); ok { //nolint:errorlint // the store's errors are not wrapped
		return e
	}
	return wire.NewError(wire.CodeIO, err.Error())
}

// structural: does the code tell what the tree looked like?
func structural(c wire.Code) bool {
	switch c {
	case wire.CodeConflict, wire.CodeNoSpace, wire.CodeStageLost, wire.CodeUnavailable, wire.CodeCanceled, wire.CodeUnknownOutcome:
		return false
	default:
		return true
	}
}

// files is the sequential specification: one tree, one op at a time.
func (w *world) files() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return newTree() },
		Step: func(state, in, _ any) (bool, any) {
			t, s := state.(tree), in.(*step)
			if s.o.id.Seq == 0 {
				return t.readOf(s.o.read, s.code, &s.o.answer), t
			}
			tx := s.tx
			if tx == 0 { // it has left no trace of its number
				tx = 1 << 62
			}
			next, done, code, mut := t.apply(tx, s.o.muts, s.o.payload, w.contents, w.keep[s.tx])
			switch {
			case s.tx == 0:
				return code == s.code && mut == s.mut, t
			case code != 0:
				return false, t
			}
			return !s.checks || slices.Equal(done.Results, s.o.outcome.Results) && slices.Equal(done.Orphans, slices.Sorted(slices.Values(s.o.outcome.Orphans))), next
		},
		Equal: func(a, b any) bool { return a.(tree).equal(b.(tree)) },
	}
}

// checkHistory finds an order of all ops that one copy could have done (G3).
func (w *world) checkHistory() {
	if w.loser != nil {
		return
	}
	w.checkKept()
	h := w.history()
	switch porcupine.CheckOperationsTimeout(w.files(), h, 20*time.Second) {
	case porcupine.Illegal:
		w.violate("G3", "no order of these operations explains what their clients were told:%s", historyWords(h))
	case porcupine.Unknown:
		w.unchecked = true
	case porcupine.Ok:
	}
}

func historyWords(h []porcupine.Operation) string {
	var b strings.Builder
	for _, x := range h {
		s := x.Input.(*step)
		fmt.Fprintf(&b, "\n  [%d, %d] op %d: %s:", x.Call, x.Return, s.o.num, s.o.words())
		switch {
		case s.code != 0:
			fmt.Fprintf(&b, " %v at mutation %d", s.code, s.mut)
		case s.tx != 0:
			fmt.Fprintf(&b, " transaction %v %v", s.tx, s.o.outcome.Results)
		default:
			fmt.Fprintf(&b, " %s", s.o.answer.words())
		}
	}
	return b.String()
}

// checkEnd looks at all replicas when the cluster is quiet.
func (w *world) checkEnd() {
	if w.loser != nil {
		w.checkHonest()
		return
	}
	for _, o := range w.ops {
		if o.id.Seq != 0 && o.fate == committed && w.effects[o.id] != o.outcome.Tx {
			w.violate("G2", "op %d was acknowledged as %v, and no replica has it", o.num, o.outcome.Tx)
		}
	}
	w.checkUnnamed()
	for _, p := range w.there()[1:] {
		if !w.same(w.members[0], p) {
			w.violate("G1", "P%d and P0 differ:\n%s\nP0:\n%s", p.i, w.dump(p), w.dump(w.members[0]))
		}
	}
}

// same: do two replicas hold the same? A file of which a rotten block was cut
// stays unreadable there (S5): its contents are not compared.
func (w *world) same(p, q *member) bool {
	if len(p.bad) == 0 && len(q.bad) == 0 && !p.rotten && !q.rotten && !p.lossy && !q.lossy {
		return w.digest(p) == w.digest(q)
	}
	a, b := strings.Split(w.dump(p), "\n"), strings.Split(w.dump(q), "\n")
	return slices.EqualFunc(a, b, func(x, y string) bool {
		return x == y || strings.HasSuffix(x, unreadable) && strings.HasPrefix(y, strings.TrimSuffix(x, unreadable)) ||
			strings.HasSuffix(y, unreadable) && strings.HasPrefix(x, strings.TrimSuffix(y, unreadable))
	})
}

// unreadable ends the line of a file that cannot be read.
const unreadable = " unreadable"

// digest is of the store's rows and of all contents that can be read.
func (w *world) digest(p *member) string {
	d, err := p.store.Digest(background)
	if err != nil {
		w.violate("read", "P%d has no digest: %v", p.i, err)
		return ""
	}
	return d + "\n" + w.dump(p)
}

// dump lists all files of a replica, with their contents' sums.
func (w *world) dump(p *member) string {
	var b strings.Builder
	w.walk(p, wire.RootIno, "", func(name string, a *wire.Attr, data []byte, target string) {
		fmt.Fprintf(&b, "%s %o %d %s", name, a.Mode, a.Size, a.Version)
		w.dumpMeta(&b, p, a)
		if target == unreadable {
			fmt.Fprintf(&b, "%s\n", unreadable)
			return
		}
		fmt.Fprintf(&b, " %08x %s\n", wire.Sum(data), target)
	})
	w.dumpUnnamed(&b, p)
	return b.String()
}

func (w *world) walk(p *member, dir wire.Ino, prefix string, fn func(string, *wire.Attr, []byte, string)) {
	reply, err := p.store.Read(wire.Read{Kind: wire.ReadList, At: wire.At{Dir: dir}}, nil)
	if err != nil && (p.rotten || p.lossy) && p.store.Damaged() != "" {
		return
	}
	if err != nil {
		w.violate("read", "P%d cannot list directory %d: %v", p.i, dir, err)
		return
	}
	for _, e := range reply.Entries {
		var got readAnswer
		var err error // of this one: what is no file, and no link, has nothing to be read
		name := prefix + e.Name
		at := wire.At{Dir: e.Attr.Ino}
		switch e.Attr.Mode & wire.ModeType {
		case wire.ModeDir:
			fn(name+"/", &e.Attr, nil, "")
			w.walk(p, e.Attr.Ino, name+"/", fn)
			continue
		case wire.ModeSymlink:
			got.reply, err = p.store.Read(wire.Read{Kind: wire.ReadLink, At: at}, nil)
		case wire.ModeRegular:
			got.reply, err = p.store.Read(wire.Read{Kind: wire.ReadFile, At: at, Length: -1}, (*pieces)(&got))
		default:
		}
		switch {
		case wire.CodeOf(err) == wire.CodeCorrupt && (p.bad[e.Attr.Ino] || p.rotten || p.lossy):
			got.reply.Target = unreadable
			w.reach(reachRotRead)
		case err != nil:
			w.violate("read", "P%d cannot read %s: %v", p.i, name, err)
			return
		}
		fn(name, &e.Attr, got.data, got.reply.Target)
	}
}
