package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// A block on disk (J1). Numbers are little-endian. It starts at a multiple of
// 4 KiB and is padded with zeros to the next: a torn write never touches a
// block that was synced before it.
//
//	 0         4      6        8                                24
//	+---------+------+--------+--------------------------------+
//	| "TPJB"  | ver. | flags  | journal id                     |
//	+---------+------+--------+----------------+---------------+
//	| segment number 24..32   | first LSN 32..40               |
//	+-------------------------+----------------+---------------+
//	| synced LSN 40..48       | page index     | records       |
//	|                         | 48..52         | 52..56        |
//	+------------+------------+----------------+---------------+
//	| raw length | stored len.| payload CRC32C | header CRC32C |
//	| 56..60     | 60..64     | 64..68         | 68..72        |
//	+------------+------------+----------------+---------------+
//	| payload, stored length bytes from 72; then zeros         |
//	+----------------------------------------------------------+
//
// The payload is raw, or with flag 1 a zstd frame of raw length bytes. Raw is
// the records one after another, each as uvarint length and bytes.
//
// The header has its own CRC (over 0..68, and so over the payload's CRC too):
// a header of 72 bytes lies in one sector, so it is whole or not there, and
// what it promises (synced LSN) holds even where the payload is torn or
// rotten. The page index (offset / 4 KiB) and the segment number are what
// tells a block from an older block in a recycled segment (J4), and from a
// block's image inside somebody's record.
const (
	blockMagic   = "TPJB"
	blockVersion = 1
	flagZstd     = 1

	pageSize   = 4096
	headerSize = 72

	// MaxRecord is the largest record, in bytes. A journal of very small
	// segments has a smaller limit: Log.MaxRecord.
	MaxRecord = 1 << 20
	maxRaw    = 4 << 20 // bytes of raw payload in a block
)

// castagnoli is CRC32C's table; it never changes.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// One encoder and one decoder for the process (J5); both are immutable and
// safe for concurrent use in their EncodeAll and DecodeAll.
var (
	encoder = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)))
	decoder = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options: only a bug
	}
	return v
}

// header is a block's first 72 bytes, without the parts that are constant.
type header struct {
	id      [16]byte
	segment uint64
	page    uint32 // offset in the segment / 4 KiB
	first   LSN
	synced  LSN
	count   uint32 // records
	raw     uint32 // bytes of the payload before compression
	stored  uint32 // bytes of the payload as stored
	zstd    bool
	sum     uint32 // CRC32C of the stored payload
}

// length is the block's length on disk, a multiple of 4 KiB.
func (h *header) length() int64 { return blockLength(int(h.stored)) }

// last is the LSN of the last record; first - 1 in an empty block.
func (h *header) last() LSN { return h.first + LSN(h.count) - 1 }

// blockLength is what a payload of n bytes takes on disk.
func blockLength(n int) int64 { return roundUp(int64(headerSize + n)) }

func roundUp(n int64) int64 { return (n + pageSize - 1) / pageSize * pageSize }

// putHeader writes the header into b[:72].
func putHeader(b []byte, h *header) {
	le := binary.LittleEndian
	copy(b, blockMagic)
	le.PutUint16(b[4:], blockVersion)
	var flags uint16
	if h.zstd {
		flags |= flagZstd
	}
	le.PutUint16(b[6:], flags)
	copy(b[8:24], h.id[:])
	le.PutUint64(b[24:], h.segment)
	le.PutUint64(b[32:], uint64(h.first))
	le.PutUint64(b[40:], uint64(h.synced))
	le.PutUint32(b[48:], h.page)
	le.PutUint32(b[52:], h.count)
	le.PutUint32(b[56:], h.raw)
	le.PutUint32(b[60:], h.stored)
	le.PutUint32(b[64:], h.sum)
	le.PutUint32(b[68:], crc32.Checksum(b[:68], castagnoli))
}

// Why a header does not count.
var (
	errNoBlock   = errors.New("no block")
	errHeaderCRC = errors.New("header checksum is wrong")
)

// place is where a block must say that it is.
type place struct {
	id      [16]byte
	segment uint64
	page    uint32
}

// parseHeader reads the header of a block that lies at p. The error is
// errNoBlock if nothing says that a block of this place was ever here (zeros,
// another segment's old block), else it says what is wrong.
func parseHeader(b []byte, p place) (header, error) {
	le := binary.LittleEndian
	if len(b) < headerSize || string(b[:4]) != blockMagic || [16]byte(b[8:24]) != p.id ||
		le.Uint64(b[24:]) != p.segment || le.Uint32(b[48:]) != p.page {
		return header{}, errNoBlock
	}
	if crc32.Checksum(b[:68], castagnoli) != le.Uint32(b[68:]) {
		return header{}, errHeaderCRC
	}
	flags := le.Uint16(b[6:])
	h := header{
		id: p.id, segment: p.segment, page: p.page,
		first: LSN(le.Uint64(b[32:])), synced: LSN(le.Uint64(b[40:])),
		count: le.Uint32(b[52:]), raw: le.Uint32(b[56:]), stored: le.Uint32(b[60:]),
		zstd: flags&flagZstd != 0, sum: le.Uint32(b[64:]),
	}
	if v := le.Uint16(b[4:]); v != blockVersion || flags&^flagZstd != 0 {
		return header{}, fmt.Errorf("block version %d, flags %#x: written by a newer tpcfs?", v, flags)
	}
	return h, h.check()
}

