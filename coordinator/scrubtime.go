package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// What scrubs have found last, and whose rows they have found wrong, is remembered in a file of the
// data directory: a coordinator that starts often scrubs as often as another one, and one that
// starts in the middle still has such a participant compare everything.
const (
	scrubName = "SCRUB"
	maxScrub  = 1 << 20 // bytes
)

// keptScrub is what SCRUB holds, after a checksum of it and a newline.
type keptScrub struct {
	Ended   int64              `json:"ended"` // of the last one of all, ms since 1970
	Members []wire.ScrubMember `json:"members"`
	Missed  []string           `json:"missed,omitempty"`
	Renew   []string           `json:"renew,omitempty"`
	Unsure  []string           `json:"unsure,omitempty"`
	Lost    bool               `json:"lost,omitempty"`
}

// with is a list that holds the name, or does not.
func with(list []string, name string, in bool) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(o string) bool { return o == name })
	if in {
		list = append(list, name)
	}
	return list
}

// keepScrub writes down what is to be remembered. Without it the next start does not
// know of it.
func (c *Coordinator) keepScrub() error {
	s := &c.scrub
	s.keeps.Lock()
	defer s.keeps.Unlock()
	names := c.called()
	gone := func(name string) bool { return !slices.Contains(names, name) }
	s.mu.Lock()
	s.missed = slices.DeleteFunc(s.missed, gone)
	s.doubtLocked(slices.DeleteFunc(s.renew, gone), slices.DeleteFunc(s.unsure, gone))
	b, err := json.Marshal(&keptScrub{Ended: s.since.UnixMilli(), Members: s.last, Missed: s.missed, Renew: s.renew, Unsure: s.unsure, Lost: s.lost})
	s.mu.Unlock()
	name := path.Join(c.o.Dir, scrubName)
	if err == nil {
		err = disk.WriteWhole(c.o.FS, name, name+".tmp", fmt.Appendf(nil, "%08x\n%s", wire.Sum(b), b))
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
		s.lost = true
		c.log.Warn("what scrubs have found cannot be read, and one may have found a participant's metadata wrong: everything is scrubbed at once", "file", name, "err", err)
	default:
		s.since, s.last = time.UnixMilli(min(kept.Ended, s.since.UnixMilli())), kept.Members
		s.missed, s.lost = kept.Missed, kept.Lost
		s.doubtLocked(kept.Renew, kept.Unsure)
	}
}

// readScrub reads SCRUB; one that begins with a brace is older than its checksum.
func readScrub(fsys disk.FS, name string) (kept keptScrub, err error) {
	b, err := disk.ReadWhole(fsys, name, maxScrub)
	if err != nil {
		return kept, err
	}
	if !bytes.HasPrefix(b, []byte("{")) {
		sum, rest, _ := bytes.Cut(b, []byte("\n"))
		if string(sum) != fmt.Sprintf("%08x", wire.Sum(rest)) {
			return kept, wire.NewError(wire.CodeCorrupt, "its checksum is wrong")
		}
		b = rest
	}
	return kept, json.Unmarshal(b, &kept)
}

// renews notes, durably, that a participant has to get everything anew, or that it has.
func (c *Coordinator) renews(name string, has bool) error {
	s := &c.scrub
	s.mu.Lock()
	s.doubtLocked(with(s.renew, name, has), s.unsure)
	s.mu.Unlock()
	err := c.keepScrub()
	if err != nil && has {
		s.mu.Lock()
		s.doubtLocked(with(s.renew, name, false), s.unsure)
		s.mu.Unlock()
	}
	return err
}

// doubtLocked sets whose rows are wrong, and whose may be.
func (s *scrubber) doubtLocked(renew, unsure []string) {
	s.renew, s.unsure = renew, unsure
	s.doubted.Store(len(renew)+len(unsure) > 0)
}

// undecidedAre takes over, by member, who stands in a difference without a majority. Where
// it is not known that somebody stands in none, an older one counts.
func (s *scrubber) undecidedAre(names []string, of func(i int) (undecided, known bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unsure := s.unsure
	for i, name := range names {
		if undecided, known := of(i); name != "" && (undecided || known) {
			unsure = with(unsure, name, undecided)
		}
	}
	s.doubtLocked(s.renew, unsure)
}

// doubt tells how little a participant's rows are to be believed: nobody copies from one
// or reads there while there is another that is better. 0: no scrub has found anything.
func (c *Coordinator) doubt(i int) int {
	s := &c.scrub
	if !s.doubted.Load() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch name := c.peers[i].called(); {
	case slices.Contains(s.renew, name):
		return 2
	case slices.Contains(s.unsure, name):
		return 1
	}
	return 0
}

// comparesAll: does a participant that catches up compare everything?
func (c *Coordinator) comparesAll(i int) bool {
	s := &c.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.renew, c.peers[i].called())
}

// lostVerdicts: may there have been verdicts that could not be read?
func (s *scrubber) lostVerdicts() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
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
// due again. Who is away then is not waited for: it is looked at, alone, when it is back.
// One whose rows were found wrong and that is in sync was not evicted, since a coordinator
// died or too few stayed: its verdict is looked for again.
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
	in := func(name string) bool { return slices.Contains(there, name) }
	if len(there) > 0 && (left == 0 || s.lost) || slices.ContainsFunc(s.renew, in) {
		return nil, true, left
	}
	names = slices.DeleteFunc(slices.Clone(s.missed), func(name string) bool { return !in(name) })
	return names, len(names) > 0, max(left, time.Second)
}

// scrubWarnings are what a status says of scrubs that have not done what they should.
func (c *Coordinator) scrubWarnings(members []wire.MemberStatus) (list []string) {
	s := &c.scrub
	s.mu.Lock()
	missed, renew := slices.Clone(s.missed), slices.Clone(s.renew)
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
	list := s.last
	for i, at := range s.places {
		if at >= 0 && s.run.chosen[i] && s.report.Members[at].Name == name { // it is under way there
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
