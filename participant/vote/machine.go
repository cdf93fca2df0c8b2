// Package vote is a participant's side of the commit protocol as a pure state
// machine: locks, validation, prepared and in-doubt transactions, votes
// (DESIGN.md section 5, P1-P10).
//
// Entries of the transaction stream go in, in their order; out comes Ready:
// records to append to the journal, votes that may leave at once, votes that
// may leave only after those records are synced, and what the store has to
// apply. There is no goroutine, clock or I/O in it; it reads the decided state
// through a View. Its own state follows from its records alone: a live step
// makes a record and installs it, a replay installs the same record.
//
// The caller appends a Ready's records before it handles the next entry,
// gives its Commit, Abort and Bootstrap to the store in the order of the
// Readies, and ends the participant when a step returns a *ViewError.
package vote

import (
	"fmt"
	"slices"

	"tpcfs/wire"
)

// Ready is what a step asks of the caller.
type Ready struct {
	// Record to append to the journal; nil: none. Forced ones are synced at
	// once, the others ride along (J2).
	Record []byte
	Force  bool
	// Send may leave at once, SendAfterSync when Record is synced.
	Send, SendAfterSync []wire.Vote
	// Commit, Abort: this transaction's effects, at Position. At most one of
	// them, Bootstrap and Opened is set.
	Commit, Abort *Tx
	// Discard are transactions that were in doubt and are given up: others
	// decide them (P11). To the store they are aborted.
	Discard   []*Tx
	Bootstrap *wire.Root
	Opened    bool // recovery of this epoch is over: what nobody names may be swept
	Position  wire.Position
}

// tx is what the machine keeps of a transaction above W.
type tx struct {
	id       wire.ID
	state    wire.TxState
	prepared wire.Position // of its PREPARE; where that never came, of its ABORT
	seen     bool          // the PREPARE came
	op       wire.OpID
	outcome  *wire.Outcome
	err      *wire.Error
	// While prepared only:
	body   *Tx
	walked []Entry
	locks  lockSet
}

// Machine is a participant's protocol state. Use New or Restore.
type Machine struct {
	view View

	fence       wire.Epoch // everything older is refused (P6)
	config      wire.Config
	position    wire.Position // last entry handled (P5)
	w           wire.Position // watermark (P9)
	serviceTime int64         // ms, as last journaled
	time        int64         // the greatest of a transaction that was prepared here (F4a)
	opened      bool          // OPEN of the fence's epoch was handled
	since       wire.Position // last entry handled in an epoch whose OPEN was (P11)
	lastID      wire.ID       // greatest id met
	forgotten   wire.ID       // greatest transaction forgotten under W; ids follow positions
	removed     bool          // for good, by an operator (P14)
	resync      string        // why nothing is testified or served until it has caught up (P11); "": it may

	txs      map[wire.ID]*tx
	locks    lockTable
	stages   map[wire.ID]wire.ID // consumed by the prepared transaction
	ops      map[wire.OpID]wire.ID
	prepared int // transactions in doubt

	spare spareImages
}

// New returns the machine of a participant that has seen nothing.
func New(view View) *Machine {
	return &Machine{view: view, txs: map[wire.ID]*tx{}, locks: lockTable{}, stages: map[wire.ID]wire.ID{}, ops: map[wire.OpID]wire.ID{}}
}

// Position is the last entry handled.
func (m *Machine) Position() wire.Position { return m.position }

// Fence is the newest epoch that greeted.
func (m *Machine) Fence() wire.Epoch { return m.fence }

// W is the watermark.
func (m *Machine) W() wire.Position { return m.w }

// Config is the last config; its ID is zero before the bootstrap.
func (m *Machine) Config() wire.Config { return m.config }

// Resync says why the participant has to catch up before it testifies or
// serves again (P11); "" means that it is in sync.
func (m *Machine) Resync() string { return m.resync }

// Removed reports whether an operator has taken the participant out for good (P14).
func (m *Machine) Removed() bool { return m.removed }

// Opened reports whether OPEN of the fence's epoch was handled.
func (m *Machine) Opened() bool { return m.opened }

// InDoubt is the number of prepared, undecided transactions.
func (m *Machine) InDoubt() int { return m.prepared }

// Consumes reports whether a prepared transaction names the staged object.
func (m *Machine) Consumes(stage wire.ID) bool { _, ok := m.stages[stage]; return ok }

