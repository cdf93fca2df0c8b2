package client

import (
	"context"
	"fmt"
	"slices"

	"tpcfs/wire"
)

// Extent is a part of a file's new contents, at least one byte.
type Extent struct {
	Offset  int64 // bytes; in the file
	Content Content
}

// ExtentOptions say how parts of a file are written.
type ExtentOptions struct {
	WriteOptions
	// SetSize, if not nil: the size that the file gets before the extents go
	// into it, cut or with a hole at its end.
	SetSize *int64
}

// WriteExtents writes parts of a file, all of them at once; the rest stays.
// Extents are in the order of their offsets and do not overlap, at most
// wire.MaxExtents of them. A missing file is made as the options say. Symbolic
// links are followed. What it costs follows what is written, not how long the
// file is.
func (c *Client) WriteExtents(ctx context.Context, name string, extents []Extent, o ExtentOptions) (wire.Result, error) {
	m := o.mutation()
	m.Write = wire.WriteExtents
	if o.SetSize != nil {
		m.Set, m.Size = wire.SetSize, *o.SetSize
	}
	return c.writeParts(ctx, name, m, extents, o.Progress)
}

// Append writes at a file's end, wherever that is when it happens: of any
// number of clients that append none writes over another. The result tells
// where it began. A missing file is made. Symbolic links are followed.
func (c *Client) Append(ctx context.Context, name string, content Content, o WriteOptions) (wire.Result, error) {
	m := o.mutation()
	m.Write = wire.WriteAppend
	return c.writeParts(ctx, name, m, []Extent{{Content: content}}, o.Progress)
}

// Truncate sets a file's size, in bytes; what it adds is a hole. A symbolic
// link is followed.
func (c *Client) Truncate(ctx context.Context, name string, size int64) error {
	return c.SetAttr(ctx, name, wire.Mutation{Set: wire.SetSize, Size: size})
}

// Allocate makes [offset, offset+length) data, zeros where there was a hole; the
// file grows to the end of the range unless keepSize. A symbolic link is
// followed. As fallocate(2).
func (c *Client) Allocate(ctx context.Context, name string, offset, length int64, keepSize bool) error {
	return c.changeRange(ctx, "allocate", name, wire.Mutation{Kind: wire.MutAllocate, Offset: offset, Length: length, KeepSize: keepSize})
}

// PunchHole makes a hole of [offset, offset+length); the size stays. Blocks of
// wire.BlockSize become holes, parts of one zeros. A symbolic link is followed.
func (c *Client) PunchHole(ctx context.Context, name string, offset, length int64) error {
	return c.changeRange(ctx, "punchHole", name, wire.Mutation{Kind: wire.MutPunchHole, Offset: offset, Length: length})
}

// ZeroRange makes zeros, which are data, of [offset, offset+length); the file
// grows to the end of the range unless keepSize. A symbolic link is followed.
func (c *Client) ZeroRange(ctx context.Context, name string, offset, length int64, keepSize bool) error {
	return c.changeRange(ctx, "zeroRange", name, wire.Mutation{Kind: wire.MutZeroRange, Offset: offset, Length: length, KeepSize: keepSize})
}

func (c *Client) changeRange(ctx context.Context, op, name string, m wire.Mutation) error {
	return c.followLast(ctx, op, name, func(o *operation, attr wire.Attr) error {
		m.At = wire.At{Dir: attr.Ino}
		return o.mutate(m)
	})
}

// Data lists the ranges of a file that hold data, in order; all else is holes.
// Ranges are whole blocks of wire.BlockSize but for the last. CodeChanged if the
// file changes meanwhile. A symbolic link is followed.
func (c *Client) Data(ctx context.Context, name string) ([]wire.Range, error) {
	var list []wire.Range
	err := c.followLast(ctx, "data", name, func(o *operation, attr wire.Attr) error {
		list = nil
		req := wire.Read{Kind: wire.ReadData, At: wire.At{Dir: attr.Ino}}
		for {
			reply, err := o.read(req, nil)
			if err != nil {
				return err
			}
			for _, r := range reply.Ranges {
				if n := len(list); n > 0 && list[n-1].Offset+list[n-1].Length == r.Offset {
					list[n-1].Length += r.Length
				} else {
					list = append(list, r)
				}
				req.Offset = r.Offset + r.Length
			}
			if !reply.More || len(reply.Ranges) == 0 {
				return nil
			}
			req.IfVersion = reply.Attr.Version
		}
	})
	return list, err
}

// checkParts refuses extents with a content that cannot be theirs, and makes
// the list of them the transaction's own.
func (t *transaction) checkParts() error {
	for i, content := range t.contents {
		m := &t.muts[i]
		if content == nil || len(m.Extents) == 0 {
			continue
		}
		sum := int64(0)
		for k := range m.Extents {
			sum += m.Extents[k].Size
		}
		if sum != content.Size() || len(m.Extents) > 1 && sum > packContents {
			return &wire.Error{Code: wire.CodeInvalid, Op: "writeFile", Name: m.At.String(), Mutation: i,
				Text: fmt.Sprintf("%d extents of %d bytes with a content of %d, of several at most %d are allowed", len(m.Extents), sum, content.Size(), packContents)}
		}
		m.Extents = slices.Clone(m.Extents)
	}
	return nil
}

