package wire

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"
)

func TestRows(t *testing.T) {
	rows := []Row{{Key: "k", Val: []byte("value")}, {Key: "gone", Gone: true}, {Key: "empty", Val: []byte{}}}
	var b []byte
	size := 0
	for _, r := range rows {
		b = AppendRow(b, r)
		size += RowSize(r)
	}
	const want = "000100050000006b76616c7565" + "01040000000000676f6e65" + "00050000000000656d707479"
	if got := hex.EncodeToString(b); got != want || len(b) != size {
		t.Errorf("%s (%d bytes, said %d), want %s", got, len(b), size, want)
	}
	got, err := DecodeRows(b)
	rows[1].Val = []byte{}
	if err != nil || !reflect.DeepEqual(got, rows) {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"00", "00010000000000", "0000000000000061", "02010000000000" + "61", "0101000100000061" + "62", "000100ffffffff" + "61"} {
		if got, err := DecodeRows(hexBytes(t, bad)); CodeOf(err) != CodeProtocol {
			t.Errorf("%s: %+v %v", bad, got, err)
		}
	}
}

// FuzzRows: what decodes encodes to the same bytes.
func FuzzRows(f *testing.F) {
	f.Add(AppendRow(AppendRow(nil, Row{Key: "k", Val: []byte("v")}), Row{Key: "l", Gone: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := DecodeRows(b)
		if err != nil {
			return
		}
		var again []byte
		for _, r := range rows {
			again = AppendRow(again, r)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x comes back as %x", b, again)
		}
	})
}
