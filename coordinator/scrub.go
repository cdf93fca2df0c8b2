package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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
	rejoinWait   = 10 * time.Minute // for a participant that gets everything anew, per GiB and once
)

// scrubber runs one scrub at a time.
type scrubber struct {
	fresh bool       // there was no SCRUB at the start
	keeps sync.Mutex // held while SCRUB is written; taken before mu

	mu     sync.Mutex // guards the following
	report wire.ScrubReport
	places []int              // in report.Members, by member; -1: it is not there
	chosen []bool             // by member: whose contents the one under way verifies
	cancel context.CancelFunc // of the one under way
	since  time.Time          // when the last one of all ended; else, since when there was none
	last   []wire.ScrubMember // what the last one that looked at it has found, of each participant
	ids    uint64
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
	s.ids++
	s.cancel = cancel
	s.chosen = chosen
	s.report = wire.ScrubReport{ID: s.ids, Running: true, Scheduled: scheduled, Began: time.Now().UnixMilli()}
	s.places = make([]int, len(names))
	for i, name := range names {
		if s.places[i] = -1; name != "" {
			s.places[i] = len(s.report.Members)
			s.report.Members = append(s.report.Members, wire.ScrubMember{Name: name})
		}
	}
	r := &scrubRun{c: c, rate: c.o.ScrubRate, chosen: chosen, rotten: make([]map[wire.ID]bool, len(c.peers))}
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
	}
	s.rememberLocked(&report, c.called())
	s.mu.Unlock()
	c.keepScrub()
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
		return nil, wire.NewError(wire.CodeUnavailable, "it is not in sync and there")
	}
	return l, nil
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
	ctx, cancel := l.during(ctx)
	defer cancel()
	l.need(index)
	step := int64(scrubStep)
	if r.rate > 0 {
		step = max(min(step, r.rate/4), wire.BlockSize)
	}
	return l.replica.Verify(ctx, wire.Verify{Epoch: r.c.epoch, Index: index, Cursor: cursor, Bytes: step})
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

// compare compares the rows of all participants in sync, and has one renewed that
// does not agree with the majority. That takes all from any of the others: they have
// to be known as right in all, and to lack nothing that it has. So it is not done
// with two that are wrong, with checksums that differ, where one may have the last
// block that is right and others know it as bad, or when not all was compared.
func (r *scrubRun) compare(ctx context.Context) {
	bad := map[int]bool{} // members that do not agree with the majority
	all := r.compareRanges(ctx, bad)
	why := ""
	switch {
	case !all:
		why = "not everything could be compared"
	case r.sums:
		why = "checksums differ too, and another scrub of all participants has to repair contents first"
	case len(bad) > 1:
		why = "another one is wrong as well, and it might get everything from that: look which of them is right, and start the others on empty directories, one after the other"
	}
	for _, i := range slices.Sorted(maps.Keys(bad)) {
		if why == "" {
			r.renew(ctx, i)
			continue
		}
		r.c.scrub.change(i, func(m *wire.ScrubMember) { note(m, "it does not get everything anew: "+why) })
	}
}

// compareRanges compares range by range; false: it did not come to the end.
func (r *scrubRun) compareRanges(ctx context.Context, bad map[int]bool) bool {
	fails := 0
	for from, more := []byte(nil), true; more && ctx.Err() == nil; {
		links := r.c.others(-1)
		if len(links) < 2 {
			r.problem("there is nobody to compare its metadata with")
			return false
		}
		first, _, err := r.ask(ctx, links[0], wire.Compare{From: from, Choose: true})
		if err != nil {
			r.problemAt(links[0].member, err)
			if fails++; fails > compareTries {
				r.problem("its metadata could not be compared")
				return false
			}
			pause(ctx, repairBusy)
			continue
		}
		req := wire.Compare{From: from, Next: first.Next}
		if len(from) == 0 && len(first.Next) == 0 {
			return true // a store without rows
		}
		all, err := r.atOnePosition(ctx, req)
		if err != nil {
			return false // those that have failed are noted
		}
		if slices.ContainsFunc(all, func(a compared) bool { return string(a.Digest) != string(all[0].Digest) || a.More }) {
			if !r.differ(ctx, req, bad) {
				return false
			}
		}
		r.c.scrub.mu.Lock()
		r.c.scrub.report.Rows += first.Rows
		r.c.scrub.mu.Unlock()
		from, more = first.Next, len(first.Next) > 0
	}
	return ctx.Err() == nil
}

func (r *scrubRun) problem(text string) {
	for i := range r.chosen {
		r.problemAt(i, errors.New(text))
	}
}

// problemAt notes why a participant was not looked at to the end, or, of one that
// says so, that its rows are damaged.
func (r *scrubRun) problemAt(i int, err error) {
	r.c.scrub.change(i, func(m *wire.ScrubMember) {
		if wire.CodeOf(err) == wire.CodeCorrupt {
			m.Found++
			note(m, err.Error())
		}
		if m.Problem == "" && r.chosen[i] {
			m.Problem = err.Error()
		}
	})
}

// compared is a participant's answer.
type compared struct {
	wire.Compared
	member int
	body   []byte
	err    error
}

func (r *scrubRun) ask(ctx context.Context, l *link, req wire.Compare) (wire.Compared, []byte, error) {
	ctx, cancel := l.during(ctx)
	defer cancel()
	req.Epoch = r.c.epoch
	l.need(req.Index)
	return l.replica.Compare(ctx, req)
}

