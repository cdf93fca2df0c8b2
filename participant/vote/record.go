package vote

import (
	"encoding/binary"
	"fmt"

	"tpcfs/wire"
)

// Kind says what a journal record is. Numbers are on disk: append only.
type Kind uint8

// The records of a participant's journal. No, Dup and Void leave the position
// of an entry that changed nothing else (P2).
const (
	KindPrepare Kind = iota + 1
	KindCommit
	KindAbort
	KindNo
	KindDup
	KindVoid
	KindConfig
	KindOpen
	KindEpoch
	KindWatermark
	KindResync
)

var kindText = [...]string{"", "PREPARE", "COMMIT", "ABORT", "NO", "DUP", "VOID", "CONFIG", "OPEN", "EPOCH", "W", "RESYNC"}

func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindText) {
		return fmt.Sprintf("record kind %d", uint8(k))
	}
	return kindText[k]
}

// A record of the journal, and an item of a snapshot, is
//
//	 0        1                 5                 5+n
//	+--------+-----------------+-----------------+---------------------+
//	| kind   | n, little-endian| header          | payload             |
//	| 1 byte | 4 bytes         | n bytes of CBOR | PREPARE: to the end |
//	+--------+-----------------+-----------------+---------------------+
//
// and at most wire.MaxRecord bytes long. The journal checks its integrity; the
// header without the payload is at most wire.MaxBindings bytes.
const recordPrefix = 5

// Record is a record of the journal. Which fields count depends on Kind:
//
//	PREPARE  Position, W, Tx (with its payload), Walked
//	COMMIT   Position, ID
//	ABORT    Position, ID
//	NO       Position, ID, Op, Last, W, ServiceTime, Err
//	DUP      Position, ID, Op, Last, W, ServiceTime, Outcome
//	VOID     Position
//	CONFIG   Position, Config, Root (of a bootstrap)
//	OPEN     Position
//	EPOCH    Epoch; Resync where it is greeted as no member, Removed
//	RESYNC   Resync, Removed: in the epoch that holds
//	W        W, ServiceTime
type Record struct {
	Kind     Kind          `cbor:"-"`
	Position wire.Position `cbor:"1,keyasint,omitzero"` // of the entry that it is about
	ID       wire.ID       `cbor:"2,keyasint,omitzero"` // transaction
	Op       wire.OpID     `cbor:"3,keyasint,omitzero"`
	Last     wire.ID       `cbor:"4,keyasint,omitzero"` // last id that the transaction reserves
	W        wire.Position `cbor:"5,keyasint,omitzero"`

	ServiceTime int64         `cbor:"6,keyasint,omitzero"` // milliseconds
	Err         *wire.Error   `cbor:"7,keyasint,omitempty"`
	Outcome     *wire.Outcome `cbor:"8,keyasint,omitempty"`
	Tx          *Tx           `cbor:"9,keyasint,omitempty"`
	Walked      []Entry       `cbor:"10,keyasint,omitempty"` // directory entries that the PREPARE's names went over (P1)
	Config      *wire.Config  `cbor:"11,keyasint,omitempty"`
	Root        *wire.Root    `cbor:"12,keyasint,omitempty"`
	Epoch       wire.Epoch    `cbor:"13,keyasint,omitzero"`
	Resync      string        `cbor:"14,keyasint,omitempty"` // why it has to catch up (P11)
	Removed     bool          `cbor:"15,keyasint,omitempty"` // it was taken out for good (P14)
}

// Entry names a directory entry.
type Entry struct {
	Dir  wire.Ino `cbor:"1,keyasint"`
	Name string   `cbor:"2,keyasint"`
}

// Encode returns the record's bytes.
func (r *Record) Encode() []byte {
	if r.Tx == nil || r.Tx.Pack == nil {
		return encodeItem(uint8(r.Kind), wire.Marshal(r), r.payload())
	}
	short, tx := *r, *r.Tx
	tx.Bounds, tx.Packed = nil, r.Tx.pack()
	short.Tx = &tx
	return encodeItem(uint8(r.Kind), wire.Marshal(&short), nil)
}

