package vote

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"tpcfs/wire"
)

func goldenRecords() []Record {
	pos := wire.Position{Epoch: 3, Index: 17}
	id, op := wire.MakeID(3, 5), wire.OpID{Session: wire.SessionID{1, 2, 3}, Seq: 9}
	outcome := &wire.Outcome{Tx: id, Results: []wire.Result{{Ino: wire.Ino(id), Created: true}}}
	return []Record{
		{Kind: KindPrepare, Position: pos, Last: id + 1, W: wire.Position{Epoch: 3, Index: 11}, Walked: []Entry{{1, "d"}},
			Tx: &Tx{ID: id, Prepared: pos, Op: op, Lowest: 8, Time: 1_700_000_000_000_000_000, ServiceTime: 4242, Outcome: *outcome,
				Bounds: []Bound{
					{Kind: wire.MutWriteFile, Ino: wire.Ino(id), Created: true, Dir: 2, Name: "f", Mode: 0o644, UID: 1000, GID: 100, Content: wire.Content{Size: 5, Sum: wire.Sum([]byte("hello"))}},
					{Kind: wire.MutSetattr, Ino: 7, Set: wire.SetSize, Size: 70_000, Tail: &Tail{Sum: 1234}},
				}, Payload: []byte("hello")}},
		{Kind: KindCommit, Position: pos, ID: id},
		{Kind: KindAbort, Position: pos, ID: id},
		{Kind: KindNo, Position: pos, ID: id, Op: op, Last: id, W: wire.Position{Epoch: 3, Index: 1}, ServiceTime: 4242, Err: &wire.Error{Code: wire.CodeConflict, Op: "writeFile", Name: "f", Text: "busy"}},
		{Kind: KindDup, Position: pos, ID: id, Op: op, Last: id, ServiceTime: 4242, Outcome: outcome},
		{Kind: KindVoid, Position: pos},
		{Kind: KindConfig, Position: pos, Config: &wire.Config{ID: wire.ConfigID{Epoch: 3, Counter: 1}, Cluster: wire.UUID{8}, Configured: []wire.Member{{Name: "a", Addr: "h:1", Storage: wire.UUID{9}}}, InSync: []string{"a"}},
			Root: &wire.Root{Mode: 0o755, UID: 1, GID: 2, Time: 3}},
		{Kind: KindOpen, Position: pos},
		{Kind: KindEpoch, Epoch: wire.Epoch{Number: 4, Run: wire.UUID{4}}},
		{Kind: KindWatermark, W: pos, ServiceTime: 60_000},
		{Kind: KindEpoch, Epoch: wire.Epoch{Number: 4, Run: wire.UUID{4}}, Resync: "out"},
		{Kind: KindResync, Resync: "out"},
	}
}

// What is on disk is read by later versions: the bytes do not change.
func TestGoldenRecords(t *testing.T) {
	const file = "testdata/records.golden"
	var out strings.Builder
	for _, r := range goldenRecords() {
		b := r.Encode()
		fmt.Fprintf(&out, "%v %s\n", r.Kind, hex.EncodeToString(b))
		got, err := DecodeRecord(b)
		if err != nil || !reflect.DeepEqual(got, &r) {
			t.Errorf("%v is read back as %+v (%v), want %+v", r.Kind, got, err, r)
		}
	}
	m := New(newFakeView())
	for _, r := range goldenState() {
		if _, err := m.Replay(r); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintf(&out, "snapshot %s\n", hex.EncodeToString(m.Snapshot()))
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("the records' bytes have changed:\n%swant\n%s", out.String(), want)
	}
}

