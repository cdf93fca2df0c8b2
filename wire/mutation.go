package wire

// MutationKind says what a mutation does. Numbers are on disk: append only.
type MutationKind uint8

// The mutations. A participant that meets a kind that it does not know refuses
// the transaction.
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

// WriteMode says what a writeFile does with what the file holds already.
type WriteMode uint8

// The write modes.
const (
	WriteWhole   WriteMode = iota // Content is all that the file holds from now on
	WriteExtents                  // Extents go where they say, the rest stays
	WriteAppend                   // ... where the file ends when the transaction is put
)

// RenameMode says what a rename does when To exists.
type RenameMode uint8

// The rename modes, as of renameat2(2).
const (
	RenameReplace RenameMode = iota
	RenameNoReplace
	RenameExchange // At and To must both exist
)

// XattrMode says whether an extended attribute may or must exist before.
type XattrMode uint8

// The modes of MutSetxattr, as of setxattr(2).
const (
	XattrEither XattrMode = iota
	XattrCreate
	XattrReplace
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
	ModeFifo    = 0o010000
	ModeChar    = 0o020000
	ModeBlock   = 0o060000
	ModeSocket  = 0o140000
	ModePerm    = 0o007777
)

// Mutation is one change. Which fields count depends on Kind:
//
//	writeFile   At, Create, Mode, UID, GID (of a new file), Write, and then
//	            Content (WriteWhole) or Extents. With WriteExtents and SetSize
//	            in Set, the file first gets Size, cut or with a hole at its
//	            end; extents do not overlap and are in the order of offsets.
//	            A file that exists keeps its inode, mode and owner. A symbolic
//	            link as the last component answers CodeSymlink.
//	deleteFile  At (the last component is not followed); Hold.
//	mkdir       At, Mode, UID, GID.
//	rmdir       At.
//	rename      At -> To as Rename says; replaces a file by a file, an empty
//	            directory by a directory; Hold is about the file replaced.
//	symlink     At, Target, UID, GID.
//	setattr     At (not followed), Set and what it names.
//	link        At (not followed, no directory) gets the name To as well. An
//	            inode without a name, made by createUnlinked and held, may get one.
//	mknod       At, Mode with its type (regular, fifo, socket, character or
//	            block device), Rdev, UID, GID.
//	setxattr    At (not followed), Name, Value, Xattr.
//	removexattr At (not followed), Name.
//	createUnlinked  At is a directory: a regular file Mode, UID, GID as if made
//	            in it, without a name; Hold is implied.
//	allocate    At, Offset, Length: the range holds data from now on, zeros
//	            where there was a hole; the file grows to its end unless KeepSize.
//	punchHole   At, Offset, Length: the range is a hole; the size stays.
//	zeroRange   At, Offset, Length: as allocate, and all of it is zeros.
//	reclaim     At {inode, ""}: an inode without a name goes, if it has none
//	            still. The coordinator's own, and, alone in a transaction, its
//	            session's.
//
// Hold: the last name gone, the inode stays without one (nlink 0) until it is
// reclaimed: somebody has it open (F7).
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

	Write   WriteMode  `cbor:"15,keyasint,omitempty"`
	Extents []Extent   `cbor:"16,keyasint,omitempty"`
	Hold    bool       `cbor:"17,keyasint,omitempty"`
	Rename  RenameMode `cbor:"18,keyasint,omitempty"`
	Rdev    uint32     `cbor:"19,keyasint,omitempty"`

	Name  string    `cbor:"20,keyasint,omitempty"` // of an extended attribute
	Value []byte    `cbor:"21,keyasint,omitempty"` // at most MaxXattrValue bytes
	Xattr XattrMode `cbor:"22,keyasint,omitempty"`

	Offset   int64 `cbor:"23,keyasint,omitempty"` // bytes
	Length   int64 `cbor:"24,keyasint,omitempty"` // bytes, above 0
	KeepSize bool  `cbor:"25,keyasint,omitempty"`

	// IfIno, if not 0: the inode that a deleteFile's At, or a rename's To, must
	// name still; else CodeVersion.
	IfIno Ino `cbor:"26,keyasint,omitempty"`

	// Ctime, if not 0, in nanoseconds since 1970: when the client's user made the
	// change, of a writeFile of a file that exists, or of a setattr, by the
	// coordinator's clock (ChangeTime).
	Ctime int64 `cbor:"27,keyasint,omitempty"`
}

// MaxCtimeOff bounds how long before the transaction's time Ctime may be, in
// nanoseconds: what is gathered waits for its commit. Earlier ones would hide
// changes from those who look for what has changed since.
const MaxCtimeOff = 60 * 1_000_000_000

