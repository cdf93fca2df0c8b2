package wire

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
)

func packOf(t testing.TB, n int, payload []byte) []byte {
	t.Helper()
	b, err := EncodePack(somePackMutations(n), payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func somePackMutations(n int) []Mutation {
	var all []Mutation
	for i := range n {
		all = append(all, Mutation{Kind: MutWriteFile, At: At{Dir: RootIno, Path: string(rune('a'+i%26)) + "/x"}, Mode: 0o644, Content: Content{Size: int64(i)}})
	}
	return all
}

func TestPack(t *testing.T) {
	payload := bytes.Repeat([]byte("contents"), 100)
	muts, got, err := DecodePack(packOf(t, 30, payload))
	if err != nil || !reflect.DeepEqual(muts, somePackMutations(30)) || !bytes.Equal(got, payload) {
		t.Fatal(err, len(muts), len(got))
	}
}

// What just fits into a pack can be read again; one more is refused, by the limit.
func TestPackLimits(t *testing.T) {
	if _, err := EncodePack(make([]Mutation, MaxMutations+1), nil); CodeOf(err) != CodeTooMany || !strings.Contains(err.Error(), "65536") {
		t.Error("too many mutations:", err)
	}
	b, err := EncodePack(make([]Mutation, MaxMutations), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := DecodePack(b); err != nil || len(got) != MaxMutations {
		t.Error("as many as may be:", len(got), err)
	}
	one := somePackMutations(1)
	head, err := PackHeader(one, 0)
	if err != nil {
		t.Fatal(err)
	}
	room := MaxPack - len(head)
	if _, err := PackHeader(one, room+1); CodeOf(err) != CodeTooMany || !strings.Contains(err.Error(), "64.0 MiB") {
		t.Error("too large:", err)
	}
	if b, err = EncodePack(one, make([]byte, room)); err != nil {
		t.Fatal(err)
	}
	if _, payload, err := DecodePack(b); err != nil || len(payload) != room {
		t.Error("as large as may be:", len(payload), err)
	}
	if _, _, err := DecodePack(append(b, 0)); CodeOf(err) != CodeProtocol {
		t.Error("one byte more:", err)
	}
}

// Every cut and every changed byte of what stands before the contents gives an
// error or some other pack, and no panic.
func TestPackDamage(t *testing.T) {
	b := packOf(t, 3, []byte("xyz"))
	for i := range b {
		if _, payload, err := DecodePack(b[:i]); err == nil && len(b)-i > 3 || err == nil && len(payload) != 3-(len(b)-i) {
			t.Errorf("cut at %d: %d bytes of contents, %v", i, len(payload), err)
		}
		for _, x := range []byte{0, 0x7f, 0xff, b[i] + 1} {
			c := bytes.Clone(b)
			c[i] = x
			_, _, _ = DecodePack(c)
		}
	}
}

func FuzzPack(f *testing.F) {
	f.Add(packOf(f, 2, []byte("abc")))
	f.Fuzz(func(t *testing.T, b []byte) {
		muts, payload, err := DecodePack(b)
		if err != nil {
			return
		}
		again, err := EncodePack(muts, payload)
		if err != nil {
			t.Fatal(err)
		}
		muts2, payload2, err := DecodePack(again)
		if err != nil || !bytes.Equal(payload, payload2) || len(muts) != len(muts2) {
			t.Fatal(err)
		}
	})
}

// A few bytes of a pack must not become gigabytes in memory: extents are short
// on the wire.
func TestPackOfExtents(t *testing.T) {
	many := make([]Mutation, MaxMutations/MaxExtents)
	for i := range many {
		many[i] = Mutation{Kind: MutWriteFile, Extents: make([]Extent, MaxExtents)}
	}
	b, err := EncodePack(many, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := DecodePack(b); err != nil {
		t.Fatal(err)
	}
	if _, err := EncodePack(append(many, Mutation{Extents: make([]Extent, 1)}), nil); CodeOf(err) != CodeTooMany {
		t.Error("one extent more is encoded:", err)
	}
	// By hand, as a client without our library would.
	bomb := append([]byte(nil), b[:packHeader]...)
	for range 100 {
		bomb = append(bomb, b[packHeader:packHeader+(len(b)-packHeader)/len(many)]...)
	}
	binary.LittleEndian.PutUint32(bomb[8:], 100)
	binary.LittleEndian.PutUint32(bomb[12:], uint32(len(bomb)-packHeader))
	if _, _, err := DecodePack(bomb); CodeOf(err) != CodeProtocol {
		t.Error("a pack of too many extents is decoded:", err)
	}
}
