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
