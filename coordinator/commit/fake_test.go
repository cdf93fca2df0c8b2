package commit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"tpcfs/wire"
)

// fake is a participant of few words: a journal as a list of records, of which
// a crash keeps a prefix, and what follows from it. Transactions write names;
// one that names "no-<member>" is refused by that member (its disk is full).
type fake struct {
	name    string
	addr    string
	storage wire.UUID
	resync  string

	recs   []frec
	synced int // records that are durable
	s      fstate
	up     bool

	// The stream of the newest link, both ways, in order.
	link  uint64
	alive bool
	old   bool // the link is that of a coordinator that has died; what it sent still arrives
	down  []wire.Down
	votes []wire.Vote // to be sent at the next message
	yes   []fyes      // to be sent once synced
	ups   []wire.Up
}

type fyes struct {
	rec  int // number of records that must be durable
	vote wire.Vote
}

type fkind uint8

const (
	fEpoch fkind = iota
	fPrepare
	fNo
	fDup
	fCommit
	fAbort
	fVoid
	fConfig
	fOpen
	fW
	fResync // out of the config: nothing is held any more (P11)
	fJoin   // the last round: what a donor had, and how it stands
)

type frec struct {
	kind   fkind
	pos    wire.Position
	epoch  wire.Epoch
	tx     wire.ID
	p      *wire.Prepare
	err    *wire.Error
	first  *wire.Outcome
	config *wire.Config
	w      wire.Position
	svc    int64
	state  *fstate // of fJoin
}

// fstate is what a journal says.
type fstate struct {
	fence  wire.Epoch
	config wire.Config
	pos    wire.Position
	w      wire.Position
	svc    int64
	time   int64
	open   bool
	resync bool
	lastID wire.ID
	txs    map[wire.ID]wire.Testimony
	names  map[wire.ID][]string
	vals   map[string]wire.ID
	ops    map[wire.OpID]wire.ID
}

func newFake(name string, n byte) *fake {
	f := &fake{name: name, storage: wire.UUID{n}, up: true}
	f.reset()
	return f
}

func (f *fake) reset() {
	f.s = fstate{txs: map[wire.ID]wire.Testimony{}, names: map[wire.ID][]string{}, vals: map[string]wire.ID{}, ops: map[wire.OpID]wire.ID{}}
	for i := range f.recs {
		f.s.apply(&f.recs[i])
	}
}

func (s *fstate) apply(r *frec) {
	switch r.kind {
	case fEpoch:
		s.fence, s.open = r.epoch, false
		s.pos = wire.Position{Epoch: r.epoch.Number}
	case fPrepare:
		s.txs[r.tx] = wire.Testimony{Tx: r.tx, Prepared: r.pos, State: wire.TxPrepared, Op: r.p.Op, Outcome: outcomeOf(r.p)}
		s.names[r.tx] = namesOf(r.p)
	case fNo:
		s.txs[r.tx] = wire.Testimony{Tx: r.tx, Prepared: r.pos, State: wire.TxRefused, Op: r.p.Op, Err: r.err}
	case fDup:
		s.txs[r.tx] = wire.Testimony{Tx: r.tx, Prepared: r.pos, State: wire.TxRefused, Op: r.p.Op, Outcome: r.first}
	case fCommit:
		t := s.txs[r.tx]
		t.State = wire.TxCommitted
		s.txs[r.tx] = t
		for _, n := range s.names[r.tx] {
			s.vals[n] = r.tx
		}
		s.ops[t.Op] = r.tx
	case fAbort:
		t, ok := s.txs[r.tx]
		if !ok {
			t = wire.Testimony{Tx: r.tx}
		}
		t.State, t.Outcome, t.Err = wire.TxAborted, nil, nil
		s.txs[r.tx] = t
	case fConfig:
		s.config = *r.config
	case fOpen:
		s.open = true
	case fResync:
		s.resync = true
		s.txs, s.names = map[wire.ID]wire.Testimony{}, map[wire.ID][]string{}
	case fJoin:
		fence := s.fence
		*s = r.state.clone()
		s.fence = fence
	case fVoid, fW:
	}
	if s.pos.Before(r.pos) {
		s.pos = r.pos
	}
	s.lastID = max(s.lastID, r.tx)
	s.svc = max(s.svc, r.svc)
	if r.kind == fPrepare {
		s.time = max(s.time, r.p.Time)
	}
	if s.w.Before(r.w) {
		s.w = r.w
		for id, t := range s.txs {
			if t.State != wire.TxPrepared && !s.w.Before(t.Prepared) {
				delete(s.txs, id)
			}
		}
	}
}

func namesOf(p *wire.Prepare) []string {
	var names []string
	for _, m := range p.Mutations {
		name := m.At.Path
		if name == "" {
			name = m.At.String()
		}
		names = append(names, name)
	}
	return names
}

// outcomeOf: a mutation with Hold leaves the inode Size without a name.
func outcomeOf(p *wire.Prepare) *wire.Outcome {
	o := &wire.Outcome{Tx: p.Tx}
	for _, m := range p.Mutations {
		if m.Hold {
			o.Orphans = append(o.Orphans, wire.Ino(m.Size))
		}
	}
	return o
}

