package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func decodeFrame(b []byte) (Frame, []byte, error) {
	if len(b) < FramePrefix {
		return Frame{}, b, errors.New("cut")
	}
	n, err := FrameLength(b[:FramePrefix])
	if err != nil {
		return Frame{}, b, err
	}
	if len(b) < FramePrefix+n {
		return Frame{}, b, errors.New("cut")
	}
	f, err := ParseFrame(b[:FramePrefix], b[FramePrefix:FramePrefix+n])
	return f, b[FramePrefix+n:], err
}

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Frame{
			Kind:   FrameKind(rapid.IntRange(1, 255).Draw(t, "kind")),
			Flags:  FrameFlags(rapid.IntRange(0, 3).Draw(t, "flags")),
			Header: rapid.SliceOf(rapid.Byte()).Draw(t, "header"),
			Body:   rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
		}
		b := AppendFrame([]byte("before"), want)
		got, rest, err := decodeFrame(b[6:])
		if err != nil || len(rest) != 0 || got.Kind != want.Kind || got.Flags != want.Flags ||
			!bytes.Equal(got.Header, want.Header) || !bytes.Equal(got.Body, want.Body) {
			t.Fatalf("%v: want %+v, got %+v", err, want, got)
		}
	})
}

// Not one flipped bit gets through.
func TestFrameGarbled(t *testing.T) {
	b := AppendFrame(nil, Frame{Kind: FrameDown, Header: []byte("head"), Body: []byte("some contents")})
	piece := AppendFrame(nil, Frame{Kind: FramePiece, Header: []byte("head"), Body: []byte("some contents")})
	for i := range (len(piece) - len("some contents")) * 8 { // its contents have their own sum
		bad := bytes.Clone(piece)
		bad[i/8] ^= 1 << (i % 8)
		if _, _, err := decodeFrame(bad); err == nil {
			t.Errorf("bit %d of a piece flipped, and nobody noticed", i)
		}
	}
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if _, _, err := decodeFrame(bad); err == nil {
			t.Errorf("bit %d flipped, and nobody noticed", i)
		}
	}
	if _, err := ParseFrame(b[:FramePrefix], b[FramePrefix:len(b)-1]); CodeOf(err) != CodeProtocol {
		t.Error("a short frame:", err)
	}
}

func TestFrameLimits(t *testing.T) {
	big := AppendFrame(nil, Frame{Kind: FrameTransact, Header: make([]byte, MaxRecord), Body: make([]byte, MaxFrame-MaxRecord)})
	if _, _, err := decodeFrame(big); err != nil {
		t.Error("the longest frame:", err)
	}
	prefix := func(length, header uint32, kind, flags, reserved byte) []byte {
		b := make([]byte, FramePrefix)
		binary.LittleEndian.PutUint32(b, length)
		binary.LittleEndian.PutUint32(b[8:], header)
		b[4], b[5], b[6] = kind, flags, reserved
		return b
	}
	for name, b := range map[string][]byte{
		"one byte too long":       prefix(MaxFrame+1, 0, 1, 0, 0),
		"header longer than all":  prefix(3, 4, 1, 0, 0),
		"kind 0":                  prefix(0, 0, 0, 0, 0),
		"a flag of another time":  prefix(0, 0, 1, 4, 0),
		"reserved":                prefix(0, 0, 1, 0, 1),
		"somebody else's numbers": bytes.Repeat([]byte{0xff}, FramePrefix),
	} {
		if _, err := FrameLength(b); CodeOf(err) != CodeProtocol {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, f := range map[string]Frame{
		"too long": {Kind: 1, Body: make([]byte, MaxFrame+1)}, "kind 0": {}, "flags": {Kind: 1, Flags: 4},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: encoded", name)
				}
			}()
			AppendFrame(nil, f)
		}()
	}
}

