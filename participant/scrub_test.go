package participant

import (
	"testing"

	"tpcfs/journal/disk/forget"
	"tpcfs/wire"
)

// A comparison is of the position that is asked for, while others follow; of now, if
// that is past, or does not come; and only for the coordinator that reigns.
func TestCompareAtOnePosition(t *testing.T) {
	r := newRig(t, forget.New(1), nil)
	r.begin(1)
	r.write(2, "f", "x")
	r.durable(r.next - 1)
	ask := func(index uint64) wire.Compared {
		t.Helper()
		c, _, err := r.p.Compare(t.Context(), wire.Compare{Epoch: r.epoch, Index: index, From: []byte("e")})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := ask(1)
	if first.Position.Index != r.next-1 || first.Rows != 1 {
		t.Errorf("of now: %+v, handled is %d", first, r.next-1)
	}
	if c := ask(r.next + 5); c.Position.Index != r.next-1 || c.Rows != 1 {
		t.Errorf("of what does not come: %+v", c)
	}
	at := r.next + 1 // the COMMIT of the next one
	answer := make(chan wire.Compared, 1)
	go func() {
		c, _, err := r.p.Compare(t.Context(), wire.Compare{Epoch: r.epoch, Index: at, From: []byte("e")})
		if err != nil {
			t.Error(err)
		}
		answer <- c
	}()
	for waits := 0; waits == 0; { // it is there when the entries come
		if err := r.p.do(t.Context(), func() { waits = len(r.p.moments) }); err != nil {
			t.Fatal(err)
		}
	}
	r.write(3, "g", "y")
	r.write(4, "h", "z")
	if c := <-answer; c.Position.Index != at && c.Position.Index != r.next-1 || c.Position.Index == at && c.Rows != 2 {
		t.Errorf("at %d: %+v", at, c)
	} else if c.Position.Index != at {
		t.Logf("it was late: %+v", c)
	}
	if _, _, err := r.p.Compare(t.Context(), wire.Compare{}); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("an older coordinator's: %v", err)
	}
	if _, err := r.p.Verify(t.Context(), wire.Verify{}); wire.CodeOf(err) != wire.CodeStaleEpoch {
		t.Errorf("an older coordinator's: %v", err)
	}
	r.outside(2)
	if _, _, err := r.p.Compare(t.Context(), wire.Compare{Epoch: r.epoch}); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("of who is out of sync: %v", err)
	}
	if _, err := r.p.Verify(t.Context(), wire.Verify{Epoch: r.epoch}); wire.CodeOf(err) != wire.CodeProtocol {
		t.Errorf("of who is out of sync: %v", err)
	}
}