// payload is what stands behind the record's header.
func (r *Record) payload() []byte {
	if r.Tx == nil || r.Tx.Pack != nil {
		return nil
	}
	return r.Tx.Payload
}

// DecodeRecord reads a record. Its payload is a part of b; what it leaves to a
// pack is not looked up. The error is an *wire.Error with CodeCorrupt.
func DecodeRecord(b []byte) (*Record, error) {
	kind, header, payload, err := decodeItem(b)
	if err != nil {
		return nil, err
	}
	r := &Record{}
	if err := wire.Unmarshal(header, r); err != nil {
		return nil, corrupt("%v: %v", Kind(kind), err)
	}
	r.Kind = Kind(kind)
	if r.Kind < KindPrepare || r.Kind > KindResync {
		return nil, corrupt("unknown %v", r.Kind)
	}
	if (r.Kind == KindPrepare) != (r.Tx != nil) || (r.Kind == KindConfig) != (r.Config != nil) {
		return nil, corrupt("%v with the fields of another record", r.Kind)
	}
	if r.Kind == KindResync && r.Resync == "" {
		return nil, corrupt("%v without a reason", r.Kind)
	}
	if r.Tx == nil && len(payload) > 0 {
		return nil, corrupt("%v with %d bytes after its header", r.Kind, len(payload))
	}
	if r.Tx != nil && r.Tx.Pack != nil {
		if len(payload) > 0 || len(r.Tx.Bounds) > 0 || len(r.Tx.Packed) != r.Tx.Pack.Count {
			return nil, corrupt("PREPARE of a pack of %d mutations with %d, and %d bytes after its header", r.Tx.Pack.Count, len(r.Tx.Packed), len(payload))
		}
		return r, nil
	}
	if r.Tx != nil {
		if len(payload) > wire.MaxInline {
			return nil, corrupt("PREPARE with a payload of %d bytes, more than %d", len(payload), wire.MaxInline)
		}
		r.Tx.Payload = payload
		return r, checkBounds(r.Tx.Bounds)
	}
	return r, nil
}

// checkBounds refuses what a later version may have bound.
func checkBounds(bounds []Bound) error {
	for i := range bounds {
		switch k := bounds[i].Kind; k {
		case wire.MutWriteFile, wire.MutDeleteFile, wire.MutMkdir, wire.MutRmdir, wire.MutRename, wire.MutSymlink, wire.MutSetattr,
			wire.MutLink, wire.MutMknod, wire.MutSetxattr, wire.MutRemovexattr, wire.MutCreateUnlinked, wire.MutReclaim,
			wire.MutAllocate, wire.MutPunchHole, wire.MutZeroRange:
		default:
			return corrupt("PREPARE with a mutation of the unknown kind %d", k)
		}
	}
	return nil
}

func encodeItem(kind uint8, header, payload []byte) []byte {
	b := make([]byte, recordPrefix, recordPrefix+len(header)+len(payload))
	b[0] = kind
	binary.LittleEndian.PutUint32(b[1:], uint32(len(header)))
	return append(append(b, header...), payload...)
}

func decodeItem(b []byte) (kind uint8, header, payload []byte, err error) {
	if len(b) < recordPrefix || len(b) > wire.MaxRecord {
		return 0, nil, nil, corrupt("a record of %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint32(b[1:])
	if uint64(n) > uint64(len(b)-recordPrefix) {
		return 0, nil, nil, corrupt("a header of %d bytes in a record of %d", n, len(b))
	}
	end := recordPrefix + int(n)
	return b[0], b[recordPrefix:end:end], b[end:], nil
}

func corrupt(format string, args ...any) *wire.Error {
	return &wire.Error{Code: wire.CodeCorrupt, Text: fmt.Sprintf(format, args...)}
}
