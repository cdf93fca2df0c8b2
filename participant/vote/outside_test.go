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
