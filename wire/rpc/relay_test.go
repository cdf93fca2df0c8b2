package rpc

import (
	"bytes"
	"testing"
	"time"

	"tpcfs/wire"
)

// A read that is passed on arrives as it was; on the way its pieces stay where
// they were received.
func TestRelay(t *testing.T) {
	for _, n := range []int{wire.PieceSize - 1, 9*wire.PieceSize + 77} {
		c := twoHops(t, n)
		var got collect
		if _, err := c.Read(t.Context(), wire.Read{Kind: wire.ReadFile, Length: -1}, &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), random(n)) {
			t.Errorf("%d bytes came out otherwise", n)
		}
	}
}

func TestSendPieceInPlace(t *testing.T) {
	near := newStream(otherStream(t), time.Minute)
	memory := make([]byte, wire.FrameRoom+1000)
	data := memory[wire.FrameRoom:]
	p := wire.Piece{Offset: 5, Sum: wire.Sum(data), Data: data, Room: memory[:wire.FrameRoom]}
	header := wire.Marshal(p)
	if err := near.sendPiece(time.Minute, header, p); err != nil {
		t.Fatal(err)
	}
	if near.wbuf != nil {
		t.Error("the piece was copied")
	}
	far := wire.AppendFrame(nil, wire.Frame{Kind: wire.FramePiece, Header: header, Body: data})
	if got := memory[len(memory)-len(far):]; !bytes.Equal(got, far) {
		t.Error("the frame before the contents is not the one that belongs to them")
	}
	// What waits to be sent goes first.
	near.put(wire.FrameReply, false, nil, nil)
	if err := near.sendPiece(time.Minute, header, p); err != nil {
		t.Fatal(err)
	}
	if cap(near.wbuf) < len(far) {
		t.Error("the piece did not go behind what waited")
	}
}

// A deadline is told anew only when that matters, and always when what was told
// may have passed.
func TestMoveDeadline(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		by   time.Time
		d    time.Duration
		want bool
	}{
		{"none, none before", time.Time{}, 0, false},
		{"none", now, 0, true},
		{"the first", time.Time{}, time.Minute, true},
		{"just set", now.Add(time.Minute), time.Minute, false},
		{"set a while ago", now.Add(50 * time.Second), time.Minute, true},
		{"over", now.Add(-time.Second), time.Minute, true},
		{"set longer before", now.Add(2 * time.Minute), time.Minute, true},
	} {
		by := c.by
		if got := moveDeadline(&by, c.d); got != c.want {
			t.Errorf("%s: told %t, want %t", c.name, got, c.want)
		}
		if c.want && c.d > 0 && (by.Before(now.Add(c.d)) || by.After(now.Add(c.d+time.Minute))) || c.d == 0 && !by.IsZero() {
			t.Errorf("%s: it is %v from now", c.name, by.Sub(now))
		}
	}
}
