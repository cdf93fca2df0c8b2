package coordinator

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/coordinator/scrub"
	"tpcfs/wire"
)

// A scrub reads all contents from the participants' disks and verifies them, then
// compares the rows of all that are in sync at one position (S5b). Rotten blocks
// are repaired; a participant whose rows are not those of the majority gets
// everything anew.

// Bounds of a scrub.
const (
	scrubRate   = 64 << 20         // bytes a second, unless said otherwise
	scrubStep   = 4 << 20          // bytes that are read at a time
	scrubPauses = 30 * time.Second // before a scheduled one is tried again
	rejoinWait  = 10 * time.Minute // for a participant that gets everything anew
	scrubIDs    = 32               // bits of a scrub's number that count those of one epoch
)

// scrubber runs one scrub at a time.
type scrubber struct {
	fresh bool       // there was no SCRUB at the start
	keeps sync.Mutex // held while SCRUB is written; taken before mu

	doubted atomic.Bool // the book doubts some; written under mu

	mu     sync.Mutex // guards the following
	report wire.ScrubReport
	run    *scrub.Machine     // the one under way; nil: there is none
	cancel context.CancelFunc // of the one under way
	since  time.Time          // when the last one of all ended; else, since when there was none
	book   scrub.Book         // Ended is set when it is written down
	count  uint64
}

// Scrub implements wire.Service.
func (c *Coordinator) Scrub(_ context.Context, req wire.ScrubRequest) (wire.ScrubReport, error) {
	if req.Start {
		if err := c.startScrub(&req, false); err != nil {
			return wire.ScrubReport{}, err
		}
	}
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Stop != 0 && req.Stop == s.report.ID && s.report.Running {
		s.report.Stopped = true
		s.cancel()
	}
	return s.copyLocked(), nil
}

func (s *scrubber) copyLocked() wire.ScrubReport {
	r := s.report
	if s.run != nil {
		r.Members, r.Rows = s.run.Reports(), s.run.Rows()
		return r
	}
	r.Members = slices.Clone(r.Members)
	for i := range r.Members {
		r.Members[i].Notes = slices.Clone(r.Members[i].Notes)
	}
	return r
}

// called are the participants' names, by member; "": none.
func (c *Coordinator) called() []string {
	names := make([]string, len(c.peers))
	for i, p := range c.peers {
		names[i] = p.called()
	}
	return names
}

// startScrub begins a scrub of some participants, or all.
func (c *Coordinator) startScrub(req *wire.ScrubRequest, scheduled bool) error {
	chosen := make([]bool, len(c.peers))
	names := c.called()
	for _, name := range req.Names {
		i := slices.Index(names, name)
		if i < 0 || name == "" {
			there := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "" })
			return &wire.Error{Code: wire.CodeNotExist, Op: "scrub", Name: name, Text: "no participant has that name: they are " + strings.Join(there, ", ")}
		}
		chosen[i] = true
	}
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report.Running {
		return &wire.Error{Code: wire.CodeBusy, Op: "scrub", Text: "one is under way, since " + time.UnixMilli(s.report.Began).Format(time.DateTime) + ": tpcfs status shows how far it is"}
	}
	if len(req.Names) == 0 {
		for i := range chosen {
			chosen[i] = names[i] != ""
		}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	s.count++
	r := &scrubRun{c: c, rate: c.o.ScrubRate, names: names, m: scrub.New(names, chosen)}
	if req.Rate != 0 {
		r.rate = req.Rate
	}
	s.run, s.cancel = r.m, cancel
	s.report = wire.ScrubReport{ID: c.epoch.Number<<scrubIDs + s.count, Running: true, Scheduled: scheduled, Began: time.Now().UnixMilli()}
	started := c.crew.start(func() {
		defer cancel()
		r.run(ctx)
		c.endScrub()
	})
	if !started {
		cancel()
		s.report.Running, s.run = false, nil
		return errStopped
	}
	return nil
}

