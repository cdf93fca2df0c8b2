// Package commit is the coordinator's side of two-phase commit as a pure state
// machine: sessions and their requests, votes, decisions, epochs, the config,
// the watermark (DESIGN.md section 5, P1-P13).
//
// The caller owns the I/O and one goroutine. It feeds what happened by the
// methods of Machine (a greeting, a message, a lost link, a request, a record
// that became durable, a tick), then calls Ready and carries out what that
// holds: records to append to the journal, messages to send in their order,
// replies. Several steps may share one Ready.
//
// The caller's duties:
//
//   - The EPOCH record of this reign is durable before New is called (P6).
//   - Messages of one member are sent in the order of Ready, by the link with
//     their number; what arrives by a link is given with that number.
//   - Replies that are held back until a Ready's messages are queued keep P3:
//     a decision is put before a client hears of it.
//   - After a forced CONFIG record is durable, Journaled is called. Until then
//     the machine holds back every message that relies on it (P8).
//   - After a LEASE record that ends nothing is durable, LeaseJournaled is called (F10).
//   - After Ready.Stop nothing more is done.
package commit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"tpcfs/wire"
)

// Peer is a participant as the command line names it.
type Peer struct{ Name, Addr string }

// Options are what a Machine starts from. Zero limits become the defaults.
type Options struct {
	// State is what the journal holds, this reign's EPOCH included. The
	// machine owns it from then on.
	State State
	// Peers tell every configured participant's address; without a config
	// they are who is bootstrapped.
	Peers []Peer
	// Cluster is the cluster's name, for a bootstrap and to know strangers by.
	Cluster wire.UUID
	// Root is the root directory that a bootstrap makes.
	Root wire.Root

	// MaxAhead bounds the entries put beyond W, default 8192; MaxBytes what
	// the entries that some member may still need take in memory, in bytes,
	// default 64 MiB. Beyond them requests wait (P9).
	MaxAhead uint64
	MaxBytes int64
	// MaxQueued and MaxQueuedBytes bound the requests that wait, default
	// 16384 and 64 MiB. Beyond them they are refused, and beyond half of them
	// retries that were to be parked (F5).
	MaxQueued      int
	MaxQueuedBytes int64

	// MaxSessions bounds the sessions remembered, default 16384: new ones take
	// the place of those that need it least.
	MaxSessions int

	// MinInSync is how many participants stay in the in-sync set: one that
	// fails is evicted while as many stay (P8). 0 or too many: all of them.
	// Majority: more than half of those that there are, however many that are.
	MinInSync int
	Majority  bool
	// Exact: Peers have to be the configured participants, but for those that
	// operators have made of them, added, or removed (P14); one that no config has is
	// left out. Otherwise they tell addresses of those that they name. Notices has what is
	// odd.
	Exact bool
	// EvictAfter is how long, in milliseconds, a member may be without a link
	// before it is evicted, default 3000.
	EvictAfter int64
	// EvictSlow is for how long, in milliseconds, a member whose journal is late may
	// keep the others waiting before it is evicted (P15), default 10,000; less than
	// 0: for ever.
	EvictSlow int64

	// In milliseconds: how long a session is remembered without a call,
	// default 10 minutes; how long what it staged is, default 60 s; the time
	// between heartbeats, default 500.
	SessionIdle, StageIdle, Heartbeat int64
	// WatcherIdle is how long, in milliseconds, a session that has had a lease is
	// remembered without a call: it asks every second (F9), so it is dead, or stands
	// still. Default a minute, at most SessionIdle, more than a lease.
	WatcherIdle int64
}

