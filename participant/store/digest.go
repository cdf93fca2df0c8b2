package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
)

// Digest is the SHA-256, in hexadecimal, of what the store holds: entries,
// inodes, extended attributes, orphans, small contents, checksums of large ones, outcomes of operations. It
// does not depend on when checkpoints were made, nor on the changed-keys
// index, and is equal on replicas at one position. Contents of objects count
// by their checksums, the objects are not read. A checkpoint waits until it is
// done.
func (s *Store) Digest(ctx context.Context) (string, error) {
	s.still.Lock()
	defer s.still.Unlock()
	m, err := s.snapshot()
	if err != nil {
		return "", err
	}
	defer m.close()
	m.renewable = true // nothing is written to the kv meanwhile
	h := sha256.New()
	var lengths [8]byte
	for _, bucket := range []byte{bucketInline, bucketEntry, bucketInode, bucketOp, bucketSum, bucketXattr, bucketOrphan} {
		from := string(bucket)
		for from != "" {
			if err := ctxError(ctx, "digest"); err != nil {
				return "", err
			}
			from, err = m.page(from, func(key string, val []byte) error {
				be.PutUint32(lengths[:], uint32(len(key)))
				be.PutUint32(lengths[4:], uint32(len(val)))
				h.Write(lengths[:])
				h.Write([]byte(key))
				h.Write(val)
				return nil
			})
			if err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// page calls fn with up to maxTxKeys rows and returns where to go on; "" at
// the end of the bucket.
func (m *moment) page(from string, fn func(key string, val []byte) error) (next string, err error) {
	n := 0
	err = m.ascend(from, func(key string, val []byte) (bool, error) {
		if n++; n > maxTxKeys {
			next = key
			return false, nil
		}
		return true, fn(key, val)
	})
	return next, err
}
