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

// taker is a client that takes contents in its own time, by a link of its own.
type taker struct {
	contents
	link  wire.UUID
	pause time.Duration // before each piece but the first; negative: for ever

	end    context.Context
	giveUp context.CancelFunc
}

func newTaker(link byte, pause time.Duration) *taker {
	w := &taker{link: wire.UUID{link}, pause: pause}
	w.end, w.giveUp = context.WithCancel(context.Background())
	return w
}

func (w *taker) Link() wire.UUID { return w.link }
func (w *taker) Interrupt()      { w.giveUp() }

func (w *taker) WritePiece(p wire.Piece) error {
	var after <-chan time.Time
	if w.pause >= 0 {
		after = time.After(w.pause)
	}
	if p.Offset > 0 {
		select {
		case <-after:
		case <-w.end.Done():
			return wire.NewError(wire.CodeCanceled, "interrupted")
		}
	}
	return w.contents.WritePiece(p)
}

// reads starts a read; its answer comes by the channel.
func (k *cluster) reads(name string, length int64, w wire.PieceWriter) chan error {
	answer := make(chan error, 1)
	req := readReq(name)
	req.Length = length
	go func() {
		_, err := k.c.Read(ctx, req, w)
		answer <- err
	}()
	synctest.Wait()
	return answer
}

// readsOf counts the nodes' reads that are under way.
func (k *cluster) readsOf() *atomic.Int32 {
	under := new(atomic.Int32)
	for _, n := range k.nodes {
		n.set(func() {
			n.onRead = func(req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, bool, error) {
				under.Add(1)
				defer under.Add(-1)
				n.mu.Lock()
				f := n.files[req.Read.At.Path]
				n.mu.Unlock()
				if err := givePieces(f, req.Read, w, -1); err != nil {
					return wire.ReadReply{}, true, err
				}
				return wire.ReadReply{Attr: wire.Attr{Size: int64(len(f.data)), Version: f.version}}, true, nil
			}
		})
	}
	return under
}

// Who stops taking keeps its place while nobody wants it; then it loses it, and
// those who go on taking theirs do not. Those who wait hold no participant, and
// what fits in a piece never waits.
func TestAStoppedReaderMakesRoom(t *testing.T) {
	for _, length := range []int64{-1, 5 * wire.PieceSize} {
		synctest.Test(t, func(t *testing.T) {
			k := newCluster(t)
			k.o.MaxReads = 3
			k.serve()
			big := bytes.Repeat([]byte("0123456789abcdef"), 5*wire.PieceSize/16)
			k.putStaged("big", big)
			k.put("small", []byte("s"))
			under := k.readsOf()
			stopped := k.reads("big", length, newTaker(1, -1))
			time.Sleep(time.Second)
			late := k.reads("big", length, newTaker(2, -1))
			steady := newTaker(3, patience-time.Second)
			goesOn := k.reads("big", length, steady)
			time.Sleep(30 * time.Second)
			synctest.Wait()
			for _, c := range []chan error{stopped, late} {
				if len(c) > 0 {
					t.Fatal("nobody waits, and it ends:", <-c)
				}
			}
			began := time.Now()
			var good []chan error
			var got []*taker
			for i := range byte(2) {
				got = append(got, newTaker(10+i, 0))
				good = append(good, k.reads("big", length, got[i]))
			}
			if n := under.Load(); n > 3 {
				t.Errorf("%d reads are at the participants", n)
			}
			k.wantGet("small", []byte("s"))
			if time.Since(began) > 0 {
				t.Error("a small read has waited")
			}
			for i, c := range good {
				if err := within(t, time.Minute, c); err != nil || !bytes.Equal(got[i].data, big) {
					t.Errorf("a good client: %d bytes, %v", len(got[i].data), err)
				}
			}
			if d := time.Since(began); d > patience {
				t.Errorf("a good client waited %v", d)
			}
			wantCode(t, within(t, time.Second, stopped), wire.CodeUnavailable, "big", "128 KiB", "10s", "others waited")
			if err := within(t, 2*time.Minute, goesOn); err != nil || !bytes.Equal(steady.data, big) {
				t.Error("it took what it should:", err)
			}
			if len(late) > 0 { // one place was enough
				t.Error("nobody waits any more, and it ended:", <-late)
			}
			k.close()
			if err := <-late; err == nil {
				t.Error("it took nothing")
			}
			if n := under.Load(); n != 0 {
				t.Errorf("%d reads are left at the participants", n)
			}
		})
	}
}

// A link that has all places does not get the next one before another that has
// none, and a wait for a place ends when the request's does.
func TestReadersGoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t)
		k.o.MaxReads = 2
		k.serve()
		k.putStaged("big", make([]byte, 9*wire.PieceSize))
		var greedy []chan error
		for range 6 {
			greedy = append(greedy, k.reads("big", -1, newTaker(1, time.Second)))
		}
		req := readReq("big")
		req.Wait = 1500
		_, err := k.c.Read(ctx, req, newTaker(1, 0))
		wantCode(t, err, wire.CodeUnavailable, "big", "too many large files")
		wantShared(t, func() chan error { return k.reads("big", -1, newTaker(2, 0)) }, greedy)
		k.close()
	})
}

// A read that loses its participant keeps its place, and one that ends gives it
// back, however it ends.
func TestPlacesOfReadsThatEnd(t *testing.T) {
	k := newCluster(t)
	k.o.MaxReads = 1
	k.serve()
	k.putStaged("big", randomBytes(3*wire.PieceSize))
	f := k.file("big")
	for _, n := range k.nodes[:2] {
		n.set(func() {
			n.onRead = func(req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, bool, error) {
				if err := givePieces(f, req.Read, w, 1); err != nil {
					return wire.ReadReply{}, true, err
				}
				return wire.ReadReply{}, true, errLost
			}
		})
	}
	for i := range 20 {
		w := &contents{}
		if i%2 == 1 {
			w.fail = io.ErrClosedPipe
		}
		if _, err := k.c.Read(ctx, readReq("big"), w); (err != nil) != (i%2 == 1) {
			t.Fatal(i, err)
		}
	}
	if p := k.c.large; len(p.held)+len(p.count)+len(p.waiting) != 0 {
		t.Errorf("left: %d held, %d counted, %d waiting", len(p.held), len(p.count), len(p.waiting))
	}
}
