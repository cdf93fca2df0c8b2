package vote

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"tpcfs/wire"
)

// contents is what a file holds once the transaction's mutations so far are
// done: what it held before, with patches on top, in their order.
type contents struct {
	base    baseKind
	data    []byte  // baseData
	stage   wire.ID // baseStage
	size    int64   // of a staged base
	patches []patch
	stages  []wire.ID // that the transaction has put in: one of them may be the file's object by now
}

type baseKind uint8

const (
	baseNone  baseKind = iota // a file that the transaction has made
	baseView                  // decided contents
	baseData                  // a writeFile's, from the payload
	baseStage                 // a writeFile's, staged
)

// patch puts bytes, or zeros, over [from, to). A file's end is a patch of zeros
// without an end.
type patch struct {
	from, to int64
	data     []byte  // to-from bytes; nil: the stage's, or zeros
	stage    wire.ID // its bytes from 0 on; 0: zeros
}

// image is a block as the patches so far have made it.
type image struct {
	data   [wire.BlockSize]byte
	rotten []span // bytes that nobody knows, and that no patch has covered
	done   int    // patches that are in it
}

type span struct{ from, to int64 } // within a block

// spareImages keep a few images' memory for the next prepares.
type spareImages struct{ free []*image }

// maxSpare is how many are kept, 256 KiB.
const maxSpare = 4

// get returns an image that base fills in.
func (s *spareImages) get() *image {
	n := len(s.free)
	if n == 0 {
		return &image{}
	}
	img := s.free[n-1]
	s.free = s.free[:n-1]
	img.rotten, img.done = nil, 0
	return img
}

// put takes images that nobody uses any more, and empties the map.
func (s *spareImages) put(images map[imageKey]*image) {
	for _, img := range images {
		if len(s.free) < maxSpare {
			s.free = append(s.free, img)
		}
	}
	clear(images)
}

type imageKey struct {
	c     *contents
	block int64
}

// maxImages bounds the blocks that a prepare keeps in memory, 4 MiB.
const maxImages = 64

// maxResummed bounds a staged extent that was staged for another place within
// a block: its bytes are read, and its sums are in the PREPARE record.
const maxResummed = 4096 // blocks

// change returns what a file will hold, to be patched.
func (n *node) change() *contents {
	if n.contents == nil {
		n.contents = &contents{base: baseView}
		if n.fresh {
			n.contents.base = baseNone
		}
	}
	return n.contents
}

func (n *node) patch(p patch) {
	c := n.change()
	c.patches = append(c.patches, p)
}

// resize moves a file's end; what is beyond it is zeros from now on.
func (n *node) resize(size int64) {
	if n.Attr.Size != size {
		n.patch(patch{from: min(n.Attr.Size, size), to: math.MaxInt64})
		n.Attr.Size = size
	}
}