// endScrub notes and tells what was found.
func (c *Coordinator) endScrub() {
	s := &c.scrub
	s.mu.Lock()
	now := time.Now()
	s.report.Running, s.report.Ended = false, now.UnixMilli()
	if c.ctx.Err() != nil {
		s.report.Stopped = true
	}
	var all bool
	s.report.Rows = s.run.Rows()
	s.report.Members, all = s.run.Report(s.report.Stopped, s.report.Ended)
	s.run = nil
	report := s.copyLocked()
	if all && !report.Stopped {
		s.since = now
	}
	s.book.Finish(&report, all, c.called())
	s.mu.Unlock()
	if err := c.keepScrub(); err != nil {
		c.log.Warn("what a scrub has found cannot be remembered", "err", err)
	}
	for _, m := range report.Members {
		if m.Found > 0 || m.Problem != "" {
			c.log.Warn("a scrub has found something", "name", m.Name, "found", m.Found, "repaired", m.Repaired, "notes", strings.Join(m.Notes, "; "), "problem", m.Problem)
		}
	}
}

// scrubRun carries out one scrub: what m wants, whose lock is the scrubber's mu.
type scrubRun struct {
	c     *Coordinator
	rate  int64    // bytes a second at each
	names []string // by member, at the start
	m     *scrub.Machine
}

// locked runs a function of the machine's.
func (r *scrubRun) locked(fn func()) {
	r.c.scrub.mu.Lock()
	defer r.c.scrub.mu.Unlock()
	fn()
}

func (r *scrubRun) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range r.names {
		if r.m.Chosen(i) {
			wg.Go(func() {
				if err := r.verify(ctx, i); err != nil && ctx.Err() == nil {
					r.locked(func() { r.m.Failed(i, err) })
				}
			})
		}
	}
	wg.Wait()
	if ctx.Err() == nil {
		r.compare(ctx)
	}
}

// member returns the link to a participant that is in sync.
func (r *scrubRun) member(i int) (*link, error) {
	l := r.c.links[i].Load()
	if l == nil || l.outside.Load() {
		return nil, scrub.ErrAway
	}
	return l, nil
}

// gone is why a call at a link failed: where the link has ended, the call was given up for that.
func gone(ctx context.Context, l *link, err error) error {
	if err != nil && l.ctx.Err() != nil && ctx.Err() == nil && wire.CodeOf(err) != wire.CodeCorrupt {
		return wire.NewError(wire.CodeUnavailable, "its connection was lost meanwhile: see whether it runs, and what it has said last")
	}
	return err
}

// verify verifies a participant's contents, and has repaired what is rotten.
func (r *scrubRun) verify(ctx context.Context, i int) error {
	for {
		var cursor []byte
		more := false
		r.locked(func() { cursor, more = r.m.Verify(i) })
		if !more {
			return nil
		}
		l, err := r.member(i)
		if err != nil {
			return err
		}
		began := time.Now()
		v, err := r.verifyStep(ctx, l, cursor)
		if err != nil {
			return err
		}
		var mends []wire.Lack
		r.locked(func() { mends = r.m.Verified(i, &v) })
		for _, lack := range mends {
			if ctx.Err() == nil {
				m := r.c.repair(ctx, i, lack)
				r.locked(func() { r.m.Mended(i, &lack, m.right, m.rotten, m.err) })
			}
		}
		if r.rate > 0 {
			pause(ctx, time.Duration(float64(v.Bytes)/float64(r.rate)*float64(time.Second))-time.Since(began))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (r *scrubRun) verifyStep(ctx context.Context, l *link, cursor []byte) (wire.Verified, error) {
	index := r.c.readPoint.Load()
	if index == 0 {
		return wire.Verified{}, wire.NewError(wire.CodeUnavailable, "the coordinator does not serve")
	}
	during, cancel := l.during(ctx)
	defer cancel()
	l.need(index)
	step := int64(scrubStep)
	if r.rate > 0 {
		step = max(min(step, r.rate/4), wire.BlockSize)
	}
	v, err := l.replica.Verify(during, wire.Verify{Epoch: r.c.epoch, Index: index, Cursor: cursor, Bytes: step})
	return v, gone(ctx, l, err)
}
