// Package coordinator is the coordinator's service: one owner at a time around
// the commit machine, a link to each participant, the journal, reads and the
// staging of large contents (DESIGN.md sections 4 and 5). *Coordinator
// implements wire.Service.
//
// The caller's duties: give participants a Dial; watch Done, after which
// nothing is served any more and Err says why; Close.
package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/coordinator/commit"
	"tpcfs/coordinator/meter"
	"tpcfs/journal/disk"
	"tpcfs/wire"
	"tpcfs/wire/failpoint"
)

// Peer is a participant: the name that the cluster knows it by, and where it is.
type Peer = commit.Peer

// Options says where a coordinator's data lies and who its participants are.
type Options struct {
	// Dir is the data directory: FORMAT, LOCK and the journal. It is made if
	// it is missing.
	Dir string
	// FS is the file system of Dir; default the real one.
	FS disk.FS

	// Participants are all configured participants. The first start makes the
	// cluster of them; later ones only tell addresses, and may leave the list
	// empty when none has changed.
	Participants []Peer
	// Dial opens a connection to a participant. It is called again when the
	// connection is lost; the coordinator closes what it returns.
	Dial func(ctx context.Context, p Peer) (wire.Replica, error)

	// Local: the participants are of this process, which says itself when one
	// of them ends. Otherwise the log does.
	Local bool

	// Root describes the root directory of a new cluster; default mode 0755,
	// this process's user and group, and the time of the start.
	Root *wire.Root

	Logger *slog.Logger // default: none

	// SegmentSize is that of the journal, in bytes; default 4 MiB.
	SegmentSize int64
	// MinInSync is how many participants stay in sync: one that fails is
	// evicted while as many others are there, and comes back by itself (P8,
	// P11). 0: a majority. With all of them nobody is evicted, and a change waits
	// for whoever is missing.
	MinInSync int
	// EvictAfter is how long a participant may say nothing before its
	// connection is given up, and how long it may be away before it is evicted:
	// default 3 s. Heartbeats come six times as often, or every 500 ms.
	EvictAfter time.Duration
	// EvictSlow is for how long a participant whose disk is slow may keep the others
	// waiting before they go on without it (P15), and a read before it asks another:
	// default 10 s; less than 0: for ever.
	EvictSlow time.Duration
	// ResyncRate bounds what is brought in a second to a participant that
	// catches up, in bytes; 0: no bound, but it rests for most of the time
	// while clients make changes.
	ResyncRate int64
	// ScrubEvery is how often all copies are verified and compared (S5b); 0:
	// only where a scrub was cut short, or what it has found is lost.
	ScrubEvery time.Duration
	// ScrubRate bounds what a scrub reads at each participant in a second, in bytes;
	// default 64 MiB, less than 0: no bound.
	ScrubRate int64
	// Tick is the owner's clock: how exact the waits of requests are, and how
	// soon lazy records are written when it is quiet. Default 20 ms.
	Tick time.Duration
	// DrainWait is how long Close waits for what is under way, and for the
	// participants to have all decisions durable; default 2 s.
	DrainWait time.Duration
	// StatusWait is how long Status and Statfs wait for a participant, default 500 ms.
	StatusWait time.Duration

	// LockGrace is how long after the start only those who held file locks get
	// them, again; default: a lease (wire.LockLease), for a new cluster none.
	LockGrace time.Duration

	// SessionIdle is how long a client is remembered that says nothing, and
	// WatcherIdle how long a mount is, with the deleted files that it has open (F7):
	// more than a lease (commit.Options). Default 10 min, and 1 min.
	SessionIdle, WatcherIdle time.Duration

	// MaxStages bounds the contents being staged at one time, default 64;
	// each takes at most 1 MiB of memory. More wait.
	MaxStages int
	// MaxReads bounds the reads of more than one piece that go on at one time,
	// default 128. More wait.
	MaxReads int
	// Patience is how long who brings or takes next to nothing keeps its place
	// of these while others wait; default 10 s.
	Patience time.Duration
	// StagePatience is how long a participant that has a connection may take for
	// a piece of contents, or for its answer after the last one, which follows a
	// sync; default 2 min.
	StagePatience time.Duration
	// MaxAhead, MaxBytes, MaxQueued: see commit.Options. A journal of small
	// segments makes MaxAhead smaller.
	MaxAhead  uint64
	MaxBytes  int64
	MaxQueued int

	clock clock // a test's
}

