package coordinator

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

func (k *cluster) stage(data []byte, size int64) (wire.StageReply, error) {
	return k.c.Stage(ctx, k.me, wire.StageRequest{Size: size, Link: k.link, Name: "big"}, pieces(data))
}

func TestStage(t *testing.T) {
	k := newCluster(t).serve()
	for _, size := range []int{0, 1, wire.PieceSize, wire.PieceSize + 1, 40*wire.PieceSize + 3} {
		data := randomBytes(size)
		k.putStaged("big", data)
		k.wantGet("big", data)
		r, err := k.stage(data, -1) // a size that is not known before
		if err != nil || r.Size != int64(size) {
			t.Errorf("%d bytes: %+v, %v", size, r, err)
		}
	}
}

// The slowest participant sets the pace: what is in memory stays bounded.
func TestSlowStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		gate := make(chan struct{})
		k.nodes[1].set(func() {
			k.nodes[1].onStage = func(wire.PieceReader) (wire.StageReply, bool, error) {
				<-gate
				return wire.StageReply{}, false, nil
			}
		})
		data := randomBytes(50 * wire.PieceSize)
		in := pieces(data)
		done := make(chan error, 1)
		go func() {
			_, err := k.c.Stage(ctx, k.me, wire.StageRequest{Size: int64(len(data)), Link: k.link}, in)
			done <- err
		}()
		synctest.Wait()
		if taken := (len(data) - len(in.rest)) / wire.PieceSize; taken > pieceBuffers {
			t.Errorf("%d pieces were read while one participant had none", taken)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Error(err)
		}
		k.close()
	})
}

func TestStageRefusals(t *testing.T) {
	k := newCluster(t).serve()
	data := randomBytes(3 * wire.PieceSize)
	_, err := k.stage(data, int64(len(data))-1)
	wantCode(t, err, wire.CodeTooLarge, "big")
	_, err = k.stage(data, int64(len(data))+1)
	wantCode(t, err, wire.CodeInvalid, "announced")
	_, err = k.stage(data, wire.MaxFileSize+1)
	wantCode(t, err, wire.CodeTooLarge)
	for name, bad := range map[string]func(p *wire.Piece){
		"sum":    func(p *wire.Piece) { p.Sum++ },
		"offset": func(p *wire.Piece) { p.Offset++ },
		"empty":  func(p *wire.Piece) { p.Data = nil },
		"long":   func(p *wire.Piece) { p.Data = make([]byte, wire.PieceSize+1) },
	} {
		in := pieces(data)
		in.bad = bad
		_, err := k.c.Stage(ctx, k.me, wire.StageRequest{Size: -1, Link: k.link, Name: "big"}, in)
		if code := wire.CodeOf(err); code != wire.CodeCorrupt && code != wire.CodeProtocol {
			t.Errorf("%s: %v", name, err)
		}
		if name == "sum" && !strings.Contains(err.Error(), "on their way to the coordinator") {
			t.Errorf("who noticed? %v", err)
		}
	}
	_, err = k.c.Stage(ctx, k.me, wire.StageRequest{Size: 1, Link: k.link + 1}, pieces([]byte("x")))
	wantCode(t, err, wire.CodeReplaced)
	broken := errors.New("client gone")
	_, err = k.c.Stage(ctx, k.me, wire.StageRequest{Size: -1, Link: k.link}, failing{broken})
	if err == nil || !strings.Contains(err.Error(), "client gone") {
		t.Error(err)
	}
	k.close()
	for _, n := range k.nodes { // nothing of all that is left
		if len(n.staged) != 0 {
			t.Errorf("%s keeps %d staged objects", n.name, len(n.staged))
		}
	}
}

type failing struct{ err error }

func (f failing) ReadPiece() (wire.Piece, error) { return wire.Piece{}, f.err }

// A participant that fails or lies fails the attempt, named; nothing is left.
func TestStageFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		data := randomBytes(20 * wire.PieceSize)
		n := k.nodes[1]
		try := func(hook func(wire.PieceReader) (wire.StageReply, bool, error), code wire.Code, words ...string) {
			t.Helper()
			n.set(func() { n.onStage = hook })
			_, err := k.stage(data, -1)
			wantCode(t, err, code, words...)
			time.Sleep(time.Second) // a lost link is back
			for _, n := range k.nodes {
				n.set(func() {
					if len(n.staged) != 0 {
						t.Errorf("%s keeps %d staged objects after %v", n.name, len(n.staged), err)
					}
				})
			}
		}
		some := func(in wire.PieceReader) {
			for range 3 {
				if _, err := in.ReadPiece(); err != nil {
					t.Error(err)
				}
			}
		}
		try(func(in wire.PieceReader) (wire.StageReply, bool, error) {
			some(in)
			return wire.StageReply{}, true, wire.NewError(wire.CodeNoSpace, "full")
		}, wire.CodeNoSpace, "participant b", "big")
		try(func(in wire.PieceReader) (wire.StageReply, bool, error) {
			some(in)
			return wire.StageReply{}, true, wire.NewError(wire.CodeIO, "disk on fire")
		}, wire.CodeUnavailable, "participant b", "disk on fire", "nothing changed")
		try(func(in wire.PieceReader) (wire.StageReply, bool, error) {
			for {
				if _, err := in.ReadPiece(); errors.Is(err, io.EOF) {
					return wire.StageReply{Size: int64(len(data)), Sum: 42}, true, nil
				}
			}
		}, wire.CodeCorrupt, "participant b")
		try(func(in wire.PieceReader) (wire.StageReply, bool, error) {
			some(in)
			n.kill()
			n.revive()
			for {
				if _, err := in.ReadPiece(); err != nil {
					return wire.StageReply{}, true, err
				}
			}
		}, wire.CodeUnavailable, "participant b", "lost")
		n.set(func() { n.onStage = nil })
		k.putStaged("big", data)
		k.wantGet("big", data)
		k.close()
	})
}

