// Package participant is a participant's service: it keeps a full copy of the
// files, votes on transactions and carries out decisions (DESIGN.md sections 5
// to 7).
//
// Open recovers from whatever a crash has left; the state machine is in
// participant/vote, the files in participant/store, both run by one owner at a
// time, whoever brings what is to be done, over a journal with group commit. A
// Participant ends by itself when a sync fails (P12): watch Done.
package participant

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"time"

	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/participant/store"
	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// Options say where a participant lives. The zero value of everything but Dir
// is a default.
type Options struct {
	// Dir is the data directory: the store's files and, in journal/, the
	// journal. Made if it is missing.
	Dir string
	FS  disk.FS // nil: the real file system
	// OpenKV opens the kv below the store; nil: bbolt.
	OpenKV func(fsys disk.FS, dir string) (store.KV, error)
	// SegmentSize of a new journal, in bytes (0: 16 MiB).
	SegmentSize int64
	// InlineMax, TableBytes, Ballast, Workers and UUID: see store.Options.
	InlineMax  int
	TableBytes int64
	Ballast    int64
	Workers    int
	UUID       wire.UUID
	// CheckpointSegments is after how many segments of the journal a
	// checkpoint starts (0: 4); half a full table starts one, too (S3).
	CheckpointSegments int
	// QuietForce is how long a lazy record waits for company before it is
	// synced by itself (0: 20 ms; J2).
	QuietForce time.Duration
	// Heartbeat is the most time between two heartbeats to the coordinator (0:
	// 500 ms), which may ask for more of them.
	Heartbeat time.Duration
	Logger    *slog.Logger // nil: discard
}

