package hostile

import (
	"encoding/binary"
	"math"
	"reflect"
	"strings"

	"tpcfs/wire"
)

// script turns a fuzz input into choices. When the input is over, every choice
// is 0, the well-behaved one: what an input does not say is as it should be.
type script struct{ b []byte }

func (s *script) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	c := s.b[0]
	s.b = s.b[1:]
	return c
}

func (s *script) over() bool { return len(s.b) == 0 }

// take is up to n bytes of the input.
func (s *script) take(n int) []byte {
	n = min(n, len(s.b))
	b := s.b[:n]
	s.b = s.b[n:]
	return b
}

// numbers are those around which things go wrong.
var numbers = []uint64{
	0, 1, 2, 3, 1<<64 - 1, 1<<64 - 2, 1 << 63, 1<<63 - 1, 1<<63 + 1, 1 << 62, 1 << 40, 1<<40 - 1, 1<<40 + 1, 1 << 41, 1<<40 | 2, 1<<40 | 3, 1<<40 | 4,
	wire.BlockSize, wire.BlockSize - 1, wire.BlockSize + 1, wire.PieceSize, wire.PieceSize + 1, wire.MaxInline + 1, wire.MaxMutations, wire.MaxMutations + 1,
	wire.MaxFileSize, wire.MaxFileSize + 1, wire.MaxFileSize - 1, wire.MaxPack, wire.MaxPack + 1, 1 << 31, 1 << 32, 1<<32 - 1, 1<<31 - 1, 1 << 16, 1<<16 - 1, 255, 256,
	8 << 10, 8<<10 + 1, 4096, 0o40755, 0o100644, 0o120777, 0o10644, 0o20666,
}

// texts are names and what is none.
var texts = []string{
	"f", "g", "d", "d/f", "d/e", "link", "link/f", "", "/", ".", "..", "d/..", "d//f", "/f", "f/", "a\x00b", "\xff\xfe", "user.a", "user.b", "trusted.x", "security.capability", "none",
	strings.Repeat("n", wire.MaxNameLen), strings.Repeat("n", wire.MaxNameLen+1), strings.Repeat("a/", wire.MaxPathLen/2), strings.Repeat("a/", wire.MaxPathLen/2) + "b", strings.Repeat("x", 70_000),
	"a", "b", "c", "coordinator",
}

// sessions is how many a peer has.
const sessions = 4

// known is what a peer knows that means to be heard: what it does not spoil is right.
type known struct {
	session wire.SessionID
	link    uint64
	seq     uint64
	stages  []wire.StageReply
	epoch   wire.Epoch
	index   uint64 // of the last entry put
	counter uint64 // of the last id given
	config  wire.ConfigID
	inos    []wire.Ino
	patient uint64 // how long its requests may wait, in ms
}

// fill makes v what a script says: each field is right, small or bad.
func (k *known) fill(s *script, v reflect.Value, name string, depth int) {
	switch p := v.Addr().Interface().(type) {
	case *wire.SessionID:
		if *p = k.session; s.byte() >= 224 {
			p[15] = s.byte() % sessions
		}
		return
	case *wire.Epoch:
		if *p = k.epoch; s.byte() < 224 {
			return
		}
	case *wire.ConfigID:
		if *p = k.config; s.byte() < 224 {
			return
		}
	case *wire.Ino:
		if c := s.byte(); c >= 128 && c < 192 && len(k.inos) > 0 {
			*p = k.inos[int(c)%len(k.inos)]
		} else {
			*p = wire.Ino(k.number(s, c, name))
		}
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(s.byte() >= 160)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(k.number(s, s.byte(), name)) << (64 - v.Type().Bits()) >> (64 - v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(k.number(s, s.byte(), name) << (64 - v.Type().Bits()) >> (64 - v.Type().Bits()))
	case reflect.Float64:
		v.SetFloat([]float64{0, 1, -1, math.Inf(1), math.NaN()}[s.byte()%5])
	case reflect.String:
		v.SetString(texts[int(s.byte())%len(texts)])
	case reflect.Array:
		for i := range v.Len() {
			if c := s.byte(); c >= 224 {
				v.Index(i).SetUint(uint64(c))
			}
		}
	case reflect.Pointer:
		if s.byte() >= 128 && depth < 8 {
			v.Set(reflect.New(v.Type().Elem()))
			k.fill(s, v.Elem(), name, depth+1)
		}
	case reflect.Slice:
		k.fillSlice(s, v, name, depth)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("cbor") != "-" {
				k.fill(s, v.Field(i), f.Name, depth+1)
			}
		}
	default:
	}
}

