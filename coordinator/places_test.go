package coordinator

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

// patience is the default.
const patience = 10 * time.Second

// drip is a client that brings its contents in its own time.
type drip struct {
	piece  int           // bytes each
	pause  time.Duration // before each; 0: for ever
	times  int
	at     int64
	end    context.Context
	giveUp context.CancelFunc
}

func newDrip(piece int, pause time.Duration, times int) *drip {
	d := &drip{piece: piece, pause: pause, times: times}
	d.end, d.giveUp = context.WithCancel(context.Background())
	return d
}

func (d *drip) Interrupt() { d.giveUp() }

func (d *drip) ReadPiece() (wire.Piece, error) {
	if d.times == 0 {
		return wire.Piece{}, io.EOF
	}
	var after <-chan time.Time
	if d.pause > 0 {
		after = time.After(d.pause)
	}
	select {
	case <-after:
	case <-d.end.Done():
		return wire.Piece{}, wire.NewError(wire.CodeCanceled, "interrupted")
	}
	d.times--
	data := bytes.Repeat([]byte{7}, d.piece)
	p := wire.Piece{Offset: d.at, Sum: wire.Sum(data), Data: data}
	d.at += int64(d.piece)
	return p, nil
}

// stages starts stages of a new session; the answers come by the channels.
func (k *cluster) stages(session byte, in ...wire.PieceReader) []chan error {
	k.t.Helper()
	id := wire.SessionID{0x55, session}
	a, err := k.c.Attach(ctx, wire.Attach{Session: id})
	if err != nil {
		k.t.Fatal(err)
	}
	var answers []chan error
	for _, r := range in {
		answer := make(chan error, 1)
		answers = append(answers, answer)
		go func() {
			_, err := k.c.Stage(ctx, id, wire.StageRequest{Size: -1, Link: a.Link, Name: "big"}, r)
			answer <- err
		}()
		synctest.Wait()
	}
	return answers
}

// within waits for an answer, a bounded time.
func within(t *testing.T, d time.Duration, answer chan error) error {
	t.Helper()
	select {
	case err := <-answer:
		return err
	case <-time.After(d):
		t.Fatalf("no answer within %v", d)
		return nil
	}
}

// Whose contents do not come keeps its place while nobody wants it; then it
// loses it, with a word, and those who go on bringing theirs do not.
func TestASilentStageMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.MaxStages = 3
		k.serve()
		silent := k.stages(1, newDrip(1, 0, 1))[0]
		trickle := k.stages(2, newDrip(1, time.Second, 1<<40))[0]
		steady := k.stages(3, newDrip(leastFlow, patience-time.Second, 20))[0]
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for _, c := range []chan error{silent, trickle, steady} {
			if len(c) > 0 {
				t.Fatal("nobody waits, and it ends:", <-c)
			}
		}
		began := time.Now()
		for i := range byte(2) {
			if err := within(t, time.Minute, k.stages(10+i, pieces(bytes.Repeat([]byte{i}, 9*wire.PieceSize)))[0]); err != nil {
				t.Error("a good client:", err)
			}
		}
		if d := time.Since(began); d > patience {
			t.Errorf("a good client waited %v", d)
		}
		wantCode(t, within(t, time.Second, silent), wire.CodeUnavailable, "64 KiB", "10s", "nothing changed", "big")
		late := []chan error{k.stages(4, newDrip(1, 0, 1))[0], k.stages(5, newDrip(1, 0, 1))[0]}
		wantCode(t, within(t, time.Second, trickle), wire.CodeUnavailable, "64 KiB")
		if err := within(t, 2*time.Minute, steady); err != nil {
			t.Error("it brought what it should:", err)
		}
		k.close()
		for _, c := range late {
			if err := <-c; err == nil {
				t.Error("it brought nothing")
			}
		}
	})
}

// Nobody is put out before its time.
func TestNobodyIsPutOutEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.MaxStages = 1
		k.serve()
		first := k.stages(1, newDrip(wire.PieceSize, patience-time.Millisecond, 20))[0]
		time.Sleep(patience * 3 / 4)
		second := k.stages(2, pieces([]byte("x")))[0]
		if err := within(t, 5*time.Minute, first); err != nil {
			t.Error(err)
		}
		if err := within(t, time.Second, second); err != nil {
			t.Error(err)
		}
		k.close()
	})
}

// A session that has all places does not get the next one before another that
// has none, however long its own requests have waited.
func TestPlacesGoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.MaxStages = 2
		k.serve()
		var in []wire.PieceReader
		for range 6 {
			in = append(in, newDrip(wire.PieceSize, time.Second, 8))
		}
		greedy := k.stages(1, in...)
		wantShared(t, func() chan error { return k.stages(2, pieces([]byte("x")))[0] }, greedy)
		k.close()
	})
}

// wantShared: who comes after a client that wants all places gets the next one
// that is free, and that client still gets its own.
func wantShared(t *testing.T, comes func() chan error, greedy []chan error) {
	t.Helper()
	began := time.Now()
	if err := within(t, time.Minute, comes()); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 9*time.Second {
		t.Errorf("it waited %v for its first place", d)
	}
	for _, c := range greedy {
		if err := within(t, time.Minute, c); err != nil {
			t.Error(err)
		}
	}
}

// Who gives up waiting leaves nothing behind, also when it is given a place at
// that moment.
func TestGivingUpAPlace(t *testing.T) {
	p := newPlaces(1, patience, "busy")
	held, err := p.take(ctx, ctx, owner{1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		waits, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if pl, err := p.take(waits, ctx, owner{2}); err == nil {
				pl.release()
			}
		}()
		if i%2 == 0 {
			go held.release()
		}
		cancel()
		<-done
		if i%2 == 0 {
			held.release() // twice is once
			if held, err = p.take(ctx, ctx, owner{1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	held.release()
	if len(p.held) != 0 || len(p.count) != 0 || len(p.waiting) != 0 {
		t.Errorf("left: %d held, %d counted, %d waiting", len(p.held), len(p.count), len(p.waiting))
	}
}

// A lost participant is told to the client at once, not with its next piece.
func TestALostParticipantDoesNotWaitForPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		var began atomic.Int32
		k.nodes[1].set(func() {
			k.nodes[1].onStage = func(wire.PieceReader) (wire.StageReply, bool, error) {
				began.Add(1)
				return wire.StageReply{}, false, nil
			}
		})
		answer := k.stages(1, newDrip(1, 0, 1))[0]
		if began.Load() != 1 {
			t.Fatal("it has not begun")
		}
		at := time.Now()
		k.nodes[1].kill()
		wantCode(t, within(t, time.Minute, answer), wire.CodeUnavailable, "participant b", "lost")
		if d := time.Since(at); d > time.Second {
			t.Errorf("after %v", d)
		}
		k.close()
	})
}