// protocol makes the error that ends a stream.
func protocol(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.CodeProtocol, Text: fmt.Sprintf(format, args...)}
}

// Handle takes the next entry of the stream of the fence's epoch. The entry's
// memory is shared with the machine from then on: nobody changes it. An
// *wire.Error (CodeProtocol) means that the coordinator breaks the protocol:
// nothing has changed, and the stream must end. A *ViewError is fatal.
func (m *Machine) Handle(e *wire.Entry) (Ready, error) {
	if m.resync != "" {
		return Ready{}, protocol("entry %d came to a participant that is out of sync (%s)", e.Index, m.resync)
	}
	if m.position.Epoch != m.fence.Number || e.Index != m.position.Index+1 {
		return Ready{}, protocol("entry %d of epoch %d came after %v", e.Index, m.fence.Number, m.position)
	}
	at := wire.Position{Epoch: m.fence.Number, Index: e.Index}
	switch e.Kind {
	case wire.EntryPrepare:
		return m.handlePrepare(e, at)
	case wire.EntryCommit:
		return m.handleCommit(e.Tx, at)
	case wire.EntryAbort:
		return m.handleAbort(e.Tx, at)
	case wire.EntryConfig:
		return m.handleConfig(e, at)
	case wire.EntryOpen:
		return m.step(&Record{Kind: KindOpen, Position: at}, false), nil
	case wire.EntryVoid:
		return m.void(at), nil
	default:
		return Ready{}, protocol("entry %v has the unknown kind %d", at, e.Kind)
	}
}

// step makes a record part of the state.
func (m *Machine) step(r *Record, force bool) Ready {
	out := m.install(r)
	out.Record, out.Force = r.Encode(), force
	return out
}

func (m *Machine) void(at wire.Position) Ready {
	return m.step(&Record{Kind: KindVoid, Position: at}, false)
}

// serviceTimeStep is how far, in ms, service time must have moved before a
// heartbeat alone is worth a record. Prepares carry it exactly, and everything
// that expires by it was prepared.
const serviceTimeStep = 60_000

// Heartbeat takes W and the service time that came with a heartbeat.
func (m *Machine) Heartbeat(w wire.Position, serviceTime int64) (Ready, error) {
	if m.resync != "" { // W is of what it lacks
		return Ready{Position: m.position}, nil
	}
	if err := m.checkW(w); err != nil {
		return Ready{}, err
	}
	if !m.w.Before(w) && serviceTime-m.serviceTime < serviceTimeStep {
		return Ready{Position: m.position}, nil
	}
	return m.step(&Record{Kind: KindWatermark, W: w, ServiceTime: serviceTime}, false), nil
}

// checkW refuses a W that would forget a transaction in doubt (P9).
func (m *Machine) checkW(w wire.Position) error {
	if !m.w.Before(w) {
		return nil
	}
	if m.position.Before(w) {
		return protocol("watermark %v is beyond entry %v, the last one handled here", w, m.position)
	}
	if m.prepared == 0 {
		return nil
	}
	for id, t := range m.txs {
		if t.state == wire.TxPrepared && !w.Before(t.prepared) {
			return protocol("watermark %v passes transaction %v, which is in doubt here since %v", w, id, t.prepared)
		}
	}
	return nil
}

func (m *Machine) handlePrepare(e *wire.Entry, at wire.Position) (Ready, error) {
	p := e.Prepare
	if p == nil || p.Tx == 0 || p.Tx.Epoch() != at.Epoch || lastID(p).Epoch() != at.Epoch {
		return Ready{}, protocol("entry %v is no prepare of this epoch", at)
	}
	if !m.opened {
		return Ready{}, protocol("prepare %v came before OPEN", at)
	}
	if err := m.checkW(p.W); err != nil {
		return Ready{}, err
	}
	if m.txs[p.Tx] != nil || p.Tx <= m.forgotten { // P10: it is known
		return m.void(at), nil
	}
	mark := Record{Position: at, ID: p.Tx, Op: p.Op, Last: lastID(p), W: p.W, ServiceTime: p.ServiceTime}
	outcome, found, err := m.view.Op(p.Op)
	if err != nil {
		return Ready{}, &ViewError{err}
	}
	if found { // before all else: a retry may well conflict with what it did (G5)
		mark.Kind, mark.Outcome = KindDup, &outcome
		out := m.step(&mark, false)
		out.Send = []wire.Vote{{Index: at.Index, Tx: p.Tx, Verdict: wire.VoteDup, Outcome: &outcome}}
		return out, nil
	}
	b, body, err := m.consider(e, at)
	if err == nil {
		return m.yes(b, body, p, at)
	}
	refusal, fatal := verdictOf(err)
	if fatal != nil {
		return Ready{}, fatal
	}
	mark.Kind, mark.Err = KindNo, refusal
	out := m.step(&mark, false)
	out.Send = []wire.Vote{{Index: at.Index, Tx: p.Tx, Verdict: wire.VoteNo, Err: cloneError(refusal)}}
	return out, nil
}

