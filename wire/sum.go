package wire

import "encoding/binary"

// ObjectSum computes what StageReply.Sum says of an object: the CRC32C of the
// little-endian CRC32Cs of its blocks, each zero-padded to BlockSize. The zero
// value is the sum of nothing written yet.
type ObjectSum struct {
	blocks uint32 // CRC32C of the whole blocks' sums so far
	block  uint32 // CRC32C of the current block's bytes so far
	filled int    // bytes in the current block
}

// Write adds bytes that follow the ones before. It never fails.
func (s *ObjectSum) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b[:min(len(b), BlockSize-s.filled)]
		s.block = SumUpdate(s.block, part)
		if s.filled += len(part); s.filled == BlockSize {
			s.blocks, s.block, s.filled = addSum(s.blocks, s.block), 0, 0
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
	var zeros [4096]byte
	block := s.block
	for left := BlockSize - s.filled; left > 0; {
		n := min(left, len(zeros))
		block = SumUpdate(block, zeros[:n])
		left -= n
	}
	return addSum(s.blocks, block)
}

func addSum(sum, block uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], block)
	return SumUpdate(sum, b[:])
}