// goldenState is a journal with something of each kind in the state.
func goldenState() [][]byte {
	all := goldenRecords()
	at := func(r Record, index uint64) []byte {
		r.Position = wire.Position{Epoch: 4, Index: index}
		if r.Tx != nil {
			tx := *r.Tx
			tx.Prepared = r.Position
			r.Tx = &tx
		}
		if r.ID != 0 {
			r.ID = wire.MakeID(4, index)
		}
		r.W = wire.Position{}
		return r.Encode()
	}
	epoch := all[8]
	return [][]byte{epoch.Encode(), at(all[6], 1), at(all[7], 2), at(all[0], 3), at(all[3], 4), at(all[4], 5), at(all[2], 6)}
}

// Whatever is in a journal's records or a checkpoint's state, reading it ends
// in an error, not in a panic or in much memory.
func FuzzReplay(f *testing.F) {
	for _, r := range goldenRecords() {
		f.Add(r.Encode())
	}
	for _, b := range goldenState() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New(newFakeView())
		for _, r := range goldenState()[:4] {
			if _, err := m.Replay(r); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := m.Replay(b); err != nil && wire.CodeOf(err) != wire.CodeCorrupt {
			t.Fatal(err)
		}
		state := m.Snapshot()
		if again, err := Restore(newFakeView(), bytes.Clone(state)); err != nil || !bytes.Equal(again.Snapshot(), state) {
			t.Fatalf("a snapshot is not read back: %v", err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	m := New(newFakeView())
	f.Add(m.Snapshot())
	for _, r := range goldenState() {
		if _, err := m.Replay(r); err != nil {
			f.Fatal(err)
		}
		f.Add(m.Snapshot())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Restore(newFakeView(), bytes.Clone(b))
		if err != nil {
			if wire.CodeOf(err) != wire.CodeCorrupt {
				t.Fatal(err)
			}
			return
		}
		state := m.Snapshot()
		if again, err := Restore(newFakeView(), bytes.Clone(state)); err != nil || !bytes.Equal(again.Snapshot(), state) {
			t.Fatalf("a snapshot is not read back: %v", err)
		}
	})
}

// A journal whose records do not follow on each other is refused, named.
func TestReplayRefuses(t *testing.T) {
	good := goldenState()
	pos := func(index uint64) wire.Position { return wire.Position{Epoch: 4, Index: index} }
	enc := func(r Record) []byte { return r.Encode() }
	for name, b := range map[string][]byte{
		"nothing":                 {},
		"no header":               {1, 0, 0},
		"longer header":           {1, 200, 0, 0, 0, 1},
		"unknown kind":            enc(Record{Kind: 99, Position: pos(7)}),
		"a gap":                   enc(Record{Kind: KindVoid, Position: pos(8)}),
		"a repetition":            enc(Record{Kind: KindVoid, Position: pos(6)}),
		"another epoch":           enc(Record{Kind: KindVoid, Position: wire.Position{Epoch: 5, Index: 7}}),
		"an old fence":            enc(Record{Kind: KindEpoch, Epoch: wire.Epoch{Number: 4}}),
		"commit of unknown":       enc(Record{Kind: KindCommit, Position: pos(7), ID: wire.MakeID(4, 99)}),
		"commit of a NO":          enc(Record{Kind: KindCommit, Position: pos(7), ID: wire.MakeID(4, 4)}),
		"abort of an aborted":     enc(Record{Kind: KindAbort, Position: pos(7), ID: wire.MakeID(4, 6)}),
		"a known NO":              enc(Record{Kind: KindNo, Position: pos(7), ID: wire.MakeID(4, 4)}),
		"W beyond the end":        enc(Record{Kind: KindWatermark, W: pos(9)}),
		"W past what is in doubt": enc(Record{Kind: KindWatermark, W: pos(5)}),
		"prepare twice":           enc(Record{Kind: KindPrepare, Position: pos(7), Tx: &Tx{ID: wire.MakeID(3, 5), Prepared: pos(7)}}),
		"prepare of locked":       enc(Record{Kind: KindPrepare, Position: pos(7), Tx: &Tx{ID: wire.MakeID(4, 50), Prepared: pos(7), Bounds: []Bound{{Kind: wire.MutSetattr, Ino: 7}}}}),
		"no config":               append([]byte{byte(KindConfig), 1, 0, 0, 0}, 0xa0),
		"bytes at the end":        append(enc(Record{Kind: KindVoid, Position: pos(7)}), 1),
		"too long":                make([]byte, wire.MaxRecord+1),
		"unknown mutation":        enc(Record{Kind: KindPrepare, Position: pos(7), Tx: &Tx{ID: wire.MakeID(4, 50), Prepared: pos(7), Bounds: []Bound{{Kind: 77, Ino: 70}}}}),
		"payload too long":        enc(Record{Kind: KindPrepare, Position: pos(7), Tx: &Tx{ID: wire.MakeID(4, 50), Prepared: pos(7), Payload: make([]byte, wire.MaxInline+1)}}),
	} {
		m := New(newFakeView())
		for _, r := range good {
			if _, err := m.Replay(r); err != nil {
				t.Fatal(err)
			}
		}
		before := m.Snapshot()
		if _, err := m.Replay(b); wire.CodeOf(err) != wire.CodeCorrupt {
			t.Errorf("%s: %v, want it refused", name, err)
		}
		if !bytes.Equal(before, m.Snapshot()) {
			t.Errorf("%s: the state has changed", name)
		}
	}
}

// The limits of a transaction: the most that goes, and one more.
func TestLimits(t *testing.T) {
	set := wire.Mutation{Kind: wire.MutSetattr, At: wire.At{Dir: wire.RootIno}, Set: wire.SetUID}
	repeat := func(m wire.Mutation, n int) []wire.Mutation {
		list := make([]wire.Mutation, n)
		for i := range list {
			list[i] = m
		}
		return list
	}
	inline := func(n int) ([]wire.Mutation, []byte) {
		data := make([]byte, n)
		return []wire.Mutation{{Kind: wire.MutWriteFile, At: wire.At{Dir: wire.RootIno, Path: "f"}, Content: wire.Content{Size: int64(n), Sum: wire.Sum(data)}}}, data
	}
	long := func(n int) []wire.Mutation {
		list := make([]wire.Mutation, n)
		for i := range list {
			list[i] = wire.Mutation{Kind: wire.MutSymlink, At: wire.At{Dir: wire.RootIno, Path: fmt.Sprint(i)}, Target: strings.Repeat("t", wire.MaxPathLen)}
		}
		return list
	}
	atMost, payload := inline(wire.MaxInline)
	over, tooMuch := inline(wire.MaxInline + 1)
	for _, c := range []struct {
		name    string
		muts    []wire.Mutation
		payload []byte
		want    wire.Code
	}{
		{"many", repeat(set, 20_000), nil, wire.CodeNone},
		{"too many", repeat(set, wire.MaxMutations+1), nil, wire.CodeTooMany},
		{"inline", atMost, payload, wire.CodeNone},
		{"too much inline", over, tooMuch, wire.CodeTooMany},
		{"bindings", long(185), nil, wire.CodeNone},
		{"too many bindings", long(195), nil, wire.CodeTooMany},
		{"none", nil, nil, wire.CodeNone},
	} {
		s := newScripted(t)
		s.run("begin 1 r")
		e := &wire.Entry{Index: 3, Kind: wire.EntryPrepare, Payload: c.payload, Prepare: &wire.Prepare{Tx: wire.MakeID(1, 2), Config: s.m.config.ID, Mutations: c.muts}}
		r, err := s.m.Handle(e)
		if err != nil {
			t.Fatal(err)
		}
		got := wire.CodeNone
		if len(r.Send) > 0 {
			got = r.Send[0].Err.Code
		}
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if len(r.Record) > wire.MaxRecord {
			t.Errorf("%s: a record of %d bytes", c.name, len(r.Record))
		}
		if _, err := DecodeRecord(r.Record); err != nil {
			t.Errorf("%s: the record cannot be read back: %v", c.name, err)
		}
	}
}
