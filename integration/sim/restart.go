package sim

import (
	"errors"
	"fmt"
	"slices"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/participant/store"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// Where processes keep their data, and the names of things: fixed, so that
// bytes are the same in every run of a seed.
const (
	memberDir = "/member"
	reignDir  = "/coordinator"
)

func uuidOf(kind byte, n uint64) wire.UUID {
	return wire.UUID{kind, byte(n >> 56), byte(n >> 48), byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// restart starts a participant's process: mirrors participant.Open and
// recoverState. An error that the disk's sudden end explains is no fault.
func (p *member) restart() {
	err := p.recover()
	if p.struck() || crashed(err) {
		p.w.tracef("P%d crashes in its recovery", p.i)
		p.w.lostPower(p.host)
		return
	}
	if err != nil {
		if !p.excuses(err) {
			p.w.violate("recovery", "P%d cannot recover: %v", p.i, err)
		}
		if p.rotten {
			p.w.reach(reachRotRefused)
		}
		if p.lossy {
			p.w.loserNamed()
		}
		p.w.tracef("P%d cannot start: %v", p.i, err)
		p.processEnds()
		return
	}
	p.up = true
	p.staysRemoved()
	p.w.tracef("P%d is up: epoch %d, handled %v, W %v, %d in doubt", p.i, p.m.Fence().Number, p.m.Position(), p.m.W(), p.m.InDoubt())
}

// view mirrors participant.view: no YES without a spare segment (S6).
type view struct {
	*store.Store
	p    *member
	room func() bool // nil: a redo
}

func (v *view) Reserve(id wire.ID, rows int, bytes, room int64, deletes bool) error {
	if v.room != nil && v.p.refuses > 0 {
		v.p.refuses--
		return wire.NewError(wire.CodeNoSpace, "no space for this one")
	}
	if !deletes && v.room != nil && !v.room() {
		return wire.NewError(wire.CodeNoSpace, "the journal has no reserve")
	}
	return v.Store.Reserve(id, rows, bytes, room, deletes)
}

func (p *member) recover() error {
	model, err := store.NewModelKV(p.fs, memberDir)
	if err != nil {
		return err
	}
	kv := &rottingKV{model, p.host}
	s, err := store.Open(store.Options{
		FS: p.fs, Dir: memberDir, KV: kv, InlineMax: p.w.inlineMax, TableBytes: p.w.tableBytes,
		Ballast: 64 << 10, Workers: 1, Fanout: 2, UUID: uuidOf('s', p.diskNumber()), Held: p.checkpointLetsGo,
	})
	if err != nil {
		return err
	}
	v := &view{Store: s, p: p}
	applied, state := s.Meta()
	m, err := vote.Restore(v, state)
	if err != nil {
		return err
	}
	log, err := journal.Open(journal.Options{FS: p.fs, Dir: memberDir + "/journal", SegmentSize: p.w.segmentSize, ID: uuidOf('j', p.diskNumber())})
	if err != nil {
		return err
	}
	p.w.journalOpened(p.host, log)
	switch {
	case log.End() < applied:
		return corrupt("the journal ends at record %d, the store has applied %d", log.End(), applied)
	case log.First() > applied+1:
		return corrupt("the journal begins with record %d, the store has applied only %d", log.First(), applied)
	}
	if log.End() > applied {
		err = log.Replay(applied+1, func(lsn journal.LSN, record []byte) error { return p.redo(s, m, lsn, record) })
		if err != nil {
			return err
		}
	}
	p.begin(s, m, newWriter(p.host, log))
	p.kv = kv
	v.room = func() bool { st := log.Stats(); return st.Spares > 0 || st.SpareError == "" }
	return nil
}

// redo mirrors recovered.redo.
func (p *member) redo(s *store.Store, m *vote.Machine, lsn journal.LSN, record []byte) error {
	out, err := m.Replay(append([]byte(nil), record...))
	if err == nil {
		err = applyTo(s, &out)
	}
	if err != nil {
		return fmt.Errorf("record %d: %w", lsn, err)
	}
	p.w.decided(p, &out)
	if !s.TableFull() || !s.NeedCheckpoint() {
		return nil
	}
	ck, err := s.Freeze(lsn, m.Snapshot())
	if err != nil {
		return err
	}
	return ck.Run(func() error { return nil })
}

// begin mirrors newOwner, newGate and the beginning of run.
func (p *member) begin(s *store.Store, m *vote.Machine, j *writer) {
	position, stats := m.Position(), j.log.Stats()
	*p = member{
		host: p.host, w: p.w, i: p.i, fences: p.fences,
		store: s, m: m, j: j,
		durable: position.Index, end: stats.End, fence: stats.End,
		carried:   uint64(max(0, stats.Segments-1)) * uint64(stats.SegmentBytes),
		gateEpoch: m.Fence(), gateHandled: position.Index,
	}
	p.w.undecided(p)
	p.maybeCheckpoint()
	if p.m.Opened() {
		p.startSweep()
	}
}

// stops ends a participant's process properly: mirrors teardown.
func (p *member) stops() {
	p.stopping = true
	for len(p.resyncs) > 0 {
		p.runResync(p.resyncs[0], -1)
	}
	p.j.forceLazy()
	for p.j.ready() {
		p.j.work(-1)
	}
	if p.ck != nil {
		p.checkpointGoesOn(-1)
	}
	if p.sweep != nil {
		p.sweep.run(-1)
	}
	if p.fatal == nil && p.j.err == nil && p.j.synced == p.end && p.end > p.frozenAt {
		p.freeze()
		p.checkpointGoesOn(-1)
		for p.j.ready() && p.j.err == nil {
			p.j.work(-1)
		}
	}
	if p.fatal == nil && p.j.err == nil {
		// Its failures leave what a crash leaves.
		_ = p.j.log.Close()
		_ = p.store.Close()
	}
}

// down forgets all that a participant's process had in memory.
func (p *member) down() {
	p.up = false
	for _, k := range slices.Clone(p.incoming) {
		k.breaks(true)
	}
	for _, g := range p.greets {
		g.conn.breaks(true)
	}
	for _, c := range p.w.reigns() {
		if k := c.conns[p.i]; k != nil {
			k.breaks(true)
		}
	}
	if p.conn != nil {
		p.conn.ended = true
		p.conn.breaks(true)
	}
	p.incoming, p.greets, p.conn = nil, nil, nil
	for _, k := range p.joinGreets {
		k.breaks(true)
	}
	p.ck, p.sweep, p.staging, p.fatal, p.refuses = nil, nil, nil, nil, 0
	p.resyncs, p.steps, p.join, p.joinGreets, p.moments = nil, nil, nil, nil, nil
}

// reign starts a coordinator's process on h: mirrors Coordinator.reign and openLedger.
func (w *world) reign(h *host) (*reign, error) {
	log, err := journal.Open(journal.Options{FS: h.fs, Dir: reignDir, SegmentSize: w.segmentSize, ID: uuidOf('j', 99)})
	if err != nil {
		return nil, err
	}
	w.journalOpened(h, log)
	var state commit.State
	known := log.First() == 1
	err = log.Replay(log.First(), func(lsn journal.LSN, b []byte) error {
		r, err := commit.DecodeRecord(b)
		if err != nil {
			return err
		}
		if known = known || r.Kind == commit.RecSnapshot; !known {
			return nil
		}
		return state.Apply(r)
	})
	if err == nil && !known && log.End() > 0 {
		err = fmt.Errorf("the journal's oldest record is %d, and there is no SNAPSHOT", log.First())
	}
	if err != nil {
		return nil, err
	}
	w.runs++
	c := &reign{w: w, host: h, epoch: wire.Epoch{Number: state.Epoch.Number + 1, Run: uuidOf('r', w.runs)}, conns: make([]*conn, len(w.members)), held: make([]bool, len(w.members))}
	c.recallsBook()
	var base wire.ConfigID
	if state.Config != nil {
		base = state.Config.ID
	}
	c.beyond = base.Compare(w.served) < 0
	o := commit.Options{State: state, Cluster: uuidOf('c', 1), Root: wire.Root{Mode: 0o755, Time: 1}, MaxAhead: w.maxAhead, MinInSync: w.minInSync}
	if w.evicts() {
		o.EvictAfter, o.Heartbeat, o.EvictSlow = w.evictAfter, max(w.evictAfter/6, 1), w.evictSlow
	}
	if o.MaxAhead == 0 {
		o.MaxAhead = 8192
	}
	// Mirrors reign: a SNAPSHOT, which holds the decisions above W, fits a record.
	o.MaxAhead = min(o.MaxAhead, uint64(max((log.MaxRecord()-4096)/80, 16)))
	for _, p := range w.members {
		o.Peers = append(o.Peers, commit.Peer{Name: p.name, Addr: p.name + ":1"})
	}
	o.State.Epoch = c.epoch
	if c.m, err = commit.New(o); err != nil {
		return nil, err
	}
	if _, err = log.Append((&commit.Record{Kind: commit.RecEpoch, Epoch: c.epoch}).Encode()); err == nil && w.broken != epochNotForced {
		err = log.Flush()
	}
	if err != nil {
		return nil, err
	}
	h.syncedTo = log.Synced()
	c.j = newWriter(h, log)
	for i := range w.members {
		c.inSync = append(c.inSync, c.inSyncAt(i))
	}
	return c, nil
}

// startReign starts the coordinator; a crash in the middle is one more crash.
func (w *world) startReign() {
	h := w.coordinator
	c, err := w.reign(h)
	switch {
	case h.struck() || crashed(err):
		w.tracef("the coordinator crashes at its start")
		w.lostPower(h)
		return
	case err != nil:
		var full *journal.FullError
		if !h.excuses(err) && !errors.As(err, &full) {
			w.violate("recovery", "the coordinator cannot start: %v", err)
		}
		if h.rotten {
			w.reach(reachRotRefused)
		}
		w.tracef("the coordinator cannot start: %v", err)
		if h.processEnds(); h.lossy {
			w.reach(reachLostNamed)
			w.takeBackTruth()
		}
		return
	}
	c.suspect, c.beyond = w.restored, c.beyond || w.fencedBeyond(c.epoch.Number)
	if c.suspect {
		w.stray = max(w.stray, c.epoch.Number)
	}
	w.cur = c
	w.membership(c)
	w.tracef("C%d starts%s", c.epoch.Number, map[bool]string{true: " on a restored backup"}[c.suspect])
}

// fencedBeyond: has a participant answered the greeting of that epoch, or a
// later one?
func (w *world) fencedBeyond(epoch uint64) bool {
	for _, p := range w.members {
		for e := range p.fences {
			if e >= epoch {
				return true
			}
		}
	}
	return false
}