func TestPreface(t *testing.T) {
	for _, want := range prefaces {
		b := AppendPreface(nil, want)
		got, err := ParsePreface(b[:PrefacePrefix], b[PrefacePrefix:])
		if err != nil || got != want {
			t.Fatalf("%v: want %+v, got %+v", err, want, got)
		}
		for i := range len(b) * 8 {
			bad := bytes.Clone(b)
			bad[i/8] ^= 1 << (i % 8)
			if _, err := ParsePreface(bad[:PrefacePrefix], bad[PrefacePrefix:]); err == nil {
				t.Errorf("bit %d flipped, and nobody noticed", i)
			}
		}
	}
	long := AppendPreface(nil, Preface{Versions: Versions, Refusal: strings.Repeat("x", MaxRefusal+1)})
	if p, err := ParsePreface(long[:PrefacePrefix], long[PrefacePrefix:]); err != nil || len(p.Refusal) != MaxRefusal {
		t.Error("a long refusal is cut:", err)
	}
	binary.LittleEndian.PutUint16(long[16:], MaxRefusal+1)
	if _, err := PrefaceLength(long[:PrefacePrefix]); CodeOf(err) != CodeProtocol {
		t.Error("a refusal one byte too long:", err)
	}
	other := append([]byte("GET / HTTP/1.1\r\n"), make([]byte, PrefacePrefix)...)
	if _, err := PrefaceLength(other[:PrefacePrefix]); CodeOf(err) != CodeProtocol || !strings.Contains(err.Error(), "does not speak tpcfs") {
		t.Error(err)
	}
	empty := AppendPreface(nil, Preface{Versions: VersionRange{2, 1}})
	if _, err := ParsePreface(empty[:PrefacePrefix], empty[PrefacePrefix:]); CodeOf(err) != CodeProtocol {
		t.Error("a range of no versions:", err)
	}
}

func TestAgree(t *testing.T) {
	for _, c := range []struct {
		ours, theirs VersionRange
		want         uint16
	}{
		{VersionRange{1, 1}, VersionRange{1, 1}, 1}, {VersionRange{1, 3}, VersionRange{2, 5}, 3},
		{VersionRange{2, 5}, VersionRange{1, 3}, 3}, {VersionRange{1, 9}, VersionRange{4, 4}, 4},
		{VersionRange{1, 1}, VersionRange{3, 4}, 0}, {VersionRange{3, 4}, VersionRange{1, 2}, 0},
	} {
		got, err := Agree(c.ours, c.theirs)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%v and %v: got %d, %v", c.ours, c.theirs, got, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "versions "+c.ours.String()) || !strings.Contains(err.Error(), "the peer "+c.theirs.String())) {
			t.Error("does not name both:", err)
		}
	}
}

// A frame in place is the frame that would have been appended.
func TestFrameBefore(t *testing.T) {
	memory := make([]byte, 300)
	for i := range memory {
		memory[i] = byte(i)
	}
	f := Frame{Kind: FramePiece, Header: []byte("header"), Body: memory[100:250]}
	want := AppendFrame(nil, f)
	got, ok := FrameBefore(memory[:100], f)
	if !ok || !bytes.Equal(got, want) {
		t.Errorf("in place: %x, %t, want %x", got, ok, want)
	}
	if memory[100-FramePrefix-len(f.Header)-1] != 100-FramePrefix-7 {
		t.Error("what lies before the frame was written")
	}
	for name, room := range map[string][]byte{
		"none":              nil,
		"too small":         memory[100-FramePrefix-5 : 100],
		"elsewhere":         memory[:99],
		"of another memory": make([]byte, 100, 300),
		"ending there":      memory[:100:100],
		"ending within":     memory[:100:249],
	} {
		if b, ok := FrameBefore(room, f); ok {
			t.Errorf("room %s: %x, want none", name, b)
		}
	}
	if _, ok := FrameBefore(memory[:100], Frame{Kind: FramePiece, Body: memory[100:100]}); ok {
		t.Error("a frame without a body was put before it")
	}
}

// The sums of blocks, joined, are the sum of them all.
func TestJoinBlock(t *testing.T) {
	b := make([]byte, 3*BlockSize+100)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	for _, n := range []int{0, 1, 100, BlockSize, 2*BlockSize + 99} {
		got := JoinBlock(Sum(b[:n]), Sum(b[n:n+BlockSize]))
		if want := Sum(b[:n+BlockSize]); got != want {
			t.Errorf("%d bytes and a block: %#x, want %#x", n, got, want)
		}
	}
}
