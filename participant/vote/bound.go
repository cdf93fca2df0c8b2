package vote

import "tpcfs/wire"

// Bound is a mutation whose names are resolved to inode numbers: what a
// PREPARE record carries and what the store applies, with nothing looked up
// but the rows that it changes. Which fields count depends on Kind:
//
//	writeFile   Ino gets Content, or, as Write says, after a cut to Size if Set
//	            says so, Extents. With Created: a new regular file Mode, UID,
//	            GID, entered as (Dir, Name).
//	deleteFile  the entry (Dir, Name) goes, Ino loses a link; at none it goes too.
//	mkdir       new directory Ino entered as (Dir, Name).
//	rmdir       the entry (Dir, Name) and the directory Ino go.
//	rename      (Dir, Name) -> (ToDir, ToName) for Ino; Replaced, if not 0,
//	            loses that name as in deleteFile or rmdir. Both names being
//	            links to one file, nothing is done (rename(2)).
//	symlink     new link Ino to Target entered as (Dir, Name).
//	setattr     Set on Ino. A Size change carries Tail.
//	link        Ino entered as (Dir, Name) too. Orphan: it had no name.
//	mknod       new file Ino, Mode with its type and Rdev, entered as (Dir, Name).
//	setxattr    Ino gets the extended attribute Xattr with Value.
//	removexattr Ino loses the extended attribute Xattr.
//	createUnlinked  new regular file Ino without a name, an orphan.
//	reclaim     Orphan: Ino goes. Else nothing is done: it has a name.
//
// With Exchange a rename changes the places of Ino and Replaced. With Hold a
// file whose last name goes stays, as an orphan of Tx.Op.Session (F7).
//
//	allocate, punchHole, zeroRange  [Offset, Offset+Length) of Ino, which has
//	            Size bytes then; Length may be 0.
//
// Times: a changed file's ctime (and mtime, when contents change), and the
// mtime and ctime of every directory that gains or loses an entry, become the
// larger of what they were and the transaction's time, so that decisions in
// another order than ids give the same rows everywhere. An mtime that a setattr has
// set to a time after its own the first such change replaces with its time, be it
// earlier: who sets times is alone (P1), and of the changes then the order does not
// matter. In place of that time
// stands Ctime, if it is not 0: what the file's own was counts when it is bound,
// not when it is applied, as a rename, which does not lock the inode, may come
// between. Directories' entry
// counts and link counts change by one, up or down (P1: commutative).
type Bound struct {
	Kind     wire.MutationKind `cbor:"1,keyasint"`
	Ino      wire.Ino          `cbor:"2,keyasint"`
	Created  bool              `cbor:"3,keyasint,omitempty"`
	IsDir    bool              `cbor:"4,keyasint,omitempty"` // rename: Ino is a directory
	Dir      wire.Ino          `cbor:"5,keyasint,omitempty"`
	Name     string            `cbor:"6,keyasint,omitempty"`
	ToDir    wire.Ino          `cbor:"7,keyasint,omitempty"`
	ToName   string            `cbor:"8,keyasint,omitempty"`
	Replaced wire.Ino          `cbor:"9,keyasint,omitempty"`

	Mode   uint32 `cbor:"10,keyasint,omitempty"` // permission bits, set-gid inheritance done
	UID    uint32 `cbor:"11,keyasint,omitempty"`
	GID    uint32 `cbor:"12,keyasint,omitempty"`
	Target string `cbor:"13,keyasint,omitempty"`

	Set   wire.SetMask `cbor:"14,keyasint,omitempty"`
	Size  int64        `cbor:"15,keyasint,omitempty"` // bytes
	Atime int64        `cbor:"16,keyasint,omitempty"` // nanoseconds since 1970
	Mtime int64        `cbor:"17,keyasint,omitempty"`
	Tail  *Tail        `cbor:"18,keyasint,omitempty"`

	// Content of a writeFile: staged, or the next Content.Size bytes of the
	// transaction's payload.
	Content wire.Content `cbor:"19,keyasint,omitempty"`

	Hold     bool   `cbor:"20,keyasint,omitempty"`
	Exchange bool   `cbor:"21,keyasint,omitempty"`
	Orphan   bool   `cbor:"22,keyasint,omitempty"`
	Rdev     uint32 `cbor:"23,keyasint,omitempty"`
	Xattr    string `cbor:"24,keyasint,omitempty"` // name of an extended attribute
	Value    []byte `cbor:"25,keyasint,omitempty"` // its value
	// Xattrs is the number of extended attributes that go with the file that
	// goes: rows of the table (S3).
	Xattrs  int            `cbor:"26,keyasint,omitempty"`
	Write   wire.WriteMode `cbor:"30,keyasint,omitempty"`
	Extents []wire.Extent  `cbor:"31,keyasint,omitempty"` // offsets are the file's, of an append too
	Offset  int64          `cbor:"32,keyasint,omitempty"` // bytes
	Length  int64          `cbor:"33,keyasint,omitempty"` // bytes
	// Sums of the blocks whose checksums do not follow from the new bytes.
	Sums []BlockSum `cbor:"34,keyasint,omitempty"`
	// Room is how much more of the disk the contents may take, in bytes.
	Room int64 `cbor:"35,keyasint,omitempty"`
	// Ctime is Mutation.ChangeTime, if that is not the transaction's time.
	Ctime int64 `cbor:"36,keyasint,omitempty"` // nanoseconds since 1970
}

