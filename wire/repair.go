package wire

// Repair brings right bytes of rotten blocks (S5): from Donate and Donated.
type Repair struct {
	Epoch  Epoch  `cbor:"1,keyasint"`
	Index  uint64 `cbor:"2,keyasint"`
	Ino    Ino    `cbor:"3,keyasint"`
	Object ID     `cbor:"4,keyasint"`
	// Version of the donor's file: a block whose checksum is not known is taken
	// only if the file here has that, too.
	Version ID             `cbor:"5,keyasint"`
	Blocks  []DonatedBlock `cbor:"6,keyasint"` // at most MaxDonated
}

// Repaired answers Repair. A block that is in neither list is another one by
// now: the file has changed.
type Repaired struct {
	Right  []int64 `cbor:"1,keyasint,omitempty"` // blocks that are durable, and as the disk has them right
	Rotten []int64 `cbor:"2,keyasint,omitempty"` // blocks that are rotten still
}

// MaxVerify bounds the contents of one Verify, in bytes.
const MaxVerify = 16 << 20

// Verify asks a participant to read contents from its disk and verify them (S5).
type Verify struct {
	Epoch Epoch  `cbor:"1,keyasint"`
	Index uint64 `cbor:"2,keyasint"`
	// Cursor is the last answer's; none at first.
	Cursor []byte `cbor:"3,keyasint,omitempty"`
	// Bytes, about, that are to be read: at most MaxVerify.
	Bytes int64 `cbor:"4,keyasint"`
}

// Verified answers Verify.
type Verified struct {
	// Cursor is where to go on; none: that was all.
	Cursor []byte `cbor:"1,keyasint,omitempty"`
	Files  int64  `cbor:"2,keyasint"`           // that were begun
	Bytes  int64  `cbor:"3,keyasint"`           // of contents that were read
	Rotten []Lack `cbor:"4,keyasint,omitempty"` // blocks that are not what they should be
	Total  int64  `cbor:"5,keyasint"`           // bytes of all regular files
}

// Compare asks a participant for a digest of the rows in a range of keys. It
// answers with those of when entry Index was the last one that it had handled,
// if it is asked before the next one and entries come; else with those of now.
type Compare struct {
	Epoch Epoch  `cbor:"1,keyasint"`
	Index uint64 `cbor:"2,keyasint"`
	// The range is [From, Next) of From's bucket. No From: the first of all; Choose:
	// the participant says where it ends. Next of another bucket, or none: at the
	// bucket's end.
	From   []byte `cbor:"3,keyasint,omitempty"`
	Next   []byte `cbor:"4,keyasint,omitempty"`
	Choose bool   `cbor:"5,keyasint,omitempty"`
	// Rows: the body has each row's key and, as its value, RowDigest bytes of the
	// value's digest and what the row is called.
	Rows bool `cbor:"6,keyasint,omitempty"`
}

// RowDigest is the length of a row's digest, in bytes.
const RowDigest = 16

// Compared answers Compare.
type Compared struct {
	Position Position `cbor:"1,keyasint"` // of which the rows are
	Next     []byte   `cbor:"2,keyasint,omitempty"`
	Rows     int64    `cbor:"3,keyasint"`
	Digest   []byte   `cbor:"4,keyasint"` // SHA-256 of the rows
	// More: there are more rows than any range has that somebody chose.
	More bool `cbor:"5,keyasint,omitempty"`
}

// ScrubRequest begins a scrub, stops it, or only asks about it.
type ScrubRequest struct {
	Start bool     `cbor:"1,keyasint,omitempty"`
	Names []string `cbor:"2,keyasint,omitempty"` // of participants; none: all
	Rate  int64    `cbor:"3,keyasint,omitempty"` // bytes a second at each; 0: the coordinator's, less: no bound
	Stop  uint64   `cbor:"4,keyasint,omitempty"` // the ID of the scrub that is to end
}

// ScrubReport is how far a scrub is, or what the last one has found.
type ScrubReport struct {
	ID        uint64        `cbor:"1,keyasint" json:"id"` // no other has it; 0: none since the coordinator's start
	Running   bool          `cbor:"2,keyasint" json:"running"`
	Scheduled bool          `cbor:"3,keyasint" json:"scheduled"`
	Stopped   bool          `cbor:"4,keyasint" json:"stopped"`
	Began     int64         `cbor:"5,keyasint" json:"began"` // ms since 1970
	Ended     int64         `cbor:"6,keyasint" json:"ended"` // likewise
	Rows      int64         `cbor:"7,keyasint" json:"rows"`  // of metadata that were compared
	Members   []ScrubMember `cbor:"8,keyasint" json:"members"`
}

// ScrubMember is what a scrub has found at a participant.
type ScrubMember struct {
	Name     string `cbor:"1,keyasint" json:"name"`
	Ended    int64  `cbor:"2,keyasint" json:"ended"` // ms since 1970; 0: it is under way
	Files    int64  `cbor:"3,keyasint" json:"files"`
	Bytes    int64  `cbor:"4,keyasint" json:"bytes"`
	OfBytes  int64  `cbor:"5,keyasint" json:"of_bytes"`
	Found    int64  `cbor:"6,keyasint" json:"found"`    // rotten blocks, and rows that differ from the others'
	Repaired int64  `cbor:"7,keyasint" json:"repaired"` // of those
	// Problem is why it was not looked at, or not to the end.
	Problem string   `cbor:"8,keyasint,omitempty" json:"problem,omitempty"`
	Notes   []string `cbor:"9,keyasint,omitempty" json:"notes,omitempty"` // what was found, in words: the first of it
}