func (o *Options) validate() error {
	setDefault(&o.MaxAhead, 8192)
	setDefault(&o.MaxBytes, 64<<20)
	setDefault(&o.MaxQueued, 16384)
	setDefault(&o.MaxQueuedBytes, 64<<20)
	setDefault(&o.MaxSessions, 16384)
	setDefault(&o.EvictAfter, 3000)
	setDefault(&o.EvictSlow, 10_000)
	setDefault(&o.SessionIdle, 10*60*1000)
	setDefault(&o.StageIdle, 60*1000)
	setDefault(&o.WatcherIdle, min(60*1000, o.SessionIdle))
	o.WatcherIdle = max(o.WatcherIdle, leaseHeld+1)
	setDefault(&o.Heartbeat, 500)
	if o.State.Epoch.Number == 0 || o.State.Epoch.Number >= 1<<23 {
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("epoch %d: want 1 to %d", o.State.Epoch.Number, 1<<23-1)}
	}
	if o.State.Config == nil && len(o.Peers) == 0 {
		return wire.NewError(wire.CodeInvalid, "no participants: a new cluster needs at least one --participant NAME=ADDR")
	}
	seen := map[string]bool{}
	for _, p := range o.Peers {
		if p.Name == "" || seen[p.Name] {
			return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("participant %q is named twice, or has no name", p.Name)}
		}
		seen[p.Name] = true
	}
	return nil
}

func setDefault[T int | int64 | uint64](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Phase is how far a reign has come. It only grows.
type Phase uint8

// The phases.
const (
	Greeting    Phase = iota + 1 // not all participants have answered yet
	Configuring                  // the config is made durable: here, then at every member (P8)
	Serving                      // recovery is over, OPEN is put
)

// Machine is the coordinator's state in one epoch.
type Machine struct {
	o          Options
	state      State         // what the journal holds once all records of Ready are in it
	epoch      wire.Epoch    // this reign
	base       wire.ConfigID // what the journal held when it started (P13)
	members    []*member     // the configured participants, in the config's order
	change     *change       // a config that is not in force yet; nil: none
	settled    wire.ConfigID // the last that came into force in this reign
	edits      []*Edit       // that are not in force (P14)
	fresh      []wire.Edit   // what the next config brings of them
	removed    []wire.Removed
	toldOne    bool // one of those has been told, and no config says so yet
	notices    []string
	identities int           // Identities
	joiner     int           // the member in its last round, for which nothing is put (P11); -1: none
	phase      Phase         // becomes grows it
	closing    bool          // nothing more is put
	full       bool          // the journal has no room
	stop       *wire.Error   // why the machine has ended
	now        int64         // milliseconds of ticks
	rd         Ready         // being gathered
	beat       int64         // when the next heartbeat is due
	toldW      wire.Position // last in a W record
	told       int64         // the service time in it
	wall       int64         // the caller's clock, nanoseconds since 1970
	ops        map[wire.OpID]*tx
	queue      []*Request // in the order of arrival
	queued     map[wire.OpID]*Request
	waiting    int64 // bytes of queue

	// The streams' entries: log holds those after trimmed, the last is
	// number last. open is the number of OPEN.
	log      []logEntry
	trimmed  uint64
	last     uint64
	bytes    int64
	open     uint64
	held     uint64 // entries from here on wait for a CONFIG record; 0: none
	decision uint64 // the last decision or OPEN: where reads start (P5)

	durable uint64 // every member has made its journal durable up to here
	w       wire.Position
	byIndex map[uint64]*tx // transactions of this epoch above W
	order   []*tx          // the same, by PREPARE
	aborts  []*tx          // waiting for their ABORT to be durable, by ABORT

	counter  uint64 // the next id's
	sessions map[wire.SessionID]*session
	links    uint64 // given out
	stages   map[wire.ID]*stage
	orphans  orphans
	leases   leases
}

type logEntry struct {
	entry *wire.Entry
	tx    *tx   // of a PREPARE
	bytes int64 // that it takes
}

// Ready is what the caller has to carry out, in this order: queue Sends,
// append Records, give Replies. It is valid until the next call of a method.
type Ready struct {
	Sends   []Send
	Records []*Record
	Replies []Reply
	Watched []Watched
	Edited  []Edited
	Unstage []Unstage
	Drop    []Drop // links whose peer broke the protocol
	Commits int    // COMMITs put, by votes
	Serving bool   // service has begun
	// ListOrphans, if not nil, is to be read from a participant; Orphans takes
	// the answer.
	ListOrphans *wire.Read
	Stop        *wire.Error
}

// Send is a message for a member's link.
type Send struct {
	Member int
	Link   uint64
	Down   wire.Down
}

// Reply answers a request that was submitted.
type Reply struct {
	Request *Request
	Reply   wire.TransactReply
	Err     *wire.Error // nil: committed
}

// Drop tells to end a link. Without Err its participant is no longer in sync.
type Drop struct {
	Member int
	Link   uint64
	Err    *wire.Error
}

// Unstage asks a member, by its link, to drop staged objects that no prepare
// will name. Unstaged tells that it has; until then its next link asks again.
type Unstage struct {
	Member int
	Link   uint64
	IDs    []wire.ID // at most wire.MaxMutations
}

// New starts a reign. An error is one of the options: a wrong list of peers.
func New(o Options) (*Machine, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	m := &Machine{
		o: o, state: o.State, epoch: o.State.Epoch, phase: Greeting, joiner: -1,
		ops: map[wire.OpID]*tx{}, queued: map[wire.OpID]*Request{}, byIndex: map[uint64]*tx{},
		sessions: map[wire.SessionID]*session{}, stages: map[wire.ID]*stage{},
		counter: 2, w: o.State.W, toldW: o.State.W, told: o.State.ServiceTime, beat: o.Heartbeat,
	}
	m.keepLeases()
	c := o.State.Config
	if c == nil {
		for _, p := range o.Peers {
			m.members = append(m.members, &member{name: p.Name, addr: p.Addr, flag: p.Addr, in: true})
		}
		return m, nil
	}
	m.base = c.ID
	if c.Cluster != o.Cluster {
		return nil, &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf(
			"the journal is of cluster %v, the data directory's FORMAT of %v: they do not belong together", c.Cluster, o.Cluster)}
	}
	if err := m.adopt(c); err != nil {
		return nil, err
	}
	return m, nil
}

