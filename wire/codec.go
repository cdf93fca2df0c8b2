package wire

import (
	"hash/crc32"

	"github.com/fxamacker/cbor/v2"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is the CRC32C of b.
func Sum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// SumUpdate is the CRC32C of what sum is of, followed by b.
func SumUpdate(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

// JoinBlock is the CRC32C of what sum is of, followed by a whole block
// (BlockSize bytes) of the sum block.
func JoinBlock(sum, block uint32) uint32 { return blockShift.apply(sum) ^ block }

// A CRC is linear: the sum of a followed by b is that of b, and of what zeros in
// b's place make of the sum of a. (The method of zlib's crc32_combine.)
type crcMatrix [32]uint32 // what becomes of each bit

// blockShift is what BlockSize zeros make of a sum.
var blockShift = newBlockShift()

func newBlockShift() (m crcMatrix) {
	none := SumUpdate(0, []byte{0})
	for i := range m {
		m[i] = SumUpdate(1<<i, []byte{0}) ^ none // one zero
	}
	for n := 1; n < BlockSize; n *= 2 {
		var twice crcMatrix
		for i := range m {
			twice[i] = m.apply(m[i])
		}
		m = twice
	}
	return m
}

func (m *crcMatrix) apply(sum uint32) (out uint32) {
	for i := 0; sum != 0; i, sum = i+1, sum>>1 {
		out ^= m[i] & -(sum & 1)
	}
	return out
}

var encMode, decMode = mustModes()

func mustModes() (cbor.EncMode, cbor.DecMode) {
	enc, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden}.EncMode()
	if err != nil {
		panic(err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 16, MaxArrayElements: MaxMutations, MaxMapPairs: 1024,
		UTF8: cbor.UTF8DecodeInvalid, // file names are bytes
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return enc, dec
}

// Marshal encodes a header: deterministic CBOR. It fails only on a type that
// has no encoding, which is our own bug, and panics then.
func Marshal(v any) []byte {
	if b := quickMarshal(v); b != nil {
		return b
	}
	b, err := encMode.Marshal(v)
	if err != nil {
		panic("wire: cannot encode: " + err.Error())
	}
	return b
}

// Unmarshal decodes a header into v. Unknown fields are skipped; nesting,
// sizes and duplicate keys are bounded; what is left over is an error. The
// error is an *Error with CodeProtocol.
func Unmarshal(b []byte, v any) error {
	if len(b) > MaxMessage {
		return &Error{Code: CodeProtocol, Text: "header too long"}
	}
	if quickUnmarshal(b, v) {
		return nil
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return &Error{Code: CodeProtocol, Text: "malformed header: " + err.Error()}
	}
	return nil
}
