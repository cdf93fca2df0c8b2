package commit

import (
	"fmt"
	"slices"
	"strings"

	"tpcfs/wire"
)

// finding is what is known of a transaction of an earlier epoch.
type finding struct {
	id                        wire.ID
	prepared                  wire.Position
	op                        wire.OpID
	outcome                   *wire.Outcome
	commits, aborts, prepares int // testimonies
	never, forgotten          []string
	decided                   *Decision // by the coordinator's journal
}

// recover decides every transaction that some member holds in doubt (P7), when
// all members of this epoch's config have answered and hold it, and opens
// service.
func (m *Machine) recover() {
	var puts []*finding
	for _, f := range m.findings() {
		if err := f.contradiction(); err != nil {
			m.halt(err)
			return
		}
		switch {
		case f.prepares > 0:
			puts = append(puts, f)
		case f.commits > 0:
			// Known to a retry; there is nothing to put.
			m.recovered(f, committed)
		}
	}
	m.becomes(Serving)
	for _, f := range puts {
		commit := f.commits > 0 || f.decided != nil && f.decided.Commit
		abort := f.aborts > 0 || f.decided != nil && !f.decided.Commit
		if commit || !abort && len(f.never) == 0 {
			t := m.recovered(f, committed)
			m.putCommit(t)
		} else {
			m.putAbort(m.recovered(f, aborted), nil) // retries run anew
		}
	}
	m.open = m.put(wire.Entry{Kind: wire.EntryOpen}, nil, 0)
	m.decision = m.open
	for _, mem := range m.members {
		mem.known, mem.greeting = nil, wire.Greeting{}
	}
	m.rd.Serving = true
	m.listOrphans(0)
}

// findings gathers the members' testimonies and the journal's decisions, in
// the order of the PREPAREs.
func (m *Machine) findings() []*finding {
	found := map[wire.ID]*finding{}
	for _, mem := range m.members {
		if !mem.in {
			continue
		}
		for id, k := range mem.known {
			f := found[id]
			if f == nil {
				f = &finding{id: id}
				found[id] = f
			}
			if k.Prepared.Epoch != 0 { // not told by who met only its ABORT
				f.prepared, f.op = k.Prepared, k.Op
			}
			if k.Outcome != nil && (k.State == wire.TxPrepared || k.State == wire.TxCommitted) {
				f.outcome = k.Outcome
			}
		}
	}
	for id, d := range m.state.Decisions {
		if found[id] == nil {
			found[id] = &finding{id: id, prepared: d.Prepared}
		}
		found[id].decided = &d
	}
	list := make([]*finding, 0, len(found))
	for _, f := range found {
		for _, mem := range m.members {
			if mem.in {
				f.count(mem)
			}
		}
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *finding) int { return a.prepared.Compare(b.prepared) })
	return list
}

// count adds a member's answer: prepared, committed, aborted, never or forgotten (P7).
func (f *finding) count(mem *member) {
	k := mem.known[f.id]
	switch {
	case k == nil && !mem.greeting.W.Before(f.prepared):
		f.forgotten = append(f.forgotten, mem.name)
	case k == nil || k.State == wire.TxRefused:
		f.never = append(f.never, mem.name)
	case k.State == wire.TxPrepared:
		f.prepares++
	case k.State == wire.TxCommitted:
		f.commits++
	case k.State == wire.TxAborted:
		f.aborts++
	}
}

// contradiction finds testimonies that no run of the protocol leaves behind:
// somebody has lost what was durable. Nothing may be decided then.
func (f *finding) contradiction() *wire.Error {
	commit := f.commits > 0 || f.decided != nil && f.decided.Commit
	abort := f.aborts > 0 || f.decided != nil && !f.decided.Commit
	why := ""
	switch {
	case commit && abort:
		why = "it is committed to some and aborted to others"
	case f.prepares > 0 && len(f.forgotten) > 0:
		why = "some hold it in doubt, but it is below the watermark of " + strings.Join(f.forgotten, ", ")
	case commit && len(f.never) > 0:
		why = "it is committed, but was never prepared at " + strings.Join(f.never, ", ")
	default:
		return nil
	}
	return &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf(
		"the participants contradict each other about transaction %v (%v): %s. One of them has lost data; nothing was changed", f.id, f.prepared, why)}
}

// recovered enters a transaction of an earlier epoch, so that a retry finds
// its outcome. Of several attempts of one operation the one that committed counts.
func (m *Machine) recovered(f *finding, s txState) *tx {
	t := &tx{id: f.id, prepared: f.prepared, op: f.op, outcome: f.outcome, state: s, votes: make([]wire.Verdict, len(m.members)), since: m.now}
	if t.outcome == nil {
		t.outcome = &wire.Outcome{Tx: f.id}
	}
	if old := m.ops[f.op]; old == nil || old.state != committed {
		m.ops[f.op] = t
	}
	return t
}

// forgetRecovered drops the transactions of earlier epochs, which are all
// below W once it is in this one.
func (m *Machine) forgetRecovered() {
	for op, t := range m.ops {
		if t.index == 0 && t.state != undecided {
			delete(m.ops, op)
		}
	}
}