// adopt makes the config's participants the members. A peer's address counts where
// it is not the one that the command line has given before: what operators have
// changed since goes before that (P8, P14).
func (m *Machine) adopt(c *wire.Config) error {
	addr := map[string]string{}
	for _, p := range m.o.Peers {
		addr[p.Name] = p.Addr
	}
	var missing []string
	for _, f := range c.Configured {
		a, ok := addr[f.Name]
		now := Addressed(f, a)
		mem := &member{name: now.Name, addr: now.Addr, flag: now.Flag, storage: now.Storage, in: slices.Contains(c.InSync, now.Name)}
		switch {
		case !ok && len(m.o.Peers) > 0 && m.o.Exact && f.Addr != f.Flag: // an operator has brought it
		case !ok && len(m.o.Peers) > 0:
			missing = append(missing, f.Name)
		case ok && a != now.Addr && !m.o.Exact:
			m.notices = append(m.notices, fmt.Sprintf("--participant %s=%s is older than what tpcfs members has made of it: %s counts; correct the flag, or leave it out", f.Name, a, f.Addr))
		}
		delete(addr, f.Name)
		m.members = append(m.members, mem)
	}
	m.removed = slices.Clone(c.Removed)
	for _, r := range c.Removed {
		if _, ok := addr[r.Member.Name]; ok {
			if !m.o.Exact {
				m.notices = append(m.notices, fmt.Sprintf("--participant %s: it was removed from the cluster, and is left out; take the flag away", r.Member.Name))
			}
			delete(addr, r.Member.Name)
		}
	}
	if len(missing) > 0 && m.o.Exact {
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf(
			"--participant does not name %s, which the cluster was made with: give the address of each, or no --participant at all", strings.Join(missing, ", "))}
	}
	if len(missing) > 0 {
		m.notices = append(m.notices, fmt.Sprintf("--participant does not name %s, which the cluster has, too: the address that was given last counts", strings.Join(missing, ", ")))
	}
	if len(addr) > 0 && m.o.Exact { // which was removed so long ago that nobody remembers
		m.notices = append(m.notices, fmt.Sprintf("participant %s takes no part in the cluster, and is left out", strings.Join(slices.Sorted(maps.Keys(addr)), ", ")))
		return nil
	}
	if len(addr) > 0 {
		return &wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf(
			"--participant names %s, which the cluster does not have: it only tells addresses. Start without it, and add the participant with tpcfs members add",
			strings.Join(slices.Sorted(maps.Keys(addr)), ", "))}
	}
	return nil
}