// atOnePosition asks all participants in sync for rows of one position. While changes
// come that is one some way ahead, where each of them stops for a moment.
func (r *scrubRun) atOnePosition(ctx context.Context, req wire.Compare) ([]compared, error) {
	for range compareTries {
		req.Index = r.c.readPoint.Load() + r.ahead
		var all []compared
		answers := make(chan compared, len(r.c.links))
		links := r.c.others(-1)
		for _, l := range links {
			go func() { // it ends with the call, which is waited for
				c, body, err := r.ask(ctx, l, req)
				answers <- compared{c, l.member, body, err}
			}()
		}
		for range links {
			all = append(all, <-answers)
		}
		slices.SortFunc(all, func(a, b compared) int { return a.member - b.member })
		failed := slices.IndexFunc(all, func(a compared) bool { return a.err != nil })
		if failed >= 0 { // it may be gone soon, and the others are compared
			r.problemAt(all[failed].member, all[failed].err)
			pause(ctx, repairBusy)
			continue
		}
		if len(all) > 1 && !slices.ContainsFunc(all, func(a compared) bool { return a.Position != all[0].Position }) {
			return all, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if slices.ContainsFunc(all, func(a compared) bool { return a.Position.Index > req.Index }) {
			r.ahead = max(4, min(2*r.ahead, 1<<16)) // it was too late there
		} else {
			r.ahead /= 2
		}
	}
	err := errors.New("the participants were never at one position: too much changes to compare their metadata")
	r.problem(err.Error())
	return nil, err
}

// differ looks for the rows that differ, and for whose; false: they could not be
// had.
func (r *scrubRun) differ(ctx context.Context, req wire.Compare, bad map[int]bool) bool {
	req.Rows = true
	all, err := r.atOnePosition(ctx, req)
	if err != nil {
		return false
	}
	rows := map[string]map[int]string{} // digest and name, by key and member
	for _, a := range all {
		list, err := wire.DecodeRows(a.body)
		if err != nil {
			r.problemAt(a.member, err)
			return false
		}
		for _, row := range list {
			if rows[row.Key] == nil {
				rows[row.Key] = map[int]string{}
			}
			rows[row.Key][a.member] = string(row.Val)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		r.judge(key, rows[key], all, bad)
	}
	return true
}

// judge tells who is right about a row: the majority, if there is one. Of checksums
// it does not: each participant marks blocks as bad by itself (S5), and many that
// have lost one are not more right than one that has it.
func (r *scrubRun) judge(key string, row map[int]string, all []compared, bad map[int]bool) {
	says := map[string][]int{} // "": it has none
	for _, a := range all {
		says[row[a.member]] = append(says[row[a.member]], a.member)
	}
	if len(says) == 1 {
		return
	}
	sums := key[0] == sumRow
	if r.sums = r.sums || sums; sums && r.isRotten(key, all) {
		return
	}
	name := ""
	for val := range says {
		if len(val) >= wire.RowDigest {
			name = val[wire.RowDigest:]
		}
	}
	var names []string
	for _, val := range slices.SortedFunc(maps.Keys(says), func(a, b string) int { return says[a][0] - says[b][0] }) {
		var who []string
		for _, i := range says[val] {
			who = append(who, r.c.peers[i].called())
		}
		names = append(names, strings.Join(who, "+"))
	}
	for _, members := range says {
		if 2*len(members) > len(all) {
			continue
		}
		majority := !sums && slices.ContainsFunc(slices.Collect(maps.Values(says)), func(o []int) bool { return 2*len(o) > len(all) })
		for _, i := range members {
			if majority {
				bad[i] = true
			}
			r.c.scrub.change(i, func(m *wire.ScrubMember) {
				m.Found++
				note(m, fmt.Sprintf("%s differs: %s", name, strings.Join(names, " | ")))
			})
		}
	}
}

// sumRow begins the keys of rows of checksums; the object's number follows.
const sumRow = 's'

// isRotten: is the row about checksums of an object that has rotten blocks? What a
// participant does not know of them it keeps in that row.
func (r *scrubRun) isRotten(key string, all []compared) bool {
	for _, a := range all {
		for object := range r.rotten[a.member] {
			if strings.HasPrefix(key, string(binary.BigEndian.AppendUint64([]byte{sumRow}, uint64(object)))) {
				return true
			}
		}
	}
	return false
}

// renew has a participant whose rows are wrong evicted, and get everything anew.
func (r *scrubRun) renew(ctx context.Context, i int) {
	var found int64
	r.c.scrub.change(i, func(m *wire.ScrubMember) { found = m.Found - m.Repaired })
	if !r.c.expel(ctx, i) {
		r.c.scrub.change(i, func(m *wire.ScrubMember) {
			note(m, "too few participants are in sync for it to leave and get everything anew")
		})
		return
	}
	for end := time.Now().Add(rejoinWait); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, catchUpPause) {
		if !r.c.peers[i].comparesAll() {
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
// back. false: the others could not go on without it.
func (c *Coordinator) expel(ctx context.Context, i int) bool {
	may := make(chan bool, 1)
	if !c.ask(ctx, func() { may <- c.m.InSync(i) && c.m.MayGo(i) }) || !<-may {
		return false
	}
	p := c.peers[i]
	p.compares(true)
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
			return true
		}
	}
	return false // it may be evicted yet, and then compares everything
}
