package wire

// ReadKind says what is read.
type ReadKind uint8

// The reads. None is a transaction.
const (
	ReadFile ReadKind = iota + 1
	ReadStat
	ReadList
	ReadLink
	ReadGetxattr
	ReadListxattr
	ReadData    // the ranges of a file that hold data (lseek(2) SEEK_DATA, SEEK_HOLE)
	ReadOrphans // inodes without a name; the coordinator's own: clients are refused
	ReadOp      // what became of an operation
)

// Read asks for one thing about one file. A symbolic link on the way answers
// CodeSymlink; as the last component too for ReadFile and ReadList, while
// ReadStat and ReadLink are about the link itself.
type Read struct {
	Kind ReadKind `cbor:"1,keyasint"`
	At   At       `cbor:"2,keyasint"`
	// Offset and Length bound a ReadFile, in bytes; Length < 0 is to the end.
	Offset int64 `cbor:"3,keyasint,omitempty"`
	Length int64 `cbor:"4,keyasint,omitempty"`
	// After and Limit page a ReadList: entries whose names come after After
	// in byte order, at most Limit (0: MaxListEntries). A ReadOrphans answers
	// Entries without names, of inodes above Offset, at most Limit.
	After string `cbor:"5,keyasint,omitempty"`
	Limit int    `cbor:"6,keyasint,omitempty"`
	// IfVersion, if not 0, is the version that a ReadFile goes on with; when
	// the file has another, the answer is CodeChanged.
	IfVersion ID     `cbor:"7,keyasint,omitempty"`
	Name      string `cbor:"8,keyasint,omitempty"` // of the extended attribute
	Wait      int64  `cbor:"9,keyasint,omitempty"` // milliseconds; 0 is forever (W3)
	// Op is the operation that a ReadOp asks for. At does not count.
	Op OpID `cbor:"10,keyasint,omitempty"`
}

// ReadReply answers a Read. A ReadFile's contents come as pieces before it.
type ReadReply struct {
	Attr    Attr       `cbor:"1,keyasint"` // of the file read
	Entries []DirEntry `cbor:"2,keyasint,omitempty"`
	More    bool       `cbor:"3,keyasint,omitempty"` // a listing goes on after the last entry
	Target  string     `cbor:"4,keyasint,omitempty"`
	Value   []byte     `cbor:"5,keyasint,omitempty"`
	// Position is the entry up to which the answering participant had handled
	// its stream.
	Position Position `cbor:"6,keyasint"`
	Names    []string `cbor:"7,keyasint,omitempty"` // ReadListxattr, sorted
	// Ranges answers a ReadData: from Offset on, at most Limit (0:
	// MaxListEntries), in order; More tells that others follow. Holes and data
	// are whole blocks but for the file's end.
	Ranges []Range `cbor:"8,keyasint,omitempty"`
	// Outcome answers a ReadOp; nil: it has not committed, or was forgotten.
	Outcome *Outcome `cbor:"9,keyasint,omitempty"`
	// Holders answers a ReadOrphans: of each of Entries the session that left
	// it without a name.
	Holders []SessionID `cbor:"10,keyasint,omitempty"`
}

// Range is a part of a file.
type Range struct {
	Offset int64 `cbor:"1,keyasint"` // bytes
	Length int64 `cbor:"2,keyasint"`
}

// Attr is what stat(2) tells of a file. Times are nanoseconds since 1970.
type Attr struct {
	Ino     Ino    `cbor:"1,keyasint"`
	Mode    uint32 `cbor:"2,keyasint"` // type and permission bits
	Nlink   uint32 `cbor:"3,keyasint"`
	UID     uint32 `cbor:"4,keyasint"`
	GID     uint32 `cbor:"5,keyasint"`
	Rdev    uint32 `cbor:"6,keyasint,omitempty"`
	Size    int64  `cbor:"7,keyasint"` // bytes; of a directory: its number of entries
	Blocks  int64  `cbor:"8,keyasint"` // 512-byte units that hold data, from metadata (S2)
	Atime   int64  `cbor:"9,keyasint"`
	Mtime   int64  `cbor:"10,keyasint"`
	Ctime   int64  `cbor:"11,keyasint"`
	Version ID     `cbor:"12,keyasint"`           // the transaction that last changed contents or size
	Parent  Ino    `cbor:"13,keyasint,omitempty"` // of a directory: the one above it
	// NoXattrs: it has no extended attributes. False: it may have some (who answers
	// may be of a version that does not tell).
	NoXattrs bool `cbor:"14,keyasint,omitempty"`
}

// DirEntry is a name in a directory with what it names.
type DirEntry struct {
	Name string `cbor:"1,keyasint"`
	Attr Attr   `cbor:"2,keyasint"`
}

// Piece is a part of a file's contents on its way. Sum is the CRC32C of Data,
// made where the bytes came from and checked where they are used (G7).
type Piece struct {
	Version ID     `cbor:"1,keyasint,omitempty"` // of the file being read; 0 while staging
	Offset  int64  `cbor:"2,keyasint"`           // of Data in the file, bytes
	Sum     uint32 `cbor:"3,keyasint"`
	Data    []byte `cbor:"-"` // at most PieceSize bytes, raw after the header
	// Room, if there is any, is the memory before Data, as FrameBefore takes it:
	// whoever passes the piece on may write there.
	Room []byte `cbor:"-"`
}