func (o *Options) validate() error {
	if o.Dir == "" || o.Dial == nil {
		return wire.NewError(wire.CodeInvalid, "a coordinator needs a data directory and a way to its participants")
	}
	if o.FS == nil {
		o.FS = disk.New()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Root == nil {
		o.Root = &wire.Root{Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Time: time.Now().UnixNano()}
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = 4 << 20
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.EvictAfter, 3 * time.Second}, {&o.Tick, 20 * time.Millisecond}, {&o.DrainWait, 2 * time.Second}, {&o.StatusWait, 500 * time.Millisecond},
		{&o.Patience, 10 * time.Second}, {&o.StagePatience, 2 * time.Minute}} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < time.Millisecond {
			return wire.NewError(wire.CodeInvalid, "a wait of less than a millisecond")
		}
	}
	if o.EvictSlow == 0 {
		o.EvictSlow = 10 * time.Second
	}
	o.EvictSlow = max(o.EvictSlow, -time.Millisecond)
	if o.MinInSync < 0 || o.ResyncRate < 0 {
		return wire.NewError(wire.CodeInvalid, "a negative number of participants or bytes")
	}
	if o.SessionIdle < 0 || o.WatcherIdle < 0 {
		return wire.NewError(wire.CodeInvalid, "a negative time for which a client is remembered")
	}
	if o.ScrubEvery < 0 {
		return wire.NewError(wire.CodeInvalid, "a negative time between two scrubs")
	}
	if o.ScrubRate == 0 {
		o.ScrubRate = scrubRate
	}
	if o.MaxStages == 0 {
		o.MaxStages = 64
	}
	if o.MaxReads == 0 {
		o.MaxReads = 128
	}
	if o.MaxStages < 0 || o.MaxReads < 0 {
		return wire.NewError(wire.CodeInvalid, "a negative number of stages or reads")
	}
	return nil
}

// Coordinator serves a cluster.
type Coordinator struct {
	o       Options
	log     *slog.Logger
	began   time.Time
	lock    interface{ Close() error }
	cluster wire.UUID
	epoch   wire.Epoch

	// The owner's alone (inbox):
	identities int // of the members, as the machine was last seen
	m          *commit.Machine
	clock      clock
	greets     uint64 // the number of the last greeting
	ledger     *ledger
	lastMS     int64 // milliseconds since began that the machine was told of
	served     bool
	closing    chan struct{} // closed when Close was called
	shut       bool          // ... and the machine was told
	drained    bool
	batch      []func() // of the last turn, to be used again

	locks lockKeeper

	inbox inbox
	links []atomic.Pointer[link] // by member; nil: none. Stored by the owner
	peers []*peer                // by member
	slots atomic.Int32           // so many of both are given out; grown by the owner
	// readPoint is the machine's, for reads that do not pass through the
	// owner. It is stored before any reply of the same turn is given (P5).
	readPoint atomic.Uint64
	writable  bool     // as the machine was last seen; the owner's alone
	inSync    []bool   // likewise
	changed   notifier // links, service
	stages    *places
	large     *places // reads of more than a piece
	space     spaceCache
	changes   meter.Meter
	reads     meter.Meter
	rotten    rottenList
	repairs   repairer
	scrub     scrubber

	ctx       context.Context // of everything that waits; ends with the owner
	cancel    context.CancelFunc
	crew      crew
	closeOnce sync.Once
	ready     chan struct{}
	done      chan struct{}
	err       error // why it ended by itself; set before done is closed
}

var _ wire.Service = (*Coordinator)(nil)

var errStopped = wire.NewError(wire.CodeUnavailable, "the coordinator has stopped")

// Open starts a coordinator on a data directory. It returns when its epoch is
// durable; it serves when Ready says so. Errors are *wire.Error and name the
// file: CodeBusy when another process holds the directory, CodeCorrupt for
// damage, CodeInvalid for a list of participants that is not the cluster's.
func Open(o Options) (*Coordinator, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	var fresh, run wire.UUID
	for _, u := range []*wire.UUID{&fresh, &run} {
		if _, err := rand.Read(u[:]); err != nil {
			return nil, wire.NewError(wire.CodeIO, "no random numbers: "+err.Error())
		}
	}
	lock, cluster, err := openDir(o.FS, o.Dir, fresh)
	if err != nil {
		return nil, err
	}
	c := &Coordinator{
		o: o, log: o.Logger, began: time.Now(), clock: o.clock, lock: lock, cluster: cluster,
		closing: make(chan struct{}), ready: make(chan struct{}), done: make(chan struct{}),
		stages: newPlaces(o.MaxStages, o.Patience, "too many contents are being staged; nothing changed"),
		large:  newPlaces(o.MaxReads, o.Patience, "too many large files are being read"),
	}
	c.inbox.open()
	c.repairs.wake = make(chan struct{}, 1)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.reign(run); err != nil {
		c.cancel()
		return nil, errors.Join(err, lock.Close())
	}
	c.start()
	return c, nil
}

