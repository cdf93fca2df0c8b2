package coordinator

import (
	"path"
	"slices"

	"tpcfs/coordinator/commit"
	"tpcfs/journal"
	"tpcfs/journal/disk"
	"tpcfs/wire"
)

// Standing is who takes part, as the config says.
type Standing struct {
	Members []StandingMember
	Least   int // that have to be in sync for changes
}

// StandingMember is a participant that takes part.
type StandingMember struct {
	Name, Addr string
	InSync     bool
}

// GoesOn: do the others without those at the addresses that gone says?
func (s *Standing) GoesOn(gone func(addr string) bool) bool {
	stay, lost := 0, 0
	for _, m := range s.Members {
		switch {
		case !m.InSync:
		case gone(m.Addr):
			lost++
		default:
			stay++
		}
	}
	return lost == 0 || stay >= s.Least
}

// Starts: does a coordinator begin without those at the addresses that gone says? With a
// small minimum each of those may be the only one that knows of a newer config (P8).
func (s *Standing) Starts(gone func(addr string) bool) bool {
	stay, lost := 0, 0
	for _, m := range s.Members {
		if m.InSync && gone(m.Addr) {
			lost++
		} else if m.InSync {
			stay++
		}
	}
	return lost == 0 || stay >= commit.StartsWith(len(s.Members), s.Least)
}

// Has reports whether the participant at that address takes part.
func (s *Standing) Has(addr string) bool {
	return slices.ContainsFunc(s.Members, func(m StandingMember) bool { return m.Addr == addr })
}

// Standing returns who takes part now. false: the coordinator has ended.
func (c *Coordinator) Standing() (Standing, bool) {
	answer := make(chan Standing, 1)
	if !c.ask(c.ctx, func() {
		s := Standing{Least: c.m.Status().MinInSync}
		for _, m := range c.m.Members() {
			if !m.None && !m.Coming {
				s.Members = append(s.Members, StandingMember{m.Name, m.Addr, m.InSync})
			}
		}
		answer <- s
	}) {
		return Standing{}, false
	}
	return <-answer, true
}

// ReadStanding reads who took part from the data directory of a coordinator that does not
// run, with that minimum (0: a majority) and the addresses that these peers would have.
// Nothing is changed. false: the journal does not say, or cannot be read, as Open will tell.
func ReadStanding(dir string, minInSync int, peers []Peer) (Standing, bool) {
	var config *wire.Config
	err := journal.Dump(disk.New(), path.Join(dir, journalName), func(b journal.BlockInfo) error {
		for _, data := range b.Records {
			r, err := commit.DecodeRecord(data.Data)
			if err != nil {
				return err
			}
			if r.Config != nil {
				config = r.Config
			}
		}
		return nil
	})
	if err != nil || config == nil {
		return Standing{}, false
	}
	s := Standing{Least: commit.LeastOf(len(config.Configured), minInSync, minInSync == 0)}
	told := map[string]string{}
	for _, p := range peers {
		told[p.Name] = p.Addr
	}
	for _, m := range config.Configured {
		m = commit.Addressed(m, told[m.Name])
		s.Members = append(s.Members, StandingMember{m.Name, m.Addr, slices.Contains(config.InSync, m.Name)})
	}
	return s, true
}
