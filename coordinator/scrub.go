package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tpcfs/wire"
)

// A scrub reads all contents from the participants' disks and verifies them, then
// compares the rows of all that are in sync at one position (S5b). Rotten blocks
// are repaired; a participant whose rows are not those of the majority gets
// everything anew.

// Bounds of a scrub.
const (
	scrubRate    = 64 << 20         // bytes a second, unless said otherwise
	scrubStep    = 4 << 20          // bytes that are read at a time
	scrubNotes   = 20               // that are kept of a participant
	scrubPauses  = 30 * time.Second // before a scheduled one is tried again
	compareTries = 100              // to meet all at one position
	rejoinWait   = 10 * time.Minute // for a participant that gets everything anew
	scrubIDs     = 32               // bits of a scrub's number that count those of one epoch
)

// scrubber runs one scrub at a time.
type scrubber struct {
	fresh bool       // there was no SCRUB at the start
	keeps sync.Mutex // held while SCRUB is written; taken before mu

	doubted atomic.Bool // there are some in renew or unsure; written under mu

	mu     sync.Mutex // guards the following
	report wire.ScrubReport
	places []int              // in report.Members, by member; -1: it is not there
	run    *scrubRun          // the last one; nil: none yet
	cancel context.CancelFunc // of the one under way
	since  time.Time          // when the last one of all ended; else, since when there was none
	last   []wire.ScrubMember // what the last one that looked at it has found, of each participant
	missed []string           // participants that a scheduled one has not looked at to the end
	renew  []string           // participants whose rows are wrong: they have to get everything anew
	unsure []string           // participants whose rows differ from others', without a majority
	lost   bool               // SCRUB could not be read, and not everything was scrubbed since
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
	r.Members = slices.Clone(r.Members)
	for i := range r.Members {
		r.Members[i].Notes = slices.Clone(r.Members[i].Notes)
	}
	return r
}

// change changes what is known of a participant.
func (s *scrubber) change(i int, fn func(m *wire.ScrubMember)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places[i] >= 0 { // else it has been added since
		fn(&s.report.Members[s.places[i]])
	}
}

// note adds words to what is known of a participant.
func note(m *wire.ScrubMember, text string) {
	if len(m.Notes) < scrubNotes {
		m.Notes = append(m.Notes, text)
	}
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
	ctx, cancel := context.WithCancel(c.ctx)
	s.count++
	s.cancel = cancel
	s.report = wire.ScrubReport{ID: c.epoch.Number<<scrubIDs + s.count, Running: true, Scheduled: scheduled, Began: time.Now().UnixMilli()}
	s.places = make([]int, len(names))
	for i, name := range names {
		if s.places[i] = -1; name != "" {
			s.places[i] = len(s.report.Members)
			s.report.Members = append(s.report.Members, wire.ScrubMember{Name: name})
		}
	}
	r := &scrubRun{c: c, rate: c.o.ScrubRate, chosen: chosen, rotten: make([]map[wire.ID]bool, len(c.peers)),
		damaged: make([]bool, len(c.peers)), met: make([]int, len(c.peers)), undecided: make([]bool, len(c.peers)), failed: make([]error, len(c.peers))}
	s.run = r
	if req.Rate != 0 {
		r.rate = req.Rate
	}
	if len(req.Names) == 0 {
		for i := range chosen {
			chosen[i] = names[i] != ""
		}
	}
	started := c.crew.start(func() {
		defer cancel()
		r.run(ctx)
		c.endScrub(r)
	})
	if !started {
		cancel()
		s.report.Running = false
		return errStopped
	}
	return nil
}