// consider makes the checks of P2 that follow on the op id's, in their order:
// locks and validation as the names are walked, limits, space.
func (m *Machine) consider(e *wire.Entry, at wire.Position) (*binder, *Tx, error) {
	p := e.Prepare
	if p.Config != m.config.ID {
		return nil, nil, protocol("prepare %v was put under config %v; this participant holds %v", at, p.Config, m.config.ID)
	}
	if id, ok := m.ops[p.Op]; ok {
		return nil, nil, &wire.Error{Code: wire.CodeConflict, Text: fmt.Sprintf("transaction %v of the same request is undecided", id)}
	}
	if p.ServiceTime-p.Sent > wire.ServiceTimeHold { // S1a: its row may have gone
		return nil, nil, &wire.Error{Code: wire.CodeUnknownOutcome,
			Text: fmt.Sprintf("the request was first sent %d s of service time ago, longer than outcomes are kept; look whether it was done", (p.ServiceTime-p.Sent)/1000)}
	}
	b := &binder{overlay: newOverlay(m.view, m.locks, p.Tx), prepare: p, payload: e.Payload, stages: m.stages, staged: map[wire.ID]bool{}, images: map[imageKey]*image{}, spare: &m.spare}
	payload, err := b.bind()
	m.spare.put(b.images)
	if err != nil {
		return nil, nil, err
	}
	body := &Tx{ID: p.Tx, Prepared: at, Op: p.Op, Lowest: p.Lowest, Time: p.Time, ServiceTime: p.ServiceTime,
		Outcome: wire.Outcome{Tx: p.Tx, Results: b.results, Orphans: b.orphans()}, Bounds: b.bounds, Payload: payload}
	body.Keep = p.Keep
	body.Left, body.MoreLeft = b.left()
	if p.Pack != nil { // its results would be longer than all the rest
		body.Pack, body.mutations, body.Outcome.Results = p.Pack, b.mutations, nil
	}
	return b, body, nil
}

// yes reserves space and makes the PREPARE record; the vote follows its sync.
func (m *Machine) yes(b *binder, body *Tx, p *wire.Prepare, at wire.Position) (Ready, error) {
	r := &Record{Kind: KindPrepare, Position: at, W: p.W, Tx: body, Walked: onlyWalked(b.order, body.Bounds), Last: lastID(p)}
	raw := r.Encode()
	var refusal *wire.Error
	if n := len(raw) - len(r.payload()); n > wire.MaxBindings {
		refusal = &wire.Error{Code: wire.CodeTooMany, Text: fmt.Sprintf("the transaction's names and numbers take %d bytes; at most %d fit, split it", n, wire.MaxBindings)}
	} else if err := m.reserve(body); err != nil {
		if wire.CodeOf(err) != wire.CodeNoSpace {
			return Ready{}, &ViewError{err}
		}
		refusal, _ = verdictOf(err)
	}
	if refusal != nil {
		mark := &Record{Kind: KindNo, Position: at, ID: p.Tx, Op: p.Op, Last: lastID(p), W: p.W, ServiceTime: p.ServiceTime, Err: refusal}
		out := m.step(mark, false)
		out.Send = []wire.Vote{{Index: at.Index, Tx: p.Tx, Verdict: wire.VoteNo, Err: cloneError(refusal)}}
		return out, nil
	}
	out := m.install(r)
	out.Record, out.Force = raw, true
	out.SendAfterSync = []wire.Vote{{Index: at.Index, Tx: p.Tx, Verdict: wire.VoteYes, Outcome: &body.Outcome, Touched: body.touched()}}
	return out, nil
}

