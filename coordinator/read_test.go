package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tpcfs/wire"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
	return b
}

// stage brings contents to all nodes and commits them as name.
func (k *cluster) putStaged(name string, data []byte) {
	k.t.Helper()
	r, err := k.c.Stage(ctx, k.me, wire.StageRequest{Size: int64(len(data)), Link: k.link, Name: name}, pieces(data))
	if err != nil {
		k.t.Fatal(err)
	}
	m := write(name, nil)
	m.Content = wire.Content{Size: r.Size, Stage: r.ID, Sum: r.Sum}
	if _, err := k.c.Transact(ctx, k.request(0, m), nil); err != nil {
		k.t.Fatal(err)
	}
}

// file is what a read of name gives.
func (k *cluster) file(name string) nodeFile {
	k.t.Helper()
	var w contents
	reply, err := k.c.Read(ctx, readReq(name), &w)
	if err != nil {
		k.t.Fatal(err)
	}
	return nodeFile{w.data, reply.Attr.Version}
}

// Reads are spread over all participants.
func TestReadsAreSpread(t *testing.T) {
	k := newCluster(t).serve()
	k.put("x", []byte("1"))
	var counts [3]atomic.Int32
	for i, n := range k.nodes {
		n.set(func() {
			n.onRead = func(wire.PositionedRead, wire.PieceWriter) (wire.ReadReply, bool, error) {
				counts[i].Add(1)
				return wire.ReadReply{}, false, nil
			}
		})
	}
	for range 300 {
		k.wantGet("x", []byte("1"))
	}
	for i := range counts {
		if n := counts[i].Load(); n < 50 {
			t.Errorf("participant %d answered %d of 300", i, n)
		}
	}
}

// A read that fails in the middle goes on elsewhere, where it was (G7, W5).
func TestFailOver(t *testing.T) {
	data := randomBytes(5*wire.PieceSize + 77)
	for name, failure := range map[string]error{
		"lost":    errLost,
		"rotten":  wire.NewError(wire.CodeCorrupt, "a rotten block"),
		"io":      wire.NewError(wire.CodeIO, "the disk is gone"),
		"unknown": errors.New("something else"),
	} {
		for _, length := range []int64{-1, 3*wire.PieceSize + 5, 2 * wire.PieceSize} {
			t.Run(fmt.Sprint(name, length), func(t *testing.T) {
				k := newCluster(t).serve()
				k.putStaged("big", data)
				f := k.file("big")
				var failures atomic.Int32
				for _, n := range k.nodes[:2] {
					n.set(func() {
						n.onRead = func(req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, bool, error) {
							failures.Add(1)
							if err := givePieces(f, req.Read, w, 2); err != nil {
								return wire.ReadReply{}, true, err
							}
							return wire.ReadReply{}, true, failure
						}
					})
				}
				for range 8 { // whichever is asked first
					var w contents
					req := readReq("big")
					req.Length = length
					reply, err := k.c.Read(ctx, req, &w)
					want := data
					if length >= 0 {
						want = data[:length]
					}
					if err != nil || !bytes.Equal(w.data, want) || len(w.versions) != 1 || reply.Attr.Size != int64(len(data)) {
						t.Fatalf("%d of %d bytes, %v", len(w.data), len(want), err)
					}
				}
				if failures.Load() == 0 {
					t.Error("nothing failed")
				}
			})
		}
	}
}

// A file that changes while its read moves to another participant begins
// again with the new version, also when all bytes of the old one had been
// passed on; a client that asked for one version is told.
func TestChangedDuringFailOver(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		for _, given := range []int{1, -1} {
			k := newCluster(t).serve()
			first, second := randomBytes(3*wire.PieceSize), randomBytes(2*wire.PieceSize+1)
			k.putStaged("big", first)
			f := k.file("big")
			var once atomic.Bool
			for _, n := range k.nodes {
				n.set(func() {
					n.onRead = func(req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, bool, error) {
						if once.Swap(true) {
							return wire.ReadReply{}, false, nil
						}
						if err := givePieces(f, req.Read, w, given); err != nil {
							return wire.ReadReply{}, true, err
						}
						k.putStaged("big", second)
						return wire.ReadReply{}, true, errLost
					}
				})
			}
			var w contents
			req := readReq("big")
			if fixed {
				req.IfVersion = f.version
			}
			_, err := k.c.Read(ctx, req, &w)
			if fixed {
				wantCode(t, err, wire.CodeChanged, "big")
				continue
			}
			if err != nil || !bytes.Equal(w.data, second) || len(w.versions) != 2 {
				t.Errorf("%d bytes, versions %v, %v", len(w.data), w.versions, err)
			}
		}
	}
}