// check bounds every length before anything is allocated or read (J5).
func (h *header) check() error {
	switch {
	case h.raw > maxRaw || h.stored > h.raw || h.count > h.raw:
		return fmt.Errorf("lengths out of bounds: %d records, %d bytes raw, %d stored", h.count, h.raw, h.stored)
	case (h.count == 0) != (h.raw == 0), h.zstd != (h.stored < h.raw):
		return fmt.Errorf("lengths contradict each other: %d records, %d bytes raw, %d stored", h.count, h.raw, h.stored)
	case h.first == 0 || h.first > maxLSN || h.synced >= h.first,
		h.count == 0 && (h.synced == 0 || h.synced != h.first-1): // an empty block is there to promise
		return fmt.Errorf("first LSN %d, synced LSN %d", h.first, h.synced)
	}
	return nil
}

// maxLSN leaves room above, so that adding a block's count cannot overflow.
const maxLSN LSN = 1 << 62

// checkPayload compares the stored payload with its checksum.
func (h *header) checkPayload(payload []byte) error {
	if crc32.Checksum(payload, castagnoli) != h.sum {
		return errors.New("payload checksum is wrong")
	}
	return nil
}

// decode returns the raw payload of a block whose checksums were verified. It
// is payload itself or lies in buf, which it may replace.
func (h *header) decode(payload []byte, buf *[]byte) ([]byte, error) {
	if !h.zstd {
		return payload, nil
	}
	if cap(*buf) < int(h.raw) {
		*buf = make([]byte, h.raw)
	}
	raw, err := decoder.DecodeAll(payload, (*buf)[:0:h.raw])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(raw) != int(h.raw) {
		return nil, fmt.Errorf("decompressed to %d bytes, want %d", len(raw), h.raw)
	}
	return raw, nil
}

// appendRecord appends a record's framing and bytes to a raw payload.
func appendRecord(raw, record []byte) []byte {
	raw = binary.AppendUvarint(raw, uint64(len(record)))
	return append(raw, record...)
}

// framedLength is what appendRecord adds, in bytes.
func framedLength(record []byte) int {
	n := 1
	for v := len(record) >> 7; v > 0; v >>= 7 {
		n++
	}
	return n + len(record)
}

// eachRecord calls fn for every record in a raw payload; the slices are parts
// of raw. It checks all framing before the first call.
func (h *header) eachRecord(raw []byte, fn func(lsn LSN, record []byte) error) error {
	rest := raw
	for range h.count {
		n, w := binary.Uvarint(rest)
		if w <= 0 || n > MaxRecord || n > uint64(len(rest)-w) {
			return errFraming
		}
		rest = rest[w+int(n):]
	}
	if len(rest) > 0 {
		return errFraming
	}
	for i := range h.count {
		n, w := binary.Uvarint(raw)
		end := w + int(n)
		if err := fn(h.first+LSN(i), raw[w:end:end]); err != nil {
			return err
		}
		raw = raw[end:]
	}
	return nil
}

var errFraming = errors.New("records do not fill the block")

// The identity file: 64 bytes, written once, before the journal is used.
//
//	 0          8          12               16                  32
//	+----------+----------+----------------+-------------------+
//	| "TPJRNAL1"          | page size      | journal id        |
//	|            8 bytes  | 8..12, 0 12..16| 16..32            |
//	+---------------------+----------------+---------+---------+
//	| segment size 32..40 | zeros 40..60             | CRC32C  |
//	+---------------------+--------------------------+---------+
const (
	identMagic = "TPJRNAL1"
	identSize  = 64
)

func encodeIdent(id [16]byte, segmentSize int64) []byte {
	b := make([]byte, identSize)
	copy(b, identMagic)
	binary.LittleEndian.PutUint32(b[8:], pageSize)
	copy(b[16:], id[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(segmentSize))
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func decodeIdent(b []byte) (id [16]byte, segmentSize int64, err error) {
	if len(b) != identSize {
		return id, 0, fmt.Errorf("%d bytes long, want %d", len(b), identSize)
	}
	if string(b[:8]) != identMagic {
		return id, 0, errors.New("not a journal's identity file, or of a newer version")
	}
	if crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]) {
		return id, 0, errors.New("checksum is wrong")
	}
	segmentSize = int64(binary.LittleEndian.Uint64(b[32:]))
	if err := checkSegmentSize(segmentSize); err != nil || binary.LittleEndian.Uint32(b[8:]) != pageSize {
		return id, 0, errors.New("page or segment size out of bounds")
	}
	return [16]byte(b[16:32]), segmentSize, nil
}
