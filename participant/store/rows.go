package store

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"tpcfs/participant/vote"
	"tpcfs/wire"
)

// Rows and their keys. A key begins with the letter of its bucket, numbers in
// it are big-endian, so that rows lie in the order of names and of time:
//
//	e  dir:8 name            ino:8                       directory entry
//	i  ino:8                 see below                   inode
//	c  ino:8                 bytes                       contents up to InlineMax
//	s  object:8 page:4       256 x (state:1 sum:4)       checksums of blocks
//	a  ino:8 name            bytes                       extended attribute
//	u  ino:8                 session:16 linkable:1       an orphan: an inode without a name, and who held it (F7; zero: mounts are asked)
//	o  session:16 seq:8      service time:8 CBOR outcome an operation that committed
//	t  time:8 session:16 seq:8  nothing                  the same, by service time (S1a)
//	x  epoch:8 index:8 chunk:4  keys, each (length:2 key) changed by the decision there (P11)
//	m  name                                              applied LSN and counters, state
//
// Every value is followed by the CRC32C of (length of key:2, key, value). Inode:
//
//	0        1        2      6       10    14    18     22     30      38
//	+--------+--------+------+-------+-----+-----+------+------+-------+
//	| format | content| mode | nlink | uid | gid | rdev | size | valid |
//	+--------+--------+------+-------+-----+-----+------+------+-------+
//	38      46      54      62        70       78       86       94
//	+-------+-------+-------+---------+--------+--------+--------+--------+
//	| atime | mtime | ctime | version | parent | object | blocks | target |
//	+-------+-------+-------+---------+--------+--------+--------+--------+
//
// blocks are those of the object that hold data; in format 1, without it, all
// do. The first page of an object's checksums is there even if it is empty.
const (
	bucketEntry   = 'e'
	bucketInode   = 'i'
	bucketInline  = 'c'
	bucketSum     = 's'
	bucketXattr   = 'a'
	bucketOrphan  = 'u'
	bucketOp      = 'o'
	bucketOpTime  = 't'
	bucketChange  = 'x'
	bucketMeta    = 'm'
	allBuckets    = "eicsauotxm"
	inodeFormat   = 2
	inodeFixed    = 94
	inodeFixed1   = 86 // in format 1
	sumsPerPage   = wire.SumsPerPage
	sumEntry      = 5
	changesInRow  = 256
	crcLen        = 4
	maxKeyLen     = 1 + 8 + wire.MaxNameLen
	maxInlineRow  = wire.MaxInline
	opTimeKeyLen  = 1 + 8 + 16 + 8
	changeKeyLen  = 1 + 8 + 8 + 4
	maxTargetSize = wire.MaxPathLen
	orphanSize    = 16 + 1
)

var be = binary.BigEndian

func entryKey(dir wire.Ino, name string) string {
	b := make([]byte, 0, 9+len(name))
	b = be.AppendUint64(append(b, bucketEntry), uint64(dir))
	return string(append(b, name...))
}

func numberKey(bucket byte, n uint64) string {
	var b [9]byte
	b[0] = bucket
	be.PutUint64(b[1:], n)
	return string(b[:])
}

func inodeKey(ino wire.Ino) string  { return numberKey(bucketInode, uint64(ino)) }
func inlineKey(ino wire.Ino) string { return numberKey(bucketInline, uint64(ino)) }

func orphanKey(ino wire.Ino) string { return numberKey(bucketOrphan, uint64(ino)) }

func xattrKey(ino wire.Ino, name string) string {
	return numberKey(bucketXattr, uint64(ino)) + name
}

func sumKey(object wire.ID, page int64) string {
	var b [13]byte
	b[0] = bucketSum
	be.PutUint64(b[1:], uint64(object))
	be.PutUint32(b[9:], uint32(page))
	return string(b[:])
}

func opKey(op wire.OpID) string {
	var b [25]byte
	b[0] = bucketOp
	copy(b[1:], op.Session[:])
	be.PutUint64(b[17:], op.Seq)
	return string(b[:])
}

func opOfKey(key string) wire.OpID {
	var op wire.OpID
	copy(op.Session[:], key[1:17])
	op.Seq = be.Uint64([]byte(key[17:25]))
	return op
}

func opTimeKey(ms int64, op wire.OpID) string {
	b := make([]byte, 0, opTimeKeyLen)
	b = be.AppendUint64(append(b, bucketOpTime), uint64(ms))
	b = append(b, op.Session[:]...)
	return string(be.AppendUint64(b, op.Seq))
}

func opOfTimeKey(key string) (int64, wire.OpID) {
	var op wire.OpID
	copy(op.Session[:], key[9:25])
	op.Seq = be.Uint64([]byte(key[25:33]))
	return int64(be.Uint64([]byte(key[1:9]))), op
}

func changeKey(pos wire.Position, chunk int) string {
	b := make([]byte, 0, changeKeyLen)
	b = be.AppendUint64(append(b, bucketChange), pos.Epoch)
	b = be.AppendUint64(b, pos.Index)
	return string(be.AppendUint32(b, uint32(chunk)))
}