// A file that always changes ends with an error, not with a read for ever.
func TestAlwaysChanging(t *testing.T) {
	k := newCluster(t).serve()
	k.put("x", []byte("1"))
	for _, n := range k.nodes {
		n.set(func() {
			n.onRead = func(wire.PositionedRead, wire.PieceWriter) (wire.ReadReply, bool, error) {
				return wire.ReadReply{}, true, wire.NewError(wire.CodeChanged, "")
			}
		})
	}
	_, err := k.c.Read(ctx, readReq("x"), &contents{})
	wantCode(t, err, wire.CodeChanged, "x", "times")
}

func TestAllRotten(t *testing.T) {
	k := newCluster(t).serve()
	k.put("x", []byte("1"))
	for _, n := range k.nodes {
		n.set(func() {
			n.onRead = func(wire.PositionedRead, wire.PieceWriter) (wire.ReadReply, bool, error) {
				return wire.ReadReply{}, true, wire.NewError(wire.CodeCorrupt, "block 0 of x")
			}
		})
	}
	_, err := k.c.Read(ctx, readReq("x"), &contents{})
	wantCode(t, err, wire.CodeCorrupt, "x", "block 0")
}

// What a participant sends out of order, or of two versions, goes no further.
func TestLyingParticipant(t *testing.T) {
	k := newCluster(t).serve()
	data := randomBytes(wire.PieceSize + 1)
	k.putStaged("x", data)
	f := k.file("x")
	lies := []func(w wire.PieceWriter) error{
		func(w wire.PieceWriter) error {
			return w.WritePiece(wire.Piece{Version: f.version, Offset: 5, Data: data[:5]})
		},
		func(w wire.PieceWriter) error {
			return w.WritePiece(wire.Piece{Version: f.version, Data: make([]byte, wire.PieceSize+1)})
		},
	}
	for _, lie := range lies {
		for _, n := range k.nodes[:2] {
			n.set(func() {
				n.onRead = func(req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, bool, error) {
					if err := lie(w); err != nil {
						return wire.ReadReply{}, true, err
					}
					return wire.ReadReply{}, true, errors.New("the lie was taken")
				}
			})
		}
		for range 10 {
			k.wantGet("x", data)
		}
	}
}

// A client that takes no more ends the read; nobody else is asked.
func TestReaderGone(t *testing.T) {
	k := newCluster(t).serve()
	k.put("x", []byte("1"))
	gone := errors.New("gone")
	_, err := k.c.Read(ctx, readReq("x"), &contents{fail: gone})
	if err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("%v", err)
	}
}

// A participant that hangs delays a read until its connection is given up, not
// for ever; a wait that is over ends it before.
func TestHangingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("1"))
		for _, n := range k.nodes[:2] {
			n.set(func() { n.hang = true })
		}
		var began time.Time
		for range 10 { // each may try both, until they count as silent
			began = time.Now()
			k.wantGet("x", []byte("1"))
			if d, most := time.Since(began), 2*(k.c.o.EvictAfter+200*time.Millisecond); d > most {
				t.Errorf("a read took %v, more than %v", d, most)
			}
		}
		k.nodes[2].set(func() { k.nodes[2].hang = true })
		req := readReq("x")
		req.Wait = 500
		began = time.Now()
		_, err := k.c.Read(ctx, req, &contents{})
		wantCode(t, err, wire.CodeUnavailable, "x")
		if d := time.Since(began); d > 600*time.Millisecond {
			t.Errorf("took %v", d)
		}
		cctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		_, err = k.c.Read(cctx, readReq("x"), &contents{})
		wantCode(t, err, wire.CodeCanceled)
		k.close()
	})
}