// image returns a block of a file as it is after the mutations so far.
func (b *binder) image(n *node, block int64, at wire.At) (*image, error) {
	c := n.change()
	key := imageKey{c, block}
	img := b.images[key]
	if img == nil {
		if len(b.images) >= maxImages {
			b.spare.put(b.images)
		}
		img = b.spare.get()
		b.images[key] = img
		if err := b.base(n, block, img, at); err != nil {
			return nil, err
		}
	}
	for ; img.done < len(c.patches); img.done++ {
		if err := b.apply(img, &c.patches[img.done], block, at); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// base fills in what a block held before the transaction's patches.
func (b *binder) base(n *node, block int64, img *image, at wire.At) error {
	c, start := n.contents, block*wire.BlockSize
	have := 0
	switch c.base {
	case baseNone:
	case baseData:
		if start < int64(len(c.data)) {
			have = copy(img.data[:], c.data[start:])
		}
	case baseStage:
		if size := min(wire.BlockSize, c.size-start); size > 0 {
			have = int(size)
			if err := b.readStaged(c.stage, img.data[:size], start, at); err != nil {
				return err
			}
		}
	case baseView:
		n, bad, err := b.view.Block(n.Attr.Ino, block, img.data[:])
		if err != nil {
			return refusal(err, at)
		}
		if have = n; bad {
			have, img.rotten = 0, []span{{0, wire.BlockSize}}
		}
	}
	clear(img.data[have:])
	return nil
}

// refusal is the NO of a replica that cannot do now, alone, what it is asked for: it has no
// space, or cannot open a file. Any other error of the view is fatal.
func refusal(err error, at wire.At) error {
	var e *wire.Error
	if errors.As(err, &e) && (e.Code == wire.CodeNoSpace || e.Code == wire.CodeUnavailable) {
		return no(e.Code, at, e.Text)
	}
	return &ViewError{err}
}

func (b *binder) readStaged(id wire.ID, p []byte, offset int64, at wire.At) error {
	ok, err := b.view.ReadStaged(id, p, offset)
	if err != nil {
		return &ViewError{err}
	}
	if !ok {
		return no(wire.CodeStageLost, at, fmt.Sprintf("stage %v is damaged at byte %d; stage the contents again", id, offset))
	}
	return nil
}

func (b *binder) apply(img *image, p *patch, block int64, at wire.At) error {
	start := block * wire.BlockSize
	s := span{max(p.from, start) - start, min(p.to, start+wire.BlockSize) - start}
	if s.from >= s.to {
		return nil
	}
	part := img.data[s.from:s.to]
	switch {
	case p.data != nil:
		copy(part, p.data[start+s.from-p.from:])
	case p.stage != 0:
		if err := b.readStaged(p.stage, part, start+s.from-p.from, at); err != nil {
			return err
		}
	default:
		clear(part)
	}
	var left []span
	for _, r := range img.rotten {
		for _, q := range []span{{r.from, min(r.to, s.from)}, {max(r.from, s.to), r.to}} {
			if q.from < q.to {
				left = append(left, q)
			}
		}
	}
	img.rotten = left
	return nil
}

// sums tells what blocks sum to after the mutations so far (S5).
func (b *binder) sums(n *node, blocks []int64, at wire.At) ([]BlockSum, error) {
	slices.Sort(blocks)
	var list []BlockSum
	for _, block := range slices.Compact(blocks) {
		img, err := b.image(n, block, at)
		if err != nil {
			return nil, err
		}
		s := BlockSum{Block: block, Bad: slices.ContainsFunc(img.rotten, func(r span) bool {
			return block*wire.BlockSize+r.from < n.Attr.Size
		})}
		if !s.Bad {
			s.Sum = wire.Sum(img.data[:])
		}
		list = append(list, s)
	}
	return list, nil
}

// WholeBlock tells whether writing [from, to) of a file of that size, after
// the write, leaves nothing of what the block held.
func WholeBlock(block, from, to, size int64) bool {
	start := block * wire.BlockSize
	return from <= start && (to >= start+wire.BlockSize || to >= size)
}

// partial lists the blocks that a write of [from, to) leaves something of.
func partial(from, to, size int64) []int64 {
	var blocks []int64
	for _, block := range []int64{from / wire.BlockSize, (to - 1) / wire.BlockSize} {
		if !WholeBlock(block, from, to, size) {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// writeExtents binds a writeFile of parts.
func (b *binder) writeExtents(m *wire.Mutation, n *node, bd *Bound) error {
	if err := checkExtents(m, n.Attr.Size); err != nil {
		return err
	}
	var blocks []int64
	bd.Write = m.Write
	if m.Set&wire.SetSize != 0 {
		if m.Size < n.Attr.Size && m.Size%wire.BlockSize != 0 {
			blocks = append(blocks, m.Size/wire.BlockSize)
		}
		bd.Set, bd.Size = wire.SetSize, m.Size
		n.resize(m.Size)
	}
	start := int64(0)
	if m.Write == wire.WriteAppend {
		start = n.Attr.Size
	}
	untouched := n.contents == nil
	bd.Extents = slices.Clone(m.Extents)
	end := start
	for i := range bd.Extents {
		e := &bd.Extents[i]
		e.Offset += start
		end = e.Offset + e.Size
		room, err := b.room(n, untouched, e.Offset, end)
		if err != nil {
			return err
		}
		bd.Room += room
	}
	if err := b.preserve(n, end, m.At); err != nil {
		return err
	}
	n.resize(max(n.Attr.Size, end))
	for i := range bd.Extents {
		e := &bd.Extents[i]
		more, err := b.extent(m.At, n, e)
		if err != nil {
			return err
		}
		blocks = append(blocks, more...)
	}
	if len(m.Extents) > 0 || m.Set&wire.SetSize != 0 {
		n.Attr.Version = b.prepare.Tx
	}
	var err error
	bd.Sums, err = b.sums(n, blocks, m.At)
	return err
}

// extent takes an extent's bytes; it returns the blocks whose sums do not
// follow from them alone.
func (b *binder) extent(at wire.At, n *node, e *wire.Extent) ([]int64, error) {
	end := e.Offset + e.Size
	p := patch{from: e.Offset, to: end, stage: e.Stage}
	blocks := partial(e.Offset, end, n.Attr.Size)
	if e.Stage == 0 {
		data, err := b.take(at, e.Size, e.Sum)
		if err != nil {
			return nil, err
		}
		p.data = data
		n.patch(p)
		return blocks, nil
	}
	if err := b.consume(at, wire.Content{Stage: e.Stage, Size: e.Size, Sum: e.Sum}); err != nil {
		return nil, err
	}
	n.patch(p)
	n.contents.stages = append(n.contents.stages, e.Stage)
	if b.view.Skew(e.Stage) == e.Offset%wire.BlockSize {
		return blocks, nil
	}
	first, last := e.Offset/wire.BlockSize, (end-1)/wire.BlockSize
	if last-first >= maxResummed {
		return nil, no(wire.CodeStageLost, at, fmt.Sprintf("stage %v was made for another place within a block; stage the contents again", e.Stage))
	}
	blocks = blocks[:0]
	for block := first; block <= last; block++ {
		blocks = append(blocks, block)
	}
	return blocks, nil
}

// take gives the next bytes of the payload.
func (b *binder) take(at wire.At, size int64, sum uint32) ([]byte, error) {
	if size > int64(len(b.payload)) {
		return nil, no(wire.CodeProtocol, at, fmt.Sprintf("contents of %d bytes, and %d are left", size, len(b.payload)))
	}
	data := b.payload[:size:size]
	if wire.Sum(data) != sum {
		return nil, no(wire.CodeCorrupt, at, "the contents were damaged on the way here; send them again")
	}
	b.payload = b.payload[size:]
	return data, nil
}

// checkExtents refuses what no file can take. size is the file's.
func checkExtents(m *wire.Mutation, size int64) error {
	tooLarge := no(wire.CodeTooLarge, m.At, fmt.Sprintf("a file has at most %d bytes", int64(wire.MaxFileSize)))
	switch {
	case m.Write > wire.WriteAppend:
		return no(wire.CodeUnsupported, m.At, fmt.Sprintf("unknown way to write %d", m.Write))
	case m.Content != wire.Content{}:
		return no(wire.CodeInvalid, m.At, "whole contents beside extents")
	case m.Set&^wire.SetSize != 0, m.Set != 0 && m.Write != wire.WriteExtents:
		return no(wire.CodeInvalid, m.At, "only a size can be set with extents, and none with an append")
	case m.Set != 0 && m.Size < 0:
		return no(wire.CodeInvalid, m.At, "a negative size")
	case m.Set != 0 && m.Size > wire.MaxFileSize:
		return tooLarge
	case len(m.Extents) > wire.MaxExtents:
		return no(wire.CodeTooMany, m.At, fmt.Sprintf("%d extents, at most %d are allowed", len(m.Extents), wire.MaxExtents))
	case len(m.Extents) == 0 && m.Write == wire.WriteAppend:
		return no(wire.CodeInvalid, m.At, "an append of nothing")
	}
	limit := int64(wire.MaxFileSize)
	if m.Write == wire.WriteAppend {
		limit -= size
	}
	end := int64(0)
	for i := range m.Extents {
		switch e := &m.Extents[i]; {
		case e.Size <= 0 || e.Offset < 0:
			return no(wire.CodeInvalid, m.At, fmt.Sprintf("an extent of %d bytes at %d", e.Size, e.Offset))
		case e.Offset < end:
			return no(wire.CodeInvalid, m.At, fmt.Sprintf("the extent at %d begins before the end of the one before it, %d", e.Offset, end))
		case e.Offset > limit || e.Size > limit-e.Offset:
			return tooLarge
		default:
			end = e.Offset + e.Size
		}
	}
	return nil
}

// room is the disk space that new bytes at [from, to) take. untouched: the
// file holds what it held before the transaction.
func (b *binder) room(n *node, untouched bool, from, to int64) (int64, error) {
	if untouched && !n.fresh {
		room, err := b.view.Room(n.Attr.Ino, from, to)
		if err != nil {
			return 0, &ViewError{err}
		}
		return room, nil
	}
	first, end := from/wire.BlockSize, (to+wire.BlockSize-1)/wire.BlockSize
	return (end - first) * wire.BlockSize, nil
}

// preserve sees to what a redo of the file's contents so far reads, before
// bytes up to end are written in place.
func (b *binder) preserve(n *node, end int64, at wire.At) error {
	var err error
	if n.contents == nil || n.contents.base == baseView {
		if !n.fresh {
			err = b.view.Preserve(n.Attr.Ino, 0, end)
		}
	}
	if n.contents != nil {
		for _, id := range n.contents.stages {
			if err == nil {
				err = b.view.Preserve(0, id, end)
			}
		}
	}
	if err != nil {
		return refusal(err, at)
	}
	return nil
}

// changeRange binds allocate, punchHole and zeroRange.
func (b *binder) changeRange(m *wire.Mutation) error {
	f, err := b.resolve(m.At, false)
	if err != nil {
		return err
	}
	if f.ino == 0 {
		return no(wire.CodeNotExist, m.At, "")
	}
	if err := regular(m.At, f.node); err != nil {
		return err
	}
	if err := b.need(inodeKey(f.ino), true, m.At); err != nil {
		return err
	}
	if err := version(m, f.node); err != nil {
		return err
	}
	punch, n := m.Kind == wire.MutPunchHole, f.node
	switch {
	case m.Offset < 0 || m.Length <= 0:
		return no(wire.CodeInvalid, m.At, fmt.Sprintf("a range of %d bytes at %d", m.Length, m.Offset))
	case !punch && (m.Offset > wire.MaxFileSize || m.Length > wire.MaxFileSize-m.Offset):
		return no(wire.CodeTooLarge, m.At, fmt.Sprintf("a file has at most %d bytes", int64(wire.MaxFileSize)))
	case !punch && m.Length > wire.MaxRange:
		return no(wire.CodeTooLarge, m.At, fmt.Sprintf("a range of more than %s at once; do it in parts", wire.SizeText(wire.MaxRange)))
	}
	end := n.Attr.Size
	if m.Length < end-m.Offset || !punch && !m.KeepSize {
		end = m.Offset + m.Length
	}
	bd := Bound{Kind: m.Kind, Ino: f.ino, Offset: min(m.Offset, end)}
	bd.Length = end - bd.Offset
	if err := b.bindRange(m, n, &bd, end); err != nil {
		return err
	}
	b.done(bd, false)
	return nil
}

// bindRange enters a range up to end into the file and its bound.
func (b *binder) bindRange(m *wire.Mutation, n *node, bd *Bound, end int64) (err error) {
	if m.Kind != wire.MutPunchHole && bd.Length > 0 {
		if bd.Room, err = b.room(n, n.contents == nil, bd.Offset, end); err != nil {
			return err
		}
	}
	if err := b.preserve(n, end, m.At); err != nil {
		return err
	}
	n.resize(max(n.Attr.Size, end))
	bd.Size = n.Attr.Size
	n.Attr.Version = b.prepare.Tx
	if m.Kind == wire.MutAllocate || bd.Length == 0 {
		n.change() // holes of it are data now
		return nil
	}
	n.patch(patch{from: bd.Offset, to: end})
	bd.Sums, err = b.sums(n, partial(bd.Offset, end, n.Attr.Size), m.At)
	return err
}

// regular refuses what has no contents.
func regular(at wire.At, n *node) error {
	switch {
	case isType(n, wire.ModeDir):
		return no(wire.CodeIsDir, at, "")
	case !isType(n, wire.ModeRegular):
		return no(wire.CodeInvalid, at, "it is no regular file")
	}
	return nil
}