// A participant whose heartbeats go on while nothing comes of the contents - its
// disk hangs - does not hold a stage for ever: not after some pieces, nor after all.
func TestAParticipantThatDoesNothingWithContentsEndsTheStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.StagePatience = 6 * time.Second
		k.serve()
		data := randomBytes(20 * wire.PieceSize)
		for _, takes := range []int{1, 4, 20, 21} { // the 21st is the end
			k.nodes[1].set(func() { k.nodes[1].takes = takes })
			began := time.Now()
			_, err := k.stage(data, int64(len(data)))
			wantCode(t, err, wire.CodeUnavailable, "participant b has done nothing for 6s", "nothing changed", "big")
			if d := time.Since(began); d < 6*time.Second || d > 7*time.Second {
				t.Errorf("it stopped at call %d: the stage ended after %v", takes, d)
			}
			time.Sleep(time.Second)
			for _, n := range k.nodes {
				n.set(func() {
					if len(n.staged) != 0 {
						t.Errorf("it stopped at call %d: %s keeps %d staged objects", takes, n.name, len(n.staged))
					}
				})
			}
		}
		k.nodes[1].set(func() { k.nodes[1].takes = 0 })
		k.putStaged("big", data)
		k.wantGet("big", data)
		k.close()
	})
}

// slowPieces gives each piece, and the end, after a pause.
type slowPieces struct {
	*piecesOf
	pause time.Duration
}

func (s slowPieces) ReadPiece() (wire.Piece, error) {
	time.Sleep(s.pause)
	return s.piecesOf.ReadPiece()
}

// Only what a participant itself takes counts: neither a slow client, nor another
// participant that is slow with each piece, ends a stage.
func TestWhoIsSlowButGoesOnEndsNoStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.StagePatience = 6 * time.Second
		k.serve()
		data := randomBytes(20 * wire.PieceSize)
		req := wire.StageRequest{Size: int64(len(data)), Link: k.link}
		if _, err := k.c.Stage(ctx, k.me, req, slowPieces{pieces(data), 8 * time.Second}); err != nil {
			t.Error("a slow client:", err)
		}
		waits := req
		waits.Wait = 1000 // ms; that is for the beginning
		if _, err := k.c.Stage(ctx, k.me, waits, slowPieces{pieces(data), 8 * time.Second}); err != nil {
			t.Error("a slow client whose wait is shorter:", err)
		}
		k.nodes[1].set(func() {
			k.nodes[1].onStage = func(in wire.PieceReader) (wire.StageReply, bool, error) {
				for {
					_, err := in.ReadPiece()
					time.Sleep(5 * time.Second)
					if err != nil {
						return wire.StageReply{Size: int64(len(data)), Sum: crc32.ChecksumIEEE(data)}, true, nil
					}
				}
			}
		})
		if _, err := k.c.Stage(ctx, k.me, req, pieces(data)); err != nil {
			t.Error("a slow participant:", err)
		}
		k.close()
	})
}

// A participant that is away when a stage is dropped is told when it is back: it
// may have kept half of the contents.
func TestALostParticipantDropsItsStageWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		n := k.nodes[1]
		n.set(func() {
			n.onStage = func(wire.PieceReader) (wire.StageReply, bool, error) {
				n.kill()
				time.Sleep(time.Second) // until that is noticed
				return wire.StageReply{}, true, errLost
			}
		})
		_, err := k.stage(randomBytes(wire.PieceSize), -1)
		wantCode(t, err, wire.CodeUnavailable, "participant b")
		told := func(n *node) (ids []wire.ID) {
			n.set(func() { ids = slices.Clone(n.unstage) })
			return ids
		}
		time.Sleep(time.Second)
		want := told(k.nodes[0])
		if len(want) != 1 || len(told(n)) != 0 {
			t.Fatalf("a was told to drop %v, b %v", want, told(n))
		}
		for range 2 { // told once, not at every link
			n.revive()
			time.Sleep(time.Second)
			if got := told(n); !slices.Equal(got, want) {
				t.Errorf("b was told to drop %v, want %v", got, want)
			}
			n.kill()
		}
		n.revive()
		time.Sleep(time.Second)
		k.close()
	})
}

// Too many at once wait for their turn, as long as they want to.
func TestStagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.MaxStages = 1
		k.serve()
		gate := make(chan struct{})
		var calls atomic.Int32
		for _, n := range k.nodes {
			n.set(func() {
				n.onStage = func(wire.PieceReader) (wire.StageReply, bool, error) {
					if calls.Add(1) <= 3 {
						<-gate
					}
					return wire.StageReply{}, false, nil
				}
			})
		}
		first := make(chan error, 1)
		go func() {
			_, err := k.stage([]byte("1"), 1)
			first <- err
		}()
		synctest.Wait()
		_, err := k.c.Stage(ctx, k.me, wire.StageRequest{Size: 1, Link: k.link, Wait: 100}, pieces([]byte("1")))
		wantCode(t, err, wire.CodeUnavailable, "too many")
		cctx, cancel := context.WithCancel(ctx)
		cancel()
		_, err = k.c.Stage(cctx, k.me, wire.StageRequest{Size: 1, Link: k.link}, pieces([]byte("1")))
		wantCode(t, err, wire.CodeCanceled)
		close(gate)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if _, err := k.stage([]byte("1"), 1); err != nil {
			t.Error(err)
		}
		k.close()
	})
}
