package wire

import "encoding/binary"

// ObjectSum computes what StageReply.Sum says of an object: the CRC32C of the
// little-endian CRC32Cs of its blocks, each zero-padded to BlockSize. The zero
// value is the sum of nothing written yet.
type ObjectSum struct {
	blocks uint32 // CRC32C of the whole blocks' sums so far
	block  uint32 // CRC32C of the current block's bytes so far
	filled int    // bytes in the current block
	short  int    // by so many bytes the first block is shorter than others; 0 after it
}

// NewObjectSum is for an object staged with that StageRequest.Skew.
func NewObjectSum(skew int64) ObjectSum { return ObjectSum{short: int(skew)} }

// Write adds bytes that follow the ones before. It never fails.
func (s *ObjectSum) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b[:min(len(b), BlockSize-s.short-s.filled)]
		s.block = SumUpdate(s.block, part)
		if s.filled += len(part); s.filled == BlockSize-s.short {
			s.blocks = addSum(s.blocks, padSum(s.block, s.filled))
			s.block, s.filled, s.short = 0, 0, 0
		}
		b = b[len(part):]
	}
	return n, nil
}

// Sum is the object's sum if it ends here.
func (s *ObjectSum) Sum() uint32 {
	if s.filled == 0 {
		return s.blocks
	}
	return addSum(s.blocks, padSum(s.block, s.filled))
}

// padSum is the sum of a block that begins with n bytes of that sum, and goes
// on with zeros.
func padSum(sum uint32, n int) uint32 {
	var zeros [4096]byte
	for left := BlockSize - n; left > 0; {
		n := min(left, len(zeros))
		sum = SumUpdate(sum, zeros[:n])
		left -= n
	}
	return sum
}

func addSum(sum, block uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], block)
	return SumUpdate(sum, b[:])
}