func (o *Options) validate() error {
	if o.Dir == "" {
		return &wire.Error{Code: wire.CodeInvalid, Op: "open", Text: "no data directory was given for the participant"}
	}
	if o.FS == nil {
		o.FS = disk.New()
	}
	if o.CheckpointSegments == 0 {
		o.CheckpointSegments = 4
	}
	if o.QuietForce == 0 {
		o.QuietForce = 20 * time.Millisecond
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 500 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CheckpointSegments < 2 || o.QuietForce < 0 || o.Heartbeat < 0 {
		return &wire.Error{Code: wire.CodeInvalid, Op: "open", Name: o.Dir,
			Text: fmt.Sprintf("options out of range: checkpoint after %d segments, quiet %v, heartbeat %v", o.CheckpointSegments, o.QuietForce, o.Heartbeat)}
	}
	return nil
}

func (o *Options) journalDir() string { return path.Join(o.Dir, "journal") }

// Participant serves one data directory. It implements wire.Replica but for
// Close, which ends the participant; see Replica.
type Participant struct {
	o      Options
	log    *slog.Logger
	store  *store.Store
	writer *journal.Writer
	gate   *gate

	inbox    inbox
	quit     chan struct{}
	stopping chan struct{} // closed when the owner takes no more calls
	done     chan struct{} // closed when all is closed
	quitOnce sync.Once

	syncMu  sync.Mutex // guards synced and syncErr, which the journal's goroutine leaves
	synced  journal.LSN
	syncErr error

	useMu  sync.Mutex // guards users' growth and over
	users  sync.WaitGroup
	over   bool  // no new user of the store
	reason error // why it ended; written before done is closed

	runs sync.WaitGroup // of checkpoints; waited for by the teardown

	digests digestCache
	steps   chan struct{} // capacity 1: held for a step of catching up

	owner
}

// Open opens the participant in o.Dir, or makes one where the directory is
// empty, and brings its state to where the journal ends. Errors name the file,
// what is wrong with it and what to do.
func Open(o Options) (*Participant, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	r, err := recoverState(&o)
	if err != nil {
		return nil, err
	}
	p := &Participant{
		o: o, log: o.Logger, store: r.store,
		quit:     make(chan struct{}),
		stopping: make(chan struct{}), done: make(chan struct{}),
		synced: r.log.End(),
	}
	position := r.machine.Position()
	p.inbox.open()
	p.gate = newGate(r.machine.Fence(), position.Index)
	if r.machine.Resync() != "" {
		p.gate.behind()
	}
	p.digests.gate = make(chan struct{}, 1)
	p.steps = make(chan struct{}, 1)
	stats := r.log.Stats()
	p.writer = journal.NewWriter(r.log, p.onSynced)
	r.view.room = func() bool { s := p.writer.Stats(); return s.Spares > 0 || s.SpareError == "" }
	p.owner = newOwner(r.machine, position, stats, o.Heartbeat)
	p.free = p.store.Stats().Free
	p.log.Info("participant recovered", "dir", o.Dir, "storage", p.store.UUID(), "epoch", p.m.Fence().Number,
		"position", position, "w", p.m.W(), "in_doubt", p.m.InDoubt(), "replayed", r.replayed)
	go p.run()
	return p, nil
}

// onSynced takes the journal's word, or a failure, to the owner. The journal's
// goroutine does what follows from it, when nobody else is the owner, and no more:
// it has the next sync to do.
func (p *Participant) onSynced(upTo journal.LSN, err error) {
	p.syncMu.Lock()
	p.synced = max(p.synced, upTo)
	var full *journal.FullError
	if err != nil && (p.syncErr == nil || !errors.As(err, &full)) { // what is fatal stays (P12)
		p.syncErr = err
	}
	p.syncMu.Unlock()
	if owns, _ := p.inbox.put(dueSynced, nil); owns && p.work(1, dueSynced) {
		p.inbox.wake <- struct{}{}
	}
}

// takeSynced returns the last durable record, and an error once.
func (p *Participant) takeSynced() (journal.LSN, error) {
	p.syncMu.Lock()
	defer p.syncMu.Unlock()
	err := p.syncErr
	p.syncErr = nil
	return p.synced, err
}

// Written tells how many records its journal has written since Open, with how many syncs.
func (p *Participant) Written() (records, syncs uint64) {
	s := p.writer.Stats()
	return s.Records, s.Syncs
}

// Done is closed when the participant has ended, by Close or by itself.
func (p *Participant) Done() <-chan struct{} { return p.done }

// Err tells, after Done, why the participant ended by itself; nil after Close.
func (p *Participant) Err() error {
	select {
	case <-p.done:
		return p.reason
	default:
		return nil
	}
}

// Close syncs the journal, makes a checkpoint if that is quick, ends the owner
// and waits for it. Whoever serves the participant ends its calls first: a call
// that waits for its own peer is waited for. Err's error, if there is one.
func (p *Participant) Close() error {
	p.quitOnce.Do(func() { close(p.quit) })
	<-p.done
	return p.reason
}

var errStopping = &wire.Error{Code: wire.CodeUnavailable, Text: "the participant is stopping"}

// use keeps the store open until the function that it returns is called.
func (p *Participant) use() (func(), error) {
	p.useMu.Lock()
	defer p.useMu.Unlock()
	if p.over {
		return nil, errStopping
	}
	p.users.Add(1)
	return p.users.Done, nil
}

// storeError looks at what a call on the store, made outside the owner, has
// met: after a failed sync, or where rows are damaged, the participant ends (P12, S1).
func (p *Participant) storeError(err error) error {
	if err == nil {
		return nil
	}
	if p.store.Failed() != nil || p.store.Damaged() != "" {
		p.onSynced(0, err)
		return errStopping
	}
	var we *wire.Error
	if errors.As(err, &we) {
		return we
	}
	return &wire.Error{Code: wire.CodeIO, Text: err.Error()}
}

// view is what votes are decided on: the store, and room in the journal.
type view struct {
	*store.Store
	room func() bool // a spare segment is there
}

// Reserve implements vote.View: without the journal's reserve only deletes go (S6).
func (v *view) Reserve(id wire.ID, rows int, bytes, room int64, deletes bool) error {
	if !deletes && v.room != nil && !v.room() {
		return &wire.Error{Code: wire.CodeNoSpace, Text: "the disk is full: the journal has no reserve; files can be deleted"}
	}
	return v.Store.Reserve(id, rows, bytes, room, deletes)
}

var _ vote.View = (*view)(nil)
