package store

import (
	"testing"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// What an operation has done can be read, after a checkpoint and a restart
// too, until its outcome is older than twice the time in which it may be asked
// for: by service time, whatever the clock says (S1a).
func TestReadOp(t *testing.T) {
	f := real(t)
	op := func(n byte) wire.OpID { return wire.OpID{Session: wire.SessionID{n}, Seq: 1} }
	commit := func(n byte, serviceTime, clock int64) wire.ID {
		t.Helper()
		id := wire.MakeID(1, f.next)
		f.next++
		f.lsn++
		tx := &vote.Tx{ID: id, Op: op(n), Lowest: 1, Time: clock, ServiceTime: serviceTime, Outcome: wire.Outcome{Tx: id}}
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(f.lsn)}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	want := func(n byte, id wire.ID) {
		t.Helper()
		reply, err := f.Read(wire.Read{Kind: wire.ReadOp, Op: op(n)}, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case id == 0 && reply.Outcome != nil, id != 0 && (reply.Outcome == nil || reply.Outcome.Tx != id):
			t.Fatalf("operation %d: %v, want transaction %v", n, reply.Outcome, id)
		}
	}
	const begun, year = 5_000, 365 * 24 * 3600_000 * 1_000_000
	first := commit(1, begun, 0)
	want(1, first)
	want(2, 0)
	f.checkpoint()
	f.reopen()
	want(1, first)
	commit(2, begun+wire.ServiceTimeHold, year) // an outage of a year
	want(1, first)
	commit(3, begun+2*wire.ServiceTimeHold, 2*year)
	want(1, first)
	commit(4, begun+2*wire.ServiceTimeHold+1, 2*year)
	want(1, 0)
	f.checkpoint()
	f.reopen()
	want(1, 0)
	want(3, wire.MakeID(1, f.next-2))
}

// Outcomes that a session has had are forgotten a bounded number at a time, however many it
// lets come together (S3); in the end none is left.
func TestOutcomesAreForgottenInParts(t *testing.T) {
	f := real(t)
	session := wire.SessionID{7}
	commit := func(seq, lowest uint64) {
		t.Helper()
		f.lsn++
		tx := &vote.Tx{ID: wire.MakeID(1, f.next), Op: wire.OpID{Session: session, Seq: seq}, Lowest: lowest, ServiceTime: 5}
		f.next++
		if err := f.Apply(tx, wire.Position{Epoch: 1, Index: uint64(f.lsn)}); err != nil {
			t.Fatal(err)
		}
	}
	rows := func() (n int) {
		t.Helper()
		err := f.look(func(m *moment) error {
			return m.ascend(opKey(wire.OpID{Session: session}), func(string, []byte) (bool, error) { n++; return true, nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const many = 3*maxForgotten + 5
	for seq := uint64(1); seq <= many; seq++ {
		commit(seq, 1)
	}
	f.checkpoint()
	for seq, left := uint64(many+1), many; left > 1; seq++ {
		commit(seq, seq)
		n := rows()
		if n > left || left-n > maxForgotten {
			t.Fatalf("of %d outcomes %d are left after one change", left, n)
		}
		if left = n; seq > many+10 {
			t.Fatalf("after ten changes %d outcomes are left", left)
		}
	}
}