// BlockSum is the checksum that a block, written in part or cut, has after the
// mutation (S5); Bad as in Tail.
type BlockSum struct {
	Block int64  `cbor:"1,keyasint,omitempty"` // number in the file
	Sum   uint32 `cbor:"2,keyasint,omitempty"`
	Bad   bool   `cbor:"3,keyasint,omitempty"`
}

// Tail is the checksum that the block which holds a file's new end will have
// (S5): made at the prepare from verified bytes, so that a redo never reads
// the disk. Bad: the block was rotten already; reads will answer corrupt.
type Tail struct {
	Sum uint32 `cbor:"1,keyasint"`
	Bad bool   `cbor:"2,keyasint,omitempty"`
}

// Tx is a prepared transaction, as PREPARE records hold it.
type Tx struct {
	ID       wire.ID       `cbor:"1,keyasint"`
	Prepared wire.Position `cbor:"2,keyasint"` // of its PREPARE
	Op       wire.OpID     `cbor:"3,keyasint"`
	Lowest   uint64        `cbor:"4,keyasint"` // op ids of the session below it are forgotten at the commit
	Time     int64         `cbor:"5,keyasint"` // nanoseconds since 1970
	// ServiceTime, in ms, at the prepare; op-id rows expire by it (S1a).
	ServiceTime int64        `cbor:"6,keyasint"`
	Outcome     wire.Outcome `cbor:"7,keyasint"`
	Bounds      []Bound      `cbor:"8,keyasint,omitempty"`
	Payload     []byte       `cbor:"-"` // inline contents, raw after the header
	// Pack, if not nil, is where mutations and payload came from. Its record
	// holds Packed in place of them.
	Pack   *wire.Pack `cbor:"9,keyasint,omitempty"`
	Packed []packed   `cbor:"10,keyasint,omitempty"`

	// Keep: a file whose last name goes stays without one, as no session's
	// where its Bound has no Hold; Left and MoreLeft are as in wire.Touched.
	Keep     bool       `cbor:"11,keyasint,omitempty"`
	Left     []wire.Ino `cbor:"12,keyasint,omitempty"`
	MoreLeft bool       `cbor:"13,keyasint,omitempty"`

	mutations []wire.Mutation // of the pack
}

// Keeps: does Keep leave that inode without a name? One of the transaction's own
// nobody can have open.
func (t *Tx) Keeps(ino wire.Ino) bool { return t.Keep && ino < wire.Ino(t.ID) }

// Inode is what validation needs to know of a file.
type Inode struct {
	Attr   wire.Attr // Parent is set for directories
	Target string    // of a symbolic link
	// Linkable: it has no name, never had one and may get one (createUnlinked).
	Linkable bool
}

// View is the decided state of the store: every committed transaction that
// was handled is in it, no prepared one. Missing things are *wire.Error with
// CodeNotExist; rotten rows CodeCorrupt (which is fatal to the participant's
// testimony: S1).
type View interface {
	Inode(ino wire.Ino) (Inode, error)
	Lookup(dir wire.Ino, name string) (wire.Ino, error)
	// Op returns the outcome of an operation that committed.
	Op(op wire.OpID) (outcome wire.Outcome, found bool, err error)
	// Xattr reports whether a file has an extended attribute; Xattrs how many
	// it has and how long their names are, each with a NUL.
	Xattr(ino wire.Ino, name string) (bool, error)
	Xattrs(ino wire.Ino) (count, bytes int, err error)
	// Staged reports the size and checksum (wire.StageReply.Sum) of a staged
	// object that is complete and durable, name and all.
	Staged(id wire.ID) (size int64, sum uint32, ok bool)
	// Pack reads the mutations and contents of a staged pack. CodeStageLost if
	// they are not there, CodeUnavailable if that cannot be told now.
	Pack(p *wire.Pack) (mutations []wire.Mutation, payload []byte, err error)
	// Skew is the StageRequest.Skew of a staged object.
	Skew(id wire.ID) int64
	// ReadStaged reads len(p) verified bytes of a staged object; false if they
	// cannot be had.
	ReadStaged(id wire.ID, p []byte, offset int64) (ok bool, err error)
	// Block reads the verified bytes of a file's block into into, which has room
	// for BlockSize; what follows the n bytes that there are is zeros. bad: they
	// are rotten (S5). It is asked about blocks that will be written in part, or cut.
	// CodeUnavailable: that cannot be told now.
	Block(ino wire.Ino, block int64, into []byte) (n int, bad bool, err error)
	// Room is what contents in [from, to) of a file will take of the disk
	// beyond what they take now, in bytes.
	Room(ino wire.Ino, from, to int64) (int64, error)
	// Preserve makes what a redo reads of a file's object, or of a staged
	// object that becomes one, outlast a write in place of bytes up to end. CodeNoSpace
	// if there is no space for that.
	Preserve(ino wire.Ino, stage wire.ID, end int64) error
	// Reserve counts table space and disk space that a YES will take until
	// Release(id) (S3, S6); CodeNoSpace if there is none. room: bytes of
	// contents in new blocks. deletes: the transaction only deletes, which is
	// allowed longest.
	Reserve(id wire.ID, rows int, bytes, room int64, deletes bool) error
	Release(id wire.ID)
}
