// Package journal is a write-ahead log of opaque records, kept in segments of
// blocks with checksums (J1).
//
// A Log is synchronous: no goroutine, no timer, one user at a time, and what
// it does depends only on its calls and its file system. A Writer runs a Log
// in one goroutine and adds group commit (J2).
//
// The caller's duties:
//
//   - One process at a time: the directory is not locked here (S4).
//   - A *CorruptError from Open means that synced records may be missing; the
//     journal is left as it was found. An owner that can get its state from
//     elsewhere starts a new journal in another directory.
//   - What is missing at the old end cannot be seen here: compare First with
//     what was made durable elsewhere. A loss of the very last block can be
//     seen only if Seal was called after it.
//   - After a *FailedError nothing is durable beyond Synced: exit without
//     answering, and let the next Open read what the disk has (P12, J3).
//   - After a *FullError nothing is lost: free space and Flush again, or exit.
package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"syscall"

	"tpcfs/journal/disk"
)

// LSN is the number of a record. The first is 1; 0 is none.
type LSN uint64

// Bounds of Options.SegmentSize, in bytes.
const (
	MinSegmentSize     = 2 * pageSize
	MaxSegmentSize     = 1 << 30
	DefaultSegmentSize = 16 << 20
)

// Options says where a journal lies and how it grows.
type Options struct {
	FS  disk.FS
	Dir string

	// SegmentSize is the size of a new journal's segments in bytes, a
	// multiple of 4 KiB; default 16 MiB. An existing journal keeps the size
	// that it was made with.
	SegmentSize int64

	// Spare is how many ready segments are kept ahead: the reserve for a
	// full disk and what keeps the making of segments off the path of a
	// sync. Default 1.
	Spare int

	// MaxSpare is up to how many cut segments are kept to be used again,
	// which costs a rename in place of writing SegmentSize bytes of zeros.
	// Default 4, at least Spare.
	MaxSpare int

	// MaxPending is how many bytes of records may wait to be written before
	// Writer.WaitRoom waits; default 16 MiB. Append itself never refuses.
	MaxPending int64

	// ID names a new journal; random if zero. Simulations set it.
	ID [16]byte
}

func (o *Options) validate() error {
	if o.FS == nil || o.Dir == "" {
		return errors.New("journal: no file system or no directory")
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if err := checkSegmentSize(o.SegmentSize); err != nil {
		return err
	}
	if o.Spare == 0 {
		o.Spare = 1
	}
	if o.MaxSpare == 0 {
		o.MaxSpare = max(4, o.Spare)
	}
	if o.Spare < 0 || o.Spare > 64 || o.MaxSpare < o.Spare || o.MaxSpare > 1024 {
		return fmt.Errorf("journal: %d spare segments, at most %d: want 1 to 64, and 1024", o.Spare, o.MaxSpare)
	}
	if o.MaxPending == 0 {
		o.MaxPending = 16 << 20
	}
	if o.MaxPending < 0 {
		return fmt.Errorf("journal: %d bytes pending", o.MaxPending)
	}
	if o.ID == [16]byte{} {
		if _, err := rand.Read(o.ID[:]); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}

func checkSegmentSize(n int64) error {
	if n < MinSegmentSize || n > MaxSegmentSize || n%pageSize != 0 {
		return fmt.Errorf("journal: segments of %d bytes: want %d to %d, a multiple of %d",
			n, MinSegmentSize, MaxSegmentSize, pageSize)
	}
	return nil
}

// maxRawFor is the largest raw payload of a block in segments of that size.
func maxRawFor(segmentSize int64) int { return int(min(maxRaw, segmentSize-headerSize)) }

// maxRecordFor is the largest record of a journal with segments of that size.
// A record's framing is at most 3 bytes.
func maxRecordFor(segmentSize int64) int { return min(MaxRecord, maxRawFor(segmentSize)-3) }

// CorruptError says that the journal on disk is not what was once synced.
type CorruptError struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"` // bytes
	Reason string `json:"reason"`
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: corrupt at offset %d: %s", e.File, e.Offset, e.Reason)
}

// FailedError is sticky and fatal (P12): a write or a sync has failed, and
// nothing that was not durable before ever will be. errors.Is never finds
// ENOSPC in it: space that ran out under a sync is no reason to go on.
type FailedError struct {
	Op   string
	File string
	Err  error
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("journal failed: %s %s: %v", e.Op, e.File, e.Err)
}

// Unwrap returns Err, unless that is ENOSPC.
func (e *FailedError) Unwrap() error {
	if isFull(e.Err) {
		return nil
	}
	return e.Err
}

// FullError says that the disk has no room for another segment. It is not
// sticky: every record is kept in memory, and the next Flush tries again.
// errors.Is finds ENOSPC in it.
type FullError struct{ Err error }

func (e *FullError) Error() string { return fmt.Sprintf("journal cannot grow: %v", e.Err) }

// Unwrap gives ENOSPC, for a quota too.
func (e *FullError) Unwrap() []error { return []error{e.Err, syscall.ENOSPC} }

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Errors of wrong use.
var (
	// ErrClosed is the answer of everything after Close.
	ErrClosed = errors.New("journal is closed")
	// ErrTooLarge refuses a record above MaxRecord.
	ErrTooLarge = errors.New("journal record is too large")
	// ErrCut is Replay's answer for records that Cut has recycled.
	ErrCut = errors.New("journal no longer has these records")
)

// Stats describes a journal at one moment.
type Stats struct {
	ID           [16]byte `json:"-"`
	First        LSN      `json:"first"`         // oldest record kept; End+1 if none
	End          LSN      `json:"end"`           // last record appended
	Synced       LSN      `json:"synced"`        // last record durable
	Segments     int      `json:"segments"`      // holding records, or being written to
	Spares       int      `json:"spares"`        // ready ahead; 0: the reserve is missing (S6)
	SegmentBytes int64    `json:"segment_bytes"` // size of one segment
	Bytes        int64    `json:"bytes"`         // size of Segments together
	ActiveBytes  int64    `json:"active_bytes"`  // written in the newest segment
	PendingBytes int64    `json:"pending_bytes"` // appended and not yet written
	Full         bool     `json:"full"`          // SegmentFull
	SpareError   string   `json:"spare_error,omitempty"`

	// Since Open.
	Records     uint64 `json:"records"`      // written
	Blocks      uint64 `json:"blocks"`       // written, empty ones too
	Syncs       uint64 `json:"syncs"`        // of segments in use
	RawBytes    uint64 `json:"raw_bytes"`    // before compression
	StoredBytes uint64 `json:"stored_bytes"` // as written, with headers and padding
}

// Recovery tells what Open found behind the last whole block (J3).
type Recovery struct {
	TornFile   string `json:"torn_file,omitempty"` // "" if nothing was torn
	TornOffset int64  `json:"torn_offset"`
	TornBytes  int64  `json:"torn_bytes"`
	Copy       string `json:"copy,omitempty"`       // where the torn bytes were kept
	CopyError  string `json:"copy_error,omitempty"` // why they were not: the disk is full
}
