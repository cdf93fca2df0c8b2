package coordinator

import (
	"errors"
	"fmt"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// authority keeps what says who reigns over which members (P13): now the
// coordinator's journal, later perhaps something that a standby shares.
type authority interface {
	// Reign makes a new epoch durable before it returns.
	Reign(e wire.Epoch) error
	// Configure makes a config durable; done is called, from any goroutine,
	// when it is.
	Configure(r *commit.Record, done func()) error
}

// ledger is the coordinator's journal. Until run is called it is synchronous;
// afterwards appends never wait for the disk. Its methods are the owner's,
// but synced.
type ledger struct {
	dir string
	log *journal.Log    // until run
	w   *journal.Writer // from run on

	// The owner's:
	waiting  []waiting // for their records to be durable, by LSN
	snapshot journal.LSN
	seen     journal.LSN // end of the journal at the last tick
	unsynced int         // ticks since the last sync was asked for
}

type waiting struct {
	lsn  journal.LSN
	done func()
}

var _ authority = (*ledger)(nil)

// openLedger opens the journal and returns the sum of its records.
func openLedger(fsys disk.FS, dir string, segmentSize int64) (*ledger, commit.State, error) {
	var state commit.State
	log, err := journal.Open(journal.Options{FS: fsys, Dir: dir, SegmentSize: segmentSize})
	if err != nil {
		return nil, state, openError(dir, err)
	}
	// Without its oldest segments the journal begins to count with its first
	// SNAPSHOT: what stands before is left of a cut that a crash has interrupted.
	known := log.First() == 1
	err = log.Replay(log.First(), func(lsn journal.LSN, b []byte) error {
		r, err := commit.DecodeRecord(b)
		if err != nil {
			return fmt.Errorf("record %d: %w", lsn, err)
		}
		if known = known || r.Kind == commit.RecSnapshot; !known {
			return nil
		}
		if err := state.Apply(r); err != nil {
			return fmt.Errorf("record %d: %w", lsn, err)
		}
		return nil
	})
	if err == nil && !known && log.End() > 0 {
		err = &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf("its oldest record is %d, and there is no SNAPSHOT: older segments are missing", log.First())}
	}
	if err != nil {
		return nil, state, errors.Join(openError(dir, err), log.Close())
	}
	return &ledger{dir: dir, log: log}, state, nil
}

func openError(dir string, err error) *wire.Error {
	e := &wire.Error{Code: wire.CodeIO, Op: "open", Name: dir, Text: err.Error()}
	var damage *journal.CorruptError
	var word *wire.Error
	if errors.As(err, &damage) || errors.As(err, &word) && word.Code == wire.CodeCorrupt {
		e.Code = wire.CodeCorrupt
		e.Text = err.Error() + ". The coordinator's journal is damaged; nothing in it was changed. " +
			"Put the data directory back as it was; a backup older than the cluster's last start is refused by the participants. " +
			"If it is lost for good, start the coordinator on an empty directory with --rebuild"
	}
	return e
}

// Reign implements authority.
func (l *ledger) Reign(e wire.Epoch) error {
	_, err := l.log.Append((&commit.Record{Kind: commit.RecEpoch, Epoch: e}).Encode())
	if err == nil {
		err = l.log.Flush()
	}
	if err != nil {
		return openError(l.dir, err)
	}
	return nil
}

// run starts group commit. problem is called by post when a sync has failed
// (P12) or found no room, and with nil when there is room again.
func (l *ledger) run(post func(func()), problem func(error)) {
	w := journal.NewWriter(l.log, func(upTo journal.LSN, err error) {
		post(func() {
			l.synced(upTo)
			problem(err)
		})
	})
	l.w, l.log = w, nil
}

// synced does what waited for records up to there.
func (l *ledger) synced(upTo journal.LSN) {
	for len(l.waiting) > 0 && l.waiting[0].lsn <= upTo {
		l.waiting[0].done()
		l.waiting = l.waiting[1:]
	}
}

// append journals records; the forced ones among them at once.
func (l *ledger) append(records []*commit.Record) error {
	if len(records) == 0 {
		return nil
	}
	list := make([][]byte, len(records))
	force := false
	for i, r := range records {
		list[i] = r.Encode()
		force = force || r.Kind.Forced()
	}
	_, err := l.w.Append(list, force)
	return err
}

// lease journals LEASE records; done is called in the owner for each that
// begins a lease, when it is durable.
func (l *ledger) lease(records []*commit.Record, done func(*commit.LeaseRecord)) error {
	for _, r := range records {
		begins := !r.Lease.Ended
		lsn, err := l.w.Append([][]byte{r.Encode()}, begins)
		if err != nil {
			return err
		}
		if begins {
			l.waiting = append(l.waiting, waiting{lsn, func() { done(r.Lease) }})
		}
	}
	return nil
}

// Configure implements authority.
func (l *ledger) Configure(r *commit.Record, done func()) error {
	lsn, err := l.w.Append([][]byte{r.Encode()}, true)
	if err == nil {
		l.waiting = append(l.waiting, waiting{lsn, done})
	}
	return err
}

// tick forces what was appended lazily, and begins a new segment with a
// SNAPSHOT when it is time (P13); what is older is cut once that is durable.
func (l *ledger) tick(snapshot func() *commit.Record) error {
	if l.w.SegmentFull() && l.snapshot <= l.w.Synced() {
		if err := l.w.NewSegment(); err != nil {
			return err
		}
		lsn, err := l.w.Append([][]byte{snapshot().Encode()}, true)
		if err != nil {
			return err
		}
		l.snapshot = lsn
		l.waiting = append(l.waiting, waiting{lsn, func() { _ = l.w.Cut(lsn) }}) // a failure is sticky, and reported as such
		return nil
	}
	end := l.w.End()
	if l.w.Synced() == end {
		l.unsynced = 0
		return l.w.Seal()
	}
	if l.unsynced++; end == l.seen || l.unsynced >= maxUnsynced {
		l.unsynced = 0
		l.w.Force()
	}
	l.seen = end
	return nil
}

// maxUnsynced is for how many ticks lazy records wait while more keep coming:
// nothing depends on them but how much a restart has to ask, and a sync of
// this journal may hold up a participant's on the same disk.
const maxUnsynced = 50

func (l *ledger) close() error {
	if l.w != nil {
		return l.w.Close()
	}
	return l.log.Close()
}
