package coordinator

import (
	"encoding/json"
	"path"
	"slices"
	"time"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// What scrubs have found last is remembered in a file of the data directory, so that a coordinator
// that starts often scrubs as often as another one.
const (
	scrubName = "SCRUB"
	maxScrub  = 1 << 20 // bytes
)

// keepScrub writes down what the last scrubs have found, and when the last one of all
// ended. Without it the next start does not know of it.
func (c *Coordinator) keepScrub() {
	s := &c.scrub
	s.keeps.Lock()
	defer s.keeps.Unlock()
	s.mu.Lock()
	b, err := json.Marshal(&wire.ScrubReport{Ended: s.since.UnixMilli(), Members: s.last})
	s.mu.Unlock()
	name := path.Join(c.o.Dir, scrubName)
	if err == nil {
		err = disk.WriteWhole(c.o.FS, name, name+".tmp", b)
	}
	if err != nil {
		c.log.Warn("what a scrub has found cannot be remembered", "file", name, "err", err)
	}
}

// recallScrub reads what the last scrubs have found, before there are others; what
// cannot be read is nothing.
func (c *Coordinator) recallScrub() {
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	var kept wire.ScrubReport
	b, err := disk.ReadWhole(c.o.FS, path.Join(c.o.Dir, scrubName), maxScrub)
	if err == nil {
		err = json.Unmarshal(b, &kept)
	}
	if s.fresh = err != nil; !s.fresh {
		s.since, s.last = time.UnixMilli(min(kept.Ended, s.since.UnixMilli())), kept.Members
	}
}

// scrubScheduled begins a scrub whenever the last one is long enough ago.
func (c *Coordinator) scrubScheduled() {
	s := &c.scrub
	if c.o.ScrubEvery == 0 {
		return
	}
	if s.fresh {
		c.keepScrub() // the time counts from now on
	}
	select {
	case <-c.ready:
	case <-c.ctx.Done():
		return
	}
	for c.ctx.Err() == nil {
		s.mu.Lock()
		left := c.o.ScrubEvery - time.Since(s.since)
		s.mu.Unlock()
		if left <= 0 {
			left = scrubPauses
			there := slices.DeleteFunc(c.called(), func(name string) bool { return name == "" })
			if len(c.others(-1)) == len(there) { // else it would be one of some
				_ = c.startScrub(&wire.ScrubRequest{}, true) // busy: that one counts
			}
		}
		pause(c.ctx, left)
	}
}

// scrubOf is what the scrub under way, or the last one, has found at a participant.
func (c *Coordinator) scrubOf(name string) *wire.ScrubMember {
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.last
	for i, at := range s.places {
		if at >= 0 && s.chosen[i] && s.report.Members[at].Name == name { // it is under way there
			list = s.report.Members
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