// Addressed is a configured participant with the address that counts: the one that was
// told last. told is what a peer of its name has now, "" without one.
func Addressed(f wire.Member, told string) wire.Member {
	if told != "" && told != f.Flag {
		f.Addr, f.Flag = told, told
	}
	return f
}

// Notices says what is odd about the list of peers, and what to do.
func (m *Machine) Notices() []string { return m.notices }

// becomes is the one place where the phase changes.
func (m *Machine) becomes(p Phase) {
	if p != m.phase+1 {
		panic(fmt.Sprintf("commit: phase %d after %d", p, m.phase))
	}
	m.phase = p
}

// halt ends the machine: the reason, and an answer for everybody.
func (m *Machine) halt(err *wire.Error) {
	if m.stop != nil {
		return
	}
	m.stop = err
	m.rd.Stop = err
	m.refuseQueue(&wire.Error{Code: wire.CodeUnavailable, Text: "the coordinator has stopped; nothing changed: " + err.Error()})
	unknown := &wire.Error{Code: wire.CodeUnknownOutcome, Text: "the coordinator has stopped while the change was under way; " +
		"the same request tells its outcome when it is back: " + err.Error()}
	for _, t := range m.ops {
		m.answer(t, nil, unknown)
	}
	m.expireHeld(func(*Request) bool { return true }, "the coordinator has stopped")
	m.refuseEdits("the coordinator has stopped", true)
	m.refuseWatches(wire.NewError(wire.CodeUnavailable, "the coordinator has stopped"))
}

// Shut makes the machine put nothing more: what waits is refused, what is put goes on.
func (m *Machine) Shut() {
	m.closing = true
	m.refuseQueue(wire.NewError(wire.CodeUnavailable, "the coordinator is shutting down; nothing changed"))
	m.refuseEdits("the coordinator is shutting down", false)
}

// Idle reports whether no client waits for a transaction that was put.
func (m *Machine) Idle() bool {
	for _, t := range m.ops {
		if len(t.waiters) > 0 {
			return false
		}
	}
	return len(m.leases.held) == 0
}

// Settled reports whether nothing is left to wait for at a clean end: no
// client waits, and what was put is durable everywhere, or cannot be because
// somebody is missing.
func (m *Machine) Settled() bool {
	return m.Idle() && (m.phase != Serving || m.durable == m.last || m.missing() != nil)
}

// JournalFull tells whether the journal has no room for more records: while it
// has none, nothing is put. It reports whether that is news.
func (m *Machine) JournalFull(full bool) bool {
	news := m.full != full
	m.full = full
	return news
}

// Halt ends the machine for that reason; who still waits is answered.
func (m *Machine) Halt(reason *wire.Error) { m.halt(reason) }

// Stopped returns why the machine has ended; nil while it has not.
func (m *Machine) Stopped() *wire.Error { return m.stop }

// Clock tells the time that the caller counts, in nanoseconds since 1970, for the
// transactions put from now on. One that runs backwards stands still.
func (m *Machine) Clock(wall int64) { m.wall = wall }

// Time is that of the last transaction that is known of; the caller's count goes
// on from there.
func (m *Machine) Time() int64 { return m.state.Time }

// Phase returns how far the reign has come.
func (m *Machine) Phase() Phase { return m.phase }