// A participant whose disk hangs, so that it gives nothing that is to be read there
// though its connection is there, keeps a read waiting for EvictSlow, and others for a while
// not at all. One that all keep waiting is answered when one gives something again.
func TestReadsGoOnWithoutWhoGivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("1"))
		slow := k.c.o.EvictSlow
		for _, n := range k.nodes[:2] {
			n.set(func() { n.stuck = true })
		}
		late := 0
		req := readReq("x")
		req.Wait = (2*slow + time.Second).Milliseconds()
		for range 100 {
			began := time.Now()
			if _, err := k.c.Read(ctx, req, &contents{}); err != nil {
				t.Fatal(err)
			}
			if time.Since(began) > 0 {
				late++
			}
		}
		if late == 0 || late > 2 {
			t.Errorf("%d of 100 reads have waited", late)
		}
		k.nodes[2].set(func() { k.nodes[2].stuck = true })
		req.Wait = (5 * slow).Milliseconds()
		began := time.Now()
		_, err := k.c.Read(ctx, req, &contents{})
		wantCode(t, err, wire.CodeUnavailable, "x")
		if d := time.Since(began); d < 5*slow {
			t.Errorf("given up after %v", d)
		}
		time.AfterFunc(25*time.Second, func() {
			for _, n := range k.nodes[:2] {
				n.set(func() { n.stuck = false })
			}
		})
		began = time.Now()
		k.wantGet("x", []byte("1"))
		if d := time.Since(began); d > 6*slow {
			t.Errorf("with two that give something again, a read took %v", d)
		}
		k.close()
	})
}

// The only sound copy may be that of a participant that gives nothing for long: a read does
// not end with what the others have found rotten, but asks it again.
func TestRottenButWhereItIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t).serve()
		k.put("x", []byte("1"))
		for _, n := range k.nodes[:2] {
			n.set(func() {
				n.onRead = func(wire.PositionedRead, wire.PieceWriter) (wire.ReadReply, bool, error) {
					return wire.ReadReply{}, true, wire.NewError(wire.CodeCorrupt, "a rotten block")
				}
			})
		}
		n := k.nodes[2]
		n.set(func() { n.stuck = true })
		time.AfterFunc(k.c.o.EvictSlow/2, func() { n.set(func() { n.stuck = false }) })
		k.wantGet("x", []byte("1"))
		k.close()
	})
}

// Nobody is left by a read that goes on, however slowly, nor because its client takes its time.
func TestSlowReadsStay(t *testing.T) {
	for _, who := range []string{"participant", "client"} {
		synctest.Test(t, func(t *testing.T) {
			k := newCluster(t).serve()
			data := randomBytes(5 * wire.PieceSize)
			k.putStaged("big", data)
			f := k.file("big")
			most := k.c.o.EvictSlow - time.Millisecond
			reads := 0
			for _, n := range k.nodes {
				n.set(func() {
					n.onRead = func(req wire.PositionedRead, w wire.PieceWriter) (wire.ReadReply, bool, error) {
						reads++
						for at := range int64(5) {
							if who == "participant" {
								time.Sleep(most)
							}
							part := req.Read
							part.Offset, part.Length = at*wire.PieceSize, wire.PieceSize
							if err := givePieces(f, part, w, 1); err != nil {
								return wire.ReadReply{}, true, err
							}
						}
						return wire.ReadReply{}, true, nil
					}
				})
			}
			var w takesTime
			if who == "client" {
				w.by = 2 * most
			}
			if _, err := k.c.Read(ctx, readReq("big"), &w); err != nil || !bytes.Equal(w.data, data) || reads != 1 {
				t.Errorf("%s: %d bytes by %d participants, %v", who, len(w.data), reads, err)
			}
			k.close()
		})
	}
}

// takesTime is contents of a client that takes its time.
type takesTime struct {
	contents
	by time.Duration
}

func (w *takesTime) WritePiece(p wire.Piece) error {
	time.Sleep(w.by)
	return w.contents.WritePiece(p)
}
