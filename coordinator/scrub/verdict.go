package scrub

import (
	"slices"

	"tpcfs/wire"
)

// Verdict is what a comparison says of participants, by name.
type Verdict struct {
	Unsure []string // stand in a difference, without a majority or against one, or were not compared while one does
	Right  []string // were compared in all, and stand in none: an older verdict counts no more
}

// ends ends the comparison: all ranges are compared, or not.
func (m *Machine) ends(all bool) {
	m.all, m.phase, m.rest = all, entering, false
	for i := range m.names {
		switch {
		case !m.knows(i) || !m.chosen[i] || m.compares(i):
		case !all:
			m.problem(i, errHalf)
		case m.failed[i] != nil:
			m.problem(i, m.failed[i])
		default:
			m.problem(i, ErrAway)
		}
		if m.bad[i] {
			m.renews = append(m.renews, i)
		}
	}
	if why := m.against(); why != "" {
		for _, i := range m.renews {
			m.note(i, "it does not get everything anew: "+why)
		}
		m.renews = nil
	}
}

// compares: was one compared with the others in all?
func (m *Machine) compares(i int) bool { return m.knows(i) && m.all && m.met[i] == m.ranges }

// against is why nobody gets everything anew; "": those that are wrong do. That takes all from
// any of the others: they have to be known as right in all, and to lack nothing that it has. So
// it is not done with two that are wrong, with rows that differ without a majority, with
// checksums that differ, where one may have the last block that is right and others know it as
// bad, nor when not all of all was compared.
func (m *Machine) against() string {
	half := false
	for i := range m.names {
		half = half || m.met[i] > 0 && !m.compares(i)
	}
	switch {
	case half || !m.all:
		return "not everything could be compared"
	case m.sums:
		return "checksums differ too, and another scrub of all participants has to repair contents first"
	case slices.Contains(m.undecided, true):
		return "there are also differences without a majority, and it might lose what is right of those"
	case len(m.renews) > 1:
		return "another one is wrong as well, and it might get everything from that: look which of them is right, and start the others on empty directories, one after the other"
	}
	return ""
}

// Verdict is what Enter enters. Of one that stands in a difference without a majority, as
// where too few are there for one, an older verdict still counts. One that the majority is
// against may not be able to get everything anew: then nobody is to get it from that one; nor,
// who does, from one that was away.
func (m *Machine) Verdict() (v Verdict) {
	for i, name := range m.names {
		switch {
		case name == "":
		case m.undecided[i] || m.bad[i] || len(m.renews) > 0 && !m.compares(i):
			v.Unsure = append(v.Unsure, name)
		case m.compares(i):
			v.Right = append(v.Right, name)
		}
	}
	return v
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
		m.next()
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
