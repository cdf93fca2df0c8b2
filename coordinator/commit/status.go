package commit

import "tpcfs/wire"

// maxInDoubt is how many transactions Status lists.
const maxInDoubt = 100

// Status tells how the cluster does, as far as the machine knows. States and
// the participants' own words are the caller's to add.
func (m *Machine) Status() wire.Status {
	s := wire.Status{
		Cluster: m.o.Cluster, Epoch: m.epoch, Serving: m.phase == Serving && m.stop == nil, W: m.w,
		Last:        wire.Position{Epoch: m.epoch.Number, Index: m.last},
		ServiceTime: m.state.ServiceTime, Queued: len(m.queue), Sessions: len(m.sessions),
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
	for _, mem := range m.members {
		if !s.Serving && mem.in && (!mem.answered || !mem.linked) {
			s.WaitsFor = append(s.WaitsFor, mem.name)
		}
		s.Members = append(s.Members, wire.MemberStatus{
			Name: mem.name, Addr: mem.addr, InSync: mem.in, Lag: m.last - mem.durable,
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
		s.InDoubt = append(s.InDoubt, d)
	}
	return s
}
