package coordinator

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"tpcfs/coordinator/scrub"
	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// What scrubs have found last, and whose rows they have found wrong, is remembered in a file of the
// data directory: a coordinator that starts often scrubs as often as another one, and one that
// starts in the middle still has such a participant compare everything.
const scrubName = "SCRUB"

// keepScrub writes down what is to be remembered. Without it the next start does not
// know of it.
func (c *Coordinator) keepScrub() error {
	s := &c.scrub
	s.keeps.Lock()
	defer s.keeps.Unlock()
	names := c.called()
	s.mu.Lock()
	s.book.Forget(names)
	s.doubtLocked()
	s.book.Ended = s.since.UnixMilli()
	b, err := s.book.Encode()
	s.mu.Unlock()
	name := path.Join(c.o.Dir, scrubName)
	if err == nil {
		err = disk.WriteWhole(c.o.FS, name, name+".tmp", b)
	}
	if err != nil {
		return &wire.Error{Code: wire.CodeIO, Op: "write", Name: name, Text: err.Error()}
	}
	return nil
}

// recallScrub reads what is remembered, before anything uses it. What cannot be read may have
// been a verdict: everything is scrubbed at once.
func (c *Coordinator) recallScrub() {
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	name := path.Join(c.o.Dir, scrubName)
	kept, err := readScrub(c.o.FS, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.fresh = true
	case err != nil:
		s.book.Lost = true
		c.log.Warn("what scrubs have found cannot be read, and one may have found a participant's metadata wrong: everything is scrubbed at once", "file", name, "err", err)
	default:
		s.since = time.UnixMilli(min(kept.Ended, s.since.UnixMilli()))
		s.book = kept
		s.doubtLocked()
	}
}

func readScrub(fsys disk.FS, name string) (scrub.Book, error) {
	b, err := disk.ReadWhole(fsys, name, scrub.MaxBook)
	if err != nil {
		return scrub.Book{}, err
	}
	return scrub.Decode(b)
}

// renews notes, durably, that a participant has to get everything anew, or that it has.
func (c *Coordinator) renews(name string, has bool) error {
	s := &c.scrub
	enter := func(fn func(name string)) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fn(name)
		s.doubtLocked()
	}
	if !has {
		enter(s.book.Renewed)
		return c.keepScrub()
	}
	enter(func(name string) { s.book.Renews(name, true) })
	err := c.keepScrub()
	if err != nil {
		enter(func(name string) { s.book.Renews(name, false) })
	}
	return err
}

// doubtLocked follows each change of whose rows are wrong, or may be.
func (s *scrubber) doubtLocked() {
	s.doubted.Store(len(s.book.Renew)+len(s.book.Unsure) > 0)
}

// doubt is the book's.
func (c *Coordinator) doubt(i int) int {
	s := &c.scrub
	if !s.doubted.Load() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.book.Doubt(c.peers[i].called())
}

// comparesAll: does a participant that catches up compare everything?
func (c *Coordinator) comparesAll(i int) bool {
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.book.ComparesAll(c.peers[i].called())
}

// lostVerdicts: may there have been verdicts that could not be read?
func (s *scrubber) lostVerdicts() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.book.Lost
}

// scrubScheduled begins a scrub whenever one is due.
func (c *Coordinator) scrubScheduled() {
	if c.scrub.fresh && c.o.ScrubEvery > 0 {
		if err := c.keepScrub(); err != nil { // the time counts from now on
			c.log.Warn("when the next scrub is due cannot be remembered", "err", err)
		}
	}
	select {
	case <-c.ready:
	case <-c.ctx.Done():
		return
	}
	rest := scrubPauses // grows while what is due is not done
	for c.ctx.Err() == nil {
		names, due, left := c.scrubDue()
		switch {
		case !due:
			rest, left = scrubPauses, min(left, scrubPauses)
		case c.startScrub(&wire.ScrubRequest{Names: names}, true) == nil:
			left, rest = rest, min(2*rest, max(c.o.ScrubEvery, time.Hour))
		default: // one is under way: it may be what is due
			left = scrubPauses
		}
		pause(c.ctx, left)
	}
}

// scrubDue tells what is to be scrubbed now; no names: all. left is the time until all are
// due again.
func (c *Coordinator) scrubDue() (names []string, due bool, left time.Duration) {
	var there []string
	for _, l := range c.others(-1) {
		there = append(there, l.name)
	}
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	if left = scrubPauses; c.o.ScrubEvery > 0 {
		left = max(c.o.ScrubEvery-time.Since(s.since), 0)
	}
	names, due = s.book.Due(there, left == 0)
	return names, due, max(left, time.Second)
}

// scrubWarnings are what a status says of scrubs that have not done what they should.
func (c *Coordinator) scrubWarnings(members []wire.MemberStatus) (list []string) {
	s := &c.scrub
	s.mu.Lock()
	missed, renew := s.book.Missed, s.book.Renew
	s.mu.Unlock()
	for _, m := range members {
		switch ended := m.Scrub != nil && m.Scrub.Ended > 0; {
		case ended && m.Scrub.Found > m.Scrub.Repaired:
			list = append(list, "the last scrub has found at participant "+m.Name+" what it could not repair: "+strings.Join(m.Scrub.Notes, "; "))
		case m.InSync && slices.Contains(renew, m.Name) && (m.Scrub == nil || ended):
			list = append(list, "a scrub that was cut short has found the metadata of participant "+m.Name+" wrong: another one looks again soon")
		case ended && slices.Contains(missed, m.Name):
			list = append(list, "the scheduled scrub has not looked at participant "+m.Name+" to the end ("+m.Scrub.Problem+"): it is tried again, once it is in sync and there")
		}
	}
	return list
}

// scrubOf is what the scrub under way, or the last one, has found at a participant.
func (c *Coordinator) scrubOf(name string) *wire.ScrubMember {
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.book.Members
	if s.run != nil {
		if m, ok := s.run.Of(name); ok {
			return &m
		}
	}
	i := slices.IndexFunc(list, func(m wire.ScrubMember) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	m := list[i]
	m.Notes = slices.Clone(m.Notes)
	return &m
}