func positionOfKey(key string) wire.Position {
	return wire.Position{Epoch: be.Uint64([]byte(key[1:9])), Index: be.Uint64([]byte(key[9:17]))}
}

// rowSum is what a row's value ends with.
func rowSum(key string, val []byte) uint32 {
	b := be.AppendUint16(make([]byte, 0, 2+len(key)), uint16(len(key))) // crc32 keeps it from the stack: no larger than it has to be
	return wire.SumUpdate(wire.Sum(append(b, key...)), val)
}

// seal appends the checksum to a value; it may use val's spare room.
func seal(key string, val []byte) []byte { return be.AppendUint32(val, rowSum(key, val)) }

// unseal returns the value without its checksum; false if that does not match.
func unseal(key string, sealed []byte) ([]byte, bool) {
	n := len(sealed) - crcLen
	if n < 0 || rowSum(key, sealed[:n]) != be.Uint32(sealed[n:]) {
		return nil, false
	}
	return sealed[:n:n], true
}

type contentKind uint8

const (
	contentNone   contentKind = iota // all zeros
	contentInline                    // a row of its own
	contentObject
)

// inode is an inode row. The first valid bytes of the contents are what the
// inline row or the object says; from there to Size they are zeros, whatever
// the object file holds.
type inode struct {
	attr    wire.Attr
	content contentKind
	valid   int64
	object  wire.ID
	blocks  int64 // of the object that hold data
	target  string
	later   bool // somebody has set the mtime to a time to come: the next change's counts
}

// laterMtime stands beside the content's kind in a row: inode.later.
const laterMtime = 0x80

func (n *inode) isDir() bool     { return n.attr.Mode&wire.ModeType == wire.ModeDir }
func (n *inode) isSymlink() bool { return n.attr.Mode&wire.ModeType == wire.ModeSymlink }
func (n *inode) isRegular() bool { return n.attr.Mode&wire.ModeType == wire.ModeRegular }

func (n *inode) view() vote.Inode { return vote.Inode{Attr: n.attr, Target: n.target} }

// touch moves ctime, and with contents mtime, forward to t (bound.go: never back,
// but from a time that somebody has set).
func (n *inode) touch(t int64, contents bool) {
	n.attr.Ctime = max(n.attr.Ctime, t)
	switch {
	case !contents:
	case n.later:
		n.attr.Mtime, n.later = t, false
	default:
		n.attr.Mtime = max(n.attr.Mtime, t)
	}
}

// setMtime sets it, by a change that is made at t: what the ctime is by now may be
// a rename's, which comes before or after it (P1).
func (n *inode) setMtime(mtime, t int64) { n.attr.Mtime, n.later = mtime, mtime > t }

// change is touch at the time that a mutation's Bound says (bound.go).
func (n *inode) change(tx *vote.Tx, d *vote.Bound, contents bool) {
	n.touch(cmp.Or(d.Ctime, tx.Time), contents)
}

func encodeInode(n *inode) []byte {
	b := make([]byte, 0, inodeFixed+len(n.target)+crcLen)
	a := &n.attr
	content := byte(n.content)
	if n.later {
		content |= laterMtime
	}
	b = append(b, inodeFormat, content)
	for _, v := range []uint32{a.Mode, a.Nlink, a.UID, a.GID, a.Rdev} {
		b = be.AppendUint32(b, v)
	}
	for _, v := range []uint64{uint64(a.Size), uint64(n.valid), uint64(a.Atime), uint64(a.Mtime), uint64(a.Ctime),
		uint64(a.Version), uint64(a.Parent), uint64(n.object), uint64(n.blocks)} {
		b = be.AppendUint64(b, v)
	}
	return append(b, n.target...)
}

func decodeInode(ino wire.Ino, b []byte) (inode, error) {
	fixed := inodeFixed
	if len(b) > 0 && b[0] == 1 {
		fixed = inodeFixed1
	}
	if len(b) < fixed || b[0] > inodeFormat || b[0] == 0 || len(b) > fixed+maxTargetSize {
		return inode{}, fmt.Errorf("row of inode %d is malformed (%d bytes)", ino, len(b))
	}
	u32 := func(at int) uint32 { return be.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return be.Uint64(b[at:]) }
	n := inode{
		attr: wire.Attr{
			Ino: ino, Mode: u32(2), Nlink: u32(6), UID: u32(10), GID: u32(14), Rdev: u32(18),
			Size: int64(u64(22)), Atime: int64(u64(38)), Mtime: int64(u64(46)), Ctime: int64(u64(54)),
			Version: wire.ID(u64(62)), Parent: wire.Ino(u64(70)),
		},
		content: contentKind(b[1] &^ laterMtime), later: b[1]&laterMtime != 0, valid: int64(u64(30)), object: wire.ID(u64(78)), target: string(b[fixed:]),
	}
	most := int64(0) // blocks
	if n.content == contentObject {
		most = blocksOf(n.valid)
	}
	n.blocks = most
	if fixed == inodeFixed {
		n.blocks = int64(u64(86))
	}
	if n.content > contentObject || n.valid < 0 || n.attr.Size < 0 || n.isRegular() && n.valid > n.attr.Size || n.blocks < 0 || n.blocks > most {
		return inode{}, fmt.Errorf("row of inode %d is malformed: content %d, size %d, valid %d", ino, n.content, n.attr.Size, n.valid)
	}
	n.attr.Blocks = (n.valid + 511) / 512
	if n.content == contentObject {
		n.attr.Blocks = min(n.attr.Blocks, n.blocks*(wire.BlockSize/512))
	}
	return n, nil
}

