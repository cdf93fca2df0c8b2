package wire

import (
	"encoding/binary"
	"fmt"
)

// A pack is what a large transaction's PREPARE would be too small for, as one
// staged object:
//
//	0       8       12        16                                16+n
//	+-------+-------+---------+---------------------------------+----------+
//	| magic | count | n bytes | mutations, each (length:4 CBOR) | contents |
//	+-------+-------+---------+---------------------------------+----------+
//
// Numbers are little-endian. Contents are those of the mutations without a
// stage, in their order, as in a payload. Its integrity is the stage's matter.
const (
	packMagic  = "tpcfspk1"
	packHeader = 16
)

// EncodePack returns the bytes of a pack. The error is PackHeader's.
func EncodePack(mutations []Mutation, payload []byte) ([]byte, error) {
	head, err := PackHeader(mutations, len(payload))
	return append(head, payload...), err
}

// PackHeader returns what stands before so many bytes of contents in a pack.
// The error is an *Error that names the limit: CodeTooMany.
func PackHeader(mutations []Mutation, contents int) ([]byte, error) {
	if len(mutations) > MaxMutations {
		return nil, NewError(CodeTooMany, fmt.Sprintf("%d changes, a transaction has at most %d", len(mutations), MaxMutations))
	}
	b := make([]byte, packHeader, packHeader+128*len(mutations))
	copy(b, packMagic)
	extents := 0
	for i := range mutations {
		if extents += len(mutations[i].Extents); extents > MaxMutations {
			return nil, NewError(CodeTooMany, fmt.Sprintf("more than %d extents in a transaction", MaxMutations))
		}
		m := Marshal(mutations[i])
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	if n := len(b) + contents; n > MaxPack {
		return nil, NewError(CodeTooMany, fmt.Sprintf("names and small contents take %s together, at most %s fit in a transaction",
			SizeText(uint64(n)), SizeText(MaxPack)))
	}
	binary.LittleEndian.PutUint32(b[8:], uint32(len(mutations)))
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)-packHeader))
	return b, nil
}

// DecodePack reads a pack. The payload is a part of b, mutations are not. The
// error is an *Error with CodeProtocol.
func DecodePack(b []byte) (mutations []Mutation, payload []byte, err error) {
	if len(b) < packHeader || len(b) > MaxPack || string(b[:8]) != packMagic {
		return nil, nil, protocolError("%d bytes that are no pack", len(b))
	}
	count, size := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	rest := b[packHeader:]
	if count == 0 || count > MaxMutations || uint64(size) > uint64(len(rest)) || uint64(count)*5 > uint64(size) {
		return nil, nil, protocolError("a pack of %d mutations in %d bytes", count, size)
	}
	rest, payload = rest[:size], rest[size:]
	mutations = make([]Mutation, count)
	extents := 0
	for i := range mutations {
		if len(rest) < 4 || uint64(binary.LittleEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return nil, nil, protocolError("a pack ends in the middle of mutation %d", i)
		}
		end := 4 + int(binary.LittleEndian.Uint32(rest))
		if err := Unmarshal(rest[4:end], &mutations[i]); err != nil {
			return nil, nil, err
		}
		if extents += len(mutations[i].Extents); extents > MaxMutations { // in memory they are many times as long
			return nil, nil, protocolError("a pack of more than %d extents", MaxMutations)
		}
		rest = rest[end:]
	}
	if len(rest) > 0 {
		return nil, nil, protocolError("a pack with %d bytes between its mutations and its contents", len(rest))
	}
	return mutations, payload, nil
}