func (k *known) fillSlice(s *script, v reflect.Value, name string, depth int) {
	n := int(s.byte())
	if v.Type().Elem().Kind() == reflect.Uint8 {
		n = []int{0, 1, 5, 16, 100, 4096, wire.MaxXattrValue, wire.MaxXattrValue + 1}[n%8]
		b := make([]byte, n)
		copy(b, s.take(min(n, 16)))
		v.SetBytes(b)
		return
	}
	switch {
	case n < 128 && name == "Mutations":
		n = 1
	case n < 224:
		n %= 4
	default:
		n = []int{0, 100, wire.MaxExtents + 1, 20_000}[n%4]
	}
	if n == 0 || depth >= 8 {
		return
	}
	first := reflect.MakeSlice(v.Type(), min(n, 4), min(n, 4))
	size := 1
	for i := range first.Len() {
		k.fill(s, first.Index(i), name, depth+1)
		size = max(size, len(wire.Marshal(first.Index(i).Interface())))
	}
	n = min(n, max(first.Len(), maxSlice/size))
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n { // beyond the first they are alike
		v.Index(i).Set(first.Index(i % first.Len()))
	}
}

// maxSlice is how long an encoded slice gets, in bytes: more than any frame has.
const maxSlice = 2 << 20

// number: below 128 what is right there, then small ones, then bad ones.
func (k *known) number(s *script, c byte, name string) uint64 {
	switch {
	case c >= 192:
		return numbers[int(s.byte())%len(numbers)]
	case c >= 128:
		return uint64(c - 128)
	}
	switch name {
	case "Link":
		return k.link
	case "Seq":
		k.seq++
		return k.seq
	case "Lowest":
		return 1
	case "Wait":
		return k.patient
	case "Dir":
		return uint64(wire.RootIno)
	case "Kind", "Step", "Op", "Mode":
		return uint64(c%32) + 1
	case "Length", "Size":
		return uint64(c) * 7
	case "Index":
		return k.index
	case "Tx", "ID", "LastID":
		return uint64(wire.MakeID(k.epoch.Number, k.counter))
	case "Stage":
		if c > 64 && len(k.stages) > 0 {
			return uint64(k.stages[int(c)%len(k.stages)].ID)
		}
	case "Number", "Epoch":
		return k.epoch.Number
	}
	return 0
}

// mend makes contents that a transaction brings right, and gives its payload.
func (k *known) mend(s *script, muts []wire.Mutation) []byte {
	var payload []byte
	one := func(size *int64, stage *wire.ID, sum *uint32) {
		for _, r := range k.stages {
			if *stage == r.ID {
				*size, *sum = r.Size, r.Sum
				return
			}
		}
		if *stage != 0 || *size < 0 || *size > 1<<10 || len(payload) > 16<<10 {
			return
		}
		data := make([]byte, *size)
		copy(data, s.take(8))
		*sum = wire.Sum(data)
		payload = append(payload, data...)
	}
	for i := range muts {
		m := &muts[i]
		if m.Kind != wire.MutWriteFile {
			continue
		}
		if m.Write != wire.WriteWhole {
			for j := range m.Extents {
				one(&m.Extents[j].Size, &m.Extents[j].Stage, &m.Extents[j].Sum)
			}
			continue
		}
		one(&m.Content.Size, &m.Content.Stage, &m.Content.Sum)
	}
	return payload
}

// spoil changes an encoded frame: its lengths, its flags, its end; with a
// checksum that is right again, or not.
func spoil(s *script, frame []byte) []byte {
	b := append([]byte(nil), frame...)
	for range 1 + s.byte()%4 {
		at := int(s.byte())
		if c := s.byte(); c < 128 {
			at %= min(len(b), wire.FramePrefix)
		}
		if at < len(b) {
			b[at] ^= 1 + s.byte()
		}
	}
	switch c := s.byte(); {
	case c < 64 && len(b) > wire.FramePrefix:
		reseal(b)
	case c < 96:
		binary.LittleEndian.PutUint32(b, uint32(numbers[int(s.byte())%len(numbers)]))
	case c < 128:
		b = b[:int(s.byte())%len(b)]
	}
	return b
}

// reseal makes the checksum of a frame right again.
func reseal(b []byte) {
	kind, flags, n := wire.FrameKind(b[4]), wire.FrameFlags(b[5]), binary.LittleEndian.Uint32(b[8:])
	if kind == 0 || flags > 3 || int(n) > len(b)-wire.FramePrefix {
		return
	}
	good := wire.AppendFrame(nil, wire.Frame{Kind: kind, Flags: flags, Header: b[wire.FramePrefix:][:n], Body: b[wire.FramePrefix+int(n):]})
	copy(b[12:16], good[12:16])
}
