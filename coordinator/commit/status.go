package commit

import (
	"fmt"
	"slices"
	"strings"

	"tpcfs/wire"
)

// maxInDoubt is how many transactions Status lists.
const maxInDoubt = 100

// Status tells how the cluster does, as far as the machine knows. States and
// the participants' own words are the caller's to add.
func (m *Machine) Status() wire.Status {
	s := wire.Status{
		Cluster: m.o.Cluster, Epoch: m.epoch, Serving: m.phase == Serving && m.stop == nil, W: m.w,
		Last:        wire.Position{Epoch: m.epoch.Number, Index: m.last},
		ServiceTime: m.state.ServiceTime, Queued: len(m.queued), Sessions: len(m.sessions),
	}
	if m.state.Config != nil {
		s.Config = m.state.Config.ID
	}
	s.MinInSync = m.minInSync()
	if w := m.Degraded(); w != "" && m.stop == nil {
		s.Warnings = append(s.Warnings, w)
	}
	if m.stop != nil {
		s.Problem = m.stop.Error()
	}
	if m.state.Config != nil {
		s.Edits = slices.Clone(m.state.Config.Edits)
	}
	s.Removed = slices.Clone(m.removed)
	for _, mem := range m.members {
		if mem.vacant {
			continue
		}
		if !s.Serving && mem.in && (!mem.answered || !mem.linked) {
			s.WaitsFor = append(s.WaitsFor, mem.name)
		}
		s.Members = append(s.Members, wire.MemberStatus{
			Name: mem.name, Addr: mem.addr, InSync: mem.in, Lag: m.last - mem.durable, Slow: m.slow(mem),
			Handled: wire.Position{Epoch: m.epoch.Number, Index: mem.handled},
			Durable: wire.Position{Epoch: m.epoch.Number, Index: mem.durable},
		})
	}
	for _, t := range m.order {
		if len(s.InDoubt) == maxInDoubt {
			break
		}
		if t.state == refused || t.decided != 0 && t.decided <= m.durable {
			continue
		}
		d := wire.InDoubtStatus{Tx: t.id, Position: t.prepared, Names: t.names, AgeMS: m.now - t.since, Decision: t.state.String()}
		d.Voted, d.Missing = m.voted(t)
		for i, v := range t.votes {
			switch {
			case !m.members[i].in || v == 0:
			case v == wire.VoteYes:
				d.Yes = append(d.Yes, m.members[i].name)
			default:
				d.No = append(d.No, m.members[i].name)
			}
		}
		d.Resolves = m.resolves(d.Missing)
		s.InDoubt = append(s.InDoubt, d)
	}
	if m.phase != Serving && m.stop == nil {
		s.InDoubt = m.doubts()
	}
	return s
}

// resolves says what a transaction that waits for those participants is decided by.
func (m *Machine) resolves(missing []string) string {
	var away, lost []string
	for _, name := range missing {
		switch mem := m.members[m.find(name)]; {
		case mem.unfit != nil:
			lost = append(lost, name)
		case !mem.linked:
			away = append(away, name)
		}
	}
	stay := m.size() - len(m.evicted()) - len(away) - len(lost)
	switch {
	case len(away)+len(lost) == 0:
		return ""
	case stay >= m.minInSync() && m.phase == Serving:
		return "it is decided without " + strings.Join(append(lost, away...), ", ") + " as soon as that is evicted"
	case len(lost) > 0:
		return fmt.Sprintf("what %s held is gone, and without it fewer than %d are in sync: if that is for good, tpcfs resolve --lost %s --force",
			strings.Join(lost, ", "), m.minInSync(), strings.Join(append(lost, away...), ","))
	}
	return fmt.Sprintf("it is decided when %s is back; if its data are lost for good, tpcfs resolve --lost %s --force", strings.Join(away, ", "), strings.Join(away, ","))
}

// doubts lists what those that have answered hold in doubt, before recovery decides it.
func (m *Machine) doubts() []wire.InDoubtStatus {
	var list []wire.InDoubtStatus
	for _, f := range m.findings() {
		if f.prepares == 0 || len(list) == maxInDoubt {
			continue
		}
		d := wire.InDoubtStatus{Tx: f.id, Position: f.prepared, AgeMS: m.now}
		for _, mem := range m.members {
			k := mem.known[f.id]
			switch {
			case !mem.in:
			case !mem.answered:
				d.Missing = append(d.Missing, mem.name)
			case k != nil && (k.State == wire.TxPrepared || k.State == wire.TxCommitted):
				d.Yes = append(d.Yes, mem.name)
			default:
				d.No = append(d.No, mem.name)
			}
		}
		d.Voted, d.Resolves = append(slices.Clone(d.Yes), d.No...), m.resolves(d.Missing)
		list = append(list, d)
	}
	return list
}