// ChangeTime is the time of a change by a transaction of time tx to a file that
// had the ctime was before it: its ctime, and the mtime of its contents, unless
// they are later. It is Ctime where that is after was, and a little before tx,
// and else tx: no file's ctime is after the time of its last transaction, so
// the next one's is later, whatever clients' clocks say.
func (m *Mutation) ChangeTime(was, tx int64) int64 {
	if m.Ctime > max(was, 0) && m.Ctime <= tx && tx-m.Ctime <= MaxCtimeOff {
		return m.Ctime
	}
	return tx
}

// Extent is a part of a file's new contents. Its bytes are where Content's
// would be.
type Extent struct {
	Offset int64  `cbor:"1,keyasint,omitempty"` // bytes; with WriteAppend: from the file's end
	Size   int64  `cbor:"2,keyasint"`           // bytes, above 0
	Stage  ID     `cbor:"3,keyasint,omitempty"`
	Sum    uint32 `cbor:"4,keyasint,omitempty"` // as Content.Sum
}

// Content is the whole new contents of a file. With Stage 0 the bytes are the
// next Size bytes of the transaction's payload (mutations in their order);
// else they are the staged object of that id.
type Content struct {
	Size  int64  `cbor:"1,keyasint,omitempty"` // bytes
	Stage ID     `cbor:"2,keyasint,omitempty"`
	Sum   uint32 `cbor:"3,keyasint,omitempty"` // CRC32C of the payload's bytes, made where they came from (G7); with Stage: of the object's block checksums as StageReply says
}

// Cost is about what the mutation takes in memory, in bytes; what it has beside
// its fixed fields is not encoded in more.
func (m *Mutation) Cost() int {
	return mutationCost + len(m.At.Path) + len(m.To.Path) + len(m.Target) + len(m.Name) + len(m.Value) + extentCost*len(m.Extents)
}

const (
	mutationCost = 256
	extentCost   = 40
)

// Stages are the staged objects that the mutation names.
func (m *Mutation) Stages() []ID {
	var ids []ID
	if m.Content.Stage != 0 {
		ids = append(ids, m.Content.Stage)
	}
	for i := range m.Extents {
		if id := m.Extents[i].Stage; id != 0 {
			ids = append(ids, id)
		}
	}
	return ids
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
	// Pack, if not nil, holds the mutations and their inline contents; then
	// Mutations is empty and there is no payload.
	Pack *Pack `cbor:"7,keyasint,omitempty"`
	// Behind, if not nil, has it wait for the transaction that has aborted the
	// attempt before (F5).
	Behind *Behind `cbor:"8,keyasint,omitempty"`
}

// Behind is the place of a retry: parked at the coordinator until the transaction
// that was in its way is decided, then put before all that came later. Who is
// parked behind the same transaction, because of the same lock, is put one after the
// other, each when the one before is decided.
type Behind struct {
	Tx  ID     `cbor:"1,keyasint"` // Error.Blocker
	Key uint64 `cbor:"2,keyasint"` // Error.Key
	// Patience is how long it is parked at most, in milliseconds of service time,
	// before it is refused with CodeConflict; 0: as long as the request may wait.
	// In an outage that stands still, and it waits as any change does.
	Patience int64 `cbor:"3,keyasint,omitempty"`
}

// Pack is a staged object that holds what is too much for a PREPARE: the
// mutations of a large transaction with the contents of its small files.
type Pack struct {
	Stage ID     `cbor:"1,keyasint"`
	Size  int64  `cbor:"2,keyasint"` // bytes, at most MaxPack
	Sum   uint32 `cbor:"3,keyasint"` // StageReply.Sum
	Count int    `cbor:"4,keyasint"` // mutations, at most MaxMutations
	// Stages are those that its mutations name, each once, in their order.
	Stages []ID   `cbor:"5,keyasint,omitempty"`
	Name   string `cbor:"6,keyasint,omitempty"` // what it is about, for status and errors
}

// Outcome is what became of a transaction that committed.
type Outcome struct {
	Tx      ID       `cbor:"1,keyasint"`
	Results []Result `cbor:"2,keyasint,omitempty"` // one a mutation
	// Orphans are the inodes that it left without a name, held by the session
	// until the coordinator reclaims them (Hold, F7).
	Orphans []Ino `cbor:"3,keyasint,omitempty"`
	// Touched is what it has changed, where the reply has told that: it is no
	// part of what is kept for retries (F9).
	Touched *Touched `cbor:"-"`
	// Alone and Time are those of TransactReply, no part of what is kept either.
	Alone bool  `cbor:"-"`
	Time  int64 `cbor:"-"`
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
	// Touched is what was changed; nil: not known any more (F9).
	Touched *Touched `cbor:"3,keyasint,omitempty"`
	// Alone: no other session may have open what it has left without a name (F7).
	Alone bool `cbor:"4,keyasint,omitempty"`
	// Time, in nanoseconds since 1970, is that of what it has made and changed;
	// 0: not known any more.
	Time int64 `cbor:"5,keyasint,omitempty"`
}
