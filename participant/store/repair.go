package store

import (
	"errors"
	"fmt"
	"io/fs"

	"tpcfs/wire"
)

// Repair enters right bytes of blocks that another member gave, as part of the
// present version of the file: bytes whose checksum is the one that the block has
// here, or, where that is not known (S5), of a file of the same version. It
// returns the blocks that it took; others have changed since. The bytes are
// in the page cache only: Repaired follows. learnt: checksums that were not known
// are in the table, and durable with the next checkpoint. Owner only.
//
// A crash loses no more than the repair. Bytes are those of the rows of now; a redo
// from older rows writes its own over them, as over those of an apply, and finds
// unknown what was.
func (s *Store) Repair(req *wire.Repair, body []byte) (taken []int64, learnt bool, err error) {
	if err := checkRepair(req, body); err != nil {
		return nil, false, err
	}
	if err := s.trouble(); err != nil {
		return nil, false, err
	}
	if s.TableFull() {
		return nil, false, &wire.Error{Code: wire.CodeBusy, Op: "repair", Text: "the table is full"}
	}
	if err := s.roomToStage(); err != nil {
		return nil, false, err
	}
	b := s.newBatch()
	err = s.look(func(m *moment) (err error) {
		b.m = m
		taken, err = b.repair(req, body)
		return err
	})
	if err != nil || len(taken) == 0 {
		return nil, false, err
	}
	// Readers need nothing kept aside: who has still to read such a block has its
	// checksum, and so these bytes.
	held := s.holdObjects(b)
	if err = s.writeOut(b); err == nil {
		s.install(b)
	}
	s.endWrites(held)
	return taken, len(b.order) > 0, err
}

// checkRepair verifies what has come.
func checkRepair(req *wire.Repair, body []byte) error {
	if len(req.Blocks) > wire.MaxDonated {
		return &wire.Error{Code: wire.CodeTooMany, Op: "repair", Text: fmt.Sprintf("%d blocks at once", len(req.Blocks))}
	}
	last := int64(-1)
	for _, d := range req.Blocks {
		if d.Size <= 0 || d.Size > wire.BlockSize || d.Size > len(body) || d.Block <= last || d.Block >= blocksOf(wire.MaxFileSize) {
			return &wire.Error{Code: wire.CodeProtocol, Op: "repair", Text: fmt.Sprintf("block %d of %d bytes after %d, and %d have come", d.Block, d.Size, last, len(body))}
		}
		if padSum(body[:d.Size]) != d.Sum {
			return &wire.Error{Code: wire.CodeCorrupt, Op: "repair", Text: fmt.Sprintf("block %d of object %s was damaged on the way here", d.Block, req.Object)}
		}
		last, body = d.Block, body[d.Size:]
	}
	return nil
}

// repair enters the blocks that are what the file has now.
func (b *batch) repair(req *wire.Repair, body []byte) (taken []int64, err error) {
	n, err := b.m.inode(req.Ino)
	if wire.CodeOf(err) == wire.CodeNotExist || err == nil && (n.content != contentObject || n.object != req.Object) {
		return nil, nil // deleted, or written whole
	}
	if err != nil {
		return nil, err
	}
	e, unknown := b.edit(&n, nil), false
	for _, d := range req.Blocks {
		var data []byte
		data, body = body[:d.Size:d.Size], body[d.Size:]
		start := d.Block * wire.BlockSize
		if int64(d.Size) != min(wire.BlockSize, n.valid-start) {
			continue
		}
		c, err := e.check(d.Block)
		if err != nil {
			return nil, err
		}
		right := blockCheck{blockSum, d.Sum}
		switch {
		case c == right:
		case c.state == blockBad && n.attr.Version == req.Version:
			unknown = true
			if err := e.set(d.Block, right); err != nil {
				return nil, err
			}
		default:
			continue
		}
		// What is staged for the block is no better: the table lets go of it.
		b.ranges = append(b.ranges, rangeChange{n.object, stagedRange{from: start, to: start + int64(d.Size)}})
		b.writes = append(b.writes, fileWrite{object: n.object, offset: start, data: data, length: int64(d.Size)})
		taken = append(taken, d.Block)
	}
	if unknown {
		e.flush()
	}
	return taken, nil
}

// Repaired makes repaired blocks durable and reads them back from the disk. Those
// that are not what they should be are rotten; any goroutine may call it.
func (s *Store) Repaired(ino wire.Ino, object wire.ID, blocks []int64) (right, rotten []int64, err error) {
	if err := s.syncObject(object); err != nil {
		return nil, nil, err
	}
	buf := make([]byte, wire.BlockSize)
	for _, b := range blocks {
		r, err := s.readerOf(ino, object, b, b+1)
		if err != nil {
			return nil, nil, err
		}
		if r == nil {
			continue // it has changed meanwhile
		}
		err = r.open()
		if err == nil {
			s.share(r.pin)
			err = r.block(b, buf)
			r.pin.mu.RUnlock()
		}
		r.close()
		switch wire.CodeOf(err) {
		case wire.CodeNone:
			right = append(right, b)
		case wire.CodeCorrupt:
			rotten = append(rotten, b)
		case wire.CodeChanged:
		default:
			return nil, nil, err
		}
	}
	return right, rotten, nil
}

// syncObject makes an object durable, name and all, and drops the page cache, so
// that what is read next is what the disk has (J3).
func (s *Store) syncObject(id wire.ID) error {
	name := s.objectPath(id)
	f, err := s.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has gone with its file
	}
	if err != nil {
		return err
	}
	defer closeRead(f)
	if err := f.Sync(); err != nil {
		return s.fail("sync", name, err)
	}
	if err := s.fs.SyncDir(s.objectDir(id)); err != nil {
		return s.fail("sync", s.objectDir(id), err)
	}
	if err := f.DropCache(); err != nil {
		return s.fail("drop the cache of", name, err)
	}
	return nil
}
