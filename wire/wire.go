// Package wire holds the words that clients, the coordinator and participants
// say to each other: identifiers, mutations, reads, the entries of the
// transaction stream, the one error type, and the service contracts that
// servers, stubs and in-process callers implement alike.
//
// The package is pure: bytes to structs and back. Sockets are in wire/rpc.
package wire

import (
	"cmp"
	"encoding/hex"
	"fmt"
)

// Limits on the wire and in the journals (DESIGN.md section 4). Every one is
// checked before anything is allocated or staged.
const (
	BlockSize       = 64 << 10  // bytes that one contents checksum covers
	PieceSize       = 128 << 10 // bytes of contents in one frame (W1a)
	MaxInline       = 64 << 10  // contents that travel inside a prepare, bytes a transaction
	MaxMutations    = 65536     // mutations of one transaction
	MaxPack         = 64 << 20  // bytes of a staged pack
	MaxExtents      = 4096      // extents of one writeFile
	MaxXattrValue   = 64 << 10  // bytes
	MaxXattrNames   = 64 << 10  // bytes of all names of a file's extended attributes, each with a NUL
	MaxBindings     = 768 << 10 // bytes of a PREPARE record without its payload
	MaxRecord       = 1 << 20   // bytes of any journal record
	MaxFrame        = MaxRecord + 64<<10
	MaxTransact     = MaxRecord - 8<<10 // bytes of an encoded Transact without its payload; leaves room for what a prepare adds
	MaxFileSize     = 16<<40 - 4<<10
	MaxRange        = 128 << 30      // bytes of one allocate or zeroRange: each 16 MiB of it are a row of checksums
	MaxNameLen      = 255            // bytes of one path component
	MaxPathLen      = 4096           // bytes of At.Path and of a symbolic link's target
	MaxSymlinks     = 40             // links followed by the client side for one name
	MaxListEntries  = 1000           // entries in one page of a listing
	ServiceTimeHold = 10 * 60 * 1000 // age of a request, in ms of service time, beyond which its outcome is unknown (S1a)
)

// RootIno is the number of the root directory.
const RootIno Ino = 1

// Ino is an inode number; never reused. A new inode's number is its
// transaction's id plus the mutation's index.
type Ino uint64

// ID is what transactions, new inodes and stages are numbered with:
// epoch << 40 | counter, below 2^63. A transaction reserves max(1, number of
// mutations) consecutive ones.
type ID uint64

// MakeID returns the id with that counter in that epoch.
func MakeID(epoch, counter uint64) ID { return ID(epoch<<40 | counter) }

// Epoch returns the number of the epoch that gave the id.
func (id ID) Epoch() uint64 { return uint64(id) >> 40 }

func (id ID) String() string { return fmt.Sprintf("%d.%d", id.Epoch(), uint64(id)&(1<<40-1)) }

// Position names an entry of the transaction streams: the Index-th (from 1)
// of the epoch with that number. Index 0 is the greeting itself.
type Position struct {
	Epoch uint64 `cbor:"1,keyasint" json:"epoch"`
	Index uint64 `cbor:"2,keyasint" json:"index"`
}

// Compare orders positions: negative when p comes before q.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Epoch, q.Epoch); c != 0 {
		return c
	}
	return cmp.Compare(p.Index, q.Index)
}

// Before reports whether p comes before q.
func (p Position) Before(q Position) bool { return p.Compare(q) < 0 }

func (p Position) String() string { return fmt.Sprintf("%d.%d", p.Epoch, p.Index) }

// UUID is 128 bits: a participant's storage, a coordinator's run, a cluster.
type UUID [16]byte

func (u UUID) String() string { return hex.EncodeToString(u[:]) }

// MarshalText makes u readable in JSON.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (u *UUID) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(u)) {
		return &Error{Code: CodeInvalid, Text: "a UUID is 32 hexadecimal digits"}
	}
	_, err := hex.Decode(u[:], b)
	return err
}

// IsZero reports whether u was never set.
func (u UUID) IsZero() bool { return u == UUID{} }

// Epoch is a coordinator's reign: two reigns of one number differ in Run (P6).
type Epoch struct {
	Number uint64 `cbor:"1,keyasint" json:"number"`
	Run    UUID   `cbor:"2,keyasint" json:"run"`
}

// SessionID is a client's 128 random bits, kept over reconnects.
type SessionID [16]byte

func (s SessionID) String() string { return hex.EncodeToString(s[:]) }

// MarshalText makes s readable in JSON.
func (s SessionID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// OpID is a client's name for one request, kept over retries (G5). Seq counts from 1.
type OpID struct {
	Session SessionID `cbor:"1,keyasint"`
	Seq     uint64    `cbor:"2,keyasint"`
}

func (o OpID) String() string { return fmt.Sprintf("%s/%d", o.Session, o.Seq) }

// ConfigID names a config: the Counter-th of that epoch.
type ConfigID struct {
	Epoch   uint64 `cbor:"1,keyasint" json:"epoch"`
	Counter uint64 `cbor:"2,keyasint" json:"counter"`
}

// Compare orders config ids: negative when c is older than d.
func (c ConfigID) Compare(d ConfigID) int {
	return Position{c.Epoch, c.Counter}.Compare(Position{d.Epoch, d.Counter})
}

func (c ConfigID) String() string { return fmt.Sprintf("%d.%d", c.Epoch, c.Counter) }

// Member is a configured participant.
type Member struct {
	Name    string `cbor:"1,keyasint"`
	Addr    string `cbor:"2,keyasint"`
	Storage UUID   `cbor:"3,keyasint"`
	// Flag is the address that the coordinator's command line gave last: one that
	// it gives anew counts, the same again does not go before Addr (P8).
	Flag string `cbor:"4,keyasint,omitempty"`
}

// Config is the configured set and the names of those that are in sync.
type Config struct {
	ID         ConfigID `cbor:"1,keyasint"`
	Cluster    UUID     `cbor:"2,keyasint"`
	Configured []Member `cbor:"3,keyasint"`
	InSync     []string `cbor:"4,keyasint"`
	// Removed are participants that were taken out by an operator, the last
	// MaxRemoved; Edits what operators have changed, the last MaxEdits (P14).
	Removed []Removed `cbor:"5,keyasint,omitempty"`
	Edits   []Edit    `cbor:"6,keyasint,omitempty"`
}

// At names a file as openat(2) does: a path relative to a directory's inode.
// {ino, ""} is the inode itself. Components are 1-255 bytes without NUL and
// '/'; "." and ".." are refused.
type At struct {
	Dir  Ino    `cbor:"1,keyasint,omitempty"`
	Path string `cbor:"2,keyasint,omitempty"`
}

func (a At) String() string {
	switch {
	case a.Path == "":
		return fmt.Sprintf("inode %d", a.Dir)
	case a.Dir == RootIno:
		return a.Path
	default:
		return fmt.Sprintf("inode %d/%s", a.Dir, a.Path)
	}
}