// cloneError copies an error that leaves the machine: who hears it may add to it.
func cloneError(e *wire.Error) *wire.Error {
	if e == nil {
		return nil
	}
	c := *e
	return &c
}

// lastID is the greatest id that a prepare's transaction reserves.
func lastID(p *wire.Prepare) wire.ID {
	n := len(p.Mutations)
	if p.Pack != nil {
		n = min(p.Pack.Count, wire.MaxMutations)
	}
	return p.Tx + wire.ID(max(1, n)) - 1
}

// reserve asks for the space that body will take (S3, S6).
func (m *Machine) reserve(body *Tx) error {
	rows, deletes := 2, true // the op id's row, the changed-keys index
	bytes, room := int64(len(body.Payload)), int64(0)
	for i := range body.Bounds {
		b := &body.Bounds[i]
		rows += 6 + b.Xattrs
		bytes += int64(256 + 2*(len(b.Name)+len(b.ToName)+len(b.Target)) + len(b.Xattr) + len(b.Value) + b.Xattrs*wire.MaxNameLen)
		deletes = deletes && onlyDeletes(b.Kind)
		pages := b.pages()
		bytes += pages * pageBytes
		rows += int(pages)
		room += b.Room
	}
	return m.view.Reserve(body.ID, rows, bytes, room, deletes)
}

// A row of checksums is of 16 MiB and takes so many bytes.
const (
	pageSpan  = 256 * wire.BlockSize
	pageBytes = 256*5 + 16
)

// pages is how many rows of checksums a change of contents in place touches.
func (b *Bound) pages() int64 {
	span := func(from, length int64) int64 {
		if length == 0 {
			return 0
		}
		return (from+length-1)/pageSpan - from/pageSpan + 1
	}
	pages, last := int64(0), int64(-1)
	for i := range b.Extents {
		e := &b.Extents[i]
		pages += span(e.Offset, e.Size)
		if e.Offset/pageSpan == last {
			pages--
		}
		last = (e.Offset + e.Size - 1) / pageSpan
	}
	if b.Kind != wire.MutPunchHole {
		pages += span(b.Offset, b.Length)
	}
	return pages
}

func onlyDeletes(k wire.MutationKind) bool {
	switch k {
	case wire.MutDeleteFile, wire.MutRmdir, wire.MutRemovexattr, wire.MutReclaim:
		return true
	default:
		return false
	}
}

func (m *Machine) handleCommit(id wire.ID, at wire.Position) (Ready, error) {
	t := m.txs[id]
	switch {
	case t == nil && id <= m.forgotten:
		return m.void(at), nil
	case t == nil:
		return Ready{}, protocol("entry %v commits transaction %v, which was never prepared here", at, id)
	case t.state == wire.TxCommitted:
		return m.void(at), nil
	case t.state != wire.TxPrepared:
		return Ready{}, protocol("entry %v commits transaction %v, which did not get a yes here or was aborted", at, id)
	}
	return m.step(&Record{Kind: KindCommit, Position: at, ID: id}, false), nil
}

func (m *Machine) handleAbort(id wire.ID, at wire.Position) (Ready, error) {
	t := m.txs[id]
	switch {
	case t == nil && id <= m.forgotten, t != nil && t.state == wire.TxAborted:
		return m.void(at), nil
	case t != nil && t.state == wire.TxCommitted:
		return Ready{}, protocol("entry %v aborts transaction %v, which is committed here", at, id)
	case id.Epoch() > at.Epoch: // it would be the greatest id met, which a next coordinator must not be behind of
		return Ready{}, protocol("entry %v aborts transaction %v, of an epoch to come", at, id)
	}
	// Those that voted NO, or never heard of it, keep the ABORT too (P4).
	return m.step(&Record{Kind: KindAbort, Position: at, ID: id}, false), nil
}

