package wire

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzFrame: no bytes panic or allocate beyond the limit, and what decodes
// encodes to the same bytes.
func FuzzFrame(f *testing.F) {
	for kind := range frameNames {
		f.Add(AppendFrame(nil, Frame{Kind: kind, Flags: FlagEnd, Header: []byte{0xa0}, Body: []byte("body")}))
	}
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, rest, err := decodeFrame(b)
		if err != nil {
			return
		}
		if again := AppendFrame(nil, frame); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Fatalf("%x decodes, but encodes to %x", b, again)
		}
	})
}

// FuzzPreface: the same for prefaces.
func FuzzPreface(f *testing.F) {
	for _, p := range prefaces {
		f.Add(AppendPreface(nil, p))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < PrefacePrefix {
			return
		}
		n, err := PrefaceLength(b[:PrefacePrefix])
		if err != nil || len(b) < PrefacePrefix+n {
			return
		}
		p, err := ParsePreface(b[:PrefacePrefix], b[PrefacePrefix:PrefacePrefix+n])
		if err != nil {
			return
		}
		again := AppendPreface(nil, p)
		if back, err := ParsePreface(again[:PrefacePrefix], again[PrefacePrefix:]); err != nil || back != p {
			t.Fatalf("%+v comes back as %+v, %v", p, back, err)
		}
	})
}

// FuzzMessage decodes bytes as each message. One that is accepted must come
// back from its own encoding.
func FuzzMessage(f *testing.F) {
	for i, m := range messages {
		f.Add(uint8(i), Marshal(filled(m)))
		f.Add(uint8(i), []byte{0xa0})
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		m := messages[int(i)%len(messages)]
		got := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		if err := Unmarshal(b, got); err != nil {
			if CodeOf(err) != CodeProtocol {
				t.Fatal(err)
			}
			return
		}
		back := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		encoded := Marshal(got)
		if err := Unmarshal(encoded, back); err != nil || !bytes.Equal(Marshal(back), encoded) {
			t.Fatalf("%+v comes back as %+v, %v", got, back, err)
		}
	})
}

// FuzzPath: what CheckPath allows keeps to the rules of section 4.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"", "a", "a/b", "a//b", "../a", "a\x00", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if CheckPath(path) != nil {
			return
		}
		for _, name := range SplitPath(path) {
			if name == "" || name == "." || name == ".." || len(name) > 255 || bytes.ContainsAny([]byte(name), "/\x00") {
				t.Fatalf("%q has the component %q", path, name)
			}
		}
		if len(path) > 4096 {
			t.Fatal("too long")
		}
	})
}
