package wire

import (
	"encoding/binary"
	"fmt"
)

// A frame is the unit of every stream (W2). Numbers are little-endian.
//
//	 0        4    5     6        8            12         16
//	+--------+----+-----+--------+------------+----------+---------------+-------------+
//	| length |kind|flags|reserved| header len | CRC32C   | header (CBOR) | body (raw)  |
//	+--------+----+-----+--------+------------+----------+---------------+-------------+
//
// length counts the bytes after the CRC32C: header and body together, at most
// MaxFrame; header len says how many of them are the header. The CRC32C is of
// everything but itself: bytes 0-11, header, body. Not so a Piece's body, which
// has a sum of its own in its header, made where the bytes come from and checked
// where they are used; whoever passes it on need not look at it. reserved is zero.
//
// A message is one frame, or several of one kind of which all but the last
// have FlagMore: their headers joined are the message's, and only the last has
// a body. What one side of a call says ends with FlagEnd; streams are never
// half-closed (W1a).

// FramePrefix is the length of what comes before a frame's header, in bytes.
const FramePrefix = 16

// MaxMessage bounds the joined headers of one message, in bytes. A request is
// at most one frame; only answers may be longer.
const MaxMessage = 64 << 20

// FrameKind says what a frame carries. Numbers are on the wire: append only.
type FrameKind uint8

// The frames. A peer refuses kinds that it does not know with CodeUnsupported.
const (
	FrameAttach   FrameKind = 1 + iota // Attach -> Attached
	FrameDetach                        // Detach -> Nothing
	FrameTransact                      // Transact, payload -> TransactReply
	FrameStage                         // Stage, pieces -> StageReply
	FrameRead                          // Read -> pieces, ReadReply
	FrameStatfs                        // Nothing -> Statfs
	FrameStatus                        // Nothing -> Status
	FrameLock                          // LockRequest -> LockReply
	FrameWatch                         // Watch -> Watched
	FrameMembers                       // MembersRequest -> MembersReply
	FrameScrub                         // ScrubRequest -> ScrubReport
)

// What a coordinator asks of a participant.
const (
	FrameGreet         FrameKind = 32 + iota // Greet -> Greeting, then Down and Up
	FrameReplicaRead                         // PositionedRead -> pieces, ReadReply
	FrameReplicaStage                        // StageRequest, pieces -> StageReply
	FrameUnstage                             // Unstage -> Nothing
	FrameReplicaStatus                       // Nothing -> ReplicaStatus
	FrameDown                                // Down, an entry's payload
	FrameUp                                  // Up
	FrameDonate                              // Donate -> Donated, rows or blocks
	FrameResync                              // Resync, rows or blocks -> Resynced
	FrameRepair                              // Repair, blocks -> Repaired
	FrameVerify                              // Verify -> Verified
	FrameCompare                             // Compare -> Compared, rows
)

// What belongs to all calls.
const (
	FrameReply FrameKind = 64 + iota // the answer, of the type that the request has
	FrameError                       // the answer is an Error
	FramePiece                       // Piece, its Data
	FrameEnd                         // nothing: the pieces are over
	FrameMoved                       // Moved: the pieces and the answer come on a bulk stream
	FrameAdopt                       // Moved: opens that bulk stream
)

// FrameFlags qualify a frame.
type FrameFlags uint8

// The flags.
const (
	FlagEnd  FrameFlags = 1 << iota // the sender's last frame of this call
	FlagMore                        // the message goes on in the next frame

	flagsKnown = FlagEnd | FlagMore
)

// Frame is one decoded frame. Header and Body share memory with what it was
// decoded from.
type Frame struct {
	Kind   FrameKind
	Flags  FrameFlags
	Header []byte
	Body   []byte
}

// check panics at a frame that must not be sent.
func (f *Frame) check() {
	if n := len(f.Header) + len(f.Body); n > MaxFrame || f.Flags&^flagsKnown != 0 || f.Kind == 0 {
		panic(fmt.Sprintf("wire: frame of kind %d, flags %#x, %d bytes", f.Kind, f.Flags, n))
	}
}

