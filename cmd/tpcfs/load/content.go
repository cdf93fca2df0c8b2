package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Value names what a file holds by the write that put it there. The zero Value
// is: no such file.
type Value struct {
	Client int    // from 1
	Op     uint64 // of the client, from 1
}

// Absent is the Value of a file that does not exist.
var Absent = Value{}

func (v Value) String() string {
	if v == Absent {
		return "no file"
	}
	return fmt.Sprintf("client %d's operation %d", v.Client, v.Op)
}

// Contents begin with
//
//	magic 8 | run 8 | size 8 | client 4 | op 8     (little endian)
//
// and go on with bytes that follow from these, so that a reader can tell which
// write they are of, and that every one of them is right.
const (
	magic  = "tpcload1"
	header = 36

	// MinChecked is the least size in bytes of contents that can be checked.
	MinChecked = header
	// MaxSize is the greatest size of contents, in bytes: each client holds two
	// of them in memory.
	MaxSize = 64 << 20
)

// contents makes the bytes of a write. What is shorter than the header is cut,
// and can be told from nothing.
func contents(run uint64, v Value, size int64) []byte {
	b := make([]byte, 0, max(size, header)+8)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint64(b, run)
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	b = binary.LittleEndian.AppendUint32(b, uint32(v.Client))
	b = binary.LittleEndian.AppendUint64(b, v.Op)
	state := run ^ uint64(v.Client)<<48 ^ v.Op<<8
	for int64(len(b)) < size {
		b = binary.LittleEndian.AppendUint64(b, splitmix(&state))
	}
	return b[:size]
}

// splitmix is the generator SplitMix64 (Steele, Lea and Flood, 2014).
func splitmix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// valueOf is the write that contents are of; the error says in which way they
// are not what any write of this run has written.
func valueOf(run uint64, b []byte) (Value, error) {
	if len(b) < header || string(b[:8]) != magic {
		return Value{}, fmt.Errorf("%d bytes that no client wrote, beginning with %q", len(b), b[:min(len(b), 16)])
	}
	v := Value{Client: int(binary.LittleEndian.Uint32(b[24:])), Op: binary.LittleEndian.Uint64(b[28:])}
	size := binary.LittleEndian.Uint64(b[16:])
	switch theirs := binary.LittleEndian.Uint64(b[8:]); {
	case theirs != run:
		return Value{}, fmt.Errorf("contents of another run (%016x)", theirs)
	case size != uint64(len(b)):
		return Value{}, fmt.Errorf("%d bytes of the %d that %v wrote", len(b), size, v)
	}
	if want := contents(run, v, int64(len(b))); !bytes.Equal(b, want) {
		at := 0
		for b[at] == want[at] {
			at++
		}
		return Value{}, fmt.Errorf("what %v wrote, but for byte %d and maybe others: %#02x in place of %#02x", v, at, b[at], want[at])
	}
	return v, nil
}