// ReadPoint is where a read that arrives now has to wait for at its
// participant: the last decision or OPEN put. 0: no read is served yet (P5).
func (m *Machine) ReadPoint() uint64 {
	if m.phase != Serving || m.stop != nil {
		return 0
	}
	return m.decision
}

// Snapshot is the record for the head of a new segment (P13). It stands for
// the records of every Ready up to now.
func (m *Machine) Snapshot() *Record { return m.state.Snapshot() }

// record hands a record out, and does what replaying it would do.
func (m *Machine) record(r *Record) {
	if err := m.state.Apply(r); err != nil {
		panic("commit: own record: " + err.Error())
	}
	m.rd.Records = append(m.rd.Records, r)
}

// put gives an entry its place on the streams.
func (m *Machine) put(e wire.Entry, t *tx, bytes int64) uint64 {
	m.last++
	e.Index = m.last
	m.log = append(m.log, logEntry{&e, t, bytes})
	m.bytes += bytes
	return m.last
}

// Ready returns what has to be carried out since the last Ready.
func (m *Machine) Ready() Ready {
	m.steer()
	m.pump()
	m.pumpLeases()
	if m.stop == nil {
		for i := range m.members {
			m.flush(i)
			m.askToDrop(i)
		}
	}
	rd := m.rd
	m.rd = Ready{
		Sends: rd.Sends[len(rd.Sends):], Records: rd.Records[len(rd.Records):], Replies: rd.Replies[len(rd.Replies):],
		Watched: rd.Watched[len(rd.Watched):], Edited: rd.Edited[len(rd.Edited):],
	}
	return rd
}

// serviceTimeStep is how far, in milliseconds, service time moves without a W
// record. The next reign tells it to sessions before any participant has
// answered; one that is much too small makes their requests look old (S1a).
const serviceTimeStep = 60_000

// Tick tells that so many milliseconds have passed. Service time moves only
// while writes are possible.
func (m *Machine) Tick(ms int64) {
	if m.stop != nil {
		return
	}
	m.now += ms
	if m.writable() {
		m.state.ServiceTime += ms
	}
	m.keepPace(ms)
	m.expireLeases()
	m.expireRequests()
	m.expireEdits()
	m.expireSessions()
	m.releaseOrphans()
	if m.w != m.toldW || m.w.Epoch == m.epoch.Number && m.state.ServiceTime-m.told >= serviceTimeStep {
		m.toldW, m.told = m.w, m.state.ServiceTime
		m.state.Time = max(m.state.Time, m.wall) // what was told to Watches goes on after a restart
		m.record(&Record{Kind: RecW, W: m.w, ServiceTime: m.state.ServiceTime, Time: m.state.Time})
	}
	if m.now >= m.beat {
		m.beat = m.now + m.o.Heartbeat
		for i, mem := range m.members {
			if !mem.linked {
				continue
			}
			d := m.down(nil)
			if !mem.in { // W is of what it may lack
				d.W = wire.Position{}
			}
			m.rd.Sends = append(m.rd.Sends, Send{i, mem.link, d})
		}
	}
}

// Writable reports whether requests are put as they come.
func (m *Machine) Writable() bool { return m.writable() }

// writable: service is open, enough members are in sync and each has a link (P8),
// and neither a config's change nor a newcomer's last round is under way (P11).
func (m *Machine) writable() bool {
	return m.phase == Serving && !m.closing && !m.full && m.stop == nil && m.change == nil && m.joiner < 0 && m.missing() == nil && m.enough()
}

// missing names the members without a link.
func (m *Machine) missing() []string {
	var names []string
	for _, mem := range m.members {
		if mem.in && !mem.linked {
			names = append(names, mem.name)
		}
	}
	return names
}

func (m *Machine) down(e *wire.Entry) wire.Down {
	return wire.Down{Entry: e, W: m.w, ServiceTime: m.state.ServiceTime}
}
