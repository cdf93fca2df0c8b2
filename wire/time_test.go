package wire

import "testing"

// TestChangeTime: a client's word for when a change was made counts where it is
// after what was, and not after the transaction, nor long before it.
func TestChangeTime(t *testing.T) {
	const off = MaxCtimeOff
	for _, c := range []struct {
		name                 string
		was, tx, given, want int64
	}{
		{"none is given", 10, 50, 0, 50},
		{"a little before the transaction", 10, 50, 49, 49},
		{"the transaction's", 10, 50, 50, 50},
		{"after it", 10, 50, 51, 50},
		{"the file's own", 10, 50, 10, 50},
		{"just after the file's own", 10, 50, 11, 11},
		{"before the file's own", 10, 50, 9, 50},
		{"as long before as may be", 0, 1 + off, 1, 1},
		{"too long before", 0, 2 + off, 1, 2 + off},
		{"before 1970, and so was the file", -10, 50, -5, 50},
		{"the end of time", 10, 50, 1<<63 - 1, 50},
		{"the beginning of time", -1 << 63, 50, -1<<63 + 1, 50},
	} {
		m := Mutation{Ctime: c.given}
		if got := m.ChangeTime(c.was, c.tx); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
