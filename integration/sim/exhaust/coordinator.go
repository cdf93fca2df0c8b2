package exhaust

import (
	"cmp"
	"fmt"
	"slices"

	"tpcfs/coordinator/commit"
	"tpcfs/wire"
)

var cluster = wire.UUID{'c'}

func epochOf(n uint64) wire.Epoch { return wire.Epoch{Number: n, Run: wire.UUID{'r', byte(n)}} }

// event is what a coordinator is told. Each is followed by a Ready.
type event struct {
	kind eventKind
	i    uint8 // member, or operation
	try  uint8 // of the operation, from 1
	link uint32
	arg  uint32 // message, or greeting
	beat bool   // and a tick before the same Ready
}

type eventKind uint8

const (
	evGreeted eventKind = iota + 1
	evLinkDown
	evUp
	evSubmit    // by a new link of the session
	evDelayed   // by an old link of the session
	evJournaled // the CONFIG is durable
	evTick
)

// reign is a state of the commit machine: what it started from and what it was
// told since. The machine cannot be copied; it is made again by telling it all.
type reign struct {
	from  uint32 // ledger that it started on, its EPOCH included
	prev  uint32 // reign state before the last event; 0: none
	event event

	ledger  uint32 // what its journal says once all records are in it
	epoch   uint64
	serving bool
	read    uint64 // where reads start (P5)
	last    uint64
	w       wire.Position
	queued  int
}

// round is what an event makes a coordinator do.
type round struct {
	to      uint32
	link    uint32 // evGreeted: the new link's number
	sends   []send
	ledgers []uint32 // what its journal says after each new record
	config  bool     // one of them is a CONFIG
	decided []decision
	answers []answer
	bad     *violation
}

type send struct {
	member uint8
	down   uint32
}

type decision struct {
	tx     wire.ID
	commit bool
}

// answer is what a client hears of an operation's attempt.
type answer struct {
	op, try uint8
	code    wire.Code // 0: it has committed
	tx      wire.ID
}

type roundKey struct {
	state uint32
	event event
}

// coordinators does coordinators' steps, each once.
type coordinators struct {
	box       *Box
	replicas  *replicas
	ledgers   pool[[]byte] // SNAPSHOT records
	ups       pool[wire.Up]
	greetings pool[wire.Greeting]
	reigns    pool[reign]
	rounds    map[roundKey]*round

	// The machine that did the last step, for the next one from there.
	warm  *commit.Machine
	state uint32
}

func newCoordinators(b *Box, r *replicas) *coordinators {
	return &coordinators{box: b, replicas: r, rounds: map[roundKey]*round{}}
}

func (c *coordinators) ledger(r *commit.Record) uint32 {
	timeless := *r // files' times decide nothing
	timeless.Time = 0
	b := timeless.Encode()
	return c.ledgers.number(b, b)
}

func (c *coordinators) stateOf(ledger uint32) commit.State {
	var s commit.State
	if ledger == 0 {
		return s
	}
	r, err := commit.DecodeRecord(c.ledgers.values[ledger])
	if err == nil {
		err = s.Apply(r)
	}
	if err != nil {
		panic("exhaust: a ledger of ours: " + err.Error())
	}
	return s
}

// start begins a reign on a ledger: its EPOCH is durable first (P6).
func (c *coordinators) start(ledger uint32) (uint32, *violation) {
	s := c.stateOf(ledger)
	if err := s.Apply(&commit.Record{Kind: commit.RecEpoch, Epoch: epochOf(s.Epoch.Number + 1)}); err != nil {
		return 0, violated("recovery", "the next epoch: %v", err)
	}
	with := c.ledger(s.Snapshot())
	m, err := c.machine(with)
	if err != nil {
		return 0, violated("recovery", "the coordinator cannot start: %v", err)
	}
	m.Ready()
	return c.enter(m, reign{from: with}), nil
}

func (c *coordinators) machine(ledger uint32) (*commit.Machine, error) {
	// A heartbeat with each tick; ticks of no time keep time out of the state.
	o := commit.Options{State: c.stateOf(ledger), Cluster: cluster, Root: wire.Root{Mode: 0o755}, Heartbeat: -1}
	for i := range c.box.Replicas {
		o.Peers = append(o.Peers, commit.Peer{Name: memberName(i), Addr: memberName(i) + ":1"})
	}
	return commit.New(o)
}

func memberName(i int) string { return fmt.Sprintf("P%d", i) }

// skipped are fields without meaning for what comes: the options' copy of the
// state that the machine started from (its own goes on from there), words, and
// files' times.
var skipped = map[string]bool{"Options.State": true, "Error.Text": true, "member.handled": true, "State.Time": true, "tx.time": true, "Prepare.Time": true}

func (c *coordinators) enter(m *commit.Machine, r reign) uint32 {
	d := fingerprint(m, skipped)
	if n := c.reigns.numbers[string(d[:])]; n != 0 {
		return n
	}
	st := m.Status()
	r.ledger, r.epoch = c.ledger(m.Snapshot()), st.Epoch.Number
	r.serving, r.read, r.last, r.w, r.queued = m.Phase() == commit.Serving, m.ReadPoint(), st.Last.Index, st.W, st.Queued
	return c.reigns.number(d[:], r)
}

