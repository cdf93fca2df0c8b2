package wire

import (
	"encoding/binary"
	"fmt"
)

// The preface is the first thing that both sides of a connection say, the one
// who connects first. Its layout never changes, so that peers of any two
// versions can tell each other which they speak (W1). Little-endian.
//
//	 0       8      10     12     13       14     16         18       20        36     52      68
//	+-------+------+------+------+--------+------+----------+--------+---------+------+-------+------+--------+
//	| magic | from | upto | role | channel| code | text len |reserved| cluster | peer | nonce | text | CRC32C |
//	+-------+------+------+------+--------+------+----------+--------+---------+------+-------+------+--------+
//
// from and upto are the first and last version spoken. The nonce pairs a
// peer's control and bulk connection; control comes first. code and text, at
// most 512 bytes, are why the side that answers refuses; code 0 when it does
// not. The CRC32C is of everything before it.

// Sizes of a preface, in bytes.
const (
	PrefacePrefix = 68  // what is there before text and CRC32C
	MaxRefusal    = 512 // of text
	prefaceMagic  = "tpcfs\r\n\x1a"
)

// VersionRange is the protocol versions that a side speaks, both included.
type VersionRange struct{ From, Upto uint16 }

// Versions are the ones that this code speaks.
var Versions = VersionRange{1, 1}

func (v VersionRange) String() string { return fmt.Sprintf("%d-%d", v.From, v.Upto) }

// Role says what a side of a connection is.
type Role uint8

// The roles.
const (
	RoleClient Role = iota + 1
	RoleCoordinator
	RoleParticipant
)

func (r Role) String() string {
	switch r {
	case RoleClient:
		return "client"
	case RoleCoordinator:
		return "coordinator"
	case RoleParticipant:
		return "participant"
	default:
		return fmt.Sprintf("role %d", uint8(r))
	}
}

// Channel says which of a link's two connections one is.
type Channel uint8

// The channels: small calls and the transaction stream; contents.
const (
	ChannelControl Channel = iota + 1
	ChannelBulk
)

// Preface is what a side says first.
type Preface struct {
	Versions VersionRange
	Role     Role
	Channel  Channel
	Cluster  UUID // zero: any, or none yet
	Peer     UUID // names the side in logs
	Nonce    UUID
	Code     Code   // why the answering side ends the connection; CodeNone: it does not
	Refusal  string // ... in words
}

// AppendPreface appends p, encoded; a longer Refusal is cut.
func AppendPreface(dst []byte, p Preface) []byte {
	text := p.Refusal[:min(len(p.Refusal), MaxRefusal)]
	at := len(dst)
	dst = append(dst, prefaceMagic...)
	dst = binary.LittleEndian.AppendUint16(dst, p.Versions.From)
	dst = binary.LittleEndian.AppendUint16(dst, p.Versions.Upto)
	dst = append(dst, byte(p.Role), byte(p.Channel))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(p.Code))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(text)))
	dst = append(dst, 0, 0)
	dst = append(dst, p.Cluster[:]...)
	dst = append(dst, p.Peer[:]...)
	dst = append(dst, p.Nonce[:]...)
	dst = append(dst, text...)
	return binary.LittleEndian.AppendUint32(dst, Sum(dst[at:]))
}

// PrefaceLength checks a preface's first PrefacePrefix bytes and returns how
// many follow, at most MaxRefusal + 4. The error is an *Error with CodeProtocol.
func PrefaceLength(prefix []byte) (int, error) {
	_ = prefix[PrefacePrefix-1]
	if string(prefix[:8]) != prefaceMagic {
		return 0, NewError(CodeProtocol, "the peer does not speak tpcfs: is this the right address?")
	}
	n := int(binary.LittleEndian.Uint16(prefix[16:]))
	if n > MaxRefusal {
		return 0, protocolError("preface with %d bytes of text, at most %d are allowed", n, MaxRefusal)
	}
	return n + 4, nil
}

// ParsePreface decodes a preface from its prefix and what PrefaceLength said
// would follow.
func ParsePreface(prefix, rest []byte) (Preface, error) {
	n, err := PrefaceLength(prefix)
	if err != nil {
		return Preface{}, err
	}
	if len(rest) != n {
		return Preface{}, protocolError("preface goes on for %d bytes, has %d", n, len(rest))
	}
	text, sum := rest[:n-4], binary.LittleEndian.Uint32(rest[n-4:])
	if SumUpdate(Sum(prefix[:PrefacePrefix]), text) != sum {
		return Preface{}, NewError(CodeCorrupt, "a preface's checksum does not match: it was garbled on the way")
	}
	p := Preface{
		Versions: VersionRange{binary.LittleEndian.Uint16(prefix[8:]), binary.LittleEndian.Uint16(prefix[10:])},
		Role:     Role(prefix[12]), Channel: Channel(prefix[13]),
		Cluster: UUID(prefix[20:36]), Peer: UUID(prefix[36:52]), Nonce: UUID(prefix[52:68]),
		Code:    Code(binary.LittleEndian.Uint16(prefix[14:])),
		Refusal: string(text),
	}
	if p.Versions.From > p.Versions.Upto {
		return Preface{}, protocolError("preface with versions %v", p.Versions)
	}
	return p, nil
}

// Agree picks the newest version that both speak, seen from the side that is
// ours. The error names both ranges.
func Agree(ours, theirs VersionRange) (uint16, error) {
	v := min(ours.Upto, theirs.Upto)
	if v < ours.From || v < theirs.From {
		return 0, protocolError("this side speaks versions %v, the peer %v: bring the older one up to date", ours, theirs)
	}
	return v, nil
}