// leftOf: of one that is kept so is a deleteFile's inode Size; -1: many.
func leftOf(p *wire.Prepare, touched *wire.Touched) *wire.Touched {
	for _, m := range p.Mutations {
		if p.Keep && m.Kind == wire.MutDeleteFile && !m.Hold {
			if touched.MoreLeft = m.Size < 0; m.Size > 0 {
				touched.Left = append(touched.Left, wire.Ino(m.Size))
			}
		}
	}
	return touched
}

func (s *fstate) clone() fstate {
	c := *s
	c.txs, c.names, c.vals, c.ops = maps.Clone(s.txs), maps.Clone(s.names), maps.Clone(s.vals), maps.Clone(s.ops)
	return c
}

// joins makes durable what a donor holds, and what Drained has told.
func (f *fake) joins(donor *fake, j Joining) {
	st := donor.s.clone()
	st.txs, st.names = map[wire.ID]wire.Testimony{}, map[wire.ID][]string{}
	st.pos, st.w, st.config, st.svc, st.lastID, st.open, st.resync = j.Position, j.W, j.Config, j.ServiceTime, j.LastID, true, false
	f.add(frec{kind: fJoin, pos: j.Position, state: &st})
	f.synced = len(f.recs)
}

// wiped is a participant whose disk is replaced by an empty one.
func (f *fake) wiped(storage wire.UUID) {
	f.recs, f.synced = nil, 0
	f.crash(0)
	f.storage = storage
}

func (f *fake) add(r frec) {
	f.recs = append(f.recs, r)
	f.s.apply(&r)
}

// greet is what Replica.Greet does: durable before the answer (P6).
func (f *fake) greet(g wire.Greet) (wire.Greeting, *wire.Error) {
	held := f.s.fence
	if f.s.config.ID.Epoch != 0 && !g.Cluster.IsZero() && g.Cluster != f.s.config.Cluster {
		return wire.Greeting{}, wire.NewError(wire.CodeProtocol, "another cluster's")
	}
	if g.Epoch.Number < held.Number || g.Epoch.Number == held.Number && g.Epoch.Run != held.Run {
		return wire.Greeting{}, wire.NewError(wire.CodeStaleEpoch, fmt.Sprintf("epoch %d was here", held.Number))
	}
	if g.Epoch != held {
		f.add(frec{kind: fEpoch, epoch: g.Epoch})
		f.synced = len(f.recs)
	}
	if g.Outside {
		f.add(frec{kind: fResync})
		f.synced = len(f.recs)
	}
	f.old = false
	f.down, f.ups, f.votes, f.yes = nil, nil, nil, nil
	a := f.holds()
	a.Held = held
	for _, id := range slices.Sorted(maps.Keys(f.s.txs)) {
		t := f.s.txs[id]
		a.Known = append(a.Known, t)
	}
	return a, nil
}

// holds is what Replica.Status says of its standing.
func (f *fake) holds() wire.Greeting {
	a := wire.Greeting{Storage: f.storage, Held: f.s.fence, Config: f.s.config, Position: f.s.pos, W: f.s.w, ServiceTime: f.s.svc, LastID: f.s.lastID, Resync: f.resync, Time: f.s.time}
	if f.s.resync {
		a.Resync = "out of sync"
	}
	return a
}

// revote queues, after a resume, the votes for what is held prepared (P10).
func (f *fake) revote() {
	for i, r := range f.recs {
		if t := f.s.txs[r.tx]; r.kind == fPrepare && t.State == wire.TxPrepared && r.pos.Epoch == f.s.fence.Number {
			f.yes = append(f.yes, fyes{i + 1, wire.Vote{Index: r.pos.Index, Tx: r.tx, Verdict: wire.VoteYes, Outcome: t.Outcome}})
		}
	}
	f.release()
}

