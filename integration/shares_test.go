package integration

import (
	"bytes"
	"context"
	"testing"
	"time"

	"tpcfs/integration/harness"
	"tpcfs/wire"
	"tpcfs/wire/client"
)

// Clients whose contents do not come hold all places that there are for
// contents: a good client's large file goes on all the same, once they have been
// silent for a while, and they are told why theirs does not.
func TestSilentStagesMakeRoom(t *testing.T) {
	t.Parallel()
	const most = 90 * time.Second // for all of it
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	c := newCluster(t)
	startAll(t, ctx, c)
	cl := dial(t, ctx, c, most)
	data := noise(7, 4<<20)
	a := &attacker{addr: c.Addr(harness.Coordinator), role: wire.RoleClient}
	one := []byte{1}
	piece := frameOf(wire.FramePiece, 0, wire.Marshal(wire.Piece{Sum: wire.Sum(one)}), one)
	for i := range byte(3) {
		session := wire.SessionID{0xcc, i}
		link := a.attach(session)
		_, bulk, _ := a.link()
		if bulk == nil {
			t.Fatal("no link")
		}
		req := frameOf(wire.FrameStage, 0, wire.Marshal(wire.SessionStage{Session: session, Request: wire.StageRequest{Size: -1, Link: link}}), nil)
		for range 40 {
			st, err := bulk.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			a.keep(st)
			for _, b := range [][]byte{req, piece} {
				if _, err := st.Write(b); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	began := time.Now()
	for range 3 {
		if _, err := cl.WriteFile(ctx, "large", client.Bytes(data), client.WriteOptions{Mode: 0o644}); err != nil {
			t.Fatal("a good client suffers:", err)
		}
		if got, err := cl.ReadFile(ctx, "large"); err != nil || !bytes.Equal(got, data) {
			t.Fatal("a good client suffers:", len(got), err)
		}
	}
	t.Logf("three large files in %v", time.Since(began))
}
