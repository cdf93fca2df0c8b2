package client

import (
	"context"
	"errors"
	"fmt"

	"tpcfs/wire"
)

// Ahead are contents on their way to the participants while they are still
// being made, for a Transact that comes later: a head start. Nobody sees them
// before, and they may be lost at any time, so whoever makes them keeps them. It
// is not safe for concurrent use. (An alias, as Content is.)
type Ahead = interface {
	// Write adds to what was written. It waits for the participants when they
	// are behind. After an error the head start is lost; Abort is still to be called.
	Write(p []byte) (int, error)
	// Of ends it: content, whose bytes are all that was written, as a content
	// that Transact sends only if the participants have it no more. After an
	// error content has to be sent as it is.
	Of(content Content) (Content, error)
	// Abort gives it up. It does nothing after Of has succeeded.
	Abort()
}

// ErrAheadOver: what was sent ahead is complete, or given up.
var ErrAheadOver = errors.New("the contents that were sent ahead are complete or given up")

// Ahead begins to send contents that will begin at the offset at, in bytes, of
// a file called name in errors. It ends with ctx; Of or Abort has to be called. One that
// nothing is written to for some minutes, or, while others wait to write
// large contents, for 10 seconds, is lost.
func (c *Client) Ahead(ctx context.Context, name string, at int64) (Ahead, error) {
	up, err := c.upload(ctx, name, at%wire.BlockSize, nil)
	if err != nil {
		return nil, err
	}
	return &ahead{ctx: ctx, up: up}, nil
}

type ahead struct {
	ctx  context.Context // the caller's
	up   *upload
	cur  []byte // the piece being filled
	over bool
}

func (a *ahead) Write(p []byte) (n int, err error) {
	for !a.over && n < len(p) {
		if a.cur == nil {
			a.cur = a.up.buffer()
		}
		k := min(len(p)-n, wire.PieceSize-len(a.cur))
		a.cur = append(a.cur, p[n:n+k]...)
		if len(a.cur) == wire.PieceSize {
			if err := a.flush(); err != nil {
				return n, err
			}
		}
		n += k
	}
	if a.over {
		return n, ErrAheadOver
	}
	return n, nil
}

func (a *ahead) flush() error {
	piece := a.cur
	a.cur = nil
	if a.up.send(a.ctx, piece) {
		return nil
	}
	if a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	return a.up.lost()
}

func (a *ahead) Of(content Content) (Content, error) {
	if a.over {
		return content, ErrAheadOver
	}
	if err := a.ctx.Err(); err != nil { // also where all of it has been sent
		return content, err
	}
	if len(a.cur) > 0 {
		if err := a.flush(); err != nil {
			return content, err
		}
	}
	a.over = true
	close(a.up.in)
	<-a.up.ended
	if a.up.err != nil {
		return content, a.up.err
	}
	if got, want := a.up.reply.Size, content.Size(); got != want {
		return content, wire.NewError(wire.CodeInvalid, fmt.Sprintf("%d bytes were sent ahead, of contents of %d", got, want))
	}
	return begun{content, staged(a.up.reply)}, nil
}

func (a *ahead) Abort() {
	a.over = true
	a.up.cancel()
	<-a.up.ended
}

// begun is a content that was sent ahead.
type begun struct {
	Content
	staged staged
}

// staged is what the participants have.
type staged wire.StageReply

// describe puts it into the mutation that writes it.
func (s staged) describe(m *wire.Mutation) {
	if len(m.Extents) > 0 {
		m.Extents[0].Stage, m.Extents[0].Sum = s.ID, s.Sum
		return
	}
	m.Content = wire.Content{Size: s.Size, Stage: s.ID, Sum: s.Sum}
}

// taken gives the contents as they are, and apart from them, by index, what was
// sent ahead of them.
func taken(contents []Content) (list []Content, ahead map[int]staged) {
	list = contents
	for i, c := range contents {
		b, ok := c.(begun)
		if !ok {
			continue
		}
		if ahead == nil {
			list, ahead = append([]Content(nil), contents...), map[int]staged{}
		}
		list[i], ahead[i] = b.Content, b.staged
	}
	return list, ahead
}
