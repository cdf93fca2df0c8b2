package wire

import (
	"encoding/binary"
	"fmt"
)

// Catching up (P11): the coordinator takes rows and blocks from a member, the
// donor, and brings them to a newcomer.

// Bounds of one Donate.
const (
	MaxDonated   = 16      // blocks: 1 MiB
	DonatedBytes = 1 << 20 // of rows, but for a single longer one
	SumsPerPage  = 256     // blocks whose checksums are one row
)

// Donate asks a donor, once it has handled the stream up to Index of Epoch (P5),
// for blocks of an object if Ino is set, else for rows: those changed after
// Since, or all of them.
type Donate struct {
	Epoch Epoch    `cbor:"1,keyasint"`
	Index uint64   `cbor:"2,keyasint"`
	Since Position `cbor:"3,keyasint,omitzero"`
	Full  bool     `cbor:"4,keyasint,omitempty"`
	// Cursor is the last answer's; none at first.
	Cursor []byte `cbor:"5,keyasint,omitempty"`
	// Blocks, by number, of Ino's Object: at most MaxDonated, of one page of
	// checksums (a Lack's).
	Ino    Ino     `cbor:"6,keyasint,omitempty"`
	Object ID      `cbor:"7,keyasint,omitempty"`
	Blocks []int64 `cbor:"8,keyasint,omitempty"`
}

// Donated answers Donate. With it come, as its body, the rows (AppendRow) or
// the bytes of the blocks.
type Donated struct {
	// Position is handled: all up to it is in the rows, perhaps more.
	Position Position `cbor:"1,keyasint"`
	// TooOld: the changes after Since are not known any more; only a full
	// comparison helps.
	TooOld bool `cbor:"2,keyasint,omitempty"`
	// Cursor is where to go on; none: that was all.
	Cursor []byte `cbor:"3,keyasint,omitempty"`
	// Blocks; those that the object has no more are left out.
	Blocks []DonatedBlock `cbor:"4,keyasint,omitempty"`
	Files  int64          `cbor:"5,keyasint,omitempty"` // inodes of the donor
	Bytes  int64          `cbor:"6,keyasint,omitempty"` // of its regular files
	// Version is that of the file that the blocks are of.
	Version ID `cbor:"7,keyasint,omitempty"`
}

// DonatedBlock describes a block whose bytes are in the body.
type DonatedBlock struct {
	Block int64  `cbor:"1,keyasint"`
	Sum   uint32 `cbor:"2,keyasint"` // CRC32C of the block, zero-padded to BlockSize
	Size  int    `cbor:"3,keyasint"` // bytes
}

// ResyncStep is what a newcomer is to do. Append only.
type ResyncStep uint8

// The steps: Begin; for each round the Rows, then Verify until nothing is
// lacking, with Blocks in between, then Round; at last Finish in place of Round.
const (
	ResyncBegin ResyncStep = iota + 1
	ResyncRows
	ResyncVerify
	ResyncBlocks
	ResyncRound
	ResyncFinish
)

// Resync brings a newcomer one step on. After an error, and with another donor,
// it starts over with Begin; what it has is not brought again.
type Resync struct {
	Epoch Epoch      `cbor:"1,keyasint"`
	Step  ResyncStep `cbor:"2,keyasint"`
	// Full, of Begin: compare everything, whatever the newcomer thinks. Of
	// Rows: they are all that a donor has from Cursor up to Next.
	Full bool `cbor:"3,keyasint,omitempty"`
	// Position of the Rows, Donated.Position; of Round, that of the last
	// decision put when the round began.
	Position Position `cbor:"4,keyasint,omitzero"`
	Cursor   []byte   `cbor:"5,keyasint,omitempty"` // Rows: Donate.Cursor
	Next     []byte   `cbor:"6,keyasint,omitempty"` // Rows: Donated.Cursor
	// Blocks: from Donate and Donated.
	Ino    Ino            `cbor:"7,keyasint,omitempty"`
	Object ID             `cbor:"8,keyasint,omitempty"`
	Blocks []DonatedBlock `cbor:"9,keyasint,omitempty"`
	Join   *Join          `cbor:"10,keyasint,omitempty"` // Finish
	// Attempt, of all but Begin: Resynced.Attempt of the Begin that it follows.
	// A step of an older attempt, late on a link that was given up, is refused.
	Attempt uint64 `cbor:"11,keyasint,omitempty"`
}

