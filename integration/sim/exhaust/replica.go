package exhaust

import (
	"bytes"
	"fmt"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// violation is a rule that a step has broken.
type violation struct{ rule, text string }

func violated(rule, format string, args ...any) *violation {
	return &violation{rule, fmt.Sprintf(format, args...)}
}

// pool numbers values by their bytes: equal ones get one number, from 1.
type pool[T any] struct {
	numbers map[string]uint32
	values  []T
}

func (p *pool[T]) number(key []byte, v T) uint32 {
	if n := p.numbers[string(key)]; n != 0 {
		return n
	}
	if p.numbers == nil {
		p.numbers = map[string]uint32{}
		p.values = make([]T, 1)
	}
	p.values = append(p.values, v)
	n := uint32(len(p.values) - 1)
	p.numbers[string(key)] = n
	return n
}

func (p *pool[T]) size() int { return max(0, len(p.values)-1) }

// replica is a state of the vote machine and of the table below it. The
// machine itself is made anew from its snapshot for each step, so every step
// is one from a checkpoint too (S3).
type replica struct {
	snapshot []byte
	table    *table
	fence    uint64 // epoch number
	position wire.Position
	w        wire.Position
	inDoubt  int
	opened   bool
}

// turn is what a step does to a replica: the same from the same state.
type turn struct {
	to       uint32 // the replica's next state
	record   bool   // ... by a record in its journal
	index    uint32 // last entry handled after it
	now      uint32 // votes that leave at once; 0: none
	later    uint32 // votes that leave when the record is synced
	commit   *vote.Tx
	abort    wire.ID
	greeting *wire.Greeting
	words    string
	bad      *violation
}

// replicas does replicas' steps, each once.
type replicas struct {
	states pool[replica]
	downs  pool[wire.Down]
	votes  pool[[]wire.Vote]
	turns  map[turnKey]*turn
}

type turnKey struct {
	state  uint32
	down   uint32 // message; 0: a greeting
	epoch  uint64 // of the greeting
	refuse bool
}

func newReplicas() *replicas { return &replicas{turns: map[turnKey]*turn{}} }

func (r *replicas) enter(m *vote.Machine, t *table) uint32 {
	s := replica{
		snapshot: m.Snapshot(), table: t, fence: m.Fence().Number, position: m.Position(), w: m.W(),
		inDoubt: m.InDoubt(), opened: m.Opened(),
	}
	return r.states.number(append(append(t.encode(), 0xff), s.snapshot...), s)
}

func (r *replicas) first() uint32 {
	t := &table{names: map[string]file{}, ops: map[wire.OpID]wire.Outcome{}}
	return r.enter(vote.New(&view{t: t}), t)
}

func (r *replicas) down(d wire.Down) uint32 {
	if e := d.Entry; e != nil && e.Prepare != nil { // files' times decide nothing
		entry, p := *e, *e.Prepare
		p.Time = 0
		entry.Prepare, d.Entry = &p, &entry
	}
	return r.downs.number(wire.Marshal(d), d)
}

func (r *replicas) voteList(v []wire.Vote) uint32 {
	if len(v) == 0 {
		return 0
	}
	return r.votes.number(wire.Marshal(v), v)
}

func (r *replicas) step(k turnKey) *turn {
	if t := r.turns[k]; t != nil {
		return t
	}
	t := &turn{}
	func() {
		defer func() {
			if p := recover(); p != nil {
				t.bad = violated("panic", "the vote machine panics: %v", p)
			}
		}()
		r.run(k, t)
	}()
	r.turns[k] = t
	return t
}

func (r *replicas) run(k turnKey, t *turn) {
	s := &r.states.values[k.state]
	v := &view{t: s.table}
	m, err := vote.Restore(v, s.snapshot)
	if err != nil {
		t.bad = violated("checkpoint", "a snapshot cannot be restored: %v", err)
		return
	}
	v.refuse = k.refuse
	out, err := r.feed(m, k, t)
	if err != nil {
		t.bad = violated("protocol", "refuses its stream: %v", err)
		return
	}
	after := s.table
	if out.Commit != nil {
		if first, done := after.ops[out.Commit.Op]; done && first.Tx != out.Commit.ID {
			t.bad = violated("G5", "the request of %v takes effect again as %v", first.Tx, out.Commit.ID)
		}
		after = after.apply(out.Commit)
		t.commit = out.Commit
	}
	t.to, t.record, t.index = r.enter(m, after), out.Record != nil, uint32(m.Position().Index)
	t.later = r.voteList(out.SendAfterSync)
	if out.Record != nil {
		r.redo(s, out.Record, after, t)
	}
}

func (r *replicas) feed(m *vote.Machine, k turnKey, t *turn) (vote.Ready, error) {
	if k.down == 0 {
		g, out, err := m.Greet(wire.Greet{Epoch: epochOf(k.epoch), Name: "p", Cluster: m.Config().Cluster}, wire.UUID{})
		t.greeting = &g
		if err == nil && out.Record == nil { // a resume
			t.now = r.voteList(m.Revotes())
		}
		return out, err
	}
	d := &r.downs.values[k.down]
	if d.Entry == nil {
		t.words = fmt.Sprintf("hears W %v", d.W)
		return m.Heartbeat(d.W, d.ServiceTime)
	}
	out, err := m.Handle(d.Entry)
	t.now, t.words = r.voteList(out.Send), "handles "+entryWords(d.Entry)
	if err != nil {
		return out, err
	}
	rec, bad := vote.DecodeRecord(bytes.Clone(out.Record))
	if bad != nil {
		return out, bad
	}
	t.words += ", records " + rec.Kind.String()
	if rec.Kind == vote.KindAbort {
		t.abort = rec.ID
	}
	return out, nil
}

// redo: a replay of the record gives the state that handling the entry gave.
func (r *replicas) redo(s *replica, record []byte, after *table, t *turn) {
	m, err := vote.Restore(&view{t: s.table}, s.snapshot)
	if err == nil {
		_, err = m.Replay(bytes.Clone(record))
	}
	switch {
	case err != nil:
		t.bad = violated("redo", "a record cannot be replayed: %v", err)
	case r.enter(m, after) != t.to:
		t.bad = violated("redo", "a replay gives another state than the entry")
	}
}