func encodeIno(ino wire.Ino) []byte {
	return be.AppendUint64(make([]byte, 0, 8+crcLen), uint64(ino))
}

// orphan is an orphan's row. linkable: it never had a name and may get one.
type orphan struct {
	holder   wire.SessionID
	linkable bool
}

func encodeOrphan(o orphan) []byte {
	b := append(make([]byte, 0, orphanSize+crcLen), o.holder[:]...)
	return append(b, byte(boolInt(o.linkable)))
}

func decodeOrphan(b []byte) (o orphan, ok bool) {
	if len(b) != orphanSize || b[16] > 1 {
		return o, false
	}
	copy(o.holder[:], b)
	o.linkable = b[16] == 1
	return o, true
}

type blockState uint8

const (
	blockZero blockState = iota // no checksum: the block is zeros, whatever the file holds
	blockSum
	blockBad       // was rotten when it was written in part, or cut (S5)
	blockUnwritten // zeros as well, but data: allocated (fallocate(2))
)

// isData tells whether the block counts as data, not as a hole.
func (s blockState) isData() bool { return s != blockZero }

// isBytes tells whether the object's file holds the block.
func (s blockState) isBytes() bool { return s == blockSum || s == blockBad }

// blockCheck is what is known of one block of an object.
type blockCheck struct {
	state blockState
	sum   uint32 // of the block zero-padded to BlockSize
}

func encodeSums(blocks []blockCheck) []byte {
	b := make([]byte, 0, len(blocks)*sumEntry+crcLen)
	for _, c := range blocks {
		b = be.AppendUint32(append(b, byte(c.state)), c.sum)
	}
	return b
}

func decodeSums(b []byte) ([]blockCheck, error) {
	if len(b)%sumEntry != 0 || len(b) > sumsPerPage*sumEntry {
		return nil, fmt.Errorf("a page of checksums has %d bytes", len(b))
	}
	blocks := make([]blockCheck, len(b)/sumEntry)
	for i := range blocks {
		e := b[i*sumEntry:]
		blocks[i] = blockCheck{blockState(e[0]), be.Uint32(e[1:])}
		if blocks[i].state > blockUnwritten {
			return nil, fmt.Errorf("a page of checksums has state %d", e[0])
		}
	}
	return blocks, nil
}

func encodeOp(ms int64, outcome *wire.Outcome) []byte {
	b := be.AppendUint64(make([]byte, 0, 64), uint64(ms))
	return append(b, wire.Marshal(*outcome)...)
}

func decodeOp(b []byte) (ms int64, outcome wire.Outcome, err error) {
	if len(b) < 8 {
		return 0, outcome, fmt.Errorf("an operation's row has %d bytes", len(b))
	}
	err = wire.Unmarshal(b[8:], &outcome)
	return int64(be.Uint64(b)), outcome, err
}

// metaRow is what a checkpoint says of the store as a whole. The participant's
// own state is a row beside it.
type metaRow struct {
	Applied uint64 `cbor:"1,keyasint"`
	Files   int64  `cbor:"2,keyasint"` // inodes
	Bytes   int64  `cbor:"3,keyasint"` // sum of the sizes of regular files
	// Changes is the number of rows of the changed-keys index, which has all
	// decisions after ChangesFrom.
	Changes     int64         `cbor:"4,keyasint"`
	ChangesFrom wire.Position `cbor:"5,keyasint"`
	// CopiedTo: a newcomer has all rows that were changed up to there (P11).
	CopiedTo wire.Position `cbor:"6,keyasint,omitzero"`
}

const (
	metaKey  = string(bucketMeta) + "meta"
	stateKey = string(bucketMeta) + "state"
)

// blocksOf is the number of blocks that n bytes take.
func blocksOf(n int64) int64 { return (n + wire.BlockSize - 1) / wire.BlockSize }

var zeroBlock [wire.BlockSize]byte

// padSum is the checksum of b, at most a block, zero-padded to BlockSize.
func padSum(b []byte) uint32 { return wire.SumUpdate(wire.Sum(b), zeroBlock[len(b):]) }

// sumOfSums is StageReply.Sum of blocks with these checksums.
func sumOfSums(sums []uint32) uint32 {
	var sum uint32
	var b [4]byte
	for _, s := range sums {
		binary.LittleEndian.PutUint32(b[:], s)
		sum = wire.SumUpdate(sum, b[:])
	}
	return sum
}
