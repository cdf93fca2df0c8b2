package coordinator

import (
	"context"
	"slices"
	"strings"
	"testing"

	"tpcfs/wire"
)

// P14: who is let in has an empty disk, or one that this very coordinator has greeted; an
// epoch of another cluster may look, by its number, like one of ours.
func TestProbe(t *testing.T) {
	k := newEvicting(t)
	d := newNode("d", 4)
	k.o.Dial = func(_ context.Context, p Peer) (wire.Replica, error) {
		for _, n := range slices.Concat(k.nodes, []*node{d}) {
			if n.name == p.Addr {
				return n.dial()
			}
		}
		return nil, wire.NewError(wire.CodeUnavailable, "connection refused")
	}
	k.serve()
	k.close()
	k.serve() // its second epoch
	own := k.c.Epoch()
	for _, tc := range []struct {
		name, addr string
		epoch      wire.Epoch
		want       string
	}{
		{"nobody", "x", wire.Epoch{}, "no participant answers at x"},
		{"a participant", "a", wire.Epoch{}, "are the data of participant a"},
		{"the same number", "d", wire.Epoch{Number: own.Number, Run: wire.UUID{9}}, "has served before"},
		{"an older one", "d", wire.Epoch{Number: own.Number - 1, Run: wire.UUID{9}}, "has served before"},
		{"a newer one", "d", wire.Epoch{Number: own.Number + 1, Run: own.Run}, "has served before"},
		{"empty", "d", wire.Epoch{}, ""},
		{"greeted", "d", own, ""},
	} {
		d.set(func() { d.fence = tc.epoch })
		err := k.c.probe(ctx, Peer{Name: "d", Addr: tc.addr}, wire.UUID{1})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Text, tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}