func (m *Machine) handleConfig(e *wire.Entry, at wire.Position) (Ready, error) {
	c := e.Config
	zero := wire.ConfigID{}
	switch {
	case c == nil || c.ID == zero:
		return Ready{}, protocol("entry %v carries no config", at)
	case m.config.ID != zero && m.config.Cluster != c.Cluster:
		return Ready{}, protocol("config %v is of cluster %v; this participant belongs to %v", c.ID, c.Cluster, m.config.Cluster)
	case m.config.ID == zero && e.Root == nil:
		return Ready{}, protocol("config %v is the first one here and describes no root directory", c.ID)
	case c.ID.Compare(m.config.ID) <= 0:
		return m.void(at), nil
	case c.ID.Epoch > at.Epoch || len(wire.Marshal(c)) > wire.MaxBindings:
		return Ready{}, protocol("entry %v carries config %v, of an epoch to come or too large for a record", at, c.ID)
	}
	r := &Record{Kind: KindConfig, Position: at, Config: c}
	if m.config.ID == zero {
		r.Root = e.Root
	}
	return m.step(r, true), nil
}

// install makes a record's change: the only place where the state changes,
// live and at a replay alike.
func (m *Machine) install(r *Record) Ready {
	out := Ready{}
	switch r.Kind {
	case KindPrepare:
		m.becomePrepared(r)
	case KindCommit:
		t := m.txs[r.ID]
		out.Commit = t.body
		m.undoubt(t, wire.TxCommitted)
	case KindAbort:
		out.Abort = m.becomeAborted(r)
	case KindNo, KindDup:
		m.txs[r.ID] = &tx{id: r.ID, state: wire.TxRefused, prepared: r.Position, seen: true, op: r.Op, outcome: r.Outcome, err: r.Err}
	case KindConfig:
		m.config = *r.Config
		out.Bootstrap = r.Root
	case KindOpen:
		m.opened, out.Opened = true, true
	case KindEpoch:
		m.fence, m.opened = r.Epoch, false
		m.position = wire.Position{Epoch: r.Epoch.Number}
		if r.Resync != "" {
			out.Discard = m.becomeOutside(r.Resync)
		}
	case KindResync:
		out.Discard = m.becomeOutside(r.Resync)
	default: // a position, or W, and no more
	}
	if m.position.Before(r.Position) {
		m.position = r.Position
	}
	if m.opened {
		m.since = m.position
	}
	m.removed = m.removed || r.Removed
	m.lastID = max(m.lastID, r.ID, r.Last)
	m.serviceTime = max(m.serviceTime, r.ServiceTime)
	if m.w.Before(r.W) {
		m.w = r.W
		m.forget()
	}
	out.Position = m.position
	return out
}

// becomeOutside marks the participant as out of sync. What it knows of
// transactions is void: who asks it would be misled.
func (m *Machine) becomeOutside(why string) []*Tx {
	var discard []*Tx
	for _, t := range m.known() {
		if t.state == wire.TxPrepared {
			discard = append(discard, t.body)
			m.undoubt(t, wire.TxAborted)
		}
	}
	m.txs, m.resync = map[wire.ID]*tx{}, why
	return discard
}

func (m *Machine) becomePrepared(r *Record) {
	body := r.Tx
	t := &tx{id: body.ID, state: wire.TxPrepared, prepared: body.Prepared, seen: true, op: body.Op, outcome: &body.Outcome,
		body: body, walked: r.Walked, locks: locksOf(body.Bounds, r.Walked)}
	m.txs[t.id] = t
	m.prepared++
	m.ops[t.op] = t.id
	for k, exclusive := range t.locks {
		m.locks.grant(t.id, k, exclusive)
	}
	for _, stage := range body.Stages() {
		m.stages[stage] = t.id
	}
	m.lastID = max(m.lastID, body.ID)
	m.serviceTime = max(m.serviceTime, body.ServiceTime)
	m.time = max(m.time, body.Time)
}

func (m *Machine) becomeAborted(r *Record) *Tx {
	t := m.txs[r.ID]
	if t == nil {
		m.txs[r.ID] = &tx{id: r.ID, state: wire.TxAborted, prepared: r.Position}
		return nil
	}
	if t.state == wire.TxRefused {
		t.state, t.outcome, t.err = wire.TxAborted, nil, nil
		return nil
	}
	body := t.body
	m.undoubt(t, wire.TxAborted)
	return body
}