// describeInline notes what b, the bytes of m's content in the payload, sum to.
func describeInline(m *wire.Mutation, b []byte) {
	if len(m.Extents) == 0 {
		m.Content = wire.Content{Size: int64(len(b)), Sum: wire.Sum(b)}
		return
	}
	for k := range m.Extents {
		e := &m.Extents[k]
		e.Sum = wire.Sum(b[:e.Size])
		b = b[e.Size:]
	}
}

// stageOf is where the stage of a mutation's content is named.
func stageOf(m *wire.Mutation) *wire.ID {
	if len(m.Extents) > 0 {
		return &m.Extents[0].Stage
	}
	return &m.Content.Stage
}

// Expecter is a Content that knows where in its file it will begin, in bytes:
// of an append that is staged. Elsewhere participants have to read it again.
type Expecter interface{ Expected() int64 }

// placed is the content of m's only extent, for staging.
func placed(m *wire.Mutation, c Content) Content {
	if len(m.Extents) == 0 {
		return c
	}
	at := m.Extents[0].Offset
	if e, ok := c.(Expecter); ok && m.Write == wire.WriteAppend {
		at += e.Expected()
	}
	return skewed{c, at % wire.BlockSize}
}

// skewed is a content that begins within a block of its file.
type skewed struct {
	Content
	skew int64
}

// writeParts commits one writeFile of extents.
func (c *Client) writeParts(ctx context.Context, name string, m wire.Mutation, extents []Extent, report func(int64)) (wire.Result, error) {
	var t *transaction
	var outcome wire.Outcome
	err := c.follow(ctx, "writeFile", name, func(op *operation, path string) (err error) {
		m.At = wire.At{Dir: wire.RootIno, Path: path}
		if t == nil {
			if t, err = op.prepareParts(m, extents); err != nil {
				return err
			}
			t.report = report
		}
		if len(t.parts) > 0 && t.muts[0].Extents[t.parts[0].extent].Stage == 0 {
			attr, link, err := op.lstat(path)
			switch {
			case err != nil && wire.CodeOf(err) != wire.CodeNotExist:
				return err
			case link != nil:
				return link
			}
			t.guess(attr.Size)
		}
		t.o, t.muts[0].At = op, m.At
		outcome, err = only(t.commit())
		return err
	})
	if err != nil {
		return wire.Result{}, err
	}
	return outcome.Results[0], nil
}

// stagedPart is an extent whose bytes are staged.
type stagedPart struct {
	extent  int // of the transaction's only mutation
	content skewed
}

// prepareParts checks extents, and reads what travels with the request:
// everything up to wire.MaxInline bytes together, else the extents that fit.
func (o *operation) prepareParts(m wire.Mutation, extents []Extent) (*transaction, error) {
	if len(extents) > wire.MaxExtents {
		return nil, wire.NewError(wire.CodeTooMany, fmt.Sprintf("%d extents, at most %d are allowed: write them in parts", len(extents), wire.MaxExtents))
	}
	end := int64(0)
	for _, e := range extents {
		size := e.Content.Size()
		switch {
		case e.Offset < end:
			return nil, wire.NewError(wire.CodeInvalid, fmt.Sprintf("an extent at %d, where the one before it ends at %d", e.Offset, end))
		case size <= 0:
			return nil, wire.NewError(wire.CodeInvalid, fmt.Sprintf("an extent of %d bytes", size))
		case e.Offset > wire.MaxFileSize || size > wire.MaxFileSize-e.Offset:
			return nil, wire.NewError(wire.CodeTooLarge, fmt.Sprintf("a file of at least %d bytes, at most %d are allowed", e.Offset+size, int64(wire.MaxFileSize)))
		}
		end = e.Offset + size
	}
	t, err := o.prepare([]wire.Mutation{m}, nil)
	if err != nil {
		return nil, err
	}
	list := make([]wire.Extent, len(extents))
	for i, e := range extents {
		list[i] = wire.Extent{Offset: e.Offset, Size: e.Content.Size()}
		at := len(t.payload)
		if int64(at)+list[i].Size > wire.MaxInline {
			t.parts = append(t.parts, stagedPart{i, skewed{e.Content, e.Offset % wire.BlockSize}})
			continue
		}
		if t.payload, err = readInline(t.payload, e.Content); err != nil {
			return nil, err
		}
		list[i].Sum = wire.Sum(t.payload[at:])
	}
	t.muts[0].Extents = list
	return t, nil
}

// guess tells an append that is staged where the file ends now: should that be
// true still when it happens, participants need not read it again.
func (t *transaction) guess(size int64) {
	if t.muts[0].Write != wire.WriteAppend {
		return
	}
	for i := range t.parts {
		t.parts[i].content.skew = (size + t.muts[0].Extents[t.parts[i].extent].Offset) % wire.BlockSize
	}
}

// stageParts stages extents that are not with the participants yet.
func (t *transaction) stageParts(l *link) error {
	m := &t.muts[0]
	p := progress{report: t.report}
	for _, part := range t.parts {
		e := &m.Extents[part.extent]
		if stageHolds(e.Stage, l) {
			continue
		}
		r, err := t.o.c.stageOne(t.o.ctx, part.content, m.At.String(), p.part())
		if err != nil {
			return err
		}
		e.Stage, e.Sum = r.ID, r.Sum
	}
	return nil
}
