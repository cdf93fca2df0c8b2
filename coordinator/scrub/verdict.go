package scrub

import (
	"slices"

	"tpcfs/wire"
)

// Verdict is what a comparison says of participants, by name.
type Verdict struct {
	Unsure []string // stand in a difference without a majority
	Sure   []string // were compared in all, and stand in none
	Right  []string // were compared in all, and agree: an older verdict counts no more
}

// ends ends the comparison: all ranges are compared, or not.
func (m *Machine) ends(all bool) {
	m.all, m.phase, m.rest = all, entering, false
	for i := range m.names {
		switch {
		case !m.knows(i) || !m.chosen[i] || all && m.met[i] == m.ranges:
		case !all:
		case m.failed[i] != nil:
			m.problem(i, m.failed[i])
		default:
			m.problem(i, ErrAway)
		}
	}
}

// Verdict is what Enter enters. Of one that stands in a difference without a majority, as
// where too few are there for one, an older verdict still counts.
func (m *Machine) Verdict() (v Verdict) {
	for i, name := range m.names {
		known := m.all && m.met[i] == m.ranges
		switch {
		case name == "":
		case m.undecided[i]:
			v.Unsure = append(v.Unsure, name)
		case known:
			v.Sure = append(v.Sure, name)
			if !m.bad[i] {
				v.Right = append(v.Right, name)
			}
		}
	}
	return v
}

// renewal decides who gets everything anew. That takes all from any of the others: they
// have to be known as right in all, and to lack nothing that it has. So it is not done
// with two that are wrong, with checksums that differ, where one may have the last
// block that is right and others know it as bad, or when not all was compared.
func (m *Machine) renewal() {
	why := ""
	var bad []int
	for i, is := range m.bad {
		if is {
			bad = append(bad, i)
		}
	}
	switch {
	case !m.all:
		why = "not everything could be compared"
	case m.sums:
		why = "checksums differ too, and another scrub of all participants has to repair contents first"
	case len(bad) > 1:
		why = "another one is wrong as well, and it might get everything from that: look which of them is right, and start the others on empty directories, one after the other"
	}
	if why == "" {
		m.renews = bad
	} else {
		for _, i := range bad {
			m.note(i, "it does not get everything anew: "+why)
		}
	}
	m.next()
}

// next goes on with the first that is to be renewed.
func (m *Machine) next() {
	if m.phase = asking; len(m.renews) == 0 {
		m.phase = over
	}
}

// Did says that the last step is done, or why it was not: "": it is.
func (m *Machine) Did(why string) {
	switch m.phase {
	case entering:
		m.renewal()
		return
	case asking, condemning, evicting:
		if why == "" {
			m.phase++
			return
		}
		m.note(m.renews[0], why)
	case awaiting:
		i := m.renews[0]
		if why == "" {
			m.reports[i].Repaired = m.reports[i].Found
			why = "it was evicted, and has got everything anew from the others"
		}
		m.note(i, why)
	default:
		return
	}
	m.renews = m.renews[1:]
	m.next()
}

// Report is what a scrub that ends says, of the participants that were chosen, and of others
// in which something was found.
func (m *Machine) Report(stopped bool, endedMS int64) (list []wire.ScrubMember, all bool) {
	all = true
	for i := range m.names {
		if !m.knows(i) {
			continue
		}
		r := &m.reports[i]
		if r.Ended = endedMS; stopped && r.Problem == "" {
			r.Problem = "it was stopped before its end"
		}
		if all = all && m.chosen[i]; m.chosen[i] || r.Found > 0 {
			c := *r
			c.Notes = slices.Clone(r.Notes)
			list = append(list, c)
		}
	}
	return list, all
}