// Join is what a newcomer makes durable with the last of what it copies.
type Join struct {
	Position    Position `cbor:"1,keyasint"` // all up to it is in what was copied, and durable at all members
	W           Position `cbor:"2,keyasint"`
	Config      Config   `cbor:"3,keyasint"`
	ServiceTime int64    `cbor:"4,keyasint"` // ms
	LastID      ID       `cbor:"5,keyasint"` // no transaction up to it is open
}

// Resynced answers Resync.
type Resynced struct {
	// Begin: from where on changes are needed; Full: all is to be compared.
	Since Position `cbor:"1,keyasint,omitzero"`
	Full  bool     `cbor:"2,keyasint,omitempty"`
	// Verify: blocks that are needed; More: there is more to verify.
	Lacks    []Lack         `cbor:"3,keyasint,omitempty"`
	More     bool           `cbor:"4,keyasint,omitempty"`
	Progress ResyncProgress `cbor:"5,keyasint,omitzero"`
	Attempt  uint64         `cbor:"6,keyasint,omitempty"` // Begin: the number of this attempt
}

// Lack names blocks of one page of checksums of an object.
type Lack struct {
	Ino    Ino     `cbor:"1,keyasint"`
	Object ID      `cbor:"2,keyasint"`
	Blocks []int64 `cbor:"3,keyasint"`
}

// ResyncProgress counts since Begin.
type ResyncProgress struct {
	Rows     int64 `cbor:"1,keyasint" json:"rows"`     // that have come
	Verified int64 `cbor:"2,keyasint" json:"verified"` // bytes of contents compared
	Lacking  int64 `cbor:"3,keyasint" json:"lacking"`  // bytes found to be needed
	Copied   int64 `cbor:"4,keyasint" json:"copied"`   // bytes of contents that have come
	Files    int64 `cbor:"5,keyasint" json:"files"`    // inodes whose rows have come
}

// Row is a row of a participant's store.
type Row struct {
	Key  string
	Val  []byte
	Gone bool // there is none of that key any more
}

// A row in a body:
//
//	0      1            3              7     7+key
//	+------+------------+--------------+-----+-------+
//	| gone | key length | value length | key | value |
//	+------+------------+--------------+-----+-------+
//
// Numbers are little-endian.
const rowPrefix = 7

// RowSize is what a row takes in a body, in bytes.
func RowSize(r Row) int { return rowPrefix + len(r.Key) + len(r.Val) }

// AppendRow appends an encoded row to a body.
func AppendRow(dst []byte, r Row) []byte {
	gone := byte(0)
	if r.Gone {
		gone = 1
	}
	dst = binary.LittleEndian.AppendUint16(append(dst, gone), uint16(len(r.Key)))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(r.Val)))
	return append(append(dst, r.Key...), r.Val...)
}

// DecodeRows reads a body of rows; values share its memory. The error is an
// *Error with CodeProtocol.
func DecodeRows(b []byte) ([]Row, error) {
	var rows []Row
	for len(b) > 0 {
		if len(b) < rowPrefix {
			return nil, protocolError("rows that end within one")
		}
		kl, vl := int(binary.LittleEndian.Uint16(b[1:])), uint64(binary.LittleEndian.Uint32(b[3:]))
		if b[0] > 1 || kl == 0 || uint64(len(b)-rowPrefix) < uint64(kl)+vl || b[0] == 1 && vl > 0 {
			return nil, protocolError("a row with a key of %d bytes and a value of %d, in %d", kl, vl, len(b))
		}
		end := rowPrefix + kl + int(vl)
		rows = append(rows, Row{Key: string(b[rowPrefix : rowPrefix+kl]), Val: b[rowPrefix+kl : end : end], Gone: b[0] == 1})
		b = b[end:]
	}
	return rows, nil
}

// String is the step's name.
func (s ResyncStep) String() string {
	names := [...]string{"", "begin", "rows", "verify", "blocks", "round", "finish"}
	if int(s) < len(names) && s > 0 {
		return names[s]
	}
	return fmt.Sprintf("step %d", uint8(s))
}
