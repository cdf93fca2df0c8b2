package commit

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"tpcfs/wire"
)

var update = flag.Bool("update", false, "write testdata/records.golden anew")

func sampleRecords() []*Record {
	config := &wire.Config{ID: wire.ConfigID{Epoch: 3, Counter: 1}, Cluster: wire.UUID{1, 2}, InSync: []string{"a"},
		Configured: []wire.Member{{Name: "a", Addr: "127.0.0.1:1", Storage: wire.UUID{9}}}}
	w := wire.Position{Epoch: 3, Index: 300}
	d := Decision{Tx: wire.MakeID(3, 7), Prepared: wire.Position{Epoch: 3, Index: 301}, Commit: true}
	return []*Record{
		{Kind: RecEpoch, Epoch: wire.Epoch{Number: 3, Run: wire.UUID{0xaa}}},
		{Kind: RecConfig, Config: config, Root: &wire.Root{Mode: 0o755, UID: 1, GID: 2, Time: 3}},
		{Kind: RecDecision, Decision: &d, Time: 1 << 60},
		{Kind: RecDecision, Decision: &Decision{Tx: d.Tx, Prepared: d.Prepared}},
		{Kind: RecW, W: w, ServiceTime: 123456, Time: 1 << 60},
		{Kind: RecSnapshot, Epoch: wire.Epoch{Number: 3, Run: wire.UUID{0xaa}}, Config: config, W: w, ServiceTime: 5, Time: 6, Decisions: []Decision{d}},
	}
}

// Journals of earlier versions must stay readable: the bytes do not change.
func TestRecordsGolden(t *testing.T) {
	var b strings.Builder
	for _, r := range sampleRecords() {
		raw := r.Encode()
		b.WriteString(r.Kind.String() + " " + hex.EncodeToString(raw) + "\n")
		got, err := DecodeRecord(raw)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%v came back as %+v (%v)", r.Kind, got, err)
		}
		for n := range raw {
			if _, err := DecodeRecord(raw[:n]); err == nil && n > 0 {
				t.Errorf("%v cut to %d bytes was taken", r.Kind, n)
			}
		}
	}
	const name = "testdata/records.golden"
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the encoding of records has changed:\n%s\nwant\n%s", b.String(), want)
	}
}

func TestBadRecords(t *testing.T) {
	for _, b := range [][]byte{nil, {1}, {0, 0xa0}, {99, 0xa0}, {byte(RecConfig), 0xa0}, {byte(RecDecision), 0xa0}, {byte(RecEpoch), 0xa0},
		{byte(RecSnapshot), 0xa0}, {byte(RecW), 0xa0, 0}, append([]byte{byte(RecW)}, bytes.Repeat([]byte{0}, wire.MaxRecord)...)} {
		if r, err := DecodeRecord(b); err == nil || wire.CodeOf(err) != wire.CodeCorrupt {
			t.Errorf("%x: %+v, %v", b[:min(len(b), 8)], r, err)
		}
	}
}

// The state after a SNAPSHOT is that of the records that it stands for.
func TestStateAndSnapshot(t *testing.T) {
	dec := func(n uint64) *Record {
		return &Record{Kind: RecDecision, Decision: &Decision{Tx: wire.MakeID(1, n), Prepared: wire.Position{Epoch: 1, Index: n}, Commit: n%2 == 0}}
	}
	var s State
	for _, r := range []*Record{
		{Kind: RecEpoch, Epoch: wire.Epoch{Number: 1, Run: wire.UUID{1}}},
		{Kind: RecConfig, Config: &wire.Config{ID: wire.ConfigID{Epoch: 1, Counter: 1}}, Root: &wire.Root{Mode: 1}},
		dec(3), dec(5), dec(4),
		{Kind: RecW, W: wire.Position{Epoch: 1, Index: 4}, ServiceTime: 70, Time: 90},
		{Kind: RecW, W: wire.Position{Epoch: 1, Index: 3}, ServiceTime: 60, Time: 80},
	} {
		if err := s.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.Decisions) != 1 || s.Root != nil || s.W.Index != 4 || s.ServiceTime != 70 || s.Time != 90 {
		t.Errorf("%+v", s)
	}
	snap, err := DecodeRecord(s.Snapshot().Encode())
	if err != nil {
		t.Fatal(err)
	}
	var again State
	if err := again.Apply(snap); err != nil || !reflect.DeepEqual(again, s) {
		t.Errorf("%+v, want %+v (%v)", again, s, err)
	}
	for _, bad := range []*Record{
		{Kind: RecEpoch, Epoch: wire.Epoch{Number: 1, Run: wire.UUID{2}}},
		{Kind: RecConfig, Config: &wire.Config{ID: wire.ConfigID{Epoch: 1, Counter: 1}}},
	} {
		if err := s.Apply(bad); err == nil {
			t.Errorf("%v was taken again", bad.Kind)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, r := range sampleRecords() {
		f.Add(r.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			return
		}
		var s State
		_ = s.Apply(r)
	})
}
