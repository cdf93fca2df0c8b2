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
	if err := decMode.Unmarshal(b, v); err != nil {
		return &Error{Code: CodeProtocol, Text: "malformed header: " + err.Error()}
	}
	return nil
}