// undoubt decides a prepared transaction: its locks and stages go.
func (m *Machine) undoubt(t *tx, state wire.TxState) {
	if t == nil || t.state != wire.TxPrepared {
		panic("vote: a decision about a transaction that is not in doubt")
	}
	for k := range t.locks {
		m.locks.release(t.id, k)
	}
	for _, stage := range t.body.Stages() {
		delete(m.stages, stage)
	}
	delete(m.ops, t.op)
	m.prepared--
	t.state, t.body, t.walked, t.locks = state, nil, nil, nil
	if state == wire.TxAborted {
		t.outcome = nil
	}
}

// forget drops what is decided up to W (P9).
func (m *Machine) forget() {
	for id, t := range m.txs {
		if t.state != wire.TxPrepared && !m.w.Before(t.prepared) {
			m.forgotten = max(m.forgotten, id)
			delete(m.txs, id)
		}
	}
}

// Stages lists the staged objects that the transaction consumes.
func (t *Tx) Stages() []wire.ID {
	var ids []wire.ID
	if t.Pack != nil {
		ids = append(ids, t.Pack.Stage)
	}
	for i := range t.Bounds {
		if id := t.Bounds[i].Content.Stage; id != 0 {
			ids = append(ids, id)
		}
		for k := range t.Bounds[i].Extents {
			if id := t.Bounds[i].Extents[k].Stage; id != 0 {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// Replay installs a record of the journal; the caller gives its effects to the
// store. Records must follow, in order, on the state that was restored; b
// belongs to the machine afterwards. The error is an *wire.Error with CodeCorrupt.
func (m *Machine) Replay(b []byte) (Ready, error) {
	r, err := DecodeRecord(b)
	if err != nil {
		return Ready{}, err
	}
	if err := m.unpack(r); err != nil {
		return Ready{}, err
	}
	if err := m.checkReplay(r); err != nil {
		return Ready{}, err
	}
	out := m.install(r)
	if r.Kind == KindPrepare {
		if err := m.reserve(r.Tx); err != nil && wire.CodeOf(err) != wire.CodeNoSpace {
			return Ready{}, &ViewError{err}
		}
	}
	return out, nil
}

// checkReplay refuses a record that cannot follow on the state: the journal
// and the store are not of one participant, or one of them is damaged.
func (m *Machine) checkReplay(r *Record) error {
	t := m.txs[r.ID]
	switch r.Kind {
	case KindEpoch:
		if r.Epoch.Number <= m.fence.Number {
			return corrupt("EPOCH %d after epoch %d", r.Epoch.Number, m.fence.Number)
		}
		return nil
	case KindResync:
		return nil
	case KindWatermark:
		return m.replayW(r.W)
	case KindPrepare:
		if m.txs[r.Tx.ID] != nil || r.Tx.Prepared != r.Position {
			return corrupt("PREPARE of transaction %v, which is known", r.Tx.ID)
		}
		for k, exclusive := range locksOf(r.Tx.Bounds, r.Walked) {
			if id := m.locks.blocker(r.Tx.ID, k, exclusive); id != 0 {
				return corrupt("PREPARE of transaction %v locks what transaction %v holds", r.Tx.ID, id)
			}
		}
	case KindCommit:
		if t == nil || t.state != wire.TxPrepared {
			return corrupt("COMMIT of transaction %v, which is not prepared", r.ID)
		}
	case KindAbort:
		if t != nil && t.state != wire.TxPrepared && t.state != wire.TxRefused {
			return corrupt("ABORT of transaction %v, which is decided", r.ID)
		}
	case KindNo, KindDup:
		if t != nil {
			return corrupt("%v of transaction %v, which is known", r.Kind, r.ID)
		}
	default: // they follow on anything
	}
	if want := (wire.Position{Epoch: m.fence.Number, Index: m.position.Index + 1}); r.Position != want {
		return corrupt("%v at %v where %v should follow", r.Kind, r.Position, want)
	}
	return m.replayW(r.W)
}

func (m *Machine) replayW(w wire.Position) error {
	if err := m.checkW(w); err != nil {
		return corrupt("%v", err)
	}
	return nil
}

// known lists what P7 asks for, in the order of ids.
func (m *Machine) known() []*tx {
	list := make([]*tx, 0, len(m.txs))
	for _, t := range m.txs {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *tx) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return list
}

// Stages are the staged objects that prepared transactions name.
func (m *Machine) Stages() map[wire.ID]bool {
	ids := make(map[wire.ID]bool, len(m.stages))
	for id := range m.stages {
		ids[id] = true
	}
	return ids
}
