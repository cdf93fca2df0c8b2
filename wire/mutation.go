package wire

// MutationKind says what a mutation does. Numbers are on disk: append only.
type MutationKind uint8

// The mutations. Those from MutLink on are reserved numbers: a participant
// that meets a kind that it does not know refuses the transaction.
const (
	MutWriteFile MutationKind = iota + 1
	MutDeleteFile
	MutMkdir
	MutRmdir
	MutRename
	MutSymlink
	MutSetattr
	MutLink
	MutMknod
	MutSetxattr
	MutRemovexattr
	MutCreateUnlinked
	MutAllocate
	MutPunchHole
	MutZeroRange
	MutReclaim
)

// CreateMode says whether a writeFile's file may or must exist before.
type CreateMode uint8

// The create modes. MayExist is the default.
const (
	MayExist CreateMode = iota
	MustExist
	MustNotExist
)

// SetMask says which attributes a setattr sets.
type SetMask uint16

// The attributes that MutSetattr can set. A time whose *Now bit is set is the
// transaction's own time.
const (
	SetMode SetMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetAtimeNow
	SetMtime
	SetMtimeNow
)

// Permission and type bits of Mode: those of stat(2).
const (
	ModeType    = 0o170000
	ModeDir     = 0o040000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
	ModePerm    = 0o007777
)

// Mutation is one change. Which fields count depends on Kind:
//
//	writeFile   At, Create, Mode, UID, GID (of a new file), Content.
//	            A file that exists keeps its inode, mode and owner. A symbolic
//	            link as the last component answers CodeSymlink.
//	deleteFile  At (the last component is not followed).
//	mkdir       At, Mode, UID, GID.
//	rmdir       At.
//	rename      At -> To; replaces a file by a file, an empty directory by a directory.
//	symlink     At, Target, UID, GID.
//	setattr     At (not followed), Set and what it names.
type Mutation struct {
	Kind MutationKind `cbor:"1,keyasint"`
	At   At           `cbor:"2,keyasint"`
	To   At           `cbor:"3,keyasint,omitempty"`

	// IfVersion, if not 0: the version that the file (At) must still have.
	IfVersion ID         `cbor:"4,keyasint,omitempty"`
	Create    CreateMode `cbor:"5,keyasint,omitempty"`

	Mode   uint32 `cbor:"6,keyasint,omitempty"` // permission bits
	UID    uint32 `cbor:"7,keyasint,omitempty"`
	GID    uint32 `cbor:"8,keyasint,omitempty"`
	Target string `cbor:"9,keyasint,omitempty"`

	Set   SetMask `cbor:"10,keyasint,omitempty"`
	Size  int64   `cbor:"11,keyasint,omitempty"` // bytes
	Atime int64   `cbor:"12,keyasint,omitempty"` // nanoseconds since 1970
	Mtime int64   `cbor:"13,keyasint,omitempty"`

	Content Content `cbor:"14,keyasint,omitempty"`
}

// Content is the whole new contents of a file. With Stage 0 the bytes are the
// next Size bytes of the transaction's payload (mutations in their order);
// else they are the staged object of that id.
type Content struct {
	Size  int64  `cbor:"1,keyasint,omitempty"` // bytes
	Stage ID     `cbor:"2,keyasint,omitempty"`
	Sum   uint32 `cbor:"3,keyasint,omitempty"` // CRC32C of the payload's bytes, made where they came from (G7); with Stage: of the object's block checksums as StageReply says
}

// Transact is a client's request to commit a list of mutations as one.
type Transact struct {
	Op OpID `cbor:"1,keyasint"`
	// Link is the number that Attach gave to the connection it comes by: a
	// request of a replaced link is refused (W5).
	Link uint64 `cbor:"2,keyasint"`
	// Lowest is the session's lowest sequence number without an answer: the
	// outcomes of those below are forgotten (W5).
	Lowest uint64 `cbor:"3,keyasint"`
	// Sent is the service time, in milliseconds, at which the request was
	// first sent (S1a).
	Sent int64 `cbor:"4,keyasint"`
	// Wait is how long the request may wait, in milliseconds; 0 is forever (W3).
	Wait      int64      `cbor:"5,keyasint,omitempty"`
	Mutations []Mutation `cbor:"6,keyasint"`
}

// Outcome is what became of a transaction that committed.
type Outcome struct {
	Tx      ID       `cbor:"1,keyasint"`
	Results []Result `cbor:"2,keyasint,omitempty"` // one a mutation
}

// Result is what one mutation did.
type Result struct {
	Ino     Ino  `cbor:"1,keyasint"`           // the file: new, or the one found
	Created bool `cbor:"2,keyasint,omitempty"` // Ino is new
	// Offset is where an append began, in bytes.
	Offset int64 `cbor:"3,keyasint,omitempty"`
}

// TransactReply answers a Transact that committed.
type TransactReply struct {
	Outcome     Outcome `cbor:"1,keyasint"`
	ServiceTime int64   `cbor:"2,keyasint"` // milliseconds
}
