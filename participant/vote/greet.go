package vote

import (
	"fmt"

	"tpcfs/wire"
)

// Greet takes a coordinator's first word (P6). The answer of a new epoch is
// the state that becomes durable with Ready's record: the caller sends it
// after that record, and everything before it, is synced. One of the epoch
// that already holds is a resume (P10): there is no record, and the caller
// sends the answer, and then Revotes, once the epoch's own record is synced.
//
// The error is an *wire.Error: CodeStaleEpoch when a newer coordinator, or
// another one of the same number, has greeted; CodeProtocol when the
// participant belongs to another cluster, whatever the epoch: a coordinator with
// a wrong address does not take it from its own. The greeting tells the epoch held
// all the same.
//
// One who is greeted as no member marks itself as out of sync, and discards
// what it has in doubt (P11): Ready.Record is that mark then, and Discard names
// what the store gives up. One who was removed marks itself as that, and refuses
// every other greeting from then on (P14).
func (m *Machine) Greet(g wire.Greet, storage wire.UUID) (wire.Greeting, Ready, error) {
	held := m.fence
	switch {
	case !g.Removed.IsZero() && g.Removed != storage:
		return wire.Greeting{}, Ready{}, protocol("this is storage %v, not %v, which was removed from the cluster", storage, g.Removed)
	case m.config.ID != (wire.ConfigID{}) && !g.Cluster.IsZero() && g.Cluster != m.config.Cluster:
		return m.greeting(storage, held), Ready{}, protocol("the coordinator is of cluster %v; this participant belongs to %v", g.Cluster, m.config.Cluster)
	case g.Epoch.Number < held.Number || g.Epoch.Number == held.Number && g.Epoch.Run != held.Run:
		return m.greeting(storage, held), Ready{}, staleEpoch(g.Epoch, held)
	case g.Epoch.Number == 0 || g.Epoch.Number >= 1<<23:
		return wire.Greeting{}, Ready{}, protocol("%d is no epoch", g.Epoch.Number)
	}
	if m.removed && g.Removed.IsZero() {
		return m.greeting(storage, held), Ready{}, protocol("this participant %s", wasRemoved)
	}
	if name := m.nameOf(storage); g.Outside && name != "" && name != g.Name {
		return m.greeting(storage, held), Ready{}, protocol("this is participant %s, not %s: two names have one address", name, g.Name)
	}
	var out Ready
	mark, removed := "", !g.Removed.IsZero() && !m.removed
	switch {
	case removed:
		mark = wasRemoved
	case g.Outside && m.resync == "":
		mark = outOfSync
	}
	switch {
	case g.Epoch != held:
		out = m.step(&Record{Kind: KindEpoch, Epoch: g.Epoch, Resync: mark, Removed: removed}, true)
	case mark != "":
		out = m.step(&Record{Kind: KindResync, Resync: mark, Removed: removed}, true)
	}
	out.Position = m.position
	return m.greeting(storage, held), out, nil
}

// wasRemoved is that of one that an operator has taken out for good (P14).
const wasRemoved = "was removed from its cluster by an operator: it serves nobody until its data directory is empty"

// outOfSync is the reason of a participant that was greeted as no member.
const outOfSync = "the others have gone on without it"

// nameOf is a participant's name in the config held here; "": it is not in it.
func (m *Machine) nameOf(storage wire.UUID) string {
	for _, c := range m.config.Configured {
		if c.Storage == storage {
			return c.Name
		}
	}
	return ""
}

func staleEpoch(asked, held wire.Epoch) *wire.Error {
	return &wire.Error{Code: wire.CodeStaleEpoch, Text: fmt.Sprintf("epoch %d of run %v was greeted here, %d of run %v is refused", held.Number, held.Run, asked.Number, asked.Run)}
}

func (m *Machine) greeting(storage wire.UUID, held wire.Epoch) wire.Greeting {
	g := *m.Standing(storage)
	g.Held, g.Known = held, m.Testimony()
	return g
}

// Standing is what a greeting would be answered, without the transactions. Nothing
// changes, and it may not be durable yet.
func (m *Machine) Standing(storage wire.UUID) *wire.Greeting {
	return &wire.Greeting{Storage: storage, Held: m.fence, Config: m.config, Position: m.position, W: m.w,
		ServiceTime: m.serviceTime, LastID: m.lastID, Resync: m.resync, Time: m.time}
}

// Testimony lists the transactions in doubt, and the outcomes and NOs above W,
// by id (P7). One that is not listed was never prepared here, or is forgotten
// when its PREPARE is at or below W.
func (m *Machine) Testimony() []wire.Testimony {
	var list []wire.Testimony
	for _, t := range m.known() {
		y := wire.Testimony{Tx: t.id, State: t.state, Op: t.op, Outcome: t.outcome, Err: cloneError(t.err)}
		if t.seen {
			y.Prepared = t.prepared
		}
		if t.body != nil {
			y.Stages = t.body.Stages()
		}
		list = append(list, y)
	}
	return list
}

// Revotes repeats, after a resume, the votes of this epoch on what is
// undecided here (P10): a YES may leave only when its PREPARE is synced.
func (m *Machine) Revotes() []wire.Vote {
	var votes []wire.Vote
	for _, t := range m.known() {
		if t.prepared.Epoch != m.fence.Number {
			continue
		}
		v := wire.Vote{Index: t.prepared.Index, Tx: t.id, Outcome: t.outcome, Err: cloneError(t.err)}
		switch {
		case t.state == wire.TxPrepared:
			v.Verdict, v.Touched = wire.VoteYes, t.body.touched()
		case t.state == wire.TxRefused && t.outcome != nil:
			v.Verdict = wire.VoteDup
		case t.state == wire.TxRefused:
			v.Verdict = wire.VoteNo
		default:
			continue
		}
		votes = append(votes, v)
	}
	return votes
}