// AppendFrame appends an encoded frame to dst. A frame over MaxFrame is our
// own bug: callers bound what they send.
func AppendFrame(dst []byte, f Frame) []byte {
	f.check()
	at := len(dst)
	dst = append(dst, make([]byte, FramePrefix)...)
	dst = append(dst, f.Header...)
	dst = append(dst, f.Body...)
	sealFrame(dst[at:], f)
	return dst
}

// FrameRoom is how much memory before a piece's contents a frame's prefix and
// header need, in bytes.
const FrameRoom = 64

// FrameBefore encodes a frame into the memory before its body, which stays where
// it is: room ends there, and its capacity goes on over the body. false: it does
// not, or it is too small. Else as AppendFrame.
func FrameBefore(room []byte, f Frame) ([]byte, bool) {
	f.check()
	n := FramePrefix + len(f.Header)
	if len(f.Body) == 0 || len(room) < n || cap(room)-len(room) < len(f.Body) || &room[:len(room)+1][len(room)] != &f.Body[0] {
		return nil, false
	}
	b := room[len(room)-n : len(room)+len(f.Body)]
	copy(b[FramePrefix:], f.Header)
	sealFrame(b, f)
	return b, true
}

// sealFrame fills in the prefix of a frame whose header and body are in b.
func sealFrame(b []byte, f Frame) {
	le := binary.LittleEndian
	le.PutUint32(b, uint32(len(b)-FramePrefix))
	b[4], b[5], b[6], b[7] = byte(f.Kind), byte(f.Flags), 0, 0
	le.PutUint32(b[8:], uint32(len(f.Header)))
	le.PutUint32(b[12:], frameSum(b[:12], b[FramePrefix:]))
}

func frameSum(prefix, rest []byte) uint32 {
	if FrameKind(prefix[4]) == FramePiece {
		rest = rest[:binary.LittleEndian.Uint32(prefix[8:])]
	}
	return SumUpdate(Sum(prefix), rest)
}

// FrameLength checks a frame's first FramePrefix bytes and returns how many
// bytes follow them, at most MaxFrame. The error is an *Error with CodeProtocol.
func FrameLength(prefix []byte) (int, error) {
	_ = prefix[FramePrefix-1]
	n, h := binary.LittleEndian.Uint32(prefix), binary.LittleEndian.Uint32(prefix[8:])
	switch {
	case n > MaxFrame:
		return 0, protocolError("frame of %d bytes, at most %d are allowed", n, MaxFrame)
	case h > n:
		return 0, protocolError("frame of %d bytes with a header of %d", n, h)
	case prefix[4] == 0:
		return 0, protocolError("frame of kind 0")
	case FrameFlags(prefix[5])&^flagsKnown != 0:
		return 0, protocolError("frame with unknown flags %#x", prefix[5])
	case prefix[6] != 0 || prefix[7] != 0:
		return 0, protocolError("frame with reserved bytes set")
	}
	return int(n), nil
}

// ParseFrame makes a frame of its prefix and the bytes that FrameLength said
// would follow. The error is an *Error: CodeCorrupt when the checksum does not
// match.
func ParseFrame(prefix, rest []byte) (Frame, error) {
	n, err := FrameLength(prefix)
	if err != nil {
		return Frame{}, err
	}
	if n != len(rest) {
		return Frame{}, protocolError("frame of %d bytes has %d", n, len(rest))
	}
	if binary.LittleEndian.Uint32(prefix[12:]) != frameSum(prefix[:12], rest) {
		return Frame{}, NewError(CodeCorrupt, "a frame's checksum does not match: it was garbled on the way")
	}
	h := binary.LittleEndian.Uint32(prefix[8:])
	return Frame{Kind: FrameKind(prefix[4]), Flags: FrameFlags(prefix[5]), Header: rest[:h:h], Body: rest[h:]}, nil
}

func protocolError(format string, args ...any) *Error {
	return NewError(CodeProtocol, fmt.Sprintf(format, args...))
}