// rebuild makes the machine of a state again.
func (c *coordinators) rebuild(state uint32) *commit.Machine {
	if c.warm != nil && c.state == state {
		m := c.warm
		c.warm = nil
		return m
	}
	var events []event
	r := &c.reigns.values[state]
	for ; r.prev != 0; r = &c.reigns.values[r.prev] {
		events = append(events, r.event)
	}
	m, err := c.machine(r.from)
	if err != nil {
		panic("exhaust: a machine that was: " + err.Error())
	}
	m.Ready()
	for _, e := range slices.Backward(events) {
		c.tell(m, e)
		m.Ready()
	}
	return m
}

func (c *coordinators) step(state uint32, e event) *round {
	k := roundKey{state, e}
	if r := c.rounds[k]; r != nil {
		return r
	}
	r := &round{}
	func() {
		defer func() {
			if p := recover(); p != nil {
				r.bad = violated("panic", "the commit machine panics: %v", p)
			}
		}()
		c.run(k, r)
	}()
	c.rounds[k] = r
	return r
}

func (c *coordinators) run(k roundKey, r *round) {
	m := c.rebuild(k.state)
	before := c.reigns.values[k.state]
	r.link = c.tell(m, k.event)
	rd := m.Ready()
	if rd.Stop != nil {
		r.bad = violated("stop", "the coordinator stops: %v", rd.Stop)
		return
	}
	for _, d := range rd.Drop {
		r.bad = violated("protocol", "the coordinator drops a link: %v", d.Err)
		return
	}
	for _, s := range rd.Sends {
		d := s.Down
		if d.Entry != nil {
			d.W = wire.Position{} // W counts in heartbeats alone
		}
		r.sends = append(r.sends, send{uint8(s.Member), c.replicas.down(d)})
	}
	r.bad = c.journal(&before, m, rd.Records, r)
	for _, rep := range rd.Replies {
		a := answer{op: rep.Request.Token.(event).i, try: rep.Request.Token.(event).try}
		if rep.Err != nil {
			a.code = rep.Err.Code
		} else {
			a.tx = rep.Reply.Outcome.Tx
		}
		r.answers = append(r.answers, a)
	}
	slices.SortFunc(r.answers, func(a, b answer) int { return cmp.Or(cmp.Compare(a.op, b.op), cmp.Compare(a.try, b.try)) })
	r.to = c.enter(m, reign{from: before.from, prev: k.state, event: k.event})
	c.warm, c.state = m, r.to
}

// journal follows the ledger through the new records: a crash may keep any
// number of them.
func (c *coordinators) journal(before *reign, m *commit.Machine, records []*commit.Record, r *round) *violation {
	s := c.stateOf(before.ledger)
	for _, rec := range records {
		rec, err := commit.DecodeRecord(rec.Encode())
		if err == nil {
			err = s.Apply(rec)
		}
		if err != nil {
			return violated("redo", "a record of the coordinator's journal: %v", err)
		}
		r.ledgers = append(r.ledgers, c.ledger(s.Snapshot()))
		if rec.Kind == commit.RecConfig {
			r.config = true
		}
		if d := rec.Decision; d != nil {
			r.decided = append(r.decided, decision{d.Tx, d.Commit})
		}
	}
	if c.ledger(s.Snapshot()) != c.ledger(m.Snapshot()) {
		return violated("redo", "the coordinator's records do not add up to its SNAPSHOT")
	}
	return nil
}

// tell feeds the machine; the result is a new link's number.
func (c *coordinators) tell(m *commit.Machine, e event) uint32 {
	switch e.kind {
	case evGreeted:
		g := c.greetings.values[e.arg]
		g.Known = slices.Clone(g.Known)
		g.Storage = wire.UUID{'s', e.i}
		link, _ := m.Greeted(int(e.i), g)
		return uint32(link)
	case evLinkDown:
		m.LinkDown(int(e.i), uint64(e.link))
	case evUp:
		up := c.ups.values[e.arg]
		up.Votes = slices.Clone(up.Votes)
		m.Up(int(e.i), uint64(e.link), &up)
		if e.beat {
			m.Tick(0)
		}
	case evSubmit:
		a := m.Attach(c.box.session(int(e.i)))
		c.submit(m, e, a.Link)
		return uint32(a.Link)
	case evDelayed:
		c.submit(m, e, uint64(e.link))
	case evJournaled:
		m.Journaled(wire.ConfigID{Epoch: m.Status().Epoch.Number, Counter: 1})
	case evTick:
		m.Tick(0)
	}
	return 0
}

func (c *coordinators) submit(m *commit.Machine, e event, link uint64) {
	m.Submit(&commit.Request{Token: e, Transact: wire.Transact{
		Op: c.box.op(int(e.i)), Link: link, Lowest: 1, Mutations: c.box.mutations(int(e.i)),
	}})
}

func (c *coordinators) up(u wire.Up) uint32 { return c.ups.number(wire.Marshal(u), u) }

func (c *coordinators) greeting(g wire.Greeting) uint32 {
	return c.greetings.number(wire.Marshal(g), g)
}