// reign begins the next epoch: durable before anybody is greeted (P6).
func (c *Coordinator) reign(run wire.UUID) error {
	led, state, err := openLedger(c.o.FS, c.o.Dir+"/"+journalName, c.o.SegmentSize)
	if err != nil {
		return err
	}
	c.epoch = wire.Epoch{Number: state.Epoch.Number + 1, Run: run}
	// A SNAPSHOT holds the decisions above W, of this epoch and of those before.
	if c.o.MaxAhead == 0 {
		c.o.MaxAhead = 8192
	}
	c.o.MaxAhead = min(c.o.MaxAhead, uint64(max((led.log.MaxRecord()-4096)/(2*maxDecision), 16)))
	opts := commit.Options{
		State: state, Peers: c.o.Participants, Cluster: c.cluster, Root: *c.o.Root,
		MaxAhead: c.o.MaxAhead, MaxBytes: c.o.MaxBytes, MaxQueued: c.o.MaxQueued,
		MinInSync: c.o.MinInSync, Majority: c.o.MinInSync == 0, Exact: c.o.Local,
		EvictAfter: c.o.EvictAfter.Milliseconds(), EvictSlow: c.o.EvictSlow.Milliseconds(), Heartbeat: max(c.o.EvictAfter.Milliseconds()/6, 1),
		SessionIdle: c.o.SessionIdle.Milliseconds(), WatcherIdle: c.o.WatcherIdle.Milliseconds(),
	}
	n := configured(&state, c.o.Participants)
	if opts.MinInSync > n {
		return errors.Join(&wire.Error{Code: wire.CodeInvalid, Text: fmt.Sprintf("--min-in-sync %d is more than the number of participants, %d", opts.MinInSync, n)}, led.close())
	}
	opts.State.Epoch = c.epoch
	if c.m, err = commit.New(opts); err == nil { // a wrong list of participants costs no epoch
		var keeper authority = led
		err = keeper.Reign(c.epoch)
	}
	if err != nil {
		if e := asError(err); e.Code == wire.CodeCorrupt && e.Name == "" {
			named := *e
			named.Name, err = c.o.Dir, &named
		}
		return errors.Join(err, led.close())
	}
	failpoint.At("coordinator.epoch-journaled")
	if c.o.LockGrace == 0 && c.epoch.Number > 1 {
		c.o.LockGrace = wire.LockLease * time.Millisecond
	}
	c.locks.open(c.o.LockGrace)
	c.clock.begin(state.Time)
	c.ledger = led
	return nil
}

// configured is the number of participants that there are.
func configured(s *commit.State, peers []Peer) int {
	if s.Config != nil {
		return len(s.Config.Configured)
	}
	return len(peers)
}

// maxDecision is more than a decision takes in a SNAPSHOT, in bytes.
const maxDecision = 40

func (c *Coordinator) start() {
	c.ledger.run(func(f func()) { c.post(f) }, c.journalProblem)
	for _, notice := range c.m.Notices() {
		c.log.Warn(notice)
	}
	members := c.m.Members()
	slots := max(len(members), wire.MaxMembers)
	c.links = make([]atomic.Pointer[link], slots)
	c.inSync = make([]bool, slots)
	for range slots {
		c.peers = append(c.peers, &peer{state: stateGreeting})
	}
	c.recallScrub()
	c.growTo(members)
	c.crew.start(func() { c.tellMissing(members) })
	c.crew.start(c.repairQueued)
	c.crew.start(c.tellRemoved)
	c.crew.start(c.scrubScheduled)
	go c.own()
}

// growTo gives the members that are new their links.
func (c *Coordinator) growTo(members []commit.Member) {
	for i := int(c.slots.Load()); i < len(members); i++ {
		c.inSync[i] = members[i].InSync
		c.peers[i].rename(members[i])
		c.slots.Store(int32(i + 1))
		c.crew.start(func() { c.keep(i) })
	}
}

// Ready is closed when the coordinator serves for the first time.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Done is closed when the coordinator has ended, by Close or by itself.
func (c *Coordinator) Done() <-chan struct{} { return c.done }

// Err tells, after Done, why the coordinator has ended by itself; nil after Close.
func (c *Coordinator) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Epoch is the coordinator's reign.
func (c *Coordinator) Epoch() wire.Epoch { return c.epoch }

// Cluster is the cluster's name.
func (c *Coordinator) Cluster() wire.UUID { return c.cluster }

// Close ends the coordinator: nothing more is put, what is under way gets
// DrainWait, then links and journal are closed. It returns when all
// goroutines are gone; the error is why the coordinator had ended by itself.
func (c *Coordinator) Close() error {
	c.closeOnce.Do(func() { close(c.closing) })
	<-c.done
	return c.err
}