// handle takes the next message of the stream. The error is a breach of the protocol.
func (f *fake) handle(refuse bool) error {
	d := f.down[0]
	f.down = f.down[1:]
	if f.s.resync {
		if d.Entry != nil {
			return fmt.Errorf("%s is out of sync, and is sent entry %d", f.name, d.Entry.Index)
		}
		f.ups = append(f.ups, f.message())
		return nil
	}
	if f.s.pos.Before(d.W) {
		return fmt.Errorf("%s at %v is told W %v", f.name, f.s.pos, d.W)
	}
	for _, t := range f.s.txs {
		if t.State == wire.TxPrepared && !d.W.Before(t.Prepared) {
			return fmt.Errorf("%s: W %v passes %v, in doubt since %v", f.name, d.W, t.Tx, t.Prepared)
		}
	}
	e := d.Entry
	if e == nil {
		if f.s.w.Before(d.W) {
			f.add(frec{kind: fW, w: d.W, svc: d.ServiceTime})
		}
		f.ups = append(f.ups, f.message())
		return nil
	}
	if e.Index != f.s.pos.Index+1 {
		return fmt.Errorf("%s at %v is sent entry %d", f.name, f.s.pos, e.Index)
	}
	pos := wire.Position{Epoch: f.s.fence.Number, Index: e.Index}
	t, known := f.s.txs[e.Tx]
	switch e.Kind {
	case wire.EntryPrepare:
		f.prepare(e.Prepare, pos, refuse)
	case wire.EntryCommit:
		switch {
		case known && t.State == wire.TxPrepared:
			f.add(frec{kind: fCommit, tx: e.Tx, pos: pos})
		case known && t.State == wire.TxCommitted:
			f.add(frec{kind: fVoid, pos: pos})
		default:
			return fmt.Errorf("%s is told COMMIT of %v, which it holds as %d (known %v)", f.name, e.Tx, t.State, known)
		}
	case wire.EntryAbort:
		if known && t.State == wire.TxCommitted {
			return fmt.Errorf("%s committed %v and is told ABORT", f.name, e.Tx)
		}
		f.add(frec{kind: fAbort, tx: e.Tx, pos: pos})
	case wire.EntryConfig:
		if f.s.config.ID.Epoch == 0 && e.Root == nil {
			return fmt.Errorf("%s gets its first config without a root", f.name)
		}
		f.add(frec{kind: fConfig, config: e.Config, pos: pos})
	case wire.EntryOpen:
		f.add(frec{kind: fOpen, pos: pos})
	case wire.EntryVoid:
		f.add(frec{kind: fVoid, pos: pos})
	}
	if len(f.votes) > 0 {
		f.ups = append(f.ups, f.message())
	}
	return nil
}

func (f *fake) prepare(p *wire.Prepare, pos wire.Position, refuse bool) {
	no := func(code wire.Code, text string, blocker wire.ID, name string) {
		err := &wire.Error{Code: code, Text: text, Blocker: blocker, Key: keyOf(name)}
		f.add(frec{kind: fNo, tx: p.Tx, p: p, pos: pos, err: err, w: p.W, svc: p.ServiceTime})
		f.votes = append(f.votes, wire.Vote{Index: pos.Index, Tx: p.Tx, Verdict: wire.VoteNo, Err: err})
	}
	if _, known := f.s.txs[p.Tx]; known {
		f.add(frec{kind: fVoid, pos: pos})
		return
	}
	if first, done := f.s.ops[p.Op]; done {
		o := &wire.Outcome{Tx: first}
		f.add(frec{kind: fDup, tx: p.Tx, p: p, pos: pos, first: o, w: p.W, svc: p.ServiceTime})
		f.votes = append(f.votes, wire.Vote{Index: pos.Index, Tx: p.Tx, Verdict: wire.VoteDup, Outcome: o})
		return
	}
	for _, id := range slices.Sorted(maps.Keys(f.s.txs)) {
		for _, n := range namesOf(p) {
			if f.s.txs[id].State == wire.TxPrepared && slices.Contains(f.s.names[id], n) {
				no(wire.CodeConflict, "blocked by "+id.String(), id, n)
				return
			}
		}
	}
	if refuse || slices.ContainsFunc(namesOf(p), func(n string) bool { return strings.HasPrefix(n, "no-") && n[3:] == f.name }) {
		no(wire.CodeNoSpace, "disk full", 0, "")
		return
	}
	f.add(frec{kind: fPrepare, tx: p.Tx, p: p, pos: pos, w: p.W, svc: p.ServiceTime})
	f.yes = append(f.yes, fyes{len(f.recs), wire.Vote{Index: pos.Index, Tx: p.Tx, Verdict: wire.VoteYes, Outcome: outcomeOf(p), Touched: leftOf(p, touchedOf(p))}})
}

// keyOf is the number of the lock of a name.
func keyOf(name string) (key uint64) {
	for _, c := range []byte(name) {
		key = key<<8 | uint64(c)
	}
	return key
}

func touchedOf(p *wire.Prepare) *wire.Touched {
	t := &wire.Touched{}
	for i := range p.Mutations {
		t.AddName(p.Mutations[i].At)
	}
	return t
}

// sync makes the journal durable and tells the coordinator.
func (f *fake) sync() {
	f.synced = len(f.recs)
	f.release()
	if f.alive {
		f.ups = append(f.ups, f.message())
	}
}

func (f *fake) release() {
	for len(f.yes) > 0 && f.yes[0].rec <= f.synced {
		f.votes = append(f.votes, f.yes[0].vote)
		f.yes = f.yes[1:]
	}
}

func (f *fake) message() wire.Up {
	up := wire.Up{Votes: f.votes, Handled: f.s.pos.Index, Free: 1 << 30}
	f.votes = nil
	for _, r := range f.recs[:f.synced] {
		if r.pos.Epoch == f.s.fence.Number {
			up.Durable = max(up.Durable, r.pos.Index)
		}
	}
	if f.s.pos.Epoch != f.s.fence.Number {
		up.Handled = 0
	}
	return up
}

// crash keeps the first of the records, no fewer than are synced.
func (f *fake) crash(keep int) {
	f.recs = slices.Clone(f.recs[:max(keep, f.synced)])
	f.synced = len(f.recs) // read back from the disk
	f.up, f.alive, f.old = false, false, false
	f.down, f.ups, f.votes, f.yes = nil, nil, nil, nil
	f.reset()
}
