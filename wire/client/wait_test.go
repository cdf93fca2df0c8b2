package client

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// away is a coordinator's connection while a participant is away: of every
// stage it takes so many pieces into the buffers on the way, then it ends the
// call as end says. A pace slows the pieces down.
type away struct {
	*fakeConn
	pieces int
	pace   time.Duration
	end    func(ctx context.Context) error // nil: the stage goes on
}

func (a *away) Stage(ctx context.Context, session wire.SessionID, req wire.StageRequest, in wire.PieceReader) (wire.StageReply, error) {
	return a.fakeConn.Stage(ctx, session, req, &awayReader{a, ctx, in, 0})
}

type awayReader struct {
	a   *away
	ctx context.Context
	in  wire.PieceReader
	n   int
}

func (r *awayReader) ReadPiece() (wire.Piece, error) {
	time.Sleep(r.a.pace)
	if r.n++; r.n > r.a.pieces && r.a.end != nil {
		return wire.Piece{}, r.a.end(r.ctx)
	}
	return r.in.ReadPiece()
}

func dialAway(f *Fake, a away) func(context.Context) (Conn, error) {
	return func(ctx context.Context) (Conn, error) {
		conn, err := f.Dial(ctx)
		if err != nil {
			return nil, err
		}
		its := a
		its.fakeConn = conn.(*fakeConn)
		return &its, nil
	}
}

// A staged write with a participant away ends after the wait, although every
// attempt sends some bytes: the same ones again are no progress.
func TestStagedWriteEndsWhileAParticipantIsAway(t *testing.T) {
	const wait = 30 * time.Second
	missing := wire.NewError(wire.CodeUnavailable, "waits for participant c")
	for name, a := range map[string]away{
		"refused after some bytes":      {pieces: 8, end: func(context.Context) error { return missing }},
		"refused late":                  {pieces: 8, pace: time.Second, end: func(context.Context) error { return missing }},
		"lost after some bytes":         {pieces: 8, end: func(context.Context) error { return errLost }},
		"no answer after some bytes":    {pieces: 8, end: func(ctx context.Context) error { <-ctx.Done(); return wire.NewError(wire.CodeCanceled, "") }},
		"no answer before any of them":  {end: func(ctx context.Context) error { <-ctx.Done(); return wire.NewError(wire.CodeCanceled, "") }},
		"refused when all was taken in": {pieces: 16, end: func(context.Context) error { return missing }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewFake()
				f.wrong = t.Errorf
				c, err := New(t.Context(), dialAway(f, a), Options{Wait: wait})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				start := time.Now()
				limit := wait + stageGrace + 20*time.Second // one attempt's bytes at its pace are progress
				ctx, cancel := context.WithTimeout(t.Context(), 10*limit)
				defer cancel()
				_, err = c.WriteFile(ctx, "x", Bytes(make([]byte, 16*wire.PieceSize)), WriteOptions{})
				if took := time.Since(start); wire.CodeOf(err) != wire.CodeUnavailable || took < wait || took > limit {
					t.Fatalf("after %v: %v", took, err)
				}
				if len(f.tries) != 0 {
					t.Error("something was put")
				}
			})
		})
	}
}

// A write that goes on, however slowly, is none that waits.
func TestSlowStagedWriteGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake()
		f.wrong = t.Errorf
		c, err := New(t.Context(), dialAway(f, away{pace: 10 * time.Second}), Options{Wait: 15 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.WriteFile(t.Context(), "x", Bytes(make([]byte, 16*wire.PieceSize)), WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}
