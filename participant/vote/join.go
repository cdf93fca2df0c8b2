package vote

import "tpcfs/wire"

// Since is the last entry handled in an epoch whose OPEN was handled too: what
// was decided up to there is in the store. A greeting, and an epoch that never
// opened, do not move it (P11).
func (m *Machine) Since() wire.Position { return m.since }

// CheckJoin refuses what a participant that is marked as out of sync cannot
// become.
func (m *Machine) CheckJoin(j *wire.Join) *wire.Error {
	switch {
	case m.removed:
		return protocol("this participant %s", wasRemoved)
	case m.resync == "":
		return protocol("this participant is not out of sync")
	case j.Position.Epoch != m.fence.Number || j.Position.Before(j.W) || j.Config.ID == (wire.ConfigID{}):
		return protocol("a join at %v, with watermark %v and config %v, in epoch %d", j.Position, j.W, j.Config.ID, m.fence.Number)
	case m.config.ID != (wire.ConfigID{}) && m.config.Cluster != j.Config.Cluster:
		return protocol("config %v is of cluster %v; this participant belongs to %v", j.Config.ID, j.Config.Cluster, m.config.Cluster)
	}
	return nil
}

// Join makes the machine that of a participant which holds all that was
// decided up to j.Position, where nothing is in doubt, and takes the mark away.
// The caller has made that durable: it is what Joined says. CheckJoin comes first.
func (m *Machine) Join(j *wire.Join) {
	n := New(m.view)
	n.fence, n.config, n.position, n.since, n.w, n.opened = m.fence, j.Config, j.Position, j.Position, j.W, true
	n.serviceTime = max(m.serviceTime, j.ServiceTime)
	n.time = m.time
	n.lastID, n.forgotten = max(m.lastID, j.LastID), j.LastID
	*m = *n
}

// Joined is the snapshot of what Join makes.
func (m *Machine) Joined(j *wire.Join) []byte {
	n := *m
	n.Join(j)
	return n.Snapshot()
}