// endScrub notes and tells what was found.
func (c *Coordinator) endScrub(r *scrubRun) {
	s := &c.scrub
	s.mu.Lock()
	now := time.Now()
	s.report.Running, s.report.Ended = false, now.UnixMilli()
	if c.ctx.Err() != nil {
		s.report.Stopped = true
	}
	for i := range s.report.Members {
		m := &s.report.Members[i]
		if m.Ended = s.report.Ended; s.report.Stopped && m.Problem == "" {
			m.Problem = "it was stopped before its end"
		}
	}
	var members []wire.ScrubMember
	all := true
	for i, at := range s.places {
		if at < 0 {
			continue
		}
		if all = all && r.chosen[i]; r.chosen[i] || s.report.Members[at].Found > 0 {
			members = append(members, s.report.Members[at])
		}
		s.places[i] = -1
	}
	s.report.Members = members
	report := s.copyLocked()
	if all && !report.Stopped {
		s.since = now
		s.lost = s.lost && !report.Scheduled && slices.ContainsFunc(members, func(m wire.ScrubMember) bool { return m.Problem != "" })
	}
	s.rememberLocked(&report, c.called())
	for _, m := range report.Members {
		if !report.Stopped && (report.Scheduled || m.Problem == "") {
			s.missed = with(s.missed, m.Name, m.Problem != "")
		}
	}
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

// rememberLocked takes what a scrub has found of those that it has looked at to the
// end, or in which it has found something; names are the participants there are.
func (s *scrubber) rememberLocked(r *wire.ScrubReport, names []string) {
	last := slices.DeleteFunc(slices.Clone(s.last), func(m wire.ScrubMember) bool { return !slices.Contains(names, m.Name) })
	for _, m := range r.Members {
		if r.Stopped && m.Found == 0 {
			continue
		}
		last = slices.DeleteFunc(last, func(o wire.ScrubMember) bool { return o.Name == m.Name })
		last = append(last, m)
	}
	s.last = last
}

// scrubRun is one scrub.
type scrubRun struct {
	c      *Coordinator
	rate   int64  // bytes a second at each
	chosen []bool // by member
	// rotten are objects with blocks that were not repaired, by member: their rows
	// may differ. A member's are its goroutine's, until all have ended.
	rotten []map[wire.ID]bool
	ahead  uint64 // entries from now to where all are to be compared
	sums   bool   // there are rows of checksums that differ

	damaged []bool // by member: it has said that its rows are; guarded by the scrubber's mu
	ranges  int    // that were compared
	met     []int  // of those, by member: it was asked with the others
	// undecided, by member: there are rows that differ between it and others, and no majority.
	undecided []bool
	failed    []error // by member: why it could not be asked last
}

func (r *scrubRun) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, chosen := range r.chosen {
		if chosen {
			wg.Go(func() {
				if err := r.verify(ctx, i); err != nil && ctx.Err() == nil {
					r.problemAt(i, err)
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
		return nil, errAway
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
	r.rotten[i] = map[wire.ID]bool{}
	for cursor, more := []byte(nil), true; more; {
		l, err := r.member(i)
		if err != nil {
			return err
		}
		began := time.Now()
		v, err := r.verifyStep(ctx, l, cursor)
		if err != nil {
			return err
		}
		r.c.scrub.change(i, func(m *wire.ScrubMember) {
			m.Files, m.Bytes, m.OfBytes = m.Files+v.Files, m.Bytes+v.Bytes, v.Total
		})
		for k := range v.Rotten {
			r.mend(ctx, i, &v.Rotten[k])
		}
		cursor, more = v.Cursor, len(v.Cursor) > 0
		if r.rate > 0 {
			pause(ctx, time.Duration(float64(v.Bytes)/float64(r.rate)*float64(time.Second))-time.Since(began))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
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

// mend has the rotten blocks of an object repaired.
func (r *scrubRun) mend(ctx context.Context, i int, lack *wire.Lack) {
	for blocks := lack.Blocks; len(blocks) > 0 && ctx.Err() == nil; {
		n := 1
		for n < len(blocks) && n < wire.MaxDonated && blocks[n]/wire.SumsPerPage == blocks[0]/wire.SumsPerPage {
			n++
		}
		m := r.c.repair(ctx, i, wire.Lack{Ino: lack.Ino, Object: lack.Object, Blocks: blocks[:n]})
		r.c.scrub.change(i, func(s *wire.ScrubMember) {
			s.Found += int64(m.right + len(m.rotten))
			s.Repaired += int64(m.right)
			if len(m.rotten) > 0 {
				note(s, fmt.Sprintf("%d blocks of inode %d are rotten: %v", len(m.rotten), lack.Ino, m.err))
			} else if m.right > 0 {
				note(s, fmt.Sprintf("%d blocks of inode %d were rotten", m.right, lack.Ino))
			}
		})
		if len(m.rotten) > 0 {
			r.rotten[i][lack.Object] = true
		}
		blocks = blocks[n:]
	}
}

// renew has a participant whose rows are wrong evicted, and get everything anew.
func (r *scrubRun) renew(ctx context.Context, i int) {
	var found int64
	r.c.scrub.change(i, func(m *wire.ScrubMember) { found = m.Found - m.Repaired })
	if why := r.c.expel(ctx, i); why != "" {
		r.c.scrub.change(i, func(m *wire.ScrubMember) { note(m, why) })
		return
	}
	for end := time.Now().Add(rejoinWait); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, catchUpPause) {
		if !r.c.comparesAll(i) {
			r.c.scrub.change(i, func(m *wire.ScrubMember) {
				m.Repaired += found
				note(m, "it was evicted, and has got everything anew from the others")
			})
			return
		}
	}
	r.c.scrub.change(i, func(m *wire.ScrubMember) { note(m, "it was evicted, and has not caught up yet") })
}

// expel has a participant evicted, so that it compares everything when it comes
// back: that is durable before, since this coordinator may not see it. "": it is out;
// else, why not.
func (c *Coordinator) expel(ctx context.Context, i int) (why string) {
	may := make(chan bool, 1)
	if !c.ask(ctx, func() { may <- c.m.InSync(i) && c.m.MayGo(i) }) {
		return "it was stopped before its end"
	}
	if !<-may {
		return "too few participants are in sync for it to leave and get everything anew"
	}
	p := c.peers[i]
	if err := c.renews(p.called(), true); err != nil {
		return "it is not evicted, since a restart of the coordinator would forget why: " + err.Error()
	}
	p.hold(true)
	defer p.hold(false)
	if l := c.links[i].Load(); l != nil {
		l.cancel()
	}
	for end := time.Now().Add(c.o.EvictAfter + 2*time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, c.o.Tick) {
		in := make(chan bool, 1)
		if !c.ask(ctx, func() { c.m.Refusing(i); in <- c.m.InSync(i) }) {
			break
		}
		if !<-in {
			return ""
		}
	}
	return "it could not be evicted in time: it is looked at again soon, and gets everything anew whenever it is evicted"
}
