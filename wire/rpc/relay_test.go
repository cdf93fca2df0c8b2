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
