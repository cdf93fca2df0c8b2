package vote

import (
	"strings"
	"testing"

	"tpcfs/wire"
)

// Two names with one address: the mark of the one who is out would make the
// other, who is a member, discard what it has.
func TestOutsideIsForItsName(t *testing.T) {
	m := New(newFakeView())
	storage := wire.UUID{7}
	epoch := wire.Epoch{Number: 3, Run: wire.UUID{1}}
	if _, _, err := m.Greet(wire.Greet{Epoch: epoch, Name: "b"}, storage); err != nil {
		t.Fatal(err)
	}
	c := &wire.Config{ID: wire.ConfigID{Epoch: 3, Counter: 1}, Cluster: wire.UUID{8}, Configured: []wire.Member{{Name: "b", Addr: "x:1", Storage: storage}}}
	if _, err := m.Handle(&wire.Entry{Index: 1, Kind: wire.EntryConfig, Config: c, Root: &wire.Root{Mode: 0o755}}); err != nil {
		t.Fatal(err)
	}
	_, _, err := m.Greet(wire.Greet{Epoch: epoch, Name: "c", Outside: true}, storage)
	if wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), "participant b, not c") || m.Resync() != "" {
		t.Errorf("%v, mark %q", err, m.Resync())
	}
	if _, _, err := m.Greet(wire.Greet{Epoch: epoch, Name: "b", Outside: true}, storage); err != nil || m.Resync() == "" {
		t.Errorf("%v, mark %q", err, m.Resync())
	}
}

// P6: a coordinator of another cluster, whatever its epoch, is refused before it fences:
// one with a wrong address, or on a new directory, does not end the right one.
func TestAnotherClusterDoesNotFence(t *testing.T) {
	m, storage := New(newFakeView()), wire.UUID{7}
	own := wire.Greet{Epoch: wire.Epoch{Number: 3, Run: wire.UUID{1}}, Name: "b", Cluster: wire.UUID{8}}
	if _, _, err := m.Greet(own, storage); err != nil {
		t.Fatal(err)
	}
	c := &wire.Config{ID: wire.ConfigID{Epoch: 3, Counter: 1}, Cluster: own.Cluster, Configured: []wire.Member{{Name: "b", Addr: "x:1", Storage: storage}}}
	if _, err := m.Handle(&wire.Entry{Index: 1, Kind: wire.EntryConfig, Config: c, Root: &wire.Root{Mode: 0o755}}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{1, 3, 4, 1000} {
		_, out, err := m.Greet(wire.Greet{Epoch: wire.Epoch{Number: n, Run: wire.UUID{2}}, Name: "b", Cluster: wire.UUID{9}}, storage)
		if wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), "belongs to "+own.Cluster.String()) || out.Record != nil || m.Fence() != own.Epoch {
			t.Errorf("epoch %d: %v, record %v, fence %v", n, err, out.Record, m.Fence())
		}
	}
	if _, _, err := m.Greet(own, storage); err != nil {
		t.Error("its own coordinator:", err)
	}
}

// The mark is in a checkpoint, too.
func TestOutsideInCheckpoint(t *testing.T) {
	m := New(newFakeView())
	g := wire.Greet{Epoch: wire.Epoch{Number: 3, Run: wire.UUID{1}}, Name: "b", Outside: true}
	if _, out, err := m.Greet(g, wire.UUID{7}); err != nil || !out.Force {
		t.Fatal(out, err)
	}
	again, err := Restore(newFakeView(), m.Snapshot())
	if err != nil || again.Resync() == "" || again.Resync() != m.Resync() {
		t.Errorf("%v, mark %q, was %q", err, again.Resync(), m.Resync())
	}
}

// P14: who was removed writes that down, whatever it was before, and refuses every
// other greeting, over a checkpoint and a replay too; one of another storage at its
// address is left as it is.
func TestRemoved(t *testing.T) {
	storage := wire.UUID{7}
	for _, outside := range []bool{false, true} {
		m := New(newFakeView())
		g := wire.Greet{Epoch: wire.Epoch{Number: 3, Run: wire.UUID{1}}, Name: "b", Outside: outside}
		_, first, err := m.Greet(g, storage)
		if err != nil {
			t.Fatal(err)
		}
		records := [][]byte{first.Record}
		g.Removed = wire.UUID{8}
		if _, out, err := m.Greet(g, storage); wire.CodeOf(err) != wire.CodeProtocol || out.Record != nil || m.Removed() {
			t.Errorf("another one's: %v, removed %v", err, m.Removed())
		}
		g.Removed = storage
		_, out, err := m.Greet(g, storage)
		if err != nil || !out.Force || !m.Removed() {
			t.Fatalf("removed %v, %v", m.Removed(), err)
		}
		records = append(records, out.Record)
		if _, out, err := m.Greet(g, storage); err != nil || out.Record != nil {
			t.Errorf("told again: %v", err)
		}
		again, err := Restore(newFakeView(), m.Snapshot())
		if err != nil {
			t.Fatal(err)
		}
		replayed := New(newFakeView())
		for _, r := range records {
			if _, err := replayed.Replay(r); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range []*Machine{m, again, replayed} {
			for n := uint64(3); n < 5; n++ {
				next := wire.Greet{Epoch: wire.Epoch{Number: n, Run: wire.UUID{1}}, Name: "b", Outside: outside}
				if _, _, err := m.Greet(next, storage); wire.CodeOf(err) != wire.CodeProtocol || !strings.Contains(err.Error(), "was removed") {
					t.Errorf("greeted all the same: %v", err)
				}
			}
			join := &wire.Join{Position: wire.Position{Epoch: 3, Index: 5}, Config: wire.Config{ID: wire.ConfigID{Epoch: 3, Counter: 2}}}
			if err := m.CheckJoin(join); err == nil {
				t.Error("it joins all the same")
			}
		}
	}
}
